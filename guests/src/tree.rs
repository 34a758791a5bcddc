//! A reader for the device tree: a walk over the structure block, no allocation, nothing but what guests ask for.
//!
//! Cell sizes are those every virt-like tree has: two cells for addresses and sizes at the root, one or two for a CPU.

use crate::arch::irq::Chips;
use crate::arch::start::pointer;
use crate::arch::uart;
use crate::cpu::MAX_CPUS;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

/// A flattened device tree in memory.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// One node: its name, its parent's name and its properties.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// The name with its unit address, `cpu@0`.
    pub name: &'a str,
    /// How deep it lies: 0 for the root.
    pub depth: usize,
    tree: Tree<'a>,
    props: usize,
}

/// What a guest needs to know about the machine it runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The command line, empty when there is none.
    pub args: &'static str,
    /// What the hardware calls the vCPUs, in ascending order; the first `cpus` count.
    pub ids: [u64; MAX_CPUS],
    /// Number of vCPUs, at most [`MAX_CPUS`].
    pub cpus: usize,
    /// Lowest memory region: base address.
    pub ram: u64,
    /// Lowest memory region: size in bytes.
    pub ram_size: u64,
    /// Size of all memory regions together, in bytes.
    pub ram_total: u64,
    /// The console's registers.
    pub uart: u64,
    /// Interrupt controllers, and what else the architecture's runtime looks for.
    pub chips: Chips,
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn c_str(bytes: &[u8], at: usize) -> Option<&str> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(&rest[..end]).ok()
}

impl Tree<'static> {
    /// Reads the header of the tree at a physical address; `None` when there is none.
    pub fn at(address: u64) -> Option<Self> {
        if address == 0 || !address.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the boot protocol puts a tree of at least 40 header bytes at this aligned address; it stays unchanged.
        let header = unsafe { core::slice::from_raw_parts(pointer(address), 40) };
        if be32(header, 0)? != MAGIC {
            return None;
        }
        let total = be32(header, 4)? as usize;
        // SAFETY: the header says how long the tree is, and the boot protocol that it is all there (at most 2 MiB).
        let all = unsafe { core::slice::from_raw_parts(pointer(address), total.min(2 << 20)) };
        let structure = be32(all, 8)? as usize;
        let strings = be32(all, 12)? as usize;
        Some(Self { structure: all.get(structure..)?, strings: all.get(strings..)? })
    }
}

impl<'a> Tree<'a> {
    /// Calls `visit` for each node, parents first.
    pub fn each(&self, mut visit: impl FnMut(Node<'a>)) {
        let (mut at, mut depth) = (0, 0_usize);
        while let Some(token) = be32(self.structure, at) {
            at += 4;
            match token {
                BEGIN_NODE => {
                    let Some(name) = c_str(self.structure, at) else { return };
                    at += (name.len() + 4) & !3;
                    visit(Node { name, depth, tree: *self, props: at });
                    depth += 1;
                }
                END_NODE => depth = depth.saturating_sub(1),
                PROP => {
                    let Some(length) = be32(self.structure, at) else { return };
                    at += 8 + ((length as usize + 3) & !3);
                }
                NOP => {}
                _ => return,
            }
        }
    }
}

impl<'a> Node<'a> {
    /// Returns the value of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut at = self.props;
        loop {
            match be32(self.tree.structure, at)? {
                PROP => {
                    let length = be32(self.tree.structure, at + 4)? as usize;
                    let offset = be32(self.tree.structure, at + 8)? as usize;
                    if c_str(self.tree.strings, offset)? == name {
                        return self.tree.structure.get(at + 12..at + 12 + length);
                    }
                    at += 12 + ((length + 3) & !3);
                }
                NOP => at += 4,
                _ => return None,
            }
        }
    }

    /// Tells whether `compatible` lists `name`.
    pub fn is(&self, name: &str) -> bool {
        self.property("compatible")
            .is_some_and(|all| all.split(|&byte| byte == 0).any(|one| one == name.as_bytes()))
    }

    /// Returns the `n`th (address, size) pair of `reg`, two cells each.
    pub fn reg(&self, n: usize) -> Option<(u64, u64)> {
        let reg = self.property("reg")?;
        Some((be64(reg, n * 16)?, be64(reg, n * 16 + 8)?))
    }

    /// Finds the node of its tree that a property refers to.
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'a>> {
        let mut found = None;
        self.tree.each(|node| {
            if node.cell("phandle", 0) == Some(phandle) {
                found = Some(node);
            }
        });
        found
    }

    /// Returns the `n`th cell of a property.
    pub fn cell(&self, name: &str, n: usize) -> Option<u32> {
        be32(self.property(name)?, n * 4)
    }

    /// Returns a property that is a string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        c_str(self.property(name)?, 0)
    }
}

/// Calls `visit` with base and size of each memory region.
pub fn memory(tree: &Tree<'_>, mut visit: impl FnMut(u64, u64)) {
    tree.each(|node| {
        if node.property("device_type") == Some(b"memory\0") {
            (0..).map_while(|n| node.reg(n)).for_each(|(base, size)| visit(base, size));
        }
    });
}

/// Reads the machine from its tree; what the tree lacks is as on QEMU's virt machine.
pub fn machine(tree: &Tree<'static>) -> Machine {
    let mut machine = Machine {
        args: "",
        ids: [0; MAX_CPUS],
        cpus: 0,
        ram: 0,
        ram_size: 0,
        ram_total: 0,
        uart: uart::DEFAULT,
        chips: Chips::new(),
    };
    memory(tree, |base, size| {
        machine.ram_total += size;
        if machine.ram_size == 0 || base < machine.ram {
            (machine.ram, machine.ram_size) = (base, size);
        }
    });
    let mut console = "";
    tree.each(|node| {
        if node.depth == 1 && node.name == "chosen" {
            machine.args = node.text("bootargs").unwrap_or("");
            console = node.text("stdout-path").unwrap_or("");
        } else if node.property("device_type") == Some(b"cpu\0") && machine.cpus < MAX_CPUS {
            let reg = node.property("reg").unwrap_or(&[]);
            let id = if reg.len() >= 8 { be64(reg, 0) } else { be32(reg, 0).map(u64::from) };
            machine.ids[machine.cpus] = id.unwrap_or(machine.cpus as u64);
            machine.cpus += 1;
        } else {
            machine.chips.visit(&node);
        }
    });
    machine.ids[..machine.cpus].sort_unstable();
    // The console is the UART that /chosen names, else any.
    let mut named = false;
    tree.each(|node| {
        if node.is(uart::COMPATIBLE) && !named {
            named = console.strip_prefix('/') == Some(node.name);
            machine.uart = node.reg(0).map_or(machine.uart, |(base, _)| base);
        }
    });
    machine.cpus = machine.cpus.max(1);
    machine
}
