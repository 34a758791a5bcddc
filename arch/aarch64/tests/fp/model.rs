//! The SIMD and SVE registers of a CPU as values, and a guest that knows what should be in them.
//!
//! Where the manual leaves a choice the model takes now one, now the other: what becomes of the bits beyond a vector
//! length that shrank (DDI0487 B1.4.2, YRPDH), which it also does where SVE is trapped and FP is not (KXKNK). QEMU always
//! zeroes them.
//!
//! A scalable register is an array of 16 parts, as many as the vector length has quadwords of which are in use: 128 bits of
//! a Z register, 16 bits of a predicate.

use std::cell::{Ref, RefCell, RefMut};

use arch_aarch64::fp::{FpRegs, Length, Lengths, Registers, SIMD, SVE, Scalable, cptr};
use kernel::fp::Units;

use super::laws::{Mishap, Moved};

const PARTS: usize = 16;
/// Set in every half of all garbage, and in nothing a guest writes.
const JUNK: u128 = 0x8000_0000_8000_0000_8000_0000_8000_0000;

/// How a CPU is broken, to see that guests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flaw {
    None,
    /// Loading leaves the predicates as they are.
    Predicates,
    /// Loading leaves FFR as it is.
    Ffr,
    /// Filling leaves what lies beyond 128 bits.
    Flood,
    /// Storing leaves out the last quadword of each Z register.
    Upper,
}

/// The registers of one CPU.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) z: [[u128; PARTS]; 32],
    pub(crate) p: [[u16; PARTS]; 16],
    pub(crate) ffr: [u16; PARTS],
    pub(crate) fpsr: u64,
    pub(crate) fpcr: u64,
    pub(crate) zcr_el1: u64,
    zcr_el2: u64,
    cptr: u64,
    /// What the CPU acts on at EL2: `cptr` as of the last synchronisation.
    effective: u64,
    lengths: Lengths,
    weather: u64,
    flaw: Flaw,
    pub(crate) moved: Moved,
}

impl State {
    fn chance(&mut self) -> u64 {
        self.weather ^= self.weather << 13;
        self.weather ^= self.weather >> 7;
        self.weather ^= self.weather << 17;
        self.weather
    }

    fn garbage(&mut self) -> u128 {
        u128::from(self.chance()) << 64 | u128::from(self.chance()) | JUNK
    }

    pub(crate) fn lose(&mut self) {
        for n in 0..32 {
            self.z[n] = std::array::from_fn(|_| self.garbage());
        }
        for n in 0..16 {
            self.p[n] = std::array::from_fn(|_| self.garbage() as u16 | 0x8000);
        }
        self.ffr = std::array::from_fn(|_| self.garbage() as u16 | 0x8000);
        self.fpsr = self.garbage() as u64;
        self.fpcr = self.garbage() as u64;
        self.zcr_el1 = self.chance() & 0xf;
    }

    fn selected(&self, len_field: u64) -> Length {
        let fits = |length: &Length| length.len_field() <= len_field & 0xf;
        self.lengths.iter().filter(fits).last().expect("every CPU with SVE has vectors of 128 bits")
    }

    /// The vector length at EL1 and EL0.
    pub(crate) fn el1_length(&self) -> Length {
        self.selected((self.zcr_el1 & 0xf).min(self.zcr_el2 & 0xf))
    }

    fn el2_length(&self) -> Length {
        self.selected(self.zcr_el2)
    }

    /// Something ran, or may run, at that vector length: what is beyond is zero or as it was.
    fn narrow(&mut self, length: Length) {
        for n in 0..32 {
            self.forget_upper(n, length);
        }
        for n in 0..16 {
            if self.chance() & 1 == 0 {
                self.p[n][length.quadwords()..].fill(0);
            }
        }
        if self.chance() & 1 == 0 {
            self.ffr[length.quadwords()..].fill(0);
        }
    }

    /// A vector register was written at that length: what is beyond is zero or as it was.
    fn forget_upper(&mut self, n: usize, length: Length) {
        if self.chance() & 1 == 0 {
            self.z[n][length.quadwords()..].fill(0);
        }
    }

