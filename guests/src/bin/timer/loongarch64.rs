//! What is LoongArch's own: a periodic timer, what TCFG and TVAL show, TICLR; and the bridge's real-time clock.

use guests::arch::csr::{self, TICLR};
use guests::arch::timer::{ENABLE, PERIODIC, state};
use guests::mmio::{read32, write32};
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::timer::{arm, disarm, micros, now, within};
use guests::{args, cpu, csr, ensure, irq, set_csr, timer};

use crate::{fires, taken};

/// The line of the timer in ESTAT.IS.
const LINE: u64 = 1 << 11;

/// Deadlines that lie too far away to be met.
pub(crate) fn far() -> [u64; 2] {
    [u64::MAX, now() + (1 << 40)]
}

pub(crate) fn tests() {
    test("counts-down", counts_down);
    test("one-shot-fires-once", one_shot);
    test("periodic", periodic);
    test("periodic-asleep", periodic_asleep);
    test("periodic-stops", periodic_stops);
    test("pending-until-cleared", pending_until_cleared);
    test("id-of-the-counter", counter_id);
    test("clock-counts", clock_counts);
    test("clock-can-be-set", clock_can_be_set);
}

/// Takes interrupts that are not the runtime's timer.
pub(crate) fn on_interrupt(_: u32) {}

/// Tells whether an interrupt is pending at this CPU, masked or not.
pub(crate) fn pending() -> bool {
    csr!(csr::ESTAT) & csr!(csr::ECFG) & 0x1fff != 0
}

fn counts_down() -> Outcome {
    let long = micros(10_000_000) & !3;
    set_csr!(csr::TCFG, long | ENABLE);
    let ([config, first], start) = (state(), now());
    timer::busy(micros(2000));
    let ([_, second], end) = (state(), now());
    disarm();
    ensure!(config == long | ENABLE, "TCFG is {config:#x}, expected {:#x}", long | ENABLE);
    ensure!(first <= long && second < first, "TVAL went from {first} to {second}, InitVal is {long}");
    let (ticks, time) = (first - second, end - start);
    // Both were read one after the other, with whatever else between.
    ensure!(ticks.abs_diff(time) < micros(1_000_000), "TVAL lost {ticks} in {time} ticks");
    let [config, _] = state();
    ensure!(config & ENABLE == 0, "TCFG is {config:#x} after it was cleared");
    Ok(Done::Passed)
}

/// Leaves a one-shot timer alone after it fired: it does not fire again.
fn one_shot() -> Outcome {
    let before = taken();
    let mask = cpu::mask_irq();
    arm(now() + micros(100));
    let fired = within(1_000_000, pending);
    set_csr!(TICLR, 1);
    let again = within(20_000, pending);
    cpu::restore_irq(mask);
    disarm();
    ensure!(fired, "never pending");
    ensure!(!again, "pending again after TICLR");
    ensure!(taken() == before, "{} interrupts", taken() - before);
    Ok(Done::Passed)
}

/// Takes ten periods, and returns how long they took from the first to the last.
fn ten(period: u64, wait: impl Fn()) -> Result<u64, guests::report::Why> {
    let mask = cpu::mask_irq();
    set_csr!(TICLR, 1);
    set_csr!(csr::TCFG, period | PERIODIC | ENABLE);
    let mut times = [0; 2];
    for round in 0..=10 {
        let limit = now() + micros(2_000_000);
        while csr!(csr::ESTAT) & LINE == 0 {
            wait();
            if now() > limit {
                disarm();
                cpu::restore_irq(mask);
                return Err(guests::why!("period {round} never ends"));
            }
        }
        times[usize::from(round > 0)] = now();
        set_csr!(TICLR, 1);
    }
    disarm();
    cpu::restore_irq(mask);
    Ok(times[1] - times[0])
}

fn periodic() -> Outcome {
    let period = micros(2000) & !3;
    let took = ten(period, || {})?;
    // The first may have been seen late, and periods that pass while nobody looks become one.
    ensure!(took >= 8 * period, "ten periods of {period} took {took} ticks");
    Ok(Done::Passed)
}

fn periodic_asleep() -> Outcome {
    let period = micros(2000) & !3;
    let took = ten(period, cpu::idle)?;
    ensure!(took >= 8 * period, "ten periods of {period} took {took} ticks");
    Ok(Done::Passed)
}

fn periodic_stops() -> Outcome {
    let mask = cpu::mask_irq();
    set_csr!(csr::TCFG, micros(1000) & !3 | PERIODIC | ENABLE);
    let fired = within(1_000_000, pending);
    disarm();
    let again = within(20_000, pending);
    cpu::restore_irq(mask);
    ensure!(fired, "never pending");
    ensure!(!again, "pending after it was turned off");
    Ok(Done::Passed)
}

