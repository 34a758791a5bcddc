//! `guests/tests.toml`: the tests that boot Fermata.
//!
//! ```toml
//! [[test]]
//! name = "fp-torture"              # also the name of the log
//! cpu = ["max", "cortex-a53"]      # one test for each; a single string or nothing (the board's own) is one test
//! arch = ["aarch64"]               # one test for each, aarch64 where nothing is given; `-loongarch64` is added to names
//! emulator = "stock"               # for loongarch64: the QEMU without LVZ
//! policies = ["eager", "hold"]     # one test for each: the FP policy of guests that name none
//! board = "virt"
//! cpus = 2                         # physical
//! memory = "1G"
//! timeout = 60                     # seconds
//! alone = true                     # while no other test runs
//! # bare = true                    # a test of one guest, which runs without Fermata: what fails then is the emulator
//! qemu = ["-icount", "shift=0"]    # more arguments for QEMU
//! bootargs = "trace=on"            # more of Fermata's command line
//! guests = [
//!     { guest = "fp-torture", name = "a", cpus = 2, memory = "32M", fp = "hold", sve = 512, affinity = [0],
//!       args = "seed=1" },
//!     { linux = true, name = "b", fp_units = "fpu+lsx", cmdline_extra = "fermata.run=uname" },
//!     { kernel = "some/file", initrd = "other/file" },     # paths from the root of the workspace
//! ]
//! expect = ["[a] ok fp-torture"]   # each must be part of some line of that console; without `[name] `, of any. Text
//!                                  # that starts with `ok ` or `not ok` has to start the line
//! forbid = ["not ok"]              # no line may have this; "not ok" is what holds where nothing is given
//! exit = "off"                     # off, crash, not-started, halted, panic, expect: see `Exit`
//! unchecked = true                 # let through what the host tool refuses, to see what Fermata says
//! script = '''a expect "# "'''     # typed as by `cargo xtask run --script`; all boots of a test share a folder for its files
//! then = [{ cpus = 1 }]            # boots after this one, with the same keys but for the names; all have to go well
//! break = [                        # done to the device tree, in order; guests are below /chosen, their modules are
//!     { delete = "/chosen/a/kernel" },                             # `kernel` and `ramdisk`
//!     { set = { node = "/chosen/a", property = "cpus", cells = [9999] } },     # or text = "...", or bytes = [...]
//!     { unset = { node = "/chosen/a", property = "memory" } },
//!     { add = "/chosen/c" },
//!     { overwrite = { at = 4, bytes = [255, 255] } },              # of the finished tree, as is the next
//!     { truncate = 200 },
//!     "withhold",                                                  # alone: it is not handed over
//! ]
//! ```
//!
//! `guests/mutants.toml` has tests in the same form that are to fail, on a Fermata that is told to leave out a rule of its FP
//! machine. They have two keys more, and the file has another table:
//!
//! ```toml
//! breaks = ["OwnerCheck"]          # one test for each, and one without any, which must pass
//! suite = ["OwnerCheck"]           # those of them that `cargo xtask test` runs as well
//!
//! [[host-only]]
//! rules = ["SaveOnFlush"]          # no test here shows that these are broken
//! arch = "aarch64"                 # where; everywhere if nothing is given
//! reason = "why not"
//! ```

use super::mutants::{self, Broken, HostOnly};
use super::sabotage::Sabotage;
use crate::arch::Arch;
use crate::run::layout;
use crate::run::machine::{Board, Machine};
use crate::run::units::{Cpus, FpUnits, Memory, Sve};
use crate::run::vm::{Linux, Policy, Vm, linux_cmdline};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

/// How a test has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exit {
    /// Every guest powers off, then the machine.
    #[default]
    Off,
    /// At least one guest crashes, the others power off or crash, then the machine powers off.
    Crash,
    /// At least one guest is not started, the others power off, then the machine.
    NotStarted,
    /// The machine powers off, whatever became of the guests.
    Halted,
    /// Fermata panics.
    Panic,
    /// It is over as soon as everything expected was seen.
    Expect,
}

