//! Guests, as the nodes under `/chosen` describe them.
//!
//! The binding is Xen's for domains without a toolstack (docs/misc/arm/device-tree/booting.txt in Xen), so that
//! existing boot scripts work, plus properties of our own that start with `fermata,`. A node that is wrong costs its
//! own guest and no other. The same code runs on the host, where it checks what the boot tool writes.

use alloc::vec::Vec;

use crate::addr::{CpuId, Hpa};
use crate::fdt::{Complaint, Found, Node, Tree, Value, Wanted};
use crate::mem::{GRANULE, Region, Regions};
use crate::sched::{CpuSet, DEFAULT_WEIGHT, MAX_WEIGHT};

/// The most vCPUs a guest can have.
pub const MAX_CPUS: u32 = 8;
/// The longest name of a guest, in bytes: it prefixes each line of its console.
pub const MAX_NAME: usize = 31;
/// The longest command line, in bytes, that an arm64 Linux kernel keeps (COMMAND_LINE_SIZE less the NUL).
pub const MAX_BOOTARGS: usize = 2047;

/// The most guests: as many as there are consoles beside Fermata's own. What the tree describes beyond them is one error.
pub const MAX_GUESTS: usize = 62;

/// What makes a node under `/chosen` a guest.
const DOMAINS: [&str; 2] = ["fermata,domain", "xen,domain"];
/// Our own properties. Others with our prefix are misspelt, and ignoring them would run a guest that was not asked
/// for.
const OWN: [&str; 5] =
    ["fermata,name", "fermata,fp-policy", "fermata,fp-units", "fermata,affinity", "fermata,weight"];

/// A file that the boot loader has put into memory for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its node, for messages.
    pub node: Node<'a>,
    /// Where it is.
    pub region: Region,
    /// The command line that comes with it; empty if there is none.
    pub bootargs: &'a str,
}

/// How long a guest's vector registers may be at most, where the architecture leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorLength {
    /// As long as the CPUs it may run on have them.
    Longest,
    /// That many bits.
    Bits(u64),
}

/// A guest as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain<'a> {
    /// Its node, for messages.
    pub node: Node<'a>,
    /// Its name: `fermata,name`, else the node's name. No other guest has it.
    pub name: &'a str,
    /// How many vCPUs it has, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// How much memory it has, in bytes; a multiple of [`GRANULE`].
    pub memory: u64,
    /// Its kernel, with its command line.
    pub kernel: Module<'a>,
    /// Its initial RAM disk.
    pub ramdisk: Option<Module<'a>>,
    /// A partial device tree of its own.
    pub device_tree: Option<Module<'a>>,
    /// How its floating-point state is to be kept (`fermata,fp-policy`), in words that mean nothing here.
    pub fp_policy: Option<&'a str>,
    /// Which floating-point units it is to have (`fermata,fp-units`), in words that mean nothing here: a list of strings
    /// with one at least.
    pub fp_units: Option<Value<'a>>,
    /// What it is to have of scalable vectors (`sve`); none if it has no use for them.
    pub sve: Option<VectorLength>,
    /// The physical CPUs it may run on.
    pub affinity: CpuSet,
    /// Its share of the CPUs, relative to the others'; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Whether it was promised an emulated PL011.
    pub vpl011: bool,
}

/// Why a guest cannot be made.
pub type DomainError<'a> = Complaint<'a>;

/// What the machine can give.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// All of its memory: modules have to lie in it, and no guest can have more.
    pub memory: &'a Regions,
    /// What modules must not lie in: the image and the device tree.
    pub occupied: &'a [Region],
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// Reads the guests that a tree describes, in its order. Nodes whose status is not "okay" are passed over.
pub fn read<'a>(tree: &Tree<'a>, limits: &Limits<'_>) -> Vec<Result<Domain<'a>, DomainError<'a>>> {
    let chosen = tree.find("/chosen");
    let is_domain = |node: &Node<'_>| DOMAINS.iter().any(|kind| node.is_compatible(kind)) && node.is_usable();
    let nodes = chosen.into_iter().flat_map(|chosen| chosen.children()).filter(is_domain);
    let mut guests: Vec<Result<Domain<'a>, DomainError<'a>>> = Vec::new();
    for node in nodes {
        if guests.len() == MAX_GUESTS {
            guests.push(Err(node.complain("compatible", Found::Nothing, Wanted::Text("at most 62 guests"))));
            break;
        }
        let others: Vec<Domain<'a>> = guests.iter().flatten().copied().collect();
        guests.push(domain(node, limits).and_then(|domain| apart(domain, &others)));
    }
    guests
}