/// TCFG alone does not withdraw an interrupt, TICLR does.
fn pending_until_cleared() -> Outcome {
    let mask = cpu::mask_irq();
    arm(now() + micros(100));
    let fired = within(1_000_000, pending);
    set_csr!(csr::TCFG, 0);
    let still = pending();
    set_csr!(TICLR, 0);
    let zero = pending();
    set_csr!(TICLR, 1);
    let cleared = !pending();
    cpu::restore_irq(mask);
    ensure!(fired && still, "pending {fired}, and {still} after TCFG was cleared");
    ensure!(zero, "a zero in TICLR cleared it");
    ensure!(cleared, "pending after TICLR");
    Ok(Done::Passed)
}

/// RDTIME yields TID besides the time.
fn counter_id() -> Outcome {
    let id = args::number("tid", 0x1234_5678);
    let before = set_csr!(csr::TID, id);
    let (time, found): (u64, u64);
    // SAFETY: reads the counter and its ID.
    unsafe { core::arch::asm!("rdtime.d {}, {}", out(reg) time, out(reg) found, options(nostack)) };
    set_csr!(csr::TID, before);
    ensure!(found == id && time > 0, "RDTIME yields ID {found:#x}, TID is {id:#x}");
    irq::enable(irq::TIMER);
    let before = taken();
    arm(now());
    ensure!(fires(before), "no interrupt afterwards");
    Ok(Done::Passed)
}

// The LS7A real-time clock (Loongson 7A1000 user manual, "RTC").
const TOY_WRITE0: u64 = 0x24;
const TOY_WRITE1: u64 = 0x28;
const TOY_READ0: u64 = 0x2c;
const TOY_READ1: u64 = 0x30;
const RTC_CTRL: u64 = 0x40;
const RTC_READ0: u64 = 0x68;
/// RTC_CTRL: both counters and the crystal run. Firmware sees to that, where there is one.
const RUN: u32 = 1 << 13 | 1 << 11 | 1 << 8;

/// Reads a register of the clock, and when it was read at the earliest and at the latest.
fn clock(register: u64) -> (u32, [u64; 2]) {
    let before = now();
    let value = read32(machine().chips.rtc + register);
    (value, [before, now()])
}

/// Counts a crystal of 32768 Hz, and has a date that can be.
fn clock_counts() -> Outcome {
    write32(machine().chips.rtc + RTC_CTRL, RUN);
    let (first, start) = clock(RTC_READ0);
    timer::busy(micros(300_000));
    let (second, end) = clock(RTC_READ0);
    let ticks = u64::from(second.wrapping_sub(first));
    let at_least = (end[0] - start[1]) * 32768 / timer::frequency();
    let at_most = (end[1] - start[0]) * 32768 / timer::frequency();
    let (word, year) = (clock(TOY_READ0).0, clock(TOY_READ1).0 + 1900);
    let (month, day) = (word >> 26, word >> 21 & 31);
    ensure!((2024..2200).contains(&year), "the year is {year}");
    ensure!((1..=12).contains(&month) && (1..=31).contains(&day), "the day is {day}, the month {month}");
    if args::flag("bare") {
        // Plain QEMU's is the host's, which goes by another clock.
        ensure!(ticks > 0, "it stands");
    } else {
        ensure!(ticks + 1 >= at_least && ticks <= at_most + 1, "{ticks} ticks, not {at_least} to {at_most}");
    }
    Ok(Done::Passed)
}

/// The day before March is there if the year is the right one, and over in time.
fn clock_can_be_set() -> Outcome {
    let rtc = machine().chips.rtc;
    let field = |month: u32, day: u32, hour: u32, minute: u32, second: u32| {
        month << 26 | day << 21 | hour << 16 | minute << 10 | second << 4
    };
    write32(rtc + TOY_WRITE1, 2024 - 1900);
    write32(rtc + TOY_WRITE0, field(2, 29, 23, 59, 58));
    let (word, year) = (clock(TOY_READ0).0, clock(TOY_READ1).0 + 1900);
    let next_day = within(5_000_000, || clock(TOY_READ0).0 >> 21 == field(3, 1, 0, 0, 0) >> 21);
    let after = clock(TOY_READ0).0;
    ensure!(year == 2024 && word >> 21 == field(2, 29, 0, 0, 0) >> 21, "set to {word:#x} of {year}");
    ensure!(next_day, "no March after five seconds: {after:#x}");
    ensure!(after >> 10 == field(3, 1, 0, 0, 0) >> 10, "March begins with {after:#x}");
    Ok(Done::Passed)
}
