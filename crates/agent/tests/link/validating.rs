//! A customer key that only nodes can reach: the server has one of them try it out.

use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_vault::{fault::FaultKind, state::Settings};
use serde_json::{Value, json};

use crate::{
    server::{join, until_link, waiting_node},
    site::{Site, azure, azure_key_vault},
    support::{Agent, World},
};

const NOBODY_LISTENS: &str = "https://127.0.0.1:1/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tries_out_what_the_server_cannot_reach() -> Result<()> {
    let world = World::new().await?;
    let vault = world.vault.running.as_ref().context("the vault runs")?.description().clone();
    // What answers the server at the vault's address is not the vault: a network without a way to it.
    let other_authority = world.path("other.pem");
    let key = rcgen::KeyPair::generate()?;
    let other = rcgen::CertificateParams::new(vec!["elsewhere".to_owned()])?.self_signed(&key)?;
    std::fs::write(&other_authority, other.pem())?;
    let site = Site::start(&world.path("server"), |config| {
        let mut nowhere = azure(&vault);
        nowhere.ca_file = Some(other_authority);
        nowhere.authority = NOBODY_LISTENS.parse().expect("a URL");
        nowhere.arm_url = NOBODY_LISTENS.parse().expect("a URL");
        config.azure = Some(nowhere);
        config.customer_key.check_timeout = Duration::from_secs(2);
        config.customer_key.new_credential_wait = Duration::ZERO;
    })
    .await?;
    let project = site.project("private").await?;
    let path = format!("/api/atlas/v2/groups/{project}/encryptionAtRest");
    let wanted = |changes: Value| {
        let mut wanted = azure_key_vault(&vault, &world.key_identifier);
        wanted["requirePrivateNetworking"] = json!(true);
        for (name, value) in changes.as_object().into_iter().flatten() {
            wanted[name] = value.clone();
        }
        json!({ "azureKeyVault": wanted })
    };
    let refused = async |body: Value, status: u16, code: &str| -> Result<String> {
        let before = site.ask(200, "GET", &path, None).await?;
        let answer = site.ask(status, "PATCH", &path, Some(body)).await?;
        assert_eq!(answer["errorCode"], code, "{answer}");
        assert_eq!(site.ask(200, "GET", &path, None).await?, before, "nothing was stored");
        assert!(!answer.to_string().contains(&vault.client_secret));
        Ok(answer["detail"].as_str().context("a detail")?.to_owned())
    };

    // Nobody can try it: that is no refusal of the key's, and what to do is said.
    let detail = refused(wanted(json!({})), 503, "AZURE_KEY_VAULT_UNAVAILABLE").await?;
    assert!(detail.contains("join-token create"), "{detail}");

    let agent = Agent::start(waiting_node(&world, "n")?.1).await?;
    join(&agent.client, &site.token(&project).await?).await?;
    until_link(&agent.client, "heard of", |link| link.last_contact.is_some()).await?;

    // What the vault says to the node is what the caller hears.
    for (fault, status, code) in [
        (FaultKind::PrivateLink, 400, "AZURE_KEY_VAULT_NETWORK_ACCESS_DENIED"),
        (FaultKind::Error503, 503, "AZURE_KEY_VAULT_UNAVAILABLE"),
    ] {
        world.vault.admin.set_fault(fault, None).await?;
        let detail = refused(wanted(json!({})), status, code).await?;
        assert!(detail.contains("Seen from node n"), "{detail}");
        world.vault.admin.clear_faults().await?;
    }
    // So is the time that the vault asks it to wait.
    let settings = world.vault.admin.status().await?.settings;
    world.vault.admin.set_settings(&Settings { retry_after_s: 61, ..settings }).await?;
    world.vault.admin.set_fault(FaultKind::Throttle, None).await?;
    let (status, headers, answer) = site.exchange("PATCH", &path, Some(wanted(json!({})))).await?;
    assert_eq!((status, &answer["errorCode"]), (503, &json!("AZURE_KEY_VAULT_UNAVAILABLE")), "{answer}");
    assert_eq!(headers.get("retry-after").context("a time to wait")?, "61");
    world.vault.admin.clear_faults().await?;
    world.vault.admin.disable_key("k1").await?;
    let detail = refused(wanted(json!({})), 400, "AZURE_KEY_VAULT_KEY_NOT_ENABLED").await?;
    assert!(detail.contains("Seen from node n"), "{detail}");
    world.vault.admin.enable_key("k1").await?;

    // All is well from there, though there is still no way from here. A development vault's loopback counts as near.
    let stored = site.ask(200, "PATCH", &path, Some(wanted(json!({})))).await?;
    assert_eq!(stored["azureKeyVault"]["requirePrivateNetworking"], true, "{stored}");
    assert_eq!(stored["azureKeyVault"]["valid"], true, "{stored}");

    // The node is gone for a while, so it is not waited for.
    agent.end().await?;
    site.set_ahead_ms(10 * 60_000);
    let second = world.vault.key("k2").await?;
    let detail =
        refused(json!({ "azureKeyVault": { "keyIdentifier": second } }), 503, "AZURE_KEY_VAULT_UNAVAILABLE")
            .await?;
    assert!(detail.contains("start the agent"), "{detail}");
    site.stop().await;
    Ok(())
}
