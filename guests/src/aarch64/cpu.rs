//! The CPU itself: system registers, barriers, interrupt masking, waiting.

use core::arch::asm;

/// Reads a system register by its assembler name; yields a `u64`.
#[macro_export]
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: MRS changes no memory and no register but the output; an undefined one traps and is skipped or reported.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a `u64` to a system register by its assembler name.
#[macro_export]
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the guests write only registers whose effect they are about to test or that the runtime owns
        // (timer, GIC, vectors, FP controls); none of them changes the memory map that Rust relies on.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Returns this vCPU's index, counted in ascending order of the tree's `/cpus`; the start code keeps it in TPIDR_EL1.
pub fn index() -> usize {
    mrs!("tpidr_el1") as usize
}

/// Returns the affinity fields of MPIDR_EL1 (Aff3 in bits 39:32, Aff2..Aff0 in 23:0).
pub fn affinity() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Returns what the tree calls this vCPU.
pub fn id() -> u64 {
    affinity()
}

/// Synchronises the instruction stream with system register writes.
pub fn isb() {
    // SAFETY: a barrier has no effect on the values Rust sees.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Waits until all earlier memory accesses and interrupt acknowledgements are complete.
pub fn dsb() {
    // SAFETY: a barrier has no effect on the values Rust sees.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Synchronises both: memory accesses are complete, and what follows is fetched and executed after them.
pub fn sync() {
    dsb();
    isb();
}

/// Sleeps in WFI until an interrupt is pending, masked by PSTATE or not.
pub fn idle() {
    // SAFETY: WFI changes no register.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Waits for an event.
pub fn wfe() {
    // SAFETY: WFE changes no register.
    unsafe { asm!("wfe", options(nostack, preserves_flags)) };
}

/// Sends an event to all vCPUs.
pub fn sev() {
    // SAFETY: SEV changes no register.
    unsafe { asm!("dsb ish", "sev", options(nostack, preserves_flags)) };
}

/// Masks IRQs and returns the previous DAIF, for [`restore_irq`].
pub fn mask_irq() -> u64 {
    let daif = mrs!("daif");
    // SAFETY: masking interrupts is always allowed.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
    daif
}

/// Unmasks IRQs.
pub fn unmask_irq() {
    // SAFETY: the vectors are installed before any guest code runs.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack, preserves_flags)) };
}

/// Restores the interrupt mask that [`mask_irq`] returned.
pub fn restore_irq(daif: u64) {
    msr!("daif", daif);
}

/// Executes about `loops` times two instructions that touch nothing.
pub fn spin(loops: u64) {
    // SAFETY: counts a scratch register down.
    unsafe {
        asm!("1: subs {0}, {0}, #1", "b.hi 1b", inout(reg) loops => _, options(nostack));
    }
}
