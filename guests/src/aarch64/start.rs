//! From the first instruction to Rust, on the first vCPU and on the others.
//!
//! An arm64 Image is entered with the MMU off, anywhere. The first vCPU drops whatever caches hold of the image (what it
//! writes next goes around them), applies the relocations, clears .bss, writes one page of translation tables and turns
//! the MMU on before any other Rust runs: exclusives and unaligned accesses need normal memory.
//!
//! The map is the identity in blocks of 1 GiB, 39 bits of it: RAM by the tree is normal memory, the rest is device
//! memory and not executable. The rest of RAM's last block is normal memory that nothing backs: touching it is the
//! hypervisor's to answer.

use core::arch::naked_asm;
use core::cell::UnsafeCell;

use super::{gic, trap};
use crate::start::{STACK, STACKS};
use crate::tree::{self, Tree};
use crate::{report, start};

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written by the first vCPU before the others start, and read by translation table walks only.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([0; 512]));

/// A block of normal memory: valid, AttrIndx 1, inner shareable, accessed (DDI0487 D8.3).
const NORMAL: u64 = 0b01 | 1 << 2 | 0b11 << 8 | 1 << 10;
/// A block of device memory: valid, AttrIndx 0, accessed, execute-never at EL1 and EL0.
const DEVICE: u64 = 0b01 | 1 << 10 | 0b11 << 53;
/// Attr0 Device-nGnRE, Attr1 normal write-back.
const MAIR: u64 = 0xff04;
/// T0SZ 25 (39 bits, walk starts at level 1), write-back inner-shareable walks, 4 KiB, no TTBR1 walks; IPS is added.
const TCR: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23;
/// RES1 bits of ARMv8.0 with MMU, caches and stack alignment checks on.
const SCTLR: u64 = 0x30d0_0800 | 1 << 12 | 1 << 3 | 1 << 2 | 1;

/// Returns where a physical address is in this address space.
pub(crate) fn pointer(physical: u64) -> *const u8 {
    physical as *const u8
}

/// Starts the first vCPU: x0 = device tree, x1 = the guest's main function. Reached from the Image header only.
///
/// Relocations are R_AARCH64_RELATIVE (1027): nothing is imported, so the linker makes no other kind.
#[unsafe(naked)]
pub extern "C" fn primary() -> ! {
    naked_asm!(
        "msr daifset, #0xf",
        "mov x20, x0",
        "mov x21, x1",
        "adrp x19, __image_start",
        "adrp x22, __image_end",
        // Lines of CTR_EL0.DminLine words.
        "mrs x1, ctr_el0",
        "ubfx x1, x1, #16, #4",
        "mov x2, #4",
        "lsl x1, x2, x1",
        "mov x0, x19",
        "1: dc ivac, x0",
        "add x0, x0, x1",
        "cmp x0, x22",
        "b.lo 1b",
        "dsb sy",
        "adrp x0, __rela_start",
        "add x0, x0, :lo12:__rela_start",
        "adrp x1, __rela_end",
        "add x1, x1, :lo12:__rela_end",
        "2: cmp x0, x1",
        "b.hs 3f",
        "ldp x2, x3, [x0], #16",
        "ldr x4, [x0], #8",
        "cmp w3, #1027",
        "b.ne 2b",
        "add x4, x4, x19",
        "str x4, [x2, x19]",
        "b 2b",
        "3: adrp x0, __bss_start",
        "adrp x1, __bss_end",
        "4: stp xzr, xzr, [x0], #16",
        "cmp x0, x1",
        "b.lo 4b",
        "msr tpidr_el1, xzr",
        "adrp x0, {stacks}",
        "add x0, x0, :lo12:{stacks}",
        "mov x1, #{size}",
        "add sp, x0, x1",
        "mov x0, x20",
        "bl {map}",
        "bl {mmu_on}",
        "mov x0, x20",
        "mov x1, x21",
        "b {main}",
        stacks = sym STACKS,
        size = const STACK,
        map = sym map,
        mmu_on = sym mmu_on,
        main = sym primary_main,
    )
}

