//! Sets of physical CPUs.

use core::ops::{BitAnd, BitOr, Not};

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
