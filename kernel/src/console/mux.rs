//! Who is on the physical line: takes turns, switches the focus, frames.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use super::{Console, Events, FRAME, Input, Interrupts, LOG, Mode, PortId, SWITCH, Serial, bit, take, work};

/// How many bytes one source sends before the next has its turn; a PL011's transmitter holds 16 or 32.
const SLICE: usize = 64;
/// How many bytes one turn starts to send, and how many it receives.
const SEND_STEP: usize = 256;
const RECEIVE_STEP: usize = 64;
/// How much of what a port sent while out of focus is shown when it comes into focus, in bytes.
const BACKLOG: usize = 2048;
/// The longest unfinished line that is shown again after an interruption, in bytes.
const PARTIAL_BYTES: usize = 128;
/// Room for the largest thing staged at once: a slice of which each byte is doubled, or a banner.
const STAGED_BYTES: usize = 512;

/// Bytes on their way to the UART. Nothing is added before everything in it is gone.
struct Staged {
    bytes: [u8; STAGED_BYTES],
    at: usize,
    len: usize,
}

impl Staged {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// Sends what there is; whether all of it went.
    fn flush(&mut self, serial: &mut dyn Serial) -> bool {
        while self.at < self.len {
            if serial.put(self.bytes[self.at]).is_err() {
                return false;
            }
            self.at += 1;
        }
        (self.at, self.len) = (0, 0);
        true
    }
}

/// The line a port has begun and not finished, to show it again after something came between.
#[derive(Clone)]
struct Partial {
    bytes: [u8; PARTIAL_BYTES],
    len: usize,
}

impl Partial {
    const EMPTY: Self = Self { bytes: [0; PARTIAL_BYTES], len: 0 };

    fn track(&mut self, byte: u8) {
        match byte {
            b'\r' | b'\n' => self.len = 0,
            _ => {
                if let Some(place) = self.bytes.get_mut(self.len) {
                    *place = byte;
                }
                self.len = self.len.saturating_add(1);
            }
        }
    }

    /// The text, or nothing if it is too long to repeat.
    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// Where in its line the log is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogLine {
    /// Between two lines.
    Whole,
    /// In the middle of one: nothing else may be sent.
    Begun,
}

/// What holds the physical line.
pub(super) struct Mux {
    serial: Option<Box<dyn Serial + Send>>,
    interrupts: Option<Interrupts>,
    mode: Mode,
    staged: Staged,
    /// Who had the last turn; the next is the next higher one.
    turn: u8,
    log: LogLine,
    /// The log came in the middle of the shown port's line.
    broken: bool,
    /// The focus changed and the banner has not been shown.
    banner: bool,
    focus: PortId,
    ports: u8,
    /// Unfinished lines: of Fermata's port, and of the guests'.
    own: Partial,
    partials: Vec<Partial>,
    /// Framed mode: whose bytes follow, outwards and inwards, and whether a [`FRAME`] came in.
    sender: Option<PortId>,
    receiver: Option<PortId>,
    frame: bool,
}

impl Mux {
    pub(super) const fn new() -> Self {
        Self {
            serial: None,
            interrupts: None,
            mode: Mode::Terminal,
            staged: Staged { bytes: [0; STAGED_BYTES], at: 0, len: 0 },
            turn: 0,
            log: LogLine::Whole,
            broken: false,
            banner: false,
            focus: PortId::FERMATA,
            ports: 1,
            own: Partial::EMPTY,
            partials: Vec::new(),
            sender: None,
            receiver: None,
            frame: false,
        }
    }

    pub(super) fn attach(&mut self, serial: Box<dyn Serial + Send>) {
        self.serial = Some(serial);
        self.interrupts = None;
    }

    pub(super) fn open(&mut self, mode: Mode, ports: u8) {
        self.mode = mode;
        self.ports = ports;
        self.partials.resize(usize::from(ports) - 1, Partial::EMPTY);
    }

