//! QEMU with LoongArch's virtualisation extension (LVZ) and its binary translation state (LBT), which no distribution
//! has: built once from Debian's source of QEMU and our patch in `scripts/qemu-lvz`, and kept in the cache.
//!
//! Point releases vanish from the archive, so the version is whatever it offers of the series that the patch is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::apt::{Apt, Archive, Host, World};
use super::cache::{Cache, Lock, Scratch, file_names};
use super::deb::{Source, Version};
use super::progress::Step;
use super::{State, process};
use crate::arch::Arch;

/// What makes it of QEMU.
const PATCH: &str = include_str!("../../qemu-lvz/lvz-lbt.patch");
/// The series of QEMU that the patch is for.
const SERIES: &str = "10.0";
/// Where a source of that series may be; the first suite that has one is taken.
const SUITES: [&str; 4] = ["trixie", "trixie-updates", "trixie-security", "bookworm-backports"];
/// What it takes to build, in Debian's packages. What these depend on comes with them: make, patch, binutils.
const TOOLS: [&str; 12] = [
    "bison",
    "dpkg-dev",
    "flex",
    "gcc",
    "libc6-dev",
    "libfdt-dev",
    "libglib2.0-dev",
    "libpixman-1-dev",
    "ninja-build",
    "pkg-config",
    "python3-venv",
    "zlib1g-dev",
];
/// QEMU 10.0 wants meson 1.5 or newer, which Debian 12 does not have. From PyPI, with the hash of its file.
const MESON: &str =
    "meson==1.7.2 --hash=sha256:82c6818dc81743c96de3a458f06175776ebfde4081195ea31ea6971838f25e38\n";
/// What QEMU's `configure` is told: this one emulator, and nothing that a machine without a screen does not use.
/// Debian's source has no firmware to install.
const FLAGS: [&str; 12] = [
    "--target-list=loongarch64-softmmu",
    "--without-default-features",
    "--enable-system",
    "--enable-tcg",
    "--enable-fdt=system",
    "--enable-pixman",
    "--disable-docs",
    "--disable-tools",
    "--disable-werror",
    "--disable-debug-info",
    "--disable-download",
    "--disable-install-blobs",
];

/// The kind of its cache entries.
const KIND: &str = "qemu-lvz";
/// The program.
const PROGRAM: &str = Arch::Loongarch64.emulator();

/// Looks for it in the cache.
pub(crate) fn find(cache: &Cache) -> State<PathBuf> {
    let Some((version, program)) = newest(cache) else {
        return State::Missing {
            why: format!("no QEMU with LVZ in the cache, of the patch as it is now ({})", &recipe()[..8]),
            then: "build it from Debian's source of QEMU and the patch in scripts/qemu-lvz".into(),
        };
    };
    match works(&program) {
        Ok(()) => State::Present {
            label: format!("QEMU {} with LVZ and LBT, {}", version.upstream(), program.display()),
            item: program,
        },
        Err(why) => State::Missing {
            why: format!("{} does not run: {why:#}", program.display()),
            then: "install the libraries it needs, and build it anew".into(),
        },
    }
}

/// Builds it.
pub(crate) fn install(cache: &Cache, lock: &Lock) -> Result<()> {
    build(cache, lock).context(
        "QEMU with LoongArch's virtualisation extension is missing and could not be built. Run this on a Debian with \
         network access and take its cache folder (FERMATA_CACHE) along; --qemu stock does without, but starts no guest",
    )
}

/// The newest whole entry that was made the way it is made now.
fn newest(cache: &Cache) -> Option<(Version, PathBuf)> {
    let folder = cache.folder(KIND);
    let names = file_names(&folder).ok()?;
    let ours = |name: &String| {
        let (version, made) = name.rsplit_once('_')?;
        (made == recipe()).then(|| (Version::new(version), folder.join(name)))
    };
    let mut entries: Vec<_> = names.iter().filter_map(ours).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let whole = entries.into_iter().rev().find(|(_, entry)| Cache::verified(entry))?;
    Some((whole.0, whole.1.join(PROGRAM)))
}

/// Names how it is made: patch, flags and tools.
fn recipe() -> String {
    let mut hash = Sha256::new();
    [PATCH, MESON].iter().chain(&FLAGS).for_each(|part| {
        hash.update(part);
        hash.update([0]);
    });
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Runs it with the CPU that it is built for: it starts, and knows the extensions.
fn works(program: &Path) -> Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir())?;
    let machine = format!("virt,dumpdtb={}", scratch.path().join("dtb").display());
    let words = ["-M", &machine, "-cpu", "la464,lvz=on,lbt=on", "-nodefaults", "-display", "none"];
    process::output(Command::new(program).args(words)).map(|_| ())
}

