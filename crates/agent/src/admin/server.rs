//! Serves the admin socket.

use std::{convert::Infallible, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use keyward_model::{KeyIdentifier, NodeStatus, sync::HeldBack};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{net::UnixListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{ExportedKeystore, Failure, Line, ProgressLine, progress::Progress};
use crate::{
    link::Link,
    node::{NodeError, NodeHandle},
    operations, prove, snapshot,
};

/// How long an ending agent waits for what was begun.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(10);

/// Who connected.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

#[derive(Clone)]
struct App {
    node: NodeHandle,
    link: Link,
    running: TaskTracker,
}

/// Makes the socket, for the agent's user alone.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `shutdown`; then waits for what was begun.
pub async fn serve(
    listener: UnixListener,
    node: NodeHandle,
    link: Link,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let running = TaskTracker::new();
    let app = App { node, link, running: running.clone() };
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/start", post(start))
        .route("/v1/stop", post(stop))
        .route("/v1/prove", post(prove_node))
        .route("/v1/rotate-master-key", post(rotate))
        .route("/v1/rewrap", post(rewrap))
        .route("/v1/snapshot", post(snapshot_node))
        .route("/v1/restore", post(restore))
        .route("/v1/join", post(join))
        .route("/v1/leave", post(leave))
        .route("/v1/approvals", get(approvals))
        .route("/v1/approve", post(approve))
        .route("/v1/keystore-export", post(export))
        .layer(middleware::from_fn(admit))
        .with_state(app);
    let stopped = shutdown.clone();
    let serving = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(async move { stopped.cancelled().await })
        .into_future();
    // Neither a client that keeps its connection open nor a long operation may keep the agent: each operation can
    // be cut off anywhere and repeated.
    tokio::select! {
        outcome = serving => outcome,
        () = async {
            shutdown.cancelled().await;
            running.close();
            let _ = tokio::time::timeout(LAST_WORDS, running.wait()).await;
        } => Ok(()),
    }
}

/// Lets root and the agent's own user in.
async fn admit(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    let own = rustix::process::geteuid().as_raw();
    match may_enter(peer.uid, own) {
        true => next.run(request).await,
        false => {
            let failure = Failure {
                code: "NOT_ALLOWED".to_owned(),
                message: "only root and the agent's own user may use the admin socket".to_owned(),
                hint: "run the command as that user".to_owned(),
                exit: 1,
            };
            (StatusCode::FORBIDDEN, Json(Line::Error(failure))).into_response()
        }
    }
}

fn may_enter(peer: Option<u32>, own: u32) -> bool {
    peer.is_some_and(|uid| uid == own || uid == 0)
}

async fn status(State(app): State<App>) -> Json<NodeStatus> {
    Json(app.node.status())
}

async fn start(State(app): State<App>) -> Response {
    stream_of(app, |node, _| async move { node.start().await.map(|()| node.status()) })
}

async fn stop(State(app): State<App>) -> Response {
    stream_of(app, |node, _| async move { node.stop().await.map(|()| node.status()) })
}

async fn prove_node(State(app): State<App>) -> Response {
    stream_of(app, |node, progress| async move { prove::prove(&node, &progress).await })
}

async fn rotate(State(app): State<App>) -> Response {
    let link = app.link.clone();
    stream_of(app, |node, progress| async move {
        let hint = "it rotates on the project's schedule; at once: keyward cluster rotate-master-keys NAME";
        link.refuse_if_managed("the rotation of this node's master key", hint)?;
        operations::rotate_master_key(&node, &progress).await
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RewrapBody {
    key_identifier: KeyIdentifier,
}

async fn rewrap(State(app): State<App>, body: Bytes) -> Response {
    let link = app.link.clone();
    with_body(app, &body, |node, body: RewrapBody, progress| async move {
        let hint = "set the key identifier of the project: keyward encryption set --key-identifier ID";
        link.refuse_if_managed("this node's customer key", hint)?;
        operations::rewrap(&node, &body.key_identifier, &progress).await
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotBody {
    to: Url,
}

async fn snapshot_node(State(app): State<App>, body: Bytes) -> Response {
    with_body(app, &body, |node, body: SnapshotBody, progress| async move {
        let taken = snapshot::create(&node, &body.to, &progress).await?;
        node.remember_snapshot(&taken).await;
        Ok::<_, snapshot::SnapshotError>(taken)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    from: Url,
}

async fn restore(State(app): State<App>, body: Bytes) -> Response {
    with_body(app, &body, |node, body: RestoreBody, progress| async move {
        snapshot::restore(&node, &body.from, &progress).await
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinBody {
    token: String,
}

async fn join(State(app): State<App>, body: Bytes) -> Response {
    let link = app.link.clone();
    with_body(app, &body, |_, body: JoinBody, _| async move { link.join(&body.token).await })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaveBody {
    force: bool,
}

async fn leave(State(app): State<App>, body: Bytes) -> Response {
    let link = app.link.clone();
    with_body(app, &body, |_, body: LeaveBody, _| async move { link.leave(body.force).await })
}

async fn approvals(State(app): State<App>) -> Json<Vec<HeldBack>> {
    Json(app.link.waiting().await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproveBody {
    /// What is approved, as it was shown; everything that waits where it is left out.
    approvals: Option<Vec<String>>,
}

async fn approve(State(app): State<App>, body: Bytes) -> Response {
    let link = app.link.clone();
    with_body(app, &body, |node, body: ApproveBody, _| async move {
        link.approve(body.approvals.as_deref()).await?;
        Ok::<_, NodeError>(node.status())
    })
}

async fn export(State(app): State<App>) -> Response {
    stream_of(app, |node, _| async move {
        let bytes = node.keystore_bytes()?;
        let generation =
            keyward_keys::keystore::SealedKeystore::parse(&bytes).map_err(NodeError::from)?.generation();
        let keystore_base64 = data_encoding::BASE64.encode(&bytes);
        Ok::<_, NodeError>(ExportedKeystore { generation, keystore_base64 })
    })
}

fn with_body<B, T, E, F>(
    app: App,
    body: &Bytes,
    work: impl FnOnce(NodeHandle, B, Progress) -> F + Send + 'static,
) -> Response
where
    B: DeserializeOwned + Send + 'static,
    T: Serialize,
    E: Into<Failure>,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    match serde_json::from_slice::<B>(body) {
        Ok(body) => stream_of(app, move |node, progress| work(node, body, progress)),
        Err(error) => {
            let failure = Failure {
                code: "BAD_REQUEST".to_owned(),
                message: format!("the request cannot be read: {error}"),
                hint: "see `keyward node --help`".to_owned(),
                exit: 1,
            };
            (StatusCode::BAD_REQUEST, Json(Line::Error(failure))).into_response()
        }
    }
}

/// Runs `work` to its end even if the client goes away, and streams what it says.
fn stream_of<T, E, F>(app: App, work: impl FnOnce(NodeHandle, Progress) -> F + Send + 'static) -> Response
where
    T: Serialize,
    E: Into<Failure>,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let (progress, lines) = mpsc::channel::<ProgressLine>(64);
    let node = app.node;
    let done = app.running.spawn(async move {
        let outcome = work(node, Progress::new(progress)).await;
        match outcome.map_err(Into::into) {
            Ok(value) => match serde_json::to_value(&value) {
                Ok(value) => Line::Result(value),
                Err(error) => Line::Error(internal(format!("the result cannot be written: {error}"))),
            },
            Err(failure) => Line::Error(failure),
        }
    });
    let progress = stream::unfold(lines, |mut lines| async {
        lines.recv().await.map(|line| (Line::Progress(line), lines))
    });
    let last = stream::once(async {
        done.await.unwrap_or_else(|_| Line::Error(internal("a task of the agent died".to_owned())))
    });
    let text = progress.chain(last).map(|line| {
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(text))
    });
    ([(http::header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(text)).into_response()
}

fn internal(message: String) -> Failure {
    Failure {
        code: "INTERNAL".to_owned(),
        message,
        hint: "see the agent's log and report it".to_owned(),
        exit: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::may_enter;

    #[test]
    fn root_and_the_agents_user_may_enter() {
        assert!(may_enter(Some(0), 1000) && may_enter(Some(1000), 1000));
        assert!(!may_enter(Some(1001), 1000) && !may_enter(Some(1000), 0) && !may_enter(None, 0));
    }
}
