//! Trying a customer key out from a node, where the server has no way to the vault.
//!
//! The request lies in the store until the node has answered or nobody waits any longer; the node's desired state
//! carries it, its next report the answer.

use std::{collections::HashMap, time::Duration};

use keyward_model::{
    Timestamp,
    encryption::{EncryptionAtRest, ValidationRequest},
    id::{NodeId, ProjectId},
    node::EnrolledNode,
    sync::{Validation, ValidationFinding},
};
use keyward_store::{ServerKey, StoreError, Tx};
use secrecy::ExposeSecret;

use super::{Asked, desired::desired_for, nodes::FRESH_MS};
use crate::{App, app::make_bytes};

/// How long a node's answer is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A request that is older is nobody's any more, in milliseconds.
const LONGEST_LIFE_MS: i64 = 60_000;

/// What a node found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FromNode {
    /// The node's name.
    pub(super) node: String,
    /// Nothing when all is well; `None` when it did not answer in time.
    pub(super) findings: Option<Vec<ValidationFinding>>,
}

/// Has a node of the project try `asked` out; `None` when none has been heard of lately.
pub(super) async fn try_by_node(
    app: &App,
    project: ProjectId,
    asked: &Asked,
) -> Result<Option<FromNode>, StoreError> {
    let mut tx = app.store().read().await?;
    let Some((node, name)) = pick(&mut tx, project, app.now()).await? else { return Ok(None) };
    drop(tx);
    let id = data_encoding::HEXLOWER.encode(&make_bytes::<12>());
    let sealed_secret = asked.secret.as_ref().map(|secret| {
        let sealed = app.store().key().seal(&purpose(&id), secret.expose_secret().as_bytes());
        data_encoding::HEXLOWER.encode(&sealed)
    });
    let request = ValidationRequest {
        id: id.clone(),
        project,
        node,
        vault: asked.vault.clone(),
        sealed_secret,
        asked_at: app.now(),
    };
    let mut observation = app.store().observe().await?;
    observation.insert(&request).await?;
    observation.tell_jobs().await?;
    observation.commit().await?;
    app.nudge().jobs();
    app.nudge().node(node);
    let findings = wait(app, node, &id).await;
    let mut observation = app.store().observe().await?;
    observation.delete::<ValidationRequest>(&id).await?;
    observation.tell_jobs().await?;
    observation.commit().await?;
    app.nudge().jobs();
    Ok(Some(FromNode { node: name, findings: findings? }))
}

/// What nodes are to try out now, for their desired states.
pub async fn validations(
    tx: &mut Tx,
    key: &ServerKey,
    now: Timestamp,
) -> Result<HashMap<NodeId, Vec<Validation>>, StoreError> {
    let mut found: HashMap<NodeId, Vec<Validation>> = HashMap::new();
    for request in tx.list_all::<ValidationRequest>().await? {
        let age_ms = now.epoch_ms().saturating_sub(request.asked_at.epoch_ms());
        // A clock that was set back makes none live for ever.
        if age_ms.abs() > LONGEST_LIFE_MS {
            continue;
        }
        let secret = match &request.sealed_secret {
            None => None,
            Some(sealed) => match data_encoding::HEXLOWER.decode(sealed.as_bytes()) {
                Ok(sealed) => Some(key.open(&purpose(&request.id), &sealed)?),
                Err(_) => continue,
            },
        };
        let secret = secret.as_deref().and_then(|secret| std::str::from_utf8(secret).ok());
        let stored = tx.get::<EncryptionAtRest>(request.project).await?;
        let stored = stored.map_or_else(|| EncryptionAtRest::none(request.project), |stored| stored.document);
        if let Some(encryption) = desired_for(&request.vault, secret, &stored, None) {
            found.entry(request.node).or_default().push(Validation { id: request.id.clone(), encryption });
        }
    }
    Ok(found)
}

/// The node of the project that was heard of last, if that was just now.
async fn pick(
    tx: &mut Tx,
    project: ProjectId,
    now: Timestamp,
) -> Result<Option<(NodeId, String)>, StoreError> {
    let reports = tx.reports(project).await?;
    let newest = reports.into_iter().max_by_key(|report| report.received_at);
    let Some(report) =
        newest.filter(|report| now.epoch_ms().saturating_sub(report.received_at.epoch_ms()) <= FRESH_MS)
    else {
        return Ok(None);
    };
    let node = tx.get::<EnrolledNode>(report.observed.node_id).await?;
    Ok(node.filter(|node| node.revoked_at.is_none()).map(|node| (node.node_id, node.name.clone())))
}

async fn wait(app: &App, node: NodeId, id: &str) -> Result<Option<Vec<ValidationFinding>>, StoreError> {
    let deadline = tokio::time::Instant::now() + LONGEST_WAIT;
    while tokio::time::Instant::now() < deadline {
        let report = app.store().read().await?.report(node).await?;
        let answer = report
            .and_then(|report| report.observed.validated.into_iter().find(|validated| validated.id == id));
        if let Some(answer) = answer {
            return Ok(Some(answer.findings));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = app.stop().cancelled() => return Ok(None),
        }
    }
    Ok(None)
}

fn purpose(id: &str) -> String {
    format!("validation:{id}")
}
