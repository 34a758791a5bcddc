//! The ways of LoongArch64 to misbehave.

mod instructions;
mod tables;

use core::arch::asm;

use guests::arch::{chips, csr, iocsr, power};
use guests::report::{Done, Outcome, test};
use guests::rng::Rng;
use guests::start::machine;
use guests::trap::{catch, catch_branch};
use guests::{change_csr, cpu, ensure, irq, mmio, println, set_csr, smp, timer};

use crate::{Case, announce, bare, soon, taken};

/// What a guest survives.
pub(crate) const SURVIVED: [Case; 8] = [
    ("calls", instructions::calls),
    ("instructions", instructions::instructions),
    ("registers", registers),
    ("chips", chips_nonsense),
    ("ipi-flood", || test("ipi-flood", ipi_flood)),
    ("memory", || test("nothing-there", nothing_there)),
    ("page-tables", tables::page_tables),
    ("cpu-on-nowhere", || test("cpu-on-nowhere", cpu_on_nowhere)),
];

/// A vector of the EIOINTC that no device has.
const VECTOR: u32 = 70;
/// Its number.
pub(crate) const DEVICE: u32 = chips::VECTORS + VECTOR;

/// Makes [`DEVICE`] pending.
pub(crate) fn raise_device() {
    chips::route(VECTOR, 0);
    irq::enable(DEVICE);
    chips::message(VECTOR);
}

/// Makes this core take nothing.
pub(crate) fn silence() {
    set_csr!(csr::ECFG, 0);
}

/// Makes one line of RAM, in which no Rust object lives, outlast a reset: caches are coherent.
pub(crate) fn write_back(_: u64) {
    cpu::sync();
}

fn registers() {
    test("every-csr", every_csr);
    test("every-iocsr", every_iocsr);
}

/// Reads a CSR by its number, which is part of the instruction.
fn read_csr(number: u32) -> Option<u64> {
    let mut value = 0;
    // csrrd $a0, number (Vol.1, appendix B).
    let trap = instructions::execute(0x0400_0004 | number << 10, &mut value);
    trap.is_none().then_some(value)
}

/// Tells whether a CSR is one that a guest may have in hardware, and whose writes would tell in what follows.
fn matters(number: u32) -> bool {
    matches!(number, 0..=0xc | 0x10..=0x13 | 0x18..=0x23 | 0x30..=0x3f | 0x40..=0x44 | 0x60 | 0x88..=0x8f | 0x180..=0x183)
}

/// Reads all 16384 CSRs, and writes ones and zeros to those that are nobody's.
fn every_csr() -> Outcome {
    let (mut readable, mut nonzero, mut refused, mut kept) = (0, 0, 0, 0);
    for number in 0..1 << 14 {
        match read_csr(number) {
            Some(value) => {
                readable += 1;
                nonzero += u32::from(value != 0);
            }
            None => refused += 1,
        }
        // Without a hypervisor, debug registers would be written in earnest.
        if matters(number) || bare() {
            continue;
        }
        for ones in [u64::MAX, 0x5a5a_5a5a_5a5a_5a5a, 0] {
            let mut value = ones;
            // csrwr $a0, number.
            if instructions::execute(0x0400_0024 | number << 10, &mut value).is_none() {
                kept += u32::from(ones != 0 && read_csr(number) == Some(ones));
            }
        }
    }
    println!("bad: {readable} CSRs read, {nonzero} not zero, {refused} refused, {kept} writes kept");
    ensure!(readable + refused == 1 << 14 && readable > 60, "only {readable} CSRs can be read");
    // No CSR that guests do not have may be refused: it reads as zero (Vol.1, 4.2.1).
    ensure!(refused == 0, "{refused} CSRs are refused");
    Ok(Done::Passed)
}

/// Reads IOCSRs in every width, and writes ones, zeros and noise: whatever that does to the chips.
fn every_iocsr() -> Outcome {
    let mask = cpu::mask_irq();
    let mut rng = Rng::new(6);
    // Plain QEMU stops at what it does not know of the chip's own registers.
    let first = if bare() { 0x1000 } else { 0 };
    let outcome = try_iocsrs((first..0x2000).chain((0..2000).map(|_| rng.draw() | first)));
    chips_anew();
    cpu::restore_irq(mask);
    outcome
}

