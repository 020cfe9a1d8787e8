//! An existing replica set becomes encrypted: three members with data, adopted by a server, filled again one
//! at a time. Its mongods are doubles (`keyward_testkit::mongod_double`), or those of `KEYWARD_MONGOD`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use keyward_agent::{admin::Request, config::Config};
use keyward_model::event::EventType;
use keyward_testkit::certificates::Authority;
use mongodb::{
    Client,
    bson::{Document, doc},
    options::{ClientOptions, ServerAddress, Tls, TlsOptions},
};
use serde_json::{Value, json};

use crate::{
    server::{join, node_file, waiting_node_at},
    site::{Site, azure, azure_key_vault, until},
    support::{Agent, LONG, World, free_port},
};

const SET: &str = "orders";
const DATABASES: [&str; 2] = ["shop", "people"];
const DOCUMENTS: i32 = 200;
const MARKER: &str = "PLAINTEXT-";

/// A mongod that its operator started, and what of it runs in the end, whoever started it.
struct Member {
    name: &'static str,
    data_path: PathBuf,
    port: u16,
    /// What it is started with, beside where.
    arguments: Vec<String>,
    client: Client,
    clients_tls: Option<TlsOptions>,
}

impl Member {
    async fn start(world: &World, name: &'static str, authority: Option<&Authority>) -> Result<Self> {
        let (data_path, port) = (world.path(name).join("db"), free_port()?);
        fs::create_dir_all(&data_path)?;
        let mut arguments = vec!["--replSet".to_owned(), SET.to_owned()];
        let mut clients_tls = None;
        if let Some(authority) = authority {
            let own = authority.sign(name, &["127.0.0.1"])?;
            for (option, value) in [
                ("--tlsMode", Path::new("requireTLS")),
                ("--tlsCertificateKeyFile", &own),
                ("--tlsCAFile", authority.ca_file()),
            ] {
                arguments.extend([option.to_owned(), value.display().to_string()]);
            }
            let options = TlsOptions::builder()
                .ca_file_path(authority.ca_file().to_owned())
                .cert_key_file_path(authority.sign("client", &[])?)
                .build();
            clients_tls = Some(options);
        }
        let status = Command::new(program()?)
            .arg("--dbpath")
            .arg(&data_path)
            .args(["--port", &port.to_string(), "--directoryperdb", "--fork", "--logpath"])
            .arg(world.path(name).join("operators.log"))
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "the operator's mongod did not start: {status}");
        let client = client(port, clients_tls.as_ref())?;
        Ok(Self { name, data_path, port, arguments, client, clients_tls })
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn state(&self) -> Option<&'static str> {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
        match (hello.get_bool("isWritablePrimary"), hello.get_bool("secondary")) {
            (Ok(true), _) => Some("PRIMARY"),
            (_, Ok(true)) => Some("SECONDARY"),
            _ => Some("OTHER"),
        }
    }

    /// What it has itself, as a secondary as well.
    async fn count(&self, database: &str) -> Result<u64> {
        Ok(self.client.database(database).collection::<Document>("c").count_documents(doc! {}).await?)
    }
}

impl Drop for Member {
    /// Whatever a failed test leaves running on this data path.
    fn drop(&mut self) {
        let Ok(processes) = fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let of_this_member =
                String::from_utf8_lossy(&line).split('\0').any(|word| Path::new(word) == self.data_path);
            if of_this_member {
                let _ = crate::support::kill(pid);
            }
        }
    }
}

fn program() -> Result<PathBuf> {
    match std::env::var_os("KEYWARD_MONGOD").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => keyward_testkit::mongod_double::program(),
    }
}

fn client(port: u16, tls: Option<&TlsOptions>) -> Result<Client> {
    let address = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) };
    let options = ClientOptions::builder()
        .tls(tls.cloned().map(Tls::Enabled))
        .hosts(vec![address])
        .direct_connection(true)
        .server_selection_timeout(Duration::from_millis(1_500))
        .connect_timeout(Duration::from_millis(1_500))
        .build();
    Ok(Client::with_options(options)?)
}

