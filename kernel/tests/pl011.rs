//! Laws of the emulated PL011.

mod line;

use kernel::dev::pl011::Pl011;
use kernel::dev::{Level, Uart};
use proptest::prelude::*;

const DR: u64 = 0x000;
const RSR: u64 = 0x004;
const FR: u64 = 0x018;
const IBRD: u64 = 0x024;
const LCR_H: u64 = 0x02C;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03C;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;

const BUSY: u64 = 1 << 3;
const RXFE: u64 = 1 << 4;
const TXFF: u64 = 1 << 5;
const TXFE: u64 = 1 << 7;
const RX: u64 = 1 << 4;
const TX: u64 = 1 << 5;
const RT: u64 = 1 << 6;
const OE: u64 = 1 << 10;
const FEN: u64 = 1 << 4;

type Rig = line::Rig<Pl011, 4>;

#[test]
fn reset_values_and_identification_are_those_of_the_manual() {
    let mut rig = Rig::new(0);
    assert_eq!((rig.load(FR) & 0xF8, rig.load(CR), rig.load(IFLS), rig.load(RIS)), (0x90, 0x300, 0x12, 0));
    let id: Vec<u64> = (0xFE0..0x1000).step_by(4).map(|at| rig.load(at)).collect();
    assert_eq!(id, [0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1]);
    rig.store(0xFE0, 0xFF);
    assert_eq!(rig.load(0xFE0), 0x11);
}

#[test]
fn sending_raises_the_transmit_interrupt_at_once_while_the_port_takes_it() {
    let mut rig = Rig::new(2);
    rig.store(LCR_H, FEN);
    rig.store(IMSC, TX);
    assert_eq!(rig.uart.level(), Level::Low, "nothing was sent, so nothing fell to a level");
    rig.store(DR, b'a'.into());
    assert_eq!((rig.uart.level(), rig.load(MIS)), (Level::High, TX));
    rig.store(ICR, TX);
    assert_eq!(rig.uart.level(), Level::Low);
    assert_eq!(rig.load(FR) & (BUSY | TXFE), TXFE);
}

#[test]
fn a_full_port_fills_the_fifo_and_room_interrupts_at_the_trigger_level() {
    let mut rig = Rig::new(0);
    rig.store(LCR_H, FEN);
    rig.store(IMSC, TX);
    for byte in 0..32 {
        assert_eq!(rig.load(FR) & TXFF, 0);
        rig.store(DR, byte);
    }
    assert_eq!(rig.load(FR) & (TXFF | BUSY | TXFE), TXFF | BUSY);
    assert_eq!(rig.uart.level(), Level::Low);
    rig.make_room(15);
    assert_eq!((rig.uart.level(), rig.load(FR) & TXFF), (Level::Low, 0), "17 left, the level is 16");
    rig.make_room(1);
    assert_eq!(rig.uart.level(), Level::High);
    rig.make_room(100);
    assert_eq!(rig.line.sent, (0..32).collect::<Vec<u8>>());
    assert_eq!(rig.load(FR) & (BUSY | TXFE), TXFE);
}

#[test]
fn a_byte_does_not_overtake_those_that_wait() {
    let (mut uart, mut port) = (Pl011::new(), line::Racing::default());
    uart.access(LCR_H, 4, Some(FEN), &mut port);
    (0..16).for_each(|byte| assert_eq!(uart.access(DR, 4, Some(byte), &mut port), 0));
    (0..100).for_each(|_| uart.poll(&mut port));
    assert_eq!(port.sent, (0..16).collect::<Vec<u8>>());
}

#[test]
fn without_fifos_one_byte_waits_in_each_direction() {
    let mut rig = Rig::new(0);
    rig.store(DR, 1);
    assert_eq!(rig.load(FR) & TXFF, TXFF);
    rig.store(DR, 2);
    rig.make_room(9);
    assert_eq!(rig.load(RIS) & TX, TX);
    assert_eq!(rig.line.sent, [1]);
    rig.arrive([7, 8]);
    assert_eq!((rig.load(RIS) & (RX | RT), rig.line.waiting.len()), (RX, 1));
    rig.store(IMSC, RX);
    assert_eq!((rig.load(DR), rig.uart.level()), (7, Level::High), "the next byte has arrived by itself");
    assert_eq!((rig.load(DR), rig.uart.level(), rig.load(FR) & RXFE), (8, Level::Low, RXFE));
}

#[test]
fn the_receive_interrupt_is_raised_at_each_trigger_level_and_the_timeout_below_it() {
    for (select, level) in [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28), (7, 28)] {
        let mut rig = Rig::new(0);
        rig.store(LCR_H, FEN);
        rig.store(IFLS, select << 3);
        rig.store(IMSC, RX);
        rig.arrive(0..level - 1);
        assert_eq!((rig.uart.level(), rig.load(RIS)), (Level::Low, RT));
        rig.arrive([99]);
        assert_eq!((rig.uart.level(), rig.load(RIS)), (Level::High, RX));
        rig.load(DR);
        assert_eq!((rig.uart.level(), rig.load(RIS)), (Level::Low, RT));
    }
}

