//! `cargo xtask test --mutants fp`: switches off every rule that the FP machine stands on, one at a time, and shows which
//! tests notice.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use kernel::fp::rules::{Rule, Switch};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitCode, Stdio};

/// The subjects on whose registers rules are broken: a package with a test `fp` each.
const SUBJECTS: [(&str, &str); 3] =
    [("kernel", "kernel"), ("aarch64", "arch-aarch64"), ("loongarch64", "arch-loongarch64")];

/// What became of a mutant; a test that passes has noticed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Noticed,
    Survived,
}

/// Runs all mutants of `what` and prints a line for each rule.
///
/// # Errors
/// There are none of that name, or the tests cannot run.
pub(crate) fn run(workspace: &Workspace, what: &str) -> Result<ExitCode> {
    ensure!(what == "fp", "--mutants {what}: there are mutants of fp alone");
    let mut fates = Vec::new();
    for (_, package) in SUBJECTS {
        fates.push(play(workspace, package).with_context(|| format!("the mutants of {package}"))?);
    }
    let (table, passed, failed) = table(&fates);
    print!("{table}");
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the mutants of a package.
fn play(workspace: &Workspace, package: &str) -> Result<BTreeMap<String, Fate>> {
    let words = ["test", "--quiet", "-p", package, "--test", "fp", "--", "without", "--show-output"];
    let mut command = workspace.cargo(&words);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    let fates = read(&String::from_utf8_lossy(&output.stdout));
    if fates.is_empty() {
        bail!("no mutant ran");
    }
    Ok(fates)
}

/// Reads lines `without RULE: noticed after N scripts` and `without RULE: survived`.
fn read(output: &str) -> BTreeMap<String, Fate> {
    let line = |line: &str| {
        let (rule, fate) = line.strip_prefix("without ")?.split_once(": ")?;
        let fate = if fate.starts_with("noticed") { Fate::Noticed } else { Fate::Survived };
        Some((rule.to_string(), fate))
    };
    output.lines().filter_map(line).collect()
}

/// Writes a row for each rule, and for each step of an architecture. A rule is kept honest if somebody notices that it is broken, and nobody misses it who
/// looks for it.
fn table(fates: &[BTreeMap<String, Fate>]) -> (String, usize, usize) {
    let mut text = format!("{:<22}", "rule switched off");
    SUBJECTS.iter().for_each(|(name, _)| text.push_str(&format!("{name:<14}")));
    text.truncate(text.trim_end().len());
    text.push('\n');
    let (mut passed, mut failed) = (0, 0);
    let rules: Vec<String> = Rule::ALL.iter().map(|rule| format!("{rule:?}")).collect();
    let steps: BTreeSet<&String> =
        fates.iter().flat_map(BTreeMap::keys).filter(|name| !rules.contains(name)).collect();
    for name in rules.iter().chain(steps) {
        let found: Vec<Option<Fate>> = fates.iter().map(|all| all.get(name).copied()).collect();
        text.push_str(&format!("{name:<22}"));
        for fate in &found {
            let word = match fate {
                Some(Fate::Noticed) => "noticed",
                Some(Fate::Survived) => "SURVIVED",
                None => "-",
            };
            text.push_str(&format!("{word:<14}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        if found.contains(&Some(Fate::Noticed)) && !found.contains(&Some(Fate::Survived)) {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    (text, passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fails_that_nobody_notices_or_that_somebody_misses() {
        let all = Rule::ALL.iter().map(|rule| format!("without {rule:?}: noticed after 3 scripts\n"));
        let all = read(&all.collect::<String>());
        assert_eq!(all.len(), Rule::ALL.len());
        let none = BTreeMap::new();
        let (text, passed, failed) = table(&[all.clone(), none.clone(), none.clone()]);
        assert_eq!((passed, failed), (Rule::ALL.len(), 0));
        assert!(text.contains("OwnerCheck            noticed       -             -\n"), "{text}");
        let missed = read("without OwnerCheck: survived\ntest other ... ok");
        let (text, _, failed) = table(&[all, missed, none.clone()]);
        assert!(failed == 1 && text.contains("SURVIVED"), "{text}");
        assert_eq!(table(&[none.clone(), none.clone(), none]).1, 0);
    }
}
