//! Registers in snapshots, as people read them: names and values, the highest digit first.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// Writes registers, one per line. Those that are zero are only counted.
///
/// # Errors
/// `out` fails.
pub fn write_registers(out: &mut dyn Write, registers: Vec<(String, String)>) -> fmt::Result {
    let is_zero = |(_, value): &(_, String)| value.bytes().all(|digit| digit == b'0');
    let (zero, other): (Vec<_>, Vec<_>) = registers.into_iter().partition(is_zero);
    for (name, value) in other {
        writeln!(out, "{name:<8} {value}")?;
    }
    writeln!(out, "{} others are zero", zero.len())
}

/// Writes what registers differ in, one per line, and how many do. One that is missing on a side has `-` there.
///
/// # Errors
/// `out` fails.
pub fn write_differences(
    out: &mut dyn Write,
    old: &[(String, String)],
    new: &[(String, String)],
) -> fmt::Result {
    let value = |all: &[(String, String)], name: &str| {
        all.iter().find(|(known, _)| known == name).map_or("-".into(), |(_, value)| value.clone())
    };
    let gone = old.iter().filter(|(name, _)| !new.iter().any(|(known, _)| known == name));
    let mut count = 0;
    for (name, _) in gone.chain(new) {
        let (before, after) = (value(old, name), value(new, name));
        if before != after {
            count += 1;
            writeln!(out, "{name:<8} {before} -> {after}")?;
        }
    }
    writeln!(out, "{count} registers differ")
}
