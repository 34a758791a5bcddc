//! One physical terminal for all guests and for Fermata itself.
//!
//! Each guest has a [`Port`]: a ring for what it sends and a ring for what it receives. Port 0 is Fermata's: its log
//! lines, and the prompt. Filling a ring takes that ring's lock for a few instructions; moving bytes to the physical
//! UART takes the [`mux`] lock, which is only ever tried: whoever fails leaves a note ([`Console::pump`]) that the
//! holder reads after it has let go, so no CPU waits for the UART and nothing is left behind. One turn of the mux
//! moves a bounded number of bytes, a slice from each port in turn; a guest that floods its port fills its own ring
//! and is refused, and its emulated UART says so to it alone.
//!
//! *Terminal* mode is for a human: one port is in focus and shown as it is, [`SWITCH`] moves the focus on, and a port
//! out of focus never refuses: its ring keeps the newest bytes. *Framed* mode is for programs: [`FRAME`] and a digit
//! say whose bytes follow, in both directions.

mod log;
mod mux;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};

use spin::{Mutex, Once};

use crate::addr::VmId;
use crate::dev;
use crate::ring::{Full, Ring};
use mux::Mux;

pub use self::log::{Force, Stamp};

/// The key that moves the focus to the next port, Ctrl-].
pub const SWITCH: u8 = 0x1D;
/// The byte that announces a port number in framed mode; twice, it is itself.
pub const FRAME: u8 = 0x1E;
/// How many ports there can be, Fermata's included.
pub const PORTS: usize = 63;

/// What a guest can have sent before it is refused, in bytes.
const SEND_BYTES: usize = 4096;
/// What can wait for a guest to read it, in bytes.
const RECEIVE_BYTES: usize = 1024;
/// What Fermata's prompt can have written, and its log, in bytes.
const PROMPT_BYTES: usize = 16 * 1024;
const LOG_BYTES: usize = 16 * 1024;
/// How much of a name is kept, in characters.
const NAME_CHARS: usize = 31;
/// How often in a row a transmitter may say that it is full before it counts as dead; at 9600 baud a byte takes 1 ms.
const PATIENCE: u32 = 1_000_000;
/// What is sent at most before the machine goes off, in bytes: who still writes then is not waited for.
const FLUSH_BYTES: usize = 1 << 20;
/// The log's bit among the ports' bits.
const LOG: u8 = 63;

/// A physical serial line.
pub trait Serial {
    /// Sends a byte, or refuses it because the transmitter is full.
    fn put(&mut self, byte: u8) -> Result<(), Full>;
    /// The next byte received.
    fn get(&mut self) -> Option<u8>;
    /// Chooses what interrupts: the line's own state is the cause, there is nothing to acknowledge.
    fn interrupts(&mut self, want: Interrupts);
}

/// What a physical serial line interrupts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Received bytes.
    Receive,
    /// Received bytes, and room in the transmitter.
    ReceiveAndTransmit,
}

/// Who looks at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A human: one port at a time.
    Terminal,
    /// A program: all ports, framed.
    Framed,
}

/// A port's number: 0 is Fermata, guests follow in the order of the device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub u8);

impl PortId {
    /// Fermata's own port.
    pub const FERMATA: Self = Self(0);

    /// The port of a virtual machine; one that does not exist if there are too many machines.
    pub fn of(vm: VmId) -> Self {
        Self(u8::try_from(vm.0).unwrap_or(u8::MAX).saturating_add(1))
    }
}

/// Where a received byte went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// To a guest, whose UART has news.
    Guest(PortId),
    /// To Fermata's prompt.
    Prompt,
    /// Nowhere: it was a command, or nobody is selected.
    Nothing,
}

/// What a turn of the console asks of its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The guests whose UART must be polled, one bit per port.
    pub guests: u64,
    /// The prompt has input.
    pub prompt: bool,
    /// There is more to do now: call again, but let others have their turn first.
    pub more: bool,
}

