//! Proves that nobody loses or leaks FP registers: every vCPU keeps patterns of its own in some of its units through
//! preemption, sleep, interrupts from its peer, and times without FP, and checks every register after each. What other
//! units show of it must be nobody else's.
//!
//! Arguments: `seconds=` (default 5), `seed=` (default 1; one per guest), `idle=` (percent of steps that sleep, default
//! 25), `nofp=1` (the same life without FP: the guest that must not pay), `bare=1` (skip what only a hypervisor hides),
//! `units=` (what each vCPU uses, where the CPU has it: `fpu/lasx+lbt` is two kinds of vCPUs by turns; default everything),
//! `slow=` (each pattern for so many ms without a look at it: time for a vCPU to go elsewhere and come back).
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "loongarch64", path = "loongarch64.rs")]
mod arch;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use guests::cpu::MAX_CPUS;
use guests::fp::{self, Mismatch, Owner, State, Units};
use guests::report::{Done, Outcome};
use guests::rng::Rng;
use guests::{args, cpu, ensure, irq, println, report, smp, timer, trap};
use spin::Once;

guests::guest!(main);

/// The interrupt the vCPUs send each other; its handler uses FP.
const WITH_FP: u32 = 1;
/// The interrupt whose handler does not.
const WITHOUT_FP: u32 = 2;

/// What one vCPU did and found.
struct Tally {
    checks: AtomicU64,
    sleeps: AtomicU64,
    signals: AtomicU64,
    gaps: AtomicU64,
    in_handler: AtomicU64,
    failed: AtomicBool,
}

static TALLY: [Tally; MAX_CPUS] = [const {
    Tally {
        checks: AtomicU64::new(0),
        sleeps: AtomicU64::new(0),
        signals: AtomicU64::new(0),
        gaps: AtomicU64::new(0),
        in_handler: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    }
}; MAX_CPUS];

fn main() {
    irq::on_interrupt(on_interrupt);
    if args::flag("nofp") {
        report::test("no-fp-life", || {
            smp::on_all(live_without_fp);
            println!(
                "fp-torture: no FP, {} sleeps, {} IPIs",
                sum(|tally| &tally.sleeps),
                sum(|tally| &tally.signals)
            );
            Ok(Done::Passed)
        });
        return;
    }
    fp::enable(mine());
    println!("fp-torture: vCPU 0 uses {} of {}", mine(), fp::present());
    if mine().has(Units::BASE) {
        report::test("fp-registers-work", registers_work);
        report::test("fp-off-traps-to-the-guest", off_traps);
    }
    if args::text("units").is_none() {
        arch::tests();
    }
    report::test("fp-registers-survive", || {
        smp::on_all(torture);
        println!(
            "fp-torture: {} checks, {} sleeps, {} IPIs ({} with FP in the handler), {} gaps without FP",
            sum(|tally| &tally.checks),
            sum(|tally| &tally.sleeps),
            sum(|tally| &tally.signals),
            sum(|tally| &tally.in_handler),
            sum(|tally| &tally.gaps),
        );
        for (number, tally) in TALLY.iter().enumerate().take(smp::count()) {
            ensure!(!tally.failed.load(Relaxed), "vCPU {number} lost a register, see above");
            ensure!(
                tally.checks.load(Relaxed) > 0 || units(number).is_empty(),
                "vCPU {number} never checked"
            );
        }
        Ok(Done::Passed)
    });
}

/// Gives others a chance to run on this CPU, for a time that `seed` chooses.
pub(crate) fn pause(seed: u32) {
    let mut rng = Rng::new(seed.into());
    match rng.below(3) {
        0 => timer::sleep(timer::micros(rng.below(2000))),
        1 => timer::busy(timer::micros(rng.below(2000))),
        _ => {}
    }
}

/// Tells what this vCPU uses.
fn mine() -> Units {
    units(cpu::index())
}

/// Tells what a vCPU uses.
fn units(number: usize) -> Units {
    static ALL: Once<[Units; MAX_CPUS]> = Once::new();
    ALL.call_once(|| {
        let Some(text) = args::text("units") else { return [fp::present(); MAX_CPUS] };
        let mut kinds = text.split('/').cycle().map(|kind| match Units::parse(kind) {
            Some(units) => units.common(fp::present()),
            None => panic!("units={text}: `{kind}` is not known"),
        });
        core::array::from_fn(|_| kinds.next().expect("endless"))
    })[number]
}

