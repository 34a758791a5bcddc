//! Whether the machine's belief and the hardware agree.

use core::sync::atomic::{AtomicBool, Ordering};

use super::rules::Rules;
use super::{FpContext, FpUnit, Units};
use crate::addr::VcpuId;

/// What the auditor paints registers with that hold nothing. No meaning, but easy to recognise in a dump.
const PAINT: u64 = 0xfee1_dead_fee1_dead;

/// Turns the auditor on and off, for all CPUs that share it, at any time. A CPU notices when its next turn
/// starts. In debug builds it starts switched on.
#[derive(Debug)]
pub struct AuditSwitch(AtomicBool);

impl AuditSwitch {
    /// Makes a switch that is on.
    pub const fn on() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Makes a switch that is off.
    pub const fn off() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Switches the auditor on.
    pub fn enable(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Switches the auditor off.
    pub fn disable(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Tells whether the auditor is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for AuditSwitch {
    fn default() -> Self {
        if cfg!(debug_assertions) { Self::on() } else { Self::off() }
    }
}

/// A disagreement that no order of events may produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The hardware lets the guest use other units than the machine thinks.
    Exposure {
        /// What the hardware exposes.
        hardware: Units,
        /// What the machine thinks it exposes.
        believed: Units,
    },
    /// Units are exposed that do not hold the running vCPU's values.
    Foreign {
        /// The units.
        units: Units,
        /// The running vCPU, if any.
        running: Option<VcpuId>,
    },
    /// The guest can write units whose values would not be saved.
    Unsaved(Units),
    /// Units are said to be newer than memory, yet to hold nothing.
    Ghost(Units),
    /// Registers are newer than an image that is not here, or not the one they belong to.
    Homeless(VcpuId),
    /// Registers still hold something after they were wiped, because a vCPU ended.
    Remains(VcpuId),
}

impl<F: FpContext, R: Rules> FpUnit<F, R> {
    /// Paints what holds nothing, and compares belief and hardware.
    #[cold]
    #[inline(never)]
    pub(super) fn inspect(&mut self, file: &mut F::File) {
        for (n, &group) in F::GROUPS.iter().enumerate() {
            let seat = &mut self.seats[n];
            if seat.valid.is_empty() && !seat.painted {
                F::fill(file, group, PAINT);
                seat.loaded = Units::empty();
                seat.painted = true;
            }
        }
        self.cover(file);
        if let Err(breach) = self.audit(file) {
            self.report(breach);
        }
    }

    /// Looks whether the registers of `group` are wiped.
    pub(super) fn inspect_wiped(&self, file: &mut F::File, group: Units, id: VcpuId) {
        if self.audit.is_on() && !F::is_blank(file, group) {
            self.report(Breach::Remains(id));
        }
    }

    fn report(&self, breach: Breach) -> ! {
        panic!("FP audit on CPU {}: {breach:?}", self.cpu.0);
    }

    /// Compares belief and hardware. Changes nothing.
    ///
    /// # Errors
    /// The first disagreement found.
    pub fn audit(&self, file: &F::File) -> Result<(), Breach> {
        let hardware = F::exposed(file);
        if hardware != self.exposed {
            return Err(Breach::Exposure { hardware, believed: self.exposed });
        }
        for (n, &group) in F::GROUPS.iter().enumerate() {
            let seat = &self.seats[n];
            let exposed = self.exposed & group;
            let own = match self.running {
                Some(index) if self.is_here(self.slot(index), n) => seat.valid,
                _ => Units::empty(),
            };
            if !own.contains(exposed) {
                let running = self.running.map(|index| self.slot(index).id);
                return Err(Breach::Foreign { units: exposed - own, running });
            }
            if !seat.dirty.contains(exposed) {
                return Err(Breach::Unsaved(exposed - seat.dirty));
            }
            if !(seat.valid & group).contains(seat.dirty) {
                return Err(Breach::Ghost(seat.dirty - seat.valid));
            }
            if let Some(owner) = seat.owner
                && !seat.dirty.is_empty()
            {
                let slot = self.slots.get(seat.slot).and_then(Option::as_ref);
                if !slot.is_some_and(|slot| slot.id == owner && slot.stamps[n] == seat.stamp) {
                    return Err(Breach::Homeless(owner));
                }
            }
        }
        Ok(())
    }
}
