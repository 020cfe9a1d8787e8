//! `keyward dev` with a mongod on PATH: a replica set. The mongod is a double (`keyward_testkit::mongod_double`).

#![allow(clippy::unwrap_used)]

mod processes;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use keyward_testkit::mongod_double;
use mongodb::bson::{Bson, Document, doc};
use processes::{Cleaner, mentioning};
use serde_json::Value;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// `keyward` with the double on its PATH.
fn keyward() -> Command {
    let program = mongod_double::program().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let folders = std::iter::once(program.parent().unwrap().to_owned()).chain(std::env::split_paths(&path));
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.env("PATH", std::env::join_paths(folders).unwrap()).stdin(Stdio::null());
    command
}

fn start(dir: &Path) -> (Child, Receiver<Value>) {
    let mut child = keyward()
        .args(["dev", "--json", "--engine", "mongod", "--nodes", "3", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                return;
            }
        }
    });
    (child, receiver)
}

/// Waits for a notice that begins so; gives the rest of it.
fn notice(lines: &Receiver<Value>, start: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    let mut seen = Vec::new();
    while let Ok(event) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(rest) = event["text"].as_str().and_then(|text| text.strip_prefix(start)) {
            return rest.to_owned();
        }
        seen.push(event);
    }
    panic!("no notice {start:?}; seen {seen:#?}");
}

/// Asks it to end as Ctrl-C does, and waits.
fn end(mut child: Child) -> Option<i32> {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

/// The host of the primary, when there is one and two secondaries.
async fn primary(client: &mongodb::Client) -> Option<String> {
    let status = client.database("admin").run_command(doc! { "replSetGetStatus": 1 }).await.ok()?;
    let members: Vec<&Document> =
        status.get_array("members").ok()?.iter().filter_map(Bson::as_document).collect();
    let named = |name: &str| {
        let wanted =
            members.iter().filter(|member| member.get_str("stateStr").is_ok_and(|state| state == name));
        wanted.filter_map(|member| member.get_str("name").ok()).collect::<Vec<_>>()
    };
    match (named("PRIMARY").as_slice(), named("SECONDARY").len()) {
        ([one], 2) => Some((*one).to_owned()),
        _ => None,
    }
}

async fn until_primary(client: &mongodb::Client, mut wanted: impl FnMut(&str) -> bool) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(host) = primary(client).await.filter(|host| wanted(host)) {
            return host;
        }
        assert!(Instant::now() < deadline, "no such primary");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_makes_a_replica_set_that_hands_over_and_comes_back() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _cleaner = Cleaner(dir);
    let (dev, lines) = start(dir);
    let uri = notice(&lines, "replica set keyward: ");
    let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
    let first = until_primary(&client, |_| true).await;
    let notes = client.database("app").collection::<Document>("notes");
    notes.insert_one(doc! { "_id": 1, "text": "PLAINTEXT" }).await.unwrap();

    // Each member is a node with keys of its own, and proves that nothing is readable on its disk; a proof writes, so
    // it is the primary's to make.
    let members = ["node-0", "node-1", "node-2"].map(|node| {
        let output =
            keyward().args(["node", "status", "--json", "--node", node, "--dir"]).arg(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    });
    let masters: std::collections::BTreeSet<&str> =
        members.iter().map(|status| status["masterKey"]["id"].as_str().unwrap()).collect();
    assert_eq!(masters.len(), 3, "{members:?}");
    assert!(members.iter().all(|status| status["engine"]["version"] == "7.0.0-double"), "{members:?}");
    let described: Value = serde_json::from_slice(&std::fs::read(dir.join("dev.json")).unwrap()).unwrap();
    let nodes = described["nodes"].as_array().unwrap();
    let of_primary = nodes.iter().find(|node| node["uri"].as_str().unwrap().contains(&first)).unwrap();
    let proof = keyward()
        .args(["node", "prove", "--json", "--node", of_primary["name"].as_str().unwrap(), "--dir"])
        .arg(dir)
        .output()
        .unwrap();
    let proof: Value = serde_json::from_slice(&proof.stdout).unwrap();
    assert_eq!(proof["verdict"], "noPlaintext", "{proof}");
    let found = Command::new("grep").args(["-rlaF", "PLAINTEXT"]).arg(dir.join("nodes")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");

    // Another primary takes over under the client.
    let direct = format!("mongodb://{first}/?directConnection=true");
    let direct = mongodb::Client::with_uri_str(&direct).await.unwrap();
    direct.database("admin").run_command(doc! { "replSetStepDown": 60 }).await.unwrap();
    until_primary(&client, |host| host != first).await;
    notes.insert_one(doc! { "_id": 2 }).await.unwrap();

    assert_eq!(end(dev), Some(0));
    assert_eq!(mentioning(dir), Vec::<String>::new(), "processes are left");

    // On the same data it is the same set.
    let (dev, lines) = start(dir);
    assert_eq!(notice(&lines, "replica set keyward: "), uri);
    let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
    until_primary(&client, |_| true).await;
    let notes = client.database("app").collection::<Document>("notes");
    assert_eq!(notes.count_documents(doc! {}).await.unwrap(), 2);
    assert_eq!(end(dev), Some(0));
    assert_eq!(mentioning(dir), Vec::<String>::new(), "processes are left");
}

/// Every step of the tour, on a replica set: what differs from the tour on SecantusDB (`dev_check.rs`) is under all of
/// them, the members' hand-over and their copying.
#[test]
fn the_tour_passes_on_a_replica_set_and_leaves_nothing_behind() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _cleaner = Cleaner(dir.path());
    let output = keyward()
        .args(["dev", "--check", "--json", "--engine", "mongod", "--dir"])
        .arg(dir.path())
        .env("KEYWARD_SECANTUSDB_PYTHON", keyward_testkit::python::secantusdb().unwrap())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, steps) = lines.split_last().unwrap();
    assert_eq!(summary["passed"], true, "{stdout}");
    assert!(steps.len() >= 16 && steps.iter().all(|step| step["passed"] == true), "{stdout}");
    assert_eq!(mentioning(dir.path()), Vec::<String>::new(), "processes are left");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the tour's folder is left");
}
