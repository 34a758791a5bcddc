//! Proves that FP registers survive inside a Linux guest: `linux-fp-check [WORKERS [SECONDS]] [--seed N] [--modules]`.
//!
//! A static program without a C library. It forks WORKERS processes (default 4) that each keep patterns of their own in
//! all FP registers that Linux offers for SECONDS (default 10), give up the CPU by system calls or have it taken away while
//! they spin, and check every register after each. Prints `fp-check: ok, N workers, M checks` and exits with 0, or one line
//! `fp-check: MISMATCH ...` for each worker that lost a register and exits with 1.
//!
//! With `--modules` another process loads and unloads RAID's modules meanwhile, each time of which the kernel measures its own
//! vector code.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;
mod modules;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arch::call;
use guests::fp::{Owner, State, Units};
use guests::rng::Rng;

/// System call numbers, which both architectures have from the generic list (Linux `include/uapi/asm-generic/unistd.h`).
mod number {
    pub(crate) const OPENAT: u64 = 56;
    pub(crate) const CLOSE: u64 = 57;
    pub(crate) const WRITE: u64 = 64;
    pub(crate) const EXIT_GROUP: u64 = 94;
    pub(crate) const NANOSLEEP: u64 = 101;
    pub(crate) const DELETE_MODULE: u64 = 106;
    pub(crate) const CLOCK_GETTIME: u64 = 113;
    pub(crate) const SCHED_YIELD: u64 = 124;
    pub(crate) const GETPID: u64 = 172;
    pub(crate) const CLONE: u64 = 220;
    pub(crate) const MMAP: u64 = 222;
    pub(crate) const WAIT4: u64 = 260;
    pub(crate) const FINIT_MODULE: u64 = 273;
}

/// The entry of the auxiliary vector that tells what the CPU has, to Linux's knowledge.
const AT_HWCAP: u64 = 16;
const SIGCHLD: u64 = 17;
const CLOCK_MONOTONIC: u64 = 1;
const PROT_READ_WRITE: u64 = 3;
const MAP_SHARED_ANONYMOUS: u64 = 0x21;
const MOST_WORKERS: u64 = 64;
const NANOS: u64 = 1_000_000_000;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say(format_args!("fp-check: {info}\n"));
    exit(2)
}

fn call0(number: u64) -> i64 {
    call(number, [0; 6])
}

fn exit(status: u64) -> ! {
    loop {
        call(number::EXIT_GROUP, [status, 0, 0, 0, 0, 0]);
    }
}

