//! The chip as one plain value per thing that its data sheet names.

use std::collections::VecDeque;

use super::{DLAB, EDSSI, ELSI, EMPTY, ERBFI, ETBEI, LOOP, OE};

/// The chip as its data sheet tells it: what is so follows from what happened.
#[derive(Default)]
pub(crate) struct Model {
    received: VecDeque<u64>,
    waiting: VecDeque<u64>,
    pub(crate) sent: Vec<u64>,
    /// Registers as they are read back: IER, LCR, MCR, SCR, DLL, DLM.
    ier: u64,
    lcr: u64,
    mcr: u64,
    scr: u64,
    divisor: [u64; 2],
    fifos: bool,
    trigger: usize,
    pub(crate) overrun: bool,
    emptied: bool,
    changes: u64,
    pub(crate) room: usize,
    pub(crate) input: VecDeque<u64>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { divisor: [12, 0], trigger: 1, ..Self::default() }
    }

    fn depth(&self) -> usize {
        if self.fifos { 16 } else { 1 }
    }

    fn is_looped(&self) -> bool {
        self.mcr & LOOP != 0
    }

    fn lines(&self) -> u64 {
        if !self.is_looped() {
            return 0xB0;
        }
        // DTR, RTS, OUT1, OUT2 are read as DSR, CTS, RI, DCD.
        [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)]
            .iter()
            .filter(|(out, _)| self.mcr & out != 0)
            .map(|(_, line)| line)
            .sum()
    }

    pub(crate) fn settle(&mut self) {
        while self.room > 0
            && let Some(byte) = self.waiting.pop_front()
        {
            self.room -= 1;
            self.sent.push(byte);
            self.emptied |= self.waiting.is_empty();
        }
        while !self.is_looped() && self.received.len() < self.depth() {
            let Some(byte) = self.input.pop_front() else { break };
            self.received.push_back(byte);
        }
    }

    pub(crate) fn cause(&self) -> Option<u64> {
        let data = if self.received.len() >= self.trigger { 4 } else { 12 };
        let causes = [
            (self.overrun, ELSI, 6),
            (!self.received.is_empty(), ERBFI, data),
            (self.emptied, ETBEI, 2),
            (self.changes != 0, EDSSI, 0),
        ];
        causes.iter().find(|(so, bit, _)| *so && self.ier & bit != 0).map(|(.., code)| *code)
    }

    pub(crate) fn load(&mut self, register: u64) -> u64 {
        self.settle();
        let value = match register {
            0 if self.lcr & DLAB != 0 => self.divisor[0],
            1 if self.lcr & DLAB != 0 => self.divisor[1],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.ier,
            2 => {
                let cause = self.cause();
                self.emptied &= cause != Some(2);
                cause.unwrap_or(1) | if self.fifos { 0xC0 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let data = u64::from(!self.received.is_empty());
                let empty = if self.waiting.is_empty() { EMPTY } else { 0 };
                data | empty | if std::mem::take(&mut self.overrun) { OE } else { 0 }
            }
            6 => self.lines() | std::mem::take(&mut self.changes),
            7 => self.scr,
            _ => 0,
        };
        self.settle();
        value
    }

    pub(crate) fn store(&mut self, register: u64, value: u64) {
        self.settle();
        match register {
            0 if self.lcr & DLAB != 0 => self.divisor[0] = value,
            1 if self.lcr & DLAB != 0 => self.divisor[1] = value,
            0 => self.send(value),
            1 => {
                self.emptied |= self.ier & ETBEI == 0 && value & ETBEI != 0 && self.waiting.is_empty();
                self.ier = value & 0xF;
            }
            2 => self.set_fifos(value),
            3 => self.lcr = value,
            4 => {
                let before = self.lines();
                self.mcr = value & 0x1F;
                let (fell, changed) = (before & !self.lines(), before ^ self.lines());
                self.changes |= changed >> 4 & 0b1011 | fell >> 4 & 0b0100;
            }
            7 => self.scr = value,
            _ => {}
        }
        self.settle();
    }

    fn send(&mut self, byte: u64) {
        self.emptied = false;
        if self.is_looped() {
            self.emptied = self.waiting.is_empty();
            if self.received.len() < self.depth() {
                self.received.push_back(byte);
            } else {
                self.overrun = true;
                if !self.fifos {
                    self.received = [byte].into();
                }
            }
        } else if self.waiting.len() < self.depth() {
            self.waiting.push_back(byte);
        }
    }

    fn set_fifos(&mut self, value: u64) {
        let on = value & 1 != 0;
        let switched = on != self.fifos;
        self.fifos = on;
        self.trigger = if on { [1, 4, 8, 14][(value >> 6 & 3) as usize] } else { 1 };
        if switched || on && value & 2 != 0 {
            self.received.clear();
        }
        if (switched || on && value & 4 != 0) && !self.waiting.is_empty() {
            self.waiting.clear();
            self.emptied = true;
        }
    }
}
