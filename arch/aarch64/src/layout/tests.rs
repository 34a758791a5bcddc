extern crate std;

use std::string::ToString;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn everything_follows_the_kernel() {
    let image = Image { offset: 0, size: 0x1f0_0123 };
    let placement = place(256 * MIB, &image, Some(0x12_3456), 0x2000).unwrap();
    assert_eq!(placement.kernel, Gpa(0x4000_0000));
    assert_eq!(placement.initrd, Some(Gpa(0x41f0_1000)));
    assert_eq!(placement.tree, Gpa(0x4202_5000));
    let bare = place(4 * MIB, &Image { offset: 0x8_0000, size: 0x1000 }, None, 0x2000).unwrap();
    let kernel = Gpa(0x4008_0000);
    assert_eq!(bare, Placement { kernel, initrd: None, tree: Gpa(0x4008_1000) });
}

#[test]
fn what_does_not_fit_is_named() {
    let image = Image { offset: 0, size: 64 * MIB };
    let refused = |ram, image: &Image, initrd, tree| place(ram, image, initrd, tree).unwrap_err().to_string();
    let message = "memory: found 65536 KiB, expected at least 65537 KiB for its files";
    assert_eq!(refused(64 * MIB, &image, None, 0x400), message);
    let message = "memory: found 131072 KiB, expected at least 18014398509481984 KiB for its files";
    assert_eq!(refused(128 * MIB, &Image { offset: u64::MAX, size: 1 }, None, 0x400), message);
    let message = "device tree: found 2097153 bytes, expected at most 2097152";
    assert_eq!(refused(128 * MIB, &image, None, 2 * MIB + 1), message);
    let message = "memory: found 1073741824 KiB, expected at most 1072693248 KiB";
    assert_eq!(refused(1 << 40, &image, None, 0x400), message);
}

#[test]
fn the_map_has_no_overlaps() {
    let redistributors = redistributors(64);
    assert!(GICD.end <= redistributors.start && redistributors.end <= UART.start && UART.end <= RAM);
    assert_eq!(redistributors.end - redistributors.start, 64 * 0x2_0000);
    assert_eq!([affinity(0), affinity(15), affinity(16), affinity(63)], [0, 15, 0x100, 0x30f]);
}

proptest! {
    #[test]
    fn files_are_apart_and_inside(
        ram in 1u64..=2048,
        offset in prop_oneof![Just(0), 0u64..0x20_0000, any::<u64>()],
        size in prop_oneof![1u64..0x400_0000, any::<u64>()],
        initrd in prop::option::of(prop_oneof![0u64..0x400_0000, any::<u64>()]),
        tree in 1u64..=0x20_0000,
    ) {
        let ram = ram * 2 * MIB;
        let image = Image { offset, size };
        let total = [offset, size, initrd.unwrap_or(0), tree].iter().map(|part| u128::from(*part)).sum::<u128>();
        match place(ram, &image, initrd, tree) {
            Ok(found) => {
                let initrd_at = found.initrd.map_or(found.tree.0, |at| at.0);
                prop_assert_eq!(found.initrd.is_some(), initrd.is_some());
                prop_assert_eq!(found.kernel.0, RAM + offset);
                prop_assert!(found.kernel.0 + size <= initrd_at);
                prop_assert!(initrd_at + initrd.unwrap_or(0) <= found.tree.0);
                prop_assert!(found.tree.0 + tree <= RAM + ram);
                prop_assert_eq!(found.tree.0 % 8, 0);
                prop_assert_eq!(found.tree.0 / MAX_TREE, (found.tree.0 + tree - 1) / MAX_TREE);
            }
            // What is refused is short of room, if not by more than alignment takes.
            Err(error) => {
                let short = total + 2 * 0x1000 + u128::from(MAX_TREE) > u128::from(ram);
                prop_assert!(short, "{}", error);
            }
        }
    }
}
