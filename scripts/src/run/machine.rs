//! The machine Fermata runs on, as QEMU is told of it.

use super::layout::{self, Modules};
use super::units::Memory;
use crate::arch::{Arch, Emulator};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A board that QEMU emulates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Board {
    /// What `--board` calls it.
    pub(crate) name: &'static str,
    /// The architecture of its CPUs.
    pub(crate) arch: Arch,
    /// QEMU's `-M` for Fermata.
    machine: &'static str,
    /// QEMU's `-M` for a guest alone, without what only a hypervisor needs.
    bare: &'static str,
    /// The emulators that have it, each with its `-cpu` where nothing else is asked for; the first is the default.
    emulators: &'static [(Emulator, &'static str)],
    /// Where its memory starts.
    ram: u64,
}

/// Every board; the first of an architecture is its default.
const BOARDS: &[Board] = &[
    Board {
        name: "virt",
        arch: Arch::Aarch64,
        // No randomness in the tree: two runs of one thing are the same run.
        machine: "virt,virtualization=on,gic-version=3,dtb-randomness=off",
        bare: "virt,gic-version=3,dtb-randomness=off",
        emulators: &[(Emulator::Stock, "max")],
        ram: 0x4000_0000,
    },
    Board {
        name: "virt",
        arch: Arch::Loongarch64,
        machine: "virt",
        bare: "virt",
        emulators: &[(Emulator::Lvz, "la464,lvz=on,lbt=on"), (Emulator::Stock, "la464")],
        ram: 0,
    },
];

impl Board {
    /// Finds a board by name, or the default one.
    ///
    /// # Errors
    /// Lists the boards there are.
    pub(crate) fn find(arch: Arch, name: Option<&str>) -> Result<&'static Self> {
        let mut known = BOARDS.iter().filter(|board| board.arch == arch);
        let names: Vec<_> = known.clone().map(|board| board.name).collect();
        let found = known.find(|board| name.is_none_or(|name| board.name == name));
        found.with_context(|| {
            format!("--board {}: unknown; known for {arch}: {}", name.unwrap_or(""), names.join(", "))
        })
    }
}

/// A machine: a board with CPUs and memory.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The board.
    pub(crate) board: &'static Board,
    /// Which QEMU emulates it.
    pub(crate) emulator: Emulator,
    /// QEMU's `-cpu`, as asked for.
    pub(crate) cpu: String,
    /// How many physical CPUs it has.
    pub(crate) cpus: u32,
    /// How much memory it has.
    pub(crate) memory: Memory,
    /// Arguments for QEMU as the user gave them.
    pub(crate) extra: Vec<OsString>,
}

/// How the device tree reaches Fermata.
#[derive(Clone, Debug)]
pub(crate) enum Handover {
    /// The way it does on the architecture: on AArch64 QEMU reads it, adds what it must, and passes it on; on LoongArch,
    /// where QEMU passes one of its own, it is put into memory as it is, and Fermata's command line says where.
    Boot(PathBuf),
    /// On AArch64: it is put into memory as it is, however broken, beside a stub that passes it on.
    Raw {
        /// The bytes of the tree.
        tree: PathBuf,
        /// The bytes of the stub, as [`stub`] makes them.
        stub: PathBuf,
    },
    /// It does not: Fermata finds the one that QEMU makes of the machine, which has no guests.
    Nothing,
}

/// The console on QEMU's standard input and output, where no key is QEMU's own.
const CONSOLE: [&str; 4] = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"];

/// Where, from the start of RAM, a raw tree, the stub and the image lie. QEMU itself uses 2 MiB for an image with the
/// arm64 header; the tree and the stub follow where a machine with 128 MiB still has memory and no module lies.
const RAW_IMAGE: u64 = 2 << 20;
const RAW_TREE: u64 = 36 << 20;
const RAW_STUB: u64 = 40 << 20;

