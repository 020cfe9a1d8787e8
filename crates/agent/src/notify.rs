//! Telling systemd how the agent does. Does nothing where there is no systemd.

use sd_notify::NotifyState;

/// The agent serves its sockets.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// What `systemctl status` shows.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// The agent is on its way out; the database runs on.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Feeds the watchdog.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is wanted, if at all.
pub(crate) fn watchdog() -> Option<std::time::Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}
