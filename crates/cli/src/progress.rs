//! Progress of long work, on stderr and only on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Work whose end is not known: a spinner and a line that changes.
#[derive(Debug)]
pub(crate) struct Spinner {
    bar: ProgressBar,
    title: String,
}

impl Spinner {
    /// Starts it; shows nothing where `show` is false or stderr is no terminal.
    pub(crate) fn start(show: bool, title: &str) -> Self {
        let bar = if show && std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(style("{spinner:.cyan} {wide_msg}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.set_message(title.to_owned());
        Self { bar, title: title.to_owned() }
    }

    /// What is being done now.
    pub(crate) fn say(&self, text: &str) {
        self.bar.set_message(format!("{}: {text}", self.title));
    }

    /// Ends it and leaves nothing behind.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Work in steps, as the agent reports it.
#[derive(Debug)]
pub(crate) struct StepBar {
    bar: ProgressBar,
    unit: String,
}

impl StepBar {
    /// A bar that stays hidden until the first report, and always where `show` is false.
    pub(crate) fn new(show: bool) -> Self {
        let bar =
            if show && std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        Self { bar, unit: String::new() }
    }

    /// `done` of `total` `unit`s of `step`; a total of 0 is "not known".
    pub(crate) fn report(&mut self, step: &str, done: u64, total: u64, unit: &str) {
        if self.unit != unit || self.bar.position() == 0 {
            unit.clone_into(&mut self.unit);
            self.bar.set_style(style(match (total, unit) {
                (0, _) => "{spinner:.cyan} {msg}",
                (_, "bytes") => "{msg:24} {bar:30.cyan/dim} {bytes}/{total_bytes}  {eta}",
                _ => "{msg:24} {bar:30.cyan/dim} {pos}/{len}  {eta}",
            }));
        }
        self.bar.set_length(total);
        self.bar.set_message(step.to_owned());
        self.bar.set_position(done);
    }
}

impl Drop for StepBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━━─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_good() {
        for template in [
            "{spinner:.cyan} {wide_msg}",
            "{spinner:.cyan} {msg}",
            "{msg:24} {bar:30.cyan/dim} {bytes}/{total_bytes}  {eta}",
            "{msg:24} {bar:30.cyan/dim} {pos}/{len}  {eta}",
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
