//! A UART at one end of a serial line, and the test at the other.

use std::collections::VecDeque;

use kernel::dev::{Full, Port, Uart};

/// A far end that takes `room` more bytes.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) sent: Vec<u8>,
    pub(crate) room: usize,
    pub(crate) waiting: VecDeque<u8>,
    pub(crate) overrun: bool,
}

impl Port for Line {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.room = self.room.checked_sub(1).ok_or(Full)?;
        self.sent.push(byte);
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        self.waiting.pop_front()
    }

    fn take_overrun(&mut self) -> bool {
        std::mem::take(&mut self.overrun)
    }
}

/// A far end that another CPU empties all the time: it takes every third byte offered.
#[derive(Default)]
pub(crate) struct Racing {
    pub(crate) sent: Vec<u8>,
    offered: usize,
}

impl Port for Racing {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.offered += 1;
        if !self.offered.is_multiple_of(3) {
            return Err(Full);
        }
        self.sent.push(byte);
        Ok(())
    }

    fn get(&mut self) -> Option<u8> {
        None
    }
}

/// A UART whose registers are as wide as `WIDTH` bytes, on a line.
pub(crate) struct Rig<U, const WIDTH: u8> {
    pub(crate) uart: U,
    pub(crate) line: Line,
}

impl<U: Uart + Default, const WIDTH: u8> Rig<U, WIDTH> {
    pub(crate) fn new(room: usize) -> Self {
        Self { uart: U::default(), line: Line { room, ..Line::default() } }
    }

    pub(crate) fn load(&mut self, at: u64) -> u64 {
        self.uart.access(at, WIDTH, None, &mut self.line)
    }

    pub(crate) fn store(&mut self, at: u64, value: u64) {
        self.uart.access(at, WIDTH, Some(value), &mut self.line);
    }

    pub(crate) fn arrive(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.line.waiting.extend(bytes);
        self.uart.poll(&mut self.line);
    }

    pub(crate) fn make_room(&mut self, room: usize) {
        self.line.room += room;
        self.uart.poll(&mut self.line);
    }
}
