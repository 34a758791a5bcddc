//! Whether this CPU's FP registers do what Fermata relies on.
//!
//! Made for machines without LVZ, where no guest can tell. Two pretended guests take turns on one CPU through the
//! machine that real ones share it by: EUEN stops the root's own instructions as it would stop theirs, and each knows
//! what it must see. Their registers pass through every policy and every pair of views that the CPU has.
//!
//! What the manuals leave open is found out on the way and reported, since no emulator can be believed about it.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use kernel::addr::{CpuId, VcpuId};
use kernel::fp::rules::{Rules, Sound};
use kernel::fp::{AuditSwitch, FpContext, FpKey, FpSlot, FpUnit, Policy, PolicyCell, Touch, Units};

use crate::fp::{
    FPU, File, Fp, FpRegs, LASX, LBT, LSX, Lbt, Line, List, REGISTERS, Step, VECTORS, Width, fcsr,
};

/// The exception that an instruction of a unit raises while EUEN has its bit clear: FPD, SXD, ASXD, BTD.
const ECODES: [(Units, u64); 4] = [(FPU, 15), (LSX, 16), (LASX, 17), (LBT, 20)];

/// The sets of units that guests are shown.
const VIEWS: [Units; 4] = [Units::empty(), FPU, FPU.union(LSX), VECTORS];

/// What the test found out about a CPU that passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What the CPU has.
    pub present: Units,
    /// How many comparisons were made.
    pub checks: u32,
    /// What becomes of a vector register when its low 64 bits are written, if there are vectors.
    pub above: Option<Above>,
    /// What a write of FCSR does that has a cause whose enable is set.
    pub raised: Raised,
    /// What LBT does, if there is LBT.
    pub twist: Option<Twist>,
}

/// What becomes of the bits above a narrow write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// They stay.
    Kept,
    /// They become zero.
    Zeroed,
    /// Something else, or not always the same.
    Other,
}

/// What a write of FCSR does that has a cause whose enable is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It is written.
    Taken,
    /// It raises an exception.
    Refused,
}

/// What LBT does with the names of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twist {
    /// With TM set and TOP one, F0 is another register than before.
    pub renames: bool,
    /// TOP reads as it was written while TM is clear.
    pub top_without_tm: bool,
    /// A write of FCSR clears TM.
    pub cleared_by_write: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} checks", List(self.present), self.checks)?;
        if self.present.is_empty() {
            return Ok(());
        }
        let not = |is: bool| if is { "" } else { "not " };
        match self.above {
            Some(Above::Kept) => f.write_str("; a scalar write keeps what is above it")?,
            Some(Above::Zeroed) => f.write_str("; a scalar write zeroes what is above it")?,
            Some(Above::Other) => f.write_str("; a scalar write changes what is above it")?,
            None => {}
        }
        match self.raised {
            Raised::Taken => f.write_str("; FCSR takes causes that are enabled")?,
            Raised::Refused => f.write_str("; FCSR refuses causes that are enabled")?,
        }
        if let Some(twist) = self.twist {
            let (renames, top, clears) =
                (not(twist.renames), not(twist.top_without_tm), not(twist.cleared_by_write));
            write!(
                f,
                "; TM does {renames}rename, is {clears}cleared by a write; TOP does {top}last without it"
            )?;
        }
        Ok(())
    }
}

/// Tests the registers in `file`, which nobody has used yet or will miss.
///
/// `touch` runs an instruction of one unit and tells the code of the exception it raised, if it did.
///
/// # Errors
/// What was found and what was expected, of the first check that failed.
pub fn run<H: FpRegs>(
    file: &mut File<H>,
    touch: impl FnMut(&mut H, Units) -> Option<u64>,
) -> Result<Summary, String> {
    run_with::<H, Sound>(file, touch)
}

