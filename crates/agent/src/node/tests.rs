use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyward_model::{
    Class, Judgement, KeyIdentifier, NodeState, NodeStatus, Timestamp, Verdict, lifecycle::Event,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    NodeHandle, Parts,
    doubles::{Behaviour, TableService, ThreadEngine},
};
use crate::{
    admin::progress::Progress,
    clock::Clock,
    config::Config,
    disk::{
        NodeDisk,
        hanging::{HangingDisk, Switch},
    },
    folder::Trust,
    keysock,
    memory::Judged,
    operations, snapshot,
};

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) service: Arc<TableService>,
    pub(super) engine: Arc<ThreadEngine>,
}

pub(super) struct Agent {
    pub(super) node: NodeHandle,
    disk: Arc<NodeDisk>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("kw").tempdir().unwrap(),
            service: Arc::default(),
            engine: Arc::default(),
        }
    }

    pub(super) fn config(&self) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            r#"
name = "n"
data_path = "{dir}/db"
state_dir = "{dir}/state"
encryptor = "/none"
spare_database_keys = 4
[engine]
kind = "wiredtiger"
program = "/none"
port = 1
exposure = "open"
accept_plaintext_in_swap = true
hello_timeout_s = 1
[customer_key]
key_identifier = "https://v.vault.azure.net/keys/k/11111111111111111111111111111111"
tenant_id = "00000000-0000-0000-0000-000000000001"
managed_identity = true
[verdict]
probe_interval_s = 1
refusals = 3
strong_window_s = 1
denial_window_s = 2
[admin]
socket = "{dir}/admin.sock"
"#
        );
        Config::parse(&text, Path::new("agent.toml")).unwrap()
    }

    pub(super) fn agent(&self) -> Agent {
        self.agent_with(self.config())
    }

    pub(super) fn disk(&self) -> Arc<NodeDisk> {
        Arc::new(NodeDisk::open(&self.config().keyward_dir(), Trust::own()).unwrap())
    }

    pub(super) fn parts(&self, disk: Arc<NodeDisk>) -> Parts {
        Parts {
            make_service: {
                let service = Arc::clone(&self.service);
                Arc::new(move |_| Ok(Arc::clone(&service) as _))
            },
            regions: Default::default(),
            engine: Arc::clone(&self.engine) as _,
            disk,
            clock: Clock::open().unwrap(),
        }
    }

    pub(super) fn agent_with(&self, config: Config) -> Agent {
        let disk = self.disk();
        self.agent_of(config, self.parts(Arc::clone(&disk)), disk)
    }

    /// An agent whose disk can be made to hang.
    pub(super) fn agent_on_hanging(&self) -> (Agent, Switch) {
        let disk = self.disk();
        let (hanging, switch) = HangingDisk::of(Arc::clone(&disk) as _);
        let parts = Parts { disk: hanging, ..self.parts(Arc::clone(&disk)) };
        (self.agent_of(self.config(), parts, disk), switch)
    }

    fn agent_of(&self, config: Config, parts: Parts, disk: Arc<NodeDisk>) -> Agent {
        let listener = keysock::listen(&config.key_socket(), false).unwrap();
        let (node, shell) = NodeHandle::open(config, parts).unwrap();
        let shutdown = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(keysock::serve(listener, node.clone(), shutdown.clone())),
            tokio::spawn(shell.run(shutdown.clone())),
        ];
        Agent { node, disk, shutdown, tasks }
    }

    /// The keystore's generation and wraps, as they are on disk.
    pub(super) fn stored(&self) -> keyward_keys::keystore::SealedKeystore {
        let bytes = std::fs::read(self.dir.path().join("db/.keyward/keystore.json")).unwrap();
        keyward_keys::keystore::SealedKeystore::parse(&bytes).unwrap()
    }
}

impl Agent {
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let found = async {
            loop {
                let status = self.node.status();
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap_or_else(|_| panic!("never {what}: {:#?}", self.node.status()))
    }

    pub(super) async fn until_state(&self, state: NodeState) -> NodeStatus {
        self.until(state.as_str(), |status| status.state == state).await
    }

    pub(super) async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        self.disk.end();
    }
}

