//! A node is taken away from its server, and goes on.

use std::fs;

use anyhow::{Context as _, Result};
use keyward_agent::{admin::Request, link::LeftServer};
use keyward_model::{NodeState, event::EventType, node::EnrolledNode, sync::Desired};

use crate::{
    server::{Server, desired, encryption, join, until_done, until_link, waiting_node},
    support::{Agent, World, count, database, failure_of, insert, until, until_state},
};

async fn leave(agent: &Agent, force: bool) -> Result<LeftServer> {
    Ok(serde_json::from_value(agent.client.run(&Request::Leave { force }, |_| {}).await?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_leaves_and_goes_on_with_what_it_has() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let (_, config) = waiting_node(&world, "n")?;
    let agent = Agent::start(config.clone()).await?;
    let refused =
        async |agent: &Agent, force| failure_of(agent.client.run(&Request::Leave { force }, |_| {}).await);
    let failure = refused(&agent, false).await;
    assert!(failure.message.contains("joined no server"), "{failure:?}");

    // A member, under the second key of the project.
    let node = join(&agent.client, &server.token().await?).await?;
    let second = world.vault.key("k2").await?;
    let wanted = desired(Some(encryption(&world, &second)?));
    let revision = server.desire(node, &wanted).await?;
    let status = until_done(&agent.client, revision).await?;
    let engine = status.engine.context("it runs")?.pid;
    insert(&database(world.port).await?, "shop", 0..20).await?;
    let failure = refused(&agent, false).await;
    assert!(failure.message.contains("member of the cluster c"), "{failure:?}");
    assert!(failure.hint.contains("--force"), "{failure:?}");
    assert!(agent.client.status().await?.link.is_some());

    // Free again, it leaves: the server lets go of its certificate, and nothing of the server is left but the way to
    // the customer key.
    let revision = server.desire(node, &Desired { cluster: None, ..wanted.clone() }).await?;
    until_done(&agent.client, revision).await?;
    let left = leave(&agent, false).await?;
    assert!(left.told && left.warnings.is_empty(), "{left:?}");
    assert_eq!((left.node_id, left.key_identifier.as_ref()), (node.to_string(), Some(&second)));
    let status = until(&agent.client, "without a server", |status| status.link.is_none()).await?;
    assert!(status.warnings.iter().all(|warning| !warning.contains("server")), "{status:#?}");
    assert_eq!((status.state, status.engine.context("it runs")?.pid), (NodeState::Running, engine));
    let stored =
        server.app().store().read().await?.get::<EnrolledNode>(node).await?.context("it stays known")?;
    assert!(stored.revoked_at.is_some());
    assert_eq!(server.events(EventType::NodeLeft).await?, 1);
    let kept = fs::read_dir(world.path("n/state/server"))?.flatten();
    let mut kept: Vec<String> = kept.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    kept.sort();
    assert!(
        kept[0] == "applied.json" && kept[1].starts_with("client-secret-") && kept.len() == 2,
        "{kept:?}"
    );
    let failure = refused(&agent, true).await;
    assert!(failure.message.contains("joined no server"), "{failure:?}");

    // What its host decides is its host's again; it starts anew without its server, and joins another time.
    agent.client.run(&Request::RotateMasterKey, |_| {}).await?;
    server.go_away().await;
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(status.customer_key.context("a customer key")?.key_identifier.to_string(), second);
    assert_eq!(count(&database(world.port).await?, "shop").await?, 20);
    server.come_back().await?;
    assert_eq!(join(&agent.client, &server.token().await?).await?, node);
    let revision = server.desire(node, &wanted).await?;
    until_done(&agent.client, revision).await?;

    // A member whose server is away: only when that is said, and the server is not told.
    server.go_away().await;
    until_link(&agent.client, "a problem", |link| link.problem.is_some()).await?;
    let left = leave(&agent, true).await?;
    assert!(!left.told && left.warnings[0].contains("project node revoke"), "{left:?}");
    assert_eq!(agent.client.status().await?.link, None);
    server.come_back().await?;
    let stored =
        server.app().store().read().await?.get::<EnrolledNode>(node).await?.context("it stays known")?;
    assert_eq!(stored.revoked_at, None);
    assert_eq!(server.events(EventType::NodeLeft).await?, 1);

    // It joins again, and the server lets a member go by force.
    join(&agent.client, &server.token().await?).await?;
    until_link(&agent.client, "a cluster", |link| link.accepted_revision > 0).await?;
    assert!(leave(&agent, true).await?.told);
    assert_eq!(server.events(EventType::NodeLeft).await?, 2);
    assert_eq!(agent.client.status().await?.state, NodeState::Running);
    agent.stop_all().await
}
