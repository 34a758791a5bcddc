//! Whose values registers hold, for everybody to see.

use super::Units;
use crate::addr::VcpuId;

/// Whose values the registers of a group hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Whose.
    pub owner: VcpuId,
    /// The units that hold them.
    pub valid: Units,
    /// The units that may be newer than memory.
    pub dirty: Units,
}

impl Resident {
    /// Writes it into a word that is not zero.
    pub fn pack(self) -> u64 {
        let Self { owner, valid, dirty } = self;
        u64::from(owner.0) + 1 | u64::from(valid.bits()) << 40 | u64::from(dirty.bits()) << 48
    }

    /// Reads such a word; zero is nobody.
    pub fn unpack(word: u64) -> Option<Self> {
        let units = |shift: u32| Units::from_bits_retain((word >> shift) as u8);
        let owner = VcpuId((word & 0xff_ffff_ffff).checked_sub(1)? as u32);
        Some(Self { owner, valid: units(40), dirty: units(48) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resident_fits_into_a_word() {
        assert_eq!(Resident::unpack(0), None);
        for owner in [0, 0x301, u32::MAX].map(VcpuId) {
            let (valid, dirty) = (Units::from_bits_retain(0xff), Units::from_bits_retain(0x80));
            let resident = Resident { owner, valid, dirty };
            assert_eq!(Resident::unpack(resident.pack()), Some(resident));
        }
    }
}
