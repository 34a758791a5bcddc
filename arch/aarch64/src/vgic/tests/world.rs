//! The controller, its model and the guests' interfaces, under the same operations.

use super::super::{Config, Frame, Kicks, Level, Vgic};
use super::cpu::{Cpu, Ended};
use super::model::{Irq, Model};
use alloc::vec;
use alloc::vec::Vec;

/// The PPI that stands for a physical one.
pub(super) const TIMER: u32 = 27;
/// PPIs with an input of their own.
pub(super) const PPIS: core::ops::Range<u32> = 16..TIMER;

/// A register that has one bit per interrupt, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bank {
    Group = 0x080,
    Enable = 0x100,
    Disable = 0x180,
    Pend = 0x200,
    Unpend = 0x280,
    Activate = 0x300,
    Deactivate = 0x380,
}

/// One thing that happens. vCPUs and words are taken modulo what exists.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Sgi { from: usize, targets: u16, intid: u32 },
    Line { intid: u32, high: bool },
    PrivateLine { vcpu: usize, intid: u32, high: bool },
    Fire { vcpu: usize },
    Retract { vcpu: usize },
    Bits { bank: Bank, vcpu: usize, word: usize, bits: u32 },
    Priority { vcpu: usize, intid: u32, value: u8 },
    Config { vcpu: usize, half: usize, bits: u32 },
    Route { intid: u32, vcpu: usize },
    Ctlr { groups: u8 },
    Ack { vcpu: usize },
    End { vcpu: usize },
    Pmr { vcpu: usize, value: u8 },
    GroupEnables { vcpu: usize, groups: u8 },
    Exit { vcpu: usize },
    Withdraw { vcpu: usize },
    Compare,
}

/// Every vCPU runs all the time and answers kicks at once, so that guests and model agree after every operation.
pub(super) struct World {
    pub(super) config: Config,
    pub(super) vgic: Vgic,
    pub(super) model: Model,
    pub(super) cpus: Vec<Cpu>,
}

impl World {
    pub(super) fn new(config: Config) -> Self {
        let mut world = Self {
            config,
            vgic: Vgic::new(config),
            model: Model::new(config.vcpus, config.spis),
            cpus: (0..config.vcpus).map(|_| Cpu::new()).collect(),
        };
        world.run(&Op::Ctlr { groups: 3 });
        for vcpu in 0..config.vcpus {
            world.run(&Op::Bits { bank: Bank::Enable, vcpu, word: 0, bits: u32::MAX });
        }
        for word in 1..=config.spis / 32 {
            world.run(&Op::Bits { bank: Bank::Enable, vcpu: 0, word, bits: u32::MAX });
        }
        world
    }

    pub(super) fn run(&mut self, op: &Op) {
        let kicks = self.apply(op);
        self.settle(kicks);
        self.check();
    }

    /// vCPUs leave and enter the guest until nobody has to.
    fn settle(&mut self, mut kicks: Kicks) {
        for _ in 0..self.config.vcpus * 2 + 4 {
            let maintenance = |(vcpu, cpu): (usize, &Cpu)| {
                u64::from(cpu.wants_maintenance(self.config.list_registers)) << vcpu
            };
            kicks.0 |= self.cpus.iter().enumerate().map(maintenance).sum::<u64>();
            if kicks.is_empty() {
                return;
            }
            let now = core::mem::take(&mut kicks);
            for vcpu in now.vcpus() {
                kicks |= self.pass(vcpu);
            }
        }
        panic!("kicks or maintenance interrupts without end");
    }

    fn pass(&mut self, vcpu: usize) -> Kicks {
        let regs = &mut self.cpus[vcpu].regs;
        let moved = self.vgic.sync(vcpu, regs) | self.vgic.flush(vcpu, regs);
        assert_eq!(moved.0 >> vcpu & 1, 0, "flush is how a vCPU hears of its own");
        self.update_physical(vcpu);
        moved
    }

    /// What the caller does about the physical timer interrupt when the controller no longer needs it.
    fn update_physical(&mut self, vcpu: usize) {
        self.cpus[vcpu].physical_active &= self.vgic.hw_in_flight(vcpu, TIMER);
    }

