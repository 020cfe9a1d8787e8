//! Prometheus metrics on a loopback address.
//!
//! Names are `keyward_<noun>_<unit>`; labels come from enums only: never a key, a vault, a database or an id.

mod listener;

use std::{
    fmt::{self, Write},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use keyward_model::{Class, NodeState, NodeStatus, Timestamp, Verdict};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::listener::FewConnections;
use crate::node::NodeHandle;

/// How long answers that were begun may take once the agent ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves `/metrics` on `listen` until `shutdown`.
///
/// # Errors
/// The address is not a loopback address, or is taken.
pub async fn serve(listen: SocketAddr, node: NodeHandle, shutdown: CancellationToken) -> io::Result<()> {
    if !listen.ip().is_loopback() {
        let text = format!("{listen} is no loopback address; metrics are served without TLS or login");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let listener = TcpListener::bind(listen).await?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics are served on http://{address}/metrics");
    }
    let metrics = Arc::new(Mutex::new(Metrics::new()));
    let watching = tokio::spawn(watch(node.clone(), Arc::clone(&metrics), shutdown.clone()));
    let app = Router::new().route("/metrics", get(page)).with_state((node, metrics));
    let serving = axum::serve(FewConnections::of(listener), app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    // Whoever has said half a request must not keep the agent from ending.
    let ended = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = ended => Ok(()),
    };
    watching.abort();
    served
}

type Shared = Arc<Mutex<Metrics>>;

/// Looks at the node whenever something changes, so that what passes between two scrapes is counted.
async fn watch(node: NodeHandle, metrics: Shared, shutdown: CancellationToken) {
    let mut changes = node.changes();
    loop {
        let status = node.status();
        metrics.lock().unwrap_or_else(PoisonError::into_inner).observe(&status);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

async fn page(State((node, metrics)): State<(NodeHandle, Shared)>) -> impl IntoResponse {
    let status = node.status();
    let mut metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
    metrics.observe(&status);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
}

/// The metrics of one node.
struct Metrics {
    registry: Registry,
    state: Family<StateLabel, Gauge>,
    verdict: Family<VerdictLabel, Gauge>,
    entered_at: Gauge,
    master_key_held: Gauge,
    master_key_created_at: Gauge,
    memory_locked: Gauge,
    database_keys: Gauge,
    spare_database_keys: Gauge,
    engine_running: Gauge,
    warnings: Gauge,
    token_age: Gauge,
    probed_at: Gauge,
    probes: Family<ClassLabel, Counter>,
    transitions: Family<StateLabel, Counter>,
    engine_starts: Counter,
    last_probe: Option<Timestamp>,
    last_state: Option<(NodeState, Timestamp)>,
    last_engine: Option<u32>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            state: Family::default(),
            verdict: Family::default(),
            entered_at: Gauge::default(),
            master_key_held: Gauge::default(),
            master_key_created_at: Gauge::default(),
            memory_locked: Gauge::default(),
            database_keys: Gauge::default(),
            spare_database_keys: Gauge::default(),
            engine_running: Gauge::default(),
            warnings: Gauge::default(),
            token_age: Gauge::default(),
            probed_at: Gauge::default(),
            probes: Family::default(),
            transitions: Family::default(),
            engine_starts: Counter::default(),
            last_probe: None,
            last_state: None,
            last_engine: None,
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("keyward_node_state", "1 for the state the node is in", self.state.clone());
        r.register("keyward_node_verdict", "1 for the verdict on the customer key", self.verdict.clone());
        r.register(
            "keyward_node_state_entered_timestamp_seconds",
            "When the state was entered",
            self.entered_at.clone(),
        );
        r.register("keyward_node_warnings", "Things that a person should look at", self.warnings.clone());
        r.register("keyward_node_transitions", "States entered", self.transitions.clone());
        r.register(
            "keyward_master_key_held",
            "1 while the master key is in memory",
            self.master_key_held.clone(),
        );
        r.register(
            "keyward_master_key_created_timestamp_seconds",
            "When the master key was made",
            self.master_key_created_at.clone(),
        );
        r.register("keyward_memory_locked", "1 when keys are on locked memory", self.memory_locked.clone());
        r.register("keyward_database_keys", "Database keys without the spares", self.database_keys.clone());
        r.register("keyward_spare_database_keys", "Spare database keys", self.spare_database_keys.clone());
        r.register(
            "keyward_engine_running",
            "1 while the database process runs",
            self.engine_running.clone(),
        );
        r.register("keyward_engine_starts", "Database processes seen", self.engine_starts.clone());
        r.register("keyward_probes", "Probes of the customer key by what they saw", self.probes.clone());
        r.register(
            "keyward_probe_timestamp_seconds",
            "When the last probe was answered",
            self.probed_at.clone(),
        );
        r.register(
            "keyward_token_age_seconds",
            "Age of the token that the last probe used",
            self.token_age.clone(),
        );
    }

    /// Takes in what the node says of itself now.
    fn observe(&mut self, status: &NodeStatus) {
        for state in STATES {
            self.state
                .get_or_create(&StateLabel { state: StateValue(state) })
                .set((state == status.state).into());
        }
        for verdict in [Verdict::Valid, Verdict::Unavailable, Verdict::Revoked] {
            let label = VerdictLabel { verdict: VerdictValue(verdict) };
            self.verdict.get_or_create(&label).set((verdict == status.verdict).into());
        }
        self.entered_at.set(seconds(status.since));
        self.warnings.set(count(status.warnings.len()));
        self.master_key_held.set(status.master_key_held.into());
        self.master_key_created_at.set(status.master_key.as_ref().map_or(0, |key| seconds(key.created_at)));
        self.memory_locked.set(status.memory_locked.into());
        self.database_keys.set(count(status.database_keys.len()));
        self.spare_database_keys.set(status.spare_database_keys.into());
        self.engine_running.set(status.engine.is_some().into());
        // Newest first.
        let unseen = status.evidence.iter().take_while(|e| self.last_probe.is_none_or(|last| e.at > last));
        for evidence in unseen {
            self.probes.get_or_create(&ClassLabel { class: ClassValue(evidence.class) }).inc();
        }
        if let Some(newest) = status.evidence.first() {
            self.last_probe = Some(newest.at);
            self.probed_at.set(seconds(newest.at));
            self.token_age.set(newest.token_age_s.and_then(|s| i64::try_from(s).ok()).unwrap_or(0));
        }
        if self.last_state.replace((status.state, status.since)) != Some((status.state, status.since)) {
            self.transitions.get_or_create(&StateLabel { state: StateValue(status.state) }).inc();
        }
        let engine = status.engine.as_ref().map(|engine| engine.pid);
        if engine.is_some() && engine != self.last_engine {
            self.engine_starts.inc();
        }
        self.last_engine = engine.or(self.last_engine);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string fails only for lack of memory.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

const STATES: [NodeState; 6] = [
    NodeState::Starting,
    NodeState::Running,
    NodeState::WaitingForCustomerKey,
    NodeState::StoppedRevoked,
    NodeState::Stopped,
    NodeState::Failed,
];

fn seconds(at: Timestamp) -> i64 {
    at.epoch_ms() / 1000
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: StateValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: VerdictValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: ClassValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StateValue(NodeState);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct VerdictValue(Verdict);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClassValue(Class);

impl EncodeLabelValue for StateValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.0.as_str())
    }
}

impl EncodeLabelValue for VerdictValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self.0 {
            Verdict::Valid => "valid",
            Verdict::Unavailable => "unavailable",
            Verdict::Revoked => "revoked",
        })
    }
}

