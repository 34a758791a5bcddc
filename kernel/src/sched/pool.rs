//! What CPUs know of each other: who is idle, how loaded each is, and whom somebody waits for.

use alloc::boxed::Box;

use super::cpus::CpuSet;
use crate::addr::CpuId;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// What one CPU publishes; a cache line of its own, because it writes it often.
#[repr(align(64))]
struct Notice {
    /// The weights of the vCPUs that are running or ready there.
    load: AtomicU32,
    /// The CPUs on which some vCPU that waits there could run.
    wanted: AtomicU64,
}

/// The physical CPUs as each other sees them.
///
/// Loads are hints. Idle and wanted are more: a CPU that has a vCPU waiting writes *wanted* and then reads *idle*; a
/// CPU without work writes *idle* and then reads *wanted*; between the two steps each has a full fence. So at
/// least one of the two sees the other, and no vCPU waits beside a CPU that sleeps.
pub struct Pool {
    idle: AtomicU64,
    notices: Box<[Notice]>,
}

impl Pool {
    /// Creates the pool of the CPUs 0 to `cpus` - 1 (at most [`CpuSet::CAPACITY`]), none of them idle.
    pub fn new(cpus: usize) -> Self {
        let notice = |_| Notice { load: AtomicU32::new(0), wanted: AtomicU64::new(0) };
        let notices = (0..cpus.min(CpuSet::CAPACITY)).map(notice).collect();
        Self { idle: AtomicU64::new(0), notices }
    }

    /// All CPUs.
    pub fn online(&self) -> CpuSet {
        CpuSet::first_n(self.notices.len())
    }

    /// The CPUs that have nothing to do.
    pub fn idle(&self) -> CpuSet {
        CpuSet::from_bits(self.idle.load(Ordering::Relaxed))
    }

    /// The weights of the vCPUs running or ready on `cpu`, as it last said.
    pub fn load(&self, cpu: CpuId) -> u32 {
        self.notices.get(cpu.0).map_or(0, |notice| notice.load.load(Ordering::Relaxed))
    }

    /// The CPUs on which some vCPU that waits on `cpu` could run, as it last said.
    pub fn wanted(&self, cpu: CpuId) -> CpuSet {
        CpuSet::from_bits(self.notices.get(cpu.0).map_or(0, |notice| notice.wanted.load(Ordering::Relaxed)))
    }

    /// Publishes what `cpu` has. If something waits, what is idle may be read after this and not before.
    pub(super) fn publish(&self, cpu: CpuId, load: u32, wanted: CpuSet) {
        let Some(notice) = self.notices.get(cpu.0) else { return };
        notice.load.store(load, Ordering::Relaxed);
        notice.wanted.store(wanted.bits(), Ordering::Relaxed);
        if !wanted.is_empty() {
            fence(Ordering::SeqCst);
        }
    }

    /// Counts a vCPU of this weight that is on its way to `cpu`, so that nobody else sends one for the same reason.
    /// `cpu` corrects the number when it next publishes.
    pub(super) fn expect(&self, cpu: CpuId, weight: u32) {
        if let Some(notice) = self.notices.get(cpu.0) {
            notice.load.fetch_add(weight, Ordering::Relaxed);
        }
    }

    /// Declares that `cpu`, which calls it, has nothing to do, and says whom to ask for work: the most loaded of
    /// those that have something for it.
    ///
    /// After this the CPU looks into its mailbox once more and, if there is nothing, waits for an interrupt.
    pub fn enter_idle(&self, cpu: CpuId) -> Option<CpuId> {
        self.idle.fetch_or(CpuSet::only(cpu).bits(), Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let others = self.online() & !CpuSet::only(cpu);
        let asked = others.iter().filter(|&other| self.wanted(other).contains(cpu));
        asked.max_by_key(|&other| self.load(other))
    }

    /// Declares that `cpu`, which calls it, is awake.
    pub fn leave_idle(&self, cpu: CpuId) {
        self.idle.fetch_and(!CpuSet::only(cpu).bits(), Ordering::AcqRel);
    }

    /// Takes `cpu` out of the idle ones, to send it work. Of several CPUs that try, one is told yes.
    pub(super) fn claim(&self, cpu: CpuId) -> bool {
        let bit = CpuSet::only(cpu).bits();
        self.idle.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// The least loaded CPU of a set; of several, the next after `here`, so that all have their turn.
    pub(super) fn least_loaded(&self, of: CpuSet, here: CpuId) -> Option<CpuId> {
        of.iter().min_by_key(|&cpu| (self.load(cpu), cpu.0 <= here.0, cpu.0))
    }
}
