//! What a guest has for itself: control registers that do not trap, and what the root puts there.

use guests::arch::csr as number;
use guests::arch::trap::code;
use guests::report::{Done, Outcome, Why, test};
use guests::{csr, ensure};

use super::world::{A0, World, gcsr, set_gcsr};

pub(super) fn tests() {
    test("own-csrs-do-not-trap", own_csrs);
    test("own-csrs-are-not-the-roots", not_the_roots);
    test("configuration", configuration);
    test("number-of-the-core", core_number);
    test("read-only-csrs", read_only);
    test("exchange", exchange);
}

/// Runs csrrd of a CSR in the guest and returns what it reads.
fn read(csr: u32) -> Result<u64, Why> {
    let mut world = World::executing(0x0400_0004 | csr << 10, 0);
    let exit = world.run();
    ensure!(exit.is_end(), "csrrd {csr:#x}: {exit:?}");
    Ok(world.r[A0])
}

/// Runs csrwr of a CSR in the guest and returns what it had.
fn write(csr: u32, value: u64) -> Result<u64, Why> {
    let mut world = World::executing(0x0400_0024 | csr << 10, value);
    let exit = world.run();
    ensure!(exit.is_end(), "csrwr {csr:#x}: {exit:?}");
    Ok(world.r[A0])
}

/// Every CSR that a hypervisor moves between guests is there, to both.
macro_rules! each_own {
    ($name:ident: $($number:literal $bits:literal),* $(,)?) => {
        fn $name() -> Outcome {
            $(
                let old = set_gcsr!($number, 0x1234_5678_9abc_def0 & $bits);
                let seen = gcsr!($number) & $bits;
                ensure!(seen == 0x1234_5678_9abc_def0 & $bits, "CSR {:#x} keeps {seen:#x} for the root", $number);
                set_gcsr!($number, old);
                // The guest's own writes are seen by the root, and the guest reads what the root wrote.
                let value = 0x0fed_cba9_8765_4321 & $bits;
                write($number, value)?;
                let seen = gcsr!($number) & $bits;
                ensure!(seen == value, "CSR {:#x} keeps {seen:#x} for the guest, expected {value:#x}", $number);
            )*
            Ok(Done::Passed)
        }
    };
}

each_own! {
    own_csrs:
    0x1 0x7, 0x2 0xf, 0x4 0x1bff, 0x6 0xffff_ffff_ffff_fffc, 0x7 0xffff_ffff_ffff_ffff, 0xc 0xffff_ffff_f000,
    0x11 0xffff_ffff_e000, 0x12 0xffff_ffff_f07f, 0x13 0xffff_ffff_f07f, 0x18 0x3ff, 0x19 0xffff_ffff_f000,
    0x1a 0xffff_ffff_f000, 0x1c 0x3fff_ffff, 0x1d 0xff_ffff, 0x30 0xffff_ffff_ffff_ffff, 0x31 0xffff_ffff_ffff_ffff,
    0x32 0xffff_ffff_ffff_ffff, 0x33 0xffff_ffff_ffff_ffff, 0x34 0xffff_ffff_ffff_ffff, 0x35 0xffff_ffff_ffff_ffff,
    0x36 0xffff_ffff_ffff_ffff, 0x37 0xffff_ffff_ffff_ffff, 0x40 0xffff_ffff, 0x88 0xffff_ffff_f000,
    0x89 0xffff_ffff_ffff_ffff, 0x8b 0xffff_ffff_ffff_ffff, 0x8c 0xffff_ffff_f07f, 0x8d 0xffff_ffff_f07f,
    0x8e 0xffff_ffff_e000, 0x8f 0x7,
}

