//! Device trees, read without trusting them.
//!
//! A tree arrives from firmware, from a boot loader's script or from a file somebody edited by hand, and it is
//! read before there is anything to recover with. So [`Tree::parse`] goes over the whole blob once, and checks
//! every offset, token, name and value length in it; what it returns can be walked without a bounds error.
//!
//! The `fdt` crate checks the header and lists the memory reservations, which it does soundly once the offsets are
//! known to be good. The structure block is walked by our own cursor (`scan`), for three reasons found by trying:
//! the crate indexes and unwraps on what it reads, so each walk would have to be proven harmless by our check
//! anyway; it takes a NOP token between a node's end and the next for corruption and panics, and QEMU leaves such
//! tokens where it takes a memory node out; and its nodes do not know their parents, which translating an address
//! or naming a node in a message needs. The check is a cursor already, and navigation on top of it is short.
//!
//! Nothing in here allocates: the tree says where memory is, so it is read before there is a heap.

mod complaint;
mod node;
mod scan;

use core::fmt;

use ::fdt::Fdt;

pub use self::complaint::{Complaint, Found, Wanted};
pub use self::node::{Cells, Interrupts, Node, Path, Properties, Regions, Specifier, Strings, Value};
use self::scan::Blocks;
use crate::addr::Hpa;
use crate::mem::Region;

/// The largest tree that is accepted, in bytes: what the arm64 and LoongArch boot protocols allow.
pub const MAX_SIZE: usize = 2 << 20;
/// How deep nodes may be nested, the root included.
pub const MAX_DEPTH: usize = 32;
/// The size in bytes of the header of a tree of version 17.
pub const HEADER_SIZE: usize = 40;

/// The four bytes a tree starts with (Devicetree Specification 0.4, 5.2).
const MAGIC: u32 = 0xd00d_feed;
/// The version of the format that is read, which is what everything has written since 2007.
const VERSION: u32 = 17;

/// A device tree that is known to be well formed.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
    blocks: Blocks<'a>,
    size: usize,
}

/// A part of a device tree's blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The list of reserved memory.
    Reservations,
    /// The nodes and properties.
    Structure,
    /// The names of properties.
    Strings,
}

/// Why a blob is no device tree. Offsets are in bytes from the start of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// There are fewer bytes than a header has.
    NoHeader {
        /// How many there are.
        found: usize,
    },
    /// It does not start with the magic number.
    Magic {
        /// What it starts with.
        found: u32,
    },
    /// It is written in a version of the format that is not read here.
    Version {
        /// The version it says it has.
        found: u32,
    },
    /// It says it is longer than it is, longer than [`MAX_SIZE`], or shorter than its header.
    Size {
        /// The size it claims.
        found: usize,
        /// How many bytes there are.
        available: usize,
    },
    /// A block is misaligned or does not lie inside the tree.
    Misplaced {
        /// Which.
        block: Block,
        /// Where it is said to start.
        at: usize,
    },
    /// A block ends in the middle of something.
    Truncated {
        /// Which.
        block: Block,
        /// What did not fit.
        at: usize,
    },
    /// There is no such token.
    Token {
        /// Where it is.
        at: usize,
        /// What it says.
        found: u32,
    },
    /// A token stands where it makes no sense, such as a property after a child node.
    Order {
        /// Where it is.
        at: usize,
    },
    /// A node or property has a name that is empty, unterminated, not printable, or has a slash in it.
    Name {
        /// The node or property.
        at: usize,
    },
    /// Nodes are nested deeper than [`MAX_DEPTH`].
    Depth {
        /// The node.
        at: usize,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device tree: ")?;
        match *self {
            Self::NoHeader { found } => write!(f, "found {found} bytes, expected at least {HEADER_SIZE}"),
            Self::Magic { found } => write!(f, "magic: found {found:#x}, expected {MAGIC:#x}"),
            Self::Version { found } => write!(f, "version: found {found}, expected {VERSION}"),
            Self::Size { found, available } => {
                let most = available.min(MAX_SIZE);
                write!(f, "total size: found {found:#x}, expected {HEADER_SIZE:#x} to {most:#x}")
            }
            Self::Misplaced { block, at } => {
                write!(f, "{block:?}: found at {at:#x}, expected an aligned block inside the tree")
            }
            Self::Truncated { block, at } => write!(f, "{block:?}: found its end inside what is at {at:#x}"),
            Self::Token { at, found } => {
                write!(f, "at {at:#x}: found token {found:#x}, expected 1, 2, 3, 4 or 9")
            }
            Self::Order { at } => write!(f, "at {at:#x}: found a token that cannot stand there"),
            Self::Name { at } => {
                write!(f, "at {at:#x}: found a bad name, expected printable ASCII without a slash")
            }
            Self::Depth { at } => write!(f, "at {at:#x}: found nodes nested deeper than {MAX_DEPTH}"),
        }
    }
}

