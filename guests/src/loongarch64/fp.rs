//! The FPU's registers (f0 to f31 of 64 bits, which LSX widens to 128 and LASX to 256, the condition flags and FCSR0), and
//! those of binary translation, LBT (four scratch registers, the flags of x86 and TOP of the x87).

use core::arch::asm;
use core::fmt;

use super::{cpu, csr};
use crate::fp::{Mismatch, Origin, Owner, difference, foreign};
use crate::rng::Rng;
use crate::{csr, set_csr};

/// Which of the FP units are used together: LSX comes with the FPU, LASX with LSX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(u8);

impl Units {
    /// No unit.
    pub const NONE: Self = Self(0);
    /// The FPU.
    pub const FPU: Self = Self(0b0001);
    /// Vectors of 128 bits.
    pub const LSX: Self = Self(0b0011);
    /// Vectors of 256 bits.
    pub const LASX: Self = Self(0b0111);
    /// Binary translation.
    pub const LBT: Self = Self(0b1000);
    /// Binary translation where TOP stays what it is, which not every kernel sees to.
    pub const TOP: Self = Self(0b1_1000);
    /// What every CPU has.
    pub const BASE: Self = Self::FPU;

    /// Tells whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether these units are among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds units.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns what is in both.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Reads names: `fpu`, `lsx`, `lasx`, `lbt`, joined by `+`.
    pub fn parse(names: &str) -> Option<Self> {
        names.split('+').try_fold(Self::NONE, |units, name| match name {
            "fpu" => Some(units.and(Self::FPU)),
            "lsx" => Some(units.and(Self::LSX)),
            "lasx" => Some(units.and(Self::LASX)),
            "lbt" => Some(units.and(Self::TOP)),
            _ => None,
        })
    }

    /// Adds units if a bit is set.
    const fn when(self, word: u64, bit: u32, other: Self) -> Self {
        if word >> bit & 1 == 1 { self.and(other) } else { self }
    }

    /// Tells what a program may use under Linux, by AT_HWCAP: bits 3, 4, 5 and 10 (Linux `asm/hwcap.h`).
    ///
    /// TOP is not among it: Linux keeps it with the FPU's registers, and loads it with them even if the program has changed
    /// it by an instruction of LBT in between. Seen with Linux 7.2 on the emulator alone.
    pub fn from_hwcap(word: u64) -> Self {
        let fpu = Self::NONE.when(word, 3, Self::FPU);
        fpu.when(word, 4, Self::LSX).when(word, 5, Self::LASX).when(word, 10, Self::LBT)
    }

    /// Tells what keeps its contents over a system call of Linux: everything.
    pub fn kept_by_calls(self) -> Self {
        self
    }

    /// Draws some of these units that can be used together, at least one.
    pub fn draw(self, rng: &mut Rng) -> Self {
        loop {
            let width = [Self::NONE, Self::FPU, Self::LSX, Self::LASX][rng.below(4) as usize];
            let some = if rng.below(2) == 0 { width } else { width.and(self.common(Self::TOP)) };
            if some != Self::NONE && self.has(some) {
                return some;
            }
        }
    }

    /// Counts the 64-bit lanes of the vector registers that can be seen.
    const fn lanes(self) -> usize {
        match self.0 & 0b0111 {
            0 => 0,
            0b0001 => 1,
            0b0011 => 2,
            _ => 4,
        }
    }
}

impl fmt::Display for Units {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(["no width", "FPU", "LSX", "", "LASX"][self.lanes()])?;
        if self.has(Self::LBT) { to.write_str("+LBT") } else { Ok(()) }
    }
}

/// One of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// f0 to f31, of which vr0 and xr0 are wider views.
    F(u8),
    /// The condition flags fcc0 to fcc7, a bit each.
    Fcc,
    /// FCSR0.
    Fcsr,
    /// scr0 to scr3.
    Scr(u8),
    /// The flags of x86.
    Eflags,
    /// TOP of the x87, which counts while FCSR0.TM is set.
    Top,
}

impl fmt::Display for Register {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F(number) => write!(to, "F{number}"),
            Self::Fcc => to.write_str("FCC"),
            Self::Fcsr => to.write_str("FCSR0"),
            Self::Scr(number) => write!(to, "SCR{number}"),
            Self::Eflags => to.write_str("EFLAGS"),
            Self::Top => to.write_str("TOP"),
        }
    }
}

