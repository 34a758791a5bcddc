//! A machine of pretend CPUs, and time.
//!
//! Each CPU is a thread, but only one of them runs at any moment: the one whose next deed comes first in virtual
//! time. A thread that lets time pass hands over to whoever is first then. So the order of everything that happens
//! is decided by the seed alone, a run can be repeated, and the code under test is interrupted in the middle, where
//! on hardware another CPU would come between.
//!
//! Steps of the hypervisor cost now nothing, now a few ticks, now many, which is what moves CPUs against each other.
//! A CPU in a guest, or waiting, can be brought forward by an interrupt; in the hypervisor it cannot.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::fp::File;
use crate::script::Plot;
use crate::serial::Wire;
use crate::watch::Watch;

/// Ticks in a second.
pub const HZ: u64 = 1_000_000;
/// A time that never comes.
pub const NEVER: u64 = u64::MAX;

thread_local! {
    /// Which CPU this thread is.
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
    /// The time, as this thread last saw it.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// What unwinds a CPU's thread when the machine has come to its end.
struct Over;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hypervisor switched the machine off.
    Halted,
    /// Every CPU waits for an interrupt that will not come.
    Asleep,
    /// The time that was given is over.
    TimeUp,
    /// Something was wrong: what.
    Failed(String),
}

/// Something that happens from outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes arrive on the serial line.
    Typed(Vec<u8>),
}

/// Random numbers (xorshift64*).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}

/// One CPU, as far as time and interrupts go.
#[derive(Debug)]
struct Lane {
    /// When it does its next deed.
    at: u64,
    /// Whether an interrupt brings that forward.
    open: bool,
    kicked: bool,
    alarm: Option<u64>,
    /// When the timer of the loaded guest raises its interrupt.
    timer: Option<u64>,
    /// Since when it has been waiting.
    idle: Option<u64>,
}

/// Everything there is, under one lock.
pub struct State {
    now: u64,
    current: usize,
    lanes: Vec<Lane>,
    chance: Chance,
    events: VecDeque<(u64, Event)>,
    horizon: u64,
    end: Option<Outcome>,
    /// The serial line, whose interrupt goes to the first CPU.
    pub wire: Wire,
    /// Who is owed what.
    pub watch: Watch,
    /// The registers of CPUs that are gone.
    pub files: Vec<Option<File>>,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Setting {
    /// How many CPUs.
    pub cpus: usize,
    /// Chooses what is left to chance.
    pub seed: u64,
    /// What its guests do.
    pub plots: Vec<Plot>,
    /// What happens from outside, in the order of time.
    pub events: Vec<(u64, Event)>,
    /// When the run ends at the latest.
    pub horizon: u64,
    /// How long the serial line takes for a byte, in ticks.
    pub byte_time: u64,
}

/// A machine.
pub struct World {
    state: Mutex<State>,
    turns: Box<[Condvar]>,
    /// What it was made of.
    pub setting: Setting,
}

impl World {
    /// A machine at time zero. Its first CPU runs first.
    pub fn new(setting: Setting) -> Arc<Self> {
        let lane = |_| Lane { at: 0, open: false, kicked: false, alarm: None, timer: None, idle: None };
        let state = State {
            now: 0,
            current: 0,
            lanes: (0..setting.cpus).map(lane).collect(),
            chance: Chance::new(setting.seed),
            events: setting.events.iter().cloned().collect(),
            horizon: setting.horizon,
            end: None,
            wire: Wire::new(setting.byte_time),
            watch: Watch::default(),
            files: (0..setting.cpus).map(|_| None).collect(),
        };
        let turns = (0..setting.cpus).map(|_| Condvar::new()).collect();
        Arc::new(Self { state: Mutex::new(state), turns, setting })
    }

