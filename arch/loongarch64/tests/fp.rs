//! The laws of the FP machine on FPU, LSX, LASX and LBT; each of its rules and each step of a save or a load needed.

#[path = "fp/guest.rs"]
mod guest;
#[path = "../../../kernel/tests/laws/mod.rs"]
mod laws;
#[path = "fp/model.rs"]
mod model;

use arch_loongarch64::fp::{FPU, FpRegs};
use arch_loongarch64::fp::{File, Fp, LASX, LBT, LSX, REGISTERS, Step, VECTORS, Width, fcsr};
use guest::{Mind, Op};
use kernel::fp::rules::{Rule, Sound, Switch, Without};
use kernel::fp::{FpContext, Policy, Units};
use laws::{Action, After, Mishap, Moved, Subject, audited_script, config, mutants, play, steps, wide_world};
use model::{Kind, Model, raised};
use proptest::prelude::*;

/// CPUs that the laws are played on.
const KINDS: [Kind; 6] = [
    Kind::FULL,
    Kind { refuses: true, ..Kind::FULL },
    Kind { keeps_tm: true, ..Kind::FULL },
    Kind { present: VECTORS, ..Kind::FULL },
    Kind { present: FPU.union(LSX).union(LBT), ..Kind::FULL },
    Kind { present: FPU, ..Kind::FULL },
];
/// One with everything.
const FULL: usize = 0;
/// One without LBT.
const PLAIN: usize = 3;

/// No step.
const NONE: u8 = u8::MAX;

/// CPUs of one kind, with a context that leaves out one step.
#[derive(Clone, Debug)]
struct Loong<const KIND: usize, const STEP: u8 = NONE>;

type Full = Loong<FULL>;
type World = laws::World<Full, Sound>;

impl<const KIND: usize, const STEP: u8> Subject for Loong<KIND, STEP> {
    type Context = Fp<Model, Without<STEP>>;
    type Mind = Mind;
    type Op = Op;

    const UNITS: &'static [Units] = &[FPU, LSX, LASX, LBT];

    fn file(cpu: usize) -> File<Model> {
        File::new(Model::new(KINDS[KIND], cpu as u64 + 2), KINDS[KIND].present)
    }

    fn lose(file: &mut File<Model>) {
        file.hardware_mut().lose();
    }

    fn bears(file: &File<Model>, tag: u16) -> bool {
        file.hardware().bears(tag)
    }

    fn open(file: &File<Model>) -> Units {
        file.hardware().open()
    }

    fn moved(file: &File<Model>) -> Moved {
        let Model { loads, saves, bytes_in, bytes_out, .. } = *file.hardware();
        Moved { loads, saves, bytes_in, bytes_out }
    }

    fn mind(limit: Units, tag: u16) -> Mind {
        Mind::new(limit, tag, KINDS[KIND])
    }

    fn attempt(mind: &mut Mind, file: &mut File<Model>, op: Op) -> Result<(), Mishap> {
        mind.attempt(file.hardware_mut(), op)
    }

    fn rewind(mind: &mut Mind, past: &Mind) {
        mind.rewind(past);
    }

    fn read(unit: Units) -> Op {
        Op::Look(unit)
    }

    fn units(limit: Units) -> Units {
        limit
    }

    fn any_limit() -> BoxedStrategy<Units> {
        let limit = prop_oneof![
            1 => Just(Units::empty()),
            2 => Just(FPU),
            2 => Just(FPU | LBT),
            2 => Just(FPU | LSX),
            3 => Just(VECTORS),
            4 => Just(VECTORS | LBT),
        ];
        limit.prop_map(|limit| limit & KINDS[KIND].present).boxed()
    }

    fn any_op() -> BoxedStrategy<Op> {
        let width = prop::sample::select(Width::ALL.to_vec());
        // F0 to F7 may be renamed, some of the others stand for all.
        let number = prop_oneof![8 => 0..8usize, 1 => 8..REGISTERS];
        prop_oneof![
            2 => prop::sample::select(vec![FPU, LSX, LASX, LBT]).prop_map(Op::Look),
            8 => (width, number).prop_map(|(width, number)| Op::Write(width, number)),
            1 => Just(Op::Fcc),
            2 => any_fcsr().prop_map(Op::Fcsr),
            2 => (0..8u8).prop_map(Op::Top),
            1 => (0..4usize).prop_map(Op::Scr),
            1 => any::<u64>().prop_map(Op::Flags),
        ]
        .boxed()
    }

    fn few_ops() -> Vec<Op> {
        vec![
            Op::Write(Width::Fpu, 0),
            Op::Write(Width::Lasx, 0),
            Op::Look(LASX),
            Op::Fcsr(fcsr::TM),
            Op::Top(3),
        ]
    }

    fn narrow_limit() -> Units {
        VECTORS & KINDS[KIND].present
    }
}

fn any_fcsr() -> impl Strategy<Value = u32> {
    let plain = prop_oneof![Just(0), Just(fcsr::TM), Just(fcsr::TM | 0x100), Just(0x0005_0300)];
    prop_oneof![4 => plain, 1 => any::<u32>().prop_map(|value| value & 0x1f1f_035f)]
}

