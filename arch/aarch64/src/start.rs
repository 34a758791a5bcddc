//! Starting: from a device tree to a machine whose CPUs all run the loop.
//!
//! The boot CPU reads the tree, opens the console, counts memory, builds its own address space and starts the
//! other CPUs. Each CPU reports what it can do; when all have, the machine is published and every CPU enters
//! the loop. The boot CPU starts the guests first.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::size_of;
use core::ops::Range;

use arch_common::mmio::Mmio;
use arch_common::ram::{self, Reach, frozen};
use arch_common::serial::{Model, Uart, Width};
use arch_common::terminal::{self, Line};
use kernel::addr::{CpuId, Hpa};
use kernel::console::{Console, Stamp};
use kernel::fdt::{HEADER_SIZE, Tree};
use kernel::fp::FpUnit;
use kernel::machine::{HOUSEKEEPER, Machine};
use kernel::mem::Region;
use kernel::platform as board;
use kernel::run::Local;
use kernel::sched::CpuSet;
use kernel::start::{self, Failure, Image, Parts, Source};
use kernel::trace::Trace;
use spin::Once;

use crate::arch::Aarch64;
use crate::boot::{self, HCR_HOST, Handoff, SCTLR_ON};
use crate::cpu::{AFFINITIES, Keys, STACK_SIZE, ThisCpu, kick, now};
use crate::facts::{Abilities, Facts, establish, facts, hcr};
use crate::fp::{File, Lengths, Present};
use crate::fp_regs::Hardware;
use crate::gic::{CpuInterface, Distributor, find_redistributor};
use crate::idregs::{IdRegs, Raw};
use crate::memory::build_map;
use crate::ram::Identity;
use crate::regs::*;
use crate::stage2::{Caching, VmidBits, vtcr};
use crate::sve::Sve;
use crate::switch::VECTORS;
use crate::{id, platform, psci};

/// Most physical CPUs that are used.
const MAX_CPUS: usize = CpuSet::CAPACITY;

/// Everything CPUs share. Published when every CPU has reported.
static MACHINE: Once<Machine<Aarch64>> = Once::new();
/// What secondary CPUs need to set themselves up.
static COMMON: Once<Common> = Once::new();
/// What each CPU reported, by number.
static REPORTS: [Once<Report>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// What every CPU sets itself up with.
struct Common {
    redistributors: Vec<Range<u64>>,
}

/// What a CPU found out about itself.
struct Report {
    raw: Raw,
    abilities: Abilities,
    mmfr1: u64,
    sve: Sve,
    list_registers: usize,
    priority_bits: u8,
}

/// Used when no tree says where the console is: QEMU's `virt`, where a tree is never missing on purpose.
const FALLBACK: Line = Line { model: Model::Pl011, base: 0x0900_0000, shift: 2, width: Width::Word };

/// The console's UART for the last words of a panic, if it was ever found.
pub fn emergency_serial() -> Option<Uart> {
    // SAFETY: the line is Device memory in every map; after a panic nobody else drives it.
    unsafe { terminal::emergency_serial(Identity::OFFSET) }
}

/// The physical address of what the image has at `address`.
pub fn physical(address: usize) -> Hpa {
    ram::physical::<Identity>(address)
}

/// Switches the machine off.
pub fn power_off() -> ! {
    psci::system_off()
}

/// The machine, once it stands: for the last words of a panic.
pub fn machine() -> Option<&'static Machine<Aarch64>> {
    MACHINE.get()
}

/// The number of the CPU this runs on.
pub fn this_cpu() -> CpuId {
    let mpidr = MPIDR_EL1.get() & 0xff_00ff_ffff;
    let position = AFFINITIES.get().and_then(|all| all.iter().position(|a| *a == mpidr));
    CpuId(position.unwrap_or(0))
}

/// An exception of our own: nothing in Fermata takes one on purpose.
///
/// # Safety
/// Called by the vectors only.
pub(crate) unsafe extern "C" fn own_fault(vector: u64, esr: u64, elr: u64, far: u64) -> ! {
    panic!("exception {vector} taken at EL2: ESR {esr:#x}, at {elr:#x}, address {far:#x}");
}

