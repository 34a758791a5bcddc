//! ID registers of this CPU, read at EL2.

use core::arch::asm;

use aarch64_cpu::registers::{
    ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1, Readable,
};

use crate::idregs::Raw;

/// `ID_AA64PFR0_EL1`.
pub fn pfr0() -> u64 {
    ID_AA64PFR0_EL1.get()
}

/// `ID_AA64PFR1_EL1`.
pub fn pfr1() -> u64 {
    ID_AA64PFR1_EL1.get()
}

/// `ID_AA64DFR0_EL1`.
pub fn dfr0() -> u64 {
    ID_AA64DFR0_EL1.get()
}

/// `ID_AA64ISAR2_EL1`, which `aarch64-cpu` does not name.
pub fn isar2() -> u64 {
    let value;
    // SAFETY: reading an ID register changes nothing, and all of the ID space can be read at EL2.
    unsafe { asm!("mrs {}, S3_0_C0_C6_2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// `ID_AA64ZFR0_EL1`, which reads as zero without SVE.
pub fn zfr0() -> u64 {
    let value;
    // SAFETY: as for `isar2`.
    unsafe { asm!("mrs {}, S3_0_C0_C4_4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// `ID_AA64MMFR0_EL1`.
pub fn mmfr0() -> u64 {
    ID_AA64MMFR0_EL1.get()
}

/// `ID_AA64MMFR1_EL1`.
pub fn mmfr1() -> u64 {
    ID_AA64MMFR1_EL1.get()
}

/// `ID_AA64MMFR2_EL1`.
pub fn mmfr2() -> u64 {
    ID_AA64MMFR2_EL1.get()
}

/// In the order of [`idregs::SHOWN`](crate::idregs::SHOWN).
pub fn raw() -> Raw {
    let (isar0, isar1) = (ID_AA64ISAR0_EL1.get(), ID_AA64ISAR1_EL1.get());
    [pfr0(), pfr1(), dfr0(), isar0, isar1, isar2(), mmfr0(), mmfr1(), mmfr2()]
}
