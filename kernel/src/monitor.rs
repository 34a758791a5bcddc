//! The machine as the monitor's prompt sees it.
//!
//! Views are read from what CPUs publish. Actions need the CPU's hands, so they are noted while the prompt runs
//! and carried out when it has returned.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::Ordering;

use crate::addr::{CpuId, VcpuId, VmId};
use crate::arch::Arch;
use crate::console::{Console, PortId};
use crate::fp::{FpContext, Policy, Resident, Snapshot, Tally, Units};
use crate::launch::Room;
use crate::machine::{CpuShared, Dumping, FpOrder, HOUSEKEEPER, Machine, Message};
use crate::mail::Phase;
use crate::run::Local;
use crate::sched::CpuSet;
use crate::shell::{
    ActionError, Audit, CpuView, FpCounters, FpCpuView, FpSeatView, FpVcpuView, Monitor, Screen, VcpuState,
    VcpuView, VmState, VmView,
};
use crate::trace::{self, More, Trace};
use crate::vm::{End, Vm};

/// How often an order for a vCPU follows it to another CPU.
const HOPS: u8 = 8;

/// What the prompt asked for.
enum Request {
    Fp(VcpuId, FpOrder),
    Stop(VmId, End),
    Start(VmId),
    Review,
    PowerOff,
}

/// The machine behind the prompt.
struct Desk<A: Arch> {
    machine: &'static Machine<A>,
    requests: RefCell<Vec<Request>>,
}

impl<A: Arch> Local<A> {
    /// Lets the prompt take the keys that wait, and does what it asks for.
    pub(crate) fn prompt(&mut self) {
        let desk = Desk { machine: self.machine, requests: RefCell::default() };
        self.machine.shell.poll(self.machine.console, &desk);
        for request in desk.requests.into_inner() {
            match request {
                Request::Stop(vm, end) => {
                    if let Some(vm) =
                        self.machine.tenants.get(usize::from(vm.0)).and_then(|tenant| tenant.vm())
                    {
                        self.finish(&vm, end);
                    }
                }
                Request::Fp(id, order) => {
                    let vm = self.machine.tenants.get((id.0 >> 8) as usize).and_then(|tenant| tenant.vm());
                    let index = (id.0 & 0xff) as usize;
                    if let Some(vm) = vm.filter(|vm| index < vm.vcpus()) {
                        self.tell(vm.bell(index).home(), Message::Fp(vm, index, order, HOPS));
                    }
                }
                Request::Start(vm) => self.tell(HOUSEKEEPER, Message::Launch(vm)),
                Request::Review => self.review_all(),
                Request::PowerOff => self.halt(),
            }
        }
        let _ = self.machine.console.drain();
    }
}

/// Counters as the prompt shows them.
fn counters(tally: &Tally) -> FpCounters {
    FpCounters {
        traps: tally.traps.iter().sum(),
        requests: tally.requests(),
        refusals: tally.refused(),
        loads: tally.loads,
        skips: tally.skips,
        widenings: tally.widenings,
        saves: tally.saves(),
        saves_avoided: tally.saves_avoided,
        evictions: tally.evictions,
        flushes: tally.migration_flushes,
        bytes_in: tally.bytes_in,
        bytes_out: tally.bytes_out,
    }
}

/// Picks the CPU that holds values of a vCPU. One that it left may still have a copy, which counts for nothing once there are
/// newer values elsewhere.
fn holder(id: VcpuId, residents: impl Iterator<Item = (CpuId, Resident)>) -> Option<CpuId> {
    let holders = residents.filter(|(_, resident)| resident.owner == id);
    holders.min_by_key(|(_, resident)| resident.dirty.is_empty()).map(|(cpu, _)| cpu)
}

impl<A: Arch> Desk<A> {
    fn running(&self) -> impl Iterator<Item = Arc<Vm<A>>> {
        self.machine.tenants.iter().filter_map(|tenant| tenant.vm())
    }

