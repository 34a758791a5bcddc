//! One physical CPU: loading a guest into it, running it, and finding out why it stopped.

use core::ops::RangeInclusive;
use core::ptr;

use arch_common::access::{Extend, Transfer};
use arch_common::mmio::Mmio;
use kernel::addr::{CpuId, Gpa, Ticks};
use kernel::arch::{Cpu, Fault, Interrupt};
use kernel::exit::{Access, Call, Crash, Exit, Kicks};
use kernel::fp::Units;
use spin::Once;

use crate::arch::Loongarch64;
use crate::chips::{Device, GuestChips};
use crate::csr::*;
use crate::fp::File;
use crate::fp_regs::Hardware;
use crate::gid::{Choice, Gids};
use crate::gspr::{self, Direction, Gspr};
use crate::guest::{Answer, Frame, Guest, TI};
use crate::hypercall::{self, Service};
use crate::insn;
use crate::iocsr::Own;
use crate::irqchip::{Ipi, IrqChip};
use crate::lvz::{self, GBADI, GBADV, GCRMD, GECFG, GEENTRY, GERA, GESTAT, GPRMD, GTCFG, GTVAL};
use crate::switch;
use crate::trap::{self, Exception, Memory, Trap};
use crate::vintc::Front;

/// `ESTAT` fields of an exception: Ecode and EsubCode.
const ESTAT_CODES: u64 = 0x7fff << 16;
/// `ESTAT.IS` of the hardware lines.
const HWI: u64 = 0xff << interrupt::HWI0;
/// The most that the vectors of a guest take, in bytes: 64 exceptions and 16 interrupts of 512 bytes (`ECFG.VS` = 7).
const VECTORS: u64 = 80 * 512;

/// How often a guest's timer is put into the hardware until it took less than this part of a second.
const TIMER_ATTEMPTS: u32 = 4;
const TIMER_SLACK: u64 = 10_000;

/// The chips that bring the interrupts of devices.
pub type Chip = IrqChip<Own, Mmio>;

/// The hardware's number of every CPU (`CPUID.CoreID`), by number.
pub static CORES: Once<alloc::vec::Vec<u32>> = Once::new();

/// One physical CPU. It is made on it and stays there.
#[derive(Debug)]
pub struct ThisCpu {
    id: CpuId,
    hz: u64,
    /// How late a guest's timer may be, ticks.
    timer_slack: u64,
    fp: File<Hardware>,
    gids: Gids,
    /// Where the interrupts of devices come from, on the CPU that handles them.
    chip: Option<Chip>,
    /// When the alarm is set for; none when it is off.
    alarm: Option<Ticks>,
    /// What `PGDL` and `GCNTC` are set for: stage 2 and zero of time of the guest that was loaded last.
    world: (u64, u64),
    /// Whether a guest's registers are in the hardware.
    loaded: Loaded,
    quick: Quick,
}

/// Whether a guest's registers are in the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    Nobody,
    Somebody,
}

/// Why a guest stopped.
enum Visit {
    /// It touched units that the root's `EUEN` keeps closed.
    Fp(Units),
    /// [`quick`] dealt with it, but these vCPUs have to be rung for.
    Rung(Kicks),
    /// An exception with this `ESTAT`.
    Other(u64),
}

/// What [`quick`] works on.
#[derive(Debug)]
pub struct Quick {
    /// The chips of the guest that was loaded last, and what of them concerns its vCPU.
    chips: *const GuestChips,
    front: *const Front,
    /// Its number.
    index: usize,
    /// The lines of its chips as it has them.
    shown: u64,
    /// How many exits were dealt with since it was entered last.
    handled: u64,
    /// Whom it could not ring for; nobody, outside of [`ThisCpu::enter`].
    kicks: Kicks,
}

impl Quick {
    #[inline]
    fn show(&mut self, lines: u64) {
        let changed = lines ^ self.shown;
        if changed == 0 {
            return;
        }
        self.shown = lines;
        if changed & HWI != 0 {
            GINTC.set((lines & HWI) >> interrupt::HWI0);
        }
        if changed & 1 << interrupt::IPI != 0 {
            lvz::change_estat(1 << interrupt::IPI, lines);
        }
    }
}

/// The general registers that are loaded anew when a guest goes on after [`quick`], but for ra and sp: a0 to t8.
const TEMPORARIES: RangeInclusive<usize> = 4..=20;

