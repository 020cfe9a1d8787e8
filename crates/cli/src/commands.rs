//! What each command does.

pub(crate) mod agent;
pub(crate) mod alert;
pub(crate) mod cluster;
pub(crate) mod encryption;
pub(crate) mod event;
pub(crate) mod login;
mod member;
pub(crate) mod node;
pub(crate) mod org;
pub(crate) mod project;
pub(crate) mod server;
pub(crate) mod vault;
