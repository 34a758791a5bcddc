//! What is AArch64's own: an extension that guests do not have is UNDEFINED, and no ID register shows it.

use core::arch::asm;

use guests::fp::{self, Units};
use guests::report::{Done, Outcome, test};
use guests::{args, cpu, ensure, mrs, msr, trap};

pub(crate) fn tests() {
    test("sve-is-undefined", || {
        undefined(|| {
            // SAFETY: RDVL x0, #1 changes x0 only; it is expected to trap.
            unsafe { asm!(".inst 0x04bf5020", out("x0") _, options(nostack)) }
        })
    });
    test("sme-is-undefined", || {
        undefined(|| {
            // SAFETY: SMSTOP, which clears streaming mode and ZA that are off; it is expected to trap.
            unsafe { asm!(".inst 0xd503467f", options(nostack)) }
        })
    });
    test("id-registers-hide-sve-and-sme", ids_hide);
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
    fp::enable(Units::SIMD);
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
