//! Mutants: each rule of the machine and each step of an architecture is switched off, and somebody has to notice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernel::fp::Policy;
use kernel::fp::rules::{Rules, Switch};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{After, Guest, Subject, World, any_script, play};

/// How many scripts a mutant may survive.
const PATIENCE: usize = 10_000;

/// Plays scripts until one goes wrong, and tells which.
pub(crate) fn survives<S: Subject, R: Rules>() -> Option<usize> {
    let mut runner = TestRunner::deterministic();
    let scripts = any_script::<S>();
    (1..=PATIENCE).find(|_| {
        let script = scripts.new_tree(&mut runner).expect("the strategy rejects nothing").current();
        // A model of registers may panic where a CPU would trap or a machine fail.
        catch_unwind(AssertUnwindSafe(|| play::<S, R>(&script).is_err())).unwrap_or(true)
    })
}

/// Demands that somebody notices when `S` is played by rules `R`, without `broken`; says when it was, for
/// `cargo xtask test --mutants`.
pub(crate) fn demand<S: Subject, R: Rules>(broken: impl Switch) {
    let found = survives::<S, R>();
    match found {
        Some(scripts) => println!("without {broken:?}: noticed after {scripts} scripts"),
        None => println!("without {broken:?}: survived"),
    }
    assert!(found.is_some(), "{broken:?} can be switched off and nobody notices");
}

/// Tells whether the auditor, and the machine under rules `R`, let a vCPU end that used what it has.
pub(crate) fn dies_quietly<S: Subject, R: Rules>() -> bool {
    let mut world = World::<S, R>::new(&[(S::narrow_limit(), Policy::Hold)]);
    world.audit.enable();
    world.begin(0, 0);
    for op in S::few_ops() {
        world.guest(0, op, After::Retry).expect("it is alone");
    }
    let Guest { key, .. } = world.guests.swap_remove(0);
    catch_unwind(AssertUnwindSafe(|| world.units[0].dismiss(&mut world.files[0], key))).is_ok()
}

/// Breaks each rule in turn on a [`Subject`]; each must be noticed by the guests, by the search for dead guests' values,
/// or by the ledger's laws. The auditor is off: it must not be needed. The exceptions make no difference on its registers.
macro_rules! mutants {
    ($subject:ty $(, but $exception:ident)*) => {
        mutants! {
            @ $subject, [$(Rule::$exception),*],
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
            save_before_snapshot: SaveBeforeSnapshot,
            reexpose_afterwards: ReexposeAfterwards,
            abandon_on_replace: AbandonOnReplace,
            restamp_on_replace: RestampOnReplace,
        }
    };
    (@ $subject:ty, $exceptions:expr, $($name:ident: $rule:ident,)*) => {
        mod without {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let exceptions: &[Rule] = &$exceptions;
                    if !exceptions.contains(&Rule::$rule) {
                        laws::demand::<$subject, Without<{ Rule::$rule as u8 }>>(Rule::$rule);
                    }
                }
            )*

            #[test]
            fn the_auditor_finds_what_is_left_of_the_dead() {
                assert!(laws::dies_quietly::<$subject, Sound>());
                assert!(!laws::dies_quietly::<$subject, Without<{ Rule::WipeOnDismiss as u8 }>>());
            }

            #[test]
            fn every_rule_is_broken_once() {
                assert_eq!([$(Rule::$rule),*], *Rule::ALL);
            }
        }
    };
}

/// Leaves out each step of an architecture in turn, on the subject whose registers show it. The step's number is the
/// subject's second parameter.
#[allow(unused_macros, reason = "not every subject's registers belong to an architecture")]
macro_rules! steps {
    ($($name:ident: $subject:ident<$kind:ident, $step:ident>;)*) => {
        mod without_step {
            use super::*;
            $(
                #[test]
                fn $name() {
                    laws::demand::<$subject<$kind, { Step::$step as u8 }>, Sound>(Step::$step);
                }
            )*

            #[test]
            fn every_step_is_left_out_once() {
                assert_eq!([$(Step::$step),*], *Step::ALL);
            }
        }
    };
}

pub(crate) use mutants;
#[allow(unused_imports, reason = "as above")]
pub(crate) use steps;
