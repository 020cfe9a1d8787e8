//! What a real node does on its server's word.

use std::fs;

use anyhow::{Context as _, Result};
use keyward_agent::admin::Request;
use keyward_model::{
    NodeState,
    sync::{DesiredCredential, DesiredEncryption, DesiredRun, Validation},
};
use keyward_vault::fault::FaultKind;

use crate::{
    server::{Server, desired, encryption, join, node_file, until_done, until_link, waiting_node},
    support::{
        Agent, AgentProcess, World, connect, count, database, failure_of, insert, rewrap_to, until,
        until_state,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_node_is_placed_and_follows_the_key_the_secret_and_the_rotation() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let (_, config) = waiting_node(&world, "n")?;
    let agent = Agent::start(config.clone()).await?;
    let status = until_state(&agent.client, NodeState::Stopped).await?;
    assert!(status.reason.contains("waiting for the server"), "{}", status.reason);
    let node = join(&agent.client, &server.token().await?).await?;

    // Placed: it makes its keystore under the project's key and starts.
    let mut wanted = desired(Some(encryption(&world, &world.key_identifier)?));
    let revision = server.desire(node, &wanted).await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!(status.state, NodeState::Running);
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), world.key_identifier);
    let engine = status.engine.unwrap().pid;
    let first_master_key = status.master_key.unwrap().id;
    insert(&database(world.port).await?, "shop", 0..50).await?;
    let report = server.until_report(node, "done", |report| report.done_revision == revision).await?;
    assert_eq!(report.wraps.len(), 1);

    // Another customer key: the master key moves under it, the database runs on.
    let second = world.vault.key("k2").await?;
    wanted.encryption = Some(encryption(&world, &second)?);
    let revision = server.desire(node, &wanted).await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    assert_eq!(status.engine.unwrap().pid, engine);
    let report = server.until_report(node, "moved", |report| report.done_revision == revision).await?;
    assert_eq!(report.wraps.iter().map(|wrap| &wrap.key_identifier).collect::<Vec<_>>(), [&second]);

    // The master key is rotated once, however often the message comes.
    wanted.rotate_master_key = Some(first_master_key.clone());
    let revision = server.desire(node, &wanted).await?;
    let status = until_done(&agent.client, revision).await?;
    let rotated = status.master_key.unwrap().id;
    assert_ne!(rotated, first_master_key);

    // A wrong secret is not taken, and costs the node nothing; the right one is.
    let (client_id, admin) = (encryption(&world, &second)?.client_id, &world.vault.admin);
    let with_secret = |secret: &str| -> Result<DesiredEncryption> {
        let credential = DesiredCredential::ClientSecret { secret: secret.to_owned() };
        Ok(DesiredEncryption { credential, ..encryption(&world, &second)? })
    };
    wanted.encryption = Some(with_secret("no-such-secret-at-all")?);
    server.desire(node, &wanted).await?;
    let held = |what: &'static str| {
        move |link: &keyward_model::status::LinkStatus| {
            link.held_back.iter().any(|held| !held.needs_approval && held.reason.contains(what))
        }
    };
    let status = until_link(&agent.client, "a wrong secret", held("the new way to the customer key")).await?;
    assert_eq!(status.state, NodeState::Running);
    let report = server.until_report(node, "held back", |report| !report.held_back.is_empty()).await?;
    assert!(!serde_json::to_string(&report)?.contains("no-such-secret"), "no secret in a report");
    let new = admin.add_secret(&client_id, None).await?;
    let new_secret = serde_json::to_value(&new)?["clientSecret"].as_str().context("a secret")?.to_owned();
    wanted.encryption = Some(with_secret(&new_secret)?);
    let revision = server.desire(node, &wanted).await?;
    until_done(&agent.client, revision).await?;
    let secrets = fs::read_dir(world.path("n/state/server"))?.flatten();
    let secrets = secrets.filter(|file| file.file_name().to_string_lossy().starts_with("client-secret-"));
    assert_eq!(secrets.count(), 1, "secrets that are not in use are gone");

    // What the server decides is not decided here.
    let failure = failure_of(agent.client.run(&rewrap_to(&world.key_identifier)?, |_| {}).await);
    assert_eq!((failure.code.as_str(), failure.exit), ("MANAGED_BY_SERVER", 1), "{failure:?}");

    let failure = failure_of(agent.client.run(&Request::RotateMasterKey, |_| {}).await);
    assert_eq!((failure.code.as_str(), failure.exit), ("MANAGED_BY_SERVER", 1), "{failure:?}");
    assert!(failure.hint.contains("rotate-master-keys"), "{failure:?}");

    // Without its server the node starts anew with what it was told last.
    server.go_away().await;
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(status.master_key.unwrap().id, rotated);
    assert_eq!(count(&database(world.port).await?, "shop").await?, 50);

    // Running and stopping: each change of the server's wish is carried out once.
    server.come_back().await?;
    wanted.run = DesiredRun::Stopped;
    let revision = server.desire(node, &wanted).await?;
    until_done(&agent.client, revision).await?;
    until_state(&agent.client, NodeState::Stopped).await?;
    wanted.run = DesiredRun::Running;
    let revision = server.desire(node, &wanted).await?;
    until_done(&agent.client, revision).await?;
    assert!(until_state(&agent.client, NodeState::Running).await?.engine.is_some());
    agent.stop_all().await
}

