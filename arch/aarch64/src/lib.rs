//! AArch64: EL2.
#![no_std]

extern crate alloc;

pub mod el2;
pub mod fp;
#[cfg(target_arch = "aarch64")]
pub mod fp_regs;
pub mod image;
pub mod layout;
pub mod platform;
pub mod stage2;
pub mod tree;
pub mod vgic;
pub mod vmid;
pub mod serial;
