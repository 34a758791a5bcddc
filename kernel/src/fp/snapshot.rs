//! FP state as bytes: kept, looked at, compared, and put back on another CPU or another machine.
//!
//! A snapshot says what it is before it says what is in it. Whoever puts one back checks all of that first: registers of
//! another architecture, vectors of another length and units that the guest does not have are refused, and so is a
//! snapshot that was cut off or changed on its way. `docs/fp.md` has the format.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::{FpContext, Units};

/// How a snapshot starts.
const MAGIC: [u8; 4] = *b"FPSN";
/// The version of the format that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Bytes before the registers.
pub(super) const HEADER: usize = 24;
/// Where the checksum is.
const CHECKSUM: core::ops::Range<usize> = 20..24;

/// What the registers in a snapshot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The units that the guest had.
    pub units: Units,
    /// Which of the architecture's ways to write them down was used.
    pub shape: u8,
    /// The longest vector that the guest could have, in bits.
    pub limit: u16,
    /// The lengths that its vectors could have, where it can choose one: bit n stands for n + 1 times 128 bits.
    pub choice: u16,
}

/// What snapshots of an architecture are like. It is apart from the code that moves registers, so a machine of another
/// architecture can read them.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The ELF machine number.
    pub machine: u16,
    /// Names the `n`th register of a snapshot of some form; none where there are no more, or no such form.
    pub register: fn(form: Form, n: usize) -> Option<Register>,
}

/// A register in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its name in the manual, up to its number.
    pub name: &'static str,
    /// Its number, if there are several.
    pub number: Option<u8>,
    /// Where it is, counted from the first register.
    pub at: usize,
    /// How many bytes it has; the first is the lowest.
    pub bytes: usize,
}

impl Register {
    /// A register without a number.
    pub const fn alone(name: &'static str, at: usize, bytes: usize) -> Self {
        Self { name, number: None, at, bytes }
    }

    /// The register number `n` of several that lie one after the other.
    pub const fn nth(name: &'static str, n: usize, start: usize, bytes: usize) -> Self {
        Self { name, number: Some(n as u8), at: start + n * bytes, bytes }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.number.map_or(Ok(()), |number| write!(f, "{number}"))
    }
}

