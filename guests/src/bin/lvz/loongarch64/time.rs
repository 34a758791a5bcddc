//! A guest's counter and timer, which go on while it is out.

use core::cell::Cell;

use guests::arch::csr as number;
use guests::report::{Done, Outcome, test};
use guests::timer::{busy, micros, now, within};
use guests::{ensure, set_csr};

use super::code as guest_code;
use super::world::{A0, GCNTC, World, gcsr, set_gcsr};

const TI: u64 = 1 << 11;
const ENABLE: u64 = 1;
const PERIODIC: u64 = 1 << 1;
/// TVAL of a one-shot timer that has fired, in the 48 bits that there are.
const FIRED: u64 = (1 << 48) - 1;

pub(super) fn tests() {
    test("counter-with-an-offset", counter);
    test("timer-runs-while-out", runs_while_out);
    test("one-shot-fires-while-out", one_shot);
    test("one-shot-fires-as-a-whole", fires_whole);
    test("one-shot-fires-inside", fires_inside);
    test("timer-interrupt-is-the-guests-to-clear", cleared_by_guest);
    test("periodic-while-out", periodic);
    test("ticks-left-can-be-written", write_left);
    test("no-ticks-left-fires-at-once", write_zero);
    test("stopped-timer-keeps-its-ticks", stopped);
    test("ticks-left-of-a-stopped-timer", write_stopped);
    test("timers-of-both-worlds", both_worlds);
}

/// RDTIME yields the root's counter and GCNTC together.
fn counter() -> Outcome {
    for offset in [0, now().wrapping_neg(), 1 << 40] {
        let mut world = World::at(guest_code::clock, 0, 0);
        set_csr!(GCNTC, offset);
        let before = now();
        let exit = world.run();
        let after = now();
        set_csr!(GCNTC, 0);
        let found = world.r[A0].wrapping_sub(offset);
        ensure!(
            exit.is_end() && (before..=after).contains(&found),
            "{exit:?}, offset {offset:#x}: {found} not in {before}..={after}"
        );
    }
    Ok(Done::Passed)
}

fn rest() {
    let _ = World::at(guest_code::call, 0, 0);
}

fn runs_while_out() -> Outcome {
    rest();
    let long = micros(60_000_000) & !3;
    set_gcsr!(number::TCFG, long | ENABLE);
    // TVAL is read between the two times at either end.
    let (early, first, start) = (now(), gcsr!(number::TVAL), now());
    busy(micros(3000));
    let (end, second, late) = (now(), gcsr!(number::TVAL), now());
    // It goes on inside.
    let mut world = World::at(guest_code::timer, long | ENABLE, 20_000);
    let exit = world.run();
    let inside = world.r[A0];
    set_gcsr!(number::TCFG, 0);
    ensure!(first <= long && second < first, "TVAL went from {first} to {second}, InitVal is {long}");
    let (lost, least, most) = (first - second, end - start, late - early);
    ensure!(
        lost + micros(20) >= least && lost <= most + micros(20),
        "TVAL lost {lost} in {least} to {most} ticks"
    );
    ensure!(exit.is_end() && inside < long, "{exit:?}, TVAL inside is {inside}");
    Ok(Done::Passed)
}

/// Waits until the guest's timer interrupt is pending.
fn fires() -> bool {
    within(5_000_000, || gcsr!(number::ESTAT) & TI != 0)
}

fn one_shot() -> Outcome {
    rest();
    let deadline = now() + micros(500);
    set_gcsr!(number::TCFG, micros(500) & !3 | ENABLE);
    let (fired, at) = (fires(), now());
    let (tcfg, tval) = (gcsr!(number::TCFG), gcsr!(number::TVAL));
    set_gcsr!(number::TICLR, 1);
    let cleared = gcsr!(number::ESTAT) & TI == 0;
    let again = within(5000, || gcsr!(number::ESTAT) & TI != 0);
    ensure!(fired, "never pending");
    ensure!(at + 4 >= deadline, "{} ticks early", deadline - at);
    ensure!(tval == FIRED, "TVAL is {tval:#x} afterwards, expected {FIRED:#x}; TCFG is {tcfg:#x}");
    ensure!(cleared && !again, "cleared by TICLR {cleared}, pending again {again}");
    Ok(Done::Passed)
}

/// Whoever sees by TCFG or TVAL that the timer is not running finds its interrupt pending: a hypervisor that is about to idle
/// has nothing else to go by. Until then TVAL only falls.
fn fires_whole() -> Outcome {
    rest();
    let long = micros(1000) & !3;
    for shot in 0..5000 {
        set_gcsr!(number::TCFG, long | ENABLE);
        set_gcsr!(number::TVAL, micros(10 + shot % 16));
        let last = Cell::new(long);
        let fired = within(5_000_000, || {
            let (tcfg, tval) = (gcsr!(number::TCFG), gcsr!(number::TVAL));
            let stopped = tcfg & ENABLE == 0 || tval > last.replace(tval);
            stopped || gcsr!(number::ESTAT) & TI != 0
        });
        let pending = gcsr!(number::ESTAT) & TI != 0;
        set_gcsr!(number::TCFG, 0);
        set_gcsr!(number::TICLR, 1);
        ensure!(fired, "never pending, shot {shot}");
        ensure!(pending, "stopped before its interrupt was pending, shot {shot}: TVAL {:#x}", last.get());
    }
    Ok(Done::Passed)
}

