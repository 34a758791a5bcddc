//! One page-table walker for every format.
//!
//! A [`Format`] says what an entry looks like; [`Tables`] says where tables come from and how a word of one is
//! reached; a [`Space`] is a tree of tables that maps, unmaps and looks up, in the largest blocks that fit.
//!
//! Levels are counted from the leaves: level 0 has the pages, level 1 the next larger blocks, and so on up to the
//! root. Manuals count the other way, from a root that is not always at the same level.
//!
//! The walker never changes a valid entry into another valid one. Where a block has to become a table it first takes
//! the block away, then has the caller flush what translations may be cached, and only then writes the table: that is
//! what `flush` in [`Space::unmap`] is for (break-before-make, DDI0487 D8.16.1). In between, an access to the block
//! faults although it is mapped; whoever handles the fault asks [`Space::lookup`] and lets the access be repeated.
//!
//! A change happens whole or not at all. [`Space::map`] first looks whether everything is free, then makes all tables,
//! and only then writes leaves; [`Space::unmap`] first splits the blocks at its two ends, which changes what no
//! address means, and only then removes leaves.
//!
//! Writes of entries are ordered after the writes of what they point to (`Release`); making them visible to the
//! hardware's walker before the next entry into a guest is a barrier that the architecture issues after the call.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gpa, Hpa};

/// The most levels a format can have.
pub const MAX_LEVELS: usize = 5;

/// What may be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Memory to read, write and execute: what a guest gets.
    Memory,
    /// Memory to read and execute: code.
    ReadOnly,
    /// Memory to read and write.
    Data,
    /// Memory to read.
    Constant,
    /// Device registers, to read and write in order and never speculatively.
    Device,
}

/// Why a mapping could not be made or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// An address or size is not a multiple of the page size, or the size is zero.
    Unaligned,
    /// Something is mapped there already.
    Taken,
    /// Something there is not mapped.
    Empty,
    /// No memory is left for tables.
    NoMemory,
    /// It lies beyond what the tables can describe.
    OutOfRange,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The next table.
    Table(Hpa),
    /// A page or block.
    Leaf(Hpa, Rights),
}

/// What page tables look like. Entries have eight bytes.
pub trait Format {
    /// How many levels there are, at most [`MAX_LEVELS`].
    fn levels(&self) -> usize;
    /// How many bits of an address choose an entry of a table of `level`; at the root, more than elsewhere if its table
    /// is several in a row.
    fn bits(&self, level: usize) -> u32;
    /// The lowest bit of an address that chooses an entry of a table of `level`. An entry covers two to that power
    /// bytes.
    fn shift(&self, level: usize) -> u32;
    /// Whether an entry of `level` can be a leaf.
    fn leaf_at(&self, level: usize) -> bool;
    /// The addresses that can be mapped to, in bits.
    fn output_bits(&self) -> u32;
    /// The entry of `level` that maps nothing. Where entries of directories have no valid bit, it points to a table
    /// that maps nothing in turn.
    fn empty(&self, level: usize) -> u64;
    /// The entry of `level` that points to the table `to`.
    fn table(&self, to: Hpa, level: usize) -> u64;
    /// The entry of `level` that maps `to`.
    fn leaf(&self, to: Hpa, rights: Rights, level: usize) -> u64;
    /// What an entry of `level` says.
    fn classify(&self, entry: u64, level: usize) -> Entry;
}

/// Where tables are.
pub trait Tables {
    /// One aligned word of a table that [`Tables::allocate`] gave.
    fn word(&self, at: Hpa) -> &AtomicU64;
    /// Memory for a table: `size` bytes, a power of two, at a multiple of `size`. Its content does not matter.
    fn allocate(&mut self, size: usize) -> Option<Hpa>;
    /// Takes back what [`Tables::allocate`] gave. No walker can reach it any more.
    fn release(&mut self, table: Hpa, size: usize);
}

