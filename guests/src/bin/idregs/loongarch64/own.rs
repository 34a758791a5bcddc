//! What every vCPU has for itself, and keeps while others use the same CPU: control registers, translations, its timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::arch::csr as number;
use guests::arch::paging::{self, PAGE, Space};
use guests::arch::timer::state;
use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, Why};
use guests::rng::{Rng, mix};
use guests::{args, change_csr, cpu, csr, ensure, set_csr, smp, timer, why};

/// How long each of these tests takes, in microseconds.
fn duration() -> u64 {
    args::number("millis", 800) * 1000
}

/// What a vCPU found wrong first: the number of the thing, what was expected, what was found; 0 in the last if nothing.
struct Wrong {
    what: AtomicU64,
    expected: AtomicU64,
    found: AtomicU64,
    count: AtomicU64,
}

static WRONG: [Wrong; MAX_CPUS] = [const {
    Wrong {
        what: AtomicU64::new(0),
        expected: AtomicU64::new(0),
        found: AtomicU64::new(0),
        count: AtomicU64::new(0),
    }
}; MAX_CPUS];
static ROUNDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn check(me: usize, what: u64, expected: u64, found: u64) {
    let wrong = &WRONG[me];
    if expected != found && wrong.count.fetch_add(1, Relaxed) == 0 {
        wrong.what.store(what, Relaxed);
        wrong.expected.store(expected, Relaxed);
        wrong.found.store(found, Relaxed);
    }
}

/// Runs a check on all vCPUs, again and again, with sleeps and spins between, and tells what was wrong.
fn on_all(job: fn(usize), name: fn(u64) -> Why) -> Outcome {
    for (wrong, rounds) in WRONG.iter().zip(&ROUNDS) {
        wrong.count.store(0, Relaxed);
        rounds.store(0, Relaxed);
    }
    smp::on_all(job);
    for (cpu, wrong) in WRONG.iter().enumerate().take(smp::count()) {
        if wrong.count.load(Relaxed) != 0 {
            return Err(why!(
                "vCPU {cpu}: {} is {:#x}, expected {:#x} ({} times)",
                name(wrong.what.load(Relaxed)),
                wrong.found.load(Relaxed),
                wrong.expected.load(Relaxed),
                wrong.count.load(Relaxed)
            ));
        }
        ensure!(ROUNDS[cpu].load(Relaxed) > 0, "vCPU {cpu} never checked");
    }
    Ok(Done::Passed)
}

/// Lets time pass, so that somebody else has the CPU or this vCPU another one.
fn pass_time(rng: &mut Rng) {
    match rng.below(3) {
        0 => timer::sleep(timer::micros(rng.below(300))),
        1 => timer::busy(timer::micros(rng.below(3000))),
        _ => cpu::spin(rng.below(3000)),
    }
}

/// Control registers that keep any value in these bits and have no effect meanwhile.
macro_rules! registers {
    ($($number:expr, $bits:expr;)*) => {
        /// Numbers of the registers.
        const REGISTERS: &[u32] = &[$($number),*];

        /// Gives each a value of its own.
        fn fill(tag: u64) {
            $(change_csr!($number, $bits, mix(tag ^ u64::from($number)));)*
        }

        /// Checks them all.
        fn compare(me: usize, tag: u64) {
            $(check(me, $number.into(), mix(tag ^ u64::from($number)) & $bits, csr!($number) & $bits);)*
        }
    };
}

registers! {
    number::TLBEHI, 0x0000_ffff_ffff_e000;
    number::TLBELO0, 0x0000_ffff_ffff_f07f;
    number::TLBELO1, 0x0000_ffff_ffff_f07f;
    number::ASID, 0x3ff;
    number::SAVE0 + 1, u64::MAX;
    number::SAVE0 + 2, u64::MAX;
    number::SAVE0 + 4, u64::MAX;
    number::SAVE0 + 5, u64::MAX;
    number::SAVE0 + 6, u64::MAX;
    number::SAVE0 + 7, u64::MAX;
    number::TID, 0xffff_ffff;
    number::TLBRSAVE, u64::MAX;
    number::TLBRBADV, u64::MAX;
    number::DMW0 + 2, 0x7000_0000_0000_0000;
    number::DMW0 + 3, 0x7000_0000_0000_0000;
}

