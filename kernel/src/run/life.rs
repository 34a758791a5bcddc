//! How guests end, and start anew.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Local;
use crate::addr::{CpuId, Ticks, VmId};
use crate::arch::{Arch, Chips, Cpu};
use crate::launch::Cause;
use crate::machine::{HOUSEKEEPER, Message};
use crate::sched::Turn;
use crate::trace::Kind;
use crate::vcpu::{FpPlace, Vcpu};
use crate::vm::{End, Vm};

/// From one start of a guest that resets itself to the next, at least so many times what building it takes.
const RELAUNCH_SPACING: u64 = 16;

impl<A: Arch> Local<A> {
    /// Ends a guest; its vCPUs stop wherever they are.
    pub(crate) fn finish(&mut self, vm: &Arc<Vm<A>>, end: End) {
        if !vm.finish(end) {
            return;
        }
        for n in 0..self.machine.cpus.len() {
            self.tell(CpuId(n), Message::Sweep(Arc::clone(vm)));
        }
    }

    pub(super) fn sweep(&mut self, vm: &Vm<A>) {
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
    pub(super) fn dismiss(&mut self, mut vcpu: Box<Vcpu<A>>) {
        self.trace.record(self.cpu.now(), Kind::Stop, vcpu.id(), 0, 0);
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

    pub(super) fn purge(&mut self, vm: &Vm<A>) {
        for index in 0..vm.vcpus() {
            self.fp.purge(self.cpu.fp(), vm.vcpu_id(index));
        }
    }

    /// The last vCPU of `vm` ended: its memory is free, and it starts anew or not.
    pub(super) fn bury(&mut self, vm: Arc<Vm<A>>) {
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
        drop(vm);
        match end {
            End::Reset => self.relaunch(id),
            End::Restarted => self.launch(id, Cause::Anew),
            _ if self.machine.is_done() => self.halt(),
            _ => {}
        }
    }

    /// Starts a guest anew that asked for it: so much later that building it over and over takes a small part of
    /// this CPU, whatever the guest does.
    pub(super) fn relaunch(&mut self, id: VmId) {
        let now = self.now();
        let tenant = &self.machine.tenants[usize::from(id.0)];
        let (built, took) = tenant.built();
        let earliest = built.saturating_add(took.saturating_mul(RELAUNCH_SPACING));
        if now >= earliest {
            return self.launch(id, Cause::Anew);
        }
        self.relaunches.push((earliest, id));
        self.alarm_due = true;
    }

    /// Starts the guests whose time has come.
    pub(super) fn relaunch_due(&mut self, now: u64) {
        while let Some(at) = self.relaunches.iter().position(|(when, _)| *when <= now) {
            let (_, id) = self.relaunches.swap_remove(at);
            self.launch(id, Cause::Anew);
        }
    }

    /// When the next guest starts anew.
    pub(super) fn next_relaunch(&self) -> Option<Ticks> {
        self.relaunches.iter().map(|(when, _)| Ticks(*when)).min()
    }

    /// Switches the machine off.
    pub(crate) fn halt(&mut self) -> ! {
        self.machine.dump_rest();
        log::info!("halted");
        self.machine.console.flush();
        self.cpu.power_off()
    }
}