/// What the registers of some units hold.
#[repr(C, align(32))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    v: [[u64; 4]; 32],
    scr: [u64; 4],
    fcc: u64,
    fcsr: u64,
    eflags: u64,
    top: u64,
    units: Units,
}

/// FCSR0: Enables 4:0, RM 9:8, Flags 20:16, Cause 28:24 (Vol.1, 3.1.4).
const FCSR_BITS: u64 = 0x1f | 0b11 << 8 | 0x1f << 16 | 0x1f << 24;
/// FCSR0.TM: f0 to f7 are the stack of the x87, and their names rotate by TOP. Only CPUs with LBT have it.
const TM: u64 = 1 << 6;
/// CF, PF, AF, ZF, SF and OF where x86 has them.
const EFLAGS_BITS: u64 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;

impl State {
    const fn zero(units: Units) -> Self {
        Self { v: [[0; 4]; 32], scr: [0; 4], fcc: 0, fcsr: 0, eflags: 0, top: 0, units }
    }

    /// Makes the pattern of `owner` in its `round`th turn.
    pub fn pattern(owner: Owner, round: u32, units: Units) -> Self {
        let lane = |register: usize, lane: usize| {
            Origin { owner, register: register as u8, lane: lane as u8, round: round as u16 & 0x1fff }.bits()
        };
        let mut state = Self::zero(units);
        state.v = core::array::from_fn(|register| core::array::from_fn(|n| lane(register, n)));
        state.scr = core::array::from_fn(|register| lane(32 + register, 0));
        let mut rng = Rng::new(state.v[0][0]);
        state.fcc = rng.draw() & 0xff;
        state.fcsr = rng.draw() & FCSR_BITS;
        // A cause that is enabled would be an exception.
        state.fcsr &= !((state.fcsr & 0x1f) << 24);
        state.eflags = rng.draw() & EFLAGS_BITS;
        if units.has(Units::FPU.and(Units::LBT)) {
            // By turns, so that who has to can do without: to read the registers under TM is to change FCSR0 for a moment.
            state.fcsr |= if round.is_multiple_of(2) { 0 } else { TM };
            state.top = rng.below(8);
        }
        state
    }

    /// Puts everything into the registers.
    pub fn load(&self) {
        macro_rules! vectors {
            ($code:literal) => {
                // SAFETY: reads this value only, 1024 bytes at `v`; the compiler keeps nothing in FP registers on a
                // soft-float target.
                unsafe {
                    asm!(
                        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                        $code,
                        ".endr",
                        v = in(reg) &raw const self.v,
                        options(nostack, readonly),
                    )
                }
            };
        }
        if self.units.has(Units::FPU) {
            // The names that follow are those without TM.
            set_fcsr(0);
        }
        match self.units.lanes() {
            0 => {}
            1 => vectors!("fld.d $f\\n, {v}, 32 * \\n"),
            2 => vectors!("vld $vr\\n, {v}, 32 * \\n"),
            _ => vectors!("xvld $xr\\n, {v}, 32 * \\n"),
        }
        if self.units.has(Units::FPU) {
            // SAFETY: changes condition flags only.
            unsafe {
                asm!(
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
                    "bstrpick.d {t}, {fcc}, \\n, \\n",
                    "movgr2cf $fcc\\n, {t}",
                    ".endr",
                    t = out(reg) _, fcc = in(reg) self.fcc,
                    options(nostack, nomem),
                );
            }
            set_fcsr(self.fcsr);
        }
        if self.units.has(Units::LBT) {
            let [a, b, c, d] = self.scr;
            // SAFETY: changes registers of LBT only, which the compiler does not use.
            unsafe {
                asm!(
                    "movgr2scr $scr0, {a}", "movgr2scr $scr1, {b}", "movgr2scr $scr2, {c}", "movgr2scr $scr3, {d}",
                    "x86mtflag {flags}, 0x3f",
                    a = in(reg) a, b = in(reg) b, c = in(reg) c, d = in(reg) d, flags = in(reg) self.eflags,
                    options(nostack, nomem),
                );
            }
            // Whoever is interrupted may have TM clear for a moment, and wants TOP back all the same.
            set_top(self.top);
        }
    }

