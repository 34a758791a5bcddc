extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;

use kernel::addr::Hpa;
use vm_fdt::FdtWriter;

use super::*;

/// A tree with a GIC, a timer and firmware, whose properties `change` may replace.
fn machine(change: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let cells = |cells: &[u32]| cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<u8>>();
    let gic: [(&str, Vec<u8>); 4] = [
        ("compatible", b"arm,gic-v3\0".to_vec()),
        ("phandle", cells(&[1])),
        ("#interrupt-cells", cells(&[3])),
        ("reg", cells(&[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x10_0000, 1, 0, 0, 0x20_0000])),
    ];
    let timer: [(&str, Vec<u8>); 3] = [
        ("compatible", b"arm,armv8-timer\0".to_vec()),
        ("interrupts", cells(&[1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08])),
        ("interrupt-parent", cells(&[1])),
    ];
    let psci: [(&str, Vec<u8>); 2] =
        [("compatible", b"arm,psci-0.2\0".to_vec()), ("method", b"smc\0".to_vec())];
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    for (name, properties) in [("gic", &gic[..]), ("timer", &timer[..]), ("psci", &psci[..])] {
        let node = fdt.begin_node(name).unwrap();
        let own = change.iter().filter(|(node, ..)| *node == name);
        let kept =
            properties.iter().filter(|(property, _)| !own.clone().any(|(_, other, _)| other == property));
        kept.for_each(|(property, value)| fdt.property(property, value).unwrap());
        own.for_each(|(_, property, value)| fdt.property(property, value).unwrap());
        fdt.end_node(node).unwrap();
    }
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn message<T>(result: Result<T, Complaint<'_>>) -> Result<T, String> {
    result.map_err(|complaint| complaint.to_string())
}

#[test]
fn the_gic_has_as_many_regions_as_it_says() {
    let blob = machine(&[("gic", "#redistributor-regions", &[0, 0, 0, 2])]);
    let tree = Tree::parse(&blob).unwrap();
    let found = gic(&tree).unwrap();
    let region = |base, size| Region::new(Hpa(base), size).unwrap();
    assert_eq!(found.distributor, region(0x800_0000, 0x1_0000));
    assert_eq!(found.redistributors, [region(0x80a_0000, 0x10_0000), region(0x1_0000_0000, 0x20_0000)]);
    let blob = machine(&[]);
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(gic(&tree).unwrap().redistributors.len(), 1);
}

#[test]
fn a_gic_that_makes_no_sense_is_named() {
    let refused = |change: (&'static str, &'static str, &'static [u8])| {
        let blob = machine(&[change]);
        let tree = Tree::parse(&blob).unwrap();
        message(gic(&tree).map(drop)).unwrap_err()
    };
    let count = refused(("gic", "#redistributor-regions", &[0, 0, 0, 0]));
    assert_eq!(count, "/gic: #redistributor-regions: found 0, expected 1 to 64");
    let few = refused(("gic", "#redistributor-regions", &[0, 0, 0, 9]));
    assert_eq!(few, "/gic: reg: found 48 bytes, expected more entries");
    let stride = refused(("gic", "redistributor-stride", &[0, 0, 0, 1]));
    assert_eq!(stride, "/gic: redistributor-stride: found 0x1, expected a multiple of 0x20000");
    let other = refused(("gic", "compatible", b"arm,gic-400\0"));
    assert_eq!(other, "/: arm,gic-v3: found nothing, expected an interrupt controller");
}

#[test]
fn the_timers_are_found_by_position_and_by_name() {
    let level = |intid| Line { intid, trigger: Trigger::Level };
    let expected = Timers { virtual_el1: level(27), physical_el2: level(26) };
    let blob = machine(&[]);
    assert_eq!(message(timers(&Tree::parse(&blob).unwrap())), Ok(expected));
    let interrupts = [1, 10, 4, 1, 11, 4u32].map(u32::to_be_bytes).concat();
    let names = b"hyp-phys\0virt\0";
    let blob = machine(&[("timer", "interrupts", &interrupts), ("timer", "interrupt-names", names)]);
    assert_eq!(message(timers(&Tree::parse(&blob).unwrap())), Ok(expected));
    let blob = machine(&[("timer", "interrupt-names", b"phys\0virt\0")]);
    let missing = message(timers(&Tree::parse(&blob).unwrap())).unwrap_err();
    assert!(missing.ends_with("expected those of the virtual and the EL2 timer"), "{missing}");
    let interrupts = [1, 16, 4u32].map(u32::to_be_bytes).concat().repeat(4);
    let blob = machine(&[("timer", "interrupts", &interrupts)]);
    let message = message(timers(&Tree::parse(&blob).unwrap())).unwrap_err();
    assert_eq!(
        message,
        "/gic: interrupts: found <0x1 0x10 0x4>, expected an SPI (0) below 988 or a PPI (1) below 16"
    );
}

#[test]
fn firmware_is_called_as_it_says() {
    let method = |value: &[u8]| {
        let blob = machine(&[("psci", "method", value)]);
        message(psci(&Tree::parse(&blob).unwrap()))
    };
    assert_eq!(method(b"smc\0"), Ok(Some(Conduit::Smc)));
    assert_eq!(method(b"hvc\0"), Ok(Some(Conduit::Hvc)));
    let wrong = "/psci: method: found \"svc\", expected \"smc\" or \"hvc\"";
    assert_eq!(method(b"svc\0"), Err(wrong.into()));
    let blob = machine(&[("psci", "compatible", b"none\0")]);
    assert_eq!(message(psci(&Tree::parse(&blob).unwrap())), Ok(None));
}

#[test]
fn edges_and_levels_are_told_apart() {
    let read = |cells: [u32; 3]| {
        let interrupts = cells.map(u32::to_be_bytes).concat();
        let blob = machine(&[("timer", "interrupts", &interrupts)]);
        let tree = Tree::parse(&blob).unwrap();
        first_line(&tree.find("/timer").unwrap())
            .map(|line| line.map(|line| (line.intid, line.trigger)))
            .ok()
            .flatten()
    };
    assert_eq!(read([0, 1, 4]), Some((33, Trigger::Level)));
    assert_eq!(read([0, 987, 1]), Some((1019, Trigger::Edge)));
    assert_eq!(read([1, 15, 0xf02]), Some((31, Trigger::Edge)));
    assert_eq!(read([0, 988, 4]), None);
    assert_eq!(read([2, 1, 4]), None);
    assert_eq!(read([0, 1, 0]), None);
}
