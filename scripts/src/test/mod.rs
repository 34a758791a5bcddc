//! `cargo xtask test`: everything that can be checked by a machine.

mod judge;
mod mutants;
mod sabotage;
mod stanza;
mod steps;

use crate::arch::{Arch, Emulator};
use crate::bench;
use crate::lab::{Job, Lab, Stock};
use crate::payload;
use crate::run::watch::{Report, console_names};
use crate::scratch::Scratch;
use crate::workspace::Workspace;
use crate::{Command, setup};
use anyhow::{Context, Result};
use judge::Judge;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

/// `cargo xtask test`.
pub(crate) const COMMAND: Command = Command {
    name: "test",
    summary: "check everything: format, lints, host tests, tests in QEMU, figures",
    help: "\
cargo xtask test [--list] [FILTER]...
cargo xtask test --mutants fp [FILTER]...

Sets up what is missing, then checks the format and the lints, runs the host tests, boots Fermata once for every test in
guests/tests.toml, and measures the figures of `bench` and of `bench fp` against their limits. With FILTERs only
tests run whose names contain one of them; a name in full means that test alone.

  --list         only list the names
  --mutants fp   instead: switch off each rule of the FP machine in turn, and show which host tests notice, and who does
                 when Fermata is booted without it (guests/mutants.toml); with FILTERs boots alone

One line for each test; the output of each is in target/test-logs/NAME.log. The last line is `N passed, N failed`, and
the exit status is 0 if none failed.
",
    run,
};

/// Tests in QEMU at one time; each keeps about a core busy.
const AT_ONCE: usize = 2;
/// The file with the tests in QEMU.
const TESTS: &str = "guests/tests.toml";

/// What was asked for.
#[derive(Debug, Default)]
struct Request {
    filters: Vec<String>,
    list: bool,
    mutants: Option<String>,
}

fn parse(mut arguments: lexopt::Parser) -> Result<Request> {
    let mut request = Request::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("mutants") => {
                request.mutants = Some(arguments.value()?.to_string_lossy().into_owned());
            }
            lexopt::Arg::Long("list") => request.list = true,
            lexopt::Arg::Value(filter) => request.filters.push(filter.to_string_lossy().into_owned()),
            other => return Err(other.unexpected()).context("see cargo xtask test --help"),
        }
    }
    Ok(request)
}

