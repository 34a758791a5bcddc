//! A vCPU's registers while it is not running, and what the portable core may do to them.

use arch_common::access::Load;
use kernel::addr::{Gpa, Ticks};
use kernel::arch::{Fault, Reply};

use crate::insn::{Next, Rest};
use crate::smccc;
use crate::vgic::Interface;

/// What moves at every entry and exit. The assembly in `switch` knows the offsets of `x` and, by
/// `offset_of!`, of `pc`; `pstate` follows `pc`.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Frame {
    /// General registers x0 to x30.
    pub x: [u64; 31],
    /// Where the guest goes on (`ELR_EL2`).
    pub pc: u64,
    /// Its processor state (`SPSR_EL2`).
    pub pstate: u64,
}

/// EL1 and EL0 system registers, moved when a vCPU is loaded or unloaded.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the register of that name in the Arm ARM")]
pub struct Sys {
    pub sp_el0: u64,
    pub sp_el1: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el1: u64,
    pub sctlr_el1: u64,
    pub cpacr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub tcr_el1: u64,
    pub mair_el1: u64,
    pub amair_el1: u64,
    pub vbar_el1: u64,
    pub contextidr_el1: u64,
    pub esr_el1: u64,
    pub far_el1: u64,
    pub afsr0_el1: u64,
    pub afsr1_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub par_el1: u64,
    pub cntkctl_el1: u64,
    pub csselr_el1: u64,
    pub cntv_ctl: u64,
    pub cntv_cval: u64,
    /// PAuth keys: IA, IB, DA, DB, GA, each low half first.
    pub keys: [u64; 10],
}

/// Registers that exist in memory only: every access to them traps.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// `MDSCR_EL1`: kept so that a guest reads back what it wrote; debug exceptions never occur.
    pub mdscr_el1: u64,
    /// `CNTP_CTL_EL0` without ISTATUS, which is computed.
    pub cntp_ctl: u64,
    /// `CNTP_CVAL_EL0`. A guest sees the physical counter as it is.
    pub cntp_cval: u64,
    /// `OSLSR_EL1.OSLK`.
    pub os_lock: u64,
}

/// Exception classes used when an exception is raised inside the guest (`ESR_ELx.EC`, DDI0487 D24.2.40).
mod class {
    pub(super) const UNKNOWN: u64 = 0x00;
    pub(super) const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub(super) const INSTRUCTION_ABORT_SAME: u64 = 0x21;
    pub(super) const DATA_ABORT_LOWER: u64 = 0x24;
    pub(super) const DATA_ABORT_SAME: u64 = 0x25;
}

/// `ESR_ELx.IL`: the instruction was 32 bits long.
const IL: u64 = 1 << 25;
/// `ESR_ELx.ISS.DFSC`/`IFSC`: synchronous external abort, not on a walk.
const EXTERNAL_ABORT: u64 = 0x10;
/// `ESR_ELx.ISS.WnR` of a data abort.
const WRITE: u64 = 1 << 6;

/// `PSTATE` bits (`SPSR_EL2`, DDI0487 C5.2.19).
pub mod pstate {
    /// AArch32 state.
    pub const AARCH32: u64 = 1 << 4;
    /// Exception level field and stack selection.
    pub const MODE: u64 = 0xf;
    /// EL1 using SP_EL1.
    pub const EL1H: u64 = 5;
    /// EL1 using SP_EL0.
    pub const EL1T: u64 = 4;
    /// EL0.
    pub const EL0T: u64 = 0;
    /// D, A, I and F masked.
    pub const DAIF: u64 = 0xf << 6;
    /// Branch type of the last indirect branch (FEAT_BTI).
    pub const BTYPE: u64 = 3 << 10;
    /// Speculative store bypass safe (FEAT_SSBS).
    pub const SSBS: u64 = 1 << 12;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// User access override.
    pub const UAO: u64 = 1 << 23;
    /// Condition flags.
    pub const NZCV: u64 = 0xf << 28;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
}