    /// Runs `cpu` on the calling thread, as `body` does it, until the end of the machine.
    pub fn run_cpu(self: &Arc<Self>, cpu: usize, body: impl FnOnce()) {
        ME.set(Some(cpu));
        let body = std::panic::AssertUnwindSafe(|| {
            drop(self.await_turn(self.lock(), cpu));
            body();
        });
        if let Err(payload) = std::panic::catch_unwind(body)
            && !payload.is::<Over>()
        {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()));
            let text = text.unwrap_or_else(|| "a panic without words".into());
            self.lock().fail(format!("CPU {cpu} panicked: {text}"));
        }
        self.wake_all();
        ME.set(None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.turns.iter().for_each(Condvar::notify_all);
    }

    /// Looks at the state, or changes it; ends the calling CPU if the machine is over then.
    pub fn with<T>(&self, deed: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = deed(&mut state);
        self.leave_if_over(state);
        value
    }

    fn leave_if_over(&self, state: MutexGuard<'_, State>) {
        let over = state.end.is_some();
        drop(state);
        if over && ME.get().is_some() && !std::thread::panicking() {
            self.wake_all();
            resume_unwind(Box::new(Over));
        }
    }

    /// Ends the machine because something is wrong.
    pub fn fail(&self, what: String) {
        self.with(|state| state.fail(what));
    }

    /// Waits for the turn of `me`.
    fn await_turn<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        while state.current != me && state.end.is_none() {
            state = self.turns[me].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.end.is_none() {
            state.resume(me);
            return state;
        }
        self.leave_if_over(state);
        self.lock()
    }

    /// Lets time pass for `me` until `at`, or until an interrupt if it is `open` to them.
    fn advance(&self, me: usize, at: u64, open: bool) {
        let mut state = self.lock();
        if state.end.is_none() {
            let lane = &mut state.lanes[me];
            (lane.at, lane.open) = (at, open);
            match state.choose() {
                Some(next) if next == me => state.resume(me),
                Some(next) => {
                    state.current = next;
                    self.turns[next].notify_one();
                    state = self.await_turn(state, me);
                }
                None => {}
            }
        }
        self.leave_if_over(state);
    }

    /// A step of the hypervisor on `me`.
    pub(crate) fn step(&self, me: usize) {
        if std::thread::panicking() {
            return;
        }
        let mut state = self.lock();
        let cost = match state.chance.below(32) {
            0 => state.chance.below(60),
            1..6 => 1 + state.chance.below(3),
            _ => 0,
        };
        let now = state.now;
        drop(state);
        if cost > 0 {
            self.advance(me, now + cost, false);
        }
    }

    /// A step of the hypervisor, on whichever CPU calls.
    pub(crate) fn step_here(&self) {
        if let Some(me) = ME.get() {
            self.step(me);
        }
    }

    /// Runs a guest on `me` for at most `ticks`, until an interrupt of the CPU.
    pub(crate) fn run_for(&self, me: usize, ticks: u64) -> u64 {
        let (start, end) = self.with(|state| {
            let end = state.now.saturating_add(ticks).min(state.next_interrupt(me));
            (state.now, end.max(state.now))
        });
        self.advance(me, end, true);
        self.now() - start
    }

    /// Waits on `me` until an interrupt is pending.
    pub(crate) fn wait(&self, me: usize) {
        self.with(|state| state.lanes[me].idle = Some(state.now));
        while let Some(at) = self.with(|state| (!state.is_pending(me)).then(|| state.next_interrupt(me))) {
            self.advance(me, at, true);
        }
        self.with(|state| {
            let idle = state.lanes[me].idle.take();
            if let (Some(from), Some(what)) = (idle, state.idled(me)) {
                state.fail(format!("CPU {me} waited from {from} to {}, but {what}", state.now));
            }
        });
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.lock().now
    }

    /// How the run ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.lock().end.clone()
    }

    /// Ends the machine as its hypervisor wants it.
    pub(crate) fn halt(&self) -> ! {
        self.with(|state| state.end = Some(Outcome::Halted));
        resume_unwind(Box::new(Over))
    }
}

