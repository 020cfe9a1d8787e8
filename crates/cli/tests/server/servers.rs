//! Two servers on one PostgreSQL behind one address: one is a process that is killed, and a node and the jobs go on at
//! the other. Then the node is taken away from both.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::copy_bidirectional;

use crate::node::Agent;
use crate::processes::Cleaner;
use crate::site::{LONG, Site};

/// What stands before the servers: hands each new connection on to one of them.
struct Balancer {
    port: u16,
    target: Arc<AtomicU16>,
    task: tokio::task::JoinHandle<()>,
}

impl Balancer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(0));
        let to = Arc::clone(&target);
        let task = tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let port = to.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let there = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                    if let Ok(mut there) = there {
                        let _ = copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        });
        Self { port, target, task }
    }

    fn to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `keyward server run` on the store of a site.
struct Server {
    child: Child,
    agents: u16,
}

impl Server {
    fn start(site: &Site) -> Self {
        let config = site.server.as_ref().unwrap().app().config();
        let azure = config.azure.as_ref().unwrap();
        let [api, agents] =
            [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port());
        let text = format!(
            "data_dir = \"{data}\"\napi_listen = \"127.0.0.1:{api}\"\nagent_listen = \"127.0.0.1:{agents}\"\n\
             agent_url = \"{agent_url}\"\nstore_url = \"{store}\"\n\
             [azure]\nauthority = \"{authority}\"\narm_url = \"{arm}\"\nvault_host = \"{host}\"\n\
             vault_resource = \"{resource}\"\nca_file = \"{ca}\"\n",
            data = config.data_dir.display(),
            agent_url = config.agent_url.as_ref().unwrap(),
            store = config.store_url.as_ref().unwrap(),
            authority = azure.authority,
            arm = azure.arm_url,
            host = azure.vault_host,
            resource = azure.vault_resource,
            ca = azure.ca_file.as_ref().unwrap().display(),
        );
        let file = site.dir.path().join("first.toml");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(site.dir.path().join("first.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(["server", "run", "--config"]).arg(file);
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + LONG;
        for port in [api, agents] {
            while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(Instant::now() < deadline, "the server never listens");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Self { child, agents }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn passes(site: &Site) -> u64 {
    let all = site.server.as_ref().unwrap().app().activities().all();
    all.iter().map(|job| job.passes).sum()
}

fn jobs_are_elsewhere(site: &Site) -> bool {
    let all = site.server.as_ref().unwrap().app().activities().all();
    all.iter().all(|job| job.elsewhere && job.passes == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_at_the_other_server_when_one_is_killed() {
    let Some(store_url) = keyward_testkit::postgres::database() else { return };
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let balancer = Balancer::start().await;
    let agent_url = format!("https://localhost:{}/", balancer.port);
    let mut site = Site::start_with(0, |config| {
        config.store_url = Some(store_url);
        config.agent_url = Some(agent_url.parse().unwrap());
    })
    .await;
    let dir = site.dir.path().to_owned();
    let _cleaner = Cleaner(&dir);

    // The jobs go over to the process, which hears at once that they are free.
    let first = Server::start(&site);
    let deadline = Instant::now() + LONG;
    loop {
        site.restart().await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if jobs_are_elsewhere(&site) {
                break;
            }
        }
        if jobs_are_elsewhere(&site) {
            break;
        }
        assert!(Instant::now() < deadline, "the process never takes the jobs over");
    }
    balancer.to(first.agents);

    // Everything is asked of the one, and done by the other, where the node waits too.
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    site.set_customer_key().await;
    let agent = Agent::start(&site, "db1");
    let token = site.json(&["project", "join-token", "create"]).await;
    let join = agent.words(&["join", "--token", "-"]);
    site.says_with(&join, &format!("{}\n", token["token"].as_str().unwrap())).await;
    let began = Instant::now();
    let create = ["cluster", "create", "orders", "--nodes", "1", "--encryption", "azure", "--watch"];
    site.says_with(&create, "").await;
    let status = agent.until_state(&site, "running").await;
    let (engine, master_key) = (status["engine"]["pid"].clone(), status["masterKey"]["id"].clone());
    assert!(jobs_are_elsewhere(&site), "the lease stayed with the process");
    eprintln!("placed through two servers in {:?}", began.elapsed());

    // Killed while the node waits there: its call ends, and the next one comes here. Here the leases run out.
    first.kill();
    balancer.to(site.server.as_ref().unwrap().agent_addr.port());
    site.advance(Duration::from_secs(61));
    site.says_with(&["cluster", "rotate-master-keys", "orders", "--watch"], "").await;
    let rotated = site.json(&agent.words(&["status"])).await;
    assert_ne!(rotated["masterKey"]["id"], master_key);
    assert_eq!(rotated["engine"]["pid"], engine, "the database noticed nothing");
    assert_eq!(rotated["link"]["problem"], Value::Null);

    // Nothing is done twice, and each change has its one event.
    let before = passes(&site);
    while passes(&site) < before + 10 {
        assert!(Instant::now() < deadline + LONG, "the jobs were not taken over");
        site.nudge();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = site.json(&agent.words(&["status"])).await;
    assert_eq!(again["masterKey"], rotated["masterKey"]);
    for kind in [
        "GROUP_CREATED",
        "KEYWARD_JOIN_TOKEN_CREATED",
        "KEYWARD_NODE_ENROLLED",
        "KEYWARD_NODE_ASSIGNED",
        "CLUSTER_CREATED",
        "CLUSTER_READY",
        "KMIP_KEY_ROTATION_SCHEDULED",
    ] {
        let events = site.json(&["event", "list", "--type", kind]).await;
        assert_eq!(events.as_array().unwrap().len(), 1, "{kind}: {events}");
    }

    leaving(&site, &agent).await;
    site.says(&agent.words(&["stop"])).await;
    site.stop().await;
}

/// The node is taken away from the server, once it is in no cluster.
async fn leaving(site: &Site, agent: &Agent) {
    let (leave, sure) = (agent.words(&["leave"]), agent.words(&["leave", "--yes"]));
    let (code, said) = site.fails(&leave).await;
    assert!(code == 2 && said.contains("--yes"), "{said}");
    let (code, said) = site.fails(&sure).await;
    assert!(code == 1 && said.contains("member of the cluster orders") && said.contains("--force"), "{said}");
    site.says_with(&["cluster", "delete", "orders", "--yes", "--watch"], "").await;

    let left = site.json(&sure).await;
    assert_eq!((&left["told"], &left["warnings"]), (&Value::Bool(true), &Value::Array(vec![])), "{left}");
    let (code, said) = site.fails(&sure).await;
    assert!(code == 1 && said.contains("joined no server"), "{said}");
    let status = site.json(&agent.words(&["status"])).await;
    assert_eq!((&status["state"], &status["link"]), (&Value::from("running"), &Value::Null), "{status}");
    let listed = site.says(&["project", "node", "list"]).await;
    assert!(listed.contains("db1") && listed.contains("● revoked"), "{listed}");
    let events = site.json(&["event", "list", "--type", "KEYWARD_NODE_LEFT"]).await;
    assert_eq!(events.as_array().unwrap().len(), 1, "{events}");
    site.says(&["project", "delete", "payments", "--yes"]).await;
}
