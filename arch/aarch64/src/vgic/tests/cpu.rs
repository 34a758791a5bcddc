//! A virtual CPU interface as hardware runs it on the list registers (IHI0069 4.8 and 6.1).

use super::super::Bits;
use super::super::list::{Interface, hcr, lr, vmcr};
use alloc::vec::Vec;

const IDLE: u8 = 0xff;

/// One vCPU's interface, and the guest that uses it with EOImode 0.
pub(super) struct Cpu {
    pub(super) regs: Interface,
    /// What the guest is handling, with the priority that keeps others out; the innermost last.
    pub(super) handling: Vec<(u32, u8)>,
    /// State of the physical interrupt behind PPI 27.
    pub(super) physical_active: bool,
}

/// What an EOI did.
pub(super) enum Ended {
    /// Deactivated the interrupt in its list register.
    Listed(u32),
    /// The same, and the physical interrupt.
    Backed(u32),
    /// Found no list register.
    Missing(u32),
}

impl Cpu {
    pub(super) fn new() -> Self {
        let regs =
            Interface { vmcr: vmcr::VENG0 | vmcr::VENG1 | 0xff << vmcr::VPMR_SHIFT, ..Interface::new() };
        Self { regs, handling: Vec::new(), physical_active: false }
    }

    pub(super) fn pmr(&self) -> u8 {
        (self.regs.vmcr >> vmcr::VPMR_SHIFT) as u8
    }

    pub(super) fn running_priority(&self) -> u8 {
        self.handling.last().map_or(IDLE, |(_, priority)| *priority)
    }

    pub(super) fn group_enabled(&self, group1: bool) -> bool {
        self.regs.vmcr & if group1 { vmcr::VENG1 } else { vmcr::VENG0 } != 0
    }

    /// The list register the interface would signal, with its priority.
    pub(super) fn best(&self) -> Option<(u8, usize)> {
        self.in_use()
            .filter(|(_, register)| register & lr::STATE == lr::PENDING)
            .filter(|(_, register)| self.group_enabled(register & lr::GROUP1 != 0))
            .map(|(n, register)| ((register >> lr::PRIORITY_SHIFT) as u8, n))
            .min()
            .filter(|(priority, _)| *priority < self.pmr().min(self.running_priority()))
    }

    pub(super) fn in_use(&self) -> impl Iterator<Item = (usize, u64)> {
        Bits(self.regs.used.into()).map(|n| (n as usize, self.regs.lr[n as usize]))
    }

    /// The guest acknowledges the most urgent interrupt.
    pub(super) fn ack(&mut self) -> Option<u32> {
        let (priority, n) = self.best()?;
        self.regs.lr[n] ^= lr::STATE;
        let intid = self.regs.lr[n] as u32;
        self.handling.push((intid, priority));
        Some(intid)
    }

    /// The guest ends the innermost interrupt it handles.
    pub(super) fn end(&mut self) -> Option<Ended> {
        let (intid, _) = self.handling.pop()?;
        let found = self.in_use().find(|(_, lr)| *lr as u32 == intid && lr & lr::ACTIVE != 0);
        let Some((n, register)) = found else { return Some(Ended::Missing(intid)) };
        self.regs.lr[n] &= !lr::ACTIVE;
        if register & lr::HW == 0 {
            return Some(Ended::Listed(intid));
        }
        assert!(self.physical_active, "deactivating a physical interrupt that is not active");
        self.physical_active = false;
        Some(Ended::Backed(intid))
    }

    /// `ICH_MISR_EL2`: a maintenance interrupt is due.
    pub(super) fn wants_maintenance(&self, list_registers: usize) -> bool {
        let registers = &self.regs.lr[..list_registers];
        let states = || registers.iter().map(|register| register & lr::STATE);
        let eoi = registers.iter().any(|lr| lr & (lr::STATE | lr::HW) == 0 && lr & lr::EOI != 0);
        let hcr = |bit, condition: bool| self.regs.hcr & bit != 0 && condition;
        eoi || hcr(hcr::UIE, states().filter(|state| *state != 0).count() <= 1)
            || hcr(hcr::LRENPIE, self.regs.hcr & hcr::EOI_COUNT != 0)
            || hcr(hcr::NPIE, states().all(|state| state != lr::PENDING))
            || hcr(hcr::GRP0_ENABLED, self.group_enabled(false))
            || hcr(hcr::GRP0_DISABLED, !self.group_enabled(false))
            || hcr(hcr::GRP1_ENABLED, self.group_enabled(true))
            || hcr(hcr::GRP1_DISABLED, !self.group_enabled(true))
    }

    /// True when nothing more can be put into the list registers.
    pub(super) fn is_full_of_active(&self, list_registers: usize) -> bool {
        self.regs.lr[..list_registers].iter().all(|register| register & lr::ACTIVE != 0)
    }

    /// What must hold of list registers whatever happened.
    pub(super) fn check_registers(&self, list_registers: usize) {
        let allowed = (1u32 << list_registers) - 1;
        assert_eq!(u32::from(self.regs.used) & !allowed, 0, "list registers that do not exist");
        for (n, register) in self.regs.lr.iter().enumerate() {
            assert!(self.regs.used & 1 << n != 0 || *register == 0, "in use but not marked");
            if register & lr::HW != 0 {
                assert_ne!(register & lr::STATE, lr::STATE, "LR.HW cannot be pending and active");
                assert_eq!(register >> lr::PINTID_SHIFT & 0x3ff, register & 0x3ff);
            }
        }
    }
}
