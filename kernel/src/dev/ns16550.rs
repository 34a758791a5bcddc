//! An emulated 16550A UART (National Semiconductor PC16550D data sheet of June 1995; section numbers are its).
//!
//! Only what software can observe is modelled. Bytes move without delay: what the guest sends is in the port at
//! once, and the transmit FIFO fills only while the port is full; the receive FIFO is refilled from the port
//! whenever the device is touched. Divisor and line format are stored and ignored. The modem lines say that
//! somebody is there and ready, always, but in loopback, where they are what MCR says.
//!
//! The character timeout has no clock here: data that waits below the trigger level has timed out. The interrupt
//! output does not go through OUT2, which gates it on the PC's adapter and nowhere else.

use bitflags::bitflags;

use crate::dev::{Fifo, Level, Port, Uart};

/// The depth of each FIFO.
const DEPTH: usize = 16;

// Offsets, 8.0. The first two are the divisor while LCR says so.
const RBR_THR_DLL: u64 = 0;
const IER_DLM: u64 = 1;
const IIR_FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

/// LCR: the first two registers are the divisor.
const LCR_DLAB: u8 = 1 << 7;

/// IIR, 8.6: nothing pending; the causes, most urgent first; FIFOs enabled.
const IIR_NONE: u8 = 0x01;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_DATA: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_FIFOS: u8 = 0xC0;

/// FCR: enable, and what it clears when it is written.
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
const FCR_CLEAR_TX: u8 = 1 << 2;

bitflags! {
    /// IER.
    #[derive(Clone, Copy)]
    struct Enabled: u8 {
        /// ERBFI: received data.
        const DATA = 1 << 0;
        /// ETBEI: the transmitter is empty.
        const EMPTY = 1 << 1;
        /// ELSI: line status.
        const LINE_STATUS = 1 << 2;
        /// EDSSI: modem status.
        const MODEM_STATUS = 1 << 3;
    }

    /// LSR. Line errors other than overrun never happen.
    #[derive(Clone, Copy)]
    struct LineStatus: u8 {
        const DR = 1 << 0;
        const OE = 1 << 1;
        const THRE = 1 << 5;
        const TEMT = 1 << 6;
    }

    /// MCR.
    #[derive(Clone, Copy)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOP = 1 << 4;
    }

    /// MSR: four lines, and below them whether they changed since it was read.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct ModemStatus: u8 {
        const DCTS = 1 << 0;
        const DDSR = 1 << 1;
        const TERI = 1 << 2;
        const DDCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
    }
}

/// One UART as a guest sees it.
pub struct Ns16550 {
    /// What waits to be read.
    rx: Fifo<u8, DEPTH>,
    /// What the port has not taken yet.
    tx: Fifo<u8, DEPTH>,
    /// LSR.OE.
    overrun: bool,
    /// The transmitter became empty, and nobody was told.
    emptied: bool,
    /// The lower half of MSR.
    changes: ModemStatus,
    divisor: [u8; 2],
    enabled: Enabled,
    /// FCR, but for the bits that only act.
    fcr: u8,
    lcr: u8,
    mcr: ModemControl,
    scr: u8,
}

impl Default for Ns16550 {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart for Ns16550 {
    /// Registers are a byte wide, so of a wider access only the byte at `offset` counts.
    fn access(&mut self, offset: u64, _width: u8, store: Option<u64>, port: &mut impl Port) -> u64 {
        self.poll(port);
        match store {
            Some(value) => {
                self.write(offset, value as u8, port);
                0
            }
            None => self.read(offset, port).into(),
        }
    }

    fn poll(&mut self, port: &mut impl Port) {
        self.send(port);
        while !self.loops() && self.rx.len() < self.depth() {
            let Some(byte) = port.get() else { break };
            self.receive(byte);
        }
        self.overrun |= port.take_overrun();
    }

    fn level(&self) -> Level {
        match self.cause() {
            Some(_) => Level::High,
            None => Level::Low,
        }
    }
}

impl Ns16550 {
    /// A UART at reset. The divisor is that of 9600 baud at the usual clock of 1.8432 MHz (8.3), because drivers that
    /// rely on firmware to have set it divide by it.
    pub fn new() -> Self {
        Self {
            rx: Fifo::new(),
            tx: Fifo::new(),
            overrun: false,
            emptied: false,
            changes: ModemStatus::empty(),
            divisor: [12, 0],
            enabled: Enabled::empty(),
            fcr: 0,
            lcr: 0,
            mcr: ModemControl::empty(),
            scr: 0,
        }
    }