/// Deals with what every interrupt between vCPUs takes: an access to a whole register of the IPI. Returns 1 if the guest can
/// go on, with tp, r21, fp and s0 to s8 as they are; 0 if it is something else, something about it is unusual, or somebody has to be
/// rung for.
///
/// # Safety
/// 1. The exception entry calls it, for a GSPR of the guest that [`switch::enter`] runs, with the arguments of that.
/// 2. `chips` and `front` in `state` are valid, and those of that guest.
pub unsafe extern "C" fn quick(frame: *mut Frame, state: *mut Quick) -> u64 {
    // SAFETY: the caller's promise: whoever called `enter` lent it both until it returns.
    let (frame, state) = unsafe { (&mut *frame, &mut *state) };
    // SAFETY: the caller's promise. Both are shared by all vCPUs and never borrowed mutably.
    let (chips, front) = unsafe { (&*state.chips, &*state.front) };
    let Some((direction, rd, rj)) = gspr::iocsr_word(BADI.get() as u32) else { return 0 };
    if GCRMD.get() & 3 != 0 {
        return 0;
    }
    let (rd, at) = (usize::from(rd & 31), frame.r[usize::from(rj & 31)]);
    if direction == Direction::Read {
        if !TEMPORARIES.contains(&rd) {
            return 0;
        }
        let Some(value) = front.load(at) else { return 0 };
        frame.r[rd] = i64::from(value as i32) as u64;
    } else {
        let Some(mut kicks) = chips.ipi_store(state.index, at, frame.r[rd] as u32) else { return 0 };
        state.show(front.lines());
        kicks.take(state.index);
        if !kicks.is_empty() {
            frame.pc = frame.pc.wrapping_add(4);
            state.kicks = kicks;
            return 0;
        }
    }
    frame.pc = frame.pc.wrapping_add(4);
    state.handled += 1;
    1
}

impl ThisCpu {
    /// The CPU this runs on, its FP registers taken over. `chip` is for the CPU that handles devices.
    pub fn new(id: CpuId, hz: u64, fp: File<Hardware>, chip: Option<Chip>) -> Self {
        let bits = GSTAT.get() >> gstat::GIDBIT_SHIFT & 0x3f;
        Self {
            id,
            hz,
            timer_slack: hz / TIMER_SLACK,
            fp,
            gids: Gids::new(bits as u32),
            chip,
            alarm: None,
            // No guest has its tables there.
            world: (0, 0),
            loaded: Loaded::Nobody,
            quick: Quick {
                chips: ptr::null(),
                front: ptr::null(),
                index: 0,
                shown: 0,
                handled: 0,
                kicks: Kicks::NONE,
            },
        }
    }

    /// Shows the loaded guest the lines of its chips.
    #[inline]
    fn show(&mut self, lines: u64) {
        self.quick.show(lines);
    }

    /// Brings the guest's registers that exception entry reads up to date, raises the exception, and puts what it
    /// wrote into the hardware.
    fn raise(&mut self, guest: &mut Guest, raise: impl FnOnce(&mut Guest)) {
        guest.csr.crmd = GCRMD.get();
        guest.csr.prmd = GPRMD.get();
        guest.csr.ecfg = GECFG.get();
        guest.csr.eentry = GEENTRY.get();
        guest.csr.badv = GBADV.get();
        guest.csr.badi = GBADI.get();
        raise(guest);
        GCRMD.set(guest.csr.crmd);
        GPRMD.set(guest.csr.prmd);
        GERA.set(guest.csr.era);
        GBADV.set(guest.csr.badv);
        GBADI.set(guest.csr.badi);
        lvz::change_estat(ESTAT_CODES, guest.csr.estat);
    }

    fn fault(&mut self, guest: &mut Guest, fault: Fault) -> Exit {
        self.raise(guest, |guest| guest.inject(fault));
        Exit::Handled
    }

    /// Runs the loaded guest until something stops it that [`quick`] does not deal with.
    #[inline(always)]
    fn visit(&mut self, guest: &mut Guest) -> Visit {
        // SAFETY: 1. between `load` and `unload` of this guest, which put its registers, identifier and stage 2 in place and
        // set PVM. 2. The vectors were installed when this CPU started, and `SAVE5` is zero outside this call. 3. `guest`,
        // `self` and, by `enter`, the chips that `load` noted are borrowed for the whole call.
        let estat = unsafe { switch::enter(&raw mut guest.frame, &raw mut self.quick) };
        if !self.quick.kicks.is_empty() {
            return Visit::Rung(core::mem::take(&mut self.quick.kicks));
        }
        match trap::fp(estat) {
            Some(units) => Visit::Fp(units),
            None => Visit::Other(estat),
        }
    }

