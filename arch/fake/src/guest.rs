//! A pretend vCPU: it follows its script and checks everything that it can see.

mod calls;

use std::sync::Arc;

use kernel::addr::{Gpa, Ticks};
use kernel::arch::{Arch, Fault, Guest, Reply};
use kernel::exit::{Access, Call, Exit};

use crate::chips::Shared;
use crate::fp::{File, Mind, Mishap};
use crate::script::{HARD_IRQ, IPIS, Op, SOFT_IRQ, Timer, UART_IRQ, Way};
use crate::watch::{Sure, Who};
use crate::{Fake, NOWHERE, RAM, VIRTUAL};

/// How often in a row a guest may be sent back to an instruction that has not become possible.
const TRIES: u32 = 8;
/// How often in a row it may be woken for nothing.
const IDLES: u32 = 100;

// UART registers, DDI0183G table 3-1.
const DR: u64 = 0x000;
const FR: u64 = 0x018;
const LCR_H: u64 = 0x02c;
const IMSC: u64 = 0x038;
const ICR: u64 = 0x044;
const FR_RXFE: u64 = 1 << 4;
const FR_TXFF: u64 = 1 << 5;

/// A timer of a vCPU.
#[derive(Debug, Default)]
pub struct TimerState {
    due: Option<u64>,
    fired: bool,
}

impl TimerState {
    /// When it fires, if it has not.
    pub fn deadline(&self) -> Option<u64> {
        self.due.filter(|_| !self.fired)
    }

    /// Whether it has to fire now.
    pub fn is_due(&self, now: u64) -> bool {
        self.deadline().is_some_and(|at| at <= now)
    }

    /// It fires, once.
    pub fn fire(&mut self) {
        self.fired = true;
    }
}

/// A thing that takes several accesses to the UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Waits for room for a byte.
    Poll(u8),
    Send(u8),
    /// Looks whether there is anything to read.
    Look,
    Read,
    Clear,
    EnableFifo,
    EnableInterrupt,
    /// Switches the emulated timer off.
    Quiet,
}

/// An access to a device that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mmio {
    None,
    Asked(Way),
    Done(u64),
}

/// A pretend vCPU's registers, and its mind.
pub struct FakeGuest {
    shared: Arc<Shared>,
    index: usize,
    /// Interrupts it holds in its hands: pending, and given to it.
    pub held: u32,
    /// The timer that the hardware runs.
    pub hard: TimerState,
    /// The timer that is emulated.
    pub soft: TimerState,
    mind: Mind,
    pc: usize,
    rounds: u8,
    /// What is left of an operation that takes time, or bytes.
    left: Option<u64>,
    masked: bool,
    /// Until when it waits, if it does.
    wait: Option<Option<u64>>,
    mmio: Mmio,
    job: Option<Job>,
    handler: Option<Job>,
    call: Option<(Call, Sure)>,
    fault: Option<Fault>,
    expected: Option<Fault>,
    tries: u32,
    idles: u32,
    /// It must not run again.
    gone: bool,
    /// The values of the ledger, as last told.
    ledger: [u64; 4],
    touches: [u64; 4],
    calls: u64,
}

impl FakeGuest {
    pub(crate) fn new(shared: Arc<Shared>, index: usize) -> Self {
        let mind = Mind::new(shared.plot.limit, 1);
        Self {
            shared,
            index,
            held: 0,
            hard: TimerState::default(),
            soft: TimerState::default(),
            mind,
            pc: 0,
            rounds: 0,
            left: None,
            masked: false,
            wait: None,
            mmio: Mmio::None,
            job: None,
            handler: None,
            call: None,
            fault: None,
            expected: None,
            tries: 0,
            idles: 0,
            gone: true,
            ledger: [0; 4],
            touches: [0; 4],
            calls: 0,
        }
    }

    /// Its number in its guest.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Who it is.
    pub fn who(&self) -> Who {
        (self.shared.life, self.index)
    }

    fn wrong(&self, what: impl core::fmt::Display) {
        let (life, index) = self.who();
        self.shared.world.fail(format!("vCPU {index} of life {life} at {}: {what}", self.pc));
    }

    fn op(&self) -> Option<Op> {
        self.shared.plot.scripts[self.index].get(self.pc).copied()
    }

    /// The next operation.
    fn done(&mut self) {
        self.pc += 1;
        (self.left, self.tries) = (None, 0);
        self.shared.note(self.index, |watch, who, _| watch.lives[who.0].deeds += 1);
    }

