use proptest::prelude::*;

use super::*;

/// The forms, as an assembler knows them: opcode and where its immediate goes.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Bits 31 to 22; a 12-bit immediate in bytes.
    Si12(u32),
    /// Bits 31 to 24; a 14-bit immediate in words.
    Si14(u32),
    /// Bits 31 to 15; a register.
    Rk(u32),
}
use Form::{Rk, Si12, Si14};

/// Name, form, and what it does with register 0.
const ENCODINGS: [(&str, Form, Transfer); 26] = [
    ("ld.b", Si12(0x0a0), load(1, Extend::Sign)),
    ("ld.h", Si12(0x0a1), load(2, Extend::Sign)),
    ("ld.w", Si12(0x0a2), load(4, Extend::Sign)),
    ("ld.d", Si12(0x0a3), load(8, Extend::Zero)),
    ("st.b", Si12(0x0a4), store(1)),
    ("st.h", Si12(0x0a5), store(2)),
    ("st.w", Si12(0x0a6), store(4)),
    ("st.d", Si12(0x0a7), store(8)),
    ("ld.bu", Si12(0x0a8), load(1, Extend::Zero)),
    ("ld.hu", Si12(0x0a9), load(2, Extend::Zero)),
    ("ld.wu", Si12(0x0aa), load(4, Extend::Zero)),
    ("ldptr.w", Si14(0x24), load(4, Extend::Sign)),
    ("stptr.w", Si14(0x25), store(4)),
    ("ldptr.d", Si14(0x26), load(8, Extend::Zero)),
    ("stptr.d", Si14(0x27), store(8)),
    ("ldx.b", Rk(0x7000), load(1, Extend::Sign)),
    ("ldx.h", Rk(0x7008), load(2, Extend::Sign)),
    ("ldx.w", Rk(0x7010), load(4, Extend::Sign)),
    ("ldx.d", Rk(0x7018), load(8, Extend::Zero)),
    ("stx.b", Rk(0x7020), store(1)),
    ("stx.h", Rk(0x7028), store(2)),
    ("stx.w", Rk(0x7030), store(4)),
    ("stx.d", Rk(0x7038), store(8)),
    ("ldx.bu", Rk(0x7040), load(1, Extend::Zero)),
    ("ldx.hu", Rk(0x7048), load(2, Extend::Zero)),
    ("ldx.wu", Rk(0x7050), load(4, Extend::Zero)),
];

const fn load(width: u8, extend: Extend) -> Transfer {
    Transfer::Load(Load { register: 0, width, extend })
}

const fn store(width: u8) -> Transfer {
    Transfer::Store { register: 0, width }
}

/// `transfer` with another register.
fn with_register(transfer: Transfer, register: u8) -> Transfer {
    match transfer {
        Transfer::Load(load) => Transfer::Load(Load { register, ..load }),
        Transfer::Store { width, .. } => Transfer::Store { register, width },
    }
}

/// Assembles an instruction; `last` is its immediate or the number of its last register.
fn encode(form: Form, rd: u8, rj: u8, last: i32) -> u32 {
    let registers = u32::from(rj) << 5 | u32::from(rd);
    match form {
        Si12(opcode) => opcode << 22 | (last as u32 & 0xfff) << 10 | registers,
        Si14(opcode) => opcode << 24 | (last as u32 >> 2 & 0x3fff) << 10 | registers,
        Rk(opcode) => opcode << 15 | (last as u32 & 0x1f) << 10 | registers,
    }
}

