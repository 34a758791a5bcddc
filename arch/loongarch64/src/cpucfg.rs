//! What a guest reads with CPUCFG: the intersection of all CPUs, cut down to what is switched.
//!
//! The table lists every field that a guest may see and the largest value it may have. What is not listed reads
//! as zero: unknown features stay hidden, because state nobody knows of is state nobody switches. Field positions
//! are from LoongArch Vol.1 2.2.10.5.
//!
//! Known, and hidden on purpose:
//! - LVZ: there is no guest inside a guest.
//! - MSGINT, and word 6, the performance counters: their state is not switched.
//! - HPTW, the page-table walker: how it goes on when stage 2 lacks an entry is nowhere written, and every guest
//!   has a refill handler for processors without it.
//! - COMPLEX and CRYPTO: their instructions are not public.
//! - UCACC: its windows are registers that a guest does not have.
//! - the words from 0x4000_0000 on, where KVM describes itself: a guest would call it for what it finds there.

use kernel::fp::Units;

use crate::fp::{from_cpucfg, hide_others};

/// How much of a field is shown.
#[derive(Clone, Copy, Debug)]
enum Show {
    /// The smallest value of any CPU, at most this.
    Upto(u32),
    /// The value of the first CPU: a name, which has no order.
    First,
}
use Show::{First, Upto};

/// The words that are read from each CPU.
pub const SHOWN: [u32; 9] = [0, 1, 2, 3, CACHES, CACHES + 1, CACHES + 2, CACHES + 3, CACHES + 4];

/// The word that says which extensions there are, FP units among them.
const EXTENSIONS: usize = 2;
/// The word that says which caches there are; one with the shape of each follows.
const CACHES: u32 = 0x10;
/// The frequency of the counter and timer, what it is multiplied with (low half) and divided by.
const CC_FREQ: u32 = 4;
const CC_MUL_DIV: u32 = 5;

/// (word, lowest bit of the field, bits, how much of it).
const FIELDS: &[(u32, u32, u32, Show)] = &[
    (0, 0, 32, First),      // PRID
    (1, 0, 2, Upto(2)),     // ARCH: LA64
    (1, 2, 1, Upto(1)),     // PGMMU
    (1, 3, 1, Upto(1)),     // IOCSR
    (1, 4, 8, Upto(46)),    // PALEN less one: stage 2 takes 47 bits
    (1, 12, 8, Upto(63)),   // VALEN less one
    (1, 20, 1, Upto(1)),    // UAL
    (1, 21, 1, Upto(1)),    // RI
    (1, 22, 1, Upto(1)),    // EP
    (1, 23, 1, Upto(1)),    // RPLV
    (1, 24, 1, Upto(1)),    // HP
    (1, 25, 1, Upto(1)),    // CRC32
    (2, 0, 1, Upto(1)),     // FP
    (2, 1, 1, Upto(1)),     // FP_SP
    (2, 2, 1, Upto(1)),     // FP_DP
    (2, 3, 3, Upto(1)),     // FP_VER
    (2, 6, 1, Upto(1)),     // LSX
    (2, 7, 1, Upto(1)),     // LASX
    (2, 14, 1, Upto(1)),    // LLFTP: the counter and timer
    (2, 15, 3, Upto(1)),    // LLFTP_VER
    (2, 18, 1, Upto(1)),    // LBT_X86
    (2, 19, 1, Upto(1)),    // LBT_ARM
    (2, 20, 1, Upto(1)),    // LBT_MIPS
    (2, 21, 1, Upto(1)),    // LSPW
    (2, 22, 1, Upto(1)),    // LAM
    (2, 25, 1, Upto(1)),    // FRECIPE
    (2, 26, 1, Upto(1)),    // DIV32
    (2, 27, 1, Upto(1)),    // LAM_BH
    (2, 28, 1, Upto(1)),    // LAMCAS
    (2, 29, 1, Upto(1)),    // LLACQ_SCREL
    (2, 30, 1, Upto(1)),    // SCQ
    (3, 0, 1, Upto(1)),     // CCDMA
    (3, 1, 1, Upto(1)),     // SFB
    (3, 3, 1, Upto(1)),     // LLEXC
    (3, 4, 1, Upto(1)),     // SCDLY
    (3, 5, 1, Upto(1)),     // LLDBAR
    (3, 6, 1, Upto(1)),     // ITLBT
    (3, 7, 1, Upto(1)),     // ICACHET
    (3, 8, 3, Upto(4)),     // SPW_LVL
    (3, 11, 1, Upto(1)),    // SPW_HP_HF
    (3, 12, 1, Upto(1)),    // RVA
    (3, 13, 4, Upto(7)),    // RVAMAX less one
    (3, 17, 1, Upto(1)),    // DBAR_hints
    (3, 18, 1, Upto(1)),    // loads in order: can be
    (3, 19, 1, Upto(1)),    // stores in order: can be
    (3, 20, 1, Upto(1)),    // loads in order: are
    (3, 21, 1, Upto(1)),    // stores in order: are
    (3, 22, 1, Upto(1)),    // loads of one address in order: can be
    (3, 23, 1, Upto(1)),    // loads of one address in order: are
    (CACHES, 0, 17, First), // present, unified, private, inclusive; for three levels
    (CACHES + 1, 0, 31, First),
    (CACHES + 2, 0, 31, First),
    (CACHES + 3, 0, 31, First),
    (CACHES + 4, 0, 31, First),
];

