//! The steps that a save or a load must not leave out, each of which tests can leave out.
//!
//! They are rules as those of [`kernel::fp::rules`]: in the product nothing remains of the question.

use kernel::fp::rules::{FIRST_STEP, Switch};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Registers are stored under the names they have with TM clear.
    UntwistToSave = FIRST_STEP,
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

impl Switch for Step {
    const ALL: &'static [Self] = &[
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

    fn number(self) -> u8 {
        self as u8
    }
}
