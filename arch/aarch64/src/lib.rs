//! AArch64: EL2.
#![no_std]

extern crate alloc;

pub mod serial;
