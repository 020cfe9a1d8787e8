//! Replacing the agents' authority, and what each server does when it was replaced.
//!
//! Each step is one change of the store. Nodes learn of a new authority over the connection that they trust already,
//! when they renew; the server asks them to in its answer to their next call. A node that was away for the whole
//! overlap finds back by itself until the former authority is let go, and by a new join token afterwards.

use std::{sync::Arc, time::Duration};

use keyward_model::{
    Timestamp,
    authority::{Holders, LIFE_MS, replacement_due},
    count::counted,
    event::{Actor, EventType, NewEvent},
    id::{NodeId, ProjectId},
    node::{EnrolledNode, JoinToken},
    organization::Organization,
    project::Project,
};
use keyward_store::{Change, Lease, Store, StoreError, Stored, Tx};
use rustls::ServerConfig;
use serde::Serialize;
use tokio::sync::watch;

use super::{LinkError, authority::Authority};
use crate::{App, jobs};

/// How often a server looks whether another one, or an operator's command, has replaced the authority.
const FOLLOW: Duration = Duration::from_secs(2);
/// A refusal names this many nodes.
const NAMED: usize = 10;

/// The authority as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// SHA-256 of its certificate, hexadecimal: what join tokens name.
    pub sha256: String,
    /// When it was made, as far as that is known.
    pub made_at: Option<Timestamp>,
    /// When the server replaces it by itself.
    pub replaced_from: Option<Timestamp>,
    /// The one before it, while both are trusted.
    pub former: Option<FormerStatus>,
}

/// The authority before the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FormerStatus {
    /// SHA-256 of its certificate, hexadecimal.
    pub sha256: String,
    /// When it was replaced.
    pub replaced_at: Timestamp,
    /// Nodes that would not find back without it.
    pub nodes: Vec<Holder>,
    /// Join tokens that name it and have not expired.
    pub join_tokens: usize,
}

impl FormerStatus {
    /// Whether somebody would not find back without it.
    pub fn is_needed(&self) -> bool {
        !self.nodes.is_empty() || self.join_tokens > 0
    }
}

/// A node that has not shown a certificate of the present authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its project.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: Option<String>,
    /// When it was heard of last.
    pub heard_at: Option<Timestamp>,
}

/// Why the authority is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store or the server key.
    #[error("the store could not be used")]
    Store(#[from] StoreError),
    /// The authority itself.
    #[error("the authority could not be used")]
    Link(#[from] LinkError),
    /// The one before it is still needed.
    #[error("the authority before this one is still needed by {}", needed_by(.0))]
    Overlap(Box<FormerStatus>),
    /// There is none before it.
    #[error("there is no former authority")]
    NoFormer,
}

impl AuthorityError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Store(error) => error.hint(),
            Self::Link(_) => "check the store and the server key",
            Self::Overlap(_) => {
                "start the agents of these nodes, or revoke the nodes; or retire it with --force: they then join \
                 again, each by a new token"
            }
            Self::NoFormer => "nothing has to be done",
        }
    }
}

/// `the nodes a, b and 3 more, and 2 join tokens`.
fn needed_by(former: &FormerStatus) -> String {
    let named: Vec<&str> = former.nodes.iter().take(NAMED).map(|node| node.name.as_str()).collect();
    let more = former.nodes.len().saturating_sub(NAMED);
    let nodes = match (former.nodes.len(), more) {
        (0, _) => None,
        (1, _) => Some(format!("the node {}", named.join(", "))),
        (_, 0) => Some(format!("the nodes {}", named.join(", "))),
        (_, more) => Some(format!("the nodes {} and {more} more", named.join(", "))),
    };
    let tokens = (former.join_tokens > 0).then(|| counted(former.join_tokens, "join token", "join tokens"));
    nodes.into_iter().chain(tokens).collect::<Vec<_>>().join(", and ")
}

/// How the authority stands, and who still needs the one before it.
pub async fn authority_status(store: &Store, now: Timestamp) -> Result<AuthorityStatus, AuthorityError> {
    let mut tx = store.read().await?;
    let authority = Authority::open(&mut tx).await?;
    status(&mut tx, &authority, now).await
}

