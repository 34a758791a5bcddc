//! What a guest reads in the ID registers: the intersection of all CPUs, cut down to what is switched.
//!
//! The table lists every field that a guest may see and the largest value it may have. A field that is not
//! listed, and a register that is not listed, reads as zero: unknown features stay hidden, because state
//! nobody knows of is state nobody switches. Field positions are from DDI0487 D24.2.

use crate::trap::encode;

/// How much of a field is shown.
#[derive(Clone, Copy, Debug)]
enum Show {
    /// The smallest value of any CPU, at most this.
    Upto(u64),
    /// As `Upto`, for fields in which 0xF means "not implemented" and is less than 0.
    Signed(u64),
    /// This value, whatever the CPUs have: a property of the virtual machine.
    Always(u64),
}
use Show::{Always, Signed, Upto};

/// Registers of `S3_0_C0_C<m>_<op2>`, as `8 * m + op2`.
const PFR0: usize = 8 * 4;
const PFR1: usize = 8 * 4 + 1;
const DFR0: usize = 8 * 5;
const ISAR0: usize = 8 * 6;
const ISAR1: usize = 8 * 6 + 1;
const ISAR2: usize = 8 * 6 + 2;
const MMFR0: usize = 8 * 7;
const MMFR1: usize = 8 * 7 + 1;
const MMFR2: usize = 8 * 7 + 2;

/// `ID_AA64ZFR0_EL1`, which differs from guest to guest.
const ZFR0: usize = 8 * 4 + 4;

/// The registers that are read from each CPU.
pub const SHOWN: [usize; 9] = [PFR0, PFR1, DFR0, ISAR0, ISAR1, ISAR2, MMFR0, MMFR1, MMFR2];

/// (register, lowest bit of the field, how much of it).
const FIELDS: &[(usize, u32, Show)] = &[
    // EL0 and EL1 in AArch64 only; no EL2, EL3, RAS, SVE, MPAM, AMU.
    (PFR0, 0, Always(1)),
    (PFR0, 4, Always(1)),
    (PFR0, 16, Signed(1)), // FP, half precision
    (PFR0, 20, Signed(1)), // AdvSIMD
    (PFR0, 24, Always(1)), // GIC system registers
    (PFR0, 48, Upto(1)),   // DIT
    (PFR0, 56, Upto(1)),   // CSV2, without SCXTNUM
    (PFR0, 60, Upto(1)),   // CSV3
    (PFR1, 0, Upto(1)),    // BTI
    (PFR1, 4, Upto(2)),    // SSBS
    // Armv8 debug with the fewest breakpoints and watchpoints there may be; no PMU, trace, profiling.
    (DFR0, 0, Always(6)),
    (DFR0, 12, Always(1)),
    (DFR0, 20, Always(1)),
    (DFR0, 36, Always(0xf)), // no OS double lock
    (ISAR0, 4, Upto(2)),     // AES, PMULL
    (ISAR0, 8, Upto(1)),     // SHA1
    (ISAR0, 12, Upto(2)),    // SHA2
    (ISAR0, 16, Upto(1)),    // CRC32
    (ISAR0, 20, Upto(2)),    // LSE atomics
    (ISAR0, 28, Upto(1)),    // RDM
    (ISAR0, 32, Upto(1)),    // SHA3
    (ISAR0, 36, Upto(1)),    // SM3
    (ISAR0, 40, Upto(1)),    // SM4
    (ISAR0, 44, Upto(1)),    // dot product
    (ISAR0, 48, Upto(1)),    // FHM
    (ISAR0, 52, Upto(2)),    // flag manipulation
    (ISAR0, 56, Upto(2)),    // TLB range operations
    (ISAR0, 60, Upto(1)),    // RNDR
    (ISAR1, 0, Upto(2)),     // DC CVAP, CVADP
    (ISAR1, 4, Upto(5)),     // APA
    (ISAR1, 8, Upto(5)),     // API
    (ISAR1, 12, Upto(1)),    // JSCVT
    (ISAR1, 16, Upto(1)),    // FCMA
    (ISAR1, 20, Upto(3)),    // LRCPC
    (ISAR1, 24, Upto(1)),    // GPA
    (ISAR1, 28, Upto(1)),    // GPI
    (ISAR1, 32, Upto(1)),    // FRINTTS
    (ISAR1, 36, Upto(1)),    // SB
    (ISAR1, 44, Upto(1)),    // BF16
    (ISAR1, 48, Upto(1)),    // DGH
    (ISAR1, 52, Upto(1)),    // I8MM
    // No WFxT: QEMU 10.0 reports a trapped WFIT as a WFI, without its deadline.
    (ISAR2, 4, Upto(1)),    // RPRES
    (ISAR2, 8, Upto(1)),    // GPA3
    (ISAR2, 12, Upto(5)),   // APA3
    (ISAR2, 16, Upto(1)),   // MOPS, enabled by HCRX_EL2.MSCEn
    (ISAR2, 20, Upto(1)),   // BC
    (ISAR2, 24, Upto(1)),   // PAC_frac
    (ISAR2, 28, Upto(1)),   // CLRBHB
    (ISAR2, 52, Upto(1)),   // CSSC
    (MMFR0, 0, Upto(2)),    // PARange: 40 bits at most, as stage 2 has
    (MMFR0, 4, Upto(2)),    // ASID size
    (MMFR0, 8, Upto(1)),    // big endian
    (MMFR0, 20, Upto(1)),   // 16 KiB granule, without LPA2
    (MMFR0, 24, Signed(0)), // 64 KiB granule
    (MMFR0, 28, Signed(0)), // 4 KiB granule, without LPA2
    (MMFR0, 60, Upto(1)),   // ECV, without the offset
    (MMFR1, 0, Upto(2)),    // hardware access flag and dirty state
    (MMFR1, 12, Upto(2)),   // hierarchical permission disable
    (MMFR1, 20, Upto(3)),   // PAN
    (MMFR1, 36, Upto(2)),   // ETS
    (MMFR1, 44, Upto(1)),   // AFP
    (MMFR1, 52, Upto(1)),   // TIDCP1
    (MMFR2, 4, Upto(1)),    // UAO
    (MMFR2, 8, Upto(1)),    // LSM
    (MMFR2, 28, Upto(1)),   // small translation tables
    (MMFR2, 32, Upto(1)),   // unaligned atomics
    (MMFR2, 36, Upto(1)),   // IDS
    (MMFR2, 48, Upto(1)),   // TTL
    (MMFR2, 52, Upto(2)),   // BBM
    (MMFR2, 60, Upto(1)),   // E0PD
];

