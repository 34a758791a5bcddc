//! The registers of one CPU, and the gate in front of them.

use core::marker::PhantomData;

use kernel::fp::Units;

use super::{FpRegs, Length, Lengths, Present, SIMD, SVE, cptr, encode_cptr};

/// One CPU's FP registers. It stays on its CPU: it is neither `Send` nor `Sync`.
///
/// `ZCR_EL2` and `ZCR_EL1` are part of them, and are written only when registers are loaded. Whoever runs without
/// owning the registers can neither use them nor see either, and must not lower the vector length under its owner:
/// what is beyond may be zero when the length grows again (DDI0487 B1.4.2, YRPDH). Where SVE is trapped and FP is not
/// the length is 128 bits whatever ZCR says (KXKNK), but the state is preserved over the time that EL1 and EL0 run with
/// SVE, SME and FP trapped (DMBPN). So all three are, or the owner runs.
#[derive(Debug)]
pub struct File<H: FpRegs> {
    hardware: H,
    /// What `CPTR_EL2` holds.
    cptr: u64,
    /// What it holds when nothing is exposed.
    concealed: u64,
    /// The vector lengths this CPU has.
    lengths: Lengths,
    /// The vector length at which registers were loaded last: what `ZCR_EL2` holds, which is the most that EL1 can
    /// have. None if they were not since they were last filled.
    length: Option<Length>,
    /// The longest at which registers were loaded since they were last filled.
    reach: Option<Length>,
    here: PhantomData<*mut ()>,
}

impl<H: FpRegs> File<H> {
    /// Takes over the registers of a CPU with `present`, finds out its vector lengths, and conceals the registers.
    /// Called once on each CPU, before its first guest: `CPTR_EL2`, `ZCR_EL2` and, with SME, `SVCR` are unknown at reset.
    pub fn new(mut hardware: H, present: Present) -> Self {
        hardware.set_cptr(encode_cptr(present, SIMD | SVE) & !open_sme(present));
        hardware.sync();
        // Before lengths are asked for: in streaming mode the CPU would tell those of SME.
        if present.contains(Present::SME) {
            hardware.stop_sme();
        }
        let lengths = if present.contains(Present::SVE) { probe(&mut hardware) } else { Lengths::NONE };
        if let Some(length) = lengths.longest() {
            hardware.set_zcr_el2(length.len_field());
            hardware.set_zcr_el1(length.len_field());
        }
        let concealed = encode_cptr(present, Units::empty());
        hardware.set_cptr(concealed);
        hardware.sync();
        Self { hardware, cptr: concealed, concealed, lengths, length: None, reach: None, here: PhantomData }
    }

    /// Tells which vector lengths this CPU has.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// Shows the hardware.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// Lets EL2 use the SIMD registers. They may be open already, for the guest whose turn it is.
    pub(super) fn open(&mut self) -> &mut H {
        if self.cptr & cptr::TFP != 0 {
            self.cptr = self.concealed & !cptr::TFP;
            self.hardware.set_cptr(self.cptr);
            self.hardware.sync();
        }
        &mut self.hardware
    }

    /// Lets EL2 use the scalable registers at `length`, which this CPU has: guests only get what all CPUs they may run
    /// on have.
    #[inline]
    pub(super) fn open_wide(&mut self, length: Length) -> &mut H {
        debug_assert!(
            self.lengths.contains(length),
            "vectors of {length:?} on a CPU with {:?}",
            self.lengths
        );
        self.open_as_it_is();
        if self.length != Some(length) {
            self.hardware.set_zcr_el2(length.len_field());
            self.length = Some(length);
            self.reach = self.reach.max(self.length);
        }
        &mut self.hardware
    }

    /// Lets EL2 use the scalable registers at whatever length they have.
    #[inline]
    pub(super) fn open_as_it_is(&mut self) -> &mut H {
        if self.cptr & (cptr::TFP | cptr::TZ) != 0 {
            self.cptr = self.concealed & !(cptr::TFP | cptr::TZ);
            self.hardware.set_cptr(self.cptr);
            self.hardware.sync();
        }
        &mut self.hardware
    }

    /// Shortens the vectors to 128 bits for a moment: what must never happen to registers that hold somebody's values.
    pub(super) fn shorten(&mut self) {
        if let Some(length) = self.length {
            let hardware = self.open_wide(length);
            hardware.set_zcr_el2(0);
            hardware.set_zcr_el2(length.len_field());
        }
    }

    /// Tells whether registers may hold values beyond the vector length.
    pub(super) fn has_remains(&self) -> bool {
        self.reach > self.length
    }

    /// Writes `pattern` to everything there is.
    pub(super) fn flood(&mut self, pattern: u64) {
        match self.lengths.longest() {
            Some(longest) => self.open_wide(longest).flood(pattern),
            None => self.open().load(&super::Registers::filled(pattern)),
        }
        (self.length, self.reach) = (None, None);
    }

    /// Lets the guest use `units`.
    pub(super) fn expose(&mut self, units: Units) {
        // SVE without SIMD cannot be expressed. No branches: this is on the way into a guest.
        let simd = u64::from(units.contains(SIMD));
        let both = simd & u64::from(units.contains(SVE));
        let value = self.concealed & !(simd * cptr::TFP | both * cptr::TZ);
        if self.cptr != value {
            self.hardware.set_cptr(value);
            self.cptr = value;
        }
    }

    /// Tells what a guest could use.
    pub(super) fn exposed(&self) -> Units {
        match self.cptr & (cptr::TFP | cptr::TZ) {
            0 => SIMD | SVE,
            cptr::TZ => SIMD,
            _ => Units::empty(),
        }
    }
}

/// The bit of `CPTR_EL2` to clear for EL2 to use SME, where there is SME.
fn open_sme(present: Present) -> u64 {
    if present.contains(Present::SME) { cptr::TSM } else { 0 }
}

/// Asks for each length in turn. The CPU answers with the longest it has that is not longer (DDI0487, `ZCR_EL2.LEN`).
fn probe(hardware: &mut impl FpRegs) -> Lengths {
    let ask = |length: Length| {
        hardware.set_zcr_el2(length.len_field());
        hardware.length()
    };
    (1..=Length::MAX.quadwords() as u64).filter_map(Length::from_quadwords).filter_map(ask).collect()
}
