//! FP, SIMD and SVE state behind `CPTR_EL2`.
//!
//! Guests have one unit or two: SIMD (V0-V31, FPSR and FPCR) and, where they were given it, SVE, which extends the same
//! registers and adds predicates. SME stays trapped whatever is exposed.
//!
//! `CPTR_EL2` has two layouts, chosen by `HCR_EL2.E2H`, in which zero means opposite things. This is the layout
//! for E2H=0, where a set bit traps (DDI0487, register CPTR_EL2). It traps EL2 too, so the registers are opened for the
//! hypervisor before they are moved, with an ISB in between. Entering the guest is an `ERET`, which synchronises
//! by itself: exposing costs one register write, and nothing at all if the value is there already.
//!
//! The vector length belongs to the registers, not to the vCPU that runs: see [`File`].

mod context;
mod file;
mod image;
mod length;
mod portable;
mod steps;

pub use context::Vectors;
pub use file::File;
pub use image::{Form, Registers, Scalable};
pub use length::{Length, Lengths};
pub use portable::LAYOUT;
pub use steps::Step;

use kernel::fp::Units;

/// V0-V31 with FPSR and FPCR.
pub const SIMD: Units = Units::from_bits_retain(1 << 0);
/// The scalable view of the same registers, with predicates and `ZCR_EL1`.
pub const SVE: Units = Units::from_bits_retain(1 << 1);
/// Streaming mode and the ZA array. No guest has it: it has a name so that whoever tries is counted.
pub const SME: Units = Units::from_bits_retain(1 << 2);

/// Names the widest of some units, for the monitor.
pub fn widest(units: Units) -> &'static str {
    match units {
        units if units.contains(SVE) => "sve",
        units if units.contains(SIMD) => "simd",
        // Nobody has SME, though some try.
        _ => "-",
    }
}

bitflags::bitflags! {
    /// The parts of a CPU that have a trap in `CPTR_EL2`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Present: u8 {
        /// FEAT_SVE.
        const SVE = 1 << 0;
        /// FEAT_SME.
        const SME = 1 << 1;
        /// FEAT_AMUv1: activity monitors.
        const AMU = 1 << 2;
        /// System registers of the trace unit.
        const TRACE = 1 << 3;
    }
}

impl Present {
    /// Reads the parts out of `ID_AA64PFR0_EL1`, `ID_AA64PFR1_EL1` and `ID_AA64DFR0_EL1`, in which zero means
    /// absent (DDI0487, fields SVE, AMU, SME and TraceVer).
    pub fn from_ids(pfr0: u64, pfr1: u64, dfr0: u64) -> Self {
        let fields = [
            (Self::SVE, pfr0 >> 32),
            (Self::SME, pfr1 >> 24),
            (Self::AMU, pfr0 >> 44),
            (Self::TRACE, dfr0 >> 4),
        ];
        fields.into_iter().filter(|(_, field)| field & 0xf != 0).map(|(part, _)| part).collect()
    }
}

/// `CPTR_EL2` with E2H=0.
pub mod cptr {
    /// Traps `CPACR_EL1`. Never set: the guest's own trap control is the guest's own business.
    pub const TCPAC: u64 = 1 << 31;
    /// Traps the activity monitors.
    pub const TAM: u64 = 1 << 30;
    /// Traps the trace unit's registers.
    pub const TTA: u64 = 1 << 20;
    /// Traps SME, or RES1 without it.
    pub const TSM: u64 = 1 << 12;
    /// Traps FP, SIMD and, where not trapped by `TZ`, SVE.
    pub const TFP: u64 = 1 << 10;
    /// Traps SVE, or RES1 without it.
    pub const TZ: u64 = 1 << 8;
    /// Bits 13, 9 and 7:0.
    pub const RES1: u64 = 0x22ff;
}

/// Encodes `CPTR_EL2` for a CPU with `present` on which a guest may use `exposed` and nothing else that has a
/// trap there.
///
/// TZ and TSM trap on a CPU that has SVE and SME, and are RES1 on one that has not: the same bit either way.
pub fn encode_cptr(present: Present, exposed: Units) -> u64 {
    let mut value = cptr::RES1 | cptr::TSM | cptr::TZ;
    if !exposed.contains(SIMD) {
        value |= cptr::TFP;
    } else if exposed.contains(SVE) && present.contains(Present::SVE) {
        value &= !cptr::TZ;
    }
    if present.contains(Present::AMU) {
        value |= cptr::TAM;
    }
    if present.contains(Present::TRACE) {
        value |= cptr::TTA;
    }
    value
}

/// What the machine does with the hardware: the leaf `fp_regs` on a CPU, a model in tests.
pub trait FpRegs {
    /// Writes `CPTR_EL2`. Takes effect at the next [`sync`](Self::sync) or exception return.
    fn set_cptr(&mut self, value: u64);
    /// Makes earlier register writes take effect for what follows at EL2.
    fn sync(&mut self);
    /// Copies the SIMD registers out. FP must not be trapped.
    fn store(&mut self, into: &mut Registers);
    /// Copies the SIMD registers in. FP must not be trapped.
    fn load(&mut self, from: &Registers);
    /// Leaves streaming mode and turns ZA off. SME must be present and not trapped.
    fn stop_sme(&mut self);

    /// Writes `ZCR_EL2`, which takes effect at once (DDI0487, ZCR_EL2.LEN). This and what follows: SVE must be present and
    /// not trapped.
    fn set_zcr_el2(&mut self, value: u64);
    /// Reads `ZCR_EL1`.
    fn zcr_el1(&self) -> u64;
    /// Writes `ZCR_EL1`.
    fn set_zcr_el1(&mut self, value: u64);
    /// Tells the vector length at EL2.
    fn length(&self) -> Option<Length>;
    /// Copies the scalable registers out, whose length is that of `into`, and FPSR and FPCR into `controls`.
    fn store_scalable(&mut self, into: &mut Scalable, controls: &mut Registers);
    /// Copies the scalable registers in, whose length is that of `from`, and FPSR and FPCR from `controls`.
    fn load_scalable(&mut self, from: &Scalable, controls: &Registers);
    /// Copies the SIMD registers in and zeroes what only SVE shows.
    fn load_extended(&mut self, from: &Registers);
    /// Writes `pattern` to all Z registers, all ones to P and FFR if it is not zero, zero to FPSR and FPCR, and the largest
    /// length to `ZCR_EL1`.
    fn flood(&mut self, pattern: u64);
}

#[cfg(test)]
mod tests;
