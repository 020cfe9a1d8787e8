//! The project's customer key, against a development vault.

mod customer;
mod endpoints;
mod faults;
mod lifecycle;
mod nodes;
mod own_api;
mod recheck;
mod refusals;
mod roles;
mod rotation;
mod vault_name;
