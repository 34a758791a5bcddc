extern crate std;

use std::string::{String, ToString};
use std::vec;

use proptest::prelude::*;

use super::*;
use crate::image::Part;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn image(at: u64, size: u64) -> Image {
    Image { parts: vec![Part { at: Gpa(at), bytes: 0..1, size }], entry: Gpa(at) }
}

/// As Debian's: 26 MiB from 2 MiB on.
fn linux() -> Image {
    image(2 * MIB, 26 * MIB)
}

#[test]
fn the_ram_disk_is_out_of_the_kernels_way() {
    // Four times the kernel's size behind it.
    assert_eq!(place(GIB, &linux(), Some(0x12_3456), 0x1000), Ok(Some(Gpa(132 * MIB))));
    assert_eq!(place(256 * MIB, &linux(), Some(124 * MIB), 0x1000), Ok(Some(Gpa(132 * MIB))));
    let small = image(0x8000_0123, 0x1000);
    assert_eq!(place(GIB, &small, Some(MIB), 0x1000), Ok(Some(Gpa(0x8001_0000))));
    // Where there is too little memory for that, at the end; in the upper range, if that has room.
    assert_eq!(place(128 * MIB, &linux(), Some(0x12_3456), 0x1000), Ok(Some(Gpa(0x7ed_0000))));
    assert_eq!(place(128 * MIB, &linux(), Some(100 * MIB), 0x1000), Ok(Some(Gpa(0x1c0_0000))));
    assert_eq!(place(382 * MIB, &linux(), Some(124 * MIB + 1), 0x1000), Ok(Some(Gpa(0x801f_0000))));
    assert_eq!(place(GIB, &linux(), Some(130 * MIB), 0x1000), Ok(Some(Gpa(0xa7e0_0000))));
    // Behind a kernel in the upper range, and in the lower one where there is no room behind it.
    let high = image(0x8000_0000, 100 * MIB);
    assert_eq!(place(358 * MIB, &high, Some(MIB), 0x1000), Ok(Some(Gpa(0x8650_0000))));
    assert_eq!(place(356 * MIB, &high, Some(MIB), 0x1000), Ok(Some(Gpa(0xff0_0000))));
    // There is none.
    assert_eq!(place(128 * MIB, &linux(), None, 0x1000), Ok(None));
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |ram, image: &Image, initrd, tree| -> String {
        place(ram, image, initrd, tree).unwrap_err().to_string()
    };
    let message = "memory: found 16384 KiB, expected at least 28672 KiB for its files";
    assert_eq!(refused(16 * MIB, &linux(), None, 0x400), message);
    let message = "memory: found 32768 KiB, expected at least 36928 KiB for its files";
    assert_eq!(refused(32 * MIB, &linux(), Some(8 * MIB), 0x400), message);
    // Not across the devices.
    let message = "memory: found 258048 KiB, expected at least 524288 KiB for its files";
    assert_eq!(refused(252 * MIB, &linux(), Some(256 * MIB), 0x400), message);
    let message = "memory: found 1048576 KiB, expected at least 18014398509481984 KiB for its files";
    assert_eq!(refused(GIB, &linux(), Some(u64::MAX), 0x400), message);
    let message = "device tree: found 1048577 bytes, expected at most 1048576";
    assert_eq!(refused(GIB, &linux(), None, MIB + 1), message);
    let message = "memory: found 137438953472 KiB, expected at most 137437118464 KiB";
    assert_eq!(refused(1 << 47, &linux(), None, 0x400), message);
    let kernels =
        [image(MIB, MIB), image(0xfff_f000, 0x1001), image(0x4000_0000, MIB), image(1 << 47, 1), image(0, 0)];
    for kernel in kernels {
        let message = refused(GIB, &kernel, None, 0x400);
        assert!(message.starts_with("kernel: found at 0x"), "{message}");
        assert!(message.ends_with("inside 0x200000..0x10000000 or 0x80000000..0x800000000000"), "{message}");
    }
}

#[test]
fn the_map_has_no_overlaps() {
    let start = 0..0x20_0000u64;
    for tables in [[&COMMAND_LINE, &EFI_TABLES], [&EFI_TABLES, &TREE]] {
        assert!(0 < tables[0].start && tables[0].end <= tables[1].start && tables[1].end <= start.end);
    }
    let devices = [&RAM[0], &PCH_PIC, &RTC, &POWER, &ISA, &UART, &MSI, &RAM[1]];
    for pair in devices.windows(2) {
        assert!(pair[0].end <= pair[1].start);
    }
    assert_eq!(FREE, [start.end..RAM[0].end, RAM[1].clone()]);
    assert!([SLEEP_CONTROL, RESET].iter().all(|register| POWER.contains(&(POWER.start + register))));
    assert_eq!(memory(96 * MIB), [0..96 * MIB, 0x8000_0000..0x8000_0000]);
    assert_eq!(memory(GIB), [0..256 * MIB, 0x8000_0000..0xb000_0000]);
    assert_eq!(memory(MAX_RAM), RAM);
}

/// Where a kernel may or may not be, by size.
fn any_kernel() -> impl Strategy<Value = Image> {
    let at = prop_oneof![0x20_0000u64..0x400_0000, 0x8000_0000u64..0x9000_0000, 0u64..0x1_0000_0000];
    (at, 1u64..0x400_0000).prop_map(|(at, size)| image(at, size))
}

proptest! {
    #[test]
    fn files_are_apart_and_inside(
        ram in 1u64..=512,
        kernel in any_kernel(),
        initrd in prop::option::of(prop_oneof![0u64..0x1400_0000, any::<u64>()]),
        tree in 1u64..=0x10_0000,
    ) {
        let ram = ram * 2 * MIB;
        let own = kernel.extent();
        match place(ram, &kernel, initrd, tree) {
            Ok(found) => {
                prop_assert_eq!(found.is_some(), initrd.is_some());
                let holds = |start: u64, end: u64| memory(ram).iter().any(|range| range.start <= start && end <= range.end);
                prop_assert!(holds(own.start, own.end) && own.start >= FREE[0].start);
                if let (Some(Gpa(at)), Some(length)) = (found, initrd) {
                    prop_assert!(at % PAGE == 0 && holds(at, at + length) && at >= FREE[0].start);
                    prop_assert!(at + length <= own.start || own.end <= at);
                }
            }
            // With as much memory as it asks for, there is enough, and it asks for no more than all of it in a row and
            // what alignment and the devices cost.
            Err(PlaceError::TooLittleMemory { found, needed }) => {
                prop_assert!(found == ram && needed > ram);
                if needed <= MAX_RAM {
                    prop_assert!(place(needed, &kernel, initrd, tree).is_ok());
                }
                let low = size(&RAM[0]);
                let most = memory_up_to(own.end).max(low).saturating_add(initrd.unwrap_or(0)).saturating_add(2 * PAGE);
                prop_assert!(needed <= most, "{} of {}", needed, most);
            }
            Err(PlaceError::Kernel { .. }) => {
                let inside = |range: &Range<u64>| range.start <= own.start && own.end <= range.end;
                prop_assert!(!FREE.iter().any(inside));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
