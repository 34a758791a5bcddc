use alloc::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::guest::tests::guest;

const A0: u8 = 4;
const A1: u8 = 5;

// Words as an assembler encodes them.
#[test]
fn assembled_words_decode() {
    let csr = |op| Some(Gspr::Csr(CsrAccess { op, csr: 0x80, rd: A0 }));
    let iocsr = |direction, width| Some(Gspr::Iocsr(Iocsr { direction, width, rj: A1, rd: A0 }));
    for (word, expected, name) in [
        (0x0000_6ca4, Some(Gspr::Cpucfg { rd: A0, rj: A1 }), "cpucfg"),
        (0x0402_0004, csr(CsrOp::Read), "csrrd"),
        (0x0402_0024, csr(CsrOp::Write), "csrwr"),
        (0x0402_00a4, csr(CsrOp::Exchange(A1)), "csrxchg"),
        (0x0648_00a4, iocsr(Direction::Read, 1), "iocsrrd.b"),
        (0x0648_04a4, iocsr(Direction::Read, 2), "iocsrrd.h"),
        (0x0648_08a4, iocsr(Direction::Read, 4), "iocsrrd.w"),
        (0x0648_0ca4, iocsr(Direction::Read, 8), "iocsrrd.d"),
        (0x0648_10a4, iocsr(Direction::Write, 1), "iocsrwr.b"),
        (0x0648_14a4, iocsr(Direction::Write, 2), "iocsrwr.h"),
        (0x0648_18a4, iocsr(Direction::Write, 4), "iocsrwr.w"),
        (0x0648_1ca4, iocsr(Direction::Write, 8), "iocsrwr.d"),
        (0x0600_1080, Some(Gspr::Cacop), "cacop"),
        (0x0648_8000, Some(Gspr::Idle), "idle"),
        (0x0648_ffff, Some(Gspr::Idle), "idle 0x7fff"),
        (0x002a_8000, Some(Gspr::Dbcl), "dbcl"),
        (0x002a_ffff, Some(Gspr::Dbcl), "dbcl 0x7fff"),
        (0x0502_0004, None, "gcsrrd"),
        (0x0648_2000, None, "tlbclr"),
        (0x0648_3400, None, "tlbfill"),
        (0x0648_3800, None, "ertn"),
        (0x0648_2401, None, "gtlbflush"),
        (0x0649_8000, None, "invtlb"),
        (0x0640_0484, None, "lddir"),
        (0x0644_0480, None, "ldpte"),
        (0x002b_0000, None, "syscall"),
        (0x002a_0000, None, "break"),
        (0x002b_87ec, None, "hvcl"),
        (0x0000_68a4, None, "rdtime.d"),
    ] {
        assert_eq!(decode(word), expected, "{name} {word:#x}");
    }
}

fn access(guest: &mut Guest, op: CsrOp, csr: u16, value: u64) -> u64 {
    guest.set_reg(A0, value);
    super::csr(guest, CsrAccess { op, csr, rd: A0 });
    guest.reg(A0)
}

#[test]
fn a_register_in_memory_keeps_what_is_written() {
    let mut guest = guest(0);
    for csr in [0x80, 0x81, 0x93, 0x94, 0x95, 0x98, 0x501, 0x502] {
        assert_eq!(access(&mut guest, CsrOp::Write, csr, 0x1234_5678_9abc_def0), 0, "{csr:#x}");
        assert_eq!(access(&mut guest, CsrOp::Read, csr, 7), 0x1234_5678_9abc_def0);
        guest.set_reg(A1, 0xff00);
        assert_eq!(access(&mut guest, CsrOp::Exchange(A1), csr, 0x5555_5555), 0x1234_5678_9abc_def0);
        assert_eq!(access(&mut guest, CsrOp::Read, csr, 7), 0x1234_5678_9abc_55f0, "what the mask has");
        assert_eq!(access(&mut guest, CsrOp::Write, csr, 0), 0x1234_5678_9abc_55f0, "the old value");
    }
}

#[test]
fn other_registers_read_as_zero() {
    let mut guest = guest(0);
    for csr in [
        0x15, 0x16, 0x38, 0x50, 0x51, 0x52, 0x53, 0x82, 0x90, 0x91, 0x92, 0xa0, 0xc0, 0x100, 0x200, 0x201,
        0x300, 0x310, 0x380, 0x500, 0x7ff, 0x3fff,
    ] {
        access(&mut guest, CsrOp::Write, csr, u64::MAX);
        assert_eq!(access(&mut guest, CsrOp::Read, csr, 7), 0, "{csr:#x}");
    }
}

