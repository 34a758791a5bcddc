//! The laws of `kernel/tests/fp.rs`, for this architecture's registers on a model of its CPUs.
//!
//! Random scripts play on two CPUs of one kind. Guests look at everything they can see at every step. The mutants leave
//! out one step of a save or a load, or break one rule of the machine.

extern crate std;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::println;

use kernel::addr::{CpuId, VcpuId};
use kernel::fp::rules::{Rule, Rules, Sound};
use kernel::fp::{AuditSwitch, FpContext, FpKey, FpSlot, FpUnit, Ledger, Policy, PolicyCell, Tally, Touch};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::guest::{Mind, Mishap, Op};
use super::model::{Kind, Model, raised};
use crate::fp::*;

const CPUS: usize = 2;
const MAX_GUESTS: usize = 4;

/// When a guest that trapped gets to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// At once.
    Retry,
    /// In a later action; its request waits.
    Later,
}

/// What happens next. Numbers that are too large wrap around.
#[derive(Clone, Debug)]
enum Action {
    Begin { cpu: usize, nth: usize },
    Guest { cpu: usize, op: Op, after: After },
    Leave { cpu: usize },
    Move { nth: usize, to: usize },
    Stop { nth: usize, limit: Units },
    Reset { nth: usize },
    PowerDown { cpu: usize },
    SetPolicy { nth: usize, policy: Policy },
    Audit { on: bool },
}

#[derive(Clone, Debug)]
struct Script {
    kind: Kind,
    guests: Vec<(Units, Policy)>,
    actions: Vec<Action>,
}

struct Guest {
    id: VcpuId,
    cpu: usize,
    key: FpKey,
    mind: Mind,
    policy: Arc<PolicyCell>,
}

struct World<S: Steps, R: Rules> {
    kind: Kind,
    files: [File<Model>; CPUS],
    units: [FpUnit<Fp<Model, S>, R>; CPUS],
    running: [Option<usize>; CPUS],
    guests: Vec<Guest>,
    ledgers: Vec<Arc<Ledger>>,
    audit: Arc<AuditSwitch>,
    tags: u16,
}

impl<S: Steps, R: Rules> World<S, R> {
    fn new(script: &Script) -> Self {
        let audit = Arc::new(AuditSwitch::off());
        let mut world = Self {
            kind: script.kind,
            files: core::array::from_fn(|n| {
                File::new(Model::new(script.kind, n as u64 + 2), script.kind.present)
            }),
            units: core::array::from_fn(|n| FpUnit::new(CpuId(n), Arc::clone(&audit))),
            running: [None; CPUS],
            guests: Vec::new(),
            ledgers: Vec::new(),
            audit,
            tags: 0,
        };
        for (n, &(limit, policy)) in script.guests.iter().enumerate() {
            let policy = Arc::new(PolicyCell::new(policy));
            let guest = world.born(VcpuId(n as u32), n % CPUS, limit, policy);
            world.guests.push(guest);
        }
        world
    }

    fn mind(&mut self, limit: Units) -> Mind {
        self.tags += 1;
        Mind::new(limit, self.tags, &self.files[0].hardware)
    }

