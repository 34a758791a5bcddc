//! What goes where in the machine's memory, and the nodes that tell Fermata so.

use super::machine::Machine;
use super::tree::{Node, Tree};
use super::units::{Memory, Sve};
use super::vm::Vm;
use crate::arch::Arch;
use crate::payload::{self, NotAKernel};
use anyhow::{Context, Result, anyhow, bail, ensure};
use kernel::addr::CpuId;
use kernel::domain::{MAX_BOOTARGS, MAX_CPUS, MAX_GUESTS, MAX_NAME};
use kernel::sched::{CpuSet, MAX_WEIGHT};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Memory at the start of RAM that is Fermata's own, in bytes.
const RESERVED: u64 = 32 << 20;
/// Most memory that QEMU takes for the device tree, in bytes (`FDT_MAX_SIZE` is 1 MiB, doubled when one is loaded).
const TREE_ROOM: u64 = 4 << 20;
/// Modules start at multiples of this: a stage-2 block.
const ALIGN: u64 = 2 << 20;
/// Memory a Linux guest needs beside its kernel and RAM disk to get anywhere, in bytes.
const ELBOW_ROOM: u64 = 4 << 20;

/// A file that the loader puts into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its physical address.
    pub(crate) address: u64,
    /// Its length in bytes.
    pub(crate) size: u64,
}

/// The modules of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modules {
    /// Its kernel.
    pub(crate) kernel: Module,
    /// Its initial RAM disk.
    pub(crate) ramdisk: Option<Module>,
}

/// Checks guests before anything is built or booted: what can be known to fail is refused here.
///
/// # Errors
/// Names the guest, the key, what was found and what was expected.
pub(crate) fn check(vms: &[Vm], machine: &Machine) -> Result<()> {
    ensure!(!vms.is_empty(), "there is no guest to run");
    ensure!(vms.len() <= MAX_GUESTS, "{} guests; {MAX_GUESTS} is the most", vms.len());
    let mut names = HashSet::new();
    for vm in vms {
        check_name(&vm.name)?;
        ensure!(names.insert(&vm.name), "two guests are called `{}`; names must be unique", vm.name);
        check_one(vm, machine).with_context(|| format!("guest `{}`", vm.name))?;
    }
    let wanted: u64 = vms.iter().map(|vm| vm.memory.0).fold(0, u64::saturating_add);
    let modules: u64 = files(vms).into_iter().map(length).sum();
    let needed = wanted.saturating_add(RESERVED + TREE_ROOM + modules);
    ensure!(
        needed <= machine.memory.0,
        "the guests want {} of memory, with their files, Fermata and the device tree {}; the machine has {} (--memory)",
        Memory(wanted),
        Memory(needed.next_multiple_of(1 << 20)),
        machine.memory
    );
    Ok(())
}

/// Lists the files of all guests, each once: guests may share them.
fn files(vms: &[Vm]) -> BTreeSet<&Path> {
    vms.iter().flat_map(|vm| [Some(&vm.kernel), vm.initrd.as_ref()]).flatten().map(PathBuf::as_path).collect()
}

/// Returns the length of a file in bytes, 0 for one that cannot be read.
fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

/// Checks that a name can be the name of a node and of a console.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    ensure!(
        name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(good),
        "`{name}` cannot be a guest's name; it is made of at most {MAX_NAME} letters, digits, `.`, `_` and `-` \
         and starts with a letter"
    );
    ensure!(name != "fermata", "a guest cannot be called `fermata`; that is the hypervisor's own console");
    Ok(())
}

