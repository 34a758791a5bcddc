//! What is tested without booting anything: format, lints, host tests.

use crate::arch::Arch;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::Path;

/// A Cargo command that has to succeed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What the output calls it.
    pub(crate) name: &'static str,
    /// Runs it, with its output in the file.
    run: fn(&Workspace, &File) -> Result<()>,
    /// What its failure means.
    failure: &'static str,
    /// The file it is about, where it may be missing.
    only_with: Option<&'static str>,
}

/// Every step, the quickest first.
const STEPS: &[Step] = &[
    Step {
        name: "format",
        run: |workspace, log| cargo(workspace, log, &["fmt", "--all", "--check"], None),
        failure: "cargo fmt would change something",
        only_with: None,
    },
    Step {
        name: "lints-host",
        run: |workspace, log| {
            cargo(workspace, log, &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"], None)
        },
        failure: "clippy complains",
        only_with: None,
    },
    Step {
        name: "lints-aarch64",
        run: |workspace, log| lints(workspace, log, Arch::Aarch64),
        failure: "clippy complains",
        only_with: None,
    },
    Step {
        name: "lints-loongarch64",
        run: |workspace, log| lints(workspace, log, Arch::Loongarch64),
        failure: "clippy complains",
        only_with: None,
    },
    Step {
        name: "host-tests",
        run: |workspace, log| cargo(workspace, log, &["test", "--quiet", "--no-fail-fast"], None),
        failure: "a host test fails",
        only_with: None,
    },
    Step {
        name: "loom",
        run: |workspace, log| {
            // Apart from everything else: the flag would rebuild all of it, twice.
            let folder = workspace.target("loom").display().to_string();
            let words =
                ["test", "--quiet", "-p", "kernel", "--release", "--test", "loom", "--target-dir", &folder];
            cargo(workspace, log, &words, Some("--cfg loom"))
        },
        failure: "an interleaving fails",
        only_with: Some("kernel/tests/loom.rs"),
    },
];

/// Runs the lints for an architecture's bare-metal target: of the image and the guests, and of the image that tests can
/// break, which has code of its own.
fn lints(workspace: &Workspace, log: &File, arch: Arch) -> Result<()> {
    for what in [&["-p", "fermata", "-p", "guests"], &["-p", "fermata", "--features", "broken-rules"]] {
        let fixed = ["clippy", "--quiet", "--release", "--target", arch.rust_target()];
        let words = [&fixed[..], what, &["--", "-D", "warnings"]].concat();
        cargo(workspace, log, &words, None)?;
    }
    Ok(())
}

/// Lists the steps that have something to do in this workspace.
pub(crate) fn steps(workspace: &Workspace) -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(|step| step.only_with.is_none_or(|path| workspace.source(path).exists()))
}

impl Step {
    /// Runs it and keeps its output in a log.
    ///
    /// # Errors
    /// Says what failed; the log has the details.
    pub(crate) fn run(&self, workspace: &Workspace, log: &Path) -> Result<()> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        (self.run)(workspace, &file).with_context(|| self.failure)
    }
}

/// Runs Cargo with its output in the file.
fn cargo(workspace: &Workspace, log: &File, words: &[&str], rustflags: Option<&str>) -> Result<()> {
    let mut command = workspace.cargo(words);
    command.stdout(log.try_clone()?).stderr(log.try_clone()?);
    if let Some(flags) = rustflags {
        command.env("RUSTFLAGS", flags);
    }
    let status = command.status().context("cannot start cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo {}: {status}", words.join(" ")) }
}