/// The same, with steps left out, in tests.
fn run_with<H: FpRegs, S: Rules<Step>>(
    file: &mut File<H>,
    touch: impl FnMut(&mut H, Units) -> Option<u64>,
) -> Result<Summary, String> {
    let mut bench = Bench { file, touch, checks: 0 };
    let verdict = bench.run::<S>();
    Fp::<H>::conceal(bench.file);
    verdict
}

struct Bench<'a, H: FpRegs, T> {
    file: &'a mut File<H>,
    touch: T,
    checks: u32,
}

/// What a guest does with its turn. It always looks at all it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Look,
    /// It also writes all it sees.
    Write,
    /// It was away, and nobody else was here.
    Return,
}

impl<H: FpRegs, T: FnMut(&mut H, Units) -> Option<u64>> Bench<'_, H, T> {
    fn check<V: PartialEq + fmt::Debug>(
        &mut self,
        what: impl FnOnce() -> String,
        seen: V,
        wanted: V,
    ) -> Result<(), String> {
        self.checks += 1;
        if seen == wanted {
            Ok(())
        } else {
            Err(format!("{}: found {seen:#x?}, expected {wanted:#x?}", what()))
        }
    }

    fn run<S: Rules<Step>>(&mut self) -> Result<Summary, String> {
        let present = self.file.present();
        let mut summary = Summary { present, checks: 0, above: None, raised: Raised::Taken, twist: None };
        if present.contains(FPU) {
            self.gates::<S>(present)?;
            for policy in Policy::ALL {
                self.guests::<S>(policy, AuditSwitch::on)?;
                self.guests::<S>(policy, AuditSwitch::off)?;
            }
            summary.above = self.above();
            summary.raised = self.raised();
            summary.twist = self.twist();
        }
        summary.checks = self.checks;
        Ok(summary)
    }

    /// EUEN lets through what is exposed and stops everything else with the right exception.
    fn gates<S: Rules<Step>>(&mut self, present: Units) -> Result<(), String> {
        let context = Fp::<H, S>::new(present);
        for view in VIEWS {
            for shown in [view, view | LBT] {
                if !present.contains(shown) || context.closure(shown) != shown {
                    continue;
                }
                Fp::<H, S>::expose(self.file, shown);
                for (unit, ecode) in ECODES.into_iter().filter(|(unit, _)| present.contains(*unit)) {
                    let code = (self.touch)(self.file.hardware_mut(), unit);
                    let wanted = if shown.contains(unit) { None } else { Some(ecode) };
                    let what = || format!("the exception of {} with EUEN for {}", List(unit), List(shown));
                    self.check(what, code, wanted)?;
                }
            }
        }
        Fp::<H>::conceal(self.file);
        Ok(())
    }

    /// Two guests under one policy, with every pair of views.
    fn guests<S: Rules<Step>>(&mut self, policy: Policy, audit: fn() -> AuditSwitch) -> Result<(), String> {
        let present = self.file.present();
        let units = [FPU, LSX, LASX, LBT].into_iter().filter(|unit| present.contains(*unit));
        for first in units.clone() {
            for second in units.clone() {
                let mut stage = Stage::<H, S>::new(policy, Arc::new(audit()), present);
                stage.play(self, first, second).map_err(|wrong| {
                    format!("policy {policy}, {} next to {}: {wrong}", List(first), List(second))
                })?;
            }
        }
        Ok(())
    }

    /// All registers through a view, which is open.
    fn read(&mut self, width: Width) -> [Line; REGISTERS] {
        let mut lines = [Line::ZERO; REGISTERS];
        self.file.hardware_mut().store(width, width, &mut lines[..width.lines()]);
        lines
    }

    /// Writes the same to all registers through a view, which is open.
    fn flood(&mut self, width: Width, value: u64) {
        let lines = [Line([value; Line::WORDS]); REGISTERS];
        self.file.hardware_mut().load(width, width, &lines[..width.lines()]);
    }

    fn above(&mut self) -> Option<Above> {
        const OLD: u64 = 0x0123_4567_89ab_cdef;
        let width = Width::of(self.file.present()).filter(|width| *width > Width::Fpu)?;
        self.file.open(self.file.present());
        self.file.untwist();
        self.flood(width, OLD);
        self.flood(Width::Fpu, !OLD);
        let lines = self.read(width);
        let words = lines[..width.lines()].iter().flat_map(|line| line.0);
        let mut above = words.enumerate().filter(|(n, _)| n % width.words() != 0).map(|(_, word)| word);
        Some(if above.clone().all(|word| word == OLD) {
            Above::Kept
        } else if above.all(|word| word == 0) {
            Above::Zeroed
        } else {
            Above::Other
        })
    }

    fn raised(&mut self) -> Raised {
        const INVALID: u32 = 1 << 4;
        let hardware = self.file.open(FPU);
        let taken = hardware.try_fcsr(INVALID | INVALID << fcsr::CAUSE_SHIFT).is_ok();
        hardware.set_fcsr(0);
        if taken { Raised::Taken } else { Raised::Refused }
    }

    fn twist(&mut self) -> Option<Twist> {
        if !self.file.present().contains(LBT) {
            return None;
        }
        self.file.open(self.file.present());
        self.file.untwist();
        let lines: [Line; Width::Fpu.lines()] =
            core::array::from_fn(|line| Line(core::array::from_fn(|n| (line * Line::WORDS + n) as u64)));
        let hardware = self.file.hardware_mut();
        hardware.load(Width::Fpu, Width::Fpu, &lines);
        hardware.set_top(5);
        let top_without_tm = hardware.top() == 5;
        hardware.set_fcsr(fcsr::TM);
        hardware.set_top(1);
        let renames = self.read(Width::Fpu)[..lines.len()] != lines;
        let hardware = self.file.hardware_mut();
        hardware.set_fcsr(0);
        let cleared_by_write = hardware.fcsr() & fcsr::TM == 0;
        self.file.untwist();
        self.file.hardware_mut().set_top(0);
        Some(Twist { renames, top_without_tm, cleared_by_write })
    }
}

