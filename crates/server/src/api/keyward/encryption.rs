//! Encryption at rest in full: how far each node is, what the last check found, which former keys are still needed,
//! and when refusals become a revocation.

use std::collections::BTreeMap;

use http::Method;
use keyward_model::{
    Code, KeyIdentifier, RevocationPolicy, Timestamp,
    cluster::Cluster,
    encryption::EncryptionAtRest,
    event::EventType,
    id::{ClusterId, ProjectId},
    node::EnrolledNode,
};
use keyward_store::{Report, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        Operation, Reply, Request,
        grants::{PROJECT_OWNER, PROJECT_READER},
    },
    customer_key::view::view,
    handler,
    http::{body::Field, error::ApiError},
};

const PATH: &str = "/api/keyward/v1/groups/{groupId}/encryption";
const POLICY: &str = "/api/keyward/v1/groups/{groupId}/encryption/policy";
/// Longest window of a policy, in milliseconds: a week.
const LONGEST_WINDOW_MS: u64 = 7 * 86_400_000;
/// Shortest gap that ends a run of refusals, in milliseconds.
const SHORTEST_GAP_MS: u64 = 30_000;

/// Its operations.
pub fn operations() -> Vec<Operation> {
    let operation = |id, method, path, requires, handler| Operation {
        id,
        method,
        path,
        versions: &[],
        requires,
        handler,
    };
    vec![
        operation("getEncryption", Method::GET, PATH, PROJECT_READER, handler!(get)),
        operation("updateEncryption", Method::PATCH, PATH, PROJECT_OWNER, handler!(update)),
        operation("getRevocationPolicy", Method::GET, POLICY, PROJECT_READER, handler!(get_policy)),
        operation("updateRevocationPolicy", Method::PATCH, POLICY, PROJECT_OWNER, handler!(update_policy)),
    ]
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    Ok(Reply::ok(shown(&mut tx, project).await?))
}

/// What Atlas has no field for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EncryptionChange {
    #[serde(default)]
    client_secret_expires: Field<Timestamp>,
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let (change, project, now): (EncryptionChange, _, _) =
        (request.parse()?, request.project()?, request.now());
    let asked = match change.client_secret_expires {
        Field::Absent => None,
        Field::Null => Some(None),
        Field::Set(at) => Some(Some(at)),
    };
    if let Some(expires) = asked {
        let mut change = request.app.store().change().await?;
        let stored = change.get::<EncryptionAtRest>(project).await?;
        let Some(mut stored) = stored.filter(|stored| stored.azure_key_vault.is_some()) else {
            return Err(ApiError::new(Code::EncryptionAtRestNotEnabled).param(project));
        };
        if stored.client_secret_expires != expires {
            stored.client_secret_expires = expires;
            change.update(&stored.document, stored.revision).await?;
            let event = request
                .event(EventType::EncryptionUpdated)
                .detail("changed", json!(["clientSecretExpires"]))
                .detail("clientSecretExpires", json!(expires));
            change.commit(event, now).await?;
            request.app.nudge().jobs();
        }
    }
    let mut tx = request.app.store().read().await?;
    Ok(Reply::ok(shown(&mut tx, project).await?))
}

async fn get_policy(request: Request) -> Result<Reply, ApiError> {
    let (stored, _) = load(&mut request.app.store().read().await?, request.project()?).await?;
    Ok(Reply::ok(json!(stored.policy)))
}

/// What is absent stays.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyChange {
    refusals: Option<u32>,
    strong_window_ms: Option<u64>,
    denial_window_ms: Option<u64>,
    gap_ms: Option<u64>,
}

async fn update_policy(mut request: Request) -> Result<Reply, ApiError> {
    let (asked, project, now): (PolicyChange, _, _) = (request.parse()?, request.project()?, request.now());
    let mut change = request.app.store().change().await?;
    let (stored, revision) = load(&mut change, project).await?;
    let was = stored.policy;
    let policy = RevocationPolicy {
        refusals: asked.refusals.unwrap_or(was.refusals),
        strong_window_ms: asked.strong_window_ms.unwrap_or(was.strong_window_ms),
        denial_window_ms: asked.denial_window_ms.unwrap_or(was.denial_window_ms),
        gap_ms: asked.gap_ms.unwrap_or(was.gap_ms),
    };
    check(&policy)?;
    if policy == was {
        return Ok(Reply::ok(json!(policy)));
    }
    let next = EncryptionAtRest { policy, ..stored };
    match revision {
        Some(revision) => _ = change.update(&next, revision).await?,
        None => change.insert(&next).await?,
    }
    let event = request.event(EventType::PolicyUpdated).detail("policy", json!(policy));
    change.commit(event, now).await?;
    request.app.nudge().jobs();
    Ok(Reply::ok(json!(policy)))
}

/// A policy that would take one hiccup for a revocation, or never end, is refused.
fn check(policy: &RevocationPolicy) -> Result<(), ApiError> {
    let wrong = |name: &str, what: &str| {
        Err(ApiError::new(Code::InvalidAttribute)
            .detail(format!("The attribute {name} {what}."))
            .param(name)
            .field(name, what))
    };
    if !(2..=100).contains(&policy.refusals) {
        return wrong("refusals", "must be from 2 to 100");
    }
    let windows = [
        ("strongWindowMs", policy.strong_window_ms),
        ("denialWindowMs", policy.denial_window_ms),
        ("gapMs", policy.gap_ms),
    ];
    for (name, value) in windows {
        if !(1_000..=LONGEST_WINDOW_MS).contains(&value) {
            return wrong(name, "must be from 1000 (a second) to 604800000 (a week)");
        }
    }
    // A node probes once a second at most, and an answer may take ten: in less than that no refusals add up.
    if policy.gap_ms < SHORTEST_GAP_MS {
        return wrong("gapMs", "must be at least 30000 (half a minute)");
    }
    if policy.denial_window_ms < policy.strong_window_ms {
        return wrong("denialWindowMs", "must not be shorter than strongWindowMs");
    }
    Ok(())
}

