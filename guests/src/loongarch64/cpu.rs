//! The CPU itself: CPUCFG, barriers, interrupt masking, waiting.

use core::arch::asm;

use super::csr::{self, IE};
use crate::{change_csr, csr};

/// The scratch register that keeps this vCPU's index (Linux keeps its per-CPU base there).
pub const INDEX: u32 = csr::SAVE0 + 3;

/// Returns this vCPU's index, counted in ascending order of the tree's `/cpus`.
pub fn index() -> usize {
    csr!(INDEX) as usize
}

/// Returns what the tree calls this vCPU.
pub fn id() -> u64 {
    csr!(csr::CPUID) & 0x1ff
}

/// Reads a word of CPUCFG.
pub fn cpucfg(word: u32) -> u32 {
    let value: u64;
    // SAFETY: reads what the CPU says of itself.
    unsafe { asm!("cpucfg {}, {}", out(reg) value, in(reg) u64::from(word), options(nostack)) };
    value as u32
}

/// Waits until all earlier memory accesses are complete, and fetches anew.
pub fn sync() {
    // SAFETY: barriers have no effect on the values Rust sees.
    unsafe { asm!("dbar 0", "ibar 0", options(nostack)) };
}

/// Sleeps until an interrupt that ECFG enables is pending, masked by CRMD.IE or not.
pub fn idle() {
    // SAFETY: IDLE changes no register.
    unsafe { asm!("dbar 0", "idle 0", options(nostack)) };
}

/// Masks interrupts and returns the previous CRMD.IE, for [`restore_irq`].
pub fn mask_irq() -> u64 {
    change_csr!(csr::CRMD, IE, 0) & IE
}

/// Unmasks interrupts.
pub fn unmask_irq() {
    change_csr!(csr::CRMD, IE, IE);
}

/// Restores the interrupt mask that [`mask_irq`] returned.
pub fn restore_irq(before: u64) {
    change_csr!(csr::CRMD, IE, before);
}

/// Executes about `loops` times two instructions that touch nothing.
pub fn spin(loops: u64) {
    // SAFETY: counts a scratch register down.
    unsafe {
        asm!("1:", "addi.d {0}, {0}, -1", "bnez {0}, 1b", inout(reg) loops.max(1) => _, options(nostack));
    }
}
