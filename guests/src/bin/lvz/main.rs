//! Shows that a CPU's virtualisation extension does what a hypervisor relies on: without any below, it is one itself, for
//! guests of a few instructions. So a broken emulator is told from a broken hypervisor.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "nothing.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64/mod.rs")]
mod arch;

guests::guest!(arch::main);
