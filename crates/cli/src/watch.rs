//! Shows something once, or again and again until Ctrl-C.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use crossterm::cursor::MoveToPreviousLine;
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType};
use keyward_model::count::counted;
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::output::{Output, print};
use crate::{render, signals};

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
        // A server that hangs does not keep anybody from ending this.
        let now = tokio::select! {
            now = ask() => now?,
            () = shutdown.cancelled() => return Ok(()),
        };
        if in_place {
            let (width, height) = crossterm::terminal::size()
                .map_or((80, 24), |(width, height)| (usize::from(width).max(1), usize::from(height)));
            let shown = fitting(&render::harmless(&text(&now)), width, height);
            if shown_lines > 0 {
                let _ = execute!(
                    std::io::stdout(),
                    MoveToPreviousLine(shown_lines),
                    Clear(ClearType::FromCursorDown)
                );
            }
            print(&shown)?;
            shown_lines = u16::try_from(rows(&shown, width)).unwrap_or(u16::MAX);
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
fn rows(text: &str, width: usize) -> usize {
    text.lines().map(|line| render::width(line).div_ceil(width).max(1)).sum()
}

/// As much of `text` as can be drawn again in its place: a terminal cannot go back above its first row.
fn fitting(text: &str, width: usize, height: usize) -> String {
    // The cursor's own row stays free.
    let room = height.saturating_sub(1);
    if rows(text, width) <= room {
        return text.to_owned();
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut left = room.saturating_sub(1);
    let fits = lines
        .iter()
        .take_while(|line| {
            let needed = rows(line, width).max(1);
            let fits = needed <= left;
            left = left.saturating_sub(needed);
            fits
        })
        .count();
    let more = format!("… {}", counted(lines.len() - fits, "more line", "more lines"));
    lines[..fits].iter().map(|line| format!("{line}\n")).chain([format!("{more}\n")]).collect()
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
        assert_eq!(rows("データベース\n", 10), 2, "each of them takes two columns");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(fitting(text, 10, 6), text);
        assert_eq!(fitting(text, 10, 5), "1\n2\n3\n… 2 more lines\n");
        let wide = format!("1\n{}\n3\n4\n", "x".repeat(25));
        assert_eq!(fitting(&wide, 10, 5), "1\n… 3 more lines\n");
        assert_eq!(rows(&fitting(text, 20, 1), 20), 1, "at least that there is more");
    }
}
