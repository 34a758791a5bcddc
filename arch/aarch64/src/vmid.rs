//! VMIDs, by generation.
//!
//! A VMID tells one guest's cached translations from another's, and there are few of them: 255 on some CPUs. They are
//! given out in ascending order. When they run out, a new generation begins: every guest has to ask again, everything
//! cached is flushed once, and only the guests that are on a CPU at that moment keep their numbers, because their CPUs
//! go on using them without asking. Guests that are never squeezed out pay nothing but a comparison.
//!
//! A guest's VMID belongs to the guest, not to the vCPU, and flushing one address flushes it under that one number. So
//! whenever a guest is on several CPUs, all of them use the same one; that is what [`Vmids::assign`] keeps true by
//! renaming the others when it renews one of them. It is called with a lock held, whenever a CPU turns to another
//! guest.

use kernel::addr::CpuId;

use crate::stage2::VmidBits;

/// A VMID and the generation it is good in. Every guest stores one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vmid {
    generation: u64,
    number: u16,
}

impl Vmid {
    /// What a guest has before it first runs. The number 0 is given to nobody: it is what VTTBR_EL2 has without a guest.
    pub const NONE: Self = Self { generation: 0, number: 0 };

    /// The number for VTTBR_EL2.
    pub const fn number(self) -> u16 {
        self.number
    }
}

/// What must be flushed before a VMID is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flush {
    /// Nothing.
    Nothing,
    /// All cached translations of all guests on all CPUs (TLBI ALLE1IS), and the instruction caches where they are
    /// tagged by VMID (IC IALLUIS).
    Everything,
}

/// The VMIDs of a machine with up to `CPUS` CPUs.
#[derive(Clone, Debug)]
pub struct Vmids<const CPUS: usize> {
    generation: u64,
    /// The next number to give out in this generation, unless it is one of `kept`.
    next: u32,
    count: u32,
    /// What each CPU's VTTBR_EL2 holds.
    active: [Vmid; CPUS],
    /// The numbers that were active when this generation began. They are not given out in it, even after their guests
    /// have left: cached translations may carry them.
    kept: [u16; CPUS],
}

impl<const CPUS: usize> Vmids<CPUS> {
    /// All VMIDs of that width, none of them given out. There must be more of them than CPUs.
    pub const fn new(bits: VmidBits) -> Self {
        Self::with_count(bits.count())
    }

    /// VMIDs below `count`.
    const fn with_count(count: u32) -> Self {
        assert!(count as usize > CPUS + 1, "there must be more VMIDs than CPUs");
        Self { generation: 1, next: 1, count, active: [Vmid::NONE; CPUS], kept: [0; CPUS] }
    }

    /// The VMID that `cpu` has to use for the guest that holds `held`, and that the guest holds from now on. The
    /// caller loads it into VTTBR_EL2 after doing the flush, before anyone else can call this for the same CPU.
    pub fn assign(&mut self, cpu: CpuId, held: Vmid) -> (Vmid, Flush) {
        if held.generation == self.generation {
            self.active[cpu.0] = held;
            return (held, Flush::Nothing);
        }
        if held != Vmid::NONE && self.active.contains(&held) {
            // It kept its number when the generation changed.
            let renewed = Vmid { generation: self.generation, number: held.number };
            self.rename(held, renewed);
            self.active[cpu.0] = renewed;
            return (renewed, Flush::Nothing);
        }
        let (number, flush) = match self.unused() {
            Some(number) => (number, Flush::Nothing),
            None => {
                self.generation += 1;
                self.next = 1;
                self.kept = self.active.map(Vmid::number);
                // More numbers than CPUs: after a new start, one is found.
                (self.unused().unwrap_or(0), Flush::Everything)
            }
        };
        let fresh = Vmid { generation: self.generation, number };
        self.active[cpu.0] = fresh;
        (fresh, flush)
    }

    /// The next number, if one is left in this generation.
    fn unused(&mut self) -> Option<u16> {
        while self.next < self.count {
            let number = self.next as u16;
            self.next += 1;
            if !self.kept.contains(&number) {
                return Some(number);
            }
        }
        None
    }

    fn rename(&mut self, from: Vmid, to: Vmid) {
        self.active.iter_mut().filter(|vmid| **vmid == from).for_each(|vmid| *vmid = to);
    }
}

#[cfg(test)]
mod tests;
