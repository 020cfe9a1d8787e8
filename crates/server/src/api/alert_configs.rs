//! Alert configurations: what a project's owner wants to hear of. What they may say is
//! [`keyward_model::alert`]'s to decide.

use http::{Method, StatusCode};
use keyward_model::{
    Code, Timestamp,
    alert::{
        Alert, AlertConfig, CONFIGS_MAX, ConfigError, Draft, MatcherField, NotificationError,
        NotificationSecrets,
    },
    event::EventType,
    id::{AlertConfigId, AlertConfigKind, ProjectId},
    maintenance::Maintenance,
    role::{
        ProjectRole::{GroupAlertsManager, GroupReadOnly},
        Requirement,
    },
};
use keyward_store::{Change, Stored, Tx};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Content, Operation, Reply, Request};
use crate::{handler, http::error::ApiError};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    const MANAGER: Requirement = Requirement::Project(&[GroupAlertsManager]);
    const READER: Requirement = Requirement::Project(&[GroupReadOnly]);
    const LIST: &str = "/api/atlas/v2/groups/{groupId}/alertConfigs";
    const ONE: &str = "/api/atlas/v2/groups/{groupId}/alertConfigs/{alertConfigId}";
    let operation = |id, method, path, requires, handler| Operation {
        id,
        method,
        path,
        versions: &["2023-01-01"],
        requires,
        handler,
    };
    vec![
        operation(
            "listAlertConfigMatcherFieldNames",
            Method::GET,
            "/api/atlas/v2/alertConfigs/matchers/fieldNames",
            Requirement::Authenticated,
            handler!(field_names),
        ),
        operation("listGroupAlertConfigs", Method::GET, LIST, READER, handler!(list)),
        operation("createGroupAlertConfig", Method::POST, LIST, MANAGER, handler!(create)),
        operation("getGroupAlertConfig", Method::GET, ONE, READER, handler!(get)),
        operation("updateGroupAlertConfig", Method::PUT, ONE, MANAGER, handler!(replace)),
        operation("toggleGroupAlertConfig", Method::PATCH, ONE, MANAGER, handler!(toggle)),
        operation("deleteGroupAlertConfig", Method::DELETE, ONE, MANAGER, handler!(delete)),
    ]
}

/// Adds what a project gets with its first customer key, in the change that configures it. What is there already,
/// or was deleted, stays so: it is made once per project.
pub async fn add_automatic(change: &mut Change, project: ProjectId, now: Timestamp) -> Result<(), ApiError> {
    for config in AlertConfig::automatic(project, now) {
        if change.get::<AlertConfig>(config.id).await?.is_none() {
            change.insert(&config).await?;
        }
    }
    Ok(())
}

/// Forgets a project's alert configurations, their secrets and alerts, and its maintenance window, in the change that
/// deletes it.
pub async fn drop_all(change: &mut Change, project: ProjectId) -> Result<(), ApiError> {
    for config in change.list::<AlertConfig>(project).await? {
        change.drop_secret(&owner(config.id)).await?;
    }
    change.delete_all::<AlertConfig>(project).await?;
    change.delete_all::<Alert>(project).await?;
    change.delete_all::<Maintenance>(project).await?;
    Ok(())
}

