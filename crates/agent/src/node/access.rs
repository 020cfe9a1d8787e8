//! How the customer key is reached: what a server may change while the node runs.

use std::sync::Arc;

use async_trait::async_trait;
use keyward_kms::{
    About, Facts, Finding, KeyDescription, KeyService, KmsError, Operation, Severity,
    azure::{AzureConfig, ConfigError},
};
use keyward_model::{Class, Evidence, KeyIdentifier, RevocationPolicy, Timestamp};
use zeroize::Zeroizing;

use crate::config::Config;

/// Makes the service that reaches customer keys as a configuration says.
pub type MakeService = Arc<dyn Fn(&AzureConfig) -> Result<Arc<dyn KeyService>, ConfigError> + Send + Sync>;

/// How the customer key is reached now.
#[derive(Debug, Clone)]
pub struct KeyAccess {
    /// What the keystore's customer key is asked through.
    pub service: Arc<dyn KeyService>,
    /// The customer key that a new keystore is made under; `None`: nobody has named one.
    pub key: Option<KeyIdentifier>,
    /// When refusals become a revocation.
    pub policy: RevocationPolicy,
    /// When the client secret expires, as far as it is known.
    pub client_secret_expires: Option<Timestamp>,
    /// Where the node is to move, until it has.
    pub next: Option<NextKey>,
}

/// The customer key that a node is to move to. It may already open the keystore: when the move was cut off after
/// its last step on disk, or when it is the same key pair under another name.
#[derive(Debug, Clone)]
pub struct NextKey {
    /// Which.
    pub key: KeyIdentifier,
    /// How it is reached.
    pub service: Arc<dyn KeyService>,
}

impl KeyAccess {
    /// As the node's own file says.
    pub fn of_file(config: &Config, make: &MakeService) -> Result<Self, ConfigError> {
        let section = &config.customer_key;
        let service: Arc<dyn KeyService> = match section.key_identifier {
            Some(_) => make(&section.azure)?,
            None => Arc::new(NotPlaced),
        };
        let expires = section.client_secret_expires.and_then(|date| {
            let zoned = date.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?;
            Some(Timestamp(zoned.timestamp()))
        });
        Ok(Self {
            service,
            key: section.key_identifier.clone(),
            policy: config.verdict.policy,
            client_secret_expires: expires,
            next: None,
        })
    }
}

/// The service of a node that its server has not placed yet: knows no customer key.
#[derive(Debug)]
struct NotPlaced;

const NOT_PLACED: &str = "the server has not placed this node yet";

impl NotPlaced {
    fn refuse(operation: Operation, key: &KeyIdentifier) -> KmsError {
        KmsError {
            class: Class::Misconfigured,
            operation,
            key_identifier: key.clone(),
            facts: Box::new(Facts { message: Some(NOT_PLACED.to_owned()), ..Facts::default() }),
        }
    }
}

#[async_trait]
impl KeyService for NotPlaced {
    async fn describe(&self, key: &KeyIdentifier) -> Result<KeyDescription, KmsError> {
        Err(Self::refuse(Operation::Describe, key))
    }

    async fn wrap(&self, key: &KeyIdentifier, _plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
        Err(Self::refuse(Operation::Wrap, key))
    }

    async fn unwrap(
        &self,
        key: &KeyIdentifier,
        _ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), KmsError> {
        Err(Self::refuse(Operation::Unwrap, key))
    }

    async fn probe(&self, key: &KeyIdentifier, _canary: &[u8], _sha256: &[u8; 32]) -> Evidence {
        Self::refuse(Operation::Unwrap, key).into_evidence(Timestamp(jiff::Timestamp::now()))
    }

    async fn latest_version(&self, key: &KeyIdentifier) -> Result<KeyIdentifier, KmsError> {
        Err(Self::refuse(Operation::Describe, key))
    }

    async fn check(&self, _key: &KeyIdentifier) -> Vec<Finding> {
        vec![Finding {
            severity: Severity::Refuse,
            about: About::Answer { operation: Operation::Describe, inner_code: None, retry_after_s: None },
            class: Some(Class::Misconfigured),
            text: NOT_PLACED.to_owned(),
            hint: "add the node to a cluster of its project".to_owned(),
        }]
    }
}
