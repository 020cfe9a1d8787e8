//! What each command does.

pub(crate) mod agent;
pub(crate) mod node;
pub(crate) mod vault;
