//! What happened to the registers, counted.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Units;

/// Something that happened to one vCPU's registers on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest touched units that it could not use at that moment.
    Trap(Units),
    /// Such a touch was refused: it does not have them.
    Refusal(Units),
    /// Units of one group were exposed that the entry before did not expose, and registers were written from memory
    /// for that.
    Load {
        /// How many bytes moved.
        bytes: u64,
    },
    /// Such an exposure needed no load.
    Skip,
    /// A load replaced a narrower view of the same registers.
    Widening,
    /// Registers were written to memory.
    Save {
        /// Why.
        cause: SaveCause,
        /// How many bytes moved.
        bytes: u64,
    },
    /// A turn ended with units of one group exposed, and they were not saved.
    Avoided,
}

/// Why registers were saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveCause {
    /// The turn ended, and the policy says so.
    Leave,
    /// A wider view was about to be loaded over them.
    Widen,
    /// Another vCPU needed the registers.
    Evict,
    /// The vCPU was about to live on another CPU.
    Migrate,
    /// The CPU was about to lose its registers.
    Flush,
    /// A snapshot was taken.
    Snapshot,
}

/// Defines the counters once, for the live ledger and for its copy.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters that one CPU writes and any may read.
        ///
        /// A vCPU's ledger is written by the CPU it lives on, a CPU's ledger by that CPU. Readers elsewhere see
        /// each counter exact, but not all of them from one moment.
        #[derive(Debug, Default)]
        pub struct Ledger {
            traps: [AtomicU64; 8],
            refusals: [AtomicU64; 8],
            $($name: AtomicU64,)*
        }

        /// A copy of a [`Ledger`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally {
            /// Traps by unit: element `n` counts bit `n` of [`Units`]. A touch of several counts for the highest.
            pub traps: [u64; 8],
            /// Those of them that were refused.
            pub refusals: [u64; 8],
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Ledger {
            /// Copies the counters.
            pub fn tally(&self) -> Tally {
                let copy = |counters: &[AtomicU64; 8]| {
                    core::array::from_fn(|n| counters[n].load(Ordering::Relaxed))
                };
                Tally {
                    traps: copy(&self.traps),
                    refusals: copy(&self.refusals),
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }

        impl Tally {
            /// Adds up two copies, counter by counter.
            #[must_use]
            pub fn plus(mut self, other: &Self) -> Self {
                for (sum, term) in self.traps.iter_mut().zip(other.traps) {
                    *sum += term;
                }
                for (sum, term) in self.refusals.iter_mut().zip(other.refusals) {
                    *sum += term;
                }
                $(self.$name += other.$name;)*
                self
            }

            /// Lists every counter that is not by unit, with the name it has in dumps.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Exposures that moved registers in.
    loads,
    /// Exposures that found the registers in place.
    skips,
    /// Loads that replaced a narrower view.
    widenings,
    /// Saves because a turn ended.
    leave_saves,
    /// Saves before a widening.
    widening_saves,
    /// Saves because another vCPU needed the registers.
    evictions,
    /// Saves because the vCPU was about to move to another CPU.
    migration_flushes,
    /// Saves because the CPU was about to lose its registers.
    flushes,
    /// Saves because a snapshot was taken.
    snapshot_saves,
    /// Ends of turns that left exposed registers unsaved.
    saves_avoided,
    /// Bytes moved from memory to registers.
    bytes_in,
    /// Bytes moved from registers to memory.
    bytes_out,
}

impl Tally {
    /// Counts the touches that were refused.
    pub fn refused(&self) -> u64 {
        self.refusals.iter().sum()
    }

    /// Counts the touches that were granted.
    pub fn requests(&self) -> u64 {
        self.traps.iter().sum::<u64>().saturating_sub(self.refused())
    }

    /// Tells which units were touched and granted.
    pub fn used(&self) -> Units {
        let units = self.traps.iter().zip(self.refusals).enumerate();
        units
            .filter(|(_, (traps, refusals))| *traps > refusals)
            .map(|(n, _)| Units::from_bits_retain(1 << n))
            .collect()
    }

    /// Counts the times that an entry exposed units of a group anew.
    pub const fn exposures(&self) -> u64 {
        self.loads + self.skips
    }

    /// Counts all saves, whatever their cause.
    pub const fn saves(&self) -> u64 {
        self.leave_saves
            + self.widening_saves
            + self.evictions
            + self.migration_flushes
            + self.flushes
            + self.snapshot_saves
    }
}

impl Ledger {
    /// Records an event with a vCPU and with the CPU where it lives.
    #[inline]
    pub(super) fn record_in_both(vcpu: &Self, cpu: &Self, event: Event) {
        let (units, of): (_, fn(&Self) -> &[AtomicU64; 8]) = match event {
            Event::Trap(units) => (units, |ledger| &ledger.traps),
            Event::Refusal(units) => (units, |ledger| &ledger.refusals),
            _ => {
                vcpu.record(event);
                return cpu.record(event);
            }
        };
        if let Some(highest) = u64::from(units.bits()).checked_ilog2() {
            add(&of(vcpu)[highest as usize], 1);
            add(&of(cpu)[highest as usize], 1);
        }
    }

    #[inline]
    fn record(&self, event: Event) {
        match event {
            // They are recorded by unit.
            Event::Trap(_) | Event::Refusal(_) => {}
            Event::Load { bytes } => {
                add(&self.loads, 1);
                add(&self.bytes_in, bytes);
            }
            Event::Skip => add(&self.skips, 1),
            Event::Widening => add(&self.widenings, 1),
            Event::Save { cause, bytes } => {
                add(self.saves_for(cause), 1);
                add(&self.bytes_out, bytes);
            }
            Event::Avoided => add(&self.saves_avoided, 1),
        }
    }

    fn saves_for(&self, cause: SaveCause) -> &AtomicU64 {
        match cause {
            SaveCause::Leave => &self.leave_saves,
            SaveCause::Widen => &self.widening_saves,
            SaveCause::Evict => &self.evictions,
            SaveCause::Migrate => &self.migration_flushes,
            SaveCause::Flush => &self.flushes,
            SaveCause::Snapshot => &self.snapshot_saves,
        }
    }
}

/// Adds without an atomic read-modify-write: there is one writer at a time, and a vCPU changes writers only
/// by a message, which orders the old one's last write before the new one's first.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reaches_its_counter() {
        let (ledger, cpu) = (Ledger::default(), Ledger::default());
        Ledger::record_in_both(&ledger, &cpu, Event::Trap(Units::from_bits_retain(0b101)));
        Ledger::record_in_both(&ledger, &cpu, Event::Trap(Units::from_bits_retain(0b010)));
        Ledger::record_in_both(&ledger, &cpu, Event::Refusal(Units::from_bits_retain(0b101)));
        assert_eq!(cpu.tally(), ledger.tally());
        ledger.record(Event::Load { bytes: 528 });
        ledger.record(Event::Skip);
        ledger.record(Event::Widening);
        ledger.record(Event::Avoided);
        let causes = [
            SaveCause::Leave,
            SaveCause::Widen,
            SaveCause::Evict,
            SaveCause::Migrate,
            SaveCause::Flush,
            SaveCause::Snapshot,
        ];
        for (n, cause) in causes.into_iter().enumerate() {
            ledger.record(Event::Save { cause, bytes: 1 << n });
        }
        let tally = ledger.tally();
        assert_eq!((tally.traps, tally.refusals), ([0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]));
        assert_eq!((tally.requests(), tally.refused(), tally.used().bits()), (1, 1, 0b010));
        assert_eq!((tally.saves(), tally.bytes_in, tally.bytes_out), (6, 528, 63));
        assert_eq!(tally.named().map(|(_, count)| count).sum::<u64>(), 10 + 528 + 63);
        let twice = tally.plus(&tally);
        assert_eq!((twice.bytes_in, twice.refused(), twice.requests()), (1056, 2, 2));
    }
}
