//! Carries a PATCH of `encryptionAtRest` out: loads, decides, asks the vault, stores with one event.
//!
//! The vault is asked outside any transaction. What was decided is decided again on what is stored when the change
//! is written: when anything moved meanwhile, all begins anew.

use std::time::Duration;

use keyward_model::{
    Code, Timestamp,
    cloud_role::CloudRole,
    cluster::{Cluster, ClusterState, KeyProvider},
    encryption::{AzureKeyVault, EncryptionAtRest, FormerKey, Validity},
    event::{EventType, NewEvent},
    id::ProjectId,
    node::EnrolledNode,
    private_endpoint::PrivateEndpoint,
};
use keyward_store::{Change, StoreError, Tx};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{
    Asked, Tried,
    by_node::try_by_node,
    nodes::{NodeView, left_behind},
    outcome::{Outcome, outcome, outcome_of_node},
    patch,
    plan::{Plan, SecretPlan, Situation, plan},
    recheck, secret_owner,
};
use crate::{App, api::alert_configs::add_automatic, http::error::ApiError};

/// How often a change is begun anew when others come in between.
const MOST_TRIES: usize = 5;
/// Pause between two tries of a credential that may not be known everywhere yet.
const LAG_PAUSE: Duration = Duration::from_secs(2);

/// All of a project that encryption at rest depends on, of one moment.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is stored, or what counts as stored for a project that never configured any.
    pub stored: EncryptionAtRest,
    /// Its revision; `None` when there is nothing stored.
    pub revision: Option<i64>,
    /// The client secret.
    pub secret: Option<SecretString>,
    /// Regions of the private endpoints.
    pub endpoints: Vec<String>,
    /// Names of the clusters that use the customer key.
    pub clusters: Vec<String>,
    /// Cloud provider access roles.
    pub roles: Vec<CloudRole>,
    /// Nodes that have a wrapped master key.
    pub nodes: Vec<NodeView>,
}

impl Loaded {
    /// Reads it.
    pub async fn read(tx: &mut Tx, project: ProjectId) -> Result<Self, StoreError> {
        let (stored, revision) = match tx.get::<EncryptionAtRest>(project).await? {
            Some(stored) => (stored.document, Some(stored.revision)),
            None => (EncryptionAtRest::none(project), None),
        };
        let secret = tx.secret(&secret_owner(project)).await?;
        let secret = secret.and_then(|secret| std::str::from_utf8(&secret).ok().map(SecretString::from));
        let endpoints = tx.list::<PrivateEndpoint>(project).await?;
        let roles = tx.list::<CloudRole>(project).await?;
        let enrolled = tx.list::<EnrolledNode>(project).await?;
        let reports = tx.reports(project).await?;
        let mut nodes = Vec::new();
        let mut encrypted_clusters = Vec::new();
        for report in reports {
            let Some(node) = enrolled.iter().find(|node| node.node_id == report.observed.node_id) else {
                continue;
            };
            // A node that belongs to no cluster is not the project's customer key's any more.
            let (None, Some(cluster)) = (node.revoked_at, node.cluster) else { continue };
            if let Some(view) = NodeView::of(&node.name, &report.observed, report.received_at) {
                nodes.push(view);
                encrypted_clusters.push(cluster);
            }
        }
        let clusters = tx.list::<Cluster>(project).await?;
        let uses = |cluster: &Cluster| {
            cluster.intent.encryption_at_rest_provider == KeyProvider::Azure
                || (cluster.state != ClusterState::Idle && encrypted_clusters.contains(&cluster.id))
        };
        let mut clusters: Vec<String> =
            clusters.iter().filter(|cluster| uses(cluster)).map(|cluster| cluster.name.clone()).collect();
        clusters.sort();
        Ok(Self {
            stored,
            revision,
            secret,
            endpoints: endpoints.into_iter().map(|endpoint| endpoint.document.region_name).collect(),
            clusters,
            roles: roles.into_iter().map(|role| role.document).collect(),
            nodes,
        })
    }

