//! What is AArch64's own: PSCI with its errors, SGIs to all others, locks that wait for events.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use guests::arch::psci::{self, ALREADY_ON, INVALID_PARAMETERS, NOT_SUPPORTED, OFF, ON_PENDING, SUCCESS};
use guests::arch::{gic, start::secondary};
use guests::cpu::MAX_CPUS;
use guests::report::{Done, Outcome, test};
use guests::start::machine;
use guests::{cpu, ensure, mrs, smp, timer};

use crate::{IN, INCREMENTS, STAY, counted, increment, soon, stay, taken, with_all_in};

/// What one vCPU can find out.
pub(crate) fn alone() {
    test("psci-version", psci_version);
    test("psci-features", psci_features);
    test("smccc-version", smccc_version);
    test("cpu-on-errors", cpu_on_errors);
    test("affinity-info", affinity_info);
    test("cpu-suspend-standby", cpu_suspend);
}

/// What takes more than one.
pub(crate) fn with_others() {
    test("cpu-on-entry-state", entry_state);
    test("cpu-on-of-a-running-vcpu", on_while_running);
    test("sgi-to-all-others", sgi_to_all_others);
    test("spin-lock-with-wfe", spin_lock_wfe);
}

/// Starts a job and returns the status of CPU_ON.
fn start(cpu: usize, job: fn(usize)) -> i64 {
    smp::start(cpu, job).map_or_else(|why| why.0, |()| SUCCESS)
}

fn psci_version() -> Outcome {
    let version = psci::call(psci::VERSION, [0; 3]);
    ensure!((0x1_0000..0x2_0000).contains(&version), "{version:#x}, expected 1.x");
    let migrate = psci::call(psci::MIGRATE_INFO_TYPE, [0; 3]);
    ensure!(migrate == 2 || migrate == NOT_SUPPORTED, "MIGRATE_INFO_TYPE is {migrate}");
    Ok(Done::Passed)
}

fn psci_features() -> Outcome {
    let there =
        [psci::CPU_SUSPEND, psci::CPU_OFF, psci::CPU_ON, psci::SYSTEM_OFF, psci::SYSTEM_RESET, psci::VERSION];
    for function in there.into_iter().chain([psci::AFFINITY_INFO, psci::FEATURES]) {
        let status = psci::call(psci::FEATURES, [function, 0, 0]);
        ensure!(status >= 0, "PSCI_FEATURES({function:#x}) is {status}");
    }
    for function in [0x8400_001f, 0xc400_00ff, 0x1234_5678] {
        let status = psci::call(psci::FEATURES, [function, 0, 0]);
        ensure!(status == NOT_SUPPORTED, "PSCI_FEATURES({function:#x}) is {status}");
    }
    Ok(Done::Passed)
}

fn smccc_version() -> Outcome {
    if psci::call(psci::FEATURES, [psci::SMCCC_VERSION, 0, 0]) < 0 {
        return Ok(Done::Skipped("no SMCCC_VERSION"));
    }
    let version = psci::call(psci::SMCCC_VERSION, [0; 3]);
    ensure!((0x1_0000..0x2_0000).contains(&version), "{version:#x}, expected 1.x");
    let status = psci::call(psci::SMCCC_ARCH_FEATURES, [0x8000_7ffe, 0, 0]);
    ensure!(status == NOT_SUPPORTED, "SMCCC_ARCH_FEATURES of an unknown function is {status}");
    Ok(Done::Passed)
}

fn cpu_on_errors() -> Outcome {
    let entry = secondary as extern "C" fn() -> ! as usize as u64;
    let status = psci::call(psci::CPU_ON, [machine().ids[0], entry, 0]);
    ensure!(status == ALREADY_ON, "CPU_ON of this vCPU is {status}");
    for target in [0xff, 0x00ff_ffff, 0xff_0000_0000, 1 << 24, u64::MAX] {
        let status = psci::call(psci::CPU_ON, [target, entry, 0]);
        ensure!(status == INVALID_PARAMETERS, "CPU_ON of {target:#x} is {status}");
    }
    Ok(Done::Passed)
}

