//! A PL011 (DDI0183) by polling.

use crate::mmio;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;

/// Where it is when no tree says so.
pub(crate) const DEFAULT: u64 = 0x0900_0000;
/// What its node is compatible with.
pub(crate) const COMPATIBLE: &str = "arm,pl011";

/// Sends a byte through the PL011 at `base`.
pub(crate) fn put(base: u64, byte: u8) {
    while mmio::read32(base + FR) & FR_TXFF != 0 {}
    mmio::write32(base + DR, byte.into());
}
