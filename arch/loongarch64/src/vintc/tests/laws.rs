//! Laws under random input.
//!
//! Each of these changes, made by hand one at a time, makes a law fail (`guest_sees_the_chips_of_the_model` G,
//! `no_interrupt_is_lost_or_invented` N, `a_level_is_up_exactly_while_it_is_asserted` L, `what_is_masked_is_silent` M,
//! `nonsense_is_survived` S):
//! a vector that is pending arrives once more (G, N); a message can be withdrawn (G), or stays so after it was acknowledged
//! (G); an acknowledged vector stays pending (G, N, L), or one is acknowledged that another core sees (G); disabled vectors
//! are seen (G, M); who saw a vector before it was routed elsewhere sees it still (G, N); bouncing vectors take no turns (G),
//! or whoever stops bouncing them is not heard (G); a withdrawn vector leaves the line up (G, N, L); a new IPMAP shows later
//! (G); edges are levels (G, N); HTMSI_EN (G) or the mask (G, N, M) is ignored; an edge that ends is forgotten, or masking
//! repeats it (G, N); a level is sent without end (G, N), or not withdrawn (G, N, L), or sent twice by INTCLR (G), or not
//! again (G, N); INTCLR leaves an edge (G, N); one pin withdraws what stands for another, too (G), or by a vector that it was
//! given later (G, N, L); a pin that becomes an edge leaves its level's message (G), or its old edge (G); edges are withdrawn
//! like levels (G); kicks name whoever has a line up (G, N), or only those who had none (G, N); an acknowledgement does not
//! reach the PCH-PIC (G) or the line (G, N, L); a vCPU starts that runs (G, S), or where no memory is (G), or not at all
//! (G); IPIs that are not enabled raise the line (G, M); masks of MAIL_SEND are turned around (G).

use super::model::{Model, is_memory};
use super::*;
use proptest::prelude::*;

/// One thing that happens to the chips.
#[derive(Clone, Debug)]
enum Op {
    Iocsr { from: usize, at: u64, width: u8, store: Option<u64> },
    Mmio { at: u64, width: u8, store: Option<u64> },
    Line { pin: u32, high: bool },
}

fn width() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(4), 4 => Just(8), 2 => Just(1), 1 => Just(2)]
}

/// Values that make things meet: few bits, few cores, few vectors.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        2 => (0..64u32).prop_map(|bit| 1 << bit),
        2 => 0..16u64,
        1 => Just(u64::MAX),
        1 => Just(0),
    ]
}

/// `IPI_SEND`, `MAIL_SEND` and `ANY_SEND` to cores that mostly exist.
fn send() -> impl Strategy<Value = (u64, u8, u64)> {
    let to = || prop_oneof![9 => 0..8u64, 1 => 0..0x400u64];
    let bytes = || prop_oneof![3 => Just(0u64), 1 => 0..16u64];
    let entry = prop_oneof![Just(0u64), Just(0x20_0000), any::<u32>().prop_map(u64::from)];
    prop_oneof![
        (to(), 0..4u64).prop_map(|(to, action)| (0x1040, 4, to << 16 | action)),
        (to(), 0..8u64, bytes(), entry).prop_map(|(to, half, kept, entry)| (
            0x1048,
            8,
            entry << 32 | kept << 27 | to << 16 | half << 2
        )),
        (to(), register(), bytes(), value()).prop_map(|(to, at, kept, data)| (
            0x1158,
            8,
            data << 32 | kept << 27 | to << 16 | at & 0xffff
        )),
    ]
}

/// IOCSR addresses of registers, and some where there are none.
fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => 0..0x430u64,
        4 => 0x1000..0x1050u64,
        2 => 0x14a0..0x14c8u64,
        3 => (0..5u64).prop_map(|word| 0x1600 + 8 * word),
        1 => 0x1600..0x1720u64,
        4 => (0..5u64).prop_map(|word| 0x1800 + 8 * word),
        4 => prop_oneof![0x1c00..0x1c28u64, 0x1bf0..0x1d10u64],
        1 => Just(0x1140),
    ]
}