impl Events {
    /// The ports whose UART must be polled.
    pub fn ports(self) -> impl Iterator<Item = PortId> {
        (0..PORTS as u8).filter(move |n| self.guests >> n & 1 != 0).map(PortId)
    }

    fn add(&mut self, input: Input) {
        match input {
            Input::Guest(port) => self.guests |= 1 << port.0,
            Input::Prompt => self.prompt = true,
            Input::Nothing => {}
        }
    }
}

/// Why a console could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// More guests than ports; the number is the limit.
    TooManyGuests(usize),
    /// It is open already.
    AlreadyOpen,
}

/// The two rings of a guest.
struct Channel {
    name: String,
    send: Mutex<Ring<Box<[u8]>>>,
    receive: Mutex<Ring<Box<[u8]>>>,
}

/// The work a CPU found waiting when it could not have the mux.
mod work {
    pub(super) const SEND: u8 = 1;
    pub(super) const RECEIVE: u8 = 2;
}

/// The terminal. It can be a constant: until [`Console::attach`] and [`Console::open`] it keeps log lines.
pub struct Console {
    log: Mutex<Ring<[u8; LOG_BYTES]>>,
    prompt: Mutex<Ring<[u8; PROMPT_BYTES]>>,
    keys: Mutex<Ring<[u8; RECEIVE_BYTES]>>,
    guests: Once<Box<[Channel]>>,
    stamp: Once<fn() -> Stamp>,
    bell: Once<fn()>,
    mux: Mutex<Mux>,
    /// [`work`] left for whoever holds the mux.
    left: AtomicU8,
    /// Ports with something to send; a bit changes under the lock of its ring, here and below.
    sending: AtomicU64,
    /// Ports with something to read.
    receiving: AtomicU64,
    /// Ports that were refused and want to know when there is room.
    refused: AtomicU64,
    /// Ports that lost input.
    overrun: AtomicU64,
    /// Ports that are shown, and therefore refuse rather than forget.
    shown: AtomicU64,
    /// The port to be in focus.
    focus: AtomicU8,
    /// Whether the mode is framed.
    framed: AtomicBool,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console with nothing but Fermata's port, in terminal mode, attached to nothing.
    pub const fn new() -> Self {
        Self {
            log: Mutex::new(Ring::new([0; LOG_BYTES])),
            prompt: Mutex::new(Ring::new([0; PROMPT_BYTES])),
            keys: Mutex::new(Ring::new([0; RECEIVE_BYTES])),
            guests: Once::new(),
            stamp: Once::new(),
            bell: Once::new(),
            mux: Mutex::new(Mux::new()),
            left: AtomicU8::new(0),
            sending: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            overrun: AtomicU64::new(0),
            shown: AtomicU64::new(1),
            focus: AtomicU8::new(0),
            framed: AtomicBool::new(false),
        }
    }

    /// Gives log lines a time and a CPU.
    pub fn set_stamp(&self, stamp: fn() -> Stamp) {
        self.stamp.call_once(|| stamp);
    }

    /// Has `bell` called when a line is logged and none waits already, on the CPU that logs it. It makes the CPU that
    /// pumps do so soon: that one may be in a guest that never stops by itself. Whoever logs may hold any lock, so `bell`
    /// takes none.
    pub fn set_bell(&self, bell: fn()) {
        self.bell.call_once(|| bell);
    }

    /// Connects the physical line; what was logged so far appears at the next [`Console::pump`].
    pub fn attach(&self, serial: Box<dyn Serial + Send>) {
        self.mux.lock().attach(serial);
    }

    /// Adds the guests' ports, in the order of `names`, and puts the first of them in focus. Done once, before any
    /// guest runs.
    pub fn open(&self, mode: Mode, names: impl IntoIterator<Item = String>) -> Result<(), OpenError> {
        let guests: Box<[Channel]> = names.into_iter().map(Channel::new).collect();
        let count = guests.len();
        if count >= PORTS {
            return Err(OpenError::TooManyGuests(PORTS - 1));
        }
        let mut mux = self.mux.lock();
        if self.guests.is_completed() {
            return Err(OpenError::AlreadyOpen);
        }
        self.guests.call_once(|| guests);
        mux.open(mode, 1 + count as u8);
        match mode {
            Mode::Framed => {
                self.shown.store((1 << (1 + count)) - 1, Ordering::Relaxed);
                self.framed.store(true, Ordering::Relaxed);
            }
            Mode::Terminal => self.focus.store((count > 0).into(), Ordering::Relaxed),
        }
        Ok(())
    }

