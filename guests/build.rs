//! Link arguments: every guest in `src/bin` is an image for its architecture, except the program for Linux.

use std::path::Path;

/// Programs that run under Linux: a plain static ELF, started at `_start` by the kernel.
const FOR_LINUX: &[&str] = &["linux-fp-check"];

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    println!("cargo::rerun-if-changed=src/bin");
    println!("cargo::rerun-if-changed={arch}.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = format!("-T{here}/{arch}.ld");
    let bare: &[&str] = match arch.as_str() {
        // An arm64 Image runs anywhere.
        "aarch64" => &["-pie", "--no-dynamic-linker", "-znotext", "-znorelro", &script],
        _ => &["-znorelro", &script],
    };
    for entry in std::fs::read_dir(Path::new(&here).join("src/bin")).expect("src/bin is readable") {
        let path = entry.expect("src/bin is readable").path();
        let bin = path.file_stem().expect("a source file has a name").to_string_lossy().into_owned();
        let for_linux = FOR_LINUX.contains(&bin.as_str());
        for arg in if for_linux { &["--entry=_start", "-znoexecstack"] } else { bare } {
            println!("cargo::rustc-link-arg-bin={bin}={arg}");
        }
    }
}