    /// V register `n` is written where SVE is not trapped and vectors have `length`, or where it is trapped.
    fn write_v(&mut self, n: usize, value: u128, length: Option<Length>) {
        self.z[n][0] = value;
        if let Some(length) = length {
            self.z[n][1..length.quadwords()].fill(0);
            self.forget_upper(n, length);
        } else {
            self.forget_upper(n, Length::from_quadwords(1).expect("128 bits"));
        }
    }

    /// Enters EL1, and has it do as it likes.
    pub(crate) fn eret(&mut self) {
        self.effective = self.cptr;
        match (self.cptr & cptr::TFP, self.cptr & cptr::TZ) {
            (0, 0) => self.narrow(self.el1_length()),
            // With SVE trapped, a vector has 128 bits (KXKNK).
            (0, _) => self.narrow(Length::from_quadwords(1).expect("128 bits")),
            // With everything trapped, EL2 finds all as it was (DMBPN).
            (_, cptr::TZ) => {}
            _ => panic!("SVE is not trapped, and FP is"),
        }
    }

    /// What a guest could use now.
    pub(crate) fn open(&self) -> Units {
        match (self.cptr & cptr::TFP, self.cptr & cptr::TZ) {
            (0, 0) => SIMD | SVE,
            (0, _) => SIMD,
            _ => Units::empty(),
        }
    }

    /// Tells whether any register holds a value with `tag`.
    pub(crate) fn bears(&self, tag: u16) -> bool {
        let bears = |value: u128| (0..4).any(|n| (value >> (32 * n + 16)) as u16 == tag);
        let controls = u128::from(self.fpsr) << 64 | u128::from(self.fpcr);
        self.z.as_flattened().iter().any(|part| bears(*part))
            || self.p.as_flattened().contains(&tag)
            || bears(controls)
    }

    fn may(&self, traps: u64) {
        assert_eq!(self.effective & traps, 0, "EL2 traps its own access");
    }

    fn load_controls(&mut self, controls: &Registers) {
        (self.fpsr, self.fpcr) = (controls.fpsr, controls.fpcr);
    }
}

/// The registers of one CPU, which a guest on it can get at.
#[derive(Debug)]
pub(crate) struct Model(RefCell<State>);

impl Model {
    /// Makes the registers of a CPU at reset: garbage, and open gates.
    pub(crate) fn new(lengths: Lengths, seed: u64, flaw: Flaw) -> Self {
        let mut state = State {
            z: [[0; PARTS]; 32],
            p: [[0; PARTS]; 16],
            ffr: [0; PARTS],
            fpsr: 0,
            fpcr: 0,
            zcr_el1: 0,
            zcr_el2: 0,
            cptr: 0,
            effective: 0,
            lengths,
            weather: seed | 1,
            flaw,
            moved: Moved::default(),
        };
        state.lose();
        Self(RefCell::new(state))
    }

    pub(crate) fn state(&self) -> Ref<'_, State> {
        self.0.borrow()
    }

    pub(crate) fn state_mut(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }
}

/// Bytes of Z0-Z31, P0-P15, FFR, FPSR and FPCR.
fn scalable_bytes(length: Length) -> u64 {
    let vector = length.bytes() as u64;
    32 * vector + 16 * vector / 8 + vector / 8 + 16
}

impl FpRegs for Model {
    fn set_cptr(&mut self, value: u64) {
        assert_eq!(value & (cptr::RES1 | cptr::TSM), cptr::RES1 | cptr::TSM);
        self.0.get_mut().cptr = value;
    }

    fn sync(&mut self) {
        let state = self.0.get_mut();
        state.effective = state.cptr;
    }

    fn store(&mut self, into: &mut Registers) {
        let state = self.0.get_mut();
        state.may(cptr::TFP);
        into.q = state.z.map(|parts| parts[0]);
        (into.fpsr, into.fpcr) = (state.fpsr, state.fpcr);
        state.moved.saves += 1;
        state.moved.bytes_out += 528;
    }

