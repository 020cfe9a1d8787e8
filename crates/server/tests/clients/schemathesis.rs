//! Schemathesis over the operations of the official document, on both databases: no 5xx, and every answer conforms.
//!
//! That document is not part of the project: `KEYWARD_ATLAS_OPENAPI` names it, and without it the tests say that they
//! were skipped. `KEYWARD_SCHEMATHESIS_EXAMPLES` sets the examples per operation, for a thorough run, and
//! `KEYWARD_SCHEMATHESIS_PATHS` (a regular expression) the paths.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    agents::Agent,
    customer_key::CustomerKey,
    replay_atlas_cli::wait_for,
    site::{Answer, Database, Site},
};

/// Examples per operation and phase, few enough for every day.
const EXAMPLES: &str = "4";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    conforms(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql() {
    conforms(Database::Postgresql).await;
}

async fn conforms(database: Database) {
    let Some(document) = std::env::var_os("KEYWARD_ATLAS_OPENAPI").filter(|path| !path.is_empty()) else {
        keyward_testkit::skip!(
            "KEYWARD_ATLAS_OPENAPI names no official document of the Atlas Administration API"
        );
    };
    let schemathesis =
        tokio::task::spawn_blocking(keyward_testkit::python::schemathesis).await.unwrap().unwrap();
    let interpreter = match schemathesis {
        Ok(interpreter) => interpreter,
        Err(reason) => keyward_testkit::skip!("{reason}"),
    };
    let Some(site) = Site::start_with_vault(database).await else { return };
    let known = populate(&site).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let thorough = std::env::var("KEYWARD_SCHEMATHESIS_EXAMPLES").ok();
    // The phase `coverage` alone tries some hundred requests per operation.
    let phases = if thorough.is_some() { "examples,coverage,fuzzing" } else { "examples,fuzzing" };
    let examples = thorough.unwrap_or_else(|| EXAMPLES.to_owned());
    let paths = std::env::var("KEYWARD_SCHEMATHESIS_PATHS").unwrap_or_else(|_| "^/api/atlas/v2".to_owned());
    let report = keyward_testkit::target_dir().join(format!("schemathesis-{database:?}.txt").to_lowercase());
    let written = std::fs::File::create(&report).unwrap();
    let mut command = Command::new(interpreter.with_file_name("schemathesis"));
    command
        .args(["run", "--url", &site.url, "--tls-verify"])
        .arg(site.ca_file())
        .args(["--include-path-regex", &paths, "--phases", phases])
        .args(["--checks", "no_server_error,no_secret,status_code_conformance"])
        .args(["--checks", "content_type_conformance,response_schema_conformance"])
        .args(["--max-examples", &examples, "--seed", "20261124", "--generation-deterministic"])
        .args(["--workers", "2", "--continue-on-failure", "--no-color", "--warnings", "off"])
        .args(["--suppress-health-check", "all", "--request-timeout", "30"])
        .arg(&document)
        .current_dir(site.dir.path())
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("KEYWARD_KNOWN", known.to_string())
        .stdin(Stdio::null())
        .stdout(written.try_clone().unwrap())
        .stderr(written)
        .kill_on_drop(true);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    let status = command.status().await.unwrap();
    assert!(
        status.success(),
        "{}\n{status}: see {}",
        std::fs::read_to_string(&report).unwrap(),
        report.display()
    );
}

/// One of everything, for requests to reach; and who makes them.
async fn populate(site: &Site) -> Value {
    let owner = site.owner();
    let made = |answer: Answer, status: u16| answer.expect(status).body;
    let account = async |name: &str| {
        let path = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
        let body =
            json!({"name": name, "description": name, "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 24});
        made(owner.post(&path, body).await, 201)
    };
    let caller = account("schemathesis").await;
    let other = account("other").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, secret) = (text(&caller["clientId"]), text(&caller["secrets"][0]["secret"]));
    let token = site.plain("POST", "/api/oauth/token").basic_auth(&id, Some(&secret));
    let token = Answer::of(token.form(&[("grant_type", "client_credentials")]).send().await.unwrap())
        .await
        .expect(200);
    let authorization = format!("Bearer {}", text(&token.body["access_token"]));
    let version = "application/vnd.atlas.2025-03-12+json";
    let group = site
        .plain("POST", "/api/atlas/v2/groups")
        .header("accept", version)
        .header("authorization", &authorization);
    let group = group.json(&json!({"name": "schemathesis", "orgId": site.org})).send().await.unwrap();
    let project = text(&Answer::of(group).await.expect(201).body["id"]);

    // The organization's owner adds themselves to the project, then configures it.
    let path = format!("/api/atlas/v2/groups/{project}");
    let keys = made(owner.get(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org)).await, 200);
    let own =
        keys["results"].as_array().unwrap().iter().find(|key| key["publicKey"] == site.owner.public).unwrap();
    let roles = json!([{"roles": ["GROUP_OWNER"]}]);
    let added = owner.post(&format!("{path}/apiKeys/{}", text(&own["id"])), roles).await;
    assert!((200..300).contains(&added.status), "{}", added.text);
    let key = CustomerKey::make(site, "schemathesis").await;
    owner.patch(&format!("{path}/encryptionAtRest"), json!({"azureKeyVault": key.body()})).await.expect(200);
    let cluster = json!({
        "name": "orders", "clusterType": "REPLICASET", "encryptionAtRestProvider": "AZURE",
        "replicationSpecs": [{"regionConfigs": [{
            "providerName": "AZURE", "regionName": "US_EAST_2", "priority": 7,
            "electableSpecs": {"instanceSize": "M10", "nodeCount": 3},
        }]}],
    });
    owner.version("2024-10-23").post(&format!("{path}/clusters"), cluster).await.expect(201);
    let mut agents = Vec::new();
    for n in 1..=3 {
        agents.push(Agent::enrol(site, &project, n).await);
    }
    let process = wait_for(site, &mut agents, || async {
        let processes = made(owner.get(&format!("{path}/processes")).await, 200);
        processes["results"][0]["id"].as_str().map(str::to_owned)
    });
    let process = process.await;
    let user = json!({"username": "user@example.com", "roles": ["GROUP_READ_ONLY"]});
    let user = made(owner.post(&format!("{path}/users"), user).await, 201);
    let sacrificed = json!({"desc": "sacrificed", "roles": ["ORG_MEMBER"]});
    let sacrificed =
        made(owner.post(&format!("/api/atlas/v2/orgs/{}/apiKeys", site.org), sacrificed).await, 200);
    let config = json!({
        "eventTypeName": "HOST_DOWN", "enabled": true, "notifications": [{"typeName": "GROUP", "delayMin": 0}],
    });
    let config = made(owner.post(&format!("{path}/alertConfigs"), config).await, 201);
    let events = made(owner.get(&format!("{path}/events")).await, 200);
    // A node is missed: there is an alert to look at.
    site.advance_ms(200_000);
    site.server.app().nudge().jobs();
    let alert = wait_for(site, &mut [], || async {
        let alerts = made(owner.get(&format!("{path}/alerts?status=OPEN")).await, 200);
        alerts["results"][0]["id"].as_str().map(str::to_owned)
    });
    json!({
        "authorization": authorization,
        "secret": key.vault.client_secret,
        "path": {
            "groupId": project,
            "orgId": site.org,
            "clusterName": "orders",
            "processId": process,
            "alertConfigId": config["id"],
            "alertId": alert.await,
            "eventId": events["results"][0]["id"],
            "apiUserId": sacrificed["id"],
            "clientId": other["clientId"],
            "userId": user["id"],
            "cloudProvider": "AZURE",
        },
    })
}