/// A bare array, as Atlas answers.
async fn field_names(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(json!([
        MatcherField::AtlasNodeType,
        MatcherField::ClusterName,
        MatcherField::Hostname,
        MatcherField::Port,
        MatcherField::HostnameAndPort,
        MatcherField::ApplicationId,
        MatcherField::ReplicaSetName,
        MatcherField::TypeName,
        MatcherField::ShardName,
    ])))
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let mut configs = tx.list::<AlertConfig>(request.project()?).await?;
    configs.retain(|config| config.deleted.is_none() && config.is_seen_by_atlas_clients());
    configs.sort_by_key(|config| (config.created, config.id));
    Reply::list(&request, configs.iter().map(|config| shown(&request, config)).collect())
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let config = find(&mut tx, &request).await?;
    Ok(Reply::ok(shown(&request, &config)))
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let body: Map<String, Value> = request.parse()?;
    let (project, now) = (request.project()?, request.now());
    let (draft, secrets) = Draft::read(&body, None, &mut || request.app.make_id())?;
    let config = draft.created(request.app.make_id(), project, now);
    let mut change = request.app.store().change().await?;
    if change.list::<AlertConfig>(project).await?.len() >= CONFIGS_MAX {
        return Err(ApiError::new(Code::MaxAlertConfigsPerGroupExceeded).param(CONFIGS_MAX));
    }
    change.insert(&config).await?;
    put_secrets(&mut change, config.id, &secrets).await?;
    commit(change, &request, EventType::AlertConfigAdded, &config).await?;
    Ok(Reply::with(StatusCode::CREATED, Content::Json(shown(&request, &config))))
}

