//! A guest that knows what its registers must hold.

use arch_loongarch64::fp::{FPU, LASX, LBT, LSX, REGISTERS, Width, fcsr};
use kernel::fp::Units;

use super::laws::Mishap;
use super::model::{EFLAGS, Kind, Model};

/// What a guest does next. Whatever it does, it first looks at everything that the unit for it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Nothing else.
    Look(Units),
    /// Writes a register through a view.
    Write(Width, usize),
    /// Writes FCC0-7.
    Fcc,
    /// Writes FCSR.
    Fcsr(u32),
    /// Writes TOP.
    Top(u8),
    /// Writes one of SCR0-3.
    Scr(usize),
    /// Writes the x86 flags.
    Flags(u64),
}

impl Op {
    /// The unit whose instruction it is.
    pub(crate) fn unit(self) -> Units {
        match self {
            Self::Look(unit) => unit,
            Self::Write(Width::Fpu, _) | Self::Fcc | Self::Fcsr(_) => FPU,
            Self::Write(Width::Lsx, _) => LSX,
            Self::Write(Width::Lasx, _) => LASX,
            Self::Top(_) | Self::Scr(_) | Self::Flags(_) => LBT,
        }
    }
}

/// What a guest knows of 64 bits of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// They are this.
    Known(u64),
    /// A write through a narrower view left them at this or made them zero; the guest has not looked yet.
    OrZero(u64),
}

/// A pretend guest's memory of what it wrote.
#[derive(Clone, Debug)]
pub(crate) struct Mind {
    limit: Units,
    tag: u16,
    count: u32,
    xr: [[Word; 4]; REGISTERS],
    fcsr: u32,
    fcc: u8,
    top: u8,
    scr: [u64; 4],
    eflags: u64,
    /// Causes of exceptions may be gone.
    forgiving: bool,
}

impl Mind {
    /// A guest at power-on, whose every value will bear `tag`. On a CPU that refuses some FCSRs it expects to lose
    /// the causes in them.
    pub(crate) fn new(limit: Units, tag: u16, kind: Kind) -> Self {
        Self {
            limit,
            tag,
            count: 0,
            xr: [[Word::Known(0); 4]; REGISTERS],
            fcsr: 0,
            fcc: 0,
            top: 0,
            scr: [0; 4],
            eflags: 0,
            forgiving: kind.refuses,
        }
    }

    /// Does `op` on the registers of the CPU it runs on.
    ///
    /// # Errors
    /// A trap, in which case nothing happened; or what was wrong.
    pub(crate) fn attempt(&mut self, model: &mut Model, op: Op) -> Result<(), Mishap> {
        let unit = op.unit();
        if !model.lets(unit) {
            return Err(Mishap::Trap(unit));
        }
        if !self.limit.contains(unit) {
            return Err(Mishap::Wrong(format!("{unit:?} is open and it has none")));
        }
        self.look(model, unit).map_err(Mishap::Wrong)?;
        let value = self.fresh();
        match op {
            Op::Look(_) => {}
            Op::Write(width, name) => {
                model.write(name, width, value);
                let at = self.at(model, name);
                for (n, word) in self.xr[at].iter_mut().enumerate() {
                    *word = match *word {
                        _ if n < width.words() => Word::Known(value[n]),
                        Word::Known(old) | Word::OrZero(old) => Word::OrZero(old),
                    };
                }
            }
            Op::Fcc => (model.fcc, self.fcc) = (value[0] as u8, value[0] as u8),
            Op::Fcsr(value) => (model.fcsr, self.fcsr) = (value, value),
            Op::Top(top) => (model.top, self.top) = (top, top),
            Op::Scr(n) => (model.lbt.scr[n], self.scr[n]) = (value[0], value[0]),
            Op::Flags(flags) => {
                (model.lbt.eflags, self.eflags) = (flags & EFLAGS, flags & EFLAGS);
            }
        }
        Ok(())
    }

    /// Which register it means by a name, by what it knows of TM and TOP.
    fn at(&self, model: &Model, name: usize) -> usize {
        let twisted = model.kind.present.contains(LBT) && self.fcsr & fcsr::TM != 0 && name < 8;
        if twisted { (name + usize::from(self.top)) % 8 } else { name }
    }

    /// Values nobody has written before, with the tag.
    /// Goes back to what it knew when `past` was its mind. What it writes from now on is new all the same.
    pub(crate) fn rewind(&mut self, past: &Self) {
        *self = Self { count: self.count.max(past.count), ..past.clone() };
    }

    fn fresh(&mut self) -> [u64; 4] {
        self.count += 1;
        core::array::from_fn(|n| u64::from(self.tag) << 32 | u64::from(self.count) << 2 | n as u64)
    }

    fn look(&mut self, model: &Model, unit: Units) -> Result<(), String> {
        if unit == LBT {
            same("TOP", model.top, self.top)?;
            same("SCR", model.lbt.scr, self.scr)?;
            return same("the x86 flags", model.lbt.eflags, self.eflags);
        }
        if self.forgiving {
            let causes = fcsr::ENABLES << fcsr::CAUSE_SHIFT;
            same("FCSR without its causes", model.fcsr & !causes, self.fcsr & !causes)?;
            self.fcsr = model.fcsr;
        }
        same("FCSR", model.fcsr, self.fcsr)?;
        same("FCC", model.fcc, self.fcc)?;
        let width = Width::of(unit).expect("it is a view");
        for name in 0..REGISTERS {
            let at = self.at(model, name);
            let seen = model.read(name, width);
            for (n, (word, seen)) in self.xr[at].iter_mut().zip(seen).enumerate().take(width.words()) {
                match *word {
                    Word::OrZero(_) if seen == 0 => {}
                    Word::Known(wanted) | Word::OrZero(wanted) => {
                        same(&format!("word {n} of register {name} through {width:?}"), seen, wanted)?;
                    }
                }
                *word = Word::Known(seen);
            }
        }
        Ok(())
    }
}

fn same<T: PartialEq + core::fmt::Debug>(what: &str, seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{what} is {seen:#x?}, not {wanted:#x?}")) }
}
