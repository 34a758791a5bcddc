//! One physical CPU: loading a guest into it, running it, and finding out why it stopped.

use arch_common::access::{Extend, Transfer};
use kernel::addr::{CpuId, Gpa, Ticks};
use kernel::arch::{Cpu, Fault, Interrupt};
use kernel::exit::{Access, Crash, Exit, Kicks};
use spin::Once;

use crate::arch::Aarch64;
use crate::chips::GuestChips;
use crate::fp::{File, SIMD, SME, SVE};
use crate::fp_regs::Hardware;
use crate::gic::{self, CpuInterface, PPI_HYP_TIMER, PPI_MAINTENANCE, PPI_VIRTUAL_TIMER, SGI_KICK};
use crate::guest::{Guest, Pending, Sys, pstate};
use crate::insn::{self, Next, Rest};
use crate::psci;
use crate::regs::*;
use crate::smccc::{self, Service};
use crate::switch;
use crate::sysreg::{self, Outcome};
use crate::trap::{self, Abort, AbortKind, Deadline, Store, SysAccess, Trap, Wait, WaitKind};

/// Bytes of stack of each CPU.
pub const STACK_SIZE: usize = 64 << 10;

/// `CNTV_CTL_EL0`: enabled, not masked, condition met.
const TIMER_FIRING: u64 = 0b101;

/// Affinity (`MPIDR_EL1`) of every CPU, by number.
pub static AFFINITIES: Once<alloc::vec::Vec<u64>> = Once::new();

/// One physical CPU. It is made on it and stays there.
#[derive(Debug)]
pub struct ThisCpu {
    id: CpuId,
    hz: u64,
    gic: CpuInterface,
    fp: File<Hardware>,
    /// When the alarm is set for; none when it is off.
    alarm: Option<Ticks>,
    /// Whether PAuth keys are moved.
    keys: Keys,
    /// `VTTBR_EL2` of the guest loaded last, and which of its vCPUs that was.
    last: (u64, usize),
}

/// Whether guests have pointer authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The keys move with the vCPU.
    Switched,
    /// There are none.
    Absent,
}

impl ThisCpu {
    /// The CPU this runs on, its interrupt interface and FP registers taken over.
    pub fn new(id: CpuId, gic: CpuInterface, fp: File<Hardware>, keys: Keys) -> Self {
        CNTHP_CTL_EL2.set(0);
        Self { id, hz: CNTFRQ_EL0.get(), gic, fp, alarm: None, keys, last: (0, 0) }
    }

    /// Says whether guests have PAuth keys, once that is known of all CPUs.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// The guest loaded last is gone: nothing of it counts as still loaded.
    pub fn forget_guest(&mut self) {
        self.last = (0, 0);
    }

    /// Brings the guest's registers that exception entry reads up to date, raises the exception, and puts
    /// what it wrote into the hardware.
    fn raise(&mut self, guest: &mut Guest, raise: impl FnOnce(&mut Guest)) {
        guest.sys.vbar_el1 = VBAR_EL1.get();
        guest.sys.sctlr_el1 = SCTLR_EL1.get();
        guest.sys.far_el1 = FAR_EL1.get();
        raise(guest);
        ESR_EL1.set(guest.sys.esr_el1);
        FAR_EL1.set(guest.sys.far_el1);
        ELR_EL1.set(guest.sys.elr_el1);
        SPSR_EL1.set(guest.sys.spsr_el1);
    }

    fn undefined(&mut self, guest: &mut Guest) -> Exit {
        self.raise(guest, |guest| guest.inject(Fault::Undefined));
        Exit::Handled
    }

