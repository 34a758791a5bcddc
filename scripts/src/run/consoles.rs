//! The text of every console of a run: lines as they complete, and what a script searches.

use super::framing::Plain;

/// Most text of one console that is kept for searching, in bytes.
const KEPT: usize = 64 << 10;
/// Longest line, in bytes; a longer one is broken.
const LONGEST_LINE: usize = 16 << 10;
/// How many lines of a console a failure shows.
const TAIL: usize = 12;

/// The consoles of a run: Fermata's is number 0, guests count from 1.
#[derive(Debug)]
pub(crate) struct Consoles {
    names: Vec<String>,
    texts: Vec<Text>,
}

/// What a console said.
#[derive(Debug, Default)]
struct Text {
    plain: Plain,
    /// The last bytes of it.
    kept: Vec<u8>,
    /// How many bytes came before those.
    dropped: usize,
    /// The line that is not complete yet.
    line: Vec<u8>,
}

impl Consoles {
    /// Starts with nothing said.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let texts = names.iter().map(|_| Text::default()).collect();
        Self { names, texts }
    }

    /// Names a console, also one that nobody announced.
    pub(crate) fn name(&self, console: usize) -> String {
        self.names.get(console).cloned().unwrap_or_else(|| format!("console {console}"))
    }

    /// Takes in what came from a console and returns the lines that are complete with it.
    pub(crate) fn feed(&mut self, console: usize, bytes: &[u8]) -> Vec<String> {
        if self.texts.len() <= console {
            self.texts.resize_with(console + 1, Text::default);
        }
        let text = &mut self.texts[console];
        let plain = text.plain.feed(bytes);
        text.kept.extend(&plain);
        // Dropping half at a time keeps this cheap for a console that floods.
        if text.kept.len() > 2 * KEPT {
            let excess = text.kept.len() - KEPT;
            text.kept.drain(..excess);
            text.dropped += excess;
        }
        let mut lines = Vec::new();
        for byte in plain {
            if byte != b'\n' {
                text.line.push(byte);
            }
            if byte == b'\n' || text.line.len() == LONGEST_LINE {
                lines.push(String::from_utf8_lossy(&std::mem::take(&mut text.line)).into_owned());
            }
        }
        lines
    }

    /// Takes the lines that never ended, with the numbers of their consoles.
    pub(crate) fn take_partial(&mut self) -> Vec<(usize, String)> {
        let take = |text: &mut Text| String::from_utf8_lossy(&std::mem::take(&mut text.line)).into_owned();
        self.texts.iter_mut().map(take).enumerate().filter(|(_, line)| !line.is_empty()).collect()
    }

    /// Searches a console from byte `from` of all it ever said; returns the byte after the text.
    pub(crate) fn find(&self, console: usize, from: usize, wanted: &[u8]) -> Option<usize> {
        let text = self.texts.get(console)?;
        let start = from.saturating_sub(text.dropped).min(text.kept.len());
        let at = text.kept[start..].windows(wanted.len()).position(|window| window == wanted)?;
        Some(text.dropped + start + at + wanted.len())
    }

    /// Counts the bytes of all that a console ever said.
    pub(crate) fn said(&self, console: usize) -> usize {
        self.texts.get(console).map_or(0, |text| text.dropped + text.kept.len())
    }

    /// Returns what a console said after the first `from` bytes, as far as it is kept.
    pub(crate) fn text(&self, console: usize, from: usize) -> &[u8] {
        self.texts.get(console).map_or(&[], |text| {
            let start = from.saturating_sub(text.dropped).min(text.kept.len());
            &text.kept[start..]
        })
    }

    /// Returns the last lines of a console, each with its name before it.
    pub(crate) fn tail(&self, console: usize) -> String {
        let kept = self.texts.get(console).map_or(&[][..], |text| &text.kept);
        let text = String::from_utf8_lossy(kept);
        let lines: Vec<&str> = text.lines().collect();
        let name = self.name(console);
        if lines.is_empty() {
            return format!("  [{name}] (said nothing)\n");
        }
        lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("  [{name}] {line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_when_complete() {
        let mut consoles = Consoles::new(vec!["fermata".into(), "a".into()]);
        assert_eq!(consoles.feed(1, b"one\r\ntw"), ["one"]);
        assert_eq!(consoles.feed(0, b"x\n"), ["x"]);
        assert_eq!(consoles.feed(1, b"o\n~ # "), ["two"]);
        assert_eq!(consoles.take_partial(), [(1, "~ # ".to_string())]);
        assert_eq!(consoles.take_partial(), []);
        assert_eq!(consoles.feed(7, b"who\n"), ["who"]);
        assert_eq!(consoles.name(7), "console 7");
    }

    #[test]
    fn a_flood_leaves_the_end_to_be_found() {
        let mut consoles = Consoles::new(vec!["fermata".into()]);
        for number in 0..40_000 {
            consoles.feed(0, format!("line {number}\n").as_bytes());
        }
        let length: usize = (0..40_000).map(|number| format!("line {number}\n").len()).sum();
        assert_eq!(consoles.find(0, 0, b"line 39999\n"), Some(length));
        assert_eq!(consoles.find(0, length, b"line"), None);
        assert!(consoles.texts[0].kept.len() <= 2 * KEPT);
        assert_eq!(consoles.tail(0).lines().count(), TAIL);
    }
}
