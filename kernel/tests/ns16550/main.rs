//! Laws of the emulated 16550A.

#[path = "../line/mod.rs"]
mod line;
mod linux;
mod model;

use kernel::dev::ns16550::Ns16550;
use kernel::dev::{Level, Uart};
use model::Model;
use proptest::prelude::*;

const RBR: u64 = 0;
const THR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const ERBFI: u64 = 1;
const ETBEI: u64 = 2;
const ELSI: u64 = 4;
const EDSSI: u64 = 8;

const DR: u64 = 0x01;
const OE: u64 = 0x02;
const THRE: u64 = 0x20;
const EMPTY: u64 = 0x60;

/// IIR with FIFOs on.
const NONE: u64 = 0xC1;
const LINE_STATUS: u64 = 0xC6;
const DATA: u64 = 0xC4;
const TIMEOUT: u64 = 0xCC;
const SENT: u64 = 0xC2;
const MODEM: u64 = 0xC0;

const FIFOS: u64 = 0x01;
const LOOP: u64 = 0x10;
const DLAB: u64 = 0x80;

type Rig = line::Rig<Ns16550, 1>;

/// FIFOs on, and everything may interrupt.
fn open(room: usize) -> Rig {
    let mut rig = Rig::new(room);
    rig.store(FCR, FIFOS);
    rig.store(IER, 0xF);
    assert_eq!(rig.load(IIR), SENT, "nothing was sent yet, which is news");
    rig
}

#[test]
fn reset_values_are_those_of_the_data_sheet() {
    let mut rig = Rig::new(0);
    let all: Vec<u64> = [IER, IIR, LCR, MCR, LSR, MSR].map(|at| rig.load(at)).into();
    assert_eq!(all, [0, 0x01, 0, 0, EMPTY, 0xB0]);
    assert_eq!(rig.uart.level(), Level::Low);
    assert_eq!((rig.load(8), rig.load(u64::MAX)), (0, 0));
}

#[test]
fn registers_keep_the_bits_that_exist() {
    let mut rig = Rig::new(0);
    for (register, kept) in [(IER, 0x0F), (LCR, 0x7F), (MCR, 0x1F), (SCR, 0xFF)] {
        rig.store(register, 0x7F | kept);
        assert_eq!(rig.load(register), kept, "{register}");
        rig.store(register, 0);
    }
    assert_eq!(rig.load(MSR), 0xB4, "the ring ended with the loopback");
    rig.store(IER, 5);
    rig.store(LCR, DLAB);
    rig.store(0, 0x36);
    rig.store(1, 0x12);
    assert_eq!((rig.load(0), rig.load(1), rig.line.sent.len()), (0x36, 0x12, 0));
    rig.store(LCR, 3);
    assert_eq!((rig.load(0), rig.load(1)), (0, 5));
    rig.store(LSR, 0xFF);
    rig.store(MSR, 0xFF);
    assert_eq!((rig.load(LSR), rig.load(MSR)), (EMPTY, 0xB0));
}

#[test]
fn sending_interrupts_at_once_while_the_port_takes_it() {
    let mut rig = open(2);
    assert_eq!(rig.uart.level(), Level::Low, "reading IIR was enough");
    rig.store(THR, b'a'.into());
    assert_eq!((rig.uart.level(), rig.load(LSR)), (Level::High, EMPTY));
    assert_eq!((rig.load(IIR), rig.load(IIR), rig.uart.level()), (SENT, NONE, Level::Low));
    rig.store(IER, 0);
    rig.store(THR, b'b'.into());
    assert_eq!(rig.uart.level(), Level::Low);
    rig.store(IER, ETBEI);
    assert_eq!(rig.uart.level(), Level::High);
    assert_eq!(rig.line.sent, b"ab");
}

