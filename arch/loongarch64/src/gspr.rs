//! Instructions that touch what a guest does not have in hardware: decoding, and the registers behind them.
//!
//! The hardware reports them with GSPR and the instruction word. Registers that a guest may have but Fermata does
//! not give it (performance counters, watchpoints, the registers of the virtualisation extension) are like those
//! that no processor has: they read as zero and ignore writes (LoongArch Vol.1 4.2.1). So a guest finds no
//! watchpoint (`MWPC`, `FWPC`), never is in debug mode (`DBG`) and never had a machine error (`MERRCTL`).

use arch_common::access::Extend;

use crate::guest::{Guest, Shadow};
use crate::insn::is_cacop;

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gspr {
    /// CPUCFG: the word that `rj` names into `rd`.
    Cpucfg {
        /// Destination register.
        rd: u8,
        /// Register with the number of the word.
        rj: u8,
    },
    /// CSRRD, CSRWR or CSRXCHG.
    Csr(CsrAccess),
    /// IOCSRRD or IOCSRWR.
    Iocsr(Iocsr),
    /// CACOP, which needs nothing: a guest's memory is coherent.
    Cacop,
    /// IDLE.
    Idle,
    /// DBCL: enters debug mode, which a guest does not have.
    Dbcl,
}

/// An access to a control and status register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsrAccess {
    /// What it does.
    pub op: CsrOp,
    /// The register's number.
    pub csr: u16,
    /// The general register that gets the old value and, unless the access is a read, has the new one.
    pub rd: u8,
}

/// What an access to a control and status register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsrOp {
    /// CSRRD.
    Read,
    /// CSRWR.
    Write,
    /// CSRXCHG: writes the bits that this general register has as ones.
    Exchange(u8),
}

/// An access to the I/O control and status registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iocsr {
    /// Which way.
    pub direction: Direction,
    /// Bytes: 1, 2, 4 or 8.
    pub width: u8,
    /// The general register with the address.
    pub rj: u8,
    /// The general register with the value, or for it.
    pub rd: u8,
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A read.
    Read,
    /// A write.
    Write,
}

fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

/// Decodes `word` (LoongArch Vol.1 appendix B); none when it is no instruction that a guest may meet here.
pub fn decode(word: u32) -> Option<Gspr> {
    // First, because a guest sleeps more often than it does any other of these.
    if word >> 15 == 0xc91 {
        return Some(Gspr::Idle);
    }
    let (rd, rj) = (field(word, 0, 5) as u8, field(word, 5, 5) as u8);
    if word >> 24 == 0x04 {
        let op = match rj {
            0 => CsrOp::Read,
            1 => CsrOp::Write,
            mask => CsrOp::Exchange(mask),
        };
        return Some(Gspr::Csr(CsrAccess { op, csr: field(word, 10, 14) as u16, rd }));
    }
    if is_cacop(word) {
        return Some(Gspr::Cacop);
    }
    if word >> 10 == 0x1b {
        return Some(Gspr::Cpucfg { rd, rj });
    }
    match (word >> 15, field(word, 10, 5)) {
        (0xc90, op @ 0..=3) => {
            Some(Gspr::Iocsr(Iocsr { direction: Direction::Read, width: 1 << op, rj, rd }))
        }
        (0xc90, op @ 4..=7) => {
            Some(Gspr::Iocsr(Iocsr { direction: Direction::Write, width: 1 << (op - 4), rj, rd }))
        }
        (0x55, _) => Some(Gspr::Dbcl),
        _ => None,
    }
}

/// The direction, `rd` and `rj` of IOCSRRD.W or IOCSRWR.W, if `word` is one: the quickest part of [`decode`], for the
/// accesses that are made most.
#[inline]
pub fn iocsr_word(word: u32) -> Option<(Direction, u8, u8)> {
    if word >> 10 & !4 != 0x1_9202 {
        return None;
    }
    let direction = if word & 4 << 10 == 0 { Direction::Read } else { Direction::Write };
    Some((direction, field(word, 0, 5) as u8, field(word, 5, 5) as u8))
}

impl Gspr {
    /// The lowest privilege that may execute it. The hardware has looked at it before it reports the
    /// instruction; that it does is nowhere written.
    pub fn lowest(&self) -> u64 {
        match self {
            // CACOP has forms for programs, and none does anything here.
            Gspr::Cpucfg { .. } | Gspr::Cacop => 3,
            Gspr::Csr(_) | Gspr::Iocsr(_) | Gspr::Idle | Gspr::Dbcl => 0,
        }
    }
}

/// Answers a CPUCFG.
pub fn cpucfg(guest: &mut Guest, rd: u8, rj: u8) {
    let value = guest.model.cpucfg.read(guest.reg(rj));
    guest.set_reg(rd, value);
}

/// Answers an access to a control and status register.
pub fn csr(guest: &mut Guest, access: CsrAccess) {
    let CsrAccess { op, csr, rd } = access;
    let new = guest.reg(rd);
    let mask = match op {
        CsrOp::Read => 0,
        CsrOp::Write => u64::MAX,
        CsrOp::Exchange(mask) => guest.reg(mask),
    };
    let old = match guest.shadow.register(csr) {
        Some(register) => {
            let old = *register;
            *register = old & !mask | new & mask;
            old
        }
        None => 0,
    };
    guest.set_reg(rd, old);
}

impl Iocsr {
    /// The address.
    pub fn at(&self, guest: &Guest) -> u64 {
        guest.reg(self.rj)
    }

    /// The value stored, or none for a read.
    pub fn store(&self, guest: &Guest) -> Option<u64> {
        (self.direction == Direction::Write).then(|| Extend::Zero.fill(guest.reg(self.rd), self.width))
    }

    /// Gives a read its value, which is sign-extended (LoongArch Vol.1 4.2.2); a write needs nothing.
    pub fn finish(&self, guest: &mut Guest, value: u64) {
        if self.direction == Direction::Read {
            guest.set_reg(self.rd, Extend::Sign.fill(value, self.width));
        }
    }
}

impl Shadow {
    /// The register of this number, if it holds what a guest writes to it.
    fn register(&mut self, csr: u16) -> Option<&mut u64> {
        Some(match csr {
            // Linux with 4 KiB pages changes IMPCTL1 when it starts.
            0x080 => &mut self.impctl1,
            0x081 => &mut self.impctl2,
            0x093 => &mut self.merrentry,
            0x094 => &mut self.merrera,
            0x095 => &mut self.merrsave,
            0x098 => &mut self.ctag,
            0x501 => &mut self.dera,
            0x502 => &mut self.dsave,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
