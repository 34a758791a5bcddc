//! What the guests execute: a few instructions each, that end in an HVCL whose code says where.

use core::arch::naked_asm;

/// The guest came to the end.
pub(crate) const END: u64 = 1;
/// The guest took an exception itself.
pub(crate) const TRAPPED: u64 = 2;

/// Calls, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn call() {
    naked_asm!("hvcl 0x123", "hvcl 1")
}

/// Adds one to all registers, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn count() {
    naked_asm!(
        ".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
        "addi.d $r\\n, $r\\n, 1",
        ".endr",
        "hvcl 1",
    )
}

/// Loads a0 from a1.
#[unsafe(naked)]
pub(crate) extern "C" fn load() {
    naked_asm!("ld.d $a0, $a1, 0", "hvcl 1")
}

/// Stores a0 at a1.
#[unsafe(naked)]
pub(crate) extern "C" fn store() {
    naked_asm!("st.d $a0, $a1, 0", "hvcl 1")
}

/// Goes to a1.
#[unsafe(naked)]
pub(crate) extern "C" fn jump() {
    naked_asm!("jirl $zero, $a1, 0")
}

/// Unmasks interrupts, and counts a0 down; ends when nothing came.
#[unsafe(naked)]
pub(crate) extern "C" fn unmask() {
    naked_asm!(
        "ori $t0, $zero, 4",
        "move $t1, $t0",
        "csrxchg $t1, $t0, 0x0",
        "1: addi.d $a0, $a0, -1",
        "bnez $a0, 1b",
        "hvcl 1",
    )
}

/// Counts a0 down, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn spin() {
    naked_asm!("1: addi.d $a0, $a0, -1", "bnez $a0, 1b", "hvcl 1")
}

/// Marks a0 for an exclusive store, calls, and tries it: a0 tells whether it was made.
#[unsafe(naked)]
pub(crate) extern "C" fn exclusive() {
    naked_asm!("ll.d $t0, $a1, 0", "hvcl 0x123", "move $a0, $t0", "sc.d $a0, $a1, 0", "hvcl 1")
}

/// Reads the counter into a0, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn clock() {
    naked_asm!("rdtime.d $a0, $a1", "hvcl 1")
}

/// Arms the timer with a0, spins a1 times or until its interrupt is pending, reads TVAL into a0 and ESTAT into a2, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn timer() {
    naked_asm!(
        "csrwr $a0, 0x41",
        "1: csrrd $a2, 0x5",
        "bstrpick.d $t0, $a2, 11, 11",
        "bnez $t0, 2f",
        "addi.d $a1, $a1, -1",
        "bnez $a1, 1b",
        "2: csrrd $a0, 0x42",
        "hvcl 1",
    )
}

/// Clears the timer's interrupt, reads ESTAT into a0, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn clear_timer() {
    naked_asm!("ori $t0, $zero, 1", "csrwr $t0, 0x44", "csrrd $a0, 0x5", "hvcl 1")
}

/// Moves a0 to a3 through scr0 to scr3, a4 through the flags, calls between, and ends.
#[unsafe(naked)]
pub(crate) extern "C" fn translation() {
    naked_asm!(
        "movgr2scr $scr0, $a0",
        "movgr2scr $scr1, $a1",
        "movgr2scr $scr2, $a2",
        "movgr2scr $scr3, $a3",
        "x86mtflag $a4, 0x3f",
        "x86mttop 5",
        "hvcl 0x123",
        "movscr2gr $a0, $scr0",
        "movscr2gr $a1, $scr1",
        "movscr2gr $a2, $scr2",
        "movscr2gr $a3, $scr3",
        "x86mfflag $a4, 0x3f",
        "x86mftop $a5",
        "hvcl 1",
    )
}

/// Loads a0 from a1 through the guest's own tables: the mode is mapped, this code in a window, a1 in none.
#[unsafe(naked)]
pub(crate) extern "C" fn load_mapped() {
    naked_asm!("ld.d $a0, $a1, 0", "hvcl 1")
}

/// Returns the guest's entries, which follow, each in a page of its own: for exceptions and for TLB refills.
#[unsafe(naked)]
pub(crate) extern "C" fn entries() -> u64 {
    naked_asm!(
        "la.pcrel $a0, 1f",
        "ret",
        ".balign 4096",
        "1: hvcl 2",
        ".balign 4096",
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
        ".balign 4096",
    )
}
