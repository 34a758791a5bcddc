//! Physical memory: ranges of it, sets of ranges, and who gets which.
//!
//! Memory is handed out in a few large pieces, at boot and when a guest is made, so a sorted list of what is free is
//! all the bookkeeping there is. The list has a fixed capacity and lives inside the value: the hypervisor's heap is
//! itself carved from it.

use alloc::vec::Vec;
use core::fmt;

use crate::addr::Hpa;

/// The unit in which guests get memory: a block of the second page-table level, in bytes.
pub const GRANULE: u64 = 2 << 20;
/// The alignment at which the largest useful blocks fit, in bytes.
pub const GIGABYTE: u64 = 1 << 30;
/// How many separate ranges a set can hold.
pub const CAPACITY: usize = 128;

/// A range of physical memory: not empty, and not wrapping around the end of the address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    base: u64,
    /// The last byte, because the end of the topmost range has no number.
    last: u64,
}

impl Region {
    /// The `size` bytes from `base` on, if there is at least one and none lies beyond 2^64.
    pub const fn new(base: Hpa, size: u64) -> Option<Self> {
        if size == 0 {
            return None;
        }
        match base.0.checked_add(size - 1) {
            Some(last) => Some(Self { base: base.0, last }),
            None => None,
        }
    }

    /// As [`Region::new`], but a range that would wrap ends at 2^64 instead.
    pub const fn clipped(base: Hpa, size: u64) -> Option<Self> {
        if size == 0 {
            return None;
        }
        Some(Self { base: base.0, last: base.0.saturating_add(size - 1) })
    }

    /// From one byte to another, both included.
    const fn between(base: u64, last: u64) -> Option<Self> {
        if base <= last { Some(Self { base, last }) } else { None }
    }

    /// Its first byte.
    pub const fn base(&self) -> Hpa {
        Hpa(self.base)
    }

    /// Its last byte.
    pub const fn last(&self) -> Hpa {
        Hpa(self.last)
    }

    /// How many bytes it has. The whole address space counts one less than it has.
    pub const fn size(&self) -> u64 {
        (self.last - self.base).saturating_add(1)
    }

    /// Whether `at` is one of its bytes.
    pub const fn contains(&self, at: Hpa) -> bool {
        self.base <= at.0 && at.0 <= self.last
    }

    /// Whether all of `other` lies in it.
    pub const fn covers(&self, other: &Region) -> bool {
        self.base <= other.base && other.last <= self.last
    }

    /// Whether they have a byte in common.
    pub const fn overlaps(&self, other: &Region) -> bool {
        self.base <= other.last && other.base <= self.last
    }

    /// What they have in common.
    pub fn overlap(&self, other: &Region) -> Option<Region> {
        Self::between(self.base.max(other.base), self.last.min(other.last))
    }

    /// The largest part of it that starts and ends at multiples of `align`, a power of two.
    pub fn aligned(&self, align: u64) -> Option<Region> {
        let base = self.base.checked_next_multiple_of(align)?;
        let last = match self.last.checked_add(1) {
            Some(end) => (end & !(align - 1)).checked_sub(1)?,
            None => u64::MAX,
        };
        Self::between(base, last)
    }

    /// The smallest range that starts and ends at multiples of `align`, a power of two, and has all of this in it.
    pub const fn widened(&self, align: u64) -> Region {
        Self { base: self.base & !(align - 1), last: self.last | (align - 1) }
    }

    /// Its first `size` bytes that start at a multiple of `align`, a power of two.
    fn first_fit(&self, size: u64, align: u64) -> Option<Region> {
        let base = self.base.checked_next_multiple_of(align)?;
        Region::new(Hpa(base), size).filter(|found| self.covers(found))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.base, self.last)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why memory could not be handed out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemError {
    /// There is not that much of it left, or no piece of it that is large enough.
    Exhausted {
        /// How much was asked for, in bytes.
        asked: u64,
        /// How much is free in usable pieces, in bytes.
        free: u64,
    },
    /// The size is zero or no multiple of the granule.
    Unaligned,
    /// What is given back is free already, or was never there.
    NotTaken,
    /// There would be more than [`CAPACITY`] separate ranges.
    Full,
}

/// A set of physical memory: ranges in ascending order that neither touch nor overlap.
#[derive(Clone)]
pub struct Regions {
    list: [Region; CAPACITY],
    len: usize,
}

impl Default for Regions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Regions {
    /// No memory at all.
    pub const fn new() -> Self {
        Self { list: [Region { base: 0, last: 0 }; CAPACITY], len: 0 }
    }

    /// The ranges in it, in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Region> + '_ {
        self.list[..self.len].iter().copied()
    }