    /// What an exception from the guest was about.
    fn sync_exit(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        if guest.frame.pstate & pstate::AARCH32 != 0 {
            return Exit::Crash(Crash::IllegalState { state: guest.frame.pstate });
        }
        match trap::decode(ESR_EL2.get(), FAR_EL2.get(), HPFAR_EL2.get()) {
            Trap::Hvc(number) => self.call(guest, number),
            Trap::Smc(number) => {
                guest.skip();
                self.call(guest, number)
            }
            Trap::Data(abort) => self.data_abort(guest, chips, abort),
            Trap::Sysreg(access) => self.sysreg(guest, chips, access),
            Trap::Wait(wait) => self.wait_instruction(guest, chips, wait),
            Trap::Simd => Exit::Fp(SIMD),
            Trap::Sve => Exit::Fp(SVE),
            Trap::Sme => Exit::Fp(SME),
            Trap::Fetch(abort) => self.fetch_abort(guest, chips, abort),
            Trap::Other(_) => self.undefined(guest),
        }
    }

    fn call(&mut self, guest: &mut Guest, number: u16) -> Exit {
        match smccc::decode(number, &guest.frame.x) {
            Service::Answer(value) => {
                guest.frame.x[0] = value;
                Exit::Handled
            }
            Service::Suspend => {
                guest.frame.x[0] = 0;
                Exit::Idle(None)
            }
            Service::Core(call) => Exit::Call(call),
        }
    }

    fn wait_instruction(&mut self, guest: &mut Guest, chips: &GuestChips, wait: Wait) -> Exit {
        let register = match wait.deadline {
            Deadline::None => None,
            Deadline::Register(register) => Some(register),
            Deadline::InInstruction => {
                let word = guest_address(guest.frame.pc).and_then(|at| chips.read_word(Gpa(at)));
                let Some(word) = word else {
                    // Its code vanished under it: as if the deadline had passed.
                    guest.skip();
                    return Exit::Handled;
                };
                Some((word & 0x1f) as u8)
            }
        };
        guest.skip();
        match wait.kind {
            WaitKind::Interrupt => Exit::Idle(
                register.map(|register| Ticks(guest.gpr(register).wrapping_add(guest.counter_offset))),
            ),
            WaitKind::Event => Exit::Handled,
        }
    }

    fn sysreg(&mut self, guest: &mut Guest, chips: &GuestChips, access: SysAccess) -> Exit {
        match sysreg::access(guest, chips.ids(), self.now(), access) {
            Outcome::Value(value) => guest.set_gpr(access.rt, value),
            Outcome::Done => {}
            Outcome::Sgi(value) => {
                guest.skip();
                return Exit::Ring(chips.sgi(guest.index, value));
            }
            Outcome::Timer => {
                guest.skip();
                return Exit::Timer;
            }
            Outcome::Sme => return Exit::Fp(SME),
            Outcome::Undefined => return self.undefined(guest),
        }
        guest.skip();
        Exit::Handled
    }

    fn fetch_abort(&mut self, guest: &mut Guest, chips: &GuestChips, abort: Abort) -> Exit {
        let vbar = VBAR_EL1.get();
        let faulting = guest.frame.pc;
        // An exception whose vector cannot be fetched would be raised again for ever.
        if faulting & !0x7ff == vbar & !0x7ff && guest_address(vbar).is_none_or(|gpa| !chips.is_ram(Gpa(gpa)))
        {
            return Exit::Crash(Crash::NoVector { at: Gpa(vbar) });
        }
        self.raise(guest, |guest| guest.inject(Fault::Fetch(Gpa(abort.va))));
        Exit::Handled
    }

    fn data_abort(&mut self, guest: &mut Guest, chips: &GuestChips, abort: Abort) -> Exit {
        let fault = match abort.store {
            Store::Yes => Fault::Store(Gpa(abort.va)),
            Store::No => Fault::Load(Gpa(abort.va)),
        };
        let gpa = match (abort.kind, abort.gpa) {
            (AbortKind::Access, Some(gpa)) => gpa,
            (AbortKind::CacheMaintenance, _) => {
                // There is no cache over what is not memory.
                guest.skip();
                return Exit::Handled;
            }
            _ => {
                self.raise(guest, |guest| guest.inject(fault));
                return Exit::Handled;
            }
        };
        let transfer = match abort.access {
            Some(transfer) => transfer,
            None => match self.decode_instruction(guest, chips, gpa, Gpa(abort.va)) {
                Some(transfer) => transfer,
                None => {
                    self.raise(guest, |guest| guest.inject(fault));
                    return Exit::Handled;
                }
            },
        };
        self.device(guest, chips, transfer, gpa, Gpa(abort.va))
    }