/// `SCTLR_EL1` at power-on: MMU and caches off, little endian, RES1 bits of Armv8.0.
const SCTLR_RESET: u64 = 0x30d0_0800;
/// `SCTLR_EL1.SPAN` and `.DSSBS`: what exception entry does to PAN and SSBS.
const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;

/// The work left over when an instruction makes several accesses or writes its base register back.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// The load under way.
    pub load: Option<Load>,
    /// What follows the access under way.
    pub more: Option<Rest>,
    /// The access to make before the guest runs again.
    pub next: Option<Next>,
}

/// A vCPU's registers while it is not running.
#[derive(Debug)]
pub struct Guest {
    /// What moves at entry and exit.
    pub frame: Frame,
    /// What moves when it is loaded.
    pub sys: Sys,
    /// What only exists in memory.
    pub shadow: Shadow,
    /// Its interrupt interface.
    pub gic: Interface,
    /// Its number inside its guest.
    pub index: usize,
    /// `MPIDR_EL1` as it reads it.
    pub mpidr: u64,
    /// What the instruction that trapped still has to do.
    pub pending: Pending,
    /// Physical counter minus virtual counter (`CNTVOFF_EL2`), ticks; the same for all vCPUs of a guest.
    pub counter_offset: u64,
    /// Whether the line of the physical timer is up.
    pub physical_line: bool,
}

/// `MPIDR_EL1` of vCPU `index`: 16 per cluster, as SGI target lists hold 16 (RES1 bit 31).
pub const fn mpidr(index: usize) -> u64 {
    1 << 31 | (index as u64 / 16) << 8 | index as u64 % 16
}

/// The vCPU whose affinity `hardware` is, if it is in the form that [`mpidr`] gives.
pub const fn index_of(hardware: u64) -> Option<usize> {
    // Everything but Aff1 and the low half of Aff0 is zero in ours, and reserved bits are zero in anybody's.
    if hardware & !0xff0f != 0 {
        return None;
    }
    Some(((hardware >> 8) * 16 + (hardware & 0xf)) as usize)
}

impl Guest {
    /// Registers at power-on: EL1, interrupts masked, MMU off.
    pub fn new(index: usize, counter_offset: u64) -> Self {
        let mut guest = Self {
            frame: Frame::default(),
            sys: Sys::default(),
            shadow: Shadow::default(),
            gic: Interface::default(),
            index,
            mpidr: mpidr(index),
            pending: Pending::default(),
            counter_offset,
            physical_line: false,
        };
        guest.reset(Gpa(0), 0);
        guest
    }

    /// Puts the registers back to power-on state, to start at `pc` with `arg` in x0.
    pub fn reset(&mut self, pc: Gpa, arg: u64) {
        self.frame = Frame { x: [0; 31], pc: pc.0, pstate: pstate::EL1H | pstate::DAIF };
        self.frame.x[0] = arg;
        self.sys = Sys { sctlr_el1: SCTLR_RESET, ..Sys::default() };
        self.shadow = Shadow::default();
        self.gic = Interface::default();
        self.pending = Pending::default();
        self.physical_line = false;
    }

