//! AArch64: EL2.
#![no_std]

extern crate alloc;

pub mod fp;
#[cfg(target_arch = "aarch64")]
pub mod fp_regs;
pub mod vgic;
pub mod el2;
pub mod platform;
pub mod stage2;
pub mod vmid;
