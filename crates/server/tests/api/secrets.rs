//! No secret in any answer, event, log or file of the store.

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
};

use keyward_server::{api, auth::digest};
use serde_json::json;

use crate::site::{Answer, Database, Site, pair_of};

on_each_database! {
    from Site::start_with_vault;

    async fn no_secret_is_shown_twice_or_written_down(site: Site) {
        look_for_secrets(site).await;
    }
}

async fn look_for_secrets(site: Site) {
    let logs = logs();
    let owner = site.owner();
    let project = site.project("Secrets").await;
    let mut secrets = vec![
        ("the owner's private key", site.owner.private.clone()),
        ("the owner's HA1", digest::ha1(&site.owner.public, &site.owner.private).to_string()),
    ];

    let keys = format!("/api/atlas/v2/orgs/{}/apiKeys", site.org);
    let key = owner.post(&keys, json!({"desc": "k", "roles": ["ORG_OWNER"]})).await.expect(200);
    let pair = pair_of(&key.body);
    secrets.push(("a key's HA1", digest::ha1(&pair.public, &pair.private).to_string()));
    secrets.push(("a key's private key", pair.private.clone()));

    let accounts = format!("/api/atlas/v2/orgs/{}/serviceAccounts", site.org);
    let body =
        json!({"name": "sa", "description": "d", "roles": ["ORG_OWNER"], "secretExpiresAfterHours": 24});
    let account = owner.post(&accounts, body).await.expect(201);
    let client_id = account.body["clientId"].as_str().unwrap().to_owned();
    let secret = account.body["secrets"][0]["secret"].as_str().unwrap().to_owned();
    secrets.push(("a service account's secret", secret.clone()));
    let token = site.plain("POST", "/api/oauth/token").basic_auth(&client_id, Some(&secret));
    let token = Answer::of(token.form(&[("grant_type", "client_credentials")]).send().await.unwrap())
        .await
        .expect(200);
    let token = token.body["access_token"].as_str().unwrap().to_owned();
    secrets.push(("a token", token.clone()));

    // A customer key with a right and with a wrong client secret; both ways the answer names everything but it.
    let vault = site.vault.as_ref().unwrap().description().clone();
    secrets.push(("the vault's client secret", vault.client_secret.clone()));
    secrets.push(("a wrong client secret", "sesame-open-7f3a".to_owned()));
    let encryption = format!("/api/atlas/v2/groups/{project}/encryptionAtRest");
    let admin = keyward_vault::client::VaultAdmin::of(&vault).unwrap();
    admin.create_key("cmk", 2048).await.unwrap();
    let found = admin.keys().await.unwrap();
    let identifier = found.iter().find(|key| key.name == "cmk").unwrap().key_identifier().unwrap().to_owned();
    for (secret, status) in [("sesame-open-7f3a", 400), (&vault.client_secret, 200)] {
        let wanted = json!({
            "enabled": true, "azureEnvironment": "AZURE", "clientID": vault.client_id, "tenantID": vault.tenant_id,
            "subscriptionID": vault.subscription_id, "resourceGroupName": vault.resource_group,
            "keyVaultName": vault.vault_name, "keyIdentifier": identifier, "secret": secret,
        });
        let answer = owner.patch(&encryption, json!({ "azureKeyVault": wanted })).await.expect(status);
        for (what, secret) in &secrets {
            assert!(!answer.text.contains(secret), "{what} is in {}", answer.text);
        }
    }
    // Jobs copy what was configured to where they need it.
    site.server.app().nudge().jobs();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;

    // Secrets where none belong: they come back neither in the refusal nor in the log.
    for (method, path, body) in [
        ("GET", format!("/api/atlas/v2/groups/{}", pair.private), None),
        ("GET", format!("/api/atlas/v2/groups?pageNum=1&token={token}"), None),
        ("POST", keys.clone(), Some(json!({"desc": "k", "roles": "ORG_OWNER", "privateKey": secret}))),
        ("POST", keys.clone(), Some(json!({"desc": {"x": secret}, "roles": ["ORG_OWNER"]}))),
    ] {
        owner.send(method, &path, body).await;
    }
    site.plain("GET", "/api/atlas/v2/orgs").bearer_auth(&token[1..]).send().await.unwrap();
    site.plain("POST", "/api/oauth/token").basic_auth(&secret, Some(&secret)).send().await.unwrap();

    // Everything that can be read now, by every operation that reads.
    let mut read = 0;
    for operation in api::all().iter().filter(|operation| operation.method == "GET") {
        let path = operation
            .path
            .replace("{groupId}", &project)
            .replace("{orgId}", &site.org.to_string())
            .replace("{apiUserId}", key.body["id"].as_str().unwrap())
            .replace("{clientId}", &client_id)
            .replace("{cloudProvider}", "AZURE");
        if path.contains('{')
            || !path.starts_with("/api/")
            || operation.requires == keyward_model::role::Requirement::Nobody
        {
            continue;
        }
        let answer = owner.get(&path).await;
        for (what, secret) in &secrets {
            assert!(!answer.text.contains(secret), "{what} is in the answer of {}", operation.id);
        }
        read += u32::from(answer.status == 200);
    }
    assert!(read > 20, "{read}");

    let events = site.events_text().await;
    let logged = String::from_utf8(logs.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("answered") && logged.contains("createOrgApiKey"), "the log was captured");
    let stored = site.stored().await;
    for (what, secret) in &secrets {
        assert!(!events.contains(secret.as_str()), "{what} is in an event");
        assert!(!logged.contains(secret.as_str()), "{what} is in the log");
        let found = stored
            .iter()
            .find(|(_, bytes)| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        assert!(found.is_none(), "{what} is in {}", found.unwrap().0);
    }
    assert!(!format!("{:?}", site.server.app().store()).contains("key: ["));
}

/// What the process logs, from the most detailed level up.
fn logs() -> Arc<Mutex<Vec<u8>>> {
    static LOGS: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let logs = LOGS.get_or_init(|| {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let writer = Buffer(Arc::clone(&buffer));
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        buffer
    });
    Arc::clone(logs)
}

#[derive(Clone)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