    /// Deals with an exception from the guest, and with those that follow, until one is not for this module. Not inlined:
    /// what each kind computes with would be made ready at each turn.
    #[inline(never)]
    fn go_on(&mut self, guest: &mut Guest, chips: &GuestChips, mut estat: u64) -> Exit {
        loop {
            match self.exit(guest, chips, estat) {
                Exit::Handled => self.quick.handled += 1,
                exit => return exit,
            }
            estat = match self.visit(guest) {
                Visit::Fp(units) => return Exit::Fp(units),
                Visit::Rung(kicks) => return Exit::Ring(kicks),
                Visit::Other(estat) => estat,
            };
        }
    }

    /// What an exception from the guest was about.
    #[inline(always)]
    fn exit(&mut self, guest: &mut Guest, chips: &GuestChips, estat: u64) -> Exit {
        match trap::decode(estat) {
            Trap::Interrupt => Exit::Interrupt,
            Trap::Hypercall => self.call(guest),
            Trap::Gspr => self.gspr(guest, chips),
            Trap::Memory(memory) => self.memory(guest, chips, memory),
            Trap::Fp(units) => Exit::Fp(units),
            Trap::Changed => Exit::Handled,
            Trap::Other(exception) => self.other(guest, exception),
        }
    }

    /// An exception that is not the root's business is the guest's, as if the hardware had given it to it.
    #[cold]
    fn other(&mut self, guest: &mut Guest, exception: Exception) -> Exit {
        let (badv, badi) = (BADV.get(), BADI.get() as u32);
        self.raise(guest, |guest| guest.raise(exception, Some(Gpa(badv)), Some(badi)));
        Exit::Handled
    }

    fn call(&mut self, guest: &mut Guest) -> Exit {
        guest.skip();
        match hypercall::decode(BADI.get() as u32, &guest.frame) {
            Service::Answer(value) => {
                guest.set_reg(4, value);
                Exit::Handled
            }
            Service::Core(call) => {
                guest.answer = Answer::Registers;
                Exit::Call(call)
            }
        }
    }

    /// An instruction or register that a guest does not have in hardware.
    fn gspr(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        guest.word = BADI.get() as u32;
        let Some(instruction) = gspr::decode(guest.word) else {
            return self.fault(guest, Fault::Undefined);
        };
        if GCRMD.get() & 3 > instruction.lowest() {
            let word = guest.word;
            self.raise(guest, |guest| guest.raise(Exception::IPE, None, Some(word)));
            return Exit::Handled;
        }
        match instruction {
            Gspr::Iocsr(access) => return self.iocsr(guest, chips, access),
            Gspr::Idle => {
                guest.skip();
                return Exit::Idle(None);
            }
            Gspr::Cpucfg { rd, rj } => gspr::cpucfg(guest, rd, rj),
            Gspr::Csr(access) => gspr::csr(guest, access),
            Gspr::Cacop => {}
            Gspr::Dbcl => return self.fault(guest, Fault::Undefined),
        }
        guest.skip();
        Exit::Handled
    }

    fn iocsr(&mut self, guest: &mut Guest, chips: &GuestChips, access: gspr::Iocsr) -> Exit {
        let outcome = chips.iocsr(guest.index, access.at(guest), access.width, access.store(guest));
        access.finish(guest, outcome.value);
        guest.skip();
        self.show(chips.lines(guest.index));
        if let Some(start) = outcome.start {
            // Its answer is nowhere: a write to a chip has none.
            return Exit::Call(Call::CpuOn { vcpu: Some(start.vcpu), entry: Gpa(start.entry), arg: 0 });
        }
        Self::rung(guest, outcome.kicks)
    }

    /// Others than the vCPU itself, which was shown its lines, have news.
    fn rung(guest: &Guest, mut kicks: Kicks) -> Exit {
        kicks.take(guest.index);
        if kicks.is_empty() { Exit::Handled } else { Exit::Ring(kicks) }
    }

