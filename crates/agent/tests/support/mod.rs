//! A node under a development vault, in a folder of its own.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use keyward_agent::{
    Clock,
    admin::{
        Request,
        client::{AdminClient, ClientError},
    },
    config::Config,
    disk::{Disk as _, HostDisk},
    node::{MakeService, Parts},
};
use keyward_kms::azure::{AzureKeyService, names::Names};
use keyward_model::{KeyIdentifier, NodeState, NodeStatus};
use keyward_vault::{RunningVault, ServeOptions, client::VaultAdmin};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take on a busy machine. Nothing is measured with it.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A development vault with one key.
pub(crate) struct Vault {
    pub(crate) running: Option<RunningVault>,
    pub(crate) admin: VaultAdmin,
    pub(crate) dir: PathBuf,
}

impl Vault {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let running = serve(dir).await?;
        let admin = VaultAdmin::of(running.description())?;
        Ok(Self { running: Some(running), admin, dir: dir.to_owned() })
    }

    /// The process is gone: connections are refused.
    pub(crate) async fn go_down(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown().await;
        }
    }

    pub(crate) async fn come_back(&mut self) -> Result<()> {
        self.running = Some(serve(&self.dir).await?);
        Ok(())
    }

    /// A new key; gives its key identifier.
    pub(crate) async fn key(&self, name: &str) -> Result<String> {
        let key = self.admin.create_key(name, 2048).await?;
        Ok(key.versions.last().context("a new key has a version")?.key_identifier.clone())
    }
}

async fn serve(dir: &Path) -> Result<RunningVault> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(keyward_vault::serve(ServeOptions { dir: dir.to_owned(), listen }).await?)
}

/// A folder with a vault and the configuration of one node.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) vault: Vault,
    pub(crate) key_identifier: String,
    pub(crate) port: u16,
    _alone: keyward_testkit::Alone,
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::new_in(&std::env::temp_dir()).await
    }

    /// With its folder in `place`.
    pub(crate) async fn new_in(place: &Path) -> Result<Self> {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(
                tracing_subscriber::EnvFilter::try_from_env("KEYWARD_LOG").unwrap_or_else(|_| "info".into()),
            )
            .with_test_writer()
            .try_init();
        let alone = tokio::task::spawn_blocking(keyward_testkit::Alone::wait).await??;
        let dir = tempfile::Builder::new().prefix("kw").tempdir_in(place)?;
        let vault = Vault::start(&dir.path().join("vault")).await?;
        let key_identifier = vault.key("k1").await?;
        Ok(Self { dir, vault, key_identifier, port: free_port()?, _alone: alone })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A node's file: probes every second, revokes after two seconds.
    pub(crate) fn config_text(&self, name: &str, port: u16) -> Result<String> {
        let vault = self.vault.running.as_ref().context("the vault runs")?.description();
        let secret = self.path("client-secret");
        fs::write(&secret, &vault.client_secret)?;
        let python = keyward_testkit::python::secantusdb()?;
        let encryptor = keyward_testkit::built::encryptor_library()?;
        let node = self.path(name);
        Ok(format!(
            r#"
name = "{name}"
data_path = "{node}/db"
state_dir = "{node}/state"
encryptor = "{encryptor}"
spare_database_keys = 8

[engine]
kind = "secantusdb"
program = "{python}"
args = ["--sync-on-commit"]
port = {port}
exposure = "open"
accept_plaintext_in_swap = true

[customer_key]
key_identifier = "{key}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "{secret}"
cloud = "CUSTOM"
authority = "{authority}"
arm_url = "{arm}"
ca_file = "{ca}"
call_timeout_s = 5

[verdict]
probe_interval_s = 1
refusals = 3
strong_window_s = 2
denial_window_s = 4

[admin]
socket = "{node}/admin.sock"
"#,
            node = node.display(),
            encryptor = encryptor.display(),
            python = python.display(),
            key = self.key_identifier,
            tenant = vault.tenant_id,
            client = vault.client_id,
            secret = secret.display(),
            authority = vault.authority,
            arm = vault.arm_url,
            ca = vault.ca_file.display(),
        ))
    }

    /// Writes the node's file and checks it.
    pub(crate) fn config(&self, name: &str) -> Result<(PathBuf, Config)> {
        let path = self.path(&format!("{name}.toml"));
        fs::create_dir_all(self.path(name))?;
        fs::write(&path, self.config_text(name, self.port)?)?;
        let config = Config::load(&path)?;
        Ok((path, config))
    }
}

