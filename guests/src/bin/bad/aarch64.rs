//! The ways of AArch64 to misbehave.

use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;

use guests::arch::{gic, psci};
use guests::report::{Done, Outcome, test};
use guests::rng::Rng;
use guests::start::machine;
use guests::trap::{Trap, catch, catch_branch};
use guests::{cpu, ensure, mmio, mrs, msr, println, smp, timer};

use crate::{Case, announce, bare, soon, taken};

/// What a guest survives.
pub(crate) const SURVIVED: [Case; 6] = [
    ("calls", calls),
    ("registers", sysregs),
    ("chips", || test("reserved-gic-registers", reserved_gic)),
    ("ipi-flood", || test("sgi-flood", sgi_flood)),
    ("memory", || test("nothing-there", nothing_there)),
    ("cpu-on-nowhere", || test("cpu-on-nowhere", cpu_on_nowhere)),
];

/// The INTID of an SPI that no device drives.
pub(crate) const DEVICE: u32 = 40;

/// Makes [`DEVICE`] pending.
pub(crate) fn raise_device() {
    gic::set_trigger(DEVICE, gic::Trigger::Edge);
    gic::route(DEVICE, 0);
    gic::enable(DEVICE);
    gic::set(DEVICE, gic::ISPENDR);
}

/// Makes the interrupt controller pass nothing on.
pub(crate) fn silence() {
    gic::set_mask(0);
}

/// Makes one line of RAM, in which no Rust object lives, outlast a reset.
pub(crate) fn write_back(address: u64) {
    // SAFETY: cleans and invalidates a line of RAM, which changes no value.
    unsafe { asm!("dc civac, {0}", "dsb sy", in(reg) address, options(nostack)) };
}

/// Which instruction calls.
#[derive(Clone, Copy, Debug)]
enum Conduit {
    Hvc,
    Smc,
    /// HVC with an immediate other than 0.
    HvcImmediate,
}

/// Makes a call with x0 = `function` and numbers in x4 to x17; tells x0 and whether those numbers are still there.
fn raw_call(conduit: Conduit, function: u64) -> (u64, bool) {
    let mut x: [u64; 18] = core::array::from_fn(|n| 0x5a5a_0000 + n as u64);
    x[0] = function;
    macro_rules! call {
        ($code:literal) => {
            // SAFETY: x0 to x17 are outputs, which is all a call may change (DEN0028 2.6); the functions are unknown ones.
            unsafe {
                asm!($code, inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3], inout("x4") x[4],
                    inout("x5") x[5], inout("x6") x[6], inout("x7") x[7], inout("x8") x[8], inout("x9") x[9],
                    inout("x10") x[10], inout("x11") x[11], inout("x12") x[12], inout("x13") x[13],
                    inout("x14") x[14], inout("x15") x[15], inout("x16") x[16], inout("x17") x[17], options(nostack))
            }
        };
    }
    match conduit {
        Conduit::Hvc => call!("hvc #0"),
        Conduit::Smc => call!("smc #0"),
        Conduit::HvcImmediate => call!("hvc #0x4b00"),
    }
    (x[0], x.iter().enumerate().skip(4).all(|(n, &value)| value == 0x5a5a_0000 + n as u64))
}

fn calls() {
    test("unknown-hvc-functions", || unknown(Conduit::Hvc));
    test("unknown-smc-functions", || unknown(Conduit::Smc));
    test("hvc-with-an-immediate", || unknown(Conduit::HvcImmediate));
    test("psci-with-absurd-arguments", absurd_psci);
}

/// Functions of every owner (DEN0028 2.5) that nobody has: the answer is -1, and nothing else changes.
fn unknown(conduit: Conduit) -> Outcome {
    let mut rng = Rng::new(1);
    for round in 0..3000 {
        // Numbers from 0x1000 to 0x6fff are far from what any owner defines; the high half of x0 is noise.
        let number = 0x1000 + rng.below(0x6000);
        let top = rng.below(256) << 24;
        let noise = if round % 4 == 0 { rng.draw() << 32 } else { 0 };
        let function = noise | top | rng.below(256) << 16 & 0xff_0000 | number;
        let mut answer = (0, true);
        let trap: Option<Trap> = catch(|| answer = raw_call(conduit, function));
        match trap {
            // Without a hypervisor below, only the PSCI conduit exists.
            Some(trap) if trap.is_undefined() && (bare() || matches!(conduit, Conduit::HvcImmediate)) => {
                continue;
            }
            Some(trap) => return Err(guests::why!("{function:#x}: {trap:x?}")),
            None => {}
        }
        ensure!(answer.0 as u32 == u32::MAX, "{function:#x} is answered by {:#x}", answer.0);
        ensure!(answer.1, "{function:#x} changed x4 to x17");
    }
    Ok(Done::Passed)
}