/// Checks one guest by itself.
fn check_one(vm: &Vm, machine: &Machine) -> Result<()> {
    let (arch, cpus) = (machine.board.arch, machine.cpus);
    ensure!(vm.cpus >= 1, "key `cpus`: a guest has at least one vCPU");
    ensure!(vm.cpus <= MAX_CPUS, "key `cpus`: {} vCPUs; {MAX_CPUS} is the most", vm.cpus);
    ensure!(
        (1..=MAX_WEIGHT).contains(&vm.weight),
        "key `weight`: {} is not between 1 and {MAX_WEIGHT}; 256 is the ordinary share",
        vm.weight
    );
    ensure!(
        vm.cmdline.len() <= MAX_BOOTARGS,
        "key `cmdline`: {} bytes; {MAX_BOOTARGS} is the most",
        vm.cmdline.len()
    );
    ensure!(vm.memory.0.is_multiple_of(4096), "key `memory`: {} is no multiple of 4 KiB", vm.memory);
    let there = CpuSet::first_n(cpus as usize);
    if let Some(CpuId(missing)) = vm.affinity.and_then(|affinity| (affinity.0 & !there).first()) {
        bail!("key `affinity`: there is no CPU {missing}; the machine has {cpus}, numbered from 0 (--cpus)");
    }
    ensure!(
        vm.fp_units.is_none() || arch == Arch::Loongarch64,
        "key `fp-units`: on {arch} a guest's FP units cannot be chosen; it is for loongarch64"
    );
    ensure!(
        vm.sve == Sve::Hidden || arch == Arch::Aarch64,
        "key `sve`: on {arch} there is no SVE; it is for aarch64"
    );
    let named = || format!("key `kernel`: {}", vm.kernel.display());
    let mut needed = match payload::room(arch, &vm.kernel) {
        Ok(room) => room,
        Err(why) if why.is::<NotAKernel>() => bail!("{} is not {}: {why}", named(), payload::wanted(arch)),
        Err(why) => return Err(why).with_context(named),
    };
    if let Some(initrd) = &vm.initrd {
        let named = || format!("key `initrd`: {}", initrd.display());
        ensure!(!payload::read_start(initrd).with_context(named)?.is_empty(), "{} is empty", named());
        needed += length(initrd) + ELBOW_ROOM;
    }
    ensure!(
        needed <= vm.memory.0,
        "key `memory`: {} is too little; the kernel and what comes with it take {}",
        vm.memory,
        Memory(needed.next_multiple_of(1 << 20))
    );
    Ok(())
}

/// Gives every file a place at the top of the largest piece of the machine's memory, clear of Fermata and of the device
/// tree, which is at `tree`. Guests that are given the same file share it: Fermata copies what a guest gets.
///
/// # Errors
/// There is not enough memory, or a file cannot be read.
pub(crate) fn place(vms: &[Vm], memory: &[Range<u64>], tree: u64) -> Result<Vec<Modules>> {
    let largest = memory.iter().max_by_key(|range| range.end - range.start);
    let (Some(first), Some(largest)) = (memory.first(), largest) else { bail!("the machine has no memory") };
    let mut shelf = Shelf {
        bottom: largest.start,
        top: largest.end,
        taken: [first.start..first.start + RESERVED, tree..tree.next_multiple_of(ALIGN) + TREE_ROOM],
        placed: BTreeMap::new(),
    };
    let mut modules = Vec::new();
    for vm in vms {
        let kernel = shelf.put(&vm.kernel)?;
        let ramdisk = vm.initrd.as_deref().map(|file| shelf.put(file)).transpose()?;
        modules.push(Modules { kernel, ramdisk });
    }
    Ok(modules)
}

/// Memory that fills with modules from the top down.
struct Shelf {
    bottom: u64,
    top: u64,
    taken: [Range<u64>; 2],
    placed: BTreeMap<PathBuf, Module>,
}

impl Shelf {
    /// Puts a file below those before it, unless it is there already.
    fn put(&mut self, file: &Path) -> Result<Module> {
        if let Some(module) = self.placed.get(file) {
            return Ok(module.clone());
        }
        let size = std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        let below = |end: u64| end.checked_sub(size).map(|start| start & !(ALIGN - 1));
        let mut address = below(self.top);
        // From the higher of the two taken ranges to the lower one.
        for taken in self.taken.iter().rev() {
            address = match address {
                Some(start) if start < taken.end && taken.start < start + size => below(taken.start),
                other => other,
            };
        }
        let Some(address) = address.filter(|&start| start >= self.bottom) else {
            bail!(
                "{} ({}) does not fit into the machine's memory beside what is there already (--memory)",
                file.display(),
                Memory(size.max(1))
            );
        };
        self.top = address;
        let module = Module { file: file.to_path_buf(), address, size };
        self.placed.insert(file.to_path_buf(), module.clone());
        Ok(module)
    }
}

/// Lists the modules of all guests, each once.
pub(crate) fn distinct(modules: &[Modules]) -> impl Iterator<Item = &Module> {
    let all = modules.iter().flat_map(|m| [Some(&m.kernel), m.ramdisk.as_ref()]).flatten();
    let mut seen = HashSet::new();
    all.filter(move |module| seen.insert(module.address))
}