#[test]
fn a_full_port_fills_the_fifo_and_room_interrupts_when_it_is_empty() {
    let mut rig = open(0);
    for byte in 0..16 {
        rig.store(THR, byte);
        assert_eq!((rig.load(LSR), rig.uart.level()), (0, Level::Low));
    }
    rig.store(THR, 99);
    rig.make_room(15);
    assert_eq!((rig.load(LSR), rig.uart.level()), (0, Level::Low), "one is left");
    rig.make_room(9);
    assert_eq!((rig.load(LSR), rig.load(IIR)), (EMPTY, SENT));
    assert_eq!(rig.line.sent, (0..16).collect::<Vec<u8>>(), "there was no room for the last");
}

#[test]
fn a_byte_does_not_overtake_those_that_wait() {
    let (mut uart, mut port) = (Ns16550::new(), line::Racing::default());
    uart.access(FCR, 1, Some(FIFOS), &mut port);
    (0..16).for_each(|byte| assert_eq!(uart.access(THR, 1, Some(byte), &mut port), 0));
    (0..100).for_each(|_| uart.poll(&mut port));
    assert_eq!(port.sent, (0..16).collect::<Vec<u8>>());
}

#[test]
fn without_fifos_one_byte_waits_in_each_direction() {
    let mut rig = Rig::new(0);
    rig.store(IER, ERBFI);
    rig.store(THR, 1);
    rig.store(THR, 2);
    assert_eq!(rig.load(LSR) & THRE, 0);
    rig.make_room(9);
    assert_eq!(rig.load(LSR), EMPTY);
    assert_eq!(rig.line.sent, [1]);
    rig.arrive([7, 8]);
    assert_eq!((rig.load(IIR), rig.line.waiting.len()), (0x04, 1));
    assert_eq!((rig.load(RBR), rig.uart.level()), (7, Level::High), "the next byte has arrived by itself");
    assert_eq!((rig.load(RBR), rig.uart.level(), rig.load(LSR)), (8, Level::Low, EMPTY));
}

#[test]
fn data_interrupts_at_the_trigger_level_and_times_out_below_it() {
    for (select, level) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        let mut rig = open(0);
        rig.store(FCR, select << 6 | FIFOS);
        rig.arrive(0..level - 1);
        let below = if level > 1 { TIMEOUT } else { NONE };
        assert_eq!((rig.load(IIR), rig.uart.level() == Level::High), (below, level > 1));
        rig.arrive([99]);
        assert_eq!((rig.load(IIR), rig.uart.level()), (DATA, Level::High));
        rig.load(RBR);
        assert_eq!(rig.load(IIR), below);
    }
}

#[test]
fn the_most_urgent_cause_is_named_first() {
    let mut rig = open(9);
    rig.arrive([1]);
    rig.line.overrun = true;
    rig.store(THR, 5);
    rig.store(MCR, LOOP);
    assert_eq!(rig.load(IIR), LINE_STATUS);
    assert_eq!((rig.load(LSR), rig.load(IIR)), (EMPTY | DR | OE, DATA), "one is the trigger level");
    assert_eq!((rig.load(RBR), rig.load(IIR)), (1, SENT));
    assert_eq!(rig.load(IIR), MODEM);
    assert_eq!((rig.load(MSR), rig.load(IIR), rig.uart.level()), (0x0B, NONE, Level::Low));
}

#[test]
fn lost_input_is_reported_until_the_line_status_is_read() {
    let mut rig = open(0);
    rig.store(IER, ELSI);
    rig.line.overrun = true;
    rig.arrive([]);
    assert_eq!((rig.uart.level(), rig.load(IIR)), (Level::High, LINE_STATUS));
    assert_eq!((rig.load(LSR), rig.load(LSR), rig.uart.level()), (EMPTY | OE, EMPTY, Level::Low));
}

