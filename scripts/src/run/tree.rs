//! Device trees as values that can be edited: read with `fdt`, written with `vm-fdt`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use std::ops::Range;

/// A flattened device tree, unfolded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The root node; its name is empty.
    pub(crate) root: Node,
    /// Memory the tree reserves, as address and size.
    reserved: Vec<(u64, u64)>,
}

/// A node of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name with its unit address.
    pub(crate) name: String,
    /// Its properties, in order.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    /// The nodes below it, in order.
    pub(crate) children: Vec<Node>,
}

impl Node {
    /// Makes an empty node.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Returns the value of a property.
    pub(crate) fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// Sets a property, replacing what it was.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        let value = value.into();
        match self.properties.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.to_string(), value)),
        }
        self
    }

    /// Sets a property to 32-bit cells.
    pub(crate) fn set_cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        self.set(name, cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<u8>>())
    }

    /// Sets a property to strings, each with its end mark.
    pub(crate) fn set_strings(&mut self, name: &str, strings: &[&str]) -> &mut Self {
        self.set(name, strings.iter().flat_map(|text| text.bytes().chain([0])).collect::<Vec<u8>>())
    }

    /// Tells whether `compatible` lists `model`.
    pub(crate) fn is_compatible(&self, model: &str) -> bool {
        self.property("compatible")
            .is_some_and(|list| list.split(|&b| b == 0).any(|item| item == model.as_bytes()))
    }

    /// Finds the child a path component names: by its whole name, by its name without unit address, or, for `kernel`
    /// and `ramdisk`, the module of that kind.
    fn position(&self, component: &str) -> Option<usize> {
        let stem = |node: &Self| node.name.split('@').next() == Some(component);
        let kind = format!("multiboot,{component}");
        let place = |wanted: &dyn Fn(&Self) -> bool| self.children.iter().position(wanted);
        place(&|node| node.name == component)
            .or_else(|| place(&stem))
            .or_else(|| place(&|node| node.is_compatible(&kind)))
    }

    /// Reads a 32-bit property.
    fn cell(&self, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.property(name)?.try_into().ok()?))
    }
}

impl Tree {
    /// Unfolds a flattened device tree.
    ///
    /// # Errors
    /// The bytes are no device tree of version 17.
    pub(crate) fn parse(blob: &[u8]) -> Result<Self> {
        let fdt = fdt::Fdt::new(blob).map_err(|why| anyhow!("not a device tree: {why}"))?;
        let root = fdt.find_node("/").context("a device tree without root")?;
        let reserved = fdt.memory_reservations().map(|r| (r.address() as u64, r.size() as u64)).collect();
        let mut root = unfold(root);
        root.name.clear();
        Ok(Self { root, reserved })
    }

    /// Folds the tree into the bytes a loader passes on.
    ///
    /// # Errors
    /// A name is no device-tree name.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let reserved: Result<Vec<_>, _> = self
            .reserved
            .iter()
            .map(|&(address, size)| vm_fdt::FdtReserveEntry::new(address, size))
            .collect();
        let wrong = |why| anyhow!("the device tree cannot be written: {why}");
        let mut writer = vm_fdt::FdtWriter::new_with_mem_reserv(&reserved.map_err(wrong)?).map_err(wrong)?;
        fold(&self.root, &mut writer).map_err(wrong)?;
        writer.finish().map_err(wrong)
    }

    /// Finds a node by its path from the root, `/chosen/linux0/kernel`.
    ///
    /// # Errors
    /// Names the first component that is not there, and what is.
    pub(crate) fn node(&mut self, path: &str) -> Result<&mut Node> {
        let mut node = &mut self.root;
        for component in components(path)? {
            let Some(at) = node.position(component) else {
                let there: Vec<_> = node.children.iter().map(|child| child.name.as_str()).collect();
                bail!("{path}: there is no `{component}` in `{}`, only {}", node.name, there.join(", "));
            };
            node = &mut node.children[at];
        }
        Ok(node)
    }

    /// Takes a node with everything below it out of the tree.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub(crate) fn remove(&mut self, path: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').with_context(|| format!("`{path}` is no path"))?;
        self.node(path)?;
        let parent = self.node(if parent.is_empty() { "/" } else { parent })?;
        let at = parent.position(name).with_context(|| format!("{path}: the root cannot go"))?;
        parent.children.remove(at);
        Ok(())
    }

    /// Lists the machine's memory.
    ///
    /// # Errors
    /// A memory node has no sensible `reg`, or there is none.
    pub(crate) fn memory(&self) -> Result<Vec<Range<u64>>> {
        let cells = |name| self.root.cell(name).map(|n| n as usize).filter(|n| (1..=2).contains(n));
        let (address, size) = (cells("#address-cells").unwrap_or(2), cells("#size-cells").unwrap_or(1));
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let mut memory = Vec::new();
        for node in &self.root.children {
            if node.property("device_type") != Some(b"memory\0") {
                continue;
            }
            let reg = node.property("reg").with_context(|| format!("/{} has no reg", node.name))?;
            for entry in reg.chunks_exact(4 * (address + size)) {
                let (base, length) = entry.split_at(4 * address);
                memory.push(number(base)..number(base).saturating_add(number(length)));
            }
        }
        ensure!(!memory.is_empty(), "the device tree describes no memory");
        memory.sort_by_key(|range| range.start);
        Ok(memory)
    }
}

