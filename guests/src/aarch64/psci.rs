//! Firmware calls by HVC: PSCI (DEN0022), SMCCC (DEN0028) and the hypervisor's own.

use core::arch::asm;

use super::start::secondary;
use crate::cpu;
use crate::start::machine;

/// PSCI_VERSION.
pub const VERSION: u64 = 0x8400_0000;
/// CPU_SUSPEND, 64-bit.
pub const CPU_SUSPEND: u64 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u64 = 0x8400_0002;
/// CPU_ON, 64-bit.
pub const CPU_ON: u64 = 0xc400_0003;
/// AFFINITY_INFO, 64-bit.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u64 = 0x8400_000a;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u64 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const SMCCC_ARCH_FEATURES: u64 = 0x8000_0001;

/// The call was done; also ON for AFFINITY_INFO.
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: i64 = -2;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;
/// ON_PENDING.
pub const ON_PENDING: i64 = -5;
/// AFFINITY_INFO's answer for a vCPU that is off.
pub const OFF: i64 = 1;

/// Calls `HVC #0` with x0 = `function` and up to three arguments; returns x0 to x3.
pub fn hvc(function: u64, args: [u64; 3]) -> [u64; 4] {
    let (mut x0, mut x1, mut x2, mut x3) = (function, args[0], args[1], args[2]);
    // SAFETY: the calling convention (DEN0028 2.6) lets a call change x0 to x17 at most; calls that start code elsewhere
    // are given entry points of the start code.
    unsafe {
        asm!("hvc #0", inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _,
            lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _,
            lateout("x15") _, lateout("x16") _, lateout("x17") _, options(nostack));
    }
    [x0, x1, x2, x3]
}

/// Calls a PSCI function and returns its status.
pub fn call(function: u64, args: [u64; 3]) -> i64 {
    // 32-bit functions return 32 bits, sign in bit 31.
    i64::from(hvc(function, args)[0] as i32)
}

/// What CPU_ON says when it does not start a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnError(pub i64);

/// Starts another vCPU in the runtime's entry.
pub fn cpu_on(cpu: usize) -> Result<(), OnError> {
    let entry = secondary as extern "C" fn() -> ! as usize as u64;
    match call(CPU_ON, [machine().ids[cpu], entry, cpu as u64]) {
        SUCCESS => Ok(()),
        status => Err(OnError(status)),
    }
}

/// Returns the status of AFFINITY_INFO for a vCPU.
pub fn affinity_info(cpu: usize) -> i64 {
    call(AFFINITY_INFO, [machine().ids[cpu], 0, 0])
}

/// Tells whether a vCPU is off.
pub fn is_off(cpu: usize) -> bool {
    affinity_info(cpu) == OFF
}

/// Powers the machine off.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, [0; 3]);
    halt()
}

/// Resets the machine.
pub fn system_reset() -> ! {
    call(SYSTEM_RESET, [0; 3]);
    halt()
}

/// Powers this vCPU off.
pub fn cpu_off() -> ! {
    call(CPU_OFF, [0; 3]);
    halt()
}

fn halt() -> ! {
    cpu::mask_irq();
    loop {
        cpu::idle();
    }
}
