//! All consoles on one serial line, and the text that comes out of it.
//!
//! The byte 0x1E and the character `'0' + n` say that what follows belongs to console n, until the next such pair;
//! 0x1E twice is that byte itself. Console 0 is Fermata's own; guests are numbered from 1 in the order of the tree.
//! The same holds in both directions.

use super::outcome::{Fate, Said};

/// The byte that starts a pair (ASCII record separator).
const MARK: u8 = 0x1e;

/// Takes framed bytes apart. What comes before the first pair belongs to console 0.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    console: usize,
    marked: bool,
}

impl Demux {
    /// Takes `bytes` apart into runs that belong to one console each. A pair may be torn between two calls.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(usize, &[u8])) {
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            match (self.marked, byte) {
                (false, MARK) => {
                    out(self.console, &bytes[start..at]);
                    self.marked = true;
                    start = at + 1;
                }
                (false, _) => {}
                (true, MARK) => {
                    out(self.console, &[MARK]);
                    self.marked = false;
                    start = at + 1;
                }
                (true, b'0'..) => {
                    self.console = usize::from(byte - b'0');
                    self.marked = false;
                    start = at + 1;
                }
                // No console has this character: noise on the line, kept where it is seen.
                (true, _) => {
                    self.marked = false;
                    start = at;
                }
            }
        }
        if !self.marked {
            out(self.console, &bytes[start..]);
        }
    }
}

/// Which number on the line is which console. A guest that is refused while the device tree is read has no number, and
/// those after it count on without it.
#[derive(Debug)]
pub(crate) struct Ports {
    guests: Vec<String>,
    refused: Vec<usize>,
    settled: bool,
}

impl Ports {
    /// Starts with a number for every guest.
    pub(crate) fn new(guests: &[String]) -> Self {
        Self { guests: guests.to_vec(), refused: Vec::new(), settled: false }
    }

    /// Learns from a line of Fermata's own console.
    pub(crate) fn hear(&mut self, line: &str) {
        match Said::parse(line) {
            Some(Said::Memory(_)) => self.settled = true,
            Some(Said::Guest(name, Some(Fate::NotStarted(_)))) if !self.settled => {
                self.refused.extend(self.guests.iter().position(|guest| *guest == name).map(|at| at + 1));
            }
            _ => {}
        }
    }

    /// Tells whether it is known who was refused while the device tree was read.
    pub(crate) const fn are_settled(&self) -> bool {
        self.settled
    }

    /// Returns the console that has a number on the line.
    pub(crate) fn console(&self, number: usize) -> usize {
        let with_number = |console: &usize| !self.refused.contains(console);
        let beyond = self.guests.len() + 1;
        (0..beyond).filter(with_number).nth(number).unwrap_or(number.max(beyond))
    }

    /// Returns the number a console has on the line.
    pub(crate) fn number(&self, console: usize) -> Option<usize> {
        let before = self.refused.iter().filter(|&&refused| refused < console).count();
        (!self.refused.contains(&console)).then(|| console - before)
    }
}

/// Frames `bytes` for console `console`.
///
/// # Panics
/// There is no character for so high a number.
pub(crate) fn frame(console: usize, bytes: &[u8]) -> Vec<u8> {
    let number = u8::try_from(console).ok().and_then(|n| n.checked_add(b'0')).expect("consoles are few");
    let mut framed = vec![MARK, number];
    for &byte in bytes {
        framed.push(byte);
        if byte == MARK {
            framed.push(MARK);
        }
    }
    framed
}

/// Takes terminal control out of text: carriage returns, bells and escape sequences.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    state: Escape,
}

/// Where in an escape sequence the text is (ECMA-48 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    /// In none.
    #[default]
    Text,
    /// After ESC.
    Start,
    /// After ESC and `[`: up to a byte from `@` to `~`.
    Sequence,
}

impl Plain {
    /// Returns what is text in `bytes`.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => Escape::Start,
                (Escape::Text, b'\r' | 0x07 | 0) => Escape::Text,
                (Escape::Start, b'[') => Escape::Sequence,
                (Escape::Start, _) | (Escape::Sequence, b'@'..=b'~') => Escape::Text,
                (Escape::Sequence, _) => Escape::Sequence,
                (Escape::Text, _) => {
                    text.push(byte);
                    Escape::Text
                }
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demux(chunks: &[&[u8]]) -> Vec<(usize, Vec<u8>)> {
        let mut demux = Demux::default();
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            demux.feed(chunk, |console, bytes| match runs.last_mut() {
                _ if bytes.is_empty() => {}
                Some((last, run)) if *last == console => run.extend(bytes),
                _ => runs.push((console, bytes.to_vec())),
            });
        }
        runs
    }

    #[test]
    fn pairs_select_and_doubles_are_literal() {
        let runs = demux(&[b"boot\n\x1e1hello\x1e2wo\x1e\x1erld\x1e0x\x1e:ten"]);
        let expected: [(usize, &[u8]); 5] =
            [(0, b"boot\n"), (1, b"hello"), (2, b"wo\x1erld"), (0, b"x"), (10, b"ten")];
        assert_eq!(runs, expected.map(|(n, bytes)| (n, bytes.to_vec())));
    }

    #[test]
    fn a_guest_refused_at_the_start_has_no_number() {
        let mut ports = Ports::new(&["a", "b", "c"].map(String::from));
        ports.hear("fermata: vm b not started: no kernel");
        ports.hear("fermata: memory before guests: 1 KiB");
        ports.hear("fermata: vm c not started: no memory");
        assert_eq!([0, 1, 2, 3].map(|number| ports.console(number)), [0, 1, 3, 4]);
        assert_eq!([0, 1, 2, 3].map(|console| ports.number(console)), [Some(0), Some(1), None, Some(2)]);
    }

    #[test]
    fn noise_after_a_mark_is_kept() {
        assert_eq!(demux(&[b"\x1e1a\x1e\nb"]), [(1, b"a\nb".to_vec())]);
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_out_however_the_line_is_cut(
            runs in proptest::collection::vec((0usize..40, proptest::collection::vec(any::<u8>(), 1..20)), 0..12),
            cuts in proptest::collection::vec(0usize..300, 0..12),
        ) {
            let line: Vec<u8> = runs.iter().flat_map(|(console, bytes)| frame(*console, bytes)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(line.len())).chain([0, line.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &line[pair[0]..pair[1]]).collect();
            let mut expected: Vec<(usize, Vec<u8>)> = Vec::new();
            for (console, bytes) in runs {
                match expected.last_mut() {
                    Some((last, run)) if *last == console => run.extend(bytes),
                    _ => expected.push((console, bytes)),
                }
            }
            prop_assert_eq!(demux(&chunks), expected);
        }
    }

    #[test]
    fn control_sequences_are_no_text() {
        let mut plain = Plain::default();
        assert_eq!(plain.feed(b"a\r\n\x1b[1;31mred\x1b[0m\x07 ~ # \x1b[6"), b"a\nred ~ # ");
        assert_eq!(plain.feed(b"nok"), b"ok");
    }
}
