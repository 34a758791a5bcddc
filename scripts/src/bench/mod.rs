//! `cargo xtask bench`: what Fermata costs, in instructions.
//!
//! QEMU's `-icount shift=0` makes an instruction a nanosecond of virtual time, so the `bench` guest counts instructions
//! with its timer, the same on every run.

mod figures;
pub(crate) mod fp;
mod operations;

use crate::Command;
use crate::arch::Arch;
use crate::lab::{Job, Lab, Stock, unspoiled};
use crate::run::machine::{Board, Machine};
use crate::run::units::{Memory, Sve};
use crate::run::vm::{Policy, Vm};
use crate::run::watch::Listener;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
pub(crate) use operations::{ARCHS, check};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// `cargo xtask bench`.
pub(crate) const COMMAND: Command = Command {
    name: "bench",
    summary: "count the instructions that Fermata takes",
    help: "\
cargo xtask bench [--arch A] [--json] [NAME]...
cargo xtask bench fp [--arch A] [--json]

Boots the bench guest with QEMU counting instructions and prints what each operation costs: instructions of guest and
hypervisor together per operation, loads and saves of FP registers, loads that were skipped, and bytes moved. A round of
switch_* is two vCPU switches, with FP used by none, one or both of the vCPUs; with sve in the name it is SVE with
vectors of 512 bits, with lasx it is LASX. touch* is the first FP instruction of a turn, from the trap until it is done.

With fp, shows what each FP policy costs instead, where none, one, half or all of four vCPUs use FP and where use comes
and goes, with registers of every width: instructions, touches that trapped and bytes per round. It also shows the bytes
that no correct scheme can do without. A row is marked if the policy adaptive takes more than 105 % of the instructions of
the worse of lazy and hold, or more than 110 % of those of the best.

  --arch A   architecture: aarch64, loongarch64 (aarch64)
  --json     print an array of {arch, name, policy, instructions, loads, saves, skips, bytes} instead;
             for fp: {arch, registers, mix, policy, rounds, instructions, traps, loads, saves, skips, bytes, needed}, totals
  NAME       only these: hypercall, mmio_read, ipi, timer, wfi_wake, switch_none, switch_one, switch_both,
             touch, switch_sve_one, switch_sve_both, touch_sve, switch_lasx_one, switch_lasx_both, touch_lasx
",
    run,
};

/// How long one boot may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let (mut arch, mut json, mut names) = (Arch::Aarch64, false, Vec::new());
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("arch") => arch = arguments.value()?.to_string_lossy().parse()?,
            lexopt::Arg::Long("json") => json = true,
            lexopt::Arg::Value(name) => names.push(name.to_string_lossy().into_owned()),
            other => return Err(other.unexpected()).context("see cargo xtask bench --help"),
        }
    }
    let is_fp = names == ["fp"];
    let kinds = if is_fp { Vec::new() } else { operations::choose(&names)? };
    let workspace = Workspace::find();
    let emulators = [machine(arch)?.emulator].into();
    let lab = Lab::open(workspace.clone(), arch, &emulators, Stock::Bare)?;
    let mut log = Log::default();
    let shown = if is_fp {
        fp::measure(&lab, &mut log).map(|table| if json { table.json() } else { table.text() })
    } else {
        let figures = operations::measure(&lab, &kinds, &mut log);
        figures.map(|figures| if json { figures.json() } else { figures.table() })
    };
    let path = workspace.target("bench.log");
    std::fs::write(&path, log.0).with_context(|| path.display().to_string())?;
    let shown =
        shown.with_context(|| format!("the figures are not complete; see {}", workspace.shown(&path)))?;
    print!("{shown}");
    Ok(ExitCode::SUCCESS)
}

/// Makes the machine that measurements run on: one CPU, and instructions that take a nanosecond each.
///
/// # Errors
/// There is no such machine.
pub(crate) fn machine(arch: Arch) -> Result<Machine> {
    let machine = Machine::new(Board::find(arch, None)?, None)?;
    // The seed is for what is random in hardware: which TLB entry is replaced, for one.
    let extra = ["-icount", "shift=0,sleep=off", "-seed", "1"].map(Into::into).to_vec();
    Ok(Machine { cpus: 1, memory: Memory(512 << 20), extra, ..machine })
}

/// A boot of the bench guest.
struct Boot {
    /// Its vCPUs.
    cpus: u32,
    /// Its FP policy.
    policy: Policy,
    /// Its longest vectors.
    sve: Sve,
    /// Its arguments.
    cmdline: String,
}

impl Boot {
    /// Boots the guest; the listener hears what it says.
    ///
    /// # Errors
    /// It could not start, or did not end well.
    fn run(self, lab: &Lab, listener: &mut dyn Listener) -> Result<()> {
        let vm = Vm {
            name: "bench".to_string(),
            kernel: lab.guest("bench")?,
            initrd: None,
            cmdline: self.cmdline,
            cpus: self.cpus,
            memory: Memory(32 << 20),
            fp: self.policy,
            fp_units: None,
            sve: self.sve,
            affinity: None,
            weight: 256,
        };
        let machine = machine(lab.arch)?;
        let job = Job {
            machine,
            vms: vec![vm],
            bootargs: "",
            script: None,
            folder: Path::new(""),
            limit: PATIENCE,
            spoil: &unspoiled,
        };
        let report = lab.run(job, listener)?;
        report.fates.verdict(&report.ending).map_err(anyhow::Error::msg)
    }
}

/// Keeps every line.
#[derive(Debug, Default)]
struct Log(String);

impl Listener for Log {
    fn line(&mut self, _: usize, name: &str, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "[{name}] {line}");
    }
}
