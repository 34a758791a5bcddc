//! Running other programs: their output is read line by line, kept, and shown only when they fail.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// How many of a failed program's last lines are worth showing.
const TAIL: usize = 12;

/// Runs a program to its end, gives each line of its standard output to `line`, and returns all of that output.
///
/// # Errors
/// When it cannot be started, and when it fails: then with the last lines it printed.
pub(crate) fn stream(command: &mut Command, mut line: impl FnMut(&str)) -> Result<String> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} could not be started", command.get_program().to_string_lossy()))?;
    let mut errors = child.stderr.take().expect("was piped above");
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read is not shown; the exit status tells success.
        let _ = errors.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let mut output = String::new();
    for bytes in BufReader::new(child.stdout.take().expect("was piped above")).split(b'\n') {
        let text = String::from_utf8_lossy(&bytes?).into_owned();
        line(&text);
        output.push_str(&text);
        output.push('\n');
    }
    let status = child.wait()?;
    let errors = errors.join().expect("the reader does not panic");
    if !status.success() {
        bail!("`{name}` failed ({status}):{}", tail(&format!("{output}{errors}")));
    }
    Ok(output)
}

/// Runs a program and returns its standard output.
///
/// # Errors
/// As [`stream`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    stream(command, |_| {})
}

/// The command line, for messages.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines that say something, each on a line of its own and indented; of apt's, only the errors.
fn tail(text: &str) -> String {
    let is_progress = |line: &str| line.starts_with("dlstatus:") || line.starts_with("pmstatus:");
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty() && !is_progress(line)).collect();
    let errors: Vec<_> = lines.iter().copied().filter(|line| line.starts_with("E: ")).collect();
    let lines = if errors.is_empty() { lines } else { errors };
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("\n    {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_last_lines_of_both_streams() {
        let error =
            output(Command::new("sh").args(["-c", "echo begun; echo broken >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("begun") && text.contains("broken"),
            "{text}"
        );
    }

    #[test]
    fn of_apt_only_the_errors_are_shown() {
        let error =
            output(Command::new("sh").args(["-c", "echo Ign:1; echo 'E: broken'; exit 100"])).unwrap_err();
        assert!(error.to_string().ends_with(":\n    E: broken"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-anywhere")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-anywhere"));
    }

    #[test]
    fn every_line_is_handed_over() {
        let mut seen = Vec::new();
        stream(Command::new("printf").arg("a\\nb"), |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["a", "b"]);
    }
}
