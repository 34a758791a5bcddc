//! Kernels of guests: what kind of file one is, by its content, and how much of a guest's memory it takes.

use crate::arch::Arch;
use crate::workspace::Workspace;
use crate::zboot;
use anyhow::{Context, Result};
use object::elf::{EM_LOONGARCH, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the `Image` headers of both architectures keep their magic (Linux, Documentation/arch/arm64/booting.rst and
/// Documentation/arch/loongarch/booting.rst).
const MAGIC_AT: usize = 56;
/// `ARM\x64`, little-endian.
const ARM64: u32 = 0x644d_5241;
/// What a LoongArch `Image` has there.
const LOONGARCH: u32 = 0x8182_23cd;
/// Physical address bits of LoongArch; a kernel's addresses have the window it is linked to above them.
const PHYSICAL: u64 = (1 << 48) - 1;
/// Enough of a file for any header that is read here.
const START: u64 = 4096;

/// Why a file is no kernel for an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAKernel {
    /// Shorter than the header, by its length in bytes.
    TooShort(Arch, usize),
    /// An ELF file, where none can be booted.
    Elf,
    /// An ELF file for another machine, by its number.
    Machine(u16),
    /// An ELF file that is damaged.
    Damaged,
    /// Compressed with gzip.
    Gzip,
    /// An EFI application that unpacks a compressed kernel.
    Zboot,
    /// Something else, with what was found where the magic belongs.
    Magic(Arch, u32),
}

impl fmt::Display for NotAKernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort(arch, length) => {
                write!(out, "it has {length} bytes, the header of {} alone has 64", image_name(arch))
            }
            Self::Elf => write!(out, "it is an ELF file; make a flat image of it (objcopy -O binary)"),
            Self::Machine(found) => {
                write!(
                    out,
                    "it is an ELF file for another machine ({found}); one for LoongArch has {}",
                    EM_LOONGARCH.0
                )
            }
            Self::Damaged => write!(out, "it is an ELF file without a program header that can be loaded"),
            Self::Gzip => write!(out, "it is compressed with gzip; unpack it (gzip -d)"),
            Self::Zboot => write!(out, "it is a compressed EFI kernel (zboot); take the raw `Image` in it"),
            Self::Magic(arch, found) => write!(
                out,
                "it has {found:#010x} at offset {MAGIC_AT}, {} has {:#010x}",
                image_name(arch),
                magic(arch)
            ),
        }
    }
}

impl std::error::Error for NotAKernel {}

/// What the `Image` of an architecture is called.
const fn image_name(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "a raw arm64 Image",
        Arch::Loongarch64 => "a raw LoongArch Image",
    }
}

/// What kernels can be booted, for messages.
pub(crate) const fn wanted(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => image_name(arch),
        Arch::Loongarch64 => "a raw LoongArch Image or an ELF file",
    }
}

/// The magic of an architecture's `Image`.
const fn magic(arch: Arch) -> u32 {
    match arch {
        Arch::Aarch64 => ARM64,
        Arch::Loongarch64 => LOONGARCH,
    }
}

/// Reads the header of an architecture's raw `Image` at the start of `file`, and returns how much memory it announces
/// from its load address on, `.bss` included; 0 in arm64 images older than 2013. On LoongArch the load address, which
/// is from the start of memory, is counted in.
///
/// # Errors
/// Says what the file looks like when it is no such image.
pub(crate) fn image_size(arch: Arch, file: &[u8]) -> Result<u64, NotAKernel> {
    let word = |at: usize| file.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    match (word(MAGIC_AT), arch) {
        (Some(ARM64), Arch::Aarch64) => Ok(long(16)),
        (Some(LOONGARCH), Arch::Loongarch64) if zboot::is_zboot(file) => Err(NotAKernel::Zboot),
        (Some(LOONGARCH), Arch::Loongarch64) => Ok((long(24) & PHYSICAL).saturating_add(long(16))),
        _ if file.starts_with(b"\x7fELF") => Err(NotAKernel::Elf),
        _ if file.starts_with(b"\x1f\x8b") => Err(NotAKernel::Gzip),
        _ if zboot::is_zboot(file) => Err(NotAKernel::Zboot),
        (Some(found), _) => Err(NotAKernel::Magic(arch, found)),
        (None, _) => Err(NotAKernel::TooShort(arch, file.len())),
    }
}

