//! The entries for exceptions, TLB refills and machine errors, and what an exception leaves in registers.

use core::arch::naked_asm;
use core::mem::{offset_of, size_of};

use super::{csr, paging};
use crate::{cpu, csr, report, set_csr, trap};

/// What the entry saves: enough to resume and to report.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// r0 to r31; r0 and r3, the stack pointer, are not filled in.
    pub r: [u64; 32],
    /// The counter two instructions into the exception.
    pub time: u64,
    /// Where it happened.
    pub era: u64,
    /// Mode before it.
    pub prmd: u64,
    /// Pending interrupts and the code.
    pub estat: u64,
    /// The bad address.
    pub badv: u64,
    /// The bad instruction.
    pub badi: u64,
}

const SIZE: usize = size_of::<Frame>();
const TIME: usize = offset_of!(Frame, time);
const ERA: usize = offset_of!(Frame, era);
const _: () = assert!(SIZE.is_multiple_of(16) && offset_of!(Frame, r) == 0);

/// Codes of exceptions (Vol.1, table 21).
pub mod code {
    /// Interrupt.
    pub const INT: u64 = 0;
    /// Page invalid for a load.
    pub const PIL: u64 = 1;
    /// Page invalid for a store.
    pub const PIS: u64 = 2;
    /// Page invalid for a fetch.
    pub const PIF: u64 = 3;
    /// Page not written before.
    pub const PME: u64 = 4;
    /// Page not readable.
    pub const PNR: u64 = 5;
    /// Page not executable.
    pub const PNX: u64 = 6;
    /// Page not for this privilege level.
    pub const PPI: u64 = 7;
    /// Bad address: of a fetch with subcode 0 (ADEF), of an access with subcode 1 (ADEM).
    pub const ADE: u64 = 8;
    /// Not aligned.
    pub const ALE: u64 = 9;
    /// SYSCALL.
    pub const SYS: u64 = 11;
    /// BREAK.
    pub const BRK: u64 = 12;
    /// No such instruction.
    pub const INE: u64 = 13;
    /// Privileged instruction.
    pub const IPE: u64 = 14;
    /// FP is off.
    pub const FPD: u64 = 15;
    /// LSX is off.
    pub const SXD: u64 = 16;
    /// LASX is off.
    pub const ASXD: u64 = 17;
    /// LBT is off.
    pub const BTD: u64 = 20;
    /// What a guest may not do itself.
    pub const GSPR: u64 = 22;
    /// HVCL.
    pub const HVC: u64 = 23;
}

/// A fault that a test expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// ESTAT.
    pub estat: u64,
    /// BADV, which not every exception sets.
    pub badv: u64,
    /// Where it happened.
    pub era: u64,
    /// The instruction.
    pub badi: u64,
}

/// How many words a [`Trap`] is kept in.
pub(crate) const WORDS: usize = 4;

impl Frame {
    /// Returns what the exception left in registers.
    pub(crate) fn words(&self) -> [u64; WORDS] {
        [self.estat, self.badv, self.era, self.badi]
    }

    /// Resumes after the instruction that faulted.
    pub(crate) fn skip(&mut self) {
        self.era += 4;
    }

    /// Resumes where the link register points.
    pub(crate) fn leave(&mut self) {
        self.era = self.r[1];
    }
}

impl Trap {
    pub(crate) fn from_words([estat, badv, era, badi]: [u64; WORDS]) -> Self {
        Self { estat, badv, era, badi }
    }

    /// Returns ESTAT.Ecode.
    pub fn code(&self) -> u64 {
        self.estat >> 16 & 0x3f
    }

    /// Returns ESTAT.EsubCode.
    pub fn subcode(&self) -> u64 {
        self.estat >> 22 & 0x1ff
    }

    /// Tells whether there is no such instruction.
    pub fn is_undefined(&self) -> bool {
        self.code() == code::INE
    }

    /// Tells whether a unit was used that EUEN does not let be used.
    pub fn is_fp_disabled(&self) -> bool {
        matches!(self.code(), code::FPD | code::SXD | code::ASXD | code::BTD)
    }

    /// Tells whether nothing is at the address of an access.
    pub fn is_access_error(&self) -> bool {
        self.code() == code::ADE && self.subcode() == 1
    }

    /// Tells whether nothing is at the address of a fetch.
    pub fn is_fetch_error(&self) -> bool {
        self.code() == code::ADE && self.subcode() == 0
    }
}

