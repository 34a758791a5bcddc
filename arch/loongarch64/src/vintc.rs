//! A guest's interrupt chips: IPI, EIOINTC, PCH-PIC and MSI.
//!
//! Plain data under the caller's lock; nothing here touches hardware. What a guest does with IOCSR instructions
//! comes in through [`Vintc::iocsr`], what it does with memory through [`Vintc::mmio`], and devices drive the inputs
//! of the PCH-PIC with [`Vintc::set_line`]. What comes out is [`Vintc::lines`]: the interrupt bits of a vCPU's
//! `ESTAT`, which are levels, so that nothing is ever copied and reconciled. A call that raises a line of some vCPU
//! names it in [`Kicks`]; that vCPU must be woken, or made to look at its lines before it runs on.
//!
//! The chips are those of a Loongson 3A5000 with a 7A bridge, one node for every four vCPUs, without the extensions
//! that only virtual machines have.
//!
//! vCPUs other than the first are parked: they wait, as firmware lets them, for an address in mailbox 0 and an IPI.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering, fence};

mod eiointc;
mod ipi;
mod pch_pic;
#[cfg(test)]
mod tests;

use kernel::dev::Level;
use kernel::exit::Kicks;

use eiointc::{Cores, Eiointc, Pins, Stay};
use ipi::{Ipi, Parcel};
use pch_pic::{News, PchPic};

use crate::layout::{MSI, PCH_PIC};
use crate::words::Words;

/// Most vCPUs of one guest: the bits of [`Kicks`], and 16 nodes of four cores.
pub const MAX_VCPUS: usize = 64;

/// `ESTAT.IS` of HWI0, and of the inter-processor interrupt.
const HWI_SHIFT: u32 = 2;
const IS_IPI: u64 = 1 << 12;

// IOCSR addresses: Loongson 3A5000 user manual, chapters 4, 10 and 11.
const VERSION: u64 = 0x0000;
const FEATURES: u64 = 0x0008;
const VENDOR: u64 = 0x0010;
const CPUNAME: u64 = 0x0020;
const NODECNT: u64 = 0x0408;
const MISC_FUNC_HIGH: u64 = 0x0424;
const IPI: u64 = 0x1000;
const IPI_END: u64 = 0x1047;
const MAIL_SEND: u64 = 0x1048;
const EXT_IOI_SEND: u64 = 0x1140;
const ANY_SEND: u64 = 0x1158;
const EIOINTC: u64 = 0x1400;
const EIOINTC_END: u64 = 0x1cff;

/// `FEATURES`: MSI, EXTIOI, CSRIPI.
const FEATURES_VALUE: u32 = 0b111 << 2;
/// `MISC_FUNC` bits 48 and 49: the EIOINTC is on, and its pins are numbers.
const EXT_IOI_EN: u32 = 1 << 16;
const INT_ENCODE: u32 = 1 << 17;

/// An access with an IOCSR instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IocsrAccess {
    /// The address.
    pub at: u64,
    /// The width in bytes: 1, 2, 4 or 8.
    pub width: u8,
    /// The value stored, or none for a load.
    pub store: Option<u64>,
}

/// A parked vCPU begins to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartVcpu {
    /// Which one.
    pub vcpu: usize,
    /// Its first instruction, as a physical address.
    pub entry: u64,
}

/// What an access led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// What a load returns, zero-extended.
    pub value: u64,
    /// vCPUs whose lines got a bit.
    pub kicks: Kicks,
    /// The vCPU to start.
    pub start: Option<StartVcpu>,
}

/// Positions of the set bits, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let position = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (position < u64::BITS).then_some(position)
    })
}

/// What of a vCPU's chips is looked at without the lock. Only who has the lock writes it.
#[derive(Debug, Default)]
pub struct Front {
    /// Its lines, as [`Vintc::lines`] tells them.
    lines: AtomicU64,
    /// The first two registers of its IPI: status, and above it which of these raise the line.
    ipi: AtomicU64,
}

