//! The EFI tables through which a kernel finds its device tree and its RAM disk (UEFI Specification 2.10, 4.3 and 4.6):
//! written for guests, and read where we are started ourselves.
//!
//! LoongArch Linux is entered with the address of an EFI system table in any case (Documentation/arch/loongarch/booting
//! in Linux). It uses the configuration tables in it: the ones that its own EFI stub leaves behind.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use kernel::addr::{Gpa, Hpa};

/// "IBI SYST", which the system table starts with.
const SIGNATURE: u64 = 0x5453_5953_2049_4249;
/// UEFI 2.10, as the header has it.
const REVISION: u32 = 2 << 16 | 100;
/// Sizes in bytes: of the system table, of a configuration table's entry, of the header of a memory map and of a range
/// in it, of what says where the RAM disk is.
const SYSTEM_TABLE: u64 = 120;
const ENTRY: u64 = 24;
const MAP_HEADER: u64 = 40;
const DESCRIPTOR: u64 = 40;
const INITRD: u64 = 16;
/// Where the system table has the number of its configuration tables, and then their address.
const TABLES_AT: u64 = 104;
/// Where the header has its checksum.
const CRC_AT: usize = 16;
/// The unit of the memory map in bytes.
const EFI_PAGE: u64 = 0x1000;
/// Who made this, in UTF-16 with a NUL.
const VENDOR: [u16; 8] =
    [b'F' as u16, b'e' as u16, b'r' as u16, b'm' as u16, b'a' as u16, b't' as u16, b'a' as u16, 0];

/// The memory map at the time the kernel is entered (LINUX_EFI_BOOT_MEMMAP_GUID in Linux).
const BOOT_MEMMAP: Guid = Guid(0x800f_683f, 0xd08b, 0x423a, [0xa2, 0x93, 0x96, 0x5c, 0x3c, 0x6f, 0xe2, 0xb4]);
/// Where the RAM disk is (LINUX_EFI_INITRD_MEDIA_GUID in Linux).
const INITRD_MEDIA: Guid =
    Guid(0x5568_e427, 0x68fc, 0x4f3d, [0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68]);
/// A device tree (EFI_DTB_TABLE_GUID, UEFI 4.6).
const DEVICE_TREE: Guid = Guid(0xb1b6_21d5, 0xf19c, 0x41a5, [0x83, 0x0b, 0xd9, 0x15, 0x2c, 0x69, 0xaa, 0xe0]);

/// A number that names something, as it is written down.
#[derive(Clone, Copy)]
struct Guid(u32, u16, u16, [u8; 8]);

impl Guid {
    /// As it is in memory (UEFI, appendix A).
    fn bytes(self) -> [u8; 16] {
        let Self(a, b, c, rest) = self;
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&a.to_le_bytes());
        bytes[4..6].copy_from_slice(&b.to_le_bytes());
        bytes[6..8].copy_from_slice(&c.to_le_bytes());
        bytes[8..].copy_from_slice(&rest);
        bytes
    }
}

/// What a range of memory is used for when the kernel is entered (UEFI, table 7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For the kernel.
    LoaderCode,
    /// For what the kernel was given; it may go when it has been read.
    LoaderData,
    /// For nothing.
    Conventional,
}

impl Use {
    /// Its number.
    const fn number(self) -> u64 {
        match self {
            Self::LoaderCode => 1,
            Self::LoaderData => 2,
            Self::Conventional => 7,
        }
    }
}

/// What a guest's tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<'a> {
    /// The ranges of its memory, which ascend and do not overlap.
    pub memory: &'a [Range<u64>],
    /// What is in use: ranges that ascend and do not overlap. They are widened to pages.
    pub used: &'a [(Range<u64>, Use)],
    /// Where its RAM disk is.
    pub initrd: Option<Range<Gpa>>,
    /// Where its device tree is.
    pub tree: Gpa,
}

