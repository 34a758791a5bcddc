//! No guest ever sees a register of another or loses one of its own, whatever happens in whatever order, under
//! any policy; the ledger agrees with what was measured at the registers; and each rule of the machine is needed.
//!
//! A script of random actions plays in a world of three CPUs. The guests check every register they can see at
//! every step. The mutants at the end play the same scripts with one rule broken.

use std::sync::Arc;

use arch_fake::fp::{EXTRA, File, Limit, MAIN_REGS, Mind, Mishap, Narrow, Op, Regs, SCALAR, TWIST, VECTOR};
use kernel::addr::{CpuId, VcpuId};
use kernel::fp::rules::{Rule, Rules, Sound};
use kernel::fp::{
    AuditSwitch, Breach, FpContext, FpKey, FpSlot, FpUnit, Ledger, Policy, PolicyCell, Tally, Touch, Units,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

const CPUS: usize = 3;
const MAX_GUESTS: usize = 5;

/// When a guest that trapped gets to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// At once.
    Retry,
    /// In a later action: until then anything may happen, and its request waits.
    Later,
}

/// What happens next. Numbers that are too large wrap around.
#[derive(Clone, Debug)]
enum Action {
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
    /// The CPU loses its registers.
    PowerDown { cpu: usize },
    /// The policy of a vCPU's VM changes.
    SetPolicy { nth: usize, policy: Policy },
    /// The auditor is switched.
    Audit { on: bool },
}

struct Guest {
    id: VcpuId,
    cpu: usize,
    key: FpKey,
    mind: Mind,
    policy: Arc<PolicyCell>,
}

struct World<R: Rules> {
    files: [File; CPUS],
    units: [FpUnit<Regs, R>; CPUS],
    running: [Option<usize>; CPUS],
    guests: Vec<Guest>,
    ledgers: Vec<Arc<Ledger>>,
    audit: Arc<AuditSwitch>,
    tags: u16,
    /// What the harness saw happen, to compare with the ledger.
    exposures: u64,
    traps: u64,
    granted: u64,
}

/// What went wrong.
type Wrong = String;