/// Reads the finished tree the way Fermata will, with its own code.
///
/// # Errors
/// What Fermata would say of the first guest it would not start.
pub(crate) fn verify(blob: &[u8], cpus: u32) -> Result<()> {
    let tree = kernel::fdt::Tree::parse(blob).map_err(|why| anyhow!("the device tree: {why}"))?;
    let mut memory = kernel::mem::Regions::new();
    for region in kernel::platform::memory(&tree).flatten() {
        memory.insert(region).map_err(|why| anyhow!("memory {region}: {why:?}"))?;
    }
    let limits =
        kernel::domain::Limits { memory: &memory, occupied: &[], cpus: CpuSet::first_n(cpus as usize) };
    match kernel::domain::read(&tree, &limits).into_iter().find_map(Result::err) {
        Some(complaint) => bail!("Fermata would not start a guest: {complaint}"),
        None => Ok(()),
    }
}

/// Writes the guests into `/chosen`, after Fermata's own command line.
///
/// # Errors
/// The tree has no `/chosen`.
pub(crate) fn describe(tree: &mut Tree, bootargs: &str, vms: &[Vm], modules: &[Modules]) -> Result<()> {
    if tree.node("/chosen").is_err() {
        tree.root.children.push(Node::new("chosen"));
    }
    let chosen = tree.node("/chosen")?;
    chosen.set_strings("bootargs", &[bootargs]);
    for (vm, modules) in vms.iter().zip(modules) {
        chosen.children.retain(|node| node.name != vm.name);
        chosen.children.push(domain(vm, modules));
    }
    Ok(())
}

/// Makes the node of a guest: Xen's dom0less binding, and our own properties with our prefix.
fn domain(vm: &Vm, modules: &Modules) -> Node {
    let mut node = Node::new(&vm.name);
    let kib = vm.memory.0 / 1024;
    node.set_strings("compatible", &["fermata,domain", "xen,domain"])
        .set_cells("#address-cells", &[2])
        .set_cells("#size-cells", &[2])
        .set_cells("cpus", &[vm.cpus])
        .set_cells("memory", &halves(kib))
        .set("vpl011", [])
        .set_strings("fermata,name", &[&vm.name])
        .set_strings("fermata,fp-policy", &[vm.fp.name()])
        .set_cells("fermata,weight", &[vm.weight]);
    match vm.sve {
        Sve::Hidden => {}
        Sve::Bits(bits) => {
            node.set_cells("sve", &[bits]);
        }
        Sve::Longest => {
            node.set("sve", []);
        }
    }
    if let Some(affinity) = vm.affinity {
        let cpus: Vec<u32> = affinity.0.iter().map(|cpu| cpu.0 as u32).collect();
        node.set_cells("fermata,affinity", &cpus);
    }
    if let Some(units) = &vm.fp_units {
        node.set_strings("fermata,fp-units", units.names());
    }
    let mut kernel = module(&modules.kernel, "multiboot,kernel");
    kernel.set_strings("bootargs", &[&vm.cmdline]);
    node.children.push(kernel);
    node.children.extend(modules.ramdisk.iter().map(|ramdisk| module(ramdisk, "multiboot,ramdisk")));
    node
}

/// Makes the node of a module.
fn module(module: &Module, kind: &str) -> Node {
    let mut node = Node::new(format!("module@{:x}", module.address));
    node.set_strings("compatible", &[kind, "multiboot,module"])
        .set_cells("reg", &[halves(module.address), halves(module.size)].concat());
    node
}

/// Splits a number into its upper and lower cell.
fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

#[cfg(test)]
mod tests {
    use super::super::machine::Board;
    use super::super::tree::tests::machine;
    use super::super::vm::Policy;
    use super::*;
    use crate::payload::tests::image;
    use crate::scratch::Scratch;

    const MIB: u64 = 1 << 20;
    const RAM: u64 = 0x4000_0000;

    fn vm(name: &str, kernel: PathBuf) -> Vm {
        Vm {
            name: name.into(),
            kernel,
            initrd: None,
            cmdline: "a=b".into(),
            cpus: 2,
            memory: Memory(64 * MIB),
            fp: Policy::Lazy,
            fp_units: None,
            sve: Sve::Hidden,
            affinity: Some("0-1".parse().unwrap()),
            weight: 512,
        }
    }

