//! The physical GICv3 (IHI0069): distributor, this CPU's redistributor, CPU interface and the registers
//! behind list registers.
//!
//! `EOImode` is 1: an end of interrupt drops the priority only, and deactivation is a step of its own. The
//! guest's timer interrupt uses it: it stays active, and thus quiet, until the guest deactivates the virtual
//! interrupt that is linked to it through its list register.

use core::ops::Range;

use crate::regs::*;
use crate::vgic::Interface;
use arch_common::mmio::Mmio;

/// Software generated interrupt that one CPU sends another.
pub const SGI_KICK: u32 = 0;
/// What lets a maintenance interrupt be pending: En, for ends of interrupts that asked for one, and the causes UIE to
/// VGrp1DIE, of ICH_HCR_EL2 (IHI0069 12.4.7).
const MAINTENANCE: u64 = 0xff;
/// How many ends of interrupts found no list register: EOIcount of ICH_HCR_EL2.
const EOI_COUNT: u64 = 0x1f << 27;
/// PPI of GIC maintenance (BSA 5.4, and what the tree says on every machine known).
pub const PPI_MAINTENANCE: u32 = 25;
/// PPI of the EL2 physical timer.
pub const PPI_HYP_TIMER: u32 = 26;
/// PPI of the virtual timer.
pub const PPI_VIRTUAL_TIMER: u32 = 27;
/// What IAR says when nothing is pending (IHI0069 2.2.1): 1020 to 1023.
const SPECIAL: u32 = 1020;

const GICD_CTLR: usize = 0x0;
const GICD_TYPER: usize = 0x4;
const GICD_IGROUPR: usize = 0x80;
const GICD_ISENABLER: usize = 0x100;
const GICD_ICENABLER: usize = 0x180;
const GICD_ICFGR: usize = 0xc00;
const GICD_IPRIORITYR: usize = 0x400;
const GICD_IROUTER: usize = 0x6000;
/// GICD_CTLR: affinity routing and group 1, non-secure view or single security state.
const CTLR_ARE_NS: u32 = 1 << 4;
const CTLR_GROUP1: u32 = 1 << 1;
const CTLR_RWP: u32 = 1 << 31;

const GICR_TYPER: usize = 0x8;
const GICR_WAKER: usize = 0x14;
/// The SGI and PPI frame follows the first 64 KiB of a redistributor.
const GICR_SGI: usize = 0x1_0000;
const GICR_ISACTIVER0: usize = GICR_SGI + 0x300;
const GICR_ICACTIVER0: usize = GICR_SGI + 0x380;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// GICR_TYPER.Last and .VLPIS: a redistributor with virtual LPIs has four frames instead of two.
const TYPER_LAST: u64 = 1 << 4;
const TYPER_VLPIS: u64 = 1 << 1;
/// One priority for everything of ours.
const PRIORITY: u32 = 0xa0;
/// How often a register that answers "not yet" is asked: far longer than any hardware takes, not for ever.
const PATIENCE: usize = 1_000_000;

/// The distributor.
#[derive(Debug)]
pub struct Distributor(Mmio);

impl Distributor {
    /// Takes over the distributor and silences every shared interrupt.
    pub fn new(registers: Mmio) -> Self {
        let distributor = Self(registers);
        let d = &distributor.0;
        d.write32(GICD_CTLR, 0);
        distributor.settle();
        for word in 1..distributor.words() {
            d.write32(GICD_ICENABLER + 4 * word, u32::MAX);
            d.write32(GICD_IGROUPR + 4 * word, u32::MAX);
        }
        d.write32(GICD_CTLR, CTLR_ARE_NS | CTLR_GROUP1);
        distributor.settle();
        distributor
    }

    /// 32-bit words of interrupts (`GICD_TYPER.ITLinesNumber` + 1).
    fn words(&self) -> usize {
        (self.0.read32(GICD_TYPER) & 0x1f) as usize + 1
    }

    fn settle(&self) {
        for _ in 0..PATIENCE {
            if self.0.read32(GICD_CTLR) & CTLR_RWP == 0 {
                return;
            }
        }
        log::warn!("gic: the distributor does not settle (GICD_CTLR.RWP stays set)");
    }

    /// Lets shared interrupt `line`, level-triggered, interrupt the CPU with affinity `mpidr`.
    pub fn enable(&self, line: u32, mpidr: u64) {
        let (word, bit) = (line as usize / 32, 1 << (line % 32));
        if word == 0 || word >= self.words() {
            log::error!("gic: interrupt {line} is not a shared interrupt of this distributor");
            return;
        }
        let d = &self.0;
        let priorities = GICD_IPRIORITYR + line as usize / 4 * 4;
        let shift = line % 4 * 8;
        d.write32(priorities, d.read32(priorities) & !(0xff << shift) | PRIORITY << shift);
        let config = GICD_ICFGR + line as usize / 16 * 4;
        d.write32(config, d.read32(config) & !(2 << (line % 16 * 2)));
        d.write64(GICD_IROUTER + 8 * line as usize, mpidr & 0xff_00ff_ffff);
        d.write32(GICD_ISENABLER + 4 * word, bit);
    }
}

