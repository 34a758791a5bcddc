//! A whole machine on the host: the portable core on pretend CPUs, and what has to be true when it has run.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Once, OnceLock};

use arch_fake::chips::settle_in;
use arch_fake::cpu::{CONSOLE_LINE, kick_here};
use arch_fake::fp::Limit;
use arch_fake::script::{Op, Plot};
use arch_fake::serial::Plug;
use arch_fake::watch::Life;
use arch_fake::world::{Event, Outcome, Setting, World, cpu_here, now_here};
use arch_fake::{Fake, FakeCpu};
use kernel::addr::{CpuId, Hpa, VmId};
use kernel::console::{Console, FRAME, Mode};
use kernel::domain::{self, Domain, Limits};
use kernel::fdt::Tree;
use kernel::fp::{AuditSwitch, FpUnit, Policy, Tally};
use kernel::launch::{Cause, Room};
use kernel::machine::{CpuShared, Dumping, HOUSEKEEPER, Machine, Tenant};
use kernel::mem::{GRANULE, Memory, Region, Regions};
use kernel::run::Local;
use kernel::sched::{CpuSet, Pool};
use kernel::trace::RECORDS;
use kernel::vm::{End, Vm};

use crate::support;

/// All the memory there is for guests.
const MEMORY: u64 = 64 << 30;
/// What may be lost of what a guest sent when it ends: its UART's FIFO.
const FIFO: usize = 32;
/// Their names, in order.
const NAMES: [&str; 4] = ["amber", "beryl", "coral", "dusk"];

/// A guest of a test.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// What its vCPUs do.
    pub(crate) scripts: Vec<Vec<Op>>,
    /// Its floating-point units.
    pub(crate) limit: Limit,
    /// Its CPUs, as bits; those that do not exist do not count, and none means all.
    pub(crate) affinity: u64,
    /// Its weight.
    pub(crate) weight: u32,
    /// Its policy, at first.
    pub(crate) policy: Policy,
    /// Its memory in granules.
    pub(crate) granules: u64,
}

impl Guest {
    /// A guest like any other.
    pub(crate) fn new(scripts: &[&[Op]]) -> Self {
        Self {
            scripts: scripts.iter().map(|script| script.to_vec()).collect(),
            limit: Limit::default(),
            affinity: 0,
            weight: 256,
            policy: Policy::Hold,
            granules: 1,
        }
    }

    /// The same on some CPUs.
    pub(crate) fn on(mut self, cpus: u64) -> Self {
        self.affinity = cpus;
        self
    }
}

/// What somebody types.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// A line for the prompt. `@` and a digit stand for a guest's name.
    Say(String),
    /// Bytes for a guest.
    Type(usize, Vec<u8>),
}

/// A machine of a test.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// How many CPUs.
    pub(crate) cpus: usize,
    /// Its guests.
    pub(crate) guests: Vec<Guest>,
    /// What is typed when.
    pub(crate) typed: Vec<(u64, Command)>,
    /// Decides the rest.
    pub(crate) seed: u64,
    /// Ticks that a byte takes on the serial line.
    pub(crate) byte_time: u64,
    /// How long the run is at most, beyond what everybody's patience needs.
    pub(crate) time: u64,
    /// For how many guests with little memory the heap has room at some time.
    pub(crate) heap: fn(u64) -> usize,
}

impl Case {
    /// A machine with guests and nobody at the console.
    pub(crate) fn new(cpus: usize, guests: Vec<Guest>) -> Self {
        Self { cpus, guests, typed: Vec::new(), seed: 1, byte_time: 1, time: 50_000, heap: |_| 100 }
    }

    fn affinity(&self, guest: &Guest) -> u64 {
        guest.affinity & ((1 << self.cpus) - 1)
    }

    /// How long a vCPU of `guest` waits at most if all others want its CPU: one slice's worth of virtual time that
    /// it may be ahead, in which each other runs in proportion to its weight; a slice of each; and the time in which
    /// vCPUs are not moved.
    fn patience(&self, guest: &Guest) -> u64 {
        let vcpus = self.guests.iter().map(|other| other.scripts.len() as u64);
        let weights = self.guests.iter().map(|other| u64::from(other.weight) * other.scripts.len() as u64);
        4000 * weights.sum::<u64>() / u64::from(guest.weight) + 2000 * vcpus.sum::<u64>() + 20_000
    }

