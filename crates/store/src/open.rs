//! Opening a database.

use std::{
    fmt, fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Once, atomic::AtomicU32},
    time::Duration,
};

use sqlx::{
    AnyConnection, AnyPool, ConnectOptions, Connection,
    any::{AnyConnectOptions, AnyPoolOptions},
};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    ServerKey, StoreError,
    key::{check_private, fill_random},
    migrate,
};

/// How long a transaction waits for others before it fails with [`StoreError::Busy`].
pub(crate) const WAIT: Duration = Duration::from_secs(10);
const SQLITE_CONNECTIONS: u32 = 8;
const POSTGRES_CONNECTIONS: u32 = 16;

/// The database, its connections and the server key. Clones share them.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) pool: AnyPool,
    pub(crate) kind: DatabaseKind,
    pub(crate) key: ServerKey,
    /// Whose turn it is to write, among the tasks of this process. SQLite's own lock knows only polling.
    pub(crate) writer: Arc<Mutex<()>>,
    /// Orders the events of one millisecond.
    pub(crate) events: AtomicU32,
    /// Where other servers are heard of.
    pub(crate) listen_url: Option<String>,
    /// Tells this server's words from the others'.
    pub(crate) instance: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatabaseKind {
    Sqlite,
    Postgres,
}

impl Store {
    /// Opens the database of a URL, `sqlite:PATH` (made where there is none, mode 0600) or `postgres://…`, and brings
    /// its schema up to date.
    ///
    /// A PostgreSQL on another machine is reached by TLS with a verified certificate unless the URL says otherwise
    /// (`sslmode`, `sslrootcert`).
    pub async fn open(url: &str, key: ServerKey) -> Result<Store, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (kind, url) = match url.strip_prefix("sqlite:") {
            Some(path) => (DatabaseKind::Sqlite, sqlite_url(path)?),
            None => (DatabaseKind::Postgres, postgres_url(url)?),
        };
        let options = AnyConnectOptions::from_url(&url)
            .map_err(|_| StoreError::Url { what: "it is malformed" })?
            .disable_statement_logging();
        if kind == DatabaseKind::Postgres {
            try_connect(&options).await?;
        }
        let mut random = [0; 16];
        fill_random(&mut random);
        let pool = pool_options(kind).connect_with(options).await.map_err(StoreError::of_opening)?;
        let store = Store(Arc::new(Inner {
            pool,
            kind,
            key,
            writer: Arc::new(Mutex::new(())),
            events: AtomicU32::new(0),
            listen_url: (kind == DatabaseKind::Postgres).then(|| url.to_string()),
            instance: uuid::Uuid::from_bytes(random).to_string(),
        }));
        migrate::run(&store).await?;
        Ok(store)
    }

    /// The server key.
    pub fn key(&self) -> &ServerKey {
        &self.0.key
    }

    /// Closes the connections; what is open ends first.
    pub async fn close(&self) {
        self.0.pool.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("kind", &self.0.kind).finish_non_exhaustive()
    }
}

impl Inner {
    /// Waits for the writer's turn among this process' tasks.
    pub(crate) async fn writer_turn(&self) -> Result<tokio::sync::OwnedMutexGuard<()>, StoreError> {
        tokio::time::timeout(WAIT, self.writer.clone().lock_owned()).await.map_err(|_| StoreError::Busy)
    }
}

/// Connects once: unlike a pool, which tries until its time is up and then says only that.
async fn try_connect(options: &AnyConnectOptions) -> Result<(), StoreError> {
    let connected = tokio::time::timeout(WAIT, AnyConnection::connect_with(options)).await;
    let connection = connected.map_err(|_| StoreError::Busy)?.map_err(StoreError::of_opening)?;
    connection.close().await.map_err(StoreError::of_database)
}

fn pool_options(kind: DatabaseKind) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().acquire_timeout(WAIT);
    match kind {
        // A connection to a file does not go stale.
        DatabaseKind::Sqlite => options
            .max_connections(SQLITE_CONNECTIONS)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None),
        DatabaseKind::Postgres => options.max_connections(POSTGRES_CONNECTIONS),
    }
    .after_connect(move |connection, _| {
        let statements = match kind {
            DatabaseKind::Sqlite => SQLITE_SETTINGS,
            DatabaseKind::Postgres => POSTGRES_SETTINGS,
        };
        Box::pin(async move {
            for statement in statements {
                sqlx::raw_sql(*statement).execute(&mut *connection).await?;
            }
            Ok(())
        })
    })
}