/// PSCI functions that exist, with arguments that make no sense and must not be carried out.
fn absurd_psci() -> Outcome {
    let mut rng = Rng::new(2);
    for _ in 0..500 {
        // Aff3 is never zero, so no vCPU is meant.
        let target = rng.draw() | 1 << 39;
        let status = psci::call(psci::CPU_ON, [target, rng.draw(), rng.draw()]);
        ensure!(status == psci::INVALID_PARAMETERS, "CPU_ON of {target:#x} is {status}");
        psci::call(psci::AFFINITY_INFO, [target, rng.draw(), rng.draw()]);
        let status = psci::call(psci::AFFINITY_INFO, [target, 0, rng.draw()]);
        ensure!(status == psci::INVALID_PARAMETERS, "AFFINITY_INFO of {target:#x} is {status}");
        psci::call(psci::FEATURES, [rng.draw(), rng.draw(), rng.draw()]);
    }
    Ok(Done::Passed)
}

/// Two instructions that the guest writes itself: one to try, and RET.
#[repr(C, align(64))]
struct Code(UnsafeCell<[u32; 2]>);

// SAFETY: only vCPU 0 writes and runs it.
unsafe impl Sync for Code {}

static CODE: Code = Code(UnsafeCell::new([0, RET]));
const RET: u32 = 0xd65f_03c0;

/// Executes one instruction, which reads or writes x0 at most, and tells its fault.
fn execute(instruction: u32) -> Option<Trap> {
    let code = CODE.0.get();
    // SAFETY: nobody else uses CODE; RAM is executable in the runtime's map, and the maintenance below makes the write
    // visible to fetches (DDI0487 B2.4.4).
    unsafe {
        code.cast::<u32>().write_volatile(instruction);
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) code, options(nostack));
    }
    catch(|| {
        // SAFETY: the code is one instruction on x0 and a return; x0 and x30 are given up.
        unsafe { asm!("blr {0}", in(reg) code, inout("x0") 0_u64 => _, out("x30") _, options(nostack)) };
    })
}

/// What reading and writing all system registers came to.
#[derive(Default)]
struct Sweep {
    readable: u32,
    writable: u32,
    undefined: u32,
    odd: Option<(u32, Trap)>,
}

fn sysregs() {
    test("every-system-register", every_system_register);
    test("undefined-system-registers", undefined_system_registers);
}

/// Tries MRS of all 32768 encodings of op0 2 and 3, and MSR of zero where that is undefined.
fn every_system_register() -> Outcome {
    enable_extensions();
    let mut sweep = Sweep::default();
    for encoding in 0..1 << 15 {
        // MRS x0 is 0xd53.....; the fields op0<0> to op2 are bits 19:5 (DDI0487 C6.2, MRS).
        let fields = encoding << 5;
        let Some(read) = execute(0xd530_0000 | fields) else {
            sweep.readable += 1;
            continue;
        };
        let in_id_space = reports_id_space() && read.class() == 0x18 && encoding >> 7 & 0xf == 0;
        if !read.is_undefined() && !in_id_space {
            sweep.odd.get_or_insert((encoding, read));
        } else if execute(0xd510_0000 | fields).is_none() {
            sweep.writable += 1;
        } else {
            sweep.undefined += 1;
        }
    }
    cpu::isb();
    // Write-only registers were written: some drop or deactivate interrupts, and there were none.
    println!(
        "bad: {} registers read, {} only written, {} undefined",
        sweep.readable, sweep.writable, sweep.undefined
    );
    if let (Some((encoding, trap)), false) = (sweep.odd, bare()) {
        return Err(guests::why!("register encoding {encoding:#x}: {trap:x?}, expected EC 0x00"));
    }
    ensure!(sweep.readable > 50 && sweep.undefined > 10_000, "too few of either");
    Ok(Done::Passed)
}

/// Tells whether what is missing in the ID space (CRn 0) is reported as a trapped access, EC 0x18, instead of as
/// undefined: FEAT_IDST, ID_AA64MMFR2_EL1.IDS.
fn reports_id_space() -> bool {
    mrs!("S3_0_C0_C7_2") >> 36 & 0xf >= 1
}

