//! The extended I/O interrupt controller: 256 vectors, each to one pin of one core.
//!
//! Every node of four cores has a set of its registers. Vectors arrive at node 0, where the bridge is, so what its
//! registers say decides about enabling and the target; the target's node only says which pin of the core it is
//! (Loongson 3A5000 user manual, 11.2).
//!
//! A vector that arrives stays pending until the core that sees it acknowledges it. Who sees it is not a fact of its
//! own but follows from the others: pending, enabled, routed here. So a vector that is disabled or routed elsewhere
//! before it is acknowledged is neither lost nor seen by two.

use alloc::boxed::Box;

use super::bits;
use crate::words::{four, merge, set_four};

/// Cores of a node.
pub(super) const CORES: usize = 4;
/// Words with a bit for each vector. The pin is chosen for the 32 vectors of one.
const GROUPS: usize = 8;

// Offsets from IOCSR 0x1000.
const NODE_TYPE: u64 = 0x4a0;
const NODE_TYPE_END: u64 = 0x4bf;
const IPMAP: u64 = 0x4c0;
const IPMAP_END: u64 = 0x4c7;
const ENABLE: u64 = 0x600;
const ENABLE_END: u64 = 0x61f;
const BOUNCE: u64 = 0x680;
const BOUNCE_END: u64 = 0x69f;
const STATUS: u64 = 0x700;
const STATUS_END: u64 = 0x71f;
const CORE_STATUS: u64 = 0x800;
const CORE_STATUS_END: u64 = 0x81f;
const ROUTE: u64 = 0xc00;
const ROUTE_END: u64 = 0xcff;

/// Cores, bit n for core n.
pub(super) type Cores = u64;

/// What makes a vector pending no longer, beside its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Nothing: it was a message.
    Sticky,
    /// [`Eiointc::withdraw`]: it stands for a level.
    WhileAsserted,
}

/// How `IPMAP` names a pin: `MISC_FUNC` bit 49 of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pins {
    /// One bit for each of pins 0 to 3.
    OneHot,
    /// A number from 0 to 7.
    Encoded,
}

/// Vectors that a store acknowledged, of the 32 from `32 * group` up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) group: usize,
    pub(super) vectors: u32,
}

/// The registers of a node.
#[derive(Clone)]
struct Node {
    /// For each value of a route's upper nibble, the nodes that it stands for.
    types: [u8; 32],
    ipmap: [u8; GROUPS],
    pins: Pins,
    enable: [u32; GROUPS],
    bounce: [u32; GROUPS],
    route: [u8; 256],
}

/// The controller.
pub(super) struct Eiointc {
    nodes: Box<[Node]>,
    /// What each core sees.
    cores: Box<[[u32; GROUPS]]>,
    /// Vectors that arrived and were not acknowledged.
    pending: [u32; GROUPS],
    /// Those of them that nobody may withdraw.
    sticky: [u32; GROUPS],
    /// Which core each vector went to last, of those that it goes to in turn.
    last: [u8; 256],
}

/// Where the bit of a vector is.
fn place(vector: u8) -> (usize, u32) {
    (usize::from(vector / 32), 1 << (vector % 32))
}

impl Node {
    fn new() -> Self {
        Self {
            types: [0; 32],
            ipmap: [0; GROUPS],
            pins: Pins::OneHot,
            enable: [0; GROUPS],
            bounce: [0; GROUPS],
            route: [0; 256],
        }
    }

    /// The cores that a vector may go to, whether they exist or not. A node type of zero is this node, which is
    /// node 0; no core at all is core 0, which is also what registers are at reset.
    fn candidates(&self, vector: u8) -> Cores {
        let route = self.route[usize::from(vector)];
        let cores = match route & 0xf {
            0 => 1,
            some => Cores::from(some),
        };
        let first = usize::from(route >> 4) * 2;
        let nodes = match u16::from_le_bytes([self.types[first], self.types[first + 1]]) {
            0 => 1,
            some => some,
        };
        bits(nodes.into()).fold(0, |all, node| all | cores << (CORES as u32 * node))
    }

