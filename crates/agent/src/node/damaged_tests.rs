//! What the agent remembers cannot be read, beside a database that runs.

use std::sync::atomic::Ordering;

use keyward_model::{Class, NodeState, NodeStatus};

use super::tests::{Agent, World};
use crate::link::{FOLDER, Link};

/// Files of `state_dir` that the agent can do without.
const SPARED: [&str; 4] = ["judgement.json", "snapshots.json", "wanted.json", "engine.json"];

/// Those of its server.
const OF_THE_SERVER: [&str; 4] = ["link.json", "desired.json", "applied.json", "approved.json"];

/// What a bad sector, a power cut or an editor leaves.
const DAMAGES: [&[u8]; 4] = [b"", b"{", b"[1]", &[0xff; 4096]];

fn set_aside(status: &NodeStatus) -> Option<&String> {
    status.warnings.iter().find(|warning| warning.contains("set aside"))
}

async fn run_then_end(world: &World) {
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    agent.end().await;
}

async fn until_told(agent: &Agent, file: &str) {
    let damaged = file.replace(".json", ".damaged");
    let told = |status: &NodeStatus| set_aside(status).is_some_and(|text| text.contains(&damaged));
    agent.until(file, told).await;
}

async fn a_revocation_is_seen_without(file: &str, damage: &[u8]) {
    let world = World::new();
    run_then_end(&world).await;
    let path = world.path("state").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, damage).unwrap();
    let agent = world.agent();
    Link::open(agent.node.clone()).unwrap_or_else(|error| panic!("{file}: {error}"));
    let status = agent.until_state(NodeState::Running).await;
    assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1, "{file}: {}", status.reason);
    // An engine is found without its file, which is written anew.
    let aside = (file != "engine.json").then(|| path.with_extension("damaged"));
    if let Some(aside) = &aside {
        until_told(&agent, file).await;
        assert_eq!(std::fs::read(aside).unwrap(), damage, "{file}");
    }
    agent.until("opened", |status| status.master_key_held).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    agent.end().await;

    // Told until somebody has looked and removed it.
    if let Some(aside) = aside {
        world.service.set(None);
        let agent = world.agent();
        until_told(&agent, file).await;
        agent.end().await;
        std::fs::remove_file(aside).unwrap();
        let agent = world.agent();
        let status = agent.until_state(NodeState::Running).await;
        assert_eq!(set_aside(&status), None, "{file}");
        agent.end().await;
    }
}

#[tokio::test]
async fn beside_a_running_database_a_damaged_file_keeps_no_revocation_from_being_seen() {
    let of_the_server = OF_THE_SERVER.map(|file| format!("{FOLDER}/{file}"));
    let all = SPARED.map(str::to_owned).into_iter().chain(of_the_server);
    let seen = all
        .zip(DAMAGES.into_iter().cycle())
        .map(|(file, damage)| tokio::spawn(async move { a_revocation_is_seen_without(&file, damage).await }));
    for seen in seen.collect::<Vec<_>>() {
        seen.await.unwrap();
    }
}

/// The operator's wish is gone: what was stopped stays stopped.
#[tokio::test]
async fn a_node_whose_wish_is_lost_stays_as_it_was() {
    for damage in DAMAGES {
        let world = World::new();
        run_then_end(&world).await;
        let agent = world.agent();
        agent.until_state(NodeState::Running).await;
        agent.node.stop().await.unwrap();
        agent.end().await;
        for _ in 0..2 {
            std::fs::write(world.path("state/wanted.json"), damage).unwrap();
            let agent = world.agent();
            until_told(&agent, "wanted.json").await;
            agent.until_state(NodeState::Stopped).await;
            agent.end().await;
        }
        // It was written anew.
        let agent = world.agent();
        agent.until_state(NodeState::Stopped).await;
        assert_eq!(world.engine.starts.load(Ordering::SeqCst), 1);
        agent.node.start().await.unwrap();
        agent.end().await;
    }
}

/// Who the node is, and what becomes of its data, nothing replaces: its database runs on until the key is taken away,
/// and nothing is opened or started.
#[tokio::test]
async fn what_cannot_be_done_without_is_waited_for() {
    for file in ["node.json", "resync.json"] {
        let world = World::new();
        run_then_end(&world).await;
        let path = world.path("state").join(file);
        let whole = std::fs::read(&path).ok();
        std::fs::write(&path, "{").unwrap();
        let agent = world.agent();
        let told = agent.until("told", |status| status.reason.contains(file)).await;
        assert_eq!((told.state, told.master_key_held), (NodeState::Running, false), "{file}");
        agent.until("probed", |status| !status.evidence.is_empty()).await;
        world.service.set(Some(Class::KeyDisabled));
        agent.until_state(NodeState::StoppedRevoked).await;
        world.service.set(None);
        let status = agent.until_state(NodeState::Failed).await;
        assert!(status.reason.contains(file), "{}", status.reason);
        assert!(agent.node.start().await.is_err(), "{file}");
        assert_eq!(std::fs::read(&path).unwrap(), b"{", "{file}: nothing is overwritten");
        match whole {
            Some(whole) => std::fs::write(&path, whole).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        agent.node.start().await.unwrap();
        assert!(agent.node.status().master_key_held, "{file}");
        assert_eq!(world.engine.starts.load(Ordering::SeqCst), 2, "{file}");
        agent.end().await;
    }
}