#[tokio::test]
async fn the_engine_is_stopped_while_its_keys_are_still_in_memory() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let held_at_stop = Arc::new(AtomicBool::new(false));
    let (node, held) = (agent.node.clone(), Arc::clone(&held_at_stop));
    *world.engine.on_stop.lock().unwrap() =
        Some(Box::new(move || held.store(node.status().master_key_held, Ordering::SeqCst)));
    let token = agent.node.revoked();
    world.service.set(Some(Class::KeyDisabled));
    let status = agent.until_state(NodeState::StoppedRevoked).await;
    assert!(held_at_stop.load(Ordering::SeqCst), "keys are wiped after the engine, not before");
    assert!(!status.master_key_held && status.engine.is_none());
    assert!(token.is_cancelled());
    assert!(status.evidence.iter().filter(|e| e.class == Class::KeyDisabled).count() >= 3);

    world.service.set(None);
    agent.until_state(NodeState::Running).await;
    assert!(!agent.node.revoked().is_cancelled());
    assert_eq!(agent.node.status().verdict, Verdict::Valid);
    agent.end().await;
}

/// The engine is gone for no time at all in between: who asked for the stop hears of the start, and does not wait for
/// ever.
#[tokio::test]
async fn a_stop_that_a_start_overtakes_ends() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let node = agent.node.clone();
    *world.engine.on_stop.lock().unwrap() = Some(Box::new(move || {
        let node = node.clone();
        drop(tokio::spawn(async move { node.start().await }));
    }));
    let stopped = tokio::time::timeout(Duration::from_secs(20), agent.node.stop()).await.unwrap();
    assert!(matches!(stopped, Err(crate::NodeError::Overtaken)), "{stopped:?}");
    agent.until_state(NodeState::Running).await;
    *world.engine.on_stop.lock().unwrap() = None;
    agent.node.stop().await.unwrap();
    assert_eq!(agent.node.status().state, NodeState::Stopped);
    agent.end().await;
}

/// The key answers again, and something else is taken in before that is: else the next outage would be taken for the
/// revocation that is over.
#[tokio::test]
async fn a_success_is_not_undone_by_what_is_taken_in_before_it() {
    let world = World::new();
    let key: KeyIdentifier = world.config().customer_key.key_identifier.unwrap();
    let seen = |class| keyward_kms::Facts::default().into_evidence(class, &key, Timestamp::from_epoch_ms(0));
    let (node, mut shell) = NodeHandle::open(world.config(), world.parts(world.disk())).unwrap();
    shell.take_in(Event::Judged { revoked: Some(Class::KeyDisabled), answers: false });
    assert_eq!(node.status().verdict, Verdict::Revoked);
    node.note_evidence(seen(Class::Success));
    shell.take_in(Event::Tick);
    assert_eq!(node.status().verdict, Verdict::Valid);
    shell.take_in(Event::Judged { revoked: None, answers: true });
    node.note_evidence(seen(Class::TimedOut));
    assert_eq!(node.status().verdict, Verdict::Unavailable);
    assert!(!node.revoked().is_cancelled());
}

/// The engine runs on its keys, and nobody else has them.
#[tokio::test]
async fn a_keystore_that_is_removed_under_a_running_node_comes_back_and_is_told() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let path = world.dir.path().join("db/.keyward/keystore.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    agent.until("told", |s| s.warnings.iter().any(|w| w.contains("has been put back"))).await;
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    std::fs::write(&path, "other").unwrap();
    agent.until("told", |s| s.warnings.iter().any(|w| w.contains("move the file away"))).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"other");
    assert_eq!(agent.node.status().state, NodeState::Running);
    agent.end().await;
}

/// A gap that a project set shorter than the pause between two probes must not keep refusals from adding up.
#[tokio::test]
async fn a_short_gap_between_refusals_is_probed_within() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.policy.refusals = 2;
    config.verdict.policy.strong_window_ms = 1_500;
    config.verdict.policy.gap_ms = 1_400;
    config.verdict.probe_interval = Duration::from_secs(2);
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}

/// A probe of the old key that was on its way while the master key moved to another one.
#[tokio::test]
async fn a_refusal_of_a_key_that_the_node_has_left_does_not_count() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.policy.refusals = 1;
    config.verdict.policy.strong_window_ms = 0;
    config.verdict.probe_interval = Duration::from_secs(600);
    let agent = world.agent_with(config.clone());
    agent.until_state(NodeState::Running).await;
    let old = config.customer_key.key_identifier.unwrap();
    let new = "https://w.vault.azure.net/keys/k/22222222222222222222222222222222".parse().unwrap();
    operations::rewrap(&agent.node, &new, &Progress::silent()).await.unwrap();
    let refusal = |key| {
        let at = Timestamp::from_epoch_ms(0);
        keyward_kms::Facts::default().into_evidence(Class::KeyDisabled, key, at)
    };
    agent.node.note_evidence(refusal(&old));
    let status = agent.node.status();
    assert_eq!((status.verdict, status.evidence[0].class), (Verdict::Valid, Class::KeyDisabled), "shown");
    assert_eq!(status.state, NodeState::Running);
    // The control: of the key in use it does.
    agent.node.note_evidence(refusal(&new));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}

