//! What the prompt can see and do: the machine as plain values.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::{CpuId, VmId};
use crate::console::{Console, PortId};
use crate::fp::{Snapshot, SnapshotError};
use crate::sched::CpuSet;

/// A virtual machine as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmView {
    /// Which one.
    pub id: VmId,
    /// Its name in the device tree.
    pub name: String,
    /// What it is doing.
    pub state: VmState,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its FP policy.
    pub policy: &'static str,
    /// The physical CPUs it runs on.
    pub cpus: CpuSet,
    /// Those that its description lets it run on.
    pub allowed: CpuSet,
    /// Its console.
    pub port: PortId,
}

/// What a virtual machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// It has vCPUs that can run.
    Running,
    /// It powered itself off.
    Off,
    /// It was stopped from here.
    Stopped,
    /// It did what no guest may do.
    Crashed,
    /// It could not be built.
    Failed,
}

/// A vCPU as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuView {
    /// Its machine's name and its number there, as in `one/0`.
    pub name: String,
    /// What it is doing.
    pub state: VcpuState,
    /// The CPU it belongs to.
    pub home: CpuId,
    /// How long it has run, in microseconds.
    pub run_micros: u64,
    /// How often it stopped.
    pub exits: u64,
    /// How often it moved to another CPU.
    pub migrations: u64,
}

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// It has its CPU.
    Running,
    /// It waits for its turn.
    Queued,
    /// It waits for an event.
    Asleep,
    /// It was not started, or turned itself off.
    Off,
}

/// A physical CPU as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuView {
    /// Which one.
    pub id: CpuId,
    /// How much of its time it was busy lately, in thousandths.
    pub load_permille: u16,
    /// How long it was idle since boot, in microseconds.
    pub idle_micros: u64,
    /// The vCPU that has it.
    pub current: Option<String>,
    /// How many vCPUs wait for it.
    pub queued: usize,
    /// How often guests stopped on it.
    pub exits: u64,
    /// How often it changed from one vCPU to another.
    pub switches: u64,
}

/// Counted FP events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FpCounters {
    /// Traps on first use.
    pub traps: u64,
    /// Those that were granted.
    pub requests: u64,
    /// Those that were not, because the guest has no such unit.
    pub refusals: u64,
    /// Loads.
    pub loads: u64,
    /// Loads that were not needed because the registers still held the state.
    pub skips: u64,
    /// Entries that exposed more units of a resident state.
    pub widenings: u64,
    /// Saves.
    pub saves: u64,
    /// Saves that were not needed.
    pub saves_avoided: u64,
    /// States that lost their registers to another vCPU.
    pub evictions: u64,
    /// States saved because their vCPU left the CPU.
    pub flushes: u64,
    /// Bytes loaded.
    pub bytes_in: u64,
    /// Bytes saved.
    pub bytes_out: u64,
}

impl FpCounters {
    /// The counters with their names, in the order in which they are shown.
    pub fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("traps", self.traps),
            ("requests", self.requests),
            ("refusals", self.refusals),
            ("loads", self.loads),
            ("skips", self.skips),
            ("widenings", self.widenings),
            ("saves", self.saves),
            ("avoided", self.saves_avoided),
            ("evictions", self.evictions),
            ("flushes", self.flushes),
            ("in", self.bytes_in),
            ("out", self.bytes_out),
        ]
    }
}

/// A vCPU's side of FP ownership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpVcpuView {
    /// Its machine's name and its number there.
    pub name: String,
    /// Its policy.
    pub policy: &'static str,
    /// The widest unit that it ever asked for and has.
    pub widest: &'static str,
    /// The CPU whose registers hold its state.
    pub resident: Option<CpuId>,
    /// What happened to it.
    pub counters: FpCounters,
}

/// A CPU's side of FP ownership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpCpuView {
    /// Which CPU.
    pub id: CpuId,
    /// What is in its registers, by groups of units that have owners of their own. Empty groups are left out.
    pub seats: Vec<FpSeatView>,
    /// What happened on it.
    pub counters: FpCounters,
}

/// Whose state a group of registers holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpSeatView {
    /// The vCPU.
    pub owner: String,
    /// The units that are valid.
    pub units: &'static str,
    /// Whether the registers are newer than memory, in a word: clean or dirty.
    pub state: &'static str,
}

impl FpCpuView {
    /// Owners, units and states as they are shown: those of several groups joined by commas, and alike ones once.
    pub fn seats(&self) -> [String; 3] {
        let list = |word: fn(&FpSeatView) -> &str, nothing: &str| match &self.seats[..] {
            [] => nothing.to_string(),
            [first, rest @ ..] if rest.iter().all(|seat| word(seat) == word(first)) => {
                word(first).to_string()
            }
            seats => seats.iter().map(word).collect::<Vec<_>>().join(","),
        };
        [list(|seat| &seat.owner, "-"), list(|seat| seat.units, "-"), list(|seat| seat.state, "empty")]
    }
}

