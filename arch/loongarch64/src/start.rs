//! Starting: from a device tree to a machine whose CPUs all run the loop.
//!
//! The boot CPU finds the tree, opens the console, counts memory and starts the other CPUs. Each CPU reports what it
//! can do; when all have, the machine is published and every CPU enters the loop. The boot CPU starts the guests
//! first. A CPU without LVZ can run no guest: then what it has of FP registers is tested, and that is all.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;

use arch_common::mmio::Mmio;
use arch_common::ram::{self, HeapTables, Reach, frozen};
use arch_common::serial::{Model, Uart, Width};
use arch_common::terminal::{self, Line};
use kernel::addr::{CpuId, Hpa};
use kernel::console::{Console, Stamp};
use kernel::fdt::{Complaint, HEADER_SIZE, Tree};
use kernel::fp::FpUnit;
use kernel::machine::{HOUSEKEEPER, Machine};
use kernel::mem::Region;
use kernel::platform as board;
use kernel::run::Local;
use kernel::sched::CpuSet;
use kernel::start::{self, Failure, Image, Parts, Source};
use kernel::trace::Trace;
use spin::Once;

use crate::arch::Loongarch64;
use crate::boot::{self, STACK_SIZE};
use crate::cpu::{CORES, Chip, ThisCpu, now};
use crate::cpucfg::{CpuCfg, Raw, SHOWN};
use crate::csr::*;
use crate::facts::{self, Facts, establish};
use crate::fp::{self, File};
use crate::fp_regs::Hardware;
use crate::iocsr::Own;
use crate::irqchip::{Ipi, IrqChip, Target};
use crate::ram::{UNCACHED, Window};
use crate::stage2::{self, null_table};
use crate::switch::{self, EXCEPTION, MACHINE_ERROR_ENTRY, TLB_REFILL};
use crate::{efi, fp_regs, lvz, platform, rtc, selftest};

/// Most physical CPUs that are used.
const MAX_CPUS: usize = CpuSet::CAPACITY;
/// `CPUID.CoreID`.
const CORE: u64 = 0x1ff;

/// Everything CPUs share. Published when every CPU has reported.
static MACHINE: Once<Machine<Loongarch64>> = Once::new();
/// What each CPU reported, by number.
static REPORTS: [Once<Report>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
/// How the machine is switched off, once the tree has said so.
static POWER_OFF: Once<platform::Switch> = Once::new();

/// What a CPU found out about itself.
struct Report {
    cpucfg: Raw,
    prcfg: [u64; 3],
    asid_bits: u8,
    lvz: Lvz,
}

/// Used when no tree says where the console is: QEMU's `virt`, where a tree is never missing on purpose.
const FALLBACK: Line = Line { model: Model::Ns16550, base: 0x1fe0_01e0, shift: 0, width: Width::Byte };

/// The physical address of what the image has at `address`.
pub fn physical(address: usize) -> Hpa {
    ram::physical::<Window>(address)
}

/// The console's UART for the last words of a panic, if it was ever found.
pub fn emergency_serial() -> Option<Uart> {
    // SAFETY: the uncached window reaches all devices; after a panic nobody else drives the line.
    unsafe { terminal::emergency_serial(UNCACHED) }
}

/// Switches the machine off. Where the tree does not say how, this CPU sleeps.
pub fn power_off() -> ! {
    if let Some(switch) = POWER_OFF.get() {
        // SAFETY: the tree says that the register is there, and of this width.
        let mmio = unsafe { Mmio::new(UNCACHED + switch.register.0) };
        match switch.width {
            1 => mmio.write8(0, switch.flipped(mmio.read8(0).into()) as u8),
            2 => mmio.write16(0, switch.flipped(mmio.read16(0).into()) as u16),
            _ => mmio.write32(0, switch.flipped(mmio.read32(0))),
        }
    }
    ECFG.set(0);
    loop {
        idle();
    }
}

/// The machine, once it stands: for the last words of a panic.
pub fn machine() -> Option<&'static Machine<Loongarch64>> {
    MACHINE.get()
}

