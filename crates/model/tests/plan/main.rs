//! The planner: successive plans as text, and what must hold in every state.
#![allow(missing_docs)]

mod fleet;
mod properties;
mod stories;
