//! The bridge's interrupt controller: input pins become vectors of the EIOINTC.
//!
//! As on the bridge with `HTMSI_EN` set, an interrupt is a message, sent when an input that is not masked begins to
//! ask for attention (Loongson 7A1000 user manual, chapter 5). For an edge that is all there is until the guest
//! writes `INTCLR`. A level is sent again when the guest masks and unmasks it or writes `INTCLR` while it is still
//! asserted; if its cause goes away, or it is masked, before the message was acknowledged, the message is withdrawn.
//!
//! There are no pins `INTn0` and `INTn1`, so registers that distribute interrupts between them are only stored.

use super::bits;
use super::eiointc::{Acknowledged, Stay};
use crate::layout::PINS;
use crate::words::{four, merge, set_four};

// Offsets, Loongson 7A1000 user manual, 5.5. The upper halves, for inputs from 32 up, are not there.
const INT_ID: u64 = 0x000;
const INT_ID_HIGH: u64 = 0x004;
const INT_MASK: u64 = 0x020;
const HTMSI_EN: u64 = 0x040;
const INTEDGE: u64 = 0x060;
const INTCLR: u64 = 0x080;
const AUTO_CTRL0: u64 = 0x0c0;
const AUTO_CTRL1: u64 = 0x0e0;
const ROUTE_ENTRY: u64 = 0x100;
const ROUTE_ENTRY_END: u64 = 0x11f;
const HTMSI_VECTOR: u64 = 0x200;
const HTMSI_VECTOR_END: u64 = 0x21f;
const INTIRR: u64 = 0x380;
const INTISR: u64 = 0x3a0;
const INT_POLARITY: u64 = 0x3e0;

/// `INT_ID`: the identifier, and the version with the number of the last input.
const ID: u32 = 7 << 24;
const VERSION: u32 = 1;

/// What the outside has to be told: pins, bit n for pin n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct News {
    /// Their messages are to be sent.
    pub(super) send: u32,
    /// Their messages, not yet acknowledged, are to be withdrawn.
    pub(super) withdraw: u32,
}

/// The controller.
pub(super) struct PchPic {
    /// Inputs as the devices drive them.
    line: u32,
    mask: u32,
    htmsi_en: u32,
    edge: u32,
    polarity: u32,
    auto_ctrl: [u32; 2],
    route: [u8; PINS as usize],
    vector: [u8; PINS as usize],
    /// Edges that were seen and not cleared.
    latch: u32,
    /// `INTISR`: those that were sent and still stand.
    in_service: u32,
    /// Levels whose message is not acknowledged.
    raised: u32,
    /// With which vectors they were sent.
    sent: [u8; PINS as usize],
}

impl PchPic {
    /// The controller as firmware leaves it: all masked, messages enabled.
    pub(super) fn new() -> Self {
        Self {
            line: 0,
            mask: u32::MAX,
            htmsi_en: u32::MAX,
            edge: 0,
            polarity: 0,
            auto_ctrl: [0; 2],
            route: [1; PINS as usize],
            vector: [0; PINS as usize],
            latch: 0,
            in_service: 0,
            raised: 0,
            sent: [0; PINS as usize],
        }
    }

    /// Inputs that are asserted.
    fn asserted(&self) -> u32 {
        self.line ^ self.polarity
    }

    /// `INTIRR`.
    fn requests(&self) -> u32 {
        self.latch | self.asserted() & !self.edge
    }

    /// The vector that a message of `pin` has.
    pub(super) fn vector(&self, pin: u32) -> u8 {
        self.vector[(pin % PINS) as usize]
    }

    /// The message of `pin` is sent. Returns what it stands for.
    pub(super) fn note_sent(&mut self, pin: u32) -> Stay {
        let bit = 1 << (pin % PINS);
        if self.edge & bit != 0 {
            return Stay::Sticky;
        }
        self.raised |= bit;
        self.sent[(pin % PINS) as usize] = self.vector(pin);
        Stay::WhileAsserted
    }

