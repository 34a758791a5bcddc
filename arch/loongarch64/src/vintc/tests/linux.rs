//! What Linux's drivers do (irq-loongson-eiointc, irq-loongson-pch-pic, smp.c), as register accesses.

use alloc::vec;

use super::*;

/// A guest that does what Linux does, as far as the chips can tell.
struct Linux {
    vintc: Vintc,
    cpus: usize,
}

impl Linux {
    fn boot(cpus: usize) -> Self {
        let mut linux = Self { vintc: Vintc::new(cpus), cpus };
        linux.prepare_core(0);
        linux.reset_pch_pic();
        for cpu in 1..cpus {
            linux.start(cpu);
            linux.prepare_core(cpu);
        }
        linux
    }

    fn any_send(&mut self, at: u64, data: u64, kept: u64, cpu: usize) {
        store(&mut self.vintc, 0, 0x1158, 8, 1 << 31 | data << 32 | kept << 27 | (cpu as u64) << 16 | at);
    }

    fn prepare_core(&mut self, cpu: usize) {
        let vintc = &mut self.vintc;
        store(vintc, cpu, 0x1004, 4, 0xffff_ffff);
        if !cpu.is_multiple_of(4) {
            return;
        }
        let misc = load(vintc, cpu, 0x420, 8);
        store(vintc, cpu, 0x420, 8, misc | 1 << 48);
        for i in 0..8 {
            store(vintc, cpu, 0x14a0 + i * 4, 4, 1 << (i * 2 + 1) << 16 | 1 << (i * 2));
        }
        for i in 0..2 {
            store(vintc, cpu, 0x14c0 + i * 4, 4, 0x0202_0202);
        }
        for i in 0..64 {
            store(vintc, cpu, 0x1c00 + i * 4, 4, 0x0101_0101);
        }
        for i in 0..8 {
            store(vintc, cpu, 0x1600 + i * 4, 4, 0xffff_ffff);
            store(vintc, cpu, 0x1680 + i * 4, 4, 0xffff_ffff);
        }
    }

    fn reset_pch_pic(&mut self) {
        let vintc = &mut self.vintc;
        assert_eq!((pic_load(vintc, 4, 4) >> 16 & 0xff) + 1, PINS.into());
        for i in 0..64 {
            // Before an input has a vector, the driver's table says 255.
            pic_store(vintc, 0x200 + 255, 1, i);
            pic_store(vintc, 0x100 + i, 1, 1);
        }
        for i in 0..2 {
            pic_store(vintc, 0x20 + 4 * i, 4, 0xffff_ffff);
            pic_store(vintc, 0x80 + 4 * i, 4, 0xffff_ffff);
            pic_store(vintc, 0xc0 + 4 * i, 4, 0);
            pic_store(vintc, 0xe0 + 4 * i, 4, 0);
            pic_store(vintc, 0x40 + 4 * i, 4, 0xffff_ffff);
        }
    }

    fn start(&mut self, cpu: usize) {
        let entry = 0x9_2345_6000;
        let send = |vintc: &mut Vintc, at, width, value| {
            vintc.iocsr(0, IocsrAccess { at, width, store: Some(value) }, |at| at == entry).start
        };
        let to = 1 << 31 | (cpu as u64) << 16;
        assert_eq!(send(&mut self.vintc, 0x1048, 8, to | 1 << 2 | entry >> 32 << 32), None);
        assert_eq!(send(&mut self.vintc, 0x1048, 8, to | entry << 32), None);
        assert_eq!(send(&mut self.vintc, 0x1040, 4, to), Some(StartVcpu { vcpu: cpu, entry }));
        store(&mut self.vintc, cpu, 0x1020, 8, 0);
    }

    /// Allocates an interrupt for a level-triggered pin: returns its vector.
    fn request(&mut self, pin: u64, vector: u64) -> u64 {
        pic_store(&mut self.vintc, 0x200 + pin, 1, vector);
        for register in [0x60, 0x3e0] {
            let old = pic_load(&mut self.vintc, register, 4);
            pic_store(&mut self.vintc, register, 4, old & !(1 << pin));
        }
        self.unmask(pin);
        vector
    }

    fn mask(&mut self, pin: u64) {
        let old = pic_load(&mut self.vintc, 0x20, 4);
        pic_store(&mut self.vintc, 0x20, 4, old | 1 << pin);
    }

    fn unmask(&mut self, pin: u64) {
        pic_store(&mut self.vintc, 0x80, 4, 1 << pin);
        let old = pic_load(&mut self.vintc, 0x20, 4);
        pic_store(&mut self.vintc, 0x20, 4, old & !(1 << pin));
    }

