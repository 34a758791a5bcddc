extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;

use kernel::addr::{Gpa, Hpa};
use kernel::fdt::{Node, Tree};
use kernel::mem::Region;
use proptest::prelude::*;

use super::*;

const HZ: u32 = 100_000_000;

fn guest(cpus: u32) -> Guest<'static> {
    Guest { cpus, memory: 1 << 30, bootargs: "quiet", initrd: None }
}

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

/// The chain of interrupt controllers from a device to the CPU, with the cells that name its interrupt at each.
fn chain<'a>(tree: &Tree<'a>, device: Node<'a>) -> Vec<(&'a str, Vec<u32>)> {
    let mut chain = Vec::new();
    let mut node = device;
    while let Some(interrupt) = node.interrupts().unwrap().next() {
        let interrupt = interrupt.unwrap();
        let kind = interrupt.controller.compatible().next().unwrap();
        chain.push((kind, interrupt.cells.cells().collect()));
        node = tree.find(&interrupt.controller.path().to_string()).unwrap();
    }
    chain
}

#[test]
fn our_own_readers_find_the_guests_machine() {
    let guest = Guest { initrd: Some(Gpa(0x8a00_0000)..Gpa(0x8a12_3456)), ..guest(3) };
    let blob = build(&guest, HZ).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let memory: Vec<_> = kernel::platform::memory(&tree).collect();
    assert_eq!(memory, [Ok(region(0, 0x1000_0000)), Ok(region(0x8000_0000, 0x3000_0000))]);
    let cpus: Vec<_> = kernel::platform::cpus(&tree).map(|cpu| cpu.unwrap()).collect();
    assert_eq!(cpus.iter().map(|cpu| cpu.hardware_id).collect::<Vec<_>>(), [0, 1, 2]);
    for cpu in cpus {
        let clock = tree.phandle(cpu.node.cell("clocks").unwrap().unwrap()).unwrap();
        assert_eq!(clock.cell("clock-frequency"), Ok(Some(HZ)));
        assert_eq!(clock.cell("#clock-cells"), Ok(Some(0)));
    }
    let stdout = kernel::platform::stdout(&tree).unwrap().unwrap();
    assert_eq!((stdout.registers, stdout.shift, stdout.width), (region(0x1fe0_01e0, 8), 0, None));
    assert_eq!(stdout.options, "115200n8");
    assert!(stdout.node.is_compatible("ns16550a"));
    assert_eq!(stdout.node.cell("clock-frequency"), Ok(Some(100_000_000)));
    assert_eq!(kernel::platform::bootargs(&tree), Ok("quiet"));
    let chosen = tree.find("/chosen").unwrap();
    assert_eq!(chosen.number("linux,initrd-start"), Ok(Some(0x8a00_0000)));
    assert_eq!(chosen.number("linux,initrd-end"), Ok(Some(0x8a12_3456)));
}

#[test]
fn a_small_guest_has_one_range_of_memory() {
    let blob = build(&Guest { memory: 64 << 20, ..guest(1) }, HZ).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let memory: Vec<_> = kernel::platform::memory(&tree).map(Result::unwrap).collect();
    assert_eq!(memory, [region(0, 64 << 20)]);
    assert!(tree.find("/memory@0").is_some() && tree.find("/memory@80000000").is_none());
}

#[test]
fn interrupts_reach_the_cpu_through_both_controllers() {
    let blob = build(&guest(1), HZ).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let outer =
        [("loongson,ls2k2000-eiointc", Vec::new()), ("loongson,cpu-interrupt-controller", [3].to_vec())];
    let uart = tree.compatible("ns16550a").next().unwrap();
    assert_eq!(chain(&tree, uart), [("loongson,pch-pic-1.0", [2, 4].to_vec())]);
    let rtc = tree.compatible("loongson,ls7a-rtc").next().unwrap();
    assert_eq!(chain(&tree, rtc), [], "a clock without alarms");
    // The controllers name no input of the next one: which vector is whose, they are told by a base.
    let node = |kind| tree.compatible(kind).next().unwrap();
    let (pic, msi, eiointc) =
        (node("loongson,pch-pic-1.0"), node("loongson,pch-msi-1.0"), node("loongson,ls2k2000-eiointc"));
    for controller in [pic, msi] {
        let parent = controller.cell("interrupt-parent").unwrap().and_then(|phandle| tree.phandle(phandle));
        assert_eq!(parent, Some(eiointc));
    }
    assert_eq!(chain(&tree, eiointc), outer[1..]);
    assert_eq!(eiointc.region(0), Ok(region(0x1400, 0x900)));
    assert_eq!(pic.region(0), Ok(region(0x1000_0000, 0x400)));
    assert_eq!(pic.cell("loongson,pic-base-vec"), Ok(Some(0)));
    assert_eq!(msi.region(0), Ok(region(0x2ff0_0000, 8)));
    let first = msi.cell("loongson,msi-base-vec").unwrap().unwrap();
    assert_eq!((first, msi.cell("loongson,msi-num-vecs")), (32, Ok(Some(256 - 32))));
    for controller in [pic, msi, eiointc, tree.find("/cpuic").unwrap()] {
        assert!(controller.property("interrupt-controller").is_some());
    }
}