async fn load(tx: &mut Tx, project: ProjectId) -> Result<(EncryptionAtRest, Option<i64>), ApiError> {
    Ok(match tx.get::<EncryptionAtRest>(project).await? {
        Some(stored) => (stored.document, Some(stored.revision)),
        None => (EncryptionAtRest::none(project), None),
    })
}

async fn shown(tx: &mut Tx, project: ProjectId) -> Result<Value, ApiError> {
    let (stored, _) = load(tx, project).await?;
    let nodes = tx.list::<EnrolledNode>(project).await?;
    let reports = tx.reports(project).await?;
    let clusters: BTreeMap<ClusterId, String> = tx
        .list::<Cluster>(project)
        .await?
        .into_iter()
        .map(|cluster| (cluster.id, cluster.document.name))
        .collect();
    Ok(answer(&stored, &nodes, &reports, &clusters))
}

fn answer(
    stored: &EncryptionAtRest,
    nodes: &[Stored<EnrolledNode>],
    reports: &[Report],
    clusters: &BTreeMap<ClusterId, String>,
) -> Value {
    let wanted = stored.azure_key_vault.as_ref().and_then(|vault| vault.key().ok());
    let members: Vec<Value> = nodes
        .iter()
        .filter(|node| node.revoked_at.is_none())
        .map(|node| {
            let report = reports.iter().find(|report| report.observed.node_id == node.node_id);
            let cluster = node.cluster.and_then(|id| clusters.get(&id));
            // A node of no cluster is not asked for anything.
            let wanted = wanted.as_ref().filter(|_| cluster.is_some());
            member(node, cluster, wanted, report)
        })
        .collect();
    let asked = members.iter().filter(|member| !member["wantedKeyIdentifier"].is_null()).count();
    let moved = members.iter().filter(|member| member["moved"] == true).count();
    json!({
        "azureKeyVault": view(stored)["azureKeyVault"],
        "validity": {
            "valid": stored.validity.valid,
            "checkedAt": stored.validity.checked_at,
            "unreachableSince": stored.validity.unreachable_since,
            "findings": stored.validity.findings,
            "warnings": stored.validity.warnings,
            "vaultRotatesAfterDays": stored.validity.rotation.and_then(|rotation| rotation.after_days),
        },
        "keyChangedAt": stored.key_changed_at,
        "clientSecretExpires": stored.client_secret_expires,
        "policy": stored.policy,
        "progress": {"nodes": asked, "moved": moved},
        "nodes": members,
        "formerKeys": former(stored, nodes, reports),
    })
}

fn member(
    node: &EnrolledNode,
    cluster: Option<&String>,
    wanted: Option<&KeyIdentifier>,
    report: Option<&Report>,
) -> Value {
    let observed = report.map(|report| &report.observed);
    let status = observed.map(|observed| &observed.status);
    let has = status.and_then(|status| status.customer_key.as_ref()).map(|key| &key.key_identifier);
    let held_back: Vec<Value> = observed
        .map(|observed| &observed.held_back)
        .into_iter()
        .flatten()
        .map(|held| {
            json!({"what": held.what, "reason": held.reason, "hint": held.hint, "needsApproval": held.needs_approval})
        })
        .collect();
    json!({
        "id": node.node_id,
        "name": node.name,
        "cluster": cluster,
        "state": status.map(|status| status.state),
        "verdict": status.map(|status| status.verdict),
        "reason": status.map(|status| &status.reason),
        "keyIdentifier": has,
        "wantedKeyIdentifier": wanted,
        // Rule 2: done is what the node has reported, never what was asked.
        "moved": wanted.is_some() && has == wanted,
        "masterKeyHeld": status.map(|status| status.master_key_held),
        "progress": observed.and_then(|observed| observed.progress.as_ref()),
        "heldBack": held_back,
        "reportedAt": report.map(|report| report.received_at),
    })
}

/// Former keys, newest first, and what still needs each: wraps in keystores, and snapshots that nodes know of.
fn former(stored: &EncryptionAtRest, nodes: &[Stored<EnrolledNode>], reports: &[Report]) -> Vec<Value> {
    let name = |report: &Report| {
        let known = nodes.iter().find(|node| node.node_id == report.observed.node_id);
        known.map_or_else(|| report.observed.status.node.clone(), |node| node.name.clone())
    };
    let needs = |key: &str| {
        let nodes: Vec<String> = reports
            .iter()
            .filter(|report| report.observed.wraps.iter().any(|wrap| wrap.key_identifier == key))
            .map(name)
            .collect();
        let mut snapshots: Vec<Value> = Vec::new();
        for report in reports {
            for snapshot in report.observed.snapshots.iter().filter(|snapshot| snapshot.key_identifier == key)
            {
                snapshots.push(json!({
                    "url": snapshot.url, "node": name(report), "createdAt": snapshot.created_at,
                    "masterKeyId": snapshot.master_key_id,
                }));
            }
        }
        (nodes, snapshots)
    };
    stored
        .former_keys
        .iter()
        .rev()
        .map(|former| {
            let (nodes, snapshots) = needs(&former.key_identifier);
            json!({
                "keyIdentifier": former.key_identifier,
                "from": former.from,
                "until": former.until,
                "neededByNodes": nodes,
                "neededBySnapshots": snapshots,
            })
        })
        .collect()
}