fn build(cache: &Cache, lock: &Lock) -> Result<()> {
    let archive = Archive::of_this_machine(cache, lock)?;
    let scratch = cache.scratch(lock)?;
    tools(cache, &archive)?;
    // One that was built elsewhere may have lacked no more than a library that came with the tools.
    if newest(cache).is_some_and(|(_, program)| works(&program).is_ok()) {
        return Ok(());
    }
    let (source, version) = source(cache, &archive, &scratch)?;
    patch(&source, &version)?;
    let python = python(&scratch)?;
    let program = compile(&source, &scratch, &python, &version)?;
    let files = scratch.folder("files")?;
    let built = files.join(PROGRAM);
    process::output(Command::new("strip").arg("-o").args([&built, &program]))?;
    works(&built).context("it was built, but does not work")?;
    cache.publish(lock, &files, KIND, &format!("{}_{}", version.without_epoch(), recipe()))?;
    Ok(())
}

/// Installs what it takes to build, where it is missing.
fn tools(cache: &Cache, archive: &Archive) -> Result<()> {
    let is_there = |name: &&str| {
        let mut query = Command::new("dpkg-query");
        let status = process::output(query.args(["-W", "-f=${db:Status-Status} ", name])).unwrap_or_default();
        status.split(' ').any(|status| status == "installed")
    };
    let missing: Vec<String> =
        TOOLS.iter().filter(|name| !is_there(name)).map(|name| (*name).into()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let suites = [&*archive.codename, &format!("{}-updates", archive.codename)];
    let apt = Apt::open(cache, archive, &World { name: "tools", suites: &suites, host: Host::ThisMachine })?;
    apt.install_all(&missing, None, &missing.join(", "))
}

/// Fetches and unpacks the source, from the first suite that has it.
fn source(cache: &Cache, archive: &Archive, scratch: &Scratch) -> Result<(PathBuf, Version)> {
    let mut tried = Vec::new();
    for suite in SUITES {
        let world = World { name: &format!("source-{suite}"), suites: &[suite], host: Host::Source };
        let found = Apt::open(cache, archive, &world).and_then(|apt| {
            let source = apt.source("qemu", SERIES)?;
            let source = source.with_context(|| format!("it has no QEMU {SERIES}"))?;
            let folder = scratch.folder(&format!("source-{suite}"))?;
            apt.fetch_source(&source, &folder)?;
            Ok((source, folder))
        });
        match found {
            Ok((source, folder)) => return Ok((unpack(&source, &folder)?, source.version)),
            Err(why) => tried.push(format!("{suite}: {}", why.root_cause())),
        }
    }
    bail!("Debian's archive has no source of QEMU {SERIES} to give: {}", tried.join("; "))
}

/// Unpacks a source package, with Debian's own patches.
fn unpack(source: &Source, folder: &Path) -> Result<PathBuf> {
    let step = Step::new("Unpacking", &format!("the source of {source}"));
    // The hashes of its files were checked against the archive's signed index.
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "-x", source.description(), "qemu"]).current_dir(folder);
    process::output(&mut unpack)?;
    drop(step);
    Ok(folder.join("qemu"))
}

/// Applies our patch.
fn patch(source: &Path, version: &Version) -> Result<()> {
    let step = Step::new("Patching", &format!("QEMU {version} with scripts/qemu-lvz/lvz-lbt.patch"));
    let file = source.join("../lvz-lbt.patch");
    fs::write(&file, PATCH)?;
    // With no fuzz: a change that was made around the place may change what ours means. And forward alone: a mend that this
    // version has of its own would be taken out again, and nothing said.
    let mut patch = Command::new("patch");
    patch.args(["-p1", "--batch", "--forward", "--fuzz=0", "--reject-file=-", "--no-backup-if-mismatch"]);
    patch.arg("-i").arg(&file);
    let output = patch.env("LC_ALL", "C").current_dir(source).output().context("patch cannot be started")?;
    drop(step);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "scripts/qemu-lvz/lvz-lbt.patch does not apply to QEMU {version}: {}. It has to be brought up to this version",
        failures(&said)
    );
    Ok(())
}

/// Finds in the words of `patch` what did not fit: file, hunk and line.
fn failures(said: &str) -> String {
    let (mut file, mut failed) = ("", Vec::new());
    for line in said.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("patching file ") {
            file = name;
        } else if line.starts_with("Hunk #") && line.contains("FAILED") {
            failed.push(format!("{file}: {}", line.trim_end_matches('.')));
        } else if line.contains("previously applied") {
            failed.push(format!("{file}: Hunk #1 is there already"));
        } else if line.contains("can't find file to patch") {
            failed.push("a file it changes is not there".into());
        } else if line.contains("malformed patch") {
            failed.push(line.into());
        }
    }
    if failed.is_empty() { said.trim().replace('\n', "; ") } else { failed.join("; ") }
}

/// Makes a Python environment with meson in it, and returns its folder.
fn python(scratch: &Scratch) -> Result<PathBuf> {
    let step = Step::new("Fetching", "meson from PyPI");
    let folder = scratch.path().join("python");
    // Debian's, which the package python3-venv is for; another may come first on the PATH.
    process::output(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&folder))?;
    let list = scratch.path().join("requirements.txt");
    fs::write(&list, MESON)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "-r"]);
    process::output(pip.arg(&list)).context("meson could not be fetched: is PyPI reachable?")?;
    drop(step);
    Ok(folder)
}

