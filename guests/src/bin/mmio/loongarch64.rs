//! The loads and stores of LoongArch64.
//!
//! Accesses that a hypervisor has to decode to carry them out, and that nobody needs for a device (FP, vectors, LL and SC,
//! atomics, bound-checked ones), may be carried out or may end in ADEM, and the guest prints which; what is carried out must
//! be right. With `bare=1` only widths are used that the devices of plain QEMU take, and BADV is not looked at, which it
//! leaves as it was.

use core::arch::asm;

use guests::arch::mmio::UNCACHED;
use guests::arch::start::CACHED;
use guests::arch::trap::code;
use guests::arch::{chips, mmio};
use guests::report::{Done, Outcome, Why, test};
use guests::start::machine;
use guests::trap::{Trap, catch, catch_branch};
use guests::{args, ensure, fp, println, why};

/// Runs load instructions with the address in a1 and all of a0 set, and yields a0.
macro_rules! load {
    ($address:expr, $($code:literal),+) => {{
        let value: u64;
        // SAFETY: `$address` is device memory, which no Rust object lives in; only a0 to a3 change.
        unsafe {
            asm!($($code),+, inout("$a0") u64::MAX => value, inout("$a1") $address => _, out("$a2") _, out("$a3") _,
                options(nostack))
        };
        value
    }};
}

/// Runs store instructions with the address in a1 and the value in a0.
macro_rules! store {
    ($address:expr, $value:expr, $($code:literal),+) => {{
        // SAFETY: `$address` is device memory, which no Rust object lives in; only a0 to a3 change.
        unsafe {
            asm!($($code),+, inout("$a0") $value => _, inout("$a1") $address => _, out("$a2") _, out("$a3") _,
                options(nostack))
        };
    }};
}

/// The UART's scratch register: a byte that keeps what is written.
const SCR: u64 = 7;

fn bare() -> bool {
    args::flag("bare")
}

/// Returns a word that keeps what is written: which inputs of the PCH-PIC are edges, all of them masked.
fn spare() -> u64 {
    UNCACHED | machine().chips.pic + chips::PIC_EDGE
}

/// Returns two words whose values are known: the PCH-PIC's identification.
fn known() -> u64 {
    UNCACHED | machine().chips.pic + chips::PIC_ID
}

fn scratch() -> u64 {
    UNCACHED | machine().uart + SCR
}

pub(crate) fn main() {
    fp::enable(fp::present());
    test("load-extends", load_extends);
    test("load-of-words", load_of_words);
    test("load-of-parts", load_of_parts);
    test("load-to-the-zero-register", load_to_zero);
    test("load-over-its-own-address", load_over_address);
    test("addressing-modes", addressing_modes);
    test("store-sizes", store_sizes);
    test("store-of-parts", store_of_parts);
    test("store-of-zero", store_of_zero);
    test("prefetch-is-ignored", prefetch);
    test("cache-operations-are-ignored", cache_operations);
    without_syndrome();
    test("unaligned", unaligned);
    test("unbacked-load", || {
        unbacked(|at| {
            load!(at, "ld.d $a0, $a1, 0");
        })
    });
    test("unbacked-store", || unbacked(|at| store!(at, 1_u64, "st.b $a0, $a1, 0")));
    test("unbacked-scaled", || unbacked(|at| store!(at - 0x100, 1_u64, "stptr.w $a0, $a1, 0x100")));
    test("unbacked-indexed", || {
        unbacked(|at| {
            load!(at - 16, "ori $a2, $zero, 16", "ldx.w $a0, $a1, $a2");
        })
    });
    test("unbacked-vector", || {
        unbacked(|at| {
            load!(at, "fld.d $f1, $a1, 0");
        })
    });
    test("unbacked-exclusive", || {
        unbacked(|at| {
            load!(at, "ll.w $a0, $a1, 0");
        })
    });
    test("unbacked-atomic", || unbacked(|at| store!(at, 1_u64, "amswap_db.w $a2, $a0, $a1")));
    test("unbacked-fetch", unbacked_fetch);
    test("console-still-works", || Ok(Done::Passed));
}

fn same(name: &str, found: u64, expected: u64) -> Result<(), Why> {
    ensure!(found == expected, "{name} is {found:#x}, expected {expected:#x}");
    Ok(())
}

