extern crate std;

use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A header with the given offset, size and flags.
fn header(offset: u64, size: u64, flags: u64) -> Vec<u8> {
    let mut header = std::vec![0; HEADER_SIZE];
    header[8..16].copy_from_slice(&offset.to_le_bytes());
    header[16..24].copy_from_slice(&size.to_le_bytes());
    header[24..32].copy_from_slice(&flags.to_le_bytes());
    header[56..60].copy_from_slice(b"ARM\x64");
    header
}

#[test]
fn the_header_says_where_and_how_much() {
    // Flags of a Linux kernel with 4 KiB pages that can be placed anywhere.
    let image = Image::parse(&header(0, 0x1f0_0000, 0xa), 0x1e0_0000).unwrap();
    assert_eq!(image, Image { offset: 0, size: 0x1f0_0000 });
    let image = Image::parse(&header(0x8_0000, 0x10_0000, 0), 0x20_0000).unwrap();
    assert_eq!(image, Image { offset: 0x8_0000, size: 0x20_0000 });
    // An old one, which does not know its size.
    let image = Image::parse(&header(0, 0, 0), 0x20_0000).unwrap();
    assert_eq!(image, Image { offset: 0x8_0000, size: 0x20_0000 });
}

#[test]
fn what_is_no_image_is_named() {
    let refused = |start: &[u8], size| Image::parse(start, size).unwrap_err().to_string();
    assert_eq!(refused(&[0; 10], 10), "found 10 bytes, expected an arm64 Image");
    assert_eq!(refused(&[0; 64], 63), "found 63 bytes, expected an arm64 Image");
    assert_eq!(refused(&[], 4096), "found 4096 bytes, expected an arm64 Image");
    let magic = "no arm64 Image: magic at byte 56: found 0x464c457f, expected 0x644d5241";
    let mut elf = [0; 64];
    elf[56..60].copy_from_slice(b"\x7fELF");
    assert_eq!(refused(&elf, 4096), magic);
    let mut gzip = [0; 64];
    gzip[..2].copy_from_slice(&[0x1f, 0x8b]);
    assert_eq!(refused(&gzip, 4096), "found a gzip file, expected an arm64 Image");
    let mut zboot = header(0, 0, 0);
    zboot[..8].copy_from_slice(b"MZ\0\0zimg");
    assert_eq!(refused(&zboot, 4096), "found a compressed EFI program (zboot), expected an arm64 Image");
    let big = refused(&header(0, 0x1000, 1), 4096);
    assert_eq!(big, "flags: found a big-endian image, expected a little-endian one");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        mut start in prop::collection::vec(any::<u8>(), 0..80),
        size in any::<u64>(),
        magic in any::<bool>(),
    ) {
        if magic && start.len() >= 60 {
            start[56..60].copy_from_slice(b"ARM\x64");
        }
        match Image::parse(&start, size) {
            Ok(image) => prop_assert!(image.size >= size),
            Err(error) => prop_assert!(error.to_string().contains("found ")),
        }
    }
}
