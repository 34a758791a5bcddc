//! Runs of Fermata for tests and measurements: everything is built once, and each run is told what it gets.

use crate::arch::{Arch, Emulator};
use crate::run::machine::{Handover, Machine, shell_line};
use crate::run::outcome::Ending;
use crate::run::qemu::{Keyboard, Qemu};
use crate::run::script::Script;
use crate::run::tree::Tree;
use crate::run::vm::{Linux, Vm};
use crate::run::watch::{Line, Listener, Plan, Report, console_names, watch};
use crate::run::{Boot, FRAMED, linux_with};
use crate::scratch::Scratch;
use crate::setup::{self, Need, Tools};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What every run needs, built.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The workspace all is from.
    pub(crate) workspace: Workspace,
    /// Debian's parts; empty where no run has a Linux guest.
    pub(crate) linux: Linux,
    image: Option<PathBuf>,
    guests: BTreeMap<String, PathBuf>,
    /// The architecture.
    pub(crate) arch: Arch,
    tools: Tools,
}

/// One run.
pub(crate) struct Job<'a> {
    /// The machine.
    pub(crate) machine: Machine,
    /// The guests.
    pub(crate) vms: Vec<Vm>,
    /// More of Fermata's command line.
    pub(crate) bootargs: &'a str,
    /// What to type.
    pub(crate) script: Option<&'a str>,
    /// Where the script's files are.
    pub(crate) folder: &'a Path,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// What to do to the device tree.
    pub(crate) spoil: Spoil<'a>,
}

/// Changes a device tree before it is used.
pub(crate) type Spoil<'a> = &'a (dyn Fn(&mut Tree) -> Result<Spoilt> + Sync);

/// What became of a device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoilt {
    /// A tree, with nodes and properties as they are now.
    Sound,
    /// Bytes that no loader would take any more.
    Raw(Vec<u8>),
    /// Nobody hands it over.
    Withheld,
}

/// Changes nothing.
pub(crate) fn unspoiled(_: &mut Tree) -> Result<Spoilt> {
    Ok(Spoilt::Sound)
}

/// What a lab is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stock {
    /// Bare-metal guests without Fermata.
    Alone,
    /// Bare-metal guests.
    Bare,
    /// Bare-metal guests, on a Fermata that its boot arguments can break.
    Broken,
    /// Debian Linux guests too.
    Debian,
}

impl Lab {
    /// Sets up what is missing, and builds Fermata and the guests.
    ///
    /// # Errors
    /// Something is missing and cannot be had, or does not build.
    pub(crate) fn open(
        workspace: Workspace,
        arch: Arch,
        emulators: &BTreeSet<Emulator>,
        stock: Stock,
    ) -> Result<Self> {
        let mut needs: Vec<Need> = emulators.iter().map(|emulator| Need::Emulator(arch, *emulator)).collect();
        needs.push(Need::Target(arch));
        needs.extend((stock == Stock::Debian).then_some(Need::Debian(arch)));
        let tools = setup::ensure(&needs)?;
        let image = match stock {
            Stock::Alone => None,
            Stock::Bare | Stock::Debian => Some(workspace.build_image(arch)?),
            Stock::Broken => Some(workspace.build_broken_image(arch)?),
        };
        workspace.build_guests(arch)?;
        let linux = match stock {
            Stock::Debian => linux_with(&workspace, &tools, arch, Some(&workspace.fp_check(arch)?))?,
            Stock::Alone | Stock::Bare | Stock::Broken => Linux::default(),
        };
        let guests = workspace.guest_images(arch)?;
        Ok(Self { workspace, linux, image, guests, arch, tools })
    }

    /// Returns Fermata's image.
    ///
    /// # Errors
    /// The lab was made without.
    pub(crate) fn image(&self) -> Result<&Path> {
        self.image.as_deref().context("Fermata was not built for this")
    }