    /// How many bytes are in it.
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum, region| sum.saturating_add(region.size()))
    }

    /// Whether all of `region` is in it.
    pub fn covers(&self, region: &Region) -> bool {
        self.iter().any(|own| own.covers(region))
    }

    /// Whether any of `region` is in it.
    pub fn overlaps(&self, region: &Region) -> bool {
        self.iter().any(|own| own.overlaps(region))
    }

    /// Adds a range, joining it with what it touches or overlaps. On an error nothing has changed.
    pub fn insert(&mut self, region: Region) -> Result<(), MemError> {
        let mut joined = region;
        let touches = |own: &Region| {
            let above = own.last.checked_add(1).is_some_and(|next| next < region.base);
            let below = region.last.checked_add(1).is_some_and(|next| next < own.base);
            !above && !below
        };
        let kept = self.iter().filter(|own| !touches(own)).count();
        if kept == CAPACITY {
            return Err(MemError::Full);
        }
        let mut list = Self::new();
        for own in self.iter() {
            if touches(&own) {
                joined = Region { base: joined.base.min(own.base), last: joined.last.max(own.last) };
            } else {
                list.push(own);
            }
        }
        list.push(joined);
        list.list[..list.len].sort_unstable();
        *self = list;
        Ok(())
    }

    /// Takes out whatever of a range is in it. On an error nothing has changed.
    pub fn remove(&mut self, region: Region) -> Result<(), MemError> {
        let below =
            |own: &Region| region.base.checked_sub(1).and_then(|last| Region::between(own.base, last));
        let above =
            |own: &Region| region.last.checked_add(1).and_then(|base| Region::between(base, own.last));
        let splits =
            self.iter().any(|own| own.overlaps(&region) && below(&own).is_some() && above(&own).is_some());
        if splits && self.len == CAPACITY {
            return Err(MemError::Full);
        }
        let mut list = Self::new();
        for own in self.iter() {
            if own.overlaps(&region) {
                below(&own).into_iter().chain(above(&own)).for_each(|part| list.push(part));
            } else {
                list.push(own);
            }
        }
        *self = list;
        Ok(())
    }

    /// Adds a range at the end; the caller has made sure that there is room.
    fn push(&mut self, region: Region) {
        self.list[self.len] = region;
        self.len += 1;
    }
}

impl FromIterator<Region> for Regions {
    /// Collects ranges; what would exceed [`CAPACITY`] is left out.
    fn from_iter<I: IntoIterator<Item = Region>>(regions: I) -> Self {
        let mut set = Self::new();
        for region in regions {
            // Memory that is not known of is memory that is not used: safe, and this many pieces are rare.
            let _ = set.insert(region);
        }
        set
    }
}

/// The memory that nobody has yet.
#[derive(Clone, Debug)]
pub struct Memory {
    free: Regions,
    all: Regions,
}

impl Memory {
    /// Starts with all the memory the machine has.
    pub fn new(all: Regions) -> Self {
        Self { free: all.clone(), all }
    }

    /// All the memory the machine has.
    pub fn all(&self) -> &Regions {
        &self.all
    }

    /// What is free.
    pub fn free_regions(&self) -> &Regions {
        &self.free
    }

    /// Sets aside what is in use already: reserved ranges, the image, the tree, modules. Where nothing is free, or no
    /// memory is, nothing happens.
    pub fn reserve(&mut self, region: Region) -> Result<(), MemError> {
        self.free.remove(region)
    }

    /// Takes one piece of `size` bytes at a multiple of `align`, a power of two, from the smallest free range that has
    /// room, so that large ranges stay whole.
    pub fn carve(&mut self, size: u64, align: u64) -> Result<Region, MemError> {
        let found =
            self.best_fit(size, align).ok_or(MemError::Exhausted { asked: size, free: self.free.total() })?;
        self.free.remove(found)?;
        Ok(found)
    }

    fn best_fit(&self, size: u64, align: u64) -> Option<Region> {
        let fitting = self.free.iter().filter_map(|own| Some((own.size(), own.first_fit(size, align)?)));
        fitting.min_by_key(|(room, _)| *room).map(|(_, found)| found)
    }

    /// Takes `size` bytes, a multiple of [`GRANULE`], for a guest: in one piece at a multiple of a gigabyte if the
    /// guest is large enough to profit, else in one piece, else in as few pieces as there can be. All pieces are
    /// multiples of the granule in place and size. On an error nothing has been taken.
    pub fn allocate(&mut self, size: u64) -> Result<Vec<Region>, MemError> {
        if size == 0 || !size.is_multiple_of(GRANULE) {
            return Err(MemError::Unaligned);
        }
        let aligned = (size >= GIGABYTE).then(|| self.best_fit(size, GIGABYTE)).flatten();
        if let Some(whole) = aligned.or_else(|| self.best_fit(size, GRANULE)) {
            self.free.remove(whole)?;
            return Ok(Vec::from([whole]));
        }
        self.gather(size)
    }

    /// Takes `size` bytes from the largest free ranges.
    fn gather(&mut self, size: u64) -> Result<Vec<Region>, MemError> {
        let mut pieces: Vec<Region> = self.free.iter().filter_map(|own| own.aligned(GRANULE)).collect();
        pieces.sort_unstable_by_key(|piece| core::cmp::Reverse(piece.size()));
        let usable = pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.size()));
        if usable < size {
            return Err(MemError::Exhausted { asked: size, free: usable });
        }
        let mut taken = Vec::new();
        let mut rest = size;
        let mut free = self.free.clone();
        for piece in pieces {
            let part = Region::new(piece.base(), piece.size().min(rest)).ok_or(MemError::Unaligned)?;
            free.remove(part)?;
            taken.push(part);
            rest -= part.size();
            if rest == 0 {
                break;
            }
        }
        self.free = free;
        Ok(taken)
    }

    /// Takes back what [`Memory::carve`] or [`Memory::allocate`] gave out.
    pub fn release(&mut self, region: Region) -> Result<(), MemError> {
        if self.free.overlaps(&region) || !self.all.covers(&region) {
            return Err(MemError::NotTaken);
        }
        self.free.insert(region)
    }
}
