//! Judges a run: what was seen, and how it ended.

use super::stanza::{Exit, Test};
use crate::run::outcome::{Ending, Fate};
use crate::run::watch::{Listener, Report};
use std::fs::File;
use std::io::{BufWriter, Write};

/// A part of a line, on one console or on any. What reads like the result of a guest's test has to begin the line: `not ok
/// x` is no `ok x`, and `1 ok, 0 not ok` is good news.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    written: String,
    console: Option<String>,
    text: String,
}

impl Pattern {
    /// Reads `[console] text`, or a text alone.
    fn new(written: &str, consoles: &[String]) -> Self {
        let on = written.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        // Lines may begin with brackets of their own; only names of consoles are names.
        let on = on.filter(|(name, _)| consoles.iter().any(|console| console == name));
        let (console, text) = on.map_or((None, written), |(name, text)| (Some(name.to_string()), text));
        Self { written: written.to_string(), console, text: text.to_string() }
    }

    fn matches(&self, console: &str, line: &str) -> bool {
        let result = ["ok ", "not ok"].iter().any(|start| self.text.starts_with(start));
        let here = if result { line.starts_with(&self.text) } else { line.contains(&self.text) };
        here && self.console.as_deref().is_none_or(|name| name == console)
    }
}

/// Who noticed that Fermata is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// A guest, which said what it may not.
    Guest,
    /// The auditor of the FP machine.
    Auditor,
    /// Fermata: another check of its own, or an exception that it took.
    Fermata,
}

impl std::fmt::Display for Witness {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(match self {
            Self::Guest => "guest",
            Self::Auditor => "auditor",
            Self::Fermata => "Fermata",
        })
    }
}

/// Listens to a run, writes its log, and looks for what is expected and what is forbidden.
pub(crate) struct Judge {
    log: BufWriter<File>,
    expect: Vec<(Pattern, bool)>,
    forbid: Vec<Pattern>,
    offence: Option<String>,
    /// The auditor had the last word.
    audit: bool,
    exit: Exit,
}

impl Judge {
    /// Starts with nothing seen.
    pub(crate) fn new(test: &Test, consoles: &[String], log: File) -> Self {
        let pattern = |text: &String| Pattern::new(text, consoles);
        Self {
            log: BufWriter::new(log),
            expect: test.expect.iter().map(|text| (pattern(text), false)).collect(),
            forbid: test.forbid.iter().map(pattern).collect(),
            offence: None,
            audit: false,
            exit: test.exit,
        }
    }

    /// Writes a line into the log. A full disk must not hide how a test went, so it is no error.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.log, "{text}");
    }

    fn missing(&self) -> impl Iterator<Item = &Pattern> {
        self.expect.iter().filter(|(_, seen)| !seen).map(|(pattern, _)| pattern)
    }

    /// Says how it went, in the log too.
    ///
    /// # Errors
    /// The reason, in words; more than one line where a script failed.
    pub(crate) fn verdict(&mut self, report: &Report) -> Result<(), String> {
        let verdict = self.decide(report);
        match &verdict {
            Ok(()) => self.note("[host] ok"),
            Err(why) => self.note(&format!("[host] FAILED: {why}")),
        }
        let _ = self.log.flush();
        verdict
    }

    /// Says who noticed that something is wrong, in the log too. That something expected was not seen is no notice: it may
    /// have other reasons.
    ///
    /// # Errors
    /// Nobody did; how it went, in words.
    pub(crate) fn witness(&mut self, report: &Report) -> Result<Witness, String> {
        let witness = match (&self.offence, report.fates.panic()) {
            (Some(_), _) => Ok(Witness::Guest),
            (None, _) if self.audit => Ok(Witness::Auditor),
            (None, Some(_)) => Ok(Witness::Fermata),
            (None, None) => Err(self
                .decide(report)
                .err()
                .map_or_else(|| "nobody noticed".to_string(), |why| format!("nobody noticed, but {why}"))),
        };
        match &witness {
            Ok(witness) => self.note(&format!("[host] noticed by: {witness}")),
            Err(why) => self.note(&format!("[host] FAILED: {why}")),
        }
        let _ = self.log.flush();
        witness
    }

    fn decide(&self, report: &Report) -> Result<(), String> {
        let fates = &report.fates;
        if let Some(offence) = &self.offence {
            return Err(format!("forbidden: {offence}"));
        }
        let crashed = |fate: &Fate| matches!(fate, Fate::Crashed(_));
        let not_started = |fate: &Fate| matches!(fate, Fate::NotStarted(_));
        let machine = || fates.machine_verdict(&report.ending);
        let with = |happened: bool, what: &str| match fates.running().as_slice() {
            _ if !happened => Err(format!("no guest {what}: {fates}")),
            [] => Ok(()),
            running => Err(format!("{} did not end", running.join(", "))),
        };
        let ended = match self.exit {
            Exit::Off => fates.verdict(&report.ending),
            Exit::Crash => machine().and_then(|()| with(fates.any(crashed), "crashed")),
            Exit::NotStarted => machine().and_then(|()| with(fates.any(not_started), "was refused")),
            Exit::Halted => machine(),
            Exit::Panic => fates.panic().map(|_| ()).ok_or_else(|| "Fermata did not panic".to_string()),
            Exit::Expect => match report.ending {
                // All of it may have been in the last line, which nothing ended.
                Ending::Exited(_) | Ending::TimedOut(_) if fates.panic().is_none() => Ok(()),
                _ => machine(),
            },
        };
        let missing: Vec<String> = self.missing().map(|pattern| format!("`{}`", pattern.written)).collect();
        let missing = (!missing.is_empty()).then(|| format!("not seen: {}", missing.join(", ")));
        match (ended, missing) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(missing)) => Err(missing),
            (Err(why), None) => Err(why),
            (Err(why), Some(missing)) => Err(format!("{missing}; {why}")),
        }
    }
}

