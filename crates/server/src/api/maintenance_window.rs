//! The maintenance window of a project. What it means is [`keyward_model::maintenance`]'s to decide.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use keyward_model::{
    Code,
    event::EventType,
    maintenance::{Maintenance, Patch, ProtectedHours, Refusal},
    role::{
        ProjectRole::{GroupOwner, GroupReadOnly},
        Requirement,
    },
};
use keyward_store::{Change, Stored, Tx};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Operation, Reply, Request, time};
use crate::{
    handler,
    http::{body::Field, error::ApiError, version::ApiVersion},
};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    const PATH: &str = "/api/atlas/v2/groups/{groupId}/maintenanceWindow";
    const OWNER: Requirement = Requirement::Project(&[GroupOwner]);
    let operation = |id, method, path, versions, requires, handler| Operation {
        id,
        method,
        path,
        versions,
        requires,
        handler,
    };
    let (dated, both): (&[_], &[_]) = (&["2023-01-01"], &["2023-01-01", "preview"]);
    vec![
        operation(
            "getGroupMaintenanceWindow",
            Method::GET,
            PATH,
            both,
            Requirement::Project(&[GroupReadOnly]),
            handler!(get),
        ),
        operation("updateGroupMaintenanceWindow", Method::PATCH, PATH, both, OWNER, handler!(update)),
        operation("resetGroupMaintenanceWindow", Method::DELETE, PATH, dated, OWNER, handler!(reset)),
        operation(
            "deferGroupMaintenanceWindow",
            Method::POST,
            "/api/atlas/v2/groups/{groupId}/maintenanceWindow/defer",
            dated,
            OWNER,
            handler!(defer),
        ),
        operation(
            "toggleGroupMaintenanceWindowAutoDefer",
            Method::POST,
            "/api/atlas/v2/groups/{groupId}/maintenanceWindow/autoDefer",
            dated,
            OWNER,
            handler!(toggle_auto_defer),
        ),
    ]
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    refuse_preview(&request)?;
    let project = request.project()?;
    let mut tx = request.app.store().read().await?;
    let stored = tx.get::<Maintenance>(project).await?;
    let maintenance = stored.map_or_else(|| Maintenance::new(project), |stored| stored.document);
    Ok(Reply::ok(shown(&maintenance)))
}

/// A request's window. What the server sets may come back as it was answered, and is refused when it differs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Given {
    day_of_week: Option<i64>,
    hour_of_day: Option<i64>,
    #[serde(default)]
    protected_hours: Field<GivenHours>,
    auto_defer_once_enabled: Option<bool>,
    #[serde(rename = "startASAP")]
    start_asap: Option<bool>,
    number_of_deferrals: Option<i64>,
    time_zone_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GivenHours {
    start_hour_of_day: Option<i64>,
    end_hour_of_day: Option<i64>,
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    refuse_preview(&request)?;
    let given: Given = request.parse()?;
    let patch = patch(&given)?;
    change(request, |before, now| {
        read_only("numberOfDeferrals", given.number_of_deferrals, i64::from(before.deferrals))?;
        read_only("timeZoneId", given.time_zone_id.clone(), before.time_zone.clone())?;
        Ok(before.patched(now, &patch)?)
    })
    .await
    .map(done)
}

