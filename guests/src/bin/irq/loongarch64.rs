//! The lines of a core, the EIOINTC, the PCH-PIC and its messages.
//!
//! Interrupts are made by writing to the MSI window, whose vectors no device of a virt-like machine uses here, and by the
//! UART, whose transmitter is always ready and asks for attention as long as its enable is set (16550: IER bit 1; reading
//! IIR is an answer). `bare=1` leaves out what plain QEMU cannot do.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::arch::chips::{self, LINES, VECTORS};
use guests::arch::{csr, iocsr};
use guests::mmio::{read8, read32, write8, write32};
use guests::report::{Done, Outcome, Why, test};
use guests::start::machine;
use guests::{args, change_csr, cpu, csr, ensure, irq, timer};

use crate::{a_while, entry, forget, log, logged, soon, with_peer};

/// The first of the vectors used here.
const FIRST: u32 = 64;
/// How many are used.
const MANY: u32 = 40;
/// The vector of the UART.
const UART: u32 = 2;

const IER: u64 = 1;
const IIR: u64 = 2;
/// IER: the transmitter wants attention when it is empty.
const ETBEI: u8 = 1 << 1;

/// HWI1, which the EIOINTC drives, in ESTAT.IS.
const HWI1: u64 = 1 << 3;

pub(crate) fn main() {
    run("identification", identification);
    run("ipi-register-to-any-register", ipi_to_any);
    run("eiointc-registers", eiointc_registers);
    run("pch-pic-registers", pch_pic_registers);
    run("each-message-is-taken", each_message);
    run("taken-once", taken_once);
    run("messages-merge", messages_merge);
    run("many-pending", many_pending);
    run("disabled-stays-pending", disabled);
    run("disabled-while-pending", disabled_while_pending);
    run("cleared-before-it-is-taken", cleared);
    run("masked-in-ecfg", masked_in_ecfg);
    run("wakes-from-sleep", wakes);
    run("lines-by-ipmap", lines_by_ipmap);
    run("software-interrupts", software_interrupts);
    run("level-follows-its-line", level_line);
    run("level-withdrawn", level_withdrawn);
    run("masked-in-the-pch-pic", masked_in_pch_pic);
    run("edge-is-latched", edge);
    run("vector-of-an-input", vector_of_input);
    run("routing", routing);
    run("rerouting-while-pending", rerouting);
}

/// Runs a test on chips at rest, whatever the one before left behind.
fn run(name: &str, body: impl FnOnce() -> Outcome) {
    cpu::mask_irq();
    rest();
    cpu::unmask_irq();
    test(name, body);
    let _ = cpu::mask_irq();
    rest();
    cpu::unmask_irq();
}

/// Reads a register of the IPI into each general register, but sp, and writes it from each; none changes by a read into
/// another.
fn ipi_to_any() -> Outcome {
    const BEFORE: u32 = 0x8765_4321;
    let enabled = iocsr::read32(iocsr::IPI_EN);
    let masked = cpu::mask_irq();
    let (mut wrong, mut neighbours): (u64, u64) = (0, 0);
    iocsr::write32(iocsr::IPI_EN, BEFORE);
    // SAFETY: each register is given back the value it had, but those that are named; with interrupts masked nobody sees
    // what it holds between. The register of the IPI is put back below.
    unsafe {
        core::arch::asm!(
            ".irp n, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "move $r13, $r\\n",
            "iocsrrd.w $r\\n, $r12",
            "xor $r16, $r\\n, $r14",
            "nor $r\\n, $r\\n, $zero",
            "iocsrwr.w $r\\n, $r12",
            "move $r\\n, $r13",
            "iocsrrd.w $r17, $r12",
            "iocsrwr.w $r14, $r12",
            "nor $r17, $r17, $zero",
            "xor $r17, $r17, $r14",
            "or $r16, $r16, $r17",
            "sltu $r16, $zero, $r16",
            "add.d $r15, $r15, $r16",
            ".endr",
            // Reads into one of them leave the others alone.
            ".irp n, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "move $r13, $r\\n",
            "nor $r16, $r13, $zero",
            "move $r\\n, $r16",
            "iocsrrd.w $r17, $r12",
            "xor $r16, $r\\n, $r16",
            "move $r\\n, $r13",
            "sltu $r16, $zero, $r16",
            "add.d $r18, $r18, $r16",
            ".endr",
            inout("$r18") neighbours,
            in("$r12") iocsr::IPI_EN,
            out("$r13") _,
            in("$r14") i64::from(BEFORE as i32),
            inout("$r15") wrong,
            out("$r16") _,
            out("$r17") _,
            options(nostack),
        );
    }
    iocsr::write32(iocsr::IPI_EN, enabled);
    cpu::restore_irq(masked);
    ensure!(wrong == 0, "{wrong} general registers did not get or give the value");
    ensure!(neighbours == 0, "{neighbours} general registers changed by a read into another");
    Ok(Done::Passed)
}

