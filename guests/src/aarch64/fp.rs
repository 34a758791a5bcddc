//! V0 to V31, FPCR and FPSR, and what SVE adds: the rest of Z0 to Z31, predicates, FFR and a vector length.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spin::Once;

use crate::fp::{Mismatch, Origin, Owner, difference, foreign};
use crate::rng::Rng;

/// Which of the FP registers are used together: SVE comes with SIMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(u8);

impl Units {
    /// FP and Advanced SIMD.
    pub const SIMD: Self = Self(0b001);
    /// Scalable vectors and predicates.
    pub const SVE: Self = Self(0b011);
    /// Scalable vectors, and the say over their length: `ZCR_EL1`, which only EL1 has.
    pub const SCALED: Self = Self(0b111);
    /// What every CPU has.
    pub const BASE: Self = Self::SIMD;

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "simd" => Some(Self::SIMD),
            "sve" => Some(Self::SCALED),
            _ => None,
        }
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

    /// Tells what a program may use under Linux, by AT_HWCAP: FP and Advanced SIMD, which Linux needs itself, and SVE
    /// by bit 22 (Linux `uapi/asm/hwcap.h`).
    pub fn from_hwcap(word: u64) -> Self {
        if word >> 22 & 1 == 1 { Self::SVE } else { Self::SIMD }
    }

    /// Tells what keeps its contents over a system call of Linux: SIMD (Linux Documentation/arch/arm64/sve.rst).
    pub fn kept_by_calls(self) -> Self {
        self.common(Self::SIMD)
    }

    /// Draws some of these units that can be used together.
    pub fn draw(self, rng: &mut Rng) -> Self {
        if rng.below(2) == 0 { self } else { self.common(Self::SIMD) }
    }
}

impl fmt::Display for Units {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(if self.has(Self::SVE) { "SVE" } else { "SIMD" })
    }
}

/// One of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// V0 to V31, of which Z0 to Z31 are the longer view.
    V(u8),
    /// P0 to P15.
    P(u8),
    /// FFR.
    Ffr,
    /// ZCR_EL1.
    Zcr,
    /// FPCR.
    Fpcr,
    /// FPSR.
    Fpsr,
}

impl fmt::Display for Register {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V(number) => write!(to, "V{number}"),
            Self::P(number) => write!(to, "P{number}"),
            Self::Ffr => to.write_str("FFR"),
            Self::Zcr => to.write_str("ZCR_EL1"),
            Self::Fpcr => to.write_str("FPCR"),
            Self::Fpsr => to.write_str("FPSR"),
        }
    }
}

/// Bytes of the longest vectors that the architecture allows.
const LONGEST: usize = 256;
/// 64-bit lanes of such a vector.
const LANES: usize = LONGEST / 8;
/// Bytes of V.
const SHORTEST: usize = 16;

/// What the registers of some units hold.
#[repr(C, align(16))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    v: [[u64; LANES]; 32],
    p: [[u64; LANES / 8]; 16],
    ffr: [u64; LANES / 8],
    fpcr: u64,
    fpsr: u64,
    zcr: u64,
    units: Units,
    /// Bytes of each vector that are seen.
    length: usize,
}

/// FPCR bits that every FP implementation has: AHP, DN, FZ, RMode (DDI0487 C5.2.8).
const FPCR_BITS: u64 = 1 << 26 | 1 << 25 | 1 << 24 | 0b11 << 22;
/// FPSR: QC and the cumulative exception bits IDC, IXC, UFC, OFC, DZC, IOC (DDI0487 C5.2.10).
const FPSR_BITS: u64 = 1 << 27 | 0x9f;

impl State {
    const ZERO: Self = Self {
        v: [[0; LANES]; 32],
        p: [[0; LANES / 8]; 16],
        ffr: [0; LANES / 8],
        fpcr: 0,
        fpsr: 0,
        zcr: 0,
        units: Units(0),
        length: SHORTEST,
    };

