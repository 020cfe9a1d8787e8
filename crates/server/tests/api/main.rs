//! The server as its clients see it, over TLS, on both databases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; its helpers too")]

#[macro_use]
mod site;

mod access;
mod agents;
mod alerts;
mod authority;
mod certificate;
mod cluster_clients;
mod clusters;
mod encryption;
mod events;
mod every_operation;
mod link;
mod maintenance_window;
mod pipeline;
mod rate;
mod reference;
mod roles;
mod rollouts;
mod secrets;
mod servers;
mod setup;
