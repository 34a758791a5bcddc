//! Shows what a load or store to a device does, in every form the instruction set has, and what happens where nothing is.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

guests::guest!(arch::main);