fn rest() {
    let (pic, uart) = (machine().chips.pic, machine().uart);
    write32(pic + chips::PIC_MASK, u32::MAX);
    write32(pic + chips::PIC_EDGE, 0);
    write8(uart + IER, 0);
    read8(uart + IIR);
    write8(pic + chips::PIC_VECTOR + u64::from(input()), UART as u8);
    for half in 0..2 {
        write_iocsr(iocsr::EIO_IPMAP + half * 4, 0x0202_0202);
    }
    for word in 0..8 {
        write_iocsr(iocsr::EIO_ENABLE + word * 4, 0);
        write_iocsr(iocsr::EIO_ISR + word * 4, u32::MAX);
    }
    for quad in 0..64 {
        write_iocsr(iocsr::EIO_COREMAP + quad * 4, 0x0101_0101);
    }
}

fn write_iocsr(address: u64, value: u32) {
    iocsr::write32(address, value);
}

fn input() -> u32 {
    machine().chips.uart_input
}

/// Starts a test: logs interrupts, forgets earlier ones, enables the vectors given.
fn begin(vectors: impl IntoIterator<Item = u32>) {
    forget();
    vectors.into_iter().for_each(|vector| irq::enable(VECTORS + vector));
}

/// Each test takes vectors of its own: plain QEMU remembers a message for ever, and brings it again when it is enabled.
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(FIRST + MANY);
    NEXT.fetch_add(1, Relaxed)
}

/// Checks that an interrupt is the next one.
fn next_is(count: usize, vector: u32) -> Result<(), Why> {
    ensure!(soon(|| logged() > count), "vector {vector}: nothing came");
    let found = entry(count) & 0xffff;
    ensure!(found == VECTORS + vector, "vector {vector} came as {found}");
    Ok(())
}

fn identification() -> Outcome {
    let features = iocsr::read32(iocsr::FEATURES);
    ensure!(features & 0x1c == 0x1c, "FEATURES {features:#x}: MSI, EXTIOI and CSRIPI are expected");
    let vendor = iocsr::read64(iocsr::VENDOR).to_le_bytes();
    ensure!(&vendor == b"Loongson", "VENDOR {vendor:x?}");
    ensure!(iocsr::read64(iocsr::CPUNAME) != 0, "CPUNAME is empty");
    let pic = machine().chips.pic;
    let (id, last) = (read32(pic) >> 24, read32(pic + 4) >> 16 & 0xff);
    ensure!(id == 7, "the PCH-PIC's identifier is {id}");
    ensure!(last >= 31, "the PCH-PIC's last input is {last}");
    Ok(Done::Passed)
}

fn keeps(name: &str, address: u64, value: u32) -> Result<(), Why> {
    let before = iocsr::read32(address);
    iocsr::write32(address, value);
    let found = iocsr::read32(address);
    iocsr::write32(address, before);
    ensure!(found == value, "{name} keeps {found:#x} of {value:#x}");
    Ok(())
}

fn eiointc_registers() -> Outcome {
    for word in 0..8 {
        keeps("ENABLE", iocsr::EIO_ENABLE + word * 4, 0x8000_0001 << word)?;
        keeps("BOUNCE", iocsr::EIO_BOUNCE + word * 4, 0x4000_0003 << word)?;
        keeps("NODEMAP", iocsr::EIO_NODEMAP + word * 4, 0x0002_0001)?;
    }
    for half in 0..2 {
        keeps("IPMAP", iocsr::EIO_IPMAP + half * 4, 0x0804_0201)?;
    }
    for quad in 0..64 {
        keeps("COREMAP", iocsr::EIO_COREMAP + quad * 4, 0x0201_0102)?;
    }
    iocsr::write64(iocsr::EIO_ENABLE, 0x1111_2222_3333_4444);
    let halves = [iocsr::read32(iocsr::EIO_ENABLE), iocsr::read32(iocsr::EIO_ENABLE + 4)];
    ensure!(halves == [0x3333_4444, 0x1111_2222], "ENABLE written as 64 bits reads as {halves:x?}");
    Ok(Done::Passed)
}

