//! ELF files made flat: the bytes a boot loader puts into memory, and nothing else.

use anyhow::{Context, Result, bail, ensure};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf};

/// Where the arm64 `Image` header keeps its magic (Linux `Documentation/arch/arm64/booting.rst`).
const MAGIC_AT: usize = 56;
/// `ARM\x64`, little-endian.
const MAGIC: u32 = 0x644d_5241;
/// Longest image made from an ELF file, in bytes. A longer one is a gap between segments gone wrong.
const LONGEST: u64 = 64 << 20;

/// What the arm64 `Image` header says about the image behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of memory the image needs from its load address, `.bss` included; 0 in images older than 2013.
    pub(crate) image_size: u64,
}

/// Why a file is no raw arm64 `Image`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAnImage {
    /// Shorter than the header, by its length in bytes.
    TooShort(usize),
    /// An ELF file.
    Elf,
    /// Compressed with gzip.
    Gzip,
    /// An EFI application that unpacks a compressed kernel.
    EfiZboot,
    /// Something else, with what was found where the magic belongs.
    Magic(u32),
}

impl std::fmt::Display for NotAnImage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooShort(length) => {
                write!(out, "it has {length} bytes, the arm64 Image header alone has 64")
            }
            Self::Elf => write!(out, "it is an ELF file; make a flat image of it (objcopy -O binary)"),
            Self::Gzip => write!(out, "it is compressed with gzip; unpack it (gzip -d)"),
            Self::EfiZboot => {
                write!(out, "it is a compressed EFI kernel (zboot); take the raw `Image` instead")
            }
            Self::Magic(found) => {
                write!(
                    out,
                    "it has {found:#010x} at offset {MAGIC_AT}, an arm64 Image has {MAGIC:#010x} (\"ARM\\x64\")"
                )
            }
        }
    }
}

