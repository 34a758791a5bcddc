//! Laws under random input.
//!
//! Each of these changes, made by hand one at a time, makes a law fail (`guest_sees_a_gic` G,
//! `late_vcpus_lose_nothing` L):
//! giving up a list register does not return the latch (G, L); a taken interrupt stays lent (G, L); a new edge is
//! dropped instead of merged (G, L); no LR.EOI for a high line (G, L); a listed interrupt may be listed again (G, L);
//! the holder of an SPI is not kicked, or not told to recheck (G, L); `sync` does not kick the new target (L); a
//! rerouted interrupt stays a candidate of the old target (L); no NPIE (G, L), or NPIE with all list registers active
//! (G); pending-and-active is kept on overflow (G); list registers are given by INTID instead of priority (G), or
//! without regard to group enables (G), or no maintenance interrupt on their change (G); equal priority passes VPMR
//! (G); a raised priority is not news (G); ICPENDR leaves what was lent (G).

use super::super::list::{Interface, lr};
use super::super::{Config, Frame, Kicks, Level, Vgic};
use super::cpu::{Cpu, Ended};
use super::world::{Bank, Op, PPIS, TIMER, World};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn config() -> impl Strategy<Value = Config> {
    let list_registers = prop_oneof![3 => 1usize..=4, 1 => Just(16)];
    (1usize..=3, 0usize..=2, list_registers, 5u8..=8).prop_map(
        |(vcpus, words, list_registers, priority_bits)| Config {
            vcpus,
            spis: words * 32,
            list_registers,
            priority_bits,
        },
    )
}

/// Few interrupts, so that things meet.
fn intid() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, 16..20u32, Just(TIMER), 32..38u32, 0..96u32]
}

fn sparse() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..32u32).prop_map(|bit| 1 << bit), 0..16u32, Just(1 << TIMER), Just(u32::MAX)]
}

fn priority() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0x20), Just(0x40), Just(0x80), Just(0xa0), any::<u8>()]
}

