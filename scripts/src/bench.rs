//! `cargo xtask bench`: what Fermata costs, in instructions.
//!
//! QEMU's `-icount shift=0` makes an instruction a nanosecond of virtual time, so the `bench` guest counts instructions
//! with its timer, the same on every run.

use crate::Command;
use crate::arch::Arch;
use crate::flat;
use crate::lab::{Job, Lab, Stock, unspoiled};
use crate::run::machine::{Board, Machine};
use crate::run::outcome::Said;
use crate::run::units::{Memory, Sve};
use crate::run::vm::{Policy, Vm};
use crate::run::watch::Listener;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
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

Boots the bench guest with QEMU counting instructions and prints what each operation costs: instructions of guest and
hypervisor together per operation, loads and saves of FP registers, loads that were skipped, and bytes moved. A round of
switch_* is two vCPU switches, with FP used by none, one or both of the vCPUs; with sve in the name it is SVE with
vectors of 512 bits. touch* is the first FP instruction of a turn, from the trap until it is done.

  --arch A   architecture: aarch64, loongarch64 (aarch64)
  --json     print an array of {arch, name, policy, instructions, loads, saves, skips, bytes} instead
  NAME       only these: hypercall, mmio_read, ipi, timer, wfi_wake, switch_none, switch_one, switch_both,
             touch, switch_sve_one, switch_sve_both, touch_sve
",
    run,
};

/// Under which FP policies something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    /// It does not matter.
    Any,
    /// Each.
    Each,
    /// The one that loads registers at the first use of every turn.
    Lazy,
}

/// A measurement, and the most instructions it may take.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    /// On AArch64 and on LoongArch.
    limits: [Option<u64>; 2],
    under: Under,
    /// The longest vectors of the guest; what is measured with SVE is measured on AArch64 alone.
    sve: Sve,
}

impl Kind {
    const fn new(name: &'static str, limits: [Option<u64>; 2], under: Under) -> Self {
        Self { name, limits, under, sve: Sve::Hidden }
    }

    const fn with_sve(name: &'static str, limit: Option<u64>, under: Under) -> Self {
        Self { name, limits: [limit, None], under, sve: SVE }
    }

    /// Tells whether it is measured in a boot of a guest.
    fn is_due(&self, arch: Arch, policy: Policy, sve: Sve) -> bool {
        let under = match self.under {
            Under::Any => policy == Policy::Hold,
            Under::Each => true,
            Under::Lazy => policy == Policy::Lazy,
        };
        under && self.sve == sve && (sve == Sve::Hidden || arch == Arch::Aarch64)
    }

    const fn limit(&self, arch: Arch) -> Option<u64> {
        match arch {
            Arch::Aarch64 => self.limits[0],
            Arch::Loongarch64 => self.limits[1],
        }
    }
}

/// Every measurement, in the order of the table.
const KINDS: &[Kind] = &[
    Kind::new("hypercall", [Some(250), Some(300)], Under::Any),
    Kind::new("mmio_read", [Some(600), Some(700)], Under::Any),
    Kind::new("ipi", [Some(1500), None], Under::Any),
    Kind::new("timer", [Some(1500), None], Under::Any),
    Kind::new("wfi_wake", [None, None], Under::Any),
    Kind::new("switch_none", [Some(4000), Some(4500)], Under::Each),
    Kind::new("switch_one", [None, None], Under::Each),
    Kind::new("switch_both", [Some(4600), Some(5200)], Under::Each),
    Kind::new("touch", [Some(350 + SIMD_LOAD), None], Under::Lazy),
    Kind::with_sve("switch_sve_one", None, Under::Each),
    Kind::with_sve("switch_sve_both", None, Under::Each),
    Kind::with_sve("touch_sve", Some(350 + SVE_LOAD), Under::Lazy),
];

/// The vectors that figures with SVE are for.
const SVE: Sve = Sve::Bits(512);
/// Instructions of the functions in `arch/aarch64/src/fp_regs.rs` that load registers.
const SIMD_LOAD: u64 = 21;
const SVE_LOAD: u64 = 56;

/// The architectures whose figures `cargo xtask test` judges.
pub(crate) const ARCHS: [Arch; 1] = [Arch::Aarch64];

/// Longest image, in KiB.
const IMAGE_LIMIT: u64 = 512;
/// Most memory Fermata may use before it starts guests, in KiB.
const MEMORY_LIMIT: u64 = 8192;
/// How long one boot may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    policy: Option<Policy>,
    instructions: u64,
    loads: u64,
    saves: u64,
    skips: u64,
    bytes: u64,
}

/// All figures.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figures {
    arch: Arch,
    rows: Vec<Row>,
    /// The length of the image in memory, in bytes.
    image: u64,
    /// Memory before guests, in KiB, as Fermata says.
    memory: Option<u64>,
}

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
    let kinds = choose(&names)?;
    let workspace = Workspace::find();
    let emulators = [machine(arch)?.emulator].into();
    let lab = Lab::open(workspace.clone(), arch, &emulators, Stock::Bare)?;
    let mut log = Log::default();
    let figures = measure(&lab, &kinds, &mut log);
    let path = workspace.target("bench.log");
    std::fs::write(&path, log.0).with_context(|| path.display().to_string())?;
    let figures =
        figures.with_context(|| format!("the figures are not complete; see {}", workspace.shown(&path)))?;
    print!("{}", if json { figures.json() } else { figures.table() });
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

