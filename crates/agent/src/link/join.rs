//! Joining a server, and renewing the certificate.
//!
//! Each step can be repeated: the key is durable before it is sent, a server lets the same key in again when its
//! first answer was lost, and a renewal keeps the key.

use keyward_model::{
    Timestamp,
    id::NodeId,
    node::JoinText,
    sync::{Enrolment, VERSION},
};
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

use super::{
    Link, LinkError,
    client::{Client, names_authority},
    files::Joined,
};
use crate::node::NodeError;

/// What a join led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinedServer {
    /// The server's address for agents.
    pub server: String,
    /// The node's id.
    pub node_id: String,
    /// When the certificate ends; it renews itself long before.
    pub certificate_ends: Timestamp,
}

impl Link {
    /// Joins the server that made `token`; in place of the one it had joined, if any.
    pub async fn join(&self, token: &str) -> Result<JoinedServer, NodeError> {
        let token: JoinText = token.parse().map_err(LinkError::from)?;
        let files = &self.0.files;
        let before = self.state().joined.clone();
        // Its authority may have been replaced since this node joined.
        let trusted = files.authorities().map_err(LinkError::from)?;
        let same_server = before.as_ref().is_some_and(|joined| {
            joined.ca_sha256 == token.ca_sha256
                || trusted.as_ref().is_some_and(|trusted| names_authority(trusted, &token.ca_sha256))
        });
        let key = match files.join_key().map_err(LinkError::from)? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(LinkError::from)?.serialize_pem();
                files.set_join_key(&key).map_err(LinkError::from)?;
                zeroize::Zeroizing::new(key)
            }
        };
        let client = Client::pinned(&token.url, &token.ca_sha256).map_err(LinkError::from)?;
        let node_id = NodeId(uuid::Uuid::from_bytes(*self.0.node.node_id().await?.as_bytes()));
        let request = self.enrolment(node_id, &key)?;
        let enrolled = client.enrol(&token.secret, &request).await.map_err(LinkError::from)?;
        // All of them: the answer came over a connection under the one that the token names.
        if !names_authority(&enrolled.authorities, &token.ca_sha256) {
            return Err(LinkError::OtherAuthority.into());
        }
        let joined = Joined {
            node_id,
            url: token.url.clone(),
            ca_sha256: token.ca_sha256.clone(),
            issued_at: self.0.node.clock().now(),
            not_after: enrolled.not_after,
            reserved_reports: before.filter(|_| same_server).map_or(0, |joined| joined.reserved_reports),
        };
        let keeping = self.keep();
        files.set_certificate(&enrolled.certificate, &enrolled.authorities).map_err(LinkError::from)?;
        files.finish_join(&key, &joined, same_server).map_err(LinkError::from)?;
        let report = JoinedServer {
            server: joined.url.origin().ascii_serialization(),
            node_id: request.node_id.to_string(),
            certificate_ends: joined.not_after,
        };
        tracing::info!(server = report.server, node_id = report.node_id, "joined a server");
        {
            let mut state = self.state();
            state.joined = Some(joined);
            state.problem = None;
            if !same_server {
                state.accepted = None;
                state.older = None;
                state.held_back = Vec::new();
            }
        }
        drop(keeping);
        self.publish();
        self.0.talk.notify_one();
        Ok(report)
    }

    /// A new certificate for the same key.
    pub(super) async fn renew(&self, client: &Client) -> Result<(), NodeError> {
        let files = &self.0.files;
        let Some(key) = files.key().map_err(LinkError::from)? else { return Ok(()) };
        let Some(node_id) = self.state().joined.as_ref().map(|joined| joined.node_id) else { return Ok(()) };
        let request = self.enrolment(node_id, &key)?;
        let enrolled = client.renew(&request).await.map_err(LinkError::from)?;
        let _keeping = self.keep();
        if self.state().joined.is_none() {
            return Ok(());
        }
        files.set_certificate(&enrolled.certificate, &enrolled.authorities).map_err(LinkError::from)?;
        let joined = {
            let mut state = self.state();
            let Some(joined) = &mut state.joined else { return Ok(()) };
            joined.issued_at = self.0.node.clock().now();
            joined.not_after = enrolled.not_after;
            joined.clone()
        };
        files.set_joined(&joined).map_err(LinkError::from)?;
        tracing::info!(ends = %joined.not_after, "the certificate for the server was renewed");
        Ok(())
    }

    fn enrolment(&self, node_id: NodeId, key: &str) -> Result<Enrolment, NodeError> {
        let node = &self.0.node;
        let key = KeyPair::from_pem(key).map_err(LinkError::from)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(LinkError::from)?;
        Ok(Enrolment {
            version: VERSION,
            node_id,
            name: node.config().name.clone(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            certificate_request: request.pem().map_err(LinkError::from)?,
        })
    }
}
