//! A vault whose name does not exist: a mistake of who typed it just now, an outage of a vault that worked.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use keyward_kms::{About, Finding, Severity};
use keyward_model::{Class, encryption::AzureKeyVault, private_endpoint::Seen};
use keyward_server::customer_key::{Asked, CustomerKeys, EndpointPlace, Tried, VaultRotation};
use serde_json::{Value, json};

use crate::site::{Database, Site};

const ID: &str = "11111111-2222-3333-4444-555555555555";

/// An Azure that has one vault, `contoso`, while its name resolves.
struct OneVault {
    resolves: AtomicBool,
}

#[async_trait]
impl CustomerKeys for OneVault {
    async fn check(&self, asked: &Asked) -> Tried {
        let host = asked.vault.key().unwrap().vault_host().to_owned();
        if host == "contoso.vault.azure.net" && self.resolves.load(Ordering::SeqCst) {
            return Tried::Found(Vec::new());
        }
        Tried::Found(vec![Finding {
            severity: Severity::Refuse,
            about: About::NoSuchVault,
            class: Some(Class::NameNotResolved),
            text: format!("there is no host {host}"),
            hint: "is the name right?".to_owned(),
        }])
    }

    async fn public_key_sha256(&self, _asked: &Asked) -> Option<String> {
        None
    }

    async fn rotation(&self, _asked: &Asked) -> VaultRotation {
        VaultRotation::NotSeen
    }

    fn vaults_have_names(&self) -> bool {
        true
    }

    fn endpoint_place(&self, _asked: &AzureKeyVault, _region: &str, _name: &str) -> Option<EndpointPlace> {
        None
    }

    async fn look_at_endpoint(&self, _asked: &Asked, _resource_id: &str) -> Seen {
        Seen::Absent
    }

    async fn request_endpoint(&self, _asked: &Asked, _place: &EndpointPlace) -> Seen {
        Seen::Absent
    }

    async fn delete_endpoint(&self, _asked: &Asked, _resource_id: &str) -> Result<(), String> {
        Ok(())
    }

    async fn connection_name(&self, _asked: &Asked, _resource_id: &str) -> Option<String> {
        None
    }
}

fn vault(name: &str) -> Value {
    json!({"azureKeyVault": {
        "enabled": true, "azureEnvironment": "AZURE", "clientID": ID, "tenantID": ID, "subscriptionID": ID,
        "resourceGroupName": "rg", "keyVaultName": name, "secret": "s3cret",
        "keyIdentifier": format!("https://{name}.vault.azure.net/keys/cmk/0123456789abcdef0123456789abcdef"),
    }})
}

#[tokio::test]
async fn a_new_name_is_refused_and_one_that_worked_is_an_outage() {
    let azure = Arc::new(OneVault { resolves: AtomicBool::new(true) });
    let site = Site::start_asking(Database::Sqlite, false, Some(azure.clone()), |config| {
        config.customer_key.new_credential_wait = std::time::Duration::ZERO;
    })
    .await
    .unwrap();
    let project = site.project("P").await;
    let owner = site.project_key(&project, &["GROUP_OWNER"]).await;
    let (caller, path) = (site.caller(&owner), format!("/api/atlas/v2/groups/{project}/encryptionAtRest"));

    let events = site.events().await;
    let mistyped = caller.patch(&path, vault("contosso")).await.refused(400, "AZURE_KEY_VAULT_NOT_FOUND");
    assert_eq!((mistyped.header("retry-after"), &mistyped.body["parameters"]), ("", &json!(["contosso"])));
    assert!(mistyped.text.contains("is the name right?"), "{}", mistyped.text);
    assert_eq!(site.events().await, events, "nothing was stored");

    caller.patch(&path, vault("contoso")).await.expect(200);
    // To another vault: that name is new.
    caller.patch(&path, vault("contosso")).await.refused(400, "AZURE_KEY_VAULT_NOT_FOUND");
    // The one that worked has no name any more: deleted, or a resolver in trouble. Nobody can tell.
    azure.resolves.store(false, Ordering::SeqCst);
    let gone = caller.patch(&path, vault("contoso")).await.refused(503, "AZURE_KEY_VAULT_UNAVAILABLE");
    assert_eq!(gone.header("retry-after"), "30");
    let version = json!({"azureKeyVault": {
        "keyIdentifier": "https://CONTOSO.vault.azure.net/keys/cmk/fedcba9876543210fedcba9876543210",
    }});
    caller.patch(&path, version).await.refused(503, "AZURE_KEY_VAULT_UNAVAILABLE");
    assert_eq!(caller.get(&path).await.body["azureKeyVault"]["valid"], true, "rule 3");
}