impl Front {
    /// The bits of its `ESTAT.IS` that are up.
    #[inline]
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Answers its own load of 32 bits from IOCSR `at`, if that is one of the two registers.
    #[inline]
    pub fn load(&self, at: u64) -> Option<u32> {
        let offset = at.wrapping_sub(IPI);
        if offset & !4 != 0 {
            return None;
        }
        // Whoever has seen the line go up sees why.
        fence(Ordering::Acquire);
        Some((self.ipi.load(Ordering::Relaxed) >> (8 * offset)) as u32)
    }

    /// Shows what became of an IPI and of the other lines; whether it got a line that it did not have.
    #[inline]
    fn put(&self, ipi: &Ipi, others: u64) -> bool {
        self.ipi.store(ipi.first_two(), Ordering::Relaxed);
        let now = others | if ipi.is_up() { IS_IPI } else { 0 };
        let before = self.lines.load(Ordering::Relaxed);
        self.lines.store(now, Ordering::Release);
        now & !before != 0
    }
}

/// A guest's interrupt chips.
pub struct Vintc {
    ipi: Box<[Ipi]>,
    eiointc: Eiointc,
    pch_pic: PchPic,
    /// What is looked at of each vCPU without the lock.
    fronts: Arc<[Front]>,
    /// vCPUs that have not started, bit n for vCPU n.
    parked: u64,
}

impl Vintc {
    /// The chips of a guest with `cpus` vCPUs, as firmware leaves them; the first runs, the others are parked.
    ///
    /// # Panics
    /// When there are no vCPUs, or more than [`MAX_VCPUS`].
    pub fn new(cpus: usize) -> Self {
        assert!((1..=MAX_VCPUS).contains(&cpus), "{cpus} vCPUs");
        Self {
            ipi: (0..cpus).map(|_| Ipi::default()).collect(),
            eiointc: Eiointc::new(cpus),
            pch_pic: PchPic::new(),
            fronts: (0..cpus).map(|_| Front::default()).collect(),
            parked: u64::MAX >> (64 - cpus) & !1,
        }
    }

    /// The bits of a vCPU's `ESTAT.IS` that are up: HWI0 to HWI7 in bits 9 to 2, IPI in bit 12.
    pub fn lines(&self, vcpu: usize) -> u64 {
        self.fronts.get(vcpu).map_or(0, Front::lines)
    }

    /// The same of all vCPUs, to be looked at without the lock. Whoever raises a line rings for its vCPU afterwards;
    /// nobody rings for a line that goes down.
    pub fn fronts(&self) -> Arc<[Front]> {
        Arc::clone(&self.fronts)
    }

    /// Answers an access of vCPU `from`. `is_memory` says whether an address is one where a vCPU could start.
    pub fn iocsr(&mut self, from: usize, access: IocsrAccess, is_memory: impl Fn(u64) -> bool) -> Outcome {
        if from >= self.ipi.len() {
            return Outcome::default();
        }
        let whole = access.width == 4;
        let words = Words::new(access.at, access.width);
        let Some(value) = access.store else {
            if whole && let Some(value) = self.fronts.get(from).and_then(|front| front.load(access.at)) {
                return Outcome { value: value.into(), ..Outcome::default() };
            }
            return Outcome { value: words.load(|at| self.read(from, at)), ..Outcome::default() };
        };
        if whole && let Some(kicks) = self.ipi_store(from, access.at, value as u32) {
            return Outcome { kicks, ..Outcome::default() };
        }
        let mut effect = Effect::default();
        match (access.at, access.width) {
            (MAIL_SEND, 8) => self.mail(value),
            (ANY_SEND, 8) => {
                let parcel = Parcel::new(value);
                if parcel.to < self.ipi.len() {
                    let at = value & 0xfffc;
                    self.write(parcel.to, at, parcel.data & parcel.lanes, parcel.lanes, &mut effect);
                }
            }
            _ => words.store(value, |at, value, lanes| self.write(from, at, value, lanes, &mut effect)),
        }
        let start = bits(effect.called).find_map(|vcpu| self.try_start(vcpu as usize, &is_memory));
        Outcome { value: 0, kicks: self.refresh(effect.touched), start }
    }