    fn situation(&self, vaults_have_names: bool) -> Situation<'_> {
        Situation {
            stored: &self.stored,
            secret: self.secret.as_ref(),
            endpoints: &self.endpoints,
            clusters: &self.clusters,
            roles: &self.roles,
            vaults_have_names,
        }
    }

    /// The stored customer key, and as whom to ask for it.
    pub fn asked(&self) -> Option<Asked> {
        let vault = self.stored.azure_key_vault.clone()?;
        let secret = if vault.role_id.is_some() { None } else { self.secret.clone() };
        Some(Asked { vault, secret })
    }
}

/// Applies the body of a PATCH; `event` makes the audit event of a type.
pub async fn apply(
    app: &App,
    project: ProjectId,
    body: Value,
    event: &(dyn Fn(EventType) -> NewEvent + Send + Sync),
) -> Result<EncryptionAtRest, ApiError> {
    let vaults_have_names = app.keys().vaults_have_names();
    for _ in 0..MOST_TRIES {
        let loaded = Loaded::read(&mut app.store().read().await?, project).await?;
        let decided = plan(patch::read(body.clone())?, loaded.situation(vaults_have_names))?;
        let checked = match &decided.vault {
            Some(vault) if decided.check => match check(app, project, &loaded, vault, &decided).await {
                Ok(checked) => Some(checked),
                Err(refusal) => {
                    // What is stored does not work either: the job looks soon whether that is confirmed.
                    if decided.changed.is_empty() {
                        check_again_soon(app, project).await;
                    }
                    return Err(refusal);
                }
            },
            Some(_) | None if decided.changed.is_empty() => return Ok(loaded.stored),
            Some(_) | None => None,
        };
        match store(app, project, body.clone(), &loaded, checked, event).await? {
            Written::Stored(stored) => {
                app.nudge().jobs();
                return Ok(*stored);
            }
            Written::Moved => {}
        }
    }
    Err(ApiError::new(Code::ResourceChanged))
}

/// Forgets all of a project that is being deleted. Refused while private endpoints exist: they are resources in
/// Azure that nobody would delete any more.
pub async fn drop_all(change: &mut Change, project: ProjectId) -> Result<(), ApiError> {
    if !change.list::<PrivateEndpoint>(project).await?.is_empty() {
        return Err(ApiError::new(Code::CannotDisableEncryptionAtRestDueToPrivateEndpoints));
    }
    change.delete::<EncryptionAtRest>(project).await?;
    change.delete_all::<CloudRole>(project).await?;
    change.drop_secret(&secret_owner(project)).await?;
    Ok(())
}

/// What a check of the new configuration saw.
struct Checked {
    warnings: Vec<String>,
    at: Timestamp,
}

/// Asks the vault; `Err` says why the change is refused.
async fn check(
    app: &App,
    project: ProjectId,
    loaded: &Loaded,
    vault: &AzureKeyVault,
    decided: &Plan,
) -> Result<Checked, ApiError> {
    let secret = match (&decided.secret, vault.role_id) {
        (_, Some(_)) | (SecretPlan::Drop, None) => None,
        (SecretPlan::Set(secret), None) => Some(secret.clone()),
        (SecretPlan::Keep, None) => loaded.secret.clone(),
    };
    let asked = Asked { vault: vault.clone(), secret };
    let came_to = try_out(app, project, &asked, decided.new_credential).await?;
    if let Some(refusal) = came_to.refusal(vault, named_anew(&loaded.stored, vault)) {
        return Err(refusal);
    }
    if decided.key_replaced {
        follow(app, project, loaded, &asked).await?;
    }
    match came_to {
        Outcome::Accepted { warnings } => Ok(Checked { warnings, at: app.now() }),
        Outcome::Refused { .. } | Outcome::Unknown { .. } => Err(ApiError::new(Code::UnexpectedError)),
    }
}

