//! The rules the machine stands on, each of which tests can switch off.
//!
//! A test that cannot fail proves nothing. Every check and every step that keeps one guest's registers from
//! another's eyes is named here, and the machine asks [`Rules::keeps`] before it follows one. In the product
//! the answer is [`Sound`]'s constant `true`, so nothing remains of the question. `tests/fp_mutants.rs` breaks
//! the rules one at a time and demands that the property test notices each.

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
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 17] = [
        Self::OwnerCheck,
        Self::VersionCheck,
        Self::RenewStamp,
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
    ];
}

/// Tells which rules a machine follows.
pub trait Rules {
    /// Tells whether the machine follows `rule`.
    fn keeps(rule: Rule) -> bool;
}

/// Follows every rule: the product.
#[derive(Debug)]
pub struct Sound;

impl Rules for Sound {
    #[inline(always)]
    fn keeps(_: Rule) -> bool {
        true
    }
}