/// Splits a path that starts at the root.
fn components(path: &str) -> Result<impl Iterator<Item = &str>> {
    let rest = path.strip_prefix('/').with_context(|| format!("`{path}` is no path; it starts with /"))?;
    Ok(rest.split('/').filter(|component| !component.is_empty()))
}

/// Makes a value of a node in a blob.
fn unfold(node: fdt::node::FdtNode<'_, '_>) -> Node {
    Node {
        name: node.name.to_string(),
        properties: node.properties().map(|p| (p.name.to_string(), p.value.to_vec())).collect(),
        children: node.children().map(unfold).collect(),
    }
}

/// Writes a node and everything below it.
fn fold(node: &Node, writer: &mut vm_fdt::FdtWriter) -> Result<(), vm_fdt::Error> {
    let open = writer.begin_node(&node.name)?;
    for (name, value) in &node.properties {
        writer.property(name, value)?;
    }
    node.children.iter().try_for_each(|child| fold(child, writer))?;
    writer.end_node(open)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes a small machine: two CPUs, and memory as given.
    pub(crate) fn machine(memory: Range<u64>) -> Tree {
        let mut root = Node::new("");
        root.set_cells("#address-cells", &[2]).set_cells("#size-cells", &[2]);
        let mut ram = Node::new(format!("memory@{:x}", memory.start));
        let length = memory.end - memory.start;
        let halves = [memory.start, length].map(|n| [(n >> 32) as u32, n as u32]).concat();
        ram.set_strings("device_type", &["memory"]).set_cells("reg", &halves);
        let mut chosen = Node::new("chosen");
        chosen.set_strings("stdout-path", &["/pl011@9000000"]);
        root.children = vec![Node::new("pl011@9000000"), ram, chosen];
        Tree { root, reserved: vec![(0x4000_0000, 0x1000)] }
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9,._+-]{0,12}(@[0-9a-f]{1,8})?"
    }

    fn node() -> impl Strategy<Value = Node> {
        let property = ("[#a-z][a-z0-9,-]{0,12}", proptest::collection::vec(any::<u8>(), 0..12));
        let properties =
            proptest::collection::vec(property, 0..4).prop_map(|mut all: Vec<(String, Vec<u8>)>| {
                all.sort();
                all.dedup_by(|a, b| a.0 == b.0);
                all
            });
        let leaf = (name(), properties.clone()).prop_map(|(name, properties)| Node {
            name,
            properties,
            children: vec![],
        });
        leaf.prop_recursive(3, 24, 4, move |inner| {
            (name(), properties.clone(), proptest::collection::vec(inner, 0..4)).prop_map(
                |(name, properties, mut children)| {
                    children.sort_by(|a, b| a.name.cmp(&b.name));
                    children.dedup_by(|a, b| a.name == b.name);
                    Node { name, properties, children }
                },
            )
        })
    }

    proptest! {
        #[test]
        fn a_tree_reads_back_as_it_was_written(mut root in node()) {
            root.name.clear();
            let tree = Tree { root, reserved: vec![(0x1000, 0x2000)] };
            prop_assert_eq!(Tree::parse(&tree.to_bytes().unwrap()).unwrap(), tree);
        }
    }

    #[test]
    fn memory_is_read_with_the_cells_of_the_root() {
        let memory = 0x4000_0000..0x1_4000_0000;
        assert_eq!(machine(memory.clone()).memory().unwrap(), vec![memory]);
        let mut tree = machine(0..0x1000);
        tree.remove("/memory").unwrap();
        assert!(tree.memory().is_err());
    }

    #[test]
    fn paths_find_nodes_by_name_stem_or_kind() {
        let mut tree = machine(0..0x1000);
        let mut module = Node::new("module@48000000");
        module.set_strings("compatible", &["multiboot,kernel", "multiboot,module"]);
        let mut guest = Node::new("a");
        guest.children = vec![module];
        tree.node("/chosen").unwrap().children.push(guest);
        assert_eq!(tree.node("/chosen/a/kernel").unwrap().name, "module@48000000");
        assert_eq!(tree.node("/pl011").unwrap().name, "pl011@9000000");
        let why = tree.node("/chosen/b").unwrap_err().to_string();
        assert!(why.contains("no `b` in `chosen`, only a"), "{why}");
        tree.remove("/chosen/a/kernel").unwrap();
        assert_eq!(tree.node("/chosen/a").unwrap().children, []);
        assert!(tree.remove("/").is_err() && tree.node("chosen").is_err());
    }

    #[test]
    fn bytes_that_are_no_tree_are_refused() {
        assert!(Tree::parse(b"").is_err());
        assert!(Tree::parse(&[0; 64]).is_err());
    }
}