    fn mask(&mut self, masked: bool) {
        if self.masked != masked {
            self.masked = masked;
            self.shared.note(self.index, |watch, who, now| watch.opens(who, (!masked).then_some(now)));
        }
    }

    /// It enters the guest on `cpu`.
    pub(crate) fn check_in(&mut self, cpu: usize) {
        self.shared.check(self.index, |watch, who, now| {
            watch.entered(who, cpu, now)?;
            watch.waits(who, None);
            Ok(())
        });
        if self.gone || self.call.is_some() || matches!(self.mmio, Mmio::Asked(_)) {
            self.wrong(format_args!("it runs, but {:?} {:?} was not answered", self.call, self.mmio));
        }
    }

    /// It leaves the guest.
    pub(crate) fn check_out(&mut self) {
        self.shared.note(self.index, |watch, who, now| watch.left(who, now));
    }

    /// Takes into its hands what is pending for it.
    pub(crate) fn collect(&mut self) {
        self.shared.collect(self.index, &mut self.held);
    }

    /// An exception is raised in it.
    pub(crate) fn inject(&mut self, fault: Fault) {
        if self.expected != Some(fault) {
            self.wrong(format_args!("{fault:?} was raised, expected {:?}", self.expected));
        }
        self.fault = Some(fault);
        self.mmio = Mmio::None;
    }

    /// Takes the interrupts that it holds, if it takes any now.
    pub(crate) fn take_interrupts(&mut self) {
        while self.held != 0 && !self.masked && self.mmio == Mmio::None && self.fault.is_none() {
            let irq = self.held.trailing_zeros() as usize;
            self.held &= !(1 << irq);
            self.shared.check(self.index, |watch, who, now| watch.took(who, irq, now));
            if self.shared.is_pending(self.index, irq) {
                // It was sent again while the guest held it.
                self.shared.note(self.index, |watch, who, now| watch.claims(who, irq, Some(now)));
            }
            self.handler = match irq {
                SOFT_IRQ => Some(Job::Quiet),
                UART_IRQ => Some(Job::Look),
                _ => None,
            };
            if irq == HARD_IRQ {
                self.hard = TimerState::default();
            }
            self.mask(self.handler.is_some());
        }
    }