    /// Tells whether TOP has to be what it was: where FCSR0 is known, too, and has TM set.
    const fn has_top(&self) -> bool {
        self.units.has(Units::FPU.and(Units::TOP)) && self.fcsr & TM != 0
    }

    /// Reads what the registers of some units hold.
    pub fn read(units: Units) -> Self {
        let mut state = Self::zero(units);
        macro_rules! vectors {
            ($code:literal) => {
                // SAFETY: writes this value only, 1024 bytes at `v`.
                unsafe {
                    asm!(
                        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                        $code,
                        ".endr",
                        v = in(reg) &raw mut state.v,
                        options(nostack),
                    )
                }
            };
        }
        if units.has(Units::FPU) {
            state.fcsr = fcsr();
            if units.has(Units::LBT) {
                state.top = top();
            }
            if state.fcsr & TM != 0 {
                set_fcsr(0);
            }
        }
        match units.lanes() {
            0 => {}
            1 => vectors!("fst.d $f\\n, {v}, 32 * \\n"),
            2 => vectors!("vst $vr\\n, {v}, 32 * \\n"),
            _ => vectors!("xvst $xr\\n, {v}, 32 * \\n"),
        }
        if units.has(Units::FPU) {
            // SAFETY: reads condition flags.
            unsafe {
                asm!(
                    "move {fcc}, $zero",
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
                    "movcf2gr {t}, $fcc\\n",
                    "bstrins.d {fcc}, {t}, \\n, \\n",
                    ".endr",
                    t = out(reg) _, fcc = out(reg) state.fcc,
                    options(nostack, nomem),
                );
            }
            if state.fcsr & TM != 0 {
                set_fcsr(state.fcsr);
            }
            if state.fcsr & TM != 0 && units.has(Units::LBT) {
                set_top(state.top);
            }
        }
        if units.has(Units::LBT) {
            let (a, b, c, d, flags): (u64, u64, u64, u64, u64);
            // SAFETY: reads registers of LBT.
            unsafe {
                asm!(
                    "movscr2gr {a}, $scr0", "movscr2gr {b}, $scr1", "movscr2gr {c}, $scr2", "movscr2gr {d}, $scr3",
                    "x86mfflag {flags}, 0x3f",
                    a = out(reg) a, b = out(reg) b, c = out(reg) c, d = out(reg) d, flags = out(reg) flags,
                    options(nostack, nomem),
                );
            }
            (state.scr, state.eflags) = ([a, b, c, d], flags & EFLAGS_BITS);
        }
        state
    }

    /// Lists what some of its units show: register, which 64 bits of it, the bits.
    fn lanes(&self, units: Units) -> impl Iterator<Item = (Register, usize, u64)> {
        let units = self.units.common(units);
        let vectors = self.v.iter().enumerate();
        let vectors = vectors.flat_map(move |(n, v)| {
            (0..units.lanes()).map(move |lane| (Register::F(n as u8), lane, v[lane]))
        });
        let fpu = [(Register::Fcc, 0, self.fcc), (Register::Fcsr, 0, self.fcsr)];
        let scr = self.scr.iter().enumerate().map(|(n, &scr)| (Register::Scr(n as u8), 0, scr));
        let lbt = scr.chain([(Register::Eflags, 0, self.eflags)]);
        // Last, because it is there or not by what FCSR0 holds, and lists are compared from the front.
        let has_top = self.has_top() && units.has(Units::FPU.and(Units::TOP));
        let top = [(Register::Top, 0, self.top)].into_iter().filter(move |_| has_top);
        let (has_fpu, has_lbt) = (units.has(Units::FPU), units.has(Units::LBT));
        vectors.chain(fpu.into_iter().filter(move |_| has_fpu)).chain(lbt.filter(move |_| has_lbt)).chain(top)
    }

    /// Compares with what was read back, as far as both go.
    pub fn compare(&self, found: &State) -> Option<Mismatch> {
        let pairs = self.lanes(found.units).zip(found.lanes(self.units));
        difference(pairs.map(|((register, lane, expected), (_, _, found))| (register, lane, expected, found)))
    }

    /// Reads the registers and compares them with this pattern.
    pub fn check(&self) -> Option<Mismatch> {
        self.compare(&Self::read(self.units))
    }

    /// Finds what is part of another's pattern.
    pub fn foreign(&self, owner: Owner) -> Option<Mismatch> {
        foreign(owner, self.lanes(self.units))
    }

