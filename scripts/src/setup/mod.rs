//! Set-up: what a fresh machine lacks is found, fetched, checked and cached, without a question.
//!
//! Commands say what they need with [`Need`] and get [`Tools`] back. What is there already is taken as it is, with no
//! network access.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::Command;
use crate::arch::Arch;

/// `cargo xtask setup`.
pub(crate) const COMMAND: Command = Command {
    name: "setup",
    summary: "install what is needed: emulator, Rust targets, guest kernel and userland",
    help: "",
    run: |_| Ok(ExitCode::SUCCESS),
};

/// Something a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// QEMU for the architecture.
    Emulator(Arch),
    /// The bare-metal Rust target.
    Target(Arch),
    /// Debian's kernel and its static busybox, for Linux guests.
    Debian(Arch),
}

/// Where everything is that was asked for.
///
/// Asking for what was not a [`Need`] of the call to [`ensure`] is a bug of the caller and panics.
#[derive(Debug)]
pub(crate) struct Tools {
    cache: PathBuf,
    emulators: Vec<(Arch, PathBuf)>,
    debian: Vec<(Arch, Debian)>,
}

/// A Linux guest's parts, from Debian packages.
#[derive(Clone, Debug)]
pub(crate) struct Debian {
    /// The kernel: on AArch64 a raw `Image`.
    pub(crate) kernel: PathBuf,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
    /// The packages and versions these come from, for people.
    pub(crate) origin: String,
}

impl Tools {
    /// The folder for what is expensive to make again; other commands may keep folders of their own in it.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// The emulator's program.
    pub(crate) fn emulator(&self, arch: Arch) -> &Path {
        find(&self.emulators, arch).as_path()
    }

    /// The parts of a Linux guest.
    pub(crate) fn debian(&self, arch: Arch) -> &Debian {
        find(&self.debian, arch)
    }

    /// Builds the guests' initramfs (busybox, `/init`, see `initramfs`) with files of the caller's added.
    pub(crate) fn initramfs(&self, arch: Arch, extra: &[initramfs::File<'_>]) -> Result<Vec<u8>> {
        let _ = (arch, extra);
        anyhow::bail!("not yet")
    }
}

fn find<T>(items: &[(Arch, T)], arch: Arch) -> &T {
    &items.iter().find(|item| item.0 == arch).expect("asked for without being a need").1
}

pub(crate) mod initramfs {
    //! The guests' initial file system.

    /// A file to add.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct File<'a> {
        /// Its path from the root, without the leading slash: `bin/fp-check`.
        pub(crate) path: &'a str,
        /// Its content.
        pub(crate) content: &'a [u8],
        /// Its permission bits: `0o755`.
        pub(crate) mode: u32,
    }
}

/// Provides everything in `needs`, installing and fetching what is missing.
pub(crate) fn ensure(needs: &[Need]) -> Result<Tools> {
    let _ = needs;
    anyhow::bail!("not yet")
}
