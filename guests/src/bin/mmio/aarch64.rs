//! The loads and stores of AArch64.
//!
//! Accesses that trap without a valid syndrome (pairs, write-back, SIMD, exclusives, atomics: DDI0487, ESR_ELx.ISV) may
//! be carried out or may end in an external abort, and the guest prints which; what is carried out must be right.

use core::arch::asm;

use guests::arch::gic;
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::trap::{Trap, catch, catch_branch};
use guests::{cpu, ensure, fp, mmio, mrs, println};

/// Runs load instructions with the address in x1 and all of x0 set, and yields x0.
macro_rules! load {
    ($address:expr, $($code:literal),+) => {{
        let value: u64;
        // SAFETY: `$address` is device memory, which no Rust object lives in; only x0 to x3 change.
        unsafe {
            asm!($($code),+, inout("x0") u64::MAX => value, inout("x1") $address => _, out("x2") _, out("x3") _,
                options(nostack))
        };
        value
    }};
}

/// Runs store instructions with the address in x1 and the value in x0.
macro_rules! store {
    ($address:expr, $value:expr, $($code:literal),+) => {{
        // SAFETY: `$address` is device memory, which no Rust object lives in; only x0 to x3 change.
        unsafe {
            asm!($($code),+, inout("x0") $value => _, inout("x1") $address => _, out("x2") _, out("x3") _,
                options(nostack))
        };
    }};
}

/// Eight SPIs whose priority bytes serve as memory: all sizes, all bits that matter kept.
const SPARE: u64 = 40;
/// UARTPeriphID0 to UARTPCellID3 (DDI0183 3.3.15): 0x11 0x10 0x?4 0x00 0x0d 0xf0 0x05 0xb1.
const ID0: u64 = 0xfe0;
const CELL3: u64 = 0xffc;
/// UARTIBRD: 16 bits, readable and writable.
const IBRD: u64 = 0x24;

fn spare() -> u64 {
    machine().chips.gicd + gic::IPRIORITYR + SPARE
}

fn router() -> u64 {
    machine().chips.gicd + gic::IROUTER + SPARE * 8
}

fn uart(offset: u64) -> u64 {
    machine().uart + offset
}

pub(crate) fn main() {
    fp::enable(fp::Units::SIMD);
    test("load-zero-extends", load_zero_extends);
    test("load-sign-extends", load_sign_extends);
    test("load-64-bit", load_64_bit);
    test("load-to-the-zero-register", load_to_zero_register);
    test("addressing-modes", addressing_modes);
    test("store-sizes", store_sizes);
    test("acquire-and-release", acquire_and_release);
    test("prefetch-is-ignored", prefetch);
    test("cache-maintenance-is-ignored", cache_maintenance);
    without_syndrome();
    pairs_without_syndrome();
    test("unaligned-is-the-guests-fault", unaligned);
    test("unbacked-read", || {
        unbacked(
            |address| {
                load!(address, "ldr x0, [x1]");
            },
            Expect::Read,
        )
    });
    test("unbacked-write", || unbacked(|address| store!(address, 1_u64, "str x0, [x1]"), Expect::Write));
    test("unbacked-pair", || {
        unbacked(
            |address| {
                load!(address, "ldp x0, x2, [x1]");
            },
            Expect::Read,
        )
    });
    test("unbacked-exclusive", || {
        unbacked(
            |address| {
                load!(address, "ldxr x0, [x1]", "clrex");
            },
            Expect::Read,
        )
    });
    test("unbacked-execute", unbacked_execute);
    test("console-still-works", || Ok(Done::Passed));
}

