//! The FP registers themselves.
//!
//! The compiler is told that there are none (the target is soft-float), so nothing but these functions touches them
//! outside guests.

use core::arch::{asm, naked_asm};

use kernel::fp::Units;

use crate::fp::{FPU, FpRegs, LASX, LSX, Lbt, Line, Refused, Width};
use crate::switch;

/// Does the same instructions for each of the 32 registers, `\\r` being its number. In place, not in a function of its own:
/// a call would cost the callers more registers to save than all of this needs.
macro_rules! each {
    ($operand:expr, $($line:literal),+) => {
        asm!(
            ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, \
             26, 27, 28, 29, 30, 31",
            $($line,)+
            ".endr",
            in(reg) $operand,
            options(nostack),
        )
    };
}

/// This CPU's FP registers and `EUEN`.
#[derive(Debug)]
pub struct Hardware(());

impl Hardware {
    /// Takes the registers of the CPU this runs on.
    ///
    /// # Safety
    /// 1. The code runs at PLV0 in root mode with interrupts masked and the vectors of `switch` in place, and it keeps
    ///    doing so.
    /// 2. This CPU's registers were not taken before, and the value stays on this CPU.
    pub unsafe fn claim() -> Self {
        Self(())
    }
}

impl FpRegs for Hardware {
    #[inline]
    fn set_euen(&mut self, value: u64) {
        // SAFETY: EUEN (CSR 0x2) exists at PLV0 (promised to `claim`). It gates registers that compiled code does not use.
        unsafe { asm!("csrwr {}, 0x2", inout(reg) value => _, options(nomem, nostack)) }
    }

    #[inline]
    fn fcsr(&mut self) -> u32 {
        let value: u64;
        // SAFETY: reads a register; if it is gated, contrary to the contract, that is an exception and no more.
        unsafe { asm!("movfcsr2gr {}, $fcsr0", out(reg) value, options(nomem, nostack)) }
        value as u32
    }

    #[inline]
    fn set_fcsr(&mut self, value: u32) {
        // SAFETY: FCSR controls instructions that compiled code does not use. No exception is enabled and raised by
        // `value` at once, says the contract.
        unsafe { asm!("movgr2fcsr $fcsr0, {}", in(reg) value, options(nomem, nostack)) }
    }

    #[cold]
    fn try_fcsr(&mut self, value: u32) -> Result<(), Refused> {
        // SAFETY: in the root (promised to `claim`). The one instruction changes FCSR, which is to be changed, or nothing.
        match unsafe { switch::attempt_with(write_fcsr, value.into()) } {
            None => Ok(()),
            Some(_) => Err(Refused),
        }
    }

    fn clear_tm(&mut self) {
        // SAFETY: clears a bit of FCSR, on a CPU that has LBT, as the contract says.
        unsafe { asm!("x86clrtm", options(nomem, nostack)) }
    }

    #[inline]
    fn fcc(&mut self) -> u8 {
        let value: u64;
        // SAFETY: reads registers.
        unsafe {
            asm!(
                "movcf2gr {fcc}, $fcc0",
                ".irp n, 1, 2, 3, 4, 5, 6, 7",
                "movcf2gr {one}, $fcc\\n",
                "bstrins.d {fcc}, {one}, \\n, \\n",
                ".endr",
                fcc = out(reg) value,
                one = out(reg) _,
                options(nomem, nostack),
            );
        }
        value as u8
    }

    #[inline]
    fn set_fcc(&mut self, value: u8) {
        // SAFETY: writes registers that compiled code does not use. Each takes the lowest bit of its source.
        unsafe {
            asm!(
                "movgr2cf $fcc0, {fcc}",
                ".irp n, 1, 2, 3, 4, 5, 6, 7",
                "srli.d {fcc}, {fcc}, 1",
                "movgr2cf $fcc\\n, {fcc}",
                ".endr",
                fcc = inout(reg) u64::from(value) => _,
                options(nomem, nostack),
            );
        }
    }

    #[inline]
    fn top(&mut self) -> u8 {
        let value: u64;
        // SAFETY: reads a register, on a CPU that has LBT, as the contract says.
        unsafe { asm!("x86mftop {}", out(reg) value, options(nomem, nostack)) }
        value as u8 & 7
    }

    #[inline]
    fn set_top(&mut self, value: u8) {
        // The instruction takes nothing but a constant: there is a place for each, of two instructions.
        // SAFETY: 1. decides what FP registers are called, which compiled code does not use, on a CPU that has LBT, as
        // the contract says. 2. The jump goes to one of the eight places: each is 8 bytes long, the first 12 bytes after
        // the `pcaddi`.
        unsafe {
            asm!(
                "pcaddi {base}, 0",
                "alsl.d {base}, {top}, {base}, 3",
                "jirl $zero, {base}, 12",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
                "x86mttop \\n",
                "b 2f",
                ".endr",
                "2:",
                base = out(reg) _,
                top = in(reg) u64::from(value & 7),
                options(nomem, nostack),
            );
        }
    }

    #[inline]
    fn store(&mut self, width: Width, form: Width, into: &mut [Line]) {
        assert!(into.len() >= form.max(width).lines(), "an image without room for its registers");
        let into = into.as_mut_ptr();
        // SAFETY: `into` has room for 32 registers at the distance that is written to (asserted), aligned to 32 bytes by
        // its type.
        unsafe {
            match (width, form) {
                (Width::Fpu, Width::Fpu) => each!(into, "fst.d $f\\r, {}, \\r * 8"),
                (Width::Fpu, Width::Lsx) => each!(into, "fst.d $f\\r, {}, \\r * 16"),
                (Width::Fpu, Width::Lasx) => each!(into, "fst.d $f\\r, {}, \\r * 32"),
                (Width::Lsx, Width::Fpu | Width::Lsx) => each!(into, "vst $vr\\r, {}, \\r * 16"),
                (Width::Lsx, Width::Lasx) => each!(into, "vst $vr\\r, {}, \\r * 32"),
                (Width::Lasx, _) => each!(into, "xvst $xr\\r, {}, \\r * 32"),
            }
        }
    }

