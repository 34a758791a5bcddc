//! The monitor's prompt, on a machine made of constants.

mod support;

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};

use arch_fake::fp::{EXTRA, Limit, Narrow, Regs, SCALAR, VECTOR};
use kernel::addr::{CpuId, Ticks, VcpuId, VmId};
use kernel::console::{Console, Interrupts, Mode, PortId, Serial};
use kernel::dev::Full;
use kernel::fp::{FpContext, Snapshot, SnapshotError};
use kernel::sched::CpuSet;
use kernel::shell::*;
use kernel::trace::{Kind, Trace};
use support::snapshot::{crc32, sealed};

/// A wire on which `typed` arrives and `shown` is seen.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<(Vec<u8>, Vec<u8>)>>);

impl Serial for Wire {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.0.lock().unwrap().1.push(byte);
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        let typed = &mut self.0.lock().unwrap().0;
        (!typed.is_empty()).then(|| typed.remove(0))
    }

    fn interrupts(&mut self, _: Interrupts) {}
}

struct Machine {
    console: Console,
    shell: Shell,
    wire: Wire,
    done: RefCell<Vec<String>>,
    kept: RefCell<Option<Arc<Snapshot>>>,
}

impl Machine {
    fn new(mode: Mode) -> Self {
        let (console, wire) = (Console::new(), Wire::default());
        console.attach(Box::new(wire.clone()));
        console.open(mode, ["one".into(), "two".into()]).unwrap();
        console.focus(PortId::FERMATA);
        let machine =
            Self { console, wire, shell: Shell::new(), done: RefCell::default(), kept: RefCell::default() };
        machine.shell.start(&machine.console);
        machine.settle();
        machine.wire.0.lock().unwrap().1.clear();
        machine
    }

    fn settle(&self) {
        for _ in 0..100 {
            self.console.pump();
            self.shell.poll(&self.console, self);
        }
    }

    /// Types keys and returns what the screen shows for them, with the prompt cut off.
    fn keys(&self, keys: &str) -> String {
        self.wire.0.lock().unwrap().0.extend(keys.bytes());
        self.settle();
        let shown = std::mem::take(&mut self.wire.0.lock().unwrap().1);
        String::from_utf8(shown).unwrap().replace("\r\n", "\n")
    }

    /// Runs a command and returns its answer.
    fn run(&self, line: &str) -> String {
        let shown = self.keys(&format!("{line}\r"));
        let answer = shown.strip_prefix(&format!("{line}\n")).expect("the line is echoed");
        answer.strip_suffix("fermata> ").expect("the prompt comes back").into()
    }

    fn act(&self, what: fmt::Arguments<'_>) -> Result<(), ActionError> {
        self.done.borrow_mut().push(what.to_string());
        Ok(())
    }
}

impl Monitor for Machine {
    fn console(&self) -> &Console {
        &self.console
    }

    fn vms(&self) -> Vec<VmView> {
        let vm = |id, name: &str, state, policy| VmView {
            id: VmId(id),
            name: name.into(),
            state,
            vcpus: 2,
            memory: 256 << 20,
            policy,
            cpus: CpuSet::only(CpuId(id.into())),
            allowed: CpuSet::first_n(2),
            port: PortId::of(VmId(id)),
        };
        vec![vm(0, "one", VmState::Running, "hold"), vm(1, "two", VmState::Crashed, "lazy")]
    }

    fn vcpus(&self) -> Vec<VcpuView> {
        let (run_micros, exits) = (12_345_678, 1_000_000);
        let home = CpuId(1);
        vec![
            VcpuView {
                name: "one/0".into(),
                state: VcpuState::Running,
                home,
                run_micros,
                exits,
                migrations: 3,
            },
            VcpuView {
                name: "one/1".into(),
                state: VcpuState::Off,
                home,
                run_micros: 0,
                exits: 0,
                migrations: 0,
            },
        ]
    }