/// Why bytes are no snapshot, or not one that a guest can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// It is too short.
    Truncated {
        /// How many bytes there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// Something follows it.
    TooLong {
        /// How many bytes there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// It does not start like one.
    NoSnapshot,
    /// It is written in another version of the format.
    Version(u16),
    /// It changed since it was taken.
    Checksum,
    /// It is of another architecture.
    Machine {
        /// The ELF machine number found.
        found: u16,
        /// The one of this architecture.
        expected: u16,
    },
    /// It is not written down in a way that the architecture has.
    Shape(u8),
    /// It has units that the guest does not have.
    Units {
        /// What it has.
        found: &'static str,
        /// What the guest has.
        guest: &'static str,
    },
    /// Its guest had vectors of another length.
    Limit {
        /// The longest that it could have, in bits.
        found: u16,
        /// The longest that this guest can have.
        guest: u16,
    },
    /// Its guest could choose among other lengths of vectors; bit n stands for n + 1 times 128 bits.
    Choice {
        /// Those that it had.
        found: u16,
        /// Those that this guest has.
        guest: u16,
    },
    /// A control register has a value that it cannot have.
    Value {
        /// Which.
        register: &'static str,
        /// The value.
        found: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { found, expected } => write!(f, "cut off: {found} bytes, expected {expected}"),
            Self::TooLong { found, expected } => write!(f, "too long: {found} bytes, expected {expected}"),
            Self::NoSnapshot => f.write_str("no FP snapshot: it starts otherwise"),
            Self::Version(found) => write!(f, "version {found}, expected {VERSION}"),
            Self::Checksum => f.write_str("its checksum does not agree with what it holds"),
            Self::Machine { found, expected } => {
                write!(f, "of ELF machine {found}, expected {expected}")
            }
            Self::Shape(found) => write!(f, "shape {found}, which this architecture does not have"),
            Self::Units { found, guest } => write!(f, "has {found}, and the guest has {guest}"),
            Self::Limit { found, guest } => {
                write!(f, "of a guest with vectors of {found} bits, and this one has {guest}")
            }
            Self::Choice { found, guest } => write!(
                f,
                "of a guest with vectors of {} bits, and this one has {}",
                LengthList(found),
                LengthList(guest)
            ),
            Self::Value { register, found } => {
                write!(f, "{register} is {found:#x}, which has bits that mean nothing")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}

/// Lengths of vectors in bits, from a mask.
struct LengthList(u16);

impl fmt::Display for LengthList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lengths = (0..16).filter(|n| self.0 >> n & 1 != 0).map(|n| 128 * (n + 1));
        match lengths.next() {
            None => f.write_str("unknown"),
            Some(first) => {
                write!(f, "{first}")?;
                lengths.try_for_each(|length| write!(f, ", {length}"))
            }
        }
    }
}

/// The FP state of a vCPU at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    /// Takes one of state in memory.
    pub fn take<F: FpContext>(state: &F) -> Self {
        let form = state.form();
        let mut bytes = Vec::with_capacity(HEADER + state.bytes(state.units()) as usize);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(F::LAYOUT.machine.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend([form.units.bits(), form.shape]);
        bytes.extend(form.limit.to_le_bytes());
        bytes.extend(form.choice.to_le_bytes());
        bytes.extend([0; 6]);
        state.export(&mut bytes);
        let length = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        Self(bytes)
    }

    /// Reads one, of any architecture.
    ///
    /// # Errors
    /// It is none, or not what it was.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SnapshotError> {
        let found = bytes.len();
        if found < HEADER {
            return Err(SnapshotError::Truncated { found, expected: HEADER });
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(SnapshotError::NoSnapshot);
        }
        let version = half(&bytes, 4);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let expected = (word(&bytes, 8) as usize).max(HEADER);
        if found < expected {
            return Err(SnapshotError::Truncated { found, expected });
        }
        if found > expected {
            return Err(SnapshotError::TooLong { found, expected });
        }
        if word(&bytes, CHECKSUM.start) != checksum(&bytes) {
            return Err(SnapshotError::Checksum);
        }
        Ok(Self(bytes))
    }

    /// Shows it as it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tells of which ELF machine it is.
    pub fn machine(&self) -> u16 {
        half(&self.0, 6)
    }

    /// Tells what its registers are.
    pub fn form(&self) -> Form {
        Form {
            units: Units::from_bits_retain(self.0[12]),
            shape: self.0[13],
            limit: half(&self.0, 14),
            choice: half(&self.0, 16),
        }
    }

    /// Checks that it is one of an architecture, with all of its registers.
    ///
    /// # Errors
    /// No guest on that architecture can have this state.
    pub fn check(&self, layout: &Layout) -> Result<(), SnapshotError> {
        if self.machine() != layout.machine {
            return Err(SnapshotError::Machine { found: self.machine(), expected: layout.machine });
        }
        let form = self.form();
        let expected = (0..)
            .map_while(|n| (layout.register)(form, n))
            .map(|register| register.at + register.bytes)
            .max()
            .ok_or(SnapshotError::Shape(form.shape))?;
        let found = self.0.len() - HEADER;
        if found < expected {
            return Err(SnapshotError::Truncated { found: HEADER + found, expected: HEADER + expected });
        }
        if found > expected {
            return Err(SnapshotError::TooLong { found: HEADER + found, expected: HEADER + expected });
        }
        Ok(())
    }

    /// Makes the state of a guest with `limit` from it.
    ///
    /// # Errors
    /// The guest cannot have that state.
    pub fn state<F: FpContext>(&self, limit: F::Limit) -> Result<F, SnapshotError> {
        self.check(&F::LAYOUT)?;
        F::import(limit, self.form(), &self.0[HEADER..])
    }

    /// Lists its registers with what they hold, the lowest byte first; none if it is of another architecture.
    pub fn registers(&self, layout: &Layout) -> impl Iterator<Item = (Register, &[u8])> {
        let form = self.form();
        let register = (self.machine() == layout.machine).then_some(layout.register);
        (0..).map_while(move |n| register?(form, n)).map_while(|register| {
            let at = HEADER + register.at;
            Some((register, self.0.get(at..at + register.bytes)?))
        })
    }

    /// Lists its registers for people: names and values, the highest digit first.
    pub fn named(&self, layout: &Layout) -> Vec<(String, String)> {
        let digits = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        self.registers(layout).map(|(register, value)| (register.to_string(), digits(value))).collect()
    }
}

/// 16 bits at an offset that was checked.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// 32 bits at an offset that was checked.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

/// The checksum of a snapshot, over everything but the place where it is kept.
fn checksum(bytes: &[u8]) -> u32 {
    crc32(bytes[..CHECKSUM.start].iter().chain(&bytes[CHECKSUM.end..]))
}

/// The CRC-32 of ISO 3309.
pub(super) fn crc32<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    let sum = bytes.into_iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    !sum
}
