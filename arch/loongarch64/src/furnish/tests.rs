extern crate std;

use std::string::{String, ToString};
use std::vec;

use kernel::addr::Hpa;
use kernel::fdt::Tree;
use proptest::prelude::*;

use super::*;

const HZ: u32 = 100_000_000;

/// A raw image of 4 KiB that wants to be `size` bytes at `at`.
fn kernel(at: u64, size: u64) -> Vec<u8> {
    let mut file = vec![0x5a; 0x1000];
    file[..2].copy_from_slice(b"MZ");
    file[0x08..0x10].copy_from_slice(&(at + 4).to_le_bytes());
    file[0x10..0x18].copy_from_slice(&size.to_le_bytes());
    file[0x18..0x20].copy_from_slice(&at.to_le_bytes());
    file[0x38..0x3c].copy_from_slice(&[0xcd, 0x23, 0x82, 0x81]);
    file
}

fn guest(memory: u64) -> Guest<'static> {
    Guest { cpus: 2, memory, bootargs: "quiet x=1", initrd: None }
}

/// What is in memory at an address.
fn found<'a>(furniture: &'a Furniture<'_>, at: u64) -> &'a [u8] {
    let file = furniture.files.iter().find(|(own, _)| own.0 == at);
    &file.unwrap_or_else(|| panic!("nothing at {at:#x}")).1
}

#[test]
fn a_kernel_finds_what_it_was_given() {
    let (kernel, initrd) = (kernel(0x20_0000, 0x10_0000), vec![7; 0x12_3456]);
    let furniture = furnish(&guest(1 << 30), HZ, &kernel, Some(&initrd)).unwrap();
    assert_eq!(furniture.entry, Gpa(0x20_0004));
    assert_eq!(found(&furniture, 0x20_0000), kernel);
    let [efi, command_line, system_table] = Furniture::ARGUMENTS;
    assert_eq!((efi, found(&furniture, command_line)), (1, &b"quiet x=1\0"[..]));
    // By the tables, as a kernel or we ourselves read them.
    let read = |at: Hpa, bytes: &mut [u8]| {
        let part = furniture.files.iter().find_map(|(own, file)| {
            let offset = at.0.checked_sub(own.0)? as usize;
            file.get(offset..offset + bytes.len())
        });
        part.map(|part| bytes.copy_from_slice(part)).is_some()
    };
    let tree = efi::tree(Hpa(system_table), &read).unwrap();
    assert_eq!(efi::command_line(Hpa(command_line), &read), Ok(String::from("quiet x=1")));
    let tree = Tree::parse(found(&furniture, tree.0)).unwrap();
    let chosen = tree.find("/chosen").unwrap();
    let start = chosen.number("linux,initrd-start").unwrap().unwrap();
    assert_eq!(found(&furniture, start), initrd);
    assert_eq!(chosen.number("linux,initrd-end"), Ok(Some(start + 0x12_3456)));
    assert_eq!(kernel::platform::bootargs(&tree), Ok("quiet x=1"));
}

#[test]
fn the_memory_map_has_the_ram_disk_above_the_kernel_and_below() {
    let low = (kernel(0x20_0000, 0x100_0000), 1 << 30, 0x520_0000);
    let high = (kernel(0x8000_0000, 0x100_0000), 0x1000_0000 + 0x100_0000, 0xfff_0000);
    for (kernel, memory, initrd) in [low, high] {
        let furniture = furnish(&guest(memory), HZ, &kernel, Some(&[7; 0x1000])).unwrap();
        assert_eq!(found(&furniture, initrd).len(), 0x1000);
        let tables = found(&furniture, EFI_TABLES.start);
        let long = |at: usize| u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
        // The first configuration table is the map; its ranges have type, start, virtual start, pages, attributes.
        let map = (long((long(112) - EFI_TABLES.start) as usize + 16) - EFI_TABLES.start) as usize;
        let ranges = (0..long(map) as usize / 40).map(|index| map + 40 + index * 40);
        let ranges: Vec<_> = ranges.map(|at| (long(at), long(at + 8), long(at + 24))).collect();
        assert_eq!(ranges.iter().map(|(.., pages)| pages << 12).sum::<u64>(), memory);
        assert!(ranges.contains(&(2, initrd, 1)), "{ranges:x?}");
        assert!(ranges.contains(&(1, furniture.entry.0 - 4, 0x1000)), "{ranges:x?}");
    }
}

#[test]
fn what_cannot_be_started_says_why() {
    let refused =
        |guest: &Guest<'_>, kernel: &[u8]| furnish(guest, HZ, kernel, None).unwrap_err().to_string();
    let good = kernel(0x20_0000, 0x10_0000);
    let none = "kernel: found 2 bytes, expected a LoongArch Image or ELF file";
    assert_eq!(refused(&guest(1 << 30), b"MZ"), none);
    let little = "memory: found 2048 KiB, expected at least 3072 KiB for its files";
    assert_eq!(refused(&guest(2 << 20), &good), little);
    let nul = refused(&Guest { bootargs: "\0", ..guest(1 << 30) }, &good);
    assert!(nul.starts_with("its device tree could not be made: "), "{nul}");
}

proptest! {
    #[test]
    fn files_are_in_memory_and_apart(
        memory in 1u64..400,
        at in prop_oneof![0x20_0000u64..0x100_0000, 0x8000_0000u64..0x8100_0000],
        size in 1u64..0x200_0000,
        initrd in prop::option::of(0usize..0x10_0000),
        cpus in 1u32..=8,
        bootargs in "[ -~]{0,2047}",
    ) {
        let guest = Guest { cpus, bootargs: &bootargs, ..guest(memory << 21) };
        let (kernel, initrd) = (kernel(at, size), initrd.map(|length| vec![1; length]));
        let Ok(furniture) = furnish(&guest, HZ, &kernel, initrd.as_deref()) else { return Ok(()) };
        let mut ranges: Vec<_> =
            furniture.files.iter().map(|(at, bytes)| at.0..at.0 + bytes.len() as u64).collect();
        ranges.push(at + kernel.len() as u64..(at + size).max(at + kernel.len() as u64));
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{:x?}", ranges);
        let memory = layout::memory(guest.memory);
        for range in ranges {
            prop_assert!(memory.iter().any(|own| own.start <= range.start && range.end <= own.end), "{:x?}", range);
        }
        let tables = furniture.files.iter().find(|(at, _)| at.0 == EFI_TABLES.start).unwrap();
        prop_assert!(tables.1.len() as u64 <= EFI_TABLES.end - EFI_TABLES.start);
    }
}
