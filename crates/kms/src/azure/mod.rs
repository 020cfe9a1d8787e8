//! Azure Key Vault, Entra ID and the few ARM calls that keyward uses.

mod arm;
mod assertion;
mod challenge;
pub mod classify;
mod config;
mod findings;
mod keys_api;
pub mod names;
mod private_link;
mod regions;
pub mod retry;
mod rotation;
mod service;
mod token;
mod transport;

pub use config::{AzureConfig, ClientSecret, Cloud, ConfigError, Credential, Endpoints};
pub use private_link::{ArmError, ConnectionState, NewPrivateEndpoint, PrivateLink, SeenEndpoint};
pub use regions::Regions;
pub use service::AzureKeyService;