/// Refusals of the old key must not be added to those that the new one meets later.
#[tokio::test]
async fn a_rewrap_is_a_success_of_the_new_key() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.probe_interval = Duration::from_secs(600);
    let agent = world.agent_with(config.clone());
    agent.until_state(NodeState::Running).await;
    let old = config.customer_key.key_identifier.unwrap();
    let at = Timestamp::from_epoch_ms(0);
    agent.node.note_evidence(keyward_kms::Facts::default().into_evidence(Class::DeniedByRbac, &old, at));
    assert!(agent.node.shared().judged.judgement.refusals.is_some());
    let new = "https://w.vault.azure.net/keys/k/22222222222222222222222222222222".parse().unwrap();
    operations::rewrap(&agent.node, &new, &Progress::silent()).await.unwrap();
    assert_eq!(
        agent.node.shared().judged,
        Judged { judgement: Judgement { verdict: Verdict::Valid, refusals: None }, refusal: None }
    );
    agent.end().await;
}

/// The data path of another node under the same vault, with two files; gives its URL.
pub(super) async fn copied_data_path(world: &World) -> (World, url::Url) {
    let other = World { service: Arc::clone(&world.service), ..World::new() };
    let agent = other.agent();
    agent.until_state(NodeState::Running).await;
    agent.node.stop().await.unwrap();
    agent.end().await;
    let db = other.dir.path().join("db");
    std::fs::create_dir(db.join("alpha")).unwrap();
    std::fs::write(db.join("alpha/c.wt"), "one").unwrap();
    std::fs::write(db.join("x.wt"), "two").unwrap();
    (other, url::Url::from_file_path(db).unwrap())
}

impl World {
    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn ids(&self) -> Vec<keyward_keys::KeyId> {
        self.stored().entries().iter().map(|entry| entry.id).collect()
    }

