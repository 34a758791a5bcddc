//! A guest that misbehaves: whatever it does stays inside it.
//!
//! Argument `case=`; without it, all cases a guest survives run one after the other.
//! Survived: `calls` (unknown hypervisor calls), `registers` (every system register), `chips` (all ones and zeros to every
//! register and gap of the interrupt controllers), `ipi-flood`, `memory` (reads, writes and fetches where nothing is),
//! `cpu-on-nowhere` (a vCPU started where nothing is); on LoongArch also `instructions` (undefined ones, those of a hypervisor, units
//! that are off or absent) and `page-tables` (pages and directories full of nonsense).
//! Not survived by itself: `vectors` (an exception with the vectors unmapped), `tables` (translation tables where nothing
//! is), `spin` (an endless loop with interrupts off), `sleep` (a sleep with nothing to wake it), `reset` (a reset, again and
//! again), `flood` (console output without end), `panic`.
//! With `bare=1` what only a hypervisor promises is not asked for.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64/mod.rs")]
mod arch;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::timer::within;
use guests::{args, cpu, ensure, irq, mmio, power, println, timer};

guests::guest!(main);

/// A name and what it does.
type Case = (&'static str, fn());

const FATAL: [Case; 7] = [
    ("vectors", arch::vectors),
    ("tables", arch::tables),
    ("spin", spin),
    ("sleep", sleep),
    ("reset", reset),
    ("flood", flood),
    ("panic", || panic!("as asked")),
];

/// Interrupt numbers are counted modulo this.
const NUMBERS: usize = 128;

/// Interrupts of each vCPU, by number.
static TAKEN: [[AtomicU32; NUMBERS]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; NUMBERS] }; MAX_CPUS];

fn main() {
    irq::on_interrupt(on_interrupt);
    match args::text("case") {
        None => arch::SURVIVED.iter().for_each(|(_, run)| run()),
        Some(name) => match arch::SURVIVED.iter().chain(&FATAL).find(|(known, _)| *known == name) {
            Some((_, run)) => run(),
            None => test("case", || Err(guests::why!("unknown case {name}"))),
        },
    }
    test("still-alive", still_alive);
}

fn on_interrupt(number: u32) {
    if number == irq::TIMER {
        timer::on_irq();
    }
    TAKEN[cpu::index()][number as usize % NUMBERS].fetch_add(1, Relaxed);
}

fn taken(cpu: usize, number: u32) -> u32 {
    TAKEN[cpu][number as usize % NUMBERS].load(Relaxed)
}

fn soon(done: impl Fn() -> bool) -> bool {
    within(500_000, done)
}

fn bare() -> bool {
    args::flag("bare")
}

/// After whatever was done: timers, IPIs and device interrupts work.
fn still_alive() -> Outcome {
    let start = timer::now();
    timer::sleep(timer::micros(1000));
    ensure!(timer::now() >= start + timer::micros(1000), "the timer is early");
    for number in [7, arch::DEVICE] {
        let before = taken(0, number);
        if number < irq::IPIS {
            irq::send(number, 0);
        } else {
            arch::raise_device();
        }
        ensure!(soon(|| taken(0, number) > before), "interrupt {number} does not come any more");
    }
    Ok(Done::Passed)
}

/// Says what is coming, since nothing can be said after it.
fn announce(what: &str) {
    println!("bad: {what}");
}

fn spin() {
    announce("an endless loop with interrupts off");
    cpu::mask_irq();
    // Forever: nothing asks for the end of it.
    cpu::spin(u64::MAX);
}

fn sleep() {
    announce("a sleep with nothing to wake it");
    cpu::mask_irq();
    arch::silence();
    timer::disarm();
    loop {
        cpu::idle();
    }
}

/// Resets the machine; after as many times as `resets=` says it stays up, if the hypervisor keeps RAM over a reset.
fn reset() {
    const MAGIC: u64 = 0x7265_7365_7400_0000;
    static WANTED: AtomicU64 = AtomicU64::new(0);
    WANTED.store(args::number("resets", u64::MAX), Relaxed);
    // The last page of RAM: beyond the image and the tree.
    let cell = machine().ram + machine().ram_size - 4096;
    let count = mmio::read64(cell) ^ MAGIC;
    let count = if count < 1 << 24 { count } else { 0 };
    announce("a reset");
    if count < WANTED.load(Relaxed) {
        mmio::write64(cell, (count + 1) ^ MAGIC);
        arch::write_back(cell);
        power::system_reset();
    }
    println!("bad: up after {count} resets, vCPU {:#x}", cpu::id());
}

/// Prints as fast as it can, for `seconds=` (default for ever).
fn flood() {
    let seconds = args::number("seconds", u64::MAX >> 32);
    let end = timer::now().saturating_add(seconds.saturating_mul(timer::frequency()));
    let mut line = 0_u64;
    while timer::now() < end {
        line += 1;
        println!("bad: flood line {line} ................................................................");
    }
}