fn load_zero_extends() -> Outcome {
    let cell = load!(uart(CELL3), "ldrb w0, [x1]");
    ensure!(cell == 0xb1, "LDRB of UARTPCellID3 is {cell:#x}");
    let cell = load!(uart(CELL3), "ldrh w0, [x1]");
    ensure!(cell == 0xb1, "LDRH of UARTPCellID3 is {cell:#x}");
    mmio::write32(uart(IBRD), 0x8123);
    let divisor = load!(uart(IBRD), "ldrh w0, [x1]");
    ensure!(divisor == 0x8123, "LDRH of UARTIBRD is {divisor:#x}");
    mmio::write32(spare(), 0xc080_4020);
    let word = load!(spare(), "ldr w0, [x1]");
    ensure!(word == 0xc080_4020, "LDR W is {word:#x}");
    Ok(Done::Passed)
}

fn load_sign_extends() -> Outcome {
    let cases = [
        ("LDRSB W", load!(uart(CELL3), "ldrsb w0, [x1]"), 0xffff_ffb1),
        ("LDRSB X", load!(uart(CELL3), "ldrsb x0, [x1]"), 0xffff_ffff_ffff_ffb1),
        ("LDRSB X of a positive byte", load!(uart(ID0), "ldrsb x0, [x1]"), 0x11),
        ("LDRSH W", load!(uart(IBRD), "ldrsh w0, [x1]"), 0xffff_8123),
        ("LDRSH X", load!(uart(IBRD), "ldrsh x0, [x1]"), 0xffff_ffff_ffff_8123),
        ("LDRSW X", load!(spare(), "ldrsw x0, [x1]"), 0xffff_ffff_c080_4020),
    ];
    for (name, found, expected) in cases {
        ensure!(found == expected, "{name} is {found:#x}, expected {expected:#x}");
    }
    Ok(Done::Passed)
}

fn load_64_bit() -> Outcome {
    let affinity = machine().ids[0];
    store!(router(), affinity, "str x0, [x1]");
    let route = load!(router(), "ldr x0, [x1]");
    ensure!(route == affinity, "GICD_IROUTER is {route:#x}");
    let typer = load!(gic::redistributor() + 8, "ldr x0, [x1]");
    let low = load!(gic::redistributor() + 8, "ldr w0, [x1]");
    let high = load!(gic::redistributor() + 12, "ldr w0, [x1]");
    ensure!(typer == high << 32 | low, "GICR_TYPER is {typer:#x}, its halves {high:#x} and {low:#x}");
    Ok(Done::Passed)
}

fn load_to_zero_register() -> Outcome {
    let kept = load!(uart(ID0), "mov x0, #7", "ldr wzr, [x1]", "ldrb wzr, [x1]", "ldrsw xzr, [x1]");
    ensure!(kept == 7, "a load to the zero register changed x0 to {kept:#x}");
    store!(spare(), 0_u64, "str wzr, [x1]");
    let word = mmio::read32(spare());
    ensure!(word == 0, "STR WZR stored {word:#x}");
    Ok(Done::Passed)
}

fn addressing_modes() -> Outcome {
    let base = uart(ID0);
    let cases = [
        ("[x, #imm]", load!(base, "ldr w0, [x1, #4]"), 0x10),
        ("[x, #-imm]", load!(base + 8, "ldur w0, [x1, #-8]"), 0x11),
        ("[x, x]", load!(base, "mov x2, #4", "ldr w0, [x1, x2]"), 0x10),
        ("[x, w, uxtw #2]", load!(base, "mov w2, #4", "ldr w0, [x1, w2, uxtw #2]"), 0x0d),
        ("[x, w, sxtw]", load!(base + 8, "mov w2, #-8", "ldr w0, [x1, w2, sxtw]"), 0x11),
    ];
    for (name, found, expected) in cases {
        ensure!(found == expected, "{name} is {found:#x}, expected {expected:#x}");
    }
    Ok(Done::Passed)
}

