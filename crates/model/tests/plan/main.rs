//! The planner: successive plans as text, and what must hold in every state.
#![allow(clippy::unwrap_used, missing_docs)]

mod fleet;
mod properties;
mod stories;