impl<R: Rules> World<R> {
    fn new(limits: &[Limit], policies: &[Policy]) -> Self {
        let audit = Arc::new(AuditSwitch::off());
        let mut world = Self {
            files: core::array::from_fn(|n| File::new(n as u64 + 1)),
            units: core::array::from_fn(|n| FpUnit::new(CpuId(n), Arc::clone(&audit))),
            running: [None; CPUS],
            guests: Vec::new(),
            ledgers: Vec::new(),
            audit,
            tags: 0,
            exposures: 0,
            traps: 0,
            granted: 0,
        };
        for file in &mut world.files {
            Regs::conceal(file);
        }
        for (n, (&limit, &policy)) in limits.iter().zip(policies).enumerate() {
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

    fn born(&mut self, id: VcpuId, cpu: usize, limit: Limit, policy: Arc<PolicyCell>) -> Guest {
        let slot = Box::new(FpSlot::new(id, limit, Arc::clone(&policy)));
        self.ledgers.push(slot.ledger());
        let mind = Mind::new(limit, self.tag());
        Guest { id, cpu, key: self.units[cpu].enroll(slot), mind, policy }
    }

    fn act(&mut self, action: &Action) -> Result<(), Wrong> {
        let who = |nth: usize| nth % self.guests.len();
        match *action {
            Action::Begin { cpu, nth } => self.begin(cpu, nth),
            Action::Guest { cpu, op, after } => self.guest(cpu, op, after)?,
            Action::Leave { cpu } => self.leave(cpu),
            Action::Move { nth, to } => self.move_to(who(nth), to),
            Action::Stop { nth, limit } => self.stop(who(nth), limit)?,
            Action::Reset { nth } => self.reset(who(nth)),
            Action::PowerDown { cpu } => {
                self.units[cpu].flush(&mut self.files[cpu]);
                self.files[cpu].lose();
            }
            Action::SetPolicy { nth, policy } => self.guests[who(nth)].policy.set(policy),
            Action::Audit { on: true } => self.audit.enable(),
            Action::Audit { on: false } => self.audit.disable(),
        }
        Ok(())
    }

    fn begin(&mut self, cpu: usize, nth: usize) {
        let here: Vec<usize> = (0..self.guests.len()).filter(|&n| self.guests[n].cpu == cpu).collect();
        if here.is_empty() {
            return;
        }
        self.leave(cpu);
        let who = here[nth % here.len()];
        self.units[cpu].arrive(&self.guests[who].key);
        self.running[cpu] = Some(who);
    }

    fn leave(&mut self, cpu: usize) {
        self.units[cpu].leave(&mut self.files[cpu]);
        self.running[cpu] = None;
    }

    fn enter(&mut self, cpu: usize) {
        let before = self.files[cpu].open();
        self.units[cpu].enter(&mut self.files[cpu]);
        let fresh = self.files[cpu].open() - before;
        self.exposures += Regs::GROUPS.iter().filter(|group| fresh.intersects(**group)).count() as u64;
    }

    fn guest(&mut self, cpu: usize, op: Op, after: After) -> Result<(), Wrong> {
        let Some(who) = self.running[cpu] else { return Ok(()) };
        // One try, and one more for the touch: a trap that was granted does not come again.
        for _ in 0..2 {
            self.enter(cpu);
            match self.guests[who].mind.attempt(&mut self.files[cpu], op) {
                Ok(()) => return Ok(()),
                Err(Mishap::Trap(unit)) => {
                    self.traps += 1;
                    if self.units[cpu].request(unit) == Touch::Absent {
                        let has = self.guests[who].mind.limit().units;
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
                Err(mishap) => {
                    return Err(format!("guest {who} on CPU {cpu} doing {op:?}: {mishap:x?}"));
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

    fn move_to(&mut self, who: usize, to: usize) {
        self.take_off(who);
        let Guest { id, cpu, key, mind, policy } = self.guests.swap_remove(who);
        let slot = self.units[cpu].discharge(&mut self.files[cpu], key);
        assert_eq!(slot.id(), id);
        let key = self.units[to].enroll(slot);
        self.put_back(who, Guest { id, cpu: to, key, mind, policy });
    }

    fn put_back(&mut self, who: usize, guest: Guest) {
        self.guests.push(guest);
        let last = self.guests.len() - 1;
        self.guests.swap(who, last);
    }

    fn stop(&mut self, who: usize, limit: Limit) -> Result<(), Wrong> {
        self.take_off(who);
        let Guest { id, cpu, key, mind, policy } = self.guests.swap_remove(who);
        self.units[cpu].dismiss(&mut self.files[cpu], key);
        if self.files[cpu].bears(mind.tag()) {
            return Err(format!("registers of CPU {cpu} outlived guest {who}"));
        }
        for other in (0..CPUS).filter(|&other| other != cpu) {
            self.units[other].purge(&mut self.files[other], id);
            if self.files[other].bears(mind.tag()) {
                return Err(format!("a copy on CPU {other} outlived guest {who}"));
            }
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
        guest.mind = Mind::new(guest.mind.limit(), tag);
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
            for unit in self.guests[who].mind.limit().units.iter_bits() {
                self.guest(cpu, Op::Read(unit), After::Retry)?;
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
        for tally in self.ledgers.iter().map(|ledger| ledger.tally()) {
            law("loads + skips = exposures of one vCPU", tally.loads + tally.skips, tally.exposures)?;
        }
        for (unit, file) in self.units.iter().zip(&self.files) {
            let tally = unit.ledger().tally();
            law("loads", tally.loads, file.loads)?;
            law("saves", tally.saves(), file.saves)?;
            law("bytes in", tally.bytes_in, file.bytes_in)?;
            law("bytes out", tally.bytes_out, file.bytes_out)?;
            law("loads + skips = exposures of one CPU", tally.loads + tally.skips, tally.exposures)?;
        }
        let cpus = sum(&mut self.units.iter().map(|unit| unit.ledger().tally()));
        let vcpus = sum(&mut self.ledgers.iter().map(|ledger| ledger.tally()));
        if cpus != vcpus {
            return Err(format!("CPUs and vCPUs disagree: {cpus:?}, {vcpus:?}"));
        }
        law("exposures seen at the gate", cpus.exposures, self.exposures)?;
        law("traps", cpus.traps.iter().sum(), self.traps)?;
        law("requests", cpus.requests, self.granted)
    }
}

/// Goes through the units of a set one by one.
trait Bits {
    fn iter_bits(self) -> impl Iterator<Item = Units>;
}

impl Bits for Units {
    fn iter_bits(self) -> impl Iterator<Item = Units> {
        [SCALAR, VECTOR, EXTRA].into_iter().filter(move |unit| self.contains(*unit))
    }
}

#[derive(Clone, Debug)]
struct Script {
    guests: Vec<(Limit, Policy)>,
    actions: Vec<Action>,
}

fn play<R: Rules>(script: &Script) -> Result<World<R>, Wrong> {
    let (limits, policies): (Vec<_>, Vec<_>) = script.guests.iter().copied().unzip();
    let mut world = World::<R>::new(&limits, &policies);
    for action in &script.actions {
        world.act(action)?;
    }
    world.finish()?;
    Ok(world)
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let units = prop_oneof![
        1 => Just(SCALAR),
        1 => Just(SCALAR | EXTRA),
        2 => Just(SCALAR | VECTOR),
        4 => Just(SCALAR | VECTOR | EXTRA),
    ];
    let narrow = prop_oneof![Just(Narrow::Undefined), Just(Narrow::Zeroes)];
    (units, narrow).prop_map(|(units, narrow)| Limit { units, narrow })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => prop::sample::select(vec![SCALAR, VECTOR, EXTRA]).prop_map(Op::Read),
        5 => (0..MAIN_REGS).prop_map(Op::Scalar),
        4 => (0..MAIN_REGS).prop_map(Op::Vector),
        1 => prop::sample::select(vec![0, TWIST]).prop_map(Op::Mode),
        2 => (0..2usize).prop_map(Op::Extra),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let (cpu, nth) = (0..CPUS, 0..MAX_GUESTS);
    let after = prop_oneof![3 => Just(After::Retry), 1 => Just(After::Later)];
    prop_oneof![
        8 => (cpu.clone(), nth.clone()).prop_map(|(cpu, nth)| Action::Begin { cpu, nth }),
        16 => (cpu.clone(), any_op(), after).prop_map(|(cpu, op, after)| Action::Guest { cpu, op, after }),
        3 => cpu.clone().prop_map(|cpu| Action::Leave { cpu }),
        3 => (nth.clone(), cpu.clone()).prop_map(|(nth, to)| Action::Move { nth, to }),
        1 => (nth.clone(), any_limit()).prop_map(|(nth, limit)| Action::Stop { nth, limit }),
        1 => nth.clone().prop_map(|nth| Action::Reset { nth }),
        1 => cpu.prop_map(|cpu| Action::PowerDown { cpu }),
        3 => (nth, any_policy()).prop_map(|(nth, policy)| Action::SetPolicy { nth, policy }),
    ]
}

fn wide_world() -> impl Strategy<Value = Script> {
    let guests = prop::collection::vec((any_limit(), any_policy()), 1..=MAX_GUESTS);
    (guests, prop::collection::vec(any_action(), 0..96))
        .prop_map(|(guests, actions)| Script { guests, actions })
}

/// One guest alone on a CPU, turn by turn, where long coincidences of policy, request and save are common.
fn small_world() -> impl Strategy<Value = Script> {
    let op = prop::sample::select(vec![Op::Scalar(0), Op::Vector(0), Op::Read(VECTOR)]);
    let after = prop_oneof![1 => Just(After::Retry), 2 => Just(After::Later)];
    let guest = (op, after).prop_map(|(op, after)| Action::Guest { cpu: 0, op, after });
    let policy = prop::sample::select(vec![Policy::Lazy, Policy::Hold]);
    let start = policy.prop_map(|policy| Action::SetPolicy { nth: 0, policy });
    let end = prop_oneof![3 => Just(Action::Leave { cpu: 0 }), 1 => Just(Action::PowerDown { cpu: 0 })];
    let turn = (start, prop::collection::vec(guest, 1..=2), end).prop_map(|(start, mut turn, end)| {
        turn.splice(0..0, [start, Action::Begin { cpu: 0, nth: 0 }]);
        turn.push(end);
        turn
    });
    let limit = prop_oneof![any_limit(), Just(Limit { units: SCALAR | VECTOR, narrow: Narrow::Zeroes })];
    (limit, any_policy(), prop::collection::vec(turn, 0..16))
        .prop_map(|(limit, policy, turns)| Script { guests: vec![(limit, policy)], actions: turns.concat() })
}

fn any_script() -> impl Strategy<Value = Script> {
    prop_oneof![3 => wide_world(), 1 => small_world()]
}

/// The same, with the auditor switched on and off in between.
fn audited_script() -> impl Strategy<Value = Script> {
    (any_script(), prop::collection::vec((0..96usize, any::<bool>()), 0..4)).prop_map(
        |(mut script, switches)| {
            for (at, on) in switches {
                let at = at.min(script.actions.len());
                script.actions.insert(at, Action::Audit { on });
            }
            script
        },
    )
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn registers_are_private_and_durable_and_the_ledger_is_true(script in audited_script()) {
        if let Err(wrong) = play::<Sound>(&script) {
            prop_assert!(false, "{wrong}");
        }
    }

    /// With one FP user per CPU nothing moves after the first use, however often others run.
    #[test]
    fn hold_with_one_user_moves_nothing_after_the_first_load(turns in prop::collection::vec((0..3usize, any_op()), 1..64)) {
        let limit = Limit { units: SCALAR, narrow: Narrow::Undefined };
        let mut world = World::<Sound>::new(&[limit; 3], &[Policy::Hold; 3]);
        (1..3).for_each(|who| world.move_to(who, 0));
        for (nth, op) in turns {
            world.begin(0, nth);
            match world.running[0] {
                Some(0) => world.guest(0, op, After::Retry).map_err(TestCaseError::fail)?,
                _ => world.enter(0),
            }
        }
        world.leave(0);
        let tally = world.units[0].ledger().tally();
        prop_assert!(tally.loads <= 1);
        prop_assert_eq!(tally.saves(), 0);
        prop_assert_eq!(tally.skips + tally.loads, tally.saves_avoided);
    }

    /// Where there is one width and the CPU keeps its registers, a lazier policy never loads or saves more for the
    /// same guests doing the same things.
    #[test]
    fn policies_move_less_and_less(script in wide_world()) {
        let [lazy, resident, hold] = [Policy::Lazy, Policy::Resident, Policy::Hold].map(|policy| {
            let mut script = script.clone();
            let narrow = Limit { units: SCALAR, narrow: Narrow::Undefined };
            script.guests.iter_mut().for_each(|guest| *guest = (narrow, policy));
            script.actions.retain_mut(|action| match action {
                // A guest that is not interrupted between trap and load does the same under all policies.
                Action::Guest { after, .. } => {
                    *after = After::Retry;
                    true
                }
                Action::SetPolicy { .. } | Action::PowerDown { .. } | Action::Stop { .. } => false,
                _ => true,
            });
            script.actions.retain(|action| !matches!(action, Action::Guest { op: Op::Mode(_), .. }));
            let world = play::<Sound>(&script).unwrap_or_else(|wrong| panic!("{wrong}"));
            world.files.iter().fold((0, 0), |sum, file| (sum.0 + file.loads, sum.1 + file.saves))
        });
        prop_assert!(lazy.0 >= resident.0 && resident.0 >= hold.0, "loads {lazy:?} {resident:?} {hold:?}");
        prop_assert!(resident.1 >= hold.1, "saves {resident:?} {hold:?}");
    }
}

/// One CPU, the auditor on, and guests under `hold` that each have used all their units once.
fn audited<R: Rules>(guests: usize) -> World<R> {
    let mut world = World::<R>::new(&vec![Limit::default(); guests], &vec![Policy::Hold; guests]);
    (1..guests).for_each(|who| world.move_to(who, 0));
    for nth in 0..guests {
        world.begin(0, nth);
        for unit in Limit::default().units.iter_bits() {
            world.guest(0, Op::Read(unit), After::Retry).expect("a new guest sees zeroes");
        }
    }
    world
}

#[test]
fn the_auditor_finds_a_gate_that_is_not_where_it_was_put() {
    let mut world = audited::<Sound>(1);
    let all = SCALAR | VECTOR | EXTRA;
    assert_eq!(world.units[0].audit(&world.files[0]), Ok(()));
    Regs::conceal(&mut world.files[0]);
    let breach = Breach::Exposure { hardware: Units::empty(), believed: all };
    assert_eq!(world.units[0].audit(&world.files[0]), Err(breach));
}

#[test]
fn the_auditor_finds_registers_whose_owner_is_elsewhere() {
    let mut world = audited::<Without<{ Rule::Rehome as u8 }>>(2);
    // Both leave, and the one whose values are still here comes back to the place the other had.
    world.move_to(1, 1);
    world.move_to(0, 1);
    world.move_to(1, 0);
    world.begin(0, 0);
    world.enter(0);
    assert_eq!(world.units[0].audit(&world.files[0]), Err(Breach::Homeless(VcpuId(1))));
}

#[test]
fn the_auditor_paints_registers_that_hold_nothing() {
    let limit = Limit { units: SCALAR, narrow: Narrow::Undefined };
    let mut world = World::<Sound>::new(&[limit], &[Policy::Lazy]);
    world.audit.enable();
    world.begin(0, 0);
    world.enter(0);
    assert!(world.files[0].bears(0xfee1) && world.files[0].open().is_empty());
    assert_eq!(world.guest(0, Op::Read(SCALAR), After::Retry), Ok(()));
}

/// Follows all rules but one.
struct Without<const RULE: u8>;

impl<const RULE: u8> Rules for Without<RULE> {
    fn keeps(rule: Rule) -> bool {
        rule as u8 != RULE
    }
}

/// How many scripts a mutant may survive.
const PATIENCE: usize = 10_000;

/// Plays scripts until one goes wrong, and tells which.
fn survives<R: Rules>() -> Option<usize> {
    let mut runner = TestRunner::deterministic();
    let scripts = any_script();
    (1..=PATIENCE).find(|_| {
        let script = scripts.new_tree(&mut runner).expect("the strategy rejects nothing").current();
        play::<R>(&script).is_err()
    })
}

macro_rules! mutants {
    ($($name:ident: $rule:ident,)*) => {
        /// Each of these breaks one rule and must be noticed by the guests, by the search for dead guests' values,
        /// or by the ledger's laws. The auditor is off: it must not be needed.
        mod without {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let found = survives::<Without<{ Rule::$rule as u8 }>>();
                    println!("{:?}: noticed after {found:?} scripts", Rule::$rule);
                    assert!(found.is_some(), "{:?} can be broken and nobody notices", Rule::$rule);
                }
            )*

            #[test]
            fn every_rule_is_broken_once() {
                assert_eq!([$(Rule::$rule),*], Rule::ALL);
            }
        }
    };
}

mutants! {
    owner_check: OwnerCheck,
    version_check: VersionCheck,
    renew_stamp: RenewStamp,
    rehome: Rehome,
    save_before_widening: SaveBeforeWidening,
    save_before_eviction: SaveBeforeEviction,
    save_at_leave: SaveAtLeave,
    flush_on_discharge: FlushOnDischarge,
    save_on_flush: SaveOnFlush,
    forget_on_flush: ForgetOnFlush,
    forget_destroyed: ForgetDestroyed,
    wipe_on_dismiss: WipeOnDismiss,
    wipe_on_purge: WipeOnPurge,
    expose_only_valid: ExposeOnlyValid,
    conceal_at_leave: ConcealAtLeave,
    cover_afterwards: CoverAfterwards,
    close_late: CloseLate,
    refuse_absent: RefuseAbsent,
}
