//! `keyward alert …`.

use keyward_model::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::answer::{ago, lines, or_dash, rows, text};
use crate::api::{atlas, own, project};
use crate::args::event::{AlertCommand, AlertStatus};
use crate::dev::now;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{BOLD, DIM, GREEN, RED, YELLOW, styled};

pub(crate) async fn run(command: AlertCommand) -> Result<(), Failure> {
    match command {
        AlertCommand::List { status, scope } => {
            let (api, id) = project(&scope).await?;
            let mut alerts = api.list(own(["groups", &id, "alerts"])).await?;
            if let Some(wanted) = status.api() {
                alerts.retain(|alert| text(alert, "/status") == wanted);
            }
            let none = match status {
                AlertStatus::Open => "no open alert",
                AlertStatus::Tracking | AlertStatus::Closed | AlertStatus::All => "no alert",
            };
            let now = now();
            Output { json: scope.access.json }.data(&alerts, |alerts| {
                let mut told = rows(["ALERT", "STATUS", "AGE", "SEEN BY", "ID"], none, alerts, |alert| {
                    [
                        text(alert, "/eventTypeName").into(),
                        status_text(text(alert, "/status")),
                        ago(alert, "/since", now),
                        or_dash(text(alert, "/acknowledgedBy")),
                        text(alert, "/id").into(),
                    ]
                });
                for alert in alerts {
                    let (name, said) = (text(alert, "/eventTypeName"), text(alert, "/text"));
                    told.push_str(&format!("\n{}\n  {said}\n", styled(name, BOLD)));
                }
                told
            })
        }
        AlertCommand::Show { id: alert, scope } => {
            let (api, id) = project(&scope).await?;
            // That there is none is said as the Atlas Administration API says it; ours has the words beside.
            let plain = api.get(atlas(["groups", &id, "alerts", &alert])).await?;
            let all = api.list(own(["groups", &id, "alerts"])).await?;
            let found = all.into_iter().find(|one| text(one, "/id") == alert).unwrap_or(plain);
            Output { json: scope.access.json }.data(&found, |found| alert_text(found, now()))
        }
        AlertCommand::Acknowledge { id: alert, duration, comment, scope } => {
            let (api, id) = project(&scope).await?;
            let out_of_range = || Failure::usage("--for is out of range", "give at most some years");
            let length = jiff::SignedDuration::try_from(duration).map_err(|_| out_of_range())?;
            let until = now().0.checked_add(length).map_err(|_| out_of_range())?;
            let mut body = Map::new();
            body.insert("acknowledgedUntil".into(), json!(until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
            if let Some(comment) = comment {
                body.insert("acknowledgementComment".into(), json!(comment));
            }
            let done = api.patch(atlas(["groups", &id, "alerts", &alert]), &body).await?;
            Output { json: scope.access.json }.data(&done, |done| {
                match (text(done, "/eventTypeName"), text(done, "/acknowledgedUntil")) {
                    (name, "") => format!("nobody looks after {name} any more\n"),
                    (name, until) => format!("{name} is acknowledged until {until}\n"),
                }
            })
        }
    }
}

fn alert_text(alert: &Value, now: Timestamp) -> String {
    let when = |pointer| match text(alert, pointer) {
        "" => String::new(),
        at => format!("{at} ({} ago)", ago(alert, pointer, now)),
    };
    let seen = match (text(alert, "/acknowledgedUntil"), text(alert, "/acknowledgedBy")) {
        ("", _) => "nobody yet: keyward alert acknowledge".to_owned(),
        (until, "") => format!("until {until}"),
        (until, by) => format!("{by}, until {until}"),
    };
    lines(&[
        ("alert", styled(text(alert, "/eventTypeName"), BOLD)),
        ("id", text(alert, "/id").into()),
        ("status", status_text(text(alert, "/status"))),
        ("found", text(alert, "/text").into()),
        ("since", when("/since")),
        ("over", when("/resolved")),
        ("cluster", text(alert, "/clusterName").into()),
        ("node", text(alert, "/node").into()),
        ("address", text(alert, "/hostnameAndPort").into()),
        ("looked after", if text(alert, "/status") == "CLOSED" { String::new() } else { seen }),
        ("comment", text(alert, "/acknowledgementComment").into()),
        ("configuration", text(alert, "/alertConfigId").into()),
    ])
}

fn status_text(status: &str) -> String {
    let style = match status {
        "OPEN" => RED,
        "TRACKING" => YELLOW,
        "CLOSED" => GREEN,
        _ => DIM,
    };
    styled(&format!("● {status}"), style)
}
