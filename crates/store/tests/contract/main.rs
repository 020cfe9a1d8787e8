//! What the store promises, on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod access;
mod audit;
mod crash;
mod documents;
mod interruptions;
mod leases;
mod nodes;
mod notices;
mod opening;
mod races;
mod secrets;
mod site;
mod tls;
