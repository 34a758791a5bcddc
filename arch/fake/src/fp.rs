//! A register file made of values, and a guest that knows what should be in it.
//!
//! The file behaves as badly as hardware may. Where the manuals say that a value is undefined it holds garbage;
//! where they leave a choice it takes now one, now the other. The guest checks everything it can see at every
//! step, and everything it writes bears its tag, so a value that is lost and a value that is somebody else's
//! both show.

use kernel::fp::{Form, FpContext, Layout, Register, SnapshotError, Units};

/// The scalar view: the low half of every register, and the mode register.
pub const SCALAR: Units = Units::from_bits_retain(1 << 0);
/// The vector view: whole registers. It overlaps the scalar one and does not work without it.
pub const VECTOR: Units = Units::from_bits_retain(1 << 1);
/// A unit apart, with registers of its own.
pub const EXTRA: Units = Units::from_bits_retain(1 << 2);

/// The units that share registers.
const MAIN: Units = SCALAR.union(VECTOR);
/// While this bit of the mode register is set, storing the main registers destroys them, as on LoongArch with
/// `FCSR.TM`.
pub const TWIST: u64 = 1;
/// The low half of a register.
const LOW: u64 = 0xffff_ffff;
/// Set in both halves of all garbage and paint, and in nothing a guest writes.
const JUNK: u64 = 0x8000_0000_8000_0000;

/// How many main registers there are.
pub const MAIN_REGS: usize = 4;
/// How many extra registers there are.
pub const EXTRA_REGS: usize = 2;

/// What a scalar write does to the upper half of its register, as the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// It leaves the old half or zero (LoongArch: undefined).
    Undefined,
    /// It zeroes it (AArch64: V and Z). An image with anything in its upper halves must be loaded whole.
    Zeroes,
}

/// What kind of floating-point units a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The units.
    pub units: Units,
    /// How their views overlap.
    pub narrow: Narrow,
}

impl Default for Limit {
    fn default() -> Self {
        Self { units: SCALAR | VECTOR | EXTRA, narrow: Narrow::Undefined }
    }
}

/// The registers of one pretend CPU.
#[derive(Debug)]
pub struct File {
    main: [u64; MAIN_REGS],
    mode: u64,
    extra: [u64; EXTRA_REGS],
    /// What the gate lets through, for guests and for the hypervisor alike.
    open: Units,
    weather: u64,
    /// How often registers were loaded.
    pub loads: u64,
    /// How often registers were saved.
    pub saves: u64,
    /// How many bytes were copied in.
    pub bytes_in: u64,
    /// How many bytes were copied out.
    pub bytes_out: u64,
}

impl File {
    /// Makes the registers of a CPU at reset: garbage, and an open gate. `seed` chooses the garbage.
    pub fn new(seed: u64) -> Self {
        let mut file = Self {
            main: [0; MAIN_REGS],
            mode: 0,
            extra: [0; EXTRA_REGS],
            open: Units::empty(),
            weather: seed | 1,
            loads: 0,
            saves: 0,
            bytes_in: 0,
            bytes_out: 0,
        };
        file.lose();
        file
    }

    /// Loses everything, as a power-down does.
    pub fn lose(&mut self) {
        self.main = core::array::from_fn(|_| self.garbage());
        self.mode = self.garbage();
        self.extra = core::array::from_fn(|_| self.garbage());
    }

    /// Tells whether any register holds a value with `tag`.
    pub fn bears(&self, tag: u16) -> bool {
        let halves = |value: u64| [value >> 32, value & LOW];
        let values = self.main.iter().chain(&self.extra).chain([&self.mode]);
        values.flat_map(|value| halves(*value)).any(|half| half >> 16 == u64::from(tag))
    }

    /// What a guest could use now.
    pub fn open(&self) -> Units {
        self.open
    }

    /// The next random number (xorshift).
    fn chance(&mut self) -> u64 {
        self.weather ^= self.weather << 13;
        self.weather ^= self.weather >> 7;
        self.weather ^= self.weather << 17;
        self.weather
    }

    fn garbage(&mut self) -> u64 {
        self.chance() | JUNK
    }
}

/// Register state in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Regs {
    limit: Limit,
    main: [u64; MAIN_REGS],
    mode: u64,
    extra: [u64; EXTRA_REGS],
    /// Whether any upper half is not zero.
    wide: bool,
}