/// One CPU's own values of the words in [`SHOWN`], in that order.
pub type Raw = [u32; SHOWN.len()];

/// The configuration words of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuCfg {
    values: Raw,
    /// Ticks of the counter in a second.
    hz: u32,
}

impl CpuCfg {
    /// What a guest may see that runs on any of `cpus`, has `units` and a counter of `hz`.
    pub fn new(cpus: &[Raw], units: Units, hz: u32) -> Self {
        let mut values = [0; SHOWN.len()];
        for &(word, low, bits, show) in FIELDS {
            let Some(at) = SHOWN.iter().position(|w| *w == word) else { continue };
            let field = |raw: &Raw| raw[at] >> low & (u32::MAX >> (32 - bits));
            let smallest = || cpus.iter().map(field).min().unwrap_or(0);
            values[at] |= match show {
                First => cpus.first().map_or(0, field),
                Upto(most) => smallest().min(most),
            } << low;
        }
        values[EXTENSIONS] = hide_others(values[EXTENSIONS], units);
        Self { values, hz }
    }

    /// What CPUCFG gives for the word of this number: 32 bits, sign-extended.
    pub fn read(&self, number: u64) -> u64 {
        let word = match u32::try_from(number) {
            Ok(CC_FREQ) => self.hz,
            Ok(CC_MUL_DIV) => 1 << 16 | 1,
            Ok(number) => SHOWN.iter().position(|word| *word == number).map_or(0, |at| self.values[at]),
            Err(_) => 0,
        };
        i64::from(word as i32) as u64
    }