/// Reads the big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

impl<'a> Tree<'a> {
    /// Reads from the first [`HEADER_SIZE`] bytes how long the whole tree is, in bytes: what has to be mapped to parse
    /// it. The size is at most [`MAX_SIZE`].
    pub fn claimed_size(header: &[u8]) -> Result<usize, TreeError> {
        let field = |at| word(header, at).ok_or(TreeError::NoHeader { found: header.len() });
        let (magic, size, version, compatible) = (field(0)?, field(4)?, field(20)?, field(24)?);
        if header.len() < HEADER_SIZE {
            return Err(TreeError::NoHeader { found: header.len() });
        }
        if magic != MAGIC {
            return Err(TreeError::Magic { found: magic });
        }
        if version < VERSION || compatible > VERSION {
            return Err(TreeError::Version { found: if version < VERSION { version } else { compatible } });
        }
        let size = size as usize;
        if !(HEADER_SIZE..=MAX_SIZE).contains(&size) {
            return Err(TreeError::Size { found: size, available: MAX_SIZE });
        }
        Ok(size)
    }

    /// Checks the whole of `blob`, which may be longer than the tree in it.
    pub fn parse(blob: &'a [u8]) -> Result<Self, TreeError> {
        let size = Self::claimed_size(blob)?;
        let too_long = TreeError::Size { found: size, available: blob.len() };
        let blob = blob.get(..size).ok_or(too_long)?;
        let blocks = Blocks::locate(blob)?;
        blocks.check()?;
        let fdt = Fdt::new(blob).map_err(|_| too_long)?;
        Ok(Self { fdt, blocks, size })
    }

    /// How many bytes the tree takes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The root.
    pub fn root(&self) -> Node<'a> {
        Node::root(self.blocks)
    }

    /// All nodes, each before its children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        node::Nodes::new(self.blocks)
    }

    /// The node at `path`, which starts with a slash or with an alias. A part without a unit address finds the first
    /// node that has that name.
    pub fn find(&self, path: &str) -> Option<Node<'a>> {
        match path.strip_prefix('/') {
            Some(path) => self.root().descend(path),
            None => {
                let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
                let aliases = self.root().child("aliases")?;
                let target = aliases.property(alias)?.text()?;
                self.root().descend(target.strip_prefix('/')?)?.descend(rest)
            }
        }
    }

    /// The node that others refer to by `phandle`.
    pub fn phandle(&self, phandle: u32) -> Option<Node<'a>> {
        node::by_phandle(self.blocks, phandle)
    }

    /// All usable nodes that are compatible with `what`.
    pub fn compatible<'s>(&self, what: &'s str) -> impl Iterator<Item = Node<'a>> + use<'a, 's> {
        self.nodes().filter(move |node| node.is_compatible(what) && node.is_usable())
    }

    /// The entries of the memory reservation block. What wraps around the end of memory is cut off there.
    pub fn reservations(&self) -> impl Iterator<Item = Region> + use<'a> {
        self.fdt
            .memory_reservations()
            .filter_map(|entry| Region::clipped(Hpa(entry.address() as usize as u64), entry.size() as u64))
    }
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({} bytes)", self.size)
    }
}

#[cfg(test)]
mod tests;
