//! The GICv3: enabling, priorities and preemption, levels and edges, more pending (and more active) than list registers,
//! active and pending bits, both EOI modes, routing.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use guests::arch::gic::{self, ICACTIVER, ICPENDR, ISACTIVER, ISENABLER, ISPENDR, SPURIOUS, Trigger};
use guests::mmio::{read8, read32, write8, write32};
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::{cpu, ensure, irq, mrs, msr, timer};

use crate::{a_while, entry, forget, log, logged, soon, with_peer};

/// The first of the SPIs used here, which no device of a virt-like machine drives.
const FIRST: u32 = 40;
/// How many are used.
const MANY: u32 = 20;
/// How many are active at once.
const ACTIVE: u32 = 4;
const ANY: u32 = FIRST;
const LOW: u32 = FIRST + 1;
const HIGH: u32 = FIRST + 2;

pub(crate) fn main() {
    run("identification", identification);
    run("spurious", spurious);
    run("each-spi-is-taken", each_spi);
    run("disabled-stays-pending", disabled);
    run("clear-pending", clear_pending);
    run("clear-enable-reads-back", clear_enable);
    run("priority-registers", priority_registers);
    run("group-enables", group_enables);
    run("priority-mask", priority_mask);
    run("running-priority", running_priority);
    run("more-pending-than-list-registers", more_pending);
    run("as-many-active-as-list-registers", many_active);
    run("preemption", || nesting(0x90, 0x40, 0, Order::Nested));
    run("no-preemption-by-the-same-priority", || nesting(0x90, 0x90, 0, Order::After));
    run("no-preemption-by-a-lower-priority", || nesting(0x40, 0x90, 0, Order::After));
    run("no-preemption-inside-a-group-priority", || nesting(0x90, 0x80, 7, Order::After));
    run("active-bit", active_bit);
    run("pending-while-active", pending_while_active);
    run("active-by-software", active_by_software);
    run("split-eoi", split_eoi);
    run("sgi-and-ppi-by-software", private_by_software);
    run("level-follows-its-line", level_line);
    run("routing", routing);
    run("rerouting-while-pending", rerouting);
}

/// Runs a test on a GIC whose SPIs are idle edges of vCPU 0, whatever the one before left behind.
fn run(name: &str, body: impl FnOnce() -> Outcome) {
    cpu::mask_irq();
    msr!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1
    msr!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    gic::set_mask(0xff);
    for spi in spis() {
        gic::disable(spi);
        gic::set(spi, ICPENDR);
        gic::set(spi, ICACTIVER);
        gic::set_trigger(spi, Trigger::Edge);
        gic::route(spi, 0);
        gic::set_priority(spi, gic::PRIORITY);
    }
    cpu::unmask_irq();
    test(name, body);
}

fn spis() -> core::ops::Range<u32> {
    FIRST..FIRST + MANY
}

/// Starts a test: logs interrupts, forgets earlier ones, enables the SPIs given.
fn begin(spis: impl IntoIterator<Item = u32>) {
    forget();
    spis.into_iter().for_each(gic::enable);
}

fn identification() -> Outcome {
    let (gicd, gicr) = (machine().chips.gicd, gic::redistributor());
    for (name, base) in [("GICD", gicd), ("GICR", gicr)] {
        let revision = read32(base + gic::PIDR2) >> 4 & 0xf;
        ensure!(matches!(revision, 3 | 4), "{name}_PIDR2.ArchRev is {revision}");
    }
    ensure!(gic::lines() >= FIRST + MANY, "{} INTIDs, {} are needed", gic::lines(), FIRST + MANY);
    ensure!(read32(gicd) & 1 << 4 != 0, "GICD_CTLR {:#x}: affinity routing is off", read32(gicd));
    ensure!(mrs!("S3_0_C12_C12_5") & 1 == 1, "ICC_SRE_EL1.SRE is 0");
    Ok(Done::Passed)
}

fn spurious() -> Outcome {
    let intid = gic::acknowledge();
    ensure!(intid == SPURIOUS, "ICC_IAR1_EL1 is {intid} with nothing pending");
    let intid = gic::highest_pending();
    ensure!(intid == SPURIOUS, "ICC_HPPIR1_EL1 is {intid} with nothing pending");
    ensure!(
        gic::running_priority() == 0xff,
        "ICC_RPR_EL1 is {:#x} with nothing active",
        gic::running_priority()
    );
    Ok(Done::Passed)
}