/// Two guests that live on this CPU.
struct Stage<H: FpRegs, S: Rules<Step>> {
    unit: FpUnit<Fp<H, S>>,
    guests: [Box<Pretender>; 2],
    running: Option<usize>,
}

/// A pretended guest, and what it knows.
struct Pretender {
    key: Option<FpKey>,
    tag: u16,
    count: u16,
    /// What the registers must hold; nothing where a narrower write left the architecture to decide.
    words: [[Option<u64>; Line::WORDS]; REGISTERS],
    fcsr: u32,
    fcc: u8,
    /// TOP; nothing if it set TM and could not look at what became of TOP.
    top: Option<u8>,
    lbt: Lbt,
}

impl<H: FpRegs, S: Rules<Step>> Stage<H, S> {
    fn new(policy: Policy, audit: Arc<AuditSwitch>, limit: Units) -> Self {
        let mut unit = FpUnit::new(CpuId(0), audit);
        let policy = Arc::new(PolicyCell::new(policy));
        let guests = [1, 2].map(|tag: u16| {
            let slot = Box::new(FpSlot::new(VcpuId(tag.into()), limit, Arc::clone(&policy)));
            Box::new(Pretender::new(unit.enroll(slot), tag))
        });
        Self { unit, guests, running: None }
    }

    fn play<T: FnMut(&mut H, Units) -> Option<u64>>(
        &mut self,
        bench: &mut Bench<'_, H, T>,
        first: Units,
        second: Units,
    ) -> Result<(), String> {
        use Deed::{Look, Return, Write};
        for (who, unit, deed) in [
            (0, first, Write),
            (1, second, Write),
            // A narrow look in between may neither lose nor show what is above it.
            (0, FPU, Look),
            (1, FPU, Look),
            (0, first, Look),
            (1, second, Look),
            (1, first, Write),
            (1, first, Return),
            (0, second, Write),
            (1, first, Look),
            (0, FPU, Write),
            (0, second, Look),
            (1, second, Write),
            (0, first, Look),
        ] {
            self.visit(bench, who, unit, deed)?;
        }
        self.move_away_and_back(bench);
        self.visit(bench, 1, second, Look)?;
        self.visit(bench, 0, second, Write)?;
        self.reset(bench);
        self.visit(bench, 1, first, Look)?;
        self.visit(bench, 0, second, Look)?;
        self.end(bench)
    }

