//! Saying how far a long operation is.

use tokio::sync::mpsc;

use super::ProgressLine;

/// Where an operation says how far it is. Never blocks it: a reader that is too slow misses lines.
#[derive(Debug, Clone)]
pub struct Progress(Option<mpsc::Sender<ProgressLine>>);

impl Progress {
    /// Progress that somebody reads.
    pub fn new(lines: mpsc::Sender<ProgressLine>) -> Self {
        Self(Some(lines))
    }

    /// Progress that nobody reads.
    pub fn silent() -> Self {
        Self(None)
    }

    /// `done` of `total` `unit`s of `step`; `total` is 0 when nobody knows.
    pub fn report(&self, step: &str, done: u64, total: u64, unit: &str) {
        if let Some(lines) = &self.0 {
            let line = ProgressLine { step: step.to_owned(), done, total, unit: unit.to_owned() };
            let _ = lines.try_send(line);
        }
    }
}
