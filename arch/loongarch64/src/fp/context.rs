//! A guest's FP state in memory, and how it moves.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::size_of;

use kernel::fp::rules::{InForce, Rules, Sound};
use kernel::fp::{self, FpContext, Layout, SnapshotError, Units};

use super::file::{File, Twist};
use super::image::{Image, Lbt, Width};
use super::portable::{self, LAYOUT};
use super::{FPU, FpRegs, LBT, Status, Step, VECTORS, fcsr};

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