// Words as the GNU assembler encodes them.
#[test]
fn assembled_words_decode() {
    let r = |n: u8| u64::from(n) * 0x1000;
    // ld.bu $t0, $a0, 5
    let d = decode(0x2a00_148c).unwrap();
    assert_eq!(d.transfer, Transfer::Load(Load { register: 12, width: 1, extend: Extend::Zero }));
    assert_eq!(d.address.resolve(r), 0x4005);
    // st.w $a1, $t1, -4
    let d = decode(0x29bf_f1a5).unwrap();
    assert_eq!(d.transfer, Transfer::Store { register: 5, width: 4 });
    assert_eq!(d.address.resolve(r), 0xcffc);
    // ldptr.w $a0, $a1, -8
    let d = decode(0x24ff_f8a4).unwrap();
    assert_eq!(d.transfer, Transfer::Load(Load { register: 4, width: 4, extend: Extend::Sign }));
    assert_eq!(d.address.resolve(r), 0x4ff8);
    // stx.d $a0, $a1, $a2
    let d = decode(0x381c_18a4).unwrap();
    assert_eq!(d.transfer, Transfer::Store { register: 4, width: 8 });
    assert_eq!(d.address.resolve(r), 0xb000);
}

#[test]
fn others_are_refused() {
    for (word, name) in [
        (0x2000_0084, "ll.w"),
        (0x2100_0084, "sc.w"),
        (0x2200_0084, "ll.d"),
        (0x2300_0084, "sc.d"),
        (0x2ac0_0080, "preld"),
        (0x2b00_0080, "fld.s"),
        (0x2b80_0080, "fld.d"),
        (0x2bc0_0080, "fst.d"),
        (0x2c00_0080, "vld"),
        (0x2c80_0080, "xvld"),
        (0x3830_1080, "fldx.s"),
        (0x3834_1080, "fldx.d"),
        (0x382c_1080, "preldx"),
        (0x3840_1080, "vldx"),
        (0x3848_1080, "xvldx"),
        (0x3858_1080, "amcas.b"),
        (0x3860_1080, "amswap.w"),
        (0x3861_1080, "amadd.w"),
        (0x3872_0000, "dbar"),
        (0x3874_1080, "fldgt.s"),
        (0x3878_1080, "ldgt.b"),
        (0x387e_1080, "stle.b"),
        (0x0610_0080, "cacop"),
        (0, "nothing"),
        (u32::MAX, "nothing"),
    ] {
        assert_eq!(decode(word), None, "{name} {word:#x}");
    }
}

#[test]
fn addresses_of_others_are_known() {
    let r = |n: u8| u64::from(n) * 0x1000;
    // All of these have a1 as base, and a2 as index or for another purpose.
    for (word, expected, name) in [
        (0x22ff_f8a4, Some(0x4ff8), "ll.d -8"),
        (0x2100_08a4, Some(0x5008), "sc.w 8"),
        (0x3857_18a4, Some(0x5000), "sc.q"),
        (0x3857_80a4, Some(0x5000), "llacq.w"),
        (0x3859_98a4, Some(0x5000), "amcas.d"),
        (0x386a_98a4, Some(0x5000), "amadd_db.d"),
        (0x3879_98a4, Some(0x5000), "ldgt.d"),
        (0x387f_98a4, Some(0x5000), "stle.d"),
        (0x3874_98a0, Some(0x5000), "fldgt.d"),
        (0x2bbf_fca0, Some(0x4fff), "fld.d -1"),
        (0x2b40_10a0, Some(0x5004), "fst.s 4"),
        (0x2c3f_c0a0, Some(0x4ff0), "vld -16"),
        (0x2cc0_80a0, Some(0x5020), "xvst 32"),
        (0x383c_18a0, Some(0xb000), "fstx.d"),
        (0x384c_18a0, Some(0xb000), "xvstx"),
        (0x2ac0_10a0, Some(0x5004), "preld 4"),
        (0x382c_18a0, Some(0xb000), "preldx"),
        (0x30bf_f4a0, Some(0x4ffd), "vldrepl.b -3"),
        (0x305f_f4a0, Some(0x4ffa), "vldrepl.h -6"),
        (0x302f_f4a0, Some(0x4ff4), "vldrepl.w -12"),
        (0x3017_f4a0, Some(0x4fe8), "vldrepl.d -24"),
        (0x3213_fca0, Some(0x57f8), "xvldrepl.d 2040"),
        (0x32a0_00a0, Some(0x4800), "xvldrepl.b -2048"),
        (0x31bf_f4a0, Some(0x4ffd), "vstelm.b -3"),
        (0x3117_f4a0, Some(0x4fe8), "vstelm.d -24"),
        (0x33fe_00a0, Some(0x4f80), "xvstelm.b -128"),
        (0x331f_f4a0, Some(0x4fe8), "xvstelm.d -24"),
        (0x337d_fca0, Some(0x50fe), "xvstelm.h 254"),
        (0x2e00_14a4, Some(0x5005), "ldl.w 5"),
        (0x2fff_eca4, Some(0x4ffb), "str.d -5"),
        (0x063f_fcb3, None, "cacop"),
        (0x3872_8000, None, "ibar"),
        (0x3872_0000, None, "dbar"),
        (0x0295_14a4, None, "addi.w"),
        (0x3000_00a0, None, "no element"),
    ] {
        assert_eq!(address(word).map(|address| address.resolve(r)), expected, "{name} {word:#x}");
    }
}

