//! The steps that a save, a load or the end of a turn must not leave out, each of which tests can leave out.
//!
//! They are rules as those of [`kernel::fp::rules`]: in the product nothing remains of the question.

use kernel::fp::rules::{FIRST_STEP, Switch};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// The vector length stays the owner's until its registers are saved. Broken: it is the shortest for a moment when a
    /// turn ends, as if it followed whoever runs.
    KeepLength = FIRST_STEP,
    /// The vector length is the guest's longest before its registers are loaded.
    LengthBeforeLoad,
    /// `ZCR_EL1` is loaded with the registers.
    LoadZcr,
    /// A load of an image in SIMD form through SVE zeroes what only SVE shows.
    ZeroBeyond,
    /// An image in SVE form is live as a whole or not at all.
    WholeForm,
}

impl Switch for Step {
    const ALL: &'static [Self] =
        &[Self::KeepLength, Self::LengthBeforeLoad, Self::LoadZcr, Self::ZeroBeyond, Self::WholeForm];

    fn number(self) -> u8 {
        self as u8
    }
}