/// The guest writes its registers; the root's, which Rust is using, stay.
fn not_the_roots() -> Outcome {
    macro_rules! same {
        ($($number:expr),*) => {$(
            let before = csr!($number);
            write($number, !before & 0xffff_f000)?;
            ensure!(csr!($number) == before, "CSR {:#x} of the root changed to {:#x}", $number, csr!($number));
        )*};
    }
    same!(number::PGDL, number::EENTRY, number::TLBRENTRY, number::SAVE0 + 3, number::TID);
    ensure!(csr!(number::EUEN) == 0, "EUEN of the root is {:#x}", csr!(number::EUEN));
    write(number::EUEN, 0xf)?;
    ensure!(csr!(number::EUEN) == 0, "EUEN of the root is {:#x}", csr!(number::EUEN));
    Ok(Done::Passed)
}

/// PRCFG1 to PRCFG3 and ASIDBITS: a guest has to find something there.
fn configuration() -> Outcome {
    let found = [read(number::PRCFG1)?, read(number::PRCFG2)?, read(number::PRCFG3)?];
    let roots = [csr!(number::PRCFG1), csr!(number::PRCFG2), csr!(number::PRCFG3)];
    ensure!(found[0] & 0xf >= 6 && found[0] >> 4 & 0xff >= 40, "PRCFG1 is {:#x}", found[0]);
    ensure!(found[1] == roots[1], "PRCFG2 is {:#x}, the root's is {:#x}", found[1], roots[1]);
    ensure!(found[2] & 0xf != 0, "PRCFG3 is {:#x}", found[2]);
    let bits = read(number::ASID)? >> 16 & 0xff;
    ensure!(bits >= 8, "ASID.ASIDBITS is {bits}");
    // What a hypervisor writes when it loads a guest must not hurt.
    set_gcsr!(number::PRCFG1, roots[0]);
    set_gcsr!(number::PRCFG2, roots[1]);
    set_gcsr!(number::PRCFG3, roots[2]);
    set_gcsr!(number::ASID, bits << 16);
    ensure!(
        read(number::PRCFG1)? & 0xff0 == roots[0] & 0xff0,
        "PRCFG1 is {:#x} after it",
        read(number::PRCFG1)?
    );
    Ok(Done::Passed)
}

fn core_number() -> Outcome {
    for core in [0, 1, 5, 63] {
        set_gcsr!(number::CPUID, core);
        let found = read(number::CPUID)?;
        ensure!(found & 0x1ff == core, "the guest is core {found:#x}, expected {core:#x}");
    }
    ensure!(csr!(number::CPUID) & 0x1ff == 0, "the root is core {:#x}", csr!(number::CPUID));
    set_gcsr!(number::CPUID, 0);
    Ok(Done::Passed)
}

/// What a guest cannot write it may try to: nothing changes, or it is undefined to it.
fn read_only() -> Outcome {
    for csr in [number::CPUID, number::PRCFG1, number::PRCFG2, number::BADI] {
        let mut world = World::executing(0x0400_0024 | csr << 10, 0x1ff);
        let exit = world.run();
        let ecode = gcsr!(number::ESTAT) >> 16 & 0x3f;
        ensure!(exit.is_end() || exit.is_trapped() && ecode == code::INE, "csrwr {csr:#x}: {exit:?}");
    }
    ensure!(gcsr!(number::CPUID) == 0, "the guest's CPUID is {:#x}", gcsr!(number::CPUID));
    Ok(Done::Passed)
}

fn exchange() -> Outcome {
    set_gcsr!(number::SAVE0, 0xffff_0000);
    let mut value = 0x1234_5678_u64;
    // SAFETY: changes a register of the guest's. The mask is in a register that is neither r0 nor r1.
    unsafe {
        core::arch::asm!("gcsrxchg {0}, $t0, 0x30", inout(reg) value, in("$t0") 0x00ff_ff00_u64, options(nostack));
    }
    let now = gcsr!(number::SAVE0);
    ensure!(value == 0xffff_0000 && now == 0xff34_5600, "GCSRXCHG: {value:#x}, then {now:#x}");
    Ok(Done::Passed)
}
