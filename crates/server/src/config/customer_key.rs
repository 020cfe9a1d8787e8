//! How the server itself asks vaults, and where it makes private endpoints.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use keyward_kms::azure::Credential;
use keyward_model::private_endpoint::azure_location;
use toml::de::DeValue;

use super::{Entries, Reader, entries, take};

/// How the server asks vaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerKeyConfig {
    /// The server's own identity in Azure; `None`: it has none.
    pub identity: Option<ServerIdentity>,
    /// Where private endpoints are made; `None`: nowhere, except to a development vault.
    pub private_endpoints: Option<PrivateEndpointPlaces>,
    /// The longest that a check of a customer key may take.
    pub check_timeout: Duration,
    /// How long a refusal is tried again for when the credential is new: Azure's parts learn of it one after another.
    pub new_credential_wait: Duration,
}

impl Default for CustomerKeyConfig {
    fn default() -> Self {
        Self {
            identity: None,
            private_endpoints: None,
            check_timeout: Duration::from_secs(25),
            new_credential_wait: Duration::from_secs(15),
        }
    }
}

/// An identity of the server in Azure, used for projects that name a role in place of a client secret, and to make
/// private endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Its tenant.
    pub tenant_id: String,
    /// Its application (client) id; a managed identity needs none.
    pub client_id: Option<String>,
    /// How it proves itself.
    pub credential: Credential,
}

/// Where private endpoints are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateEndpointPlaces {
    /// ARM id of the resource group they are made in: `/subscriptions/…/resourceGroups/…`.
    pub resource_group_id: String,
    /// ARM ids of the subnets they get their addresses from, by region in Atlas' words.
    pub subnets: BTreeMap<String, String>,
}

impl<'i> Reader<'i> {
    pub(super) fn customer_key(&mut self, top: &mut Entries<'i>) -> CustomerKeyConfig {
        let usual = CustomerKeyConfig::default();
        let (mut check_timeout, mut new_credential_wait) = (usual.check_timeout, usual.new_credential_wait);
        if let Some(mut section) = self.section(top, "customer_key") {
            check_timeout = self.seconds(&mut section, "check_timeout_s", 1..=120, check_timeout);
            new_credential_wait =
                self.seconds(&mut section, "new_credential_wait_s", 0..=300, new_credential_wait);
            self.no_more(section, "[customer_key]");
        }
        CustomerKeyConfig {
            identity: self.identity(top),
            private_endpoints: self.private_endpoints(top),
            check_timeout,
            new_credential_wait,
        }
    }

    fn identity(&mut self, top: &mut Entries<'i>) -> Option<ServerIdentity> {
        let span = top.iter().find(|(name, _, _)| name == "azure_identity")?.1.clone();
        let mut section = self.section(top, "azure_identity")?;
        let tenant_id = self.needed(&mut section, &span, "tenant_id");
        let client_id = self.text(&mut section, "client_id").map(|(text, _)| text);
        let secret = self.path(&mut section, "client_secret_file").map(Credential::ClientSecretFile);
        let certificate =
            self.path(&mut section, "certificate_file").map(|path: PathBuf| Credential::Certificate { path });
        let federated = self
            .path(&mut section, "federated_token_file")
            .map(|token_file: PathBuf| Credential::Federated { token_file });
        let managed = take(&mut section, "managed_identity").and_then(|(span, value)| {
            match value.get_ref().as_bool() {
                Some(true) => {
                    Some(Credential::ManagedIdentity { client_id: client_id.clone(), endpoint: None })
                }
                Some(false) => None,
                None => {
                    let text = "`managed_identity` is neither true nor false".to_owned();
                    self.problem(span, text, "write true or false without quotes");
                    None
                }
            }
        });
        self.no_more(section, "[azure_identity]");
        let mut given: Vec<Credential> =
            [secret, certificate, federated, managed].into_iter().flatten().collect();
        let credential = given.pop();
        if credential.is_none() || !given.is_empty() {
            let text = "[azure_identity] must name exactly one credential".to_owned();
            let hint =
                "give one of managed_identity, federated_token_file, certificate_file and client_secret_file";
            self.problem(span, text, hint);
            return None;
        }
        Some(ServerIdentity { tenant_id: tenant_id?, client_id, credential: credential? })
    }

