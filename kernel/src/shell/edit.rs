//! The line being typed, and the ones before it.

/// The longest line, in bytes.
const LINE_BYTES: usize = 128;
/// How many earlier lines can be had back.
const HISTORY: usize = 8;

/// What a key did, for the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// Nothing to see.
    Nothing,
    /// A character was added.
    Echo(u8),
    /// This many characters at the end went.
    Erase(usize),
    /// A line of this many characters was replaced by another.
    Replace(usize),
    /// The line was given up.
    Abandon,
    /// The line is complete.
    Run,
}

/// Where in an escape sequence the keyboard is (ECMA-48 5.4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    Control,
}

#[derive(Clone, Copy)]
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    const EMPTY: Self = Self { bytes: [0; LINE_BYTES], len: 0 };

    fn text(&self) -> &str {
        // Only ASCII was ever added.
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// A line editor without a screen.
pub(super) struct Editor {
    line: Line,
    /// Earlier lines, the newest first, and which of them is shown: 0 is the line being typed.
    history: [Line; HISTORY],
    shown: usize,
    escape: Escape,
    after_return: bool,
}

impl Editor {
    pub(super) const fn new() -> Self {
        Self {
            line: Line::EMPTY,
            history: [Line::EMPTY; HISTORY],
            shown: 0,
            escape: Escape::None,
            after_return: false,
        }
    }

    /// The line as it is.
    pub(super) fn line(&self) -> &str {
        self.line.text()
    }

    /// Files the line under the earlier ones and begins the next.
    pub(super) fn next(&mut self) {
        if self.line.len > 0 && self.line.text() != self.history[0].text() {
            self.history.rotate_right(1);
            self.history[0] = self.line;
        }
        self.clear();
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: u8) -> Edit {
        let after_return = core::mem::replace(&mut self.after_return, key == b'\r');
        match (core::mem::replace(&mut self.escape, Escape::None), key) {
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Control,
            (Escape::Control, b'A') => return self.recall(self.shown + 1),
            (Escape::Control, b'B') => return self.recall(self.shown.saturating_sub(1)),
            // Parameters; the sequence goes on.
            (Escape::Control, 0x20..=0x3F) => self.escape = Escape::Control,
            (Escape::Control, _) => {}
            (_, 0x1B) => self.escape = Escape::Begun,
            (_, b'\n') if after_return => {}
            (_, b'\r' | b'\n') => return Edit::Run,
            (_, 0x03) => {
                self.clear();
                return Edit::Abandon;
            }
            (_, 0x15) => {
                let erased = self.line.len;
                self.clear();
                return Edit::Erase(erased);
            }
            (_, 0x08 | 0x7F) if self.line.len > 0 => {
                self.line.len -= 1;
                return Edit::Erase(1);
            }
            (_, b' '..=b'~') if self.line.len < LINE_BYTES => {
                self.line.bytes[self.line.len] = key;
                self.line.len += 1;
                return Edit::Echo(key);
            }
            _ => {}
        }
        Edit::Nothing
    }

    /// Shows the `n`th line back in place of the one there.
    fn recall(&mut self, n: usize) -> Edit {
        let erased = self.line.len;
        let line = match n.checked_sub(1) {
            None => Line::EMPTY,
            Some(n) => match self.history.get(n) {
                Some(line) if line.len > 0 => *line,
                _ => return Edit::Nothing,
            },
        };
        (self.line, self.shown) = (line, n);
        Edit::Replace(erased)
    }

    /// Forgets the line and begins the next.
    pub(super) fn clear(&mut self) {
        (self.line, self.shown) = (Line::EMPTY, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(editor: &mut Editor, keys: &[u8]) -> Edit {
        keys.iter().fold(Edit::Nothing, |_, &key| editor.key(key))
    }

    #[test]
    fn keys_edit_the_line() {
        let mut editor = Editor::new();
        assert_eq!(type_in(&mut editor, b"vmx"), Edit::Echo(b'x'));
        assert_eq!(
            (type_in(&mut editor, b"\x7F"), type_in(&mut editor, b"\x08")),
            (Edit::Erase(1), Edit::Erase(1))
        );
        assert_eq!(editor.line(), "v");
        assert_eq!((type_in(&mut editor, b"\x15"), editor.line()), (Edit::Erase(1), ""));
        assert_eq!(type_in(&mut editor, b"\x08"), Edit::Nothing);
        assert_eq!((type_in(&mut editor, b"abc\x03"), editor.line()), (Edit::Abandon, ""));
        assert_eq!(type_in(&mut editor, b"\xC3\xA9\x01"), Edit::Nothing);
        type_in(&mut editor, &[b'y'; 200]);
        assert_eq!(editor.line().len(), LINE_BYTES);
    }

    #[test]
    fn a_return_and_line_feed_are_one_end() {
        let mut editor = Editor::new();
        assert_eq!((editor.key(b'\r'), editor.key(b'\n')), (Edit::Run, Edit::Nothing));
        assert_eq!((editor.key(b'\n'), editor.key(b'\n')), (Edit::Run, Edit::Run));
    }

    #[test]
    fn earlier_lines_come_back_and_other_sequences_vanish() {
        let mut editor = Editor::new();
        for line in [&b"one\r"[..], b"two\r", b"two\r", b"\r"] {
            assert_eq!(type_in(&mut editor, line), Edit::Run);
            editor.next();
        }
        assert_eq!((type_in(&mut editor, b"x\x1B[A"), editor.line()), (Edit::Replace(1), "two"));
        assert_eq!((type_in(&mut editor, b"\x1B[A"), editor.line()), (Edit::Replace(3), "one"));
        assert_eq!((type_in(&mut editor, b"\x1B[A"), editor.line()), (Edit::Nothing, "one"));
        assert_eq!((type_in(&mut editor, b"\x1BOB\x1B[B"), editor.line()), (Edit::Replace(3), ""));
        assert_eq!((type_in(&mut editor, b"\x1B[3~\x1B[1;5C"), editor.line()), (Edit::Nothing, ""));
    }
}
