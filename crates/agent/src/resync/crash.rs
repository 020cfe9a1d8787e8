//! A whole agent on a member whose data is not encrypted, its disk taken away after each operation: what is
//! left is always safe, and the next agent goes on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyward_model::{Class, NodeState, NodeStatus, sync::HeldBack};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Phase;
use crate::{
    clock::Clock,
    config::Config,
    disk::{Disk, Entry, HostDisk},
    keysock,
    link::Link,
    node::{
        NodeHandle, Parts,
        doubles::{Operators, PLAINTEXT, TableService, ThreadEngine, whole_set},
    },
};

const KEY: &str = "https://v.vault.azure.net/keys/k/11111111111111111111111111111111";
const TENANT: &str = "00000000-0000-0000-0000-000000000001";
const OPERATORS: u32 = 4_242;

/// The host's disk, which after some operations does nothing any more: the agent is as good as killed.
struct KilledDisk {
    left: AtomicUsize,
    world: Arc<Watched>,
}

/// What must hold whenever a file of the data is deleted.
struct Watched {
    data_path: PathBuf,
    operators: Arc<Operators>,
    /// Whether the host approved.
    approved: bool,
    wrong: Mutex<Vec<String>>,
}

impl KilledDisk {
    fn change<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let alive = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if alive.is_err() { Err(io::Error::other("killed")) } else { operation() }
    }
}

