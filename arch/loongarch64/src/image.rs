//! Guest kernels: raw EFI images of LoongArch Linux (Documentation/arch/loongarch/booting in Linux) and ELF files.
//!
//! Both say where they go. They say it in virtual addresses or in physical ones; a kernel's virtual addresses are those
//! of a window that maps all of memory, so the low 48 bits are the physical address in either case.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use arch_common::image::{Compression, Header};
use kernel::addr::Gpa;
use object::LittleEndian;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, EM_LOONGARCH, ET_DYN, ET_EXEC, EV_CURRENT, FileHeader64, PT_LOAD,
};
use object::read::elf::{FileHeader, ProgramHeader};

/// Where the magic number is, and what it is.
const MAGIC_AT: usize = 0x38;
const MAGIC: u32 = 0x8182_23cd;
/// The bits of an address that are the physical address.
const PHYSICAL: u64 = (1 << 48) - 1;

/// A kernel that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What to load, by ascending address; the parts do not overlap.
    pub parts: Vec<Part>,
    /// Its first instruction, which is in the file.
    pub entry: Gpa,
}

/// A part of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it goes: an address of at most 48 bits.
    pub at: Gpa,
    /// What goes there, in bytes from the start of the file.
    pub bytes: Range<usize>,
    /// How much memory it takes, in bytes: at least one, and no less than the file has. The rest is zero.
    pub size: u64,
}

impl Part {
    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.at.0.saturating_add(self.size)
    }
}

impl Image {
    /// The memory it takes, from the start of the first part to the end of the last.
    pub fn extent(&self) -> Range<u64> {
        match (self.parts.first(), self.parts.last()) {
            (Some(first), Some(last)) => first.at.0..last.end(),
            _ => 0..0,
        }
    }

    /// Reads the headers of a file.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        let mut image = if file.starts_with(b"\x7fELF") { elf(file)? } else { raw(file)? };
        image.parts.sort_unstable_by_key(|part| part.at.0);
        for pair in image.parts.windows(2) {
            if pair[1].at.0 < pair[0].end() {
                return Err(ImageError::Overlap { first: pair[0].at, second: pair[1].at });
            }
        }
        let entry = image.entry;
        let has_entry = |part: &Part| {
            entry.0.checked_sub(part.at.0).is_some_and(|offset| offset < part.bytes.len() as u64)
        };
        if !image.parts.iter().any(has_entry) {
            return Err(ImageError::Entry { found: entry });
        }
        Ok(image)
    }
}

/// Why a file is no kernel that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is shorter than a header.
    Short {
        /// Its size in bytes.
        found: usize,
    },
    /// It is a compressed image, which a boot tool has to unpack.
    Compressed(Compression),
    /// There is something else in place of the magic number.
    Magic {
        /// What is there.
        found: u32,
    },
    /// It is an ELF file, but not for this architecture, or no program.
    Elf {
        /// Which field of the header says so.
        field: &'static str,
        /// What it says.
        found: u16,
        /// What it should say.
        wanted: u16,
    },
    /// It is an ELF file whose program headers are not in it, or have another size.
    ProgramHeaders,
    /// It is an ELF file with nothing to load.
    Empty,
    /// A part of it is not in the file, or has less memory than file.
    Truncated {
        /// The part, by its address.
        at: Gpa,
        /// Where it is said to start in the file.
        offset: u64,
        /// How many bytes it is said to have there.
        length: u64,
        /// How much memory it is said to take, in bytes.
        size: u64,
    },
    /// A part reaches beyond the physical addresses.
    Beyond {
        /// Where it starts.
        at: Gpa,
        /// Its size in bytes.
        size: u64,
    },
    /// Two parts overlap.
    Overlap {
        /// The one that starts first.
        first: Gpa,
        /// The other.
        second: Gpa,
    },
    /// It is entered outside of all that is loaded from the file.
    Entry {
        /// Where.
        found: Gpa,
    },
}