/// Starts the machine from the boot CPU; the first argument is the address of its device tree.
pub fn boot_cpu([tree, ..]: [u64; 3], image: Image, console: &'static Console) -> ! {
    set_up_exceptions();
    let source = match read_tree(tree) {
        Ok(source) => source,
        Err(message) => {
            attach(console, FALLBACK);
            give_up(console, &message)
        }
    };
    let tree = &source.tree;
    attach(console, Line::of(tree).unwrap_or(FALLBACK));
    console.set_stamp(|| Stamp {
        micros: (now().0 as u128 * 1_000_000 / CNTFRQ_EL0.get().max(1) as u128) as u64,
        cpu: this_cpu(),
    });
    log::info!(
        "Fermata {} on {}",
        env!("CARGO_PKG_VERSION"),
        tree.root().text("model").ok().flatten().unwrap_or("AArch64")
    );
    match start_machine(&source, image, console) {
        Ok(never) => match never {},
        Err(message) => give_up(console, &message),
    }
}

/// Says why nothing can run, and switches the machine off.
fn give_up(console: &Console, message: &str) -> ! {
    start::give_up(console, message);
    psci::system_off()
}

fn attach(console: &Console, line: Line) {
    // SAFETY: the tree names a UART there, or there is nothing to lose; all but memory is Device memory in
    // every map, and this is the only place that opens the line.
    unsafe { terminal::attach(console, line, Identity::OFFSET) };
}

fn read_tree(at: u64) -> Result<Source, Failure> {
    let region = |size| Region::new(Hpa(at), size).filter(|_| at != 0 && at.is_multiple_of(8));
    let header = region(HEADER_SIZE as u64)
        .ok_or_else(|| alloc::format!("device tree: x0 is {at:#x}, expected its address, a multiple of 8"))?;
    let wrong = |error| alloc::format!("device tree at {at:#x}: {error}");
    // SAFETY: the boot protocol puts the tree there, in memory that the throw-away map has and that nobody
    // changes; if it is something else, it is at least readable, and the parser trusts nothing in it.
    let size = Tree::claimed_size(unsafe { frozen::<Identity>(header) }).map_err(wrong)?;
    let region = region(size as u64).unwrap_or(header);
    // SAFETY: as above; a size that is a lie makes the parser look at other bytes, not fault.
    let tree = Tree::parse(unsafe { frozen::<Identity>(region) }).map_err(wrong)?;
    Ok(Source { tree, region })
}

fn start_machine(
    source: &Source,
    image: Image,
    console: &'static Console,
) -> Result<core::convert::Infallible, Failure> {
    let tree = &source.tree;
    let text = |complaint: kernel::fdt::Complaint<'_>| complaint.to_string();
    let gic = platform::gic(tree).map_err(text)?;
    #[cfg(feature = "broken-rules")]
    kernel::fp::rules::broken::choose::<crate::fp::Step>(board::bootargs(tree).unwrap_or(""))?;
    check_cpu()?;
    let (mut memory, unmapped) = start::count_memory(source, image)?;
    let cpus = count_cpus(tree)?;
    AFFINITIES.call_once(|| cpus.clone());
    let tenants = start::read_domains(source, image, &mut memory, cpus.len());
    let uart = terminal::line().and_then(|line| Region::new(Hpa(line.base), 4096));
    build_map(&memory, &unmapped, image, &gic, source.region, uart)?;
    let range = |region: &Region| region.base().0..region.last().0 + 1;
    COMMON.call_once(|| Common { redistributors: gic.redistributors.iter().map(range).collect() });
    // SAFETY: the tree names the distributor there, and the map has it as Device memory.
    let distributor = Distributor::new(unsafe { Mmio::new(gic.distributor.base().0) });
    let cpu = report(CpuId(0));
    start_secondaries(&cpus)?;
    establish(gather(cpus.len())?);

    // From here on every CPU can interrupt others.
    console.set_bell(|| kick(HOUSEKEEPER));
    start::open_consoles(source, image, console, &memory, &tenants, cpus.len())?;
    let line = board::stdout(tree)
        .ok()
        .flatten()
        .and_then(|stdout| platform::first_line(&stdout.node).ok().flatten());
    if let Some(line) = line {
        distributor.enable(line.intid, cpus[0]);
    }
    let parts = Parts {
        console,
        console_line: line.map(|line| line.intid),
        cpus: cpus.len(),
        tenants,
        memory,
        hz: CNTFRQ_EL0.get(),
        now,
    };
    let machine = MACHINE.call_once(|| parts.assemble(source, image));
    start::run_guests(enter_loop(CpuId(0), cpu, machine))
}

/// What this image needs of the CPU it runs on.
fn check_cpu() -> Result<(), Failure> {
    let mmfr0 = id::mmfr0();
    if vtcr(mmfr0, VmidBits::Eight).is_none() {
        return Err(alloc::format!(
            "the CPU has {} physical address bits, expected at least 40",
            crate::stage2::physical_bits(mmfr0)
        ));
    }
    if id::pfr0() >> 24 & 0xf == 0 {
        return Err("the CPU has no system registers for a GICv3".into());
    }
    Ok(())
}