/// Enables whatever EL1 can enable (CPACR_EL1.SMEN, FPEN, ZEN), so that what is undefined all the same is not there.
fn enable_extensions() {
    msr!("cpacr_el1", 0b11 << 24 | 0b11 << 20 | 0b11 << 16);
    cpu::isb();
}

fn undefined_system_registers() -> Outcome {
    enable_extensions();
    // MRS x0 of registers that no EL1 guest has.
    let always = [
        ("HCR_EL2", 0xd53c_1100),
        ("ICH_HCR_EL2", 0xd53c_cb00),
        ("SCR_EL3", 0xd53e_1100),
        ("VBAR_EL3", 0xd53e_c000),
        ("S3_2_C15_C0_0", 0xd53a_f000),
    ];
    let hidden = [
        ("ZCR_EL1", 0xd538_1200),
        ("SMCR_EL1", 0xd538_12c0),
        ("SVCR", 0xd53b_4240),
        ("TPIDR2_EL0", 0xd53b_d0a0),
        ("PMCR_EL0", 0xd53b_9c00),
        ("PMCCNTR_EL0", 0xd53b_9d00),
        ("GMID_EL1", 0xd539_0080),
        ("TFSR_EL1", 0xd538_5600),
    ];
    for (name, instruction) in always.into_iter().chain(hidden.into_iter().filter(|_| !bare())) {
        let trap = execute(instruction);
        // GMID_EL1 is in the ID space: see `reports_id_space`.
        let missing = |trap: Trap| trap.is_undefined() || (trap.class() == 0x18 && reports_id_space());
        ensure!(trap.is_some_and(missing), "{name}: {trap:x?}, expected EC 0x00");
    }
    Ok(Done::Passed)
}

/// Writes ones and zeros everywhere in the GIC with every size, then sets it up anew.
fn reserved_gic() -> Outcome {
    let (gicd, gicr) = (machine().chips.gicd, gic::redistributor());
    let daif = cpu::mask_irq();
    // GICR_CTLR, GICR_PROPBASER and GICR_PENDBASER would let a GIC with LPIs use memory as tables; they are left to a
    // guest under a hypervisor, which has none.
    let first = if bare() { 0x80 } else { 0 };
    for (base, from, to) in [(gicd, 0, 0x1_0000), (gicr, first, 0x1_0000), (gicr + 0x1_0000, 0, 0x1_0000)] {
        for offset in (from..to).step_by(4) {
            // Devices of the real GIC may refuse sizes and gaps by an external abort, and so may an emulated one.
            let fault = catch(|| {
                for value in [u64::MAX, 0, 0x5a5a_5a5a_5a5a_5a5a] {
                    mmio::write32(base + offset, value as u32);
                    mmio::write8(base + offset + 1, value as u8);
                    if offset % 8 == 0 {
                        mmio::write64(base + offset, value);
                        mmio::read64(base + offset);
                    }
                    mmio::read32(base + offset);
                    mmio::read8(base + offset + 3);
                }
            });
            ensure!(fault.is_none_or(|fault| fault.is_external_abort()), "offset {offset:#x}: {fault:x?}");
        }
    }
    for word in 0..32 {
        for register in [gic::ICENABLER, gic::ICPENDR, gic::ICACTIVER] {
            mmio::write32(gicd + register + word * 4, !0);
        }
    }
    for register in [gic::ICENABLER, gic::ICPENDR, gic::ICACTIVER] {
        mmio::write32(gicr + 0x1_0000 + register, !0);
    }
    gic::init_distributor();
    gic::init_cpu();
    // Interrupts that were active in list registers have not been acknowledged: nothing runs.
    let running = gic::running_priority();
    cpu::restore_irq(daif);
    ensure!(running == 0xff, "ICC_RPR_EL1 is {running:#x}");
    route_to_nobody()
}

