//! The manifest: what a snapshot consists of. Written last, so that a snapshot without one is none.
//!
//! It holds no secret and protects nothing by itself: pages are authenticated by their database keys, the keystore
//! by its MAC. Its checksums find damage.

use std::path::{Component, Path, PathBuf};

use keyward_keys::{KeyId, NodeId};
use keyward_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::folder::DEEPEST;

/// The version written. Readers take every version up to it.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the manifest in a snapshot.
pub(super) const NAME: &str = "manifest.json";

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always the first thing read.
    pub format_version: u32,
    /// When the files were consistent.
    pub created_at: Timestamp,
    /// The node it was taken of.
    pub node: NodeOfSnapshot,
    /// The engine that wrote the files.
    pub engine: EngineOfSnapshot,
    /// How the files were made consistent.
    pub method: Method,
    /// The master key that wraps the database keys in the keystore.
    pub master_key_id: KeyId,
    /// The customer keys (with versions) any of which opens the keystore.
    pub customer_keys: Vec<String>,
    /// The keystore's generation.
    pub keystore_generation: u64,
    /// The keystore: copied after everything else.
    pub keystore: FileEntry,
    /// The assignment journal, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignments: Option<FileEntry>,
    /// The engine's files.
    pub files: Vec<FileEntry>,
}

/// Whose snapshot it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOfSnapshot {
    /// The node's id.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
}

/// What wrote the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineOfSnapshot {
    /// `mongod`, `secantusdb` or `wiredtiger`.
    pub kind: String,
    /// Its version.
    pub version: String,
}

/// How the files were made consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    /// Reflinks while `fsyncLock` held all writes; copies of what lies on another file system.
    FsyncLockReflink,
    /// The engine was stopped while its files were copied.
    StopCopyStart,
    /// The engine did not run.
    Stopped,
    /// SecantusDB's own backup.
    BackupArchive,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Relative to the data path, `/` between its parts.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this shape.
    #[error("the manifest cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer keyward.
    #[error("the snapshot has format version {found}; this keyward reads up to {FORMAT_VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// A path that would leave the data path.
    #[error("the manifest names the file `{0}`, which is no path inside a data path")]
    Path(String),
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// It is damaged, newer than this program, or names files outside a data path.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        if format_version > FORMAT_VERSION {
            return Err(ManifestError::Newer { found: format_version });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        for file in &manifest.files {
            file.relative()?;
        }
        Ok(manifest)
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        // They are the store's word: more than there is in the world is too much for any disk.
        self.files.iter().map(|f| f.size).fold(0, u64::saturating_add)
    }
}

impl FileEntry {
    /// The path below the data path: no `..`, nothing absolute, nothing of keyward's own.
    pub(super) fn relative(&self) -> Result<PathBuf, ManifestError> {
        let bad = || ManifestError::Path(self.path.clone());
        let path = Path::new(&self.path);
        let mut parts = path.components();
        let first = parts.next().ok_or_else(bad)?;
        if first.as_os_str() == ".keyward" {
            return Err(bad());
        }
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        if path.components().count() > DEEPEST {
            return Err(bad());
        }
        if path.components().all(|part| plain(&part)) { Ok(path.to_owned()) } else { Err(bad()) }
    }
}

/// Whether a file of a data path belongs into a snapshot: what WiredTiger wrote, and mongod's own small files
/// without documents. Nothing that can hold a document in the clear is copied.
pub(super) fn belongs(relative: &Path) -> bool {
    let name = relative.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !may_hold(relative) {
        return false;
    }
    let wiredtiger = name.ends_with(".wt")
        || (name.starts_with("WiredTiger")
            && !["WiredTiger.lock", "WiredTigerPreplog.", "WiredTigerTmplog."]
                .iter()
                .any(|n| name.starts_with(n)));
    wiredtiger || ["storage.bson", "_wt_table_checks", ".repairIncomplete"].contains(&name)
}

