//! Into a guest and back: entering is a call that returns when the guest stops.
//!
//! While a guest runs, `SAVE5` holds the address of its frame; otherwise it is zero. That is how the one exception
//! entry tells a guest's exception from one of our own, and where it finds room for the guest's registers. Only
//! general registers and `ERA` move here; a guest's CSRs move when a vCPU is loaded or unloaded (`cpu`).
//!
//! Most exits of guests whose vCPUs talk to each other are a GSPR that is dealt with in a few steps. The entry calls
//! [`quick`] for each first. That is a function and preserves what a call preserves, so that these registers are still in
//! place when the guest goes on.
//!
//! `PVM` is set when a vCPU is loaded and every exception of a guest leaves it set, so each `ertn` here enters the
//! guest. Nothing else in Fermata executes `ertn`.

use core::arch::{asm, global_asm, naked_asm};
use core::mem::offset_of;

use crate::cpu::{Quick, quick};
use crate::guest::Frame;
use crate::trap::ecode;

/// Bytes of stack for what a call has to preserve: ra, fp, s0 to s8, rounded up to 16.
const SAVED: usize = 96;

/// Runs the guest of `frame` until it takes an exception to the root; returns `ESTAT`.
///
/// In place rather than as a function: of the registers that a call preserves, only those that a caller has in use are
/// saved, once and not at each entry.
///
/// # Safety
/// 1. The guest's CSRs, its identifier and its stage 2 are loaded on this CPU, and `GSTAT.PVM` is set.
/// 2. `EENTRY` and `TLBRENTRY` are those that [`start`](crate::start) sets up, and `SAVE5` is zero.
/// 3. `frame` and `state` are valid, and not reached through any other path until the call returns. `state` is what
///    [`quick`] asks for.
#[inline(always)]
pub unsafe fn enter(frame: *mut Frame, state: *mut Quick) -> u64 {
    let estat;
    // SAFETY: 1. the caller's promises are those that `enter_raw` asks for. 2. The guest leaves its own values in all
    // general registers. What a call may change and s0 to s7 are declared; ra is among the former; s8, fp and sp, which
    // cannot be declared, `enter_raw` preserves; tp and r21 no code of Fermata uses.
    unsafe {
        asm!(
            "bl {enter}",
            enter = sym enter_raw,
            inout("$r4") frame => estat,
            in("$r5") state,
            out("$r23") _,
            out("$r24") _,
            out("$r25") _,
            out("$r26") _,
            out("$r27") _,
            out("$r28") _,
            out("$r29") _,
            out("$r30") _,
            clobber_abi("C"),
        );
    }
    estat
}

/// Bytes of stack for what `enter_raw` preserves, ra, fp, s8, and for its two arguments; rounded up to 16.
const KEPT: usize = 48;

/// The function behind [`enter`], which does not preserve s0 to s7.
///
/// # Safety
/// As for [`enter`], which alone calls it.
#[unsafe(naked)]
unsafe extern "C" fn enter_raw(frame: *mut Frame, state: *mut Quick) -> u64 {
    naked_asm!(
        "addi.d $sp, $sp, -{kept}",
        "st.d $ra, $sp, 0",
        "st.d $fp, $sp, 8",
        "st.d $s8, $sp, 16",
        "st.d $a0, $sp, 24",
        "st.d $a1, $sp, 32",
        "st.d $sp, $a0, {stack}",
        "ld.d $t0, $a0, {pc}",
        "csrwr $t0, 0x6",
        // PRMD: the guest's own level is in its CRMD; PIE lets interrupts of the root end its run.
        "ori $t0, $zero, 4",
        "csrwr $t0, 0x1",
        "move $t0, $a0",
        "csrwr $t0, 0x35",
        ".irp n, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, \
         29, 30, 31",
        "ld.d $r\\n, $a0, 8 * \\n",
        ".endr",
        "ld.d $r4, $a0, 32",
        "ertn",
        kept = const KEPT,
        stack = const offset_of!(Frame, stack),
        pc = const offset_of!(Frame, pc),
    )
}