    pub(super) fn in_data_path(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("db")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_restore_that_was_cut_off_starts_nothing_and_can_be_repeated() {
    let world = World::new();
    let (other, from) = copied_data_path(&world).await;
    // A node that has a keystore of its own already, and whose data was moved away.
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.end().await;
    world.engine.crash();
    let own = world.ids();

    // As a kill in the middle leaves it.
    std::fs::write(world.path("db/x.wt"), "two").unwrap();
    std::fs::write(world.path("state/restoring.json"), r#"["alpha", "x.wt"]"#).unwrap();
    let starts = world.engine.starts.load(Ordering::SeqCst);
    let agent = world.agent();
    let status = agent.until_state(NodeState::Failed).await;
    assert!(status.reason.contains("was cut off") && status.reason.contains("repeat"), "{}", status.reason);
    assert!(agent.node.start().await.is_err());
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), starts, "nothing is started on half of the files");

    // Repeated while the vault is down it removes what was left, and nothing else; the node is what it was before.
    std::fs::write(world.path("db/.keyward/kept"), "1").unwrap();
    world.service.set(Some(Class::TimedOut));
    assert!(snapshot::restore(&agent.node, &from, &Progress::silent()).await.is_err());
    assert_eq!(world.in_data_path(), [".keyward"]);
    assert!(world.path("db/.keyward/kept").exists() && !world.path("state/restoring.json").exists());
    world.service.set(None);
    agent.node.start().await.unwrap();
    assert_eq!(world.ids(), own);

    snapshot::restore(&agent.node, &from, &Progress::silent()).await.unwrap();
    agent.until_state(NodeState::Running).await;
    assert_eq!(world.in_data_path(), [".keyward", "alpha", "x.wt"]);
    assert_eq!(std::fs::read(world.path("db/alpha/c.wt")).unwrap(), b"one");
    assert_eq!(world.ids(), other.ids());
    assert!(!world.path("state/restoring.json").exists());
    // The keys of the node that was here are kept: its data may lie elsewhere.
    let kept = std::fs::read(world.path("db/.keyward/keystore.replaced-1")).unwrap();
    let kept = keyward_keys::keystore::SealedKeystore::parse(&kept).unwrap();
    assert_eq!(kept.entries().iter().map(|entry| entry.id).collect::<Vec<_>>(), own);
    agent.end().await;
}

#[tokio::test]
async fn a_restore_that_fails_at_its_last_step_leaves_everything_as_it_was() {
    let world = World::new();
    let (_other, from) = copied_data_path(&world).await;
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let own = std::fs::read(world.path("db/.keyward/keystore.json")).unwrap();
    let claim = std::fs::read(world.path("state/node.json")).unwrap();
    // The keystore that is there cannot be kept under this name.
    std::fs::create_dir(world.path("db/.keyward/keystore.replaced-1")).unwrap();
    let error = snapshot::restore(&agent.node, &from, &Progress::silent()).await.unwrap_err();
    assert!(crate::node::chain(&error).contains("keystore"), "{error:?}");
    assert_eq!(world.in_data_path(), [".keyward"]);
    assert_eq!(std::fs::read(world.path("db/.keyward/keystore.json")).unwrap(), own);
    assert_eq!(std::fs::read(world.path("state/node.json")).unwrap(), claim);
    assert!(!world.path("state/restoring.json").exists());
    agent.until_state(NodeState::Running).await;
    agent.end().await;
}

/// A command that is refused must not cost the clients their database for a moment.
#[tokio::test]
async fn a_restore_over_data_is_refused_without_stopping_the_engine() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    std::fs::write(world.path("db/x.wt"), "data").unwrap();
    *world.engine.on_stop.lock().unwrap() = Some(Box::new(|| panic!("the engine was stopped")));
    let from = url::Url::from_file_path(world.path("elsewhere")).unwrap();
    let error = snapshot::restore(&agent.node, &from, &Progress::silent()).await.unwrap_err();
    assert!(matches!(error, snapshot::SnapshotError::DataPathNotEmpty { .. }), "{error:?}");
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1);
    *world.engine.on_stop.lock().unwrap() = None;
    agent.end().await;
}

/// What the watchdog is fed for.
#[tokio::test]
async fn a_task_that_does_not_decide_is_noticed() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    assert!(agent.node.decides(Duration::from_secs(60)).await);
    let node = agent.node.clone();
    agent.end().await;
    assert!(!node.decides(Duration::from_secs(60)).await, "it has ended");

    // One that hangs: it exists, and takes nothing in.
    let other = World::new();
    let (node, _hangs) = NodeHandle::open(other.config(), other.parts(other.disk())).unwrap();
    assert!(!node.decides(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn a_start_takes_one_unwrap() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.node.stop().await.unwrap();
    agent.end().await;
    let mut config = world.config();
    config.verdict.probe_interval = Duration::from_secs(600);
    let before = world.service.unwraps.load(Ordering::SeqCst);
    let agent = world.agent_with(config);
    agent.node.start().await.unwrap();
    assert_eq!(world.service.unwraps.load(Ordering::SeqCst) - before, 1);
    agent.end().await;
}

#[tokio::test]
async fn the_judgement_outlasts_the_agent() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.policy.refusals = 4;
    config.verdict.policy.strong_window_ms = 3_000;
    let agent = world.agent_with(config.clone());
    agent.until_state(NodeState::Running).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until("refused once", |s| s.evidence[0].class == Class::KeyDisabled).await;
    agent.end().await;
    let remembered = std::fs::read_to_string(world.dir.path().join("state/judgement.json")).unwrap();
    assert!(remembered.contains("\"count\": "), "{remembered}");

    // The new agent finds the engine running: the window goes on, nothing starts anew, nothing is cut short.
    let agent = world.agent_with(config);
    let status = agent.until("refused again", |s| !s.evidence.is_empty()).await;
    assert_eq!(status.state, NodeState::Running);
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;

    // And the revocation is remembered when the next agent starts; the customer key may say otherwise.
    let agent = world.agent();
    assert_eq!(agent.until("decided", |s| s.reason != "starting").await.state, NodeState::StoppedRevoked);
    world.service.set(None);
    agent.until_state(NodeState::Running).await;
    agent.end().await;
}

