//! What set-up says while it works: a line for each step, and below it a bar while it lasts, if a person looks on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A step that takes time. Its line is printed at once; its bar goes when the step is dropped.
pub(crate) struct Step {
    bar: ProgressBar,
}

impl Step {
    /// Begins a step: `doing` is a verb in -ing, `what` its object.
    ///
    /// Where standard error is no terminal only the line is printed.
    pub(crate) fn new(doing: &str, what: &str) -> Self {
        say(doing, what);
        let style = ProgressStyle::with_template("{spinner:>12} {bar:40} {percent:>3}% ({elapsed})")
            .expect("the template is well formed");
        let bar = ProgressBar::new(1000).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Shows how much is done, in percent.
    pub(crate) fn percent(&self, percent: f64) {
        // Saturates by definition of `as`; the bar counts in tenths.
        self.bar.set_position((percent * 10.0) as u64);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a line in cargo's manner: a verb, and what it is done to.
pub(crate) fn say(doing: &str, what: &str) {
    eprintln!("{doing:>12} {what}");
}
