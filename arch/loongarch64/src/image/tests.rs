extern crate std;

use std::string::{String, ToString};
use std::vec;

use proptest::prelude::*;

use super::*;

/// Where an ELF file's program headers are here: not at a multiple of eight, which the format allows.
const HEADERS_AT: usize = 68;

/// The header of an image with the given entry, size and load offset, in a file of 4 KiB.
fn header(entry: u64, size: u64, offset: u64) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..2].copy_from_slice(b"MZ");
    file[0x08..0x10].copy_from_slice(&entry.to_le_bytes());
    file[0x10..0x18].copy_from_slice(&size.to_le_bytes());
    file[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
    file[0x38..0x3c].copy_from_slice(&[0xcd, 0x23, 0x82, 0x81]);
    file
}

/// A program header: type, offset, address, size in the file and in memory.
type Segment = (u32, u64, u64, u64, u64);

/// An ELF file of 4 KiB with those segments (Tool Interface Standard ELF 1.2, with the fields of 64-bit files).
fn elf_file(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x10, &2u16.to_le_bytes());
    put(0x12, &258u16.to_le_bytes());
    put(0x14, &1u32.to_le_bytes());
    put(0x18, &entry.to_le_bytes());
    put(0x20, &(HEADERS_AT as u64).to_le_bytes());
    put(0x34, &64u16.to_le_bytes());
    put(0x36, &56u16.to_le_bytes());
    put(0x38, &(segments.len() as u16).to_le_bytes());
    for (index, (kind, offset, at, length, size)) in segments.iter().enumerate() {
        let start = HEADERS_AT + index * 56;
        put(start, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (16, at), (24, at), (32, length), (40, size), (48, &0x1000)] {
            put(start + field, &value.to_le_bytes());
        }
    }
    file
}

fn part_of(at: u64, bytes: Range<usize>, size: u64) -> Part {
    Part { at: Gpa(at), bytes, size }
}

fn refused(file: &[u8]) -> String {
    Image::parse(file).unwrap_err().to_string()
}

#[test]
fn the_header_of_an_image_says_where_and_how_much() {
    let image = Image::parse(&header(0x20_0004, 0x1a0_0000, 0x20_0000)).unwrap();
    assert_eq!(image.parts, [part_of(0x20_0000, 0..0x1000, 0x1a0_0000)]);
    assert_eq!((image.entry, image.extent()), (Gpa(0x20_0004), 0x20_0000..0x1c0_0000));
    // Early ones have virtual addresses; one that is longer than it says is as long as it is.
    let image = Image::parse(&header(0x9000_0000_0020_0004, 0x10, 0x9000_0000_0020_0000)).unwrap();
    assert_eq!(image.parts, [part_of(0x20_0000, 0..0x1000, 0x1000)]);
    assert_eq!(image.entry, Gpa(0x20_0004));
}

#[test]
fn segments_are_loaded_where_they_say() {
    // In the order of the file, with one that is no part of memory and one that is empty.
    let file = elf_file(
        0x9000_0000_0020_0010,
        &[
            (1, 0x800, 0x9000_0000_0030_0000, 0x100, 0x5000),
            (4, 0x100, 0x9000_0000_0070_0000, 0x100, 0x100),
            (1, 0x200, 0x9000_0000_0020_0000, 0x400, 0x400),
            (1, 0x200, 0x9000_0000_0020_0000, 0, 0),
            (1, 0, 0x9000_0000_0040_0000, 0, 0x100),
        ],
    );
    let image = Image::parse(&file).unwrap();
    let expected = [
        part_of(0x20_0000, 0x200..0x600, 0x400),
        part_of(0x30_0000, 0x800..0x900, 0x5000),
        part_of(0x40_0000, 0..0, 0x100),
    ];
    assert_eq!(image, Image { parts: expected.to_vec(), entry: Gpa(0x20_0010) });
    assert_eq!(image.extent(), 0x20_0000..0x40_0100);
}

