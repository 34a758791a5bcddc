//! What is true of all CPUs of this machine, found out once while it starts.

use alloc::vec::Vec;

use spin::Once;

use crate::idregs::IdRegs;
use crate::stage2::Caching;
use crate::sve::Sve;

/// What guests of this machine have in common.
#[derive(Debug)]
pub struct Facts {
    /// What they read in ID registers, but for SVE.
    pub ids: IdRegs,
    /// `HCR_EL2` while one of them runs.
    pub hcr: u64,
    /// How their memory is cached.
    pub caching: Caching,
    /// List registers of the CPU that has fewest.
    pub list_registers: usize,
    /// Priority bits of their interrupt interface.
    pub priority_bits: u8,
    /// What each physical CPU has of SVE.
    pub sve: Vec<Sve>,
    /// Physical CPUs.
    pub cpus: usize,
}

static FACTS: Once<Facts> = Once::new();

/// Publishes the facts; the first call counts.
pub fn establish(facts: Facts) -> &'static Facts {
    FACTS.call_once(|| facts)
}

/// The facts.
///
/// # Panics
/// Before [`establish`]: no guest is built that early.
pub fn facts() -> &'static Facts {
    FACTS.get().expect("guests are built after the CPUs have been counted")
}

/// Bits of `HCR_EL2` (DDI0487 D24.2.53).
mod hcr {
    pub(super) const VM: u64 = 1 << 0;
    pub(super) const SWIO: u64 = 1 << 1;
    pub(super) const PTW: u64 = 1 << 2;
    pub(super) const FMO_IMO_AMO: u64 = 7 << 3;
    pub(super) const FB: u64 = 1 << 9;
    pub(super) const BSU_INNER: u64 = 1 << 10;
    pub(super) const TWI: u64 = 1 << 13;
    pub(super) const TID1: u64 = 1 << 16;
    pub(super) const TID3: u64 = 1 << 18;
    pub(super) const TSC: u64 = 1 << 19;
    pub(super) const TIDCP: u64 = 1 << 20;
    pub(super) const TACR: u64 = 1 << 21;
    pub(super) const TSW: u64 = 1 << 22;
    pub(super) const RW: u64 = 1 << 31;
    pub(super) const TLOR: u64 = 1 << 35;
    pub(super) const TERR_TEA: u64 = 3 << 36;
    pub(super) const APK_API: u64 = 3 << 40;
    pub(super) const FWB: u64 = 1 << 46;
    pub(super) const TID5: u64 = 1 << 58;
}

/// What a CPU has that changes how guests are run on it (its ID registers at EL2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// `ID_AA64PFR0_EL1`.
    pub pfr0: u64,
    /// `ID_AA64PFR1_EL1`.
    pub pfr1: u64,
    /// `ID_AA64MMFR2_EL1`.
    pub mmfr2: u64,
}

impl Abilities {
    /// RAS extension: errors have registers, and external aborts can be routed.
    fn has_ras(&self) -> bool {
        self.pfr0 >> 28 & 0xf != 0
    }

    /// Memory tagging: `GMID_EL1` exists and is hidden.
    fn has_mte(&self) -> bool {
        self.pfr1 >> 8 & 0xf != 0
    }

    /// Stage 2 can force write-back.
    pub fn has_fwb(&self) -> bool {
        self.mmfr2 >> 40 & 0xf != 0
    }
}

/// `HCR_EL2` for guests on CPUs that all have at least `all`, some of which have `any`.
///
/// Set/way operations trap only where they have no meaning (FWB); elsewhere the guest executes them, and SWIO
/// turns an invalidation into a clean and invalidation, which harms nobody.
pub fn hcr(all: &Abilities, any: &Abilities, ids: &IdRegs) -> u64 {
    use hcr::*;
    let mut value =
        VM | SWIO | PTW | FMO_IMO_AMO | FB | BSU_INNER | TWI | TID1 | TID3 | TSC | TIDCP | TACR | RW | TLOR;
    if all.has_fwb() {
        value |= FWB | TSW;
    }
    if any.has_ras() {
        value |= TERR_TEA;
    }
    if any.has_mte() {
        value |= TID5;
    }
    if ids.has_pauth() {
        value |= APK_API;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_cpu_gets_the_minimum_and_max_gets_more() {
        let none = Abilities { pfr0: 0, pfr1: 0, mmfr2: 0 };
        let max =
            Abilities { pfr0: 0x1301_0011_2111_0222, pfr1: 0x10_0100_0121, mmfr2: 0x1221_0111_1201_1011 };
        let ids = IdRegs::new(&[]);
        assert_eq!(hcr(&none, &none, &ids), 0x8_803d_263f);
        assert_eq!(hcr(&max, &max, &ids), 0x0400_4038_807d_263f);
    }
}
