//! The units by name: which there are, which a CPU has, which a guest was promised.

use core::fmt;

use kernel::fp::Units;

/// The scalar registers: F0-F31, FCC0-7, FCSR and, where there is binary translation, TOP.
pub const FPU: Units = Units::from_bits_retain(1 << 0);
/// The 128-bit view of the same registers.
pub const LSX: Units = Units::from_bits_retain(1 << 1);
/// The 256-bit view of the same registers.
pub const LASX: Units = Units::from_bits_retain(1 << 2);
/// The registers of binary translation: SCR0-3 and the x86 flags.
pub const LBT: Units = Units::from_bits_retain(1 << 3);

/// The units that are views of the same registers.
pub const VECTORS: Units = FPU.union(LSX).union(LASX);

/// Each unit, its name, and the unit it does not work without.
const TABLE: [(Units, &str, Units); 4] =
    [(FPU, "fpu", Units::empty()), (LSX, "lsx", FPU), (LASX, "lasx", LSX), (LBT, "lbt", FPU)];

/// What a guest without any unit is given, in words.
const NONE: &str = "none";

/// Fields of CPUCFG word 2.
mod cpucfg2 {
    pub(super) const FP: u32 = 1 << 0;
    pub(super) const FP_DP: u32 = 1 << 2;
    pub(super) const LSX: u32 = 1 << 6;
    pub(super) const LASX: u32 = 1 << 7;
    pub(super) const LBT_X86: u32 = 1 << 18;
    /// FP, FP_SP, FP_DP, FP_VER and FRECIPE.
    pub(super) const ALL_OF_FP: u32 = 0x3f | 1 << 25;
    /// LSX, and COMPLEX and CRYPTO, whose instructions are vector instructions.
    pub(super) const ALL_OF_LSX: u32 = LSX | 3 << 8;
    /// LBT_X86, LBT_ARM and LBT_MIPS.
    pub(super) const ALL_OF_LBT: u32 = 7 << 18;
}

/// Tells which units a CPU has whose CPUCFG word 2 is `word`. A unit without the one below it counts as absent.
///
/// LBT is moved with instructions of its x86 part, so that part is what counts.
pub fn from_cpucfg(word: u32) -> Units {
    let has = |bits: u32, unit| if word & bits == bits { unit } else { Units::empty() };
    let claimed = has(cpucfg2::FP | cpucfg2::FP_DP, FPU)
        | has(cpucfg2::LSX, LSX)
        | has(cpucfg2::LASX, LASX)
        | has(cpucfg2::LBT_X86, LBT);
    TABLE.into_iter().fold(Units::empty(), |sound, (unit, _, below)| {
        if claimed.contains(unit) && sound.contains(below) { sound | unit } else { sound }
    })
}

/// Hides from CPUCFG word 2 what belongs to units other than `units`.
pub fn hide_others(word: u32, units: Units) -> u32 {
    let fields = [
        (FPU, cpucfg2::ALL_OF_FP),
        (LSX, cpucfg2::ALL_OF_LSX),
        (LASX, cpucfg2::LASX),
        (LBT, cpucfg2::ALL_OF_LBT),
    ];
    fields.into_iter().filter(|(unit, _)| !units.contains(*unit)).fold(word, |word, (_, field)| word & !field)
}

/// Reads a set of units as it is written in device trees and on command lines: names joined by `+`, or `none`.
///
/// # Errors
/// When a word is no unit, when a unit is named without the one below it, or when `present` lacks it.
pub fn parse(text: &str, present: Units) -> Result<Units, UnitsError<'_>> {
    if text == NONE {
        return Ok(Units::empty());
    }
    let mut units = Units::empty();
    for word in text.split('+') {
        let (unit, ..) =
            TABLE.into_iter().find(|(_, name, _)| *name == word).ok_or(UnitsError::Unknown(word))?;
        units |= unit;
    }
    for (unit, name, below) in TABLE.into_iter().filter(|(unit, ..)| units.contains(*unit)) {
        if !units.contains(below) {
            return Err(UnitsError::Without { unit: name, below: List(below) });
        }
        if !present.contains(unit) {
            return Err(UnitsError::Absent { unit: name, present: List(present) });
        }
    }
    Ok(units)
}

/// Why some text is not a set of units that a guest can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitsError<'a> {
    /// It has a word that names no unit.
    Unknown(&'a str),
    /// It names a unit and not the one below it.
    Without {
        /// The unit.
        unit: &'static str,
        /// What it does not work without.
        below: List,
    },
    /// It names a unit that not every CPU of this machine has.
    Absent {
        /// The unit.
        unit: &'static str,
        /// What all CPUs have.
        present: List,
    },
}

