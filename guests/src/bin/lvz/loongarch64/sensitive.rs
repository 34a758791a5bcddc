//! What a guest does not do itself: GSPR.

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::report::{Done, Outcome, Why, test};
use guests::{ensure, println};

use super::world::{World, gcsr, set_gcsr};

/// a0 is register 4.
const A0: u32 = 4;

/// cpucfg $a0, $a0.
const CPUCFG: u32 = 0x0000_6c00 | A0 << 5 | A0;
/// idle 0.
const IDLE: u32 = 0x0648_8000;
/// dbcl 0.
const DBCL: u32 = 0x002a_8000;
/// cacop 0x10, $a0, 0: write back and invalidate a line.
const CACOP: u32 = 0x0600_0000 | A0 << 5 | 0x10;

fn csrrd(csr: u32) -> u32 {
    0x0400_0000 | csr << 10 | A0
}

fn csrwr(csr: u32) -> u32 {
    csrrd(csr) | 1 << 5
}

/// csrxchg $a0, $a1.
fn csrxchg(csr: u32) -> u32 {
    csrrd(csr) | 5 << 5
}

/// The eight of them, by operation: four reads of 1, 2, 4, 8 bytes, then the writes.
fn iocsr(operation: u32) -> u32 {
    0x0648_0000 | operation << 10 | A0 << 5 | A0
}

/// CSRs that a guest does not have in hardware: the root's own, those for caches, debugging, machine errors, counting,
/// watching, and those that nobody has.
const FOREIGN: [u32; 24] = [
    0x15, 0x16, 0x50, 0x51, 0x52, 0x53, 0x80, 0x81, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x98, 0x200, 0x201,
    0x300, 0x310, 0x380, 0x500, 0x501, 0x502, 0x7ff,
];

pub(super) fn tests() {
    test("cpucfg-traps", || traps(CPUCFG, 0).map(|()| Done::Passed));
    test("cpucfg-traps-in-user-mode", || traps(CPUCFG, 3).map(|()| Done::Passed));
    test("idle-traps", || traps(IDLE, 0).map(|()| Done::Passed));
    test("debug-call-traps", || traps(DBCL, 0).map(|()| Done::Passed));
    test("iocsr-traps", || {
        (0..8).try_for_each(|operation| traps(iocsr(operation), 0)).map(|()| Done::Passed)
    });
    test("foreign-csrs-trap", || {
        let words = FOREIGN.into_iter().flat_map(|csr| [csrrd(csr), csrwr(csr), csrxchg(csr)]);
        words.into_iter().try_for_each(|word| traps(word, 0)).map(|()| Done::Passed)
    });
    test("privilege-comes-first", privilege);
    test("cacop", cacop);
    test("instructions-of-a-hypervisor", of_a_hypervisor);
}

/// Checks that an instruction is an exit, with its word, at its address.
fn traps(word: u32, plv: u64) -> Result<(), Why> {
    let mut world = World::executing_at(plv, word, 0x20);
    let (at, before) = (world.pc, world.r);
    let exit = world.run();
    ensure!(exit.code == code::GSPR && exit.subcode == 0, "{word:#010x}: {exit:?}");
    ensure!(exit.badi == word.into() && exit.pc == at, "{word:#010x}: {exit:?}");
    ensure!(world.r == before, "{word:#010x} changed a register");
    // Stepped over, it is as if it had been done.
    world.skip();
    let exit = world.run();
    ensure!(World::has_ended(exit), "{word:#010x}, after it: {exit:?}");
    Ok(())
}

/// What user mode may not do is the guest's affair, not an exit: IPE.
fn privilege() -> Outcome {
    let words = [csrrd(0x0), csrwr(0x0), csrrd(0x500), csrwr(0x80), csrrd(0x7ff), iocsr(0), iocsr(6), IDLE];
    for word in words {
        let mut world = World::executing(word, 0x20);
        set_gcsr!(number::CRMD, 8 | 3);
        let exit = world.run();
        let ecode = gcsr!(number::ESTAT) >> 16 & 0x3f;
        ensure!(
            exit.is_trapped() && ecode == code::IPE,
            "{word:#010x}: {exit:?}, the guest's code {ecode:#x}"
        );
    }
    Ok(Done::Passed)
}

/// With GCFG.GCI 0 it may be done, or trap.
fn cacop() -> Outcome {
    let mut world = World::executing(CACOP, 0x20_0000);
    let exit = world.run();
    println!("lvz: CACOP {}", if exit.is_end() { "is done" } else { "traps" });
    ensure!(exit.is_end() || exit.code == code::GSPR && exit.badi == CACOP.into(), "{exit:?}");
    Ok(Done::Passed)
}

/// gcsrrd, gcsrwr, the operations on a guest's TLB: an exit, or undefined to the guest; never done.
fn of_a_hypervisor() -> Outcome {
    set_gcsr!(number::TID, 0x77);
    let words = [0x0501_0004, 0x0501_0024, 0x0648_2001, 0x0648_2401, 0x0648_3001, 0x0648_3401];
    for word in words {
        let mut world = World::executing(word, 0x55);
        let exit = world.run();
        let ecode = gcsr!(number::ESTAT) >> 16 & 0x3f;
        let own = exit.is_trapped() && matches!(ecode, code::INE | code::IPE);
        ensure!(exit.code == code::GSPR || own, "{word:#010x}: {exit:?}, the guest's code {ecode:#x}");
    }
    ensure!(gcsr!(number::TID) == 0x77, "the guest's TID is {:#x}", gcsr!(number::TID));
    Ok(Done::Passed)
}
