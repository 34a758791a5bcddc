//! Stage 2: what a guest's physical addresses are, as tables of the VMSAv8-64 format (DDI0487 D8.3).
//!
//! Pages have 4 KiB, and a guest's addresses 40 bits on every machine. The walk starts at the manual's level 1 with two
//! tables in a row, which saves a level against 48 bits and is what every CPU with a 40-bit physical address can do.

use kernel::addr::Hpa;
use kernel::paging::{Entry, Format, Rights};

/// How many bits a guest's physical address has. The ID registers that a guest sees say so too.
pub const IPA_BITS: u32 = 40;
/// The size and the alignment in bytes of the root: two tables in a row (DDI0487 D8.2.7).
pub const ROOT_SIZE: usize = 8 << ROOT_BITS;
/// The physical addresses that descriptors can hold without FEAT_LPA2, in bits.
pub const OUTPUT_BITS: u32 = 48;
/// The bits of an address that choose an entry of the root.
const ROOT_BITS: u32 = IPA_BITS - 30;

/// Bits 47:12 of a descriptor: the output address.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// A descriptor that is not ignored.
pub(crate) const VALID: u64 = 1 << 0;
/// A table, or at the last level a page; a block has it clear.
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
/// Inner Shareable.
pub(crate) const SH_INNER: u64 = 0b11 << 8;
/// The access flag: without it, the first access faults.
pub(crate) const AF: u64 = 1 << 10;
/// Execute-never; with FEAT_XNX, for EL1 and EL0 alike (DDI0487 D8.4.3).
pub(crate) const XN: u64 = 1 << 54;

/// Readable at stage 2.
const S2AP_READ: u64 = 0b01 << 6;
/// Writable at stage 2.
const S2AP_WRITE: u64 = 0b10 << 6;
/// Device-nGnRE, with and without FEAT_S2FWB.
const MEM_ATTR_DEVICE: u64 = 0b0001 << 2;
/// The part of MemAttr that is clear for devices, with and without FEAT_S2FWB.
const MEM_ATTR_NORMAL: u64 = 0b1100 << 2;

/// What stage 2 says about the caching of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Write-back, combined with what the guest says: the weaker wins.
    Combined,
    /// Write-back whatever the guest says (FEAT_S2FWB, with HCR_EL2.FWB set).
    Forced,
}

/// The format of stage-2 tables.
#[derive(Clone, Copy, Debug)]
pub struct Stage2 {
    /// What memory is mapped as.
    pub caching: Caching,
}

impl Format for Stage2 {
    fn levels(&self) -> usize {
        3
    }

    fn bits(&self, level: usize) -> u32 {
        if level == 2 { ROOT_BITS } else { 9 }
    }

    fn shift(&self, level: usize) -> u32 {
        12 + 9 * level as u32
    }

    fn leaf_at(&self, _level: usize) -> bool {
        true
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
        let normal = match self.caching {
            Caching::Combined => 0b1111 << 2 | SH_INNER,
            Caching::Forced => 0b0110 << 2 | SH_INNER,
        };
        let attributes = match rights {
            Rights::Memory => normal | S2AP_READ | S2AP_WRITE,
            Rights::ReadOnly => normal | S2AP_READ,
            Rights::Data => normal | S2AP_READ | S2AP_WRITE | XN,
            Rights::Constant => normal | S2AP_READ | XN,
            Rights::Device => MEM_ATTR_DEVICE | S2AP_READ | S2AP_WRITE | XN,
        };
        let kind = if level == 0 { TABLE_OR_PAGE | VALID } else { VALID };
        to.0 & ADDRESS | attributes | AF | kind
    }

    fn classify(&self, entry: u64, level: usize) -> Entry {
        match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0, level) {
            (false, _, _) | (true, false, 0) => Entry::Empty,
            (true, true, 1..) => Entry::Table(Hpa(entry & ADDRESS)),
            (true, true, 0) | (true, false, _) => Entry::Leaf(Hpa(entry & ADDRESS), rights(entry)),
        }
    }
}

/// What a stage-2 leaf allows.
fn rights(entry: u64) -> Rights {
    match (entry & MEM_ATTR_NORMAL != 0, entry & S2AP_WRITE != 0, entry & XN != 0) {
        (false, _, _) => Rights::Device,
        (true, true, false) => Rights::Memory,
        (true, true, true) => Rights::Data,
        (true, false, false) => Rights::ReadOnly,
        (true, false, true) => Rights::Constant,
    }
}

/// How many bits a VMID has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmidBits {
    /// Eight.
    Eight,
    /// Sixteen (FEAT_VMID16).
    Sixteen,
}

impl VmidBits {
    /// Reads ID_AA64MMFR1_EL1.VMIDBits.
    pub const fn from_id(mmfr1: u64) -> Self {
        if mmfr1 >> 4 & 0xf == 0b0010 { Self::Sixteen } else { Self::Eight }
    }
}

/// How many bits a physical address has, by ID_AA64MMFR0_EL1.PARange (DDI0487 D24.2.79).
pub const fn physical_bits(mmfr0: u64) -> u32 {
    match mmfr0 & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        6 => 52,
        _ => 56,
    }
}

/// The field PS of VTCR_EL2 and TCR_EL2 for a machine: its physical addresses, or 48 bits, because descriptors hold no
/// more without FEAT_LPA2.
pub(crate) const fn output_size(mmfr0: u64) -> u64 {
    let range = mmfr0 & 0xf;
    if range > 5 { 5 } else { range }
}

/// VTCR_EL2 for a machine, by its ID_AA64MMFR0_EL1 and the width of its VMIDs. None if its physical addresses have
/// fewer bits than [`IPA_BITS`]: stage 2 could not start where it does (DDI0487 D8.2.8).
pub const fn vtcr(mmfr0: u64, vmids: VmidBits) -> Option<u64> {
    const T0SZ: u64 = 64 - IPA_BITS as u64;
    const SL0_LEVEL_1: u64 = 1 << 6;
    const IRGN0_WRITE_BACK: u64 = 1 << 8;
    const ORGN0_WRITE_BACK: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const RES1: u64 = 1 << 31;
    if physical_bits(mmfr0) < IPA_BITS {
        return None;
    }
    let vs = match vmids {
        VmidBits::Eight => 0,
        VmidBits::Sixteen => 1 << 19,
    };
    let walks = IRGN0_WRITE_BACK | ORGN0_WRITE_BACK | SH0_INNER;
    Some(T0SZ | SL0_LEVEL_1 | walks | output_size(mmfr0) << 16 | vs | RES1)
}

/// VTTBR_EL2 for a guest's root table and VMID.
pub const fn vttbr(root: Hpa, vmid: u16) -> u64 {
    (vmid as u64) << 48 | root.0 & ADDRESS
}

#[cfg(test)]
mod tests;
