//! Alerts: read, and acknowledged. Raising and resolving them is the job's ([`crate::jobs::alerts`]).

use http::Method;
use keyward_model::{
    Code, Timestamp,
    alert::{Acknowledgement, Alert, AlertConfig, AlertStatus, AlertType},
    event::EventType,
    id::{AlertKind, OrgId},
    role::{
        ProjectRole::{GroupAlertsManager, GroupReadOnly},
        Requirement,
    },
};
use keyward_store::{Stored, Tx};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Operation, Reply, Request, alert_configs, time};
use crate::{
    handler,
    http::{body::Field, error::ApiError, version::ApiVersion},
};

/// Longest comment of an acknowledgement, characters.
const LONGEST_COMMENT: usize = 200;

/// Its operations.
pub fn operations() -> Vec<Operation> {
    const READER: Requirement = Requirement::Project(&[GroupReadOnly]);
    let operation = |id, method, path, handler| Operation {
        id,
        method,
        path,
        versions: &["2023-01-01"],
        requires: READER,
        handler,
    };
    vec![
        operation("listGroupAlerts", Method::GET, "/api/atlas/v2/groups/{groupId}/alerts", handler!(list)),
        operation(
            "getGroupAlert",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/alerts/{alertId}",
            handler!(get),
        ),
        operation(
            "getGroupAlertAlertConfigs",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/alerts/{alertId}/alertConfigs",
            handler!(configs),
        ),
        operation(
            "getGroupAlertConfigAlerts",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/alertConfigs/{alertConfigId}/alerts",
            handler!(of_config),
        ),
        Operation {
            id: "acknowledgeGroupAlert",
            method: Method::PATCH,
            path: "/api/atlas/v2/groups/{groupId}/alerts/{alertId}",
            versions: &["2023-01-01", "2024-05-30"],
            requires: Requirement::Project(&[GroupAlertsManager]),
            handler: handler!(acknowledge),
        },
        Operation {
            id: "listAlerts",
            method: Method::GET,
            path: "/api/keyward/v1/groups/{groupId}/alerts",
            versions: &[],
            requires: READER,
            handler: handler!(list_all),
        },
    ]
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let asked = request.choices("status", "OPEN, TRACKING or CLOSED", |name| match name {
        "OPEN" => Some(AlertStatus::Open),
        "TRACKING" => Some(AlertStatus::Tracking),
        "CLOSED" => Some(AlertStatus::Closed),
        _ => None,
    })?;
    let mut tx = request.app.store().read().await?;
    let alerts = visible(&mut tx, &request).await?;
    let alerts = alerts.into_iter().filter(|alert| asked.is_empty() || asked.contains(&alert.status));
    page(&request, alerts)
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let alert = find(&mut tx, &request).await?;
    Ok(Reply::ok(shown(&request, &alert)))
}

async fn configs(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let alert = find(&mut tx, &request).await?;
    let config = tx.get::<AlertConfig>(alert.config).await?;
    let config = config.filter(|config| config.deleted.is_none());
    Reply::list(&request, config.iter().map(|config| alert_configs::shown(&request, config)).collect())
}

async fn of_config(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let config = alert_configs::find(&mut tx, &request).await?;
    let alerts = visible(&mut tx, &request).await?;
    let open =
        alerts.into_iter().filter(|alert| alert.config == config.id && alert.status == AlertStatus::Open);
    page(&request, open)
}

/// All alerts with what was found in words, our own types included. Our own route.
async fn list_all(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let mut alerts = tx.list::<Alert>(request.project()?).await?;
    alerts.sort_by_key(|alert| std::cmp::Reverse((alert.created, alert.id)));
    let (alerts, total) = request.page()?.of_list(alerts);
    let in_words = |alert: &Stored<Alert>| {
        let mut shown = shown(&request, alert);
        if let Some(object) = shown.as_object_mut() {
            object.insert("text".to_owned(), json!(alert.text));
            object.insert("since".to_owned(), json!(time(alert.since)));
            object.insert("node".to_owned(), json!(alert.subject.node));
            object.insert("clusterName".to_owned(), json!(alert.subject.cluster));
            object
                .insert("acknowledgedBy".to_owned(), json!(alert.acknowledged.as_ref().map(|seen| &seen.by)));
        }
        shown
    };
    Ok(Reply::page(alerts.iter().map(in_words).collect(), total))
}

/// An acknowledgement. What an answer shows beside it may come back and is ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Given {
    acknowledged_until: Option<String>,
    #[serde(default)]
    acknowledgement_comment: Field<String>,
    unacknowledge_alert: Option<bool>,
    #[serde(rename = "links")]
    _links: Option<Value>,
}

async fn acknowledge(mut request: Request) -> Result<Reply, ApiError> {
    let given: Given = request.parse()?;
    let now = request.now();
    if given.unacknowledge_alert.is_some() && request.version < ApiVersion::of(2024, 5, 30) {
        return Err(ApiError::new(Code::InvalidAttribute)
            .detail("unacknowledgeAlert came with version 2024-05-30; before it, send an acknowledgedUntil in the past.")
            .param("unacknowledgeAlert")
            .field("unacknowledgeAlert", "is not known in this version"));
    }
    let acknowledged = acknowledgement(&given, &request, now)?;
    let mut change = request.app.store().change().await?;
    let before = find(&mut change, &request).await?;
    let after = Alert { acknowledged, updated: now, ..before.document.clone() };
    change.update(&after, before.revision).await?;
    let event_type = match &after.acknowledged {
        Some(_) => EventType::AlertAcknowledged,
        None => EventType::AlertUnacknowledged,
    };
    let event = request
        .event(event_type)
        .detail("alertId", after.id.to_string())
        .detail("alertConfigId", after.config.to_string());
    change.commit(event, now).await?;
    Ok(Reply::ok(shown(&request, &after)))
}

