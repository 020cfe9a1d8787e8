//! `keyward server run`, in process: store, listeners, jobs.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use keyward_store::{ServerKey, Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::{
    App, Clock, Config,
    app::{Urls, machine_clock},
    auth::{digest::NonceKey, usage},
    certificate::{self, CertificateError, Keeper},
    customer_key::CustomerKeys,
    http::{answer, listener},
};

/// The store's name of what nonces are made with.
pub(crate) const NONCE_SECRET: &str = "server:nonce";
/// How often expired tokens and nonces are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// What a test gives in place of the real thing.
#[derive(Clone)]
pub struct ServeOptions {
    /// The clock.
    pub clock: Clock,
    /// What checks customer keys; `None`: Azure, or the configured development vault.
    pub keys: Option<Arc<dyn CustomerKeys>>,
    /// Whether jobs run; a test that says itself what is desired runs none.
    pub jobs: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { clock: machine_clock(), keys: None, jobs: true }
    }
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store or the server key.
    #[error("the store could not be opened")]
    Store(#[from] StoreError),
    /// `keyward server init` did not run.
    #[error("the store was never set up")]
    NotSetUp,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The API's certificate.
    #[error("the API has no certificate")]
    Certificate(#[from] CertificateError),
    /// Customer keys cannot be checked.
    #[error("customer keys cannot be checked")]
    CustomerKeys(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agents' endpoint.
    #[error("agents cannot be served")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ServeError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Store(error) => error.hint(),
            Self::NotSetUp => "run `keyward server init` with the same file",
            Self::Listen { .. } => "stop what listens there, or configure another address",
            Self::Certificate(error) => error.hint(),
            Self::CustomerKeys(_) => "check the section [azure]",
            Self::Link(_) => "check the store and the server key",
        }
    }
}

/// A server that runs. Dropped, it goes on until the process ends.
pub struct Running {
    /// Where the API listens.
    pub api_addr: SocketAddr,
    /// Where agents are awaited.
    pub agent_addr: SocketAddr,
    app: App,
    tasks: TaskTracker,
}

impl Running {
    /// The server's parts.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Stops: no new connections, answers under way are finished, jobs end their pass.
    pub async fn stop(self) {
        self.app.stop().cancel();
        self.tasks.close();
        self.tasks.wait().await;
        usage::flush(&self.app, true).await;
        self.app.store().close().await;
    }
}

/// Runs a server.
pub async fn serve(config: Config) -> Result<Running, ServeError> {
    serve_with(config, ServeOptions::default()).await
}

/// Runs a server with a clock and customer keys of the caller's.
pub async fn serve_with(config: Config, options: ServeOptions) -> Result<Running, ServeError> {
    let key = ServerKey::read_file(&config.key_file())?;
    let store = Store::open(&config.store_url(), key).await?;
    let nonce_key = nonce_key(&store).await?;
    let (api, api_addr) = bind(config.api_listen).await?;
    let (agents, agent_addr) = bind(config.agent_listen).await?;
    let hosts = certificate::hosts(config.api_listen.ip(), config.public_url.as_ref());
    let certificate = Keeper::open(&config, hosts, (options.clock)())?;
    let keys = match options.keys {
        Some(keys) => keys,
        None => crate::customer_key::from_config(&config)
            .map_err(|error| ServeError::CustomerKeys(error.into()))?,
    };
    let urls = Urls {
        api: base(config.public_url.as_ref(), api_addr),
        agents: base(config.agent_url.as_ref(), agent_addr),
    };
    let app = App::new(store, config, urls, options.clock.clone(), keys, nonce_key, certificate.shown());
    let tasks = TaskTracker::new();
    let handler = {
        let app = app.clone();
        move |peer, request| answer(app.clone(), peer, request)
    };
    let tls = certificate.tls();
    tasks.spawn(certificate.run(options.clock, app.stop().clone()));
    tasks.spawn(listener::run(api, tls, listener::Limits::API, app.stop().clone(), handler));
    crate::link::start(app.clone(), agents, &tasks).await.map_err(|error| ServeError::Link(error.into()))?;
    if options.jobs {
        crate::jobs::start(app.clone(), &tasks);
    }
    tasks.spawn(sweep(app.clone()));
    tracing::info!(%api_addr, %agent_addr, "serving");
    Ok(Running { api_addr, agent_addr, app, tasks })
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// What the server is called by, without a slash at the end.
fn base(public: Option<&Url>, address: SocketAddr) -> String {
    match public {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("https://localhost:{}", address.port()),
    }
}

/// The key of nonces: made by [`init`](crate::init), shared by all servers on the store.
async fn nonce_key(store: &Store) -> Result<NonceKey, ServeError> {
    let secret = store.read().await?.secret(NONCE_SECRET).await?;
    secret.map(|bytes| NonceKey::new(&bytes)).ok_or(ServeError::NotSetUp)
}

/// Writes when things were used last, and forgets expired tokens and nonces. Whoever forgets, once is enough, and
/// twice does no harm.
async fn sweep(app: App) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.stop().cancelled() => return,
        }
        usage::flush(&app, false).await;
        let swept = async {
            let mut observation = app.store().observe().await?;
            observation.sweep_expired(app.now()).await?;
            observation.sweep_usage().await?;
            observation.commit().await
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "expired tokens could not be forgotten");
        }
    }
}