    /// Some vectors were acknowledged.
    pub(super) fn acknowledged(&mut self, what: Acknowledged) {
        for pin in bits(self.raised.into()) {
            let vector = self.sent[pin as usize];
            if usize::from(vector / 32) == what.group && what.vectors >> (vector % 32) & 1 != 0 {
                self.raised &= !(1 << pin);
            }
        }
    }

    /// The message of `pin` is to be withdrawn: returns its vector, unless another pin's stands for the same one.
    pub(super) fn note_withdrawn(&mut self, pin: u32) -> Option<u8> {
        self.raised &= !(1 << (pin % PINS));
        let vector = self.sent[(pin % PINS) as usize];
        let shared = bits(self.raised.into()).any(|other| self.sent[other as usize] == vector);
        (!shared).then_some(vector)
    }

    /// Drives inputs: those of `pins` to `level`.
    pub(super) fn drive(&mut self, pins: u32, level: u32) -> News {
        let before = self.asserted();
        self.line = merge(self.line, level & pins, pins);
        self.after_change(before)
    }

    /// Inputs may have become asserted.
    fn after_change(&mut self, before: u32) -> News {
        self.latch |= self.asserted() & !before & self.edge;
        self.update()
    }

    /// Compares what asks for attention with what was sent.
    fn update(&mut self) -> News {
        let open = self.requests() & !self.mask & self.htmsi_en;
        let gone = self.in_service & !open & !self.edge;
        let send = open & !self.in_service;
        self.in_service = self.in_service & !gone | send;
        News { send, withdraw: gone & self.raised }
    }

    /// Reads the register at `offset`, a multiple of four.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            INT_ID => ID,
            INT_ID_HIGH => (PINS - 1) << 16 | VERSION,
            INT_MASK => self.mask,
            HTMSI_EN => self.htmsi_en,
            INTEDGE => self.edge,
            AUTO_CTRL0 => self.auto_ctrl[0],
            AUTO_CTRL1 => self.auto_ctrl[1],
            ROUTE_ENTRY..=ROUTE_ENTRY_END => four(&self.route, offset - ROUTE_ENTRY),
            HTMSI_VECTOR..=HTMSI_VECTOR_END => four(&self.vector, offset - HTMSI_VECTOR),
            INTIRR => self.requests(),
            INTISR => self.in_service,
            INT_POLARITY => self.polarity,
            _ => 0,
        }
    }

    /// Writes the `lanes` of the register at `offset`, a multiple of four; `value` has no other bits.
    pub(super) fn write(&mut self, offset: u64, value: u32, lanes: u32) -> News {
        match offset {
            INT_MASK => self.mask = merge(self.mask, value, lanes),
            HTMSI_EN => self.htmsi_en = merge(self.htmsi_en, value, lanes),
            INTEDGE => return self.set_edge(merge(self.edge, value, lanes)),
            INTCLR => {
                self.latch &= !value;
                // The message of a level that nobody has seen yet is as good as a new one.
                self.in_service &= !(value & !self.raised);
            }
            AUTO_CTRL0 => self.auto_ctrl[0] = merge(self.auto_ctrl[0], value, lanes),
            AUTO_CTRL1 => self.auto_ctrl[1] = merge(self.auto_ctrl[1], value, lanes),
            ROUTE_ENTRY..=ROUTE_ENTRY_END => {
                set_four(&mut self.route, offset - ROUTE_ENTRY, value, lanes);
            }
            HTMSI_VECTOR..=HTMSI_VECTOR_END => {
                set_four(&mut self.vector, offset - HTMSI_VECTOR, value, lanes);
            }
            INT_POLARITY => {
                let before = self.asserted();
                self.polarity = merge(self.polarity, value, lanes);
                return self.after_change(before);
            }
            _ => return News::default(),
        }
        self.update()
    }

    /// Changes which inputs are edge-triggered. Those that change begin anew.
    fn set_edge(&mut self, edge: u32) -> News {
        let changed = self.edge ^ edge;
        self.edge = edge;
        self.latch &= !changed;
        self.in_service &= !changed;
        let withdraw = self.raised & changed;
        let news = self.update();
        News { withdraw: news.withdraw | withdraw, ..news }
    }
}
