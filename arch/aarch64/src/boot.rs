//! From the first instruction to Rust, on the boot CPU and on every other one.
//!
//! The image is linked at zero and may be loaded at any multiple of 4 KiB, so the first thing it does is
//! to apply its own relocations. Until the MMU is on, memory is Device memory: no unaligned access, no
//! exclusives, nothing but the stores needed to get there. The boot CPU therefore enters Rust with a
//! throw-away map made of 1 GiB blocks, and builds the real one when it has read the device tree.

use core::arch::{global_asm, naked_asm};

use crate::cpu::STACK_SIZE;
use crate::el2::MAIR;

/// What a secondary CPU needs before it can run Rust: the address is its `CPU_ON` context id.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Handoff {
    /// Top of its stack.
    pub stack: u64,
    /// `TTBR0_EL2`.
    pub ttbr: u64,
    /// `TCR_EL2`.
    pub tcr: u64,
    /// `MAIR_EL2`.
    pub mair: u64,
    /// `SCTLR_EL2` with the MMU on.
    pub sctlr: u64,
    /// Passed to [`secondary`]'s Rust entry.
    pub arg: u64,
}

/// `SCTLR_EL2`: RES1 bits of E2H=0, I, C, M, SA, WXN off while the throw-away map is in use (D24.2.134).
pub const SCTLR_ON: u64 = 0x30c5_1835 | (1 << 12) | (1 << 3) | (1 << 2) | 1;
/// `SCTLR_EL2` with the MMU off: the RES1 bits.
const SCTLR_OFF: u64 = 0x30c5_0830;
/// `HCR_EL2` before any guest: AArch64 at EL1 (RW) and physical interrupts taken to EL2 (IMO, FMO, AMO).
pub const HCR_HOST: u64 = (1 << 31) | (1 << 5) | (1 << 4) | (1 << 3);
/// `TCR_EL2` of the throw-away map: 39-bit addresses (one level-1 table of 1 GiB blocks), 4 KiB granule,
/// inner shareable write-back walks, 40-bit output; RES1 bits 31 and 23 (D24.2.177).
const TCR_EARLY: u64 = (1 << 31) | (1 << 23) | (2 << 16) | (3 << 12) | (1 << 10) | (1 << 8) | 25;
/// A Normal, inner shareable, executable 1 GiB block; a Device block that is never executed.
const BLOCK_NORMAL: u64 = (1 << 10) | (3 << 8) | (1 << 2) | 1;
const BLOCK_DEVICE: u64 = (1 << 54) | (1 << 10) | 1;

/// One level-1 table of the throw-away map, in BSS.
#[repr(C, align(4096))]
struct EarlyMap([u64; 512]);
/// The boot CPU's stack, in BSS.
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

#[unsafe(no_mangle)]
static mut EARLY_MAP: EarlyMap = EarlyMap([0; 512]);
#[unsafe(no_mangle)]
static mut BOOT_STACK: Stack = Stack([0; STACK_SIZE]);

// The Linux arm64 image header (Documentation/arch/arm64/booting): branch, text offset 0, size including
// BSS, flags = little endian, 4 KiB pages, anywhere in memory; magic "ARM\x64" at 56.
global_asm!(
    ".pushsection .head, \"ax\"",
    ".global _head",
    "_head:",
    "b {start}",
    ".long 0",
    ".quad 0",
    ".quad __image_size",
    ".quad 0xa",
    ".quad 0, 0, 0",
    ".ascii \"ARM\\x64\"",
    ".long 0",
    ".popsection",
    start = sym start,
);