#[test]
fn clearing_interrupts_while_data_waits_loses_nothing() {
    let mut rig = Rig::new(0);
    rig.store(LCR_H, FEN);
    rig.store(IMSC, RX | RT);
    rig.arrive(0..20);
    rig.store(ICR, 0x7FF);
    assert_eq!((rig.uart.level(), rig.load(MIS)), (Level::High, RT));
    for _ in 0..20 {
        rig.load(DR);
    }
    assert_eq!((rig.uart.level(), rig.load(RIS)), (Level::Low, 0));
}

#[test]
fn lost_input_is_reported_with_the_next_byte_and_as_an_interrupt() {
    let mut rig = Rig::new(0);
    rig.store(LCR_H, FEN);
    rig.store(IMSC, OE);
    rig.line.overrun = true;
    rig.arrive([]);
    rig.arrive([1, 2]);
    assert_eq!((rig.uart.level(), rig.load(RSR)), (Level::High, 8));
    assert_eq!((rig.load(DR), rig.load(DR)), (0x801, 2));
    rig.store(RSR, 0);
    rig.store(ICR, OE);
    assert_eq!((rig.uart.level(), rig.load(RSR)), (Level::Low, 0));
}

#[test]
fn loopback_returns_what_is_sent() {
    let mut rig = Rig::new(9);
    rig.store(LCR_H, FEN);
    rig.store(CR, 0x380);
    rig.store(DR, 0x5A);
    assert_eq!((rig.load(DR), rig.line.sent.len()), (0x5A, 0));
}

#[test]
fn narrow_accesses_touch_their_lanes_only() {
    let mut rig = Rig::new(9);
    rig.store(IBRD, 0x1234);
    rig.uart.access(IBRD, 1, Some(0xFF), &mut rig.line);
    assert_eq!(rig.load(IBRD), 0x12FF);
    rig.uart.access(IBRD + 1, 1, Some(0xAB), &mut rig.line);
    assert_eq!(rig.uart.access(IBRD, 2, None, &mut rig.line), 0xABFF);
    assert_eq!(rig.uart.access(IBRD + 1, 1, None, &mut rig.line), 0xAB);
    rig.uart.access(DR + 1, 1, Some(0xAB), &mut rig.line);
    assert!(rig.line.sent.is_empty(), "the data is in the lowest lane");
    rig.uart.access(DR, 1, Some(0x41), &mut rig.line);
    rig.uart.access(DR, 8, Some(0x42_0000_0042), &mut rig.line);
    assert_eq!(rig.line.sent, b"AB");
    assert_eq!(rig.uart.access(0xFE0, 8, None, &mut rig.line), 0x11);
}

/// What can happen to a UART.
#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Receive,
    Arrive(Vec<u8>),
    Room(usize),
    Format(u64),
    Levels(u64),
    Clear(u64),
    Look(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Send),
        6 => Just(Step::Receive),
        2 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Arrive),
        2 => (0..40usize).prop_map(Step::Room),
        1 => any::<u64>().prop_map(Step::Format),
        1 => any::<u64>().prop_map(Step::Levels),
        1 => any::<u64>().prop_map(Step::Clear),
        1 => (1..0x400u64).prop_map(|n| Step::Look(n * 4)),
    ]
}

proptest! {
    #[test]
    fn no_byte_is_lost_or_reordered_while_the_guest_heeds_the_flags(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut rig = Rig::new(0);
        rig.store(IMSC, RX | RT | TX);
        let (mut sent, mut arrived, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Send(byte) if rig.load(FR) & TXFF == 0 => {
                    rig.store(DR, byte.into());
                    sent.push(byte);
                }
                Step::Receive if rig.load(FR) & RXFE == 0 => received.push(rig.load(DR) as u8),
                Step::Send(_) | Step::Receive => {}
                Step::Arrive(bytes) => {
                    arrived.extend(&bytes);
                    rig.arrive(bytes);
                }
                Step::Room(room) => {
                    let full = rig.load(FR) & TXFF != 0;
                    rig.make_room(room);
                    if full && rig.load(FR) & TXFE != 0 {
                        prop_assert!(rig.load(MIS) & TX != 0, "room after a refusal interrupts");
                    }
                }
                Step::Format(value) => rig.store(LCR_H, value),
                Step::Levels(value) => rig.store(IFLS, value),
                Step::Clear(value) => rig.store(ICR, value),
                Step::Look(at) => drop(rig.load(at)),
            }
            let waits = rig.load(FR) & RXFE == 0;
            prop_assert_eq!(waits, received.len() < arrived.len());
            prop_assert_eq!(rig.load(MIS) & (RX | RT) != 0, waits, "data that waits interrupts");
        }
        rig.make_room(usize::MAX / 2);
        while rig.load(FR) & RXFE == 0 {
            received.push(rig.load(DR) as u8);
        }
        prop_assert_eq!(&rig.line.sent, &sent);
        prop_assert_eq!(received, arrived);
    }

    #[test]
    fn any_access_is_answered_within_its_width(
        accesses in proptest::collection::vec((any::<u64>(), any::<u8>(), any::<Option<u64>>(), any::<bool>()), 1..200),
    ) {
        let mut rig = Rig::new(50);
        for (at, width, store, near) in accesses {
            let at = if near { at % 0x50 } else { at };
            rig.line.waiting.push_back(at as u8);
            let value = rig.uart.access(at, width, store, &mut rig.line);
            let bits = 8 * u32::from(width.clamp(1, 4));
            prop_assert!(store.is_none() || value == 0);
            prop_assert!(value >> bits == 0);
        }
    }
}