impl fmt::Display for UnitsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(f, "found `{word}`, expected fpu, lsx, lasx, lbt joined by `+`, or {NONE}")
            }
            Self::Without { unit, below } => write!(f, "found {unit} without {below}, which it needs"),
            Self::Absent { unit, present } => {
                write!(f, "found {unit}, expected units that every CPU here has: {present}")
            }
        }
    }
}

impl core::error::Error for UnitsError<'_> {}

/// Shows a set of units as [`parse`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List(pub Units);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = TABLE.into_iter().filter(|(unit, ..)| self.0.contains(*unit));
        let mut some = false;
        for (_, name, _) in names {
            write!(f, "{}{name}", if some { "+" } else { "" })?;
            some = true;
        }
        if some { Ok(()) } else { f.write_str(NONE) }
    }
}

/// Names the widest of some units, and LBT if it is among them, for the monitor.
pub fn widest(units: Units) -> &'static str {
    match (units.contains(LASX), units.contains(LSX), units.contains(FPU), units.contains(LBT)) {
        (true, _, _, false) => "lasx",
        (true, _, _, true) => "lasx+lbt",
        (_, true, _, false) => "lsx",
        (_, true, _, true) => "lsx+lbt",
        (_, _, true, false) => "fpu",
        (_, _, true, true) => "fpu+lbt",
        (_, _, _, true) => "lbt",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    const ALL: Units = VECTORS.union(LBT);

    #[test]
    fn units_are_read_from_cpucfg() {
        // QEMU 10.0 `-cpu la464` as it comes, and with LVZ and LBT.
        assert_eq!(from_cpucfg(0x0060_c0cf), VECTORS);
        assert_eq!(from_cpucfg(0x007c_cccf), ALL);
        // Single precision alone is not enough, and nothing stands without what is below it.
        assert_eq!(from_cpucfg(0b011), Units::empty());
        assert_eq!(from_cpucfg(0b101 | 1 << 7), FPU);
        assert_eq!(from_cpucfg(1 << 6 | 1 << 7 | 1 << 18), Units::empty());
        // LBT without its x86 part cannot be moved.
        assert_eq!(from_cpucfg(0b101 | 3 << 19), FPU);
    }

    #[test]
    fn errors_say_what_was_found_and_what_was_expected() {
        let text = |text: &'static str, present| parse(text, present).unwrap_err().to_string();
        let unknown =
            |word| alloc::format!("found `{word}`, expected fpu, lsx, lasx, lbt joined by `+`, or none");
        assert_eq!(text("fpu+sse", ALL), unknown("sse"));
        assert_eq!(text("", ALL), unknown(""));
        assert_eq!(text("fpu+", ALL), unknown(""));
        assert_eq!(text("FPU", ALL), unknown("FPU"));
        assert_eq!(text("fpu+lasx", ALL), "found lasx without lsx, which it needs");
        assert_eq!(text("lbt", ALL), "found lbt without fpu, which it needs");
        assert_eq!(
            text("fpu+lsx+lbt", FPU | LSX),
            "found lbt, expected units that every CPU here has: fpu+lsx"
        );
        assert_eq!(text("fpu", Units::empty()), "found fpu, expected units that every CPU here has: none");
    }

    #[test]
    fn widest_names_a_view_and_lbt() {
        assert_eq!(widest(FPU), "fpu");
        assert_eq!(widest(FPU | LSX | LBT), "lsx+lbt");
        assert_eq!(widest(LASX), "lasx");
        assert_eq!(widest(LBT), "lbt");
        assert_eq!(widest(Units::empty()), "-");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back_or_is_refused_for_a_gap(bits in 0u8..16) {
            let units = Units::from_bits_retain(bits);
            let text = List(units).to_string();
            let sound = TABLE.iter().all(|(unit, _, below)| !units.contains(*unit) || units.contains(*below));
            prop_assert_eq!(parse(&text, ALL).ok(), sound.then_some(units));
        }

        #[test]
        fn a_cpu_shows_exactly_the_units_that_were_not_hidden(word: u32, bits in 0u8..16) {
            let units = Units::from_bits_retain(bits);
            let shown = from_cpucfg(hide_others(word, units));
            prop_assert!(units.contains(shown) && from_cpucfg(word).contains(shown));
            let sound = TABLE.iter().all(|(unit, _, below)| !units.contains(*unit) || units.contains(*below));
            if sound {
                prop_assert_eq!(shown, from_cpucfg(word) & units);
            }
        }
    }
}
