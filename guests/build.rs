//! Link arguments: every guest in `src/bin` is a position-independent arm64 Image, except the program for Linux.

use std::path::Path;

/// Programs that run under Linux: a plain static ELF, started at `_start` by the kernel.
const FOR_LINUX: &[&str] = &["linux-fp-check"];

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::rerun-if-changed=src/bin");
    println!("cargo::rerun-if-changed=aarch64.ld");
    if !std::env::var("TARGET").is_ok_and(|target| target.starts_with("aarch64-unknown-none")) {
        return;
    }
    for entry in std::fs::read_dir(Path::new(&here).join("src/bin")).expect("src/bin is readable") {
        let path = entry.expect("src/bin is readable").path();
        let bin = path.file_stem().expect("a source file has a name").to_string_lossy().into_owned();
        let args = if FOR_LINUX.contains(&bin.as_str()) {
            vec!["--entry=_start".into(), "-znoexecstack".into()]
        } else {
            let script = format!("-T{here}/aarch64.ld");
            vec!["-pie".into(), "--no-dynamic-linker".into(), "-znotext".into(), "-znorelro".into(), script]
        };
        for arg in args {
            println!("cargo::rustc-link-arg-bin={bin}={arg}");
        }
    }
}
