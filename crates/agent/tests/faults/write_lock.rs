//! A database that an agent left locked against writes when it died in the middle of a snapshot.

use std::fs;

use anyhow::Result;
use keyward_agent::config::Config;
use keyward_model::NodeState;

use crate::{
    support::{Agent, LONG, World, engine_pid, until_state},
    wire_double::WireDouble,
};

/// The engine runs under `port`; its protocol is answered by the double.
fn asking(config: &Config, double: &WireDouble) -> Config {
    let mut config = config.clone();
    config.engine.port = double.port;
    config
}

async fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !wanted() {
        assert!(std::time::Instant::now() < deadline, "never {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_left_locked_by_a_killed_agent_is_unlocked_at_adoption() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.end().await?;
    let engine = engine_pid(&config.state_dir);
    let mark = config.state_dir.join("fsync-lock");

    // Without the mark nobody asks.
    let double = WireDouble::start().await?;
    double.set_locked(true);
    let agent = Agent::start(asking(&config, &double)).await?;
    until_state(&agent.client, NodeState::Running).await?;
    until("pinged", || double.asked("buildInfo") > 0).await;
    assert_eq!((double.asked("fsyncUnlock"), double.is_locked()), (0, true));
    agent.end().await?;

    // With it, the lock is taken back, and the mark goes.
    fs::write(&mark, "")?;
    let agent = Agent::start(asking(&config, &double)).await?;
    until("unlocked", || !double.is_locked()).await;
    until("forgotten", || !mark.exists()).await;
    agent.end().await?;

    // A lock that had not come about: the database says so, and that is the end of it.
    fs::write(&mark, "")?;
    let agent = Agent::start(asking(&config, &double)).await?;
    until("forgotten", || !mark.exists()).await;
    assert_eq!(double.asked("fsyncUnlock"), 2);
    agent.end().await?;

    // A database that does not answer is asked until it does; the mark stays that long, over agents too.
    fs::write(&mark, "")?;
    let double = WireDouble::start().await?;
    double.set_deaf(true);
    double.set_locked(true);
    let agent = Agent::start(asking(&config, &double)).await?;
    until_state(&agent.client, NodeState::Running).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(mark.exists() && double.is_locked());
    agent.end().await?;
    assert!(mark.exists());
    let agent = Agent::start(asking(&config, &double)).await?;
    until_state(&agent.client, NodeState::Running).await?;
    double.set_deaf(false);
    until("unlocked", || !double.is_locked()).await;
    until("forgotten", || !mark.exists()).await;

    // All that time it was one process; it is stopped without the mark, which a new one begins without, too.
    assert_eq!(engine_pid(&config.state_dir), engine);
    fs::write(&mark, "")?;
    agent.client.run(&keyward_agent::admin::Request::Stop, |_| {}).await?;
    agent.end().await?;
    let agent = Agent::start(config.clone()).await?;
    agent.client.run(&keyward_agent::admin::Request::Start, |_| {}).await?;
    assert!(!mark.exists());
    agent.stop_all().await
}