fn pch_pic_registers() -> Outcome {
    let pic = machine().chips.pic;
    for (name, register) in
        [("MASK", chips::PIC_MASK), ("HTMSI_EN", chips::PIC_HTMSI_EN), ("EDGE", chips::PIC_EDGE)]
    {
        let before = read32(pic + register);
        // Inputs that a device may drive stay masked.
        write32(pic + register, 0xf0f0_ffff);
        let found = read32(pic + register);
        write32(pic + register, before);
        ensure!(found == 0xf0f0_ffff, "{name} keeps {found:#x}");
    }
    for (name, register) in [("ROUTE", chips::PIC_ROUTE), ("VECTOR", chips::PIC_VECTOR)] {
        for number in 0..32 {
            let before = read8(pic + register + number);
            write8(pic + register + number, 0xa0 + number as u8);
            let found = read8(pic + register + number);
            write8(pic + register + number, before);
            ensure!(found == 0xa0 + number as u8, "{name} of input {number} keeps {found:#x}");
        }
    }
    Ok(Done::Passed)
}

fn each_message() -> Outcome {
    begin(FIRST..FIRST + MANY);
    for (count, vector) in (FIRST..FIRST + MANY).enumerate() {
        chips::message(vector);
        next_is(count, vector)?;
        let word = iocsr::read32(iocsr::EIO_ISR + u64::from(vector / 32 * 4));
        ensure!(word == 0, "vector {vector}: ISR is {word:#x} after it was cleared");
    }
    Ok(Done::Passed)
}

fn taken_once() -> Outcome {
    let vector = fresh();
    begin([vector]);
    for count in 1..=3 {
        chips::message(vector);
        a_while();
        ensure!(logged() == count, "{} interrupts for {count} messages", logged());
    }
    Ok(Done::Passed)
}

fn messages_merge() -> Outcome {
    let vector = fresh();
    begin([vector]);
    let mask = cpu::mask_irq();
    (0..5).for_each(|_| chips::message(vector));
    cpu::restore_irq(mask);
    a_while();
    ensure!(logged() == 1, "{} interrupts for five messages while masked", logged());
    Ok(Done::Passed)
}

/// Everything that was sent while interrupts were masked comes once, in any order.
fn many_pending() -> Outcome {
    begin(FIRST..FIRST + MANY);
    for _ in 0..5 {
        forget();
        let mask = cpu::mask_irq();
        (FIRST..FIRST + MANY).for_each(chips::message);
        cpu::restore_irq(mask);
        let all = soon(|| logged() == MANY as usize);
        a_while();
        ensure!(all && logged() == MANY as usize, "{} of {MANY} were taken", logged());
        let seen =
            (0..MANY as usize).fold(0_u64, |seen, at| seen | 1 << ((entry(at) & 0xffff) - VECTORS - FIRST));
        ensure!(seen == (1 << MANY) - 1, "some were taken twice: {seen:#x}");
    }
    Ok(Done::Passed)
}

fn disabled() -> Outcome {
    let vector = fresh();
    begin([]);
    chips::message(vector);
    a_while();
    ensure!(logged() == 0, "taken while disabled");
    irq::enable(VECTORS + vector);
    next_is(0, vector)?;
    a_while();
    ensure!(logged() == 1, "{} interrupts for one message", logged());
    Ok(Done::Passed)
}

fn disabled_while_pending() -> Outcome {
    let vector = fresh();
    begin([vector]);
    let mask = cpu::mask_irq();
    chips::message(vector);
    timer::busy(timer::micros(100));
    let seen = csr!(csr::ESTAT) & HWI1 != 0;
    irq::disable(VECTORS + vector);
    let gone = soon(|| csr!(csr::ESTAT) & HWI1 == 0);
    cpu::restore_irq(mask);
    a_while();
    ensure!(seen, "ESTAT did not show HWI1");
    ensure!(gone, "ESTAT shows HWI1 after the vector was disabled");
    ensure!(logged() == 0, "taken after it was disabled");
    irq::enable(VECTORS + vector);
    next_is(0, vector).map(|()| Done::Passed)
}

/// A bit written to ISR before the interrupt is taken takes it back.
fn cleared() -> Outcome {
    let vector = fresh();
    begin([vector]);
    let mask = cpu::mask_irq();
    chips::message(vector);
    timer::busy(timer::micros(100));
    let register = iocsr::EIO_ISR + u64::from(vector / 32 * 4);
    let pending = iocsr::read32(register);
    iocsr::write32(register, 1 << (vector % 32));
    let gone = soon(|| csr!(csr::ESTAT) & HWI1 == 0);
    cpu::restore_irq(mask);
    a_while();
    ensure!(pending == 1 << (vector % 32), "ISR is {pending:#x}");
    ensure!(gone && logged() == 0, "{} interrupts, ESTAT clear: {gone}", logged());
    Ok(Done::Passed)
}