    /// An address that stage 2 does not give.
    fn memory(&mut self, guest: &mut Guest, chips: &GuestChips, memory: Memory) -> Exit {
        let gpa = Gpa(BADV.get());
        if memory == Memory::Fetch {
            return self.fetch(guest, chips);
        }
        guest.word = BADI.get() as u32;
        let Some(decoded) = insn::decode(guest.word) else {
            if insn::is_cacop(guest.word) {
                // There is no cache over what is not memory.
                guest.skip();
                return Exit::Handled;
            }
            // A walk of the guest's tables has no other address than the table's.
            let va = insn::address(guest.word).map_or(gpa, |address| Gpa(address.resolve(|n| guest.reg(n))));
            let fault = if memory == Memory::Store { Fault::Store(va) } else { Fault::Load(va) };
            return self.fault(guest, fault);
        };
        let va = Gpa(decoded.address.resolve(|n| guest.reg(n)));
        if !decoded.transfer.is_aligned(va.0) {
            let word = guest.word;
            self.raise(guest, |guest| guest.raise(Exception::ALE, Some(va), Some(word)));
            return Exit::Handled;
        }
        let width = decoded.transfer.width();
        let store = match decoded.transfer {
            Transfer::Load(load) => {
                guest.load = Some(load);
                None
            }
            Transfer::Store { register, width } => Some(Extend::Zero.fill(guest.reg(register), width)),
        };
        match chips.access(gpa, width, store) {
            Device::Nothing => Exit::Mmio(Access { at: gpa, va, width, store }),
            Device::Done { value, kicks } => {
                guest.finish_access(store.is_none().then_some(value));
                self.show(chips.lines(guest.index));
                Self::rung(guest, kicks)
            }
            Device::Call(call) => {
                guest.finish_access(None);
                Exit::Call(call)
            }
        }
    }

    #[cold]
    fn fetch(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        let (pc, eentry) = (guest.frame.pc, GEENTRY.get());
        // An exception whose vector cannot be fetched would be raised again for ever. In direct and mapped mode alike,
        // the low bits of an address in a window are the physical address; what the TLB maps is not looked at.
        let at = Gpa(eentry & ((1 << 48) - 1));
        if pc.wrapping_sub(eentry) < VECTORS && !chips.is_ram(at) {
            return Exit::Crash(Crash::NoVector { at: Gpa(eentry) });
        }
        self.fault(guest, Fault::Fetch(Gpa(pc)))
    }

    /// Puts the guest's timer into the hardware. What passes between looking at the clock and writing the rest of the
    /// timer's time makes it late: a few cycles, but on an emulator it can be anything, and then it is done again.
    #[inline]
    fn start_timer(&self, guest: &mut Guest) {
        if !self.try_timer(guest) {
            self.retry_timer(guest);
        }
    }

    #[cold]
    #[inline(never)]
    fn retry_timer(&self, guest: &mut Guest) {
        for _ in 1..TIMER_ATTEMPTS {
            if self.try_timer(guest) {
                break;
            }
        }
    }

    /// Tells whether it was in time.
    #[inline]
    fn try_timer(&self, guest: &mut Guest) -> bool {
        let now = now();
        let timer = guest.load_timer(now);
        lvz::load_timer(guest.csr.estat, timer);
        timer.tcfg & TCFG_EN == 0 || counter() - now.0 < self.timer_slack
    }

    /// Whether the loaded guest has an interrupt pending that it enabled.
    fn has_pending(&self) -> bool {
        (GESTAT.get() | self.quick.shown) & GECFG.get() & interrupt::LINES != 0
    }

    /// When the timer of the loaded guest fires, if it waits for it.
    fn guest_deadline(&self) -> Option<Ticks> {
        if self.loaded == Loaded::Nobody || GTCFG.get() & TCFG_EN == 0 {
            return None;
        }
        let (enabled, pending) = (GECFG.get() & TI != 0, GESTAT.get() & TI != 0);
        let left = GTVAL.get();
        (enabled && !pending).then(|| Ticks(counter().saturating_add(left)))
    }
}

