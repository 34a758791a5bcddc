//! The chips as one plain value per thing that exists, with nothing kept that can be worked out.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use super::super::{Outcome, StartVcpu};
use crate::layout::{MSI, PCH_PIC};

/// Where the model's guests may start.
pub(super) fn is_memory(at: u64) -> bool {
    at != 0 && at < 0x8_0000_0000
}

/// Why a vector is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Message,
    Pin(usize),
}

#[derive(Clone, Debug, Default)]
struct Vector {
    reasons: BTreeSet<Reason>,
    last: Option<usize>,
}

#[derive(Clone, Debug)]
struct Pin {
    line: bool,
    low_active: bool,
    edge: bool,
    masked: bool,
    messages: bool,
    saw_edge: bool,
    in_service: bool,
    auto: [bool; 2],
    route: u8,
    vector: u8,
}

impl Pin {
    fn asserted(&self) -> bool {
        self.line != self.low_active
    }

    fn requests(&self) -> bool {
        if self.edge { self.saw_edge } else { self.asserted() }
    }

    fn is_open(&self) -> bool {
        self.requests() && !self.masked && self.messages
    }
}

#[derive(Clone, Debug)]
struct Node {
    /// Bytes at their offsets from 0x1400, of registers that keep what is written.
    bytes: Vec<u8>,
    encoded: bool,
}

#[derive(Clone, Debug, Default)]
struct Core {
    status: u32,
    enabled: u32,
    mail: [u8; 32],
    parked: bool,
}

/// The chips.
pub(super) struct Model {
    cores: Vec<Core>,
    nodes: Vec<Node>,
    vectors: Vec<Vector>,
    pins: Vec<Pin>,
}

/// Bytes of a store, by their place in a word of four.
type Bytes = [Option<u8>; 4];

fn bit_of(bytes: &Bytes, bit: usize) -> Option<bool> {
    bytes[bit / 8].map(|byte| byte >> (bit % 8) & 1 != 0)
}

/// The bits of a store, those that it does not have being zero.
fn value_of(bytes: &Bytes) -> u32 {
    u32::from_le_bytes(bytes.map(|byte| byte.unwrap_or(0)))
}

/// Whether offset `at` of a node's bytes is of a register that keeps what is written.
fn is_kept(at: usize) -> bool {
    [0xa0..0xc8, 0x200..0x220, 0x280..0x2a0, 0x800..0x900].iter().any(|range| range.contains(&at))
}

impl Model {
    pub(super) fn new(cpus: usize) -> Self {
        let core = |cpu| Core { parked: cpu != 0, ..Core::default() };
        let pin = Pin {
            line: false,
            low_active: false,
            edge: false,
            masked: true,
            messages: true,
            saw_edge: false,
            in_service: false,
            auto: [false; 2],
            route: 1,
            vector: 0,
        };
        Self {
            cores: (0..cpus).map(core).collect(),
            nodes: vec![Node { bytes: vec![0; 0x900], encoded: false }; cpus.div_ceil(4)],
            vectors: vec![Vector::default(); 256],
            pins: vec![pin; 32],
        }
    }

    fn node_bit(&self, register: usize, vector: usize) -> bool {
        self.nodes[0].bytes[register + vector / 8] >> (vector % 8) & 1 != 0
    }

    /// The cores that a vector may go to and that exist.
    fn choice(&self, vector: usize) -> Vec<usize> {
        let route = self.nodes[0].bytes[0x800 + vector];
        let kind = usize::from(route >> 4);
        let kind = &self.nodes[0].bytes[0xa0 + 2 * kind..][..2];
        let is_in = |node: usize| kind[node / 8] >> (node % 8) & 1 != 0;
        let nodes: Vec<usize> =
            if kind == [0, 0] { vec![0] } else { (0..16).filter(|n| is_in(*n)).collect() };
        let cores: Vec<usize> = match route & 0xf {
            0 => vec![0],
            _ => (0..4).filter(|core| route >> core & 1 != 0).collect(),
        };
        let all = nodes.iter().flat_map(|node| cores.iter().map(move |core| 4 * node + core));
        all.filter(|core| *core < self.cores.len()).collect()
    }

    fn holder(&self, vector: usize) -> Option<usize> {
        let choice = self.choice(vector);
        let in_turn = self.vectors[vector].last.filter(|last| choice.contains(last));
        match self.node_bit(0x280, vector) {
            true => in_turn.or(choice.first().copied()),
            false => choice.first().copied(),
        }
    }