    fn load(&mut self, from: &Registers) {
        let state = self.0.get_mut();
        state.may(cptr::TFP);
        let length = (state.effective & cptr::TZ == 0).then(|| state.el2_length());
        (0..32).for_each(|n| state.write_v(n, from.q[n], length));
        state.load_controls(from);
        state.moved.loads += 1;
        state.moved.bytes_in += 528;
    }

    fn stop_sme(&mut self) {
        unreachable!("the model has no SME");
    }

    fn set_zcr_el2(&mut self, value: u64) {
        let state = self.0.get_mut();
        state.may(cptr::TZ);
        state.zcr_el2 = value;
        let length = state.el2_length();
        state.narrow(length);
    }

    fn zcr_el1(&self) -> u64 {
        let mut state = self.state_mut();
        state.may(cptr::TZ);
        state.moved.bytes_out += 8;
        state.zcr_el1
    }

    fn set_zcr_el1(&mut self, value: u64) {
        let state = self.0.get_mut();
        state.may(cptr::TZ);
        state.moved.bytes_in += 8;
        state.zcr_el1 = value;
    }

    fn length(&self) -> Option<Length> {
        let state = self.state();
        state.may(cptr::TZ | cptr::TFP);
        Some(state.el2_length())
    }

    fn store_scalable(&mut self, into: &mut Scalable, controls: &mut Registers) {
        let state = self.0.get_mut();
        state.may(cptr::TZ | cptr::TFP);
        let length = state.el2_length();
        assert_eq!(into.length(), length);
        let parts = length.quadwords();
        let (vectors, predicates) = into.words_mut().split_at_mut(32 * parts);
        let stored = if state.flaw == Flaw::Upper { parts.max(2) - 1 } else { parts };
        for (register, room) in state.z.iter().zip(vectors.chunks_exact_mut(parts)) {
            room[..stored].copy_from_slice(&register[..stored]);
        }
        // 17 registers of 16 bits each part, packed.
        let bits = state.p.iter().chain([&state.ffr]).flat_map(|register| &register[..parts]);
        predicates.fill(0);
        bits.enumerate().for_each(|(n, bits)| predicates[n / 8] |= u128::from(*bits) << (16 * (n % 8)));
        (controls.fpsr, controls.fpcr) = (state.fpsr, state.fpcr);
        state.moved.saves += 1;
        state.moved.bytes_out += scalable_bytes(length);
    }

    fn load_scalable(&mut self, from: &Scalable, controls: &Registers) {
        let state = self.0.get_mut();
        state.may(cptr::TZ | cptr::TFP);
        let length = state.el2_length();
        assert_eq!(from.length(), length);
        let parts = length.quadwords();
        let (vectors, predicates) = from.words().split_at(32 * parts);
        for (n, room) in vectors.chunks_exact(parts).enumerate() {
            state.z[n][..parts].copy_from_slice(room);
            state.forget_upper(n, length);
        }
        let bits = |n: usize| (predicates[n / 8] >> (16 * (n % 8))) as u16;
        for n in 0..17 * parts {
            let (register, part) = (n / parts, n % parts);
            match state.flaw {
                Flaw::Predicates if register < 16 => {}
                Flaw::Ffr if register == 16 => {}
                _ if register < 16 => state.p[register][part] = bits(n),
                _ => state.ffr[part] = bits(n),
            }
        }
        state.load_controls(controls);
        state.moved.loads += 1;
        state.moved.bytes_in += scalable_bytes(length);
    }

    fn load_extended(&mut self, from: &Registers) {
        self.load(from);
        let state = self.0.get_mut();
        state.may(cptr::TZ | cptr::TFP);
        let parts = state.el2_length().quadwords();
        state.p.iter_mut().for_each(|register| register[..parts].fill(0));
        state.ffr[..parts].fill(0);
    }

    fn flood(&mut self, pattern: u64) {
        let state = self.0.get_mut();
        state.may(cptr::TZ | cptr::TFP);
        let parts = if state.flaw == Flaw::Flood { 1 } else { state.el2_length().quadwords() };
        let wide = u128::from(pattern) << 64 | u128::from(pattern);
        let ones = if pattern == 0 { 0 } else { 0xffff };
        state.z.iter_mut().for_each(|register| register[..parts].fill(wide));
        state.p.iter_mut().for_each(|register| register[..parts].fill(ones));
        state.ffr[..parts].fill(ones);
        (state.fpsr, state.fpcr, state.zcr_el1) = (0, 0, 0xf);
    }
}