/// The highest a device tree lies above the start of memory, in bytes: where QEMU (10.0, hw/arm/boot.c) puts it.
const TREE_HEIGHT: u64 = 128 << 20;

impl Machine {
    /// Makes a machine with two CPUs and 2 GiB, of the model that is the default.
    ///
    /// # Errors
    /// The emulator does not have the board.
    pub(crate) fn new(board: &'static Board, emulator: Option<Emulator>) -> Result<Self> {
        let mut known = board.emulators.iter();
        let found = known.clone().find(|(known, _)| emulator.is_none_or(|emulator| emulator == *known));
        let (emulator, cpu) = *found.with_context(|| {
            let names: Vec<_> = known.by_ref().map(|(emulator, _)| emulator.name()).collect();
            let wanted = emulator.map_or("", Emulator::name);
            format!("--qemu {wanted}: it does not emulate {}, known is {}", board.arch, names.join(", "))
        })?;
        Ok(Self { board, emulator, cpu: cpu.into(), cpus: 2, memory: Memory(2 << 30), extra: Vec::new() })
    }

    /// Returns where its device tree is: half-way up its memory, at most [`TREE_HEIGHT`] up. On AArch64 that is QEMU's
    /// doing, and on LoongArch ours.
    pub(crate) fn tree_address(&self) -> u64 {
        self.board.ram + (self.memory.0 / 2).min(TREE_HEIGHT)
    }

    /// Returns QEMU's `-cpu`. Pointer authentication with the architected algorithm takes half of the time of TCG, so
    /// `max` gets the cheap one unless something is said about it.
    fn cpu_argument(&self) -> String {
        let is_max = self.board.arch == Arch::Aarch64 && self.cpu.split(',').next() == Some("max");
        let cheap = if is_max && !self.cpu.contains("pauth") { ",pauth-impdef=on" } else { "" };
        format!("{}{cheap}", self.cpu)
    }

    /// Returns the arguments that make the machine itself, of QEMU's `-M`.
    fn base(&self, machine: &str) -> Vec<OsString> {
        let (cpus, memory) = (self.cpus.to_string(), format!("{}K", self.memory.0 / 1024));
        let words = ["-M", machine, "-cpu", &self.cpu_argument(), "-smp", &cpus, "-m", &memory];
        let fixed = ["-nodefaults", "-display", "none", "-no-reboot"];
        words.iter().chain(&fixed).map(OsString::from).chain(self.extra.iter().cloned()).collect()
    }

    /// Returns the arguments of a run: the machine, Fermata, its device tree, the modules, and the console on QEMU's
    /// standard input and output, where no key is QEMU's own.
    pub(crate) fn arguments(&self, image: &Path, handover: &Handover, modules: &[Modules]) -> Vec<OsString> {
        let mut words = self.base(self.board.machine);
        let mut load = |file: &Path, address: u64, more: &str| {
            words.push("-device".into());
            words.push(format!("loader,file={},addr={address:#x},force-raw=on{more}", escaped(file)).into());
        };
        layout::distinct(modules).for_each(|module| load(&module.file, module.address, ""));
        let tree_address = self.tree_address();
        match (handover, self.board.arch) {
            (Handover::Nothing, _) => words.extend(["-kernel".into(), image.into()]),
            (Handover::Boot(tree), Arch::Aarch64) => {
                let boot: [&std::ffi::OsStr; 4] =
                    ["-kernel".as_ref(), image.as_ref(), "-dtb".as_ref(), tree.as_ref()];
                words.extend(boot.map(OsString::from));
            }
            (Handover::Boot(tree), Arch::Loongarch64) => {
                load(tree, tree_address, "");
                words.extend(["-kernel".into(), image.into()]);
                words.extend(["-append".into(), format!("fdt={tree_address:#x}").into()]);
            }
            (Handover::Raw { tree, stub }, _) => {
                load(image, self.board.ram + RAW_IMAGE, "");
                load(tree, self.board.ram + RAW_TREE, "");
                load(stub, self.board.ram + RAW_STUB, ",cpu-num=0");
            }
        }
        words.extend(CONSOLE.map(OsString::from));
        words
    }

