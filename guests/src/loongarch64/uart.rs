//! A 16550 by polling.

use crate::mmio;

const THR: u64 = 0;
const LSR: u64 = 5;
const LSR_THRE: u8 = 1 << 5;

/// Where it is when no tree says so.
pub(crate) const DEFAULT: u64 = 0x1fe0_01e0;
/// What its node is compatible with.
pub(crate) const COMPATIBLE: &str = "ns16550a";

/// Sends a byte through the 16550 at `base`.
pub(crate) fn put(base: u64, byte: u8) {
    while mmio::read8(base + LSR) & LSR_THRE == 0 {}
    mmio::write8(base + THR, byte);
}
