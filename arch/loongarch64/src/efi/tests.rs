extern crate std;

use std::string::ToString;
use std::vec;

use proptest::prelude::*;

use super::*;

/// Memory of the machine: what is at an address, and nothing around it.
struct Memory(Vec<(u64, Vec<u8>)>);

impl Memory {
    fn read(&self, at: Hpa, bytes: &mut [u8]) -> bool {
        let found = self.0.iter().find_map(|(start, own)| {
            let offset = usize::try_from(at.0.checked_sub(*start)?).ok()?;
            own.get(offset..offset.checked_add(bytes.len())?)
        });
        found.map(|found| bytes.copy_from_slice(found)).is_some()
    }
}

fn find(memory: &Memory, table: u64) -> Result<Hpa, EfiError> {
    tree(Hpa(table), &|at: Hpa, bytes: &mut [u8]| memory.read(at, bytes))
}

fn text(memory: &Memory, at: u64) -> Result<String, EfiError> {
    command_line(Hpa(at), &|at: Hpa, bytes: &mut [u8]| memory.read(at, bytes))
}

const AT: Gpa = Gpa(0x2_0000);

fn contents() -> Contents<'static> {
    Contents {
        memory: &[0..0x1000_0000, 0x8000_0000..0xb000_0000],
        used: &[
            (0..0x20_0000, Use::LoaderData),
            (0x20_0000..0x1bf_fff1, Use::LoaderCode),
            (0xafed_0000..0xafff_3456, Use::LoaderData),
        ],
        initrd: Some(Gpa(0xafed_0000)..Gpa(0xafff_3456)),
        tree: Gpa(0x10_0000),
    }
}

