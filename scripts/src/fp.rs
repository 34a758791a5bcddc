//! `cargo xtask fp`: FP snapshots in files, of any architecture.

use crate::Command;
use anyhow::{Context, Result, bail};
use kernel::fp::lines::Reader;
use kernel::fp::{Layout, Snapshot, Units};
use kernel::shell::{write_differences, write_registers};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `cargo xtask fp`.
pub(crate) const COMMAND: Command = Command {
    name: "fp",
    summary: "show or compare FP snapshots",
    help: "\
cargo xtask fp FILE [FILE]

Shows what an FP snapshot is of and the registers in it, or what two of them differ in. A FILE is what a script's `save`
writes, or any text with the lines of `fp export` in it, such as what a headless run printed; the last snapshot in it counts.
docs/fp.md has the format.
",
    run,
};

/// An architecture that snapshots can be of.
struct Form {
    name: &'static str,
    layout: Layout,
    units: fn(Units) -> &'static str,
}

/// All of them.
const FORMS: [Form; 2] = [
    Form { name: "AArch64", layout: arch_aarch64::fp::LAYOUT, units: arch_aarch64::fp::widest },
    Form { name: "LoongArch", layout: arch_loongarch64::fp::LAYOUT, units: arch_loongarch64::fp::widest },
];

fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Value(path) => paths.push(path.into()),
            other => return Err(other.unexpected()).context("see cargo xtask fp --help"),
        }
    }
    let snapshots: Vec<Snapshot> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let text = match snapshots.as_slice() {
        [one] => show(one)?,
        [old, new] => compare(old, new)?,
        _ => bail!("give one file to show, or two to compare; see cargo xtask fp --help"),
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Reads a snapshot from a file: its bytes, or text with its lines in it.
///
/// # Errors
/// There is no such file, or no snapshot in it.
pub(crate) fn read(path: &Path) -> Result<Snapshot> {
    let content = std::fs::read(path).with_context(|| path.display().to_string())?;
    let found = match content.starts_with(b"FPSN") {
        true => Snapshot::from_bytes(content).map_err(Into::into),
        false => find(&String::from_utf8_lossy(&content)),
    };
    found.with_context(|| path.display().to_string())
}

/// Finds the last snapshot in text. Lines that are none of a snapshot's are passed over, and what a headless run puts before
/// each line is as well.
///
/// # Errors
/// There is none, or the last that begins is not whole.
pub(crate) fn find(text: &str) -> Result<Snapshot> {
    let (mut reader, mut found, mut why) = (Reader::default(), None, None);
    for line in text.lines() {
        match reader.line(line.rsplit("] ").next().unwrap_or_default().trim()) {
            Ok(None) => {}
            Ok(snapshot) => found = snapshot,
            Err(error) => why = error.is_end().then_some(error).or(why),
        }
    }
    match (found, why) {
        (Some(snapshot), _) => Ok(snapshot),
        (None, Some(why)) => bail!("no FP snapshot: {why}"),
        (None, None) => bail!("no FP snapshot: the text ends, expected {}", reader.expected()),
    }
}

/// Writes a snapshot as lines.
pub(crate) fn lines(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = snapshot.write_lines(&mut text);
    text
}

/// The architecture of a snapshot.
fn form(snapshot: &Snapshot) -> Result<&'static Form> {
    let machine = snapshot.machine();
    let known = FORMS.iter().find(|form| form.layout.machine == machine);
    let form =
        known.with_context(|| format!("it is of ELF machine {machine}, which Fermata does not know"))?;
    snapshot.check(&form.layout)?;
    Ok(form)
}

/// Says what a snapshot is of, in a line, and then what its registers hold.
fn show(snapshot: &Snapshot) -> Result<String> {
    let known = form(snapshot)?;
    let mut text = head(known, snapshot);
    write_registers(&mut text, snapshot.named(&known.layout))?;
    Ok(text)
}

fn compare(old: &Snapshot, new: &Snapshot) -> Result<String> {
    let (old_form, new_form) = (form(old)?, form(new)?);
    let mut text = head(old_form, old);
    if old.form() != new.form() || old.machine() != new.machine() {
        text += &head(new_form, new);
    }
    write_differences(&mut text, &old.named(&old_form.layout), &new.named(&new_form.layout))?;
    Ok(text)
}

fn head(known: &Form, snapshot: &Snapshot) -> String {
    let (form, length) = (snapshot.form(), snapshot.bytes().len());
    let mut text = String::new();
    let (name, units) = (known.name, (known.units)(form.units));
    let _ = writeln!(
        text,
        "{name}, a guest with {units} and vectors of up to {} bits; shape {}, {length} bytes",
        form.limit, form.shape
    );
    text
}

