//! Counts what the hypervisor costs: one line `bench NAME INSTRUCTIONS LOADS SAVES SKIPS BYTES` per measurement.
//!
//! Under `-icount shift=0` with a counter of 1 GHz a tick is an instruction, so the time that passes in an operation, less
//! that of the empty loop around it, is the number of instructions executed for it, guest and hypervisor together.
//! Argument: `only=NAME[,NAME...]` (default all). LOADS to BYTES are this VM's, by the hypervisor's ledger, per round,
//! rounded; they are 0 where nothing moves FP or no ledger answers.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::fp::Units;
use guests::trap::Frame;
use guests::{args, cpu, fp, irq, println, smp, timer, trap};

guests::guest!(main);

const ROUNDS: u64 = 200;
const WARM_UP: u64 = 20;
const IPI: u32 = 1;

/// Interrupts taken, by vCPU.
static TAKEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// When the vectors were last entered for an interrupt, on vCPU 0.
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// Set when vCPU 1 is up: what is sent to it before, plain QEMU may forget.
static READY: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);
/// What vCPU 1 had taken before the rounds began.
static FIRST: AtomicU64 = AtomicU64::new(0);
static PEER_USES_FP: AtomicBool = AtomicBool::new(false);

/// What a measurement shows, per round.
#[derive(Clone, Copy, Default)]
struct Cost {
    ticks: u64,
    ledger: [u64; 4],
}

/// A name and the function that measures it.
type Measurement = (&'static str, fn() -> Cost);

fn main() {
    trap::take_irqs(on_irq);
    irq::enable(irq::TIMER);
    let only = args::text("only");
    let wanted = |name: &str| only.is_none_or(|list| list.split(',').any(|one| one == name));
    let measurements: [Measurement; 8] = [
        ("hypercall", hypercall),
        ("mmio_read", mmio_read),
        ("ipi", ipi),
        ("timer", timer_delivery),
        ("wfi_wake", wfi_wake),
        ("switch_none", || switch(false, false)),
        ("switch_one", || switch(true, false)),
        ("switch_both", || switch(true, true)),
    ];
    let mut done = 0;
    for (name, measure) in measurements {
        if wanted(name) {
            if name.starts_with("switch") && smp::count() < 2 {
                println!("not ok {name}: needs two vCPUs");
                continue;
            }
            if name == "hypercall" && !arch::has_calls() {
                println!("bench: nobody answers calls here");
                continue;
            }
            let cost = measure();
            let [loads, saves, skips, bytes] = cost.ledger;
            println!("bench {name} {} {loads} {saves} {skips} {bytes}", instructions(cost.ticks));
            done += 1;
        }
    }
    guests::report::test("bench", || {
        guests::ensure!(done > 0, "nothing measured: only={}", only.unwrap_or(""));
        Ok(guests::report::Done::Passed)
    });
}

/// Converts ticks to instructions of one nanosecond.
fn instructions(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(timer::frequency())) as u64
}

/// Takes interrupts as directly as the vectors allow: acknowledge, note, silence, end.
fn on_irq(frame: &mut Frame) {
    let number = irq::acknowledge();
    if number == irq::TIMER {
        timer::disarm();
    }
    if cpu::index() == 0 {
        ENTERED.store(frame.time, Relaxed);
    }
    TAKEN[cpu::index() & 1].fetch_add(1, Release);
    irq::end(number);
}

fn taken(cpu: usize) -> u64 {
    TAKEN[cpu].load(Acquire)
}

fn ledger() -> [u64; 4] {
    let counters = arch::ledger();
    if counters[0] == u64::MAX { [0; 4] } else { counters }
}

/// Runs `once` some times and returns what one took on average, less the loop's own cost.
fn average(once: impl Fn()) -> u64 {
    let timed = |body: &dyn Fn()| {
        (0..WARM_UP).for_each(|_| body());
        let start = timer::now();
        (0..ROUNDS).for_each(|_| body());
        timer::now() - start
    };
    let empty = timed(&|| {
        // SAFETY: does nothing; keeps the empty loop a loop.
        unsafe { asm!("", options(nostack, preserves_flags)) }
    });
    (timed(&once) - empty) / ROUNDS
}