/// (lowest bit of a field of `ID_AA64ZFR0_EL1`, its largest value): what SVE has, none of which adds a register.
const SVE_FIELDS: &[(u32, u64)] = &[
    (0, 2),  // SVEver: SVE2.1
    (4, 2),  // AES, PMULL
    (16, 1), // BitPerm
    (20, 2), // BF16
    (24, 1), // B16B16
    (32, 1), // SHA3
    (40, 1), // SM4
    (44, 1), // I8MM
    (52, 1), // F32MM
    (56, 1), // F64MM
];
/// `ID_AA64PFR0_EL1.SVE`.
const PFR0_SVE: u32 = 32;

/// One CPU's own values of the registers in [`SHOWN`], in that order.
pub type Raw = [u64; SHOWN.len()];

/// The ID registers of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdRegs {
    values: [u64; SHOWN.len()],
    /// `ID_AA64ZFR0_EL1`.
    zfr0: u64,
}

impl IdRegs {
    /// What a guest may see that runs on any of `cpus`.
    pub fn new(cpus: &[Raw]) -> Self {
        let mut values = [0; SHOWN.len()];
        for &(register, low, show) in FIELDS {
            let Some(at) = SHOWN.iter().position(|r| *r == register) else { continue };
            let smallest = |rank: fn(u64) -> i64| {
                cpus.iter().map(|raw| raw[at] >> low & 0xf).min_by_key(|v| rank(*v)).unwrap_or(0)
            };
            let value = match show {
                Always(value) => value,
                Upto(most) => smallest(|v| v as i64).min(most),
                Signed(most) => match smallest(|v| if v >= 8 { v as i64 - 16 } else { v as i64 }) {
                    negative @ 8.. => negative,
                    value => value.min(most),
                },
            };
            values[at] |= value << low;
        }
        Self { values, zfr0: 0 }
    }

    /// The same for a guest that has SVE and runs on CPUs whose `ID_AA64ZFR0_EL1` are `cpus`.
    pub fn with_sve(mut self, cpus: impl IntoIterator<Item = u64> + Clone) -> Self {
        for &(low, most) in SVE_FIELDS {
            let field = cpus.clone().into_iter().map(|zfr0| zfr0 >> low & 0xf).min().unwrap_or(0);
            self.zfr0 |= field.min(most) << low;
        }
        self.values[0] |= 1 << PFR0_SVE;
        self
    }

