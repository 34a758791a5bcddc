//! The FP registers themselves.
//!
//! The compiler is told that there are none (the target is soft-float), so nothing but these functions touches
//! them at EL2.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use crate::fp::{FpRegs, Registers};

/// This CPU's FP registers and `CPTR_EL2`.
#[derive(Debug)]
pub struct Hardware(());

impl Hardware {
    /// Takes the registers of the CPU this runs on.
    ///
    /// # Safety
    /// 1. The code runs at EL2 with `HCR_EL2.E2H` = 0.
    /// 2. This CPU's registers were not taken before, and the value stays on this CPU.
    pub unsafe fn claim() -> Self {
        Self(())
    }
}

impl FpRegs for Hardware {
    #[inline]
    fn set_cptr(&mut self, value: u64) {
        // SAFETY: at EL2 with E2H=0 (promised to `claim`) the register exists in the layout of `fp::cptr`. It
        // controls traps of registers that no compiled code at EL2 uses.
        unsafe { asm!("msr cptr_el2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
    }

    #[inline]
    fn sync(&mut self) {
        // SAFETY: an ISB changes no state.
        unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) }
    }

    fn store(&mut self, into: &mut Registers) {
        // SAFETY: 1. `into` is valid for writes of a whole `Registers` and aligned to 16, by its type. 2. Were FP
        // trapped, contrary to this method's contract, EL2 would take an exception before anything is written.
        unsafe { store(into) }
    }

    fn load(&mut self, from: &Registers) {
        // SAFETY: 1. `from` is valid for reads of a whole `Registers` and aligned to 16, by its type. 2. The
        // registers that are overwritten belong to `self` alone: compiled code does not use them.
        unsafe { load(from) }
    }

    fn stop_sme(&mut self) {
        // SAFETY: SVCR = S3_3_C4_C2_2 exists where SME does, which the caller checked. Clearing SM and ZA destroys
        // only streaming state, which nobody owns.
        unsafe { asm!("msr S3_3_C4_C2_2, xzr", "isb", options(nomem, nostack, preserves_flags)) }
    }
}

/// Stores V0-V31, FPSR and FPCR.
///
/// # Safety
/// `x0` is valid for writing a `Registers`. FP is not trapped at EL2.
#[unsafe(naked)]
unsafe extern "C" fn store(into: *mut Registers) {
    naked_asm!(
        ".arch_extension fp",
        "mrs x9, fpsr",
        "mrs x10, fpcr",
        "stp q0, q1, [x0, #{q}]",
        "stp q2, q3, [x0, #{q} + 32]",
        "stp q4, q5, [x0, #{q} + 64]",
        "stp q6, q7, [x0, #{q} + 96]",
        "stp q8, q9, [x0, #{q} + 128]",
        "stp q10, q11, [x0, #{q} + 160]",
        "stp q12, q13, [x0, #{q} + 192]",
        "stp q14, q15, [x0, #{q} + 224]",
        "stp q16, q17, [x0, #{q} + 256]",
        "stp q18, q19, [x0, #{q} + 288]",
        "stp q20, q21, [x0, #{q} + 320]",
        "stp q22, q23, [x0, #{q} + 352]",
        "stp q24, q25, [x0, #{q} + 384]",
        "stp q26, q27, [x0, #{q} + 416]",
        "stp q28, q29, [x0, #{q} + 448]",
        "stp q30, q31, [x0, #{q} + 480]",
        "str x9, [x0, #{fpsr}]",
        "str x10, [x0, #{fpcr}]",
        "ret",
        ".arch_extension nofp",
        q = const offset_of!(Registers, q),
        fpsr = const offset_of!(Registers, fpsr),
        fpcr = const offset_of!(Registers, fpcr),
    )
}

/// Loads V0-V31, FPSR and FPCR.
///
/// # Safety
/// `x0` is valid for reading a `Registers`. FP is not trapped at EL2.
#[unsafe(naked)]
unsafe extern "C" fn load(from: *const Registers) {
    naked_asm!(
        ".arch_extension fp",
        "ldp q0, q1, [x0, #{q}]",
        "ldp q2, q3, [x0, #{q} + 32]",
        "ldp q4, q5, [x0, #{q} + 64]",
        "ldp q6, q7, [x0, #{q} + 96]",
        "ldp q8, q9, [x0, #{q} + 128]",
        "ldp q10, q11, [x0, #{q} + 160]",
        "ldp q12, q13, [x0, #{q} + 192]",
        "ldp q14, q15, [x0, #{q} + 224]",
        "ldp q16, q17, [x0, #{q} + 256]",
        "ldp q18, q19, [x0, #{q} + 288]",
        "ldp q20, q21, [x0, #{q} + 320]",
        "ldp q22, q23, [x0, #{q} + 352]",
        "ldp q24, q25, [x0, #{q} + 384]",
        "ldp q26, q27, [x0, #{q} + 416]",
        "ldp q28, q29, [x0, #{q} + 448]",
        "ldp q30, q31, [x0, #{q} + 480]",
        "ldr x9, [x0, #{fpsr}]",
        "ldr x10, [x0, #{fpcr}]",
        "msr fpsr, x9",
        "msr fpcr, x10",
        "ret",
        ".arch_extension nofp",
        q = const offset_of!(Registers, q),
        fpsr = const offset_of!(Registers, fpsr),
        fpcr = const offset_of!(Registers, fpcr),
    )
}
