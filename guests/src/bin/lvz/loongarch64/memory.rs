//! Stage 2: guest-physical addresses are looked up in the root's tables, filled by the root's refill entry.

use core::cell::UnsafeCell;

use guests::arch::csr as number;
use guests::arch::paging::{CACHED, DIRTY, GLOBAL, NO_FETCH, NO_READ, PAGE, Space, USER, VALID};
use guests::arch::trap::code;
use guests::report::{Done, Outcome, test};
use guests::{csr, ensure};

use super::code as guest_code;
use super::stage2::{self, ALL, GIANT, Table, WINDOW, large, map};
use super::world::{A0, Exit, World, flush, gcsr, physical, set_gcsr, set_tag, start_of};

/// The tag these tests use.
const TAG: u64 = 9;

/// Pages with known contents.
#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u64; 512]; 4]>);

// SAFETY: only one vCPU is used, and what a guest writes is read volatile.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(UnsafeCell::new([[0; 512]; 4]));

/// Returns the physical address of a page, whose first word is `value` now.
pub(super) fn page(number: usize, value: u64) -> u64 {
    let page = PAGES.0.get().cast::<u64>().wrapping_add(number % 4 * 512);
    // SAFETY: a word of PAGES, which is only accessed so.
    unsafe { page.write_volatile(value) };
    physical(page)
}

/// Returns the first word of a page.
fn word(number: usize) -> u64 {
    let page = PAGES.0.get().cast::<u64>().wrapping_add(number % 4 * 512);
    // SAFETY: as in `page`.
    unsafe { page.read_volatile() }
}

pub(super) fn tests() {
    test("load-where-nothing-is", || faults(guest_code::load, code::PIL, 0));
    test("store-where-nothing-is", || faults(guest_code::store, code::PIS, 0));
    test("fetch-where-nothing-is", || faults(guest_code::jump, code::PIF, 0));
    test("store-to-a-clean-page", || faults(guest_code::store, code::PME, VALID | USER | CACHED));
    test("fetch-of-no-code", || faults(guest_code::jump, code::PNX, ALL | NO_FETCH));
    test("load-of-no-data", || faults(guest_code::load, code::PNR, ALL | NO_READ));
    test("address-beyond-everything", beyond);
    test("page-mapped-after-a-fault", mapped_later);
    test("large-pages", large_pages);
    test("giant-page", giant_page);
    test("pages-of-one-pair", pair);
    test("in-user-mode", user_mode);
    test("through-the-guests-tables", own_tables);
    test("guests-tables-where-nothing-is", own_tables_missing);
    test("refill-is-no-exit", refill_is_no_exit);
}

/// Starts a test on tables in which only the image is, with nothing in the TLB.
pub(super) fn fresh() {
    stage2::reset();
    set_tag(TAG);
    flush!(0x12, 0, 0);
}

/// What is wrong with the address comes to the root: BADV is guest-physical, BADI the instruction, ERA its address.
fn faults(run: extern "C" fn(), expected: u64, entry: u64) -> Outcome {
    for at in [WINDOW, WINDOW + 0x1008, WINDOW + 0x40_0000, 0xc000_0000, 0x40_0000_0000, 0x3fff_ffff_f000] {
        fresh();
        if entry != 0 {
            if at >> 13 != WINDOW >> 13 {
                continue;
            }
            map(at >> 12 & 0x1ff, page(0, 0), entry);
        }
        let mut world = World::at(run, 0, at);
        let exit = world.run();
        ensure!(exit.code == expected && exit.subcode == 0, "{at:#x}: {exit:?}");
        ensure!(exit.badv == at, "{at:#x}: {exit:?}");
        let is_fetch = run as usize == guest_code::jump as extern "C" fn() as usize;
        let pc = if is_fetch { at } else { start_of(run) };
        ensure!(exit.pc == pc, "{at:#x}: {exit:?}, expected at {pc:#x}");
        // A fetch that fails has no word.
        let word = [0x28c0_00a4, 0x29c0_00a4]
            [usize::from(run as usize == guest_code::store as extern "C" fn() as usize)];
        ensure!(is_fetch || exit.badi == word, "{at:#x}: {exit:?}, expected BADI {word:#x}");
        let estat = gcsr!(number::ESTAT);
        ensure!(estat >> 16 == 0, "the guest's ESTAT is {estat:#x}");
    }
    Ok(Done::Passed)
}

