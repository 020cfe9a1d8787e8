//! The server of `keyward dev`: made once, run as a process of its own, and asked over its API like any other.
//!
//! ```text
//! DIR/server/server.toml     its configuration; addresses are picked once and kept
//! DIR/server/first-key.json  the key that `init` showed once (0600)
//! DIR/server/data/           its store, its key, its certificates
//! DIR/server/server.log
//! ```

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use keyward_agent::admin::Request;
use keyward_model::KeyIdentifier;
use keyward_server::Config;
use keyward_server::config::AzureConfig;
use keyward_vault::VaultDescription;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use url::Url;

use super::home::{DevServer, Home, make_dir, write_file, write_json};
use super::process::Processes;
use super::site::{Node, ended, free_port, stop_process};
use super::view::SHORT;
use crate::api::answer::{is, items, text};
use crate::api::profile::Profile;
use crate::api::{Api, Credential, atlas, own};
use crate::failure::Failure;

/// The name under which the server's process is recorded.
pub(crate) const SERVER: &str = "server";
/// The project of `keyward dev`.
pub(crate) const PROJECT: &str = "demo";
/// Its cluster.
pub(crate) const CLUSTER: &str = "demo";

const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

/// A running server, and how it is asked.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) api: Api,
    /// What `dev.json` says of it.
    pub(crate) described: DevServer,
}

/// What `init` showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FirstKey {
    org_id: String,
    public_key: String,
    private_key: String,
}

/// `server.toml`.
#[derive(Debug, Serialize)]
struct ServerFile<'a> {
    data_dir: &'a Path,
    api_listen: SocketAddr,
    agent_listen: SocketAddr,
    azure: AzureSection<'a>,
}

#[derive(Debug, Serialize)]
struct AzureSection<'a> {
    authority: &'a Url,
    arm_url: &'a Url,
    vault_host: &'a str,
    vault_resource: &'a str,
    ca_file: Option<&'a Path>,
}

