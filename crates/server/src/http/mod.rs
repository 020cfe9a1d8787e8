//! HTTP: listeners, and the pipeline that every request of the API goes through.
//!
//! The order of its steps is part of the contract: clients send an unsigned request first and take any answer but
//! 401 as the result, so that nothing is validated, not even the path, before the caller is known.

pub mod body;
pub mod error;
pub mod listener;
pub mod page;
mod pipeline;
pub(crate) mod rate;
pub mod route;
pub mod version;

pub(crate) use pipeline::{Refused, answer};
