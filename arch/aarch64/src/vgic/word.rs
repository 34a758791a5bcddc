//! Thirty-two interrupts, a bit of every property each.

use super::list::lr;

/// State of 32 interrupts with consecutive INTIDs. See the parent module for what lending means. Padded so that
/// indexing is a shift.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Word {
    pub(super) enabled: u32,
    pub(super) group1: u32,
    /// Edge-triggered; the others are level-sensitive.
    pub(super) edge: u32,
    /// Input is high.
    pub(super) line: u32,
    /// Pending by an edge, an SGI or `ISPENDR`, and not in a list register.
    pub(super) latch: u32,
    /// The latch went into a list register and the guest is not known to have taken it.
    pub(super) lent: u32,
    /// Pending because the physical interrupt fired, and not in a list register.
    pub(super) fired: u32,
    /// As `lent`, for `fired`.
    pub(super) fired_lent: u32,
    /// In a list register with LR.HW set.
    pub(super) hw: u32,
    /// Active as of the last sync and as the guest's writes since have it.
    pub(super) active: u32,
    /// In a list register of some vCPU.
    pub(super) listed: u32,
    /// Made active by `ISACTIVER` while listed: the next flush tells the list register.
    pub(super) force: u32,
    /// Made inactive by `ICACTIVER` while listed: the next flush tells the list register.
    pub(super) revoke: u32,
    pub(super) priority: [u8; 32],
}

impl Word {
    /// SGIs (always edge-triggered) and PPIs.
    pub(super) fn private() -> Self {
        Self { edge: 0xffff, ..Self::default() }
    }

    /// SPIs.
    pub(super) fn shared() -> Self {
        Self::default()
    }

    /// Level-sensitive interrupts whose input is high.
    pub(super) fn high(&self) -> u32 {
        self.line & !self.edge
    }

    /// What `ISPENDR` reads.
    pub(super) fn pending(&self) -> u32 {
        self.latch | self.lent | self.fired | self.fired_lent | self.high()
    }

    /// Interrupts the distributor forwards when they are pending.
    pub(super) fn open(&self, groups: [u32; 2]) -> u32 {
        self.enabled & (self.group1 & groups[1] | !self.group1 & groups[0])
    }

    /// Interrupts that want a list register: pending ones, and active ones so that the guest's EOI finds them.
    pub(super) fn wanted(&self, groups: [u32; 2]) -> u32 {
        !self.listed & (self.pending() & self.open(groups) | self.active)
    }

    /// False when the interrupt, listed or not, cannot want a list register.
    #[inline]
    pub(super) fn stirs(&self, bit: u32) -> bool {
        (self.latch | self.fired | self.line | self.active) & bit != 0
    }

    /// Interrupts whose physical counterpart is active on their behalf.
    pub(super) fn in_flight(&self) -> u32 {
        self.fired | self.fired_lent | self.hw
    }

    /// Forgets a physical interrupt the guest has not taken; true when there was one.
    pub(super) fn retract(&mut self, bit: u32) -> bool {
        let taken = self.hw & self.active & bit != 0;
        let waiting = self.in_flight() & bit != 0 && !taken;
        self.fired &= !bit;
        if waiting {
            self.fired_lent &= !bit;
            self.hw &= !bit;
        }
        waiting
    }

    /// Whether the guest's and the list register's word on the active state make the interrupt active.
    pub(super) fn active_after(&self, bit: u32, in_register: bool) -> bool {
        (in_register || self.force & bit != 0) && self.revoke & bit == 0
    }

    /// Notes what a list register says after the guest ran.
    #[inline]
    pub(super) fn take_back(&mut self, bit: u32, register: u64) {
        if register & lr::STATE == 0 && (self.force | self.revoke) & bit == 0 {
            // Taken and ended, as nearly always.
            self.lent &= !bit;
            self.fired_lent &= !bit;
            self.active &= !bit;
            self.hw &= !bit;
            self.listed &= !bit;
            return;
        }
        if register & lr::PENDING == 0 {
            self.lent &= !bit;
            self.fired_lent &= !bit;
        }
        self.active &= !bit;
        if self.active_after(bit, register & lr::ACTIVE != 0) {
            self.active |= bit;
        }
        if register & lr::STATE == 0 {
            self.leave(bit);
        }
    }

