//! The ways into the hypervisor on AArch64.

use core::arch::asm;

use guests::arch::{fp, gic, psci};
use guests::fp::Units;
use guests::mmio;
use guests::start::machine;

/// A call that nobody implements: the shortest way into the hypervisor and back.
const NULL_CALL: u64 = 0x4b00_0000;
/// Fermata's ledger of this VM: x0 to x3 are loads, saves, skips and bytes; x0 is -1 when unavailable.
const LEDGER_CALL: u64 = 0xc600_0001;
/// The rest of it: x0 is the touches of FP that trapped; -1 when unavailable.
const TOUCHES_CALL: u64 = 0xc600_0002;

/// The names of what is measured with vectors longer than those of SIMD.
pub(crate) const WIDE_NAMES: [&str; 3] = ["switch_sve_one", "switch_sve_both", "touch_sve"];
/// The units with such vectors.
pub(crate) const WIDE: Units = Units::SVE;

/// Enables all units, with vectors as long as they can be.
pub(crate) fn enable_all() {
    fp::enable(fp::present());
    if fp::present().has(Units::SCALED) {
        fp::set_zcr(0xf);
    }
}

/// Executes one SVE instruction.
pub(crate) fn touch_wide() {
    fp::touch_scalable();
}

/// Returns what uses these units and no more.
pub(crate) fn touch_of(units: Units) -> Option<fn()> {
    match units {
        Units::SIMD => Some(fp::touch),
        Units::SVE | Units::SCALED => Some(touch_wide),
        _ => None,
    }
}

/// Tells whether calls are answered: firmware does where no hypervisor is.
pub(crate) fn has_calls() -> bool {
    true
}

/// Makes a call that nobody implements.
pub(crate) fn null_call() {
    // SAFETY: the calling convention lets a call change x0 to x17 (DEN0028 2.6); this one is not implemented.
    unsafe {
        asm!("hvc #0", inout("x0") NULL_CALL => _, lateout("x1") _, lateout("x2") _, lateout("x3") _,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _,
            lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _,
            lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _, options(nostack));
    }
}

/// Reads this VM's ledger; all ones when there is none.
pub(crate) fn ledger() -> [u64; 4] {
    psci::hvc(LEDGER_CALL, [0; 3])
}

/// Reads how many touches of FP trapped in this VM; 0 when nobody counts.
pub(crate) fn traps() -> u64 {
    let [traps, ..] = psci::hvc(TOUCHES_CALL, [0; 3]);
    if traps == u64::MAX { 0 } else { traps }
}

/// Returns the address of a 32-bit register of an emulated device: GICD_TYPER.
pub(crate) fn device() -> u64 {
    machine().chips.gicd + gic::GICD_TYPER
}

/// Reads a register of an emulated device.
pub(crate) fn device_read(address: u64) {
    mmio::read32(address);
}
