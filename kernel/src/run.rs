//! The loop every CPU runs.
//!
//! A CPU picks the vCPU whose turn it is, loads it, and goes in and out of the guest until the turn ends:
//! because the slice is over, because somebody more urgent woke, because the guest waits, or for good. Three
//! things are looked at right before each entry, in this order, with interrupts masked: the vCPU's doorbell,
//! this CPU's mailbox, and late requests (FP). Whoever adds to one of them after it was looked at has also
//! sent an interrupt, which ends the entry at once; so nothing is ever overlooked for longer than an exit.
//!
//! A vCPU that waits while nobody else is ready stays loaded: the CPU dozes with everything in place, FP
//! registers included, and wakes into the guest without moving a register.

mod life;
mod post;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::addr::{CpuId, Ticks, VcpuId, VmId};
use crate::arch::{Arch, Chips, Cpu, Fault, Guest, Interrupt, Reply, Rest};
use crate::console::Events;
use crate::exit::{Access, Call, Cause, Exit, Kicks, Verdict};
use crate::fp::{FpContext, FpUnit, MAX_GROUPS, Resident, Touch, Witness};
use crate::machine::{CpuShared, HOUSEKEEPER, Machine, Message};
use crate::mail::{Phase, PowerOnError};
use crate::sched::{Next, Occasion, RunQueue, Tuning, Turn, Woken};
use crate::trace::{Kind, NOBODY, Trace};
use crate::vcpu::{FpPlace, Vcpu};
use crate::vm::{Answer, End, Vm, add, bump};

/// One physical CPU and everything that lives on it.
pub struct Local<A: Arch> {
    /// The hardware.
    pub cpu: A::Cpu,
    id: CpuId,
    pub(crate) machine: &'static Machine<A>,
    /// What the others see of this CPU.
    shared: &'static CpuShared<A>,
    queue: RunQueue<Vcpu<A>>,
    fp: FpUnit<A::Fp>,
    trace: &'static Trace,
    /// The running vCPU should make room.
    yielding: bool,
    /// The alarm rang, or should ring at another time: if the turn goes on, it has to be set again.
    alarm_due: bool,
    /// Guests that start anew, and when.
    relaunches: Vec<(u64, VmId)>,
}

impl<A: Arch> Local<A> {
    /// A CPU with nothing to do. `fp` is the unit whose ledger `machine` publishes.
    pub fn new(
        cpu: A::Cpu,
        machine: &'static Machine<A>,
        mut fp: FpUnit<A::Fp>,
        trace: &'static Trace,
    ) -> Self {
        let id = cpu.id();
        fp.attend(Witness { trace, now: machine.now });
        let shared = &machine.cpus[id.0];
        shared.ledger.call_once(|| fp.ledger());
        let queue = RunQueue::new(id, &machine.pool, Tuning::per_second(cpu.hz()));
        Self {
            cpu,
            id,
            machine,
            shared,
            queue,
            fp,
            trace,
            yielding: false,
            alarm_due: false,
            relaunches: Vec::new(),
        }
    }

    /// Runs for ever.
    pub fn run(mut self) -> ! {
        loop {
            self.turn();
        }
    }

    /// Gives one vCPU its turn, or sleeps until there may be one.
    #[inline(always)]
    pub fn turn(&mut self) {
        self.read_mail();
        let now = self.now();
        self.wake_expired(now);
        match self.queue.pick(now) {
            Some(vcpu) => self.run_vcpu(vcpu, now),
            None => self.idle(),
        }
    }

    fn now(&self) -> u64 {
        self.cpu.now().0
    }