    fn sees(&self, core: usize, vector: usize) -> bool {
        let pending = !self.vectors[vector].reasons.is_empty();
        pending && self.node_bit(0x200, vector) && self.holder(vector) == Some(core)
    }

    fn pin_of(&self, core: usize, vector: usize) -> u32 {
        let node = &self.nodes[core / 4];
        let map = node.bytes[0xc0 + vector / 32];
        if node.encoded {
            return u32::from(map % 8);
        }
        (0..4).find(|pin| map >> pin & 1 != 0).unwrap_or(0)
    }

    /// The lines of all cores.
    pub(super) fn lines(&self) -> Vec<u64> {
        let ipi = |core: &Core| u64::from(core.status & core.enabled != 0) << 12;
        let mut lines: Vec<u64> = self.cores.iter().map(ipi).collect();
        let pending = (0..256).filter(|vector| !self.vectors[*vector].reasons.is_empty());
        for vector in pending.filter(|vector| self.node_bit(0x200, *vector)) {
            if let Some(core) = self.holder(vector) {
                lines[core] |= 4 << self.pin_of(core, vector);
            }
        }
        lines
    }

    fn arrive(&mut self, vector: usize, reason: Reason) {
        if self.vectors[vector].reasons.is_empty() && self.node_bit(0x280, vector) {
            let choice = self.choice(vector);
            let after = |core: &&usize| self.vectors[vector].last.is_none_or(|last| **core > last);
            let next = choice.iter().find(after).or(choice.first()).copied();
            self.vectors[vector].last = next.or(self.vectors[vector].last);
        }
        self.vectors[vector].reasons.insert(reason);
    }

    /// Levels that ended first, then what begins, pin by pin.
    fn look_at_pins(&mut self) {
        for (number, pin) in self.pins.iter_mut().enumerate() {
            if !pin.edge && pin.in_service && !pin.is_open() {
                pin.in_service = false;
            }
            if pin.edge || !pin.in_service {
                for vector in &mut self.vectors {
                    vector.reasons.remove(&Reason::Pin(number));
                }
            }
        }
        for number in 0..32 {
            let pin = &mut self.pins[number];
            if pin.is_open() && !pin.in_service {
                pin.in_service = true;
                let reason = if pin.edge { Reason::Message } else { Reason::Pin(number) };
                let vector = pin.vector.into();
                self.arrive(vector, reason);
            }
        }
    }

    /// A device drives a pin.
    pub(super) fn drive(&mut self, number: usize, high: bool) -> u64 {
        self.watch(|model| {
            if let Some(pin) = model.pins.get_mut(number) {
                let before = pin.asserted();
                pin.line = high;
                pin.saw_edge |= pin.edge && !before && pin.asserted();
            }
            model.look_at_pins();
        })
    }

    /// Does something, and returns the cores whose lines got a bit by it.
    fn watch(&mut self, action: impl FnOnce(&mut Self)) -> u64 {
        let before = self.lines();
        action(self);
        let both = before.into_iter().zip(self.lines());
        both.enumerate().map(|(core, (old, new))| u64::from(new & !old != 0) << core).sum()
    }

    fn is_raised(&self, number: usize) -> bool {
        self.vectors.iter().any(|vector| vector.reasons.contains(&Reason::Pin(number)))
    }

    fn store_pic(&mut self, at: u64, bytes: &Bytes) {
        let at = at as usize;
        if let 0x100..0x120 | 0x200..0x220 = at {
            for (lane, byte) in bytes.iter().enumerate() {
                let pin = &mut self.pins[at % 0x20 + lane];
                let field = if at < 0x200 { &mut pin.route } else { &mut pin.vector };
                *field = byte.unwrap_or(*field);
            }
        }
        for number in 0..32 {
            let raised = self.is_raised(number);
            let pin = &mut self.pins[number];
            let Some(set) = bit_of(bytes, number) else { continue };
            let before = pin.asserted();
            match at {
                0x20 => pin.masked = set,
                0x40 => pin.messages = set,
                0x60 if set != pin.edge => {
                    pin.edge = set;
                    pin.saw_edge = false;
                    pin.in_service = false;
                }
                0x80 if set => {
                    pin.saw_edge = false;
                    pin.in_service &= raised;
                }
                0xc0 => pin.auto[0] = set,
                0xe0 => pin.auto[1] = set,
                0x3e0 => pin.low_active = set,
                _ => {}
            }
            pin.saw_edge |= pin.edge && !before && pin.asserted();
        }
        self.look_at_pins();
    }

