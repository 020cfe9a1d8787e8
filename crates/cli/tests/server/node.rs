//! A host from its join token to the end of its cluster: a real agent with a real database, a server, and the exit
//! codes of what an operator asks of them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::processes::{Cleaner, mentioning};
use crate::site::{LONG, Site};

/// An agent in a process of its own; its database outlives it.
pub(crate) struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    /// A node that waits for its server.
    pub(crate) fn start(site: &Site, name: &str) -> Self {
        let dir = site.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let vault = site.vault();
        let host = vault.url.trim_start_matches("https://").trim_end_matches('/');
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let text = format!(
            "name = \"{name}\"\ndata_path = \"{dir}/db\"\nstate_dir = \"{dir}/state\"\ninitial = \"server\"\n\
             encryptor = \"{encryptor}\"\n\
             [engine]\nkind = \"secantusdb\"\nprogram = \"{python}\"\nport = {port}\nexposure = \"open\"\n\
             accept_plaintext_in_swap = true\n\
             [customer_key]\ntenant_id = \"{tenant}\"\ncloud = \"CUSTOM\"\nauthority = \"{authority}\"\n\
             arm_url = \"{arm}\"\nca_file = \"{ca}\"\nvault_hosts = [\"{host}\"]\ncall_timeout_s = 3\n\
             [verdict]\nprobe_interval_s = 1\n\
             [admin]\nsocket = \"{dir}/admin.sock\"\n",
            dir = dir.display(),
            encryptor = keyward_testkit::built::encryptor_library().unwrap().display(),
            python = keyward_testkit::python::secantusdb().unwrap().display(),
            tenant = vault.tenant_id,
            authority = vault.authority,
            arm = vault.arm_url,
            ca = vault.ca_file.display(),
        );
        let config = dir.join("agent.toml");
        fs::write(&config, text).unwrap();
        let log = fs::File::create(dir.join("agent.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(["agent", "run", "--config"]).arg(config);
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let socket = dir.join("admin.sock");
        let deadline = Instant::now() + LONG;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the agent never listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, socket }
    }

    /// `keyward node …` for this node.
    pub(crate) fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let socket = ["--socket", self.socket.to_str().unwrap()];
        ["node"].into_iter().chain(words.iter().copied()).chain(socket).collect()
    }

    pub(crate) async fn until_state(&self, site: &Site, state: &str) -> Value {
        site.until(state, &self.words(&["status"]), |status| status["state"] == state).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_serves_and_leaves_its_cluster() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let site = Site::start().await;
    let dir = site.dir.path().to_owned();
    let _cleaner = Cleaner(&dir);
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    site.set_customer_key().await;
    site.says(&["encryption", "policy", "--strong-window", "1s", "--denial-window", "5s"]).await;
    let agent = Agent::start(&site, "db1");

    // A token from stdin, out of sight of `ps`; one that is none, and one that was used, are refused.
    let join = agent.words(&["join", "--token", "-"]);
    let (code, said) = site.fails_with(&join, "kwj1.nonsense\n").await;
    assert!(code == 1 && said.contains("no join token"), "{said}");
    let token = site.json(&["project", "join-token", "create", "--name", "db1"]).await;
    let token = token["token"].as_str().unwrap();
    let (said, _) = site.says_with(&join, &format!("{token}\n")).await;
    assert!(said.contains("node id") && !said.contains(token), "{said}");
    let (code, said) = site.fails_with(&join, token).await;
    assert!(code == 1, "{said}");
    let listed = site.says(&["project", "join-token", "list"]).await;
    assert!(listed.contains("● used") && !listed.contains(token), "{listed}");
    site.until("joined", &["project", "node", "list"], |list| list[0]["name"] == "db1").await;
    let free = site.says(&["project", "node", "list"]).await;
    assert!(free.contains("db1") && free.contains("● stopped"), "{free}");

    // Long work tells how far it is, in lines where there is no terminal.
    let create = ["cluster", "create", "orders", "--nodes", "1", "--encryption", "azure", "--watch"];
    let (said, told) = site.says_with(&create, "").await;
    assert!(said.starts_with("cluster orders is created: ● IDLE"), "{said}");
    assert!(told.starts_with("cluster orders: CREATING, "), "{told}");
    assert!(!told.contains('\x1b') && !told.contains('\r'), "{told:?}");
    agent.until_state(&site, "running").await;
    let nodes = site.says(&["cluster", "nodes", "orders"]).await;
    assert!(nodes.contains("● running") && nodes.contains("Valid"), "{nodes}");
    let (_, told) = site.says_with(&["cluster", "rotate-master-keys", "orders", "--watch"], "").await;
    assert!(told.starts_with("master keys of orders: 0 of 1 nodes done"), "{told}");
    let backups = format!("file://{}", site.dir.path().join("backup").display());
    let (_, told) = site.says_with(&agent.words(&["snapshot", "--to", &backups]), "").await;
    assert!(told.lines().count() > 1, "a snapshot tells its steps: {told}");

    exit_codes(&site, &agent).await;
    approvals(&site, &agent).await;

    let (said, told) = site.says_with(&["cluster", "delete", "orders", "--yes", "--watch"], "").await;
    assert_eq!((said.as_str(), told.as_str()), ("cluster orders is deleted\n", "cluster orders: deleting\n"));
    assert_eq!(site.json(&["cluster", "list"]).await, Value::Array(Vec::new()));
    let (code, said) = site.fails(&["cluster", "delete", "orders", "--yes"]).await;
    assert!(code == 1 && said.contains("CLUSTER_NOT_FOUND"), "{said}");
    site.says(&agent.words(&["stop"])).await;
    drop(agent);
    assert_eq!(mentioning(&dir), Vec::<String>::new(), "processes are left");
    site.stop().await;
}