    fn set_affinity(&mut self, vector: u64, cpu: usize) {
        let enable = 0x1600 + vector / 32 * 4;
        self.any_send(enable, !(1 << (vector % 32)) & 0xffff_ffff, 0, 0);
        let byte = vector % 4;
        for online in 0..self.cpus {
            let node = online / 4;
            let route = if node == 0 { cpu / 4 } else { node };
            let data = 1 << (cpu % 4) | (route as u64) << 4;
            self.any_send(0x1c00 + (vector & !3), data << (byte * 8), !(1 << byte) & 0xf, node * 4);
        }
        self.any_send(enable, 0xffff_ffff, 0, 0);
    }

    /// What the handler of the EIOINTC's line finds, and acknowledges.
    fn dispatch(&mut self, cpu: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for i in 0..4 {
            let pending = load(&mut self.vintc, cpu, 0x1800 + 8 * i, 8);
            if pending != 0 {
                store(&mut self.vintc, cpu, 0x1800 + 8 * i, 8, pending);
                found.extend(bits(pending).map(|bit| 64 * i + u64::from(bit)));
            }
        }
        found
    }
}

#[test]
fn a_level_triggered_device_is_served_as_often_as_it_asks() {
    let mut linux = Linux::boot(2);
    let vector = linux.request(2, 0);
    for asks_again in [false, true, true, false] {
        let _ = linux.vintc.set_line(2, Level::High);
        assert_eq!((linux.vintc.lines(0), linux.vintc.lines(1)), (HWI1, 0));
        let rounds = if asks_again { 3 } else { 1 };
        for round in 0..rounds {
            assert_eq!(linux.dispatch(0), [vector]);
            linux.mask(2);
            assert_eq!(linux.vintc.lines(0), 0, "quiet while it is handled");
            if round + 1 == rounds {
                let _ = linux.vintc.set_line(2, Level::Low);
            }
            linux.unmask(2);
        }
        assert_eq!((linux.dispatch(0), linux.vintc.lines(0)), (vec![], 0));
    }
}

#[test]
fn an_edge_triggered_device_loses_nothing_while_it_is_handled() {
    let mut linux = Linux::boot(1);
    let vector = linux.request(7, 1);
    pic_store(&mut linux.vintc, 0x60, 4, 1 << 7);
    linux.unmask(7);
    let _ = linux.vintc.set_line(7, Level::High);
    let _ = linux.vintc.set_line(7, Level::Low);
    assert_eq!(linux.dispatch(0), [vector]);
    // handle_edge_irq acknowledges first; what comes now comes again.
    pic_store(&mut linux.vintc, 0x80, 4, 1 << 7);
    let _ = linux.vintc.set_line(7, Level::High);
    assert_eq!(linux.dispatch(0), [vector]);
    pic_store(&mut linux.vintc, 0x80, 4, 1 << 7);
    assert_eq!(linux.vintc.lines(0), 0);
}

#[test]
fn interrupts_follow_their_affinity_over_nodes() {
    let mut linux = Linux::boot(8);
    let vectors = [linux.request(2, 0), linux.request(6, 1), 32, 255];
    for (round, cpu) in [5, 1, 4, 0, 7, 3].into_iter().enumerate() {
        for vector in vectors {
            linux.set_affinity(vector, cpu);
        }
        let _ = linux.vintc.set_line(2, Level::High);
        let _ = linux.vintc.set_line(6, Level::High);
        let _ = msi(&mut linux.vintc, 32);
        let _ = msi(&mut linux.vintc, 255);
        if round % 2 == 1 {
            // While they are pending they move along.
            vectors.iter().for_each(|vector| linux.set_affinity(*vector, 2));
        }
        let cpu = if round % 2 == 1 { 2 } else { cpu };
        let up: Vec<u64> = (0..8).map(|cpu| linux.vintc.lines(cpu)).collect();
        let expected: Vec<u64> = (0..8).map(|other| if other == cpu { HWI1 } else { 0 }).collect();
        assert_eq!(up, expected);
        assert_eq!(linux.dispatch(cpu), vectors);
        for pin in [2, 6] {
            linux.mask(pin);
            let _ = linux.vintc.set_line(pin as u32, Level::Low);
            linux.unmask(pin);
        }
        assert!((0..8).all(|cpu| linux.vintc.lines(cpu) == 0));
    }
}

#[test]
fn a_call_to_all_cores_reaches_all() {
    let mut linux = Linux::boot(4);
    for cpu in 0..4 {
        for action in [1, 2] {
            store(&mut linux.vintc, 0, 0x1040, 4, 1 << 31 | cpu << 16 | action);
        }
    }
    for cpu in 0..4 {
        assert_eq!(linux.vintc.lines(cpu), IS_IPI);
        let actions = load(&mut linux.vintc, cpu, 0x1000, 4);
        store(&mut linux.vintc, cpu, 0x100c, 4, actions);
        assert_eq!((actions, linux.vintc.lines(cpu)), (0b110, 0));
    }
}
