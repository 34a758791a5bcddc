//! The vCPUs of one CPU: who is ready, who sleeps until when, and whose turn it is.
//!
//! Fairness is by virtual time, the time a vCPU ran divided by its weight. Who has the least goes next. `floor` is
//! the virtual time that everybody who is ready has reached; it never goes back, and those who wake or arrive are
//! placed close to it: at most `credit` behind, so that long sleep does not save up for long rule, and at most one
//! slice of their own ahead, so that nothing in the past starves anybody.
//!
//! Virtual times wrap around; they are compared by their difference. With a single ready vCPU of weight 1 that takes
//! half a year, and the bounds above make a sleeper that missed it merely someone who just came.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{CpuSet, DEFAULT_WEIGHT, MAX_WEIGHT, Place, Pool, Tuning, Turn};
use crate::addr::{CpuId, VcpuId};

/// Later than anything.
const NEVER: u64 = u64::MAX;

/// One unit of time at the largest weight is one unit of virtual time.
const SCALE: u32 = MAX_WEIGHT.ilog2();

/// What becomes of a vCPU after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Next {
    /// It wants to go on: its slice is over or another was more urgent.
    Ready,
    /// It wants to go on, but after somebody else.
    Yield,
    /// It waits for an event, or for this time.
    Sleep(Option<u64>),
    /// It is powered off. Only [`RunQueue::wake`] ends this.
    Off,
}

/// What making a vCPU ready means for the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a more urgent vCPU may be waiting"]
pub enum Woken {
    /// It goes before the one that runs, whose turn should end, or nobody runs.
    Preempt,
    /// It waits for its turn.
    Queued,
    /// It did not sleep here: it was awake, or is elsewhere.
    NotAsleep,
}

/// Where in its queue a vCPU is, for those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for its turn.
    Ready,
    /// It waits to be sent to a CPU where it may run.
    Leaving,
    /// It sleeps or is powered off; until this time, if a timer wakes it.
    Asleep(Option<u64>),
}

/// A vCPU that waits for its turn.
pub(super) struct Ready<T> {
    pub(super) vtime: u64,
    pub(super) weight: u32,
    /// Of equal virtual times, the one that waited longer goes first.
    order: u32,
    pub(super) item: Box<T>,
}

impl<T> Ready<T> {
    fn goes_before(&self, other: &Self) -> bool {
        match self.vtime.wrapping_sub(other.vtime) as i64 {
            0 => (self.order.wrapping_sub(other.order) as i32) < 0,
            difference => difference < 0,
        }
    }
}

/// A vCPU that sleeps, or is off.
struct Parked<T> {
    id: VcpuId,
    until: u64,
    vtime: u64,
    item: Box<T>,
}

/// What the queue remembers of the vCPU it gave out.
struct Running {
    id: VcpuId,
    vtime: u64,
    weight: u32,
    started: u64,
    slice_end: u64,
}

impl Running {
    fn vtime_at(&self, now: u64) -> u64 {
        self.vtime.wrapping_add(virtual_time(now.saturating_sub(self.started), self.weight))
    }
}

/// The vCPUs that live on one CPU.
///
/// The running one is out, in the hands of the loop that called [`RunQueue::pick`]; what the queue needs of it, it
/// remembers. Nothing allocates except [`RunQueue::admit`] and [`RunQueue::park`], which make room for everything
/// the newcomer can become.
pub struct RunQueue<T> {
    pub(super) place: Place,
    pub(super) tuning: Tuning,
    /// `tuning.credit` and `tuning.granularity` in virtual time.
    credit: u64,
    granularity: u64,
    floor: u64,
    order: u32,
    /// In no order: there are few, and a scan is shorter than keeping one.
    pub(super) ready: Vec<Ready<T>>,
    /// Ready, but not allowed here (any more).
    pub(super) leaving: Vec<Box<T>>,
    parked: Vec<Parked<T>>,
    running: Option<Running>,
    /// The weights of all that are ready or running.
    pub(super) weight: u32,
    /// No `until` of any that is parked is earlier. It may be too early, when a sleeper was woken by something else:
    /// looking then, once, costs less than looking for the right value at each wake-up.
    soonest: u64,
    /// When a vCPU last came from, or left for the sake of, another CPU.
    pub(super) disturbed: u64,
    /// What others were told; nothing, if they may have changed it since.
    pub(super) published: Option<(u32, CpuSet)>,
}

