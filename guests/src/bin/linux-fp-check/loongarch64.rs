//! The way in from Linux and back, on LoongArch.

use core::arch::{asm, naked_asm};
use core::ffi::CStr;

/// Entered by the kernel with the argument count at the stack pointer.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "move $fp, $zero",
        "move $ra, $zero",
        "ld.d $a0, $sp, 0",
        "addi.d $a1, $sp, 8",
        "b {main}",
        main = sym crate::main
    )
}

/// Makes a system call and returns the kernel's a0: negative for an error.
pub(crate) fn call(number: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: every caller passes pointers to objects that live through the call, of the size the call wants; the kernel
    // preserves all registers but a0 and t0 to t8. CLONE without CLONE_VM gives the child a copy of everything.
    unsafe {
        asm!("syscall 0", in("$a7") number, inlateout("$a0") args[0] => result, in("$a1") args[1], in("$a2") args[2],
            in("$a3") args[3], in("$a4") args[4], in("$a5") args[5], lateout("$t0") _, lateout("$t1") _,
            lateout("$t2") _, lateout("$t3") _, lateout("$t4") _, lateout("$t5") _, lateout("$t6") _,
            lateout("$t7") _, lateout("$t8") _, options(nostack));
    }
    result
}

/// The modules that measure vector code when they are loaded, in the order they can be loaded in: file, and name.
pub(crate) const MODULES: &[(&CStr, &CStr)] =
    &[(c"/lib/modules/xor.ko.xz", c"xor"), (c"/lib/modules/raid6_pq.ko.xz", c"raid6_pq")];