impl FpContext for Regs {
    type File = File;
    type Limit = Limit;

    const GROUPS: &'static [Units] = &[MAIN, EXTRA];

    fn new(limit: Limit) -> Self {
        Self { limit, main: [0; MAIN_REGS], mode: 0, extra: [0; EXTRA_REGS], wide: false }
    }

    fn units(&self) -> Units {
        self.limit.units
    }

    fn closure(&self, touched: Units) -> Units {
        let whole = self.limit.narrow == Narrow::Zeroes && self.wide;
        if touched.intersects(VECTOR) || touched.intersects(SCALAR) && whole {
            touched | MAIN
        } else {
            touched
        }
    }

    fn save(&mut self, file: &mut File, units: Units) -> Units {
        file.open = Units::all();
        file.saves += 1;
        let mut kept = units;
        if units.intersects(MAIN) {
            let mask = if units.contains(VECTOR) { u64::MAX } else { LOW };
            for (mem, reg) in self.main.iter_mut().zip(file.main) {
                *mem = *mem & !mask | reg & mask;
                file.bytes_out += u64::from(mask.count_ones() / 8);
            }
            self.mode = file.mode;
            file.bytes_out += 8;
            self.wide = self.main.iter().any(|value| value & !LOW != 0);
            if file.mode & TWIST != 0 {
                file.main = core::array::from_fn(|_| file.garbage());
                file.mode = file.garbage();
                kept -= MAIN;
            }
        }
        if units.contains(EXTRA) {
            self.extra = file.extra;
            file.bytes_out += 8 * EXTRA_REGS as u64;
        }
        kept
    }

    fn restore(&self, file: &mut File, units: Units) {
        file.open = Units::all();
        file.loads += 1;
        if units.intersects(MAIN) {
            let mask = if units.contains(VECTOR) { u64::MAX } else { LOW };
            for (n, mem) in self.main.iter().enumerate() {
                file.main[n] = file.garbage() & !mask | mem & mask;
                file.bytes_in += u64::from(mask.count_ones() / 8);
            }
            file.mode = self.mode;
            file.bytes_in += 8;
        }
        if units.contains(EXTRA) {
            file.extra = self.extra;
            file.bytes_in += 8 * EXTRA_REGS as u64;
        }
    }

    fn expose(file: &mut File, units: Units) {
        file.open = units;
    }

    fn conceal(file: &mut File) {
        file.open = Units::empty();
    }

    fn exposed(file: &File) -> Units {
        file.open
    }

    fn fill(file: &mut File, units: Units, pattern: u64) {
        file.open = Units::all();
        if units.intersects(MAIN) {
            file.main = [pattern; MAIN_REGS];
            file.mode = pattern & !TWIST;
        }
        if units.contains(EXTRA) {
            file.extra = [pattern; EXTRA_REGS];
        }
    }

    fn is_blank(file: &mut File, group: Units) -> bool {
        let main = group.intersects(MAIN).then_some((&file.main[..], &file.mode));
        let extra = group.contains(EXTRA).then_some(&file.extra);
        main.is_none_or(|(main, mode)| *mode == 0 && main.iter().all(|value| *value == 0))
            && extra.is_none_or(|extra| extra.iter().all(|value| *value == 0))
    }

    fn bytes(&self, units: Units) -> u64 {
        let main = match (units.contains(VECTOR), units.contains(SCALAR)) {
            (true, _) => 8 * MAIN_REGS as u64 + 8,
            (false, true) => 4 * MAIN_REGS as u64 + 8,
            (false, false) => 0,
        };
        let extra = if units.contains(EXTRA) { 8 * EXTRA_REGS as u64 } else { 0 };
        main + extra
    }

    /// A number that the ELF standard leaves to whoever wants one.
    const LAYOUT: Layout = Layout { machine: 0xfa4e, register };

    fn form(&self) -> Form {
        Form { units: self.limit.units, shape: self.limit.narrow as u8, limit: 64, choice: 0 }
    }

    fn export(&self, out: &mut Vec<u8>) {
        let main = self.main.iter().chain([&self.mode]);
        let extra = self.extra.iter().filter(|_| self.limit.units.contains(EXTRA));
        main.chain(extra).for_each(|value| out.extend(value.to_le_bytes()));
    }