#[test]
fn the_machine_is_switched_off_and_reset_by_bytes() {
    let blob = build(&guest(1), HZ).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    for (kind, at, value) in [("syscon-poweroff", 0x100e_001c, 0x34), ("syscon-reboot", 0x100e_001e, 0x42)] {
        let node = tree.compatible(kind).next().unwrap();
        let registers = tree.phandle(node.cell("regmap").unwrap().unwrap()).unwrap();
        assert!(registers.is_compatible("syscon"));
        assert_eq!(registers.cell("reg-io-width"), Ok(Some(1)));
        let window = registers.region(0).unwrap();
        let register = window.base().0 + u64::from(node.cell("offset").unwrap().unwrap());
        assert!(register == at && window.contains(Hpa(register)));
        assert_eq!(node.cell("value"), Ok(Some(value)));
    }
}

#[test]
fn port_zero_is_where_legacy_devices_are_not() {
    let blob = build(&guest(1), HZ).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let isa = tree.find("/isa").unwrap();
    assert_eq!(isa.name(), "isa@18000000");
    // I/O space, port 0, 0x1800_0000 of the bus above, one 16 KiB page of the kernel.
    let ranges: Vec<u32> = isa.property("ranges").unwrap().cells().collect();
    assert_eq!(ranges, [1, 0, 0, 0x1800_0000, 0x4000]);
    let cells = isa.cells().unwrap();
    assert_eq!((cells.address, cells.size), (2, 1));
}

#[test]
fn the_size_does_not_depend_on_where_the_ram_disk_is() {
    let sized = |initrd| build(&Guest { initrd: Some(initrd), ..guest(8) }, HZ).unwrap().len();
    assert_eq!(sized(Gpa(0)..Gpa(0)), sized(Gpa(0x40_0000_0000)..Gpa(u64::MAX)));
    assert!(build(&guest(64), HZ).unwrap().len() < 16 << 10);
}

#[test]
fn a_command_line_with_a_nul_is_refused() {
    assert!(build(&Guest { bootargs: "a\0b", ..guest(1) }, HZ).is_err());
}

proptest! {
    #[test]
    fn any_guest_gets_a_tree_that_can_be_read(
        cpus in 1u32..=16,
        memory in 1u64..0x8_0000,
        bootargs in "[ -~]{0,200}",
    ) {
        let guest = Guest { cpus, memory: memory << 21, bootargs: &bootargs, initrd: None };
        let blob = build(&guest, HZ).unwrap();
        let tree = Tree::parse(&blob).unwrap();
        prop_assert_eq!(kernel::platform::cpus(&tree).flatten().count(), cpus as usize);
        let total: u64 = kernel::platform::memory(&tree).map(|region| region.unwrap().size()).sum();
        prop_assert_eq!(total, guest.memory);
        let found = kernel::platform::bootargs(&tree).map(String::from).map_err(|error| error.to_string());
        prop_assert_eq!(found, Ok(bootargs.clone()));
        let mut phandles: Vec<_> = tree.nodes().filter_map(|node| node.cell("phandle").unwrap()).collect();
        phandles.sort_unstable();
        prop_assert_eq!(phandles, [1, 2, 3, 4, 5]);
        // Each unit address is the first address of `reg`.
        for node in tree.nodes() {
            if let (Some((_, unit)), Ok(mut reg)) = (node.name().split_once('@'), node.reg()) {
                let (first, _) = reg.next().unwrap();
                prop_assert_eq!(u64::from_str_radix(unit, 16), Ok(first));
            }
        }
    }
}