    fn micros(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000 / u128::from(self.machine.hz.max(1))) as u64
    }

    /// A vCPU's name by its number, as `linux0/1`.
    fn name(&self, id: VcpuId) -> String {
        let tenant = self.machine.tenants.get((id.0 >> 8) as usize);
        format!("{}/{}", tenant.map_or("?", |tenant| tenant.domain.name), id.0 & 0xff)
    }

    /// A published vCPU number plus one.
    fn published(&self, word: u64) -> Option<String> {
        (word != 0).then(|| self.name(VcpuId((word - 1) as u32)))
    }

    /// Which CPU's registers hold values of a vCPU.
    fn resident(&self, id: VcpuId) -> Option<CpuId> {
        let cpus = self.machine.cpus.iter().enumerate();
        holder(id, cpus.flat_map(|(n, cpu)| cpu.status.residents().map(move |resident| (CpuId(n), resident))))
    }

    /// The number of a vCPU by its name, `NAME/N`, whether it runs or not.
    fn numbered(&self, name: &str) -> Option<VcpuId> {
        let (vm, index) = name.rsplit_once('/')?;
        let vm = self.machine.tenants.iter().position(|tenant| tenant.domain.name == vm)?;
        let index: u8 = index.parse().ok()?;
        Some(VcpuId((vm as u32) << 8 | u32::from(index)))
    }

    /// The same, of a vCPU that exists now.
    fn find(&self, name: &str) -> Result<VcpuId, ActionError> {
        let id = self.numbered(name).ok_or(ActionError::NoSuchVcpu)?;
        let vm = self.machine.tenants.get((id.0 >> 8) as usize).and_then(|tenant| tenant.vm());
        let exists = vm.is_some_and(|vm| !vm.is_ending() && ((id.0 & 0xff) as usize) < vm.vcpus());
        if exists { Ok(id) } else { Err(ActionError::NoSuchVcpu) }
    }

    /// The newest snapshot of a vCPU.
    fn newest(&self, id: VcpuId) -> Option<Arc<Snapshot>> {
        let [newest, _] = self.machine.kept(id);
        newest
    }

    fn note(&self, request: Request) {
        self.requests.borrow_mut().push(request);
    }

    fn tenant(&self, vm: VmId) -> Result<&crate::machine::Tenant<A>, ActionError> {
        self.machine.tenants.get(usize::from(vm.0)).ok_or(ActionError::NotBuilt)
    }
}

impl<A: Arch> Monitor for Desk<A> {
    fn console(&self) -> &Console {
        self.machine.console
    }

    fn vms(&self) -> Vec<VmView> {
        let view = |(n, tenant): (usize, &crate::machine::Tenant<A>)| VmView {
            id: VmId(n as u16),
            name: tenant.domain.name.to_string(),
            state: match (tenant.vm(), tenant.end()) {
                (Some(vm), _) if vm.is_ending() => VmState::Stopped,
                (Some(_), _) => VmState::Running,
                (None, Some(End::Crashed(_))) => VmState::Crashed,
                (None, Some(End::PoweredOff)) => VmState::Off,
                (None, Some(_)) => VmState::Stopped,
                (None, None) => VmState::Failed,
            },
            vcpus: tenant.domain.cpus as usize,
            memory: tenant.domain.memory,
            policy: tenant.policy.policy().name(),
            cpus: tenant.affinity.get() & self.machine.pool.online(),
            allowed: tenant.domain.affinity & self.machine.pool.online(),
            port: PortId::of(VmId(n as u16)),
        };
        self.machine.tenants.iter().enumerate().map(view).collect()
    }

    fn vcpus(&self) -> Vec<VcpuView> {
        let mut views = Vec::new();
        for vm in self.running() {
            for index in 0..vm.vcpus() {
                let stats = vm.stats(index);
                let (ran, _, moves) = stats.account();
                views.push(VcpuView {
                    name: self.name(vm.vcpu_id(index)),
                    state: match vm.bell(index).phase() {
                        Phase::Off => VcpuState::Off,
                        Phase::Starting | Phase::Queued => VcpuState::Queued,
                        Phase::Running => VcpuState::Running,
                        Phase::Sleeping => VcpuState::Asleep,
                    },
                    home: vm.bell(index).home(),
                    run_micros: self.micros(ran),
                    exits: stats.exits().iter().sum(),
                    migrations: moves,
                });
            }
        }
        views
    }

    fn cpus(&self) -> Vec<CpuView> {
        let now = (self.machine.now)().0;
        let view = |(n, cpu): (usize, &CpuShared<A>)| {
            let idle = cpu.status.idle.load(Ordering::Relaxed);
            CpuView {
                id: CpuId(n),
                load_permille: (1000 - (u128::from(idle.min(now)) * 1000 / u128::from(now.max(1))).min(1000))
                    as u16,
                idle_micros: self.micros(idle),
                current: self.published(cpu.status.running.load(Ordering::Relaxed)),
                queued: cpu.status.queued.load(Ordering::Relaxed) as usize,
                exits: cpu.status.exits.load(Ordering::Relaxed),
                switches: cpu.status.turns.load(Ordering::Relaxed),
            }
        };
        self.machine.cpus.iter().enumerate().map(view).collect()
    }