fn masked_in_ecfg() -> Outcome {
    let vector = fresh();
    begin([vector]);
    let before = change_csr!(csr::ECFG, HWI1, 0);
    chips::message(vector);
    a_while();
    let (early, shown) = (logged(), csr!(csr::ESTAT) & HWI1 != 0);
    change_csr!(csr::ECFG, HWI1, before);
    ensure!(early == 0, "taken with ECFG.LIE clear");
    ensure!(shown, "ESTAT did not show HWI1");
    next_is(0, vector).map(|()| Done::Passed)
}

/// IDLE with interrupts masked ends all the same.
fn wakes() -> Outcome {
    for _ in 0..10 {
        let vector = fresh();
        begin([vector]);
        let mask = cpu::mask_irq();
        chips::message(vector);
        while csr!(csr::ESTAT) & HWI1 == 0 {
            cpu::idle();
        }
        let early = logged();
        cpu::restore_irq(mask);
        ensure!(early == 0, "taken while masked");
        next_is(0, vector)?;
    }
    Ok(Done::Passed)
}

/// Which line a group of 32 vectors drives is IPMAP's to say.
fn lines_by_ipmap() -> Outcome {
    let vector = 160 + fresh() % 32;
    for line in 0..4 {
        begin([]);
        let register = iocsr::EIO_IPMAP + u64::from(vector / 32 & !3);
        let shift = vector / 32 % 4 * 8;
        iocsr::write32(register, 0x0202_0202 & !(0xff << shift) | 1 << line << shift);
        irq::enable(VECTORS + vector);
        let mask = cpu::mask_irq();
        chips::message(vector);
        let shown = soon(|| csr!(csr::ESTAT) & 0xff << 2 != 0);
        let found = csr!(csr::ESTAT) & 0xff << 2;
        cpu::restore_irq(mask);
        ensure!(
            shown && found == 4 << line,
            "line {line}: ESTAT.IS is {found:#x}, expected {:#x}",
            4 << line
        );
        next_is(0, vector)?;
        ensure!(soon(|| csr!(csr::ESTAT) & 0xff << 2 == 0), "line {line} stays up");
    }
    Ok(Done::Passed)
}

/// The two that software raises by writing ESTAT.
fn software_interrupts() -> Outcome {
    if args::flag("bare") {
        return Ok(Done::Skipped("plain QEMU does not look at what software writes to ESTAT"));
    }
    for line in 0..2 {
        begin([]);
        irq::disable(LINES + line);
        change_csr!(csr::ESTAT, 1 << line, 1 << line);
        timer::busy(timer::micros(500));
        let (early, shown) = (logged(), csr!(csr::ESTAT) & 0b11);
        irq::enable(LINES + line);
        let taken = soon(|| logged() == 1);
        irq::disable(LINES + line);
        ensure!(early == 0, "SWI{line} was taken while disabled");
        ensure!(shown == 1 << line, "ESTAT.IS is {shown:#x}, expected {:#x}", 1 << line);
        ensure!(taken && entry(0) == LINES + line, "SWI{line} came as {} ({} in all)", entry(0), logged());
        a_while();
        ensure!(logged() == 1, "SWI{line} was taken {} times", logged());
    }
    Ok(Done::Passed)
}

/// Makes the UART's input ask for attention, or not.
fn set_line(up: u8) {
    let uart = machine().uart;
    write8(uart + IER, up);
    if up == 0 {
        read8(uart + IIR);
    }
}

/// Masks or unmasks the UART's input; all others stay masked.
fn set_masked(bits: u32) {
    write32(machine().chips.pic + chips::PIC_MASK, !(1 << input()) | bits);
}

/// The UART's transmit interrupt is a level: masked and unmasked it comes again for as long as it is up.
fn level_line() -> Outcome {
    const TIMES: usize = 4;
    begin([UART]);
    irq::on_interrupt(|number| {
        // As kernels do with a level: mask, handle, unmask. The device is answered the last time only.
        set_masked(u32::MAX);
        log(number);
        if logged() == TIMES {
            set_line(0);
        }
        set_masked(0);
    });
    set_masked(0);
    a_while();
    let before = logged();
    set_line(ETBEI);
    let all = soon(|| logged() == TIMES);
    a_while();
    let count = logged();
    ensure!(before == 0, "{before} interrupts with IER 0");
    ensure!(all && count == TIMES, "{count} interrupts, expected {TIMES}: as many as it was left up for");
    let strangers = (0..TIMES).filter(|&at| entry(at) != VECTORS + UART).count();
    ensure!(strangers == 0, "{strangers} were not the UART's vector");
    Ok(Done::Passed)
}