/// Finds the measurements of these names; all where none is given.
fn choose(names: &[String]) -> Result<Vec<&'static Kind>> {
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
fn measure(lab: &Lab, kinds: &[&Kind], listener: &mut dyn Listener) -> Result<Figures> {
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
    let vm = Vm {
        name: "bench".to_string(),
        kernel: lab.guest("bench")?,
        initrd: None,
        cmdline: format!("only={}", wanted.join(",")),
        cpus: 2,
        memory: Memory(32 << 20),
        fp: policy,
        fp_units: None,
        sve,
        affinity: None,
        weight: 256,
    };
    let machine = machine(lab.arch)?;
    let job = Job { machine, vms: vec![vm], bootargs: "", script: None, limit: PATIENCE, spoil: &unspoiled };
    let mut reader = Reader { figures, policy, problem: None, listener };
    let report = lab.run(job, &mut reader)?;
    let problem = reader.problem.take();
    report.fates.verdict(&report.ending).map_err(anyhow::Error::msg)?;
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
fn row(line: &str, policy: Policy) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["bench", name, numbers @ ..] = words.as_slice() else { return None };
    let kind = KINDS.iter().find(|kind| kind.name == *name)?;
    let numbers: Option<Vec<u64>> = numbers.iter().map(|number| number.parse().ok()).collect();
    let [instructions, loads, saves, skips, bytes] = numbers?.try_into().ok()?;
    let policy = (kind.under != Under::Any).then_some(policy);
    Some(Row { name: (*name).to_string(), policy, instructions, loads, saves, skips, bytes })
}

/// Reads how much memory is in use before guests, in KiB.
fn memory(line: &str) -> Option<u64> {
    match Said::parse(line) {
        Some(Said::Memory(amount)) => Some(amount),
        _ => None,
    }
}

impl Row {
    /// Tells whether it holds for this policy.
    fn is_of(&self, policy: Policy) -> bool {
        self.policy.is_none_or(|own| own == policy)
    }

    /// Returns the most instructions it may show. Under `eager` the registers of both move whether they are used or
    /// not, so that the limit for both holds there.
    fn limit(&self, arch: Arch) -> Option<u64> {
        let name = match (self.name.as_str(), self.policy) {
            ("switch_none", Some(Policy::Eager)) => "switch_both",
            (name, _) => name,
        };
        KINDS.iter().find(|kind| kind.name == name)?.limit(arch)
    }

    /// Says why it is over its limit, if it is.
    fn over(&self, arch: Arch) -> Option<String> {
        let policy = self.policy.map_or_else(String::new, |policy| format!(" ({policy})"));
        if let Some(limit) = self.limit(arch).filter(|limit| self.instructions > *limit) {
            return Some(format!(
                "{}{policy} takes {} instructions, {limit} is the limit",
                self.name, self.instructions
            ));
        }
        let one_user = matches!(self.name.as_str(), "switch_one" | "switch_sve_one");
        let moved = self.policy == Some(Policy::Hold) && one_user && self.loads + self.saves != 0;
        moved.then(|| {
            format!("{}{policy} has {} loads and {} saves, not 0", self.name, self.loads, self.saves)
        })
    }
}

impl Figures {
    /// Names everything over its limit.
    fn over(&self) -> Vec<String> {
        let mut over: Vec<String> = self.rows.iter().filter_map(|row| row.over(self.arch)).collect();
        if self.image > IMAGE_LIMIT << 10 {
            over.push(format!("the image has {} KiB, {IMAGE_LIMIT} is the limit", self.image.div_ceil(1024)));
        }
        match self.memory {
            None => over.push("Fermata did not say how much memory it takes before guests".to_string()),
            Some(memory) if memory > MEMORY_LIMIT => {
                over.push(format!("Fermata takes {memory} KiB before guests, {MEMORY_LIMIT} is the limit"));
            }
            Some(_) => {}
        }
        over
    }