impl Listener for Judge {
    fn line(&mut self, console: usize, name: &str, line: &str) {
        self.note(&format!("[{name}] {line}"));
        // What this program says itself proves nothing.
        if console == usize::MAX {
            return;
        }
        // On whatever console: other CPUs go on for a moment, and what they say goes between the bytes of a panic.
        self.audit |= line.starts_with("FP audit on CPU ");
        for (pattern, seen) in &mut self.expect {
            *seen |= pattern.matches(name, line);
        }
        if self.offence.is_none() && self.forbid.iter().any(|pattern| pattern.matches(name, line)) {
            self.offence = Some(format!("[{name}] {line}"));
        }
    }

    fn has_enough(&self) -> bool {
        self.offence.is_some() || (self.exit == Exit::Expect && self.missing().next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::outcome::Fates;
    use crate::run::watch::console_names;
    use crate::scratch::Scratch;
    use crate::test::stanza::parse;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const OFF: [&str; 3] = [
        "[fermata] fermata: vm a powered off",
        "[fermata] fermata: vm b powered off",
        "[fermata] fermata: halted",
    ];

    /// Judges a run in which these lines were said.
    fn judge(stanza: &str, lines: &[&str]) -> Result<(), String> {
        let test = &parse(&format!("[[test]]\nname = \"x\"\n{stanza}")).unwrap()[0];
        let scratch = Scratch::new().unwrap();
        let log = scratch.file("log", b"").unwrap();
        let guests = ["a".to_string(), "b".to_string()];
        let mut judge = Judge::new(test, &console_names(&guests), File::create(&log).unwrap());
        let mut fates = Fates::new(["a", "b"]);
        for line in lines {
            let (name, line) = line[1..].split_once("] ").unwrap();
            fates.hear(line);
            judge.line(0, name, line);
        }
        let ending =
            if judge.has_enough() { Ending::Enough } else { Ending::Exited(ExitStatus::from_raw(0)) };
        let verdict = judge.verdict(&Report { fates, ending, qemu: String::new() });
        let text = std::fs::read_to_string(log).unwrap();
        assert!(text.ends_with("[host] ok\n") == verdict.is_ok(), "{text}");
        verdict
    }

    #[test]
    fn what_is_expected_must_be_seen_on_its_console() {
        let with = |line| judge("expect = [\"[a] ok fp\"]", &[&[line], &OFF[..]].concat());
        assert_eq!(with("[a] ok fp-torture 3"), Ok(()));
        assert_eq!(with("[b] ok fp-torture 3"), Err("not seen: `[a] ok fp`".into()));
        assert_eq!(with("[a] not so ok fp"), Err("not seen: `[a] ok fp`".into()));
        assert_eq!(judge("expect = [\"ok fp\"]", &[&["[b] ok fp"], &OFF[..]].concat()), Ok(()));
        assert_eq!(judge("expect = [\"[ 0.1] up\"]", &[&["[b] [ 0.1] up"], &OFF[..]].concat()), Ok(()));
    }

    #[test]
    fn what_is_forbidden_fails_and_ends_a_test() {
        let lines = [&["[a] not ok fp: V3"], &OFF[..]].concat();
        assert_eq!(judge("", &lines), Err("forbidden: [a] not ok fp: V3".into()));
        assert_eq!(judge("forbid = [\"[b] not ok\"]", &lines), Ok(()));
        assert_eq!(judge("", &[&["[a] done: 3 ok, 0 not ok"], &OFF[..]].concat()), Ok(()));
    }

    #[test]
    fn each_way_to_end_is_told_from_the_others() {
        let crash = ["[fermata] fermata: vm a crashed: x", OFF[1], OFF[2]];
        let refused = ["[fermata] fermata: vm a not started: x", OFF[1], OFF[2]];
        let panic = ["[fermata] fermata: panic at x"];
        let alive = [OFF[0], OFF[2]];
        let runs: [&[&str]; 5] = [&OFF, &crash, &refused, &alive, &panic];
        let passes = |exit: &str| runs.map(|run| judge(&format!("exit = \"{exit}\""), run).is_ok());
        assert_eq!(passes("off"), [true, false, false, false, false]);
        assert_eq!(passes("crash"), [false, true, false, false, false]);
        assert_eq!(passes("not-started"), [false, false, true, false, false]);
        assert_eq!(passes("halted"), [true, true, true, true, false]);
        assert_eq!(passes("panic"), [false, false, false, false, true]);
    }

    #[test]
    fn expectations_alone_can_end_a_test() {
        let stanza = "exit = \"expect\"\nexpect = [\"up\"]";
        assert_eq!(judge(stanza, &["[fermata] up"]), Ok(()));
        assert!(judge(stanza, &["[fermata] down"]).is_err());
        assert!(judge(stanza, &["[fermata] up", "[fermata] fermata: panic"]).is_err());
    }
}
