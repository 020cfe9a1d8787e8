//! Every command of the API's side against a real server and a real development vault, as a person types them.

#![allow(clippy::unwrap_used)]

#[path = "../processes/mod.rs"]
mod processes;

mod alerts;
mod authority;
mod endpoints;
mod events;
mod login;
mod node;
mod project;
mod servers;
mod site;
