//! What goes to stdout: data, as JSON or for a person. Nothing else in this program writes there.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::render::harmless;

/// How a command answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// Prints `value` as JSON, or `text` of it. Colours of `text` are dropped where stdout is no terminal or
    /// `NO_COLOR` is set.
    pub(crate) fn data<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(value)
                .map_err(|e| Failure::new("the answer is no JSON", REPORT).because(&e))?;
            print(&format!("{json}\n"))
        } else {
            print(&harmless(&text(value)))
        }
    }

    /// Prints one JSON object on one line, or `text` of it.
    pub(crate) fn line<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string(value)
                .map_err(|e| Failure::new("the answer is no JSON", REPORT).because(&e))?;
            print(&format!("{json}\n"))
        } else {
            print(&harmless(&text(value)))
        }
    }
}

const REPORT: &str = "report it as a bug";

/// Prints text as it is. A reader that has gone away (`| head`) ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(e) => Err(Failure::new("stdout cannot be written", "check where the output goes").because(&e)),
        Ok(()) => Ok(()),
    }
}
