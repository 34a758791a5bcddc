//! Sets of memory against a bitmap, and the allocator's promises.

use kernel::addr::Hpa;
use kernel::mem::{GIGABYTE, GRANULE, MemError, Memory, Region, Regions};
use proptest::prelude::*;

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

/// A range of a small world, which ends either well below or exactly at the top of the address space.
fn any_region(offset: u64) -> impl Strategy<Value = Region> {
    (0u64..64, 1u64..=64).prop_map(move |(base, size)| region(offset + base, size.min(64 - base)))
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Region),
    Remove(Region),
}

fn any_ops() -> impl Strategy<Value = (u64, Vec<Op>)> {
    let world = prop_oneof![Just(0), Just(0x4000_0000), Just(u64::MAX - 63)];
    world.prop_flat_map(|offset| {
        let op =
            prop_oneof![any_region(offset).prop_map(Op::Insert), any_region(offset).prop_map(Op::Remove)];
        (Just(offset), prop::collection::vec(op, 0..40))
    })
}

proptest! {
    #[test]
    fn a_set_holds_what_a_bitmap_would((offset, ops) in any_ops()) {
        let mut set = Regions::new();
        let mut bits = [false; 64];
        for op in ops {
            let (region, value) = match op {
                Op::Insert(region) => { set.insert(region).unwrap(); (region, true) }
                Op::Remove(region) => { set.remove(region).unwrap(); (region, false) }
            };
            let (first, last) = (region.base().0 - offset, region.last().0 - offset);
            bits[first as usize..=last as usize].fill(value);
        }
        for (at, bit) in bits.iter().enumerate() {
            let at = region(offset + at as u64, 1);
            prop_assert_eq!(set.covers(&at), *bit);
            prop_assert_eq!(set.overlaps(&at), *bit);
        }
        prop_assert_eq!(set.total(), bits.iter().filter(|bit| **bit).count() as u64);
        // Ascending, apart, and nothing that could have been joined.
        let list: Vec<_> = set.iter().collect();
        for pair in list.windows(2) {
            prop_assert!(pair[0].last().0 + 1 < pair[1].base().0);
        }
    }

    #[test]
    fn aligned_is_the_largest_aligned_part(base in any::<u64>(), size in 1u64.., shift in 0u32..40) {
        let Some(whole) = Region::new(Hpa(base), size) else { return Ok(()) };
        let align = 1u64 << shift;
        let inside = |region: &Region| {
            whole.covers(region)
                && region.base().0.is_multiple_of(align)
                && region.last().0.checked_add(1).is_none_or(|end| end.is_multiple_of(align))
        };
        match whole.aligned(align) {
            Some(part) => {
                prop_assert!(inside(&part));
                let wider = part.base().0.checked_sub(align).map(|base| region(base, align));
                prop_assert!(wider.is_none_or(|wider| !whole.covers(&wider)));
                let higher = part.last().0.checked_add(align).map(|last| region(last - align + 1, align));
                prop_assert!(higher.is_none_or(|higher| !whole.covers(&higher)));
            }
            None => {
                let first = base.checked_next_multiple_of(align).and_then(|base| Region::new(Hpa(base), align));
                prop_assert!(first.is_none_or(|first| !whole.covers(&first)));
            }
        }
        let wide = whole.widened(align);
        prop_assert!(wide.covers(&whole));
        prop_assert_eq!(wide.aligned(align), Some(wide));
        prop_assert!(whole.base().0 - wide.base().0 < align && wide.last().0 - whole.last().0 < align);
    }

    #[test]
    fn what_is_handed_out_is_apart_and_comes_back(
        ranges in prop::collection::vec((0u64..2048, 1u64..600), 1..8),
        asks in prop::collection::vec((1u64..700, any::<bool>()), 1..12),
    ) {
        const UNIT: u64 = GRANULE / 2;
        let all: Regions = ranges.iter().map(|(base, size)| region(base * UNIT, size * UNIT)).collect();
        let mut memory = Memory::new(all.clone());
        let mut held: Vec<Vec<Region>> = Vec::new();
        for (granules, give_back) in asks {
            let free = memory.free_regions().total();
            match memory.allocate(granules * GRANULE) {
                Ok(pieces) => {
                    prop_assert_eq!(pieces.iter().map(Region::size).sum::<u64>(), granules * GRANULE);
                    for piece in &pieces {
                        prop_assert!(piece.aligned(GRANULE) == Some(*piece));
                        prop_assert!(all.covers(piece));
                        prop_assert!(held.iter().flatten().all(|other| !other.overlaps(piece)));
                        prop_assert!(!memory.free_regions().overlaps(piece));
                    }
                    held.push(pieces);
                }
                Err(error) => {
                    // Refused only when aligned parts do not suffice, and then nothing is gone.
                    let usable: u64 =
                        memory.free_regions().iter().filter_map(|free| free.aligned(GRANULE)).map(|part| part.size()).sum();
                    prop_assert_eq!(error, MemError::Exhausted { asked: granules * GRANULE, free: usable });
                    prop_assert!(usable < granules * GRANULE);
                    prop_assert_eq!(memory.free_regions().total(), free);
                }
            }
            if give_back && !held.is_empty() {
                for piece in held.remove(0) {
                    memory.release(piece).unwrap();
                    prop_assert_eq!(memory.release(piece), Err(MemError::NotTaken));
                }
            }
        }
        for piece in held.into_iter().flatten() {
            memory.release(piece).unwrap();
        }
        let (free, all): (Vec<_>, Vec<_>) = (memory.free_regions().iter().collect(), all.iter().collect());
        prop_assert_eq!(free, all);
    }
}

