//! Shows that vCPUs can be started, stopped and told things: PSCI with its errors, SGIs, memory ordering.
//!
//! Arguments: `rounds=` (default 500) of each ping-pong and storm.
#![no_std]
#![no_main]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use guests::cpu::MAX_CPUS;
use guests::psci::{self, ALREADY_ON, INVALID_PARAMETERS, NOT_SUPPORTED, OFF, ON_PENDING, SUCCESS};
use guests::report::{Done, Outcome, test};
use guests::start::{machine, secondary};
use guests::{args, cpu, ensure, gic, mrs, println, smp, timer};

guests::guest!(main);

/// SGIs each vCPU took, by INTID.
static TAKEN: [[AtomicU64; 16]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 16] }; MAX_CPUS];
static STAY: AtomicBool = AtomicBool::new(false);
/// Which vCPUs are in [`stay`], as bits.
static IN: AtomicU64 = AtomicU64::new(0);

fn main() {
    gic::on_interrupt(on_interrupt);
    test("psci-version", psci_version);
    test("psci-features", psci_features);
    test("smccc-version", smccc_version);
    test("cpu-on-errors", cpu_on_errors);
    test("affinity-info", affinity_info);
    test("cpu-suspend-standby", cpu_suspend);
    test("sgi-to-self", sgi_to_self);
    if smp::count() < 2 {
        println!("smp: one vCPU, the rest needs more");
        return;
    }
    test("mpidr-matches-the-tree", mpidr);
    test("cpu-on-entry-state", entry_state);
    test("cpu-off-and-on-again", off_and_on);
    test("cpu-on-of-a-running-vcpu", on_while_running);
    test("sgi-to-each", sgi_to_each);
    test("sgi-to-all-others", sgi_to_all_others);
    test("sgi-ping-pong", || ping_pong(|_, _| {}));
    test("sgi-ping-pong-asleep", ping_pong_asleep);
    test("sgi-storm", sgi_storm);
    test("spin-lock", spin_lock);
    test("spin-lock-with-wfe", spin_lock_wfe);
    test("message-passing", message_passing);
}

fn on_interrupt(intid: u32) {
    if intid == timer::VIRTUAL {
        timer::on_irq();
    } else if intid < 16 {
        TAKEN[cpu::index()][intid as usize].fetch_add(1, Release);
    }
}

fn taken(cpu: usize, sgi: u32) -> u64 {
    TAKEN[cpu][sgi as usize].load(Acquire)
}

/// Waits until `done` or for two seconds; tells which.
fn soon(done: impl Fn() -> bool) -> bool {
    let limit = timer::now() + timer::micros(2_000_000);
    while !done() {
        if timer::now() > limit {
            return false;
        }
    }
    true
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
        let status = smp::start(cpu, stay);
        ensure!(status == SUCCESS, "CPU_ON of vCPU {cpu}: {status}");
    }
    let all = (1 << smp::count()) - 2;
    let outcome =
        if soon(|| IN.load(Acquire) == all) { body() } else { Err(guests::why!("not all vCPUs came up")) };
    STAY.store(false, Release);
    (1..smp::count()).for_each(smp::join);
    outcome
}

fn psci_version() -> Outcome {
    let version = psci::call(psci::VERSION, [0; 3]);
    ensure!((0x1_0000..0x2_0000).contains(&version), "{version:#x}, expected 1.x");
    let migrate = psci::call(psci::MIGRATE_INFO_TYPE, [0; 3]);
    ensure!(migrate == 2 || migrate == NOT_SUPPORTED, "MIGRATE_INFO_TYPE is {migrate}");
    Ok(Done::Passed)
}

fn psci_features() -> Outcome {
    let there =
        [psci::CPU_SUSPEND, psci::CPU_OFF, psci::CPU_ON, psci::SYSTEM_OFF, psci::SYSTEM_RESET, psci::VERSION];
    for function in there.into_iter().chain([psci::AFFINITY_INFO, psci::FEATURES]) {
        let status = psci::call(psci::FEATURES, [function, 0, 0]);
        ensure!(status >= 0, "PSCI_FEATURES({function:#x}) is {status}");
    }
    for function in [0x8400_001f, 0xc400_00ff, 0x1234_5678] {
        let status = psci::call(psci::FEATURES, [function, 0, 0]);
        ensure!(status == NOT_SUPPORTED, "PSCI_FEATURES({function:#x}) is {status}");
    }
    Ok(Done::Passed)
}