impl Cpu<Loongarch64> for ThisCpu {
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
                // It counts in steps of four ticks; no ticks at all would never fire.
                let ticks = at.saturating_sub(counter()).min(TIMER_MAX - 4);
                TCFG.set((ticks + 4) & !3 | TCFG_EN);
            }
            None => TCFG.set(0),
        }
    }

    fn load(&mut self, guest: &mut Guest, chips: &GuestChips) -> Kicks {
        if self.gids.ensure(self.id, &mut guest.tag) == Choice::Wrapped {
            invalidate_all(Lvz::Present);
        }
        let gid = u64::from(guest.tag.gid());
        GSTAT.set(gid << gstat::GID_SHIFT | gstat::PVM);
        GTLBC.set(gid << GTLBC_TGID_SHIFT | GTLBC_USETGID);
        let world = (chips.root(), guest.counter_offset);
        if self.world != world {
            self.world = world;
            PGDL.set(world.0);
            GCNTC.set(world.1.wrapping_neg());
            lvz::load_model(&guest.csr);
        }
        let front = chips.front(guest.index);
        let lines = front.lines();
        // HWI lines come in by GINTC alone: a bit that is written here might not go down with its line.
        let from_chips = HWI | 1 << interrupt::IPI;
        guest.csr.estat = guest.csr.estat & !from_chips | lines & 1 << interrupt::IPI;
        lvz::load(&guest.csr);
        self.start_timer(guest);
        GINTC.set((lines & HWI) >> interrupt::HWI0);
        self.quick.shown = lines;
        (self.quick.chips, self.quick.front, self.quick.index) = (chips, front, guest.index);
        self.loaded = Loaded::Somebody;
        Kicks::NONE
    }

    #[inline]
    fn unload(&mut self, guest: &mut Guest, _: &GuestChips) {
        let (timer, now) = lvz::store(&mut guest.csr);
        guest.save_timer(timer, now);
        self.loaded = Loaded::Nobody;
    }

    fn refresh(&mut self, guest: &mut Guest, chips: &GuestChips) -> Kicks {
        self.show(chips.lines(guest.index));
        Kicks::NONE
    }

    fn wants_interrupt(&mut self, _: &mut Guest, _: &GuestChips) -> bool {
        self.has_pending()
    }

    #[inline]
    fn enter(&mut self, guest: &mut Guest, chips: &GuestChips) -> Exit {
        self.quick.handled = 0;
        debug_assert!(ptr::eq(self.quick.chips, chips) && self.quick.index == guest.index);
        // SAFETY: set by `load` to a part of the loaded guest's chips, which `chips` are.
        let lines = unsafe { &*self.quick.front }.lines();
        // What went up was rung for; what went down was not.
        self.show(lines);
        // FP apart, because nothing else has to be as quick.
        match self.visit(guest) {
            Visit::Fp(units) => Exit::Fp(units),
            Visit::Rung(kicks) => Exit::Ring(kicks),
            Visit::Other(estat) => self.go_on(guest, chips, estat),
        }
    }

    #[inline]
    fn handled(&self) -> u64 {
        self.quick.handled
    }

    fn inject(&mut self, guest: &mut Guest, fault: Fault) {
        if fault == Fault::Undefined {
            // It touched units that it does not have: no exception was taken since, so BADI has the instruction.
            guest.word = BADI.get() as u32;
        }
        self.fault(guest, fault);
    }

    #[inline]
    fn fp(&mut self) -> &mut File<Hardware> {
        &mut self.fp
    }

    fn take_interrupt(&mut self) -> Option<Interrupt> {
        let pending = ESTAT.get() & ECFG.get() & interrupt::LINES;
        if pending & 1 << interrupt::TIMER != 0 {
            // The timer is one-shot: off until the next alarm is set.
            TCFG.set(0);
            TICLR.set(1);
            self.alarm = None;
            return Some(Interrupt::Alarm);
        }
        if pending & 1 << interrupt::IPI != 0 {
            Ipi(Own).take();
            return Some(Interrupt::Kick);
        }
        let chip = self.chip.as_ref().filter(|_| pending != 0)?;
        chip.take().map(Interrupt::Line)
    }

    fn kick(&mut self, other: CpuId) {
        if let Some(core) = CORES.get().and_then(|all| all.get(other.0)) {
            Ipi(Own).send(*core);
        }
    }

    fn wait(&mut self) {
        // The guest's timer does not interrupt the root. It may have fired since somebody looked: when it fires before
        // its deadline is read there is none, and when it fires after that, it is seen to be pending.
        let deadline = self.guest_deadline();
        if self.loaded == Loaded::Somebody && self.has_pending() {
            return;
        }
        if let Some(at) = deadline
            && self.alarm.is_none_or(|alarm| at < alarm)
        {
            self.alarm(Some(at));
        }
        idle();
    }

    fn power_off(&mut self) -> ! {
        crate::start::power_off()
    }
}

/// The time: the stable counter.
#[inline]
pub fn now() -> Ticks {
    Ticks(counter())
}
