//! The laws of the FP machine, for the registers of any architecture that has a model of them: no guest ever sees a
//! register of another or loses one of its own, whatever happens in whatever order, under any policy; and the ledger
//! agrees with what was measured at the registers.
//!
//! A script of random actions plays in a world of three CPUs. The guests check every register they can see at every
//! step.

mod mutants;

use std::fmt::Debug;
use std::sync::Arc;

use kernel::addr::{CpuId, VcpuId};
use kernel::fp::rules::Rules;
use kernel::fp::{
    AuditSwitch, FpContext, FpKey, FpSlot, FpUnit, Ledger, Policy, PolicyCell, Resident, Snapshot, Tally,
    Touch, Units,
};
use proptest::prelude::*;
use proptest::test_runner::Config;

pub(crate) use mutants::*;

pub(crate) const CPUS: usize = 3;
pub(crate) const MAX_GUESTS: usize = 5;

/// Why something that a guest tried did not happen as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The gate was shut: the guest stops, to try again.
    Trap(Units),
    /// What it saw or could do is wrong, in words.
    Wrong(String),
}

/// What was measured at the registers of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) loads: u64,
    pub(crate) saves: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

type File<S> = <<S as Subject>::Context as FpContext>::File;
type Limit<S> = <<S as Subject>::Context as FpContext>::Limit;

/// Registers made of values, and guests that know what should be in them.
pub(crate) trait Subject: Clone + Debug + 'static {
    type Context: FpContext<Limit: Debug>;
    /// A pretend guest's memory of what its registers hold.
    type Mind: Clone;
    /// Something a guest does with its registers. Whatever it does, it also looks at everything it sees by it.
    type Op: Copy + Debug + 'static;

    /// The units that guests may have, one by one.
    const UNITS: &'static [Units];

    /// Makes the registers of CPU `cpu` at reset: garbage, but concealed.
    fn file(cpu: usize) -> File<Self>;
    /// Loses everything, as a power-down does.
    fn lose(file: &mut File<Self>);
    /// Tells whether any register holds a value with `tag`.
    fn bears(file: &File<Self>, tag: u16) -> bool;
    /// Tells what a guest could use now.
    fn open(file: &File<Self>) -> Units;
    /// Tells what was moved since reset.
    fn moved(file: &File<Self>) -> Moved;

    /// Makes a guest at power-on whose every value will bear `tag`, which is below 0x8000 and not zero.
    fn mind(limit: Limit<Self>, tag: u16) -> Self::Mind;
    /// Does `op` on the registers of the CPU the guest runs on. After a trap, nothing has happened.
    fn attempt(mind: &mut Self::Mind, file: &mut File<Self>, op: Self::Op) -> Result<(), Mishap>;
    /// Takes a guest back to what it knew when `past` was its mind. What it writes from then on is new all the same.
    fn rewind(mind: &mut Self::Mind, past: &Self::Mind);
    /// Looks at the registers of one unit.
    fn read(unit: Units) -> Self::Op;
    /// Tells which units a guest has.
    fn units(limit: Limit<Self>) -> Units;

    fn any_limit() -> BoxedStrategy<Limit<Self>>;
    fn any_op() -> BoxedStrategy<Self::Op>;
    /// The few operations of a guest with `narrow_limit` that meet each other's traces most often.
    fn few_ops() -> Vec<Self::Op>;
    fn narrow_limit() -> Limit<Self>;
}

/// When a guest that trapped gets to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// At once.
    Retry,
    /// In a later action: until then anything may happen, and its request waits.
    Later,
}

/// What happens next. Numbers that are too large wrap around.
#[derive(Clone, Debug)]
pub(crate) enum Action<Op, Limit> {
    /// A vCPU starts a turn; the one that had the CPU ends its own.
    Begin { cpu: usize, nth: usize },
    /// The guest does something.
    Guest { cpu: usize, op: Op, after: After },
    /// The turn ends.
    Leave { cpu: usize },
    /// A vCPU moves to another CPU, running or not.
    Move { nth: usize, to: usize },
    /// A vCPU ends for good, and another with its id starts.
    Stop { nth: usize, limit: Limit },
    /// A vCPU is reset.
    Reset { nth: usize },
    /// A snapshot is taken of a vCPU, running or not.
    Take { nth: usize },
    /// A vCPU is put back to when the latest snapshot of it was taken, running or not, wherever it lives by now.
    PutBack { nth: usize },
    /// The CPU loses its registers.
    PowerDown { cpu: usize },
    /// The policy of a vCPU's VM changes.
    SetPolicy { nth: usize, policy: Policy },
    /// The auditor is switched.
    Audit { on: bool },
}