impl Disk for KilledDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read(path)
    }

    fn read_back(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read_back(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change(|| HostDisk.write(path, bytes))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.change(|| HostDisk.sync_file(path))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| HostDisk.link(from, to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| HostDisk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|| {
            self.world.look_at(path);
            HostDisk.remove(path)
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|| HostDisk.sync_dir(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        HostDisk.exists(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        HostDisk.list(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|| HostDisk.remove_dir(path))
    }
}

impl Watched {
    fn look_at(&self, removed: &Path) {
        let Ok(below) = removed.strip_prefix(&self.data_path) else { return };
        let mut wrong = self.wrong.lock().unwrap();
        if below == Path::new(".keyward/keystore.json") {
            wrong.push("the keystore was removed".to_owned());
        }
        if below.starts_with(".keyward") {
            return;
        }
        if !self.approved {
            wrong.push(format!("{} was deleted without approval", below.display()));
        }
        if !self.data_path.join(".keyward/keystore.json").exists() {
            wrong.push(format!("{} was deleted without a keystore", below.display()));
        }
        if self.operators.running.lock().unwrap().is_some() {
            wrong.push(format!("{} was deleted under a running database", below.display()));
        }
        let answer = self.operators.primarys_answer.lock().unwrap().clone();
        if answer != Some(whole_set(1)) {
            wrong.push(format!("{} was deleted although the others do not have it", below.display()));
        }
    }
}

struct World {
    dir: tempfile::TempDir,
    service: Arc<TableService>,
    engine: Arc<ThreadEngine>,
    approved: bool,
    arguments: &'static str,
}

struct Agent {
    node: NodeHandle,
    link: Link,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    /// A secondary of three with data that its operator runs; its server wants it encrypted.
    fn new(approved: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("kw").tempdir().unwrap();
        let data_path = dir.path().join("db");
        for name in ["WiredTiger", "WiredTiger.wt", "storage.bson", "shop/collection/0.wt", "journal/log.1"] {
            let path = data_path.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, PLAINTEXT).unwrap();
        }
        fs::create_dir_all(dir.path().join("state/server")).unwrap();
        let engine = Arc::new(ThreadEngine::default());
        let operators = &engine.operators;
        *operators.data_path.lock().unwrap() = Some(data_path);
        *operators.running.lock().unwrap() = Some(OPERATORS);
        *operators.own_answer.lock().unwrap() = Some(whole_set(0));
        *operators.primarys_answer.lock().unwrap() = Some(whole_set(1));
        *operators.filled.lock().unwrap() = Some("SECONDARY".to_owned());
        let world =
            Self { dir, service: Arc::default(), engine, approved, arguments: r#""--replSet", "rs""# };
        world.desire(true, false);
        world
    }

    /// What the server asked last.
    fn desire(&self, resync: bool, step_down: bool) {
        let desired = serde_json::json!({
            "seen": { "revision": 1, "digest": "d" },
            "done": false,
            "desired": {
                "revision": 1,
                "cluster": { "name": "rs", "replicaSet": "rs", "members": [] },
                "encryption": {
                    "keyIdentifier": KEY, "azureEnvironment": "AZURE", "tenantId": TENANT,
                    "clientId": TENANT, "subscriptionId": null, "resourceGroupName": null,
                    "credential": { "kind": "ofTheHost" }, "requirePrivateNetworking": false,
                    "policy": keyward_model::RevocationPolicy::default(), "clientSecretExpires": null,
                },
                "rotateMasterKey": null, "run": "running", "stepDown": step_down, "resync": resync,
                "validations": [],
            },
        });
        fs::write(self.path("state/server/desired.json"), desired.to_string()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Config {
        let (dir, arguments) = (self.dir.path().display(), self.arguments);
        let approve = if self.approved { r#"approve = ["resync"]"# } else { "" };
        let text = format!(
            r#"
name = "n"
data_path = "{dir}/db"
state_dir = "{dir}/state"
initial = "server"
encryptor = "/none"
spare_database_keys = 2
[engine]
kind = "wiredtiger"
program = "/none"
args = [{arguments}]
port = 1
exposure = "open"
accept_plaintext_in_swap = true
[customer_key]
tenant_id = "{TENANT}"
managed_identity = true
[verdict]
probe_interval_s = 1
[server]
{approve}
[admin]
socket = "{dir}/admin.sock"
"#
        );
        Config::parse(&text, Path::new("agent.toml")).unwrap()
    }

    /// An agent whose disk does `operations` more changes.
    fn agent(&self, operations: usize) -> (Agent, Arc<KilledDisk>) {
        let world = Arc::new(Watched {
            data_path: self.path("db"),
            operators: Arc::clone(&self.engine.operators),
            approved: self.approved,
            wrong: Mutex::default(),
        });
        let disk = Arc::new(KilledDisk { left: AtomicUsize::new(operations), world });
        let config = self.config();
        let listener = keysock::listen(&config.key_socket(), false).unwrap();
        let service = Arc::clone(&self.service);
        let parts = Parts {
            make_service: Arc::new(move |_| Ok(Arc::clone(&service) as _)),
            regions: Default::default(),
            engine: Arc::clone(&self.engine) as _,
            disk: Arc::clone(&disk) as _,
            clock: Clock::open().unwrap(),
        };
        let (node, shell) = NodeHandle::open(config, parts).unwrap();
        let link = Link::open(node.clone()).unwrap();
        let shutdown = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(keysock::serve(listener, node.clone(), shutdown.clone())),
            tokio::spawn(shell.run(shutdown.clone())),
            tokio::spawn(link.clone().run(shutdown.clone())),
        ];
        (Agent { node, link, shutdown, tasks }, disk)
    }

    /// An agent that is not killed.
    fn living(&self) -> (Agent, Arc<KilledDisk>) {
        self.agent(usize::MAX)
    }

    fn has_plaintext(&self) -> bool {
        Operators::plaintext_in(&self.path("db"))
    }

    fn phase(&self) -> Option<Phase> {
        let text = fs::read(self.path("state/resync.json")).ok()?;
        Some(serde_json::from_slice::<super::Resync>(&text).unwrap().phase)
    }

    /// Whether the member was emptied and runs, encrypted, and nothing of the resync is left.
    fn whole(&self, node: &NodeHandle) -> bool {
        let status = node.status();
        status.state == NodeState::Running
            && status.customer_key.is_some_and(|key| key.key_identifier.to_string() == KEY)
            && !self.path("state/resync.json").exists()
    }

    /// Files of the operator's database that are there.
    fn untouched(&self) -> bool {
        self.path("db/WiredTiger.wt").exists() && self.path("db/shop/collection/0.wt").exists()
    }
}

impl Agent {
    async fn until(&self, what: &str, mut wanted: impl FnMut() -> bool) {
        let found = async {
            while !wanted() {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), found).await;
        assert!(waited.is_ok(), "never {what}: {:#?}", self.node.status());
    }

    /// Waits until something is held back for a reason, and gives it.
    async fn held_back(&self, why: &str) -> HeldBack {
        let mut found = None;
        self.until(why, || {
            let held = self.status().link.map(|link| link.held_back).unwrap_or_default();
            found = held.into_iter().find(|held| held.reason.contains(why));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn status(&self) -> NodeStatus {
        // The node has joined no server in these tests; what it holds back is shown all the same.
        NodeStatus { link: Some(self.link.shown()), ..self.node.status() }
    }

    async fn end(self) {
        self.shutdown.cancel();
        for (n, task) in self.tasks.into_iter().enumerate() {
            let ended = tokio::time::timeout(Duration::from_secs(30), task).await;
            ended.unwrap_or_else(|_| panic!("task {n} of the agent does not end")).unwrap();
        }
    }
}

/// Killed after `operations` changes of the disk, then started anew: whether the first agent came to its end.
async fn killed_after(operations: usize) -> bool {
    let world = World::new(true);
    let (agent, disk) = world.agent(operations);
    eprintln!("{operations}: begun");
    let over = || disk.left.load(Ordering::SeqCst) == 0 || world.whole(&agent.node);
    agent.until("killed or whole", over).await;
    // What was begun before the last operation ends in errors.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let node = agent.node.clone();
    agent.end().await;
    // The last operation may have been the one that ended it.
    let ended = world.whole(&node);
    let mut wrong = std::mem::take(&mut *disk.world.wrong.lock().unwrap());
    if !ended && world.phase().is_none_or(|phase| matches!(phase, Phase::Begun | Phase::Stopping)) {
        assert!(world.untouched(), "killed after {operations}: deleted too early");
    }
    eprintln!("{operations}: killed");
    let (agent, disk) = world.living();
    agent
        .until(&format!("whole after a kill after {operations} operations"), || world.whole(&agent.node))
        .await;
    wrong.append(&mut disk.world.wrong.lock().unwrap());
    assert_eq!(wrong, [""; 0], "killed after {operations} operations");
    assert_eq!(world.engine.operators.bad_starts.load(Ordering::SeqCst), 0, "killed after {operations}");
    assert!(!world.has_plaintext(), "killed after {operations} operations");
    assert!(!agent.node.unencrypted() && world.path("db/.keyward/keystore.json").exists());
    let stopped = tokio::time::timeout(Duration::from_secs(30), agent.node.stop()).await;
    let status = agent.node.status();
    stopped.unwrap_or_else(|_| panic!("killed after {operations}: not stopped: {status:#?}")).unwrap();
    agent.end().await;
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing_and_the_resync_goes_on() {
    let mut kills = 0;
    loop {
        let some: Vec<_> = (kills..kills + 8).map(|n| tokio::spawn(killed_after(n))).collect();
        let mut ended = false;
        for kill in some {
            ended = kill.await.unwrap();
            kills += 1;
        }
        if ended {
            break;
        }
    }
    println!("{kills} kills");
    assert!(kills > 40, "{kills}: the agent was really killed in between");
}

#[tokio::test]
async fn without_approval_nothing_is_stopped_or_deleted_and_approval_is_used_up() {
    let world = World::new(false);
    let (agent, disk) = world.living();
    let held = agent.held_back("the server wants this cluster encrypted").await;
    assert_eq!((held.needs_approval, held.approval.as_deref()), (true, Some("resync")));
    let status = agent.node.status();
    assert_eq!(
        (status.state, status.customer_key, status.engine.unwrap().pid),
        (NodeState::Running, None, OPERATORS)
    );
    assert!(status.reason.contains("not encrypted"), "{}", status.reason);
    assert!(agent.node.start().await.is_err() && agent.node.stop().await.is_err(), "it is its operator's");
    agent.end().await;
    assert!(world.untouched() && world.phase().is_none());
    assert_eq!(world.engine.operators.stops.load(Ordering::SeqCst), 0);

    let (agent, _) = world.living();
    agent.held_back("the server wants").await;
    agent.link.approve(None).await.unwrap();
    agent.until("whole", || world.whole(&agent.node)).await;
    let approved = fs::read_to_string(world.path("state/server/approved.json")).unwrap();
    assert_eq!(approved.trim(), "[]", "it let this one through, and not the next");
    drop(disk);
    agent.end().await;
}

/// What is half deleted is not deleted further once the approval is gone, and starts nothing.
#[tokio::test]
async fn an_approval_that_is_taken_back_stops_the_deletion() {
    let mut world = World::new(true);
    // The primary does not answer: it stops right before the first deletion.
    *world.engine.operators.primarys_answer.lock().unwrap() = None;
    let (agent, _) = world.living();
    agent.held_back("no primary of the replica set").await;
    assert_eq!(world.phase(), Some(Phase::Stopping));
    agent.end().await;
    world.approved = false;
    *world.engine.operators.primarys_answer.lock().unwrap() = Some(whole_set(1));
    let (agent, disk) = world.living();
    agent.held_back("the server wants").await;
    agent.end().await;
    assert!(world.untouched());
    assert_eq!(*disk.world.wrong.lock().unwrap(), [""; 0]);
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_set_that_would_lose_data_is_left_alone() {
    for (n, (what, change)) in [
        (
            "not SECONDARY",
            (|set| set.members[0].state = "RECOVERING".into())
                as fn(&mut crate::engine::database::ReplicaSet),
        ),
        ("no other member is primary", |set| set.members[1].state = "SECONDARY".into()),
        ("are needed", |set| set.members[2].healthy = false),
        ("not up to date", |set| set.members[0].written_ms = Some(0)),
        ("nothing could fill this one again", |set| set.members.truncate(1)),
    ]
    .into_iter()
    .enumerate()
    {
        let world = World::new(true);
        change(world.engine.operators.own_answer.lock().unwrap().as_mut().unwrap());
        let (agent, _) = world.living();
        let held = agent.held_back(what).await;
        assert!(!held.needs_approval && !held.hint.is_empty(), "{n}: {held:?}");
        assert!(world.untouched() && world.phase().is_none(), "{what}");
        assert_eq!(world.engine.operators.stops.load(Ordering::SeqCst), 0, "{what}");
        assert!(!world.path("db/.keyward/keystore.json").exists(), "{what}");
        agent.end().await;
    }
}

/// Stopped, and the host is away for a week: what was safe then is asked for anew.
#[tokio::test]
async fn a_set_that_broke_meanwhile_keeps_what_is_left_of_the_data() {
    let world = World::new(true);
    let mut broken = whole_set(1);
    broken.members[2].healthy = false;
    *world.engine.operators.primarys_answer.lock().unwrap() = Some(broken);
    let (agent, _) = world.living();
    agent.held_back("are needed").await;
    assert_eq!(world.phase(), Some(Phase::Stopping));
    assert!(world.untouched());
    let status = agent.node.status();
    assert_eq!(status.state, NodeState::Stopped);
    assert!(status.reason.contains("still there"), "{}", status.reason);
    agent.end().await;
    *world.engine.operators.primarys_answer.lock().unwrap() = Some(whole_set(1));
    let (agent, disk) = world.living();
    agent.until("whole", || world.whole(&agent.node)).await;
    assert_eq!(*disk.world.wrong.lock().unwrap(), [""; 0]);
    agent.end().await;
}

#[tokio::test]
async fn a_customer_key_that_does_not_work_stops_nobody() {
    let world = World::new(true);
    world.service.set(Some(Class::ConnectionFailed));
    let (agent, _) = world.living();
    agent.until("held back", || !agent.status().link.unwrap().held_back.is_empty()).await;
    assert_eq!(world.engine.operators.stops.load(Ordering::SeqCst), 0);
    assert!(world.untouched() && !world.path("db/.keyward/keystore.json").exists());
    assert_eq!(agent.node.status().state, NodeState::Running);
    agent.end().await;
    world.service.set(None);
    let (agent, _) = world.living();
    agent.until("whole", || world.whole(&agent.node)).await;
    agent.end().await;
}

#[tokio::test]
async fn a_file_that_would_not_bring_the_member_back_stops_nobody() {
    let world = World { arguments: r#""--port", "1""#, ..World::new(true) };
    let (agent, _) = world.living();
    let held = agent.held_back("does not name the replica set `rs`").await;
    assert!(held.hint.contains("--replSet"), "{held:?}");
    assert_eq!(world.engine.operators.stops.load(Ordering::SeqCst), 0);
    agent.end().await;
}

/// A service manager that starts the database again: told, and not fought with.
#[tokio::test]
async fn a_database_that_somebody_starts_again_is_told_of() {
    let world = World::new(true);
    *world.engine.operators.starts_again.lock().unwrap() = Some(OPERATORS + 1);
    let (agent, _) = world.living();
    let held = agent.held_back("started again").await;
    assert!(held.hint.contains("systemctl disable --now"), "{held:?}");
    agent.end().await;
    let (agent, _) = world.living();
    agent.held_back("started again").await;
    agent.end().await;
    assert_eq!(world.engine.operators.stops.load(Ordering::SeqCst), 1);
    assert!(world.untouched());
    // The operator stops it for good, but the server has changed its mind: nothing is deleted.
    *world.engine.operators.running.lock().unwrap() = None;
    world.desire(false, false);
    let (agent, _) = world.living();
    agent
        .until("settled", || {
            fs::read_to_string(world.path("state/server/desired.json")).unwrap().contains("\"done\": true")
        })
        .await;
    assert!(world.untouched() && agent.node.unencrypted());
    agent.end().await;
    world.desire(true, false);
    let (agent, disk) = world.living();
    agent.until("whole", || world.whole(&agent.node)).await;
    assert_eq!(*disk.world.wrong.lock().unwrap(), [""; 0]);
    agent.end().await;
}

#[tokio::test]
async fn a_primary_hands_over_once_that_is_approved() {
    for approved in [false, true] {
        let world = World::new(approved);
        {
            let mut answer = world.engine.operators.own_answer.lock().unwrap();
            let members = &mut answer.as_mut().unwrap().members;
            (members[0].state, members[1].state) = ("PRIMARY".into(), "SECONDARY".into());
        }
        world.desire(false, true);
        let (agent, _) = world.living();
        if approved {
            agent.until("handed over", || agent.node.replica_state().as_deref() == Some("SECONDARY")).await;
        } else {
            agent.held_back("the server wants").await;
        }
        let asked = world.engine.operators.step_downs.load(Ordering::SeqCst);
        assert_eq!(asked, usize::from(approved));
        assert!(world.untouched());
        agent.end().await;
    }
}

/// A keystore that was there once: this is not data that was never encrypted, whatever it looks like.
#[tokio::test]
async fn a_node_that_had_a_keystore_is_not_adopted() {
    let world = World::new(true);
    fs::write(
        world.path("state/node.json"),
        r#"{"nodeId":"00000000-0000-4000-8000-000000000001","seenGeneration":3}"#,
    )
    .unwrap();
    let (agent, _) = world.living();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!agent.node.unencrypted());
    assert!(world.untouched() && world.engine.operators.stops.load(Ordering::SeqCst) == 0);
    agent.end().await;
}
