//! What the tree says about the parts that every LoongArch machine has.

use kernel::addr::Hpa;
use kernel::fdt::{Complaint, Found, Node, Specifier, Tree, Wanted};
use kernel::mem::Region;
use kernel::platform::Cpu;

use crate::irqchip::Trigger;

/// The hardware interrupts of a CPU, HWI0 to HWI7, as ESTAT.IS counts.
const HARDWARE_INTERRUPTS: core::ops::RangeInclusive<u32> = 2..=9;
/// The inputs of a PCH-PIC.
const PINS: u32 = 64;
/// The vectors of an EIOINTC.
const VECTORS: u32 = 256;
/// The size of a PCH-PIC's registers in bytes.
const PCH_PIC_SIZE: u64 = 0x400;
/// The largest number of a CPU: CPUID.CoreID has nine bits.
const MAX_CORE_ID: u64 = 0x1ff;

const EIOINTC: &str = "loongson,ls2k2000-eiointc";
const PCH_PIC: &str = "loongson,pch-pic-1.0";

/// The controllers between devices and CPUs: inputs of the PCH-PIC are vectors of the EIOINTC, which raises a hardware
/// interrupt of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupts<'a> {
    /// The EIOINTC's node. Its registers are where they always are, in the space of `IOCSRRD`.
    pub eiointc: Node<'a>,
    /// The hardware interrupt of a CPU that the EIOINTC raises, by its bit in ESTAT.IS.
    pub line: u32,
    /// The PCH-PIC's node.
    pub pch_pic: Node<'a>,
    /// The PCH-PIC's registers.
    pub registers: Region,
    /// The EIOINTC's vector of the PCH-PIC's input 0; the others follow.
    pub base: u32,
}

/// Finds the controllers. A machine without one is a complaint about its root.
pub fn interrupts<'a>(tree: &Tree<'a>) -> Result<Interrupts<'a>, Complaint<'a>> {
    let find = |kind| {
        let missing = tree.root().complain(kind, Found::Nothing, Wanted::Text("an interrupt controller"));
        tree.compatible(kind).next().ok_or(missing)
    };
    let eiointc = find(EIOINTC)?;
    let to_cpu = "one interrupt of the CPU's controller, 2 to 9";
    let odd = |found| eiointc.complain("interrupts", found, Wanted::Text(to_cpu));
    let output = eiointc.interrupts()?.next().ok_or(odd(Found::Nothing))??;
    let line = output.cells.cell(0).filter(|line| HARDWARE_INTERRUPTS.contains(line));
    let line = line.filter(|_| output.controller.is_compatible("loongson,cpu-interrupt-controller"));
    let line = line.ok_or(odd(Found::Value(output.cells)))?;
    let pch_pic = find(PCH_PIC)?;
    let registers = pch_pic.region(0)?;
    if registers.size() < PCH_PIC_SIZE {
        return Err(pch_pic.complain("reg", Found::Region(registers), Wanted::Text("0x400 bytes or more")));
    }
    let base = pch_pic.cell("loongson,pic-base-vec")?.unwrap_or(0);
    let last = VECTORS - PINS;
    if base > last {
        let wanted = Wanted::Between(0, last.into());
        return Err(pch_pic.complain("loongson,pic-base-vec", Found::Number(base.into()), wanted));
    }
    let parent = pch_pic.cell("interrupt-parent")?;
    if parent.and_then(|phandle| tree.phandle(phandle)) != Some(eiointc) {
        let found = parent.map_or(Found::Nothing, |phandle| Found::Number(phandle.into()));
        return Err(pch_pic.complain("interrupt-parent", found, Wanted::Text("the phandle of the EIOINTC")));
    }
    Ok(Interrupts { eiointc, line, pch_pic, registers, base })
}

