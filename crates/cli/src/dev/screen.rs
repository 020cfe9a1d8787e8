//! The terminal while the board is shown: entered, drawn on, listened to, and given back whatever happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::board::{Action, KEYS, Theme, draw};
use super::view::{Event, View};
use crate::failure::Failure;

/// The terminal; leaves the board when dropped.
pub(crate) struct Screen {
    terminal: DefaultTerminal,
    theme: Theme,
    actions: mpsc::UnboundedReceiver<Option<Action>>,
    closed: Arc<AtomicBool>,
}

impl Screen {
    pub(crate) fn open() -> Result<Self, Failure> {
        let terminal = ratatui::try_init().map_err(|e| {
            Failure::new("the board cannot be shown on this terminal", "use --json, or send stdout to a file")
                .because(&e)
        })?;
        let (sender, actions) = mpsc::unbounded_channel();
        let closed = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&closed);
        // crossterm reads the terminal with blocking calls.
        std::thread::spawn(move || listen(&sender, &stop));
        Ok(Self { terminal, theme: Theme::from_environment(), actions, closed })
    }

    pub(crate) fn draw(&mut self, view: &View, events: &[Event]) -> Result<(), Failure> {
        let drawn = self.terminal.draw(|frame| draw(frame, view, events, self.theme));
        drawn.map(|_| ()).map_err(|e| {
            Failure::new("the terminal cannot be drawn on", "use --json, or send stdout to a file")
                .because(&e)
        })
    }

    /// The next action before `until`; `None` when it is time to look again.
    pub(crate) async fn action(&mut self, until: Instant, shutdown: &CancellationToken) -> Option<Action> {
        tokio::select! {
            action = self.actions.recv() => action.flatten(),
            () = sleep_until(until) => None,
            () = shutdown.cancelled() => None,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

/// Sends actions; a resize sends nothing to do, so that the board is drawn anew.
fn listen(actions: &mpsc::UnboundedSender<Option<Action>>, closed: &AtomicBool) {
    while !closed.load(Ordering::Relaxed) {
        match event::poll(Duration::from_millis(100)) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let sent = match event::read() {
            Ok(event::Event::Key(key)) => match action_of(key) {
                Some(action) => actions.send(Some(action)),
                None => continue,
            },
            Ok(event::Event::Resize(..)) => actions.send(None),
            Ok(
                event::Event::FocusGained
                | event::Event::FocusLost
                | event::Event::Mouse(_)
                | event::Event::Paste(_),
            ) => continue,
            Err(_) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn action_of(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let KeyCode::Char(c) = key.code else { return None };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        // Raw mode: the terminal makes no signal of it.
        return (c == 'c').then_some(Action::Quit);
    }
    KEYS.iter().find(|(known, ..)| *known == c.to_ascii_lowercase()).map(|(_, action, ..)| *action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let press = |c, modifiers| action_of(KeyEvent::new(KeyCode::Char(c), modifiers));
        assert_eq!(press('q', KeyModifiers::NONE), Some(Action::Quit));
        assert_eq!(press('T', KeyModifiers::SHIFT), Some(Action::TakeKeyAway));
        assert_eq!(press('c', KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(press('t', KeyModifiers::CONTROL), None);
        assert_eq!(press('x', KeyModifiers::NONE), None);
        assert_eq!(action_of(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE)), None);
    }
}