/// The number of the CPU this runs on.
pub fn this_cpu() -> CpuId {
    let core = (CPUID.get() & CORE) as u32;
    CpuId(CORES.get().and_then(|all| all.iter().position(|other| *other == core)).unwrap_or(0))
}

/// An exception of our own: nothing in Fermata takes one, but where one is attempted.
///
/// # Safety
/// Called by the vectors only.
pub(crate) unsafe extern "C" fn own_fault(estat: u64, era: u64, address: u64) -> ! {
    let code = estat >> 16 & 0x3f;
    let what = match code {
        switch::REFILL => "TLB miss",
        switch::MACHINE_ERROR => "machine error",
        _ => "exception",
    };
    panic!("{what} taken in root mode: Ecode {code:#x}, ESTAT {estat:#x}, at {era:#x}, address {address:#x}");
}

/// Starts the machine from the boot CPU; the arguments are those of the boot protocol: whether there is a system
/// table, the command line, and the system table.
pub fn boot_cpu(arguments: [u64; 3], image: Image, console: &'static Console) -> ! {
    set_up_exceptions();
    let source = match read_tree(arguments) {
        Ok(source) => source,
        Err(message) => {
            attach(console, FALLBACK);
            POWER_OFF.call_once(|| platform::QEMU_POWER_OFF);
            give_up(console, &message)
        }
    };
    let tree = &source.tree;
    attach(console, Line::of(tree).unwrap_or(FALLBACK));
    match platform::power_off(tree) {
        Ok(Some(register)) => {
            POWER_OFF.call_once(|| register);
        }
        Ok(None) => log::warn!("the device tree does not say how to switch the machine off"),
        Err(complaint) => log::warn!("{complaint}: the machine cannot be switched off"),
    }
    console.set_stamp(|| Stamp {
        micros: (u128::from(now().0) * 1_000_000 / u128::from(own_hz().unwrap_or(1))) as u64,
        cpu: this_cpu(),
    });
    let model = tree.root().text("model").ok().flatten();
    log::info!("Fermata {} on {}", env!("CARGO_PKG_VERSION"), model.unwrap_or("LoongArch64"));
    let started = if Lvz::of_this_cpu() == Lvz::Present {
        start_machine(&source, image, console)
    } else {
        test_registers(console)
    };
    match started {
        Ok(never) => match never {},
        Err(message) => give_up(console, &message),
    }
}

/// Says why nothing can run, and switches the machine off.
fn give_up(console: &Console, message: &str) -> ! {
    start::give_up(console, message);
    power_off()
}

fn attach(console: &Console, line: Line) {
    // SAFETY: the tree names a UART there, or there is nothing to lose; the uncached window reaches all devices, and
    // this is the only place that opens the line.
    unsafe { terminal::attach(console, line, UNCACHED) };
}

/// Without LVZ there are no guests: tests the FP registers, and is done.
fn test_registers(console: &'static Console) -> Result<core::convert::Infallible, Failure> {
    log::warn!("this CPU has no LVZ: no guest can run");
    // SAFETY: once, on the boot CPU, in root mode.
    let mut file = File::new(unsafe { Hardware::claim() }, fp::from_cpucfg(cpucfg(2)));
    // SAFETY: the instruction reads a register of the unit into one that a call may change; no guest has run.
    let verdict = selftest::run(&mut file, |_, unit| unsafe { switch::attempt(fp_regs::touch(unit)) });
    match verdict {
        Ok(summary) => log::info!("FP self-test: ok: {summary}"),
        Err(message) => log::error!("FP self-test: not ok: {message}"),
    }
    log::info!("halted");
    console.flush();
    power_off()
}

