//! From a description to a running guest.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::{CpuId, VmId};
use crate::arch::{Arch, Chips, Cpu, Guest, Plan};
use crate::fp::FpSlot;
use crate::machine::{Machine, Message};
use crate::mem::{MemError, Region};
use crate::run::Local;
use crate::sched::CpuSet;
use crate::vcpu::Vcpu;
use crate::vm::{Identity, Vm};

/// Why a guest was not started.
#[derive(Debug)]
pub enum LaunchError {
    /// There is not enough memory left.
    Memory {
        /// What it asked for, bytes.
        asked: u64,
        /// What is left, bytes.
        left: u64,
        /// The allocator's reason.
        error: MemError,
    },
    /// The heap is used up.
    Heap,
    /// Its image, tree or address space could not be made; the architecture's message.
    Build(String),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { asked, left, .. } => {
                write!(f, "memory: asked for {} KiB, {} KiB are left", asked >> 10, left >> 10)
            }
            Self::Heap => f.write_str("heap: too little is left for its vCPUs and page tables"),
            Self::Build(message) => f.write_str(message),
        }
    }
}

/// What has to be left of the heap, in one piece, for a guest to start, in bytes. The FP images of eight vCPUs take 128 KiB
/// at most, and page tables and the rest less; some has to be left for what is done while guests run.
const ROOM_FOR_GUEST: usize = 256 << 10;
/// The same for a snapshot to be kept, which takes 16 KiB at most.
pub(crate) const ROOM_FOR_SNAPSHOT: usize = 64 << 10;

/// Tells whether the heap has so many bytes in one piece. Where what is allocated depends on what was asked for, it is looked
/// at before, since an allocation that fails is a panic.
pub(crate) fn heap_has(bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    let has = room.try_reserve_exact(bytes).is_ok();
    // An allocation that nobody uses may be taken for one that succeeds.
    core::hint::black_box(&room);
    has
}

impl<A: Arch> Machine<A> {
    /// The CPU that vCPU `index` of guest `vm` starts on: vCPUs are dealt out in turn over those allowed.
    fn home(&self, vm: VmId, index: usize, affinity: CpuSet) -> CpuId {
        let online = self.pool.online();
        let allowed = if (affinity & online).is_empty() { online } else { affinity & online };
        let count = allowed.iter().count().max(1);
        allowed.iter().nth((usize::from(vm.0) + index) % count).unwrap_or(CpuId(0))
    }
}

impl<A: Arch> Local<A> {
    /// Starts a guest that does not run, and says so or why not.
    pub fn launch(&mut self, id: VmId) {
        let Some(tenant) = self.machine.tenants.get(usize::from(id.0)) else { return };
        if tenant.vm().is_some() {
            return;
        }
        let name = tenant.domain.name;
        let from = self.cpu.now().0;
        let built = self.build(id);
        tenant.note_built(from, self.cpu.now().0);
        match built {
            Ok(vm) => {
                log::info!("vm {name} started: {} vCPUs, {} MiB", vm.vcpus(), tenant.domain.memory >> 20)
            }
            Err(error) => {
                tenant.refuse();
                log::error!("vm {name} not started: {error}");
                if self.machine.is_done() {
                    self.halt();
                }
            }
        }
        self.housekeep();
    }

    fn build(&mut self, id: VmId) -> Result<Arc<Vm<A>>, LaunchError> {
        let tenant = &self.machine.tenants[usize::from(id.0)];
        let domain = &tenant.domain;
        if !heap_has(ROOM_FOR_GUEST) {
            return Err(LaunchError::Heap);
        }
        if domain.device_tree.is_some() {
            log::warn!(
                "vm {}: a device tree of its own is not used; devices are not passed through",
                domain.name
            );
        }
        let ram = {
            let mut memory = self.machine.memory.lock();
            memory.allocate(domain.memory).map_err(|error| LaunchError::Memory {
                asked: domain.memory,
                left: memory.free_regions().total(),
                error,
            })?
        };
        let plan = Plan { vm: id, domain, ram: &ram, now: self.cpu.now() };
        let (chips, start) = match A::Chips::build(&plan) {
            Ok(built) => built,
            Err(error) => {
                self.give_back(&ram);
                return Err(LaunchError::Build(error.to_string()));
            }
        };
        let vm = self.assemble(id, chips, ram);
        self.machine.console.reset(crate::console::PortId::of(id));
        tenant.run_as(Arc::clone(&vm.0));
        // The first vCPU last: it runs as soon as it is admitted, and may start the others, which must be at home then.
        for (index, mut vcpu) in vm.1.into_iter().enumerate().rev() {
            if index == 0 {
                vcpu.guest.reset(start.pc, start.arg);
                if vcpu.bell().power_on().is_ok() {
                    vcpu.bell().start();
                }
            }
            self.tell(vcpu.bell().home(), Message::Admit(vcpu));
        }
        Ok(vm.0)
    }

    /// Makes the VM and its vCPUs, all powered off.
    fn assemble(&self, id: VmId, chips: Arc<A::Chips>, ram: Vec<Region>) -> (Arc<Vm<A>>, Vec<Box<Vcpu<A>>>) {
        let tenant = &self.machine.tenants[usize::from(id.0)];
        let domain = &tenant.domain;
        let cpus = domain.cpus as usize;
        let affinity = domain.affinity;
        let homes: Vec<CpuId> = (0..cpus).map(|index| self.machine.home(id, index, affinity)).collect();
        let number = |index: usize| crate::addr::VcpuId(u32::from(id.0) << 8 | index as u32);
        let slots: Vec<_> = (0..cpus)
            .map(|index| Box::new(FpSlot::new(number(index), chips.fp_limit(), Arc::clone(&tenant.policy))))
            .collect();
        let ledgers = slots.iter().map(|slot| slot.ledger()).collect();
        let identity = Identity {
            id,
            name: String::from(domain.name),
            weight: domain.weight,
            affinity,
            policy: Arc::clone(&tenant.policy),
            ram,
        };
        let vm = Arc::new(Vm::new(identity, Arc::clone(&chips), &homes, ledgers));
        let vcpus = slots
            .into_iter()
            .enumerate()
            .map(|(index, slot)| Box::new(Vcpu::new(Arc::clone(&vm), index, chips.guest(index), slot)))
            .collect();
        (vm, vcpus)
    }

    fn give_back(&self, ram: &[Region]) {
        let mut memory = self.machine.memory.lock();
        for region in ram {
            if let Err(error) = memory.release(*region) {
                log::error!("memory {region} cannot be given back: {error:?}");
            }
        }
    }
}
