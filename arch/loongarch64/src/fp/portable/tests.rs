use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kernel::fp::{FpContext, Snapshot};

use super::super::units::{FPU, LASX, LSX, VECTORS};
use super::super::{File, Fp};
use super::*;
use crate::fp_model::{Kind, Model};

const ALL: Units = VECTORS.union(LBT);

/// State of a guest with `limit` that was saved through `used`, with something in every register.
fn used(limit: Units, used: Units) -> Fp<Model> {
    let mut file = File::new(Model::new(Kind::FULL, 3), Kind::FULL.present);
    let mut state = Fp::<Model>::new(limit);
    state.restore(&mut file, used);
    Fp::<Model>::fill(&mut file, used, 0x0123_4567_89ab_cdef);
    state.save(&mut file, used);
    state
}

#[test]
fn a_snapshot_has_registers_as_wide_as_they_were_used() {
    for (limit, units, first, bytes) in [
        (ALL, FPU, "F0", 6 + 256 + 40),
        (VECTORS, FPU | LSX, "VR0", 6 + 512),
        (ALL, ALL, "XR0", 6 + 1024 + 40),
    ] {
        let snapshot = Snapshot::take(&used(limit, units));
        assert_eq!(snapshot.bytes().len(), 24 + bytes);
        let names: Vec<String> =
            snapshot.registers(&LAYOUT).map(|(register, _)| register.to_string()).collect();
        assert_eq!(names[..4].join(" "), ["FCSR FCC TOP", first].join(" "));
        assert_eq!(names.len(), if limit.contains(LBT) { 40 } else { 35 });
        let again = snapshot.state::<Fp<Model>>(limit).unwrap();
        assert_eq!(Snapshot::take(&again), snapshot);
    }
    assert_eq!(Snapshot::take(&Fp::<Model>::new(Units::empty())).bytes().len(), 24 + 6);
}

#[test]
fn a_snapshot_goes_only_to_a_guest_with_its_units() {
    let refusal = |from: Units, to: Units| {
        Snapshot::take(&used(from, from)).state::<Fp<Model>>(to).err().map(|why| why.to_string())
    };
    assert_eq!(refusal(FPU | LSX, VECTORS), None);
    assert_eq!(refusal(VECTORS, ALL), None);
    assert_eq!(refusal(VECTORS, FPU | LSX).as_deref(), Some("has lasx, and the guest has lsx"));
    assert_eq!(refusal(ALL, VECTORS).as_deref(), Some("has lasx+lbt, and the guest has lasx"));
}

#[test]
fn what_no_register_can_hold_is_refused() {
    let state = |shape: u8, top: u8| {
        let mut bytes = Vec::new();
        used(VECTORS, FPU).export(&mut bytes);
        bytes[5] = top;
        read(VECTORS, Form { shape, ..form(VECTORS, Width::Fpu) }, &bytes)
    };
    assert!(state(0, 7).is_ok());
    assert_eq!(state(0, 8).unwrap_err().to_string(), "TOP is 0x8, which has bits that mean nothing");
    assert_eq!(state(3, 0).unwrap_err(), SnapshotError::Shape(3));
    assert_eq!(
        register(Form { units: FPU, shape: 2, limit: 64, choice: 0 }, 0),
        None,
        "XR of a guest without LASX"
    );
    assert_eq!(register(form(LASX | VECTORS, Width::Lasx), 38), None);
}
