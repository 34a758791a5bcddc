//! I/O control and status registers: IPIs, mailboxes and the EIOINTC (Loongson 3A5000 manual, 10 and 11).

use core::arch::asm;

/// What the chip has.
pub const FEATURES: u64 = 0x8;
/// Eight letters.
pub const VENDOR: u64 = 0x10;
/// Eight letters.
pub const CPUNAME: u64 = 0x20;
/// Chip-wide enables: EXT_IOI_EN 48.
pub const MISC_FUNC: u64 = 0x420;
/// IPIs that are pending at this core, a bit each.
pub const IPI_STATUS: u64 = 0x1000;
/// IPIs that interrupt this core.
pub const IPI_EN: u64 = 0x1004;
/// Makes IPIs pending.
pub const IPI_SET: u64 = 0x1008;
/// Clears IPIs.
pub const IPI_CLEAR: u64 = 0x100c;
/// The first of four mailboxes of 64 bits.
pub const MAILBOX: u64 = 0x1020;
/// Sends an IPI: action 4:0, core 25:16, blocking 31.
pub const IPI_SEND: u64 = 0x1040;
/// Writes half a mailbox: half 4:2, core 25:16, bytes to keep 30:27, blocking 31, data 63:32.
pub const MAIL_SEND: u64 = 0x1048;
/// Writes any register of a core: register 15:0, otherwise as MAIL_SEND.
pub const ANY_SEND: u64 = 0x1158;
/// EIOINTC: nodes by number, 16 bits each.
pub const EIO_NODEMAP: u64 = 0x14a0;
/// EIOINTC: interrupt line of each 32 vectors, a byte each.
pub const EIO_IPMAP: u64 = 0x14c0;
/// EIOINTC: enables, 256 bits.
pub const EIO_ENABLE: u64 = 0x1600;
/// EIOINTC: automatic rotation, 256 bits.
pub const EIO_BOUNCE: u64 = 0x1680;
/// EIOINTC: vectors pending at this core, 256 bits; writing a one clears.
pub const EIO_ISR: u64 = 0x1800;
/// EIOINTC: core of each vector, a byte each.
pub const EIO_COREMAP: u64 = 0x1c00;

macro_rules! accessors {
    ($($read:ident $write:ident $type:ty, $load:literal $store:literal $words:literal;)*) => {$(
        #[doc = concat!("Reads ", $words, " at `address`.")]
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: reading an IOCSR changes no memory that Rust knows of.
            unsafe { asm!(concat!($load, " {}, {}"), out(reg) value, in(reg) address, options(nostack)) };
            value as $type
        }

        #[doc = concat!("Writes ", $words, " at `address`.")]
        pub fn $write(address: u64, value: $type) {
            // SAFETY: IOCSRs are interrupt controllers and mailboxes, in which no Rust object lives.
            unsafe { asm!(concat!($store, " {}, {}"), in(reg) u64::from(value), in(reg) address, options(nostack)) };
        }
    )*};
}

accessors! {
    read8 write8 u8, "iocsrrd.b" "iocsrwr.b" "8 bits";
    read16 write16 u16, "iocsrrd.h" "iocsrwr.h" "16 bits";
    read32 write32 u32, "iocsrrd.w" "iocsrwr.w" "32 bits";
    read64 write64 u64, "iocsrrd.d" "iocsrwr.d" "64 bits";
}