    fn cpus(&self) -> Vec<CpuView> {
        let current = Some("one/0".into());
        vec![
            CpuView {
                id: CpuId(0),
                load_permille: 7,
                idle_micros: 90_000_000,
                current,
                queued: 2,
                exits: 9,
                switches: 8,
            },
            CpuView {
                id: CpuId(1),
                load_permille: 1000,
                idle_micros: 0,
                current: None,
                queued: 0,
                exits: 1,
                switches: 0,
            },
        ]
    }

    fn fp_vcpus(&self) -> Vec<FpVcpuView> {
        let counters = FpCounters {
            traps: 5,
            requests: 4,
            refusals: 1,
            loads: 3,
            skips: 2,
            bytes_in: 1584,
            ..FpCounters::default()
        };
        let (name, resident) = ("one/0".into(), Some(CpuId(0)));
        vec![FpVcpuView { name, policy: "hold", widest: "simd", resident, counters }]
    }

    fn fp_cpus(&self) -> Vec<FpCpuView> {
        let counters = FpCounters { traps: 5, ..FpCounters::default() };
        let seats = vec![FpSeatView { owner: "one/0".into(), units: "simd", state: "dirty" }];
        vec![FpCpuView { id: CpuId(0), seats, counters }]
    }

    fn policies(&self) -> &'static [&'static str] {
        &["eager", "lazy", "resident", "hold"]
    }

    fn audit(&self) -> Audit {
        Audit::Off
    }

    fn trace(&self, out: &mut dyn fmt::Write, count: usize) -> fmt::Result {
        let trace = Trace::new();
        (0..500).for_each(|n| trace.record(Ticks(n), Kind::ExitMmio, VcpuId(1), n, 0));
        kernel::trace::write(out, &[&trace], count, 1000)
    }
    fn take_fp(&self, vcpu: &str) -> Result<(), ActionError> {
        if vcpu == "one/0" { Ok(()) } else { Err(ActionError::NoSuchVcpu) }
    }
    fn put_back_fp(&self, vcpu: &str, _: &str) -> Result<(), ActionError> {
        self.take_fp(vcpu)
    }
    fn fp_snapshots(&self, vcpu: &str) -> [Option<Vec<(String, String)>>; 2] {
        let some = |value: &str| Some(vec![("V0".into(), value.into()), ("V1".into(), "00".into())]);
        match vcpu {
            "one/0" => [some("2a"), some("17")],
            "one/1" => [some("2a"), None],
            _ => [None, None],
        }
    }
    fn newest_fp(&self, _: &str) -> Option<Arc<Snapshot>> {
        self.kept.borrow().clone()
    }
    fn keep_fp(&self, vcpu: &str, snapshot: Snapshot) -> Result<(), ActionError> {
        if snapshot.form().units != all_units() {
            return Err(ActionError::Snapshot(SnapshotError::Shape(9)));
        }
        *self.kept.borrow_mut() = Some(Arc::new(snapshot));
        self.act(format_args!("keep {vcpu}"))
    }
    fn dump_trace(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("dump end\n")
    }

    fn stop(&self, vm: VmId) -> Result<(), ActionError> {
        match vm {
            VmId(1) => Err(ActionError::NotRunning),
            _ => self.act(format_args!("stop {}", vm.0)),
        }
    }

    fn start(&self, vm: VmId) -> Result<(), ActionError> {
        self.act(format_args!("start {}", vm.0))
    }

    fn restart(&self, vm: VmId) -> Result<(), ActionError> {
        self.act(format_args!("restart {}", vm.0))
    }

    fn set_policy(&self, vm: VmId, policy: &str) -> Result<(), ActionError> {
        self.act(format_args!("policy {} {policy}", vm.0))
    }

    fn set_affinity(&self, vm: VmId, cpus: CpuSet) -> Result<(), ActionError> {
        let possible = CpuSet::first_n(2);
        if (cpus & !possible).is_empty() {
            self.act(format_args!("affinity {} {cpus}", vm.0))
        } else {
            Err(ActionError::NotThere(possible))
        }
    }

    fn set_audit(&self, audit: Audit) {
        let _ = self.act(format_args!("audit {audit:?}"));
    }

    fn power_off(&self) {
        let _ = self.act(format_args!("power off"));
    }
}

