//! The portable core: what a guest is, who runs next, and what happens when it stops.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod console;
pub mod dev;
pub mod domain;
pub mod fdt;
pub mod fp;
pub mod mail;
pub mod mem;
pub mod paging;
pub mod platform;
pub mod ring;
pub mod sched;
pub mod sync;
pub mod shell;
pub mod trace;