type ActionOf<S> = Action<<S as Subject>::Op, Limit<S>>;

/// A vCPU, where it lives, and what it expects.
pub(crate) struct Guest<S: Subject> {
    id: VcpuId,
    cpu: usize,
    key: FpKey,
    mind: S::Mind,
    limit: Limit<S>,
    tag: u16,
    policy: Arc<PolicyCell>,
    /// The latest snapshot, and what the guest expected of its registers then.
    past: Option<(Snapshot, S::Mind)>,
}

/// Three CPUs and their guests.
pub(crate) struct World<S: Subject, R: Rules> {
    pub(crate) files: [File<S>; CPUS],
    pub(crate) units: [FpUnit<S::Context, R>; CPUS],
    pub(crate) running: [Option<usize>; CPUS],
    guests: Vec<Guest<S>>,
    pub(crate) ledgers: Vec<Arc<Ledger>>,
    pub(crate) audit: Arc<AuditSwitch>,
    tags: u16,
    /// Whose values the registers held when that was last news.
    residents: [Vec<Option<Resident>>; CPUS],
    /// What the harness saw happen, to compare with the ledger.
    exposures: u64,
    traps: u64,
    granted: u64,
}

/// What went wrong.
pub(crate) type Wrong = String;

impl<S: Subject, R: Rules> World<S, R> {
    pub(crate) fn new(guests: &[(Limit<S>, Policy)]) -> Self {
        let audit = Arc::new(AuditSwitch::off());
        let mut world = Self {
            files: core::array::from_fn(S::file),
            units: core::array::from_fn(|n| FpUnit::new(CpuId(n), Arc::clone(&audit))),
            running: [None; CPUS],
            guests: Vec::new(),
            ledgers: Vec::new(),
            audit,
            tags: 0,
            residents: core::array::from_fn(|_| vec![None; S::Context::GROUPS.len()]),
            exposures: 0,
            traps: 0,
            granted: 0,
        };
        for (n, &(limit, policy)) in guests.iter().enumerate() {
            let policy = Arc::new(PolicyCell::new(policy));
            let guest = world.born(VcpuId(n as u32), n % CPUS, limit, policy);
            world.guests.push(guest);
        }
        world
    }

    fn tag(&mut self) -> u16 {
        self.tags += 1;
        self.tags
    }

    fn born(&mut self, id: VcpuId, cpu: usize, limit: Limit<S>, policy: Arc<PolicyCell>) -> Guest<S> {
        let slot = Box::new(FpSlot::new(id, limit, Arc::clone(&policy)));
        self.ledgers.push(slot.ledger());
        let tag = self.tag();
        Guest {
            id,
            cpu,
            key: self.units[cpu].enroll(slot),
            mind: S::mind(limit, tag),
            limit,
            tag,
            policy,
            past: None,
        }
    }

    fn act(&mut self, action: &ActionOf<S>) -> Result<(), Wrong> {
        let who = |nth: usize| nth % self.guests.len();
        match *action {
            Action::Begin { cpu, nth } => self.begin(cpu, nth),
            Action::Guest { cpu, op, after } => self.guest(cpu, op, after)?,
            Action::Leave { cpu } => self.leave(cpu),
            Action::Move { nth, to } => self.move_to(who(nth), to),
            Action::Stop { nth, limit } => self.stop(who(nth), limit)?,
            Action::Reset { nth } => self.reset(who(nth)),
            Action::Take { nth } => self.take(who(nth)),
            Action::PutBack { nth } => self.put_back_in_time(who(nth)),
            Action::PowerDown { cpu } => {
                self.units[cpu].flush(&mut self.files[cpu]);
                S::lose(&mut self.files[cpu]);
            }
            Action::SetPolicy { nth, policy } => self.guests[who(nth)].policy.set(policy),
            Action::Audit { on: true } => self.audit.enable(),
            Action::Audit { on: false } => self.audit.disable(),
        }
        self.check_news()
    }

