//! What a guest's interrupt chips promise: single cases here, what Linux does in `linux`, laws under random input in
//! `laws`.

use alloc::vec::Vec;

use super::*;
use crate::layout::PINS;

mod laws;
mod linux;
mod model;

const NOWHERE: fn(u64) -> bool = |_| false;
const HWI0: u64 = 1 << 2;
const HWI1: u64 = 1 << 3;

fn store(vintc: &mut Vintc, from: usize, at: u64, width: u8, value: u64) -> u64 {
    let outcome = vintc.iocsr(from, IocsrAccess { at, width, store: Some(value) }, NOWHERE);
    assert_eq!((outcome.value, outcome.start), (0, None));
    outcome.kicks.0
}

fn load(vintc: &mut Vintc, from: usize, at: u64, width: u8) -> u64 {
    let outcome = vintc.iocsr(from, IocsrAccess { at, width, store: None }, NOWHERE);
    assert_eq!((outcome.kicks, outcome.start), (Kicks::NONE, None));
    outcome.value
}

fn pic_store(vintc: &mut Vintc, offset: u64, width: u8, value: u64) -> u64 {
    vintc.mmio(PCH_PIC.start + offset, width, Some(value)).unwrap().1.0
}

fn pic_load(vintc: &mut Vintc, offset: u64, width: u8) -> u64 {
    vintc.mmio(PCH_PIC.start + offset, width, None).unwrap().0
}

fn msi(vintc: &mut Vintc, vector: u64) -> u64 {
    vintc.mmio(MSI.start, 4, Some(vector)).unwrap().1.0
}

/// Chips whose vectors are all enabled and go to core 0, each pin with the vector of its number, none masked.
fn open(cpus: usize) -> Vintc {
    let mut vintc = Vintc::new(cpus);
    for word in 0..8 {
        store(&mut vintc, 0, 0x1600 + 4 * word, 4, 0xffff_ffff);
    }
    for pin in 0..u64::from(PINS) {
        pic_store(&mut vintc, 0x200 + pin, 1, pin);
    }
    pic_store(&mut vintc, 0x20, 4, 0);
    vintc
}

/// The vectors that a core sees.
fn seen(vintc: &mut Vintc, core: usize) -> Vec<u64> {
    let words = (0..4).map(|n| (n * 64, load(vintc, core, 0x1800 + 8 * n, 8)));
    words.flat_map(|(first, word)| bits(word).map(move |bit| first + u64::from(bit))).collect()
}

#[test]
fn an_ipi_raises_the_line_of_its_target_until_it_is_cleared() {
    let mut vintc = Vintc::new(3);
    assert_eq!(store(&mut vintc, 0, 0x1040, 4, 2 << 16 | 5), 0, "not enabled there");
    assert_eq!(load(&mut vintc, 2, 0x1000, 4), 1 << 5);
    assert_eq!(store(&mut vintc, 2, 0x1004, 4, 0xffff_ffff), 0b100, "enabling is news, too");
    assert_eq!(vintc.lines(2), IS_IPI);
    assert_eq!(store(&mut vintc, 1, 0x1040, 4, 1 << 31 | 2 << 16 | 31), 0, "it is up already");
    assert_eq!(load(&mut vintc, 2, 0x1000, 4), 1 << 31 | 1 << 5);
    store(&mut vintc, 2, 0x100c, 4, 1 << 5);
    assert_eq!(vintc.lines(2), IS_IPI);
    store(&mut vintc, 2, 0x100c, 4, 1 << 31);
    assert_eq!((vintc.lines(2), load(&mut vintc, 2, 0x1000, 4)), (0, 0));
    assert_eq!(store(&mut vintc, 2, 0x1008, 4, 0x100), 0b100, "to itself");
    assert_eq!(load(&mut vintc, 2, 0x1008, 8), 0, "write-only");
}

