//! The walker on this architecture's own format.

#[path = "../../../kernel/tests/pages/mod.rs"]
mod pages;

use std::rc::Rc;
use std::sync::atomic::Ordering;

use arch_loongarch64::stage2::{GPA_BITS, Stage2, TABLE_SIZE, null_table};
use kernel::addr::{Gpa, Hpa};
use kernel::paging::{MapError, Rights, Space, Tables};
use pages::{Handle, Pool, agrees_with_a_list, any_ops, leaves};
use proptest::prelude::*;

/// Where no table of a pool is.
const FORMAT: Stage2 = Stage2::new(Hpa(0x7000_0000));
const GIGABYTE: u64 = 1 << 30;

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn stage_2_agrees_with_a_list(ops in any_ops(&FORMAT), tables in 1usize..32) {
        agrees_with_a_list(FORMAT, tables * TABLE_SIZE, &ops);
    }

    #[test]
    fn a_walk_as_the_hardware_does_it_ends_in_what_is_mapped(
        ops in any_ops(&FORMAT),
        probes in prop::collection::vec((0usize..24, -2i64..3), 32),
    ) {
        let pool = Pool::new(0x10_0000);
        let format = Stage2::new(null_table(&mut Handle(Rc::clone(&pool))).unwrap());
        let mut space = Space::new(format, Handle(Rc::clone(&pool))).unwrap();
        let mut places = Vec::new();
        for op in &ops {
            match *op {
                pages::Op::Map(from, to, size, rights) => {
                    let _ = space.map(Gpa(from), Hpa(to), size, rights);
                    places.extend([from, from.saturating_add(size)]);
                }
                pages::Op::Unmap(from, size) => {
                    let _ = space.unmap(Gpa(from), size, |_, _| {});
                    places.extend([from, from.saturating_add(size)]);
                }
            }
        }
        for (place, pages) in probes {
            let at = places[place % places.len()].saturating_add_signed(pages * 0x1000) & ((1 << 48) - 1);
            let found = refill(&pool, space.root(), at);
            let expected = space.lookup(Gpa(at)).map(|(to, rights)| (to.0, rights));
            prop_assert_eq!(found, expected, "at {:#x}", at);
        }
    }
}

/// What a refill handler would put into the TLB: LDDIR 3, 2, 1 and LDPTE, which know of nothing but bits. A walk into
/// memory that is no table panics.
fn refill(pool: &Rc<Pool>, root: Hpa, at: u64) -> Option<(u64, Rights)> {
    let pool = Handle(Rc::clone(pool));
    let load = |table: u64, shift: u32| {
        pool.word(Hpa((table & !0xfff) + (at >> shift & 0x1ff) * 8)).load(Ordering::Relaxed)
    };
    let (mut entry, mut bits) = (root.0, 48);
    for shift in [39, 30, 21, 12] {
        if entry & 1 << 6 != 0 {
            break;
        }
        (entry, bits) = (load(entry, shift), shift);
    }
    // V.
    if entry & 1 == 0 {
        return None;
    }
    let rights = match (entry >> 4 & 3, entry >> 1 & 1, entry >> 62 & 1) {
        (1, 1, 0) => Rights::Memory,
        (1, 0, 0) => Rights::ReadOnly,
        (1, 1, 1) => Rights::Data,
        (1, 0, 1) => Rights::Constant,
        (0, 1, 1) => Rights::Device,
        other => panic!("nobody asked for {other:?}"),
    };
    Some(((entry & ((1 << 48) - 1)) >> bits << bits | at & ((1 << bits) - 1), rights))
}

#[test]
fn the_null_table_leads_nowhere_and_is_nobodys() {
    let pool = Pool::new(0x10_0000);
    let null = null_table(&mut Handle(Rc::clone(&pool))).unwrap();
    let mut space = Space::new(Stage2::new(null), Handle(Rc::clone(&pool))).unwrap();
    assert_eq!(refill(&pool, null, 0x7fff_dead_beef), None);
    space.map(Gpa(0), Hpa(0x8000_0000), 0x3000, Rights::Memory).unwrap();
    space.unmap(Gpa(0x1000), 0x1000, |_, _| {}).unwrap();
    for at in [0x1000, 0x3000, 0x20_0000, GIGABYTE, 512 * GIGABYTE, (1 << GPA_BITS) - 8] {
        assert_eq!(refill(&pool, space.root(), at), None);
    }
    drop(space);
    assert_eq!(pool.live(), 1, "spaces come and go, the null table stays");
    assert_eq!(null_table(&mut Handle(Pool::new(0x800))), None);
}

#[test]
fn a_guest_on_aligned_memory_costs_few_tables() {
    let pool = Pool::new(0x10_0000);
    let mut space = Space::new(FORMAT, Handle(Rc::clone(&pool))).unwrap();
    // The root and one table for the first 512 GiB; a gigabyte is one entry.
    space.map(Gpa(0x8000_0000), Hpa(0x1_0000_0000), 2 * GIGABYTE, Rights::Memory).unwrap();
    assert_eq!(pool.live(), 2);
    assert_eq!(leaves(&FORMAT, &pool, space.root()).len(), 2);
    // The low 256 MiB are one more table, of 2 MiB each.
    space.map(Gpa(0), Hpa(0x1_8020_0000), 0x1000_0000, Rights::Memory).unwrap();
    assert_eq!(pool.live(), 3);
    assert_eq!(leaves(&FORMAT, &pool, space.root()).len(), 2 + 128);
    assert_eq!(space.lookup(Gpa(0x8020_0123)), Some((Hpa(0x1_0020_0123), Rights::Memory)));
    assert_eq!(space.map(Gpa((1 << 48) - 0x1000), Hpa(0), 0x2000, Rights::Memory), Err(MapError::OutOfRange));
}
