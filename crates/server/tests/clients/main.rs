//! The server as published clients of the Atlas Administration API see it: some of them run as they are, others by
//! the requests that they make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; its helpers too")]
#![allow(unreachable_pub, reason = "shared with the contract tests")]

#[path = "../api/agents.rs"]
#[allow(dead_code, reason = "shared with the contract tests")]
mod agents;
#[macro_use]
#[path = "../api/site.rs"]
#[allow(dead_code, unused_macros, reason = "shared with the contract tests")]
mod site;

mod customer_key;
mod published;
mod replay_atlas_cli;
mod replay_terraform;
mod schemathesis;