    /// Makes the pattern of `owner` in its `round`th turn. Whoever has the say draws a vector length, too: often the
    /// longest.
    pub fn pattern(owner: Owner, round: u32, units: Units) -> Self {
        let bits = |register: usize, lane: usize| {
            Origin { owner, register: register as u8, lane: lane as u8, round: round as u16 & 0x1fff }.bits()
        };
        let mut rng = Rng::new(bits(0, 0));
        let mut state = Self { units, ..Self::ZERO };
        (state.fpcr, state.fpsr) = (rng.draw() & FPCR_BITS, rng.draw() & FPSR_BITS);
        if units.has(Units::SCALED) {
            state.zcr = if rng.below(2) == 0 { 0xf } else { rng.below(16) };
            state.length = LENGTHS[state.zcr as usize].load(Relaxed);
        } else if units.has(Units::SVE) {
            state.length = length();
        }
        for (register, v) in state.v.iter_mut().enumerate() {
            v.iter_mut().take(state.length / 8).enumerate().for_each(|(lane, v)| *v = bits(register, lane));
        }
        if units.has(Units::SVE) {
            // A bit for each byte of a vector.
            for (register, p) in state.p.iter_mut().enumerate() {
                let lanes = p.iter_mut().enumerate();
                lanes.for_each(|(lane, p)| *p = bits(32 + register, lane) & ones(state.length, lane));
            }
            // FFR has no one above a zero.
            let set = rng.below(state.length as u64 + 1) as usize;
            state.ffr.iter_mut().enumerate().for_each(|(lane, ffr)| *ffr = ones(set, lane));
        }
        state
    }

    /// Puts everything into the registers.
    pub fn load(&self) {
        if self.units.has(Units::SCALED) {
            set_zcr(self.zcr);
        }
        if self.units.has(Units::SVE) {
            // SAFETY: reads this value only, at most 256 bytes for each register of `v` and 32 for those of `p` and `ffr`;
            // the compiler keeps nothing in FP registers on a soft-float target. What is loaded to FFR has no one above a
            // zero, as WRFFR demands.
            unsafe {
                asm!(
                    ".arch_extension sve",
                    "ldr p0, [{ffr}]",
                    "wrffr p0.b",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    "ldr p\\n, [{p}]",
                    "add {p}, {p}, #32",
                    ".endr",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "ldr z\\n, [{v}]",
                    "add {v}, {v}, #256",
                    ".endr",
                    ".arch_extension nosve",
                    ffr = in(reg) &raw const self.ffr,
                    p = inout(reg) &raw const self.p => _,
                    v = inout(reg) &raw const self.v => _,
                    options(nostack, preserves_flags),
                );
            }
        } else {
            // SAFETY: as above, 16 bytes for each register of `v`.
            unsafe {
                asm!(
                    ".arch_extension fp", ".arch_extension simd",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "ldr q\\n, [{v}, #(\\n * 256)]",
                    ".endr",
                    v = in(reg) &raw const self.v,
                    options(nostack, preserves_flags),
                );
            }
        }
        // SAFETY: FPCR and FPSR change the results of FP instructions only, of which compiled code has none.
        unsafe {
            asm!("msr S3_3_C4_C4_0, {}", "msr S3_3_C4_C4_1, {}", in(reg) self.fpcr, in(reg) self.fpsr,
                options(nostack, nomem, preserves_flags));
        }
    }

    /// Reads what the registers hold.
    pub fn read(units: Units) -> Self {
        let mut state = Self { units, ..Self::ZERO };
        if units.has(Units::SVE) {
            state.length = length();
            // SAFETY: writes this value only, at most 256 bytes for each register of `v` and 32 for those of `p` and `ffr`.
            unsafe {
                asm!(
                    ".arch_extension sve",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "str z\\n, [{v}]",
                    "add {v}, {v}, #256",
                    ".endr",
                    "mov {v}, {p}",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    "str p\\n, [{v}]",
                    "add {v}, {v}, #32",
                    ".endr",
                    "rdffr p0.b",
                    "str p0, [{ffr}]",
                    "ldr p0, [{p}]",
                    ".arch_extension nosve",
                    ffr = in(reg) &raw mut state.ffr,
                    p = in(reg) &raw mut state.p,
                    v = inout(reg) &raw mut state.v => _,
                    options(nostack, preserves_flags),
                );
            }
        } else {
            // SAFETY: as above, 16 bytes for each register of `v`.
            unsafe {
                asm!(
                    ".arch_extension fp", ".arch_extension simd",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "str q\\n, [{v}, #(\\n * 256)]",
                    ".endr",
                    v = in(reg) &raw mut state.v,
                    options(nostack, preserves_flags),
                );
            }
        }
        if units.has(Units::SCALED) {
            state.zcr = zcr();
        }
        // SAFETY: reads FPCR and FPSR.
        unsafe {
            asm!("mrs {}, S3_3_C4_C4_0", "mrs {}, S3_3_C4_C4_1", out(reg) state.fpcr, out(reg) state.fpsr,
                options(nostack, nomem, preserves_flags));
        }
        state
    }

