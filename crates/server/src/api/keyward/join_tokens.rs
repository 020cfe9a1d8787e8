//! Join tokens: each lets one node into the project, once, within a day.

use http::{Method, StatusCode};
use keyward_model::{
    Code, Timestamp,
    event::EventType,
    node::JoinToken,
    role::{ProjectRole, Requirement},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{Operation, Reply, Request},
    handler,
    http::error::ApiError,
    link::{self, LinkError},
};

/// Longest name.
const LONGEST_NAME: usize = 128;

const PATH: &str = "/api/keyward/v1/groups/{groupId}/joinTokens";
const MANAGERS: Requirement = Requirement::Project(&[ProjectRole::GroupClusterManager]);

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "listJoinTokens",
            method: Method::GET,
            path: PATH,
            versions: &[],
            requires: MANAGERS,
            handler: handler!(list),
        },
        Operation {
            id: "createJoinToken",
            method: Method::POST,
            path: PATH,
            versions: &[],
            requires: MANAGERS,
            handler: handler!(create),
        },
        Operation {
            id: "deleteJoinToken",
            method: Method::DELETE,
            path: "/api/keyward/v1/groups/{groupId}/joinTokens/{joinTokenId}",
            versions: &[],
            requires: MANAGERS,
            handler: handler!(delete),
        },
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: Option<String>,
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let new: NewToken = request.parse_optional()?.unwrap_or_default();
    if new.name.as_ref().is_some_and(|name| name.is_empty() || name.chars().count() > LONGEST_NAME) {
        let text = format!("must be 1 to {LONGEST_NAME} characters");
        return Err(ApiError::new(Code::InvalidAttribute).field("name", text));
    }
    let event = request.event(EventType::JoinTokenCreated);
    let invited = link::invite(&request.app, request.project()?, new.name, event).await;
    let (token, text) = invited.map_err(|error| match error {
        LinkError::Store(error) => error.into(),
        error @ LinkError::TooManyTokens => ApiError::new(Code::RateLimited).detail(format!("{error}.")),
        error @ (LinkError::Certificate(_)
        | LinkError::Tls(_)
        | LinkError::NoAuthority
        | LinkError::Damaged
        | LinkError::Address(_)) => {
            tracing::error!(%error, "no join token can be made");
            ApiError::new(Code::UnexpectedError)
        }
    })?;
    let now = request.now();
    let mut body = shape(&token, now);
    body["token"] = json!(text.to_string());
    Ok(Reply::with(StatusCode::CREATED, crate::api::Content::Json(body)))
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let (project, now) = (request.project()?, request.now());
    let page = request.page()?;
    let tokens = request.app.store().read().await?.list::<JoinToken>(project).await?;
    let open = tokens.iter().filter(|token| now < token.expires_at);
    let (results, total) = page.of_list(open.map(|token| shape(token, now)).collect());
    Ok(Reply::page(results, total))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let (project, now) = (request.project()?, request.now());
    let id = request.id::<keyward_model::id::JoinTokenKind>("joinTokenId")?;
    let mut change = request.app.store().change().await?;
    let token = change.get::<JoinToken>(id).await?.filter(|token| token.project == project);
    if token.is_none() {
        return Err(ApiError::new(Code::JoinTokenNotFound).param(id));
    }
    change.delete::<JoinToken>(id).await?;
    let event = request.event(EventType::JoinTokenDeleted).detail("joinTokenId", id.to_string());
    change.commit(event, now).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// As the API shows it: never with the secret.
fn shape(token: &JoinToken, now: Timestamp) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "createdAt": crate::api::time(token.created_at),
        "expiresAt": crate::api::time(token.expires_at),
        "usedBy": token.used.as_ref().map(|used| used.node_id),
        "usable": token.used.is_none() && now < token.expires_at,
    })
}