    /// The units that every one of `cpus` has.
    pub fn units_of(cpus: &[Raw]) -> Units {
        let each = cpus.iter().map(|raw| from_cpucfg(raw[EXTENSIONS]));
        each.reduce(|all, units| all & units).unwrap_or(Units::empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fp::{FPU, LASX, LBT, LSX, VECTORS};

    /// An LA464 with LVZ and LBT; the words of 16 on as QEMU 10.0 has them.
    const LA464: Raw = [
        0x0014_c010,
        0x03f2_f2fe,
        0x007c_cccf,
        0x0000_fcfd,
        0x2c3d,
        0x0608_0003,
        0x0608_0003,
        0x0608_000f,
        0x060e_000f,
    ];
    const ALL: Units = VECTORS.union(LBT);

    #[test]
    fn la464_is_cut_down() {
        let cfg = CpuCfg::new(&[LA464], ALL, 100_000_000);
        assert_eq!(cfg.read(0), 0x14_c010);
        assert_eq!(cfg.read(1), 0x03f2_f2ee, "47 physical address bits");
        assert_eq!(cfg.read(2), 0x7c_c0cf, "no LVZ");
        assert_eq!(cfg.read(3), 0xfcf9, "no windows for uncached accesses");
        assert_eq!((cfg.read(4), cfg.read(5)), (100_000_000, 0x1_0001));
        assert_eq!(cfg.read(6), 0, "no performance counters");
        assert_eq!(cfg.read(0x10), 0x2c3d);
        assert_eq!(cfg.read(0x14), 0x060e_000f);
    }

    #[test]
    fn what_nobody_knows_is_hidden() {
        let ones = [u32::MAX; SHOWN.len()];
        let cfg = CpuCfg::new(&[ones], ALL, u32::MAX);
        assert_eq!(cfg.read(2) & (1 << 10 | 7 << 11 | 1 << 24 | 3 << 8 | 1 << 23 | 1 << 31), 0);
        assert_eq!(cfg.read(1) >> 26, 0, "no MSGINT and nothing above it");
        assert_eq!(cfg.read(3) >> 24, 0);
        for number in [6, 7, 15, 0x15, 0x100, 0x4000_0000, 0x4000_0004, 1 << 32, 1 << 32 | 2, u64::MAX] {
            assert_eq!(cfg.read(number), 0, "{number:#x}");
        }
        assert_eq!(cfg.read(4), u64::MAX, "words are sign-extended");
    }

    #[test]
    fn a_guest_sees_the_units_it_has() {
        let unit_bits = 0x3f | 3 << 6 | 7 << 18;
        for (units, bits) in [
            (Units::empty(), 0),
            (FPU, 0xf),
            (FPU | LSX, 0x4f),
            (FPU | LSX | LASX, 0xcf),
            (FPU | LBT, 0xf | 7 << 18),
            (ALL, 0xcf | 7 << 18),
        ] {
            assert_eq!(CpuCfg::new(&[LA464], units, 1).read(2) & unit_bits, bits, "{units:?}");
        }
    }

    #[test]
    fn units_are_those_of_all_cpus() {
        let mut plain = LA464;
        plain[EXTENSIONS] = 0x0060_c00f;
        assert_eq!(CpuCfg::units_of(&[LA464]), ALL);
        assert_eq!(CpuCfg::units_of(&[LA464, plain]), FPU);
        assert_eq!(CpuCfg::units_of(&[]), Units::empty());
    }

    #[test]
    fn without_a_cpu_there_is_nothing() {
        let cfg = CpuCfg::new(&[], ALL, 0);
        assert!((0..0x20).filter(|n| *n != 5).all(|n| cfg.read(n) == 0));
    }

    proptest! {
        /// Nothing is shown that one of the CPUs does not have.
        #[test]
        fn the_weakest_cpu_decides(first: [u32; 9], second: [u32; 9], units: u8) {
            let units = Units::from_bits_retain(units);
            let cfg = CpuCfg::new(&[first, second], units, 0);
            for &(word, low, bits, show) in FIELDS {
                let at = SHOWN.iter().position(|w| *w == word).unwrap();
                let field = |value: u32| value >> low & (u32::MAX >> (32 - bits));
                let shown = field(cfg.read(u64::from(word)) as u32);
                match show {
                    First => prop_assert_eq!(shown, field(first[at])),
                    _ => prop_assert!(shown <= field(first[at]) && shown <= field(second[at])),
                }
            }
        }

        /// No bit lies outside the fields of the table.
        #[test]
        fn only_what_is_listed_is_shown(raw: [u32; 9]) {
            let cfg = CpuCfg::new(&[raw], ALL, 0);
            for (at, word) in SHOWN.into_iter().enumerate() {
                let listed = FIELDS
                    .iter()
                    .filter(|field| field.0 == word)
                    .fold(0, |bits, field| bits | u32::MAX >> (32 - field.2) << field.1);
                prop_assert_eq!(cfg.values[at] & !listed, 0);
            }
        }
    }
}
