//! What `keyward dev` sees at one moment, and what changed between two moments. Values only: nothing here asks
//! or draws.

use keyward_model::{NodeState, NodeStatus, Timestamp, Verdict};
use serde::Serialize;

use crate::render::{GREEN, RED, YELLOW, clock, short, styled, verdict_word};

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) started_at: Timestamp,
    /// `mongod` or `secantusdb`.
    pub(crate) engine: &'static str,
    pub(crate) vault: VaultView,
    pub(crate) key: KeyView,
    pub(crate) server: ServerView,
    pub(crate) windows: Windows,
    pub(crate) nodes: Vec<NodeView>,
}

/// The vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VaultView {
    pub(crate) url: String,
    /// Whether it answers its administrator.
    pub(crate) up: bool,
    /// Faults that are switched on.
    pub(crate) faults: Vec<String>,
}

/// The customer key that nodes are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyView {
    pub(crate) name: String,
    /// Its newest version.
    pub(crate) version: String,
    pub(crate) state: KeyState,
}

/// The server, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerView {
    pub(crate) url: String,
    /// Whether its API answers.
    pub(crate) up: bool,
    /// The demo cluster's state (`IDLE`, …); `None` while there is none.
    pub(crate) cluster: Option<String>,
    /// Open alerts by their types.
    pub(crate) alerts: Vec<String>,
    /// The newest events of its audit log, oldest first.
    pub(crate) audit: Vec<Audit>,
}

/// One event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) id: String,
    pub(crate) event_type: String,
    /// Who did it.
    pub(crate) by: String,
}

/// What the vault says of the customer key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    Enabled,
    Disabled,
    Deleted,
    /// The vault is not there to ask.
    Unknown,
}

impl KeyState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            KeyState::Enabled => "enabled",
            KeyState::Disabled => "disabled",
            KeyState::Deleted => "deleted",
            KeyState::Unknown => "not known",
        }
    }
}

/// How often nodes probe, and how long refusals last until they count as revocation. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) probe_s: u64,
    pub(crate) strong_s: u64,
    pub(crate) denial_s: u64,
}

/// The windows of `keyward dev`: short, so that a person sees what happens.
pub(crate) const SHORT: Windows = Windows { probe_s: 1, strong_s: 5, denial_s: 15 };

impl Windows {
    /// In a sentence.
    pub(crate) fn text(self) -> String {
        format!(
            "probes every {} s; revoked after {} s of refusals, {} s of denials (short: for trials)",
            self.probe_s, self.strong_s, self.denial_s
        )
    }
}

/// One node; no status when its agent does not answer.
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) uri: String,
    pub(crate) status: Option<NodeStatus>,
}

