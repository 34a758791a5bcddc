//! The vectors, and what an exception leaves in registers.

use core::arch::naked_asm;
use core::mem::{offset_of, size_of};

use crate::{cpu, report, trap};

/// What the vectors save: enough to resume and to report.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// CNTVCT_EL0 three instructions into the exception.
    pub time: u64,
    /// Vector, 0 to 15 in the order of the table (DDI0487 D1.3.1).
    pub vector: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    padding: u64,
}

const SIZE: usize = size_of::<Frame>();
const X: usize = offset_of!(Frame, x);
const TIME: usize = offset_of!(Frame, time);
const ELR: usize = offset_of!(Frame, elr);
const ESR: usize = offset_of!(Frame, esr);
const _: () = assert!(SIZE.is_multiple_of(16));

const SYNC: u64 = 4;
const IRQ: u64 = 5;

/// A fault that a test expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// Where it happened.
    pub elr: u64,
}

/// How many words a [`Trap`] is kept in.
pub(crate) const WORDS: usize = 3;

impl Frame {
    /// Returns what the exception left in registers.
    pub(crate) fn words(&self) -> [u64; WORDS] {
        [self.esr, self.far, self.elr]
    }

    /// Resumes after the instruction that faulted.
    pub(crate) fn skip(&mut self) {
        self.elr += 4;
    }

    /// Resumes where the link register points.
    pub(crate) fn leave(&mut self) {
        self.elr = self.x[30];
    }
}

impl Trap {
    pub(crate) fn from_words([esr, far, elr]: [u64; WORDS]) -> Self {
        Self { esr, far, elr }
    }

    /// Returns the exception class, ESR_ELx.EC.
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Tells whether the instruction was undefined (EC 0x00).
    pub fn is_undefined(&self) -> bool {
        self.class() == 0
    }

    /// Tells whether FP was used while CPACR_EL1 does not let EL1 (EC 0x07).
    pub fn is_fp_disabled(&self) -> bool {
        self.class() == 0x07
    }

    /// Tells whether it is a synchronous external abort on an access or fetch at EL1, not on a table walk (xFSC 0x10).
    pub fn is_external_abort(&self) -> bool {
        matches!(self.class(), 0x25 | 0x21) && self.esr & 0x3f == 0x10
    }
}

/// Points VBAR_EL1 at the runtime's vectors.
pub fn install() {
    crate::msr!("vbar_el1", vectors());
    cpu::isb();
}

extern "C" fn dispatch(frame: &mut Frame) {
    match frame.vector {
        IRQ => trap::interrupt(frame),
        SYNC => trap::fault(frame),
        _ => unexpected(frame),
    }
}

/// Ends the guest for an exception that nobody expected.
pub(crate) fn unexpected(frame: &Frame) -> ! {
    report::abort(format_args!(
        "unexpected exception on vCPU {}: vector {} ESR {:#x} (EC {:#x}) ELR {:#x} FAR {:#x} SPSR {:#x} x30 {:#x}",
        cpu::index(),
        frame.vector,
        frame.esr,
        frame.esr >> 26 & 0x3f,
        frame.elr,
        frame.far,
        frame.spsr,
        frame.x[30],
    ))
}

/// Returns the address of the vectors, which follow it: a table of 16 entries of 128 bytes.
#[unsafe(naked)]
extern "C" fn vectors() -> u64 {
    naked_asm!(
        "adr x0, 1f",
        "ret",
        ".balign 2048",
        "1:",
        ".irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        ".balign 128",
        "sub sp, sp, #{size}",
        "stp x0, x1, [sp, #{x}]",
        "mrs x0, cntvct_el0",
        "mov x1, #\\vector",
        "b {save}",
        ".endr",
        ".balign 128",
        size = const SIZE,
        x = const X,
        save = sym save,
    )
}

/// Saves the rest, dispatches and resumes; x0 and x1 are saved already and hold the time and the vector.
#[unsafe(naked)]
extern "C" fn save() {
    naked_asm!(
        "stp x2, x3, [sp, #{x} + 16]",
        "stp x4, x5, [sp, #{x} + 32]",
        "stp x6, x7, [sp, #{x} + 48]",
        "stp x8, x9, [sp, #{x} + 64]",
        "stp x10, x11, [sp, #{x} + 80]",
        "stp x12, x13, [sp, #{x} + 96]",
        "stp x14, x15, [sp, #{x} + 112]",
        "stp x16, x17, [sp, #{x} + 128]",
        "stp x18, x19, [sp, #{x} + 144]",
        "stp x20, x21, [sp, #{x} + 160]",
        "stp x22, x23, [sp, #{x} + 176]",
        "stp x24, x25, [sp, #{x} + 192]",
        "stp x26, x27, [sp, #{x} + 208]",
        "stp x28, x29, [sp, #{x} + 224]",
        "str x30, [sp, #{x} + 240]",
        "stp x0, x1, [sp, #{time}]",
        "mrs x2, elr_el1",
        "mrs x3, spsr_el1",
        "stp x2, x3, [sp, #{elr}]",
        "mrs x2, esr_el1",
        "mrs x3, far_el1",
        "stp x2, x3, [sp, #{esr}]",
        "mov x0, sp",
        "bl {dispatch}",
        "ldp x2, x3, [sp, #{elr}]",
        "msr elr_el1, x2",
        "msr spsr_el1, x3",
        "ldp x0, x1, [sp, #{x}]",
        "ldp x2, x3, [sp, #{x} + 16]",
        "ldp x4, x5, [sp, #{x} + 32]",
        "ldp x6, x7, [sp, #{x} + 48]",
        "ldp x8, x9, [sp, #{x} + 64]",
        "ldp x10, x11, [sp, #{x} + 80]",
        "ldp x12, x13, [sp, #{x} + 96]",
        "ldp x14, x15, [sp, #{x} + 112]",
        "ldp x16, x17, [sp, #{x} + 128]",
        "ldp x18, x19, [sp, #{x} + 144]",
        // x19 to x28 were restored by `dispatch`, unless a handler changed the frame.
        "ldp x20, x21, [sp, #{x} + 160]",
        "ldp x22, x23, [sp, #{x} + 176]",
        "ldp x24, x25, [sp, #{x} + 192]",
        "ldp x26, x27, [sp, #{x} + 208]",
        "ldp x28, x29, [sp, #{x} + 224]",
        "ldr x30, [sp, #{x} + 240]",
        "add sp, sp, #{size}",
        "eret",
        x = const X,
        time = const TIME,
        elr = const ELR,
        esr = const ESR,
        size = const SIZE,
        dispatch = sym dispatch,
    )
}