/// Compiles it and returns the program.
fn compile(source: &Path, scratch: &Scratch, python: &Path, version: &Version) -> Result<PathBuf> {
    let folder = scratch.folder("build")?;
    let path = std::env::join_paths(
        std::iter::once(python.join("bin"))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let step = Step::new("Configuring", &format!("QEMU {version}"));
    let mut configure = Command::new(source.join("configure"));
    configure.arg(format!("--python={}", python.join("bin/python3").display())).args(FLAGS);
    process::output(configure.current_dir(&folder).env("PATH", &path))?;
    drop(step);
    let step = Step::new("Building", &format!("QEMU {version} with LVZ and LBT, once; this takes minutes"));
    let mut ninja = Command::new("ninja");
    ninja.arg(PROGRAM).current_dir(&folder).env("PATH", &path).env_remove("NINJA_STATUS");
    process::stream(&mut ninja, |line| {
        if let Some(percent) = progress(line) {
            step.percent(percent);
        }
    })?;
    Ok(folder.join(PROGRAM))
}

/// Reads how far ninja is: `[7/1432] Compiling ...`.
fn progress(line: &str) -> Option<f64> {
    let (done, all) = line.strip_prefix('[')?.split_once(']')?.0.split_once('/')?;
    let (done, all) = (done.parse::<u32>().ok()?, all.parse::<u32>().ok()?);
    (all > 0).then(|| 100.0 * f64::from(done) / f64::from(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninja_tells_how_far_it_is() {
        assert_eq!(progress("[1/4] Compiling C object a.o"), Some(25.0));
        assert_eq!(progress("[1432/1432] Linking target qemu"), Some(100.0));
        for line in ["", "ninja: no work to do.", "[1/0] x", "[a/b] x", "[1] x"] {
            assert_eq!(progress(line), None, "{line}");
        }
    }

    #[test]
    fn a_patch_that_fits_changes_the_source_and_one_that_does_not_names_file_and_hunk() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let source = scratch.folder("qemu").unwrap();
        let version = Version::new("1:10.0.99+ds-1");
        // Every file that it changes is there, and none is as it was.
        let files = PATCH.lines().filter_map(|line| line.strip_prefix("--- a/"));
        for file in files.map(|line| line.split('\t').next().unwrap_or_default()) {
            let path = source.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !file.ends_with("lvz_helper.c") {
                fs::write(path, "something else\n").unwrap();
            }
        }
        let why = patch(&source, &version).unwrap_err().to_string();
        assert!(why.contains("QEMU 1:10.0.99+ds-1: target/loongarch/cpu-csr.h: Hunk #1 FAILED at "), "{why}");
        // One is as if QEMU had the change of its own: it is not taken out again.
        let mended = source.join("target/loongarch/tcg/constant_timer.c");
        let (_, hunk) = PATCH.split_once("+++ b/target/loongarch/tcg/constant_timer.c").unwrap();
        let lines = hunk.lines().skip(2).take_while(|line| !line.starts_with("--- a/"));
        let after: String =
            lines.filter(|line| line.starts_with([' ', '+'])).flat_map(|line| [&line[1..], "\n"]).collect();
        fs::write(&mended, &after).unwrap();
        let why = patch(&source, &version).unwrap_err().to_string();
        assert!(why.contains("target/loongarch/tcg/constant_timer.c: Hunk #1 is there already"), "{why}");
        assert_eq!(fs::read_to_string(&mended).unwrap(), after);
        fs::remove_dir_all(source.join("target")).unwrap();
        let why = patch(&source, &version).unwrap_err().to_string();
        assert!(why.contains("a file it changes is not there"), "{why}");
    }

    #[test]
    fn what_patch_says_is_boiled_down() {
        let said = "patching file a.c\nHunk #1 succeeded at 5 (offset 2 lines).\nHunk #3 FAILED at 217.\n\
                    1 out of 3 hunks FAILED\npatching file b.c\nHunk #1 FAILED at 9.\n";
        assert_eq!(failures(said), "a.c: Hunk #3 FAILED at 217; b.c: Hunk #1 FAILED at 9");
        assert_eq!(failures("no such\nthing\n"), "no such; thing");
    }

    #[test]
    fn an_entry_counts_only_if_it_was_made_the_way_it_is_made_now() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let cache = Cache::at(scratch.path().join("cache"));
        let lock = cache.lock().unwrap();
        let publish = |name: &str| {
            let work = cache.scratch(&lock).unwrap();
            let files = work.folder("files").unwrap();
            fs::write(files.join(PROGRAM), name).unwrap();
            cache.publish(&lock, &files, KIND, name).unwrap();
        };
        publish("10.0.99+ds-1_0123456789abcdef");
        assert!(newest(&cache).is_none());
        publish(&format!("10.0.9+ds-1_{}", recipe()));
        publish(&format!("10.0.13+ds-1_{}", recipe()));
        let (version, program) = newest(&cache).unwrap();
        assert_eq!(version.to_string(), "10.0.13+ds-1");
        assert!(program.ends_with(PROGRAM));
        // It is no program, so it is not found either.
        assert!(matches!(find(&cache), State::Missing { why, .. } if why.contains("does not run")));
    }
}
