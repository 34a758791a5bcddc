//! What is AArch64's own: SVE with the vector length asked for, or none at all; and no SME, whatever the CPU has.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::arch::fp::{enable_simd_only, length, lengths, set_zcr, touch_scalable};
use guests::fp::{self, Register, State, Units};
use guests::report::{Done, Outcome, test};
use guests::{args, cpu, ensure, mrs, msr, println, smp, trap};

pub(crate) fn tests() {
    if args::number("sve", 0) == 0 {
        test("sve-is-undefined", || {
            undefined(|| {
                // SAFETY: RDVL x0, #1 changes x0 only; it is expected to trap.
                unsafe { asm!(".inst 0x04bf5020", out("x0") _, options(nostack)) }
            })
        });
        test("zcr-is-undefined", || undefined(|| set_zcr(0)));
    } else {
        test("sve-is-as-long-as-asked-for", sve_lengths);
        test("every-register-is-checked", every_register);
        test("sve-off-traps-to-the-guest", sve_off_traps);
        test("simd-zeroes-the-rest-of-sve", simd_zeroes);
        test("registers-of-simd-widen", widening);
        test("a-shorter-length-hides-and-harms-no-more", narrowing);
    }
    test("sme-is-undefined", || {
        undefined(|| {
            // SAFETY: SMSTOP, which clears streaming mode and ZA that are off; it is expected to trap.
            unsafe { asm!(".inst 0xd503467f", options(nostack)) }
        })
    });
    test("registers-of-sme-are-undefined", || {
        undefined(|| msr!("S3_0_C1_C2_6", 0))?; // SMCR_EL1
        undefined(|| _ = mrs!("S3_3_C4_C2_2"))?; // SVCR
        undefined(|| msr!("S3_3_C13_C0_5", 0)) // TPIDR2_EL0
    });
    test("id-registers-show-what-there-is", ids);
    if smp::count() > 1 {
        test("off-and-on-leaves-nothing", off_and_on);
    }
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
    fp::enable(fp::present());
    ensure!(trap.is_some_and(|trap| trap.is_undefined()), "expected EC 0x00, found {trap:x?}");
    Ok(Done::Passed)
}

fn ids() -> Outcome {
    if args::flag("bare") {
        return Ok(Done::Skipped("no hypervisor hides anything"));
    }
    let sve = mrs!("id_aa64pfr0_el1") >> 32 & 0xf;
    let sme = mrs!("id_aa64pfr1_el1") >> 24 & 0xf;
    let (zfr, smfr) = (mrs!("S3_0_C0_C4_4"), mrs!("S3_0_C0_C4_5"));
    let wanted = u64::from(args::number("sve", 0) != 0);
    ensure!(sve == wanted && sme == 0, "ID_AA64PFR0_EL1.SVE {sve}, ID_AA64PFR1_EL1.SME {sme}");
    ensure!(smfr == 0 && (sve != 0 || zfr == 0), "ID_AA64ZFR0_EL1 {zfr:#x}, ID_AA64SMFR0_EL1 {smfr:#x}");
    Ok(Done::Passed)
}

/// The longest vectors are as long as the argument says, and every request is answered with one of the lengths.
fn sve_lengths() -> Outcome {
    ensure!(fp::present().has(Units::SVE), "ID_AA64PFR0_EL1 shows no SVE");
    let lengths = lengths();
    let wanted = args::number("sve", 0) as usize;
    let longest = lengths[15] * 8;
    ensure!(longest == wanted, "the longest vectors have {longest} bits, not {wanted}");
    for (len, &bytes) in lengths.iter().enumerate() {
        ensure!(bytes <= 16 * (len + 1), "LEN {len} gives {bytes} bytes");
        ensure!(len == 0 || bytes >= lengths[len - 1], "LEN {len} gives fewer bytes than LEN {}", len - 1);
        // What was asked for is read back (DDI0487, ZCR_EL1), and what is there is a length that can be asked for.
        ensure!(lengths[bytes / 16 - 1] == bytes, "{bytes} bytes cannot be asked for");
        if bytes == 16 * (len + 1) {
            println!("fp-torture: vectors of {} bits", bytes * 8);
        }
    }
    Ok(Done::Passed)
}

/// Shows that the check covers everything: one bit of any register is found.
fn every_register() -> Outcome {
    for units in [Units::SIMD, fp::present()] {
        fp::enable(units);
        let pattern = State::pattern(crate::owner(0), 2, units);
        let (mut missed, mut count) = (None, 0);
        pattern.each_changed(|register, lane, changed| {
            changed.load();
            count += 1;
            let found = pattern.check();
            if found.is_none_or(|found| found.register != register || found.lane != lane) {
                missed.get_or_insert((register, lane, found));
            }
        });
        fp::enable(fp::present());
        if let Some((register, lane, found)) = missed {
            return Err(guests::why!("a changed {register} lane {lane} was not found: {found:?}"));
        }
        ensure!(count >= 66, "{count} lanes");
    }
    Ok(Done::Passed)
}