fn smccc_version() -> Outcome {
    if psci::call(psci::FEATURES, [psci::SMCCC_VERSION, 0, 0]) < 0 {
        return Ok(Done::Skipped("no SMCCC_VERSION"));
    }
    let version = psci::call(psci::SMCCC_VERSION, [0; 3]);
    ensure!((0x1_0000..0x2_0000).contains(&version), "{version:#x}, expected 1.x");
    let status = psci::call(psci::SMCCC_ARCH_FEATURES, [0x8000_7ffe, 0, 0]);
    ensure!(status == NOT_SUPPORTED, "SMCCC_ARCH_FEATURES of an unknown function is {status}");
    Ok(Done::Passed)
}

fn cpu_on_errors() -> Outcome {
    let entry = secondary as extern "C" fn() -> ! as usize as u64;
    let status = psci::call(psci::CPU_ON, [machine().affinity[0], entry, 0]);
    ensure!(status == ALREADY_ON, "CPU_ON of this vCPU is {status}");
    for target in [0xff, 0x00ff_ffff, 0xff_0000_0000, 1 << 24, u64::MAX] {
        let status = psci::call(psci::CPU_ON, [target, entry, 0]);
        ensure!(status == INVALID_PARAMETERS, "CPU_ON of {target:#x} is {status}");
    }
    Ok(Done::Passed)
}

fn affinity_info() -> Outcome {
    ensure!(smp::state(0) == SUCCESS, "this vCPU is {}", smp::state(0));
    for cpu in 1..smp::count() {
        ensure!(smp::state(cpu) == OFF, "vCPU {cpu} is {} before CPU_ON", smp::state(cpu));
    }
    let status = psci::call(psci::AFFINITY_INFO, [0x00ff_ffff, 0, 0]);
    ensure!(status == INVALID_PARAMETERS, "AFFINITY_INFO of no vCPU is {status}");
    Ok(Done::Passed)
}

/// A standby state (StateType 0) ends at the next interrupt and returns here.
fn cpu_suspend() -> Outcome {
    gic::enable(timer::VIRTUAL);
    let daif = cpu::mask_irq();
    let deadline = timer::now() + timer::micros(1000);
    timer::arm(deadline);
    let mut status = SUCCESS;
    while mrs!("isr_el1") == 0 && status == SUCCESS {
        status = psci::call(psci::CPU_SUSPEND, [0, 0, 0]);
    }
    let at = timer::now();
    cpu::restore_irq(daif);
    ensure!(status == SUCCESS, "CPU_SUSPEND is {status}");
    ensure!(at >= deadline, "woken {} ticks early", deadline - at);
    Ok(Done::Passed)
}

fn sgi_to_self() -> Outcome {
    for sgi in 0..16 {
        let before = taken(0, sgi);
        gic::send(sgi, 0);
        ensure!(soon(|| taken(0, sgi) == before + 1), "SGI {sgi} was taken {} times", taken(0, sgi) - before);
    }
    Ok(Done::Passed)
}

fn mpidr() -> Outcome {
    static FOUND: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    smp::on_all(|me| FOUND[me].store(cpu::affinity(), Relaxed));
    for (cpu, (found, expected)) in FOUND.iter().zip(machine().affinity).enumerate().take(smp::count()) {
        let found = found.load(Relaxed);
        ensure!(found == expected, "vCPU {cpu} has {found:#x}, the tree says {expected:#x}");
    }
    Ok(Done::Passed)
}

