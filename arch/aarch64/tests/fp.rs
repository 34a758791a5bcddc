//! The laws of the FP machine on SIMD and SVE: guests with vectors of different lengths, and without, share CPUs.

#[path = "../../../kernel/tests/laws/mod.rs"]
mod laws;
#[path = "fp/model.rs"]
mod model;

use arch_aarch64::fp::{File, Form, Length, Lengths, Present, SIMD, SVE, Step, Vectors};
use kernel::fp::rules::{Rule, Sound, Switch, Without};
use kernel::fp::{FpContext, Policy, Units};
use laws::{After, Mishap, Moved, Subject, audited_script, config, mutants, play, steps};
use model::{Flaw, Mind, Model, Op};
use proptest::prelude::*;

/// No step.
const NONE: u8 = u8::MAX;

/// A CPU with SVE, whether it is broken, and a context that leaves out one step.
#[derive(Clone, Debug)]
struct Arm<const FLAW: u8, const STEP: u8 = NONE>;

/// No flaw.
const SANE: u8 = Flaw::None as u8;

type Sane = Arm<SANE>;
type World = laws::World<Sane, Sound>;

/// The vector lengths of all CPUs: not every multiple, as on most hardware.
fn lengths() -> Lengths {
    [128, 256, 512, 2048].into_iter().filter_map(Length::from_bits).collect()
}

/// Those of a guest whose longest vectors have so many bits.
fn up_to(bits: u64) -> Lengths {
    Length::from_bits(bits).map_or(Lengths::NONE, |longest| lengths().up_to(longest))
}

const FLAWS: [Flaw; 5] = [Flaw::None, Flaw::Predicates, Flaw::Ffr, Flaw::Flood, Flaw::Upper];

impl<const FLAW: u8, const STEP: u8> Subject for Arm<FLAW, STEP> {
    type Context = Vectors<Model, Without<STEP>>;
    type Mind = Mind;
    type Op = Op;

    const UNITS: &'static [Units] = &[SIMD, SVE];

    fn file(cpu: usize) -> File<Model> {
        let file = File::new(Model::new(lengths(), cpu as u64 + 1, FLAWS[FLAW as usize]), Present::SVE);
        file.hardware().state_mut().moved = Moved::default();
        file
    }

    fn lose(file: &mut File<Model>) {
        file.hardware().state_mut().lose();
    }

    fn bears(file: &File<Model>, tag: u16) -> bool {
        file.hardware().state().bears(tag)
    }

    fn open(file: &File<Model>) -> Units {
        file.hardware().state().open()
    }

    fn moved(file: &File<Model>) -> Moved {
        file.hardware().state().moved
    }

    fn mind(limit: Lengths, tag: u16) -> Mind {
        Mind::new(limit.longest(), lengths(), tag)
    }

    fn attempt(mind: &mut Mind, file: &mut File<Model>, op: Op) -> Result<(), Mishap> {
        mind.attempt(&mut file.hardware().state_mut(), op)
    }

    fn rewind(mind: &mut Mind, past: &Mind) {
        mind.rewind(past);
    }

    fn read(unit: Units) -> Op {
        Op::Read(unit)
    }

    fn units(limit: Lengths) -> Units {
        if limit == Lengths::NONE { SIMD } else { SIMD | SVE }
    }

    fn any_limit() -> BoxedStrategy<Lengths> {
        let some = prop::sample::select(lengths().iter().collect::<Vec<_>>());
        prop_oneof![1 => Just(Lengths::NONE), 3 => some.prop_map(|longest| lengths().up_to(longest))].boxed()
    }

    fn any_op() -> BoxedStrategy<Op> {
        prop_oneof![
            2 => prop::sample::select(vec![SIMD, SVE]).prop_map(Op::Read),
            6 => (0..32usize).prop_map(Op::V),
            1 => Just(Op::Controls),
            4 => (0..32usize).prop_map(Op::Z),
            2 => (0..16usize).prop_map(Op::P),
            1 => (0..=16u32).prop_map(Op::Ffr),
            3 => (0..16u64).prop_map(Op::Zcr),
            2 => Just(Op::Clear),
        ]
        .boxed()
    }