    #[inline]
    fn load(&mut self, width: Width, form: Width, from: &[Line]) {
        assert!(from.len() >= form.lines(), "an image without its registers");
        let from = from.as_ptr();
        // SAFETY: 1. `from` has 32 registers at the distance that is read from (asserted), aligned to 32 bytes by its
        // type. 2. The registers that are overwritten belong to `self` alone: compiled code does not use them.
        unsafe {
            // What happens most is apart, since it takes the fewest branches so.
            if width == form {
                match width {
                    Width::Fpu => each!(from, "fld.d $f\\r, {}, \\r * 8"),
                    Width::Lsx => each!(from, "vld $vr\\r, {}, \\r * 16"),
                    Width::Lasx => each!(from, "xvld $xr\\r, {}, \\r * 32"),
                }
                return;
            }
            match (width, form) {
                (Width::Fpu, Width::Lsx) => each!(from, "fld.d $f\\r, {}, \\r * 16"),
                (Width::Fpu, _) => each!(from, "fld.d $f\\r, {}, \\r * 32"),
                // What a scalar write leaves above it is overwritten.
                (Width::Lsx, Width::Fpu) => {
                    each!(from, "fld.d $f\\r, {}, \\r * 8", "vinsgr2vr.d $vr\\r, $zero, 1");
                }
                (Width::Lsx, _) => each!(from, "vld $vr\\r, {}, \\r * 32"),
                // To pick word 0 of a register into itself zeroes the others.
                (Width::Lasx, Width::Fpu) => {
                    each!(from, "fld.d $f\\r, {}, \\r * 8", "xvpickve.d $xr\\r, $xr\\r, 0");
                }
                (Width::Lasx, _) => each!(
                    from,
                    "vld $vr\\r, {}, \\r * 16",
                    "xvinsgr2vr.d $xr\\r, $zero, 2",
                    "xvinsgr2vr.d $xr\\r, $zero, 3"
                ),
            }
        }
    }

    fn fill(&mut self, width: Width, pattern: u64) {
        // SAFETY: the registers that are overwritten belong to `self` alone: compiled code does not use them.
        unsafe {
            match width {
                Width::Fpu => each!(pattern, "movgr2fr.d $f\\r, {}"),
                Width::Lsx => each!(pattern, "vreplgr2vr.d $vr\\r, {}"),
                Width::Lasx => each!(pattern, "xvreplgr2vr.d $xr\\r, {}"),
            }
        }
    }

    #[inline]
    fn store_lbt(&mut self, into: &mut Lbt) {
        let Lbt { scr: [scr0, scr1, scr2, scr3], eflags } = into;
        // SAFETY: reads registers, on a CPU that has LBT, as the contract says. 0x3f names all six flags.
        unsafe {
            asm!(
                "movscr2gr {}, $scr0",
                "movscr2gr {}, $scr1",
                "movscr2gr {}, $scr2",
                "movscr2gr {}, $scr3",
                "x86mfflag {}, 0x3f",
                out(reg) * scr0,
                out(reg) * scr1,
                out(reg) * scr2,
                out(reg) * scr3,
                out(reg) * eflags,
                options(nomem, nostack),
            );
        }
    }

    #[inline]
    fn load_lbt(&mut self, from: &Lbt) {
        let Lbt { scr: [scr0, scr1, scr2, scr3], eflags } = *from;
        // SAFETY: writes registers that compiled code does not use, on a CPU that has LBT, as the contract says.
        unsafe {
            asm!(
                "movgr2scr $scr0, {}",
                "movgr2scr $scr1, {}",
                "movgr2scr $scr2, {}",
                "movgr2scr $scr3, {}",
                "x86mtflag {}, 0x3f",
                in(reg) scr0,
                in(reg) scr1,
                in(reg) scr2,
                in(reg) scr3,
                in(reg) eflags,
                options(nomem, nostack),
            );
        }
    }

    fn fill_lbt(&mut self, pattern: u64) {
        self.load_lbt(&Lbt { scr: [pattern; 4], eflags: pattern });
    }
}

/// A function that runs one instruction of `unit` and changes nothing but temporaries: for the self-test, which wants to
/// know whether it may.
pub fn touch(unit: Units) -> unsafe extern "C" fn() {
    match unit {
        FPU => touch_fpu,
        LSX => touch_lsx,
        LASX => touch_lasx,
        _ => touch_lbt,
    }
}

/// Defines functions that run one instruction.
macro_rules! touches {
    ($($name:ident: $instruction:literal;)*) => {$(
        /// Reads a register.
        ///
        /// # Safety
        /// The CPU has the unit, and an exception is survived if the unit is not open.
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!($instruction, "ret")
        }
    )*};
}

touches! {
    touch_fpu: "movfcsr2gr $t0, $fcsr0";
    touch_lsx: "vpickve2gr.d $t0, $vr0, 0";
    touch_lasx: "xvpickve2gr.d $t0, $xr0, 0";
    touch_lbt: "movscr2gr $t0, $scr0";
}

/// Writes FCSR0.
///
/// # Safety
/// The FPU is open, and an exception is survived.
#[unsafe(naked)]
unsafe extern "C" fn write_fcsr(value: u64) {
    naked_asm!("movgr2fcsr $fcsr0, $a0", "ret")
}
