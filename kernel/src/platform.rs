//! What the machine is, as far as every architecture asks the same questions of its tree.

use crate::addr::Hpa;
use crate::fdt::{Complaint, Found, Node, Tree, Wanted};
use crate::mem::Region;

/// The ranges of memory the machine has: every node whose `device_type` is "memory".
pub fn memory<'a>(tree: &Tree<'a>) -> impl Iterator<Item = Result<Region, Complaint<'a>>> + use<'a> {
    let is_memory =
        |node: &Node<'_>| node.property("device_type").and_then(|kind| kind.text()) == Some("memory");
    tree.nodes().filter(move |node| is_memory(node) && node.is_usable()).flat_map(regions)
}

/// The ranges in a node's `reg`, or what is wrong with it.
fn regions<'a>(node: Node<'a>) -> impl Iterator<Item = Result<Region, Complaint<'a>>> {
    let (regions, wrong) = match node.regions() {
        Ok(regions) => (Some(regions), None),
        Err(wrong) => (None, Some(Err(wrong))),
    };
    regions.into_iter().flatten().chain(wrong)
}

/// A range of memory that is spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where it is.
    pub region: Region,
    /// What may be done with it.
    pub kind: Reservation,
}

/// What may be done with reserved memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// It may be mapped, but not given to anyone.
    Keep,
    /// It must not be mapped at all, not even speculatively (`no-map`).
    NoMap,
}

/// The ranges that are reserved: the memory reservation block, and the children of `/reserved-memory` that have an
/// address. Those that only have a size are wishes of an operating system, and none of ours.
pub fn reserved<'a>(tree: &Tree<'a>) -> impl Iterator<Item = Result<Reserved, Complaint<'a>>> + use<'a> {
    let listed = tree.reservations().map(|region| Ok(Reserved { region, kind: Reservation::Keep }));
    let nodes = tree.find("/reserved-memory").into_iter().flat_map(|parent| parent.children());
    let fixed = nodes.filter(|node| node.is_usable() && node.property("reg").is_some()).flat_map(|node| {
        let kind = match node.property("no-map") {
            Some(_) => Reservation::NoMap,
            None => Reservation::Keep,
        };
        regions(node).map(move |region| Ok(Reserved { region: region?, kind }))
    });
    listed.chain(fixed)
}

/// A physical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu<'a> {
    /// Its node.
    pub node: Node<'a>,
    /// What the hardware calls it (MPIDR affinity fields, or the physical id).
    pub hardware_id: u64,
    /// How it is started, such as "psci" or "spin-table", if the tree says.
    pub enable_method: Option<&'a str>,
    /// Where a CPU started by "spin-table" looks for its entry point.
    pub release: Option<Hpa>,
}

/// The CPUs of the machine, in the order of the tree, which is how they are numbered. CPUs that have failed are left
/// out.
pub fn cpus<'a>(tree: &Tree<'a>) -> impl Iterator<Item = Result<Cpu<'a>, Complaint<'a>>> + use<'a> {
    let nodes = tree.find("/cpus").into_iter().flat_map(|parent| parent.children());
    let is_cpu = |node: &Node<'_>| node.property("device_type").and_then(|kind| kind.text()) == Some("cpu");
    // A "disabled" CPU is one that has not been started, and can be; only "fail" means broken (Devicetree
    // Specification 0.4, 3.8.1).
    let failed = |node: &Node<'_>| {
        node.property("status")
            .and_then(|status| status.text())
            .is_some_and(|status| status.starts_with("fail"))
    };
    nodes.filter(move |node| is_cpu(node) && !failed(node)).map(|node| {
        let missing = node.complain("reg", Found::Nothing, Wanted::Text("the CPU's hardware id"));
        let (hardware_id, _) = node.reg()?.next().ok_or(missing)?;
        let enable_method = node.property("enable-method").and_then(|method| method.strings().next());
        let release = node.number("cpu-release-addr")?.map(Hpa);
        Ok(Cpu { node, hardware_id, enable_method, release })
    })
}

/// The device the machine's console is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stdout<'a> {
    /// Its node, which says what it is compatible with and which interrupts it raises.
    pub node: Node<'a>,
    /// Its registers.
    pub registers: Region,
    /// By how many bits register numbers are shifted (`reg-shift`); 0 if the tree does not say.
    pub shift: u32,
    /// How wide an access has to be, in bytes (`reg-io-width`), if the tree says.
    pub width: Option<u32>,
    /// What follows the colon in `stdout-path`, such as "115200n8"; often empty.
    pub options: &'a str,
}

/// Finds the console by `/chosen/stdout-path`, which is a path or an alias, with options after a colon. There is none
/// if the tree names none.
pub fn stdout<'a>(tree: &Tree<'a>) -> Result<Option<Stdout<'a>>, Complaint<'a>> {
    let Some(chosen) = tree.find("/chosen") else { return Ok(None) };
    let Some(path) = chosen.text("stdout-path")? else { return Ok(None) };
    let (device, options) = path.split_once(':').unwrap_or((path, ""));
    let unknown =
        chosen.complain("stdout-path", Found::Text(path), Wanted::Text("a node or an alias of one"));
    let node = tree.find(device).ok_or(unknown)?;
    let shift = node.cell("reg-shift")?.unwrap_or(0);
    if shift > 4 {
        return Err(node.complain("reg-shift", Found::Number(shift.into()), Wanted::Between(0, 4)));
    }
    let width = node.cell("reg-io-width")?;
    if let Some(width) = width.filter(|width| !matches!(width, 1 | 2 | 4 | 8)) {
        return Err(node.complain("reg-io-width", Found::Number(width.into()), Wanted::Text("1, 2, 4 or 8")));
    }
    Ok(Some(Stdout { node, registers: node.region(0)?, shift, width, options }))
}

/// What the boot loader tells the hypervisor (`/chosen/bootargs`); empty if it says nothing.
pub fn bootargs<'a>(tree: &Tree<'a>) -> Result<&'a str, Complaint<'a>> {
    let Some(chosen) = tree.find("/chosen") else { return Ok("") };
    Ok(chosen.text("bootargs")?.unwrap_or(""))
}

#[cfg(test)]
mod tests;
