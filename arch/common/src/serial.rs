//! Physical consoles: PL011 and 16550, as the kernel's [`Serial`].
//!
//! The published drivers (arm-pl011-uart, uart_16550) program the line themselves and keep their registers private.
//! A hypervisor's console was set up by firmware, whose clock it does not know, so these two keep what they find and
//! turn on only what is off.

use kernel::console::{Interrupts, Serial};
use kernel::ring::Full;

/// A UART's registers by index, in units of the device's own register spacing.
pub trait Registers {
    /// Reads a register.
    fn read(&mut self, index: usize) -> u32;
    /// Writes a register.
    fn write(&mut self, index: usize, value: u32);
}

/// The width of one access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

impl Width {
    /// The width of `reg-io-width` bytes.
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Half),
            4 => Some(Self::Word),
            _ => None,
        }
    }
}

/// The models there are drivers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Arm PrimeCell PL011.
    Pl011,
    /// The part of a PL011 that Arm's base system architecture requires: no line control.
    Sbsa,
    /// 16550 and its many descendants.
    Ns16550,
}

impl Model {
    /// The model that a `compatible` string of a device tree names.
    pub fn from_compatible(compatible: &str) -> Option<Self> {
        match compatible {
            "arm,pl011" => Some(Self::Pl011),
            "arm,sbsa-uart" => Some(Self::Sbsa),
            "ns16550"
            | "ns16550a"
            | "ns16450"
            | "ns8250"
            | "snps,dw-apb-uart"
            | "brcm,bcm2835-aux-uart"
            | "nvidia,tegra20-uart" => Some(Self::Ns16550),
            _ => None,
        }
    }

    /// Where its registers are if the tree does not say: `reg-shift` and the access width.
    pub fn layout(self) -> (u32, Width) {
        match self {
            Self::Pl011 | Self::Sbsa => (2, Width::Word),
            Self::Ns16550 => (0, Width::Byte),
        }
    }
}

/// Registers in memory.
#[derive(Debug)]
pub struct Window {
    base: usize,
    shift: u32,
    width: Width,
}

impl Window {
    /// Registers at `base`, `1 << shift` bytes apart.
    ///
    /// # Safety
    ///
    /// From `base` up, 18 registers of a UART (which is what the drivers here reach) are mapped as device memory for
    /// as long as the window exists, aligned to `width`, and nobody else uses them meanwhile.
    pub unsafe fn new(base: usize, shift: u32, width: Width) -> Self {
        Self { base, shift, width }
    }

    fn at<T>(&self, index: usize) -> *mut T {
        core::ptr::with_exposed_provenance_mut(self.base + (index << self.shift))
    }
}

impl Registers for Window {
    fn read(&mut self, index: usize) -> u32 {
        // SAFETY: `Window::new` was promised that the register is there and is ours.
        unsafe {
            match self.width {
                Width::Byte => self.at::<u8>(index).read_volatile().into(),
                Width::Half => self.at::<u16>(index).read_volatile().into(),
                Width::Word => self.at::<u32>(index).read_volatile(),
            }
        }
    }

    fn write(&mut self, index: usize, value: u32) {
        // SAFETY: as for `read`.
        unsafe {
            match self.width {
                Width::Byte => self.at::<u8>(index).write_volatile(value as u8),
                Width::Half => self.at::<u16>(index).write_volatile(value as u16),
                Width::Word => self.at::<u32>(index).write_volatile(value),
            }
        }
    }
}

/// A physical console of either kind.
#[derive(Debug)]
pub enum Uart<R = Window> {
    /// PL011 and its base-system subset.
    Pl011(Pl011<R>),
    /// 16550.
    Ns16550(Ns16550<R>),
}

impl<R: Registers> Uart<R> {
    /// Takes the UART over from firmware, with its interrupts off. Taking it over again, for a panic, does no harm.
    pub fn new(model: Model, registers: R) -> Self {
        match model {
            Model::Pl011 => Self::Pl011(Pl011::new(registers)),
            Model::Sbsa => Self::Pl011(Pl011::sbsa(registers)),
            Model::Ns16550 => Self::Ns16550(Ns16550::new(registers)),
        }
    }
}

