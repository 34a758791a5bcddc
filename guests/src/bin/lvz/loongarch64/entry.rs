//! Entering a guest and coming back.

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::report::{Done, Outcome, test};
use guests::{csr, ensure, set_csr, timer, trap};

use super::code as guest_code;
use super::world::{A0, GSTAT, PVM, World, gcsr, physical, set_gcsr, start_of};

/// The timer in ESTAT.IS and ECFG.LIE.
const TI: u64 = 1 << 11;

pub(super) fn tests() {
    test("enters-and-calls", calls);
    test("call-from-user-mode", call_from_user);
    test("registers-go-both-ways", registers);
    test("root-stays-root", root_stays);
    test("exceptions-of-the-guest-are-its-own", own_exceptions);
    test("interrupt-of-the-root-ends-it", root_interrupt);
    test("masked-interrupt-of-the-root-does-not", masked_root_interrupt);
    test("exclusive-does-not-outlast-an-exit", exclusive);
}

/// HVCL comes with its code in BADI, at its own address; the guest goes on behind it.
fn calls() -> Outcome {
    let mut world = World::at(guest_code::call, 0, 0);
    let exit = world.run();
    ensure!(exit.is_call(0x123) && exit.subcode == 0, "{exit:?}");
    ensure!(exit.pc == start_of(guest_code::call), "{exit:?}");
    ensure!(
        world.gstat() & 0b11 == PVM,
        "GSTAT {:#x} after the exit: VM 0 and PVM 1 are expected",
        world.gstat()
    );
    world.skip();
    let exit = world.run();
    ensure!(exit.is_end() && exit.pc == start_of(guest_code::call) + 4, "{exit:?}");
    Ok(Done::Passed)
}

fn call_from_user() -> Outcome {
    let mut world = World::at(guest_code::call, 0, 0);
    set_gcsr!(number::CRMD, 8 | 3);
    let exit = world.run();
    ensure!(exit.is_call(0x123), "{exit:?}");
    let crmd = gcsr!(number::CRMD);
    ensure!(crmd & 0b11 == 3, "the guest's CRMD is {crmd:#x} after it");
    Ok(Done::Passed)
}

fn registers() -> Outcome {
    let mut world = World::at(guest_code::count, 7, 8);
    let before = world.r;
    let exit = world.run();
    ensure!(exit.is_end(), "{exit:?}");
    for (number, (found, before)) in world.r.into_iter().zip(before).enumerate().skip(1) {
        let expected = before + 1;
        ensure!(found == expected, "r{number} is {found:#x}, expected {expected:#x}");
    }
    Ok(Done::Passed)
}

/// With PVM clear, an exception of the root's own and its ERTN have nothing to do with the guest.
fn root_stays() -> Outcome {
    let exit = World::at(guest_code::call, 0, 0).run();
    ensure!(exit.is_call(0x123), "{exit:?}");
    let trap = trap::catch(|| {
        // SAFETY: BREAK does nothing but trap.
        unsafe { core::arch::asm!("break 0", options(nostack)) };
    });
    ensure!(trap.is_some_and(|trap| trap.code() == code::BRK), "{trap:?}");
    let gstat = csr!(GSTAT);
    ensure!(gstat & 0b11 == 0, "GSTAT {gstat:#x} in the root");
    Ok(Done::Passed)
}

/// SYSCALL, BREAK, an undefined and a privileged instruction, a bad address: none of them is an exit, and the guest finds in
/// its registers what the root would in its own.
fn own_exceptions() -> Outcome {
    let words = [
        (0x002b_0000, code::SYS, 0),
        (0x002a_0000, code::BRK, 0),
        (0xffff_ffff, code::INE, 0),
        // csrrd $a0, CRMD, in user mode.
        (0x0400_0004, code::IPE, 3),
    ];
    for (word, expected, plv) in words {
        let mut world = World::executing(word, 0);
        set_gcsr!(number::CRMD, 8 | plv | 4);
        let (at, exit) = (world.pc, world.run());
        ensure!(exit.is_trapped(), "{word:#010x}: {exit:?}");
        let (estat, era, badi) = (gcsr!(number::ESTAT), gcsr!(number::ERA), gcsr!(number::BADI));
        ensure!(estat >> 16 & 0x3f == expected, "{word:#010x}: the guest's ESTAT is {estat:#x}");
        ensure!(era == at && badi == word.into(), "{word:#010x}: the guest's ERA {era:#x}, BADI {badi:#x}");
        let (prmd, crmd) = (gcsr!(number::PRMD), gcsr!(number::CRMD));
        ensure!(prmd & 7 == 4 | plv && crmd & 7 == 0, "{word:#010x}: PRMD {prmd:#x}, CRMD {crmd:#x}");
    }
    Ok(Done::Passed)
}

/// The root's timer ends a guest that would not stop, wherever it is; it goes on from there.
fn root_interrupt() -> Outcome {
    const MANY: u64 = u64::MAX >> 1;
    let mut world = World::at(guest_code::spin, MANY, 0);
    let spin = start_of(guest_code::spin);
    set_csr!(number::ECFG, csr!(number::ECFG) | TI);
    // A slow emulator may not get as far as the guest in this time.
    for _ in 0..200 {
        timer::arm(timer::now() + timer::micros(3000));
        let exit = world.run_unmasked();
        timer::disarm();
        ensure!(exit.code == code::INT, "{exit:?}");
        ensure!((spin..spin + 8).contains(&exit.pc), "{exit:?}, expected inside {spin:#x}..+8");
        if world.r[A0] < MANY {
            break;
        }
    }
    ensure!(world.r[A0] < MANY, "it did not run");
    world.r[A0] = 1;
    world.pc = spin;
    let exit = world.run();
    ensure!(exit.is_end(), "{exit:?}");
    Ok(Done::Passed)
}

/// With PRMD.PIE clear the guest runs on, with an interrupt of the root pending.
fn masked_root_interrupt() -> Outcome {
    timer::arm(timer::now());
    let pending = timer::within(5_000_000, || csr!(number::ESTAT) & TI != 0);
    let exit = World::at(guest_code::spin, 100_000, 0).run_masked();
    timer::disarm();
    ensure!(pending, "nothing was pending");
    ensure!(exit.is_end(), "{exit:?}");
    Ok(Done::Passed)
}

/// Between an exclusive load and its store the guest was out: the store is not made, as if somebody had been there.
fn exclusive() -> Outcome {
    #[repr(C, align(64))]
    struct Cell(u64);
    let cell = Cell(5);
    let mut world = World::at(guest_code::exclusive, 0, physical(&raw const cell));
    let exit = world.run();
    ensure!(exit.is_call(0x123), "{exit:?}");
    world.skip();
    let exit = world.run();
    ensure!(exit.is_end(), "{exit:?}");
    ensure!(world.r[A0] == 0, "the exclusive store was made");
    Ok(Done::Passed)
}
