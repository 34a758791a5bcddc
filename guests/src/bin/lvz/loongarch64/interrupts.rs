//! Interrupts that the root gives a guest: GINTC.VIP for HWI0 to HWI7, the guest's ESTAT for the others.

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::report::{Done, Outcome, test};
use guests::{csr, ensure, set_csr, timer};

use super::code as guest_code;
use super::world::{A0, Exit, GINTC, World, gcsr, set_gcsr, start_of};

/// All lines of a guest.
const LINES: u64 = 0x1fff;
/// IPI in ESTAT.IS.
const IPI: u64 = 1 << 12;
/// The timer.
const TI: u64 = 1 << 11;

pub(super) fn tests() {
    test("injected-lines-are-seen", seen);
    test("injected-lines-read-back", read_back);
    test("injected-before-entry", || injected(Moment::Unmasked));
    test("injected-while-masked", || injected(Moment::Masked));
    test("injected-while-disabled", disabled);
    test("lines-of-estat", lines_of_estat);
    test("software-interrupts-of-the-guests", software);
    test("lines-go-down", down);
    test("interrupts-of-both-worlds", both_worlds);
    test("estat-keeps-what-is-injected", estat_keeps);
}

/// Reads ESTAT in the guest.
fn estat_in_guest() -> (Exit, u64) {
    // csrrd $a0, ESTAT.
    let mut world = World::executing(0x0400_1404, 0);
    set_csr!(GINTC, HELD.load(core::sync::atomic::Ordering::Relaxed));
    let exit = world.run();
    (exit, world.r[A0])
}

/// What GINTC is to be in [`estat_in_guest`]: making a world clears it.
static HELD: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn hold(lines: u64) {
    HELD.store(lines, core::sync::atomic::Ordering::Relaxed);
}

/// The guest reads what is injected in its ESTAT, one bit further for HWI0 than SWI1.
fn seen() -> Outcome {
    for lines in [1, 0x80, 0x55, 0xff, 0] {
        hold(lines);
        let (exit, estat) = estat_in_guest();
        ensure!(exit.is_end() && estat & LINES == lines << 2, "VIP {lines:#x}: {exit:?}, ESTAT {estat:#x}");
    }
    hold(0);
    Ok(Done::Passed)
}

/// A hypervisor that changes one line reads what the others are.
fn read_back() -> Outcome {
    for lines in [4, 0xff, 0x81, 0] {
        set_csr!(GINTC, lines);
        let found = csr!(GINTC) & 0xff;
        ensure!(found == lines, "GINTC.VIP is {found:#x}, expected {lines:#x}");
        let estat = gcsr!(number::ESTAT) & 0xff << 2;
        ensure!(estat == lines << 2, "the guest's ESTAT is {estat:#x} by VIP {lines:#x}");
    }
    Ok(Done::Passed)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Unmasked,
    Masked,
}

/// A line is up at the entry: the guest takes it at once, or when it unmasks interrupts, without an exit between.
fn injected(moment: Moment) -> Outcome {
    for line in 0..8 {
        let run = if moment == Moment::Masked { guest_code::unmask } else { guest_code::spin };
        let mut world = World::at(run, 1_000_000, 0);
        set_gcsr!(number::ECFG, LINES);
        set_gcsr!(number::CRMD, if moment == Moment::Masked { 8 } else { 8 | 4 });
        set_csr!(GINTC, 1 << line);
        let exit = world.run();
        set_csr!(GINTC, 0);
        ensure!(exit.is_trapped(), "HWI{line}: {exit:?}, a0 {}", world.r[A0]);
        let (estat, era, prmd) = (gcsr!(number::ESTAT), gcsr!(number::ERA), gcsr!(number::PRMD));
        ensure!(estat >> 16 & 0x3f == code::INT, "HWI{line}: the guest's ESTAT is {estat:#x}");
        ensure!(prmd & 7 == 4 && gcsr!(number::CRMD) & 7 == 0, "HWI{line}: the guest's PRMD is {prmd:#x}");
        let begin = start_of(run);
        ensure!(
            (begin..begin + 24).contains(&era),
            "HWI{line}: the guest's ERA is {era:#x}, expected at {begin:#x}"
        );
        ensure!(world.r[A0] > 0, "HWI{line} came too late");
    }
    Ok(Done::Passed)
}

