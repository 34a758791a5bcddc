//! Linux guests' parts from Debian packages: a kernel and a static busybox, fetched once, unpacked into the cache.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Apt, Archive, Host, World};
use super::cache::{Cache, Lock, Scratch, file_names};
use super::deb::{Package, Version};
use super::progress::Step;
use super::{Debian, State};
use crate::arch::Arch;

/// The userland's package.
const BUSYBOX: &str = "busybox-static";

/// Where the packages of an architecture are.
struct Recipe {
    /// Debian's name of the architecture.
    arch: &'static str,
    /// How the names of kernel packages begin and end.
    kernel: (&'static str, &'static str),
    /// The kernel series that is tested.
    series: &'static str,
    /// Groups of suites; the first that has both packages is taken.
    suites: &'static [&'static [&'static str]],
}

/// The cloud kernel boots fastest, and is a raw `Image` with PL011 and virtio-pci built in. Backports come first
/// because every Debian 12 has the keys that sign them.
const AARCH64: Recipe = Recipe {
    arch: "arm64",
    kernel: ("linux-image-6.12", "-cloud-arm64"),
    series: "6.12",
    suites: &[&["bookworm", "bookworm-backports"], &["trixie"]],
};

fn recipe(arch: Arch) -> Result<&'static Recipe> {
    match arch {
        Arch::Aarch64 => Ok(&AARCH64),
        Arch::Loongarch64 => bail!("there are no Linux guests for {arch} yet"),
    }
}

/// Looks for both parts in the cache.
pub(crate) fn find(cache: &Cache, arch: Arch) -> State<Debian> {
    let missing = |why: String| State::Missing {
        why,
        then: format!("fetch Debian's cloud kernel and {BUSYBOX} into {}", cache.root().display()),
    };
    let recipe = match recipe(arch) {
        Ok(recipe) => recipe,
        Err(error) => return missing(error.to_string()),
    };
    let kernel = newest(cache, recipe, recipe.kernel.0);
    let busybox = newest(cache, recipe, BUSYBOX);
    match (kernel, busybox) {
        (Some((kernel, origin)), Some((busybox, shell))) => {
            let item = Debian {
                kernel: kernel.join("Image"),
                busybox: busybox.join("busybox"),
                origin: format!("{origin} and {shell}"),
            };
            State::Present {
                label: format!("guests' {}, {}", item.origin, cache.folder(&kind(recipe)).display()),
                item,
            }
        }
        (None, _) => missing(format!("no Linux kernel for {arch} guests in the cache")),
        (_, None) => missing(format!("no busybox for {arch} guests in the cache")),
    }
}

/// Fetches whichever part is missing.
pub(crate) fn install(cache: &Cache, lock: &Lock, arch: Arch) -> Result<()> {
    let remedy = "the Linux guests' kernel and userland are missing and could not be fetched from Debian's archive. \
                  Run this on a Debian with network access and take its cache folder (FERMATA_CACHE) along, or name \
                  files of your own with --vm kernel=PATH,initrd=PATH";
    fetch(cache, lock, recipe(arch)?).context(remedy)
}

fn fetch(cache: &Cache, lock: &Lock, recipe: &Recipe) -> Result<()> {
    let archive = Archive::of_this_machine(cache, lock)?;
    let (apt, kernel, busybox) = resolve(cache, &archive, recipe)?;
    if newest(cache, recipe, recipe.kernel.0).is_none() {
        let release = kernel.name.strip_prefix("linux-image-").context("not a kernel's name")?;
        let member = format!("vmlinuz-{release}");
        let part = Part { package: &kernel, member: &member, name: "Image", check: check_image };
        part.install(cache, lock, &apt, &kind(recipe))?;
    }
    if newest(cache, recipe, BUSYBOX).is_none() {
        let part = Part { package: &busybox, member: "busybox", name: "busybox", check: check_program };
        part.install(cache, lock, &apt, &kind(recipe))?;
    }
    Ok(())
}

/// The kind of an architecture's cache entries.
fn kind(recipe: &Recipe) -> String {
    format!("guests-{}", recipe.arch)
}

/// The newest whole entry whose package name begins with `prefix`: its folder, and name and version for people.
fn newest(cache: &Cache, recipe: &Recipe, prefix: &str) -> Option<(PathBuf, String)> {
    let folder = cache.folder(&kind(recipe));
    let names = file_names(&folder).ok()?;
    let mut entries: Vec<_> = names.iter().filter_map(|name| name.split_once('_')).collect();
    entries.retain(|(package, _)| package.starts_with(prefix));
    entries.sort_by_key(|(_, version)| Version::new(version));
    let whole = |(package, version): &(&str, &str)| {
        let entry = folder.join(format!("{package}_{version}"));
        Cache::verified(&entry).then(|| (entry, format!("{package} {version}")))
    };
    entries.iter().rev().find_map(whole)
}