/// Reads one guest.
fn domain<'a>(node: Node<'a>, limits: &Limits<'_>) -> Result<Domain<'a>, DomainError<'a>> {
    let unknown = node.properties().find(|(name, _)| name.starts_with("fermata,") && !OWN.contains(name));
    if let Some((name, value)) = unknown {
        return Err(node.complain(name, Found::Value(value), Wanted::Text("no such property")));
    }
    let kernel = module(node, "multiboot,kernel", limits)?
        .ok_or_else(|| node.complain("multiboot,kernel", Found::Nothing, Wanted::Text("a module")))?;
    let domain = Domain {
        node,
        name: name(node)?,
        cpus: cpus(node)?,
        memory: memory(node, limits)?,
        kernel,
        ramdisk: module(node, "multiboot,ramdisk", limits)?,
        device_tree: module(node, "multiboot,device-tree", limits)?,
        fp_policy: node.text("fermata,fp-policy")?,
        fp_units: fp_units(node)?,
        sve: sve(node)?,
        affinity: affinity(node, limits)?,
        weight: weight(node)?,
        vpl011: node.property("vpl011").is_some(),
    };
    let [first, second, third] = domain.modules();
    for (one, other) in [(first, second), (first, third), (second, third)] {
        if let (Some(one), Some(other)) = (one, other)
            && one.region.overlaps(&other.region)
        {
            return Err(overlap(&other, one.node));
        }
    }
    Ok(domain)
}

impl<'a> Domain<'a> {
    /// Its modules: kernel, RAM disk, device tree.
    pub fn modules(&self) -> [Option<Module<'a>>; 3] {
        [Some(self.kernel), self.ramdisk, self.device_tree]
    }
}

/// Checks a guest against those before it: its name is its own, and so are its modules, unless two guests are given
/// the very same file.
fn apart<'a>(domain: Domain<'a>, others: &[Domain<'a>]) -> Result<Domain<'a>, DomainError<'a>> {
    for other in others {
        if domain.name == other.name {
            let wanted = Wanted::Text("a name that no guest before it has");
            return Err(domain.node.complain("fermata,name", Found::Text(domain.name), wanted));
        }
        for mine in domain.modules().into_iter().flatten() {
            for theirs in other.modules().into_iter().flatten() {
                if mine.region != theirs.region && mine.region.overlaps(&theirs.region) {
                    return Err(overlap(&mine, theirs.node));
                }
            }
        }
    }
    Ok(domain)
}

fn overlap<'a>(module: &Module<'a>, other: Node<'a>) -> DomainError<'a> {
    module.node.complain("reg", Found::Region(module.region), Wanted::ApartFrom(other))
}

fn name<'a>(node: Node<'a>) -> Result<&'a str, DomainError<'a>> {
    let name = node.text("fermata,name")?.unwrap_or(node.base_name());
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain || name.is_empty() || name.len() > MAX_NAME {
        let wanted = Wanted::Text("1 to 31 letters, digits, '-', '_' or '.'");
        return Err(node.complain("fermata,name", Found::Text(name), wanted));
    }
    Ok(name)
}