/// The number of that many bytes that is at an offset.
fn number(blob: &[u8], at: usize, size: usize) -> u64 {
    blob[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A configuration table's address, by the first four bytes of its GUID.
fn table(blob: &[u8], guid: u32) -> Option<u64> {
    let count = number(blob, 104, 8) as usize;
    let start = (number(blob, 112, 8) - AT.0) as usize;
    (0..count)
        .map(|index| start + index * 24)
        .find(|at| number(blob, *at, 4) == guid.into())
        .map(|at| number(blob, at + 16, 8))
}

#[test]
fn the_checksum_is_the_one_of_ieee_802_3() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn the_system_table_is_as_the_specification_has_it() {
    let blob = build(AT, &contents());
    assert_eq!(&blob[..8], b"IBI SYST");
    // Revision 2.10, 120 bytes, reserved.
    assert_eq!((number(&blob, 8, 4), number(&blob, 12, 4), number(&blob, 20, 4)), (0x2_0064, 120, 0));
    let mut header = blob[..120].to_vec();
    header[16..20].fill(0);
    assert_eq!(number(&blob, 16, 4), u64::from(crc32(&header)));
    let vendor = (number(&blob, 24, 8) - AT.0) as usize;
    let units: Vec<u16> =
        blob[vendor..].chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    assert_eq!(String::from_utf16(&units).unwrap(), "Fermata\0");
    // No consoles, no services.
    assert!(blob[32..104].iter().all(|byte| *byte == 0));
}

#[test]
fn the_configuration_tables_lead_to_all_that_is_there() {
    let blob = build(AT, &contents());
    assert_eq!(table(&blob, 0xb1b6_21d5), Some(0x10_0000));
    let initrd = (table(&blob, 0x5568_e427).unwrap() - AT.0) as usize;
    assert_eq!((number(&blob, initrd, 8), number(&blob, initrd + 8, 8)), (0xafed_0000, 0x12_3456));
    let map = (table(&blob, 0x800f_683f).unwrap() - AT.0) as usize;
    // Size of the map, of a descriptor, version, key, size of the buffer.
    let header: Vec<u64> = (0..5).map(|index| number(&blob, map + index * 8, 8)).collect();
    assert_eq!(header, [6 * 40, 40, 1, 0, 6 * 40]);
    let ranges: Vec<[u64; 5]> = (0..6)
        .map(|index| core::array::from_fn(|field| number(&blob, map + 40 + index * 40 + field * 8, 8)))
        .collect();
    // Type, start, virtual start, pages, write-back.
    let expected = [
        [2, 0, 0, 0x200, 8],
        [1, 0x20_0000, 0, 0x1a00, 8],
        [7, 0x1c0_0000, 0, 0xe400, 8],
        [7, 0x8000_0000, 0, 0x2_fed0, 8],
        [2, 0xafed_0000, 0, 0x124, 8],
        [7, 0xafff_4000, 0, 0xc, 8],
    ];
    assert_eq!(ranges, expected);
    let bare = build(AT, &Contents { initrd: None, ..contents() });
    assert_eq!((table(&bare, 0x5568_e427), number(&bare, 104, 8)), (None, 2));
    assert!(bare.len() < blob.len());
}

#[test]
fn guids_are_written_down_as_the_specification_says() {
    let bytes = DEVICE_TREE.bytes();
    let expected =
        [0xd5, 0x21, 0xb6, 0xb1, 0x9c, 0xf1, 0xa5, 0x41, 0x83, 0x0b, 0xd9, 0x15, 0x2c, 0x69, 0xaa, 0xe0];
    assert_eq!(bytes, expected);
}

#[test]
fn our_own_reader_finds_the_tree() {
    let memory = Memory(vec![(AT.0, build(AT, &contents()))]);
    assert_eq!(find(&memory, AT.0), Ok(Hpa(0x10_0000)));
    // Firmware may name it by the address of its cached window.
    assert_eq!(find(&memory, 0x9000_0000_0002_0000), Ok(Hpa(0x10_0000)));
}

#[test]
fn what_firmware_passes_is_not_trusted() {
    let good = build(AT, &contents());
    let message = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut blob = good.clone();
        change(&mut blob);
        find(&Memory(vec![(AT.0, blob)]), AT.0).unwrap_err().to_string()
    };
    let put = |at: usize, value: u64| {
        move |blob: &mut Vec<u8>| blob[at..at + 8].copy_from_slice(&value.to_le_bytes())
    };
    let signature = "EFI system table: found signature 0x7, expected 0x5453595320494249";
    assert_eq!(message(&put(0, 7)), signature);
    let many = "EFI system table: found 257 configuration tables, expected at most 256";
    assert_eq!(message(&put(104, 257)), many);
    let none = "EFI system table: found 1 configuration tables, expected one with a device tree";
    assert_eq!(message(&put(104, 1)), none);
    let nowhere = "EFI configuration tables: found its address to be 0xfffffffffff8, expected memory";
    assert_eq!(message(&put(112, u64::MAX - 7)), nowhere);
    let cut = "EFI system table: found its address to be 0x20070, expected memory";
    assert_eq!(message(&|blob| blob.truncate(119)), cut);
    let empty = find(&Memory(Vec::new()), u64::MAX).unwrap_err().to_string();
    assert_eq!(empty, "EFI system table: found its address to be 0xffffffffffff, expected memory");
}

#[test]
fn a_command_line_ends_with_a_nul() {
    let memory = |bytes: &[u8]| Memory(vec![(0x100, bytes.to_vec())]);
    assert_eq!(text(&memory(b"quiet\0rubbish"), 0x100), Ok("quiet".into()));
    assert_eq!(text(&memory(b"\0"), 0x100), Ok("".into()));
    let most = vec![b'x'; MAX_COMMAND_LINE];
    assert_eq!(text(&memory(&[&most[..], b"\0"].concat()), 0x100).unwrap().len(), MAX_COMMAND_LINE);
    let refused = |bytes: &[u8]| text(&memory(bytes), 0x100).unwrap_err().to_string();
    let longer = "command line: found 4097 bytes of text, expected at most 4096, and a NUL behind";
    assert_eq!(refused(&vec![b'x'; MAX_COMMAND_LINE + 1]), longer);
    let odd = "command line: found 2 bytes of text, expected at most 4096, and a NUL behind";
    assert_eq!(refused(b"ab\xff\0"), odd);
    assert_eq!(refused(b"abc"), "command line: found its address to be 0x103, expected memory");
}

/// A range of some pages, or of a part of one.
fn any_range() -> impl Strategy<Value = (u64, u64)> {
    (0u64..0x6000, 1u64..0x5000)
}

proptest! {
    #[test]
    fn the_memory_map_covers_memory_once(gaps in prop::collection::vec(any_range(), 1..4), used in prop::collection::vec(any_range(), 0..5)) {
        let spread = |list: &[(u64, u64)], align: u64| {
            let mut at = 0;
            let ranges = list.iter().map(|(gap, size)| {
                let start = (at + gap) & !(align - 1);
                at = start.max(at).next_multiple_of(align) + size.next_multiple_of(align);
                at - size.next_multiple_of(align)..at
            });
            ranges.collect::<Vec<Range<u64>>>()
        };
        let memory = spread(&gaps, EFI_PAGE);
        let used: Vec<_> = spread(&used, 1).into_iter().map(|range| (range, Use::LoaderData)).collect();
        let map = memory_map(&Contents { memory: &memory, used: &used, initrd: None, tree: Gpa(0) });
        let pages = |range: &Range<u64>| (range.start..range.end).step_by(EFI_PAGE as usize).collect::<Vec<_>>();
        let listed: Vec<u64> = map.iter().flat_map(|(range, _)| pages(range)).collect();
        prop_assert_eq!(listed, memory.iter().flat_map(pages).collect::<Vec<_>>());
        for (range, usage) in &map {
            prop_assert!(range.start % EFI_PAGE == 0 && range.end % EFI_PAGE == 0);
            for page in pages(range) {
                let taken = used.iter().any(|(own, _)| own.start < page + EFI_PAGE && page < own.end);
                prop_assert_eq!(*usage == Use::LoaderData, taken, "{:#x}", page);
            }
        }
    }

    #[test]
    fn smashed_tables_are_read_or_refused(at in 0usize..400, value in any::<u64>(), count in 0u64..300) {
        let mut blob = build(AT, &contents());
        let at = at.min(blob.len() - 8);
        blob[at..at + 8].copy_from_slice(&value.to_le_bytes());
        blob[104..112].copy_from_slice(&count.to_le_bytes());
        let memory = Memory(vec![(AT.0, blob)]);
        match find(&memory, AT.0) {
            Ok(found) => prop_assert!(found.0 < 1 << 48),
            Err(error) => prop_assert!(error.to_string().contains("found")),
        }
    }
}
