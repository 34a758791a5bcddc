//! The way in from Linux and back, on arm64.

use core::arch::{asm, naked_asm};
use core::ffi::CStr;

/// Entered by the kernel with the argument count at the stack pointer.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "ldr x0, [sp]", "add x1, sp, #8", "b {main}", main = sym crate::main)
}

/// Makes a system call and returns the kernel's x0: negative for an error.
pub(crate) fn call(number: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: every caller passes pointers to objects that live through the call, of the size the call wants; the kernel
    // preserves all registers but x0. CLONE without CLONE_VM gives the child a copy of everything.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1], in("x2") args[2],
            in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
}

/// The modules that measure vector code when they are loaded, in the order they can be loaded in: file, and name.
pub(crate) const MODULES: &[(&CStr, &CStr)] = &[
    (c"/lib/modules/xor-neon.ko.xz", c"xor_neon"),
    (c"/lib/modules/xor.ko.xz", c"xor"),
    (c"/lib/modules/raid6_pq.ko.xz", c"raid6_pq"),
];