fn hypercall() -> Cost {
    Cost { ticks: average(arch::null_call), ..Cost::default() }
}

fn mmio_read() -> Cost {
    let address = arch::device();
    Cost { ticks: average(|| arch::device_read(address)), ..Cost::default() }
}

/// An IPI to this vCPU itself, until its handler has been entered.
fn ipi() -> Cost {
    let mut total = 0;
    for round in 0..WARM_UP + ROUNDS {
        let before = taken(0);
        let start = timer::now();
        irq::send(IPI, 0);
        while taken(0) == before {}
        total += if round < WARM_UP { 0 } else { ENTERED.load(Relaxed) - start };
    }
    Cost { ticks: total / ROUNDS, ..Cost::default() }
}

/// From the timer's expiry, awake, to the vectors.
fn timer_delivery() -> Cost {
    timed_wake(|before| while taken(0) == before {})
}

/// From the timer's expiry, asleep, to the vectors.
fn wfi_wake() -> Cost {
    timed_wake(|before| cpu::sleep_until(|| taken(0) != before))
}

fn timed_wake(wait: impl Fn(u64)) -> Cost {
    let mut total = 0;
    for round in 0..WARM_UP + ROUNDS {
        let before = taken(0);
        let deadline = timer::now() + timer::micros(50);
        timer::arm(deadline);
        wait(before);
        total += if round < WARM_UP { 0 } else { ENTERED.load(Relaxed) - deadline };
    }
    Cost { ticks: total / ROUNDS, ..Cost::default() }
}

/// Rounds of ping-pong with vCPU 1 on the same CPU: an IPI to the peer, sleep until its answer. A round is two switches.
fn switch(mine: bool, peers: bool) -> Cost {
    let controls = |uses: bool| if uses { fp::enable(Units::BASE) } else { fp::disable() };
    PEER_USES_FP.store(peers, Release);
    STOP.store(false, Release);
    READY.store(false, Release);
    FIRST.store(taken(1), Release);
    smp::start(1, answer).expect("vCPU 1 starts");
    while !READY.load(Acquire) {
        core::hint::spin_loop();
    }
    controls(mine);
    let mut start = (0, [0; 4]);
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            start = (timer::now(), ledger());
        }
        serve(0, mine);
    }
    let end = (timer::now(), ledger());
    STOP.store(true, Release);
    irq::send(IPI, 1);
    smp::join(1);
    let each = |end: u64, start: u64| (end.wrapping_sub(start) + ROUNDS / 2) / ROUNDS;
    let mut cost = Cost { ticks: each(end.0, start.0), ..Cost::default() };
    for (part, (end, start)) in cost.ledger.iter_mut().zip(end.1.iter().zip(start.1)) {
        *part = each(*end, start);
    }
    cost
}

/// One turn: an FP instruction or none, an IPI to the peer, sleep until it answers.
fn serve(me: usize, uses_fp: bool) {
    if uses_fp {
        fp::touch();
    }
    let before = taken(me);
    irq::send(IPI, 1 - me);
    cpu::sleep_until(|| taken(me) != before);
}

/// vCPU 1: waits for the ball, plays it back.
fn answer(me: usize) {
    let uses_fp = PEER_USES_FP.load(Acquire);
    if uses_fp {
        fp::enable(Units::BASE);
    } else {
        fp::disable();
    }
    READY.store(true, Release);
    let mut seen = 0;
    let first = FIRST.load(Acquire);
    loop {
        cpu::sleep_until(|| taken(me) - first > seen);
        seen += 1;
        if STOP.load(Acquire) {
            return;
        }
        if uses_fp {
            fp::touch();
        }
        irq::send(IPI, 0);
    }
}
