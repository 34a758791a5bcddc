//! `cargo xtask test --mutants fp`: switches off every rule that the FP machine stands on, one at a time, and shows which
//! tests notice: those on the host, and those that boot a Fermata without the rule.

use super::judge::Witness;
use super::stanza::{Test, parse_mutants};
use super::{Score, at_once, boot_once, boot_one, is_chosen};
use crate::arch::{Arch, Emulator};
use crate::lab::{Lab, Stock};
use crate::scratch::Scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use kernel::fp::rules::{Rule, Switch};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;

/// The subjects on whose registers rules are broken on the host: a package with a test `fp` each, and the architecture whose
/// registers they are.
const SUBJECTS: [(&str, &str, Option<Arch>); 3] = [
    ("kernel", "kernel", None),
    ("aarch64", "arch-aarch64", Some(Arch::Aarch64)),
    ("loongarch64", "arch-loongarch64", Some(Arch::Loongarch64)),
];

/// How often a boot may pass unnoticed: whether a rule is missed in one of a few seconds is a matter of chance, as it is in a
/// script on the host.
const PATIENCE: usize = 3;

/// The file with the boots.
const BOOTS: &str = "guests/mutants.toml";

/// What Fermata leaves out in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nothing, and it cannot be told to: the product.
    Never,
    /// Nothing, though it could be told to.
    NotNow,
    /// This rule.
    Without(String),
}

/// Rules, and why no test that boots shows that they are broken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostOnly {
    rules: Vec<String>,
    arch: Option<String>,
    reason: String,
}

impl HostOnly {
    /// Tells whether this is about a rule on an architecture.
    fn is_about(&self, rule: &str, arch: Arch) -> bool {
        let here = self.arch.as_ref().is_none_or(|name| name.parse().ok() == Some(arch));
        here && self.rules.iter().any(|name| name == rule)
    }
}

/// Makes a test for each rule of `breaks`, and one for none; where nothing is broken there is only the test.
///
/// # Errors
/// `suite` names a rule that is not broken.
pub(crate) fn of(test: Test, breaks: &[String], suite: &[String]) -> Result<Vec<Test>> {
    let stray = suite.iter().find(|rule| !breaks.contains(rule));
    ensure!(stray.is_none(), "key `suite`: {} is not in `breaks`", stray.map_or("", String::as_str));
    if breaks.is_empty() {
        return Ok(vec![test]);
    }
    let mut all = vec![test];
    (all[0].broken, all[0].in_suite) = (Broken::NotNow, false);
    for rule in breaks {
        let mut mutant = all[0].clone();
        mutant.name = format!("{}-without-{rule}", mutant.name);
        mutant.bootargs = format!("{} fp-break={rule}", mutant.bootargs);
        mutant.broken = Broken::Without(rule.clone());
        mutant.in_suite = suite.contains(rule);
        all.push(mutant);
    }
    Ok(all)
}

/// What became of a mutant on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Noticed,
    Survived,
}

/// What became of each mutant, by rule.
type Fates = BTreeMap<String, Fate>;
/// Who noticed when Fermata was booted without a rule; none if somebody did not who should have.
type Boots = BTreeMap<(Arch, String), Option<Witness>>;