/// Tells how much of a guest's memory a kernel takes, at least: up to its end on LoongArch, where kernels lie at an
/// address of their own.
///
/// # Errors
/// The file cannot be read, or is no kernel that can be booted.
pub(crate) fn room(arch: Arch, path: &Path) -> Result<u64> {
    let start = read_start(path)?;
    let length = std::fs::metadata(path)?.len();
    match (image_size(arch, &start), arch) {
        (Ok(announced), _) => Ok(announced.max(length)),
        (Err(NotAKernel::Elf), Arch::Loongarch64) => Ok(elf_end(&start)?),
        (Err(why), _) => Err(why.into()),
    }
}

/// Finds where the last loadable segment of an ELF file for LoongArch ends in physical memory.
fn elf_end(file: &[u8]) -> Result<u64, NotAKernel> {
    let header = FileHeader64::<Endianness>::parse(file).map_err(|_| NotAKernel::Damaged)?;
    let endian = header.endian().map_err(|_| NotAKernel::Damaged)?;
    let machine = header.e_machine(endian);
    if machine != EM_LOONGARCH {
        return Err(NotAKernel::Machine(machine.0));
    }
    let segments = header.program_headers(endian, file).map_err(|_| NotAKernel::Damaged)?;
    let loads = segments.iter().filter(|s| s.p_type(endian) == PT_LOAD);
    let end = |s: &elf::ProgramHeader64<Endianness>| {
        (s.p_paddr(endian) & PHYSICAL).saturating_add(s.p_memsz(endian))
    };
    loads.map(end).max().ok_or(NotAKernel::Damaged)
}

/// Reads the first bytes of a file, enough for any header.
pub(crate) fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(START).read_to_end(&mut start)?;
    Ok(start)
}