/// Reads what firmware left in memory; whether there is memory is found out by trying.
fn read_firmware(Hpa(at): Hpa, into: &mut [u8]) -> bool {
    into.iter_mut().enumerate().all(|(n, byte)| {
        let at = at + n as u64;
        // SAFETY: addresses below 2^48 in the cached window are memory, which reading does not change, or nothing.
        let found = if at < 1 << 48 { unsafe { switch::peek(Window::OFFSET + at) } } else { None };
        found.is_some_and(|found| {
            *byte = found;
            true
        })
    })
}

/// The address of the machine's tree: where the command line says (`fdt=ADDRESS`), else in the EFI system table.
fn find_tree([efi_boot, command_line, system_table]: [u64; 3]) -> Result<Hpa, Failure> {
    let line = efi::command_line(Hpa(command_line), &read_firmware).unwrap_or_default();
    let option = line.split_whitespace().find_map(|word| word.strip_prefix("fdt="));
    if let Some(value) = option {
        let digits = value.strip_prefix("0x").unwrap_or(value);
        let at = u64::from_str_radix(digits, 16);
        return at.map(Hpa).map_err(|_| {
            alloc::format!("command line: fdt: found {value:?}, expected a hexadecimal address")
        });
    }
    if efi_boot != 1 {
        return Err(alloc::format!(
            "a0 is {efi_boot:#x}, expected 1, which says that there is an EFI system table"
        ));
    }
    efi::tree(Hpa(system_table), &read_firmware).map_err(|error| error.to_string())
}

fn read_tree(arguments: [u64; 3]) -> Result<Source, Failure> {
    let at = find_tree(arguments)?;
    let wrong = |error| alloc::format!("device tree at {:#x}: {error}", at.0);
    let mut header = [0; HEADER_SIZE];
    if !at.0.is_multiple_of(8) || !read_firmware(at, &mut header) {
        return Err(alloc::format!(
            "device tree: its address is {:#x}, expected memory, at a multiple of 8",
            at.0
        ));
    }
    let size = Tree::claimed_size(&header).map_err(wrong)? as u64;
    let region = Region::new(at, size).ok_or("device tree: it is empty")?;
    let last = region.last();
    if !read_firmware(last, &mut [0]) {
        return Err(alloc::format!(
            "device tree at {:#x}: it ends at {:#x}, where no memory is",
            at.0,
            last.0
        ));
    }
    // SAFETY: both ends are memory, and so is what lies between them: a tree has 2 MiB at most, and memory has no holes
    // that small. Nobody changes it.
    let tree = Tree::parse(unsafe { frozen::<Window>(region) }).map_err(wrong)?;
    Ok(Source { tree, region })
}

fn start_machine(
    source: &Source,
    image: Image,
    console: &'static Console,
) -> Result<core::convert::Infallible, Failure> {
    let tree = &source.tree;
    #[cfg(feature = "broken-rules")]
    kernel::fp::rules::broken::choose::<crate::fp::Step>(board::bootargs(tree).unwrap_or(""))?;
    let (mut memory, _) = start::count_memory(source, image)?;
    let cpus = count_cpus(tree);
    CORES.call_once(|| cpus.clone());
    let tenants = start::read_domains(source, image, &mut memory, cpus.len());
    let hz = own_hz().ok_or("CPUCFG words 4 and 5: the counter has no frequency")?;
    let null = null_table(&mut HeapTables::<Window>::default()).ok_or("no memory for page tables")?;
    let devices = devices(tree).unwrap_or_else(|complaint| {
        log::warn!("{complaint}: the console takes no input");
        None
    });
    let console_line = devices.as_ref().map(|devices| devices.console.pin);
    let cpu = report(CpuId(0), hz, devices)?;
    start_secondaries(&cpus, hz)?;
    establish(gather(cpus.len(), hz, null, read_clock(tree, hz))?);
    // From here on every CPU can interrupt others.
    console.set_bell(|| {
        if let Some(core) = CORES.get().and_then(|all| all.get(HOUSEKEEPER.0)) {
            Ipi(Own).send(*core);
        }
    });
    start::open_consoles(source, image, console, &memory, &tenants, cpus.len())?;
    let parts = Parts { console, console_line, cpus: cpus.len(), tenants, memory, hz, now };
    let machine = MACHINE.call_once(|| parts.assemble(source, image));
    start::run_guests(enter_loop(CpuId(0), cpu, machine))
}

