//! A guest's SIMD and SVE state in memory, in one of two forms, and how it moves.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::size_of;

use kernel::fp::rules::{InForce, Rules, Sound};
use kernel::fp::{self, FpContext, Layout, SnapshotError, Units};

use super::image::scalable_bytes;
use super::portable::{self, LAYOUT};
use super::{File, Form, FpRegs, Lengths, Registers, SIMD, SVE, Scalable, Step};

/// Bytes of FPSR, FPCR and ZCR_EL1.
const CONTROL_BYTES: u64 = 3 * size_of::<u64>() as u64;
/// What is moved where everything beyond SIMD is zero: the SIMD registers and ZCR_EL1.
const EXTENDED_BYTES: u64 = (size_of::<Registers>() + size_of::<u64>()) as u64;

/// How many saves of scalable registers lie between two looks at whether they are worth the room.
const LOOK_EVERY: u8 = 8;

/// What a guest with SVE has beside the SIMD registers.
#[derive(Debug)]
struct Sve {
    /// The lengths that the guest can choose.
    lengths: Lengths,
    registers: Scalable,
    /// `ZCR_EL1`.
    zcr: u64,
    form: Form,
    /// How many more saves until [`LOOK_EVERY`] is up.
    until_look: u8,
}

/// A guest's SIMD and SVE state in memory.
///
/// **Two forms.** The upper bits of a Z register are zero after a write to the V register that it extends, so a guest that
/// uses SIMD alone has zeroes there, and no predicates: 528 bytes say everything. An image starts in that form, goes over
/// to the other when scalable registers are saved, and comes back when a guest is found to have left nothing in them.
#[derive(Debug)]
pub struct Vectors<H, S = InForce> {
    /// FPSR and FPCR are always here.
    simd: Registers,
    sve: Option<Sve>,
    /// What is moved with SVE, by the form.
    bytes: u64,
    hardware: PhantomData<fn(H, S)>,
}

impl<H, S> Vectors<H, S> {
    /// Shows the SIMD registers as they were last saved; V0-V31 only if the [`form`](Self::form) says so.
    pub fn simd(&self) -> &Registers {
        &self.simd
    }

    /// Shows the scalable registers as they were last saved, if the [`form`](Self::form) says so, and `ZCR_EL1`.
    pub fn scalable(&self) -> Option<(&Scalable, u64)> {
        self.sve.as_ref().map(|sve| (&sve.registers, sve.zcr))
    }

    /// Tells where the vector registers are.
    pub fn form(&self) -> Form {
        self.sve.as_ref().map_or(Form::Simd, |sve| sve.form)
    }

    /// The lengths that the guest's vectors can have; none without SVE.
    pub fn limit(&self) -> Lengths {
        self.sve.as_ref().map_or(Lengths::NONE, |sve| sve.lengths)
    }
}

impl Sve {
    /// Finds out the form of what was just saved.
    fn settle(&mut self, simd: &mut Registers) {
        self.form = Form::Sve;
        if self.until_look > 0 {
            self.until_look -= 1;
            return;
        }
        // A look reads up to all of it, so it is rare. The first one catches a kernel that asked for the vector length
        // once, while it started.
        self.until_look = LOOK_EVERY - 1;
        if self.registers.is_narrow() {
            self.registers.narrow(&mut simd.q);
            self.form = Form::Both;
        }
    }
}

impl<H: FpRegs, S: Rules<Step>> FpContext for Vectors<H, S> {
    type File = File<H>;
    /// The lengths that vectors can have; none without SVE.
    type Limit = Lengths;

    const GROUPS: &'static [Units] = &[SIMD.union(SVE)];

    fn new(limit: Lengths) -> Self {
        let sve = limit.longest().map(|length| Sve {
            lengths: limit,
            registers: Scalable::new(length),
            zcr: 0,
            form: Form::Simd,
            until_look: 0,
        });
        Self { simd: Registers::filled(0), sve, bytes: EXTENDED_BYTES, hardware: PhantomData }
    }

