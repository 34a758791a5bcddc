//! A vCPU's registers while it is not running, and what the portable core may do to them.

use alloc::sync::Arc;

use arch_common::access::Load;
use kernel::addr::{Gpa, Ticks};
use kernel::arch::{Fault, Reply};

use crate::cpucfg::CpuCfg;
use crate::gid::Tag;
use crate::hypercall;
use crate::timer::{Registers, Timer};
use crate::trap::Exception;

/// What moves at every entry and exit. The assembly in `switch` knows the offsets of `r` and, by `offset_of!`,
/// those of the others.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Frame {
    /// General registers r0 to r31; r0 is always zero.
    pub r: [u64; 32],
    /// Where the guest goes on (`ERA` of the root).
    pub pc: u64,
    /// While the guest runs, the stack of the call that entered it. Nothing else reads it.
    pub stack: u64,
}

/// The guest's control and status registers that the hardware has (GCSR), moved when a vCPU is loaded or
/// unloaded. Those of its timer are not: while it is away they are a time.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the register of that name in the manual")]
pub struct Csr {
    pub crmd: u64,
    pub prmd: u64,
    pub euen: u64,
    pub misc: u64,
    pub ecfg: u64,
    pub estat: u64,
    pub era: u64,
    pub badv: u64,
    pub badi: u64,
    pub eentry: u64,
    pub tlbidx: u64,
    pub tlbehi: u64,
    pub tlbelo0: u64,
    pub tlbelo1: u64,
    pub asid: u64,
    pub pgdl: u64,
    pub pgdh: u64,
    pub pwcl: u64,
    pub pwch: u64,
    pub stlbps: u64,
    pub rvacfg: u64,
    pub cpuid: u64,
    pub prcfg1: u64,
    pub prcfg2: u64,
    pub prcfg3: u64,
    pub save: [u64; 8],
    pub tid: u64,
    pub cntc: u64,
    pub llbctl: u64,
    pub tlbrentry: u64,
    pub tlbrbadv: u64,
    pub tlbrera: u64,
    pub tlbrsave: u64,
    pub tlbrelo0: u64,
    pub tlbrelo1: u64,
    pub tlbrehi: u64,
    pub tlbrprmd: u64,
    pub dmw: [u64; 4],
}

/// Fields of `CRMD` (LoongArch Vol.1 7.4.1).
pub mod crmd {
    /// Privilege level.
    pub const PLV: u64 = 3;
    /// Interrupts are taken.
    pub const IE: u64 = 1 << 2;
    /// Addresses are physical.
    pub const DA: u64 = 1 << 3;
    /// Watchpoints are on.
    pub const WE: u64 = 1 << 9;
}

/// Fields of `PRMD`: `CRMD.PLV`, `IE` and `WE` of before an exception.
mod prmd {
    pub(super) const ALL: u64 = 0xf;
    pub(super) const PWE: u64 = 1 << 3;
}

/// `ESTAT.IS`: interrupts that are pending; the rest tells of the last exception.
const IS: u64 = 0xffff;
/// `ESTAT.IS` of the interrupts that software raises by writing it.
const SWI: u64 = 3;
/// `ECFG.LIE` and `ESTAT.IS` of the timer.
pub const TI: u64 = 1 << 11;
/// `ECFG.LIE`: interrupts that are taken.
const LIE: u64 = 0x1fff;

/// Registers that exist in memory only: every access to them traps (see `gspr`).
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the register of that name in the manual")]
pub struct Shadow {
    pub impctl1: u64,
    pub impctl2: u64,
    pub merrentry: u64,
    pub merrera: u64,
    pub merrsave: u64,
    pub ctag: u64,
    pub dera: u64,
    pub dsave: u64,
}

/// What all vCPUs of a guest have in common: the processor that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// `PRCFG1` to `PRCFG3`.
    pub prcfg: [u64; 3],
    /// `ASID.ASIDBITS`.
    pub asid_bits: u8,
    /// What CPUCFG shows.
    pub cpucfg: CpuCfg,
    /// Ticks of the counter in a second.
    pub hz: u64,
    /// Where the first vCPU finds its command line.
    pub command_line: Gpa,
}

/// `PRCFG1.SAVENum`.
const SAVE_NUM: u64 = 0xf;