    /// Returns how many bytes of each vector are seen.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Lists the vectors: register, which 64 bits of it, the bits.
    fn vectors(&self, length: usize) -> impl Iterator<Item = (Register, usize, u64)> {
        let vectors = self.v.iter().enumerate();
        vectors.flat_map(move |(n, v)| (0..length / 8).map(move |lane| (Register::V(n as u8), lane, v[lane])))
    }

    /// Lists the rest of what some of its units show.
    fn others(&self, units: Units) -> impl Iterator<Item = (Register, usize, u64)> {
        let predicates = self.p.iter().enumerate().map(|(n, p)| (Register::P(n as u8), p));
        let predicates = predicates.chain([(Register::Ffr, &self.ffr)]);
        let lanes = self.length.div_ceil(64);
        let predicates = predicates.flat_map(move |(register, bits)| {
            bits[..lanes].iter().enumerate().map(move |(lane, bits)| (register, lane, *bits))
        });
        let (has_sve, has_zcr) = (units.has(Units::SVE), units.has(Units::SCALED));
        let controls = [(Register::Fpcr, 0, self.fpcr), (Register::Fpsr, 0, self.fpsr)];
        let zcr = [(Register::Zcr, 0, self.zcr)].into_iter().filter(move |_| has_zcr);
        zcr.chain(controls).chain(predicates.filter(move |_| has_sve))
    }

    /// Compares with what was read back, as far as both go.
    pub fn compare(&self, found: &State) -> Option<Mismatch> {
        let units = self.units.common(found.units);
        let length = if units.has(Units::SVE) { self.length.min(found.length) } else { SHORTEST };
        let mine = self.others(units).chain(self.vectors(length));
        let theirs = found.others(units).chain(found.vectors(length));
        let pairs = mine.zip(theirs);
        difference(pairs.map(|((register, lane, expected), (_, _, found))| (register, lane, expected, found)))
    }

    /// Compares vectors with what was read back after some time with vectors of `short` bytes: what was out of reach
    /// may be zero.
    pub fn compare_shortened(&self, found: &State, short: usize) -> Option<Mismatch> {
        let length = self.length.min(found.length);
        let pairs = self.vectors(length).zip(found.vectors(length));
        let pairs = pairs.filter(|((_, lane, _), (_, _, found))| *lane < short / 8 || *found != 0);
        difference(pairs.map(|((register, lane, expected), (_, _, found))| (register, lane, expected, found)))
    }

    /// Reads the registers and compares them with this pattern.
    pub fn check(&self) -> Option<Mismatch> {
        self.compare(&Self::read(self.units))
    }

    /// Finds what is part of another's pattern. Predicates are too short to tell.
    pub fn foreign(&self, owner: Owner) -> Option<Mismatch> {
        foreign(owner, self.vectors(self.length))
    }

    /// Finds anything in the vectors and predicates that is not zero, beyond what V shows of the vectors.
    pub fn beyond_simd(&self) -> Option<Mismatch> {
        let is_narrow = |register, lane| match register {
            Register::V(_) => lane < SHORTEST / 8,
            Register::P(_) | Register::Ffr => false,
            Register::Zcr | Register::Fpcr | Register::Fpsr => true,
        };
        let all = self.vectors(self.length).chain(self.others(self.units));
        let zeroes = all.filter(|(register, lane, _)| !is_narrow(*register, *lane));
        difference(zeroes.map(|(register, lane, found)| (register, lane, 0, found)))
    }