fn run(arguments: lexopt::Parser) -> Result<ExitCode> {
    let request = parse(arguments)?;
    let workspace = Workspace::find();
    if let Some(what) = &request.mutants {
        return mutants::run(&workspace, what, &request.filters);
    }
    let suite = Suite::read(&workspace, &request.filters)?;
    if request.list {
        suite.names().iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    if suite.names().is_empty() {
        anyhow::bail!(
            "no test's name contains {}; cargo xtask test --list has them",
            request.filters.join(" or ")
        );
    }
    setup::ensure(&[setup::Need::Target(Arch::Aarch64), setup::Need::Target(Arch::Loongarch64)])?;
    let score = Score::new(workspace.clone())?;
    for step in &suite.steps {
        score.judge(step.name, |log| step.run(&workspace, log));
    }
    suite.boot(&workspace, &score);
    let (passed, failed) = score.total();
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tests to run.
struct Suite {
    steps: Vec<&'static steps::Step>,
    tests: Vec<stanza::Test>,
    bench: Vec<Arch>,
    bench_fp: Vec<Arch>,
}

impl Suite {
    /// Finds the tests that the filters leave.
    fn read(workspace: &Workspace, filters: &[String]) -> Result<Self> {
        let path = workspace.source(TESTS);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut tests = stanza::parse(&text).with_context(|| TESTS)?;
        tests.extend(mutants::boots(workspace)?.0.into_iter().filter(|test| test.in_suite));
        let mut steps: Vec<_> = steps::steps(workspace).collect();
        let names = steps.iter().map(|s| s.name.to_string()).chain(tests.iter().map(|t| t.name.clone()));
        let figures = bench::ARCHS.map(bench_name).into_iter().chain(Arch::ALL.map(bench_fp_name));
        let all: Vec<String> = names.chain(figures).collect();
        let chosen = |name: &str| is_chosen(name, filters, &all);
        steps.retain(|step| chosen(step.name));
        tests.retain(|test| chosen(&test.name));
        let bench = bench::ARCHS.into_iter().filter(|arch| chosen(&bench_name(*arch))).collect();
        let bench_fp = Arch::ALL.into_iter().filter(|arch| chosen(&bench_fp_name(*arch))).collect();
        Ok(Self { steps, tests, bench, bench_fp })
    }

    /// Names the tests in the order they run.
    fn names(&self) -> Vec<String> {
        let steps = self.steps.iter().map(|step| step.name.to_string());
        let bench = self.bench.iter().map(|arch| bench_name(*arch));
        let bench = bench.chain(self.bench_fp.iter().map(|arch| bench_fp_name(*arch)));
        steps.chain(self.tests.iter().map(|test| test.name.clone())).chain(bench).collect()
    }

    /// Runs what boots Fermata.
    fn boot(&self, workspace: &Workspace, score: &Score) {
        let kinds = || Arch::ALL.into_iter().flat_map(|arch| [(arch, false), (arch, true)]);
        let labs: BTreeMap<(Arch, bool), Lab> =
            kinds().filter_map(|kind| Some((kind, self.open_lab(workspace, kind, score)?))).collect();
        let kind = |test: &stanza::Test| (test.machine.board.arch, test.can_break());
        let with_lab = |test: &'_ &stanza::Test| labs.contains_key(&kind(test));
        let lab = |test: &stanza::Test| &labs[&kind(test)];
        let (alone, together): (Vec<_>, Vec<_>) =
            self.tests.iter().filter(with_lab).partition(|test| test.alone);
        at_once(together, |test| {
            score.judge(&test.name, |log| boot_one(lab(test), test, log));
        });
        for test in alone {
            score.judge(&test.name, |log| boot_one(lab(test), test, log));
        }
        for ((arch, _), lab) in labs.iter().filter(|((arch, breaks), _)| self.bench.contains(arch) && !breaks)
        {
            score.judge(&bench_name(*arch), |log| bench::check(lab, log));
        }
        for ((arch, _), lab) in
            labs.iter().filter(|((arch, breaks), _)| self.bench_fp.contains(arch) && !breaks)
        {
            score.judge(&bench_fp_name(*arch), |log| bench::fp::check(lab, log));
        }
    }

    /// Builds what an architecture's tests need. If it does not build, that is one failure, and none of them runs.
    fn open_lab(&self, workspace: &Workspace, (arch, breaks): (Arch, bool), score: &Score) -> Option<Lab> {
        let of_kind = |test: &stanza::Test| test.machine.board.arch == arch && test.can_break() == breaks;
        let tests = || self.tests.iter().filter(|test| of_kind(test));
        let benched = !breaks && (self.bench.contains(&arch) || self.bench_fp.contains(&arch));
        if tests().next().is_none() && !benched {
            return None;
        }
        let stock = if breaks {
            Stock::Broken
        } else if tests().any(stanza::Test::wants_debian) {
            Stock::Debian
        } else if benched || tests().any(|test| !test.bare) {
            Stock::Bare
        } else {
            Stock::Alone
        };
        let mut emulators: BTreeSet<Emulator> = tests().map(|test| test.machine.emulator).collect();
        let name = if breaks { "build-broken" } else { "build" };
        score.judge(&format!("{name}-{arch}"), |_| {
            if benched {
                emulators.insert(bench::machine(arch)?.emulator);
            }
            Lab::open(workspace.clone(), arch, &emulators, stock)
        })
    }
}

/// Names the measurements of an architecture among the tests.
fn bench_name(arch: Arch) -> String {
    let name = bench::COMMAND.name;
    if arch == Arch::Aarch64 { name.to_string() } else { format!("{name}-{arch}") }
}

/// Names the measurements of FP policies of an architecture among the tests.
fn bench_fp_name(arch: Arch) -> String {
    if arch == Arch::Aarch64 { "bench-fp".to_string() } else { format!("bench-fp-{arch}") }
}

/// Tells whether the filters leave a test. A filter that is the whole name of some test means no other.
fn is_chosen(name: &str, filters: &[String], all: &[String]) -> bool {
    let exact = |filter: &String| all.contains(filter);
    let one = |filter: &String| if exact(filter) { filter == name } else { name.contains(filter.as_str()) };
    filters.is_empty() || filters.iter().any(one)
}

impl stanza::Files for Lab {
    fn guest(&self, name: &str) -> Result<PathBuf> {
        Self::guest(self, name)
    }

    fn linux(&self) -> &crate::run::vm::Linux {
        &self.linux
    }

    fn kernel(&self, path: &Path) -> Result<PathBuf> {
        payload::ready(&self.workspace, &stanza::Files::source(self, path))
    }

    fn source(&self, path: &Path) -> PathBuf {
        self.workspace.source(&path.display().to_string())
    }
}

/// Does something for each test, for some at one time.
fn at_once<'a>(tests: Vec<&'a stanza::Test>, each: impl Fn(&'a stanza::Test) + Sync) {
    let queue = Mutex::new(VecDeque::from(tests));
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(test) = next() {
                    each(test);
                }
            });
        }
    });
}

