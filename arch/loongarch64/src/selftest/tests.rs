extern crate std;

use alloc::string::ToString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::println;

use kernel::fp::rules::Without;

use super::*;
use crate::fp::Refused;

use crate::fp_model::{Kind, Model};

/// What an instruction of a unit does on a model.
fn touch(model: &mut Model, unit: Units) -> Option<u64> {
    let code = ECODES.into_iter().find(|(one, _)| *one == unit).map(|(_, code)| code);
    if model.lets(unit) { None } else { code }
}

fn test<S: Rules<Step>>(kind: Kind) -> Result<Summary, String> {
    let mut file = File::new(Model::new(kind, 11), kind.present);
    let verdict = run_with::<Model, S>(&mut file, touch);
    assert!(verdict.is_err() || file.hardware_mut().euen == 0);
    verdict
}

#[test]
fn every_kind_of_cpu_passes() {
    for present in [Units::empty(), FPU, FPU | LSX, VECTORS, FPU | LBT, VECTORS | LBT] {
        for (refuses, keeps_tm) in [(false, false), (true, false), (false, true)] {
            let kind = Kind { present, refuses, keeps_tm: keeps_tm && present.contains(LBT) };
            let summary = test::<Sound>(kind).unwrap_or_else(|wrong| panic!("{kind:?}: {wrong}"));
            assert_eq!(summary.checks == 0, present.is_empty());
        }
    }
}

#[test]
fn peculiarities_are_found_and_said() {
    let summary = test::<Sound>(Kind { refuses: true, keeps_tm: true, ..Kind::FULL }).unwrap();
    let twist = Twist { renames: true, top_without_tm: true, cleared_by_write: false };
    assert_eq!((summary.raised, summary.twist), (Raised::Refused, Some(twist)));
    // The model takes now one way, now the other.
    assert_eq!(summary.above, Some(Above::Other));
    let text = Summary { checks: 7, ..summary }.to_string();
    let wanted = "fpu+lsx+lasx+lbt, 7 checks; a scalar write changes what is above it; FCSR refuses causes that are \
        enabled; TM does rename, is not cleared by a write; TOP does last without it";
    assert_eq!(text, wanted);
    let plain = test::<Sound>(Kind { present: FPU, ..Kind::FULL }).unwrap();
    let text = Summary { checks: 7, ..plain }.to_string();
    assert_eq!(text, "fpu, 7 checks; FCSR takes causes that are enabled");
}

/// An instruction that traps in the hypervisor is a panic of the model.
fn fails<S: Rules<Step>>(kind: Kind) -> bool {
    catch_unwind(AssertUnwindSafe(|| test::<S>(kind).inspect_err(|wrong| println!("{wrong}")).is_err()))
        .unwrap_or(true)
}

#[test]
fn every_step_is_missed() {
    assert!(fails::<Without<{ Step::UntwistToSave as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::UntwistToLoad as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::KeepTop as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::StatusLast as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::OwnUp as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::KeepForm as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::ZeroAbove as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::GateLbt as u8 }>>(Kind { present: VECTORS, ..Kind::FULL }));
    assert!(fails::<Without<{ Step::OpenForTop as u8 }>>(Kind::FULL));
    assert!(fails::<Without<{ Step::LbtNeedsFpu as u8 }>>(Kind::FULL));
}

/// What can be wrong with a CPU, or with an emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// EUEN is ignored.
    Open,
    /// Each unit raises the exception of scalars.
    OneCode,
    /// Vectors lose their upper words on the way to memory.
    Upper,
    /// One FCC is stuck.
    Fcc,
    /// TOP is not written.
    Top,
    /// The flags of x86 are not written.
    Flags,
}

struct Flawed(Model, Flaw);

impl FpRegs for Flawed {
    fn set_euen(&mut self, value: u64) {
        self.0.set_euen(value);
    }
    fn fcsr(&mut self) -> u32 {
        self.0.fcsr()
    }
    fn set_fcsr(&mut self, value: u32) {
        self.0.set_fcsr(value);
    }
    fn try_fcsr(&mut self, value: u32) -> Result<(), Refused> {
        self.0.try_fcsr(value)
    }
    fn clear_tm(&mut self) {
        self.0.clear_tm();
    }
    fn fcc(&mut self) -> u8 {
        self.0.fcc() | if self.1 == Flaw::Fcc { 0x80 } else { 0 }
    }
    fn set_fcc(&mut self, value: u8) {
        self.0.set_fcc(value);
    }
    fn top(&mut self) -> u8 {
        self.0.top()
    }
    fn set_top(&mut self, value: u8) {
        self.0.set_top(if self.1 == Flaw::Top { 0 } else { value });
    }
    fn store(&mut self, width: Width, form: Width, into: &mut [Line]) {
        self.0.store(width, form, into);
        if self.1 == Flaw::Upper && width == Width::Lasx {
            into[31].0[3] = 0;
        }
    }
    fn load(&mut self, width: Width, form: Width, from: &[Line]) {
        self.0.load(width, form, from);
    }
    fn fill(&mut self, width: Width, pattern: u64) {
        self.0.fill(width, pattern);
    }
    fn store_lbt(&mut self, into: &mut Lbt) {
        self.0.store_lbt(into);
    }
    fn load_lbt(&mut self, from: &Lbt) {
        let eflags = if self.1 == Flaw::Flags { 0 } else { from.eflags };
        self.0.load_lbt(&Lbt { eflags, ..*from });
        if self.1 == Flaw::Flags {
            self.0.lbt.eflags = self.0.chance() & 0xff;
        }
    }
    fn fill_lbt(&mut self, pattern: u64) {
        self.0.fill_lbt(pattern);
    }
}

#[test]
fn a_flawed_cpu_fails_and_it_is_said_why() {
    let verdict = |flaw| {
        let touch = |hardware: &mut Flawed, unit: Units| match flaw {
            Flaw::Open => None,
            Flaw::OneCode => touch(&mut hardware.0, unit).map(|_| 15),
            _ => touch(&mut hardware.0, unit),
        };
        let mut file = File::new(Flawed(Model::new(Kind::FULL, 5), flaw), Kind::FULL.present);
        run(&mut file, touch).unwrap_err()
    };
    assert_eq!(
        verdict(Flaw::Open),
        "the exception of fpu with EUEN for none: found None, expected Some(\n    0xf,\n)"
    );
    assert!(verdict(Flaw::OneCode).starts_with("the exception of lsx with EUEN for none: found Some("));
    let upper = verdict(Flaw::Upper);
    assert!(
        upper.starts_with("policy eager, fpu next to ") && upper.contains("word 3 of register 31: found 0x0"),
        "{upper}"
    );
    assert!(verdict(Flaw::Fcc).contains("guest 0: FCC: found 0x"), "{}", verdict(Flaw::Fcc));
    // Registers are not where TOP says, or TOP itself is not what it was.
    let top = verdict(Flaw::Top);
    assert!(top.contains(" of register ") || top.contains("TOP: found 0x0"), "{top}");
    assert!(verdict(Flaw::Flags).contains("SCR and flags"), "{}", verdict(Flaw::Flags));
}
