//! Page tables full of nonsense: entries and directories.

use core::arch::asm;

use guests::arch::paging::{self, Space, nothing};
use guests::arch::trap::code;
use guests::report::{Done, Outcome, test};
use guests::rng::Rng;
use guests::trap::{Trap, catch, catch_branch};
use guests::{ensure, println};

use crate::bare;

static SPACE: Space = Space::new();

/// The window that the space shows, in the low half.
const WINDOW: u64 = 0x10_0000_0000;
/// Physical addresses that are no memory and no device: in them, any access fails.
const NOWHERE: u64 = 0x3000_0000;

pub(super) fn page_tables() {
    test("pages-without-meaning", pages);
    test("directories-without-meaning", directories);
    nothing().install();
}

/// Loads, stores and fetches; counts what faults, and checks that it is a fault of the MMU or of an address.
fn touch(address: u64) -> Result<u32, guests::report::Why> {
    let load = catch(|| {
        // SAFETY: what is mapped there is no memory; the access fails or reads what a device has.
        unsafe { asm!("ld.d {0}, {1}, 0", out(reg) _, in(reg) address, options(nostack)) };
    });
    let store = catch(|| {
        // SAFETY: as for the load.
        unsafe { asm!("st.d $zero, {0}, 0", in(reg) address, options(nostack)) };
    });
    // SAFETY: the fetch fails, and `catch_branch` returns to the instruction after JIRL.
    let fetch = catch_branch(|| unsafe {
        asm!("jirl $ra, {0}, 0", in(reg) address, out("$ra") _, options(nostack));
    });
    let fine = |trap: Trap| matches!(trap.code(), code::PIL..=code::ADE);
    for trap in [load, store, fetch] {
        ensure!(trap.is_none_or(fine), "{address:#x}: {trap:x?}");
    }
    ensure!(fetch.is_some(), "{address:#x} was executed");
    Ok(u32::from(load.is_some()) + u32::from(store.is_some()) + 1)
}

/// Any attributes, over addresses where nothing is.
fn pages() -> Outcome {
    let mut rng = Rng::new(9);
    SPACE.install();
    let mut faults = 0;
    for slot in 0..512_u64 {
        let noise = rng.draw();
        let physical =
            NOWHERE + (noise & 0xff_f000) | if rng.below(4) == 0 { noise & 0x7fff_0000_0000 } else { 0 };
        SPACE.set(3, slot as usize, noise & !0xffff_ffff_f000 | physical & 0xffff_ffff_f000);
        paging::forget_all();
        faults += touch(WINDOW + slot * 4096)?;
    }
    println!("bad: {faults} faults by 512 pages");
    ensure!(faults > 512, "only {faults} faults");
    Ok(Done::Passed)
}

/// Directory entries that lead to where nothing is, and large pages: not of the highest level, whose size no TLB has, so
/// that they would be looked for without end.
fn directories() -> Outcome {
    let mut rng = Rng::new(10);
    let mut faults = 0;
    for round in 0..300 {
        SPACE.install();
        let noise = rng.draw();
        // Plain QEMU reads zeros where nothing is, and so goes on with what is at 0.
        let kind = if bare() { 2 } else { round % 3 };
        let level = if kind == 2 { 1 + rng.below(2) } else { rng.below(3) } as usize;
        let entry = match kind {
            0 => NOWHERE + (noise & 0xff_f000),
            1 => noise & 0x7fff_ffff_f000 | 0x4000_0000_0000,
            _ => NOWHERE & !0x3fff_ffff | 0x4000_0000_0000 | noise & 0xe000_0000_0000_003f | paging::HUGE,
        };
        (0..512).for_each(|slot| SPACE.set(level, slot, entry));
        faults += touch(WINDOW + (noise & 0x1f_f000))?;
    }
    println!("bad: {faults} faults by 300 directories");
    Ok(Done::Passed)
}