impl<T: Turn> RunQueue<T> {
    /// Creates the queue of CPU `here`, which has no vCPU yet.
    pub fn new(here: CpuId, pool: &Pool, tuning: Tuning) -> Self {
        Self {
            place: Place { here, online: pool.online() },
            tuning,
            credit: virtual_time(tuning.credit, DEFAULT_WEIGHT),
            granularity: virtual_time(tuning.granularity, DEFAULT_WEIGHT),
            floor: 0,
            order: 0,
            ready: Vec::new(),
            leaving: Vec::new(),
            parked: Vec::new(),
            running: None,
            weight: 0,
            soonest: NEVER,
            disturbed: 0,
            published: None,
        }
    }

    /// Takes in a vCPU that is ready: a new one, or one that comes from another CPU.
    pub fn admit(&mut self, mut item: Box<T>, now: u64) -> Woken {
        self.make_room();
        let account = item.account_mut();
        account.arrived = now;
        let lag = core::mem::take(&mut account.lag);
        self.disturbed = now;
        // Whoever sent it has added it to our load.
        self.published = None;
        self.enter(item, |floor| floor.wrapping_add_signed(lag), now)
    }

    /// Takes in a vCPU that is powered off or asleep; asleep until `until`, if that is a time.
    pub fn park(&mut self, mut item: Box<T>, until: Option<u64>, now: u64) {
        self.make_room();
        self.advance(now);
        let account = item.account_mut();
        account.arrived = now;
        let lag = core::mem::take(&mut account.lag);
        self.lay_down(item, until, self.floor.wrapping_add_signed(lag));
    }

    /// Makes a sleeping or powered-off vCPU ready.
    pub fn wake(&mut self, id: VcpuId, now: u64) -> Woken {
        let Some(at) = self.parked.iter().position(|parked| parked.id == id) else {
            return Woken::NotAsleep;
        };
        let parked = self.parked.swap_remove(at);
        self.enter(parked.item, |_| parked.vtime, now)
    }

    /// Takes out the vCPU whose turn it is, and starts its turn. Ask [`RunQueue::alarm`] when to look again.
    #[inline]
    pub fn pick(&mut self, now: u64) -> Option<Box<T>> {
        debug_assert!(self.running.is_none(), "the last turn was not settled");
        let at = self.least()?;
        let Ready { vtime, weight, item, .. } = self.ready.swap_remove(at);
        self.floor = later(self.floor, vtime);
        let mut running = Running { id: item.id(), vtime, weight, started: now, slice_end: NEVER };
        if !self.ready.is_empty() {
            running.slice_end = now.saturating_add(self.slice(weight));
        }
        self.running = Some(running);
        Some(item)
    }

    /// Takes back the vCPU that had its turn, and counts what it used.
    pub fn settle(&mut self, mut item: Box<T>, next: Next, now: u64) {
        let vtime = self.end_turn(&mut item, now);
        match next {
            Next::Ready => self.enqueue(item, vtime),
            Next::Yield => {
                let after = self.least().map(|at| self.ready[at].vtime.wrapping_add(1));
                self.enqueue(item, after.map_or(vtime, |after| later(vtime, after)));
            }
            Next::Sleep(until) => self.lay_down(item, until, vtime),
            Next::Off => self.lay_down(item, None, vtime),
        }
    }

    /// Forgets the vCPU that had its turn: it will not come back. Counts what it used.
    pub fn dismiss(&mut self, item: &mut T, now: u64) {
        self.end_turn(item, now);
    }

