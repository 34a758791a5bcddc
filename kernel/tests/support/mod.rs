//! Device trees for tests: a model of one, two ways to write it down, and the tree of a machine with guests; and FP
//! snapshots for tests.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod snapshot;

use vm_fdt::{FdtReserveEntry, FdtWriter};

/// A node to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Its name with the unit address.
    pub(crate) name: String,
    /// Its properties in order.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    /// Its children in order.
    pub(crate) children: Vec<Model>,
}

/// A node without anything.
pub(crate) fn node(name: &str) -> Model {
    Model { name: name.into(), ..Model::default() }
}

impl Model {
    /// Adds a property, or replaces it.
    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.retain(|(other, _)| other != name);
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Adds a property without a value.
    pub(crate) fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }

    /// Adds a property of cells.
    pub(crate) fn cells(self, name: &str, value: &[u32]) -> Self {
        let value: Vec<u8> = value.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    /// Adds a property of numbers of two cells.
    pub(crate) fn longs(self, name: &str, value: &[u64]) -> Self {
        let value: Vec<u8> = value.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    /// Adds a property of one or more strings.
    pub(crate) fn text(self, name: &str, value: &[&str]) -> Self {
        let value: Vec<u8> = value.iter().flat_map(|text| text.bytes().chain([0])).collect();
        self.bytes(name, &value)
    }

    /// Takes a property away.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.properties.retain(|(other, _)| other != name);
        self
    }

    /// Adds a child.
    pub(crate) fn child(mut self, child: Model) -> Self {
        self.children.push(child);
        self
    }

    /// Changes the child of that name, or removes it.
    pub(crate) fn edit(mut self, name: &str, change: impl FnOnce(Model) -> Option<Model>) -> Self {
        let at = self.children.iter().position(|child| child.name == name).expect("there is such a child");
        if let Some(changed) = change(self.children.remove(at)) {
            self.children.insert(at, changed);
        }
        self
    }

    /// How many nodes it is.
    pub(crate) fn count(&self) -> usize {
        1 + self.children.iter().map(Model::count).sum::<usize>()
    }

    fn write(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let begun = fdt.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            fdt.property(name, value)?;
        }
        for child in &self.children {
            child.write(fdt)?;
        }
        fdt.end_node(begun)
    }

    /// The tree with this root, as vm-fdt writes it.
    pub(crate) fn blob(&self, reserved: &[(u64, u64)]) -> Vec<u8> {
        let entries: Vec<_> =
            reserved.iter().map(|(at, size)| FdtReserveEntry::new(*at, *size).expect("a range")).collect();
        let mut fdt = FdtWriter::new_with_mem_reserv(&entries).expect("ranges apart");
        self.write(&mut fdt).expect("a good tree");
        fdt.finish().expect("a whole tree")
    }

    /// The tree with this root, with as many NOPs before the `n`th token as `nops` says, over and over.
    pub(crate) fn blob_with_nops(&self, nops: &[usize]) -> Vec<u8> {
        let mut writer = Raw { nops: nops.iter().copied().cycle().take(4096).collect(), ..Raw::default() };
        writer.node(self);
        writer.token(9);
        writer.finish()
    }
}

