//! The port to a key service: the trait [`KeyService`] and its Azure Key Vault client.
//!
//! Owns how a customer key is asked and how answers become [`keyward_model::Class`]es. It never decides what
//! evidence adds up to (that is `keyward_model::verdict`), never writes a file, and keeps no key material after
//! a call returns.

pub mod azure;
mod service;

pub use service::{
    About, Facts, Finding, KeyDescription, KeyService, KmsError, Operation, Severity, highest_severity,
};
