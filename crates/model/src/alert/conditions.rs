//! From what is known of a project to what holds.

use std::collections::BTreeMap;

use super::{AlertType, Subject, Trigger};
use crate::{
    Class, KeyIdentifier, NodeState, Timestamp,
    count::counted,
    encryption::EncryptionAtRest,
    event::{Actor, Event},
    id::ClusterId,
    node::EnrolledNode,
    sync::Observed,
};

/// A node is silent when it has not reported for this long, in seconds. Agents report at least once a minute.
pub const SILENT_AFTER_S: i64 = 180;
/// Days before its end on which a client secret is warned of, the last first. 0: it is over.
pub const SECRET_EXPIRY_DAYS: [u16; 6] = [0, 1, 7, 14, 30, 60];

/// Days that a vault's own rotation may be late before anyone is told.
const ROTATION_GRACE_DAYS: i64 = 7;
const DAY_MS: i64 = 86_400_000;

/// What is known of a project.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its encryption at rest.
    pub encryption: Option<&'a EncryptionAtRest>,
    /// How often the vault replaces the customer key by itself, in days, where that is known.
    pub vault_rotates_after_days: Option<u32>,
    /// Its nodes, the revoked ones left out.
    pub nodes: &'a [NodeFacts<'a>],
    /// Its events of the last time.
    pub events: &'a [Event],
}

/// What is known of a node.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// The node.
    pub node: &'a EnrolledNode,
    /// The name of its cluster.
    pub cluster: Option<&'a str>,
    /// What it reported last, and when that came, by the server's clock.
    pub report: Option<(&'a Observed, Timestamp)>,
}

/// Something that holds, or that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub event_type: AlertType,
    /// About what.
    pub subject: Subject,
    /// Since when, as far as it is known; when it happened.
    pub since: Timestamp,
    /// For types with a threshold: how long it holds at least before it is worth a word, whatever the threshold.
    pub at_least_ms: i64,
    /// For a person.
    pub text: String,
}

/// What holds of a project at `now`.
pub fn conditions(now: Timestamp, facts: &Facts<'_>) -> Vec<Condition> {
    let mut found = Vec::new();
    if let Some(encryption) = facts.encryption
        && encryption.azure_key_vault.is_some()
    {
        found.extend(age_of_key(facts, encryption));
        found.extend(client_secret(now, encryption));
        found.extend(stalled(now, facts, encryption));
    }
    found.extend(customer_key(now, facts.nodes));
    found.extend(facts.nodes.iter().filter_map(|node| down(now, node)));
    found.extend(facts.nodes.iter().filter_map(|node| held_back(now, node)));
    found.extend(without_primary(now, facts.nodes));
    found.extend(facts.events.iter().filter_map(happened));
    found
}

fn holds(event_type: AlertType, subject: Subject, since: Timestamp, text: String) -> Condition {
    Condition { event_type, subject, since, at_least_ms: 0, text }
}

fn age_of_key(facts: &Facts<'_>, encryption: &EncryptionAtRest) -> Option<Condition> {
    let since = encryption.key_changed_at?;
    let text = "The customer key was set then and has not been replaced since.".to_owned();
    let at_least_ms =
        facts.vault_rotates_after_days.map_or(0, |days| (i64::from(days) + ROTATION_GRACE_DAYS) * DAY_MS);
    Some(Condition {
        at_least_ms,
        ..holds(AlertType::AzureKeyNeedsRotation, Subject::default(), since, text)
    })
}

fn client_secret(now: Timestamp, encryption: &EncryptionAtRest) -> Option<Condition> {
    let vault = encryption.azure_key_vault.as_ref()?;
    if vault.role_id.is_some() {
        return None;
    }
    let expires = encryption.client_secret_expires?;
    let left_ms = expires.epoch_ms() - now.epoch_ms();
    let stage = SECRET_EXPIRY_DAYS.into_iter().find(|days| left_ms <= i64::from(*days) * DAY_MS)?;
    let since = Timestamp::from_epoch_ms(expires.epoch_ms() - i64::from(stage) * DAY_MS);
    let client = &vault.client_id;
    let text = match stage {
        0 => format!(
            "The client secret of application {client} expired on {expires}; the vault refuses keyward."
        ),
        days => {
            let days = counted(days, "day", "days");
            format!("The client secret of application {client} expires within {days}, on {expires}.")
        }
    };
    let subject = Subject { stage_days: Some(stage), ..Subject::default() };
    Some(holds(AlertType::ClientSecretExpires, subject, since, text))
}

