//! A CPU's FP registers as values, as unkind as nothing forbids the hardware to be.

use arch_loongarch64::fp::{
    FPU, FpRegs, LASX, LBT, LSX, Lbt, Line, REGISTERS, Refused, VECTORS, Width, fcsr,
};
use kernel::fp::Units;

/// Set in all garbage, and in nothing a guest writes.
pub(crate) const JUNK: u64 = 1 << 63;
/// CF, PF, AF, ZF, SF and OF.
pub(crate) const EFLAGS: u64 = 0x8d5;

/// What kind of CPU it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The units it has.
    pub(crate) present: Units,
    /// A write of FCSR with a cause that is enabled raises the exception.
    pub(crate) refuses: bool,
    /// A write of FCSR does not clear TM; the instruction does.
    pub(crate) keeps_tm: bool,
}

impl Kind {
    /// A CPU with everything, and no other peculiarity.
    pub(crate) const FULL: Self = Self { present: VECTORS.union(LBT), refuses: false, keeps_tm: false };
}

/// The registers of one CPU.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) kind: Kind,
    pub(crate) euen: u64,
    xr: [[u64; 4]; REGISTERS],
    pub(crate) fcsr: u32,
    pub(crate) fcc: u8,
    pub(crate) top: u8,
    pub(crate) lbt: Lbt,
    weather: u64,
    /// How often EUEN was written.
    pub(crate) euen_writes: usize,
    /// How often registers of a group were loaded.
    pub(crate) loads: u64,
    /// How often registers of a group were saved.
    pub(crate) saves: u64,
    /// How many bytes were copied in.
    pub(crate) bytes_in: u64,
    /// How many bytes were copied out.
    pub(crate) bytes_out: u64,
    /// How often an FCSR was refused.
    pub(crate) refusals: usize,
}

impl Model {
    /// A CPU at reset: garbage everywhere, and everything open. `seed` chooses the garbage.
    pub(crate) fn new(kind: Kind, seed: u64) -> Self {
        let mut model = Self {
            kind,
            euen: 0xf,
            xr: [[0; 4]; REGISTERS],
            fcsr: 0,
            fcc: 0,
            top: 0,
            lbt: Lbt::default(),
            weather: seed | 1,
            euen_writes: 0,
            loads: 0,
            saves: 0,
            bytes_in: 0,
            bytes_out: 0,
            refusals: 0,
        };
        model.lose();
        model
    }

    /// Loses everything, as a power-down does.
    pub(crate) fn lose(&mut self) {
        self.xr = core::array::from_fn(|_| core::array::from_fn(|_| self.garbage()));
        self.fcsr = self.chance() as u32 & (fcsr::TM | 0x300);
        self.fcc = self.chance() as u8;
        self.top = self.chance() as u8 & 7;
        self.lbt = Lbt { scr: core::array::from_fn(|_| self.garbage()), eflags: self.chance() & EFLAGS };
    }

    /// The next random number (xorshift).
    pub(crate) fn chance(&mut self) -> u64 {
        self.weather ^= self.weather << 13;
        self.weather ^= self.weather >> 7;
        self.weather ^= self.weather << 17;
        self.weather
    }

    fn garbage(&mut self) -> u64 {
        self.chance() | JUNK
    }

    /// What a guest could use now.
    pub(crate) fn open(&self) -> Units {
        Units::from_bits_retain(self.euen as u8)
    }

    /// Whether the root lets a guest use `unit` now.
    pub(crate) fn lets(&self, unit: Units) -> bool {
        self.euen & u64::from(unit.bits()) == unit.bits().into()
    }

    /// Whether any register holds a value with `tag`.
    pub(crate) fn bears(&self, tag: u16) -> bool {
        self.xr.as_flattened().iter().chain(&self.lbt.scr).any(|value| value >> 32 == tag.into())
    }

    /// What the names of the registers mean now.
    fn at(&self, name: usize) -> usize {
        let twisted = self.kind.present.contains(LBT) && self.fcsr & fcsr::TM != 0 && name < 8;
        if twisted { (name + usize::from(self.top)) % 8 } else { name }
    }

    /// What a register shows under its name.
    pub(crate) fn read(&self, name: usize, width: Width) -> [u64; 4] {
        let xr = self.xr[self.at(name)];
        core::array::from_fn(|word| if word < width.words() { xr[word] } else { 0 })
    }

    /// Writes a register by name. What is above `width` stays or becomes zero, now this, now that.
    pub(crate) fn write(&mut self, name: usize, width: Width, value: [u64; 4]) {
        let above = if self.chance() & 1 == 0 { self.xr[self.at(name)] } else { [0; 4] };
        let at = self.at(name);
        self.xr[at] =
            core::array::from_fn(|word| if word < width.words() { value[word] } else { above[word] });
    }