#[test]
fn loopback_returns_what_is_sent_and_nothing_else() {
    let mut rig = open(9);
    rig.store(MCR, LOOP);
    rig.arrive([1, 2]);
    rig.store(THR, 0x5A);
    assert_eq!((rig.load(RBR), rig.load(LSR), rig.line.sent.len()), (0x5A, EMPTY, 0));
    (0..17).for_each(|byte| rig.store(THR, byte));
    assert_eq!(rig.load(LSR), EMPTY | DR | OE);
    let back: Vec<u64> = (0..17).map(|_| rig.load(RBR)).collect();
    assert_eq!(back[..16], (0..16).collect::<Vec<u64>>(), "a full FIFO keeps what it has");
    rig.store(FCR, 0);
    rig.store(THR, 3);
    rig.store(THR, 4);
    assert_eq!((rig.load(LSR), rig.load(RBR)), (EMPTY | DR | OE, 4), "a single register does not");
    rig.store(MCR, 0);
    assert_eq!((rig.load(RBR), rig.load(RBR)), (1, 2), "what arrived meanwhile has waited");
}

#[test]
fn modem_lines_follow_the_control_register_in_loopback() {
    let mut rig = Rig::new(0);
    rig.store(IER, EDSSI);
    rig.store(MCR, 0x0F);
    assert_eq!((rig.load(MSR), rig.uart.level()), (0xB0, Level::Low), "others do not see their own");
    rig.store(MCR, LOOP | 0x0F);
    assert_eq!((rig.load(MSR), rig.uart.level()), (0xF0, Level::Low), "a ring that begins is no change");
    rig.store(MCR, LOOP | 0x08);
    assert_eq!((rig.uart.level(), rig.load(IIR)), (Level::High, 0x00));
    assert_eq!((rig.load(MSR), rig.load(MSR), rig.uart.level()), (0x87, 0x80, Level::Low));
    rig.store(MCR, LOOP | 0x01);
    assert_eq!(rig.load(MSR), 0x2A);
}

#[test]
fn fifos_are_emptied_on_request() {
    let mut rig = open(0);
    rig.arrive(0..5);
    (0..5).for_each(|byte| rig.store(THR, byte));
    rig.store(FCR, FIFOS | 2);
    assert_eq!(rig.load(LSR), 0, "only what was received");
    assert_eq!(rig.load(IIR), NONE);
    rig.store(FCR, FIFOS | 4);
    assert_eq!((rig.load(LSR), rig.load(IIR)), (EMPTY, SENT));
    rig.arrive([9]);
    rig.store(FCR, 6);
    assert_eq!((rig.load(LSR), rig.load(IIR)), (EMPTY, 0x01), "switching does it, too");
    rig.arrive([9]);
    rig.store(FCR, 6);
    assert_eq!(rig.load(RBR), 9, "without FIFOs there is nothing to empty");
    rig.make_room(9);
    assert_eq!(rig.line.sent, []);
}

#[test]
fn a_wide_access_is_to_the_register_at_its_address() {
    let mut rig = Rig::new(9);
    rig.uart.access(SCR, 8, Some(0xFFFF_FFA5), &mut rig.line);
    assert_eq!(rig.uart.access(SCR, 4, None, &mut rig.line), 0xA5);
    rig.uart.access(THR, 4, Some(0x0F0F_0F41), &mut rig.line);
    assert_eq!(rig.load(IER), 0);
    assert_eq!(rig.line.sent, b"A");
}

/// What can happen to a UART.
#[derive(Clone, Debug)]
enum Step {
    Load(u64),
    Store(u64, u8),
    Send(u8),
    Receive,
    Arrive(Vec<u8>),
    Room(usize),
    Overrun,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..9u64).prop_map(Step::Load),
        3 => (1..9u64, any::<u8>()).prop_map(|(register, value)| Step::Store(register, value)),
        // DLAB seldom, so that data moves.
        2 => (0..9u64, 0..0x20u8).prop_map(|(register, value)| Step::Store(register, value)),
        5 => any::<u8>().prop_map(Step::Send),
        4 => Just(Step::Receive),
        2 => proptest::collection::vec(any::<u8>(), 0..24).prop_map(Step::Arrive),
        2 => (0..24usize).prop_map(Step::Room),
        1 => Just(Step::Overrun),
    ]
}

