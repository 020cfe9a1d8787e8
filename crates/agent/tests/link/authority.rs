//! The server's authority is replaced under its nodes: those that are there, and those that are away.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use keyward_model::event::{Actor, EventType};
use keyward_server::link::{replace_authority, retire_authority};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    server::{Server, desired, join, until_done, until_link, waiting_node},
    support::{Agent, LONG, World},
};

/// How many authorities a node trusts.
fn trusted(world: &World, node: &str) -> Result<usize> {
    let path: PathBuf = world.path(node).join("state/server/ca.pem");
    Ok(CertificateDer::pem_file_iter(path)?.count())
}

fn certificate(world: &World, node: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(world.path(node).join("state/server/cert.pem"))?)
}

async fn until_trusts(world: &World, node: &str, authorities: usize) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while trusted(world, node)? != authorities {
        ensure!(Instant::now() < deadline, "{node} never trusted {authorities}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn retire(server: &Server, force: bool) -> Result<(), keyward_server::link::AuthorityError> {
    let app = server.app();
    retire_authority(app.store(), force, Actor::Operator, app.now()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_take_a_new_authority_over_from_the_server_that_they_trust() -> Result<()> {
    let world = World::new().await?;
    let mut server = Server::start(&world.path("server")).await?;
    let (_, there_config) = waiting_node(&world, "there")?;
    let (_, away_config) = waiting_node(&world, "away")?;
    let there = Agent::start(there_config.clone()).await?;
    let there_id = join(&there.client, &server.token().await?).await?;
    let away = Agent::start(away_config.clone()).await?;
    let away_id = join(&away.client, &server.token().await?).await?;
    for (agent, id) in [(&there, there_id), (&away, away_id)] {
        until_link(&agent.client, "heard of", |link| link.last_contact.is_some()).await?;
        server.until_report(id, "itself", |_| true).await?;
    }
    away.end().await?;
    let first = certificate(&world, "there")?;

    // The node that is there takes the new one over while its call waits, and nothing else changes for it.
    let revision = server.desire(there_id, &desired(None)).await?;
    until_done(&there.client, revision).await?;
    let app = server.app();
    let status = replace_authority(app.store(), Actor::Operator, app.now()).await?;
    until_trusts(&world, "there", 2).await?;
    let deadline = Instant::now() + LONG;
    while certificate(&world, "there")? == first {
        ensure!(Instant::now() < deadline, "the certificate stayed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let another = keyward_model::sync::Desired { cluster: None, ..desired(None) };
    let revision = server.desire(there_id, &another).await?;
    let link = until_done(&there.client, revision).await?.link;
    ensure!(link.is_some_and(|link| link.problem.is_none()), "a problem over it");

    // A server that starts anew stands under it too, and the other node finds back, its certificate ended.
    server.go_away().await;
    server.advance_hours(60 * 24);
    server.come_back().await?;
    let refused = retire(&server, false).await.unwrap_err().to_string();
    ensure!(refused.contains("needed by the node away"), "{refused}");
    let away = Agent::start(away_config.clone()).await?;
    until_trusts(&world, "away", 2).await?;
    let revision = server.desire(away_id, &desired(None)).await?;
    until_done(&away.client, revision).await?;

    // Without the former one: both trust the new one alone, soon and by themselves.
    let deadline = Instant::now() + LONG;
    while let Err(error) = retire(&server, false).await {
        ensure!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for node in ["there", "away"] {
        until_trusts(&world, node, 1).await?;
    }

    // A token of the new one is this server's: the node goes on with the state that it has accepted.
    let accepted = until_link(&away.client, "accepted", |link| link.accepted_revision == revision).await?;
    let token = server.token().await?;
    ensure!(token.ca_sha256 == status.sha256, "the token names another authority");
    ensure!(join(&away.client, &token).await? == away_id);
    let again = away.client.status().await?;
    let revisions = |status: &keyward_model::NodeStatus| {
        status.link.as_ref().map(|link| (link.accepted_revision, link.done_revision))
    };
    assert_eq!(revisions(&again), revisions(&accepted));

    // A node that is left behind is told what to do, and comes back so.
    away.end().await?;
    let app = server.app();
    replace_authority(app.store(), Actor::Operator, app.now()).await?;
    retire(&server, true).await?;
    assert_eq!(server.events(EventType::AgentAuthorityRetired).await?, 2);
    server.go_away().await;
    server.come_back().await?;
    let away = Agent::start(away_config).await?;
    let told = until_link(&away.client, "told", |link| {
        link.problem
            .as_ref()
            .is_some_and(|problem| problem.contains("not under the authority that this node knows"))
    })
    .await?;
    ensure!(told.warnings.iter().any(|warning| warning.contains("not under the authority")), "{told:#?}");
    join(&away.client, &server.token().await?).await?;
    until_link(&away.client, "heard of", |link| link.problem.is_none() && link.last_contact.is_some())
        .await?;
    away.end().await?;
    there.end().await
}
