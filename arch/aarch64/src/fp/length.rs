//! Vector lengths: which there are, and which of them a guest can be given.

use core::fmt;
use core::num::NonZeroU8;

/// Bytes in a quadword, of which every vector length is a multiple.
const QUADWORD: usize = 16;

/// The length of a scalable vector register: 1 to 16 quadwords.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Length(NonZeroU8);

impl Length {
    /// The longest that the architecture allows (DDI0487 B1.4.1).
    pub const MAX: Self = Self(NonZeroU8::new(16).unwrap());

    /// The length of that many quadwords, if there is one.
    pub const fn from_quadwords(quadwords: u64) -> Option<Self> {
        match NonZeroU8::new(quadwords as u8) {
            Some(length) if quadwords <= Self::MAX.quadwords() as u64 => Some(Self(length)),
            _ => None,
        }
    }

    /// The length of that many bits, if there is one.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits.is_multiple_of(128) { Self::from_quadwords(bits / 128) } else { None }
    }

    /// Counts quadwords.
    pub const fn quadwords(self) -> usize {
        self.0.get() as usize
    }

    /// Counts bits.
    pub const fn bits(self) -> u64 {
        self.quadwords() as u64 * 128
    }

    /// Counts bytes of one vector register; a predicate register has an eighth.
    pub const fn bytes(self) -> usize {
        self.quadwords() * QUADWORD
    }

    /// What `ZCR_ELx.LEN` has to hold to ask for this length.
    pub const fn len_field(self) -> u64 {
        self.quadwords() as u64 - 1
    }
}

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits", self.bits())
    }
}

/// A set of vector lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths(u16);

impl Lengths {
    /// No length at all: a CPU without SVE.
    pub const NONE: Self = Self(0);

    /// Adds a length.
    pub const fn insert(&mut self, length: Length) {
        self.0 |= 1 << length.len_field();
    }

    /// Tells whether a length is in the set.
    pub const fn contains(self, length: Length) -> bool {
        self.0 & 1 << length.len_field() != 0
    }

    /// Keeps those that are not longer than `longest`.
    #[must_use]
    pub const fn up_to(self, longest: Length) -> Self {
        Self(self.0 & ((2 << longest.len_field()) - 1) as u16)
    }

    /// Bit n is set for vectors of n + 1 times 128 bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Lists the lengths, the shortest first.
    pub fn iter(self) -> impl Iterator<Item = Length> {
        (1..=Length::MAX.quadwords() as u64)
            .filter_map(Length::from_quadwords)
            .filter(move |length| self.contains(*length))
    }

    /// The longest of them.
    pub fn longest(self) -> Option<Length> {
        self.iter().last()
    }

    /// The lengths that a guest which runs on CPUs with these sets can be limited to.
    ///
    /// A guest finds out what there is by asking for one length after the other (`ZCR_EL1.LEN`), and gets the longest
    /// that is not longer. The answers are the same on all CPUs if up to its limit they have the same lengths.
    pub fn shared(cpus: impl IntoIterator<Item = Self>) -> Self {
        let (all, any) = cpus.into_iter().fold((u16::MAX, 0), |(all, any), Self(one)| (all & one, any | one));
        let differ = all ^ any;
        // With no difference there is no lowest one, and nothing is cut off.
        let alike = (1_u32 << differ.trailing_zeros()) - 1;
        Self(all & any & alike as u16)
    }
}

impl FromIterator<Length> for Lengths {
    fn from_iter<I: IntoIterator<Item = Length>>(lengths: I) -> Self {
        let mut set = Self::NONE;
        lengths.into_iter().for_each(|length| set.insert(length));
        set
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn set(bits: &[u64]) -> Lengths {
        bits.iter().filter_map(|bits| Length::from_bits(*bits)).collect()
    }

    /// What a CPU with `lengths` selects (DDI0487, ZCR_EL1.LEN): the longest implemented that is not longer than what is
    /// asked for and allowed.
    fn selected(lengths: Lengths, limit: Length, len_field: u64) -> Option<Length> {
        lengths.iter().filter(|length| *length <= limit && length.len_field() <= len_field).last()
    }

    #[test]
    fn lengths_are_multiples_of_128_up_to_2048() {
        assert_eq!(Length::from_bits(128).map(Length::len_field), Some(0));
        assert_eq!(Length::from_bits(2048), Some(Length::MAX));
        assert_eq!(Length::from_bits(512).map(Length::bytes), Some(64));
        for bits in [0, 1, 64, 192, 2049, 2176, u64::MAX, u64::MAX - 127] {
            assert_eq!(Length::from_bits(bits), None);
        }
    }

    #[test]
    fn what_cpus_share_ends_where_they_differ() {
        let (v1, a64fx) = (set(&[128, 256]), set(&[128, 256, 512]));
        assert_eq!(Lengths::shared([a64fx, a64fx]), a64fx);
        assert_eq!(Lengths::shared([a64fx, v1]), v1);
        // 384 is missing on one of them: a guest limited to 512 could tell where it runs.
        assert_eq!(Lengths::shared([a64fx, set(&[128, 256, 384, 512])]), v1);
        assert_eq!(Lengths::shared([a64fx, Lengths::NONE]), Lengths::NONE);
        assert_eq!(Lengths::shared([]), Lengths::NONE);
        assert_eq!(Lengths::shared([a64fx]).iter().map(Length::bits).collect::<Vec<_>>(), [128, 256, 512]);
    }

    proptest! {
        #[test]
        fn whatever_a_guest_asks_for_it_gets_the_same_on_every_cpu(sets in prop::collection::vec(any::<u16>(), 1..4)) {
            // Every CPU that has SVE has the shortest length.
            let sets: Vec<_> = sets.into_iter().map(|bits| Lengths(bits | 1)).collect();
            let shared = Lengths::shared(sets.iter().copied());
            prop_assert!(shared.longest().is_some());
            for limit in shared.iter() {
                for len_field in 0..16 {
                    let first = selected(sets[0], limit, len_field);
                    prop_assert!(first.is_some());
                    for other in &sets {
                        prop_assert_eq!(selected(*other, limit, len_field), first);
                    }
                }
            }
            // No length that would also do is left out.
            for limit in (1..=16).filter_map(Length::from_quadwords).filter(|limit| !shared.contains(*limit)) {
                let alike = (0..16).all(|field| {
                    sets.iter().all(|set| selected(*set, limit, field) == selected(sets[0], limit, field))
                });
                prop_assert!(!alike || !sets.iter().all(|set| set.contains(limit)));
            }
        }
    }
}
