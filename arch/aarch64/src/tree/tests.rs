extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;

use kernel::addr::{Gpa, Hpa};
use kernel::fdt::Tree;
use kernel::mem::Region;
use proptest::prelude::*;

use super::*;
use crate::platform::{Conduit, Line, Trigger, first_line, gic, psci, timers};

fn guest(cpus: u32) -> Guest<'static> {
    Guest { cpus, memory: 256 << 20, bootargs: "console=ttyAMA0", initrd: None }
}

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

#[test]
fn our_own_readers_find_the_guests_machine() {
    let guest = Guest { initrd: Some(Gpa(0x4200_0000)..Gpa(0x4212_3456)), ..guest(2) };
    let blob = build(&guest).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let memory: Vec<_> = kernel::platform::memory(&tree).collect();
    assert_eq!(memory, [Ok(region(0x4000_0000, 0x1000_0000))]);
    let cpus: Vec<_> = kernel::platform::cpus(&tree).map(|cpu| cpu.unwrap()).collect();
    assert_eq!(cpus.iter().map(|cpu| cpu.hardware_id).collect::<Vec<_>>(), [0, 1]);
    assert!(cpus.iter().all(|cpu| cpu.enable_method == Some("psci") && cpu.node.is_compatible("arm,armv8")));
    assert_eq!(psci(&tree), Ok(Some(Conduit::Hvc)));
    let found = gic(&tree).unwrap();
    assert_eq!(found.distributor, region(0x800_0000, 0x1_0000));
    assert_eq!(found.redistributors, [region(0x80a_0000, 2 * 0x2_0000)]);
    let stdout = kernel::platform::stdout(&tree).unwrap().unwrap();
    assert_eq!(stdout.registers, region(0x900_0000, 0x1000));
    assert!(stdout.node.is_compatible("arm,pl011") && stdout.node.is_compatible("arm,primecell"));
    let line = first_line(&stdout.node).unwrap().unwrap();
    assert_eq!(line, Line { intid: layout::UART_INTID, trigger: Trigger::Level });
    let timers = timers(&tree).unwrap();
    assert_eq!((timers.virtual_el1.intid, timers.physical_el2.intid), (27, 26));
    assert_eq!(kernel::platform::bootargs(&tree), Ok("console=ttyAMA0"));
    let chosen = tree.find("/chosen").unwrap();
    assert_eq!(chosen.number("linux,initrd-start"), Ok(Some(0x4200_0000)));
    assert_eq!(chosen.number("linux,initrd-end"), Ok(Some(0x4212_3456)));
}

#[test]
fn linux_finds_the_clock_of_its_uart() {
    let blob = build(&guest(1)).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    let uart = tree.compatible("arm,pl011").next().unwrap();
    let names: Vec<_> = uart.property("clock-names").unwrap().strings().collect();
    assert_eq!(names, ["uartclk", "apb_pclk"]);
    for phandle in uart.property("clocks").unwrap().cells() {
        let clock = tree.phandle(phandle).unwrap();
        assert_eq!(clock.cell("clock-frequency"), Ok(Some(24_000_000)));
        assert_eq!(clock.cell("#clock-cells"), Ok(Some(0)));
    }
}

#[test]
fn the_size_does_not_depend_on_where_the_ram_disk_is() {
    let sized = |initrd| build(&Guest { initrd: Some(initrd), ..guest(8) }).unwrap().len();
    assert_eq!(sized(Gpa(0)..Gpa(0)), sized(Gpa(0x40_0000_0000)..Gpa(u64::MAX)));
    assert!(build(&guest(64)).unwrap().len() < 16 << 10);
}

#[test]
fn a_command_line_with_a_nul_is_refused() {
    assert!(build(&Guest { bootargs: "a\0b", ..guest(1) }).is_err());
}

proptest! {
    #[test]
    fn any_guest_gets_a_tree_that_can_be_read(cpus in 1u32..=64, memory in 1u64..0x8_0000, bootargs in "[ -~]{0,200}") {
        let blob = build(&Guest { cpus, memory: memory << 21, bootargs: &bootargs, initrd: None }).unwrap();
        let tree = Tree::parse(&blob).unwrap();
        prop_assert_eq!(kernel::platform::cpus(&tree).flatten().count(), cpus as usize);
        prop_assert_eq!(kernel::platform::bootargs(&tree).map(String::from).map_err(|error| error.to_string()), Ok(bootargs));
        let phandles: Vec<_> = tree.nodes().filter_map(|node| node.cell("phandle").unwrap()).collect();
        prop_assert_eq!(phandles.len(), 2);
        // Each unit address is the first address of `reg`.
        for node in tree.nodes() {
            if let (Some((_, unit)), Ok(mut reg)) = (node.name().split_once('@'), node.reg()) {
                let (first, _) = reg.next().unwrap();
                prop_assert_eq!(u64::from_str_radix(unit, 16), Ok(first));
            }
        }
    }
}