fn holds<const KIND: usize>(script: &laws::Script<Loong<KIND>>) -> Result<(), TestCaseError> {
    play::<Loong<KIND>, Sound>(script).map(|_| ()).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn registers_are_private_and_durable_and_the_ledger_is_true(script in audited_script::<Full>()) {
        holds(&script)?;
    }

    #[test]
    fn they_are_where_the_cpu_refuses_an_fcsr_with_a_cause_that_is_enabled(script in audited_script::<Loong<1>>()) {
        holds(&script)?;
    }

    #[test]
    fn they_are_where_a_write_of_fcsr_does_not_clear_tm(script in audited_script::<Loong<2>>()) {
        holds(&script)?;
    }

    #[test]
    fn they_are_without_lbt(script in audited_script::<Loong<PLAIN>>()) {
        holds(&script)?;
    }

    #[test]
    fn they_are_without_lasx(script in audited_script::<Loong<4>>()) {
        holds(&script)?;
    }

    #[test]
    fn they_are_without_vectors(script in audited_script::<Loong<5>>()) {
        holds(&script)?;
    }

    /// Whatever runs beside it, and whatever its policy.
    #[test]
    fn a_guest_of_scalars_never_moves_more_than_its_256_bytes_and_status(mut script in wide_world::<Full>()) {
        script.guests.iter_mut().skip(1).for_each(|guest| guest.0 = FPU);
        script.actions.retain(|action| !matches!(action, Action::Stop { .. }));
        let world = play::<Full, Sound>(&script).map_err(TestCaseError::fail)?;
        for tally in world.ledgers.iter().skip(1).map(|ledger| ledger.tally()) {
            prop_assert_eq!(tally.bytes_in, tally.loads * 264);
            prop_assert_eq!(tally.bytes_out, tally.saves() * 264);
        }
    }

    /// With one user of both groups on a CPU nothing moves after the first use, however often others run.
    #[test]
    fn hold_with_one_user_moves_nothing_after_the_first_loads(
        turns in prop::collection::vec((0..3usize, Full::any_op()), 1..64),
    ) {
        let mut world = World::new(&[(VECTORS | LBT, Policy::Hold); 3]);
        (1..3).for_each(|who| world.move_to(who, 0));
        for unit in [LASX, LBT] {
            world.begin(0, 0);
            world.guest(0, Op::Look(unit), After::Retry).map_err(TestCaseError::fail)?;
        }
        for (nth, op) in turns {
            world.begin(0, nth);
            match world.running[0] {
                Some(0) => world.guest(0, op, After::Retry).map_err(TestCaseError::fail)?,
                _ => world.enter(0),
            }
        }
        let moved = Full::moved(&world.files[0]);
        prop_assert_eq!(moved, Moved { loads: 2, saves: 0, bytes_in: 264 + 40, bytes_out: 0 });
    }

    #[test]
    fn fcsr_is_put_back_as_it_was_where_the_cpu_takes_it(value in any_fcsr(), refuses: bool) {
        let mut file = File::new(Model::new(Kind { refuses, ..Kind::FULL }, 5), VECTORS | LBT);
        let mut context = Fp::<Model>::new(VECTORS | LBT);
        context.restore(&mut file, FPU);
        file.hardware_mut().fcsr = value;
        context.save(&mut file, FPU);
        context.restore(&mut file, FPU);
        let lost = if refuses { raised(value) << fcsr::CAUSE_SHIFT } else { 0 };
        prop_assert_eq!(file.hardware_mut().fcsr(), value & !lost);
        prop_assert_eq!(file.hardware().refusals, usize::from(lost != 0));
    }
}

/// A guest whose LBT waited for it, but whose FPU did not, may not need either.
#[test]
fn lbt_that_is_here_waits_for_a_touch_if_the_fpu_has_to_be_loaded() {
    let mut world = World::new(&[(VECTORS | LBT, Policy::Hold), (FPU, Policy::Hold)]);
    world.move_to(1, 0);
    for (nth, unit) in [(0, LBT), (1, FPU)] {
        world.begin(0, nth);
        world.guest(0, Op::Look(unit), After::Retry).expect("a new guest sees zeroes");
    }
    let before = Full::moved(&world.files[0]);
    world.begin(0, 0);
    world.enter(0);
    assert_eq!((Full::moved(&world.files[0]), Full::open(&world.files[0])), (before, Units::empty()));
    world.guest(0, Op::Top(3), After::Retry).expect("it has its own TOP");
    assert_eq!(Full::open(&world.files[0]), FPU | LBT);
    let tally = world.ledgers[0].tally();
    assert_eq!((tally.loads, tally.skips), (3, 1));
}

// What a load needs does not depend on the form of an image.
mutants!(Full, but CloseLate);

steps! {
    untwist_to_save: Loong<FULL, UntwistToSave>;
    untwist_to_load: Loong<FULL, UntwistToLoad>;
    keep_top: Loong<FULL, KeepTop>;
    status_last: Loong<FULL, StatusLast>;
    own_up: Loong<FULL, OwnUp>;
    keep_form: Loong<FULL, KeepForm>;
    zero_above: Loong<FULL, ZeroAbove>;
    gate_lbt: Loong<PLAIN, GateLbt>;
    open_for_top: Loong<FULL, OpenForTop>;
    lbt_needs_fpu: Loong<FULL, LbtNeedsFpu>;
}
