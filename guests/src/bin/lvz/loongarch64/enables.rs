//! Both levels of EUEN: a unit works in a guest when the guest and the root enable it. If the guest does not, it is told; if
//! only the root does not, the root is.

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::fp::{self, Units};
use guests::report::{Done, Outcome, test};
use guests::{ensure, set_csr, why};

use super::code as guest_code;
use super::world::{A0, Exit, World, gcsr, set_gcsr};

/// A unit: its name, its bit of EUEN, the exception when it is off, an instruction of it that changes a0 at most.
struct Unit {
    units: Units,
    name: &'static str,
    bit: u64,
    off: u64,
    touch: u32,
}

/// movfcsr2gr $a0; vpickve2gr.d $a0, $vr3, 1; xvpickve2gr.d $a0, $xr3, 3; movscr2gr $a0, $scr0 (Vol.1, appendix B).
const UNITS: [Unit; 4] = [
    Unit { units: Units::FPU, name: "FPU", bit: 1, off: code::FPD, touch: 0x0114_c804 },
    Unit { units: Units::LSX, name: "LSX", bit: 1 << 1, off: code::SXD, touch: 0x72ef_f464 },
    Unit { units: Units::LASX, name: "LASX", bit: 1 << 2, off: code::ASXD, touch: 0x76ef_ec64 },
    Unit { units: Units::LBT, name: "LBT", bit: 1 << 3, off: code::BTD, touch: 0x0000_0c04 },
];
const ALL: u64 = 0b1111;

pub(super) fn tests() {
    for unit in &UNITS {
        let name = why!("euen-of-both-worlds-{}", unit.name);
        test(name.as_str(), || matrix(unit));
    }
    test("euen-again-after-the-root-enables", enabled_later);
    test("euen-of-the-guest-does-not-trap", own_euen);
    test("euen-in-user-mode", user_mode);
    test("registers-are-shared", shared);
    test("lbt-moves", translation);
}

/// Runs the unit's instruction with these enables.
fn touch(unit: &Unit, root: u64, guest: u64, plv: u64) -> (World, Exit) {
    let mut world = World::executing_at(plv, unit.touch, 0);
    set_gcsr!(number::EUEN, guest);
    set_csr!(number::EUEN, root);
    let exit = world.run();
    set_csr!(number::EUEN, 0);
    (world, exit)
}

fn matrix(unit: &Unit) -> Outcome {
    if !fp::present().has(unit.units) {
        return Ok(Done::Skipped("this CPU has no such unit"));
    }
    // With all other bits clear, and with all others set.
    for others in [0, ALL & !unit.bit] {
        for (root, guest) in [(0, 0), (unit.bit, 0), (0, unit.bit), (unit.bit, unit.bit)] {
            let at = (others | root, others | guest);
            let (world, exit) = touch(unit, at.0, at.1, 0);
            let ecode = gcsr!(number::ESTAT) >> 16 & 0x3f;
            match (root, guest) {
                (_, 0) => ensure!(
                    exit.is_trapped() && ecode == unit.off,
                    "root {:#x} guest {:#x}: {exit:?}, the guest's code {ecode:#x}",
                    at.0,
                    at.1
                ),
                (0, _) => ensure!(
                    exit.code == unit.off && exit.pc == super::world::place(unit.touch),
                    "root {:#x} guest {:#x}: {exit:?}",
                    at.0,
                    at.1
                ),
                _ => ensure!(exit.is_end(), "root {:#x} guest {:#x}: {exit:?}", at.0, at.1),
            }
            ensure!(gcsr!(number::EUEN) & ALL == at.1, "the guest's EUEN is {:#x}", gcsr!(number::EUEN));
            let _ = world;
        }
    }
    Ok(Done::Passed)
}

