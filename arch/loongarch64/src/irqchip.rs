//! The interrupt chips of the machine itself: EIOINTC, PCH-PIC, and interrupts between cores.
//!
//! Written against traits for the registers, so that on the host it drives the chips that guests get ([`crate::vintc`]).
//!
//! A level has to be sent again if it is still there after it was acknowledged, since the PCH-PIC sends a message once.
//! So whenever an interrupt is taken its input is masked and unmasked, which sends the message anew if the cause is
//! not gone; if it goes away later, the message is withdrawn or is one that finds nothing to do.

#[cfg(test)]
mod tests;

use arch_common::mmio::Mmio;

/// The IOCSRs as the core that this runs on sees them.
pub trait Iocsr {
    /// Reads the 32 bits at `at`.
    fn read32(&self, at: u32) -> u32;
    /// Reads the 64 bits at `at`.
    fn read64(&self, at: u32) -> u64;
    /// Writes the 32 bits at `at`.
    fn write32(&self, at: u32, value: u32);
    /// Writes the 64 bits at `at`.
    fn write64(&self, at: u32, value: u64);
}

/// A device's registers, by their offsets.
pub trait Registers {
    /// Reads a 32-bit register.
    fn read32(&self, offset: usize) -> u32;
    /// Writes a 32-bit register.
    fn write32(&self, offset: usize, value: u32);
    /// Writes an 8-bit register.
    fn write8(&self, offset: usize, value: u8);
}

impl Registers for Mmio {
    fn read32(&self, offset: usize) -> u32 {
        Mmio::read32(self, offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        Mmio::write32(self, offset, value);
    }

    fn write8(&self, offset: usize, value: u8) {
        Mmio::write8(self, offset, value);
    }
}

// IOCSR addresses: Loongson 3A5000 user manual, chapters 4, 10 and 11.
const MISC_FUNC: u32 = 0x0420;
const EXT_IOI_EN: u64 = 1 << 48;
const INT_ENCODE: u64 = 1 << 49;
const IPI_STATUS: u32 = 0x1000;
const IPI_ENABLE: u32 = 0x1004;
const IPI_CLEAR: u32 = 0x100c;
const MBUF0: u32 = 0x1020;
const IPI_SEND: u32 = 0x1040;
const MAIL_SEND: u32 = 0x1048;
const NODE_TYPE: u32 = 0x14a0;
const IPMAP: u32 = 0x14c0;
const ENABLE: u32 = 0x1600;
const BOUNCE: u32 = 0x1680;
const CORE_STATUS: u32 = 0x1800;
const ROUTE: u32 = 0x1c00;

/// `IPI_SEND` and `MAIL_SEND`: the store completes when the target has it.
const BLOCKING: u32 = 1 << 31;
const CPU_SHIFT: u32 = 16;
/// `MAIL_SEND`: the upper half of a mailbox; halves are in bits 4 to 2.
const UPPER_HALF: u32 = 1 << 2;
/// The action that wakes a core from firmware's loop, and that we use between cores.
const ACTION: u32 = 0;

/// Cores of a node.
const CORES: u32 = 4;
/// 64-bit words with a bit for each vector.
const WORDS: u32 = 4;

// Offsets in the PCH-PIC: Loongson 7A1000 user manual, 5.5. Inputs from 32 up are in the next word.
const INT_ID_HIGH: usize = 0x004;
const INT_MASK: usize = 0x020;
const HTMSI_EN: usize = 0x040;
const INTEDGE: usize = 0x060;
const INTCLR: usize = 0x080;
const AUTO_CTRL0: usize = 0x0c0;
const AUTO_CTRL1: usize = 0x0e0;
const ROUTE_ENTRY: usize = 0x100;
const HTMSI_VECTOR: usize = 0x200;
const INT_POLARITY: usize = 0x3e0;
/// `ROUTE_ENTRY`: to the first HyperTransport controller.
const ROUTE_HT0: u8 = 1;

/// How a device asks for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By an edge from low to high.
    RisingEdge,
    /// By an edge from high to low.
    FallingEdge,
    /// While its line is high.
    HighLevel,
    /// While its line is low.
    LowLevel,
}

impl Trigger {
    /// What the second cell of an interrupt specifier says (devicetree binding of "loongson,pch-pic-1.0").
    pub fn from_cell(cell: u32) -> Option<Self> {
        match cell {
            1 => Some(Self::RisingEdge),
            2 => Some(Self::FallingEdge),
            4 => Some(Self::HighLevel),
            8 => Some(Self::LowLevel),
            _ => None,
        }
    }
}

/// Interrupts between cores.
#[derive(Clone, Copy, Debug)]
pub struct Ipi<I>(pub I);

impl<I: Iocsr> Ipi<I> {
    /// Forgets what firmware left, and lets interrupts from other cores through to this one.
    pub fn open(&self) {
        self.0.write64(MBUF0, 0);
        self.0.write32(IPI_CLEAR, u32::MAX);
        self.0.write32(IPI_ENABLE, u32::MAX);
    }

    /// Interrupts the core whose physical number is `core`.
    pub fn send(&self, core: u32) {
        self.0.write32(IPI_SEND, BLOCKING | core << CPU_SHIFT | ACTION);
    }

    /// Takes the interrupts that others sent to this core, and says whether there were any.
    pub fn take(&self) -> bool {
        let status = self.0.read32(IPI_STATUS);
        self.0.write32(IPI_CLEAR, status);
        status != 0
    }

    /// Starts a core that waits in firmware's loop, at the physical address `entry`. Firmware may look at the lower
    /// half of the mailbox alone, so that is written last.
    pub fn start(&self, core: u32, entry: u64) {
        let to = u64::from(BLOCKING | core << CPU_SHIFT);
        self.0.write64(MAIL_SEND, entry >> 32 << 32 | to | u64::from(UPPER_HALF));
        self.0.write64(MAIL_SEND, entry << 32 | to);
        self.send(core);
    }
}