    /// Returns the arguments of a run of one guest without Fermata.
    pub(crate) fn bare_arguments(&self, kernel: &Path, cmdline: &str) -> Vec<OsString> {
        let mut words = self.base(self.board.bare);
        words.extend(["-kernel".into(), kernel.into(), "-append".into(), cmdline.into()]);
        words.extend(CONSOLE.map(OsString::from));
        words
    }

    /// Returns the code that enters an image the way the arm64 boot protocol says, with the raw tree in x0; none where a
    /// raw tree needs no such thing.
    pub(crate) fn stub(&self) -> Option<Vec<u8>> {
        if self.board.arch != Arch::Aarch64 {
            return None;
        }
        // ldr x0, 0x18; mov x1, xzr; mov x2, xzr; mov x3, xzr; ldr x4, 0x20; br x4; then the two literals.
        let code: [u32; 6] = [0x5800_00c0, 0xaa1f_03e1, 0xaa1f_03e2, 0xaa1f_03e3, 0x5800_0084, 0xd61f_0080];
        let literals = [self.board.ram + RAW_TREE, self.board.ram + RAW_IMAGE];
        let code = code.iter().flat_map(|word| word.to_le_bytes());
        Some(code.chain(literals.iter().flat_map(|word| word.to_le_bytes())).collect())
    }

    /// Asks QEMU for the machine's device tree.
    ///
    /// # Errors
    /// QEMU does not start, or refuses the machine; the message has its words.
    pub(crate) fn dump_tree(&self, qemu: &Path, file: &Path) -> Result<Vec<u8>> {
        let mut command = Command::new(qemu);
        let machine = format!("{},dumpdtb={}", self.board.machine, escaped(file));
        command.args(self.base(&machine)).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot start {}", qemu.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match std::fs::read(file) {
            Ok(tree) if output.status.success() => Ok(tree),
            _ => bail!("QEMU refuses this machine ({}): {}", output.status, said.trim()),
        }
    }
}

