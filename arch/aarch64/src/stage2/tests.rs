use super::*;

const FORMATS: [Stage2; 2] = [Stage2 { caching: Caching::Combined }, Stage2 { caching: Caching::Forced }];
const RIGHTS: [Rights; 5] =
    [Rights::Memory, Rights::ReadOnly, Rights::Data, Rights::Constant, Rights::Device];

#[test]
fn leaves_are_as_the_manual_has_them() {
    let [combined, forced] = FORMATS;
    let at = Hpa(0x1_2340_0000);
    // AF, inner shareable, read and write, MemAttr 0b1111 and 0b0110, a block and a page.
    assert_eq!(combined.leaf(at, Rights::Memory, 1), 0x1_2340_07fd);
    assert_eq!(combined.leaf(at, Rights::Memory, 0), 0x1_2340_07ff);
    assert_eq!(forced.leaf(at, Rights::Memory, 2), 0x1_2340_07d9);
    assert_eq!(combined.leaf(at, Rights::ReadOnly, 1), 0x1_2340_077d);
    assert_eq!(combined.leaf(at, Rights::Data, 1), 0x40_0001_2340_07fd);
    assert_eq!(combined.leaf(at, Rights::Constant, 1), 0x40_0001_2340_077d);
    for format in FORMATS {
        assert_eq!(format.leaf(at, Rights::Device, 0), 0x40_0001_2340_04c7);
    }
}

#[test]
fn what_is_written_is_read() {
    for format in FORMATS {
        for level in 0..3 {
            for rights in RIGHTS {
                let at = Hpa(0xffff_c000_0000);
                assert_eq!(format.classify(format.leaf(at, rights, level), level), Entry::Leaf(at, rights));
            }
            assert_eq!(format.classify(format.empty(level), level), Entry::Empty);
        }
        for level in 1..3 {
            assert_eq!(format.classify(format.table(Hpa(0x1000), level), level), Entry::Table(Hpa(0x1000)));
        }
        // Reserved at the last level: a block.
        assert_eq!(format.classify(0x1001, 0), Entry::Empty);
    }
}

#[test]
fn the_walk_starts_at_level_one_with_two_tables() {
    // PARange 6 (52 bits) is capped to 5; T0SZ 24, SL0 1, write-back inner-shareable walks, VS for 16-bit VMIDs.
    assert_eq!(vtcr(6, VmidBits::Sixteen), Some(0x800d_3558));
    assert_eq!(vtcr(2, VmidBits::Eight), Some(0x8002_3558));
    assert_eq!(vtcr(0x1122, VmidBits::Eight), Some(0x8002_3558));
    // 36 and 32 bits of physical address are too few.
    assert_eq!(vtcr(1, VmidBits::Eight), None);
    assert_eq!(vtcr(0, VmidBits::Eight), None);
    assert_eq!(ROOT_SIZE, 0x2000);
    let format = FORMATS[0];
    let top = format.levels() - 1;
    assert_eq!(format.shift(top) + format.bits(top), IPA_BITS);
    assert_eq!(8 << format.bits(top), ROOT_SIZE);
}

#[test]
fn vttbr_holds_root_and_vmid() {
    assert_eq!(vttbr(Hpa(0x4_8000_2000), 0xfffe), 0xfffe_0004_8000_2000);
    assert_eq!(VmidBits::from_id(0x1031_2122), VmidBits::Sixteen);
    assert_eq!(VmidBits::from_id(0x1031_2102), VmidBits::Eight);
}
