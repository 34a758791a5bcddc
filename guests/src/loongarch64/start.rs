//! From the first instruction to Rust, on the first vCPU and on the others.
//!
//! A kernel is entered in direct address mode at its physical address. The image is linked in the cached window, and the
//! start code opens that window and the uncached one, jumps into it and turns mapped mode on (Linux
//! `Documentation/arch/loongarch/booting.rst` has what is in the registers). A mapped address is in a window, or in the
//! tables of [`super::paging`], which are empty: then it is invalid.

use core::arch::naked_asm;
use core::ffi::CStr;

use super::{chips, power, trap};
use crate::start::{STACK, STACKS};
use crate::tree::Tree;
use crate::{report, start};

/// Base of the cached window at PLV0.
pub const CACHED: u64 = 0x9000_0000_0000_0000;

/// Returns where a physical address is in this address space: in the cached window.
pub fn pointer(physical: u64) -> *const u8 {
    (CACHED | physical) as *const u8
}

/// Starts the first vCPU: a0 = 1, a1 = command line, a2 = EFI system table, t8 = the guest's main function. Reached from
/// the image's first instruction only.
#[unsafe(naked)]
pub extern "C" fn primary() -> ! {
    naked_asm!(
        "la.pcrel $t0, __bss_start",
        "la.pcrel $t1, __bss_end",
        "1: st.d $zero, $t0, 0",
        "addi.d $t0, $t0, 8",
        "bltu $t0, $t1, 1b",
        "la.pcrel $sp, {stacks}",
        "li.d $t0, {size}",
        "add.d $sp, $sp, $t0",
        "move $a3, $t8",
        "move $fp, $zero",
        "csrwr $zero, 0x33",
        "b {main}",
        stacks = sym STACKS,
        size = const STACK,
        main = sym primary_main,
    )
}

/// Starts another vCPU, whose index is in its mailbox 1. Entered in direct address mode by whoever had it wait.
///
/// The registers that [`crate::smp::entry`] shows are CRMD, EUEN and ECFG.
#[unsafe(naked)]
pub extern "C" fn secondary() -> ! {
    naked_asm!(
        "csrrd $a1, 0x0",
        "csrrd $a2, 0x2",
        "csrrd $a3, 0x4",
        "bl {mapped}",
        "li.w $t0, 0x1028",
        "iocsrrd.d $a0, $t0",
        "move $t0, $a0",
        "csrwr $t0, 0x33",
        "la.pcrel $sp, {stacks}",
        "li.d $t0, {size}",
        "addi.d $t1, $a0, 1",
        "mul.d $t0, $t0, $t1",
        "add.d $sp, $sp, $t0",
        "move $fp, $zero",
        "b {main}",
        mapped = sym mapped_mode,
        stacks = sym STACKS,
        size = const STACK,
        main = sym secondary_main,
    )
}

/// Returns to its caller in mapped mode, with the windows open, FP off, no interrupt enabled and the timer off. Changes t0
/// and ra only.
#[unsafe(naked)]
pub extern "C" fn mapped_mode() {
    naked_asm!(
        // DMW0: uncached, DMW1: cached, DMW2 and DMW3: nothing; PLV0.
        "li.d $t0, 0x8000000000000001",
        "csrwr $t0, 0x180",
        "li.d $t0, 0x9000000000000011",
        "csrwr $t0, 0x181",
        "csrwr $zero, 0x182",
        "csrwr $zero, 0x183",
        "csrwr $zero, 0x2",
        "csrwr $zero, 0x4",
        "csrwr $zero, 0x41",
        "li.w $t0, 1",
        "csrwr $t0, 0x44",
        // Into the window: direct address mode ignores the high bits, mapped mode will not.
        "li.d $t0, 0x9000000000000000",
        "or $ra, $ra, $t0",
        "pcaddi $t0, 4",
        "bstrins.d $t0, $zero, 63, 48",
        "lu52i.d $t0, $t0, -1792",
        "jirl $zero, $t0, 0",
        // CRMD: PG, coherent cached in DATF and DATM (as Linux has it, for refill handlers), IE off, PLV0.
        "li.w $t0, 0xb0",
        "csrwr $t0, 0x0",
        "csrwr $zero, 0x1",
        "ret",
    )
}

/// Goes to a physical address in direct address mode, as a core is started.
#[unsafe(naked)]
pub(crate) extern "C" fn leave_mapped_mode(entry: u64) -> ! {
    naked_asm!("li.w $t0, 8", "csrwr $t0, 0x0", "jirl $zero, $a0, 0")
}

extern "C" fn primary_main(efi: u64, args: u64, table: u64, main: extern "C" fn()) -> ! {
    trap::install();
    if efi != 1 {
        report::abort(format_args!("a0 is {efi:#x}, expected 1: no EFI system table"));
    }
    let tree = device_tree(table).and_then(Tree::at);
    let Some(tree) = tree else {
        report::abort(format_args!("no device tree by the EFI system table at {table:#x}"));
    };
    // SAFETY: the boot protocol puts a string there that ends with a zero, below 2 MiB, where it stays unchanged.
    let args = unsafe { CStr::from_ptr(pointer(args).cast()) }.to_str().unwrap_or("");
    start::first(&tree, (!args.is_empty()).then_some(args), main)
}

extern "C" fn secondary_main(index: usize, crmd: u64, euen: u64, ecfg: u64) -> ! {
    trap::install();
    // This forgets the IPIs of before, so it comes ahead of what tells others that they may send some.
    chips::init_cpu();
    power::arrived(index);
    start::another(index, [crmd, euen, ecfg])
}

/// `IBI SYST`, the signature of an EFI system table (UEFI 4.3.1).
const SYSTEM_TABLE: u64 = 0x5453_5953_2049_4249;
/// EFI_DTB_TABLE_GUID, b1b621d5-f19c-41a5-830b-d9152c69aae0, as two little-endian words.
const DEVICE_TREE: [u64; 2] = [0x41a5_f19c_b1b6_21d5, 0xe0aa_692c_15d9_0b83];
/// NumberOfTableEntries and ConfigurationTable in the system table (UEFI 4.3.1).
const TABLES: u64 = 104;

/// Finds the device tree in the configuration tables of the EFI system table at a physical address.
fn device_tree(table: u64) -> Option<u64> {
    let word = |address: u64| {
        // SAFETY: the boot protocol says what is there, and that the table is aligned and stays unchanged; a word where
        // nothing is would fault and be reported.
        unsafe { pointer(address & 0xffff_ffff_ffff).cast::<u64>().read() }
    };
    if !table.is_multiple_of(8) || word(table) != SYSTEM_TABLE {
        return None;
    }
    let (count, first) = (word(table + TABLES), word(table + TABLES + 8));
    let entry = |n: u64| first + n * 24;
    (0..count.min(32)).map(entry).find(|&at| [word(at), word(at + 8)] == DEVICE_TREE).map(|at| word(at + 16))
}

/// Makes the first instruction of the image.
#[macro_export]
macro_rules! head {
    ($main:ident) => {
        /// Is the image's entry, reached in direct address mode.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".head.text")]
        extern "C" fn _head() -> ! {
            core::arch::naked_asm!(
                "bl {mapped}",
                "la.pcrel $t8, {main}",
                "b {start}",
                mapped = sym $crate::arch::start::mapped_mode,
                main = sym $main,
                start = sym $crate::arch::start::primary,
            )
        }
    };
}
