//! From a description to a running guest.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::{CpuId, VmId};
use crate::arch::{Arch, Chips, Cpu, Guest, Plan};
use crate::domain::Domain;
use crate::fp::FpSlot;
use crate::machine::{Machine, Message};
use crate::mem::{MemError, Region};
use crate::run::Local;
use crate::sched::{CpuSet, CpuSetCell};
use crate::vcpu::Vcpu;
use crate::vm::{Identity, Vm};

/// What a guest was counted to take of the heap, in bytes, with a little more.
const COUNTED_BYTES: usize = 192 << 10;

/// Room that the heap may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many blocks.
    pub blocks: usize,
    /// Of so many bytes each.
    pub bytes: usize,
}

impl Room {
    /// Enough for a guest, beside the page tables of much memory: what one takes was counted to be at most 168 KiB, of which
    /// eight FP images of SVE with 2048 bits take 128, and the largest request 9 KiB.
    ///
    /// A buddy heap takes the smallest block that is large enough and leaves of it blocks of different sizes. So a request
    /// that is larger than each of these is larger than all of them, and as long as no request is larger than a block, all
    /// are granted until the last block is used up.
    pub const GUEST: Self = Self { blocks: 16, bytes: 16 << 10 };

    /// Enough for a snapshot of at most 9,600 bytes and the list of those that are kept, and for a guest.
    pub const SNAPSHOT: Self = Self { blocks: Self::GUEST.blocks + 4, ..Self::GUEST };

    /// Enough for `domain`.
    fn of(domain: &Domain<'_>) -> Self {
        // Page tables take 4 KiB for each GiB, and here as much again: memory need not start at a multiple of one.
        let tables = (domain.memory >> 17) as usize;
        Self { bytes: Self::GUEST.bytes.max((COUNTED_BYTES + tables) / Self::GUEST.blocks), ..Self::GUEST }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} KiB", self.blocks, self.bytes >> 10)
    }
}

/// Why a guest is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wants it to run. As much of the heap has to be left for one that starts anew.
    Wanted,
    /// It ran, and starts anew.
    Anew,
}

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
    /// The heap does not have this.
    Heap(Room),
    /// Its image, tree or address space could not be made; the architecture's message.
    Build(String),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { asked, left, .. } => {
                write!(f, "memory: asked for {} KiB, {} KiB are left", asked >> 10, left >> 10)
            }
            Self::Heap(room) => write!(f, "heap: asked for {room}, which it does not have"),
            Self::Build(message) => f.write_str(message),
        }
    }
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
    pub fn launch(&mut self, id: VmId, cause: Cause) {
        let Some(tenant) = self.machine.tenants.get(usize::from(id.0)) else { return };
        if tenant.vm().is_some() {
            return;
        }
        let name = tenant.domain.name;
        let from = self.cpu.now().0;
        let built = self.build(id, cause);
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

    fn build(&mut self, id: VmId, cause: Cause) -> Result<Arc<Vm<A>>, LaunchError> {
        let tenant = &self.machine.tenants[usize::from(id.0)];
        let domain = &tenant.domain;
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
        let mut room = Room::of(domain);
        if cause == Cause::Wanted {
            room.blocks += Room::GUEST.blocks;
        }
        if !self.machine.make_room(room) {
            self.give_back(&ram);
            return Err(LaunchError::Heap(room));
        }
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
        let affinity = tenant.affinity.get();
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
            affinity: CpuSetCell::new(affinity),
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