fn affinity_info() -> Outcome {
    ensure!(psci::affinity_info(0) == SUCCESS, "this vCPU is {}", psci::affinity_info(0));
    for cpu in 1..smp::count() {
        ensure!(psci::affinity_info(cpu) == OFF, "vCPU {cpu} is {} before CPU_ON", psci::affinity_info(cpu));
    }
    let status = psci::call(psci::AFFINITY_INFO, [0x00ff_ffff, 0, 0]);
    ensure!(status == INVALID_PARAMETERS, "AFFINITY_INFO of no vCPU is {status}");
    Ok(Done::Passed)
}

/// A standby state (StateType 0) ends at the next interrupt and returns here.
fn cpu_suspend() -> Outcome {
    gic::enable(timer::VIRTUAL);
    let daif = cpu::mask_irq();
    let deadline = timer::now() + timer::micros(1000);
    timer::arm(deadline);
    let mut status = SUCCESS;
    while mrs!("isr_el1") == 0 && status == SUCCESS {
        status = psci::call(psci::CPU_SUSPEND, [0, 0, 0]);
    }
    let at = timer::now();
    cpu::restore_irq(daif);
    ensure!(status == SUCCESS, "CPU_SUSPEND is {status}");
    ensure!(at >= deadline, "woken {} ticks early", deadline - at);
    Ok(Done::Passed)
}

fn entry_state() -> Outcome {
    smp::on_all(|_| {});
    for cpu in 1..smp::count() {
        let [daif, sctlr, level] = smp::entry(cpu);
        ensure!(level == 1 << 2, "vCPU {cpu}: CurrentEL {level:#x}");
        ensure!(daif == 0b1111 << 6, "vCPU {cpu}: DAIF {daif:#x}, expected all masked");
        ensure!(sctlr & 0x1005 == 0, "vCPU {cpu}: SCTLR_EL1 {sctlr:#x}, expected MMU and caches off");
    }
    Ok(Done::Passed)
}

fn on_while_running() -> Outcome {
    STAY.store(true, Release);
    let first = start(1, stay);
    let second = start(1, stay);
    let up = soon(|| IN.load(Acquire) == 0b10);
    let third = start(1, stay);
    let state = psci::affinity_info(1);
    STAY.store(false, Release);
    smp::join(1);
    let off = psci::affinity_info(1);
    ensure!(off == OFF, "vCPU 1 is {off} after CPU_OFF");
    ensure!(first == SUCCESS && up, "first CPU_ON is {first}, came up: {up}");
    ensure!(matches!(second, ALREADY_ON | ON_PENDING), "CPU_ON right after it is {second}");
    ensure!(third == ALREADY_ON, "CPU_ON of a running vCPU is {third}");
    ensure!(state == SUCCESS, "AFFINITY_INFO of a running vCPU is {state}");
    Ok(Done::Passed)
}

fn sgi_to_all_others() -> Outcome {
    with_all_in(|| {
        for _ in 0..50 {
            let before: [u64; MAX_CPUS] = core::array::from_fn(|cpu| taken(cpu, 3));
            gic::send_others(3);
            let reached = || (1..smp::count()).all(|cpu| taken(cpu, 3) == before[cpu] + 1);
            ensure!(soon(reached), "not all others took the SGI");
            ensure!(taken(0, 3) == before[0], "the sender took it too");
        }
        Ok(Done::Passed)
    })
}

/// A ticket lock whose waiters sleep in WFE, woken by the exclusive monitor as in DDI0487 K13.3.
fn spin_lock_wfe() -> Outcome {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SERVING: AtomicU32 = AtomicU32::new(0);
    counted(|_| {
        for _ in 0..INCREMENTS / 10 {
            let ticket = NEXT.fetch_add(1, Relaxed);
            // SAFETY: loads a static; the exclusive load arms the monitor, whose clearing wakes WFE.
            unsafe {
                asm!("sevl", "1: wfe", "ldaxr {now:w}, [{at}]", "cmp {now:w}, {ticket:w}", "b.ne 1b",
                    now = out(reg) _, at = in(reg) SERVING.as_ptr(), ticket = in(reg) ticket, options(nostack));
            }
            for _ in 0..10 {
                increment();
            }
            SERVING.store(ticket.wrapping_add(1), Release);
        }
    })
}
