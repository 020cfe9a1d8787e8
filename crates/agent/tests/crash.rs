//! Kill -9 of the agent at random moments of rotation and rewrap, under a client that writes.
//!
//! `KEYWARD_KILLS` says how many times (default 200).

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use keyward_agent::admin::Request;
use keyward_keys::keystore::SealedKeystore;
use keyward_model::NodeState;
use mongodb::bson::doc;
use support::{World, connect, count, database, rewrap_to, until, until_state};

#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Not a test: what the others start as an agent process.
#[test]
#[ignore = "an agent process for the other tests"]
fn agent_process() {
    support::agent_main();
}

/// A small generator of our own, so that one number repeats a run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn stored(data_path: &Path) -> Result<SealedKeystore> {
    Ok(SealedKeystore::parse(&std::fs::read(data_path.join(".keyward/keystore.json"))?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_loses_nothing() -> Result<()> {
    let kills: u32 = std::env::var("KEYWARD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let seed = std::env::var("KEYWARD_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |now| u64::from(now.subsec_nanos()) | 1)
    });
    println!("KEYWARD_SEED={seed} KEYWARD_KILLS={kills}");
    let mut random = Random(seed);
    let world = World::new().await?;
    let (path, config) = world.config("n")?;
    let keys = [
        world.key_identifier.clone(),
        world.vault.key("k2").await?,
        world
            .vault
            .admin
            .rotate_key("k1")
            .await?
            .versions
            .last()
            .context("a version")?
            .key_identifier
            .clone(),
    ];

    let mut agent = support::AgentProcess::start(&path)?;
    let first = until_state(&connect(&config.admin_socket).await?, NodeState::Running).await?;
    let db = database(world.port).await?;
    let (written, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn({
        let (db, written, done) = (db.clone(), Arc::clone(&written), Arc::clone(&done));
        async move {
            // One collection after the other, so that tables are created as well.
            while !done.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                let name = format!("c{}", n / 50);
                let document = doc! { "_id": i64::try_from(n)?, "text": "written while the agent dies" };
                db.database("shop").collection(&name).insert_one(document).await?;
                written.store(n + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, anyhow::Error>(())
        }
    });

    let mut known: Vec<_> = stored(&config.data_path)?.entries().iter().map(|entry| entry.id).collect();
    let mut finished = 0;
    for kill in 0..kills {
        let client = connect(&config.admin_socket).await?;
        until(&client, "master key held", |s| s.master_key_held).await?;
        let request = match random.next(3) {
            0 => Request::RotateMasterKey,
            n => rewrap_to(&keys[usize::try_from(n + random.next(2))? % keys.len()])?,
        };
        // An operation takes some tens of milliseconds; the kill falls before, into and after it.
        let moment = Duration::from_micros(random.next(120_000));
        let asked = client.clone();
        let operation = tokio::spawn(async move { asked.run(&request, |_| {}).await });
        tokio::time::sleep(moment).await;
        agent.kill()?;
        if operation.await?.is_ok() {
            finished += 1;
        }
        assert!(!writer.is_finished(), "kill {kill}: the client noticed");
        let now = stored(&config.data_path)?;
        for id in &known {
            assert!(
                now.entries().iter().any(|entry| entry.id == *id),
                "kill {kill}: database key {id} is lost"
            );
        }
        known = now.entries().iter().map(|entry| entry.id).collect();
        agent = support::AgentProcess::start(&path)?;
    }
    done.store(true, Ordering::SeqCst);
    writer.await??;
    let client = connect(&config.admin_socket).await?;
    let status = until(&client, "master key held", |s| s.master_key_held).await?;
    assert_eq!(status.engine.as_ref().map(|e| e.pid), first.engine.map(|e| e.pid), "one process all along");

    // Every key opens from disk: the engine starts anew and has every document.
    client.run(&Request::Stop, |_| {}).await?;
    client.run(&Request::Start, |_| {}).await?;
    let written = written.load(Ordering::SeqCst);
    let db = database(world.port).await?;
    let mut found = 0;
    for name in db.database("shop").list_collection_names().await? {
        found +=
            db.database("shop").collection::<mongodb::bson::Document>(&name).count_documents(doc! {}).await?;
    }
    println!("{kills} kills, {finished} operations finished before theirs, {written} documents");
    // The last insert may have been cut off between the database and our counter.
    assert!(found == written || found == written + 1, "{found} of {written} documents");
    client.run(&Request::Stop, |_| {}).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_engine_is_followed_by_a_start_with_all_data() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = support::Agent::start(config.clone()).await?;
    for round in 0..3 {
        let status = until_state(&agent.client, NodeState::Running).await?;
        support::insert(&database(world.port).await?, "shop", round * 10..round * 10 + 10).await?;
        let pid = status.engine.context("an engine")?.pid;
        support::kill(i32::try_from(pid)?)?;
        until(&agent.client, "started again", |s| {
            s.state == NodeState::Running && s.engine.as_ref().is_some_and(|e| e.pid != pid)
        })
        .await?;
        assert_eq!(count(&database(world.port).await?, "shop").await?, u64::try_from(round * 10 + 10)?);
    }
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_during_the_first_start_leaves_a_node_that_starts() -> Result<()> {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for round in 0..4 {
        let world = World::new().await?;
        let (path, config) = world.config("n")?;
        for _ in 0..3 {
            let agent = support::AgentProcess::start(&path)?;
            tokio::time::sleep(Duration::from_millis(random.next(1_500))).await;
            agent.kill()?;
        }
        let agent = support::AgentProcess::start(&path)?;
        let client = connect(&config.admin_socket).await?;
        until(&client, "running with its keys", |s| s.state == NodeState::Running && s.master_key_held)
            .await?;
        support::insert(&database(world.port).await?, "shop", 0..5).await?;
        client.run(&Request::Stop, |_| {}).await?;
        drop(agent);
        println!("round {round} done");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_during_a_restore_leaves_a_node_that_can_be_restored() -> Result<()> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = support::Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    support::insert(&database(world.port).await?, "shop", 0..300).await?;
    let place = url::Url::from_file_path(world.path("snapshot")).ok().context("an absolute path")?;
    agent.client.run(&Request::Snapshot { to: place.clone() }, |_| {}).await?;
    agent.stop_all().await?;

    let port = support::free_port()?;
    let text = world.config_text("other", port)?.replacen("spare", "initial = \"restore\"\nspare", 1);
    let path = world.path("other.toml");
    std::fs::create_dir_all(world.path("other"))?;
    std::fs::write(&path, text)?;
    let config = keyward_agent::config::Config::load(&path)?;
    let restore = Request::Restore { from: place };
    let mut cut_off = 0;
    for _ in 0..8 {
        let agent = support::AgentProcess::start(&path)?;
        let client = connect(&config.admin_socket).await?;
        let request = restore.clone();
        let restoring = tokio::spawn(async move { client.run(&request, |_| {}).await });
        // Everything of a small snapshot takes some hundred milliseconds.
        tokio::time::sleep(Duration::from_millis(random.next(250))).await;
        agent.kill()?;
        if restoring.await?.is_ok() {
            break;
        }
        cut_off += usize::from(world.path("other/state/restoring.json").exists());
    }
    println!("{cut_off} restores were cut off while files were put in place");
    let agent = support::Agent::start(config.clone()).await?;
    let status = until(&agent.client, "decided", |s| s.state != NodeState::Starting).await?;
    if status.state != NodeState::Running {
        agent.client.run(&restore, |_| {}).await?;
    }
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(port).await?, "shop").await?, 300);
    assert!(!world.path("other/state/restoring.json").exists());
    agent.stop_all().await
}