/// The guest sees it in its own ESTAT, and TVAL as it is after one shot.
fn fires_inside() -> Outcome {
    let mut world = World::at(guest_code::timer, 400 | ENABLE, 100_000_000);
    let exit = world.run();
    let (tval, estat) = (world.r[A0], world.r[A0 + 2]);
    set_gcsr!(number::TCFG, 0);
    set_gcsr!(number::TICLR, 1);
    ensure!(exit.is_end() && estat & TI != 0, "{exit:?}, ESTAT {estat:#x}");
    ensure!(tval & FIRED == FIRED, "TVAL is {tval:#x}, expected {FIRED:#x}");
    Ok(Done::Passed)
}

fn cleared_by_guest() -> Outcome {
    rest();
    set_gcsr!(number::TCFG, 4 | ENABLE);
    let fired = fires();
    let mut world = World::at(guest_code::clear_timer, 0, 0);
    // Making a world cleared it.
    set_gcsr!(number::ESTAT, TI);
    let exit = world.run();
    ensure!(fired, "never pending");
    ensure!(exit.is_end() && world.r[A0] & TI == 0, "{exit:?}, ESTAT {:#x}", world.r[A0]);
    ensure!(gcsr!(number::ESTAT) & TI == 0, "pending for the root");
    Ok(Done::Passed)
}

fn periodic() -> Outcome {
    rest();
    set_gcsr!(number::TCFG, micros(500) & !3 | PERIODIC | ENABLE);
    for round in 0..5 {
        let fired = fires();
        let left = gcsr!(number::TVAL);
        set_gcsr!(number::TICLR, 1);
        ensure!(fired, "period {round} never ends");
        ensure!(left <= micros(500), "TVAL is {left:#x} in period {round}");
    }
    set_gcsr!(number::TCFG, 0);
    set_gcsr!(number::TICLR, 1);
    let again = within(5000, || gcsr!(number::ESTAT) & TI != 0);
    ensure!(!again, "pending after it was turned off");
    Ok(Done::Passed)
}

/// A hypervisor gives a guest its timer back with the ticks that were left, not with a whole period.
fn write_left() -> Outcome {
    rest();
    let long = micros(60_000_000) & !3;
    set_gcsr!(number::TCFG, long | ENABLE);
    let deadline = now() + micros(800);
    set_gcsr!(number::TVAL, micros(800));
    let left = gcsr!(number::TVAL);
    let (fired, at) = (fires(), now());
    set_gcsr!(number::TCFG, 0);
    set_gcsr!(number::TICLR, 1);
    ensure!(left <= micros(800), "TVAL is {left}, {} was written", micros(800));
    ensure!(fired && at >= deadline, "fired {fired}, {} ticks early", deadline.saturating_sub(at));
    Ok(Done::Passed)
}

/// So does one whose deadline has passed.
fn write_zero() -> Outcome {
    rest();
    set_gcsr!(number::TCFG, micros(60_000_000) & !3 | ENABLE);
    set_gcsr!(number::TVAL, 0);
    let fired = fires();
    set_gcsr!(number::TCFG, 0);
    set_gcsr!(number::TICLR, 1);
    ensure!(fired, "never pending");
    Ok(Done::Passed)
}

fn stopped() -> Outcome {
    rest();
    set_gcsr!(number::TCFG, micros(60_000_000) & !3 | ENABLE);
    set_gcsr!(number::TVAL, micros(200_000));
    set_gcsr!(number::TCFG, micros(60_000_000) & !3);
    let fired = within(250_000, || gcsr!(number::ESTAT) & TI != 0);
    ensure!(!fired, "a stopped timer fired");
    Ok(Done::Passed)
}

/// What a hypervisor writes while the timer is off stays, as it was for the guest: the value of one that fired.
fn write_stopped() -> Outcome {
    rest();
    set_gcsr!(number::TCFG, 0);
    for value in [FIRED, 1234] {
        set_gcsr!(number::TVAL, value);
        let found = gcsr!(number::TVAL) & FIRED;
        ensure!(found == value, "TVAL is {found:#x}, {value:#x} was written");
    }
    let fired = within(1000, || gcsr!(number::ESTAT) & TI != 0);
    ensure!(!fired, "a stopped timer fired");
    Ok(Done::Passed)
}

/// The root's timer and the guest's have nothing to do with each other.
fn both_worlds() -> Outcome {
    rest();
    guests::timer::arm(now() + micros(300));
    set_gcsr!(number::TCFG, micros(60_000_000) & !3 | ENABLE);
    let root = within(5_000_000, || guests::csr!(number::ESTAT) & TI != 0);
    let early = gcsr!(number::ESTAT) & TI != 0;
    guests::timer::disarm();
    set_gcsr!(number::TCFG, 4 | ENABLE);
    let guest = fires();
    let again = guests::csr!(number::ESTAT) & TI != 0;
    set_gcsr!(number::TCFG, 0);
    set_gcsr!(number::TICLR, 1);
    ensure!(root && guest, "the root's fired {root}, the guest's {guest}");
    ensure!(!early && !again, "the guest's with the root's {early}, the root's with the guest's {again}");
    Ok(Done::Passed)
}
