//! A real serving process, killed while it writes: what was answered is there after a restart.

#![allow(clippy::unwrap_used)]

mod served;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyward_vault::VaultDescription;
use keyward_vault::client::{VaultAdmin, description};
use serde_json::{Value, json};
use served::http_client;

const ROUNDS: u64 = 12;
const WRITERS: usize = 4;

/// What a writer was told is done.
#[derive(Default, Clone)]
struct Answered {
    /// Newest tag that was answered with 200.
    tag: u64,
    /// Versions that were answered with 200.
    versions: Vec<String>,
    /// Request ids of all answers.
    request_ids: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut vault) = start(dir.path());
    let answered: Vec<Arc<Mutex<Answered>>> = (0..WRITERS).map(|_| Arc::default()).collect();
    {
        let admin = VaultAdmin::of(&vault).unwrap();
        admin.grant(&vault.client_id, None, &["all".to_owned()]).await.unwrap();
        for (n, answered) in answered.iter().enumerate() {
            let made = admin.create_key(&format!("w{n}"), 2048).await.unwrap();
            answered.lock().unwrap().versions.push(made.versions[0].version.clone());
        }
    }
    for round in 0..ROUNDS {
        let token = token(&vault).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| tokio::spawn(write(vault.clone(), token.clone(), n, Arc::clone(&answered[n]))))
            .collect();
        // Spread over the round numbers: from before the first answer to many writes in.
        tokio::time::sleep(Duration::from_millis(5 + 37 * round)).await;
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        let url = vault.url.clone();
        (child, vault) = start(dir.path());
        assert_eq!(vault.url, url, "key identifiers contain the port");
        check(&vault, &answered).await;
    }
    assert!(answered.iter().all(|a| a.lock().unwrap().tag > 0), "each writer got something done");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Killed at any moment of its first start, a vault starts the next time.
#[test]
fn a_first_start_can_be_killed() {
    for milliseconds in (0..240).step_by(20) {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn(dir.path());
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let (mut child, _) = start(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

async fn write(vault: VaultDescription, token: String, n: usize, answered: Arc<Mutex<Answered>>) {
    let http = http_client(&vault);
    let mut tag = answered.lock().unwrap().tag;
    loop {
        tag += 1;
        let rotates = n == 0 && tag.is_multiple_of(5);
        let request = if rotates {
            http.post(format!("{}/keys/w{n}/rotate?api-version=7.4", vault.url))
        } else {
            http.patch(format!("{}/keys/w{n}?api-version=7.4", vault.url))
                .json(&json!({ "tags": { "n": tag.to_string() } }))
        };
        let Ok(response) = request.bearer_auth(&token).send().await else { return };
        assert_eq!(response.status(), 200);
        let id = response.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
        let Ok(body) = response.json::<Value>().await else { return };
        let mut answered = answered.lock().unwrap();
        answered.request_ids.push(id);
        if rotates {
            let kid = body["key"]["kid"].as_str().unwrap();
            answered.versions.push(kid.rsplit('/').next().unwrap().to_owned());
        } else {
            answered.tag = tag;
        }
    }
}

async fn check(vault: &VaultDescription, answered: &[Arc<Mutex<Answered>>]) {
    let http = http_client(vault);
    let token = token(vault).await;
    let admin = VaultAdmin::of(vault).unwrap();
    let keys = admin.keys().await.unwrap();
    let logged: std::collections::HashSet<String> =
        admin.log(0).await.unwrap().into_iter().map(|entry| entry.request_id).collect();
    for (n, answered) in answered.iter().enumerate() {
        let answered = answered.lock().unwrap().clone();
        let url = format!("{}/keys/w{n}?api-version=7.4", vault.url);
        let shown: Value = http.get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        let tag: u64 = shown["tags"]["n"].as_str().map_or(0, |t| t.parse().unwrap());
        assert!(tag >= answered.tag, "writer {n}: tag {} was answered, {tag} is there", answered.tag);
        let there = &keys.iter().find(|k| k.name == format!("w{n}")).unwrap().versions;
        for version in &answered.versions {
            assert!(there.iter().any(|v| v.version == *version), "writer {n}: version {version} is lost");
        }
        for id in &answered.request_ids {
            assert!(logged.contains(id), "writer {n}: request {id} is not in the access log");
        }
    }
}

async fn token(vault: &VaultDescription) -> String {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &vault.client_id),
        ("client_secret", &vault.client_secret),
        ("scope", "https://vault.azure.net/.default"),
    ];
    let url = format!("{}/{}/oauth2/v2.0/token", vault.authority, vault.tenant_id);
    let body: Value = http_client(vault).post(url).form(&form).send().await.unwrap().json().await.unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

fn start(dir: &Path) -> (Child, VaultDescription) {
    let mut child = spawn(dir);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let description = description(dir).unwrap();
    assert_eq!(line.trim(), description.url);
    assert_eq!(child.id(), description.pid);
    (child, description)
}

fn spawn(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_keyward-vault"))
        .args([dir.as_os_str(), "127.0.0.1:0".as_ref(), "--while-stdin-open".as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}
