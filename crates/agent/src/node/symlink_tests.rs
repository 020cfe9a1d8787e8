//! Links in the data path, as a database process that was taken over could make them: nothing behind them
//! gets into a snapshot, into another node, or over anything.

use std::{os::unix::fs::symlink, path::Path, time::Duration};

use keyward_model::{Class, NodeState};
use url::Url;

use super::tests::{World, copied_data_path};
use crate::{
    admin::progress::Progress,
    node::chain,
    operations,
    snapshot::{self, SnapshotError},
};

const SECRET: &str = "SECRET-OF-ROOT";

fn holds_secret(folder: &Path) -> bool {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    let mut contents = files.filter_map(|entry| std::fs::read(entry.path()).ok());
    contents.any(|bytes| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()))
}

#[tokio::test]
async fn a_snapshot_takes_nothing_from_behind_a_link() {
    let world = World::new();
    std::fs::write(world.path("secret"), SECRET).unwrap();
    let mut config = world.config();
    // Nobody looks after the keystore while its folder is moved about.
    config.verdict.probe_interval = Duration::from_secs(600);
    let agent = world.agent_with(config);
    agent.until_state(NodeState::Running).await;
    std::fs::write(world.path("db/x.wt"), "ciphertext").unwrap();
    let take = async |name: &str| {
        let place = world.path(name);
        let taken =
            snapshot::create(&agent.node, &Url::from_file_path(&place).unwrap(), &Progress::silent()).await;
        assert!(!holds_secret(&place), "{taken:?}");
        taken
    };
    assert_eq!(take("one").await.unwrap().files, 1);

    symlink(world.path("secret"), world.path("db/y.wt")).unwrap();
    let error = take("two").await.unwrap_err();
    assert!(chain(&error).contains("db/y.wt is a link"), "{error:?}");
    assert!(error.hint().contains("link"), "{}", error.hint());
    assert!(!world.path("two").exists(), "nothing of it stays");
    agent.until_state(NodeState::Running).await;
    std::fs::remove_file(world.path("db/y.wt")).unwrap();

    // keyward's own folder was moved away, and what the agent would write goes elsewhere.
    std::fs::create_dir(world.path("elsewhere")).unwrap();
    std::fs::create_dir(world.path("elsewhere/snapshot")).unwrap();
    std::fs::write(world.path("elsewhere/snapshot/kept"), "1").unwrap();
    std::fs::rename(world.path("db/.keyward"), world.path("db/moved")).unwrap();
    symlink(world.path("elsewhere"), world.path("db/.keyward")).unwrap();
    let error = take("three").await.unwrap_err();
    assert!(matches!(error, SnapshotError::Folder(_)), "{error:?}");
    assert!(world.path("elsewhere/snapshot/kept").exists());
    std::fs::remove_file(world.path("db/.keyward")).unwrap();
    std::fs::rename(world.path("db/moved"), world.path("db/.keyward")).unwrap();

    assert_eq!(take("four").await.unwrap().files, 1);
    agent.end().await;
}

/// What stands in the place of keyward's own folder gets no keystore, no rotation and no folder of ours; the database
/// runs on, a revocation is obeyed, and moved back it is as before.
#[tokio::test]
async fn a_node_goes_nowhere_else_while_its_own_folder_is_moved_away() {
    let world = World::new();
    let agent = world.agent();
    agent.until_state(NodeState::Running).await;
    let elsewhere = world.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let move_away = || {
        std::fs::rename(world.path("db/.keyward"), world.path("db/moved")).unwrap();
        symlink(&elsewhere, world.path("db/.keyward")).unwrap();
    };
    let move_back = || {
        std::fs::remove_file(world.path("db/.keyward")).unwrap();
        std::fs::rename(world.path("db/moved"), world.path("db/.keyward")).unwrap();
    };
    let warns = |status: &keyward_model::NodeStatus| {
        status.warnings.iter().any(|text| text.contains(".keyward is not the agent's own folder"))
    };
    let generation = world.stored().generation();
    move_away();
    let error = operations::rotate_master_key(&agent.node, &Progress::silent()).await.unwrap_err();
    assert!(error.hint().contains("move it back"), "{}", error.hint());
    let status = agent.until("told", warns).await;
    assert_eq!((status.state, status.master_key_held), (NodeState::Running, true));
    move_back();
    agent.until("no longer told", |status| !warns(status)).await;
    operations::rotate_master_key(&agent.node, &Progress::silent()).await.unwrap();
    assert!(world.stored().generation() > generation);

    // An agent that comes meanwhile runs, sees a revocation, and starts nothing.
    agent.end().await;
    move_away();
    let agent = world.agent();
    agent.until("no master key", |s| s.reason.contains("the agent has no master key: ")).await;
    world.service.set(Some(Class::KeyDisabled));
    agent.until_state(NodeState::StoppedRevoked).await;
    world.service.set(None);
    agent.until_state(NodeState::Failed).await;
    assert!(agent.node.start().await.is_err());
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing was written there");
    move_back();
    agent.node.start().await.unwrap();
    let status = agent.until_state(NodeState::Running).await;
    assert!(status.master_key_held && !warns(&status), "{status:#?}");
    agent.end().await;
}

#[tokio::test]
async fn a_restore_takes_nothing_from_behind_a_link() {
    for link in ["alpha/c.wt", ".keyward/assignments", ".keyward/keystore.json"] {
        let world = World::new();
        let (other, from) = copied_data_path(&world).await;
        std::fs::write(world.path("secret"), SECRET).unwrap();
        let there = other.path("db").join(link);
        // The right content, from a place that it must not come from.
        let content = std::fs::read(&there).unwrap_or_else(|_| SECRET.into());
        std::fs::write(world.path("secret"), content).unwrap();
        let _ = std::fs::remove_file(&there);
        symlink(world.path("secret"), &there).unwrap();
        let agent = world.agent();
        agent.until_state(NodeState::Running).await;
        let error = snapshot::restore(&agent.node, &from, &Progress::silent()).await.unwrap_err();
        assert!(chain(&error).contains(&format!("{link} is a link")), "{link}: {error:?}");
        assert_eq!(world.in_data_path(), [".keyward"], "{link}");
        // The control: with the file in its place it is restored.
        std::fs::remove_file(&there).unwrap();
        std::fs::copy(world.path("secret"), &there).unwrap();
        snapshot::restore(&agent.node, &from, &Progress::silent()).await.unwrap();
        agent.end().await;
    }
}