fn each_spi() -> Outcome {
    begin(spis());
    for (count, spi) in spis().enumerate() {
        gic::set(spi, ISPENDR);
        ensure!(soon(|| logged() == count + 1), "SPI {spi}: {} interrupts, expected {}", logged(), count + 1);
        ensure!(entry(count) == spi, "SPI {spi} came as {}", entry(count));
        ensure!(!gic::is_set(spi, ISPENDR), "SPI {spi} is still pending");
    }
    Ok(Done::Passed)
}

fn disabled() -> Outcome {
    begin([]);
    gic::set(ANY, ISPENDR);
    a_while();
    ensure!(logged() == 0, "taken while disabled");
    ensure!(gic::is_set(ANY, ISPENDR), "not pending");
    gic::enable(ANY);
    ensure!(soon(|| logged() == 1), "{} interrupts after it was enabled", logged());
    Ok(Done::Passed)
}

fn clear_pending() -> Outcome {
    begin([]);
    gic::set(ANY, ISPENDR);
    gic::set(ANY, ICPENDR);
    ensure!(!gic::is_set(ANY, ISPENDR), "still pending");
    gic::enable(ANY);
    a_while();
    ensure!(logged() == 0, "taken after its pending state was cleared");
    // Pending and enabled, held back by PSTATE.I alone: it may be in a list register by now.
    let daif = cpu::mask_irq();
    gic::set(ANY, ISPENDR);
    timer::busy(timer::micros(100));
    gic::set(ANY, ICPENDR);
    cpu::restore_irq(daif);
    a_while();
    ensure!(logged() == 0, "taken after its pending state was cleared under PSTATE.I");
    Ok(Done::Passed)
}

fn clear_enable() -> Outcome {
    begin([ANY]);
    ensure!(gic::is_set(ANY, ISENABLER) && gic::is_set(ANY, gic::ICENABLER), "enabled, but does not read so");
    let daif = cpu::mask_irq();
    gic::set(ANY, ISPENDR);
    timer::busy(timer::micros(100));
    gic::disable(ANY);
    cpu::restore_irq(daif);
    a_while();
    ensure!(!gic::is_set(ANY, ISENABLER), "disabled, but does not read so");
    ensure!(logged() == 0, "taken after it was disabled under PSTATE.I");
    ensure!(gic::is_set(ANY, ISPENDR), "no longer pending");
    Ok(Done::Passed)
}

fn priority_registers() -> Outcome {
    let address = machine().chips.gicd + gic::IPRIORITYR + u64::from(ANY);
    for byte in 0..4 {
        write8(address + byte, 0x20 * (byte as u8 + 1));
    }
    let word = read32(address);
    ensure!(word == 0x8060_4020, "bytes 20 40 60 80 read as word {word:#x}");
    write32(address, 0xff00_40c0);
    let bytes: [u8; 4] = core::array::from_fn(|byte| read8(address + byte as u64));
    // At least the top four bits are implemented (IHI0069 4.8).
    ensure!(
        bytes.map(|byte| byte & 0xf0) == [0xc0, 0x40, 0x00, 0xf0],
        "word ff0040c0 reads as bytes {bytes:x?}"
    );
    Ok(Done::Passed)
}

fn group_enables() -> Outcome {
    begin([ANY]);
    msr!("S3_0_C12_C12_7", 0); // ICC_IGRPEN1_EL1
    cpu::isb();
    gic::set(ANY, ISPENDR);
    a_while();
    let early = logged();
    msr!("S3_0_C12_C12_7", 1);
    cpu::isb();
    ensure!(early == 0, "taken with ICC_IGRPEN1_EL1 clear");
    ensure!(soon(|| logged() == 1), "not taken after ICC_IGRPEN1_EL1 was set");
    let gicd = machine().chips.gicd;
    let control = read32(gicd);
    write32(gicd, control & !0b10);
    while read32(gicd) & 1 << 31 != 0 {}
    gic::set(ANY, ISPENDR);
    a_while();
    let early = logged();
    write32(gicd, control);
    ensure!(early == 1, "taken with GICD_CTLR.EnableGrp1 clear");
    ensure!(soon(|| logged() == 2), "not taken after GICD_CTLR.EnableGrp1 was set");
    Ok(Done::Passed)
}