fn stalled(now: Timestamp, facts: &Facts<'_>, encryption: &EncryptionAtRest) -> Vec<Condition> {
    let wanted: Option<KeyIdentifier> =
        encryption.azure_key_vault.as_ref().and_then(|vault| vault.key().ok());
    let (Some(wanted), Some(since)) = (wanted, encryption.key_changed_at) else { return Vec::new() };
    let behind = |node: &NodeFacts<'_>| {
        let observed = node.fresh(now)?;
        let has = &observed.status.customer_key.as_ref()?.key_identifier;
        let text = format!("Node {} still has its master key under {has}.", node.node.name);
        (node.cluster.is_some() && *has != wanted)
            .then(|| holds(AlertType::UpdateStalled, node.subject(), since, text))
    };
    facts.nodes.iter().filter_map(behind).collect()
}

/// One condition per kind of trouble with the customer key, over all nodes that see it.
fn customer_key(now: Timestamp, nodes: &[NodeFacts<'_>]) -> Vec<Condition> {
    let mut seen: BTreeMap<AlertType, (Timestamp, Vec<String>)> = BTreeMap::new();
    for node in nodes {
        let Some(observed) = node.fresh(now) else { continue };
        let Some(newest) = observed.status.evidence.first() else { continue };
        for &trouble in troubles(newest.class) {
            let same =
                observed.status.evidence.iter().take_while(|one| troubles(one.class).contains(&trouble));
            let since = same.last().map_or(newest.at, |oldest| oldest.at);
            let entry = seen.entry(trouble).or_insert((since, Vec::new()));
            entry.0 = entry.0.min(since);
            entry.1.push(format!("{}: {}", node.node.name, newest.class.text()));
        }
    }
    seen.into_iter()
        .map(|(trouble, (since, mut texts))| {
            texts.sort();
            holds(trouble, Subject::default(), since, texts.join("; "))
        })
        .collect()
}

/// What a probe's answer is trouble of. A refusal and an outage are two alerts, as they are two verdicts.
fn troubles(class: Class) -> &'static [AlertType] {
    match class {
        // An expired key still unwraps.
        Class::Success | Class::KeyNotCurrent => &[],
        Class::KeyDisabled
        | Class::KeyDeleted
        | Class::VaultDeleted
        | Class::OperationTakenOff
        | Class::KeyPurged => &[AlertType::AzureKeyInvalid, AlertType::ConfigNoLongerValid],
        Class::BadCiphertext => &[AlertType::AzureKeyInvalid],
        Class::ApplicationDisabled
        | Class::DeniedByPolicy
        | Class::DeniedByRbac
        | Class::ApplicationDeleted
        | Class::ClientSecretExpired
        | Class::CredentialRejected
        | Class::Misconfigured => &[AlertType::ConfigNoLongerValid],
        Class::TimedOut
        | Class::ConnectionFailed
        | Class::NameNotResolved
        | Class::TlsFailed
        | Class::Unauthorized
        | Class::Throttled
        | Class::ServerFault
        | Class::DirectoryUnavailable
        | Class::DeniedByFirewall
        | Class::DeniedByPrivateLink
        | Class::Malformed => &[AlertType::NetworkAccessDenied],
    }
}

fn down(now: Timestamp, node: &NodeFacts<'_>) -> Option<Condition> {
    node.cluster?;
    let name = &node.node.name;
    let Some(observed) = node.fresh(now) else {
        let since = node.report.map_or(node.node.enrolled_at, |(_, at)| at);
        let silent = now.epoch_ms() - since.epoch_ms() > SILENT_AFTER_S * 1000;
        let text = format!("Node {name} last reported on {since}.");
        return silent.then(|| holds(AlertType::HostDown, node.subject(), since, text));
    };
    match observed.status.state {
        NodeState::Failed | NodeState::StoppedRevoked => {
            let text = format!("The database of node {name} does not run: {}", observed.status.reason);
            Some(holds(AlertType::HostDown, node.subject(), observed.status.since, text))
        }
        NodeState::Starting | NodeState::Running | NodeState::WaitingForCustomerKey | NodeState::Stopped => {
            None
        }
    }
}