    fn run_vcpu(&mut self, mut vcpu: Box<Vcpu<A>>, now: u64) {
        self.yielding = false;
        vcpu.bell().run_on(self.id);
        // What was rung for until now is pending by now, and loading hands it over.
        vcpu.bell().take_event();
        vcpu.news = false;
        if let FpPlace::Here(key) = &vcpu.fp {
            self.fp.arrive(key);
        }
        let vm = Arc::clone(&vcpu.vm);
        let kicks = self.cpu.load(&mut vcpu.guest, &vm.chips);
        self.ring(&vm, kicks);
        self.trace.record(Ticks(now), Kind::TurnStart, vcpu.id(), 0, 0);
        let status = &self.shared.status;
        status.running.store(u64::from(vcpu.id().0) + 1, Ordering::Relaxed);
        status.queued.store(self.queue.waiting() as u64, Ordering::Relaxed);
        let verdict = if vm.is_ending() { Verdict::Stop } else { self.serve(&mut vcpu, &vm) };
        self.fp.leave(self.cpu.fp());
        self.cpu.unload(&mut vcpu.guest, &vm.chips);
        if verdict == Verdict::Off {
            let kicks = vm.chips.powered_off(&mut vcpu.guest);
            self.ring(&vm, kicks);
        }
        let now = self.now();
        status.running.store(0, Ordering::Relaxed);
        bump(&status.turns);
        let mut left = [0; MAX_GROUPS];
        for (n, left) in left.iter_mut().enumerate().take(A::Fp::GROUPS.len()) {
            let word = &status.residents[n];
            if let Some(resident) = self.fp.news(n) {
                word.store(resident.map_or(0, Resident::pack), Ordering::Relaxed);
            }
            *left = word.load(Ordering::Relaxed) | self.fp.deeds(n).pack();
        }
        self.trace.record(Ticks(now), Kind::TurnEnd, vcpu.id(), left[0], left[1]);
        self.settle(vcpu, &vm, verdict, now);
    }

    /// Decides what becomes of a vCPU whose turn ended.
    fn settle(&mut self, mut vcpu: Box<Vcpu<A>>, vm: &Arc<Vm<A>>, verdict: Verdict, now: u64) {
        let next = match verdict {
            Verdict::Resume | Verdict::Yield => Next::Ready,
            Verdict::Sleep(until) => self.lay_down(&mut vcpu, vm, until),
            Verdict::Off => Next::Off,
            Verdict::Stop => {
                self.queue.dismiss(&mut vcpu, now);
                return self.dismiss(vcpu);
            }
        };
        match next {
            Next::Ready | Next::Yield => vcpu.bell().queue_on(self.id),
            Next::Off => vcpu.bell().power_off(),
            Next::Sleep(_) => {}
        }
        vcpu.stats().publish(vcpu.account());
        self.queue.settle(vcpu, next, now);
    }

    /// Lets a vCPU that waits go to sleep, unless something is pending that it waits for.
    fn lay_down(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, until: Option<Ticks>) -> Next {
        let (rest, kicks) = vm.chips.rest(&mut vcpu.guest);
        self.ring(vm, kicks);
        // What is made pending from here on rings.
        match rest {
            Rest::Sound if vcpu.bell().sleep().is_ok() => {
                Next::Sleep(earliest(until, vcpu.guest.deadline()).map(|t| t.0))
            }
            _ => Next::Ready,
        }
    }

    /// Goes in and out of the loaded guest until its turn ends.
    fn serve(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>) -> Verdict {
        self.alarm_due = true;
        loop {
            if vcpu.has_news() {
                self.refresh(vcpu, vm);
            }
            if !self.shared.mailbox.is_empty() {
                self.read_mail();
                self.alarm_due = true;
            }
            if vm.is_ending() {
                return Verdict::Stop;
            }
            if self.yielding {
                return Verdict::Yield;
            }
            if core::mem::take(&mut self.alarm_due) {
                // Somebody may wait here who could run elsewhere at once.
                self.distribute(Occasion::Routine, self.now());
                self.plan_alarm(vcpu);
            }
            let exit = self.visit(vcpu, vm);
            match self.answer(vcpu, vm, exit) {
                Verdict::Resume => {}
                Verdict::Sleep(until) => match self.doze(vcpu, vm, until) {
                    Verdict::Resume => {}
                    verdict => return verdict,
                },
                verdict => return verdict,
            }
        }
    }