    fn import(limit: Limit, form: Form, registers: &[u8]) -> Result<Self, SnapshotError> {
        if !limit.units.contains(form.units) {
            return Err(SnapshotError::Units { found: "more", guest: "less" });
        }
        if limit.narrow as u8 != form.shape {
            return Err(SnapshotError::Shape(form.shape));
        }
        let mut values = registers
            .chunks_exact(8)
            .map(|bytes| bytes.iter().rev().fold(0, |value: u64, byte| value << 8 | u64::from(*byte)));
        let mut next = || values.next().unwrap_or(0);
        let main = core::array::from_fn(|_| next());
        let wide = main.iter().any(|value: &u64| value & !LOW != 0);
        Ok(Self { limit, main, mode: next(), extra: core::array::from_fn(|_| next()), wide })
    }
}

/// Names the `n`th register of a snapshot.
fn register(form: Form, n: usize) -> Option<Register> {
    let extra = MAIN_REGS + 1;
    match n {
        _ if form.shape > Narrow::Zeroes as u8 => None,
        0..MAIN_REGS => Some(Register::nth("R", n, 0, 8)),
        MAIN_REGS => Some(Register::alone("MODE", 8 * n, 8)),
        _ if n < extra + EXTRA_REGS && form.units.contains(EXTRA) => {
            Some(Register::nth("E", n - extra, 8 * extra, 8))
        }
        _ => None,
    }
}

/// What a guest does next. Whatever it does, it also looks at everything the unit shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Looks at the registers of one unit.
    Read(Units),
    /// Writes the low half of a main register.
    Scalar(usize),
    /// Writes a whole main register.
    Vector(usize),
    /// Writes the mode register, with [`TWIST`] or without.
    Mode(u64),
    /// Writes an extra register.
    Extra(usize),
}

impl Op {
    /// The unit that has to be open.
    pub fn unit(self) -> Units {
        match self {
            Self::Read(unit) => unit,
            Self::Scalar(_) | Self::Mode(_) => SCALAR,
            Self::Vector(_) => VECTOR,
            Self::Extra(_) => EXTRA,
        }
    }
}

/// Why an [`Op`] did not happen as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The gate was shut: the guest stops, to try again.
    Trap(Units),
    /// The gate was open for a unit that the guest does not have.
    Uninvited(Units),
    /// A register did not hold what it had to.
    Wrong {
        /// The unit through which it was seen.
        unit: Units,
        /// What was seen.
        seen: u64,
        /// What should have been.
        wanted: u64,
    },
}

/// What a guest knows of the upper half of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper {
    /// It is this.
    Known(u64),
    /// A scalar write made it this or zero; the guest has not looked yet.
    OrZero(u64),
}

/// A pretend guest's memory of what its registers hold.
#[derive(Clone, Debug)]
pub struct Mind {
    limit: Limit,
    tag: u16,
    count: u64,
    low: [u64; MAIN_REGS],
    upper: [Upper; MAIN_REGS],
    mode: u64,
    extra: [u64; EXTRA_REGS],
}

impl Mind {
    /// Makes a guest at power-on whose every value will bear `tag`, which is below 0x8000 and not zero.
    pub fn new(limit: Limit, tag: u16) -> Self {
        Self {
            limit,
            tag,
            count: 0,
            low: [0; MAIN_REGS],
            upper: [Upper::Known(0); MAIN_REGS],
            mode: 0,
            extra: [0; EXTRA_REGS],
        }
    }

    /// The mark on everything this guest wrote.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// Takes the guest back to what it knew when `past` was its mind. What it writes from now on is new all the same.
    pub fn rewind(&mut self, past: &Self) {
        *self = Self { count: self.count.max(past.count), ..past.clone() };
    }

    /// What kind of guest it is.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Does `op` on the registers of the CPU it runs on.
    ///
    /// # Errors
    /// A trap, in which case nothing happened; or what was wrong.
    pub fn attempt(&mut self, file: &mut File, op: Op) -> Result<(), Mishap> {
        let unit = op.unit();
        if !file.open.contains(unit) {
            return Err(Mishap::Trap(unit));
        }
        if !self.limit.units.contains(unit) {
            return Err(Mishap::Uninvited(unit));
        }
        self.look(file, unit)?;
        let value = self.fresh();
        match op {
            Op::Read(_) => {}
            Op::Scalar(n) => self.write_scalar(file, n, value & LOW),
            Op::Vector(n) => {
                file.main[n] = value;
                (self.low[n], self.upper[n]) = (value & LOW, Upper::Known(value >> 32));
            }
            Op::Mode(twist) => {
                file.mode = value & !TWIST | twist & TWIST;
                self.mode = file.mode;
            }
            Op::Extra(n) => {
                file.extra[n] = value;
                self.extra[n] = value;
            }
        }
        Ok(())
    }