/// The file of an agent that finds `member` running; with `more` at its end.
fn agent_file(world: &World, member: &Member, more: &str) -> Result<Config> {
    let (path, _) = waiting_node_at(world, member.name, member.port)?;
    let python = keyward_testkit::python::secantusdb()?;
    let text = format!("{}\n{more}", fs::read_to_string(path)?)
        .replace("kind = \"secantusdb\"", "kind = \"mongod\"")
        .replace("args = [\"--sync-on-commit\"]", &format!("args = {}", json!(member.arguments)))
        .replace(
            &format!("program = \"{}\"", python.display()),
            &format!("program = \"{}\"", program()?.display()),
        );
    Ok(node_file(world, member.name, &text)?.1)
}

/// Whether any file below holds what was written in the clear.
fn has_plaintext(folder: &Path) -> bool {
    let holds = |path: &Path| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(MARKER.len()).any(|at| at == MARKER.as_bytes()))
    };
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_plaintext(&entry.path()),
        _ => holds(&entry.path()),
    })
}

/// Looks all the time whether two of three members serve.
struct Watch {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Watch {
    fn start(members: &[Member]) -> Result<Self> {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients: Vec<Client> = members
            .iter()
            .map(|member| client(member.port, member.clients_tls.as_ref()))
            .collect::<Result<_>>()?;
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&looks));
        let task = tokio::spawn(async move {
            let mut bad = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let asked = clients.iter().map(|client| async {
                    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.ok();
                    hello.is_some_and(|hello| {
                        ["isWritablePrimary", "secondary"]
                            .iter()
                            .any(|name| hello.get_bool(name).unwrap_or(false))
                    })
                });
                let serving = futures_util::future::join_all(asked).await;
                if serving.iter().filter(|serves| **serves).count() < 2 {
                    bad.push(format!("{serving:?}"));
                }
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            bad
        });
        Ok(Self { stop, looks, task })
    }

    async fn end(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::SeqCst);
        Ok((self.looks.load(Ordering::SeqCst), self.task.await?))
    }
}

async fn nodes(site: &Site, project: &str) -> Result<Vec<Value>> {
    let path = format!("/api/keyward/v1/groups/{project}/clusters/{SET}/nodes");
    let answer = site.ask(200, "GET", &path, None).await?;
    Ok(answer["results"].as_array().context("nodes")?.clone())
}

async fn initiate(members: &[Member]) -> Result<()> {
    let list: Vec<Document> =
        (0..).zip(members).map(|(id, member)| doc! { "_id": id, "host": member.address() }).collect();
    let config = doc! { "_id": SET, "members": list };
    members[0].client.database("admin").run_command(doc! { "replSetInitiate": config }).await?;
    until("a primary and two secondaries", async || {
        let mut states = Vec::new();
        for member in members {
            states.push(member.state().await);
        }
        let is = |wanted: &str| states.iter().filter(|state| **state == Some(wanted)).count();
        Ok(is("PRIMARY") == 1 && is("SECONDARY") == 2)
    })
    .await
}

async fn primary(members: &[Member]) -> Result<&Member> {
    for member in members {
        if member.state().await == Some("PRIMARY") {
            return Ok(member);
        }
    }
    bail!("there is no primary")
}