#[test]
fn nobody_gets_what_is_for_a_core_that_does_not_exist() {
    let mut vintc = open(2);
    for core in 0..2 {
        store(&mut vintc, core, 0x1004, 4, 0xffff_ffff);
    }
    assert_eq!(store(&mut vintc, 0, 0x1040, 4, 2 << 16), 0);
    assert_eq!(store(&mut vintc, 0, 0x1048, 8, 0x3ff << 16 | 77 << 32), 0);
    assert_eq!(store(&mut vintc, 0, 0x1158, 8, 0x3ff << 16 | 0x1008 | 1 << 32), 0);
    store(&mut vintc, 0, 0x1c00 + 40, 1, 0b0100);
    assert_eq!(msi(&mut vintc, 40), 0, "core 2");
    assert_eq!(load(&mut vintc, 0, 0x1700, 8), 1 << 40, "it waits");
    assert_eq!(store(&mut vintc, 0, 0x1c00 + 40, 1, 0b1010), 0b10, "of cores 1 and 3, one exists");
    let nobody = vintc.iocsr(2, IocsrAccess { at: 0x1008, width: 4, store: Some(1) }, NOWHERE);
    assert_eq!(nobody, Outcome::default());
    assert_eq!(vintc.lines(usize::MAX), 0);
}

#[test]
fn mail_leaves_the_bytes_alone_that_it_is_told_to() {
    let mut vintc = Vintc::new(2);
    store(&mut vintc, 0, 0x1048, 8, 0x1122_3344 << 32 | 1 << 16 | 1 << 2);
    store(&mut vintc, 0, 0x1048, 8, 0x5566_7788 << 32 | 1 << 16);
    assert_eq!(load(&mut vintc, 1, 0x1020, 8), 0x1122_3344_5566_7788);
    store(&mut vintc, 0, 0x1048, 8, 0xaabb_ccdd << 32 | 0b0110 << 27 | 1 << 16);
    assert_eq!(load(&mut vintc, 1, 0x1020, 8), 0x1122_3344_aa66_77dd);
    store(&mut vintc, 0, 0x1048, 8, 0x99 << 32 | 0b1110 << 27 | 1 << 16 | 7 << 2);
    assert_eq!(load(&mut vintc, 1, 0x1038, 8), 0x99 << 32, "the upper half of mailbox 3");
    store(&mut vintc, 0, 0x1048, 4, 1 << 16);
    assert_eq!(load(&mut vintc, 1, 0x1020, 4), 0xaa66_77dd, "only a store of 64 bits sends");
    store(&mut vintc, 1, 0x103b, 1, 0xee);
    assert_eq!(load(&mut vintc, 1, 0x1038, 8), 0x99_ee00_0000);
}

#[test]
fn any_send_reaches_every_register_of_its_target() {
    let mut vintc = open(2);
    let send = |vintc: &mut Vintc, at: u64, kept: u64, data: u64| {
        store(vintc, 0, 0x1158, 8, data << 32 | kept << 27 | 1 << 16 | at)
    };
    send(&mut vintc, 0x1004, 0, 0xff);
    assert_eq!(load(&mut vintc, 1, 0x1004, 4), 0xff);
    assert_eq!(send(&mut vintc, 0x1008, 0, 2), 0b10);
    send(&mut vintc, 0x100c, 0, 2);
    assert_eq!(vintc.lines(1), 0);
    assert_eq!(send(&mut vintc, 0x1040, 0, 1 << 16 | 3), 0b10, "IPI_SEND in turn");
    send(&mut vintc, 0x1c40, 0b1101, 0x0000_0200);
    assert_eq!(load(&mut vintc, 0, 0x1c40, 4), 0x0200, "one byte of a route");
    assert_eq!(msi(&mut vintc, 0x41), 0b10);
    store(&mut vintc, 1, 0x100c, 4, 0xff);
    assert_eq!(send(&mut vintc, 0x1808, 0, 0b10), 0, "another core's status");
    assert_eq!((vintc.lines(1), seen(&mut vintc, 1)), (0, Vec::new()));
    assert_eq!(send(&mut vintc, 0x1158, 0, 0x1008), 0, "no 64 bits, no sending");
}

