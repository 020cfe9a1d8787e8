//! A database that was there before keyward: on the data path, not encrypted, run by its operator.
//!
//! The node adopts it as it is: shows it, reports it, and asks it about its replica set. It never starts it,
//! and stops it only for a resync ([`crate::resync`]).

use std::{sync::Arc, time::Duration};

use keyward_model::{NodeState, NodeStatus, Timestamp, approval::Resyncing, status::EngineStatus};
use tokio_util::sync::CancellationToken;

use super::{NodeError, NodeHandle, chain, unlock};
use crate::{
    config::Initial,
    engine::{EngineError, OperatorsProcess, database::ReplicaSet},
    memory::Memory,
    resync::{self, Phase, Resync, before_filling},
};

/// Between two looks at the operator's process and at the member's state.
const LOOK: Duration = Duration::from_secs(5);
/// How long a database may take to say what it is.
const ANSWER: Duration = Duration::from_secs(10);

/// The operator's database, as the last look saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Its process and version; `None` while it does not run.
    running: Option<(u32, String)>,
    /// Its member's state in its replica set.
    replica_state: Option<String>,
    /// Where the resync stands.
    phase: Option<Phase>,
    /// Why it cannot be seen whole.
    trouble: Option<String>,
    /// Since when it has been running, or not.
    since: Timestamp,
}

impl Adopted {
    fn reason(&self) -> String {
        let mut text = match (self.phase, &self.running) {
            (Some(Phase::Emptying), _) => {
                "its unencrypted data is being deleted, to be filled again by the other members".to_owned()
            }
            (Some(Phase::Stopping), None) => {
                "it was stopped to be filled again, encrypted; its unencrypted data is still there".to_owned()
            }
            (_, Some(_)) => {
                "its data is not encrypted: this is its operator's own database, adopted as it is; give its \
                             cluster a customer key, and it is filled again, encrypted"
                    .to_owned()
            }
            (_, None) => {
                "its data is not encrypted, and keyward starts nothing unencrypted: start it by its own unit"
                    .to_owned()
            }
        };
        if let Some(trouble) = &self.trouble {
            text = format!("{text} ({trouble})");
        }
        text
    }

    /// What status says of a node whose data is not encrypted, whatever keys are there already.
    pub(super) fn shown(&self, kind: &str, status: NodeStatus) -> NodeStatus {
        let mut warnings = status.warnings;
        warnings.push("the data of this node is not encrypted".to_owned());
        NodeStatus {
            state: if self.running.is_some() { NodeState::Running } else { NodeState::Stopped },
            reason: self.reason(),
            customer_key: None,
            master_key: None,
            master_key_held: false,
            database_keys: Vec::new(),
            spare_database_keys: 0,
            engine: self.running.as_ref().map(|(pid, version)| EngineStatus {
                kind: kind.to_owned(),
                version: version.clone(),
                pid: *pid,
            }),
            since: self.since,
            warnings,
            ..status
        }
    }
}

