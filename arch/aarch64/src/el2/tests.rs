use super::*;

const RIGHTS: [Rights; 5] =
    [Rights::Memory, Rights::ReadOnly, Rights::Data, Rights::Constant, Rights::Device];

#[test]
fn leaves_are_as_the_manual_has_them() {
    let at = Hpa(0x4020_0000);
    // AF, inner shareable, AP[1] as one, AttrIndx 1.
    assert_eq!(El2.leaf(at, Rights::Memory, 1), 0x4020_0745);
    assert_eq!(El2.leaf(at, Rights::ReadOnly, 0), 0x4020_07c7);
    assert_eq!(El2.leaf(at, Rights::Data, 1), 0x40_0000_4020_0745);
    assert_eq!(El2.leaf(at, Rights::Constant, 1), 0x40_0000_4020_07c5);
    assert_eq!(El2.leaf(Hpa(0x900_0000), Rights::Device, 0), 0x40_0000_0900_0443);
}

#[test]
fn what_is_written_is_read() {
    for level in 0..3 {
        for rights in RIGHTS {
            let at = Hpa(0xffff_c000_0000);
            assert_eq!(El2.classify(El2.leaf(at, rights, level), level), Entry::Leaf(at, rights));
        }
    }
    for level in 1..4 {
        assert_eq!(El2.classify(El2.table(Hpa(0x1000), level), level), Entry::Table(Hpa(0x1000)));
        assert_eq!(El2.classify(El2.empty(level), level), Entry::Empty);
    }
    // No block has 512 GiB.
    assert!(!El2.leaf_at(3));
    assert_eq!(El2.classify(1, 3), Entry::Empty);
}

#[test]
fn tcr_asks_for_48_bits_in_4_kib_pages() {
    assert_eq!(tcr(6), 0x8085_3510);
    assert_eq!(tcr(2), 0x8082_3510);
    // Attribute 0 is Device-nGnRE, attribute 1 write-back.
    assert_eq!((MAIR & 0xff, MAIR >> 8 & 0xff), (0x04, 0xff));
}
