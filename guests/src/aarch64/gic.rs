//! GICv3 (IHI0069): distributor, this vCPU's redistributor, the CPU interface. An interrupt's number is its INTID.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::uart;
use crate::cpu::{self, MAX_CPUS};
use crate::mmio::{read32, read64, write8, write32, write64};
use crate::start::machine;
use crate::tree::Node;
use crate::{irq, mrs, msr, report, timer};

/// GICD_CTLR.
pub const GICD_CTLR: u64 = 0x0000;
/// GICD_TYPER.
pub const GICD_TYPER: u64 = 0x0004;
/// GICD_PIDR2 and GICR_PIDR2.
pub const PIDR2: u64 = 0xffe8;
/// GICD_IGROUPR.
pub const IGROUPR: u64 = 0x0080;
/// GICD_ISENABLER.
pub const ISENABLER: u64 = 0x0100;
/// GICD_ICENABLER.
pub const ICENABLER: u64 = 0x0180;
/// GICD_ISPENDR.
pub const ISPENDR: u64 = 0x0200;
/// GICD_ICPENDR.
pub const ICPENDR: u64 = 0x0280;
/// GICD_ISACTIVER.
pub const ISACTIVER: u64 = 0x0300;
/// GICD_ICACTIVER.
pub const ICACTIVER: u64 = 0x0380;
/// GICD_IPRIORITYR.
pub const IPRIORITYR: u64 = 0x0400;
/// GICD_ICFGR.
pub const ICFGR: u64 = 0x0c00;
/// GICD_IROUTER.
pub const IROUTER: u64 = 0x6000;

const GICR_TYPER: u64 = 0x0008;
const GICR_WAKER: u64 = 0x0014;
const SGI_FRAME: u64 = 0x1_0000;

/// INTIDs below this are SGIs.
pub const IPIS: u32 = 16;
/// INTID of the timer that the runtime uses.
pub const TIMER: u32 = timer::VIRTUAL;
/// The INTID that says "none" (IHI0069 2.2.1).
pub const SPURIOUS: u32 = 1023;
/// The priority the runtime gives everything.
pub const PRIORITY: u8 = 0xa0;

/// Where each vCPU's redistributor is.
static REDISTRIBUTOR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Returns the base address of this vCPU's redistributor.
pub fn redistributor() -> u64 {
    REDISTRIBUTOR[cpu::index()].load(Relaxed)
}

/// Returns the address of byte `offset` of the registers that hold `intid`'s bits: SGI frame or distributor.
fn frame(intid: u32, offset: u64) -> u64 {
    if intid < 32 { redistributor() + SGI_FRAME + offset } else { machine().chips.gicd + offset }
}

fn bit(intid: u32, offset: u64) -> (u64, u32) {
    (frame(intid, offset) + u64::from(intid / 32 * 4), 1 << (intid % 32))
}

/// Turns the distributor on with affinity routing, all SPIs in group 1 at [`PRIORITY`].
pub fn init_distributor() {
    let gicd = machine().chips.gicd;
    // ARE_NS and EnableGrp1, in the view with one security state and in the non-secure view alike.
    write32(gicd + GICD_CTLR, 1 << 4 | 1 << 1);
    while read32(gicd + GICD_CTLR) & 1 << 31 != 0 {}
    let words = (read32(gicd + GICD_TYPER) & 0x1f) + 1;
    for word in 1..u64::from(words.min(32)) {
        write32(gicd + IGROUPR + word * 4, !0);
        write32(gicd + ICENABLER + word * 4, !0);
        for byte in 0..8 {
            write32(gicd + IPRIORITYR + word * 32 + byte * 4, u32::from(PRIORITY) * 0x0101_0101);
        }
    }
}

/// Finds and wakes this vCPU's redistributor and turns its CPU interface on: all interrupts in group 1, none enabled
/// but SGIs.
pub fn init_cpu() {
    let mut base = machine().chips.gicr;
    let packed = |affinity: u64| (affinity & 0xff_ffff) | (affinity >> 32 & 0xff) << 24;
    loop {
        let typer = read64(base + GICR_TYPER);
        if typer >> 32 == packed(cpu::affinity()) {
            break;
        }
        if typer & 1 << 4 != 0 {
            report::abort(format_args!("no redistributor for affinity {:#x}", cpu::affinity()));
        }
        // With GICv4 (VLPIS, bit 1) there are two more frames.
        base += if typer & 1 << 1 != 0 { 0x4_0000 } else { 0x2_0000 };
    }
    REDISTRIBUTOR[cpu::index()].store(base, Relaxed);
    write32(base + GICR_WAKER, read32(base + GICR_WAKER) & !(1 << 1));
    while read32(base + GICR_WAKER) & 1 << 2 != 0 {}
    write32(base + SGI_FRAME + IGROUPR, !0);
    write32(base + SGI_FRAME + ICENABLER, 0xffff_0000);
    write32(base + SGI_FRAME + ISENABLER, 0xffff);
    for word in 0..8 {
        write32(base + SGI_FRAME + IPRIORITYR + word * 4, u32::from(PRIORITY) * 0x0101_0101);
    }
    msr!("S3_0_C12_C12_5", mrs!("S3_0_C12_C12_5") | 1); // ICC_SRE_EL1.SRE
    cpu::isb();
    set_mask(0xff);
    msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1: the finest split
    msr!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1: EOI drops and deactivates
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    cpu::isb();
}

