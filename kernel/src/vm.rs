//! A virtual machine: what all its vCPUs share, and how it ends.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use spin::Mutex;

use crate::addr::{CpuId, Gpa, VcpuId, VmId};
use crate::arch::{Arch, Chips};
use crate::console::{Console, PortId};
use crate::dev::{Level, Uart};
use crate::exit::{Access, Cause, Crash, Kicks};
use crate::fp::{Ledger, PolicyCell, Tally};
use crate::mail::Doorbell;
use crate::mem::Region;
use crate::sched::CpuSetCell;

/// How a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PoweredOff,
    /// It asked to be started anew.
    Reset,
    /// It could not go on.
    Crashed(Crash),
    /// The monitor stopped it.
    Stopped,
    /// The monitor starts it anew.
    Restarted,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("powered off"),
            Self::Reset => f.write_str("reset"),
            Self::Crashed(crash) => write!(f, "crashed: {crash}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Restarted => f.write_str("restarted"),
        }
    }
}

/// Counters of one vCPU. One writer, its own CPU; any reader.
#[derive(Debug, Default)]
pub struct VcpuStats {
    exits: [AtomicU64; Cause::ALL.len()],
    ran: AtomicU64,
    turns: AtomicU64,
    moves: AtomicU64,
}

impl VcpuStats {
    /// Counts an exit, and `handled` that the architecture dealt with before it.
    #[inline]
    pub fn count(&self, cause: Cause, handled: u64) {
        bump(&self.exits[cause as usize]);
        if handled != 0 {
            add(&self.exits[Cause::Handled as usize], handled);
        }
    }

    /// How often it stopped for each cause, in the order of [`Cause::ALL`].
    pub fn exits(&self) -> [u64; Cause::ALL.len()] {
        core::array::from_fn(|n| self.exits[n].load(Ordering::Relaxed))
    }

    /// Publishes the scheduler's notes.
    pub fn publish(&self, account: &crate::sched::Account) {
        self.ran.store(account.ran, Ordering::Relaxed);
        self.turns.store(account.turns, Ordering::Relaxed);
        self.moves.store(account.moves, Ordering::Relaxed);
    }

    /// Ticks it ran, turns it had, and how often it came from another CPU.
    pub fn account(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.ran), read(&self.turns), read(&self.moves))
    }
}

/// Counts one, by a plain load and store: there is one writer.
pub(crate) fn bump(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts some, likewise.
pub(crate) fn add(counter: &AtomicU64, some: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(some), Ordering::Relaxed);
}

/// What any CPU may reach of a vCPU, wherever it is.
#[derive(Debug)]
pub struct Post {
    /// Its doorbell.
    pub bell: Doorbell,
    /// Its counters.
    pub stats: VcpuStats,
}

struct Terminal<U> {
    uart: U,
    level: Level,
}

/// What a VM is made of, beside its chips.
#[derive(Debug)]
pub struct Identity {
    /// Its number.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Share of each of its vCPUs.
    pub weight: u32,
    /// Where its vCPUs may run. Whoever changes it has all CPUs look: [`Mailbox::review`](crate::mail::Mailbox::review).
    pub affinity: CpuSetCell,
    /// Its FP policy.
    pub policy: Arc<PolicyCell>,
    /// Physical memory it has.
    pub ram: Vec<Region>,
}

/// What all vCPUs of a guest share.
pub struct Vm<A: Arch> {
    /// Name, share, memory.
    pub identity: Identity,
    /// Address space and interrupt controller.
    pub chips: Arc<A::Chips>,
    posts: Box<[Arc<Post>]>,
    ledgers: Box<[Arc<Ledger>]>,
    terminal: Mutex<Terminal<A::Uart>>,
    end: Mutex<Option<End>>,
    ending: AtomicBool,
    /// vCPUs that exist.
    living: AtomicUsize,
}

