//! Device registers by their physical addresses, each access one plain load or store.

pub use crate::arch::mmio::*;
