//! The commands.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use ::log::LevelFilter;

use super::import::Import;
use super::registers::{write_differences, write_registers};
use super::table::Table;
use super::view::{ActionError, Audit, FpCounters, Monitor, VcpuState, VmState, VmView};
use crate::console::Mode;
use crate::sched::CpuSet;

/// How many trace records are shown unless told, and at most: Fermata's port holds 16 KiB.
const TRACE: usize = 24;
const TRACE_MOST: usize = 150;

/// A command: its name, its arguments, what it does, and how.
struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&[&str], &mut Out<'_>, &dyn Monitor) -> Outcome,
}

/// What a command writes to, and what is to happen after it.
pub(super) struct Out<'a> {
    screen: &'a mut dyn Write,
    import: Option<Import>,
}

impl Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.screen.write_str(text)
    }
}

/// All commands, in the order in which `help` lists them.
const COMMANDS: &[Command] = &[
    Command { name: "help", arguments: "", help: "this list", run: help },
    Command { name: "vm", arguments: "", help: "the guests", run: vm },
    Command { name: "vm", arguments: "stop|start|restart NAME", help: "changes a guest", run: vm },
    Command {
        name: "vm",
        arguments: "affinity NAME CPUS",
        help: "where it may run: 1, 0-3, 0+2-3, all",
        run: vm,
    },
    Command { name: "vm", arguments: "console NAME", help: "moves the terminal to a guest", run: vm },
    Command { name: "vcpu", arguments: "", help: "virtual CPUs: state, home, time", run: vcpu },
    Command { name: "cpu", arguments: "", help: "physical CPUs: load and who runs", run: cpu },
    Command { name: "fp", arguments: "", help: "who owns the FP registers, and the ledger", run: fp },
    Command { name: "fp", arguments: "dump", help: "the ledger for programs", run: fp },
    Command {
        name: "fp",
        arguments: "snapshot VCPU",
        help: "keeps the FP registers of a vCPU as they are",
        run: fp,
    },
    Command { name: "fp", arguments: "dump VCPU", help: "the registers in its newest snapshot", run: fp },
    Command { name: "fp", arguments: "diff VCPU", help: "what its two newest snapshots differ in", run: fp },
    Command {
        name: "fp",
        arguments: "restore VCPU [FROM]",
        help: "puts a snapshot back, or another's",
        run: fp,
    },
    Command { name: "fp", arguments: "export VCPU", help: "its newest snapshot as lines of text", run: fp },
    Command {
        name: "fp",
        arguments: "import VCPU",
        help: "keeps a snapshot from such lines for it",
        run: fp,
    },
    Command { name: "fp", arguments: "policy NAME POLICY", help: "changes a guest's FP policy", run: fp },
    Command { name: "fp", arguments: "audit on|off", help: "checks FP ownership at each entry", run: fp },
    Command { name: "trace", arguments: "[N]", help: "the newest trace records of all CPUs", run: trace },
    Command {
        name: "trace",
        arguments: "dump",
        help: "turns and FP events since the last dump, for programs",
        run: trace,
    },
    Command { name: "log", arguments: "[LEVEL]", help: "what is logged", run: log },
    Command { name: "quit", arguments: "", help: "powers the machine off", run: quit },
];

/// What a command came to. A refusal has been formed as a sentence; it is for a human and nobody matches on it.
type Outcome = Result<(), Refusal>;

/// Why a command did nothing.
enum Refusal {
    /// A word is not known: what it should have been, and what there is.
    Unknown { what: &'static str, word: String, known: Vec<String> },
    /// The command has a form that was not kept: which.
    Usage(&'static str),
    /// The machine refused.
    Action { name: String, error: ActionError },
    /// The console cannot do it.
    Framed,
    /// The screen failed.
    Screen,
}

impl From<fmt::Error> for Refusal {
    fn from(_: fmt::Error) -> Self {
        Self::Screen
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what, word, known } if known.is_empty() => {
                write!(out, "no {what} \"{word}\"; there are none")
            }
            Self::Unknown { what, word, known } => {
                write!(out, "no {what} \"{word}\"; known: {}", known.join(", "))
            }
            Self::Usage(usage) => write!(out, "usage: {usage}"),
            Self::Action { name, error } => write!(out, "{name}: {error}"),
            Self::Framed => write!(out, "all consoles are shown: console=framed"),
            Self::Screen => Ok(()),
        }
    }
}