/// Takes an IRQ: acknowledges it, has it handled, ends it.
pub(crate) fn handle() {
    let intid = acknowledge();
    if intid >= 1020 {
        return;
    }
    irq::deliver(intid);
    end(intid);
}

/// Reads ICC_IAR1_EL1: takes the most important interrupt.
pub fn acknowledge() -> u32 {
    let intid = mrs!("S3_0_C12_C12_0") as u32;
    cpu::dsb();
    intid
}

/// Writes ICC_EOIR1_EL1.
pub fn end(intid: u32) {
    msr!("S3_0_C12_C12_1", u64::from(intid));
    cpu::isb();
}

/// Writes ICC_DIR_EL1.
pub fn deactivate(intid: u32) {
    msr!("S3_0_C12_C11_1", u64::from(intid));
    cpu::isb();
}

/// Returns ICC_HPPIR1_EL1, the most important pending interrupt.
pub fn highest_pending() -> u32 {
    mrs!("S3_0_C12_C12_2") as u32
}

/// Returns ICC_RPR_EL1, the running priority.
pub fn running_priority() -> u64 {
    mrs!("S3_0_C12_C11_3")
}

/// Writes ICC_PMR_EL1: only priorities below (more important than) `mask` are taken.
pub fn set_mask(mask: u8) {
    msr!("S3_0_C4_C6_0", u64::from(mask));
    cpu::isb();
    cpu::dsb();
}

/// Sends SGI `intid` to one vCPU.
pub fn send(intid: u32, cpu: usize) {
    let affinity = machine().ids[cpu];
    let (aff0, aff1) = (affinity & 0xff, affinity >> 8 & 0xff);
    let (aff2, aff3) = (affinity >> 16 & 0xff, affinity >> 32 & 0xff);
    let target = 1 << (aff0 & 0xf) | (aff0 >> 4) << 44;
    send_raw(aff3 << 48 | aff2 << 32 | aff1 << 16 | u64::from(intid) << 24 | target);
}

/// Sends SGI `intid` to all vCPUs but this one.
pub fn send_others(intid: u32) {
    send_raw(1 << 40 | u64::from(intid) << 24);
}

/// Writes ICC_SGI1R_EL1 (IHI0069 12.2.23).
pub fn send_raw(value: u64) {
    // What the receiver is to find must be visible before it is told.
    cpu::dsb();
    msr!("S3_0_C12_C11_5", value);
    cpu::isb();
}

/// Enables an interrupt; SGIs and PPIs of this vCPU only.
pub fn enable(intid: u32) {
    set(intid, ISENABLER);
}

/// Disables an interrupt and waits until that holds.
pub fn disable(intid: u32) {
    set(intid, ICENABLER);
    if intid >= 32 {
        while read32(machine().chips.gicd + GICD_CTLR) & 1 << 31 != 0 {}
    }
}

/// Writes an interrupt's bit to one of the set or clear registers, say [`ISPENDR`].
pub fn set(intid: u32, register: u64) {
    let (address, mask) = bit(intid, register);
    write32(address, mask);
    cpu::dsb();
}

/// Reads an interrupt's bit of a register.
pub fn is_set(intid: u32, register: u64) -> bool {
    let (address, mask) = bit(intid, register);
    read32(address) & mask != 0
}

/// Sets an interrupt's priority.
pub fn set_priority(intid: u32, priority: u8) {
    write8(frame(intid, IPRIORITYR) + u64::from(intid), priority);
}

/// How an SPI is triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By the level of its line.
    Level,
    /// By an edge.
    Edge,
}

/// Configures an SPI, which is disabled.
pub fn set_trigger(intid: u32, trigger: Trigger) {
    let address = frame(intid, ICFGR) + u64::from(intid / 16 * 4);
    let mask = 0b10 << (intid % 16 * 2);
    let others = read32(address) & !mask;
    write32(address, others | if trigger == Trigger::Edge { mask } else { 0 });
}

/// Routes an SPI to a vCPU.
pub fn route(intid: u32, cpu: usize) {
    write64(machine().chips.gicd + IROUTER + u64::from(intid) * 8, machine().ids[cpu]);
}

/// Returns the number of INTIDs the distributor has, SGIs and PPIs included.
pub fn lines() -> u32 {
    (((read32(machine().chips.gicd + GICD_TYPER) & 0x1f) + 1) * 32).min(1020)
}

/// Where the tree says the controller is; what it lacks is as on QEMU's virt machine.
#[derive(Clone, Copy, Debug)]
pub struct Chips {
    /// GICv3 distributor.
    pub gicd: u64,
    /// GICv3 redistributors, one after the other.
    pub gicr: u64,
    /// INTID of the PL011.
    pub uart_intid: u32,
}

impl Chips {
    pub(crate) const fn new() -> Self {
        Self { gicd: 0x0800_0000, gicr: 0x080a_0000, uart_intid: 33 }
    }

    /// Reads one node.
    pub(crate) fn visit(&mut self, node: &Node<'_>) {
        if node.is("arm,gic-v3") {
            self.gicd = node.reg(0).map_or(self.gicd, |(base, _)| base);
            self.gicr = node.reg(1).map_or(self.gicr, |(base, _)| base);
        } else if node.is(uart::COMPATIBLE) {
            self.uart_intid = node.cell("interrupts", 1).map_or(self.uart_intid, |spi| spi + 32);
        }
    }

    /// Does what has to be done before `main` and once the tree is read.
    pub(crate) fn init(&self) {
        init_distributor();
    }
}
