//! This workspace: its folders, and what Cargo builds in it for the machine under test.

use crate::arch::Arch;
use crate::flat;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that checks FP registers inside Linux guests, by its name in `guests/src/bin` and in `/bin` there.
pub(crate) const LINUX_FP_CHECK: &str = "linux-fp-check";

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

    /// Returns where Fermata's image is, or will be.
    pub(crate) fn image(&self, arch: Arch) -> PathBuf {
        self.built(arch, "fermata").with_extension("img")
    }

    /// Returns where Cargo puts a program.
    fn built(&self, arch: Arch, program: &str) -> PathBuf {
        self.target.join(arch.rust_target()).join("release").join(program)
    }

    /// Builds Fermata and makes its image.
    ///
    /// # Errors
    /// It does not build, or what was built is no image.
    pub(crate) fn build_image(&self, arch: Arch) -> Result<PathBuf> {
        self.build(&["-p", "fermata", "--bin", "fermata"], arch, "Fermata")?;
        self.flatten(&self.built(arch, "fermata"))
    }

    /// Builds every test guest.
    ///
    /// # Errors
    /// They do not build.
    pub(crate) fn build_guests(&self, arch: Arch) -> Result<()> {
        self.build(&["-p", "guests", "--bins"], arch, "the test guests")
    }

    /// Builds the FP check for Linux guests alone and returns it.
    ///
    /// # Errors
    /// It does not build.
    pub(crate) fn build_fp_check(&self, arch: Arch) -> Result<Vec<u8>> {
        self.build(&["-p", "guests", "--bin", LINUX_FP_CHECK], arch, LINUX_FP_CHECK)?;
        self.fp_check(arch)
    }

    /// Returns the FP check for Linux guests, which was built with the others.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn fp_check(&self, arch: Arch) -> Result<Vec<u8>> {
        let path = self.built(arch, LINUX_FP_CHECK);
        std::fs::read(&path).with_context(|| path.display().to_string())
    }

    /// Makes the images of all test guests that were built, by name.
    ///
    /// # Errors
    /// What was built is no image.
    pub(crate) fn guest_images(&self, arch: Arch) -> Result<BTreeMap<String, PathBuf>> {
        let guests = self.guests()?.into_iter().filter(|name| name != LINUX_FP_CHECK);
        guests.map(|name| Ok((name.clone(), self.flatten(&self.built(arch, &name))?))).collect()
    }

    /// Lists the programs among the guests.
    fn guests(&self) -> Result<Vec<String>> {
        let folder = self.source("guests/src/bin");
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let name = |path: PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        entries.map(|entry| Ok(name(entry?.path()))).collect()
    }

    /// Builds for the machine under test.
    fn build(&self, what: &[&str], arch: Arch, name: &str) -> Result<()> {
        let fixed = ["build", "--quiet", "--release", "--target", arch.rust_target()];
        let status = self.cargo(&[&fixed, what].concat()).status().context("cannot start cargo")?;
        match status.success() {
            true => Ok(()),
            false => bail!("{name} does not build; the compiler's words are above"),
        }
    }

    /// Makes the flat image beside an ELF file.
    fn flatten(&self, elf: &Path) -> Result<PathBuf> {
        let file = std::fs::read(elf).with_context(|| elf.display().to_string())?;
        let image = flat::boot_image(&file).with_context(|| format!("{} makes no image", self.shown(elf)))?;
        let path = elf.with_extension("img");
        // A QEMU may be reading it: it is left alone where nothing changed, and otherwise replaced in one step.
        if std::fs::read(&path).ok().as_ref() != Some(&image) {
            let fresh = elf.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&fresh, image).with_context(|| fresh.display().to_string())?;
            std::fs::rename(&fresh, &path).with_context(|| path.display().to_string())?;
        }
        Ok(path)
    }
}