    /// The name of a port.
    pub fn name(&self, port: PortId) -> Option<&str> {
        match port {
            PortId::FERMATA => Some("fermata"),
            _ => self.channel(port).map(|channel| channel.name.as_str()),
        }
    }

    /// How many ports there are, Fermata's included.
    pub fn ports(&self) -> u8 {
        1 + self.guests.get().map_or(0, |guests| guests.len() as u8)
    }

    /// Puts a port in focus, as [`SWITCH`] does; without effect in framed mode or if there is no such port.
    pub fn focus(&self, port: PortId) {
        if port.0 < self.ports() {
            self.focus.store(port.0, Ordering::Relaxed);
            self.left.fetch_or(work::SEND, Ordering::Relaxed);
        }
    }

    /// The far end of a guest's UART.
    pub fn port(&self, id: PortId) -> Port<'_> {
        Port { console: self, id }
    }

    /// Sends a byte of a port. A port that is shown refuses when it is full, and is among [`Events::guests`] when it
    /// has room again; one that is not shown forgets its oldest byte. A port that does not exist takes everything.
    pub fn put(&self, port: PortId, byte: u8) -> Result<(), Full> {
        if port == PortId::FERMATA {
            let mut ring = self.prompt.lock();
            ring.push_over(byte);
            mark(&self.sending, port);
            return Ok(());
        }
        let Some(channel) = self.channel(port) else { return Ok(()) };
        let mut ring = channel.send.lock();
        if ring.push(byte).is_err() {
            if self.shown.load(Ordering::Relaxed) & bit(port) != 0 {
                mark(&self.refused, port);
                return Err(Full);
            }
            ring.push_over(byte);
        }
        mark(&self.sending, port);
        Ok(())
    }

    /// The next byte for a port.
    pub fn get(&self, port: PortId) -> Option<u8> {
        if !self.waiting(port) {
            return None;
        }
        if port == PortId::FERMATA {
            take(&mut *self.keys.lock(), &self.receiving, port)
        } else {
            take(&mut *self.channel(port)?.receive.lock(), &self.receiving, port)
        }
    }

    /// Forgets what a guest has not read, because it starts anew.
    pub fn reset(&self, port: PortId) {
        if let Some(channel) = self.channel(port) {
            let mut ring = channel.receive.lock();
            ring.clear();
            self.receiving.fetch_and(!bit(port), Ordering::Relaxed);
            self.overrun.fetch_and(!bit(port), Ordering::Relaxed);
            self.refused.fetch_and(!bit(port), Ordering::Relaxed);
        }
    }

    /// Whether there is a byte for a port.
    pub fn waiting(&self, port: PortId) -> bool {
        self.receiving.load(Ordering::Acquire) & bit(port) != 0
    }

    /// Who looks at the terminal.
    pub fn mode(&self) -> Mode {
        if self.framed.load(Ordering::Relaxed) { Mode::Framed } else { Mode::Terminal }
    }

    /// Whether anything waits for a turn of the console; asked before a CPU goes to sleep.
    pub fn pending(&self) -> bool {
        let shown = self.shown.load(Ordering::Relaxed) | 1 << LOG;
        self.left.load(Ordering::Relaxed) != 0 || self.sending.load(Ordering::Relaxed) & shown != 0
    }

    /// Takes what the physical line received and sends what it accepts; for its interrupt and for the tick.
    pub fn pump(&self) -> Events {
        self.turn(work::RECEIVE | work::SEND)
    }

    /// Only sends: for after a guest or Fermata wrote something.
    pub fn drain(&self) -> Events {
        self.turn(work::SEND)
    }

    /// Sends everything before the machine goes off; gives up on a line that accepts nothing any more.
    pub fn flush(&self) {
        let (mut patience, mut sent) = (PATIENCE, 0);
        while patience > 0 && sent < FLUSH_BYTES {
            patience -= 1;
            let Some(mut mux) = self.mux.try_lock() else { continue };
            self.left.store(0, Ordering::Relaxed);
            let now = mux.turn(self, work::SEND, &mut Events::default());
            if mux.is_done() && !self.pending() {
                return;
            }
            if now > 0 {
                (patience, sent) = (PATIENCE, sent + now);
            }
        }
    }

    /// Does `todo`, or leaves it for the CPU that holds the mux. Never waits.
    fn turn(&self, todo: u8) -> Events {
        let mut events = Events::default();
        self.left.fetch_or(todo, Ordering::Relaxed);
        for _ in 0..2 {
            // Between leaving the note and trying the lock here, and between letting go of the lock and reading the
            // note below: of two CPUs, either this one gets the lock or the other one sees the note.
            fence(Ordering::SeqCst);
            let Some(mut mux) = self.mux.try_lock() else { return events };
            let todo = self.left.swap(0, Ordering::Relaxed);
            mux.turn(self, todo, &mut events);
            drop(mux);
            fence(Ordering::SeqCst);
            if self.left.load(Ordering::Relaxed) == 0 {
                return events;
            }
        }
        events.more = true;
        events
    }

    fn channel(&self, port: PortId) -> Option<&Channel> {
        self.guests.get()?.get(usize::from(port.0).checked_sub(1)?)
    }

    /// Puts a received byte where `port` reads it; a full ring drops it.
    fn deliver(&self, port: PortId, byte: u8) -> Input {
        if port == PortId::FERMATA {
            let mut ring = self.keys.lock();
            if ring.push(byte).is_ok() {
                mark(&self.receiving, port);
            }
            return Input::Prompt;
        }
        let Some(channel) = self.channel(port) else { return Input::Nothing };
        let mut ring = channel.receive.lock();
        match ring.push(byte) {
            Ok(()) => mark(&self.receiving, port),
            Err(Full) => mark(&self.overrun, port),
        };
        Input::Guest(port)
    }
}