/// What is expected, in messages.
const EXPECTED: &str = "expected a LoongArch Image or ELF file";

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { found } => write!(f, "found {found} bytes, {EXPECTED}"),
            Self::Compressed(how) => write!(f, "found {how}, {EXPECTED}"),
            Self::Magic { found } => {
                write!(f, "no ELF file, and magic at byte 56: found {found:#x}, expected {MAGIC:#x}")
            }
            Self::Elf { field, found, wanted } => {
                write!(f, "ELF header: {field}: found {found:#x}, expected {wanted:#x}")
            }
            Self::ProgramHeaders => f.write_str(
                "ELF header: e_phoff, e_phnum, e_phentsize: expected program headers inside the file",
            ),
            Self::Empty => f.write_str("ELF file: found no PT_LOAD segment, expected one"),
            Self::Truncated { at: Gpa(at), offset, length, size } => write!(
                f,
                "segment at {at:#x}: found {length:#x} bytes at {offset:#x} of the file for {size:#x} bytes of \
                 memory, expected all of them in the file, and no more than memory"
            ),
            Self::Beyond { at: Gpa(at), size } => {
                write!(f, "segment at {at:#x}: found {size:#x} bytes, expected its end below 2^48")
            }
            Self::Overlap { first: Gpa(first), second: Gpa(second) } => {
                write!(f, "segments at {first:#x} and {second:#x}: found an overlap, expected them apart")
            }
            Self::Entry { found: Gpa(found) } => {
                write!(f, "entry point: found {found:#x}, expected an address of what is loaded")
            }
        }
    }
}

/// Reads a raw image, which is one part.
fn raw(file: &[u8]) -> Result<Image, ImageError> {
    let header = Header::of(file).ok_or(ImageError::Short { found: file.len() })?;
    if let Some(how) = header.compression() {
        return Err(ImageError::Compressed(how));
    }
    // "MZ" is what starts an EFI program; the magic number alone is in no other file at that place.
    let magic = header.word(MAGIC_AT);
    if !header.bytes().starts_with(b"MZ") || magic != MAGIC {
        return Err(ImageError::Magic { found: magic });
    }
    let (entry, size, at) = (header.long(8), header.long(0x10), header.long(0x18));
    let length = file.len() as u64;
    let part = part(at, 0, length, size.max(length), file.len())?;
    Ok(Image { parts: Vec::from([part]), entry: Gpa(entry & PHYSICAL) })
}

/// Reads an ELF file.
fn elf(file: &[u8]) -> Result<Image, ImageError> {
    let short = ImageError::Short { found: file.len() };
    let ident =
        [("EI_CLASS", 4, ELFCLASS64.0), ("EI_DATA", 5, ELFDATA2LSB.0), ("EI_VERSION", 6, EV_CURRENT.0)];
    for (field, at, wanted) in ident {
        let found = *file.get(at).ok_or(short)?;
        if found != wanted {
            return Err(wrong(field, found.into(), wanted.into()));
        }
    }
    let header = FileHeader64::<LittleEndian>::parse(file).map_err(|_| short)?;
    let endian = LittleEndian;
    let machine = header.e_machine(endian);
    if machine != EM_LOONGARCH {
        return Err(wrong("e_machine", machine.0, EM_LOONGARCH.0));
    }
    let kind = header.e_type(endian);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(wrong("e_type", kind.0, ET_EXEC.0));
    }
    let segments = header.program_headers(endian, file).map_err(|_| ImageError::ProgramHeaders)?;
    let loaded = segments.iter().filter(|segment| {
        segment.p_type(endian) == PT_LOAD && (segment.p_memsz(endian) > 0 || segment.p_filesz(endian) > 0)
    });
    let parts = loaded.map(|segment| {
        let (offset, length) = segment.file_range(endian);
        part(segment.p_paddr(endian), offset, length, segment.p_memsz(endian), file.len())
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() {
        return Err(ImageError::Empty);
    }
    Ok(Image { parts, entry: Gpa(header.e_entry(endian) & PHYSICAL) })
}

fn wrong(field: &'static str, found: u16, wanted: u16) -> ImageError {
    ImageError::Elf { field, found, wanted }
}

/// A part of a file of `available` bytes: `length` bytes at `offset` of it, for `size` bytes of memory at `at`.
fn part(at: u64, offset: u64, length: u64, size: u64, available: usize) -> Result<Part, ImageError> {
    let at = Gpa(at & PHYSICAL);
    let truncated = ImageError::Truncated { at, offset, length, size };
    let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
    let end = end.filter(|end| *end <= available && length <= size).ok_or(truncated)?;
    if at.0.checked_add(size).is_none_or(|end| end > PHYSICAL + 1) {
        return Err(ImageError::Beyond { at, size });
    }
    Ok(Part { at, bytes: offset as usize..end, size })
}

#[cfg(test)]
mod tests;
