//! Guest kernels: ELF files and raw EFI images.
