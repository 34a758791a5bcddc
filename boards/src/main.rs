//! The Fermata image.
fn main() {}
