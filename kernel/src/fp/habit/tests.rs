use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const UNITS: Units = Units::from_bits_retain(0b101);

/// Plays one turn after the other; tells for each whether the vCPU was watched.
fn play(habit: &mut Habit, place: Place, uses: impl IntoIterator<Item = bool>) -> Vec<bool> {
    let mut dice = Dice::new(7);
    let turn = |used: bool| {
        let watched = habit.forecast(place) == Forecast::Watch;
        if watched {
            habit.learn(if used { UNITS } else { Units::empty() }, &mut dice);
        }
        watched
    };
    uses.into_iter().map(turn).collect()
}

#[test]
fn a_vcpu_that_always_uses_them_is_seldom_watched() {
    let watched = play(&mut Habit::default(), Place::Memory, [true; 1000]);
    assert_eq!(watched[..4], [true, true, true, false]);
    assert!(watched[200..].iter().filter(|watched| **watched).count() < 30);
}

#[test]
fn a_vcpu_that_never_uses_them_is_always_watched() {
    assert_eq!(play(&mut Habit::default(), Place::Memory, [false; 100]), [true; 100]);
}

#[test]
fn one_use_is_enough_where_exposing_is_cheap() {
    let mut habit = Habit::default();
    assert_eq!(play(&mut habit, Place::Registers, [true, true, false]), [true, false, true]);
    assert_eq!(habit.forecast(Place::Registers), Forecast::Watch);
}

#[test]
fn what_was_used_last_is_expected_and_what_was_asked_for_since() {
    let mut habit = Habit::default();
    play(&mut habit, Place::Memory, [true; 3]);
    assert_eq!(habit.forecast(Place::Memory), Forecast::Use(UNITS));
    habit.widen(Units::from_bits_retain(0b10));
    play(&mut habit, Place::Memory, [true; 1]);
    assert_eq!(habit.units, UNITS);
}

#[test]
fn a_disappointment_doubles_the_bar_and_confirmations_lower_it() {
    let mut habit = Habit::default();
    for bar in [3, 6, 12, 24, 48, 96, 96] {
        assert_eq!(habit.bar, bar);
        play(&mut habit, Place::Memory, [true].repeat(bar.into()));
        play(&mut habit, Place::Memory, [false; 200]);
        assert_eq!(habit.uses, 0);
    }
    play(&mut habit, Place::Memory, [true; 10_000]);
    assert_eq!(habit.bar, LOWEST_BAR);
}

proptest! {
    /// Where use comes and goes in long runs, a wrong forecast costs no more turns than right ones came before.
    #[test]
    fn trust_is_earned(runs in prop::collection::vec((64..300usize, 64..300usize), 1..40)) {
        let mut habit = Habit::default();
        for (on, off) in runs {
            let right = play(&mut habit, Place::Memory, vec![true; on]).len();
            let wrong = play(&mut habit, Place::Memory, vec![false; off]);
            prop_assert!(wrong.iter().filter(|watched| !**watched).count() <= right.min(LONGEST_SPAN.into()));
        }
    }

    /// Nothing that a vCPU does makes the notes inconsistent.
    #[test]
    fn notes_stay_in_their_bounds(uses in prop::collection::vec(any::<bool>(), 0..2000)) {
        let mut habit = Habit::default();
        for used in uses {
            play(&mut habit, Place::Memory, [used]);
            prop_assert!((LOWEST_BAR..=HIGHEST_BAR).contains(&habit.bar));
            prop_assert!(habit.left <= habit.span && habit.span <= LONGEST_SPAN);
        }
    }
}