impl EncodeLabelValue for ClassValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        // As in status: the variant's name in camel case.
        let name = format!("{:?}", self.0);
        let (first, rest) = name.split_at(1);
        encoder.write_str(&first.to_ascii_lowercase())?;
        encoder.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use keyward_model::{Evidence, status::EngineStatus};

    use super::*;

    fn evidence(ms: i64, class: Class) -> Evidence {
        Evidence {
            at: Timestamp::from_epoch_ms(ms),
            class,
            key_identifier: "https://v.vault.azure.net/keys/secret-name/0123456789abcdef0123456789abcdef"
                .parse()
                .unwrap(),
            host: None,
            http_status: Some(200),
            code: None,
            inner_code: None,
            region: None,
            request_id: None,
            token_age_s: Some(42),
            message: None,
        }
    }

    fn status(state: NodeState, evidence: Vec<Evidence>) -> NodeStatus {
        NodeStatus {
            node: "private-name".into(),
            state,
            verdict: Verdict::Valid,
            reason: String::new(),
            evidence,
            customer_key: None,
            master_key: None,
            master_key_held: true,
            memory_locked: false,
            database_keys: Vec::new(),
            spare_database_keys: 64,
            engine: Some(EngineStatus { kind: "mongod".into(), version: "7".into(), pid: 9 }),
            since: Timestamp::from_epoch_ms(5_000),
            warnings: Vec::new(),
            link: None,
        }
    }

    #[test]
    fn what_is_seen_twice_is_counted_once() {
        let mut metrics = Metrics::new();
        let first = status(NodeState::Running, vec![evidence(1_000, Class::Success)]);
        metrics.observe(&first);
        metrics.observe(&first);
        let later = [
            evidence(3_000, Class::TimedOut),
            evidence(2_000, Class::Success),
            evidence(1_000, Class::Success),
        ];
        metrics.observe(&status(NodeState::Running, later.to_vec()));
        let text = metrics.text();
        for line in [
            "keyward_probes_total{class=\"success\"} 2",
            "keyward_probes_total{class=\"timedOut\"} 1",
            "keyward_node_transitions_total{state=\"running\"} 1",
            "keyward_node_state{state=\"running\"} 1",
            "keyward_node_state{state=\"stopped\"} 0",
            "keyward_engine_starts_total 1",
            "keyward_probe_timestamp_seconds 3",
            "keyward_token_age_seconds 42",
            "keyward_spare_database_keys 64",
        ] {
            assert!(text.lines().any(|l| l == line), "no line `{line}` in:\n{text}");
        }
    }

    #[test]
    fn no_name_of_a_key_a_vault_or_a_node_is_shown() {
        let mut metrics = Metrics::new();
        metrics.observe(&status(NodeState::Failed, vec![evidence(1, Class::DeniedByRbac)]));
        let text = metrics.text();
        assert!(
            !text.contains("vault.azure.net")
                && !text.contains("secret-name")
                && !text.contains("private-name")
        );
    }
}
