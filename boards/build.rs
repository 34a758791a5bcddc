//! Link arguments of the image: our own sections, no libraries; on AArch64 position independent.

fn main() {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = root.join("linker").join(format!("{target}.ld"));
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    let position: &[&str] = match target.as_str() {
        "aarch64" => &["-pie", "--no-dynamic-linker", "-znotext", "-Bsymbolic"],
        _ => &["--no-pie"],
    };
    for argument in position.iter().chain(&["--gc-sections", "-zmax-page-size=4096"]) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
