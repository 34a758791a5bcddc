//! Counts what the hypervisor costs: one line `bench NAME INSTRUCTIONS LOADS SAVES SKIPS BYTES` per measurement.
//!
//! Under `-icount shift=0` with a counter of 1 GHz a tick is an instruction, so the time that passes in an operation, less
//! that of the empty loop around it, is the number of instructions executed for it, guest and hypervisor together.
//! Argument: `only=NAME[,NAME...]` (default all). LOADS to BYTES are this VM's, by the hypervisor's ledger, per round,
//! rounded; they are 0 where nothing moves FP or no ledger answers.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::start::machine;
use guests::trap::Frame;
use guests::{args, cpu, fp, gic, mmio, println, psci, smp, timer, trap};

guests::guest!(main);

/// A call that nobody implements: the shortest way into the hypervisor and back.
const NULL_CALL: u64 = 0x4b00_0000;
/// Fermata's ledger of this VM: x0 to x3 are loads, saves, skips and bytes; x0 is -1 when unavailable.
const LEDGER_CALL: u64 = 0xc600_0001;

const ROUNDS: u64 = 200;
const WARM_UP: u64 = 20;
const SGI: u32 = 1;

/// Interrupts taken, by vCPU.
static TAKEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// When the vectors were last entered for an interrupt, on vCPU 0.
static ENTERED: AtomicU64 = AtomicU64::new(0);
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
    gic::enable(timer::VIRTUAL);
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
    let intid = gic::acknowledge();
    if intid == timer::VIRTUAL {
        timer::disarm();
    }
    if cpu::index() == 0 {
        ENTERED.store(frame.time, Relaxed);
    }
    TAKEN[cpu::index() & 1].fetch_add(1, Release);
    gic::end(intid);
}

fn taken(cpu: usize) -> u64 {
    TAKEN[cpu].load(Acquire)
}

fn ledger() -> [u64; 4] {
    let counters = psci::hvc(LEDGER_CALL, [0; 3]);
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
    let ticks = average(|| {
        // SAFETY: the calling convention lets a call change x0 to x17 (DEN0028 2.6); this one is not implemented.
        unsafe {
            asm!("hvc #0", inout("x0") NULL_CALL => _, lateout("x1") _, lateout("x2") _, lateout("x3") _,
                lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _,
                lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _,
                lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _, options(nostack));
        }
    });
    Cost { ticks, ..Cost::default() }
}

fn mmio_read() -> Cost {
    let address = machine().gicd + gic::GICD_TYPER;
    let ticks = average(|| {
        mmio::read32(address);
    });
    Cost { ticks, ..Cost::default() }
}

/// An SGI to this vCPU itself, until its handler has been entered.
fn ipi() -> Cost {
    let mut total = 0;
    for round in 0..WARM_UP + ROUNDS {
        let before = taken(0);
        let start = timer::now();
        gic::send(SGI, 0);
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

/// Rounds of ping-pong with vCPU 1 on the same CPU: an SGI to the peer, WFI until its answer. A round is two switches.
fn switch(mine: bool, peers: bool) -> Cost {
    let controls = |uses: bool| if uses { fp::enable() } else { fp::disable() };
    PEER_USES_FP.store(peers, Release);
    STOP.store(false, Release);
    FIRST.store(taken(1), Release);
    assert!(smp::start(1, answer) == psci::SUCCESS, "vCPU 1 does not start");
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
    gic::send(SGI, 1);
    smp::join(1);
    let each = |end: u64, start: u64| (end.wrapping_sub(start) + ROUNDS / 2) / ROUNDS;
    let mut cost = Cost { ticks: each(end.0, start.0), ..Cost::default() };
    for (part, (end, start)) in cost.ledger.iter_mut().zip(end.1.iter().zip(start.1)) {
        *part = each(*end, start);
    }
    cost
}

/// One turn: an FP instruction or none, an SGI to the peer, sleep until it answers.
fn serve(me: usize, uses_fp: bool) {
    if uses_fp {
        fp::touch();
    }
    let before = taken(me);
    gic::send(SGI, 1 - me);
    cpu::sleep_until(|| taken(me) != before);
}

/// vCPU 1: waits for the ball, plays it back.
fn answer(me: usize) {
    let uses_fp = PEER_USES_FP.load(Acquire);
    if uses_fp {
        fp::enable();
    } else {
        fp::disable();
    }
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
        gic::send(SGI, 0);
    }
}