impl Model {
    /// `PRCFG1` as a guest reads it: with as many SAVE registers as a guest has in hardware.
    fn prcfg1(&self) -> u64 {
        let most = core::mem::size_of_val(&Csr::default().save) as u64 / 8;
        self.prcfg[0] & !SAVE_NUM | (self.prcfg[0] & SAVE_NUM).min(most)
    }

    /// Bits of the timer (`PRCFG1.TimerBits` is one less).
    pub fn timer_bits(&self) -> u32 {
        (self.prcfg[0] >> 4 & 0xff) as u32 + 1
    }

    /// `STLBPS` at power-on: the smallest page, so that it is a size that the TLB has (`PRCFG2`).
    fn stlbps(&self) -> u64 {
        u64::from(self.prcfg[1].trailing_zeros() & 0x3f)
    }
}

impl Csr {
    /// Registers of vCPU `index` at power-on: physical addresses, PLV0, interrupts off.
    pub fn new(model: &Model, index: usize) -> Self {
        Self {
            crmd: crmd::DA,
            asid: u64::from(model.asid_bits) << 16,
            stlbps: model.stlbps(),
            cpuid: index as u64,
            prcfg1: model.prcfg1(),
            prcfg2: model.prcfg[1],
            prcfg3: model.prcfg[2],
            ..Self::default()
        }
    }

    /// Where an exception goes: the offset of its vector is or-ed into the base (LoongArch Vol.1 6.2.1). All
    /// have the same entry if `ECFG.VS` is zero.
    pub fn vector(&self, exception: Exception) -> u64 {
        let spacing = match self.ecfg >> 16 & 7 {
            0 => 0,
            vs => 4u64 << vs,
        };
        self.eentry | u64::from(exception.ecode) * spacing
    }
}

/// Where the answer to a call goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nowhere: a write to a chip made the call, and a write has no answer.
    #[default]
    Nowhere,
    /// To a0 and the registers behind it: the call was HVCL.
    Registers,
}

/// A vCPU's registers while it is not running.
#[derive(Debug)]
pub struct Guest {
    /// What moves at entry and exit.
    pub frame: Frame,
    /// What moves when it is loaded.
    pub csr: Csr,
    /// What only exists in memory.
    pub shadow: Shadow,
    /// Its number inside its guest.
    pub index: usize,
    /// The load under way.
    pub load: Option<Load>,
    /// Where the answer to the call under way goes.
    pub answer: Answer,
    /// The instruction that stopped it (`BADI` of the root), if it was one that has a word.
    pub word: u32,
    /// Its timer, while that is not in the hardware.
    pub timer: Timer,
    /// What the TLBs know it by.
    pub tag: Tag,
    /// The stable counter minus the guest's, ticks; the same for all vCPUs of a guest. `GCNTC` is its negative.
    pub counter_offset: u64,
    /// The processor it sees.
    pub model: Arc<Model>,
}

/// General registers by their names in the calling convention.
mod gpr {
    pub(super) const A0: u8 = 4;
    pub(super) const A1: u8 = 5;
    pub(super) const A2: u8 = 6;
}

impl Guest {
    /// Registers at power-on.
    pub fn new(index: usize, counter_offset: u64, model: Arc<Model>) -> Self {
        Self {
            frame: Frame::default(),
            csr: Csr::new(&model, index),
            shadow: Shadow::default(),
            index,
            load: None,
            answer: Answer::Nowhere,
            word: 0,
            timer: Timer::new(model.timer_bits()),
            tag: Tag::default(),
            counter_offset,
            model,
        }
    }

    /// Puts the registers back to power-on state, to start at `pc`. A vCPU that boots a kernel is given the
    /// address of the EFI system table, as Linux on LoongArch wants it; one that another vCPU starts gets 0.
    pub fn reset(&mut self, pc: Gpa, system_table: u64) {
        // With a fresh tag, so that it finds no translations of its former life in the TLBs.
        *self = Self::new(self.index, self.counter_offset, Arc::clone(&self.model));
        self.frame.pc = pc.0;
        if system_table != 0 {
            self.set_reg(gpr::A0, 1);
            self.set_reg(gpr::A1, self.model.command_line.0);
            self.set_reg(gpr::A2, system_table);
        }
    }

