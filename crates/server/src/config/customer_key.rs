//! How the server itself asks vaults, and where it makes private endpoints.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use keyward_config_file::{Found, Reader, Section};
use keyward_kms::azure::Credential;
use keyward_model::private_endpoint::azure_location;

use super::{needed, path, text};

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

/// The sections [customer_key], [azure_identity] and [private_endpoints].
pub(super) fn read<'i>(r: &mut Reader<'i>, top: &mut Section<'i>) -> CustomerKeyConfig {
    let usual = CustomerKeyConfig::default();
    let (mut check_timeout, mut new_credential_wait) = (usual.check_timeout, usual.new_credential_wait);
    if let Some(mut section) = r.optional_section(top, "customer_key").flatten() {
        check_timeout = seconds(r, &mut section, "check_timeout_s", 1..=120, check_timeout);
        new_credential_wait = seconds(r, &mut section, "new_credential_wait_s", 0..=300, new_credential_wait);
        r.no_more(section);
    }
    let identity = r.optional_section(top, "azure_identity").flatten();
    let places = r.optional_section(top, "private_endpoints").flatten();
    CustomerKeyConfig {
        identity: identity.and_then(|section| read_identity(r, section)),
        private_endpoints: places.and_then(|section| read_private_endpoints(r, section)),
        check_timeout,
        new_credential_wait,
    }
}

fn read_identity<'i>(r: &mut Reader<'i>, mut section: Section<'i>) -> Option<ServerIdentity> {
    let place = section.place();
    let tenant_id = needed(r, &mut section, "tenant_id");
    let client_id = text(r, &mut section, "client_id").map(|found| found.value);
    let secret = path(r, &mut section, "client_secret_file").map(Credential::ClientSecretFile);
    let certificate = path(r, &mut section, "certificate_file").map(|path| Credential::Certificate { path });
    let federated =
        path(r, &mut section, "federated_token_file").map(|token_file| Credential::Federated { token_file });
    let managed = r
        .boolean(&mut section, "managed_identity", false)
        .filter(|managed| *managed)
        .map(|_| Credential::ManagedIdentity { client_id: client_id.clone(), endpoint: None });
    r.no_more(section);
    let mut given: Vec<Credential> =
        [secret, certificate, federated, managed].into_iter().flatten().collect();
    let credential = given.pop();
    if credential.is_none() || !given.is_empty() {
        let hint =
            "give one of managed_identity, federated_token_file, certificate_file and client_secret_file";
        r.problem(place, "[azure_identity] must name exactly one credential", hint);
        return None;
    }
    Some(ServerIdentity { tenant_id: tenant_id?.value, client_id, credential: credential? })
}

fn read_private_endpoints<'i>(r: &mut Reader<'i>, mut section: Section<'i>) -> Option<PrivateEndpointPlaces> {
    let resource_group_id = needed(r, &mut section, "resource_group_id").and_then(|found| {
        let hint = "write /subscriptions/ID/resourceGroups/NAME";
        let parse = |id: &str| is_resource_group(id).then(|| id.to_owned());
        r.parsed(found, "is no id of a resource group", hint, parse)
    });
    let mut subnets = BTreeMap::new();
    let mut named = r.optional_section(&mut section, "subnets").flatten().unwrap_or_default();
    for region in named.keys() {
        let Some(Found { value: id, span, .. }) = text(r, &mut named, &region) else { continue };
        if azure_location(&region).is_none() {
            let text = format!("`{region}` is no region of Azure");
            r.problem(span.clone(), text, "write it as in the API, such as US_EAST_2");
        }
        if !(id.starts_with("/subscriptions/") && id.contains("/subnets/")) {
            let text = format!("\"{id}\" is no id of a subnet");
            r.problem(span, text, "write /subscriptions/…/virtualNetworks/NAME/subnets/NAME");
        }
        subnets.insert(region, id);
    }
    r.no_more(section);
    Some(PrivateEndpointPlaces { resource_group_id: resource_group_id?.value, subnets })
}

fn seconds<'i>(
    r: &mut Reader<'i>,
    section: &mut Section<'i>,
    key: &str,
    range: RangeInclusive<u64>,
    usual: Duration,
) -> Duration {
    r.integer(section, key, range, Some(usual.as_secs())).map_or(usual, Duration::from_secs)
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