#[test]
fn a_parked_vcpu_starts_where_its_mail_says() {
    let mut vintc = Vintc::new(3);
    let is_memory = |at: u64| at < 0x1000_0000;
    let run = |vintc: &mut Vintc, at, width, value| {
        vintc.iocsr(0, IocsrAccess { at, width, store: Some(value) }, is_memory)
    };
    let call =
        |vintc: &mut Vintc, cpu: u64, action: u64| run(vintc, 0x1040, 4, 1 << 31 | cpu << 16 | action).start;
    let mail = |vintc: &mut Vintc, cpu: u64, entry: u64| {
        let _ = run(vintc, 0x1048, 8, entry >> 32 << 32 | cpu << 16 | 1 << 2);
        let _ = run(vintc, 0x1048, 8, entry << 32 | cpu << 16);
    };
    mail(&mut vintc, 1, 1 << 40);
    assert_eq!(call(&mut vintc, 1, 0), None, "no memory there");
    mail(&mut vintc, 1, 0x20_0000);
    assert_eq!(load(&mut vintc, 1, 0x1000, 4), 0, "the firmware took the first IPI");
    assert_eq!(call(&mut vintc, 1, 1), None, "another action");
    assert_eq!(call(&mut vintc, 1, 0), Some(StartVcpu { vcpu: 1, entry: 0x20_0000 }));
    assert_eq!(load(&mut vintc, 1, 0x1000, 4), 0, "what came before is over");
    assert_eq!(call(&mut vintc, 1, 0), None, "it runs");
    assert_eq!(load(&mut vintc, 1, 0x1000, 4), 1, "and has an ordinary IPI");
    mail(&mut vintc, 0, 0x20_0000);
    assert_eq!(call(&mut vintc, 0, 0), None, "vCPU 0 was never parked");

    mail(&mut vintc, 2, 0x40);
    let send = run(&mut vintc, 0x1158, 8, 1 << 32 | 2 << 16 | 0x1008);
    assert_eq!(send.start, Some(StartVcpu { vcpu: 2, entry: 0x40 }), "by ANY_SEND to IPI_SET");
    vintc.park(1);
    vintc.park(9);
    let wide = run(&mut vintc, 0x1040, 8, 1 << 16);
    assert_eq!(wide.start, Some(StartVcpu { vcpu: 1, entry: 0x20_0000 }));
}

#[test]
fn a_vector_is_seen_where_it_is_routed_while_it_is_enabled() {
    let mut vintc = open(4);
    store(&mut vintc, 0, 0x14c0, 8, 0x0408_0201_0000_0003);
    store(&mut vintc, 0, 0x1c00 + 130, 1, 0b1000);
    assert_eq!(msi(&mut vintc, 130), 0b1000);
    assert_eq!((vintc.lines(3), seen(&mut vintc, 3)), (HWI0, [130].into()));
    assert_eq!(store(&mut vintc, 1, 0x1c00 + 130, 1, 0b0110), 0b0010, "the lowest of two");
    assert_eq!((vintc.lines(3), vintc.lines(1)), (0, HWI0));
    store(&mut vintc, 0, 0x1610, 4, !0b100);
    assert_eq!((vintc.lines(1), load(&mut vintc, 1, 0x1710, 8)), (0, 0b100), "disabled, it waits");
    assert_eq!(store(&mut vintc, 0, 0x1610, 4, 0b100), 0b0010);
    store(&mut vintc, 0, 0x1810, 8, u64::MAX);
    assert_eq!(seen(&mut vintc, 1), [130], "another core cannot acknowledge it");
    store(&mut vintc, 1, 0x1810, 8, 0b100);
    assert_eq!((vintc.lines(1), load(&mut vintc, 1, 0x1710, 8)), (0, 0));
}

#[test]
fn the_pin_is_one_of_four_or_a_number() {
    let mut vintc = open(1);
    let _ = msi(&mut vintc, 100);
    for (map, pin) in [(0, 0), (1, 0), (2, 1), (4, 2), (8, 3), (0x0c, 2), (0x20, 0), (0xff, 0)] {
        store(&mut vintc, 0, 0x14c3, 1, map);
        assert_eq!(vintc.lines(0), HWI0 << pin, "{map:#x}");
    }
    assert_eq!(load(&mut vintc, 0, 0x420, 8), 1 << 48);
    store(&mut vintc, 0, 0x420, 8, 3 << 48);
    assert_eq!(load(&mut vintc, 0, 0x420, 8), 3 << 48);
    for (map, pin) in [(0, 0), (1, 1), (2, 2), (7, 7), (8, 0), (0xff, 7)] {
        store(&mut vintc, 0, 0x14c3, 1, map);
        assert_eq!(vintc.lines(0), HWI0 << pin, "{map:#x}");
    }
    store(&mut vintc, 0, 0x420, 8, 0);
    assert_eq!(load(&mut vintc, 0, 0x420, 8), 1 << 48, "it cannot be switched off");
}

