//! The EL1 timers and the counter.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu::{self, MAX_CPUS};
use crate::gic;

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

/// How often each vCPU's virtual timer fired.
static FIRED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Returns the frequency of the counter in Hz.
pub fn frequency() -> u64 {
    crate::mrs!("cntfrq_el0")
}

/// Returns the virtual counter, read after everything before it.
pub fn now() -> u64 {
    cpu::isb();
    crate::mrs!("cntvct_el0")
}

/// Converts microseconds to ticks.
pub fn micros(micros: u64) -> u64 {
    (u128::from(micros) * u128::from(frequency()) / 1_000_000) as u64
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

/// Handles the virtual timer's interrupt: counts it and turns the timer off.
pub fn on_irq() {
    disarm();
    FIRED[cpu::index()].fetch_add(1, Relaxed);
}

/// Returns how often this vCPU's virtual timer fired.
pub fn fired() -> u64 {
    FIRED[cpu::index()].load(Relaxed)
}

/// Sleeps in WFI for at least `ticks`; needs [`on_irq`] called for [`VIRTUAL`].
pub fn sleep(ticks: u64) {
    let (before, deadline) = (fired(), now() + ticks);
    gic::enable(VIRTUAL);
    arm(deadline);
    cpu::sleep_until(|| fired() != before);
}

/// Busy-waits for `ticks`.
pub fn busy(ticks: u64) {
    let end = now() + ticks;
    while now() < end {}
}
