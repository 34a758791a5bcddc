//! What the virtual GIC promises: single cases here, laws under random input in `laws`.
//!
//! Changes made by hand that the tests were seen to catch, each with the tests that failed, are listed in `laws`.

use super::list::{hcr, lr, vmcr};
use super::*;

mod cpu;
mod laws;
mod model;
mod world;

const UP: Option<u64> = Some(u64::MAX);

/// A controller with groups open, everything enabled and in Group 1, priority 0xa0.
fn open(vcpus: usize, list_registers: usize) -> Vgic {
    let mut vgic = Vgic::new(Config { vcpus, spis: 64, list_registers, priority_bits: 5 });
    let frames = (0..vcpus).map(|vcpu| (Frame::Redist(vcpu), 0x1_0000)).chain([(Frame::Dist, 0)]);
    for (frame, base) in frames {
        for word in 0..3 {
            let _ = vgic.access(frame, base + 0x080 + 4 * word, 4, UP);
            let _ = vgic.access(frame, base + 0x100 + 4 * word, 4, UP);
        }
        for word in 0..24 {
            let _ = vgic.access(frame, base + 0x400 + 4 * word, 4, Some(0xa0a0_a0a0));
        }
    }
    let _ = vgic.access(Frame::Dist, 0, 4, Some(0x13));
    vgic
}

fn interface() -> Interface {
    Interface { vmcr: vmcr::VENG1 | 0xf0 << vmcr::VPMR_SHIFT, ..Interface::new() }
}

fn read(vgic: &mut Vgic, frame: Frame, offset: u32, width: u8) -> u64 {
    vgic.access(frame, offset, width, None).0
}

fn write(vgic: &mut Vgic, frame: Frame, offset: u32, value: u64) -> u64 {
    vgic.access(frame, offset, 4, Some(value)).1.0
}

/// The guest acknowledges what is in list register `n`.
fn ack(cpu: &mut Interface, n: usize) {
    assert_eq!(cpu.lr[n] & lr::STATE, lr::PENDING);
    cpu.lr[n] ^= lr::STATE;
}

/// The guest deactivates what is in list register `n`.
fn end(cpu: &mut Interface, n: usize) {
    assert_ne!(cpu.lr[n] & lr::ACTIVE, 0);
    cpu.lr[n] &= !lr::ACTIVE;
}

fn pass(vgic: &mut Vgic, vcpu: usize, cpu: &mut Interface) -> u64 {
    (vgic.sync(vcpu, cpu) | vgic.flush(vcpu, cpu)).0
}

#[test]
fn sgi_goes_where_the_register_says() {
    let mut vgic = open(40, 4);
    let sgi1r = |list: u64, aff1: u64, intid: u64| list | aff1 << 16 | intid << 24;
    assert_eq!(vgic.sgi(0, sgi1r(0b101, 0, 3)).0, 0b101);
    assert_eq!(vgic.sgi(0, sgi1r(0b101, 0, 3)).0, 0, "already pending, nothing new");
    assert_eq!(vgic.sgi(0, sgi1r(0b1, 2, 3)).0, 1 << 32);
    assert_eq!(vgic.sgi(0, sgi1r(0xffff, 2, 4)).0, 0xff << 32, "vCPUs 32 to 39 exist");
    assert_eq!(vgic.sgi(0, sgi1r(0xffff, 3, 4)).0, 0);
    assert_eq!(vgic.sgi(0, sgi1r(1, 4, 4)).0, 0);
    assert_eq!(vgic.sgi(0, sgi1r(1, 0, 4) | 1 << 32).0, 0, "Aff2");
    assert_eq!(vgic.sgi(0, sgi1r(1, 0, 4) | 1 << 44).0, 0, "RS");
    assert_eq!(vgic.sgi(0, sgi1r(1, 0, 4) | 1 << 48).0, 0, "Aff3");
    assert_eq!(vgic.sgi(39, sgi1r(0, 0, 5) | 1 << 40).0, (1 << 39) - 1, "all but the sender");
    assert_eq!(vgic.sgi(usize::MAX, 6 << 24 | 1 << 40).0, (1 << 40) - 1);

    let mut cpu = interface();
    assert_eq!(pass(&mut vgic, 2, &mut cpu), 0);
    assert_eq!(cpu.used, 0b111);
    assert_eq!(cpu.lr[0], lr::PENDING | lr::GROUP1 | 0xa0 << 48 | 3);
    assert_eq!((cpu.lr[1] as u32, cpu.lr[2] as u32), (5, 6));
}

