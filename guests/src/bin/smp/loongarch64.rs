//! What is LoongArch's own: mailboxes, IPIs by every register there is for them, LL/SC and AM locks.

use core::arch::asm;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use guests::arch::power::{mail, mail_half};
use guests::arch::{iocsr, power};
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::{cpu, ensure, irq, smp, timer};

use crate::{INCREMENTS, counted, increment, soon, taken, with_all_in};

/// What one vCPU can find out.
pub(crate) fn alone() {
    test("mailboxes", mailboxes);
    test("mail-to-self", mail_to_self);
    test("ipi-set-and-clear", set_and_clear);
    test("ipi-enables", enables);
    test("start-errors", start_errors);
    test("any-send-to-self", any_send);
    test("ipi-to-nobody", to_nobody);
}

/// What takes more than one.
pub(crate) fn with_others() {
    test("entry-state", entry_state);
    test("mail-to-each", mail_to_each);
    test("start-of-a-running-vcpu", start_of_running);
    test("spin-lock-with-ll-sc", spin_lock_llsc);
    test("spin-lock-with-amswap", spin_lock_amswap);
}

/// The halves of the four mailboxes.
fn mailboxes() -> Outcome {
    for mailbox in 0..4 {
        let at = iocsr::MAILBOX + mailbox * 8;
        let value = 0x8877_6655_4433_2211 ^ mailbox << 60;
        iocsr::write64(at, value);
        let found = iocsr::read64(at);
        ensure!(found == value, "mailbox {mailbox} holds {found:#x}, expected {value:#x}");
        let halves = [iocsr::read32(at), iocsr::read32(at + 4)].map(u64::from);
        ensure!(halves == [value & 0xffff_ffff, value >> 32], "mailbox {mailbox} has halves {halves:x?}");
        iocsr::write32(at + 4, 0);
        let found = iocsr::read64(at);
        ensure!(found == value & 0xffff_ffff, "mailbox {mailbox} holds {found:#x} without its high half");
        iocsr::write64(at, 0);
    }
    Ok(Done::Passed)
}

/// MAIL_SEND: whole, and with bytes that stay.
fn mail_to_self() -> Outcome {
    let me = machine().ids[0];
    for mailbox in 0..4 {
        let at = iocsr::MAILBOX + mailbox * 8;
        mail(0, mailbox, 0x0102_0304_0506_0708);
        let found = iocsr::read64(at);
        ensure!(found == 0x0102_0304_0506_0708, "mailbox {mailbox} holds {found:#x}");
        // Bytes 0 and 3 of the high half stay.
        mail_half(me, mailbox * 2 + 1, 0b1001, 0xaabb_ccdd);
        let found = iocsr::read64(at);
        ensure!(found == 0x01bb_cc04_0506_0708, "mailbox {mailbox} holds {found:#x} after bytes that stay");
        iocsr::write64(at, 0);
    }
    Ok(Done::Passed)
}

/// IPI_SET and IPI_CLEAR change IPI_STATUS; what was cleared is not taken.
fn set_and_clear() -> Outcome {
    let before = taken(0, 5) + taken(0, 9);
    let mask = cpu::mask_irq();
    iocsr::write32(iocsr::IPI_SET, 1 << 5 | 1 << 9);
    let status = iocsr::read32(iocsr::IPI_STATUS);
    iocsr::write32(iocsr::IPI_CLEAR, 1 << 5);
    let rest = iocsr::read32(iocsr::IPI_STATUS);
    cpu::restore_irq(mask);
    ensure!(status == 1 << 5 | 1 << 9, "IPI_STATUS is {status:#x}, expected 0x220");
    ensure!(rest == 1 << 9, "IPI_STATUS is {rest:#x} after IPI_CLEAR, expected 0x200");
    ensure!(soon(|| taken(0, 5) + taken(0, 9) == before + 1), "the other was not taken");
    Ok(Done::Passed)
}

/// What IPI_EN does not enable is not taken, stays pending, and comes at the latest with the next one.
fn enables() -> Outcome {
    let before = taken(0, 6);
    let shown = iocsr::read32(iocsr::IPI_EN);
    iocsr::write32(iocsr::IPI_EN, !(1 << 6));
    let hidden = iocsr::read32(iocsr::IPI_EN);
    irq::send(6, 0);
    timer::busy(timer::micros(1000));
    let early = taken(0, 6) - before;
    let status = iocsr::read32(iocsr::IPI_STATUS);
    iocsr::write32(iocsr::IPI_EN, u32::MAX);
    irq::send(6, 0);
    ensure!(shown == u32::MAX && hidden == !(1 << 6), "IPI_EN reads {shown:#x} and {hidden:#x}");
    ensure!(early == 0, "taken while disabled");
    ensure!(status == 1 << 6, "IPI_STATUS is {status:#x} while disabled, expected 0x40");
    ensure!(soon(|| taken(0, 6) > before), "not taken after it was enabled");
    Ok(Done::Passed)
}

fn start_errors() -> Outcome {
    let started = power::cpu_on(0);
    ensure!(started.is_err(), "the first vCPU could be started");
    for cpu in 1..smp::count() {
        ensure!(guests::power::is_off(cpu), "vCPU {cpu} runs before it was started");
    }
    Ok(Done::Passed)
}

