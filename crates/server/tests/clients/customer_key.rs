//! A customer key in the site's development vault, and what a request says to use it.

use keyward_vault::{VaultDescription, client::VaultAdmin};
use serde_json::{Value, json};

use crate::site::Site;

/// A key, with the application allowed to use it.
pub(crate) struct CustomerKey {
    /// Whoever may do anything with the vault.
    pub(crate) admin: VaultAdmin,
    /// The vault.
    pub(crate) vault: VaultDescription,
    /// The key identifier of its first version.
    pub(crate) identifier: String,
    name: String,
}

impl CustomerKey {
    /// Makes one. The site must have a vault.
    pub(crate) async fn make(site: &Site, name: &str) -> Self {
        let vault = site.vault.as_ref().unwrap().description().clone();
        let admin = VaultAdmin::of(&vault).unwrap();
        admin.grant(&vault.client_id, None, &["all".to_owned()]).await.unwrap();
        let made = admin.create_key(name, 2048).await.unwrap();
        let identifier = made.versions.last().unwrap().key_identifier.clone();
        Self { admin, vault, identifier, name: name.to_owned() }
    }

    /// `azureKeyVault` of the request that first configures it.
    pub(crate) fn body(&self) -> Value {
        json!({
            "enabled": true,
            "azureEnvironment": "AZURE",
            "clientID": self.vault.client_id,
            "tenantID": self.vault.tenant_id,
            "subscriptionID": self.vault.subscription_id,
            "resourceGroupName": self.vault.resource_group,
            "keyVaultName": self.vault.vault_name,
            "keyIdentifier": self.identifier,
            "secret": self.vault.client_secret,
        })
    }

    /// The key identifier of a new version of it.
    pub(crate) async fn next_version(&self) -> String {
        let before: Vec<String> = self.identifiers(self.admin.keys().await.unwrap());
        let view = self.admin.rotate_key(&self.name).await.unwrap();
        let after = self.identifiers(vec![view]);
        after.into_iter().find(|identifier| !before.contains(identifier)).unwrap()
    }

    fn identifiers(&self, keys: Vec<keyward_vault::admin::KeyView>) -> Vec<String> {
        let own = keys.into_iter().filter(|key| key.name == self.name);
        own.flat_map(|key| key.versions).map(|version| version.key_identifier).collect()
    }
}
