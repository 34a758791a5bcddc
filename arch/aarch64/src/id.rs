//! ID registers of this CPU, read at EL2.

use core::arch::asm;

use crate::idregs::Raw;

macro_rules! id {
    ($name:ident, $encoding:literal) => {
        #[doc = concat!("Reads `ID_AA64", stringify!($name), "_EL1` (in capitals) of this CPU.")]
        pub fn $name() -> u64 {
            let value;
            // SAFETY: reading an ID register changes nothing; all of S3_0_C0_C<4..7> can be read at EL2.
            unsafe { asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }
    };
}
id!(pfr0, "S3_0_C0_C4_0");
id!(pfr1, "S3_0_C0_C4_1");
id!(dfr0, "S3_0_C0_C5_0");
id!(isar0, "S3_0_C0_C6_0");
id!(isar1, "S3_0_C0_C6_1");
id!(isar2, "S3_0_C0_C6_2");
id!(mmfr0, "S3_0_C0_C7_0");
id!(mmfr1, "S3_0_C0_C7_1");
id!(mmfr2, "S3_0_C0_C7_2");

/// In the order of `idregs::SHOWN`.
pub fn raw() -> Raw {
    [pfr0(), pfr1(), dfr0(), isar0(), isar1(), isar2(), mmfr0(), mmfr1(), mmfr2()]
}
