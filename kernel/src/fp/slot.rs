//! One vCPU's floating-point state.

use alloc::sync::Arc;

use super::habit::Habit;
use super::stamp::Stamp;
use super::{Event, FpContext, Ledger, MAX_GROUPS, Policy, PolicyCell, Units};
use crate::addr::{CpuId, VcpuId};

/// A vCPU's floating-point state in memory, and what the machine knows about it.
///
/// Outside an [`FpUnit`](super::FpUnit) the image is always current: a slot gets out only through
/// [`FpUnit::discharge`](super::FpUnit::discharge).
pub struct FpSlot<F: FpContext> {
    pub(super) id: VcpuId,
    pub(super) limit: F::Limit,
    pub(super) image: F,
    /// The name of what `image` holds, by group.
    pub(super) stamps: [Stamp; MAX_GROUPS],
    /// Touches recorded and not yet served.
    pub(super) request: Units,
    /// What is to be expected of it, by group.
    pub(super) habits: [Habit; MAX_GROUPS],
    pub(super) last_cpu: Option<CpuId>,
    pub(super) policy: Arc<PolicyCell>,
    pub(super) ledger: Arc<Ledger>,
}

impl<F: FpContext> FpSlot<F> {
    /// Makes the state at power-on of vCPU `id`, which follows `policy` now and whenever it changes.
    pub fn new(id: VcpuId, limit: F::Limit, policy: Arc<PolicyCell>) -> Self {
        Self {
            id,
            limit,
            image: F::new(limit),
            stamps: [Stamp::NONE; MAX_GROUPS],
            request: Units::empty(),
            habits: Default::default(),
            last_cpu: None,
            policy,
            ledger: Arc::default(),
        }
    }

    /// Tells whose state this is.
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// Shows the image. Older than the registers while they hold something newer, which cannot be while the
    /// slot is outside an [`FpUnit`](super::FpUnit).
    pub fn image(&self) -> &F {
        &self.image
    }

    /// Tells the CPU on which the vCPU ended its last turn.
    pub fn last_cpu(&self) -> Option<CpuId> {
        self.last_cpu
    }

    /// Tells the policy in force.
    pub fn policy(&self) -> Policy {
        self.policy.policy()
    }

    /// Counts in the ledgers of the vCPU and of the CPU where it lives.
    #[inline]
    pub(super) fn count(&self, cpu: &Ledger, event: Event) {
        Ledger::record_in_both(&self.ledger, cpu, event);
    }

    /// Shares the counters, for readers on other CPUs.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}
