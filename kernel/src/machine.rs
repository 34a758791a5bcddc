//! What all CPUs share.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::{Mutex, Once};

use crate::addr::{CpuId, Gpa, VcpuId, VmId};
use crate::arch::Arch;
use crate::console::Console;
use crate::domain::Domain;
use crate::fp::{AuditSwitch, Ledger, MAX_GROUPS, Policy, PolicyCell, Resident, Snapshot};
use crate::launch::Room;
use crate::mail::Mailbox;
use crate::mem::Memory;
use crate::sched::{CpuSetCell, Pool};
use crate::shell::Shell;
use crate::trace::Trace;
use crate::vcpu::Vcpu;
use crate::vm::{End, Vm};

/// Where the console's interrupt is handled, guests are built and buried.
pub const HOUSEKEEPER: CpuId = CpuId(0);

/// What one CPU tells another.
pub enum Message<A: Arch> {
    /// A vCPU comes to live there. Its doorbell says so already.
    Admit(Box<Vcpu<A>>),
    /// A vCPU that sleeps there has something pending.
    Wake(Arc<Vm<A>>, usize),
    /// A vCPU that is off there starts: its guest's call succeeded already.
    Start(Arc<Vm<A>>, usize, Gpa, u64),
    /// A guest is ending: its vCPUs there end, and nothing of it stays in the registers. It is sent to every CPU
    /// before the guest can be buried, so it arrives before any vCPU of a successor.
    Sweep(Arc<Vm<A>>),
    /// The last vCPU of a guest ended.
    Bury(Arc<Vm<A>>),
    /// The monitor wants a guest started that is not running.
    Launch(VmId),
    /// The monitor wants something done with the FP state of a vCPU that lives there, or lived there when it was sent: it
    /// is sent on so many times at most.
    Fp(Arc<Vm<A>>, usize, FpOrder, u8),
}

/// What is to be done with a vCPU's FP state.
pub enum FpOrder {
    /// Take a snapshot and keep it.
    Take,
    /// Put it into this state.
    PutBack(Arc<Snapshot>),
}

/// The snapshots that are kept, the oldest first; of each vCPU two at most.
pub type Shelf = Vec<(VcpuId, Arc<Snapshot>)>;

/// What other CPUs see of one CPU.
pub struct CpuShared<A: Arch> {
    /// Messages for it.
    pub mailbox: Mailbox<Message<A>>,
    /// Its FP ledger, once it runs.
    pub ledger: Once<Arc<Ledger>>,
    /// What happened on it lately.
    pub trace: Trace,
    /// What it is doing, for the monitor.
    pub status: Status,
}

impl<A: Arch> CpuShared<A> {
    /// A CPU that has not started, on a machine with so many guests with so many vCPUs in all. A guest has as many
    /// messages of its own under way as a vCPU: sweep, bury, launch. It keeps so many trace records.
    pub fn new(guests: usize, vcpus: usize, records: usize) -> Self {
        Self {
            mailbox: Mailbox::new(guests + vcpus),
            ledger: Once::new(),
            trace: Trace::with_room(records),
            status: Status::default(),
        }
    }
}

/// What a CPU publishes about itself. One writer.
#[derive(Debug, Default)]
pub struct Status {
    /// The vCPU that runs, plus one; zero for none.
    pub running: AtomicU64,
    /// Ticks spent idle.
    pub idle: AtomicU64,
    /// Turns given.
    pub turns: AtomicU64,
    /// vCPUs that wait for a turn.
    pub queued: AtomicU64,
    /// How often guests stopped here.
    pub exits: AtomicU64,
    /// Whose FP values the registers of each group hold, as [`Resident::pack`](crate::fp::Resident::pack) writes it;
    /// zero for nobody's.
    pub residents: [AtomicU64; MAX_GROUPS],
}

impl Status {
    /// Whose FP values the registers hold, of each group that holds any.
    pub fn residents(&self) -> impl Iterator<Item = Resident> {
        self.residents.iter().filter_map(|word| Resident::unpack(word.load(Ordering::Relaxed)))
    }
}

/// A guest that the device tree describes, running or not.
pub struct Tenant<A: Arch> {
    /// What it asked for.
    pub domain: Domain<'static>,
    /// Its FP policy, kept across restarts.
    pub policy: Arc<PolicyCell>,
    /// Where it may run, kept across restarts: at most where the device tree lets it.
    pub affinity: CpuSetCell,
    state: Mutex<Tenancy<A>>,
    /// When it was last built, and how long that took, in ticks.
    built: Mutex<(u64, u64)>,
}