    fn fp_vcpus(&self) -> Vec<FpVcpuView> {
        let mut views = Vec::new();
        for vm in self.running() {
            for index in 0..vm.vcpus() {
                let tally = vm.ledger(index).map(|ledger| ledger.tally()).unwrap_or_default();
                // A unit that never trapped can still have been used: an eager policy loads it unasked.
                views.push(FpVcpuView {
                    name: self.name(vm.vcpu_id(index)),
                    policy: vm.identity.policy.policy().name(),
                    widest: A::fp_name(tally.used()),
                    resident: self.resident(vm.vcpu_id(index)),
                    counters: counters(&tally),
                });
            }
        }
        views
    }

    fn fp_cpus(&self) -> Vec<FpCpuView> {
        let seat = |resident: Resident| FpSeatView {
            owner: self.name(resident.owner),
            units: A::fp_name(resident.valid),
            state: if resident.dirty.is_empty() { "clean" } else { "dirty" },
        };
        let view = |(n, cpu): (usize, &CpuShared<A>)| FpCpuView {
            id: CpuId(n),
            seats: cpu.status.residents().map(seat).collect(),
            counters: counters(&cpu.ledger.get().map(|ledger| ledger.tally()).unwrap_or_default()),
        };
        self.machine.cpus.iter().enumerate().map(view).collect()
    }

    fn policies(&self) -> &'static [&'static str] {
        &Policy::NAMES
    }

    fn audit(&self) -> Audit {
        if self.machine.audit.is_on() { Audit::On } else { Audit::Off }
    }

    fn trace(&self, out: &mut dyn fmt::Write, count: usize) -> fmt::Result {
        self.machine.write_trace(out, count)
    }

    fn dump_trace(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.machine.dump_trace(out).map(|_| ())
    }

    fn stop(&self, vm: VmId) -> Result<(), ActionError> {
        self.tenant(vm)?.vm().ok_or(ActionError::NotRunning)?;
        self.note(Request::Stop(vm, End::Stopped));
        Ok(())
    }

    fn start(&self, vm: VmId) -> Result<(), ActionError> {
        match self.tenant(vm)?.vm() {
            Some(vm) if vm.is_ending() => Err(ActionError::Busy),
            Some(_) => Err(ActionError::AlreadyRunning),
            None => {
                self.note(Request::Start(vm));
                Ok(())
            }
        }
    }

    fn restart(&self, vm: VmId) -> Result<(), ActionError> {
        match self.tenant(vm)?.vm() {
            Some(running) if running.is_ending() => return Err(ActionError::Busy),
            Some(_) => self.note(Request::Stop(vm, End::Restarted)),
            None => self.note(Request::Start(vm)),
        }
        Ok(())
    }

    fn set_policy(&self, vm: VmId, policy: &str) -> Result<(), ActionError> {
        let policy = policy.parse().map_err(|_| ActionError::NoSuchPolicy)?;
        self.tenant(vm)?.policy.set(policy);
        Ok(())
    }

    fn set_affinity(&self, vm: VmId, cpus: CpuSet) -> Result<(), ActionError> {
        let tenant = self.tenant(vm)?;
        let possible = tenant.domain.affinity & self.machine.pool.online();
        if cpus.is_empty() || !(cpus & !possible).is_empty() {
            return Err(ActionError::NotThere(possible));
        }
        tenant.affinity.set(cpus);
        if let Some(vm) = tenant.vm() {
            vm.identity.affinity.set(cpus);
            self.note(Request::Review);
        }
        Ok(())
    }

    fn take_fp(&self, vcpu: &str) -> Result<(), ActionError> {
        self.note(Request::Fp(self.find(vcpu)?, FpOrder::Take));
        Ok(())
    }

    fn put_back_fp(&self, vcpu: &str, from: &str) -> Result<(), ActionError> {
        let (id, from) = (self.find(vcpu)?, self.numbered(from).ok_or(ActionError::NoSuchVcpu)?);
        let kept = self.newest(from).ok_or(ActionError::NoSnapshot)?;
        self.note(Request::Fp(id, FpOrder::PutBack(kept)));
        Ok(())
    }

    fn newest_fp(&self, vcpu: &str) -> Option<Arc<Snapshot>> {
        self.newest(self.numbered(vcpu)?)
    }

    fn keep_fp(&self, vcpu: &str, snapshot: Snapshot) -> Result<(), ActionError> {
        let id = self.find(vcpu)?;
        snapshot.check(&A::Fp::LAYOUT).map_err(ActionError::Snapshot)?;
        if !self.machine.make_room(Room::SNAPSHOT) {
            return Err(ActionError::NoRoom);
        }
        self.machine.keep(id, snapshot);
        Ok(())
    }

    fn fp_snapshots(&self, vcpu: &str) -> [Option<Vec<(String, String)>>; 2] {
        let kept = self.numbered(vcpu).map(|id| self.machine.kept(id));
        kept.unwrap_or_default().map(|kept| Some(kept?.named(&A::Fp::LAYOUT)))
    }

    fn set_audit(&self, audit: Audit) {
        match audit {
            Audit::On => self.machine.audit.enable(),
            Audit::Off => self.machine.audit.disable(),
        }
    }

    fn power_off(&self) {
        self.note(Request::PowerOff);
    }
}