#[test]
fn sgi_again_while_handled_is_pending_and_active() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    let _ = vgic.sgi(0, 1);
    pass(&mut vgic, 0, &mut cpu);
    ack(&mut cpu, 0);
    assert_eq!(vgic.sgi(0, 1).0, 1, "the vCPU has to come by");
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & lr::STATE, lr::STATE);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    ack(&mut cpu, 0);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!((cpu.used, vgic.has_deliverable(0, &cpu)), (0, false));
}

#[test]
fn level_comes_back_after_its_end_while_the_line_is_high() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    assert_eq!(vgic.set_line(33, Level::High).0, 1);
    assert_eq!(vgic.set_line(33, Level::High).0, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_ne!(cpu.lr[0] & lr::EOI, 0);
    ack(&mut cpu, 0);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & lr::STATE, lr::PENDING);
    ack(&mut cpu, 0);
    let _ = vgic.sync(0, &mut cpu);
    assert!(vgic.set_line(33, Level::Low).is_empty());
    let _ = vgic.flush(0, &mut cpu);
    assert_eq!(cpu.lr[0] & lr::EOI, 0, "nothing to hear any more, so the end costs no exit");
    assert_eq!(vgic.set_line(33, Level::High).0, 1, "it is needed again");
    pass(&mut vgic, 0, &mut cpu);
    assert_ne!(cpu.lr[0] & lr::EOI, 0);
    let _ = vgic.set_line(33, Level::Low);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.used, 0);
}

#[test]
fn timer_is_backed_until_the_guest_ends_it() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    assert_eq!(vgic.fire_hw(0, 27).0, 1);
    assert!(vgic.hw_in_flight(0, 27));
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0], lr::PENDING | lr::HW | lr::GROUP1 | 0xa0 << 48 | 27 << 32 | 27);
    ack(&mut cpu, 0);
    let _ = vgic.sync(0, &mut cpu);
    assert!(vgic.hw_in_flight(0, 27));
    assert!(!vgic.retract_hw(0, 27), "the guest has it");
    end(&mut cpu, 0);
    // The physical interrupt fires again before anyone looked at the list register.
    assert_eq!(vgic.fire_hw(0, 27).0, 1);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & (lr::STATE | lr::HW), lr::PENDING | lr::HW);
    assert!(vgic.retract_hw(0, 27));
    assert!(!vgic.hw_in_flight(0, 27));
    assert!(!vgic.retract_hw(0, 27));
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!((cpu.used, cpu.lr[0]), (0, 0));
}

#[test]
fn timer_survives_being_disabled_and_its_active_state_can_be_cleared() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    let sgi_frame = 0x1_0000;
    let _ = vgic.fire_hw(0, 27);
    pass(&mut vgic, 0, &mut cpu);
    write(&mut vgic, Frame::Redist(0), sgi_frame + 0x180, 1 << 27);
    write(&mut vgic, Frame::Redist(0), sgi_frame + 0x280, 1 << 27);
    pass(&mut vgic, 0, &mut cpu);
    assert!(cpu.used == 0 && vgic.hw_in_flight(0, 27) && !vgic.has_deliverable(0, &cpu));
    write(&mut vgic, Frame::Redist(0), sgi_frame + 0x100, 1 << 27);
    pass(&mut vgic, 0, &mut cpu);
    ack(&mut cpu, 0);
    let _ = vgic.sync(0, &mut cpu);
    write(&mut vgic, Frame::Redist(0), sgi_frame + 0x380, 1 << 27);
    let _ = vgic.flush(0, &mut cpu);
    assert!(cpu.used == 0 && !vgic.hw_in_flight(0, 27));
}

