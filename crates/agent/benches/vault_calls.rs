//! How many calls to the vault a node makes, counted from the vault's log: at a start, and per hour afterwards.

#![allow(clippy::print_stdout, reason = "a benchmark's results go to stdout")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use anyhow::Result;
use keyward_agent::admin::Request;
use keyward_model::NodeState;
use support::{Agent, World, until, until_state};

/// Probes per hour with the usual interval of 60 s, and the daily unwrap of the master key with its description.
const PROBES_PER_HOUR: f64 = 60.0;
const DAILY_CALLS: f64 = 2.0;

fn main() -> Result<()> {
    // `cargo test --benches` runs it too: once is enough to see that it works.
    let probes = if std::env::args().any(|arg| arg == "--bench") { 15 } else { 2 };
    tokio::runtime::Runtime::new()?.block_on(measure(probes))
}

async fn measure(probes: usize) -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.stop_all().await?;

    // A start of a node that has its keystore.
    let mut quiet = config.clone();
    quiet.verdict.probe_interval = std::time::Duration::from_secs(300);
    let before = world.vault.admin.log(0).await?.len();
    let agent = Agent::start(quiet).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until(&agent.client, "has its keys", |s| s.master_key_held).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let mut kinds = BTreeMap::<String, usize>::new();
    for entry in world.vault.admin.log(before).await? {
        *kinds.entry(entry.operation.to_string()).or_default() += 1;
    }
    println!("calls at a start: {kinds:?}");
    let unwraps = kinds.iter().filter(|(kind, _)| kind.to_lowercase().contains("unwrap")).map(|(_, n)| n);
    let unwraps: usize = unwraps.sum();
    println!("measure vault_unwraps_at_start {unwraps} calls");
    println!("measure vault_calls_at_start {} calls", kinds.values().sum::<usize>());
    agent.stop_all().await?;

    // Steady state, probed every second instead of every minute.
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until(&agent.client, "settled", |s| s.evidence.len() >= 3).await?;
    let (before, seen) = (world.vault.admin.log(0).await?.len(), agent.client.status().await?.evidence.len());
    let status = until(&agent.client, "probed", |s| s.evidence.len() >= seen + probes).await?;
    let calls = world.vault.admin.log(before).await?.len();
    let per_probe = calls as f64 / (status.evidence.len() - seen) as f64;
    println!("measure vault_calls_per_probe {per_probe:.2} calls");
    println!(
        "measure vault_calls_per_node_hour {:.1} calls",
        per_probe * PROBES_PER_HOUR + DAILY_CALLS / 24.0
    );
    agent.stop_all().await
}
