//! Snapshots of vCPUs that live on a CPU, while they run.

use super::rules::{Rule, Rules};
use super::{FpContext, FpUnit, SaveCause, Snapshot, SnapshotError, Units};
use crate::addr::VcpuId;

impl<F: FpContext, R: Rules> FpUnit<F, R> {
    /// Takes a snapshot of vCPU `id`; none if it does not live here.
    pub fn snapshot(&mut self, file: &mut F::File, id: VcpuId) -> Option<Snapshot> {
        let index = self.find(id)?;
        if R::keeps(Rule::SaveBeforeSnapshot) {
            self.save_all_of(file, index, SaveCause::Snapshot);
        }
        self.interrupt(file, index);
        Some(Snapshot::take(&self.slot(index).image))
    }

    /// Puts vCPU `id` into the state of a snapshot; nothing if it does not live here. If the guest cannot have that state,
    /// it keeps its own.
    pub fn put_back(
        &mut self,
        file: &mut F::File,
        id: VcpuId,
        snapshot: &Snapshot,
    ) -> Option<Result<(), SnapshotError>> {
        let index = self.find(id)?;
        Some(snapshot.state(self.slot(index).limit).map(|state| {
            self.replace(index, state);
            self.interrupt(file, index);
        }))
    }

    fn find(&self, id: VcpuId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.id == id))
    }

    /// Closes the registers to a guest if it has its turn: what it writes from here on is newer than its image, or its
    /// image is newer than what it would see. Its next entry exposes what it had.
    fn interrupt(&mut self, file: &mut F::File, index: usize) {
        if self.running == Some(index) && R::keeps(Rule::ReexposeAfterwards) {
            self.pending |= u16::from(self.exposed.bits());
            self.exposed = Units::empty();
        }
        self.cover(file);
    }
}
