//! What is AArch64's own: TVAL, IMASK, the physical timer, the timer as the GIC sees it, WFIT.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::arch::gic;
use guests::arch::timer::{ENABLE, IMASK, ISTATUS, PHYSICAL, VIRTUAL};
use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, test};
use guests::timer::{arm, micros, now, within};
use guests::{cpu, ensure, mrs, msr, timer, trap};

use crate::{fires, taken};

/// Deadlines that lie too far away to be met.
pub(crate) fn far() -> [u64; 2] {
    [u64::MAX, now() + (1 << 40)]
}

/// Physical timer interrupts of each vCPU.
static PHYSICAL_TAKEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

pub(crate) fn tests() {
    test("relative-deadline", relative_deadline);
    test("far-deadline-shows-no-status", far_deadline);
    test("imask", imask);
    test("pending-in-the-gic", pending_in_the_gic);
    test("wfit", wfit);
    test("physical-timer", physical_timer);
}

/// Takes interrupts that are not the runtime's timer.
pub(crate) fn on_interrupt(intid: u32) {
    if intid == PHYSICAL {
        msr!("cntp_ctl_el0", 0);
        cpu::isb();
        PHYSICAL_TAKEN[cpu::index()].fetch_add(1, Relaxed);
    }
}

/// Tells whether an interrupt is pending at this CPU, masked or not.
pub(crate) fn pending() -> bool {
    mrs!("isr_el1") & 1 << 7 != 0
}

fn relative_deadline() -> Outcome {
    let (before, start) = (taken(), now());
    msr!("cntv_tval_el0", micros(500));
    msr!("cntv_ctl_el0", ENABLE);
    cpu::isb();
    let deadline = mrs!("cntv_cval_el0");
    ensure!(deadline >= start + micros(500), "TVAL made CVAL {deadline} at {start}");
    ensure!(fires(before), "no interrupt for TVAL");
    let left = mrs!("cntv_tval_el0") as u32 as i32;
    ensure!(left <= 0, "TVAL is {left} after expiry");
    Ok(Done::Passed)
}

fn far_deadline() -> Outcome {
    for deadline in far() {
        arm(deadline);
        let control = mrs!("cntv_ctl_el0");
        timer::disarm();
        ensure!(control & ISTATUS == 0, "CNTV_CTL {control:#x} for {deadline:#x}");
    }
    Ok(Done::Passed)
}

fn imask() -> Outcome {
    let before = taken();
    msr!("cntv_cval_el0", now() + micros(100));
    msr!("cntv_ctl_el0", ENABLE | IMASK);
    cpu::isb();
    let met = within(1_000_000, || mrs!("cntv_ctl_el0") == ENABLE | IMASK | ISTATUS);
    timer::busy(micros(1000));
    ensure!(met, "CNTV_CTL is {:#x}, expected 0x7", mrs!("cntv_ctl_el0"));
    ensure!(taken() == before, "fired with IMASK set");
    msr!("cntv_ctl_el0", ENABLE);
    cpu::isb();
    ensure!(fires(before), "no interrupt after IMASK was cleared");
    Ok(Done::Passed)
}

fn pending_in_the_gic() -> Outcome {
    let before = taken();
    gic::disable(VIRTUAL);
    arm(now() + micros(100));
    let pending = within(1_000_000, || gic::is_set(VIRTUAL, gic::ISPENDR));
    gic::enable(VIRTUAL);
    ensure!(fires(before), "no interrupt after it was enabled");
    ensure!(pending, "GICR_ISPENDR0 did not show it pending");
    Ok(Done::Passed)
}

/// WFIT sleeps until a time without any interrupt (FEAT_WFxT).
fn wfit() -> Outcome {
    if mrs!("S3_0_C0_C6_2") & 0xf == 0 {
        return Ok(Done::Skipped("no FEAT_WFxT"));
    }
    for distance in [0, 100, 1000] {
        let deadline = now() + micros(distance);
        // Spurious wake-ups are allowed, endless sleep is not.
        while now() < deadline {
            // SAFETY: WFIT x0 changes no register.
            unsafe { asm!(".inst 0xd5031020", in("x0") deadline, options(nostack, preserves_flags)) };
        }
    }
    Ok(Done::Passed)
}

fn physical_timer() -> Outcome {
    if trap::catch(|| msr!("cntp_ctl_el0", 0)).is_some() {
        return Ok(Done::Skipped("no physical timer"));
    }
    gic::enable(PHYSICAL);
    let count = || PHYSICAL_TAKEN[cpu::index()].load(Relaxed);
    for distance in [10, 1000, 5000] {
        let before = count();
        cpu::isb();
        let deadline = mrs!("cntpct_el0") + micros(distance);
        msr!("cntp_cval_el0", deadline);
        msr!("cntp_ctl_el0", ENABLE);
        cpu::isb();
        let limit = now() + micros(1_000_000);
        while count() == before && now() < limit {}
        cpu::isb();
        let at = mrs!("cntpct_el0");
        ensure!(count() == before + 1, "{} interrupts for a deadline {distance} us ahead", count() - before);
        ensure!(at >= deadline, "{} ticks early", deadline - at);
    }
    gic::disable(PHYSICAL);
    Ok(Done::Passed)
}
