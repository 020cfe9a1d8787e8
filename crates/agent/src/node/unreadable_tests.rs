//! A keystore that cannot be read, beside a database that runs on its keys.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use keyward_model::{Class, KeyIdentifier, NodeState, NodeStatus, Verdict};

use super::tests::{Agent, World};
use crate::{admin::progress::Progress, canaries, operations};

const OTHER_KEY: &str = "https://w.vault.azure.net/keys/k/22222222222222222222222222222222";

impl World {
    fn keystore(&self) -> PathBuf {
        self.path("db/.keyward/keystore.json")
    }

    fn copy(&self) -> PathBuf {
        canaries::path(&self.path("state"))
    }

    /// A node ran, its agent ended, and its engine runs on.
    async fn left_running(&self) {
        let agent = self.agent();
        agent.until_state(NodeState::Running).await;
        agent.end().await;
    }
}

fn warns(status: &NodeStatus, text: &str) -> bool {
    status.warnings.iter().any(|warning| warning.contains(text))
}

async fn until_warned(agent: &Agent, text: &str) -> NodeStatus {
    agent.until(text, |status| warns(status, text)).await
}

/// What can become of the file, each as the next agent finds it.
type Damage = (&'static str, fn(&World));

const DAMAGES: [Damage; 5] = [
    ("gone", |world| std::fs::remove_file(world.keystore()).unwrap()),
    ("no keystore", |world| std::fs::write(world.keystore(), "other").unwrap()),
    ("cut off", |world| {
        let whole = std::fs::read(world.keystore()).unwrap();
        std::fs::write(world.keystore(), &whole[..whole.len() / 2]).unwrap();
    }),
    ("forged", |world| {
        // It has a keystore's shape, and only the master key can tell.
        let whole = std::fs::read_to_string(world.keystore()).unwrap();
        let forged =
            whole.replacen("\"purpose\":\"spare\"", "\"purpose\":\"database\",\"database\":\"x\"", 1);
        assert_ne!(forged, whole);
        std::fs::write(world.keystore(), forged).unwrap();
    }),
    ("of another node", |world| {
        let text = std::fs::read_to_string(world.keystore()).unwrap();
        let own = world.stored().node_id().to_string();
        std::fs::write(world.keystore(), text.replace(&own, &keyward_keys::NodeId::make().to_string()))
            .unwrap();
    }),
];

#[tokio::test]
async fn a_revocation_is_seen_beside_a_keystore_that_cannot_be_read() {
    for (what, damage) in DAMAGES {
        let world = World::new();
        world.left_running().await;
        let whole = std::fs::read(world.keystore()).unwrap();
        damage(&world);
        let damaged = std::fs::read(world.keystore()).ok();

        let mut config = world.config();
        config.verdict.policy.refusals = 1;
        config.verdict.policy.strong_window_ms = 0;
        config.verdict.probe_interval = Duration::from_secs(600);
        let agent = world.agent_with(config);
        agent.until("no master key", |s| s.reason.contains("the agent has no master key: ")).await;
        let probed = async |answer| {
            world.service.set(answer);
            agent.node.probe().await;
            agent.node.status()
        };
        let status = probed(None).await;
        assert!(warns(&status, "is probed with the canaries in"), "{what}: {status:#?}");
        assert_eq!((status.verdict, status.evidence[0].class), (Verdict::Valid, Class::Success), "{what}");
        assert_eq!((status.state, status.master_key_held), (NodeState::Running, false), "{what}");

        // An outage stops nothing, the customer does.
        let status = probed(Some(Class::TimedOut)).await;
        assert_eq!((status.state, status.verdict), (NodeState::Running, Verdict::Unavailable), "{what}");
        probed(Some(Class::KeyDisabled)).await;
        let status = agent.until_state(NodeState::StoppedRevoked).await;
        assert!(status.engine.is_none() && !status.master_key_held, "{what}");

        // The key is given back: the verdict follows, and nothing is opened, given out or started.
        probed(None).await;
        let status = agent.until_state(NodeState::Failed).await;
        assert_eq!(status.verdict, Verdict::Valid, "{what}");
        assert!(status.reason.contains("keystore"), "{what}: {}", status.reason);
        assert!(agent.node.start().await.is_err(), "{what}");
        assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1, "{what}");
        let welcomes = world.engine.welcomes.lock().unwrap().clone();
        assert!(welcomes[1..].iter().all(|welcome| *welcome == (0, false)), "{what}: {welcomes:?}");
        assert_eq!(std::fs::read(world.keystore()).ok(), damaged, "{what}: nothing is overwritten");

        // Mended, it is as ever.
        std::fs::write(world.keystore(), &whole).unwrap();
        agent.node.start().await.unwrap();
        let status = agent.until_state(NodeState::Running).await;
        assert!(status.master_key_held, "{what}");
        let status = probed(None).await;
        assert!(!warns(&status, "canaries"), "{what}: {status:#?}");
        agent.end().await;
    }
}

