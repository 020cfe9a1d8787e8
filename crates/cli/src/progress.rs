//! Progress of long work, on stderr: in place on a terminal, else as plain lines, not too many of them.

use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::render::{bytes, harmless};

/// Where nothing can be drawn in place, at most one line comes in this time.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Not at all.
    Never,
    /// One place on the terminal that changes.
    InPlace,
    /// Lines, for a file or another program.
    Lines,
}

impl Shown {
    fn of(show: bool) -> Self {
        match (show, std::io::stderr().is_terminal()) {
            (false, _) => Self::Never,
            (true, true) => Self::InPlace,
            (true, false) => Self::Lines,
        }
    }
}

/// Work whose end is not known: a spinner and a line that changes.
#[derive(Debug)]
pub(crate) struct Spinner {
    bar: ProgressBar,
    title: String,
    /// `None` where there are no lines.
    lines: Option<Mutex<Lines>>,
}

impl Spinner {
    /// Starts it, `title` saying what is done; shows nothing where `show` is false.
    pub(crate) fn start(show: bool, title: &str) -> Self {
        let shown = Shown::of(show);
        if shown == Shown::Lines {
            tell(title);
        }
        Self::shown(shown, title)
    }

    /// The same for `subject`, of which there is something to say at once.
    pub(crate) fn about(show: bool, subject: &str) -> Self {
        Self::shown(Shown::of(show), subject)
    }

    /// The same, for work that is told when it has ended: shows nothing where stderr is no terminal.
    pub(crate) fn on_terminal(show: bool, title: &str) -> Self {
        match Shown::of(show) {
            Shown::InPlace => Self::shown(Shown::InPlace, title),
            Shown::Never | Shown::Lines => Self::shown(Shown::Never, title),
        }
    }

    fn shown(shown: Shown, title: &str) -> Self {
        let bar = match shown {
            Shown::InPlace => ProgressBar::new_spinner(),
            Shown::Never | Shown::Lines => ProgressBar::hidden(),
        };
        bar.set_style(style("{spinner:.cyan} {wide_msg}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.set_message(title.to_owned());
        let lines = (shown == Shown::Lines).then(|| Mutex::new(Lines::since(Instant::now())));
        Self { bar, title: title.to_owned(), lines }
    }

    /// What is being done now.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("{}: {text}", self.title);
        if let Some(lines) = &self.lines
            && lines.lock().unwrap_or_else(PoisonError::into_inner).wants(&line, Instant::now())
        {
            tell(&line);
        }
        self.bar.set_message(line);
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
    step: String,
    /// `None` where there are no lines.
    lines: Option<Lines>,
}

impl StepBar {
    /// A bar that stays hidden until the first report, and always where `show` is false.
    pub(crate) fn new(show: bool) -> Self {
        let shown = Shown::of(show);
        let bar = match shown {
            Shown::InPlace => ProgressBar::new(0),
            Shown::Never | Shown::Lines => ProgressBar::hidden(),
        };
        let lines = (shown == Shown::Lines).then(|| Lines::since(Instant::now()));
        Self { bar, unit: String::new(), step: String::new(), lines }
    }

    /// `done` of `total` `unit`s of `step`; a total of 0 is "not known".
    pub(crate) fn report(&mut self, step: &str, done: u64, total: u64, unit: &str) {
        if let Some(lines) = &mut self.lines {
            // Each step is named once; how far a long one is, now and then.
            let (line, now) = (step_line(step, done, total, unit), Instant::now());
            if lines.wants(&line, now) || self.step != step {
                lines.said(&line, now);
                tell(&line);
            }
        }
        step.clone_into(&mut self.step);
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

/// Which of many lines are worth one on a log: the first of its kind, and then one at a time.
#[derive(Debug)]
struct Lines {
    said: String,
    at: Instant,
}

impl Lines {
    fn since(now: Instant) -> Self {
        Self { said: String::new(), at: now }
    }

    /// Whether `line` is to be told at `now`; if so, it counts as told.
    fn wants(&mut self, line: &str, now: Instant) -> bool {
        let first = self.said.is_empty();
        if line == self.said || (!first && now.duration_since(self.at) < LINE_EVERY) {
            return false;
        }
        self.said(line, now);
        true
    }

    fn said(&mut self, line: &str, now: Instant) {
        line.clone_into(&mut self.said);
        self.at = now;
    }
}

/// How far a step is, in a line: `copying: 1.5 MiB of 3.0 MiB (50 %)`.
fn step_line(step: &str, done: u64, total: u64, unit: &str) -> String {
    if total == 0 {
        return step.to_owned();
    }
    let share = u128::from(done.min(total)) * 100 / u128::from(total);
    match unit {
        "bytes" => format!("{step}: {} of {} ({share} %)", bytes(done), bytes(total)),
        _ => format!("{step}: {done} of {total} {unit} ({share} %)"),
    }
}

/// A line on stderr; one that cannot be written is nothing to stop for.
fn tell(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{}", harmless(line));
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

    #[test]
    fn a_log_gets_the_first_line_and_then_one_at_a_time() {
        let begun = Instant::now();
        let after = |s| begun + Duration::from_secs(s);
        let mut lines = Lines::since(begun);
        assert!(lines.wants("1 of 3", begun));
        assert!(!lines.wants("2 of 3", after(1)), "too soon");
        assert!(!lines.wants("1 of 3", after(60)), "nothing new");
        assert!(lines.wants("2 of 3", after(60)));
        assert!(!lines.wants("3 of 3", after(64)) && lines.wants("3 of 3", after(65)));
    }

    #[test]
    fn steps_as_lines() {
        assert_eq!(step_line("looking", 0, 0, ""), "looking");
        assert_eq!(step_line("copying", 3 << 19, 3 << 20, "bytes"), "copying: 1.5 MiB of 3.0 MiB (50 %)");
        assert_eq!(step_line("searching", 7, 9, "files"), "searching: 7 of 9 files (77 %)");
    }
}