    /// Goes into the guest until it stops for something else than FP units that it gets: nobody looks at anything else
    /// because of that, and whoever has something new interrupts.
    #[inline(always)]
    fn visit(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>) -> Exit {
        loop {
            self.fp.enter(self.cpu.fp());
            let exit = self.cpu.enter(&mut vcpu.guest, &vm.chips);
            let Exit::Fp(units) = exit else {
                self.count(vcpu, exit.cause());
                return exit;
            };
            self.count(vcpu, Cause::Fp);
            self.trace.record(self.cpu.now(), Kind::ExitFp, vcpu.id(), units.bits().into(), 0);
            if self.fp.request(units) == Touch::Absent {
                return exit;
            }
        }
    }

    /// Counts an exit, and those before it that were dealt with below.
    #[inline(always)]
    fn count(&self, vcpu: &Vcpu<A>, cause: Cause) {
        let handled = self.cpu.handled();
        vcpu.stats().count(cause, handled);
        add(&self.shared.status.exits, handled + 1);
    }

    /// Hands the loaded guest what is pending for it.
    fn refresh(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>) {
        vcpu.bell().take_event();
        vcpu.news = false;
        let kicks = self.cpu.refresh(&mut vcpu.guest, &vm.chips);
        self.ring(vm, kicks);
    }

    /// Deals with one exit. What is rare is not inlined: what it computes with would be made ready at each turn.
    fn answer(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, exit: Exit) -> Verdict {
        let note = |kind, a: u64, b: u64| self.trace.record(self.cpu.now(), kind, vcpu.id(), a, b);
        match exit {
            Exit::Handled => {}
            Exit::Interrupt => self.take_interrupts(Some(vcpu)),
            // It does not have them.
            Exit::Fp(_) => self.cpu.inject(&mut vcpu.guest, Fault::Undefined),
            Exit::Mmio(access) => {
                note(Kind::ExitMmio, access.at.0, access.store.unwrap_or(0));
                self.mmio(vcpu, vm, access);
            }
            Exit::Ring(mut kicks) => {
                // It is here: it need not be rung for.
                vcpu.news |= kicks.take(vcpu.index());
                self.ring(vm, kicks);
            }
            Exit::Call(call) => {
                note(Kind::ExitCall, 0, 0);
                return self.call(vcpu, vm, call);
            }
            Exit::Idle(until) => {
                // Where others wait, the end of its turn tells.
                if self.queue.waiting() == 0 {
                    note(Kind::ExitIdle, until.map_or(0, |until| until.0), 0);
                }
                return Verdict::Sleep(until);
            }
            Exit::Timer => {
                let kicks = vm.chips.update_timers(&mut vcpu.guest, self.cpu.now());
                self.ring(vm, kicks);
                self.alarm_due = true;
            }
            Exit::Crash(crash) => {
                self.finish(vm, End::Crashed(crash));
                return Verdict::Stop;
            }
        }
        Verdict::Resume
    }

    #[inline(never)]
    fn mmio(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, access: Access) {
        match vm.access(access, self.machine.console) {
            Answer::Done(value, kicks) => {
                match access.store {
                    None => vcpu.guest.finish_load(value),
                    Some(_) => {
                        vcpu.guest.finish_store();
                        if self.machine.console.pending() {
                            self.console_events(self.machine.console.drain());
                        }
                    }
                }
                self.ring(vm, kicks);
            }
            Answer::Nothing => {
                let fault =
                    if access.store.is_some() { Fault::Store(access.va) } else { Fault::Load(access.va) };
                self.cpu.inject(&mut vcpu.guest, fault);
            }
        }
    }

