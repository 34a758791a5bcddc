//! The registers in memory.

use alloc::boxed::Box;
use alloc::vec;
use core::mem::size_of;

use super::Length;

/// The registers of the SIMD unit, in the layout that the leaf loads and stores.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Registers {
    /// V0-V31.
    pub q: [u128; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR. All 64 bits: new ones (AH, NEP, FIZ) change what arithmetic means.
    pub fpcr: u64,
}

impl Registers {
    /// Has `pattern` in every half of every vector register, round-to-nearest and no flags.
    pub const fn filled(pattern: u64) -> Self {
        let wide = (pattern as u128) << 64 | pattern as u128;
        Self { q: [wide; 32], fpsr: 0, fpcr: 0 }
    }
}

/// Bytes of Z0-Z31, P0-P15 and FFR: a predicate register has an eighth of a vector register.
pub(super) const fn scalable_bytes(length: Length) -> usize {
    34 * length.bytes() + length.bytes() / 8
}

/// The scalable registers, in the layout that the leaf loads and stores: Z0-Z31, then P0-P15, then FFR, each as long as
/// the vector length makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalable {
    pub(super) length: Length,
    pub(super) words: Box<[u128]>,
}

impl Scalable {
    /// Makes zeroes for vectors of `length`.
    pub fn new(length: Length) -> Self {
        Self { length, words: vec![0; scalable_bytes(length).div_ceil(size_of::<u128>())].into_boxed_slice() }
    }

    /// The vector length that it has room for.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Everything, in order.
    pub fn words(&self) -> &[u128] {
        &self.words
    }

    /// Everything, in order.
    pub fn words_mut(&mut self) -> &mut [u128] {
        &mut self.words
    }

    /// Tells whether everything that the SIMD view does not show is zero.
    pub(super) fn is_narrow(&self) -> bool {
        let (vectors, predicates) = self.words.split_at(32 * self.length.quadwords());
        let mut uppers = vectors.chunks_exact(self.length.quadwords()).map(|vector| &vector[1..]);
        uppers.all(|upper| upper.iter().all(|word| *word == 0)) && predicates.iter().all(|word| *word == 0)
    }

    /// Copies what the SIMD view shows.
    pub(super) fn narrow(&self, into: &mut [u128; 32]) {
        let lows = self.words.chunks_exact(self.length.quadwords()).map(|vector| vector[0]);
        into.iter_mut().zip(lows).for_each(|(q, low)| *q = low);
    }
}

/// Where the vector registers are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the SIMD registers. Whatever only SVE shows is zero.
    Simd,
    /// In the scalable registers.
    Sve,
    /// In the scalable registers, in which only what SIMD shows is not zero, and in the SIMD registers as well.
    Both,
}