/// What a guest does next. Whatever it does, it also looks at everything the unit shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Looks at the registers of one unit.
    Read(Units),
    /// Writes a V register.
    V(usize),
    /// Writes FPSR and FPCR.
    Controls,
    /// Writes a Z register.
    Z(usize),
    /// Writes a predicate register.
    P(usize),
    /// Sets that many bits of FFR in every part.
    Ffr(u32),
    /// Writes `ZCR_EL1`.
    Zcr(u64),
    /// Zeroes what only SVE shows, as Linux does at a system call.
    Clear,
}

impl Op {
    fn unit(self) -> Units {
        match self {
            Self::Read(unit) => unit,
            Self::V(_) | Self::Controls => SIMD,
            Self::Z(_) | Self::P(_) | Self::Ffr(_) | Self::Zcr(_) | Self::Clear => SVE,
        }
    }
}

/// What a guest knows of a part of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<T> {
    /// It is this.
    Known(T),
    /// It was out of the guest's own reach, and is this or zero; the guest has not looked yet.
    OrZero(T),
}

impl<T: Copy + Default + PartialEq + std::fmt::LowerHex> Part<T> {
    fn doubt(&mut self) {
        let (Self::Known(value) | Self::OrZero(value)) = *self;
        *self = Self::OrZero(value);
    }

    fn see(&mut self, seen: T, what: &str, n: usize, part: usize) -> Result<(), Mishap> {
        match *self {
            Self::OrZero(_) if seen == T::default() => {}
            Self::Known(wanted) | Self::OrZero(wanted) if seen == wanted => {}
            Self::Known(wanted) | Self::OrZero(wanted) => {
                return Err(Mishap::Wrong(format!("part {part} of {what}{n} is {seen:#x}, not {wanted:#x}")));
            }
        }
        *self = Self::Known(seen);
        Ok(())
    }
}

/// A pretend guest's memory of what its registers hold.
#[derive(Clone, Debug)]
pub(crate) struct Mind {
    limit: Option<Length>,
    lengths: Lengths,
    tag: u16,
    count: u32,
    z: [[Part<u128>; PARTS]; 32],
    p: [[Part<u16>; PARTS]; 16],
    ffr: [Part<u16>; PARTS],
    fpsr: u64,
    fpcr: u64,
    zcr: u64,
}

impl Mind {
    /// Makes a guest at power-on on CPUs with `lengths`.
    pub(crate) fn new(limit: Option<Length>, lengths: Lengths, tag: u16) -> Self {
        Self {
            limit,
            lengths,
            tag,
            count: 0,
            z: [[Part::Known(0); PARTS]; 32],
            p: [[Part::Known(0); PARTS]; 16],
            ffr: [Part::Known(0); PARTS],
            fpsr: 0,
            fpcr: 0,
            zcr: 0,
        }
    }

    fn length(&self) -> Length {
        let limit = self.limit.map_or(0, Length::len_field);
        let fits = |length: &Length| length.len_field() <= self.zcr.min(limit);
        self.lengths.iter().filter(fits).last().expect("128 bits are always there")
    }

