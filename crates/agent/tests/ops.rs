//! Proof, snapshots and metrics of one node on a real database process under a real vault.

mod object_store_double;
mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use keyward_agent::{
    admin::Request,
    config::Config,
    prove::{FileKind, Proof, ProofVerdict},
    snapshot::{Manifest, Method, Restored, Taken},
};
use keyward_model::NodeState;
use keyward_vault::fault::FaultKind;
use object_store_double::{blob::BlobDouble, s3::S3Double};
use support::{Agent, World, count, database, failure_of, free_port, insert, until_state};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

/// A second node that waits for a restore, on a port of its own.
fn restoring(world: &World, name: &str) -> Result<Config> {
    let port = free_port()?;
    let text = world.config_text(name, port)?;
    let text = text.replacen("spare_database_keys = 8", "spare_database_keys = 8\ninitial = \"restore\"", 1);
    let path = world.path(&format!("{name}.toml"));
    fs::create_dir_all(world.path(name))?;
    fs::write(&path, text)?;
    Ok(Config::load(&path)?)
}

fn url_of(path: &std::path::Path) -> Url {
    Url::from_file_path(path).expect("an absolute path")
}

async fn run<T: serde::de::DeserializeOwned>(agent: &Agent, request: Request) -> Result<T> {
    Ok(serde_json::from_value(agent.client.run(&request, |_| {}).await?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_an_encrypted_node_finds_nothing_and_says_what_it_searched() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..1000).await?;

    let proof: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);
    assert!(proof.blocks.encrypted > 0 && proof.blocks.unencrypted == 0, "{:?}", proof.blocks);
    assert!(proof.journal.encrypted > 0 && proof.journal.unencrypted == 0, "{:?}", proof.journal);
    assert!(proof.bytes > proof.written_bytes && proof.written_bytes > 1_000_000);
    let keystore = world.path("n/db/.keyward/keystore.json");
    assert!(proof.file_results.iter().any(|f| f.path == keystore));
    let log = world.path("n/state/engine.log");
    assert!(proof.file_results.iter().any(|f| f.path == log && f.kind == FileKind::Other));
    assert!(proof.kept.iter().any(|k| k.place == "core files"));

    // The markers are gone again, and a second proof works.
    assert!(!db.list_database_names().await?.contains(&"keyward_proof".to_owned()));
    let again: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(again.verdict, ProofVerdict::NoPlaintext, "{}", again.reason);

    // A copy of a document in the clear beside the data is found: the search is not blind here either.
    fs::write(world.path("n/db/stray"), b"not a marker")?;
    let with_stray: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(with_stray.files, again.files + 1);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_restores_on_another_node_under_its_own_master_key() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    let source = until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..2000).await?;
    let place = world.path("snapshots/one");
    let taken: Taken = run(&agent, Request::Snapshot { to: url_of(&place) }).await?;
    assert_eq!(taken.method, Method::BackupArchive);
    assert_eq!(taken.customer_keys, std::slice::from_ref(&world.key_identifier));
    // The node serves on, and what comes later is not in the snapshot.
    insert(&db, "shop", 2000..2100).await?;
    assert_eq!(agent.client.status().await?.engine, source.engine);
    assert!(!world.path("n/db/.keyward/snapshot").exists());

    let manifest = Manifest::parse(&fs::read(place.join("manifest.json"))?)?;
    assert_eq!(manifest.files.len(), taken.files);
    assert_eq!(manifest.master_key_id.to_string(), source.master_key.as_ref().context("a key")?.id);
    let mut searched = 0;
    for entry in walkdir::WalkDir::new(&place) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let content = fs::read(entry.path())?;
            assert!(!content.windows(10).any(|w| w == b"PLAINTEXT-"), "{}", entry.path().display());
            searched += content.len();
        }
    }
    assert!(searched > 100_000);

    // A place is used once.
    let failure = failure_of(agent.client.run(&Request::Snapshot { to: url_of(&place) }, |_| {}).await);
    assert_eq!(failure.code, "SNAPSHOT_EXISTS");
    // Where there is data, nothing is restored.
    let failure = failure_of(agent.client.run(&Request::Restore { from: url_of(&place) }, |_| {}).await);
    assert_eq!(failure.code, "DATA_PATH_NOT_EMPTY");
    until_state(&agent.client, NodeState::Running).await?;

    let other = restoring(&world, "other")?;
    let port = other.engine.port;
    let second = Agent::start(other).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let restored: Restored = run(&second, Request::Restore { from: url_of(&place) }).await?;
    assert_eq!(restored.files, taken.files);
    let status = until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(port).await?, "shop").await?, 2000);
    let own = status.master_key.context("a master key")?.id;
    assert_ne!(own, source.master_key.context("a master key")?.id);
    assert_eq!(restored.from_master_key, manifest.master_key_id.to_string());
    // Database keys stay: the pages were not touched.
    let ids =
        |s: &[keyward_model::status::DatabaseKeyStatus]| s.iter().map(|k| k.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&status.database_keys), ids(&source.database_keys));
    insert(&database(port).await?, "shop", 5000..5010).await?;
    second.stop_all().await?;
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_data_path_becomes_a_new_node() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    let source = until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..300).await?;
    agent.stop_all().await?;

    let copy = world.path("copy");
    copy_folder(&world.path("n/db"), &copy)?;
    let other = restoring(&world, "other")?;
    let port = other.engine.port;
    let second = Agent::start(other).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let restored: Restored = run(&second, Request::Restore { from: url_of(&copy) }).await?;
    assert!(restored.files > 10);
    let status = until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(port).await?, "shop").await?, 300);
    assert_ne!(status.master_key.map(|k| k.id), source.master_key.map(|k| k.id));
    second.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_asks_the_customer_key_first() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..100).await?;
    let place = world.path("snapshots/one");
    let _: Taken = run(&agent, Request::Snapshot { to: url_of(&place) }).await?;
    agent.stop_all().await?;

    let other = restoring(&world, "other")?;
    let data_path = other.data_path.clone();
    let second = Agent::start(other).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let from = || Request::Restore { from: url_of(&place) };
    let untouched = || -> Result<bool> {
        Ok(fs::read_dir(&data_path)?.all(|entry| entry.is_ok_and(|e| e.file_name() == ".keyward"))
            && !data_path.join(".keyward/keystore.json").exists()
            && !data_path.join(".keyward/restore").exists())
    };

    world.vault.admin.set_fault(FaultKind::Error503, None).await?;
    assert_eq!(failure_of(second.client.run(&from(), |_| {}).await).exit, 4);
    assert!(untouched()?);
    world.vault.admin.clear_faults().await?;

    world.vault.admin.disable_key("k1").await?;
    let failure = failure_of(second.client.run(&from(), |_| {}).await);
    assert_eq!(failure.exit, 3, "{failure:?}");
    assert!(untouched()?);
    world.vault.admin.enable_key("k1").await?;

    // A damaged file, a missing one, a missing manifest: refused, nothing placed.
    let manifest = Manifest::parse(&fs::read(place.join("manifest.json"))?)?;
    let largest = manifest.files.iter().max_by_key(|f| f.size).context("files")?;
    let file = place.join("data").join(&largest.path);
    let content = fs::read(&file)?;
    let mut flipped = content.clone();
    flipped[content.len() / 2] ^= 0x40;
    fs::write(&file, &flipped)?;
    assert_eq!(failure_of(second.client.run(&from(), |_| {}).await).code, "SNAPSHOT_DAMAGED");
    assert!(untouched()?);
    fs::remove_file(&file)?;
    assert_eq!(failure_of(second.client.run(&from(), |_| {}).await).code, "SNAPSHOT_DAMAGED");
    assert!(untouched()?);
    fs::write(&file, &content)?;
    let hidden = place.join("manifest.hidden");
    fs::rename(place.join("manifest.json"), &hidden)?;
    assert_eq!(failure_of(second.client.run(&from(), |_| {}).await).code, "NO_SNAPSHOT");
    fs::rename(&hidden, place.join("manifest.json"))?;

    // The node is none the worse for it.
    let _: Restored = run(&second, from()).await?;
    until_state(&second.client, NodeState::Running).await?;
    second.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_takes_no_snapshot_and_leaves_nothing_behind() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..100).await?;
    world.vault.admin.disable_key("k1").await?;
    until_state(&agent.client, NodeState::StoppedRevoked).await?;
    let place = world.path("snapshots/one");
    let failure = failure_of(agent.client.run(&Request::Snapshot { to: url_of(&place) }, |_| {}).await);
    assert_eq!((failure.exit, failure.code.as_str()), (3, "CUSTOMER_KEY_REVOKED"));
    assert!(!place.exists());
    let failure = failure_of(agent.client.run(&Request::Prove, |_| {}).await);
    assert_eq!(failure.code, "ENGINE_NOT_RUNNING");
    agent.end().await
}

