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

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::addr::{CpuId, Gpa, Ticks, VcpuId, VmId};
use crate::arch::{Arch, Chips, Cpu, Fault, Guest, Interrupt, Reply, Rest};
use crate::console::Events;
use crate::exit::{Access, Call, Exit, Kicks, Verdict};
use crate::fp::{FpUnit, Touch};
use crate::machine::{CpuShared, HOUSEKEEPER, Machine, Message};
use crate::mail::{Delivery, Kick, Mail, Phase, PowerOnError, Ring};
use crate::sched::{Next, Occasion, RunQueue, Tuning, Turn, Woken};
use crate::trace::{Kind, Trace};
use crate::vcpu::{FpPlace, Vcpu};
use crate::vm::{Answer, End, Vm, bump};

/// From one start of a guest that resets itself to the next, at least so many times what building it takes.
const RELAUNCH_SPACING: u64 = 16;

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
    pub fn new(cpu: A::Cpu, machine: &'static Machine<A>, fp: FpUnit<A::Fp>, trace: &'static Trace) -> Self {
        let id = cpu.id();
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
        self.distribute(Occasion::Routine, now);
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
        let resident = self.fp.residents().next().map_or(0, |(id, valid, dirty)| {
            u64::from(id.0) + 1 | u64::from(valid.bits()) << 32 | u64::from(dirty.bits()) << 40
        });
        status.resident.store(resident, Ordering::Relaxed);
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
                self.distribute(Occasion::Routine, self.now());
                self.alarm_due = true;
            }
            if vm.is_ending() {
                return Verdict::Stop;
            }
            if self.yielding {
                return Verdict::Yield;
            }
            if core::mem::take(&mut self.alarm_due) {
                self.plan_alarm(vcpu);
            }
            self.fp.enter(self.cpu.fp());
            let exit = self.cpu.enter(&mut vcpu.guest, &vm.chips);
            vcpu.stats().count(exit.cause());
            bump(&self.shared.status.exits);
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

    /// Hands the loaded guest what is pending for it.
    fn refresh(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>) {
        vcpu.bell().take_event();
        vcpu.news = false;
        let kicks = self.cpu.refresh(&mut vcpu.guest, &vm.chips);
        self.ring(vm, kicks);
    }

    /// Deals with one exit.
    fn answer(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, exit: Exit) -> Verdict {
        match exit {
            Exit::Handled => {}
            Exit::Interrupt => self.take_interrupts(Some(vcpu)),
            Exit::Fp(units) => {
                if self.fp.request(units) == Touch::Absent {
                    self.cpu.inject(&mut vcpu.guest, Fault::Undefined);
                }
            }
            Exit::Mmio(access) => self.mmio(vcpu, vm, access),
            Exit::Ring(mut kicks) => {
                // It is here: it need not be rung for.
                vcpu.news |= kicks.take(vcpu.index());
                self.ring(vm, kicks);
            }
            Exit::Call(call) => return self.call(vcpu, vm, call),
            Exit::Idle(until) => return Verdict::Sleep(until),
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
        };
        vcpu.guest.finish_call(reply);
        Verdict::Resume
    }

    /// Waits with the guest loaded, as long as nobody else is ready; then it has to sleep like others.
    fn doze(&mut self, vcpu: &mut Vcpu<A>, vm: &Arc<Vm<A>>, until: Option<Ticks>) -> Verdict {
        if self.queue.waiting() > 0 {
            // Whether it has to wait is found out once its interrupts are out of the hardware: they have to be
            // looked at there anyway.
            return Verdict::Sleep(until);
        }
        self.refresh(vcpu, vm);
        loop {
            if self.cpu.wants_interrupt(&mut vcpu.guest, &vm.chips) {
                return Verdict::Resume;
            }
            let start = self.now();
            if until.is_some_and(|until| until.0 <= start) {
                return Verdict::Resume;
            }
            if self.queue.waiting() > 0 {
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

    /// Tells vCPUs of `vm` that something is pending for them.
    #[inline]
    fn ring(&mut self, vm: &Arc<Vm<A>>, kicks: Kicks) {
        if !kicks.is_empty() {
            self.ring_each(vm, kicks);
        }
    }

    #[inline(never)]
    fn ring_each(&mut self, vm: &Arc<Vm<A>>, kicks: Kicks) {
        for index in kicks.vcpus().filter(|index| *index < vm.vcpus()) {
            if vm.bell(index).ring_here(self.id) {
                self.made_ready(vm.vcpu_id(index), self.now());
                continue;
            }
            self.ring_there(vm, index);
        }
    }

    /// Rings for a vCPU that does not sleep here.
    #[inline(never)]
    fn ring_there(&mut self, vm: &Arc<Vm<A>>, index: usize) {
        match vm.bell(index).ring() {
            Ring::Nothing => {}
            Ring::KickCpu(cpu) if cpu == self.id => {}
            Ring::KickCpu(cpu) => self.cpu.kick(cpu),
            Ring::WakeOn(cpu) => self.tell(cpu, Message::Wake(Arc::clone(vm), index)),
        }
    }

    /// A wake-up for a vCPU arrived here.
    fn deliver(&mut self, vm: &Arc<Vm<A>>, index: usize) {
        match vm.bell(index).deliver(self.id) {
            Delivery::Wake => self.made_ready(vm.vcpu_id(index), self.now()),
            Delivery::Stale => {}
            Delivery::Forward(cpu) => self.tell(cpu, Message::Wake(Arc::clone(vm), index)),
        }
    }

    /// Sends a message.
    pub(crate) fn tell(&mut self, cpu: CpuId, message: Message<A>) {
        // A mailbox has room for all messages about vCPUs, and the others are at most one per guest: see `mail`.
        match self.machine.cpus[cpu.0].mailbox.post(message) {
            Ok(Kick::Needed) if cpu != self.id => self.cpu.kick(cpu),
            Ok(_) => {}
            Err(_) => log::error!("the mailbox of CPU {} is full: a message is lost", cpu.0),
        }
    }

    fn ask(&mut self, busy: CpuId) {
        if self.machine.cpus[busy.0].mailbox.ask(self.id) == Kick::Needed {
            self.cpu.kick(busy);
        }
    }

    #[inline]
    fn read_mail(&mut self) {
        if !self.shared.mailbox.is_empty() {
            self.empty_mailbox();
        }
    }

    #[inline(never)]
    fn empty_mailbox(&mut self) {
        while let Some(mail) = self.shared.mailbox.take() {
            match mail {
                Mail::Ask(cpu) => self.distribute(Occasion::Asked(cpu), self.now()),
                Mail::Item(Message::Admit(vcpu)) => self.admit(vcpu),
                Mail::Item(Message::Wake(vm, index)) => self.deliver(&vm, index),
                Mail::Item(Message::Start(vm, index, pc, arg)) => self.start(&vm, index, pc, arg),
                Mail::Item(Message::Sweep(vm)) => self.sweep(&vm),
                Mail::Item(Message::Bury(vm)) => self.bury(&vm),
                Mail::Item(Message::Launch(tenant)) => self.launch(tenant),
            }
        }
    }

    /// Sends vCPUs to other CPUs that have less to do.
    #[inline]
    fn distribute(&mut self, occasion: Occasion, now: u64) {
        if self.queue.offers(&self.machine.pool) {
            self.send_off(occasion, now);
        }
    }

    #[inline(never)]
    fn send_off(&mut self, occasion: Occasion, now: u64) {
        while let Some((mut vcpu, to)) = self.queue.send_off(occasion, &self.machine.pool, now) {
            if let FpPlace::Here(key) = vcpu.fp.take() {
                vcpu.fp = FpPlace::Carried(self.fp.discharge(self.cpu.fp(), key));
            }
            self.trace.record(Ticks(now), Kind::Migrate, vcpu.id(), to.0 as u64, 0);
            vcpu.settle_on(to);
            vcpu.bell().queue_on(to);
            self.tell(to, Message::Admit(vcpu));
        }
    }

    fn admit(&mut self, mut vcpu: Box<Vcpu<A>>) {
        if let FpPlace::Carried(slot) = vcpu.fp.take() {
            vcpu.fp = FpPlace::Here(self.fp.enroll(slot));
        }
        if vcpu.vm.is_ending() {
            return self.dismiss(vcpu);
        }
        let now = self.now();
        if vcpu.bell().phase() == Phase::Off {
            self.queue.park(vcpu, None, now);
        } else {
            self.yielding |= self.queue.admit(vcpu, now) == Woken::Preempt;
            self.alarm_due = true;
        }
    }

    fn start(&mut self, vm: &Arc<Vm<A>>, index: usize, pc: Gpa, arg: u64) {
        let id = vm.vcpu_id(index);
        let Some(vcpu) = self.queue.find_mut(id) else { return };
        vcpu.guest.reset(pc, arg);
        if let FpPlace::Here(key) = &vcpu.fp {
            self.fp.reset(self.cpu.fp(), key);
        }
        vcpu.bell().start();
        self.made_ready(id, self.now());
    }

    /// Ends a guest; its vCPUs stop wherever they are.
    pub(crate) fn finish(&mut self, vm: &Arc<Vm<A>>, end: End) {
        if !vm.finish(end) {
            return;
        }
        for n in 0..self.machine.cpus.len() {
            self.tell(CpuId(n), Message::Sweep(Arc::clone(vm)));
        }
    }

    fn sweep(&mut self, vm: &Vm<A>) {
        for index in 0..vm.vcpus() {
            let now = self.now();
            if let Some(vcpu) = self.queue.evict(vm.vcpu_id(index), now) {
                self.dismiss(vcpu);
            }
        }
        // Registers of CPUs that a vCPU once lived on may still hold its values.
        self.purge(vm);
    }

    /// Ends a vCPU that is on this CPU and not running.
    fn dismiss(&mut self, mut vcpu: Box<Vcpu<A>>) {
        match vcpu.fp.take() {
            FpPlace::Here(key) => self.fp.dismiss(self.cpu.fp(), key),
            FpPlace::Carried(_) | FpPlace::Nowhere => {}
        }
        let vm = Arc::clone(&vcpu.vm);
        drop(vcpu);
        if vm.bury() {
            self.tell(HOUSEKEEPER, Message::Bury(vm));
        }
    }

    fn purge(&mut self, vm: &Vm<A>) {
        for index in 0..vm.vcpus() {
            self.fp.purge(self.cpu.fp(), vm.vcpu_id(index));
        }
    }

    /// The last vCPU of `vm` ended: its memory is free, and it starts anew or not.
    fn bury(&mut self, vm: &Arc<Vm<A>>) {
        vm.chips.retire(&mut self.cpu);
        for region in &vm.identity.ram {
            if let Err(error) = self.machine.memory.lock().release(*region) {
                log::error!("vm {}: memory {region} cannot be taken back: {error:?}", vm.identity.name);
            }
        }
        let id = vm.identity.id;
        let end = vm.end().unwrap_or(End::Stopped);
        log::info!("vm {} {end}", vm.identity.name);
        let tenant = &self.machine.tenants[usize::from(id.0)];
        tenant.over(end);
        match end {
            End::Reset => self.relaunch(id),
            End::Restarted => self.launch(id),
            _ if self.machine.is_done() => self.halt(),
            _ => {}
        }
    }

    /// Starts a guest anew that asked for it: so much later that building it over and over takes a small part of
    /// this CPU, whatever the guest does.
    fn relaunch(&mut self, id: VmId) {
        let now = self.now();
        let tenant = &self.machine.tenants[usize::from(id.0)];
        let (built, took) = tenant.built();
        let earliest = built.saturating_add(took.saturating_mul(RELAUNCH_SPACING));
        if now >= earliest {
            return self.launch(id);
        }
        self.relaunches.push((earliest, id));
        self.alarm_due = true;
    }

    /// Starts the guests whose time has come.
    fn relaunch_due(&mut self, now: u64) {
        while let Some(at) = self.relaunches.iter().position(|(when, _)| *when <= now) {
            let (_, id) = self.relaunches.swap_remove(at);
            self.launch(id);
        }
    }

    /// When the next guest starts anew.
    fn next_relaunch(&self) -> Option<Ticks> {
        self.relaunches.iter().map(|(when, _)| Ticks(*when)).min()
    }

    /// Switches the machine off.
    pub(crate) fn halt(&mut self) -> ! {
        log::info!("halted");
        self.machine.console.flush();
        self.cpu.power_off()
    }
}

/// The earlier of two times that may not come.
fn earliest(a: Option<Ticks>, b: Option<Ticks>) -> Option<Ticks> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
