//! The page-table walker, on two formats made for it: one with a valid bit, and one whose directories have none.

mod pages;

use std::rc::Rc;

use kernel::addr::{Gpa, Hpa};
use kernel::paging::{Entry, Format, MapError, Rights, Space};
use pages::{Handle, Op, Pool, Segment, agrees_with_a_list, any_ops, leaves};
use proptest::prelude::*;

const RIGHTS: [Rights; 5] =
    [Rights::Memory, Rights::ReadOnly, Rights::Data, Rights::Constant, Rights::Device];

/// Rights as three bits.
fn code(rights: Rights) -> u64 {
    RIGHTS.iter().position(|other| *other == rights).unwrap() as u64
}

/// Small tables with blocks at every level and a double-sized root. Bit 0 is valid, bit 1 a table.
#[derive(Clone, Debug)]
struct Valid;

impl Format for Valid {
    fn levels(&self) -> usize {
        3
    }
    fn bits(&self, level: usize) -> u32 {
        [2, 2, 3][level]
    }
    fn shift(&self, level: usize) -> u32 {
        12 + 2 * level as u32
    }
    fn leaf_at(&self, _: usize) -> bool {
        true
    }
    fn output_bits(&self) -> u32 {
        40
    }
    fn empty(&self, _: usize) -> u64 {
        0
    }
    fn table(&self, to: Hpa, _: usize) -> u64 {
        to.0 | 3
    }
    fn leaf(&self, to: Hpa, rights: Rights, _: usize) -> u64 {
        to.0 | code(rights) << 2 | 1
    }
    fn classify(&self, entry: u64, level: usize) -> Entry {
        match (entry & 3, level) {
            (1, _) => Entry::Leaf(Hpa(entry & !0xfff), RIGHTS[(entry >> 2 & 7) as usize]),
            (3, 1..) => Entry::Table(Hpa(entry & !0x1f)),
            _ => Entry::Empty,
        }
    }
}

/// Four levels whose directories have no valid bit: an empty entry points to a table of empty entries, and a bit far
/// from it says that an entry is a block. Blocks are on the third level only, so that splitting one takes two levels.
#[derive(Clone, Debug)]
struct Directories;

impl Directories {
    const HUGE: u64 = 1 << 6;
    const VALID: u64 = 1 << 0;

    /// The table of empty entries that an empty entry of `level` points to.
    fn nothing(level: usize) -> u64 {
        0x7000_0000 + level as u64 * 0x1000
    }
}

impl Format for Directories {
    fn levels(&self) -> usize {
        4
    }
    fn bits(&self, _: usize) -> u32 {
        4
    }
    fn shift(&self, level: usize) -> u32 {
        14 + 4 * level as u32
    }
    fn leaf_at(&self, level: usize) -> bool {
        level == 0 || level == 2
    }
    fn output_bits(&self) -> u32 {
        48
    }
    fn empty(&self, level: usize) -> u64 {
        if level == 0 { 0 } else { Self::nothing(level) }
    }
    fn table(&self, to: Hpa, _: usize) -> u64 {
        to.0
    }
    fn leaf(&self, to: Hpa, rights: Rights, level: usize) -> u64 {
        to.0 | code(rights) << 1 | if level == 0 { Self::VALID } else { Self::HUGE }
    }
    fn classify(&self, entry: u64, level: usize) -> Entry {
        let leaf = Entry::Leaf(Hpa(entry & !0x3fff), RIGHTS[(entry >> 1 & 7).min(4) as usize]);
        match level {
            0 if entry & Self::VALID != 0 => leaf,
            0 => Entry::Empty,
            _ if entry & Self::HUGE != 0 => leaf,
            _ if entry == Self::nothing(level) => Entry::Empty,
            _ => Entry::Table(Hpa(entry)),
        }
    }
}

proptest! {
    #[test]
    fn valid_bits_agree_with_a_list(ops in any_ops(&Valid), memory in prop_oneof![Just(0x4000), 64usize..1024]) {
        agrees_with_a_list(Valid, memory, &ops);
    }

    #[test]
    fn directories_agree_with_a_list(
        ops in any_ops(&Directories),
        memory in prop_oneof![Just(0x8000), 128usize..2048],
    ) {
        agrees_with_a_list(Directories, memory, &ops);
    }

    #[test]
    fn with_memory_for_tables_nothing_runs_out(ops in any_ops(&Valid)) {
        let pool = Pool::new(0x10_0000);
        let mut space = Space::new(Valid, Handle(Rc::clone(&pool))).unwrap();
        for op in ops {
            let result = match op {
                Op::Map(from, to, size, rights) => space.map(Gpa(from), Hpa(to), size, rights),
                Op::Unmap(from, size) => space.unmap(Gpa(from), size, |_, _| {}),
            };
            prop_assert_ne!(result, Err(MapError::NoMemory));
        }
    }
}

