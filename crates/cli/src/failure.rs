//! How a command fails: one message, why, what to do, and the exit code. The only place that knows exit codes.

use std::error::Error;
use std::io::Write;

use anstyle::{AnsiColor, Style};

use crate::render::harmless;

/// Exit code: done.
pub(crate) const DONE: u8 = 0;
/// Exit code: failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Exit code: refused because the customer key is revoked.
pub(crate) const REVOKED: u8 = 3;
/// Exit code: the customer key is unavailable.
pub(crate) const UNAVAILABLE: u8 = 4;

/// What a person is told when a command fails.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What happened, to what. No full stop.
    pub(crate) message: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do next.
    pub(crate) hint: String,
    /// The exit code.
    pub(crate) exit: u8,
}

impl Failure {
    /// Exit code 1.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: hint.into(), exit: FAILED }
    }

    /// Exit code 2.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: USAGE, ..Self::new(message, hint) }
    }

    /// Nobody reads stdout any more: the command ends, and has nothing to say of it.
    pub(crate) fn reader_gone() -> Self {
        Self { exit: DONE, ..Self::new(String::new(), String::new()) }
    }

    /// Adds `source` and what is beneath it as the reason.
    pub(crate) fn because(mut self, source: &(dyn Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(error) = next {
            let text = error.to_string();
            // Some libraries repeat their source in their own text.
            if !self.causes.last().is_some_and(|last| last.contains(&text)) && !self.message.contains(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Another exit code.
    pub(crate) fn with_exit(self, exit: u8) -> Self {
        Self { exit, ..self }
    }

    /// Writes it to stderr.
    pub(crate) fn report(&self) {
        if self.exit == DONE {
            return;
        }
        let mut err = anstream::stderr().lock();
        let _ = self.write(&mut err);
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let cyan = Style::new().fg_color(Some(AnsiColor::Cyan.into())).bold();
        writeln!(out, "{red}error:{red:#} {}", harmless(&self.message))?;
        for cause in &self.causes {
            writeln!(out, "  because: {}", harmless(cause).replace('\n', "\n           "))?;
        }
        writeln!(out, "{cyan}hint:{cyan:#} {}", harmless(&self.hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = Failure::reader_gone();
        assert_eq!((gone.exit, gone.message.as_str()), (DONE, ""));
    }

    #[test]
    fn a_failure_reads_as_message_causes_hint() {
        #[derive(Debug, thiserror::Error)]
        #[error("the socket is gone")]
        struct Outer(#[source] std::io::Error);
        let source = Outer(std::io::Error::other("no such file"));
        let failure = Failure::new("the agent of node-0 does not answer", "start it").because(&source);
        let mut text = anstream::StripStream::new(Vec::new());
        failure.write(&mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text.into_inner()).unwrap(), @r"
        error: the agent of node-0 does not answer
          because: the socket is gone
          because: no such file
        hint: start it
        ");
    }
}
