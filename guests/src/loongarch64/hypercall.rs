//! Calls to the hypervisor by HVCL, whose immediate is a code that says whose call it is.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::trap;

/// Fermata's own calls; a0 is the function.
pub const FERMATA: u32 = 0x7ec;
/// Fermata's ledger of this VM: a0 to a3 are loads, saves, skips and bytes; a0 is -1 when unavailable.
pub const LEDGER: u64 = 1;
/// The rest of it: touches that trapped and were granted, touches refused, loads that widened a view, saves avoided.
pub const TOUCHES: u64 = 2;
/// A code that nobody has.
pub const NOBODY: u32 = 0x7ff;
/// The answer to what is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// Calls with a0 to a3; returns a0 to a3. Where there is no hypervisor, HVCL is an undefined instruction.
pub fn call<const CODE: u32>(mut a: [u64; 4]) -> [u64; 4] {
    // SAFETY: a call changes a0 to a3 at most, by Fermata's convention.
    unsafe {
        asm!("hvcl {code}", code = const CODE, inout("$a0") a[0], inout("$a1") a[1], inout("$a2") a[2],
            inout("$a3") a[3], options(nostack));
    }
    a
}

/// Tells whether there is a hypervisor that answers calls.
pub fn is_there() -> bool {
    let answered = AtomicBool::new(false);
    let trap = trap::catch(|| answered.store(call::<NOBODY>([0; 4])[0] == UNKNOWN, Relaxed));
    trap.is_none() && answered.load(Relaxed)
}