#[test]
fn ranges_end_at_the_top_of_the_address_space() {
    assert_eq!(Region::new(Hpa(0), 0), None);
    assert_eq!(Region::new(Hpa(u64::MAX), 2), None);
    let top = region(u64::MAX, 1);
    assert_eq!((top.base(), top.last(), top.size()), (Hpa(u64::MAX), Hpa(u64::MAX), 1));
    assert_eq!(Region::clipped(Hpa(u64::MAX - 1), 100), Some(region(u64::MAX - 1, 2)));
    let mut set = Regions::new();
    set.insert(top).unwrap();
    set.insert(region(0, u64::MAX)).unwrap();
    assert_eq!(set.iter().count(), 1);
    assert_eq!(set.total(), u64::MAX);
    set.remove(region(0, 1)).unwrap();
    set.remove(top).unwrap();
    assert_eq!(set.iter().collect::<Vec<_>>(), [region(1, u64::MAX - 1)]);
}

#[test]
fn a_full_set_says_so_and_stays_as_it_is() {
    let mut set = Regions::new();
    (0..128).for_each(|index| set.insert(region(index * 0x1000, 0x800)).unwrap());
    assert_eq!(set.insert(region(0x100_0000, 1)), Err(MemError::Full));
    assert_eq!(set.remove(region(0x100, 1)), Err(MemError::Full));
    assert_eq!(set.iter().count(), 128);
    // What joins or shrinks ranges still works.
    set.insert(region(0x800, 0x800)).unwrap();
    assert_eq!(set.iter().count(), 127);
    set.remove(region(0x3000, 0x400)).unwrap();
    set.remove(region(0x100, 1)).unwrap();
    assert_eq!(set.iter().count(), 128);
}

#[test]
fn a_large_guest_gets_a_gigabyte_boundary_and_a_small_one_keeps_off_it() {
    let all: Regions = [region(0x4000_0000, 3 * GIGABYTE)].into_iter().collect();
    let mut memory = Memory::new(all);
    memory.reserve(region(0x4000_0000, 0x40_0000)).unwrap();
    let heap = memory.carve(4 << 20, 0x1000).unwrap();
    assert_eq!(heap.base(), Hpa(0x4040_0000));
    assert_eq!(memory.allocate(GIGABYTE).unwrap(), [region(0x8000_0000, GIGABYTE)]);
    // The smaller of the two free ranges has room.
    assert_eq!(memory.allocate(GRANULE).unwrap(), [region(0x4080_0000, GRANULE)]);
    // No boundary is left with a gigabyte behind it, once one more is taken.
    assert_eq!(memory.allocate(GIGABYTE).unwrap(), [region(0xc000_0000, GIGABYTE)]);
    let error = memory.allocate(GIGABYTE).unwrap_err();
    let free = GIGABYTE - 0x40_0000 - (4 << 20) - GRANULE;
    assert_eq!(error, MemError::Exhausted { asked: GIGABYTE, free });
    assert_eq!(memory.allocate(GRANULE + 1), Err(MemError::Unaligned));
    assert_eq!(memory.allocate(0), Err(MemError::Unaligned));
}

#[test]
fn what_is_in_no_single_range_comes_in_the_fewest_pieces() {
    let all: Regions =
        [region(0, 3 * GRANULE), region(0x1000_0000, 5 * GRANULE), region(0x2000_1000, 3 * GRANULE)]
            .into_iter()
            .collect();
    let mut memory = Memory::new(all);
    let pieces = memory.allocate(7 * GRANULE).unwrap();
    assert_eq!(pieces, [region(0x1000_0000, 5 * GRANULE), region(0, 2 * GRANULE)]);
    let usable = 3 * GRANULE;
    assert_eq!(memory.allocate(4 * GRANULE), Err(MemError::Exhausted { asked: 4 * GRANULE, free: usable }));
    assert_eq!(memory.release(region(0x8000_0000, 1)), Err(MemError::NotTaken));
}