    /// Decodes the instruction at the program counter; what it does beyond its first access is noted.
    fn decode_instruction(
        &mut self,
        guest: &mut Guest,
        chips: &GuestChips,
        gpa: Gpa,
        va: Gpa,
    ) -> Option<Transfer> {
        let at = guest_address(guest.frame.pc)?;
        let decoded = insn::decode(chips.read_word(Gpa(at))?)?;
        let second = match decoded.second {
            Some(second) => {
                let width = u64::from(decoded.first.width());
                let at = Gpa(gpa.0 + width);
                // A pair that runs over the end of a page may continue anywhere.
                if at.0 >> 12 != gpa.0 >> 12 {
                    return None;
                }
                Some(Next { transfer: second, at, va: Gpa(va.0.wrapping_add(width)) })
            }
            None => None,
        };
        guest.pending.more = Some(Rest { second, write_back: decoded.write_back });
        Some(decoded.first)
    }

    /// Makes the access that is left of an instruction with two.
    #[cold]
    fn go_on(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        match guest.pending.next.take() {
            Some(Next { transfer, at, va }) => self.device(guest, chips, transfer, at, va),
            None => Exit::Handled,
        }
    }

    /// Makes one access to a device: the interrupt controller's are answered here, others by the core.
    fn device(
        &mut self,
        guest: &mut Guest,
        chips: &GuestChips,
        transfer: Transfer,
        at: Gpa,
        va: Gpa,
    ) -> Exit {
        let store = match transfer {
            Transfer::Store { register, width } => Some(Extend::Zero.fill(guest.gpr(register), width)),
            Transfer::Load(load) => {
                guest.pending.load = Some(load);
                None
            }
        };
        let width = transfer.width();
        // Pending and active state of this vCPU is in its list registers until it is taken back.
        let moved = if GuestChips::shows_state(at) { self.refresh(guest, chips) } else { Kicks::NONE };
        match chips.access(at, width, store) {
            None => Exit::Mmio(Access { at, va, width, store }),
            Some((value, kicks)) => {
                let kicks = kicks | moved;
                guest.finish_access(store.is_none().then_some(value));
                if kicks == Kicks::NONE { Exit::Handled } else { Exit::Ring(kicks) }
            }
        }
    }
}

