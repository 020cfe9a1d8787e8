//! This server: the certificate that it shows, and the authority that agents trust it by.

use http::Method;
use keyward_model::role::Requirement;
use serde_json::json;

use crate::{
    api::{Operation, Reply, Request, time},
    handler,
    http::error::ApiError,
    link,
};

/// Its operation.
pub fn operations() -> Vec<Operation> {
    vec![Operation {
        id: "getServer",
        method: Method::GET,
        path: "/api/keyward/v1/server",
        versions: &[],
        requires: Requirement::Authenticated,
        handler: handler!(get),
    }]
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let certificate = request.app.certificate();
    let authority = link::authority_status(request.app.store(), request.now()).await.map_err(|error| {
        tracing::error!(%error, "the authority of agents could not be looked at");
        ApiError::new(keyward_model::Code::UnexpectedError)
    })?;
    // How many: their names are their projects'.
    let former = authority.former.map(|former| {
        json!({
            "sha256": former.sha256,
            "replacedAt": time(former.replaced_at),
            "nodes": former.nodes.len(),
            "joinTokens": former.join_tokens,
        })
    });
    Ok(Reply::ok(json!({
        "certificate": {
            "own": certificate.own,
            "validFrom": time(certificate.valid_from),
            "validUntil": time(certificate.valid_until),
            "since": time(certificate.since),
            "problem": certificate.problem,
        },
        "agentAuthority": {
            "sha256": authority.sha256,
            "madeAt": authority.made_at.map(time),
            "replacedFrom": authority.replaced_from.map(time),
            "former": former,
        },
    })))
}