fn store_sizes() -> Outcome {
    store!(spare(), 0x8060_4020_u64, "str w0, [x1]");
    for lane in 0..4 {
        store!(spare() + lane, 0xe0_u64, "strb w0, [x1]");
        let word = mmio::read32(spare());
        let expected = (0x8060_4020 & !(0xff << (8 * lane))) | 0xe0 << (8 * lane);
        ensure!(word == expected, "after STRB to byte {lane} the word is {word:#x}, expected {expected:#x}");
        store!(spare(), 0x8060_4020_u64, "str w0, [x1]");
    }
    store!(uart(IBRD), 0xf_1234_u64, "strh w0, [x1]");
    let divisor = mmio::read32(uart(IBRD));
    ensure!(divisor == 0x1234, "STRH stored {divisor:#x}");
    Ok(Done::Passed)
}

fn acquire_and_release() -> Outcome {
    store!(spare(), 0x2040_6080_u64, "stlr w0, [x1]");
    let word = load!(spare(), "ldar w0, [x1]");
    ensure!(word == 0x2040_6080, "LDAR after STLR is {word:#x}");
    Ok(Done::Passed)
}

fn prefetch() -> Outcome {
    let trap = catch(|| {
        load!(uart(0), "prfm pldl1keep, [x1]");
        load!(nowhere(), "prfm pstl1keep, [x1]");
    });
    ensure!(trap.is_none(), "{trap:x?}");
    Ok(Done::Passed)
}

fn cache_maintenance() -> Outcome {
    let trap = catch(|| {
        load!(uart(0), "dc civac, x1");
        load!(uart(0), "dc cvac, x1");
    });
    ensure!(trap.is_none(), "{trap:x?}");
    Ok(Done::Passed)
}

/// Checks an access whose trap says nothing about it: right when carried out, an external abort otherwise.
fn either(name: &str, body: impl FnOnce() -> Result<(), guests::report::Why>) {
    test(name, || {
        let mut result = Ok(());
        match catch(|| result = body()) {
            Some(trap) if trap.is_external_abort() => println!("mmio: {name}: external abort"),
            Some(trap) => return Err(guests::why!("{trap:x?}")),
            None => {
                result?;
                println!("mmio: {name}: carried out");
            }
        }
        Ok(Done::Passed)
    });
}

fn same(name: &str, found: u64, expected: u64) -> Result<(), guests::report::Why> {
    ensure!(found == expected, "{name} is {found:#x}, expected {expected:#x}");
    Ok(())
}

fn without_syndrome() {
    let base = uart(ID0);
    either("load-post-index", move || {
        let found =
            load!(base, "mov x3, x1", "ldr w0, [x1], #4", "sub x1, x1, x3", "orr x0, x0, x1, lsl #32");
        same("value and step", found, 4 << 32 | 0x11)
    });
    either("load-pre-index", move || {
        let found =
            load!(base, "mov x3, x1", "ldr w0, [x1, #4]!", "sub x1, x1, x3", "orr x0, x0, x1, lsl #32");
        same("value and step", found, 4 << 32 | 0x10)
    });
    either("load-byte-post-index", move || {
        let found =
            load!(base, "mov x3, x1", "ldrsb x0, [x1], #-1", "sub x1, x3, x1", "orr x0, x0, x1, lsl #32");
        same("value and step", found, 1 << 32 | 0x11)
    });
    either("store-post-index", move || {
        store!(spare(), 0x8060_4020_u64, "str w0, [x1], #4");
        same("the word", mmio::read32(spare()).into(), 0x8060_4020)
    });
    either("load-simd", move || {
        same("S0", load!(base, ".arch_extension fp", "ldr s0, [x1]", "fmov w0, s0"), 0x11)
    });
    either("store-simd", move || {
        store!(spare(), 0x2060_a0e0_u64, ".arch_extension fp", "fmov s0, w0", "str s0, [x1]");
        same("the word", mmio::read32(spare()).into(), 0x2060_a0e0)
    });
    either("exclusive", move || {
        mmio::write32(spare(), 0x8060_4020);
        same("LDXR", load!(spare(), "ldxr w0, [x1]", "clrex"), 0x8060_4020)
    });
    if mrs!("id_aa64isar0_el1") >> 20 & 0xf >= 2 {
        either("atomic", move || {
            mmio::write32(spare(), 0x8060_4020);
            same(
                "SWP",
                load!(spare(), ".arch_extension lse", "mov w2, #0x40", "swp w2, w0, [x1]"),
                0x8060_4020,
            )?;
            same("the word", mmio::read32(spare()).into(), 0x40)
        });
    }
}