/// Finds the redistributor of the CPU with affinity `mpidr` in the machine's redistributor regions.
///
/// # Safety
/// Each of `regions` holds redistributors, and is mapped as Device memory from now on.
pub unsafe fn find_redistributor(regions: &[Range<u64>], mpidr: u64) -> Option<Mmio> {
    // GICR_TYPER.Affinity_Value is Aff3.Aff2.Aff1.Aff0 in bits 63 to 32.
    let affinity = mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000;
    for region in regions {
        let mut at = region.start;
        while at + 0x2_0000 <= region.end {
            // SAFETY: `at` is where a redistributor starts: the first of a region does at its start, and each
            // says in its TYPER how long it is; the caller vouches for the region.
            let frame = unsafe { Mmio::new(at) };
            let typer = frame.read64(GICR_TYPER);
            if typer >> 32 == affinity {
                return Some(frame);
            }
            if typer & TYPER_LAST != 0 {
                break;
            }
            at += if typer & TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
        }
    }
    None
}

/// This CPU's redistributor and CPU interface.
#[derive(Debug)]
pub struct CpuInterface {
    redistributor: Mmio,
    /// List registers (`ICH_VTR_EL2.ListRegs` + 1).
    lists: usize,
    /// List registers that are not zero.
    filled: u16,
    /// Active priority registers of each group: 1, 2 or 4, by `ICH_VTR_EL2.PREbits`.
    priorities: usize,
    /// Whether the physical virtual-timer interrupt is active; unknown after a guest that could deactivate it
    /// has run.
    timer_active: Option<bool>,
}

impl CpuInterface {
    /// Wakes the redistributor, enables what this CPU uses, and opens the CPU interface.
    pub fn new(redistributor: Mmio) -> Self {
        let r = &redistributor;
        r.write32(GICR_WAKER, r.read32(GICR_WAKER) & !WAKER_PROCESSOR_SLEEP);
        for _ in 0..PATIENCE {
            if r.read32(GICR_WAKER) & WAKER_CHILDREN_ASLEEP == 0 {
                break;
            }
        }
        let ours = 1 << SGI_KICK | 1 << PPI_MAINTENANCE | 1 << PPI_HYP_TIMER | 1 << PPI_VIRTUAL_TIMER;
        r.write32(GICR_SGI + GICD_ICENABLER, !ours);
        r.write32(GICR_SGI + GICD_IGROUPR, u32::MAX);
        r.write32(GICR_ICACTIVER0, u32::MAX);
        for word in 0..8 {
            r.write32(GICR_SGI + GICD_IPRIORITYR + 4 * word, PRIORITY * 0x0101_0101);
        }
        r.write32(GICR_SGI + GICD_ISENABLER, ours);
        // SRE, and no bypass of FIQ and IRQ; EL1 may use the system registers as well (Enable).
        ICC_SRE_EL2.set(0xf);
        isb();
        ICC_PMR_EL1.set(0xff);
        ICC_BPR1_EL1.set(0);
        ICC_CTLR_EL1.set(ICC_CTLR_EL1.get() | 1 << 1); // EOImode
        ICC_IGRPEN1_EL1.set(1);
        ICH_HCR_EL2.set(0);
        let vtr = ICH_VTR_EL2.get();
        let lists = (vtr & 0x1f) as usize + 1;
        for n in 0..lists {
            write_lr(n, 0);
        }
        isb();
        // PREbits - 1 in bits 28 to 26: 5 bits need one register, 6 two, 7 four.
        let priorities = 1 << (vtr >> 26 & 7).saturating_sub(4);
        Self { redistributor, lists, filled: 0, priorities, timer_active: Some(false) }
    }

    /// How many list registers there are.
    pub fn list_registers(&self) -> usize {
        self.lists
    }

    /// How many priority bits the virtual interface has (`ICH_VTR_EL2.PRIbits` + 1).
    pub fn priority_bits(&self) -> u8 {
        (ICH_VTR_EL2.get() >> 29 & 7) as u8 + 1
    }

