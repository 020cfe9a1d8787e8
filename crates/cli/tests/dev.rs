//! `keyward dev` on real processes: other commands beside it, a kill -9 of it, and its end.

#![allow(clippy::unwrap_used)]

mod processes;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use processes::{Cleaner, mentioning};
use serde_json::Value;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

fn keyward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command
        .env("KEYWARD_SECANTUSDB_PYTHON", keyward_testkit::python::secantusdb().unwrap())
        .stdin(Stdio::null());
    command
}

/// A running `keyward dev --json`.
struct Dev {
    child: Child,
    lines: std::sync::mpsc::Receiver<Value>,
}

impl Dev {
    fn start(dir: &Path, nodes: u16) -> Self {
        let mut child = keyward()
            .args(["dev", "--json", "--engine", "secantusdb", "--nodes", &nodes.to_string(), "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for an event.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        while let Ok(event) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
        panic!("no event: {what}; seen {seen:#?}");
    }

    /// Waits until each node was told to run, in any order.
    fn until_running(&self, nodes: &[&str]) {
        let mut left = nodes.to_vec();
        while !left.is_empty() {
            let event = self.until(&format!("{left:?} running"), |e| {
                e["state"] == "running" && left.iter().any(|node| e["node"] == *node)
            });
            left.retain(|node| event["node"] != *node);
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Asks it to end as Ctrl-C does, and waits.
    fn end(mut self) -> i32 {
        self.signal("-INT");
        self.child.wait().unwrap().code().unwrap()
    }
}

fn read_lines(stdout: ChildStdout) -> std::sync::mpsc::Receiver<Value> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            if sender.send(value).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Runs a command beside `dev`.
fn beside(dir: &Path, arguments: &[&str]) -> Output {
    keyward().args(arguments).arg("--dir").arg(dir).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn status(dir: &Path, node: &str) -> Value {
    json(&beside(dir, &["node", "status", "--json", "--node", node]))
}

async fn notes(dir: &Path, node: usize) -> mongodb::Collection<Document> {
    let dev: Value = serde_json::from_slice(&std::fs::read(dir.join("dev.json")).unwrap()).unwrap();
    let client = mongodb::Client::with_uri_str(dev["nodes"][node]["uri"].as_str().unwrap()).await.unwrap();
    client.database("app").collection("notes")
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_lives_with_other_commands_survives_its_own_kill_and_stops_everything() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let _cleaner = Cleaner(dir);
    let dev = Dev::start(dir, 2);
    dev.until_running(&["node-0", "node-1"]);
    notes(dir, 0).await.insert_one(doc! { "_id": 1, "text": "kept" }).await.unwrap();

    // A second one on the same folder is refused.
    let second = keyward().args(["dev", "--json", "--dir"]).arg(dir).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).starts_with("error: another `keyward dev` uses "));

    // Beside it, other commands work, and what they print is data.
    let (before, other) = (status(dir, "node-0"), status(dir, "node-1"));
    assert_eq!((&before["state"], &before["verdict"]), (&"running".into(), &"Valid".into()), "{before}");
    assert_eq!(before["databaseKeys"][0]["database"], ".system");
    let keys = json(&beside(dir, &["vault", "key", "list", "--json"]));
    assert_eq!(keys[0]["name"], "customer-key");
    assert_eq!(keys[0]["versions"][0]["keyIdentifier"], before["customerKey"]["keyIdentifier"]);
    let text = beside(dir, &["node", "status", "--node", "node-0"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("● running"));
    let exported = beside(dir, &["node", "keystore", "export", "--node", "node-0"]);
    let keystore = std::fs::read(dir.join("nodes/node-0/data/.keyward/keystore.json")).unwrap();
    assert_eq!(exported.stdout, keystore, "the export is the file, byte for byte");
    let proof = json(&beside(dir, &["node", "prove", "--json", "--node", "node-1"]));
    assert_eq!(proof["verdict"], "noPlaintext");
    let refused = beside(dir, &["node", "rotate-master-key", "--node", "node-0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("is decided by the server") && said.contains("hint: "), "{said}");

    // The server's API, with nothing but the folder's name to log in: its cluster, its key, its audit log.
    let api = |arguments: &[&str]| {
        let config = dir.join("config");
        keyward()
            .args(arguments)
            .env("XDG_CONFIG_HOME", config)
            .env_remove("KEYWARD_PROFILE")
            .output()
            .unwrap()
    };
    dev.until("what comes next", |e| {
        e["text"].as_str().is_some_and(|t| t.starts_with("next: keyward login"))
    });
    let login = api(&["login", "--dir", dir.to_str().unwrap()]);
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    let clusters = json(&api(&["cluster", "list", "--json"]));
    assert_eq!((&clusters[0]["name"], &clusters[0]["stateName"]), (&"demo".into(), &"IDLE".into()));
    let nodes = json(&api(&["cluster", "nodes", "demo", "--json"]));
    assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
    let encryption = json(&api(&["encryption", "show", "--json"]));
    assert_eq!(encryption["azureKeyVault"]["keyIdentifier"], before["customerKey"]["keyIdentifier"]);
    let rotated = api(&["cluster", "rotate-master-keys", "demo", "--watch"]);
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    assert_ne!(status(dir, "node-1")["masterKey"]["id"], other["masterKey"]["id"]);

    let key = json(&beside(dir, &["vault", "key", "rotate", "customer-key", "--json"]));
    let next =
        key["versions"].as_array().unwrap().last().unwrap()["keyIdentifier"].as_str().unwrap().to_owned();

    // An outage of the vault's data plane is told, and stops nothing.
    json(&beside(dir, &["vault", "fault", "set", "error503", "--json"]));
    dev.until("an outage", |e| e["node"] == "node-0" && e["verdict"] == "Unavailable");
    assert_eq!(status(dir, "node-0")["state"], "running");
    let refused = api(&["encryption", "set", "--key-identifier", &next]);
    assert_eq!(refused.status.code(), Some(4), "{}", String::from_utf8_lossy(&refused.stderr));
    json(&beside(dir, &["vault", "fault", "clear", "--json"]));
    dev.until("the vault back", |e| e["node"] == "node-0" && e["verdict"] == "Valid");
    let moved = api(&["encryption", "set", "--key-identifier", &next, "--watch"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    assert_eq!(status(dir, "node-0")["customerKey"]["keyIdentifier"], *next);

    // Killed, it leaves everything running; the next one takes over, and the databases notice nothing.
    dev.signal("-KILL");
    drop(dev);
    let pid = status(dir, "node-0")["engine"]["pid"].clone();
    assert_eq!(pid, before["engine"]["pid"]);
    let dev = Dev::start(dir, 2);
    dev.until("a notice", |e| e["text"].as_str().is_some_and(|text| text.starts_with("an earlier run left")));
    dev.until_running(&["node-0", "node-1"]);
    assert_eq!(status(dir, "node-0")["engine"]["pid"], pid, "the database was restarted");
    assert_eq!(notes(dir, 0).await.count_documents(doc! {}).await.unwrap(), 1);

    // A vault that dies is started again.
    let vault: Value = serde_json::from_slice(&std::fs::read(dir.join("vault/vault.json")).unwrap()).unwrap();
    assert!(Command::new("kill").args(["-KILL", &vault["pid"].to_string()]).status().unwrap().success());
    dev.until("the vault restarted", |e| {
        e["text"].as_str().is_some_and(|t| t.starts_with("the vault ended"))
    });
    json(&beside(dir, &["vault", "key", "list", "--json"]));

    // So is a server, with all it knew.
    let processes: Value =
        serde_json::from_slice(&std::fs::read(dir.join("processes.json")).unwrap()).unwrap();
    let server = processes.as_array().unwrap().iter().find(|process| process["name"] == "server").unwrap();
    assert!(Command::new("kill").args(["-KILL", &server["pid"].to_string()]).status().unwrap().success());
    dev.until("the server restarted", |e| {
        e["text"].as_str().is_some_and(|t| t.starts_with("the server ended"))
    });
    assert_eq!(json(&api(&["cluster", "list", "--json"]))[0]["id"], clusters[0]["id"]);

    assert_eq!(dev.end(), 0);
    assert_eq!(mentioning(dir), Vec::<String>::new(), "processes are left");

    // It starts again on the same data, also with fewer nodes.
    let dev = Dev::start(dir, 1);
    dev.until_running(&["node-0"]);
    assert_eq!(notes(dir, 0).await.count_documents(doc! {}).await.unwrap(), 1);
    assert_eq!(dev.end(), 0);
    assert_eq!(mentioning(dir), Vec::<String>::new(), "processes are left");
}
