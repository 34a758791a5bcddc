//! What the headers of raw kernel images have alike on both architectures.

use core::fmt;

/// How much of a file a header takes, in bytes.
pub const HEADER_SIZE: usize = 64;

/// The header of a raw kernel image.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(&'a [u8; HEADER_SIZE]);

impl<'a> Header<'a> {
    /// The header of a file that starts with `start`; none if that is shorter than one.
    pub fn of(start: &'a [u8]) -> Option<Self> {
        start.first_chunk().map(Self)
    }

    /// All its bytes.
    pub fn bytes(self) -> &'a [u8; HEADER_SIZE] {
        self.0
    }

    /// The 32 bits at `at`, lowest byte first; what is beyond the header is zero.
    pub fn word(self, at: usize) -> u32 {
        let bytes = self.0.get(at..).unwrap_or_default();
        bytes.iter().take(4).rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    /// The 64 bits at `at`, as [`Self::word`].
    pub fn long(self, at: usize) -> u64 {
        u64::from(self.word(at + 4)) << 32 | u64::from(self.word(at))
    }

    /// How the file is compressed, if it is: a boot tool has to unpack it. (gzip: RFC 1952, 2.3.1; zboot: Linux,
    /// drivers/firmware/efi/libstub/zboot-header.S.)
    pub fn compression(self) -> Option<Compression> {
        match self.0 {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [_, _, _, _, b'z', b'i', b'm', b'g', ..] => Some(Compression::EfiZboot),
            _ => None,
        }
    }
}

/// How an image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// With gzip.
    Gzip,
    /// As an EFI program that unpacks itself.
    EfiZboot,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "a gzip file",
            Self::EfiZboot => "a compressed EFI program (zboot)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_lowest_byte_first_and_end_with_the_header() {
        let bytes: [u8; 65] = core::array::from_fn(|n| n as u8);
        let header = Header::of(&bytes).unwrap();
        assert_eq!((header.word(1), header.long(8)), (0x0403_0201, 0x0f0e_0d0c_0b0a_0908));
        assert_eq!((header.word(62), header.long(60), header.word(64)), (0x3f3e, 0x3f3e_3d3c, 0));
        assert!(Header::of(&bytes[..63]).is_none());
    }
}
