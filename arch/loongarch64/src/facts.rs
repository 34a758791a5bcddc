//! What is true of all CPUs of this machine, found out once while it starts.

use alloc::vec::Vec;

use kernel::addr::Hpa;
use kernel::fp::Units;
use spin::Once;

use crate::cpucfg::Raw;

/// What guests of this machine have in common.
#[derive(Debug)]
pub struct Facts {
    /// What CPUCFG says on each CPU.
    pub cpucfg: Vec<Raw>,
    /// `PRCFG1` to `PRCFG3`.
    pub prcfg: [u64; 3],
    /// `ASID.ASIDBITS`.
    pub asid_bits: u8,
    /// Ticks of the stable counter in a second.
    pub hz: u64,
    /// The FP units that every CPU has.
    pub units: Units,
    /// Seconds since 1970 when the stable counter was zero; none if the machine has no clock.
    pub epoch: Option<u64>,
    /// The table that empty directory entries of stage 2 point to.
    pub null: Hpa,
}

static FACTS: Once<Facts> = Once::new();

/// Publishes the facts; the first call counts.
pub fn establish(facts: Facts) -> &'static Facts {
    FACTS.call_once(|| facts)
}

/// The facts.
///
/// # Panics
/// Before [`establish`]: no guest is built that early.
pub fn facts() -> &'static Facts {
    FACTS.get().expect("guests are built after the CPUs have been counted")
}

/// Ticks in a second, by CPUCFG words 4 and 5: a crystal's frequency, a multiplier and a divider (7.1.3). None if a
/// word says nothing.
pub fn hz(word4: u32, word5: u32) -> Option<u64> {
    let (multiplier, divider) = (u64::from(word5 & 0xffff), u64::from(word5 >> 16));
    let hz = u64::from(word4).checked_mul(multiplier)?.checked_div(divider)?;
    (hz != 0).then_some(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_has_the_frequency_of_the_words() {
        assert_eq!(hz(100_000_000, 0x1_0001), Some(100_000_000));
        assert_eq!(hz(25_000_000, 2 << 16 | 8), Some(100_000_000));
        assert_eq!(hz(100_000_000, 0x1_0000), None);
        assert_eq!(hz(100_000_000, 1), None);
        assert_eq!(hz(u32::MAX, 0xffff | 1 << 16), Some(u64::from(u32::MAX) * 0xffff));
    }
}