/// Makes a guest's tables, to be put into its memory at `at`, where the system table is then.
pub fn build(at: Gpa, contents: &Contents<'_>) -> Vec<u8> {
    let map = memory_map(contents);
    let tables_at = at.0 + SYSTEM_TABLE;
    let count = 2 + u64::from(contents.initrd.is_some());
    let map_at = tables_at + count * ENTRY;
    let initrd_at = map_at + MAP_HEADER + map.len() as u64 * DESCRIPTOR;
    let vendor_at = initrd_at + if contents.initrd.is_some() { INITRD } else { 0 };
    let mut blob = Blob(Vec::new());
    // The header: the checksum follows. Then firmware vendor and revision, three consoles of two words each, runtime and
    // boot services, of which there are none.
    blob.longs(&[SIGNATURE, SYSTEM_TABLE << 32 | u64::from(REVISION), 0, vendor_at, 0]);
    blob.longs(&[0; 8]);
    blob.longs(&[count, tables_at]);
    let crc = crc32(&blob.0);
    blob.0[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    blob.entry(BOOT_MEMMAP, map_at);
    blob.entry(DEVICE_TREE, contents.tree.0);
    if contents.initrd.is_some() {
        blob.entry(INITRD_MEDIA, initrd_at);
    }
    // The map's size and that of a descriptor, the version of descriptors, a key, the size of the buffer it is in.
    let size = map.len() as u64 * DESCRIPTOR;
    blob.longs(&[size, DESCRIPTOR, 1, 0, size]);
    for (range, usage) in map {
        // It can be cached: write-back is attribute bit 3. The virtual address is for the kernel to say.
        blob.longs(&[usage.number(), range.start, 0, (range.end - range.start) / EFI_PAGE, 1 << 3]);
    }
    if let Some(initrd) = &contents.initrd {
        blob.longs(&[initrd.start.0, initrd.end.0.saturating_sub(initrd.start.0)]);
    }
    VENDOR.iter().for_each(|unit| blob.0.extend(unit.to_le_bytes()));
    blob.0
}

/// All memory by what it is used for, in whole pages.
fn memory_map(contents: &Contents<'_>) -> Vec<(Range<u64>, Use)> {
    let mut map = Vec::new();
    for memory in contents.memory {
        let mut free = memory.clone();
        for (range, usage) in contents.used {
            let widened =
                range.start & !(EFI_PAGE - 1)..range.end.saturating_add(EFI_PAGE - 1) & !(EFI_PAGE - 1);
            // Two may share a page: the first has it.
            let used = widened.start.max(free.start)..widened.end.min(free.end);
            if !used.is_empty() {
                map.push((free.start..used.start, Use::Conventional));
                free.start = used.end;
                map.push((used, *usage));
            }
        }
        map.push((free, Use::Conventional));
    }
    map.retain(|(range, _)| !range.is_empty());
    map
}

/// Bytes to be put into memory.
struct Blob(Vec<u8>);

impl Blob {
    fn longs(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
    }

    /// An entry of the list of configuration tables.
    fn entry(&mut self, guid: Guid, at: u64) {
        self.0.extend(guid.bytes());
        self.longs(&[at]);
    }
}

/// The CRC-32 of EFI's headers: that of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |crc: u32, _| crc >> 1 ^ (POLYNOMIAL & 0u32.wrapping_sub(crc & 1)))
    })
}

/// The most configuration tables that are looked at. Firmware has a dozen.
const MOST_TABLES: u64 = 256;
/// The longest command line that is read, in bytes: what Linux keeps.
pub const MAX_COMMAND_LINE: usize = 4096;
/// The bits of an address that are the physical address: firmware may use its windows' addresses.
const PHYSICAL: u64 = (1 << 48) - 1;

