//! Restoring a snapshot, or a copied data path, into this node's empty data path.
//!
//! The customer key is asked before a byte is copied; files are checked before they reach the data path; the node's
//! own keystore comes last. What goes into the data path is remembered in `state_dir` first: after a kill in between no
//! agent starts on it, and a repeated restore begins by removing exactly that.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use keyward_keys::keystore::SealedKeystore;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    SnapshotError,
    create::{ASSIGNMENTS, KEYSTORE, blocking, object_name},
    files::{self, Copying, Staging},
    manifest::{self, Manifest},
    store::{Store, folder_of},
};
use crate::{admin::progress::Progress, disk::HostDisk, engine, node::NodeHandle};

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Where it came from.
    pub from: String,
    /// The node that it was taken of.
    pub from_node: String,
    /// The master key that wrapped the database keys there; this node has made its own.
    pub from_master_key: String,
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Restores into the empty data path of `node` and starts it.
///
/// # Errors
/// The data path is not empty; the snapshot is damaged, or of another engine; its customer key is revoked (exit code
/// 3) or unavailable (4). After an error the data path is as it was.
pub async fn restore(node: &NodeHandle, from: &Url, progress: &Progress) -> Result<Restored, SnapshotError> {
    let config = node.config();
    let cut_off = node.restoring()?;
    if cut_off.is_none() {
        // Before the engine is stopped for it.
        refuse_data(&config.data_path)?;
    }
    let hold = node.hold("a restore puts the files in place").await?;
    if let Some(names) = cut_off {
        let data_path = config.data_path.clone();
        blocking(move || files::remove(&data_path, &names)).await?;
        node.set_restoring(None)?;
    }
    refuse_data(&config.data_path)?;
    let source = Source::open(from, config.snapshot_credentials_file.as_deref()).await?;
    if let Some(kind) = source.engine_kind()
        && kind != config.engine.kind.as_str()
    {
        return Err(SnapshotError::OtherEngine {
            of: kind.to_owned(),
            here: config.engine.kind.as_str().to_owned(),
        });
    }
    progress.report("ask the customer key", 0, 2, "steps");
    let sealed = SealedKeystore::parse(&source.keystore).map_err(SnapshotError::Keystore)?;
    let (from_node, from_master_key) = (sealed.node_id().to_string(), sealed.master_key_id().to_string());
    let opened = node.unlock_foreign(sealed).await?;
    progress.report("make this node's own master key", 1, 2, "steps");
    let prepared = node.prepare_restored(opened).await?;

    let staging = Staging::make(config.keyward_dir().join("restore"))?;
    check_space(&config.data_path, source.bytes())?;
    let cancelled = node.revoked();
    source.copy_to(staging.path(), &cancelled, progress).await?;
    if cancelled.is_cancelled() {
        return Err(SnapshotError::Revoked);
    }
    let (files, bytes) = (source.files(), source.bytes());
    let place = Place {
        staging,
        data_path: config.data_path.clone(),
        keyward_dir: config.keyward_dir(),
        assignments: source.assignments.clone(),
        owner: config
            .engine
            .user
            .as_deref()
            .map(engine::user_ids)
            .transpose()
            .map_err(SnapshotError::Engine)?,
    };
    let names = place.names()?;
    let journal = config.keyward_dir().join(ASSIGNMENTS);
    let journal_before = fs::read(&journal).ok();
    node.set_restoring(Some(&names))?;
    let placed = match blocking(move || place.all()).await {
        Ok(()) => node.install_restored(prepared, &hold).await.map_err(SnapshotError::Node),
        Err(error) => Err(error),
    };
    if let Err(error) = placed {
        let data_path = config.data_path.clone();
        blocking(move || {
            files::remove(&data_path, &names)?;
            let put_back = match journal_before {
                Some(bytes) => fs::write(&journal, bytes),
                None => crate::disk::remove_if_there(&HostDisk, &journal),
            };
            put_back.map_err(|source| SnapshotError::File { path: journal, source })
        })
        .await?;
        node.set_restoring(None)?;
        return Err(error);
    }
    node.set_restoring(None)?;
    node.start_restored(&hold).await?;
    Ok(Restored { from: source.shown, from_node, from_master_key, files, bytes })
}

