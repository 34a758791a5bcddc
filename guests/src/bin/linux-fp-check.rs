//! Proves that FP registers survive inside a Linux guest: `linux-fp-check [WORKERS [SECONDS]] [--seed N]`.
//!
//! A static program without a C library. It forks WORKERS processes (default 4) that each keep patterns of their own in
//! V0-V31, FPCR and FPSR for SECONDS (default 10), give up the CPU by system calls or have it taken away while they spin,
//! and check every register after each. Prints `fp-check: ok, N workers, M checks` and exits with 0, or one line
//! `fp-check: MISMATCH ...` for each worker that lost a register and exits with 1.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::fp::{Owner, State};
use guests::rng::Rng;

/// System call numbers of arm64 (Linux `include/uapi/asm-generic/unistd.h`).
mod number {
    pub(crate) const WRITE: u64 = 64;
    pub(crate) const EXIT_GROUP: u64 = 94;
    pub(crate) const NANOSLEEP: u64 = 101;
    pub(crate) const CLOCK_GETTIME: u64 = 113;
    pub(crate) const SCHED_YIELD: u64 = 124;
    pub(crate) const GETPID: u64 = 172;
    pub(crate) const CLONE: u64 = 220;
    pub(crate) const MMAP: u64 = 222;
    pub(crate) const WAIT4: u64 = 260;
}

const SIGCHLD: u64 = 17;
const CLOCK_MONOTONIC: u64 = 1;
const PROT_READ_WRITE: u64 = 3;
const MAP_SHARED_ANONYMOUS: u64 = 0x21;
const MOST_WORKERS: u64 = 64;
const NANOS: u64 = 1_000_000_000;

/// Entered by the kernel with the argument count at the stack pointer.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "ldr x0, [sp]", "add x1, sp, #8", "b {main}", main = sym main)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say(format_args!("fp-check: {info}\n"));
    exit(2)
}

/// Makes a system call and returns the kernel's x0: negative for an error.
fn call(number: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: every caller passes pointers to objects that live through the call, of the size the call wants; the kernel
    // preserves all registers but x0. CLONE without CLONE_VM gives the child a copy of everything.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1], in("x2") args[2],
            in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
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
}

/// Reads the arguments; an unknown one is `None`.
fn wanted(count: usize, args: *const *const u8) -> Option<Wanted> {
    let (mut numbers, mut given, mut seed) = ([4, 10], 0, 1);
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
            text => {
                *numbers.get_mut(given)? = text.parse().ok()?;
                given += 1;
            }
        }
        n += 1;
    }
    let [workers, seconds] = numbers;
    (1..=MOST_WORKERS).contains(&workers).then_some(Wanted { workers, seconds, seed })
}

extern "C" fn main(count: usize, args: *const *const u8) -> ! {
    let Some(wanted) = wanted(count, args) else {
        say(format_args!("usage: linux-fp-check [WORKERS [SECONDS]] [--seed N]\n"));
        exit(2)
    };
    let shared = call(number::MMAP, [0, 4096, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, u64::MAX, 0]);
    if shared < 0 {
        say(format_args!("fp-check: mmap failed with {shared}\n"));
        exit(2)
    }
    // SAFETY: mmap returned a zeroed page that is never unmapped; the workers share it through this one atomic.
    let checks = unsafe { &*(shared as *const AtomicU64) };
    let end = nanos() + wanted.seconds * NANOS;
    for worker in 0..wanted.workers {
        match call(number::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) {
            0 => exit(u64::from(!work(worker as u8, wanted.seed as u16, end, checks))),
            child if child < 0 => {
                say(format_args!("fp-check: fork failed with {child}\n"));
                exit(2)
            }
            _ => {}
        }
    }
    let mut failed = 0;
    for _ in 0..wanted.workers {
        let mut status = 0_u32;
        let child = call(number::WAIT4, [u64::MAX, (&raw mut status) as u64, 0, 0, 0, 0]);
        failed += u64::from(child < 0 || status != 0);
    }
    let checks = checks.load(Relaxed);
    if failed > 0 || checks == 0 {
        say(format_args!("fp-check: FAILED, {failed} of {} workers, {checks} checks\n", wanted.workers));
        exit(1)
    }
    say(format_args!("fp-check: ok, {} workers, {checks} checks\n", wanted.workers));
    exit(0)
}

/// One worker's life until `end`; tells whether every check held.
fn work(worker: u8, seed: u16, end: u64, checks: &AtomicU64) -> bool {
    let owner = Owner { seed, worker };
    let mut rng = Rng::new(u64::from(seed) << 8 | u64::from(worker));
    let mut round = 0;
    while nanos() < end {
        round += 1;
        let pattern = State::pattern(owner, round);
        pattern.load();
        for step in 0..1 + rng.below(8) {
            let did = live(&mut rng);
            checks.fetch_add(1, Relaxed);
            if let Some(mismatch) = pattern.check() {
                say(format_args!(
                    "fp-check: MISMATCH worker {worker} seed {seed} round {round} step {step} after {did}: {mismatch}\n"
                ));
                return false;
            }
        }
    }
    true
}

/// Does one random thing that FP registers must survive, and says which.
fn live(rng: &mut Rng) -> &'static str {
    match rng.below(8) {
        0 => {
            call0(number::SCHED_YIELD);
            "sched_yield"
        }
        1 => {
            nap(rng.below(2_000_000));
            "nanosleep"
        }
        2 => {
            call0(number::GETPID);
            "getpid"
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
    }
}
