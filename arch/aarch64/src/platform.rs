//! What the tree says about the parts that every AArch64 machine has.

use alloc::vec::Vec;

use kernel::fdt::{Complaint, Found, Node, Specifier, Tree, Wanted};
use kernel::mem::Region;

/// The size of a redistributor's registers in bytes: two frames of 64 KiB, or four where it has virtual LPIs
/// (IHI0069 12.10).
const REDISTRIBUTOR: u64 = 0x2_0000;

/// A GICv3, where its registers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic<'a> {
    /// Its node.
    pub node: Node<'a>,
    /// The distributor.
    pub distributor: Region,
    /// The redistributors: one region or more, each with one redistributor behind the other.
    pub redistributors: Vec<Region>,
    /// How far apart redistributors are in a region, in bytes, if the tree says (`redistributor-stride`); else each
    /// says itself how large it is.
    pub stride: Option<u64>,
}

/// Finds the GICv3. A machine without one is a complaint about its root.
pub fn gic<'a>(tree: &Tree<'a>) -> Result<Gic<'a>, Complaint<'a>> {
    let missing = tree.root().complain("arm,gic-v3", Found::Nothing, Wanted::Text("an interrupt controller"));
    let node = tree.compatible("arm,gic-v3").next().ok_or(missing)?;
    let count = node.cell("#redistributor-regions")?.unwrap_or(1);
    if !(1..=64).contains(&count) {
        return Err(node.complain(
            "#redistributor-regions",
            Found::Number(count.into()),
            Wanted::Between(1, 64),
        ));
    }
    let redistributors =
        (1..=count as usize).map(|index| node.region(index)).collect::<Result<Vec<_>, _>>()?;
    let stride = node.number("redistributor-stride")?;
    if let Some(stride) = stride.filter(|stride| *stride == 0 || !stride.is_multiple_of(REDISTRIBUTOR)) {
        let wanted = Wanted::Text("a multiple of 0x20000");
        return Err(node.complain("redistributor-stride", Found::Number(stride), wanted));
    }
    Ok(Gic { node, distributor: node.region(0)?, redistributors, stride })
}

/// A line into the GIC, by its INTID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The INTID: 16 to 31 private to a CPU, from 32 on shared.
    pub intid: u32,
    /// What makes it pending.
    pub trigger: Trigger,
}

/// What makes an interrupt pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A rising edge.
    Edge,
    /// A high level.
    Level,
}

/// Reads how a device tree names an interrupt of a GIC: kind, number, flags.
pub fn line<'a>(interrupt: &Specifier<'a>) -> Result<Line, Complaint<'a>> {
    let cells = interrupt.cells;
    let odd = |wanted| interrupt.controller.complain("interrupts", Found::Value(cells), Wanted::Text(wanted));
    let (Some(kind), Some(number), Some(flags)) = (cells.cell(0), cells.cell(1), cells.cell(2)) else {
        return Err(odd("three cells"));
    };
    let intid = match (kind, number) {
        (0, 0..988) => number + 32,
        (1, 0..16) => number + 16,
        _ => return Err(odd("an SPI (0) below 988 or a PPI (1) below 16")),
    };
    // 1 and 2 are edges, 4 and 8 levels; bits 15:8 once were a mask of CPUs.
    match flags & 0xf {
        1 | 2 => Ok(Line { intid, trigger: Trigger::Edge }),
        4 | 8 => Ok(Line { intid, trigger: Trigger::Level }),
        _ => Err(odd("an edge (1) or a level (4)")),
    }
}

/// The first interrupt of a node, if it raises any.
pub fn first_line<'a>(node: &Node<'a>) -> Result<Option<Line>, Complaint<'a>> {
    node.interrupts()?.next().map(|interrupt| line(&interrupt?)).transpose()
}

/// The generic timer's private interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The EL1 virtual timer, which guests use.
    pub virtual_el1: Line,
    /// The EL2 physical timer, which is ours.
    pub physical_el2: Line,
}

/// Finds the timer's interrupts. In the node they are in a fixed order: secure physical, physical, virtual, EL2
/// physical, EL2 virtual; `interrupt-names` says so where one is left out.
pub fn timers<'a>(tree: &Tree<'a>) -> Result<Timers, Complaint<'a>> {
    let missing = tree.root().complain("arm,armv8-timer", Found::Nothing, Wanted::Text("a timer"));
    let node = tree.compatible("arm,armv8-timer").next().ok_or(missing)?;
    let pick = |name, position| {
        let names = node.property("interrupt-names");
        let index = match names {
            Some(names) => names.strings().position(|found| found == name),
            None => Some(position),
        };
        let found = names.map_or(Found::Nothing, Found::Value);
        let missing =
            node.complain("interrupts", found, Wanted::Text("those of the virtual and the EL2 timer"));
        line(&index.and_then(|index| node.interrupts().ok()?.nth(index)).ok_or(missing)??)
    };
    Ok(Timers { virtual_el1: pick("virt", 2)?, physical_el2: pick("hyp-phys", 3)? })
}

/// Which instruction calls the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC: the tree was made for EL1, and at EL2 the call would come back to us.
    Hvc,
    /// SMC.
    Smc,
}

/// How PSCI is called, if the machine has it.
pub fn psci<'a>(tree: &Tree<'a>) -> Result<Option<Conduit>, Complaint<'a>> {
    let kinds = ["arm,psci-1.0", "arm,psci-0.2"];
    let Some(node) = kinds.iter().find_map(|kind| tree.compatible(kind).next()) else { return Ok(None) };
    match node.text("method")? {
        Some("smc") => Ok(Some(Conduit::Smc)),
        Some("hvc") => Ok(Some(Conduit::Hvc)),
        other => {
            let found = other.map_or(Found::Nothing, Found::Text);
            Err(node.complain("method", found, Wanted::Text("\"smc\" or \"hvc\"")))
        }
    }
}

#[cfg(test)]
mod tests;