/// Whether the vault's name is another than the one that is stored, which worked.
fn named_anew(stored: &EncryptionAtRest, vault: &AzureKeyVault) -> bool {
    let host = |vault: &AzureKeyVault| vault.key().ok().map(|key| key.vault_host().to_ascii_lowercase());
    stored.azure_key_vault.as_ref().and_then(host) != host(vault)
}

/// Has the job check what is stored before its usual time.
async fn check_again_soon(app: &App, project: ProjectId) {
    let marked = async {
        let mut observation = app.store().observe().await?;
        let Some(mut stored) = observation.get::<EncryptionAtRest>(project).await? else { return Ok(()) };
        stored.document.validity.checked_at = None;
        observation.update(&stored.document, stored.revision).await?;
        observation.commit().await
    };
    match marked.await {
        Ok(()) => app.nudge().jobs(),
        Err::<(), StoreError>(error) => {
            tracing::debug!(%error, %project, "the customer key is checked at its usual time");
        }
    }
}

/// Tries a customer key out from here, or from a node where there is no way from here.
///
/// A refusal of a new credential is tried again for a while: an application, a secret or a grant that was made a
/// moment ago is not known to every part of Azure yet.
pub async fn try_out(
    app: &App,
    project: ProjectId,
    asked: &Asked,
    new_credential: bool,
) -> Result<Outcome, ApiError> {
    let wait = app.config().customer_key.new_credential_wait;
    let began = tokio::time::Instant::now();
    let mut tries = 0;
    loop {
        let came_to = try_once(app, project, asked).await?;
        tries += 1;
        let spent = began.elapsed();
        if !new_credential || !came_to.may_be_lag() || spent + LAG_PAUSE > wait {
            return Ok(match came_to {
                Outcome::Refused { code, mut findings } if tries > 1 => {
                    findings.push(format!(
                        "It was tried {tries} times in {} s; a new application, secret or grant takes up to ten minutes to be \
                         known everywhere in Azure.",
                        spent.as_secs()
                    ));
                    Outcome::Refused { code, findings }
                }
                came_to @ (Outcome::Accepted { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. }) => {
                    came_to
                }
            });
        }
        tokio::time::sleep(LAG_PAUSE).await;
    }
}

async fn try_once(app: &App, project: ProjectId, asked: &Asked) -> Result<Outcome, ApiError> {
    let (from_here, why) = match app.keys().check(asked).await {
        Tried::Found(findings) => (Some(outcome(&findings, app.now())), None),
        Tried::NotFromHere { why } => (None, Some(why)),
    };
    let private = asked.vault.require_private_networking;
    match from_here {
        Some(came_to) if !(private && came_to.is_about_the_way()) => Ok(came_to),
        from_here => match try_by_node(app, project, asked).await? {
            Some(by) => Ok(match by.findings {
                Some(findings) => outcome_of_node(&by.node, &findings),
                None => {
                    let waited = format!("Node {} was asked to try it and has not answered.", by.node);
                    match from_here {
                        Some(came_to) => came_to.with(waited),
                        None => Outcome::unknown([why, Some(waited)].into_iter().flatten()),
                    }
                }
            }),
            None => {
                let nobody = "No node of the project has been heard of lately that could try it: start the agent of one, \
                              or have one join (keyward project join-token create), and send the change again."
                    .to_owned();
                Ok(match from_here {
                    Some(came_to) => came_to.with(nobody),
                    None => {
                        let why = why.map(|why| format!("From here it cannot be tried: {why}."));
                        Outcome::unknown([why, Some(nobody)].into_iter().flatten())
                    }
                })
            }
        },
    }
}