    /// Does what every interrupt between vCPUs takes, in a few steps: a store of vCPU `from` to a whole register of the
    /// IPI. Returns whose lines got a bit; none if it is something else, or may start a vCPU.
    #[inline]
    pub fn ipi_store(&mut self, from: usize, at: u64, value: u32) -> Option<Kicks> {
        let offset = at.wrapping_sub(IPI);
        if offset > IPI_END - IPI || offset & 3 != 0 {
            return None;
        }
        let whom = if at == ipi::SEND_AT { ipi::target(value.into()) } else { from };
        let (ipi, front) = (self.ipi.get_mut(whom)?, self.fronts.get(whom)?);
        if self.parked >> whom & 1 != 0 {
            return None;
        }
        match at {
            ipi::SEND_AT => ipi.post(ipi::action(value)),
            _ => ipi.write(offset, value, u32::MAX),
        }
        let got = front.put(ipi, front.lines() & !IS_IPI);
        Some(Kicks(u64::from(got) << whom))
    }

    /// Answers an access to memory, if it is to one of the chips: what a load returns, and whose lines got a bit.
    pub fn mmio(&mut self, at: u64, width: u8, store: Option<u64>) -> Option<(u64, Kicks)> {
        if MSI.contains(&at) {
            // The vector is in the first byte; what else a device writes says nothing.
            let vector = store.filter(|_| at == MSI.start);
            let touched = vector.map_or(0, |vector| self.eiointc.arrive(vector as u8, Stay::Sticky));
            return Some((0, self.refresh(touched)));
        }
        if !PCH_PIC.contains(&at) {
            return None;
        }
        let words = Words::new(at - PCH_PIC.start, width);
        let Some(value) = store else { return Some((words.load(|at| self.pch_pic.read(at)), Kicks::NONE)) };
        let mut touched = 0;
        words.store(value, |at, value, lanes| {
            let news = self.pch_pic.write(at, value, lanes);
            touched |= self.forward(news);
        });
        Some((0, self.refresh(touched)))
    }

    /// Drives input `pin` of the PCH-PIC.
    pub fn set_line(&mut self, pin: u32, level: Level) -> Kicks {
        let bit = 1u32.checked_shl(pin).unwrap_or(0);
        let level = if level == Level::High { bit } else { 0 };
        let news = self.pch_pic.drive(bit, level);
        let touched = self.forward(news);
        self.refresh(touched)
    }

    /// A vCPU has gone off: it waits again to be started.
    pub fn park(&mut self, vcpu: usize) {
        if vcpu < self.ipi.len() {
            self.parked |= 1 << vcpu;
        }
    }

    /// Passes on what the PCH-PIC has to say. Returns whom it concerns.
    fn forward(&mut self, news: News) -> Cores {
        let mut touched = 0;
        for pin in bits(news.withdraw.into()) {
            if let Some(vector) = self.pch_pic.note_withdrawn(pin) {
                touched |= self.eiointc.withdraw(vector);
            }
        }
        for pin in bits(news.send.into()) {
            let stay = self.pch_pic.note_sent(pin);
            touched |= self.eiointc.arrive(self.pch_pic.vector(pin), stay);
        }
        touched
    }

    /// Brings the lines of some vCPUs up to date, and returns those of them that got a bit.
    fn refresh(&mut self, touched: Cores) -> Kicks {
        let mut kicks = 0;
        for vcpu in bits(touched) {
            let at = vcpu as usize;
            let Some((front, ipi)) = self.fronts.get(at).zip(self.ipi.get(at)) else { break };
            let hwi = u64::from(self.eiointc.pins_up(at)) << HWI_SHIFT;
            kicks |= u64::from(front.put(ipi, hwi)) << vcpu;
        }
        Kicks(kicks)
    }

