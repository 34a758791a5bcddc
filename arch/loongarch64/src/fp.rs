//! FPU, LSX, LASX and LBT state behind `EUEN`.
//!
//! F, VR and XR are views of one register file, 64, 128 and 256 bits wide, so FPU, LSX and LASX are one group. LBT
//! has registers apart and is another. TOP, the top of the x87 stack, is changed by LBT instructions but decides what
//! F0 to F7 mean: it belongs to the FPU's image, and a guest that can use LBT always has the FPU as well.
//!
//! **EUEN.** The root's gates the guest's: what the guest's lets through and the root's does not is an exit. It gates
//! the hypervisor too, which opens what it moves. A CSR write takes effect for every later instruction of its CPU, so
//! no barrier stands between opening and moving, and none before `ERTN`.
//!
//! **TM**, a bit of FCSR on CPUs with LBT, lets the names F0 to F7 rotate by TOP. Every guest can set it, with LBT or
//! without: to write FCSR takes the FPU alone. Registers are moved with TM clear, so that no image is ever rotated.
//! A save that had to clear it leaves registers that are the guest's no more, and says so.

mod image;
mod portable;
mod steps;
#[cfg(test)]
mod tests;
mod units;

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::size_of;

use kernel::fp::rules::{InForce, Rules, Sound};
use kernel::fp::{self, FpContext, Layout, SnapshotError, Units};

pub use image::{Image, Lbt, Line, REGISTERS, Width};
pub use portable::LAYOUT;
pub use steps::Step;
pub use units::{FPU, LASX, LBT, LSX, List, UnitsError, VECTORS, from_cpucfg, hide_others, parse, widest};

/// FCSR0.
pub mod fcsr {
    /// Which exceptions are raised.
    pub const ENABLES: u32 = 0x1f;
    /// The names F0 to F7 rotate by TOP. On CPUs with LBT only.
    pub const TM: u32 = 1 << 6;
    /// How far above its enable the cause of each exception is.
    pub const CAUSE_SHIFT: u32 = 24;
}

/// What belongs to the registers of every width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Status {
    /// FCSR0.
    pub fcsr: u32,
    /// FCC0-7, a bit each.
    pub fcc: u8,
    /// TOP.
    pub top: u8,
}

/// A write of FCSR0 raised the exception that a cause and its enable ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What the machine does with the hardware: the leaf `fp_regs` on a CPU, a model in tests.
///
/// All but `set_euen` need the units open that they use.
pub trait FpRegs {
    /// Writes `EUEN`.
    fn set_euen(&mut self, value: u64);
    /// Reads FCSR0.
    fn fcsr(&mut self) -> u32;
    /// Writes FCSR0 with a value that has no cause whose enable is set too.
    fn set_fcsr(&mut self, value: u32);
    /// Writes FCSR0 with any value. Nothing says whether a CPU may raise an exception for a cause that is enabled; if it
    /// does, that is survived.
    ///
    /// # Errors
    /// The exception was raised.
    fn try_fcsr(&mut self, value: u32) -> Result<(), Refused>;
    /// Clears TM with the instruction for it. The CPU has LBT.
    fn clear_tm(&mut self);
    /// Reads FCC0-7.
    fn fcc(&mut self) -> u8;
    /// Writes FCC0-7.
    fn set_fcc(&mut self, value: u8);
    /// Reads TOP. The CPU has LBT.
    fn top(&mut self) -> u8;
    /// Writes TOP, 0 to 7. The CPU has LBT.
    fn set_top(&mut self, value: u8);
    /// Copies `width` of each register to memory that has `form`, which is at least as wide.
    fn store(&mut self, width: Width, form: Width, into: &mut [Line]);
    /// Copies `width` of each register from memory that has `form`. What it has no room for becomes zero.
    fn load(&mut self, width: Width, form: Width, from: &[Line]);
    /// Writes `pattern` to every 64 bits of `width` of each register.
    fn fill(&mut self, width: Width, pattern: u64);
    /// Copies the registers of LBT to memory.
    fn store_lbt(&mut self, into: &mut Lbt);
    /// Copies the registers of LBT from memory.
    fn load_lbt(&mut self, from: &Lbt);
    /// Writes `pattern` to each register of LBT.
    fn fill_lbt(&mut self, pattern: u64);
}

/// One CPU's registers. They stay on their CPU: they are neither `Send` nor `Sync`.
#[derive(Debug)]
pub struct File<H: FpRegs> {
    hardware: H,
    /// What the CPU has.
    present: Units,
    /// What `EUEN` lets through.
    open: Units,
    /// It was said already that this CPU refuses some values of FCSR.
    complained: bool,
    here: PhantomData<*mut ()>,
}

impl<H: FpRegs> File<H> {
    /// Takes over the registers of a CPU that has `present` (see [`from_cpucfg`]), and conceals them. Called once on
    /// each CPU, before its first guest.
    pub fn new(mut hardware: H, present: Units) -> Self {
        hardware.set_euen(0);
        Self { hardware, present, open: Units::empty(), complained: false, here: PhantomData }
    }

