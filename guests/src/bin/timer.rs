//! Shows that the counter and the EL1 timers work: never early, never lost, awake, asleep, masked and unmasked.
//!
//! Arguments: `rounds=` (default 200) deadlines of random distance on each vCPU.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, Why, test};
use guests::rng::Rng;
use guests::timer::{ENABLE, IMASK, ISTATUS, PHYSICAL, VIRTUAL, arm, disarm, micros, now};
use guests::{args, cpu, ensure, gic, mrs, msr, println, smp, timer, trap};

guests::guest!(main);

/// Virtual timer interrupts of each vCPU.
static VIRTUAL_TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Physical timer interrupts of each vCPU.
static PHYSICAL_TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// How many interrupts more the handler leaves the timer asserted for.
static LEAVE: AtomicU32 = AtomicU32::new(0);
/// The latest any deadline was met, in ticks, and the number met early.
static LATEST: AtomicU64 = AtomicU64::new(0);
static EARLY: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

fn main() {
    gic::on_interrupt(on_interrupt);
    gic::enable(VIRTUAL);
    test("counter-frequency", counter_frequency);
    test("counter-is-monotonic", counter_is_monotonic);
    test("counter-is-equal-on-all-vcpus", counter_is_equal);
    test("absolute-deadline", absolute_deadline);
    test("deadline-in-the-past", deadline_in_the_past);
    test("relative-deadline", relative_deadline);
    test("far-deadline-does-not-fire", far_deadline);
    test("reprogramming-moves-the-deadline", reprogramming);
    test("disarmed-does-not-fire", disarmed);
    test("imask", imask);
    test("masked-in-the-gic", masked_in_the_gic);
    test("masked-in-pstate", masked_in_pstate);
    test("level-fires-until-silenced", level_fires_until_silenced);
    test("wakes-from-wfi", || wakes_from_wfi(Masked::No));
    test("wakes-from-wfi-with-irqs-masked", || wakes_from_wfi(Masked::Yes));
    test("wfit", wfit);
    test("physical-timer", physical_timer);
    test("random-deadlines-on-all-vcpus", random_deadlines);
}

fn on_interrupt(intid: u32) {
    let me = cpu::index();
    match intid {
        VIRTUAL => {
            if LEAVE.load(Relaxed) > 0 {
                LEAVE.fetch_sub(1, Relaxed);
            } else {
                disarm();
            }
            VIRTUAL_TAKEN[me].fetch_add(1, Relaxed);
        }
        PHYSICAL => {
            msr!("cntp_ctl_el0", 0);
            cpu::isb();
            PHYSICAL_TAKEN[me].fetch_add(1, Relaxed);
        }
        _ => {}
    }
}

fn taken() -> u64 {
    VIRTUAL_TAKEN[cpu::index()].load(Relaxed)
}

