//! Device registers, always by a plain LDR or STR: compilers may turn a volatile access into one with write-back, which a
//! hypervisor sees without a valid syndrome (DDI0487, ESR_ELx.ISV).

use core::arch::asm;

/// Reads the 32-bit register at `address`.
pub fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: `address` is mapped as device memory, which Rust objects never live in.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes the 32-bit register at `address`.
pub fn write32(address: u64, value: u32) {
    // SAFETY: as for `read32`.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads the 64-bit register at `address`.
pub fn read64(address: u64) -> u64 {
    let value: u64;
    // SAFETY: as for `read32`.
    unsafe { asm!("ldr {0}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value
}

/// Writes the 64-bit register at `address`.
pub fn write64(address: u64, value: u64) {
    // SAFETY: as for `read32`.
    unsafe { asm!("str {0}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
}

/// Reads the byte register at `address`.
pub fn read8(address: u64) -> u8 {
    let value: u32;
    // SAFETY: as for `read32`.
    unsafe { asm!("ldrb {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    value as u8
}

/// Writes the byte register at `address`.
pub fn write8(address: u64, value: u8) {
    // SAFETY: as for `read32`.
    unsafe {
        asm!("strb {0:w}, [{1}]", in(reg) u32::from(value), in(reg) address, options(nostack, preserves_flags))
    };
}
