//! The node's link to a server: what it knows of it, and what it does on its word.
//!
//! Owns STATE_DIR/server. Decisions are `keyward_model::approval`'s; [`apply`] carries them out, [`sync`] talks to
//! the server. A node works on for any time without its server: nothing here stops a database because nobody
//! answers, and nothing here touches data.

mod apply;
mod backoff;
mod client;
mod files;
mod join;
mod leave;
mod observe;
mod sync;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyward_kms::azure::{AzureConfig, Cloud, Credential};
use keyward_model::{
    Timestamp,
    approval::{self, Approval, Pins},
    encryption::AzureEnvironment,
    node::JoinTextError,
    status::LinkStatus,
    sync::{AgentRefusalCode, DesiredCredential, DesiredEncryption, HeldBack, Validated},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use client::CallError;
pub use join::JoinedServer;
pub use leave::LeftServer;

use crate::{
    config::{Config, Initial},
    memory::MemoryError,
    node::{KeyAccess, NextKey, NodeError, NodeHandle, Parts},
};
pub(crate) use files::FOLDER;
use files::{Accepted, Applied, Joined, LinkFiles};

/// The approval of a keystore that the agent's memory does not know.
const KEYSTORE: &str = "keystore";

/// Why the link could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// STATE_DIR/server.
    #[error("what the node keeps of its server could not be used")]
    Memory(#[from] MemoryError),
    /// The text given as a token.
    #[error(transparent)]
    Token(#[from] JoinTextError),
    /// No key or certificate request could be made.
    #[error("no key for the link could be made")]
    Key(#[from] rcgen::Error),
    /// The server.
    #[error("the server did not do it")]
    Call(#[from] CallError),
    /// Its answer does not fit the token.
    #[error("the server's answer does not carry the authority that the token names")]
    OtherAuthority,
    /// There is nothing to leave.
    #[error("this node has joined no server")]
    NotJoined,
    /// A member of a cluster leaves only when that is said.
    #[error("this node is a member of the cluster {0}")]
    Member(String),
    /// The server was not told, or does not know the node as this one.
    #[error("the server could not be told that this node leaves")]
    NotTold(#[source] CallError),
    /// Something is being done on the server's word.
    #[error("this node is doing what its server asked: {0}")]
    AtWork(String),
    /// Nothing of that name waits for approval.
    #[error("nothing waits for the approval `{0}`")]
    NothingToApprove(String),
}

impl LinkError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Memory(error) => error.hint().to_owned(),
            Self::Token(_) => "copy the whole line that the server printed for the join token".to_owned(),
            Self::Key(_) => "see the agent's log".to_owned(),
            Self::Call(error) => error.hint(),
            Self::OtherAuthority => "make a new token on the server you mean to join".to_owned(),
            Self::NotJoined => "see keyward node status".to_owned(),
            Self::Member(_) => keyward_model::sync::LEAVE_MEMBER_HINT.to_owned(),
            Self::NotTold(CallError::Refused { refusal, .. })
                if refusal.code == AgentRefusalCode::NodeInCluster =>
            {
                refusal.hint.clone()
            }
            Self::NotTold(_) => {
                "try again when it answers, or leave with --force and revoke the node there: keyward \
                                 project node revoke"
                    .to_owned()
            }
            Self::AtWork(_) => "wait until that is done, and repeat".to_owned(),
            Self::NothingToApprove(_) => {
                "run keyward node approve again and look at what it shows".to_owned()
            }
        }
    }
}

/// The link, shared by the admin socket and the tasks behind it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    node: NodeHandle,
    files: LinkFiles,
    state: Mutex<State>,
    /// Held by a pass, and by whoever takes the node away from its server.
    turn: tokio::sync::Mutex<()>,
    /// Held while what is kept of the server is written, so that nothing of it comes back once it was left.
    keeping: Mutex<()>,
    /// Something to carry out may be new.
    apply: Notify,
    /// The server, or what there is to tell it, may be new.
    talk: Notify,
}

#[derive(Default)]
struct State {
    joined: Option<Joined>,
    accepted: Option<Accepted>,
    /// A desired state that is older than the accepted one, and why it is held back.
    older: Option<(Accepted, HeldBack)>,
    applied: Applied,
    /// What this host approved, without what its file says.
    approved: BTreeSet<Approval>,
    /// What the last pass left undone.
    held_back: Vec<HeldBack>,
    validated: Vec<Validated>,
    progress: Option<String>,
    last_contact: Option<Timestamp>,
    problem: Option<String>,
    /// The settings for which the node was last asked to try again.
    tried: Option<DesiredEncryption>,
}

impl Link {
    /// Reads what the node knows of its server.
    pub fn open(node: NodeHandle) -> Result<Self, NodeError> {
        let files = LinkFiles::open(&node.config().state_dir, node.disk()).map_err(LinkError::from)?;
        let state = State {
            joined: files.joined().map_err(LinkError::from)?,
            accepted: files.accepted().map_err(LinkError::from)?,
            applied: files.applied().map_err(LinkError::from)?,
            approved: files.approvals().map_err(LinkError::from)?,
            ..State::default()
        };
        let inner = Inner {
            node,
            files,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            keeping: Mutex::default(),
            apply: Notify::new(),
            talk: Notify::new(),
        };
        let link = Self(Arc::new(inner));
        link.publish();
        Ok(link)
    }

    /// Talks to the server and does what it may, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::join!(apply::run(self.clone(), shutdown.clone()), sync::run(self, shutdown));
    }

    /// What waits for `keyward node approve`: the server's wishes, and a keystore that is not known here.
    pub async fn waiting(&self) -> Vec<HeldBack> {
        let mut waiting: Vec<HeldBack> = {
            let state = self.state();
            let older = state.older.iter().map(|(_, held)| held);
            older.chain(&state.held_back).filter(|held| held.needs_approval).cloned().collect()
        };
        if let Some(reason) = self.0.node.unapproved().await {
            waiting.push(HeldBack {
                revision: 0,
                needs_approval: true,
                approval: Some(KEYSTORE.to_owned()),
                what: "starting from the keystore on disk".to_owned(),
                reason,
                hint: "if only state_dir was lost: keyward node approve".to_owned(),
            });
        }
        waiting
    }

    /// Approves what waits: all of it, or only what `which` names. Durable when it returns.
    pub async fn approve(&self, which: Option<&[String]>) -> Result<(), NodeError> {
        let waiting = self.waiting().await;
        let names: Vec<&String> = waiting.iter().filter_map(|held| held.approval.as_ref()).collect();
        if let Some(unknown) = which.unwrap_or_default().iter().find(|name| !names.contains(name)) {
            return Err(LinkError::NothingToApprove(unknown.clone()).into());
        }
        let meant = |name: &&String| which.is_none_or(|which| which.contains(name));
        let mut approved = self.state().approved.clone();
        let mut keystore = which.is_none();
        for name in names.into_iter().filter(meant) {
            match name.parse::<Approval>() {
                Ok(approval) => {
                    tracing::info!(%approval, "approved on this host");
                    approved.insert(approval);
                }
                Err(_) => keystore = true,
            }
        }
        if keystore {
            self.0.node.approve().await?;
        }
        self.0.files.set_approvals(&approved).map_err(LinkError::from)?;
        self.state().approved = approved;
        let older = self.state().older.clone();
        if let Some((older, _)) = older {
            self.take(older)?;
        }
        self.0.apply.notify_one();
        Ok(())
    }

    /// Refuses what the server decides for this node.
    pub fn refuse_if_managed(&self, what: &'static str, hint: &'static str) -> Result<(), NodeError> {
        let state = self.state();
        let in_a_cluster = state.accepted.as_ref().is_some_and(|accepted| accepted.desired.cluster.is_some());
        match &state.joined {
            Some(joined) if in_a_cluster => {
                let server = joined.url.origin().ascii_serialization();
                Err(NodeError::ManagedByServer { what, server, hint })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What `keyward node approve` let through once is not let through again. A line in the node's file stays.
    fn use_up(&self, approval: &Approval) -> Result<(), NodeError> {
        let mut approved = self.state().approved.clone();
        if approved.remove(approval) {
            self.0.files.set_approvals(&approved).map_err(LinkError::from)?;
            self.state().approved = approved;
        }
        Ok(())
    }

    /// Everything that was approved: here, and in the node's file.
    fn approvals(&self) -> BTreeSet<Approval> {
        let approved = self.state().approved.clone();
        approved.union(&self.0.node.config().server.approve).cloned().collect()
    }

    /// Takes in a desired state that arrived. Durable before anything is done about it.
    fn take(&self, new: Accepted) -> Result<(), NodeError> {
        let _keeping = self.keep();
        if self.state().joined.is_none() {
            return Ok(());
        }
        let last = self.state().accepted.as_ref().map(|accepted| accepted.seen.clone());
        match approval::accept(&new.seen, last.as_ref(), &self.approvals()) {
            // The server has the newest again, if it ever had lost it.
            approval::Acceptance::Known => self.state().older = None,
            approval::Acceptance::Accept => {
                self.0.files.set_accepted(&new).map_err(LinkError::from)?;
                tracing::info!(revision = new.seen.revision, "accepted a desired state");
                let mut state = self.state();
                state.accepted = Some(new);
                state.older = None;
            }
            approval::Acceptance::HeldBack(held) => {
                tracing::warn!("{}: {} ({})", held.what, held.reason, held.hint);
                self.state().older = Some((new, *held));
            }
        }
        self.publish();
        self.0.apply.notify_one();
        Ok(())
    }

    /// What is held back and being done, without a server as well.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> LinkStatus {
        let state = self.state();
        LinkStatus {
            server: String::new(),
            last_contact: None,
            problem: None,
            accepted_revision: state.accepted.as_ref().map_or(0, |accepted| accepted.seen.revision),
            done_revision: state.done_revision(),
            progress: state.progress.clone(),
            held_back: state.all_held_back(),
        }
    }

    /// Shows in status how the link stands.
    fn publish(&self) {
        let state = self.state();
        let Some(joined) = &state.joined else { return };
        let accepted_revision = state.accepted.as_ref().map_or(0, |accepted| accepted.seen.revision);
        let status = LinkStatus {
            server: joined.url.origin().ascii_serialization(),
            last_contact: state.last_contact,
            problem: state.problem.clone(),
            accepted_revision,
            done_revision: state.done_revision(),
            progress: state.progress.clone(),
            held_back: state.all_held_back(),
        };
        drop(state);
        let waiting = status.held_back.iter().filter(|held| held.needs_approval);
        let waiting: Vec<&str> = waiting.map(|held| held.what.as_str()).collect();
        let note = format!("the server wants what needs this host's approval: {}", waiting.join("; "));
        self.0.node.set_note("approval", (!waiting.is_empty()).then_some(note));
        self.0.node.set_link(Some(status));
    }

    fn keep(&self) -> MutexGuard<'_, ()> {
        self.0.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn done_revision(&self) -> u64 {
        let done = self.accepted.as_ref().filter(|accepted| accepted.done);
        done.map_or(0, |accepted| accepted.seen.revision)
    }

    fn all_held_back(&self) -> Vec<HeldBack> {
        self.older.iter().map(|(_, held)| held).chain(&self.held_back).cloned().collect()
    }
}

/// How the customer key is reached when the agent starts: as the server said last, or as the node's file says.
pub(crate) fn access_at_start(config: &Config, parts: &Parts) -> Result<KeyAccess, NodeError> {
    let of_file = KeyAccess::of_file(config, &parts.make_service)?;
    let files = LinkFiles::open(&config.state_dir, Arc::clone(&parts.disk)).map_err(LinkError::from)?;
    let applied = files.applied().map_err(LinkError::from)?.encryption;
    let reach = |encryption: &DesiredEncryption| {
        Ok::<_, NodeError>((parts.make_service)(&azure_config(config, &files, encryption)?)?)
    };
    let mut access = match &applied {
        Some(encryption) => KeyAccess {
            service: reach(encryption)?,
            key: Some(encryption.key_identifier.clone()),
            policy: encryption.policy,
            client_secret_expires: encryption.client_secret_expires,
            next: None,
        },
        None => of_file,
    };
    let accepted = files.accepted().map_err(LinkError::from)?;
    let mut approvals = files.approvals().map_err(LinkError::from)?;
    approvals.extend(config.server.approve.iter().cloned());
    // A move that was cut off: the keystore may be under the new key already.
    if let Some(wanted) = accepted.and_then(|accepted| accepted.desired.encryption)
        && applied.as_ref() != Some(&wanted)
        && approval::allows(&wanted, &approvals, &pins(config))
    {
        match reach(&wanted) {
            Ok(service) => access.next = Some(NextKey { key: wanted.key_identifier, service }),
            Err(error) => tracing::warn!("{}", crate::node::chain(&error)),
        }
    }
    Ok(access)
}

/// What the node's file allows a server.
fn pins(config: &Config) -> Pins {
    let environment = match &config.customer_key.azure.cloud {
        Cloud::Azure | Cloud::Custom(_) => AzureEnvironment::Azure,
        Cloud::AzureChina => AzureEnvironment::AzureChina,
        Cloud::AzureUsGovernment => AzureEnvironment::AzureUsGovernment,
    };
    Pins {
        tenant_id: config.customer_key.azure.tenant_id.clone(),
        environment,
        keys: config.server.keys.clone(),
    }
}

/// The configuration by which the server's customer key is reached from this host.
fn azure_config(
    config: &Config,
    files: &LinkFiles,
    encryption: &DesiredEncryption,
) -> Result<AzureConfig, LinkError> {
    let own = &config.customer_key.azure;
    let credential = match &encryption.credential {
        DesiredCredential::ClientSecret { secret } => {
            Credential::ClientSecretFile(files.keep_secret(secret)?)
        }
        DesiredCredential::OfTheHost => own.credential.clone(),
    };
    // The file's own endpoints (a development vault) stand for the Azure it names.
    let cloud = match encryption.azure_environment {
        same if same == pins(config).environment => own.cloud.clone(),
        AzureEnvironment::Azure => Cloud::Azure,
        AzureEnvironment::AzureChina => Cloud::AzureChina,
        AzureEnvironment::AzureUsGovernment => Cloud::AzureUsGovernment,
    };
    let arm = encryption.subscription_id.clone().zip(encryption.resource_group_name.clone());
    let (subscription_id, resource_group) = arm.unzip();
    Ok(AzureConfig {
        tenant_id: encryption.tenant_id.clone(),
        client_id: encryption.client_id.clone(),
        credential,
        cloud,
        subscription_id,
        resource_group,
        require_private_networking: encryption.require_private_networking || own.require_private_networking,
        ..own.clone()
    })
}

/// Whether the node makes its keystore only when the server places it.
fn waits_for_server(config: &Config) -> bool {
    config.initial == Initial::Server
}

#[cfg(test)]
mod leave_crash;
