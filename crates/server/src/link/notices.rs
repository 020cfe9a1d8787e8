//! What other servers of the store say: nodes that wait here look again, and so do jobs.

use std::time::Duration;

use keyward_store::{Notice, StoreError};

use crate::App;

/// The pause after the connection could not be made. Until then [`super::seen`] looks.
const AGAIN: Duration = Duration::from_secs(5);

/// Listens until the server stops.
pub(super) async fn run(app: App) {
    loop {
        let heard = tokio::select! {
            heard = listen(&app) => heard,
            () = app.stop().cancelled() => return,
        };
        match heard {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "other servers cannot be heard; what they change is looked for")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = app.stop().cancelled() => return,
        }
    }
}

/// Returns at once where there can be no other server.
async fn listen(app: &App) -> Result<(), StoreError> {
    let Some(mut notices) = app.store().notices().await? else { return Ok(()) };
    loop {
        match notices.next().await? {
            Notice::Node(node) => app.nudge().node(node),
            // Nodes of a word that was missed are found by the look.
            Notice::Jobs | Notice::Missed => app.nudge().jobs(),
        }
    }
}
