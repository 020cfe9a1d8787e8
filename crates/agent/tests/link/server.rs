//! A server with a clock that tests move, and a node that joins it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use keyward_agent::{
    admin::{Request, client::AdminClient},
    config::Config as AgentConfig,
};
use keyward_model::{
    NodeStatus, RevocationPolicy, Timestamp,
    encryption::AzureEnvironment,
    event::{Actor, EventType, NewEvent},
    id::{NodeId, ProjectId},
    node::{EnrolledNode, JoinText},
    status::LinkStatus,
    sync::{Desired, DesiredCluster, DesiredCredential, DesiredEncryption, DesiredRun, Observed},
};
use keyward_server::{Config, Running, ServeOptions, init, link, serve_with};

use crate::support::{LONG, World, until};

pub(crate) const PROJECT: ProjectId = ProjectId::from_bytes([7; 12]);

/// A server in a folder, stopped and started at one address.
pub(crate) struct Server {
    running: Option<Running>,
    config: Config,
    ahead_ms: Arc<AtomicI64>,
}

impl Server {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let mut config = Config::new(dir);
        init(&config).await?;
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let running = serve(&config, &ahead_ms).await?;
        // Where agents will look for it after a restart.
        config.agent_listen = SocketAddr::from(([127, 0, 0, 1], running.agent_addr.port()));
        Ok(Self { running: Some(running), config, ahead_ms })
    }

    pub(crate) fn app(&self) -> &keyward_server::App {
        self.running.as_ref().expect("the server runs").app()
    }

    /// Moves its clock, and nobody else's.
    pub(crate) fn advance_hours(&self, hours: i64) {
        self.ahead_ms.fetch_add(hours * 3_600_000, Ordering::SeqCst);
    }

    pub(crate) async fn go_away(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    pub(crate) async fn come_back(&mut self) -> Result<()> {
        self.running = Some(serve(&self.config, &self.ahead_ms).await?);
        Ok(())
    }

    /// The store's file, for a backup while the server is away.
    pub(crate) fn database(&self) -> PathBuf {
        self.config.data_dir.join("keyward.db")
    }

    pub(crate) async fn token(&self) -> Result<JoinText> {
        let event = NewEvent::new(EventType::JoinTokenCreated, Actor::Operator).project(PROJECT);
        Ok(link::invite(self.app(), PROJECT, None, event).await?.1)
    }

    /// Stores what is desired of a node and wakes it; gives the revision.
    pub(crate) async fn desire(&self, node: NodeId, desired: &Desired) -> Result<u64> {
        let mut observation = self.app().store().observe().await?;
        let stored = observation.put_desired(node, desired, self.app().now()).await?;
        observation.commit().await?;
        self.app().nudge().node(node);
        Ok(stored.revision)
    }

    /// The node's newest report.
    pub(crate) async fn report(&self, node: NodeId) -> Result<Option<Observed>> {
        let report = self.app().store().read().await?.report(node).await?;
        Ok(report.map(|report| report.observed))
    }

    /// Waits until the node's report is as wanted.
    pub(crate) async fn until_report(
        &self,
        node: NodeId,
        what: &str,
        mut wanted: impl FnMut(&Observed) -> bool,
    ) -> Result<Observed> {
        let deadline = Instant::now() + LONG;
        loop {
            let report = self.report(node).await?;
            match report {
                Some(report) if wanted(&report) => return Ok(report),
                report if Instant::now() > deadline => bail!("never reported {what}: {report:#?}"),
                Some(_) | None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Revokes a node as the API does.
    pub(crate) async fn revoke(&self, node: NodeId) -> Result<()> {
        let app = self.app();
        let mut change = app.store().change().await?;
        let mut stored = change.get::<EnrolledNode>(node).await?.context("the node has joined")?;
        stored.revoked_at = Some(app.now());
        change.update(&stored.document, stored.revision).await?;
        change
            .commit(NewEvent::new(EventType::NodeRevoked, Actor::Operator).project(PROJECT), app.now())
            .await?;
        app.nudge().node(node);
        Ok(())
    }

    /// How many events of a type there are.
    pub(crate) async fn events(&self, of: EventType) -> Result<usize> {
        let mut tx = self.app().store().read().await?;
        let (events, _) = tx.events(&keyward_store::EventFilter::default(), 0, 10_000).await?;
        Ok(events.iter().filter(|event| event.event_type == of).count())
    }
}

async fn serve(config: &Config, ahead_ms: &Arc<AtomicI64>) -> Result<Running> {
    let ahead_ms = Arc::clone(ahead_ms);
    let clock = Arc::new(move || {
        let now = jiff::Timestamp::now().as_millisecond();
        Timestamp::from_epoch_ms(now + ahead_ms.load(Ordering::SeqCst))
    });
    Ok(serve_with(config.clone(), ServeOptions { clock, keys: None, jobs: false }).await?)
}

/// The file of a node that waits for its server.
pub(crate) fn waiting_node(world: &World, name: &str) -> Result<(PathBuf, AgentConfig)> {
    waiting_node_at(world, name, world.port)
}

/// The same with a port of its own.
pub(crate) fn waiting_node_at(world: &World, name: &str, port: u16) -> Result<(PathBuf, AgentConfig)> {
    let text = world.config_text(name, port)?;
    let host = world.key_identifier.parse::<keyward_model::KeyIdentifier>()?.vault_host().to_owned();
    let text: String = text
        .lines()
        .filter(|line| {
            !["key_identifier", "client_id", "client_secret_file"].iter().any(|name| line.starts_with(name))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let text = text
        .replace("spare_database_keys", "initial = \"server\"\nspare_database_keys")
        .replace("cloud = \"CUSTOM\"", &format!("cloud = \"CUSTOM\"\nvault_hosts = [\"{host}\"]"));
    node_file(world, name, &text)
}

/// Writes a node's file and reads it.
pub(crate) fn node_file(world: &World, name: &str, text: &str) -> Result<(PathBuf, AgentConfig)> {
    fs::create_dir_all(world.path(name))?;
    let path = world.path(&format!("{name}.toml"));
    fs::write(&path, text)?;
    let config = AgentConfig::load(&path)?;
    Ok((path, config))
}

/// The customer key of the world's vault as a server names it.
pub(crate) fn encryption(world: &World, key_identifier: &str) -> Result<DesiredEncryption> {
    let vault = world.vault.running.as_ref().context("the vault runs")?.description();
    Ok(DesiredEncryption {
        key_identifier: key_identifier.parse()?,
        azure_environment: AzureEnvironment::Azure,
        tenant_id: vault.tenant_id.clone(),
        client_id: vault.client_id.clone(),
        subscription_id: None,
        resource_group_name: None,
        credential: DesiredCredential::ClientSecret { secret: vault.client_secret.clone() },
        require_private_networking: false,
        policy: RevocationPolicy {
            refusals: 3,
            strong_window_ms: 2_000,
            denial_window_ms: 4_000,
            gap_ms: 600_000,
        },
        client_secret_expires: None,
    })
}

pub(crate) fn desired(encryption: Option<DesiredEncryption>) -> Desired {
    Desired {
        revision: 0,
        cluster: Some(DesiredCluster { name: "c".into(), replica_set: "c".into(), members: vec![] }),
        encryption,
        rotate_master_key: None,
        run: DesiredRun::Unmanaged,
        step_down: false,
        resync: false,
        validations: vec![],
    }
}

/// Joins and gives the node's id.
pub(crate) async fn join(client: &AdminClient, token: &JoinText) -> Result<NodeId> {
    let joined = client.run(&Request::Join { token: token.to_string() }, |_| {}).await?;
    Ok(joined["nodeId"].as_str().context("a node id")?.parse()?)
}

/// Waits until the link is as wanted.
pub(crate) async fn until_link(
    client: &AdminClient,
    what: &str,
    mut wanted: impl FnMut(&LinkStatus) -> bool,
) -> Result<NodeStatus> {
    until(client, what, |status| status.link.as_ref().is_some_and(&mut wanted)).await
}

/// Waits until a revision has been carried out.
pub(crate) async fn until_done(client: &AdminClient, revision: u64) -> Result<NodeStatus> {
    until_link(client, "carried out", |link| link.done_revision == revision).await
}