    #[inline(never)]
    fn call(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, call: Call) -> Verdict {
        let reply = match call {
            Call::CpuOn { vcpu: Some(index), .. } | Call::State(Some(index)) if index >= vm.vcpus() => {
                Reply::InvalidParameters
            }
            Call::CpuOn { vcpu: None, .. } => Reply::InvalidParameters,
            Call::CpuOn { entry, .. } if !vm.chips.is_memory(entry) => Reply::InvalidAddress,
            Call::CpuOn { vcpu: Some(index), entry, arg } => match vm.bell(index).power_on() {
                Ok(home) => {
                    self.tell(home, Message::Start(Arc::clone(vm), index, entry, arg));
                    Reply::Done
                }
                Err(PowerOnError::AlreadyOn) => Reply::AlreadyOn,
                Err(PowerOnError::OnPending) => Reply::OnPending,
            },
            Call::CpuOff => return Verdict::Off,
            Call::State(None) => Reply::InvalidParameters,
            Call::State(Some(index)) => match vm.bell(index).phase() {
                Phase::Off => Reply::Off,
                Phase::Starting => Reply::Starting,
                _ => Reply::On,
            },
            Call::PowerOff => {
                self.finish(vm, End::PoweredOff);
                return Verdict::Stop;
            }
            Call::Reset => {
                self.finish(vm, End::Reset);
                return Verdict::Stop;
            }
            Call::Ledger => {
                let tally = vm.fp_tally();
                Reply::Values([tally.loads, tally.saves(), tally.skips, tally.bytes_in + tally.bytes_out])
            }
            Call::Touches => {
                let tally = vm.fp_tally();
                Reply::Values([tally.requests(), tally.refused(), tally.widenings, tally.saves_avoided])
            }
        };
        vcpu.guest.finish_call(reply);
        Verdict::Resume
    }

    /// Waits with the guest loaded, as long as nobody else is ready; then it has to sleep like others.
    #[inline]
    fn doze(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, until: Option<Ticks>) -> Verdict {
        if self.queue.waiting() > 0 {
            // Whether it has to wait is found out once its interrupts are out of the hardware: they have to be
            // looked at there anyway.
            return Verdict::Sleep(until);
        }
        self.doze_alone(vcpu, vm, until)
    }

    #[inline(never)]
    fn doze_alone(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, until: Option<Ticks>) -> Verdict {
        self.refresh(vcpu, vm);
        loop {
            if self.cpu.wants_interrupt(&mut vcpu.guest, &vm.chips) {
                return Verdict::Resume;
            }
            let start = self.now();
            if until.is_some_and(|until| until.0 <= start) {
                return Verdict::Resume;
            }
            if self.queue.waiting() > 0 || self.yielding {
                return Verdict::Sleep(until);
            }
            if let Some(busy) = self.machine.pool.enter_idle(self.id) {
                self.ask(busy);
            }
            if self.shared.mailbox.is_empty() && !vcpu.bell().has_event() && !vm.is_ending() {
                self.cpu.alarm(earliest(self.next_alarm(vcpu), until));
                self.cpu.wait();
            }
            self.machine.pool.leave_idle(self.id);
            let now = self.now();
            self.account_idle(start, now);
            self.queue.pause(start, now);
            self.take_interrupts(Some(vcpu));
            self.read_mail();
            if vm.is_ending() {
                return Verdict::Stop;
            }
            if vcpu.has_news() {
                self.refresh(vcpu, vm);
            }
        }
    }

    /// Waits with nobody loaded.
    fn idle(&mut self) {
        if self.queue.waiting() > 0 {
            // It may not run here any more: otherwise it would have its turn.
            self.distribute(Occasion::Routine, self.now());
        }
        if let Some(busy) = self.machine.pool.enter_idle(self.id) {
            self.ask(busy);
        }
        self.housekeep();
        let start = self.now();
        if self.shared.mailbox.is_empty() {
            self.cpu.alarm(earliest(self.queue.next_deadline().map(Ticks), self.next_relaunch()));
            self.cpu.wait();
        }
        self.machine.pool.leave_idle(self.id);
        self.account_idle(start, self.now());
        self.take_interrupts(None);
    }

    fn account_idle(&self, from: u64, to: u64) {
        let idle = &self.shared.status.idle;
        idle.store(idle.load(Ordering::Relaxed) + to.saturating_sub(from), Ordering::Relaxed);
    }

    /// When this CPU must look again while `vcpu` runs.
    fn next_alarm(&self, vcpu: &Vcpu<A>) -> Option<Ticks> {
        let alarm = earliest(self.queue.alarm().map(Ticks), vcpu.guest.emulated_deadline());
        if self.relaunches.is_empty() { alarm } else { earliest(alarm, self.next_relaunch()) }
    }

