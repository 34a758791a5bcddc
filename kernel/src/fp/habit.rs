//! Whether a vCPU is about to use the registers: what the policy `adaptive` goes by.
//!
//! Use is bimodal: some vCPUs use floating point in every turn, most never do. For the first kind a trap is wasted, for the
//! second a load is. Which kind a vCPU is shows when it is *watched*: nothing is exposed when its turn starts, and either
//! it traps in this turn or it does not. Whether it uses what is exposed to it nobody can tell, so a vCPU that is given
//! its registers unasked is watched now and then all the same.
//!
//! **Hysteresis.** It takes some uses in a row, the *bar*, before registers are loaded ahead; one watched turn without use
//! ends it. Each time that happens the bar is twice as high, and each time the forecast is confirmed it sinks by one: a
//! vCPU that changes its mind often is soon treated as `lazy` would. Registers that are in place are exposed after one use:
//! that costs little. Turns between two watched ones grow by half with each confirmation, so that wrong forecasts are
//! fewer than right ones were before them, and their number is not one that a guest can foresee.

use super::rules::Rules;
use super::unit::occupant;
use super::{FpContext, FpUnit, Units};

/// How many uses in a row it takes at least before registers are loaded ahead.
const LOWEST_BAR: u8 = 3;
/// How many at most.
const HIGHEST_BAR: u8 = 96;
/// Most turns from one that is watched to the next.
const LONGEST_SPAN: u8 = 63;

/// What is to be expected of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forecast {
    /// These units will be used.
    Use(Units),
    /// Nothing is certain: let it trap, and learn from it.
    Watch,
}

/// Where a vCPU's values are when its turn starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the registers of its CPU.
    Registers,
    /// In memory alone.
    Memory,
}

/// What a vCPU was seen to do with one group of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Habit {
    /// What it used when it was last seen to use anything, and what it asked for since.
    units: Units,
    /// In how many watched turns in a row it used any. Saturates.
    uses: u8,
    /// How many of these it takes before its registers are loaded ahead.
    bar: u8,
    /// How many turns the latest confirmation was good for, before chance was applied.
    span: u8,
    /// How many turns are left before it is watched again.
    left: u8,
}

impl Default for Habit {
    fn default() -> Self {
        Self { units: Units::empty(), uses: 0, bar: LOWEST_BAR, span: 0, left: 0 }
    }
}

impl Habit {
    /// Tells whether it has not used any since it was last seen not to, or ever: nothing is expected of it, and only a
    /// use would be news.
    pub(super) fn is_none(&self) -> bool {
        self.uses == 0
    }

    /// Says what to expect of the turn that starts.
    pub(super) fn forecast(&mut self, place: Place) -> Forecast {
        let needed = match place {
            Place::Registers => 1,
            Place::Memory => self.bar,
        };
        if self.uses < needed || self.left == 0 {
            return Forecast::Watch;
        }
        self.left -= 1;
        Forecast::Use(self.units)
    }

    /// Learns from a turn that was watched and in which `used` was asked for.
    pub(super) fn learn(&mut self, used: Units, dice: &mut Dice) {
        let trusted = self.uses >= self.bar;
        if used.is_empty() {
            if trusted {
                self.bar = self.bar.saturating_mul(2).min(HIGHEST_BAR);
            }
            (self.uses, self.span, self.left) = (0, 0, 0);
            return;
        }
        self.units = used;
        self.uses = self.uses.saturating_add(1);
        if trusted {
            self.bar = self.bar.saturating_sub(1).max(LOWEST_BAR);
            self.span = (self.span + self.span / 2 + 1).min(LONGEST_SPAN);
        } else {
            self.span = 1;
        }
        self.left = dice.between(self.span.div_ceil(2), self.span);
    }

    /// Takes note of `asked`, for which the vCPU trapped in a turn that was not watched.
    pub(super) fn widen(&mut self, asked: Units) {
        self.units |= asked;
    }
}

/// A source of numbers that guests cannot foresee without trying (xorshift, 32 bits).
#[derive(Debug)]
pub(super) struct Dice(u32);

impl Dice {
    /// Makes one; different seeds give different numbers.
    pub(super) fn new(seed: usize) -> Self {
        Self((seed as u32).wrapping_mul(0x9e37_79b9) | 1)
    }

    /// Draws a number from `low` to `high`, both included.
    fn between(&mut self, low: u8, high: u8) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        let room = u32::from(high.saturating_sub(low)) + 1;
        low.saturating_add((self.0 % room) as u8)
    }
}

impl<F: FpContext, R: Rules> FpUnit<F, R> {
    /// Tells what a vCPU whose turn starts is expected to use, and notes what it is watched for.
    #[inline]
    pub(super) fn forecast(&mut self, index: usize) -> Units {
        if self.slot(index).habits.iter().all(Habit::is_none) {
            return Units::empty();
        }
        let here = self.usable(self.slot(index));
        let slot = occupant(&mut self.slots, index);
        let mut usual = Units::empty();
        for (habit, &group) in slot.habits.iter_mut().zip(F::GROUPS) {
            // What was requested before is served whatever is expected, and nothing can be learned from it.
            if habit.is_none() || slot.request.intersects(group) {
                continue;
            }
            let place = if here.intersects(group) { Place::Registers } else { Place::Memory };
            match habit.forecast(place) {
                Forecast::Use(units) => usual |= units,
                Forecast::Watch => self.watched |= group,
            }
        }
        usual
    }

    /// Takes note of what a vCPU used in the turn that ends.
    #[inline(never)]
    pub(super) fn learn(&mut self, index: usize) {
        let slot = occupant(&mut self.slots, index);
        for (habit, &group) in slot.habits.iter_mut().zip(F::GROUPS) {
            let asked = self.asked & group;
            if habit.is_none() && !asked.is_empty() || self.watched.contains(group) {
                habit.learn(asked, &mut self.dice);
            } else {
                habit.widen(asked);
            }
        }
    }
}

#[cfg(test)]
mod tests;