pub(super) fn registers_survive() -> Outcome {
    on_all(
        |me| {
            let mut rng = Rng::new(args::number("seed", 1) << 8 | me as u64);
            let end = timer::now() + timer::micros(duration());
            while timer::now() < end {
                let tag = rng.draw();
                fill(tag);
                for _ in 0..1 + rng.below(6) {
                    pass_time(&mut rng);
                    compare(me, tag);
                }
                check(me, number::CPUID.into(), cpu::id(), csr!(number::CPUID) & 0x1ff);
                ROUNDS[me].fetch_add(1, Relaxed);
            }
            change_csr!(number::ASID, 0x3ff, 0);
        },
        |register| {
            let known = REGISTERS.contains(&(register as u32));
            why!("{} {register:#x}", if known { "CSR" } else { "register" })
        },
    )
}

/// A space for each vCPU: the same addresses show each its own page.
static SPACES: [Space; MAX_CPUS] = [const { Space::new() }; MAX_CPUS];

/// A page for each vCPU.
#[repr(C, align(4096))]
struct Pages([[AtomicU64; 512]; MAX_CPUS]);
static PAGES: Pages = Pages([const { [const { AtomicU64::new(0) }; 512] }; MAX_CPUS]);

/// Where the spaces show it: in every slot of the window.
const WINDOW: u64 = 0x10_0000_0000;

/// Reads a word by a mapped address.
fn peek(address: u64) -> u64 {
    let value: u64;
    // SAFETY: the address is mapped to a page of PAGES, of which all access is to whole words.
    unsafe { asm!("ld.d {0}, {1}, 0", out(reg) value, in(reg) address, options(nostack, readonly)) };
    value
}

/// Whoever sees another's translations, of this guest or another, sees another number, or faults.
pub(super) fn translations_survive() -> Outcome {
    let outcome = on_all(
        |me| {
            let mut rng = Rng::new(args::number("seed", 1) << 16 | me as u64);
            let end = timer::now() + timer::micros(duration());
            let page = PAGES.0[me].as_ptr() as u64 & 0xffff_ffff_ffff;
            for slot in 0..512 {
                SPACES[me].map(slot, page, PAGE);
            }
            SPACES[me].install();
            let tag = mix(args::number("seed", 1) << 8 | me as u64);
            PAGES.0[me].iter().enumerate().for_each(|(n, word)| word.store(tag ^ n as u64, Relaxed));
            while timer::now() < end {
                for _ in 0..16 {
                    let (slot, word) = (rng.below(512), rng.below(512));
                    check(me, slot, tag ^ word, peek(WINDOW + slot * 4096 + word * 8));
                }
                if rng.below(16) == 0 {
                    paging::forget_all();
                }
                pass_time(&mut rng);
                ROUNDS[me].fetch_add(1, Relaxed);
            }
            paging::nothing().install();
        },
        |slot| why!("a word of page {slot}"),
    );
    paging::nothing().install();
    outcome
}

/// Returns the least and the most that the counter and TVAL can have been together.
fn sum() -> (u64, u64) {
    let (before, left, after) = (timer::now(), state()[1], timer::now());
    (before + left, after + left)
}

/// A timer that is far away counts down while its vCPU runs and while it waits for the CPU, as fast as the counter.
pub(super) fn time_goes_on() -> Outcome {
    on_all(
        |me| {
            let mut rng = Rng::new(args::number("seed", 1) << 24 | me as u64);
            // Interrupts stay masked: nobody else may arm the timer.
            let mask = cpu::mask_irq();
            set_csr!(number::TCFG, timer::micros(60_000_000) & !3 | 1);
            let begin = timer::now();
            let start = sum();
            while timer::now() < begin + timer::micros(duration()) {
                cpu::spin(rng.below(1_000_000));
                let (earliest, latest) = sum();
                // On an emulator some time passes between a hypervisor's reading of one and writing of the other. A timer
                // that stands still while its vCPU is out loses much more.
                let drift = timer::micros(50_000) + (timer::now() - begin) / 8;
                if earliest > start.1 + drift {
                    check(me, 1, start.1, earliest);
                } else if latest + drift < start.0 {
                    check(me, 2, start.0, latest);
                }
                ROUNDS[me].fetch_add(1, Relaxed);
            }
            timer::disarm();
            cpu::restore_irq(mask);
        },
        |which| why!("the {} sum of counter and TVAL", if which == 1 { "least" } else { "greatest" }),
    )
}