    fn born(&mut self, id: VcpuId, cpu: usize, limit: Units, policy: Arc<PolicyCell>) -> Guest {
        let limit = limit & self.kind.present;
        let slot = Box::new(FpSlot::new(id, limit, Arc::clone(&policy)));
        self.ledgers.push(slot.ledger());
        let mind = self.mind(limit);
        Guest { id, cpu, key: self.units[cpu].enroll(slot), mind, policy }
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
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
                self.files[cpu].hardware.lose();
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

    fn guest(&mut self, cpu: usize, op: Op, after: After) -> Result<(), String> {
        let Some(who) = self.running[cpu] else { return Ok(()) };
        for _ in 0..2 {
            self.units[cpu].enter(&mut self.files[cpu]);
            match self.guests[who].mind.attempt(&mut self.files[cpu].hardware, op) {
                Ok(()) => return Ok(()),
                Err(Mishap::Trap(unit)) => {
                    if self.units[cpu].request(unit) == Touch::Absent {
                        let has = self.guests[who].mind.limit.contains(unit);
                        return if has { Err(format!("{unit:?} refused to {who}")) } else { Ok(()) };
                    }
                    if after == After::Later {
                        return Ok(());
                    }
                }
                Err(Mishap::Wrong(what)) => {
                    return Err(format!("guest {who} on CPU {cpu}, {op:x?}: {what}"));
                }
            }
        }
        Err(format!("guest {who} on CPU {cpu} trapped twice doing {op:?}"))
    }

    fn take_off(&mut self, who: usize) {
        for running in self.running.iter_mut().filter(|running| **running == Some(who)) {
            *running = None;
        }
    }

    fn move_to(&mut self, who: usize, to: usize) {
        self.take_off(who);
        let Guest { id, cpu, key, mind, policy } = self.guests.swap_remove(who);
        let slot = self.units[cpu].discharge(&mut self.files[cpu], key);
        let key = self.units[to].enroll(slot);
        self.put_back(who, Guest { id, cpu: to, key, mind, policy });
    }

    fn put_back(&mut self, who: usize, guest: Guest) {
        self.guests.push(guest);
        let last = self.guests.len() - 1;
        self.guests.swap(who, last);
    }

    fn stop(&mut self, who: usize, limit: Units) -> Result<(), String> {
        self.take_off(who);
        let Guest { id, cpu, key, mind, policy } = self.guests.swap_remove(who);
        self.units[cpu].dismiss(&mut self.files[cpu], key);
        for other in (0..CPUS).filter(|&other| other != cpu) {
            self.units[other].purge(&mut self.files[other], id);
        }
        if let Some(n) = self.files.iter().position(|file| file.hardware.bears(mind.tag)) {
            return Err(format!("registers of CPU {n} outlived guest {who}"));
        }
        let guest = self.born(id, (cpu + 1) % CPUS, limit, policy);
        self.put_back(who, guest);
        Ok(())
    }

    fn reset(&mut self, who: usize) {
        self.take_off(who);
        let mind = self.mind(self.guests[who].mind.limit);
        let guest = &mut self.guests[who];
        self.units[guest.cpu].reset(&mut self.files[guest.cpu], &guest.key);
        guest.mind = mind;
    }

    /// Lets every guest look at all it has.
    fn finish(&mut self) -> Result<(), String> {
        (0..CPUS).for_each(|cpu| self.leave(cpu));
        for who in 0..self.guests.len() {
            let cpu = self.guests[who].cpu;
            self.units[cpu].arrive(&self.guests[who].key);
            self.running[cpu] = Some(who);
            for unit in [FPU, LSX, LASX, LBT] {
                self.guest(cpu, Op::Look(unit), After::Retry)?;
            }
            self.leave(cpu);
        }
        self.check_laws()
    }

    fn check_laws(&self) -> Result<(), String> {
        let law = |name: &str, left: u64, right: u64| {
            if left == right { Ok(()) } else { Err(format!("{name}: {left} is not {right}")) }
        };
        let mut cpus = Tally::default();
        for (unit, file) in self.units.iter().zip(&self.files) {
            let tally = unit.ledger().tally();
            law("loads", tally.loads, file.hardware.moves.0)?;
            law("saves", tally.saves(), file.hardware.moves.1)?;
            law("bytes in", tally.bytes_in, file.hardware.bytes.0)?;
            law("bytes out", tally.bytes_out, file.hardware.bytes.1)?;
            law("loads + skips = exposures", tally.loads + tally.skips, tally.exposures)?;
            cpus = cpus.plus(&tally);
        }
        let sum = |sum: Tally, ledger: &Arc<Ledger>| sum.plus(&ledger.tally());
        let vcpus = self.ledgers.iter().fold(Tally::default(), sum);
        if cpus == vcpus { Ok(()) } else { Err(format!("CPUs and vCPUs disagree: {cpus:?}, {vcpus:?}")) }
    }
}

fn play<S: Steps, R: Rules>(script: &Script) -> Result<World<S, R>, String> {
    let mut world = World::new(script);
    script.actions.iter().try_for_each(|action| world.act(action))?;
    world.finish()?;
    Ok(world)
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let present = prop_oneof![
        6 => Just(VECTORS | LBT),
        2 => Just(VECTORS),
        1 => Just(FPU | LSX | LBT),
        1 => Just(FPU),
    ];
    (present, any::<bool>(), any::<bool>()).prop_map(|(present, refuses, keeps_tm)| Kind {
        present,
        refuses,
        keeps_tm: keeps_tm && present.contains(LBT),
    })
}

fn any_limit() -> impl Strategy<Value = Units> {
    prop_oneof![
        1 => Just(Units::empty()),
        2 => Just(FPU),
        2 => Just(FPU | LBT),
        2 => Just(FPU | LSX),
        3 => Just(VECTORS),
        4 => Just(VECTORS | LBT),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

fn any_fcsr() -> impl Strategy<Value = u32> {
    let plain = prop_oneof![Just(0), Just(fcsr::TM), Just(fcsr::TM | 0x100), Just(0x0005_0300)];
    prop_oneof![4 => plain, 1 => any::<u32>().prop_map(|value| value & 0x1f1f_035f)]
}

fn any_op() -> impl Strategy<Value = Op> {
    let width = prop::sample::select(Width::ALL.to_vec());
    prop_oneof![
        2 => prop::sample::select(vec![FPU, LSX, LASX, LBT]).prop_map(Op::Look),
        8 => (width, 0..REGISTERS).prop_map(|(width, n)| Op::Write(width, n % 10)),
        1 => Just(Op::Fcc),
        2 => any_fcsr().prop_map(Op::Fcsr),
        2 => (0..8u8).prop_map(Op::Top),
        1 => (0..4usize).prop_map(Op::Scr),
        1 => any::<u64>().prop_map(Op::Flags),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let (cpu, nth) = (0..CPUS, 0..MAX_GUESTS);
    let after = prop_oneof![3 => Just(After::Retry), 1 => Just(After::Later)];
    prop_oneof![
        8 => (cpu.clone(), nth.clone()).prop_map(|(cpu, nth)| Action::Begin { cpu, nth }),
        16 => (cpu.clone(), any_op(), after).prop_map(|(cpu, op, after)| Action::Guest { cpu, op, after }),
        3 => cpu.clone().prop_map(|cpu| Action::Leave { cpu }),
        2 => (nth.clone(), cpu.clone()).prop_map(|(nth, to)| Action::Move { nth, to }),
        1 => (nth.clone(), any_limit()).prop_map(|(nth, limit)| Action::Stop { nth, limit }),
        1 => nth.clone().prop_map(|nth| Action::Reset { nth }),
        1 => cpu.prop_map(|cpu| Action::PowerDown { cpu }),
        2 => (nth, any_policy()).prop_map(|(nth, policy)| Action::SetPolicy { nth, policy }),
    ]
}

fn any_script() -> impl Strategy<Value = Script> {
    let guests = prop::collection::vec((any_limit(), any_policy()), 1..=MAX_GUESTS);
    (any_kind(), guests, prop::collection::vec(any_action(), 0..96))
        .prop_map(|(kind, guests, actions)| Script { kind, guests, actions })
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
        if let Err(wrong) = play::<Every, Sound>(&script) {
            prop_assert!(false, "{wrong}");
        }
    }

    /// Whatever it is next to, and whatever its policy.
    #[test]
    fn a_guest_of_scalars_never_moves_more_than_its_256_bytes_and_status(mut script in any_script()) {
        script.guests.iter_mut().skip(1).for_each(|guest| guest.0 = FPU);
        script.actions.retain(|action| !matches!(action, Action::Stop { .. }));
        let world = play::<Every, Sound>(&script).map_err(TestCaseError::fail)?;
        for ledger in world.ledgers.iter().skip(1) {
            let tally = ledger.tally();
            prop_assert_eq!(tally.bytes_in, tally.loads * 264);
            prop_assert_eq!(tally.bytes_out, tally.saves() * 264);
        }
    }

    /// With one user of FP and LBT on a CPU nothing moves after the first use, however often others run.
    #[test]
    fn hold_with_one_user_moves_nothing_after_the_first_loads(turns in prop::collection::vec((0..3usize, any_op()), 1..64)) {
        let guests = vec![(VECTORS | LBT, Policy::Hold); 3];
        let mut world = World::<Every, Sound>::new(&Script { kind: Kind::FULL, guests, actions: Vec::new() });
        (1..3).for_each(|who| world.move_to(who, 0));
        for unit in [LASX, LBT] {
            world.begin(0, 0);
            world.guest(0, Op::Look(unit), After::Retry).map_err(TestCaseError::fail)?;
        }
        let first = world.files[0].hardware.bytes;
        for (nth, op) in turns {
            world.begin(0, nth);
            match world.running[0] {
                Some(0) => world.guest(0, op, After::Retry).map_err(TestCaseError::fail)?,
                _ => world.units[0].enter(&mut world.files[0]),
            }
        }
        prop_assert_eq!(world.files[0].hardware.bytes, first);
        prop_assert_eq!(first, (264 + 40, 0));
    }

    /// A CPU that takes every FCSR gives it back as it was, causes and all.
    #[test]
    fn fcsr_is_put_back_as_it_was_where_the_cpu_takes_it(value in any_fcsr(), refuses: bool) {
        let mut file = File::new(Model::new(Kind { refuses, ..Kind::FULL }, 5), VECTORS | LBT);
        let mut context = Fp::<Model>::new(VECTORS | LBT);
        context.restore(&mut file, FPU);
        file.hardware.fcsr = value;
        context.save(&mut file, FPU);
        context.restore(&mut file, FPU);
        let lost = if refuses { raised(value) << fcsr::CAUSE_SHIFT } else { 0 };
        prop_assert_eq!(file.hardware.fcsr, value & !lost);
        prop_assert_eq!(file.hardware.refusals, usize::from(lost != 0));
    }
}

/// Takes all steps and follows all rules but those.
struct But<const STEP: u8, const RULE: u8>;

/// No step and no rule.
const NONE: u8 = u8::MAX;

impl<const STEP: u8, const RULE: u8> Steps for But<STEP, RULE> {
    fn takes(step: Step) -> bool {
        step as u8 != STEP
    }
}

impl<const STEP: u8, const RULE: u8> Rules for But<STEP, RULE> {
    fn keeps(rule: Rule) -> bool {
        rule as u8 != RULE
    }
}

/// How many scripts a mutant may survive.
const PATIENCE: usize = 10_000;

/// Plays scripts until one goes wrong, and tells which.
fn survives<M: Steps + Rules>() -> Option<usize> {
    let mut runner = TestRunner::deterministic();
    let scripts = any_script();
    (1..=PATIENCE).find(|_| {
        let script = scripts.new_tree(&mut runner).expect("the strategy rejects nothing").current();
        // An instruction that traps in the hypervisor is a panic of the model.
        catch_unwind(AssertUnwindSafe(|| play::<M, M>(&script).is_err())).unwrap_or(true)
    })
}

macro_rules! mutants {
    ($module:ident, $kind:ident, $all:expr; $($name:ident: $what:ident => $mutant:ty,)*) => {
        /// Each must be noticed by the guests, by the search for dead guests' values, by the ledger's laws or by the
        /// model. The auditor is off: it must not be needed.
        mod $module {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let found = survives::<$mutant>();
                    println!("{:?}: noticed after {found:?} scripts", $kind::$what);
                    assert!(found.is_some(), "{:?} can be broken and nobody notices", $kind::$what);
                }
            )*

            #[test]
            fn every_one_is_broken_once() {
                let all: Vec<$kind> = $all.collect();
                assert_eq!(vec![$($kind::$what),*], all);
            }
        }
    };
}

macro_rules! without_step {
    ($($name:ident: $step:ident,)*) => {
        mutants! { without_step, Step, Step::ALL.into_iter(); $($name: $step => But<{ Step::$step as u8 }, NONE>,)* }
    };
}

macro_rules! without_rule {
    ($($name:ident: $rule:ident,)*) => {
        // What a load needs does not depend on the form of an image here, so `CloseLate` makes no difference.
        mutants! {
            without_rule, Rule, Rule::ALL.into_iter().filter(|rule| *rule != Rule::CloseLate);
            $($name: $rule => But<NONE, { Rule::$rule as u8 }>,)*
        }
    };
}

without_step! {
    untwist_to_save: UntwistToSave,
    untwist_to_load: UntwistToLoad,
    keep_top: KeepTop,
    status_last: StatusLast,
    own_up: OwnUp,
    keep_form: KeepForm,
    zero_above: ZeroAbove,
    gate_lbt: GateLbt,
    open_for_top: OpenForTop,
    lbt_needs_fpu: LbtNeedsFpu,
}

without_rule! {
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
    refuse_absent: RefuseAbsent,
}