/// Finds the newest of both packages in the first group of suites that has them.
fn resolve(cache: &Cache, archive: &Archive, recipe: &Recipe) -> Result<(Apt, Package, Package)> {
    let mut tried = Vec::new();
    for suites in recipe.suites {
        let name = format!("{}-{}", recipe.arch, suites.join("-"));
        let world = World { name: &name, suites, host: Host::Foreign(recipe.arch) };
        let found = Apt::open(cache, archive, &world).and_then(|apt| {
            let kernels = apt.packages(recipe.kernel.0, recipe.kernel.1)?;
            let busyboxes = apt.packages(BUSYBOX, BUSYBOX)?;
            Ok((apt, choose(kernels, Some(recipe.series)), choose(busyboxes, None)))
        });
        match found {
            Ok((apt, Some(kernel), Some(busybox))) => return Ok((apt, kernel, busybox)),
            Ok((_, None, _)) => tried.push(format!("{}: no kernel {}", suites.join(", "), recipe.series)),
            Ok((_, _, None)) => tried.push(format!("{}: no {BUSYBOX}", suites.join(", "))),
            Err(error) => tried.push(format!("{}: {error:#}", suites.join(", "))),
        }
    }
    bail!("the packages were not found: {}", tried.join("; "))
}

/// The newest package, of a series if one is asked for.
fn choose(packages: Vec<Package>, series: Option<&str>) -> Option<Package> {
    let fits = |package: &Package| series.is_none_or(|series| package.version.is_of_series(series));
    packages.into_iter().filter(fits).max_by(|a, b| a.version.cmp(&b.version))
}

/// A file to take out of a package.
struct Part<'a> {
    package: &'a Package,
    /// Its name in the package, in whatever folder.
    member: &'a str,
    /// Its name in the cache entry.
    name: &'a str,
    /// Refuses what is not what we expect.
    check: fn(&Path) -> Result<()>,
}

impl Part<'_> {
    fn install(&self, cache: &Cache, lock: &Lock, apt: &Apt, kind: &str) -> Result<()> {
        let scratch = cache.scratch(lock)?;
        let file = apt.fetch(self.package, scratch.path())?;
        let step = Step::new("Unpacking", &self.package.to_string());
        let files = scratch.folder("files")?;
        extract(&file, self.member, &scratch, &files.join(self.name))?;
        (self.check)(&files.join(self.name))
            .with_context(|| format!("{} is not as it used to be", self.package))?;
        cache.publish(lock, &files, kind, &self.package.entry_name())?;
        drop(step);
        Ok(())
    }
}

/// Takes the regular file called `member` out of a package, without unpacking the rest.
fn extract(deb: &Path, member: &str, scratch: &Scratch, to: &Path) -> Result<()> {
    let folder = scratch.folder("unpacked")?;
    let mut dpkg = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let archive = dpkg.stdout.take().expect("was piped above");
    // The names are in folders that moved between releases: /bin, /usr/bin, /boot.
    let tar = Command::new("tar")
        .args(["-x", "--wildcards", "--no-same-owner", "-C"])
        .arg(&folder)
        .arg(format!("*/{member}"))
        .stdin(archive)
        .status()?;
    ensure!(dpkg.wait()?.success() && tar.success(), "{} could not be unpacked", deb.display());
    let found = ["boot", "bin", "usr/bin"].map(|place| folder.join(place).join(member));
    let found = found.iter().find(|path| path.symlink_metadata().is_ok_and(|data| data.is_file()));
    fs::rename(found.with_context(|| format!("there is no {member} in it"))?, to)?;
    Ok(())
}

/// Reads the beginning of a file.
fn head<const N: usize>(path: &Path) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Accepts a raw arm64 `Image`, by its magic number (Linux, Documentation/arch/arm64/booting.rst).
fn check_image(path: &Path) -> Result<()> {
    let header = head::<64>(path)?;
    ensure!(&header[56..60] == b"ARM\x64", "its kernel is no raw arm64 Image");
    Ok(())
}

/// Accepts an ELF program for AArch64 (`EM_AARCH64`, 183).
fn check_program(path: &Path) -> Result<()> {
    let header = head::<20>(path)?;
    ensure!(header.starts_with(b"\x7fELF") && header[18..] == [183, 0], "its busybox is no AArch64 program");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: Version::new(version), size: 1, sha256: String::new() }
    }

    #[test]
    fn the_newest_of_the_series_is_chosen() {
        let kernels = ["6.12.9-1", "6.12.95-1~bpo12+1", "6.12.94-2", "6.17.1-1", "6.1.170-1", "6.120-1"];
        let kernels: Vec<_> = kernels.iter().map(|version| package("linux", version)).collect();
        assert_eq!(choose(kernels.clone(), Some("6.12")).unwrap().version.to_string(), "6.12.95-1~bpo12+1");
        assert_eq!(choose(kernels.clone(), None).unwrap().version.to_string(), "6.120-1");
        assert_eq!(choose(kernels, Some("7.2")), None);
    }

    #[test]
    fn only_what_it_says_it_is_is_accepted() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.path().join("file");
        let mut image = [0_u8; 64];
        fs::write(&file, image).unwrap();
        assert!(check_image(&file).is_err() && check_program(&file).is_err());
        image[56..60].copy_from_slice(b"ARM\x64");
        fs::write(&file, image).unwrap();
        check_image(&file).unwrap();
        image[..4].copy_from_slice(b"\x7fELF");
        image[18] = 183;
        fs::write(&file, image).unwrap();
        check_program(&file).unwrap();
        fs::write(&file, "short").unwrap();
        assert!(check_image(&file).is_err() && check_program(&file).is_err());
    }
}