/// A keystore of an older generation was put in place, under a customer key that the node has left and that
/// is disabled since: neither that file nor a copy as old as it stops the node.
#[tokio::test]
async fn a_key_that_the_node_has_left_stops_nothing() {
    let world = World::new();
    let mut config = world.config();
    config.verdict.policy.refusals = 1;
    config.verdict.policy.strong_window_ms = 0;
    let old_key = config.customer_key.key_identifier.clone().unwrap();
    let new_key: KeyIdentifier = OTHER_KEY.parse().unwrap();
    let agent = world.agent_with(config.clone());
    agent.until_state(NodeState::Running).await;
    let (old_keystore, old_copy) =
        (std::fs::read(world.keystore()).unwrap(), std::fs::read(world.copy()).unwrap());
    operations::rewrap(&agent.node, &new_key, &Progress::silent()).await.unwrap();
    let new_copy = std::fs::read_to_string(world.copy()).unwrap();
    assert!(new_copy.contains(OTHER_KEY) && !new_copy.contains(&old_key.to_string()), "{new_copy}");
    agent.end().await;
    world.service.set_key(&old_key.to_string(), Class::KeyDisabled);

    std::fs::write(world.keystore(), &old_keystore).unwrap();
    let agent = world.agent_with(config.clone());
    let status = agent.until("probed", |s| !s.evidence.is_empty()).await;
    assert_eq!(status.evidence[0].key_identifier, new_key);
    agent.end().await;

    // The copy as well is the old one: it is not believed, and status says that nothing is probed.
    std::fs::write(world.copy(), &old_copy).unwrap();
    let agent = world.agent_with(config.clone());
    let status = until_warned(&agent, "is not probed").await;
    assert!(warns(&status, "is of generation"), "{status:#?}");
    agent.node.probe().await;
    let status = agent.node.status();
    assert_eq!((status.state, status.evidence.len()), (NodeState::Running, 0));
    agent.end().await;

    // Nor is one of another node, or none.
    let other = World::new();
    other.left_running().await;
    for copy in [Some(std::fs::read(other.copy()).unwrap()), None] {
        match copy {
            Some(copy) => std::fs::write(world.copy(), copy).unwrap(),
            None => std::fs::remove_file(world.copy()).unwrap(),
        }
        let agent = world.agent_with(config.clone());
        until_warned(&agent, "is not probed").await;
        agent.node.probe().await;
        assert_eq!(agent.node.status().evidence.len(), 0);
        assert_eq!(agent.node.status().state, NodeState::Running);
        agent.end().await;
    }

    // The control: with the right copy the new key stops it.
    std::fs::write(world.copy(), &new_copy).unwrap();
    world.service.set_key(OTHER_KEY, Class::KeyDisabled);
    let agent = world.agent_with(config);
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}