/// What needs the host's word is held back until it is given, and is shown before.
async fn approvals(site: &Site, agent: &Agent) {
    assert_eq!(site.says(&agent.words(&["approve", "--list"])).await, "nothing waits for approval\n");
    let said = site.says(&["cluster", "update", "orders", "--encryption", "none"]).await;
    assert!(said.starts_with("cluster orders is changed: "), "{said}");
    let list = agent.words(&["approve", "--list"]);
    let waits = site.until("held back", &list, |waiting| !waiting[0].is_null()).await;
    assert_eq!(waits[0]["approval"], "encryption-off");
    let listed = site.says(&list).await;
    assert!(listed.contains("approve = [\"encryption-off\"]") && listed.contains("why it waits"), "{listed}");
    // The same where the cluster is looked at.
    let held = |nodes: &Value| !nodes[0]["heldBack"][0].is_null();
    site.until("reported", &["cluster", "nodes", "orders"], held).await;
    let nodes = site.says(&["cluster", "nodes", "orders"]).await;
    assert!(nodes.contains("db1 does not") && nodes.contains("keyward node approve"), "{nodes}");

    // Nobody is there to say yes.
    let (code, said) = site.fails(&agent.words(&["approve"])).await;
    assert!(code == 2 && said.contains("--yes"), "{said}");
    let said = site.says(&agent.words(&["approve", "--yes"])).await;
    assert!(said.starts_with("approved\n"), "{said}");
    assert_eq!(site.says(&list).await, "nothing waits for approval\n");
    let (said, _) =
        site.says_with(&["cluster", "update", "orders", "--encryption", "azure", "--watch"], "").await;
    assert!(said.starts_with("cluster orders is changed: ● IDLE"), "{said}");
}

/// 0 done, 1 failed, 2 usage, 3 refused because the customer key is revoked, 4 it is unavailable: each from the
/// server's side and from the host's.
async fn exit_codes(site: &Site, agent: &Agent) {
    let (status, start, stop) = (agent.words(&["status"]), agent.words(&["start"]), agent.words(&["stop"]));
    let set = ["encryption", "set", "--key-identifier", &site.key];
    let check = async |situation: &str, table: &[(&[&str], i32)]| {
        for (words, code) in table {
            let output = site.run(words, "").await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(*code), "{situation}: {words:?}: {said}");
            assert_eq!(*code == 0, !said.contains("hint: "), "{situation}: {words:?}: {said}");
        }
    };
    check(
        "all is well",
        &[
            (&["org", "list"], 0),
            (&["cluster", "show", "orders"], 0),
            (&status, 0),
            (&["--version"], 0),
            (&["cluster", "show", "nothing"], 1),
            (&["project", "show", "--project", "nothing"], 1),
            (&["project", "show", "--project", "0123456789abcdef01234567"], 1),
            (&["node", "status", "--socket", "/nonexistent/admin.sock"], 1),
            (&["node", "preflight", "--mongod", "/nonexistent/mongod"], 1),
            (&["cluster", "list", "--colour"], 2),
            (&["cluster", "list", "--profile", "nobody"], 2),
            (&["cluster", "delete", "orders"], 2),
            (&["cluster", "update", "orders"], 2),
            (&["node", "status", "--dir", "/nonexistent"], 2),
        ],
    )
    .await;

    site.admin.set_fault("refuse".parse().unwrap(), None).await.unwrap();
    check("an outage", &[(&set, 4), (&status, 0), (&["encryption", "status"], 0)]).await;
    site.says(&stop).await;
    check("an outage, and the node is stopped", &[(&start, 4), (&status, 0)]).await;
    site.admin.clear_faults().await.unwrap();
    agent.until_state(site, "running").await;

    site.admin.disable_key("cmk").await.unwrap();
    agent.until_state(site, "stoppedRevoked").await;
    let rewrap = agent.words(&["rewrap", "--key-identifier", &site.key]);
    check("the key is taken away", &[(&set, 3), (&start, 3), (&status, 0), (&rewrap, 1)]).await;
    site.admin.enable_key("cmk").await.unwrap();
    agent.until_state(site, "running").await;
    check("the key is back", &[(&set, 0), (&start, 0)]).await;
}
