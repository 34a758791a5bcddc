//! The bare-metal Rust targets: from rustup, else built from the compiler's own library source.
//!
//! Not every rustup mirror carries every target. The second route takes the library's source (the toolchain's
//! `rust-src`, or Debian's package of the same upstream version), builds `core`, `alloc` and `compiler_builtins` once,
//! keeps them in the cache and puts them where rustup would have: from then on plain stable cargo works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt::{Apt, Archive, Host, World};
use super::cache::{Cache, Lock, Scratch, file_names};
use super::progress::{Step, say};
use super::{State, deb, process};
use crate::arch::Arch;

/// The crates of a target without an operating system.
const CRATES: [&str; 3] = ["core", "alloc", "compiler_builtins"];

/// The kind of cache entries that hold built targets.
const KIND: &str = "rust";

/// Uses the target in earnest: `alloc` and `core` are read, and compiled to the end.
const PROBE: &str = "#![no_std]
extern crate alloc;
struct None;
unsafe impl core::alloc::GlobalAlloc for None {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 { core::ptr::null_mut() }
    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}
#[global_allocator]
static HEAP: None = None;
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[unsafe(no_mangle)]
pub extern \"C\" fn probe(n: u128, d: u128) -> usize { alloc::format!(\"{}\", n / d).len() }
";

/// How far [`compiles`] goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Types only: quick, and enough to see that the crates are there and of this compiler.
    Check,
    /// Code, optimised across crates as the image is.
    Link,
}

/// Looks whether the compiler can use the target.
pub(crate) fn find(arch: Arch) -> State<()> {
    let target = arch.rust_target();
    let then = "add it with rustup, or build it from the library's source".to_owned();
    match compiles(target, None, Depth::Check) {
        Ok(()) => State::Present { item: (), label: format!("Rust target {target}") },
        Err(_) => State::Missing { why: format!("Rust target {target} is not installed"), then },
    }
}

/// Adds the target by whichever route works.
pub(crate) fn install(cache: &Cache, lock: &Lock, arch: Arch) -> Result<()> {
    let target = arch.rust_target();
    match rustup(target) {
        Ok(()) => return Ok(()),
        Err(error) => say("Note", &format!("{error:#}; building {target} here instead")),
    }
    from_source(cache, lock, target).with_context(|| {
        format!(
            "the Rust target {target} is missing. Add it with `rustup target add {target}`, if need be from another \
             mirror (RUSTUP_DIST_SERVER)"
        )
    })
}

/// The second route.
fn from_source(cache: &Cache, lock: &Lock, target: &str) -> Result<()> {
    let compiler = Compiler::this()?;
    let entry = cache.folder(KIND).join(format!("{}-{target}", compiler.name));
    let entry = if Cache::verified(&entry) { entry } else { build(cache, lock, &compiler, target)? };
    place(&entry, &compiler, target)?;
    compiles(target, None, Depth::Check)
}

/// The first route.
fn rustup(target: &str) -> Result<()> {
    let step = Step::new("Adding", &format!("Rust target {target} with rustup"));
    let result = process::stream(
        Command::new("rustup").args(["target", "add", target]).current_dir(workspace()),
        |_| {},
    );
    drop(step);
    // rustup's own report has a backtrace in it.
    ensure!(result.is_ok(), "rustup has no {target} to give");
    compiles(target, None, Depth::Check)
        .context("rustup says the target is there, but the compiler cannot use it")
}

/// The compiler that `rust-toolchain.toml` names.
struct Compiler {
    /// Its version: `1.95.0`.
    release: String,
    /// Version and commit, which name exactly what fits together.
    name: String,
    /// The folder that holds `lib/rustlib`.
    sysroot: PathBuf,
}

impl Compiler {
    fn this() -> Result<Self> {
        let text = process::output(rustc().arg("-vV"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.with_context(|| format!("`rustc -vV` does not tell its {name}"))
        };
        let (release, commit) = (field("release")?.to_owned(), field("commit-hash")?);
        let sysroot = PathBuf::from(process::output(rustc().args(["--print", "sysroot"]))?.trim());
        Ok(Self { name: format!("{release}-{}", commit.get(..9).unwrap_or(commit)), release, sysroot })
    }

    /// The folder that holds `library/`, in the toolchain itself.
    fn own_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }
}

