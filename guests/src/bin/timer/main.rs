//! Shows that the counter and the timers work: never early, never lost, awake, asleep, masked and unmasked.
//!
//! Arguments: `rounds=` (default 200) deadlines of random distance on each vCPU; `bare=1` on plain QEMU for LoongArch, whose
//! clock is the host's.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, Why, test};
use guests::rng::Rng;
use guests::timer::{arm, disarm, micros, now, within};
use guests::{args, cpu, ensure, irq, println, smp, timer};

guests::guest!(main);

/// Timer interrupts of each vCPU.
static TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How many interrupts more the handler leaves the timer asserted for.
static LEAVE: AtomicU32 = AtomicU32::new(0);
/// The latest any deadline was met, in ticks, and the number met early.
static LATEST: AtomicU64 = AtomicU64::new(0);
static EARLY: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

fn main() {
    irq::on_interrupt(on_interrupt);
    irq::enable(irq::TIMER);
    test("counter-frequency", counter_frequency);
    test("counter-is-monotonic", counter_is_monotonic);
    test("counter-is-equal-on-all-vcpus", counter_is_equal);
    test("absolute-deadline", absolute_deadline);
    test("deadline-in-the-past", deadline_in_the_past);
    test("far-deadline-does-not-fire", far_deadline);
    test("reprogramming-moves-the-deadline", reprogramming);
    test("disarmed-does-not-fire", disarmed);
    test("masked-in-the-controller", masked_in_the_controller);
    test("masked-in-the-cpu", masked_in_the_cpu);
    test("level-fires-until-silenced", level_fires_until_silenced);
    test("wakes-from-sleep", || wakes_from_sleep(Masked::No));
    test("wakes-from-sleep-with-interrupts-masked", || wakes_from_sleep(Masked::Yes));
    arch::tests();
    test("random-deadlines-on-all-vcpus", random_deadlines);
}

fn on_interrupt(number: u32) {
    if number != irq::TIMER {
        return arch::on_interrupt(number);
    }
    if LEAVE.load(Relaxed) > 0 {
        LEAVE.fetch_sub(1, Relaxed);
    } else {
        disarm();
    }
    TAKEN[cpu::index()].fetch_add(1, Relaxed);
}

fn taken() -> u64 {
    TAKEN[cpu::index()].load(Relaxed)
}

/// Waits, awake, until the handler ran or a second has passed; tells whether it ran. An emulated timer may be late, the
/// counter is not.
fn fires(before: u64) -> bool {
    within(1_000_000, || taken() != before)
}

fn counter_frequency() -> Outcome {
    let frequency = timer::frequency();
    ensure!((1_000_000..=4_000_000_000).contains(&frequency), "{frequency} Hz");
    Ok(Done::Passed)
}

fn counter_is_monotonic() -> Outcome {
    let mut last = now();
    for _ in 0..100_000 {
        let next = now();
        ensure!(next >= last, "{next} after {last}");
        last = next;
    }
    Ok(Done::Passed)
}

/// Two vCPUs hand each other the time: nobody may read less than what the other read before.
fn counter_is_equal() -> Outcome {
    static BALL: AtomicU64 = AtomicU64::new(0);
    static BACKWARDS: AtomicU64 = AtomicU64::new(0);
    const TURNS: u64 = 2000;
    fn play(me: usize) {
        if me > 1 {
            return;
        }
        for turn in 0..TURNS {
            // The ball is the time, its lowest bit says whose turn it is.
            while BALL.load(Acquire) & 1 != me as u64 {
                core::hint::spin_loop();
            }
            let theirs = BALL.load(Acquire) & !1;
            let mine = now();
            if mine < theirs {
                BACKWARDS.fetch_add(1, Relaxed);
            }
            let last = turn + 1 == TURNS && me == 1;
            BALL.store(mine & !1 | u64::from(me == 0 && !last), Release);
        }
    }
    if smp::count() < 2 {
        return Ok(Done::Skipped("one vCPU"));
    }
    smp::on_all(play);
    let backwards = BACKWARDS.load(Relaxed);
    ensure!(backwards == 0, "the time went back {backwards} of {} times", 2 * TURNS);
    Ok(Done::Passed)
}

fn absolute_deadline() -> Outcome {
    for distance in [10, 100, 1000, 20_000] {
        let (before, deadline) = (taken(), now() + micros(distance));
        arm(deadline);
        ensure!(fires(before), "no interrupt for a deadline {distance} us ahead");
        let at = now();
        ensure!(at >= deadline, "{} ticks early", deadline - at);
        ensure!(taken() == before + 1, "{} interrupts for one deadline", taken() - before);
    }
    Ok(Done::Passed)
}

fn deadline_in_the_past() -> Outcome {
    for deadline in [0, now() - 1, now()] {
        let before = taken();
        arm(deadline);
        ensure!(fires(before), "no interrupt for deadline {deadline}");
    }
    Ok(Done::Passed)
}

