//! Linux guests' parts from Debian packages: a kernel and a static busybox, fetched once, unpacked into the cache.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Apt, Archive, Host, World};
use super::cache::{Cache, Lock, file_names};
use super::deb::{Package, Version};
use super::progress::Step;
use super::{Debian, State};
use crate::arch::Arch;
use crate::zboot;

/// The userland's package.
const BUSYBOX: &str = "busybox-static";

/// Where the packages of an architecture are, and what is in them.
struct Recipe {
    /// Debian's name of the architecture.
    arch: &'static str,
    /// How the names of kernel packages begin and end; between is the kernel's release.
    kernel: (&'static str, &'static str),
    /// What they begin with before the release.
    stem: &'static str,
    /// The kernel series that is tested.
    series: &'static str,
    /// Where the kernel is in its package, with `RELEASE` for its release.
    file: &'static str,
    /// What the name of the package with its modules begins with before the release (it may be the kernel's own), and
    /// those that guests are given, in the order they are loaded in: RAID's, which measure the kernel's vector code.
    modules: (&'static str, &'static [&'static str]),
    /// What the kernel is, and how that is seen: bytes and where they are in it.
    image: (&'static str, usize, [u8; 4]),
    /// The machine of its programs (ELF, `e_machine`).
    machine: u16,
    /// Groups of suites; the first that has both packages is taken.
    suites: &'static [&'static [&'static str]],
}

/// The cloud kernel boots fastest, and is a raw `Image` with PL011 and virtio-pci built in. Backports come first
/// because every Debian 12 has the keys that sign them.
const AARCH64: Recipe = Recipe {
    arch: "arm64",
    kernel: ("linux-image-6.12", "-cloud-arm64"),
    stem: "linux-image-",
    series: "6.12",
    file: "boot/vmlinuz-RELEASE",
    modules: ("linux-image-", &["xor-neon.ko.xz", "xor.ko.xz", "raid6_pq.ko.xz"]),
    // Linux, Documentation/arch/arm64/booting.rst.
    image: ("a raw arm64 Image", 56, *b"ARM\x64"),
    machine: 183,
    suites: &[&["bookworm", "bookworm-backports"], &["trixie"]],
};

/// The one kernel there is, packed as EFI zboot. No suite is released for this architecture yet, so the newest of the
/// major version is taken: point releases and series go from there.
const LOONGARCH64: Recipe = Recipe {
    arch: "loong64",
    kernel: ("linux-binary-7.", "-loong64"),
    stem: "linux-binary-",
    series: "7",
    file: "usr/lib/modules/RELEASE/vmlinuz",
    modules: ("linux-modules-", &["xor.ko.xz", "raid6_pq.ko.xz"]),
    // Linux, Documentation/arch/loongarch/booting.rst: 0x818223cd.
    image: ("a raw LoongArch Image", 56, [0xcd, 0x23, 0x82, 0x81]),
    machine: 258,
    suites: &[&["forky"], &["sid"]],
};

const fn recipe(arch: Arch) -> &'static Recipe {
    match arch {
        Arch::Aarch64 => &AARCH64,
        Arch::Loongarch64 => &LOONGARCH64,
    }
}

/// Looks for both parts in the cache.
pub(crate) fn find(cache: &Cache, arch: Arch) -> State<Debian> {
    let missing = |why: String| State::Missing {
        why,
        then: format!("fetch Debian's kernel and {BUSYBOX} for {arch} into {}", cache.root().display()),
    };
    let recipe = recipe(arch);
    let kernel = newest_kernel(cache, recipe);
    let busybox = newest(cache, recipe, BUSYBOX, &[]);
    match (kernel, busybox) {
        (Some((kernel, origin)), Some((busybox, shell))) => {
            let item = Debian {
                kernel: kernel.join("Image"),
                modules: recipe.modules.1.iter().map(|name| kernel.join(name)).collect(),
                busybox: busybox.join("busybox"),
                origin: format!("{origin} and {shell}"),
            };
            State::Present {
                label: format!("guests' {}, {}", item.origin, cache.folder(&kind(recipe)).display()),
                item,
            }
        }
        (None, _) => missing(format!("no Linux kernel with its modules for {arch} guests in the cache")),
        (_, None) => missing(format!("no busybox for {arch} guests in the cache")),
    }
}

/// Fetches whichever part is missing.
pub(crate) fn install(cache: &Cache, lock: &Lock, arch: Arch) -> Result<()> {
    let remedy = "the Linux guests' kernel and userland are missing and could not be fetched from Debian's archive. \
                  Run this on a Debian with network access and take its cache folder (FERMATA_CACHE) along, or name \
                  files of your own with --vm kernel=PATH,initrd=PATH";
    fetch(cache, lock, recipe(arch)).context(remedy)
}

fn fetch(cache: &Cache, lock: &Lock, recipe: &Recipe) -> Result<()> {
    let archive = Archive::of_this_machine(cache, lock)?;
    let (apt, kernel, busybox) = resolve(cache, &archive, recipe)?;
    if newest_kernel(cache, recipe).is_none() {
        let release = kernel.name.strip_prefix(recipe.stem).context("not a kernel's name")?;
        let (stem, modules) = recipe.modules;
        let mut image = vec![(recipe.file.replace("RELEASE", release), "Image")];
        let modules: Vec<_> = modules.iter().map(|name| (format!("/{name}"), *name)).collect();
        let name = format!("{stem}{release}");
        let sources = if name == kernel.name {
            image.extend(modules);
            vec![(kernel.clone(), image)]
        } else {
            let found =
                apt.packages(&name, &name)?.into_iter().find(|package| package.version == kernel.version);
            let found = found
                .with_context(|| format!("{kernel} has no modules: there is no {name} of its version"))?;
            vec![(kernel.clone(), image), (found, modules)]
        };
        let check = |files: &Path| {
            unpack(&files.join("Image"))?;
            check_image(recipe, &files.join("Image"))
        };
        install_entry(cache, lock, &apt, recipe, &sources, check)?;
    }
    if newest(cache, recipe, BUSYBOX, &[]).is_none() {
        let sources = [(busybox, vec![("bin/busybox".to_owned(), "busybox")])];
        install_entry(cache, lock, &apt, recipe, &sources, |files| {
            check_program(recipe, &files.join("busybox"))
        })?;
    }
    Ok(())
}

/// The kind of an architecture's cache entries.
fn kind(recipe: &Recipe) -> String {
    format!("guests-{}", recipe.arch)
}

/// The newest kernel that has its modules.
fn newest_kernel(cache: &Cache, recipe: &Recipe) -> Option<(PathBuf, String)> {
    newest(cache, recipe, recipe.kernel.0, recipe.modules.1)
}

/// The newest whole entry whose package name begins with `prefix`, and that has `files`: its folder, and name and version
/// for people.
fn newest(cache: &Cache, recipe: &Recipe, prefix: &str, files: &[&str]) -> Option<(PathBuf, String)> {
    let folder = cache.folder(&kind(recipe));
    let names = file_names(&folder).ok()?;
    let mut entries: Vec<_> = names.iter().filter_map(|name| name.split_once('_')).collect();
    entries.retain(|(package, _)| package.starts_with(prefix));
    entries.sort_by_key(|(_, version)| Version::new(version));
    let whole = |(package, version): &(&str, &str)| {
        let entry = folder.join(format!("{package}_{version}"));
        let has_all = files.iter().all(|file| entry.join(file).is_file());
        (has_all && Cache::verified(&entry)).then(|| (entry, format!("{package} {version}")))
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

/// Files to take out of a package: how the path of each ends there, and its name in the cache entry.
type Source = (Package, Vec<(String, &'static str)>);

/// Makes a cache entry of files from packages, named after the first, if `check` accepts them.
fn install_entry(
    cache: &Cache,
    lock: &Lock,
    apt: &Apt,
    recipe: &Recipe,
    sources: &[Source],
    check: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let scratch = cache.scratch(lock)?;
    let files = scratch.folder("files")?;
    for (package, parts) in sources {
        let fetched = apt.fetch(package, scratch.path())?;
        let _step = Step::new("Unpacking", &package.to_string());
        extract(&fetched, &scratch.folder("unpacked")?, parts, &files)?;
    }
    let (first, _) = sources.first().context("an entry of nothing")?;
    check(&files).with_context(|| format!("{first} is not as it used to be"))?;
    cache.publish(lock, &files, &kind(recipe), &first.entry_name())?;
    Ok(())
}

/// Takes files out of a package, without unpacking the rest. In which folder they are is left open as far as it can be:
/// that changes between releases.
fn extract(package: &Path, folder: &Path, parts: &[(String, &str)], to: &Path) -> Result<()> {
    let mut dpkg =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let archive = dpkg.stdout.take().expect("was piped above");
    let tar = Command::new("tar")
        .args(["-x", "--wildcards", "--no-same-owner", "--transform=s|.*/||", "-C"])
        .arg(folder)
        .args(parts.iter().map(|(end, _)| format!("*{end}")))
        .stdin(archive)
        .status()?;
    let names = || parts.iter().map(|part| part.1).collect::<Vec<_>>().join(", ");
    ensure!(dpkg.wait()?.success() && tar.success(), "{} lacks some of {}", package.display(), names());
    for (end, name) in parts {
        let found = folder.join(end.rsplit('/').next().unwrap_or_default());
        let is_file = found.symlink_metadata().is_ok_and(|data| data.is_file());
        ensure!(is_file, "{end} in {} is no file", package.display());
        fs::rename(found, to.join(name))?;
    }
    Ok(())
}

/// Unpacks a kernel that is packed as EFI zboot; leaves any other file as it is.
fn unpack(path: &Path) -> Result<()> {
    let file = fs::read(path)?;
    if zboot::is_zboot(&file) {
        fs::write(path, zboot::unpack(&file)?)?;
    }
    Ok(())
}

/// Reads the beginning of a file.
fn head<const N: usize>(path: &Path) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Accepts the architecture's raw kernel image, by its magic number.
fn check_image(recipe: &Recipe, path: &Path) -> Result<()> {
    let (what, at, magic) = recipe.image;
    ensure!(head::<64>(path)?[at..at + 4] == magic, "its kernel is not {what}");
    Ok(())
}

/// Accepts a program for the architecture.
fn check_program(recipe: &Recipe, path: &Path) -> Result<()> {
    let header = head::<20>(path)?;
    ensure!(
        header.starts_with(b"\x7fELF") && header[18..] == recipe.machine.to_le_bytes(),
        "its busybox is no program for {}",
        recipe.arch
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::cache::Scratch;
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
    fn a_kernel_counts_only_with_its_modules() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let cache = Cache::at(scratch.path().join("cache"));
        let lock = cache.lock().unwrap();
        let publish = |files: &[&str]| {
            let folder = cache.scratch(&lock).unwrap();
            files.iter().for_each(|file| fs::write(folder.path().join(file), "x").unwrap());
            let name = "linux-binary-7.1-loong64_7.1-1";
            cache.publish(&lock, folder.path(), &kind(&LOONGARCH64), name).unwrap();
        };
        publish(&["Image", "xor.ko.xz"]);
        assert!(newest(&cache, &LOONGARCH64, "linux-binary-7.", &[]).is_some());
        assert!(newest_kernel(&cache, &LOONGARCH64).is_none());
        publish(&["Image", "xor.ko.xz", "raid6_pq.ko.xz"]);
        assert!(newest_kernel(&cache, &LOONGARCH64).is_some());
    }

    #[test]
    fn only_what_it_says_it_is_is_accepted() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.path().join("file");
        let both = [(Arch::Aarch64, 183_u16, b"ARM\x64"), (Arch::Loongarch64, 258, b"\xcd\x23\x82\x81")];
        for (arch, machine, magic) in both {
            let refused =
                || check_image(recipe(arch), &file).is_err() && check_program(recipe(arch), &file).is_err();
            let mut image = [0_u8; 64];
            fs::write(&file, image).unwrap();
            assert!(refused());
            image[56..60].copy_from_slice(magic);
            fs::write(&file, image).unwrap();
            check_image(recipe(arch), &file).unwrap();
            image[..4].copy_from_slice(b"\x7fELF");
            image[18..20].copy_from_slice(&machine.to_le_bytes());
            fs::write(&file, image).unwrap();
            check_program(recipe(arch), &file).unwrap();
            fs::write(&file, "short").unwrap();
            assert!(refused());
        }
    }

    #[test]
    fn a_packed_kernel_is_unpacked_and_another_file_left_alone() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.path().join("vmlinuz");
        fs::write(&file, zboot::tests::zboot(b"kernel")).unwrap();
        unpack(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"kernel");
        unpack(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"kernel");
    }
}
