//! The CPU itself: which one it is, interrupt masking, waiting.

pub use crate::arch::cpu::*;

/// Most vCPUs a guest uses; further ones in the tree are left alone.
pub const MAX_CPUS: usize = 8;

/// Sleeps until `done` holds: with interrupts masked between the test and the sleep, so that no wake-up falls in between.
pub fn sleep_until(mut done: impl FnMut() -> bool) {
    let before = mask_irq();
    while !done() {
        idle();
        unmask_irq();
        mask_irq();
    }
    restore_irq(before);
}