fn pic_register() -> impl Strategy<Value = u64> {
    let known = [0, 0x20, 0x20, 0x20, 0x40, 0x60, 0x80, 0x80, 0xc0, 0xe0, 0x380, 0x3a0, 0x3e0];
    prop_oneof![
        8 => prop::sample::select(known.to_vec()),
        3 => 0x200..0x220u64,
        1 => 0x100..0x120u64,
        1 => 0..0x400u64,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let core = || prop_oneof![19 => 0usize..8, 1 => any::<usize>()];
    let pic = (pic_register(), width(), prop::option::weighted(0.8, value()));
    prop_oneof![
        6 => (core(), register(), width(), prop::option::weighted(0.8, value()))
            .prop_map(|(from, at, width, store)| Op::Iocsr { from, at, width, store }),
        3 => (core(), send()).prop_map(|(from, (at, width, value))| Op::Iocsr { from, at, width, store: Some(value) }),
        3 => (core(), 0..4u64)
            .prop_map(|(from, word)| Op::Iocsr { from, at: 0x1800 + 8 * word, width: 8, store: Some(u64::MAX) }),
        5 => pic.prop_map(|(at, width, store)| Op::Mmio { at: PCH_PIC.start + at, width, store }),
        2 => (0..12u64, any::<u8>()).prop_map(|(vector, route)| {
            Op::Iocsr { from: 0, at: 0x1c00 + vector, width: 1, store: Some(route.into()) }
        }),
        1 => prop_oneof![Just(u64::MAX), any::<u64>()]
            .prop_map(|bits| Op::Iocsr { from: 0, at: 0x1680, width: 8, store: Some(bits) }),
        5 => prop_oneof![8 => 0..12u64, 1 => 0..40u64, 1 => any::<u64>()]
            .prop_map(|vector| Op::Mmio { at: MSI.start, width: 4, store: Some(vector) }),
        6 => (0u32..8, any::<bool>()).prop_map(|(pin, high)| Op::Line { pin, high }),
        1 => (any::<u32>(), any::<bool>()).prop_map(|(pin, high)| Op::Line { pin, high }),
    ]
}

fn level(high: bool) -> Level {
    if high { Level::High } else { Level::Low }
}

/// Opens everything, so that not all is lost in masks.
fn opening() -> Vec<Op> {
    let enable =
        (0..4).map(|word| Op::Iocsr { from: 0, at: 0x1600 + 8 * word, width: 8, store: Some(u64::MAX) });
    let ipi = (0..8).map(|from| Op::Iocsr { from, at: 0x1004, width: 4, store: Some(0xffff_ffff) });
    let vectors = (0..8).map(|pin| Op::Mmio { at: PCH_PIC.start + 0x200 + pin, width: 1, store: Some(pin) });
    let mask = Op::Mmio { at: PCH_PIC.start + 0x20, width: 4, store: Some(0) };
    enable.chain(ipi).chain(vectors).chain([mask]).collect()
}

/// Both, under the same operations.
struct World {
    cpus: usize,
    vintc: Vintc,
    model: Model,
}

impl World {
    fn new(cpus: usize) -> Self {
        let mut world = Self { cpus, vintc: Vintc::new(cpus), model: Model::new(cpus) };
        opening().iter().for_each(|op| world.run(op));
        world
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Iocsr { from, at, width, store } => {
                let expected = self.model.iocsr(from, at, width, store);
                let outcome = self.vintc.iocsr(from, IocsrAccess { at, width, store }, is_memory);
                assert_eq!(outcome, expected, "{op:x?}");
            }
            Op::Mmio { at, width, store } => {
                let expected = self.model.mmio(at, width, store);
                let answer = self.vintc.mmio(at, width, store).map(|(value, kicks)| (value, kicks.0));
                assert_eq!(answer, expected, "{op:x?}");
            }
            Op::Line { pin, high } => {
                let expected = self.model.drive(pin as usize, high);
                assert_eq!(self.vintc.set_line(pin, level(high)).0, expected, "{op:?}");
            }
        }
    }

    fn compare_lines(&self, op: &Op) {
        let lines: Vec<u64> = (0..self.cpus).map(|cpu| self.vintc.lines(cpu)).collect();
        assert_eq!(lines, self.model.lines(), "{op:x?}");
    }

    fn compare_registers(&mut self) {
        let iocsr = [0..0x430, 0x1000..0x1060, 0x14a0..0x1d10].into_iter().flatten().step_by(4);
        for at in iocsr {
            for from in 0..self.cpus {
                self.run(&Op::Iocsr { from, at, width: 4, store: None });
            }
        }
        for at in (PCH_PIC.start..PCH_PIC.start + 0x400).step_by(4) {
            self.run(&Op::Mmio { at, width: 4, store: None });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// A guest cannot tell the chips from the model; kicks are complete, and name nobody else.
    #[test]
    fn guest_sees_the_chips_of_the_model(
        cpus in prop_oneof![3 => 1usize..5, 1 => 5usize..9],
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(cpus);
        for op in &ops {
            world.run(op);
            world.compare_lines(op);
        }
        world.compare_registers();
    }
}

/// What a vector owes: it is delivered after it was raised last, and no more often.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    raised: u32,
    delivered: u32,
    owed: bool,
}

/// Cores that look at their lines whenever it suits them, and everything changes meanwhile. Vectors 0 to 3 are
/// levels, 4 to 7 edges, 32 to 39 messages.
struct LazyWorld {
    vintc: Vintc,
    accounts: [Account; 40],
    high: [bool; 4],
    /// Cores that were named in kicks and did not look since.
    told: u64,
}

/// What happens in a lazy world.
#[derive(Clone, Debug)]
enum LazyOp {
    Message { vector: u64 },
    Edge { pin: u32 },
    Level { pin: u32, high: bool },
    Enable { vector: u64, on: bool },
    Route { vector: u64, route: u64 },
    Bounce { bits: u64 },
    Mask { pin: u32, on: bool },
    Pin { map: u64 },
    Look { core: usize },
}

fn lazy_op() -> impl Strategy<Value = LazyOp> {
    let vector = || prop_oneof![0..8u64, 32..40u64];
    prop_oneof![
        3 => (32..40u64).prop_map(|vector| LazyOp::Message { vector }),
        3 => (4..8u32).prop_map(|pin| LazyOp::Edge { pin }),
        3 => (0..4u32, any::<bool>()).prop_map(|(pin, high)| LazyOp::Level { pin, high }),
        2 => (vector(), any::<bool>()).prop_map(|(vector, on)| LazyOp::Enable { vector, on }),
        3 => (vector(), 0..0x20u64).prop_map(|(vector, route)| LazyOp::Route { vector, route }),
        1 => value().prop_map(|bits| LazyOp::Bounce { bits }),
        2 => (0..8u32, any::<bool>()).prop_map(|(pin, on)| LazyOp::Mask { pin, on }),
        1 => value().prop_map(|map| LazyOp::Pin { map }),
        6 => (0..6usize).prop_map(|core| LazyOp::Look { core }),
    ]
}

impl LazyWorld {
    fn new() -> Self {
        let mut vintc = open(6);
        pic_store(&mut vintc, 0x60, 4, 0xf0);
        store(&mut vintc, 0, 0x14a0, 4, 2 << 16 | 1);
        Self { vintc, accounts: [Account::default(); 40], high: [false; 4], told: 0 }
    }

    fn run(&mut self, op: &LazyOp) {
        let before: Vec<u64> = (0..6).map(|core| self.vintc.lines(core)).collect();
        let kicks = self.apply(op);
        for (core, before) in before.into_iter().enumerate() {
            let rose = self.vintc.lines(core) & !before != 0;
            assert_eq!(kicks >> core & 1 != 0, rose, "{op:?}: core {core}");
        }
        self.told |= kicks;
    }

    fn apply(&mut self, op: &LazyOp) -> u64 {
        match *op {
            LazyOp::Message { vector } => {
                self.raise(vector as usize);
                msi(&mut self.vintc, vector)
            }
            LazyOp::Edge { pin } => {
                self.raise(pin as usize);
                // The device asks once more than the guest clears, so every edge counts.
                pic_store(&mut self.vintc, 0x80, 4, 1 << pin);
                let kicks = self.vintc.set_line(pin, Level::High);
                assert!(self.vintc.set_line(pin, Level::Low).is_empty());
                kicks.0
            }
            LazyOp::Level { pin, high } => {
                self.high[pin as usize] = high;
                self.vintc.set_line(pin, level(high)).0
            }
            LazyOp::Enable { vector, on } => {
                let register = 0x1600 + vector / 32 * 4;
                let old = load(&mut self.vintc, 0, register, 4);
                let bit = 1 << (vector % 32);
                store(&mut self.vintc, 0, register, 4, if on { old | bit } else { old & !bit })
            }
            LazyOp::Route { vector, route } => store(&mut self.vintc, 0, 0x1c00 + vector, 1, route),
            LazyOp::Bounce { bits } => store(&mut self.vintc, 0, 0x1680, 8, bits),
            LazyOp::Mask { pin, on } => {
                let old = pic_load(&mut self.vintc, 0x20, 4);
                let bit = 1 << pin;
                pic_store(&mut self.vintc, 0x20, 4, if on { old | bit } else { old & !bit })
            }
            LazyOp::Pin { map } => store(&mut self.vintc, 0, 0x14c0, 8, map),
            LazyOp::Look { core } => {
                self.look(core);
                0
            }
        }
    }

    fn raise(&mut self, vector: usize) {
        let account = &mut self.accounts[vector];
        account.raised += 1;
        account.owed = true;
    }

    /// A core handles all it sees, as an interrupt handler does.
    fn look(&mut self, core: usize) {
        self.told &= !(1 << core);
        let found = seen(&mut self.vintc, core);
        assert_eq!(found.is_empty(), self.vintc.lines(core) == 0, "lines of {core} with {found:?}");
        for vector in &found {
            let others = (0..6).filter(|other| *other != core);
            let twice = others.filter(|other| seen(&mut self.vintc, *other).contains(vector)).count();
            assert_eq!(twice, 0, "{vector} is seen by two");
        }
        for vector in found {
            store(&mut self.vintc, core, 0x1800 + vector / 64 * 8, 8, 1 << (vector % 64));
            let account = &mut self.accounts[vector as usize];
            account.delivered += 1;
            account.owed = false;
            if let Some(high) = self.high.get(vector as usize) {
                assert!(high, "{vector} is delivered though its line is low");
            } else {
                assert!(account.delivered <= account.raised, "{vector} came from nowhere");
            }
        }
        assert_eq!(self.vintc.lines(core), 0, "all was acknowledged");
    }

    /// Opens everything, and returns what was never delivered.
    fn lost(mut self) -> Vec<usize> {
        for core in 0..6 {
            self.look(core);
        }
        self.run(&LazyOp::Bounce { bits: 0 });
        for vector in (0..8).chain(32..40) {
            self.run(&LazyOp::Route { vector, route: 1 << (vector % 4) });
            self.run(&LazyOp::Enable { vector, on: true });
        }
        for pin in 0..8 {
            self.run(&LazyOp::Mask { pin, on: pin < 4 });
            self.run(&LazyOp::Mask { pin, on: false });
        }
        for pin in 0..4 {
            // A level that is high when it is unmasked is owed, whatever was before.
            self.accounts[pin].owed = self.high[pin];
        }
        // Whoever was not told has nothing to see.
        for core in 0..6 {
            assert!(self.told >> core & 1 != 0 || self.vintc.lines(core) == 0, "core {core} was not told");
            self.look(core);
        }
        (0..40).filter(|vector| self.accounts[*vector].owed).collect()
    }
}

/// Chips all of whose vectors are for one core, which does as Linux with a level-triggered pin.
#[derive(Clone, Debug)]
enum Step {
    Rise,
    Fall,
    Handle { falls: bool },
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// However late cores look, and whatever is masked, routed and bounced meanwhile, nothing is lost, made up or
    /// seen by two, and whoever has something to see was told.
    #[test]
    fn no_interrupt_is_lost_or_invented(ops in prop::collection::vec(lazy_op(), 1..200)) {
        let mut world = LazyWorld::new();
        for op in &ops {
            world.run(op);
        }
        prop_assert_eq!(world.lost(), Vec::<usize>::new());
    }

    /// A core that masks, serves and unmasks has its line up exactly while the device asks.
    #[test]
    fn a_level_is_up_exactly_while_it_is_asserted(
        steps in prop::collection::vec(
            prop_oneof![
                Just(Step::Rise),
                Just(Step::Fall),
                any::<bool>().prop_map(|falls| Step::Handle { falls }),
            ],
            1..100,
        ),
    ) {
        let mut vintc = open(1);
        let mut high = false;
        for step in steps {
            match step {
                Step::Rise => high = true,
                Step::Fall => high = false,
                Step::Handle { falls } => {
                    store(&mut vintc, 0, 0x1800, 8, u64::MAX);
                    pic_store(&mut vintc, 0x20, 4, 1 << 5);
                    prop_assert_eq!(vintc.lines(0), 0);
                    high &= !falls;
                    let _ = vintc.set_line(5, level(high));
                    pic_store(&mut vintc, 0x80, 4, 1 << 5);
                    pic_store(&mut vintc, 0x20, 4, 0);
                }
            }
            let _ = vintc.set_line(5, level(high));
            prop_assert_eq!(vintc.lines(0) != 0, high);
        }
    }

    /// What is masked at the pin or disabled at the vector raises no line, whatever else happens.
    #[test]
    fn what_is_masked_is_silent(ops in prop::collection::vec(op(), 1..150), vector in 0..8u32, at_pin in any::<bool>()) {
        let mut vintc = open(4);
        // Only the one vector is looked at, so all others are disabled; nobody has IPIs.
        store(&mut vintc, 0, 0x1600, 8, if at_pin { 1 << vector } else { 0 });
        for word in 1..4 {
            store(&mut vintc, 0, 0x1600 + 8 * word, 8, 0);
        }
        pic_store(&mut vintc, 0x20, 4, if at_pin { 1 << vector } else { 0 });
        for op in &ops {
            if matters(op) {
                continue;
            }
            let kicks = match *op {
                Op::Iocsr { from, at, width, store } => {
                    vintc.iocsr(from, IocsrAccess { at, width, store }, is_memory).kicks
                }
                // Messages have no pin that could be masked.
                Op::Mmio { at, .. } if at == MSI.start && at_pin => Kicks::NONE,
                Op::Mmio { at, width, store } => vintc.mmio(at, width, store).unwrap().1,
                Op::Line { pin, high } => vintc.set_line(pin, level(high)),
            };
            prop_assert_eq!(kicks, Kicks::NONE);
            prop_assert_eq!([0, 1, 2, 3].map(|core| vintc.lines(core)), [0; 4]);
        }
    }

    /// No access, however wide, wherever it is and whoever makes it, stops the chips.
    #[test]
    fn nonsense_is_survived(
        cpus in 1usize..=64,
        calls in prop::collection::vec(
            (prop_oneof![op(), noise()], any::<u8>(), 0..8u64),
            1..200,
        ),
    ) {
        let mut vintc = Vintc::new(cpus);
        for (call, width, skew) in calls {
            let kicks = match call {
                Op::Iocsr { from, at, store, .. } => {
                    let access = IocsrAccess { at: at.wrapping_add(skew), width, store };
                    let outcome = vintc.iocsr(from, access, |_| true);
                    let bits = 8 * u32::from(width.clamp(1, 8));
                    prop_assert!(store.is_none() || outcome.value == 0);
                    prop_assert!(outcome.value.checked_shr(bits).unwrap_or(0) == 0);
                    prop_assert!(outcome.start.is_none_or(|start| (1..cpus).contains(&start.vcpu)));
                    outcome.kicks
                }
                Op::Mmio { at, store, .. } => {
                    vintc.mmio(at.wrapping_add(skew), width, store).map_or(Kicks::NONE, |answer| answer.1)
                }
                Op::Line { pin, high } => vintc.set_line(pin, level(high)),
            };
            prop_assert!(kicks.vcpus().all(|vcpu| vcpu < cpus));
            prop_assert!((0..cpus).all(|vcpu| vintc.lines(vcpu) & !0x13fc == 0));
        }
    }
}

/// Accesses anywhere.
fn noise() -> impl Strategy<Value = Op> {
    let near = prop_oneof![any::<u64>(), PCH_PIC, MSI, Just(u64::MAX), Just(PCH_PIC.end - 1)];
    prop_oneof![
        (any::<usize>(), any::<u64>(), prop::option::of(any::<u64>()))
            .prop_map(|(from, at, store)| Op::Iocsr { from, at, width: 4, store }),
        (near, prop::option::of(any::<u64>())).prop_map(|(at, store)| Op::Mmio { at, width: 4, store }),
    ]
}

/// Whether an operation could enable IPIs, or unmask or reroute what `what_is_masked_is_silent` masks.
fn matters(op: &Op) -> bool {
    let overlaps = |at: u64, width: u8, range: core::ops::Range<u64>| {
        at < range.end && at.wrapping_add(width.into()) > range.start
    };
    match *op {
        Op::Iocsr { at, width, store: Some(value), .. } => {
            let sends = (at, width) == (0x1158, 8);
            let at = if sends { value & 0xfffc } else { at };
            let width = if sends { 4 } else { width };
            [0x1004..0x1008, 0x1140..0x1144, 0x1600..0x1620]
                .iter()
                .any(|range| overlaps(at, width, range.clone()))
        }
        Op::Mmio { at, width, store: Some(_) } => {
            let range = |from: u64, to: u64| PCH_PIC.start + from..PCH_PIC.start + to;
            overlaps(at, width, range(0x20, 0x24)) || overlaps(at, width, range(0x200, 0x220))
        }
        _ => false,
    }
}