/// Makes the server where there is none, starts it, waits until it answers, and makes the demo project.
pub(crate) async fn start(
    home: &Home,
    program: &Path,
    processes: &mut Processes,
    vault: &VaultDescription,
) -> Result<Server, Failure> {
    let dir = home.server_dir();
    if !dir.join("first-key.json").exists() {
        make(home, vault).await?;
    }
    let file = dir.join("server.toml");
    let config = Config::read(&file).map_err(|e| wrong_folder(&dir).because(&e))?;
    let key = fs::read(dir.join("first-key.json")).map_err(|e| wrong_folder(&dir).because(&e))?;
    let key: FirstKey = serde_json::from_slice(&key).map_err(|e| wrong_folder(&dir).because(&e))?;
    let log = dir.join("server.log");
    let mut command = Command::new(program);
    command.args(["server", "run", "--config"]).arg(&file);
    processes.start(SERVER, command, &log)?;

    let mut described = DevServer {
        url: format!("https://localhost:{}/", config.api_listen.port()),
        ca_file: config.ca_file(),
        public_key: key.public_key,
        private_key: key.private_key,
        org_id: key.org_id,
        project_id: String::new(),
    };
    let api = Api::new(&profile(&described)?)?;
    let deadline = Instant::now() + START;
    let projects = loop {
        match api.list(atlas(["groups"])).await {
            Ok(projects) => break projects,
            Err(_) if processes.find(SERVER).is_none() => return Err(ended("the server", &log)),
            Err(failure) if Instant::now() >= deadline => {
                stop_process(processes, SERVER).await;
                return Err(Failure { hint: format!("read {}", log.display()), ..failure });
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    described.project_id = match projects.iter().find(|project| text(project, "/name") == PROJECT) {
        Some(project) => text(project, "/id").to_owned(),
        None => {
            let body = json!({ "name": PROJECT, "orgId": described.org_id });
            text(&api.post(atlas(["groups"]), &body).await?, "/id").to_owned()
        }
    };
    Ok(Server { api, described })
}

/// Makes the server's folder whole or not at all: what `init` shows is shown only once.
async fn make(home: &Home, vault: &VaultDescription) -> Result<(), Failure> {
    let (dir, new) = (home.server_dir(), home.path().join("server.new"));
    let failed = |e: &std::io::Error| {
        Failure::new(format!("{} cannot be made", dir.display()), "check the folder's owner and free space")
            .because(e)
    };
    if new.exists() {
        fs::remove_dir_all(&new).map_err(|e| failed(&e))?;
    }
    make_dir(&new)?;
    let mut config = Config::new(dir.join("data"));
    config.api_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    config.agent_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let azure = azure(vault)?;
    let file = ServerFile {
        data_dir: &config.data_dir,
        api_listen: config.api_listen,
        agent_listen: config.agent_listen,
        azure: AzureSection {
            authority: &azure.authority,
            arm_url: &azure.arm_url,
            vault_host: &azure.vault_host,
            vault_resource: &azure.vault_resource,
            ca_file: azure.ca_file.as_deref(),
        },
    };
    let file = toml::to_string(&file).map_err(|e| wrong_folder(&dir).because(&e))?;
    write_file(&new.join("server.toml"), file.as_bytes())?;
    let made = Config { data_dir: new.join("data"), azure: Some(azure), ..config };
    let report = keyward_server::init(&made)
        .await
        .map_err(|e| Failure::new("the server cannot be made", e.hint()).because(&e))?;
    let key = FirstKey {
        org_id: report.org_id.to_string(),
        public_key: report.public_key,
        private_key: report.private_key.expose_secret().to_owned(),
    };
    write_json(&new.join("first-key.json"), &key)?;
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| failed(&e))?;
    }
    fs::rename(&new, &dir).map_err(|e| failed(&e))
}

fn azure(vault: &VaultDescription) -> Result<AzureConfig, Failure> {
    let url = |text: &str| {
        text.parse::<Url>().map_err(|e| {
            Failure::new(format!("the vault names its address {text:?}"), "report it as a bug").because(&e)
        })
    };
    let data = url(&vault.url)?;
    let host = data.host_str().unwrap_or_default();
    Ok(AzureConfig {
        authority: url(&vault.authority)?,
        arm_url: url(&vault.arm_url)?,
        vault_host: data.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        vault_resource: "https://vault.azure.net".to_owned(),
        ca_file: Some(vault.ca_file.clone()),
    })
}

fn wrong_folder(dir: &Path) -> Failure {
    Failure::new(
        format!("{} is not what `keyward dev` makes", dir.display()),
        "name another folder with --dir, or delete this one with all its data",
    )
}

fn profile(server: &DevServer) -> Result<Profile, Failure> {
    let url = server.url.parse().map_err(|e| {
        Failure::new(format!("the server's address is {:?}", server.url), "report it as a bug").because(&e)
    })?;
    Ok(Profile {
        url,
        ca_file: Some(server.ca_file.clone()),
        credential: Credential::ApiKey {
            public_key: server.public_key.clone(),
            private_key: server.private_key.clone(),
        },
        token_account: None,
        org: Some(server.org_id.clone()),
        project: Some(server.project_id.clone()),
    })
}

impl Server {
    pub(crate) fn project(&self) -> &str {
        &self.described.project_id
    }

    /// Sets the project's customer key where it has none, with windows short enough to watch.
    pub(crate) async fn set_customer_key(
        &self,
        vault: &VaultDescription,
        key: &KeyIdentifier,
    ) -> Result<(), Failure> {
        let policy = json!({
            "strongWindowMs": SHORT.strong_s * 1000,
            "denialWindowMs": SHORT.denial_s * 1000,
        });
        let stored = self.encryption().await?;
        if !is(&stored, "/azureKeyVault/enabled") {
            let azure = json!({
                "enabled": true,
                "azureEnvironment": "AZURE",
                "tenantID": vault.tenant_id,
                "clientID": vault.client_id,
                "secret": vault.client_secret,
                "subscriptionID": vault.subscription_id,
                "resourceGroupName": vault.resource_group,
                "keyVaultName": vault.vault_name,
                "keyIdentifier": key.to_string(),
            });
            let body = json!({ "azureKeyVault": azure });
            self.api.patch(atlas(["groups", self.project(), "encryptionAtRest"]), &body).await?;
        }
        self.api.patch(own(["groups", self.project(), "encryption", "policy"]), &policy).await?;
        Ok(())
    }

    /// Puts another key identifier in place of the project's: a rotation of the customer key.
    pub(crate) async fn rotate_to(&self, key: &KeyIdentifier) -> Result<Value, Failure> {
        let body = json!({ "azureKeyVault": { "keyIdentifier": key.to_string() } });
        self.api.patch(atlas(["groups", self.project(), "encryptionAtRest"]), &body).await
    }

    /// The project's encryption as it is configured.
    pub(crate) async fn encryption(&self) -> Result<Value, Failure> {
        self.api.get(atlas(["groups", self.project(), "encryptionAtRest"])).await
    }

    /// Lets a node join, unless it has.
    pub(crate) async fn join(&self, node: &Node) -> Result<(), Failure> {
        let known = self.api.list(own(["groups", self.project(), "nodes"])).await?;
        if known.iter().any(|one| text(one, "/name") == node.name) {
            return Ok(());
        }
        let body = json!({ "name": node.name });
        let made = self.api.post(own(["groups", self.project(), "joinTokens"]), &body).await?;
        let token = text(&made, "/token").to_owned();
        node.ask(&Request::Join { token }).await.map(|_| ())
    }

    /// Makes the demo cluster of `nodes` nodes, unless there is one.
    pub(crate) async fn make_cluster(&self, nodes: usize) -> Result<(), Failure> {
        if self.clusters().await?.iter().any(|cluster| text(cluster, "/name") == CLUSTER) {
            return Ok(());
        }
        let region = json!({
            "providerName": "AZURE",
            "regionName": "US_EAST_2",
            "priority": 7,
            "electableSpecs": { "instanceSize": "M10", "nodeCount": nodes },
        });
        let body = json!({
            "name": CLUSTER,
            "clusterType": "REPLICASET",
            "encryptionAtRestProvider": "AZURE",
            "replicationSpecs": [{ "regionConfigs": [region] }],
        });
        self.api.post(atlas(["groups", self.project(), "clusters"]), &body).await.map(|_| ())
    }

    /// The clusters of the project.
    pub(crate) async fn clusters(&self) -> Result<Vec<Value>, Failure> {
        self.api.list(atlas(["groups", self.project(), "clusters"])).await
    }

    /// The demo cluster.
    pub(crate) async fn cluster(&self) -> Result<Value, Failure> {
        self.api.get(atlas(["groups", self.project(), "clusters", CLUSTER])).await
    }

    /// What the nodes of the demo cluster report.
    pub(crate) async fn nodes(&self) -> Result<Vec<Value>, Failure> {
        self.api.list(own(["groups", self.project(), "clusters", CLUSTER, "nodes"])).await
    }

    /// Waits until the demo cluster is idle.
    pub(crate) async fn cluster_idle(&self, limit: Duration) -> Result<Value, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let cluster = self.cluster().await?;
            let state = text(&cluster, "/stateName").to_owned();
            if state == "IDLE" {
                return Ok(cluster);
            }
            if Instant::now() >= deadline {
                let nodes = self.nodes().await.unwrap_or_default();
                let told: Vec<String> = nodes
                    .iter()
                    .map(|node| {
                        format!(
                            "{} {} {}",
                            text(node, "/name"),
                            text(node, "/state"),
                            text(node, "/progress")
                        )
                    })
                    .collect();
                return Err(Failure::new(
                    format!("cluster {CLUSTER} is {state} after {} s: {}", limit.as_secs(), told.join("; ")),
                    "see keyward cluster nodes, and the server's log",
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// Asks for new master keys on every node of the demo cluster, one node at a time.
    pub(crate) async fn rotate_master_keys(&self) -> Result<(), Failure> {
        let endpoint = own(["groups", self.project(), "clusters", CLUSTER, "rotateMasterKeys"]);
        self.api.post(endpoint, &json!({})).await.map(|_| ())
    }

    /// The newest events of the project, newest first.
    pub(crate) async fn events(&self, limit: usize) -> Result<Vec<Value>, Failure> {
        let endpoint = own(["groups", self.project(), "events"]).with("itemsPerPage", limit);
        let answer = self.api.get(endpoint).await?;
        Ok(items(&answer, "/results").to_vec())
    }

    /// Open alerts of the project.
    pub(crate) async fn alerts(&self) -> Result<Vec<Value>, Failure> {
        self.api.list(atlas(["groups", self.project(), "alerts"]).with("status", "OPEN")).await
    }
}
