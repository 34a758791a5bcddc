//! Loads and stores that trapped without a syndrome: what the instruction word says.
//!
//! The hardware describes only single-register accesses without write-back (`ESR_EL2.ISS.ISV`). Pairs and
//! pre/post-indexed forms on a device are legal, and compilers make them; they are decoded here
//! (DDI0487 C4.1.94). Vector, exclusive and atomic accesses to a device have no sensible meaning and are
//! answered with an abort.

use arch_common::access::{Extend, Load, Transfer};
use kernel::addr::Gpa;

/// A change of the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBack {
    /// The base register.
    pub register: u8,
    /// What is added to it.
    pub add: i64,
}

/// What an instruction does to memory and to its base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The first access, at the faulting address.
    pub first: Transfer,
    /// The second access of a pair, right behind the first.
    pub second: Option<Transfer>,
    /// The change of the base register.
    pub write_back: Option<WriteBack>,
}

/// An access yet to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// What it is.
    pub transfer: Transfer,
    /// Its guest-physical address.
    pub at: Gpa,
    /// Its guest-virtual address.
    pub va: Gpa,
}

/// What is left to do after the first access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The second access.
    pub second: Option<Next>,
    /// The change of the base register, made last.
    pub write_back: Option<WriteBack>,
}

fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

fn signed(word: u32, low: u32, bits: u32) -> i64 {
    i64::from((word << (32 - low - bits)) as i32 >> (32 - bits))
}

/// Decodes `word`; none when it is no plain integer load or store.
pub fn decode(word: u32) -> Option<Decoded> {
    match field(word, 24, 6) & 0b11_1101 {
        0b11_1000 | 0b11_1001 => single(word),
        0b10_1000 | 0b10_1001 => pair(word),
        _ => None,
    }
}

/// LDR, STR and their narrow and sign-extending forms, all addressing modes.
fn single(word: u32) -> Option<Decoded> {
    if field(word, 26, 1) == 1 {
        return None; // vector registers
    }
    let (size, opc) = (field(word, 30, 2), field(word, 22, 2));
    let (rn, rt) = (field(word, 5, 5) as u8, field(word, 0, 5) as u8);
    let width = 1 << size;
    let first = match (opc, size) {
        (0, _) => Transfer::Store { register: rt, width },
        (1, _) => Transfer::Load(Load { register: rt, width, extend: Extend::Zero }),
        (2, 0..=2) => Transfer::Load(Load { register: rt, width, extend: Extend::Sign }),
        (3, 0..=1) => Transfer::Load(Load { register: rt, width, extend: Extend::SignWord }),
        _ => return None, // a prefetch does not trap, the rest is unallocated
    };
    let write_back = if field(word, 24, 1) == 1 {
        None
    } else {
        match (field(word, 21, 1), field(word, 10, 2)) {
            (0, 1) | (0, 3) => Some(WriteBack { register: rn, add: signed(word, 12, 9) }),
            (0, _) | (1, 2) => None,
            _ => return None, // atomics
        }
    };
    finish(first, None, write_back)
}

/// LDP, STP and LDPSW, all addressing modes.
fn pair(word: u32) -> Option<Decoded> {
    if field(word, 26, 1) == 1 {
        return None;
    }
    let (opc, load) = (field(word, 30, 2), field(word, 22, 1) == 1);
    let (width, extend) = match (opc, load) {
        (0, _) => (4, Extend::Zero),
        (1, true) => (4, Extend::Sign),
        (2, _) => (8, Extend::Zero),
        _ => return None,
    };
    let transfer = |register: u8| match load {
        true => Transfer::Load(Load { register, width, extend }),
        false => Transfer::Store { register, width },
    };
    let write_back = match field(word, 23, 2) {
        1 | 3 => {
            Some(WriteBack { register: field(word, 5, 5) as u8, add: signed(word, 15, 7) * i64::from(width) })
        }
        _ => None,
    };
    finish(transfer(field(word, 0, 5) as u8), Some(transfer(field(word, 10, 5) as u8)), write_back)
}

/// A stack pointer as the base of a device access is refused: which one it is depends on state that is
/// not in memory here, and no program does it.
fn finish(first: Transfer, second: Option<Transfer>, write_back: Option<WriteBack>) -> Option<Decoded> {
    match write_back {
        Some(WriteBack { register: 31, .. }) => None,
        write_back => Some(Decoded { first, second, write_back }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(register: u8, width: u8, extend: Extend) -> Transfer {
        Transfer::Load(Load { register, width, extend })
    }

    // Words as the GNU assembler encodes them.
    #[test]
    fn indexed_forms_write_the_base_back() {
        // ldr w1, [x2], #4
        let d = decode(0xb840_4441).unwrap();
        assert_eq!(d.first, load(1, 4, Extend::Zero));
        assert_eq!(d.write_back, Some(WriteBack { register: 2, add: 4 }));
        // str x3, [x4, #-16]!
        let d = decode(0xf81f_0c83).unwrap();
        assert_eq!(d.first, Transfer::Store { register: 3, width: 8 });
        assert_eq!(d.write_back, Some(WriteBack { register: 4, add: -16 }));
        // ldrsb x5, [x6, #1]!
        let d = decode(0x3880_1cc5).unwrap();
        assert_eq!(d.first, load(5, 1, Extend::Sign));
        // ldrsh w7, [x8], #2
        let d = decode(0x78c0_2507).unwrap();
        assert_eq!(d.first, load(7, 2, Extend::SignWord));
    }

    #[test]
    fn plain_forms_do_not() {
        // ldr x0, [x1, #8]
        assert_eq!(decode(0xf940_0420).unwrap().write_back, None);
        // strb w0, [x1, x2]
        assert_eq!(decode(0x3822_6820).unwrap().first, Transfer::Store { register: 0, width: 1 });
    }

    #[test]
    fn pairs_have_two_halves() {
        // ldp w0, w1, [x2]
        let d = decode(0x2940_0440).unwrap();
        assert_eq!((d.first, d.second), (load(0, 4, Extend::Zero), Some(load(1, 4, Extend::Zero))));
        // stp x3, x4, [x5], #32
        let d = decode(0xa882_10a3).unwrap();
        assert_eq!(d.second, Some(Transfer::Store { register: 4, width: 8 }));
        assert_eq!(d.write_back, Some(WriteBack { register: 5, add: 32 }));
        // ldpsw x6, x7, [x8, #8]!
        let d = decode(0x69c1_1d06).unwrap();
        assert_eq!(d.first, load(6, 4, Extend::Sign));
    }

    #[test]
    fn others_are_refused() {
        for word in [
            0x3cc0_0420, // ldr q0, [x1], #0
            0xad40_0440, // ldp q0, q1, [x2]
            0x885f_7c20, // ldxr w0, [x1]
            0xb820_0041, // ldadd w0, w1, [x2]
            0xd503_201f, // nop
            0xb840_47e1, // ldr w1, [sp], #4
            0,
            u32::MAX,
        ] {
            assert_eq!(decode(word), None, "{word:#x}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_word_decodes_or_not(word: u32) {
            if let Some(d) = decode(word) {
                proptest::prop_assert!(d.first.width() <= 8);
                proptest::prop_assert!(d.second.is_none_or(|s| s.width() == d.first.width()));
            }
        }
    }
}
