//! Physical memory as the root reaches it: through the cached direct-mapped window.

use arch_common::ram::Reach;

/// Where the cached window starts (DMW1).
pub const CACHED: u64 = 0x9000_0000_0000_0000;
/// Where the uncached window starts (DMW0): device registers.
pub const UNCACHED: u64 = 0x8000_0000_0000_0000;

/// The cached window.
#[derive(Debug)]
pub struct Window;

impl Reach for Window {
    const OFFSET: u64 = CACHED;

    /// Caches are coherent with everything that fetches, loads or walks.
    fn clean(_: u64, _: u64) {}
}
