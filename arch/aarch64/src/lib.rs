//! AArch64: Fermata at EL2, guests at EL1.
//!
//! What decides is plain Rust and is tested on the host. What touches the CPU is in the modules that exist on
//! the target only.
#![no_std]

extern crate alloc;

pub mod el2;
pub mod facts;
pub mod fp;
pub mod guest;
pub mod idregs;
pub mod image;
pub mod insn;
pub mod layout;
pub mod platform;
pub mod smccc;
pub mod stage2;
pub mod sve;
pub mod sysreg;
pub mod trap;
pub mod tree;
pub mod vgic;

#[cfg(target_arch = "aarch64")]
pub mod arch;
#[cfg(target_arch = "aarch64")]
pub mod boot;
#[cfg(target_arch = "aarch64")]
pub mod chips;
#[cfg(target_arch = "aarch64")]
pub mod cpu;
#[cfg(target_arch = "aarch64")]
pub mod fp_regs;
#[cfg(target_arch = "aarch64")]
pub mod gic;
#[cfg(target_arch = "aarch64")]
pub mod id;
#[cfg(target_arch = "aarch64")]
pub mod memory;
#[cfg(target_arch = "aarch64")]
pub mod psci;
#[cfg(target_arch = "aarch64")]
pub mod ram;
#[cfg(target_arch = "aarch64")]
pub mod regs;
#[cfg(target_arch = "aarch64")]
pub mod start;
#[cfg(target_arch = "aarch64")]
pub mod switch;
