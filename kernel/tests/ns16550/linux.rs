//! What Linux's 8250 driver does, as register accesses.

use kernel::dev::{Level, Uart};

use super::*;

/// Finds out which chip this is (`autoconfig`).
fn detect(rig: &mut Rig) -> Option<&'static str> {
    let saved = rig.load(IER);
    rig.store(IER, 0);
    let none = rig.load(IER) & 0xF;
    rig.store(IER, 0xF);
    let all = rig.load(IER) & 0xF;
    rig.store(IER, saved);
    if (none, all) != (0, 0xF) {
        return None;
    }
    let (mcr, lcr) = (rig.load(MCR), rig.load(LCR));
    rig.store(MCR, LOOP | 0x0A);
    let lines = rig.load(MSR) & 0xF0;
    rig.store(MCR, mcr);
    if lines != 0x90 {
        return None;
    }
    rig.store(LCR, 0xBF);
    rig.store(FCR, 0);
    rig.store(LCR, 0);
    rig.store(FCR, FIFOS);
    let kind = match rig.load(IIR) >> 6 {
        3 => detect_16550a(rig),
        _ => None,
    };
    rig.store(LCR, lcr);
    rig.store(MCR, mcr);
    clear_fifos(rig);
    rig.load(RBR);
    rig.store(IER, 0);
    kind
}

fn detect_16550a(rig: &mut Rig) -> Option<&'static str> {
    for mode in [0x80, 0xBF] {
        rig.store(LCR, mode);
        if rig.load(IIR) == 0 {
            return Some("has an enhanced feature register");
        }
    }
    // A second bank, in which the loopback bit appears elsewhere.
    rig.store(LCR, 0);
    let mcr = rig.load(MCR);
    rig.store(LCR, 0xE0);
    if (rig.load(IIR) ^ mcr) & LOOP == 0 {
        rig.store(LCR, 0);
        rig.store(MCR, mcr ^ LOOP);
        rig.store(LCR, 0xE0);
        let bank = rig.load(IIR);
        rig.store(LCR, 0);
        rig.store(MCR, mcr);
        if (bank ^ mcr) & LOOP != 0 {
            return Some("NS16550A of a SuperIO chip");
        }
    }
    rig.store(LCR, 0);
    rig.store(FCR, 0x21);
    let plain = rig.load(IIR) >> 5;
    rig.store(FCR, FIFOS);
    rig.store(LCR, 0x80);
    rig.store(FCR, 0x21);
    let with_dlab = rig.load(IIR) >> 5;
    rig.store(FCR, FIFOS);
    rig.store(LCR, 0);
    if (plain, with_dlab) == (6, 7) {
        return Some("16750");
    }
    let ier = rig.load(IER);
    rig.store(IER, ier | 0x40);
    if rig.load(IER) & 0x40 != 0 {
        return Some("XScale");
    }
    rig.store(IER, ier);
    (count_fifo(rig) == 16).then_some("16550A")
}

/// Writes far more than fits in loopback, and counts what is left (`size_fifo`).
fn count_fifo(rig: &mut Rig) -> usize {
    let (lcr, mcr) = (rig.load(LCR), rig.load(MCR));
    rig.store(FCR, FIFOS | 6);
    rig.store(MCR, LOOP);
    rig.store(LCR, 3);
    (0..256).for_each(|byte| rig.store(THR, byte));
    let mut count = 0;
    while rig.load(LSR) & DR != 0 && count < 256 {
        rig.load(RBR);
        count += 1;
    }
    rig.store(FCR, FIFOS);
    rig.store(MCR, mcr);
    rig.store(LCR, lcr);
    count
}

fn clear_fifos(rig: &mut Rig) {
    rig.store(FCR, FIFOS);
    rig.store(FCR, FIFOS | 6);
    rig.store(FCR, 0);
}

#[test]
fn linux_finds_a_16550a_and_sends_nothing_by_it() {
    let mut rig = Rig::new(9);
    assert_eq!(detect(&mut rig), Some("16550A"));
    assert_eq!((rig.uart.level(), rig.line.sent.len()), (Level::Low, 0));
}

#[test]
fn linux_starts_it_up_without_workarounds() {
    let mut rig = Rig::new(100);
    clear_fifos(&mut rig);
    for register in [LSR, RBR, IIR, MSR] {
        assert_ne!(rig.load(register), 0xFF);
    }
    // Enabled twice while nothing is to be sent, the transmitter says so twice.
    assert_ne!(rig.load(LSR) & THRE, 0);
    for _ in 0..2 {
        rig.store(IER, ETBEI);
        assert_eq!(rig.load(IIR) & 1, 0);
        rig.store(IER, 0);
    }
    rig.store(LCR, 3);
    rig.store(MCR, 0x08);
    rig.store(IER, ETBEI);
    assert_eq!((rig.load(LSR) & EMPTY, rig.load(IIR) & 1), (EMPTY, 0));
    rig.store(IER, 0);
    // Line speed and FIFOs, then the receiver.
    rig.store(LCR, 0x83);
    rig.store(0, 54);
    rig.store(1, 0);
    rig.store(LCR, 3);
    rig.store(FCR, FIFOS);
    rig.store(FCR, 0x81);
    rig.store(MCR, 0x0B);
    rig.store(IER, ELSI | ERBFI);
    assert_eq!(rig.uart.level(), Level::Low);
    let text: Vec<u8> = (0..100).collect();
    assert_eq!(linux_writes(&mut rig, &text, 100), 7, "sixteen bytes for each interrupt");
    assert_eq!(rig.line.sent, text);
    rig.arrive(*b"hello");
    assert_eq!(linux_reads(&mut rig), b"hello");
    assert_eq!(rig.uart.level(), Level::Low);
}

/// Sends as the driver does, by interrupt and sixteen bytes at a time; returns how many interrupts there were.
fn linux_writes(rig: &mut Rig, text: &[u8], room: usize) -> usize {
    let mut rest = text;
    let mut interrupts = 0;
    rig.store(IER, ELSI | ERBFI | ETBEI);
    while !rest.is_empty() {
        if rig.uart.level() == Level::Low {
            rig.make_room(room);
            assert_eq!(rig.uart.level(), Level::High, "with room there is an interrupt");
        }
        interrupts += 1;
        if rig.load(IIR) & 1 == 0 && rig.load(LSR) & THRE != 0 {
            let (now, later) = rest.split_at(rest.len().min(16));
            now.iter().for_each(|byte| rig.store(THR, (*byte).into()));
            rest = later;
        }
    }
    rig.store(IER, ELSI | ERBFI);
    interrupts
}

fn linux_reads(rig: &mut Rig) -> Vec<u8> {
    let mut text = Vec::new();
    while rig.uart.level() == Level::High {
        assert_eq!(rig.load(IIR) & 1, 0);
        while rig.load(LSR) & DR != 0 {
            text.push(rig.load(RBR) as u8);
        }
    }
    text
}

#[test]
fn a_slow_port_delays_linux_and_loses_nothing() {
    let mut rig = Rig::new(0);
    rig.store(FCR, 0x81);
    let text: Vec<u8> = (0..=255).collect();
    linux_writes(&mut rig, &text, 16);
    rig.make_room(16);
    assert_eq!(rig.line.sent, text);
}
