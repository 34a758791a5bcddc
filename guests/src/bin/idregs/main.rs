//! Shows what the guest's CPU claims to be: prints the ID registers, checks that what must be hidden is, and that every
//! feature they show works. With `bare=1` hidden things are not asked for. Argument: `seed=` (default 1).
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64/mod.rs")]
mod arch;

guests::guest!(arch::main);