/// Until when an alert is quiet; `None` takes an acknowledgement back, as a time in the past does.
fn acknowledgement(
    given: &Given,
    request: &Request,
    now: Timestamp,
) -> Result<Option<Acknowledgement>, ApiError> {
    let comment = match &given.acknowledgement_comment {
        Field::Absent | Field::Null => None,
        Field::Set(comment) if comment.chars().count() <= LONGEST_COMMENT => Some(comment.clone()),
        Field::Set(_) => {
            return Err(ApiError::new(Code::InvalidAttribute)
                .detail(format!("acknowledgementComment has at most {LONGEST_COMMENT} characters."))
                .param("acknowledgementComment")
                .field("acknowledgementComment", "is too long"));
        }
    };
    if given.unacknowledge_alert == Some(true) {
        return Ok(None);
    }
    let text = given.acknowledged_until.as_deref().ok_or_else(|| {
        ApiError::new(Code::MissingAttribute)
            .detail("The attribute acknowledgedUntil is missing.")
            .param("acknowledgedUntil")
            .field("acknowledgedUntil", "is missing")
    })?;
    let until: jiff::Timestamp = text.parse().map_err(|_| {
        ApiError::new(Code::InvalidAttribute)
            .detail("acknowledgedUntil is a time such as 2026-08-10T03:07:31Z.")
            .param("acknowledgedUntil")
            .field("acknowledgedUntil", "is no time")
    })?;
    let until = Timestamp(until);
    let by = request.principal.actor().to_string();
    Ok((until > now).then_some(Acknowledgement { until, comment, by }))
}

/// The project's alerts that a client of the Atlas Administration API sees, newest first.
async fn visible(tx: &mut Tx, request: &Request) -> Result<Vec<Stored<Alert>>, ApiError> {
    let project = request.project()?;
    let mut alerts = tx.list::<Alert>(project).await?;
    if alerts.iter().any(|alert| !alert.event_type.is_atlas()) {
        let configs = tx.list::<AlertConfig>(project).await?;
        let seen = |alert: &Stored<Alert>| {
            let config = configs.iter().find(|config| config.id == alert.config);
            alert.event_type.is_atlas() || config.is_some_and(|config| config.is_seen_by_atlas_clients())
        };
        alerts.retain(seen);
    }
    alerts.sort_by_key(|alert| std::cmp::Reverse((alert.created, alert.id)));
    Ok(alerts)
}

async fn find(tx: &mut Tx, request: &Request) -> Result<Stored<Alert>, ApiError> {
    let not_found = || ApiError::new(Code::AlertNotFound).param(request.param("alertId"));
    let id = request.id::<AlertKind>("alertId").map_err(|_| not_found())?;
    let project = request.project()?;
    tx.get::<Alert>(id).await?.filter(|alert| alert.project == project).ok_or_else(not_found)
}

fn page(request: &Request, alerts: impl Iterator<Item = Stored<Alert>>) -> Result<Reply, ApiError> {
    let (alerts, total) = request.page()?.of_list(alerts.collect());
    Ok(Reply::page(alerts.iter().map(|alert| shown(request, alert)).collect(), total))
}

fn shown(request: &Request, alert: &Alert) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("id", json!(alert.id));
    put("alertConfigId", json!(alert.config));
    put("groupId", json!(alert.project));
    put("orgId", json!(request.org.map(|org: OrgId| org.to_string()).unwrap_or_default()));
    put("eventTypeName", json!(alert.event_type));
    put("status", json!(alert.status));
    put("created", json!(time(alert.created)));
    put("updated", json!(time(alert.updated)));
    if let Some(resolved) = alert.resolved {
        put("resolved", json!(time(resolved)));
    }
    if let Some(notified) = alert.last_notified {
        put("lastNotified", json!(time(notified)));
    }
    if let Some(seen) = &alert.acknowledged {
        put("acknowledgedUntil", json!(time(seen.until)));
        if let Some(comment) = &seen.comment {
            put("acknowledgementComment", json!(comment));
        }
        // Atlas' field is an e-mail address: a person's name, never a key's.
        if seen.by.contains('@') {
            put("acknowledgingUsername", json!(seen.by));
        }
    }
    let of_a_host = alert.event_type == AlertType::HostDown;
    if of_a_host || alert.event_type == AlertType::NoPrimary {
        let parts = [
            ("clusterName", &alert.subject.cluster, true),
            ("replicaSetName", &alert.subject.replica_set, true),
            ("hostnameAndPort", &alert.subject.address, of_a_host),
        ];
        for (name, value, has) in parts {
            if let (Some(value), true) = (value, has) {
                put(name, json!(value));
            }
        }
    }
    let href = format!("/api/atlas/v2/groups/{}/alerts/{}", alert.project, alert.id);
    put("links", json!([{"rel": "self", "href": request.href(&href)}]));
    Value::Object(shown)
}