fn try_iocsrs(addresses: impl Iterator<Item = u64>) -> Outcome {
    for address in addresses {
        // Without a hypervisor, only what is there is asked for, and nothing is written.
        let trap = catch(|| {
            iocsr::read32(address & !3);
            if !bare() {
                iocsr::read8(address);
                iocsr::read16(address);
                iocsr::read64(address);
                for value in [u64::MAX, 0, 0x5a5a_5a5a_5a5a_5a5a] {
                    iocsr::write8(address, value as u8);
                    iocsr::write16(address, value as u16);
                    iocsr::write32(address, value as u32);
                    iocsr::write64(address, value);
                }
            }
        });
        ensure!(trap.is_none(), "address {address:#x}: {trap:x?}");
    }
    Ok(Done::Passed)
}

/// Sets the chips up as at the start, with nothing pending.
fn chips_anew() {
    iocsr::write32(iocsr::IPI_CLEAR, u32::MAX);
    for word in 0..8 {
        iocsr::write32(iocsr::EIO_ENABLE + word * 4, u32::MAX);
        iocsr::write32(iocsr::EIO_ISR + word * 4, u32::MAX);
    }
    for mailbox in 0..4 {
        iocsr::write64(iocsr::MAILBOX + mailbox * 8, 0);
    }
    chips::reset();
}

fn chips_nonsense() {
    test("reserved-pch-pic-registers", || with_chips(pch_pic_registers));
    test("messages-without-meaning", || with_chips(messages));
    test("routes-without-meaning", || with_chips(routes));
    test("route-to-nobody", route_to_nobody);
}

/// Runs something with interrupts masked, and sets the chips up anew.
fn with_chips(body: fn() -> Outcome) -> Outcome {
    let mask = cpu::mask_irq();
    let outcome = body();
    chips_anew();
    cpu::restore_irq(mask);
    outcome
}

/// Writes ones and zeros everywhere in the PCH-PIC's page with every size.
fn pch_pic_registers() -> Outcome {
    let pic = machine().chips.pic;
    for offset in 0..0x1000 {
        // Plain QEMU refuses sizes and gaps, and so may an emulated one.
        let fault = catch(|| {
            for value in [u64::MAX, 0, 0x5a5a_5a5a_5a5a_5a5a] {
                mmio::write8(pic + offset, value as u8);
                mmio::read8(pic + offset);
                if offset % 4 == 0 {
                    mmio::write32(pic + offset, value as u32);
                    mmio::write16(pic + offset + 2, value as u16);
                    mmio::read32(pic + offset);
                }
                if offset % 8 == 0 {
                    mmio::write64(pic + offset, value);
                    mmio::read64(pic + offset);
                }
            }
        });
        ensure!(fault.is_none_or(|fault| fault.is_access_error()), "offset {offset:#x}: {fault:x?}");
    }
    Ok(Done::Passed)
}

/// Sends every vector there may be, in every size, and reads what cannot be read.
fn messages() -> Outcome {
    let chips::Chips { msi, msi_first, .. } = machine().chips;
    // Plain QEMU stops at a vector below the first.
    let first = if bare() { msi_first } else { 0 };
    let fault = catch(|| {
        for vector in first..256 {
            mmio::write32(msi, vector);
        }
        mmio::read32(msi);
        if !bare() {
            mmio::write64(msi, u64::MAX);
            mmio::write8(msi + 3, 0xff);
            mmio::write32(msi + 4, 0xff);
            (0..16).for_each(|bit| mmio::write32(msi, 1 << bit));
        }
    });
    ensure!(fault.is_none(), "{fault:x?}");
    Ok(Done::Passed)
}

/// Gives every register of the EIOINTC values that mean no core, no node and no line, and lets vectors arrive meanwhile.
fn routes() -> Outcome {
    let mut rng = Rng::new(7);
    for _ in 0..300 {
        let register = match rng.below(5) {
            0 => iocsr::EIO_NODEMAP + rng.below(4) * 4,
            // Plain QEMU leaves a line up for ever that changes while it is.
            1 if !bare() => iocsr::EIO_IPMAP + rng.below(2) * 4,
            2 => iocsr::EIO_ENABLE + rng.below(8) * 4,
            3 => iocsr::EIO_BOUNCE + rng.below(8) * 4,
            _ => iocsr::EIO_COREMAP + rng.below(64) * 4,
        };
        iocsr::write32(register, rng.draw() as u32);
        chips::message(64 + rng.below(128) as u32);
    }
    Ok(Done::Passed)
}

