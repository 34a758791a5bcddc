//! The walker on this architecture's own formats.

#[path = "../../../kernel/tests/pages/mod.rs"]
mod pages;

use std::rc::Rc;

use arch_aarch64::el2::El2;
use arch_aarch64::stage2::{Caching, ROOT_SIZE, Stage2};
use kernel::addr::{Gpa, Hpa};
use kernel::paging::{MapError, Rights, Space};
use pages::{Handle, Pool, agrees_with_a_list, any_ops, leaves};
use proptest::prelude::*;

const COMBINED: Stage2 = Stage2 { caching: Caching::Combined };
const FORCED: Stage2 = Stage2 { caching: Caching::Forced };

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn stage_2_agrees_with_a_list(ops in any_ops(&COMBINED), tables in 2usize..24, forced in any::<bool>()) {
        agrees_with_a_list(if forced { FORCED } else { COMBINED }, tables * 0x1000, &ops);
    }

    #[test]
    fn el2_agrees_with_a_list(ops in any_ops(&El2), tables in 1usize..24) {
        agrees_with_a_list(El2, tables * 0x1000, &ops);
    }
}

#[test]
fn a_guest_on_aligned_memory_costs_one_table() {
    let pool = Pool::new(0x10_0000);
    let mut space = Space::new(FORCED, Handle(Rc::clone(&pool))).unwrap();
    assert_eq!(space.root().0 % ROOT_SIZE as u64, 0);
    space.map(Gpa(0x4000_0000), Hpa(0x8000_0000), 0x4000_0000, Rights::Memory).unwrap();
    assert_eq!(pool.live(), 1);
    space.map(Gpa(0x8000_0000), Hpa(0x1_0020_0000), 0x1000_0000, Rights::Memory).unwrap();
    assert_eq!(pool.live(), 2);
    assert_eq!(leaves(&FORCED, &pool, space.root()).len(), 1 + 128);
    assert_eq!(space.lookup(Gpa(0x8020_0123)), Some((Hpa(0x1_0040_0123), Rights::Memory)));
}

#[test]
fn a_guest_has_forty_bits_and_no_more() {
    let pool = Pool::new(0x10_0000);
    let mut space = Space::new(COMBINED, Handle(Rc::clone(&pool))).unwrap();
    let last = (1u64 << 40) - 0x1000;
    assert_eq!(space.map(Gpa(last), Hpa(0), 0x2000, Rights::Memory), Err(MapError::OutOfRange));
    space.map(Gpa(last), Hpa((1 << 48) - 0x1000), 0x1000, Rights::Memory).unwrap();
    assert_eq!(space.lookup(Gpa(last + 0xfff)), Some((Hpa((1 << 48) - 1), Rights::Memory)));
    assert_eq!(space.lookup(Gpa(1 << 40)), None);
    assert_eq!(space.map(Gpa(0), Hpa((1 << 48) - 0x1000), 0x2000, Rights::Memory), Err(MapError::OutOfRange));
}
