//! The laws of the FP machine, and each of its rules needed, on registers that misbehave as hardware may.

mod laws;

use arch_fake::fp::{self, EXTRA, File, Limit, MAIN_REGS, Mind, Narrow, Op, Regs, SCALAR, TWIST, VECTOR};
use kernel::addr::VcpuId;
use kernel::fp::rules::{Rule, Sound, Switch, Without};
use kernel::fp::{Breach, FpContext, Policy, Units};
use laws::{Action, After, Mishap, Moved, Subject, audited_script, config, mutants, play, wide_world};
use proptest::prelude::*;

/// The pretend registers of `arch/fake`.
#[derive(Clone, Debug)]
struct Fake;

type World<R> = laws::World<Fake, R>;

impl Subject for Fake {
    type Context = Regs;
    type Mind = Mind;
    type Op = Op;

    const UNITS: &'static [Units] = &[SCALAR, VECTOR, EXTRA];

    fn file(cpu: usize) -> File {
        let mut file = File::new(cpu as u64 + 1);
        Regs::conceal(&mut file);
        file
    }

    fn lose(file: &mut File) {
        file.lose();
    }

    fn bears(file: &File, tag: u16) -> bool {
        file.bears(tag)
    }

    fn open(file: &File) -> Units {
        file.open()
    }

    fn moved(file: &File) -> Moved {
        let File { loads, saves, bytes_in, bytes_out, .. } = *file;
        Moved { loads, saves, bytes_in, bytes_out }
    }

    fn mind(limit: Limit, tag: u16) -> Mind {
        Mind::new(limit, tag)
    }

    fn attempt(mind: &mut Mind, file: &mut File, op: Op) -> Result<(), Mishap> {
        mind.attempt(file, op).map_err(|mishap| match mishap {
            fp::Mishap::Trap(unit) => Mishap::Trap(unit),
            other => Mishap::Wrong(format!("{other:x?}")),
        })
    }

    fn rewind(mind: &mut Mind, past: &Mind) {
        mind.rewind(past);
    }

    fn read(unit: Units) -> Op {
        Op::Read(unit)
    }

    fn units(limit: Limit) -> Units {
        limit.units
    }

    fn any_limit() -> BoxedStrategy<Limit> {
        let units = prop_oneof![
            1 => Just(SCALAR),
            1 => Just(SCALAR | EXTRA),
            2 => Just(SCALAR | VECTOR),
            4 => Just(SCALAR | VECTOR | EXTRA),
        ];
        let narrow = prop_oneof![Just(Narrow::Undefined), Just(Narrow::Zeroes)];
        (units, narrow).prop_map(|(units, narrow)| Limit { units, narrow }).boxed()
    }

    fn any_op() -> BoxedStrategy<Op> {
        prop_oneof![
            2 => prop::sample::select(vec![SCALAR, VECTOR, EXTRA]).prop_map(Op::Read),
            5 => (0..MAIN_REGS).prop_map(Op::Scalar),
            4 => (0..MAIN_REGS).prop_map(Op::Vector),
            1 => prop::sample::select(vec![0, TWIST]).prop_map(Op::Mode),
            2 => (0..2usize).prop_map(Op::Extra),
        ]
        .boxed()
    }

    fn few_ops() -> Vec<Op> {
        vec![Op::Scalar(0), Op::Vector(0), Op::Read(VECTOR)]
    }

    fn narrow_limit() -> Limit {
        Limit { units: SCALAR | VECTOR, narrow: Narrow::Zeroes }
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn registers_are_private_and_durable_and_the_ledger_is_true(script in audited_script::<Fake>()) {
        if let Err(wrong) = play::<Fake, Sound>(&script) {
            prop_assert!(false, "{wrong}");
        }
    }

    /// With one FP user per CPU nothing moves after the first use, however often others run.
    #[test]
    fn hold_with_one_user_moves_nothing_after_the_first_load(turns in prop::collection::vec((0..3usize, Fake::any_op()), 1..64)) {
        let limit = Limit { units: SCALAR, narrow: Narrow::Undefined };
        let mut world = World::<Sound>::new(&[(limit, Policy::Hold); 3]);
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
    fn policies_move_less_and_less(script in wide_world::<Fake>()) {
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
                // What is put back while its guest runs has to be loaded under those policies that exposed it.
                Action::Take { .. } | Action::PutBack { .. } => false,
                _ => true,
            });
            script.actions.retain(|action| !matches!(action, Action::Guest { op: Op::Mode(_), .. }));
            let world = play::<Fake, Sound>(&script).unwrap_or_else(|wrong| panic!("{wrong}"));
            world.files.iter().fold((0, 0), |sum, file| (sum.0 + file.loads, sum.1 + file.saves))
        });
        prop_assert!(lazy.0 >= resident.0 && resident.0 >= hold.0, "loads {lazy:?} {resident:?} {hold:?}");
        prop_assert!(resident.1 >= hold.1, "saves {resident:?} {hold:?}");
    }
}

/// One CPU, the auditor on, and guests under `hold` that each have used all their units once.
fn audited<R: kernel::fp::rules::Rules>(guests: usize) -> World<R> {
    let mut world = World::<R>::new(&vec![(Limit::default(), Policy::Hold); guests]);
    (1..guests).for_each(|who| world.move_to(who, 0));
    for nth in 0..guests {
        world.begin(0, nth);
        for unit in [SCALAR, VECTOR, EXTRA] {
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
    let mut world = World::<Sound>::new(&[(limit, Policy::Lazy)]);
    world.audit.enable();
    world.begin(0, 0);
    world.enter(0);
    assert!(world.files[0].bears(0xfee1) && world.files[0].open().is_empty());
    assert_eq!(world.guest(0, Op::Read(SCALAR), After::Retry), Ok(()));
}

mutants!(Fake);
