//! What the server does with customer keys: it checks them before it tells anyone to use them, and never holds one.
//!
//! Reading a PATCH ([`patch`]), merging it ([`plan`]), what findings mean ([`outcome`]), whether nodes can follow
//! ([`nodes`]) and what they are told ([`desired`]) are pure; [`change`] carries a PATCH out; [`CustomerKeys`] is the
//! port to Azure.

mod azure;
mod by_node;
pub mod change;
pub mod desired;
pub mod nodes;
pub mod outcome;
pub mod patch;
pub mod plan;
pub mod recheck;
pub mod view;

use std::sync::Arc;

use async_trait::async_trait;
use keyward_kms::Finding;
use keyward_model::{encryption::AzureKeyVault, private_endpoint::Seen};
use secrecy::SecretString;

pub use by_node::validations;

use crate::Config;

/// A customer key, and as whom to ask for it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The configuration.
    pub vault: AzureKeyVault,
    /// The client secret; `None` with a role.
    pub secret: Option<SecretString>,
}

/// What came of trying out a customer key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It was tried, and this was found; nothing when all is well.
    Found(Vec<Finding>),
    /// It cannot be tried from here.
    NotFromHere {
        /// Why, in a sentence.
        why: String,
    },
}

/// What the vault's own rotation policy of a customer key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaultRotation {
    /// It was asked for: so many days from one version to the next. `None` when the vault rotates nothing, and when
    /// it does not let us see.
    Seen(Option<u32>),
    /// It could not be asked for.
    NotSeen,
}

/// A private endpoint as Azure knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPlace {
    /// ARM id of the endpoint.
    pub resource_id: String,
    /// Azure's name of its region.
    pub location: String,
    /// ARM id of the subnet it gets its address from.
    pub subnet_id: String,
}

/// The port to key services and to the network around them.
#[async_trait]
pub trait CustomerKeys: Send + Sync {
    /// Tries a customer key out: reads it, wraps and unwraps random bytes, looks at the vault.
    async fn check(&self, asked: &Asked) -> Tried;

    /// SHA-256 of the public key (DER `SubjectPublicKeyInfo`, hexadecimal); `None` when it cannot be read.
    async fn public_key_sha256(&self, asked: &Asked) -> Option<String>;

    /// How often the vault replaces the customer key by itself.
    async fn rotation(&self, asked: &Asked) -> VaultRotation;

    /// Whether vaults answer under names of their own; a development vault does not.
    fn vaults_have_names(&self) -> bool;

    /// Where an endpoint called `name` would be made; `None` when there is no network for it in that region.
    fn endpoint_place(&self, asked: &AzureKeyVault, region_name: &str, name: &str) -> Option<EndpointPlace>;

    /// Looks at an endpoint.
    async fn look_at_endpoint(&self, asked: &Asked, resource_id: &str) -> Seen;

    /// Asks for an endpoint, for the vault's owner to approve.
    async fn request_endpoint(&self, asked: &Asked, place: &EndpointPlace) -> Seen;

    /// Has an endpoint deleted; what is said when that did not work.
    async fn delete_endpoint(&self, asked: &Asked, resource_id: &str) -> Result<(), String>;

    /// The vault's name of an endpoint's connection, where it may be read.
    async fn connection_name(&self, asked: &Asked, resource_id: &str) -> Option<String>;
}

/// Asks Azure, or the development vault that the configuration names.
pub(crate) fn from_config(config: &Config) -> Result<Arc<dyn CustomerKeys>, keyward_kms::azure::ConfigError> {
    Ok(Arc::new(azure::AzureKeys::new(config)?))
}

/// The store's name of a project's client secret.
pub fn secret_owner(project: keyward_model::id::ProjectId) -> String {
    format!("encryption:{project}")
}