/// An address space: the addresses of a guest, or our own.
///
/// Dropping it releases its tables; by then no CPU may be using them.
pub struct Space<F: Format, T: Tables> {
    format: F,
    tables: T,
    root: Hpa,
}

/// A range of addresses, of which the end is not part. Addresses have fewer than 64 bits, so it exists.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    to: u64,
}

/// The part of a span that one entry covers.
#[derive(Clone, Copy)]
struct Slot {
    /// Where the entry is.
    at: Hpa,
    part: Span,
    /// Whether the part is all that the entry covers.
    whole: bool,
}

impl<F: Format, T: Tables> Space<F, T> {
    /// Makes an empty space.
    pub fn new(format: F, tables: T) -> Result<Self, MapError> {
        let top = format.levels() - 1;
        let mut space = Self { format, tables, root: Hpa(0) };
        space.root = space.new_table(top)?;
        Ok(space)
    }

    /// The root table, for the register that points to it.
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// The format of the tables.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// How many bits the addresses of this space have.
    pub fn input_bits(&self) -> u32 {
        let top = self.top();
        self.format.shift(top) + self.format.bits(top)
    }

    /// The size of a page in bytes.
    pub fn page_size(&self) -> u64 {
        self.reach(0)
    }

    /// Maps `size` bytes at `from` to `to`, in the largest blocks that fit. On an error nothing has been mapped.
    pub fn map(&mut self, from: Gpa, to: Hpa, size: u64, rights: Rights) -> Result<(), MapError> {
        if !to.0.is_multiple_of(self.page_size()) {
            return Err(MapError::Unaligned);
        }
        let span = self.span(from, size)?;
        if to.0.checked_add(size).is_none_or(|end| end > 1 << self.format.output_bits()) {
            return Err(MapError::OutOfRange);
        }
        if !self.is_vacant(self.root, self.top(), span) {
            return Err(MapError::Taken);
        }
        // What has to be added to an address to translate it; it wraps where `to` is below `from`.
        let delta = to.0.wrapping_sub(from.0);
        self.prepare(self.root, self.top(), span, delta)?;
        self.fill(self.root, self.top(), span, delta, rights);
        Ok(())
    }

    /// Takes `size` bytes at `from` away, all of which are mapped. Calls `flush` with a start and a size in bytes
    /// whenever no CPU may go on using a cached translation of that range. On an error nothing has been taken away.
    pub fn unmap(&mut self, from: Gpa, size: u64, mut flush: impl FnMut(Gpa, u64)) -> Result<(), MapError> {
        let span = self.span(from, size)?;
        if !self.is_covered(self.root, self.top(), span) {
            return Err(MapError::Empty);
        }
        self.split(span.from, &mut flush)?;
        self.split(span.to, &mut flush)?;
        let mut dead = Vec::new();
        self.clear(self.root, self.top(), span, &mut dead);
        flush(from, size);
        for (table, size) in dead {
            self.tables.release(table, size);
        }
        Ok(())
    }

