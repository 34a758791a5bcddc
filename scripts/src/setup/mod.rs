//! Set-up: what a fresh machine lacks is found, fetched, checked and cached, without a question.
//!
//! Commands say what they need with [`Need`] and get [`Tools`] back. What is there already is taken as it is, with no
//! network access.

mod apt;
mod cache;
mod deb;
mod debian;
mod emulator;
pub(crate) mod initramfs;
mod lvz;
mod process;
mod progress;
mod target;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::cache::{Cache, Lock};
use crate::Command;
use crate::arch::{Arch, Emulator};

/// `cargo xtask setup`.
pub(crate) const COMMAND: Command = Command {
    name: "setup",
    summary: "install what is needed: emulator, Rust targets, guest kernel and userland",
    help: "\
cargo xtask setup [--check | --initramfs FILE [--arch A]]

Installs and fetches what `run`, `test` and `bench` need, as these do by themselves:
  the emulators          QEMU 10.0 or newer: the one on the PATH, else Debian's from backports, with apt (as root
                         directly, else through sudo); for guests on LoongArch a QEMU with its virtualisation
                         extension, built from Debian's source and our patch (scripts/qemu-lvz): five minutes, once
  the Rust targets       with rustup, else built from the library's source
  the Linux guests       kernel, some of its modules, and busybox from Debian packages, checked, kept in the cache
What is there already is left as it is and needs no network.

  --check                only report: nothing is changed; exits with 1 if something is missing
  --initramfs FILE       write the guests' initramfs to FILE, to boot it elsewhere; its kernel command line may say
                         fermata.name=NAME, and fermata.run=CMD (with + for blanks) to run CMD and power off
  --arch A               the architecture it is for, aarch64 or loongarch64 (aarch64)

The cache is $FERMATA_CACHE, else fermata in $XDG_CACHE_HOME or in ~/.cache. Remove it to fetch newer versions.
",
    run: command,
};

/// Something a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// QEMU for the architecture.
    Emulator(Arch, Emulator),
    /// The bare-metal Rust target.
    Target(Arch),
    /// Debian's kernel and its static busybox, for Linux guests.
    Debian(Arch),
}

impl Need {
    /// Everything the project can use today.
    pub(crate) const ALL: [Self; 7] = [
        Self::Emulator(Arch::Aarch64, Emulator::Stock),
        Self::Emulator(Arch::Loongarch64, Emulator::Stock),
        Self::Emulator(Arch::Loongarch64, Emulator::Lvz),
        Self::Target(Arch::Aarch64),
        Self::Target(Arch::Loongarch64),
        Self::Debian(Arch::Aarch64),
        Self::Debian(Arch::Loongarch64),
    ];

    /// Puts it where [`Tools::find`] finds it.
    fn install(self, cache: &Cache, lock: &Lock) -> Result<()> {
        match self {
            Self::Emulator(arch, Emulator::Stock) => emulator::install(cache, lock, arch),
            Self::Emulator(_, Emulator::Lvz) => lvz::install(cache, lock),
            Self::Target(arch) => target::install(cache, lock, arch),
            Self::Debian(arch) => debian::install(cache, lock, arch),
        }
    }
}

/// How something that is needed was found.
enum State<T> {
    /// It is there.
    Present {
        /// Where, or what else a caller wants of it.
        item: T,
        /// What it is, for people: name, version, place.
        label: String,
    },
    /// It is not.
    Missing {
        /// What is missing.
        why: String,
        /// What set-up does about it.
        then: String,
    },
}

/// A [`State`] without the item, to report.
impl<T> State<T> {
    fn keep<K>(self, items: &mut Vec<(K, T)>, key: K) -> State<()> {
        match self {
            Self::Present { item, label } => {
                items.push((key, item));
                State::Present { item: (), label }
            }
            Self::Missing { why, then } => State::Missing { why, then },
        }
    }
}

impl fmt::Display for State<()> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present { label, .. } => write!(f, "present  {label}"),
            Self::Missing { why, then } => write!(f, "missing  {why}; set-up would {then}"),
        }
    }
}

/// Where everything is that was asked for.
///
/// Asking for what was not a [`Need`] of the call to [`ensure`] is a bug of the caller and panics.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    emulators: Vec<((Arch, Emulator), PathBuf)>,
    debian: Vec<(Arch, Debian)>,
}

