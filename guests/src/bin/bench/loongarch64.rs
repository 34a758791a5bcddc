//! The ways into the hypervisor on LoongArch64.

use core::arch::asm;

use guests::arch::{chips, hypercall};
use guests::fp::{self, Units};
use guests::mmio;
use guests::start::machine;

/// The names of what is measured with vectors longer than those of the FPU.
pub(crate) const WIDE_NAMES: [&str; 3] = ["switch_lasx_one", "switch_lasx_both", "touch_lasx"];
/// The units with such vectors.
pub(crate) const WIDE: Units = Units::LASX;

/// Enables all units.
pub(crate) fn enable_all() {
    fp::enable(fp::present());
}

/// Executes one LASX instruction: every byte of xr31 becomes 1.
pub(crate) fn touch_wide() {
    // SAFETY: changes xr31 only, which the compiler does not use.
    unsafe { asm!("xvrepli.b $xr31, 1", options(nomem, nostack)) };
}

/// Executes one LSX instruction: every byte of vr31 becomes 1.
fn touch_lsx() {
    // SAFETY: changes the register only, which the compiler does not use.
    unsafe { asm!("vrepli.b $vr31, 1", options(nomem, nostack)) };
}

/// Returns what uses these units and no more.
pub(crate) fn touch_of(units: Units) -> Option<fn()> {
    match units {
        Units::FPU => Some(fp::touch),
        Units::LSX => Some(touch_lsx),
        Units::LASX => Some(touch_wide),
        _ => None,
    }
}

/// Tells whether calls are answered.
pub(crate) fn has_calls() -> bool {
    hypercall::is_there()
}

/// Makes a call that nobody implements.
pub(crate) fn null_call() {
    hypercall::call::<{ hypercall::NOBODY }>([0; 4]);
}

/// Reads this VM's ledger; all ones when there is none.
pub(crate) fn ledger() -> [u64; 4] {
    let asked = [hypercall::LEDGER, 0, 0, 0];
    if hypercall::is_there() { hypercall::call::<{ hypercall::FERMATA }>(asked) } else { [u64::MAX; 4] }
}

/// Reads how many touches of FP trapped in this VM; 0 when nobody counts.
pub(crate) fn traps() -> u64 {
    let [traps, ..] = hypercall::call::<{ hypercall::FERMATA }>([hypercall::TOUCHES, 0, 0, 0]);
    if traps == u64::MAX { 0 } else { traps }
}

/// Returns the address of a 32-bit register of an emulated device: the PCH-PIC's identification.
pub(crate) fn device() -> u64 {
    machine().chips.pic + chips::PIC_ID
}

/// Reads a register of an emulated device.
pub(crate) fn device_read(address: u64) {
    mmio::read32(address);
}