/// Bytes and words, with either extension; loads of all words are sign-extended but LD.WU.
fn load_extends() -> Outcome {
    let byte = scratch();
    mmio::write8(machine().uart + SCR, 0xb5);
    same("LD.BU", load!(byte, "ld.bu $a0, $a1, 0"), 0xb5)?;
    same("LD.B", load!(byte, "ld.b $a0, $a1, 0"), 0xffff_ffff_ffff_ffb5)?;
    same("LDX.BU", load!(byte, "ldx.bu $a0, $a1, $zero"), 0xb5)?;
    same("LDX.B", load!(byte, "ldx.b $a0, $a1, $zero"), 0xffff_ffff_ffff_ffb5)?;
    mmio::write8(machine().uart + SCR, 0x35);
    same("LD.B of a positive byte", load!(byte, "ld.b $a0, $a1, 0"), 0x35)?;
    store!(spare(), 0xc080_4020_u64, "st.w $a0, $a1, 0");
    same("LD.WU", load!(spare(), "ld.wu $a0, $a1, 0"), 0xc080_4020)?;
    same("LD.W", load!(spare(), "ld.w $a0, $a1, 0"), 0xffff_ffff_c080_4020)?;
    same("LDPTR.W", load!(spare(), "ldptr.w $a0, $a1, 0"), 0xffff_ffff_c080_4020)?;
    same("LDX.WU", load!(spare(), "ldx.wu $a0, $a1, $zero"), 0xc080_4020)?;
    same("LDX.W", load!(spare(), "ldx.w $a0, $a1, $zero"), 0xffff_ffff_c080_4020)?;
    Ok(Done::Passed)
}

fn load_of_words() -> Outcome {
    let (low, high) = (load!(known(), "ld.wu $a0, $a1, 0"), load!(known(), "ld.wu $a0, $a1, 4"));
    same("the identifier", low >> 24, 7)?;
    ensure!(high >> 16 >= 31, "the last input is {}", high >> 16);
    let both = high << 32 | low;
    same("LD.D", load!(known(), "ld.d $a0, $a1, 0"), both)?;
    same("LDPTR.D", load!(known(), "ldptr.d $a0, $a1, 0"), both)?;
    same("LDX.D", load!(known(), "ldx.d $a0, $a1, $zero"), both)?;
    Ok(Done::Passed)
}

/// Parts of a register of 32 bits.
fn load_of_parts() -> Outcome {
    if bare() {
        return Ok(Done::Skipped("plain QEMU takes whole words"));
    }
    store!(spare(), 0x8791_a2b3_u64, "st.w $a0, $a1, 0");
    for (lane, byte) in [0xb3, 0xa2, 0x91, 0x87].into_iter().enumerate() {
        same("LD.BU of a lane", load!(spare() + lane as u64, "ld.bu $a0, $a1, 0"), byte)?;
    }
    same("LD.HU", load!(spare(), "ld.hu $a0, $a1, 0"), 0xa2b3)?;
    same("LD.H", load!(spare(), "ld.h $a0, $a1, 0"), 0xffff_ffff_ffff_a2b3)?;
    same("LD.HU of the high half", load!(spare(), "ld.hu $a0, $a1, 2"), 0x8791)?;
    same("LDX.H", load!(spare(), "ldx.h $a0, $a1, $zero"), 0xffff_ffff_ffff_a2b3)?;
    same("LDX.HU", load!(spare(), "ldx.hu $a0, $a1, $zero"), 0xa2b3)?;
    Ok(Done::Passed)
}

fn load_to_zero() -> Outcome {
    let kept = load!(known(), "ori $a0, $zero, 7", "ld.w $zero, $a1, 0", "ldptr.d $zero, $a1, 0");
    same("a0 after loads to r0", kept, 7)?;
    let zero = load!(known(), "ld.w $zero, $a1, 0", "move $a0, $zero");
    same("r0", zero, 0)?;
    Ok(Done::Passed)
}

fn load_over_address() -> Outcome {
    let found = load!(known(), "ld.w $a1, $a1, 0", "move $a0, $a1");
    same("LD.W over its address", found >> 24, 7)?;
    let found = load!(known(), "move $a2, $zero", "ldx.w $a2, $a1, $a2", "move $a0, $a2");
    same("LDX.W over its index", found >> 24, 7)?;
    Ok(Done::Passed)
}

