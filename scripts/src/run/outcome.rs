//! How a run went: what Fermata said about each guest, how the machine ended, and what that makes of the whole.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It switched itself off.
    Off,
    /// Fermata stopped it, for this reason.
    Crashed(String),
    /// Fermata would not start it, for this reason.
    NotStarted(String),
    /// Somebody stopped it at Fermata's prompt.
    Stopped,
}

impl fmt::Display for Fate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(out, "powered off"),
            Self::Crashed(why) => write!(out, "crashed: {why}"),
            Self::NotStarted(why) => write!(out, "was not started: {why}"),
            Self::Stopped => write!(out, "was stopped at the prompt"),
        }
    }
}

/// How the machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// QEMU ended by itself.
    Exited(ExitStatus),
    /// The run was stopped when its time, this long, was over.
    TimedOut(Duration),
    /// The run was stopped because the script failed, for this reason.
    Script(String),
    /// The run was stopped because there was nothing left to wait for.
    Enough,
    /// Fermata had nothing left to do, but QEMU did not end.
    Stuck,
}

/// What Fermata said.
#[derive(Clone, Debug)]
pub(crate) struct Fates {
    guests: Vec<(String, Option<Fate>)>,
    /// On a machine that can run no guest: what testing its FP registers came to.
    self_test: Option<Result<(), String>>,
    halted: bool,
    panic: Option<String>,
}

/// A line of Fermata's own console that means something to this tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// What became of a guest; none for one that runs (again).
    Guest(String, Option<Fate>),
    /// How much memory is in use before guests, in KiB. Guests refused by now have no console.
    Memory(u64),
    /// No guest can run, and what testing the FP registers instead came to.
    SelfTest(Result<(), String>),
    /// The last word.
    Halted,
    /// A bug.
    Panic(String),
}

impl Said {
    /// Reads a line. A prompt or a time stamp may precede what is said.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        const PREFIX: &str = "fermata: ";
        let said = line[line.find(PREFIX)? + PREFIX.len()..].trim_end();
        if said == "halted" {
            return Some(Self::Halted);
        }
        if said.starts_with("panic") {
            return Some(Self::Panic(said.to_string()));
        }
        if let Some(verdict) = said.strip_prefix("FP self-test: ") {
            let bad = verdict.strip_prefix("not ok: ");
            return Some(Self::SelfTest(bad.map_or(Ok(()), |why| Err(why.to_string()))));
        }
        if let Some(amount) = said.strip_prefix("memory before guests: ") {
            return amount.strip_suffix(" KiB")?.parse().ok().map(Self::Memory);
        }
        let (name, event) = said.strip_prefix("vm ")?.split_once(' ')?;
        let fate = match event.split_once(':') {
            None if event == "powered off" => Some(Fate::Off),
            None if event == "stopped" => Some(Fate::Stopped),
            None if event == "reset" || event == "restarted" => None,
            Some(("started", _)) => None,
            Some(("crashed", why)) => Some(Fate::Crashed(why.trim().to_string())),
            Some(("not started", why)) => Some(Fate::NotStarted(why.trim().to_string())),
            _ => return None,
        };
        Some(Self::Guest(name.to_string(), fate))
    }
}

