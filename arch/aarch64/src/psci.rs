//! The firmware's PSCI (DEN0022), as its caller: by SMC, because HVC would call ourselves.

use crate::regs::{smc, wfi};

const CPU_ON_64: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;

/// Starts the CPU with affinity `mpidr` at physical address `entry` with `context` in x0.
///
/// Fails with the firmware's code (DEN0022 5.2.2).
///
/// # Safety
/// `entry` is code that sets up a CPU from reset state with `context`, and `context` is what it expects and
/// stays valid until it has.
pub unsafe fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), i32> {
    match smc(CPU_ON_64, mpidr & 0xff_00ff_ffff, entry, context) as i32 {
        0 => Ok(()),
        code => Err(code),
    }
}

/// Switches the machine off; if the firmware does not, this CPU sleeps.
pub fn system_off() -> ! {
    smc(SYSTEM_OFF, 0, 0, 0);
    loop {
        wfi();
    }
}
