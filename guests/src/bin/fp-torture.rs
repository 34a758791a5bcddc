//! Proves that nobody loses or leaks FP registers: every vCPU keeps patterns of its own in V0-V31, FPCR and FPSR through
//! preemption, sleep, interrupts from its peer, and times without FP, and checks every register after each.
//!
//! Arguments: `seconds=` (default 5), `seed=` (default 1; one per guest), `idle=` (percent of steps that sleep, default
//! 25), `nofp=1` (the same life without FP: the guest that must not pay), `bare=1` (skip what only a hypervisor hides).
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use guests::cpu::MAX_CPUS;
use guests::fp::{self, Mismatch, Owner, State};
use guests::report::{Done, Outcome};
use guests::rng::Rng;
use guests::{args, cpu, ensure, gic, mrs, msr, println, report, smp, timer, trap};

guests::guest!(main);

/// The SGI the vCPUs send each other; its handler uses FP.
const WITH_FP: u32 = 1;
/// The SGI whose handler does not.
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
    gic::on_interrupt(on_interrupt);
    if args::flag("nofp") {
        report::test("no-fp-life", || {
            smp::on_all(live_without_fp);
            println!(
                "fp-torture: no FP, {} sleeps, {} SGIs",
                sum(|tally| &tally.sleeps),
                sum(|tally| &tally.signals)
            );
            Ok(Done::Passed)
        });
        return;
    }
    fp::enable();
    report::test("fp-registers-work", registers_work);
    report::test("fp-off-traps-to-el1", off_traps_to_el1);
    report::test("sve-is-undefined", || {
        undefined(|| {
            // SAFETY: RDVL x0, #1 changes x0 only; it is expected to trap.
            unsafe { asm!(".inst 0x04bf5020", out("x0") _, options(nostack)) }
        })
    });
    report::test("sme-is-undefined", || {
        undefined(|| {
            // SAFETY: SMSTOP, which clears streaming mode and ZA that are off; it is expected to trap.
            unsafe { asm!(".inst 0xd503467f", options(nostack)) }
        })
    });
    report::test("id-registers-hide-sve-and-sme", ids_hide);
    report::test("fp-registers-survive", || {
        smp::on_all(torture);
        println!(
            "fp-torture: {} checks, {} sleeps, {} SGIs ({} with FP in the handler), {} gaps without FP",
            sum(|tally| &tally.checks),
            sum(|tally| &tally.sleeps),
            sum(|tally| &tally.signals),
            sum(|tally| &tally.in_handler),
            sum(|tally| &tally.gaps),
        );
        for (number, tally) in TALLY.iter().enumerate().take(smp::count()) {
            ensure!(!tally.failed.load(Relaxed), "vCPU {number} lost a register, see above");
            ensure!(tally.checks.load(Relaxed) > 0, "vCPU {number} never checked");
        }
        Ok(Done::Passed)
    });
}

fn sum(part: impl Fn(&Tally) -> &AtomicU64) -> u64 {
    TALLY.iter().map(|tally| part(tally).load(Relaxed)).sum()
}

fn owner(cpu: usize) -> Owner {
    Owner { seed: args::number("seed", 1) as u16, worker: cpu as u8 }
}

/// Shows that the check can fail: a changed register is found, by its number.
fn registers_work() -> Outcome {
    let pattern = State::pattern(owner(0), 0);
    pattern.load();
    ensure!(pattern.check().is_none(), "{}", pattern.check().expect("just seen"));
    fp::touch();
    let found = pattern.check();
    ensure!(found.is_some_and(|mismatch| mismatch.register == 31), "a changed V31 was not found: {found:?}");
    pattern.load();
    msr!("S3_3_C4_C4_1", 0); // FPSR
    let found = pattern.check();
    ensure!(found.is_some_and(|mismatch| mismatch.register == 33), "a changed FPSR was not found: {found:?}");
    Ok(Done::Passed)
}

fn off_traps_to_el1() -> Outcome {
    let pattern = State::pattern(owner(0), 1);
    pattern.load();
    fp::disable();
    let trap = trap::catch(fp::touch);
    fp::enable();
    ensure!(trap.is_some_and(|trap| trap.class() == 0x07), "expected EC 0x07, found {trap:x?}");
    ensure!(pattern.check().is_none(), "{}", pattern.check().expect("just seen"));
    Ok(Done::Passed)
}

/// Executes an instruction of an extension with everything enabled that EL1 can enable: it must not exist all the same.
fn undefined(probe: fn()) -> Outcome {
    if args::flag("bare") {
        return Ok(Done::Skipped("no hypervisor hides it"));
    }
    // CPACR_EL1.SMEN, FPEN and ZEN.
    msr!("cpacr_el1", 0b11 << 24 | 0b11 << 20 | 0b11 << 16);
    cpu::isb();
    let trap = trap::catch(probe);
    fp::enable();
    ensure!(trap.is_some_and(|trap| trap.is_undefined()), "expected EC 0x00, found {trap:x?}");
    Ok(Done::Passed)
}