    /// One bounded turn: receives, sends, and says what interrupts are needed.
    pub(super) fn turn(&mut self, console: &Console, todo: u8, events: &mut Events) {
        let Some(mut serial) = self.serial.take() else { return };
        let focus = PortId(console.focus.load(Ordering::Relaxed));
        if self.mode == Mode::Terminal && focus != self.focus {
            self.switch(console, focus, events);
        }
        if todo & work::RECEIVE != 0 {
            for _ in 0..RECEIVE_STEP {
                let Some(byte) = serial.get() else { break };
                let input = self.input(console, byte, events);
                events.add(input);
            }
        }
        let want = self.send(console, &mut *serial, events);
        if self.interrupts != Some(want) {
            serial.interrupts(want);
            self.interrupts = Some(want);
        }
        self.serial = Some(serial);
    }

    /// Sends until there is nothing, the UART is full, or the step is over.
    fn send(&mut self, console: &Console, serial: &mut dyn Serial, events: &mut Events) -> Interrupts {
        let mut left = SEND_STEP;
        while self.staged.flush(serial) {
            if left == 0 {
                events.more = true;
                return Interrupts::Receive;
            }
            self.stage(console, events);
            if self.staged.len == 0 {
                return Interrupts::Receive;
            }
            left = left.saturating_sub(self.staged.len);
        }
        Interrupts::ReceiveAndTransmit
    }

    /// Stages the next slice, if there is any.
    fn stage(&mut self, console: &Console, events: &mut Events) {
        if self.log == LogLine::Begun {
            return self.stage_log(console);
        }
        if self.banner {
            return self.stage_banner(console);
        }
        let shown = console.shown.load(Ordering::Relaxed) | 1 << LOG;
        let waiting = console.sending.load(Ordering::Acquire) & shown;
        let source = next(waiting, self.turn);
        if self.broken && source.is_none_or(|port| PortId(port) == self.line_owner()) {
            self.mend();
            if self.staged.len > 0 {
                return;
            }
        }
        self.turn = source.unwrap_or(self.turn);
        match source {
            Some(LOG) => self.stage_log(console),
            Some(port) => self.stage_port(console, PortId(port), events),
            None => {}
        }
    }

    /// Shows the unfinished line that the log broke again.
    fn mend(&mut self) {
        self.broken = false;
        let owner = self.line_owner();
        let partial = self.partial(owner).clone();
        partial.text().iter().for_each(|&byte| self.emit(owner, byte));
    }

    fn stage_port(&mut self, console: &Console, port: PortId, events: &mut Events) {
        let mut slice = [0; SLICE];
        let mut n = 0;
        if port == PortId::FERMATA {
            let mut ring = console.prompt.lock();
            while n < SLICE
                && let Some(byte) = take(&mut ring, &console.sending, port)
            {
                slice[n] = byte;
                n += 1;
            }
        } else if let Some(channel) = console.channel(port) {
            let mut ring = channel.send.lock();
            while n < SLICE
                && let Some(byte) = take(&mut ring, &console.sending, port)
            {
                slice[n] = byte;
                n += 1;
            }
            // Half empty, so that a guest is woken for many bytes and not for one.
            if ring.len() <= ring.capacity() / 2 {
                tell_room(console, port, events);
            }
        }
        for &byte in &slice[..n] {
            self.partial(port).track(byte);
            self.emit(port, byte);
        }
    }

    /// Stages some of one log line.
    fn stage_log(&mut self, console: &Console) {
        let mut slice = [0; SLICE];
        let mut n = 0;
        let mut ring = console.log.lock();
        let lost = ring.take_lost();
        if lost > 0 {
            // What is left of the oldest line has no beginning.
            while take(&mut ring, &console.sending, PortId(LOG)).is_some_and(|byte| byte != b'\n') {}
        }
        while lost == 0
            && n < SLICE
            && let Some(byte) = take(&mut ring, &console.sending, PortId(LOG))
        {
            slice[n] = byte;
            n += 1;
            if byte == b'\n' {
                break;
            }
        }
        drop(ring);
        let owner = self.line_owner();
        let begun = self.log == LogLine::Begun;
        if !begun && !self.broken && self.partial(owner).len > 0 {
            self.broken = true;
            self.say(format_args!("\r\n"));
        }
        if lost > 0 {
            self.log = LogLine::Whole;
            let end = if begun { "\r\n" } else { "" };
            return self.say(format_args!("{end}fermata: {lost} bytes of log were lost here\r\n"));
        }
        self.log = if n > 0 && slice[n - 1] != b'\n' { LogLine::Begun } else { LogLine::Whole };
        slice[..n].iter().for_each(|&byte| self.emit(PortId::FERMATA, byte));
    }

