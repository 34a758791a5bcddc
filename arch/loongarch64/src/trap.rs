//! From an exception to what happened. Pure: the caller reads the registers.

use kernel::fp::Units;

use crate::fp::{FPU, LASX, LBT, LSX};

/// Exception codes (`ESTAT.Ecode`, LoongArch Vol.1 7.4.5; 22 to 24 belong to the virtualisation extension).
#[expect(missing_docs, reason = "each is the exception of that name in the manual")]
pub mod ecode {
    pub const INT: u8 = 0;
    pub const PIL: u8 = 1;
    pub const PIS: u8 = 2;
    pub const PIF: u8 = 3;
    pub const PME: u8 = 4;
    pub const PNR: u8 = 5;
    pub const PNX: u8 = 6;
    pub const PPI: u8 = 7;
    pub const ADE: u8 = 8;
    pub const ALE: u8 = 9;
    pub const INE: u8 = 13;
    pub const IPE: u8 = 14;
    pub const FPD: u8 = 15;
    pub const SXD: u8 = 16;
    pub const ASXD: u8 = 17;
    pub const BTD: u8 = 20;
    pub const GSPR: u8 = 22;
    pub const HVC: u8 = 23;
    pub const GCM: u8 = 24;
}

/// What an access that stage 2 refused was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A load.
    Load,
    /// A store.
    Store,
    /// A fetch.
    Fetch,
    /// A load or a store: the instruction tells.
    Data,
}

/// What made a guest stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A physical interrupt is pending.
    Interrupt,
    /// A unit that `EUEN` keeps from the guest.
    Fp(Units),
    /// An address that stage 2 does not give. `BADV` has the guest-physical address.
    Memory(Memory),
    /// An instruction or register that a guest does not have in hardware.
    Gspr,
    /// HVCL.
    Hypercall,
    /// The guest changed a register that is watched. None is, so nothing is to be done.
    Changed,
    /// Anything else: Ecode and EsubCode.
    Other(Exception),
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `ESTAT.Ecode`.
    pub ecode: u8,
    /// `ESTAT.EsubCode`.
    pub esubcode: u16,
}

impl Exception {
    /// The exception of `ecode` that has no subcodes, or the first of those that do.
    pub const fn new(ecode: u8) -> Self {
        Self { ecode, esubcode: 0 }
    }

    /// Address error of a fetch.
    pub const ADEF: Self = Self { ecode: ecode::ADE, esubcode: 0 };
    /// Address error of a load or store.
    pub const ADEM: Self = Self { ecode: ecode::ADE, esubcode: 1 };
    /// Address not aligned.
    pub const ALE: Self = Self::new(ecode::ALE);
    /// No such instruction.
    pub const INE: Self = Self::new(ecode::INE);
    /// Privileged instruction.
    pub const IPE: Self = Self::new(ecode::IPE);

    /// The exception that `ESTAT` names.
    pub const fn from_estat(estat: u64) -> Self {
        Self { ecode: (estat >> 16 & 0x3f) as u8, esubcode: (estat >> 22 & 0x1ff) as u16 }
    }

    /// Its bits of `ESTAT`.
    pub const fn to_estat(self) -> u64 {
        (self.ecode as u64 & 0x3f) << 16 | (self.esubcode as u64 & 0x1ff) << 22
    }
}

/// Tells which unit it is about where [`decode`] says [`Trap::Fp`].
#[inline]
pub fn fp(estat: u64) -> Option<Units> {
    let unit = FP_UNITS[usize::from(Exception::from_estat(estat).ecode & 0x3f)];
    (!unit.is_empty()).then_some(unit)
}

/// The unit that an exception is about, by `ESTAT.Ecode`, if it is about one.
const FP_UNITS: [Units; 64] = {
    let mut units = [Units::empty(); 64];
    units[ecode::FPD as usize] = FPU;
    units[ecode::SXD as usize] = LSX;
    units[ecode::ASXD as usize] = LASX;
    units[ecode::BTD as usize] = LBT;
    units
};

/// Decodes one exception from a guest.
pub fn decode(estat: u64) -> Trap {
    let exception = Exception::from_estat(estat);
    match exception.ecode {
        ecode::INT => Trap::Interrupt,
        ecode::PIL | ecode::PNR => Trap::Memory(Memory::Load),
        ecode::PIS | ecode::PME => Trap::Memory(Memory::Store),
        ecode::PIF | ecode::PNX => Trap::Memory(Memory::Fetch),
        ecode::ADE if exception == Exception::ADEF => Trap::Memory(Memory::Fetch),
        // A guest-physical address above what the MMU of the root takes.
        ecode::ADE | ecode::PPI => Trap::Memory(Memory::Data),
        ecode::FPD => Trap::Fp(FPU),
        ecode::SXD => Trap::Fp(LSX),
        ecode::ASXD => Trap::Fp(LASX),
        ecode::BTD => Trap::Fp(LBT),
        ecode::GSPR => Trap::Gspr,
        ecode::HVC => Trap::Hypercall,
        ecode::GCM => Trap::Changed,
        _ => Trap::Other(exception),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estat(ecode: u64) -> u64 {
        ecode << 16
    }

    #[test]
    fn what_boots_linux_is_told_apart() {
        assert_eq!(decode(1 << 12), Trap::Interrupt, "what is pending does not matter");
        assert_eq!(decode(estat(1) | 0x1fff), Trap::Memory(Memory::Load));
        assert_eq!(decode(estat(2)), Trap::Memory(Memory::Store));
        assert_eq!(decode(estat(3)), Trap::Memory(Memory::Fetch));
        assert_eq!(decode(estat(4)), Trap::Memory(Memory::Store), "a page that cannot be written");
        assert_eq!(decode(estat(8)), Trap::Memory(Memory::Fetch));
        assert_eq!(decode(estat(8) | 1 << 22), Trap::Memory(Memory::Data));
        assert_eq!(decode(estat(15)), Trap::Fp(FPU));
        assert_eq!(decode(estat(16)), Trap::Fp(LSX));
        assert_eq!(decode(estat(17)), Trap::Fp(LASX));
        assert_eq!(decode(estat(20)), Trap::Fp(LBT));
        assert_eq!(decode(estat(22)), Trap::Gspr);
        assert_eq!(decode(estat(23)), Trap::Hypercall);
        assert_eq!(decode(estat(24) | 1 << 22), Trap::Changed);
        assert_eq!(decode(estat(18) | 1 << 22), Trap::Other(Exception { ecode: 18, esubcode: 1 }));
    }

    proptest::proptest! {
        #[test]
        fn any_estat_decodes(estat: u64) {
            let trap = decode(estat);
            proptest::prop_assert_eq!(fp(estat).map(Trap::Fp), Some(trap).filter(|trap| matches!(trap, Trap::Fp(_))));
            let exception = Exception::from_estat(estat);
            proptest::prop_assert_eq!(exception.to_estat(), estat & 0x7fff_0000);
        }
    }
}
