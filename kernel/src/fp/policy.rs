//! When registers move: a choice per VM.

use core::fmt;
use core::str::FromStr;
use core::sync::atomic::{AtomicU8, Ordering};

/// When a vCPU's registers are loaded and saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// Loads every unit when a turn starts, saves when it ends.
    Eager,
    /// Loads on first use, saves when the turn ends.
    Lazy,
    /// Loads on first use, saves when the turn ends, and skips the next load if nobody used the registers.
    Resident,
    /// Loads on first use and does not save before another vCPU needs the registers or the vCPU moves.
    #[default]
    Hold,
    /// Does what the vCPU's use so far suggests: loads ahead or on first use, and saves as `Hold` does.
    Adaptive,
}

/// What becomes of the registers when a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtLeave {
    /// They are saved and forgotten.
    SaveAndForget,
    /// They are saved and remembered.
    Save,
    /// They stay as they are.
    Keep,
}

/// What is exposed when a turn starts, without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtArrive {
    /// All the units the guest has.
    Everything,
    /// Whatever the registers still hold.
    WhatIsHere,
    /// What the vCPU is expected to use.
    WhatIsUsual,
    /// Nothing.
    Nothing,
}

impl Policy {
    /// All policies: those that always do the same, in the order in which they move less and less, and the one that
    /// chooses.
    pub const ALL: [Self; 5] = [Self::Eager, Self::Lazy, Self::Resident, Self::Hold, Self::Adaptive];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; 5] = [
        Self::Eager.name(),
        Self::Lazy.name(),
        Self::Resident.name(),
        Self::Hold.name(),
        Self::Adaptive.name(),
    ];

    /// Names the policy as it is written in device trees and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
            Self::Resident => "resident",
            Self::Hold => "hold",
            Self::Adaptive => "adaptive",
        }
    }

    pub(super) const fn at_arrive(self) -> AtArrive {
        match self {
            Self::Eager => AtArrive::Everything,
            Self::Lazy => AtArrive::Nothing,
            Self::Resident | Self::Hold => AtArrive::WhatIsHere,
            Self::Adaptive => AtArrive::WhatIsUsual,
        }
    }

    pub(super) const fn at_leave(self) -> AtLeave {
        match self {
            Self::Eager | Self::Lazy => AtLeave::SaveAndForget,
            Self::Resident => AtLeave::Save,
            Self::Hold | Self::Adaptive => AtLeave::Keep,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A policy name that is not known; its text lists those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPolicy;

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown FP policy, expected one of: ")?;
        for (n, policy) in Policy::ALL.into_iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            f.write_str(policy.name())?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownPolicy {}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or(UnknownPolicy)
    }
}

/// A VM's policy, shared by its vCPUs and changeable from any CPU at any time.
///
/// It is looked at when a turn starts and when one ends, so a change takes hold of a vCPU at its next such
/// point, and no order of changes can lose or leak a register.
#[derive(Debug, Default)]
pub struct PolicyCell(AtomicU8);

impl PolicyCell {
    /// Makes a cell that holds `policy`.
    pub const fn new(policy: Policy) -> Self {
        Self(AtomicU8::new(policy as u8))
    }

    /// Tells the policy in force.
    pub fn policy(&self) -> Policy {
        // Nothing is published through this value, so the order of other accesses does not matter.
        match self.0.load(Ordering::Relaxed) {
            0 => Policy::Eager,
            1 => Policy::Lazy,
            2 => Policy::Resident,
            3 => Policy::Hold,
            _ => Policy::Adaptive,
        }
    }

    /// Changes the policy.
    pub fn set(&self, policy: Policy) {
        self.0.store(policy as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_round_trip() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(PolicyCell::new(policy).policy(), policy);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        for name in ["", "Hold", "hold ", "eagre"] {
            let error = name.parse::<Policy>().unwrap_err();
            assert_eq!(
                error.to_string(),
                "unknown FP policy, expected one of: eager, lazy, resident, hold, adaptive"
            );
        }
    }

    #[test]
    fn a_change_is_seen() {
        let cell = PolicyCell::new(Policy::Eager);
        cell.set(Policy::Hold);
        assert_eq!(cell.policy(), Policy::Hold);
    }
}
