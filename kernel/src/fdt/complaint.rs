//! What is wrong with a well-formed tree, said so that it can be mended.

use core::fmt;

use super::{Node, Value};
use crate::mem::Region;

/// A property that does not say what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint<'a> {
    /// Where.
    pub node: Node<'a>,
    /// Which property, or what else of the node.
    pub property: &'a str,
    /// What is there.
    pub found: Found<'a>,
    /// What should be.
    pub wanted: Wanted<'a>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// It is missing.
    Nothing,
    /// A value, as it is in the tree.
    Value(Value<'a>),
    /// A number.
    Number(u64),
    /// A string.
    Text(&'a str),
    /// A range of memory.
    Region(Region),
}

/// What was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// In words.
    Text(&'static str),
    /// A number from the first to the second.
    Between(u64, u64),
    /// That many KiB or more.
    AtLeastKib(u64),
    /// That many KiB or fewer.
    AtMostKib(u64),
    /// The number of a CPU that is in this mask.
    CpuOf(u64),
    /// One of these numbers.
    OneOf(&'a [u64]),
    /// Memory of its own, apart from what that node names.
    ApartFrom(Node<'a>),
}

impl Wanted<'_> {
    /// Whether people count what is wanted, so that what was found is better read in decimal.
    fn is_count(&self) -> bool {
        matches!(
            self,
            Self::Between(..) | Self::OneOf(_) | Self::AtLeastKib(_) | Self::AtMostKib(_) | Self::CpuOf(_)
        )
    }
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: found ", self.node.path(), self.property)?;
        match (self.found, self.wanted.is_count()) {
            (Found::Number(number), true) => write!(f, "{number}")?,
            (found, _) => write!(f, "{found}")?,
        }
        write!(f, ", expected {}", self.wanted)
    }
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Region(region) => write!(f, "{region}"),
            Self::Value(value) => value_as_source(f, value),
        }
    }
}

/// Prints a value the way a tree's source would have it.
fn value_as_source(f: &mut fmt::Formatter<'_>, value: &Value<'_>) -> fmt::Result {
    let length = value.bytes().len();
    if let Some(text) = value.text().filter(|text| !text.is_empty() && text.len() <= 64) {
        return write!(f, "{text:?}");
    }
    if length == 0 {
        return f.write_str("an empty value");
    }
    if length > 32 || !length.is_multiple_of(4) {
        return write!(f, "{length} bytes");
    }
    for (index, cell) in value.cells().enumerate() {
        write!(f, "{}{cell:#x}", if index == 0 { "<" } else { " " })?;
    }
    f.write_str(">")
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
            Self::AtLeastKib(size) => write!(f, "at least {size} KiB"),
            Self::AtMostKib(size) => write!(f, "at most {size} KiB"),
            Self::CpuOf(mask) => write!(f, "a CPU of the set {mask:#x}"),
            Self::OneOf(numbers) => {
                f.write_str("one of: ")?;
                for (n, number) in numbers.iter().enumerate() {
                    write!(f, "{}{number}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::ApartFrom(node) => write!(f, "no overlap with {}", node.path()),
        }
    }
}