#[test]
fn timer_pended_by_hand_while_it_fires_is_one_interrupt() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    let pend = |vgic: &mut Vgic| write(vgic, Frame::Redist(0), 0x1_0200, 1 << 27);
    pend(&mut vgic);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & lr::HW, 0);
    ack(&mut cpu, 0);
    let _ = vgic.fire_hw(0, 27);
    pend(&mut vgic);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & (lr::STATE | lr::EOI), lr::ACTIVE | lr::EOI);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & (lr::STATE | lr::HW), lr::PENDING | lr::HW);
    ack(&mut cpu, 0);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!((cpu.used, vgic.hw_in_flight(0, 27)), (0, false));
}

#[test]
fn rerouted_interrupt_moves_when_its_holder_comes_by() {
    let (mut vgic, mut a, mut b) = (open(2, 4), interface(), interface());
    let _ = vgic.set_line(40, Level::High);
    pass(&mut vgic, 0, &mut a);
    assert_eq!(vgic.access(Frame::Dist, 0x6000 + 8 * 40, 8, Some(1)).1.0, 0b01, "the holder is asked");
    pass(&mut vgic, 1, &mut b);
    assert_eq!(b.used, 0, "never in two");
    assert_eq!(pass(&mut vgic, 0, &mut a), 0b10, "and hands it over");
    pass(&mut vgic, 1, &mut b);
    assert_eq!((a.used, b.lr[0] as u32), (0, 40));

    ack(&mut b, 0);
    pass(&mut vgic, 1, &mut b);
    let _ = vgic.access(Frame::Dist, 0x6000 + 8 * 40, 8, Some(0));
    pass(&mut vgic, 1, &mut b);
    assert_ne!(b.lr[0] & lr::EOI, 0, "being handled it stays, but its end matters");
    end(&mut b, 0);
    assert_eq!(pass(&mut vgic, 1, &mut b), 0b01);
}

#[test]
fn overflow_lists_the_most_urgent_and_comes_back() {
    let (mut vgic, mut cpu) = (open(1, 2), interface());
    for intid in 0..4u32 {
        let _ = vgic.sgi(0, u64::from(intid) << 24);
    }
    for intid in 0..4u64 {
        let _ = vgic.sgi(0, intid << 24 | 1);
    }
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!((cpu.used, cpu.hcr & hcr::NPIE), (0b11, hcr::NPIE));
    let before = cpu.clone();
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu, before, "stable among equals");
    // A newcomer of higher priority displaces one that only waits.
    let _ = vgic.access(Frame::Redist(0), 0x1_0400 + 9, 1, Some(0x20));
    let _ = vgic.sgi(0, 9 << 24 | 1);
    pass(&mut vgic, 0, &mut cpu);
    assert!(cpu.lr[..2].iter().any(|register| *register as u32 == 9));
    // Both handled: NPIE would never end, so their ends are asked for.
    for n in 0..2 {
        ack(&mut cpu, n);
    }
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.hcr & (hcr::NPIE | hcr::UIE), hcr::UIE);
    assert!(cpu.lr[..2].iter().all(|register| register & lr::EOI != 0));
    for _ in 0..3 {
        for n in 0..2 {
            end(&mut cpu, n);
        }
        pass(&mut vgic, 0, &mut cpu);
        for n in Bits(cpu.used.into()) {
            ack(&mut cpu, n as usize);
        }
        if cpu.used != 0b11 {
            break;
        }
    }
    assert_eq!((cpu.used, cpu.hcr & hcr::OVERFLOW), (1, 0));
}

