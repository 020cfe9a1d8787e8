//! Events: the audit log as clients of the Atlas Administration API read it.
//!
//! Such clients know only Atlas' types of events, so our own are left out of its routes. Our own route has them all.

use std::net::IpAddr;

use http::Method;
use keyward_model::{
    Code, Timestamp,
    alert::{AlertType, Trigger},
    event::{Actor, Event, EventType, Outcome},
    id::EventKind,
    role::{OrgRole::OrgMember, ProjectRole::GroupReadOnly, Requirement},
};
use keyward_store::EventFilter;
use serde_json::{Map, Value, json};

use super::{Operation, Reply, Request, time};
use crate::{handler, http::error::ApiError};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    const PROJECT: Requirement = Requirement::Project(&[GroupReadOnly]);
    const ORG: Requirement = Requirement::Org(&[OrgMember]);
    let operation = |id, path, versions, requires, handler| Operation {
        id,
        method: Method::GET,
        path,
        versions,
        requires,
        handler,
    };
    let dated: &'static [&'static str] = &["2023-01-01"];
    vec![
        operation(
            "listEventTypes",
            "/api/atlas/v2/eventTypes",
            dated,
            Requirement::Authenticated,
            handler!(list_types),
        ),
        operation("listGroupEvents", "/api/atlas/v2/groups/{groupId}/events", dated, PROJECT, handler!(list)),
        operation(
            "getGroupEvent",
            "/api/atlas/v2/groups/{groupId}/events/{eventId}",
            dated,
            PROJECT,
            handler!(get),
        ),
        operation("listOrgEvents", "/api/atlas/v2/orgs/{orgId}/events", dated, ORG, handler!(list)),
        operation("getOrgEvent", "/api/atlas/v2/orgs/{orgId}/events/{eventId}", dated, ORG, handler!(get)),
        operation("listEvents", "/api/keyward/v1/groups/{groupId}/events", &[], PROJECT, handler!(list_all)),
        operation("listOrgEventsInFull", "/api/keyward/v1/orgs/{orgId}/events", &[], ORG, handler!(list_all)),
    ]
}

async fn list_types(request: Request) -> Result<Reply, ApiError> {
    let types = EventType::ALL.iter().filter(|event_type| event_type.is_atlas());
    let shown = types.map(|event_type| {
        let alertable = AlertType::parse(event_type.as_str()).is_some();
        json!({"eventType": event_type, "description": event_type.text(), "alertable": alertable})
    });
    Reply::list(&request, shown.collect())
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let Some(mut filter) = filter(&request, Types::OfAtlas)? else { return Ok(Reply::page(Vec::new(), 0)) };
    filter.excluded_types.extend(EventType::ALL.iter().filter(|event_type| !event_type.is_atlas()));
    let raw = request.flag("includeRaw", false)?;
    let page = request.page()?;
    let mut tx = request.app.store().read().await?;
    let (events, total) = tx.events(&filter, page.offset(), page.limit()).await?;
    Ok(Reply::page(events.iter().map(|event| shown(&request, event, raw)).collect(), total))
}

/// Every event, with its text, outcome and details. Our own route.
async fn list_all(request: Request) -> Result<Reply, ApiError> {
    let Some(filter) = filter(&request, Types::OfKeyward)? else { return Ok(Reply::page(Vec::new(), 0)) };
    let page = request.page()?;
    let mut tx = request.app.store().read().await?;
    let (events, total) = tx.events(&filter, page.offset(), page.limit()).await?;
    let in_full = |event: &Event| {
        json!({
            "id": event.id,
            "at": event.at,
            "type": event.event_type,
            "text": event.event_type.text(),
            "outcome": event.outcome,
            "actor": event.actor.to_string(),
            "remoteAddress": event.remote,
            "orgId": event.org,
            "groupId": event.project,
            "clusterName": event.cluster,
            "detail": event.detail,
        })
    };
    Ok(Reply::page(events.iter().map(in_full).collect(), total))
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let not_found = || ApiError::new(Code::EventNotFound).param(request.param("eventId"));
    let id = request.id::<EventKind>("eventId").map_err(|_| not_found())?;
    let raw = request.flag("includeRaw", false)?;
    let mut tx = request.app.store().read().await?;
    let event = tx.event(id).await?.filter(|event| {
        let here = match request.project {
            Some(project) => event.project == Some(project),
            None => event.org == request.org && event.project.is_none(),
        };
        here && event.event_type.is_atlas()
    });
    let event = event.ok_or_else(not_found)?;
    Ok(Reply::ok(shown(&request, &event, raw)))
}

/// Which types of events a query may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Types {
    /// Those of Atlas. It has hundreds that keyward never raises, and clients made for it ask for them: a name of their
    /// form is no error, and finds nothing.
    OfAtlas,
    /// Those that keyward raises, and no other.
    OfKeyward,
}

impl Types {
    /// The type of this name; `Some(None)` for one that keyward never raises, `None` for a name that is not a type's.
    fn parse(self, name: &str) -> Option<Option<EventType>> {
        let known = EventType::parse(name);
        match self {
            Self::OfKeyward => known.map(Some),
            Self::OfAtlas => {
                let of_form = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
                let named = name.len() <= 120 && name.bytes().all(of_form);
                named.then(|| known.filter(|event_type| event_type.is_atlas()))
            }
        }
    }