    fn plan_alarm(&mut self, vcpu: &Vcpu<A>) {
        self.cpu.alarm(self.next_alarm(vcpu));
    }

    /// Serves the interrupts that are pending, on behalf of the vCPU that is loaded, if one is.
    fn take_interrupts(&mut self, mut current: Option<&mut Vcpu<A>>) {
        while let Some(interrupt) = self.cpu.take_interrupt() {
            match interrupt {
                Interrupt::Kick => {}
                Interrupt::Alarm => self.alarm_rang(current.as_deref_mut()),
                Interrupt::GuestTimer => {
                    if let Some(vcpu) = current.as_deref_mut() {
                        vcpu.vm.chips.timer_fired(&mut vcpu.guest);
                        vcpu.news = true;
                    }
                }
                Interrupt::Lists => {
                    // It stays asserted until the interface has been refreshed, so it would be taken again and
                    // again here. What else is pending ends the next entry.
                    if let Some(vcpu) = current.as_deref_mut() {
                        vcpu.news = true;
                        break;
                    }
                }
                Interrupt::Line(line) => {
                    if self.machine.console_line == Some(line) {
                        self.console_events(self.machine.console.pump());
                    }
                }
            }
        }
        self.housekeep();
    }

    /// Shows what was logged: nobody else may have a reason to look at the console soon.
    pub(crate) fn housekeep(&mut self) {
        if self.id == HOUSEKEEPER && self.machine.console.pending() {
            self.console_events(self.machine.console.pump());
        }
    }

    fn alarm_rang(&mut self, current: Option<&mut Vcpu<A>>) {
        let now = self.now();
        self.trace.record(Ticks(now), Kind::Alarm, NOBODY, 0, 0);
        self.wake_expired(now);
        self.relaunch_due(now);
        if self.queue.slice_over(now) {
            self.distribute(Occasion::SliceEnd, now);
            // Whoever waited may have left for a CPU with less to do.
            self.yielding |= self.queue.waiting() > 0;
        }
        if let Some(vcpu) = current {
            let kicks = vcpu.vm.chips.update_timers(&mut vcpu.guest, Ticks(now));
            vcpu.news |= kicks != Kicks::NONE;
        }
        self.alarm_due = true;
    }

    #[inline]
    fn wake_expired(&mut self, now: u64) {
        if self.queue.may_expire(now) {
            self.wake_sleepers(now);
        }
    }

    #[inline(never)]
    fn wake_sleepers(&mut self, now: u64) {
        while let Some(id) = self.queue.expired(now) {
            if let Some(vcpu) = self.queue.find_mut(id) {
                let kicks = vcpu.vm.chips.update_timers(&mut vcpu.guest, Ticks(now));
                vcpu.news |= kicks != Kicks::NONE;
                vcpu.bell().wake();
            }
            self.made_ready(id, now);
        }
    }

    fn made_ready(&mut self, id: VcpuId, now: u64) {
        self.trace.record(Ticks(now), Kind::Wake, id, 0, 0);
        self.yielding |= self.queue.wake(id, now) == Woken::Preempt;
        // Whoever has the CPU for itself has no alarm set: now its slice has an end.
        self.alarm_due = true;
    }

    /// Does what a turn of the console asks for.
    fn console_events(&mut self, events: Events) {
        for port in events.ports() {
            let tenant = usize::from(port.0).checked_sub(1).and_then(|n| self.machine.tenants.get(n));
            if let Some(vm) = tenant.and_then(|tenant| tenant.vm()) {
                let kicks = vm.poll_uart(self.machine.console);
                self.ring(&vm, kicks);
            }
        }
        if events.prompt {
            self.prompt();
        }
        if events.more {
            self.cpu.kick(HOUSEKEEPER);
        }
    }
}

/// The earlier of two times that may not come.
fn earliest(a: Option<Ticks>, b: Option<Ticks>) -> Option<Ticks> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
