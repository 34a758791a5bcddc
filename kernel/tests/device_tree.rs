//! Device trees: what is written is read, and what is broken is an error with a place in it.

mod support;

use std::collections::HashSet;
use std::sync::OnceLock;

use kernel::addr::{CpuId, Hpa};
use kernel::domain::{self, Limits};
use kernel::fdt::{Block, Node, Tree, TreeError};
use kernel::mem::{Region, Regions};
use kernel::platform::{self, Reservation, Reserved};
use kernel::sched::CpuSet;
use proptest::prelude::*;
use support::{Model, Raw, chosen, guest, machine, node};

/// Reads everything there is to read in a tree, and says it, the way a hypervisor does that has been given anything.
fn read_everything(tree: &Tree<'_>) -> usize {
    let mut said = String::new();
    let mut say = |text: String| said.push_str(&text);
    for node in tree.nodes() {
        say(node.path().to_string());
        say(format!("{:?} {:?}", node.parent(), node.base_name()));
        for (name, value) in node.properties() {
            say(format!("{name} {:?} {:?} {:?}", value.text(), value.number(), value.cells().count()));
            say(format!("{:?}", value.strings().count()));
        }
        let cells = node.cells().map_err(|complaint| complaint.to_string());
        let first = node.region(0).map_err(|complaint| complaint.to_string());
        say(format!("{cells:?} {first:?} {:?} {}", node.compatible().count(), node.is_usable()));
        if let Ok(regions) = node.regions() {
            regions.for_each(|region| say(format!("{region:?}")));
        }
        match node.interrupts() {
            Ok(interrupts) => interrupts.for_each(|interrupt| say(format!("{interrupt:?}"))),
            Err(complaint) => say(complaint.to_string()),
        }
        if let Ok(Some(phandle)) = node.cell("phandle") {
            say(format!("{:?}", tree.phandle(phandle)));
        }
        say(format!("{:?}", tree.find(&node.path().to_string())));
    }
    let memory: Regions = platform::memory(tree).flatten().collect();
    platform::memory(tree).for_each(|region| say(format!("{:?}", region.map_err(|wrong| wrong.to_string()))));
    platform::reserved(tree)
        .for_each(|region| say(format!("{:?}", region.map_err(|wrong| wrong.to_string()))));
    platform::cpus(tree).for_each(|cpu| say(format!("{:?}", cpu.map_err(|wrong| wrong.to_string()))));
    say(format!("{:?}", platform::stdout(tree).map_err(|wrong| wrong.to_string())));
    say(format!("{:?}", platform::bootargs(tree).map_err(|wrong| wrong.to_string())));
    let limits = Limits { memory: &memory, occupied: &[], cpus: CpuSet::first_n(2) };
    for guest in domain::read(tree, &limits) {
        say(format!("{:?}", guest.map_err(|wrong| wrong.to_string())));
    }
    said.len()
}

/// Compares a node with what was written.
fn assert_same(node: Node<'_>, model: &Model, path: &str) {
    assert_eq!(node.name(), model.name);
    let path = if path.is_empty() { String::new() } else { format!("{path}/{}", model.name) };
    let shown = if path.is_empty() { "/" } else { &path };
    assert_eq!(node.path().to_string(), shown.trim_start_matches("ROOT").to_string());
    let properties: Vec<_> =
        node.properties().map(|(name, value)| (name.to_string(), value.bytes().to_vec())).collect();
    assert_eq!(properties, model.properties);
    for (name, _) in &model.properties {
        let first = model.properties.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        assert_eq!(node.property(name).map(|value| value.bytes()), first.map(|value| &value[..]));
    }
    assert_eq!(node.children().count(), model.children.len());
    for (child, expected) in node.children().zip(&model.children) {
        assert_eq!(child.parent(), Some(node));
        let path = if path.is_empty() { "ROOT" } else { &path };
        assert_same(child, expected, path);
    }
}

/// Compares a tree with what was written.
fn assert_tree(tree: &Tree<'_>, model: &Model) {
    assert_eq!(tree.nodes().count(), model.count());
    assert_eq!(tree.root().parent(), None);
    assert_same(tree.root(), model, "");
}

