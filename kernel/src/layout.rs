//! Why a guest's files do not fit into its memory. Where they go is the architecture's affair.

use core::fmt;
use core::ops::Range;

/// Why a guest's files do not fit into its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// The memory is larger than the guest's addresses leave room for.
    TooMuchMemory {
        /// Its size in bytes.
        found: u64,
        /// The most it can have, in bytes.
        most: u64,
    },
    /// The device tree is too large.
    Tree {
        /// Its size in bytes.
        found: u64,
        /// The most it can have, in bytes.
        most: u64,
    },
    /// The kernel names its own place, and no guest has free memory there, however large it is.
    Kernel {
        /// Where it has to be.
        found: Range<u64>,
        /// Where a kernel can be.
        free: &'static [Range<u64>],
    },
    /// The kernel with its uninitialised data, the RAM disk and the device tree need more than there is.
    TooLittleMemory {
        /// The guest's memory in bytes.
        found: u64,
        /// How much is needed, in bytes.
        needed: u64,
    },
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuchMemory { found, most } => {
                write!(f, "memory: found {} KiB, expected at most {} KiB", found >> 10, most >> 10)
            }
            Self::Tree { found, most } => {
                write!(f, "device tree: found {found} bytes, expected at most {most}")
            }
            Self::Kernel { found, free } => {
                write!(f, "kernel: found at {found:#x?}, expected inside ")?;
                free.iter().enumerate().try_for_each(|(index, range)| {
                    write!(f, "{}{range:#x?}", if index == 0 { "" } else { " or " })
                })
            }
            Self::TooLittleMemory { found, needed } => {
                let needed = needed.div_ceil(1 << 10);
                write!(f, "memory: found {} KiB, expected at least {needed} KiB for its files", found >> 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn each_says_what_was_found_and_what_was_expected() {
        let much = PlaceError::TooMuchMemory { found: 4 << 20, most: 2 << 20 };
        assert_eq!(much.to_string(), "memory: found 4096 KiB, expected at most 2048 KiB");
        let tree = PlaceError::Tree { found: 9, most: 8 };
        assert_eq!(tree.to_string(), "device tree: found 9 bytes, expected at most 8");
        let kernel = PlaceError::Kernel { found: 0x1000..0x2000, free: &[0x20_0000..0x40_0000, 0..9] };
        let message = "kernel: found at 0x1000..0x2000, expected inside 0x200000..0x400000 or 0x0..0x9";
        assert_eq!(kernel.to_string(), message);
        let little = PlaceError::TooLittleMemory { found: 2048, needed: 2049 };
        assert_eq!(little.to_string(), "memory: found 2 KiB, expected at least 3 KiB for its files");
    }
}