fn addressing_modes() -> Outcome {
    let id = load!(known(), "ld.w $a0, $a1, 0");
    let cases = [
        ("a positive offset", load!(known() - 2044, "ld.w $a0, $a1, 2044")),
        ("a negative offset", load!(known() + 2048, "ld.w $a0, $a1, -2048")),
        ("a scaled offset", load!(known() - 32764, "ldptr.w $a0, $a1, 32764")),
        ("a negative scaled offset", load!(known() + 32768, "ldptr.w $a0, $a1, -32768")),
        (
            "an index",
            load!(
                known() - 0x1234,
                "ori $a2, $zero, 0x234",
                "lu12i.w $a3, 1",
                "or $a2, $a2, $a3",
                "ldx.w $a0, $a1, $a2"
            ),
        ),
        ("a negative index", load!(known() + 8, "addi.d $a2, $zero, -8", "ldx.w $a0, $a1, $a2")),
        (
            "the base as index",
            load!(
                8_u64,
                "li.d $a1, -0x4000000000000000",
                "li.d $a2, -0x3ffffffff0000000",
                "ldx.w $a0, $a1, $a2"
            ),
        ),
    ];
    for (name, found) in cases {
        same(name, found, id)?;
    }
    Ok(Done::Passed)
}

fn store_sizes() -> Outcome {
    store!(scratch(), 0x3_77_u64, "st.b $a0, $a1, 0");
    same("after ST.B", mmio::read8(machine().uart + SCR).into(), 0x77)?;
    store!(scratch(), 0x3_99_u64, "stx.b $a0, $a1, $zero");
    same("after STX.B", mmio::read8(machine().uart + SCR).into(), 0x99)?;
    let word = || u64::from(mmio::read32(spare() & !UNCACHED));
    store!(spare(), 0xf_8060_4020_u64, "st.w $a0, $a1, 0");
    same("after ST.W", word(), 0x8060_4020)?;
    store!(spare() - 64, 0xf_1020_3040_u64, "stptr.w $a0, $a1, 64");
    same("after STPTR.W", word(), 0x1020_3040)?;
    store!(spare() - 4, 0xf_5060_7080_u64, "ori $a2, $zero, 4", "stx.w $a0, $a1, $a2");
    same("after STX.W", word(), 0x5060_7080)?;
    store!(spare(), 0x9abc_def0_u64, "st.d $a0, $a1, 0");
    same("after ST.D", word(), 0x9abc_def0)?;
    store!(spare(), 0x1234_5678_u64, "stptr.d $a0, $a1, 0");
    same("after STPTR.D", word(), 0x1234_5678)?;
    store!(spare(), 0x0fed_cba9_u64, "stx.d $a0, $a1, $zero");
    same("after STX.D", word(), 0x0fed_cba9)?;
    Ok(Done::Passed)
}

fn store_of_parts() -> Outcome {
    if bare() {
        return Ok(Done::Skipped("plain QEMU takes whole words"));
    }
    let word = || u64::from(mmio::read32(spare() & !UNCACHED));
    for lane in 0..4 {
        store!(spare(), 0x8060_4020_u64, "st.w $a0, $a1, 0");
        store!(spare() + lane, 0xe1_u64, "st.b $a0, $a1, 0");
        same("after ST.B to a lane", word(), 0x8060_4020 & !(0xff << (8 * lane)) | 0xe1 << (8 * lane))?;
    }
    store!(spare(), 0xf_1234_u64, "st.h $a0, $a1, 2");
    same("after ST.H", word(), 0x1234_4020)?;
    store!(spare(), 0xf_5678_u64, "stx.h $a0, $a1, $zero");
    same("after STX.H", word(), 0x1234_5678)?;
    Ok(Done::Passed)
}

fn store_of_zero() -> Outcome {
    store!(spare(), u64::MAX, "st.w $a0, $a1, 0", "st.w $zero, $a1, 0");
    same("after ST.W of r0", mmio::read32(spare() & !UNCACHED).into(), 0)?;
    Ok(Done::Passed)
}

fn prefetch() -> Outcome {
    let trap = catch(|| {
        load!(known(), "preld 0, $a1, 0", "preld 8, $a1, 0");
        load!(UNCACHED | nowhere(), "preld 0, $a1, 0", "preldx 0, $a1, $zero");
    });
    ensure!(trap.is_none(), "{trap:x?}");
    Ok(Done::Passed)
}

