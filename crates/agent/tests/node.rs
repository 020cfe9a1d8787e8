//! One node on a real database process under a real vault.

mod support;

use anyhow::Result;
use keyward_agent::admin::Request;
use keyward_model::{Class, NodeState, Verdict};
use keyward_vault::fault::FaultKind;
use support::{Agent, World, connect, count, database, failure_of, insert, rewrap_to, until, until_state};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_stops_it_an_outage_does_not_and_it_heals() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert!(status.master_key_held);
    assert_eq!(status.verdict, Verdict::Valid);
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), world.key_identifier);
    let db = database(world.port).await?;
    insert(&db, "shop", 0..100).await?;

    // An outage, for longer than every window.
    world.vault.admin.set_fault(FaultKind::Error503, None).await?;
    let status = until(&agent.client, "an outage seen", |s| s.verdict == Verdict::Unavailable).await?;
    assert_eq!(status.evidence[0].class, Class::ServerFault);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(agent.client.status().await?.state, NodeState::Running);
    assert_eq!(count(&db, "shop").await?, 100);
    world.vault.admin.clear_faults().await?;
    until(&agent.client, "valid again", |s| s.verdict == Verdict::Valid).await?;

    // The key is taken away.
    world.vault.admin.disable_key("k1").await?;
    let status = until_state(&agent.client, NodeState::StoppedRevoked).await?;
    assert!(!status.master_key_held);
    assert_eq!(status.engine, None);
    assert_eq!(status.reason, Class::KeyDisabled.text());
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 3);
    assert_eq!(failure_of(agent.client.run(&Request::RotateMasterKey, |_| {}).await).exit, 3);

    // It is given back.
    world.vault.admin.enable_key("k1").await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 100);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_adopts_the_engine_even_when_the_vault_is_down() -> Result<()> {
    let mut world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    let before = until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..10).await?;
    agent.end().await?;
    insert(&db, "shop", 10..20).await?;

    world.vault.go_down().await;
    let agent = Agent::start(config.clone()).await?;
    let status = until(&agent.client, "adopted without master key", |s| {
        s.state == NodeState::Running && s.evidence.iter().any(|e| e.class == Class::ConnectionFailed)
    })
    .await?;
    assert!(!status.master_key_held);
    assert_eq!(status.engine, before.engine);
    let failure = failure_of(agent.client.run(&Request::RotateMasterKey, |_| {}).await);
    assert_eq!((failure.exit, failure.code.as_str()), (4, "MASTER_KEY_NOT_HELD"));
    insert(&db, "shop", 20..30).await?;

    world.vault.come_back().await?;
    let status = until(&agent.client, "master key back", |s| s.master_key_held).await?;
    assert_eq!(status.engine, before.engine);
    assert_eq!(count(&db, "shop").await?, 30);
    agent.stop_all().await?;

    // With the engine stopped and the vault down it waits, and starts by itself.
    world.vault.go_down().await;
    let agent = Agent::start(config).await?;
    assert_eq!(failure_of(agent.client.run(&Request::Start, |_| {}).await).exit, 4);
    until_state(&agent.client, NodeState::WaitingForCustomerKey).await?;
    world.vault.come_back().await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_sees_a_revocation_beside_a_keystore_that_cannot_be_read() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    let before = until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..10).await?;
    agent.end().await?;
    let keystore = world.path("n/db/.keyward/keystore.json");
    let whole = std::fs::read(&keystore)?;
    std::fs::write(&keystore, &whole[..whole.len() / 2])?;

    let agent = Agent::start(config).await?;
    let status = until(&agent.client, "probed with the copied canaries", |s| {
        s.evidence.iter().any(|e| e.class == Class::Success)
            && s.warnings.iter().any(|w| w.contains("canaries.json"))
    })
    .await?;
    assert_eq!((status.state, status.engine), (NodeState::Running, before.engine));
    assert!(status.reason.contains("cannot be read"), "{}", status.reason);
    insert(&db, "shop", 10..20).await?;
    world.vault.admin.disable_key("k1").await?;
    let status = until_state(&agent.client, NodeState::StoppedRevoked).await?;
    assert_eq!((status.reason.as_str(), status.engine), (Class::KeyDisabled.text(), None));

    // The key comes back, and only with its keystore does the database.
    world.vault.admin.enable_key("k1").await?;
    until_state(&agent.client, NodeState::Failed).await?;
    std::fs::write(&keystore, whole)?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 20);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_and_rewrapped_under_a_running_engine() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    let first = until_state(&agent.client, NodeState::Running).await?;
    let db = database(world.port).await?;
    insert(&db, "shop", 0..10).await?;

    let mut steps = Vec::new();
    agent.client.run(&Request::RotateMasterKey, |line| steps.push(line.step)).await?;
    assert!(!steps.is_empty());
    let rotated = agent.client.status().await?;
    assert_ne!(rotated.master_key.unwrap().id, first.master_key.unwrap().id);
    assert_eq!(rotated.database_keys, first.database_keys);
    assert_eq!(rotated.engine, first.engine);

    let second = world.vault.admin.rotate_key("k1").await?.versions.last().unwrap().key_identifier.clone();
    assert_ne!(second, world.key_identifier);
    agent.client.run(&rewrap_to(&second)?, |_| {}).await?;
    let status = agent.client.status().await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    assert_eq!(status.engine, first.engine);
    insert(&db, "shop", 10..20).await?;

    // A key that is none, one that nobody may use, and one of another tenant are refused; the node stays as it is.
    let mut missing = second.clone();
    missing.replace_range(missing.len() - 1.., if missing.ends_with('0') { "1" } else { "0" });
    let failure = failure_of(agent.client.run(&rewrap_to(&missing)?, |_| {}).await);
    assert_eq!(failure.code, "CUSTOMER_KEY_UNSUITABLE");
    assert!(failure.message.contains("KeyNotFound"), "{}", failure.message);
    let elsewhere = format!("https://localhost:1/keys/k1/{}", "0".repeat(32));
    let failure = failure_of(agent.client.run(&rewrap_to(&elsewhere)?, |_| {}).await);
    assert_eq!(failure.code, "CUSTOMER_KEY_UNSUITABLE", "{failure:?}");
    let status = agent.client.status().await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);

    // Everything opens from disk.
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 20);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_data_path_refuses() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    let mut second = config.clone();
    second.state_dir = world.path("other-state");
    second.admin_socket = world.path("other.sock");
    let refused = keyward_agent::run(second, tokio_util::sync::CancellationToken::new()).await;
    let error = refused.unwrap_err();
    assert!(
        matches!(error, keyward_agent::RunError::Own(keyward_agent::folder::FolderError::Locked(_))),
        "{error:?}"
    );
    assert!(connect(&config.admin_socket).await.is_ok());
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_gets_no_keys() -> Result<()> {
    use keyward_keys::wire::{PROTOCOL_VERSION, ToAgent, ToEncryptor, read_to_encryptor, write_to_agent};
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let answer = tokio::task::spawn_blocking({
        let socket = config.key_socket();
        move || {
            let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
            let hello = ToAgent::Hello {
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                pid: std::process::id(),
                wiredtiger_version: String::new(),
                layout: String::new(),
                data_path: String::new(),
            };
            write_to_agent(&mut stream, &hello)?;
            anyhow::Ok(read_to_encryptor(&mut stream)?)
        }
    })
    .await??;
    assert!(
        matches!(&answer, ToEncryptor::Refused { reason } if reason.contains("is not the engine")),
        "{answer:?}"
    );
    for socket in [&config.key_socket(), &config.admin_socket] {
        assert_eq!(std::fs::metadata(socket)?.permissions().mode() & 0o777, 0o600);
    }
    agent.stop_all().await
}