    fn on(arch: Arch, memory: Memory) -> Machine {
        Machine { memory, ..Machine::new(Board::find(arch, None).unwrap(), None).unwrap() }
    }

    fn pair(scratch: &Scratch) -> Vec<Vm> {
        let kernel = scratch.file("kernel", &image(Arch::Aarch64, 3 << 20, 5 << 20)).unwrap();
        let initrd = scratch.file("initrd", &[7; 4097]).unwrap();
        vec![Vm { initrd: Some(initrd), ..vm("a", kernel.clone()) }, vm("b", kernel)]
    }

    fn why(vms: &[Vm]) -> String {
        format!("{:#}", check(vms, &on(Arch::Aarch64, Memory(1 << 30))).unwrap_err())
    }

    #[test]
    fn modules_lie_apart_and_clear_of_fermata_and_the_tree() {
        let scratch = Scratch::new().unwrap();
        for megabytes in [64, 128, 256, 1024, 8192] {
            let ram = RAM..RAM + megabytes * MIB;
            let tree = on(Arch::Aarch64, Memory(megabytes * MIB)).tree_address();
            let placed = place(&pair(&scratch), std::slice::from_ref(&ram), tree).unwrap();
            assert_eq!(placed[0].kernel, placed[1].kernel, "the same file is one module");
            let mut ranges: Vec<Range<u64>> =
                distinct(&placed).map(|m| m.address..m.address + m.size).collect();
            assert_eq!(ranges.len(), 2);
            ranges.extend([RAM..RAM + RESERVED, tree..tree + TREE_ROOM]);
            ranges.sort_by_key(|range| range.start);
            assert!(
                ranges.iter().all(|range| ram.start <= range.start && range.end <= ram.end),
                "{ranges:x?}"
            );
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{megabytes}: {ranges:x?}");
            assert!(placed.iter().all(|m| m.kernel.address % ALIGN == 0));
        }
    }

    #[test]
    fn modules_lie_in_the_largest_piece_of_memory() {
        let scratch = Scratch::new().unwrap();
        let vms = pair(&scratch);
        // LoongArch's virt machine has 256 MiB from 0 on and the rest from 2 GiB on.
        for (high, expected) in [(512 * MIB, 0x8000_0000..0xa000_0000), (2 * MIB, 0..0x1000_0000)] {
            let memory = [0..0x1000_0000, 0x8000_0000..0x8000_0000 + high];
            let placed = place(&vms, &memory, 128 * MIB).unwrap();
            assert!(distinct(&placed).all(|m| expected.contains(&m.address) && m.address >= RESERVED));
        }
    }

    #[test]
    fn a_module_that_does_not_fit_is_named() {
        let scratch = Scratch::new().unwrap();
        let kernel = scratch.file("huge", &image(Arch::Aarch64, 3 << 20, 5 << 20)).unwrap();
        let vms = vec![vm("a", kernel); 1];
        let ram = RAM..RAM + 34 * MIB;
        let why = place(&vms, std::slice::from_ref(&ram), RAM + 17 * MIB).unwrap_err().to_string();
        assert!(why.contains("huge") && why.contains("3 MiB"), "{why}");
    }