/// Returns a kernel as Fermata takes it: a packed one is unpacked, once, into a file among what was built.
///
/// # Errors
/// It is packed and cannot be unpacked. A file that cannot be read is found out when it is checked.
pub(crate) fn ready(workspace: &Workspace, path: &Path) -> Result<PathBuf> {
    if !read_start(path).is_ok_and(|start| zboot::is_zboot(&start)) {
        return Ok(path.to_path_buf());
    }
    let what = || format!("{} cannot be unpacked", path.display());
    let packed = std::fs::read(path).with_context(what)?;
    let kernel = zboot::unpack(&packed).with_context(what)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Files of one name are told apart by what is in them.
    let hash: String = Sha256::digest(&packed).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    workspace.keep(&format!("unpacked/{name}-{hash}"), &kernel)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use proptest::prelude::*;

    /// Makes a file with a valid Image header and `length` bytes in all.
    pub(crate) fn image(arch: Arch, length: usize, image_size: u64) -> Vec<u8> {
        let mut file = vec![0; length];
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[56..60].copy_from_slice(&magic(arch).to_le_bytes());
        file
    }

    /// Makes an ELF file with one loadable segment for each of `(paddr, bytes, memsz)`.
    pub(crate) fn elf(machine: u16, segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(3u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut at = 64 + 56 * segments.len() as u64;
        for &(paddr, bytes, memsz) in segments {
            file.extend(1u32.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [at, 0xdead_0000, paddr, bytes.len() as u64, memsz, 4096] {
                file.extend(word.to_le_bytes());
            }
            at += bytes.len() as u64;
        }
        segments.iter().for_each(|(_, bytes, _)| file.extend(*bytes));
        file
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        for arch in Arch::ALL {
            let size = |file: &[u8]| image_size(arch, file);
            assert_eq!(size(&image(arch, 64, 7)), Ok(7));
            assert_eq!(size(b"#!/bin/sh"), Err(NotAKernel::TooShort(arch, 9)));
            assert_eq!(size(&elf(183, &[])), Err(NotAKernel::Elf));
            assert_eq!(size(&[&b"\x1f\x8b"[..], &[0; 80]].concat()), Err(NotAKernel::Gzip));
            assert_eq!(size(&zboot::tests::zboot(b"kernel")), Err(NotAKernel::Zboot));
            assert_eq!(size(&[0x11; 64]), Err(NotAKernel::Magic(arch, 0x1111_1111)));
        }
        let why = image_size(Arch::Loongarch64, &image(Arch::Aarch64, 64, 7)).unwrap_err().to_string();
        assert!(why.contains("0x644d5241") && why.contains("LoongArch Image has 0x818223cd"), "{why}");
    }

    #[test]
    fn a_loongarch_kernel_takes_memory_up_to_its_end() {
        let scratch = Scratch::new().unwrap();
        let room = |file: &[u8]| room(Arch::Loongarch64, &scratch.file("kernel", file).unwrap());
        let mut raw = image(Arch::Loongarch64, 100, 0x30_0000);
        raw[24..32].copy_from_slice(&0x9000_0000_0020_0000_u64.to_le_bytes());
        assert_eq!(room(&raw).unwrap(), 0x50_0000);
        let segments: [(u64, &[u8], u64); 2] =
            [(0x9000_0000_0020_0000, b"text", 4), (0x9000_0000_0030_0000, b"data", 0x1000)];
        assert_eq!(room(&elf(258, &segments)).unwrap(), 0x30_1000);
        let why = room(&elf(183, &segments)).unwrap_err().to_string();
        assert!(why.contains("another machine (183)") && why.contains("258"), "{why}");
        assert!(room(&elf(258, &[])).unwrap_err().to_string().contains("without a program header"));
        assert!(room(b"\x7fELF").unwrap_err().to_string().contains("without a program header"));
        assert!(super::room(Arch::Aarch64, &scratch.file("k", &elf(258, &segments)).unwrap()).is_err());
    }

    #[test]
    fn a_packed_kernel_is_unpacked_once_and_others_are_taken_as_they_are() {
        let scratch = Scratch::new().unwrap();
        let workspace = Workspace::at(scratch.path());
        let plain = scratch.file("Image", &image(Arch::Loongarch64, 64, 64)).unwrap();
        assert_eq!(ready(&workspace, &plain).unwrap(), plain);
        let packed = scratch.file("vmlinuz", &zboot::tests::zboot(b"kernel")).unwrap();
        let unpacked = ready(&workspace, &packed).unwrap();
        assert_eq!(std::fs::read(&unpacked).unwrap(), b"kernel");
        assert_eq!(ready(&workspace, &packed).unwrap(), unpacked);
        scratch.file("vmlinuz", &zboot::tests::zboot(b"another")).unwrap();
        assert_ne!(ready(&workspace, &packed).unwrap(), unpacked);
        scratch.file("vmlinuz", &zboot::tests::zboot(b"kernel")[..70]).unwrap();
        assert!(
            format!("{:#}", ready(&workspace, &packed).unwrap_err()).contains("vmlinuz cannot be unpacked")
        );
        let missing = scratch.path().join("none");
        assert_eq!(ready(&workspace, &missing).unwrap(), missing);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_panic(file: Vec<u8>, machine: u16) {
            for arch in Arch::ALL {
                let _ = image_size(arch, &file);
            }
            let _ = elf_end(&file);
            let mut elf = elf(machine, &[(0, b"x", 1)]);
            for (at, byte) in file.iter().enumerate().take(elf.len()) {
                elf[at] ^= byte;
            }
            let _ = elf_end(&elf);
        }
    }
}
