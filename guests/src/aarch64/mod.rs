//! AArch64: an arm64 Image at EL1 with the MMU on and an identity map, a GICv3, PSCI.

pub mod cpu;
pub mod fp;
pub mod gic;
pub mod mmio;
pub mod psci;
pub mod start;
pub mod timer;
pub mod trap;
pub mod uart;

pub(crate) use gic as irq;
pub(crate) use psci as power;