/// Makes the names of siblings differ, as they do in any real tree.
fn apart(mut children: Vec<Model>) -> Vec<Model> {
    let mut seen = HashSet::new();
    children.retain(|child| seen.insert(child.name.clone()));
    children
}

/// Any tree that vm-fdt will write.
fn any_model() -> impl Strategy<Value = Model> {
    let name = "[a-z][a-z0-9,._+-]{0,8}(@[0-9a-f]{1,8})?";
    let properties = || {
        let value = prop::collection::vec(any::<u8>(), 0..24);
        prop::collection::vec(("[a-z#][a-z0-9,._?-]{0,12}", value), 0..4)
    };
    let leaf =
        (name, properties()).prop_map(|(name, properties)| Model { name, properties, children: vec![] });
    let tree = leaf.prop_recursive(6, 40, 4, move |inner| {
        (name, properties(), prop::collection::vec(inner, 0..4))
            .prop_map(|(name, properties, children)| Model { name, properties, children: apart(children) })
    });
    (properties(), prop::collection::vec(tree, 0..4)).prop_map(|(properties, children)| Model {
        name: String::new(),
        properties,
        children: apart(children),
    })
}

/// Whether `tree` finds each node by its path.
fn finds_all(tree: &Tree<'_>) -> bool {
    tree.nodes().all(|node| tree.find(&node.path().to_string()) == Some(node))
}

/// The tree that is damaged.
fn whole() -> Vec<u8> {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    WHOLE.get_or_init(|| machine(chosen()).blob(&[(0x4000_0000, 0x1000)])).clone()
}