impl<'a> Interrupts<'a> {
    /// The first interrupt of a node, if it raises any.
    pub fn first_line(&self, node: &Node<'a>) -> Result<Option<Line>, Complaint<'a>> {
        node.interrupts()?.next().map(|interrupt| self.line(&interrupt?)).transpose()
    }

    /// Reads how a device tree names an input of the PCH-PIC: number, flags.
    fn line(&self, interrupt: &Specifier<'a>) -> Result<Line, Complaint<'a>> {
        let odd = |wanted| {
            interrupt.controller.complain("interrupts", Found::Value(interrupt.cells), Wanted::Text(wanted))
        };
        if interrupt.controller != self.pch_pic {
            return Err(odd("an interrupt of the PCH-PIC"));
        }
        let (Some(pin), Some(flags)) = (interrupt.cells.cell(0), interrupt.cells.cell(1)) else {
            return Err(odd("two cells"));
        };
        if pin >= PINS {
            return Err(odd("an input below 64"));
        }
        let trigger = Trigger::from_cell(flags & 0xf).ok_or(odd("an edge (1 or 2) or a level (4 or 8)"))?;
        Ok(Line { pin, trigger })
    }
}

/// An input of the PCH-PIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub pin: u32,
    /// How it asks for attention.
    pub trigger: Trigger,
}

/// The number that a CPU has in CPUID.CoreID, and by which others interrupt it.
pub fn core_id<'a>(cpu: &Cpu<'a>) -> Result<u32, Complaint<'a>> {
    let wanted = Wanted::Between(0, MAX_CORE_ID);
    let odd = cpu.node.complain("reg", Found::Number(cpu.hardware_id), wanted);
    u32::try_from(cpu.hardware_id).ok().filter(|_| cpu.hardware_id <= MAX_CORE_ID).ok_or(odd)
}

/// The registers of the machine's clock, if it has one.
pub fn clock<'a>(tree: &Tree<'a>) -> Result<Option<Region>, Complaint<'a>> {
    tree.compatible("loongson,ls7a-rtc").next().map(|node| node.region(0)).transpose()
}

/// How QEMU's `virt` is switched off (its ACPI GED sleep control), for when there is no tree to say so.
pub const QEMU_POWER_OFF: Switch = Switch { register: Hpa(0x100e_001c), width: 1, value: 0x34, mask: 0xff };

/// A register that does something to the machine when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Where it is.
    pub register: Hpa,
    /// How many bytes it has: 1, 2 or 4.
    pub width: u8,
    /// What is written to the bits in `mask`.
    pub value: u32,
    /// The bits that are written; the others stay. No bit is beyond the width.
    pub mask: u32,
}

impl Switch {
    /// What to write to the register when `now` is in it.
    pub const fn flipped(&self, now: u32) -> u32 {
        now & !self.mask | self.value & self.mask
    }
}

/// How the machine is switched off, if the tree says (syscon-poweroff.yaml among Linux' bindings).
pub fn power_off<'a>(tree: &Tree<'a>) -> Result<Option<Switch>, Complaint<'a>> {
    let Some(node) = tree.compatible("syscon-poweroff").next() else { return Ok(None) };
    let phandle = node.cell("regmap")?;
    let found = phandle.map_or(Found::Nothing, |phandle| Found::Number(phandle.into()));
    let unknown = node.complain("regmap", found, Wanted::Text("the phandle of a syscon"));
    let syscon = match phandle {
        Some(phandle) => tree.phandle(phandle),
        // Below its registers it need not name them.
        None => node.parent(),
    };
    let syscon = syscon.filter(|syscon| syscon.is_compatible("syscon")).ok_or(unknown)?;
    let width = syscon.cell("reg-io-width")?.unwrap_or(4);
    if !matches!(width, 1 | 2 | 4) {
        let found = Found::Number(width.into());
        return Err(syscon.complain("reg-io-width", found, Wanted::Text("1, 2 or 4")));
    }
    let registers = syscon.region(0)?;
    let offset = node.cell("offset")?.unwrap_or(0);
    let at = registers.base().0.checked_add(offset.into());
    let register = at.and_then(|at| Region::new(Hpa(at), width.into()));
    let outside =
        node.complain("offset", Found::Number(offset.into()), Wanted::Text("a register of the syscon"));
    let register = register.filter(|register| registers.covers(register)).ok_or(outside)?;
    let all = u32::MAX >> (32 - 8 * width);
    let (value, mask) = match (node.cell("value")?, node.cell("mask")?) {
        (Some(value), mask) => (value, mask.unwrap_or(all)),
        // The binding's first form: the mask is what is written.
        (None, Some(mask)) => (mask, all),
        (None, None) => return Err(node.complain("value", Found::Nothing, Wanted::Text("one cell"))),
    };
    let wide = [("value", value), ("mask", mask)].into_iter().find(|(_, bits)| bits & !all != 0);
    if let Some((property, bits)) = wide {
        let wanted = Wanted::Text("no more bits than the register has");
        return Err(node.complain(property, Found::Number(bits.into()), wanted));
    }
    Ok(Some(Switch { register: register.base(), width: width as u8, value, mask }))
}

#[cfg(test)]
mod tests;