    fn check_news(&mut self) -> Result<(), Wrong> {
        for (cpu, unit) in self.units.iter_mut().enumerate() {
            let now: Vec<_> = unit.residents().collect();
            let told = &mut self.residents[cpu];
            told.resize(now.len(), None);
            for (n, told) in told.iter_mut().enumerate() {
                *told = unit.news(n).unwrap_or(*told);
            }
            if *told != now {
                return Err(format!("CPU {cpu} has {now:?}, which is no news: it told {told:?}"));
            }
        }
        Ok(())
    }

    pub(crate) fn begin(&mut self, cpu: usize, nth: usize) {
        let here: Vec<usize> = (0..self.guests.len()).filter(|&n| self.guests[n].cpu == cpu).collect();
        if here.is_empty() {
            return;
        }
        self.leave(cpu);
        let who = here[nth % here.len()];
        self.units[cpu].arrive(&self.guests[who].key);
        self.running[cpu] = Some(who);
    }

    pub(crate) fn leave(&mut self, cpu: usize) {
        self.units[cpu].leave(&mut self.files[cpu]);
        self.running[cpu] = None;
    }

    pub(crate) fn enter(&mut self, cpu: usize) {
        let before = S::open(&self.files[cpu]);
        self.units[cpu].enter(&mut self.files[cpu]);
        let fresh = S::open(&self.files[cpu]) - before;
        let groups = S::Context::GROUPS.iter();
        self.exposures += groups.filter(|group| fresh.intersects(**group)).count() as u64;
    }

    pub(crate) fn guest(&mut self, cpu: usize, op: S::Op, after: After) -> Result<(), Wrong> {
        let Some(who) = self.running[cpu] else { return Ok(()) };
        // One try, and one more for the touch: a trap that was granted does not come again.
        for _ in 0..2 {
            self.enter(cpu);
            match S::attempt(&mut self.guests[who].mind, &mut self.files[cpu], op) {
                Ok(()) => return Ok(()),
                Err(Mishap::Trap(unit)) => {
                    self.traps += 1;
                    if self.units[cpu].request(unit) == Touch::Absent {
                        let has = S::units(self.guests[who].limit);
                        return if has.contains(unit) {
                            Err(format!("{unit:?} refused to guest {who}, which has it"))
                        } else {
                            Ok(())
                        };
                    }
                    self.granted += 1;
                    if after == After::Later {
                        return Ok(());
                    }
                }
                Err(Mishap::Wrong(why)) => {
                    return Err(format!("guest {who} on CPU {cpu} doing {op:?}: {why}"));
                }
            }
        }
        Err(format!("guest {who} on CPU {cpu} trapped twice doing {op:?}"))
    }

    fn take_off(&mut self, who: usize) {
        for running in &mut self.running {
            if *running == Some(who) {
                *running = None;
            }
        }
    }

    pub(crate) fn move_to(&mut self, who: usize, to: usize) {
        self.take_off(who);
        let mut guest = self.guests.swap_remove(who);
        let slot = self.units[guest.cpu].discharge(&mut self.files[guest.cpu], guest.key);
        assert_eq!(slot.id(), guest.id);
        guest.cpu = to;
        guest.key = self.units[to].enroll(slot);
        self.put_back(who, guest);
    }

    fn put_back(&mut self, who: usize, guest: Guest<S>) {
        self.guests.push(guest);
        let last = self.guests.len() - 1;
        self.guests.swap(who, last);
    }