/// Runs all mutants of `what` and prints a line for each rule; with filters runs only the boots that they leave, and prints
/// how they went.
///
/// # Errors
/// There are none of that name, or the tests cannot run.
pub(crate) fn run(workspace: &Workspace, what: &str, filters: &[String]) -> Result<ExitCode> {
    ensure!(what == "fp", "--mutants {what}: there are mutants of fp alone");
    let (mut tests, host_only) = boots(workspace)?;
    let all: Vec<String> = tests.iter().map(|test| test.name.clone()).collect();
    tests.retain(|test| is_chosen(&test.name, filters, &all));
    let mut fates = Vec::new();
    if filters.is_empty() {
        for (_, package, _) in SUBJECTS {
            fates.push(play(workspace, package).with_context(|| format!("the mutants of {package}"))?);
        }
    }
    let score = Score::new(workspace.clone())?;
    let boots = boot_all(workspace, &tests, &score)?;
    let (mut passed, mut failed) = score.total();
    if filters.is_empty() {
        let (text, good, bad) = table(&fates, &boots, &host_only);
        print!("{text}");
        // From here on a rule counts once, however many looked for it, and so does a boot that breaks none.
        let missed = boots.values().filter(|witness| witness.is_none()).count();
        (passed, failed) = (good, bad + failed.saturating_sub(missed));
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the boots, and what they cannot show.
///
/// # Errors
/// As for [`parse_mutants`], or the file cannot be read.
pub(crate) fn boots(workspace: &Workspace) -> Result<(Vec<Test>, Vec<HostOnly>)> {
    let path = workspace.source(BOOTS);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse_mutants(&text).context(BOOTS)
}

/// Runs the mutants of a package on the host.
fn play(workspace: &Workspace, package: &str) -> Result<Fates> {
    let words = ["test", "--quiet", "-p", package, "--test", "fp", "--", "without", "--show-output"];
    let output = workspace.cargo(&words).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    let fates = read(&String::from_utf8_lossy(&output.stdout));
    if fates.is_empty() {
        bail!("no mutant ran");
    }
    Ok(fates)
}

/// Reads lines `without RULE: noticed after N scripts` and `without RULE: survived`.
fn read(output: &str) -> Fates {
    let line = |line: &str| {
        let (rule, fate) = line.strip_prefix("without ")?.split_once(": ")?;
        let fate = if fate.starts_with("noticed") { Fate::Noticed } else { Fate::Survived };
        Some((rule.to_string(), fate))
    };
    output.lines().filter_map(line).collect()
}

/// Boots Fermata for each test.
fn boot_all(workspace: &Workspace, tests: &[Test], score: &Score) -> Result<Boots> {
    let boots = Mutex::new(Boots::new());
    for arch in Arch::ALL {
        let here: Vec<&Test> = tests.iter().filter(|test| test.machine.board.arch == arch).collect();
        if here.is_empty() {
            continue;
        }
        let emulators: BTreeSet<Emulator> = here.iter().map(|test| test.machine.emulator).collect();
        let lab = Lab::open(workspace.clone(), arch, &emulators, Stock::Broken)?;
        at_once(here, |test| {
            let Broken::Without(rule) = &test.broken else {
                score.judge(&test.name, |log| boot_one(&lab, test, log));
                return;
            };
            let witness = score.judge(&test.name, |log| boot_until_noticed(&lab, test, log));
            let mut boots = boots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let seen = boots.entry((arch, rule.clone())).or_insert(witness);
            *seen = seen.and(witness);
        });
    }
    Ok(boots.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Boots Fermata without a rule until somebody notices, [`PATIENCE`] times at most.
///
/// # Errors
/// It could not start, or nobody noticed: how the last boot went.
pub(crate) fn boot_until_noticed(lab: &Lab, test: &Test, log: &Path) -> Result<Witness> {
    let mut last = String::new();
    let folder = Scratch::new()?;
    for _ in 0..PATIENCE {
        let (mut judge, report) = boot_once(lab, test, log, folder.path())?;
        match judge.witness(&report) {
            Ok(witness) => return Ok(witness),
            Err(why) => last = why,
        }
    }
    bail!("{last}, {PATIENCE} times")
}

/// Writes a row for each rule, and for each step of an architecture. It is kept honest if somebody on the host notices that it
/// is broken, and nobody misses it who looks for it; and if somebody does on each machine where it makes a difference, or it
/// says why nobody can.
fn table(fates: &[Fates], boots: &Boots, host_only: &[HostOnly]) -> (String, usize, usize) {
    let mut text = row("switched off", SUBJECTS.iter().map(|(name, ..)| *name).chain(["booted", "booted"]));
    text += &row("", ["host"; 3].into_iter().chain(Arch::ALL.map(Arch::name)));
    let (mut passed, mut failed) = (0, 0);
    let mut remarks = BTreeSet::new();
    for rule in names(fates) {
        let found: Vec<Option<Fate>> = fates.iter().map(|all| all.get(&rule).copied()).collect();
        let mut honest = found.contains(&Some(Fate::Noticed)) && !found.contains(&Some(Fate::Survived));
        let mut words: Vec<String> = found.iter().map(|fate| word(*fate).to_string()).collect();
        for arch in Arch::ALL {
            let matters =
                SUBJECTS.iter().zip(&found).any(|(subject, fate)| subject.2 == Some(arch) && fate.is_some());
            let remark = host_only.iter().position(|remark| remark.is_about(&rule, arch));
            words.push(match (boots.get(&(arch, rule.clone())), remark) {
                (Some(Some(witness)), None) => witness.to_string(),
                (None, Some(remark)) if matters => {
                    remarks.insert(remark);
                    format!("host only ({})", remark + 1)
                }
                (None, None) if !matters => "-".to_string(),
                (seen, _) => {
                    honest = false;
                    if seen.is_some() { "SURVIVED" } else { "UNTRIED" }.to_string()
                }
            });
        }
        text += &row(&rule, words.iter().map(String::as_str));
        if honest { passed += 1 } else { failed += 1 }
    }
    for (n, remark) in host_only.iter().enumerate() {
        text += &format!("({}) {}: {}\n", n + 1, remark.rules.join(", "), remark.reason);
        // What nobody asked for is out of date.
        failed += usize::from(!remarks.contains(&n));
    }
    (text, passed, failed)
}

/// Names all rules, then the steps of architectures.
fn names(fates: &[Fates]) -> Vec<String> {
    let rules: Vec<String> = Rule::ALL.iter().map(|rule| format!("{rule:?}")).collect();
    let steps: BTreeSet<&String> =
        fates.iter().flat_map(BTreeMap::keys).filter(|name| !rules.contains(name)).collect();
    rules.iter().chain(steps).cloned().collect()
}

fn word(fate: Option<Fate>) -> &'static str {
    match fate {
        Some(Fate::Noticed) => "noticed",
        Some(Fate::Survived) => "SURVIVED",
        None => "-",
    }
}

/// Writes a row of the table.
fn row<'a>(first: &str, others: impl Iterator<Item = &'a str>) -> String {
    let mut row = format!("{first:<20}");
    others.for_each(|word| row.push_str(&format!("{word:<15}")));
    row.truncate(row.trim_end().len());
    row + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table in which all rules are noticed on the host, in all registers, but for what `host` says, and `boots` tell what
    /// became of one rule.
    fn judge(host: &str, boots: &[(Arch, Option<Witness>)], host_only: &str) -> (String, usize) {
        let all = Rule::ALL.iter().map(|rule| format!("without {rule:?}: noticed after 3 scripts\n"));
        let all: String = all.collect();
        let fates: Vec<Fates> = ["", "", host].map(|more| read(&format!("{all}{more}"))).into();
        let mut seen = Boots::new();
        for rule in Rule::ALL {
            Arch::ALL
                .into_iter()
                .for_each(|arch| _ = seen.insert((arch, format!("{rule:?}")), Some(Witness::Guest)));
        }
        seen.retain(|(_, rule), _| rule != "OwnerCheck");
        seen.extend(boots.iter().map(|(arch, witness)| ((*arch, "OwnerCheck".to_string()), *witness)));
        let (text, passed, failed) = table(&fates, &seen, &parse_mutants(host_only).unwrap().1);
        assert!(passed + failed >= Rule::ALL.len());
        (text, failed)
    }

    #[test]
    fn a_rule_fails_that_nobody_notices_or_that_somebody_misses() {
        let by = |witness| Arch::ALL.map(|arch| (arch, witness));
        let (text, failed) = judge("", &by(Some(Witness::Auditor)), "");
        assert_eq!(failed, 0, "{text}");
        let line =
            "OwnerCheck          noticed        noticed        noticed        auditor        auditor\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(judge("", &by(None), "").1, 1);
        assert_eq!(judge("", &[], "").1, 1);
        assert_eq!(judge("without OwnerCheck: survived", &by(Some(Witness::Guest)), "").1, 1);
    }

    #[test]
    fn a_test_can_be_one_that_has_to_fail() {
        let text = "[[test]]\nname = \"x\"\nbreaks = [\"A\", \"B\"]\nsuite = [\"B\"]\nbootargs = \"y\"\n\
            [[host-only]]\nrules = [\"C\"]\narch = \"loongarch64\"\nreason = \"z\"";
        let (tests, host_only) = parse_mutants(text).unwrap();
        let of = |test: &Test| (test.name.clone(), test.broken.clone(), test.in_suite, test.bootargs.clone());
        let expected = [
            ("x", Broken::NotNow, false, "y"),
            ("x-without-A", Broken::Without("A".into()), false, "y fp-break=A"),
            ("x-without-B", Broken::Without("B".into()), true, "y fp-break=B"),
        ];
        let expected = expected.map(|(n, b, s, a)| (n.to_string(), b, s, a.to_string()));
        assert_eq!(tests.iter().map(of).collect::<Vec<_>>(), expected);
        assert!(host_only[0].is_about("C", Arch::Loongarch64) && !host_only[0].is_about("C", Arch::Aarch64));
        let why = |text| format!("{:#}", parse_mutants(text).unwrap_err());
        assert!(why("[[test]]\nname = \"x\"\nbreaks = [\"A\"]\nsuite = [\"B\"]").contains("B is not in"));
    }

    #[test]
    fn a_rule_may_say_why_no_boot_shows_it() {
        let remark = "[[host-only]]\nrules = [\"OwnerCheck\"]\nreason = \"so it is\"";
        let (text, failed) = judge("", &[], remark);
        assert!(
            failed == 0 && text.contains("host only (1)") && text.contains("(1) OwnerCheck: so it is"),
            "{text}"
        );
        // It is out of date once a boot does.
        assert!(judge("", &Arch::ALL.map(|arch| (arch, Some(Witness::Guest))), remark).1 > 0);
    }

    #[test]
    fn a_step_counts_where_it_is_taken() {
        let witness = Arch::ALL.map(|arch| (arch, Some(Witness::Guest)));
        let step = "without KeepTop: noticed after 8 scripts";
        let (text, failed) = judge(step, &witness, "");
        assert!(failed == 1 && text.contains("UNTRIED"), "{text}");
        let remark = "[[host-only]]\nrules = [\"KeepTop\"]\narch = \"loongarch64\"\nreason = \"x\"";
        assert_eq!(judge(step, &witness, remark).1, 0);
    }
}