#[test]
fn the_tables_show_the_machine() {
    let machine = Machine::new(Mode::Terminal);
    assert_eq!(
        machine.run("vm"),
        "NAME  STATE    VCPUS  CPUS   MEMORY  FP    CONSOLE\n\
         one   running      2     0  256 MiB  hold        1\n\
         two   crashed      2     1  256 MiB  lazy        2\n"
    );
    assert_eq!(
        machine.run("vcpu"),
        "VCPU   STATE    HOME  SECONDS    EXITS  MIGRATIONS\n\
         one/0  running  cpu1    12.34  1000000           3\n\
         one/1  off      cpu1     0.00        0           0\n"
    );
    assert_eq!(
        machine.run("cpu"),
        "CPU     LOAD   IDLE  RUNS   QUEUED  EXITS  SWITCHES\n\
         cpu0    0.7%  90.00  one/0       2      9         8\n\
         cpu1  100.0%   0.00  -           0      1         0\n"
    );
    let ledger = machine.run("fp");
    assert!(
        ledger.starts_with("VCPU   POLICY  WIDEST  HELD BY  TRAPS  REQUESTS  REFUSED  LOADS  SKIPS"),
        "{ledger}"
    );
    assert!(
        ledger.contains("\none/0  hold    simd    cpu0         5         4        1      3      2"),
        "{ledger}"
    );
    assert!(ledger.contains("\ncpu0  one/0  simd   dirty      5"), "{ledger}");
}

#[test]
fn the_ledger_can_be_read_by_programs() {
    let dump = Machine::new(Mode::Terminal).run("fp dump");
    let (vcpu, cpu) = dump.split_once('\n').unwrap();
    assert_eq!(
        vcpu,
        "fp vcpu=one/0 policy=hold widest=simd traps=5 requests=4 refusals=1 loads=3 skips=2 widenings=0 \
         saves=0 avoided=0 evictions=0 flushes=0 in=1584 out=0"
    );
    assert!(cpu.starts_with("fp cpu=0 owner=one/0 units=simd state=dirty traps=5 "), "{cpu}");
}

#[test]
fn actions_reach_the_machine_and_refusals_the_screen() {
    let machine = Machine::new(Mode::Terminal);
    for line in [
        "vm stop one",
        "vm start two",
        "vm restart one",
        "vm affinity one 1",
        "vm affinity two all",
        "fp policy two hold",
        "fp audit on",
        "fp audit off",
    ] {
        assert_eq!(machine.run(line), "");
    }
    assert_eq!(machine.run("vm affinity one 1-2"), "one: it may run on these CPUs alone: 0-1\n");
    assert_eq!(machine.run("vm stop two"), "two: it is not running\n");
    assert_eq!(machine.run("fp audit"), "the auditor is off\n");
    assert_eq!(machine.run("quit"), "powering off\n");
    assert_eq!(
        *machine.done.borrow(),
        [
            "stop 0",
            "start 1",
            "restart 0",
            "affinity 0 1",
            "affinity 1 0-1",
            "policy 1 hold",
            "audit On",
            "audit Off",
            "power off"
        ]
    );
}