    fn everyone(&self) -> Kicks {
        Kicks(u64::MAX >> (64 - self.config.vcpus))
    }

    fn apply(&mut self, op: &Op) -> Kicks {
        let vcpus = self.config.vcpus;
        match *op {
            Op::Sgi { from, targets, intid } => {
                for vcpu in (0..vcpus).filter(|vcpu| targets >> vcpu & 1 != 0) {
                    self.model.irq(vcpu, intid).latch = true;
                }
                self.vgic.sgi(from % vcpus, u64::from(targets) | u64::from(intid) << 24)
            }
            Op::Line { intid, high } => {
                let Some(intid) = self.spi(intid) else { return Kicks::NONE };
                self.model.irq(0, intid).drive(high);
                self.after_line(high, |vgic, level| vgic.set_line(intid, level))
            }
            Op::PrivateLine { vcpu, intid, high } => {
                self.model.irq(vcpu % vcpus, intid).drive(high);
                let set = |vgic: &mut Vgic, level| vgic.set_private_line(vcpu % vcpus, intid, level);
                self.after_line(high, set)
            }
            Op::Fire { vcpu } => self.fire(vcpu % vcpus),
            Op::Retract { vcpu } => self.retract(vcpu % vcpus),
            Op::Bits { bank, vcpu, word, bits } => self.set_bits(bank, vcpu % vcpus, word, bits),
            Op::Priority { vcpu, intid, value } => self.set_priority(vcpu % vcpus, intid, value),
            Op::Config { vcpu, half, bits } => self.set_config(vcpu % vcpus, half, bits),
            Op::Route { intid, vcpu } => {
                let Some(intid) = self.spi(intid) else { return Kicks::NONE };
                self.model.irq(0, intid).target = (vcpu < vcpus).then_some(vcpu);
                self.store(Frame::Dist, 0x6000 + 8 * intid, 8, vcpu as u64)
            }
            Op::Ctlr { groups } => {
                self.model.groups = [groups & 1 != 0, groups & 2 != 0];
                self.store(Frame::Dist, 0, 4, groups.into())
            }
            Op::Ack { vcpu } => {
                if let Some(intid) = self.cpus[vcpu % vcpus].ack() {
                    self.model.ack(vcpu % vcpus, intid);
                }
                Kicks::NONE
            }
            Op::End { vcpu } => self.end(vcpu % vcpus),
            Op::Pmr { vcpu, value } => {
                let vmcr = &mut self.cpus[vcpu % vcpus].regs.vmcr;
                *vmcr = *vmcr & !(0xff << 24) | u64::from(value) << 24;
                Kicks::NONE
            }
            Op::GroupEnables { vcpu, groups } => {
                let vmcr = &mut self.cpus[vcpu % vcpus].regs.vmcr;
                *vmcr = *vmcr & !3 | u64::from(groups & 3);
                Kicks::NONE
            }
            Op::Exit { vcpu } => self.pass(vcpu % vcpus),
            Op::Withdraw { vcpu } => self.withdraw(vcpu % vcpus),
            Op::Compare => {
                self.settle(self.everyone());
                self.compare();
                Kicks::NONE
            }
        }
    }

    /// A line that falls takes effect when the vCPU comes by, so all of them do.
    fn after_line(&mut self, high: bool, set: impl FnOnce(&mut Vgic, Level) -> Kicks) -> Kicks {
        let kicks = set(&mut self.vgic, level(high));
        if high { kicks } else { kicks | self.everyone() }
    }

    fn spi(&self, intid: u32) -> Option<u32> {
        (self.config.spis != 0).then(|| 32 + intid % self.config.spis as u32)
    }

    fn store(&mut self, frame: Frame, offset: u32, width: u8, value: u64) -> Kicks {
        self.vgic.access(frame, offset, width, Some(value)).1
    }

