//! What the agent asks of the database over its own protocol.
//!
//! Everything here needs only the role of `docs/guides/mongod-user.md` where mongod has users.

mod replica_set;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bson::{Bson, Document, doc};
use zeroize::Zeroizing;

pub use replica_set::{Member, ReplicaSet};

use super::{
    connection::{Connection, ConnectionError, Failure, Login, Place, Seen, short},
    mongod_options::MongodTls,
};
use crate::config::{EngineConfig, EngineKind};

/// No version is longer, in characters.
const VERSION: usize = 64;

/// The database in which a proof writes its markers.
pub const PROOF_DATABASE: &str = "keyward_proof";

/// The engine, asked over a connection that is made at the first use and kept.
#[derive(Debug, Clone)]
pub struct Database {
    kind: EngineKind,
    place: Place,
    kept: Arc<Mutex<Option<Connection>>>,
}

/// The engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No answer, or a refusal.
    #[error("the engine did not answer `{command}`")]
    Command {
        /// The command.
        command: &'static str,
        /// Which.
        source: Box<Failure>,
    },
    /// The password of the agent's database user cannot be read.
    #[error("the file {} with the database password cannot be read", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody could end the lock.
    #[error("the agent's database user may lock writes, but not unlock them")]
    MayNotUnlock,
    /// It answers something that a member of a replica set does not answer.
    #[error("the answer to `{command}` is not that of a member of a replica set")]
    Unclear {
        /// The command.
        command: &'static str,
    },
    /// The primary keeps its place.
    #[error("the primary does not hand over")]
    NoSuccessor(#[source] Box<Failure>),
    /// It said that it hands over, and did not.
    #[error("the member is still primary after it was asked to hand over")]
    StillPrimary,
}

impl DatabaseError {
    /// Whether the engine itself said no, rather than nothing.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Command { source, .. } => matches!(**source, Failure::Refused { .. }),
            Self::NoSuccessor(_) => true,
            Self::MayNotUnlock | Self::Password { .. } | Self::Unclear { .. } | Self::StillPrimary => false,
        }
    }

    /// Whether the engine says that there is no lock to end.
    pub(super) fn is_not_locked(&self) -> bool {
        /// `IllegalOperation`: `fsyncUnlock` where nothing is locked.
        const NOT_LOCKED: i32 = 20;
        let Self::Command { source, .. } = self else { return false };
        matches!(**source, Failure::Refused { code: NOT_LOCKED, .. })
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Command { source, .. } => match &**source {
                Failure::Connection(error) => return error.hint(),
                Failure::Refused { .. } => {
                    "check that the engine runs and listens on engine.host and engine.port; where it has users, \
                     give the agent one: docs/guides/mongod-user.md"
                }
            },
            Self::Password { .. } => "check engine.database_password_file",
            Self::MayNotUnlock => "give it `unlock` on the cluster: docs/guides/mongod-user.md",
            Self::Unclear { .. } => "check that it was started with --replSet and that the set was initiated",
            Self::NoSuccessor(_) | Self::StillPrimary => {
                "another member must be able to take over: check the secondaries, their lag and priorities with \
                 rs.status(); where the database has users, the agent's needs replSetStateChange: \
                 docs/guides/mongod-user.md"
            }
        };
        text.to_owned()
    }
}

impl Database {
    /// For the engine of `config`; connects to nothing yet.
    pub fn new(config: &EngineConfig) -> Self {
        Self::of_running(config, MongodTls::default())
    }

    /// For one that runs already, started with the options `running`: where the agent's file leaves open how TLS is
    /// spoken with it, they say so.
    pub(super) fn of_running(config: &EngineConfig, running: MongodTls) -> Self {
        let place = Place {
            host: reachable(&config.host),
            port: config.port,
            own: true,
            engine: Arc::new(config.clone()),
            running: Arc::new(running),
        };
        Self { kind: config.kind, place, kept: Arc::default() }
    }

    /// Connects anew, and logs in nowhere: what is shown to whoever does.
    ///
    /// # Errors
    /// It does not answer, or what it shows is not trusted.
    pub async fn look(&self) -> Result<Seen, ConnectionError> {
        Connection::open(&self.place).await.map(|(_, seen)| seen)
    }

