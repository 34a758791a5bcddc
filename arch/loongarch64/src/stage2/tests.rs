use super::*;

const NULL: Hpa = Hpa(0x9000_1000);
const FORMAT: Stage2 = Stage2::new(NULL);
const RIGHTS: [Rights; 5] =
    [Rights::Memory, Rights::ReadOnly, Rights::Data, Rights::Constant, Rights::Device];

#[test]
fn leaves_are_as_the_manual_has_them() {
    let at = Hpa(0x1_4000_0000);
    // V, D, PLV 3, MAT 1; then with HUGE.
    assert_eq!(FORMAT.leaf(at, Rights::Memory, 0), 0x1_4000_001f);
    assert_eq!(FORMAT.leaf(at, Rights::Memory, 1), 0x1_4000_005f);
    assert_eq!(FORMAT.leaf(at, Rights::Memory, 2), 0x1_4000_005f);
    assert_eq!(FORMAT.leaf(at, Rights::ReadOnly, 0), 0x1_4000_001d);
    assert_eq!(FORMAT.leaf(at, Rights::Data, 0), 0x4000_0001_4000_001f);
    assert_eq!(FORMAT.leaf(at, Rights::Constant, 1), 0x4000_0001_4000_005d);
    // MAT 0.
    assert_eq!(FORMAT.leaf(at, Rights::Device, 0), 0x4000_0001_4000_000f);
}

#[test]
fn what_is_written_is_read() {
    for level in 0..4 {
        assert_eq!(FORMAT.classify(FORMAT.empty(level), level), Entry::Empty);
        for rights in RIGHTS.into_iter().filter(|_| FORMAT.leaf_at(level)) {
            let at = Hpa(0xffff_c000_0000);
            assert_eq!(FORMAT.classify(FORMAT.leaf(at, rights, level), level), Entry::Leaf(at, rights));
        }
    }
    for level in 1..4 {
        // A table of its own is none, wherever it is: also next to the null table.
        for at in [0x1000, NULL.0 - 0x1000, NULL.0 + 0x1000, 0xffff_ffff_f000] {
            assert_eq!(FORMAT.classify(FORMAT.table(Hpa(at), level), level), Entry::Table(Hpa(at)));
        }
        assert_eq!(FORMAT.classify(NULL.0 | HUGE, level), Entry::Empty);
    }
}

#[test]
fn nothing_is_global_or_hidden_from_a_privilege_level() {
    // G of a page, G of a huge page, NR, RPLV.
    let odd = [(0, 1u64 << 6), (1, 1 << 12), (2, 1 << 12), (0, 1 << 61 | 1 << 63), (1, 1 << 61 | 1 << 63)];
    for rights in RIGHTS {
        for (level, bits) in odd {
            assert_eq!(FORMAT.leaf(Hpa(0x4000_0000), rights, level) & bits, 0);
        }
    }
}

#[test]
fn the_registers_describe_the_format() {
    assert_eq!((PWCL, PWCH, STLBPS), (0x13e4_d52c, 0x267, 12));
    let field = |register: u64, at: u32, bits: u32| (register >> at & ((1 << bits) - 1)) as u32;
    let fields = [(PWCL, 0, 5), (PWCL, 10, 5), (PWCL, 20, 5), (PWCH, 0, 6)];
    for (level, (register, at, bits)) in fields.into_iter().enumerate() {
        assert_eq!(field(register, at, bits), FORMAT.shift(level));
        assert_eq!(field(register, at + bits, bits), FORMAT.bits(level));
    }
}