    /// The pin that the vectors of a group drive.
    fn pin(&self, group: usize) -> u32 {
        let map = u32::from(self.ipmap[group]);
        match self.pins {
            Pins::Encoded => map & 7,
            Pins::OneHot if map & 0xf == 0 => 0,
            Pins::OneHot => (map & 0xf).trailing_zeros(),
        }
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            NODE_TYPE..=NODE_TYPE_END => four(&self.types, offset - NODE_TYPE),
            IPMAP..=IPMAP_END => four(&self.ipmap, offset - IPMAP),
            ENABLE..=ENABLE_END => self.enable[(offset - ENABLE) as usize / 4],
            BOUNCE..=BOUNCE_END => self.bounce[(offset - BOUNCE) as usize / 4],
            ROUTE..=ROUTE_END => four(&self.route, offset - ROUTE),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32, lanes: u32) {
        match offset {
            NODE_TYPE..=NODE_TYPE_END => set_four(&mut self.types, offset - NODE_TYPE, value, lanes),
            IPMAP..=IPMAP_END => set_four(&mut self.ipmap, offset - IPMAP, value, lanes),
            ENABLE..=ENABLE_END => {
                let word = &mut self.enable[(offset - ENABLE) as usize / 4];
                *word = merge(*word, value, lanes);
            }
            BOUNCE..=BOUNCE_END => {
                let word = &mut self.bounce[(offset - BOUNCE) as usize / 4];
                *word = merge(*word, value, lanes);
            }
            ROUTE..=ROUTE_END => set_four(&mut self.route, offset - ROUTE, value, lanes),
            _ => {}
        }
    }
}