    /// What the hypervisor does must be open and exist.
    #[track_caller]
    fn need(&self, units: Units) {
        assert!(self.kind.present.contains(units), "INE: this CPU has no {:?}", units - self.kind.present);
        assert!(self.lets(units), "the hypervisor traps on {units:?}, EUEN being {:#x}", self.euen);
    }
}

/// The unit that the instructions for a width belong to, which is all that their gate asks for.
fn unit(width: Width) -> Units {
    match width {
        Width::Fpu => FPU,
        Width::Lsx => LSX,
        Width::Lasx => LASX,
    }
}

/// The causes of an FCSR whose enables are set too.
pub(crate) fn raised(value: u32) -> u32 {
    value >> fcsr::CAUSE_SHIFT & value & fcsr::ENABLES
}

impl FpRegs for Model {
    fn set_euen(&mut self, value: u64) {
        assert_eq!(value & !u64::from(self.kind.present.bits()), 0, "EUEN opens what the CPU does not have");
        self.euen = value;
        self.euen_writes += 1;
    }

    fn fcsr(&mut self) -> u32 {
        self.need(FPU);
        self.fcsr
    }

    fn set_fcsr(&mut self, value: u32) {
        self.need(FPU);
        assert_eq!(raised(value), 0, "an FCSR that some CPU may refuse");
        self.put_fcsr(value);
    }

    fn try_fcsr(&mut self, value: u32) -> Result<(), Refused> {
        self.need(FPU);
        if self.kind.refuses && raised(value) != 0 {
            self.refusals += 1;
            return Err(Refused);
        }
        self.put_fcsr(value);
        Ok(())
    }

    fn clear_tm(&mut self) {
        self.need(LBT);
        self.fcsr &= !fcsr::TM;
    }

    fn fcc(&mut self) -> u8 {
        self.need(FPU);
        self.fcc
    }

    fn set_fcc(&mut self, value: u8) {
        self.need(FPU);
        self.fcc = value;
    }

    fn top(&mut self) -> u8 {
        self.need(LBT);
        self.top
    }

    fn set_top(&mut self, value: u8) {
        self.need(LBT);
        assert!(value < 8);
        self.top = value;
    }

    fn store(&mut self, width: Width, form: Width, into: &mut [Line]) {
        self.need(unit(width));
        assert!(width <= form && into.len() == form.lines());
        for name in 0..REGISTERS {
            let value = self.xr[self.at(name)];
            for (word, value) in value.into_iter().enumerate().take(width.words()) {
                let at = name * form.words() + word;
                into[at / 4].0[at % 4] = value;
            }
        }
        self.saves += 1;
        self.bytes_out += width.bytes() + 8;
    }

    fn load(&mut self, width: Width, form: Width, from: &[Line]) {
        self.need(unit(width));
        assert_eq!(from.len(), form.lines());
        for name in 0..REGISTERS {
            let word = |word: usize| {
                let at = name * form.words() + word;
                if word < form.words() { from[at / 4].0[at % 4] } else { 0 }
            };
            let value = core::array::from_fn(word);
            self.write(name, width, value);
            if self.chance() & 1 == 0 {
                let at = self.at(name);
                for word in width.words()..4 {
                    self.xr[at][word] = self.garbage();
                }
            }
        }
        self.loads += 1;
        self.bytes_in += width.min(form).bytes() + 8;
    }

    fn fill(&mut self, width: Width, pattern: u64) {
        self.need(unit(width));
        for name in 0..REGISTERS {
            self.write(name, width, [pattern; 4]);
        }
    }

    fn store_lbt(&mut self, into: &mut Lbt) {
        self.need(LBT);
        *into = self.lbt;
        self.saves += 1;
        self.bytes_out += 40;
    }

    fn load_lbt(&mut self, from: &Lbt) {
        self.need(LBT);
        self.lbt = Lbt { eflags: from.eflags & EFLAGS, ..*from };
        self.loads += 1;
        self.bytes_in += 40;
    }

    fn fill_lbt(&mut self, pattern: u64) {
        self.need(LBT);
        self.lbt = Lbt { scr: [pattern; 4], eflags: pattern & EFLAGS };
    }
}

impl Model {
    fn put_fcsr(&mut self, value: u32) {
        if value & !self.fcsr & fcsr::TM != 0 {
            // Nothing says that TOP stays while TM is being set.
            self.top = self.chance() as u8 & 7;
        }
        let stuck = if self.kind.keeps_tm { self.fcsr & fcsr::TM } else { 0 };
        self.fcsr = value | stuck;
    }
}
