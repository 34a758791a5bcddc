//! Follows a run from its start to its end.

use super::consoles::Consoles;
use super::framing::{Demux, Ports, frame};
use super::outcome::{Ending, Fates};
use super::qemu::{Heard, Qemu};
use super::script::{Script, Step};
use anyhow::Result;
use std::time::{Duration, Instant};

/// How long the rest may take once Fermata has said its last word: QEMU ends, or a panic is printed to its end.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// Longest wait for something to happen; there is nothing to do after it but to wait on.
const NAP: Duration = Duration::from_secs(3600);

/// How the consoles share the serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Each byte belongs to a console (`console=framed`).
    Framed,
    /// It is one console, as a person sees it.
    Plain,
}

/// Someone who is told what is said.
pub(crate) trait Listener {
    /// Hears bytes as they come from the machine.
    fn bytes(&mut self, _bytes: &[u8]) {}

    /// Hears a complete line of a console.
    fn line(&mut self, console: usize, name: &str, line: &str);

    /// Tells whether there is nothing left to wait for, but the end of the script.
    fn has_enough(&self) -> bool {
        false
    }
}

/// What a run needs beside QEMU.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How the consoles share the serial line.
    pub(crate) line: Line,
    /// The guests' names, in the order of the tree.
    pub(crate) guests: Vec<String>,
    /// What to type.
    pub(crate) script: Option<Script>,
    /// How long the run may take.
    pub(crate) limit: Option<Duration>,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Report {
    /// What Fermata said about the guests.
    pub(crate) fates: Fates,
    /// How the machine ended.
    pub(crate) ending: Ending,
    /// What QEMU said, which is nothing in a good run.
    pub(crate) qemu: String,
}

/// Names the consoles of a run with these guests.
pub(crate) fn console_names(guests: &[String]) -> Vec<String> {
    std::iter::once("fermata".to_string()).chain(guests.iter().cloned()).collect()
}

/// A run under way.
struct Watch<'a> {
    qemu: Qemu,
    plan: Plan,
    listener: &'a mut dyn Listener,
    consoles: Consoles,
    demux: Demux,
    ports: Ports,
    /// What guests said before Fermata said who has a console, with the numbers on the line.
    early: Vec<(usize, Vec<u8>)>,
    fates: Fates,
    /// When waiting ends once Fermata has said its last word.
    last_words: Option<Instant>,
}

/// Follows a run to its end.
///
/// # Errors
/// The operating system lost track of QEMU. How the run went is no error here.
pub(crate) fn watch(qemu: Qemu, plan: Plan, listener: &mut dyn Listener) -> Result<Report> {
    let consoles = Consoles::new(console_names(&plan.guests));
    let fates = Fates::new(plan.guests.iter().map(String::as_str));
    let ports = Ports::new(&plan.guests);
    let demux = Demux::default();
    let early = Vec::new();
    let mut watch = Watch { qemu, plan, listener, consoles, demux, ports, early, fates, last_words: None };
    let ending = watch.follow()?;
    watch.attribute_early();
    // The last bytes may hold what the script waits for.
    let _ = watch.step_script(Instant::now());
    let ending = match (&watch.plan.script, ending) {
        (Some(script), Ending::Exited(status)) if watch.fates.panic().is_none() => {
            script.interrupted(&watch.consoles).map_or(Ending::Exited(status), Ending::Script)
        }
        (_, ending) => ending,
    };
    for (console, line) in watch.consoles.take_partial() {
        watch.hear(console, &line);
    }
    Ok(Report { qemu: watch.qemu.finish(), fates: watch.fates, ending })
}