/// Writes a path as a value in one of QEMU's comma-separated lists, where a comma is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Writes a command so that a shell reads it back.
pub(crate) fn shell_line(program: &Path, arguments: &[OsString]) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    let quote = |word: &str| match word {
        word if !word.is_empty() && word.chars().all(harmless) => word.to_string(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words =
        std::iter::once(program.to_string_lossy()).chain(arguments.iter().map(|word| word.to_string_lossy()));
    words.map(|word| quote(&word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::layout::Module;
    use super::*;

    fn machine(cpu: &str) -> Machine {
        let board = Board::find(Arch::Aarch64, None).unwrap();
        Machine { cpu: cpu.into(), extra: vec!["-s".into()], ..Machine::new(board, None).unwrap() }
    }

    fn loongarch(emulator: Option<Emulator>) -> Machine {
        Machine::new(Board::find(Arch::Loongarch64, None).unwrap(), emulator).unwrap()
    }

    #[test]
    fn the_command_line_holds_everything() {
        let module = |file: &str, address| Module { file: file.into(), address, size: 1 };
        let modules =
            [Modules { kernel: module("a,b", 0x4800_0000), ramdisk: Some(module("rd", 0x4a00_0000)) }];
        let boot = Handover::Boot("t.dtb".into());
        let line = shell_line("qemu".as_ref(), &machine("max").arguments("f img".as_ref(), &boot, &modules));
        assert_eq!(
            line,
            "qemu -M virt,virtualization=on,gic-version=3,dtb-randomness=off -cpu max,pauth-impdef=on -smp 2 -m 2097152K \
             -nodefaults -display none -no-reboot -s -device loader,file=a,,b,addr=0x48000000,force-raw=on -device \
             loader,file=rd,addr=0x4a000000,force-raw=on -kernel 'f img' -dtb t.dtb -chardev \
             stdio,id=console,signal=off -serial chardev:console"
        );
    }

    #[test]
    fn on_loongarch_the_tree_is_a_module_that_the_command_line_names() {
        let boot = Handover::Boot("t.dtb".into());
        let line = shell_line("qemu".as_ref(), &loongarch(None).arguments("fermata".as_ref(), &boot, &[]));
        assert_eq!(
            line,
            "qemu -M virt -cpu la464,lvz=on,lbt=on -smp 2 -m 2097152K -nodefaults -display none -no-reboot -device \
             loader,file=t.dtb,addr=0x8000000,force-raw=on -kernel fermata -append fdt=0x8000000 -chardev \
             stdio,id=console,signal=off -serial chardev:console"
        );
        let nothing = loongarch(None).arguments("fermata".as_ref(), &Handover::Nothing, &[]);
        assert!(
            shell_line("q".as_ref(), &nothing).contains("-no-reboot -kernel fermata -chardev"),
            "{nothing:?}"
        );
        let small = Machine { memory: Memory(64 << 20), ..loongarch(None) };
        assert_eq!(small.tree_address(), 32 << 20);
        assert_eq!(machine("max").tree_address(), 0x4800_0000);
    }

    #[test]
    fn a_guest_alone_has_a_machine_without_virtualisation() {
        let line = |machine: Machine| shell_line("q".as_ref(), &machine.bare_arguments("k".as_ref(), "a=1"));
        let arm = line(machine("max"));
        assert!(arm.contains("-M virt,gic-version=3,dtb-randomness=off -cpu max"), "{arm}");
        assert!(arm.contains("-kernel k -append a=1 -chardev"), "{arm}");
        assert!(line(loongarch(None)).contains("-M virt -cpu la464,lvz=on,lbt=on"));
    }

    #[test]
    fn the_emulator_decides_on_the_cpu() {
        assert_eq!(loongarch(Some(Emulator::Stock)).cpu_argument(), "la464");
        assert_eq!(Machine { cpu: "max".into(), ..loongarch(None) }.cpu_argument(), "max");
        let board = Board::find(Arch::Aarch64, None).unwrap();
        let why = Machine::new(board, Some(Emulator::Lvz)).unwrap_err().to_string();
        assert!(why.contains("--qemu lvz") && why.contains("aarch64, known is stock"), "{why}");
    }

    #[test]
    fn only_max_gets_cheap_pointer_authentication() {
        assert_eq!(machine("cortex-a72").cpu_argument(), "cortex-a72");
        assert_eq!(machine("max,sve=off").cpu_argument(), "max,sve=off,pauth-impdef=on");
        assert_eq!(machine("max,pauth=off").cpu_argument(), "max,pauth=off");
    }

    #[test]
    fn an_unknown_board_is_named() {
        for arch in Arch::ALL {
            let why = Board::find(arch, Some("toaster")).unwrap_err().to_string();
            assert!(why.contains("toaster") && why.contains("virt") && why.contains(arch.name()), "{why}");
        }
    }

    #[test]
    fn the_stub_points_at_the_tree_and_the_image() {
        assert_eq!(loongarch(None).stub(), None);
        let stub = machine("max").stub().unwrap();
        assert_eq!(stub.len(), 0x28);
        assert_eq!(stub[0x18..0x20], 0x4240_0000u64.to_le_bytes());
        assert_eq!(stub[0x20..0x28], 0x4020_0000u64.to_le_bytes());
    }

    #[test]
    fn shell_lines_are_quoted() {
        assert_eq!(
            shell_line("q".as_ref(), &["it's".into(), "".into(), "a b".into()]),
            r"q 'it'\''s' '' 'a b'"
        );
    }
}
