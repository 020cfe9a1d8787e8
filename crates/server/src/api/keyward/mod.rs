//! Our own additions, under `/api/keyward/v1`: JSON without versions, with the same callers, roles and errors.

pub mod clusters;
pub mod encryption;
pub mod jobs;
pub mod join_tokens;
pub mod nodes;
pub mod openapi;
mod schemas;
pub mod server;

use super::Operation;

/// Their operations.
pub fn operations() -> Vec<Operation> {
    [
        clusters::operations(),
        encryption::operations(),
        jobs::operations(),
        join_tokens::operations(),
        nodes::operations(),
        openapi::operations(),
        server::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