/// Entered with x0 = device tree, MMU off, at EL2.
#[unsafe(naked)]
unsafe extern "C" fn start() -> ! {
    naked_asm!(
        "msr daifset, #0xf",
        "mrs x1, CurrentEL",
        "cmp x1, #(2 << 2)",
        "b.ne 9f",
        "mov x19, x0",
        "mov x1, #{hcr_low}",
        "movk x1, #{hcr_high}, lsl #16",
        "msr hcr_el2, x1",
        "isb",
        "ldr x1, ={sctlr_off}",
        "msr sctlr_el2, x1",
        "isb",
        // Relocations: every entry is R_AARCH64_RELATIVE (1027), the linker makes no other kind here.
        "adrp x20, __image_start",
        "add x20, x20, :lo12:__image_start",
        "adrp x1, __rela_start",
        "add x1, x1, :lo12:__rela_start",
        "adrp x2, __rela_end",
        "add x2, x2, :lo12:__rela_end",
        "1: cmp x1, x2",
        "b.hs 2f",
        "ldp x3, x4, [x1], #16",
        "ldr x5, [x1], #8",
        "cmp w4, #1027",
        "b.ne 1b",
        "add x5, x5, x20",
        "str x5, [x20, x3]",
        "b 1b",
        "2: adrp x1, __bss_start",
        "add x1, x1, :lo12:__bss_start",
        "adrp x2, __bss_end",
        "add x2, x2, :lo12:__bss_end",
        "3: cmp x1, x2",
        "b.hs 4f",
        "stp xzr, xzr, [x1], #16",
        "b 3b",
        // The throw-away map: everything is Device memory but the blocks of the image and of the tree.
        "4: adrp x21, {map}",
        "add x21, x21, :lo12:{map}",
        "mov x1, #0",
        "ldr x2, ={device}",
        "5: orr x3, x2, x1, lsl #30",
        "str x3, [x21, x1, lsl #3]",
        "add x1, x1, #1",
        "cmp x1, #512",
        "b.ne 5b",
        "ldr x2, ={normal}",
        "lsr x1, x20, #30",
        "orr x3, x2, x1, lsl #30",
        "str x3, [x21, x1, lsl #3]",
        "lsr x1, x19, #30",
        "cmp x1, #512",
        "b.hs 6f",
        "orr x3, x2, x1, lsl #30",
        "str x3, [x21, x1, lsl #3]",
        "6: dsb sy",
        "ldr x1, ={mair}",
        "msr mair_el2, x1",
        "ldr x1, ={tcr}",
        "msr tcr_el2, x1",
        "msr ttbr0_el2, x21",
        "isb",
        "tlbi alle2",
        "ic iallu",
        "dsb sy",
        "isb",
        "ldr x1, ={sctlr_on}",
        "msr sctlr_el2, x1",
        "isb",
        "msr spsel, #1",
        "adrp x1, {stack}",
        "add x1, x1, :lo12:{stack}",
        "ldr x2, ={stack_size}",
        "add sp, x1, x2",
        "mov x29, xzr",
        "mov x0, x19",
        "b fermata_boot",
        "9: wfe",
        "b 9b",
        hcr_low = const HCR_HOST & 0xffff,
        hcr_high = const (HCR_HOST >> 16) & 0xffff,
        sctlr_off = const SCTLR_OFF,
        sctlr_on = const SCTLR_ON,
        mair = const MAIR,
        tcr = const TCR_EARLY,
        device = const BLOCK_DEVICE,
        normal = const BLOCK_NORMAL,
        map = sym EARLY_MAP,
        stack = sym BOOT_STACK,
        stack_size = const STACK_SIZE,
    )
}

/// Continues on the tables at `root` with `TCR_EL2` = `tcr`.
///
/// The size of addresses changes with the tables, so the MMU is off in between; nothing touches memory there.
///
/// # Safety
/// The tables map this code and the stack at the addresses they have, and everything the caller uses later.
#[unsafe(naked)]
pub unsafe extern "C" fn enter_map(root: u64, tcr: u64) {
    naked_asm!(
        "dsb sy",
        "mrs x2, sctlr_el2",
        "bic x3, x2, #1",
        "msr sctlr_el2, x3",
        "isb",
        "msr ttbr0_el2, x0",
        "msr tcr_el2, x1",
        "isb",
        "tlbi alle2",
        "dsb sy",
        "isb",
        "msr sctlr_el2, x2",
        "isb",
        "ret",
    )
}

/// Where `CPU_ON` sends a secondary CPU: x0 = its [`Handoff`], MMU off, at EL2.
///
/// # Safety
/// Entered by firmware only, on a CPU that nothing else runs on, with a complete [`Handoff`] that is never freed.
#[unsafe(naked)]
pub unsafe extern "C" fn secondary() -> ! {
    naked_asm!(
        "msr daifset, #0xf",
        "mov x1, #{hcr_low}",
        "movk x1, #{hcr_high}, lsl #16",
        "msr hcr_el2, x1",
        "isb",
        "ldp x1, x2, [x0, #{ttbr}]",
        "msr ttbr0_el2, x1",
        "msr tcr_el2, x2",
        "ldp x1, x2, [x0, #{mair}]",
        "msr mair_el2, x1",
        "isb",
        "tlbi alle2",
        "ic iallu",
        "dsb sy",
        "isb",
        "msr sctlr_el2, x2",
        "isb",
        "msr spsel, #1",
        "ldr x1, [x0, #{stack}]",
        "mov sp, x1",
        "mov x29, xzr",
        "ldr x0, [x0, #{arg}]",
        "b {rust}",
        hcr_low = const HCR_HOST & 0xffff,
        hcr_high = const (HCR_HOST >> 16) & 0xffff,
        ttbr = const core::mem::offset_of!(Handoff, ttbr),
        mair = const core::mem::offset_of!(Handoff, mair),
        stack = const core::mem::offset_of!(Handoff, stack),
        arg = const core::mem::offset_of!(Handoff, arg),
        rust = sym crate::start::secondary_cpu,
    )
}