    pub(crate) fn stop(&mut self, who: usize, limit: Limit<S>) -> Result<(), Wrong> {
        self.take_off(who);
        let Guest { id, cpu, key, tag, policy, .. } = self.guests.swap_remove(who);
        // The auditor looks at registers by saving them, which the ledger's laws would take for a save.
        let audited = self.audit.is_on();
        self.audit.disable();
        self.units[cpu].dismiss(&mut self.files[cpu], key);
        if S::bears(&self.files[cpu], tag) {
            return Err(format!("registers of CPU {cpu} outlived guest {who}"));
        }
        for other in (0..CPUS).filter(|&other| other != cpu) {
            self.units[other].purge(&mut self.files[other], id);
            if S::bears(&self.files[other], tag) {
                return Err(format!("a copy on CPU {other} outlived guest {who}"));
            }
        }
        if audited {
            self.audit.enable();
        }
        let guest = self.born(id, (cpu + 1) % CPUS, limit, policy);
        self.put_back(who, guest);
        Ok(())
    }

    fn reset(&mut self, who: usize) {
        self.take_off(who);
        let tag = self.tag();
        let guest = &mut self.guests[who];
        self.units[guest.cpu].reset(&mut self.files[guest.cpu], &guest.key);
        guest.mind = S::mind(guest.limit, tag);
        guest.tag = tag;
        // Values of an earlier life would not be found by their tag.
        guest.past = None;
    }

    fn take(&mut self, who: usize) {
        let guest = &mut self.guests[who];
        let snapshot = self.units[guest.cpu].snapshot(&mut self.files[guest.cpu], guest.id);
        guest.past = snapshot.map(|snapshot| (snapshot, guest.mind.clone()));
    }

    fn put_back_in_time(&mut self, who: usize) {
        let guest = &mut self.guests[who];
        let Some((snapshot, mind)) = &guest.past else { return };
        let travelled = Snapshot::from_bytes(snapshot.bytes().to_vec()).expect("it is as it was taken");
        let done = self.units[guest.cpu].put_back(&mut self.files[guest.cpu], guest.id, &travelled);
        assert_eq!(done, Some(Ok(())));
        S::rewind(&mut guest.mind, mind);
    }

    /// Lets every guest look at all it has.
    fn finish(&mut self) -> Result<(), Wrong> {
        for cpu in 0..CPUS {
            self.leave(cpu);
        }
        for who in 0..self.guests.len() {
            let cpu = self.guests[who].cpu;
            self.units[cpu].arrive(&self.guests[who].key);
            self.running[cpu] = Some(who);
            let has = S::units(self.guests[who].limit);
            for &unit in S::UNITS.iter().filter(|unit| has.contains(**unit)) {
                self.guest(cpu, S::read(unit), After::Retry)?;
            }
            self.leave(cpu);
        }
        self.check_laws()
    }

    fn check_laws(&self) -> Result<(), Wrong> {
        let sum = |tallies: &mut dyn Iterator<Item = Tally>| {
            tallies.fold(Tally::default(), |sum, tally| sum.plus(&tally))
        };
        let law = |name: &str, left: u64, right: u64| {
            if left == right { Ok(()) } else { Err(format!("{name}: {left} is not {right}")) }
        };
        for (unit, file) in self.units.iter().zip(&self.files) {
            let (tally, moved) = (unit.ledger().tally(), S::moved(file));
            law("loads", tally.loads, moved.loads)?;
            law("saves", tally.saves(), moved.saves)?;
            law("bytes in", tally.bytes_in, moved.bytes_in)?;
            law("bytes out", tally.bytes_out, moved.bytes_out)?;
        }
        let cpus = sum(&mut self.units.iter().map(|unit| unit.ledger().tally()));
        let vcpus = sum(&mut self.ledgers.iter().map(|ledger| ledger.tally()));
        if cpus != vcpus {
            return Err(format!("CPUs and vCPUs disagree: {cpus:?}, {vcpus:?}"));
        }
        law("exposures seen at the gate", cpus.exposures(), self.exposures)?;
        law("traps", cpus.traps.iter().sum(), self.traps)?;
        law("requests", cpus.requests(), self.granted)
    }
}

/// Guests and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct Script<S: Subject> {
    pub(crate) guests: Vec<(Limit<S>, Policy)>,
    pub(crate) actions: Vec<ActionOf<S>>,
}

