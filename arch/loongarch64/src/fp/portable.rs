//! The registers as they travel in a snapshot.
//!
//! FCSR0 in four bytes, FCC0-7 in one, TOP in one; then 32 registers as wide as the widest view that
//! the guest used; then, with LBT, SCR0-3 and the x86 flags. A guest without any unit has these six bytes alone.

use alloc::vec::Vec;

use kernel::fp::{Form, Layout, Register, SnapshotError, Units};

use super::Status;
use super::image::{Image, Lbt, Line, REGISTERS, Width};
use super::units::{LBT, widest};

/// What snapshots are like.
pub const LAYOUT: Layout = Layout { machine: EM_LOONGARCH, register };

/// The ELF machine number of LoongArch.
const EM_LOONGARCH: u16 = 258;

/// Bytes of FCSR0, FCC and TOP.
const STATUS: usize = 6;
/// The highest TOP.
const HIGHEST_TOP: u8 = 7;

/// Says what the registers of a guest with `limit` are whose image has the form `width`.
pub(super) fn form(limit: Units, width: Width) -> Form {
    Form { units: limit, shape: width as u8, limit: bits(limit), choice: 0 }
}

/// How many bits of a register a guest with `limit` can see.
fn bits(limit: Units) -> u16 {
    Width::of(limit).map_or(0, |width| 64 * width.words() as u16)
}

/// The width that a shape stands for, if a guest that had these units could have it.
fn width(form: Form) -> Option<Width> {
    let width = Width::ALL.get(usize::from(form.shape)).copied()?;
    (Some(width) <= Width::of(form.units).or(Some(Width::Fpu))).then_some(width)
}

/// How many registers there are for a guest that had these units.
fn registers(units: Units) -> usize {
    if Width::of(units).is_some() { REGISTERS } else { 0 }
}

/// Writes everything.
pub(super) fn write(out: &mut Vec<u8>, status: &Status, image: &Image, lbt: Option<&Lbt>) {
    out.extend(status.fcsr.to_le_bytes());
    out.extend([status.fcc, status.top]);
    let lines = image.lines.iter().take(image.form.lines());
    lines.flat_map(|line| line.0).for_each(|word| out.extend(word.to_le_bytes()));
    if let Some(lbt) = lbt {
        lbt.scr.iter().chain([&lbt.eflags]).for_each(|word| out.extend(word.to_le_bytes()));
    }
}

/// Reads everything; all registers of `form` are there.
pub(super) fn read(limit: Units, form: Form, bytes: &[u8]) -> Result<(Status, Image, Lbt), SnapshotError> {
    if !limit.contains(form.units) {
        return Err(SnapshotError::Units { found: widest(form.units), guest: widest(limit) });
    }
    let width = width(form).ok_or(SnapshotError::Shape(form.shape))?;
    let (head, words) = bytes.split_at_checked(STATUS).unwrap_or_default();
    let head = head.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let (fcsr, fcc, top) = (head as u32, (head >> 32) as u8, (head >> 40) as u8);
    if top > HIGHEST_TOP {
        return Err(SnapshotError::Value { register: "TOP", found: top.into() });
    }
    let words = words.chunks_exact(8);
    let mut words = words.map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    let mut image = Image::new(limit);
    if registers(form.units) > 0 {
        image.form = width;
        let lines = image.lines.iter_mut().take(width.lines());
        lines.flat_map(|line: &mut Line| &mut line.0).zip(&mut words).for_each(|(to, word)| *to = word);
    }
    let mut lbt = Lbt::default();
    if form.units.contains(LBT) {
        lbt.scr.iter_mut().chain([&mut lbt.eflags]).zip(&mut words).for_each(|(to, word)| *to = word);
    }
    Ok((Status { fcsr, fcc, top }, image, lbt))
}

/// Names the `n`th register.
fn register(form: Form, n: usize) -> Option<Register> {
    let width = width(form)?;
    let (count, bytes) = (registers(form.units), 8 * width.words());
    let name = ["F", "VR", "XR"][width as usize];
    match n {
        0 => return Some(Register::alone("FCSR", 0, 4)),
        1 => return Some(Register::alone("FCC", 4, 1)),
        2 => return Some(Register::alone("TOP", 5, 1)),
        _ => {}
    }
    let n = n - 3;
    if n < count {
        return Some(Register::nth(name, n, STATUS, bytes));
    }
    let (n, start) = (n - count, STATUS + count * bytes);
    match n {
        _ if !form.units.contains(LBT) => None,
        0..4 => Some(Register::nth("SCR", n, start, 8)),
        4 => Some(Register::alone("EFLAGS", start + 32, 8)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