    /// Changes one bit of each register in turn, of each of its lanes, and hands it to `visit`.
    pub fn each_changed(&self, mut visit: impl FnMut(Register, usize, &State)) {
        let all = self.vectors(self.length).count() + self.others(self.units).count();
        let mut other = self.clone();
        for at in 0..all {
            let lanes = self.vectors(self.length).chain(self.others(self.units));
            let Some((register, lane, _)) = lanes.into_iter().nth(at) else { return };
            match register {
                Register::V(n) => other.v[usize::from(n)][lane] ^= 1 << (at % 64),
                Register::P(n) => {
                    other.p[usize::from(n)][lane] ^= 1 << (at % (self.length - 64 * lane).min(64))
                }
                // All or nothing: it is a run of ones, and a change shows in the lane where they begin.
                Register::Ffr if lane > 0 => continue,
                Register::Ffr if self.ffr[0] & 1 == 1 => other.ffr = [0; LANES / 8],
                Register::Ffr => other.ffr = core::array::from_fn(|lane| ones(self.length, lane)),
                Register::Zcr => continue,
                Register::Fpcr => other.fpcr ^= 1 << 24,
                Register::Fpsr => other.fpsr ^= 1 << 4,
            }
            if other != *self {
                visit(register, lane, &other);
            }
            other.clone_from(self);
        }
    }
}

/// The part of a run of `count` ones, from bit 0 of lane 0 upwards, that is in one lane.
fn ones(count: usize, lane: usize) -> u64 {
    match count.saturating_sub(64 * lane) {
        0 => 0,
        count @ 1..64 => (1 << count) - 1,
        _ => u64::MAX,
    }
}

/// Bytes of a vector, for each value of `ZCR_EL1.LEN`.
static LENGTHS: [AtomicUsize; 16] = [const { AtomicUsize::new(SHORTEST) }; 16];

/// Returns the bytes of a vector as `ZCR_EL1` has it, for each value of LEN.
pub fn lengths() -> [usize; 16] {
    present();
    core::array::from_fn(|n| LENGTHS[n].load(Relaxed))
}

/// Returns the bytes of a vector now.
pub fn length() -> usize {
    let bytes;
    // SAFETY: RDVL changes its destination only.
    unsafe {
        asm!(".arch_extension sve", "rdvl {}, #1", ".arch_extension nosve", out(reg) bytes,
            options(nostack, nomem, preserves_flags));
    }
    bytes
}

/// Reads ZCR_EL1.
pub fn zcr() -> u64 {
    crate::mrs!("S3_0_C1_C2_0")
}

/// Writes ZCR_EL1: asks for a vector length, which holds at once.
pub fn set_zcr(value: u64) {
    crate::msr!("S3_0_C1_C2_0", value);
}

/// Tells what this CPU has; the first time, asks for every vector length.
pub fn present() -> Units {
    static PRESENT: Once<Units> = Once::new();
    *PRESENT.call_once(|| {
        // ID_AA64PFR0_EL1.SVE.
        if crate::mrs!("id_aa64pfr0_el1") >> 32 & 0xf == 0 {
            return Units::SIMD;
        }
        let before = controls();
        restore_controls(FPEN | ZEN);
        for (len, slot) in LENGTHS.iter().enumerate() {
            set_zcr(len as u64);
            slot.store(length().clamp(SHORTEST, LONGEST), Relaxed);
        }
        restore_controls(before);
        Units::SCALED
    })
}

/// CPACR_EL1.FPEN and .ZEN: neither traps.
const FPEN: u64 = 0b11 << 20;
const ZEN: u64 = 0b11 << 16;

/// Lets EL1 and EL0 use FP, and SVE where it is: with SVE off and FP on, vectors have 128 bits, and whatever they had
/// beyond may be lost (DDI0487 B1.4.2, KXKNK). So whoever uses SIMD alone has SVE at hand and does not touch it.
pub fn enable(_: Units) {
    restore_controls(if present().has(Units::SVE) { FPEN | ZEN } else { FPEN });
}

/// Lets EL1 and EL0 use FP and nothing else.
pub fn enable_simd_only() {
    restore_controls(FPEN);
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

/// Executes one FP instruction: FMOV D31, D31 clears the high half of V31, and the rest of Z31.
pub fn touch() {
    // SAFETY: changes V31 only, which the compiler does not use.
    unsafe { asm!(".arch_extension fp", "fmov d31, d31", options(nomem, nostack, preserves_flags)) };
}

/// Executes one SVE instruction: the bytes of Z31 count up from one.
pub fn touch_scalable() {
    // SAFETY: changes Z31 only, which the compiler does not use.
    unsafe {
        asm!(
            ".arch_extension sve",
            "index z31.b, #1, #1",
            ".arch_extension nosve",
            options(nomem, nostack, preserves_flags)
        )
    };
}

/// Clears FPSR.
pub fn touch_control() {
    crate::msr!("S3_3_C4_C4_1", 0);
}