/// One string or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// A table of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stanza {
    #[serde(default)]
    name: String,
    arch: Option<OneOrMore>,
    emulator: Option<String>,
    board: Option<String>,
    cpu: Option<OneOrMore>,
    policies: Option<Vec<Policy>>,
    cpus: Option<u32>,
    memory: Option<Memory>,
    timeout: Option<f64>,
    #[serde(default)]
    alone: bool,
    #[serde(default)]
    bare: bool,
    #[serde(default)]
    qemu: Vec<String>,
    #[serde(default)]
    bootargs: String,
    #[serde(default)]
    guests: Vec<Guest>,
    #[serde(default)]
    expect: Vec<String>,
    forbid: Option<Vec<String>>,
    #[serde(default)]
    exit: Exit,
    #[serde(default)]
    unchecked: bool,
    script: Option<String>,
    #[serde(default, rename = "break")]
    sabotage: Vec<Sabotage>,
    #[serde(default)]
    then: Vec<Stanza>,
    #[serde(default)]
    breaks: Vec<String>,
    #[serde(default)]
    suite: Vec<String>,
}

/// A guest of a test.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    guest: Option<String>,
    #[serde(default)]
    linux: bool,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    name: Option<String>,
    cpus: Option<u32>,
    memory: Option<Memory>,
    fp: Option<Policy>,
    fp_units: Option<FpUnits>,
    #[serde(default)]
    sve: Sve,
    affinity: Option<Cpus>,
    weight: Option<u32>,
    args: Option<String>,
    #[serde(default)]
    cmdline_extra: String,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    test: Vec<Stanza>,
    #[serde(default, rename = "host-only")]
    host_only: Vec<HostOnly>,
}

/// A test that boots Fermata.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    /// Unique; stanzas with several CPU models or policies make several tests.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: Machine,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// While no other test runs.
    pub(crate) alone: bool,
    /// Whether the guest runs without Fermata.
    pub(crate) bare: bool,
    /// More of Fermata's command line.
    pub(crate) bootargs: String,
    /// What has to be seen.
    pub(crate) expect: Vec<String>,
    /// What may not be seen.
    pub(crate) forbid: Vec<String>,
    /// How it has to end.
    pub(crate) exit: Exit,
    /// What to type.
    pub(crate) script: Option<String>,
    /// What to do to the device tree.
    pub(crate) sabotage: Vec<Sabotage>,
    /// What is booted afterwards.
    pub(crate) then: Vec<Test>,
    /// What Fermata leaves out.
    pub(crate) broken: Broken,
    /// Whether `cargo xtask test` runs it; `--mutants` runs it anyway if something is left out.
    pub(crate) in_suite: bool,
    guests: Vec<Guest>,
    policy: Option<Policy>,
    unchecked: bool,
}

/// Reads the text of `guests/tests.toml`.
///
/// # Errors
/// Names the line, the key or the test, and what is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Test>> {
    parse_mutants(text).map(|(tests, _)| tests)
}

/// Reads the text of `guests/mutants.toml`.
///
/// # Errors
/// As for [`parse`].
pub(crate) fn parse_mutants(text: &str) -> Result<(Vec<Test>, Vec<HostOnly>)> {
    let file: File = toml::from_str(text)?;
    let mut tests = Vec::new();
    for stanza in file.test {
        let name = stanza.name.clone();
        tests.extend(expand(stanza).with_context(|| format!("test `{name}`"))?);
    }
    let mut names = HashSet::new();
    for test in &tests {
        ensure!(names.insert(&test.name), "two tests are called `{}`", test.name);
    }
    Ok((tests, file.host_only))
}

/// Makes the tests of a stanza.
fn expand(stanza: Stanza) -> Result<Vec<Test>> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(
        stanza.name.chars().all(good) && !stanza.name.is_empty(),
        "a name is of letters, digits, `-`, `_` and `.`"
    );
    let archs = match &stanza.arch {
        None => vec![Arch::Aarch64],
        Some(names) => names.list().iter().map(|name| name.parse()).collect::<Result<_>>()?,
    };
    ensure!(
        stanza.cpu.is_none() || archs.len() == 1,
        "key `cpu`: a CPU model is of one architecture, and `arch` names {}",
        archs.len()
    );
    let mut tests = Vec::new();
    for arch in archs {
        tests.extend(expand_for(&stanza, arch)?);
    }
    Ok(tests)
}