    /// Both guests end, and nothing of them stays in the registers.
    fn end<T: FnMut(&mut H, Units) -> Option<u64>>(
        &mut self,
        bench: &mut Bench<'_, H, T>,
    ) -> Result<(), String> {
        for guest in &mut self.guests {
            if let Some(key) = guest.key.take() {
                self.unit.dismiss(bench.file, key);
            }
        }
        let width = Width::of(bench.file.present()).unwrap_or(Width::Fpu);
        bench.file.open(bench.file.present());
        let lines = bench.read(width);
        Fp::<H, S>::conceal(bench.file);
        bench.check(|| "what two ended guests left behind".into(), lines, [Line::ZERO; REGISTERS])
    }

    /// One guest is reset, which gives up what it has in the registers.
    fn reset<T: FnMut(&mut H, Units) -> Option<u64>>(&mut self, bench: &mut Bench<'_, H, T>) {
        self.unit.leave(bench.file);
        self.running = None;
        let guest = &mut self.guests[0];
        if let Some(key) = guest.key.take() {
            self.unit.reset(bench.file, &key);
            **guest = Pretender::new(key, guest.tag);
        }
    }

    /// One guest moves to another CPU and comes back, as far as its state can tell.
    fn move_away_and_back<T: FnMut(&mut H, Units) -> Option<u64>>(&mut self, bench: &mut Bench<'_, H, T>) {
        self.unit.leave(bench.file);
        self.running = None;
        if let Some(key) = self.guests[0].key.take() {
            let slot = self.unit.discharge(bench.file, key);
            self.guests[0].key = Some(self.unit.enroll(slot));
        }
    }

    /// A guest has the CPU, uses a unit, and looks at what it shows.
    fn visit<T: FnMut(&mut H, Units) -> Option<u64>>(
        &mut self,
        bench: &mut Bench<'_, H, T>,
        who: usize,
        unit: Units,
        deed: Deed,
    ) -> Result<(), String> {
        let (guest, other) = match &mut self.guests {
            [first, second] if who == 0 => (first, second.tag),
            [first, second] => (second, first.tag),
        };
        if self.running != Some(who) || deed == Deed::Return {
            self.unit.leave(bench.file);
            if let Some(key) = &guest.key {
                self.unit.arrive(key);
            }
            self.running = Some(who);
        }
        self.unit.enter(bench.file);
        if let Some(code) = (bench.touch)(bench.file.hardware_mut(), unit) {
            let wanted = ECODES.into_iter().find(|(one, _)| *one == unit).map(|(_, code)| code);
            bench.check(|| format!("the exception of {}", List(unit)), Some(code), wanted)?;
            bench.check(|| "the answer to it".into(), self.unit.request(unit), Touch::Granted)?;
            self.unit.enter(bench.file);
            let again = (bench.touch)(bench.file.hardware_mut(), unit);
            bench.check(|| format!("the exception of {} once it was granted", List(unit)), again, None)?;
        }
        guest.look(bench, unit, other).map_err(|wrong| format!("guest {who}: {wrong}"))?;
        if deed == Deed::Write {
            guest.write(bench, unit);
        }
        Ok(())
    }
}

impl Pretender {
    /// A guest at power-on.
    fn new(key: FpKey, tag: u16) -> Self {
        Self {
            key: Some(key),
            tag,
            count: 0,
            words: [[Some(0); Line::WORDS]; REGISTERS],
            fcsr: 0,
            fcc: 0,
            top: Some(0),
            lbt: Lbt::default(),
        }
    }