/// The server changes its mind while the start that it asked for is still waiting for the vault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_comes_while_another_is_carried_out_is_carried_out_after_it() -> Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world.path("server")).await?;
    let agent = Agent::start(world.config("n")?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let node = join(&agent.client, &server.token().await?).await?;
    let mut wanted = desired(Some(encryption(&world, &world.key_identifier)?));
    wanted.run = DesiredRun::Stopped;
    until_done(&agent.client, server.desire(node, &wanted).await?).await?;

    world.vault.admin.set_fault(FaultKind::Slow, None).await?;
    wanted.run = DesiredRun::Running;
    server.desire(node, &wanted).await?;
    let starting = |link: &keyward_model::status::LinkStatus| {
        link.progress.as_deref().is_some_and(|doing| doing.contains("starting"))
    };
    until_link(&agent.client, "a start", starting).await?;
    wanted.run = DesiredRun::Stopped;
    let revision = server.desire(node, &wanted).await?;
    until_link(&agent.client, "accepted", |link| link.accepted_revision == revision).await?;
    world.vault.admin.clear_faults().await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!((status.state, status.engine), (NodeState::Stopped, None), "{}", status.reason);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_outside_the_pins_waits_for_the_host() -> Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world.path("server")).await?;
    let second = world.vault.key("k2").await?;
    // Only the first key may be used on a server's word.
    let text = world.config_text("n", world.port)?;
    let text = format!("{text}\n[server]\nkeys = [\"{}\"]\n", world.key_identifier);
    let agent = Agent::start(node_file(&world, "n", &text)?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let node = join(&agent.client, &server.token().await?).await?;

    // A running node is adopted with the key it has.
    let mut wanted = desired(Some(encryption(&world, &world.key_identifier)?));
    let revision = server.desire(node, &wanted).await?;
    until_done(&agent.client, revision).await?;

    // Another tenant: held back, and not even tried out.
    let elsewhere = DesiredEncryption {
        tenant_id: "00000000-0000-0000-0000-00000000beef".into(),
        ..encryption(&world, &world.key_identifier)?
    };
    let validation = Validation { id: "v1".into(), encryption: elsewhere.clone() };
    let works = Validation { id: "v2".into(), encryption: encryption(&world, &second)? };
    let own = Validation { id: "v3".into(), encryption: encryption(&world, &world.key_identifier)? };
    wanted.validations = vec![validation, works, own];
    wanted.encryption = Some(elsewhere);
    server.desire(node, &wanted).await?;
    let report = server.until_report(node, "held back", |report| {
        !report.held_back.is_empty() && report.validated.len() == 3
    });
    let report = report.await?;
    assert!(report.held_back[0].needs_approval);
    assert!(report.held_back[0].reason.contains("beef"), "{report:#?}");
    let validated = |id: &str| report.validated.iter().find(|validated| validated.id == id).unwrap();
    assert!(validated("v1").findings.iter().any(|finding| finding.refuses && finding.text.contains("beef")));
    assert!(
        validated("v2")
            .findings
            .iter()
            .any(|finding| finding.refuses && finding.text.contains("file allows"))
    );
    assert!(!validated("v3").findings.iter().any(|finding| finding.refuses), "{report:#?}");
    assert_eq!(agent.client.status().await?.state, NodeState::Running);

    // Another key of the tenant that the file does not name: let through by the host, then carried out.
    wanted.validations = vec![];
    wanted.encryption = Some(encryption(&world, &second)?);
    let revision = server.desire(node, &wanted).await?;
    let line = format!("key:{second}");
    let status = until_link(&agent.client, "held back", |link| {
        link.held_back.iter().any(|held| held.approval.as_ref() == Some(&line))
    })
    .await?;
    assert!(status.warnings.iter().any(|warning| warning.contains("approval")), "{status:#?}");
    let waiting = agent.client.approvals().await?;
    assert_eq!(waiting.len(), 1, "{waiting:#?}");
    let request = |name: &str| Request::Approve { approvals: Some(vec![name.to_owned()]) };
    let failure = failure_of(agent.client.run(&request("tenant:none"), |_| {}).await);
    assert!(failure.message.contains("nothing waits"), "{failure:?}");
    agent.client.run(&request(&line), |_| {}).await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    assert!(agent.client.approvals().await?.is_empty());

    // The server names no key any more: nothing is switched off, and the host is asked.
    wanted.encryption = None;
    let revision = server.desire(node, &wanted).await?;
    until_link(&agent.client, "held back", |link| {
        link.held_back.iter().any(|held| held.approval.as_deref() == Some("encryption-off"))
    })
    .await?;
    agent.client.run(&Request::Approve { approvals: None }, |_| {}).await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_of_a_restored_server_waits_for_the_host() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let second = world.vault.key("k2").await?;
    let agent = Agent::start(world.config("n")?.1).await?;
    until_state(&agent.client, NodeState::Running).await?;
    let node = join(&agent.client, &server.token().await?).await?;
    let old = server.desire(node, &desired(Some(encryption(&world, &world.key_identifier)?))).await?;
    until_done(&agent.client, old).await?;

    // A backup of the store, and a change after it.
    server.go_away().await;
    let backup = fs::read(server.database())?;
    server.come_back().await?;
    let new = server.desire(node, &desired(Some(encryption(&world, &second)?))).await?;
    until_done(&agent.client, new).await?;
    server.go_away().await;
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(server.database().with_extension(format!("db{suffix}")));
    }
    fs::write(server.database(), backup)?;
    server.come_back().await?;

    let status = until_link(&agent.client, "held back", |link| !link.held_back.is_empty()).await?;
    let link = status.link.unwrap();
    assert_eq!(link.accepted_revision, new, "it stays with the newest it has seen");
    assert!(link.held_back[0].approval.as_ref().unwrap().starts_with(&format!("state:{old}:")));
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    server
        .until_report(node, "held back", |report| report.held_back.iter().any(|held| held.needs_approval))
        .await?;
    agent.client.run(&Request::Approve { approvals: None }, |_| {}).await?;
    let status = until_done(&agent.client, old).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), world.key_identifier);
    agent.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_between_accepting_and_doing_does_it_without_its_server() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let second = world.vault.key("k2").await?;
    let (path, config) = world.config("n")?;
    let agent = AgentProcess::start(&path)?;
    let client = connect(&config.admin_socket).await?;
    until_state(&client, NodeState::Running).await?;
    let node = join(&client, &server.token().await?).await?;
    let first = server.desire(node, &desired(Some(encryption(&world, &world.key_identifier)?))).await?;
    until_done(&client, first).await?;
    insert(&database(world.port).await?, "shop", 0..10).await?;

    // Accepted, and the vault lets nothing be done about it.
    world.vault.admin.set_fault(FaultKind::Error503, None).await?;
    let revision = server.desire(node, &desired(Some(encryption(&world, &second)?))).await?;
    until_link(&client, "accepted", |link| link.accepted_revision == revision).await?;
    agent.kill()?;
    let before = server.report(node).await?.context("a report")?.report;
    server.go_away().await;
    world.vault.admin.clear_faults().await?;

    let agent = AgentProcess::start(&path)?;
    let client = connect(&config.admin_socket).await?;
    let status = until_done(&client, revision).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), second);
    until_link(&client, "the server's absence noticed", |link| link.problem.is_some()).await?;
    let report = until(&client, "running", |status| status.state == NodeState::Running).await?;
    assert!(report.master_key_held);
    assert_eq!(count(&database(world.port).await?, "shop").await?, 10);

    // Once the server is back it hears of it, under a number that it had not heard before.
    server.come_back().await?;
    let after = server.until_report(node, "done", |report| report.done_revision == revision).await?;
    assert!(after.report > before, "{} {before}", after.report);
    client.run(&Request::Stop, |_| {}).await?;
    agent.kill()
}
