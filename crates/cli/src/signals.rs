//! Ending on request: Ctrl-C, SIGTERM, SIGHUP.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Cancels `shutdown` at the first of them.
pub(crate) fn cancel_on_end(shutdown: &CancellationToken) -> Result<(), Failure> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(|e| {
            Failure::new("signals cannot be received", "check the limits of this process").because(&e)
        })?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                shutdown.cancel();
            }
        });
    }
    Ok(())
}