proptest! {
    #[test]
    fn guest_and_port_see_the_chip_of_the_data_sheet(steps in proptest::collection::vec(step(), 1..300)) {
        let (mut rig, mut model) = (Rig::new(0), Model::new());
        for step in steps {
            match step {
                Step::Load(register) => prop_assert_eq!(rig.load(register), model.load(register)),
                Step::Store(register, value) => {
                    rig.store(register, value.into());
                    model.store(register, value.into());
                }
                Step::Send(byte) => {
                    rig.store(THR, byte.into());
                    model.store(THR, byte.into());
                }
                Step::Receive => prop_assert_eq!(rig.load(RBR), model.load(RBR)),
                Step::Arrive(bytes) => {
                    model.input.extend(bytes.iter().map(|byte| u64::from(*byte)));
                    rig.arrive(bytes);
                    model.settle();
                }
                Step::Room(room) => {
                    rig.make_room(room);
                    model.room += room;
                    model.settle();
                }
                Step::Overrun => {
                    rig.line.overrun = true;
                    rig.arrive([]);
                    model.overrun = true;
                }
            }
            let sent: Vec<u64> = rig.line.sent.iter().map(|byte| u64::from(*byte)).collect();
            prop_assert_eq!(&sent, &model.sent);
            prop_assert_eq!(rig.uart.level() == Level::High, model.cause().is_some());
        }
    }

    #[test]
    fn no_byte_is_lost_or_reordered_while_the_guest_heeds_the_status(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut rig = open(0);
        let (mut sent, mut arrived, mut received) = (Vec::new(), Vec::new(), Vec::new());
        let mut room_in_fifo = 0;
        for step in steps {
            let status = rig.load(LSR);
            if status & THRE != 0 {
                room_in_fifo = 16;
            }
            match step {
                Step::Send(byte) if room_in_fifo > 0 => {
                    rig.store(THR, byte.into());
                    sent.push(byte);
                    room_in_fifo -= 1;
                }
                Step::Receive if status & DR != 0 => received.push(rig.load(RBR) as u8),
                Step::Arrive(bytes) => {
                    arrived.extend(&bytes);
                    rig.arrive(bytes);
                }
                Step::Room(room) => {
                    rig.make_room(room);
                    if status & THRE == 0 && rig.load(LSR) & THRE != 0 {
                        prop_assert_eq!(rig.uart.level(), Level::High, "room after a refusal interrupts");
                    }
                }
                // Trigger levels may change at any time, and what is read but for data is read without effect on it.
                Step::Store(_, value) => rig.store(FCR, u64::from(value) & 0xC0 | FIFOS),
                Step::Load(register) if register != RBR => drop(rig.load(register)),
                _ => {}
            }
            let waits = rig.load(LSR) & DR != 0;
            prop_assert_eq!(waits, received.len() < arrived.len());
            if waits {
                prop_assert_eq!(rig.uart.level(), Level::High, "data that waits interrupts");
            }
        }
        rig.make_room(usize::MAX / 2);
        while rig.load(LSR) & DR != 0 {
            received.push(rig.load(RBR) as u8);
        }
        prop_assert_eq!(&rig.line.sent, &sent);
        prop_assert_eq!(received, arrived);
    }

    #[test]
    fn any_access_is_answered_with_a_byte(
        accesses in proptest::collection::vec((any::<u64>(), any::<u8>(), any::<Option<u64>>(), any::<bool>()), 1..200),
    ) {
        let mut rig = Rig::new(50);
        for (at, width, store, near) in accesses {
            let at = if near { at % 9 } else { at };
            rig.line.waiting.push_back(at as u8);
            let value = rig.uart.access(at, width, store, &mut rig.line);
            let most = if store.is_some() { 0 } else { 0xFF };
            prop_assert!(value <= most);
        }
    }
}