    fn read(&mut self, register: u64, port: &mut impl Port) -> u8 {
        match register {
            RBR_THR_DLL if self.has_divisor() => self.divisor[0],
            IER_DLM if self.has_divisor() => self.divisor[1],
            RBR_THR_DLL => {
                let byte = self.rx.pop().unwrap_or(0);
                self.poll(port);
                byte
            }
            IER_DLM => self.enabled.bits(),
            IIR_FCR => self.identify(),
            LCR => self.lcr,
            MCR => self.mcr.bits(),
            LSR => self.take_line_status().bits(),
            MSR => self.take_modem_status().bits(),
            SCR => self.scr,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u8, port: &mut impl Port) {
        match register {
            RBR_THR_DLL if self.has_divisor() => self.divisor[0] = value,
            IER_DLM if self.has_divisor() => self.divisor[1] = value,
            RBR_THR_DLL => self.transmit(value, port),
            IER_DLM => {
                let before = self.enabled;
                self.enabled = Enabled::from_bits_truncate(value);
                // Whoever begins to listen is told of what is so already; Linux counts on it.
                let begins = self.enabled.difference(before).contains(Enabled::EMPTY);
                self.emptied |= begins && self.tx.is_empty();
            }
            IIR_FCR => self.control_fifos(value, port),
            LCR => self.lcr = value,
            MCR => {
                let before = self.modem_lines();
                self.mcr = ModemControl::from_bits_truncate(value);
                self.note_changes(before);
                self.poll(port);
            }
            SCR => self.scr = value,
            // LSR and MSR are for reading.
            _ => {}
        }
    }

    fn has_divisor(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn loops(&self) -> bool {
        self.mcr.contains(ModemControl::LOOP)
    }

    /// The most urgent cause to interrupt, as IIR has it.
    fn cause(&self) -> Option<u8> {
        if self.enabled.contains(Enabled::LINE_STATUS) && self.overrun {
            Some(IIR_LINE_STATUS)
        } else if self.enabled.contains(Enabled::DATA) && !self.rx.is_empty() {
            Some(if self.rx.len() >= self.rx_trigger() { IIR_DATA } else { IIR_TIMEOUT })
        } else if self.enabled.contains(Enabled::EMPTY) && self.emptied {
            Some(IIR_EMPTY)
        } else if self.enabled.contains(Enabled::MODEM_STATUS) && !self.changes.is_empty() {
            Some(IIR_MODEM_STATUS)
        } else {
            None
        }
    }

    /// The guest reads IIR, which also tells it that the transmitter is empty.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(IIR_EMPTY) {
            self.emptied = false;
        }
        let fifos = if self.has_fifos() { IIR_FIFOS } else { 0 };
        cause.unwrap_or(IIR_NONE) | fifos
    }

    /// The guest reads LSR, which also clears its errors.
    fn take_line_status(&mut self) -> LineStatus {
        let mut status = LineStatus::empty();
        status.set(LineStatus::DR, !self.rx.is_empty());
        status.set(LineStatus::OE, core::mem::take(&mut self.overrun));
        status.set(LineStatus::THRE | LineStatus::TEMT, self.tx.is_empty());
        status
    }

    /// The guest reads MSR, which also forgets the changes.
    fn take_modem_status(&mut self) -> ModemStatus {
        let changes = core::mem::replace(&mut self.changes, ModemStatus::empty());
        self.modem_lines() | changes
    }

    /// The upper half of MSR.
    fn modem_lines(&self) -> ModemStatus {
        if !self.loops() {
            return ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD;
        }
        let mut lines = ModemStatus::empty();
        lines.set(ModemStatus::CTS, self.mcr.contains(ModemControl::RTS));
        lines.set(ModemStatus::DSR, self.mcr.contains(ModemControl::DTR));
        lines.set(ModemStatus::RI, self.mcr.contains(ModemControl::OUT1));
        lines.set(ModemStatus::DCD, self.mcr.contains(ModemControl::OUT2));
        lines
    }

    fn note_changes(&mut self, before: ModemStatus) {
        let after = self.modem_lines();
        let changed = before.symmetric_difference(after);
        let mut changes = ModemStatus::empty();
        changes.set(ModemStatus::DCTS, changed.contains(ModemStatus::CTS));
        changes.set(ModemStatus::DDSR, changed.contains(ModemStatus::DSR));
        // Of the ring indicator, only its end (8.9).
        changes.set(ModemStatus::TERI, changed.contains(ModemStatus::RI) && !after.contains(ModemStatus::RI));
        changes.set(ModemStatus::DDCD, changed.contains(ModemStatus::DCD));
        self.changes |= changes;
    }

    /// A byte arrives.
    fn receive(&mut self, byte: u8) {
        if self.rx.len() >= self.depth() {
            self.overrun = true;
            if self.has_fifos() {
                return;
            }
            // Without FIFOs, it takes the place of the one that nobody read (8.4).
            self.rx.clear();
        }
        self.rx.push(byte);
    }

    /// The guest writes THR. A byte for which there is no room is lost, as on hardware: LSR.THRE said so.
    fn transmit(&mut self, byte: u8, port: &mut impl Port) {
        self.emptied = false;
        if self.loops() {
            self.receive(byte);
            self.emptied = self.tx.is_empty();
        } else if self.tx.is_empty() && port.put(byte).is_ok() {
            self.emptied = true;
        } else if self.tx.len() < self.depth() {
            self.tx.push(byte);
        }
    }

    /// Sends what had to wait.
    fn send(&mut self, port: &mut impl Port) {
        if !self.tx.is_empty() {
            self.tx.drain(port);
            self.emptied |= self.tx.is_empty();
        }
    }

    /// The guest writes FCR.
    fn control_fifos(&mut self, value: u8, port: &mut impl Port) {
        let switched = (self.fcr ^ value) & FCR_ENABLE != 0;
        // The other bits are only written together with this one (8.5).
        let acts = if value & FCR_ENABLE != 0 { value } else { 0 };
        self.fcr = acts & !(FCR_CLEAR_RX | FCR_CLEAR_TX);
        if switched || acts & FCR_CLEAR_RX != 0 {
            self.rx.clear();
        }
        if (switched || acts & FCR_CLEAR_TX != 0) && !self.tx.is_empty() {
            self.tx.clear();
            self.emptied = true;
        }
        self.poll(port);
    }

    fn has_fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    /// How many bytes each direction holds.
    fn depth(&self) -> usize {
        if self.has_fifos() { DEPTH } else { 1 }
    }

    /// The number of bytes at which there is received data without a timeout.
    fn rx_trigger(&self) -> usize {
        match self.fcr >> 6 {
            // FCR is zero without FIFOs.
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}