    /// Changes one bit of each register in turn, of each of its lanes, and hands it to `visit`.
    pub fn each_changed(&self, mut visit: impl FnMut(Register, usize, &State)) {
        let mut other = self.clone();
        let all = self.lanes(self.units).count();
        for at in 0..all {
            let Some((register, lane, _)) = self.lanes(self.units).nth(at) else { return };
            other.clone_from(self);
            match register {
                Register::F(n) => other.v[usize::from(n)][lane] ^= 1 << (at % 64),
                Register::Fcc => other.fcc ^= 1 << 5,
                Register::Fcsr => other.fcsr ^= 1 << 9,
                Register::Scr(n) => other.scr[usize::from(n)] ^= 1 << (at % 64),
                Register::Eflags => other.eflags ^= 1 << 11,
                Register::Top => other.top ^= 1 << 2,
            }
            visit(register, lane, &other);
        }
    }
}

fn fcsr() -> u64 {
    let fcsr: u64;
    // SAFETY: reads FCSR0.
    unsafe { asm!("movfcsr2gr {}, $fcsr0", out(reg) fcsr, options(nostack, nomem)) };
    fcsr & 0xffff_ffff
}

/// Writes FCSR0, in which no cause that is enabled may be set: it would be an exception.
fn set_fcsr(value: u64) {
    // SAFETY: changes FCSR0 only, and with TM the names of FP registers, which the compiler does not use.
    unsafe { asm!("movgr2fcsr $fcsr0, {}", in(reg) value, options(nostack, nomem)) };
}

/// Tells whether FCSR0.TM is set.
pub fn tm() -> bool {
    fcsr() & TM != 0
}

/// Sets TM through FCSR0, which takes the FPU alone, and clears the rest of it.
pub fn set_tm() {
    set_fcsr(TM);
}

/// Reads TOP of the x87.
pub fn top() -> u64 {
    let top: u64;
    // SAFETY: reads a register of LBT.
    unsafe { asm!("x86mftop {}", out(reg) top, options(nostack, nomem)) };
    top & 7
}

/// Sets TOP of the x87 to `top` modulo 8.
pub fn set_top(top: u64) {
    macro_rules! set {
        ($($number:literal)*) => {
            match top & 7 {
                // SAFETY: changes TOP only, and with TM the names of FP registers, which the compiler does not use.
                $($number => unsafe { asm!(concat!("x86mttop ", $number), options(nostack, nomem)) },)*
                _ => unreachable!("three bits"),
            }
        };
    }
    // The instruction takes a constant.
    set!(0 1 2 3 4 5 6 7);
}

/// Tells what this CPU has: CPUCFG word 2, bits 0, 6, 7 and 18 (Vol.1, table 3).
pub fn present() -> Units {
    let word = u64::from(cpu::cpucfg(2));
    let fpu = Units::NONE.when(word, 0, Units::FPU);
    fpu.when(word, 6, Units::LSX).when(word, 7, Units::LASX).when(word, 18, Units::TOP)
}

/// Lets these units be used, and no others: EUEN has a bit for each.
pub fn enable(units: Units) {
    set_csr!(csr::EUEN, (units.0 & 0b1111).into());
}

/// Makes every unit trap.
pub fn disable() {
    set_csr!(csr::EUEN, 0);
}

/// Returns what is enabled (EUEN), for [`restore_controls`].
pub fn controls() -> u64 {
    csr!(csr::EUEN)
}

/// Enables what was enabled when [`controls`] returned this.
pub fn restore_controls(controls: u64) {
    set_csr!(csr::EUEN, controls);
}

/// The register that [`touch`] changes.
pub const TOUCHED: Register = Register::F(31);
/// A control register, which [`touch_control`] clears.
pub const CONTROL: Register = Register::Fcsr;

/// Executes one FP instruction: clears f31.
pub fn touch() {
    // SAFETY: changes f31 only, which the compiler does not use.
    unsafe { asm!("movgr2fr.d $f31, $zero", options(nomem, nostack)) };
}

/// Clears FCSR0.
pub fn touch_control() {
    // SAFETY: changes FCSR0 only, which the compiler does not use.
    unsafe { asm!("movgr2fcsr $fcsr0, $zero", options(nomem, nostack)) };
}
