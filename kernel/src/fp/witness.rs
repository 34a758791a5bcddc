//! What happened to the registers, in the order in which it happened, for whoever draws it.
//!
//! The ledger says how often, the trace says when. A record of each event would cost as much as to move the registers, so
//! what happens in a turn is noted in a byte per group, and goes with what the turn left in the registers into the record of
//! its end, which is written anyway. What happens to registers apart from turns is rare and has records of its own.

use core::fmt::{self, Write};

use super::rules::Rules;
use super::{FpContext, FpUnit, Resident, SaveCause, Units};
use crate::addr::{Ticks, VcpuId};
use crate::trace::{Kind, Trace};

/// Writes into the trace of the CPU on which things happen.
#[derive(Clone, Copy)]
pub struct Witness {
    /// The trace.
    pub trace: &'static Trace,
    /// The time.
    pub now: fn() -> Ticks,
}

impl Witness {
    /// Records a save for somebody else's sake than a guest's that needs the registers.
    pub(super) fn saved(&self, vcpu: VcpuId, cause: SaveCause, units: Units, bytes: u64) {
        let kind = match cause {
            SaveCause::Migrate => Kind::FpMove,
            SaveCause::Flush => Kind::FpFlush,
            SaveCause::Snapshot => Kind::FpSnapshot,
            // These are deeds of a turn.
            SaveCause::Leave | SaveCause::Widen | SaveCause::Evict => return,
        };
        self.trace.record((self.now)(), kind, vcpu, units.bits().into(), bytes);
    }

    /// Records that registers hold values of `vcpu` no more.
    pub(super) fn gone(&self, vcpu: VcpuId, units: Units) {
        self.trace.record((self.now)(), Kind::FpGone, vcpu, units.bits().into(), 0);
    }
}

bitflags::bitflags! {
    /// What happened to the registers of a group in one turn.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Deeds: u8 {
        /// They were loaded.
        const LOADED = 1 << 0;
        /// They were in place when they were exposed, and were not loaded.
        const FOUND = 1 << 1;
        /// The guest trapped for them.
        const ASKED = 1 << 2;
        /// Another vCPU's values were saved before they were loaded.
        const EVICTED = 1 << 3;
        /// Its own narrower values were saved before they were loaded.
        const WIDENED = 1 << 4;
        /// They were saved because the turn ended.
        const SAVED = 1 << 5;
    }
}

/// What a turn left in the registers of a group, and what happened to them in it, as [`Kind::TurnEnd`] says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whose values are there.
    pub resident: Option<Resident>,
    /// What happened.
    pub deeds: Deeds,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resident {
            Some(Resident { owner: VcpuId(owner), valid, dirty }) => {
                let state = if dirty.is_empty() { "clean" } else { "dirty" };
                write!(f, "{}/{}:{:#x},{state}", owner >> 8, owner & 0xff, valid.bits())?;
            }
            None => f.write_str("empty")?,
        }
        self.deeds.iter_names().try_for_each(|(name, _)| {
            f.write_str(",")?;
            name.chars().try_for_each(|letter| f.write_char(letter.to_ascii_lowercase()))
        })
    }
}

impl Deeds {
    /// Notes that registers were loaded.
    #[inline]
    pub(super) fn load(&mut self) {
        *self = *self - Self::FOUND | Self::LOADED;
    }

    /// Notes that registers were in place.
    #[inline]
    pub(super) fn find(&mut self) {
        if !self.contains(Self::LOADED) {
            *self |= Self::FOUND;
        }
    }

    /// Tells which deed of a turn a save is; none if it has a record of its own.
    #[inline]
    pub(super) fn of(cause: SaveCause) -> Self {
        const NONE: Deeds = Deeds::empty();
        // In the order of `SaveCause`.
        const ALL: [Deeds; 6] = [Deeds::SAVED, Deeds::WIDENED, Deeds::EVICTED, NONE, NONE, NONE];
        ALL[cause as usize]
    }

    /// Where deeds are in a word, above a [`Resident`].
    const SHIFT: u32 = 56;

    /// Writes them into a word that has room for a [`Resident`].
    pub fn pack(self) -> u64 {
        u64::from(self.bits()) << Self::SHIFT
    }
}

impl Outcome {
    /// Writes it into a word.
    pub fn pack(self) -> u64 {
        self.resident.map_or(0, Resident::pack) | self.deeds.pack()
    }

    /// Reads such a word.
    pub fn unpack(word: u64) -> Self {
        Self {
            resident: Resident::unpack(word & ((1 << Deeds::SHIFT) - 1)),
            deeds: Deeds::from_bits_retain((word >> Deeds::SHIFT) as u8),
        }
    }
}

impl<F: FpContext, R: Rules> FpUnit<F, R> {
    /// Records a save that is no deed of a turn.
    #[cold]
    #[inline(never)]
    pub(super) fn note_saved(&self, vcpu: VcpuId, cause: SaveCause, units: Units, bytes: u64) {
        if let Some(witness) = self.witness {
            witness.saved(vcpu, cause, units, bytes);
        }
    }

    /// Has what happens to the registers written into the trace of this CPU.
    pub fn attend(&mut self, witness: Witness) {
        self.witness = Some(witness);
    }

    /// Tells what happened to the registers of group `n` in the turn that ended last.
    #[inline]
    pub fn deeds(&self, n: usize) -> Deeds {
        self.deeds[n]
    }

    /// Records that the registers of group `n` are about to hold nobody's values.
    pub(super) fn note_gone(&self, n: usize) {
        let seat = &self.seats[n];
        if let (Some(witness), Some(owner)) = (self.witness, seat.owner)
            && !seat.valid.is_empty()
        {
            witness.gone(owner, seat.valid);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn what_a_turn_left_fits_into_a_word() {
        let (valid, dirty) = (Units::from_bits_retain(0xff), Units::from_bits_retain(0xff));
        let resident = Some(Resident { owner: VcpuId(u32::MAX), valid, dirty });
        for deeds in [Deeds::empty(), Deeds::all()] {
            for resident in [None, resident] {
                let outcome = Outcome { resident, deeds };
                assert_eq!(Outcome::unpack(outcome.pack()), outcome);
            }
        }
        assert_eq!(Outcome { resident, deeds: Deeds::empty() }.pack(), resident.map_or(0, Resident::pack));
    }

    #[test]
    fn an_outcome_is_shown_in_words() {
        let resident =
            Resident { owner: VcpuId(0x301), valid: Units::from_bits_retain(3), dirty: Units::empty() };
        let outcome = Outcome { resident: Some(resident), deeds: Deeds::LOADED | Deeds::EVICTED };
        assert_eq!(outcome.to_string(), "3/1:0x3,clean,loaded,evicted");
        assert_eq!(Outcome { resident: None, deeds: Deeds::empty() }.to_string(), "empty");
    }
}
