//! Interrupts: this core's lines, IPIs, the EIOINTC, the PCH-PIC and the MSI window.
//!
//! An interrupt's number is that of its IPI, or 32 and the line in ESTAT.IS, or 64 and the vector of the EIOINTC.

use super::power::Switch;
use super::{csr, iocsr, uart};
use crate::start::machine;
use crate::tree::Node;
use crate::{change_csr, csr, irq, mmio};

/// Numbers below this are IPIs.
pub const IPIS: u32 = 32;
/// The number of line 0 of ESTAT.IS.
pub const LINES: u32 = 32;
/// The number of this core's timer: line 11.
pub const TIMER: u32 = LINES + 11;
/// The number of vector 0 of the EIOINTC.
pub const VECTORS: u32 = 64;
/// The number that says "none".
pub const NONE: u32 = u32::MAX;

/// The lines of ESTAT.IS that hardware raises from outside the core (HWI0 to HWI7).
const HWI: u64 = 0xff << 2;
const IPI: u64 = 1 << 12;
/// The line that the EIOINTC drives, HWI1, as its registers name it: a bit of eight.
const PARENT: u32 = 1 << 1;

/// PCH-PIC: identification.
pub const PIC_ID: u64 = 0x00;
/// PCH-PIC: masks, a bit for each of 64 inputs.
pub const PIC_MASK: u64 = 0x20;
/// PCH-PIC: which inputs become messages.
pub const PIC_HTMSI_EN: u64 = 0x40;
/// PCH-PIC: which inputs are edges.
pub const PIC_EDGE: u64 = 0x60;
/// PCH-PIC: clears edges.
pub const PIC_CLEAR: u64 = 0x80;
/// PCH-PIC: how inputs are distributed, both words.
pub const PIC_AUTO_CTRL: u64 = 0xc0;
/// PCH-PIC: output of each input, a byte each.
pub const PIC_ROUTE: u64 = 0x100;
/// PCH-PIC: vector of each input, a byte each.
pub const PIC_VECTOR: u64 = 0x200;
/// PCH-PIC: what inputs ask for.
pub const PIC_IRR: u64 = 0x380;
/// PCH-PIC: what is passed on.
pub const PIC_ISR: u64 = 0x3a0;
/// PCH-PIC: which inputs are active low.
pub const PIC_POLARITY: u64 = 0x3e0;

/// Sends an IPI to one vCPU.
pub fn send(ipi: u32, cpu: usize) {
    ipi_send(machine().ids[cpu], ipi);
}

/// Sends an IPI to a core by its number, which need not exist.
pub fn ipi_send(core: u64, action: u32) {
    // What the receiver is to find must be visible before it is told.
    crate::cpu::sync();
    iocsr::write32(iocsr::IPI_SEND, 1 << 31 | (core as u32 & 0x3ff) << 16 | action & 0x1f);
}

/// Lets this core take IPIs, its timer, and what the EIOINTC brings it.
pub(crate) fn init_cpu() {
    iocsr::write32(iocsr::IPI_CLEAR, u32::MAX);
    iocsr::write32(iocsr::IPI_EN, u32::MAX);
    change_csr!(csr::ECFG, 0x1fff, IPI | 1 << (TIMER - LINES) | HWI);
}

/// Enables an interrupt.
pub fn enable(number: u32) {
    set_enabled(number, u32::MAX);
}

/// Disables an interrupt.
pub fn disable(number: u32) {
    set_enabled(number, 0);
}

fn set_enabled(number: u32, bits: u32) {
    let bit = 1 << (number % 32);
    match number {
        0..LINES => {
            let others = iocsr::read32(iocsr::IPI_EN) & !bit;
            iocsr::write32(iocsr::IPI_EN, others | bits & bit);
        }
        LINES..VECTORS => {
            change_csr!(csr::ECFG, bit.into(), (bits & bit).into());
        }
        _ => {
            let register = iocsr::EIO_ENABLE + u64::from((number - VECTORS) / 32 * 4);
            iocsr::write32(register, iocsr::read32(register) & !bit | bits & bit);
        }
    }
}

/// Takes the most important interrupt: clears it where that does not silence a device, and returns its number.
pub fn acknowledge() -> u32 {
    let pending = csr!(csr::ESTAT) & csr!(csr::ECFG) & 0x1fff;
    if pending & IPI != 0 {
        let status = iocsr::read32(iocsr::IPI_STATUS) & iocsr::read32(iocsr::IPI_EN);
        if status != 0 {
            iocsr::write32(iocsr::IPI_CLEAR, 1 << status.trailing_zeros());
            return status.trailing_zeros();
        }
    }
    if pending & HWI != 0 {
        for word in 0..4 {
            let isr = iocsr::read64(iocsr::EIO_ISR + word * 8);
            if isr != 0 {
                iocsr::write64(iocsr::EIO_ISR + word * 8, 1 << isr.trailing_zeros());
                return VECTORS + word as u32 * 64 + isr.trailing_zeros();
            }
        }
    }
    let line = pending & !(IPI | HWI);
    if line == 0 {
        return NONE;
    }
    let line = 63 - line.leading_zeros();
    if line < 2 {
        // Software's own two lines.
        change_csr!(csr::ESTAT, 1 << line, 0);
    }
    LINES + line
}

