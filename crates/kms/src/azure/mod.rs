//! Azure Key Vault, Entra ID and the few ARM calls that keyward uses.

mod arm;
mod assertion;
mod challenge;
pub mod classify;
mod config;
mod findings;
mod keys_api;
pub mod retry;
mod service;
mod token;
mod transport;

pub use config::{AzureConfig, Cloud, ConfigError, Credential, Endpoints};
pub use service::AzureKeyService;