#[test]
fn vectors_that_bounce_take_turns() {
    let mut vintc = open(12);
    // Node type 2 is nodes 0 and 2 here; the route's 0x26 means cores 1 and 2 of each (3A5000 user manual, 11.2.1).
    store(&mut vintc, 0, 0x14a4, 2, 0b101);
    store(&mut vintc, 0, 0x1c00 + 50, 1, 0x26);
    let next = |vintc: &mut Vintc| {
        let kicks = msi(vintc, 50);
        store(vintc, kicks.trailing_zeros() as usize, 0x1800, 8, 1 << 50);
        kicks.trailing_zeros()
    };
    assert_eq!([(); 3].map(|()| next(&mut vintc)), [1, 1, 1], "the lowest, until told otherwise");
    store(&mut vintc, 0, 0x1684, 4, 1 << 18);
    assert_eq!([(); 5].map(|()| next(&mut vintc)), [1, 2, 9, 10, 1]);
    store(&mut vintc, 0, 0x1c00 + 50, 1, 0x21);
    assert_eq!([(); 3].map(|()| next(&mut vintc)), [8, 0, 8]);
}

#[test]
fn each_node_has_registers_of_its_own() {
    let mut vintc = open(6);
    store(&mut vintc, 5, 0x1c00 + 33, 1, 0x12);
    store(&mut vintc, 5, 0x14c0, 4, 0x0808_0808);
    store(&mut vintc, 0, 0x14a0, 4, 2 << 16 | 1);
    assert_eq!((load(&mut vintc, 0, 0x1c21, 1), load(&mut vintc, 4, 0x1c21, 1)), (0, 0x12));
    assert_eq!(msi(&mut vintc, 33), 0b1, "vectors arrive at node 0");
    store(&mut vintc, 0, 0x1c00 + 33, 1, 0x12);
    assert_eq!((vintc.lines(0), vintc.lines(5)), (0, HWI0 << 3), "the pin is for the target's node to say");
    assert_eq!(load(&mut vintc, 0, 0x408, 4), 2);
}

#[test]
fn a_level_is_withdrawn_or_sent_again() {
    let mut vintc = open(1);
    assert_eq!(vintc.set_line(2, Level::High).0, 1);
    assert!(vintc.set_line(2, Level::High).is_empty());
    assert_eq!((vintc.lines(0), seen(&mut vintc, 0)), (HWI0, [2].into()));
    let _ = vintc.set_line(2, Level::Low);
    assert_eq!((vintc.lines(0), pic_load(&mut vintc, 0x380, 4)), (0, 0), "before anybody acknowledged it");
    let _ = vintc.set_line(2, Level::High);
    store(&mut vintc, 0, 0x1800, 8, 0b100);
    assert_eq!((vintc.lines(0), pic_load(&mut vintc, 0x380, 4)), (0, 0b100), "once for each time");
    assert_eq!(pic_load(&mut vintc, 0x3a0, 4), 0b100);
    pic_store(&mut vintc, 0x20, 4, 0b100);
    assert_eq!((vintc.lines(0), pic_load(&mut vintc, 0x3a0, 4)), (0, 0));
    assert_eq!(pic_store(&mut vintc, 0x20, 4, 0), 1, "unmasked, it is sent again");
    pic_store(&mut vintc, 0x20, 4, 0b100);
    assert_eq!(vintc.lines(0), 0, "masked, it is withdrawn");
    pic_store(&mut vintc, 0x20, 4, 0);
    store(&mut vintc, 0, 0x1800, 8, 0b100);
    assert_eq!(pic_store(&mut vintc, 0x80, 4, 0b100), 1, "cleared, it is sent again");
    assert_eq!(pic_store(&mut vintc, 0x40, 4, 0), 0);
    assert_eq!(vintc.lines(0), 0, "without HTMSI_EN no message stands");
}