/// After a failover a key that the other region misses is not gone: only who knows where it worked can tell.
#[tokio::test]
async fn where_the_key_worked_outlasts_the_agent() {
    let world = World::new();
    let key: KeyIdentifier = world.config().customer_key.key_identifier.unwrap();
    let known_at_start = || {
        let disk = world.disk();
        let parts = world.parts(Arc::clone(&disk));
        let regions = parts.regions.clone();
        drop(NodeHandle::open(world.config(), parts).unwrap());
        disk.end();
        regions.of(&key)
    };
    assert_eq!(known_at_start(), None);
    for region in ["westeurope", "northeurope"] {
        *world.service.region.lock().unwrap() = Some(region.to_owned());
        let agent = world.agent();
        agent.until_state(NodeState::Running).await;
        agent.node.probe().await;
        agent.end().await;
        assert_eq!(known_at_start().as_deref(), Some(region));
    }
    // A key that the keystore is not under (any more) is forgotten with the next change.
    let file = world.dir.path().join("state/regions.json");
    let other = "https://v.vault.azure.net/keys/k/22222222222222222222222222222222";
    std::fs::write(&file, format!(r#"{{"{other}":"westeurope","{key}":"westeurope"}}"#)).unwrap();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.node.probe().await;
    agent.end().await;
    assert_eq!(known_at_start().as_deref(), Some("northeurope"));
    assert!(!std::fs::read_to_string(&file).unwrap().contains(other));

    // No start waits for it.
    std::fs::write(&file, "{").unwrap();
    assert_eq!(known_at_start(), None);
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.node.probe().await;
    agent.end().await;
    assert_eq!(known_at_start().as_deref(), Some("northeurope"));
}

#[tokio::test]
async fn an_engine_without_encryptor_is_stopped() {
    let world = World::new();
    *world.engine.behaviour.lock().unwrap() = Behaviour::Silent;
    let agent = world.agent();
    let status = agent.until_state(NodeState::Failed).await;
    assert!(status.reason.contains("did not say hello within 1 s"), "{}", status.reason);
    assert!(!status.master_key_held && status.engine.is_none());
    let error = agent.node.stop().await;
    assert!(error.is_ok());
    *world.engine.behaviour.lock().unwrap() = Behaviour::Good;
    agent.node.start().await.unwrap();
    agent.end().await;
}

#[tokio::test]
async fn an_engine_that_crashes_is_started_again() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    world.engine.crash();
    agent.until("crashed", |s| s.reason.contains("signal 11")).await;
    agent.until_state(NodeState::Running).await;
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 2);
    agent.end().await;
}

#[tokio::test]
async fn a_new_agent_without_vault_runs_on_and_gives_keys_later() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.end().await;
    world.service.set(Some(Class::NameNotResolved));
    let agent = world.agent();
    agent.until("welcomed without keys", |_| world.engine.welcomes.lock().unwrap().len() == 2).await;
    assert_eq!(world.engine.welcomes.lock().unwrap()[1], (0, false));
    let status = agent.until("asked in vain", |s| !s.evidence.is_empty()).await;
    assert_eq!((status.state, status.master_key_held), (NodeState::Running, false));
    world.service.set(None);
    agent.until("held", |s| s.master_key_held).await;
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_hold_stops_the_engine_and_lets_it_come_back_without_the_vault() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.probe_interval = Duration::from_secs(600);
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    let hold = agent.node.hold("a snapshot is made").await.unwrap();
    let status = agent.node.status();
    assert_eq!((status.state, status.reason.as_str()), (NodeState::Stopped, "a snapshot is made"));
    assert!(agent.node.hold("another").await.is_err(), "one at a time");
    world.service.set(Some(Class::TimedOut));
    drop(hold);
    agent.until_state(NodeState::Running).await;
    agent.end().await;
}

/// A vault that is down stops nothing, and neither does a snapshot during that.
#[tokio::test]
async fn an_engine_that_could_not_come_back_is_not_held() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.end().await;
    world.service.set(Some(Class::TimedOut));
    let agent = world.agent();
    agent.until("asked in vain", |s| !s.evidence.is_empty()).await;
    let error = agent.node.hold("a snapshot copies the files").await.err().expect("the keys are not there");
    assert_eq!((error.code(), error.exit()), ("MASTER_KEY_NOT_HELD", 4));
    let status = agent.node.status();
    assert!(status.engine.is_some() && status.state == NodeState::Running);
    world.service.set(None);
    agent.until("held", |s| s.master_key_held).await;
    drop(agent.node.hold("a snapshot copies the files").await.unwrap());
    agent.until_state(NodeState::Running).await;
    agent.end().await;
}

