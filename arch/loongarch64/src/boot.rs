//! From the first instruction to Rust, on the boot CPU and on every other one.
//!
//! CPUs start in direct mode at physical addresses. Two direct-mapped windows, uncached at `0x8000...` for devices
//! and cached at `0x9000...` for memory, are all the root ever uses: there are no page tables of its own, and none
//! can be missing.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::ram::{CACHED, UNCACHED};

/// Bytes of stack of each CPU.
pub const STACK_SIZE: usize = 64 << 10;

/// `CRMD`: PG, coherent cached fetches and data in direct mode (DATF, DATM), PLV0, interrupts masked.
pub const CRMD_MAPPED: u64 = 1 << 4 | 1 << 5 | 1 << 7;
/// `DMWn` for the uncached window: PLV0, strongly ordered (MAT 0).
const DMW_UNCACHED: u64 = UNCACHED | 1;
/// `DMWn` for the cached window: PLV0, coherent cached (MAT 1).
const DMW_CACHED: u64 = CACHED | 1 << 4 | 1;

/// The boot CPU's stack, in BSS.
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

#[unsafe(no_mangle)]
static mut BOOT_STACK: Stack = Stack([0; STACK_SIZE]);

/// The top of the stack of the CPU that is being started; written before it is. One CPU starts at a time.
static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// The first instructions of any CPU, in direct mode: the windows, mapped mode, and nothing of what firmware left in the
/// units, the interrupts and the timer. Changes t0.
macro_rules! into_windows {
    () => {
        "
        li.d $t0, {uncached}
        csrwr $t0, 0x180
        li.d $t0, {cached}
        csrwr $t0, 0x181
        csrwr $zero, 0x182
        csrwr $zero, 0x183
        // In direct mode the upper bits of an address mean nothing: jump to where the linker thinks we are, then turn
        // the windows on.
        pcaddi $t0, 4
        lu52i.d $t0, $t0, {window}
        jirl $zero, $t0, 0
        nop
        li.w $t0, {crmd}
        csrwr $t0, 0x0
        csrwr $zero, 0x2
        csrwr $zero, 0x4
        csrwr $zero, 0x41
        ori $t0, $zero, 1
        csrwr $t0, 0x44
        "
    };
}

/// Entered in direct mode at PLV0 with the arguments of the boot protocol in a0 to a2, which go on to Rust.
///
/// # Safety
/// Entered by the boot loader only, once.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".head")]
unsafe extern "C" fn _head() -> ! {
    naked_asm!(
        into_windows!(),
        "la.pcrel $t0, __bss_start",
        "la.pcrel $t1, __bss_end",
        "1: bgeu $t0, $t1, 2f",
        "st.d $zero, $t0, 0",
        "addi.d $t0, $t0, 8",
        "b 1b",
        "2: la.pcrel $sp, {stack}",
        "li.w $t0, {stack_size}",
        "add.d $sp, $sp, $t0",
        "move $fp, $zero",
        "b fermata_boot",
        uncached = const DMW_UNCACHED as i64,
        cached = const DMW_CACHED as i64,
        window = const (CACHED >> 52) as i64 - 0x1000,
        crmd = const CRMD_MAPPED,
        stack = sym BOOT_STACK,
        stack_size = const STACK_SIZE,
    )
}

/// Where a secondary CPU is sent: direct mode, PLV0, nothing in its registers.
///
/// # Safety
/// Entered on a CPU that nothing else runs on, after [`set_secondary_stack`].
#[unsafe(naked)]
pub unsafe extern "C" fn secondary() -> ! {
    naked_asm!(
        into_windows!(),
        "la.pcrel $t0, {stack}",
        "ld.d $sp, $t0, 0",
        "move $fp, $zero",
        "b {rust}",
        uncached = const DMW_UNCACHED as i64,
        cached = const DMW_CACHED as i64,
        window = const (CACHED >> 52) as i64 - 0x1000,
        crmd = const CRMD_MAPPED,
        stack = sym SECONDARY_STACK,
        rust = sym crate::start::secondary_cpu,
    )
}

/// Says where the next CPU to be started has its stack.
pub fn set_secondary_stack(top: u64) {
    SECONDARY_STACK.store(top, Ordering::Relaxed);
    crate::csr::barrier();
}
