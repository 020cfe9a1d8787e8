//! The customer key's own key pair, moved to another vault by backup and restore: the way out of a double outage.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use keyward_agent::admin::Request;
use keyward_model::NodeState;
use keyward_vault::{FirstStart, ServeOptions, VaultDescription, client::VaultAdmin, serve_with};
use serde_json::{Value, json};

use crate::{
    server::{Server, desired, encryption, join, node_file, until_done, until_link},
    site::client,
    support::{Agent, World, count, database, insert, until_state},
};

/// A caller of a vault's own API, with every right.
struct Azure {
    http: reqwest::Client,
    vault: VaultDescription,
}

impl Azure {
    async fn new(vault: &VaultDescription) -> Result<Self> {
        VaultAdmin::of(vault)?.grant(&vault.client_id, None, &["all".to_owned()]).await?;
        let http = client(&fs::read(&vault.ca_file)?)?;
        Ok(Self { http, vault: vault.clone() })
    }

    /// `token_from` serves the tenant's tokens.
    async fn post(&self, token_from: &Azure, path: &str, body: &Value) -> Result<Value> {
        let from = &token_from.vault;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &from.client_id),
            ("client_secret", &from.client_secret),
            ("scope", "https://vault.azure.net/.default"),
        ];
        let url = format!("{}/{}/oauth2/v2.0/token", from.authority.trim_end_matches('/'), from.tenant_id);
        let token: Value = token_from.http.post(url).form(&form).send().await?.json().await?;
        let token = token["access_token"].as_str().context("a token")?;
        let url = format!("{}{path}?api-version=7.4", self.vault.url);
        let answer = self.http.post(url).bearer_auth(token).json(body).send().await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(status.is_success(), "{status} {answer}");
        Ok(answer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_starts_from_the_same_key_pair_in_another_vault() -> Result<()> {
    let world = World::new().await?;
    let server = Server::start(&world.path("server")).await?;
    let first = world.vault.running.as_ref().context("it runs")?.description().clone();
    let start = FirstStart {
        subscription_id: Some(first.subscription_id.clone()),
        tenant_of: Some(world.vault.dir.clone()),
        ..FirstStart::default()
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sister = serve_with(ServeOptions { dir: world.path("sister"), listen }, start).await?;

    // The node's file knows both vaults of the tenant.
    let ca_file = world.path("both.pem");
    let authorities = [fs::read(&first.ca_file)?, fs::read(&sister.description().ca_file)?].concat();
    fs::write(&ca_file, authorities)?;
    let hosts: Vec<&str> =
        [&first.url, &sister.description().url].map(|url| url.trim_start_matches("https://")).to_vec();
    let text = world
        .config_text("n", world.port)?
        .replace(&first.ca_file.display().to_string(), &ca_file.display().to_string())
        .replace("cloud = \"CUSTOM\"", &format!("cloud = \"CUSTOM\"\nvault_hosts = {hosts:?}"));
    let (_, config) = node_file(&world, "n", &text)?;
    let agent = Agent::start(config.clone()).await?;
    until_state(&agent.client, NodeState::Running).await?;
    insert(&database(world.port).await?, "shop", 0..30).await?;
    let node = join(&agent.client, &server.token().await?).await?;
    let revision = server.desire(node, &desired(Some(encryption(&world, &world.key_identifier)?))).await?;
    until_done(&agent.client, revision).await?;

    // The key is copied; then it is taken away where it was, and the node stops.
    let (here, there) = (Azure::new(&first).await?, Azure::new(sister.description()).await?);
    let backup = here.post(&here, "/keys/k1/backup", &Value::Null).await?;
    let restored = there.post(&here, "/keys/restore", &json!({ "value": backup["value"] })).await?;
    let moved = restored["key"]["kid"].as_str().context("a key identifier")?.to_owned();
    let another = VaultAdmin::of(sister.description())?.create_key("k2", 2048).await?;
    let another = another.versions.last().context("a version")?.key_identifier.clone();
    world.vault.admin.disable_key("k1").await?;
    until_state(&agent.client, NodeState::StoppedRevoked).await?;

    // Another key pair cannot open the keystore: it is said which key must answer first.
    server.desire(node, &desired(Some(encryption(&world, &another)?))).await?;
    let status = until_link(&agent.client, "not done", |link| {
        link.held_back.iter().any(|held| !held.needs_approval && held.what.contains(&another))
    })
    .await?;
    assert_eq!(status.state, NodeState::StoppedRevoked);
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), world.key_identifier);

    // The same key pair under its new name opens it: the node starts and moves there.
    let revision = server.desire(node, &desired(Some(encryption(&world, &moved)?))).await?;
    let status = until_done(&agent.client, revision).await?;
    assert_eq!(status.customer_key.unwrap().key_identifier.to_string(), moved);
    until_state(&agent.client, NodeState::Running).await?;
    assert_eq!(count(&database(world.port).await?, "shop").await?, 30);

    // For good: the first key stays disabled, and everything is started anew.
    agent.stop_all().await?;
    let agent = Agent::start(config).await?;
    agent.client.run(&Request::Start, |_| {}).await?;
    until_state(&agent.client, NodeState::Running).await?;
    agent.stop_all().await?;
    sister.shutdown().await;
    Ok(())
}