/// Whether all nodes can follow to another customer key. They can when the current one works, or each of them holds
/// its master key, or the other one is the same key.
async fn follow(app: &App, project: ProjectId, loaded: &Loaded, next: &Asked) -> Result<(), ApiError> {
    let now = app.now();
    // Cheapest first: most of the time every node is well.
    if left_behind(&loaded.nodes, None, now).is_empty() {
        return Ok(());
    }
    let Some(current) = loaded.asked() else { return Ok(()) };
    let current_state = try_once(app, project, &current).await?;
    if unwraps(&current_state) {
        return Ok(());
    }
    // The nodes get the new credential with the new key: the old key may answer to it.
    if next.vault.tenant_id.eq_ignore_ascii_case(&current.vault.tenant_id) {
        let old_key =
            AzureKeyVault { key_identifier: current.vault.key_identifier.clone(), ..next.vault.clone() };
        let with_new = Asked { vault: old_key, secret: next.secret.clone() };
        if unwraps(&try_once(app, project, &with_new).await?) {
            return Ok(());
        }
    }
    let public_key = app.keys().public_key_sha256(next).await;
    let behind = left_behind(&loaded.nodes, public_key.as_deref(), now);
    if behind.is_empty() {
        return Ok(());
    }
    let why = match current_state {
        Outcome::Refused { findings, .. } | Outcome::Unknown { findings, .. } => findings.join(" "),
        Outcome::Accepted { .. } => String::new(),
    };
    let names = behind.join(", ");
    let mut error = ApiError::new(Code::EncryptionAtRestSettingsInvalid).detail(format!(
        "The current customer key {} cannot be reached, and these nodes do not hold their master key, so they could \
         not be moved to another one: {names}. {why}",
        current.vault.key_identifier
    ));
    for name in behind {
        error = error.param(name);
    }
    Err(error)
}

/// Whether the key still unwraps: an expired one does.
fn unwraps(state: &Outcome) -> bool {
    match state {
        Outcome::Accepted { .. } => true,
        Outcome::Refused { code, .. } => matches!(
            code,
            Code::AzureKeyVaultKeyExpired | Code::AzureKeyVaultKeyExpiring | Code::AzureKeyVaultKeyNotActive
        ),
        Outcome::Unknown { .. } => false,
    }
}

enum Written {
    Stored(Box<EncryptionAtRest>),
    /// Something came in between: what was checked is not what would be stored.
    Moved,
}

async fn store(
    app: &App,
    project: ProjectId,
    body: Value,
    before: &Loaded,
    checked: Option<Checked>,
    event: &(dyn Fn(EventType) -> NewEvent + Send + Sync),
) -> Result<Written, ApiError> {
    let now = app.now();
    let mut change = app.store().change().await?;
    let loaded = Loaded::read(&mut change, project).await?;
    let decided = plan(patch::read(body)?, loaded.situation(app.keys().vaults_have_names()))?;
    let same_ground = desired_part(&loaded.stored) == desired_part(&before.stored)
        && loaded.secret.as_ref().map(|secret| secret.expose_secret().to_owned())
            == before.secret.as_ref().map(|secret| secret.expose_secret().to_owned())
        && loaded.roles == before.roles;
    if decided.check && !(checked.is_some() && same_ground) {
        return Ok(Written::Moved);
    }
    if decided.changed.is_empty() {
        return match (checked, loaded.revision) {
            (Some(checked), Some(revision)) => {
                drop(change);
                confirm(app, loaded.stored, revision, checked, event).await
            }
            (None, _) | (_, None) => Ok(Written::Stored(Box::new(loaded.stored))),
        };
    }
    let next = next_state(&loaded.stored, &decided, checked, now);
    match loaded.revision {
        Some(revision) => _ = change.update(&next, revision).await?,
        None => change.insert(&next).await?,
    }
    match &decided.secret {
        SecretPlan::Keep => {}
        SecretPlan::Set(secret) => {
            change.put_secret(&secret_owner(project), secret.expose_secret().as_bytes()).await?;
        }
        SecretPlan::Drop => _ = change.drop_secret(&secret_owner(project)).await?,
    }
    if loaded.stored.azure_key_vault.is_none() && next.azure_key_vault.is_some() {
        add_automatic(&mut change, project, now).await?;
    }
    change.commit(tell(event, &loaded.stored, &next, &decided), now).await?;
    Ok(Written::Stored(Box::new(next)))
}

