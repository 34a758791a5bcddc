//! The FP registers, by hand: patterns that tell whose they are, loaded, read back and compared.
//!
//! The target is soft-float, so nothing the compiler makes reads or writes FP registers: between [`State::load`] and
//! [`State::check`] they hold the pattern, through calls, interrupts and sleep, or somebody lost them.
//!
//! Every 64 bits of a pattern say whose they are, so a register that was lost can be traced, and bits that must not be
//! seen at all can be recognised.

use core::fmt;

pub use crate::arch::fp::{
    CONTROL, Register, State, TOUCHED, Units, controls, disable, enable, present, restore_controls, touch,
    touch_control,
};
use crate::rng::mix;

/// Whose pattern it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The guest or run.
    pub seed: u16,
    /// The vCPU or process.
    pub worker: u8,
}

/// What 64 bits of a pattern say of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose they are.
    pub owner: Owner,
    /// The register they belong to, below 64.
    pub register: u8,
    /// Which 64 bits of the register, counted from the lowest; below 32.
    pub lane: u8,
    /// The owner's turn, modulo 2^13.
    pub round: u16,
}

/// So that zero, which registers often hold, is nobody's.
const SALT: u64 = 0x5bd1_e995_9e37_79b9;

impl Origin {
    /// Makes the 64 bits: seed 63:48, worker 47:40, register 39:34, lane 33:29, round 28:16, a hash of these 15:0.
    pub fn bits(self) -> u64 {
        let seed = u64::from(self.owner.seed) << 48 | u64::from(self.owner.worker) << 40;
        let place = u64::from(self.register & 0x3f) << 34 | u64::from(self.lane & 0x1f) << 29;
        let value = seed | place | u64::from(self.round & 0x1fff) << 16;
        value | mix(value ^ SALT) & 0xffff
    }

    /// Recognises 64 bits of a pattern.
    pub fn of(bits: u64) -> Option<Self> {
        let origin = Self {
            owner: Owner { seed: (bits >> 48) as u16, worker: (bits >> 40) as u8 },
            register: (bits >> 34) as u8 & 0x3f,
            lane: (bits >> 29) as u8 & 0x1f,
            round: (bits >> 16) as u16 & 0x1fff,
        };
        (origin.bits() == bits).then_some(origin)
    }
}

/// 64 bits of a register that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The register.
    pub register: Register,
    /// Which 64 bits of it, counted from the lowest.
    pub lane: usize,
    /// What was put there; what is foreign was not, and has nothing here.
    pub expected: Option<u64>,
    /// What is there.
    pub found: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, lane, expected, found } = self;
        match expected {
            Some(expected) => {
                write!(to, "{register} lane {lane} expected {expected:#018x} found {found:#018x}")?
            }
            None => write!(to, "{register} lane {lane} holds {found:#018x}")?,
        }
        match Origin::of(*found) {
            Some(Origin { owner: Owner { seed, worker }, register, lane, round }) => {
                write!(
                    to,
                    ", of seed {seed:#x} worker {worker} register {register} lane {lane} round {round}"
                )
            }
            None => Ok(()),
        }
    }
}

/// Finds the first of some values, by register and lane, that differ from others.
pub(crate) fn difference(values: impl Iterator<Item = (Register, usize, u64, u64)>) -> Option<Mismatch> {
    let mut wrong = values.filter(|(_, _, expected, found)| expected != found);
    let (register, lane, expected, found) = wrong.next()?;
    Some(Mismatch { register, lane, expected: Some(expected), found })
}

/// Finds the first of some values, by register and lane, that are part of another owner's pattern.
pub(crate) fn foreign(
    owner: Owner,
    values: impl Iterator<Item = (Register, usize, u64)>,
) -> Option<Mismatch> {
    let is_foreign = |bits: u64| Origin::of(bits).is_some_and(|origin| origin.owner != owner);
    let (register, lane, found) = values.into_iter().find(|&(_, _, found)| is_foreign(found))?;
    Some(Mismatch { register, lane, expected: None, found })
}
