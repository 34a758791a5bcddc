//! FP snapshots: what is put back is what was taken, and what cannot be put back is refused.

mod support;

use arch_fake::fp::{EXTRA, File, Limit, Mind, Narrow, Op, Regs, SCALAR, VECTOR};
use kernel::fp::{FpContext, Snapshot, SnapshotError, Units};
use proptest::prelude::*;
use support::snapshot::seal;

const ALL: Units = SCALAR.union(VECTOR).union(EXTRA);

/// State that a guest wrote.
fn state(limit: Limit, ops: &[Op]) -> Regs {
    let mut file = File::new(1);
    let mut state = Regs::new(limit);
    let mut mind = Mind::new(limit, 0x77);
    state.restore(&mut file, limit.units);
    Regs::expose(&mut file, limit.units);
    for op in ops {
        mind.attempt(&mut file, *op).unwrap();
    }
    // The upper halves of an image that nobody may see stay zero.
    state.save(&mut file, limit.units);
    state
}

fn limit(units: Units) -> Limit {
    Limit { units, narrow: Narrow::Undefined }
}

fn snapshot() -> Snapshot {
    Snapshot::take(&state(limit(ALL), &[Op::Vector(1), Op::Scalar(0), Op::Extra(1)]))
}

/// Reads bytes that were changed, with a checksum that agrees.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Snapshot, SnapshotError> {
    let mut bytes = snapshot().bytes().to_vec();
    change(&mut bytes);
    if bytes.len() >= 24 {
        seal(&mut bytes);
    }
    Snapshot::from_bytes(bytes)
}

fn refused(result: Result<Snapshot, SnapshotError>, limit: Limit) -> String {
    result.and_then(|snapshot| snapshot.state::<Regs>(limit)).unwrap_err().to_string()
}

#[test]
fn the_format_is_what_the_documentation_says() {
    let bytes = snapshot().bytes().to_vec();
    assert_eq!(bytes.len(), 24 + 8 * 7);
    assert_eq!(bytes[..4], *b"FPSN");
    assert_eq!(bytes[4..8], [1, 0, 0x4e, 0xfa]);
    assert_eq!(bytes[8..12], [80, 0, 0, 0]);
    assert_eq!(bytes[12..16], [0b111, 0, 64, 0]);
    assert_eq!(bytes[16..20], [0; 4]);
    // R1, which was written whole: tag and count in both halves.
    assert_eq!(bytes[32..40], [2, 0, 0x77, 0, 2, 0, 0x77, 0]);
}

/// The sum was computed by another program (zlib's `crc32`).
#[test]
fn a_checksum_is_that_of_iso_3309() {
    let snapshot = snapshot();
    assert_eq!(snapshot.bytes()[20..24], 0x308e_e446_u32.to_le_bytes());
    assert_eq!(changed(|_| {}), Ok(snapshot));
}

#[test]
fn registers_are_named() {
    let snapshot = snapshot();
    let names: Vec<String> =
        snapshot.registers(&Regs::LAYOUT).map(|(register, _)| register.to_string()).collect();
    assert_eq!(names, ["R0", "R1", "R2", "R3", "MODE", "E0", "E1"]);
    let (_, value) = snapshot.registers(&Regs::LAYOUT).nth(6).unwrap();
    assert_eq!(value, [6, 0, 0x77, 0, 6, 0, 0x77, 0]);
}

#[test]
fn what_is_no_snapshot_is_refused_with_the_reason() {
    let all = limit(ALL);
    for (result, why) in [
        (Snapshot::from_bytes(vec![]), "cut off: 0 bytes, expected 24"),
        (changed(|bytes| bytes.truncate(79)), "cut off: 79 bytes, expected 80"),
        (changed(|bytes| bytes.push(0)), "too long: 81 bytes, expected 80"),
        (changed(|bytes| bytes[0] = b'f'), "no FP snapshot: it starts otherwise"),
        (changed(|bytes| bytes[4] = 2), "version 2, expected 1"),
        (changed(|bytes| bytes[6..8].copy_from_slice(&[183, 0])), "of ELF machine 183, expected 64078"),
        (changed(|bytes| bytes[8] = 0), "too long: 80 bytes, expected 24"),
        (changed(|bytes| bytes[8..12].fill(0xff)), "cut off: 80 bytes, expected 4294967295"),
        (changed(|bytes| bytes[13] = 9), "shape 9, which this architecture does not have"),
        // It says that it has no extra registers, and has them.
        (changed(|bytes| bytes[12] = 0b011), "too long: 80 bytes, expected 64"),
    ] {
        assert_eq!(refused(result, all), why);
    }
    let mut bytes = snapshot().bytes().to_vec();
    bytes[40] ^= 1;
    assert_eq!(Snapshot::from_bytes(bytes), Err(SnapshotError::Checksum));
}

#[test]
fn what_a_guest_cannot_have_is_refused() {
    assert!(refused(Ok(snapshot()), limit(SCALAR | VECTOR)).contains("the guest has"));
    let zeroes = Limit { units: ALL, narrow: Narrow::Zeroes };
    assert!(refused(Ok(snapshot()), zeroes).contains("shape 0"));
    let small = Snapshot::take(&state(limit(SCALAR | VECTOR), &[Op::Vector(2)]));
    assert!(small.state::<Regs>(limit(ALL)).is_ok(), "a guest with more units can have it");
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..4usize).prop_map(Op::Scalar),
        (0..4usize).prop_map(Op::Vector),
        (0..2usize).prop_map(Op::Extra)
    ]
}

proptest! {
    #[test]
    fn what_is_put_back_is_what_was_taken(ops in prop::collection::vec(any_op(), 0..12)) {
        let before = state(limit(ALL), &ops);
        let taken = Snapshot::take(&before);
        let read = Snapshot::from_bytes(taken.bytes().to_vec()).unwrap();
        prop_assert_eq!(read.state::<Regs>(limit(ALL)), Ok(before));
    }

    /// One bit that changes on the way is noticed, wherever it is.
    #[test]
    fn a_changed_bit_is_noticed(at in 0..80usize, bit in 0..8u32) {
        let mut bytes = snapshot().bytes().to_vec();
        bytes[at] ^= 1 << bit;
        prop_assert!(Snapshot::from_bytes(bytes).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        let bytes = if head { [snapshot().bytes()[..16].to_vec(), bytes].concat() } else { bytes };
        let _ = Snapshot::from_bytes(bytes).and_then(|snapshot| snapshot.state::<Regs>(limit(ALL)));
    }
}