    /// What `at` is mapped to, if it is.
    pub fn lookup(&self, at: Gpa) -> Option<(Hpa, Rights)> {
        if at.0 >> self.input_bits() != 0 {
            return None;
        }
        let mut table = self.root;
        for level in (0..=self.top()).rev() {
            match self.read(self.entry(table, level, at.0), level) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next,
                Entry::Leaf(to, rights) => return Some((Hpa(to.0 + at.0 % self.reach(level)), rights)),
            }
        }
        None
    }

    fn top(&self) -> usize {
        self.format.levels() - 1
    }

    /// How many bytes an entry of `level` covers.
    fn reach(&self, level: usize) -> u64 {
        1 << self.format.shift(level)
    }

    /// How many bytes a table of `level` takes.
    fn table_size(&self, level: usize) -> usize {
        8 << self.format.bits(level)
    }

    /// Checks a range of addresses.
    fn span(&self, from: Gpa, size: u64) -> Result<Span, MapError> {
        if size == 0 || !(from.0 | size).is_multiple_of(self.page_size()) {
            return Err(MapError::Unaligned);
        }
        let to = from.0.checked_add(size).filter(|end| *end <= 1 << self.input_bits());
        Ok(Span { from: from.0, to: to.ok_or(MapError::OutOfRange)? })
    }

    /// Where the entry for `address` is in a table of `level`.
    fn entry(&self, table: Hpa, level: usize, address: u64) -> Hpa {
        let index = address >> self.format.shift(level) & ((1 << self.format.bits(level)) - 1);
        Hpa(table.0 + index * 8)
    }

    fn read(&self, at: Hpa, level: usize) -> Entry {
        self.format.classify(self.tables.word(at).load(Ordering::Acquire), level)
    }

    fn write(&self, at: Hpa, value: u64) {
        self.tables.word(at).store(value, Ordering::Release);
    }

    /// The entry of a table of `level` that `span` starts in, and what of the span is left after it.
    fn slot(&self, table: Hpa, level: usize, span: Span) -> Option<(Slot, Span)> {
        if span.from >= span.to {
            return None;
        }
        let reach = self.reach(level);
        let end = (span.from - span.from % reach + reach).min(span.to);
        let slot = Slot {
            at: self.entry(table, level, span.from),
            part: Span { from: span.from, to: end },
            whole: end - span.from == reach,
        };
        Some((slot, Span { from: end, to: span.to }))
    }

    /// Makes a table that maps nothing.
    fn new_table(&mut self, level: usize) -> Result<Hpa, MapError> {
        let size = self.table_size(level);
        let table = self.tables.allocate(size).ok_or(MapError::NoMemory)?;
        let empty = self.format.empty(level);
        (0..size as u64).step_by(8).for_each(|at| self.write(Hpa(table.0 + at), empty));
        Ok(table)
    }

    /// Whether nothing in `span` is mapped.
    fn is_vacant(&self, table: Hpa, level: usize, mut span: Span) -> bool {
        while let Some((slot, rest)) = self.slot(table, level, span) {
            let vacant = match self.read(slot.at, level) {
                Entry::Empty => true,
                Entry::Table(next) => self.is_vacant(next, level - 1, slot.part),
                Entry::Leaf(..) => false,
            };
            if !vacant {
                return false;
            }
            span = rest;
        }
        true
    }

    /// Whether all of `span` is mapped.
    fn is_covered(&self, table: Hpa, level: usize, mut span: Span) -> bool {
        while let Some((slot, rest)) = self.slot(table, level, span) {
            let covered = match self.read(slot.at, level) {
                Entry::Empty => false,
                Entry::Table(next) => self.is_covered(next, level - 1, slot.part),
                Entry::Leaf(..) => true,
            };
            if !covered {
                return false;
            }
            span = rest;
        }
        true
    }

    /// Whether an empty slot can become a leaf.
    fn fits(&self, slot: &Slot, level: usize, delta: u64) -> bool {
        let to = slot.part.from.wrapping_add(delta);
        slot.whole && self.format.leaf_at(level) && to.is_multiple_of(self.reach(level))
    }

    /// Makes the tables that mapping a vacant `span` takes. If memory runs out, those that were made stay, empty, and
    /// serve the next attempt.
    fn prepare(&mut self, table: Hpa, level: usize, mut span: Span, delta: u64) -> Result<(), MapError> {
        while let Some((slot, rest)) = self.slot(table, level, span) {
            match self.read(slot.at, level) {
                Entry::Table(next) => self.prepare(next, level - 1, slot.part, delta)?,
                Entry::Empty if !self.fits(&slot, level, delta) => {
                    let next = self.new_table(level - 1)?;
                    self.write(slot.at, self.format.table(next, level));
                    self.prepare(next, level - 1, slot.part, delta)?;
                }
                Entry::Empty | Entry::Leaf(..) => {}
            }
            span = rest;
        }
        Ok(())
    }

    /// Writes the leaves of a `span` whose tables are there.
    fn fill(&mut self, table: Hpa, level: usize, mut span: Span, delta: u64, rights: Rights) {
        while let Some((slot, rest)) = self.slot(table, level, span) {
            match self.read(slot.at, level) {
                Entry::Table(next) => self.fill(next, level - 1, slot.part, delta, rights),
                Entry::Empty => {
                    let to = Hpa(slot.part.from.wrapping_add(delta));
                    self.write(slot.at, self.format.leaf(to, rights, level));
                }
                Entry::Leaf(..) => {}
            }
            span = rest;
        }
    }

    /// Makes `at` a border between leaves, without changing what any address means.
    fn split(&mut self, at: u64, flush: &mut impl FnMut(Gpa, u64)) -> Result<(), MapError> {
        if at >> self.input_bits() != 0 {
            return Ok(());
        }
        let mut table = self.root;
        for level in (0..=self.top()).rev() {
            let slot = self.entry(table, level, at);
            let reach = self.reach(level);
            table = match self.read(slot, level) {
                Entry::Empty => return Ok(()),
                Entry::Table(next) => next,
                Entry::Leaf(..) if at.is_multiple_of(reach) => return Ok(()),
                Entry::Leaf(to, rights) => {
                    let next = self.shattered(to, rights, level - 1)?;
                    self.write(slot, self.format.empty(level));
                    flush(Gpa(at - at % reach), reach);
                    self.write(slot, self.format.table(next, level));
                    next
                }
            };
        }
        Ok(())
    }

    /// Makes a table of `level` that maps all it covers to memory in a row. Where entries of that level cannot be
    /// leaves, it takes more tables below.
    fn shattered(&mut self, to: Hpa, rights: Rights, level: usize) -> Result<Hpa, MapError> {
        let table = self.new_table(level)?;
        for index in 0..1 << self.format.bits(level) {
            let to = Hpa(to.0 + index * self.reach(level));
            let entry = if self.format.leaf_at(level) {
                self.format.leaf(to, rights, level)
            } else {
                match self.shattered(to, rights, level - 1) {
                    Ok(next) => self.format.table(next, level),
                    Err(error) => {
                        self.release_below(table, level);
                        return Err(error);
                    }
                }
            };
            self.write(Hpa(table.0 + index * 8), entry);
        }
        Ok(table)
    }

    /// Removes the leaves in `span`, at whose ends no leaf has to be split, and the tables that are empty then. Those
    /// may still be cached, so they are only listed.
    fn clear(&mut self, table: Hpa, level: usize, mut span: Span, dead: &mut Vec<(Hpa, usize)>) {
        while let Some((slot, rest)) = self.slot(table, level, span) {
            match self.read(slot.at, level) {
                Entry::Empty => {}
                Entry::Leaf(..) => self.write(slot.at, self.format.empty(level)),
                Entry::Table(next) => {
                    self.clear(next, level - 1, slot.part, dead);
                    if slot.whole || self.is_empty(next, level - 1) {
                        self.write(slot.at, self.format.empty(level));
                        dead.push((next, self.table_size(level - 1)));
                    }
                }
            }
            span = rest;
        }
    }

    /// Whether no entry of a table is in use.
    fn is_empty(&self, table: Hpa, level: usize) -> bool {
        let mut entries = (0..self.table_size(level) as u64).step_by(8);
        entries.all(|at| self.read(Hpa(table.0 + at), level) == Entry::Empty)
    }

    /// Releases a table and all below it.
    fn release_below(&mut self, table: Hpa, level: usize) {
        for at in (0..self.table_size(level) as u64).step_by(8) {
            if let Entry::Table(next) = self.read(Hpa(table.0 + at), level) {
                self.release_below(next, level - 1);
            }
        }
        self.tables.release(table, self.table_size(level));
    }
}

impl<F: Format, T: Tables> Drop for Space<F, T> {
    fn drop(&mut self) {
        self.release_below(self.root, self.top());
    }
}