/// An agent of before, or a disk that was full: the copy is there again without a step of the keystore.
#[tokio::test]
async fn a_copy_that_is_missing_is_made_up_for() {
    let world = World::new();
    world.left_running().await;
    let copy = std::fs::read(world.copy()).unwrap();
    std::fs::remove_file(world.copy()).unwrap();
    let agent = world.agent();
    agent.until("opened", |s| s.master_key_held).await;
    assert_eq!(std::fs::read(world.copy()).unwrap(), copy);
    // While the agent runs too.
    std::fs::write(world.copy(), "{").unwrap();
    agent.until("mended", |_| std::fs::read(world.copy()).unwrap() == copy).await;
    agent.end().await;
}

/// Nothing more can be read: what was read before is probed with.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_seen_while_neither_keystore_nor_copy_can_be_read() {
    let world = World::new();
    world.left_running().await;
    std::fs::remove_file(world.keystore()).unwrap();
    let (agent, switch) = world.agent_on_hanging();
    until_warned(&agent, "is probed with the canaries in").await;
    switch.hang(&world.path("state"));
    let probed = agent.node.status().evidence.len();
    agent.until("probed all the same", |s| s.evidence.len() > probed + 1).await;
    assert!(switch.waiting() > 0);
    world.service.set(Some(Class::KeyDisabled));
    let revoked = tokio::time::timeout(Duration::from_secs(30), agent.until_state(NodeState::StoppedRevoked));
    assert!(revoked.await.expect("it is obeyed").engine.is_none());
    // One look waits for the disk, however many probes there were.
    assert!(switch.waiting() <= 3, "{}", switch.waiting());
    switch.answer();
    agent.end().await;
}

/// The master key is being asked for, and that waits for the disk before it has asked anybody: probes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_seen_while_the_disk_holds_up_the_unlock() {
    let world = World::new();
    world.left_running().await;
    let (agent, switch) = world.agent_on_hanging();
    switch.hang(&world.path("state/resync"));
    agent.until("found", |status| status.state == NodeState::Running).await;
    world.service.set(Some(Class::KeyDisabled));
    let revoked = tokio::time::timeout(Duration::from_secs(30), agent.until_state(NodeState::StoppedRevoked));
    assert!(revoked.await.expect("it is obeyed").engine.is_none());
    switch.answer();
    agent.end().await;
}

/// The disk hangs when the copy is read for the first time: told, and read once it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_that_does_not_answer_is_told_and_read_later() {
    let world = World::new();
    world.left_running().await;
    std::fs::remove_file(world.keystore()).unwrap();
    let (agent, switch) = world.agent_on_hanging();
    switch.hang(&world.copy());
    let status = until_warned(&agent, "its disk does not answer").await;
    assert!(status.evidence.is_empty() && warns(&status, "a revocation is not seen"), "{status:#?}");
    switch.answer();
    agent.until("probed", |s| !s.evidence.is_empty()).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}

/// While a copy names two customer keys, each of them keeps the node: only one of them opens it, and which is
/// not known.
#[tokio::test]
async fn one_key_of_several_is_enough() {
    let world = World::new();
    world.left_running().await;
    let mut copy: serde_json::Value = serde_json::from_slice(&std::fs::read(world.copy()).unwrap()).unwrap();
    let mut second = copy["canaries"][0].clone();
    second["keyIdentifier"] = OTHER_KEY.into();
    copy["canaries"].as_array_mut().unwrap().insert(0, second);
    std::fs::write(world.copy(), copy.to_string()).unwrap();
    std::fs::remove_file(world.keystore()).unwrap();
    world.service.set_key(OTHER_KEY, Class::KeyDeleted);
    let agent = world.agent();
    let status = agent.until("probed", |s| !s.evidence.is_empty()).await;
    assert_eq!((status.evidence[0].class, status.verdict), (Class::Success, Verdict::Valid));
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;
}