impl Cpu<Aarch64> for ThisCpu {
    fn id(&self) -> CpuId {
        self.id
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    #[inline]
    fn now(&self) -> Ticks {
        now()
    }

    fn alarm(&mut self, when: Option<Ticks>) {
        if self.alarm == when {
            return;
        }
        self.alarm = when;
        match when {
            Some(Ticks(at)) => {
                CNTHP_CVAL_EL2.set(at);
                CNTHP_CTL_EL2.set(1);
            }
            None => CNTHP_CTL_EL2.set(0),
        }
    }

    fn load(&mut self, guest: &mut Guest, chips: &GuestChips) -> Kicks {
        let vttbr = chips.vttbr();
        let last = core::mem::replace(&mut self.last, (vttbr, guest.index));
        if last.0 != vttbr {
            VTTBR_EL2.set(vttbr);
            CNTVOFF_EL2.set(guest.counter_offset);
        }
        if last != self.last && chips.ran_here(self.id, guest.index) {
            isb();
            invalidate_local_stage1();
        }
        HCR_EL2.set(chips.hcr());
        VMPIDR_EL2.set(guest.mpidr);
        load_sys(&guest.sys, self.keys);
        let kicks = chips.reload(guest, &mut self.gic);
        self.gic.load(&guest.gic);
        self.gic.write_lists(&guest.gic);
        kicks
    }

    fn unload(&mut self, guest: &mut Guest, _: &GuestChips) {
        store_sys(&mut guest.sys, self.keys);
        CNTV_CTL_EL0.set(0);
        self.gic.unload(&mut guest.gic);
    }

    fn refresh(&mut self, guest: &mut Guest, chips: &GuestChips) -> Kicks {
        self.gic.read_lists(&mut guest.gic);
        let firing = CNTV_CTL_EL0.get() & 0b111 == TIMER_FIRING;
        let kicks = chips.refresh(guest, firing, &mut self.gic);
        self.gic.write_lists(&guest.gic);
        kicks
    }

    fn wants_interrupt(&mut self, guest: &mut Guest, chips: &GuestChips) -> bool {
        chips.has_deliverable(guest)
    }

    #[inline]
    fn enter(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        if guest.pending.next.is_some() {
            return self.go_on(guest, chips);
        }
        // SAFETY: 1. the core calls this between `load` and `unload` of this guest, which put its registers,
        // stage 2 and list registers in place. 2. `load` set HCR_EL2 with IMO, FMO and AMO, and the vectors were
        // installed when this CPU started. 3. `guest` is borrowed for the whole call.
        let why = unsafe { switch::enter(&raw mut guest.frame) };
        match why {
            switch::SYNC => self.sync_exit(guest, chips),
            switch::IRQ => Exit::Interrupt,
            _ => Exit::Crash(Crash::SystemError { syndrome: ESR_EL2.get() }),
        }
    }

    fn inject(&mut self, guest: &mut Guest, fault: Fault) {
        guest.pending = Pending::default();
        self.raise(guest, |guest| guest.inject(fault));
    }

    #[inline]
    fn fp(&mut self) -> &mut File<Hardware> {
        &mut self.fp
    }

    fn take_interrupt(&mut self) -> Option<Interrupt> {
        Some(match self.gic.take()? {
            SGI_KICK => Interrupt::Kick,
            PPI_VIRTUAL_TIMER => Interrupt::GuestTimer,
            PPI_HYP_TIMER => {
                // Level-sensitive: off until the next alarm is set.
                CNTHP_CTL_EL2.set(0);
                self.alarm = None;
                Interrupt::Alarm
            }
            PPI_MAINTENANCE => Interrupt::Lists,
            line => Interrupt::Line(line),
        })
    }

    fn kick(&mut self, other: CpuId) {
        kick(other);
    }

    fn wait(&mut self) {
        wfi();
    }

    fn power_off(&mut self) -> ! {
        psci::system_off()
    }
}

/// Interrupts a CPU, from one that has been set up.
pub fn kick(cpu: CpuId) {
    if let Some(mpidr) = AFFINITIES.get().and_then(|all| all.get(cpu.0)) {
        gic::kick(*mpidr);
    }
}

/// The time: the physical counter.
#[inline]
pub fn now() -> Ticks {
    Ticks(CNTPCT_EL0.get())
}

/// Puts a vCPU's system registers into the hardware. Not inlined: with `sys` as the base of their addresses, the
/// values are moved two at a time.
#[inline(never)]
fn load_sys(sys: &Sys, keys: Keys) {
    SP_EL0.set(sys.sp_el0);
    SP_EL1.set(sys.sp_el1);
    TPIDR_EL0.set(sys.tpidr_el0);
    TPIDRRO_EL0.set(sys.tpidrro_el0);
    TPIDR_EL1.set(sys.tpidr_el1);
    SCTLR_EL1.set(sys.sctlr_el1);
    CPACR_EL1.set(sys.cpacr_el1);
    TTBR0_EL1.set(sys.ttbr0_el1);
    TTBR1_EL1.set(sys.ttbr1_el1);
    TCR_EL1.set(sys.tcr_el1);
    MAIR_EL1.set(sys.mair_el1);
    AMAIR_EL1.set(sys.amair_el1);
    VBAR_EL1.set(sys.vbar_el1);
    CONTEXTIDR_EL1.set(sys.contextidr_el1);
    ESR_EL1.set(sys.esr_el1);
    FAR_EL1.set(sys.far_el1);
    AFSR0_EL1.set(sys.afsr0_el1);
    AFSR1_EL1.set(sys.afsr1_el1);
    ELR_EL1.set(sys.elr_el1);
    SPSR_EL1.set(sys.spsr_el1);
    PAR_EL1.set(sys.par_el1);
    CNTKCTL_EL1.set(sys.cntkctl_el1);
    CSSELR_EL1.set(sys.csselr_el1);
    // The compare value first: enabling with an old one could fire at once.
    CNTV_CVAL_EL0.set(sys.cntv_cval);
    CNTV_CTL_EL0.set(sys.cntv_ctl & 3);
    if keys == Keys::Switched {
        APIAKEYLO_EL1.set(sys.keys[0]);
        APIAKEYHI_EL1.set(sys.keys[1]);
        APIBKEYLO_EL1.set(sys.keys[2]);
        APIBKEYHI_EL1.set(sys.keys[3]);
        APDAKEYLO_EL1.set(sys.keys[4]);
        APDAKEYHI_EL1.set(sys.keys[5]);
        APDBKEYLO_EL1.set(sys.keys[6]);
        APDBKEYHI_EL1.set(sys.keys[7]);
        APGAKEYLO_EL1.set(sys.keys[8]);
        APGAKEYHI_EL1.set(sys.keys[9]);
    }
}

/// Takes a vCPU's system registers out of the hardware. Not inlined, as [`load_sys`].
#[inline(never)]
fn store_sys(sys: &mut Sys, keys: Keys) {
    *sys = Sys {
        sp_el0: SP_EL0.get(),
        sp_el1: SP_EL1.get(),
        tpidr_el0: TPIDR_EL0.get(),
        tpidrro_el0: TPIDRRO_EL0.get(),
        tpidr_el1: TPIDR_EL1.get(),
        sctlr_el1: SCTLR_EL1.get(),
        cpacr_el1: CPACR_EL1.get(),
        ttbr0_el1: TTBR0_EL1.get(),
        ttbr1_el1: TTBR1_EL1.get(),
        tcr_el1: TCR_EL1.get(),
        mair_el1: MAIR_EL1.get(),
        amair_el1: AMAIR_EL1.get(),
        vbar_el1: VBAR_EL1.get(),
        contextidr_el1: CONTEXTIDR_EL1.get(),
        esr_el1: ESR_EL1.get(),
        far_el1: FAR_EL1.get(),
        afsr0_el1: AFSR0_EL1.get(),
        afsr1_el1: AFSR1_EL1.get(),
        elr_el1: ELR_EL1.get(),
        spsr_el1: SPSR_EL1.get(),
        par_el1: PAR_EL1.get(),
        cntkctl_el1: CNTKCTL_EL1.get(),
        csselr_el1: CSSELR_EL1.get(),
        cntv_cval: CNTV_CVAL_EL0.get(),
        cntv_ctl: CNTV_CTL_EL0.get(),
        keys: sys.keys,
    };
    if keys == Keys::Switched {
        sys.keys = [
            APIAKEYLO_EL1.get(),
            APIAKEYHI_EL1.get(),
            APIBKEYLO_EL1.get(),
            APIBKEYHI_EL1.get(),
            APDAKEYLO_EL1.get(),
            APDAKEYHI_EL1.get(),
            APDBKEYLO_EL1.get(),
            APDBKEYHI_EL1.get(),
            APGAKEYLO_EL1.get(),
            APGAKEYHI_EL1.get(),
        ];
    }
}
