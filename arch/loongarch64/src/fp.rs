//! FPU, LSX, LASX and LBT state behind `EUEN`.
//!
//! F, VR and XR are views of one register file, 64, 128 and 256 bits wide, so FPU, LSX and LASX are one group. LBT
//! has registers apart and is another. TOP, the top of the x87 stack, is changed by LBT instructions but decides what
//! F0 to F7 mean: it belongs to the FPU's image, and a guest that can use LBT always has the FPU as well.
//!
//! **EUEN.** The root's gates the guest's: what the guest's lets through and the root's does not is an exit. It gates
//! the hypervisor too, which opens what it moves. A CSR write takes effect for every later instruction of its CPU, so
//! no barrier stands between opening and moving, and none before `ERTN`.
//!
//! **TM**, a bit of FCSR on CPUs with LBT, lets the names F0 to F7 rotate by TOP. Every guest can set it, with LBT or
//! without: to write FCSR takes the FPU alone. Registers are moved with TM clear, so that no image is ever rotated.
//! A save that had to clear it leaves registers that are the guest's no more, and says so.

mod context;
mod file;
mod image;
mod portable;
mod steps;
#[cfg(test)]
mod tests;
mod units;

pub use context::Fp;
pub use file::File;
pub use image::{Image, Lbt, Line, REGISTERS, Width};
pub use portable::LAYOUT;
pub use steps::Step;
pub use units::{FPU, LASX, LBT, LSX, List, UnitsError, VECTORS, from_cpucfg, hide_others, parse, widest};

/// FCSR0.
pub mod fcsr {
    /// Which exceptions are raised.
    pub const ENABLES: u32 = 0x1f;
    /// The names F0 to F7 rotate by TOP. On CPUs with LBT only.
    pub const TM: u32 = 1 << 6;
    /// How far above its enable the cause of each exception is.
    pub const CAUSE_SHIFT: u32 = 24;
}

/// What belongs to the registers of every width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Status {
    /// FCSR0.
    pub fcsr: u32,
    /// FCC0-7, a bit each.
    pub fcc: u8,
    /// TOP.
    pub top: u8,
}

/// A write of FCSR0 raised the exception that a cause and its enable ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What the machine does with the hardware: the leaf `fp_regs` on a CPU, a model in tests.
///
/// All but `set_euen` need the units open that they use.
pub trait FpRegs {
    /// Writes `EUEN`.
    fn set_euen(&mut self, value: u64);
    /// Reads FCSR0.
    fn fcsr(&mut self) -> u32;
    /// Writes FCSR0 with a value that has no cause whose enable is set too.
    fn set_fcsr(&mut self, value: u32);
    /// Writes FCSR0 with any value. Nothing says whether a CPU may raise an exception for a cause that is enabled; if it
    /// does, that is survived.
    ///
    /// # Errors
    /// The exception was raised.
    fn try_fcsr(&mut self, value: u32) -> Result<(), Refused>;
    /// Clears TM with the instruction for it. The CPU has LBT.
    fn clear_tm(&mut self);
    /// Reads FCC0-7.
    fn fcc(&mut self) -> u8;
    /// Writes FCC0-7.
    fn set_fcc(&mut self, value: u8);
    /// Reads TOP. The CPU has LBT.
    fn top(&mut self) -> u8;
    /// Writes TOP, 0 to 7. The CPU has LBT.
    fn set_top(&mut self, value: u8);
    /// Copies `width` of each register to memory that has `form`, which is at least as wide.
    fn store(&mut self, width: Width, form: Width, into: &mut [Line]);
    /// Copies `width` of each register from memory that has `form`. What it has no room for becomes zero.
    fn load(&mut self, width: Width, form: Width, from: &[Line]);
    /// Writes `pattern` to every 64 bits of `width` of each register.
    fn fill(&mut self, width: Width, pattern: u64);
    /// Copies the registers of LBT to memory.
    fn store_lbt(&mut self, into: &mut Lbt);
    /// Copies the registers of LBT from memory.
    fn load_lbt(&mut self, from: &Lbt);
    /// Writes `pattern` to each register of LBT.
    fn fill_lbt(&mut self, pattern: u64);
}
