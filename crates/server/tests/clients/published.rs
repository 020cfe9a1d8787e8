//! Published clients of the Atlas Administration API, unchanged but for the server's address and authority: a
//! project from its creation to its end. What they do is in the scripts beside this file.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    agents::Agent,
    customer_key::CustomerKey,
    site::{Database, Site},
};

/// The steps that every client goes through, in order.
const STEPS: [&str; 7] = [
    "creates a project",
    "adds a project owner",
    "sets the customer key",
    "creates a cluster",
    "rotates the key in place",
    "reads events",
    "tears down",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyatlassdk_over_digest() {
    for database in [Database::Sqlite, Database::Postgresql] {
        if let Some(site) = Site::start_with_vault(database).await {
            let owner = site.org_key(&["ORG_OWNER"]).await;
            let credentials = json!({"public_key": owner.public, "private_key": owner.private});
            run(&site, "python over Digest", pyatlassdk().await, credentials).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyatlassdk_over_oauth() {
    let Some(site) = Site::start_with_vault(Database::Sqlite).await else { return };
    let credentials = service_account(&site).await;
    run(&site, "python over OAuth", pyatlassdk().await, credentials).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_server_and_its_api_client() {
    let folder = match tokio::task::spawn_blocking(keyward_testkit::node::atlas).await.unwrap().unwrap() {
        Ok(folder) => folder,
        Err(reason) => keyward_testkit::skip!("{reason}"),
    };
    let Some(site) = Site::start_with_vault(Database::Sqlite).await else { return };
    // Node looks for packages beside the script.
    let script = folder.join(format!("mcp-tour-{}.mjs", std::process::id()));
    std::fs::copy(client("mcp_tour.mjs"), &script).unwrap();
    let mut command = Command::new("node");
    command.arg(&script);
    let credentials = service_account(&site).await;
    run(&site, "mcp", command, credentials).await;
    std::fs::remove_file(script).unwrap();
}

fn client(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

async fn pyatlassdk() -> Command {
    let interpreter = tokio::task::spawn_blocking(keyward_testkit::python::atlas).await.unwrap().unwrap();
    let mut command = Command::new(interpreter);
    command.arg(client("pyatlassdk_tour.py"));
    command
}

/// A service account that owns the organization, as the clients take it.
async fn service_account(site: &Site) -> Value {
    let path = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
    let body = json!({
        "name": "outside", "description": "a client", "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 24,
    });
    let made = site.owner().post(&path, body).await.expect(201).body;
    json!({"client_id": made["clientId"], "client_secret": made["secrets"][0]["secret"]})
}

/// Runs a client to its end, with nodes for its cluster, and checks what it says it did.
async fn run(site: &Site, name: &str, mut command: Command, credentials: Value) {
    let key = CustomerKey::make(site, "outside").await;
    let ca_file = site.ca_file();
    let orders = json!({
        "url": site.url,
        "org": site.org,
        "name": name,
        "owner": "owner@example.com",
        "credentials": credentials,
        "vault": key.body(),
        "next_key": key.next_version().await,
        "in_use": "CANNOT_DISABLE_ENCRYPTION_AT_REST_USED_BY_CLUSTERS",
        "ca_file": ca_file,
        "home": site.dir.path(),
    });
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    command.env("SSL_CERT_FILE", &ca_file).env("NODE_EXTRA_CA_CERTS", &ca_file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(orders.to_string().as_bytes()).await.unwrap();
    let output = tokio::select! {
        output = child.wait_with_output() => output.unwrap(),
        () = nodes(site, name) => unreachable!("nodes work for ever"),
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{out}\n{err}\nthe server's jobs: {:?}",
        site.server.app().activities().all()
    );
    let said: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&str> = said.iter().filter_map(|line| line["step"].as_str()).collect();
    let mut rest = steps.iter();
    for step in STEPS {
        assert!(rest.any(|said| *said == step), "`{step}` is not among {steps:?}, in its order");
    }
}

/// Three nodes of the client's project, as soon as it has made it; they do all that is asked of them.
async fn nodes(site: &Site, project: &str) {
    let pause = || tokio::time::sleep(Duration::from_millis(100));
    let project = loop {
        let found = site.owner().get("/api/atlas/v2/groups").await.expect(200);
        let projects = found.body["results"].as_array().unwrap();
        match projects.iter().find(|found| found["name"] == project) {
            Some(found) => break found["id"].as_str().unwrap().to_owned(),
            None => pause().await,
        }
    };
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(Agent::enrol(site, &project, n).await);
    }
    loop {
        for agent in &mut agents {
            let done = agent.observed.done_revision;
            if agent.fetch(site).await.is_some_and(|desired| desired.revision != done) {
                agent.obey(site).await;
            }
        }
        pause().await;
    }
}