/// Whether a tenant runs.
enum Tenancy<A: Arch> {
    Running(Arc<Vm<A>>),
    /// Ended, or not started yet.
    Over(Option<End>),
    /// Could not be started.
    Refused,
}

impl<A: Arch> Tenant<A> {
    /// A tenant that does not run yet.
    pub fn new(domain: Domain<'static>, policy: Policy) -> Self {
        Self {
            affinity: CpuSetCell::new(domain.affinity),
            domain,
            policy: Arc::new(PolicyCell::new(policy)),
            state: Mutex::new(Tenancy::Over(None)),
            built: Mutex::new((0, 0)),
        }
    }

    /// Its virtual machine, while there is one.
    pub fn vm(&self) -> Option<Arc<Vm<A>>> {
        match &*self.state.lock() {
            Tenancy::Running(vm) => Some(Arc::clone(vm)),
            _ => None,
        }
    }

    /// When it was last built, and how long that took, in ticks.
    pub fn built(&self) -> (u64, u64) {
        *self.built.lock()
    }

    /// It was built between two times, in ticks.
    pub fn note_built(&self, from: u64, to: u64) {
        *self.built.lock() = (from, to.saturating_sub(from));
    }

    /// How it last ended.
    pub fn end(&self) -> Option<End> {
        match &*self.state.lock() {
            Tenancy::Over(end) => *end,
            _ => None,
        }
    }

    /// It runs as `vm`.
    pub fn run_as(&self, vm: Arc<Vm<A>>) {
        *self.state.lock() = Tenancy::Running(vm);
    }

    /// It ended.
    pub fn over(&self, end: End) {
        *self.state.lock() = Tenancy::Over(Some(end));
    }

    /// It could not be started.
    pub fn refuse(&self) {
        *self.state.lock() = Tenancy::Refused;
    }

    /// Whether it will never run again by itself: off, crashed, or refused.
    fn is_done(&self) -> bool {
        match &*self.state.lock() {
            Tenancy::Running(_) => false,
            Tenancy::Over(end) => matches!(end, Some(End::PoweredOff | End::Crashed(_))),
            Tenancy::Refused => true,
        }
    }
}

/// When the trace is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumping {
    /// When somebody asks for it at the prompt.
    OnDemand,
    /// Then, and what is left before the machine goes off.
    AtTheEnd,
}

/// What all CPUs share.
pub struct Machine<A: Arch> {
    /// The terminal.
    pub console: &'static Console,
    /// The physical line of the console's interrupt.
    pub console_line: Option<u32>,
    /// By number.
    pub cpus: Box<[CpuShared<A>]>,
    /// Who is idle, who wants help.
    pub pool: Pool,
    /// By number, in the order of the device tree.
    pub tenants: Box<[Tenant<A>]>,
    /// Memory that no guest has.
    pub memory: Mutex<Memory>,
    /// Whether the heap has room.
    pub heap: fn(Room) -> bool,
    /// The auditor.
    pub audit: Arc<AuditSwitch>,
    /// The monitor's prompt.
    pub shell: Shell,
    /// When the trace is dumped.
    pub dumping: Dumping,
    /// FP snapshots that somebody took or typed in at the prompt.
    pub shelf: Mutex<Shelf>,
    /// Ticks in a second.
    pub hz: u64,
    /// The time.
    pub now: fn() -> crate::addr::Ticks,
}

impl<A: Arch> Machine<A> {
    /// Keeps a snapshot as the newest of a vCPU.
    pub fn keep(&self, id: VcpuId, snapshot: Snapshot) {
        let mut shelf = self.shelf.lock();
        let mut before = (0..shelf.len()).rev().filter(|n| shelf[*n].0 == id);
        if let Some(old) = before.nth(1) {
            shelf.remove(old);
        }
        shelf.push((id, Arc::new(snapshot)));
    }

    /// The snapshots of a vCPU that are kept, the newest first.
    pub fn kept(&self, id: VcpuId) -> [Option<Arc<Snapshot>>; 2] {
        let shelf = self.shelf.lock();
        let mut kept = shelf.iter().rev().filter(|(owner, _)| *owner == id).map(|(_, kept)| Arc::clone(kept));
        [kept.next(), kept.next()]
    }

    /// Whether the heap has room, for which the oldest snapshots are forgotten if need be.
    pub fn make_room(&self, room: Room) -> bool {
        let mut shelf = self.shelf.lock();
        while !(self.heap)(room) {
            if shelf.is_empty() {
                return false;
            }
            shelf.remove(0);
        }
        true
    }

    /// Whether every guest has ended for good.
    pub fn is_done(&self) -> bool {
        self.tenants.iter().all(Tenant::is_done)
    }
}
