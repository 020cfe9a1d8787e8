//! `keyward event …`.

use std::collections::VecDeque;

use anstyle::Style;
use keyward_model::event::EventType;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::cluster::LOOK;
use crate::api::answer::{items, or_dash, text, time};
use crate::api::{Api, Endpoint, organization, own, project};
use crate::args::event::{EventCommand, EventList};
use crate::args::scope::InOrg;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{DIM, RED, styled};
use crate::signals;

/// Events asked for at a time while following.
const PAGE: u32 = 500;
/// Ids remembered while following, so that no event is shown twice.
const SEEN: usize = 4 * PAGE as usize;

pub(crate) async fn run(command: EventCommand) -> Result<(), Failure> {
    match command {
        EventCommand::List(list) => show(&list).await,
    }
}

/// Events as lines, oldest first; with `follow`, new ones as they come.
async fn show(list: &EventList) -> Result<(), Failure> {
    // A misspelt type would be waited for in vain.
    if let Some(unknown) = list.types.iter().find(|name| EventType::parse(name).is_none()) {
        return Err(Failure::usage(
            format!("there is no event of the type {unknown}"),
            "see the types that there were: keyward event list",
        ));
    }
    let (api, endpoint) = match &list.org {
        Some(org) => {
            let scope = InOrg { org: Some(org.clone()), access: list.scope.access.clone() };
            let (api, id) = organization(&scope).await?;
            (api, own(["orgs", &id, "events"]))
        }
        None => {
            let (api, id) = project(&list.scope).await?;
            (api, own(["groups", &id, "events"]))
        }
    };
    let endpoint = list.types.iter().fold(endpoint, |endpoint, one| endpoint.with("eventType", one));
    let output = Output { json: list.scope.access.json };
    if !list.follow {
        let events = newest(&api, &endpoint, list.limit).await?;
        if output.json {
            return output.data(&events, |_| String::new());
        }
        return events.iter().try_for_each(|event| output.line(event, line));
    }
    let shutdown = CancellationToken::new();
    signals::cancel_on_end(&shutdown)?;
    // All that is there counts as seen, and the newest of it is shown.
    let mut events = newest(&api, &endpoint, PAGE).await?;
    let mut seen = Seen::default();
    seen.retain_new(&mut events);
    let surplus = events.len().saturating_sub(list.limit as usize);
    events.drain(..surplus);
    loop {
        for event in &events {
            output.line(event, line)?;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        events = tokio::select! {
            events = newest(&api, &endpoint, PAGE) => events?,
            () = shutdown.cancelled() => return Ok(()),
        };
        seen.retain_new(&mut events);
    }
}

/// Which events were there already, by their ids: as many as can come again.
#[derive(Debug, Default)]
struct Seen(VecDeque<String>);

impl Seen {
    /// Leaves in `events` those that are new, and remembers them.
    fn retain_new(&mut self, events: &mut Vec<Value>) {
        events.retain(|event| !self.0.iter().any(|id| id == text(event, "/id")));
        self.0.extend(events.iter().map(|event| text(event, "/id").to_owned()));
        let surplus = self.0.len().saturating_sub(SEEN);
        self.0.drain(..surplus);
    }
}

/// The newest events, oldest first.
async fn newest(api: &Api, endpoint: &Endpoint, limit: u32) -> Result<Vec<Value>, Failure> {
    let answer = api.get(endpoint.clone().with("itemsPerPage", limit)).await?;
    Ok(items(&answer, "/results").iter().rev().cloned().collect())
}

/// Who did what an event tells, without the kind: `abcdefgh`, `clusters`.
pub(crate) fn actor(event: &Value) -> &str {
    text(event, "/actor")
}

fn line(event: &Value) -> String {
    let at = time(event, "/at").map_or_else(String::new, |at| at.0.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let style = if text(event, "/outcome") == "succeeded" { Style::new() } else { RED };
    let about = [text(event, "/clusterName").to_owned(), details(&event["detail"])];
    let about: Vec<String> = about.into_iter().filter(|part| !part.is_empty()).collect();
    format!(
        "{}  {}  {}\n{:21}{}\n",
        styled(&at, DIM),
        styled(&format!("{:<52}", text(event, "/type")), style),
        or_dash(actor(event)),
        "",
        styled(
            &[text(event, "/text").trim_end_matches('.').to_owned()]
                .into_iter()
                .chain(about)
                .collect::<Vec<_>>()
                .join("; "),
            DIM
        )
    )
}

/// Details as `name value` with commas; long ones are left to `--json`.
fn details(detail: &Value) -> String {
    const LONGEST: usize = 240;
    let parts: Vec<String> = detail
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some(format!("{name} {text}")),
            Value::Bool(_) | Value::Number(_) => Some(format!("{name} {value}")),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        })
        .collect();
    let text = parts.join(", ");
    if text.chars().count() > LONGEST { String::new() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_new_once() {
        let events = |ids: std::ops::Range<usize>| ids.map(|id| json!({ "id": id.to_string() })).collect();
        let mut seen = Seen::default();
        let mut new = |ids| {
            let mut events: Vec<Value> = events(ids);
            seen.retain_new(&mut events);
            events.len()
        };
        assert_eq!([new(0..500), new(0..500), new(3..503), new(3..503)], [500, 0, 3, 0]);
        for first in (503..5000).step_by(100) {
            assert_eq!(new(first - 400..first + 100), 100);
        }
        assert!(seen.0.len() <= SEEN, "{}", seen.0.len());
    }
}
