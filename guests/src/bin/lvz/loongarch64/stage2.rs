//! The tables that give guests memory: the image to itself, and a window for tests.

use core::cell::UnsafeCell;

use guests::arch::csr as number;
use guests::arch::paging::{CACHED, DIRTY, HUGE, USER, VALID};
use guests::set_csr;

use super::world::physical;

/// Guest-physical addresses of the tests: 512 pages, then large ones of 2 MiB.
pub(crate) const WINDOW: u64 = 0x4000_0000;
/// Guest-physical address of one large page of 1 GiB.
pub(crate) const GIANT: u64 = 0x8000_0000;

/// An entry that allows everything.
pub(crate) const ALL: u64 = VALID | DIRTY | USER | CACHED;

/// One of the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Of 512 GiB each.
    Root,
    /// Of 1 GiB each.
    Giants,
    /// Of 2 MiB each, of the image.
    ImageLarge,
    /// Of 4 KiB each, of the image: the 2 MiB from 2 MiB up.
    ImagePages,
    /// Of 2 MiB each, of the window.
    Large,
    /// Of 4 KiB each, of the window's first 2 MiB.
    Pages,
    /// Directories cannot say that they are empty: these three lead nowhere but to each other.
    NoGiants,
    /// See [`Table::NoGiants`].
    NoLarge,
    /// All invalid.
    NoPages,
}

#[repr(C, align(4096))]
struct Tables(UnsafeCell<[[u64; 512]; 9]>);

// SAFETY: only one vCPU is used; table walks read single words.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables(UnsafeCell::new([[0; 512]; 9]));

impl Table {
    /// Returns its physical address.
    pub(crate) fn address(self) -> u64 {
        physical(TABLES.0.get()) + 4096 * self as u64
    }

    /// Writes an entry.
    pub(crate) fn set(self, slot: u64, entry: u64) {
        let table = TABLES.0.get().cast::<u64>();
        // SAFETY: the table is one of nine, the slot one of 512.
        unsafe { table.add(self as usize * 512 + slot as usize % 512).write_volatile(entry) };
    }

    fn fill(self, entry: u64) {
        (0..512).for_each(|slot| self.set(slot, entry));
    }
}

/// Maps the image, and nothing else, and makes this the root's space.
pub(crate) fn reset() {
    Table::NoPages.fill(0);
    Table::NoLarge.fill(Table::NoPages.address());
    Table::NoGiants.fill(Table::NoLarge.address());
    Table::Pages.fill(0);
    Table::Large.fill(Table::NoPages.address());
    Table::Large.set(0, Table::Pages.address());
    Table::ImageLarge.fill(Table::NoPages.address());
    Table::ImageLarge.set(1, Table::ImagePages.address());
    (0..512).for_each(|slot| Table::ImagePages.set(slot, 0x20_0000 + slot * 4096 | ALL));
    Table::Giants.fill(Table::NoLarge.address());
    Table::Giants.set(0, Table::ImageLarge.address());
    Table::Giants.set(WINDOW >> 30, Table::Large.address());
    Table::Root.fill(Table::NoGiants.address());
    Table::Root.set(0, Table::Giants.address());
    set_csr!(number::PGDL, Table::Root.address());
    set_csr!(number::PGDH, Table::Root.address());
}

/// Maps page `slot` of the window.
pub(crate) fn map(slot: u64, to: u64, attributes: u64) {
    Table::Pages.set(slot, to | attributes);
}

/// Makes an entry for a large page: the same bit that makes it one is G in a page.
pub(crate) fn large(to: u64) -> u64 {
    to | ALL | HUGE
}