/// Waits, awake, until the handler ran or a second has passed; tells whether it ran.
fn fires(before: u64) -> bool {
    let limit = now() + micros(1_000_000);
    while now() < limit {
        if taken() != before {
            return true;
        }
    }
    false
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

fn relative_deadline() -> Outcome {
    let (before, start) = (taken(), now());
    msr!("cntv_tval_el0", micros(500));
    msr!("cntv_ctl_el0", ENABLE);
    cpu::isb();
    let deadline = mrs!("cntv_cval_el0");
    ensure!(deadline >= start + micros(500), "TVAL made CVAL {deadline} at {start}");
    ensure!(fires(before), "no interrupt for TVAL");
    let left = mrs!("cntv_tval_el0") as u32 as i32;
    ensure!(left <= 0, "TVAL is {left} after expiry");
    Ok(Done::Passed)
}

fn far_deadline() -> Outcome {
    for deadline in [u64::MAX, now() + (1 << 40)] {
        let before = taken();
        arm(deadline);
        timer::busy(micros(3000));
        let control = mrs!("cntv_ctl_el0");
        disarm();
        ensure!(taken() == before, "fired for {deadline:#x}");
        ensure!(control & ISTATUS == 0, "CNTV_CTL {control:#x} for {deadline:#x}");
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

/// Waits until `done` or for a second; tells which. An emulated timer may be late, the counter is not.
fn soon(done: impl Fn() -> bool) -> bool {
    let limit = now() + micros(1_000_000);
    while !done() {
        if now() > limit {
            return false;
        }
    }
    true
}

fn imask() -> Outcome {
    let before = taken();
    msr!("cntv_cval_el0", now() + micros(100));
    msr!("cntv_ctl_el0", ENABLE | IMASK);
    cpu::isb();
    let met = soon(|| mrs!("cntv_ctl_el0") == ENABLE | IMASK | ISTATUS);
    timer::busy(micros(1000));
    ensure!(met, "CNTV_CTL is {:#x}, expected 0x7", mrs!("cntv_ctl_el0"));
    ensure!(taken() == before, "fired with IMASK set");
    msr!("cntv_ctl_el0", ENABLE);
    cpu::isb();
    ensure!(fires(before), "no interrupt after IMASK was cleared");
    Ok(Done::Passed)
}

fn masked_in_the_gic() -> Outcome {
    let before = taken();
    gic::disable(VIRTUAL);
    arm(now() + micros(100));
    let pending = soon(|| gic::is_set(VIRTUAL, gic::ISPENDR));
    timer::busy(micros(1000));
    let taken_masked = taken() - before;
    gic::enable(VIRTUAL);
    ensure!(taken_masked == 0, "fired while disabled in GICR_ICENABLER0");
    ensure!(fires(before), "no interrupt after it was enabled");
    ensure!(pending, "GICR_ISPENDR0 did not show it pending");
    Ok(Done::Passed)
}

fn masked_in_pstate() -> Outcome {
    let before = taken();
    let daif = cpu::mask_irq();
    arm(now() + micros(100));
    let seen = soon(|| mrs!("isr_el1") & 1 << 7 != 0);
    timer::busy(micros(1000));
    let masked = taken() - before;
    cpu::restore_irq(daif);
    ensure!(masked == 0, "fired with PSTATE.I set");
    ensure!(seen, "ISR_EL1.I was never set");
    ensure!(fires(before), "no interrupt after PSTATE.I was cleared");
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

fn wakes_from_wfi(masked: Masked) -> Outcome {
    for _ in 0..50 {
        let before = taken();
        let deadline = now() + micros(500);
        if masked == Masked::Yes {
            let daif = cpu::mask_irq();
            arm(deadline);
            // WFI may end for no reason (DDI0487 D1.6.2), so the interrupt status decides.
            while mrs!("isr_el1") == 0 {
                cpu::wfi();
            }
            let (at, count) = (now(), taken() - before);
            cpu::restore_irq(daif);
            ensure!(at >= deadline, "woken {} ticks early", deadline - at);
            ensure!(count == 0, "handler ran with PSTATE.I set");
            ensure!(fires(before), "no interrupt after PSTATE.I was cleared");
        } else {
            arm(deadline);
            cpu::sleep_until(|| taken() != before);
            ensure!(now() >= deadline, "woken early");
        }
    }
    Ok(Done::Passed)
}

/// WFIT sleeps until a time without any interrupt (FEAT_WFxT).
fn wfit() -> Outcome {
    if mrs!("S3_0_C0_C6_2") & 0xf == 0 {
        return Ok(Done::Skipped("no FEAT_WFxT"));
    }
    for distance in [0, 100, 1000] {
        let deadline = now() + micros(distance);
        // Spurious wake-ups are allowed, endless sleep is not.
        while now() < deadline {
            // SAFETY: WFIT x0 changes no register.
            unsafe { asm!(".inst 0xd5031020", in("x0") deadline, options(nostack, preserves_flags)) };
        }
    }
    Ok(Done::Passed)
}

fn physical_timer() -> Outcome {
    if trap::catch(|| msr!("cntp_ctl_el0", 0)).is_some() {
        return Ok(Done::Skipped("no physical timer"));
    }
    gic::enable(PHYSICAL);
    let count = || PHYSICAL_TAKEN[cpu::index()].load(Relaxed);
    for distance in [10, 1000, 5000] {
        let before = count();
        cpu::isb();
        let deadline = mrs!("cntpct_el0") + micros(distance);
        msr!("cntp_cval_el0", deadline);
        msr!("cntp_ctl_el0", ENABLE);
        cpu::isb();
        let limit = now() + micros(1_000_000);
        while count() == before && now() < limit {}
        cpu::isb();
        let at = mrs!("cntpct_el0");
        ensure!(count() == before + 1, "{} interrupts for a deadline {distance} us ahead", count() - before);
        ensure!(at >= deadline, "{} ticks early", deadline - at);
    }
    gic::disable(PHYSICAL);
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
    gic::enable(VIRTUAL);
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
