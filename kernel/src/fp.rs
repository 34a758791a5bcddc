//! Who owns the floating-point registers, and when they move.
//!
//! Every physical CPU has one [`FpUnit`]: it knows whose values its registers hold, which of them are
//! newer than memory, and what the running guest may touch. It also *owns* the images ([`FpSlot`]) of all
//! vCPUs that live on its CPU. That is what makes it safe to leave a vCPU's values in the registers after
//! its turn: the only way to take a vCPU to another CPU is [`FpUnit::discharge`], which writes them back.
//!
//! An architecture supplies the verbs ([`FpContext`]): save, restore, expose. It decides nothing. What
//! moves when is a [`Policy`], chosen per VM and changeable while the VM runs.
//!
//! **One number instead of two facts.** Registers may be reused without a load when they still hold what
//! the image holds. "The last owner was me" does not say so (the vCPU may have run elsewhere since), and
//! neither does "I was here last" (another vCPU may have run here since). Each time an image changes it is
//! given a [stamp](stamp) no other image had or will have; registers carry the stamp of the image they
//! equal. Equal stamps mean equal contents, whatever happened in between and whoever reuses an id.
//!
//! **Requests, then late loads.** A trap on first use is only recorded ([`FpUnit::request`]); registers
//! move in [`FpUnit::enter`], the last step before the guest runs, with interrupts off. When there is
//! nothing to do, `enter` is one load and one branch.
//!
//! `docs/fp.md` has the states, the laws of the [`Ledger`] and the cost of each policy.

use alloc::vec::Vec;

mod audit;
mod habit;
mod keep;
mod ledger;
pub mod lines;
mod policy;
mod resident;
pub mod rules;
mod slot;
mod snapshot;
mod stamp;
mod unit;
mod witness;

pub use audit::{AuditSwitch, Breach};
pub use ledger::{Event, Ledger, SaveCause, Tally};
pub use policy::{Policy, PolicyCell, UnknownPolicy};
pub use resident::Resident;
pub use slot::FpSlot;
pub use snapshot::{Form, Layout, Register, Snapshot, SnapshotError};
pub use unit::{FpKey, FpUnit, Touch};
pub use witness::{Deeds, Outcome, Witness};

bitflags::bitflags! {
    /// Groups of registers that trap separately. Each architecture names its own bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Units: u8 {
        const _ = !0;
    }
}

/// The largest number of [groups](FpContext::GROUPS) an architecture may have.
pub const MAX_GROUPS: usize = 2;

/// A guest's floating-point state in memory, and how it moves between there and the registers.
///
/// None of these methods decides anything; all are called by [`FpUnit`] only, with interrupts off.
///
/// `save`, `restore`, `fill` and `is_blank` may have to open the units for the hypervisor itself and may leave them open:
/// the caller follows up with `expose` or `conceal` before a guest runs.
pub trait FpContext: Sized {
    /// The registers of one physical CPU. Holding it is the right to use them.
    type File;
    /// What a guest may be given, such as its longest vector.
    type Limit: Copy;

    /// The units, split into groups that share no register. Each group has its own owner: AArch64 has one
    /// (SIMD and SVE overlap), LoongArch two (FPU, LSX and LASX overlap; LBT is apart). At most
    /// [`MAX_GROUPS`]; no unit is in two.
    const GROUPS: &'static [Units];

    /// Makes the state at power-on.
    fn new(limit: Self::Limit) -> Self;

    /// Tells which units this guest has at all. A touch of any other is the guest's own fault.
    fn units(&self) -> Units;

    /// Tells everything that has to be live for `touched` to work, given the form the image has now. The
    /// result contains `touched` and stays within [`units`](Self::units) when `touched` does.
    fn closure(&self, touched: Units) -> Units;

    /// Copies the registers of `units` to memory, leaving the rest of the image as it is. Returns the
    /// units whose registers still hold what was saved: a save may destroy its source (LoongArch with
    /// `FCSR.TM` set).
    fn save(&mut self, file: &mut Self::File, units: Units) -> Units;

    /// Copies memory to the registers of `units`. Every bit the guest can reach through `units` is written.
    fn restore(&self, file: &mut Self::File, units: Units);

    /// Lets the guest use exactly `units`; anything else traps.
    fn expose(file: &mut Self::File, units: Units);

    /// Lets no guest use anything.
    fn conceal(file: &mut Self::File);

    /// Tells what a guest could use if it ran now. For the auditor.
    fn exposed(file: &Self::File) -> Units;

    /// Writes `pattern` to every data register of `units` and a harmless value to their control registers.
    /// Zero wipes; anything else is paint that nobody may ever see.
    fn fill(file: &mut Self::File, units: Units, pattern: u64);

    /// Tells whether the registers of `group` hold nothing but what [`fill`](Self::fill) with zero leaves. For the auditor.
    fn is_blank(file: &mut Self::File, group: Units) -> bool;

    /// Tells whether the registers of a group may hold values that no exposure reaches, because the image they were
    /// loaded from last has shorter registers than one before it. [`fill`](Self::fill) leaves none.
    fn has_remains(_file: &Self::File, _group: Units) -> bool {
        false
    }

    /// Counts the bytes that the `save` of `units` which made the image what it is has moved, or that a `restore` moves.
    fn bytes(&self, units: Units) -> u64;

    /// What a [`Snapshot`] of the architecture is like.
    const LAYOUT: Layout;

    /// Tells what [`export`](Self::export) writes.
    fn form(&self) -> Form;

    /// Appends the registers to `out`, each where the [`LAYOUT`](Self::LAYOUT) says, the lowest byte first.
    fn export(&self, out: &mut Vec<u8>);

    /// Makes state from what `export` wrote. All registers of `form` are there, and nothing else.
    ///
    /// # Errors
    /// A guest with `limit` cannot have that state.
    fn import(limit: Self::Limit, form: Form, registers: &[u8]) -> Result<Self, SnapshotError>;
}