/// What an access to the guest's devices came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A load has this value, a store is done; and these vCPUs have news.
    Done(u64, Kicks),
    /// No device is there.
    Nothing,
}

impl<A: Arch> Vm<A> {
    /// A VM whose vCPUs live on `homes` and are powered off.
    pub fn new(
        identity: Identity,
        chips: Arc<A::Chips>,
        homes: &[CpuId],
        ledgers: Box<[Arc<Ledger>]>,
    ) -> Self {
        let post = |home: &CpuId| Post { bell: Doorbell::new(*home), stats: VcpuStats::default() };
        Self {
            identity,
            chips,
            posts: homes.iter().map(|home| Arc::new(post(home))).collect(),
            ledgers,
            terminal: Mutex::new(Terminal { uart: A::Uart::default(), level: Level::Low }),
            end: Mutex::new(None),
            ending: AtomicBool::new(false),
            living: AtomicUsize::new(homes.len()),
        }
    }

    /// How many vCPUs it was made with.
    pub fn vcpus(&self) -> usize {
        self.posts.len()
    }

    /// The machine-wide number of vCPU `index`.
    pub fn vcpu_id(&self, index: usize) -> VcpuId {
        VcpuId(u32::from(self.identity.id.0) << 8 | index as u32)
    }

    /// The doorbell of vCPU `index`, which exists.
    #[inline]
    pub fn bell(&self, index: usize) -> &Doorbell {
        &self.posts[index].bell
    }

    /// What any CPU may reach of vCPU `index`, which exists.
    pub fn post(&self, index: usize) -> Arc<Post> {
        Arc::clone(&self.posts[index])
    }

    /// The counters of vCPU `index`, which exists.
    #[inline]
    pub fn stats(&self, index: usize) -> &VcpuStats {
        &self.posts[index].stats
    }

    /// The FP ledger of vCPU `index`, if it exists.
    pub fn ledger(&self, index: usize) -> Option<&Ledger> {
        self.ledgers.get(index).map(|ledger| &**ledger)
    }

    /// The FP ledgers of all its vCPUs together.
    pub fn fp_tally(&self) -> Tally {
        self.ledgers.iter().fold(Tally::default(), |sum, ledger| sum.plus(&ledger.tally()))
    }

    /// Whether it is ending or over; its vCPUs must not run.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Ends it; the first reason counts. Whether this was the first.
    pub fn finish(&self, end: End) -> bool {
        let mut slot = self.end.lock();
        if slot.is_some() {
            return false;
        }
        *slot = Some(end);
        self.ending.store(true, Ordering::Release);
        true
    }

    /// How it ended.
    pub fn end(&self) -> Option<End> {
        *self.end.lock()
    }

    /// One of its vCPUs exists no more; whether it was the last.
    pub fn bury(&self) -> bool {
        self.living.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Answers an access to one of its portable devices.
    pub fn access(&self, access: Access, console: &Console) -> Answer {
        let Gpa(at) = access.at;
        if !A::UART.contains(&at) {
            return Answer::Nothing;
        }
        let mut terminal = self.terminal.lock();
        let mut port = console.port(PortId::of(self.identity.id));
        let value = terminal.uart.access(at - A::UART.start, access.width, access.store, &mut port);
        Answer::Done(value, self.drive(&mut terminal))
    }

    /// Lets its UART look at the console: there is input, or room for output.
    pub fn poll_uart(&self, console: &Console) -> Kicks {
        let mut terminal = self.terminal.lock();
        terminal.uart.poll(&mut console.port(PortId::of(self.identity.id)));
        self.drive(&mut terminal)
    }

    /// Brings the UART's interrupt line up to date.
    fn drive(&self, terminal: &mut Terminal<A::Uart>) -> Kicks {
        let level = terminal.uart.level();
        if level == terminal.level {
            return Kicks::NONE;
        }
        terminal.level = level;
        self.chips.set_line(A::UART_LINE, level)
    }
}
