//! What is LoongArch's own: units that trap by themselves, units that are not there, and views of the same registers.

use core::arch::asm;

use guests::arch::fp::{set_tm, set_top, tm, top};
use guests::arch::trap::code;
use guests::fp::{self, Owner, Register, State, Units};
use guests::report::{Done, Outcome, test};
use guests::{ensure, trap};

/// A unit, its name, the exception when it is off, and instructions of it.
struct Unit {
    unit: Units,
    name: &'static str,
    off: u64,
    touch: &'static [fn()],
}

const UNITS: [Unit; 4] = [
    Unit { unit: Units::FPU, name: "FPU", off: code::FPD, touch: &[touch_fpu] },
    Unit { unit: Units::LSX, name: "LSX", off: code::SXD, touch: &[touch_lsx] },
    Unit { unit: Units::LASX, name: "LASX", off: code::ASXD, touch: &[touch_lasx] },
    Unit { unit: Units::LBT, name: "LBT", off: code::BTD, touch: &TOUCH_LBT },
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
    if fp::present().has(Units::LBT) {
        test("x87-top-survives", x87);
    }
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

/// What the emulator has of LBT.
const TOUCH_LBT: [fn(); 6] = [
    scratch,
    flags,
    || set_top(top()),
    enter_x87,
    leave_x87,
    || {
        push();
        pop();
    },
];

macro_rules! lbt {
    ($(#[$doc:meta] $name:ident: $code:literal;)*) => {
        $(
            #[$doc]
            fn $name() {
                // SAFETY: touches registers of LBT and the names of FP registers, which the compiler does not use.
                unsafe { asm!($code, out("$t0") _, options(nostack, nomem)) }
            }
        )*
    };
}

lbt! {
    /// Reads a scratch register.
    scratch: "movscr2gr $t0, $scr0";
    /// Reads the flags of x86.
    flags: "x86mfflag $t0, 0x3f";
    /// Sets FCSR0.TM.
    enter_x87: "x86settm";
    /// Clears FCSR0.TM.
    leave_x87: "x86clrtm";
    /// Adds one to TOP.
    pop: "x86inctop";
    /// Takes one from TOP.
    push: "x86dectop";
}

fn owner() -> Owner {
    crate::owner(0)
}

/// Shows that the check covers everything: one bit of any register is found.
fn every_register() -> Outcome {
    let (mut missed, mut count, mut has_top) = (None, 0, false);
    // TM is set in some patterns only, and TOP counts with it.
    for round in 2..10 {
        let pattern = State::pattern(owner(), round, fp::present());
        pattern.each_changed(|register, lane, changed| {
            changed.load();
            count += 1;
            has_top |= register == Register::Top;
            if pattern.check().is_none_or(|found| found.register != register || found.lane != lane) {
                missed.get_or_insert((register, lane));
            }
        });
    }
    if let Some((register, lane)) = missed {
        return Err(guests::why!("a changed {register} lane {lane} was not found"));
    }
    ensure!(count >= 8 * 34, "{count} registers");
    ensure!(has_top == fp::present().has(Units::LBT), "TOP in a pattern: {has_top}");
    Ok(Done::Passed)
}

/// A unit that is off traps to the guest, with its own code, and nothing is lost.
fn traps(unit: &Unit) {
    let name = guests::why!("{}-off-traps-to-the-guest", unit.name);
    test(name.as_str(), || {
        let pattern = State::pattern(owner(), 3, fp::present());
        fp::enable(fp::present());
        pattern.load();
        for (n, touch) in unit.touch.iter().enumerate() {
            // Everything but the unit.
            fp::restore_controls(fp::controls() & !own_bit(unit));
            let trap = trap::catch(*touch);
            fp::enable(fp::present());
            ensure!(
                trap.is_some_and(|trap| trap.code() == unit.off && trap.subcode() == 0),
                "instruction {n}: expected code {:#x}, found {trap:x?}",
                unit.off
            );
        }
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
            for (n, touch) in unit.touch.iter().enumerate() {
                fp::restore_controls(bits);
                let trap = trap::catch(*touch);
                fp::enable(fp::present());
                ensure!(
                    trap.is_some_and(|trap| trap.is_undefined()),
                    "EUEN {bits:#x}, instruction {n}: {trap:x?}"
                );
            }
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

/// TOP counts up and down and goes round, TM is FCSR0's bit, and both are kept: with TM and without, with LBT off in
/// between, and when it is FCSR0 that sets TM.
fn x87() -> Outcome {
    let all = fp::present();
    fp::enable(all);
    for place in 0..8 {
        for (mode, enter) in [("clear", leave_x87 as fn()), ("set by x86settm", enter_x87), ("set", set_tm)] {
            enter();
            let tm_is_set = tm();
            ensure!(tm_is_set == (mode != "clear"), "TM {tm_is_set}, expected {mode}");
            set_top(place);
            for (step, off) in [(nothing as fn(), 0), (pop, 1), (push, 0), (push, 7), (nothing, 7)] {
                step();
                fp::enable(Units::FPU);
                crate::pause(place as u32 * 8 + off as u32);
                let kept = tm();
                fp::enable(all);
                let (expected, found) = ((place + off) & 7, top());
                ensure!(
                    found == expected && kept == tm_is_set,
                    "TOP {found}, not {expected}; TM {kept}, {mode}"
                );
            }
        }
    }
    leave_x87();
    Ok(Done::Passed)
}

fn nothing() {}
