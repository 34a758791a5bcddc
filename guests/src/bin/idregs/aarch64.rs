//! The ID registers of AArch64, and the features they announce.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guests::arch::gic;
use guests::report::{Done, Outcome, Why, test};
use guests::trap::{Trap, catch};
use guests::{args, cpu, ensure, fp, mrs, msr, println, smp, timer, why};

/// A register: its name and how to read it.
type Register = (&'static str, fn() -> u64);

macro_rules! registers {
    ($($name:literal $encoding:literal),* $(,)?) => { [$(($name, || mrs!($encoding))),*] };
}

const ALL: [Register; 24] = registers!(
    "MIDR_EL1" "midr_el1", "MPIDR_EL1" "mpidr_el1", "REVIDR_EL1" "revidr_el1", "CTR_EL0" "ctr_el0",
    "DCZID_EL0" "dczid_el0", "CNTFRQ_EL0" "cntfrq_el0", "CLIDR_EL1" "clidr_el1",
    "ID_AA64PFR0_EL1" "S3_0_C0_C4_0", "ID_AA64PFR1_EL1" "S3_0_C0_C4_1", "ID_AA64PFR2_EL1" "S3_0_C0_C4_2",
    "ID_AA64ZFR0_EL1" "S3_0_C0_C4_4", "ID_AA64SMFR0_EL1" "S3_0_C0_C4_5", "ID_AA64FPFR0_EL1" "S3_0_C0_C4_7",
    "ID_AA64DFR0_EL1" "S3_0_C0_C5_0", "ID_AA64DFR1_EL1" "S3_0_C0_C5_1", "ID_AA64ISAR0_EL1" "S3_0_C0_C6_0",
    "ID_AA64ISAR1_EL1" "S3_0_C0_C6_1", "ID_AA64ISAR2_EL1" "S3_0_C0_C6_2", "ID_AA64ISAR3_EL1" "S3_0_C0_C6_3",
    "ID_AA64MMFR0_EL1" "S3_0_C0_C7_0", "ID_AA64MMFR1_EL1" "S3_0_C0_C7_1", "ID_AA64MMFR2_EL1" "S3_0_C0_C7_2",
    "ID_AA64MMFR3_EL1" "S3_0_C0_C7_3", "ID_AA64MMFR4_EL1" "S3_0_C0_C7_4",
);

/// The 32-bit ID registers and the slots of the ID space that name nothing yet.
const ZERO: [Register; 34] = registers!(
    "ID_PFR0_EL1" "S3_0_C0_C1_0", "ID_PFR1_EL1" "S3_0_C0_C1_1", "ID_DFR0_EL1" "S3_0_C0_C1_2",
    "ID_AFR0_EL1" "S3_0_C0_C1_3", "ID_MMFR0_EL1" "S3_0_C0_C1_4", "ID_MMFR1_EL1" "S3_0_C0_C1_5",
    "ID_MMFR2_EL1" "S3_0_C0_C1_6", "ID_MMFR3_EL1" "S3_0_C0_C1_7", "ID_ISAR0_EL1" "S3_0_C0_C2_0",
    "ID_ISAR1_EL1" "S3_0_C0_C2_1", "ID_ISAR2_EL1" "S3_0_C0_C2_2", "ID_ISAR3_EL1" "S3_0_C0_C2_3",
    "ID_ISAR4_EL1" "S3_0_C0_C2_4", "ID_ISAR5_EL1" "S3_0_C0_C2_5", "ID_MMFR4_EL1" "S3_0_C0_C2_6",
    "ID_ISAR6_EL1" "S3_0_C0_C2_7", "MVFR0_EL1" "S3_0_C0_C3_0", "MVFR1_EL1" "S3_0_C0_C3_1",
    "MVFR2_EL1" "S3_0_C0_C3_2", "S3_0_C0_C3_3" "S3_0_C0_C3_3", "ID_PFR2_EL1" "S3_0_C0_C3_4",
    "ID_DFR1_EL1" "S3_0_C0_C3_5", "ID_MMFR5_EL1" "S3_0_C0_C3_6", "S3_0_C0_C3_7" "S3_0_C0_C3_7",
    "S3_0_C0_C4_3" "S3_0_C0_C4_3", "S3_0_C0_C4_6" "S3_0_C0_C4_6", "S3_0_C0_C5_3" "S3_0_C0_C5_3",
    "ID_AA64AFR0_EL1" "S3_0_C0_C5_4", "ID_AA64AFR1_EL1" "S3_0_C0_C5_5", "S3_0_C0_C5_6" "S3_0_C0_C5_6",
    "S3_0_C0_C6_4" "S3_0_C0_C6_4", "S3_0_C0_C6_7" "S3_0_C0_C6_7", "S3_0_C0_C7_5" "S3_0_C0_C7_5",
    "S3_0_C0_C7_7" "S3_0_C0_C7_7",
);

/// A field of four bits that says whether something is there: its name, its register, its lowest bit.
type Field = (&'static str, fn() -> u64, u32);

/// Fields that must be 0, because what they announce is not given to guests.
const HIDDEN: [Field; 26] = [
    ("ID_AA64PFR0_EL1.SVE", || mrs!("S3_0_C0_C4_0"), 32),
    ("ID_AA64PFR0_EL1.EL2", || mrs!("S3_0_C0_C4_0"), 8),
    ("ID_AA64PFR0_EL1.RAS", || mrs!("S3_0_C0_C4_0"), 28),
    ("ID_AA64PFR0_EL1.SEL2", || mrs!("S3_0_C0_C4_0"), 36),
    ("ID_AA64PFR0_EL1.MPAM", || mrs!("S3_0_C0_C4_0"), 40),
    ("ID_AA64PFR0_EL1.AMU", || mrs!("S3_0_C0_C4_0"), 44),
    ("ID_AA64PFR0_EL1.RME", || mrs!("S3_0_C0_C4_0"), 52),
    ("ID_AA64PFR1_EL1.MTE", || mrs!("S3_0_C0_C4_1"), 8),
    ("ID_AA64PFR1_EL1.SME", || mrs!("S3_0_C0_C4_1"), 24),
    ("ID_AA64PFR1_EL1.NMI", || mrs!("S3_0_C0_C4_1"), 36),
    ("ID_AA64PFR1_EL1.GCS", || mrs!("S3_0_C0_C4_1"), 44),
    ("ID_AA64PFR2_EL1.FPMR", || mrs!("S3_0_C0_C4_2"), 32),
    ("ID_AA64DFR0_EL1.PMUVer", || mrs!("S3_0_C0_C5_0"), 8),
    ("ID_AA64DFR0_EL1.TraceVer", || mrs!("S3_0_C0_C5_0"), 4),
    ("ID_AA64DFR0_EL1.PMSVer", || mrs!("S3_0_C0_C5_0"), 32),
    ("ID_AA64DFR0_EL1.TraceFilt", || mrs!("S3_0_C0_C5_0"), 40),
    ("ID_AA64DFR0_EL1.TraceBuffer", || mrs!("S3_0_C0_C5_0"), 44),
    ("ID_AA64DFR0_EL1.BRBE", || mrs!("S3_0_C0_C5_0"), 52),
    ("ID_AA64ISAR1_EL1.LS64", || mrs!("S3_0_C0_C6_1"), 60),
    ("ID_AA64MMFR0_EL1.FGT", || mrs!("S3_0_C0_C7_0"), 56),
    ("ID_AA64MMFR1_EL1.VMIDBits", || mrs!("S3_0_C0_C7_1"), 4),
    ("ID_AA64MMFR1_EL1.VH", || mrs!("S3_0_C0_C7_1"), 8),
    ("ID_AA64MMFR1_EL1.XNX", || mrs!("S3_0_C0_C7_1"), 28),
    ("ID_AA64MMFR1_EL1.HCX", || mrs!("S3_0_C0_C7_1"), 40),
    ("ID_AA64MMFR2_EL1.NV", || mrs!("S3_0_C0_C7_2"), 24),
    ("ID_AA64MMFR2_EL1.FWB", || mrs!("S3_0_C0_C7_2"), 40),
];

fn field(value: u64, bit: u32) -> u64 {
    value >> bit & 0xf
}

pub(crate) fn main() {
    fp::enable(fp::Units::SIMD);
    for (name, read) in ALL {
        println!("id {name} {:#018x}", read());
    }
    test("no-unknown-id-registers", || unless_bare(zero));
    test("hidden-fields-are-zero", || unless_bare(hidden));
    test("no-aarch32", || unless_bare(no_aarch32));
    test("physical-address-size", physical_address_size);
    test("same-on-all-vcpus", same_on_all);
    for feature in FEATURES {
        test(feature.name, || feature.works());
    }
    test("rndr", random_numbers);
    test("mops", memory_copy);
    test("dit", || {
        state_bit(
            field(mrs!("S3_0_C0_C4_0"), 48) >= 1,
            24,
            || mrs!("S3_3_C4_C2_5"),
            |on| msr!("S3_3_C4_C2_5", on),
        )
    });
    test("ssbs", || {
        state_bit(
            field(mrs!("S3_0_C0_C4_1"), 4) >= 2,
            12,
            || mrs!("S3_3_C4_C2_6"),
            |on| msr!("S3_3_C4_C2_6", on),
        )
    });
    test("pan", || {
        state_bit(
            field(mrs!("S3_0_C0_C7_1"), 20) >= 1,
            22,
            || mrs!("S3_0_C4_C2_3"),
            |on| msr!("S3_0_C4_C2_3", on),
        )
    });
    test("uao", || {
        state_bit(
            field(mrs!("S3_0_C0_C7_2"), 4) >= 1,
            23,
            || mrs!("S3_0_C4_C2_4"),
            |on| msr!("S3_0_C4_C2_4", on),
        )
    });
    test("pointer-authentication", pointer_authentication);
    test("pointer-authentication-keys-survive", keys_survive);
    test("translation-registers", translation_registers);
}

fn unless_bare(body: fn() -> Outcome) -> Outcome {
    if args::flag("bare") { Ok(Done::Skipped("no hypervisor hides anything")) } else { body() }
}

fn zero() -> Outcome {
    for (name, read) in ZERO {
        let mut value = 0;
        let trap = catch(|| value = read());
        ensure!(trap.is_none(), "{name}: {trap:x?}");
        ensure!(value == 0, "{name} is {value:#x}");
    }
    Ok(Done::Passed)
}

fn hidden() -> Outcome {
    for (name, read, bit) in HIDDEN {
        let found = field(read(), bit);
        ensure!(found == 0, "{name} is {found}");
    }
    ensure!(mrs!("S3_0_C0_C4_4") == 0, "ID_AA64ZFR0_EL1 is {:#x}", mrs!("S3_0_C0_C4_4"));
    ensure!(mrs!("S3_0_C0_C4_5") == 0, "ID_AA64SMFR0_EL1 is {:#x}", mrs!("S3_0_C0_C4_5"));
    Ok(Done::Passed)
}

fn no_aarch32() -> Outcome {
    let pfr0 = mrs!("S3_0_C0_C4_0");
    ensure!(field(pfr0, 0) == 1, "ID_AA64PFR0_EL1.EL0 is {}, expected 1", field(pfr0, 0));
    ensure!(field(pfr0, 4) == 1, "ID_AA64PFR0_EL1.EL1 is {}, expected 1", field(pfr0, 4));
    Ok(Done::Passed)
}

/// With 4 KiB granules and no LPA2, a guest cannot name more than 48 bits.
fn physical_address_size() -> Outcome {
    let mmfr0 = mrs!("S3_0_C0_C7_0");
    let (range, granule) = (mmfr0 & 0xf, field(mmfr0, 28));
    ensure!(granule != 0xf, "no 4 KiB granule");
    if !args::flag("bare") {
        ensure!(granule == 0 && range <= 5, "PARange {range}, TGran4 {granule}: LPA2 must be hidden");
    }
    Ok(Done::Passed)
}

fn same_on_all() -> Outcome {
    static DIFFERS: AtomicU64 = AtomicU64::new(0);
    static FIRST: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];
    for (slot, (_, read)) in FIRST.iter().zip(ALL) {
        slot.store(read(), Relaxed);
    }
    smp::on_all(|_| {
        for (slot, (name, read)) in FIRST.iter().zip(ALL) {
            if name != "MPIDR_EL1" && slot.load(Relaxed) != read() {
                DIFFERS.fetch_add(1, Relaxed);
            }
        }
    });
    ensure!(DIFFERS.load(Relaxed) == 0, "{} registers differ", DIFFERS.load(Relaxed));
    Ok(Done::Passed)
}

/// An instruction that a field announces.
struct Feature {
    name: &'static str,
    id: fn() -> u64,
    bit: u32,
    least: u64,
    /// Executes it; scratch memory is given.
    run: fn(&mut [u64; 16]),
}

impl Feature {
    fn works(&self) -> Outcome {
        let shown = field((self.id)(), self.bit);
        // 0xf in a signed field is "not there", and these fields have no other value above 8.
        if shown < self.least || shown == 0xf {
            return Ok(Done::Skipped("not shown"));
        }
        let mut memory = [0; 16];
        let trap: Option<Trap> = catch(|| (self.run)(&mut memory));
        ensure!(trap.is_none(), "shown as {shown}, but {trap:x?}");
        Ok(Done::Passed)
    }
}

/// Describes a feature: name, ID register, bit, least value, instructions on x0, x1 (both 0), x2 (memory) and V0-V3.
macro_rules! feature {
    ($name:literal, $id:literal, $bit:literal, $least:literal, $($code:literal),+) => {
        Feature {
            name: $name,
            id: || mrs!($id),
            bit: $bit,
            least: $least,
            run: |memory| {
                // SAFETY: the instructions change x0, x1, x3, flags, V registers and `memory` at most.
                unsafe {
                    asm!($($code),+, inout("x0") 0_u64 => _, inout("x1") 0_u64 => _, in("x2") memory.as_mut_ptr(),
                        out("x3") _, options(nostack))
                }
            },
        }
    };
}

const FEATURES: [Feature; 40] = [
    feature!("aes", "S3_0_C0_C6_0", 4, 1, ".arch_extension aes", "aese v0.16b, v1.16b"),
    feature!("pmull", "S3_0_C0_C6_0", 4, 2, ".arch_extension aes", "pmull v0.1q, v1.1d, v2.1d"),
    feature!("sha1", "S3_0_C0_C6_0", 8, 1, ".arch_extension sha2", "sha1h s0, s1"),
    feature!("sha256", "S3_0_C0_C6_0", 12, 1, ".arch_extension sha2", "sha256h q0, q1, v2.4s"),
    feature!("sha512", "S3_0_C0_C6_0", 12, 2, ".inst 0xce628020"),
    feature!("crc32", "S3_0_C0_C6_0", 16, 1, ".arch_extension crc", "crc32cx w0, w0, x1"),
    feature!("lse", "S3_0_C0_C6_0", 20, 2, ".arch_extension lse", "ldadd x0, x1, [x2]", "casal x0, x1, [x2]"),
    feature!("lse-pair", "S3_0_C0_C6_0", 20, 2, ".arch_extension lse", "caspal x0, x1, x0, x1, [x2]"),
    feature!("rdm", "S3_0_C0_C6_0", 28, 1, ".arch_extension rdm", "sqrdmlah v0.4s, v1.4s, v2.4s"),
    feature!("sha3", "S3_0_C0_C6_0", 32, 1, ".inst 0xce020c20"),
    feature!("sm3", "S3_0_C0_C6_0", 36, 1, ".inst 0xce63c020"),
    feature!("sm4", "S3_0_C0_C6_0", 40, 1, ".inst 0xcec08420"),
    feature!("dot-product", "S3_0_C0_C6_0", 44, 1, ".arch_extension dotprod", "udot v0.4s, v1.16b, v2.16b"),
    feature!("fhm", "S3_0_C0_C6_0", 48, 1, ".arch_extension fp16fml", "fmlal v0.2s, v1.2h, v2.2h"),
    feature!("flagm", "S3_0_C0_C6_0", 52, 1, ".inst 0xd500401f"),
    feature!("flagm2", "S3_0_C0_C6_0", 52, 2, ".inst 0xd500405f"),
    feature!("tlbi-outer", "S3_0_C0_C6_0", 56, 1, "sys #0, c8, c1, #0", "dsb sy", "isb"),
    feature!("tlbi-range", "S3_0_C0_C6_0", 56, 2, "sys #0, c8, c6, #1, x0", "dsb sy", "isb"),
    feature!("dpb", "S3_0_C0_C6_1", 0, 1, "sys #3, c7, c12, #1, x2"),
    feature!("dpb2", "S3_0_C0_C6_1", 0, 2, "sys #3, c7, c13, #1, x2"),
    feature!("jscvt", "S3_0_C0_C6_1", 12, 1, ".inst 0x1e7e0000"),
    feature!("fcma", "S3_0_C0_C6_1", 16, 1, ".inst 0x6e82e420"),
    feature!("lrcpc", "S3_0_C0_C6_1", 20, 1, ".inst 0xf8bfc040"),
    feature!("lrcpc2", "S3_0_C0_C6_1", 20, 2, ".inst 0xd9400040"),
    feature!("frintts", "S3_0_C0_C6_1", 32, 1, ".inst 0x1e684000"),
    feature!("sb", "S3_0_C0_C6_1", 36, 1, ".inst 0xd50330ff"),
    feature!("specres", "S3_0_C0_C6_1", 40, 1, "sys #3, c7, c3, #4, x0"),
    feature!("bf16", "S3_0_C0_C6_1", 44, 1, ".arch_extension bf16", "bfmmla v0.4s, v1.8h, v2.8h"),
    feature!("i8mm", "S3_0_C0_C6_1", 52, 1, ".arch_extension i8mm", "smmla v0.4s, v1.16b, v2.16b"),
    feature!("xs", "S3_0_C0_C6_1", 56, 1, ".inst 0xd5033e3f"),
    feature!("wfxt", "S3_0_C0_C6_2", 0, 2, ".inst 0xd5031000", ".inst 0xd5031020"),
    feature!("cssc", "S3_0_C0_C6_2", 52, 1, ".inst 0xdac02000"),
    feature!("half-precision", "S3_0_C0_C4_0", 16, 1, ".arch_extension fp16", "fadd h0, h1, h2"),
    feature!("half-precision-simd", "S3_0_C0_C4_0", 20, 1, ".inst 0x4e421420"),
    feature!("scxtnum", "S3_0_C0_C4_0", 56, 2, "msr S3_0_C13_C0_7, x0", "mrs x0, S3_3_C13_C0_7"),
    feature!("bti", "S3_0_C0_C4_1", 0, 1, ".inst 0xd50324df"),
    feature!(
        "self-synchronised-counter",
        "S3_0_C0_C7_0",
        60,
        1,
        "mrs x0, S3_3_C14_C0_6",
        "mrs x0, S3_3_C14_C0_5"
    ),
    feature!("lse2-unaligned", "S3_0_C0_C7_2", 32, 1, "add x3, x2, #3", "ldar x0, [x3]"),
    feature!("tcr2", "S3_0_C0_C7_3", 0, 1, "mrs x0, S3_0_C2_C0_3", "msr S3_0_C2_C0_3, x0"),
    feature!("sctlr2", "S3_0_C0_C7_3", 4, 1, "mrs x0, S3_0_C1_C0_3", "msr S3_0_C1_C0_3, x0"),
];

/// RNDR yields numbers and says by the flags that it did (FEAT_RNG).
fn random_numbers() -> Outcome {
    if field(mrs!("S3_0_C0_C6_0"), 60) == 0 {
        return Ok(Done::Skipped("not shown"));
    }
    let mut seen = [0_u64; 8];
    for slot in &mut seen {
        let failed: u64;
        // SAFETY: RNDR changes its output and the flags.
        unsafe {
            asm!("mrs {0}, S3_3_C2_C4_0", "cset {1}, eq", out(reg) *slot, out(reg) failed, options(nostack))
        };
        ensure!(failed == 0, "no random number was available");
    }
    let repeated = seen.iter().enumerate().any(|(n, value)| seen[..n].contains(value));
    ensure!(!repeated, "{seen:x?}");
    Ok(Done::Passed)
}

/// CPY and SET copy and fill memory (FEAT_MOPS).
fn memory_copy() -> Outcome {
    if field(mrs!("S3_0_C0_C6_2"), 16) == 0 {
        return Ok(Done::Skipped("not shown"));
    }
    let from: [u8; 1000] = core::array::from_fn(|n| n as u8 ^ 0x5a);
    let mut to = [0_u8; 1000];
    // SAFETY: reads `from` and writes `to`, 1000 bytes each; the registers are outputs.
    let trap = catch(|| unsafe {
        asm!(".inst 0x1d010440", ".inst 0x1d410440", ".inst 0x1d810440",
            inout("x0") to.as_mut_ptr() => _, inout("x1") from.as_ptr() => _, inout("x2") 1000_u64 => _,
            options(nostack));
    });
    ensure!(trap.is_none(), "CPYFP, CPYFM, CPYFE: {trap:x?}");
    ensure!(to == from, "what was copied is different");
    // SAFETY: writes 1000 bytes of `to`.
    let trap = catch(|| unsafe {
        asm!(".inst 0x19c30440", ".inst 0x19c34440", ".inst 0x19c38440",
            inout("x0") to.as_mut_ptr() => _, inout("x2") 1000_u64 => _, in("x3") 0xa5_u64, options(nostack));
    });
    ensure!(trap.is_none(), "SETP, SETM, SETE: {trap:x?}");
    ensure!(to == [0xa5; 1000], "what was filled is different");
    Ok(Done::Passed)
}

/// A bit of PSTATE can be set and cleared.
fn state_bit(shown: bool, bit: u32, read: fn() -> u64, write: fn(u64)) -> Outcome {
    if !shown {
        return Ok(Done::Skipped("not shown"));
    }
    let mut seen = [0; 3];
    let trap = catch(|| {
        for (slot, value) in seen.iter_mut().zip([1 << bit, 0, 1 << bit]) {
            write(value);
            *slot = read() >> bit & 1;
        }
        write(0);
    });
    ensure!(trap.is_none(), "{trap:x?}");
    ensure!(seen == [1, 0, 1], "wrote 1 0 1, read {seen:?}");
    Ok(Done::Passed)
}

/// Tells whether any of the algorithms for addresses is shown: APA, API or APA3.
fn has_pointer_authentication() -> bool {
    let (isar1, isar2) = (mrs!("S3_0_C0_C6_1"), mrs!("S3_0_C0_C6_2"));
    field(isar1, 4) != 0 || field(isar1, 8) != 0 || field(isar2, 12) != 0
}

/// Sets all five keys to numbers made of `seed`, and turns the A and B keys on.
fn set_keys(seed: u64) {
    let key = |n: u64| guests::rng::mix(seed << 8 | n);
    msr!("S3_0_C2_C1_0", key(0)); // APIAKeyLo_EL1 and so on, low and high halves
    msr!("S3_0_C2_C1_1", key(1));
    msr!("S3_0_C2_C1_2", key(2));
    msr!("S3_0_C2_C1_3", key(3));
    msr!("S3_0_C2_C2_0", key(4));
    msr!("S3_0_C2_C2_1", key(5));
    msr!("S3_0_C2_C2_2", key(6));
    msr!("S3_0_C2_C2_3", key(7));
    msr!("S3_0_C2_C3_0", key(8));
    msr!("S3_0_C2_C3_1", key(9));
    // SCTLR_EL1.EnIA, EnIB, EnDA, EnDB.
    msr!("sctlr_el1", mrs!("sctlr_el1") | 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13);
    cpu::isb();
}

/// Runs an instruction on x0 with modifier x1 and yields x0.
macro_rules! authenticate {
    ($code:literal, $value:expr, $modifier:expr) => {{
        let result: u64;
        // SAFETY: changes x0 only.
        unsafe { asm!($code, inout("x0") $value => result, in("x1") $modifier, options(nostack)) };
        result
    }};
}

/// An address with any of the five keys: PACIA, PACIB, PACDA, PACDB (x0, x1) and PACGA (x0, x0, x1).
fn signatures(pointer: u64) -> [u64; 5] {
    [
        authenticate!(".inst 0xdac10020", pointer, 0x1234_u64),
        authenticate!(".inst 0xdac10420", pointer, 0x1234_u64),
        authenticate!(".inst 0xdac10820", pointer, 0x1234_u64),
        authenticate!(".inst 0xdac10c20", pointer, 0x1234_u64),
        authenticate!(".inst 0x9ac13000", pointer, 0x1234_u64),
    ]
}

/// What AUTIA, AUTIB, AUTDA and AUTDB make of signed addresses.
fn verified(signed: &[u64; 5]) -> [u64; 4] {
    [
        authenticate!(".inst 0xdac11020", signed[0], 0x1234_u64),
        authenticate!(".inst 0xdac11420", signed[1], 0x1234_u64),
        authenticate!(".inst 0xdac11820", signed[2], 0x1234_u64),
        authenticate!(".inst 0xdac11c20", signed[3], 0x1234_u64),
    ]
}

fn pointer_authentication() -> Outcome {
    if !has_pointer_authentication() {
        return Ok(Done::Skipped("not shown"));
    }
    let pointer = 0x40_1234_5678 & !7;
    let (mut first, mut back, mut second, mut forged) = ([0; 5], [0; 4], [0; 5], [0; 4]);
    let trap = catch(|| {
        set_keys(1);
        first = signatures(pointer);
        back = verified(&first);
        set_keys(2);
        second = signatures(pointer);
    });
    ensure!(trap.is_none(), "shown, but {trap:x?}");
    // A wrong signature makes the address useless, or traps with EC 0x1c (FEAT_FPAC).
    let refused = catch(|| forged = verified(&first));
    ensure!(first[..4].iter().all(|&signed| signed != pointer), "signing changes nothing: {first:x?}");
    ensure!(back == [pointer; 4], "verifying yields {back:x?}, expected {pointer:#x}");
    ensure!(
        first.iter().zip(&second).filter(|(a, b)| a == b).count() <= 1,
        "other keys sign alike: {first:x?}"
    );
    let refused = match refused {
        Some(trap) => trap.class() == 0x1c,
        None => forged.iter().filter(|&&forged| forged == pointer).count() <= 1,
    };
    ensure!(refused, "signatures by other keys were accepted: {forged:x?}");
    Ok(Done::Passed)
}

/// Keys belong to the vCPU: after sleeps and long spins, in which others ran, they sign as before.
fn keys_survive() -> Outcome {
    static LOST: AtomicU64 = AtomicU64::new(0);
    if !has_pointer_authentication() {
        return Ok(Done::Skipped("not shown"));
    }
    smp::on_all(|me| {
        set_keys(args::number("seed", 1) << 16 | (0x100 + me as u64));
        let expected = signatures(0x40_0000_1000);
        gic::enable(timer::VIRTUAL);
        for round in 0..100 {
            if round % 2 == 0 {
                timer::sleep(timer::micros(300));
            } else {
                timer::busy(timer::micros(300));
            }
            if signatures(0x40_0000_1000) != expected {
                LOST.fetch_add(1, Relaxed);
            }
        }
    });
    ensure!(LOST.load(Relaxed) == 0, "another signature {} times", LOST.load(Relaxed));
    Ok(Done::Passed)
}

/// Registers of EL1 that every guest has keep what is written, and each vCPU has its own.
fn translation_registers() -> Outcome {
    static LOST: AtomicU64 = AtomicU64::new(0);
    smp::on_all(|me| {
        let value = (0x1111_0000_u64 * (me as u64 + 1)) << 8;
        gic::enable(timer::VIRTUAL);
        for _ in 0..50 {
            msr!("tpidr_el0", value | 1);
            msr!("tpidrro_el0", value | 2);
            msr!("contextidr_el1", value >> 16 | 3);
            msr!("afsr0_el1", 0);
            msr!("par_el1", 0);
            msr!("cntkctl_el1", 3);
            msr!("ttbr1_el1", value << 12 & 0xffff_ffff_f000);
            timer::sleep(timer::micros(200));
            let kept = mrs!("tpidr_el0") == value | 1
                && mrs!("tpidrro_el0") == value | 2
                && mrs!("contextidr_el1") == (value >> 16 | 3) & 0xffff_ffff
                && mrs!("cntkctl_el1") & 3 == 3
                && mrs!("ttbr1_el1") == value << 12 & 0xffff_ffff_f000;
            if !kept {
                LOST.fetch_add(1, Relaxed);
            }
        }
    });
    let lost: Result<(), Why> =
        if LOST.load(Relaxed) == 0 { Ok(()) } else { Err(why!("changed {} times", LOST.load(Relaxed))) };
    lost.map(|()| Done::Passed)
}