    fn load_pic(&self, at: u64) -> u32 {
        let gather = |field: fn(&Pin) -> bool| {
            self.pins.iter().enumerate().fold(0, |all, (number, pin)| all | u32::from(field(pin)) << number)
        };
        let four = |field: fn(&Pin) -> u8| {
            u32::from_le_bytes(core::array::from_fn(|lane| field(&self.pins[at as usize % 0x20 + lane])))
        };
        match at {
            0 => 0x0700_0000,
            4 => 0x001f_0001,
            0x20 => gather(|pin| pin.masked),
            0x40 => gather(|pin| pin.messages),
            0x60 => gather(|pin| pin.edge),
            0xc0 => gather(|pin| pin.auto[0]),
            0xe0 => gather(|pin| pin.auto[1]),
            0x100..0x120 => four(|pin| pin.route),
            0x200..0x220 => four(|pin| pin.vector),
            0x380 => gather(Pin::requests),
            0x3a0 => gather(|pin| pin.in_service),
            0x3e0 => gather(|pin| pin.low_active),
            _ => 0,
        }
    }

    fn load_word(&self, from: usize, at: u64) -> u32 {
        let text = |text: &[u8; 8], from: u64| text[(at - from) as usize..][..4].try_into().unwrap();
        let vectors = |first: u64, is: &dyn Fn(usize) -> bool| {
            let base = (at - first) as usize * 8;
            (0..32).fold(0, |all, bit| all | u32::from(is(base + bit)) << bit)
        };
        match at {
            0 => 0x11,
            8 => 0x1c,
            0x10 | 0x14 => u32::from_le_bytes(text(b"Loongson", 0x10)),
            0x20 | 0x24 => u32::from_le_bytes(text(b"3A5000\0\0", 0x20)),
            0x408 => self.nodes.len() as u32,
            0x424 => 1 << 16 | u32::from(self.nodes[from / 4].encoded) << 17,
            0x1000 => self.cores[from].status,
            0x1004 => self.cores[from].enabled,
            0x1020..0x1040 => {
                let at = (at - 0x1020) as usize;
                u32::from_le_bytes(self.cores[from].mail[at..][..4].try_into().unwrap())
            }
            0x1700..0x1720 => vectors(0x1700, &|vector| !self.vectors[vector].reasons.is_empty()),
            0x1800..0x1820 => vectors(0x1800, &|vector| self.sees(from, vector)),
            0x1400..0x1d00 if is_kept((at - 0x1400) as usize) => {
                let bytes = &self.nodes[from / 4].bytes[(at - 0x1400) as usize..][..4];
                u32::from_le_bytes(bytes.try_into().unwrap())
            }
            _ => 0,
        }
    }

    fn store_word(&mut self, from: usize, at: u64, bytes: &Bytes) {
        let whole = bytes.iter().all(Option::is_some);
        let value = value_of(bytes);
        match at {
            0x424 => {
                let encoded = bit_of(bytes, 17);
                self.nodes[from / 4].encoded = encoded.unwrap_or(self.nodes[from / 4].encoded);
            }
            0x1004 => {
                let enabled = &mut self.cores[from].enabled;
                let old = enabled.to_le_bytes();
                *enabled = u32::from_le_bytes(core::array::from_fn(|lane| bytes[lane].unwrap_or(old[lane])));
            }
            0x1008 => self.cores[from].status |= value,
            0x100c => self.cores[from].status &= !value,
            0x1020..0x1040 => {
                for (lane, byte) in bytes.iter().enumerate() {
                    let old = &mut self.cores[from].mail[(at - 0x1020) as usize + lane];
                    *old = byte.unwrap_or(*old);
                }
            }
            0x1040 if whole => {
                if let Some(core) = self.cores.get_mut((value >> 16 & 0x3ff) as usize) {
                    core.status |= 1 << (value % 32);
                }
            }
            0x1140 if bytes[0].is_some() => self.arrive((value & 0xff) as usize, Reason::Message),
            0x1800..0x1820 => {
                let first = (at - 0x1800) as usize * 8;
                let seen: Vec<usize> =
                    (first..first + 32).filter(|vector| self.sees(from, *vector)).collect();
                for vector in seen.into_iter().filter(|vector| bit_of(bytes, vector - first) == Some(true)) {
                    self.vectors[vector].reasons.clear();
                }
            }
            0x1400..0x1d00 => {
                for (lane, byte) in bytes.iter().enumerate() {
                    let at = (at - 0x1400) as usize + lane;
                    if let Some(byte) = byte.filter(|_| is_kept(at)) {
                        self.nodes[from / 4].bytes[at] = byte;
                    }
                }
            }
            _ => {}
        }
    }