fn held_back(now: Timestamp, node: &NodeFacts<'_>) -> Option<Condition> {
    let observed = node.fresh(now)?;
    let first = observed.held_back.first()?;
    let name = &node.node.name;
    let text = format!("Node {name}: {}. {} {}", first.what, first.reason, first.hint);
    Some(holds(AlertType::NodeHeldBack, node.subject(), observed.at, text))
}

fn without_primary(now: Timestamp, nodes: &[NodeFacts<'_>]) -> Vec<Condition> {
    let mut sets: BTreeMap<ClusterId, Vec<(&NodeFacts<'_>, &Observed)>> = BTreeMap::new();
    for node in nodes {
        let (Some(cluster), Some(observed)) = (node.node.cluster, node.fresh(now)) else { continue };
        sets.entry(cluster).or_default().push((node, observed));
    }
    let lost = |members: &Vec<(&NodeFacts<'_>, &Observed)>| {
        // Nodes that replicate nothing have no primary to lose.
        let states: Vec<&str> =
            members.iter().filter_map(|(_, seen)| seen.replica_state.as_deref()).collect();
        let since = members.iter().map(|(_, observed)| observed.at).min()?;
        if states.is_empty() || states.contains(&"PRIMARY") {
            return None;
        }
        let cluster = members.first()?.0.cluster?.to_owned();
        let text = format!("No member of {cluster} is primary: {}.", states.join(", "));
        let subject =
            Subject { replica_set: Some(cluster.clone()), cluster: Some(cluster), ..Subject::default() };
        Some(holds(AlertType::NoPrimary, subject, since, text))
    };
    sets.values().filter_map(lost).collect()
}

fn happened(event: &Event) -> Option<Condition> {
    let event_type = AlertType::ALL.iter().find(|kind| kind.trigger() == Trigger::Event(event.event_type))?;
    let by = match &event.actor {
        Actor::Job { .. } => String::new(),
        actor @ (Actor::User { .. }
        | Actor::ApiKey { .. }
        | Actor::ServiceAccount { .. }
        | Actor::Node { .. }
        | Actor::Operator) => format!(" By {actor}."),
    };
    let subject = Subject { event: Some(event.id), cluster: event.cluster.clone(), ..Subject::default() };
    Some(holds(*event_type, subject, event.at, format!("{}{by}", event_type.text())))
}

impl NodeFacts<'_> {
    /// What the node reported, unless that is too old to be believed.
    fn fresh(&self, now: Timestamp) -> Option<&Observed> {
        let (observed, at) = self.report?;
        (now.epoch_ms() - at.epoch_ms() <= SILENT_AFTER_S * 1000).then_some(observed)
    }

    fn subject(&self) -> Subject {
        let observed = self.report.map(|(observed, _)| observed);
        Subject {
            cluster: self.cluster.map(str::to_owned),
            replica_set: observed
                .and_then(|observed| observed.replica_state.as_ref())
                .and(self.cluster)
                .map(str::to_owned),
            node: Some(self.node.name.clone()),
            address: observed.map(|observed| observed.address.clone()),
            // A member's state changes while what it is about stays the same.
            member: None,
            ..Subject::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Evidence, RevocationPolicy, Verdict,
        encryption::{AzureEnvironment, AzureKeyVault, Validity},
        event::{EventType, NewEvent},
        id::{EventId, NodeId, ProjectId},
    };

    const PROJECT: ProjectId = ProjectId::from_bytes([3; 12]);
    const NOW: i64 = 1_800_000_000_000;
    const OLD: &str = "https://v1.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef";
    const NEW: &str = "https://v1.vault.azure.net/keys/k/ffffffffffffffffffffffffffffffff";

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_epoch_ms(ms)
    }

    fn encryption() -> EncryptionAtRest {
        EncryptionAtRest {
            project: PROJECT,
            azure_key_vault: Some(AzureKeyVault {
                azure_environment: AzureEnvironment::Azure,
                client_id: "client".into(),
                tenant_id: "tenant".into(),
                subscription_id: "subscription".into(),
                resource_group_name: "group".into(),
                key_vault_name: "v1".into(),
                key_identifier: NEW.into(),
                role_id: None,
                require_private_networking: false,
            }),
            enabled_for_search_nodes: false,
            policy: RevocationPolicy::default(),
            validity: Validity::default(),
            key_changed_at: Some(at(NOW - 10 * DAY_MS)),
            client_secret_expires: None,
            former_keys: Vec::new(),
        }
    }

    fn node(name: &str) -> EnrolledNode {
        EnrolledNode {
            node_id: NodeId(uuid::Uuid::from_u128(1)),
            project: PROJECT,
            name: name.into(),
            hostname: format!("{name}.example.com"),
            cluster: Some(ClusterId::from_bytes([4; 12])),
            public_key_sha256: String::new(),
            enrolled_at: at(0),
            revoked_at: None,
            silent_since: None,
            authority: None,
        }
    }

    fn observed(classes: &[Class]) -> Observed {
        let evidence = classes.iter().enumerate().map(|(age, class)| Evidence {
            at: at(NOW - i64::try_from(age).unwrap() * 60_000),
            class: *class,
            key_identifier: OLD.parse().unwrap(),
            host: None,
            http_status: None,
            code: None,
            inner_code: None,
            region: None,
            request_id: None,
            token_age_s: None,
            message: None,
        });
        let status = serde_json::json!({
            "node": "db1", "state": "running", "verdict": Verdict::Valid, "reason": "",
            "evidence": evidence.collect::<Vec<_>>(),
            "customerKey": {"keyIdentifier": OLD, "publicKeySha256": ""},
            "masterKey": null, "masterKeyHeld": true, "memoryLocked": true, "databaseKeys": [],
            "spareDatabaseKeys": 0, "engine": null, "since": at(0), "warnings": [], "link": null,
        });
        // Built from JSON, so that a field that a later contract adds with a default breaks nothing here.
        let value = serde_json::json!({
            "nodeId": uuid::Uuid::from_u128(1), "report": 1, "at": at(NOW), "agentVersion": "0.1.0",
            "address": "db1.example.com:27017", "status": status, "wraps": [], "doneRevision": 0,
            "progress": null, "heldBack": [], "validated": [], "snapshots": [], "replicaState": "PRIMARY",
        });
        serde_json::from_value(value).unwrap()
    }

    fn found(encryption: Option<&EncryptionAtRest>, seen: &Observed, reported: i64) -> Vec<Condition> {
        let node = node("db1");
        let nodes = [NodeFacts { node: &node, cluster: Some("orders"), report: Some((seen, at(reported))) }];
        let facts = Facts { encryption, vault_rotates_after_days: None, nodes: &nodes, events: &[] };
        conditions(at(NOW), &facts)
    }

    fn types(found: &[Condition]) -> Vec<AlertType> {
        found.iter().map(|condition| condition.event_type).collect()
    }

    #[test]
    fn an_outage_and_a_refusal_are_different_alerts() {
        let kinds = |class| types(&found(None, &observed(&[class]), NOW));
        assert_eq!(kinds(Class::Success), []);
        assert_eq!(kinds(Class::KeyNotCurrent), []);
        assert_eq!(kinds(Class::TimedOut), [AlertType::NetworkAccessDenied]);
        assert_eq!(kinds(Class::ClientSecretExpired), [AlertType::ConfigNoLongerValid]);
        assert_eq!(kinds(Class::KeyDisabled), [AlertType::AzureKeyInvalid, AlertType::ConfigNoLongerValid]);
        for class in Class::ALL {
            let counts = matches!(class.weight(), crate::Weight::Strong | crate::Weight::Denial);
            assert!(!counts || troubles(class).contains(&AlertType::ConfigNoLongerValid), "{class:?}");
        }
    }

    #[test]
    fn trouble_holds_since_its_first_sign() {
        let seen = observed(&[
            Class::TimedOut,
            Class::Throttled,
            Class::ServerFault,
            Class::Success,
            Class::TimedOut,
        ]);
        assert_eq!(found(None, &seen, NOW)[0].since, at(NOW - 2 * 60_000));
    }

    #[test]
    fn a_silent_node_is_down_and_believed_in_nothing_else() {
        let seen = observed(&[Class::KeyDisabled]);
        let silent_since = NOW - SILENT_AFTER_S * 1000 - 1;
        let silent = found(None, &seen, silent_since);
        assert_eq!(types(&silent), [AlertType::HostDown]);
        assert_eq!(silent[0].since, at(silent_since));
        assert_eq!(silent[0].subject.address.as_deref(), Some("db1.example.com:27017"));
        assert!(!types(&found(None, &seen, NOW - SILENT_AFTER_S * 1000)).contains(&AlertType::HostDown));
        let mut stopped = observed(&[Class::Success]);
        stopped.status.state = NodeState::StoppedRevoked;
        assert_eq!(types(&found(None, &stopped, NOW)), [AlertType::HostDown]);
        stopped.status.state = NodeState::Stopped;
        assert_eq!(found(None, &stopped, NOW), []);
    }

    #[test]
    fn a_client_secret_is_warned_of_at_each_stage() {
        let mut encryption = encryption();
        let mut stage = |left_ms: i64, role: bool| {
            encryption.client_secret_expires = Some(at(NOW + left_ms));
            let role = role.then(|| crate::id::CloudRoleId::from_bytes([1; 12]));
            encryption.azure_key_vault.as_mut().unwrap().role_id = role;
            client_secret(at(NOW), &encryption).map(|condition| condition.subject.stage_days.unwrap())
        };
        let expected = [
            (61, None),
            (60, Some(60)),
            (31, Some(60)),
            (30, Some(30)),
            (14, Some(14)),
            (8, Some(14)),
            (7, Some(7)),
            (2, Some(7)),
            (1, Some(1)),
            (0, Some(0)),
            (-5, Some(0)),
        ];
        for (days, wanted) in expected {
            assert_eq!(stage(days * DAY_MS, false), wanted, "{days} days");
            assert_eq!(stage(days * DAY_MS, true), None, "no secret, no warning");
        }
    }

    #[test]
    fn the_age_of_the_key_and_a_node_that_lags_behind() {
        let encryption = encryption();
        let conditions = found(Some(&encryption), &observed(&[Class::Success]), NOW);
        assert_eq!(types(&conditions), [AlertType::AzureKeyNeedsRotation, AlertType::UpdateStalled]);
        assert!(conditions.iter().all(|condition| condition.since == at(NOW - 10 * DAY_MS)));
        let mut there = observed(&[Class::Success]);
        there.status.customer_key.as_mut().unwrap().key_identifier = NEW.parse().unwrap();
        assert_eq!(types(&found(Some(&encryption), &there, NOW)), [AlertType::AzureKeyNeedsRotation]);
        let facts = Facts {
            encryption: Some(&encryption),
            vault_rotates_after_days: Some(365),
            nodes: &[],
            events: &[],
        };
        assert_eq!(super::conditions(at(NOW), &facts)[0].at_least_ms, 372 * DAY_MS);
    }

    #[test]
    fn a_node_that_holds_back_and_a_set_without_a_primary() {
        let mut seen = observed(&[Class::Success]);
        seen.held_back = serde_json::from_value(serde_json::json!([{
            "revision": 1, "needsApproval": true, "what": "the customer key of another tenant",
            "reason": "The node's file pins another.", "hint": "Run `keyward node approve`.", "approval": null,
        }]))
        .unwrap();
        seen.replica_state = Some("SECONDARY".into());
        let conditions = found(None, &seen, NOW);
        assert_eq!(types(&conditions), [AlertType::NodeHeldBack, AlertType::NoPrimary]);
        assert!(conditions[0].text.contains("keyward node approve"));
        seen.replica_state = None;
        assert_eq!(types(&found(None, &seen, NOW)), [AlertType::NodeHeldBack]);
    }

    #[test]
    fn events_are_told_by_their_id() {
        let job = Actor::Job { name: "desired".into() };
        let started = NewEvent::new(EventType::MaintenanceStarted, job.clone()).project(PROJECT);
        let other = NewEvent::new(EventType::ClusterReady, job).project(PROJECT);
        let id = EventId::from_bytes([5; 12]);
        let events = [started.stored(id, at(1)), other.stored(EventId::from_bytes([6; 12]), at(2))];
        let facts = Facts { encryption: None, vault_rotates_after_days: None, nodes: &[], events: &events };
        let conditions = conditions(at(NOW), &facts);
        assert_eq!(types(&conditions), [AlertType::MaintenanceStarted]);
        assert_eq!(conditions[0].subject.event, Some(id));
    }
}
