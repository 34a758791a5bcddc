//! The drivers, at the chips that guests get.

use core::cell::RefCell;

use kernel::dev::Level;

use super::*;
use crate::layout::PCH_PIC;
use crate::vintc::{IocsrAccess, StartVcpu, Vintc};

/// The chips of a machine with `cores` cores.
struct Machine {
    chips: RefCell<Vintc>,
    started: RefCell<Option<StartVcpu>>,
}

/// A core of it.
#[derive(Clone, Copy)]
struct Core<'a> {
    machine: &'a Machine,
    number: usize,
}

impl Core<'_> {
    fn access(&self, at: u32, width: u8, store: Option<u64>) -> u64 {
        let access = IocsrAccess { at: at.into(), width, store };
        let outcome = self.machine.chips.borrow_mut().iocsr(self.number, access, |at| at != 0);
        let mut started = self.machine.started.borrow_mut();
        *started = outcome.start.or(*started);
        outcome.value
    }
}

impl Iocsr for Core<'_> {
    fn read32(&self, at: u32) -> u32 {
        self.access(at, 4, None) as u32
    }

    fn read64(&self, at: u32) -> u64 {
        self.access(at, 8, None)
    }

    fn write32(&self, at: u32, value: u32) {
        self.access(at, 4, Some(value.into()));
    }

    fn write64(&self, at: u32, value: u64) {
        self.access(at, 8, Some(value));
    }
}

impl Registers for &Machine {
    fn read32(&self, offset: usize) -> u32 {
        self.chips.borrow_mut().mmio(PCH_PIC.start + offset as u64, 4, None).unwrap().0 as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        let _ = self.chips.borrow_mut().mmio(PCH_PIC.start + offset as u64, 4, Some(value.into()));
    }

    fn write8(&self, offset: usize, value: u8) {
        let _ = self.chips.borrow_mut().mmio(PCH_PIC.start + offset as u64, 1, Some(value.into()));
    }
}

impl Machine {
    fn new(cores: usize) -> Self {
        Self { chips: RefCell::new(Vintc::new(cores)), started: RefCell::new(None) }
    }

    fn core(&self, number: usize) -> Core<'_> {
        Core { machine: self, number }
    }

    fn chip(&self, target: Target) -> IrqChip<Core<'_>, &Self> {
        IrqChip::new(self.core(target.core as usize), self, 0, target)
    }

    fn drive(&self, input: u32, high: bool) {
        let _ = self.chips.borrow_mut().set_line(input, if high { Level::High } else { Level::Low });
    }

    fn lines(&self, core: usize) -> u64 {
        self.chips.borrow().lines(core)
    }
}

const TARGET: Target = Target { core: 0, pin: 1 };
const HWI1: u64 = 1 << 3;
const IPI: u64 = 1 << 12;

#[test]
fn an_input_reaches_the_pin_of_its_core_and_no_other() {
    for target in [TARGET, Target { core: 2, pin: 3 }] {
        let machine = Machine::new(4);
        let chip = machine.chip(target);
        machine.drive(2, true);
        assert_eq!(chip.take(), None, "not opened");
        assert!(chip.open(2, Trigger::HighLevel));
        for core in 0..4 {
            let expected = if core == target.core as usize { 4 << target.pin } else { 0 };
            assert_eq!(machine.lines(core), expected);
        }
        assert_eq!(chip.take(), Some(2));
        assert!(!chip.open(32, Trigger::HighLevel), "there are 32");
    }
}

#[test]
fn a_level_is_taken_until_its_cause_is_gone() {
    let machine = Machine::new(1);
    let chip = machine.chip(TARGET);
    chip.open(2, Trigger::HighLevel);
    chip.open(5, Trigger::LowLevel);
    assert_eq!((chip.take(), chip.take()), (Some(5), Some(5)), "low is its level");
    machine.drive(5, true);
    machine.drive(2, true);
    for _ in 0..3 {
        assert_eq!((chip.take(), machine.lines(0)), (Some(2), HWI1));
    }
    machine.drive(2, false);
    assert_eq!((chip.take(), machine.lines(0)), (None, 0));
    machine.drive(2, true);
    chip.mask(2);
    assert_eq!((chip.take(), machine.lines(0)), (None, 0));
    chip.unmask(2);
    assert_eq!(chip.take(), Some(2));
}

#[test]
fn an_edge_is_taken_once() {
    let machine = Machine::new(1);
    let chip = machine.chip(TARGET);
    chip.open(3, Trigger::RisingEdge);
    machine.drive(3, true);
    assert_eq!((chip.take(), chip.take()), (Some(3), None));
    machine.drive(3, false);
    assert_eq!(chip.take(), None);
    chip.open(3, Trigger::FallingEdge);
    machine.drive(3, true);
    assert_eq!(chip.take(), None);
    machine.drive(3, false);
    assert_eq!((chip.take(), chip.take()), (Some(3), None));
}

#[test]
fn what_firmware_left_is_forgotten() {
    let machine = Machine::new(1);
    let firmware = machine.chip(Target { core: 0, pin: 2 });
    firmware.open(7, Trigger::RisingEdge);
    machine.core(0).write32(BOUNCE, u32::MAX);
    machine.drive(7, true);
    assert_ne!(machine.lines(0), 0);
    let chip = machine.chip(TARGET);
    assert_eq!((machine.lines(0), chip.take()), (0, None));
    chip.open(7, Trigger::RisingEdge);
    assert_eq!(chip.take(), None, "the edge was before our time");
}

#[test]
fn a_vector_that_is_none_of_ours_is_acknowledged_and_forgotten() {
    let machine = Machine::new(1);
    let chip = machine.chip(TARGET);
    machine.core(0).write64(ENABLE + 8, u64::MAX);
    let _ = machine.chips.borrow_mut().mmio(0x2ff0_0000, 4, Some(100));
    assert_eq!(machine.lines(0), HWI1);
    assert_eq!((chip.take(), machine.lines(0)), (None, 0));
}

#[test]
fn cores_interrupt_and_start_each_other() {
    let machine = Machine::new(3);
    let ipis = [0, 1, 2].map(|number| Ipi(machine.core(number)));
    ipis[0].open();
    ipis[0].start(2, 0x12_3456_7890);
    assert_eq!(machine.started.take(), Some(StartVcpu { vcpu: 2, entry: 0x12_3456_7890 }));
    ipis[2].open();
    assert_eq!(machine.core(2).read64(MBUF0), 0);
    assert!(!ipis[2].take());
    ipis[0].send(2);
    ipis[2].send(0);
    assert_eq!([machine.lines(0), machine.lines(1), machine.lines(2)], [IPI, 0, IPI]);
    assert!(ipis[2].take() && ipis[0].take());
    assert_eq!([machine.lines(0), machine.lines(2)], [0, 0]);
}

#[test]
fn triggers_are_those_of_the_binding() {
    let triggers = [0, 1, 2, 3, 4, 8].map(Trigger::from_cell);
    use Trigger::*;
    assert_eq!(triggers, [None, Some(RisingEdge), Some(FallingEdge), None, Some(HighLevel), Some(LowLevel)]);
}