/// The time, as the CPU that runs on this thread last saw it.
pub fn now_here() -> kernel::addr::Ticks {
    kernel::addr::Ticks(NOW.get())
}

/// Which CPU this thread is.
pub fn cpu_here() -> Option<usize> {
    ME.get()
}

impl State {
    /// The time.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Notes what is wrong; the first one counts.
    pub fn fail(&mut self, what: String) {
        if self.end.is_none() {
            self.end = Some(Outcome::Failed(format!("at {}: {what}", self.now)));
        }
    }

    fn resume(&mut self, me: usize) {
        self.now = self.now.max(self.lanes[me].at);
        self.lanes[me].open = false;
        NOW.set(self.now);
    }

    /// Who is first. Nobody, if the machine is over.
    fn choose(&mut self) -> Option<usize> {
        loop {
            let first = self.lanes.iter().map(|lane| lane.at).min()?;
            if let Some((at, _)) = self.events.front()
                && *at <= first
            {
                self.now = self.now.max(*at);
                if let Some((_, event)) = self.events.pop_front() {
                    self.happen(event);
                }
                continue;
            }
            if first == NEVER || first > self.horizon {
                self.now = if first == NEVER { self.now } else { self.horizon };
                self.end = Some(if first == NEVER { Outcome::Asleep } else { Outcome::TimeUp });
                return None;
            }
            let count = self.lanes.iter().filter(|lane| lane.at == first).count();
            let choice = self.chance.below(count as u64) as usize;
            return (0..self.lanes.len()).filter(|n| self.lanes[*n].at == first).nth(choice);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Typed(bytes) => self.wire.receive(&bytes),
        }
        self.interrupt(0);
    }

    /// Something became pending for `cpu`.
    fn interrupt(&mut self, cpu: usize) {
        let soon = self.now + self.chance.below(4);
        let lane = &mut self.lanes[cpu];
        if lane.open {
            lane.at = lane.at.min(soon);
        }
    }

    pub(crate) fn kick(&mut self, cpu: usize) {
        self.lanes[cpu].kicked = true;
        self.interrupt(cpu);
    }

    pub(crate) fn take_kick(&mut self, cpu: usize) -> bool {
        core::mem::take(&mut self.lanes[cpu].kicked)
    }

    pub(crate) fn set_alarm(&mut self, cpu: usize, at: Option<u64>) {
        self.lanes[cpu].alarm = at;
    }

    /// Takes the alarm of `cpu` if it rings.
    pub(crate) fn take_alarm(&mut self, cpu: usize) -> bool {
        let now = self.now;
        self.lanes[cpu].alarm.take_if(|at| *at <= now).is_some()
    }

    /// The timer of the guest that is loaded on `cpu` fires at `at`.
    pub(crate) fn set_timer(&mut self, cpu: usize, at: Option<u64>) {
        self.lanes[cpu].timer = at;
    }

    pub(crate) fn timer_fires(&self, cpu: usize) -> bool {
        self.lanes[cpu].timer.is_some_and(|at| at <= self.now)
    }

    pub(crate) fn is_pending(&self, cpu: usize) -> bool {
        self.lanes[cpu].kicked || self.next_interrupt(cpu) <= self.now
    }

    /// When the next interrupt comes that can be foreseen.
    fn next_interrupt(&self, cpu: usize) -> u64 {
        let lane = &self.lanes[cpu];
        let wire = if cpu == 0 { self.wire.next_interrupt(self.now) } else { NEVER };
        lane.alarm.unwrap_or(NEVER).min(lane.timer.unwrap_or(NEVER)).min(wire)
    }

    /// What should have run on `cpu`, which waits, if anything.
    pub fn idled(&self, cpu: usize) -> Option<String> {
        let from = self.lanes[cpu].idle.unwrap_or(self.now);
        self.watch.idled(cpu, from, self.now)
    }
}