#[test]
fn the_largest_blocks_are_used() {
    let pool = Pool::new(0x4000);
    let mut space = Space::new(Valid, Handle(Rc::clone(&pool))).unwrap();
    // A page, three of the middle size, a large one, a middle one and a page: the most that alignment lets be.
    let from = 0x1_0000 - 0x4000 * 3 - 0x1000;
    let size = 0x1000 + 3 * 0x4000 + 0x1_0000 + 0x4000 + 0x1000;
    space.map(Gpa(from), Hpa(from + 0x10_0000), size, Rights::Memory).unwrap();
    let sizes: Vec<u64> = leaves(&Valid, &pool, space.root()).iter().map(|leaf| leaf.size).collect();
    assert_eq!(sizes, [0x1000, 0x4000, 0x4000, 0x4000, 0x1_0000, 0x4000, 0x1000]);
    // Where the target is not aligned alike, only pages do.
    space.map(Gpa(0x4_0000), Hpa(0x1000), 0x1_0000, Rights::Data).unwrap();
    let pages = leaves(&Valid, &pool, space.root()).iter().filter(|leaf| leaf.from >= 0x4_0000).count();
    assert_eq!(pages, 16);
}

#[test]
fn taking_a_page_out_of_a_block_splits_it_and_no_more() {
    let pool = Pool::new(0x4000);
    let mut space = Space::new(Valid, Handle(Rc::clone(&pool))).unwrap();
    space.map(Gpa(0x1_0000), Hpa(0x8_0000), 0x1_0000, Rights::Memory).unwrap();
    let mut flushed = Vec::new();
    space.unmap(Gpa(0x1_5000), 0x1000, |at, size| flushed.push((at.0, size))).unwrap();
    // The block is broken, then the middle one, and then the page is taken away.
    assert_eq!(flushed, [(0x1_0000, 0x1_0000), (0x1_4000, 0x4000), (0x1_5000, 0x1000)]);
    let leaf = |from: u64, size| Segment { from, size, to: from + 0x7_0000, rights: Rights::Memory };
    assert_eq!(
        leaves(&Valid, &pool, space.root()),
        [
            leaf(0x1_0000, 0x4000),
            leaf(0x1_4000, 0x1000),
            leaf(0x1_6000, 0x1000),
            leaf(0x1_7000, 0x1000),
            leaf(0x1_8000, 0x4000),
            leaf(0x1_c000, 0x4000),
        ]
    );
    assert_eq!(pool.live(), 3);
    // With the rest, the tables go, and a large block fits again.
    space.unmap(Gpa(0x1_0000), 0x5000, |_, _| {}).unwrap();
    space.unmap(Gpa(0x1_6000), 0xa000, |_, _| {}).unwrap();
    assert_eq!(pool.live(), 1);
    space.map(Gpa(0x1_0000), Hpa(0x8_0000), 0x1_0000, Rights::Memory).unwrap();
    assert_eq!(leaves(&Valid, &pool, space.root()), [leaf(0x1_0000, 0x1_0000)]);
}

#[test]
fn running_out_of_tables_changes_nothing() {
    // Room for the root and one more table; splitting a large block down to pages takes two.
    let pool = Pool::new(96);
    let mut space = Space::new(Valid, Handle(Rc::clone(&pool))).unwrap();
    space.map(Gpa(0), Hpa(0), 0x1_0000, Rights::Memory).unwrap();
    assert_eq!(space.unmap(Gpa(0x1000), 0x1000, |_, _| {}), Err(MapError::NoMemory));
    for at in (0..0x1_0000).step_by(0x1000) {
        assert_eq!(space.lookup(Gpa(at)), Some((Hpa(at), Rights::Memory)));
    }
    assert_eq!(space.map(Gpa(0x1_0000), Hpa(0), 0x1000, Rights::Memory), Err(MapError::NoMemory));
    assert_eq!(space.lookup(Gpa(0x1_0000)), None);
    space.unmap(Gpa(0), 0x1_0000, |_, _| {}).unwrap();
    assert_eq!(space.lookup(Gpa(0)), None);
}