#[test]
fn eois_without_a_list_register_end_what_was_left_out() {
    let (mut vgic, mut cpu) = (open(1, 2), interface());
    write(&mut vgic, Frame::Redist(0), 0x1_0300, 0b1111);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!((cpu.used, cpu.hcr & hcr::LRENPIE), (0b11, hcr::LRENPIE));
    cpu.hcr |= 1 << hcr::EOI_COUNT_SHIFT;
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x1_0300, 4).count_ones(), 3);
    cpu.hcr |= hcr::EOI_COUNT;
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.hcr, hcr::EN);
    assert_eq!(
        read(&mut vgic, Frame::Redist(0), 0x1_0300, 4).count_ones(),
        2,
        "the listed ones are the guest's"
    );
}

#[test]
fn vcpu_that_leaves_loses_nothing() {
    let (mut vgic, mut a, mut b) = (open(2, 4), interface(), interface());
    let _ = vgic.set_line(32, Level::High);
    let _ = vgic.sgi(1, 1);
    let _ = vgic.fire_hw(0, 27);
    pass(&mut vgic, 0, &mut a);
    assert_eq!(vgic.withdraw(0, &mut a), Kicks::NONE);
    assert_eq!((a.used, a.lr), (0, [0; 16]));
    assert_eq!(vgic.access(Frame::Dist, 0x6000 + 8 * 32, 4, Some(1)).1.0, 0b10);
    pass(&mut vgic, 1, &mut b);
    assert_eq!(b.lr[0] as u32, 32);
    pass(&mut vgic, 0, &mut a);
    assert_eq!(a.used.count_ones(), 2);
    assert!(vgic.hw_in_flight(0, 27));
}

#[test]
fn list_register_of_somebody_elses_interrupt_is_dropped() {
    let (mut vgic, mut a, mut b) = (open(2, 4), interface(), interface());
    let _ = vgic.set_line(32, Level::High);
    pass(&mut vgic, 0, &mut a);
    (b.lr[0], b.used) = (a.lr[0] & !lr::STATE, 1);
    pass(&mut vgic, 1, &mut b);
    assert_eq!((b.used, b.lr[0]), (0, 0));
    pass(&mut vgic, 0, &mut a);
    assert_eq!((a.used, a.lr[0] as u32), (1, 32), "its holder still has it");
}

#[test]
fn active_state_set_from_elsewhere_reaches_the_holder() {
    let (mut vgic, mut cpu) = (open(2, 4), interface());
    let _ = vgic.set_line(33, Level::High);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(write(&mut vgic, Frame::Dist, 0x304, 0b10), 0b01, "the holder is asked");
    // It takes and ends the interrupt before it comes by.
    ack(&mut cpu, 0);
    end(&mut cpu, 0);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(read(&mut vgic, Frame::Dist, 0x304, 4), 0b10);
    assert_eq!(cpu.lr[0] & lr::STATE, lr::ACTIVE, "so that its end is seen");
    assert_eq!(write(&mut vgic, Frame::Dist, 0x384, 0b10), 0b01);
    pass(&mut vgic, 0, &mut cpu);
    assert_eq!(cpu.lr[0] & lr::STATE, lr::PENDING, "the line is still high");
}

#[test]
fn wakes_only_for_what_the_interface_lets_through() {
    let (mut vgic, mut cpu) = (open(1, 4), interface());
    let _ = vgic.sgi(0, 1);
    for _ in 0..2 {
        assert!(vgic.has_deliverable(0, &cpu));
        cpu.vmcr = vmcr::VENG1 | 0xa0 << vmcr::VPMR_SHIFT;
        assert!(!vgic.has_deliverable(0, &cpu), "equal priority is masked");
        cpu.vmcr = vmcr::VENG0 | 0xf0 << vmcr::VPMR_SHIFT;
        assert!(!vgic.has_deliverable(0, &cpu), "other group");
        cpu.vmcr |= vmcr::VENG1;
        pass(&mut vgic, 0, &mut cpu);
    }
    ack(&mut cpu, 0);
    let _ = vgic.sync(0, &mut cpu);
    assert!(!vgic.has_deliverable(0, &cpu));
}

