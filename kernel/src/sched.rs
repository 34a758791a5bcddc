//! Whose turn it is, and on which CPU.
//!
//! A vCPU is a value, a `Box<T>`: it is running, ready or asleep on one CPU, and only that CPU's code can reach it.
//! So there is one [`RunQueue`] per CPU, it is an ordinary `&mut` value, and no lock is involved in choosing who
//! runs next. CPUs see of each other only what [`Pool`] publishes, a few atomic words that may be out of date, and
//! send each other vCPUs through their mailboxes ([`crate::mail`]).
//!
//! Everything here is arithmetic on numbers and time is an argument: the laws (shares follow weights, nobody
//! starves, no CPU idles while an allowed vCPU waits) are tested on the host by simulation.

mod balance;
mod cpus;
mod pool;
mod queue;

pub use self::balance::{Move, Occasion};
pub use self::cpus::{CpuSet, CpuSetCell};
pub use self::pool::Pool;
pub use self::queue::{Next, RunQueue, Standing, Woken};
use crate::addr::{CpuId, VcpuId};

/// The weight of a vCPU of which nobody said anything.
pub const DEFAULT_WEIGHT: u32 = 256;

/// The largest weight; the smallest is one.
pub const MAX_WEIGHT: u32 = 1024;

/// Something that takes turns.
pub trait Turn {
    /// Who it is, unique in the machine.
    fn id(&self) -> VcpuId;

    /// Its share relative to others, 1 to [`MAX_WEIGHT`]; what is outside is clamped.
    fn weight(&self) -> u32;

    /// Where it may run. A set that names no CPU of the machine counts as all of them.
    fn affinity(&self) -> CpuSet;

    /// What it loses if it leaves its CPU now: 0 for nothing, more if it has FP registers there that must be saved.
    /// Of several that could move, the one that loses least does.
    fn moving_cost(&self) -> u32 {
        0
    }

    /// The scheduler's notes about it.
    fn account(&self) -> &Account;

    /// The scheduler's notes about it, to write.
    fn account_mut(&mut self) -> &mut Account;
}

/// What the scheduler keeps with each vCPU, because it travels with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How long it ran in all, in the queue's unit of time.
    pub ran: u64,
    /// How many turns it had.
    pub turns: u64,
    /// How often it was sent to another CPU.
    pub moves: u64,
    /// When it came to its CPU.
    pub arrived: u64,
    /// Between two queues: how far it was ahead of its fair share, in virtual time; negative if behind.
    lag: i64,
}

/// The lengths that shape decisions, all in the unit in which the caller tells the time: ticks of the counter or
/// nanoseconds, it makes no difference to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// In what time everybody who is ready should have had a turn, as long as `min_slice` allows: 4 ms.
    pub latency: u64,
    /// The shortest slice: 1 ms.
    pub min_slice: u64,
    /// How far behind its fair share someone who slept is put at most, at the default weight: 2 ms.
    pub credit: u64,
    /// By how much someone who wakes must be behind the one who runs to take its place, at the default weight: 0.5 ms.
    pub granularity: u64,
    /// How long a CPU is left alone after a vCPU came or left to even out the load: 16 ms.
    pub calm: u64,
    /// How long it is left alone before a vCPU is moved only to let another have the less loaded CPU: 128 ms.
    pub rotate: u64,
}

impl Tuning {
    /// The default lengths, for a time that advances `hz` units per second.
    pub const fn per_second(hz: u64) -> Self {
        Self {
            latency: hz / 250,
            min_slice: hz / 1000,
            credit: hz / 500,
            granularity: hz / 2000,
            calm: hz / 1000 * 16,
            rotate: hz / 1000 * 128,
        }
    }
}

impl Default for Tuning {
    /// The default lengths in nanoseconds.
    fn default() -> Self {
        Self::per_second(1_000_000_000)
    }
}

/// Which CPUs one is talking about: this one and all there are.
#[derive(Clone, Copy, Debug)]
struct Place {
    here: CpuId,
    online: CpuSet,
}

impl Place {
    /// Where `item` may run, on this machine.
    fn allowed(&self, item: &impl Turn) -> CpuSet {
        let set = item.affinity() & self.online;
        if set.is_empty() { self.online } else { set }
    }

    /// Whether `item` may run here.
    fn welcomes(&self, item: &impl Turn) -> bool {
        let set = item.affinity();
        set.contains(self.here) || (set & self.online).is_empty()
    }
}