impl Eiointc {
    /// A controller at reset for 1 to 64 cores.
    pub(super) fn new(cores: usize) -> Self {
        Self {
            nodes: (0..cores.div_ceil(CORES)).map(|_| Node::new()).collect(),
            cores: (0..cores).map(|_| [0; GROUPS]).collect(),
            pending: [0; GROUPS],
            sticky: [0; GROUPS],
            last: [u8::MAX; 256],
        }
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Every core.
    fn everyone(&self) -> Cores {
        Cores::MAX >> (64 - self.cores.len())
    }

    /// The pins of a core that are up, bit n for pin n.
    pub(super) fn pins_up(&self, core: usize) -> u32 {
        let Some((status, node)) = self.cores.get(core).zip(self.nodes.get(core / CORES)) else { return 0 };
        let waiting = status.iter().enumerate().filter(|(_, vectors)| **vectors != 0);
        waiting.fold(0, |pins, (group, _)| pins | 1 << node.pin(group))
    }

    /// A vector arrives. Returns whom it concerns.
    pub(super) fn arrive(&mut self, vector: u8, stay: Stay) -> Cores {
        let (group, bit) = place(vector);
        if stay == Stay::Sticky {
            self.sticky[group] |= bit;
        }
        if self.pending[group] & bit != 0 {
            return 0;
        }
        self.pending[group] |= bit;
        self.take_turn(vector);
        self.show(vector)
    }

    /// What a vector stood for is over. Returns whom it concerns.
    pub(super) fn withdraw(&mut self, vector: u8) -> Cores {
        let (group, bit) = place(vector);
        if self.sticky[group] & bit != 0 {
            return 0;
        }
        self.pending[group] &= !bit;
        let Some(core) = self.holder(vector) else { return 0 };
        self.cores[core][group] &= !bit;
        1 << core
    }

    /// The next of the cores that a vector goes to in turn has it.
    fn take_turn(&mut self, vector: u8) {
        let (group, bit) = place(vector);
        if self.nodes[0].bounce[group] & bit == 0 {
            return;
        }
        let candidates = self.nodes[0].candidates(vector) & self.everyone();
        let last = &mut self.last[usize::from(vector)];
        let after = Cores::MAX.checked_shl(u32::from(*last) + 1).unwrap_or(0);
        let next = if candidates & after != 0 { candidates & after } else { candidates };
        if next != 0 {
            *last = next.trailing_zeros() as u8;
        }
    }

    /// The core that sees a vector while it is pending, if it is enabled and one of those it is routed to exists.
    fn holder(&self, vector: u8) -> Option<usize> {
        let (group, bit) = place(vector);
        let node = &self.nodes[0];
        let candidates = node.candidates(vector) & self.everyone();
        if node.enable[group] & bit == 0 || candidates == 0 {
            return None;
        }
        let last = u32::from(self.last[usize::from(vector)]);
        let in_turn = node.bounce[group] & bit != 0 && candidates.checked_shr(last).unwrap_or(0) & 1 != 0;
        Some(if in_turn { last } else { candidates.trailing_zeros() } as usize)
    }

    fn show(&mut self, vector: u8) -> Cores {
        let (group, bit) = place(vector);
        let Some(core) = self.holder(vector) else { return 0 };
        self.cores[core][group] |= bit;
        1 << core
    }

    /// Works out anew who sees what.
    fn show_all(&mut self) -> Cores {
        self.cores.fill([0; GROUPS]);
        for group in 0..GROUPS {
            for index in bits(self.pending[group].into()) {
                self.show((32 * group as u32 + index) as u8);
            }
        }
        self.everyone()
    }

    /// Reads a register as `core` sees it.
    pub(super) fn read(&self, core: usize, offset: u64) -> u32 {
        match offset {
            STATUS..=STATUS_END => self.pending[(offset - STATUS) as usize / 4],
            CORE_STATUS..=CORE_STATUS_END => {
                self.cores.get(core).map_or(0, |status| status[(offset - CORE_STATUS) as usize / 4])
            }
            _ => self.nodes.get(core / CORES).map_or(0, |node| node.read(offset)),
        }
    }

    /// Writes the `lanes` of a register as `core` sees it; `value` has no other bits. Returns whom it concerns.
    pub(super) fn write(&mut self, core: usize, offset: u64, value: u32, lanes: u32) -> Cores {
        let Some(node) = self.nodes.get_mut(core / CORES) else { return 0 };
        node.write(offset, value, lanes);
        match offset {
            ENABLE..=ENABLE_END | BOUNCE..=BOUNCE_END | NODE_TYPE..=NODE_TYPE_END | ROUTE..=ROUTE_END => {
                self.show_all()
            }
            IPMAP..=IPMAP_END => self.everyone(),
            _ => 0,
        }
    }

    /// Acknowledges what a store to `offset` by `core` does, if it is to its status.
    pub(super) fn acknowledge(&mut self, core: usize, offset: u64, value: u32) -> Option<Acknowledged> {
        if !(CORE_STATUS..=CORE_STATUS_END).contains(&offset) {
            return None;
        }
        let group = (offset - CORE_STATUS) as usize / 4;
        let status = &mut self.cores.get_mut(core)?[group];
        let vectors = *status & value;
        *status &= !vectors;
        self.pending[group] &= !vectors;
        self.sticky[group] &= !vectors;
        Some(Acknowledged { group, vectors })
    }

    /// How the pins are named on the node of `core`.
    pub(super) fn pins(&self, core: usize) -> Pins {
        self.nodes.get(core / CORES).map_or(Pins::OneHot, |node| node.pins)
    }

    /// Says how the pins are named on the node of `core`. Returns whom it concerns.
    pub(super) fn set_pins(&mut self, core: usize, pins: Pins) -> Cores {
        let Some(node) = self.nodes.get_mut(core / CORES) else { return 0 };
        node.pins = pins;
        self.everyone()
    }
}
