//! Private endpoints and private networking, and a client secret held in memory, against the development vault.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod vault_config;

use keyward_kms::{
    KeyService,
    azure::{
        AzureConfig, AzureKeyService, Cloud, ConnectionState, Credential, Endpoints, NewPrivateEndpoint,
        PrivateLink, SeenEndpoint,
    },
};
use keyward_model::{Class, KeyIdentifier};
use keyward_vault::{
    FirstStart, RunningVault, ServeOptions, admin::VaultChange, client::VaultAdmin, serve_with,
    state::NetworkRules,
};
use secrecy::SecretString;
use tempfile::TempDir;

struct Vault {
    running: RunningVault,
    admin: VaultAdmin,
    key: KeyIdentifier,
    _folder: TempDir,
}

impl Vault {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            ServeOptions { dir: folder.path().join("vault"), listen: "127.0.0.1:0".parse().unwrap() };
        let running = serve_with(options, FirstStart::default()).await.unwrap();
        let admin = VaultAdmin::of(running.description()).unwrap();
        let made = admin.create_key("k1", 2048).await.unwrap();
        let key = made.key_identifier().unwrap().parse().unwrap();
        Self { running, admin, key, _folder: folder }
    }

    fn config(&self, secret: &str) -> AzureConfig {
        let credential = Credential::ClientSecret(SecretString::from(secret).into());
        vault_config::of(self.running.description(), &self.key, credential)
    }

    fn own_config(&self) -> AzureConfig {
        self.config(&self.running.description().client_secret)
    }

    fn endpoint(&self, name: &str) -> NewPrivateEndpoint {
        let described = self.running.description();
        let group = format!("/subscriptions/{}/resourceGroups/ours", described.subscription_id);
        NewPrivateEndpoint {
            id: format!("{group}/providers/Microsoft.Network/privateEndpoints/{name}"),
            location: "northeurope".into(),
            subnet_id: format!("{group}/providers/Microsoft.Network/virtualNetworks/v/subnets/s"),
            vault_id: format!(
                "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.KeyVault/vaults/{}",
                described.subscription_id, described.resource_group, described.vault_name
            ),
            message: "from a test".into(),
        }
    }
}

fn is(state: ConnectionState) -> impl Fn(&SeenEndpoint) -> bool {
    move |seen| matches!(seen, SeenEndpoint::Connection { state: found, .. } if *found == state)
}