/// Something a person is told; one line, or one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum What {
    /// The vault answers, or no longer.
    Vault { url: String, up: bool },
    /// Faults were switched on or off.
    Faults { faults: Vec<String> },
    /// The customer key changed.
    CustomerKey { name: String, version: String, state: &'static str },
    /// The server answers, or no longer.
    Server { url: String, up: bool },
    /// The demo cluster came into another state.
    Cluster { name: &'static str, state: String },
    /// An alert was opened, or is over.
    Alert { alert: String, open: bool },
    /// The audit log has another event.
    Audit { event_type: String, by: String },
    /// A node came into another state.
    State { node: String, state: NodeState, verdict: Verdict, reason: String },
    /// A node's verdict changed and its state did not.
    Verdict { node: String, verdict: Verdict, reason: String },
    /// A node has another master key.
    MasterKey { node: String, id: String },
    /// A node's master key is wrapped by another customer key.
    Rewrapped { node: String, key_identifier: String },
    /// A node's agent does not answer.
    AgentGone { node: String },
    /// `keyward dev` itself.
    Notice { text: String },
    /// Something went wrong.
    Trouble { text: String },
}

impl Event {
    /// For a log on stdout.
    pub(crate) fn line(&self) -> String {
        let (who, text, style) = self.parts();
        let dot = styled("●", style);
        format!("{} {dot} {who:8} {text}\n", clock(self.at))
    }

    /// Who, what, and how good that is.
    pub(crate) fn parts(&self) -> (&str, String, anstyle::Style) {
        match &self.what {
            What::Vault { up: true, url } => ("vault", format!("answers at {url}"), GREEN),
            What::Vault { up: false, .. } => ("vault", "does not answer".into(), YELLOW),
            What::Faults { faults } if faults.is_empty() => ("vault", "no fault any more".into(), GREEN),
            What::Faults { faults } => ("vault", format!("fault: {}", faults.join(", ")), YELLOW),
            What::CustomerKey { name, version, state } => {
                let style = if *state == "enabled" { GREEN } else { RED };
                ("vault", format!("{name} {} is {state}", short(version)), style)
            }
            What::Server { up: true, url } => ("server", format!("answers at {url}"), GREEN),
            What::Server { up: false, .. } => ("server", "does not answer; nodes run on".into(), YELLOW),
            What::Cluster { name, state } => {
                let style = if state == "IDLE" { GREEN } else { YELLOW };
                ("server", format!("cluster {name} is {state}"), style)
            }
            What::Alert { alert, open: true } => ("server", format!("alert: {alert}"), RED),
            What::Alert { alert, open: false } => ("server", format!("alert is over: {alert}"), GREEN),
            What::Audit { event_type, by } => ("audit", format!("{event_type} by {by}"), GREEN),
            What::State { node, state, reason, .. } => {
                (node, format!("{state}: {reason}"), crate::render::state_style(*state))
            }
            What::Verdict { node, verdict, reason } => {
                let style = match verdict {
                    Verdict::Valid => GREEN,
                    Verdict::Unavailable => YELLOW,
                    Verdict::Revoked => RED,
                };
                (node, format!("{}: {reason}", verdict_word(*verdict)), style)
            }
            What::MasterKey { node, id } => (node, format!("master key {}", short(id)), GREEN),
            What::Rewrapped { node, key_identifier } => {
                let version = key_identifier.rsplit('/').next().unwrap_or_default();
                (node, format!("master key wrapped by customer key version {}", short(version)), GREEN)
            }
            What::AgentGone { node } => (node, "its agent does not answer".into(), RED),
            What::Notice { text } => ("dev", text.clone(), GREEN),
            What::Trouble { text } => ("dev", text.clone(), RED),
        }
    }
}

/// What changed from one moment to the next, in the order of the screen.
pub(crate) fn changes(before: Option<&View>, after: &View) -> Vec<Event> {
    let mut what = Vec::new();
    if before.is_none_or(|b| b.vault.up != after.vault.up) {
        what.push(What::Vault { url: after.vault.url.clone(), up: after.vault.up });
    }
    let faults_before = before.map(|b| b.vault.faults.as_slice()).unwrap_or_default();
    if after.vault.up && faults_before != after.vault.faults {
        what.push(What::Faults { faults: after.vault.faults.clone() });
    }
    let key_before = before.map(|b| &b.key);
    if after.key.state != KeyState::Unknown && key_before != Some(&after.key) {
        what.push(What::CustomerKey {
            name: after.key.name.clone(),
            version: after.key.version.clone(),
            state: after.key.state.word(),
        });
    }
    server_changes(before.map(|b| &b.server), &after.server, &mut what);
    for node in &after.nodes {
        let earlier = before.and_then(|b| b.nodes.iter().find(|n| n.name == node.name));
        node_changes(earlier.and_then(|n| n.status.as_ref()), node, &mut what);
    }
    what.into_iter().map(|what| Event { at: after.now, what }).collect()
}

fn server_changes(before: Option<&ServerView>, now: &ServerView, what: &mut Vec<What>) {
    if before.is_none_or(|b| b.up != now.up) {
        what.push(What::Server { url: now.url.clone(), up: now.up });
    }
    if !now.up {
        return;
    }
    let seen = |id: &str| before.is_some_and(|b| b.audit.iter().any(|event| event.id == id));
    // What happened before the first look is history.
    for event in now.audit.iter().filter(|event| before.is_some() && !seen(&event.id)) {
        what.push(What::Audit { event_type: event.event_type.clone(), by: event.by.clone() });
    }
    let known = before.and_then(|b| b.cluster.as_ref());
    if let Some(state) = now.cluster.as_ref().filter(|state| known != Some(*state)) {
        what.push(What::Cluster { name: super::server::CLUSTER, state: state.clone() });
    }
    let alerts_before = before.map(|b| b.alerts.as_slice()).unwrap_or_default();
    let opened = now.alerts.iter().filter(|alert| !alerts_before.contains(alert)).map(|alert| (alert, true));
    let over = alerts_before.iter().filter(|alert| !now.alerts.contains(alert)).map(|alert| (alert, false));
    what.extend(opened.chain(over).map(|(alert, open)| What::Alert { alert: alert.clone(), open }));
}

fn node_changes(before: Option<&NodeStatus>, node: &NodeView, what: &mut Vec<What>) {
    let name = || node.name.clone();
    let Some(now) = &node.status else {
        if before.is_some() {
            what.push(What::AgentGone { node: name() });
        }
        return;
    };
    if before.map(|b| b.state) != Some(now.state) {
        what.push(What::State {
            node: name(),
            state: now.state,
            verdict: now.verdict,
            reason: now.reason.clone(),
        });
    } else if before.map(|b| b.verdict) != Some(now.verdict) {
        what.push(What::Verdict { node: name(), verdict: now.verdict, reason: now.reason.clone() });
    }
    let Some(before) = before else { return };
    if let (Some(a), Some(b)) = (&before.master_key, &now.master_key)
        && a.id != b.id
    {
        what.push(What::MasterKey { node: name(), id: b.id.clone() });
    }
    if let (Some(a), Some(b)) = (&before.customer_key, &now.customer_key)
        && a.key_identifier != b.key_identifier
    {
        what.push(What::Rewrapped { node: name(), key_identifier: b.key_identifier.to_string() });
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::render::samples as status;

    fn view(up: bool, state: KeyState, of: fn(&str) -> NodeStatus) -> View {
        View {
            now: Timestamp::from_epoch_ms(status::NOW_MS),
            started_at: Timestamp::from_epoch_ms(status::NOW_MS - 133_000),
            engine: "secantusdb",
            vault: VaultView { url: "https://localhost:40123".into(), up, faults: Vec::new() },
            key: KeyView {
                name: "customer-key".into(),
                version: status::key_identifier().version().into(),
                state,
            },
            server: ServerView {
                url: "https://localhost:40124/".into(),
                up: true,
                cluster: Some("IDLE".into()),
                alerts: if state == KeyState::Disabled {
                    vec!["AZURE_ENCRYPTION_KEY_INVALID".into()]
                } else {
                    Vec::new()
                },
                audit: vec![Audit {
                    id: "1".into(),
                    event_type: "CLUSTER_CREATED".into(),
                    by: "abcdefgh".into(),
                }],
            },
            windows: SHORT,
            nodes: ["node-0", "node-1", "node-2"]
                .map(|name| NodeView {
                    name: name.into(),
                    uri: format!("mongodb://127.0.0.1:2701{}/", &name[5..]),
                    status: Some(of(name)),
                })
                .into(),
        }
    }

    pub(crate) fn running() -> View {
        view(true, KeyState::Enabled, status::running)
    }

    pub(crate) fn revoked() -> View {
        view(true, KeyState::Disabled, status::revoked)
    }

    pub(crate) fn outage() -> View {
        view(false, KeyState::Unknown, status::outage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(before: Option<&View>, after: &View) -> String {
        let lines: String = changes(before, after).iter().map(Event::line).collect();
        anstream::adapter::strip_str(&lines).to_string()
    }

    #[test]
    fn the_first_look_tells_everything_the_second_nothing() {
        let view = samples::running();
        insta::assert_snapshot!(lines(None, &view));
        assert_eq!(changes(Some(&view), &view), []);
    }

    #[test]
    fn revocation_and_return() {
        insta::assert_snapshot!(lines(Some(&samples::running()), &samples::revoked()));
        insta::assert_snapshot!(lines(Some(&samples::revoked()), &samples::running()));
    }

    #[test]
    fn an_outage_changes_verdicts_not_states() {
        insta::assert_snapshot!(lines(Some(&samples::running()), &samples::outage()));
    }

    #[test]
    fn rotation_and_a_lost_agent() {
        let before = samples::running();
        let mut after = before.clone();
        after.nodes[0].status.as_mut().unwrap().master_key.as_mut().unwrap().id = "f".repeat(32);
        after.nodes[1].status.as_mut().unwrap().customer_key.as_mut().unwrap().key_identifier =
            format!("https://localhost:40123/keys/customer-key/{}", "e".repeat(32)).parse().unwrap();
        after.nodes[2].status = None;
        after.vault.faults = vec!["throttle".into()];
        insta::assert_snapshot!(lines(Some(&before), &after));
    }

    #[test]
    fn what_the_server_shows() {
        let before = samples::running();
        let mut after = before.clone();
        after.server.cluster = Some("UPDATING".into());
        after.server.audit.push(Audit {
            id: "2".into(),
            event_type: "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED".into(),
            by: "abcdefgh".into(),
        });
        insta::assert_snapshot!(lines(Some(&before), &after));
        // A server that is away and comes back repeats nothing.
        let mut away = after.clone();
        away.server.up = false;
        insta::assert_snapshot!([lines(Some(&after), &away), lines(Some(&away), &after)].concat());
    }

    #[test]
    fn events_as_json() {
        let event = &changes(Some(&samples::running()), &samples::revoked())[1];
        insta::assert_json_snapshot!(event);
    }
}