fn far_deadline() -> Outcome {
    for deadline in arch::far() {
        let before = taken();
        arm(deadline);
        timer::busy(micros(3000));
        disarm();
        ensure!(taken() == before, "fired for {deadline:#x}");
    }
    Ok(Done::Passed)
}

fn reprogramming() -> Outcome {
    let before = taken();
    arm(now() + micros(60_000_000));
    arm(now() + micros(200));
    ensure!(fires(before), "no interrupt after moving the deadline nearer");
    let quiet = silenced_in_time(|| arm(now() + micros(60_000_000)));
    disarm();
    ensure!(quiet?, "fired at a deadline that was moved away");
    Ok(Done::Passed)
}

fn disarmed() -> Outcome {
    ensure!(silenced_in_time(disarm)?, "fired after it was turned off");
    Ok(Done::Passed)
}

/// Arms the timer, calls `silence`, and tells whether the timer kept quiet. A turn that was taken away for so long that
/// the deadline passed before proves nothing and is repeated.
fn silenced_in_time(silence: impl Fn()) -> Result<bool, Why> {
    for _ in 0..20 {
        let (before, deadline) = (taken(), now() + micros(10_000));
        arm(deadline);
        silence();
        if now() < deadline {
            timer::busy(deadline + micros(5000) - now());
            return Ok(taken() == before);
        }
    }
    Err(guests::why!("never awake for 10 ms"))
}

fn masked_in_the_controller() -> Outcome {
    let before = taken();
    irq::disable(irq::TIMER);
    arm(now() + micros(100));
    timer::busy(micros(1200));
    let taken_masked = taken() - before;
    irq::enable(irq::TIMER);
    ensure!(taken_masked == 0, "fired while disabled");
    ensure!(fires(before), "no interrupt after it was enabled");
    Ok(Done::Passed)
}

fn masked_in_the_cpu() -> Outcome {
    let before = taken();
    let mask = cpu::mask_irq();
    arm(now() + micros(100));
    let seen = within(1_000_000, arch::pending);
    timer::busy(micros(1000));
    let masked = taken() - before;
    cpu::restore_irq(mask);
    ensure!(masked == 0, "fired with interrupts masked");
    ensure!(seen, "never pending");
    ensure!(fires(before), "no interrupt after they were unmasked");
    Ok(Done::Passed)
}

fn level_fires_until_silenced() -> Outcome {
    let before = taken();
    LEAVE.store(5, Relaxed);
    arm(now());
    let limit = now() + micros(1_000_000);
    while taken() < before + 6 && now() < limit {}
    timer::busy(micros(3000));
    let count = taken() - before;
    ensure!(count == 6, "{count} interrupts, expected 6: 5 left asserted and the one that silenced it");
    Ok(Done::Passed)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Masked {
    Yes,
    No,
}

fn wakes_from_sleep(masked: Masked) -> Outcome {
    for _ in 0..50 {
        let before = taken();
        let deadline = now() + micros(500);
        if masked == Masked::Yes {
            let mask = cpu::mask_irq();
            arm(deadline);
            // A sleep may end for no reason, so the interrupt status decides.
            while !arch::pending() {
                cpu::idle();
            }
            let (at, count) = (now(), taken() - before);
            cpu::restore_irq(mask);
            ensure!(at >= deadline, "woken {} ticks early", deadline - at);
            ensure!(count == 0, "handler ran with interrupts masked");
            ensure!(fires(before), "no interrupt after they were unmasked");
        } else {
            arm(deadline);
            cpu::sleep_until(|| taken() != before);
            ensure!(now() >= deadline, "woken early");
        }
    }
    Ok(Done::Passed)
}

fn random_deadlines() -> Outcome {
    smp::on_all(meet_deadlines);
    let (early, lost, latest) = (EARLY.load(Relaxed), LOST.load(Relaxed), LATEST.load(Relaxed));
    println!("timer: the latest deadline was met {latest} ticks late");
    ensure!(early == 0 && lost == 0, "{early} early, {lost} lost");
    Ok(Done::Passed)
}

fn meet_deadlines(me: usize) {
    irq::enable(irq::TIMER);
    let mut rng = Rng::new(me as u64);
    for _ in 0..args::number("rounds", 200) {
        let (before, deadline) = (taken(), now() + micros(rng.below(1500)));
        arm(deadline);
        if rng.below(2) == 0 {
            cpu::sleep_until(|| taken() != before);
        } else if !fires(before) {
            LOST.fetch_add(1, Relaxed);
            continue;
        }
        let at = now();
        EARLY.fetch_add(u64::from(at < deadline), Relaxed);
        LATEST.fetch_max(at.saturating_sub(deadline), Relaxed);
    }
}
