//! The rules the machine stands on, each of which tests can switch off.
//!
//! A test that cannot fail proves nothing. Every check and every step that keeps one guest's registers from
//! another's eyes is named here, and the machine asks [`Rules::keeps`] before it follows one. In the product
//! the answer is [`Sound`]'s constant `true`, so nothing remains of the question. `tests/fp.rs` breaks
//! the rules one at a time and demands that the property test notices each. An architecture names the steps of
//! its own saves and loads in the same way.

use core::fmt::Debug;

#[cfg(feature = "broken-rules")]
pub mod broken;

/// What an image follows: every rule, unless it was built to be broken.
#[cfg(not(feature = "broken-rules"))]
pub type InForce = Sound;
/// What an image follows that was built to be broken.
#[cfg(feature = "broken-rules")]
pub type InForce = broken::AllButOne;

/// Something that tests can switch off: a [`Rule`] of the machine, or a step of an architecture.
pub trait Switch: Copy + Debug + PartialEq + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// Its number. Rules count from 0, steps from [`FIRST_STEP`], so that in an image each number is one thing's.
    fn number(self) -> u8;
}

/// The number of an architecture's first step.
pub const FIRST_STEP: u8 = 64;

/// A rule of the FP machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// Registers count as a vCPU's only if it is the last that used them. Broken: the last CPU decides.
    OwnerCheck,
    /// ... and only if its image has not changed since. Broken: the last owner decides.
    VersionCheck,
    /// An image that changes is given a new stamp.
    RenewStamp,
    /// Registers that waited for a vCPU's return belong to the slot it has now.
    Rehome,
    /// What was written through a narrow view reaches memory before a wider view is loaded over it.
    SaveBeforeWidening,
    /// What another vCPU left in the registers reaches memory before they are loaded.
    SaveBeforeEviction,
    /// Registers reach memory at the end of a turn before they are forgotten.
    SaveAtLeave,
    /// A vCPU leaves for another CPU only with all its registers in memory.
    FlushOnDischarge,
    /// Registers reach memory before the CPU loses them.
    SaveOnFlush,
    /// Registers that were lost hold nothing.
    ForgetOnFlush,
    /// Registers that a save destroyed hold nothing.
    ForgetDestroyed,
    /// When a vCPU ends, no register keeps a value of it.
    WipeOnDismiss,
    /// Copies of a vCPU's registers on CPUs it left are erased on demand.
    WipeOnPurge,
    /// Only units that hold the guest's own values are exposed to it.
    ExposeOnlyValid,
    /// Nothing stays exposed when a turn ends.
    ConcealAtLeave,
    /// Work done on others' behalf leaves the running guest's exposure as it was.
    CoverAfterwards,
    /// What a load needs is decided when it happens, not when it was asked for.
    CloseLate,
    /// A guest is not given units it does not have.
    RefuseAbsent,
    /// Registers reach memory before a snapshot is taken of it.
    SaveBeforeSnapshot,
    /// A guest in its turn whose image was saved or replaced is exposed to its registers anew.
    ReexposeAfterwards,
    /// What a vCPU wrote to registers is given up when its image is replaced.
    AbandonOnReplace,
    /// An image that is put in place of another is given new stamps.
    RestampOnReplace,
}

impl Switch for Rule {
    const ALL: &'static [Self] = &[
        Self::OwnerCheck,
        Self::VersionCheck,
        Self::RenewStamp,
        Self::Rehome,
        Self::SaveBeforeWidening,
        Self::SaveBeforeEviction,
        Self::SaveAtLeave,
        Self::FlushOnDischarge,
        Self::SaveOnFlush,
        Self::ForgetOnFlush,
        Self::ForgetDestroyed,
        Self::WipeOnDismiss,
        Self::WipeOnPurge,
        Self::ExposeOnlyValid,
        Self::ConcealAtLeave,
        Self::CoverAfterwards,
        Self::CloseLate,
        Self::RefuseAbsent,
        Self::SaveBeforeSnapshot,
        Self::ReexposeAfterwards,
        Self::AbandonOnReplace,
        Self::RestampOnReplace,
    ];

    fn number(self) -> u8 {
        self as u8
    }
}

/// Tells which rules are followed.
pub trait Rules<T: Switch = Rule> {
    /// Tells whether `rule` is followed.
    fn keeps(rule: T) -> bool;
}

/// Follows every rule: the product.
#[derive(Debug)]
pub struct Sound;

impl<T: Switch> Rules<T> for Sound {
    #[inline(always)]
    fn keeps(_: T) -> bool {
        true
    }
}

/// Follows all rules but the one with this number.
#[derive(Debug)]
pub struct Without<const NUMBER: u8>;

impl<const NUMBER: u8, T: Switch> Rules<T> for Without<NUMBER> {
    fn keeps(rule: T) -> bool {
        rule.number() != NUMBER
    }
}
