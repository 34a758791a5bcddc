//! Names for contents: no two different register contents ever share one.

use crate::addr::CpuId;

/// How many low bits of a stamp count; the rest is the CPU that drew it. At a million saves a second a CPU
/// counts for 142 years.
const SERIAL_BITS: u32 = 52;

/// The name of one version of one image. [`Stamp::NONE`] names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// Names no contents; equal to no stamp that was drawn.
    pub(super) const NONE: Self = Self(0);
}

/// One CPU's source of stamps. CPUs need not agree on anything: their stamps differ in the top bits.
#[derive(Debug)]
pub(super) struct Stamps {
    last: u64,
}

impl Stamps {
    /// Makes the source for `cpu`.
    ///
    /// # Panics
    /// When `cpu` is 4096 or more, which no supported board has.
    pub(super) fn new(cpu: CpuId) -> Self {
        let prefix = cpu.0 as u64;
        assert!(prefix < 1 << (u64::BITS - SERIAL_BITS), "CPU number too large for an FP stamp");
        Self { last: prefix << SERIAL_BITS }
    }

    /// Draws a stamp that was never drawn before.
    pub(super) fn draw(&mut self) -> Stamp {
        self.last += 1;
        Stamp(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_different_cpus_never_meet() {
        let mut first = Stamps::new(CpuId(0));
        let mut second = Stamps::new(CpuId(1));
        assert_ne!(first.draw(), Stamp::NONE);
        assert_ne!(second.draw(), first.draw());
        assert_eq!(second.draw().0 >> SERIAL_BITS, 1);
    }
}