    /// Does the next thing on `cpu`. Returns why it stops, if it does.
    pub(crate) fn go_on(&mut self, cpu: usize, file: &mut File) -> Option<Exit> {
        if self.fault.take().is_some() {
            self.expected = None;
            self.done();
            return None;
        }
        let value = match core::mem::replace(&mut self.mmio, Mmio::None) {
            Mmio::Done(value) => Some(value),
            _ => None,
        };
        if let Some(job) = self.handler {
            let (next, exit) = self.go_on_with(job, value, cpu);
            self.handler = next;
            if next.is_none() {
                self.mask(false);
                if job == Job::Clear {
                    // A level is looked at when it has been handled: what was handed over meanwhile may be gone.
                    self.held &= !(1 << UART_IRQ);
                    if self.shared.line_is_up(self.index) {
                        self.held |= 1 << UART_IRQ;
                        self.shared.note(self.index, |watch, who, now| watch.line(who.0, Some(who.1), now));
                    }
                }
            }
            return exit;
        }
        if let Some(job) = self.job {
            let (next, exit) = self.go_on_with(job, value, cpu);
            self.job = next;
            if next.is_none() && job != Job::EnableInterrupt {
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            return exit;
        }
        match self.op() {
            Some(op) => self.perform(op, cpu, file),
            None => self.wait_for(cpu, None),
        }
    }

    fn spend(&self, cpu: usize, ticks: u64) -> u64 {
        self.shared.world.run_for(cpu, ticks)
    }

    /// Goes on with a job, whose last access had `value` if it was answered. Returns the job that is left.
    fn go_on_with(&mut self, job: Job, value: Option<u64>, cpu: usize) -> (Option<Job>, Option<Exit>) {
        let Some(value) = value else { return self.begin(job, cpu) };
        let next = match job {
            Job::Poll(byte) if value & FR_TXFF != 0 => {
                self.spend(cpu, 20);
                Some(Job::Poll(byte))
            }
            Job::Poll(byte) => Some(Job::Send(byte)),
            Job::Look if value & FR_RXFE == 0 => Some(Job::Read),
            Job::Look => Some(Job::Clear),
            Job::Read => {
                self.shared.note(self.index, |watch, who, _| watch.lives[who.0].heard.push(value as u8));
                Some(Job::Look)
            }
            Job::EnableFifo => Some(Job::EnableInterrupt),
            Job::Send(_) | Job::Clear | Job::EnableInterrupt | Job::Quiet => None,
        };
        (next, None)
    }

    fn begin(&mut self, job: Job, cpu: usize) -> (Option<Job>, Option<Exit>) {
        self.spend(cpu, 1);
        let (offset, store) = match job {
            Job::Quiet => {
                self.soft = TimerState::default();
                return (None, Some(Exit::Timer));
            }
            Job::Poll(_) | Job::Look => (FR, None),
            Job::Read => (DR, None),
            Job::Send(byte) => (DR, Some(u64::from(byte))),
            Job::Clear => (ICR, Some(0x7ff)),
            Job::EnableFifo => (LCR_H, Some(0x10)),
            Job::EnableInterrupt => (IMSC, Some(0x50)),
        };
        (Some(job), Some(self.access(Fake::UART.start + offset, store)))
    }

    fn access(&mut self, at: u64, store: Option<u64>) -> Exit {
        self.mmio = Mmio::Asked(if store.is_some() { Way::Store } else { Way::Load });
        Exit::Mmio(Access { at: Gpa(at), va: Gpa(at + VIRTUAL), width: 4, store })
    }

    fn perform(&mut self, op: Op, cpu: usize, file: &mut File) -> Option<Exit> {
        match op {
            Op::Compute(ticks) => self.compute(cpu, u64::from(ticks)),
            Op::Mask(ticks) => {
                self.mask(true);
                let exit = self.compute(cpu, u64::from(ticks));
                self.mask(self.left.is_some());
                exit
            }
            Op::Spin => {
                self.spend(cpu, u64::MAX);
                None
            }
            Op::Fp(op) => self.touch(op, cpu, file),
            Op::Ipi { to, irq } => {
                self.spend(cpu, 1);
                let to = usize::from(to) % self.shared.plot.scripts.len();
                self.done();
                Some(Exit::Ring(self.shared.send(to, usize::from(irq) % IPIS)))
            }
            Op::Wait => self.wait_for(cpu, None),
            Op::WaitFor(ticks) => self.wait_for(cpu, Some(ticks)),
            Op::Timer(timer, ticks) => self.program(timer, u64::from(ticks), cpu),
            Op::Listen => {
                if self.left.take().is_some() {
                    self.done();
                } else {
                    self.left = Some(1);
                    self.job = Some(Job::EnableFifo);
                }
                None
            }
            Op::Put(count) => {
                match self.left.get_or_insert(u64::from(count)) {
                    0 => self.done(),
                    _ => self.job = Some(Job::Poll(self.next_byte())),
                }
                None
            }
            Op::Nothing(way) => {
                let store = (way == Way::Store).then_some(7);
                let va = Gpa(NOWHERE + VIRTUAL);
                self.expected = Some(if store.is_some() { Fault::Store(va) } else { Fault::Load(va) });
                self.spend(cpu, 1);
                Some(self.access(NOWHERE, store))
            }
            Op::Odd => {
                self.spend(cpu, 1);
                log::warn!("vCPU {} does something odd", self.index);
                self.done();
                None
            }
            Op::Again(times) => {
                self.spend(cpu, 1);
                self.done();
                if self.rounds < times {
                    (self.rounds, self.pc) = (self.rounds + 1, 0);
                }
                None
            }
            _ => {
                self.spend(cpu, 1);
                self.call(op)
            }
        }
    }

    /// The byte that this guest sends next.
    fn next_byte(&self) -> u8 {
        let written = self.shared.note(self.index, |watch, who, _| watch.lives[who.0].written.len());
        b'!' + (written * (2 * self.shared.past + 3) % 89) as u8
    }

    fn compute(&mut self, cpu: usize, ticks: u64) -> Option<Exit> {
        let left = self.left.unwrap_or(ticks);
        let left = left - self.spend(cpu, left).min(left);
        if left == 0 {
            self.done();
        } else {
            self.left = Some(left);
        }
        None
    }

    fn touch(&mut self, op: crate::fp::Op, cpu: usize, file: &mut File) -> Option<Exit> {
        self.spend(cpu, 1);
        match self.mind.attempt(file, op) {
            Ok(()) => {
                self.done();
                None
            }
            Err(Mishap::Trap(units)) => {
                self.tries += 1;
                if self.tries > TRIES {
                    self.wrong(format_args!("it is not given {units:?}"));
                }
                if !self.mind.limit().units.contains(units) {
                    self.expected = Some(Fault::Undefined);
                }
                Some(Exit::Fp(units))
            }
            Err(mishap) => {
                self.wrong(format_args!("{mishap:x?}, and its mark is {:x}", self.mind.tag()));
                None
            }
        }
    }

    fn wait_for(&mut self, cpu: usize, ticks: Option<u32>) -> Option<Exit> {
        self.spend(cpu, 1);
        let now = self.shared.world.now();
        let until = *self.wait.get_or_insert(ticks.map(|ticks| now + u64::from(ticks)));
        if self.held != 0 || until.is_some_and(|until| until <= now) {
            (self.wait, self.idles) = (None, 0);
            self.mask(false);
            if self.op().is_some() {
                self.done();
            }
            return None;
        }
        self.mask(true);
        self.idles += 1;
        if self.idles > IDLES {
            self.wrong("it is woken again and again for nothing");
        }
        self.shared.note(self.index, |watch, who, _| watch.waits(who, Some(until)));
        Some(Exit::Idle(until.map(Ticks)))
    }

    fn program(&mut self, timer: Timer, ticks: u64, cpu: usize) -> Option<Exit> {
        self.spend(cpu, 1);
        let due = self.shared.world.now() + ticks;
        let state = TimerState { due: Some(due), fired: false };
        let irq = match timer {
            Timer::Hard => HARD_IRQ,
            Timer::Soft => SOFT_IRQ,
        };
        self.held &= !(1 << irq);
        self.shared.retract(self.index, irq);
        self.shared.note(self.index, |watch, who, _| watch.claims(who, irq, Some(due)));
        self.done();
        match timer {
            Timer::Hard => {
                self.hard = state;
                self.shared.world.with(|state| state.set_timer(cpu, Some(due)));
                None
            }
            Timer::Soft => {
                self.soft = state;
                Some(Exit::Timer)
            }
        }
    }
}

impl Guest for FakeGuest {
    fn reset(&mut self, pc: Gpa, arg: u64) {
        let tag = self.shared.note(self.index, |watch, who, _| watch.new_tag(who.0));
        let mut new = Self::new(Arc::clone(&self.shared), self.index);
        new.mind = Mind::new(self.shared.plot.limit, tag);
        new.pc = (pc.0.wrapping_sub(RAM) / 4) as usize;
        (new.gone, new.calls) = (false, self.calls);
        (new.ledger, new.touches) = (self.ledger, self.touches);
        let mut old = core::mem::replace(self, new);
        old.index = usize::MAX;
        self.shared.check(self.index, |watch, who, now| {
            watch.claims(who, HARD_IRQ, None);
            watch.claims(who, SOFT_IRQ, None);
            watch.starts(who, pc, arg, now)
        });
        self.shared.power_on(self.index);
        self.shared.world.step_here();
    }