    /// Does `op` on the registers of the CPU it runs on.
    pub(crate) fn attempt(&mut self, cpu: &mut State, op: Op) -> Result<(), Mishap> {
        cpu.eret();
        let unit = op.unit();
        if !cpu.open().contains(unit) {
            return Err(Mishap::Trap(unit));
        }
        if unit == SVE && self.limit.is_none() || cpu.open() == SVE {
            return Err(Mishap::Wrong(format!("{:?} is open", cpu.open())));
        }
        self.look(cpu, unit)?;
        let value = self.fresh();
        let length = self.length();
        let parts = length.quadwords();
        match op {
            Op::Read(_) => {}
            Op::V(n) => {
                cpu.write_v(n, value, cpu.open().contains(SVE).then(|| cpu.el1_length()));
                self.z[n][0] = Part::Known(value);
                self.z[n][1..parts].fill(Part::Known(0));
                self.z[n][parts..].iter_mut().for_each(Part::doubt);
            }
            Op::Controls => {
                (cpu.fpsr, cpu.fpcr) = (value as u64, (value >> 64) as u64);
                (self.fpsr, self.fpcr) = (cpu.fpsr, cpu.fpcr);
            }
            Op::Z(n) => {
                cpu.z[n][..parts].fill(value);
                cpu.forget_upper(n, length);
                self.z[n][..parts].fill(Part::Known(value));
                self.z[n][parts..].iter_mut().for_each(Part::doubt);
            }
            Op::P(n) => {
                cpu.p[n][..parts].fill(self.tag);
                self.p[n][..parts].fill(Part::Known(self.tag));
                self.p[n][parts..].iter_mut().for_each(Part::doubt);
            }
            Op::Ffr(ones) => {
                let bits = ((1_u32 << ones) - 1) as u16;
                cpu.ffr[..parts].fill(bits);
                self.ffr[..parts].fill(Part::Known(bits));
                self.ffr[parts..].iter_mut().for_each(Part::doubt);
            }
            Op::Zcr(value) => self.ask(cpu, value),
            Op::Clear => self.clear(cpu, parts),
        }
        Ok(())
    }

    fn ask(&mut self, cpu: &mut State, value: u64) {
        cpu.zcr_el1 = value;
        cpu.narrow(cpu.el1_length());
        self.zcr = value;
        self.doubt_beyond(self.length().quadwords());
    }

    fn clear(&mut self, cpu: &mut State, parts: usize) {
        cpu.z.iter_mut().for_each(|register| register[1..parts].fill(0));
        cpu.p.iter_mut().for_each(|register| register[..parts].fill(0));
        cpu.ffr[..parts].fill(0);
        self.z.iter_mut().for_each(|register| register[1..parts].fill(Part::Known(0)));
        self.p.iter_mut().for_each(|register| register[..parts].fill(Part::Known(0)));
        self.ffr[..parts].fill(Part::Known(0));
        self.doubt_beyond(parts);
    }

    fn doubt_beyond(&mut self, parts: usize) {
        self.z.iter_mut().for_each(|register| register[parts..].iter_mut().for_each(Part::doubt));
        let predicates = self.p.iter_mut().chain([&mut self.ffr]);
        predicates.for_each(|register| register[parts..].iter_mut().for_each(Part::doubt));
    }

    /// A value nobody has written before, with the tag in every half.
    /// Goes back to what it knew when `past` was its mind. What it writes from now on is new all the same.
    pub(crate) fn rewind(&mut self, past: &Self) {
        *self = Self { count: self.count.max(past.count), ..past.clone() };
    }

    fn fresh(&mut self) -> u128 {
        self.count += 1;
        let half = u128::from(self.tag) << 16 | u128::from(self.count << 1 & 0xffff);
        half << 96 | half << 64 | half << 32 | half
    }

    fn look(&mut self, cpu: &State, unit: Units) -> Result<(), Mishap> {
        let same = |what: &str, seen: u64, wanted: u64| {
            let wrong = || Mishap::Wrong(format!("{what} is {seen:#x}, not {wanted:#x}"));
            if seen == wanted { Ok(()) } else { Err(wrong()) }
        };
        if unit == SIMD {
            same("FPSR", cpu.fpsr, self.fpsr)?;
            same("FPCR", cpu.fpcr, self.fpcr)?;
            return (0..32).try_for_each(|n| self.z[n][0].see(cpu.z[n][0], "V", n, 0));
        }
        same("ZCR_EL1", cpu.zcr_el1, self.zcr)?;
        same("the vector length", cpu.el1_length().bits(), self.length().bits())?;
        for part in 0..self.length().quadwords() {
            (0..32).try_for_each(|n| self.z[n][part].see(cpu.z[n][part], "Z", n, part))?;
            (0..16).try_for_each(|n| self.p[n][part].see(cpu.p[n][part], "P", n, part))?;
            self.ffr[part].see(cpu.ffr[part], "FFR", 0, part)?;
        }
        Ok(())
    }
}