/// Affinities of the CPUs that are used, the boot CPU first.
fn count_cpus(tree: &Tree<'static>) -> Result<Vec<u64>, Failure> {
    let own = MPIDR_EL1.get() & 0xff_00ff_ffff;
    let mut all = alloc::vec![own];
    for cpu in board::cpus(tree) {
        match cpu {
            Ok(cpu) if cpu.hardware_id == own => {}
            Ok(cpu) if cpu.enable_method != Some("psci") => {
                log::warn!(
                    "{}: enable-method is {:?}, expected \"psci\": not used",
                    cpu.node.path(),
                    cpu.enable_method
                );
            }
            Ok(cpu) => all.push(cpu.hardware_id),
            Err(complaint) => log::warn!("{complaint}: not used"),
        }
    }
    if all.len() > MAX_CPUS {
        log::warn!("{} CPUs, of which {MAX_CPUS} are used", all.len());
        all.truncate(MAX_CPUS);
    }
    if all.len() > 1 && platform::psci(tree).ok().flatten() != Some(platform::Conduit::Smc) {
        log::warn!("/psci: method is not \"smc\": the other CPUs cannot be started");
        all.truncate(1);
    }
    Ok(all)
}

/// Sets up exceptions, before anything can go wrong.
fn set_up_exceptions() {
    VBAR_EL2.set((&raw const VECTORS).expose_provenance() as u64);
    isb();
}

/// Sets this CPU's EL2 up, and reports what it found.
fn report(id: CpuId) -> ThisCpu {
    set_up_exceptions();
    set_up_traps();
    let mpidr = MPIDR_EL1.get();
    let common = COMMON.get().expect("published before any CPU reports");
    // SAFETY: the tree names these regions, and the map has them as Device memory.
    let redistributor = unsafe { find_redistributor(&common.redistributors, mpidr) };
    let Some(redistributor) = redistributor else {
        panic!("the device tree has no redistributor for the CPU with affinity {mpidr:#x}");
    };
    let gic = CpuInterface::new(redistributor);
    let present = Present::from_ids(id::pfr0(), id::pfr1(), id::dfr0());
    // SAFETY: EL2 with E2H=0 since `boot`; once per CPU, and `ThisCpu` stays where it is made.
    let fp = File::new(unsafe { Hardware::claim() }, present);
    REPORTS[id.0].call_once(|| Report {
        raw: id::raw(),
        abilities: Abilities { pfr0: id::pfr0(), pfr1: id::pfr1(), mmfr2: id::mmfr2() },
        mmfr1: id::mmfr1(),
        sve: Sve { lengths: fp.lengths(), zfr0: if fp.lengths() == Lengths::NONE { 0 } else { id::zfr0() } },
        list_registers: gic.list_registers(),
        priority_bits: gic.priority_bits(),
    });
    ThisCpu::new(id, gic, fp, Keys::Switched)
}

/// Registers that are the same for every guest, and unknown at reset.
fn set_up_traps() {
    HCR_EL2.set(HCR_HOST);
    HSTR_EL2.set(0);
    VTTBR_EL2.set(0);
    VPIDR_EL2.set(MIDR_EL1.get());
    // Counters without traps; the physical timer is emulated (EL1PCEN clear). The virtual one is the guest's.
    CNTHCTL_EL2.set(1);
    CNTVOFF_EL2.set(0);
    CNTV_CTL_EL0.set(0);
    CNTP_CTL_EL0.set(0);
    // Debug, OS lock and trace registers, performance monitors and profiling trap (TDRA, TDOSA, TDA, TPM,
    // TPMCR, TPMS, TTRF); all counters stay EL1's as far as HPMN goes.
    let counters = if id::dfr0() >> 8 & 0xf != 0 && id::dfr0() >> 8 & 0xf != 0xf {
        PMCR_EL0.get() >> 11 & 0x1f
    } else {
        0
    };
    let mut mdcr = 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5 | counters;
    if id::dfr0() >> 32 & 0xf != 0 {
        mdcr |= 1 << 14;
    }
    if id::dfr0() >> 40 & 0xf != 0 {
        mdcr |= 1 << 19;
    }
    MDCR_EL2.set(mdcr);
    if id::mmfr1() >> 40 & 0xf != 0 {
        // MSCEn: memory copy instructions, if there are any.
        HCRX_EL2.set(if id::isar2() >> 16 & 0xf != 0 { 1 << 11 } else { 0 });
    }
    if id::mmfr0() >> 56 & 0xf != 0 {
        // Zero traps what has an "n" bit (SME, permission indirection, ...): state nobody switches.
        HFGRTR_EL2.set(0);
        HFGWTR_EL2.set(0);
        HFGITR_EL2.set(0);
        HDFGRTR_EL2.set(0);
        HDFGWTR_EL2.set(0);
    }
    isb();
}

