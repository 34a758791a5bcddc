//! IOCSRs as the drivers of interrupt chips reach them.

use crate::csr::{iocsr_read32, iocsr_read64, iocsr_write32, iocsr_write64};
use crate::irqchip::Iocsr;

/// Those of the CPU this runs on.
#[derive(Clone, Copy, Debug)]
pub struct Own;

impl Iocsr for Own {
    fn read32(&self, at: u32) -> u32 {
        iocsr_read32(at)
    }

    fn read64(&self, at: u32) -> u64 {
        iocsr_read64(at)
    }

    fn write32(&self, at: u32, value: u32) {
        iocsr_write32(at, value);
    }

    fn write64(&self, at: u32, value: u64) {
        iocsr_write64(at, value);
    }
}
