//! Shows that the interrupt controller a guest sees is one: everything that software can do to it, and what then comes, in
//! which order, on which vCPU.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use guests::report::{Done, Outcome};
use guests::timer::within;
use guests::{cpu, ensure, irq, smp, timer};

guests::guest!(arch::main);

/// Interrupts in the order they were taken: the number, the vCPU in bits 30:16, and [`WRITTEN`].
static LOG: [AtomicU32; 128] = [const { AtomicU32::new(0) }; 128];
/// Tells an entry from one that is counted already and still to be written.
const WRITTEN: u32 = 1 << 31;
static LOGGED: AtomicUsize = AtomicUsize::new(0);

fn log(number: u32) {
    let at = LOGGED.fetch_add(1, Relaxed);
    LOG[at % LOG.len()].store(number | (cpu::index() as u32) << 16 | WRITTEN, Release);
}

fn logged() -> usize {
    LOGGED.load(Acquire)
}

/// Returns an entry below [`logged`]; 0 if nobody finishes writing it.
fn entry(at: usize) -> u32 {
    let entry = &LOG[at % LOG.len()];
    soon(|| entry.load(Acquire) & WRITTEN != 0);
    entry.load(Acquire) & !WRITTEN
}

/// Logs interrupts from here on and forgets earlier ones.
fn forget() {
    irq::on_interrupt(log);
    LOG.iter().for_each(|entry| entry.store(0, Relaxed));
    LOGGED.store(0, Release);
}

/// Waits until `done` or for half a second; tells which.
fn soon(done: impl Fn() -> bool) -> bool {
    within(500_000, done)
}

/// Waits long enough for an interrupt that must not come.
fn a_while() {
    timer::busy(timer::micros(3000));
}

static STAY: AtomicBool = AtomicBool::new(false);
static THERE: AtomicBool = AtomicBool::new(false);

/// Runs `body` while vCPU 1 is up and takes interrupts.
fn with_peer(body: impl FnOnce() -> Outcome) -> Outcome {
    if smp::count() < 2 {
        return Ok(Done::Skipped("one vCPU"));
    }
    STAY.store(true, Release);
    THERE.store(false, Release);
    let started = smp::start(1, |_| {
        THERE.store(true, Release);
        while STAY.load(Acquire) {
            core::hint::spin_loop();
        }
    });
    ensure!(started.is_ok(), "vCPU 1: {started:?}");
    let there = soon(|| THERE.load(Acquire));
    let outcome = if there { body() } else { Err(guests::why!("vCPU 1 did not come up")) };
    STAY.store(false, Release);
    smp::join(1);
    outcome
}
