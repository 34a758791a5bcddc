//! Into a guest and back: entering is a call that returns when the guest stops.
//!
//! While a guest runs, `SP_EL2` points at the caller's saved registers with the guest's frame on top, so
//! the vectors need no scratch register and no per-CPU pointer. Only general registers, `ELR_EL2` and
//! `SPSR_EL2` move here; system registers move when a vCPU is loaded or unloaded (`cpu`).

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;

use crate::guest::Frame;

/// Why [`enter`] returned: which vector was taken.
pub const SYNC: u64 = 0;
/// An interrupt (IRQ or FIQ).
pub const IRQ: u64 = 1;
/// A system error.
pub const SERROR: u64 = 2;

/// Runs the guest of `frame` until it takes an exception to EL2; returns which kind.
///
/// # Safety
/// 1. The guest's system registers, stage 2 and list registers are loaded on this CPU.
/// 2. `HCR_EL2` routes every interrupt to EL2, and `VBAR_EL2` is [`vectors`].
/// 3. `frame` is not reached through any other path until the call returns.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(frame: *mut Frame) -> u64 {
    naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "str x0, [sp, #96]",
        "ldp x1, x2, [x0, #{pc}]",
        "msr elr_el2, x1",
        "msr spsr_el2, x2",
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        // Nothing may be fetched past the return, not even speculatively.
        "dsb nsh",
        "isb",
        pc = const offset_of!(Frame, pc),
    )
}

/// The common way out of a guest: x0/x1 of the guest are on the stack, the vector's number is in x1.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "ldr x0, [sp, #112]",
        "stp x2, x3, [x0, #16]",
        "stp x4, x5, [x0, #32]",
        "stp x6, x7, [x0, #48]",
        "stp x8, x9, [x0, #64]",
        "stp x10, x11, [x0, #80]",
        "stp x12, x13, [x0, #96]",
        "stp x14, x15, [x0, #112]",
        "stp x16, x17, [x0, #128]",
        "stp x18, x19, [x0, #144]",
        "stp x20, x21, [x0, #160]",
        "stp x22, x23, [x0, #176]",
        "stp x24, x25, [x0, #192]",
        "stp x26, x27, [x0, #208]",
        "stp x28, x29, [x0, #224]",
        "str x30, [x0, #240]",
        "ldp x2, x3, [sp], #16",
        "stp x2, x3, [x0]",
        "mrs x2, elr_el2",
        "mrs x3, spsr_el2",
        "stp x2, x3, [x0, #{pc}]",
        "mov x0, x1",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #112",
        "ret",
        pc = const offset_of!(Frame, pc),
    )
}

// The vector table (DDI0487 D1.3.1): 16 entries of 128 bytes. What a guest at EL1/EL0 does arrives at
// +0x400; everything else is a fault of our own and ends in `own_fault` with the entry's number.
global_asm!(
    ".pushsection .vectors, \"ax\"",
    ".balign 2048",
    ".global fermata_vectors",
    "fermata_vectors:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7",
    ".balign 128",
    "mov x0, #\\n",
    "mrs x1, esr_el2",
    "mrs x2, elr_el2",
    "mrs x3, far_el2",
    "b {fault}",
    ".endr",
    ".irp n, {sync}, {irq}, {irq}, {serror}",
    ".balign 128",
    "stp x0, x1, [sp, #-16]!",
    "mov x1, #\\n",
    "b {leave}",
    ".endr",
    ".irp n, 12, 13, 14, 15",
    ".balign 128",
    "mov x0, #\\n",
    "mrs x1, esr_el2",
    "mrs x2, elr_el2",
    "mrs x3, far_el2",
    "b {fault}",
    ".endr",
    ".popsection",
    sync = const SYNC,
    irq = const IRQ,
    serror = const SERROR,
    leave = sym leave,
    fault = sym crate::start::own_fault,
);

unsafe extern "C" {
    /// The vector table; its address goes into `VBAR_EL2`.
    #[link_name = "fermata_vectors"]
    pub safe static VECTORS: [u8; 2048];
}