    /// A parked core that has an IPI.
    fn firmware(&mut self) -> Option<StartVcpu> {
        let called = |core: &Core| core.parked && core.status & 1 != 0;
        let vcpu = self.cores.iter().position(called)?;
        let core = &mut self.cores[vcpu];
        core.status = 0;
        let entry = u64::from_le_bytes(core.mail[..8].try_into().unwrap());
        core.parked = !is_memory(entry);
        (!core.parked).then_some(StartVcpu { vcpu, entry })
    }

    /// The parcel in a store to MAIL_SEND or ANY_SEND: to whom, and its bytes.
    fn parcel(&self, value: u64) -> Option<(usize, Bytes)> {
        let to = (value >> 16 & 0x3ff) as usize;
        let data = value.to_le_bytes();
        let bytes = core::array::from_fn(|lane| (value >> (27 + lane) & 1 == 0).then_some(data[4 + lane]));
        (to < self.cores.len()).then_some((to, bytes))
    }

    /// An access by IOCSR instruction.
    pub(super) fn iocsr(&mut self, from: usize, at: u64, width: u8, store: Option<u64>) -> Outcome {
        if from >= self.cores.len() {
            return Outcome::default();
        }
        let Some(value) = store else {
            let value = load_bytes(at, width, |at| self.load_word(from, at));
            return Outcome { value, ..Outcome::default() };
        };
        let mut start = None;
        let kicks = self.watch(|model| {
            match (at, width) {
                (0x1048, 8) => {
                    if let Some((to, bytes)) = model.parcel(value) {
                        model.store_word(to, 0x1020 + (value >> 2 & 7) * 4, &bytes);
                    }
                }
                (0x1158, 8) => {
                    if let Some((to, bytes)) = model.parcel(value) {
                        model.store_word(to, value & 0xfffc, &bytes);
                    }
                }
                _ => split(at, width, value, |at, bytes| model.store_word(from, at, &bytes)),
            }
            start = model.firmware();
        });
        Outcome { value: 0, kicks: super::Kicks(kicks), start }
    }

    /// An access to memory.
    pub(super) fn mmio(&mut self, at: u64, width: u8, store: Option<u64>) -> Option<(u64, u64)> {
        if PCH_PIC.contains(&at) {
            let at = at - PCH_PIC.start;
            return Some(match store {
                None => (load_bytes(at, width, |at| self.load_pic(at)), 0),
                Some(value) => {
                    (0, self.watch(|m| split(at, width, value, |at, bytes| m.store_pic(at, &bytes))))
                }
            });
        }
        if !MSI.contains(&at) {
            return None;
        }
        let vector = store.filter(|_| at == MSI.start).map(|value| value as u8);
        let kicks = vector.map(|vector| self.watch(|model| model.arrive(vector.into(), Reason::Message)));
        Some((0, kicks.unwrap_or(0)))
    }
}

fn load_bytes(at: u64, width: u8, word: impl Fn(u64) -> u32) -> u64 {
    let mut value = [0; 8];
    for (byte, place) in value.iter_mut().take(width.into()).zip(0..) {
        let at = at.wrapping_add(place);
        *byte = word(at & !3).to_le_bytes()[(at % 4) as usize];
    }
    u64::from_le_bytes(value)
}

/// Hands the words that a store touches to `word`, in order.
fn split(at: u64, width: u8, value: u64, mut word: impl FnMut(u64, Bytes)) {
    let mut words: Vec<(u64, Bytes)> = Vec::new();
    for (byte, place) in value.to_le_bytes().into_iter().take(width.into()).zip(0..) {
        let at = at.wrapping_add(place);
        if words.last().is_none_or(|(word, _)| *word != at & !3) {
            words.push((at & !3, [None; 4]));
        }
        if let Some((_, bytes)) = words.last_mut() {
            bytes[(at % 4) as usize] = Some(byte);
        }
    }
    words.into_iter().for_each(|(at, bytes)| word(at, bytes));
}
