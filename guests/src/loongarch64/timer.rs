//! The stable counter, and this core's timer, which counts it down.

use core::arch::asm;

use super::{cpu, csr};
use crate::{csr, set_csr};

/// TCFG.EN.
pub const ENABLE: u64 = 1;
/// TCFG.Periodic.
pub const PERIODIC: u64 = 1 << 1;
/// Ticks that InitVal can hold where the timer has the fewest bits anybody has seen.
const MOST: u64 = (1 << 47) - 4;

/// Returns the frequency of the counter in Hz.
pub fn frequency() -> u64 {
    let (base, ratio) = (u64::from(cpu::cpucfg(4)), u64::from(cpu::cpucfg(5)));
    let (multiplier, divider) = (ratio & 0xffff, ratio >> 16);
    base * multiplier / divider.max(1)
}

/// Returns the counter.
pub fn now() -> u64 {
    let time: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("rdtime.d {}, $zero", out(reg) time, options(nostack)) };
    time
}

/// Programs the timer to fire once, at `deadline`, and forgets that it fired before.
pub fn arm(deadline: u64) {
    disarm();
    // InitVal counts four ticks; the timer must not be early.
    let ticks = deadline.saturating_sub(now()).clamp(4, MOST).next_multiple_of(4);
    set_csr!(csr::TCFG, ticks | ENABLE);
}

/// Turns the timer off and forgets that it fired.
pub fn disarm() {
    set_csr!(csr::TCFG, 0);
    set_csr!(csr::TICLR, 1);
}

/// Returns TCFG and TVAL.
pub fn state() -> [u64; 2] {
    [csr!(csr::TCFG), csr!(csr::TVAL)]
}
