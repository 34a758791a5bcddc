//! What is LoongArch's own: units that trap by themselves, units that are not there, and views of the same registers.

use core::arch::asm;

use guests::arch::trap::code;
use guests::fp::{self, Owner, State, Units};
use guests::report::{Done, Outcome, test};
use guests::{ensure, trap};

/// A unit, its name, the exception when it is off, and an instruction of it that changes nothing.
struct Unit {
    unit: Units,
    name: &'static str,
    off: u64,
    touch: fn(),
}

const UNITS: [Unit; 4] = [
    Unit { unit: Units::FPU, name: "FPU", off: code::FPD, touch: touch_fpu },
    Unit { unit: Units::LSX, name: "LSX", off: code::SXD, touch: touch_lsx },
    Unit { unit: Units::LASX, name: "LASX", off: code::ASXD, touch: touch_lasx },
    Unit { unit: Units::LBT, name: "LBT", off: code::BTD, touch: touch_lbt },
];

pub(crate) fn tests() {
    test("every-register-is-checked", every_register);
    for unit in &UNITS {
        if fp::present().has(unit.unit) {
            traps(unit);
        } else {
            absent(unit);
        }
    }
    test("narrow-views-share-registers", views);
}

fn touch_fpu() {
    // SAFETY: reads FCSR0.
    unsafe { asm!("movfcsr2gr {}, $fcsr0", out(reg) _, options(nostack, nomem)) };
}

fn touch_lsx() {
    // SAFETY: reads a vector register.
    unsafe { asm!("vpickve2gr.d {}, $vr3, 1", out(reg) _, options(nostack, nomem)) };
}

fn touch_lasx() {
    // SAFETY: reads a vector register.
    unsafe { asm!("xvpickve2gr.d {}, $xr3, 3", out(reg) _, options(nostack, nomem)) };
}

fn touch_lbt() {
    // SAFETY: reads a scratch register of LBT.
    unsafe { asm!("movscr2gr {}, $scr0", out(reg) _, options(nostack, nomem)) };
}

fn owner() -> Owner {
    crate::owner(0)
}

/// Shows that the check covers everything: one bit of any register is found.
fn every_register() -> Outcome {
    let pattern = State::pattern(owner(), 2, fp::present());
    let mut missed = None;
    let mut count = 0;
    pattern.each_changed(|register, lane, changed| {
        changed.load();
        count += 1;
        if pattern.check().is_none_or(|found| found.register != register || found.lane != lane) {
            missed.get_or_insert((register, lane));
        }
    });
    if let Some((register, lane)) = missed {
        return Err(guests::why!("a changed {register} lane {lane} was not found"));
    }
    ensure!(count >= 34, "{count} registers");
    Ok(Done::Passed)
}

/// A unit that is off traps to the guest, with its own code, and nothing is lost.
fn traps(unit: &Unit) {
    let name = guests::why!("{}-off-traps-to-the-guest", unit.name);
    test(name.as_str(), || {
        let pattern = State::pattern(owner(), 3, fp::present());
        fp::enable(fp::present());
        pattern.load();
        // Everything but the unit.
        fp::restore_controls(fp::controls() & !own_bit(unit));
        let trap = trap::catch(unit.touch);
        fp::enable(fp::present());
        ensure!(
            trap.is_some_and(|trap| trap.code() == unit.off && trap.subcode() == 0),
            "expected code {:#x}, found {trap:x?}",
            unit.off
        );
        ensure!(pattern.check().is_none(), "{}", pattern.check().expect("just seen"));
        Ok(Done::Passed)
    });
}

/// Returns the bit of EUEN that is the unit's alone.
fn own_bit(unit: &Unit) -> u64 {
    match unit.off {
        code::FPD => 1,
        code::SXD => 1 << 1,
        code::ASXD => 1 << 2,
        _ => 1 << 3,
    }
}

/// A unit that CPUCFG does not show is undefined, whatever EUEN says.
fn absent(unit: &Unit) {
    let name = guests::why!("{}-is-undefined", unit.name);
    test(name.as_str(), || {
        for bits in [own_bit(unit), 0b1111] {
            fp::restore_controls(bits);
            let trap = trap::catch(unit.touch);
            fp::enable(fp::present());
            ensure!(trap.is_some_and(|trap| trap.is_undefined()), "EUEN {bits:#x}: {trap:x?}");
        }
        Ok(Done::Passed)
    });
}

/// What is loaded in one width is seen in another, as far as both go, in both directions.
fn views() -> Outcome {
    let present = fp::present();
    for wide in [Units::LSX, Units::LASX] {
        for narrow in [Units::FPU, Units::LSX] {
            if !present.has(wide) || !wide.has(narrow) || wide == narrow {
                continue;
            }
            for (loaded, seen) in [(wide, narrow), (narrow, wide)] {
                let pattern = State::pattern(owner(), 4, loaded);
                fp::enable(loaded);
                pattern.load();
                fp::enable(seen);
                let found = pattern.compare(&State::read(seen));
                fp::enable(loaded);
                let after = pattern.check();
                fp::enable(present);
                if let Some(mismatch) = found.or(after) {
                    return Err(guests::why!("{loaded} seen through {seen}: {mismatch}"));
                }
            }
        }
    }
    Ok(Done::Passed)
}
