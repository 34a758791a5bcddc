//! Interrupts by number: the first [`IPIS`] are what vCPUs send each other, [`TIMER`] is this vCPU's timer, and the rest
//! is the architecture's.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub use crate::arch::irq::{IPIS, TIMER, acknowledge, disable, enable, end, send};
use crate::{cpu, report, timer};

/// The function that takes interrupts, as `fn(u32)`; 0 for none.
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Gives interrupts to `handler(number)`; they are acknowledged before and ended after it.
pub fn on_interrupt(handler: fn(u32)) {
    HANDLER.store(handler as usize, Relaxed);
}

/// Calls the handler. Without one the timer goes to [`timer::on_irq`], and anything else ends the guest.
pub(crate) fn deliver(number: u32) {
    match HANDLER.load(Relaxed) {
        0 if number == TIMER => timer::on_irq(),
        0 => report::abort(format_args!("unexpected interrupt {number} on vCPU {}", cpu::index())),
        handler => {
            // SAFETY: the only value stored besides 0 is a `fn(u32)`, by `on_interrupt`.
            let handler = unsafe { core::mem::transmute::<usize, fn(u32)>(handler) };
            handler(number);
        }
    }
}