/// Calls `f` with `argument`; it may take an exception: returns its `ESTAT` then, or zero if it took none.
///
/// # Safety
/// 1. `f` is a function of at most one argument of 64 bits. It changes nothing but registers that a call may change and
///    what the caller knows of, and at each of its instructions abandoning it leaves nothing half done.
/// 2. It runs in the root, with the vectors below in place and `SAVE5` zero.
#[unsafe(naked)]
unsafe extern "C" fn attempt_raw(f: *const (), argument: u64) -> u64 {
    naked_asm!(
        "addi.d $sp, $sp, -{saved}",
        "st.d $ra, $sp, 0",
        "st.d $fp, $sp, 8",
        "st.d $s0, $sp, 16",
        "st.d $s1, $sp, 24",
        "st.d $s2, $sp, 32",
        "st.d $s3, $sp, 40",
        "st.d $s4, $sp, 48",
        "st.d $s5, $sp, 56",
        "st.d $s6, $sp, 64",
        "st.d $s7, $sp, 72",
        "st.d $s8, $sp, 80",
        "move $t0, $sp",
        "csrwr $t0, 0x34",
        "move $t0, $a0",
        "move $a0, $a1",
        "jirl $ra, $t0, 0",
        "csrwr $zero, 0x34",
        "move $a0, $zero",
        "b {back}",
        saved = const SAVED,
        back = sym back,
    )
}

/// Restores what `attempt_raw` put on the stack, and returns to its caller.
#[unsafe(naked)]
unsafe extern "C" fn back() {
    naked_asm!(
        "ld.d $ra, $sp, 0",
        "ld.d $fp, $sp, 8",
        "ld.d $s0, $sp, 16",
        "ld.d $s1, $sp, 24",
        "ld.d $s2, $sp, 32",
        "ld.d $s3, $sp, 40",
        "ld.d $s4, $sp, 48",
        "ld.d $s5, $sp, 56",
        "ld.d $s6, $sp, 64",
        "ld.d $s7, $sp, 72",
        "ld.d $s8, $sp, 80",
        "addi.d $sp, $sp, {saved}",
        "ret",
        saved = const SAVED,
    )
}

/// Calls `f` and returns the code of the exception that it took (`ESTAT.Ecode`), if it took one.
///
/// # Safety
/// `f` changes nothing but registers that a call may change and the registers it is about, wherever it is abandoned.
/// The caller is in the root and no guest's FP state is in the registers that `f` changes.
pub unsafe fn attempt(f: unsafe extern "C" fn()) -> Option<u64> {
    // SAFETY: 1. the caller's promise. 2. the vectors are installed before anything else runs, and `SAVE5` is zero
    // whenever Rust code runs.
    let estat = unsafe { attempt_raw(f as *const (), 0) };
    (estat != 0).then_some(estat >> 16 & 0x3f)
}

/// Calls `f` with `argument`, and returns the code of the exception that it took, if it took one.
///
/// # Safety
/// As for [`attempt`].
pub unsafe fn attempt_with(f: unsafe extern "C" fn(u64), argument: u64) -> Option<u64> {
    // SAFETY: as in `attempt`; `f` takes the one argument.
    let estat = unsafe { attempt_raw(f as *const (), argument) };
    (estat != 0).then_some(estat >> 16 & 0x3f)
}

/// What [`peek`] is about.
#[repr(C)]
struct Peek {
    at: u64,
    byte: u64,
}

/// Reads the byte at a virtual address, if something answers there.
///
/// # Safety
/// Reading the address has no effect.
pub unsafe fn peek(at: u64) -> Option<u8> {
    let mut peek = Peek { at, byte: 0 };
    // SAFETY: 1. the argument is a `Peek`, of which only the byte is changed, in one step. 2. As for `attempt`.
    let estat = unsafe { attempt_raw(peek_raw as *const (), (&raw mut peek).expose_provenance() as u64) };
    (estat == 0).then_some(peek.byte as u8)
}

/// # Safety
/// The argument is a [`Peek`].
#[unsafe(naked)]
unsafe extern "C" fn peek_raw(peek: *mut Peek) {
    naked_asm!(
        "ld.d $t0, $a0, {at}",
        "ld.bu $t0, $t0, 0",
        "st.d $t0, $a0, {byte}",
        "ret",
        at = const offset_of!(Peek, at),
        byte = const offset_of!(Peek, byte),
    )
}