impl<R: Registers> Serial for Uart<R> {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        match self {
            Self::Pl011(uart) => uart.put(byte),
            Self::Ns16550(uart) => uart.put(byte),
        }
    }

    fn get(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.get(),
            Self::Ns16550(uart) => uart.get(),
        }
    }

    fn interrupts(&mut self, want: Interrupts) {
        match self {
            Self::Pl011(uart) => uart.interrupts(want),
            Self::Ns16550(uart) => uart.interrupts(want),
        }
    }
}

/// PL011 registers and bits, DDI0183G chapter 3.
mod pl011 {
    pub(super) const DR: usize = 0;
    pub(super) const FR: usize = 0x18 / 4;
    pub(super) const LCR_H: usize = 0x2C / 4;
    pub(super) const CR: usize = 0x30 / 4;
    pub(super) const IFLS: usize = 0x34 / 4;
    pub(super) const IMSC: usize = 0x38 / 4;
    pub(super) const ICR: usize = 0x44 / 4;

    /// Framing, parity and break: the byte means nothing.
    pub(super) const DR_BROKEN: u32 = 0x700;
    pub(super) const FR_BUSY: u32 = 1 << 3;
    pub(super) const FR_RXFE: u32 = 1 << 4;
    pub(super) const FR_TXFF: u32 = 1 << 5;
    pub(super) const LCR_FEN: u32 = 1 << 4;
    pub(super) const LCR_WLEN8: u32 = 3 << 5;
    pub(super) const CR_ON: u32 = 1 << 9 | 1 << 8 | 1;
    /// Receive at half full (a pause reports less), transmit when nearly empty.
    pub(super) const IFLS_LEVELS: u32 = 2 << 3;
    pub(super) const INT_RECEIVE: u32 = 1 << 6 | 1 << 4;
    pub(super) const INT_TRANSMIT: u32 = 1 << 5;
    pub(super) const INT_ALL: u32 = 0x7FF;
}

/// How often to look whether a UART finished what firmware sent, and how many broken bytes to skip in a row.
const LOOKS: usize = 100_000;
const BROKEN: usize = 32;

/// A physical PL011.
#[derive(Debug)]
pub struct Pl011<R> {
    registers: R,
}

impl<R: Registers> Pl011<R> {
    /// Takes over a full PL011: turns the FIFOs and both directions on if they are off. The line can only be changed
    /// while the UART is off and quiet (DDI0183G 3.3.8).
    pub fn new(mut registers: R) -> Self {
        use pl011::*;
        let (line, control) = (registers.read(LCR_H), registers.read(CR));
        if line & LCR_FEN == 0 || control & CR_ON != CR_ON {
            for _ in 0..LOOKS {
                if registers.read(FR) & FR_BUSY == 0 {
                    break;
                }
            }
            registers.write(CR, 0);
            registers.write(LCR_H, LCR_WLEN8 | LCR_FEN);
            registers.write(CR, control | CR_ON);
        }
        registers.write(IFLS, IFLS_LEVELS);
        Self::sbsa(registers)
    }

    /// Takes over a base-system UART, which is on.
    pub fn sbsa(mut registers: R) -> Self {
        registers.write(pl011::IMSC, 0);
        registers.write(pl011::ICR, pl011::INT_ALL);
        Self { registers }
    }
}

impl<R: Registers> Serial for Pl011<R> {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        if self.registers.read(pl011::FR) & pl011::FR_TXFF != 0 {
            return Err(Full);
        }
        self.registers.write(pl011::DR, byte.into());
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        for _ in 0..BROKEN {
            if self.registers.read(pl011::FR) & pl011::FR_RXFE != 0 {
                return None;
            }
            let data = self.registers.read(pl011::DR);
            if data & pl011::DR_BROKEN == 0 {
                return Some(data as u8);
            }
        }
        None
    }

    fn interrupts(&mut self, want: Interrupts) {
        let mask = match want {
            Interrupts::Receive => pl011::INT_RECEIVE,
            Interrupts::ReceiveAndTransmit => pl011::INT_RECEIVE | pl011::INT_TRANSMIT,
        };
        self.registers.write(pl011::IMSC, mask);
    }
}

