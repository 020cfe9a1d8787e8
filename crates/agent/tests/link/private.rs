//! Private networking as a node sees it: nothing is sent to a vault whose name shows a public address.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use keyward_kms::azure::names::{HostNames, Names, NoAddress};
use keyward_model::{Class, NodeState, Verdict, sync::DesiredEncryption};

use crate::{
    server::{Server, desired, encryption, join, until_done, waiting_node},
    support::{Agent, World, count, database, insert, until, until_state},
    tenants::send_callers_to,
};

/// RFC 5737 keeps it for documents: nobody is there.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A resolver in which the vault's private zone is linked, or not.
#[derive(Debug)]
struct Resolver {
    public: AtomicBool,
}

impl Resolver {
    fn show_public(&self, public: bool) {
        self.public.store(public, Ordering::SeqCst);
    }
}

impl Names for Resolver {
    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        match (name == "localhost", self.public.load(Ordering::SeqCst)) {
            (true, true) => Ok(vec![PUBLIC.into()]),
            (true, false) => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            (false, _) => HostNames.look_up(name),
        }
    }
}

/// How many requests the vault's data plane has seen.
async fn asked(world: &World) -> Result<usize> {
    let log = world.vault.admin.log(0).await?;
    let elsewhere = |operation: &str| operation == "Token" || operation.starts_with("Arm");
    Ok(log.iter().filter(|entry| !elsewhere(&entry.operation)).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sends_nothing_to_a_public_address_and_takes_it_for_an_outage() -> Result<()> {
    let mut world = World::new().await?;
    let server = Server::start(&world.path("server")).await?;
    // Entra ID by its address, so that the only name to look up is the vault's.
    let authority = world.vault.running.as_ref().context("the vault runs")?.description().authority.clone();
    world.vault.go_down().await;
    send_callers_to(&world.vault.dir, &authority.replace("localhost", "127.0.0.1"))?;
    world.vault.come_back().await?;
    let names = Arc::new(Resolver { public: AtomicBool::new(true) });
    let (_, config) = waiting_node(&world, "n")?;
    let agent = Agent::start_with_names(config, Arc::clone(&names) as _).await?;
    let node = join(&agent.client, &server.token().await?).await?;

    // Placed while the name shows a public address: no keystore is made, and both hear why.
    let before = asked(&world).await?;
    let key = world.key_identifier.clone();
    let private = DesiredEncryption { require_private_networking: true, ..encryption(&world, &key)? };
    let revision = server.desire(node, &desired(Some(private))).await?;
    let report = server
        .until_report(node, "that it is kept from the vault", |report| {
            report.status.state == NodeState::WaitingForCustomerKey
                && report.status.reason.contains(Class::DeniedByPrivateLink.text())
                && report.status.reason.contains(&PUBLIC.to_string())
        })
        .await?;
    // Here as there: the whole reason, with the address that was met, and as evidence.
    let wanted = format!("has the public address {PUBLIC}");
    let status = agent.client.status().await?;
    for status in [&report.status, &status] {
        assert!(status.reason.contains(&wanted), "{status:#?}");
        let newest = status.evidence.first().context("evidence")?;
        assert!(newest.message.as_deref().is_some_and(|text| text.contains(&wanted)), "{newest:#?}");
        assert_eq!(newest.class, Class::DeniedByPrivateLink);
    }
    assert!(report.wraps.is_empty() && report.status.master_key.is_none(), "{report:#?}");
    assert_ne!(report.status.verdict, Verdict::Revoked);
    assert_eq!(asked(&world).await?, before, "the vault was asked over a public address");

    // The private zone is linked: the node goes on by itself.
    names.show_public(false);
    until_done(&agent.client, revision).await?;
    agent.client.run(&keyward_agent::admin::Request::Start, |_| {}).await?;
    let running = until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..10).await?;
    assert!(asked(&world).await? > before, "the double's log counts");

    // And unlinked again under a running database. Connections that were open end with the vault's restart.
    world.vault.go_down().await;
    names.show_public(true);
    world.vault.come_back().await?;
    let status = until(&agent.client, "unavailable", |status| {
        status.verdict == Verdict::Unavailable
            && status.evidence.first().is_some_and(|newest| newest.class == Class::DeniedByPrivateLink)
    })
    .await?;
    let newest = status.evidence.first().context("evidence")?;
    let message = newest.message.as_deref().unwrap_or_default();
    assert!(message.contains("private networking is required, and"), "{newest:#?}");
    assert!(message.contains(&PUBLIC.to_string()), "{newest:#?}");
    // For longer than a denial may last (4 s here), and nothing arrives.
    let before = asked(&world).await?;
    let long_enough = Instant::now() + Duration::from_secs(6);
    let status = until(&agent.client, "still unavailable", |status| {
        assert_ne!(status.verdict, Verdict::Revoked, "{status:#?}");
        Instant::now() > long_enough
    })
    .await?;
    assert_eq!((status.state, status.verdict), (NodeState::Running, Verdict::Unavailable));
    assert_eq!(status.engine.map(|engine| engine.pid), running.engine.map(|engine| engine.pid));
    assert_eq!(asked(&world).await?, before, "the vault was asked over a public address");
    assert_eq!(count(&database(world.port).await?, "shop").await?, 10);
    server.until_report(node, "the outage", |report| report.status.verdict == Verdict::Unavailable).await?;

    names.show_public(false);
    until(&agent.client, "valid again", |status| status.verdict == Verdict::Valid).await?;
    server.until_report(node, "the end of it", |report| report.status.verdict == Verdict::Valid).await?;
    agent.stop_all().await
}
