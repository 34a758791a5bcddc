//! Device registers through the uncached direct-mapped window, each access one plain load or store.

use core::arch::asm;

/// Base of the uncached window at PLV0.
pub const UNCACHED: u64 = 0x8000_0000_0000_0000;

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $load:literal $store:literal $words:literal;)*) => {$(
        #[doc = concat!("Reads ", $words, " at a physical address.")]
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: the address is a device's, which Rust objects never live in; where nothing is, the access traps
            // and is skipped or reported.
            unsafe {
                asm!(concat!($load, " {}, {}, 0"), out(reg) value, in(reg) UNCACHED | address, options(nostack))
            };
            value as $type
        }

        #[doc = concat!("Writes ", $words, " at a physical address.")]
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as for reads.
            unsafe {
                asm!(concat!($store, " {}, {}, 0"), in(reg) u64::from(value), in(reg) UNCACHED | address,
                    options(nostack))
            };
        }
    )*};
}

accessors! {
    read8 write8 u8, "ld.bu" "st.b" "8 bits";
    read16 write16 u16, "ld.hu" "st.h" "16 bits";
    read32 write32 u32, "ld.wu" "st.w" "32 bits";
    read64 write64 u64, "ld.d" "st.d" "64 bits";
}