/// A Linux guest's parts, from Debian packages.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    /// The kernel: a raw `Image`.
    pub(crate) kernel: PathBuf,
    /// Modules of it, packed with xz, in the order they can be loaded in.
    pub(crate) modules: Vec<PathBuf>,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
    /// The packages and versions these come from, for people.
    pub(crate) origin: String,
}

impl Tools {
    /// The emulator's program.
    pub(crate) fn emulator(&self, arch: Arch, emulator: Emulator) -> &Path {
        pick(&self.emulators, (arch, emulator)).as_path()
    }

    /// The parts of a Linux guest.
    pub(crate) fn debian(&self, arch: Arch) -> &Debian {
        pick(&self.debian, arch)
    }

    /// Builds the guests' initramfs (busybox, the kernel's modules in `/lib/modules`, and `/init`; see `init.sh` for what
    /// it reads from the kernel's command line) with files of the caller's added.
    pub(crate) fn initramfs(&self, arch: Arch, extra: &[initramfs::File<'_>]) -> Result<Vec<u8>> {
        let debian = self.debian(arch);
        let read = |path: &Path| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let mut modules = Vec::new();
        for path in &debian.modules {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            modules.push((format!("lib/modules/{name}"), read(path)?));
        }
        let modules = modules.iter().map(|(path, content)| initramfs::File { path, content, mode: 0o644 });
        let files: Vec<_> = extra.iter().copied().chain(modules).collect();
        initramfs::build(&read(&debian.busybox)?, &files)
    }

    /// Looks for something, and remembers where it is.
    fn find(&mut self, cache: &Cache, need: Need) -> State<()> {
        match need {
            Need::Emulator(arch, Emulator::Stock) => {
                emulator::find(arch).keep(&mut self.emulators, (arch, Emulator::Stock))
            }
            Need::Emulator(arch, Emulator::Lvz) => {
                lvz::find(cache).keep(&mut self.emulators, (arch, Emulator::Lvz))
            }
            Need::Target(arch) => target::find(arch),
            Need::Debian(arch) => debian::find(cache, arch).keep(&mut self.debian, arch),
        }
    }
}

/// The item of a key.
fn pick<K: PartialEq, T>(items: &[(K, T)], key: K) -> &T {
    &items.iter().find(|item| item.0 == key).expect("asked for without being a need").1
}

/// Provides everything in `needs`, installing and fetching what is missing.
///
/// # Errors
/// When something is missing and cannot be had; the message names it and what to do.
pub(crate) fn ensure(needs: &[Need]) -> Result<Tools> {
    let (tools, _) = provide(needs)?;
    Ok(tools)
}

/// Does the work of [`ensure`], and tells what there is.
fn provide(needs: &[Need]) -> Result<(Tools, Vec<State<()>>)> {
    let cache = Cache::locate()?;
    let mut tools = Tools::default();
    let mut lock = None;
    let mut states = Vec::new();
    for &need in needs {
        let mut state = tools.find(&cache, need);
        if matches!(state, State::Missing { .. }) {
            let lock = match &lock {
                Some(lock) => lock,
                None => lock.insert(cache.lock()?),
            };
            // Another process may have brought it while this one waited for the lock.
            state = tools.find(&cache, need);
            if matches!(state, State::Missing { .. }) {
                need.install(&cache, lock)?;
                state = tools.find(&cache, need);
            }
        }
        if let State::Missing { why, .. } = &state {
            bail!("it was installed without an error, and still: {why}");
        }
        states.push(state);
    }
    Ok((tools, states))
}

/// Runs `cargo xtask setup`.
fn command(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let (mut check, mut file, mut arch) = (false, None, Arch::Aarch64);
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("check") => check = true,
            lexopt::Arg::Long("initramfs") => file = Some(PathBuf::from(arguments.value()?)),
            lexopt::Arg::Long("arch") => arch = arguments.value()?.to_string_lossy().parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(file) = file {
        let archive = ensure(&[Need::Debian(arch)])?.initramfs(arch, &[])?;
        fs::write(&file, archive).with_context(|| format!("{} cannot be written", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let states = if check { look(&Need::ALL)? } else { provide(&Need::ALL)?.1 };
    states.iter().for_each(|state| println!("{state}"));
    let missing = states.iter().any(|state| matches!(state, State::Missing { .. }));
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Looks for everything and changes nothing.
fn look(needs: &[Need]) -> Result<Vec<State<()>>> {
    let cache = Cache::locate()?;
    let mut tools = Tools::default();
    Ok(needs.iter().map(|&need| tools.find(&cache, need)).collect())
}