fn sum(part: impl Fn(&Tally) -> &AtomicU64) -> u64 {
    TALLY.iter().map(|tally| part(tally).load(Relaxed)).sum()
}

fn owner(cpu: usize) -> Owner {
    Owner { seed: args::number("seed", 1) as u16, worker: cpu as u8 }
}

/// Shows that the check can fail: a changed register is found, by its number.
fn registers_work() -> Outcome {
    let pattern = State::pattern(owner(0), 0, mine());
    pattern.load();
    ensure!(pattern.check().is_none(), "{}", pattern.check().expect("just seen"));
    for (touch, register) in [(fp::touch as fn(), fp::TOUCHED), (fp::touch_control, fp::CONTROL)] {
        touch();
        let found = pattern.check();
        ensure!(
            found.is_some_and(|mismatch| mismatch.register == register),
            "a changed {register} was not found: {found:?}"
        );
        pattern.load();
    }
    let other = Owner { seed: !owner(0).seed, worker: 0 };
    let found = State::read(mine());
    ensure!(found.foreign(owner(0)).is_none(), "its own pattern looks foreign");
    ensure!(found.foreign(other).is_some(), "a foreign pattern was not found");
    Ok(Done::Passed)
}

fn off_traps() -> Outcome {
    let pattern = State::pattern(owner(0), 1, mine());
    pattern.load();
    fp::disable();
    let trap = trap::catch(fp::touch);
    fp::enable(mine());
    ensure!(trap.is_some_and(|trap| trap.is_fp_disabled()), "found {trap:x?}");
    ensure!(pattern.check().is_none(), "{}", pattern.check().expect("just seen"));
    Ok(Done::Passed)
}

/// Counts, and for one of the IPIs uses FP as a kernel's handler does: saves what is there, puts other things there,
/// checks them, puts back what was there.
fn on_interrupt(number: u32) {
    let tally = &TALLY[cpu::index()];
    match number {
        irq::TIMER => timer::on_irq(),
        WITH_FP if !args_nofp() && !mine().is_empty() => {
            let (controls, units) = (fp::controls(), mine());
            fp::enable(units);
            let saved = State::read(units);
            let count = tally.in_handler.fetch_add(1, Relaxed);
            let pattern = State::pattern(owner(cpu::index()), HANDLERS | count as u32, units);
            pattern.load();
            if let Some(mismatch) = pattern.check() {
                tally.failed.store(true, Relaxed);
                LOST.store(true, Relaxed);
                report::abort(format_args!("in an interrupt handler: {mismatch}"));
            }
            saved.load();
            fp::restore_controls(controls);
        }
        _ => {}
    }
    tally.signals.fetch_add(u64::from(number < irq::IPIS), Relaxed);
}

/// The bit of a round that says that a pattern is a handler's.
const HANDLERS: u32 = 1 << 12;

/// Set when any vCPU lost a register: the others stop too.
static LOST: AtomicBool = AtomicBool::new(false);

fn args_nofp() -> bool {
    // The handler asks often; the words of the command line do not change.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    if KNOWN.load(Relaxed) == 0 {
        KNOWN.store(1 + u64::from(args::flag("nofp")), Relaxed);
    }
    KNOWN.load(Relaxed) == 2
}

/// One vCPU's turn: pattern, some steps of life, a check after each.
fn torture(number: usize) {
    if mine().is_empty() {
        return live_without_fp(number);
    }
    let owner = owner(number);
    let mut rng = Rng::new(u64::from(owner.seed) << 8 | u64::from(owner.worker));
    let end = timer::now() + timer::micros(args::number("seconds", 5) * 1_000_000);
    let tally = &TALLY[number];
    let mut round = 0;
    let slow = args::number("slow", 0);
    if slow > 0 {
        return torture_slowly(number, end, timer::micros(1_000 * slow));
    }
    // What a vCPU that was just started finds is nobody else's.
    fp::enable(mine());
    if let Some(mismatch) = State::read(mine()).foreign(owner) {
        lost(number, round, format_args!("at the start: {mismatch}"));
        return;
    }
    while timer::now() < end && !LOST.load(Relaxed) {
        round += 1;
        let units = mine().draw(&mut rng);
        fp::enable(units);
        let pattern = State::pattern(owner, round & !HANDLERS, units);
        pattern.load();
        for step in 0..1 + rng.below(8) {
            let (did, seen) = live(number, &mut rng, &pattern, units);
            tally.checks.fetch_add(1, Relaxed);
            if let Some(mismatch) = seen.or_else(|| pattern.check()) {
                lost(number, round, format_args!("{units} step {step} after {did}: {mismatch}"));
                return;
            }
        }
    }
    fp::disable();
}

