//! The EFI tables through which a guest finds its device tree and its RAM disk.
