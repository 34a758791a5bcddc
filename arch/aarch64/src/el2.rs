//! Our own stage 1: the tables Fermata itself runs on at EL2 with E2H=0 (DDI0487 D8.3).
//!
//! Addresses have 48 bits, so that everything can be mapped where it is. Only devices and memory are told apart, by
//! the two attributes in [`MAIR`].

use kernel::addr::Hpa;
use kernel::paging::{Entry, Format, Rights};

use crate::stage2::{ADDRESS, AF, OUTPUT_BITS, SH_INNER, TABLE_OR_PAGE, VALID, XN, output_size};

/// MAIR_EL2: attribute 0 is Device-nGnRE, attribute 1 is Normal, write-back, allocating on reads and writes.
pub const MAIR: u64 = 0xff04;

/// AttrIndx of memory.
const ATTR_NORMAL: u64 = 1 << 2;
/// AttrIndx of devices.
const ATTR_DEVICE: u64 = 0 << 2;
/// The bit that is one in a regime with one privilege level (AP[1]).
const AP_RES1: u64 = 1 << 6;
/// Not writable (AP[2]).
const AP_READ_ONLY: u64 = 1 << 7;

/// The format of EL2's own tables.
#[derive(Clone, Copy, Debug)]
pub struct El2;

impl Format for El2 {
    fn levels(&self) -> usize {
        4
    }

    fn bits(&self, _level: usize) -> u32 {
        9
    }

    fn shift(&self, level: usize) -> u32 {
        12 + 9 * level as u32
    }

    fn leaf_at(&self, level: usize) -> bool {
        // A block of 512 GiB needs FEAT_LPA2.
        level < 3
    }

    fn output_bits(&self) -> u32 {
        OUTPUT_BITS
    }

    fn empty(&self, _level: usize) -> u64 {
        0
    }

    fn table(&self, to: Hpa, _level: usize) -> u64 {
        to.0 & ADDRESS | TABLE_OR_PAGE | VALID
    }

    fn leaf(&self, to: Hpa, rights: Rights, level: usize) -> u64 {
        let normal = ATTR_NORMAL | SH_INNER;
        let attributes = match rights {
            Rights::Memory => normal,
            Rights::ReadOnly => normal | AP_READ_ONLY,
            Rights::Data => normal | XN,
            Rights::Constant => normal | AP_READ_ONLY | XN,
            Rights::Device => ATTR_DEVICE | XN,
        };
        let kind = if level == 0 { TABLE_OR_PAGE | VALID } else { VALID };
        to.0 & ADDRESS | attributes | AP_RES1 | AF | kind
    }

    fn classify(&self, entry: u64, level: usize) -> Entry {
        match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0, level) {
            (false, _, _) | (true, false, 0 | 3..) => Entry::Empty,
            (true, true, 1..) => Entry::Table(Hpa(entry & ADDRESS)),
            (true, true, 0) | (true, false, _) => Entry::Leaf(Hpa(entry & ADDRESS), rights(entry)),
        }
    }
}

/// What a leaf of EL2's own tables allows.
fn rights(entry: u64) -> Rights {
    match (entry & ATTR_NORMAL != 0, entry & AP_READ_ONLY != 0, entry & XN != 0) {
        (false, _, _) => Rights::Device,
        (true, false, false) => Rights::Memory,
        (true, false, true) => Rights::Data,
        (true, true, false) => Rights::ReadOnly,
        (true, true, true) => Rights::Constant,
    }
}

/// TCR_EL2 with E2H=0 for a machine, by its ID_AA64MMFR0_EL1: 48-bit addresses, 4 KiB pages, walks through the caches.
pub const fn tcr(mmfr0: u64) -> u64 {
    const T0SZ: u64 = 64 - 48;
    const IRGN0_WRITE_BACK: u64 = 1 << 8;
    const ORGN0_WRITE_BACK: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const RES1: u64 = 1 << 31 | 1 << 23;
    T0SZ | IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER | output_size(mmfr0) << 16 | RES1
}

#[cfg(test)]
mod tests;