// The exception entries. Ordinary exceptions of guest and root and interrupts have one (`ECFG.VS` is zero), at the
// start of a page; TLB refills and machine errors enter in direct mode, each at the start of a page of its own.
global_asm!(
    ".pushsection .vectors, \"ax\"",
    ".balign 4096",
    ".global fermata_exception",
    "fermata_exception:",
    "csrwr $a0, 0x35",
    "beqz $a0, 1f",
    ".irp n, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, \
     29, 30, 31",
    "st.d $r\\n, $a0, 8 * \\n",
    ".endr",
    // The guest's a0 comes back out of SAVE5, which says from here on that no guest runs.
    "move $t0, $zero",
    "csrwr $t0, 0x35",
    "st.d $t0, $a0, 32",
    "csrrd $t0, 0x6",
    "st.d $t0, $a0, {pc}",
    "ld.d $sp, $a0, {stack}",
    "csrrd $t0, 0x5",
    "bstrpick.d $t0, $t0, 21, 16",
    "addi.d $t0, $t0, -{gspr}",
    "bnez $t0, 4f",
    "ld.d $a1, $sp, 32",
    "bl {quick}",
    "beqz $a0, 4f",
    // The guest goes on. fp and s0 to s8 are still its own, as are tp and r21, which no code of Fermata uses.
    "ld.d $a0, $sp, 24",
    "ld.d $t0, $a0, {pc}",
    "csrwr $t0, 0x6",
    "ori $t0, $zero, 4",
    "csrwr $t0, 0x1",
    "move $t0, $a0",
    "csrwr $t0, 0x35",
    ".irp n, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
    "ld.d $r\\n, $a0, 8 * \\n",
    ".endr",
    "ld.d $r4, $a0, 32",
    "ertn",
    // What `enter_raw` put there.
    "4: csrrd $a0, 0x5",
    "ld.d $ra, $sp, 0",
    "ld.d $fp, $sp, 8",
    "ld.d $s8, $sp, 16",
    "addi.d $sp, $sp, {kept}",
    "ret",
    // An exception of our own. If one was expected, the attempt ends with its ESTAT.
    "1: csrwr $zero, 0x35",
    "csrrd $t0, 0x34",
    "csrrd $a0, 0x5",
    "beqz $t0, 2f",
    "csrwr $zero, 0x34",
    "move $sp, $t0",
    "b {back}",
    "2: csrrd $a1, 0x6",
    "csrrd $a2, 0x7",
    "b {fault}",
    // Stage 2 walks its tables by hardware instructions. The root itself never misses the TLB: if it does, SAVE5 is
    // zero and it is a bug.
    ".balign 4096",
    ".global fermata_refill",
    "fermata_refill:",
    "csrwr $t0, 0x8b",
    "csrrd $t0, 0x35",
    "beqz $t0, 3f",
    "csrrd $t0, 0x1b",
    "lddir $t0, $t0, 3",
    "lddir $t0, $t0, 2",
    "lddir $t0, $t0, 1",
    "ldpte $t0, 0",
    "ldpte $t0, 1",
    "tlbfill",
    "csrrd $t0, 0x8b",
    "ertn",
    "3: ori $a0, $zero, {refill}",
    "slli.d $a0, $a0, 16",
    "csrrd $a1, 0x8a",
    "csrrd $a2, 0x89",
    "b 5f",
    ".balign 4096",
    ".global fermata_machine_error",
    "fermata_machine_error:",
    "ori $a0, $zero, {machine_error}",
    "slli.d $a0, $a0, 16",
    "csrrd $a1, 0x94",
    "csrrd $a2, 0x91",
    // Back to where the compiler thinks the code is, and to mapped mode.
    "5: pcaddi $t0, 4",
    "lu52i.d $t0, $t0, {window}",
    "jirl $zero, $t0, 0",
    "nop",
    "ori $t0, $zero, {crmd}",
    "csrwr $t0, 0x0",
    "b {fault}",
    ".popsection",
    pc = const offset_of!(Frame, pc),
    stack = const offset_of!(Frame, stack),
    kept = const KEPT,
    gspr = const ecode::GSPR,
    quick = sym quick,
    back = sym back,
    fault = sym crate::start::own_fault,
    refill = const REFILL,
    machine_error = const MACHINE_ERROR,
    window = const (crate::ram::CACHED >> 52) as i64 - 0x1000,
    crmd = const crate::boot::CRMD_MAPPED,
);

/// What `own_fault` is told in place of an exception code when the root missed the TLB.
pub const REFILL: u64 = 0x3e;
/// What `own_fault` is told in place of an exception code after a machine error.
pub const MACHINE_ERROR: u64 = 0x3f;

unsafe extern "C" {
    /// The entry of exceptions and interrupts; its address goes into `EENTRY`.
    #[link_name = "fermata_exception"]
    pub safe static EXCEPTION: [u8; 4096];
    /// The entry of TLB refills; its physical address goes into `TLBRENTRY`.
    #[link_name = "fermata_refill"]
    pub safe static TLB_REFILL: [u8; 4096];
    /// The entry of machine errors; its physical address goes into `MERRENTRY`.
    #[link_name = "fermata_machine_error"]
    pub safe static MACHINE_ERROR_ENTRY: [u8; 64];
}
