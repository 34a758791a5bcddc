//! Scripts: what to type into which console, and what to wait for first. `cargo xtask run --help` has the language.

use super::consoles::Consoles;
use crate::fp;
use anyhow::{Context, Result, anyhow, bail, ensure};
use kernel::fp::Snapshot;
use kernel::fp::lines::Reader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an `expect` may take where nothing is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fermata's own console.
const FERMATA: usize = 0;

/// A console a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Any,
    Console(usize),
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Expect(Who, Vec<u8>),
    Type(usize, Vec<u8>),
    Timeout(Duration),
    Pause(Duration),
    /// Export the newest snapshot of a vCPU into a file.
    Save(String, PathBuf),
    /// Import a snapshot from a file for a vCPU.
    Load(String, PathBuf),
}

/// A line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    number: usize,
    text: String,
    act: Act,
}

/// A script on its way.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    lines: Vec<Line>,
    at: usize,
    since: Option<Instant>,
    /// The export that the line the script stands at has asked for.
    export: Option<Export>,
    patience: Duration,
    seen: Vec<usize>,
}

/// An export under way.
#[derive(Clone, Debug)]
struct Export {
    /// How much of what Fermata said was read, in bytes.
    at: usize,
    reader: Reader,
}

impl Export {
    /// Reads the lines that are complete; returns the snapshot with its last one. What the log broke off, the console shows
    /// again, so a line that is none is passed over.
    fn read(&mut self, consoles: &Consoles) -> Option<Snapshot> {
        let text = consoles.text(FERMATA, self.at);
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            self.at += line.len();
            if let Ok(Some(snapshot)) = self.reader.line(String::from_utf8_lossy(line).trim()) {
                return Some(snapshot);
            }
        }
        None
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Type these bytes into this console, and ask again.
    Type(usize, Vec<u8>),
    /// Ask again when there is more text, or at this moment.
    Wait(Instant),
    /// The script is over.
    Done,
    /// What was expected did not come.
    Failed(String),
}

impl Script {
    /// Reads a script for consoles of these names, with its files in `folder` where they have no path of their own.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub(crate) fn parse(text: &str, consoles: &[String], folder: &Path) -> Result<Self> {
        let mut lines = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let act =
                act(text, consoles, folder).with_context(|| format!("script line {}: {text}", index + 1))?;
            lines.push(Line { number: index + 1, text: text.to_string(), act });
        }
        Ok(Self {
            lines,
            at: 0,
            since: None,
            export: None,
            patience: PATIENCE,
            seen: vec![0; consoles.len()],
        })
    }

    /// Takes the next step at the moment `now`.
    pub(crate) fn step(&mut self, consoles: &Consoles, now: Instant) -> Step {
        loop {
            let Some(line) = self.lines.get(self.at) else { return Step::Done };
            let since = *self.since.get_or_insert(now);
            match &line.act {
                Act::Timeout(patience) => self.patience = *patience,
                Act::Pause(length) if now < since + *length => return Step::Wait(since + *length),
                Act::Pause(_) => {}
                Act::Type(console, bytes) => {
                    let step = Step::Type(*console, bytes.clone());
                    self.advance();
                    return step;
                }
                Act::Load(vcpu, path) => match typed_import(vcpu, path) {
                    Ok(keys) => {
                        self.advance();
                        return Step::Type(FERMATA, keys);
                    }
                    Err(why) => return Step::Failed(self.failure(consoles, &format!("{why:#}"))),
                },
                Act::Save(vcpu, path) => match &mut self.export {
                    None => {
                        let keys = format!("fp export {vcpu}\r").into_bytes();
                        self.export = Some(Export { at: consoles.said(FERMATA), reader: Reader::default() });
                        return Step::Type(FERMATA, keys);
                    }
                    Some(export) => match export.read(consoles) {
                        Some(snapshot) => {
                            let written = std::fs::write(path, fp::lines(&snapshot));
                            if let Err(why) = written.with_context(|| path.display().to_string()) {
                                return Step::Failed(self.failure(consoles, &format!("{why:#}")));
                            }
                        }
                        None if now < since + self.patience => return Step::Wait(since + self.patience),
                        None => return Step::Failed(self.failure(consoles, "not seen")),
                    },
                },
                Act::Expect(who, text) => match find(*who, text, consoles, &self.seen) {
                    Some((console, end)) => self.seen[console] = end,
                    None if now < since + self.patience => return Step::Wait(since + self.patience),
                    None => return Step::Failed(self.failure(consoles, "not seen")),
                },
            }
            self.advance();
        }
    }

    /// Goes to the next line.
    fn advance(&mut self) {
        self.at += 1;
        (self.since, self.export) = (None, None);
    }

    /// Says which line the script stands at and what its console said last; nothing when the script is over.
    pub(crate) fn interrupted(&self, consoles: &Consoles) -> Option<String> {
        (self.at < self.lines.len()).then(|| self.failure(consoles, "the machine ended first"))
    }

    /// Describes the failure of the line the script stands at.
    fn failure(&self, consoles: &Consoles, why: &str) -> String {
        let line = &self.lines[self.at];
        let patience = match &line.act {
            Act::Expect(..) | Act::Save(..) if why == "not seen" => {
                format!(" within {} s", self.patience.as_secs_f32())
            }
            _ => String::new(),
        };
        let tail = match &line.act {
            Act::Expect(Who::Console(console), _) | Act::Type(console, _) => consoles.tail(*console),
            Act::Save(..) | Act::Load(..) => consoles.tail(FERMATA),
            _ => (0..self.seen.len()).map(|console| consoles.tail(console)).collect(),
        };
        format!("script line {}: {}: {why}{patience}\n{tail}", line.number, line.text)
    }
}

