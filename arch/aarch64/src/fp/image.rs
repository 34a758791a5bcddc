//! A guest's SIMD and SVE state in memory, in one of two forms.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::size_of;

use kernel::fp::rules::{InForce, Rules, Sound};
use kernel::fp::{self, FpContext, Layout, Register, SnapshotError, Units};

use super::{File, FpRegs, Length, SIMD, SVE, Step};

/// The registers of the SIMD unit, in the layout that the leaf loads and stores.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Registers {
    /// V0-V31.
    pub q: [u128; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR. All 64 bits: new ones (AH, NEP, FIZ) change what arithmetic means.
    pub fpcr: u64,
}

impl Registers {
    /// Has `pattern` in every half of every vector register, round-to-nearest and no flags.
    pub const fn filled(pattern: u64) -> Self {
        let wide = (pattern as u128) << 64 | pattern as u128;
        Self { q: [wide; 32], fpsr: 0, fpcr: 0 }
    }
}

/// Bytes of Z0-Z31, P0-P15 and FFR: a predicate register has an eighth of a vector register.
const fn scalable_bytes(length: Length) -> usize {
    34 * length.bytes() + length.bytes() / 8
}

/// Bytes of FPSR, FPCR and ZCR_EL1.
const CONTROL_BYTES: u64 = 3 * size_of::<u64>() as u64;
/// What is moved where everything beyond SIMD is zero: the SIMD registers and ZCR_EL1.
const EXTENDED_BYTES: u64 = (size_of::<Registers>() + size_of::<u64>()) as u64;

/// The scalable registers, in the layout that the leaf loads and stores: Z0-Z31, then P0-P15, then FFR, each as long as
/// the vector length makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalable {
    length: Length,
    words: Box<[u128]>,
}

impl Scalable {
    /// Makes zeroes for vectors of `length`.
    pub fn new(length: Length) -> Self {
        Self { length, words: vec![0; scalable_bytes(length).div_ceil(size_of::<u128>())].into_boxed_slice() }
    }

    /// The vector length that it has room for.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Everything, in order.
    pub fn words(&self) -> &[u128] {
        &self.words
    }

    /// Everything, in order.
    pub fn words_mut(&mut self) -> &mut [u128] {
        &mut self.words
    }

    /// Tells whether everything that the SIMD view does not show is zero.
    fn is_narrow(&self) -> bool {
        let (vectors, predicates) = self.words.split_at(32 * self.length.quadwords());
        let mut uppers = vectors.chunks_exact(self.length.quadwords()).map(|vector| &vector[1..]);
        uppers.all(|upper| upper.iter().all(|word| *word == 0)) && predicates.iter().all(|word| *word == 0)
    }

    /// Copies what the SIMD view shows.
    fn narrow(&self, into: &mut [u128; 32]) {
        let lows = self.words.chunks_exact(self.length.quadwords()).map(|vector| vector[0]);
        into.iter_mut().zip(lows).for_each(|(q, low)| *q = low);
    }
}

/// Where the vector registers are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the SIMD registers. Whatever only SVE shows is zero.
    Simd,
    /// In the scalable registers.
    Sve,
    /// In the scalable registers, in which only what SIMD shows is not zero, and in the SIMD registers as well.
    Both,
}

/// How many saves of scalable registers lie between two looks at whether they are worth the room.
const LOOK_EVERY: u8 = 8;

/// What a guest with SVE has beside the SIMD registers.
#[derive(Debug)]
struct Sve {
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

    /// The guest's longest vector; none without SVE.
    pub fn limit(&self) -> Option<Length> {
        self.sve.as_ref().map(|sve| sve.registers.length)
    }
}