    /// What there is to choose from.
    fn listed(self) -> &'static str {
        match self {
            Self::OfAtlas => {
                "the name of a type of events, such as those that /api/atlas/v2/eventTypes lists"
            }
            Self::OfKeyward => {
                "a type of events that /api/atlas/v2/eventTypes lists, or one of ours that begin with KEYWARD_"
            }
        }
    }
}

/// What the query asks for; `None` when nothing can be found, since it asks only for types that keyward never raises.
fn filter(request: &Request, types: Types) -> Result<Option<EventFilter>, ApiError> {
    let named = |parameter| request.choices(parameter, types.listed(), |name| types.parse(name));
    let asked = named("eventType")?;
    let filter = EventFilter {
        project: request.project,
        org: if request.project.is_some() { None } else { request.org },
        of_no_project: request.project.is_none(),
        types: asked.iter().copied().flatten().collect(),
        excluded_types: named("excludedEventType")?.into_iter().flatten().collect(),
        clusters: request.choices("clusterNames", "a name", |name| Some(name.to_owned()))?,
        from: date(request, "minDate")?,
        to: date(request, "maxDate")?,
    };
    Ok((asked.is_empty() || !filter.types.is_empty()).then_some(filter))
}

fn date(request: &Request, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = request.query(name) else { return Ok(None) };
    // A `+` that was not escaped arrives as a space.
    match text.replace(' ', "+").parse() {
        Ok(at) => Ok(Some(Timestamp(at))),
        Err(_) => Err(ApiError::new(Code::InvalidQueryParameter)
            .detail(format!("The query parameter {name} is a time such as 2026-08-10T03:07:31Z."))
            .param(name)),
    }
}

fn shown(request: &Request, event: &Event, raw: bool) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("id", json!(event.id));
    put("created", json!(time(event.at)));
    put("eventTypeName", json!(event.event_type));
    let mut place = String::new();
    if let Some(project) = event.project {
        put("groupId", json!(project));
        place = format!("groups/{project}");
    }
    if let Some(org) = event.org {
        put("orgId", json!(org));
        if place.is_empty() {
            place = format!("orgs/{org}");
        }
    }
    put("isGlobalAdmin", json!(false));
    match &event.actor {
        Actor::User { id, username } => {
            put("userId", json!(id));
            put("username", json!(username));
        }
        Actor::ApiKey { id, public_key } => {
            put("apiKeyId", json!(id));
            put("publicKey", json!(public_key));
        }
        Actor::ServiceAccount { client_id, name } => {
            put("clientId", json!(client_id));
            put("clientName", json!(name));
        }
        // Atlas names nobody where it acted itself.
        Actor::Node { .. } | Actor::Job { .. } | Actor::Operator => {}
    }
    if let Some(remote) = event.remote {
        put("remoteAddress", json!(in_full(remote)));
    }
    if let Some(cluster) = &event.cluster {
        put("clusterName", json!(cluster));
    }
    const TARGETS: [&str; 7] = [
        "alertId",
        "alertConfigId",
        "targetUsername",
        "targetPublicKey",
        "whitelistEntry",
        "resourceId",
        "resourceType",
    ];
    for name in TARGETS {
        if let Some(value) = event.detail.get(name) {
            put(name, value.clone());
        }
    }
    if let EventType::ClusterTagsModified | EventType::ProjectTagsModified = event.event_type
        && !event.detail.contains_key("resourceType")
    {
        put("resourceType", json!(if event.cluster.is_some() { "cluster" } else { "project" }));
    }
    if raw {
        put("raw", raw_event(event));
    }
    put(
        "links",
        json!([{"rel": "self", "href": request.href(&format!("/api/atlas/v2/{place}/events/{}", event.id))}]),
    );
    Value::Object(shown)
}

/// The same once more, as Atlas' `includeRaw` has it, with what it says in words.
fn raw_event(event: &Event) -> Value {
    let mut raw = Map::new();
    let mut put = |name: &str, value: Value| raw.insert(name.to_owned(), value);
    put("_t", json!("EVENT"));
    put("id", json!(event.id));
    put("cre", json!(time(event.at)));
    if let Some(project) = event.project {
        put("cid", json!(project));
    }
    if let Some(org) = event.org {
        put("orgId", json!(org));
    }
    put("description", json!(description(event)));
    let bad = event.outcome == Outcome::Failed
        || AlertType::parse(event.event_type.as_str())
            .is_some_and(|kind| kind.trigger() == Trigger::Condition);
    put("severity", json!(if bad { "WARNING" } else { "INFO" }));
    Value::Object(raw)
}

fn description(event: &Event) -> String {
    let mut text = event.event_type.text().to_owned();
    for (name, value) in &event.detail {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!(" {name}: {value}."));
    }
    text.chars().take(2000).collect()
}

/// Atlas' document wants all eight parts of an IPv6 address.
fn in_full(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let parts: Vec<String> = address.segments().iter().map(|part| format!("{part:x}")).collect();
            parts.join(":")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_in_full() {
        assert_eq!(in_full("::1".parse().unwrap()), "0:0:0:0:0:0:0:1");
        assert_eq!(in_full("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1");
        assert_eq!(in_full("10.0.0.1".parse().unwrap()), "10.0.0.1");
    }
}