/// Makes the tests of a stanza for one architecture.
fn expand_for(stanza: &Stanza, arch: Arch) -> Result<Vec<Test>> {
    let emulator = stanza.emulator.as_deref().map(str::parse).transpose()?;
    let default = Machine::new(Board::find(arch, stanza.board.as_deref())?, emulator)?;
    let several = matches!(stanza.cpu, Some(OneOrMore::More(_)));
    let models = stanza.cpu.as_ref().map_or_else(|| vec![default.cpu.clone()], |cpu| cpu.list().to_vec());
    let policies = match &stanza.policies {
        Some(policies) => policies.iter().copied().map(Some).collect(),
        None => vec![None],
    };
    let mut tests = Vec::new();
    for model in &models {
        for &policy in &policies {
            let suffix = |text: Option<String>| text.map_or_else(String::new, |text| format!("-{text}"));
            let model_suffix = suffix(several.then(|| model.split(',').next().unwrap_or(model).to_string()));
            let arch_suffix = suffix((arch != Arch::Aarch64).then(|| arch.to_string()));
            let policy_suffix = suffix(policy.map(|policy| policy.to_string()));
            let name = format!("{}{model_suffix}{policy_suffix}{arch_suffix}", stanza.name);
            let test = one(stanza, name, &default, model, policy)?;
            tests.extend(mutants::of(test, &stanza.breaks, &stanza.suite)?);
        }
    }
    Ok(tests)
}

/// Makes a boot that follows the one called `name`, on the same architecture.
fn follow_up(next: &Stanza, stanza: &Stanza, name: &str, arch: Arch) -> Result<Test> {
    ensure!(
        next.name.is_empty() && next.arch.is_none() && next.emulator.is_none() && next.then.is_empty(),
        "key `then`: a boot has name, architecture and emulator of the first one, and no boots of its own after it"
    );
    let next = Stanza { name: name.to_string(), emulator: stanza.emulator.clone(), ..next.clone() };
    let mut tests = expand_for(&next, arch)?;
    ensure!(tests.len() == 1, "key `then`: it makes {} boots, not one", tests.len());
    tests.pop().context("key `then`")
}

/// Makes one test of a stanza.
fn one(
    stanza: &Stanza,
    name: String,
    default: &Machine,
    model: &str,
    policy: Option<Policy>,
) -> Result<Test> {
    let limit = Duration::try_from_secs_f64(stanza.timeout.unwrap_or(60.0)).context("key `timeout`")?;
    ensure!(
        stanza.exit != Exit::Expect || !stanza.expect.is_empty(),
        "exit = \"expect\" needs something to expect, or it never ends"
    );
    ensure!(
        !stanza.bare
            || (stanza.guests.len() == 1
                && stanza.guests[0].guest.is_some()
                && matches!(stanza.exit, Exit::Off | Exit::Expect)
                && stanza.script.is_none()),
        "bare = true runs one guest = NAME to its end, without a script"
    );
    for guest in &stanza.guests {
        let ways = usize::from(guest.linux)
            + usize::from(guest.guest.is_some())
            + usize::from(guest.kernel.is_some());
        ensure!(ways == 1, "a guest is one of guest = NAME, linux = true, kernel = PATH");
    }
    let machine = Machine {
        cpu: model.to_string(),
        cpus: stanza.cpus.unwrap_or(default.cpus),
        memory: stanza.memory.unwrap_or(Memory(1 << 30)),
        extra: stanza.qemu.iter().map(Into::into).collect(),
        ..default.clone()
    };
    let then = stanza.then.iter().map(|next| follow_up(next, stanza, &name, default.board.arch));
    let then = then.collect::<Result<_>>()?;
    Ok(Test {
        name,
        machine,
        limit,
        alone: stanza.alone,
        bare: stanza.bare,
        bootargs: stanza.bootargs.clone(),
        expect: stanza.expect.clone(),
        forbid: stanza.forbid.clone().unwrap_or_else(|| vec!["not ok".to_string()]),
        exit: stanza.exit,
        script: stanza.script.clone(),
        sabotage: stanza.sabotage.clone(),
        then,
        broken: Broken::Never,
        in_suite: true,
        guests: stanza.guests.clone(),
        policy,
        unchecked: stanza.unchecked,
    })
}

/// Where the files of guests are.
pub(crate) trait Files {
    /// Returns the image of a test guest.
    fn guest(&self, name: &str) -> Result<PathBuf>;
    /// Returns Debian's parts.
    fn linux(&self) -> &Linux;
    /// Returns a kernel in the source tree as Fermata takes it.
    fn kernel(&self, path: &std::path::Path) -> Result<PathBuf>;
    /// Returns a path in the source tree.
    fn source(&self, path: &std::path::Path) -> PathBuf;
}

