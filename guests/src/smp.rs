//! The other vCPUs: starting them, running a function on each, meeting at a barrier.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::arch;
use crate::cpu::{self, MAX_CPUS};
use crate::power::{self, OnError};
use crate::start::machine;

/// What the start code of a vCPU found in three registers, which the architecture's start code names.
pub type Entry = [u64; 3];

/// What each vCPU is to run, as `fn(usize)`; 0 when it has done so.
static JOB: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static ENTRY: [[AtomicU64; 3]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 3] }; MAX_CPUS];

/// Returns the number of vCPUs.
pub fn count() -> usize {
    machine().cpus
}

/// Starts `job(cpu)` on another vCPU, which goes off when it returns.
///
/// # Errors
/// The vCPU is on, or there is none.
pub fn start(cpu: usize, job: fn(usize)) -> Result<(), OnError> {
    JOB[cpu].store(job as usize, Release);
    cpu::sync();
    power::cpu_on(cpu)
}

/// Waits until a vCPU that was started has done its job and is off.
///
/// Being off alone will not do: QEMU's own PSCI says so for a moment after CPU_ON returned.
pub fn join(cpu: usize) {
    while JOB[cpu].load(Acquire) != 0 || !power::is_off(cpu) {
        cpu::spin(1000);
    }
}

/// Runs `job` on every vCPU, this one included, and waits until all are done.
pub fn on_all(job: fn(usize)) {
    let me = cpu::index();
    let others = || (0..count()).filter(move |&cpu| cpu != me);
    for cpu in others() {
        start(cpu, job).unwrap_or_else(|why| panic!("vCPU {cpu} does not start: {why:?}"));
    }
    job(me);
    others().for_each(join);
}

/// Returns how a vCPU found itself when it was last started.
pub fn entry(cpu: usize) -> Entry {
    core::array::from_fn(|n| ENTRY[cpu][n].load(Acquire))
}

/// Runs the job of a vCPU just started.
pub(crate) fn run_secondary(index: usize, entry: Entry) -> ! {
    for (slot, value) in ENTRY[index].iter().zip(entry) {
        slot.store(value, Release);
    }
    let job = JOB[index].load(Acquire);
    if job != 0 {
        // SAFETY: the only value stored besides 0 is a `fn(usize)`, by `start`.
        let job = unsafe { core::mem::transmute::<usize, fn(usize)>(job) };
        job(index);
    }
    JOB[index].store(0, Release);
    arch::power::cpu_off()
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