    /// The physical interrupt cannot fire while it is active.
    fn fire(&mut self, vcpu: usize) -> Kicks {
        if self.cpus[vcpu].physical_active {
            return Kicks::NONE;
        }
        self.cpus[vcpu].physical_active = true;
        self.model.irq(vcpu, TIMER).fired = true;
        self.vgic.fire_hw(vcpu, TIMER)
    }

    fn retract(&mut self, vcpu: usize) -> Kicks {
        let moved = self.vgic.sync(vcpu, &mut self.cpus[vcpu].regs);
        let irq = self.model.irq(vcpu, TIMER);
        let expected = core::mem::take(&mut irq.fired);
        assert_eq!(self.vgic.retract_hw(vcpu, TIMER), expected);
        self.cpus[vcpu].physical_active &= !expected;
        moved | self.vgic.flush(vcpu, &mut self.cpus[vcpu].regs)
    }

    /// The words of a bank: a redistributor's, or one of the distributor's.
    fn bank(&mut self, vcpu: usize, word: usize) -> (Frame, u32, &mut [Irq]) {
        match word % (self.config.spis / 32 + 1) {
            0 => (Frame::Redist(vcpu), 0x1_0000, &mut self.model.private[vcpu]),
            word => (Frame::Dist, 4 * word as u32, &mut self.model.shared[32 * word - 32..32 * word]),
        }
    }

    fn set_bits(&mut self, bank: Bank, vcpu: usize, word: usize, bits: u32) -> Kicks {
        let (frame, base, irqs) = self.bank(vcpu, word);
        for (index, irq) in irqs.iter_mut().enumerate() {
            let set = bits >> index & 1 != 0;
            match bank {
                Bank::Group => irq.group1 = set,
                Bank::Enable => irq.enabled |= set,
                Bank::Disable => irq.enabled &= !set,
                Bank::Pend => irq.latch |= set,
                Bank::Unpend => irq.latch &= !set,
                Bank::Activate => irq.active |= set,
                Bank::Deactivate if set => irq.end(),
                Bank::Deactivate => {}
            }
        }
        // What the guest does to its own interrupts it does after an exit.
        // Activating and deactivating refer to what is active, so all who know have to say.
        let stopped = match (frame, bank) {
            (_, Bank::Activate | Bank::Deactivate) => self.everyone(),
            (Frame::Redist(vcpu), _) => Kicks(1 << vcpu),
            (Frame::Dist, _) => Kicks::NONE,
        };
        let mut kicks = stopped;
        for vcpu in stopped.vcpus() {
            kicks |= self.vgic.sync(vcpu, &mut self.cpus[vcpu].regs);
        }
        kicks | self.store(frame, base + bank as u32, 4, bits.into())
    }

    fn set_priority(&mut self, vcpu: usize, intid: u32, value: u8) -> Kicks {
        let intid = if intid < 32 { intid } else { self.spi(intid).unwrap_or(intid % 32) };
        let kept = value & u8::MAX << (8 - self.config.priority_bits);
        self.model.irq(vcpu, intid).priority = kept;
        let frame = if intid < 32 { Frame::Redist(vcpu) } else { Frame::Dist };
        let base = if intid < 32 { 0x1_0400 } else { 0x400 };
        self.store(frame, base + intid, 1, value.into())
    }

    fn set_config(&mut self, vcpu: usize, half: usize, bits: u32) -> Kicks {
        let (frame, _, irqs) = self.bank(vcpu, half / 2);
        let first = half % 2 * 16;
        let fixed = frame != Frame::Dist && first == 0;
        for (index, irq) in irqs[first..first + 16].iter_mut().enumerate().filter(|_| !fixed) {
            irq.edge = bits >> (2 * index + 1) & 1 != 0;
        }
        let word = half / 2 % (self.config.spis / 32 + 1);
        let base = if frame == Frame::Dist { 0xc00 } else { 0x1_0c00 };
        self.store(frame, base + 8 * word as u32 + 4 * (half as u32 % 2), 4, bits.into())
    }

