//! What set-up says while it works: a line for each step, and below it a bar while it lasts, if a person looks on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How a step looks whose end is not in sight.
const SPINNER: &str = "{spinner:>12} {elapsed}";

/// How a step looks that reports how far it is.
const BAR: &str = "{spinner:>12} {bar:40} {percent:>3}% {elapsed}";

/// A step that takes time. Its line is printed at once; what moves below it goes when the step is dropped.
pub(crate) struct Step {
    bar: ProgressBar,
}

impl Step {
    /// Begins a step: `doing` is a verb in -ing, `what` its object.
    ///
    /// Where standard error is no terminal only the line is printed.
    pub(crate) fn new(doing: &str, what: &str) -> Self {
        say(doing, what);
        let bar = ProgressBar::no_length().with_style(style(SPINNER));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Shows how much is done, in percent.
    pub(crate) fn percent(&self, percent: f64) {
        if self.bar.length().is_none() {
            self.bar.set_length(1000);
            self.bar.set_style(style(BAR));
        }
        // Saturates by definition of `as`; the bar counts in tenths.
        self.bar.set_position((percent * 10.0) as u64);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are well formed")
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