/// A guest-physical address above what the root's tables take is not looked up at all, or nothing is there.
fn beyond() -> Outcome {
    fresh();
    for at in [0x7fff_ffff_f000, 0x8000_0000_0000] {
        let exit = World::at(guest_code::load, 0, at).run();
        let fine = matches!(exit.code, code::PIL | code::ADE);
        ensure!(fine && exit.badv & 0xffff_ffff_ffff == at, "{at:#x}: {exit:?}");
    }
    Ok(Done::Passed)
}

/// The page is mapped and the address forgotten: the guest does it again, and it works.
fn mapped_later() -> Outcome {
    fresh();
    let mut world = World::at(guest_code::load, 0, WINDOW + 0x3000);
    let exit = world.run();
    ensure!(exit.code == code::PIL, "{exit:?}");
    map(3, page(1, 0xfeed), ALL);
    flush!(0x16, TAG, WINDOW + 0x2000);
    let exit = world.run();
    ensure!(exit.is_end() && world.r[A0] == 0xfeed, "{exit:?}, a0 {:#x}", world.r[A0]);
    // First clean, then not.
    map(3, page(1, 0xfeed), VALID | USER | CACHED);
    flush!(0x16, TAG, WINDOW + 0x2000);
    let mut world = World::at(guest_code::store, 0xbeef, WINDOW + 0x3000);
    let exit = world.run();
    ensure!(exit.code == code::PME && word(1) == 0xfeed, "{exit:?}, the word is {:#x}", word(1));
    map(3, page(1, 0xfeed), ALL);
    flush!(0x16, TAG, WINDOW + 0x2000);
    let exit = world.run();
    ensure!(exit.is_end() && word(1) == 0xbeef, "{exit:?}, the word is {:#x}", word(1));
    Ok(Done::Passed)
}

fn load_from(at: u64) -> (Exit, u64) {
    let mut world = World::at(guest_code::load, 0, at);
    let exit = world.run();
    (exit, world.r[A0])
}

/// 2 MiB by one entry: both halves of it, and beyond it nothing.
fn large_pages() -> Outcome {
    fresh();
    let base = page(0, 0x2222) & !0x1f_ffff;
    let offset = page(0, 0x2222) - base;
    Table::Large.set(4, large(base));
    let (exit, value) = load_from(WINDOW + 0x80_0000 + offset);
    ensure!(exit.is_end() && value == 0x2222, "{exit:?}, a0 {value:#x}");
    // The other half has the same memory's other half.
    for (at, expected) in [(WINDOW + 0x80_0000, 0), (WINDOW + 0x80_0000 + 0x10_0000, 0)] {
        let (exit, _) = load_from(at);
        ensure!(exit.is_end(), "{at:#x}: {exit:?} {expected}");
    }
    for at in [WINDOW + 0x7f_f000, WINDOW + 0xa0_0000] {
        let (exit, _) = load_from(at);
        ensure!(exit.code == code::PIL && exit.badv == at, "{at:#x}: {exit:?}");
    }
    Ok(Done::Passed)
}

/// 1 GiB by one entry.
fn giant_page() -> Outcome {
    fresh();
    Table::Giants.set(GIANT >> 30, large(0));
    let at = page(2, 0x3333);
    let (exit, value) = load_from(GIANT + at);
    ensure!(exit.is_end() && value == 0x3333, "{exit:?}, a0 {value:#x}");
    let (exit, _) = load_from(GIANT + (1 << 30));
    ensure!(exit.code == code::PIL, "{exit:?}");
    Ok(Done::Passed)
}

/// The TLB keeps two pages together; they are two all the same.
fn pair() -> Outcome {
    fresh();
    map(10, page(0, 10), ALL);
    map(11, page(1, 11), ALL);
    map(12, page(2, 12), ALL);
    for (slot, expected) in [(10, 10), (11, 11), (12, 12), (10, 10)] {
        let (exit, value) = load_from(WINDOW + slot * 4096);
        ensure!(exit.is_end() && value == expected, "page {slot}: {exit:?}, a0 {value:#x}");
    }
    let (exit, _) = load_from(WINDOW + 13 * 4096);
    ensure!(exit.code == code::PIL && exit.badv == WINDOW + 13 * 4096, "{exit:?}");
    Ok(Done::Passed)
}