#[test]
fn an_access_is_aligned_to_its_width() {
    assert!(store(8).is_aligned(0x1008) && !store(8).is_aligned(0x1004));
    assert!(load(2, Extend::Sign).is_aligned(2) && !load(2, Extend::Sign).is_aligned(u64::MAX));
    assert!(store(1).is_aligned(u64::MAX));
}

#[test]
fn maintenance_is_told_apart() {
    assert!(is_cacop(0x0600_0000) && is_cacop(0x063f_ffff));
    assert!(!is_cacop(0x05ff_ffff) && !is_cacop(0x0640_0000));
}

proptest! {
    /// What was assembled decodes to what it does, and its address is what the registers say.
    #[test]
    fn assembled_instructions_decode(
        which in 0..ENCODINGS.len(), rd in 0u8..32, rj in 0u8..32, last in -8192i32..8192, values: [u64; 32],
    ) {
        let (name, form, transfer) = ENCODINGS[which];
        let register = |n: u8| if n == 0 { 0 } else { values[usize::from(n)] };
        let base = register(rj);
        let (last, expected) = match form {
            Si12(_) => (last % 2048, base.wrapping_add((last % 2048) as u64)),
            Si14(_) => (last * 4, base.wrapping_add((last * 4) as u64)),
            Rk(_) => (last & 31, base.wrapping_add(register((last & 31) as u8))),
        };
        let decoded = decode(encode(form, rd, rj, last)).unwrap();
        prop_assert_eq!(decoded.transfer, with_register(transfer, rd), "{}", name);
        prop_assert_eq!(decoded.address.resolve(register), expected, "{}", name);
        prop_assert_eq!(address(encode(form, rd, rj, last)), Some(decoded.address), "{}", name);
    }

    /// No word decodes that is not one of the forms.
    #[test]
    fn only_the_forms_decode(word: u32) {
        let form = |form: Form| match form {
            Si12(opcode) => word >> 22 == opcode,
            Si14(opcode) => word >> 24 == opcode,
            Rk(opcode) => word >> 15 == opcode,
        };
        let known = ENCODINGS.iter().any(|(_, f, _)| form(*f));
        prop_assert_eq!(decode(word).is_some(), known);
        if let Some(decoded) = decode(word) {
            prop_assert_eq!(address(word), Some(decoded.address));
        }
    }
}

/// As `only_the_forms_decode`, for every opcode.
#[test]
fn every_opcode_is_a_form_or_refused() {
    let known = (0..1u32 << 17).filter(|opcode| decode(opcode << 15).is_some()).count();
    // Bits 31 to 15 are an opcode and, in the forms with an immediate, some bits of that.
    assert_eq!(known, 11 * (1 << 7) + 4 * (1 << 9) + 11);
}
