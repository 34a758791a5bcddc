//! The EL1 timers and the counter; the runtime uses the virtual ones.

use crate::cpu;

/// INTID of the virtual timer.
pub const VIRTUAL: u32 = 27;
/// INTID of the physical timer.
pub const PHYSICAL: u32 = 30;

/// CNTx_CTL.ENABLE.
pub const ENABLE: u64 = 1;
/// CNTx_CTL.IMASK.
pub const IMASK: u64 = 1 << 1;
/// CNTx_CTL.ISTATUS.
pub const ISTATUS: u64 = 1 << 2;

/// Returns the frequency of the counter in Hz.
pub fn frequency() -> u64 {
    crate::mrs!("cntfrq_el0")
}

/// Returns the virtual counter, read after everything before it.
pub fn now() -> u64 {
    cpu::isb();
    crate::mrs!("cntvct_el0")
}

/// Programs the virtual timer to fire at `deadline`.
pub fn arm(deadline: u64) {
    crate::msr!("cntv_cval_el0", deadline);
    crate::msr!("cntv_ctl_el0", ENABLE);
    cpu::isb();
}

/// Turns the virtual timer off.
pub fn disarm() {
    crate::msr!("cntv_ctl_el0", 0);
    cpu::isb();
}