impl Channel {
    fn new(name: String) -> Self {
        let ring = |bytes| Mutex::new(Ring::new(vec![0; bytes].into_boxed_slice()));
        let printable = |c: char| if c.is_control() { '?' } else { c };
        let name = name.chars().take(NAME_CHARS).map(printable).collect();
        Self { name, send: ring(SEND_BYTES), receive: ring(RECEIVE_BYTES) }
    }
}

fn bit(port: PortId) -> u64 {
    1u64.checked_shl(port.0.into()).unwrap_or(0)
}

/// Sets a port's bit, and says whether it was clear; a load first, because it is mostly set.
fn mark(bits: &AtomicU64, port: PortId) -> bool {
    let clear = bits.load(Ordering::Relaxed) & bit(port) == 0;
    if clear {
        bits.fetch_or(bit(port), Ordering::Release);
    }
    clear
}

/// Takes a byte from a locked ring and clears the port's bit with the last one.
fn take<S: AsRef<[u8]> + AsMut<[u8]>>(ring: &mut Ring<S>, bits: &AtomicU64, port: PortId) -> Option<u8> {
    let byte = ring.pop();
    if ring.is_empty() {
        bits.fetch_and(!bit(port), Ordering::Relaxed);
    }
    byte
}

/// A guest's end of the console.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    console: &'a Console,
    id: PortId,
}

impl dev::Port for Port<'_> {
    fn put(&mut self, byte: u8) -> Result<(), Full> {
        self.console.put(self.id, byte)
    }

    fn get(&mut self) -> Option<u8> {
        self.console.get(self.id)
    }

    fn take_overrun(&mut self) -> bool {
        let overrun = &self.console.overrun;
        overrun.load(Ordering::Relaxed) & bit(self.id) != 0
            && overrun.fetch_and(!bit(self.id), Ordering::Relaxed) & bit(self.id) != 0
    }
}