/// Why what firmware passes is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EfiError {
    /// There is no memory where something should be.
    Unreadable {
        /// What should be there.
        what: &'static str,
        /// Where that is.
        at: Hpa,
    },
    /// The system table starts with something else.
    Signature {
        /// With what.
        found: u64,
    },
    /// There are too many configuration tables.
    Tables {
        /// How many.
        found: u64,
    },
    /// No configuration table is a device tree.
    NoTree {
        /// How many there are.
        tables: u64,
    },
    /// The command line has no end, or is no text.
    CommandLine {
        /// How many bytes it has that are text.
        found: usize,
    },
}

impl fmt::Display for EfiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreadable { what, at: Hpa(at) } => {
                write!(f, "{what}: found its address to be {at:#x}, expected memory")
            }
            Self::Signature { found } => {
                write!(f, "EFI system table: found signature {found:#x}, expected {SIGNATURE:#x}")
            }
            Self::Tables { found } => {
                write!(
                    f,
                    "EFI system table: found {found} configuration tables, expected at most {MOST_TABLES}"
                )
            }
            Self::NoTree { tables } => {
                write!(
                    f,
                    "EFI system table: found {tables} configuration tables, expected one with a device tree"
                )
            }
            Self::CommandLine { found } => {
                let most = MAX_COMMAND_LINE;
                write!(
                    f,
                    "command line: found {found} bytes of text, expected at most {most}, and a NUL behind"
                )
            }
        }
    }
}

/// Memory that firmware points to: fills the bytes it is given with what is at an address, or says that not all of it is
/// memory.
pub trait Read: Fn(Hpa, &mut [u8]) -> bool {}

impl<F: Fn(Hpa, &mut [u8]) -> bool> Read for F {}

/// Finds the device tree in a system table that firmware passes.
///
/// Only the signature of the header is checked: QEMU leaves the header's size and its checksum out.
pub fn tree(system_table: Hpa, read: &impl Read) -> Result<Hpa, EfiError> {
    let table = physical(system_table.0);
    let long = |at: u64, what| {
        let mut bytes = [0; 8];
        let found = read(Hpa(at), &mut bytes);
        if found { Ok(u64::from_le_bytes(bytes)) } else { Err(EfiError::Unreadable { what, at: Hpa(at) }) }
    };
    const WHAT: &str = "EFI system table";
    let signature = long(table, WHAT)?;
    if signature != SIGNATURE {
        return Err(EfiError::Signature { found: signature });
    }
    // Addresses have 48 bits at most, so sums do not overflow.
    let count = long(table + TABLES_AT, WHAT)?;
    let tables = physical(long(table + TABLES_AT + 8, WHAT)?);
    if count > MOST_TABLES {
        return Err(EfiError::Tables { found: count });
    }
    for at in (0..count).map(|index| tables + index * ENTRY) {
        let mut guid = [0; 16];
        if !read(Hpa(at), &mut guid) {
            return Err(EfiError::Unreadable { what: "EFI configuration tables", at: Hpa(at) });
        }
        if guid == DEVICE_TREE.bytes() {
            return Ok(Hpa(physical(long(at + 16, "EFI configuration tables")?)));
        }
    }
    Err(EfiError::NoTree { tables: count })
}

/// Reads a command line, which ends with a NUL.
pub fn command_line(at: Hpa, read: &impl Read) -> Result<String, EfiError> {
    let at = physical(at.0);
    let mut bytes = Vec::new();
    for offset in 0..=MAX_COMMAND_LINE {
        let mut byte = [0];
        let at = Hpa(at + offset as u64);
        if !read(at, &mut byte) {
            return Err(EfiError::Unreadable { what: "command line", at });
        }
        if byte == [0] {
            let text = String::from_utf8(bytes);
            return text.map_err(|error| EfiError::CommandLine { found: error.utf8_error().valid_up_to() });
        }
        bytes.push(byte[0]);
    }
    Err(EfiError::CommandLine { found: bytes.len() })
}

/// The physical address that firmware means.
const fn physical(address: u64) -> u64 {
    address & PHYSICAL
}

#[cfg(test)]
mod tests;
