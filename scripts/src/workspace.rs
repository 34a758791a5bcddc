//! This workspace: its folders, and what Cargo builds in it for the machine under test.

use crate::arch::Arch;
use crate::flat;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that checks FP registers inside Linux guests, by its name in `guests/src/bin` and in `/bin` there.
pub(crate) const LINUX_FP_CHECK: &str = "linux-fp-check";

/// Which of Fermata's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The product, and the guests that run on it.
    Release,
    /// The one that its boot arguments can break.
    Broken,
}

impl Kind {
    /// Cargo's profile.
    const fn profile(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Broken => "broken",
        }
    }
}

/// The workspace's folders.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace this tool was built from.
    pub(crate) fn find() -> Self {
        // Cargo sets the variable for what it runs; a tool started by hand knows where it was built.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = package.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path));
        Self { root, target }
    }

    /// Makes a workspace of a folder, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), target: root.join("target") }
    }

    /// Returns a path in the source tree.
    pub(crate) fn source(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Returns a path among what was built.
    pub(crate) fn target(&self, path: &str) -> PathBuf {
        self.target.join(path)
    }

    /// Shows a path as short as it can be: relative to the workspace where it lies in it.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// Starts a Cargo command in the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        // What Cargo told this tool about itself is not about what it builds now.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            command.env_remove(name);
        }
        command
    }

    /// Returns where Fermata's image is, or will be: a flat one on AArch64, and the ELF file itself on LoongArch, where
    /// QEMU takes no other.
    pub(crate) fn image(&self, arch: Arch) -> PathBuf {
        let elf = self.built(Kind::Release, arch, "fermata");
        match arch {
            Arch::Aarch64 => elf.with_extension("img"),
            Arch::Loongarch64 => elf,
        }
    }

    /// Returns where Cargo puts a program.
    fn built(&self, kind: Kind, arch: Arch, program: &str) -> PathBuf {
        self.target.join(arch.rust_target()).join(kind.profile()).join(program)
    }

    /// Builds Fermata and makes its image.
    ///
    /// # Errors
    /// It does not build, or what was built is no image.
    pub(crate) fn build_image(&self, arch: Arch) -> Result<PathBuf> {
        self.build(Kind::Release, &["-p", "fermata", "--bin", "fermata"], arch, "Fermata")?;
        self.bootable(Kind::Release, arch, "fermata")
    }

    /// Builds a Fermata whose boot arguments can switch off a rule of the FP machine, and makes its image.
    ///
    /// # Errors
    /// As for [`build_image`](Self::build_image).
    pub(crate) fn build_broken_image(&self, arch: Arch) -> Result<PathBuf> {
        let words = ["-p", "fermata", "--bin", "fermata", "--features", "broken-rules"];
        self.build(Kind::Broken, &words, arch, "the Fermata that can be broken")?;
        self.bootable(Kind::Broken, arch, "fermata")
    }

    /// Builds every test guest.
    ///
    /// # Errors
    /// They do not build.
    pub(crate) fn build_guests(&self, arch: Arch) -> Result<()> {
        self.build(Kind::Release, &["-p", "guests", "--bins"], arch, "the test guests")
    }

    /// Builds the FP check for Linux guests alone and returns it.
    ///
    /// # Errors
    /// It does not build.
    pub(crate) fn build_fp_check(&self, arch: Arch) -> Result<Vec<u8>> {
        self.build(Kind::Release, &["-p", "guests", "--bin", LINUX_FP_CHECK], arch, LINUX_FP_CHECK)?;
        self.fp_check(arch)
    }

    /// Returns the FP check for Linux guests, which was built with the others.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn fp_check(&self, arch: Arch) -> Result<Vec<u8>> {
        let path = self.built(Kind::Release, arch, LINUX_FP_CHECK);
        std::fs::read(&path).with_context(|| path.display().to_string())
    }

    /// Makes the images of all test guests that were built, by name.
    ///
    /// # Errors
    /// What was built is no image.
    pub(crate) fn guest_images(&self, arch: Arch) -> Result<BTreeMap<String, PathBuf>> {
        let guests = self.guests()?.into_iter().filter(|name| name != LINUX_FP_CHECK);
        guests.map(|name| Ok((name.clone(), self.bootable(Kind::Release, arch, &name)?))).collect()
    }

    /// Lists the programs among the guests.
    fn guests(&self) -> Result<Vec<String>> {
        let folder = self.source("guests/src/bin");
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let name = |path: PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        entries.map(|entry| Ok(name(entry?.path()))).collect()
    }

    /// Builds for the machine under test.
    fn build(&self, kind: Kind, what: &[&str], arch: Arch, name: &str) -> Result<()> {
        let fixed = ["build", "--quiet", "--profile", kind.profile(), "--target", arch.rust_target()];
        let status = self.cargo(&[&fixed, what].concat()).status().context("cannot start cargo")?;
        match status.success() {
            true => Ok(()),
            false => bail!("{name} does not build; the compiler's words are above"),
        }
    }

    /// Makes of a program that was built what is booted.
    fn bootable(&self, kind: Kind, arch: Arch, program: &str) -> Result<PathBuf> {
        let elf = self.built(kind, arch, program);
        match arch {
            Arch::Aarch64 => self.flatten(&elf),
            Arch::Loongarch64 => Ok(elf),
        }
    }

    /// Makes the flat image beside an ELF file.
    fn flatten(&self, elf: &Path) -> Result<PathBuf> {
        let file = std::fs::read(elf).with_context(|| elf.display().to_string())?;
        let image = flat::boot_image(&file).with_context(|| format!("{} makes no image", self.shown(elf)))?;
        let path = elf.with_extension("img");
        replace(&path, &image)?;
        Ok(path)
    }

    /// Puts a file among what was built and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.target(name);
        let folder = path.parent().unwrap_or(&self.target);
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        replace(&path, content)?;
        Ok(path)
    }
}

/// Gives a file this content. A QEMU may be reading it: it is left alone where nothing changed, and otherwise replaced
/// in one step.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!("{name}.{}.tmp", std::process::id()));
    std::fs::write(&fresh, content).with_context(|| fresh.display().to_string())?;
    std::fs::rename(&fresh, path).with_context(|| path.display().to_string())
}