/// Runs one test that boots Fermata, once or several times. One that leaves a rule out passes if somebody notices.
fn boot_one(lab: &Lab, test: &stanza::Test, log: &Path) -> Result<()> {
    if let mutants::Broken::Without(_) = test.broken {
        return mutants::boot_until_noticed(lab, test, log).map(|_| ());
    }
    let folder = Scratch::new()?;
    for boot in std::iter::once(test).chain(&test.then) {
        let (mut judge, report) = boot_once(lab, boot, log, folder.path())?;
        judge.verdict(&report).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// Boots Fermata once for a test, whose script has its files in `folder`, or the test's only guest without Fermata.
fn boot_once(lab: &Lab, test: &stanza::Test, log: &Path, folder: &Path) -> Result<(Judge, Report)> {
    let vms = test.vms(lab)?;
    let names: Vec<String> = vms.iter().map(|vm| vm.name.clone()).collect();
    let file =
        File::options().append(true).create(true).open(log).with_context(|| log.display().to_string())?;
    let mut judge = Judge::new(test, &console_names(&names), file);
    if let ([vm], true) = (vms.as_slice(), test.bare) {
        let report = lab.run_bare(&test.machine, vm, test.limit, &mut judge)?;
        return Ok((judge, report));
    }
    let job = Job {
        machine: test.machine.clone(),
        vms,
        bootargs: &test.bootargs,
        script: test.script.as_deref(),
        folder,
        limit: test.limit,
        spoil: &|tree| sabotage::apply(&test.sabotage, tree),
    };
    let report = lab.run(job, &mut judge)?;
    Ok((judge, report))
}

/// Counts, and prints a line for each test.
struct Score {
    workspace: Workspace,
    logs: PathBuf,
    count: Mutex<(usize, usize)>,
}

impl Score {
    fn new(workspace: Workspace) -> Result<Self> {
        let logs = workspace.target("test-logs");
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        Ok(Self { workspace, logs, count: Mutex::new((0, 0)) })
    }

    /// Runs one test and prints how it went.
    fn judge<T>(&self, name: &str, test: impl FnOnce(&Path) -> Result<T>) -> Option<T> {
        let log = self.logs.join(name).with_extension("log");
        // A log of an earlier run would be taken for this one's.
        let _ = std::fs::remove_file(&log);
        let start = Instant::now();
        let result = test(&log);
        let mut count = self.count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok(found) => {
                count.0 += 1;
                println!("{name}: ok ({:.1} s)", start.elapsed().as_secs_f32());
                Some(found)
            }
            Err(why) => {
                count.1 += 1;
                println!(
                    "{}",
                    failure(name, &why, log.exists().then(|| self.workspace.shown(&log).to_string()))
                );
                None
            }
        }
    }

    /// Returns how many passed and how many failed.
    fn total(&self) -> (usize, usize) {
        *self.count.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes the line of a failed test; a reason of more lines shows only the first, the log has the others.
fn failure(name: &str, why: &anyhow::Error, log: Option<String>) -> String {
    let why = format!("{why:#}");
    let why = why.lines().next().unwrap_or_default();
    match log {
        Some(log) => format!("{name}: FAILED ({why}, {log})"),
        None => format!("{name}: FAILED ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_part_of_a_name_or_all_of_one() {
        let all: Vec<String> = ["hello", "hello-smp", "fp"].map(String::from).to_vec();
        let chosen = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
            all.iter().filter(|name| is_chosen(name, &filters, &all)).map(String::as_str).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[]), ["hello", "hello-smp", "fp"]);
        assert_eq!(chosen(&["hell"]), ["hello", "hello-smp"]);
        assert_eq!(chosen(&["hello"]), ["hello"]);
        assert_eq!(chosen(&["smp", "fp"]), ["hello-smp", "fp"]);
        assert_eq!(chosen(&["nothing"]), [""; 0]);
    }

    #[test]
    fn a_failure_is_one_line() {
        let why = anyhow::anyhow!("script line 3: not seen\n  [a] tail");
        assert_eq!(failure("x", &why, Some("x.log".into())), "x: FAILED (script line 3: not seen, x.log)");
        assert_eq!(failure("x", &why.context("y"), None), "x: FAILED (y: script line 3: not seen)");
    }

    #[test]
    fn the_tests_of_this_project_are_well_formed() {
        let workspace = Workspace::find();
        if workspace.source(TESTS).exists() {
            let suite = Suite::read(&workspace, &[]).unwrap();
            assert!(suite.bench == bench::ARCHS && suite.bench_fp == Arch::ALL);
            assert!(suite.steps.len() >= 4 && !suite.tests.is_empty());
        }
    }
}