/// A line that the guest's ECFG does not enable does not come.
fn disabled() -> Outcome {
    let mut world = World::at(guest_code::unmask, 100_000, 0);
    set_gcsr!(number::ECFG, LINES & !(1 << 5));
    set_csr!(GINTC, 1 << 3);
    let exit = world.run();
    set_csr!(GINTC, 0);
    ensure!(exit.is_end(), "{exit:?}");
    Ok(Done::Passed)
}

/// IPI and the timer's line are the root's to write in the guest's ESTAT.
fn lines_of_estat() -> Outcome {
    for line in [IPI, TI] {
        let mut world = World::at(guest_code::unmask, 1_000_000, 0);
        set_gcsr!(number::ECFG, LINES);
        set_gcsr!(number::ESTAT, line);
        let exit = world.run();
        let estat = gcsr!(number::ESTAT);
        set_gcsr!(number::ESTAT, 0);
        ensure!(
            exit.is_trapped() && estat >> 16 & 0x3f == code::INT,
            "{line:#x}: {exit:?}, ESTAT {estat:#x}"
        );
        ensure!(estat & LINES == line, "{line:#x}: the guest's ESTAT is {estat:#x}");
        let after = gcsr!(number::ESTAT) & LINES;
        ensure!(after == 0, "the guest's ESTAT is {after:#x} after it was cleared");
    }
    Ok(Done::Passed)
}

/// SWI0 and SWI1, raised by the guest itself.
fn software() -> Outcome {
    for line in 0..2_u64 {
        // csrwr $a0, ESTAT.
        let mut world = World::executing(0x0400_1424, 1 << line);
        let exit = world.run();
        let estat = gcsr!(number::ESTAT) & LINES;
        ensure!(exit.is_end() && estat == 1 << line, "SWI{line}: {exit:?}, ESTAT {estat:#x}");
        let mut world = World::executing(0x0400_1424, 1 << line);
        set_gcsr!(number::ECFG, LINES);
        set_gcsr!(number::CRMD, 8 | 4);
        let exit = world.run();
        ensure!(exit.is_trapped(), "SWI{line}, unmasked: {exit:?}");
        set_gcsr!(number::ESTAT, 0);
    }
    Ok(Done::Passed)
}

/// A line that the root takes down before the guest unmasks does not come.
fn down() -> Outcome {
    let mut world = World::at(guest_code::call, 0, 0);
    set_gcsr!(number::ECFG, LINES);
    set_csr!(GINTC, 0xff);
    let exit = world.run();
    ensure!(exit.is_call(0x123), "{exit:?}");
    set_csr!(GINTC, 0);
    let estat = gcsr!(number::ESTAT) & LINES;
    ensure!(estat == 0, "the guest's ESTAT is {estat:#x}");
    world.pc = start_of(guest_code::unmask);
    world.r[A0] = 100_000;
    let exit = world.run();
    ensure!(exit.is_end(), "{exit:?}");
    Ok(Done::Passed)
}

/// An interrupt of the root that is pending and masked keeps nothing from the guest; unmasked, it comes first.
fn both_worlds() -> Outcome {
    timer::arm(timer::now());
    let pending = timer::within(5_000_000, || csr!(number::ESTAT) & TI != 0);
    let begun = |unmasked: bool| {
        let mut world = World::at(guest_code::unmask, 1_000_000, 0);
        set_gcsr!(number::ECFG, LINES);
        set_csr!(GINTC, 2);
        let exit = if unmasked { world.run_unmasked() } else { world.run_masked() };
        set_csr!(GINTC, 0);
        exit
    };
    let masked = begun(false);
    let unmasked = begun(true);
    timer::disarm();
    ensure!(pending, "nothing was pending");
    ensure!(masked.is_trapped(), "the root masks its own: {masked:?}");
    ensure!(unmasked.code == code::INT, "the root does not mask its own: {unmasked:?}");
    Ok(Done::Passed)
}

/// Writing the guest's ESTAT, as a hypervisor does when it loads a guest, leaves the injected lines as they are.
fn estat_keeps() -> Outcome {
    set_csr!(GINTC, 0x21);
    set_gcsr!(number::ESTAT, IPI);
    let both = gcsr!(number::ESTAT) & LINES;
    set_gcsr!(number::ESTAT, 0);
    let one = gcsr!(number::ESTAT) & LINES;
    set_csr!(GINTC, 0);
    let none = gcsr!(number::ESTAT) & LINES;
    ensure!(
        (both, one, none) == (IPI | 0x84, 0x84, 0),
        "the guest's ESTAT is {both:#x}, {one:#x}, {none:#x}"
    );
    Ok(Done::Passed)
}
