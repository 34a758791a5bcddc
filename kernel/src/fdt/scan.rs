//! The structure block as a sequence of tokens, and the check that it is one.

use super::{Block, HEADER_SIZE, MAX_DEPTH, TreeError, word};

/// The longest name of a property, in bytes. The specification has 31; without any limit, a small tree whose
/// properties all share one long name would take minutes to check.
const MAX_NAME: usize = 256;

/// A token of the structure block.
#[derive(Clone, Copy)]
pub(super) enum Token<'a> {
    /// A node begins.
    Begin(&'a str),
    /// A node ends.
    End,
    /// A property of the node that began last.
    Property(&'a str, &'a [u8]),
    /// Nothing.
    Nop,
    /// The tree ends.
    Finish,
}

/// The blocks of a tree. They are found through the header each time, so that a node stays a few words long and can
/// be part of an error.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    blob: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// Finds the blocks of a blob whose header has been looked at, and checks the memory reservations.
    pub(super) fn locate(blob: &'a [u8]) -> Result<Self, TreeError> {
        let blocks = Self { blob };
        let check = |block, at: usize, bytes: Option<&[u8]>, align: usize| {
            let good = bytes.is_some() && at >= HEADER_SIZE && at.is_multiple_of(align);
            if good { Ok(()) } else { Err(TreeError::Misplaced { block, at }) }
        };
        check(Block::Structure, blocks.field(8), blocks.part(8, 36), 4)?;
        check(Block::Strings, blocks.field(12), blocks.part(12, 32), 1)?;
        let reserved = blocks.field(16);
        let entries = blob.get(reserved..);
        check(Block::Reservations, reserved, entries, 8)?;
        let zero = |entry: &[u8]| entry.iter().all(|&byte| byte == 0);
        if !entries.unwrap_or_default().chunks_exact(16).any(zero) {
            return Err(TreeError::Truncated { block: Block::Reservations, at: reserved });
        }
        Ok(blocks)
    }

    /// A word of the header.
    fn field(&self, at: usize) -> usize {
        word(self.blob, at).unwrap_or(0) as usize
    }

    /// The block whose offset and size are in those words of the header.
    fn part(&self, offset: usize, size: usize) -> Option<&'a [u8]> {
        let start = self.field(offset);
        self.blob.get(start..start.checked_add(self.field(size))?)
    }

    /// Reads the token at `at`, and where the next one is.
    pub(super) fn token(&self, at: usize) -> Result<(Token<'a>, usize), TreeError> {
        let structure = self.part(8, 36).unwrap_or_default();
        let origin = self.field(8);
        let truncated = TreeError::Truncated { block: Block::Structure, at: origin + at };
        let code = word(structure, at).ok_or(truncated)?;
        let body = at + 4;
        match code {
            1 => {
                let rest = structure.get(body..).ok_or(truncated)?;
                let length = rest.iter().position(|&byte| byte == 0).ok_or(truncated)?;
                let name = name(&rest[..length]).ok_or(TreeError::Name { at: origin + at })?;
                Ok((Token::Begin(name), (body + length + 1).next_multiple_of(4)))
            }
            2 => Ok((Token::End, body)),
            3 => {
                let length = word(structure, body).ok_or(truncated)? as usize;
                let name = word(structure, body + 4).ok_or(truncated)? as usize;
                let name = self.string(name).ok_or(TreeError::Name { at: origin + at })?;
                let end = (body + 8).checked_add(length).ok_or(truncated)?;
                let value = structure.get(body + 8..end).ok_or(truncated)?;
                Ok((Token::Property(name, value), end.next_multiple_of(4)))
            }
            4 => Ok((Token::Nop, body)),
            9 => Ok((Token::Finish, body)),
            found => Err(TreeError::Token { at: origin + at, found }),
        }
    }

    /// The name of a property.
    fn string(&self, at: usize) -> Option<&'a str> {
        let rest = self.part(12, 32)?.get(at..)?;
        let length = rest.iter().take(MAX_NAME).position(|&byte| byte == 0)?;
        name(&rest[..length]).filter(|name| !name.is_empty())
    }

    /// Goes over every token, so that no later walk meets one that cannot be read.
    pub(super) fn check(&self) -> Result<(), TreeError> {
        let origin = self.field(8);
        let (mut at, mut depth, mut rooted) = (0, 0, false);
        // Properties come before child nodes; accepting them later would hide half of a node from a reader that stops
        // at the first child.
        let mut properties_may_follow = false;
        loop {
            let (token, next) = self.token(at)?;
            let order = TreeError::Order { at: origin + at };
            match token {
                Token::Begin(name) => {
                    if depth == MAX_DEPTH {
                        return Err(TreeError::Depth { at: origin + at });
                    }
                    if depth == 0 && rooted {
                        return Err(order);
                    }
                    if depth > 0 && name.is_empty() {
                        return Err(TreeError::Name { at: origin + at });
                    }
                    (rooted, properties_may_follow) = (true, true);
                    depth += 1;
                }
                Token::End if depth > 0 => {
                    depth -= 1;
                    properties_may_follow = false;
                }
                Token::Property(..) if properties_may_follow => {}
                Token::Nop => {}
                Token::Finish if depth == 0 && rooted => return Ok(()),
                Token::End | Token::Property(..) | Token::Finish => return Err(order),
            }
            at = next;
        }
    }
}

/// A name: printable, and no slash in it, so that a path can be taken apart again.
fn name(bytes: &[u8]) -> Option<&str> {
    let good = bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'/');
    core::str::from_utf8(bytes).ok().filter(|_| good)
}
