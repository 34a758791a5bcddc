extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;

use kernel::tree::Guest;
use vm_fdt::FdtWriter;

use super::*;

/// A property: its node, its name, and its value, or none to leave it out.
type Change<'a> = (&'a str, &'a str, Option<&'a [u8]>);

fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// The properties of a node: names and values.
type Properties = Vec<(&'static str, Vec<u8>)>;

/// The nodes that QEMU's `virt` machine has, in its order, as far as they are read here.
fn nodes() -> Vec<(&'static str, Properties)> {
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let number = |number| cells(&[number]);
    let power = |kind, offset, value| {
        Vec::from([
            ("value", number(value)),
            ("offset", number(offset)),
            ("regmap", number(0x8006)),
            ("compatible", text(kind)),
        ])
    };
    let uart = |at, pin| {
        Vec::from([
            ("interrupt-parent", number(0x8004)),
            ("interrupts", cells(&[pin, 4])),
            ("clock-frequency", number(100_000_000)),
            ("reg", cells(&[0, at, 0, 0x100])),
            ("compatible", text("ns16550a")),
        ])
    };
    let cpu = |id, phandle| {
        Vec::from([
            ("phandle", number(phandle)),
            ("reg", number(id)),
            ("compatible", text("loongarch,Loongson-3A5000")),
            ("device_type", text("cpu")),
        ])
    };
    let controller = |kind, phandle, cells| {
        Vec::from([
            ("phandle", number(phandle)),
            ("compatible", text(kind)),
            ("interrupt-controller", Vec::new()),
            ("#interrupt-cells", number(cells)),
        ])
    };
    let mut eiointc = controller("loongson,ls2k2000-eiointc", 0x8003, 1);
    eiointc.extend([
        ("interrupt-parent", number(0x8002)),
        ("interrupts", number(3)),
        ("reg", cells(&[0, 0x1400, 0, 0x800])),
    ]);
    let mut platic = controller("loongson,pch-pic-1.0", 0x8004, 2);
    platic.extend([
        ("interrupt-parent", number(0x8003)),
        ("loongson,pic-base-vec", number(0)),
        ("reg", cells(&[0, 0x1000_0000, 0, 0x400])),
    ]);
    let ged = Vec::from([
        ("phandle", number(0x8006)),
        ("reg-io-width", number(1)),
        ("reg-shift", number(0)),
        ("reg", cells(&[0, 0x100e_001c, 0, 3])),
        ("compatible", text("syscon")),
    ]);
    Vec::from([
        ("poweroff", power("syscon-poweroff", 0, 0x34)),
        ("reboot", power("syscon-reboot", 2, 0x42)),
        ("ged@100e001c", ged),
        ("serial@1fe001e0", uart(0x1fe0_01e0, 2)),
        ("serial@1fe002e0", uart(0x1fe0_02e0, 3)),
        ("platic@10000000", platic),
        ("eiointc@1400", eiointc),
        ("cpuic", controller("loongson,cpu-interrupt-controller", 0x8002, 1)),
        ("cpus", Vec::from([("#address-cells", number(1)), ("#size-cells", number(0))])),
        ("cpu@0", cpu(0, 0x8001)),
        ("cpu@1", cpu(1, 0x8000)),
        ("chosen", Vec::from([("stdout-path", text("/serial@1fe001e0"))])),
    ])
}

/// The tree of a machine with some changes.
fn machine(changes: &[Change<'_>]) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    let mut cpus = None;
    for (name, properties) in nodes() {
        let node = fdt.begin_node(name).unwrap();
        let own = changes.iter().filter(|(node, ..)| name.split('@').next() == Some(node));
        let kept =
            properties.iter().filter(|(property, _)| !own.clone().any(|(_, other, _)| other == property));
        kept.for_each(|(property, value)| fdt.property(property, value).unwrap());
        own.filter_map(|(_, property, value)| Some((property, (*value)?)))
            .for_each(|(property, value)| fdt.property(property, value).unwrap());
        // CPUs are in their node, which ends before the next that is none.
        match name {
            "cpus" => cpus = Some(node),
            "cpu@1" => {
                fdt.end_node(node).unwrap();
                fdt.end_node(cpus.take().unwrap()).unwrap();
            }
            _ => fdt.end_node(node).unwrap(),
        }
    }
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

/// What is read of a machine with some changes, or the complaint.
fn read<T>(changes: &[Change<'_>], read: impl Fn(&Tree<'_>) -> Result<T, String>) -> Result<T, String> {
    let blob = machine(changes);
    read(&Tree::parse(&blob).unwrap())
}

fn lines(tree: &Tree<'_>) -> Result<(u32, Region, u32), String> {
    let found = interrupts(tree).map_err(|complaint| complaint.to_string())?;
    Ok((found.line, found.registers, found.base))
}

fn uart(tree: &Tree<'_>) -> Result<Option<Line>, String> {
    let message = |complaint: Complaint<'_>| complaint.to_string();
    let found = interrupts(tree).map_err(message)?;
    let stdout = kernel::platform::stdout(tree).map_err(message)?.unwrap();
    found.first_line(&stdout.node).map_err(message)
}

fn switch(tree: &Tree<'_>) -> Result<Option<Switch>, String> {
    power_off(tree).map_err(|complaint| complaint.to_string())
}

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

#[test]
fn an_interrupt_goes_through_both_controllers() {
    assert_eq!(read(&[], lines), Ok((3, region(0x1000_0000, 0x400), 0)));
    let line = Line { pin: 2, trigger: Trigger::HighLevel };
    assert_eq!(read(&[], uart), Ok(Some(line)));
    let base = cells(&[64]);
    let moved = read(&[("platic", "loongson,pic-base-vec", Some(&base))], uart);
    assert_eq!(moved, Ok(Some(line)));
    assert_eq!(read(&[("serial", "interrupts", None)], uart), Ok(None));
    let kinds = [
        (1, Trigger::RisingEdge),
        (2, Trigger::FallingEdge),
        (4, Trigger::HighLevel),
        (8, Trigger::LowLevel),
    ];
    for (flags, trigger) in kinds {
        let value = cells(&[63, flags]);
        let found = read(&[("serial", "interrupts", Some(&value))], uart);
        assert_eq!(found, Ok(Some(Line { pin: 63, trigger })));
    }
}

#[test]
fn controllers_that_make_no_sense_are_named() {
    let refused = |node, property, value: Option<&[u8]>| read(&[(node, property, value)], uart).unwrap_err();
    let number = |value| cells(&[value]);
    let none = refused("eiointc", "compatible", None);
    assert_eq!(none, "/: loongson,ls2k2000-eiointc: found nothing, expected an interrupt controller");
    let none = refused("platic", "compatible", None);
    assert_eq!(none, "/: loongson,pch-pic-1.0: found nothing, expected an interrupt controller");
    let wanted = "expected one interrupt of the CPU's controller, 2 to 9";
    for line in [1, 10] {
        let other = refused("eiointc", "interrupts", Some(&number(line)));
        assert_eq!(other, std::format!("/eiointc@1400: interrupts: found <{line:#x}>, {wanted}"));
    }
    let nothing = refused("eiointc", "interrupts", None);
    assert_eq!(nothing, std::format!("/eiointc@1400: interrupts: found nothing, {wanted}"));
    let elsewhere = refused("cpuic", "compatible", None);
    assert_eq!(elsewhere, std::format!("/eiointc@1400: interrupts: found <0x3>, {wanted}"));
    let short = refused("platic", "reg", Some(&cells(&[0, 0x1000_0000, 0, 0x3ff])));
    assert_eq!(short, "/platic@10000000: reg: found 0x10000000..=0x100003fe, expected 0x400 bytes or more");
    let base = refused("platic", "loongson,pic-base-vec", Some(&number(193)));
    assert_eq!(base, "/platic@10000000: loongson,pic-base-vec: found 193, expected 0 to 192");
    let parent = refused("platic", "interrupt-parent", Some(&number(0x8002)));
    assert_eq!(
        parent,
        "/platic@10000000: interrupt-parent: found 0x8002, expected the phandle of the EIOINTC"
    );
    let pin = refused("serial", "interrupts", Some(&cells(&[64, 4])));
    assert_eq!(pin, "/platic@10000000: interrupts: found <0x40 0x4>, expected an input below 64");
    let flags = refused("serial", "interrupts", Some(&cells(&[2, 3])));
    let wanted = "expected an edge (1 or 2) or a level (4 or 8)";
    assert_eq!(flags, std::format!("/platic@10000000: interrupts: found <0x2 0x3>, {wanted}"));
    let cells_of_pic = refused("platic", "#interrupt-cells", Some(&number(1)));
    assert_eq!(cells_of_pic, "/platic@10000000: interrupts: found <0x2>, expected two cells");
    let direct = refused("serial", "interrupt-parent", Some(&number(0x8002)));
    assert_eq!(direct, "/cpuic: interrupts: found <0x2>, expected an interrupt of the PCH-PIC");
}

#[test]
fn cpus_have_the_numbers_that_they_are_interrupted_by() {
    let ids = |tree: &Tree<'_>| {
        let ids = kernel::platform::cpus(tree).map(|cpu| core_id(&cpu?));
        ids.collect::<Result<Vec<_>, _>>().map_err(|complaint| complaint.to_string())
    };
    assert_eq!(read(&[], ids), Ok(Vec::from([0, 1])));
    let most = cells(&[0x1ff]);
    assert_eq!(read(&[("cpu", "reg", Some(&most))], ids), Ok(Vec::from([0x1ff, 0x1ff])));
    let over = cells(&[0x200]);
    let message = "/cpus/cpu@0: reg: found 512, expected 0 to 511";
    assert_eq!(read(&[("cpu", "reg", Some(&over))], ids), Err(message.into()));
}

#[test]
fn the_machine_is_switched_off_as_it_says() {
    let off = Switch { register: Hpa(0x100e_001c), width: 1, value: 0x34, mask: 0xff };
    assert_eq!(read(&[], switch), Ok(Some(off)));
    assert_eq!(off.flipped(0xa5), 0x34);
    assert_eq!(read(&[("poweroff", "compatible", None)], switch), Ok(None));
    // Only the masked bits; and the form that has nothing but a mask.
    let mask = cells(&[0x3c]);
    let part = read(&[("poweroff", "mask", Some(&mask))], switch).unwrap().unwrap();
    assert_eq!((part, part.flipped(0xc3)), (Switch { mask: 0x3c, ..off }, 0xf7));
    let old = read(&[("poweroff", "value", None), ("poweroff", "mask", Some(&mask))], switch);
    assert_eq!(old, Ok(Some(Switch { value: 0x3c, ..off })));
    // Without a width, words.
    let (reg, offset) = (cells(&[0, 0x1000, 0, 0x10]), cells(&[0xc]));
    let changes: [Change<'_>; 3] =
        [("ged", "reg", Some(&reg)), ("ged", "reg-io-width", None), ("poweroff", "offset", Some(&offset))];
    let word = Switch { register: Hpa(0x100c), width: 4, value: 0x34, mask: u32::MAX };
    assert_eq!(read(&changes, switch), Ok(Some(word)));
    assert_eq!(word.flipped(0xffff_ffff), 0x34);
}

#[test]
fn a_switch_that_makes_no_sense_is_named() {
    let refused =
        |node, property, value: Option<&[u8]>| read(&[(node, property, value)], switch).unwrap_err();
    let number = |value| cells(&[value]);
    let nobody = refused("poweroff", "regmap", Some(&number(7)));
    assert_eq!(nobody, "/poweroff: regmap: found 0x7, expected the phandle of a syscon");
    let other = refused("poweroff", "regmap", Some(&number(0x8004)));
    assert_eq!(other, "/poweroff: regmap: found 0x8004, expected the phandle of a syscon");
    let none = refused("poweroff", "regmap", None);
    assert_eq!(none, "/poweroff: regmap: found nothing, expected the phandle of a syscon");
    let width = refused("ged", "reg-io-width", Some(&number(8)));
    assert_eq!(width, "/ged@100e001c: reg-io-width: found 0x8, expected 1, 2 or 4");
    let outside = refused("poweroff", "offset", Some(&number(3)));
    assert_eq!(outside, "/poweroff: offset: found 0x3, expected a register of the syscon");
    let across = refused("ged", "reg-io-width", Some(&number(4)));
    assert_eq!(across, "/poweroff: offset: found 0x0, expected a register of the syscon");
    let far = cells(&[0xffff_ffff, 0xffff_fff0, 0, 0x10]);
    let changes: [Change<'_>; 2] =
        [("ged", "reg", Some(&far)), ("poweroff", "offset", Some(&[0xff, 0xff, 0xff, 0xff]))];
    assert!(read(&changes, switch).is_err());
    let value = refused("poweroff", "value", Some(&number(0x134)));
    assert_eq!(value, "/poweroff: value: found 0x134, expected no more bits than the register has");
    let mask = refused("poweroff", "mask", Some(&number(0x100)));
    assert_eq!(mask, "/poweroff: mask: found 0x100, expected no more bits than the register has");
    let neither = refused("poweroff", "value", None);
    assert_eq!(neither, "/poweroff: value: found nothing, expected one cell");
}

#[test]
fn a_guests_machine_is_read_like_a_real_one() {
    let guest = Guest { cpus: 2, memory: 1 << 30, bootargs: "", initrd: None };
    let blob = crate::tree::build(&guest, 100_000_000).unwrap();
    let tree = Tree::parse(&blob).unwrap();
    assert_eq!(lines(&tree), Ok((3, region(0x1000_0000, 0x400), 0)));
    let line = Line { pin: 2, trigger: Trigger::HighLevel };
    assert_eq!(uart(&tree), Ok(Some(line)));
    let off = Switch { register: Hpa(0x100e_001c), width: 1, value: 0x34, mask: 0xff };
    assert_eq!(switch(&tree), Ok(Some(off)));
}
