//! The serial line of the machine.

use std::collections::VecDeque;
use std::sync::Arc;

use kernel::console::{Interrupts, Serial};
use kernel::dev::Full;

use crate::world::{NEVER, World};

/// How many bytes the transmitter holds.
const DEPTH: usize = 16;
/// How often a full transmitter is asked without time passing before it sends a byte all the same: who polls it lets
/// time pass.
const POLLS: u32 = 8;

/// The line itself: a transmitter of some bytes, and whatever has arrived.
#[derive(Debug)]
pub struct Wire {
    arrived: VecDeque<u8>,
    /// When each byte in the transmitter is gone.
    leaving: VecDeque<u64>,
    byte_time: u64,
    polls: u32,
    want: Interrupts,
    /// Everything that was sent.
    pub sent: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(byte_time: u64) -> Self {
        Self {
            arrived: VecDeque::new(),
            leaving: VecDeque::new(),
            byte_time,
            polls: 0,
            want: Interrupts::Receive,
            sent: Vec::new(),
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.arrived.extend(bytes);
    }

    /// When it interrupts next, if nothing else happens.
    pub(crate) fn next_interrupt(&self, now: u64) -> u64 {
        if !self.arrived.is_empty() {
            return now;
        }
        match (self.want, self.leaving.front()) {
            (Interrupts::Receive, _) => NEVER,
            (Interrupts::ReceiveAndTransmit, Some(at)) if self.leaving.len() >= DEPTH => *at,
            _ => now,
        }
    }

    fn put(&mut self, byte: u8, now: u64) -> Result<(), Full> {
        while self.leaving.front().is_some_and(|at| *at <= now) {
            self.leaving.pop_front();
        }
        if self.leaving.len() >= DEPTH {
            self.polls += 1;
            if self.polls < POLLS {
                return Err(Full);
            }
            self.leaving.pop_front();
        }
        self.polls = 0;
        let last = self.leaving.back().copied().unwrap_or(0).max(now);
        self.leaving.push_back(last + self.byte_time);
        self.sent.push(byte);
        Ok(())
    }
}

/// The hypervisor's end of the line.
pub struct Plug(pub Arc<World>);

impl Serial for Plug {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.0.with(|state| {
            let now = state.now();
            state.wire.put(byte, now)
        })
    }

    fn get(&mut self) -> Option<u8> {
        self.0.with(|state| state.wire.arrived.pop_front())
    }

    fn interrupts(&mut self, want: Interrupts) {
        self.0.with(|state| state.wire.want = want);
    }
}