/// Looks until `shutdown`.
pub(super) async fn run(node: NodeHandle, shutdown: CancellationToken) {
    let every = LOOK.min(node.config().verdict.probe_interval);
    loop {
        tokio::select! {
            () = node.look_at_adopted() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

impl NodeHandle {
    /// Whether this node's data path holds data that is not encrypted, or what is left of it.
    pub(crate) fn unencrypted(&self) -> bool {
        self.shared().adopted.is_some()
    }

    /// Where its resync stands, for decisions. What has not stopped the database yet does not count.
    pub(crate) fn resyncing(&self) -> Result<Resyncing, NodeError> {
        Ok(match resync::remembered(self)?.map(|resync| resync.phase) {
            None | Some(Phase::Begun | Phase::Stopping) => Resyncing::No,
            Some(Phase::Emptying) => Resyncing::Emptying,
            Some(Phase::Filling) => Resyncing::Filling,
        })
    }

    /// Fails where keyward must start nothing, because what it would start is not encrypted.
    pub(crate) fn refuse_unencrypted(&self) -> Result<(), NodeError> {
        let resyncing = resync::remembered(self)?.is_some_and(|resync| before_filling(resync.phase));
        if resyncing || self.unencrypted() {
            return Err(NodeError::Unencrypted(self.config().data_path.clone()));
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// Whether the engine that keyward started runs.
    pub(crate) fn runs(&self) -> bool {
        let shared = self.shared();
        shared.state == NodeState::Running && shared.engine_up
    }

    /// The operator's own process on the data path.
    pub(crate) async fn operators(&self) -> Result<Option<Arc<dyn OperatorsProcess>>, NodeError> {
        Ok(self.0.engine.operators().await?)
    }

    /// A process on the data path or port that is not keyward's, in words.
    pub(crate) async fn foreign(&self) -> Option<String> {
        let own = self.engine().map(|process| process.record().pid);
        self.0.engine.foreign(own).await
    }

    pub(crate) async fn ask_member(&self, address: &str) -> Result<ReplicaSet, EngineError> {
        self.0.engine.ask_member(address).await
    }

    /// Makes the keystore of a node whose data is to be written anew, under the customer key in use. The keys
    /// leave the memory again: the start unwraps them, and so shows that the vault gives them back.
    pub(crate) async fn make_keystore(&self) -> Result<(), NodeError> {
        unlock::create_beside_data(self).await?;
        self.wipe_keys();
        Ok(())
    }

    /// Has a primary hand over to another member; nothing to do for others.
    pub(crate) async fn step_down(&self) -> Result<(), NodeError> {
        match (self.engine(), self.unencrypted()) {
            (Some(process), _) => process.step_down().await?,
            (None, true) => {
                if let Some(process) = self.operators().await? {
                    process.step_down().await?;
                }
            }
            (None, false) => {}
        }
        self.look_at_adopted().await;
        Ok(())
    }

    /// Looks at the operator's database, where there is one, and at the member's state.
    pub(crate) async fn look_at_adopted(&self) {
        let found = match is_unencrypted(self).await {
            Ok(true) => Some(adopted(self).await),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!("whether the data is encrypted is not known: {}", chain(&error));
                return;
            }
        };
        let replica_state = match (&found, self.engine()) {
            (Some(adopted), _) => adopted.replica_state.clone(),
            (None, Some(process)) => {
                tokio::time::timeout(ANSWER, process.replica_state()).await.ok().flatten()
            }
            (None, None) => None,
        };
        let changed = {
            let mut shared = self.shared();
            let found = found.map(|found| match &shared.adopted {
                Some(former) if former.running.is_some() == found.running.is_some() => {
                    Adopted { since: former.since, ..found }
                }
                Some(_) | None => found,
            });
            let changed = shared.adopted != found || shared.replica_state != replica_state;
            (shared.adopted, shared.replica_state) = (found, replica_state);
            changed
        };
        if changed {
            self.touch();
        }
    }
}

/// Whether the data path holds data that is not encrypted.
async fn is_unencrypted(node: &NodeHandle) -> Result<bool, NodeError> {
    if let Some(resync) = resync_of(node).await? {
        return Ok(before_filling(resync.phase));
    }
    Ok(node.config().initial == Initial::Server
        && node.0.keyring.view().is_none()
        && matches!(unlock::load(node).await?, unlock::Loaded::Unencrypted(_)))
}

/// Asked time and again: a disk that hangs must not hold up what else the agent does.
async fn resync_of(node: &NodeHandle) -> Result<Option<Resync>, NodeError> {
    let node = node.clone();
    tokio::task::spawn_blocking(move || resync::remembered(&node)).await.map_err(|_| NodeError::TaskDied)?
}

async fn adopted(node: &NodeHandle) -> Adopted {
    let phase = resync_of(node).await.ok().flatten().map(|resync| resync.phase);
    let mut adopted =
        Adopted { running: None, replica_state: None, phase, trouble: None, since: node.clock().now() };
    match node.operators().await {
        Ok(Some(process)) => {
            let asked = async { (process.version().await, process.replica_state().await) };
            let version = match tokio::time::timeout(ANSWER, asked).await {
                Ok((version, replica_state)) => {
                    adopted.replica_state = replica_state;
                    version.map_err(|error| format!("{} (hint: {})", chain(&error), error.hint()))
                }
                Err(_) => Err(format!("it does not answer within {} s", ANSWER.as_secs())),
            };
            adopted.trouble = version.as_ref().err().cloned();
            adopted.running = Some((process.pid(), version.unwrap_or_default()));
        }
        Ok(None) => adopted.trouble = node.foreign().await,
        Err(error) => adopted.trouble = Some(format!("{} (hint: {})", chain(&error), error.hint())),
    }
    adopted
}
