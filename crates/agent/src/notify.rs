//! Telling systemd how the agent does. Does nothing where there is no systemd.
//!
//! Sent by a thread of its own: while systemd does not read, a send blocks, and that must hold up no decision.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use sd_notify::NotifyState;

/// Messages that wait for systemd; further ones are dropped, but for the newest status.
const QUEUE: usize = 16;
/// What `systemctl status` is to show, until it was sent.
static STATUS: Mutex<Option<String>> = Mutex::new(None);
/// How long an ending agent waits until its last message is sent.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The agent serves its sockets.
pub(crate) fn ready() {
    send(Message::Ready);
}

/// What `systemctl status` shows.
pub(crate) fn status(text: &str) {
    *STATUS.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    send(Message::Status);
}

/// The agent is on its way out; the database runs on.
pub(crate) fn stopping() {
    let (sent, wait) = sync_channel(1);
    send(Message::Stopping { sent });
    let _ = wait.recv_timeout(LAST_WORDS);
}

/// Feeds the watchdog.
pub(crate) fn alive() {
    send(Message::Alive);
}

/// How often [`alive`] is wanted, if at all.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

enum Message {
    Ready,
    Status,
    Alive,
    Stopping { sent: SyncSender<()> },
}

fn send(message: Message) {
    static TO_SYSTEMD: OnceLock<SyncSender<Message>> = OnceLock::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let queue = TO_SYSTEMD.get_or_init(|| {
        let (queue, messages) = sync_channel(QUEUE);
        // Ends with the process: nothing is lost by cutting it off.
        std::thread::spawn(move || messages.into_iter().for_each(|message| deliver(&message)));
        queue
    });
    if queue.try_send(message).is_err() {
        tracing::debug!("systemd does not read what it is told");
    }
}

fn deliver(message: &Message) {
    let status = STATUS.lock().unwrap_or_else(PoisonError::into_inner).take();
    let status = status.as_deref().map(NotifyState::Status);
    let state = match message {
        Message::Ready => Some(NotifyState::Ready),
        Message::Status => None,
        Message::Alive => Some(NotifyState::Watchdog),
        Message::Stopping { .. } => Some(NotifyState::Stopping),
    };
    let states: Vec<_> = state.into_iter().chain(status).collect();
    if !states.is_empty()
        && let Err(error) = sd_notify::notify(&states)
    {
        tracing::debug!("systemd was not told: {error}");
    }
    if let Message::Stopping { sent } = message {
        let _ = sent.try_send(());
    }
}