/// Notes that what is stored was tried out and works. An event, if that is news.
async fn confirm(
    app: &App,
    stored: EncryptionAtRest,
    revision: i64,
    checked: Checked,
    event: &(dyn Fn(EventType) -> NewEvent + Send + Sync),
) -> Result<Written, ApiError> {
    let outcome = Outcome::Accepted { warnings: checked.warnings };
    let (validity, news) = recheck::after(&stored.validity, &outcome, checked.at);
    let next = EncryptionAtRest { validity, ..stored };
    let written = match news {
        None => {
            async {
                let mut observation = app.store().observe().await?;
                observation.update(&next, revision).await?;
                observation.commit().await
            }
            .await
        }
        Some(kind) => {
            async {
                let mut change = app.store().change().await?;
                change.update(&next, revision).await?;
                let key = next.azure_key_vault.as_ref().map(|vault| vault.key_identifier.clone());
                change.commit(event(kind).detail("keyIdentifier", json!(key)), app.now()).await.map(drop)
            }
            .await
        }
    };
    match written {
        Ok(()) => Ok(Written::Stored(Box::new(next))),
        // The job noted the same, or someone changed it: what was checked may be gone.
        Err(error) if error.may_repeat() => Ok(Written::Moved),
        Err(error) => Err(error.into()),
    }
}

/// What a PATCH decides upon, without what checks found meanwhile.
fn desired_part(stored: &EncryptionAtRest) -> (&Option<AzureKeyVault>, bool) {
    (&stored.azure_key_vault, stored.enabled_for_search_nodes)
}

fn next_state(
    stored: &EncryptionAtRest,
    decided: &Plan,
    checked: Option<Checked>,
    now: Timestamp,
) -> EncryptionAtRest {
    let mut next = stored.clone();
    next.azure_key_vault = decided.vault.clone();
    next.enabled_for_search_nodes = decided.search_nodes;
    if let Some(checked) = checked {
        next.validity = Validity {
            valid: true,
            checked_at: Some(checked.at),
            warnings: checked.warnings,
            ..Validity::default()
        };
    }
    let was = stored.azure_key_vault.as_ref().map(|vault| &vault.key_identifier);
    let is = next.azure_key_vault.as_ref().map(|vault| &vault.key_identifier);
    if was != is {
        if let Some(former) = was {
            let from = stored.key_changed_at.unwrap_or(now).min(now);
            next.former_keys.push(FormerKey { key_identifier: former.clone(), from, until: now });
        }
        next.key_changed_at = is.map(|_| now);
    }
    if next.azure_key_vault.is_none() {
        next.validity = Validity::default();
    }
    if matches!(decided.secret, SecretPlan::Set(_) | SecretPlan::Drop) {
        // The new one's end is not known until someone says it.
        next.client_secret_expires = None;
    }
    next
}

fn tell(
    event: &(dyn Fn(EventType) -> NewEvent + Send + Sync),
    before: &EncryptionAtRest,
    after: &EncryptionAtRest,
    decided: &Plan,
) -> NewEvent {
    let kind = if decided.key_replaced { EventType::AzureKeyRotated } else { EventType::EncryptionUpdated };
    let mut told = event(kind).detail("changed", json!(decided.changed));
    let key =
        |stored: &EncryptionAtRest| stored.azure_key_vault.as_ref().map(|vault| vault.key_identifier.clone());
    if let Some(key) = key(after) {
        told = told.detail("keyIdentifier", key);
    }
    if key(before) != key(after)
        && let Some(former) = key(before)
    {
        told = told.detail("formerKeyIdentifier", former);
    }
    if !after.validity.warnings.is_empty() {
        told = told.detail("warnings", json!(after.validity.warnings));
    }
    told
}
