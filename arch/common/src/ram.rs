//! Physical memory as the hypervisor itself touches it: files for guests, guests' memory, tables.
//!
//! Guest memory is never a Rust reference, because the guest changes it at any time; it is copied, word by word
//! where it is read.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{
    copy_nonoverlapping, read_volatile, with_exposed_provenance, with_exposed_provenance_mut, write_bytes,
};
use core::sync::atomic::AtomicU64;

use kernel::addr::{Gpa, Hpa};
use kernel::mem::Region;
use kernel::paging::{Format, MapError, Rights, Space, Tables};

/// How an architecture reaches physical memory.
pub trait Reach: 'static {
    /// Added to a physical address, it is the virtual address at which all of memory is mapped.
    const OFFSET: u64;
    /// Writes `bytes` bytes from virtual address `start` back to where a CPU without caches sees them. Nothing to do
    /// where caches are always coherent.
    fn clean(start: u64, bytes: u64);
}

/// The virtual address of physical memory.
fn address<R: Reach>(at: u64) -> usize {
    at.wrapping_add(R::OFFSET) as usize
}

/// The physical address of what the hypervisor has at `address`.
pub fn physical<R: Reach>(address: usize) -> Hpa {
    Hpa((address as u64).wrapping_sub(R::OFFSET))
}

/// Shows memory that nobody writes any more: the machine's device tree, files for guests.
///
/// # Safety
/// 1. `region` is memory that `R` maps.
/// 2. Nobody, no guest included, writes to it again.
pub unsafe fn frozen<R: Reach>(region: Region) -> &'static [u8] {
    let start = with_exposed_provenance(address::<R>(region.base().0));
    // SAFETY: mapped (1) and immutable (2) for ever; any byte is a valid u8.
    unsafe { core::slice::from_raw_parts(start, region.size() as usize) }
}

/// The memory of one guest: what its addresses mean, piece by piece.
pub struct GuestRam<R> {
    pieces: Vec<Piece>,
    reach: PhantomData<fn(R)>,
}

/// A piece of it: where the guest has it, and where it is.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    region: Region,
}

impl<R> fmt::Debug for GuestRam<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.pieces).finish()
    }
}

impl<R: Reach> GuestRam<R> {
    /// Lays `regions` out over the guest-physical `windows`, in order; none if the windows are too small.
    ///
    /// # Safety
    /// The regions are memory that `R` maps and that belongs to one guest; the hypervisor keeps nothing in them.
    pub unsafe fn new(regions: &[Region], windows: &[Range<u64>]) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut windows = windows.iter().cloned();
        let mut window = windows.next()?;
        for region in regions {
            let mut rest = Some(*region);
            while let Some(region) = rest {
                while window.is_empty() {
                    window = windows.next()?;
                }
                let size = region.size().min(window.end - window.start);
                pieces.push(Piece { start: window.start, region: Region::new(region.base(), size)? });
                window.start += size;
                rest = Region::new(Hpa(region.base().0 + size), region.size() - size);
            }
        }
        Some(Self { pieces, reach: PhantomData })
    }

    /// Makes the guest's address space, with all of it and nothing else.
    ///
    /// # Errors
    /// It could not be made, in words.
    pub fn space<F: Format>(&self, format: F) -> Result<Space<F, HeapTables<R>>, String> {
        let describe = |error: MapError| alloc::format!("its address space could not be made: {error:?}");
        let mut space = Space::new(format, HeapTables::default()).map_err(describe)?;
        for piece in &self.pieces {
            let Piece { start, region } = piece;
            space.map(Gpa(*start), region.base(), region.size(), Rights::Memory).map_err(describe)?;
        }
        Ok(space)
    }

    /// Zeroes all of it. The guest does not run yet.
    pub fn clear(&self) {
        for Piece { region, .. } in &self.pieces {
            let start = with_exposed_provenance_mut::<u8>(address::<R>(region.base().0));
            // SAFETY: the range is the guest's (promised to `new`), who does not run yet.
            unsafe { write_bytes(start, 0, region.size() as usize) };
        }
    }

    /// Copies `bytes` to guest-physical `at`, across pieces; what is no memory there is left out. The guest does not
    /// run yet.
    pub fn write(&self, at: Gpa, bytes: &[u8]) {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let Some((to, room)) = self.find(at.0 + done as u64) else { return };
            let part = room.min(rest.len() as u64) as usize;
            let to = with_exposed_provenance_mut(address::<R>(to));
            // SAFETY: `part` bytes from `to` are the guest's, who does not run yet; a Rust slice is never in it.
            unsafe { copy_nonoverlapping(rest.as_ptr(), to, part) };
            done += part;
        }
    }

    /// Writes all of it back to where a CPU without caches sees it, because the guest starts with its caches off.
    pub fn clean(&self) {
        for Piece { region, .. } in &self.pieces {
            R::clean(region.base().0.wrapping_add(R::OFFSET), region.size());
        }
    }

    /// Whether `at` is in it.
    pub fn contains(&self, at: Gpa) -> bool {
        self.find(at.0).is_some()
    }

    /// Reads the aligned 32-bit word at guest-physical `at`, whether the guest runs or not.
    pub fn read_word(&self, at: Gpa) -> Option<u32> {
        let (from, room) = self.find(at.0).filter(|_| at.0 & 3 == 0)?;
        if room < 4 {
            return None;
        }
        // SAFETY: inside the guest's memory and aligned; volatile, because the guest may write it meanwhile.
        Some(unsafe { read_volatile(with_exposed_provenance(address::<R>(from))) })
    }

    /// The physical address of guest-physical `at`, and how many bytes follow it in its piece.
    fn find(&self, at: u64) -> Option<(u64, u64)> {
        self.pieces.iter().find_map(|piece| {
            let offset = at.checked_sub(piece.start).filter(|offset| *offset < piece.region.size())?;
            Some((piece.region.base().0 + offset, piece.region.size() - offset))
        })
    }
}

/// Page tables from the heap.
pub struct HeapTables<R>(PhantomData<fn(R)>);

impl<R> fmt::Debug for HeapTables<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeapTables")
    }
}

impl<R> Default for HeapTables<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> HeapTables<R> {
    fn layout(size: usize) -> Option<Layout> {
        Layout::from_size_align(size, size).ok()
    }
}

impl<R: Reach> Tables for HeapTables<R> {
    fn word(&self, at: Hpa) -> &AtomicU64 {
        // SAFETY: the walker only asks for words of tables that `allocate` gave and `release` has not taken
        // back, 8-byte aligned; the hardware walker reads them, which atomics allow.
        unsafe { AtomicU64::from_ptr(with_exposed_provenance_mut(address::<R>(at.0))) }
    }

    fn allocate(&mut self, size: usize) -> Option<Hpa> {
        let layout = Self::layout(size).filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout is not of size zero.
        let table = unsafe { alloc_zeroed(layout) };
        (!table.is_null()).then(|| physical::<R>(table.expose_provenance()))
    }

    fn release(&mut self, table: Hpa, size: usize) {
        if let Some(layout) = Self::layout(size) {
            // SAFETY: `table` came from `allocate` with the same size, and no walker reaches it (the trait).
            unsafe { dealloc(with_exposed_provenance_mut(address::<R>(table.0)), layout) }
        }
    }
}

#[cfg(test)]
mod tests;