#[test]
fn what_is_not_known_is_answered_with_what_is() {
    let machine = Machine::new(Mode::Terminal);
    for (line, answer) in [
        ("frob", "no command \"frob\"; known: help, vm, vcpu, cpu, fp, trace, log, quit"),
        ("vm frob", "no action \"frob\"; known: stop, start, restart, console, affinity"),
        ("vm stop", "usage: vm [stop|start|restart|console NAME | affinity NAME CPUS]"),
        ("vm affinity one", "usage: vm [stop|start|restart|console NAME | affinity NAME CPUS]"),
        ("vm affinity three 0", "no guest \"three\"; known: one, two"),
        ("vm affinity one 1,2", "usage: vm affinity NAME CPUS, with CPUS as 1, 0-3, 0+2-3 or all"),
        ("vm affinity one 1-0", "usage: vm affinity NAME CPUS, with CPUS as 1, 0-3, 0+2-3 or all"),
        ("vm stop three", "no guest \"three\"; known: one, two"),
        ("vm console three", "no guest \"three\"; known: one, two"),
        (
            "fp frob",
            "no action \"frob\"; known: dump, snapshot, diff, restore, export, import, policy, audit",
        ),
        (
            "fp policy one",
            "usage: fp [dump [VCPU] | snapshot|diff|export|import VCPU | restore VCPU [FROM] | policy NAME POLICY | audit on|off]",
        ),
        ("fp policy one never", "no policy \"never\"; known: eager, lazy, resident, hold"),
        ("fp audit maybe", "no state \"maybe\"; known: on, off"),
        ("log loud", "no level \"loud\"; known: off, error, warn, info, debug, trace"),
        ("trace 0", "usage: trace [N | dump], with N from 1 to 150"),
        ("trace many", "usage: trace [N | dump], with N from 1 to 150"),
        ("quit now", "usage: quit"),
    ] {
        assert_eq!(machine.run(line), format!("{answer}\n"));
    }
    assert!(machine.done.borrow().is_empty());
    assert_eq!(machine.run(""), "");
}

#[test]
fn every_command_of_the_help_is_there() {
    let machine = Machine::new(Mode::Terminal);
    let help = machine.run("help");
    for name in ["help", "vm", "vcpu", "cpu", "fp", "trace", "log", "quit"] {
        assert!(help.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}");
        assert!(!machine.run(name).contains("no command"), "{name}");
    }
}

#[test]
fn snapshots_are_shown_and_compared() {
    let machine = Machine::new(Mode::Terminal);
    assert_eq!(machine.run("fp snapshot one/0"), "");
    assert_eq!(machine.run("fp restore one/0 two/0"), "");
    assert_eq!(machine.run("fp dump one/0"), "V0       2a\n1 others are zero\n");
    assert_eq!(machine.run("fp diff one/0"), "V0       17 -> 2a\n1 registers differ\n");
    assert!(machine.run("fp snapshot two/7").contains("two/7: there is no such vCPU"));
    assert!(machine.run("fp diff two/0").contains("two/0: there is no snapshot of it"));
    assert!(
        machine
            .run("fp diff one/1")
            .contains("one/1: there is one snapshot of it, and nothing to compare it with")
    );
}

fn all_units() -> kernel::fp::Units {
    SCALAR | VECTOR | EXTRA
}

fn snapshot(units: kernel::fp::Units) -> Snapshot {
    Snapshot::take(&Regs::new(Limit { units, narrow: Narrow::Undefined }))
}

/// What `fp export` writes, as somebody types it line by line.
fn exported(machine: &Machine) -> Vec<String> {
    machine.run("fp export one/0").lines().map(|line| format!("{line}\r")).collect()
}

#[test]
fn a_snapshot_leaves_the_machine_and_comes_into_another() {
    let (here, there) = (Machine::new(Mode::Terminal), Machine::new(Mode::Terminal));
    assert!(here.run("fp export one/0").contains("one/0: there is no snapshot of it"));
    *here.kept.borrow_mut() = Some(Arc::new(snapshot(all_units())));
    let lines = exported(&here);
    assert!(lines[0].starts_with("fp-snapshot begin 80 ") && lines.len() == 4, "{lines:?}");
    let begun = there.keys("fp import one/1\r");
    assert_eq!(begun, "fp import one/1\ntype the lines that fp export writes; Ctrl-C gives up\n");
    assert_eq!(there.keys(&lines[..3].concat()), "", "what is right is not answered");
    assert_eq!(
        there.keys(&format!("\r{}", lines[3])),
        "fp import one/1: kept a snapshot of 80 bytes\nfermata> "
    );
    assert_eq!(*there.done.borrow(), ["keep one/1"]);
    assert_eq!(there.kept, here.kept);
    assert_eq!(there.keys("\x1B[A"), "fp import one/1", "typed lines are no commands to come back to");
}