/// Reads the arm64 `Image` header at the start of `file`.
///
/// # Errors
/// Says what the file looks like when it is no such image.
pub(crate) fn header(file: &[u8]) -> Result<Header, NotAnImage> {
    let magic = file.get(MAGIC_AT..MAGIC_AT + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    match magic {
        Some(MAGIC) => Ok(Header { image_size: u64::from_le_bytes(file[16..24].try_into().unwrap()) }),
        _ if file.starts_with(b"\x7fELF") => Err(NotAnImage::Elf),
        _ if file.starts_with(b"\x1f\x8b") => Err(NotAnImage::Gzip),
        _ if file.get(4..8) == Some(b"zimg") => Err(NotAnImage::EfiZboot),
        Some(found) => Err(NotAnImage::Magic(found)),
        None => Err(NotAnImage::TooShort(file.len())),
    }
}

/// Makes the flat image of an ELF file: its loadable segments at their physical addresses, gaps filled with zeros.
///
/// # Errors
/// The file is no little-endian 64-bit ELF file, has nothing to load, or its segments lie too far apart.
pub(crate) fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian().context("not a little-endian ELF file")?;
    let segments = || {
        let all = header.program_headers(endian, file).unwrap_or_default();
        all.iter().filter(|s| s.p_type(endian) == PT_LOAD && s.p_memsz(endian) != 0)
    };
    let end = |s: &elf::ProgramHeader64<LittleEndian>| s.p_paddr(endian).saturating_add(s.p_filesz(endian));
    let base = segments().map(|s| s.p_paddr(endian)).min().context("the ELF file has no loadable segment")?;
    let length = segments().map(end).max().unwrap_or(base) - base;
    ensure!(length <= LONGEST, "the segments span {length} bytes, more than the {LONGEST} an image may have");
    let mut flat = vec![0; usize::try_from(length)?];
    for segment in segments() {
        let Ok(bytes) = segment.data(endian, file) else { bail!("a segment lies outside the ELF file") };
        let at = usize::try_from(segment.p_paddr(endian) - base)?;
        flat[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(flat)
}

/// Makes the flat image of an ELF file that carries the arm64 `Image` header, and checks that header.
///
/// # Errors
/// As [`flatten`]; or the header is missing, or announces less memory than the segments take, in which case a loader
/// would put other things where `.bss` belongs.
pub(crate) fn boot_image(file: &[u8]) -> Result<Vec<u8>> {
    let flat = flatten(file)?;
    let header = match header(&flat) {
        Ok(header) => header,
        Err(why) => bail!("the flat image does not start with the arm64 Image header: {why}"),
    };
    let needs = memory_size(file)?;
    ensure!(
        header.image_size >= needs,
        "its Image header announces {} bytes of memory (image_size, offset 16), its segments take {needs}",
        header.image_size
    );
    Ok(flat)
}

/// Adds up the memory the loadable segments take, from the lowest to the highest address, in bytes.
fn memory_size(file: &[u8]) -> Result<u64> {
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    let endian = header.endian()?;
    let loads = || header.program_headers(endian, file).unwrap_or_default().iter();
    let loads = || loads().filter(|s| s.p_type(endian) == PT_LOAD && s.p_memsz(endian) != 0);
    let base = loads().map(|s| s.p_paddr(endian)).min().unwrap_or(0);
    let end = loads().map(|s| s.p_paddr(endian).saturating_add(s.p_memsz(endian))).max().unwrap_or(0);
    Ok(end - base)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes a file with a valid arm64 Image header and `length` bytes in all.
    pub(crate) fn image(length: usize, image_size: u64) -> Vec<u8> {
        let mut file = vec![0; length];
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[56..60].copy_from_slice(&MAGIC.to_le_bytes());
        file
    }

    /// Makes an ELF file with one loadable segment for each of `(paddr, bytes, memsz)`.
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(3u16.to_le_bytes());
        file.extend(183u16.to_le_bytes());
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
    fn segments_land_at_their_physical_addresses_with_zeros_between() {
        let file = elf(&[(0x1010, b"world", 5), (0x1000, b"hello", 5)]);
        let flat = flatten(&file).unwrap();
        assert_eq!(&flat, b"hello\0\0\0\0\0\0\0\0\0\0\0world");
    }

    #[test]
    fn bss_takes_no_room_in_the_flat_image() {
        let flat = flatten(&elf(&[(0, b"text", 4), (0x1000, b"", 0x10_0000)])).unwrap();
        assert_eq!(flat.len(), 0x1000);
        assert!(flat[4..].iter().all(|&b| b == 0));
    }

    #[test]
    fn far_apart_segments_are_refused() {
        let why = flatten(&elf(&[(0, b"a", 1), (1 << 40, b"b", 1)])).unwrap_err();
        assert!(why.to_string().contains("segments span"), "{why}");
    }

    #[test]
    fn a_boot_image_announces_its_bss() {
        let file = |size| elf(&[(0, &image(64, size), 64), (0x1000, b"data", 0x2000)]);
        assert_eq!(boot_image(&file(0x3000)).unwrap().len(), 0x1004);
        let why = boot_image(&file(0x2fff)).unwrap_err().to_string();
        assert!(why.contains("12287") && why.contains("12288"), "{why}");
        let why = boot_image(&elf(&[(0, &[0; 64], 64)])).unwrap_err().to_string();
        assert!(why.contains("0x644d5241"), "{why}");
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert_eq!(header(&image(64, 7)), Ok(Header { image_size: 7 }));
        assert_eq!(header(b"#!/bin/sh"), Err(NotAnImage::TooShort(9)));
        assert_eq!(header(&elf(&[])), Err(NotAnImage::Elf));
        assert_eq!(header(&[&b"\x1f\x8b"[..], &[0; 80]].concat()), Err(NotAnImage::Gzip));
        assert_eq!(header(&[&b"MZ\0\0zimg"[..], &[0; 80]].concat()), Err(NotAnImage::EfiZboot));
        assert_eq!(header(&[0x11; 64]), Err(NotAnImage::Magic(0x1111_1111)));
    }
}