/// Builds the crates and makes them a cache entry.
fn build(cache: &Cache, lock: &Lock, compiler: &Compiler, target: &str) -> Result<PathBuf> {
    let scratch = cache.scratch(lock)?;
    let source = source(cache, lock, compiler, scratch.path())?;
    let step = Step::new("Building", &format!("{} for {target}, once", CRATES.join(", ")));
    let package = scratch.folder("package")?;
    fs::write(
        package.join("Cargo.toml"),
        "[package]\nname = \"empty\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n",
    )?;
    fs::write(package.join("lib.rs"), "#![no_std]\n")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&package).args(["build", "--release", "--target", target]);
    cargo.arg(format!("-Zbuild-std={}", CRATES.join(","))).arg("-Zbuild-std-features=compiler-builtins-mem");
    // Unstable options of a stable cargo, only here. The pinned cargo looks for the source where this says.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", source.join("library"));
    // An image linked with fat LTO needs the crates' bitcode, which cargo leaves out otherwise.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Cembed-bitcode=yes");
    cargo.env("CARGO_TARGET_DIR", scratch.path().join("target")).env_remove("CARGO_BUILD_TARGET");
    process::stream(&mut cargo, |_| {})?;
    drop(step);

    // A sysroot of its own proves the result before anything else sees it.
    let sysroot = scratch.folder("sysroot")?;
    let lib = scratch.folder(&format!("sysroot/lib/rustlib/{target}/lib"))?;
    let built = scratch.path().join("target").join(target).join("release/deps");
    for name in file_names(&built)?.iter().filter(|name| is_library(name)) {
        fs::copy(built.join(name), lib.join(name))?;
    }
    whole(&lib)?;
    compiles(target, Some(&sysroot), Depth::Link).context("the crates were built, but do not work")?;
    cache.publish(lock, &lib, KIND, &format!("{}-{target}", compiler.name))
}

/// Whether a file is one of the crates, as cargo names its output.
fn is_library(name: &str) -> bool {
    CRATES.iter().any(|krate| {
        let rest = name.strip_prefix("lib").and_then(|name| name.strip_prefix(krate));
        rest.is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".rlib"))
    })
}

/// Checks that a folder has each crate once: of two, the compiler would take neither (E0464).
fn whole(lib: &Path) -> Result<()> {
    let names = file_names(lib)?;
    for krate in CRATES {
        let count = names.iter().filter(|name| name.starts_with(&format!("lib{krate}-"))).count();
        ensure!(count == 1, "{count} files of the crate {krate} were built instead of one");
    }
    Ok(())
}

/// Finds the library's source: the toolchain's own, else Debian's package. Returns the folder that holds `library/`.
fn source(cache: &Cache, lock: &Lock, compiler: &Compiler, scratch: &Path) -> Result<PathBuf> {
    // The file cargo wants; a toolchain may have the folder without it.
    let whole = |root: &Path| root.join("library/Cargo.lock").exists();
    if whole(&compiler.own_source()) {
        return Ok(compiler.own_source());
    }
    let archive = Archive::of_this_machine(cache, lock)?;
    let backports = format!("{}-backports", archive.codename);
    let mut suites = vec![&*backports, "trixie-backports", "forky-backports", "trixie", "forky", "sid"];
    suites.dedup();
    let mut tried = Vec::new();
    for suite in suites {
        let world = World { name: &format!("rust-{suite}"), suites: &[suite], host: Host::Foreign("amd64") };
        let found = Apt::open(cache, &archive, &world)
            .and_then(|apt| Ok((apt.packages("rust-src", "rust-src")?, apt)));
        match found {
            Err(error) => tried.push(format!("{suite}: {}", error.root_cause())),
            Ok((packages, apt)) => {
                let fits = |package: &deb::Package| package.version.upstream() == compiler.release;
                if let Some(package) =
                    packages.into_iter().filter(fits).max_by(|a, b| a.version.cmp(&b.version))
                {
                    let file = apt.fetch(&package, scratch)?;
                    return unpack(&file, &compiler.release, scratch);
                }
                tried.push(format!("{suite}: no rust-src {}", compiler.release));
            }
        }
    }
    bail!("Debian's archive has no source of Rust {}: {}", compiler.release, tried.join("; "))
}