#[test]
fn wrong_lines_are_answered_and_a_half_import_leaves_nothing() {
    let machine = Machine::new(Mode::Terminal);
    let kept = Some(Arc::new(snapshot(all_units())));
    *machine.kept.borrow_mut() = kept.clone();
    let lines = exported(&machine);
    assert_eq!(machine.run("fp import one/7"), "one/7: there is no such vCPU that runs; vcpu lists them\n");
    machine.keys("fp import one/0\r");
    for (typed, answer) in [
        ("fp\r", "no such line, or changed on its way: expected fp-snapshot begin"),
        (&lines[2], "found line 001, expected fp-snapshot begin"),
        (&lines[0], ""),
        (&lines[2], "found line 001, expected line 000"),
        (&lines[1].replace('A', "B"), "no such line, or changed on its way: expected line 000"),
        (&lines[1], ""),
        (&lines[1], "found line 000, expected line 001"),
    ] {
        let answer = if answer.is_empty() { String::new() } else { format!("fp import one/0: {answer}\n") };
        assert_eq!(machine.keys(typed), answer);
    }
    let missing =
        "fp import one/0: nothing was kept: found fp-snapshot end, and line 001 is missing\nfermata> ";
    assert_eq!(machine.keys(&lines[3]), missing);
    machine.keys("fp import one/0\r");
    machine.keys(&lines[..2].concat());
    assert_eq!(machine.keys("half a li\x03"), "^C\nnothing was kept\nfermata> ");
    machine.keys("fp import one/0\r");
    *machine.kept.borrow_mut() = Some(Arc::new(snapshot(SCALAR)));
    let foreign = exported_by(&machine);
    machine.kept.borrow_mut().clone_from(&kept);
    assert_eq!(
        machine.keys(&foreign),
        "fp import one/0: nothing was kept: shape 9, which this architecture does not have\nfermata> "
    );
    assert!(machine.done.borrow().is_empty());
    assert_eq!(*machine.kept.borrow(), kept);
    assert_eq!(machine.run("vm").lines().count(), 3, "the prompt takes commands again");
}

/// The lines of the snapshot that is kept, without the prompt.
fn exported_by(machine: &Machine) -> String {
    let mut text = String::new();
    machine.kept.borrow().as_ref().unwrap().write_lines(&mut text).unwrap();
    text.replace('\n', "\r")
}

/// The keys of an import are Fermata's alone, and a guest's are its own meanwhile.
#[test]
fn an_import_leaves_guests_and_their_keys_alone() {
    let machine = Machine::new(Mode::Terminal);
    *machine.kept.borrow_mut() = Some(Arc::new(snapshot(all_units())));
    let lines = exported(&machine);
    machine.keys("fp import one/0\r");
    machine.keys(&lines[..2].concat());
    machine.keys("\x1D");
    machine.keys("ls\r");
    let typed: Vec<u8> = std::iter::from_fn(|| machine.console.get(PortId(1))).collect();
    assert_eq!(typed, b"ls\r");
    machine.keys("\x1D\x1D");
    assert!(machine.keys(&lines[2..].concat()).contains("kept a snapshot of 80 bytes"));
}

#[test]
fn the_longest_snapshot_fits_on_the_port_and_its_lines_into_the_editor() {
    let machine = Machine::new(Mode::Terminal);
    let long = longest();
    *machine.kept.borrow_mut() = Some(Arc::clone(&long));
    let lines = exported(&machine);
    assert_eq!(lines.len(), 2 + 200);
    machine.kept.take();
    machine.keys("fp import one/0\r");
    // Shape 9 of the pretended machine: it was read.
    let answers: String = lines.iter().map(|line| machine.keys(line)).collect();
    assert!(answers.contains("shape 9"), "{answers}");
    machine.keys("fp import one/0\r");
    let more = long.bytes().len() + 1;
    assert!(machine.keys(&first_line(more)).contains("found a length of 9601, expected 24 to 9600 bytes"));
}