    fn write_scalar(&mut self, file: &mut File, n: usize, value: u64) {
        let zero = self.limit.narrow == Narrow::Zeroes || file.chance() & 1 == 0;
        file.main[n] = if zero { value } else { file.main[n] & !LOW | value };
        self.low[n] = value;
        self.upper[n] = match (self.limit.narrow, self.upper[n]) {
            (Narrow::Zeroes, _) => Upper::Known(0),
            (Narrow::Undefined, Upper::Known(old) | Upper::OrZero(old)) => Upper::OrZero(old),
        };
    }

    /// A value nobody has written before, with the tag in both halves.
    fn fresh(&mut self) -> u64 {
        self.count += 1;
        let half = u64::from(self.tag) << 16 | self.count << 1 & 0xffff;
        half << 32 | half
    }

    fn look(&mut self, file: &File, unit: Units) -> Result<(), Mishap> {
        let same = |seen: u64, wanted: u64| {
            if seen == wanted { Ok(()) } else { Err(Mishap::Wrong { unit, seen, wanted }) }
        };
        if unit == EXTRA {
            return file.extra.iter().zip(self.extra).try_for_each(|(&seen, wanted)| same(seen, wanted));
        }
        same(file.mode, self.mode)?;
        for (n, &seen) in file.main.iter().enumerate() {
            same(seen & LOW, self.low[n])?;
            if unit == VECTOR {
                match self.upper[n] {
                    Upper::OrZero(_) if seen >> 32 == 0 => {}
                    Upper::Known(wanted) | Upper::OrZero(wanted) => same(seen >> 32, wanted)?,
                }
                self.upper[n] = Upper::Known(seen >> 32);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_notices_what_is_not_its_own() {
        let mut file = File::new(1);
        let mut mind = Mind::new(Limit::default(), 1);
        file.open = SCALAR;
        assert!(matches!(mind.attempt(&mut file, Op::Read(SCALAR)), Err(Mishap::Wrong { .. })));
        Regs::fill(&mut file, MAIN, 0);
        assert_eq!(mind.attempt(&mut file, Op::Vector(0)), Ok(()));
        assert!(file.bears(1) && !file.bears(2));
        file.main[0] ^= 1 << 40;
        assert_eq!(mind.attempt(&mut file, Op::Read(SCALAR)), Ok(()));
        assert!(matches!(mind.attempt(&mut file, Op::Read(VECTOR)), Err(Mishap::Wrong { .. })));
    }

    #[test]
    fn a_shut_gate_traps_and_an_uninvited_unit_shows() {
        let mut file = File::new(1);
        let mut mind = Mind::new(Limit { units: SCALAR, narrow: Narrow::Zeroes }, 1);
        Regs::fill(&mut file, MAIN, 0);
        assert_eq!(mind.attempt(&mut file, Op::Read(VECTOR)), Err(Mishap::Uninvited(VECTOR)));
        Regs::conceal(&mut file);
        assert_eq!(mind.attempt(&mut file, Op::Scalar(0)), Err(Mishap::Trap(SCALAR)));
    }

    #[test]
    fn a_narrow_load_leaves_garbage_above_and_a_twisted_save_leaves_garbage_behind() {
        let mut file = File::new(7);
        let mut image = Regs::new(Limit::default());
        image.restore(&mut file, SCALAR);
        assert!(file.main.iter().all(|reg| reg & LOW == 0 && reg & JUNK != 0));
        assert_eq!((file.bytes_in, image.bytes(SCALAR)), (24, 24));
        file.mode = TWIST;
        assert_eq!(image.save(&mut file, SCALAR | EXTRA), EXTRA);
        assert!(file.main.iter().all(|reg| reg & JUNK == JUNK) && image.main == [0; MAIN_REGS]);
        assert_eq!(image.mode, TWIST);
    }
}