/// Writes tokens one by one, also such as no writer would.
#[derive(Default)]
pub(crate) struct Raw {
    nops: std::collections::VecDeque<usize>,
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Raw {
    /// Writes a token.
    pub(crate) fn token(&mut self, token: u32) {
        for _ in 0..self.nops.pop_front().unwrap_or(0) {
            self.structure.extend(4u32.to_be_bytes());
        }
        self.structure.extend(token.to_be_bytes());
    }

    /// Writes the beginning of a node.
    pub(crate) fn begin(&mut self, name: &[u8]) {
        self.token(1);
        self.structure.extend(name.iter().chain(&[0]));
        self.pad();
    }

    /// Writes a property.
    pub(crate) fn property(&mut self, name: &[u8], value: &[u8]) {
        self.token(3);
        self.structure.extend((value.len() as u32).to_be_bytes());
        self.structure.extend((self.strings.len() as u32).to_be_bytes());
        self.structure.extend(value);
        self.strings.extend(name.iter().chain(&[0]));
        self.pad();
    }

    fn pad(&mut self) {
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
    }

    fn node(&mut self, model: &Model) {
        self.begin(model.name.as_bytes());
        for (name, value) in &model.properties {
            self.property(name.as_bytes(), value);
        }
        for child in &model.children {
            self.node(child);
        }
        self.token(2);
    }

    /// Puts the blocks together: header, no reservations, structure, strings.
    pub(crate) fn finish(self) -> Vec<u8> {
        let structure = 40 + 16;
        let strings = structure + self.structure.len();
        let size = strings + self.strings.len();
        let header =
            [0xd00d_feed, size, structure, strings, 40, 17, 16, 0, self.strings.len(), self.structure.len()];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
        blob.extend([0; 16]);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }
}

/// A guest's node with a kernel and a RAM disk.
pub(crate) fn guest(name: &str, base: u64) -> Model {
    node(name)
        .text("compatible", &["fermata,domain", "xen,domain"])
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("cpus", &[2])
        .cells("memory", &[0, 0x4_0000])
        .flag("vpl011")
        .text("fermata,name", &[name])
        .text("fermata,fp-policy", &["hold"])
        .cells("fermata,affinity", &[0, 1])
        .cells("fermata,weight", &[512])
        .child(
            node(&format!("module@{base:x}"))
                .text("compatible", &["multiboot,kernel", "multiboot,module"])
                .longs("reg", &[base, 0x1f0_0000])
                .text("bootargs", &["console=ttyAMA0"]),
        )
        .child(
            node(&format!("module@{:x}", base + 0x200_0000))
                .text("compatible", &["multiboot,ramdisk", "multiboot,module"])
                .longs("reg", &[base + 0x200_0000, 0x12_3456]),
        )
}

/// A machine like QEMU's `virt` with 2 GiB, two CPUs, a bus that translates, and whatever is under `chosen`.
pub(crate) fn machine(chosen: Model) -> Model {
    let cpu = |number: u32| {
        node(&format!("cpu@{number}"))
            .text("device_type", &["cpu"])
            .text("compatible", &["arm,cortex-a57"])
            .text("enable-method", &["psci"])
            .cells("reg", &[number])
    };
    node("")
        .text("compatible", &["linux,dummy-virt"])
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("interrupt-parent", &[0x8003])
        .child(node("psci").text("compatible", &["arm,psci-1.0", "arm,psci-0.2"]).text("method", &["smc"]))
        .child(
            node("memory@40000000")
                .text("device_type", &["memory"])
                .longs("reg", &[0x4000_0000, 0x8000_0000]),
        )
        .child(
            node("reserved-memory")
                .cells("#address-cells", &[2])
                .cells("#size-cells", &[2])
                .flag("ranges")
                .child(node("firmware@4fe00000").longs("reg", &[0x4fe0_0000, 0x20_0000]).flag("no-map"))
                .child(node("log@4fd00000").longs("reg", &[0x4fd0_0000, 0x10_0000]))
                .child(node("cma").longs("size", &[0x400_0000])),
        )
        .child(
            node("soc@c000000")
                .text("compatible", &["simple-bus"])
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .cells("ranges", &[0, 0, 0x0c00_0000, 0x200_0000, 0x8000_0000, 1, 0, 0x1000])
                .child(
                    node("serial@1000")
                        .text("compatible", &["snps,dw-apb-uart", "ns16550a"])
                        .cells("reg", &[0x1000, 0x100])
                        .cells("reg-shift", &[2])
                        .cells("reg-io-width", &[4])
                        .cells("interrupts", &[0, 8, 4]),
                )
                .child(
                    node("bus@100000")
                        .cells("#address-cells", &[1])
                        .cells("#size-cells", &[1])
                        .cells("ranges", &[0, 0x10_0000, 0x1_0000])
                        .child(
                            node("device@40")
                                .text("compatible", &["test,deep"])
                                .cells("reg", &[0x40, 0x10])
                                .cells("interrupts-extended", &[0x8003, 1, 9, 4, 0x9000, 7]),
                        ),
                )
                .child(node("edge@fff").text("compatible", &["test,edge"]).cells("reg", &[0x1ff_fff0, 0x11])),
        )
        .child(
            node("gpio")
                .cells("phandle", &[0x9000])
                .cells("#interrupt-cells", &[1])
                .flag("interrupt-controller"),
        )
        .child(
            node("intc@8000000")
                .text("compatible", &["arm,gic-v3"])
                .cells("phandle", &[0x8003])
                .cells("#interrupt-cells", &[3])
                .longs("reg", &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000]),
        )
        .child(
            node("pl011@9000000")
                .text("compatible", &["arm,pl011", "arm,primecell"])
                .longs("reg", &[0x900_0000, 0x1000])
                .cells("interrupts", &[0, 1, 4]),
        )
        .child(
            node("cpus")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[0])
                .child(node("cpu-map"))
                .child(cpu(0))
                .child(cpu(1)),
        )
        .child(
            node("aliases")
                .text("serial0", &["/pl011@9000000"])
                .text("console", &["/soc@c000000/serial@1000"]),
        )
        .child(chosen)
}

/// The `chosen` of a machine with two guests.
pub(crate) fn chosen() -> Model {
    node("chosen")
        .text("stdout-path", &["serial0:115200n8"])
        .text("bootargs", &["loglevel=debug"])
        .child(guest("linux0", 0x4800_0000))
        .child(guest("linux1", 0x5000_0000))
}