#[test]
fn an_edge_is_sent_once_until_it_is_cleared() {
    let mut vintc = open(1);
    pic_store(&mut vintc, 0x60, 4, 0b1000);
    let pulse = |vintc: &mut Vintc| {
        let kicks = vintc.set_line(3, Level::High).0;
        assert!(vintc.set_line(3, Level::Low).is_empty());
        kicks
    };
    assert_eq!(pulse(&mut vintc), 1);
    assert_eq!((vintc.lines(0), pic_load(&mut vintc, 0x380, 4)), (HWI0, 0b1000), "it stays");
    store(&mut vintc, 0, 0x1800, 8, 0b1000);
    assert_eq!(pulse(&mut vintc), 0, "merged with the one in service");
    pic_store(&mut vintc, 0x20, 4, 0b1000);
    assert_eq!(pic_store(&mut vintc, 0x20, 4, 0), 0, "masking does not repeat it");
    pic_store(&mut vintc, 0x80, 4, 0b1000);
    assert_eq!((pic_load(&mut vintc, 0x380, 4), pic_load(&mut vintc, 0x3a0, 4)), (0, 0));
    pic_store(&mut vintc, 0x20, 4, 0b1000);
    assert_eq!(pulse(&mut vintc), 0);
    assert_eq!(pic_store(&mut vintc, 0x20, 4, 0), 1, "what came while it was masked is sent");
}

#[test]
fn polarity_turns_an_input_around() {
    let mut vintc = open(1);
    assert_eq!(pic_store(&mut vintc, 0x3e0, 4, 1 << 4), 1, "low asks for attention");
    let _ = vintc.set_line(4, Level::High);
    assert_eq!(vintc.lines(0), 0);
    pic_store(&mut vintc, 0x60, 4, 1 << 4);
    assert_eq!(vintc.set_line(4, Level::Low).0, 1, "a falling edge");
    assert!(vintc.set_line(4, Level::High).is_empty());
    assert_eq!(vintc.lines(0), HWI0);
}

#[test]
fn sources_of_one_vector_do_not_withdraw_each_other() {
    let mut vintc = open(1);
    pic_store(&mut vintc, 0x205, 1, 6);
    let _ = vintc.set_line(5, Level::High);
    let _ = vintc.set_line(6, Level::High);
    let _ = vintc.set_line(5, Level::Low);
    assert_eq!(seen(&mut vintc, 0), [6]);
    let _ = msi(&mut vintc, 6);
    let _ = vintc.set_line(6, Level::Low);
    assert_eq!(seen(&mut vintc, 0), [6], "the message stands");
    store(&mut vintc, 0, 0x1800, 4, 1 << 6);
    assert_eq!(vintc.lines(0), 0);
    // The vector of a message is the one that it was sent with.
    let _ = vintc.set_line(5, Level::High);
    pic_store(&mut vintc, 0x205, 1, 9);
    let _ = vintc.set_line(5, Level::Low);
    assert_eq!(seen(&mut vintc, 0), []);
}

#[test]
fn identification_registers() {
    let mut vintc = Vintc::new(5);
    assert_eq!(load(&mut vintc, 0, 0x8, 4), 0x1c);
    assert_eq!(load(&mut vintc, 0, 0x10, 8).to_le_bytes(), *b"Loongson");
    assert_eq!(load(&mut vintc, 0, 0x20, 8).to_le_bytes(), *b"3A5000\0\0");
    assert_eq!(load(&mut vintc, 0, 0x23, 4), 0x30_3030, "across two words");
    assert_eq!((load(&mut vintc, 0, 0, 4), load(&mut vintc, 4, 0x408, 4)), (0x11, 2));
    assert_eq!(pic_load(&mut vintc, 0, 8), 0x1f_0001_0700_0000);
    assert_eq!(pic_load(&mut vintc, 0x20, 8), 0xffff_ffff, "32 inputs, all masked");
    assert_eq!(pic_load(&mut vintc, 0x100, 8), 0x0101_0101_0101_0101);
    assert_eq!(vintc.mmio(PCH_PIC.end, 4, None), None);
    assert_eq!(vintc.mmio(MSI.end, 4, Some(1)), None);
    assert_eq!(vintc.mmio(MSI.start, 4, None), Some((0, Kicks::NONE)));
}

#[test]
fn the_trigger_register_makes_a_vector_arrive() {
    let mut vintc = open(1);
    assert_eq!(store(&mut vintc, 0, 0x1140, 4, 77), 1);
    assert_eq!(seen(&mut vintc, 0), [77]);
}
