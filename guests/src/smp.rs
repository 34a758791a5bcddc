//! The other vCPUs: starting them, running a function on each, meeting at a barrier.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::cpu::{self, MAX_CPUS};
use crate::psci;
use crate::start::{machine, secondary};

/// How a vCPU found itself when PSCI started it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// DAIF; all masked by PSCI.
    pub daif: u64,
    /// SCTLR_EL1; MMU and caches off by PSCI.
    pub sctlr: u64,
    /// CurrentEL.
    pub level: u64,
}

/// What each vCPU is to run, as `fn(usize)`; 0 when it has done so.
static JOB: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static ENTRY: [[AtomicU64; 3]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 3] }; MAX_CPUS];

/// Returns the number of vCPUs.
pub fn count() -> usize {
    machine().cpus
}

/// Starts `job(cpu)` on another vCPU, which powers off when it returns; yields the status of CPU_ON.
pub fn start(cpu: usize, job: fn(usize)) -> i64 {
    JOB[cpu].store(job as usize, Release);
    cpu::dsb();
    let entry = secondary as extern "C" fn() -> ! as usize as u64;
    psci::call(psci::CPU_ON, [machine().affinity[cpu], entry, cpu as u64])
}

/// Returns the status of AFFINITY_INFO for a vCPU.
pub fn state(cpu: usize) -> i64 {
    psci::call(psci::AFFINITY_INFO, [machine().affinity[cpu], 0, 0])
}

/// Waits until a vCPU that was started has done its job and powered off.
///
/// AFFINITY_INFO alone will not do: QEMU's own PSCI says OFF for a moment after CPU_ON returned.
pub fn join(cpu: usize) {
    while JOB[cpu].load(Acquire) != 0 || state(cpu) != psci::OFF {
        cpu::spin(1000);
    }
}

/// Runs `job` on every vCPU, this one included, and waits until all are done.
pub fn on_all(job: fn(usize)) {
    let me = cpu::index();
    let others = || (0..count()).filter(move |&cpu| cpu != me);
    for cpu in others() {
        let status = start(cpu, job);
        assert!(status == psci::SUCCESS, "CPU_ON of vCPU {cpu} returned {status}");
    }
    job(me);
    others().for_each(join);
}

/// Returns how a vCPU found itself when it was last started.
pub fn entry(cpu: usize) -> Entry {
    let [daif, sctlr, level] = &ENTRY[cpu];
    Entry { daif: daif.load(Acquire), sctlr: sctlr.load(Acquire), level: level.load(Acquire) }
}

/// Runs the job of a vCPU just started.
pub(crate) fn run_secondary(index: usize, entry: Entry) -> ! {
    for (slot, value) in ENTRY[index].iter().zip([entry.daif, entry.sctlr, entry.level]) {
        slot.store(value, Release);
    }
    // SAFETY: `start` stored a `fn(usize)` before it turned this vCPU on, and only it does.
    let job = unsafe { core::mem::transmute::<usize, fn(usize)>(JOB[index].load(Acquire)) };
    job(index);
    JOB[index].store(0, Release);
    psci::cpu_off()
}

/// A place where a number of vCPUs wait for each other, again and again.
pub struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// Makes a barrier nobody waits at.
    pub const fn new() -> Self {
        Self { arrived: AtomicUsize::new(0), round: AtomicUsize::new(0) }
    }

    /// Waits until `parties` vCPUs are here.
    pub fn wait(&self, parties: usize) {
        let round = self.round.load(Acquire);
        if self.arrived.fetch_add(1, Release) + 1 == parties {
            self.arrived.store(0, Relaxed);
            self.round.store(round + 1, Release);
        } else {
            while self.round.load(Acquire) == round {
                core::hint::spin_loop();
            }
        }
    }
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}