    fn private_endpoints(&mut self, top: &mut Entries<'i>) -> Option<PrivateEndpointPlaces> {
        let span = top.iter().find(|(name, _, _)| name == "private_endpoints")?.1.clone();
        let mut section = self.section(top, "private_endpoints")?;
        let resource_group_id = self.needed(&mut section, &span, "resource_group_id");
        if let Some(id) = resource_group_id.as_deref().filter(|id| !is_resource_group(id)) {
            let text = format!("`resource_group_id` = \"{id}\" is no id of a resource group");
            self.problem(span, text, "write /subscriptions/ID/resourceGroups/NAME");
        }
        let mut subnets = BTreeMap::new();
        let mut named = self.section(&mut section, "subnets").unwrap_or_default();
        let regions: Vec<String> = named.iter().map(|(region, _, _)| region.clone()).collect();
        for region in regions {
            let Some((id, span)) = self.text(&mut named, &region) else { continue };
            if azure_location(&region).is_none() {
                let text = format!("`{region}` is no region of Azure");
                self.problem(span.clone(), text, "write it as in the API, such as US_EAST_2");
            }
            if !(id.starts_with("/subscriptions/") && id.contains("/subnets/")) {
                let text = format!("\"{id}\" is no id of a subnet");
                self.problem(span, text, "write /subscriptions/…/virtualNetworks/NAME/subnets/NAME");
            }
            subnets.insert(region, id);
        }
        self.no_more(section, "[private_endpoints]");
        Some(PrivateEndpointPlaces { resource_group_id: resource_group_id?, subnets })
    }

    fn section(&mut self, table: &mut Entries<'i>, key: &str) -> Option<Entries<'i>> {
        let (span, value) = take(table, key)?;
        match value.into_inner() {
            DeValue::Table(table) => Some(entries(table)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                let hint = "write its name in brackets on a line of its own";
                self.problem(span, format!("`{key}` is no section"), hint);
                None
            }
        }
    }

    fn seconds(
        &mut self,
        table: &mut Entries<'i>,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        usual: Duration,
    ) -> Duration {
        let Some((span, value)) = take(table, key) else { return usual };
        let number = value.get_ref().as_integer().and_then(|number| number.as_str().parse::<u64>().ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Duration::from_secs(number),
            None => {
                let hint = format!("write a whole number from {} to {}", range.start(), range.end());
                self.problem(span, format!("`{key}` is out of its range"), &hint);
                usual
            }
        }
    }
}

fn is_resource_group(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    matches!(parts.as_slice(), ["", "subscriptions", subscription, "resourceGroups", group]
        if !subscription.is_empty() && !group.is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<CustomerKeyConfig, String> {
        let text = format!("data_dir = \"/x\"\n{text}");
        match Config::parse(&text, Path::new("server.toml")) {
            Ok(config) => Ok(config.customer_key),
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[test]
    fn nothing_is_needed() {
        assert_eq!(parse(""), Ok(CustomerKeyConfig::default()));
    }

    #[test]
    fn identity_and_places_are_read() {
        let read = parse(
            "[customer_key]\ncheck_timeout_s = 5\nnew_credential_wait_s = 0\n\
             [azure_identity]\ntenant_id = \"t\"\nclient_id = \"c\"\nfederated_token_file = \"/token\"\n\
             [private_endpoints]\nresource_group_id = \"/subscriptions/s/resourceGroups/g\"\n\
             [private_endpoints.subnets]\nUS_EAST_2 = \"/subscriptions/s/x/virtualNetworks/v/subnets/a\"\n",
        )
        .unwrap();
        assert_eq!(read.check_timeout, Duration::from_secs(5));
        assert_eq!(read.new_credential_wait, Duration::ZERO);
        let identity = read.identity.unwrap();
        assert_eq!(identity.credential, Credential::Federated { token_file: "/token".into() });
        assert_eq!(read.private_endpoints.unwrap().subnets.len(), 1);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let problems = parse(
            "[customer_key]\ncheck_timeout_s = 0\nspeed = 1\n\
             [azure_identity]\ntenant_id = \"t\"\n\
             [private_endpoints]\nresource_group_id = \"g\"\n\
             [private_endpoints.subnets]\nMARS = \"/subscriptions/s/x/virtualNetworks/v/subnets/a\"\nUS_EAST = \"a\"\n",
        )
        .unwrap_err();
        for told in [
            "check_timeout_s",
            "speed",
            "exactly one credential",
            "resource group",
            "MARS",
            "no id of a subnet",
        ] {
            assert!(problems.contains(told), "{told}: {problems}");
        }
    }
}
