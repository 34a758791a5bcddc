//! What is measured one operation at a time, and the boots of the bench guest that measure it.

use super::figures::{Figures, Row};
use super::{Boot, Log};
use crate::arch::Arch;
use crate::flat;
use crate::lab::Lab;
use crate::run::outcome::Said;
use crate::run::units::Sve;
use crate::run::vm::Policy;
use crate::run::watch::Listener;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;

/// Under which FP policies something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Under {
    /// It does not matter.
    Any,
    /// Each.
    Each,
    /// The one that loads registers at the first use of every turn.
    Lazy,
}

/// A measurement, and the most instructions it may take.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// On AArch64 and on LoongArch.
    limits: [Option<u64>; 2],
    pub(super) under: Under,
    /// The longest vectors of the guest, where they are SVE's.
    sve: Sve,
    /// The architecture that alone has what it is about.
    only: Option<Arch>,
}

impl Kind {
    const fn new(name: &'static str, limits: [Option<u64>; 2], under: Under) -> Self {
        Self { name, limits, under, sve: Sve::Hidden, only: None }
    }

    const fn with_sve(name: &'static str, limit: Option<u64>, under: Under) -> Self {
        Self { name, limits: [limit, None], under, sve: SVE, only: Some(Arch::Aarch64) }
    }

    const fn with_lasx(name: &'static str, limit: Option<u64>, under: Under) -> Self {
        Self { name, limits: [None, limit], under, sve: Sve::Hidden, only: Some(Arch::Loongarch64) }
    }

    /// Tells whether it is measured in a boot of a guest.
    fn is_due(&self, arch: Arch, policy: Policy, sve: Sve) -> bool {
        let under = match self.under {
            Under::Any => policy == Policy::Hold,
            Under::Each => true,
            Under::Lazy => policy == Policy::Lazy,
        };
        under && self.sve == sve && self.only.is_none_or(|only| only == arch)
    }

    pub(super) const fn limit(&self, arch: Arch) -> Option<u64> {
        match arch {
            Arch::Aarch64 => self.limits[0],
            Arch::Loongarch64 => self.limits[1],
        }
    }
}

/// Every measurement, in the order of the table.
pub(super) const KINDS: &[Kind] = &[
    Kind::new("hypercall", [Some(250), Some(300)], Under::Any),
    Kind::new("mmio_read", [Some(600), Some(700)], Under::Any),
    Kind::new("ipi", [Some(1500), None], Under::Any),
    Kind::new("timer", [Some(1500), None], Under::Any),
    Kind::new("wfi_wake", [None, None], Under::Any),
    Kind::new("switch_none", [Some(4000), Some(4500)], Under::Each),
    Kind::new("switch_one", [None, None], Under::Each),
    Kind::new("switch_both", [Some(4600), Some(5200)], Under::Each),
    Kind::new("touch", [Some(350 + SIMD_LOAD), Some(350 + FPU_LOAD)], Under::Lazy),
    Kind::with_sve("switch_sve_one", None, Under::Each),
    Kind::with_sve("switch_sve_both", None, Under::Each),
    Kind::with_sve("touch_sve", Some(350 + SVE_LOAD), Under::Lazy),
    Kind::with_lasx("switch_lasx_one", None, Under::Each),
    Kind::with_lasx("switch_lasx_both", Some(5200), Under::Each),
    Kind::with_lasx("touch_lasx", Some(350 + LASX_LOAD), Under::Lazy),
];

/// The vectors that figures with SVE are for.
const SVE: Sve = Sve::Bits(512);
/// Instructions of the functions in `arch/aarch64/src/fp_regs.rs` that load registers.
const SIMD_LOAD: u64 = 21;
const SVE_LOAD: u64 = 56;
/// Instructions of `load` (32), `set_fcc` (16), `set_fcsr` (2) and `top` (3) in `arch/loongarch64/src/fp_regs.rs`, with the loads
/// of what they write, when the guest has LBT: TOP is looked at, and is rarely to be written.
const FPU_LOAD: u64 = 53;
const LASX_LOAD: u64 = FPU_LOAD;

/// The architectures whose figures `cargo xtask test` judges.
pub(crate) const ARCHS: [Arch; 2] = Arch::ALL;

/// Finds the measurements of these names; all where none is given.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Kind>> {
    for name in names {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        ensure!(
            known.contains(&name.as_str()),
            "there is no measurement `{name}`; known are {}",
            known.join(", ")
        );
    }
    Ok(KINDS.iter().filter(|kind| names.is_empty() || names.iter().any(|name| name == kind.name)).collect())
}

/// Measures everything for `cargo xtask test`, with the output in a log.
///
/// # Errors
/// It cannot be measured, or a figure is over its limit; all that are over are named.
pub(crate) fn check(lab: &Lab, log: &Path) -> Result<()> {
    let mut listener = Log::default();
    let figures = measure(lab, &KINDS.iter().collect::<Vec<_>>(), &mut listener);
    let table = figures.as_ref().map_or_else(|_| String::new(), Figures::table);
    std::fs::write(log, listener.0 + &table).with_context(|| log.display().to_string())?;
    let over = figures?.over();
    ensure!(over.is_empty(), "{}", over.join(", "));
    Ok(())
}

