//! Shows something once, or again and again until Ctrl-C.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use crossterm::cursor::MoveToPreviousLine;
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType};
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::output::{Output, print};
use crate::signals;

const AGAIN: Duration = Duration::from_secs(1);

/// Asks and shows; with `again`, every second: in place on a terminal, else whenever it has changed.
pub(crate) async fn show<T, F>(
    again: bool,
    json: bool,
    ask: impl Fn() -> F,
    text: impl Fn(&T) -> String,
) -> Result<(), Failure>
where
    T: Serialize + PartialEq,
    F: Future<Output = Result<T, Failure>>,
{
    let output = Output { json };
    if !again {
        return output.data(&ask().await?, text);
    }
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    let in_place = !json && std::io::stdout().is_terminal();
    let mut before: Option<T> = None;
    let mut shown_lines: u16 = 0;
    loop {
        let now = ask().await?;
        if in_place {
            let shown = text(&now);
            if shown_lines > 0 {
                let _ = execute!(
                    std::io::stdout(),
                    MoveToPreviousLine(shown_lines),
                    Clear(ClearType::FromCursorDown)
                );
            }
            print(&shown)?;
            let width = crossterm::terminal::size().map_or(80, |(width, _)| usize::from(width)).max(1);
            shown_lines = rows(&shown, width);
        } else if before.as_ref() != Some(&now) {
            output.line(&now, &text)?;
        }
        before = Some(now);
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Rows that `text` takes on a terminal of `width` columns.
fn rows(text: &str, width: usize) -> u16 {
    let plain = anstream::adapter::strip_str(text).to_string();
    let rows: usize = plain.lines().map(|line| line.chars().count().div_ceil(width).max(1)).sum();
    u16::try_from(rows).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_as_a_terminal_wraps_them() {
        assert_eq!(rows("", 10), 0);
        assert_eq!(rows("a\n\nb\n", 10), 3);
        assert_eq!(rows(&format!("{}\n", "x".repeat(21)), 10), 3);
        assert_eq!(rows("\x1b[32m0123456789\x1b[0m\n", 10), 1);
    }
}