/// Steady state: each probe is one unwrap and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_one_call_to_the_vault() -> Result<()> {
    let world = World::new().await?;
    let (_, config) = world.config("n")?;
    let agent = Agent::start(config).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let probes = |s: &keyward_model::NodeStatus| s.evidence.len();
    until(&agent.client, "settled", |s| probes(s) >= 4).await?;
    let before = world.vault.admin.log(0).await?.len();
    let seen = probes(&agent.client.status().await?);
    let after = until(&agent.client, "probed", |s| probes(s) >= seen + 8).await?;
    let log = world.vault.admin.log(before).await?;
    let calls = log.len();
    // One probe may be on its way at either end.
    let probed = probes(&after) - seen;
    assert!(calls.abs_diff(probed) <= 2, "{probed} probes, {calls} calls: {log:#?}");
    agent.stop_all().await
}

/// Counted from the vault's log: keyward adds exactly one unwrap to a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_one_unwrap_in_the_vaults_log() -> Result<()> {
    let world = World::new().await?;
    let (_, mut config) = world.config("n")?;
    config.verdict.probe_interval = std::time::Duration::from_secs(300);
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.stop_all().await?;
    let before = world.vault.admin.log(0).await?.len();
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    let log = world.vault.admin.log(before).await?;
    let unwraps = log.iter().filter(|entry| entry.operation.to_string().contains("Unwrap")).count();
    assert_eq!(unwraps, 1, "{log:#?}");
    agent.stop_all().await
}