    /// General register `n`.
    pub fn reg(&self, n: u8) -> u64 {
        self.frame.r.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets general register `n`; a write to r0 vanishes.
    pub fn set_reg(&mut self, n: u8, value: u64) {
        if let (1.., Some(r)) = (n, self.frame.r.get_mut(usize::from(n))) {
            *r = value;
        }
    }

    /// Its privilege level, of which `csr` must be up to date.
    pub fn plv(&self) -> u64 {
        self.csr.crmd & crmd::PLV
    }

    /// Steps past the instruction that trapped.
    pub fn skip(&mut self) {
        self.frame.pc = self.frame.pc.wrapping_add(4);
    }

    /// The access to a device is complete; a load has a value. Steps past the instruction.
    pub fn finish_access(&mut self, value: Option<u64>) {
        if let (Some(load), Some(value)) = (self.load.take(), value) {
            self.set_reg(load.register, load.extend.fill(value, load.width));
        }
        self.skip();
    }

    /// Raises an exception inside the guest. The registers of the guest must be in memory (see `cpu`, which
    /// brings the few that matter up to date for a loaded guest).
    pub fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Undefined => self.raise(Exception::INE, None, Some(self.word)),
            Fault::Fetch(at) => self.raise(Exception::ADEF, Some(at), None),
            Fault::Load(at) | Fault::Store(at) => self.raise(Exception::ADEM, Some(at), Some(self.word)),
        }
    }

    /// Takes `exception` at the program counter, with a new `BADV` and `BADI` where it has them (LoongArch
    /// Vol.1 6.2.3). Whether addresses are translated does not change.
    pub fn raise(&mut self, exception: Exception, badv: Option<Gpa>, badi: Option<u32>) {
        let csr = &mut self.csr;
        let old = csr.crmd;
        let was = old & (crmd::PLV | crmd::IE) | if old & crmd::WE != 0 { prmd::PWE } else { 0 };
        csr.prmd = csr.prmd & !prmd::ALL | was;
        csr.crmd = old & !(crmd::PLV | crmd::IE | crmd::WE);
        csr.estat = csr.estat & IS | exception.to_estat();
        csr.era = self.frame.pc;
        if let Some(at) = badv {
            csr.badv = at.0;
        }
        if let Some(word) = badi {
            csr.badi = u64::from(word);
        }
        self.frame.pc = csr.vector(exception);
        self.load = None;
        self.answer = Answer::Nowhere;
    }

    /// Time on the guest's counter at `now`, without what the guest itself adds (`CNTC`).
    pub fn counter(&self, now: Ticks) -> u64 {
        now.0.wrapping_sub(self.counter_offset)
    }

    /// Takes over the timer as it was in the hardware just before `now`.
    pub fn save_timer(&mut self, registers: Registers, now: Ticks) {
        self.timer.save(registers, now);
    }

    /// Returns what the timer's registers hold at `now`; `csr` then has its interrupt.
    pub fn load_timer(&mut self, now: Ticks) -> Registers {
        let registers = self.timer.restore(now);
        self.csr.estat = self.csr.estat & !TI | if registers.ti { TI } else { 0 };
        registers
    }

    /// Whether an interrupt is pending at `now` that wakes it, while it is not loaded. `lines` are the bits of
    /// `ESTAT.IS` that its chips drive: those in `csr` may be out of date. `CRMD.IE` does not matter to IDLE.
    pub fn wakes(&self, lines: u64, now: Ticks) -> bool {
        let timer = if self.timer.pending(now) { TI } else { 0 };
        (self.csr.estat & SWI | lines & !(SWI | TI) | timer) & self.csr.ecfg & LIE != 0
    }
}

impl kernel::arch::Guest for Guest {
    fn reset(&mut self, pc: Gpa, arg: u64) {
        self.reset(pc, arg);
    }

    fn finish_load(&mut self, value: u64) {
        self.finish_access(Some(value));
    }

    fn finish_store(&mut self) {
        self.finish_access(None);
    }

    fn finish_call(&mut self, reply: Reply) {
        if core::mem::take(&mut self.answer) == Answer::Registers {
            hypercall::reply(reply, &mut self.frame);
        }
    }

    fn emulated_deadline(&self) -> Option<Ticks> {
        // The hardware runs the timer of a loaded guest.
        None
    }

    fn deadline(&self) -> Option<Ticks> {
        self.timer.deadline().filter(|_| self.csr.ecfg & TI != 0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
