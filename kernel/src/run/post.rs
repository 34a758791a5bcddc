//! What one CPU has to do with others: rings, messages, vCPUs on their way.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Local;
use crate::addr::{CpuId, Gpa, Ticks};
use crate::arch::{Arch, Cpu, Guest};
use crate::exit::Kicks;
use crate::launch::{Cause, Room};
use crate::machine::{FpOrder, Message};
use crate::mail::{Delivery, Kick, Mail, Phase, Ring};
use crate::sched::{Occasion, Turn, Woken};
use crate::shell::ActionError;
use crate::trace::Kind;
use crate::vcpu::{FpPlace, Vcpu};
use crate::vm::Vm;

impl<A: Arch> Local<A> {
    /// Tells vCPUs of `vm` that something is pending for them.
    #[inline]
    pub(super) fn ring(&mut self, vm: &Arc<Vm<A>>, kicks: Kicks) {
        if !kicks.is_empty() {
            self.ring_each(vm, kicks);
        }
    }

    #[inline(never)]
    pub(super) fn ring_each(&mut self, vm: &Arc<Vm<A>>, kicks: Kicks) {
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
    pub(super) fn ring_there(&mut self, vm: &Arc<Vm<A>>, index: usize) {
        match vm.bell(index).ring() {
            Ring::Nothing => {}
            Ring::KickCpu(cpu) if cpu == self.id => {}
            Ring::KickCpu(cpu) => self.cpu.kick(cpu),
            Ring::WakeOn(cpu) => self.tell(cpu, Message::Wake(Arc::clone(vm), index)),
        }
    }

    /// A wake-up for a vCPU arrived here.
    pub(super) fn deliver(&mut self, vm: &Arc<Vm<A>>, index: usize) {
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

    /// Where some vCPU may run has changed. The one whose turn it is is looked at when its turn ends, which it does.
    fn review(&mut self) {
        let now = self.now();
        self.queue.review(now);
        self.yielding = true;
        self.distribute(Occasion::Routine, now);
    }

    /// Has every CPU look where its vCPUs may run.
    pub(crate) fn review_all(&mut self) {
        for (n, cpu) in self.machine.cpus.iter().enumerate() {
            if cpu.mailbox.review() == Kick::Needed && CpuId(n) != self.id {
                self.cpu.kick(CpuId(n));
            }
        }
    }

    pub(super) fn ask(&mut self, busy: CpuId) {
        if self.machine.cpus[busy.0].mailbox.ask(self.id) == Kick::Needed {
            self.cpu.kick(busy);
        }
    }

    #[inline]
    pub(super) fn read_mail(&mut self) {
        if !self.shared.mailbox.is_empty() {
            self.empty_mailbox();
        }
    }

    #[inline(never)]
    pub(super) fn empty_mailbox(&mut self) {
        while let Some(mail) = self.shared.mailbox.take() {
            match mail {
                Mail::Ask(cpu) => self.distribute(Occasion::Asked(cpu), self.now()),
                Mail::Review => self.review(),
                Mail::Item(Message::Admit(vcpu)) => self.admit(vcpu),
                Mail::Item(Message::Wake(vm, index)) => self.deliver(&vm, index),
                Mail::Item(Message::Start(vm, index, pc, arg)) => self.start(&vm, index, pc, arg),
                Mail::Item(Message::Sweep(vm)) => self.sweep(&vm),
                Mail::Item(Message::Bury(vm)) => self.bury(vm),
                Mail::Item(Message::Launch(tenant)) => self.launch(tenant, Cause::Wanted),
                Mail::Item(Message::Fp(vm, index, order, hops)) => self.obey(&vm, index, order, hops),
            }
        }
    }

    /// Does something with the FP state of a vCPU, or sends the order on to where the vCPU lives by now.
    #[inline(never)]
    fn obey(&mut self, vm: &Arc<Vm<A>>, index: usize, order: FpOrder, hops: u8) {
        let (id, name) = (vm.vcpu_id(index), &vm.identity.name);
        let file = self.cpu.fp();
        let done = match &order {
            FpOrder::Take if !self.machine.make_room(Room::SNAPSHOT) => {
                log::info!("fp {name}/{index}: no snapshot: {}", ActionError::NoRoom);
                Some(())
            }
            FpOrder::Take => self.fp.snapshot(file, id).map(|snapshot| {
                let length = snapshot.bytes().len();
                self.machine.keep(id, snapshot);
                log::info!("fp {name}/{index}: a snapshot of {length} bytes");
            }),
            FpOrder::PutBack(snapshot) => self.fp.put_back(file, id, snapshot).map(|result| match result {
                Ok(()) => log::info!("fp {name}/{index}: put back"),
                Err(error) => log::info!("fp {name}/{index}: not put back: {error}"),
            }),
        };
        match (done, hops.checked_sub(1)) {
            (Some(()), _) => {}
            (None, Some(hops)) => {
                self.tell(vm.bell(index).home(), Message::Fp(Arc::clone(vm), index, order, hops))
            }
            (None, None) => log::info!("fp {name}/{index}: it is on its way or ended; try again"),
        }
    }

    /// Sends vCPUs to other CPUs that have less to do.
    #[inline]
    pub(super) fn distribute(&mut self, occasion: Occasion, now: u64) {
        if self.queue.offers(&self.machine.pool) {
            self.send_off(occasion, now);
        }
    }

    #[inline(never)]
    pub(super) fn send_off(&mut self, occasion: Occasion, now: u64) {
        while let Some((mut vcpu, to)) = self.queue.send_off(occasion, &self.machine.pool, now) {
            if let FpPlace::Here(key) = vcpu.fp.take() {
                vcpu.fp = FpPlace::Carried(self.fp.discharge(self.cpu.fp(), key));
            }
            self.trace.record(Ticks(now), Kind::Migrate, vcpu.id(), to.0 as u64, 0);
            vcpu.bell().queue_on(to);
            self.tell(to, Message::Admit(vcpu));
        }
    }

    pub(super) fn admit(&mut self, mut vcpu: Box<Vcpu<A>>) {
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

    pub(super) fn start(&mut self, vm: &Arc<Vm<A>>, index: usize, pc: Gpa, arg: u64) {
        let id = vm.vcpu_id(index);
        let Some(vcpu) = self.queue.find_mut(id) else { return };
        vcpu.guest.reset(pc, arg);
        if let FpPlace::Here(key) = &vcpu.fp {
            self.fp.reset(self.cpu.fp(), key);
        }
        vcpu.bell().start();
        self.made_ready(id, self.now());
    }
}
