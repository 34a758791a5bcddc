//! Loads and stores that stopped a guest: what the instruction word says.
//!
//! A stage-2 fault comes with the guest-physical address (`BADV`) and the word (`BADI`). The virtual address,
//! which the guest has to see if nothing answers, is computed as the instruction did (LoongArch Vol.1 2.2.5).
//! Vector, floating-point, bound-checked, exclusive and atomic accesses to a device have no sensible meaning: of
//! those only the address is decoded, for the exception that the guest is given.

use arch_common::access::{Extend, Load, Transfer};

/// How an instruction forms its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// A register and a constant.
    Offset {
        /// The register.
        base: u8,
        /// What is added to it.
        offset: i32,
    },
    /// The sum of two registers.
    Index {
        /// The first.
        base: u8,
        /// The second.
        index: u8,
    },
}

impl Address {
    /// The virtual address, with what `register` gives for the registers.
    pub fn resolve(self, register: impl Fn(u8) -> u64) -> u64 {
        match self {
            Address::Offset { base, offset } => register(base).wrapping_add_signed(i64::from(offset)),
            Address::Index { base, index } => register(base).wrapping_add(register(index)),
        }
    }
}

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The access.
    pub transfer: Transfer,
    /// Where.
    pub address: Address,
}

fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

fn signed(word: u32, low: u32, bits: u32) -> i32 {
    (word << (32 - low - bits)) as i32 >> (32 - bits)
}

/// Decodes `word`; none when it is no plain integer load or store.
pub fn decode(word: u32) -> Option<Decoded> {
    let (rd, rj) = (field(word, 0, 5) as u8, field(word, 5, 5) as u8);
    let load = |width, extend| Transfer::Load(Load { register: rd, width, extend });
    let store = |width| Transfer::Store { register: rd, width };
    let plain = |transfer| {
        let address = Address::Offset { base: rj, offset: signed(word, 10, 12) };
        Some(Decoded { transfer, address })
    };
    let scaled = |transfer| {
        let address = Address::Offset { base: rj, offset: signed(word, 10, 14) << 2 };
        Some(Decoded { transfer, address })
    };
    match word >> 24 {
        0x24 => return scaled(load(4, Extend::Sign)), // ldptr.w
        0x25 => return scaled(store(4)),              // stptr.w
        0x26 => return scaled(load(8, Extend::Zero)), // ldptr.d
        0x27 => return scaled(store(8)),              // stptr.d
        0x38 => return indexed(word),
        _ => {}
    }
    match word >> 22 {
        0x0a0 => plain(load(1, Extend::Sign)), // ld.b
        0x0a1 => plain(load(2, Extend::Sign)), // ld.h
        0x0a2 => plain(load(4, Extend::Sign)), // ld.w
        0x0a3 => plain(load(8, Extend::Zero)), // ld.d
        0x0a4 => plain(store(1)),              // st.b
        0x0a5 => plain(store(2)),              // st.h
        0x0a6 => plain(store(4)),              // st.w
        0x0a7 => plain(store(8)),              // st.d
        0x0a8 => plain(load(1, Extend::Zero)), // ld.bu
        0x0a9 => plain(load(2, Extend::Zero)), // ld.hu
        0x0aa => plain(load(4, Extend::Zero)), // ld.wu
        _ => None,
    }
}

/// Where `word` accesses memory; none when it does not.
///
/// Known are the forms of volume 1, the vector ones, which are encoded like them, and those of binary translation.
pub fn address(word: u32) -> Option<Address> {
    let base = field(word, 5, 5) as u8;
    let offset = match word >> 24 {
        // ll, sc, ldptr, stptr.
        0x20..=0x27 => signed(word, 10, 14) << 2,
        // ld, st, preld, fld, fst, vld, vst, xvld, xvst; ldl, ldr, stl, str.
        0x28..=0x2c | 0x2e | 0x2f => signed(word, 10, 12),
        // vldrepl, xvldrepl: the offset is narrower and counts larger steps, the larger the element is.
        0x30 | 0x32 => {
            let size = element(word)?;
            signed(word, 10, 12 - size) << size
        }
        // vstelm, xvstelm: likewise, but for the width.
        0x31 | 0x33 => signed(word, 10, 8) << element(word)?,
        0x38 => match word >> 15 & 0x1ff {
            // ldx to xvstx, with preldx.
            0x000..=0x098 => return Some(Address::Index { base, index: field(word, 10, 5) as u8 }),
            // Atomics, and the bound-checked forms, whose other register is the bound; barriers are in between.
            0x0ae..=0x0e3 | 0x0e8..=0x0ff => 0,
            _ => return None,
        },
        _ => return None,
    };
    Some(Address::Offset { base, offset })
}

/// The binary logarithm of the size of the element that a vector instruction accesses: the highest of bits 23 to 20
/// stands for bytes.
fn element(word: u32) -> Option<u32> {
    (0..4).find(|size| word >> (23 - size) & 1 != 0)
}

/// Whether `word` is CACOP. Some of its forms translate an address, and may find that nothing is there.
pub fn is_cacop(word: u32) -> bool {
    word >> 22 == 0x018
}

/// The forms whose address is the sum of two registers.
fn indexed(word: u32) -> Option<Decoded> {
    let (rd, rj, rk) = (field(word, 0, 5) as u8, field(word, 5, 5) as u8, field(word, 10, 5) as u8);
    let load = |width, extend| Transfer::Load(Load { register: rd, width, extend });
    let store = |width| Transfer::Store { register: rd, width };
    let transfer = match word >> 15 {
        0x7000 => load(1, Extend::Sign), // ldx.b
        0x7008 => load(2, Extend::Sign), // ldx.h
        0x7010 => load(4, Extend::Sign), // ldx.w
        0x7018 => load(8, Extend::Zero), // ldx.d
        0x7020 => store(1),              // stx.b
        0x7028 => store(2),              // stx.h
        0x7030 => store(4),              // stx.w
        0x7038 => store(8),              // stx.d
        0x7040 => load(1, Extend::Zero), // ldx.bu
        0x7048 => load(2, Extend::Zero), // ldx.hu
        0x7050 => load(4, Extend::Zero), // ldx.wu
        _ => return None,
    };
    Some(Decoded { transfer, address: Address::Index { base: rj, index: rk } })
}

#[cfg(test)]
mod tests;
