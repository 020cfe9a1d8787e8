//! A customer: a project with an owner, and a vault with a key.

use keyward_vault::client::VaultAdmin;
use serde_json::{Value, json};

use crate::site::{Answer, Caller, Pair, Site};

/// A project with an owner of its own, and the vault's administrator.
pub(super) struct Customer<'s> {
    pub(super) site: &'s Site,
    pub(super) vault: VaultAdmin,
    pub(super) project: String,
    pub(super) owner: Pair,
}

impl<'s> Customer<'s> {
    /// With the key `cmk` in the vault.
    pub(super) async fn new(site: &'s Site) -> Self {
        let vault = VaultAdmin::of(site.vault.as_ref().unwrap().description()).unwrap();
        vault.create_key("cmk", 2048).await.unwrap();
        let project = site.project("with a key").await;
        let owner = site.project_key(&project, &["GROUP_OWNER"]).await;
        Self { site, vault, project, owner }
    }

    /// The same, its key configured.
    pub(super) async fn configured(site: &'s Site) -> Self {
        let customer = Self::new(site).await;
        customer.patch(json!({"azureKeyVault": customer.whole().await})).await.expect(200);
        customer
    }

    pub(super) fn caller(&self) -> Caller<'s> {
        self.site.caller(&self.owner)
    }

    pub(super) fn path(&self) -> String {
        format!("/api/atlas/v2/groups/{}/encryptionAtRest", self.project)
    }

    /// The newest version of a key of the vault.
    pub(super) async fn key(&self, name: &str) -> String {
        let keys = self.vault.keys().await.unwrap();
        let key = keys.iter().find(|key| key.name == name).unwrap();
        key.key_identifier().unwrap().to_owned()
    }

    /// All fields of `azureKeyVault`, for the key `cmk`.
    pub(super) async fn whole(&self) -> Value {
        let vault = self.site.vault.as_ref().unwrap().description();
        json!({
            "enabled": true,
            "azureEnvironment": "AZURE",
            "clientID": vault.client_id,
            "tenantID": vault.tenant_id,
            "subscriptionID": vault.subscription_id,
            "resourceGroupName": vault.resource_group,
            "keyVaultName": vault.vault_name,
            "keyIdentifier": self.key("cmk").await,
            "secret": vault.client_secret,
        })
    }

    /// The same with some fields changed.
    pub(super) async fn whole_with(&self, changes: Value) -> Value {
        let mut whole = self.whole().await;
        for (name, value) in changes.as_object().unwrap() {
            whole[name] = value.clone();
        }
        json!({ "azureKeyVault": whole })
    }

    pub(super) fn client_id(&self) -> &str {
        &self.site.vault.as_ref().unwrap().description().client_id
    }

    pub(super) fn secret(&self) -> &str {
        &self.site.vault.as_ref().unwrap().description().client_secret
    }

    pub(super) async fn get(&self) -> Value {
        self.caller().get(&self.path()).await.expect(200).body
    }

    pub(super) async fn patch(&self, body: Value) -> Answer {
        self.caller().patch(&self.path(), body).await
    }

    /// Sends a PATCH that must be refused; nothing may change by it.
    #[track_caller]
    pub(super) fn refused<'a>(
        &'a self,
        body: Value,
        status: u16,
        code: &'a str,
    ) -> impl Future<Output = Answer> + 'a {
        let at = std::panic::Location::caller();
        async move {
            let (before, events) = (self.get().await, self.site.events().await);
            let answer = self.patch(body).await;
            assert_eq!((answer.status, answer.code()), (status, code), "{at}: {}", answer.text);
            assert_eq!(self.get().await, before, "{at}: a refused change was stored");
            assert_eq!(self.site.events().await, events, "{at}: a refused change has an event");
            assert!(!answer.text.contains(self.secret()), "{at}: the secret was repeated");
            answer.refused(status, code)
        }
    }
}

/// Waits until `check` gives a value; jobs run meanwhile.
pub(super) async fn eventually<T>(site: &Site, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(value) = check().await {
            return value;
        }
        site.server.app().nudge().jobs();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

impl Site {
    /// What is stored of a project's encryption.
    pub(super) async fn encryption(&self, project: &str) -> keyward_model::encryption::EncryptionAtRest {
        let mut tx = self.server.app().store().read().await.unwrap();
        tx.get(project).await.unwrap().unwrap().document
    }

    /// The types of a project's events, newest first.
    pub(super) async fn event_types(&self, project: &str) -> Vec<String> {
        let filter = keyward_store::EventFilter {
            project: Some(project.parse().unwrap()),
            ..keyward_store::EventFilter::default()
        };
        let mut tx = self.server.app().store().read().await.unwrap();
        let (events, _) = tx.events(&filter, 0, 1000).await.unwrap();
        events.iter().map(|event| event.event_type.as_str().to_owned()).collect()
    }
}