/// ANY_SEND writes any register of a core: here a mailbox, and IPI_SET.
fn any_send() -> Outcome {
    let me = machine().ids[0];
    let send = |register: u64, keep: u64, data: u64| {
        iocsr::write64(iocsr::ANY_SEND, data << 32 | 1 << 31 | keep << 27 | me << 16 | register);
    };
    iocsr::write64(iocsr::MAILBOX + 16, 0x1111_1111_1111_1111);
    send(iocsr::MAILBOX + 16, 0, 0x2233_4455);
    send(iocsr::MAILBOX + 20, 0b0011, 0x6677_8899);
    let found = iocsr::read64(iocsr::MAILBOX + 16);
    ensure!(found == 0x6677_1111_2233_4455, "mailbox 2 holds {found:#x}");
    iocsr::write64(iocsr::MAILBOX + 16, 0);
    Ok(Done::Passed)
}

/// IPIs and mail for cores that are not there vanish.
fn to_nobody() -> Outcome {
    let before: u64 = (0..irq::IPIS).map(|ipi| taken(0, ipi)).sum();
    for core in [smp::count() as u64, 0xff, 0x1ff, 0x3ff] {
        guests::arch::chips::ipi_send(core, 3);
        mail_half(core, 0, 0, 0x200_0000);
    }
    let mailbox = iocsr::read64(iocsr::MAILBOX);
    timer::busy(timer::micros(1000));
    let after: u64 = (0..irq::IPIS).map(|ipi| taken(0, ipi)).sum();
    ensure!(mailbox == 0, "mail for nobody is in this vCPU's mailbox: {mailbox:#x}");
    ensure!(after == before, "{} IPIs for nobody were taken here", after - before);
    Ok(Done::Passed)
}

fn entry_state() -> Outcome {
    smp::on_all(|_| {});
    for cpu in 1..smp::count() {
        let [crmd, euen, ecfg] = smp::entry(cpu);
        ensure!(crmd & 0x1f == 1 << 3, "vCPU {cpu}: CRMD {crmd:#x}, expected DA, PLV 0, IE 0");
        ensure!(euen == 0, "vCPU {cpu}: EUEN {euen:#x}, expected everything off");
        ensure!(ecfg & 1 << 11 == 0, "vCPU {cpu}: ECFG {ecfg:#x}, expected the timer off");
    }
    Ok(Done::Passed)
}

/// Mailboxes are each vCPU's own: what one is sent, it finds, and nobody else.
fn mail_to_each() -> Outcome {
    static FOUND: [AtomicU64; guests::cpu::MAX_CPUS] = [const { AtomicU64::new(0) }; guests::cpu::MAX_CPUS];
    static SENT: AtomicBool = AtomicBool::new(false);
    SENT.store(false, Release);
    with_all_in(|| {
        for cpu in 1..smp::count() {
            mail(cpu, 3, 0xfeed_0000_0000 | cpu as u64);
        }
        Ok(Done::Passed)
    })?;
    smp::on_all(|me| FOUND[me].store(iocsr::read64(iocsr::MAILBOX + 24), Relaxed));
    for (cpu, found) in FOUND.iter().enumerate().take(smp::count()).skip(1) {
        let (found, expected) = (found.load(Relaxed), 0xfeed_0000_0000 | cpu as u64);
        ensure!(found == expected, "vCPU {cpu} found {found:#x}, expected {expected:#x}");
    }
    let mine = iocsr::read64(iocsr::MAILBOX + 24);
    ensure!(mine == 0, "{mine:#x} is in the mailbox of the sender");
    Ok(Done::Passed)
}

/// An entry in the mailbox of a vCPU that runs is mail, and the IPI with it an IPI.
fn start_of_running() -> Outcome {
    with_all_in(|| {
        let before = taken(1, power::BOOT);
        mail(1, 0, 0x30_0000);
        irq::send(power::BOOT, 1);
        ensure!(soon(|| taken(1, power::BOOT) == before + 1), "the IPI was not taken");
        ensure!(power::cpu_on(1).is_err(), "it could be started again");
        mail(1, 0, 0);
        Ok(Done::Passed)
    })
}

fn spin_lock_llsc() -> Outcome {
    static WORD: AtomicU32 = AtomicU32::new(0);
    counted(|_| {
        for _ in 0..INCREMENTS {
            // SAFETY: changes a static by the lock's protocol, and two scratch registers.
            unsafe {
                asm!("1: ll.w {old}, {at}, 0", "bnez {old}, 1b", "ori {new}, $zero, 1", "sc.w {new}, {at}, 0",
                    "beqz {new}, 1b", "dbar 0", old = out(reg) _, new = out(reg) _, at = in(reg) WORD.as_ptr(),
                    options(nostack));
            }
            increment();
            WORD.store(0, Release);
        }
    })
}

fn spin_lock_amswap() -> Outcome {
    static WORD: AtomicU32 = AtomicU32::new(0);
    counted(|_| {
        for _ in 0..INCREMENTS {
            // SAFETY: changes a static by the lock's protocol, and two scratch registers.
            unsafe {
                asm!("ori $t1, $zero, 1", "1: amswap_db.w $t0, $t1, {at}", "bnez $t0, 1b", at = in(reg) WORD.as_ptr(),
                    out("$t0") _, out("$t1") _, options(nostack));
            }
            increment();
            WORD.store(0, Release);
        }
        // So that the last one of all has been seen by everybody.
        let _ = WORD.load(Acquire);
    })
}