    /// What the CPU has.
    pub fn present(&self) -> Units {
        self.present
    }

    fn set_open(&mut self, units: Units) {
        if self.open != units {
            // FPE, SXE, ASXE and BTE are bits 0 to 3 of EUEN, in the order of the units.
            self.hardware.set_euen(units.bits().into());
            self.open = units;
        }
    }

    /// The registers as they are.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// The registers, as far as they are open.
    pub fn hardware_mut(&mut self) -> &mut H {
        &mut self.hardware
    }

    /// Lets the hypervisor use `units`. They may be open already, for the guest whose turn it is.
    pub(crate) fn open(&mut self, units: Units) -> &mut H {
        if !self.open.contains(units) {
            self.set_open(self.present);
        }
        &mut self.hardware
    }

    /// Opens some views of the registers and tells whether they can be twisted. Then TOP is open as well.
    #[inline]
    fn open_registers<S: Rules<Step>>(&mut self, views: Units) -> Twist {
        let lbt = self.present & LBT;
        self.open(if S::keeps(Step::OpenForTop) { views | lbt } else { views });
        if lbt.is_empty() && S::keeps(Step::GateLbt) { Twist::Never } else { Twist::Possible }
    }

    /// Gives the registers the names that they have with TM clear. What FCSR holds is lost.
    ///
    /// No CPU can refuse zero. Should one keep TM, there is an instruction that clears it and nothing else; it is not
    /// the first choice, because not all that emulate LBT have it.
    #[inline(always)]
    pub(crate) fn untwist(&mut self) {
        self.hardware.set_fcsr(0);
        if self.hardware.fcsr() & fcsr::TM != 0 {
            self.hardware.clear_tm();
        }
    }

    /// Writes an FCSR that a guest left behind, with causes `raised` that are enabled: it may have been about to read
    /// which exception it got. They are written as they were if the CPU takes them, and left out otherwise.
    fn set_fcsr_raised(&mut self, value: u32, raised: u32) {
        if self.hardware.try_fcsr(value).is_err() {
            self.hardware.set_fcsr(value & !raised);
            if !core::mem::replace(&mut self.complained, true) {
                log::warn!(
                    "fp: a CPU refuses FCSR {value:#x}: guests may not learn which FP exception they got"
                );
            }
        }
    }
}

/// What each set of units does not work without: the views below the widest, and the FPU for LBT.
const NEEDS: [Units; 16] = {
    let mut needs = [Units::empty(); 16];
    let mut n = 0;
    while n < needs.len() {
        let units = Units::from_bits_retain(n as u8);
        match Width::of(units) {
            Some(width) => needs[n] = width.units(),
            None if units.contains(LBT) => needs[n] = FPU,
            None => {}
        }
        n += 1;
    }
    needs
};

/// Whether TM can rename registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    /// The CPU has no LBT.
    Never,
    /// It has.
    Possible,
}

/// A guest's state in memory.
#[derive(Debug)]
pub struct Fp<H, S = InForce> {
    limit: Units,
    image: Image,
    status: Status,
    lbt: Lbt,
    hardware: PhantomData<fn(H, S)>,
}

impl<H, S> Fp<H, S> {
    /// Shows the registers as they were last saved.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Shows FCSR, FCC and TOP as they were last saved.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Shows the registers of LBT as they were last saved.
    pub fn lbt(&self) -> &Lbt {
        &self.lbt
    }
}

impl<H: FpRegs, S: Rules<Step>> Fp<H, S> {
    /// Saves the registers; returns the units that it destroyed.
    #[inline]
    fn save_registers(&mut self, file: &mut File<H>, width: Width, views: Units) -> Units {
        let twist = file.open_registers::<S>(views);
        let mut destroyed = Units::empty();
        self.status.fcsr = file.hardware.fcsr();
        if twist == Twist::Possible {
            if S::keeps(Step::KeepTop) {
                self.status.top = file.hardware.top();
            }
            if self.status.fcsr & fcsr::TM != 0 && S::keeps(Step::UntwistToSave) {
                file.untwist();
                destroyed = VECTORS;
            }
        }
        let form = if S::keeps(Step::KeepForm) { self.image.form.max(width) } else { width };
        self.image.form = form;
        file.hardware.store(width, form, &mut self.image.lines[..form.lines()]);
        self.status.fcc = file.hardware.fcc();
        if S::keeps(Step::OwnUp) { destroyed } else { Units::empty() }
    }

    #[inline(always)]
    fn load_registers(&self, file: &mut File<H>, width: Width, views: Units) {
        let twist = file.open_registers::<S>(views);
        // TM may be left over from registers that were given up unsaved.
        if twist == Twist::Possible && file.hardware.fcsr() & fcsr::TM != 0 && S::keeps(Step::UntwistToLoad) {
            file.untwist();
        }
        if !S::keeps(Step::StatusLast) {
            self.load_status(file, twist);
        }
        let form = self.image.form;
        let width = if S::keeps(Step::ZeroAbove) { width } else { width.min(form) };
        file.hardware.load(width, form, &self.image.lines[..form.lines()]);
        if S::keeps(Step::StatusLast) {
            self.load_status(file, twist);
        }
    }