impl Watch<'_> {
    fn follow(&mut self) -> Result<Ending> {
        let start = Instant::now();
        let deadline = self.plan.limit.map(|limit| (start + limit, limit));
        loop {
            let now = Instant::now();
            let mut until = now + NAP;
            let mut typing = false;
            match self.step_script(now) {
                Ok(Some(wake)) => {
                    until = until.min(wake);
                    typing = true;
                }
                Ok(None) => {}
                Err(why) => return Ok(Ending::Script(why)),
            }
            if let Some((deadline, limit)) = deadline {
                if now >= deadline {
                    return Ok(Ending::TimedOut(limit));
                }
                until = until.min(deadline);
            }
            if let Some(end) = self.last_words {
                if now >= end {
                    return Ok(Ending::Stuck);
                }
                until = until.min(end);
            }
            if !typing && self.listener.has_enough() {
                return Ok(Ending::Enough);
            }
            match self.qemu.listen(until)? {
                Heard::Bytes(bytes) => self.take_in(&bytes),
                Heard::Nothing => {}
                Heard::End(status) => return Ok(Ending::Exited(status)),
            }
        }
    }

    /// Takes the steps of the script that can be taken; returns when to look again.
    fn step_script(&mut self, now: Instant) -> Result<Option<Instant>, String> {
        let Some(script) = &mut self.plan.script else { return Ok(None) };
        loop {
            match script.step(&self.consoles, now) {
                Step::Type(console, bytes) => match (self.plan.line, self.ports.number(console)) {
                    (Line::Framed, Some(number)) => self.qemu.send(frame(number, &bytes)),
                    // Nobody reads what is typed to a guest that was refused.
                    (Line::Framed, None) => {}
                    (Line::Plain, _) => self.qemu.send(bytes),
                },
                // Once Fermata has halted nobody will answer; what is still waited for is judged at the end.
                Step::Wait(_) | Step::Failed(_) if self.last_words.is_some() => return Ok(None),
                Step::Wait(until) => return Ok(Some(until)),
                Step::Done => return Ok(None),
                Step::Failed(why) => return Err(why),
            }
        }
    }

    /// Takes in what the machine said.
    fn take_in(&mut self, bytes: &[u8]) {
        self.listener.bytes(bytes);
        let mut runs = Vec::new();
        match self.plan.line {
            Line::Framed => self.demux.feed(bytes, |number, run| runs.push((number, run.to_vec()))),
            Line::Plain => runs.push((0, bytes.to_vec())),
        }
        for (number, run) in runs {
            // Fermata sends what guests say before what it says itself, so who is who may come last.
            if number == 0 || self.ports.are_settled() {
                self.attribute(number, &run);
            } else {
                self.early.push((number, run));
            }
            if self.ports.are_settled() {
                self.attribute_early();
            }
        }
    }

    /// Takes in what was said early.
    fn attribute_early(&mut self) {
        for (number, run) in std::mem::take(&mut self.early) {
            self.attribute(number, &run);
        }
    }

    /// Takes in what was said under a number.
    fn attribute(&mut self, number: usize, run: &[u8]) {
        let console = self.ports.console(number);
        for line in self.consoles.feed(console, run) {
            self.hear(console, &line);
        }
    }

    /// Takes in a complete line.
    fn hear(&mut self, console: usize, line: &str) {
        if console == 0 {
            self.fates.hear(line);
            self.ports.hear(line);
            if self.fates.halted() || self.fates.panic().is_some() {
                self.last_words.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            }
        }
        self.listener.line(console, &self.consoles.name(console), line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::qemu::Keyboard;
    use super::*;
    use std::process::Command;

    #[derive(Default)]
    struct Lines {
        heard: Vec<String>,
        enough: Option<&'static str>,
    }

    impl Listener for Lines {
        fn line(&mut self, _: usize, name: &str, line: &str) {
            self.heard.push(format!("[{name}] {line}"));
        }

        fn has_enough(&self) -> bool {
            self.enough.is_some_and(|wanted| self.heard.iter().any(|line| line == wanted))
        }
    }

    /// Runs a shell script in place of QEMU.
    fn run(machine: &str, script: Option<&str>, limit: u64, lines: &mut Lines) -> Report {
        let mut command = Command::new("sh");
        command.args(["-c", machine]);
        let guests = vec!["a".to_string(), "b".to_string()];
        let script = script
            .map(|text| Script::parse(text, &console_names(&guests), std::path::Path::new("")).unwrap());
        let limit = Some(Duration::from_millis(limit));
        let plan = Plan { line: Line::Framed, guests, script, limit };
        watch(Qemu::start(command, Keyboard::Here).unwrap(), plan, lines).unwrap()
    }

    const UP: &str = "printf 'fermata: memory before guests: 1 KiB\\n'";
    const OFF: &str =
        "printf '\\0360fermata: vm a powered off\\nfermata: vm b powered off\\nfermata: halted\\n'";

    #[test]
    fn a_script_types_into_the_console_that_prompts() {
        let machine = format!(
            "printf '\\0362bo'; printf '\\0360fermata: memory before guests: 1 KiB\\n\\0362ot\\r\\n\\0361~ # '; head -c 8 >/dev/null; \
             printf 'ok\\n'; {OFF}"
        );
        let mut lines = Lines::default();
        let report =
            run(&machine, Some("a expect \"~ # \"\na send \"uname\"\na expect \"ok\""), 20_000, &mut lines);
        assert_eq!(report.fates.verdict(&report.ending), Ok(()), "{:?} {}", lines.heard, report.qemu);
        let expected = ["[fermata] fermata: memory before guests: 1 KiB", "[b] boot", "[a] ~ # ok"];
        assert_eq!(lines.heard[..3], expected);
    }

    #[test]
    fn what_is_typed_is_framed() {
        let machine = format!("{UP}; printf '\\0361# '; printf '\\0361'; head -c 5 | od -An -tx1; {OFF}");
        let mut lines = Lines::default();
        let report = run(&machine, Some("a expect \"# \"\nb send \"hi\""), 20_000, &mut lines);
        assert_eq!(report.fates.verdict(&report.ending), Ok(()));
        assert!(lines.heard.iter().any(|line| line.contains("1e 32 68 69 0d")), "{:?}", lines.heard);
    }

    #[test]
    fn time_outs_early_ends_and_unmet_expectations_are_told_apart() {
        let ending = |machine: &str, script| {
            let report = run(machine, script, 300, &mut Lines::default());
            report.fates.verdict(&report.ending).unwrap_err()
        };
        assert_eq!(ending("exec sleep 50", None), "timed out after 0.3 s; still running: a, b");
        assert!(ending("exit 1", None).contains("QEMU ended (exit status: 1) before Fermata halted"));
        assert!(
            ending("exec sleep 50", Some("timeout 0.1\nb expect \"x\"")).contains("script line 2: b expect")
        );
        assert!(ending(OFF, Some("b expect \"x\"")).contains("the machine ended first"));
        assert!(
            ending("echo fermata: panic at x; exit 0", Some("b expect \"x\"")).contains("Fermata panicked")
        );
    }

    #[test]
    fn a_listener_can_have_enough() {
        let mut lines = Lines { enough: Some("[a] that is it"), ..Lines::default() };
        let report =
            run(&format!("{UP}; printf '\\0361that is it\\n'; exec sleep 50"), None, 20_000, &mut lines);
        assert_eq!(report.ending, Ending::Enough);
    }

    #[test]
    fn a_machine_that_does_not_go_off_is_stuck() {
        let report = run(&format!("{OFF}; exec sleep 50"), None, 20_000, &mut Lines::default());
        assert_eq!(report.ending, Ending::Stuck);
    }
}
