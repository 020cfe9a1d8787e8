//! Why the node could not do what was asked.

use keyward_keys::{SecretError, keystore::KeystoreError};
use keyward_kms::{Finding, KmsError, azure::ConfigError};
use keyward_model::{Class, KeyIdentifierError, NodeState, Weight};

use crate::{engine::EngineError, keyring::KeyringError, memory::MemoryError};

/// Why the node could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The vault.
    #[error("the customer key did not answer")]
    Kms(#[from] KmsError),
    /// The keys in memory, or the keystore.
    #[error("the keystore step failed")]
    Keyring(#[from] KeyringError),
    /// The content of a keystore.
    #[error("the keystore could not be used")]
    Keystore(#[from] KeystoreError),
    /// A key could not be made.
    #[error("no key could be made")]
    Secret(#[from] SecretError),
    /// `state_dir`.
    #[error("the agent's memory of this node could not be used")]
    Memory(#[from] MemoryError),
    /// The database process.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// A keystore names something that is no customer key.
    #[error("the keystore names a customer key that is none")]
    KeyIdentifier(#[from] KeyIdentifierError),
    /// This customer key will not do.
    #[error("the customer key {key_identifier} cannot be used: {}", texts(findings))]
    KeyRefused {
        /// Which.
        key_identifier: String,
        /// At least one that refuses.
        findings: Vec<Finding>,
    },
    /// The customer key is not the one that the keystore says.
    #[error("{key_identifier} unwrapped something that is not this node's master key")]
    WrongAnswer {
        /// Which.
        key_identifier: String,
    },
    /// Another operation on the keys runs.
    #[error("another operation runs: {0}")]
    Busy(String),
    /// The node is not in a state for it.
    #[error("the node is {state}: {reason}")]
    State {
        /// Where it is.
        state: NodeState,
        /// Why.
        reason: String,
        /// What the verdict rests on, when a customer key is the reason.
        class: Option<Class>,
    },
    /// Somebody wants it running.
    #[error("the node was asked to start before its stop had ended")]
    Overtaken,
    /// There is no keystore yet.
    #[error("this node has no keystore yet")]
    NoKeystore,
    /// How the customer key is to be reached.
    #[error("the settings of the customer key cannot be used")]
    Settings(#[from] ConfigError),
    /// The customer key answers by the way in use, and not by a new one.
    #[error("the new way to the customer key does not work: {} ({host}: {message})", class.text())]
    NewWayRefused {
        /// What was seen.
        class: Class,
        /// Who was asked.
        host: String,
        /// What it said.
        message: String,
    },
    /// Nobody has named a customer key.
    #[error("no customer key has been named for this node")]
    NoCustomerKey,
    /// The server decides it.
    #[error("{what} is decided by the server {server}")]
    ManagedByServer {
        /// What was asked for.
        what: &'static str,
        /// Which server.
        server: String,
        /// How to ask it.
        hint: &'static str,
    },
    /// What is on the data path is not encrypted.
    #[error("the data in {} is not encrypted: its operator starts and stops it, keyward does not", .0.display())]
    Unencrypted(std::path::PathBuf),
    /// The member is not filled again yet.
    #[error("the member cannot be filled again, encrypted")]
    Resync(#[from] crate::resync::ResyncError),
    /// The node's link to its server.
    #[error("the link to the server could not be used")]
    Link(#[from] crate::link::LinkError),
    /// The agent is ending.
    #[error("the agent is shutting down")]
    ShuttingDown,
    /// A task of the agent died.
    #[error("a task of the agent ended without an answer")]
    TaskDied,
}

impl NodeError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Kms(error) => error.hint().to_owned(),
            Self::Keyring(error) => error.hint(),
            Self::Keystore(error) => error.hint().to_owned(),
            Self::Secret(error) => error.hint().to_owned(),
            Self::Memory(error) => error.hint().to_owned(),
            Self::Engine(error) => error.hint().to_owned(),
            Self::KeyIdentifier(_) => "put back the keystore from an export or a snapshot".to_owned(),
            Self::KeyRefused { findings, .. } => {
                let hints: Vec<&str> = refusing(findings).map(|finding| finding.hint.as_str()).collect();
                hints.join("; ")
            }
            Self::WrongAnswer { .. } => Class::BadCiphertext.hint().to_owned(),
            Self::Busy(_) => "wait until it has ended, then repeat".to_owned(),
            Self::State { class: Some(class), .. } => class.hint().to_owned(),
            Self::State { state: NodeState::Stopped, .. } => "keyward node start".to_owned(),
            Self::State { .. } => "see `keyward node status`; mend that, then keyward node start".to_owned(),
            Self::Overtaken => {
                "find out who starts it, another operator or its server, and repeat".to_owned()
            }
            Self::NoKeystore => "start the node once, or restore a snapshot".to_owned(),
            Self::Settings(error) => error.hint().to_owned(),
            Self::NewWayRefused { class, .. } => class.hint().to_owned(),
            Self::NoCustomerKey => {
                "add the node to a cluster of its project; the server names the key".to_owned()
            }
            Self::ManagedByServer { hint, .. } => (*hint).to_owned(),
            Self::Unencrypted(_) => {
                "encrypt it: docs/guides/encrypt-an-existing-replica-set.md; until then use the unit \
                                     that starts it"
                    .to_owned()
            }
            Self::Resync(error) => error.hint(),
            Self::Link(error) => error.hint(),
            Self::ShuttingDown => "start the agent again and repeat".to_owned(),
            Self::TaskDied => "see the agent's log".to_owned(),
        }
    }

    /// `UPPER_SNAKE`, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kms(error) => match error.class.weight() {
                Weight::Strong | Weight::Denial => "CUSTOMER_KEY_REFUSED",
                Weight::Neutral | Weight::Success => "CUSTOMER_KEY_UNAVAILABLE",
            },
            Self::Keyring(KeyringError::NotHeld) => "MASTER_KEY_NOT_HELD",
            Self::Keyring(_) | Self::Keystore(_) | Self::KeyIdentifier(_) => "KEYSTORE",
            Self::Secret(_) => "NO_MEMORY_FOR_KEYS",
            Self::Memory(_) => "STATE_DIR",
            Self::Engine(_) => "ENGINE",
            Self::KeyRefused { .. } => "CUSTOMER_KEY_UNSUITABLE",
            Self::WrongAnswer { .. } => "CUSTOMER_KEY_WRONG_ANSWER",
            Self::Busy(_) => "BUSY",
            Self::State { state, .. } => match state {
                NodeState::StoppedRevoked => "CUSTOMER_KEY_REVOKED",
                NodeState::WaitingForCustomerKey => "CUSTOMER_KEY_UNAVAILABLE",
                NodeState::Starting | NodeState::Running | NodeState::Stopped | NodeState::Failed => {
                    "NODE_STATE"
                }
            },
            Self::Overtaken => "NODE_STATE",
            Self::NoKeystore => "NO_KEYSTORE",
            Self::Settings(_) => "CUSTOMER_KEY_SETTINGS",
            Self::NewWayRefused { .. } => "CUSTOMER_KEY_UNSUITABLE",
            Self::NoCustomerKey => "NO_CUSTOMER_KEY",
            Self::ManagedByServer { .. } => "MANAGED_BY_SERVER",
            Self::Unencrypted(_) => "NOT_ENCRYPTED",
            Self::Resync(_) => "RESYNC",
            Self::Link(_) => "LINK",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::TaskDied => "INTERNAL",
        }
    }

    /// The command line's exit code: 3 refused because the customer key is revoked, 4 it is unavailable, 1 any
    /// other failure.
    pub fn exit(&self) -> u8 {
        let class = match self {
            Self::Kms(error) => Some(error.class),
            Self::KeyRefused { findings, .. } => refusing(findings).find_map(|finding| finding.class),
            Self::State { state: NodeState::StoppedRevoked, .. } => return 3,
            Self::State { state: NodeState::WaitingForCustomerKey, .. } => return 4,
            Self::State { class, .. } => *class,
            Self::Keyring(KeyringError::NotHeld) => return 4,
            Self::Keyring(_)
            | Self::Keystore(_)
            | Self::Secret(_)
            | Self::Memory(_)
            | Self::Engine(_)
            | Self::KeyIdentifier(_)
            | Self::WrongAnswer { .. }
            | Self::Busy(_)
            | Self::Overtaken
            | Self::NoKeystore
            | Self::Settings(_)
            | Self::NewWayRefused { .. }
            | Self::NoCustomerKey
            | Self::ManagedByServer { .. }
            | Self::Unencrypted(_)
            | Self::Resync(_)
            | Self::Link(_)
            | Self::ShuttingDown
            | Self::TaskDied => None,
        };
        match class.map(|class| (class, class.weight())) {
            Some((_, Weight::Strong | Weight::Denial)) => 3,
            Some((Class::BadCiphertext | Class::KeyNotCurrent | Class::Misconfigured, _)) => 1,
            Some((_, Weight::Neutral)) => 4,
            Some((_, Weight::Success)) | None => 1,
        }
    }
}

/// The findings that refuse.
pub(crate) fn refusing(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.severity == keyward_kms::Severity::Refuse)
}

fn texts(findings: &[Finding]) -> String {
    let texts: Vec<&str> = refusing(findings).map(|finding| finding.text.as_str()).collect();
    texts.join("; ")
}

/// An error and everything beneath it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