    /// Takes away a vCPU that is not running: to live elsewhere, or no more.
    pub fn evict(&mut self, id: VcpuId, now: u64) -> Option<Box<T>> {
        self.advance(now);
        if let Some(at) = self.ready.iter().position(|ready| ready.item.id() == id) {
            let mut ready = self.ready.swap_remove(at);
            self.weight -= ready.weight;
            ready.item.account_mut().lag = ready.vtime.wrapping_sub(self.floor) as i64;
            self.unlimit_turn();
            return Some(ready.item);
        }
        if let Some(at) = self.leaving.iter().position(|item| item.id() == id) {
            return Some(self.leaving.swap_remove(at));
        }
        let at = self.parked.iter().position(|parked| parked.id == id)?;
        let mut parked = self.parked.swap_remove(at);
        parked.item.account_mut().lag = parked.vtime.wrapping_sub(self.floor) as i64;
        Some(parked.item)
    }

    /// Does not charge the running vCPU for a time in which it waited and nobody else wanted the CPU.
    pub fn pause(&mut self, from: u64, to: u64) {
        if let Some(running) = &mut self.running {
            let waited = to.saturating_sub(from);
            running.started = running.started.saturating_add(waited);
            if running.slice_end != NEVER {
                running.slice_end = running.slice_end.saturating_add(waited);
            }
        }
    }

    /// Whether [`RunQueue::expired`] is to be asked: false while no sleeper's time can have come.
    #[inline]
    pub fn may_expire(&self, now: u64) -> bool {
        now >= self.soonest
    }

    /// Names a sleeper whose time has come, once. It sleeps on until [`RunQueue::wake`].
    #[inline]
    pub fn expired(&mut self, now: u64) -> Option<VcpuId> {
        if self.may_expire(now) { self.name_expired(now) } else { None }
    }

    fn name_expired(&mut self, now: u64) -> Option<VcpuId> {
        if let Some(sleeper) = self.parked.iter_mut().find(|parked| parked.until <= now) {
            sleeper.until = NEVER;
            return Some(sleeper.id);
        }
        self.soonest = self.parked.iter().map(|parked| parked.until).min().unwrap_or(NEVER);
        None
    }

