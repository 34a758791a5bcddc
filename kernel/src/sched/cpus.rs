//! Sets of physical CPUs.

use core::fmt;
use core::ops::{BitAnd, BitOr, Not};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::CpuId;

/// A set of physical CPUs, numbered 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(u64);

impl CpuSet {
    /// How many CPUs a set can speak of.
    pub const CAPACITY: usize = 64;
    /// No CPU.
    pub const EMPTY: Self = Self(0);
    /// Every CPU.
    pub const ALL: Self = Self(u64::MAX);

    /// The set with bit `n` set for CPU `n`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit `n` is set for CPU `n`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The CPUs 0 to `count` - 1.
    pub const fn first_n(count: usize) -> Self {
        if count >= Self::CAPACITY { Self::ALL } else { Self((1 << count) - 1) }
    }

    /// The set of one CPU; empty if it is beyond what a set can speak of.
    pub const fn only(cpu: CpuId) -> Self {
        if cpu.0 < Self::CAPACITY { Self(1 << cpu.0) } else { Self::EMPTY }
    }

    /// Whether there is no CPU in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many CPUs are in it.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether `cpu` is in it.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & Self::only(cpu).0 != 0
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0 |= Self::only(cpu).0;
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        self.0 &= !Self::only(cpu).0;
    }

    /// The CPU with the lowest number.
    pub fn first(self) -> Option<CpuId> {
        (!self.is_empty()).then(|| CpuId(self.0.trailing_zeros() as usize))
    }

    /// Takes out the CPU with the lowest number.
    pub fn pop_first(&mut self) -> Option<CpuId> {
        let first = self.first()?;
        self.0 &= self.0 - 1;
        Some(first)
    }

    /// Reads a list such as `1`, `0-3` or `0+2-3`, which [`Display`](fmt::Display) writes; none if it is no such list, or
    /// names a CPU that no set can speak of.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|cpu| *cpu < Self::CAPACITY);
        text.split('+').try_fold(Self::EMPTY, |set, part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            let run: Self = (first..=last).map(CpuId).collect();
            (first <= last).then_some(set | run)
        })
    }

    /// The CPUs in it, in order.
    pub fn iter(mut self) -> impl Iterator<Item = CpuId> {
        core::iter::from_fn(move || self.pop_first())
    }
}

impl BitAnd for CpuSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for CpuSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for CpuSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        cpus.into_iter().fold(Self::EMPTY, |set, cpu| set | Self::only(cpu))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut separator) = (self.0, "");
        while rest != 0 {
            let first = rest.trailing_zeros();
            let run = (rest >> first).trailing_ones();
            write!(out, "{separator}{first}")?;
            if run > 1 {
                write!(out, "-{}", first + run - 1)?;
            }
            rest &= u64::MAX.checked_shl(first + run).unwrap_or(0);
            separator = "+";
        }
        Ok(())
    }
}

/// A set that any CPU may replace while others read it.
#[derive(Debug)]
pub struct CpuSetCell(AtomicU64);

impl CpuSetCell {
    /// A cell that holds `set`.
    pub const fn new(set: CpuSet) -> Self {
        Self(AtomicU64::new(set.0))
    }

    /// What it holds.
    #[inline]
    pub fn get(&self) -> CpuSet {
        CpuSet(self.0.load(Ordering::Relaxed))
    }

    /// Replaces what it holds.
    pub fn set(&self, set: CpuSet) {
        self.0.store(set.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, bits) in [("1", 2), ("0-3", 15), ("0+2-3", 13), ("0-63", u64::MAX), ("62-63", 3 << 62)] {
            let set = CpuSet::parse(text).unwrap();
            assert_eq!((set.bits(), set.to_string().as_str()), (bits, text));
        }
        assert_eq!(CpuSet::parse("3+1+1-2").unwrap().to_string(), "1-3");
        for wrong in ["", "+", "1-", "-1", "3-1", "64", "0-64", "one", "1,2", " 1"] {
            assert_eq!(CpuSet::parse(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_set_that_has_a_cpu_is_read_as_it_was_written(bits in 1u64..) {
            let set = CpuSet::from_bits(bits);
            proptest::prop_assert_eq!(CpuSet::parse(&set.to_string()), Some(set));
        }
    }
}
