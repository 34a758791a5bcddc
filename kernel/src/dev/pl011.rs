//! An emulated PL011 UART, revision r1p5 (DDI0183G).
//!
//! Only what software can observe is modelled. Bytes move without delay: what the guest sends is in the port at
//! once, and the transmit FIFO fills only while the port is full; the receive FIFO is refilled from the port
//! whenever the device is touched. Baud rate and line format are stored and ignored, and neither direction waits
//! for UARTCR, because early consoles of guests rely on firmware to have set it.
//!
//! The receive timeout has no clock here. Hardware raises it 32 bit times after the last byte if the FIFO is not
//! empty; we raise it at once, and clearing it while data waits has no effect. A driver that empties the FIFO and
//! then clears its interrupts can therefore not lose the byte that came between.

use bitflags::bitflags;

use crate::dev::{Fifo, Level, Port, Uart};

/// The depth of each FIFO since r1p5; drivers learn it from the revision in UARTPeriphID2.
const DEPTH: usize = 32;

// Offsets, DDI0183G table 3-1.
const DR: u64 = 0x000;
const RSR_ECR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02C;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03C;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
const PERIPH_ID0: u64 = 0xFE0;
const PCELL_ID3: u64 = 0xFFC;

/// UARTPeriphID0-3 (part 0x011, designer 0x41, revision 3 = r1p5) and UARTPCellID0-3, DDI0183G 3.3.14-15.
const ID: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1];

/// UARTDR and UARTRSR: overrun.
const DR_OE: u16 = 1 << 11;
const RSR_OE: u32 = 1 << 3;
/// UARTLCR_H: FIFOs enabled.
const LCR_FEN: u32 = 1 << 4;
/// UARTCR: loopback, and the bits that exist.
const CR_LBE: u32 = 1 << 7;
const CR_MASK: u32 = 0xFF87;

bitflags! {
    /// UARTFR.
    struct Flags: u32 {
        const CTS = 1 << 0;
        const DSR = 1 << 1;
        const DCD = 1 << 2;
        const BUSY = 1 << 3;
        const RXFE = 1 << 4;
        const TXFF = 1 << 5;
        const RXFF = 1 << 6;
        const TXFE = 1 << 7;
    }

    /// UARTRIS, UARTMIS, UARTIMSC and UARTICR.
    #[derive(Clone, Copy)]
    struct Interrupts: u32 {
        const RX = 1 << 4;
        const TX = 1 << 5;
        const RT = 1 << 6;
        const OE = 1 << 10;
        /// The others exist, and never happen: modem lines and line errors.
        const IDLE = 0x38F;
    }
}

/// One UART as a guest sees it.
pub struct Pl011 {
    /// What waits to be read: data in bits 7:0, UARTDR's error bits above.
    rx: Fifo<u16, DEPTH>,
    /// What the port has not taken yet.
    tx: Fifo<u8, DEPTH>,
    /// The causes that stay until cleared: RX, TX and OE. RT follows from the FIFO.
    raised: Interrupts,
    /// UARTRSR.
    status: u32,
    /// UARTDR's error bits of the next byte to arrive.
    error: u16,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    dmacr: u32,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart for Pl011 {
    fn access(&mut self, offset: u64, width: u8, store: Option<u64>, port: &mut impl Port) -> u64 {
        let shift = (offset % 4) * 8;
        let lanes = u32::MAX >> (32 - 8 * u32::from(width.clamp(1, 4)));
        let register = offset - offset % 4;
        self.poll(port);
        match store {
            Some(value) => {
                let lanes = u64::from(lanes) << shift;
                let value = (value << shift) & lanes;
                self.write(register, value as u32, lanes as u32, port);
                0
            }
            None => {
                let value = self.read(register, port) >> shift;
                u64::from(value & lanes)
            }
        }
    }

    fn poll(&mut self, port: &mut impl Port) {
        self.send(port);
        while self.rx.len() < self.depth() {
            let Some(byte) = port.get() else { break };
            self.receive(byte);
        }
        if port.take_overrun() {
            self.overrun();
        }
    }

    fn level(&self) -> Level {
        match self.causes().bits() & self.imsc {
            0 => Level::Low,
            _ => Level::High,
        }
    }
}

impl Pl011 {
    /// A UART at reset.
    pub fn new() -> Self {
        Self {
            rx: Fifo::new(),
            tx: Fifo::new(),
            raised: Interrupts::empty(),
            status: 0,
            error: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: 0x300,
            ifls: 0x12,
            imsc: 0,
            dmacr: 0,
        }
    }