#[test]
fn what_is_no_kernel_is_named() {
    assert_eq!(refused(b"MZ"), "found 2 bytes, expected a LoongArch Image or ELF file");
    assert_eq!(refused(b""), "found 0 bytes, expected a LoongArch Image or ELF file");
    assert_eq!(refused(b"\x7fELF\x02\x01\x01"), "found 7 bytes, expected a LoongArch Image or ELF file");
    let mut file = vec![0; 64];
    file[..2].copy_from_slice(&[0x1f, 0x8b]);
    assert_eq!(refused(&file), "found a gzip file, expected a LoongArch Image or ELF file");
    let mut file = header(0, 0, 0);
    file[4..8].copy_from_slice(b"zimg");
    let zboot = "found a compressed EFI program (zboot), expected a LoongArch Image or ELF file";
    assert_eq!(refused(&file), zboot);
    let mut file = vec![0; 64];
    file[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let magic = "no ELF file, and magic at byte 56: found 0x644d5241, expected 0x818223cd";
    assert_eq!(refused(&file), magic);
    let beyond = "segment at 0xfffffffff000: found 0x1001 bytes, expected its end below 2^48";
    assert_eq!(refused(&header(0xffff_ffff_f000, 0x1001, 0xffff_ffff_f000)), beyond);
    let entry = "entry point: found 0x201000, expected an address of what is loaded";
    assert_eq!(refused(&header(0x20_1000, 0x2000, 0x20_0000)), entry);
}

#[test]
fn what_is_no_program_for_loongarch_is_named() {
    let changed = |at: usize, value: u8| {
        let mut file = elf_file(0x20_0000, &[(1, 0, 0x20_0000, 0x100, 0x100)]);
        file[at] = value;
        refused(&file)
    };
    assert_eq!(changed(4, 1), "ELF header: EI_CLASS: found 0x1, expected 0x2");
    assert_eq!(changed(5, 2), "ELF header: EI_DATA: found 0x2, expected 0x1");
    assert_eq!(changed(6, 0), "ELF header: EI_VERSION: found 0x0, expected 0x1");
    assert_eq!(changed(0x10, 1), "ELF header: e_type: found 0x1, expected 0x2");
    assert_eq!(changed(0x12, 0xb7), "ELF header: e_machine: found 0x1b7, expected 0x102");
    let headers = "ELF header: e_phoff, e_phnum, e_phentsize: expected program headers inside the file";
    assert_eq!(changed(0x23, 1), headers);
    assert_eq!(changed(0x36, 55), headers);
    assert_eq!(changed(0x39, 1), headers);
}

#[test]
fn segments_that_make_no_sense_are_named() {
    let refused = |segments: &[Segment]| refused(&elf_file(0x20_0000, segments));
    assert_eq!(refused(&[]), "ELF file: found no PT_LOAD segment, expected one");
    let truncated = "segment at 0x200000: found 0x2 bytes at 0xfff of the file for 0x2 bytes of memory, expected all \
                     of them in the file, and no more than memory";
    assert_eq!(refused(&[(1, 0xfff, 0x20_0000, 2, 2)]), truncated);
    for (offset, length, size) in [(u64::MAX, 2, 2), (0, u64::MAX, u64::MAX), (0, 2, 1), (0, 1, 0)] {
        assert!(refused(&[(1, offset, 0x20_0000, length, size)]).starts_with("segment at 0x200000: found"));
    }
    let overlap = "segments at 0x200000 and 0x20ffff: found an overlap, expected them apart";
    assert_eq!(refused(&[(1, 0, 0x20_ffff, 1, 1), (1, 0, 0x20_0000, 0x10, 0x1_0000)]), overlap);
    let beyond = "segment at 0xfffffffffff8: found 0x9 bytes, expected its end below 2^48";
    assert_eq!(refused(&[(1, 0, 0xffff_ffff_fff8, 8, 9)]), beyond);
    // Entered in what is zero.
    let entry = "entry point: found 0x200000, expected an address of what is loaded";
    assert_eq!(refused(&[(1, 0, 0x20_0000, 0, 0x100)]), entry);
}

/// An address near the start, or near an end.
fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0x20_0000u64..0x20_1000, 1 => any::<u64>(), 1 => (1u64 << 48) - 16..1 << 48]
}

fn any_length() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..0x400, 1 => any::<u64>()]
}

proptest! {
    #[test]
    fn what_is_accepted_can_be_loaded(
        entry in any_address(),
        segments in prop::collection::vec(
            (prop_oneof![4 => Just(1u32), 1 => any::<u32>()], any_length(), any_address(), any_length(), any_length()),
            0..6,
        ),
        smash in prop::option::of((0usize..0x200, any::<u8>())),
    ) {
        let mut file = elf_file(entry, &segments);
        if let Some((at, value)) = smash {
            file[at] = value;
        }
        check(&file)?;
    }

    #[test]
    fn images_are_loaded_or_refused(entry in any_address(), size in any_length(), at in any_address()) {
        check(&header(entry, size, at))?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        mut file in prop::collection::vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![&b"\x7fELF\x02\x01\x01"[..], b"MZ", b""]),
    ) {
        let length = start.len().min(file.len());
        file[..length].copy_from_slice(&start[..length]);
        check(&file)?;
    }
}

/// What is promised of an image, or of the message.
fn check(file: &[u8]) -> Result<(), TestCaseError> {
    match Image::parse(file) {
        Err(error) => prop_assert!(error.to_string().contains("expected ")),
        Ok(image) => {
            let mut last = 0;
            for part in &image.parts {
                prop_assert!(part.at.0 >= last && part.size > 0);
                last = part.at.0 + part.size;
                prop_assert!(last <= 1 << 48);
                prop_assert!(
                    file.get(part.bytes.clone()).is_some_and(|bytes| bytes.len() as u64 <= part.size)
                );
            }
            prop_assert_eq!(image.extent(), image.parts[0].at.0..last);
            let at_entry = image.parts.iter().find_map(|part| {
                let offset = image.entry.0.checked_sub(part.at.0)?;
                file[part.bytes.clone()].get(offset as usize)
            });
            prop_assert!(at_entry.is_some());
        }
    }
    Ok(())
}
