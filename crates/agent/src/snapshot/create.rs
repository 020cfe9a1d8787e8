//! Taking a snapshot: a consistent set of files, then the assignment journal, then the keystore, then the manifest.
//!
//! The keystore comes after the data, so that it knows every key that the data is under.

use std::{ffi::OsStr, io};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use keyward_keys::keystore::SealedKeystore;
use keyward_model::Verdict;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    SnapshotError,
    files::{self, Copied, Copying, Listed, Staging, Tree},
    manifest::{self, EngineOfSnapshot, FileEntry, Manifest, Method, NodeOfSnapshot},
    store::Store,
};
use crate::{
    admin::progress::Progress,
    config::{Config, EngineKind},
    engine::{WriteLock, WriteLockError, database::Database},
    folder::{Folder, Trust},
    keyring::LONGEST_JOURNAL,
    node::{NodeHandle, chain},
};

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// Where it is.
    pub to: String,
    /// How the files were made consistent.
    pub method: Method,
    /// Files, without the keystore.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The customer keys (with versions) any of which opens it: it needs one of them for as long as it is kept.
    pub customer_keys: Vec<String>,
}

/// Takes a snapshot of `node` to `to`, where nothing may be yet.
///
/// # Errors
/// Something is there already; a file or the store fails; the customer key is revoked meanwhile. After any error
/// what it wrote is removed.
pub async fn create(node: &NodeHandle, to: &Url, progress: &Progress) -> Result<Taken, SnapshotError> {
    let cancelled = node.revoked();
    if cancelled.is_cancelled() || node.status().verdict == Verdict::Revoked {
        return Err(SnapshotError::Revoked);
    }
    let store = Store::open(to, node.config().snapshot_credentials_file.as_deref())?;
    if !store.is_empty().await? {
        return Err(SnapshotError::NotEmpty { place: store.shown().to_owned() });
    }
    let taken = match copy_files(node, progress).await {
        Ok(copied) => upload(node, &store, copied, &cancelled, progress).await,
        Err(error) => Err(error),
    };
    if taken.is_err()
        && let Err(error) = store.remove_written().await
    {
        tracing::error!(
            "what an aborted snapshot left at {} could not be removed: {}",
            store.shown(),
            chain(&error)
        );
    }
    taken
}

/// How much may be copied byte by byte while all writes wait: some seconds' worth. A journal on a disk of its
/// own is less.
const BYTES_WITHIN_LOCK: u64 = 1 << 30;

/// Files that no longer change.
struct Unchanging {
    /// Removed when dropped.
    staging: Staging,
    files: Listed,
    method: Method,
    engine_version: String,
    created_at: keyward_model::Timestamp,
}

async fn copy_files(node: &NodeHandle, progress: &Progress) -> Result<Unchanging, SnapshotError> {
    let config = node.config();
    let database = Database::new(&config.engine);
    let running = node.engine().map(|process| process.record().version);
    // Beside the data: a reflink needs the same file system.
    let make_staging = || Staging::in_data_path(node, "snapshot");
    progress.report("copy the files", 0, 0, "bytes");
    let (staging, method) = match (config.engine.kind, &running) {
        (EngineKind::Secantusdb, Some(_)) => {
            let staging = make_staging()?;
            archive(&database, &staging, config).await?;
            (staging, Method::BackupArchive)
        }
        (EngineKind::Mongod, Some(_)) => {
            let staging = make_staging()?;
            let from = Tree::data_path(config)?;
            if files::can_reflink(&from.folder, staging.folder())
                && locked_reflink(node, from, &staging).await?
            {
                (staging, Method::FsyncLockReflink)
            } else {
                // Some files may be there already.
                drop(staging);
                (stopped_copy(node, make_staging()?, progress).await?, Method::StopCopyStart)
            }
        }
        (EngineKind::Wiredtiger, Some(_)) => {
            (stopped_copy(node, make_staging()?, progress).await?, Method::StopCopyStart)
        }
        (_, None) => (stopped_copy(node, make_staging()?, progress).await?, Method::Stopped),
    };
    let created_at = node.clock().now();
    let engine_version = running.unwrap_or_default();
    let files = files::list(&staging.tree()?)?;
    Ok(Unchanging { staging, files, method, engine_version, created_at })
}

/// SecantusDB's own backup, unpacked into `staging`.
async fn archive(database: &Database, staging: &Staging, config: &Config) -> Result<(), SnapshotError> {
    const NAME: &str = "backup.tar.gz";
    // The engine writes the archive, so the folder is its own where it runs under another user.
    let folder = Staging::make(staging.folder().again()?, "archive")?;
    if let Some(user) = &config.engine.user {
        folder.folder().give_to(crate::engine::user_ids(user).map_err(SnapshotError::Engine)?)?;
        staging.folder().set_mode(0o711)?;
    }
    let file = folder.folder().path().join(NAME);
    let name = file.to_str().ok_or_else(|| SnapshotError::File {
        path: file.clone(),
        source: io::Error::new(io::ErrorKind::InvalidFilename, "not UTF-8"),
    })?;
    database.backup_archive(name).await.map_err(SnapshotError::Database)?;
    let written = Tree {
        folder: folder.folder().again()?,
        trust: Trust::data_path(&config.engine).map_err(SnapshotError::Engine)?,
    };
    let to = staging.folder().again()?;
    let left_out = blocking(move || files::unpack(written.open(NAME.as_ref())?, &file, &to)).await?;
    tracing::debug!("left out of the snapshot: {}", left_out.join(", "));
    Ok(())
}