#[test]
fn the_mask_may_be_the_value() {
    let mut guest = guest(0);
    access(&mut guest, CsrOp::Write, 0x80, 0xff);
    assert_eq!(access(&mut guest, CsrOp::Exchange(A0), 0x80, 0xf00), 0xff);
    assert_eq!(access(&mut guest, CsrOp::Read, 0x80, 0), 0xfff);
}

#[test]
fn r0_takes_no_answer() {
    let mut guest = guest(0);
    access(&mut guest, CsrOp::Write, 0x80, 0xff);
    super::csr(&mut guest, CsrAccess { op: CsrOp::Write, csr: 0x80, rd: 0 });
    assert_eq!(guest.frame.r[0], 0);
    assert_eq!(access(&mut guest, CsrOp::Read, 0x80, 9), 0, "r0 was written");
    cpucfg(&mut guest, 0, 0);
    assert_eq!(guest.frame.r[0], 0);
}

#[test]
fn cpucfg_shows_the_model() {
    let mut guest = guest(0);
    for number in [0, 1, 2, 3, 4, 5, 6, 0x10, 0x4000_0000, u64::MAX] {
        guest.set_reg(A1, number);
        cpucfg(&mut guest, A0, A1);
        assert_eq!(guest.reg(A0), Arc::clone(&guest.model).cpucfg.read(number), "{number:#x}");
    }
    assert_eq!(guest.reg(A0), 0);
}

#[test]
fn iocsr_reads_are_sign_extended_and_writes_cut() {
    let mut guest = guest(0);
    guest.set_reg(A0, 0x1122_3344_5566_77f8);
    guest.set_reg(A1, 0x1040);
    for (width, stored, read) in [
        (1, 0xf8, 0xffff_ffff_ffff_fff0),
        (2, 0x77f8, 0xffff_ffff_ffff_88f0),
        (4, 0x5566_77f8, 0xffff_ffff_8899_88f0),
        (8, 0x1122_3344_5566_77f8, 0x7799_aabb_8899_88f0),
    ] {
        let write = Iocsr { direction: Direction::Write, width, rj: A1, rd: A0 };
        assert_eq!((write.at(&guest), write.store(&guest)), (0x1040, Some(stored)));
        write.finish(&mut guest, 9);
        assert_eq!(guest.reg(A0), 0x1122_3344_5566_77f8, "a write has no answer");
        let before = guest.reg(A0);
        let load = Iocsr { direction: Direction::Read, ..write };
        assert_eq!(load.store(&guest), None);
        load.finish(&mut guest, 0x7799_aabb_8899_88f0);
        assert_eq!(guest.reg(A0), read);
        guest.set_reg(A0, before);
    }
}

proptest! {
    /// Whatever a guest executes, decoding ends and names registers that exist.
    #[test]
    fn any_word_decodes_or_not(word: u32, values: [u64; 32]) {
        let mut guest = guest(0);
        guest.frame.r = values;
        guest.frame.r[0] = 0;
        match decode(word) {
            Some(Gspr::Csr(access)) => csr(&mut guest, access),
            Some(Gspr::Cpucfg { rd, rj }) => cpucfg(&mut guest, rd, rj),
            Some(Gspr::Iocsr(iocsr)) => {
                prop_assert!([1, 2, 4, 8].contains(&iocsr.width));
                iocsr.finish(&mut guest, values[1]);
            }
            _ => {}
        }
        prop_assert_eq!(guest.frame.r[0], 0);
        let changed = (0..32).filter(|n| guest.frame.r[*n] != values[*n] && *n != 0);
        prop_assert!(changed.into_iter().all(|n| n == (word & 31) as usize), "only rd changes");
    }

    /// CSRXCHG changes the bits of the mask and no others, and gives the old value.
    #[test]
    fn exchange_writes_through_its_mask(old: u64, new: u64, mask: u64) {
        let mut guest = guest(0);
        access(&mut guest, CsrOp::Write, 0x502, old);
        guest.set_reg(A1, mask);
        prop_assert_eq!(access(&mut guest, CsrOp::Exchange(A1), 0x502, new), old);
        let now = access(&mut guest, CsrOp::Read, 0x502, 0);
        prop_assert_eq!(now ^ new & mask, old & !mask);
    }
}

proptest! {
    #[test]
    fn the_quick_part_agrees_with_the_whole(word: u32, op in 0u32..8) {
        for word in [word, 0x0648_0000 | op << 10 | word & 0x3ff] {
            let whole = match decode(word) {
                Some(Gspr::Iocsr(Iocsr { direction, width: 4, rj, rd })) => Some((direction, rd, rj)),
                _ => None,
            };
            prop_assert_eq!(iocsr_word(word), whole);
        }
    }
}
