//! What can go wrong with the store, and what to do about it.

use std::{io, path::PathBuf};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no database that keyward can use.
    #[error("the store's URL cannot be used: {what}")]
    Url {
        /// What is wrong with it; never the URL itself, which may carry a password.
        what: &'static str,
    },
    /// A file of the store could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was being done, as an infinitive.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that must be private can be read or written by others.
    #[error("{} has mode {mode:04o}: others than its owner can reach it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A server key would be written over something.
    #[error("{} exists already", path.display())]
    KeyFileExists {
        /// The file.
        path: PathBuf,
    },
    /// A file that should hold a server key does not.
    #[error("{} holds no server key", path.display())]
    NoServerKey {
        /// The file.
        path: PathBuf,
    },
    /// The database belongs to another server key.
    #[error("the server key does not belong to this database")]
    WrongServerKey,
    /// Something sealed does not open: damaged, moved from elsewhere, or sealed with another key.
    #[error("the sealed value of {owner} does not open")]
    Sealed {
        /// Whose it is.
        owner: String,
    },
    /// A newer keyward made the database.
    #[error("the database has schema version {found}, this keyward knows versions up to {known}")]
    Newer {
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The database was made by something else.
    #[error("schema version {version} of the database is not the one this keyward would have made")]
    Foreign {
        /// The version that differs.
        version: i64,
    },
    /// Someone else changed it meanwhile, or it is gone.
    #[error("{what} was changed by someone else meanwhile")]
    Conflict {
        /// What: a table and an id, or `the data`.
        what: String,
    },
    /// It is there already.
    #[error("{what} exists already")]
    Exists {
        /// What: a table and an id or a name.
        what: String,
    },
    /// A change of what is wanted was written as if it had been found: a defect of keyward.
    #[error("{field} of {what} is wanted, not found: it changes only with an audit event")]
    Wanted {
        /// What: a table and an id.
        what: String,
        /// The field that would have changed.
        field: String,
    },
    /// It cannot be kept as text.
    #[error("{what} has a NUL character")]
    Unstorable {
        /// What.
        what: &'static str,
    },
    /// The holder of a lease lost it to another server.
    #[error("the lease of {job} is held by another server now")]
    LeaseLost {
        /// Whose lease.
        job: String,
    },
    /// Others held the database for too long, or it gives no connection.
    #[error("the database did not give its turn in time")]
    Busy,
    /// The database does not answer.
    #[error("the database cannot be reached")]
    Unreachable(#[source] sqlx::Error),
    /// The database refused a statement.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    /// What is stored is not what this keyward reads.
    #[error("{what} in the database cannot be read")]
    Unreadable {
        /// What: a table and an id.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            StoreError::Url { .. } => {
                "set store_url to sqlite:PATH or postgres://USER@HOST/DATABASE; percent-encode special characters"
            }
            StoreError::File { .. } => {
                "check that the folder exists and that the server's user may write to it"
            }
            StoreError::TooOpen { .. } => "set its mode to 0600 and consider whether someone has read it",
            StoreError::KeyFileExists { .. } => {
                "the key seals what is in the database: keep it, or move it away if the database is new"
            }
            StoreError::NoServerKey { .. } => {
                "restore the server key from its backup, or name the right file"
            }
            StoreError::WrongServerKey => {
                "give the key file that `keyward server init` made for this database; without it the sealed values are lost"
            }
            StoreError::Sealed { .. } => "restore the database and its server key from the same backup",
            StoreError::Newer { .. } => "run the keyward that made it, or a newer one",
            StoreError::Foreign { .. } => "point store_url at keyward's own database",
            StoreError::Conflict { .. } => "read it again and repeat the change",
            StoreError::Exists { .. } => "choose another name",
            StoreError::Wanted { .. } => "report it: this is a defect of keyward",
            StoreError::Unstorable { .. } => "leave the character out",
            StoreError::LeaseLost { .. } => "nothing: the other server does the work",
            StoreError::Busy => {
                "try again; if it stays so, look for a transaction that another program holds open"
            }
            StoreError::Unreachable(_) => "check that the database runs and that store_url reaches it",
            StoreError::Database(_) => "see the log for what the database said",
            StoreError::Unreadable { .. } => "restore it from a backup, or run the keyward that wrote it",
        }
    }

    /// Whether the same change may succeed when it is made again from its beginning.
    pub fn may_repeat(&self) -> bool {
        matches!(self, StoreError::Conflict { .. } | StoreError::Busy | StoreError::Unreachable(_))
    }

    /// What an error at the first connection means.
    pub(crate) fn of_opening(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::Configuration(_)) {
            // It may repeat the URL.
            return StoreError::Url { what: "a parameter of it is malformed" };
        }
        Self::of_database(error)
    }

    /// What a database's error means.
    pub(crate) fn of_database(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return StoreError::Busy;
        }
        let away = matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed
        );
        let code = error.as_database_error().and_then(|database| database.code());
        match Trouble::of_code(code.as_deref()) {
            _ if away => StoreError::Unreachable(error),
            Trouble::Conflict => StoreError::Conflict { what: "the data".to_owned() },
            Trouble::Busy => StoreError::Busy,
            Trouble::Unreachable => StoreError::Unreachable(error),
            Trouble::Refused => StoreError::Database(error),
        }
    }
}

/// What a code of a database means: SQLite's extended result codes as numbers, PostgreSQL's SQLSTATEs.
enum Trouble {
    Conflict,
    Busy,
    Unreachable,
    Refused,
}

impl Trouble {
    fn of_code(code: Option<&str>) -> Self {
        match code {
            // serialization_failure, deadlock_detected; SQLITE_BUSY_SNAPSHOT.
            Some("40001" | "40P01" | "517") => Trouble::Conflict,
            // lock_not_available; query_canceled by a timeout; SQLITE_BUSY, SQLITE_BUSY_RECOVERY, SQLITE_LOCKED.
            Some("55P03" | "57014" | "5" | "261" | "6") => Trouble::Busy,
            // Connection exceptions, too many connections, shutting down, an idle transaction ended.
            Some(code) if code.len() == 5 && (code.starts_with("08") || code.starts_with("57P")) => {
                Trouble::Unreachable
            }
            Some("53300" | "25P03") => Trouble::Unreachable,
            Some(_) | None => Trouble::Refused,
        }
    }
}