/// An SPI routed to a vCPU that is not there comes when it is routed to one that is.
fn route_to_nobody() -> Outcome {
    const SPI: u32 = 41;
    gic::set_trigger(SPI, gic::Trigger::Edge);
    mmio::write64(machine().chips.gicd + gic::IROUTER + u64::from(SPI) * 8, 0x7f_007f_7f7f);
    gic::enable(SPI);
    let before = taken(0, SPI);
    gic::set(SPI, gic::ISPENDR);
    timer::busy(timer::micros(2000));
    let early = taken(0, SPI) - before;
    gic::route(SPI, 0);
    let late = soon(|| taken(0, SPI) == before + 1);
    gic::disable(SPI);
    ensure!(early == 0, "taken by vCPU 0, which it was not routed to");
    ensure!(late, "lost");
    Ok(Done::Passed)
}

/// SGIs by the thousand to everybody, to nobody, and to oneself with interrupts masked, where they merge.
fn sgi_flood() -> Outcome {
    let mut rng = Rng::new(3);
    for _ in 0..5000 {
        gic::send_raw(rng.draw());
    }
    let daif = cpu::mask_irq();
    let before: [u32; 16] = core::array::from_fn(|sgi| taken(0, sgi as u32));
    // What the first flood left pending is taken first.
    cpu::unmask_irq();
    timer::busy(timer::micros(1000));
    cpu::mask_irq();
    let settled: [u32; 16] = core::array::from_fn(|sgi| taken(0, sgi as u32));
    for _ in 0..1000 {
        (0..16).for_each(|sgi| gic::send(sgi, 0));
    }
    cpu::restore_irq(daif);
    timer::busy(timer::micros(5000));
    for sgi in 0..16 {
        let count = taken(0, sgi) - settled[sgi as usize];
        ensure!(count == 1, "SGI {sgi}, sent 1000 times while masked, was taken {count} times");
        ensure!(
            settled[sgi as usize] - before[sgi as usize] <= 1,
            "SGI {sgi} was left pending more than once"
        );
    }
    Ok(Done::Passed)
}

fn nothing_there() -> Outcome {
    let end = machine().ram + machine().ram_size;
    let mut rng = Rng::new(4);
    let in_block = end & ((1 << 30) - 1) != 0;
    for _ in 0..2000 {
        // The last block of RAM beyond its end, else between the devices of virt-like machines.
        let (from, size) =
            if in_block { (end, (1 << 30) - (end & ((1 << 30) - 1))) } else { (0x0c00_0000, 0x200_0000) };
        let address = (from + rng.below(size - 8)) & !7;
        let read = catch(|| {
            mmio::read64(address);
        });
        let write = catch(|| mmio::write32(address, 1));
        for trap in [read, write] {
            let Some(trap) = trap else { return Err(guests::why!("no fault at {address:#x}")) };
            ensure!(trap.is_external_abort() && trap.far == address, "{trap:x?}");
        }
        if in_block {
            // SAFETY: the fetch fails, and `catch_branch` returns to the instruction after BLR.
            let fetch = catch_branch(|| unsafe {
                asm!("blr {0}", in(reg) address, out("x30") _, options(nostack));
            });
            ensure!(fetch.is_some_and(|trap| trap.is_external_abort()), "fetch at {address:#x}: {fetch:x?}");
        }
    }
    Ok(Done::Passed)
}

/// A vCPU may be started anywhere; it gets nowhere, and the others do not notice.
fn cpu_on_nowhere() -> Outcome {
    if smp::count() < 2 {
        return Ok(Done::Skipped("one vCPU"));
    }
    let nowhere = machine().ram + machine().ram_size + 0x1000;
    let status = psci::call(psci::CPU_ON, [machine().ids[1], nowhere, 0]);
    // INVALID_ADDRESS is the better answer, and allowed (DEN0022 5.6.2).
    ensure!(matches!(status, psci::SUCCESS | -9), "CPU_ON is {status}");
    timer::sleep(timer::micros(5000));
    Ok(Done::Passed)
}

pub(crate) fn vectors() {
    announce("an exception with vectors where nothing is");
    cpu::mask_irq();
    msr!("vbar_el1", machine().ram + machine().ram_size);
    cpu::isb();
    // SAFETY: UDF raises the exception that is wanted; nothing after it runs.
    unsafe { asm!("udf #0", options(nostack)) };
}

/// Turns the page out from under itself: the next fetch walks tables where nothing is.
pub(crate) fn tables() {
    announce("translation tables where nothing is");
    cpu::mask_irq();
    switch_tables(machine().ram + machine().ram_size)
}

#[unsafe(naked)]
extern "C" fn switch_tables(table: u64) {
    naked_asm!("msr ttbr0_el1, x0", "isb", "tlbi vmalle1", "dsb sy", "isb", "ret")
}