proptest! {
    #[test]
    fn what_vm_fdt_writes_is_read(model in any_model(), slack in 0usize..64) {
        let mut blob = model.blob(&[]);
        let size = blob.len();
        blob.resize(size + slack, 0xa5);
        let tree = Tree::parse(&blob).unwrap();
        prop_assert_eq!(tree.size(), size);
        assert_tree(&tree, &model);
        prop_assert!(finds_all(&tree));
    }

    #[test]
    fn the_fdt_crate_reads_the_same(model in any_model()) {
        let blob = model.blob(&[]);
        let tree = Tree::parse(&blob).unwrap();
        let other = fdt::Fdt::new(&blob).unwrap();
        prop_assert_eq!(tree.nodes().count(), other.all_nodes().count());
        for (ours, theirs) in tree.nodes().zip(other.all_nodes()) {
            let ours: Vec<_> = ours.properties().map(|(name, value)| (name, value.bytes())).collect();
            let theirs: Vec<_> = theirs.properties().map(|property| (property.name, property.value)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn nops_change_nothing(model in any_model(), nops in prop::collection::vec(0usize..3, 1..9)) {
        let blob = model.blob_with_nops(&nops);
        let tree = Tree::parse(&blob).unwrap();
        assert_tree(&tree, &model);
    }

    #[test]
    fn a_truncated_tree_is_an_error(cut in any::<prop::sample::Index>()) {
        let blob = whole();
        let error = Tree::parse(&blob[..cut.index(blob.len())]).unwrap_err();
        let named = matches!(error, TreeError::NoHeader { .. } | TreeError::Size { .. });
        prop_assert!(named, "{}", error);
    }

    #[test]
    fn a_tree_that_lies_about_its_size_is_an_error(cut in any::<prop::sample::Index>()) {
        let mut blob = whole();
        let size = cut.index(blob.len());
        blob[4..8].copy_from_slice(&(size as u32).to_be_bytes());
        prop_assert!(Tree::parse(&blob).is_err());
    }
}

proptest! {
    #[test]
    fn a_damaged_tree_is_read_or_refused_and_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut blob = whole();
        for (at, value) in damage {
            let at = at.index(blob.len());
            blob[at] ^= value;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        match Tree::parse(&blob) {
            Ok(tree) => prop_assert!(read_everything(&tree) > 0),
            Err(error) => prop_assert!(error.to_string().starts_with("device tree: ")),
        }
    }

    #[test]
    fn damaged_properties_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..9), 1..6),
    ) {
        // Only the low byte of cells in the structure block changes: most of these trees are well formed and absurd.
        let mut blob = whole();
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        let (start, size) = (word(8), word(36));
        for (at, value) in damage {
            blob[start + at.index(size / 4) * 4 + 3] = value;
        }
        if let Ok(tree) = Tree::parse(&blob) {
            prop_assert!(read_everything(&tree) > 0);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(mut blob in prop::collection::vec(any::<u8>(), 0..256)) {
        if blob.len() > 56 {
            let words = [0xd00d_feed_u32, blob.len() as u32, 56, 40, 40, 17, 16, 0, 16, blob.len() as u32 - 56];
            let header = words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
            blob[..40].copy_from_slice(&header);
            blob.iter_mut().skip(40).take(16).for_each(|byte| *byte = 0);
        }
        if let Ok(tree) = Tree::parse(&blob) {
            read_everything(&tree);
        }
    }
}

/// A tree made of tokens.
fn raw(write: impl FnOnce(&mut Raw)) -> Vec<u8> {
    let mut raw = Raw::default();
    write(&mut raw);
    raw.finish()
}

fn with_word(mut blob: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
    blob
}

#[test]
fn each_way_to_be_no_tree_has_its_error() {
    let good = machine(chosen()).blob(&[]);
    let refused = |blob: &[u8]| Tree::parse(blob).unwrap_err();
    assert_eq!(refused(&[]), TreeError::NoHeader { found: 0 });
    assert_eq!(refused(&good[..39]), TreeError::NoHeader { found: 39 });
    assert_eq!(refused(&with_word(good.clone(), 0, 0x1234)), TreeError::Magic { found: 0x1234 });
    assert_eq!(refused(&with_word(good.clone(), 20, 16)), TreeError::Version { found: 16 });
    assert_eq!(refused(&with_word(good.clone(), 24, 18)), TreeError::Version { found: 18 });
    let size = good.len();
    assert_eq!(refused(&good[..size - 1]), TreeError::Size { found: size, available: size - 1 });
    assert!(matches!(refused(&with_word(good.clone(), 4, 39)), TreeError::Size { found: 39, .. }));
    assert!(matches!(refused(&with_word(good.clone(), 4, (2 << 20) + 1)), TreeError::Size { .. }));
    for (field, block) in [(8, Block::Structure), (12, Block::Strings), (16, Block::Reservations)] {
        for at in [0, 39, u32::MAX, size as u32 + 4] {
            let error = TreeError::Misplaced { block, at: at as usize };
            assert_eq!(refused(&with_word(good.clone(), field, at)), error, "{field} {at:#x}");
        }
    }
    assert!(matches!(refused(&with_word(good.clone(), 8, 58)), TreeError::Misplaced { .. }));
    assert!(matches!(refused(&with_word(good.clone(), 36, u32::MAX)), TreeError::Misplaced { .. }));
    // All of the tree is searched for the end of the reservations; a tree of ones has none.
    let mut unterminated = good.clone();
    unterminated[40..].fill(1);
    let error = TreeError::Truncated { block: Block::Reservations, at: 40 };
    assert_eq!(refused(&unterminated), error);
}

#[test]
fn each_broken_structure_has_its_error() {
    let refused = |blob: Vec<u8>| Tree::parse(&blob).unwrap_err();
    let begun = 40 + 16;
    let unfinished = |at| TreeError::Truncated { block: Block::Structure, at };
    assert_eq!(refused(raw(|_| {})), unfinished(begun));
    assert_eq!(refused(raw(|raw| raw.token(9))), TreeError::Order { at: begun });
    assert_eq!(refused(raw(|raw| raw.token(2))), TreeError::Order { at: begun });
    assert_eq!(refused(raw(|raw| raw.token(7))), TreeError::Token { at: begun, found: 7 });
    assert_eq!(refused(raw(|raw| raw.property(b"early", b""))), TreeError::Order { at: begun });
    assert_eq!(refused(raw(|raw| raw.begin(b""))), unfinished(begun + 8));
    assert_eq!(refused(raw(|raw| raw.token(1))), unfinished(begun));
    let unclosed = raw(|raw| {
        raw.begin(b"");
        raw.token(9);
    });
    assert_eq!(refused(unclosed), TreeError::Order { at: begun + 8 });
    let two_roots = raw(|raw| {
        for _ in 0..2 {
            raw.begin(b"");
            raw.token(2);
        }
        raw.token(9);
    });
    assert_eq!(refused(two_roots), TreeError::Order { at: begun + 12 });
    let late_property = raw(|raw| {
        raw.begin(b"");
        raw.begin(b"child");
        raw.token(2);
        raw.property(b"late", b"");
    });
    assert_eq!(refused(late_property), TreeError::Order { at: begun + 8 + 12 + 4 });
    for name in [&b""[..], b"a/b", b"a b", b"\xff", b"a\x7f"] {
        let node = raw(|raw| {
            raw.begin(b"");
            raw.begin(name);
        });
        assert_eq!(refused(node), TreeError::Name { at: begun + 8 }, "{name:?}");
        let property = raw(|raw| {
            raw.begin(b"");
            raw.property(name, b"");
        });
        assert_eq!(refused(property), TreeError::Name { at: begun + 8 }, "{name:?}");
    }
    let endless_name = raw(|raw| {
        raw.begin(b"");
        raw.property(&[b'x'; 300], b"");
    });
    assert_eq!(refused(endless_name), TreeError::Name { at: begun + 8 });
}

#[test]
fn nodes_may_be_nested_that_deep_and_no_deeper() {
    let nested = |depth: usize| {
        raw(|raw| {
            raw.begin(b"");
            (1..depth).for_each(|_| raw.begin(b"n"));
            (0..depth).for_each(|_| raw.token(2));
            raw.token(9);
        })
    };
    let deepest = nested(32);
    let tree = Tree::parse(&deepest).unwrap();
    let last = tree.nodes().last().unwrap();
    assert_eq!(last.path().to_string(), "/n".repeat(31));
    assert!(matches!(Tree::parse(&nested(33)), Err(TreeError::Depth { .. })));
}

#[test]
fn a_tree_whose_properties_share_a_long_name_is_checked_in_time() {
    // A MiB of properties whose names all start within the first letters of a name of one MiB.
    let blob = raw(|raw| {
        raw.begin(b"");
        (0..60_000).for_each(|_| raw.property(b"", b""));
    });
    let strings = u32::from_be_bytes(blob[12..16].try_into().unwrap()) as usize;
    let mut blob = blob[..strings].to_vec();
    blob.resize(strings + (1 << 20) - 1, b'x');
    blob.push(0);
    let sizes = (blob.len() as u32, 1 << 20);
    let blob = with_word(with_word(blob, 4, sizes.0), 32, sizes.1);
    assert!(matches!(Tree::parse(&blob), Err(TreeError::Name { .. })));
}

#[test]
fn the_machine_is_what_its_tree_says() {
    let blob = machine(chosen()).blob(&[(0x4000_0000, 0x1000)]);
    let tree = Tree::parse(&blob).unwrap();
    let region = |base, size| Region::new(Hpa(base), size).unwrap();
    let memory: Vec<_> = platform::memory(&tree).collect();
    assert_eq!(memory, [Ok(region(0x4000_0000, 0x8000_0000))]);
    let reserved: Vec<_> = platform::reserved(&tree).collect();
    assert_eq!(
        reserved,
        [
            Ok(Reserved { region: region(0x4000_0000, 0x1000), kind: Reservation::Keep }),
            Ok(Reserved { region: region(0x4fe0_0000, 0x20_0000), kind: Reservation::NoMap }),
            Ok(Reserved { region: region(0x4fd0_0000, 0x10_0000), kind: Reservation::Keep }),
        ]
    );
    let cpus: Vec<_> = platform::cpus(&tree).map(|cpu| cpu.unwrap()).collect();
    assert_eq!(cpus.len(), 2);
    assert_eq!((cpus[1].hardware_id, cpus[1].enable_method, cpus[1].release), (1, Some("psci"), None));
    assert_eq!(platform::bootargs(&tree), Ok("loglevel=debug"));
    let stdout = platform::stdout(&tree).unwrap().unwrap();
    assert_eq!(stdout.node.path().to_string(), "/pl011@9000000");
    assert_eq!((stdout.registers, stdout.options, stdout.shift), (region(0x900_0000, 0x1000), "115200n8", 0));
    assert_eq!(stdout.node.compatible().collect::<Vec<_>>(), ["arm,pl011", "arm,primecell"]);
}

#[test]
fn addresses_are_translated_through_every_bus() {
    let blob = machine(chosen()).blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let deep = tree.compatible("test,deep").next().unwrap();
    assert_eq!(deep.path().to_string(), "/soc@c000000/bus@100000/device@40");
    assert_eq!(deep.region(0).unwrap(), Region::new(Hpa(0xc10_0040), 0x10).unwrap());
    let edge = tree.compatible("test,edge").next().unwrap();
    let message = edge.region(0).unwrap_err().to_string();
    assert_eq!(message, "/soc@c000000: ranges: found 0x1fffff0, expected an address it translates");
    let message = deep.region(1).unwrap_err().to_string();
    assert_eq!(message, "/soc@c000000/bus@100000/device@40: reg: found <0x40 0x10>, expected more entries");
}

#[test]
fn interrupts_name_their_controller() {
    let blob = machine(chosen()).blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let interrupts = |path: &str| {
        let found = tree.find(path).unwrap().interrupts().unwrap();
        found
            .map(|found| {
                found.map(|found| (found.controller.path().to_string(), found.cells.cells().collect()))
            })
            .collect::<Result<Vec<(String, Vec<u32>)>, _>>()
    };
    let gic = || String::from("/intc@8000000");
    assert_eq!(interrupts("/pl011@9000000"), Ok(vec![(gic(), vec![0, 1, 4])]));
    let extended = vec![(gic(), vec![1, 9, 4]), (String::from("/gpio"), vec![7])];
    assert_eq!(interrupts("/soc/bus/device"), Ok(extended));
    assert_eq!(interrupts("/psci"), Ok(vec![]));
}

#[test]
fn interrupts_that_make_no_sense_are_named() {
    let broken = |change: fn(Model) -> Model| {
        let blob = change(machine(chosen())).blob(&[]);
        let tree = Tree::parse(&blob).unwrap();
        let found = tree.find("/pl011").unwrap().interrupts().and_then(|mut all| all.next().unwrap());
        found.unwrap_err().to_string()
    };
    let edit =
        |change: fn(Model) -> Model| move |root: Model| root.edit("pl011@9000000", |uart| Some(change(uart)));
    let _ = edit;
    assert_eq!(
        broken(|root| root.without("interrupt-parent")),
        "/pl011@9000000: interrupt-parent: found nothing, expected a phandle here or in a node above"
    );
    assert_eq!(
        broken(|root| root.cells("interrupt-parent", &[5])),
        "/pl011@9000000: interrupt-parent: found 0x5, expected the phandle of an interrupt controller"
    );
    assert_eq!(
        broken(|root| root.edit("pl011@9000000", |uart| Some(uart.cells("interrupts", &[0, 1])))),
        "/pl011@9000000: interrupts: found <0x0 0x1>, expected whole entries"
    );
    assert_eq!(
        broken(|root| root.edit("intc@8000000", |gic| Some(gic.cells("#interrupt-cells", &[0])))),
        "/intc@8000000: #interrupt-cells: found 0, expected 1 to 4"
    );
}

#[test]
fn the_console_is_found_by_path_alias_and_options() {
    let find = |path: &str, change: fn(Model) -> Model| {
        let root = change(machine(node("chosen").text("stdout-path", &[path])));
        let blob = root.blob(&[]);
        let tree = Tree::parse(&blob).unwrap();
        platform::stdout(&tree)
            .map(|found| {
                found.map(|found| (found.registers.base().0, found.shift, found.width, found.options.len()))
            })
            .map_err(|complaint| complaint.to_string())
    };
    let same: fn(Model) -> Model = |root| root;
    assert_eq!(find("/pl011@9000000", same), Ok(Some((0x900_0000, 0, None, 0))));
    assert_eq!(find("/pl011:9600", same), Ok(Some((0x900_0000, 0, None, 4))));
    assert_eq!(find("console:115200n8", same), Ok(Some((0xc00_1000, 2, Some(4), 8))));
    assert_eq!(find("/soc/serial", same), Ok(Some((0xc00_1000, 2, Some(4), 0))));
    assert_eq!(
        find("serial7", same),
        Err("/chosen: stdout-path: found \"serial7\", expected a node or an alias of one".into())
    );
    assert_eq!(find("x", |root| root.edit("chosen", |_| None)), Ok(None));
    assert_eq!(find("x", |root| root.edit("chosen", |chosen| Some(chosen.without("stdout-path")))), Ok(None));
    let wide = |root: Model| root.edit("pl011@9000000", |uart| Some(uart.cells("reg-io-width", &[3])));
    assert_eq!(
        find("serial0", wide),
        Err("/pl011@9000000: reg-io-width: found 0x3, expected 1, 2, 4 or 8".into())
    );
}

#[test]
fn every_bank_of_memory_is_found_wherever_it_ends() {
    let bank = |name: &str, reg: &[u64]| node(name).text("device_type", &["memory"]).longs("reg", reg);
    let root = machine(chosen())
        .child(bank("memory@0", &[0, 0x1000_0000, 0x2000_0000, 0x1000, 0x3000_0000, 0]))
        .child(bank("memory@top", &[u64::MAX - 0xfff, 0x1000]))
        .child(bank("memory@off", &[0x9_0000_0000, 0x1000]).text("status", &["disabled"]))
        .child(bank("memory@wrap", &[u64::MAX, 2]))
        .child(bank("memory@odd", &[5]).cells("reg", &[0, 1, 2]));
    let blob = root.blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = platform::memory(&tree).partition(|found| found.is_ok());
    let good: Vec<_> =
        good.into_iter().map(|found| found.unwrap()).map(|found| (found.base().0, found.last().0)).collect();
    assert_eq!(
        good,
        [
            (0x4000_0000, 0xbfff_ffff),
            (0, 0xfff_ffff),
            (0x2000_0000, 0x2000_0fff),
            (u64::MAX - 0xfff, u64::MAX)
        ]
    );
    let bad: Vec<_> = bad.into_iter().map(|found| found.unwrap_err().to_string()).collect();
    assert_eq!(
        bad,
        [
            "/memory@wrap: reg: found <0xffffffff 0xffffffff 0x0 0x2>, expected a size above zero, and an end below 2^64",
            "/memory@odd: reg: found <0x0 0x1 0x2>, expected whole pairs of address and size",
        ]
    );
}

#[test]
fn failed_cpus_are_left_out_and_disabled_ones_are_not() {
    let root = machine(chosen()).edit("cpus", |cpus| {
        let cpu = |name: &str, id: u32| node(name).text("device_type", &["cpu"]).cells("reg", &[id]);
        Some(
            cpus.child(cpu("cpu@100", 0x100).text("status", &["fail-sss"]))
                .child(
                    cpu("cpu@101", 0x101)
                        .text("status", &["disabled"])
                        .text("enable-method", &["spin-table"])
                        .longs("cpu-release-addr", &[0xd8]),
                )
                .child(node("cpu@102").text("device_type", &["cpu"])),
        )
    });
    let blob = root.blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let found: Vec<_> = platform::cpus(&tree)
        .map(|cpu| cpu.map(|cpu| (cpu.hardware_id, cpu.release)).map_err(|wrong| wrong.to_string()))
        .collect();
    assert_eq!(
        found,
        [
            Ok((0, None)),
            Ok((1, None)),
            Ok((0x101, Some(Hpa(0xd8)))),
            Err("/cpus/cpu@102: reg: found nothing, expected an address".into()),
        ]
    );
}

#[test]
fn a_cpu_set_and_a_guest_are_read_from_the_whole_machine() {
    let blob = machine(node("chosen").child(guest("only", 0x4800_0000))).blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let memory: Regions = platform::memory(&tree).flatten().collect();
    let cpus = CpuSet::first_n(platform::cpus(&tree).flatten().count());
    assert!(cpus.contains(CpuId(1)) && !cpus.contains(CpuId(2)));
    let guests = domain::read(&tree, &Limits { memory: &memory, occupied: &[], cpus });
    assert_eq!(guests[0].unwrap().name, "only");
}