fn ids_hide() -> Outcome {
    if args::flag("bare") {
        return Ok(Done::Skipped("no hypervisor hides anything"));
    }
    let sve = mrs!("id_aa64pfr0_el1") >> 32 & 0xf;
    let sme = mrs!("id_aa64pfr1_el1") >> 24 & 0xf;
    ensure!(sve == 0 && sme == 0, "ID_AA64PFR0_EL1.SVE {sve}, ID_AA64PFR1_EL1.SME {sme}");
    let (zfr, smfr) = (mrs!("S3_0_C0_C4_4"), mrs!("S3_0_C0_C4_5"));
    ensure!(zfr == 0 && smfr == 0, "ID_AA64ZFR0_EL1 {zfr:#x}, ID_AA64SMFR0_EL1 {smfr:#x}");
    Ok(Done::Passed)
}

/// Counts, and for one of the SGIs uses FP as a kernel's handler does: saves what is there, puts other things there,
/// checks them, puts back what was there.
fn on_interrupt(intid: u32) {
    let tally = &TALLY[cpu::index()];
    match intid {
        timer::VIRTUAL => timer::on_irq(),
        WITH_FP if !args_nofp() => {
            let controls = mrs!("cpacr_el1");
            fp::enable();
            let mut saved = State::zero();
            saved.read();
            let count = tally.in_handler.fetch_add(1, Relaxed);
            let worker = 0x80 | cpu::index() as u8;
            let pattern = State::pattern(Owner { worker, ..owner(0) }, count as u32);
            pattern.load();
            if let Some(mismatch) = pattern.check() {
                tally.failed.store(true, Relaxed);
                LOST.store(true, Relaxed);
                report::abort(format_args!("in an interrupt handler: {mismatch}"));
            }
            saved.load();
            msr!("cpacr_el1", controls);
            cpu::isb();
        }
        _ => {}
    }
    tally.signals.fetch_add(u64::from(intid < 16), Relaxed);
}

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
    let owner = owner(number);
    let mut rng = Rng::new(u64::from(owner.seed) << 8 | u64::from(owner.worker));
    let end = timer::now() + timer::micros(args::number("seconds", 5) * 1_000_000);
    let tally = &TALLY[number];
    fp::enable();
    let mut round = 0;
    while timer::now() < end && !LOST.load(Relaxed) {
        round += 1;
        let pattern = State::pattern(owner, round);
        pattern.load();
        for step in 0..1 + rng.below(8) {
            let did = live(number, &mut rng);
            tally.checks.fetch_add(1, Relaxed);
            if let Some(mismatch) = pattern.check() {
                lost(number, round, step, did, mismatch);
                return;
            }
        }
    }
    fp::disable();
}

fn lost(number: usize, round: u32, step: u64, did: &str, mismatch: Mismatch) {
    let owner = owner(number);
    TALLY[number].failed.store(true, Relaxed);
    LOST.store(true, Relaxed);
    println!(
        "MISMATCH vCPU {number} seed {:#x} round {round} step {step} after {did}: {mismatch}",
        owner.seed
    );
}

/// Does one random thing that FP registers must survive, and says which.
fn live(number: usize, rng: &mut Rng) -> &'static str {
    let tally = &TALLY[number];
    if rng.below(100) < args::number("idle", 25) {
        tally.sleeps.fetch_add(1, Relaxed);
        timer::sleep(timer::micros(rng.below(300)));
        return "sleep";
    }
    match rng.below(6) {
        0 => {
            let peer = rng.below(smp::count() as u64) as usize;
            gic::send(if rng.below(2) == 0 { WITH_FP } else { WITHOUT_FP }, peer);
            "sending an SGI"
        }
        1 => {
            // A guest that is lazy itself: FP off, other work, back on at its own trap.
            tally.gaps.fetch_add(1, Relaxed);
            fp::disable();
            cpu::spin(rng.below(20_000));
            if rng.below(2) == 0 {
                timer::sleep(timer::micros(rng.below(100)));
            }
            fp::enable();
            "a time with CPACR_EL1.FPEN off"
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
        _ => {
            cpu::spin(rng.below(5_000));
            "a short spin"
        }
    }
}

fn live_without_fp(number: usize) {
    let mut rng = Rng::new(args::number("seed", 1) << 8 | number as u64);
    let end = timer::now() + timer::micros(args::number("seconds", 5) * 1_000_000);
    while timer::now() < end {
        match rng.below(4) {
            0 => gic::send(WITHOUT_FP, rng.below(smp::count() as u64) as usize),
            1 => timer::busy(timer::micros(rng.below(2000))),
            2 => cpu::spin(rng.below(5_000)),
            _ => {
                TALLY[number].sleeps.fetch_add(1, Relaxed);
                timer::sleep(timer::micros(rng.below(300)));
            }
        }
    }
}