    fn read(&mut self, register: u64, port: &mut impl Port) -> u32 {
        match register {
            DR => self.take(port).into(),
            RSR_ECR => self.status,
            FR => self.flags().bits(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.causes().bits(),
            MIS => self.causes().bits() & self.imsc,
            DMACR => self.dmacr,
            PERIPH_ID0..=PCELL_ID3 => ID[(register - PERIPH_ID0) as usize / 4].into(),
            _ => 0,
        }
    }

    /// Writes the `lanes` of `value` that the access covers; the other bits of a register stay.
    fn write(&mut self, register: u64, value: u32, lanes: u32, port: &mut impl Port) {
        let set = |field: &mut u32, mask: u32| *field = (*field & !lanes | value) & mask;
        match register {
            DR if lanes & 0xFF != 0 => self.transmit(value as u8, port),
            RSR_ECR => self.status = 0,
            ILPR => set(&mut self.ilpr, 0xFF),
            IBRD => set(&mut self.ibrd, 0xFFFF),
            FBRD => set(&mut self.fbrd, 0x3F),
            LCR_H => {
                set(&mut self.lcr_h, 0xFF);
                self.poll(port);
            }
            CR => set(&mut self.cr, CR_MASK),
            IFLS => set(&mut self.ifls, 0x3F),
            IMSC => set(&mut self.imsc, Interrupts::all().bits()),
            ICR => self.raised.remove(Interrupts::from_bits_truncate(value)),
            DMACR => set(&mut self.dmacr, 7),
            _ => {}
        }
    }

    /// The guest reads UARTDR: the oldest byte and its errors, or zero.
    fn take(&mut self, port: &mut impl Port) -> u16 {
        let entry = self.rx.pop().unwrap_or(0);
        if self.rx.len() < self.rx_trigger() {
            self.raised.remove(Interrupts::RX);
        }
        self.poll(port);
        entry
    }

    /// A byte arrives.
    fn receive(&mut self, byte: u8) {
        if self.rx.len() >= self.depth() {
            return self.overrun();
        }
        self.rx.push(u16::from(byte) | core::mem::take(&mut self.error));
        if self.rx.len() >= self.rx_trigger() {
            self.raised.insert(Interrupts::RX);
        }
    }

    /// A byte was lost; the next one that arrives says so.
    fn overrun(&mut self) {
        self.error = DR_OE;
        self.status = RSR_OE;
        self.raised.insert(Interrupts::OE);
    }

    /// The guest writes UARTDR.
    fn transmit(&mut self, byte: u8, port: &mut impl Port) {
        if self.cr & CR_LBE != 0 {
            self.receive(byte);
            self.raised.insert(Interrupts::TX);
        } else if self.tx.is_empty() && port.put(byte).is_ok() {
            self.raised.insert(Interrupts::TX);
        } else if self.tx.len() < self.depth() {
            self.tx.push(byte);
            if self.tx.len() > self.tx_trigger() {
                self.raised.remove(Interrupts::TX);
            }
        }
    }

    /// Sends what had to wait. The interrupt reports that the FIFO fell to its trigger level, or became empty.
    fn send(&mut self, port: &mut impl Port) {
        let before = self.tx.len();
        self.tx.drain(port);
        let (after, trigger) = (self.tx.len(), self.tx_trigger());
        if after < before && after <= trigger && (before > trigger || after == 0) {
            self.raised.insert(Interrupts::TX);
        }
    }

    fn flags(&self) -> Flags {
        let mut flags = Flags::CTS | Flags::DSR | Flags::DCD;
        flags.set(Flags::BUSY, !self.tx.is_empty());
        flags.set(Flags::TXFE, self.tx.is_empty());
        flags.set(Flags::TXFF, self.tx.len() >= self.depth());
        flags.set(Flags::RXFE, self.rx.is_empty());
        flags.set(Flags::RXFF, self.rx.len() >= self.depth());
        flags
    }

    /// UARTRIS. Below the trigger level, waiting data counts as timed out.
    fn causes(&self) -> Interrupts {
        let mut causes = self.raised;
        causes.set(Interrupts::RT, !self.rx.is_empty() && !causes.contains(Interrupts::RX));
        causes
    }

    /// How many bytes each direction holds: with the FIFOs off, one (DDI0183G 2.4.2).
    fn depth(&self) -> usize {
        if self.lcr_h & LCR_FEN == 0 { 1 } else { DEPTH }
    }

    /// The number of bytes at which UARTRXINTR is raised.
    fn rx_trigger(&self) -> usize {
        if self.lcr_h & LCR_FEN == 0 { 1 } else { trigger(self.ifls >> 3) }
    }

    /// The number of bytes to which the transmit FIFO must fall for UARTTXINTR.
    fn tx_trigger(&self) -> usize {
        if self.lcr_h & LCR_FEN == 0 { 0 } else { trigger(self.ifls) }
    }
}

/// A field of UARTIFLS in bytes: 1/8, 1/4, 1/2, 3/4, 7/8 of the FIFO; reserved values mean the last.
fn trigger(select: u32) -> usize {
    DEPTH
        * match select % 8 {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 6,
            _ => 7,
        }
        / 8
}