/// Finds text on a console, after what was seen of it; returns the console and the end of the text.
fn find(who: Who, text: &[u8], consoles: &Consoles, seen: &[usize]) -> Option<(usize, usize)> {
    let on = |console: usize| Some((console, consoles.find(console, seen[console], text)?));
    match who {
        Who::Console(console) => on(console),
        Who::Any => (0..seen.len()).find_map(on),
    }
}

/// What is typed to import a snapshot from a file.
fn typed_import(vcpu: &str, path: &Path) -> Result<Vec<u8>> {
    let lines = fp::lines(&fp::read(path)?).replace('\n', "\r");
    Ok(format!("fp import {vcpu}\r{lines}").into_bytes())
}

/// Reads what a line asks for.
fn act(text: &str, consoles: &[String], folder: &Path) -> Result<Act> {
    let (first, rest) = text.split_once(char::is_whitespace).context("a line has at least two words")?;
    let rest = rest.trim();
    let seconds = || {
        let seconds = rest.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
        seconds.with_context(|| format!("`{rest}` is no number of seconds"))
    };
    let Some((verb, string)) = rest.split_once(char::is_whitespace) else {
        return match first {
            "timeout" => Ok(Act::Timeout(seconds()?)),
            "pause" => Ok(Act::Pause(seconds()?)),
            _ => bail!(
                "neither `timeout SECONDS`, `pause SECONDS`, `save|load VCPU \"FILE\"` nor `CONSOLE expect|send|type \"TEXT\"`"
            ),
        };
    };
    if ["save", "load"].contains(&first) && !consoles.iter().any(|name| name == first) {
        return transfer(first, rest, consoles, folder);
    }
    let who = match consoles.iter().position(|name| name == first) {
        _ if first == "*" => Who::Any,
        Some(console) => Who::Console(console),
        None => bail!("there is no console `{first}`; there are {} and *", consoles.join(", ")),
    };
    let mut bytes = string_bytes(string.trim())?;
    let one = || match who {
        Who::Console(console) => Ok(console),
        Who::Any => Err(anyhow!("type into one console, not into `*`")),
    };
    match verb {
        "expect" => {
            ensure!(!bytes.is_empty(), "an empty text is everywhere");
            Ok(Act::Expect(who, bytes))
        }
        "send" => {
            bytes.push(b'\r');
            Ok(Act::Type(one()?, bytes))
        }
        "type" => Ok(Act::Type(one()?, bytes)),
        _ => bail!("unknown verb `{verb}`; known are expect, send, type"),
    }
}