/// Runs a line and writes what it has to say to `screen`. Returns what takes the lines after it, if it is not the prompt.
pub(super) fn run(line: &str, screen: &mut dyn Write, monitor: &dyn Monitor) -> Option<Import> {
    let mut out = Out { screen, import: None };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (&name, arguments) = words.split_first()?;
    let outcome = match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(arguments, &mut out, monitor),
        None => {
            let mut known: Vec<String> = COMMANDS.iter().map(|command| command.name.to_string()).collect();
            known.dedup();
            Err(Refusal::Unknown { what: "command", word: name.to_string(), known })
        }
    };
    if let Err(refusal) = outcome {
        // A screen that fails leaves nobody to tell.
        let _ = writeln!(out, "{refusal}");
    }
    out.import
}

fn help(arguments: &[&str], out: &mut Out<'_>, _: &dyn Monitor) -> Outcome {
    none(arguments, "help")?;
    for Command { name, arguments, help, .. } in COMMANDS {
        let form = format!("{name} {arguments}");
        writeln!(out, "  {form:<27} {help}")?;
    }
    writeln!(out, "  {:<27} the next console", "Ctrl-]")?;
    Ok(())
}

fn vm(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    const USAGE: &str = "vm [stop|start|restart|console NAME | affinity NAME CPUS]";
    let act = match *arguments {
        [] => return Ok(list_vms(out, monitor)?),
        ["stop", _] => Monitor::stop,
        ["start", _] => Monitor::start,
        ["restart", _] => Monitor::restart,
        ["console", name] => return focus(name, monitor),
        ["affinity", name, cpus] => return pin(name, cpus, monitor),
        [word, ..] if VM_ACTIONS.contains(&word) => return Err(Refusal::Usage(USAGE)),
        [word, ..] => return Err(unknown("action", word, &VM_ACTIONS)),
    };
    let vm = find(arguments[1], monitor)?;
    act(monitor, vm.id).map_err(|error| Refusal::Action { name: vm.name, error })
}

/// What `vm` can be told to do.
const VM_ACTIONS: [&str; 5] = ["stop", "start", "restart", "console", "affinity"];

/// Lets a machine run on some CPUs only.
fn pin(name: &str, cpus: &str, monitor: &dyn Monitor) -> Outcome {
    let vm = find(name, monitor)?;
    let set = match cpus {
        "all" => vm.allowed,
        list => CpuSet::parse(list)
            .ok_or(Refusal::Usage("vm affinity NAME CPUS, with CPUS as 1, 0-3, 0+2-3 or all"))?,
    };
    monitor.set_affinity(vm.id, set).map_err(|error| Refusal::Action { name: vm.name, error })
}

fn list_vms(out: &mut dyn Write, monitor: &dyn Monitor) -> fmt::Result {
    let mut table = Table::new(&["NAME", "STATE", "VCPUS", "CPUS", "MEMORY", "FP", "CONSOLE"]);
    for vm in monitor.vms() {
        let state = match vm.state {
            VmState::Running => "running",
            VmState::Off => "off",
            VmState::Stopped => "stopped",
            VmState::Crashed => "crashed",
            VmState::Failed => "failed",
        };
        let memory = format!("{} MiB", vm.memory >> 20);
        let port = vm.port.0.to_string();
        let (vcpus, cpus) = (vm.vcpus.to_string(), vm.cpus.to_string());
        table.row([vm.name, state.into(), vcpus, cpus, memory, vm.policy.into(), port]);
    }
    table.write(out)
}

fn focus(name: &str, monitor: &dyn Monitor) -> Outcome {
    let console = monitor.console();
    let port = find(name, monitor)?.port;
    if console.mode() == Mode::Framed {
        return Err(Refusal::Framed);
    }
    console.focus(port);
    Ok(())
}

fn vcpu(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    none(arguments, "vcpu")?;
    let mut table = Table::new(&["VCPU", "STATE", "HOME", "SECONDS", "EXITS", "MIGRATIONS"]);
    for vcpu in monitor.vcpus() {
        let state = match vcpu.state {
            VcpuState::Running => "running",
            VcpuState::Queued => "queued",
            VcpuState::Asleep => "asleep",
            VcpuState::Off => "off",
        };
        let counts = [vcpu.exits, vcpu.migrations].map(|count| count.to_string());
        let [exits, migrations] = counts;
        let home = format!("cpu{}", vcpu.home.0);
        table.row([vcpu.name, state.into(), home, seconds(vcpu.run_micros), exits, migrations]);
    }
    Ok(table.write(out)?)
}

