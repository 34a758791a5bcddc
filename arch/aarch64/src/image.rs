//! The header of an arm64 kernel image (Documentation/arch/arm64/booting in Linux).

use core::fmt;

pub use arch_common::image::HEADER_SIZE;
use arch_common::image::{Compression, Header};

/// What is at byte 56: "ARM" and 0x64, little-endian.
const MAGIC: u32 = 0x644d_5241;
/// Where an image goes that does not say how large it is: kernels before Linux 3.17.
const LEGACY_OFFSET: u64 = 0x8_0000;

/// What a kernel wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it goes, in bytes from a multiple of 2 MiB; it is entered at its first byte.
    pub offset: u64,
    /// How much memory it takes, in bytes: the file, and what it expects to be free behind it.
    pub size: u64,
}

/// Why a file is no kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is shorter than a header.
    Short {
        /// Its size in bytes.
        found: u64,
    },
    /// It is a compressed image, which a boot tool has to unpack.
    Compressed(Compression),
    /// There is something else in place of the magic number.
    Magic {
        /// What is there.
        found: u32,
    },
    /// The kernel is big-endian.
    BigEndian,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { found } => write!(f, "found {found} bytes, expected an arm64 Image"),
            Self::Compressed(how) => write!(f, "found {how}, expected an arm64 Image"),
            Self::Magic { found } => {
                write!(f, "no arm64 Image: magic at byte 56: found {found:#x}, expected {MAGIC:#x}")
            }
            Self::BigEndian => f.write_str("flags: found a big-endian image, expected a little-endian one"),
        }
    }
}

impl Image {
    /// Reads the header of a file of `size` bytes, of which `start` has the first [`HEADER_SIZE`].
    pub fn parse(start: &[u8], size: u64) -> Result<Self, ImageError> {
        let short = ImageError::Short { found: size };
        let header = Header::of(start).filter(|_| size >= HEADER_SIZE as u64).ok_or(short)?;
        if let Some(how) = header.compression() {
            return Err(ImageError::Compressed(how));
        }
        let (text_offset, image_size, flags, magic) =
            (header.long(8), header.long(16), header.long(24), header.word(56));
        if magic != MAGIC {
            return Err(ImageError::Magic { found: magic });
        }
        if flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        // The page size in bits 2:1 is the kernel's own affair, and so is bit 3, whether it minds being far from the
        // start of memory: it gets the start.
        match image_size {
            0 => Ok(Self { offset: LEGACY_OFFSET, size }),
            _ => Ok(Self { offset: text_offset, size: image_size.max(size) }),
        }
    }
}

#[cfg(test)]
mod tests;