/// Ends an interrupt: nothing is left to do.
pub fn end(_: u32) {}

/// Takes an interrupt and has it handled.
pub(crate) fn handle() {
    let number = acknowledge();
    if number != NONE {
        irq::deliver(number);
    }
}

/// Routes a vector of the EIOINTC to a vCPU.
pub fn route(vector: u32, cpu: usize) {
    // A bit for each of four cores of a node; plain QEMU takes whole words only.
    let (register, shift) = (iocsr::EIO_COREMAP + u64::from(vector & !3), vector % 4 * 8);
    let others = iocsr::read32(register) & !(0xff << shift);
    iocsr::write32(register, others | 1 << (machine().ids[cpu] & 3) << shift);
}

/// Sends a message-signalled interrupt.
pub fn message(vector: u32) {
    mmio::write32(machine().chips.msi, vector);
}

/// What the tree says of the machine's chips; what it lacks is as on QEMU's virt machine.
#[derive(Clone, Copy, Debug)]
pub struct Chips {
    /// The PCH-PIC's registers.
    pub pic: u64,
    /// The window that takes messages.
    pub msi: u64,
    /// The first vector that messages may have.
    pub msi_first: u32,
    /// Input of the PCH-PIC that the console drives.
    pub uart_input: u32,
    /// The real-time clock's registers.
    pub rtc: u64,
    /// Powers the machine off.
    pub off: Switch,
    /// Resets the machine.
    pub reset: Switch,
}

impl Chips {
    pub(crate) const fn new() -> Self {
        Self {
            pic: 0x1000_0000,
            msi: 0x2ff0_0000,
            msi_first: 32,
            uart_input: 2,
            rtc: 0x100d_0100,
            off: Switch { address: 0x100e_001c, value: 0x34 },
            reset: Switch { address: 0x100e_001e, value: 0x42 },
        }
    }

    /// Reads one node.
    pub(crate) fn visit(&mut self, node: &Node<'_>) {
        let base = |default| node.reg(0).map_or(default, |(base, _)| base);
        if node.is("loongson,pch-pic-1.0") {
            self.pic = base(self.pic);
        } else if node.is("loongson,pch-msi-1.0") {
            self.msi = base(self.msi);
            self.msi_first = node.cell("loongson,msi-base-vec", 0).unwrap_or(self.msi_first);
        } else if node.is(uart::COMPATIBLE) && base(0) == uart::DEFAULT {
            self.uart_input = node.cell("interrupts", 0).unwrap_or(self.uart_input);
        } else if node.is("loongson,ls7a-rtc") {
            self.rtc = base(self.rtc);
        } else if node.is("syscon-poweroff") {
            self.off = switch(node).unwrap_or(self.off);
        } else if node.is("syscon-reboot") {
            self.reset = switch(node).unwrap_or(self.reset);
        }
    }

    /// Sets them up: see [`reset`].
    pub(crate) fn init(&self) {
        reset_at(self.pic);
    }
}

/// Sets the chips up as at the start.
pub fn reset() {
    reset_at(machine().chips.pic);
    init_cpu();
}

/// Sets the EIOINTC up as Linux does: every vector goes to the first core by the line that is in the tree. Everything is
/// masked.
fn reset_at(pic: u64) {
    iocsr::write64(iocsr::MISC_FUNC, iocsr::read64(iocsr::MISC_FUNC) & !(1 << 49) | 1 << 48);
    for pair in 0..4 {
        iocsr::write32(iocsr::EIO_NODEMAP + pair * 4, 1 << (2 * pair + 17) | 1 << (2 * pair));
    }
    for half in 0..2 {
        iocsr::write32(iocsr::EIO_IPMAP + half * 4, PARENT * 0x0101_0101);
    }
    for word in 0..8 {
        iocsr::write32(iocsr::EIO_ENABLE + word * 4, 0);
        iocsr::write32(iocsr::EIO_BOUNCE + word * 4, 0);
    }
    for quad in 0..64 {
        iocsr::write32(iocsr::EIO_COREMAP + quad * 4, 0x0101_0101);
    }
    mmio::write32(pic + PIC_MASK, u32::MAX);
    mmio::write32(pic + PIC_EDGE, 0);
    mmio::write32(pic + PIC_POLARITY, 0);
    mmio::write32(pic + PIC_HTMSI_EN, u32::MAX);
}

/// Reads what a syscon-poweroff or syscon-reboot node says.
fn switch(node: &Node<'_>) -> Option<Switch> {
    let (base, _) = node.by_phandle(node.cell("regmap", 0)?)?.reg(0)?;
    let value = node.cell("value", 0)?.try_into().ok()?;
    Some(Switch { address: base + u64::from(node.cell("offset", 0)?), value })
}