    /// The kind of engine.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Its version, as it says itself.
    ///
    /// # Errors
    /// It does not answer within some seconds.
    pub async fn version(&self) -> Result<String, DatabaseError> {
        let info = self.run("admin", "buildInfo", doc! { "buildInfo": 1 }).await?;
        let text = |name| info.get_str(name).ok().map(|version| short(version, VERSION));
        Ok(text("secantusVersion").or_else(|| text("version")).unwrap_or_default())
    }

    /// The member's state in its replica set; `None` where it is in none or does not say.
    pub async fn replica_state(&self) -> Option<String> {
        if self.kind != EngineKind::Mongod {
            return None;
        }
        let hello = self.run("admin", "hello", doc! { "hello": 1 }).await.ok()?;
        hello.get_str("setName").ok()?;
        let is = |name| hello.get_bool(name).unwrap_or(false);
        let state = match (is("isWritablePrimary"), is("secondary"), is("arbiterOnly")) {
            (true, _, _) => "PRIMARY",
            (false, true, _) => "SECONDARY",
            (false, false, true) => "ARBITER",
            // Starting up, recovering or rolling back.
            (false, false, false) => "OTHER",
        };
        Some(state.to_owned())
    }

    /// Forces everything written so far to disk: a checkpoint on both engines.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn flush(&self) -> Result<(), DatabaseError> {
        self.run("admin", "fsync", doc! { "fsync": 1 }).await.map(drop)
    }

    /// Whether a lock of ours could be ended again: a user may have been given `fsync` without `unlock`.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub(super) async fn may_unlock(&self) -> Result<bool, DatabaseError> {
        let asked = doc! { "connectionStatus": 1, "showPrivileges": true };
        let status = self.run("admin", "connectionStatus", asked).await?;
        Ok(privileges_hold_unlock(&status))
    }

    /// Holds all writes until [`Self::unlock`]; mongod only.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn lock(&self) -> Result<(), DatabaseError> {
        self.run("admin", "fsync", doc! { "fsync": 1, "lock": true }).await.map(drop)
    }

    /// Ends [`Self::lock`].
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn unlock(&self) -> Result<(), DatabaseError> {
        self.run("admin", "fsyncUnlock", doc! { "fsyncUnlock": 1 }).await.map(drop)
    }

    /// SecantusDB's own backup: a `.tar.gz` of a consistent set of WiredTiger's files, written by the engine.
    ///
    /// # Errors
    /// The engine cannot write there, or does not answer.
    pub async fn backup_archive(&self, to: &str) -> Result<(), DatabaseError> {
        let command = doc! { "secantusAdmin.backupArchive": 1, "outputPath": to };
        self.run("admin", "secantusAdmin.backupArchive", command).await.map(drop)
    }

    /// Writes `documents` into `collection` of the proof's database, journalled.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn insert_markers(
        &self,
        collection: &str,
        documents: Vec<Document>,
    ) -> Result<(), DatabaseError> {
        let command =
            doc! { "insert": collection, "documents": documents, "writeConcern": { "w": 1, "j": true } };
        self.run(PROOF_DATABASE, "insert", command).await.map(drop)
    }

    /// Makes an index over `field` of `collection` of the proof's database.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn index_markers(&self, collection: &str, field: &str) -> Result<(), DatabaseError> {
        let index = doc! { "key": { field: 1 }, "name": "markers" };
        let command = doc! { "createIndexes": collection, "indexes": [index] };
        self.run(PROOF_DATABASE, "createIndexes", command).await.map(drop)
    }

    /// How WiredTiger was asked to make the table of `collection` of the proof's database; mongod only.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn creation_string(&self, collection: &str) -> Result<String, DatabaseError> {
        let stats = self.run(PROOF_DATABASE, "collStats", doc! { "collStats": collection }).await?;
        let text = stats.get_document("wiredTiger").ok().and_then(|wt| wt.get_str("creationString").ok());
        Ok(text.unwrap_or_default().to_owned())
    }

    /// Removes the proof's database.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn drop_markers(&self) -> Result<(), DatabaseError> {
        self.run(PROOF_DATABASE, "dropDatabase", doc! { "dropDatabase": 1 }).await.map(drop)
    }

    async fn run(
        &self,
        database: &str,
        name: &'static str,
        command: Document,
    ) -> Result<Document, DatabaseError> {
        let failed = |source| DatabaseError::Command { command: name, source: Box::new(source) };
        let kept = self.kept().take().filter(Connection::is_idle);
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let login = self.login().await?;
                let connected = async {
                    let (mut connection, _) = Connection::open(&self.place).await?;
                    if let Some(login) = login {
                        connection.log_in(&login).await?;
                    }
                    Ok::<_, Failure>(connection)
                };
                connected.await.map_err(failed)?
            }
        };
        let answer = connection.run(database, command).await;
        // A request that nobody waits for any more takes its connection with it: the answer would be that of the next.
        if !matches!(answer, Err(Failure::Connection(_))) {
            *self.kept() = Some(connection);
        }
        answer.map_err(failed)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn login(&self) -> Result<Option<Login>, DatabaseError> {
        let engine = &self.place.engine;
        if engine.tls.as_ref().is_some_and(|tls| tls.log_in_with_certificate) {
            return Ok(Some(Login::Certificate));
        }
        let (Some(user), Some(path)) = (&engine.database_user, &engine.database_password_file) else {
            return Ok(None);
        };
        let read = tokio::fs::read_to_string(path).await;
        let read = read.map_err(|source| DatabaseError::Password { path: path.clone(), source })?;
        let read = Zeroizing::new(read);
        let password = Zeroizing::new(read.trim_end_matches(['\r', '\n']).to_owned());
        Ok(Some(Login::Password { user: user.clone(), password }))
    }
}