/// Keeps a pattern in the registers, leaves them alone for a time, awake or asleep, and looks at it.
fn torture_slowly(number: usize, end: u64, time: u64) {
    let mut rng = Rng::new(number as u64);
    for round in 0.. {
        let pattern = State::pattern(owner(number), round & !HANDLERS, mine());
        pattern.load();
        if round == 0 {
            println!("fp-torture: vCPU {number} is slow");
        }
        match rng.below(100) < args::number("idle", 25) {
            true => timer::sleep(time),
            false => timer::busy(time),
        }
        TALLY[number].checks.fetch_add(1, Relaxed);
        let found = State::read(mine());
        if let Some(mismatch) = found.foreign(owner(number)).or_else(|| pattern.compare(&found)) {
            return lost(number, round, format_args!("after a long time: {mismatch}"));
        }
        if timer::now() >= end || LOST.load(Relaxed) {
            return;
        }
    }
}

fn lost(number: usize, round: u32, what: core::fmt::Arguments<'_>) {
    TALLY[number].failed.store(true, Relaxed);
    LOST.store(true, Relaxed);
    println!("MISMATCH vCPU {number} seed {:#x} round {round} {what}", owner(number).seed);
}

/// Looks at what other units show, and tells what is wrong with it: of what the pattern covers everything has to be
/// there, and the rest may be anything but somebody else's.
fn look(number: usize, pattern: &State, others: Units) -> Option<Mismatch> {
    fp::enable(others);
    let found = State::read(others);
    pattern.compare(&found).or_else(|| found.foreign(owner(number)))
}

/// Does one random thing that FP registers must survive, and says which; what it saw at once is wrong when it says so.
fn live(number: usize, rng: &mut Rng, pattern: &State, units: Units) -> (&'static str, Option<Mismatch>) {
    let tally = &TALLY[number];
    if rng.below(100) < args::number("idle", 25) {
        tally.sleeps.fetch_add(1, Relaxed);
        timer::sleep(timer::micros(rng.below(300)));
        return ("sleep", None);
    }
    let did = match rng.below(7) {
        0 => {
            let peer = rng.below(smp::count() as u64) as usize;
            irq::send(if rng.below(2) == 0 { WITH_FP } else { WITHOUT_FP }, peer);
            "sending an IPI"
        }
        1 => {
            // A guest that is lazy itself: FP off, other work, back on at its own trap.
            tally.gaps.fetch_add(1, Relaxed);
            fp::disable();
            cpu::spin(rng.below(20_000));
            if rng.below(2) == 0 {
                timer::sleep(timer::micros(rng.below(100)));
            }
            fp::enable(units);
            "a time with FP off"
        }
        2 => {
            // Long enough to be preempted with the registers loaded.
            timer::busy(timer::micros(rng.below(4000)));
            "a long spin"
        }
        3 => {
            for _ in 0..1 + rng.below(4) {
                tally.sleeps.fetch_add(1, Relaxed);
                timer::sleep(timer::micros(rng.below(50)));
            }
            "several sleeps without FP between"
        }
        4 => {
            let seen = look(number, pattern, mine().draw(rng));
            cpu::spin(rng.below(10_000));
            fp::enable(units);
            return ("a look through other units", seen);
        }
        _ => {
            cpu::spin(rng.below(5_000));
            "a short spin"
        }
    };
    (did, None)
}

fn live_without_fp(number: usize) {
    let mut rng = Rng::new(args::number("seed", 1) << 8 | number as u64);
    let end = timer::now() + timer::micros(args::number("seconds", 5) * 1_000_000);
    while timer::now() < end {
        match rng.below(4) {
            0 => irq::send(WITHOUT_FP, rng.below(smp::count() as u64) as usize),
            1 => timer::busy(timer::micros(rng.below(2000))),
            2 => cpu::spin(rng.below(5_000)),
            _ => {
                TALLY[number].sleeps.fetch_add(1, Relaxed);
                timer::sleep(timer::micros(rng.below(300)));
            }
        }
    }
}