/// A snapshot of the greatest length, with nothing in it that anybody knows.
fn longest() -> Arc<Snapshot> {
    let mut bytes = snapshot(SCALAR).bytes().to_vec();
    bytes.resize(kernel::fp::lines::LONGEST, 0x5a);
    Arc::new(sealed(bytes))
}

fn first_line(length: usize) -> String {
    let text = format!("fp-snapshot begin {length}");
    format!("{text} {:08x}\r", crc32(text.as_bytes()))
}

#[test]
fn the_most_trace_records_fit_on_the_port() {
    let machine = Machine::new(Mode::Terminal);
    let text = machine.run("trace 150");
    assert_eq!(text.lines().count(), 150);
    assert!(text.starts_with("     0.350000 cpu0    0/1 exit mmio      gpa=0x15e value=0x0\n"), "{text}");
    assert_eq!(machine.run("trace").lines().count(), 24);
}

#[test]
fn the_log_level_is_shown_and_set() {
    let machine = Machine::new(Mode::Terminal);
    assert_eq!(machine.run("log warn"), "logging warn\n");
    assert_eq!(log::max_level(), log::LevelFilter::Warn);
    assert_eq!(machine.run("log"), "logging warn\n");
    assert!(machine.run("log TRACE").starts_with("logging trace"));
}

#[test]
fn the_terminal_moves_to_a_guest_unless_all_are_shown() {
    let machine = Machine::new(Mode::Terminal);
    let shown = machine.keys("vm console two\r");
    assert!(shown.ends_with("--- two (Ctrl-] for the next) ---\n"), "{shown}");
    assert_eq!(machine.keys("x"), "", "the guest has the keys now");
    let shown = machine.keys("\x1D");
    let again = "--- fermata (Ctrl-] for the next) ---\nfermata> vm console two\nfermata> ";
    assert!(shown.ends_with(again), "the line is shown again, and what came after it: {shown}");
    let framed = Machine::new(Mode::Framed);
    assert!(framed.keys("\x1E0vm console two\r").contains("all consoles are shown"));
}

#[test]
fn the_line_can_be_edited_before_it_runs() {
    let machine = Machine::new(Mode::Terminal);
    assert_eq!(machine.keys("vq\x7F"), "vq\x08 \x08");
    assert!(machine.keys("m\r\n").starts_with("m\nNAME"));
    assert_eq!(machine.keys("stop\x03"), "stop^C\nfermata> ");
    assert_eq!(machine.keys("ab\x15"), "ab\x08 \x08\x08 \x08");
    assert_eq!(machine.keys("\x1B[A"), "vm");
}

#[test]
fn a_log_line_leaves_the_line_being_typed_intact() {
    let machine = Machine::new(Mode::Terminal);
    assert_eq!(machine.keys("vcp"), "vcp");
    let record = |text| log::Log::log(&machine.console, &log::Record::builder().args(text).build());
    record(format_args!("guest two crashed"));
    assert_eq!(machine.keys(""), "\nfermata: guest two crashed\nfermata> vcp");
}

#[test]
fn groups_of_fp_registers_are_shown_side_by_side_where_they_differ() {
    let seat = |owner: &str, units, state| FpSeatView { owner: owner.into(), units, state };
    let shown = |seats| FpCpuView { id: CpuId(0), seats, counters: FpCounters::default() }.seats();
    assert_eq!(shown(vec![]), ["-", "-", "empty"]);
    assert_eq!(shown(vec![seat("one/0", "lasx", "clean")]), ["one/0", "lasx", "clean"]);
    let both = vec![seat("one/0", "lasx", "dirty"), seat("one/0", "lbt", "dirty")];
    assert_eq!(shown(both), ["one/0", "lasx,lbt", "dirty"]);
    let apart = vec![seat("one/0", "fpu", "dirty"), seat("two/0", "lbt", "clean")];
    assert_eq!(shown(apart), ["one/0,two/0", "fpu,lbt", "dirty,clean"]);
}