    fn look<H: FpRegs, T: FnMut(&mut H, Units) -> Option<u64>>(
        &mut self,
        bench: &mut Bench<'_, H, T>,
        unit: Units,
        other: u16,
    ) -> Result<(), String> {
        let hardware = bench.file.hardware_mut();
        let (fcsr, fcc) = (hardware.fcsr(), hardware.fcc());
        bench.check(|| "FCSR".into(), fcsr, self.fcsr)?;
        bench.check(|| "FCC".into(), fcc, self.fcc)?;
        if unit == LBT {
            let mut lbt = Lbt::default();
            let hardware = bench.file.hardware_mut();
            hardware.store_lbt(&mut lbt);
            let top = hardware.top();
            bench.check(|| "SCR and flags".into(), lbt, self.lbt)?;
            bench.check(|| "TOP".into(), top, self.top.unwrap_or(top))?;
            self.top = Some(top);
        }
        let width = Width::of(unit).unwrap_or(Width::Fpu);
        let lines = bench.read(width);
        for n in 0..REGISTERS {
            for word in 0..width.words() {
                let at = n * width.words() + word;
                let seen = lines[at / Line::WORDS].0[at % Line::WORDS];
                let what = || format!("word {word} of register {n}");
                match self.words[n][word] {
                    Some(wanted) => bench.check(what, seen, wanted)?,
                    None => bench.check(
                        || format!("the owner of {}", what()),
                        seen >> 48 == other.into(),
                        false,
                    )?,
                }
                self.words[n][word] = Some(seen);
            }
        }
        Ok(())
    }

    /// Writes all that the unit shows. FCSR and TOP come first: registers are written and read under the names they
    /// have then, whatever TM makes of them.
    fn write<H: FpRegs, T: FnMut(&mut H, Units) -> Option<u64>>(
        &mut self,
        bench: &mut Bench<'_, H, T>,
        unit: Units,
    ) {
        self.count += 1;
        let mut twist = self.fcsr & fcsr::TM | if self.count.is_multiple_of(2) { fcsr::TM } else { 0 };
        if unit == LBT && self.count.is_multiple_of(3) {
            // Only here can it be cleared on every CPU.
            bench.file.untwist();
            twist = 0;
        } else if twist & !self.fcsr != 0 {
            self.top = None;
        }
        let hardware = bench.file.hardware_mut();
        // Rounding upwards, an inexact result, and TM.
        self.fcsr = 0x200 | 1 << 16 | twist;
        self.fcc = 0x5a ^ self.count as u8;
        hardware.set_fcsr(self.fcsr);
        hardware.set_fcc(self.fcc);
        if unit == LBT {
            let top = (self.count * 3 + self.tag) as u8 & 7;
            self.top = Some(top);
            hardware.set_top(top);
            let scr = core::array::from_fn(|n| self.pattern(n, 0));
            hardware.load_lbt(&Lbt { scr, eflags: u64::MAX });
            // Which bits of the flags there are, the hardware knows.
            hardware.store_lbt(&mut self.lbt);
        }
        let width = Width::of(unit).unwrap_or(Width::Fpu);
        let mut lines = [Line::ZERO; REGISTERS];
        for n in 0..REGISTERS {
            for word in 0..Line::WORDS {
                let known = word < width.words();
                self.words[n][word] = known.then(|| self.pattern(n, word));
                if let Some(value) = self.words[n][word] {
                    let at = n * width.words() + word;
                    lines[at / Line::WORDS].0[at % Line::WORDS] = value;
                }
            }
        }
        bench.file.hardware_mut().load(width, width, &lines[..width.lines()]);
    }

    /// A value that nobody else writes.
    fn pattern(&self, n: usize, word: usize) -> u64 {
        u64::from(self.tag) << 48 | u64::from(self.count) << 16 | (n as u64) << 8 | word as u64
    }
}
