//! The harness: `ok NAME`, `not ok NAME: why`, a summary, power off.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{console, power};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Why a test failed, in at most 112 bytes.
#[derive(Clone)]
pub struct Why {
    text: [u8; 112],
    length: usize,
}

impl Why {
    /// Formats a reason; what does not fit is cut off.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut why = Self { text: [0; 112], length: 0 };
        let _ = why.write_fmt(text);
        why
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.text[..self.length]).unwrap_or("(cut inside a character)")
    }
}

impl Write for Why {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes().iter().take(self.text.len() - self.length) {
            self.text[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}

/// How a test that did not fail ended.
pub enum Done {
    /// It showed what it is for.
    Passed,
    /// It had nothing to try here.
    Skipped(&'static str),
}

/// What a test returns.
pub type Outcome = Result<Done, Why>;

/// Makes a [`Why`](crate::report::Why) of a format string.
#[macro_export]
macro_rules! why {
    ($($arg:tt)*) => { $crate::report::Why::new(format_args!($($arg)*)) };
}

/// Returns an error from a test unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            return Err($crate::why!($($arg)*));
        }
    };
}

/// Runs one test and prints its line.
pub fn test(name: &str, body: impl FnOnce() -> Outcome) {
    match body() {
        Ok(Done::Passed) => {
            PASSED.fetch_add(1, Relaxed);
            console::line(format_args!("ok {name}"));
        }
        Ok(Done::Skipped(why)) => console::line(format_args!("ok {name} # skip: {why}")),
        Err(why) => {
            FAILED.fetch_add(1, Relaxed);
            console::line(format_args!("not ok {name}: {why}"));
        }
    }
}

/// Prints the summary and powers off.
pub fn finish() -> ! {
    let (passed, failed) = (PASSED.load(Relaxed), FAILED.load(Relaxed));
    console::line(format_args!("done: {passed} passed, {failed} failed"));
    power::system_off()
}

/// Prints a failure that ends the guest, and powers off.
pub fn abort(why: fmt::Arguments<'_>) -> ! {
    console::last_line(format_args!("not ok guest: {why}"));
    power::system_off()
}