#[tokio::test]
async fn a_client_secret_from_memory_is_taken_and_a_wrong_one_refused() {
    let vault = Vault::start().await;
    let right = AzureKeyService::new(vault.own_config()).unwrap();
    assert!(right.describe(&vault.key).await.is_ok());
    let wrong = AzureKeyService::new(vault.config("not-the-secret")).unwrap();
    let refused = wrong.describe(&vault.key).await.unwrap_err();
    assert_eq!(refused.class, Class::CredentialRejected);
    assert!(!format!("{wrong:?}{refused:?}{refused}").contains("not-the-secret"));
    vault.running.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_is_asked_for_approved_and_deleted() {
    let vault = Vault::start().await;
    let closed = NetworkRules { public_access: false, ..NetworkRules::default() };
    let change = VaultChange { network: Some(closed), ..VaultChange::default() };
    vault.admin.change_vault(&change).await.unwrap();
    let service = AzureKeyService::new(vault.own_config()).unwrap();
    assert_eq!(service.describe(&vault.key).await.unwrap_err().class, Class::DeniedByPrivateLink);

    let link = PrivateLink::new(&vault.own_config()).unwrap();
    let asked = vault.endpoint("kw-1");
    assert_eq!(link.look(&asked.id).await.unwrap(), SeenEndpoint::Absent);
    let requested = link.request(&asked).await.unwrap();
    assert!(is(ConnectionState::Pending)(&requested), "{requested:?}");
    // Asking again changes nothing.
    assert_eq!(link.request(&asked).await.unwrap(), requested);
    assert_eq!(vault.admin.private_endpoints().await.unwrap().len(), 1);

    // The vault's name for it is read by who may read the vault.
    let unseen = link.connection_name(&asked.vault_id, &asked.id).await.unwrap_err();
    assert_eq!(unseen.class, Class::DeniedByRbac);
    let client_id = vault.running.description().client_id.clone();
    vault.admin.grant(&client_id, None, &["vaults/read".into()]).await.unwrap();
    let name = link.connection_name(&asked.vault_id, &asked.id).await.unwrap().unwrap();
    assert_eq!(link.connection_name(&asked.vault_id, &vault.endpoint("kw-2").id).await.unwrap(), None);

    vault.admin.approve_private_endpoint(&name).await.unwrap();
    assert!(is(ConnectionState::Approved)(&link.look(&asked.id).await.unwrap()));
    assert!(service.describe(&vault.key).await.is_ok(), "traffic is let in now");

    link.delete(&asked.id).await.unwrap();
    assert_eq!(link.look(&asked.id).await.unwrap(), SeenEndpoint::Absent);
    link.delete(&asked.id).await.unwrap();
    assert_eq!(service.describe(&vault.key).await.unwrap_err().class, Class::DeniedByPrivateLink);
    vault.running.shutdown().await;
}

#[tokio::test]
async fn a_rejected_and_a_removed_connection_are_told_apart() {
    let vault = Vault::start().await;
    let link = PrivateLink::new(&vault.own_config()).unwrap();
    for (name, state) in [("kw-1", ConnectionState::Rejected), ("kw-2", ConnectionState::Disconnected)] {
        let asked = vault.endpoint(name);
        link.request(&asked).await.unwrap();
        if state == ConnectionState::Rejected {
            vault.admin.reject_private_endpoint(name).await.unwrap();
        } else {
            vault.admin.disconnect_private_endpoint(name).await.unwrap();
        }
        let seen = link.look(&asked.id).await.unwrap();
        assert!(is(state)(&seen), "{seen:?}");
    }
    // To another vault there is none, and a deleted vault has none.
    let elsewhere = NewPrivateEndpoint {
        vault_id: vault
            .endpoint("x")
            .vault_id
            .replace("Microsoft.KeyVault/vaults/", "Microsoft.KeyVault/vaults/no"),
        ..vault.endpoint("kw-3")
    };
    assert_eq!(link.request(&elsewhere).await.unwrap_err().facts.http_status, Some(404));
    vault.running.shutdown().await;
}

/// Nothing is sent to a public address, literal or by name; the development vault's loopback counts as private.
#[tokio::test]
async fn private_networking_keeps_to_private_addresses() {
    let vault = Vault::start().await;
    let private = AzureConfig { require_private_networking: true, ..vault.own_config() };
    assert!(AzureKeyService::new(private.clone()).unwrap().describe(&vault.key).await.is_ok());

    // Addresses of documentation (RFC 5737, RFC 3849): nobody answers there, and nobody is asked.
    for host in ["192.0.2.1:443", "203.0.113.7:443", "[2001:db8::1]:443"] {
        let key: KeyIdentifier = format!("https://{host}/keys/k1/{}", vault.key.version()).parse().unwrap();
        let host = key.vault_host().to_owned();
        let Cloud::Custom(endpoints) = private.cloud.clone() else { unreachable!() };
        let cloud = Cloud::Custom(Endpoints { vault_hosts: vec![host.clone()], ..endpoints });
        let service = AzureKeyService::new(AzureConfig { cloud, ..private.clone() }).unwrap();
        let refused = service.describe(&key).await.unwrap_err();
        assert_eq!(refused.class, Class::DeniedByPrivateLink, "{refused}");
        let message = refused.facts.message.clone().unwrap();
        assert!(message.contains("private networking is required"), "{message}");
    }

    vault.running.shutdown().await;
}
