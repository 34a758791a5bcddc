//! Physical memory as EL2 reaches it.

use arch_common::ram::Reach;

use crate::regs::clean_to_memory;

/// EL2 maps all memory at its own address.
#[derive(Debug)]
pub struct Identity;

impl Reach for Identity {
    const OFFSET: u64 = 0;

    fn clean(start: u64, bytes: u64) {
        clean_to_memory(start, bytes);
    }
}
