//! One virtual CPU.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::addr::VcpuId;
use crate::arch::Arch;
use crate::fp::{FpKey, FpSlot};
use crate::mail::Doorbell;
use crate::sched::{Account, CpuSet, Turn};
use crate::vm::{Post, VcpuStats, Vm};

/// Where a vCPU's floating-point state is looked after.
pub enum FpPlace<A: Arch> {
    /// By the CPU where the vCPU lives.
    Here(FpKey),
    /// With the vCPU, which is on its way.
    Carried(Box<FpSlot<A::Fp>>),
    /// Nowhere: it was dismissed, or is changing hands.
    Nowhere,
}

impl<A: Arch> FpPlace<A> {
    /// Takes it out, leaving nothing.
    pub fn take(&mut self) -> Self {
        core::mem::replace(self, Self::Nowhere)
    }
}

/// A virtual CPU. It is a value: running, queued or asleep on one CPU, or in one message.
pub struct Vcpu<A: Arch> {
    id: VcpuId,
    index: usize,
    account: Account,
    /// Its own, so that it is found in one step: it is looked at on each way into the guest.
    post: Arc<Post>,
    /// Its guest.
    pub vm: Arc<Vm<A>>,
    /// Its registers.
    pub guest: A::Guest,
    /// Its floating-point state.
    pub fp: FpPlace<A>,
    /// Something was made pending for it by its own CPU, without its bell.
    pub news: bool,
}

impl<A: Arch> Vcpu<A> {
    /// vCPU `index` of `vm`, powered off.
    pub fn new(vm: Arc<Vm<A>>, index: usize, guest: A::Guest, fp: Box<FpSlot<A::Fp>>) -> Self {
        let (id, post) = (vm.vcpu_id(index), vm.post(index));
        Self {
            id,
            index,
            account: Account::default(),
            post,
            vm,
            guest,
            fp: FpPlace::Carried(fp),
            news: false,
        }
    }

    /// Its number inside its guest.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its doorbell.
    #[inline]
    pub fn bell(&self) -> &Doorbell {
        &self.post.bell
    }

    /// Whether it may have something pending that it was not handed yet.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.bell().has_event() | self.news
    }

    /// Its counters.
    #[inline]
    pub fn stats(&self) -> &VcpuStats {
        &self.post.stats
    }
}

impl<A: Arch> Turn for Vcpu<A> {
    fn id(&self) -> VcpuId {
        self.id
    }
    fn weight(&self) -> u32 {
        self.vm.identity.weight
    }
    fn affinity(&self) -> CpuSet {
        self.vm.identity.affinity.get()
    }
    fn account(&self) -> &Account {
        &self.account
    }
    fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}
