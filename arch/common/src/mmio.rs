//! Device registers.

use core::ptr::{read_volatile, with_exposed_provenance_mut, write_volatile};

/// A window of device registers.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
}

impl Mmio {
    /// The registers at virtual address `base`.
    ///
    /// # Safety
    /// `base` is where a device's registers are mapped as device memory for as long as the value
    /// is used; offsets used with it stay within the device.
    pub const unsafe fn new(base: u64) -> Self {
        Self { base: base as usize }
    }

    /// Reads a 32-bit register, `offset` bytes from the start.
    #[inline]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: the address is a device's (promised to `new`), 32-bit aligned by the callers' constants; device
        // memory is never the target of a Rust reference, so there is nothing to alias.
        unsafe { read_volatile(with_exposed_provenance_mut(self.base + offset)) }
    }

    /// Writes a 32-bit register.
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        // SAFETY: as for `read32`; what the write makes the device do is the caller's subject.
        unsafe { write_volatile(with_exposed_provenance_mut(self.base + offset), value) }
    }

    /// Reads an 8-bit register.
    #[inline]
    pub fn read8(&self, offset: usize) -> u8 {
        // SAFETY: as for `read32`, and a byte is always aligned.
        unsafe { read_volatile(with_exposed_provenance_mut(self.base + offset)) }
    }

    /// Writes an 8-bit register.
    #[inline]
    pub fn write8(&self, offset: usize, value: u8) {
        // SAFETY: as for `write32`, and a byte is always aligned.
        unsafe { write_volatile(with_exposed_provenance_mut(self.base + offset), value) }
    }

    /// Reads a 16-bit register.
    #[inline]
    pub fn read16(&self, offset: usize) -> u16 {
        // SAFETY: as for `read32`, 16-bit aligned.
        unsafe { read_volatile(with_exposed_provenance_mut(self.base + offset)) }
    }

    /// Writes a 16-bit register.
    #[inline]
    pub fn write16(&self, offset: usize, value: u16) {
        // SAFETY: as for `write32`, 16-bit aligned.
        unsafe { write_volatile(with_exposed_provenance_mut(self.base + offset), value) }
    }

    /// Reads a 64-bit register.
    #[inline]
    pub fn read64(&self, offset: usize) -> u64 {
        // SAFETY: as for `read32`, 64-bit aligned.
        unsafe { read_volatile(with_exposed_provenance_mut(self.base + offset)) }
    }

    /// Writes a 64-bit register.
    #[inline]
    pub fn write64(&self, offset: usize, value: u64) {
        // SAFETY: as for `write32`, 64-bit aligned.
        unsafe { write_volatile(with_exposed_provenance_mut(self.base + offset), value) }
    }
}