    fn setting(&self) -> Setting {
        let plot = |guest: &Guest| Plot {
            scripts: guest.scripts.iter().map(|script| script.as_slice().into()).collect(),
            limit: guest.limit,
            affinity: self.affinity(guest),
            patience: self.patience(guest),
        };
        let event = |(at, command): &(u64, Command)| {
            let (port, text) = match command {
                Command::Say(line) => (0, format!("{}\r", name_guests(line)).into_bytes()),
                Command::Type(guest, bytes) => (1 + *guest as u8, bytes.clone()),
            };
            (*at, Event::Typed([&[FRAME, b'0' + port][..], &text].concat()))
        };
        let mut events: Vec<_> = self.typed.iter().map(event).collect();
        events.sort_by_key(|(at, _)| *at);
        let patience = self.guests.iter().map(|guest| self.patience(guest)).max().unwrap_or(0);
        let last = events.last().map_or(0, |(at, _)| *at);
        Setting {
            cpus: self.cpus,
            seed: self.seed,
            plots: self.guests.iter().map(plot).collect(),
            events,
            horizon: last + self.time + 2 * patience,
            byte_time: self.byte_time,
        }
    }
}

fn name_guests(line: &str) -> String {
    NAMES.iter().enumerate().fold(line.to_string(), |line, (n, name)| line.replace(&format!("@{n}"), name))
}

/// A run that is over.
pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    pub(crate) machine: &'static Machine<Fake>,
    pub(crate) outcome: Outcome,
    /// What was logged as an error.
    pub(crate) errors: Vec<String>,
    case: Case,
}

thread_local! {
    static CONSOLE: Cell<Option<&'static Console>> = const { Cell::new(None) };
    static HEAP: Cell<fn(u64) -> usize> = const { Cell::new(|_| 100) };
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Gives log lines to the machine of the thread, and keeps errors.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Error {
            ERRORS.with_borrow_mut(|errors| errors.push(record.args().to_string()));
        }
        if let Some(console) = CONSOLE.get() {
            log::Log::log(console, record);
        }
    }
    fn flush(&self) {}
}

/// A guest's description; what matters of it is changed by the caller.
fn template() -> Domain<'static> {
    static DOMAIN: OnceLock<(Tree<'static>, Regions)> = OnceLock::new();
    let (tree, memory) = DOMAIN.get_or_init(|| {
        let blob = Box::leak(support::machine(support::chosen()).blob(&[]).into_boxed_slice());
        (Tree::parse(blob).unwrap(), [region(0x4000_0000, 0x8000_0000)].into_iter().collect())
    });
    let limits = Limits { memory, occupied: &[], cpus: CpuSet::first_n(2) };
    domain::read(tree, &limits).into_iter().flatten().next().expect("the tree has a guest")
}

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

fn build(case: &Case, world: &Arc<World>) -> &'static Machine<Fake> {
    let console: &'static Console = Box::leak(Box::default());
    console.attach(Box::new(Plug(Arc::clone(world))));
    console.set_bell(|| kick_here(HOUSEKEEPER));
    let names = NAMES[..case.guests.len()].iter().map(|name| name.to_string());
    console.open(Mode::Framed, names).unwrap();
    let template = template();
    let tenant = |(n, guest): (usize, &Guest)| {
        let affinity = match case.affinity(guest) {
            0 => CpuSet::first_n(case.cpus),
            bits => CpuSet::from_bits(bits),
        };
        let domain = Domain {
            name: NAMES[n],
            cpus: guest.scripts.len() as u32,
            memory: guest.granules * GRANULE,
            affinity,
            weight: guest.weight,
            ..template
        };
        Tenant::new(domain, guest.policy)
    };
    let vcpus = case.guests.iter().map(|guest| guest.scripts.len()).sum();
    Box::leak(Box::new(Machine {
        console,
        console_line: Some(CONSOLE_LINE),
        cpus: (0..case.cpus).map(|_| CpuShared::new(case.guests.len(), vcpus, RECORDS)).collect(),
        pool: Pool::new(case.cpus),
        tenants: case.guests.iter().enumerate().map(tenant).collect(),
        memory: spin::Mutex::new(Memory::new([region(0x8000_0000, MEMORY)].into_iter().collect())),
        audit: Arc::new(AuditSwitch::on()),
        heap: |room| {
            let guests = HEAP.get()(now_here().0);
            room.bytes <= Room::GUEST.bytes && room.blocks <= guests * Room::GUEST.blocks
        },
        shell: kernel::shell::Shell::new(),
        dumping: Dumping::OnDemand,
        shelf: spin::Mutex::default(),
        hz: arch_fake::world::HZ,
        now: now_here,
    }))
}

