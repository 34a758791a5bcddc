//! The context by itself; `tests/fp.rs` plays the laws of the machine on the same model of the registers.

use kernel::fp::{FpContext, Units};

use super::*;
use crate::fp_model::{EFLAGS, JUNK, Kind, Model};

const ALL: Units = VECTORS.union(LBT);

fn file(kind: Kind) -> File<Model> {
    File::new(Model::new(kind, 3), kind.present)
}

/// Register `n` as it is in `model`, all of it.
fn xr(file: &File<Model>, n: usize) -> [u64; 4] {
    file.hardware.read(n, Width::Lasx)
}

#[test]
fn bring_up_conceals() {
    let file = file(Kind::FULL);
    assert_eq!(file.hardware.euen, 0);
    assert!(Fp::<Model>::exposed(&file).is_empty());
}

#[test]
fn euen_has_the_bits_of_the_units_and_is_written_when_it_changes() {
    let mut file = file(Kind::FULL);
    let before = file.hardware.euen_writes;
    Fp::<Model>::conceal(&mut file);
    assert_eq!(file.hardware.euen_writes, before);
    // EUEN: FPE 0, SXE 1, ASXE 2, BTE 3.
    for (units, euen) in [(FPU, 1), (FPU | LSX, 3), (VECTORS, 7), (FPU | LBT, 9)] {
        Fp::<Model>::expose(&mut file, units);
        Fp::<Model>::expose(&mut file, units);
        assert_eq!(file.hardware.euen, euen);
        assert_eq!((Fp::<Model>::exposed(&file), file.hardware.open()), (units, units));
    }
    assert_eq!(file.hardware.euen_writes, before + 4);
}

#[test]
fn what_is_open_for_the_guest_is_not_opened_again() {
    let mut file = file(Kind { present: VECTORS, ..Kind::FULL });
    let mut context = Fp::<Model>::new(VECTORS);
    context.restore(&mut file, FPU | LSX);
    Fp::<Model>::expose(&mut file, FPU | LSX);
    let before = file.hardware.euen_writes;
    context.save(&mut file, FPU | LSX);
    assert_eq!(file.hardware.euen_writes, before);
}

#[test]
fn bytes_are_those_of_the_view_and_its_status() {
    let mut file = file(Kind::FULL);
    let mut context = Fp::<Model>::new(ALL);
    // Nothing was ever saved through a wider view than F.
    let views = [FPU, FPU | LSX, VECTORS];
    assert_eq!(views.map(|units| context.bytes(units)), [264, 264, 264]);
    assert_eq!((context.bytes(LBT), context.bytes(Units::empty())), (40, 0));
    context.save(&mut file, VECTORS);
    assert_eq!(views.map(|units| context.bytes(units)), [264, 520, 1032]);
}

#[test]
fn closure_has_every_narrower_view_and_the_fpu_for_lbt() {
    let context = Fp::<Model>::new(ALL);
    let closures =
        [(FPU, FPU), (LSX, FPU | LSX), (LASX, VECTORS), (LBT, FPU | LBT), (LBT | LSX, FPU | LSX | LBT)];
    for (touched, closure) in closures {
        assert_eq!(context.closure(touched), closure);
    }
}

#[test]
fn a_first_wide_load_shows_zeroes_and_no_remains() {
    for width in Width::ALL {
        let mut file = file(Kind::FULL);
        let context = Fp::<Model>::new(ALL);
        context.restore(&mut file, width.units());
        for n in 0..REGISTERS {
            assert_eq!(file.hardware.read(n, width), [0; 4]);
        }
        assert_eq!((file.hardware.fcc, file.hardware.fcsr, file.hardware.top), (0, 0, 0));
    }
}

#[test]
fn a_narrow_save_keeps_the_upper_halves_in_memory() {
    let mut file = file(Kind::FULL);
    let mut context = Fp::<Model>::new(ALL);
    context.restore(&mut file, VECTORS);
    file.hardware.write(9, Width::Lasx, [1, 2, 3, 4]);
    context.save(&mut file, VECTORS);
    Fp::<Model>::fill(&mut file, VECTORS, JUNK);
    context.restore(&mut file, FPU | LSX);
    file.hardware.write(9, Width::Fpu, [5, 0, 0, 0]);
    context.save(&mut file, FPU);
    assert_eq!(context.image().form, Width::Lasx);
    context.restore(&mut file, VECTORS);
    assert_eq!(xr(&file, 9), [5, 2, 3, 4]);
}

