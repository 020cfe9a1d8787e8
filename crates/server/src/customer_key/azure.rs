//! [`CustomerKeys`] over Azure Key Vault and ARM.

use std::time::Duration;

use async_trait::async_trait;
use keyward_kms::{
    About, Finding, KeyService, Operation, Severity,
    azure::{
        AzureConfig, AzureKeyService, Cloud, ConfigError, ConnectionState, Credential, Endpoints,
        NewPrivateEndpoint, PrivateLink, SeenEndpoint, retry::RetryPolicy,
    },
};
use keyward_model::{
    Class, Weight,
    encryption::{AzureEnvironment, AzureKeyVault},
    private_endpoint::{Seen, azure_location},
};

use super::{Asked, CustomerKeys, EndpointPlace, Tried, VaultRotation};
use crate::{Config, config::CustomerKeyConfig};

/// One HTTP exchange takes at most this.
const LONGEST_CALL: Duration = Duration::from_secs(10);
/// What the vault's owner reads beside a request for a private endpoint.
const REQUEST_MESSAGE: &str = "keyward: encryption at rest with your key";

/// Asks Azure, or a development vault in the place of the public one.
pub(super) struct AzureKeys {
    development: Option<crate::config::AzureConfig>,
    settings: CustomerKeyConfig,
}

impl AzureKeys {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let keys = Self { development: config.azure.clone(), settings: config.customer_key.clone() };
        // What the server's own file says is found wrong at the start, not at the first PATCH.
        if let Some(identity) = &keys.settings.identity {
            let own = keys.config_of_identity(
                identity.client_id.clone().unwrap_or_default(),
                identity.tenant_id.clone(),
            );
            if let Some(problem) = own.and_then(|own| own.problems().into_iter().next()) {
                return Err(problem);
            }
        }
        Ok(keys)
    }

    fn cloud(&self, environment: AzureEnvironment) -> Cloud {
        match (environment, &self.development) {
            (AzureEnvironment::Azure, Some(places)) => Cloud::Custom(Endpoints {
                authority: places.authority.clone(),
                arm_url: places.arm_url.clone(),
                vault_hosts: vec![places.vault_host.clone()],
                vault_resource: places.vault_resource.clone(),
            }),
            (AzureEnvironment::Azure, None) => Cloud::Azure,
            (AzureEnvironment::AzureChina, _) => Cloud::AzureChina,
            (AzureEnvironment::AzureUsGovernment, _) => Cloud::AzureUsGovernment,
        }
    }

    /// How to ask as the project's application; `None` when it names a role and this server has no identity.
    fn config(&self, asked: &Asked) -> Option<AzureConfig> {
        let vault = &asked.vault;
        let credential = match (&asked.secret, vault.role_id) {
            (Some(secret), None) => Credential::ClientSecret(secret.clone().into()),
            (_, Some(_)) => self.settings.identity.as_ref()?.credential.clone(),
            (None, None) => return None,
        };
        Some(AzureConfig {
            tenant_id: vault.tenant_id.clone(),
            client_id: vault.client_id.clone(),
            credential,
            cloud: self.cloud(vault.azure_environment),
            ca_file: self.development.as_ref().and_then(|places| places.ca_file.clone()),
            subscription_id: Some(vault.subscription_id.clone()),
            resource_group: Some(vault.resource_group_name.clone()),
            call_timeout: LONGEST_CALL.min(self.settings.check_timeout),
            require_private_networking: vault.require_private_networking,
        })
    }

    fn config_of_identity(&self, client_id: String, tenant_id: String) -> Option<AzureConfig> {
        let identity = self.settings.identity.as_ref()?;
        Some(AzureConfig {
            tenant_id,
            client_id,
            credential: identity.credential.clone(),
            cloud: self.cloud(AzureEnvironment::Azure),
            ca_file: self.development.as_ref().and_then(|places| places.ca_file.clone()),
            subscription_id: None,
            resource_group: None,
            call_timeout: LONGEST_CALL,
            require_private_networking: false,
        })
    }

    /// ARM for our own side of private endpoints: as the server's identity, or as the project's application where
    /// the server has none.
    fn network(&self, asked: &Asked) -> Result<PrivateLink, String> {
        let own = self.settings.identity.as_ref().and_then(|identity| {
            let config = self.config_of_identity(
                identity.client_id.clone().unwrap_or_default(),
                identity.tenant_id.clone(),
            )?;
            Some(AzureConfig { cloud: self.cloud(asked.vault.azure_environment), ..config })
        });
        let config = own.or_else(|| self.config(asked)).ok_or_else(no_identity)?;
        PrivateLink::new(&config).map_err(|error| error.to_string())
    }

    fn service(&self, asked: &Asked) -> Result<AzureKeyService, Tried> {
        let Some(config) = self.config(asked) else {
            return Err(Tried::NotFromHere { why: no_identity() });
        };
        let service = AzureKeyService::new(config).map_err(|error| {
            let hint = error.hint().to_owned();
            Tried::Found(vec![finding(Class::Misconfigured, error.to_string(), hint)])
        })?;
        // Someone waits for the answer.
        Ok(service.with_retries(RetryPolicy {
            attempts: 3,
            budget: self.settings.check_timeout / 2,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(4),
        }))
    }
}

