//! The registers as they travel in a snapshot.
//!
//! FPSR and FPCR in eight bytes each and, of a guest with SVE, `ZCR_EL1`; then V0-V31 or, if more than they show is not
//! zero, Z0-Z31, P0-P15 and FFR.

use alloc::vec::Vec;
use core::mem::size_of;

use kernel::fp::{self, Layout, Register, SnapshotError, Units};

use super::image::scalable_bytes;
use super::{Form, Length, Lengths, Registers, SIMD, SVE, Scalable};

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

/// Says what the registers of a guest with `limit` are, whose image has `form`.
pub(super) fn form(form: Form, limit: Lengths) -> fp::Form {
    let shape = if form == Form::Sve { WHOLE } else { NARROW };
    fp::Form { units: units(limit), shape, limit: bits(limit), choice: limit.bits() }
}

/// What a guest with `limit` has.
fn units(limit: Lengths) -> Units {
    if limit == Lengths::NONE { SIMD } else { SIMD | SVE }
}

/// How many bits of a vector register a guest with `limit` can see.
fn bits(limit: Lengths) -> u16 {
    limit.longest().map_or(128, |length| length.bits() as u16)
}

/// Writes everything: of a guest with SVE `ZCR_EL1`, and the scalable registers where V0-V31 do not say all.
pub(super) fn write(out: &mut Vec<u8>, simd: &Registers, sve: Option<(u64, Option<&Scalable>)>) {
    out.extend(simd.fpsr.to_le_bytes());
    out.extend(simd.fpcr.to_le_bytes());
    if let Some((zcr, _)) = sve {
        out.extend(zcr.to_le_bytes());
    }
    let Some((_, Some(scalable))) = sve else {
        return simd.q.iter().for_each(|q| out.extend(q.to_le_bytes()));
    };
    let end = out.len() + scalable_bytes(scalable.length);
    scalable.words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    // The words end with a whole one.
    out.truncate(end);
}

/// Reads everything; all registers of `form` are there. Returns the SIMD registers, `ZCR_EL1`, which is zero if the guest
/// that they are of had no SVE, and the scalable registers if V0-V31 do not say all.
pub(super) fn read(
    limit: Lengths,
    form: fp::Form,
    registers: &[u8],
) -> Result<(Registers, u64, Option<Scalable>), SnapshotError> {
    if !units(limit).contains(form.units) {
        return Err(SnapshotError::Units { found: name(form.units), guest: name(units(limit)) });
    }
    let has_sve = form.units.contains(SVE);
    // What ZCR_EL1 asks for, and what the upper bits of vectors mean, depends on how long they can be.
    if has_sve && form.limit != bits(limit) {
        return Err(SnapshotError::Limit { found: form.limit, guest: bits(limit) });
    }
    // It asks for a length by the longest that it takes: which one it gets depends on those there are.
    if has_sve && form.choice != limit.bits() {
        return Err(SnapshotError::Choice { found: form.choice, guest: limit.bits() });
    }
    let (controls, vectors) = registers.split_at_checked(controls(form.units)).unwrap_or_default();
    let mut controls = controls.chunks_exact(8).map(|bytes| number(bytes) as u64);
    let mut control = || controls.next().unwrap_or(0);
    let mut simd = Registers { fpsr: control(), fpcr: control(), ..Registers::filled(0) };
    let zcr = if has_sve { control() } else { 0 };
    // It is a request for a length (DDI0487, ZCR_EL1.LEN). FPSR and FPCR may have bits that only newer CPUs know, and FFR may
    // have anything, since a guest may have made it with shorter vectors.
    if zcr > Length::MAX.len_field() {
        return Err(SnapshotError::Value { register: "ZCR_EL1", found: zcr });
    }
    let words = vectors.chunks(size_of::<u128>()).map(number);
    let scalable = limit.longest().filter(|_| has_sve && form.shape == WHOLE).map(Scalable::new);
    let Some(mut scalable) = scalable else {
        simd.q.iter_mut().zip(words).for_each(|(to, word)| *to = word);
        return Ok((simd, zcr, None));
    };
    scalable.words.iter_mut().zip(words).for_each(|(to, word)| *to = word);
    Ok((simd, zcr, Some(scalable)))
}

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