impl Test {
    /// Tells whether it takes a Fermata that can be broken.
    pub(crate) fn can_break(&self) -> bool {
        self.broken != Broken::Never
    }

    /// Tells whether a guest of this test is Debian Linux.
    pub(crate) fn wants_debian(&self) -> bool {
        self.guests.iter().any(|guest| guest.linux) || self.then.iter().any(Self::wants_debian)
    }

    /// Answers what the stanza left open about the guests, and checks them unless told not to.
    ///
    /// # Errors
    /// A file is missing, or the guests cannot run.
    pub(crate) fn vms(&self, files: &impl Files) -> Result<Vec<Vm>> {
        let mut vms: Vec<Vm> = Vec::new();
        for (index, guest) in self.guests.iter().enumerate() {
            let mut vm = self.vm(guest, files)?;
            if guest.name.is_none() && vms.iter().any(|other| other.name == vm.name) {
                vm.name = format!("{}{index}", vm.name);
            }
            if guest.linux {
                let own = linux_cmdline(self.machine.board.arch, &vm.name);
                vm.cmdline = format!("{own} {}", guest.cmdline_extra).trim_end().to_string();
            }
            vms.push(vm);
        }
        if !self.unchecked {
            layout::check(&vms, &self.machine)?;
        }
        Ok(vms)
    }

