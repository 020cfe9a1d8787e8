//! A database of a test's own, and documents to put in it.

use std::path::PathBuf;

use keyward_model::{
    Timestamp,
    event::{Actor, EventType, NewEvent},
};
use keyward_store::{Document, ObservedDocument, ServerKey, Store};
use serde::{Deserialize, Serialize};

/// Makes two tests of `async fn NAME(site: Site)`: on SQLite and on PostgreSQL.
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name($crate::site::Site::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if let Some(site) = $crate::site::Site::postgres() {
                    super::$name(site).await;
                }
            }
        }
    )*};
}
pub(crate) use on_both_databases;

/// A new database and its server key.
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) key_file: PathBuf,
    pub(crate) key: ServerKey,
    /// The SQLite file.
    pub(crate) file: Option<PathBuf>,
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyward.db");
        Self::new(format!("sqlite:{}", file.display()), Some(file), dir)
    }

    pub(crate) fn postgres() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        keyward_testkit::postgres::database().map(|url| Self::new(url, None, dir))
    }

    fn new(url: String, file: Option<PathBuf>, dir: tempfile::TempDir) -> Self {
        let key_file = dir.path().join("server.key");
        let key = ServerKey::make_file(&key_file).unwrap();
        Self { url, key_file, key, file, dir }
    }

    /// Another handle on the database, as another server has it.
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url, self.key.clone()).await.unwrap()
    }

    /// Everything that is stored, as it lies on the disk or in a dump.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let Some(file) = &self.file else {
            return keyward_testkit::postgres::dump(&self.url).unwrap().into_bytes();
        };
        let mut contents = std::fs::read(file).unwrap();
        for suffix in ["-wal", "-shm"] {
            let beside = PathBuf::from(format!("{}{suffix}", file.display()));
            contents.extend(std::fs::read(beside).unwrap_or_default());
        }
        contents
    }
}

/// A moment: milliseconds after some day in 2026.
pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_epoch_ms(1_780_000_000_000 + ms)
}

/// Some event.
pub(crate) fn event() -> NewEvent {
    NewEvent::new(EventType::ClusterUpdateSubmitted, Actor::Operator)
}

/// A document of desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thing {
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: Option<String>,
    pub(crate) count: u64,
}

impl Thing {
    pub(crate) fn new(id: &str, parent: &str, name: &str) -> Self {
        Self { id: id.into(), parent: parent.into(), name: Some(name.into()), count: 0 }
    }
}

impl Document for Thing {
    const TABLE: &'static str = "cluster";

    fn id(&self) -> String {
        self.id.clone()
    }

    fn parent(&self) -> String {
        self.parent.clone()
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// A document of what was found, or a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) text: String,
}

impl Document for Found {
    const TABLE: &'static str = "node";

    fn id(&self) -> String {
        self.id.clone()
    }

    fn parent(&self) -> String {
        self.parent.clone()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl ObservedDocument for Found {
    const FOUND: &'static [&'static str] = &[];
    const COMES_AND_GOES: bool = true;
}

/// A document that is wanted in one part and found in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mixed {
    pub(crate) id: String,
    pub(crate) wanted: Option<String>,
    /// New since an older version.
    #[serde(default)]
    pub(crate) also_wanted: u64,
    pub(crate) last_found: u64,
}

impl Document for Mixed {
    const TABLE: &'static str = "private_endpoint";

    fn id(&self) -> String {
        self.id.clone()
    }

    fn parent(&self) -> String {
        String::new()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl ObservedDocument for Mixed {
    const FOUND: &'static [&'static str] = &["lastFound"];
    const COMES_AND_GOES: bool = false;
}