    fn finish_load(&mut self, value: u64) {
        match self.mmio {
            Mmio::Asked(Way::Load) if self.expected.is_none() => self.mmio = Mmio::Done(value),
            other => self.wrong(format_args!("a load was answered; there is {other:?}")),
        }
    }

    fn finish_store(&mut self) {
        match self.mmio {
            Mmio::Asked(Way::Store) if self.expected.is_none() => self.mmio = Mmio::Done(0),
            other => self.wrong(format_args!("a store was answered; there is {other:?}")),
        }
        if let (None, Some(Job::Send(byte))) = (self.handler, self.job) {
            self.shared.note(self.index, |watch, who, _| watch.lives[who.0].written.push(byte));
        }
    }

    fn finish_call(&mut self, reply: Reply) {
        let checked = match self.call.take() {
            Some((call, before)) => self.check_reply(call, before, reply),
            None => Err(format!("{reply:?} answers no call")),
        };
        match checked {
            Ok(()) => self.done(),
            Err(wrong) => self.wrong(wrong),
        }
    }

    fn emulated_deadline(&self) -> Option<Ticks> {
        self.soft.deadline().map(Ticks)
    }

    fn deadline(&self) -> Option<Ticks> {
        self.shared.world.step_here();
        let (hard, soft) = (self.hard.deadline(), self.soft.deadline());
        hard.into_iter().chain(soft).min().map(Ticks)
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        // A reset replaces the value, and the vCPU lives on.
        if self.index != usize::MAX {
            self.shared.note(self.index, |watch, who, _| watch.died(who));
        }
    }
}