/// What brings the interrupts of devices to the boot CPU.
struct Devices {
    chip: Chip,
    /// The line of `ESTAT.IS` that the chip raises.
    line: u32,
    console: platform::Line,
}

/// Takes the interrupt chips over, if the console has a line.
fn devices(tree: &Tree<'static>) -> Result<Option<Devices>, Complaint<'static>> {
    let interrupts = platform::interrupts(tree)?;
    let Some(stdout) = board::stdout(tree)? else { return Ok(None) };
    let Some(console) = interrupts.first_line(&stdout.node)? else { return Ok(None) };
    // SAFETY: the tree names the PCH-PIC there, and the uncached window reaches all devices.
    let registers = unsafe { Mmio::new(UNCACHED + interrupts.registers.base().0) };
    let core = (CPUID.get() & CORE) as u32;
    let target = Target { core, pin: interrupts.line - interrupt::HWI0 };
    let chip = IrqChip::new(Own, registers, interrupts.base as u8, target);
    chip.open(console.pin, console.trigger);
    Ok(Some(Devices { chip, line: interrupts.line, console }))
}

/// Seconds since 1970 when the stable counter was zero, as the machine's clock says.
fn read_clock(tree: &Tree<'static>, hz: u64) -> Option<u64> {
    let registers = platform::clock(tree).unwrap_or_else(|complaint| {
        log::warn!("{complaint}: the machine has no clock");
        None
    })?;
    // SAFETY: the tree names the clock there, and the uncached window reaches all devices.
    let registers = unsafe { Mmio::new(UNCACHED + registers.base().0) };
    rtc::read(&registers)?.checked_sub(now().0 / hz)
}

/// Ticks in a second, as this CPU says.
fn own_hz() -> Option<u64> {
    facts::hz(cpucfg(4), cpucfg(5))
}

/// Core numbers of the CPUs that are used, the boot CPU first.
fn count_cpus(tree: &Tree<'static>) -> Vec<u32> {
    let own = (CPUID.get() & CORE) as u32;
    let mut all = alloc::vec![own];
    for cpu in board::cpus(tree) {
        match cpu.and_then(|cpu| platform::core_id(&cpu)) {
            Ok(core) if core == own => {}
            Ok(core) => all.push(core),
            Err(complaint) => log::warn!("{complaint}: not used"),
        }
    }
    if all.len() > MAX_CPUS {
        log::warn!("{} CPUs, of which {MAX_CPUS} are used", all.len());
        all.truncate(MAX_CPUS);
    }
    all
}

/// Sets up exceptions, before anything can go wrong.
fn set_up_exceptions() {
    let at = |entry: *const u8| entry.expose_provenance();
    ECFG.set(0);
    SAVE4.set(0);
    SAVE5.set(0);
    EENTRY.set(at(EXCEPTION.as_ptr()) as u64);
    TLBRENTRY.set(physical(at(TLB_REFILL.as_ptr())).0);
    MERRENTRY.set(physical(at(MACHINE_ERROR_ENTRY.as_ptr())).0);
}

/// Sets this CPU up for guests, and reports what it found.
fn report(id: CpuId, hz: u64, devices: Option<Devices>) -> Result<ThisCpu, Failure> {
    set_up_exceptions();
    if Lvz::of_this_cpu() == Lvz::Absent {
        return Err(alloc::format!("CPU {} has no LVZ", id.0));
    }
    PWCL.set(stage2::PWCL);
    PWCH.set(stage2::PWCH);
    STLBPS.set(stage2::STLBPS);
    lvz::set_up();
    // SAFETY: root mode at PLV0; once per CPU, and `ThisCpu` stays where it is made.
    let fp = File::new(unsafe { Hardware::claim() }, fp::from_cpucfg(cpucfg(2)));
    Ipi(Own).open();
    let line = devices.as_ref().map_or(0, |devices| 1 << devices.line);
    ECFG.set(1 << interrupt::TIMER | 1 << interrupt::IPI | line);
    REPORTS[id.0].call_once(|| Report {
        cpucfg: SHOWN.map(|word| cpucfg(word.into())),
        prcfg: [PRCFG1.get(), PRCFG2.get(), PRCFG3.get()],
        asid_bits: (ASID.get() >> 16) as u8,
        lvz: Lvz::of_this_cpu(),
    });
    Ok(ThisCpu::new(id, hz, fp, devices.map(|devices| devices.chip)))
}

/// Starts the other CPUs and waits until each has reported.
fn start_secondaries(cpus: &[u32], hz: u64) -> Result<(), Failure> {
    let entry = physical(boot::secondary as *const () as usize);
    for (n, core) in cpus.iter().enumerate().skip(1) {
        let stack = Box::leak(alloc::vec![0u8; STACK_SIZE].into_boxed_slice());
        boot::set_secondary_stack((stack.as_ptr_range().end.expose_provenance() & !0xf) as u64);
        let (mut again, deadline) = (now().0, now().0 + 10 * hz);
        while !REPORTS[n].is_completed() {
            // A core that comes out of reset later than this one did empties its mailbox then, so it is told again; one
            // that has started looks at its mailbox no more, and an interrupt too many is a kick.
            if now().0 >= again {
                Ipi(Own).start(*core, entry.0);
                again += hz / 10;
            }
            if now().0 > deadline {
                return Err(alloc::format!("CPU {n} (core {core}) was started and does not report"));
            }
            core::hint::spin_loop();
        }
    }
    Ok(())
}

/// Puts together what the CPUs reported.
fn gather(cpus: usize, hz: u64, null: Hpa, epoch: Option<u64>) -> Result<Facts, Failure> {
    let reports: Vec<&Report> = REPORTS[..cpus].iter().filter_map(Once::get).collect();
    let first = reports.first().ok_or("no CPU has reported")?;
    if let Some(n) =
        reports.iter().position(|report| report.prcfg != first.prcfg || report.lvz == Lvz::Absent)
    {
        return Err(alloc::format!(
            "CPU {n} is not like CPU 0: its PRCFG1 to 3 are {:x?}, expected {:x?}",
            reports[n].prcfg,
            first.prcfg
        ));
    }
    let cpucfg: Vec<Raw> = reports.iter().map(|report| report.cpucfg).collect();
    Ok(Facts {
        units: CpuCfg::units_of(&cpucfg),
        cpucfg,
        prcfg: first.prcfg,
        asid_bits: reports.iter().map(|report| report.asid_bits).min().unwrap_or(0),
        hz,
        epoch,
        null,
    })
}

/// Where a secondary CPU enters Rust.
pub(crate) extern "C" fn secondary_cpu() -> ! {
    let id = this_cpu();
    let hz = own_hz().unwrap_or(1);
    let cpu = match report(id, hz, None) {
        Ok(cpu) => cpu,
        Err(message) => panic!("{message}"),
    };
    let machine = loop {
        match MACHINE.get() {
            Some(machine) => break machine,
            None => core::hint::spin_loop(),
        }
    };
    enter_loop(id, cpu, machine).run()
}

fn enter_loop(id: CpuId, cpu: ThisCpu, machine: &'static Machine<Loongarch64>) -> Local<Loongarch64> {
    let fp = FpUnit::new(id, alloc::sync::Arc::clone(&machine.audit));
    let trace: &'static Trace = &machine.cpus[id.0].trace;
    Local::new(cpu, machine, fp, trace)
}
