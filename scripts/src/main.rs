//! The host tool, `cargo xtask`.
fn main() {}
