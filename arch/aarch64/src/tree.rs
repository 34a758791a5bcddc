//! The device tree that a guest finds: as little as an arm64 kernel needs, and nothing of the real machine.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use kernel::tree::{Guest, memory, strings};
use vm_fdt::{Error, FdtWriter};

use crate::layout::{self, ppi};

/// The phandle of the interrupt controller.
const GIC_PHANDLE: u32 = 1;
/// The phandle of the UART's clock.
const CLOCK_PHANDLE: u32 = 2;
/// The kind of an interrupt: shared between CPUs, or private to one.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// The flag of an interrupt that is pending while its line is high.
const LEVEL_HIGH: u32 = 4;

/// Writes the tree. Its size does not depend on where the RAM disk is. Fails only for a command line with a NUL in it.
pub fn build(guest: &Guest<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "Fermata guest")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;
    guest.chosen(&mut fdt, &format!("/{}", uart_name()))?;
    memory(&mut fdt, &(layout::RAM..layout::RAM.saturating_add(guest.memory)))?;
    cpus(&mut fdt, guest.cpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt)?;
    gic(&mut fdt, guest.cpus)?;
    uart(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

/// Where the UART is in the tree.
fn uart_name() -> String {
    format!("pl011@{:x}", layout::UART.start)
}

fn cpus(fdt: &mut FdtWriter, count: u32) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..count {
        let affinity = layout::affinity(index);
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", strings(&["arm,psci-1.0", "arm,psci-0.2"]))?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    // The order is fixed by the binding: secure, physical, virtual, EL2.
    let lines = [ppi::SECURE_PHYSICAL, ppi::PHYSICAL, ppi::VIRTUAL, ppi::EL2_PHYSICAL];
    let cells: Vec<u32> = lines.iter().flat_map(|intid| [PPI, intid - 16, LEVEL_HIGH]).collect();
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, cpus: u32) -> Result<(), Error> {
    let redistributors = layout::redistributors(cpus);
    let node = fdt.begin_node(&format!("intc@{:x}", layout::GICD.start))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u64(
        "reg",
        &[
            layout::GICD.start,
            layout::GICD.end - layout::GICD.start,
            redistributors.start,
            redistributors.end - redistributors.start,
        ],
    )?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("uart-clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", layout::UART_CLOCK)?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;
    let node = fdt.begin_node(&uart_name())?;
    fdt.property_string_list("compatible", strings(&["arm,pl011", "arm,primecell"]))?;
    fdt.property_array_u64("reg", &[layout::UART.start, layout::UART.end - layout::UART.start])?;
    fdt.property_array_u32("interrupts", &[SPI, layout::UART_SPI, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])?;
    fdt.property_string_list("clock-names", strings(&["uartclk", "apb_pclk"]))?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests;