impl Fates {
    /// Starts with guests of these names, of which nothing is known yet.
    pub(crate) fn new<'a>(guests: impl IntoIterator<Item = &'a str>) -> Self {
        let guests = guests.into_iter().map(|name| (name.to_string(), None)).collect();
        Self { guests, self_test: None, halted: false, panic: None }
    }

    /// Learns from a line of Fermata's own console.
    pub(crate) fn hear(&mut self, line: &str) {
        match Said::parse(line) {
            Some(Said::Halted) => self.halted = true,
            Some(Said::SelfTest(verdict)) => self.self_test = Some(verdict),
            Some(Said::Panic(what)) => self.panic = self.panic.take().or(Some(what)),
            Some(Said::Guest(name, fate)) => match self.guests.iter_mut().find(|(known, _)| *known == name) {
                Some((_, slot)) => *slot = fate,
                None => self.guests.push((name, fate)),
            },
            Some(Said::Memory(_)) | None => {}
        }
    }

    /// Tells whether Fermata said its last word.
    pub(crate) const fn halted(&self) -> bool {
        self.halted
    }

    /// Returns what Fermata said when it panicked.
    pub(crate) fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// Lists the guests of which nothing was heard, so they may still run.
    pub(crate) fn running(&self) -> Vec<&str> {
        self.guests.iter().filter(|(_, fate)| fate.is_none()).map(|(name, _)| name.as_str()).collect()
    }

    /// Tells whether at least one guest met a fate like this.
    pub(crate) fn any(&self, like: impl Fn(&Fate) -> bool) -> bool {
        self.guests.iter().filter_map(|(_, fate)| fate.as_ref()).any(like)
    }

    /// Judges the machine alone: it has to end by itself, after Fermata halted and without a panic.
    ///
    /// # Errors
    /// The reason, in words.
    pub(crate) fn machine_verdict(&self, ending: &Ending) -> Result<(), String> {
        if let Some(panic) = &self.panic {
            return Err(format!("Fermata panicked: {panic}"));
        }
        let after = match self.running().as_slice() {
            [] => String::new(),
            names => format!("; still running: {}", names.join(", ")),
        };
        match ending {
            Ending::Script(why) => Err(why.clone()),
            Ending::TimedOut(limit) => Err(format!("timed out after {} s{after}", limit.as_secs_f32())),
            Ending::Stuck => Err(format!("Fermata halted, but the machine did not switch itself off{after}")),
            Ending::Exited(status) if !self.halted => {
                Err(format!("QEMU ended ({status}) before Fermata halted{after}"))
            }
            Ending::Exited(status) if !status.success() => Err(format!("QEMU ended with {status}{after}")),
            Ending::Exited(_) | Ending::Enough => Ok(()),
        }
    }

    /// Judges the run: the machine has to end well, and every guest has to have switched itself off. A machine that can
    /// run no guest is judged by its FP registers.
    ///
    /// # Errors
    /// The reasons, in words.
    pub(crate) fn verdict(&self, ending: &Ending) -> Result<(), String> {
        let bad = |(name, fate): &(String, Option<Fate>)| match fate {
            Some(Fate::Off) => None,
            Some(fate) => Some(format!("{name} {fate}")),
            None if *ending == Ending::Enough => None,
            None => Some(format!("{name} did not power off")),
        };
        let mut reasons: Vec<String> = self.machine_verdict(ending).err().into_iter().collect();
        if let Some(verdict) = &self.self_test {
            reasons.extend(verdict.as_ref().err().map(|why| format!("FP self-test: {why}")));
            return if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) };
        }
        // Who still ran when the machine ended badly has been said already.
        let known = |(_, fate): &&(String, Option<Fate>)| reasons.is_empty() || fate.is_some();
        let guests: Vec<String> = self.guests.iter().filter(known).filter_map(bad).collect();
        reasons.extend(guests);
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }
}