    /// When to ask for the [`RunQueue::expired`]: not later than the earliest sleeper wants to be woken.
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        (self.soonest != NEVER).then_some(self.soonest)
    }

    /// When this CPU must look next, at the latest: a slice is over or a sleeper's time has come. To be asked again
    /// after anything was picked, woken or admitted. Nothing, if one vCPU has the CPU for itself.
    #[inline]
    pub fn alarm(&self) -> Option<u64> {
        let slice_end = self.running.as_ref().map_or(NEVER, |running| running.slice_end);
        let at = slice_end.min(self.soonest);
        (at != NEVER).then_some(at)
    }

    /// Whether the running vCPU has had its slice.
    #[inline]
    pub fn slice_over(&self, now: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.slice_end <= now)
    }

    /// How many vCPUs are ready and not running.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.ready.len() + self.leaving.len()
    }

    /// The weights of all that are running or ready.
    #[inline]
    pub fn load(&self) -> u32 {
        self.weight
    }

    /// The vCPU that has its turn, and for how long it has had it.
    pub fn running(&self, now: u64) -> Option<(VcpuId, u64)> {
        self.running.as_ref().map(|running| (running.id, now.saturating_sub(running.started)))
    }

    /// A vCPU that lives here and is not running.
    pub fn find_mut(&mut self, id: VcpuId) -> Option<&mut T> {
        let ready = self.ready.iter_mut().map(|ready| &mut ready.item);
        let parked = self.parked.iter_mut().map(|parked| &mut parked.item);
        ready.chain(&mut self.leaving).chain(parked).find(|item| item.id() == id).map(|item| &mut **item)
    }

    /// All vCPUs that live here, but the running one.
    pub fn iter(&self) -> impl Iterator<Item = (&T, Standing)> {
        let ready = self.ready.iter().map(|ready| (&*ready.item, Standing::Ready));
        let leaving = self.leaving.iter().map(|item| (&**item, Standing::Leaving));
        let parked = self.parked.iter().map(|parked| {
            let until = (parked.until != NEVER).then_some(parked.until);
            (&*parked.item, Standing::Asleep(until))
        });
        ready.chain(leaving).chain(parked)
    }

    /// Takes note that the affinity of any vCPU may have changed: those that may not run here any more leave, and those
    /// that may again stay.
    pub fn review(&mut self, now: u64) {
        let astray = |queue: &Self| {
            let stays = |item: &T| queue.place.welcomes(item);
            let leaves = queue.ready.iter().map(|ready| &*ready.item).find(|item| !stays(item));
            let returns = queue.leaving.iter().map(|item| &**item).find(|item| stays(item));
            leaves.or(returns).map(Turn::id)
        };
        while let Some(id) = astray(self) {
            self.refresh(id, now);
        }
        // What others were told of those who wait may be wrong.
        self.published = None;
    }

    /// Takes note that weight or affinity of a vCPU changed. One that sleeps or runs needs no note.
    pub fn refresh(&mut self, id: VcpuId, now: u64) {
        if let Some(at) = self.ready.iter().position(|ready| ready.item.id() == id) {
            let ready = self.ready.swap_remove(at);
            self.weight -= ready.weight;
            self.enqueue(ready.item, ready.vtime);
            self.unlimit_turn();
        } else if let Some(at) = self.leaving.iter().position(|item| item.id() == id) {
            let mut item = self.leaving.swap_remove(at);
            let lag = core::mem::take(&mut item.account_mut().lag);
            self.advance(now);
            let vtime = self.floor.wrapping_add_signed(lag);
            self.enqueue(item, vtime);
            self.limit_turn(now);
        }
    }

    /// Publishes load and wishes, if they changed.
    #[inline]
    pub(super) fn publish(&mut self, pool: &Pool) {
        let state = (self.weight, self.wanted());
        if self.published != Some(state) {
            self.published = Some(state);
            pool.publish(self.place.here, state.0, state.1);
        }
    }

    /// The CPUs other than this one on which some vCPU that waits here could run. While nobody runs, one of those
    /// that are ready will, and does not count as waiting.
    pub(super) fn wanted(&self) -> CpuSet {
        let waits = if self.running.is_some() { 1 } else { 2 };
        if self.ready.len() < waits {
            return CpuSet::EMPTY;
        }
        let union = |set, ready: &Ready<T>| set | self.place.allowed(&*ready.item);
        self.ready.iter().fold(CpuSet::EMPTY, union) & !CpuSet::only(self.place.here)
    }

    /// Makes a vCPU ready at the virtual time that `vtime` computes from the floor, within bounds.
    fn enter(&mut self, item: Box<T>, vtime: impl FnOnce(u64) -> u64, now: u64) -> Woken {
        let runner = self.advance(now);
        let vtime = self.bounded(vtime(self.floor), &item);
        self.enqueue(item, vtime);

        let Some(runner) = runner else { return Woken::Preempt };
        self.limit_turn(now);
        if is_before(vtime.wrapping_add(self.granularity), runner) { Woken::Preempt } else { Woken::Queued }
    }

    /// The virtual time at which someone who slept or came from elsewhere goes on: close to the floor.
    fn bounded(&self, vtime: u64, item: &T) -> u64 {
        if is_before(vtime, self.floor) {
            return later(vtime, self.floor.wrapping_sub(self.credit));
        }
        let debt = virtual_time(self.tuning.latency, clamp(item.weight()));
        self.floor.wrapping_add(vtime.wrapping_sub(self.floor).min(debt))
    }

    /// Raises the floor to what everybody has reached by now. Returns where the running vCPU is.
    #[inline(always)]
    fn advance(&mut self, now: u64) -> Option<u64> {
        let runner = self.running.as_ref().map(|running| running.vtime_at(now));
        let first = self.least().map(|at| self.ready[at].vtime);
        let least = match (runner, first) {
            (Some(runner), Some(first)) => Some(earlier(runner, first)),
            (one, other) => one.or(other),
        };
        if let Some(least) = least {
            self.floor = later(self.floor, least);
        }
        runner
    }

    /// Ends the slice of a vCPU that had the CPU for itself until now: soon, because it had its time.
    fn limit_turn(&mut self, now: u64) {
        if let Some(running) = &mut self.running
            && running.slice_end == NEVER
        {
            running.slice_end = now.saturating_add(self.tuning.min_slice);
        }
    }

    /// Lets a vCPU that nobody competes with any more go on.
    fn unlimit_turn(&mut self) {
        if let Some(running) = &mut self.running
            && self.ready.is_empty()
        {
            running.slice_end = NEVER;
        }
    }

    /// How long a turn lasts that competes with all that are ready.
    fn slice(&self, weight: u32) -> u64 {
        let share = self.tuning.latency * u64::from(weight) / u64::from(self.weight.max(1));
        share.max(self.tuning.min_slice)
    }

    /// Ends the turn: what was used is counted. Returns the virtual time reached.
    fn end_turn(&mut self, item: &mut T, now: u64) -> u64 {
        let Some(running) = self.running.take() else {
            debug_assert!(false, "nobody had a turn");
            return self.floor;
        };
        debug_assert_eq!(running.id, item.id(), "somebody else had the turn");
        self.weight -= running.weight;
        let account = item.account_mut();
        account.ran += now.saturating_sub(running.started);
        account.turns += 1;
        running.vtime_at(now)
    }

    /// Puts a vCPU among those that are ready, or among those that must leave.
    #[inline]
    fn enqueue(&mut self, mut item: Box<T>, vtime: u64) {
        if self.place.welcomes(&*item) {
            let weight = clamp(item.weight());
            self.weight += weight;
            self.order = self.order.wrapping_add(1);
            self.ready.push(Ready { vtime, weight, order: self.order, item });
        } else {
            item.account_mut().lag = vtime.wrapping_sub(self.floor) as i64;
            self.leaving.push(item);
        }
    }

    fn lay_down(&mut self, item: Box<T>, until: Option<u64>, vtime: u64) {
        let until = until.unwrap_or(NEVER);
        self.soonest = self.soonest.min(until);
        self.parked.push(Parked { id: item.id(), until, vtime, item });
    }

    /// The place in `ready` of the one with the least virtual time.
    fn least(&self) -> Option<usize> {
        let mut least = 0;
        for at in 1..self.ready.len() {
            if self.ready[at].goes_before(&self.ready[least]) {
                least = at;
            }
        }
        (!self.ready.is_empty()).then_some(least)
    }

    /// Makes room for one more vCPU in all the places where it can be.
    fn make_room(&mut self) {
        let running = usize::from(self.running.is_some());
        let all = self.ready.len() + self.leaving.len() + self.parked.len() + running + 1;
        self.ready.reserve(all - self.ready.len());
        self.leaving.reserve(all - self.leaving.len());
        self.parked.reserve(all - self.parked.len());
    }
}

fn clamp(weight: u32) -> u32 {
    weight.clamp(1, MAX_WEIGHT)
}

/// What a vCPU of this weight is charged for this time; never nothing for something, unless a turn lasts for months.
fn virtual_time(time: u64, weight: u32) -> u64 {
    (time << SCALE) / u64::from(weight)
}

/// Whether virtual time `a` comes before `b`.
fn is_before(a: u64, b: u64) -> bool {
    (a.wrapping_sub(b) as i64) < 0
}

fn earlier(a: u64, b: u64) -> u64 {
    if is_before(b, a) { b } else { a }
}

fn later(a: u64, b: u64) -> u64 {
    if is_before(a, b) { b } else { a }
}