/// Puts a new authority in the place of the present one; both are trusted from then on.
pub async fn replace_authority(
    store: &Store,
    actor: Actor,
    now: Timestamp,
) -> Result<AuthorityStatus, AuthorityError> {
    let mut change = store.change().await?;
    let (authority, event) = replace(&mut change, actor, now).await?;
    let status = status(&mut change, &authority, now).await?;
    change.commit(event, now).await?;
    Ok(status)
}

/// Trusts the former authority no more; gives who still needed it. Only with `force` where somebody does.
pub async fn retire_authority(
    store: &Store,
    force: bool,
    actor: Actor,
    now: Timestamp,
) -> Result<FormerStatus, AuthorityError> {
    let mut change = store.change().await?;
    let (former, event) = retire(&mut change, force, actor, now).await?;
    change.commit(event, now).await?;
    Ok(former)
}

/// What [`look_after`] did, and who still needs the former authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) replaced: bool,
    pub(crate) retired: bool,
    pub(crate) nodes: usize,
    pub(crate) join_tokens: usize,
}

/// Replaces an authority that has grown old, and lets a former one go that nobody needs.
pub(crate) async fn look_after(
    store: &Store,
    lease: &Lease,
    now: Timestamp,
) -> Result<Looked, AuthorityError> {
    let mut tx = store.read().await?;
    let authority = Authority::open(&mut tx).await?;
    let former = status(&mut tx, &authority, now).await?.former;
    drop(tx);
    let actor = || Actor::Job { name: jobs::AUTHORITY.to_owned() };
    match former {
        None if replacement_due(now, authority.made_at()) => {
            let mut change = store.change().await?;
            change.require_lease(lease).await?;
            let (_, event) = replace(&mut change, actor(), now).await?;
            change.commit(event, now).await?;
            Ok(Looked { replaced: true, ..Looked::default() })
        }
        None => Ok(Looked::default()),
        Some(former) if !former.is_needed() => {
            let mut change = store.change().await?;
            change.require_lease(lease).await?;
            // Asked once more: a node may have joined by an older token meanwhile.
            let (_, event) = retire(&mut change, false, actor(), now).await?;
            change.commit(event, now).await?;
            Ok(Looked { retired: true, ..Looked::default() })
        }
        Some(former) => {
            Ok(Looked { nodes: former.nodes.len(), join_tokens: former.join_tokens, ..Looked::default() })
        }
    }
}

async fn replace(
    change: &mut Change,
    actor: Actor,
    now: Timestamp,
) -> Result<(Authority, NewEvent), AuthorityError> {
    let before = Authority::open(change).await?;
    // No more than two at a time: a node that knows only the one before the former could not find back.
    if let Some(former) = status(change, &before, now).await?.former
        && former.is_needed()
    {
        return Err(AuthorityError::Overlap(Box::new(former)));
    }
    let authority = Authority::replace(change, now).await?;
    let event = of_the_server(change, EventType::AgentAuthorityReplaced, actor)
        .await?
        .detail("sha256", authority.sha256())
        .detail("formerSha256", before.sha256());
    Ok((authority, event))
}

async fn retire(
    change: &mut Change,
    force: bool,
    actor: Actor,
    now: Timestamp,
) -> Result<(FormerStatus, NewEvent), AuthorityError> {
    let authority = Authority::open(change).await?;
    let former = status(change, &authority, now).await?.former.ok_or(AuthorityError::NoFormer)?;
    if !force && former.is_needed() {
        return Err(AuthorityError::Overlap(Box::new(former)));
    }
    Authority::let_former_go(change).await?;
    let left: Vec<String> = former.nodes.iter().map(|node| node.id.to_string()).collect();
    let event = of_the_server(change, EventType::AgentAuthorityRetired, actor)
        .await?
        .detail("formerSha256", former.sha256.clone())
        .detail("force", force)
        .detail("nodesLeft", left);
    Ok((former, event))
}

/// An event of the server as a whole: it stands where the server's own setup does, with the first organization.
async fn of_the_server(tx: &mut Tx, event_type: EventType, actor: Actor) -> Result<NewEvent, StoreError> {
    let orgs = tx.list_all::<Organization>().await?;
    let mut event = NewEvent::new(event_type, actor);
    event.org = orgs.iter().min_by_key(|org| org.created).map(|org| org.id);
    Ok(event)
}

