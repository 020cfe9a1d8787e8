//! Restoring a snapshot, or a copied data path, into this node's empty data path.
//!
//! The customer key is asked before a byte is copied; files are checked before they reach the data path; the node's
//! own keystore comes last. What goes into the data path is remembered in `state_dir` first: after a kill in between no
//! agent starts on it, and a repeated restore begins by removing exactly that.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use keyward_keys::keystore::SealedKeystore;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    SnapshotError,
    create::{ASSIGNMENTS, KEYSTORE, blocking, object_name, read_journal},
    files::{self, Copying, Listed, Staging, Tree, own_folder},
    manifest::{self, Manifest},
    store::{Store, folder_of},
};
use crate::{
    admin::progress::Progress,
    disk::{self, Disk},
    engine,
    folder::{Folder, FolderError, Trust},
    node::NodeHandle,
};

/// Nothing that is read into memory is longer, in bytes: a manifest of a million files, a keystore of as many keys.
const LONGEST_IN_MEMORY: u64 = 256 << 20;

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
        let data_path = Folder::open(&config.data_path)?;
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

    let staging = Staging::in_data_path(node, "restore")?;
    check_space(&config.data_path, source.bytes())?;
    let cancelled = node.revoked();
    source.copy_to(staging.folder(), &cancelled, progress).await?;
    if cancelled.is_cancelled() {
        return Err(SnapshotError::Revoked);
    }
    let (files, bytes) = (source.files(), source.bytes());
    let place = Place {
        staging,
        data_path: Folder::open(&config.data_path)?,
        disk: node.disk(),
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
    let journal_before = read_journal(&own_folder(node)?, Trust::own())?;
    let data_path = place.data_path.again()?;
    let (disk, keyward_dir) = (node.disk(), config.keyward_dir());
    node.set_restoring(Some(&names))?;
    let placed = match blocking(move || place.all()).await {
        Ok(()) => node.install_restored(prepared, &hold).await.map_err(SnapshotError::Node),
        Err(error) => Err(error),
    };
    if let Err(error) = placed {
        blocking(move || {
            files::remove(&data_path, &names)?;
            replace_journal(&*disk, &keyward_dir, journal_before.as_deref())
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
    DataPath { tree: Tree, files: Listed },
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
        let Some(bytes) = store.get(manifest::NAME, LONGEST_IN_MEMORY).await? else {
            return Err(SnapshotError::NoSnapshot { place: shown });
        };
        let manifest = Manifest::parse(&bytes).map_err(SnapshotError::Manifest)?;
        let small = async |name: &str, entry: &manifest::FileEntry| {
            let damaged = || SnapshotError::Damaged { path: entry.path.clone() };
            let bytes = store.get(name, entry.size.min(LONGEST_IN_MEMORY)).await?.ok_or_else(damaged)?;
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
        let tree = Tree::copied(&root)?;
        let own = tree.folder.folder(OsStr::new(".keyward"), tree.trust)?;
        let mut keystore = Vec::new();
        let path = own.path().join(KEYSTORE);
        own.file(OsStr::new(KEYSTORE), tree.trust)?
            .read_to_end(&mut keystore)
            .map_err(|source| SnapshotError::File { path, source })?;
        let assignments = read_journal(&own, tree.trust)?;
        let files = files::list(&tree)?;
        let shown = format!("file://{}", root.display());
        Ok(Self { shown, keystore, assignments, kind: SourceKind::DataPath { tree, files } })
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
            SourceKind::DataPath { files, .. } => files.paths.len(),
        }
    }

    fn bytes(&self) -> u64 {
        match &self.kind {
            SourceKind::Snapshot { manifest, .. } => manifest.total_bytes(),
            SourceKind::DataPath { files, .. } => files.bytes,
        }
    }

    /// Copies every file to `to`, each checked where there are checksums.
    async fn copy_to(
        &self,
        to: &Folder,
        cancelled: &CancellationToken,
        progress: &Progress,
    ) -> Result<(), SnapshotError> {
        let total = self.bytes();
        match &self.kind {
            SourceKind::Snapshot { store, manifest } => {
                let mut done = 0;
                for entry in &manifest.files {
                    let relative = entry.relative().map_err(SnapshotError::Manifest)?;
                    let (target, shown) = (to.create_at(&relative)?, to.path().join(&relative));
                    let mut on_bytes = |bytes| {
                        done += bytes;
                        progress.report("fetch and check", done, total, "bytes");
                    };
                    let name = object_name(&entry.path);
                    store.get_file(&name, entry, (target, &shown), cancelled, &mut on_bytes).await?;
                }
                Ok(())
            }
            SourceKind::DataPath { tree, files } => {
                let tree = Tree { folder: tree.folder.again()?, trust: tree.trust };
                let (files, to) = (files.clone(), to.again()?);
                let progress = progress.clone();
                blocking(move || {
                    let done = std::cell::Cell::new(0);
                    files::copy(&tree, &to, &files.paths, Copying::ReflinkOrBytes, &|bytes| {
                        done.set(done.get() + bytes);
                        progress.report("copy", done.get(), total, "bytes");
                    })
                })
                .await
                .map(drop)
            }
        }
    }
}

/// Everything that moves checked files into the data path; blocking.
struct Place {
    staging: Staging,
    data_path: Folder,
    disk: Arc<dyn Disk>,
    keyward_dir: PathBuf,
    assignments: Option<Vec<u8>>,
    owner: Option<(u32, u32)>,
}

impl Place {
    /// What of the staging folder goes into the data path.
    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let name = |name: OsString| {
            name.into_string().map_err(|name| SnapshotError::File {
                path: self.staging.folder().path().join(name),
                source: io::ErrorKind::InvalidFilename.into(),
            })
        };
        self.staging.folder().entries()?.into_iter().map(|(entry, _)| name(entry)).collect()
    }

    fn all(&self) -> Result<(), SnapshotError> {
        let staging = self.staging.folder();
        staging.settle_all(self.owner)?;
        if let Some(owner) = self.owner {
            self.data_path.give_to(owner)?;
        }
        for (name, _) in staging.entries()? {
            staging.move_into(&name, &self.data_path)?;
        }
        replace_journal(&*self.disk, &self.keyward_dir, self.assignments.as_deref())?;
        Ok(self.data_path.sync()?)
    }
}

/// Puts this assignment journal in the place of the one there is, or takes that away; durable when it
/// returns, and cut off anywhere one of the two is there, whole. The next start gives it to the database's user.
fn replace_journal(disk: &dyn Disk, keyward_dir: &Path, bytes: Option<&[u8]>) -> Result<(), SnapshotError> {
    let path = keyward_dir.join(ASSIGNMENTS);
    let replaced = match bytes {
        Some(bytes) => disk::replace(disk, &path, bytes),
        None => disk::remove_replaced(disk, &path).and_then(|()| disk.sync_dir(keyward_dir)),
    };
    replaced.map_err(|source| match source.downcast::<FolderError>() {
        Ok(refused) => refused.into(),
        Err(source) => SnapshotError::File { path, source },
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{fake::FakeDisk, read_replaced};

    const DIR: &str = "/db/.keyward";
    const BEFORE: &[u8] = b"the journal that was there";
    const RESTORED: &[u8] = b"the journal of the snapshot, which is longer";

    fn journal(disk: &FakeDisk, wanted: &[Option<&[u8]>]) -> Option<Vec<u8>> {
        let whole = |bytes: &[u8]| wanted.contains(&Some(bytes));
        read_replaced(disk, &Path::new(DIR).join(ASSIGNMENTS), whole).unwrap()
    }

    fn with(bytes: Option<&[u8]>) -> FakeDisk {
        let disk = FakeDisk::default();
        disk.write(&Path::new(DIR).join("keystore.json"), b"kept").unwrap();
        disk.sync_file(&Path::new(DIR).join("keystore.json")).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        replace_journal(&disk, Path::new(DIR), bytes).unwrap();
        disk
    }

    #[test]
    fn no_power_cut_leaves_half_a_journal_or_none_where_there_was_one() {
        let mut cuts = 0;
        for (before, after) in [
            (Some(BEFORE), Some(RESTORED)),
            (Some(RESTORED), Some(BEFORE)),
            (Some(BEFORE), None),
            (None, Some(RESTORED)),
            (None, None),
        ] {
            for operations in 0.. {
                let disk = with(before);
                disk.lose_power_after(operations);
                let outcome = replace_journal(&disk, Path::new(DIR), after);
                for (cut, left) in disk.after_power_cuts() {
                    let what = format!("{before:?} to {after:?}, after {operations}, {cut}");
                    let found = journal(&left, &[before, after]);
                    let one_of_both = found.as_deref() == before || found.as_deref() == after;
                    assert!(one_of_both, "{what}: {found:?}");
                    if outcome.is_ok() {
                        assert_eq!(found.as_deref(), after, "{what}");
                    }
                    replace_journal(&left, Path::new(DIR), after).unwrap();
                    assert_eq!(journal(&left, &[after]).as_deref(), after, "{what}: repeated");
                    let names = left.files().len();
                    assert_eq!(names, 1 + usize::from(after.is_some()), "{what}: nothing stays beside it");
                    cuts += 1;
                }
                if outcome.is_ok() {
                    break;
                }
            }
        }
        assert!(cuts > 30, "{cuts}: the power was really cut");
    }

    #[test]
    fn a_full_disk_leaves_the_journal_that_was_there() {
        let disk = with(Some(BEFORE));
        let used: usize = disk.files().values().map(Vec::len).sum();
        disk.set_space(Some(used + 3));
        assert!(replace_journal(&disk, Path::new(DIR), Some(RESTORED)).is_err());
        assert_eq!(journal(&disk, &[]).as_deref(), Some(BEFORE));
        assert_eq!(disk.files().len(), 2);
    }
}