fn priority_mask() -> Outcome {
    begin([LOW, HIGH]);
    gic::set_priority(LOW, 0x80);
    gic::set_priority(HIGH, 0x40);
    gic::set_mask(0x80);
    gic::set(LOW, ISPENDR);
    a_while();
    let early = logged();
    gic::set(HIGH, ISPENDR);
    let high = soon(|| logged() == 1);
    gic::set_mask(0xff);
    ensure!(early == 0, "priority 0x80 taken with ICC_PMR_EL1 0x80");
    ensure!(high && entry(0) == HIGH, "priority 0x40 not taken with ICC_PMR_EL1 0x80");
    ensure!(soon(|| logged() == 2) && entry(1) == LOW, "priority 0x80 not taken with ICC_PMR_EL1 0xff");
    Ok(Done::Passed)
}

fn running_priority() -> Outcome {
    begin([ANY]);
    gic::set_priority(ANY, 0x58);
    let daif = cpu::mask_irq();
    gic::set(ANY, ISPENDR);
    let seen = soon(|| gic::highest_pending() == ANY);
    let intid = gic::acknowledge();
    let running = gic::running_priority();
    gic::end(ANY);
    let after = gic::running_priority();
    cpu::restore_irq(daif);
    ensure!(seen, "ICC_HPPIR1_EL1 never showed it");
    ensure!(intid == ANY, "ICC_IAR1_EL1 is {intid}");
    ensure!(running & 0xf0 == 0x50, "ICC_RPR_EL1 is {running:#x}, expected 0x58");
    ensure!(after == 0xff, "ICC_RPR_EL1 is {after:#x} after the end");
    Ok(Done::Passed)
}

/// The place in the order of importance that the `n`th SPI gets: a permutation of 0 to 19.
fn rank(n: u32) -> u32 {
    n * 7 % MANY
}

/// Gives each SPI a priority of its own, in steps of eight: five bits are always enough of them.
fn rank_all() {
    for (n, spi) in spis().enumerate() {
        gic::set_priority(spi, 0x20 + 8 * rank(n as u32) as u8);
    }
}

fn by_rank(at: u32) -> u32 {
    FIRST + (0..MANY).find(|&n| rank(n) == at).expect("a permutation")
}

fn more_pending() -> Outcome {
    begin(spis());
    rank_all();
    for round in 0..5 {
        forget();
        let daif = cpu::mask_irq();
        for spi in spis() {
            gic::set(spi, ISPENDR);
        }
        if round > 2 {
            // Asleep and awake again: the vCPU may have been off its CPU.
            cpu::idle();
        }
        cpu::restore_irq(daif);
        ensure!(soon(|| logged() == MANY as usize), "{} of {MANY} were taken", logged());
        for at in 0..MANY {
            let (found, expected) = (entry(at as usize), by_rank(at));
            ensure!(found == expected, "number {at} was {found}, by priority it is {expected}");
        }
    }
    Ok(Done::Passed)
}

/// Priority dropped, not deactivated (EOImode 1). A hypervisor that keeps active interrupts in list registers can have
/// no more of them than there are, and 4 is what every machine here has.
fn many_active() -> Outcome {
    begin(spis());
    rank_all();
    let daif = cpu::mask_irq();
    msr!("S3_0_C12_C12_4", 0b10); // ICC_CTLR_EL1.EOImode: EOIR drops the priority only
    cpu::isb();
    (0..ACTIVE).for_each(|at| gic::set(by_rank(at), ISPENDR));
    let outcome = take_all_then_deactivate();
    spis().for_each(gic::deactivate);
    msr!("S3_0_C12_C12_4", 0);
    cpu::isb();
    cpu::restore_irq(daif);
    outcome
}