fn bank() -> impl Strategy<Value = Bank> {
    prop_oneof![
        1 => Just(Bank::Group),
        4 => Just(Bank::Enable),
        1 => Just(Bank::Disable),
        2 => Just(Bank::Pend),
        1 => Just(Bank::Unpend),
        1 => Just(Bank::Activate),
        2 => Just(Bank::Deactivate),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = || 0usize..3;
    let device = prop_oneof![
        6 => (vcpu(), 0u16..8, 0u32..6).prop_map(|(from, targets, intid)| Op::Sgi { from, targets, intid }),
        6 => (0u32..40, any::<bool>()).prop_map(|(intid, high)| Op::Line { intid, high }),
        3 => (vcpu(), PPIS, any::<bool>())
            .prop_map(|(vcpu, intid, high)| Op::PrivateLine { vcpu, intid, high }),
        3 => vcpu().prop_map(|vcpu| Op::Fire { vcpu }),
        1 => vcpu().prop_map(|vcpu| Op::Retract { vcpu }),
    ];
    let store = prop_oneof![
        4 => (bank(), vcpu(), 0usize..3, sparse())
            .prop_map(|(bank, vcpu, word, bits)| Op::Bits { bank, vcpu, word, bits }),
        3 => (vcpu(), intid(), priority()).prop_map(|(vcpu, intid, value)| Op::Priority { vcpu, intid, value }),
        1 => (vcpu(), 0usize..6, any::<u32>()).prop_map(|(vcpu, half, bits)| Op::Config { vcpu, half, bits }),
        3 => (0u32..40, 0usize..4).prop_map(|(intid, vcpu)| Op::Route { intid, vcpu }),
        1 => prop_oneof![1 => 0u8..4, 2 => Just(3)].prop_map(|groups| Op::Ctlr { groups }),
    ];
    let guest = prop_oneof![
        8 => vcpu().prop_map(|vcpu| Op::Ack { vcpu }),
        7 => vcpu().prop_map(|vcpu| Op::End { vcpu }),
        1 => (vcpu(), prop_oneof![Just(0xff), priority()]).prop_map(|(vcpu, value)| Op::Pmr { vcpu, value }),
        1 => (vcpu(), prop_oneof![1 => 0u8..4, 2 => Just(3)])
            .prop_map(|(vcpu, groups)| Op::GroupEnables { vcpu, groups }),
        2 => vcpu().prop_map(|vcpu| Op::Exit { vcpu }),
    ];
    let rare = prop_oneof![3 => Just(Op::Compare), 1 => vcpu().prop_map(|vcpu| Op::Withdraw { vcpu })];
    prop_oneof![6 => device, 4 => store, 10 => guest, 1 => rare]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    /// A guest whose vCPUs answer kicks at once cannot tell list registers from a GIC.
    #[test]
    fn guest_sees_a_gic(config in config(), ops in prop::collection::vec(op(), 1..200)) {
        let mut world = World::new(config);
        for op in &ops {
            world.run(op);
        }
        world.run(&Op::Compare);
    }
}

/// What an edge owes: raised at least as often as delivered, and delivered after it was raised last.
#[derive(Clone, Copy, Default)]
struct Account {
    raised: u32,
    delivered: u32,
    owed: bool,
}

/// vCPUs that come by whenever it suits them. Nobody answers kicks in time.
struct LazyWorld {
    vgic: Vgic,
    cpus: Vec<Cpu>,
    /// SGIs and PPIs 0 to 31 of each vCPU, then SPIs 32 to 63, all edges but SPIs 48 to 63.
    accounts: Vec<[Account; 64]>,
    lines: u64,
    kicks: Kicks,
}

/// What happens in a lazy world.
#[derive(Clone, Debug)]
enum LazyOp {
    Sgi { vcpu: usize, intid: u32 },
    Edge { intid: u32 },
    Level { intid: u32, high: bool },
    Fire { vcpu: usize },
    Route { intid: u32, vcpu: usize },
    Priority { intid: u32, value: u8 },
    Enable { intid: u32, on: bool },
    Groups { on: bool },
    Ack { vcpu: usize },
    End { vcpu: usize },
    Pass { vcpu: usize },
}

fn lazy_op() -> impl Strategy<Value = LazyOp> {
    let vcpu = || 0usize..3;
    let device = prop_oneof![
        (vcpu(), 0u32..4).prop_map(|(vcpu, intid)| LazyOp::Sgi { vcpu, intid }),
        (32u32..36).prop_map(|intid| LazyOp::Edge { intid }),
        (48u32..52, any::<bool>()).prop_map(|(intid, high)| LazyOp::Level { intid, high }),
        vcpu().prop_map(|vcpu| LazyOp::Fire { vcpu }),
    ];
    let spi = || prop_oneof![32u32..36, 48u32..52];
    let store = prop_oneof![
        (spi(), 0usize..4).prop_map(|(intid, vcpu)| LazyOp::Route { intid, vcpu }),
        (spi(), priority()).prop_map(|(intid, value)| LazyOp::Priority { intid, value }),
        (spi(), any::<bool>()).prop_map(|(intid, on)| LazyOp::Enable { intid, on }),
        any::<bool>().prop_map(|on| LazyOp::Groups { on }),
    ];
    let guest = prop_oneof![
        3 => vcpu().prop_map(|vcpu| LazyOp::Ack { vcpu }),
        3 => vcpu().prop_map(|vcpu| LazyOp::End { vcpu }),
        2 => vcpu().prop_map(|vcpu| LazyOp::Pass { vcpu }),
    ];
    prop_oneof![4 => device, 2 => store, 8 => guest]
}

impl LazyWorld {
    fn new(list_registers: usize) -> Self {
        let mut vgic = Vgic::new(Config { vcpus: 3, spis: 32, list_registers, priority_bits: 5 });
        for vcpu in 0..3 {
            let _ = vgic.access(Frame::Redist(vcpu), 0x1_0100, 4, Some(0xffff_ffff));
        }
        let _ = vgic.access(Frame::Dist, 0x104, 4, Some(0xffff_ffff));
        let _ = vgic.access(Frame::Dist, 0xc08, 4, Some(0xaaaa_aaaa));
        let _ = vgic.access(Frame::Dist, 0, 4, Some(3));
        let cpus = (0..3).map(|_| Cpu::new()).collect();
        Self { vgic, cpus, accounts: vec![[Account::default(); 64]; 3], lines: 0, kicks: Kicks::NONE }
    }

    fn account(&mut self, vcpu: usize, intid: u32) -> &mut Account {
        &mut self.accounts[if intid < 32 { vcpu } else { 0 }][intid as usize]
    }

    fn raise(&mut self, vcpu: usize, intid: u32) {
        let account = self.account(vcpu, intid);
        account.raised += 1;
        account.owed = true;
    }

    fn store(&mut self, offset: u32, width: u8, value: u64) {
        self.kicks |= self.vgic.access(Frame::Dist, offset, width, Some(value)).1;
    }

    fn run(&mut self, op: &LazyOp) {
        match *op {
            LazyOp::Sgi { vcpu, intid } => {
                self.raise(vcpu, intid);
                self.kicks |= self.vgic.sgi(0, 1 << vcpu | u64::from(intid) << 24);
            }
            LazyOp::Edge { intid } => {
                self.raise(0, intid);
                self.kicks |= self.vgic.set_line(intid, Level::High) | self.vgic.set_line(intid, Level::Low);
            }
            LazyOp::Level { intid, high } => {
                self.lines = self.lines & !(1 << intid) | u64::from(high) << intid;
                self.kicks |= self.vgic.set_line(intid, if high { Level::High } else { Level::Low });
            }
            LazyOp::Fire { vcpu } if !self.cpus[vcpu].physical_active => {
                self.cpus[vcpu].physical_active = true;
                self.raise(vcpu, TIMER);
                self.kicks |= self.vgic.fire_hw(vcpu, TIMER);
            }
            LazyOp::Fire { .. } => {}
            LazyOp::Route { intid, vcpu } => self.store(0x6000 + 8 * intid, 8, vcpu as u64),
            LazyOp::Priority { intid, value } => self.store(0x400 + intid, 1, value.into()),
            LazyOp::Enable { intid, on } => self.store(if on { 0x104 } else { 0x184 }, 4, 1 << (intid % 32)),
            LazyOp::Groups { on } => self.store(0, 4, if on { 3 } else { 0 }),
            LazyOp::Ack { vcpu } => self.ack(vcpu),
            LazyOp::End { vcpu } => {
                assert!(
                    !matches!(self.cpus[vcpu].end(), Some(Ended::Missing(_))),
                    "an active one was dropped"
                );
            }
            LazyOp::Pass { vcpu } => self.pass(vcpu),
        }
        self.check();
    }

    fn ack(&mut self, vcpu: usize) {
        let Some(intid) = self.cpus[vcpu].ack() else { return };
        let elsewhere = |(other, cpu): (usize, &Cpu)| {
            (intid >= 32 || other == vcpu) && cpu.handling.iter().filter(|(id, _)| *id == intid).count() > 0
        };
        let handlers = self.cpus.iter().enumerate().filter(|entry| elsewhere(*entry)).count();
        assert_eq!(handlers, 1, "{intid} is handled twice");
        let account = self.account(vcpu, intid);
        account.delivered += 1;
        account.owed = false;
        assert!(intid >= 48 || account.delivered <= account.raised, "{intid} came from nowhere");
    }

    fn pass(&mut self, vcpu: usize) {
        self.kicks.0 &= !(1 << vcpu);
        let regs = &mut self.cpus[vcpu].regs;
        self.kicks |= self.vgic.sync(vcpu, regs) | self.vgic.flush(vcpu, regs);
    }

    fn check(&self) {
        let mut seen = 0u64;
        for cpu in &self.cpus {
            for (_, register) in cpu.in_use().filter(|(_, register)| register & lr::STATE != 0) {
                let bit = 1 << (register as u32);
                assert!(bit < 1 << 32 || seen & bit == 0, "{register:#x} is in two vCPUs");
                seen |= bit;
            }
        }
    }

    /// Everyone answers kicks and maintenance interrupts and handles all there is, until there is nothing.
    /// Levels are let go after they were delivered once. With a single list register, nothing tells that the timer
    /// left it (LR.HW has no EOI maintenance, and UIE would never rest), so the host's tick does.
    fn drain(&mut self, list_registers: usize) {
        for _ in 0..1000 {
            let mut quiet = true;
            for vcpu in 0..3 {
                let due = self.kicks.0 >> vcpu & 1 != 0 || list_registers == 1 && self.timer_ended(vcpu);
                if due || self.cpus[vcpu].wants_maintenance(list_registers) {
                    self.pass(vcpu);
                    quiet = false;
                }
                while self.cpus[vcpu].end().is_some() {
                    quiet = false;
                }
                if self.cpus[vcpu].best().is_some() {
                    self.ack(vcpu);
                    self.release_line(vcpu);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
        panic!("no end");
    }

    fn timer_ended(&self, vcpu: usize) -> bool {
        let mut registers = self.cpus[vcpu].in_use();
        registers.any(|(_, register)| register & lr::HW != 0 && register & lr::STATE == 0)
    }

    fn release_line(&mut self, vcpu: usize) {
        let (intid, _) = self.cpus[vcpu].handling[self.cpus[vcpu].handling.len() - 1];
        if intid >= 48 {
            self.run(&LazyOp::Level { intid, high: false });
        }
    }

    /// Opens everything and returns what was never delivered.
    fn lost(mut self, list_registers: usize) -> Vec<(usize, usize)> {
        for intid in 32..64 {
            self.store(0x6000 + 8 * intid, 8, u64::from(intid % 3));
        }
        self.store(0x104, 4, 0xffff_ffff);
        self.store(0, 4, 3);
        self.drain(list_registers);
        let accounts = self.accounts.iter().enumerate();
        let owed =
            accounts.flat_map(|(vcpu, row)| row.iter().enumerate().map(move |(id, a)| (vcpu, id, a.owed)));
        let lines = (0..64).filter(|intid| self.lines >> intid & 1 != 0).map(|intid| (3, intid, true));
        owed.chain(lines).filter(|(.., owed)| *owed).map(|(vcpu, intid, _)| (vcpu, intid)).collect()
    }
}

/// A call with nothing sensible about it.
#[derive(Clone, Debug)]
enum Noise {
    Access { frame: Option<usize>, offset: u32, width: u8, store: Option<u64> },
    Sgi(usize, u64),
    Line(u32, bool),
    PrivateLine(usize, u32, bool),
    Hw(usize, u32),
    Pass(usize),
    Registers { vcpu: usize, lr: [u64; 16], used: u16, vmcr: u64, hcr: u64 },
}

impl Noise {
    /// The same, with no more list registers in use than exist, which hardware guarantees.
    fn within(&self, exist: u16) -> Self {
        let mut noise = self.clone();
        if let Noise::Registers { used, .. } = &mut noise {
            *used &= exist;
        }
        noise
    }
}

fn noise() -> impl Strategy<Value = Noise> {
    let offset = prop_oneof![0..0x1000u32, 0x6000..0x8000u32, 0x1_0000..0x1_1000u32, any::<u32>()];
    let width = prop_oneof![8 => Just(4), 1 => Just(1), 1 => Just(8), 1 => any::<u8>()];
    let frame = prop::option::of(prop_oneof![9 => 0usize..3, 1 => any::<usize>()]);
    let vcpu = || prop_oneof![9 => 0usize..3, 1 => any::<usize>()];
    let intid = || prop_oneof![9 => 0..128u32, 1 => any::<u32>()];
    let register = (0..4u64, any::<u64>(), 0..128u64).prop_map(|(state, fields, intid)| {
        let narrow = fields & 0x3fff_ffff_0000_0000 | state << 62 | intid;
        if fields % 8 == 0 { fields } else { narrow }
    });
    let registers = (0usize..3, prop::array::uniform16(register), any::<u16>(), any::<u64>(), any::<u64>());
    prop_oneof![
        20 => (frame, offset, width, prop::option::of(any::<u64>()))
            .prop_map(|(frame, offset, width, store)| Noise::Access { frame, offset, width, store }),
        4 => (vcpu(), any::<u64>()).prop_map(|(from, value)| Noise::Sgi(from, value)),
        4 => (intid(), any::<bool>()).prop_map(|(intid, high)| Noise::Line(intid, high)),
        2 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, high)| Noise::PrivateLine(vcpu, intid, high)),
        2 => (vcpu(), intid()).prop_map(|(vcpu, intid)| Noise::Hw(vcpu, intid)),
        10 => (0usize..3).prop_map(Noise::Pass),
        4 => registers.prop_map(|(vcpu, lr, used, vmcr, hcr)| Noise::Registers { vcpu, lr, used, vmcr, hcr }),
    ]
}

fn make_noise(vgic: &mut Vgic, cpus: &mut [Interface], noise: &Noise) -> Kicks {
    let level = |high| if high { Level::High } else { Level::Low };
    match *noise {
        Noise::Access { frame, offset, width, store } => {
            let frame = frame.map_or(Frame::Dist, Frame::Redist);
            vgic.access(frame, offset, width, store).1
        }
        Noise::Sgi(from, value) => vgic.sgi(from, value),
        Noise::Line(intid, high) => vgic.set_line(intid, level(high)),
        Noise::PrivateLine(vcpu, intid, high) => vgic.set_private_line(vcpu, intid, level(high)),
        Noise::Hw(vcpu, intid) if vgic.hw_in_flight(vcpu, intid) => {
            vgic.retract_hw(vcpu, intid);
            Kicks::NONE
        }
        Noise::Hw(vcpu, intid) => vgic.fire_hw(vcpu, intid),
        Noise::Pass(vcpu) => {
            let moved = vgic.sync(vcpu, &mut cpus[vcpu]);
            vgic.has_deliverable(vcpu, &cpus[vcpu]);
            moved | vgic.flush(vcpu, &mut cpus[vcpu])
        }
        Noise::Registers { vcpu, lr, used, vmcr, hcr } => {
            cpus[vcpu] = Interface { lr, used, vmcr, hcr, ..cpus[vcpu].clone() };
            Kicks::NONE
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    /// However late vCPUs come by, nothing is lost, made up, or handled by two.
    #[test]
    fn late_vcpus_lose_nothing(
        list_registers in prop_oneof![1usize..=4, Just(16)],
        ops in prop::collection::vec(lazy_op(), 1..200),
    ) {
        let mut world = LazyWorld::new(list_registers);
        for op in &ops {
            world.run(op);
        }
        prop_assert_eq!(world.lost(list_registers), vec![]);
    }

    /// Neither guest accesses nor list registers full of nonsense stop the controller.
    #[test]
    fn nonsense_is_survived(config in config(), calls in prop::collection::vec(noise(), 1..200)) {
        let config = Config { vcpus: 3, ..config };
        let mut vgic = Vgic::new(config);
        let mut cpus = vec![Interface::new(); 3];
        let exist = (1u32 << config.list_registers) - 1;
        for call in &calls {
            let call = call.within(exist as u16);
            let kicks = make_noise(&mut vgic, &mut cpus, &call);
            prop_assert!(kicks.vcpus().all(|vcpu| vcpu < 3));
            prop_assert!(cpus.iter().all(|cpu| u32::from(cpu.used) & !exist == 0));
        }
    }
}
