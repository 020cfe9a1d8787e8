//! A vault, a server and nodes on this machine, as real processes of this same binary: brings them up, takes up what
//! an earlier run left behind, and stops all of it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyward_agent::admin::Request;
use keyward_agent::admin::client::AdminClient;
use keyward_model::{KeyIdentifier, NodeState, NodeStatus, Timestamp};
use keyward_vault::VaultDescription;
use keyward_vault::client::VaultAdmin;
use serde::Serialize;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::database::{self, Database};
use super::home::{DevFile, DevNode, DevVault, Home, Lock, write_file};
use super::process::{ProcessRecord, Processes};
use super::server::{self, SERVER, Server};
use super::view::{SHORT, What, Windows};
use crate::args::dev::EngineChoice;
use crate::failure::Failure;

/// The name under which the vault's process is recorded.
pub(crate) const VAULT: &str = "vault";
/// The customer key's name in the vault.
pub(crate) const CUSTOMER_KEY: &str = "customer-key";

const VAULT_START: Duration = Duration::from_secs(60);
const AGENT_START: Duration = Duration::from_secs(30);
/// How long an agent may take from its start until it knows whether its node runs.
const SETTLE: Duration = Duration::from_secs(5);
const AGENT_STOP: Duration = Duration::from_secs(20);
/// Longer than the agent gives its engine.
const NODE_STOP: Duration = Duration::from_secs(150);

/// What brings a site up.
pub(crate) struct Plan {
    pub(crate) home: Home,
    /// Where SecantusDB is installed, if need be.
    pub(crate) tools: PathBuf,
    pub(crate) engine: EngineChoice,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) show_progress: bool,
}

/// One node to be.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
}

/// What a node is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A member of the demo cluster; it gets its customer key from the server.
    Member,
    /// Stands alone and waits for `keyward node restore`.
    Restore,
    /// Runs a program that drives WiredTiger as mongod does.
    WiredTiger { program: PathBuf, args: Vec<String> },
}

/// How far [`Site::start`] tells what it does.
pub(crate) type Tell<'a> = &'a mut (dyn FnMut(What) + Send);

/// Vault, server and nodes in one folder, which this process holds.
pub(crate) struct Site {
    home: Home,
    _lock: Lock,
    program: PathBuf,
    encryptor: PathBuf,
    pub(crate) database: Database,
    processes: Processes,
    pub(crate) vault: VaultDescription,
    pub(crate) admin: VaultAdmin,
    pub(crate) customer_key: KeyIdentifier,
    pub(crate) server: Arc<Server>,
    pub(crate) nodes: Vec<Node>,
}