/// After the exit the root enables the unit, and the guest executes the instruction as if nothing had been.
fn enabled_later() -> Outcome {
    for unit in UNITS.iter().filter(|unit| fp::present().has(unit.units)) {
        let (mut world, exit) = touch(unit, 0, ALL, 0);
        ensure!(exit.code == unit.off, "{}: {exit:?}", unit.name);
        set_csr!(number::EUEN, ALL);
        let exit = world.run();
        set_csr!(number::EUEN, 0);
        ensure!(exit.is_end(), "{}: {exit:?} after the root enabled it", unit.name);
    }
    Ok(Done::Passed)
}

fn own_euen() -> Outcome {
    for bits in [0, 1, 3, 7, 0xf, 8] {
        // csrwr $a0, EUEN.
        let mut world = World::executing(0x0400_0824, bits);
        let exit = world.run();
        ensure!(exit.is_end() && gcsr!(number::EUEN) & ALL == bits, "{bits:#x}: {exit:?}");
    }
    Ok(Done::Passed)
}

/// User mode is no different.
fn user_mode() -> Outcome {
    for unit in UNITS.iter().filter(|unit| fp::present().has(unit.units)) {
        let (_, exit) = touch(unit, ALL & !unit.bit, ALL, 3);
        ensure!(exit.code == unit.off, "{}, the root's bit clear: {exit:?}", unit.name);
        let (_, exit) = touch(unit, ALL, ALL & !unit.bit, 3);
        let ecode = gcsr!(number::ESTAT) >> 16 & 0x3f;
        ensure!(exit.is_trapped() && ecode == unit.off, "{}, the guest's bit clear: {exit:?}", unit.name);
        let (_, exit) = touch(unit, ALL, ALL, 3);
        ensure!(World::has_ended(exit), "{}: {exit:?}", unit.name);
    }
    Ok(Done::Passed)
}

/// There is one set of registers: what the root leaves there a guest finds, whatever has been between.
fn shared() -> Outcome {
    fp::enable(Units::FPU);
    // SAFETY: changes f5 only, which the compiler does not use.
    unsafe {
        core::arch::asm!("movgr2fr.d $f5, {}", in(reg) 0x1234_5678_9abc_def0_u64, options(nostack, nomem))
    };
    // movfr2gr.d $a0, $f5.
    let mut world = World::executing(0x0114_b8a4, 0);
    set_gcsr!(number::EUEN, 1);
    let exit = world.run();
    ensure!(exit.code == code::FPD, "{exit:?}");
    set_csr!(number::EUEN, 1);
    let exit = world.run();
    set_csr!(number::EUEN, 0);
    ensure!(exit.is_end() && world.r[A0] == 0x1234_5678_9abc_def0, "{exit:?}, f5 is {:#x}", world.r[A0]);
    Ok(Done::Passed)
}

/// The registers of LBT, moved there and back, with an exit between.
fn translation() -> Outcome {
    if !fp::present().has(Units::LBT) {
        return Ok(Done::Skipped("this CPU has no LBT"));
    }
    let mut world = World::at(guest_code::translation, 0, 0);
    let values =
        [0x1111_2222_3333_4444, 0x5555_6666_7777_8888, 0x9999_aaaa_bbbb_cccc, 0xdddd_eeee_ffff_0000, 0x8d5];
    world.r[A0..A0 + 5].copy_from_slice(&values);
    set_gcsr!(number::EUEN, ALL);
    set_csr!(number::EUEN, ALL);
    let between = world.run();
    (A0..A0 + 6).for_each(|n| world.r[n] = 0);
    world.skip();
    let exit = world.run();
    set_csr!(number::EUEN, 0);
    ensure!(between.is_call(0x123) && exit.is_end(), "{between:?}, {exit:?}");
    ensure!(world.r[A0..A0 + 5] == values, "{:x?}", &world.r[A0..A0 + 5]);
    ensure!(world.r[A0 + 5] == 5, "TOP is {}", world.r[A0 + 5]);
    Ok(Done::Passed)
}