const SQLITE_SETTINGS: &[&str] = &[
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    // What is deleted or replaced is overwritten.
    "PRAGMA secure_delete = ON",
];

const POSTGRES_SETTINGS: &[&str] = &[
    "SET lock_timeout = '10s'",
    "SET statement_timeout = '60s'",
    // A server that hangs in the middle of a change does not hold up the others for ever.
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET client_min_messages = 'warning'",
];

/// Makes the file where there is none and refuses one that others can reach. Its write-ahead log gets its mode.
fn sqlite_url(path: &str) -> Result<Url, StoreError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err(StoreError::Url { what: "after `sqlite:` comes the path of a file" });
    }
    let path = Path::new(path);
    let failed = |doing| move |source| StoreError::File { doing, path: path.to_owned(), source };
    match fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make the database")(error)),
    }
    check_private(path, &fs::metadata(path).map_err(failed("open the database"))?)?;
    let absolute: PathBuf = fs::canonicalize(path).map_err(failed("open the database"))?;
    let mut url = Url::from_file_path(&absolute)
        .map_err(|()| StoreError::Url { what: "after `sqlite:` comes the path of a file" })?
        .to_string();
    url.replace_range(.."file".len(), "sqlite");
    Url::parse(&url).map_err(|_| StoreError::Url { what: "after `sqlite:` comes the path of a file" })
}

fn postgres_url(text: &str) -> Result<Url, StoreError> {
    let mut url = Url::parse(text).map_err(|_| StoreError::Url { what: "it is malformed" })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(StoreError::Url { what: "it begins neither with `sqlite:` nor with `postgres://`" });
    }
    let pair =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let host = pair("host").or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
    let near = host.is_empty()
        || host.starts_with('/')
        || host.starts_with("%2F")
        || host.starts_with("%2f")
        || host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if !near && pair("sslmode").is_none() && pair("ssl-mode").is_none() {
        url.query_pairs_mut().append_pair("sslmode", "verify-full");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_on_another_machine_is_reached_by_verified_tls() {
        let tls = |text: &str| postgres_url(text).unwrap().query().unwrap_or_default().to_owned();
        assert_eq!(tls("postgres://k:p@db.example.org/k"), "sslmode=verify-full");
        assert_eq!(
            tls("postgresql://db.example.org/k?sslrootcert=/ca.pem"),
            "sslrootcert=/ca.pem&sslmode=verify-full"
        );
        assert_eq!(tls("postgres://192.0.2.1/k"), "sslmode=verify-full");
        assert_eq!(tls("postgres://db.example.org/k?sslmode=disable"), "sslmode=disable");
        for near in [
            "postgres://127.0.0.1:5432/k",
            "postgres://[::1]/k",
            "postgres://localhost/k",
            "postgres://%2Frun%2Fpg/k",
        ] {
            assert_eq!(tls(near), "", "{near}");
        }
        assert_eq!(tls("postgres:///k?host=/run/postgresql"), "host=/run/postgresql");
    }

    #[tokio::test]
    async fn sqlite_commits_to_the_disk_and_wipes_what_it_drops() {
        let dir = tempfile::tempdir().unwrap();
        let key = ServerKey::make_file(&dir.path().join("server.key")).unwrap();
        let store = Store::open(&format!("sqlite:{}", dir.path().join("k.db").display()), key).await.unwrap();
        // Of several connections, each.
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(store.0.pool.acquire().await.unwrap());
        }
        for connection in &mut connections {
            for (pragma, value) in
                [("synchronous", 2), ("foreign_keys", 1), ("secure_delete", 1), ("busy_timeout", 10000)]
            {
                let sql = sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"));
                let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut **connection).await.unwrap();
                assert_eq!(found, value, "{pragma}");
            }
            let mode: String =
                sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut **connection).await.unwrap();
            assert_eq!(mode, "wal");
        }
    }

    #[test]
    fn a_refused_url_does_not_show_its_password() {
        for url in ["mysql://k:hunter2@db/k", "postgres://k:hunter2@[::zz/k", "hunter2"] {
            let refused = postgres_url(url).unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused:?}");
        }
    }
}