/// Plays a script to its end, where every guest looks at all it has.
pub(crate) fn play<S: Subject, R: Rules>(script: &Script<S>) -> Result<World<S, R>, Wrong> {
    let mut world = World::new(&script.guests);
    for action in &script.actions {
        world.act(action)?;
    }
    world.finish()?;
    Ok(world)
}

pub(crate) fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

fn any_action<S: Subject>() -> impl Strategy<Value = ActionOf<S>> {
    let (cpu, nth) = (0..CPUS, 0..MAX_GUESTS);
    let after = prop_oneof![3 => Just(After::Retry), 1 => Just(After::Later)];
    prop_oneof![
        8 => (cpu.clone(), nth.clone()).prop_map(|(cpu, nth)| Action::Begin { cpu, nth }),
        16 => (cpu.clone(), S::any_op(), after).prop_map(|(cpu, op, after)| Action::Guest { cpu, op, after }),
        3 => cpu.clone().prop_map(|cpu| Action::Leave { cpu }),
        3 => (nth.clone(), cpu.clone()).prop_map(|(nth, to)| Action::Move { nth, to }),
        1 => (nth.clone(), S::any_limit()).prop_map(|(nth, limit)| Action::Stop { nth, limit }),
        1 => nth.clone().prop_map(|nth| Action::Reset { nth }),
        2 => nth.clone().prop_map(|nth| Action::Take { nth }),
        2 => nth.clone().prop_map(|nth| Action::PutBack { nth }),
        1 => cpu.prop_map(|cpu| Action::PowerDown { cpu }),
        3 => (nth, any_policy()).prop_map(|(nth, policy)| Action::SetPolicy { nth, policy }),
    ]
}

pub(crate) fn wide_world<S: Subject>() -> impl Strategy<Value = Script<S>> {
    let guests = prop::collection::vec((S::any_limit(), any_policy()), 1..=MAX_GUESTS);
    (guests, prop::collection::vec(any_action::<S>(), 0..96))
        .prop_map(|(guests, actions)| Script { guests, actions })
}

/// One guest alone on a CPU, turn by turn, where long coincidences of policy, request and save are common.
fn small_world<S: Subject>() -> impl Strategy<Value = Script<S>> {
    let op = prop::sample::select(S::few_ops());
    let after = prop_oneof![1 => Just(After::Retry), 2 => Just(After::Later)];
    let guest = (op, after).prop_map(|(op, after)| Action::Guest { cpu: 0, op, after });
    let policy = prop::sample::select(vec![Policy::Lazy, Policy::Hold, Policy::Adaptive]);
    let start = policy.prop_map(|policy| Action::SetPolicy { nth: 0, policy });
    let end = prop_oneof![
        6 => Just(Action::Leave { cpu: 0 }),
        2 => Just(Action::PowerDown { cpu: 0 }),
        1 => Just(Action::Take { nth: 0 }),
        1 => Just(Action::PutBack { nth: 0 }),
    ];
    let turn = (start, prop::collection::vec(guest, 1..=2), end).prop_map(|(start, mut turn, end)| {
        turn.splice(0..0, [start, Action::Begin { cpu: 0, nth: 0 }]);
        turn.push(end);
        turn
    });
    let limit = prop_oneof![S::any_limit(), Just(S::narrow_limit())];
    (limit, any_policy(), prop::collection::vec(turn, 0..16))
        .prop_map(|(limit, policy, turns)| Script { guests: vec![(limit, policy)], actions: turns.concat() })
}

pub(crate) fn any_script<S: Subject>() -> impl Strategy<Value = Script<S>> {
    prop_oneof![3 => wide_world::<S>(), 1 => small_world::<S>()]
}

/// The same, with the auditor switched on and off in between.
pub(crate) fn audited_script<S: Subject>() -> impl Strategy<Value = Script<S>> {
    (any_script::<S>(), prop::collection::vec((0..96usize, any::<bool>()), 0..4)).prop_map(
        |(mut script, switches)| {
            for (at, on) in switches {
                let at = at.min(script.actions.len());
                script.actions.insert(at, Action::Audit { on });
            }
            script
        },
    )
}

pub(crate) fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}