fn cpus(node: Node<'_>) -> Result<u32, DomainError<'_>> {
    let wanted = Wanted::Between(1, MAX_CPUS.into());
    let cpus = node.cell("cpus")?.ok_or_else(|| node.complain("cpus", Found::Nothing, wanted))?;
    let odd = node.complain("cpus", Found::Number(cpus.into()), wanted);
    if (1..=MAX_CPUS).contains(&cpus) { Ok(cpus) } else { Err(odd) }
}

/// Reads `memory`, which is in KiB, and rounds it up to whole granules.
fn memory<'a>(node: Node<'a>, limits: &Limits<'_>) -> Result<u64, DomainError<'a>> {
    let least = Wanted::AtLeastKib(GRANULE >> 10);
    let kib = node.number("memory")?.ok_or_else(|| node.complain("memory", Found::Nothing, least))?;
    if kib < GRANULE >> 10 {
        return Err(node.complain("memory", Found::Number(kib), least));
    }
    let all = limits.memory.total();
    let bytes = kib.checked_mul(1 << 10).and_then(|bytes| bytes.checked_next_multiple_of(GRANULE));
    bytes
        .filter(|bytes| *bytes <= all)
        .ok_or_else(|| node.complain("memory", Found::Number(kib), Wanted::AtMostKib(all >> 10)))
}

fn fp_units(node: Node<'_>) -> Result<Option<Value<'_>>, DomainError<'_>> {
    let Some(value) = node.property("fermata,fp-units") else { return Ok(None) };
    let is_name = |unit: &[u8]| !unit.is_empty() && unit.is_ascii();
    let list = value.bytes().split_last().filter(|(last, _)| **last == 0);
    let whole = list.is_some_and(|(_, list)| list.split(|byte| *byte == 0).all(is_name));
    let wanted = Wanted::Text("names of units, one at least");
    if whole { Ok(Some(value)) } else { Err(node.complain("fermata,fp-units", Found::Value(value), wanted)) }
}

/// Reads `sve`, which is a number of bits. Zero is as good as no property, no value means as many as there are. What the
/// CPUs have is for the architecture to say.
fn sve(node: Node<'_>) -> Result<Option<VectorLength>, DomainError<'_>> {
    let Some(value) = node.property("sve") else { return Ok(None) };
    if value.bytes().is_empty() {
        return Ok(Some(VectorLength::Longest));
    }
    Ok(node.number("sve")?.filter(|bits| *bits != 0).map(VectorLength::Bits))
}

fn affinity<'a>(node: Node<'a>, limits: &Limits<'_>) -> Result<CpuSet, DomainError<'a>> {
    let Some(value) = node.property("fermata,affinity") else { return Ok(limits.cpus) };
    if value.bytes().is_empty() || !value.bytes().len().is_multiple_of(4) {
        return Err(node.complain("fermata,affinity", Found::Value(value), Wanted::Text("numbers of CPUs")));
    }
    let mut set = CpuSet::EMPTY;
    for cpu in value.cells() {
        if !limits.cpus.contains(CpuId(cpu as usize)) {
            let wanted = Wanted::CpuOf(limits.cpus.bits());
            return Err(node.complain("fermata,affinity", Found::Number(cpu.into()), wanted));
        }
        set.insert(CpuId(cpu as usize));
    }
    Ok(set)
}

fn weight(node: Node<'_>) -> Result<u32, DomainError<'_>> {
    let weight = node.cell("fermata,weight")?.unwrap_or(DEFAULT_WEIGHT);
    let wanted = Wanted::Between(1, MAX_WEIGHT.into());
    let odd = node.complain("fermata,weight", Found::Number(weight.into()), wanted);
    if (1..=MAX_WEIGHT).contains(&weight) { Ok(weight) } else { Err(odd) }
}

/// Finds a guest's module of one kind, if it has one.
fn module<'a>(
    domain: Node<'a>,
    kind: &'static str,
    limits: &Limits<'_>,
) -> Result<Option<Module<'a>>, DomainError<'a>> {
    let mut modules = domain.children().filter(|child| child.is_compatible(kind) && child.is_usable());
    let Some(node) = modules.next() else { return Ok(None) };
    if let Some(second) = modules.next() {
        return Err(second.complain(
            "compatible",
            Found::Text(kind),
            Wanted::Text("one module of each kind"),
        ));
    }
    let value = node.property("reg").unwrap_or_default();
    let mut entries = node.reg()?;
    // The module's address is the CPU's even though the node has no `ranges`: the binding reads it as it stands.
    let (Some((base, size)), None) = (entries.next(), entries.next()) else {
        return Err(node.complain("reg", Found::Value(value), Wanted::Text("one address and size")));
    };
    let wanted = Wanted::Text("a size above zero, and an end below 2^64");
    let region =
        Region::new(Hpa(base), size).ok_or_else(|| node.complain("reg", Found::Value(value), wanted))?;
    if !limits.memory.covers(&region) {
        return Err(node.complain(
            "reg",
            Found::Region(region),
            Wanted::Text("a range of the machine's memory"),
        ));
    }
    if limits.occupied.iter().any(|taken| taken.overlaps(&region)) {
        let wanted = Wanted::Text("no overlap with the hypervisor or its device tree");
        return Err(node.complain("reg", Found::Region(region), wanted));
    }
    Ok(Some(Module { node, region, bootargs: bootargs(node)? }))
}

fn bootargs(node: Node<'_>) -> Result<&str, DomainError<'_>> {
    let bootargs = node.text("bootargs")?.unwrap_or("");
    if bootargs.len() > MAX_BOOTARGS {
        let value = node.property("bootargs").unwrap_or_default();
        return Err(node.complain("bootargs", Found::Value(value), Wanted::Text("at most 2047 bytes")));
    }
    Ok(bootargs)
}
