//! What a vault says about whom it trusts, checked before a token goes anywhere.

use std::collections::HashMap;

use url::Url;
use zeroize::Zeroizing;

use super::config::Places;

/// A `WWW-Authenticate: Bearer …` challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    authority: Url,
    resource: String,
    claims: Option<String>,
}

/// Why a challenge is not to be trusted, or does not fit the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChallengeError {
    #[error("the vault's challenge is not one of Key Vault's")]
    NotAChallenge,
    #[error("the vault sends us to {0} for a token, which is no authority of the configured cloud")]
    Authority(String),
    #[error("the vault belongs to tenant {vault}, but tenant {configured} is configured")]
    Tenant { vault: String, configured: String },
    #[error("the vault asks for a token for {0}, which is not the audience of the configured cloud's vaults")]
    Resource(String),
}

impl Challenge {
    /// Parses the header as RFC 9110 §11.6.1 has it, both of Key Vault's wordings included: `authorization` or
    /// `authorization_uri`, `resource` or `scope`.
    pub(super) fn parse(header: &str) -> Result<Self, ChallengeError> {
        let rest = strip_scheme(header).ok_or(ChallengeError::NotAChallenge)?;
        let parameters = parameters(rest).ok_or(ChallengeError::NotAChallenge)?;
        let authority = parameters
            .get("authorization")
            .or_else(|| parameters.get("authorization_uri"))
            .and_then(|text| Url::parse(text).ok())
            .ok_or(ChallengeError::NotAChallenge)?;
        let resource = match (parameters.get("resource"), parameters.get("scope")) {
            (Some(resource), _) => resource.clone(),
            (None, Some(scope)) => scope.strip_suffix("/.default").unwrap_or(scope).to_owned(),
            (None, None) => return Err(ChallengeError::NotAChallenge),
        };
        Ok(Self { authority, resource, claims: parameters.get("claims").cloned() })
    }

    /// Whether this vault may be given a token of ours.
    pub(super) fn check(&self, places: &Places, tenant_id: &str) -> Result<(), ChallengeError> {
        let trusted = |authority: &Url| authority.origin() == self.authority.origin();
        if self.authority.scheme() != "https" || !places.authorities.iter().any(trusted) {
            return Err(ChallengeError::Authority(self.authority.to_string()));
        }
        let tenant =
            self.authority.path_segments().and_then(|mut segments| segments.next()).unwrap_or_default();
        if !tenant.eq_ignore_ascii_case(tenant_id) {
            return Err(ChallengeError::Tenant {
                vault: tenant.to_owned(),
                configured: tenant_id.to_owned(),
            });
        }
        if self.resource.trim_end_matches('/') != places.vault_resource {
            return Err(ChallengeError::Resource(self.resource.clone()));
        }
        Ok(())
    }

    /// The claims of a continuous access evaluation, decoded: to be handed to the token endpoint as they are.
    pub(super) fn claims(&self) -> Option<Zeroizing<String>> {
        let encoded = self.claims.as_deref()?.trim_end_matches('=');
        let decoded = data_encoding::BASE64_NOPAD
            .decode(encoded.as_bytes())
            .or_else(|_| data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()))
            .ok()?;
        String::from_utf8(decoded).ok().map(Zeroizing::new)
    }
}

fn strip_scheme(header: &str) -> Option<&str> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(rest)
}

/// `name="value"` or `name=value`, separated by commas and spaces. `None` when it is not of that shape.
fn parameters(mut rest: &str) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        if rest.is_empty() {
            return Some(found);
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find([',', ' ']).unwrap_or(after.len())),
        };
        found.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::{AzureConfig, Cloud, Credential};

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    fn places(cloud: Cloud) -> Places {
        let config = AzureConfig {
            tenant_id: TENANT.into(),
            client_id: TENANT.into(),
            credential: Credential::ManagedIdentity { client_id: None, endpoint: None },
            cloud,
            ca_file: None,
            subscription_id: None,
            resource_group: None,
            call_timeout: std::time::Duration::from_secs(1),
            require_private_networking: false,
        };
        assert!(config.problems().is_empty());
        config.places()
    }

    /// Each cloud takes its own authorities and audience, and nobody else's.
    #[test]
    fn clouds_are_kept_apart() {
        let clouds = [
            (Cloud::Azure, &["login.microsoftonline.com", "login.windows.net"][..], "vault.azure.net"),
            (
                Cloud::AzureChina,
                &["login.chinacloudapi.cn", "login.partner.microsoftonline.cn"][..],
                "vault.azure.cn",
            ),
            (Cloud::AzureUsGovernment, &["login.microsoftonline.us"][..], "vault.usgovcloudapi.net"),
        ];
        for (cloud, _, _) in &clouds {
            let places = places(cloud.clone());
            for (other, authorities, suffix) in &clouds {
                let same = cloud == other;
                assert_eq!(places.is_vault(&format!("v1.{suffix}")), same);
                for authority in *authorities {
                    let header = format!(
                        r#"Bearer authorization="https://{authority}/{TENANT}", resource="https://{suffix}""#
                    );
                    let checked = Challenge::parse(&header).unwrap().check(&places, TENANT);
                    assert_eq!(checked.is_ok(), same, "{header} in {cloud:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_vault_of_the_cloud_is_one() {
        let places = places(Cloud::Azure);
        assert!(places.is_vault("v-1.vault.azure.net"));
        for host in [
            "vault.azure.net",
            ".vault.azure.net",
            "a.b.vault.azure.net",
            "evilvault.azure.net",
            "v.vault.azure.net.evil.example",
            "v.vault.azure.net:8443",
            "localhost",
        ] {
            assert!(!places.is_vault(host), "{host}");
        }
    }

    #[test]
    fn parses_what_services_send() {
        let parsed = Challenge::parse(
            r#"Bearer authorization="https://login.windows.net/t", resource="https://vault.azure.net""#,
        )
        .unwrap();
        assert_eq!(
            (parsed.authority.as_str(), parsed.resource.as_str()),
            ("https://login.windows.net/t", "https://vault.azure.net")
        );
        let claims = data_encoding::BASE64URL_NOPAD.encode(br#"{"access_token":{}}"#);
        let header = format!(
            r#"Bearer realm="", authorization_uri="https://login.windows.net/t", scope="https://vault.azure.net/.default", error="insufficient_claims", claims="{claims}""#
        );
        let parsed = Challenge::parse(&header).unwrap();
        assert_eq!(parsed.resource, "https://vault.azure.net");
        assert_eq!(parsed.claims().unwrap().as_str(), r#"{"access_token":{}}"#);
    }

    #[test]
    fn refuses_what_is_no_challenge() {
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer nonsense",
            r#"Bearer authorization="https://login.windows.net/t"#,
            r#"Bearer authorization="not a url", resource="r""#,
            r#"Bearer resource="https://vault.azure.net""#,
            r#"Negotiate authorization="https://login.windows.net/t", resource="r""#,
        ] {
            assert_eq!(Challenge::parse(header), Err(ChallengeError::NotAChallenge), "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "(Bearer )?[a-z=\", ]{0,60}") {
            let _ = Challenge::parse(&header);
        }
    }
}