/// One node of a site.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    pub(crate) port: u16,
    pub(crate) data_path: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Node {
    /// Its address, for people.
    pub(crate) fn address(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    /// Its own address for clients, whatever cluster it is in.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }

    /// What its agent says; `None` when no agent answers within a second.
    pub(crate) async fn status(&self) -> Option<NodeStatus> {
        let ask = async { AdminClient::connect(&self.socket).await?.status().await };
        timeout(Duration::from_secs(1), ask).await.ok()?.ok()
    }

    /// Asks its agent for something and waits for the end.
    pub(crate) async fn ask(&self, request: &Request) -> Result<serde_json::Value, Failure> {
        let ask = async { AdminClient::connect(&self.socket).await?.run(request, |_| {}).await };
        ask.await.map_err(|e| crate::commands::node::failure(&e, &self.name))
    }

    /// Waits until `wanted` holds of its status; the failure says what it was instead.
    pub(crate) async fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&NodeStatus) -> bool,
    ) -> Result<NodeStatus, Failure> {
        let begun = Instant::now();
        let deadline = begun + limit;
        loop {
            let status = self.status().await;
            if let Some(status) = &status
                && wanted(status)
            {
                return Ok(status.clone());
            }
            // A failed node does not mend itself.
            let failed = status.as_ref().is_some_and(|status| status.state == NodeState::Failed);
            if failed || Instant::now() >= deadline {
                let seen = match status {
                    Some(s) => format!("it is {} ({:?}): {}", s.state, s.verdict, s.reason),
                    None => "its agent does not answer".to_owned(),
                };
                return Err(Failure::new(
                    format!(
                        "{} did not become {what} within {} s: {seen}",
                        self.name,
                        begun.elapsed().as_secs()
                    ),
                    format!("read {}", self.socket.with_file_name("agent.log").display()),
                ));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Site {
    /// Takes the folder, stops what an earlier run left (databases run on; their new agents find them), starts the
    /// vault, makes the customer key where there is none, starts the server, sets the key on its project, and writes
    /// every configuration. Starts no node.
    pub(crate) async fn open(plan: Plan, tell: Tell<'_>) -> Result<Self, Failure> {
        let lock = plan.home.lock()?;
        let encryptor = database::encryptor()?;
        let database = database::provide(plan.engine, &plan.tools, plan.show_progress).await?;
        if matches!(database, Database::Mongod { .. }) {
            tell(What::Notice { text: EXPOSED.to_owned() });
        }
        let program = std::env::current_exe()
            .map_err(|e| Failure::new("this program's own path is not known", "mount /proc").because(&e))?;
        let earlier = DevFile::read(&plan.home.dev_file())?;
        let mut processes = Processes::open(plan.home.processes_file());
        let names: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        take_up(&mut processes, earlier.as_ref(), &names, tell).await;
        let vault = start_vault(&plan.home, &program, &mut processes).await?;
        let opened = async {
            let admin = VaultAdmin::of(&vault).map_err(|e| crate::commands::vault::failure(&e))?;
            let customer_key = customer_key(&admin, &vault.client_id).await?;
            let server = Arc::new(server::start(&plan.home, &program, &mut processes, &vault).await?);
            server.set_customer_key(&vault, &customer_key).await?;
            let nodes = place(&plan.home, &plan.nodes, earlier.as_ref())?;
            Ok::<_, Failure>((admin, customer_key, server, nodes))
        };
        let (admin, customer_key, server, nodes) = match opened.await {
            Ok(parts) => parts,
            Err(failure) => {
                stop_process(&mut processes, SERVER).await;
                stop_process(&mut processes, VAULT).await;
                return Err(failure);
            }
        };
        let site = Self {
            home: plan.home,
            _lock: lock,
            program,
            encryptor,
            database,
            processes,
            vault,
            admin,
            customer_key,
            server,
            nodes,
        };
        site.write_files()?;
        Ok(site)
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node, Failure> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| Failure::new(format!("there is no node {name}"), "see the names in dev.json"))
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Nodes that are members of the cluster.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.kind == NodeKind::Member)
    }

    /// Starts the agent of `name` and waits until it answers.
    pub(crate) async fn start_agent(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?.clone();
        let log = self.home.node_dir(name).join("agent.log");
        let mut command = Command::new(&self.program);
        command.args(["agent", "run", "--config"]).arg(self.home.agent_file(name));
        self.processes.start(name, command, &log)?;
        let deadline = Instant::now() + AGENT_START;
        while node.status().await.is_none() {
            if self.processes.find(name).is_none() {
                return Err(ended(&format!("the agent of {name}"), &log));
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    format!("the agent of {name} does not answer"),
                    format!("read {}", log.display()),
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Lets a node run that an earlier `keyward dev` stopped.
    pub(crate) async fn let_run(&self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?;
        let deadline = Instant::now() + SETTLE;
        loop {
            match node.status().await.map(|status| (status.state, status.engine.is_some())) {
                Some((NodeState::Stopped, _)) => return node.ask(&Request::Start).await.map(drop),
                // An agent that has just begun does not say yet that its node was stopped.
                Some((NodeState::Starting, false)) | None if Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Starts the vault again; its address is the one it had.
    pub(crate) async fn start_vault(&mut self) -> Result<(), Failure> {
        self.vault = start_vault(&self.home, &self.program, &mut self.processes).await?;
        self.admin = VaultAdmin::of(&self.vault).map_err(|e| crate::commands::vault::failure(&e))?;
        Ok(())
    }

    /// Starts the server again, at the address it had.
    pub(crate) async fn start_server(&mut self) -> Result<(), Failure> {
        let server = server::start(&self.home, &self.program, &mut self.processes, &self.vault).await?;
        self.server = Arc::new(server);
        Ok(())
    }

    /// Lets every member join the server and makes the cluster of them, where that has not been done.
    pub(crate) async fn enlist(&self) -> Result<(), Failure> {
        for node in self.members() {
            self.server.join(node).await?;
        }
        self.server.make_cluster(self.members().count()).await
    }

    /// The process of the vault, of the server, or of a node's agent.
    pub(crate) fn process(&mut self, name: &str) -> Option<ProcessRecord> {
        self.processes.find(name)
    }

    /// Asks a node's agent, the server or the vault to end. A node's database runs on.
    pub(crate) async fn stop_process(&mut self, name: &str) {
        stop_process(&mut self.processes, name).await;
    }

    /// Stops every database, every agent, the server and the vault. Returns what could not be stopped cleanly.
    pub(crate) async fn stop(&mut self) -> Vec<Failure> {
        let mut troubles = Vec::new();
        let asked = join_all(self.nodes.iter().map(stop_node)).await;
        troubles.extend(asked.into_iter().flatten());
        let running = self.processes.all();
        stop_in_order(&running).await;
        troubles.extend(self.processes.save().err());
        troubles
    }

    /// Adds a node after the start.
    pub(crate) fn add_node(&mut self, plan: NodePlan) -> Result<(), Failure> {
        let earlier = DevFile::read(&self.home.dev_file())?;
        self.nodes.extend(place(&self.home, &[plan], earlier.as_ref())?);
        self.write_files()
    }

    /// Every agent's configuration, and dev.json.
    fn write_files(&self) -> Result<(), Failure> {
        let secret = self.home.path().join("nodes/client-secret");
        write_file(&secret, self.vault.client_secret.as_bytes())?;
        for node in &self.nodes {
            let file = self.agent_file(node, secret.clone());
            let text = toml::to_string(&file).map_err(|e| {
                Failure::new("a configuration cannot be written", "use a folder whose name is UTF-8")
                    .because(&e)
            })?;
            write_file(&self.home.agent_file(&node.name), text.as_bytes())?;
        }
        self.dev_file().write(&self.home.dev_file())
    }

    fn dev_file(&self) -> DevFile {
        let vault = self.vault.clone();
        DevFile {
            vault: DevVault {
                url: vault.url,
                authority: vault.authority,
                arm_url: vault.arm_url,
                ca_file: vault.ca_file,
                tenant_id: vault.tenant_id,
                client_id: vault.client_id,
                client_secret: vault.client_secret,
                key_identifier: self.customer_key.clone(),
            },
            nodes: self
                .nodes
                .iter()
                .map(|node| DevNode {
                    name: node.name.clone(),
                    uri: node.uri(),
                    db_path: node.data_path.clone(),
                    socket: node.socket.clone(),
                })
                .collect(),
            server: Some(self.server.described.clone()),
        }
    }

    fn agent_file(&self, node: &Node, client_secret_file: PathBuf) -> AgentFile {
        let (kind, program, args) = match (&node.kind, &self.database) {
            (NodeKind::WiredTiger { program, args }, _) => ("wiredtiger", program.clone(), args.clone()),
            (NodeKind::Member, Database::Mongod { program }) => {
                ("mongod", program.clone(), vec!["--replSet".to_owned(), REPLICA_SET.to_owned()])
            }
            (NodeKind::Member | NodeKind::Restore, database) => {
                (database.kind(), database.program().to_owned(), Vec::new())
            }
        };
        let vault = &self.vault;
        AgentFile {
            name: node.name.clone(),
            data_path: node.data_path.clone(),
            state_dir: self.home.state_dir(&node.name),
            initial: match node.kind {
                NodeKind::Member => "server",
                NodeKind::Restore => "restore",
                NodeKind::WiredTiger { .. } => "new",
            },
            encryptor: self.encryptor.clone(),
            engine: EngineSection {
                kind,
                program,
                args,
                port: node.port,
                log_file: self.home.node_dir(&node.name).join("engine.log"),
                layout: matches!(node.kind, NodeKind::WiredTiger { .. }).then_some("secantusdb-11.2"),
                // No root here, so no tmpfs for mongod's temporary files: the site says so when it opens.
                exposure: if kind == "mongod" { "open" } else { "standard" },
                accept_plaintext_in_swap: true,
            },
            customer_key: CustomerKeySection {
                tenant_id: vault.tenant_id.clone(),
                own: (node.kind != NodeKind::Member).then(|| OwnKey {
                    key_identifier: self.customer_key.to_string(),
                    client_id: vault.client_id.clone(),
                    client_secret_file,
                    subscription_id: vault.subscription_id.clone(),
                    resource_group: vault.resource_group.clone(),
                }),
                cloud: "CUSTOM",
                authority: vault.authority.clone(),
                arm_url: vault.arm_url.clone(),
                ca_file: vault.ca_file.clone(),
                vault_hosts: vec![self.customer_key.vault_host().to_owned()],
                call_timeout_s: 3,
            },
            verdict: SHORT.into(),
            admin: AdminSection { socket: node.socket.clone() },
        }
    }
}

/// What `keyward dev` leaves readable with a mongod, unlike a node in production.
const EXPOSED: &str =
    "mongod's temporary files, rollback files and log stay readable here (exposure = \"open\")";

/// The replica set's name.
pub(crate) const REPLICA_SET: &str = "keyward";

/// An agent's configuration, as `keyward dev` writes it.
#[derive(Debug, Serialize)]
struct AgentFile {
    name: String,
    data_path: PathBuf,
    state_dir: PathBuf,
    initial: &'static str,
    encryptor: PathBuf,
    engine: EngineSection,
    customer_key: CustomerKeySection,
    verdict: VerdictSection,
    admin: AdminSection,
}

#[derive(Debug, Serialize)]
struct EngineSection {
    kind: &'static str,
    program: PathBuf,
    args: Vec<String>,
    port: u16,
    log_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<&'static str>,
    exposure: &'static str,
    accept_plaintext_in_swap: bool,
}

#[derive(Debug, Serialize)]
struct CustomerKeySection {
    tenant_id: String,
    #[serde(flatten)]
    own: Option<OwnKey>,
    cloud: &'static str,
    authority: String,
    arm_url: String,
    ca_file: PathBuf,
    vault_hosts: Vec<String>,
    call_timeout_s: u64,
}

/// What a node without a server needs to know; a member of the cluster is told by the server.
#[derive(Debug, Serialize)]
struct OwnKey {
    key_identifier: String,
    client_id: String,
    client_secret_file: PathBuf,
    subscription_id: String,
    resource_group: String,
}

#[derive(Debug, Serialize)]
struct VerdictSection {
    probe_interval_s: u64,
    strong_window_s: u64,
    denial_window_s: u64,
}

impl From<Windows> for VerdictSection {
    fn from(windows: Windows) -> Self {
        Self {
            probe_interval_s: windows.probe_s,
            strong_window_s: windows.strong_s,
            denial_window_s: windows.denial_s,
        }
    }
}

#[derive(Debug, Serialize)]
struct AdminSection {
    socket: PathBuf,
}

/// Ends what an earlier run left: agents and vault start anew, databases run on until their new agents find them.
/// Nodes that the new run doesn't have are stopped with their databases.
async fn take_up(processes: &mut Processes, earlier: Option<&DevFile>, wanted: &[&str], tell: Tell<'_>) {
    let left: Vec<ProcessRecord> = processes.all();
    if left.is_empty() {
        return;
    }
    let names: Vec<&str> = left.iter().map(|record| record.name.as_str()).collect();
    tell(What::Notice { text: format!("an earlier run left {}; taking over", names.join(", ")) });
    for node in earlier.map(|file| file.nodes.as_slice()).unwrap_or_default() {
        if !wanted.contains(&node.name.as_str()) && names.contains(&node.name.as_str()) {
            let stop = async { AdminClient::connect(&node.socket).await?.run(&Request::Stop, |_| {}).await };
            if let Ok(Err(error)) = timeout(NODE_STOP, stop).await {
                tell(What::Trouble { text: format!("{} could not be stopped: {error}", node.name) });
            }
        }
    }
    stop_in_order(&left).await;
}

/// Agents first, then the server that they report to, then the vault that all of them ask.
async fn stop_in_order(running: &[ProcessRecord]) {
    let (others, agents): (Vec<_>, Vec<_>) =
        running.iter().partition(|record| [VAULT, SERVER].contains(&record.name.as_str()));
    join_all(agents.iter().map(|record| record.stop(AGENT_STOP))).await;
    for name in [SERVER, VAULT] {
        join_all(others.iter().filter(|record| record.name == name).map(|record| record.stop(AGENT_STOP)))
            .await;
    }
}

async fn start_vault(
    home: &Home,
    program: &std::path::Path,
    processes: &mut Processes,
) -> Result<VaultDescription, Failure> {
    let dir = home.vault_dir();
    super::home::make_dir(&dir)?;
    let log = dir.join("vault.log");
    let mut command = Command::new(program);
    command.args(["vault", "serve", "--dir"]).arg(&dir);
    processes.start(VAULT, command, &log)?;
    let deadline = Instant::now() + VAULT_START;
    loop {
        let Some(record) = processes.find(VAULT) else { return Err(ended("the vault", &log)) };
        // Written anew by each start: an older one names another process.
        if let Ok(description) = keyward_vault::client::description(&dir)
            && description.pid == record.pid
            && let Ok(admin) = VaultAdmin::of(&description)
            && admin.status().await.is_ok()
        {
            return Ok(description);
        }
        if Instant::now() >= deadline {
            stop_process(processes, VAULT).await;
            return Err(Failure::new("the vault does not answer", format!("read {}", log.display())));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn stop_process(processes: &mut Processes, name: &str) {
    if let Some(record) = processes.find(name) {
        record.stop(AGENT_STOP).await;
    }
}

async fn stop_node(node: &Node) -> Option<Failure> {
    let status = node.status().await?;
    match timeout(NODE_STOP, node.ask(&Request::Stop)).await {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some(failure),
        Err(_) => {
            let pid = status.engine.map_or("unknown".to_owned(), |engine| engine.pid.to_string());
            Some(Failure::new(
                format!("{} did not stop within {} s", node.name, NODE_STOP.as_secs()),
                format!("its database (process {pid}) may still run"),
            ))
        }
    }
}

/// A process that ended instead of coming up; its last words are in its log.
pub(crate) fn ended(what: &str, log: &std::path::Path) -> Failure {
    const SHOWN: usize = 8;
    let mut failure =
        Failure::new(format!("{what} ended instead of starting"), format!("read {}", log.display()));
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    failure.causes = lines[lines.len().saturating_sub(SHOWN)..].iter().map(ToString::to_string).collect();
    failure
}

/// The newest version of the customer key; made where there is none, with the right to read the vault's settings
/// beside the right to use the key that the vault's first application has already.
async fn customer_key(admin: &VaultAdmin, client_id: &str) -> Result<KeyIdentifier, Failure> {
    let failed = |e| crate::commands::vault::failure(&e);
    let keys = admin.keys().await.map_err(failed)?;
    let key = match keys.into_iter().find(|key| key.name == CUSTOMER_KEY) {
        Some(key) => key,
        None => {
            admin.grant(client_id, None, &["vaults/read".to_owned()]).await.map_err(failed)?;
            admin.create_key(CUSTOMER_KEY, 2048).await.map_err(failed)?
        }
    };
    let identifier = key.key_identifier().unwrap_or_default();
    identifier.parse().map_err(|e| {
        Failure::new(format!("the vault names its key {identifier:?}"), "report it as a bug").because(&e)
    })
}

/// Folders and a port for every node: the port it had, where that is free.
fn place(home: &Home, plans: &[NodePlan], earlier: Option<&DevFile>) -> Result<Vec<Node>, Failure> {
    plans
        .iter()
        .map(|plan| {
            home.make_node_dirs(&plan.name)?;
            let had = earlier
                .and_then(|file| file.nodes.iter().find(|node| node.name == plan.name))
                .and_then(|node| node.uri.parse::<url::Url>().ok())
                .and_then(|uri| uri.port());
            Ok(Node {
                name: plan.name.clone(),
                kind: plan.kind.clone(),
                port: had.map_or_else(free_port, Ok)?,
                data_path: home.data_path(&plan.name),
                socket: home.admin_socket(&plan.name),
            })
        })
        .collect()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> Result<u16, Failure> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| Failure::new("no port is free on 127.0.0.1", "end other programs").because(&e))
}

/// Now, for people.
pub(crate) fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now())
}
