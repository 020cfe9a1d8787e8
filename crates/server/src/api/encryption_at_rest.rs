//! Encryption at rest: the project's customer key.

use http::Method;
use keyward_model::encryption::EncryptionAtRest;

use super::{
    Operation, Reply, Request,
    grants::{PROJECT_OWNER, PROJECT_READER},
};
use crate::{
    customer_key::{change, view::view},
    handler,
    http::error::ApiError,
};

const PATH: &str = "/api/atlas/v2/groups/{groupId}/encryptionAtRest";
const V1: &[&str] = &["2023-01-01"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "getGroupEncryptionAtRest",
            method: Method::GET,
            path: PATH,
            versions: V1,
            requires: PROJECT_READER,
            handler: handler!(get),
        },
        Operation {
            id: "updateGroupEncryptionAtRest",
            method: Method::PATCH,
            path: PATH,
            versions: V1,
            requires: PROJECT_OWNER,
            handler: handler!(update),
        },
    ]
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let stored = request.app.store().read().await?.get::<EncryptionAtRest>(project).await?;
    let stored = stored.map_or_else(|| EncryptionAtRest::none(project), |stored| stored.document);
    Ok(Reply::ok(view(&stored)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let body = request.parse()?;
    let stored = change::apply(&request.app, project, body, &|kind| request.event(kind)).await?;
    Ok(Reply::ok(view(&stored)))
}
