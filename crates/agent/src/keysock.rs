//! The socket on which the engine's encryptor gets its database keys.
//!
//! Owns who may have them: the process that this agent started or found again, and nobody else. Keys are unwrapped
//! for one frame and wiped after it; a spare is durable in the keystore before it is sent.

use std::{
    collections::HashSet, fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration,
};

use keyward_keys::{
    KeyId,
    keystore::Purpose,
    wire::{
        HEADER_BYTES, MIN_PROTOCOL_VERSION, PROTOCOL_VERSION, ToAgent, ToEncryptor, WireError,
        decode_to_agent, encode_to_encryptor, to_agent_payload,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    engine::user_ids,
    node::{NodeError, NodeHandle, chain},
};

/// How long a process that connects may take to become known: an engine can be faster than its agent.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many connections of other users are listened to at a time: where the engine has a user of its own, every user
/// of the host may connect, and the agent needs its descriptors to ask the vault.
const STRANGERS: usize = 8;
/// How many of the engine's user, where that is not the agent's: an engine has one for each WiredTiger in it, and may
/// be in wrong hands.
const OF_ENGINE: usize = 64;
/// How long a connection may stay silent before its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    /// The frames.
    #[error("the encryptor's connection failed")]
    Wire(#[from] WireError),
    /// The socket.
    #[error("the encryptor's connection failed")]
    Io(#[from] io::Error),
    /// No hello in time, or something else first.
    #[error("the first frame was no hello within {} s", HELLO_TIMEOUT.as_secs())]
    NoHello,
    /// The keys.
    #[error("the keys could not be given out")]
    Node(#[from] NodeError),
}

/// Makes the socket, for the agent's own user and, with `shared`, for an engine under another user.
pub fn listen(path: &Path, shared: bool) -> io::Result<UnixListener> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    // The encryptor refuses a folder that others may write to; who connects is checked by process, not by mode.
    fs::set_permissions(dir, fs::Permissions::from_mode(if shared { 0o711 } else { 0o700 }))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(if shared { 0o666 } else { 0o600 }))?;
    Ok(listener)
}

/// Serves encryptors until `shutdown`.
pub async fn serve(listener: UnixListener, node: NodeHandle, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let (strangers, of_engine) = (Arc::new(Semaphore::new(STRANGERS)), Arc::new(Semaphore::new(OF_ENGINE)));
    let engine_uid = node.config().engine.user.as_deref().and_then(|user| Some(user_ids(user).ok()?.0));
    let unlimited = [rustix::process::geteuid().as_raw(), 0];
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                let permit = if uid.is_some_and(|uid| unlimited.contains(&uid)) {
                    None
                } else {
                    let room = if uid.is_some() && uid == engine_uid { &of_engine } else { &strangers };
                    let Ok(permit) = Arc::clone(room).try_acquire_owned() else { continue };
                    Some(permit)
                };
                let (node, shutdown) = (node.clone(), shutdown.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, &node) => {}
                        () = shutdown.cancelled() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::error!("the key socket does not accept: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(mut stream: UnixStream, node: &NodeHandle) {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
    let Some(pid) = pid else {
        tracing::warn!("a connection to the key socket without a process was refused");
        return;
    };
    if !node.owns_process(pid, PATIENCE).await {
        tracing::warn!(pid, "a process that is not this node's engine asked for keys and was refused");
        // Read first: a socket closed with something unread in it would swallow the answer.
        let _ = tokio::time::timeout(HELLO_TIMEOUT, receive(&mut stream)).await;
        let reason = format!("process {pid} is not the engine that this agent started");
        let _ = send(&mut stream, &ToEncryptor::Refused { reason }).await;
        return;
    }
    match served(&mut stream, node, pid).await {
        Ok(()) => tracing::debug!(pid, "the encryptor said good-bye"),
        Err(ConnectionError::Wire(WireError::Closed)) => tracing::debug!(pid, "the encryptor went away"),
        Err(error) => tracing::warn!(pid, "{}", chain(&error)),
    }
}

async fn served(stream: &mut UnixStream, node: &NodeHandle, pid: u32) -> Result<(), ConnectionError> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, receive(stream)).await;
    let Ok(Ok(ToAgent::Hello { min_version, max_version, wiredtiger_version, layout, data_path, .. })) =
        hello
    else {
        return Err(ConnectionError::NoHello);
    };
    if min_version > PROTOCOL_VERSION || max_version < MIN_PROTOCOL_VERSION {
        let reason = format!(
            "the encryptor speaks versions {min_version} to {max_version}, this agent {MIN_PROTOCOL_VERSION} to \
             {PROTOCOL_VERSION}"
        );
        tracing::error!("{reason}");
        send(stream, &ToEncryptor::Refused { reason }).await?;
        return Ok(());
    }
    let version = max_version.min(PROTOCOL_VERSION);
    let mut known = HashSet::new();
    if let Err(error) = welcome(stream, node, version, &mut known).await {
        if let ConnectionError::Node(error) = &error {
            let reason = format!("{} (hint: {})", chain(error), error.hint());
            send(stream, &ToEncryptor::Refused { reason }).await?;
        }
        return Err(error);
    }
    tracing::info!(pid, %wiredtiger_version, %layout, %data_path, version, "the encryptor said hello");
    node.encryptor_connected(true);
    let outcome = converse(stream, node, &mut known).await;
    node.encryptor_connected(false);
    outcome
}