impl<H, S> Vectors<H, S> {
    /// Checks what was not saved here: `ZCR_EL1` is a request for a length (DDI0487, ZCR_EL1.LEN). FPSR and FPCR may have bits
    /// that only newer CPUs know, and FFR may have anything, since a guest may have made it with shorter vectors.
    fn check(&self) -> Result<(), SnapshotError> {
        let found = self.sve.as_ref().map_or(0, |sve| sve.zcr);
        let is_request = found <= Length::MAX.len_field();
        if is_request { Ok(()) } else { Err(SnapshotError::Value { register: "ZCR_EL1", found }) }
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
    /// The longest vectors; none without SVE.
    type Limit = Option<Length>;

    const GROUPS: &'static [Units] = &[SIMD.union(SVE)];

    fn new(limit: Option<Length>) -> Self {
        let sve = limit.map(|length| Sve {
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
        let mut found = <Vectors<H, Sound>>::new(file.lengths().longest());
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
        let shape = if Self::form(self) == Form::Sve { WHOLE } else { NARROW };
        let limit = self.limit().map_or(128, |length| length.bits() as u16);
        fp::Form { units: self.units(), shape, limit }
    }

    fn export(&self, out: &mut Vec<u8>) {
        out.extend(self.simd.fpsr.to_le_bytes());
        out.extend(self.simd.fpcr.to_le_bytes());
        let Some(sve) = &self.sve else {
            return self.simd.q.iter().for_each(|q| out.extend(q.to_le_bytes()));
        };
        out.extend(sve.zcr.to_le_bytes());
        if sve.form != Form::Sve {
            return self.simd.q.iter().for_each(|q| out.extend(q.to_le_bytes()));
        }
        let end = out.len() + scalable_bytes(sve.registers.length);
        sve.registers.words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        // The words end with a whole one.
        out.truncate(end);
    }

    fn import(limit: Option<Length>, form: fp::Form, registers: &[u8]) -> Result<Self, SnapshotError> {
        let mut state = Self::new(limit);
        if !state.units().contains(form.units) {
            return Err(SnapshotError::Units { found: name(form.units), guest: name(state.units()) });
        }
        let bits = limit.map_or(128, |length| length.bits() as u16);
        // What ZCR_EL1 asks for, and what the upper bits of vectors mean, depends on how long they can be.
        if form.units.contains(SVE) && form.limit != bits {
            return Err(SnapshotError::Limit { found: form.limit, guest: bits });
        }
        let (controls, vectors) = registers.split_at_checked(controls(form.units)).unwrap_or_default();
        let mut controls = controls.chunks_exact(8).map(|bytes| number(bytes) as u64);
        state.simd.fpsr = controls.next().unwrap_or(0);
        state.simd.fpcr = controls.next().unwrap_or(0);
        let words = vectors.chunks(size_of::<u128>()).map(number);
        match &mut state.sve {
            Some(sve) if form.units.contains(SVE) => {
                sve.zcr = controls.next().unwrap_or(0);
                if form.shape == WHOLE {
                    sve.form = Form::Sve;
                    state.bytes = scalable_bytes(sve.registers.length) as u64 + CONTROL_BYTES;
                    sve.registers.words.iter_mut().zip(words).for_each(|(to, word)| *to = word);
                } else {
                    state.simd.q.iter_mut().zip(words).for_each(|(to, word)| *to = word);
                }
            }
            _ => state.simd.q.iter_mut().zip(words).for_each(|(to, word)| *to = word),
        }
        state.check()?;
        Ok(state)
    }
}

/// What snapshots are like.
pub const LAYOUT: Layout = Layout { machine: EM_AARCH64, register };

/// The ELF machine number of AArch64.
const EM_AARCH64: u16 = 183;

/// Names the `n`th register of a snapshot.
fn register(form: fp::Form, n: usize) -> Option<Register> {
    let vectors = controls(form.units);
    let zcr = usize::from(form.units.contains(SVE));
    let n = match n {
        0 => return Some(Register::alone("FPSR", 0, 8)),
        1 => return Some(Register::alone("FPCR", 8, 8)),
        2 if zcr == 1 => return Some(Register::alone("ZCR_EL1", 16, 8)),
        _ => n - 2 - zcr,
    };
    if form.shape == NARROW {
        return (n < 32).then(|| Register::nth("V", n, vectors, size_of::<u128>()));
    }
    if form.shape != WHOLE || !form.units.contains(SVE) {
        return None;
    }
    let length = Length::from_bits(form.limit.into())?;
    let predicates = vectors + 32 * length.bytes();
    match n {
        0..32 => Some(Register::nth("Z", n, vectors, length.bytes())),
        32..48 => Some(Register::nth("P", n - 32, predicates, length.bytes() / 8)),
        48 => Some(Register::alone("FFR", predicates + 2 * length.bytes(), length.bytes() / 8)),
        _ => None,
    }
}

/// The shape of a snapshot with V registers; whatever only SVE shows is zero.
const NARROW: u8 = 0;
/// The shape of a snapshot with Z registers, predicates and FFR.
const WHOLE: u8 = 1;

/// Bytes of FPSR, FPCR and, with SVE, `ZCR_EL1`.
const fn controls(units: Units) -> usize {
    if units.contains(SVE) { 24 } else { 16 }
}

/// Names units as a refusal does.
fn name(units: Units) -> &'static str {
    match units {
        units if !(SIMD | SVE).contains(units) => "units that nobody can have",
        units if units.contains(SVE) => "simd and sve",
        _ => "simd",
    }
}

/// Reads a number of up to 16 bytes, the lowest first.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