/// Boots the bench guest under each policy and gathers what it says.
pub(super) fn measure(lab: &Lab, kinds: &[&Kind], listener: &mut dyn Listener) -> Result<Figures> {
    let image = flat::loaded_size(&std::fs::read(lab.image()?)?)?;
    let mut figures = Figures { arch: lab.arch, rows: Vec::new(), image, memory: None };
    for (sve, policy) in
        [Sve::Hidden, SVE].into_iter().flat_map(|sve| Policy::ALL.map(|policy| (sve, policy)))
    {
        let due = kinds.iter().filter(|kind| kind.is_due(lab.arch, policy, sve));
        let wanted: Vec<&str> = due.map(|kind| kind.name).collect();
        if !wanted.is_empty() {
            measure_one(lab, policy, sve, &wanted, &mut figures, listener)
                .with_context(|| format!("the bench guest under policy {policy}"))?;
        }
    }
    let place = |row: &Row| {
        let kind = KINDS.iter().position(|kind| kind.name == row.name);
        (kind, Policy::ALL.iter().position(|policy| Some(*policy) == row.policy))
    };
    figures.rows.sort_by_key(place);
    Ok(figures)
}

/// Boots the bench guest once.
fn measure_one(
    lab: &Lab,
    policy: Policy,
    sve: Sve,
    wanted: &[&str],
    figures: &mut Figures,
    listener: &mut dyn Listener,
) -> Result<()> {
    let boot = Boot { cpus: 2, policy, sve, cmdline: format!("only={}", wanted.join(",")) };
    let mut reader = Reader { figures, policy, problem: None, listener };
    boot.run(lab, &mut reader)?;
    let problem = reader.problem.take();
    if let Some(problem) = problem {
        bail!(problem);
    }
    let measured = |name: &&str| figures.rows.iter().any(|row| row.name == **name && row.is_of(policy));
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !measured(name)).collect();
    ensure!(missing.is_empty(), "it said nothing of {}", missing.join(", "));
    Ok(())
}

/// Reads figures out of what is said, and passes everything on.
struct Reader<'a> {
    figures: &'a mut Figures,
    policy: Policy,
    problem: Option<String>,
    listener: &'a mut dyn Listener,
}

impl Listener for Reader<'_> {
    fn line(&mut self, console: usize, name: &str, line: &str) {
        self.listener.line(console, name, line);
        match console {
            0 => self.figures.memory = memory(line).or(self.figures.memory),
            1 if line.starts_with("bench ") => match row(line, self.policy) {
                Some(row) => self.figures.rows.push(row),
                None => self.problem = Some(format!("no figure: {line}")),
            },
            1 if line.starts_with("not ok") => self.problem = Some(line.to_string()),
            _ => {}
        }
    }
}

/// Reads `bench NAME INSTRUCTIONS LOADS SAVES SKIPS BYTES`.
pub(super) fn row(line: &str, policy: Policy) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["bench", name, numbers @ ..] = words.as_slice() else { return None };
    let kind = KINDS.iter().find(|kind| kind.name == *name)?;
    let numbers: Option<Vec<u64>> = numbers.iter().map(|number| number.parse().ok()).collect();
    let [instructions, loads, saves, skips, bytes] = numbers?.try_into().ok()?;
    let policy = (kind.under != Under::Any).then_some(policy);
    Some(Row { name: (*name).to_string(), policy, instructions, loads, saves, skips, bytes })
}

/// Reads how much memory is in use before guests, in KiB.
pub(super) fn memory(line: &str) -> Option<u64> {
    match Said::parse(line) {
        Some(Said::Memory(amount)) => Some(amount),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guest_become_rows() {
        let first = row("bench switch_one 3300 1 2 3 528", Policy::Lazy).unwrap();
        assert_eq!(
            (first.instructions, first.loads, first.saves, first.skips, first.bytes),
            (3300, 1, 2, 3, 528)
        );
        assert_eq!(first.policy, Some(Policy::Lazy));
        assert_eq!(row("bench ipi 1 0 0 0 0", Policy::Lazy).unwrap().policy, None);
        for wrong in [
            "bench ipi 1 0 0 0",
            "bench ipi 1 0 0 0 0 0",
            "bench nap 1 0 0 0 0",
            "bench ipi -1 0 0 0 0",
            "ipi",
        ] {
            assert_eq!(row(wrong, Policy::Lazy), None, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_measurement_is_named() {
        assert_eq!(choose(&["ipi".into()]).unwrap().len(), 1);
        assert_eq!(choose(&[]).unwrap().len(), KINDS.len());
        assert!(choose(&["nap".into()]).unwrap_err().to_string().contains("`nap`"));
    }
}
