//! What ends soon is said in status, while everything works.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use keyward_agent::{
    admin::Request,
    config::Config,
    disk::{Disk as _, HostDisk},
    keystore::KeystoreFile,
    memory::{Claim, Memory},
};
use keyward_keys::{
    CanarySecret, MasterKey, NodeId,
    keystore::{CanaryWrap, MasterKeyWrap, OpenKeystore, Provider},
};
use keyward_kms::{KeyService as _, azure::AzureKeyService};
use keyward_model::{Class, NodeState, NodeStatus, Verdict};
use keyward_vault::admin::KeySettings;

use crate::support::{Agent, World, count, database, insert, rewrap_to, until, until_state};

const DAY_S: i64 = 86_400;

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn warned(status: &NodeStatus, text: &str) -> bool {
    status.warnings.iter().any(|warning| warning.contains(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_key_that_expires_is_warned_of_at_each_step_and_still_unwraps() -> Result<()> {
    let world = World::new().await?;
    let (_, mut config) = world.config("n")?;
    // The key's dates are read with the daily check.
    config.verdict.master_key_check_interval = Duration::from_secs(1);
    let agent = Agent::start(config).await?;
    let status = until_state(&agent.client, NodeState::Running).await?;
    assert!(!warned(&status, "the customer key expires"), "{:?}", status.warnings);
    let expires_in = async |seconds: i64| -> Result<()> {
        let settings = KeySettings { expires: Some(now_s() + seconds), ..KeySettings::default() };
        world.vault.admin.change_key("k1", &settings).await?;
        Ok(())
    };
    for (days, words) in [(45, "60 days"), (20, "30 days"), (10, "14 days"), (3, "7 days"), (0, "1 day")] {
        expires_in(days * DAY_S + 3600).await?;
        let text = format!("the customer key expires in less than {words}: make a new version");
        until(&agent.client, &text, |s| warned(s, &text)).await?;
    }
    expires_in(-DAY_S).await?;
    let status = until(&agent.client, "expired", |s| warned(s, "the customer key has expired")).await?;
    assert_eq!((status.state, status.verdict), (NodeState::Running, Verdict::Valid));

    // A new version ends it.
    let second = world.vault.admin.rotate_key("k1").await?;
    let second = second.versions.last().context("a version")?.key_identifier.clone();
    agent.client.run(&rewrap_to(&second)?, |_| {}).await?;
    until(&agent.client, "no warning", |s| {
        !warned(s, "the customer key expires") && !warned(s, "the customer key has expired")
    })
    .await?;
    agent.stop_all().await
}

/// A node's keystore as an agent would have made it `age_days` ago.
async fn old_keystore(config: &Config, age_days: i64) -> Result<()> {
    let service = AzureKeyService::new(config.customer_key.azure.clone())?;
    let key = config.customer_key.key_identifier.as_ref().context("the file names one")?;
    let made = jiff::Timestamp::from_second(now_s() - age_days * DAY_S)?;
    let master = MasterKey::make()?;
    let canary = CanarySecret::make()?;
    let wrap = MasterKeyWrap {
        provider: Provider::AzureKeyVault,
        key_identifier: key.to_string(),
        public_key_sha256: service.describe(key).await?.public_key_sha256,
        algorithm: "RSA-OAEP-256".to_owned(),
        ciphertext: service.wrap(key, master.expose()).await?,
        created_at: made,
        canary: CanaryWrap { ciphertext: service.wrap(key, canary.expose()).await?, sha256: canary.sha256() },
    };
    let (unwrapped, _) = service.unwrap(key, &wrap.ciphertext).await?;
    let wrap = wrap.verified(&master, &unwrapped)?;
    let node_id = NodeId::make();
    let (made, _) = OpenKeystore::create(node_id, master, vec![wrap], 8, made)?;
    let memory = Memory::open(&config.state_dir, Arc::new(HostDisk))?;
    memory.set_claim(&Claim { node_id, seen_generation: 0 })?;
    HostDisk.create_dir(&config.keyward_dir())?;
    KeystoreFile::new(&config.keyward_dir(), Arc::new(HostDisk), memory).commit(None, made.sealed())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_key_of_90_days_is_warned_of_until_it_is_rotated() -> Result<()> {
    let world = World::new().await?;
    for (age_days, old) in [(89, false), (91, true)] {
        let name = format!("n{age_days}");
        let (_, config) = world.config(&name)?;
        old_keystore(&config, age_days).await?;
        let agent = Agent::start(config).await?;
        let status = until_state(&agent.client, NodeState::Running).await?;
        let text = format!("the master key is {age_days} days old: keyward node rotate-master-key");
        assert_eq!(warned(&status, &text), old, "{:?}", status.warnings);
        if old {
            agent.client.run(&Request::RotateMasterKey, |_| {}).await?;
            assert!(!warned(&agent.client.status().await?, "days old"));
        }
        agent.stop_all().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_secret_that_expires_is_warned_of_and_expired_is_an_outage_never_a_revocation() -> Result<()>
{
    let world = World::new().await?;
    let (_, mut config) = world.config("n")?;
    let secret_ends = |days: i64| {
        jiff::Timestamp::from_second(now_s() + days * DAY_S)
            .map(|at| at.to_zoned_datetime(jiff::tz::TimeZone::UTC).date())
    };
    // Midnight at the beginning of that day is up to a day earlier.
    for (days, words) in [
        (62, None),
        (60, Some("60 days")),
        (29, Some("30 days")),
        (13, Some("14 days")),
        (6, Some("7 days")),
        (1, Some("1 day")),
    ] {
        config.customer_key.client_secret_expires = Some(secret_ends(days)?);
        let agent = Agent::start(config.clone()).await?;
        let status = until_state(&agent.client, NodeState::Running).await?;
        match words {
            Some(words) => {
                let text = format!("the client secret expires in less than {words}: put a new one in");
                assert!(warned(&status, &text), "{days}: {:?}", status.warnings);
            }
            None => assert!(!warned(&status, "client secret"), "{:?}", status.warnings),
        }
        agent.end().await?;
    }

    // Each call of this agent fetches a token of its own.
    let mut settings = world.vault.admin.status().await?.settings;
    settings.token_lifetime_s = 100;
    world.vault.admin.set_settings(&settings).await?;
    let client_id = world.vault.running.as_ref().context("it runs")?.description().client_id.clone();
    let agent = Agent::start(config.clone()).await?;
    until(&agent.client, "valid", |s| s.master_key_held && s.verdict == Verdict::Valid).await?;
    insert(&database(world.port).await?, "shop", 0..10).await?;
    world.vault.admin.expire_secret(&client_id).await?;
    let status = until(&agent.client, "unavailable", |s| s.verdict == Verdict::Unavailable).await?;
    assert_eq!(status.evidence[0].class, Class::ClientSecretExpired);
    let said = |s: &NodeStatus| {
        s.warnings.iter().any(|w| {
            w.contains(Class::ClientSecretExpired.text()) && w.contains(Class::ClientSecretExpired.hint())
        })
    };
    assert!(said(&status), "{:?}", status.warnings);
    // For longer than every window, and over a restart of agent and engine.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let status = agent.client.status().await?;
    assert_eq!((status.state, status.verdict), (NodeState::Running, Verdict::Unavailable));
    assert_eq!(count(&database(world.port).await?, "shop").await?, 10);
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    let refused = crate::support::failure_of(agent.client.run(&Request::Start, |_| {}).await);
    assert_eq!(refused.exit, 4, "{refused:?}");
    let status = until_state(&agent.client, NodeState::WaitingForCustomerKey).await?;
    assert!(status.reason.contains(Class::ClientSecretExpired.text()), "{}", status.reason);
    assert_ne!(status.verdict, Verdict::Revoked);

    world.vault.admin.renew_secret(&client_id).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.stop_all().await
}