    #[test]
    fn guests_read_back_from_the_tree_as_fermata_sees_it() {
        let scratch = Scratch::new().unwrap();
        let vms = pair(&scratch);
        let mut vms = vms;
        vms[0].sve = Sve::Bits(512);
        vms[1].fp_units = Some("fpu+lsx".parse().unwrap());
        let mut tree = machine(RAM..RAM + 1024 * MIB);
        let placed = place(&vms, &tree.memory().unwrap(), RAM + 128 * MIB).unwrap();
        describe(&mut tree, "console=framed", &vms, &placed).unwrap();
        let blob = tree.to_bytes().unwrap();
        verify(&blob, 2).unwrap();
        let why = verify(&blob, 1).unwrap_err().to_string();
        assert!(why.contains("/chosen/a") && why.contains("fermata,affinity"), "{why}");
        let fdt = fdt::Fdt::new(&blob).unwrap();
        let property =
            |path: &str, name: &str| fdt.find_node(path).unwrap().property(name).map(|p| p.value.to_vec());
        assert_eq!(property("/chosen", "bootargs").unwrap(), b"console=framed\0");
        assert_eq!(property("/chosen", "stdout-path").unwrap(), b"/pl011@9000000\0");
        assert_eq!(property("/chosen/a", "compatible").unwrap(), b"fermata,domain\0xen,domain\0");
        assert_eq!(property("/chosen/a", "memory").unwrap(), [0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(property("/chosen/a", "cpus").unwrap(), [0, 0, 0, 2]);
        assert_eq!(property("/chosen/a", "vpl011").unwrap(), []);
        assert_eq!(property("/chosen/a", "fermata,fp-policy").unwrap(), b"lazy\0");
        assert_eq!(property("/chosen/a", "fermata,affinity").unwrap(), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(property("/chosen/a", "sve").unwrap(), [0, 0, 2, 0]);
        assert_eq!(property("/chosen/b", "fermata,weight").unwrap(), [0, 0, 2, 0]);
        assert_eq!(property("/chosen/b", "fermata,fp-units").unwrap(), b"fpu\0lsx\0");
        assert_eq!(property("/chosen/a", "fermata,fp-units"), None);
        let kernel = fdt.find_node("/chosen/a").unwrap().children().next().unwrap();
        assert_eq!(kernel.name, format!("module@{:x}", placed[0].kernel.address));
        assert_eq!(kernel.property("bootargs").unwrap().value, b"a=b\0");
        let reg = kernel.reg().unwrap().next().unwrap();
        assert_eq!(reg.starting_address as u64, placed[0].kernel.address);
        assert_eq!(reg.size, Some(3 << 20));
        let ramdisk = fdt.find_node("/chosen/a").unwrap().children().nth(1).unwrap();
        assert_eq!(ramdisk.property("compatible").unwrap().value, b"multiboot,ramdisk\0multiboot,module\0");
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_name() {
        let scratch = Scratch::new().unwrap();
        let good = pair(&scratch);
        check(&good, &on(Arch::Aarch64, Memory(1 << 30))).unwrap();
        let changed = |change: &dyn Fn(&mut Vm)| {
            let mut vms = good.clone();
            change(&mut vms[1]);
            why(&vms)
        };
        assert!(changed(&|vm| vm.name = "a".into()).contains("two guests are called `a`"));
        assert!(changed(&|vm| vm.name = "1st".into()).contains("`1st` cannot be"));
        assert!(changed(&|vm| vm.name = "fermata".into()).contains("own console"));
        assert!(
            changed(&|vm| vm.affinity = Some("1-2".parse().unwrap())).contains("no CPU 2; the machine has 2")
        );
        assert!(
            changed(&|vm| vm.memory = Memory(4 * MIB)).contains("`b`: key `memory`: 4 MiB is too little")
        );
        assert!(changed(&|vm| vm.memory = Memory(1000 * MIB)).contains("the machine has 1 GiB"));
        assert!(changed(&|vm| vm.cpus = 0).contains("at least one"));
        assert!(changed(&|vm| vm.cpus = 9999).contains("9999 vCPUs"));
        assert!(changed(&|vm| vm.kernel = "/no/such".into()).contains("/no/such"));
        let text = scratch.file("text", b"hello").unwrap();
        assert!(
            changed(&|vm| vm.kernel = text.clone()).contains("text is not a raw arm64 Image: it has 5 bytes")
        );
        let initrd = |path: &Path| changed(&|vm| vm.initrd = Some(path.into()));
        assert!(initrd(Path::new("/no/such")).contains("`b`: key `initrd`: /no/such"));
        let empty = scratch.file("empty", b"").unwrap();
        assert_eq!(initrd(&empty), format!("guest `b`: key `initrd`: {} is empty", empty.display()));
        assert!(why(&[]).contains("no guest"));
        let units = changed(&|vm| vm.fp_units = Some("fpu".parse().unwrap()));
        assert!(units.contains("key `fp-units`: on aarch64"), "{units}");
        let mut vms = good.clone();
        vms[0].sve = Sve::Longest;
        let sve = format!("{:#}", check(&vms, &on(Arch::Loongarch64, Memory(1 << 30))).unwrap_err());
        assert!(sve.contains("`a`: key `sve`: on loongarch64"), "{sve}");
        let why = format!("{:#}", check(&good, &on(Arch::Loongarch64, Memory(1 << 30))).unwrap_err());
        assert!(why.contains("is not a raw LoongArch Image or an ELF file: it has 0x644d5241"), "{why}");
    }
}