/// Starts another vCPU: x0 = its index, the context argument of CPU_ON. Entered by the PSCI implementation only.
///
/// The registers that [`crate::smp::entry`] shows are DAIF, SCTLR_EL1 and CurrentEL.
#[unsafe(naked)]
pub extern "C" fn secondary() -> ! {
    naked_asm!(
        "mrs x21, daif",
        "mrs x22, sctlr_el1",
        "mrs x23, currentel",
        "msr daifset, #0xf",
        "mov x20, x0",
        "msr tpidr_el1, x0",
        "adrp x1, {stacks}",
        "add x1, x1, :lo12:{stacks}",
        "add x2, x0, #1",
        "mov x3, #{size}",
        "madd x1, x2, x3, x1",
        "mov sp, x1",
        "bl {mmu_on}",
        "mov x0, x20",
        "mov x1, x21",
        "mov x2, x22",
        "mov x3, x23",
        "b {main}",
        stacks = sym STACKS,
        size = const STACK,
        mmu_on = sym mmu_on,
        main = sym secondary_main,
    )
}

/// Turns the MMU on over [`TABLE`].
#[unsafe(naked)]
extern "C" fn mmu_on() {
    naked_asm!(
        "adrp x0, {table}",
        "add x0, x0, :lo12:{table}",
        "ldr x1, ={mair}",
        "ldr x2, ={tcr}",
        "mrs x3, id_aa64mmfr0_el1",
        "and x3, x3, #0xf",
        "mov x4, #5",
        "cmp x3, x4",
        "csel x3, x3, x4, lo",
        "orr x2, x2, x3, lsl #32",
        "ldr x3, ={sctlr}",
        "dsb sy",
        "msr mair_el1, x1",
        "msr tcr_el1, x2",
        "msr ttbr0_el1, x0",
        "isb",
        "tlbi vmalle1",
        "ic iallu",
        "dsb sy",
        "isb",
        "msr sctlr_el1, x3",
        "isb",
        "ret",
        ".ltorg",
        table = sym TABLE,
        mair = const MAIR,
        tcr = const TCR,
        sctlr = const SCTLR,
    )
}

/// Fills [`TABLE`] with the MMU still off: plain stores, nothing atomic.
extern "C" fn map(dtb: u64) {
    let table = TABLE.0.get().cast::<u64>();
    // SAFETY: `block` is below 512, the length of the table; no other vCPU runs and no walk reads it yet.
    let set =
        |block: u64, attributes: u64| unsafe { table.add(block as usize).write(block << 30 | attributes) };
    for block in 0..512 {
        set(block, DEVICE);
    }
    let mut normal = |base: u64, size: u64| {
        if size > 0 {
            (base >> 30..=(base + size - 1) >> 30)
                .filter(|&block| block < 512)
                .for_each(|block| set(block, NORMAL));
        }
    };
    // Where this code runs is memory, with or without a tree.
    normal(map as extern "C" fn(u64) as usize as u64, 1);
    if let Some(tree) = Tree::at(dtb) {
        tree::memory(&tree, &mut normal);
    }
}

extern "C" fn primary_main(dtb: u64, main: extern "C" fn()) -> ! {
    trap::install();
    let tree = Tree::at(dtb).unwrap_or_else(|| report::abort(format_args!("no device tree at {dtb:#x}")));
    start::first(&tree, None, main)
}

extern "C" fn secondary_main(index: usize, daif: u64, sctlr: u64, level: u64) -> ! {
    trap::install();
    gic::init_cpu();
    start::another(index, [daif, sctlr, level])
}

/// Makes the first byte of the image: the arm64 Image header, whose first instruction branches over it.
///
/// The header is that of Linux `Documentation/arch/arm64/booting.rst`: text_offset 0, little-endian, 4 KiB pages, to be
/// placed anywhere.
#[macro_export]
macro_rules! head {
    ($main:ident) => {
        /// Is the image's header.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".head.text")]
        extern "C" fn _head() -> ! {
            core::arch::naked_asm!(
                "b 1f",
                ".long 0",
                ".quad 0",
                ".quad __image_size",
                ".quad 0xa",
                ".quad 0, 0, 0",
                ".ascii \"ARM\\x64\"",
                ".long 0",
                "1:",
                "adrp x1, {main}",
                "add x1, x1, :lo12:{main}",
                "b {start}",
                main = sym $main,
                start = sym $crate::arch::start::primary,
            )
        }
    };
}