/// Unpacks Debian's `rust-src`.
fn unpack(file: &Path, release: &str, scratch: &Path) -> Result<PathBuf> {
    let step = Step::new("Unpacking", "the library's source");
    let root = scratch.join("source");
    process::output(Command::new("dpkg-deb").arg("-x").args([file, &root]))?;
    drop(step);
    let source = root.join(format!("usr/src/rustc-{release}"));
    ensure!(
        source.join("library/core/src/lib.rs").exists(),
        "the package rust-src has no library/core where it used to"
    );
    Ok(source)
}

/// Puts the crates into the toolchain, in one step.
fn place(entry: &Path, compiler: &Compiler, target: &str) -> Result<()> {
    let rustlib = compiler.sysroot.join("lib/rustlib");
    let denied = || format!("the toolchain {} cannot be written", compiler.sysroot.display());
    let scratch = Scratch::new(&rustlib).with_context(denied)?;
    let lib = scratch.folder("target/lib")?;
    for name in file_names(entry)?.iter().filter(|name| is_library(name)) {
        fs::copy(entry.join(name), lib.join(name))?;
    }
    let place = rustlib.join(target);
    if place.exists() {
        // What is there the compiler could not use.
        fs::rename(&place, scratch.path().join("unusable")).with_context(denied)?;
    }
    fs::rename(scratch.path().join("target"), &place).with_context(denied)?;
    say("Placed", &format!("Rust target {target} in {}", place.display()));
    Ok(())
}

/// Compiles a small program for the target, with the crates of another sysroot if one is given.
fn compiles(target: &str, sysroot: Option<&Path>, depth: Depth) -> Result<()> {
    let scratch = Scratch::new(&std::env::temp_dir())?;
    let file = scratch.path().join("probe.rs");
    fs::write(&file, PROBE)?;
    let mut rustc = rustc();
    rustc.args(["--edition=2024", "--crate-type=staticlib", "--target", target, "-Cpanic=abort", "-O"]);
    if depth == Depth::Check {
        rustc.arg("--emit=metadata");
    } else {
        rustc.arg("-Clto=fat");
    }
    if let Some(sysroot) = sysroot {
        rustc.arg("--sysroot").arg(sysroot);
    }
    rustc.arg("--out-dir").arg(scratch.path()).arg(&file);
    process::output(&mut rustc).map(|_| ())
}

/// The compiler of the toolchain that this project pins.
fn rustc() -> Command {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace());
    rustc
}

/// The folder of `rust-toolchain.toml`, which rustup looks for in the current one.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tool's package is in the workspace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_crates_themselves_are_taken() {
        for taken in ["libcore-0123.rlib", "liballoc-ff.rlib", "libcompiler_builtins-1.rlib"] {
            assert!(is_library(taken), "{taken}");
        }
        for left in [
            "libcore-0123.rmeta",
            "libempty-1.rlib",
            "librustc_std_workspace_core-1.rlib",
            "core-1.d",
            "SHA256SUMS",
        ] {
            assert!(!is_library(left), "{left}");
        }
    }

    #[test]
    fn a_crate_that_is_there_twice_or_not_at_all_is_refused() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let put = |name: &str| fs::write(scratch.path().join(name), "").unwrap();
        put("libcore-1.rlib");
        put("liballoc-1.rlib");
        assert!(
            whole(scratch.path()).unwrap_err().to_string().contains("0 files of the crate compiler_builtins")
        );
        put("libcompiler_builtins-1.rlib");
        whole(scratch.path()).unwrap();
        put("libcore-2.rlib");
        assert!(whole(scratch.path()).unwrap_err().to_string().contains("2 files of the crate core"));
    }

    #[test]
    fn the_probe_compiles_only_for_a_target_that_is_there() {
        assert!(compiles("no-such-target", None, Depth::Check).is_err());
    }

    #[test]
    fn this_compiler_is_named_by_version_and_commit() {
        let compiler = Compiler::this().unwrap();
        assert!(compiler.name.starts_with(&format!("{}-", compiler.release)));
        assert!(compiler.sysroot.join("lib/rustlib").is_dir());
    }
}