/// A level that goes down before it is taken is not taken.
fn level_withdrawn() -> Outcome {
    begin([UART]);
    set_masked(0);
    let mask = cpu::mask_irq();
    set_line(ETBEI);
    let shown = soon(|| csr!(csr::ESTAT) & HWI1 != 0);
    set_line(0);
    // A hypervisor may notice late that a line went down, but not after it was asked what is pending.
    let isr = iocsr::read32(iocsr::EIO_ISR);
    let gone = soon(|| csr!(csr::ESTAT) & HWI1 == 0);
    cpu::restore_irq(mask);
    a_while();
    ensure!(shown, "ESTAT did not show HWI1");
    ensure!(isr == 0, "ISR is {isr:#x} after the line went down");
    ensure!(gone && logged() == 0, "{} interrupts after the line went down, ESTAT clear: {gone}", logged());
    Ok(Done::Passed)
}

fn masked_in_pch_pic() -> Outcome {
    begin([UART]);
    irq::on_interrupt(|number| {
        set_masked(u32::MAX);
        log(number);
    });
    set_line(ETBEI);
    a_while();
    let early = logged();
    set_masked(0);
    let late = soon(|| logged() == 1);
    a_while();
    let count = logged();
    set_line(0);
    ensure!(early == 0, "taken while masked");
    ensure!(late && count == 1, "{count} interrupts after it was unmasked, expected 1");
    Ok(Done::Passed)
}

/// An edge comes once, however long the line stays up, and again after it was cleared and rose anew.
fn edge() -> Outcome {
    let pic = machine().chips.pic;
    begin([UART]);
    write32(pic + chips::PIC_EDGE, 1 << input());
    set_masked(0);
    for count in 1..=3 {
        set_line(ETBEI);
        ensure!(soon(|| logged() == count), "edge {count} did not come");
        a_while();
        ensure!(logged() == count, "{} interrupts for {count} edges", logged());
        write32(pic + chips::PIC_CLEAR, 1 << input());
        set_line(0);
        a_while();
        ensure!(logged() == count, "{} interrupts after edge {count} fell", logged());
    }
    Ok(Done::Passed)
}

/// An input has the vector that its register says.
fn vector_of_input() -> Outcome {
    let register = machine().chips.pic + chips::PIC_VECTOR + u64::from(input());
    for vector in [UART, 17, 31] {
        begin([vector]);
        irq::on_interrupt(|number| {
            set_line(0);
            log(number);
        });
        write8(register, vector as u8);
        set_masked(0);
        set_line(ETBEI);
        next_is(0, vector)?;
        set_masked(u32::MAX);
    }
    Ok(Done::Passed)
}

fn routing() -> Outcome {
    with_peer(|| {
        forget();
        for (count, cpu) in [0, 1, 1, 0, 1].into_iter().enumerate() {
            let vector = fresh();
            irq::enable(VECTORS + vector);
            chips::route(vector, cpu);
            chips::message(vector);
            next_is(count, vector)?;
            let by = entry(count) >> 16;
            ensure!(by == cpu as u32, "taken by vCPU {by}, routed to vCPU {cpu}");
        }
        a_while();
        ensure!(logged() == 5, "{} interrupts, expected 5", logged());
        Ok(Done::Passed)
    })
}

fn rerouting() -> Outcome {
    with_peer(|| {
        let vector = fresh();
        begin([]);
        chips::route(vector, 0);
        chips::message(vector);
        chips::route(vector, 1);
        irq::enable(VECTORS + vector);
        ensure!(soon(|| logged() == 1), "not taken after it was routed elsewhere while disabled");
        ensure!(entry(0) >> 16 == 1, "taken by vCPU {}", entry(0) >> 16);
        let vector = fresh();
        begin([vector]);
        chips::route(vector, 0);
        let mask = cpu::mask_irq();
        chips::message(vector);
        timer::busy(timer::micros(200));
        chips::route(vector, 1);
        let moved = soon(|| logged() == 1);
        cpu::restore_irq(mask);
        ensure!(moved, "not taken after it was routed away from a vCPU that masks interrupts");
        ensure!(entry(0) >> 16 == 1, "taken by vCPU {}", entry(0) >> 16);
        a_while();
        ensure!(logged() == 1, "{} interrupts, expected 1", logged());
        Ok(Done::Passed)
    })
}
