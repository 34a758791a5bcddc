//! The counter and this vCPU's timer.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use crate::arch::timer::*;
use crate::cpu::{self, MAX_CPUS};
use crate::irq;

/// How often each vCPU's timer fired.
static FIRED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Converts microseconds to ticks.
pub fn micros(micros: u64) -> u64 {
    (u128::from(micros) * u128::from(frequency()) / 1_000_000) as u64
}

/// Handles the timer's interrupt: counts it and turns the timer off.
pub fn on_irq() {
    disarm();
    FIRED[cpu::index()].fetch_add(1, Relaxed);
}

/// Returns how often this vCPU's timer fired.
pub fn fired() -> u64 {
    FIRED[cpu::index()].load(Relaxed)
}

/// Sleeps for at least `ticks`; needs [`on_irq`] called for [`irq::TIMER`].
pub fn sleep(ticks: u64) {
    let (before, deadline) = (fired(), now() + ticks);
    irq::enable(irq::TIMER);
    arm(deadline);
    cpu::sleep_until(|| fired() != before);
}

/// Busy-waits for `ticks`.
pub fn busy(ticks: u64) {
    let end = now() + ticks;
    while now() < end {}
}

/// Waits, awake, until `done` or for so many microseconds; tells which.
pub fn within(limit: u64, done: impl Fn() -> bool) -> bool {
    let end = now() + micros(limit);
    while !done() {
        if now() > end {
            return false;
        }
    }
    true
}
