//! Exceptions: the vectors, interrupts, and faults that a test expects.

use core::arch::naked_asm;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::cpu::{self, MAX_CPUS};
use crate::{gic, report};

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

impl Trap {
    /// Returns the exception class, ESR_ELx.EC.
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Tells whether the instruction was undefined (EC 0x00).
    pub fn is_undefined(&self) -> bool {
        self.class() == 0
    }

    /// Tells whether it is a synchronous external abort on an access or fetch at EL1, not on a table walk (xFSC 0x10).
    pub fn is_external_abort(&self) -> bool {
        matches!(self.class(), 0x25 | 0x21) && self.esr & 0x3f == 0x10
    }
}

/// What to do after an expected fault.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Resume {
    /// Nothing is expected.
    Never,
    /// After the instruction.
    Skip,
    /// At the caller of the function that faulted, by its link register.
    Return,
}

/// Expected faults of one vCPU: how to resume, how many came, and the first one's registers.
struct Expect {
    resume: AtomicU64,
    count: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

static EXPECT: [Expect; MAX_CPUS] = [const {
    Expect {
        resume: AtomicU64::new(Resume::Never as u64),
        count: AtomicU64::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The function that takes every IRQ, as `fn(&mut Frame)`; 0 for [`gic::handle`].
static ON_IRQ: AtomicUsize = AtomicUsize::new(0);

/// Runs `probe`, each faulting instruction of which is skipped, and returns the first fault.
pub fn catch(probe: impl FnOnce()) -> Option<Trap> {
    expect(Resume::Skip, probe)
}

/// Runs `probe`, which may branch to where nothing is: a failing fetch returns to the branch-with-link that led there.
pub fn catch_branch(probe: impl FnOnce()) -> Option<Trap> {
    expect(Resume::Return, probe)
}

fn expect(resume: Resume, probe: impl FnOnce()) -> Option<Trap> {
    let slot = &EXPECT[cpu::index()];
    slot.count.store(0, Relaxed);
    slot.resume.store(resume as u64, Relaxed);
    cpu::isb();
    probe();
    cpu::dsb();
    cpu::isb();
    slot.resume.store(Resume::Never as u64, Relaxed);
    (slot.count.load(Relaxed) > 0).then(|| Trap {
        esr: slot.esr.load(Relaxed),
        far: slot.far.load(Relaxed),
        elr: slot.elr.load(Relaxed),
    })
}

/// Gives every IRQ, unacknowledged, to `handler` instead of [`gic::handle`].
pub fn take_irqs(handler: fn(&mut Frame)) {
    ON_IRQ.store(handler as usize, Relaxed);
}

/// Gives IRQs back to [`gic::handle`].
pub fn release_irqs() {
    ON_IRQ.store(0, Relaxed);
}

/// Points VBAR_EL1 at the runtime's vectors.
pub fn install() {
    crate::msr!("vbar_el1", vectors());
    cpu::isb();
}

extern "C" fn dispatch(frame: &mut Frame) {
    let slot = &EXPECT[cpu::index()];
    match frame.vector {
        IRQ => match ON_IRQ.load(Relaxed) {
            0 => gic::handle(frame),
            handler => {
                // SAFETY: the only value stored besides 0 is a `fn(&mut Frame)`, by `take_irqs`.
                let handler = unsafe { core::mem::transmute::<usize, fn(&mut Frame)>(handler) };
                handler(frame);
            }
        },
        SYNC if slot.resume.load(Relaxed) != Resume::Never as u64 => {
            if slot.count.fetch_add(1, Relaxed) == 0 {
                slot.esr.store(frame.esr, Relaxed);
                slot.far.store(frame.far, Relaxed);
                slot.elr.store(frame.elr, Relaxed);
            }
            let skips = slot.resume.load(Relaxed) == Resume::Skip as u64;
            frame.elr = if skips { frame.elr + 4 } else { frame.x[30] };
        }
        _ => unexpected(frame),
    }
}

fn unexpected(frame: &Frame) -> ! {
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
