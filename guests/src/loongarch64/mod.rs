//! LoongArch64: an ELF file at PLV0, in the cached direct-mapped window; EIOINTC and PCH-PIC, IPIs by IOCSR, a syscon.

pub mod chips;
pub mod cpu;
pub mod csr;
pub mod fp;
pub mod hypercall;
pub mod iocsr;
pub mod mmio;
pub mod paging;
pub mod power;
pub mod start;
pub mod timer;
pub mod trap;
pub mod uart;

pub(crate) use chips as irq;
