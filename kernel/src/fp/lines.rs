//! Snapshots as lines of text, which is how one goes over a console: out of this machine, or into it.
//!
//! ```text
//! fp-snapshot begin 286 e1372e80
//! 000 RlBTTgEAAgEeAQAAAQBAAAAAAADNXIsMDQMOAvIABCUAAAAAAwALmQAABAADAK9u cb8ec0c0
//! ...
//! fp-snapshot end 06236275
//! ```
//!
//! The first line has the length of the snapshot in bytes, the lines between it and the last have a number and 48 bytes
//! each, fewer in the last of them, in base64 (RFC 4648, section 4). Each line ends with the CRC-32 (ISO 3309) of the
//! characters before the blank in front of it. There is one way to write each line, and it is the only one that is read.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use base64ct::{Base64, Encoding};

use super::snapshot::{HEADER, Snapshot, SnapshotError, crc32};

/// How the first line and the last one start.
const HEAD: &str = "fp-snapshot";
/// Bytes of a snapshot in a line. 48 make 64 characters, and all of a line fits on a terminal of 80 columns.
const PART: usize = 48;
/// The longest snapshot that can be written as lines, in bytes. SVE with vectors of 2,048 bits makes 8,784; 200 lines of 79
/// characters, with what is around them, are what the prompt's port holds (16 KiB).
pub const LONGEST: usize = 200 * PART;
/// Hexadecimal digits of a checksum.
const SUM_DIGITS: usize = 8;

impl Snapshot {
    /// Writes it as lines.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write_lines(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{}", checked(first(self.bytes().len())))?;
        for (n, part) in self.bytes().chunks(PART).enumerate() {
            writeln!(out, "{}", checked(middle(n, part)))?;
        }
        writeln!(out, "{}", checked(last()))
    }
}

fn first(length: usize) -> String {
    format!("{HEAD} begin {length}")
}

fn middle(n: usize, part: &[u8]) -> String {
    format!("{n:03} {}", Base64::encode_string(part))
}

fn last() -> String {
    format!("{HEAD} end")
}

/// A line with its checksum.
fn checked(line: String) -> String {
    let sum = crc32(line.as_bytes());
    line + &format!(" {sum:08x}")
}

/// A line of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The first.
    Begin,
    /// The one with this number.
    Part(usize),
    /// The last.
    End,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin => write!(f, "{HEAD} begin"),
            Self::Part(n) => write!(f, "line {n:03}"),
            Self::End => write!(f, "{HEAD} end"),
        }
    }
}

/// Why a line was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It is no line of a snapshot, or it changed on its way.
    Garbled {
        /// The line that should come.
        expected: Line,
    },
    /// It is another line than the one that should come.
    Order {
        /// The line that came.
        found: Line,
        /// The line that should come.
        expected: Line,
    },
    /// It announces a snapshot of a length that none has.
    Length(usize),
    /// There is no memory for so many bytes.
    Memory(usize),
    /// It is the last line, and one before it is missing. The next should be the first again.
    Missing(Line),
    /// It was the last line, and what all of them say is no snapshot. The next should be the first again.
    Unsound(SnapshotError),
}

impl LineError {
    /// Whether nothing is left of the lines before it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Missing(_) | Self::Unsound(_))
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbled { expected } => {
                write!(f, "no such line, or changed on its way: expected {expected}")
            }
            Self::Order { found, expected } => write!(f, "found {found}, expected {expected}"),
            Self::Length(found) => {
                write!(f, "found a length of {found}, expected {HEADER} to {LONGEST} bytes")
            }
            Self::Memory(bytes) => write!(f, "there is no memory for {bytes} bytes"),
            Self::Missing(line) => write!(f, "found {}, and {line} is missing", Line::End),
            Self::Unsound(error) => write!(f, "all lines are there, but {error}"),
        }
    }
}

/// Reads a snapshot from lines. A line that is not taken changes nothing, so it may be sent again; the first line starts
/// anew whenever it comes.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The announced length, and the bytes so far; none before the first line.
    begun: Option<(usize, Vec<u8>)>,
}

impl Reader {
    /// Tells which line should come next.
    pub fn expected(&self) -> Line {
        match &self.begun {
            None => Line::Begin,
            Some((length, bytes)) if bytes.len() < *length => Line::Part(bytes.len() / PART),
            Some(_) => Line::End,
        }
    }

    /// Takes a line; with the last one, returns the snapshot.
    ///
    /// # Errors
    /// Says why it was not taken.
    pub fn line(&mut self, line: &str) -> Result<Option<Snapshot>, LineError> {
        let expected = self.expected();
        let garbled = LineError::Garbled { expected };
        let words: Vec<&str> = line.split(' ').collect();
        let text = line.len().checked_sub(SUM_DIGITS + 1).and_then(|end| line.get(..end)).unwrap_or_default();
        // Each line is written again, since what looks alike need not be the same.
        let sound = |again: String| again == text && checked(again) == line;
        match words[..] {
            [HEAD, "begin", length, _] => {
                let length = length.parse().map_err(|_| garbled)?;
                if sound(first(length)) { self.begin(length) } else { Err(garbled) }
            }
            [HEAD, "end", _] if sound(last()) => self.end(),
            [n, data, _] => {
                let n = n.parse().map_err(|_| garbled)?;
                let part = Base64::decode_vec(data).map_err(|_| garbled)?;
                if sound(middle(n, &part)) { self.part(n, &part) } else { Err(garbled) }
            }
            _ => Err(garbled),
        }
    }

    fn begin(&mut self, length: usize) -> Result<Option<Snapshot>, LineError> {
        if !(HEADER..=LONGEST).contains(&length) {
            return Err(LineError::Length(length));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| LineError::Memory(length))?;
        self.begun = Some((length, bytes));
        Ok(None)
    }

    fn part(&mut self, n: usize, part: &[u8]) -> Result<Option<Snapshot>, LineError> {
        let expected = self.expected();
        match &mut self.begun {
            Some((length, bytes)) if expected == Line::Part(n) => {
                if part.len() != PART.min(*length - bytes.len()) {
                    return Err(LineError::Garbled { expected });
                }
                bytes.extend(part);
                Ok(None)
            }
            _ => Err(LineError::Order { found: Line::Part(n), expected }),
        }
    }

    fn end(&mut self) -> Result<Option<Snapshot>, LineError> {
        let expected = self.expected();
        match self.begun.take() {
            Some((_, bytes)) if expected == Line::End => {
                Snapshot::from_bytes(bytes).map(Some).map_err(LineError::Unsound)
            }
            Some(_) => Err(LineError::Missing(expected)),
            None => Err(LineError::Order { found: Line::End, expected }),
        }
    }
}
