//! One physical CPU: loading a guest into it, running it, and finding out why it stopped.

use arch_common::access::{Extend, Transfer};
use arch_common::mmio::Mmio;
use kernel::addr::{CpuId, Gpa, Ticks};
use kernel::arch::{Cpu, Fault, Interrupt};
use kernel::exit::{Access, Call, Crash, Exit, Kicks};
use spin::Once;

use crate::arch::Loongarch64;
use crate::chips::{Device, GuestChips};
use crate::csr::*;
use crate::fp::File;
use crate::fp_regs::Hardware;
use crate::gid::{Choice, Gids};
use crate::gspr::{self, Direction, Gspr};
use crate::guest::{Answer, Guest, TI};
use crate::hypercall::{self, Service};
use crate::insn;
use crate::iocsr::Own;
use crate::irqchip::{Ipi, IrqChip};
use crate::lvz::{self, GBADI, GBADV, GCRMD, GECFG, GEENTRY, GERA, GESTAT, GPRMD, GTCFG, GTVAL};
use crate::switch;
use crate::trap::{self, Exception, Memory, Trap};

/// `ESTAT` fields of an exception: Ecode and EsubCode.
const ESTAT_CODES: u64 = 0x7fff << 16;
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
    /// The lines of its chips as the loaded guest has them.
    shown: u64,
    /// How often the last entry was repeated.
    handled: u64,
}

/// Whether a guest's registers are in the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    Nobody,
    Somebody,
}

impl ThisCpu {
    /// The CPU this runs on, its FP registers taken over. `chip` is for the CPU that handles devices.
    pub fn new(id: CpuId, hz: u64, fp: File<Hardware>, chip: Option<Chip>) -> Self {
        let bits = GSTAT.get() >> gstat::GIDBIT_SHIFT & 0x3f;
        Self {
            id,
            hz,
            fp,
            gids: Gids::new(bits as u32),
            chip,
            alarm: None,
            // No guest has its tables there.
            world: (0, 0),
            loaded: Loaded::Nobody,
            shown: 0,
            handled: 0,
        }
    }

    /// Shows the loaded guest the lines of its chips.
    #[inline]
    fn show(&mut self, lines: u64) {
        let changed = lines ^ self.shown;
        if changed == 0 {
            return;
        }
        self.shown = lines;
        GINTC.set(lines >> interrupt::HWI0 & 0xff);
        if changed & 1 << interrupt::IPI != 0 {
            lvz::change_estat(1 << interrupt::IPI, lines);
        }
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

    /// What an exception from the guest was about.
    #[inline]
    fn exit(&mut self, guest: &mut Guest, chips: &GuestChips, estat: u64) -> Exit {
        match trap::decode(estat) {
            Trap::Interrupt => Exit::Interrupt,
            Trap::Hypercall => self.call(guest),
            Trap::Gspr => self.gspr(guest, chips),
            Trap::Memory(memory) => self.memory(guest, chips, memory),
            Trap::Fp(units) => {
                guest.word = BADI.get() as u32;
                Exit::Fp(units)
            }
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
        if let Some((direction, rd, rj)) = gspr::iocsr_word(guest.word)
            && let Some(exit) = self.ipi(guest, chips, direction, rd, rj)
        {
            return exit;
        }
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

    /// What every interrupt between vCPUs takes, in a few steps.
    #[inline]
    fn ipi(
        &mut self,
        guest: &mut Guest,
        chips: &GuestChips,
        direction: Direction,
        rd: u8,
        rj: u8,
    ) -> Option<Exit> {
        if GCRMD.get() & 3 != 0 {
            return None;
        }
        let store = (direction == Direction::Write).then(|| guest.reg(rd) as u32);
        let (value, kicks) = chips.ipi(guest.index, guest.reg(rj), store)?;
        guest.skip();
        if store.is_none() {
            guest.set_reg(rd, i64::from(value as i32) as u64);
            return Some(Exit::Handled);
        }
        self.show(chips.lines(guest.index));
        Some(Self::rung(guest, kicks))
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

    /// An address that stage 2 does not give. Not inlined: what devices compute with would be made ready at each turn.
    #[inline(never)]
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
    fn start_timer(&self, guest: &mut Guest) {
        for _ in 0..TIMER_ATTEMPTS {
            let now = now();
            guest.load_timer(now);
            lvz::load_timer(&guest.csr);
            if guest.csr.tcfg & TCFG_EN == 0 || counter() - now.0 < self.hz / TIMER_SLACK {
                break;
            }
        }
    }

    /// Whether the loaded guest has an interrupt pending that it enabled.
    fn has_pending(&self) -> bool {
        (GESTAT.get() | self.shown) & GECFG.get() & interrupt::LINES != 0
    }

    /// When the timer of the loaded guest fires, if it waits for it.
    fn guest_deadline(&self) -> Option<Ticks> {
        if self.loaded == Loaded::Nobody || GTCFG.get() & TCFG_EN == 0 {
            return None;
        }
        let (enabled, pending) = (GECFG.get() & TI != 0, GESTAT.get() & TI != 0);
        (enabled && !pending).then(|| Ticks(counter().saturating_add(GTVAL.get())))
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
        let lines = chips.lines(guest.index);
        // HWI lines come in by GINTC alone: a bit that is written here might not go down with its line.
        let chips = 0xff << interrupt::HWI0 | 1 << interrupt::IPI;
        guest.csr.estat = guest.csr.estat & !chips | lines & 1 << interrupt::IPI;
        lvz::load(&guest.csr);
        self.start_timer(guest);
        GINTC.set(lines >> interrupt::HWI0 & 0xff);
        self.shown = lines;
        self.loaded = Loaded::Somebody;
        Kicks::NONE
    }

    fn unload(&mut self, guest: &mut Guest, _: &GuestChips) {
        let now = lvz::store(&mut guest.csr);
        guest.save_timer(now);
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
        self.handled = 0;
        // What went up was rung for; what went down was not.
        self.show(chips.lines(guest.index));
        loop {
            // SAFETY: 1. the core calls this between `load` and `unload` of this guest, which put its registers,
            // identifier and stage 2 in place and set PVM. 2. The vectors were installed when this CPU started, and
            // `SAVE5` is zero outside this call. 3. `guest` is borrowed for the whole call.
            let estat = unsafe { switch::enter(&raw mut guest.frame) };
            match self.exit(guest, chips, estat) {
                // A guest makes several of these for one interrupt.
                Exit::Handled => self.handled += 1,
                exit => return exit,
            }
        }
    }

    #[inline]
    fn handled(&self) -> u64 {
        self.handled
    }

    fn inject(&mut self, guest: &mut Guest, fault: Fault) {
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
