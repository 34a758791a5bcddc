//! Link arguments of the image: our own sections, position independent, no libraries.

fn main() {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("..");
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = root.join("linker").join(format!("{target}.ld"));
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    for argument in
        ["-pie", "--no-dynamic-linker", "-znotext", "-Bsymbolic", "--gc-sections", "-zmax-page-size=4096"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