/// A snapshot of version 1 that a guest on LoongArch64 with an FPU alone left. It has to be readable for ever.
#[cfg(test)]
pub(crate) const SAVED: &str = "\
fp-snapshot begin 286 e1372e80
000 RlBTTgEAAgEeAQAAAQBAAAAAAADNXIsMDQMOAvIABCUAAAAAAwALmQAABAADAK9u cb8ec0c0
001 AAAIAAMAm34AAAwAAwAhZwAAEAADAGq0AAAUAAMAnAYAABgAAwDArgAAHAADALOv 3d6c6034
002 AAAgAAMAm5sAACQAAwAJhQAAKAADAJruAAAsAAMA8nkAADAAAwDbjwAANAADANM1 67ec58b6
003 AAA4AAMAYjEAADwAAwBqAwAAQAADAIfmAABEAAMAKggAAEgAAwBI9AAATAADABBS a8ce7d2a
004 AABQAAMAncQAAFQAAwA1mAAAWAADAPjEAABcAAMAE2gAAGAAAwD+WwAAZAADAN9G 0a6da3d6
005 AABoAAMAl04AAGwAAwAlXwAAcAADACzNAAB0AAMA4JYAAHgAAwAyFwAAfAADAA== 85940ca2
fp-snapshot end 06236275
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_snapshot_of_any_architecture_is_shown() {
        let snapshot = find(SAVED).unwrap();
        assert_eq!(lines(&snapshot), SAVED);
        let text = show(&snapshot).unwrap();
        let head = "LoongArch, a guest with fpu and vectors of up to 64 bits; shape 0, 286 bytes\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("\nF0       0003000000002504\n"), "{text}");
        assert!(text.contains("\nFCC      f2\n") && text.ends_with("\n1 others are zero\n"), "{text}");
    }

    #[test]
    fn two_are_compared() {
        let old = find(SAVED).unwrap();
        assert!(compare(&old, &old).unwrap().ends_with("bytes\n0 registers differ\n"));
        let new = changed(&old, |bytes| bytes[24 + 4] = 0);
        let text = compare(&old, &new).unwrap();
        assert!(text.ends_with("\nFCC      f2 -> 00\n1 registers differ\n"), "{text}");
    }

    /// A snapshot with other bytes and a checksum that agrees.
    fn changed(old: &Snapshot, change: impl FnOnce(&mut Vec<u8>)) -> Snapshot {
        let mut bytes = old.bytes().to_vec();
        change(&mut bytes);
        let sum =
            !bytes[..20].iter().chain(&bytes[24..]).fold(u32::MAX, |sum, byte| {
                (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                    if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
                })
            });
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        Snapshot::from_bytes(bytes).unwrap()
    }

    #[test]
    fn files_have_bytes_or_text_and_what_is_wrong_is_said() {
        let scratch = Scratch::new().unwrap();
        let snapshot = find(SAVED).unwrap();
        let of = |content: &[u8]| read(&scratch.file("x", content).unwrap());
        assert_eq!(of(snapshot.bytes()).unwrap(), snapshot);
        let prefixed: String = SAVED.lines().map(|line| format!("[fermata] {line}\r\n[a] hello\n")).collect();
        assert_eq!(of(prefixed.as_bytes()).unwrap(), snapshot);
        let why = |content: &[u8]| format!("{:#}", of(content).unwrap_err());
        assert!(why(b"").ends_with("x: no FP snapshot: the text ends, expected fp-snapshot begin"));
        assert!(why(&SAVED.as_bytes()[..300]).ends_with("no FP snapshot: the text ends, expected line 003"));
        let gap: String = SAVED
            .lines()
            .filter(|line| !line.starts_with("002"))
            .map(|line| line.to_string() + "\n")
            .collect();
        assert!(why(gap.as_bytes()).ends_with("found fp-snapshot end, and line 002 is missing"));
        assert!(why(&snapshot.bytes()[..99]).ends_with("x: cut off: 99 bytes, expected 286"));
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let of = |at: usize, to: u8| show(&changed(&find(SAVED).unwrap(), |bytes| bytes[at] = to));
        assert!(of(6, 0).unwrap_err().to_string().contains("ELF machine 256, which Fermata does not know"));
        assert!(of(13, 7).unwrap_err().to_string().contains("shape 7"));
    }
}
