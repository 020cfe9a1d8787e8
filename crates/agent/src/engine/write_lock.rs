//! The lock against writes that a snapshot holds, and how it ends whatever happens.
//!
//! While a file in `state_dir` is there, the agent has locked the database, or is about to. Only the database's own
//! answer removes the file: an agent that died, or a database that does not answer for a while, must not leave it
//! locked for good.

use std::{fs, io, path::PathBuf, time::Duration};

use super::{
    EngineRecord,
    database::{Database, DatabaseError},
    process,
};
use crate::{config::Config, node::chain};

/// Time between two tries to unlock.
const AGAIN: Duration = Duration::from_secs(1);

/// The lock of one node's database.
#[derive(Debug, Clone)]
pub(crate) struct WriteLock {
    mark: PathBuf,
    database: Database,
}

/// Why the database was not locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteLockError {
    /// The mark. It exists while an earlier lock has not been taken back.
    #[error("{} cannot be made or removed", path.display())]
    Mark {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database does not let itself be locked.
    #[error("the database does not lock its writes")]
    Refused(#[source] DatabaseError),
}

impl WriteLock {
    pub(crate) fn of(config: &Config) -> Self {
        Self { mark: config.state_dir.join("fsync-lock"), database: Database::new(&config.engine) }
    }

    /// Holds all writes until [`Self::release`].
    pub(crate) async fn take(&self) -> Result<(), WriteLockError> {
        match self.database.may_unlock().await {
            Ok(true) => {}
            Ok(false) => return Err(WriteLockError::Refused(DatabaseError::MayNotUnlock)),
            Err(error) => return Err(WriteLockError::Refused(error)),
        }
        let mark = |source| WriteLockError::Mark { path: self.mark.clone(), source };
        fs::OpenOptions::new().write(true).create_new(true).open(&self.mark).map_err(mark)?;
        let Err(error) = self.database.lock().await else { return Ok(()) };
        if error.is_answer() {
            self.forget();
            return Err(WriteLockError::Refused(error));
        }
        // Should the lock have come about all the same, this ends it.
        match self.try_release().await {
            Ok(()) => Err(WriteLockError::Refused(error)),
            Err(_) => Err(mark(io::Error::new(io::ErrorKind::TimedOut, chain(&error)))),
        }
    }

    /// Ends the lock, for as long as it takes; gives up only when the process of `record` is gone, and its lock with
    /// it.
    pub(crate) async fn release(&self, record: &EngineRecord) {
        let mut said = String::new();
        while process::is_alive(record) {
            let Err(error) = self.try_release().await else { return };
            let why = chain(&error);
            if why != said {
                tracing::error!(
                    "writes stay locked until the engine lets them be unlocked: {why}; {}",
                    error.hint()
                );
                said = why;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.forget();
    }

    /// Whether an earlier agent, or an earlier snapshot, left the lock.
    pub(crate) fn is_left(&self) -> bool {
        self.mark.exists()
    }

    /// There is no process any more that could be locked.
    pub(crate) fn forget(&self) {
        match fs::remove_file(&self.mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} could not be removed: {error}", self.mark.display());
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// One try. Done once the database says that it is unlocked, or was not locked; any other refusal leaves it
    /// locked.
    async fn try_release(&self) -> Result<(), DatabaseError> {
        match self.database.unlock().await {
            Ok(()) => {}
            Err(error) if error.is_not_locked() => tracing::info!("fsyncUnlock: {}", chain(&error)),
            Err(error) => return Err(error),
        }
        self.forget();
        Ok(())
    }
}
