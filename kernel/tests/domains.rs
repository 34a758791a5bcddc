//! Guests in the tree: what is asked for is read, and what is wrong is named and costs one guest.

mod support;

use kernel::addr::{CpuId, Hpa};
use kernel::domain::{self, Domain, Limits, VectorLength};
use kernel::fdt::Tree;
use kernel::mem::{Region, Regions};
use kernel::sched::CpuSet;
use support::{Model, chosen, guest, machine, node};

fn region(base: u64, size: u64) -> Region {
    Region::new(Hpa(base), size).unwrap()
}

/// Reads the guests of a machine with 2 GiB and two CPUs, and hands them to `look` with messages for errors.
fn read<T>(chosen: Model, look: impl FnOnce(Vec<Result<Domain<'_>, String>>) -> T) -> T {
    let blob = machine(chosen).blob(&[]);
    let tree = Tree::parse(&blob).unwrap();
    let memory: Regions = [region(0x4000_0000, 0x8000_0000)].into_iter().collect();
    let occupied = [region(0x4020_0000, 0x10_0000), region(0x4800_0000 - 0x1000, 0x1000)];
    let limits = Limits { memory: &memory, occupied: &occupied, cpus: CpuSet::first_n(2) };
    let guests = domain::read(&tree, &limits);
    look(guests.into_iter().map(|guest| guest.map_err(|error| error.to_string())).collect())
}

/// The message for a machine whose first guest was changed; the second must be unharmed.
fn refused(change: impl FnOnce(Model) -> Model) -> String {
    let chosen = chosen().edit("linux0", |guest| Some(change(guest)));
    read(chosen, |guests| {
        assert_eq!(guests.len(), 2);
        assert_eq!(guests[1].as_ref().unwrap().name, "linux1");
        guests[0].as_ref().map(|guest| guest.name).unwrap_err().clone()
    })
}

/// Whether a machine whose first guest was changed still has both.
fn accepted(change: impl FnOnce(Model) -> Model, check: impl FnOnce(&Domain<'_>)) {
    let chosen = chosen().edit("linux0", |guest| Some(change(guest)));
    read(chosen, |guests| {
        check(guests[0].as_ref().unwrap());
        assert_eq!(guests[1].as_ref().unwrap().name, "linux1");
    });
}

#[test]
fn a_guest_is_what_its_node_says() {
    read(chosen(), |guests| {
        let linux0 = guests[0].as_ref().unwrap();
        assert_eq!((linux0.name, linux0.cpus, linux0.memory), ("linux0", 2, 256 << 20));
        assert_eq!((linux0.fp_policy, linux0.weight, linux0.vpl011), (Some("hold"), 512, true));
        assert_eq!(linux0.affinity.iter().collect::<Vec<_>>(), [CpuId(0), CpuId(1)]);
        assert_eq!(linux0.kernel.region, region(0x4800_0000, 0x1f0_0000));
        assert_eq!(linux0.kernel.bootargs, "console=ttyAMA0");
        assert_eq!(linux0.ramdisk.unwrap().region, region(0x4a00_0000, 0x12_3456));
        assert_eq!(linux0.ramdisk.unwrap().bootargs, "");
        assert_eq!(linux0.device_tree, None);
        assert_eq!(guests[1].as_ref().unwrap().name, "linux1");
    });
}

#[test]
fn a_plain_xen_node_is_enough() {
    let change = |guest: Model| {
        let plain = guest.text("compatible", &["xen,domain"]).without("vpl011");
        let own = ["fermata,name", "fermata,fp-policy", "fermata,affinity", "fermata,weight"];
        own.iter().fold(plain, |guest, name| guest.without(name))
    };
    accepted(change, |guest| {
        assert_eq!((guest.name, guest.fp_policy, guest.weight, guest.vpl011), ("linux0", None, 256, false));
        assert_eq!(guest.affinity, CpuSet::first_n(2));
    });
}

#[test]
fn fp_units_are_a_list_of_names() {
    let units = |guest: &Domain<'_>| guest.fp_units.map(|list| list.strings().collect::<Vec<_>>().join("+"));
    accepted(|guest| guest, |guest| assert_eq!(units(guest), None));
    let two = |guest: Model| guest.text("fermata,fp-units", &["fpu", "lsx"]);
    accepted(two, |guest| assert_eq!(units(guest).as_deref(), Some("fpu+lsx")));
    let refused = |bytes: &'static [u8]| refused(move |guest| guest.bytes("fermata,fp-units", bytes));
    let none =
        "/chosen/linux0: fermata,fp-units: found an empty value, expected names of units, one at least";
    assert_eq!(refused(b""), none);
    for wrong in [&b"\0"[..], b"fpu", b"fpu\0lsx", b"fpu\0\0", b"\xff\0"] {
        let why = refused(wrong);
        assert!(why.ends_with("expected names of units, one at least"), "{wrong:?}: {why}");
    }
}

#[test]
fn vectors_are_asked_for_in_bits() {
    let asked = |cells: &'static [u32], wanted| {
        accepted(|guest| guest.cells("sve", cells), |guest| assert_eq!(guest.sve, wanted));
    };
    accepted(|guest| guest, |guest| assert_eq!(guest.sve, None));
    asked(&[0], None);
    asked(&[512], Some(VectorLength::Bits(512)));
    asked(&[0, 2048], Some(VectorLength::Bits(2048)));
    asked(&[1, 0], Some(VectorLength::Bits(1 << 32)));
    asked(&[], Some(VectorLength::Longest));
    let text = refused(|guest| guest.cells("sve", &[0, 0, 512]));
    assert!(text.contains("/chosen/linux0: sve: found <0x0 0x0 0x200>, expected one or two cells"), "{text}");
}

#[test]
fn memory_is_rounded_up_to_whole_blocks() {
    accepted(|guest| guest.cells("memory", &[0, 0x801]), |guest| assert_eq!(guest.memory, 4 << 20));
    accepted(|guest| guest.cells("memory", &[0x800]), |guest| assert_eq!(guest.memory, 2 << 20));
    accepted(|guest| guest.cells("memory", &[0, 0x20_0000]), |guest| assert_eq!(guest.memory, 2 << 30));
}

#[test]
fn each_wrong_number_is_named() {
    let memory = |cells: &'static [u32]| refused(move |guest| guest.cells("memory", cells));
    assert_eq!(memory(&[0, 0]), "/chosen/linux0: memory: found 0, expected at least 2048 KiB");
    assert_eq!(memory(&[0, 0x7ff]), "/chosen/linux0: memory: found 2047, expected at least 2048 KiB");
    assert_eq!(
        memory(&[0, 0x20_0001]),
        "/chosen/linux0: memory: found 2097153, expected at most 2097152 KiB"
    );
    let most = "/chosen/linux0: memory: found 18446744073709551615, expected at most 2097152 KiB";
    assert_eq!(memory(&[u32::MAX, u32::MAX]), most);
    assert_eq!(memory(&[0, 1, 2]), "/chosen/linux0: memory: found <0x0 0x1 0x2>, expected one or two cells");
    let missing = refused(|guest| guest.without("memory"));
    assert_eq!(missing, "/chosen/linux0: memory: found nothing, expected at least 2048 KiB");
    let cpus = |cells: &'static [u32]| refused(move |guest| guest.cells("cpus", cells));
    assert_eq!(cpus(&[0]), "/chosen/linux0: cpus: found 0, expected 1 to 8");
    assert_eq!(cpus(&[9]), "/chosen/linux0: cpus: found 9, expected 1 to 8");
    assert_eq!(cpus(&[0, 1]), "/chosen/linux0: cpus: found <0x0 0x1>, expected one cell");
    let missing = refused(|guest| guest.without("cpus"));
    assert_eq!(missing, "/chosen/linux0: cpus: found nothing, expected 1 to 8");
    let weight = |cells: &'static [u32]| refused(move |guest| guest.cells("fermata,weight", cells));
    assert_eq!(weight(&[0]), "/chosen/linux0: fermata,weight: found 0, expected 1 to 1024");
    assert_eq!(weight(&[1025]), "/chosen/linux0: fermata,weight: found 1025, expected 1 to 1024");
    let affinity = |cells: &'static [u32]| refused(move |guest| guest.cells("fermata,affinity", cells));
    let beyond = "/chosen/linux0: fermata,affinity: found 2, expected a CPU of the set 0x3";
    assert_eq!(affinity(&[1, 2]), beyond);
    let far = "/chosen/linux0: fermata,affinity: found 4294967295, expected a CPU of the set 0x3";
    assert_eq!(affinity(&[u32::MAX]), far);
    let none = "/chosen/linux0: fermata,affinity: found an empty value, expected numbers of CPUs";
    assert_eq!(affinity(&[]), none);
}

#[test]
fn each_wrong_word_is_named() {
    let name = |name: &'static str| refused(move |guest| guest.text("fermata,name", &[name]));
    let wanted = "expected 1 to 31 letters, digits, '-', '_' or '.'";
    assert_eq!(name(""), format!("/chosen/linux0: fermata,name: found \"\", {wanted}"));
    assert_eq!(name("a b"), format!("/chosen/linux0: fermata,name: found \"a b\", {wanted}"));
    assert_eq!(name("\u{1b}[2J"), format!("/chosen/linux0: fermata,name: found \"\\u{{1b}}[2J\", {wanted}"));
    assert!(name("a-name-that-is-much-longer-than-31").ends_with(wanted));
    let list = refused(|guest| guest.text("fermata,name", &["a", "b"]));
    assert_eq!(
        list,
        "/chosen/linux0: fermata,name: found 4 bytes, expected a string".replace("4 bytes", "<0x61006200>")
    );
    let unknown = refused(|guest| guest.text("fermata,fp-polcy", &["hold"]));
    assert_eq!(unknown, "/chosen/linux0: fermata,fp-polcy: found \"hold\", expected no such property");
    let odd = refused(|guest| guest.bytes("fermata,fp-policy", b"hold"));
    assert!(odd.starts_with("/chosen/linux0: fermata,fp-policy: found "), "{odd}");
}

#[test]
fn the_second_of_two_guests_with_one_name_is_refused() {
    let chosen = chosen().edit("linux1", |guest| Some(guest.text("fermata,name", &["linux0"])));
    read(chosen, |guests| {
        assert_eq!(guests[0].as_ref().unwrap().name, "linux0");
        let message =
            "/chosen/linux1: fermata,name: found \"linux0\", expected a name that no guest before it has";
        assert_eq!(guests[1].as_ref().unwrap_err(), message);
    });
}

const KERNEL: &str = "module@48000000";
const RAMDISK: &str = "module@4a000000";

/// Changes a module of a guest.
fn module(name: &'static str, change: impl FnOnce(Model) -> Model) -> impl FnOnce(Model) -> Model {
    move |guest| guest.edit(name, |module| Some(change(module)))
}

#[test]
fn each_wrong_module_is_named() {
    let missing = refused(|guest| guest.edit(KERNEL, |_| None));
    assert_eq!(missing, "/chosen/linux0: multiboot,kernel: found nothing, expected a module");
    let second = refused(module(RAMDISK, |module| module.text("compatible", &["multiboot,kernel"])));
    let message = "/chosen/linux0/module@4a000000: compatible: found \"multiboot,kernel\", expected one module of each kind";
    assert_eq!(second, message);
    let placed =
        |at: u64, size: u64| refused(module(RAMDISK, move |module| module.longs("reg", &[at, size])));
    let at = "/chosen/linux0/module@4a000000: reg:";
    assert_eq!(
        placed(0x4900_0000, 0x1000),
        format!(
            "{at} found 0x49000000..=0x49000fff, expected no overlap with /chosen/linux0/module@48000000"
        )
    );
    assert_eq!(
        placed(0x3fff_f000, 0x2000),
        format!("{at} found 0x3ffff000..=0x40000fff, expected a range of the machine's memory")
    );
    assert_eq!(
        placed(0x402f_ffff, 1),
        format!(
            "{at} found 0x402fffff..=0x402fffff, expected no overlap with the hypervisor or its device tree"
        )
    );
    let size = "expected a size above zero, and an end below 2^64";
    assert_eq!(placed(0x4a00_0000, 0), format!("{at} found <0x0 0x4a000000 0x0 0x0>, {size}"));
    assert_eq!(placed(u64::MAX, 2), format!("{at} found <0xffffffff 0xffffffff 0x0 0x2>, {size}"));
    let bare = refused(module(RAMDISK, |module| module.without("reg")));
    assert_eq!(bare, format!("{at} found nothing, expected an address"));
    let half = refused(module(RAMDISK, |module| module.cells("reg", &[0, 1, 2])));
    assert_eq!(half, format!("{at} found <0x0 0x1 0x2>, expected whole pairs of address and size"));
    let two = refused(module(RAMDISK, |module| module.longs("reg", &[0x4a00_0000, 1, 0x4b00_0000, 1])));
    assert!(two.ends_with("expected one address and size"), "{two}");
    let long = "x".repeat(2048);
    let args = refused(module(KERNEL, move |module| module.text("bootargs", &[&long])));
    assert_eq!(
        args,
        "/chosen/linux0/module@48000000: bootargs: found 2049 bytes, expected at most 2047 bytes"
    );
    let cells = refused(|guest| guest.cells("#address-cells", &[3]));
    assert!(cells.ends_with("expected addresses and sizes of one or two cells"), "{cells}");
}

#[test]
fn guests_may_share_a_file_but_not_a_part_of_one() {
    let other = |base: u64| {
        chosen().edit("linux1", |guest| {
            Some(guest.edit("module@50000000", |module| Some(module.longs("reg", &[base, 0x1f0_0000]))))
        })
    };
    read(other(0x4800_0000), |guests| assert!(guests.iter().all(|guest| guest.is_ok())));
    read(other(0x4800_1000), |guests| {
        assert!(guests[0].is_ok());
        let message = "/chosen/linux1/module@50000000: reg: found 0x48001000..=0x49f00fff, \
                       expected no overlap with /chosen/linux0/module@48000000";
        assert_eq!(guests[1].as_ref().unwrap_err(), message);
    });
}

#[test]
fn a_third_module_is_the_guests_own_tree() {
    let change = |guest: Model| {
        guest.child(
            node("module@60000000")
                .text("compatible", &["multiboot,device-tree", "multiboot,module"])
                .longs("reg", &[0x6000_0000, 0x800]),
        )
    };
    accepted(change, |guest| assert_eq!(guest.device_tree.unwrap().region, region(0x6000_0000, 0x800)));
}

#[test]
fn nodes_that_are_no_guests_are_passed_over() {
    let chosen = chosen()
        .child(node("module@1").text("compatible", &["multiboot,kernel"]))
        .child(guest("off", 0x5800_0000).text("status", &["disabled"]));
    read(chosen, |guests| assert_eq!(guests.len(), 2));
    read(node("chosen"), |guests| assert!(guests.is_empty()));
}

#[test]
fn too_many_guests_are_one_error() {
    let chosen = (0..80)
        .fold(node("chosen"), |chosen, number| chosen.child(guest(&format!("g{number}"), 0x4800_0000)));
    read(chosen, |guests| {
        assert_eq!(guests.iter().filter(|guest| guest.is_ok()).count(), domain::MAX_GUESTS);
        let message = "/chosen/g62: compatible: found nothing, expected at most 62 guests";
        assert_eq!(guests[domain::MAX_GUESTS].as_ref().unwrap_err(), message);
        assert_eq!(guests.len(), domain::MAX_GUESTS + 1);
    });
}
