//! Shows that vCPUs can be started, stopped and told things: power control with its errors, IPIs, locks, memory ordering.
//!
//! Arguments: `rounds=` (default 500) of each ping-pong and storm.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::timer::within;
use guests::{args, cpu, ensure, irq, println, smp, timer};

guests::guest!(main);

const IPIS: usize = irq::IPIS as usize;

/// IPIs each vCPU took, by number.
static TAKEN: [[AtomicU64; IPIS]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; IPIS] }; MAX_CPUS];
static STAY: AtomicBool = AtomicBool::new(false);
/// Which vCPUs are in [`stay`], as bits.
static IN: AtomicU64 = AtomicU64::new(0);

fn main() {
    irq::on_interrupt(on_interrupt);
    arch::alone();
    test("ipi-to-self", ipi_to_self);
    if smp::count() < 2 {
        println!("smp: one vCPU, the rest needs more");
        return;
    }
    test("ids-match-the-tree", ids_match);
    test("off-and-on-again", off_and_on);
    test("ipi-to-each", ipi_to_each);
    test("ipi-to-one-just-started", ipi_to_one_just_started);
    arch::with_others();
    test("ipi-ping-pong", || ping_pong(|_, _| {}));
    test("ipi-ping-pong-asleep", ping_pong_asleep);
    test("ipi-storm", ipi_storm);
    test("spin-lock", spin_lock);
    test("message-passing", message_passing);
}

fn on_interrupt(number: u32) {
    if number == irq::TIMER {
        timer::on_irq();
    } else if number < irq::IPIS {
        TAKEN[cpu::index()][number as usize].fetch_add(1, Release);
    }
}

fn taken(cpu: usize, ipi: u32) -> u64 {
    TAKEN[cpu][ipi as usize].load(Acquire)
}

/// Waits until `done` or for two seconds; tells which.
fn soon(done: impl Fn() -> bool) -> bool {
    within(2_000_000, done)
}

/// A job that lasts until [`STAY`] is cleared.
fn stay(me: usize) {
    IN.fetch_or(1 << me, Release);
    while STAY.load(Acquire) {
        core::hint::spin_loop();
    }
    IN.fetch_and(!(1 << me), Release);
}

/// Starts all other vCPUs in [`stay`], runs `body`, lets them go.
fn with_all_in(body: impl FnOnce() -> Outcome) -> Outcome {
    STAY.store(true, Release);
    for cpu in 1..smp::count() {
        let started = smp::start(cpu, stay);
        ensure!(started.is_ok(), "vCPU {cpu}: {started:?}");
    }
    let all = (1 << smp::count()) - 2;
    let outcome =
        if soon(|| IN.load(Acquire) == all) { body() } else { Err(guests::why!("not all vCPUs came up")) };
    STAY.store(false, Release);
    (1..smp::count()).for_each(smp::join);
    outcome
}

fn ipi_to_self() -> Outcome {
    for ipi in 0..irq::IPIS {
        let before = taken(0, ipi);
        irq::send(ipi, 0);
        ensure!(soon(|| taken(0, ipi) == before + 1), "IPI {ipi} was taken {} times", taken(0, ipi) - before);
    }
    Ok(Done::Passed)
}

/// Every vCPU is the one that the tree calls so.
fn ids_match() -> Outcome {
    static FOUND: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    smp::on_all(|me| FOUND[me].store(cpu::id(), Relaxed));
    for (cpu, (found, expected)) in FOUND.iter().zip(machine().ids).enumerate().take(smp::count()) {
        let found = found.load(Relaxed);
        ensure!(found == expected, "vCPU {cpu} is {found:#x}, the tree says {expected:#x}");
    }
    Ok(Done::Passed)
}

fn off_and_on() -> Outcome {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    const TIMES: u64 = 25;
    for round in 0..TIMES {
        smp::on_all(|_| {
            RUNS.fetch_add(1, Relaxed);
        });
        let expected = (round + 1) * smp::count() as u64;
        ensure!(RUNS.load(Relaxed) == expected, "{} runs, expected {expected}", RUNS.load(Relaxed));
    }
    Ok(Done::Passed)
}

fn ipi_to_each() -> Outcome {
    with_all_in(|| {
        for cpu in 0..smp::count() {
            for ipi in 0..irq::IPIS {
                let before: [u64; MAX_CPUS] = core::array::from_fn(|other| taken(other, ipi));
                irq::send(ipi, cpu);
                ensure!(soon(|| taken(cpu, ipi) == before[cpu] + 1), "IPI {ipi} did not reach vCPU {cpu}");
                let strays = (0..smp::count())
                    .filter(|&other| other != cpu && taken(other, ipi) != before[other])
                    .count();
                ensure!(strays == 0, "IPI {ipi} for vCPU {cpu} also reached {strays} others");
            }
        }
        Ok(Done::Passed)
    })
}

/// From the moment that the start of a vCPU is reported, an IPI reaches it.
fn ipi_to_one_just_started() -> Outcome {
    static TARGET: AtomicU64 = AtomicU64::new(0);
    fn await_one(me: usize) {
        soon(|| taken(me, 7) >= TARGET.load(Acquire));
    }
    for round in 0..args::number("rounds", 500) {
        let before = taken(1, 7);
        TARGET.store(before + 1, Release);
        let started = smp::start(1, await_one);
        ensure!(started.is_ok(), "round {round}: {started:?}");
        irq::send(7, 1);
        smp::join(1);
        let count = taken(1, 7) - before;
        ensure!(count == 1, "round {round}: the IPI was taken {count} times");
    }
    Ok(Done::Passed)
}

