//! The checksum of FP snapshots, written down a second time, and snapshots that no CPU took.

use kernel::fp::Snapshot;

/// CRC-32 as in ISO 3309.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| {
                if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
            },
        )
    })
}

/// Puts the checksum right.
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = crc32(&[&bytes[..20], &bytes[24..]].concat());
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
}

/// A snapshot of these bytes, in which length and checksum are put right.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Snapshot {
    let length = bytes.len() as u32;
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    seal(&mut bytes);
    Snapshot::from_bytes(bytes).unwrap()
}