/// EIOINTC and PCH-PIC, which bring the interrupts of devices to one core.
#[derive(Clone, Copy, Debug)]
pub struct IrqChip<I, R> {
    iocsr: I,
    pch_pic: R,
    /// The vector of input 0.
    base: u8,
    inputs: u32,
}

/// Where interrupts of devices go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The physical number of the core, of node 0: 0 to 3.
    pub core: u32,
    /// The pin of the core: 0 to 3 for HWI0 to HWI3.
    pub pin: u32,
}

impl<I: Iocsr, R: Registers> IrqChip<I, R> {
    /// Takes the chips over from firmware, with everything off. Runs on a core of node 0, where the bridge is. Input
    /// n gets vector `base + n` ("loongson,pic-base-vec").
    pub fn new(iocsr: I, pch_pic: R, base: u8, target: Target) -> Self {
        let inputs = (pch_pic.read32(INT_ID_HIGH) >> 16 & 0xff) + 1;
        let chip = Self { iocsr, pch_pic, base, inputs: inputs.min(64) };
        chip.prepare_pch_pic();
        chip.prepare_eiointc(target);
        chip
    }

    fn prepare_pch_pic(&self) {
        let r = &self.pch_pic;
        for word in 0..self.inputs.div_ceil(32) as usize {
            r.write32(INT_MASK + 4 * word, u32::MAX);
            r.write32(INTCLR + 4 * word, u32::MAX);
            r.write32(AUTO_CTRL0 + 4 * word, 0);
            r.write32(AUTO_CTRL1 + 4 * word, 0);
            r.write32(HTMSI_EN + 4 * word, u32::MAX);
        }
    }

    fn prepare_eiointc(&self, target: Target) {
        let i = &self.iocsr;
        let misc = i.read64(MISC_FUNC);
        i.write64(MISC_FUNC, misc & !INT_ENCODE | EXT_IOI_EN);
        // Node type n is node n.
        for word in 0..8 {
            i.write32(NODE_TYPE + 4 * word, 1 << (2 * word + 1) << 16 | 1 << (2 * word));
        }
        let four = |byte: u32| byte * 0x0101_0101;
        for word in 0..2 {
            i.write32(IPMAP + 4 * word, four(1 << (target.pin % 4)));
        }
        for word in 0..64 {
            i.write32(ROUTE + 4 * word, four(1 << (target.core % CORES)));
        }
        for word in 0..WORDS {
            i.write64(ENABLE + 8 * word, 0);
            i.write64(BOUNCE + 8 * word, 0);
            i.write64(CORE_STATUS + 8 * word, u64::MAX);
        }
    }

    /// The vector of an input, if it exists.
    fn vector(&self, input: u32) -> Option<u8> {
        let vector = self.base.checked_add(u8::try_from(input).ok()?)?;
        (input < self.inputs).then_some(vector)
    }

    /// Opens an input, on the target core, and forgets what it asked for before. False: there is no such input.
    pub fn open(&self, input: u32, trigger: Trigger) -> bool {
        let Some(vector) = self.vector(input) else { return false };
        self.mask(input);
        let low = matches!(trigger, Trigger::LowLevel | Trigger::FallingEdge);
        let edge = matches!(trigger, Trigger::RisingEdge | Trigger::FallingEdge);
        self.pch_pic.write8(HTMSI_VECTOR + input as usize, vector);
        self.pch_pic.write8(ROUTE_ENTRY + input as usize, ROUTE_HT0);
        self.set_bit(INT_POLARITY, input, low);
        self.set_bit(INTEDGE, input, edge);
        let at = ENABLE + u32::from(vector / 32) * 4;
        self.iocsr.write32(at, self.iocsr.read32(at) | 1 << (vector % 32));
        self.acknowledge(vector);
        self.unmask(input);
        true
    }

    /// Stops an input from interrupting.
    pub fn mask(&self, input: u32) {
        if input < self.inputs {
            self.set_bit(INT_MASK, input, true);
        }
    }

    /// Lets an input interrupt again: at once, if it is a level that is asserted.
    pub fn unmask(&self, input: u32) {
        if input < self.inputs {
            self.pch_pic.write32(INTCLR + 4 * (input / 32) as usize, 1 << (input % 32));
            self.set_bit(INT_MASK, input, false);
        }
    }

    fn acknowledge(&self, vector: u8) {
        self.iocsr.write64(CORE_STATUS + 8 * u32::from(vector / 64), 1 << (vector % 64));
    }

    fn set_bit(&self, register: usize, input: u32, set: bool) {
        let (at, bit) = (register + 4 * (input / 32) as usize, 1 << (input % 32));
        let old = self.pch_pic.read32(at);
        self.pch_pic.write32(at, if set { old | bit } else { old & !bit });
    }

    /// Takes an interrupt that is pending for this core: the input that it came from.
    pub fn take(&self) -> Option<u32> {
        for word in 0..WORDS {
            let mut pending = self.iocsr.read64(CORE_STATUS + 8 * word);
            while pending != 0 {
                let vector = (64 * word + pending.trailing_zeros()) as u8;
                pending &= pending - 1;
                self.acknowledge(vector);
                // Others should not be seen, since they are not enabled; should one be, that was all it gets.
                let input = vector.checked_sub(self.base).map(u32::from);
                if let Some(input) = input.filter(|input| *input < self.inputs) {
                    self.mask(input);
                    self.unmask(input);
                    return Some(input);
                }
            }
        }
        None
    }
}