    /// Names the port that came into focus and trims what it sent meanwhile; the rest follows by itself.
    fn stage_banner(&mut self, console: &Console) {
        self.banner = false;
        let port = self.focus;
        let hidden = match console.channel(port) {
            Some(channel) => {
                let mut ring = channel.send.lock();
                ring.keep_newest(BACKLOG);
                ring.take_lost()
            }
            None => 0,
        };
        let name = console.name(port).unwrap_or_default();
        self.say(format_args!("\r\n--- {name} (Ctrl-] for the next) ---\r\n"));
        if hidden > 0 {
            self.partial(port).len = 0;
            self.say(format_args!("--- {hidden} older bytes are not shown ---\r\n"));
        }
        self.broken = true;
    }

    /// Moves the focus. The port that had it refuses no longer, and hears so.
    fn switch(&mut self, console: &Console, port: PortId, events: &mut Events) {
        let before = core::mem::replace(&mut self.focus, port);
        console.focus.store(port.0, Ordering::Relaxed);
        console.shown.store(bit(port), Ordering::Relaxed);
        self.banner = true;
        if let Some(channel) = console.channel(before) {
            // A refusal is decided under this lock: it came before, or it sees the new focus.
            let _ring = channel.send.lock();
            tell_room(console, before, events);
        }
    }

    fn input(&mut self, console: &Console, byte: u8, events: &mut Events) -> Input {
        match self.mode {
            Mode::Terminal if byte == SWITCH => {
                let next = PortId((self.focus.0 + 1) % self.ports);
                self.switch(console, next, events);
                Input::Nothing
            }
            Mode::Terminal => console.deliver(self.focus, byte),
            Mode::Framed => self.framed_input(console, byte),
        }
    }

    fn framed_input(&mut self, console: &Console, byte: u8) -> Input {
        let after_frame = core::mem::replace(&mut self.frame, false);
        match byte {
            FRAME if !after_frame => self.frame = true,
            _ if after_frame && byte != FRAME => {
                let port = byte.checked_sub(b'0').filter(|&n| n < self.ports);
                self.receiver = port.map(PortId);
            }
            _ => return self.receiver.map_or(Input::Nothing, |port| console.deliver(port, byte)),
        }
        Input::Nothing
    }

    /// Whose unfinished line log lines can break.
    fn line_owner(&self) -> PortId {
        match self.mode {
            Mode::Terminal => self.focus,
            Mode::Framed => PortId::FERMATA,
        }
    }

    fn partial(&mut self, port: PortId) -> &mut Partial {
        match usize::from(port.0).checked_sub(1).and_then(|n| self.partials.get_mut(n)) {
            Some(partial) => partial,
            None => &mut self.own,
        }
    }

    /// Stages a byte of a port.
    fn emit(&mut self, port: PortId, byte: u8) {
        if self.mode == Mode::Framed {
            if self.sender != Some(port) {
                self.sender = Some(port);
                self.staged.push(FRAME);
                self.staged.push(b'0' + port.0);
            }
            if byte == FRAME {
                self.staged.push(FRAME);
            }
        }
        self.staged.push(byte);
    }

    /// Stages words of Fermata's own.
    fn say(&mut self, words: fmt::Arguments<'_>) {
        // Cannot fail: `write_str` does not, and the words are numbers and strings.
        let _ = self.write_fmt(words);
    }
}

impl Write for Mux {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.emit(PortId::FERMATA, byte));
        Ok(())
    }
}

/// Tells a port that was refused that there is room; called with its ring locked.
fn tell_room(console: &Console, port: PortId, events: &mut Events) {
    if console.refused.load(Ordering::Relaxed) & bit(port) != 0 {
        console.refused.fetch_and(!bit(port), Ordering::Relaxed);
        events.guests |= bit(port);
    }
}

/// The first set bit above `last`, or the first of all.
fn next(waiting: u64, last: u8) -> Option<u8> {
    let above = waiting & u64::MAX.checked_shl(u32::from(last) + 1).unwrap_or(0);
    match (above, waiting) {
        (_, 0) => None,
        (0, _) => Some(waiting.trailing_zeros() as u8),
        _ => Some(above.trailing_zeros() as u8),
    }
}