fn refuse_data(data_path: &Path) -> Result<(), SnapshotError> {
    match engine::has_data(data_path).map_err(SnapshotError::Engine)? {
        true => Err(SnapshotError::DataPathNotEmpty { path: data_path.to_owned() }),
        false => Ok(()),
    }
}

/// Where the files come from.
struct Source {
    shown: String,
    keystore: Vec<u8>,
    assignments: Option<Vec<u8>>,
    kind: SourceKind,
}

enum SourceKind {
    /// A snapshot, with a manifest.
    Snapshot { store: Store, manifest: Box<Manifest> },
    /// A copied data path: no checksums but those of the pages themselves.
    DataPath { root: PathBuf, files: Vec<PathBuf>, bytes: u64 },
}

impl Source {
    async fn open(from: &Url, credentials: Option<&Path>) -> Result<Self, SnapshotError> {
        if let Some(root) = folder_of(from)
            && root.join(".keyward").join(KEYSTORE).is_file()
        {
            return blocking(move || Self::data_path(root)).await;
        }
        let store = Store::open(from, credentials)?;
        let shown = store.shown().to_owned();
        let Some(bytes) = store.get(manifest::NAME).await? else {
            return Err(SnapshotError::NoSnapshot { place: shown });
        };
        let manifest = Manifest::parse(&bytes).map_err(SnapshotError::Manifest)?;
        let small = async |name: &str, entry: &manifest::FileEntry| {
            let damaged = || SnapshotError::Damaged { path: entry.path.clone() };
            let bytes = store.get(name).await?.ok_or_else(damaged)?;
            let sha256 = HEXLOWER.encode(digest(&SHA256, &bytes).as_ref());
            if bytes.len() as u64 != entry.size || sha256 != entry.sha256 {
                Err(damaged())
            } else {
                Ok(bytes.to_vec())
            }
        };
        let keystore = small(KEYSTORE, &manifest.keystore).await?;
        let assignments = match &manifest.assignments {
            Some(entry) => Some(small(ASSIGNMENTS, entry).await?),
            None => None,
        };
        let kind = SourceKind::Snapshot { store, manifest: Box::new(manifest) };
        Ok(Self { shown, keystore, assignments, kind })
    }