/// Starts the other CPUs and waits until each has reported.
fn start_secondaries(cpus: &[u64]) -> Result<(), Failure> {
    for (n, mpidr) in cpus.iter().enumerate().skip(1) {
        let stack = Box::leak(alloc::vec![0u8; STACK_SIZE].into_boxed_slice());
        let handoff = Box::leak(Box::new(Handoff {
            stack: (stack.as_ptr_range().end.expose_provenance() & !0xf) as u64,
            ttbr: TTBR0_EL2.get(),
            tcr: TCR_EL2.get(),
            mair: MAIR_EL2.get(),
            sctlr: SCTLR_ON,
            arg: n as u64,
        }));
        let context = (&raw const *handoff).expose_provenance() as u64;
        clean_to_memory(context, size_of::<Handoff>() as u64);
        let entry = boot::secondary as *const () as usize as u64;
        // SAFETY: `secondary` sets a CPU up from a `Handoff`, and this one is never freed.
        let started = unsafe { psci::cpu_on(*mpidr, entry, context) };
        started.map_err(|code| {
            alloc::format!("CPU {n} (affinity {mpidr:#x}) could not be started: PSCI code {code}")
        })?;
        let hz = CNTFRQ_EL0.get();
        let deadline = now().0 + 10 * hz;
        while !REPORTS[n].is_completed() {
            if now().0 > deadline {
                return Err(alloc::format!("CPU {n} (affinity {mpidr:#x}) was started and does not report"));
            }
            core::hint::spin_loop();
        }
    }
    Ok(())
}

/// Puts together what the CPUs reported.
fn gather(cpus: usize) -> Result<Facts, Failure> {
    let reports: Vec<&Report> = REPORTS[..cpus].iter().filter_map(Once::get).collect();
    let raw: Vec<Raw> = reports.iter().map(|report| report.raw).collect();
    let ids = IdRegs::new(&raw);
    let combine = |f: fn(&Abilities) -> u64, all: bool| {
        let values = reports.iter().map(|report| f(&report.abilities));
        values.fold(if all { u64::MAX } else { 0 }, |sum, value| if all { sum & value } else { sum | value })
    };
    let abilities = |all| Abilities {
        pfr0: combine(|a| a.pfr0, all),
        pfr1: combine(|a| a.pfr1, all),
        mmfr2: combine(|a| a.mmfr2, all),
    };
    let (all, any) = (abilities(true), abilities(false));
    Ok(Facts {
        hcr: hcr(&all, &any, &ids),
        ids,
        caching: if all.has_fwb() { Caching::Forced } else { Caching::Combined },
        list_registers: reports.iter().map(|report| report.list_registers).min().unwrap_or(1),
        priority_bits: reports.iter().map(|report| report.priority_bits).min().unwrap_or(5),
        sve: reports.iter().map(|report| report.sve).collect(),
        cpus,
    })
}

/// Where a secondary CPU enters Rust, with its number.
pub(crate) extern "C" fn secondary_cpu(number: u64) -> ! {
    let id = CpuId(number as usize);
    let cpu = report(id);
    let machine = loop {
        match MACHINE.get() {
            Some(machine) => break machine,
            None => core::hint::spin_loop(),
        }
    };
    enter_loop(id, cpu, machine).run()
}

fn enter_loop(id: CpuId, mut cpu: ThisCpu, machine: &'static Machine<Aarch64>) -> Local<Aarch64> {
    let reports = REPORTS[..machine.cpus.len()].iter().filter_map(Once::get);
    let wide = reports.map(|report| VmidBits::from_id(report.mmfr1)).all(|bits| bits == VmidBits::Sixteen);
    let vmids = if wide { VmidBits::Sixteen } else { VmidBits::Eight };
    let mmfr0 = id::mmfr0();
    if let Some(value) = vtcr(mmfr0, vmids) {
        VTCR_EL2.set(value);
    }
    cpu.set_keys(if facts().ids.has_pauth() { Keys::Switched } else { Keys::Absent });
    // Nothing that firmware or an earlier system left in the TLBs may be taken for a guest's.
    invalidate_all_guests();
    let fp = FpUnit::new(id, alloc::sync::Arc::clone(&machine.audit));
    let trace: &'static Trace = &machine.cpus[id.0].trace;
    Local::new(cpu, machine, fp, trace)
}