#[async_trait]
impl CustomerKeys for AzureKeys {
    async fn check(&self, asked: &Asked) -> Tried {
        let service = match self.service(asked) {
            Ok(service) => service,
            Err(tried) => return tried,
        };
        let key = match asked.vault.key() {
            Ok(key) => key,
            Err(error) => {
                let hint = "copy the key identifier from the vault".to_owned();
                return Tried::Found(vec![finding(Class::Misconfigured, error.to_string(), hint)]);
            }
        };
        let limit = self.settings.check_timeout;
        match tokio::time::timeout(limit, service.check(&key)).await {
            Ok(findings) => Tried::Found(findings),
            Err(_) => {
                let text = format!("trying out {key} took longer than {} s", limit.as_secs());
                Tried::Found(vec![finding(Class::TimedOut, text, Class::TimedOut.hint().to_owned())])
            }
        }
    }

    async fn public_key_sha256(&self, asked: &Asked) -> Option<String> {
        let service = self.service(asked).ok()?;
        let key = asked.vault.key().ok()?;
        let described =
            tokio::time::timeout(self.settings.check_timeout, service.describe(&key)).await.ok()?;
        described.ok().map(|described| described.public_key_sha256).filter(|sha256| !sha256.is_empty())
    }

    async fn rotation(&self, asked: &Asked) -> VaultRotation {
        let (Ok(service), Ok(key)) = (self.service(asked), asked.vault.key()) else {
            return VaultRotation::NotSeen;
        };
        let read = tokio::time::timeout(self.settings.check_timeout, service.rotates_after_days(&key)).await;
        match read {
            Ok(Ok(days)) => VaultRotation::Seen(days),
            // Nothing needs this permission: its absence is no trouble.
            Ok(Err(error)) => match error.class.weight() {
                Weight::Denial => VaultRotation::Seen(None),
                Weight::Success | Weight::Strong | Weight::Neutral => VaultRotation::NotSeen,
            },
            Err(_) => VaultRotation::NotSeen,
        }
    }

    fn vaults_have_names(&self) -> bool {
        self.development.is_none()
    }

    fn endpoint_place(&self, asked: &AzureKeyVault, region_name: &str, name: &str) -> Option<EndpointPlace> {
        let location = azure_location(region_name)?.to_owned();
        let (group, subnet_id) = match (&self.settings.private_endpoints, &self.development) {
            (Some(places), _) => (places.resource_group_id.clone(), places.subnets.get(region_name)?.clone()),
            // A development vault has no networks around it: any will do.
            (None, Some(_)) => {
                let group =
                    format!("/subscriptions/{}/resourceGroups/keyward-endpoints", asked.subscription_id);
                let subnet = format!(
                    "{group}/providers/Microsoft.Network/virtualNetworks/development/subnets/{location}"
                );
                (group, subnet)
            }
            (None, None) => return None,
        };
        let resource_id = format!("{group}/providers/Microsoft.Network/privateEndpoints/{name}");
        Some(EndpointPlace { resource_id, location, subnet_id })
    }

    async fn look_at_endpoint(&self, asked: &Asked, resource_id: &str) -> Seen {
        match self.network(asked) {
            Ok(network) => seen(network.look(resource_id).await),
            Err(why) => Seen::Unseen { why },
        }
    }

    async fn request_endpoint(&self, asked: &Asked, place: &EndpointPlace) -> Seen {
        let new = NewPrivateEndpoint {
            id: place.resource_id.clone(),
            location: place.location.clone(),
            subnet_id: place.subnet_id.clone(),
            vault_id: asked.vault.vault_id(),
            message: REQUEST_MESSAGE.to_owned(),
        };
        match self.network(asked) {
            Ok(network) => seen(network.request(&new).await),
            Err(why) => Seen::Unseen { why },
        }
    }

    async fn delete_endpoint(&self, asked: &Asked, resource_id: &str) -> Result<(), String> {
        self.network(asked)?.delete(resource_id).await.map_err(|error| format!("{error}."))
    }

    async fn connection_name(&self, asked: &Asked, resource_id: &str) -> Option<String> {
        let as_project = PrivateLink::new(&self.config(asked)?).ok()?;
        as_project.connection_name(&asked.vault.vault_id(), resource_id).await.ok().flatten()
    }
}

fn seen(found: Result<SeenEndpoint, keyward_kms::azure::ArmError>) -> Seen {
    match found {
        Ok(SeenEndpoint::Absent) => Seen::Absent,
        Ok(SeenEndpoint::Provisioning) => Seen::Provisioning,
        Ok(SeenEndpoint::ProvisioningFailed) => Seen::ProvisioningFailed,
        Ok(SeenEndpoint::Connection { state, description }) => match state {
            ConnectionState::Pending => Seen::Pending,
            ConnectionState::Approved => Seen::Approved,
            ConnectionState::Rejected => Seen::Rejected { said: description },
            ConnectionState::Disconnected => Seen::Disconnected,
        },
        Err(error) => Seen::Unseen { why: format!("{error}.") },
    }
}

fn no_identity() -> String {
    "the project names a role in place of a client secret, and this server has no Azure identity of its own \
     (section [azure_identity] of its file)"
        .to_owned()
}

fn finding(class: Class, text: String, hint: String) -> Finding {
    let about = About::Answer { operation: Operation::Describe, inner_code: None, retry_after_s: None };
    Finding { severity: Severity::Refuse, about, class: Some(class), text, hint }
}