impl fmt::Display for Fates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.self_test.is_some() {
            return out.write_str("no guest can run on this CPU; its FP registers were tested");
        }
        let one = |(name, fate): &(String, Option<Fate>)| match fate {
            Some(fate) => format!("{name} {fate}"),
            None => format!("{name} was still running"),
        };
        out.write_str(&self.guests.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const LIMIT: Duration = Duration::from_secs(5);

    fn after(lines: &[&str]) -> Fates {
        let mut fates = Fates::new(["a", "b"]);
        lines.iter().for_each(|line| fates.hear(line));
        fates
    }

    fn exited(code: i32) -> Ending {
        Ending::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn success_is_every_guest_off_and_the_machine_too() {
        let all = ["fermata: vm a powered off", "fermata> fermata: vm b powered off", "fermata: halted"];
        assert_eq!(after(&all).verdict(&exited(0)), Ok(()));
        for missing in 0..all.len() {
            let mut lines = all.to_vec();
            lines.remove(missing);
            assert!(after(&lines).verdict(&exited(0)).is_err(), "without {:?}", all[missing]);
        }
        assert!(after(&all).verdict(&exited(1)).is_err());
        assert!(after(&all).verdict(&Ending::Stuck).is_err());
        assert!(after(&all).verdict(&Ending::TimedOut(LIMIT)).is_err());
        assert!(after(&all).verdict(&Ending::Script("no".into())).is_err());
    }

    #[test]
    fn a_guest_that_failed_is_named_with_its_reason() {
        let fates = after(&[
            "fermata: vm a crashed: data abort at 0x1000",
            "fermata: vm b not started: memory: 9 GiB",
            "fermata: halted",
        ]);
        let why = fates.verdict(&exited(0)).unwrap_err();
        assert_eq!(why, "a crashed: data abort at 0x1000; b was not started: memory: 9 GiB");
        assert_eq!(fates.machine_verdict(&exited(0)), Ok(()));
    }

    #[test]
    fn a_machine_without_guests_is_judged_by_its_registers() {
        let run = |line| after(&[line, "fermata: halted"]).verdict(&exited(0));
        assert_eq!(run("[   0.1 cpu0] fermata: FP self-test: ok: fpu+lsx, 9 checks"), Ok(()));
        let why = run("fermata: FP self-test: not ok: lsx: found 1, expected 2").unwrap_err();
        assert_eq!(why, "FP self-test: lsx: found 1, expected 2");
        assert!(
            after(&["fermata: FP self-test: ok: fpu, 9 checks"]).verdict(&exited(0)).is_err(),
            "not halted"
        );
    }

    #[test]
    fn what_still_ran_is_said_once() {
        let why = after(&["fermata: vm b crashed: x"]).verdict(&Ending::TimedOut(LIMIT)).unwrap_err();
        assert_eq!(why, "timed out after 5 s; still running: a; b crashed: x");
        let why = after(&["fermata: halted"]).verdict(&exited(0)).unwrap_err();
        assert_eq!(why, "a did not power off; b did not power off");
        let why = after(&[]).verdict(&exited(1)).unwrap_err();
        assert_eq!(why, "QEMU ended (exit status: 1) before Fermata halted; still running: a, b");
    }

    #[test]
    fn a_panic_outweighs_everything() {
        let fates = after(&[
            "fermata: vm a powered off",
            "fermata: panic at kernel/src/run.rs:7: oh",
            "fermata: halted",
        ]);
        let why = fates.verdict(&exited(0)).unwrap_err();
        assert!(why.starts_with("Fermata panicked: panic at kernel/src/run.rs:7: oh"), "{why}");
    }

    #[test]
    fn a_guest_that_starts_again_runs() {
        let fates =
            after(&["fermata: vm a powered off", "[   1.0 cpu0] fermata: vm a started: 2 vCPUs, 32 MiB"]);
        assert_eq!(fates.running(), ["a", "b"]);
        let fates = after(&["fermata: vm a stopped", "fermata: vm b powered off", "fermata: halted"]);
        assert_eq!(fates.verdict(&exited(0)).unwrap_err(), "a was stopped at the prompt");
    }

    #[test]
    fn the_memory_before_guests_is_read() {
        let said = Said::parse("[   0.2 cpu0] fermata: memory before guests: 5536 KiB");
        assert_eq!(said, Some(Said::Memory(5536)));
        assert_eq!(Said::parse("fermata: memory before guests: lots"), None);
    }

    #[test]
    fn other_lines_say_nothing() {
        let fates = after(&[
            "vm a powered off",
            "fermata: vm a powered",
            "fermata: vm a",
            "fermata: vm b resumed",
            "halted",
        ]);
        assert_eq!(fates.running(), ["a", "b"]);
        assert!(!fates.halted());
    }
}