#[tokio::test]
async fn a_new_node_is_refused_with_the_reason_or_waits_out_an_outage() {
    for (class, state) in [
        (Class::DeniedByRbac, NodeState::Failed),
        (Class::KeyPurged, NodeState::Failed),
        (Class::Misconfigured, NodeState::Failed),
        (Class::KeyDisabled, NodeState::StoppedRevoked),
        (Class::ConnectionFailed, NodeState::WaitingForCustomerKey),
    ] {
        let world = World::new();
        world.service.set(Some(class));
        let agent = world.agent();
        let status = agent.until_state(state).await;
        assert!(status.reason.contains(class.text()), "{class:?}: {}", status.reason);
        assert!(!world.dir.path().join("db/.keyward/keystore.json").exists());
        world.service.set(None);
        if state == NodeState::Failed {
            agent.node.start().await.unwrap();
        }
        agent.until_state(NodeState::Running).await;
        agent.end().await;
    }
}

#[tokio::test]
async fn an_operation_that_fails_at_any_call_can_be_repeated() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.probe_interval = Duration::from_secs(600);
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    let other = "https://w.vault.azure.net/keys/k/22222222222222222222222222222222".parse().unwrap();
    let keys = world.stored().entries().iter().map(|entry| entry.id).collect::<Vec<_>>();
    for calls in 0.. {
        world.service.fail_after(Some(calls));
        let rotated = operations::rotate_master_key(&agent.node, &Progress::silent()).await;
        world.service.fail_after(Some(calls));
        let rewrapped = operations::rewrap(&agent.node, &other, &Progress::silent()).await;
        world.service.fail_after(None);
        assert_eq!(world.stored().wraps().len(), 1, "nothing half done stays behind");
        assert_eq!(agent.node.status().state, NodeState::Running);
        assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1);
        if let (Ok(rotated), Ok(rewrapped)) = (rotated, rewrapped) {
            assert_ne!(rotated.master_key_id, rotated.previous_master_key_id);
            assert_eq!(rewrapped.key_identifier, other.to_string());
            assert!(calls >= 5, "{calls} calls were cut off");
            break;
        }
    }
    assert_eq!(world.stored().entries().iter().map(|entry| entry.id).collect::<Vec<_>>(), keys);
    agent.node.stop().await.unwrap();
    agent.node.start().await.unwrap();
    agent.end().await;
}

#[tokio::test]
async fn only_one_operation_at_a_time_changes_wraps() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let running = agent.node.begin("a").unwrap();
    let error = operations::rotate_master_key(&agent.node, &Progress::silent()).await.unwrap_err();
    assert_eq!(error.code(), "BUSY");
    drop(running);
    operations::rotate_master_key(&agent.node, &Progress::silent()).await.unwrap();
    agent.end().await;
}

#[tokio::test]
async fn the_master_key_itself_is_unwrapped_now_and_then() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.master_key_check_interval = Duration::ZERO;
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    let before = world.service.unwraps.load(Ordering::SeqCst);
    // Each round is a canary and a master key.
    agent.until("unwrapped", |_| world.service.unwraps.load(Ordering::SeqCst) >= before + 4).await;
    assert!(!agent.node.status().warnings.iter().any(|w| w.contains("unwraps something else")));
    agent.end().await;
}

#[tokio::test]
async fn status_warns_of_what_an_operator_should_see() {
    let world = World::new();
    let mut config = world.config();
    config.customer_key.client_secret_expires = Some(jiff::civil::date(2020, 1, 1));
    config.customer_key.key_identifier =
        Some("https://v.vault.azure.net/keys/k/11111111111111111111111111111111".parse().unwrap());
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    let other = "https://w.vault.azure.net/keys/k/22222222222222222222222222222222".parse().unwrap();
    operations::rewrap(&agent.node, &other, &Progress::silent()).await.unwrap();
    world.service.set(Some(Class::DeniedByFirewall));
    let status = agent.until("seen", |s| s.verdict == Verdict::Unavailable).await;
    let warned = |text: &str| assert!(status.warnings.iter().any(|w| w.contains(text)), "{status:#?}");
    warned("the client secret has expired");
    warned("rewrap, or correct the file");
    warned(Class::DeniedByFirewall.text());
    agent.end().await;
}