/// A line put together before it is written, so that lines of several workers do not mix.
struct Line {
    text: [u8; 320],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes().iter().take(self.text.len() - self.length) {
            self.text[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

fn say(text: fmt::Arguments<'_>) {
    let mut line = Line { text: [0; 320], length: 0 };
    let _ = line.write_fmt(text);
    call(number::WRITE, [1, line.text.as_ptr() as u64, line.length as u64, 0, 0, 0]);
}

fn nanos() -> u64 {
    let mut time = [0_u64; 2];
    call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr() as u64, 0, 0, 0, 0]);
    time[0] * NANOS + time[1]
}

fn nap(nanos: u64) {
    let time = [nanos / NANOS, nanos % NANOS];
    call(number::NANOSLEEP, [time.as_ptr() as u64, 0, 0, 0, 0, 0]);
}

/// What the command line asks for.
#[derive(Clone, Copy)]
struct Wanted {
    workers: u64,
    seconds: u64,
    seed: u64,
    modules: bool,
}

/// Reads the arguments; an unknown one is `None`.
fn wanted(count: usize, args: *const *const u8) -> Option<Wanted> {
    let (mut numbers, mut given, mut seed, mut modules) = ([4, 10], 0, 1, false);
    let word = |n: usize| {
        // SAFETY: the kernel puts `count` pointers to NUL-terminated strings there; n < count by the loop below.
        unsafe { core::ffi::CStr::from_ptr((*args.add(n)).cast()) }.to_str().ok()
    };
    let mut n = 1;
    while n < count {
        match word(n)? {
            "--seed" if n + 1 < count => {
                n += 1;
                seed = word(n)?.parse().ok()?;
            }
            "--modules" => modules = true,
            text => {
                *numbers.get_mut(given)? = text.parse().ok()?;
                given += 1;
            }
        }
        n += 1;
    }
    let [workers, seconds] = numbers;
    (1..=MOST_WORKERS).contains(&workers).then_some(Wanted { workers, seconds, seed, modules })
}

/// Returns AT_HWCAP; 0 when there is none.
fn hwcap(count: usize, args: *const *const u8) -> u64 {
    // SAFETY: the kernel puts a null pointer behind the arguments, then environment strings and a null pointer, then
    // pairs of words that end with the type 0 (AT_NULL).
    unsafe {
        let mut at = args.add(count + 1);
        while !(*at).is_null() {
            at = at.add(1);
        }
        let mut pair = at.add(1).cast::<[u64; 2]>();
        loop {
            match pair.read_unaligned() {
                [AT_HWCAP, value] => return value,
                [0, _] => return 0,
                _ => pair = pair.add(1),
            }
        }
    }
}

pub(crate) extern "C" fn main(count: usize, args: *const *const u8) -> ! {
    let Some(wanted) = wanted(count, args) else {
        say(format_args!("usage: linux-fp-check [WORKERS [SECONDS]] [--seed N] [--modules]\n"));
        exit(2)
    };
    let shared = call(number::MMAP, [0, 4096, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, u64::MAX, 0]);
    if shared < 0 {
        say(format_args!("fp-check: mmap failed with {shared}\n"));
        exit(2)
    }
    // SAFETY: mmap returned a zeroed page that is never unmapped; the processes share it through these atomics.
    let [checks, rounds] = unsafe { &*(shared as *const [AtomicU64; 2]) };
    let end = nanos() + wanted.seconds * NANOS;
    let units = Units::from_hwcap(hwcap(count, args));
    for worker in 0..wanted.workers {
        let owner = Owner { seed: wanted.seed as u16, worker: worker as u8 };
        fork(|| work(owner, units, end, checks));
    }
    if wanted.modules {
        fork(|| modules::load_again_and_again(end, rounds));
    }
    let mut failed = 0;
    for _ in 0..wanted.workers + u64::from(wanted.modules) {
        let mut status = 0_u32;
        let child = call(number::WAIT4, [u64::MAX, (&raw mut status) as u64, 0, 0, 0, 0]);
        failed += u64::from(child < 0 || status != 0);
    }
    let checks = checks.load(Relaxed);
    if failed > 0 || checks == 0 {
        say(format_args!("fp-check: FAILED, {failed} of {} workers, {checks} checks\n", wanted.workers));
        exit(1)
    }
    if wanted.modules {
        say(format_args!("fp-check: modules loaded {} times\n", rounds.load(Relaxed)));
    }
    say(format_args!("fp-check: ok, {} workers, {checks} checks, {units}\n", wanted.workers));
    exit(0)
}

/// Makes a process that lives `life` and exits with 0 if that says so.
fn fork(life: impl FnOnce() -> bool) {
    match call(number::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) {
        0 => exit(u64::from(!life())),
        child if child < 0 => {
            say(format_args!("fp-check: fork failed with {child}\n"));
            exit(2)
        }
        _ => {}
    }
}

/// One worker's life until `end`; tells whether every check held.
fn work(owner: Owner, units: Units, end: u64, checks: &AtomicU64) -> bool {
    let Owner { seed, worker } = owner;
    let mut rng = Rng::new(u64::from(seed) << 8 | u64::from(worker));
    let mut round = 0;
    while nanos() < end {
        round += 1;
        let some = units.draw(&mut rng);
        let pattern = State::pattern(owner, round, some);
        pattern.load();
        for step in 0..1 + rng.below(8) {
            let (did, kept) = live(&mut rng, some);
            checks.fetch_add(1, Relaxed);
            let found = State::read(some);
            let seen =
                if kept == some { pattern.compare(&found) } else { pattern.compare(&State::read(kept)) };
            if let Some(mismatch) = seen.or_else(|| found.foreign(owner)) {
                say(format_args!(
                    "fp-check: MISMATCH worker {worker} seed {seed} round {round} {some} step {step} after {did}: {mismatch}\n"
                ));
                return false;
            }
            if kept != some {
                pattern.load();
            }
        }
    }
    true
}

/// Does one random thing, and says which, and what of `units` it must leave as it was.
fn live(rng: &mut Rng, units: Units) -> (&'static str, Units) {
    let did = match rng.below(8) {
        0 => {
            call0(number::SCHED_YIELD);
            return ("sched_yield", units.kept_by_calls());
        }
        1 => {
            nap(rng.below(2_000_000));
            return ("nanosleep", units.kept_by_calls());
        }
        2 => {
            call0(number::GETPID);
            return ("getpid", units.kept_by_calls());
        }
        3 => {
            // Long enough to be preempted by the guest's kernel and by the hypervisor.
            guests::cpu::spin(rng.below(4_000_000));
            "a long spin"
        }
        _ => {
            guests::cpu::spin(rng.below(40_000));
            "a short spin"
        }
    };
    (did, units)
}