/// A node whose snapshots go to `blobs`.
fn with_blobs(text: &str, blobs: &BlobDouble, options: &std::path::Path) -> Result<String> {
    fs::write(
        options,
        format!(
            "azure_storage_account_name = \"acc\"\nazure_storage_account_key = \"a2V5a2V5\"\n\
             azure_storage_endpoint = \"{}\"\nazure_allow_http = \"true\"\n",
            blobs.endpoint()
        ),
    )?;
    Ok(format!("{text}\n[snapshots]\ncredentials_file = \"{}\"\n", options.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_blob_storage_takes_the_same_path_and_a_revocation_in_the_middle_leaves_nothing() -> Result<()>
{
    let world = World::new().await?;
    let blobs = BlobDouble::start().await?;
    let options = world.path("blobs.toml");
    let (path, _) = world.config("n")?;
    fs::write(&path, with_blobs(&fs::read_to_string(&path)?, &blobs, &options)?)?;
    let agent = Agent::start(Config::load(&path)?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..500).await?;

    // Writes hang after the third; the key is taken away meanwhile.
    blobs.budget().hang_after(3);
    let to = |name: &str| Url::parse(&format!("az://backups/{name}"));
    let aborted = Request::Snapshot { to: to("aborted")? };
    let (outcome, ()) = tokio::join!(agent.client.run(&aborted, |_| {}), async {
        blobs.budget().hanging().await;
        world.vault.admin.disable_key("k1").await.expect("the vault answers");
        until_state(&agent.client, NodeState::StoppedRevoked).await.expect("it stops");
        blobs.budget().go_on();
    });
    let failure = failure_of(outcome);
    assert_eq!((failure.exit, failure.code.as_str()), (3, "CUSTOMER_KEY_REVOKED"));
    assert_eq!(blobs.names(), Vec::<String>::new());
    assert!(!world.path("n/db/.keyward/snapshot").exists());

    world.vault.admin.enable_key("k1").await?;
    until_state(&agent.client, NodeState::Running).await?;
    let taken: Taken = run(&agent, Request::Snapshot { to: to("whole")? }).await?;
    assert_eq!(taken.to, "az://backups/whole");
    let order = blobs.names();
    assert_eq!(order.last().map(String::as_str), Some("whole/manifest.json"), "{order:?}");
    assert_eq!(order.iter().rev().nth(1).map(String::as_str), Some("whole/keystore.json"), "{order:?}");

    let other = restoring(&world, "other")?;
    let path = world.path("other.toml");
    fs::write(&path, with_blobs(&fs::read_to_string(&path)?, &blobs, &options)?)?;
    let second = Agent::start(Config::load(&path)?).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let _: Restored = run(&second, Request::Restore { from: to("whole")? }).await?;
    until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(other.engine.port).await?, "shop").await?, 500);
    second.stop_all().await?;
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_takes_the_same_path_in_parts_and_a_revocation_in_the_middle_leaves_nothing() -> Result<()> {
    let world = World::new().await?;
    let s3 = S3Double::start().await?;
    let options = world.path("s3.toml");
    fs::write(&options, s3.options())?;
    let with_s3 = |text: &str| format!("{text}\n[snapshots]\ncredentials_file = \"{}\"\n", options.display());
    let (path, _) = world.config("n")?;
    fs::write(&path, with_s3(&fs::read_to_string(&path)?))?;
    let agent = Agent::start(Config::load(&path)?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..500).await?;
    // More than one part of a multipart upload, of what no compression makes smaller.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for n in 0..4 {
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        });
        let bytes = bytes.take(6_000_000).collect();
        let blob = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes };
        db.database("large")
            .collection("c")
            .insert_one(mongodb::bson::doc! { "_id": n, "blob": blob })
            .await?;
    }

    let to = |name: &str| Url::parse(&format!("s3://backups/{name}"));
    s3.budget().hang_after(9_000_000);
    let aborted = Request::Snapshot { to: to("aborted")? };
    let (outcome, ()) = tokio::join!(agent.client.run(&aborted, |_| {}), async {
        s3.budget().hanging().await;
        world.vault.admin.disable_key("k1").await.expect("the vault answers");
        until_state(&agent.client, NodeState::StoppedRevoked).await.expect("it stops");
        s3.budget().go_on();
    });
    let failure = failure_of(outcome);
    assert_eq!((failure.exit, failure.code.as_str()), (3, "CUSTOMER_KEY_REVOKED"));
    assert_eq!((s3.keys(), s3.open_uploads()), (Vec::<String>::new(), 0));
    world.vault.admin.enable_key("k1").await?;
    until_state(&agent.client, NodeState::Running).await?;

    let taken: Taken = run(&agent, Request::Snapshot { to: to("whole")? }).await?;
    assert_eq!(taken.to, "s3://backups/whole");
    assert!(taken.bytes > 20_000_000 && s3.completed_uploads() > 0, "{taken:?}, {}", s3.completed_uploads());
    let order = s3.keys();
    assert_eq!(order.last().map(String::as_str), Some("whole/manifest.json"), "{order:?}");
    assert_eq!(order.iter().rev().nth(1).map(String::as_str), Some("whole/keystore.json"), "{order:?}");
    // A second snapshot to the same place is refused, and leaves the first alone.
    let failure = failure_of(agent.client.run(&Request::Snapshot { to: to("whole")? }, |_| {}).await);
    assert_eq!(failure.code, "SNAPSHOT_EXISTS");
    assert_eq!(s3.keys(), order);
    // A key that S3 does not know.
    fs::write(&options, s3.options().replace("AKIADOUBLE", "AKIAOTHER"))?;
    let failure = failure_of(agent.client.run(&Request::Snapshot { to: to("other")? }, |_| {}).await);
    assert_eq!(failure.code, "SNAPSHOT_STORE", "{failure:?}");
    assert!(!format!("{failure:?}").contains("\"secret\""));
    fs::write(&options, s3.options())?;

    let other = restoring(&world, "other")?;
    let path = world.path("other.toml");
    fs::write(&path, with_s3(&fs::read_to_string(&path)?))?;
    let second = Agent::start(Config::load(&path)?).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let _: Restored = run(&second, Request::Restore { from: to("whole")? }).await?;
    until_state(&second.client, NodeState::Running).await?;
    let restored = database(other.engine.port).await?;
    assert_eq!((count(&restored, "shop").await?, count(&restored, "large").await?), (500, 4));
    second.stop_all().await?;
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_under_its_own_user_cannot_read_the_keystore() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        keyward_testkit::report_skip("only root can start a process under another user");
        return Ok(());
    }
    let world = World::new().await?;
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o711))?;
    let Some(python) = python_for_others(&world)? else {
        keyward_testkit::report_skip("no Python that has SecantusDB can be run by another user");
        return Ok(());
    };
    let for_nobody = |path: &std::path::Path| -> Result<()> {
        let text = fs::read_to_string(path)?
            .replace(
                &keyward_testkit::python::secantusdb()?.display().to_string(),
                &python.display().to_string(),
            )
            .replacen("[engine]\n", "[engine]\nuser = \"65534:65534\"\n", 1);
        Ok(fs::write(path, text)?)
    };
    let (path, _) = world.config("n")?;
    for_nobody(&path)?;
    let agent = Agent::start(Config::load(&path)?).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    let pid = status.engine.context("an engine")?.pid;
    let identity = fs::read_to_string(format!("/proc/{pid}/status"))?;
    assert!(identity.lines().any(|l| l == "Uid:\t65534\t65534\t65534\t65534"), "{identity}");
    assert!(identity.lines().any(|l| l.starts_with("Groups:") && l.trim() == "Groups:"), "{identity}");
    insert(&database(world.port).await?, "shop", 0..100).await?;
    let keystore = fs::metadata(world.path("n/db/.keyward/keystore.json"))?;
    assert_eq!(keystore.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&keystore), 0);

    // The agent still sees everything of it.
    let proof: Proof = run(&agent, Request::Prove).await?;
    assert_eq!(proof.verdict, ProofVerdict::NoPlaintext, "{}", proof.reason);
    let _: Taken = run(&agent, Request::Snapshot { to: url_of(&world.path("s")) }).await?;
    // Stopped, its files are copied as they lie: those of its user, and nothing that a link of that user leads to.
    agent.client.run(&Request::Stop, |_| {}).await?;
    let stopped: Taken = run(&agent, Request::Snapshot { to: url_of(&world.path("stopped")) }).await?;
    assert!(stopped.files > 0);
    let link = world.path("n/db/link.wt");
    std::os::unix::fs::symlink("/etc/shadow", &link)?;
    std::os::unix::fs::lchown(&link, Some(65_534), Some(65_534))?;
    let request = Request::Snapshot { to: url_of(&world.path("with-link")) };
    let failure = failure_of(agent.client.run(&request, |_| {}).await);
    assert!(failure.message.contains("link.wt is a link"), "{}", failure.message);
    assert!(!world.path("with-link").exists());
    agent.stop_all().await?;

    // Restored files belong to the engine's user as well.
    let other = restoring(&world, "other")?;
    let path = world.path("other.toml");
    for_nobody(&path)?;
    let second = Agent::start(Config::load(&path)?).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let _: Restored = run(&second, Request::Restore { from: url_of(&world.path("s")) }).await?;
    until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(other.engine.port).await?, "shop").await?, 100);
    second.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_can_be_copied_too() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..100).await?;
    agent.client.run(&Request::Stop, |_| {}).await?;
    let taken: Taken = run(&agent, Request::Snapshot { to: url_of(&world.path("s")) }).await?;
    assert_eq!(taken.method, Method::Stopped);
    assert_eq!(agent.client.status().await?.state, NodeState::Stopped);
    let other = restoring(&world, "other")?;
    let port = other.engine.port;
    let second = Agent::start(other).await?;
    until_state(&second.client, NodeState::Stopped).await?;
    let _: Restored = run(&second, Request::Restore { from: url_of(&world.path("s")) }).await?;
    until_state(&second.client, NodeState::Running).await?;
    assert_eq!(count(&database(port).await?, "shop").await?, 100);
    second.stop_all().await?;
    agent.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_served_on_loopback() -> Result<()> {
    let world = World::new().await?;
    let port = free_port()?;
    let (path, _) = world.config("n")?;
    let text = fs::read_to_string(&path)? + &format!("\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    fs::write(&path, text)?;
    let agent = Agent::start(Config::load(&path)?).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    assert!(answer.contains("keyward_node_state{state=\"running\"} 1"), "{answer}");
    assert!(answer.contains("keyward_probes_total{class=\"success\"}"), "{answer}");
    assert!(!answer.contains("/keys/"), "{answer}");
    agent.stop_all().await
}

/// A Python with SecantusDB that user 65534 may run: the usual one, or the system's with the usual one's packages.
fn python_for_others(world: &World) -> Result<Option<PathBuf>> {
    use std::os::unix::process::CommandExt as _;
    let usual = keyward_testkit::python::secantusdb()?;
    let packages = usual.with_file_name("../lib");
    let packages = walkdir::WalkDir::new(packages)
        .max_depth(2)
        .into_iter()
        .flatten()
        .find(|entry| entry.file_name() == "site-packages")
        .context("the environment has packages")?;
    let systems = world.path("python");
    let script =
        format!("#!/bin/sh\nPYTHONPATH={} exec /usr/bin/python3 \"$@\"\n", packages.path().display());
    fs::write(&systems, script)?;
    fs::set_permissions(&systems, fs::Permissions::from_mode(0o755))?;
    let works = |python: &PathBuf| {
        let asked = std::process::Command::new(python)
            .args(["-c", "import secantus.server, importlib.metadata as m; m.version('SecantusDB')"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .stderr(std::process::Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    Ok([usual, systems].into_iter().find(works))
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(target)?;
        } else if entry.file_type().is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