async fn replace(mut request: Request) -> Result<Reply, ApiError> {
    let body: Map<String, Value> = request.parse()?;
    let mut change = request.app.store().change().await?;
    let before = find(&mut change, &request).await?;
    let known = secrets(&mut change, before.id).await?;
    let (draft, secrets) = Draft::read(&body, Some((&before, &known)), &mut || request.app.make_id())?;
    let after = draft.replacing(&before, request.now());
    change.update(&after, before.revision).await?;
    put_secrets(&mut change, after.id, &secrets).await?;
    commit(change, &request, EventType::AlertConfigChanged, &after).await?;
    Ok(Reply::ok(shown(&request, &after)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Toggle {
    enabled: bool,
}

async fn toggle(mut request: Request) -> Result<Reply, ApiError> {
    let Toggle { enabled } = request.parse()?;
    let mut change = request.app.store().change().await?;
    let before = find(&mut change, &request).await?;
    if before.enabled == enabled {
        return Ok(Reply::ok(shown(&request, &before)));
    }
    let after = AlertConfig { enabled, updated: request.now(), ..before.document.clone() };
    change.update(&after, before.revision).await?;
    let event = if enabled { EventType::AlertConfigEnabled } else { EventType::AlertConfigDisabled };
    commit(change, &request, event, &after).await?;
    Ok(Reply::ok(shown(&request, &after)))
}

async fn delete(request: Request) -> Result<Reply, ApiError> {
    let mut change = request.app.store().change().await?;
    let before = find(&mut change, &request).await?;
    let now = request.now();
    if before.automatic {
        let after = AlertConfig { deleted: Some(now), updated: now, ..before.document.clone() };
        change.update(&after, before.revision).await?;
    } else {
        change.delete::<AlertConfig>(before.id).await?;
    }
    change.drop_secret(&owner(before.id)).await?;
    commit(change, &request, EventType::AlertConfigDeleted, &before).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// The configuration that the path names.
pub(super) async fn find(tx: &mut Tx, request: &Request) -> Result<Stored<AlertConfig>, ApiError> {
    let not_found = || ApiError::new(Code::AlertConfigNotFound).param(request.param("alertConfigId"));
    let id = request.id::<AlertConfigKind>("alertConfigId").map_err(|_| not_found())?;
    let project = request.project()?;
    let found = tx.get::<AlertConfig>(id).await?;
    found.filter(|config| config.project == project && config.deleted.is_none()).ok_or_else(not_found)
}

/// As answers show it.
pub(super) fn shown(request: &Request, config: &AlertConfig) -> Value {
    let mut shown = config.shown();
    let href = format!("/api/atlas/v2/groups/{}/alertConfigs/{}", config.project, config.id);
    let links = json!([
        {"rel": "self", "href": request.href(&href)},
        {"rel": "http://mms.mongodb.com/alerts", "href": request.href(&format!("{href}/alerts"))},
    ]);
    if let Some(object) = shown.as_object_mut() {
        object.insert("links".to_owned(), links);
    }
    shown
}

async fn commit(
    change: Change,
    request: &Request,
    event_type: EventType,
    config: &AlertConfig,
) -> Result<(), ApiError> {
    let event = request
        .event(event_type)
        .detail("alertConfigId", config.id.to_string())
        .detail("alertType", config.event_type.as_str());
    change.commit(event, request.now()).await?;
    request.app.nudge().jobs();
    Ok(())
}

/// Whose secret the notifications' are.
fn owner(id: AlertConfigId) -> String {
    format!("alert_config:{id}")
}

async fn secrets(tx: &mut Tx, id: AlertConfigId) -> Result<NotificationSecrets, ApiError> {
    let Some(opened) = tx.secret(&owner(id)).await? else { return Ok(NotificationSecrets::default()) };
    serde_json::from_slice(&opened).map_err(|error| {
        tracing::error!(%error, config = %id, "the secrets of an alert configuration cannot be read");
        ApiError::new(Code::UnexpectedError)
    })
}

async fn put_secrets(
    change: &mut Change,
    id: AlertConfigId,
    secrets: &NotificationSecrets,
) -> Result<(), ApiError> {
    if secrets.is_empty() {
        change.drop_secret(&owner(id)).await?;
        return Ok(());
    }
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(secrets).map_err(|error| {
        tracing::error!(%error, config = %id, "the secrets of an alert configuration cannot be written");
        ApiError::new(Code::UnexpectedError)
    })?);
    change.put_secret(&owner(id), &plain).await?;
    Ok(())
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let text = sentence(&error);
        let said = |code| ApiError::new(code).detail(text.clone());
        let about = |code, field: &str| said(code).param(field).field(field, error.to_string());
        match &error {
            ConfigError::MissingEventType => about(Code::MissingAttribute, "eventTypeName"),
            ConfigError::EventType(name) => said(Code::InvalidEventTypeForAlert).param(name),
            ConfigError::MissingNotifications => said(Code::MissingNotifications),
            ConfigError::MissingThreshold(kind) => said(Code::MissingThreshold).param(kind.as_str()),
            ConfigError::ThresholdPresent(kind) => said(Code::ThresholdPresent).param(kind.as_str()),
            ConfigError::UnitsMismatch(kind) => said(Code::UnitsMismatch).param(kind.as_str()),
            ConfigError::Operator(kind) => said(Code::InvalidOperatorForEventType).param(kind.as_str()),
            ConfigError::UnknownField(name) => about(Code::InvalidAttribute, name),
            ConfigError::Field { field, .. } => about(Code::InvalidAttribute, field),
            ConfigError::Notification(inner) => match inner {
                NotificationError::OutOfRange => said(Code::NotificationIntervalOutOfRange),
                NotificationError::UnknownType => about(Code::InvalidAttribute, "notifications.typeName"),
                NotificationError::MissingField { field, .. } => {
                    about(Code::MissingAttribute, &format!("notifications.{field}"))
                }
                NotificationError::UnknownField { field, .. } | NotificationError::Field { field, .. } => {
                    about(Code::InvalidAttribute, &format!("notifications.{field}"))
                }
            },
        }
    }
}

/// What happened, as a sentence.
fn sentence(error: &ConfigError) -> String {
    let text = error.to_string();
    let mut rest = text.chars();
    match rest.next() {
        Some(first) if text.starts_with(|c: char| c.is_ascii_lowercase()) && !names_a_field(&text) => {
            format!("{}{}.", first.to_ascii_uppercase(), rest.as_str())
        }
        Some(_) | None => format!("{text}."),
    }
}

/// Whether a text begins with the name of a field, which is written as it is.
fn names_a_field(text: &str) -> bool {
    text.split(' ').next().is_some_and(|word| word.chars().any(|c| c.is_ascii_uppercase()))
}