/// Write back and invalidate by address, in both levels.
fn cache_operations() -> Outcome {
    let trap = catch(|| {
        load!(known(), "cacop 0x10, $a1, 0", "cacop 0x11, $a1, 0", "dbar 0", "ibar 0");
    });
    ensure!(trap.is_none(), "{trap:x?}");
    Ok(Done::Passed)
}

/// Checks an access that need not be carried out: right when it is, ADEM otherwise.
fn either(name: &str, body: impl FnOnce() -> Result<(), Why>) {
    test(name, || {
        let mut result = Ok(());
        match catch(|| result = body()) {
            Some(trap) if trap.is_access_error() => println!("mmio: {name}: ADEM"),
            Some(trap) => return Err(why!("{trap:x?}")),
            None => {
                result?;
                println!("mmio: {name}: carried out");
            }
        }
        Ok(Done::Passed)
    });
}

fn without_syndrome() {
    let id = load!(known(), "ld.d $a0, $a1, 0");
    either("load-fp", || same("FLD.D", load!(known(), "fld.d $f1, $a1, 0", "movfr2gr.d $a0, $f1"), id));
    either("store-fp", || {
        store!(spare(), 0x2060_a0e0_u64, "movgr2fr.w $f1, $a0", "fst.s $f1, $a1, 0");
        same("the word", mmio::read32(spare() & !UNCACHED).into(), 0x2060_a0e0)
    });
    if fp::present().has(fp::Units::LSX) {
        either("load-vector", || {
            same("VLD", load!(known(), "vld $vr1, $a1, 0", "vpickve2gr.d $a0, $vr1, 0"), id)
        });
    }
    either("exclusive", || {
        store!(spare(), 0x1020_3040_u64, "st.w $a0, $a1, 0");
        same("LL.W", load!(spare(), "ll.w $a0, $a1, 0"), 0x1020_3040)
    });
    either("atomic", || {
        store!(spare(), 0x1020_3040_u64, "st.w $a0, $a1, 0");
        let old = load!(spare(), "ori $a2, $zero, 0x40", "amswap.w $a0, $a2, $a1");
        same("AMSWAP", old, 0x1020_3040)?;
        same("the word", mmio::read32(spare() & !UNCACHED).into(), 0x40)
    });
    either("bound-checked", || {
        let found = load!(known(), "ldle.d $a0, $a1, $a1");
        same("LDLE.D", found, id)
    });
}

/// An access that is not aligned is the CPU's affair where it is memory; a device need not take it.
fn unaligned() -> Outcome {
    let trap = catch(|| {
        load!(known() + 1, "ld.w $a0, $a1, 0");
        store!(spare() + 2, 0_u64, "st.w $a0, $a1, 0");
    });
    let fine = |trap: Trap| trap.code() == code::ALE || trap.is_access_error();
    ensure!(trap.is_none_or(fine), "{trap:x?}");
    Ok(Done::Passed)
}

/// Returns a physical address where nothing is, in no range that virt-like machines use.
fn nowhere() -> u64 {
    0x3000_0000
}

/// Accesses where nothing is, in both windows.
fn unbacked(probe: impl Fn(u64)) -> Outcome {
    for window in [UNCACHED, CACHED] {
        for at in [nowhere(), 0x3123_4568, 0x0fff_ffff_f000, 0x8123_4567_8000] {
            let address = window | at;
            for _ in 0..10 {
                let trap: Option<Trap> = catch(|| probe(address));
                let Some(trap) = trap else { return Err(why!("no fault at {address:#x}")) };
                ensure!(trap.is_access_error(), "{trap:x?}");
                ensure!(bare() || trap.badv == address, "BADV {:#x}, expected {address:#x}", trap.badv);
            }
        }
    }
    Ok(Done::Passed)
}

fn unbacked_fetch() -> Outcome {
    for window in [UNCACHED, CACHED] {
        let address = window | nowhere();
        let trap = catch_branch(|| {
            // SAFETY: the fetch fails, and `catch_branch` returns to the instruction after JIRL.
            unsafe { asm!("jirl $ra, {0}, 0", in(reg) address, out("$ra") _, options(nostack)) };
        });
        let Some(trap) = trap else { return Err(why!("no fault at {address:#x}")) };
        ensure!(trap.is_fetch_error() && trap.era == address, "{trap:x?}");
        ensure!(bare() || trap.badv == address, "BADV {:#x}, expected {address:#x}", trap.badv);
    }
    Ok(Done::Passed)
}
