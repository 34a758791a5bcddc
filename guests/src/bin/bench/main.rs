//! Counts what the hypervisor costs: one line `bench NAME INSTRUCTIONS LOADS SAVES SKIPS BYTES` per measurement, and those
//! of `mix.rs`.
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
mod mix;

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use guests::cpu::MAX_CPUS;
use guests::report::{Done, test};
use guests::trap::Frame;
use guests::{args, cpu, fp, irq, println, smp, timer, trap};

guests::guest!(main);

const ROUNDS: u64 = 200;
const WARM_UP: u64 = 20;
const IPI: u32 = 1;

/// Interrupts taken, by vCPU.
static TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// When the vectors were last entered for an interrupt, on vCPU 0.
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// Set when vCPU 1 is up: what is sent to it before, plain QEMU may forget.
static READY: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);
/// What vCPU 1 had taken before the rounds began.
static FIRST: AtomicU64 = AtomicU64::new(0);
/// What vCPU 1 does with FP in its turns, as `fn()`; 0 for nothing.
static PEERS_TOUCH: AtomicUsize = AtomicUsize::new(0);

/// What a measurement shows.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Ticks of all rounds together: a tick is up to 16 instructions, so the average of whole ticks would be rough.
    ticks: u64,
    /// Events per round.
    ledger: [u64; 4],
}

/// A name and the function that measures it.
type Measurement = (&'static str, fn() -> Cost);

/// One FP instruction, in units that are enabled.
type Touch = fn();

fn main() {
    trap::take_irqs(on_irq);
    irq::enable(irq::TIMER);
    let only = args::text("only");
    let wanted = |name: &str| only.is_none_or(|list| list.split(',').any(|one| one == name));
    let [wide_one, wide_both, wide_touch] = arch::WIDE_NAMES;
    let measurements: [Measurement; 12] = [
        ("hypercall", hypercall),
        ("mmio_read", mmio_read),
        ("ipi", ipi),
        ("timer", timer_delivery),
        ("wfi_wake", wfi_wake),
        ("switch_none", || switch(None, None)),
        ("switch_one", || switch(Some(fp::touch), None)),
        ("switch_both", || switch(Some(fp::touch), Some(fp::touch))),
        ("touch", || first_touch(fp::touch)),
        (wide_one, || switch(Some(arch::touch_wide), None)),
        (wide_both, || switch(Some(arch::touch_wide), Some(arch::touch_wide))),
        (wide_touch, || first_touch(arch::touch_wide)),
    ];
    let mut done = mix::play_all(wanted);
    for (name, measure) in measurements {
        if wanted(name) {
            let is_wide = arch::WIDE_NAMES.contains(&name);
            if is_wide && !fp::present().has(arch::WIDE) {
                println!("bench: no {} here", arch::WIDE);
                continue;
            }
            if (name.starts_with("switch") || name.starts_with("touch")) && smp::count() < 2 {
                println!("not ok {name}: needs two vCPUs");
                continue;
            }
            if name == "hypercall" && !arch::has_calls() {
                println!("bench: nobody answers calls here");
                continue;
            }
            let cost = measure();
            let [loads, saves, skips, bytes] = cost.ledger;
            println!("bench {name} {} {loads} {saves} {skips} {bytes}", each(instructions(cost.ticks), 0));
            done += 1;
        }
    }
    test("bench", || {
        guests::ensure!(done > 0, "nothing measured: only={}", only.unwrap_or(""));
        Ok(Done::Passed)
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
    TAKEN[cpu::index() % MAX_CPUS].fetch_add(1, Release);
    irq::end(number);
}

fn taken(cpu: usize) -> u64 {
    TAKEN[cpu].load(Acquire)
}

fn ledger() -> [u64; 4] {
    let counters = arch::ledger();
    if counters[0] == u64::MAX { [0; 4] } else { counters }
}

/// What one round took on average of a count that went from `start` to `end`.
fn each(end: u64, start: u64) -> u64 {
    (end.wrapping_sub(start) + ROUNDS / 2) / ROUNDS
}

/// Runs `once` in rounds and returns what they took, less the loop's own cost.
fn all(once: impl Fn()) -> u64 {
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
    timed(&once) - empty
}

fn hypercall() -> Cost {
    Cost { ticks: all(arch::null_call), ..Cost::default() }
}

fn mmio_read() -> Cost {
    let address = arch::device();
    Cost { ticks: all(|| arch::device_read(address)), ..Cost::default() }
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
    Cost { ticks: total, ..Cost::default() }
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
    Cost { ticks: total, ..Cost::default() }
}

/// Rounds of ping-pong with vCPU 1 on the same CPU: an IPI to the peer, sleep until its answer. A round is two switches.
fn switch(mine: Option<Touch>, peers: Option<Touch>) -> Cost {
    ping_pong(peers, || {
        if let Some(touch) = mine {
            touch();
        }
        0
    })
    .0
}

/// The first FP instruction of a turn, where registers are given up at the end of each: what it takes more than the next.
fn first_touch(touch: Touch) -> Cost {
    let timed = || {
        let start = timer::now();
        touch();
        timer::now() - start
    };
    let rounds = Cell::new(0);
    let (mut cost, ticks) = ping_pong(None, || {
        // At another place within a tick each time: the average is what it takes, and not what ticks make of it. A round of
        // `spin` is two instructions.
        let round = rounds.replace(rounds.get() + 1);
        cpu::spin(1 + round % 5);
        if round / 5 % 2 == 1 {
            // SAFETY: does nothing.
            unsafe { asm!("nop", options(nomem, nostack, preserves_flags)) }
        }
        timed() - timed()
    });
    cost.ticks = ticks;
    cost
}

/// Plays ping-pong with vCPU 1; returns what the rounds cost, and the sum of what `turn` returned.
fn ping_pong(peers: Option<Touch>, turn: impl Fn() -> u64) -> (Cost, u64) {
    PEERS_TOUCH.store(peers.map_or(0, |touch| touch as usize), Release);
    STOP.store(false, Release);
    READY.store(false, Release);
    FIRST.store(taken(1), Release);
    smp::start(1, answer).expect("vCPU 1 starts");
    while !READY.load(Acquire) {
        core::hint::spin_loop();
    }
    arch::enable_all();
    let (mut start, mut sum) = ((0, [0; 4]), 0);
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            (start, sum) = ((timer::now(), ledger()), 0);
        }
        sum += turn();
        let before = taken(0);
        irq::send(IPI, 1);
        cpu::sleep_until(|| taken(0) != before);
    }
    let end = (timer::now(), ledger());
    STOP.store(true, Release);
    irq::send(IPI, 1);
    smp::join(1);
    let mut cost = Cost { ticks: end.0 - start.0, ..Cost::default() };
    for (part, (end, start)) in cost.ledger.iter_mut().zip(end.1.iter().zip(start.1)) {
        *part = each(*end, start);
    }
    (cost, sum)
}

/// vCPU 1: waits for the ball, plays it back.
fn answer(me: usize) {
    let touch = match PEERS_TOUCH.load(Acquire) {
        0 => None,
        // SAFETY: the only value stored besides 0 is a `Touch`, by `ping_pong`.
        touch => Some(unsafe { core::mem::transmute::<usize, Touch>(touch) }),
    };
    arch::enable_all();
    READY.store(true, Release);
    let mut seen = 0;
    let first = FIRST.load(Acquire);
    loop {
        cpu::sleep_until(|| taken(me) - first > seen);
        seen += 1;
        if STOP.load(Acquire) {
            return;
        }
        if let Some(touch) = touch {
            touch();
        }
        irq::send(IPI, 0);
    }
}