    /// A store to `MAIL_SEND`.
    fn mail(&mut self, value: u64) {
        let parcel = Parcel::new(value);
        if let Some(ipi) = self.ipi.get_mut(parcel.to) {
            // Bits 4 to 2 are the number of the half mailbox, as it happens in bytes.
            ipi.write(ipi::MBUF0 + (value & 0x1c), parcel.data & parcel.lanes, parcel.lanes);
        }
    }

    /// A parked vCPU was sent an IPI. The firmware it waits in clears them all, and goes where mailbox 0 points; if
    /// that is nowhere, it waits on.
    fn try_start(&mut self, vcpu: usize, is_memory: impl Fn(u64) -> bool) -> Option<StartVcpu> {
        let ipi = self.ipi.get_mut(vcpu)?;
        if self.parked >> vcpu & 1 == 0 || ipi.status() & 1 == 0 {
            return None;
        }
        ipi.clear();
        let entry = ipi.mail();
        if !is_memory(entry) {
            return None;
        }
        self.parked &= !(1 << vcpu);
        Some(StartVcpu { vcpu, entry })
    }

    /// Reads the 32 bits at `at` as vCPU `from` sees them.
    fn read(&self, from: usize, at: u64) -> u32 {
        match at {
            // The revision that QEMU's machine has, too.
            VERSION => 0x11,
            FEATURES => FEATURES_VALUE,
            VENDOR => u32::from_le_bytes(*b"Loon"),
            0x14 => u32::from_le_bytes(*b"gson"),
            CPUNAME => u32::from_le_bytes(*b"3A50"),
            0x24 => u32::from_le_bytes(*b"00\0\0"),
            NODECNT => self.eiointc.nodes() as u32,
            MISC_FUNC_HIGH if self.eiointc.pins(from) == Pins::Encoded => EXT_IOI_EN | INT_ENCODE,
            MISC_FUNC_HIGH => EXT_IOI_EN,
            IPI..=IPI_END => self.ipi.get(from).map_or(0, |ipi| ipi.read(at - IPI)),
            EIOINTC..=EIOINTC_END => self.eiointc.read(from, at - IPI),
            _ => 0,
        }
    }

    /// Writes `lanes` of the 32 bits at `at` as vCPU `from` sees them.
    fn write(&mut self, from: usize, at: u64, value: u32, lanes: u32, effect: &mut Effect) {
        const WHOLE: u32 = u32::MAX;
        match (at, lanes) {
            (MISC_FUNC_HIGH, _) if lanes & INT_ENCODE != 0 => {
                let pins = if value & INT_ENCODE != 0 { Pins::Encoded } else { Pins::OneHot };
                effect.touched |= self.eiointc.set_pins(from, pins);
            }
            (ipi::SEND_AT, WHOLE) => {
                let target = ipi::target(value.into());
                if let Some(ipi) = self.ipi.get_mut(target) {
                    ipi.post(ipi::action(value));
                    effect.calls(target);
                }
            }
            (IPI..=IPI_END, _) => {
                if let Some(ipi) = self.ipi.get_mut(from) {
                    ipi.write(at - IPI, value, lanes);
                    effect.calls(from);
                }
            }
            (EXT_IOI_SEND, _) if lanes & 0xff == 0xff => {
                effect.touched |= self.eiointc.arrive(value as u8, Stay::Sticky);
            }
            (EIOINTC..=EIOINTC_END, _) => {
                if let Some(what) = self.eiointc.acknowledge(from, at - IPI, value) {
                    self.pch_pic.acknowledged(what);
                    effect.touched |= 1 << from;
                } else {
                    effect.touched |= self.eiointc.write(from, at - IPI, value, lanes);
                }
            }
            _ => {}
        }
    }
}

/// What a store leads to beside the register's new value.
#[derive(Default)]
struct Effect {
    touched: Cores,
    /// vCPUs whose IPI registers were written.
    called: Cores,
}

impl Effect {
    fn calls(&mut self, vcpu: usize) {
        self.touched |= 1 << vcpu;
        self.called |= 1 << vcpu;
    }
}