/// Reflinks while all writes are held. `false`: the database does not let itself be locked, or too much lies
/// on other file systems than `staging`.
async fn locked_reflink(node: &NodeHandle, from: Tree, staging: &Staging) -> Result<bool, SnapshotError> {
    let Some(record) = node.engine().map(|process| process.record()) else { return Ok(false) };
    let lock = WriteLock::of(node.config());
    match lock.take().await {
        Ok(()) => {}
        Err(error @ WriteLockError::Refused(_)) => {
            tracing::warn!("the engine is stopped for the copy: {}", chain(&error));
            return Ok(false);
        }
        Err(error @ WriteLockError::Mark { .. }) => {
            let record = record.clone();
            tokio::spawn(async move { lock.release(&record).await });
            return Err(SnapshotError::Lock(Box::new(error)));
        }
    }
    let to = staging.folder().again();
    let copied = blocking(move || {
        let list = files::list(&from)?;
        files::copy(&from, &to?, &list.paths, Copying::Reflink { or_bytes: BYTES_WITHIN_LOCK }, &|_| {})
    })
    .await;
    lock.release(&record).await;
    if let Ok(Copied::TooManyBytes) = copied {
        tracing::warn!("the engine is stopped for the copy: too much of its data lies on other file systems");
    }
    copied.map(|copied| copied == Copied::All)
}

/// Copies while the engine is stopped; it is started again before anything is sent.
async fn stopped_copy(
    node: &NodeHandle,
    staging: Staging,
    progress: &Progress,
) -> Result<Staging, SnapshotError> {
    let hold = node.hold("a snapshot copies the files").await?;
    let from = Tree::data_path(node.config());
    let to = staging.folder().again();
    let progress = progress.clone();
    let copied = blocking(move || {
        let (from, to) = (from?, to?);
        let list = files::list(&from)?;
        let done = std::cell::Cell::new(0);
        files::copy(&from, &to, &list.paths, Copying::ReflinkOrBytes, &|bytes| {
            done.set(done.get() + bytes);
            progress.report("copy the files", done.get(), list.bytes, "bytes");
        })
    })
    .await;
    drop(hold);
    copied.map(|_| staging)
}

async fn upload(
    node: &NodeHandle,
    store: &Store,
    copied: Unchanging,
    cancelled: &CancellationToken,
    progress: &Progress,
) -> Result<Taken, SnapshotError> {
    let total = copied.files.bytes;
    let tree = copied.staging.tree()?;
    let mut done = 0;
    let mut entries = Vec::new();
    for path in &copied.files.paths {
        let name = path.to_str().ok_or_else(|| SnapshotError::File {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidFilename, "not UTF-8"),
        })?;
        let mut on_bytes = |bytes| {
            done += bytes;
            progress.report("send", done, total, "bytes");
        };
        let (file, shown) = (tree.open(path)?, tree.folder.path().join(path));
        let entry = store.put_file(&object_name(name), (file, &shown), cancelled, &mut on_bytes).await?;
        entries.push(FileEntry { path: name.to_owned(), ..entry });
    }
    // An assignment that is in the data but in neither the journal nor the keystore cannot be: it is journalled
    // before its table exists, and folded only into a keystore that is copied after this.
    let assignments =
        read_journal(&files::own_folder(node)?, Trust::own())?.filter(|bytes| !bytes.is_empty());
    let assignments = match assignments {
        Some(bytes) => Some(put_small(store, ASSIGNMENTS, bytes).await?),
        None => None,
    };
    let keystore_bytes = node.keystore_bytes()?;
    let sealed = SealedKeystore::parse(&keystore_bytes).map_err(SnapshotError::Keystore)?;
    let keystore = put_small(store, KEYSTORE, keystore_bytes).await?;
    let customer_keys: Vec<String> = sealed.wraps().iter().map(|wrap| wrap.key_identifier.clone()).collect();
    let manifest = Manifest {
        format_version: manifest::FORMAT_VERSION,
        created_at: copied.created_at,
        node: NodeOfSnapshot { id: sealed.node_id(), name: node.config().name.clone() },
        engine: EngineOfSnapshot {
            kind: node.config().engine.kind.as_str().to_owned(),
            version: copied.engine_version.clone(),
        },
        method: copied.method,
        master_key_id: sealed.master_key_id(),
        customer_keys: customer_keys.clone(),
        keystore_generation: sealed.generation(),
        keystore,
        assignments,
        files: entries,
    };
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(SnapshotError::Encode)?;
    if cancelled.is_cancelled() {
        return Err(SnapshotError::Revoked);
    }
    store.put(manifest::NAME, bytes).await?;
    Ok(Taken {
        to: store.shown().to_owned(),
        method: copied.method,
        files: manifest.files.len(),
        bytes: manifest.total_bytes(),
        customer_keys,
    })
}

/// The keystore's name, in a snapshot as in `DBPATH/.keyward`.
pub(super) const KEYSTORE: &str = "keystore.json";
/// The assignment journal's name, likewise.
pub(super) const ASSIGNMENTS: &str = "assignments";

/// Where a file of the data path is kept in a snapshot.
pub(super) fn object_name(path: &str) -> String {
    format!("data/{path}")
}

/// The assignment journal in a `.keyward`, when there is one. In the node's own the database's user writes it
/// and cannot replace it.
pub(super) fn read_journal(own: &Folder, trust: Trust) -> Result<Option<Vec<u8>>, SnapshotError> {
    match own.read_at_most(OsStr::new(ASSIGNMENTS), LONGEST_JOURNAL, trust) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn put_small(store: &Store, name: &str, bytes: Vec<u8>) -> Result<FileEntry, SnapshotError> {
    let entry = FileEntry {
        path: format!(".keyward/{name}"),
        size: bytes.len() as u64,
        sha256: HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()),
    };
    store.put(name, bytes).await?;
    Ok(entry)
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SnapshotError::Ended)?
}
