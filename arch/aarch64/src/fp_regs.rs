//! The FP registers themselves.
//!
//! The compiler is told that there are none (the target is soft-float), so nothing but these functions touches
//! them at EL2.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use crate::fp::{FpRegs, Length, Registers, Scalable};

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

    #[inline]
    fn set_zcr_el2(&mut self, value: u64) {
        // SAFETY: ZCR_EL2 = S3_4_C1_C2_0 exists where SVE does, which this method's contract says. It changes the length
        // of registers that no compiled code uses.
        unsafe { asm!("msr S3_4_C1_C2_0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
    }

    #[inline]
    fn zcr_el1(&self) -> u64 {
        let value;
        // SAFETY: ZCR_EL1 = S3_0_C1_C2_0 exists where SVE does; reading it changes nothing.
        unsafe { asm!("mrs {}, S3_0_C1_C2_0", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    #[inline]
    fn set_zcr_el1(&mut self, value: u64) {
        // SAFETY: as for reading it; it limits EL1 and EL0, where nothing runs at the moment.
        unsafe { asm!("msr S3_0_C1_C2_0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
    }

    #[inline]
    fn length(&self) -> Option<Length> {
        Length::from_quadwords(vector_bytes() / 16)
    }

    fn store_scalable(&mut self, into: &mut Scalable, controls: &mut Registers) {
        assert!(vector_bytes() == into.length().bytes() as u64, "the vector length is not the image's");
        // SAFETY: 1. At the vector length that was just checked, the registers have as many bytes as `into` was made with
        // room for. 2. `controls` is valid for writes by its type. 3. As for `store` if SVE were trapped.
        unsafe { store_scalable(into.words_mut().as_mut_ptr(), controls) }
    }

    fn load_scalable(&mut self, from: &Scalable, controls: &Registers) {
        assert!(vector_bytes() == from.length().bytes() as u64, "the vector length is not the image's");
        // SAFETY: 1. As for `store_scalable`, for reads. 2. What is overwritten belongs to `self` alone. 3. Should
        // FFR have a one above a zero, which a guest can bring about and a snapshot can bring along, its value is
        // UNPREDICTABLE (DDI0487, WRFFR), and nothing else is: it is the guest's own.
        unsafe { load_scalable(from.words().as_ptr(), controls) }
    }

    fn load_extended(&mut self, from: &Registers) {
        self.load(from);
        // SAFETY: writing the V registers has zeroed the rest of each Z register, SVE being open here (DDI0487 B1.4.3). The
        // predicates that are overwritten belong to `self` alone.
        unsafe { clear_predicates() }
    }

    fn flood(&mut self, pattern: u64) {
        // SAFETY: the registers that are overwritten belong to `self` alone, and nothing counts on them.
        unsafe { flood(pattern) }
    }
}

/// Counts the bytes of a vector at EL2. SVE must be present and not trapped.
#[inline]
fn vector_bytes() -> u64 {
    let bytes;
    // SAFETY: RDVL changes its destination only. Were SVE trapped or absent, EL2 would take an exception instead.
    unsafe {
        asm!(".arch_extension sve", "rdvl {}, #1", ".arch_extension nosve", out(reg) bytes,
            options(nomem, nostack, preserves_flags))
    };
    bytes
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

/// Stores Z0-Z31, P0-P15 and FFR in this order to `x0`, and FPSR and FPCR to the [`Registers`] at `x1`.
///
/// A predicate's offset counts eighths of a vector, so that P0, 32 vectors from the start, is #8 from Z31.
///
/// # Safety
/// `x0` is valid for writing as much as these registers have at the vector length of EL2, and `x1` for writing a
/// `Registers`. Neither FP nor SVE is trapped at EL2.
#[unsafe(naked)]
#[rustfmt::skip]
unsafe extern "C" fn store_scalable(into: *mut u128, controls: *mut Registers) {
    naked_asm!(
        ".arch_extension sve",
        "mrs x10, fpsr",
        "mrs x11, fpcr",
        "str z0, [x0]",
        "str z1, [x0, #1, mul vl]",
        "str z2, [x0, #2, mul vl]",
        "str z3, [x0, #3, mul vl]",
        "str z4, [x0, #4, mul vl]",
        "str z5, [x0, #5, mul vl]",
        "str z6, [x0, #6, mul vl]",
        "str z7, [x0, #7, mul vl]",
        "str z8, [x0, #8, mul vl]",
        "str z9, [x0, #9, mul vl]",
        "str z10, [x0, #10, mul vl]",
        "str z11, [x0, #11, mul vl]",
        "str z12, [x0, #12, mul vl]",
        "str z13, [x0, #13, mul vl]",
        "str z14, [x0, #14, mul vl]",
        "str z15, [x0, #15, mul vl]",
        "str z16, [x0, #16, mul vl]",
        "str z17, [x0, #17, mul vl]",
        "str z18, [x0, #18, mul vl]",
        "str z19, [x0, #19, mul vl]",
        "str z20, [x0, #20, mul vl]",
        "str z21, [x0, #21, mul vl]",
        "str z22, [x0, #22, mul vl]",
        "str z23, [x0, #23, mul vl]",
        "str z24, [x0, #24, mul vl]",
        "str z25, [x0, #25, mul vl]",
        "str z26, [x0, #26, mul vl]",
        "str z27, [x0, #27, mul vl]",
        "str z28, [x0, #28, mul vl]",
        "str z29, [x0, #29, mul vl]",
        "str z30, [x0, #30, mul vl]",
        "str z31, [x0, #31, mul vl]",
        "addvl x9, x0, #31",
        "str p0, [x9, #8, mul vl]",
        "str p1, [x9, #9, mul vl]",
        "str p2, [x9, #10, mul vl]",
        "str p3, [x9, #11, mul vl]",
        "str p4, [x9, #12, mul vl]",
        "str p5, [x9, #13, mul vl]",
        "str p6, [x9, #14, mul vl]",
        "str p7, [x9, #15, mul vl]",
        "str p8, [x9, #16, mul vl]",
        "str p9, [x9, #17, mul vl]",
        "str p10, [x9, #18, mul vl]",
        "str p11, [x9, #19, mul vl]",
        "str p12, [x9, #20, mul vl]",
        "str p13, [x9, #21, mul vl]",
        "str p14, [x9, #22, mul vl]",
        "str p15, [x9, #23, mul vl]",
        "rdffr p0.b",
        "str p0, [x9, #24, mul vl]",
        "ldr p0, [x9, #8, mul vl]",
        "str x10, [x1, #{fpsr}]",
        "str x11, [x1, #{fpcr}]",
        "ret",
        ".arch_extension nosve",
        fpsr = const offset_of!(Registers, fpsr),
        fpcr = const offset_of!(Registers, fpcr),
    )
}

/// Loads what [`store_scalable`] stores.
///
/// # Safety
/// `x0` is valid for reading as much as these registers have at the vector length of EL2, and `x1` for reading a
/// `Registers`. Neither FP nor SVE is trapped at EL2.
#[unsafe(naked)]
#[rustfmt::skip]
unsafe extern "C" fn load_scalable(from: *const u128, controls: *const Registers) {
    naked_asm!(
        ".arch_extension sve",
        "addvl x9, x0, #31",
        "ldr p0, [x9, #24, mul vl]",
        "wrffr p0.b",
        "ldr z0, [x0]",
        "ldr z1, [x0, #1, mul vl]",
        "ldr z2, [x0, #2, mul vl]",
        "ldr z3, [x0, #3, mul vl]",
        "ldr z4, [x0, #4, mul vl]",
        "ldr z5, [x0, #5, mul vl]",
        "ldr z6, [x0, #6, mul vl]",
        "ldr z7, [x0, #7, mul vl]",
        "ldr z8, [x0, #8, mul vl]",
        "ldr z9, [x0, #9, mul vl]",
        "ldr z10, [x0, #10, mul vl]",
        "ldr z11, [x0, #11, mul vl]",
        "ldr z12, [x0, #12, mul vl]",
        "ldr z13, [x0, #13, mul vl]",
        "ldr z14, [x0, #14, mul vl]",
        "ldr z15, [x0, #15, mul vl]",
        "ldr z16, [x0, #16, mul vl]",
        "ldr z17, [x0, #17, mul vl]",
        "ldr z18, [x0, #18, mul vl]",
        "ldr z19, [x0, #19, mul vl]",
        "ldr z20, [x0, #20, mul vl]",
        "ldr z21, [x0, #21, mul vl]",
        "ldr z22, [x0, #22, mul vl]",
        "ldr z23, [x0, #23, mul vl]",
        "ldr z24, [x0, #24, mul vl]",
        "ldr z25, [x0, #25, mul vl]",
        "ldr z26, [x0, #26, mul vl]",
        "ldr z27, [x0, #27, mul vl]",
        "ldr z28, [x0, #28, mul vl]",
        "ldr z29, [x0, #29, mul vl]",
        "ldr z30, [x0, #30, mul vl]",
        "ldr z31, [x0, #31, mul vl]",
        "ldr p0, [x9, #8, mul vl]",
        "ldr p1, [x9, #9, mul vl]",
        "ldr p2, [x9, #10, mul vl]",
        "ldr p3, [x9, #11, mul vl]",
        "ldr p4, [x9, #12, mul vl]",
        "ldr p5, [x9, #13, mul vl]",
        "ldr p6, [x9, #14, mul vl]",
        "ldr p7, [x9, #15, mul vl]",
        "ldr p8, [x9, #16, mul vl]",
        "ldr p9, [x9, #17, mul vl]",
        "ldr p10, [x9, #18, mul vl]",
        "ldr p11, [x9, #19, mul vl]",
        "ldr p12, [x9, #20, mul vl]",
        "ldr p13, [x9, #21, mul vl]",
        "ldr p14, [x9, #22, mul vl]",
        "ldr p15, [x9, #23, mul vl]",
        "ldr x10, [x1, #{fpsr}]",
        "ldr x11, [x1, #{fpcr}]",
        "msr fpsr, x10",
        "msr fpcr, x11",
        "ret",
        ".arch_extension nosve",
        fpsr = const offset_of!(Registers, fpsr),
        fpcr = const offset_of!(Registers, fpcr),
    )
}

/// Zeroes P0-P15 and FFR.
///
/// # Safety
/// SVE is not trapped at EL2.
#[unsafe(naked)]
#[rustfmt::skip]
unsafe extern "C" fn clear_predicates() {
    naked_asm!(
        ".arch_extension sve",
        "pfalse p0.b",
        "pfalse p1.b",
        "pfalse p2.b",
        "pfalse p3.b",
        "pfalse p4.b",
        "pfalse p5.b",
        "pfalse p6.b",
        "pfalse p7.b",
        "pfalse p8.b",
        "pfalse p9.b",
        "pfalse p10.b",
        "pfalse p11.b",
        "pfalse p12.b",
        "pfalse p13.b",
        "pfalse p14.b",
        "pfalse p15.b",
        "wrffr p0.b",
        "ret",
        ".arch_extension nosve",
    )
}

/// Writes `pattern` to the halves of all Z registers, ones to all predicates and FFR if it is not zero, zero to FPSR
/// and FPCR, and the largest request to ZCR_EL1.
///
/// # Safety
/// Neither FP nor SVE is trapped at EL2.
#[unsafe(naked)]
#[rustfmt::skip]
unsafe extern "C" fn flood(pattern: u64) {
    naked_asm!(
        ".arch_extension sve",
        "dup z0.d, x0",
        "dup z1.d, x0",
        "dup z2.d, x0",
        "dup z3.d, x0",
        "dup z4.d, x0",
        "dup z5.d, x0",
        "dup z6.d, x0",
        "dup z7.d, x0",
        "dup z8.d, x0",
        "dup z9.d, x0",
        "dup z10.d, x0",
        "dup z11.d, x0",
        "dup z12.d, x0",
        "dup z13.d, x0",
        "dup z14.d, x0",
        "dup z15.d, x0",
        "dup z16.d, x0",
        "dup z17.d, x0",
        "dup z18.d, x0",
        "dup z19.d, x0",
        "dup z20.d, x0",
        "dup z21.d, x0",
        "dup z22.d, x0",
        "dup z23.d, x0",
        "dup z24.d, x0",
        "dup z25.d, x0",
        "dup z26.d, x0",
        "dup z27.d, x0",
        "dup z28.d, x0",
        "dup z29.d, x0",
        "dup z30.d, x0",
        "dup z31.d, x0",
        // As many ones as the difference of the operands, at most all.
        "whilelo p0.b, xzr, x0",
        "whilelo p1.b, xzr, x0",
        "whilelo p2.b, xzr, x0",
        "whilelo p3.b, xzr, x0",
        "whilelo p4.b, xzr, x0",
        "whilelo p5.b, xzr, x0",
        "whilelo p6.b, xzr, x0",
        "whilelo p7.b, xzr, x0",
        "whilelo p8.b, xzr, x0",
        "whilelo p9.b, xzr, x0",
        "whilelo p10.b, xzr, x0",
        "whilelo p11.b, xzr, x0",
        "whilelo p12.b, xzr, x0",
        "whilelo p13.b, xzr, x0",
        "whilelo p14.b, xzr, x0",
        "whilelo p15.b, xzr, x0",
        "wrffr p0.b",
        "msr fpsr, xzr",
        "msr fpcr, xzr",
        "mov x9, #0xf",
        "msr S3_0_C1_C2_0, x9",
        "ret",
        ".arch_extension nosve",
    )
}
