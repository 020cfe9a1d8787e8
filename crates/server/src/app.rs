//! What every handler and job has at hand.

use std::sync::Arc;

use keyward_model::{
    Timestamp,
    id::{Id, Kind, NodeId},
};
use keyward_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    auth::{limit::Limits, usage::Usage},
    certificate::{CertificateStatus, Shown},
    customer_key::CustomerKeys,
    http::rate::RateLimit,
    link::Waiting,
};

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The machine's clock: the only place in the server that reads it.
pub fn machine_clock() -> Clock {
    Arc::new(|| Timestamp(jiff::Timestamp::now()))
}

/// The server's parts. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What the server is called by, without a slash at the end.
#[derive(Debug, Clone)]
pub(crate) struct Urls {
    pub(crate) api: String,
    pub(crate) agents: String,
}

struct Parts {
    store: Store,
    config: Config,
    urls: Urls,
    clock: Clock,
    keys: Arc<dyn CustomerKeys>,
    nudge: Nudge,
    limits: Limits,
    rate_limit: RateLimit,
    usage: Usage,
    nonce_key: crate::auth::digest::NonceKey,
    stop: CancellationToken,
    activities: crate::jobs::Activities,
    certificate: Shown,
}

impl App {
    pub(crate) fn new(
        store: Store,
        config: Config,
        urls: Urls,
        clock: Clock,
        keys: Arc<dyn CustomerKeys>,
        nonce_key: crate::auth::digest::NonceKey,
        certificate: Shown,
    ) -> Self {
        let stop = CancellationToken::new();
        let limits = Limits::default();
        let rate_limit = RateLimit::new(config.requests_per_minute);
        let nudge = Nudge::default();
        Self(Arc::new(Parts {
            store,
            config,
            urls,
            clock,
            keys,
            nudge,
            limits,
            rate_limit,
            usage: Usage::default(),
            nonce_key,
            stop,
            activities: Default::default(),
            certificate,
        }))
    }

    /// What is remembered.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// How the server was configured.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The public URL, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.0.urls.api
    }

    /// What agents call the server by, without a slash at the end.
    pub fn agent_url(&self) -> &str {
        &self.0.urls.agents
    }

    /// What checks customer keys.
    pub fn keys(&self) -> &dyn CustomerKeys {
        &*self.0.keys
    }

    /// Wakes jobs and waiting nodes.
    pub fn nudge(&self) -> &Nudge {
        &self.0.nudge
    }

    /// Nodes whose long polls wait.
    pub fn waiting(&self) -> &Waiting {
        &self.0.nudge.waiting
    }

    /// Cancelled when the server stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// What each job did last on this server.
    pub fn activities(&self) -> &crate::jobs::Activities {
        &self.0.activities
    }

    /// The certificate that the API shows.
    pub fn certificate(&self) -> CertificateStatus {
        self.0.certificate.status()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn rate_limit(&self) -> &RateLimit {
        &self.0.rate_limit
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.0.usage
    }

    pub(crate) fn nonce_key(&self) -> &crate::auth::digest::NonceKey {
        &self.0.nonce_key
    }

    /// A new random id.
    pub fn make_id<K: Kind>(&self) -> Id<K> {
        Id::from_bytes(make_bytes())
    }
}

/// Random bytes from the operating system.
pub(crate) fn make_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // aws-lc ends the process rather than hand out bytes that are not random; it never reports a failure here.
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    assert!(filled.is_ok(), "no random bytes");
    bytes
}

/// Wakes what waits: jobs that sleep until their next pass, and nodes in a long poll.
#[derive(Debug)]
pub struct Nudge {
    jobs: watch::Sender<u64>,
    waiting: Waiting,
}

impl Default for Nudge {
    fn default() -> Self {
        Self { jobs: watch::Sender::new(0), waiting: Waiting::default() }
    }
}

impl Nudge {
    /// Lets every job pass soon.
    pub fn jobs(&self) {
        self.jobs.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What a job waits on: changes at each nudge.
    pub fn job_nudges(&self) -> watch::Receiver<u64> {
        self.jobs.subscribe()
    }

    /// Lets the node's waiting poll look again.
    pub fn node(&self, node: NodeId) {
        self.waiting.wake(node);
    }
}