/// Runs a machine to its end. `aside` may play a part at the start of a CPU.
pub(crate) fn run(case: &Case) -> Run {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let world = World::new(case.setting());
    let machine = build(case, &world);
    let cpu = |n: usize| {
        let world = &world;
        move || {
            settle_in(world);
            CONSOLE.set(Some(machine.console));
            HEAP.set(case.heap);
            world.run_cpu(n, || start(world, machine, n));
            ERRORS.take()
        }
    };
    let errors = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..case.cpus).map(|n| scope.spawn(cpu(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let outcome = world.outcome().expect("every CPU has ended");
    Run { world, machine, outcome, errors, case: case.clone() }
}

fn start(world: &Arc<World>, machine: &'static Machine<Fake>, n: usize) {
    let fp = FpUnit::new(CpuId(n), Arc::clone(&machine.audit));
    let mut local = Local::new(FakeCpu::new(world, n), machine, fp, &machine.cpus[n].trace);
    if cpu_here() == Some(0) {
        machine.shell.start(machine.console);
        for vm in 0..machine.tenants.len() {
            local.launch(VmId(vm as u16), Cause::Wanted);
        }
    }
    local.run()
}

impl Run {
    /// Checks everything that is true of every run.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Outcome::Failed(what) = &self.outcome {
            return Err(what.clone());
        }
        if let Some(error) = self.errors.first() {
            return Err(format!("logged: {error}"));
        }
        self.check_debts()?;
        self.check_ends()?;
        self.check_memory()?;
        self.check_ledgers()?;
        self.check_output()?;
        self.check_remains()
    }

    pub(crate) fn now(&self) -> u64 {
        self.world.now()
    }

    /// The lives of a guest.
    pub(crate) fn lives<T>(&self, vm: usize, look: impl FnOnce(&[&Life]) -> T) -> T {
        self.world.with(|state| {
            let lives: Vec<&Life> = state.watch.lives.iter().filter(|life| life.vm == vm).collect();
            look(&lives)
        })
    }

    fn check_debts(&self) -> Result<(), String> {
        self.world.with(|state| {
            let owed = match self.outcome {
                // Nobody will ever do anything: whatever is owed, and be it for the future, is lost.
                Outcome::Asleep => state.watch.debts(u64::MAX / 2, |_| 0),
                Outcome::TimeUp => {
                    // Whoever was sent to other CPUs may leave one idle. The observer knows where a guest may run at
                    // most, and no more.
                    let sent = |(_, typed): &(u64, Command)| {
                        matches!(typed, Command::Say(line) if line.starts_with("vm affinity"))
                    };
                    let sure = if self.case.typed.iter().any(sent) { 0 } else { self.case.cpus };
                    let idled = (0..sure).find_map(|cpu| state.idled(cpu));
                    state.watch.debts(state.now(), |patience| patience + 2000).or(idled)
                }
                _ => None,
            };
            owed.map_or(Ok(()), |owed| Err(format!("{:?} at {}: {owed}", self.outcome, state.now())))
        })
    }

    /// The machine halts when all guests are done, or when it is told to, and then only.
    fn check_ends(&self) -> Result<(), String> {
        let quit =
            self.case.typed.iter().any(|(_, typed)| matches!(typed, Command::Say(line) if line == "quit"));
        let ends: Vec<Option<End>> = self.machine.tenants.iter().map(Tenant::end).collect();
        let done = self.machine.is_done();
        let halted = self.outcome == Outcome::Halted;
        if done && !halted || halted && !done && !quit {
            return Err(format!("{:?}, and the guests ended so: {ends:?}", self.outcome));
        }
        let ending =
            self.machine.tenants.iter().filter_map(Tenant::vm).any(|vm: Arc<Vm<Fake>>| vm.is_ending());
        if ending && self.outcome == Outcome::Asleep {
            return Err("a guest is ending for ever".into());
        }
        Ok(())
    }

    /// What no living guest has is free.
    fn check_memory(&self) -> Result<(), String> {
        let free = self.machine.memory.lock().free_regions().total();
        let taken: u64 = self.world.with(|state| {
            let lives = state.watch.lives.iter().filter(|life| life.retired.is_none());
            lives.flat_map(|life| &life.ram).map(Region::size).sum()
        });
        // Between the two, a guest is being built or buried.
        let between =
            self.outcome == Outcome::TimeUp || self.outcome == Outcome::Halted && !self.machine.is_done();
        if free + taken != MEMORY && !between {
            return Err(format!("{free} bytes are free and guests have {taken}, of {MEMORY}"));
        }
        Ok(())
    }

    /// The ledgers say what the registers saw.
    fn check_ledgers(&self) -> Result<(), String> {
        let mut all = Tally::default();
        for n in 0..self.case.cpus {
            let Some(ledger) = self.machine.cpus[n].ledger.get() else { continue };
            let tally = ledger.tally();
            all = all.plus(&tally);
            let told = (tally.loads, tally.saves(), tally.bytes_in, tally.bytes_out);
            let seen = self.world.with(|state| {
                state.files[n].as_ref().map(|file| (file.loads, file.saves, file.bytes_in, file.bytes_out))
            });
            if seen != Some(told) {
                return Err(format!("CPU {n}: the ledger says {told:?}, the registers {seen:?}"));
            }
        }
        let first_lives =
            self.world.with(|state| state.watch.lives.iter().all(|life| life.retired.is_none()));
        let tallies = self.machine.tenants.iter().filter_map(Tenant::vm).map(|vm| vm.fp_tally());
        let vcpus = tallies.fold(Tally::default(), |sum, tally| sum.plus(&tally));
        if first_lives && vcpus != all {
            return Err(format!("all CPUs: {all:?}, all vCPUs: {vcpus:?}"));
        }
        Ok(())
    }

    /// What guests sent has arrived, in order, and what they heard was typed.
    fn check_output(&self) -> Result<(), String> {
        let ports = self.world.with(|state| unframe(&state.wire.sent));
        for vm in 0..self.case.guests.len() {
            let output = &ports[1 + vm];
            let whole = self.outcome != Outcome::TimeUp;
            let (written, heard): (Vec<Vec<u8>>, Vec<u8>) = self.lives(vm, |lives| {
                let heard = lives.iter().flat_map(|life| life.heard.clone()).collect();
                (lives.iter().map(|life| life.written.clone()).collect(), heard)
            });
            if !is_joined(output, &written, whole) {
                let [output, written] =
                    [output, &written.concat()].map(|text| String::from_utf8_lossy(text).into_owned());
                return Err(format!("vm {vm} sent {written:?}, and what arrived is {output:?}"));
            }
            let mut typed: Vec<_> = self.case.typed.iter().collect();
            typed.sort_by_key(|(at, _)| *at);
            let typed = typed.into_iter().filter_map(|(_, typed)| match typed {
                Command::Type(to, bytes) if *to == vm => Some(bytes.clone()),
                _ => None,
            });
            let mut typed = typed.flatten();
            if !heard.iter().all(|byte| typed.any(|other| other == *byte)) {
                return Err(format!("vm {vm} heard what nobody typed: {heard:x?}"));
            }
        }
        Ok(())
    }

    /// Nothing of a guest that ended is left in any register.
    fn check_remains(&self) -> Result<(), String> {
        if self.outcome != Outcome::Asleep {
            return Ok(());
        }
        self.world.with(|state| {
            for life in state.watch.lives.iter().filter(|life| life.retired.is_some()) {
                for (n, file) in state.files.iter().enumerate() {
                    if file.iter().any(|file| life.tags.iter().any(|tag| file.bears(*tag))) {
                        return Err(format!("CPU {n} has registers of vm {}, which ended", life.vm));
                    }
                }
            }
            Ok(())
        })
    }

    /// What was sent to a port.
    pub(crate) fn output(&self, port: usize) -> String {
        let ports = self.world.with(|state| unframe(&state.wire.sent));
        String::from_utf8_lossy(&ports[port]).into_owned()
    }
}

/// Takes apart what was sent in frames.
fn unframe(sent: &[u8]) -> Vec<Vec<u8>> {
    let mut ports = vec![Vec::new(); 1 + NAMES.len()];
    let mut port = 0;
    let mut bytes = sent.iter();
    while let Some(byte) = bytes.next() {
        match (*byte, bytes.as_slice().first()) {
            (FRAME, Some(&FRAME)) => {
                bytes.next();
                ports[port].push(FRAME);
            }
            (FRAME, Some(digit)) => {
                bytes.next();
                port = usize::from(digit - b'0');
            }
            (byte, _) => ports[port].push(byte),
        }
    }
    ports
}

/// Whether `output` is all of what was written in several lives, but for the end of each.
fn is_joined(output: &[u8], written: &[Vec<u8>], whole: bool) -> bool {
    let Some((first, rest)) = written.split_first() else { return output.is_empty() };
    let least = if whole { first.len().saturating_sub(FIFO) } else { 0 };
    (least..=first.len())
        .rev()
        .any(|cut| output.strip_prefix(&first[..cut]).is_some_and(|output| is_joined(output, rest, whole)))
}