#[test]
fn identification_registers() {
    let mut vgic = Vgic::new(Config { vcpus: 18, spis: 960, list_registers: 4, priority_bits: 5 });
    assert_eq!(read(&mut vgic, Frame::Dist, 0x0, 4), 0x50, "ARE and DS");
    assert_eq!(read(&mut vgic, Frame::Dist, 0x4, 4), 30 | 9 << 19 | 1 << 25);
    assert_eq!(read(&mut vgic, Frame::Dist, 0xffe8, 4), 0x3b);
    assert_eq!(read(&mut vgic, Frame::Redist(3), 0xffe8, 4), 0x3b);
    assert_eq!(read(&mut vgic, Frame::Redist(16), 0x8, 8), 0x100 << 32 | 16 << 8);
    assert_eq!(read(&mut vgic, Frame::Redist(17), 0x8, 8), 0x101 << 32 | 17 << 8 | 1 << 4);
    assert_eq!(read(&mut vgic, Frame::Redist(17), 0xc, 4), 0x101);
    assert_eq!(read(&mut vgic, Frame::Redist(18), 0x8, 8), 0, "no such vCPU");
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x14, 4), 0b110);
    write(&mut vgic, Frame::Redist(0), 0x14, 0);
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x14, 4), 0);
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x1_0c00, 4), 0xaaaa_aaaa, "SGIs are edges");
    write(&mut vgic, Frame::Redist(0), 0x1_0c00, 0);
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x1_0c00, 4), 0xaaaa_aaaa);
    write(&mut vgic, Frame::Redist(0), 0x1_0c04, 0x0000_000b);
    assert_eq!(read(&mut vgic, Frame::Redist(0), 0x1_0c04, 4), 0xa);
}

#[test]
fn priorities_and_routes_keep_what_exists() {
    let mut vgic = Vgic::new(Config { vcpus: 4, spis: 64, list_registers: 4, priority_bits: 5 });
    write(&mut vgic, Frame::Dist, 0x420, 0xff07_8940);
    assert_eq!(read(&mut vgic, Frame::Dist, 0x420, 4), 0xf800_8840);
    let _ = vgic.access(Frame::Dist, 0x421, 1, Some(0x1234));
    assert_eq!(read(&mut vgic, Frame::Dist, 0x420, 4), 0xf800_3040);
    assert_eq!(read(&mut vgic, Frame::Dist, 0x423, 1), 0xf8);
    assert_eq!(read(&mut vgic, Frame::Dist, 0x420, 2), 0, "half words are not for this register");
    let router = 0x6000 + 8 * 95;
    let _ = vgic.access(Frame::Dist, router, 8, UP);
    assert_eq!(read(&mut vgic, Frame::Dist, router, 8), 0x80ff_ffff);
    write(&mut vgic, Frame::Dist, router, 3);
    write(&mut vgic, Frame::Dist, router + 4, 3);
    assert_eq!(read(&mut vgic, Frame::Dist, router, 8), 3);
    let _ = vgic.access(Frame::Dist, router + 8, 8, UP);
    assert_eq!(read(&mut vgic, Frame::Dist, router + 8, 8), 0, "beyond the last SPI");
    write(&mut vgic, Frame::Dist, 0x100, 0xffff_ffff);
    assert_eq!(read(&mut vgic, Frame::Dist, 0x100, 4), 0, "SGIs and PPIs are the redistributor's");
}

#[test]
fn one_of_n_goes_to_a_vcpu_that_is_awake() {
    let mut vgic = open(3, 4);
    write(&mut vgic, Frame::Redist(2), 0x14, 0);
    let _ = vgic.access(Frame::Dist, 0x6000 + 8 * 50, 8, Some(1 << 31));
    assert_eq!(vgic.set_line(50, Level::High).0, 0b100);
    assert_eq!(write(&mut vgic, Frame::Redist(1), 0x14, 0), 0b010);
}
