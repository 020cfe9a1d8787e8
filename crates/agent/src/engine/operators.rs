//! The database process that the host's operator started: looked at and asked, stopped cleanly when its
//! member is to be filled again, and never killed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    EngineError, OperatorsProcess,
    database::{Database, ReplicaSet},
    foreign,
    mongod_options::{self, MongodTls},
    process::Handle,
};
use crate::config::Config;

struct Operators {
    handle: Handle,
    database: Database,
    tls: MongodTls,
}

/// The process that has the data path of `config` open. It must be the one that listens on the port as well:
/// else another one would be asked than the one that is stopped.
pub(super) async fn find(config: &Config) -> Result<Option<Arc<dyn OperatorsProcess>>, EngineError> {
    let (data_path, port) = (config.data_path.clone(), config.engine.port);
    let look = || {
        let data_path = data_path.clone();
        async move {
            let found = tokio::task::spawn_blocking(move || foreign::opener(&data_path, port)).await;
            found.map_err(|_| EngineError::Ended)
        }
    };
    let Some((pid, listens)) = look().await? else { return Ok(None) };
    if !listens {
        return Err(EngineError::OtherPort { pid, port });
    }
    let Some(handle) = Handle::take(pid, "", &config.engine.log_file)? else { return Ok(None) };
    // Looked at again: now the handle names the very process that has the data open.
    if look().await? != Some((pid, true)) {
        return Ok(None);
    }
    let read = tokio::task::spawn_blocking(move || mongod_options::of_process(pid)).await;
    let tls = read.map_err(|_| EngineError::Ended)?;
    let database = Database::of_running(&config.engine, tls.clone());
    Ok(Some(Arc::new(Operators { handle, database, tls })))
}

#[async_trait]
impl OperatorsProcess for Operators {
    fn pid(&self) -> u32 {
        self.handle.record().pid
    }

    fn tls(&self) -> MongodTls {
        self.tls.clone()
    }

    async fn version(&self) -> Result<String, EngineError> {
        Ok(self.database.version().await?)
    }

    async fn replica_state(&self) -> Option<String> {
        self.database.replica_state().await
    }

    async fn replica_set(&self) -> Result<ReplicaSet, EngineError> {
        Ok(self.database.replica_set().await?)
    }

    async fn step_down(&self) -> Result<(), EngineError> {
        Ok(self.database.step_down().await?)
    }

    async fn shut_down(&self, patience: Duration) -> Result<(), EngineError> {
        let ended = match self.handle.terminate(patience).await {
            Ok(ended) => ended,
            // A process of another user, and an agent that is not root: the database itself may do it.
            Err(EngineError::Process { .. }) => {
                self.database.shut_down().await?;
                self.handle.ended_within(patience).await
            }
            Err(error) => return Err(error),
        };
        if ended { Ok(()) } else { Err(EngineError::StillRuns { pid: self.pid(), waited: patience }) }
    }
}
