//! Physical memory as the hypervisor itself touches it: files for guests, guests' memory, tables.
//!
//! EL2 maps all memory at its own address. Guest memory is never a Rust reference, because the guest changes
//! it at any time; it is copied, word by word where it is read.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::{
    copy_nonoverlapping, read_volatile, with_exposed_provenance, with_exposed_provenance_mut, write_bytes,
};
use core::sync::atomic::AtomicU64;

use kernel::addr::Hpa;
use kernel::mem::Region;
use kernel::paging::Tables;

use crate::regs::clean_to_memory;

/// Shows memory that nobody writes any more: the machine's device tree, files for guests.
///
/// # Safety
/// 1. `region` is memory that EL2 maps.
/// 2. Nobody, no guest included, writes to it again.
pub unsafe fn frozen(region: Region) -> &'static [u8] {
    // SAFETY: mapped (1) and immutable (2) for ever; any byte is a valid u8.
    unsafe {
        core::slice::from_raw_parts(with_exposed_provenance(region.base().0 as usize), region.size() as usize)
    }
}

/// The memory of one guest while nobody runs it, or words of it while somebody does.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory {
    region: Region,
}

impl GuestMemory {
    /// # Safety
    /// `region` is memory that EL2 maps and that belongs to one guest; the hypervisor keeps nothing in it.
    pub unsafe fn new(region: Region) -> Self {
        Self { region }
    }

    /// Zeroes all of it.
    pub fn clear(&self) {
        let (base, size) = (self.region.base().0, self.region.size());
        // SAFETY: the range is the guest's (promised to `new`), who does not run yet.
        unsafe { write_bytes(with_exposed_provenance_mut::<u8>(base as usize), 0, size as usize) };
    }

    /// Copies `bytes` to `offset` bytes from the start; what does not fit is left out.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let room = self.region.size().saturating_sub(offset).min(bytes.len() as u64);
        let to = self.region.base().0 + offset;
        // SAFETY: `room` bytes from `to` are the guest's, who does not run yet; a Rust slice is never in it.
        unsafe {
            copy_nonoverlapping(bytes.as_ptr(), with_exposed_provenance_mut(to as usize), room as usize)
        };
    }

    /// Writes all of it back to the point of coherency, because the guest starts with its caches off.
    pub fn clean(&self) {
        clean_to_memory(self.region.base().0, self.region.size());
    }

    /// Reads the aligned 32-bit word at `offset` bytes from the start.
    pub fn read_word(&self, offset: u64) -> Option<u32> {
        if offset & 3 != 0 || offset + 4 > self.region.size() {
            return None;
        }
        let at = self.region.base().0 + offset;
        // SAFETY: inside the guest's memory and aligned; volatile, because the guest may write it meanwhile.
        Some(unsafe { read_volatile(with_exposed_provenance(at as usize)) })
    }
}

/// Page tables from the heap.
#[derive(Debug)]
pub struct HeapTables;

impl HeapTables {
    fn layout(size: usize) -> Option<Layout> {
        Layout::from_size_align(size, size).ok()
    }
}

impl Tables for HeapTables {
    fn word(&self, at: Hpa) -> &AtomicU64 {
        // SAFETY: the walker only asks for words of tables that `allocate` gave and `release` has not taken
        // back, 8-byte aligned; the hardware walker reads them, which atomics allow.
        unsafe { AtomicU64::from_ptr(with_exposed_provenance_mut(at.0 as usize)) }
    }

    fn allocate(&mut self, size: usize) -> Option<Hpa> {
        let layout = Self::layout(size).filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout is not of size zero.
        let table = unsafe { alloc_zeroed(layout) };
        (!table.is_null()).then(|| Hpa(table.expose_provenance() as u64))
    }

    fn release(&mut self, table: Hpa, size: usize) {
        if let Some(layout) = Self::layout(size) {
            // SAFETY: `table` came from `allocate` with the same size, and no walker reaches it (the trait).
            unsafe { dealloc(with_exposed_provenance_mut(table.0 as usize), layout) }
        }
    }
}