/// Three members with documents, and who was primary.
async fn replica_set(world: &World, authority: Option<&Authority>) -> Result<(Vec<Member>, &'static str)> {
    eprintln!("mongod: {}", program()?.display());
    let mut members = Vec::new();
    for name in ["n1", "n2", "n3"] {
        members.push(Member::start(world, name, authority).await?);
    }
    initiate(&members).await?;
    let first = primary(&members).await?;
    let former_primary = first.name;
    for database in DATABASES {
        let documents =
            (0..DOCUMENTS).map(|n| doc! { "_id": n, "text": format!("{MARKER}{n}") }).collect::<Vec<_>>();
        let insert = doc! { "insert": "c", "documents": documents, "writeConcern": { "w": "majority" } };
        first.client.database(database).run_command(insert).await?;
    }
    until("all members have all documents", async || {
        for member in &members {
            for database in DATABASES {
                if member.count(database).await? != u64::try_from(DOCUMENTS)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })
    .await?;
    Ok((members, former_primary))
}

/// A server that reaches the world's vault, and its project.
async fn server(world: &World) -> Result<(Site, String)> {
    let vault = world.vault.running.as_ref().context("the vault runs")?.description().clone();
    let site = Site::start(&world.path("server"), |config| {
        config.azure = Some(azure(&vault));
        config.customer_key.new_credential_wait = Duration::ZERO;
    })
    .await?;
    let project = site.project("existing").await?;
    let group = format!("/api/atlas/v2/groups/{project}");
    let key = json!({ "azureKeyVault": azure_key_vault(&vault, &world.key_identifier) });
    site.ask(200, "PATCH", &format!("{group}/encryptionAtRest"), Some(key)).await?;
    Ok((site, project))
}

/// The set as a cluster of `project`; gives where the server has it.
async fn adopt(site: &Site, project: &str) -> Result<String> {
    let cluster = json!({
        "name": SET, "clusterType": "REPLICASET", "encryptionAtRestProvider": "NONE",
        "replicationSpecs": [{"regionConfigs": [{
            "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
            "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
        }]}],
    });
    let group = format!("/api/atlas/v2/groups/{project}");
    site.ask(201, "POST", &format!("{group}/clusters"), Some(cluster)).await?;
    let one = format!("{group}/clusters/{SET}");
    until("the set is adopted", async || is_idle(site, &one).await).await?;
    for node in nodes(site, project).await? {
        assert_eq!((&node["state"], &node["encrypted"]), (&json!("running"), &json!(false)), "{node}");
    }
    Ok(one)
}

async fn is_idle(site: &Site, cluster: &str) -> Result<bool> {
    Ok(site.ask(200, "GET", cluster, None).await?["stateName"] == "IDLE")
}

/// What is so of every member once all are encrypted.
async fn assert_encrypted(world: &World, site: &Site, project: &str, members: &[Member]) -> Result<()> {
    for member in members {
        for database in DATABASES {
            let count = member.count(database).await?;
            assert_eq!(count, u64::try_from(DOCUMENTS)?, "{database} on {}", member.name);
        }
        assert!(!has_plaintext(&member.data_path), "{} still holds plaintext", member.name);
    }
    for node in nodes(site, project).await? {
        assert_eq!(node["customerKey"], json!(world.key_identifier), "{node}");
        assert_eq!(node["done"], json!(true), "{node}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_replica_set_is_encrypted_member_by_member_and_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let (members, former_primary) = replica_set(&world, None).await?;
    let (site, project) = server(&world).await?;

    // Adopted as they are.
    let mut agents = Vec::new();
    for member in &members {
        let agent = Agent::start(agent_file(&world, member, "")?).await?;
        join(&agent.client, &site.token(&project).await?).await?;
        agents.push(agent);
    }
    let one = adopt(&site, &project).await?;
    let idle = async || is_idle(&site, &one).await;
    let status = agents[0].client.status().await?;
    assert!(status.reason.contains("not encrypted"), "{}", status.reason);
    let pid = status.engine.context("the operator's process")?.pid;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    assert!(line.contains(&*members[0].data_path.to_string_lossy()), "{line}");
    for member in &members {
        assert!(has_plaintext(&member.data_path), "the control: {} is in the clear", member.name);
    }

    // Switched on; each host approves when it is asked.
    let watch = Watch::start(&members)?;
    let on = json!({ "encryptionAtRestProvider": "AZURE" });
    assert_eq!(site.ask(200, "PATCH", &one, Some(on)).await?["stateName"], "UPDATING");
    let mut approved = Vec::new();
    let mut encrypted_before = Vec::new();
    let deadline = Instant::now() + LONG;
    while approved.len() < members.len() || !idle().await? {
        if Instant::now() > deadline {
            bail!("never encrypted; approved {approved:?}: {:#}", json!(nodes(&site, &project).await?));
        }
        let mut waiting = Vec::new();
        for (agent, member) in agents.iter().zip(&members) {
            let held = agent.client.approvals().await?;
            if held.iter().any(|held| held.approval.as_deref() == Some("resync")) {
                waiting.push((agent, member));
            }
        }
        ensure!(waiting.len() <= 1, "{} hosts are asked at once", waiting.len());
        if let [(agent, member)] = waiting[..] {
            let plain = members.iter().filter(|member| has_plaintext(&member.data_path)).count();
            encrypted_before.push(members.len() - plain);
            assert!(has_plaintext(&member.data_path), "nothing is deleted before it is approved");
            approved.push(member.name);
            let approval = Request::Approve { approvals: Some(vec!["resync".to_owned()]) };
            agent.client.run(&approval, |_| {}).await?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (looks, bad) = watch.end().await?;
    assert!(looks > 20, "{looks} looks");
    assert!(bad.is_empty(), "the majority was lost: {bad:?}");

    // One after the other, each whole before the next, the primary last and after it had handed over.
    assert_eq!(encrypted_before, [0, 1, 2]);
    assert_eq!(approved.last(), Some(&former_primary), "{approved:?}");
    ensure!(primary(&members).await?.name != former_primary, "it has handed over");
    assert_encrypted(&world, &site, &project, &members).await?;
    for (agent, member) in agents.iter().zip(&members) {
        let status = agent.client.status().await?;
        for database in DATABASES {
            let has_key = status.database_keys.iter().any(|key| key.database == database);
            assert!(has_key, "{} has no key for {database}", member.name);
        }
        assert!(agent.client.approvals().await?.is_empty());
    }
    assert_eq!(site.events(EventType::ClusterResyncStarted).await?, 1);
    until("the end is told", async || Ok(site.events(EventType::ClusterResyncCompleted).await? == 1)).await?;
    for agent in agents {
        agent.stop_all().await?;
    }
    site.stop().await;
    Ok(())
}

/// The members, their clients and the agents speak TLS alone, each with a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_replica_set_that_requires_tls_is_encrypted_over_tls() -> Result<()> {
    let world = World::new().await?;
    let authority = Authority::new(&world.path("certificates"), "members")?;
    let (members, _) = replica_set(&world, Some(&authority)).await?;
    let (site, project) = server(&world).await?;
    let own = authority.sign("agent", &[])?;
    let more =
        format!("[engine.tls]\ncertificate_file = \"{}\"\n[server]\napprove = [\"resync\"]\n", own.display());
    let mut agents = Vec::new();
    for member in &members {
        let agent = Agent::start(agent_file(&world, member, &more)?).await?;
        join(&agent.client, &site.token(&project).await?).await?;
        agents.push(agent);
    }
    let one = adopt(&site, &project).await?;
    for member in &members {
        assert!(has_plaintext(&member.data_path), "the control: {} is in the clear", member.name);
    }
    let on = json!({ "encryptionAtRestProvider": "AZURE" });
    assert_eq!(site.ask(200, "PATCH", &one, Some(on)).await?["stateName"], "UPDATING");
    until("encrypted", async || is_idle(&site, &one).await).await?;
    assert_encrypted(&world, &site, &project, &members).await?;

    // What keyward started speaks TLS alone, as before.
    for member in &members {
        let plain = client(member.port, None)?.database("admin").run_command(doc! { "hello": 1 }).await;
        assert!(plain.is_err(), "{} answers in the clear: {plain:?}", member.name);
    }
    for agent in agents {
        agent.stop_all().await?;
    }
    site.stop().await;
    Ok(())
}