async fn status(
    tx: &mut Tx,
    authority: &Authority,
    now: Timestamp,
) -> Result<AuthorityStatus, AuthorityError> {
    let former = match authority.former() {
        None => None,
        Some(former) => {
            let nodes = tx.list_all::<EnrolledNode>().await?;
            let tokens = tx.list_all::<JoinToken>().await?;
            let holders = Holders::of(
                nodes.iter().map(|node| &node.document),
                tokens.iter().map(|token| &token.document),
                authority.sha256(),
                former.replaced_at,
                now,
            );
            let nodes = named(tx, &holders).await?;
            Some(FormerStatus {
                sha256: former.sha256().to_owned(),
                replaced_at: former.replaced_at,
                nodes,
                join_tokens: holders.join_tokens,
            })
        }
    };
    let replaced_from =
        authority.made_at().map(|made| Timestamp::from_epoch_ms(made.epoch_ms().saturating_add(LIFE_MS)));
    Ok(AuthorityStatus {
        sha256: authority.sha256().to_owned(),
        made_at: authority.made_at(),
        replaced_from,
        former,
    })
}

async fn named(tx: &mut Tx, holders: &Holders<'_>) -> Result<Vec<Holder>, StoreError> {
    if holders.nodes.is_empty() {
        return Ok(Vec::new());
    }
    let heard = tx.heard().await?;
    let projects: Vec<Stored<Project>> = tx.list_all().await?;
    let project_name =
        |id| projects.iter().find(|project| project.id == id).map(|project| project.name.clone());
    let holder = |node: &&EnrolledNode| Holder {
        id: node.node_id,
        name: node.name.clone(),
        project: node.project,
        project_name: project_name(node.project),
        heard_at: heard.get(&node.node_id).copied(),
    };
    Ok(holders.nodes.iter().map(holder).collect())
}

/// TLS of the agents' listener under an authority.
pub(super) fn tls(app: &App, authority: &Authority) -> Result<Arc<ServerConfig>, LinkError> {
    let config = app.config();
    Ok(Arc::new(authority.server_config(config.agent_listen.ip(), config.agent_url.as_ref())?))
}

/// Takes over what was replaced or let go, by whomever, until the server stops.
pub(super) async fn follow(
    app: App,
    authority: watch::Sender<Arc<Authority>>,
    listener: watch::Sender<Arc<ServerConfig>>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            () = app.stop().cancelled() => return,
        }
        let known = Arc::clone(&authority.borrow());
        let looked = async {
            let there = Authority::open(&mut app.store().read().await?).await?;
            if there.same(&known) {
                return Ok(None);
            }
            let tls = tls(&app, &there)?;
            Ok::<_, LinkError>(Some((there, tls)))
        };
        match looked.await {
            Ok(None) => {}
            Ok(Some((there, tls))) => {
                let both = there.former().is_some();
                tracing::info!(sha256 = there.sha256(), both, "the authority of agents is another one");
                listener.send_replace(tls);
                authority.send_replace(Arc::new(there));
            }
            Err(error) => {
                tracing::warn!(%error, "it could not be seen whether the agents' authority is the same")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_needs_the_former_authority() {
        let former = |names: &[&str], join_tokens| FormerStatus {
            sha256: "ab".into(),
            replaced_at: Timestamp::from_epoch_ms(0),
            nodes: names
                .iter()
                .map(|name| Holder {
                    id: NodeId(uuid::Uuid::nil()),
                    name: (*name).to_owned(),
                    project: ProjectId::from_bytes([1; 12]),
                    project_name: None,
                    heard_at: None,
                })
                .collect(),
            join_tokens,
        };
        assert_eq!(needed_by(&former(&["a"], 0)), "the node a");
        assert_eq!(needed_by(&former(&["a", "b"], 1)), "the nodes a, b, and 1 join token");
        assert_eq!(needed_by(&former(&[], 2)), "2 join tokens");
        let many: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = needed_by(&former(&many, 0));
        assert!(text.ends_with("n9 and 2 more") && !text.contains("n10"), "{text}");
    }
}
