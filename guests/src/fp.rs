//! The FP registers, by hand: patterns that tell whose they are, loaded, read back and compared.
//!
//! The target is soft-float, so nothing the compiler makes reads or writes V0-V31, FPCR or FPSR: between [`State::load`]
//! and [`State::read`] they hold the pattern, through calls, interrupts and sleep, or somebody lost them.

use core::arch::asm;
use core::fmt;

use crate::rng::{Rng, mix};

/// V0 to V31 as pairs of 64-bit halves, FPCR and FPSR.
#[repr(C, align(16))]
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    v: [[u64; 2]; 32],
    fpcr: u64,
    fpsr: u64,
}

/// Whose pattern: it is part of every register, so that a foreign value can be traced.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The guest or run.
    pub seed: u16,
    /// The vCPU or process.
    pub worker: u8,
}

/// A register that does not hold what was put there.
#[derive(Clone, Copy, Debug)]
pub struct Mismatch {
    /// 0 to 31 for V0 to V31, 32 for FPCR, 33 for FPSR.
    pub register: usize,
    /// What was put there.
    pub expected: u128,
    /// What is there.
    pub found: u128,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.register {
            32 => to.write_str("FPCR")?,
            33 => to.write_str("FPSR")?,
            register => write!(to, "V{register}")?,
        }
        write!(to, " expected {:#034x} found {:#034x}", self.expected, self.found)
    }
}

/// FPCR bits that every FP implementation has: AHP, DN, FZ, RMode (DDI0487 C5.2.8).
const FPCR_BITS: u64 = 1 << 26 | 1 << 25 | 1 << 24 | 0b11 << 22;
/// FPSR: QC and the cumulative exception bits IDC, IXC, UFC, OFC, DZC, IOC (DDI0487 C5.2.10).
const FPSR_BITS: u64 = 1 << 27 | 0x9f;

impl State {
    /// Makes all registers zero.
    pub const fn zero() -> Self {
        Self { v: [[0; 2]; 32], fpcr: 0, fpsr: 0 }
    }

    /// Makes the pattern of `owner` in its `round`th turn.
    ///
    /// The high half of a register is seed (bits 127:112), worker (111:104), register number (103:96) and round (95:64);
    /// the low half is a hash of the high one.
    pub fn pattern(owner: Owner, round: u32) -> Self {
        let mut state = Self::zero();
        let tag = u64::from(owner.seed) << 48 | u64::from(owner.worker) << 40 | u64::from(round);
        for (number, register) in state.v.iter_mut().enumerate() {
            let high = tag | (number as u64) << 32;
            *register = [mix(high), high];
        }
        let mut rng = Rng::new(tag);
        state.fpcr = rng.draw() & FPCR_BITS;
        state.fpsr = rng.draw() & FPSR_BITS;
        state
    }

    /// Puts everything into the registers.
    #[rustfmt::skip]
    pub fn load(&self) {
        // SAFETY: reads this value only; the compiler keeps nothing in FP registers on a soft-float target.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "ldp q0, q1, [{v}]", "ldp q2, q3, [{v}, #32]", "ldp q4, q5, [{v}, #64]", "ldp q6, q7, [{v}, #96]",
                "ldp q8, q9, [{v}, #128]", "ldp q10, q11, [{v}, #160]", "ldp q12, q13, [{v}, #192]",
                "ldp q14, q15, [{v}, #224]", "ldp q16, q17, [{v}, #256]", "ldp q18, q19, [{v}, #288]",
                "ldp q20, q21, [{v}, #320]", "ldp q22, q23, [{v}, #352]", "ldp q24, q25, [{v}, #384]",
                "ldp q26, q27, [{v}, #416]", "ldp q28, q29, [{v}, #448]", "ldp q30, q31, [{v}, #480]",
                "msr fpcr, {fpcr}", "msr fpsr, {fpsr}",
                v = in(reg) &raw const self.v, fpcr = in(reg) self.fpcr, fpsr = in(reg) self.fpsr,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Reads everything from the registers.
    #[rustfmt::skip]
    pub fn read(&mut self) {
        // SAFETY: writes this value only, 512 bytes at `v`.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "stp q0, q1, [{v}]", "stp q2, q3, [{v}, #32]", "stp q4, q5, [{v}, #64]", "stp q6, q7, [{v}, #96]",
                "stp q8, q9, [{v}, #128]", "stp q10, q11, [{v}, #160]", "stp q12, q13, [{v}, #192]",
                "stp q14, q15, [{v}, #224]", "stp q16, q17, [{v}, #256]", "stp q18, q19, [{v}, #288]",
                "stp q20, q21, [{v}, #320]", "stp q22, q23, [{v}, #352]", "stp q24, q25, [{v}, #384]",
                "stp q26, q27, [{v}, #416]", "stp q28, q29, [{v}, #448]", "stp q30, q31, [{v}, #480]",
                "mrs {fpcr}, fpcr", "mrs {fpsr}, fpsr",
                v = in(reg) &raw mut self.v, fpcr = out(reg) self.fpcr, fpsr = out(reg) self.fpsr,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Compares with what was read back, FPCR and FPSR included.
    pub fn compare(&self, found: &State) -> Option<Mismatch> {
        let wide = |half: [u64; 2]| u128::from(half[1]) << 64 | u128::from(half[0]);
        let vectors = self.v.iter().zip(&found.v).map(|(&a, &b)| (wide(a), wide(b)));
        let controls = [(self.fpcr, found.fpcr), (self.fpsr, found.fpsr)].map(|(a, b)| (a.into(), b.into()));
        vectors
            .chain(controls)
            .enumerate()
            .find(|(_, (expected, found))| expected != found)
            .map(|(register, (expected, found))| Mismatch { register, expected, found })
    }

    /// Reads the registers and compares them with this pattern.
    pub fn check(&self) -> Option<Mismatch> {
        let mut found = Self::zero();
        found.read();
        self.compare(&found)
    }
}

/// Lets EL1 and EL0 use FP: CPACR_EL1.FPEN = 0b11, SVE and SME off.
pub fn enable() {
    crate::msr!("cpacr_el1", 0b11 << 20);
    crate::cpu::isb();
}

/// Makes FP trap to EL1.
pub fn disable() {
    crate::msr!("cpacr_el1", 0);
    crate::cpu::isb();
}

/// Executes one FP instruction, of no consequence to a pattern: FMOV D31, D31 clears the high half of V31.
pub fn touch() {
    // SAFETY: changes V31 only, which the compiler does not use.
    unsafe { asm!(".arch_extension fp", "fmov d31, d31", options(nomem, nostack, preserves_flags)) };
}