    /// Makes one guest.
    fn vm(&self, guest: &Guest, files: &impl Files) -> Result<Vm> {
        let (stem, kernel) = match (&guest.guest, &guest.kernel) {
            (Some(name), _) => (name.as_str(), files.guest(name)?),
            (None, Some(path)) => ("vm", files.kernel(path)?),
            (None, None) if guest.linux => ("linux", files.linux().kernel.clone()),
            (None, None) => bail!("a guest without a kernel"),
        };
        let initrd = guest.initrd.as_ref().map(|path| files.source(path));
        Ok(Vm {
            name: guest.name.clone().unwrap_or_else(|| stem.to_string()),
            kernel,
            initrd: initrd.or_else(|| guest.linux.then(|| files.linux().initrd.clone())),
            cmdline: guest.args.clone().unwrap_or_default(),
            cpus: guest.cpus.unwrap_or(if guest.linux { 2 } else { 1 }),
            memory: guest.memory.unwrap_or(Memory(if guest.linux { 256 << 20 } else { 32 << 20 })),
            fp: guest.fp.or(self.policy).unwrap_or_default(),
            fp_units: guest.fp_units.clone(),
            sve: guest.sve,
            affinity: guest.affinity,
            weight: guest.weight.unwrap_or(256),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Emulator;
    use crate::payload::tests::image;
    use crate::scratch::Scratch;
    use std::path::Path;

    struct Stock(Scratch, Linux);

    impl Files for Stock {
        fn guest(&self, name: &str) -> Result<PathBuf> {
            self.0.file(name, &image(Arch::Aarch64, 4096, 8192))
        }

        fn linux(&self) -> &Linux {
            &self.1
        }

        fn kernel(&self, path: &Path) -> Result<PathBuf> {
            Ok(self.source(path))
        }

        fn source(&self, path: &Path) -> PathBuf {
            Path::new("/root-of-workspace").join(path)
        }
    }

    fn stock() -> Stock {
        let scratch = Scratch::new().unwrap();
        let kernel = scratch.file("Image", &image(Arch::Aarch64, 4096, 8192)).unwrap();
        let initrd = scratch.file("initrd", b"x").unwrap();
        Stock(scratch, Linux { kernel, initrd, origin: String::new() })
    }

    fn why(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn the_example_in_the_documentation_is_true() {
        let source = include_str!("stanza.rs");
        let lines = source.lines().skip_while(|line| *line != "//! ```toml").skip(1);
        let text: Vec<&str> = lines.take_while(|line| *line != "//! ```").map(|line| &line[3..]).collect();
        let tests = parse(&text.join("\n")).unwrap();
        let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
        let expected = [
            "fp-torture-max-eager",
            "fp-torture-max-hold",
            "fp-torture-cortex-a53-eager",
            "fp-torture-cortex-a53-hold",
        ];
        assert_eq!(names, expected);
        assert_eq!((tests[0].then.len(), tests[0].then[0].machine.cpus), (1, 1));
        let vms = tests[0].vms(&stock()).unwrap();
        assert_eq!((vms[0].fp, vms[1].fp), (Policy::Hold, Policy::Eager));
        assert_eq!(vms[0].cmdline, "seed=1");
        assert_eq!(vms[1].cmdline, "console=ttyAMA0 fermata.name=b fermata.run=uname");
        assert_eq!(vms[2].kernel, Path::new("/root-of-workspace/some/file"));
        assert_eq!(tests[0].sabotage.len(), 7);
    }

    #[test]
    fn little_is_enough() {
        let tests =
            parse("[[test]]\nname = \"x\"\nguests = [{ guest = \"hello\" }, { guest = \"hello\" }]").unwrap();
        let [test] = tests.as_slice() else { panic!("{tests:?}") };
        assert_eq!(
            (test.exit, test.limit, test.forbid.as_slice()),
            (Exit::Off, Duration::from_secs(60), &["not ok".into()][..])
        );
        let vms = test.vms(&stock()).unwrap();
        assert_eq!((vms[0].name.as_str(), vms[1].name.as_str(), vms[0].cpus), ("hello", "hello1", 1));
    }

    #[test]
    fn a_test_can_be_for_several_architectures() {
        let tests = parse(
            "[[test]]\nname = \"x\"\narch = [\"aarch64\", \"loongarch64\"]\npolicies = [\"hold\", \"lazy\"]\n\
             [[test]]\nname = \"y\"\narch = \"loongarch64\"\nemulator = \"stock\"",
        )
        .unwrap();
        let of = |test: &Test| (test.name.clone(), test.machine.board.arch, test.machine.emulator);
        let expected = [
            ("x-hold", Arch::Aarch64, Emulator::Stock),
            ("x-lazy", Arch::Aarch64, Emulator::Stock),
            ("x-hold-loongarch64", Arch::Loongarch64, Emulator::Lvz),
            ("x-lazy-loongarch64", Arch::Loongarch64, Emulator::Lvz),
            ("y-loongarch64", Arch::Loongarch64, Emulator::Stock),
        ];
        assert_eq!(tests.iter().map(of).collect::<Vec<_>>(), expected.map(|(n, a, e)| (n.to_string(), a, e)));
        assert_eq!(tests[4].machine.cpu, "la464");
    }

    #[test]
    fn guests_are_checked_unless_told_not_to() {
        let test = |more| {
            parse(&format!(
                "[[test]]\nname = \"x\"\nguests = [{{ guest = \"hello\", memory = \"9G\" }}]\n{more}"
            ))
        };
        let vms = |more| test(more).unwrap()[0].vms(&stock());
        assert!(vms("").unwrap_err().to_string().contains("9 GiB"));
        assert_eq!(vms("unchecked = true").unwrap()[0].memory, Memory(9 << 30));
    }

    #[test]
    fn wrong_stanzas_are_named() {
        assert!(why("[[test]]\nname = \"x\"\ncolour = 1").contains("colour"));
        assert!(why("[[test]]\nname = \"a b\"").contains("test `a b`"));
        assert!(why("[[test]]\nname = \"x\"\nboard = \"toaster\"").contains("toaster"));
        assert!(why("[[test]]\nname = \"x\"\narch = \"vax\"").contains("vax"));
        assert!(why("[[test]]\nname = \"x\"\nemulator = \"lvz\"").contains("known is stock"));
        let two = "[[test]]\nname = \"x\"\ncpu = \"max\"\narch = [\"aarch64\", \"loongarch64\"]";
        assert!(why(two).contains("of one architecture"));
        assert!(why("[[test]]\nname = \"x\"\nguests = [{}]").contains("one of guest"));
        assert!(why("[[test]]\nname = \"x\"\nexit = \"expect\"").contains("never ends"));
        assert!(why("[[test]]\nname = \"x\"\nbare = true").contains("one guest = NAME"));
        let linux = "[[test]]\nname = \"x\"\nbare = true\nguests = [{ linux = true }]";
        assert!(why(linux).contains("one guest = NAME"));
        assert!(why("[[test]]\nname = \"x\"\n[[test]]\nname = \"x\"").contains("two tests"));
        assert!(why("[[test]]\nname = \"x\"\nthen = [{ name = \"y\" }]").contains("key `then`"));
        assert!(why("[[test]]\nname = \"x\"\nthen = [{ cpu = [\"a\", \"b\"] }]").contains("2 boots"));
        assert!(why("[[test]]\nname = \"x\"\nbreak = [{ melt = 1 }]").contains("melt"));
    }
}