    fn data_path(root: PathBuf) -> Result<Self, SnapshotError> {
        let read = |name: &str| {
            let path = root.join(".keyward").join(name);
            fs::read(&path).map_err(|source| SnapshotError::File { path, source })
        };
        let keystore = read(KEYSTORE)?;
        let assignments = match read(ASSIGNMENTS) {
            Ok(bytes) => Some(bytes),
            Err(SnapshotError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let files = files::list(&root)?;
        let bytes = files.iter().filter_map(|f| fs::metadata(root.join(f)).ok()).map(|m| m.len()).sum();
        let shown = format!("file://{}", root.display());
        Ok(Self { shown, keystore, assignments, kind: SourceKind::DataPath { root, files, bytes } })
    }

    fn engine_kind(&self) -> Option<&str> {
        match &self.kind {
            SourceKind::Snapshot { manifest, .. } => Some(&manifest.engine.kind),
            SourceKind::DataPath { .. } => None,
        }
    }

    fn files(&self) -> usize {
        match &self.kind {
            SourceKind::Snapshot { manifest, .. } => manifest.files.len(),
            SourceKind::DataPath { files, .. } => files.len(),
        }
    }

    fn bytes(&self) -> u64 {
        match &self.kind {
            SourceKind::Snapshot { manifest, .. } => manifest.total_bytes(),
            SourceKind::DataPath { bytes, .. } => *bytes,
        }
    }

    /// Copies every file to `to`, each checked where there are checksums.
    async fn copy_to(
        &self,
        to: &Path,
        cancelled: &CancellationToken,
        progress: &Progress,
    ) -> Result<(), SnapshotError> {
        let total = self.bytes();
        match &self.kind {
            SourceKind::Snapshot { store, manifest } => {
                let mut done = 0;
                for entry in &manifest.files {
                    let target = to.join(entry.relative().map_err(SnapshotError::Manifest)?);
                    files::make_folder(target.parent().unwrap_or(to))?;
                    let mut on_bytes = |bytes| {
                        done += bytes;
                        progress.report("fetch and check", done, total, "bytes");
                    };
                    let name = object_name(&entry.path);
                    store.get_file(&name, entry, &target, cancelled, &mut on_bytes).await?;
                }
                Ok(())
            }
            SourceKind::DataPath { root, files, .. } => {
                let (root, files, to) = (root.clone(), files.clone(), to.to_owned());
                let progress = progress.clone();
                blocking(move || {
                    let done = std::cell::Cell::new(0);
                    files::copy(&root, &to, &files, Copying::ReflinkOrBytes, &|bytes| {
                        done.set(done.get() + bytes);
                        progress.report("copy", done.get(), total, "bytes");
                    })
                })
                .await
            }
        }
    }
}

/// Everything that moves checked files into the data path; blocking.
struct Place {
    staging: Staging,
    data_path: PathBuf,
    keyward_dir: PathBuf,
    assignments: Option<Vec<u8>>,
    owner: Option<(u32, u32)>,
}

impl Place {
    /// What of the staging folder goes into the data path.
    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let failed = |source| SnapshotError::File { path: self.staging.path().to_owned(), source };
        fs::read_dir(self.staging.path())
            .map_err(failed)?
            .map(|entry| {
                let name = entry.map_err(failed)?.file_name();
                name.into_string().map_err(|_| failed(io::ErrorKind::InvalidFilename.into()))
            })
            .collect()
    }

    fn all(&self) -> Result<(), SnapshotError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::File { path, source }
        };
        if let Some((uid, gid)) = self.owner {
            for entry in walkdir::WalkDir::new(self.staging.path()).min_depth(1).into_iter().flatten() {
                std::os::unix::fs::chown(entry.path(), Some(uid), Some(gid)).map_err(failed(entry.path()))?;
            }
            std::os::unix::fs::chown(&self.data_path, Some(uid), Some(gid))
                .map_err(failed(&self.data_path))?;
        }
        files::sync_folders(self.staging.path())?;
        for entry in fs::read_dir(self.staging.path()).map_err(failed(self.staging.path()))? {
            let entry = entry.map_err(failed(self.staging.path()))?;
            let target = self.data_path.join(entry.file_name());
            fs::rename(entry.path(), &target).map_err(failed(&target))?;
        }
        let journal = self.keyward_dir.join(ASSIGNMENTS);
        match &self.assignments {
            Some(bytes) => {
                fs::write(&journal, bytes).map_err(failed(&journal))?;
                if let Some((uid, gid)) = self.owner {
                    std::os::unix::fs::chown(&journal, Some(uid), Some(gid)).map_err(failed(&journal))?;
                }
                fs::File::open(&journal).and_then(|f| f.sync_all()).map_err(failed(&journal))?;
            }
            None => crate::disk::remove_if_there(&HostDisk, &journal).map_err(failed(&journal))?,
        }
        for folder in [&self.keyward_dir, &self.data_path] {
            fs::File::open(folder).and_then(|f| f.sync_all()).map_err(failed(folder))?;
        }
        Ok(())
    }
}

fn check_space(data_path: &Path, needed: u64) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::File { path: data_path.to_owned(), source };
    let stat = rustix::fs::statvfs(data_path).map_err(|e| failed(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        return Err(SnapshotError::NoSpace { path: data_path.to_owned(), needed, free });
    }
    Ok(())
}
