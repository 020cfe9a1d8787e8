//! A node on a real mongod: runs when `KEYWARD_MONGOD` names one.

mod support;

use std::fs;

use anyhow::{Context as _, Result};
use keyward_agent::{
    admin::Request,
    config::Config,
    prove::{Proof, ProofVerdict},
    snapshot::{Method, Restored, Taken},
};
use keyward_model::NodeState;
use mongodb::bson::{Document, doc};
use support::{Agent, World, count, database, free_port, insert, until, until_state};
use url::Url;

/// The file of a node on the mongod `program`.
fn config(world: &World, program: &str, name: &str, port: u16, initial: &str) -> Result<Config> {
    let text = world.config_text(name, port)?;
    let python = keyward_testkit::python::secantusdb()?;
    let text = text
        .replace("kind = \"secantusdb\"", "kind = \"mongod\"")
        .replace("args = [\"--sync-on-commit\"]", "args = []")
        .replace(&format!("program = \"{}\"", python.display()), &format!("program = \"{program}\""))
        .replacen("spare_database_keys = 8", &format!("spare_database_keys = 8\ninitial = \"{initial}\""), 1);
    let path = world.path(&format!("{name}.toml"));
    fs::create_dir_all(world.path(name))?;
    fs::write(&path, text)?;
    Ok(Config::load(&path)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mongod_has_a_key_per_database_and_restores_from_a_snapshot() -> Result<()> {
    let Some(program) = std::env::var("KEYWARD_MONGOD").ok().filter(|p| !p.is_empty()) else {
        keyward_testkit::report_skip("KEYWARD_MONGOD names no mongod");
        return Ok(());
    };
    let world = World::new().await?;
    let agent = Agent::start(config(&world, &program, "n", world.port, "new")?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    for name in ["alpha", "beta", "gamma"] {
        insert(&db, name, 0..500).await?;
    }
    let status = until(&agent.client, "three databases known", |s| {
        ["alpha", "beta", "gamma"].iter().all(|name| s.database_keys.iter().any(|k| k.database == *name))
    })
    .await?;
    for name in ["alpha", "beta", "gamma"] {
        let id = &status.database_keys.iter().find(|k| k.database == name).context("a key")?.id;
        let stats: Document = db.database(name).run_command(doc! { "collStats": "c" }).await?;
        let made = stats.get_document("wiredTiger")?.get_str("creationString")?;
        assert!(made.contains(&format!("keyid=\"{id}\"")) && made.contains("name=keyward"), "{made}");
    }
    let proof: Proof = serde_json::from_value(agent.client.run(&Request::Prove, |_| {}).await?)?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);

    let place = Url::from_file_path(world.path("snapshot")).expect("an absolute path");
    let taken = agent.client.run(&Request::Snapshot { to: place.clone() }, |_| {}).await?;
    let taken: Taken = serde_json::from_value(taken)?;
    assert!(matches!(taken.method, Method::FsyncLockReflink | Method::StopCopyStart));
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "alpha", 500..510).await?;

    let port = free_port()?;
    let second = Agent::start(config(&world, &program, "other", port, "restore")?).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let restored = second.client.run(&Request::Restore { from: place }, |_| {}).await?;
    let _: Restored = serde_json::from_value(restored)?;
    until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(port).await?, "alpha").await?, 500);
    second.stop_all().await?;
    agent.stop_all().await
}