/// Reads what follows `save` and `load`.
fn transfer(verb: &str, rest: &str, consoles: &[String], folder: &Path) -> Result<Act> {
    let (vcpu, file) = rest.split_once(char::is_whitespace).context("a vCPU and a file are needed")?;
    let guests = consoles.get(1..).unwrap_or_default();
    let of = vcpu.rsplit_once('/').filter(|(_, number)| number.parse::<u8>().is_ok());
    let known = of.is_some_and(|(name, _)| guests.iter().any(|guest| guest == name));
    ensure!(known, "`{vcpu}` is no vCPU such as {}/0", guests.first().map_or("linux0", String::as_str));
    let file = string_bytes(file.trim())?;
    ensure!(!file.is_empty(), "a file has a name");
    let path = folder.join(String::from_utf8(file).context("the file's name is no UTF-8")?);
    Ok(if verb == "save" { Act::Save(vcpu.into(), path) } else { Act::Load(vcpu.into(), path) })
}

/// Reads a text in double quotes.
fn string_bytes(text: &str) -> Result<Vec<u8>> {
    let inner = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .context("the text is in double quotes")?;
    let mut bytes = Vec::new();
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => bail!("a double quote inside the text is written \\\""),
            '\\' => bytes.push(escape(&mut rest)?),
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Ok(bytes)
}

