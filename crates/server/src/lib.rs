//! The control plane: the Atlas Administration API for customer-managed keys, the agents' endpoint, and the jobs.
//!
//! It has no type that can hold a master key or a database key, and does not depend on the crate that does.

#![forbid(unsafe_code)]

pub mod api;
mod app;
pub mod auth;
pub mod authority;
mod certificate;
pub mod config;
pub mod customer_key;
pub mod http;
mod init;
pub mod jobs;
pub mod link;
mod serve;

pub use app::{App, Clock, Nudge, machine_clock};
pub use certificate::CertificateStatus;
pub use config::Config;
pub use init::{InitError, InitReport, init};
pub use serve::{Running, ServeError, ServeOptions, serve, serve_with};