/// The FP auditor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// It checks each entry.
    On,
    /// It does not.
    Off,
}

/// Why an action was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionError {
    /// The machine is not running.
    NotRunning,
    /// The machine is running.
    AlreadyRunning,
    /// The machine could not be built, so there is nothing to start.
    NotBuilt,
    /// The policy does not exist here.
    NoSuchPolicy,
    /// It may not run there, but on these CPUs.
    NotThere(CpuSet),
    /// An earlier action is still under way.
    Busy,
    /// There is no such vCPU.
    NoSuchVcpu,
    /// No snapshot was taken.
    NoSnapshot,
    /// One was taken, and it takes two.
    OneSnapshot,
    /// The heap has no room for a snapshot.
    NoRoom,
    /// It is a snapshot of state that no guest can have here.
    Snapshot(SnapshotError),
}

impl fmt::Display for ActionError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Snapshot(error) => return error.fmt(out),
            Self::NotThere(cpus) => return write!(out, "it may run on these CPUs alone: {cpus}"),
            Self::NotRunning => "it is not running",
            Self::AlreadyRunning => "it is running already",
            Self::NotBuilt => "it could not be built; the log at boot says why",
            Self::NoSuchPolicy => "there is no such policy",
            Self::NoSuchVcpu => "there is no such vCPU that runs; vcpu lists them",
            Self::NoSnapshot => "there is no snapshot of it; fp snapshot takes one",
            Self::OneSnapshot => {
                "there is one snapshot of it, and nothing to compare it with; fp snapshot takes another"
            }
            Self::NoRoom => "there is too little left of the heap",
            Self::Busy => "an earlier request is still under way; try again",
        })
    }
}

/// The machine behind the prompt. Views are read from what CPUs publish, without waiting for them; actions are asked
/// of the CPUs concerned and may complete later.
pub trait Monitor {
    /// The console whose focus `vm console` moves.
    fn console(&self) -> &Console;
    /// All virtual machines, in the order of the device tree.
    fn vms(&self) -> Vec<VmView>;
    /// All vCPUs.
    fn vcpus(&self) -> Vec<VcpuView>;
    /// All physical CPUs.
    fn cpus(&self) -> Vec<CpuView>;
    /// The FP ledger by vCPU.
    fn fp_vcpus(&self) -> Vec<FpVcpuView>;
    /// The FP ledger by CPU, and what is in its registers.
    fn fp_cpus(&self) -> Vec<FpCpuView>;
    /// The FP policies that can be chosen.
    fn policies(&self) -> &'static [&'static str];
    /// Whether the auditor is on.
    fn audit(&self) -> Audit;
    /// Writes the newest `count` trace records, one per line.
    fn trace(&self, out: &mut dyn fmt::Write, count: usize) -> fmt::Result;
    /// Writes for programs what was traced of FP registers and turns since this was last asked for, as far as the port holds
    /// it.
    fn dump_trace(&self, out: &mut dyn fmt::Write) -> fmt::Result;
    /// Stops a machine until it is started again.
    fn stop(&self, vm: VmId) -> Result<(), ActionError>;
    /// Starts a machine that is off, stopped or crashed.
    fn start(&self, vm: VmId) -> Result<(), ActionError>;
    /// Stops a machine if it runs, and starts it anew.
    fn restart(&self, vm: VmId) -> Result<(), ActionError>;
    /// Chooses the FP policy of a machine, one of [`Monitor::policies`].
    fn set_policy(&self, vm: VmId, policy: &str) -> Result<(), ActionError>;
    /// Chooses the physical CPUs that a machine may run on, of those that its description allows.
    fn set_affinity(&self, vm: VmId, cpus: CpuSet) -> Result<(), ActionError>;
    /// Has a snapshot taken of a vCPU's FP state, named as in [`VcpuView`].
    fn take_fp(&self, vcpu: &str) -> Result<(), ActionError>;
    /// Has a vCPU put into the FP state of the newest snapshot of `from`.
    fn put_back_fp(&self, vcpu: &str, from: &str) -> Result<(), ActionError>;
    /// The registers of the newest snapshot of a vCPU and of the one before it: names and values, the highest digit first.
    fn fp_snapshots(&self, vcpu: &str) -> [Option<Vec<(String, String)>>; 2];
    /// The newest snapshot of a vCPU.
    fn newest_fp(&self, vcpu: &str) -> Option<Arc<Snapshot>>;
    /// Keeps a snapshot from elsewhere as the newest of a vCPU, which it need not be of.
    fn keep_fp(&self, vcpu: &str, snapshot: Snapshot) -> Result<(), ActionError>;
    /// Turns the auditor on or off.
    fn set_audit(&self, audit: Audit);
    /// Powers the machine off.
    fn power_off(&self);
}
