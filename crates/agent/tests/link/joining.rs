//! Joining, renewing, being revoked, and a server that is away.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use keyward_agent::admin::Request;
use keyward_model::{NodeState, event::EventType, node::JoinText};

use crate::{
    server::{Server, desired, join, until_done, until_link, waiting_node},
    support::{Agent, World, failure_of, until_state},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_node_in_once_and_within_a_day() -> Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world.path("server")).await?;
    let agent = Agent::start(waiting_node(&world, "a")?.1).await?;
    until_state(&agent.client, NodeState::Stopped).await?;
    let join_with = async |agent: &Agent, token: &str| {
        failure_of(agent.client.run(&Request::Join { token: token.to_owned() }, |_| {}).await)
    };

    // Nothing of a token that is none, or of another server, is believed.
    let failure = join_with(&agent, "kwj1.nonsense").await;
    assert!(failure.message.contains("no join token"), "{failure:?}");
    let token = server.token().await?;
    let other_authority = JoinText { ca_sha256: "ab".repeat(32), ..token.clone() };
    let failure = join_with(&agent, &other_authority.to_string()).await;
    assert!(failure.message.contains("is not under the authority that this node knows"), "{failure:?}");
    assert!(failure.hint.contains("make a token on the server you mean"), "{failure:?}");
    let (id, _) = token.secret.split_once('.').unwrap();
    let guessed = JoinText { secret: format!("{id}.{}", "A".repeat(43)), ..token.clone() };
    let failure = join_with(&agent, &guessed.to_string()).await;
    assert!(failure.message.contains("not known"), "{failure:?}");
    assert_eq!(agent.client.status().await?.link, None);
    assert_eq!(server.events(EventType::NodeEnrolled).await?, 0);

    let node = join(&agent.client, &token).await?;
    until_link(&agent.client, "heard of", |link| link.last_contact.is_some() && link.problem.is_none())
        .await?;
    let report = server.until_report(node, "itself", |_| true).await?;
    assert_eq!((report.node_id, report.status.state), (node, NodeState::Stopped));
    assert_eq!(server.events(EventType::NodeEnrolled).await?, 1);
    for file in ["key.pem", "cert.pem", "ca.pem", "link.json"] {
        let mode = std::fs::metadata(world.path("a/state/server").join(file))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    // The same token again, by another node.
    let other = Agent::start(waiting_node(&world, "b")?.1).await?;
    let failure = join_with(&other, &token.to_string()).await;
    assert!(failure.message.contains("used already"), "{failure:?}");
    assert!(failure.hint.contains("make a new one"), "{failure:?}");
    // One that has expired.
    let late = server.token().await?;
    server.advance_hours(24);
    let failure = join_with(&other, &late.to_string()).await;
    assert!(failure.message.contains("expired"), "{failure:?}");
    assert_eq!(other.client.status().await?.link, None);
    assert_eq!(server.events(EventType::NodeEnrolled).await?, 1);
    other.end().await?;
    agent.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_renews_after_any_absence_and_a_revoked_node_is_told_so() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let (_, config) = waiting_node(&world, "a")?;
    let agent = Agent::start(config.clone()).await?;
    let node = join(&agent.client, &server.token().await?).await?;
    server.until_report(node, "itself", |_| true).await?;
    let certificate = || std::fs::read(world.path("a/state/server/cert.pem"));
    let first = certificate()?;

    // A month later for the server: the certificate has long ended. Nobody does anything about it.
    server.advance_hours(30 * 24);
    let revision = server.desire(node, &desired(None)).await?;
    until_done(&agent.client, revision).await?;
    // The call that waited was begun before; the next one is refused, and renews.
    let deadline = std::time::Instant::now() + crate::support::LONG;
    while certificate()? == first {
        assert!(std::time::Instant::now() < deadline, "never renewed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(server.events(EventType::NodeRenewed).await?, 1);
    // The server's clock goes back: the new certificate does not hold yet, and is replaced too.
    server.advance_hours(-29 * 24);
    let again = desired(None);
    let revision = server.desire(node, &keyward_model::sync::Desired { cluster: None, ..again }).await?;
    until_done(&agent.client, revision).await?;

    // The server is away for long; the agent is started anew meanwhile.
    server.go_away().await;
    until_link(&agent.client, "a problem", |link| link.problem.is_some()).await?;
    agent.end().await?;
    let agent = Agent::start(config).await?;
    let status = until_link(&agent.client, "a problem", |link| link.problem.is_some()).await?;
    let link = status.link.unwrap();
    assert_eq!((link.accepted_revision, link.done_revision), (revision, revision));
    server.advance_hours(400 * 24);
    server.come_back().await?;
    let revision = server.desire(node, &desired(None)).await?;
    until_done(&agent.client, revision).await?;
    // Its reports go on counting where they were.
    let before = server.report(node).await?.unwrap().report;
    server.until_report(node, "the newest", |report| report.done_revision == revision).await?;
    assert!(before >= 1);

    server.revoke(node).await?;
    let status = until_link(&agent.client, "revoked", |link| {
        link.problem.as_ref().is_some_and(|problem| problem.contains("was revoked"))
    })
    .await?;
    assert!(status.warnings.iter().any(|warning| warning.contains("was revoked")), "{status:#?}");
    // It does not renew its way back in, and comes back by a token.
    let token = server.token().await?;
    join(&agent.client, &token).await?;
    until_link(&agent.client, "heard of", |link| link.problem.is_none()).await?;
    agent.end().await
}