/// Points this core at the runtime's entries, with tables behind them in which nothing is mapped.
pub fn install() {
    set_csr!(csr::EENTRY, entry());
    // These two are taken in direct address mode.
    set_csr!(csr::TLBRENTRY, refill() & 0xffff_ffff_ffff);
    set_csr!(csr::MERRENTRY, machine_error() & 0xffff_ffff_ffff);
    paging::nothing().install();
}

/// Makes a fault of the refill handler one of the access that missed: otherwise ERTN would go back to the refill, for ever.
///
/// The mode is direct then, but this code is found all the same: direct address mode ignores the high bits.
fn leave_refill(frame: &mut Frame) {
    let refill = csr!(csr::TLBRERA);
    if refill & 1 != 0 {
        set_csr!(csr::CRMD, MAPPED);
        set_csr!(csr::TLBRERA, 0);
        frame.era = refill & !0b11;
        frame.prmd = csr!(csr::TLBRPRMD) & 0b111;
    }
}

/// CRMD of mapped mode at PLV0, interrupts masked: see [`super::start::mapped_mode`].
const MAPPED: u64 = 0xb0;

extern "C" fn dispatch(frame: &mut Frame) {
    leave_refill(frame);
    match frame.estat >> 16 & 0x3f {
        code::INT => trap::interrupt(frame),
        _ => trap::fault(frame),
    }
}

/// Ends the guest for an exception that nobody expected.
pub(crate) fn unexpected(frame: &Frame) -> ! {
    report::abort(format_args!(
        "unexpected exception on vCPU {}: code {:#x}.{} ERA {:#x} BADV {:#x} BADI {:#010x} PRMD {:#x} ra {:#x}",
        cpu::index(),
        frame.estat >> 16 & 0x3f,
        frame.estat >> 22 & 0x1ff,
        frame.era,
        frame.badv,
        frame.badi,
        frame.prmd,
        frame.r[1],
    ))
}

/// Returns the address of the entry that follows it, at the start of a page: with ECFG.VS 0, all exceptions and interrupts
/// come there. It saves everything, dispatches and resumes.
#[unsafe(naked)]
extern "C" fn entry() -> u64 {
    naked_asm!(
        "la.pcrel $a0, 1f",
        "ret",
        ".balign 4096",
        "1:",
        "csrwr $t0, 0x30",
        "rdtime.d $t0, $zero",
        "addi.d $sp, $sp, -{size}",
        "st.d $t0, $sp, {time}",
        "csrrd $t0, 0x30",
        ".irp n, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "st.d $r\\n, $sp, 8 * \\n",
        ".endr",
        "csrrd $t0, 0x6",
        "csrrd $t1, 0x1",
        "csrrd $t2, 0x5",
        "csrrd $t3, 0x7",
        "csrrd $t4, 0x8",
        "st.d $t0, $sp, {era}",
        "st.d $t1, $sp, {era} + 8",
        "st.d $t2, $sp, {era} + 16",
        "st.d $t3, $sp, {era} + 24",
        "st.d $t4, $sp, {era} + 32",
        "move $a0, $sp",
        "bl {dispatch}",
        "ld.d $t0, $sp, {era}",
        "ld.d $t1, $sp, {era} + 8",
        "csrwr $t0, 0x6",
        "csrwr $t1, 0x1",
        ".irp n, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "ld.d $r\\n, $sp, 8 * \\n",
        ".endr",
        "addi.d $sp, $sp, {size}",
        "ertn",
        size = const SIZE,
        time = const TIME,
        era = const ERA,
        dispatch = sym dispatch,
    )
}

/// Returns the address of the entry for TLB refills that follows it. It fills the TLB from tables of four levels, in direct
/// address mode. An empty slot is an invalid page, and the access faults once more, as one that can be reported.
#[unsafe(naked)]
extern "C" fn refill() -> u64 {
    naked_asm!(
        "la.pcrel $a0, 1f",
        "ret",
        ".balign 4096",
        "1:",
        "csrwr $t0, 0x8b",
        "csrrd $t0, 0x1b",
        "lddir $t0, $t0, 3",
        "lddir $t0, $t0, 2",
        "lddir $t0, $t0, 1",
        "ldpte $t0, 0",
        "ldpte $t0, 1",
        "tlbfill",
        "csrrd $t0, 0x8b",
        "ertn",
    )
}

/// Returns the address of the entry for machine errors that follows it. It stops: what such an error left behind cannot be
/// trusted to report it.
#[unsafe(naked)]
extern "C" fn machine_error() -> u64 {
    naked_asm!("la.pcrel $a0, 1f", "ret", ".balign 4096", "1: idle 0", "b 1b")
}