fn sve_off_traps() -> Outcome {
    let pattern = State::pattern(crate::owner(0), 3, fp::present());
    pattern.load();
    enable_simd_only();
    let instruction = trap::catch(touch_scalable);
    let register = trap::catch(|| set_zcr(0));
    fp::enable(fp::present());
    for trap in [instruction, register] {
        ensure!(trap.is_some_and(|trap| trap.class() == 0x19), "expected EC 0x19, found {trap:x?}");
    }
    // With FP on, SVE off is a vector length of 128 bits.
    let differs = pattern.compare_shortened(&State::read(fp::present()), 16);
    ensure!(differs.is_none(), "{}", differs.expect("just seen"));
    Ok(Done::Passed)
}

/// A write to V zeroes the rest of Z (DDI0487 B1.4.3, WKYLB), whoever runs in between, and leaves predicates alone.
fn simd_zeroes() -> Outcome {
    for round in 0..20 {
        let owner = crate::owner(0);
        let wide = State::pattern(owner, round, fp::present());
        let narrow = State::pattern(owner, round + 100, Units::SIMD);
        wide.load();
        crate::pause(round);
        narrow.load();
        crate::pause(round / 2);
        let found = State::read(fp::present());
        let lost = narrow.compare(&found);
        ensure!(lost.is_none(), "round {round}: {}", lost.expect("just seen"));
        let rest = found.beyond_simd();
        let is_vector = |register| matches!(register, Register::V(_));
        let rest = rest.filter(|mismatch| is_vector(mismatch.register));
        ensure!(rest.is_none(), "round {round}: {}", rest.expect("just seen"));
    }
    Ok(Done::Passed)
}

/// A guest that leaves nothing beyond V is soon given V alone. When it uses SVE again, what it wrote is there, and nothing else.
fn widening() -> Outcome {
    for round in 0..200 {
        clear_predicates();
        let narrow = State::pattern(crate::owner(0), round, Units::SIMD);
        narrow.load();
        crate::pause(round);
        // Maybe through V alone.
        let again = State::pattern(crate::owner(0), round + 1, Units::SIMD);
        again.load();
        crate::pause(round / 3);
        let found = State::read(fp::present());
        let lost = again.compare(&found).or_else(|| found.beyond_simd());
        ensure!(lost.is_none(), "round {round}: {}", lost.expect("just seen"));
    }
    Ok(Done::Passed)
}

/// Zeroes P0 to P15 and FFR.
fn clear_predicates() {
    // SAFETY: changes registers that the compiler does not use.
    unsafe {
        asm!(
            ".arch_extension sve",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "pfalse p\\n\\().b",
            ".endr",
            "wrffr p0.b",
            ".arch_extension nosve",
            options(nostack, nomem, preserves_flags),
        );
    }
}

/// While a shorter length is asked for, what is beyond is out of reach; afterwards it is what it was, or zero, of each
/// register by itself; what is within reach stays.
fn narrowing() -> Outcome {
    let owner = crate::owner(0);
    for len in 0..16 {
        let pattern = longest_pattern(owner);
        pattern.load();
        set_zcr(len);
        let short = length();
        crate::pause(len as u32);
        let found = State::read(Units::SVE);
        ensure!(found.foreign(owner).is_none(), "LEN {len}: {}", found.foreign(owner).expect("just seen"));
        set_zcr(0xf);
        let found = State::read(Units::SVE);
        let differs = pattern.compare_shortened(&found, short);
        ensure!(differs.is_none(), "LEN {len}: {}", differs.expect("just seen"));
    }
    Ok(Done::Passed)
}

/// Makes a pattern with the longest vectors.
fn longest_pattern(owner: fp::Owner) -> State {
    let longest = lengths()[15];
    let patterns = (0..).map(|round| State::pattern(owner, round, fp::present()));
    patterns.into_iter().find(|pattern| pattern.length() == longest).expect("every other pattern is")
}

/// Which pattern [`leave_full`] leaves.
static ROUND: AtomicU32 = AtomicU32::new(0);

/// A vCPU that goes off with full registers finds nothing in them when it is started again.
fn off_and_on() -> Outcome {
    if args::flag("bare") {
        return Ok(Done::Skipped("a machine may leave them as they are"));
    }
    for round in 0..10 {
        ROUND.store(round, Relaxed);
        for job in [leave_full as fn(usize), find_nothing] {
            for cpu in 1..smp::count() {
                let started = smp::start(cpu, job);
                ensure!(started.is_ok(), "vCPU {cpu}: {started:?}");
            }
            (1..smp::count()).for_each(smp::join);
            crate::pause(round);
        }
        ensure!(!crate::LOST.load(Relaxed), "see above");
    }
    Ok(Done::Passed)
}

fn leave_full(number: usize) {
    fp::enable(fp::present());
    State::pattern(crate::owner(number), ROUND.load(Relaxed), fp::present()).load();
}

fn find_nothing(number: usize) {
    fp::enable(fp::present());
    // Somebody else than the one who left it.
    let nobody = fp::Owner { seed: !crate::owner(number).seed, worker: number as u8 };
    if fp::present().has(Units::SVE) {
        set_zcr(0xf);
    }
    if let Some(mismatch) = State::read(fp::present()).foreign(nobody) {
        crate::lost(number, ROUND.load(Relaxed), format_args!("after it was off: {mismatch}"));
    }
}
