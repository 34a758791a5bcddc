//! `cargo xtask run`: boots guests under Fermata in QEMU.

pub(crate) mod cli;
pub(crate) mod consoles;
pub(crate) mod framing;
pub(crate) mod layout;
pub(crate) mod machine;
pub(crate) mod outcome;
pub(crate) mod qemu;
mod report;
pub(crate) mod script;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod units;
pub(crate) mod vm;
pub(crate) mod watch;

use crate::Command;
use crate::arch::{Arch, Emulator};
use crate::payload;
use crate::scratch::Scratch;
use crate::setup::{self, Need, Tools, initramfs};
use crate::workspace::{LINUX_FP_CHECK, Workspace};
use anyhow::{Context, Result};
use cli::Request;
use layout::Modules;
use machine::{Handover, Machine, shell_line};
use outcome::{Ending, Fate};
use qemu::{Keyboard, Qemu};
use report::{Reporter, Story};
use script::Script;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tree::Tree;
use units::Sve;
use vm::{Linux, Vm};
use watch::{Line, Listener, Plan, Report, watch};

/// `cargo xtask run`.
pub(crate) const COMMAND: Command =
    Command { name: "run", summary: "boot guests under Fermata in QEMU", help: cli::HELP, run };

/// Fermata's command line when a program reads its consoles.
pub(crate) const FRAMED: &str = "console=framed";

fn run(arguments: lexopt::Parser) -> Result<ExitCode> {
    let request = cli::parse(arguments)?;
    let headless = request.headless || !terminal::has_person();
    let workspace = Workspace::find();
    let (arch, emulator) = (request.machine.board.arch, request.machine.emulator);
    let debian = request.vms.is_empty() || request.vms.iter().any(|vm| vm.kernel.is_none());
    let tools = setup::ensure(&needs(arch, emulator, debian, request.dry_run))?;
    let linux = if debian { linux(&workspace, &tools, arch, request.dry_run)? } else { Linux::default() };
    let written = if request.vms.is_empty() { vec![vm::Written::default(); 2] } else { request.vms.clone() };
    let mut vms: Vec<Vm> =
        written.into_iter().enumerate().map(|(index, vm)| vm.resolve(index, arch, &linux)).collect();
    for vm in &mut vms {
        vm.kernel = payload::ready(&workspace, &vm.kernel).with_context(|| format!("guest `{}`", vm.name))?;
    }
    layout::check(&vms, &request.machine)?;
    let script = read_script(&request, &vms)?;
    let image = if request.dry_run { workspace.image(arch) } else { workspace.build_image(arch)? };
    let boot = Boot { machine: &request.machine, qemu: tools.emulator(arch, emulator), image: &image };

    eprint!("{}", table(&request.machine, &vms, &linux));
    let traced = format!("{FRAMED} trace={}", report::RECORDS);
    let bootargs = match (&request.fp_report, headless) {
        (Some(_), _) => &traced,
        (None, true) => FRAMED,
        (None, false) => "",
    };
    if request.dry_run {
        let folder = workspace.target("dry-run");
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let arguments = boot.prepare(&folder, bootargs, &vms)?;
        println!("{}", shell_line(boot.qemu, &arguments));
        return Ok(ExitCode::SUCCESS);
    }
    // A run can be long, so it is known before it whether there is a place for what it brings.
    let page = match &request.fp_report {
        Some(path) => Some((path, open_report(path)?)),
        None => None,
    };
    let scratch = Scratch::new()?;
    let arguments = boot.prepare(scratch.path(), bootargs, &vms)?;
    let (line, keyboard) =
        if headless { (Line::Framed, Keyboard::Here) } else { (Line::Plain, Keyboard::Terminal) };
    if !headless {
        eprintln!("Ctrl-] brings the next console to the front; `quit` at Fermata's prompt ends everything.");
    }
    let mut command = std::process::Command::new(boot.qemu);
    command.args(arguments);
    let guests = vms.iter().map(|vm| vm.name.clone()).collect();
    let plan = Plan { line, guests, script, limit: request.timeout };
    let listener: &mut dyn Listener = if headless { &mut terminal::Prefixed } else { &mut terminal::Raw };
    let mut reporter = Reporter { story: Story::default(), inner: listener };
    let report = watch(Qemu::start(command, keyboard)?, plan, &mut reporter)?;
    if let Some((path, mut page)) = page {
        let written = page.set_len(0).and_then(|()| page.write_all(reporter.story.page().as_bytes()));
        written.with_context(|| format!("--fp-report {}", path.display()))?;
        eprintln!("{} shows what the FP registers held", path.display());
    }
    Ok(conclude(&report, keyboard))
}

/// Opens the file of a report, with what is in it left alone until there is a new one.
fn open_report(path: &Path) -> Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("--fp-report {}", path.display()))
}

/// Lists what a run needs. A dry run compiles nothing.
fn needs(arch: Arch, emulator: Emulator, debian: bool, dry_run: bool) -> Vec<Need> {
    let mut needs = vec![Need::Emulator(arch, emulator)];
    // Both targets, though one is used: whoever has run Fermata once can test it offline.
    if !dry_run {
        needs.extend([Need::Target(Arch::Aarch64), Need::Target(Arch::Loongarch64)]);
    }
    needs.extend(debian.then_some(Need::Debian(arch)));
    needs
}