fn take_all_then_deactivate() -> Outcome {
    for at in 0..ACTIVE {
        let expected = by_rank(at);
        ensure!(soon(|| gic::highest_pending() == expected), "{expected} is never pending, number {at}");
        let intid = gic::acknowledge();
        ensure!(intid == expected, "number {at} was {intid}, by priority it is {expected}");
        gic::end(intid);
    }
    let intid = gic::acknowledge();
    ensure!(intid == SPURIOUS, "{intid} was taken twice");
    let active = spis().filter(|&spi| gic::is_set(spi, ISACTIVER)).count();
    ensure!(active == ACTIVE as usize, "{active} of {ACTIVE} read as active");
    // Backwards, and each can be taken again at once.
    for spi in (0..ACTIVE).rev().map(by_rank) {
        gic::deactivate(spi);
        ensure!(!gic::is_set(spi, ISACTIVER), "{spi} is active after ICC_DIR_EL1");
        gic::set(spi, ISPENDR);
        ensure!(soon(|| gic::highest_pending() == spi), "{spi} is not pending after it was deactivated");
        let intid = gic::acknowledge();
        gic::end(intid);
        gic::deactivate(intid);
        ensure!(intid == spi, "{intid} was taken, expected {spi}");
    }
    Ok(Done::Passed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Nested,
    After,
}

/// While LOW is handled with IRQs unmasked, HIGH becomes pending: it is taken inside, or after.
fn nesting(low: u8, high: u8, binary_point: u64, expected: Order) -> Outcome {
    const INSIDE: u32 = 0xfff;
    fn handler(intid: u32) {
        log(intid);
        if intid == LOW {
            gic::set(HIGH, ISPENDR);
            cpu::unmask_irq();
            a_while();
            cpu::mask_irq();
            log(INSIDE);
        }
    }
    begin([LOW, HIGH]);
    irq::on_interrupt(handler);
    gic::set_priority(LOW, low);
    gic::set_priority(HIGH, high);
    msr!("S3_0_C12_C12_3", binary_point); // ICC_BPR1_EL1
    cpu::isb();
    gic::set(LOW, ISPENDR);
    let all = soon(|| logged() == 3);
    msr!("S3_0_C12_C12_3", 0);
    cpu::isb();
    let order = [entry(0), entry(1), entry(2)];
    let wanted = if expected == Order::Nested { [LOW, HIGH, INSIDE] } else { [LOW, INSIDE, HIGH] };
    ensure!(all && order == wanted, "order {order:?} ({} events), expected {wanted:?}", logged());
    Ok(Done::Passed)
}

fn active_bit() -> Outcome {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    begin([ANY]);
    irq::on_interrupt(|intid| {
        let (active, pending) = (gic::is_set(intid, ISACTIVER), gic::is_set(intid, ISPENDR));
        SEEN.store(u32::from(active) | u32::from(pending) << 1, Relaxed);
        log(intid);
    });
    gic::set(ANY, ISPENDR);
    ensure!(soon(|| logged() == 1), "not taken");
    let seen = SEEN.load(Relaxed);
    ensure!(seen == 0b01, "in the handler active is {}, pending is {}", seen & 1, seen >> 1);
    ensure!(!gic::is_set(ANY, ISACTIVER), "active after the end");
    Ok(Done::Passed)
}

/// An edge during the handler is not lost: exactly one more interrupt follows.
fn pending_while_active() -> Outcome {
    begin([ANY]);
    irq::on_interrupt(|intid| {
        if logged() == 0 {
            gic::set(intid, ISPENDR);
            gic::set(intid, ISPENDR);
        }
        log(intid);
    });
    gic::set(ANY, ISPENDR);
    ensure!(soon(|| logged() == 2), "{} interrupts, expected 2", logged());
    a_while();
    ensure!(logged() == 2, "{} interrupts, expected 2", logged());
    Ok(Done::Passed)
}

fn active_by_software() -> Outcome {
    begin([ANY]);
    gic::set(ANY, ISACTIVER);
    gic::set(ANY, ISPENDR);
    a_while();
    let early = logged();
    ensure!(gic::is_set(ANY, ISACTIVER), "GICD_ISACTIVER does not read back");
    gic::set(ANY, ICACTIVER);
    ensure!(early == 0, "taken while active");
    ensure!(soon(|| logged() == 1), "not taken after GICD_ICACTIVER");
    Ok(Done::Passed)
}

/// EOImode 1: the end drops the priority, the interrupt stays active until ICC_DIR_EL1.
fn split_eoi() -> Outcome {
    begin([LOW, HIGH]);
    let daif = cpu::mask_irq();
    msr!("S3_0_C12_C12_4", 0b10);
    cpu::isb();
    gic::set(LOW, ISPENDR);
    let outcome = split_eoi_steps();
    gic::deactivate(LOW);
    msr!("S3_0_C12_C12_4", 0);
    cpu::isb();
    cpu::restore_irq(daif);
    outcome
}

fn split_eoi_steps() -> Outcome {
    ensure!(soon(|| gic::highest_pending() == LOW), "not pending");
    let intid = gic::acknowledge();
    ensure!(intid == LOW, "{intid} was taken");
    gic::end(LOW);
    ensure!(gic::running_priority() == 0xff, "ICC_RPR_EL1 is {:#x} after EOIR", gic::running_priority());
    ensure!(gic::is_set(LOW, ISACTIVER), "not active after EOIR");
    gic::set(LOW, ISPENDR);
    timer::busy(timer::micros(500));
    let intid = gic::acknowledge();
    ensure!(intid == SPURIOUS, "{intid} was taken again while active");
    gic::set(HIGH, ISPENDR);
    ensure!(soon(|| gic::highest_pending() == HIGH), "another interrupt of the same priority is not pending");
    let intid = gic::acknowledge();
    gic::end(intid);
    gic::deactivate(intid);
    ensure!(intid == HIGH, "{intid} was taken");
    gic::deactivate(LOW);
    ensure!(soon(|| gic::highest_pending() == LOW), "not pending again after DIR");
    let intid = gic::acknowledge();
    gic::end(intid);
    ensure!(intid == LOW, "{intid} was taken");
    Ok(Done::Passed)
}

fn private_by_software() -> Outcome {
    const PPI: u32 = 20;
    begin([PPI]);
    for (count, intid) in [5, PPI].into_iter().enumerate() {
        gic::set(intid, ISPENDR);
        ensure!(soon(|| logged() == count + 1), "{intid} was not taken");
        ensure!(entry(count) == intid, "{intid} came as {}", entry(count));
    }
    Ok(Done::Passed)
}

const UART_DR: u64 = 0x00;
const UART_IMSC: u64 = 0x38;
const UART_RIS: u64 = 0x3c;
const UART_ICR: u64 = 0x44;
const UART_TX: u32 = 1 << 5;

/// The UART's transmit interrupt is a level: as long as it is up, it is taken again after each end.
fn level_line() -> Outcome {
    const TIMES: usize = 4;
    static UP: AtomicBool = AtomicBool::new(false);
    let (uart, spi) = (machine().uart, machine().chips.uart_intid);
    begin([]);
    irq::on_interrupt(|intid| {
        log(intid);
        if logged() == TIMES {
            UP.store(read32(machine().uart + UART_RIS) & UART_TX != 0, Relaxed);
            write32(machine().uart + UART_IMSC, 0);
        }
    });
    gic::set_trigger(spi, Trigger::Level);
    gic::route(spi, 0);
    write32(uart + UART_ICR, 0x7ff);
    gic::enable(spi);
    a_while();
    let before = logged();
    // An empty line end: the transmitter is idle again as soon as it is out.
    write32(uart + UART_DR, b'\n'.into());
    write32(uart + UART_IMSC, UART_TX);
    let all = soon(|| logged() == TIMES);
    a_while();
    let (count, up) = (logged(), UP.load(Relaxed));
    write32(uart + UART_IMSC, 0);
    let pending = gic::is_set(spi, ISPENDR);
    gic::disable(spi);
    write32(uart + UART_ICR, 0x7ff);
    ensure!(before == 0, "{before} interrupts with UARTIMSC 0");
    ensure!(all && count == TIMES, "{count} interrupts, expected {TIMES}: as many as it was left up for");
    ensure!(up, "UARTRIS.TX was not set in the handler");
    ensure!(!pending, "still pending after the line went down");
    Ok(Done::Passed)
}

fn routing() -> Outcome {
    with_peer(|| {
        begin([ANY]);
        for (count, cpu) in [0, 1, 1, 0, 1].into_iter().enumerate() {
            gic::route(ANY, cpu);
            gic::set(ANY, ISPENDR);
            ensure!(soon(|| logged() == count + 1), "not taken when routed to vCPU {cpu}");
            let by = entry(count) >> 16;
            ensure!(by == cpu as u32, "taken by vCPU {by}, routed to vCPU {cpu}");
            // The log is written inside the handler; the next turn wants it over.
            ensure!(soon(|| !gic::is_set(ANY, ISACTIVER)), "still active");
        }
        Ok(Done::Passed)
    })
}

fn rerouting() -> Outcome {
    with_peer(|| {
        begin([]);
        gic::route(ANY, 0);
        gic::set(ANY, ISPENDR);
        gic::route(ANY, 1);
        gic::enable(ANY);
        ensure!(soon(|| logged() == 1), "not taken after it was routed elsewhere while pending and disabled");
        ensure!(entry(0) >> 16 == 1, "taken by vCPU {}", entry(0) >> 16);
        // Pending and enabled, held back by PSTATE.I of its target: it may be in a list register by now.
        gic::route(ANY, 0);
        let daif = cpu::mask_irq();
        gic::set(ANY, ISPENDR);
        timer::busy(timer::micros(200));
        gic::route(ANY, 1);
        let moved = soon(|| logged() == 2);
        cpu::restore_irq(daif);
        ensure!(moved, "not taken after it was routed away from a vCPU with PSTATE.I set");
        ensure!(entry(1) >> 16 == 1, "taken by vCPU {}", entry(1) >> 16);
        a_while();
        ensure!(logged() == 2, "{} interrupts, expected 2", logged());
        Ok(Done::Passed)
    })
}
