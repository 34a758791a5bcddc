//! The registers of one CPU, and the gate in front of them.

use core::marker::PhantomData;

use kernel::fp::Units;
use kernel::fp::rules::Rules;

use super::{FpRegs, LBT, Step, fcsr};

/// One CPU's registers. They stay on their CPU: they are neither `Send` nor `Sync`.
#[derive(Debug)]
pub struct File<H: FpRegs> {
    pub(super) hardware: H,
    /// What the CPU has.
    pub(super) present: Units,
    /// What `EUEN` lets through.
    pub(super) open: Units,
    /// It was said already that this CPU refuses some values of FCSR.
    complained: bool,
    here: PhantomData<*mut ()>,
}

impl<H: FpRegs> File<H> {
    /// Takes over the registers of a CPU that has `present` (see [`from_cpucfg`]), and conceals them. Called once on
    /// each CPU, before its first guest.
    pub fn new(mut hardware: H, present: Units) -> Self {
        hardware.set_euen(0);
        Self { hardware, present, open: Units::empty(), complained: false, here: PhantomData }
    }

    /// What the CPU has.
    pub fn present(&self) -> Units {
        self.present
    }

    pub(super) fn set_open(&mut self, units: Units) {
        if self.open != units {
            // FPE, SXE, ASXE and BTE are bits 0 to 3 of EUEN, in the order of the units.
            self.hardware.set_euen(units.bits().into());
            self.open = units;
        }
    }

    /// The registers as they are.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// The registers, as far as they are open.
    pub fn hardware_mut(&mut self) -> &mut H {
        &mut self.hardware
    }

    /// Lets the hypervisor use `units`. They may be open already, for the guest whose turn it is.
    pub(crate) fn open(&mut self, units: Units) -> &mut H {
        if !self.open.contains(units) {
            self.set_open(self.present);
        }
        &mut self.hardware
    }

    /// Opens some views of the registers and tells whether they can be twisted. Then TOP is open as well.
    #[inline]
    pub(super) fn open_registers<S: Rules<Step>>(&mut self, views: Units) -> Twist {
        let lbt = self.present & LBT;
        self.open(if S::keeps(Step::OpenForTop) { views | lbt } else { views });
        if lbt.is_empty() && S::keeps(Step::GateLbt) { Twist::Never } else { Twist::Possible }
    }

    /// Gives the registers the names that they have with TM clear. What FCSR holds is lost.
    ///
    /// No CPU can refuse zero. Should one keep TM, there is an instruction that clears it and nothing else; it is not
    /// the first choice, because not all that emulate LBT have it.
    #[inline(always)]
    pub(crate) fn untwist(&mut self) {
        self.hardware.set_fcsr(0);
        if self.hardware.fcsr() & fcsr::TM != 0 {
            self.hardware.clear_tm();
        }
    }

    /// Writes an FCSR that a guest left behind, with causes `raised` that are enabled: it may have been about to read
    /// which exception it got. They are written as they were if the CPU takes them, and left out otherwise.
    pub(super) fn set_fcsr_raised(&mut self, value: u32, raised: u32) {
        if self.hardware.try_fcsr(value).is_err() {
            self.hardware.set_fcsr(value & !raised);
            if !core::mem::replace(&mut self.complained, true) {
                log::warn!(
                    "fp: a CPU refuses FCSR {value:#x}: guests may not learn which FP exception they got"
                );
            }
        }
    }
}

/// Whether TM can rename registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twist {
    /// The CPU has no LBT.
    Never,
    /// It has.
    Possible,
}
