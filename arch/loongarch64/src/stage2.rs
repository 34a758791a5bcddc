//! Stage 2: what a guest's physical addresses are, as tables that the root's refill handler walks.
//!
//! A guest-physical address takes the place of a virtual one in the root's MMU, so the format is that of an ordinary
//! page table (LoongArch Reference Manual, Volume 1, 5.4.5): 4 KiB pages and four levels, of which the manual calls the
//! lowest PT and the others Dir1 to Dir3. Leaves are pages, and huge pages of 2 MiB and 1 GiB. `LDPTE` puts a huge page
//! into the TLB as two halves, of 1 and of 512 MiB, which are page sizes of every CPU with LVZ.
//!
//! Entries of directories have no valid bit, and `LDDIR` follows whatever is there. An empty one points to the *null
//! table*, whose entries all hold its own address. As directory entries they lead back to it; as page-table entries they
//! have V clear; so a walk ends there in an invalid page, from whatever level it came. [`null_table`] makes one, and all
//! guests share it.
//!
//! An invalid entry is cached like any other, and an entry of the TLB is a pair of neighbours. So whoever maps something
//! into the space of a guest that has run has to flush, as for taking away.

use core::sync::atomic::Ordering;

use kernel::addr::Hpa;
use kernel::paging::{Entry, Format, Rights, Tables};

/// How many bits a guest's physical address has: those of a virtual address of the root whose bit 47 is clear, because
/// PGDL covers no others (with VALEN of 48).
pub const GPA_BITS: u32 = 47;
/// The physical addresses that entries can hold, in bits.
pub const OUTPUT_BITS: u32 = 48;
/// The size of every table in bytes, and of a page.
pub const TABLE_SIZE: usize = 1 << PAGE_BITS;
/// PWCL for these tables: base and width of PT, Dir1 and Dir2, and PTEWidth 0, which is 64 bits.
pub const PWCL: u64 = walk(0) | walk(1) << 10 | walk(2) << 20;
/// PWCH for these tables: base and width of Dir3, and no hardware walker.
pub const PWCH: u64 = SHIFT[3] as u64 | (INDEX_BITS as u64) << 6;
/// STLBPS for these tables: 4 KiB pages go into the STLB, huge ones into the MTLB.
pub const STLBPS: u64 = PAGE_BITS as u64;

const PAGE_BITS: u32 = 12;
/// The bits of an address that choose an entry of a table.
const INDEX_BITS: u32 = 9;
/// The lowest of these bits, by level.
const SHIFT: [u32; 4] =
    [PAGE_BITS, PAGE_BITS + INDEX_BITS, PAGE_BITS + 2 * INDEX_BITS, PAGE_BITS + 3 * INDEX_BITS];

/// The entry is valid; in a directory, only of a huge page.
const V: u64 = 1 << 0;
/// Dirty: it may be written.
const D: u64 = 1 << 1;
/// It may be used from every privilege level.
const PLV3: u64 = 3 << 2;
/// The memory access type.
const MAT: u64 = 3 << 4;
/// Coherent and cached; strongly-ordered and uncached is 0.
const MAT_CC: u64 = 1 << 4;
/// In a directory: a huge page. A page's G bit is in its place, and a huge page's G bit is bit 12. Neither is set here:
/// the root's ASID is always the same.
const HUGE: u64 = 1 << 6;
/// Not executable. `LDDIR` of QEMU 10.0 cuts it off a huge page; guests' memory is executable in any case.
const NX: u64 = 1 << 62;

/// Base and width of a level as PWCL has them.
const fn walk(level: usize) -> u64 {
    SHIFT[level] as u64 | (INDEX_BITS as u64) << 5
}

/// Makes the null table. None if there is no memory for it.
pub fn null_table<T: Tables>(tables: &mut T) -> Option<Hpa> {
    let table = tables.allocate(TABLE_SIZE)?;
    for at in (0..TABLE_SIZE as u64).step_by(8) {
        tables.word(Hpa(table.0 + at)).store(table.0, Ordering::Release);
    }
    Some(table)
}

/// The format of stage-2 tables.
#[derive(Clone, Copy, Debug)]
pub struct Stage2 {
    null: Hpa,
}

impl Stage2 {
    /// The format whose empty directory entries point to that null table.
    pub const fn new(null: Hpa) -> Self {
        Self { null }
    }
}

impl Format for Stage2 {
    fn levels(&self) -> usize {
        SHIFT.len()
    }

    fn bits(&self, _level: usize) -> u32 {
        INDEX_BITS
    }

    fn shift(&self, level: usize) -> u32 {
        SHIFT[level]
    }

    fn leaf_at(&self, level: usize) -> bool {
        level < 3
    }

    fn output_bits(&self) -> u32 {
        OUTPUT_BITS
    }

    fn empty(&self, level: usize) -> u64 {
        if level == 0 { 0 } else { self.null.0 }
    }

    fn table(&self, to: Hpa, _level: usize) -> u64 {
        to.0 & address(0)
    }

    fn leaf(&self, to: Hpa, rights: Rights, level: usize) -> u64 {
        let attributes = match rights {
            Rights::Memory => MAT_CC | D,
            Rights::ReadOnly => MAT_CC,
            Rights::Data => MAT_CC | D | NX,
            Rights::Constant => MAT_CC | NX,
            Rights::Device => D | NX,
        };
        let kind = if level == 0 { 0 } else { HUGE };
        to.0 & address(level) | attributes | PLV3 | V | kind
    }

    fn classify(&self, entry: u64, level: usize) -> Entry {
        match (level, entry & HUGE != 0, entry & V != 0) {
            (0, _, true) | (1.., true, true) => Entry::Leaf(Hpa(entry & address(level)), rights(entry)),
            (0, _, false) | (1.., true, false) => Entry::Empty,
            (1.., false, _) if entry == self.null.0 => Entry::Empty,
            (1.., false, _) => Entry::Table(Hpa(entry & address(0))),
        }
    }
}

/// The bits of a leaf of `level` that are its address.
const fn address(level: usize) -> u64 {
    (1 << OUTPUT_BITS) - (1 << SHIFT[level])
}

/// What a leaf allows.
fn rights(entry: u64) -> Rights {
    match (entry & MAT, entry & D != 0, entry & NX != 0) {
        (0, _, _) => Rights::Device,
        (_, true, false) => Rights::Memory,
        (_, true, true) => Rights::Data,
        (_, false, false) => Rights::ReadOnly,
        (_, false, true) => Rights::Constant,
    }
}

#[cfg(test)]
mod tests;
