//! The server as its clients see it, over TLS, on both databases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; its helpers too")]

#[macro_use]
mod site;

mod access;
mod every_operation;
mod pipeline;
mod roles;
mod secrets;
mod setup;
mod agents;
mod link;
mod clusters;
mod alerts;
mod encryption;
mod events;
mod maintenance_window;
mod rollouts;
mod cluster_clients;
