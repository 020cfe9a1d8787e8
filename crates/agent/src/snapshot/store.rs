//! Where snapshots are kept: a folder, Azure Blob Storage or S3, behind one code path.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures_util::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, ObjectStoreScheme, buffered::BufWriter, local::LocalFileSystem,
    parse_url_opts, path::Path as ObjectPath,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{SnapshotError, manifest::FileEntry};

/// A place for one snapshot.
#[derive(Debug, Clone)]
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// As the operator wrote it, without credentials.
    shown: String,
    /// What was begun to be written: what an abort removes, and nothing that somebody else put there meanwhile.
    written: Arc<Mutex<Vec<ObjectPath>>>,
}

/// How much is read at a time.
const CHUNK: usize = 1024 * 1024;

impl Store {
    /// The place that `url` names. Credentials come from the host's identity, or from `credentials`.
    pub(super) fn open(url: &Url, credentials: Option<&Path>) -> Result<Self, SnapshotError> {
        let shown = without_credentials(url);
        let failed = |source| SnapshotError::Store { place: shown.clone(), source };
        let (scheme, path) = ObjectStoreScheme::parse(url)
            .map_err(|error| SnapshotError::Url { url: shown.clone(), why: error.to_string() })?;
        if scheme == ObjectStoreScheme::Local {
            // Written through to the disk, and no empty folders left behind by an aborted snapshot.
            let store = LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true);
            return Ok(Self::of(Arc::new(store), ObjectPath::from(path.as_ref()), shown));
        }
        let options = credentials.map(read_options).transpose()?.unwrap_or_default();
        let (store, prefix) = parse_url_opts(url, options).map_err(failed)?;
        Ok(Self::of(Arc::from(store), prefix, shown))
    }

    fn of(store: Arc<dyn ObjectStore>, prefix: ObjectPath, shown: String) -> Self {
        Self { store, prefix, shown, written: Arc::default() }
    }

    /// As the operator named it, without credentials.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether anything is there already.
    pub(super) async fn is_empty(&self) -> Result<bool, SnapshotError> {
        let mut listing = self.store.list(Some(&self.prefix));
        Ok(listing.try_next().await.map_err(|e| self.failed(e))?.is_none())
    }

    /// Writes a small object.
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), SnapshotError> {
        self.store.put(&self.begin(name), bytes.into()).await.map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Copies an open file there, unless `cancelled` comes first; says the bytes as they go. `shown` is for messages.
    pub(super) async fn put_file(
        &self,
        name: &str,
        (from, shown): (fs::File, &Path),
        cancelled: &CancellationToken,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<FileEntry, SnapshotError> {
        let unreadable = |source| SnapshotError::File { path: shown.to_owned(), source };
        let mut from = tokio::fs::File::from_std(from);
        let mut to = BufWriter::new(Arc::clone(&self.store), self.begin(name));
        let mut hash = Context::new(&SHA256);
        let mut size = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            if cancelled.is_cancelled() {
                // What was sent so far never becomes an object.
                let _ = to.abort().await;
                return Err(SnapshotError::Revoked);
            }
            let read = from.read(&mut chunk).await.map_err(unreadable)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            size += read as u64;
            let sent = to.put(Bytes::copy_from_slice(&chunk[..read])).await;
            sent.map_err(|e| self.failed(e))?;
            progress(read as u64);
        }
        to.shutdown().await.map_err(|e| {
            self.failed(object_store::Error::Generic { store: "upload", source: Box::new(e) })
        })?;
        Ok(FileEntry { path: String::new(), size, sha256: HEXLOWER.encode(hash.finish().as_ref()) })
    }

    /// A small object, when it is there, of at most `limit` bytes: it is read into memory, from a store that may be
    /// in wrong hands.
    pub(super) async fn get(&self, name: &str, limit: u64) -> Result<Option<Bytes>, SnapshotError> {
        let found = match self.store.get(&self.object(name)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let mut stream = found.into_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.try_next().await.map_err(|e| self.failed(e))? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(SnapshotError::Damaged { path: name.to_owned() });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Copies an object into a new file and checks it against `entry`. `shown` is for messages.
    pub(super) async fn get_file(
        &self,
        name: &str,
        entry: &FileEntry,
        (to, shown): (fs::File, &Path),
        cancelled: &CancellationToken,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), SnapshotError> {
        let unwritable = |source| SnapshotError::File { path: shown.to_owned(), source };
        let damaged = || SnapshotError::Damaged { path: entry.path.clone() };
        let object = match self.store.get(&self.object(name)).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut stream = object.into_stream();
        let mut to = tokio::fs::File::from_std(to);
        let mut hash = Context::new(&SHA256);
        let mut size = 0;
        while let Some(chunk) = stream.try_next().await.map_err(|e| self.failed(e))? {
            if cancelled.is_cancelled() {
                return Err(SnapshotError::Revoked);
            }
            hash.update(&chunk);
            size += chunk.len() as u64;
            // What is longer is another file, and may have no end.
            if size > entry.size {
                return Err(damaged());
            }
            to.write_all(&chunk).await.map_err(unwritable)?;
            progress(chunk.len() as u64);
        }
        to.sync_all().await.map_err(unwritable)?;
        if size != entry.size || HEXLOWER.encode(hash.finish().as_ref()) != entry.sha256 {
            return Err(damaged());
        }
        Ok(())
    }

    /// Removes what was written here: after an abort nothing of it may look like a snapshot.
    pub(super) async fn remove_written(&self) -> Result<(), SnapshotError> {
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        for object in written {
            match self.store.delete(&object).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// The object of that name, which is written from now on.
    fn begin(&self, name: &str) -> ObjectPath {
        let object = self.object(name);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(object.clone());
        object
    }

    fn object(&self, name: &str) -> ObjectPath {
        self.prefix.parts().chain(name.split('/').map(|part| part.to_owned().into())).collect()
    }

    fn failed(&self, source: object_store::Error) -> SnapshotError {
        SnapshotError::Store { place: self.shown.clone(), source }
    }
}

/// The options of a store's client, from a TOML file of `name = "value"` lines.
fn read_options(path: &Path) -> Result<BTreeMap<String, String>, SnapshotError> {
    let unreadable = |source| SnapshotError::Credentials { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    // The parser's own message would quote the line, and with it the secret.
    toml::from_str(&text).map_err(|_| {
        unreadable(io::Error::new(io::ErrorKind::InvalidData, "not lines of the form name = \"value\""))
    })
}

/// `url` without user, password, query and fragment: what may stand in messages.
fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot have them.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// The folder of a `file://` URL.
pub(super) fn folder_of(url: &Url) -> Option<PathBuf> {
    if url.scheme() == "file" { url.to_file_path().ok() } else { None }
}

#[cfg(test)]
impl Store {
    /// In memory.
    pub(super) fn for_test() -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self::of(store, ObjectPath::from("snapshots/one"), "memory:///snapshots/one".into())
    }

    /// Names of everything there.
    pub(super) async fn names(&self) -> Vec<String> {
        let all: Vec<_> = self.store.list(Some(&self.prefix)).try_collect().await.unwrap();
        all.iter().map(|o| o.location.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stored(store: &Store, dir: &Path, content: &[u8]) -> FileEntry {
        let file = dir.join("source");
        fs::write(&file, content).unwrap();
        let open = (fs::File::open(&file).unwrap(), &*file);
        store.put_file("data/a/b.wt", open, &CancellationToken::new(), &mut |_| {}).await.unwrap()
    }

    #[tokio::test]
    async fn a_file_comes_back_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_test();
        // Longer than one part of a multipart upload.
        let content: Vec<u8> = (0..25 * CHUNK + 17).map(|i| (i % 253) as u8).collect();
        let entry = stored(&store, dir.path(), &content).await;
        assert_eq!(entry.size, content.len() as u64);
        let target = dir.path().join("target");
        let mut seen = 0;
        let token = CancellationToken::new();
        let open = (fs::File::create_new(&target).unwrap(), &*target);
        store.get_file("data/a/b.wt", &entry, open, &token, &mut |n| seen += n).await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), content);
        assert_eq!(seen, entry.size);
    }

    #[tokio::test]
    async fn damage_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_test();
        let content = vec![7; 10_000];
        let entry = stored(&store, dir.path(), &content).await;
        let token = CancellationToken::new();
        let mut flipped = content.clone();
        flipped[5_000] ^= 1;
        for (n, bad) in [flipped, content[..9_999].to_vec(), [content.clone(), vec![7]].concat(), Vec::new()]
            .into_iter()
            .enumerate()
        {
            store.put("data/a/b.wt", bad).await.unwrap();
            let target = dir.path().join(format!("target-{n}"));
            let open = (fs::File::create_new(&target).unwrap(), &*target);
            let result = store.get_file("data/a/b.wt", &entry, open, &token, &mut |_| {}).await;
            assert!(matches!(result, Err(SnapshotError::Damaged { .. })), "{n}: {result:?}");
            // What has no end fills no disk.
            assert!(fs::metadata(&target).unwrap().len() <= entry.size, "{n}");
        }
        let target = dir.path().join("t");
        let open = (fs::File::create_new(&target).unwrap(), &*target);
        let result = store.get_file("data/gone", &entry, open, &token, &mut |_| {}).await;
        assert!(matches!(result, Err(SnapshotError::Damaged { .. })));
    }

    #[tokio::test]
    async fn nothing_is_read_into_memory_beyond_what_it_may_hold() {
        let store = Store::for_test();
        store.put("manifest.json", vec![b' '; 100]).await.unwrap();
        assert_eq!(store.get("manifest.json", 100).await.unwrap().unwrap().len(), 100);
        let result = store.get("manifest.json", 99).await;
        assert!(
            matches!(&result, Err(SnapshotError::Damaged { path }) if path == "manifest.json"),
            "{result:?}"
        );
        assert!(store.get("gone", 99).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_revocation_in_the_middle_leaves_no_object() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_test();
        let file = dir.path().join("source");
        fs::write(&file, vec![1; 30 * CHUNK]).unwrap();
        let token = CancellationToken::new();
        let mut sent = 0;
        let result = store
            .put_file("data/x", (fs::File::open(&file).unwrap(), &file), &token, &mut |n| {
                sent += n;
                if sent > 12 * CHUNK as u64 {
                    token.cancel();
                }
            })
            .await;
        assert!(matches!(result, Err(SnapshotError::Revoked)));
        assert!(store.is_empty().await.unwrap(), "{:?}", store.names().await);
    }

    /// Two nodes that were given the same place by mistake: the one that fails leaves the other's snapshot alone.
    #[tokio::test]
    async fn an_abort_removes_only_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_test();
        let other = Store::of(Arc::clone(&store.store), store.prefix.clone(), store.shown.clone());
        other.put("manifest.json", b"{}".to_vec()).await.unwrap();
        stored(&store, dir.path(), b"content").await;
        store.put("keystore.json", b"{}".to_vec()).await.unwrap();
        assert_eq!(store.names().await.len(), 3);
        store.remove_written().await.unwrap();
        assert_eq!(store.names().await, ["snapshots/one/manifest.json"]);
    }

    #[test]
    fn every_scheme_goes_through_the_same_door() {
        let dir = tempfile::tempdir().unwrap();
        let options = dir.path().join("store.toml");
        fs::write(
            &options,
            "azure_storage_account_name = \"acc\"\nazure_storage_account_key = \"a2V5\"\naws_region = \"eu-west-1\"\n",
        )
        .unwrap();
        for url in ["file:///srv/snapshots/1", "az://container/one", "s3://bucket/one?versionId=x"] {
            let store = Store::open(&Url::parse(url).unwrap(), Some(&options)).unwrap();
            assert!(!store.shown().contains('?'));
            assert!(
                store.object("data/a b/c.wt").to_string().ends_with("data/a b/c.wt"),
                "{}",
                store.object("data/a b/c.wt")
            );
        }
        let ftp = Store::open(&Url::parse("ftp://host/x").unwrap(), None);
        assert!(matches!(ftp, Err(SnapshotError::Url { .. })));
    }

    #[test]
    fn messages_never_show_credentials() {
        let url = Url::parse("https://user:pw@acc.blob.core.windows.net/c/p?sig=SECRET#x").unwrap();
        assert_eq!(without_credentials(&url), "https://acc.blob.core.windows.net/c/p");
        let dir = tempfile::tempdir().unwrap();
        let options = dir.path().join("store.toml");
        fs::write(&options, "azure_storage_account_key = SECRET\n").unwrap();
        let error = read_options(&options).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}