/// Makes the parts of Debian guests: the kernel as it comes, and a RAM disk with the FP check in it. A dry run takes the
/// check as it was built last, or none.
pub(crate) fn linux(workspace: &Workspace, tools: &Tools, arch: Arch, dry_run: bool) -> Result<Linux> {
    let check = if dry_run { workspace.fp_check(arch).ok() } else { Some(workspace.build_fp_check(arch)?) };
    linux_with(workspace, tools, arch, check.as_deref())
}

/// Makes the parts of Debian guests with an FP check that is there already.
pub(crate) fn linux_with(
    workspace: &Workspace,
    tools: &Tools,
    arch: Arch,
    check: Option<&[u8]>,
) -> Result<Linux> {
    let path = format!("bin/{LINUX_FP_CHECK}");
    let extra: Vec<_> =
        check.map(|content| initramfs::File { path: &path, content, mode: 0o755 }).into_iter().collect();
    let content = tools.initramfs(arch, &extra)?;
    let initrd = workspace.target(&format!("initramfs-{arch}.cpio"));
    std::fs::create_dir_all(workspace.target(""))?;
    std::fs::write(&initrd, content).with_context(|| initrd.display().to_string())?;
    let debian = tools.debian(arch);
    Ok(Linux { kernel: debian.kernel.clone(), initrd, origin: debian.origin.clone() })
}

/// Reads the script of a run.
fn read_script(request: &Request, vms: &[Vm]) -> Result<Option<Script>> {
    let Some(path) = &request.script else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("--script {}", path.display()))?;
    let names: Vec<String> = vms.iter().map(|vm| vm.name.clone()).collect();
    let script = Script::parse(&text, &watch::console_names(&names), Path::new(""));
    Ok(Some(script.with_context(|| format!("--script {}", path.display()))?))
}

/// What boots where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot<'a> {
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// QEMU's program.
    pub(crate) qemu: &'a Path,
    /// Fermata's image.
    pub(crate) image: &'a Path,
}

impl Boot<'_> {
    /// Makes the machine's device tree with the guests in it.
    ///
    /// # Errors
    /// QEMU refuses the machine, or the modules do not fit into it.
    pub(crate) fn tree(&self, folder: &Path, bootargs: &str, vms: &[Vm]) -> Result<(Tree, Vec<Modules>)> {
        let mut tree = Tree::parse(&self.machine.dump_tree(self.qemu, &folder.join("machine.dtb"))?)?;
        // Two runs of one thing are the same run, and Fermata has no use for it.
        if let Ok(chosen) = tree.node("/chosen") {
            chosen.properties.retain(|(name, _)| name != "rng-seed");
        }
        let modules = layout::place(vms, &tree.memory()?, self.machine.tree_address())?;
        layout::describe(&mut tree, bootargs, vms, &modules)?;
        Ok((tree, modules))
    }

    /// Writes the device tree into `folder` and returns QEMU's arguments.
    fn prepare(&self, folder: &Path, bootargs: &str, vms: &[Vm]) -> Result<Vec<std::ffi::OsString>> {
        let (tree, modules) = self.tree(folder, bootargs, vms)?;
        let path: PathBuf = folder.join("fermata.dtb");
        let blob = tree.to_bytes()?;
        layout::verify(&blob, self.machine.cpus)?;
        std::fs::write(&path, blob).with_context(|| path.display().to_string())?;
        Ok(self.machine.arguments(self.image, &Handover::Boot(path), &modules))
    }
}

/// Says how a run went and makes an exit status of it.
fn conclude(report: &Report, keyboard: Keyboard) -> ExitCode {
    let verdict = report.fates.verdict(&report.ending);
    // A person who typed `quit` got what was asked for.
    let quit = keyboard == Keyboard::Terminal
        && report.fates.machine_verdict(&report.ending).is_ok()
        && !report.fates.any(|fate| *fate != Fate::Off);
    match verdict {
        Ok(()) => eprintln!("{}", report.fates),
        Err(_) if quit => eprintln!("ended at the prompt; {}", report.fates),
        Err(why) => {
            if !report.qemu.trim().is_empty() {
                eprintln!("QEMU said: {}", report.qemu.trim());
            }
            eprintln!("error: {why}");
            if report.ending == Ending::Stuck && report.fates.panic().is_none() {
                eprintln!("This is a bug in Fermata or QEMU; the run was ended from outside.");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Shows what will run.
fn table(machine: &Machine, vms: &[Vm], linux: &Linux) -> String {
    let kernel = |vm: &Vm| match vm.kernel == linux.kernel {
        true => linux.origin.split(' ').next().unwrap_or_default().to_string(),
        false => vm.kernel.display().to_string(),
    };
    let mut rows = vec![["guest", "vCPUs", "memory", "FP", "on CPUs", "weight", "kernel"].map(String::from)];
    for vm in vms {
        let affinity = vm.affinity.map_or_else(|| "all".to_string(), |affinity| affinity.to_string());
        rows.push([
            vm.name.clone(),
            vm.cpus.to_string(),
            vm.memory.to_string(),
            if vm.sve == Sve::Hidden { vm.fp.to_string() } else { format!("{}, SVE {}", vm.fp, vm.sve) },
            affinity,
            vm.weight.to_string(),
            kernel(vm),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let board = machine.board;
    let mut text = format!(
        "Fermata on {} ({}, {}, {} CPUs, {})\n",
        board.name, board.arch, machine.cpu, machine.cpus, machine.memory
    );
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(&format!("  {}\n", cells.join("  ").trim_end()));
    }
    text
}