/// How many records are looked at for one page of a dump: what they make fits on Fermata's port.
const PAGE: usize = 250;

impl<A: Arch> Machine<A> {
    /// Writes the newest `count` trace records of all CPUs, one per line.
    pub fn write_trace(&self, out: &mut dyn fmt::Write, count: usize) -> fmt::Result {
        self.with_traces(|rings| trace::write(out, rings, count, self.hz))
    }

    fn with_traces<T>(&self, act: impl FnOnce(&[&Trace]) -> T) -> T {
        let mut rings: [&Trace; trace::CPUS] = [&self.cpus[0].trace; trace::CPUS];
        let cpus = self.cpus.len().min(trace::CPUS);
        for (ring, cpu) in rings.iter_mut().zip(&self.cpus) {
            *ring = &cpu.trace;
        }
        act(&rings[..cpus])
    }

    /// Writes one page of a [dump](trace::dump), with the names of what it is about before it, and whether there is more
    /// after it.
    fn dump_trace(&self, out: &mut dyn fmt::Write) -> Result<More, fmt::Error> {
        writeln!(out, "dump {:x} {:x}", self.hz, self.cpus.len())?;
        for group in A::Fp::GROUPS {
            writeln!(out, "group {:x}", group.bits())?;
        }
        let all: Units = A::Fp::GROUPS.iter().copied().collect();
        for unit in (0..Units::all().bits().count_ones()).map(|n| Units::from_bits_retain(1 << n)) {
            if all.contains(unit) {
                writeln!(out, "unit {:x} {}", unit.bits(), A::fp_name(unit))?;
            }
        }
        for (n, tenant) in self.tenants.iter().enumerate() {
            writeln!(out, "vm {n:x} {}", tenant.domain.name)?;
        }
        let more = self.with_traces(|rings| trace::dump(out, rings, PAGE))?;
        writeln!(out, "dump {}", if more == More::Yes { "more" } else { "end" })?;
        Ok(more)
    }

    /// Dumps what is left of the trace if it is to be dumped. What other CPUs add meanwhile is not waited for.
    pub(crate) fn dump_rest(&self) {
        if self.dumping == Dumping::OnDemand {
            return;
        }
        let room: usize = self.cpus.iter().map(|cpu| cpu.trace.room()).sum();
        for _ in 0..=room / PAGE {
            let more = self.dump_trace(&mut Screen(self.console));
            self.console.flush();
            if more != Ok(More::Yes) {
                break;
            }
        }
    }

    /// What a panic says beside its message: who ran where, the FP ledger, the latest records. Takes no lock.
    pub fn last_words(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for (n, cpu) in self.cpus.iter().enumerate() {
            match cpu.status.running.load(Ordering::Relaxed).checked_sub(1) {
                Some(id) => write!(out, "cpu {n}: {}/{} runs; ", id >> 8, id & 0xff)?,
                None => write!(out, "cpu {n}: nobody runs; ")?,
            }
            for Resident { owner: VcpuId(id), valid, dirty } in cpu.status.residents() {
                let state = if dirty.is_empty() { "clean" } else { "dirty" };
                write!(out, "{}/{} is in {}, {state}; ", id >> 8, id & 0xff, A::fp_name(valid))?;
            }
            writeln!(out)?;
            if let Some(ledger) = cpu.ledger.get() {
                for (name, value) in ledger.tally().named() {
                    write!(out, "{name} {value} ")?;
                }
                writeln!(out)?;
            }
        }
        self.write_trace(out, 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_was_left_behind_does_not_hide_where_the_values_are() {
        let units = Units::from_bits_retain(1);
        let of = |owner, dirty| Resident { owner: VcpuId(owner), valid: units, dirty };
        let all = [of(7, Units::empty()), of(8, units), of(7, units), of(9, Units::empty())];
        let all = || all.into_iter().enumerate().map(|(n, resident)| (CpuId(n), resident));
        assert_eq!(
            [7, 8, 9, 1].map(|id| holder(VcpuId(id), all()).map(|cpu| cpu.0)),
            [Some(2), Some(1), Some(3), None]
        );
    }
}