/// Whether something at `relative` could hold what belongs: not in the folders that never do.
pub(super) fn may_hold(relative: &Path) -> bool {
    let first = relative.components().next().map(|c| c.as_os_str().to_owned()).unwrap_or_default();
    [".keyward", "_tmp", "rollback", "diagnostic.data", "lost+found"].iter().all(|d| first != *d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format_version: 1,
            created_at: Timestamp::from_epoch_ms(1_750_000_000_000),
            node: NodeOfSnapshot {
                id: "01234567-89ab-4def-8123-456789abcdef".parse().unwrap(),
                name: "node-0".into(),
            },
            engine: EngineOfSnapshot { kind: "secantusdb".into(), version: "0.7.0b3".into() },
            method: Method::BackupArchive,
            master_key_id: KeyId::from_bytes([7; 16]),
            customer_keys: vec!["https://v.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef".into()],
            keystore_generation: 3,
            keystore: FileEntry { path: ".keyward/keystore.json".into(), size: 2, sha256: "00".into() },
            assignments: None,
            files: vec![FileEntry { path: "alpha/collection-1.wt".into(), size: 4096, sha256: "11".into() }],
        }
    }

    #[test]
    fn it_reads_what_it_writes() {
        let bytes = serde_json::to_vec_pretty(&manifest()).unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
    }

    #[test]
    fn paths_that_leave_the_data_path_are_refused() {
        for path in ["../x", "a/../../x", "/etc/passwd", "", ".keyward/keystore.json"] {
            let mut bad = manifest();
            bad.files[0].path = path.into();
            let bytes = serde_json::to_vec(&bad).unwrap();
            assert!(matches!(Manifest::parse(&bytes), Err(ManifestError::Path(_))), "{path}");
        }
    }

    /// The store may be in wrong hands: folders without end, and more bytes than there are numbers.
    #[test]
    fn what_no_data_path_holds_is_refused() {
        let mut manifest = manifest();
        manifest.files[0].size = u64::MAX;
        manifest.files.push(FileEntry { size: 2, ..manifest.files[0].clone() });
        assert_eq!(manifest.total_bytes(), u64::MAX);
        manifest.files[0].path = "a/".repeat(DEEPEST - 1) + "x.wt";
        Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        manifest.files[0].path = "a/".repeat(DEEPEST) + "x.wt";
        let refused = Manifest::parse(&serde_json::to_vec(&manifest).unwrap());
        assert!(matches!(refused, Err(ManifestError::Path(_))), "{refused:?}");
    }

    #[test]
    fn a_newer_format_is_told_from_a_damaged_one() {
        let newer = serde_json::to_vec(&Manifest { format_version: 2, ..manifest() }).unwrap();
        assert!(matches!(Manifest::parse(&newer), Err(ManifestError::Newer { found: 2 })));
        assert!(matches!(Manifest::parse(b"{"), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn only_files_of_wiredtiger_belong() {
        for yes in [
            "WiredTiger",
            "WiredTiger.wt",
            "WiredTigerHS.wt",
            "WiredTiger.turtle",
            "WiredTiger.backup",
            "journal/WiredTigerLog.0000000001",
            "WiredTigerLog.0000000002",
            "alpha/collection-1-123.wt",
            "_mdb_catalog.wt",
            "storage.bson",
        ] {
            assert!(belongs(Path::new(yes)), "{yes}");
        }
        for no in [
            "WiredTiger.lock",
            "mongod.lock",
            "journal/WiredTigerPreplog.0000000001",
            "_tmp/extsort-1",
            "_tmp/spilldb/WiredTiger.wt",
            "rollback/a.b/removed.bson",
            "diagnostic.data/metrics.interim",
            ".keyward/keystore.json",
            "mongod.log",
            "pitr-manifest.json",
        ] {
            assert!(!belongs(Path::new(no)), "{no}");
        }
    }
}
