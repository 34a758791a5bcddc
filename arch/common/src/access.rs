//! What a trapped load or store does with a value.

/// How a value fills 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// Upper bits are zero.
    Zero,
    /// Upper bits repeat the sign.
    Sign,
}

impl Extend {
    /// The low `width` bytes of `value`, extended to 64 bits.
    #[inline]
    pub fn fill(self, value: u64, width: u8) -> u64 {
        let unused = 64 - (u32::from(width) * 8).clamp(8, 64);
        match self {
            Extend::Zero => value << unused >> unused,
            Extend::Sign => ((value << unused) as i64 >> unused) as u64,
        }
    }
}