    /// Loads FCC, then FCSR, which may set TM, then TOP, which setting TM may change.
    #[inline(always)]
    fn load_status(&self, file: &mut File<H>, twist: Twist) {
        file.hardware.set_fcc(self.status.fcc);
        let value = self.status.fcsr;
        let raised = value >> fcsr::CAUSE_SHIFT & value & fcsr::ENABLES;
        if raised != 0 {
            return self.load_raised(file, twist, raised << fcsr::CAUSE_SHIFT);
        }
        file.hardware.set_fcsr(value);
        self.load_top(file, twist);
    }

    /// The same from FCSR on, which is rare.
    #[cold]
    #[inline(never)]
    fn load_raised(&self, file: &mut File<H>, twist: Twist, raised: u32) {
        file.set_fcsr_raised(self.status.fcsr, raised);
        self.load_top(file, twist);
    }

    #[inline(always)]
    fn load_top(&self, file: &mut File<H>, twist: Twist) {
        // It is looked at first because it is rarely another one, and takes eight places to jump to.
        if twist == Twist::Possible && file.hardware.top() != self.status.top {
            file.hardware.set_top(self.status.top);
        }
    }
}

impl<H: FpRegs, S: Rules<Step>> FpContext for Fp<H, S> {
    type File = File<H>;
    /// The units that a guest has. Each comes with those it does not work without, as [`parse`] sees to.
    type Limit = Units;

    const GROUPS: &'static [Units] = &[VECTORS, LBT];

    fn new(limit: Units) -> Self {
        Self {
            limit,
            image: Image::new(limit),
            status: Status::default(),
            lbt: Lbt::default(),
            hardware: PhantomData,
        }
    }

    fn units(&self) -> Units {
        self.limit
    }

    fn closure(&self, touched: Units) -> Units {
        let asking = if S::keeps(Step::LbtNeedsFpu) { touched } else { touched - LBT };
        touched | NEEDS[usize::from((asking & (LBT | VECTORS)).bits())]
    }

    #[inline(always)]
    fn save(&mut self, file: &mut File<H>, units: Units) -> Units {
        let mut kept = units;
        if let Some(width) = Width::of(units) {
            kept -= self.save_registers(file, width, units);
        }
        if units.contains(LBT) {
            file.open(LBT).store_lbt(&mut self.lbt);
        }
        kept
    }

    #[inline(always)]
    fn restore(&self, file: &mut File<H>, units: Units) {
        if units.contains(LBT) {
            file.open(LBT).load_lbt(&self.lbt);
        }
        if let Some(width) = Width::of(units) {
            self.load_registers(file, width, units);
        }
    }

    fn expose(file: &mut File<H>, units: Units) {
        file.set_open(units);
    }

    fn conceal(file: &mut File<H>) {
        file.set_open(Units::empty());
    }

    fn exposed(file: &File<H>) -> Units {
        file.open
    }

    // Its instructions take 400 bytes, and it is rare.
    #[inline(never)]
    fn fill(file: &mut File<H>, units: Units, pattern: u64) {
        // All of a register is filled, whichever view was named: what is above it is remains of somebody, too.
        if units.intersects(VECTORS)
            && let Some(width) = Width::of(file.present)
        {
            if file.open_registers::<Sound>(width.units()) == Twist::Possible {
                file.untwist();
                file.hardware.set_top(0);
            }
            file.hardware.fill(width, pattern);
            file.hardware.set_fcc(0);
            file.hardware.set_fcsr(0);
        }
        if units.contains(LBT) && file.present.contains(LBT) {
            file.open(LBT).fill_lbt(pattern);
        }
    }

    fn is_blank(file: &mut File<H>, group: Units) -> bool {
        let units = group & file.present;
        let mut found = <Fp<H, Sound>>::new(units);
        found.save(file, units);
        let mut words = found.image.lines.iter().flat_map(|line| line.0);
        (found.status, found.lbt) == (Status::default(), Lbt::default()) && words.all(|word| word == 0)
    }

    fn bytes(&self, units: Units) -> u64 {
        self.image.moved(units) + if units.contains(LBT) { size_of::<Lbt>() as u64 } else { 0 }
    }

    const LAYOUT: Layout = LAYOUT;

    fn form(&self) -> fp::Form {
        portable::form(self.limit, self.image.form)
    }

    fn export(&self, out: &mut Vec<u8>) {
        portable::write(out, &self.status, &self.image, self.limit.contains(LBT).then_some(&self.lbt));
    }

    fn import(limit: Units, form: fp::Form, registers: &[u8]) -> Result<Self, SnapshotError> {
        let (status, image, lbt) = portable::read(limit, form, registers)?;
        Ok(Self { limit, image, status, lbt, hardware: PhantomData })
    }
}
