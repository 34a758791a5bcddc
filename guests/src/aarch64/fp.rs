//! V0 to V31, FPCR and FPSR.

use core::arch::asm;
use core::fmt;

use crate::fp::{Mismatch, Origin, Owner, difference, foreign};
use crate::rng::Rng;

/// Which of the FP registers are used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(u8);

impl Units {
    /// FP and Advanced SIMD.
    pub const SIMD: Self = Self(1);
    /// What every CPU has.
    pub const BASE: Self = Self::SIMD;

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        (name == "simd").then_some(Self::SIMD)
    }

    /// Tells whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether these units are among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns what is in both.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Tells what a program may use under Linux, by AT_HWCAP: FP and Advanced SIMD, which Linux needs itself.
    pub fn from_hwcap(_: u64) -> Self {
        Self::SIMD
    }

    /// Draws some of these units that can be used together.
    pub fn draw(self, _: &mut Rng) -> Self {
        self
    }
}

impl fmt::Display for Units {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("SIMD")
    }
}

/// One of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// V0 to V31.
    V(u8),
    /// FPCR.
    Fpcr,
    /// FPSR.
    Fpsr,
}

impl fmt::Display for Register {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V(number) => write!(to, "V{number}"),
            Self::Fpcr => to.write_str("FPCR"),
            Self::Fpsr => to.write_str("FPSR"),
        }
    }
}

/// What the registers of some units hold.
#[repr(C, align(16))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    v: [[u64; 2]; 32],
    fpcr: u64,
    fpsr: u64,
}

/// FPCR bits that every FP implementation has: AHP, DN, FZ, RMode (DDI0487 C5.2.8).
const FPCR_BITS: u64 = 1 << 26 | 1 << 25 | 1 << 24 | 0b11 << 22;
/// FPSR: QC and the cumulative exception bits IDC, IXC, UFC, OFC, DZC, IOC (DDI0487 C5.2.10).
const FPSR_BITS: u64 = 1 << 27 | 0x9f;

impl State {
    /// Makes the pattern of `owner` in its `round`th turn.
    pub fn pattern(owner: Owner, round: u32, _: Units) -> Self {
        let lane = |register: usize, lane: usize| {
            Origin { owner, register: register as u8, lane: lane as u8, round: round as u16 & 0x1fff }.bits()
        };
        let v = core::array::from_fn(|register| [lane(register, 0), lane(register, 1)]);
        let mut rng = Rng::new(v[0][0]);
        Self { v, fpcr: rng.draw() & FPCR_BITS, fpsr: rng.draw() & FPSR_BITS }
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

    /// Reads what the registers hold.
    #[rustfmt::skip]
    pub fn read(_: Units) -> Self {
        let mut state = Self { v: [[0; 2]; 32], fpcr: 0, fpsr: 0 };
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
                v = in(reg) &raw mut state.v, fpcr = out(reg) state.fpcr, fpsr = out(reg) state.fpsr,
                options(nostack, preserves_flags),
            );
        }
        state
    }

    /// Lists everything: register, which 64 bits of it, the bits.
    fn lanes(&self) -> impl Iterator<Item = (Register, usize, u64)> {
        let vectors = self.v.iter().enumerate();
        let vectors =
            vectors.flat_map(|(n, v)| (0..2).map(move |lane| (Register::V(n as u8), lane, v[lane])));
        vectors.chain([(Register::Fpcr, 0, self.fpcr), (Register::Fpsr, 0, self.fpsr)])
    }

    /// Compares with what was read back, as far as both go.
    pub fn compare(&self, found: &State) -> Option<Mismatch> {
        let pairs = self.lanes().zip(found.lanes());
        difference(pairs.map(|((register, lane, expected), (_, _, found))| (register, lane, expected, found)))
    }

    /// Reads the registers and compares them with this pattern.
    pub fn check(&self) -> Option<Mismatch> {
        self.compare(&Self::read(Units::SIMD))
    }

    /// Finds what is part of another's pattern.
    pub fn foreign(&self, owner: Owner) -> Option<Mismatch> {
        foreign(owner, self.lanes())
    }
}

/// Tells what this CPU has.
pub fn present() -> Units {
    Units::SIMD
}

/// Lets EL1 and EL0 use these units and no others: CPACR_EL1.FPEN = 0b11, SVE and SME off.
pub fn enable(_: Units) {
    restore_controls(0b11 << 20);
}

/// Makes FP trap to EL1.
pub fn disable() {
    restore_controls(0);
}

/// Returns what is enabled (CPACR_EL1), for [`restore_controls`].
pub fn controls() -> u64 {
    crate::mrs!("cpacr_el1")
}

/// Enables what was enabled when [`controls`] returned this.
pub fn restore_controls(controls: u64) {
    crate::msr!("cpacr_el1", controls);
    crate::cpu::isb();
}

/// The register that [`touch`] changes.
pub const TOUCHED: Register = Register::V(31);
/// A control register, which [`touch_control`] clears.
pub const CONTROL: Register = Register::Fpsr;

/// Executes one FP instruction: FMOV D31, D31 clears the high half of V31.
pub fn touch() {
    // SAFETY: changes V31 only, which the compiler does not use.
    unsafe { asm!(".arch_extension fp", "fmov d31, d31", options(nomem, nostack, preserves_flags)) };
}

/// Clears FPSR.
pub fn touch_control() {
    crate::msr!("S3_3_C4_C4_1", 0);
}