fn cpu(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    none(arguments, "cpu")?;
    let mut table = Table::new(&["CPU", "LOAD", "IDLE", "RUNS", "QUEUED", "EXITS", "SWITCHES"]);
    for cpu in monitor.cpus() {
        let load = format!("{}.{}%", cpu.load_permille / 10, cpu.load_permille % 10);
        let counts = [cpu.queued as u64, cpu.exits, cpu.switches].map(|count| count.to_string());
        let runs = cpu.current.unwrap_or("-".into());
        table.row(
            [format!("cpu{}", cpu.id.0), load, seconds(cpu.idle_micros), runs].into_iter().chain(counts),
        );
    }
    Ok(table.write(out)?)
}

fn fp(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    const USAGE: &str = "fp [dump [VCPU] | snapshot|diff|export|import VCPU | restore VCPU [FROM] | policy NAME POLICY | audit on|off]";
    match *arguments {
        [] => Ok(ledger(out, monitor)?),
        ["dump"] => Ok(dump(out, monitor)?),
        ["dump", vcpu] => registers(vcpu, out, monitor),
        ["diff", vcpu] => differences(vcpu, out, monitor),
        ["snapshot", vcpu] => about(vcpu, monitor.take_fp(vcpu)),
        ["restore", vcpu] => about(vcpu, monitor.put_back_fp(vcpu, vcpu)),
        ["restore", vcpu, from] => about(vcpu, monitor.put_back_fp(vcpu, from)),
        ["export", vcpu] => match monitor.newest_fp(vcpu) {
            Some(snapshot) => Ok(snapshot.write_lines(out)?),
            None => about(vcpu, Err(ActionError::NoSnapshot)),
        },
        ["import", vcpu] => {
            out.import = Some(Import::new(vcpu, monitor).map_err(|error| refused(vcpu, error))?);
            Ok(writeln!(out, "type the lines that fp export writes; Ctrl-C gives up")?)
        }
        ["policy", name, policy] => {
            let vm = find(name, monitor)?;
            if !monitor.policies().contains(&policy) {
                return Err(unknown("policy", policy, monitor.policies()));
            }
            monitor.set_policy(vm.id, policy).map_err(|error| Refusal::Action { name: vm.name, error })
        }
        ["audit"] => {
            Ok(writeln!(out, "the auditor is {}", if monitor.audit() == Audit::On { "on" } else { "off" })?)
        }
        ["audit", word] => {
            let audit = match word {
                "on" => Audit::On,
                "off" => Audit::Off,
                _ => return Err(unknown("state", word, &["on", "off"])),
            };
            monitor.set_audit(audit);
            Ok(())
        }
        [word, ..] if FP_ACTIONS.contains(&word) => Err(Refusal::Usage(USAGE)),
        [word, ..] => Err(unknown("action", word, &FP_ACTIONS)),
    }
}

/// What `fp` can be told to do.
const FP_ACTIONS: [&str; 8] = ["dump", "snapshot", "diff", "restore", "export", "import", "policy", "audit"];

fn about(vcpu: &str, result: Result<(), ActionError>) -> Outcome {
    result.map_err(|error| refused(vcpu, error))
}

fn refused(vcpu: &str, error: ActionError) -> Refusal {
    Refusal::Action { name: vcpu.to_string(), error }
}

/// The registers in the newest snapshot of a vCPU.
fn registers(vcpu: &str, out: &mut dyn Write, monitor: &dyn Monitor) -> Outcome {
    let [newest, _] = monitor.fp_snapshots(vcpu);
    let Some(newest) = newest else { return about(vcpu, Err(ActionError::NoSnapshot)) };
    Ok(write_registers(out, newest)?)
}

/// What the two newest snapshots of a vCPU differ in.
fn differences(vcpu: &str, out: &mut dyn Write, monitor: &dyn Monitor) -> Outcome {
    match monitor.fp_snapshots(vcpu) {
        [Some(new), Some(old)] => Ok(write_differences(out, &old, &new)?),
        [Some(_), None] => about(vcpu, Err(ActionError::OneSnapshot)),
        [None, _] => about(vcpu, Err(ActionError::NoSnapshot)),
    }
}

