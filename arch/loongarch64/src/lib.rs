//! LoongArch64: Fermata in root mode, guests in the guest mode of the virtualisation extension (LVZ).
//!
//! What decides is plain Rust and is tested on the host. What touches the CPU is in the modules that exist on
//! the target only.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate self as arch_loongarch64;

pub mod cpucfg;
pub mod efi;
pub mod facts;
pub mod fp;
pub mod furnish;
pub mod gid;
pub mod gspr;
pub mod guest;
pub mod hypercall;
pub mod image;
pub mod insn;
pub mod irqchip;
pub mod layout;
pub mod platform;
pub mod ram;
pub mod rtc;
pub mod selftest;
pub mod stage2;
pub mod timer;
pub mod trap;
pub mod tree;
pub mod vintc;
mod words;

#[cfg(test)]
#[path = "../tests/fp/model.rs"]
mod fp_model;

#[cfg(target_arch = "loongarch64")]
pub mod arch;
#[cfg(target_arch = "loongarch64")]
pub mod boot;
#[cfg(target_arch = "loongarch64")]
pub mod chips;
#[cfg(target_arch = "loongarch64")]
pub mod cpu;
#[cfg(target_arch = "loongarch64")]
pub mod csr;
#[cfg(target_arch = "loongarch64")]
pub mod fp_regs;
#[cfg(target_arch = "loongarch64")]
pub mod iocsr;
#[cfg(target_arch = "loongarch64")]
pub mod lvz;
#[cfg(target_arch = "loongarch64")]
pub mod start;
#[cfg(target_arch = "loongarch64")]
pub mod switch;