    /// Takes a pending interrupt: acknowledged, priority dropped, and deactivated unless it is the guest's
    /// timer, which stays active.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        let intid = ICC_IAR1_EL1.get() as u32 & 0xff_ffff;
        if intid >= SPECIAL {
            return None;
        }
        if intid == PPI_MAINTENANCE {
            // A level that stays until the list registers change, which is not before the next entry: without this
            // it would be pending again at once, for ever. Writing the lists enables the interface anew.
            ICH_HCR_EL2.set(ICH_HCR_EL2.get() & !MAINTENANCE);
        }
        ICC_EOIR1_EL1.set(u64::from(intid));
        if intid == PPI_VIRTUAL_TIMER {
            self.timer_active = Some(true);
        } else {
            ICC_DIR_EL1.set(u64::from(intid));
        }
        Some(intid)
    }

    /// Makes the physical virtual-timer interrupt active or not, as the loaded vCPU needs it: active while
    /// its virtual one is, so that it stays quiet.
    pub fn set_timer_active(&mut self, active: bool) {
        if self.timer_active == Some(active) {
            return;
        }
        self.timer_active = Some(active);
        let register = if active { GICR_ISACTIVER0 } else { GICR_ICACTIVER0 };
        self.redistributor.write32(register, 1 << PPI_VIRTUAL_TIMER);
    }

    /// Reads the list registers in use, and what the guest did to its own interface.
    pub fn read_lists(&mut self, interface: &mut Interface) {
        self.timer_active = self.timer_active.filter(|active| !active);
        let mut used = interface.used;
        while used != 0 {
            let n = used.trailing_zeros() as usize;
            used &= used - 1;
            interface.lr[n] = read_lr(n);
        }
        interface.vmcr = ICH_VMCR_EL2.get();
        // Only the count of unlisted ends of interrupts is the hardware's own; the rest may have been switched off
        // by `take`, and its causes are still to be looked into.
        interface.hcr = (interface.hcr & !EOI_COUNT) | (ICH_HCR_EL2.get() & EOI_COUNT);
    }

    /// Writes the list registers that are in use or were, whoever's they were, and the interface control.
    pub fn write_lists(&mut self, interface: &Interface) {
        let mut changed = interface.used | self.filled;
        self.filled = interface.used;
        while changed != 0 {
            let n = changed.trailing_zeros() as usize;
            changed &= changed - 1;
            write_lr(n, interface.lr[n]);
        }
        ICH_HCR_EL2.set(interface.hcr);
    }

    /// Puts a vCPU's interface into the hardware, but for the list registers.
    pub fn load(&self, interface: &Interface) {
        ICH_VMCR_EL2.set(interface.vmcr);
        ICH_AP0R0_EL2.set(u64::from(interface.ap0r[0]));
        ICH_AP1R0_EL2.set(u64::from(interface.ap1r[0]));
        if self.priorities > 1 {
            ICH_AP0R1_EL2.set(u64::from(interface.ap0r[1]));
            ICH_AP1R1_EL2.set(u64::from(interface.ap1r[1]));
        }
        if self.priorities > 2 {
            ICH_AP0R2_EL2.set(u64::from(interface.ap0r[2]));
            ICH_AP0R3_EL2.set(u64::from(interface.ap0r[3]));
            ICH_AP1R2_EL2.set(u64::from(interface.ap1r[2]));
            ICH_AP1R3_EL2.set(u64::from(interface.ap1r[3]));
        }
    }

    /// Takes a vCPU's interface out of the hardware and closes it, so that what is left in list registers does
    /// nothing until the next vCPU's are written.
    pub fn unload(&mut self, interface: &mut Interface) {
        self.read_lists(interface);
        interface.ap0r[0] = ICH_AP0R0_EL2.get() as u32;
        interface.ap1r[0] = ICH_AP1R0_EL2.get() as u32;
        if self.priorities > 1 {
            interface.ap0r[1] = ICH_AP0R1_EL2.get() as u32;
            interface.ap1r[1] = ICH_AP1R1_EL2.get() as u32;
        }
        if self.priorities > 2 {
            interface.ap0r[2] = ICH_AP0R2_EL2.get() as u32;
            interface.ap0r[3] = ICH_AP0R3_EL2.get() as u32;
            interface.ap1r[2] = ICH_AP1R2_EL2.get() as u32;
            interface.ap1r[3] = ICH_AP1R3_EL2.get() as u32;
        }
        ICH_HCR_EL2.set(0);
    }
}

/// Interrupts the CPU with affinity `mpidr`, from a CPU that has a [`CpuInterface`].
pub fn kick(mpidr: u64) {
    let aff = |n: u32| mpidr >> n & 0xff;
    // ICC_SGI1R_EL1: Aff3, RS, Aff2, INTID, Aff1, target list (IHI0069 12.2.22).
    let value = aff(32) << 48
        | (aff(0) >> 4) << 44
        | aff(16) << 32
        | u64::from(SGI_KICK) << 24
        | aff(8) << 16
        | 1 << (aff(0) & 0xf);
    // What the other CPU is to find must be visible before the interrupt is.
    dsb_sy();
    ICC_SGI1R_EL1.set(value);
    isb();
}