/// An address to connect to, for the address (or list of them) that the engine binds to.
fn reachable(bind: &str) -> String {
    let first = bind.split(',').map(str::trim).find(|host| !host.is_empty() && !host.starts_with('/'));
    match first {
        None | Some("0.0.0.0" | "*" | "localhost") => "127.0.0.1".to_owned(),
        Some("::" | "::0") => "::1".to_owned(),
        Some(host) => host.to_owned(),
    }
}

/// Whether whom `status` (of `connectionStatus`) describes may `fsyncUnlock`. Where nobody is logged in, there are no
/// users, or the lock itself is refused.
fn privileges_hold_unlock(status: &Document) -> bool {
    let list = |name| status.get_document("authInfo").and_then(|info| info.get_array(name));
    if list("authenticatedUsers").map_or(true, Vec::is_empty) {
        return true;
    }
    list("authenticatedUserPrivileges").is_ok_and(|privileges| {
        privileges.iter().filter_map(Bson::as_document).any(|privilege| {
            let resource = privilege.get_document("resource");
            let everywhere = resource.is_ok_and(|on| {
                ["cluster", "anyResource"].iter().any(|name| on.get_bool(name).is_ok_and(|yes| yes))
            });
            let actions = privilege.get_array("actions");
            let allowed = actions.is_ok_and(|all| {
                all.iter().filter_map(Bson::as_str).any(|action| ["unlock", "anyAction"].contains(&action))
            });
            everywhere && allowed
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_must_be_able_to_end_the_lock() {
        let cluster = |actions: &[&str]| {
            doc! { "authInfo": {
                "authenticatedUsers": [{ "user": "keyward", "db": "admin" }],
                "authenticatedUserPrivileges": [{ "resource": { "cluster": true }, "actions": actions }],
            }}
        };
        assert!(privileges_hold_unlock(&cluster(&["fsync", "unlock"])));
        assert!(privileges_hold_unlock(&cluster(&["anyAction"])));
        assert!(!privileges_hold_unlock(&cluster(&["fsync"])));
        let elsewhere = doc! { "resource": { "db": "", "collection": "" }, "actions": ["unlock"] };
        let mut status = cluster(&[]);
        if let Ok(info) = status.get_document_mut("authInfo") {
            info.insert("authenticatedUserPrivileges", vec![elsewhere]);
        }
        assert!(!privileges_hold_unlock(&status));
        let nobody = doc! { "authInfo": { "authenticatedUsers": [], "authenticatedUserPrivileges": [] } };
        assert!(privileges_hold_unlock(&nobody));
    }

    #[test]
    fn an_address_to_bind_to_becomes_one_to_connect_to() {
        for (bind, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("10.0.0.7,localhost", "10.0.0.7"),
            ("/tmp/mongodb.sock, 10.0.0.7", "10.0.0.7"),
            ("localhost", "127.0.0.1"),
        ] {
            assert_eq!(reachable(bind), expected, "{bind}");
        }
    }
}
