//! Leaving the server: from then on the node is its host's alone.
//!
//! The server is told first, so that it lets the certificate and the place go; then everything of it is forgotten but
//! the settings in use, by which the customer key is reached. Cut off anywhere, leaving again goes on.

use std::time::Duration;

use keyward_model::sync::{AgentRefusalCode, DesiredRun, Leave, VERSION};
use serde::{Deserialize, Serialize};

use super::{
    Link, LinkError,
    client::CallError,
    files::{Applied, Joined},
    sync::connect,
};
use crate::node::{NodeError, chain};

/// How long what is being done on the server's word is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What leaving led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftServer {
    /// The server's address for agents.
    pub server: String,
    /// The node's id.
    pub node_id: String,
    /// Whether the server knows.
    pub told: bool,
    /// The customer key that the node goes on under.
    pub key_identifier: Option<String>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Link {
    /// Leaves the server. A member of a cluster, or a node whose server does not answer, leaves only with `force`.
    pub async fn leave(&self, force: bool) -> Result<LeftServer, NodeError> {
        let Ok(_turn) = tokio::time::timeout(PATIENCE, self.0.turn.lock()).await else {
            let progress = self.state().progress.clone();
            return Err(LinkError::AtWork(
                progress.unwrap_or_else(|| "it looks at what is desired".to_owned()),
            )
            .into());
        };
        let joined = self.state().joined.clone().ok_or(LinkError::NotJoined)?;
        if !force && let Some(cluster) = self.cluster() {
            return Err(LinkError::Member(cluster).into());
        }
        let mut warnings = Vec::new();
        let told = match self.tell(&joined, force).await {
            Ok(()) => true,
            Err(error) if force => {
                let error = LinkError::NotTold(error);
                tracing::warn!("{}", chain(&error));
                warnings
                    .push(format!("{}; revoke the node there: keyward project node revoke", chain(&error)));
                false
            }
            Err(error) => return Err(LinkError::NotTold(error).into()),
        };
        self.forget().map_err(LinkError::from)?;
        let server = joined.url.origin().ascii_serialization();
        tracing::info!(server, told, "left the server");
        self.0.talk.notify_one();
        self.0.apply.notify_one();
        let key_identifier = self.0.node.keyring().view().and_then(|_| self.0.node.current_key().ok());
        Ok(LeftServer {
            server,
            node_id: joined.node_id.to_string(),
            told,
            key_identifier: key_identifier.map(|key| key.to_string()),
            warnings,
        })
    }

    fn cluster(&self) -> Option<String> {
        let state = self.state();
        let cluster = state.accepted.as_ref().and_then(|accepted| accepted.desired.cluster.as_ref());
        cluster.map(|cluster| cluster.name.clone())
    }

    /// A server that has let the node go already, perhaps in answer to a call whose answer was lost, is told.
    async fn tell(&self, joined: &Joined, force: bool) -> Result<(), CallError> {
        let client = match connect(self, joined) {
            Ok(client) => client,
            Err(error) => return Err(CallError::Setup(chain(&error))),
        };
        match client.leave(&Leave { version: VERSION, force }).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused { refusal, .. }) if refusal.code == AgentRefusalCode::NodeRevoked => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn forget(&self) -> Result<(), crate::memory::MemoryError> {
        let _keeping = self.keep();
        let applied = Applied { run: DesiredRun::Unmanaged, ..self.state().applied.clone() };
        self.0.files.set_applied(&applied)?;
        self.0.files.forget_server()?;
        {
            let mut state = self.state();
            state.joined = None;
            state.accepted = None;
            state.older = None;
            state.applied = applied;
            state.approved.clear();
            state.held_back.clear();
            state.validated.clear();
            state.progress = None;
            state.last_contact = None;
            state.problem = None;
        }
        for topic in ["server", "approval"] {
            self.0.node.set_note(topic, None);
        }
        self.0.node.set_link(None);
        Ok(())
    }
}
