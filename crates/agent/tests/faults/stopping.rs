//! An engine that does not obey SIGTERM.

use std::path::Path;

use anyhow::{Context as _, Result};
use keyward_agent::{admin::Request, config::Config};
use keyward_model::{NodeState, NodeStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Agent, World, count, database, insert, until, until_state};

/// From now on no signal but SIGKILL reaches the engine.
fn freeze(status: &NodeStatus) -> Result<u32> {
    let pid = status.engine.as_ref().context("an engine")?.pid;
    kill_process(Pid::from_raw(i32::try_from(pid)?).context("a pid")?, Signal::STOP)?;
    Ok(pid)
}

fn warned(status: &NodeStatus) -> bool {
    status.warnings.iter().any(|w| w.contains("did not end within 1 s and was killed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_ignores_sigterm_is_killed_after_the_grace_time_and_the_keys_are_wiped() -> Result<()>
{
    let world = World::new().await?;
    let (path, _) = world.config("n")?;
    let text = std::fs::read_to_string(&path)?.replacen("[engine]\n", "[engine]\nstop_grace_s = 1\n", 1);
    let agent = Agent::start(Config::parse(&text, &path)?).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..50).await?;

    // The operator stops it.
    let pid = freeze(&status)?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let status = until(&agent.client, "killed, with the reason", warned).await?;
    assert_eq!(status.state, NodeState::Stopped);
    assert!(!status.master_key_held && status.engine.is_none(), "{status:#?}");
    agent.client.run(&Request::Start, |_| {}).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert!(!warned(&status), "a clean start ends the warning: {:?}", status.warnings);
    assert_eq!(count(&database(world.port).await?, "shop").await?, 50);

    // The customer takes the key away: the data is out of reach all the same, and comes back with the key.
    let pid = freeze(&status)?;
    world.vault.admin.disable_key("k1").await?;
    let status = until(&agent.client, "revoked, with the reason", |s| {
        s.state == NodeState::StoppedRevoked && warned(s)
    })
    .await?;
    assert!(!status.master_key_held && status.engine.is_none(), "{status:#?}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    world.vault.admin.enable_key("k1").await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 50);
    agent.stop_all().await
}