/// Reads what follows a backslash.
fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8> {
    Ok(match rest.next() {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('e') => 0x1b,
        Some('"') => b'"',
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = rest.take(2).collect();
            ensure!(digits.len() == 2, "\\x takes two hexadecimal digits");
            u8::from_str_radix(&digits, 16).with_context(|| format!("\\x{digits} is no byte"))?
        }
        other => bail!("unknown escape \\{}", other.map_or_else(String::new, String::from)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn names() -> Vec<String> {
        ["fermata", "a", "b"].map(String::from).to_vec()
    }

    fn script(text: &str) -> Script {
        Script::parse(text, &names(), Path::new("")).unwrap()
    }

    fn why(text: &str) -> String {
        format!("{:#}", Script::parse(text, &names(), Path::new("")).unwrap_err())
    }

    #[test]
    fn it_types_when_the_prompt_appears_even_in_the_middle_of_a_line() {
        let mut consoles = Consoles::new(names());
        let mut script = script(
            "# login\n\na expect \"~ # \"\na send \"echo \\\"hi\\\"\"\n* expect \"hi\\n\"\nb type \"\\x1d\\e\"",
        );
        let now = Instant::now();
        assert_eq!(script.step(&consoles, now), Step::Wait(now + PATIENCE));
        consoles.feed(2, b"~ # ");
        assert_eq!(script.step(&consoles, now), Step::Wait(now + PATIENCE), "another console");
        consoles.feed(1, b"booted\r\n~ #");
        assert_eq!(script.step(&consoles, now), Step::Wait(now + PATIENCE));
        consoles.feed(1, b" ");
        assert_eq!(script.step(&consoles, now), Step::Type(1, b"echo \"hi\"\r".to_vec()));
        assert_eq!(script.step(&consoles, now), Step::Wait(now + PATIENCE));
        consoles.feed(1, b"hi\r\n");
        assert_eq!(script.step(&consoles, now), Step::Type(2, b"\x1d\x1b".to_vec()));
        assert_eq!(script.step(&consoles, now), Step::Done);
        assert_eq!(script.interrupted(&consoles), None);
    }

    #[test]
    fn what_was_found_once_is_not_found_again() {
        let mut consoles = Consoles::new(names());
        let mut script = script("a expect \"# \"\na expect \"# \"");
        consoles.feed(1, b"# ");
        let now = Instant::now();
        assert!(matches!(script.step(&consoles, now), Step::Wait(_)));
        consoles.feed(1, b"# ");
        assert_eq!(script.step(&consoles, now), Step::Done);
    }

    #[test]
    fn a_failure_names_the_line_and_shows_the_tail() {
        let mut consoles = Consoles::new(names());
        consoles.feed(1, b"panic: no init\nrebooting");
        let mut script = script("timeout 2\n\na expect \"login:\"");
        let now = Instant::now();
        assert_eq!(script.step(&consoles, now), Step::Wait(now + Duration::from_secs(2)));
        let Step::Failed(why) = script.step(&consoles, now + Duration::from_secs(2)) else {
            panic!("no failure")
        };
        assert!(why.starts_with("script line 3: a expect \"login:\": not seen within 2 s\n"), "{why}");
        assert!(why.contains("[a] panic: no init\n") && why.contains("[a] rebooting\n"), "{why}");
        let why = script.interrupted(&consoles).unwrap();
        assert!(why.contains("line 3") && why.contains("the machine ended first"), "{why}");
    }

    /// A snapshot goes from one machine into a file and from there into another, whatever the log says meanwhile.
    #[test]
    fn a_snapshot_is_saved_and_loaded() {
        let scratch = Scratch::new().unwrap();
        let snapshot = fp::find(fp::SAVED).unwrap();
        let mut consoles = Consoles::new(names());
        let text = "load a/0 \"x\"\nsave a/1 \"x\"\nload b/0 \"x\"";
        let now = Instant::now();
        let mut early = Script::parse(text, &names(), scratch.path()).unwrap();
        assert!(matches!(early.step(&consoles, now), Step::Failed(why) if why.contains("x: No such file")));
        let mut script = Script::parse(&text[text.find('\n').unwrap()..], &names(), scratch.path()).unwrap();
        consoles.feed(0, format!("{}fermata> ", fp::lines(&snapshot)).as_bytes());
        assert_eq!(script.step(&consoles, now), Step::Type(0, b"fp export a/1\r".to_vec()));
        let lines = fp::lines(&snapshot).replace('\n', "\r\n");
        let (half, rest) = lines.split_at(300);
        consoles.feed(0, format!("fp export a/1\r\n{half}").as_bytes());
        assert_eq!(script.step(&consoles, now), Step::Wait(now + PATIENCE));
        let broken = half.rsplit('\n').next().unwrap();
        consoles.feed(0, format!("\r\nfermata: vm b powered off\r\n{broken}{rest}").as_bytes());
        let typed = format!("fp import b/0\r{}", fp::lines(&snapshot).replace('\n', "\r"));
        assert_eq!(script.step(&consoles, now), Step::Type(0, typed.into_bytes()));
        assert_eq!(script.step(&consoles, now), Step::Done);
        assert_eq!(fp::read(&scratch.path().join("x")).unwrap(), snapshot);
    }

    #[test]
    fn an_export_that_does_not_come_is_a_failure() {
        let mut consoles = Consoles::new(names());
        let mut script = script("timeout 2\nsave a/0 \"x\"");
        let now = Instant::now();
        assert!(matches!(script.step(&consoles, now), Step::Type(0, _)));
        consoles.feed(0, b"a/0: there is no snapshot of it\n");
        assert_eq!(script.step(&consoles, now), Step::Wait(now + Duration::from_secs(2)));
        let late = script.step(&consoles, now + Duration::from_secs(2));
        let Step::Failed(why) = late else { panic!("{late:?}") };
        assert!(
            why.contains("save a/0") && why.contains("no snapshot of it") && why.contains("within 2 s"),
            "{why}"
        );
    }

    #[test]
    fn a_pause_lasts() {
        let consoles = Consoles::new(names());
        let mut script = script("pause 0.5");
        let now = Instant::now();
        assert_eq!(script.step(&consoles, now), Step::Wait(now + Duration::from_millis(500)));
        assert_eq!(script.step(&consoles, now + Duration::from_millis(500)), Step::Done);
    }

    #[test]
    fn wrong_lines_are_named() {
        assert!(
            why("timeout 3\nc expect \"x\"")
                .contains("line 2: c expect \"x\": there is no console `c`; there are fermata, a, b and *")
        );
        assert!(why("a say \"x\"").contains("unknown verb `say`"));
        assert!(why("a expect x").contains("double quotes"));
        assert!(why("a expect \"\"").contains("everywhere"));
        assert!(why("* send \"x\"").contains("one console"));
        assert!(why("timeout soon").contains("`soon`"));
        assert!(why("pause -1").contains("`-1`"));
        assert!(why("a send \"\\q\"").contains("unknown escape \\q"));
        assert!(why("quit").contains("two words"));
        assert!(why("save c/0 \"x\"").contains("`c/0` is no vCPU such as a/0"));
        assert!(why("load a \"x\"").contains("`a` is no vCPU"));
        assert!(why("load a/0 x").contains("double quotes"));
    }
}