    /// General register `n`; 31 is the zero register.
    pub fn gpr(&self, n: u8) -> u64 {
        self.frame.x.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets general register `n`; a write to 31 vanishes.
    pub fn set_gpr(&mut self, n: u8, value: u64) {
        if let Some(x) = self.frame.x.get_mut(usize::from(n)) {
            *x = value;
        }
    }

    /// Steps past the instruction that trapped.
    pub fn skip(&mut self) {
        self.frame.pc = self.frame.pc.wrapping_add(4);
        self.frame.pstate &= !(pstate::BTYPE | pstate::SS);
    }

    /// One access to a device is complete; a load has a value. Steps past the instruction with its last one.
    pub fn finish_access(&mut self, value: Option<u64>) {
        if let (Some(load), Some(value)) = (self.pending.load.take(), value) {
            self.set_gpr(load.register, load.extend.fill(value, load.width));
        }
        match self.pending.more.take() {
            Some(Rest { second: Some(next), write_back }) => {
                self.pending.next = Some(next);
                self.pending.more = Some(Rest { second: None, write_back });
            }
            rest => {
                if let Some(change) = rest.and_then(|rest| rest.write_back) {
                    let base = self.gpr(change.register);
                    self.set_gpr(change.register, base.wrapping_add_signed(change.add));
                }
                self.skip();
            }
        }
    }

    /// Raises an exception inside the guest. The registers of EL1 must be in memory (see `cpu`, which
    /// brings the few that matter up to date for a loaded guest).
    pub fn inject(&mut self, fault: Fault) {
        let user = self.frame.pstate & pstate::MODE == pstate::EL0T;
        let iss = match fault {
            Fault::Undefined => class::UNKNOWN << 26 | IL,
            Fault::Fetch(at) => {
                self.sys.far_el1 = at.0;
                let class = if user { class::INSTRUCTION_ABORT_LOWER } else { class::INSTRUCTION_ABORT_SAME };
                class << 26 | IL | EXTERNAL_ABORT
            }
            Fault::Load(at) | Fault::Store(at) => {
                self.sys.far_el1 = at.0;
                let class = if user { class::DATA_ABORT_LOWER } else { class::DATA_ABORT_SAME };
                let write = if matches!(fault, Fault::Store(_)) { WRITE } else { 0 };
                class << 26 | IL | EXTERNAL_ABORT | write
            }
        };
        self.raise(iss);
    }

    /// Takes a synchronous exception to EL1 with syndrome `esr` (DDI0487 D1.3.2).
    pub fn raise(&mut self, esr: u64) {
        let old = self.frame.pstate;
        let vector = match old & (pstate::MODE | pstate::AARCH32) {
            pstate::EL1T => 0x000,
            pstate::EL1H => 0x200,
            mode if mode & pstate::AARCH32 != 0 => 0x600,
            _ => 0x400,
        };
        self.sys.esr_el1 = esr;
        self.sys.elr_el1 = self.frame.pc;
        self.sys.spsr_el1 = old;
        let mut new = old & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::EL1H | pstate::DAIF;
        if self.sys.sctlr_el1 & SCTLR_SPAN == 0 {
            new |= pstate::PAN;
        }
        if self.sys.sctlr_el1 & SCTLR_DSSBS != 0 {
            new |= pstate::SSBS;
        }
        self.frame.pstate = new;
        self.frame.pc = self.sys.vbar_el1.wrapping_add(vector);
        self.pending = Pending::default();
    }

    /// Time on the guest's counter at physical time `now`.
    pub fn counter(&self, now: Ticks) -> u64 {
        now.0.wrapping_sub(self.counter_offset)
    }

    /// When the guest's own timers next raise an interrupt, in physical ticks. Virtual: `CNTV`, which the
    /// hardware runs while the guest is loaded. Physical: `CNTP`, which is emulated.
    pub fn virtual_deadline(&self) -> Option<Ticks> {
        // ENABLE set and IMASK clear (CNTV_CTL_EL0). A compare value that the physical counter never
        // reaches is as good as none.
        let compare = self.sys.cntv_cval.checked_add(self.counter_offset);
        (self.sys.cntv_ctl & 3 == 1).then_some(compare).flatten().map(Ticks)
    }

    /// See [`Guest::virtual_deadline`].
    pub fn physical_deadline(&self) -> Option<Ticks> {
        (self.shadow.cntp_ctl & 3 == 1).then_some(Ticks(self.shadow.cntp_cval))
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
        smccc::reply(reply, &mut self.frame.x);
    }

    fn emulated_deadline(&self) -> Option<Ticks> {
        // Once its line is up, the timer needs no further attention until it is reprogrammed.
        self.physical_deadline().filter(|_| !self.physical_line)
    }

    fn deadline(&self) -> Option<Ticks> {
        match (self.virtual_deadline(), self.emulated_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
