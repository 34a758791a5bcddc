//! The emulator: the one on the `PATH` if it is new enough, else Debian's package.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{Apt, Archive, Host, World};
use super::cache::{Cache, Lock};
use super::{State, process};
use crate::arch::Arch;

/// The oldest QEMU with everything we use: nested virtualisation (`FEAT_NV2`) in full, and LASX.
const OLDEST: (u32, u32) = (10, 0);

/// Looks for it on the `PATH`.
pub(crate) fn find(arch: Arch) -> State<PathBuf> {
    let name = arch.emulator();
    let then = format!("install {} (QEMU {}.{} or newer) with apt", package(arch), OLDEST.0, OLDEST.1);
    let Some(path) = on_path(name) else {
        return State::Missing { why: format!("no {name} on the PATH"), then };
    };
    let text = process::output(Command::new(&path).arg("--version")).unwrap_or_default();
    match version(&text) {
        Some(version) if version >= OLDEST => {
            let line = text.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ");
            State::Present { label: format!("QEMU {line}, {}", path.display()), item: path }
        }
        Some((major, minor)) => {
            State::Missing { why: format!("{} is QEMU {major}.{minor}, too old", path.display()), then }
        }
        None => State::Missing { why: format!("{} does not tell its version", path.display()), then },
    }
}

/// Installs Debian's package.
pub(crate) fn install(cache: &Cache, lock: &Lock, arch: Arch) -> Result<()> {
    install_package(cache, lock, package(arch)).with_context(|| remedy(arch))
}

/// Installs the oldest version that is new enough: that changes least on the user's system.
fn install_package(cache: &Cache, lock: &Lock, name: &str) -> Result<()> {
    let archive = Archive::of_this_machine(cache, lock)?;
    let codename = &archive.codename;
    let suites = [&**codename, &format!("{codename}-updates"), &format!("{codename}-backports")];
    let apt = Apt::open(cache, &archive, &World { name: "host", suites: &suites, host: Host::ThisMachine })?;
    let packages = apt.packages(name, name)?.into_iter();
    let new_enough = packages.filter(|package| version_of(package.version.upstream()) >= Some(OLDEST));
    let package = new_enough.min_by(|a, b| a.version.cmp(&b.version));
    let package = package.with_context(|| {
        format!("{} has no {name} of version {}.{} or newer", suites.join(", "), OLDEST.0, OLDEST.1)
    })?;
    apt.install(&package, codename)
}

/// What a person can do where we cannot.
fn remedy(arch: Arch) -> String {
    let (program, package, (major, minor)) = (arch.emulator(), package(arch), OLDEST);
    format!(
        "{program} is missing and could not be installed. Install QEMU {major}.{minor} or newer, with {program} on \
         the PATH:\n  \
         Debian 12:       {package} from bookworm-backports\n  \
         Debian, Ubuntu:  {package}\n  \
         Fedora:          {program}-core\n  \
         Arch Linux:      {program}\n  \
         elsewhere:       QEMU's source, configured with --target-list={arch}-softmmu"
    )
}

/// Debian's name of the package.
const fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "qemu-system-arm",
        Arch::Loongarch64 => "qemu-system-misc",
    }
}

/// Looks a program up as a shell would.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| Path::new(file).is_file())
}

/// Reads `QEMU emulator version 10.0.2 (...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    version_of(text.split_once("version ")?.1.split([' ', '\n', '(']).next()?)
}

/// Reads `MAJOR.MINOR...`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-', '+', '~']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 7.2.18\n"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 11.1\n"), Some((11, 1)));
        assert_eq!(version("something else"), None);
        assert!(version_of("7.2").unwrap() < OLDEST && version_of("10.0.13").unwrap() >= OLDEST);
        // What has no version is not new enough.
        assert!(version_of("git") < Some(OLDEST));
    }

    #[test]
    fn the_remedy_names_program_and_package() {
        let text = remedy(Arch::Aarch64);
        assert!(
            text.contains("qemu-system-aarch64 is missing") && text.contains("qemu-system-arm from"),
            "{text}"
        );
    }
}
