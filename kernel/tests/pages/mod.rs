//! What page tables are held against: a list of segments, memory that notices misuse, and a TLB that caches all it can.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel::addr::{Gpa, Hpa};
use kernel::paging::{Entry, Format, MapError, Rights, Space, Tables};
use proptest::prelude::*;

/// Where the memory for tables is.
const BASE: u64 = 0x9_8000_0000;

/// Memory for tables, which notices tables that are used after their release or released twice.
pub(crate) struct Pool {
    words: Vec<AtomicU64>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Live tables, by offset.
    live: BTreeMap<u64, usize>,
    releases: usize,
}

impl Pool {
    /// A pool of that many bytes.
    pub(crate) fn new(size: usize) -> Rc<Self> {
        let words = (0..size / 8).map(|_| AtomicU64::new(!0)).collect();
        Rc::new(Self { words, state: RefCell::default() })
    }

    /// How many tables there are.
    pub(crate) fn live(&self) -> usize {
        self.state.borrow().live.len()
    }
}

/// A share of a pool.
pub(crate) struct Handle(pub(crate) Rc<Pool>);

impl Tables for Handle {
    fn word(&self, at: Hpa) -> &AtomicU64 {
        let offset = at.0 - BASE;
        let state = self.0.state.borrow();
        let (start, size) = state.live.range(..=offset).next_back().expect("a table is there");
        assert!(
            offset - start < *size as u64 && offset.is_multiple_of(8),
            "a word of a table that is gone: {at:x?}"
        );
        &self.0.words[offset as usize / 8]
    }

    fn allocate(&mut self, size: usize) -> Option<Hpa> {
        assert!(size.is_power_of_two());
        let mut state = self.0.state.borrow_mut();
        let free = |at: &u64| {
            let before = state.live.range(..*at + size as u64).next_back();
            before.is_none_or(|(start, length)| start + *length as u64 <= *at)
        };
        let at = (0..self.0.words.len() as u64 * 8).step_by(size).find(free)?;
        if at + size as u64 > self.0.words.len() as u64 * 8 {
            return None;
        }
        state.live.insert(at, size);
        Some(Hpa(BASE + at))
    }

    fn release(&mut self, table: Hpa, size: usize) {
        let mut state = self.0.state.borrow_mut();
        assert_eq!(state.live.remove(&(table.0 - BASE)), Some(size), "a table is released once, and whole");
        state.releases += 1;
        let first = (table.0 - BASE) as usize / 8;
        self.0.words[first..first + size / 8].iter().for_each(|word| word.store(!0, Ordering::Relaxed));
    }
}

/// A run of addresses that are mapped in a row, or one block as a TLB caches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: u64,
    pub(crate) size: u64,
    pub(crate) to: u64,
    pub(crate) rights: Rights,
}

impl Segment {
    fn end(&self) -> u64 {
        self.from + self.size
    }

    fn overlaps(&self, from: u64, size: u64) -> bool {
        self.from < from + size && from < self.end()
    }
}

/// Joins segments that are one in all but name.
fn joined(segments: &[Segment]) -> Vec<Segment> {
    let mut list: Vec<Segment> = Vec::new();
    for segment in segments {
        match list.last_mut() {
            Some(last)
                if last.end() == segment.from
                    && last.to + last.size == segment.to
                    && last.rights == segment.rights =>
            {
                last.size += segment.size;
            }
            _ => list.push(*segment),
        }
    }
    list
}

/// Takes a range out of a sorted list of segments.
fn cut(segments: &mut Vec<Segment>, from: u64, size: u64) {
    let mut rest = Vec::new();
    for own in segments.drain(..) {
        if !own.overlaps(from, size) {
            rest.push(own);
            continue;
        }
        if own.from < from {
            rest.push(Segment { size: from - own.from, ..own });
        }
        let end = from + size;
        if own.end() > end {
            rest.push(Segment { from: end, size: own.end() - end, to: own.to + (end - own.from), ..own });
        }
    }
    *segments = rest;
}