/// The ledger for humans: who owns what, then what it cost.
fn ledger(out: &mut dyn Write, monitor: &dyn Monitor) -> fmt::Result {
    const COUNTS: [&str; 12] = [
        "TRAPS", "REQUESTS", "REFUSED", "LOADS", "SKIPS", "WIDER", "SAVES", "AVOIDED", "EVICTED", "FLUSHED",
        "IN", "OUT",
    ];
    let header = |first: [&'static str; 4]| Table::new(&[&first[..], &COUNTS].concat());
    let counts = |counters: FpCounters| counters.named().map(|(_, count)| count.to_string());
    let mut table = header(["VCPU", "POLICY", "WIDEST", "HELD BY"]);
    for vcpu in monitor.fp_vcpus() {
        let resident = vcpu.resident.map_or("-".into(), |cpu| format!("cpu{}", cpu.0));
        let first = [vcpu.name, vcpu.policy.into(), vcpu.widest.into(), resident];
        table.row(first.into_iter().chain(counts(vcpu.counters)));
    }
    table.write(out)?;
    writeln!(out)?;
    let mut table = header(["CPU", "OWNER", "UNITS", "STATE"]);
    for cpu in monitor.fp_cpus() {
        let [owner, units, state] = cpu.seats();
        let first = [format!("cpu{}", cpu.id.0), owner, units, state];
        table.row(first.into_iter().chain(counts(cpu.counters)));
    }
    table.write(out)
}

/// The ledger for programs: a line per vCPU and CPU, of words that are `key=value`.
fn dump(out: &mut dyn Write, monitor: &dyn Monitor) -> fmt::Result {
    let mut line = |head: String, counters: FpCounters| {
        write!(out, "fp {head}")?;
        counters.named().iter().try_for_each(|(name, count)| write!(out, " {name}={count}"))?;
        writeln!(out)
    };
    for vcpu in monitor.fp_vcpus() {
        line(format!("vcpu={} policy={} widest={}", vcpu.name, vcpu.policy, vcpu.widest), vcpu.counters)?;
    }
    for cpu in monitor.fp_cpus() {
        let [owner, units, state] = cpu.seats();
        let head = format!("cpu={} owner={owner} units={units} state={state}", cpu.id.0);
        line(head, cpu.counters)?;
    }
    Ok(())
}

fn trace(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    let count = match *arguments {
        [] => Some(TRACE),
        ["dump"] => return Ok(monitor.dump_trace(out)?),
        [word] => word.parse().ok().filter(|count| (1..=TRACE_MOST).contains(count)),
        _ => None,
    };
    let count = count.ok_or(Refusal::Usage("trace [N | dump], with N from 1 to 150"))?;
    Ok(monitor.trace(out, count)?)
}

fn log(arguments: &[&str], out: &mut Out<'_>, _: &dyn Monitor) -> Outcome {
    match *arguments {
        [] => {}
        [word] => {
            let known: Vec<String> =
                LevelFilter::iter().map(|level| level.as_str().to_ascii_lowercase()).collect();
            let Ok(level) = word.parse() else {
                return Err(Refusal::Unknown { what: "level", word: word.to_string(), known });
            };
            ::log::set_max_level(level);
        }
        _ => return Err(Refusal::Usage("log [LEVEL]")),
    }
    let (level, most) = (::log::max_level(), ::log::STATIC_MAX_LEVEL);
    write!(out, "logging {}", level.as_str().to_ascii_lowercase())?;
    if level > most {
        write!(out, ", but this build has nothing beyond {}", most.as_str().to_ascii_lowercase())?;
    }
    Ok(writeln!(out)?)
}

fn quit(arguments: &[&str], out: &mut Out<'_>, monitor: &dyn Monitor) -> Outcome {
    none(arguments, "quit")?;
    writeln!(out, "powering off")?;
    monitor.power_off();
    Ok(())
}

/// Refuses arguments where there are none.
fn none(arguments: &[&str], usage: &'static str) -> Outcome {
    if arguments.is_empty() { Ok(()) } else { Err(Refusal::Usage(usage)) }
}

/// The machine of a name.
fn find(name: &str, monitor: &dyn Monitor) -> Result<VmView, Refusal> {
    let mut vms = monitor.vms();
    match vms.iter().position(|vm| vm.name == name) {
        Some(n) => Ok(vms.swap_remove(n)),
        None => {
            let known = vms.into_iter().map(|vm| vm.name).collect();
            Err(Refusal::Unknown { what: "guest", word: name.to_string(), known })
        }
    }
}

fn unknown(what: &'static str, word: &str, known: &[&str]) -> Refusal {
    let known = known.iter().map(|&word| word.to_string()).collect();
    Refusal::Unknown { what, word: word.to_string(), known }
}

/// Microseconds as seconds with two digits.
fn seconds(micros: u64) -> String {
    format!("{}.{:02}", micros / 1_000_000, micros / 10_000 % 100)
}