    /// Takes an interrupt out of its list register; what was lent comes back. Its active state stays, unless it was
    /// the physical interrupt's, which nobody could deactivate any more.
    pub(super) fn unlist(&mut self, bit: u32) {
        self.return_loan(bit);
        self.leave(bit);
    }

    #[inline]
    fn leave(&mut self, bit: u32) {
        self.active &= !(self.hw & bit);
        self.hw &= !bit;
        self.listed &= !bit;
        self.force &= !bit;
        self.revoke &= !bit;
    }

    fn return_loan(&mut self, bit: u32) {
        self.latch |= self.lent & bit;
        self.lent &= !bit;
        self.fired |= self.fired_lent & bit;
        self.fired_lent &= !bit;
    }

    /// Builds the list register of an interrupt that enters one, lending what it may, or returns 0 when it needs
    /// none. `open` as for `compose`.
    #[inline]
    pub(super) fn enter(&mut self, index: u32, intid: u32, open: Open) -> u64 {
        let bit = 1 << index;
        self.listed |= bit;
        let active = if self.active & bit != 0 { Active::Yes } else { Active::No };
        // An edge or SGI, nearly always; a level that is high needs no loan either.
        if active == Active::No && open == Open::Yes && self.fired & bit == 0 {
            self.lent |= self.latch & bit;
            self.latch &= !bit;
            let pending = (self.lent | self.high()) & bit != 0;
            return self.encode(index, intid, pending, false);
        }
        self.compose(index, intid, active, open)
    }

    /// Builds the list register for a listed interrupt, lending what it may, or returns 0 when it needs none.
    /// `open`: it is enabled and belongs to this vCPU, so new pending state may go in.
    pub(super) fn compose(&mut self, index: u32, intid: u32, in_register: Active, open: Open) -> u64 {
        let bit = 1 << index;
        let active = self.active_after(bit, in_register == Active::Yes);
        if active && in_register == Active::No {
            // Made active by hand: the physical interrupt behind it is still to be taken.
            self.fired |= self.fired_lent & bit;
            self.fired_lent &= !bit;
            self.hw &= !bit;
        }
        self.force &= !bit;
        self.revoke &= !bit;
        self.active = self.active & !bit | if active { bit } else { 0 };
        let mut level = 0;
        if active && self.hw & bit != 0 {
            // Pending and active together is not for LR.HW (IHI0069 12.4.5): a new latch waits outside.
            self.fired_lent &= !bit;
            self.return_loan(bit);
        } else if active && self.fired & bit != 0 {
            // The physical one waits outside for a list register with LR.HW, and a latch is the same as it.
            self.return_loan(bit);
        } else if open == Open::Yes {
            self.lent |= self.latch & bit;
            self.latch &= !bit;
            if !active {
                self.fired_lent |= self.fired & bit;
                self.fired &= !bit;
                self.hw = self.hw & !bit | self.fired_lent & bit;
                level = self.high();
            }
        } else {
            self.return_loan(bit);
            self.hw &= !bit;
        }
        let pending = (self.lent | self.fired_lent | level) & bit != 0;
        self.encode(index, intid, pending, active)
    }

    #[inline]
    fn encode(&self, index: u32, intid: u32, pending: bool, active: bool) -> u64 {
        let bit = 1 << index;
        if !pending && !active {
            return 0;
        }
        let mut register = u64::from(intid) | u64::from(self.priority[index as usize]) << lr::PRIORITY_SHIFT;
        if pending {
            register |= lr::PENDING;
        }
        if active {
            register |= lr::ACTIVE;
        }
        if self.group1 & bit != 0 {
            register |= lr::GROUP1;
        }
        if self.hw & bit != 0 {
            register |= lr::HW | u64::from(intid) << lr::PINTID_SHIFT;
        } else if (self.high() | self.latch | self.fired) & bit != 0 {
            // More is to come once the guest is done with this one, and only its EOI tells us.
            register |= lr::EOI;
        }
        register
    }
}

/// Whether a list register says the guest is handling the interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Active {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Whether an interrupt's pending state may be delivered here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// It is enabled, its group too, and it is routed to this vCPU.
    Yes,
    /// One of these is missing.
    No,
}