async fn welcome(
    stream: &mut UnixStream,
    node: &NodeHandle,
    version: u16,
    known: &mut HashSet<KeyId>,
) -> Result<(), ConnectionError> {
    let view = node.keyring().view();
    let held = view.as_ref().is_some_and(|view| view.held);
    let keys = if held {
        node.fold_assignments().await?;
        keys(node, known, false).await?
    } else {
        Vec::new()
    };
    let view = node.keyring().view().or(view).ok_or(NodeError::NoKeystore)?;
    let message = ToEncryptor::Welcome {
        version,
        node_id: view.node_id,
        system_key_id: view.system_key_id,
        keys,
        held,
    };
    send(stream, &message).await
}

/// Listens to the encryptor, and sends it every spare that it does not have yet.
async fn converse(
    stream: &mut UnixStream,
    node: &NodeHandle,
    known: &mut HashSet<KeyId>,
) -> Result<(), ConnectionError> {
    let mut keystore = node.keyring().watch();
    let (mut reader, mut writer) = stream.split();
    let mut header = [0; HEADER_BYTES];
    let mut got = 0;
    loop {
        tokio::select! {
            // Reading the header byte by byte keeps this branch safe to drop.
            read = reader.read(&mut header[got..]) => {
                match read? {
                    0 if got == 0 => return Err(WireError::Closed.into()),
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    n => got += n,
                }
                if got < HEADER_BYTES {
                    continue;
                }
                got = 0;
                let mut payload = to_agent_payload(&header)?;
                reader.read_exact(&mut payload).await?;
                match decode_to_agent(&header, &payload)? {
                    ToAgent::Assigned(assignment) => {
                        let now = node.clock().now();
                        let database = assignment.database.clone();
                        let folded = node.with_keyring(move |keyring| keyring.fold(&[assignment], now)).await;
                        match folded {
                            Ok(()) => tracing::info!(database, "a database got its key"),
                            // It stays in the journal and is taken in later.
                            Err(error) => tracing::warn!(database, "not taken in yet: {}", chain(&error)),
                        }
                    }
                    ToAgent::NeedSpares => refill(node).await,
                    ToAgent::Bye => return Ok(()),
                    ToAgent::Hello { .. } => return Err(ConnectionError::NoHello),
                }
            }
            changed = keystore.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
        let held = keystore.borrow_and_update().as_ref().is_some_and(|view| view.held);
        if held {
            let spares = keys(node, known, true).await?;
            if !spares.is_empty() {
                let frame = encode_to_encryptor(&ToEncryptor::Spares(spares))?;
                writer.write_all(frame.as_bytes()).await?;
            }
        }
    }
}

async fn refill(node: &NodeHandle) {
    let now = node.clock().now();
    if let Err(error) = node.with_keyring(move |keyring| keyring.refill(now)).await {
        tracing::warn!("no more spares for now: {}", chain(&error));
    }
}

/// Keys that `known` does not have, which are added to it.
async fn keys(
    node: &NodeHandle,
    known: &mut HashSet<KeyId>,
    only_spares: bool,
) -> Result<Vec<keyward_keys::wire::WireKey>, NodeError> {
    let mut had = std::mem::take(known);
    let (keys, had) = node
        .with_keyring(move |keyring| {
            let keys = keyring.keys_not_in(&mut had, only_spares)?;
            Ok::<_, crate::keyring::KeyringError>((keys, had))
        })
        .await?;
    debug_assert!(!only_spares || keys.iter().all(|key| key.purpose == Purpose::Spare));
    *known = had;
    Ok(keys)
}

async fn receive(stream: &mut UnixStream) -> Result<ToAgent, ConnectionError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let mut payload = to_agent_payload(&header)?;
    stream.read_exact(&mut payload).await?;
    Ok(decode_to_agent(&header, &payload)?)
}

async fn send(stream: &mut UnixStream, message: &ToEncryptor) -> Result<(), ConnectionError> {
    let frame = encode_to_encryptor(message)?;
    stream.write_all(frame.as_bytes()).await?;
    Ok(())
}