fn entry_state() -> Outcome {
    smp::on_all(|_| {});
    for cpu in 1..smp::count() {
        let entry = smp::entry(cpu);
        ensure!(entry.level == 1 << 2, "vCPU {cpu}: CurrentEL {:#x}", entry.level);
        ensure!(entry.daif == 0b1111 << 6, "vCPU {cpu}: DAIF {:#x}, expected all masked", entry.daif);
        ensure!(
            entry.sctlr & 0x1005 == 0,
            "vCPU {cpu}: SCTLR_EL1 {:#x}, expected MMU and caches off",
            entry.sctlr
        );
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
    ensure!(smp::state(1) == OFF, "vCPU 1 is {} after CPU_OFF", smp::state(1));
    Ok(Done::Passed)
}

fn on_while_running() -> Outcome {
    STAY.store(true, Release);
    let first = smp::start(1, stay);
    let second = smp::start(1, stay);
    let up = soon(|| IN.load(Acquire) == 0b10);
    let third = smp::start(1, stay);
    let state = smp::state(1);
    STAY.store(false, Release);
    smp::join(1);
    ensure!(first == SUCCESS && up, "first CPU_ON is {first}, came up: {up}");
    ensure!(matches!(second, ALREADY_ON | ON_PENDING), "CPU_ON right after it is {second}");
    ensure!(third == ALREADY_ON, "CPU_ON of a running vCPU is {third}");
    ensure!(state == SUCCESS, "AFFINITY_INFO of a running vCPU is {state}");
    Ok(Done::Passed)
}

fn sgi_to_each() -> Outcome {
    with_all_in(|| {
        for cpu in 0..smp::count() {
            for sgi in 0..16 {
                let before: [u64; MAX_CPUS] = core::array::from_fn(|other| taken(other, sgi));
                gic::send(sgi, cpu);
                ensure!(soon(|| taken(cpu, sgi) == before[cpu] + 1), "SGI {sgi} did not reach vCPU {cpu}");
                let strays = (0..smp::count())
                    .filter(|&other| other != cpu && taken(other, sgi) != before[other])
                    .count();
                ensure!(strays == 0, "SGI {sgi} for vCPU {cpu} also reached {strays} others");
            }
        }
        Ok(Done::Passed)
    })
}

fn sgi_to_all_others() -> Outcome {
    with_all_in(|| {
        for _ in 0..50 {
            let before: [u64; MAX_CPUS] = core::array::from_fn(|cpu| taken(cpu, 3));
            gic::send_others(3);
            let reached = || (1..smp::count()).all(|cpu| taken(cpu, 3) == before[cpu] + 1);
            ensure!(soon(reached), "not all others took the SGI");
            ensure!(taken(0, 3) == before[0], "the sender took it too");
        }
        Ok(Done::Passed)
    })
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
                gic::send(4, 1);
            }
            while taken(me, 4) < start + round {
                wait(me, start + round);
            }
            if me == 1 {
                gic::send(4, 0);
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

/// Everybody sends everybody SGIs as fast as it goes: they merge, but the last of each must arrive.
fn sgi_storm() -> Outcome {
    static BARRIER: smp::Barrier = smp::Barrier::new();
    static FAILED: AtomicU32 = AtomicU32::new(0);
    fn storm(me: usize) {
        BARRIER.wait(smp::count());
        for round in 0..args::number("rounds", 500) {
            gic::send((round % 15) as u32, (me + round as usize) % smp::count());
        }
        BARRIER.wait(smp::count());
        let next = (me + 1) % smp::count();
        let before = taken(next, 15);
        gic::send(15, next);
        if !soon(|| taken(next, 15) > before) {
            FAILED.fetch_add(1, Relaxed);
        }
        BARRIER.wait(smp::count());
    }
    smp::on_all(storm);
    let total: u64 = (0..smp::count()).map(|cpu| (0..15).map(|sgi| taken(cpu, sgi)).sum::<u64>()).sum();
    println!("smp: {total} SGIs taken so far");
    ensure!(FAILED.load(Relaxed) == 0, "{} last SGIs were lost", FAILED.load(Relaxed));
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

/// A ticket lock whose waiters sleep in WFE, woken by the exclusive monitor as in DDI0487 K13.3.
fn spin_lock_wfe() -> Outcome {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SERVING: AtomicU32 = AtomicU32::new(0);
    counted(|_| {
        for _ in 0..INCREMENTS / 10 {
            let ticket = NEXT.fetch_add(1, Relaxed);
            // SAFETY: loads a static; the exclusive load arms the monitor, whose clearing wakes WFE.
            unsafe {
                asm!("sevl", "1: wfe", "ldaxr {now:w}, [{at}]", "cmp {now:w}, {ticket:w}", "b.ne 1b",
                    now = out(reg) _, at = in(reg) SERVING.as_ptr(), ticket = in(reg) ticket, options(nostack));
            }
            for _ in 0..10 {
                increment();
            }
            SERVING.store(ticket.wrapping_add(1), Release);
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