impl Drop for World {
    /// A test that failed must leave no database behind: engines outlive their agent.
    fn drop(&mut self) {
        let folders = fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        for state in folders.map(|folder| folder.path().join("state")) {
            if let Some(pid) = engine_pid(&state) {
                let of_this_world = fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.contains(&*self.dir.path().to_string_lossy()));
                if of_this_world && let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// The engine that an agent remembers.
pub(crate) fn engine_pid(state_dir: &Path) -> Option<i32> {
    let text = fs::read(state_dir.join("engine.json")).ok()?;
    let engine: serde_json::Value = serde_json::from_slice(&text).ok()?;
    i32::try_from(engine["record"]["pid"].as_i64()?).ok()
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// An agent in this process.
pub(crate) struct Agent {
    pub(crate) client: AdminClient,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), keyward_agent::RunError>>,
}

impl Agent {
    pub(crate) async fn start(config: Config) -> Result<Self> {
        let (socket, shutdown) = (config.admin_socket.clone(), CancellationToken::new());
        let task = tokio::spawn(keyward_agent::run(config, shutdown.clone()));
        Self::connect(&socket, shutdown, task).await
    }

    /// One that asks this resolver for the addresses of vaults, Entra ID and ARM.
    pub(crate) async fn start_with_names(config: Config, names: Arc<dyn Names>) -> Result<Self> {
        for dir in [&config.state_dir, &config.keyward_dir()] {
            HostDisk.create_dir(dir)?;
        }
        let make_service: MakeService = Arc::new(move |azure| {
            Ok(Arc::new(AzureKeyService::with_names(azure.clone(), Arc::clone(&names))?) as _)
        });
        let parts = Parts {
            make_service,
            regions: Default::default(),
            engine: keyward_agent::engine::open(&config)?,
            disk: Arc::new(HostDisk),
            clock: Clock::open()?,
        };
        let (socket, shutdown) = (config.admin_socket.clone(), CancellationToken::new());
        let task = tokio::spawn(keyward_agent::serve(config, parts, shutdown.clone()));
        Self::connect(&socket, shutdown, task).await
    }

    async fn connect(
        socket: &Path,
        shutdown: CancellationToken,
        mut task: JoinHandle<Result<(), keyward_agent::RunError>>,
    ) -> Result<Self> {
        let client = tokio::select! {
            client = connect(socket) => client?,
            ended = &mut task => {
                ended??;
                bail!("the agent ended at once");
            }
        };
        Ok(Self { client, shutdown, task })
    }

    /// Ends the agent; the engine runs on.
    pub(crate) async fn end(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }

    /// Stops the engine and ends the agent.
    pub(crate) async fn stop_all(self) -> Result<()> {
        self.client.run(&Request::Stop, |_| {}).await?;
        self.end().await
    }
}

/// Waits until an agent answers.
pub(crate) async fn connect(socket: &Path) -> Result<AdminClient> {
    let deadline = Instant::now() + LONG;
    loop {
        match AdminClient::connect(socket).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until status is as wanted.
pub(crate) async fn until(
    client: &AdminClient,
    what: &str,
    mut wanted: impl FnMut(&NodeStatus) -> bool,
) -> Result<NodeStatus> {
    let deadline = Instant::now() + LONG;
    loop {
        match client.status().await {
            Ok(status) if wanted(&status) => return Ok(status),
            Ok(status) if Instant::now() > deadline => bail!("never {what}: {status:#?}"),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits for a state.
pub(crate) async fn until_state(client: &AdminClient, state: NodeState) -> Result<NodeStatus> {
    until(client, state.as_str(), |status| status.state == state).await
}

pub(crate) fn rewrap_to(key_identifier: &str) -> Result<Request> {
    Ok(Request::Rewrap { key_identifier: key_identifier.parse::<KeyIdentifier>()? })
}

/// The failure that the agent gave as its answer.
pub(crate) fn failure_of<T: std::fmt::Debug>(
    outcome: Result<T, ClientError>,
) -> keyward_agent::admin::Failure {
    match outcome {
        Err(ClientError::Failure(failure)) => failure,
        other => panic!("expected the agent to refuse, got {other:?}"),
    }
}

/// A client of the database.
pub(crate) async fn database(port: u16) -> Result<mongodb::Client> {
    let uri = format!(
        "mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=20000&w=1&journal=true"
    );
    Ok(mongodb::Client::with_uri_str(&uri).await?)
}

/// Documents `from..to` of a collection.
pub(crate) async fn insert(
    client: &mongodb::Client,
    database: &str,
    range: std::ops::Range<i32>,
) -> Result<()> {
    let docs = range.map(|n| mongodb::bson::doc! { "_id": n, "secret": format!("PLAINTEXT-{n}") });
    client.database(database).collection("c").insert_many(docs).await?;
    Ok(())
}

/// How many documents a collection has.
pub(crate) async fn count(client: &mongodb::Client, database: &str) -> Result<u64> {
    let all = mongodb::bson::doc! {};
    Ok(client.database(database).collection::<mongodb::bson::Document>("c").count_documents(all).await?)
}

/// An agent in a process of its own: this test binary again, as `agent_process`.
pub(crate) struct AgentProcess(std::process::Child);

impl AgentProcess {
    /// Needs `#[test] #[ignore] fn agent_process` in the test binary, which calls [`agent_main`].
    pub(crate) fn start(config: &Path) -> Result<Self> {
        Self::start_with(config, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(config: &Path, environment: &[(&str, &std::ffi::OsStr)]) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(config.with_extension("log"))?;
        let child = std::process::Command::new(std::env::current_exe()?)
            .args(["agent_process", "--exact", "--ignored", "--nocapture"])
            .env("KEYWARD_TEST_AGENT_CONFIG", config)
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid())?).context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// SIGKILL, and waits.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the agent that the environment names; returns at once when it names none.
pub(crate) fn agent_main() {
    let Some(path) = std::env::var_os("KEYWARD_TEST_AGENT_CONFIG") else { return };
    if std::env::var_os(LOCKS_NO_MEMORY).is_some() {
        lock_no_memory();
    }
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
    let config = Config::load(Path::new(&path)).expect("the test wrote a good file");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(async {
            let shutdown = CancellationToken::new();
            let mut asked = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let token = shutdown.clone();
            tokio::spawn(async move {
                asked.recv().await;
                token.cancel();
            });
            keyward_agent::run(config, shutdown).await.map_err(anyhow::Error::from)
        })
        .expect("the agent runs");
}

/// In the environment of an agent process: it may lock no memory.
pub(crate) const LOCKS_NO_MEMORY: &str = "KEYWARD_TEST_LOCKS_NO_MEMORY";

fn lock_no_memory() {
    use rustix::{
        process::{Resource, Rlimit, setrlimit},
        thread::{CapabilitySet, capabilities, set_capabilities},
    };
    // Root may lock without limit, as long as it has this capability.
    let mut sets = capabilities(None).expect("the process's own");
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).expect("fewer are always allowed");
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) }).expect("a lower limit");
}

/// SIGKILL.
pub(crate) fn kill(pid: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("a process id")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}