fn pairs_without_syndrome() {
    let base = uart(ID0);
    either("load-pair", move || {
        same("the pair", load!(base, "ldp w0, w2, [x1]", "orr x0, x0, x2, lsl #32"), 0x10 << 32 | 0x11)
    });
    either("load-pair-signed", move || {
        same("the first", load!(base, "ldpsw x0, x2, [x1]"), 0x11)?;
        same("the second", load!(base, "ldpsw x2, x0, [x1]"), 0x10)
    });
    either("store-pair", move || {
        // UARTIBRD and UARTFBRD (16 and 6 bits).
        store!(uart(IBRD), 0x4321_u64, "mov w2, #0x2a", "stp w0, w2, [x1]");
        same("the first", mmio::read32(uart(IBRD)).into(), 0x4321)?;
        same("the second", mmio::read32(uart(IBRD) + 4).into(), 0x2a)
    });
    either("load-pair-64-bit", move || {
        let affinity = machine().ids[0];
        mmio::write64(router(), affinity);
        mmio::write64(router() + 8, affinity);
        same("the second", load!(router(), "ldp x2, x0, [x1]"), affinity)
    });
}

fn unaligned() -> Outcome {
    let trap = catch(|| {
        load!(uart(ID0 + 1), "ldr w0, [x1]");
    });
    // Device memory wants alignment: stage 1 says so (DFSC 0x21), and the hypervisor has no part in it.
    ensure!(trap.is_some_and(|trap| trap.class() == 0x25 && trap.esr & 0x3f == 0x21), "{trap:x?}");
    Ok(Done::Passed)
}

/// Returns an address that stage 1 maps as normal memory and nothing backs: behind RAM, in its last block of 1 GiB.
///
/// When RAM fills the block, an address between the devices of virt-like machines.
fn nowhere() -> u64 {
    let end = machine().ram + machine().ram_size;
    if end & ((1 << 30) - 1) == 0 { 0x0c10_0000 } else { end + 0x1000 }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Read,
    Write,
}

fn unbacked(probe: impl Fn(u64), expect: Expect) -> Outcome {
    for address in [nowhere(), 0x0c10_0000] {
        for _ in 0..10 {
            let trap: Option<Trap> = catch(|| probe(address));
            let Some(trap) = trap else { return Err(guests::why!("no fault at {address:#x}")) };
            ensure!(trap.is_external_abort(), "{trap:x?}");
            ensure!(trap.far == address, "FAR {:#x}, expected {address:#x}", trap.far);
            let wrote = trap.esr & 1 << 6 != 0;
            ensure!(wrote == (expect == Expect::Write), "ESR {:#x}: WnR is {wrote}", trap.esr);
        }
    }
    Ok(Done::Passed)
}

fn unbacked_execute() -> Outcome {
    let address = nowhere();
    if address == 0x0c10_0000 {
        return Ok(Done::Skipped("RAM fills its last block"));
    }
    let trap = catch_branch(|| {
        // SAFETY: the fetch fails, and `catch_branch` returns to the instruction after BLR.
        unsafe { asm!("blr {0}", in(reg) address, out("x30") _, options(nostack)) };
    });
    cpu::isb();
    let Some(trap) = trap else { return Err(guests::why!("no fault at {address:#x}")) };
    ensure!(trap.class() == 0x21 && trap.is_external_abort(), "{trap:x?}");
    ensure!(trap.far == address && trap.elr == address, "FAR {:#x} ELR {:#x}", trap.far, trap.elr);
    Ok(Done::Passed)
}