    /// Returns the image of a test guest.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn guest(&self, name: &str) -> Result<PathBuf> {
        let known = || self.guests.keys().cloned().collect::<Vec<_>>().join(", ");
        let path = self.guests.get(name);
        path.cloned()
            .with_context(|| format!("there is no guest `{name}` in guests/src/bin, only {}", known()))
    }

    /// Runs one job to its end. The listener first hears the command as a line of the console `host`.
    ///
    /// # Errors
    /// It could not start. How it went is no error here.
    pub(crate) fn run(&self, job: Job<'_>, listener: &mut dyn Listener) -> Result<Report> {
        let guests: Vec<String> = job.vms.iter().map(|vm| vm.name.clone()).collect();
        let script =
            job.script.map(|text| Script::parse(text, &console_names(&guests), job.folder)).transpose()?;
        let qemu = self.tools.emulator(self.arch, job.machine.emulator);
        let boot = Boot { machine: &job.machine, qemu, image: self.image()? };
        let scratch = Scratch::new()?;
        let bootargs = format!("{FRAMED} {}", job.bootargs);
        let (mut tree, modules) = boot.tree(scratch.path(), bootargs.trim_end(), &job.vms)?;
        let handover = hand_over(&scratch, &job, &mut tree)?;
        let arguments = job.machine.arguments(boot.image, &handover, &modules);
        listener.line(usize::MAX, "host", &shell_line(boot.qemu, &arguments));
        let mut command = Command::new(boot.qemu);
        command.args(arguments);
        let plan = Plan { line: Line::Framed, guests, script, limit: Some(job.limit) };
        let report = watch(Qemu::start(command, Keyboard::Here)?, plan, listener)?;
        report.qemu.lines().for_each(|line| listener.line(usize::MAX, "host", line));
        Ok(report)
    }

    /// Runs a guest to its end without Fermata. The listener hears the command as in [`Self::run`].
    ///
    /// # Errors
    /// It could not start. How it went is no error here.
    pub(crate) fn run_bare(
        &self,
        machine: &Machine,
        vm: &Vm,
        limit: Duration,
        listener: &mut dyn Listener,
    ) -> Result<Report> {
        let qemu = self.tools.emulator(self.arch, machine.emulator);
        let arguments = machine.bare_arguments(&vm.kernel, &vm.cmdline);
        listener.line(usize::MAX, "host", &shell_line(qemu, &arguments));
        let mut command = Command::new(qemu);
        command.args(arguments);
        let plan = Plan { line: Line::Plain, guests: Vec::new(), script: None, limit: Some(limit) };
        let mut renamed = Renamed { name: &vm.name, listener };
        let mut report = watch(Qemu::start(command, Keyboard::Here)?, plan, &mut renamed)?;
        report.qemu.lines().for_each(|line| listener.line(usize::MAX, "host", line));
        // The guest switched the machine off, and there is no Fermata to have a last word.
        if matches!(report.ending, Ending::Exited(status) if status.success()) {
            report.ending = Ending::Enough;
        }
        Ok(report)
    }
}

/// Hears the only console there is under the name of the guest it belongs to.
struct Renamed<'a> {
    name: &'a str,
    listener: &'a mut dyn Listener,
}

impl Listener for Renamed<'_> {
    fn line(&mut self, _: usize, _: &str, line: &str) {
        self.listener.line(1, self.name, line);
    }

    fn has_enough(&self) -> bool {
        self.listener.has_enough()
    }
}

/// Writes the device tree of a job the way it is to reach Fermata.
fn hand_over(scratch: &Scratch, job: &Job<'_>, tree: &mut Tree) -> Result<Handover> {
    match (job.spoil)(tree)? {
        Spoilt::Withheld => Ok(Handover::Nothing),
        Spoilt::Raw(bytes) => {
            let tree = scratch.file("raw.dtb", &bytes)?;
            match job.machine.stub() {
                Some(stub) => Ok(Handover::Raw { tree, stub: scratch.file("stub", &stub)? }),
                None => Ok(Handover::Boot(tree)),
            }
        }
        Spoilt::Sound => Ok(Handover::Boot(scratch.file("fermata.dtb", &tree.to_bytes()?)?)),
    }
}