/// The leaves of a space, by a walk of our own over the words in memory.
pub(crate) fn leaves<F: Format>(format: &F, pool: &Rc<Pool>, root: Hpa) -> Vec<Segment> {
    fn walk<F: Format>(
        format: &F,
        pool: &Handle,
        table: Hpa,
        level: usize,
        base: u64,
        out: &mut Vec<Segment>,
    ) {
        for index in 0..1u64 << format.bits(level) {
            let entry = pool.word(Hpa(table.0 + index * 8)).load(Ordering::Relaxed);
            let from = base + (index << format.shift(level));
            match format.classify(entry, level) {
                Entry::Empty => {}
                Entry::Table(next) => walk(format, pool, next, level - 1, from, out),
                Entry::Leaf(to, rights) => {
                    out.push(Segment { from, size: 1 << format.shift(level), to: to.0, rights });
                }
            }
        }
    }
    let mut out = Vec::new();
    walk(format, &Handle(Rc::clone(pool)), root, format.levels() - 1, 0, &mut out);
    out
}

/// A TLB that caches every translation it can get, by the address it starts at.
struct Tlb(BTreeMap<u64, Segment>);

impl Tlb {
    /// What is cached that overlaps a range. No cached translation overlaps another, so they are in order.
    fn cached(&self, from: u64, size: u64) -> impl Iterator<Item = &Segment> {
        self.0.range(..from + size).rev().map(|(_, own)| own).take_while(move |own| own.overlaps(from, size))
    }

    fn flush(&mut self, from: u64, size: u64) {
        // Flushing a part of a block flushes the block.
        let gone: Vec<u64> = self.cached(from, size).map(|own| own.from).collect();
        for at in gone {
            self.0.remove(&at);
        }
    }

    /// Walks the tables for all that is not cached. Two cached translations of one address are a conflict.
    fn fill(&mut self, leaves: &[Segment]) {
        for leaf in leaves {
            if self.0.get(&leaf.from) != Some(leaf) {
                let old = self.cached(leaf.from, leaf.size).next();
                assert_eq!(old, None, "cached when {leaf:x?} was written: break before make");
                self.0.insert(leaf.from, *leaf);
            }
        }
    }
}

/// What is done to a space.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Maps from, to, size.
    Map(u64, u64, u64, Rights),
    /// Unmaps from, size.
    Unmap(u64, u64),
}

/// An address or size: a few of each level's reach, and now and then a bit that is no multiple of a page.
fn amount(shifts: Vec<u32>) -> impl Strategy<Value = u64> {
    let digits =
        prop::collection::vec(prop_oneof![3 => Just(0u64), 2 => 1u64..3, 1 => 3u64..6], shifts.len());
    (digits, prop::bool::weighted(0.02)).prop_map(move |(digits, odd)| {
        let sum = digits.iter().zip(&shifts).map(|(digit, shift)| digit << shift).sum::<u64>();
        sum + if odd { 8 } else { 0 }
    })
}

/// Things to do to a space of that format.
pub(crate) fn any_ops<F: Format>(format: &F) -> impl Strategy<Value = Vec<Op>> + use<F> {
    let shifts: Vec<u32> = (0..format.levels()).map(|level| format.shift(level)).collect();
    let top = format.levels() - 1;
    let end = 1u64 << (format.shift(top) + format.bits(top));
    // Also at the end of the space, and beyond.
    let place = || {
        let low = amount(shifts.clone());
        let high = amount(shifts.clone()).prop_map(move |back| end.saturating_sub(back));
        prop_oneof![6 => low, 1 => high]
    };
    let target = (amount(shifts.clone()), prop::bool::weighted(0.02));
    let far = 1u64 << format.output_bits();
    let target = target.prop_map(move |(to, over)| if over { far - to } else { to });
    let rights = || {
        prop::sample::select(vec![
            Rights::Memory,
            Rights::ReadOnly,
            Rights::Data,
            Rights::Constant,
            Rights::Device,
        ])
    };
    let map =
        (place(), target, amount(shifts.clone()), rights()).prop_map(|(f, t, s, r)| Op::Map(f, t, s, r));
    let straight = (place(), amount(shifts.clone()), rights()).prop_map(|(f, s, r)| Op::Map(f, f, s, r));
    let unmap = (place(), amount(shifts.clone())).prop_map(|(f, s)| Op::Unmap(f, s));
    prop::collection::vec(prop_oneof![2 => map, 3 => straight, 4 => unmap], 1..24)
}