    fn few_ops() -> Vec<Op> {
        vec![Op::V(0), Op::Z(0), Op::Read(SVE), Op::Zcr(15)]
    }

    fn narrow_limit() -> Lengths {
        up_to(256)
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn registers_are_private_and_durable_and_the_ledger_is_true(script in audited_script::<Sane>()) {
        if let Err(wrong) = play::<Sane, Sound>(&script) {
            prop_assert!(false, "{wrong}");
        }
    }

    /// A guest that was given SVE and does not use it moves 528 bytes each time, as if it had not been given it.
    #[test]
    fn who_does_not_use_sve_pays_for_simd_only(
        turns in prop::collection::vec((0..3usize, 0..32usize), 1..64),
        policy in prop::sample::select(vec![Policy::Lazy, Policy::Resident, Policy::Hold]),
    ) {
        let mut world = World::new(&[(lengths(), policy); 3]);
        (1..3).for_each(|who| world.move_to(who, 0));
        for (nth, register) in turns {
            world.begin(0, nth);
            world.guest(0, Op::V(register), After::Retry).map_err(TestCaseError::fail)?;
        }
        world.leave(0);
        let tally = world.units[0].ledger().tally();
        prop_assert_eq!(tally.bytes_in, tally.loads * 528);
        prop_assert_eq!(tally.bytes_out, tally.saves() * 528);
        prop_assert_eq!(tally.traps[1], 0);
    }

    /// Whoever runs in between, without FP: nothing of the resident is lost or moved, not even of one with the longest
    /// vectors among neighbours with shorter ones.
    #[test]
    fn a_resident_keeps_its_length_whoever_runs_in_between(
        turns in prop::collection::vec((0..4usize, 0..32usize), 1..64),
        limits in prop::collection::vec(Sane::any_limit(), 3),
    ) {
        let guests: Vec<_> = [lengths()].into_iter().chain(limits).map(|limit| (limit, Policy::Hold)).collect();
        let mut world = World::new(&guests);
        (1..4).for_each(|who| world.move_to(who, 0));
        world.begin(0, 0);
        world.guest(0, Op::Zcr(15), After::Retry).map_err(TestCaseError::fail)?;
        for (nth, register) in turns {
            world.begin(0, nth);
            world.enter(0);
            world.files[0].hardware().state_mut().eret();
            if world.running[0] == Some(0) {
                world.guest(0, Op::Z(register), After::Retry).map_err(TestCaseError::fail)?;
            }
        }
        world.leave(0);
        let tally = world.units[0].ledger().tally();
        prop_assert_eq!((tally.loads, tally.saves()), (1, 0));
    }
}

/// One guest on one CPU under `policy`, and a second one whose turns evict it.
fn pair(policy: Policy) -> World {
    let mut world = World::new(&[(up_to(512), policy), (Lengths::NONE, policy)]);
    world.move_to(1, 0);
    world
}

fn turn(world: &mut World, nth: usize, ops: &[Op]) {
    world.begin(0, nth);
    ops.iter().for_each(|op| world.guest(0, *op, After::Retry).unwrap());
    world.leave(0);
}

#[test]
fn a_guest_that_once_asked_for_its_length_goes_back_to_simd() {
    let mut world = pair(Policy::Lazy);
    turn(&mut world, 0, &[Op::V(1), Op::Zcr(15), Op::Read(SVE)]);
    let before = world.units[0].ledger().tally();
    for _ in 0..4 {
        turn(&mut world, 0, &[Op::V(2)]);
    }
    let tally = world.units[0].ledger().tally();
    assert_eq!((tally.loads - before.loads, tally.bytes_in - before.bytes_in), (4, 4 * 528));
    assert_eq!(tally.bytes_out - before.bytes_out, 4 * 528);
    // What it asked for is still there.
    turn(&mut world, 0, &[Op::Read(SVE)]);
}

#[test]
fn a_guest_that_stops_using_sve_goes_back_to_simd_within_eight_saves() {
    let mut world = pair(Policy::Lazy);
    turn(&mut world, 0, &[Op::Zcr(15), Op::Z(3), Op::P(2), Op::Ffr(5)]);
    turn(&mut world, 0, &[Op::V(2)]);
    turn(&mut world, 0, &[Op::Clear]);
    for _ in 0..8 {
        turn(&mut world, 0, &[Op::V(3)]);
    }
    let before = world.units[0].ledger().tally();
    turn(&mut world, 0, &[Op::V(4)]);
    let tally = world.units[0].ledger().tally();
    assert_eq!((tally.bytes_in - before.bytes_in, tally.bytes_out - before.bytes_out), (528, 528));
    turn(&mut world, 0, &[Op::Read(SIMD), Op::Read(SVE)]);
}

#[test]
fn widening_keeps_what_was_written_and_shows_nobody_elses() {
    let mut world = pair(Policy::Hold);
    turn(&mut world, 0, &[Op::Zcr(15), Op::Z(3), Op::P(2), Op::Clear]);
    turn(&mut world, 1, &[Op::V(3), Op::V(31)]);
    // Back in SIMD form, over the remains of others; then SVE in the same turn.
    turn(&mut world, 0, &[Op::V(5), Op::Read(SVE), Op::Z(7)]);
    let tally = world.units[0].ledger().tally();
    assert_eq!((tally.widenings, tally.widening_saves), (1, 1));
    turn(&mut world, 1, &[Op::Read(SIMD)]);
    turn(&mut world, 0, &[Op::Read(SVE)]);
}

#[test]
fn an_image_is_as_long_as_its_guest_may_use() {
    for length in lengths().iter() {
        let limit = lengths().up_to(length);
        let image = <Vectors<Model>>::new(limit);
        let (registers, _) = image.scalable().unwrap();
        assert_eq!((image.form(), registers.length(), image.limit()), (Form::Simd, length, limit));
        assert_eq!(registers.words().len(), (34 * length.bytes() + length.bytes() / 8).div_ceil(16));
    }
    assert_eq!(<Vectors<Model>>::new(Lengths::NONE).scalable(), None);
}

/// A dead guest's values beyond the reach of the one that has the registers are wiped, too.
#[test]
fn remains_beyond_the_length_of_the_resident_are_wiped() {
    let limits = [2048, 128].map(|bits| (up_to(bits), Policy::Hold));
    for _ in 0..16 {
        let mut world = World::new(&limits);
        world.move_to(1, 0);
        turn(&mut world, 0, &[Op::Zcr(15), Op::Z(9)]);
        turn(&mut world, 1, &[Op::Z(9)]);
        world.stop(0, Lengths::NONE).unwrap();
        turn(&mut world, 0, &[Op::Read(SVE)]);
    }
}

/// Each part of the state is looked at by somebody: a CPU that loses it is found out.
#[test]
fn a_cpu_that_loses_a_part_is_noticed() {
    fn noticed<const FLAW: u8>() -> Option<usize> {
        laws::survives::<Arm<FLAW>, Sound>()
    }
    assert!(noticed::<{ Flaw::Predicates as u8 }>().is_some());
    assert!(noticed::<{ Flaw::Ffr as u8 }>().is_some());
    assert!(noticed::<{ Flaw::Flood as u8 }>().is_some());
    assert!(noticed::<{ Flaw::Upper as u8 }>().is_some());
}

// On this architecture no save destroys what it saves.
mutants!(Sane, but ForgetDestroyed);

steps! {
    keep_length: Arm<SANE, KeepLength>;
    length_before_load: Arm<SANE, LengthBeforeLoad>;
    load_zcr: Arm<SANE, LoadZcr>;
    zero_beyond: Arm<SANE, ZeroBeyond>;
    whole_form: Arm<SANE, WholeForm>;
}