/// 16550 registers and bits, PC16550D data sheet table 2.
mod ns16550 {
    pub(super) const DATA: usize = 0;
    pub(super) const IER: usize = 1;
    pub(super) const IIR_FCR: usize = 2;
    pub(super) const LCR: usize = 3;
    pub(super) const MCR: usize = 4;
    pub(super) const LSR: usize = 5;

    pub(super) const IER_RECEIVE: u32 = 1;
    pub(super) const IER_TRANSMIT: u32 = 2;
    pub(super) const FCR_ON: u32 = 1;
    /// Bits of IIR that say what is pending, and receive timeout among them.
    pub(super) const IIR_PENDING: u32 = 0xF;
    pub(super) const IIR_TIMEOUT: u32 = 0xC;
    pub(super) const IIR_FIFO: u32 = 0xC0;
    pub(super) const LCR_8N1: u32 = 3;
    /// DTR, RTS, and OUT2, which many boards put between the UART and its interrupt line.
    pub(super) const MCR_ON: u32 = 0xB;
    pub(super) const LSR_DATA: u32 = 1;
    /// Parity, framing and break: the byte means nothing.
    pub(super) const LSR_BROKEN: u32 = 0x1C;
    pub(super) const LSR_EMPTY: u32 = 1 << 5;
    /// What a bus without a device answers.
    pub(super) const LSR_ABSENT: u32 = 0xFF;
}

/// A physical 16550.
#[derive(Debug)]
pub struct Ns16550<R> {
    registers: R,
    /// How many bytes the transmitter holds, and how many of them are free as far as we know.
    depth: u8,
    free: u8,
}

impl<R: Registers> Ns16550<R> {
    /// Takes over a 16550. Its line control is written only if it must change, because Synopsys' variant raises an
    /// interrupt when it is written while the line is busy.
    pub fn new(mut registers: R) -> Self {
        use ns16550::*;
        if registers.read(LCR) != LCR_8N1 {
            registers.write(LCR, LCR_8N1);
        }
        registers.write(IER, 0);
        registers.write(IIR_FCR, FCR_ON);
        registers.write(MCR, MCR_ON);
        let depth = if registers.read(IIR_FCR) & IIR_FIFO == IIR_FIFO { 16 } else { 1 };
        Self { registers, depth, free: 0 }
    }
}

impl<R: Registers> Serial for Ns16550<R> {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        if self.free == 0 {
            if self.registers.read(ns16550::LSR) & ns16550::LSR_EMPTY == 0 {
                return Err(Full);
            }
            self.free = self.depth;
        }
        self.free -= 1;
        self.registers.write(ns16550::DATA, byte.into());
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        for _ in 0..BROKEN {
            let status = self.registers.read(ns16550::LSR) & 0xFF;
            if status == ns16550::LSR_ABSENT {
                return None;
            }
            if status & ns16550::LSR_DATA == 0 {
                // Synopsys' variant can report a timeout with nothing received; only reading ends it.
                if self.registers.read(ns16550::IIR_FCR) & ns16550::IIR_PENDING == ns16550::IIR_TIMEOUT {
                    self.registers.read(ns16550::DATA);
                }
                return None;
            }
            let data = self.registers.read(ns16550::DATA) as u8;
            if status & ns16550::LSR_BROKEN == 0 {
                return Some(data);
            }
        }
        None
    }

    fn interrupts(&mut self, want: Interrupts) {
        let enable = match want {
            Interrupts::Receive => ns16550::IER_RECEIVE,
            Interrupts::ReceiveAndTransmit => ns16550::IER_RECEIVE | ns16550::IER_TRANSMIT,
        };
        self.registers.write(ns16550::IER, enable);
    }
}

#[cfg(test)]
mod tests;