    fn units(&self) -> Units {
        if self.sve.is_some() { SIMD | SVE } else { SIMD }
    }

    fn closure(&self, touched: Units) -> Units {
        // Writing a V register zeroes the rest of its Z register if SVE is not trapped, and may or may not if it is: what
        // has anything there has to be live as a whole.
        let whole = self.form() == Form::Sve && S::keeps(Step::WholeForm);
        if whole { touched | SIMD | SVE } else { touched | SIMD }
    }

    fn save(&mut self, file: &mut File<H>, units: Units) -> Units {
        match &mut self.sve {
            Some(sve) if units.contains(SVE) => {
                let hardware = file.open_wide(sve.registers.length);
                sve.zcr = hardware.zcr_el1();
                hardware.store_scalable(&mut sve.registers, &mut self.simd);
                sve.settle(&mut self.simd);
                self.bytes = scalable_bytes(sve.registers.length) as u64 + CONTROL_BYTES;
            }
            sve => {
                file.open().store(&mut self.simd);
                if let Some(sve) = sve {
                    sve.form = Form::Simd;
                    self.bytes = EXTENDED_BYTES;
                }
            }
        }
        units
    }

    #[inline]
    fn restore(&self, file: &mut File<H>, units: Units) {
        match &self.sve {
            Some(sve) if units.contains(SVE) => {
                let hardware = if S::keeps(Step::LengthBeforeLoad) {
                    file.open_wide(sve.registers.length)
                } else {
                    file.open_as_it_is()
                };
                if S::keeps(Step::LoadZcr) {
                    hardware.set_zcr_el1(sve.zcr);
                }
                match sve.form {
                    Form::Simd if !S::keeps(Step::ZeroBeyond) => hardware.load(&self.simd),
                    Form::Simd => hardware.load_extended(&self.simd),
                    Form::Sve | Form::Both => hardware.load_scalable(&sve.registers, &self.simd),
                }
            }
            _ => file.open().load(&self.simd),
        }
    }

    #[inline]
    fn expose(file: &mut File<H>, units: Units) {
        file.expose(units);
    }

    fn conceal(file: &mut File<H>) {
        if !S::keeps(Step::KeepLength) {
            file.shorten();
        }
        file.expose(Units::empty());
    }

    fn exposed(file: &File<H>) -> Units {
        file.exposed()
    }

    fn fill(file: &mut File<H>, _: Units, pattern: u64) {
        file.flood(pattern);
    }

    fn is_blank(file: &mut File<H>, _: Units) -> bool {
        let mut found = <Vectors<H, Sound>>::new(file.lengths());
        let all = found.units();
        found.save(file, all);
        found.form() != Form::Sve && found.simd == Registers::filled(0)
    }

    fn has_remains(file: &File<H>, _: Units) -> bool {
        file.has_remains()
    }

    #[inline]
    fn bytes(&self, units: Units) -> u64 {
        if units.contains(SVE) { self.bytes } else { size_of::<Registers>() as u64 }
    }

    const LAYOUT: Layout = LAYOUT;

    fn form(&self) -> fp::Form {
        portable::form(Self::form(self), self.limit())
    }

    fn export(&self, out: &mut Vec<u8>) {
        let sve = self.sve.as_ref().map(|sve| (sve.zcr, (sve.form == Form::Sve).then_some(&sve.registers)));
        portable::write(out, &self.simd, sve);
    }

    fn import(limit: Lengths, form: fp::Form, registers: &[u8]) -> Result<Self, SnapshotError> {
        let mut state = Self::new(limit);
        let (simd, zcr, scalable) = portable::read(limit, form, registers)?;
        state.simd = simd;
        if let Some(sve) = &mut state.sve {
            sve.zcr = zcr;
            if let Some(registers) = scalable {
                (sve.registers, sve.form) = (registers, Form::Sve);
                state.bytes = scalable_bytes(sve.registers.length) as u64 + CONTROL_BYTES;
            }
        }
        Ok(state)
    }
}
