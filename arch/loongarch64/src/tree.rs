//! The device tree that a guest finds: as little as a LoongArch kernel needs, and nothing of the real machine.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use kernel::tree::{Guest, memory};
use vm_fdt::{Error, FdtWriter};

use crate::layout::{self, EIOINTC, ISA, MSI, PCH_PIC, POWER, RTC, UART};

/// The phandles of the interrupt controllers, from the CPU outwards.
const CPUIC_PHANDLE: u32 = 1;
const EIOINTC_PHANDLE: u32 = 2;
const PCH_PIC_PHANDLE: u32 = 3;
/// The phandle of the registers that switch the machine off.
const POWER_PHANDLE: u32 = 4;
/// The phandle of the CPUs' clock.
const CLOCK_PHANDLE: u32 = 5;
/// The flag of an interrupt that is pending while its line is high.
const LEVEL_HIGH: u32 = 4;
/// The space of an address on an ISA bus: ports.
const PORTS: u32 = 1;

/// Writes the tree of a guest whose counter runs at `hz`. Its size does not depend on where the RAM disk is. Fails only
/// for a command line with a NUL in it.
pub fn build(guest: &Guest<'_>, hz: u32) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-loongson3")?;
    fdt.property_string("model", "Fermata guest")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    // The speed is for kernels that are not told another; the UART does not care.
    guest.chosen(&mut fdt, &format!("/{}:115200n8", at("serial", &UART)))?;
    for range in layout::memory(guest.memory).iter().filter(|range| !range.is_empty()) {
        memory(&mut fdt, range)?;
    }
    cpus(&mut fdt, guest.cpus, hz)?;
    interrupts(&mut fdt)?;
    uart(&mut fdt)?;
    rtc(&mut fdt)?;
    power(&mut fdt)?;
    isa(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

/// The name of what is at a range of addresses.
fn at(name: &str, range: &Range<u64>) -> String {
    format!("{name}@{:x}", range.start)
}

fn reg(fdt: &mut FdtWriter, range: &Range<u64>) -> Result<(), Error> {
    fdt.property_array_u64("reg", &[range.start, range.end - range.start])
}

fn cpus(fdt: &mut FdtWriter, count: u32, hz: u32) -> Result<(), Error> {
    let clock = fdt.begin_node("cpu-clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", hz)?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..count {
        let cpu = fdt.begin_node(&format!("cpu@{index:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "loongson,la464")?;
        fdt.property_u32("reg", index)?;
        fdt.property_u32("clocks", CLOCK_PHANDLE)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

/// Begins the node of an interrupt controller.
fn controller(fdt: &mut FdtWriter, kind: &str, phandle: u32, cells: u32) -> Result<(), Error> {
    fdt.property_string("compatible", kind)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", cells)?;
    fdt.property_phandle(phandle)
}

fn interrupts(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("cpuic")?;
    controller(fdt, "loongson,cpu-interrupt-controller", CPUIC_PHANDLE, 1)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node(&at("eiointc", &EIOINTC))?;
    controller(fdt, "loongson,ls2k2000-eiointc", EIOINTC_PHANDLE, 1)?;
    reg(fdt, &EIOINTC)?;
    fdt.property_u32("interrupt-parent", CPUIC_PHANDLE)?;
    fdt.property_u32("interrupts", layout::EIOINTC_LINE)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node(&at("platic", &PCH_PIC))?;
    controller(fdt, "loongson,pch-pic-1.0", PCH_PIC_PHANDLE, 2)?;
    reg(fdt, &PCH_PIC)?;
    fdt.property_u32("interrupt-parent", EIOINTC_PHANDLE)?;
    fdt.property_u32("loongson,pic-base-vec", 0)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node(&at("msi", &MSI))?;
    fdt.property_string("compatible", "loongson,pch-msi-1.0")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_null("msi-controller")?;
    reg(fdt, &MSI)?;
    fdt.property_u32("interrupt-parent", EIOINTC_PHANDLE)?;
    fdt.property_u32("loongson,msi-base-vec", layout::PINS)?;
    fdt.property_u32("loongson,msi-num-vecs", layout::VECTORS - layout::PINS)?;
    fdt.end_node(node)
}

/// Names an input of the PCH-PIC as a node's interrupt.
fn raises(fdt: &mut FdtWriter, pin: u32) -> Result<(), Error> {
    fdt.property_u32("interrupt-parent", PCH_PIC_PHANDLE)?;
    fdt.property_array_u32("interrupts", &[pin, LEVEL_HIGH])
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&at("serial", &UART))?;
    fdt.property_string("compatible", "ns16550a")?;
    reg(fdt, &UART)?;
    fdt.property_u32("clock-frequency", layout::UART_CLOCK)?;
    raises(fdt, layout::UART_PIN)?;
    fdt.end_node(node)
}

/// Names no interrupt: there are no alarms, and with one Linux would look for the power management registers in front of
/// the clock's.
fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&at("rtc", &RTC))?;
    fdt.property_string("compatible", "loongson,ls7a-rtc")?;
    reg(fdt, &RTC)?;
    fdt.end_node(node)
}

fn power(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&at("syscon", &POWER))?;
    fdt.property_string("compatible", "syscon")?;
    reg(fdt, &POWER)?;
    fdt.property_u32("reg-shift", 0)?;
    fdt.property_u32("reg-io-width", 1)?;
    fdt.property_phandle(POWER_PHANDLE)?;
    fdt.end_node(node)?;
    let switches = [
        ("poweroff", "syscon-poweroff", layout::SLEEP_CONTROL, layout::POWER_OFF),
        ("reboot", "syscon-reboot", layout::RESET, layout::RESET_NOW),
    ];
    for (name, kind, offset, value) in switches {
        let node = fdt.begin_node(name)?;
        fdt.property_string("compatible", kind)?;
        fdt.property_u32("regmap", POWER_PHANDLE)?;
        fdt.property_u32("offset", offset as u32)?;
        fdt.property_u32("value", value.into())?;
        fdt.end_node(node)?;
    }
    Ok(())
}

fn isa(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&at("isa", &ISA))?;
    fdt.property_string("compatible", "isa")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 1)?;
    // The port's space and number, the address, the size.
    let (start, size) = (ISA.start, (ISA.end - ISA.start) as u32);
    fdt.property_array_u32("ranges", &[PORTS, 0, (start >> 32) as u32, start as u32, size])?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests;