    /// Writes the table.
    fn table(&self) -> String {
        let mut text = format!(
            "{:<15} {:<9} {:>12} {:>6} {:>6} {:>6} {:>7} {:>6}\n",
            "name", "policy", "instructions", "loads", "saves", "skips", "bytes", "limit"
        );
        for row in &self.rows {
            let policy = row.policy.map_or("-", Policy::name);
            let limit = row.limit(self.arch).map_or_else(|| "-".to_string(), |limit| limit.to_string());
            let mark = if row.over(self.arch).is_some() { "  over" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<15} {policy:<9} {:>12} {:>6} {:>6} {:>6} {:>7} {limit:>6}{mark}",
                row.name, row.instructions, row.loads, row.saves, row.skips, row.bytes
            );
        }
        let _ = writeln!(text, "image: {} KiB (limit {IMAGE_LIMIT})", self.image.div_ceil(1024));
        if let Some(memory) = self.memory {
            let _ = writeln!(text, "memory before guests: {memory} KiB (limit {MEMORY_LIMIT})");
        }
        text
    }

    /// Writes the array of objects.
    fn json(&self) -> String {
        let arch = self.arch;
        let object = |row: &Row| {
            let policy = row.policy.map_or_else(|| "null".to_string(), |policy| format!("\"{policy}\""));
            format!(
                "  {{\"arch\": \"{arch}\", \"name\": \"{}\", \"policy\": {policy}, \"instructions\": {}, \"loads\": {}, \
                 \"saves\": {}, \"skips\": {}, \"bytes\": {}}}",
                row.name, row.instructions, row.loads, row.saves, row.skips, row.bytes
            )
        };
        format!("[\n{}\n]\n", self.rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(lines: &[&str], policy: Policy) -> Figures {
        let rows = lines.iter().map(|line| row(line, policy).unwrap()).collect();
        Figures {
            arch: Arch::Aarch64,
            rows,
            image: 300_000,
            memory: memory("[ 0.1] fermata: memory before guests: 1234 KiB"),
        }
    }

    #[test]
    fn lines_of_the_guest_become_rows() {
        let row = row("bench switch_one 3300 1 2 3 528", Policy::Lazy).unwrap();
        assert_eq!((row.instructions, row.loads, row.saves, row.skips, row.bytes), (3300, 1, 2, 3, 528));
        assert_eq!(row.policy, Some(Policy::Lazy));
        assert_eq!(super::row("bench ipi 1 0 0 0 0", Policy::Lazy).unwrap().policy, None);
        for wrong in [
            "bench ipi 1 0 0 0",
            "bench ipi 1 0 0 0 0 0",
            "bench nap 1 0 0 0 0",
            "bench ipi -1 0 0 0 0",
            "ipi",
        ] {
            assert_eq!(super::row(wrong, Policy::Lazy), None, "{wrong}");
        }
    }

    #[test]
    fn every_limit_is_kept_or_named() {
        let good = figures(&["bench hypercall 250 0 0 0 0", "bench switch_one 3000 0 0 2 0"], Policy::Hold);
        assert_eq!(good.over(), [""; 0]);
        for (line, policy, word) in [
            ("bench hypercall 251 0 0 0 0", Policy::Hold, "251 instructions, 250"),
            ("bench switch_one 3000 1 0 0 0", Policy::Hold, "1 loads"),
            ("bench switch_both 4601 2 2 0 0", Policy::Lazy, "switch_both (lazy)"),
            ("bench switch_sve_one 3000 0 1 0 2208", Policy::Hold, "1 saves"),
            ("bench touch_sve 407 1 1 0 0", Policy::Lazy, "407 instructions, 406"),
        ] {
            let over = figures(&[line], policy).over();
            assert!(over.len() == 1 && over[0].contains(word), "{over:?}");
        }
        let slower =
            Figures { arch: Arch::Loongarch64, ..figures(&["bench hypercall 300 0 0 0 0"], Policy::Hold) };
        assert_eq!(slower.over(), [""; 0]);
        assert_eq!(figures(&["bench switch_one 3000 1 1 0 0"], Policy::Lazy).over(), [""; 0]);
        let fat = Figures { image: 513 << 10, memory: Some(8193), rows: vec![], ..good.clone() };
        assert_eq!(fat.over().len(), 2);
        assert_eq!(Figures { memory: None, ..good }.over().len(), 1);
    }

    #[test]
    fn table_and_json_show_the_same() {
        let figures =
            figures(&["bench hypercall 251 0 0 0 0", "bench switch_one 3000 0 0 2 0"], Policy::Hold);
        let table = figures.table();
        assert!(table.contains("hypercall       -                  251"), "{table}");
        assert!(table.contains("250  over\n") && table.contains("switch_one      hold"), "{table}");
        assert!(table.contains("image: 293 KiB") && table.contains("1234 KiB"), "{table}");
        assert_eq!(
            figures.json(),
            "[\n  {\"arch\": \"aarch64\", \"name\": \"hypercall\", \"policy\": null, \"instructions\": 251, \"loads\": 0, \
             \"saves\": 0, \"skips\": 0, \"bytes\": 0},\n  {\"arch\": \"aarch64\", \"name\": \"switch_one\", \"policy\": \
             \"hold\", \"instructions\": 3000, \"loads\": 0, \"saves\": 0, \"skips\": 2, \"bytes\": 0}\n]\n"
        );
    }

    #[test]
    fn an_unknown_measurement_is_named() {
        assert_eq!(choose(&["ipi".into()]).unwrap().len(), 1);
        assert_eq!(choose(&[]).unwrap().len(), KINDS.len());
        assert!(choose(&["nap".into()]).unwrap_err().to_string().contains("`nap`"));
    }
}