/// A message routed to a core that is not there comes when it is routed to one that is.
fn route_to_nobody() -> Outcome {
    if bare() {
        return Ok(Done::Skipped("plain QEMU leaves the route as it was"));
    }
    let vector = VECTOR + 1;
    let number = chips::VECTORS + vector;
    let register = iocsr::EIO_COREMAP + u64::from(vector & !3);
    let here = iocsr::read32(register);
    // Node 15, core 3.
    iocsr::write32(register, 0xf8f8_f8f8);
    irq::enable(number);
    let before = taken(0, number);
    chips::message(vector);
    timer::busy(timer::micros(2000));
    let early = taken(0, number) - before;
    iocsr::write32(register, here);
    let late = soon(|| taken(0, number) == before + 1);
    irq::disable(number);
    // A node that its map does not name is node 0, so it may have come here.
    ensure!(early <= 1 && (late || early == 1), "lost");
    Ok(Done::Passed)
}

/// IPIs by the thousand to everybody, to nobody, and to oneself with interrupts masked, where they merge.
fn ipi_flood() -> Outcome {
    let mut rng = Rng::new(3);
    for _ in 0..5000 {
        // Action 0 would start a vCPU that has an address in its mailbox; nobody has.
        iocsr::write32(iocsr::IPI_SEND, rng.draw() as u32);
        iocsr::write64(iocsr::MAIL_SEND, rng.draw() & !0x3ff_0000 | 0x3ff_0000);
    }
    timer::busy(timer::micros(1000));
    let mask = cpu::mask_irq();
    let before: [u32; 32] = core::array::from_fn(|ipi| taken(0, ipi as u32));
    for _ in 0..200 {
        (0..irq::IPIS).for_each(|ipi| irq::send(ipi, 0));
    }
    cpu::restore_irq(mask);
    timer::busy(timer::micros(5000));
    for (ipi, before) in before.into_iter().enumerate() {
        let count = taken(0, ipi as u32) - before;
        ensure!(count == 1, "IPI {ipi}, sent 200 times while masked, was taken {count} times");
    }
    Ok(Done::Passed)
}

fn nothing_there() -> Outcome {
    let mut rng = Rng::new(4);
    for _ in 0..2000 {
        // Between the devices of virt-like machines, or beyond all memory.
        let base = [0x3000_0000, 0x7000_0000_0000][rng.below(2) as usize];
        let address = base + (rng.below(0x0f00_0000) & !7);
        let read = catch(|| {
            mmio::read64(address);
        });
        let write = catch(|| mmio::write32(address, 1));
        for trap in [read, write] {
            ensure!(trap.is_some_and(|trap| trap.is_access_error()), "{address:#x}: {trap:x?}");
        }
        // SAFETY: the fetch fails, and `catch_branch` returns to the instruction after JIRL.
        let fetch = catch_branch(|| unsafe {
            asm!("jirl $ra, {0}, 0", in(reg) mmio::UNCACHED | address, out("$ra") _, options(nostack));
        });
        ensure!(fetch.is_some_and(|trap| trap.is_fetch_error()), "fetch at {address:#x}: {fetch:x?}");
    }
    Ok(Done::Passed)
}

/// A vCPU that is sent to where nothing is waits on, or gets nowhere; the others do not notice, and it can be started.
fn cpu_on_nowhere() -> Outcome {
    if smp::count() < 2 || bare() {
        return Ok(Done::Skipped("one vCPU, or one that plain QEMU would send there"));
    }
    for nowhere in [0x3000_0000, 0xffff_ffff_ffff_fffc, 0x2ff0_0000, 0x7fff_ffff_ffff] {
        power::mail(1, 0, nowhere);
        irq::send(power::BOOT, 1);
    }
    timer::sleep(timer::micros(5000));
    let started = smp::start(1, |_| {});
    ensure!(started.is_ok(), "vCPU 1: {started:?}");
    smp::join(1);
    Ok(Done::Passed)
}

pub(crate) fn vectors() {
    announce("an exception with vectors where nothing is");
    cpu::mask_irq();
    set_csr!(csr::EENTRY, mmio::UNCACHED | 0x3000_0000);
    // SAFETY: BREAK raises the exception that is wanted; nothing after it runs.
    unsafe { asm!("break 0", options(nostack)) };
}

/// Turns the page out from under itself: what is fetched next is in no window, and the tables for it are nowhere.
pub(crate) fn tables() {
    announce("translation tables where nothing is");
    cpu::mask_irq();
    set_csr!(csr::PGDL, 0x3000_0000);
    set_csr!(csr::PGDH, 0x3000_0000);
    set_csr!(csr::EENTRY, 0x4000_0000);
    change_csr!(csr::DMW0 + 1, 0xf, 0);
}