/// Whichever way a CPU clears TM.
#[test]
fn a_twisted_file_is_saved_untwisted_and_restored_twisted() {
    for keeps_tm in [false, true] {
        let mut file = file(Kind { keeps_tm, ..Kind::FULL });
        let mut context = Fp::<Model>::new(FPU);
        context.restore(&mut file, FPU);
        for n in 0..REGISTERS {
            file.hardware.write(n, Width::Fpu, [n as u64, 0, 0, 0]);
        }
        (file.hardware.fcsr, file.hardware.top) = (fcsr::TM, 3);
        assert_eq!(file.hardware.read(0, Width::Fpu)[0], 3);
        // The guest cannot use LBT, and its CPU can: TM is in its reach all the same.
        assert_eq!(context.save(&mut file, FPU), Units::empty());
        assert!((0..REGISTERS).all(|n| context.image().word(n, 0) == n as u64));
        assert_eq!(*context.status(), Status { fcsr: fcsr::TM, fcc: file.hardware.fcc, top: 3 });
        assert_eq!(file.hardware.fcsr & fcsr::TM, 0);
        context.restore(&mut file, FPU);
        assert_eq!((file.hardware.fcsr, file.hardware.top), (fcsr::TM, 3));
        let names: [u64; 9] = core::array::from_fn(|n| file.hardware.read(n, Width::Fpu)[0]);
        assert_eq!(names, [3, 4, 5, 6, 7, 0, 1, 2, 8]);
    }
}

#[test]
fn what_is_not_twisted_survives_its_save() {
    let mut file = file(Kind::FULL);
    let mut context = Fp::<Model>::new(ALL);
    context.restore(&mut file, ALL);
    assert_eq!(context.save(&mut file, ALL), ALL);
    // Only the registers that TM twists are destroyed.
    file.hardware.fcsr = fcsr::TM;
    assert_eq!(context.save(&mut file, ALL), LBT);
}

/// Stock QEMU keeps the bit like any other.
#[test]
fn without_lbt_tm_is_a_bit_like_any_other() {
    let mut file = file(Kind { present: VECTORS, ..Kind::FULL });
    let mut context = Fp::<Model>::new(VECTORS);
    context.restore(&mut file, VECTORS);
    file.hardware.fcsr = fcsr::TM;
    assert_eq!(context.save(&mut file, VECTORS), VECTORS);
    context.restore(&mut file, VECTORS);
    assert_eq!(file.hardware.fcsr, fcsr::TM);
}

#[test]
fn a_refused_fcsr_loses_the_causes_that_are_enabled_and_nothing_else() {
    let mut file = file(Kind { refuses: true, ..Kind::FULL });
    let mut context = Fp::<Model>::new(FPU);
    context.restore(&mut file, FPU);
    // Division by zero (bit 3) was enabled and raised; inexact (bit 0) was raised and not enabled.
    let value = 1 << 3 | 1 << 27 | 1 << 24 | 0x0005_0300;
    file.hardware.fcsr = value;
    context.save(&mut file, FPU);
    assert_eq!(context.status().fcsr, value);
    context.restore(&mut file, FPU);
    assert_eq!(file.hardware.fcsr, value & !(1 << 27));
}

#[test]
fn filling_reaches_all_of_every_register() {
    let mut file = file(Kind::FULL);
    (file.hardware.fcsr, file.hardware.top) = (fcsr::TM, 5);
    file.hardware.write(3, Width::Lasx, [0, 0, 0, 0x55 << 32]);
    assert!(file.hardware.bears(0x55));
    Fp::<Model>::fill(&mut file, VECTORS, 7);
    Fp::<Model>::fill(&mut file, LBT, 7);
    assert!(!file.hardware.bears(0x55));
    assert!((0..REGISTERS).all(|n| xr(&file, n) == [7; 4]));
    let model = &file.hardware;
    assert_eq!((model.fcsr, model.fcc, model.top), (0, 0, 0));
    assert_eq!((model.lbt.scr, model.lbt.eflags), ([7; 4], 7 & EFLAGS));
    // A CPU without LBT has nothing to fill there.
    let mut plain = self::file(Kind { present: FPU, ..Kind::FULL });
    Fp::<Model>::fill(&mut plain, LBT, 7);
    Fp::<Model>::fill(&mut plain, VECTORS, 7);
    assert!((0..REGISTERS).all(|n| plain.hardware.read(n, Width::Fpu) == [7, 0, 0, 0]));
}
