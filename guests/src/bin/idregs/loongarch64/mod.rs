//! The configuration words of LoongArch64, and the features they announce.

mod own;

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::arch::cpu::cpucfg;
use guests::report::{Done, Outcome, test};
use guests::{args, cpu, csr, ensure, fp, println, smp, trap};

/// A field: word, lowest bit, bits, name (Vol.1, table 3).
type Field = (u32, u32, u32, &'static str);

/// Fields that must be 0, because what they announce is not given to guests.
const HIDDEN: [Field; 9] = [
    (1, 26, 1, "MSGINT"),
    (2, 10, 1, "LVZ"),
    (2, 11, 3, "LVZ_VER"),
    (2, 24, 1, "HPTW"),
    (6, 0, 1, "PMP"),
    (6, 1, 31, "PMVER, PMNUM, PMBITS, UPM"),
    (0x4000_0000, 0, 32, "a hypervisor's signature"),
    (0x4000_0004, 0, 32, "a hypervisor's features"),
    (7, 0, 32, "word 7"),
];

/// How many words name something.
const WORDS: u32 = 0x15;

pub(crate) fn main() {
    fp::enable(fp::present());
    for word in 0..WORDS {
        println!("id CPUCFG {word:#x} {:#010x}", cpucfg(word));
    }
    test("hidden-fields-are-zero", || unless_bare(hidden));
    test("architecture", architecture);
    test("same-on-all-vcpus", same_on_all);
    test("unknown-words-are-zero", unknown_words);
    test("units-come-with-what-they-need", units);
    test("crc32", crc32);
    test("atomics", atomics);
    test("unaligned-memory", unaligned_memory);
    test("scratch-registers", scratch_registers);
    test("own-registers-survive", own::registers_survive);
    test("own-translations-survive", own::translations_survive);
    test("own-time-goes-on", own::time_goes_on);
}

fn unless_bare(body: fn() -> Outcome) -> Outcome {
    if args::flag("bare") { Ok(Done::Skipped("no hypervisor hides anything")) } else { body() }
}

fn field((word, low, bits, _): Field) -> u32 {
    cpucfg(word) >> low & (u32::MAX >> (32 - bits))
}

fn hidden() -> Outcome {
    for one in HIDDEN {
        ensure!(field(one) == 0, "word {:#x}: {} is {:#x}", one.0, one.3, field(one));
    }
    Ok(Done::Passed)
}

/// A 64-bit CPU with an MMU, IOCSRs and a counter: what kernels take for granted.
fn architecture() -> Outcome {
    let word = cpucfg(1);
    ensure!(word & 0b11 == 2, "ARCH is {}, expected LA64", word & 0b11);
    ensure!(word >> 2 & 0b11 == 0b11, "PGMMU and IOCSR are {:#b}", word >> 2 & 0b11);
    let (physical, virt) = ((word >> 4 & 0xff) + 1, (word >> 12 & 0xff) + 1);
    ensure!((36..=48).contains(&physical) && (40..=48).contains(&virt), "PALEN {physical}, VALEN {virt}");
    ensure!(cpucfg(2) >> 14 & 1 == 1, "LLFTP is 0: no counter");
    ensure!(cpucfg(4) > 0 && cpucfg(5) >> 16 > 0, "counter of {} Hz, ratio {:#x}", cpucfg(4), cpucfg(5));
    let config = csr!(guests::arch::csr::PRCFG1);
    ensure!(config & 0xf >= 6, "PRCFG1.SAVENum is {}", config & 0xf);
    ensure!(config >> 4 & 0xff >= 40, "PRCFG1.TimerBits is {}", config >> 4 & 0xff);
    let sizes = csr!(guests::arch::csr::PRCFG2);
    ensure!(sizes & (1 << 12 | 1 << 14 | 1 << 21) == 1 << 12 | 1 << 14 | 1 << 21, "PRCFG2 is {sizes:#x}");
    Ok(Done::Passed)
}

/// A hash of everything the CPU says of itself is the same on every vCPU.
fn same_on_all() -> Outcome {
    static HASH: [AtomicU64; cpu::MAX_CPUS] = [const { AtomicU64::new(0) }; cpu::MAX_CPUS];
    smp::on_all(|me| {
        let words = (0..WORDS).map(|word| u64::from(cpucfg(word)));
        let registers = [csr!(0x21), csr!(0x22), csr!(0x23)];
        let hash = words.chain(registers).fold(1, |hash, word| guests::rng::mix(hash ^ word));
        HASH[me].store(hash, Relaxed);
    });
    let mine = HASH[0].load(Relaxed);
    for (cpu, hash) in HASH.iter().enumerate().take(smp::count()) {
        ensure!(hash.load(Relaxed) == mine, "vCPU {cpu} is another CPU than vCPU 0");
    }
    Ok(Done::Passed)
}

fn unknown_words() -> Outcome {
    for word in [0x15, 0x1f, 0x20, 0x100, 0x7fff_ffff, 0x4000_0100, 0xffff_ffff] {
        ensure!(cpucfg(word) == 0, "word {word:#x} is {:#x}", cpucfg(word));
    }
    Ok(Done::Passed)
}

/// Vectors come with the FPU, wide ones with narrow ones, binary translation for all three architectures at once.
fn units() -> Outcome {
    let word = cpucfg(2);
    let bit = |at: u32| word >> at & 1;
    ensure!(bit(6) <= bit(0) && bit(7) <= bit(6), "FP {}, LSX {}, LASX {}", bit(0), bit(6), bit(7));
    ensure!(bit(18) == bit(19) && bit(19) == bit(20), "LBT of x86, Arm, MIPS: {:#b}", word >> 18 & 0b111);
    Ok(Done::Passed)
}

fn crc32() -> Outcome {
    if cpucfg(1) >> 25 & 1 == 0 {
        return Ok(Done::Skipped("no CRC32"));
    }
    let value: u64;
    // The check value of CRC-32: "123456789" gives 0xcbf43926.
    let (text, last) = (u64::from_le_bytes(*b"12345678"), u64::from(b'9'));
    // SAFETY: changes general registers only.
    unsafe {
        asm!("crc.w.d.w {0}, {1}, {0}", "crc.w.b.w {0}, {2}, {0}", inout(reg) -1_i64 as u64 => value, in(reg) text,
            in(reg) last, options(nostack, nomem));
    }
    ensure!(!value as u32 == 0xcbf4_3926, "CRC-32 is {:#x}", !value as u32);
    Ok(Done::Passed)
}

/// LAM, and those of its companions that are shown.
fn atomics() -> Outcome {
    let word = cpucfg(2);
    if word >> 22 & 1 == 0 {
        return Ok(Done::Skipped("no LAM"));
    }
    let cell = AtomicU64::new(40);
    let old: u64;
    // SAFETY: changes `cell` only, in one access.
    unsafe {
        asm!("amadd_db.d {0}, {1}, {2}", out(reg) old, in(reg) 2_u64, in(reg) cell.as_ptr(), options(nostack))
    };
    ensure!(old == 40 && cell.load(Relaxed) == 42, "AMADD: {old}, then {}", cell.load(Relaxed));
    if word >> 28 & 1 == 1 {
        let mut seen = 42_u64;
        // SAFETY: as above. AMCAS_DB.D rd, rk, rj.
        unsafe {
            asm!("amcas_db.d {0}, {1}, {2}", inout(reg) seen, in(reg) 7_u64, in(reg) cell.as_ptr(), options(nostack));
        }
        ensure!(seen == 42 && cell.load(Relaxed) == 7, "AMCAS: {seen}, then {}", cell.load(Relaxed));
    }
    Ok(Done::Passed)
}

/// Memory need not be aligned where UAL is shown, across pages, too.
fn unaligned_memory() -> Outcome {
    #[repr(C, align(4096))]
    struct Pages([u8; 8192]);
    if cpucfg(1) >> 20 & 1 == 0 {
        return Ok(Done::Skipped("no UAL"));
    }
    let mut pages = Pages([0; 8192]);
    pages.0.iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
    for at in [1, 6, 4093, 4095] {
        let mut value = 0_u64;
        let from = pages.0.as_ptr().wrapping_add(at);
        let trap = trap::catch(|| {
            // SAFETY: eight bytes inside the two pages.
            unsafe { asm!("ld.d {0}, {1}, 0", out(reg) value, in(reg) from, options(nostack, readonly)) };
        });
        let expected = u64::from_le_bytes(core::array::from_fn(|n| (at + n) as u8));
        ensure!(trap.is_none(), "offset {at}: {trap:x?}");
        ensure!(value == expected, "offset {at}: {value:#x}, expected {expected:#x}");
    }
    Ok(Done::Passed)
}

/// As many SAVE registers as PRCFG1 says, each with a value of its own.
fn scratch_registers() -> Outcome {
    let count = csr!(guests::arch::csr::PRCFG1) & 0xf;
    // 0 is the exception entry's, 3 the vCPU's index.
    macro_rules! keep {
        ($($number:literal)*) => {$(
            if $number < count {
                let before = guests::set_csr!(0x30 + $number, 0x1111_1111 * $number);
                let found = guests::set_csr!(0x30 + $number, before);
                ensure!(found == 0x1111_1111 * $number, "SAVE{} keeps {found:#x}", $number);
            }
        )*};
    }
    keep!(1 2 4 5 6 7);
    Ok(Done::Passed)
}