    fn end(&mut self, vcpu: usize) -> Kicks {
        match self.cpus[vcpu].end() {
            None => Kicks::NONE,
            Some(Ended::Listed(intid)) => {
                self.model.irq(vcpu, intid).end();
                Kicks::NONE
            }
            // LR.HW has no EOI maintenance: what was pended by hand meanwhile waits for the next exit.
            Some(Ended::Backed(intid)) => {
                assert!(self.model.irq(vcpu, intid).backed);
                self.model.irq(vcpu, intid).end();
                self.pass(vcpu)
            }
            // Taken away from the guest through the distributor, or left out by `withdraw`. Which one an
            // EOIcount stands for cannot be known, so this guest says it by name.
            Some(Ended::Missing(intid)) => {
                let word = intid as usize / 32;
                self.set_bits(Bank::Deactivate, vcpu, word, 1 << (intid % 32))
            }
        }
    }

    fn withdraw(&mut self, vcpu: usize) -> Kicks {
        let moved = self.vgic.withdraw(vcpu, &mut self.cpus[vcpu].regs);
        let timer = self.model.irq(vcpu, TIMER);
        if timer.backed {
            timer.end();
        }
        self.update_physical(vcpu);
        moved | self.pass(vcpu)
    }

    /// What must hold after every operation.
    fn check(&self) {
        let mut holders = vec![None; 32 + self.config.spis];
        for (vcpu, cpu) in self.cpus.iter().enumerate() {
            cpu.check_registers(self.config.list_registers);
            let mut listed = [false; 32];
            for (_, register) in cpu.in_use() {
                let intid = register as u32 as usize;
                let twice = match listed.get_mut(intid) {
                    Some(listed) => core::mem::replace(listed, true),
                    None => holders[intid].replace(vcpu).is_some(),
                };
                assert!(!twice, "{intid} is in two list registers");
            }
            if cpu.is_full_of_active(self.config.list_registers) {
                assert_eq!(cpu.best(), None);
                continue;
            }
            let audible = |irq: &&Irq| cpu.group_enabled(irq.group1);
            let limit = cpu.pmr().min(cpu.running_priority());
            let best = self.model.forwarded(vcpu).filter(audible).map(|irq| irq.priority).min();
            let best = best.filter(|priority| *priority < limit);
            assert_eq!(cpu.best().map(|(priority, _)| priority), best, "vCPU {vcpu}: {:x?}", cpu.regs);
        }
    }

    /// What must hold when everyone has just come by.
    fn compare(&mut self) {
        for vcpu in 0..self.config.vcpus {
            let cpu = &self.cpus[vcpu];
            let wakes = |irq: &Irq| cpu.group_enabled(irq.group1) && irq.priority < cpu.pmr();
            let expected = self.model.forwarded(vcpu).any(wakes);
            assert_eq!(self.vgic.has_deliverable(vcpu, &cpu.regs), expected);
            assert_eq!(self.vgic.hw_in_flight(vcpu, TIMER), cpu.physical_active);
            for word in 0..=self.config.spis / 32 {
                self.compare_word(vcpu, word);
            }
        }
    }

    fn compare_word(&mut self, vcpu: usize, word: usize) {
        let (frame, base, irqs) = self.bank(vcpu, word);
        let collect = |field: fn(&Irq) -> bool| {
            irqs.iter().enumerate().fold(0, |bits, (index, irq)| bits | u64::from(field(irq)) << index)
        };
        let expected = [
            (Bank::Group, collect(|irq| irq.group1)),
            (Bank::Enable, collect(|irq| irq.enabled)),
            (Bank::Disable, collect(|irq| irq.enabled)),
            (Bank::Pend, collect(Irq::pending)),
            (Bank::Unpend, collect(Irq::pending)),
            (Bank::Activate, collect(|irq| irq.active)),
            (Bank::Deactivate, collect(|irq| irq.active)),
        ];
        for (bank, value) in expected {
            let read = self.vgic.access(frame, base + bank as u32, 4, None);
            assert_eq!(read, (value, Kicks::NONE), "{bank:?} {frame:?} {word}");
        }
    }
}

fn level(high: bool) -> Level {
    if high { Level::High } else { Level::Low }
}
