//! Guest tags, and the flushes that name them.

use guests::arch::csr as number;
use guests::arch::paging::{PAGE, Space};
use guests::report::{Done, Outcome, Why, test};
use guests::{csr, ensure};

use super::code as guest_code;
use super::memory::{fresh, page};
use super::stage2::{ALL, WINDOW, map};
use super::world::{A0, GSTAT, World, flush, gcsr, set_gcsr, set_tag};

pub(super) fn tests() {
    test("tag-bits", tag_bits);
    test("tags-part-stage-2", parted);
    test("tags-part-the-guests-own", own_parted);
    test("flush-0x16-one-page", || flushed(|| flush!(0x16, 1, WINDOW)));
    test("flush-0x14-stage-2-of-one-guest", || flushed(|| flush!(0x14, 1, 0)));
    test("flush-0x15-one-guest", || flushed(|| flush!(0x15, 1, 0)));
    test("flush-0x11-stage-2-of-all", || flushed(|| flush!(0x11, 0, 0)));
    test("flush-0x12-all-guests", || flushed(|| flush!(0x12, 0, 0)));
    test("flush-0x13-own-of-one-guest", || own_flushed(|| flush!(0x13, 1, 0)));
    test("flush-0x10-own-of-all", || own_flushed(|| flush!(0x10, 0, 0)));
    test("flush-0x9-all-of-one-guest", || own_flushed(|| flush!(0x9, 1, 0)));
    test("flush-0xb-not-global", || own_flushed(|| flush!(0xb, 1, 0)));
    test("flush-0xe-one-address", || own_flushed(|| flush!(0xe, 1, MAPPED)));
    test("flush-by-the-guest", own_flush_by_guest);
}

/// GSTAT.GIDBIT says how many there are.
fn tag_bits() -> Outcome {
    let bits = csr!(GSTAT) >> 4 & 0x3f;
    ensure!((4..=8).contains(&bits), "GSTAT.GIDBIT is {bits}");
    for tag in [1, 2, (1 << bits) - 1] {
        set_tag(tag);
        let found = csr!(GSTAT) >> 16 & 0xff;
        ensure!(found == tag, "GSTAT.GID is {found}, expected {tag}");
    }
    Ok(Done::Passed)
}

/// Loads the first word of the window as the guest with a tag.
fn load_as(tag: u64) -> Result<u64, Why> {
    set_tag(tag);
    let mut world = World::at(guest_code::load, 0, WINDOW);
    let exit = world.run();
    ensure!(exit.is_end(), "tag {tag}: {exit:?}");
    Ok(world.r[A0])
}

/// What was looked up under one tag is not used under another.
fn parted() -> Outcome {
    fresh();
    map(0, page(0, 0xa), ALL);
    let first = load_as(1)?;
    // The tables of the second are others; what the first has in the TLB stays there.
    map(0, page(1, 0xb), ALL);
    let second = load_as(2)?;
    ensure!((first, second) == (0xa, 0xb), "under tag 1 {first:#x}, under tag 2 {second:#x}");
    for _ in 0..50 {
        map(0, page(0, 0xa), ALL);
        let first = load_as(1)?;
        map(0, page(1, 0xb), ALL);
        let second = load_as(2)?;
        ensure!((first, second) == (0xa, 0xb), "under tag 1 {first:#x}, under tag 2 {second:#x}");
    }
    Ok(Done::Passed)
}

/// After the flush, the guest sees what is in the tables now.
fn flushed(flush: fn()) -> Outcome {
    fresh();
    for round in 0..20 {
        map(0, page(0, 0xa), ALL);
        flush();
        let before = load_as(1)?;
        map(0, page(1, 0xb), ALL);
        flush();
        let after = load_as(1)?;
        ensure!((before, after) == (0xa, 0xb), "round {round}: {before:#x}, then {after:#x}");
    }
    Ok(Done::Passed)
}

/// An address of the guest's own.
const MAPPED: u64 = 0x10_0000_0000;
/// Tables of two guests.
static SPACES: [Space; 2] = [const { Space::new() }; 2];

/// Loads through a guest's own tables, as the guest with a tag.
fn load_own(tag: u64, space: &Space) -> Result<u64, Why> {
    set_tag(tag);
    space.prepare();
    let mut world = World::at(guest_code::load_mapped, 0, MAPPED);
    set_gcsr!(number::CRMD, 0xb0);
    set_gcsr!(number::DMW0, 0x9000_0000_0000_0011);
    set_gcsr!(number::PWCL, csr!(number::PWCL));
    set_gcsr!(number::PWCH, csr!(number::PWCH));
    set_gcsr!(number::PGDL, space.table(0));
    set_gcsr!(number::EENTRY, 0x9000_0000_0000_0000 | gcsr!(number::EENTRY));
    world.pc |= 0x9000_0000_0000_0000;
    let exit = world.run();
    ensure!(exit.is_end(), "tag {tag}: {exit:?}");
    Ok(world.r[A0])
}

fn windows() {
    map(0, page(0, 0xa), ALL);
    map(1, page(1, 0xb), ALL);
}

/// The guests' own translations, of the same address, are parted likewise.
fn own_parted() -> Outcome {
    fresh();
    windows();
    for (n, space) in (0..).zip(&SPACES) {
        space.map(0, WINDOW + n * 4096, PAGE);
    }
    for round in 0..50 {
        let seen = [load_own(1, &SPACES[0])?, load_own(2, &SPACES[1])?];
        ensure!(seen == [0xa, 0xb], "round {round}: {seen:x?}");
    }
    Ok(Done::Passed)
}

/// After the flush, the guest looks into its own tables again.
fn own_flushed(flush: fn()) -> Outcome {
    fresh();
    windows();
    for round in 0..20 {
        SPACES[0].map(0, WINDOW, PAGE);
        flush();
        let before = load_own(1, &SPACES[0])?;
        SPACES[0].map(0, WINDOW + 4096, PAGE);
        flush();
        let after = load_own(1, &SPACES[0])?;
        ensure!((before, after) == (0xa, 0xb), "round {round}: {before:#x}, then {after:#x}");
    }
    Ok(Done::Passed)
}

/// INVTLB of the guest's own is about its own translations, and no exit.
fn own_flush_by_guest() -> Outcome {
    fresh();
    windows();
    for operation in [0, 1, 3, 4, 5, 6] {
        SPACES[0].map(0, WINDOW, PAGE);
        flush!(0x12, 0, 0);
        let before = load_own(1, &SPACES[0])?;
        SPACES[0].map(0, WINDOW + 4096, PAGE);
        // invtlb operation, $zero, $a0.
        let mut world = World::executing(0x0649_8000 | 4 << 10 | operation, MAPPED);
        let exit = world.run();
        ensure!(exit.is_end(), "operation {operation}: {exit:?}");
        let after = load_own(1, &SPACES[0])?;
        ensure!((before, after) == (0xa, 0xb), "operation {operation}: {before:#x}, then {after:#x}");
    }
    Ok(Done::Passed)
}