async fn reset(request: Request) -> Result<Reply, ApiError> {
    change(request, |before, _| Ok(before.reset()?)).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

async fn defer(request: Request) -> Result<Reply, ApiError> {
    change(request, |before, _| Ok(before.deferred()?)).await.map(done)
}

async fn toggle_auto_defer(request: Request) -> Result<Reply, ApiError> {
    change(request, |before, _| Ok(before.auto_defer_toggled()?)).await.map(done)
}

/// What the preview adds (waves of projects) is not built; an answer without it would be a wrong one.
fn refuse_preview(request: &Request) -> Result<(), ApiError> {
    if request.version == ApiVersion::Preview {
        return Err(ApiError::new(Code::NotImplemented)
            .detail(format!(
                "keyward does not answer the preview of {} yet: it has no waves.",
                request.operation.id
            ))
            .param(request.operation.id));
    }
    Ok(())
}

fn patch(given: &Given) -> Result<Patch, ApiError> {
    let protected_hours = match &given.protected_hours {
        Field::Absent => None,
        Field::Null => Some(None),
        Field::Set(GivenHours { start_hour_of_day: None, end_hour_of_day: None }) => Some(None),
        Field::Set(hours) => {
            let start = within("protectedHours.startHourOfDay", hours.start_hour_of_day, 0, 23)?;
            let end = within("protectedHours.endHourOfDay", hours.end_hour_of_day, 0, 23)?;
            let missing = |name: &str| {
                ApiError::new(Code::MissingAttribute)
                    .detail(format!("Protected hours need a start and an end; {name} is missing."))
                    .param(name)
                    .field(name, "is missing")
            };
            Some(Some(ProtectedHours {
                start_hour_of_day: start.ok_or_else(|| missing("protectedHours.startHourOfDay"))?,
                end_hour_of_day: end.ok_or_else(|| missing("protectedHours.endHourOfDay"))?,
            }))
        }
    };
    Ok(Patch {
        day_of_week: within("dayOfWeek", given.day_of_week, 1, 7)?,
        hour_of_day: within("hourOfDay", given.hour_of_day, 0, 23)?,
        protected_hours,
        auto_defer_once: given.auto_defer_once_enabled,
        start_asap: given.start_asap,
    })
}

fn within(name: &str, given: Option<i64>, least: i64, most: i64) -> Result<Option<u8>, ApiError> {
    let Some(number) = given else { return Ok(None) };
    match u8::try_from(number) {
        Ok(small) if (least..=most).contains(&number) => Ok(Some(small)),
        Ok(_) | Err(_) => Err(ApiError::new(Code::InvalidAttribute)
            .detail(format!("{name} is a number from {least} to {most}."))
            .param(name)
            .field(name, format!("is a number from {least} to {most}"))),
    }
}

fn read_only<T: PartialEq>(name: &str, given: Option<T>, is: T) -> Result<(), ApiError> {
    match given {
        Some(given) if given != is => Err(ApiError::new(Code::InvalidAttribute)
            .detail(format!(
                "{name} is set by the server and cannot be changed; leave it out, or send it as it is."
            ))
            .param(name)
            .field(name, "is read-only")),
        Some(_) | None => Ok(()),
    }
}

/// Loads, decides, stores and tells of it. Nothing is written, and no event made, where nothing changes.
async fn change(
    request: Request,
    decide: impl FnOnce(&Maintenance, keyward_model::Timestamp) -> Result<Maintenance, ApiError> + Send,
) -> Result<ApiVersion, ApiError> {
    let (project, now) = (request.project()?, request.now());
    let mut change: Change = request.app.store().change().await?;
    let stored = load(&mut change, project).await?;
    let before = stored.as_ref().map_or_else(|| Maintenance::new(project), |stored| stored.document.clone());
    let after = decide(&before, now)?;
    let Some(event_type) = what_happened(&before, &after) else { return Ok(request.version) };
    match stored {
        Some(stored) => {
            change.update(&after, stored.revision).await?;
        }
        None => change.insert(&after).await?,
    }
    let mut event = request.event(event_type).detail("maintenanceWindow", shown(&after));
    if let Some(scheduled) = after.scheduled {
        event = event.detail("scheduledFor", time(scheduled.start));
    }
    change.commit(event, now).await?;
    request.app.nudge().jobs();
    Ok(request.version)
}

async fn load(
    tx: &mut Tx,
    project: keyward_model::id::ProjectId,
) -> Result<Option<Stored<Maintenance>>, ApiError> {
    Ok(tx.get::<Maintenance>(project).await?)
}

/// The one event of a change: the first that applies, the window before what is beside it.
fn what_happened(before: &Maintenance, after: &Maintenance) -> Option<EventType> {
    let hours = (before.protected_hours, after.protected_hours);
    if before == after {
        None
    } else if before.scheduled != after.scheduled {
        Some(EventType::MaintenanceDeferred)
    } else if before.window != after.window {
        Some(match (before.window, after.window) {
            (None, _) => EventType::MaintenanceWindowAdded,
            (Some(_), Some(_)) => EventType::MaintenanceWindowModified,
            (Some(_), None) => EventType::MaintenanceWindowRemoved,
        })
    } else if hours.0 != hours.1 {
        Some(match hours {
            (None, _) => EventType::ProtectedHoursCreated,
            (Some(_), Some(_)) => EventType::ProtectedHoursModified,
            (Some(_), None) => EventType::ProtectedHoursRemoved,
        })
    } else if before.auto_defer_once != after.auto_defer_once {
        Some(match after.auto_defer_once {
            true => EventType::MaintenanceAutoDeferEnabled,
            false => EventType::MaintenanceAutoDeferDisabled,
        })
    } else if after.start_asap && !before.start_asap {
        Some(EventType::MaintenanceStartAsap)
    } else {
        Some(EventType::MaintenanceWindowModified)
    }
}

/// Atlas' answer: no window shows as its default, for clients expect a day.
fn shown(maintenance: &Maintenance) -> Value {
    let (day, hour) = maintenance.window.map_or((1, 1), |window| (window.day_of_week, window.hour_of_day));
    let mut shown = json!({
        "autoDeferOnceEnabled": maintenance.auto_defer_once,
        "dayOfWeek": day,
        "hourOfDay": hour,
        "numberOfDeferrals": maintenance.deferrals,
        "startASAP": maintenance.start_asap,
        "timeZoneId": maintenance.time_zone,
    });
    if let (Some(hours), Some(object)) = (maintenance.protected_hours, shown.as_object_mut()) {
        object.insert("protectedHours".to_owned(), json!(hours));
    }
    shown
}

/// 200 without a body, and the media type in a header of its own, as Atlas answers here.
fn done(version: ApiVersion) -> Reply {
    let mut reply = Reply::empty(StatusCode::OK);
    if let Ok(value) = HeaderValue::from_str(&version.media_type()) {
        reply.headers.push((HeaderName::from_static("x-content-type"), value));
    }
    reply
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let mut text = refusal.to_string();
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let said = |code| ApiError::new(code).detail(format!("{text}."));
        match refusal {
            Refusal::DayMissing => {
                said(Code::MissingAttribute).param("dayOfWeek").field("dayOfWeek", "is missing")
            }
            Refusal::HourProtected { .. } | Refusal::ProtectedHoursEmpty { .. } => {
                said(Code::InvalidAttribute)
                    .param("protectedHours")
                    .field("protectedHours", refusal.to_string())
            }
            Refusal::AlreadyScheduled { start } => said(Code::MaintenanceAlreadyScheduled).param(time(start)),
            Refusal::NotScheduled => said(Code::MaintenanceNotScheduled),
            Refusal::NotDefined => said(Code::MaintenanceWindowNotDefined),
            Refusal::DeferralsExceeded => said(Code::MaintenanceDeferralsExceeded),
            Refusal::NonCompliant { deadline } => {
                said(Code::NonCompliantMaintenanceWindow).param(time(deadline))
            }
        }
    }
}