/// vCPU 0 sends, vCPU 1 answers, each as soon as it sees the other's: none may be lost.
fn ping_pong(wait: fn(usize, u64)) -> Outcome {
    static WAIT: AtomicU64 = AtomicU64::new(0);
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    fn play(me: usize) {
        if me > 1 {
            return;
        }
        // SAFETY: `ping_pong` stored a `fn(usize, u64)` before it started this.
        let wait = unsafe { core::mem::transmute::<usize, fn(usize, u64)>(WAIT.load(Acquire) as usize) };
        let start = BASE[me].load(Acquire);
        for round in 1..=ROUNDS.load(Acquire) {
            if me == 0 {
                irq::send(4, 1);
            }
            while taken(me, 4) < start + round {
                wait(me, start + round);
            }
            if me == 1 {
                irq::send(4, 0);
            }
        }
    }
    static BASE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let rounds = args::number("rounds", 500);
    for (cpu, base) in BASE.iter().enumerate() {
        base.store(taken(cpu, 4), Release);
    }
    WAIT.store(wait as usize as u64, Release);
    ROUNDS.store(rounds, Release);
    smp::on_all(play);
    for (cpu, base) in BASE.iter().enumerate() {
        let count = taken(cpu, 4) - base.load(Acquire);
        ensure!(count == rounds, "vCPU {cpu} took {count} of {rounds}");
    }
    Ok(Done::Passed)
}

fn ping_pong_asleep() -> Outcome {
    ping_pong(|me, target| cpu::sleep_until(|| taken(me, 4) >= target))
}

/// Everybody sends everybody IPIs as fast as it goes: they merge, but the last of each must arrive.
fn ipi_storm() -> Outcome {
    static BARRIER: smp::Barrier = smp::Barrier::new();
    static FAILED: AtomicU32 = AtomicU32::new(0);
    fn storm(me: usize) {
        BARRIER.wait(smp::count());
        for round in 0..args::number("rounds", 500) {
            irq::send((round % 15) as u32, (me + round as usize) % smp::count());
        }
        BARRIER.wait(smp::count());
        let next = (me + 1) % smp::count();
        let before = taken(next, 15);
        irq::send(15, next);
        if !soon(|| taken(next, 15) > before) {
            FAILED.fetch_add(1, Relaxed);
        }
        BARRIER.wait(smp::count());
    }
    smp::on_all(storm);
    let total: u64 = (0..smp::count()).map(|cpu| (0..15).map(|ipi| taken(cpu, ipi)).sum::<u64>()).sum();
    println!("smp: {total} IPIs taken so far");
    ensure!(FAILED.load(Relaxed) == 0, "{} last IPIs were lost", FAILED.load(Relaxed));
    Ok(Done::Passed)
}

/// A number that only the holder of a lock changes.
struct Guarded(UnsafeCell<u64>);

// SAFETY: every access is made between taking and releasing a lock that all vCPUs share.
unsafe impl Sync for Guarded {}

static COUNTER: Guarded = Guarded(UnsafeCell::new(0));
static LOCK: spin::Mutex<()> = spin::Mutex::new(());
const INCREMENTS: u64 = 50_000;

fn increment() {
    // SAFETY: called with LOCK or TICKET held, each test using one of them only.
    unsafe { *COUNTER.0.get() = core::hint::black_box(*COUNTER.0.get()) + 1 };
}

fn counted(job: fn(usize)) -> Outcome {
    // SAFETY: the other vCPUs are off.
    unsafe { *COUNTER.0.get() = 0 };
    smp::on_all(job);
    // SAFETY: the other vCPUs are off again.
    let count = unsafe { *COUNTER.0.get() };
    let expected = INCREMENTS * smp::count() as u64;
    ensure!(count == expected, "{count}, expected {expected}");
    Ok(Done::Passed)
}

fn spin_lock() -> Outcome {
    counted(|_| {
        for _ in 0..INCREMENTS {
            let _held = LOCK.lock();
            increment();
        }
    })
}

/// What was written before the flag is seen after it (message passing, with release and acquire).
fn message_passing() -> Outcome {
    static DATA: AtomicU64 = AtomicU64::new(0);
    static FLAG: AtomicU64 = AtomicU64::new(0);
    static STALE: AtomicU64 = AtomicU64::new(0);
    const MESSAGES: u64 = 20_000;
    smp::on_all(|me| match me {
        0 => (1..=MESSAGES).for_each(|message| {
            DATA.store(message, Relaxed);
            FLAG.store(message, Release);
        }),
        1 => loop {
            let flag = FLAG.load(Acquire);
            STALE.fetch_add(u64::from(DATA.load(Relaxed) < flag), Relaxed);
            if flag == MESSAGES {
                return;
            }
        },
        _ => {}
    });
    ensure!(STALE.load(Relaxed) == 0, "{} messages arrived before what they announce", STALE.load(Relaxed));
    Ok(Done::Passed)
}