/// The guest's privilege is nothing to stage 2.
fn user_mode() -> Outcome {
    fresh();
    map(5, page(3, 0x5555), ALL);
    for plv in 0..4 {
        // ld.d $a0, $a0, 0.
        let mut world = World::executing_at(plv, 0x28c0_0084, WINDOW + 0x5000);
        let exit = world.run();
        ensure!(
            World::has_ended(exit) && world.r[A0] == 0x5555,
            "PLV {plv}: {exit:?}, a0 {:#x}",
            world.r[A0]
        );
    }
    Ok(Done::Passed)
}

/// The guest's own tables.
static SPACE: Space = Space::new();
/// An address that only these have.
const MAPPED: u64 = 0x10_0000_0000;

/// Puts the guest into mapped mode: its code in a window, everything else through its own tables.
fn mapped(at: u64) -> World {
    let mut world = World::at(guest_code::load_mapped, 0, at);
    SPACE.prepare();
    set_gcsr!(number::CRMD, 0xb0);
    set_gcsr!(number::DMW0, 0x9000_0000_0000_0011);
    set_gcsr!(number::PWCL, csr!(number::PWCL));
    set_gcsr!(number::PWCH, csr!(number::PWCH));
    set_gcsr!(number::PGDL, SPACE.table(0));
    set_gcsr!(number::PGDH, SPACE.table(0));
    set_gcsr!(number::EENTRY, 0x9000_0000_0000_0000 | gcsr!(number::EENTRY));
    world.pc |= 0x9000_0000_0000_0000;
    world
}

/// Two levels of tables: the guest's miss is its own, what it looks up there is guest-physical.
fn own_tables() -> Outcome {
    fresh();
    map(20, page(0, 0x2020), ALL);
    SPACE.map(7, WINDOW + 20 * 4096, PAGE);
    SPACE.map(8, WINDOW + 21 * 4096, PAGE);
    SPACE.map(9, 0, 0);
    let mut world = mapped(MAPPED + 7 * 4096);
    let exit = world.run();
    ensure!(exit.is_end() && world.r[A0] == 0x2020, "{exit:?}, a0 {:#x}", world.r[A0]);
    // The guest maps it, the root does not.
    let exit = mapped(MAPPED + 8 * 4096 + 8).run();
    ensure!(exit.code == code::PIL && exit.badv == WINDOW + 21 * 4096 + 8, "{exit:?}");
    // The guest does not map it.
    let exit = mapped(MAPPED + 9 * 4096).run();
    let (estat, badv) = (gcsr!(number::ESTAT), gcsr!(number::BADV));
    ensure!(exit.is_trapped(), "{exit:?}");
    ensure!(
        estat >> 16 & 0x3f == code::PIL && badv == MAPPED + 9 * 4096,
        "the guest's ESTAT {estat:#x}, BADV {badv:#x}"
    );
    Ok(Done::Passed)
}

/// LDDIR and LDPTE of the guest's refill handler read memory as any load does.
fn own_tables_missing() -> Outcome {
    fresh();
    let far = WINDOW + 0x6000;
    SPACE.prepare();
    let mut world = mapped(MAPPED + 7 * 4096);
    set_gcsr!(number::PGDL, far);
    let exit = world.run();
    ensure!(exit.code == code::PIL && exit.badv & !0xfff == far, "{exit:?}, expected in {far:#x}");
    ensure!(exit.badi >> 18 == 0x190, "BADI {:#x}, expected LDDIR", exit.badi);
    ensure!(gcsr!(number::TLBRERA) & 1 == 1, "the guest's TLBRERA is {:#x}", gcsr!(number::TLBRERA));
    // With the table there, the refill goes on where it was.
    map(20, page(0, 0x7070), ALL);
    SPACE.map(7, WINDOW + 20 * 4096, PAGE | GLOBAL);
    map(6, SPACE.table(0), ALL & !DIRTY);
    flush!(0x16, TAG, far);
    let exit = world.run();
    ensure!(exit.is_end() && world.r[A0] == 0x7070, "{exit:?}, a0 {:#x}", world.r[A0]);
    Ok(Done::Passed)
}

/// A page that is in the tables and not in the TLB comes without anybody being asked: the guest is not told, and the root's
/// refill entry alone runs.
fn refill_is_no_exit() -> Outcome {
    fresh();
    map(30, page(0, 0x3030), ALL);
    for _ in 0..20 {
        flush!(0x12, 0, 0);
        let (exit, value) = load_from(WINDOW + 30 * 4096);
        ensure!(exit.is_end() && value == 0x3030, "{exit:?}, a0 {value:#x}");
    }
    Ok(Done::Passed)
}
