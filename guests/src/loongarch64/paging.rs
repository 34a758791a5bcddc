//! Page tables of four levels with pages of 4 KiB, for what the direct-mapped windows do not show.

use core::cell::UnsafeCell;

use super::csr;
use crate::set_csr;

/// PWCL: page table at bit 12, directories at 21 and 30, nine bits each.
const PWCL: u64 = 12 | 9 << 5 | 21 << 10 | 9 << 15 | 30 << 20 | 9 << 25;
/// PWCH: the highest directory at bit 39, nine bits.
const PWCH: u64 = 39 | 9 << 6;

/// A page that is there, has been written, and is cached; for PLV0.
pub const PAGE: u64 = VALID | DIRTY | CACHED;
/// V.
pub const VALID: u64 = 1;
/// D.
pub const DIRTY: u64 = 1 << 1;
/// PLV: for all privilege levels.
pub const USER: u64 = 0b11 << 2;
/// MAT: coherent and cached.
pub const CACHED: u64 = 1 << 4;
/// G: in every address space. In a directory the same bit makes a large page of the entry.
pub const GLOBAL: u64 = 1 << 6;
/// In a directory: this entry is a large page.
pub const HUGE: u64 = 1 << 6;
/// NR: not readable.
pub const NO_READ: u64 = 1 << 61;
/// NX: not executable.
pub const NO_FETCH: u64 = 1 << 62;

/// Tables of four levels, one of each, that share one window of 2 MiB: the highest first.
///
/// A directory entry cannot say that it is empty, so every entry of each table leads to the next one: what is outside of
/// the window is seen in it again, and a space without pages maps nothing anywhere.
#[repr(C, align(4096))]
pub struct Space(UnsafeCell<[[u64; 512]; 4]>);

// SAFETY: `map` writes single words, which table walks may read at any time; who calls it for one space from several
// vCPUs gets one value or the other.
unsafe impl Sync for Space {}

impl Space {
    /// Makes a space without pages.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([[0; 512]; 4]))
    }

    /// Returns where a table is, physically.
    pub fn table(&self, level: usize) -> u64 {
        (self.0.get() as u64 & 0xffff_ffff_ffff) + ((level as u64) << 12)
    }

    /// Writes an entry of a table.
    pub fn set(&self, level: usize, slot: usize, entry: u64) {
        // SAFETY: both indices are in range by the remainder; the word is aligned.
        unsafe { self.0.get().cast::<u64>().add(level % 4 * 512 + slot % 512).write_volatile(entry) };
    }

    /// Maps page `slot` of the window to a physical address; the TLB may have the old one.
    pub fn map(&self, slot: usize, physical: u64, attributes: u64) {
        self.set(3, slot, physical & 0xffff_ffff_f000 | attributes);
    }

    /// Makes the directories lead to each other.
    pub fn prepare(&self) {
        for level in 0..3 {
            for slot in 0..512 {
                self.set(level, slot, self.table(level + 1));
            }
        }
    }

    /// Makes this the space of this core, and forgets what the TLB has.
    pub fn install(&self) {
        self.prepare();
        set_csr!(csr::PWCL, PWCL);
        set_csr!(csr::PWCH, PWCH);
        set_csr!(csr::STLBPS, 12);
        set_csr!(csr::PGDL, self.table(0));
        set_csr!(csr::PGDH, self.table(0));
        forget_all();
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the space in which nothing is mapped.
pub fn nothing() -> &'static Space {
    static NOTHING: Space = Space::new();
    &NOTHING
}

/// Forgets everything that the TLB has.
pub fn forget_all() {
    // SAFETY: the windows that Rust lives in are not in the TLB.
    unsafe { core::arch::asm!("invtlb 0, $zero, $zero", options(nostack)) };
}
