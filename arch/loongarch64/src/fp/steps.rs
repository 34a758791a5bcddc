//! The steps that a save or a load must not leave out, each of which tests can leave out.
//!
//! As with [`kernel::fp::rules`]: in the product the answer is a constant, and nothing remains of the question.

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Registers are stored under the names they have with TM clear.
    UntwistToSave,
    /// ... and loaded under them.
    UntwistToLoad,
    /// TOP is saved with the registers.
    KeepTop,
    /// FCSR, which may twist the registers, and TOP are loaded after them.
    StatusLast,
    /// A save that untwisted the registers does not say that they are still what they were.
    OwnUp,
    /// An image keeps the form that its widest save gave it.
    KeepForm,
    /// A wide load of a narrow image writes all of each register.
    ZeroAbove,
    /// Nothing of LBT is used on a CPU without it.
    GateLbt,
    /// LBT is opened for TOP.
    OpenForTop,
    /// Who may use LBT has the registers that TOP belongs to.
    LbtNeedsFpu,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 10] = [
        Self::UntwistToSave,
        Self::UntwistToLoad,
        Self::KeepTop,
        Self::StatusLast,
        Self::OwnUp,
        Self::KeepForm,
        Self::ZeroAbove,
        Self::GateLbt,
        Self::OpenForTop,
        Self::LbtNeedsFpu,
    ];
}

/// Tells which steps are taken.
pub trait Steps {
    /// Tells whether `step` is taken.
    fn takes(step: Step) -> bool;
}

/// Takes every step: the product.
#[derive(Debug)]
pub struct Every;

impl Steps for Every {
    #[inline(always)]
    fn takes(_: Step) -> bool {
        true
    }
}