    /// The value of a register of the ID space (`S3_0_C0_C1_0` to `S3_0_C0_C7_7`), or none outside it.
    pub fn read(&self, register: u16) -> Option<u64> {
        let first = encode(3, 0, 0, 1, 0);
        let last = encode(3, 0, 0, 7, 7);
        if !(first..=last).contains(&register) {
            return None;
        }
        let number = usize::from(register - first) + 8;
        let value = SHOWN.iter().position(|r| *r == number).map_or(0, |at| self.values[at]);
        Some(if number == ZFR0 { self.zfr0 } else { value })
    }

    /// Whether guests have pointer authentication, so that its keys are switched.
    pub fn has_pauth(&self) -> bool {
        let isar1 = self.values[4];
        let isar2 = self.values[5];
        isar1 >> 4 & 0xff != 0 || isar1 >> 24 & 0xff != 0 || isar2 >> 8 & 0xff != 0
    }

    /// Whether guests have the memory copy instructions, which `HCRX_EL2` has to enable.
    pub fn has_mops(&self) -> bool {
        self.values[5] >> 16 & 0xf != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 10.0.2 `-cpu max`, measured at EL2.
    const MAX: Raw = [
        0x1301_0011_2111_0222,
        0x0000_0010_0100_0121,
        0x1000_0000_1030_560a,
        0x1221_1111_1021_2120,
        0x0111_2111_1021_1502,
        0x11_0012,
        0x2100_0323_1020_1126,
        0x0110_1120_1031_2122,
        0x1221_0111_1201_1011,
    ];

    fn id(regs: &IdRegs, crm: u16, op2: u16) -> u64 {
        regs.read(encode(3, 0, 0, crm, op2)).unwrap()
    }

    #[test]
    fn max_is_cut_down() {
        let regs = IdRegs::new(&[MAX]);
        let pfr0 = id(&regs, 4, 0);
        assert_eq!(pfr0 & 0xffff, 0x11, "AArch64 at EL0 and EL1, nothing above");
        assert_eq!(pfr0 >> 28 & 0xff, 0, "no RAS, no SVE");
        assert_eq!(pfr0 >> 16 & 0xff, 0x11, "FP and SIMD with half precision");
        assert_eq!(id(&regs, 4, 1), 0x21, "BTI and SSBS, no MTE, SME, NMI");
        assert_eq!(id(&regs, 4, 4), 0, "no ZFR0");
        assert_eq!(id(&regs, 5, 0) >> 8 & 0xf, 0, "no PMU");
        assert_eq!(id(&regs, 7, 0) & 0xf, 2, "40 address bits");
        assert_eq!(id(&regs, 7, 0) >> 28 & 0xf, 0, "4 KiB pages without LPA2");
        assert_eq!(id(&regs, 7, 1) >> 8 & 0xf, 0, "no VHE");
        assert!(regs.has_pauth() && regs.has_mops());
    }

    #[test]
    fn sve_is_shown_to_those_who_have_it() {
        // QEMU 10.0.2 `-cpu max`: SVE2, everything else at its largest.
        let max = 0x0110_1101_0021_0021;
        let plain = IdRegs::new(&[MAX]);
        let regs = plain.clone().with_sve([max, max]);
        assert_eq!(id(&regs, 4, 0), id(&plain, 4, 0) | 1 << 32);
        assert_eq!(id(&regs, 4, 4), max);
        assert_eq!(id(&regs, 4, 5), 0, "no SMFR0");
        // Fields nobody knows stay hidden, and of two CPUs the weaker decides.
        assert_eq!(id(&plain.clone().with_sve([u64::MAX]), 4, 4), 0x0110_1101_0121_0022);
        assert_eq!(id(&plain.with_sve([max, 1]), 4, 4), 1);
    }

    #[test]
    fn the_weakest_cpu_decides() {
        let mut weak = MAX;
        weak[0] |= 0xff << 16; // no FP at all
        weak[4] = 0;
        weak[5] = 0;
        let regs = IdRegs::new(&[MAX, weak]);
        assert_eq!(id(&regs, 4, 0) >> 16 & 0xff, 0xff);
        assert!(!regs.has_pauth() && !regs.has_mops());
    }

    #[test]
    fn other_registers_are_not_ours() {
        let regs = IdRegs::new(&[MAX]);
        assert_eq!(regs.read(encode(3, 0, 0, 0, 6)), None);
        assert_eq!(regs.read(encode(3, 0, 1, 0, 0)), None);
        assert_eq!(regs.read(encode(3, 0, 0, 1, 0)), Some(0), "AArch32 reads as zero");
    }
}
