//! The portable core: what a guest is, who runs next, and what happens when it stops.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod arch;
pub mod console;
pub mod dev;
pub mod domain;
pub mod exit;
pub mod fdt;
pub mod fp;
pub mod launch;
pub mod layout;
pub mod machine;
pub mod mail;
pub mod mem;
pub mod monitor;
pub mod paging;
pub mod platform;
pub mod ring;
pub mod run;
pub mod sched;
pub mod shell;
pub mod start;
pub mod sync;
pub mod trace;
pub mod tree;
pub mod vcpu;
pub mod vm;