/// What a call should say, memory for tables aside.
fn verdict<F: Format>(format: &F, model: &[Segment], op: &Op) -> Result<(), MapError> {
    let page = 1u64 << format.shift(0);
    let top = format.levels() - 1;
    let (from, size) = match op {
        Op::Map(from, _, size, _) | Op::Unmap(from, size) => (*from, *size),
    };
    let to = if let Op::Map(_, to, ..) = op { *to } else { 0 };
    if size == 0 || [from, size, to].iter().any(|value| value % page != 0) {
        return Err(MapError::Unaligned);
    }
    if from + size > 1 << (format.shift(top) + format.bits(top)) || to + size > 1 << format.output_bits() {
        return Err(MapError::OutOfRange);
    }
    let mapped: u64 = model
        .iter()
        .filter(|own| own.overlaps(from, size))
        .map(|own| own.end().min(from + size) - own.from.max(from))
        .sum();
    match op {
        Op::Map(..) if mapped > 0 => Err(MapError::Taken),
        Op::Unmap(..) if mapped < size => Err(MapError::Empty),
        _ => Ok(()),
    }
}

/// Does things to a space and to a list of segments, and compares all there is to compare after each.
pub(crate) fn agrees_with_a_list<F: Format + Clone>(format: F, memory: usize, ops: &[Op]) {
    let pool = Pool::new(memory);
    let Ok(mut space) = Space::new(format.clone(), Handle(Rc::clone(&pool))) else { return };
    let root = space.root();
    let mut model: Vec<Segment> = Vec::new();
    let mut tlb = Tlb(BTreeMap::new());
    for op in ops {
        let expected = verdict(&format, &model, op);
        let released = pool.state.borrow().releases;
        let result = match *op {
            Op::Map(from, to, size, rights) => space.map(Gpa(from), Hpa(to), size, rights),
            Op::Unmap(from, size) => space.unmap(Gpa(from), size, |at, size| {
                assert_eq!(
                    pool.state.borrow().releases,
                    released,
                    "no table is released before the last flush"
                );
                tlb.flush(at.0, size);
                tlb.fill(&leaves(&format, &pool, root));
            }),
        };
        let ran_out = expected.is_ok() && result == Err(MapError::NoMemory);
        assert!(result == expected || ran_out, "{op:x?}: {result:?}, expected {expected:?}");
        match *op {
            Op::Map(from, to, size, rights) if result.is_ok() => {
                model.push(Segment { from, size, to, rights });
                model.sort_by_key(|own| own.from);
            }
            Op::Unmap(from, size) if result.is_ok() => cut(&mut model, from, size),
            _ => {}
        }
        let now = leaves(&format, &pool, root);
        assert_eq!(joined(&now), joined(&model), "after {op:x?}");
        tlb.fill(&now);
        // Nothing cached is stale.
        assert!(tlb.0.values().eq(now.iter()), "stale after {op:x?}");
        for own in &model {
            for at in [own.from, own.from + own.size / 2, own.end() - 1] {
                let wanted = (Hpa(own.to + (at - own.from)), own.rights);
                assert_eq!(space.lookup(Gpa(at)), Some(wanted));
            }
            if !model.iter().any(|other| other.from == own.end()) {
                assert_eq!(space.lookup(Gpa(own.end())), None);
            }
        }
    }
    drop(space);
    assert_eq!(pool.live(), 0, "all tables are released with the space");
}
