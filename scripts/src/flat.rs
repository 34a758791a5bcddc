//! ELF files made flat: the bytes a boot loader puts into memory, and nothing else.

use crate::arch::Arch;
use crate::payload;
use anyhow::{Context, Result, bail, ensure};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, elf};

/// Longest image made from an ELF file, in bytes. A longer one is a gap between segments gone wrong.
const LONGEST: u64 = 64 << 20;

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
    let announced = payload::image_size(Arch::Aarch64, &flat)
        .context("the flat image does not start with the arm64 Image header")?;
    let needs = memory_size(file)?;
    ensure!(
        announced >= needs,
        "its Image header announces {announced} bytes of memory (image_size, offset 16), its segments take {needs}"
    );
    Ok(flat)
}

/// Tells how many bytes of an image a loader puts into memory: of an ELF file those of its segments, of another all.
///
/// # Errors
/// As [`flatten`].
pub(crate) fn loaded_size(file: &[u8]) -> Result<u64> {
    if file.starts_with(b"\x7fELF") { Ok(flatten(file)?.len() as u64) } else { Ok(file.len() as u64) }
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
mod tests {
    use super::*;
    use crate::payload::tests::image;

    /// Makes an ELF file for AArch64.
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        payload::tests::elf(183, segments)
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
    fn what_is_loaded_of_an_elf_file_are_its_segments() {
        assert_eq!(loaded_size(&elf(&[(0, b"text", 4), (0x1000, b"data", 0x10_0000)])).unwrap(), 0x1004);
        assert_eq!(loaded_size(&[0; 77]).unwrap(), 77);
    }

    #[test]
    fn far_apart_segments_are_refused() {
        let why = flatten(&elf(&[(0, b"a", 1), (1 << 40, b"b", 1)])).unwrap_err();
        assert!(why.to_string().contains("segments span"), "{why}");
    }

    #[test]
    fn a_boot_image_announces_its_bss() {
        let file = |size| elf(&[(0, &image(Arch::Aarch64, 64, size), 64), (0x1000, b"data", 0x2000)]);
        assert_eq!(boot_image(&file(0x3000)).unwrap().len(), 0x1004);
        let why = boot_image(&file(0x2fff)).unwrap_err().to_string();
        assert!(why.contains("12287") && why.contains("12288"), "{why}");
        let why = format!("{:#}", boot_image(&elf(&[(0, &[0; 64], 64)])).unwrap_err());
        assert!(why.contains("0x644d5241"), "{why}");
    }
}
