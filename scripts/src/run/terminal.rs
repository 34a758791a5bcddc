//! What is printed while a run goes on.

use super::watch::Listener;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// Prints every line with its console's name before it.
#[derive(Debug)]
pub(crate) struct Prefixed;

impl Listener for Prefixed {
    fn line(&mut self, _: usize, name: &str, line: &str) {
        write_all(format!("[{name}] {line}\n").as_bytes());
    }
}

/// Passes on everything as it is, for a person at a terminal.
#[derive(Debug)]
pub(crate) struct Raw;

impl Listener for Raw {
    fn bytes(&mut self, bytes: &[u8]) {
        write_all(bytes);
    }

    fn line(&mut self, _: usize, _: &str, _: &str) {}
}

/// Tells whether a person can both see and type.
pub(crate) fn has_person() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Writes to standard output. QEMU makes the terminal non-blocking for itself, and with it for everyone who shares it,
/// so a full terminal has to be waited for. A reader that is gone (`| head`) is no reason to stop the run.
fn write_all(mut bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(why) if why.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
    while matches!(out.flush(), Err(why) if why.kind() == ErrorKind::WouldBlock) {
        std::thread::sleep(Duration::from_millis(2));
    }
}
