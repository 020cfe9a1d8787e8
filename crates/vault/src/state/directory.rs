//! The tenant: applications, their credentials, and the keys that sign tokens.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::UnixSeconds;
use crate::material::Material;

/// One Entra ID tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// Tenant id, a UUID.
    pub tenant_id: String,
    /// Keys that sign access tokens; the last one is used.
    pub signing_keys: Vec<SigningKey>,
    /// Applications by client id.
    pub applications: BTreeMap<String, Application>,
}

/// A key that signs access tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SigningKey {
    /// `kid` in the token's header.
    pub kid: String,
    /// The RSA key pair.
    pub material: Material,
}

/// An application and its service principal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Application {
    /// Client id (`appid`), a UUID.
    pub client_id: String,
    /// Object id of the service principal (`oid`), a UUID.
    pub object_id: String,
    /// Name for people.
    pub name: String,
    /// A disabled application gets no new token; tokens it holds stay good until they expire.
    pub disabled: bool,
    /// Whether the metadata endpoint hands out tokens for it.
    pub managed_identity: bool,
    /// Client secrets.
    pub secrets: Vec<ApplicationSecret>,
    /// Client certificates.
    pub certificates: Vec<ApplicationCertificate>,
    /// Trusted outside issuers.
    pub federated: Vec<FederatedCredential>,
}

/// A client secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationSecret {
    /// Names the secret; not secret itself.
    pub key_id: String,
    /// The secret.
    pub value: Secret,
    /// When it stops working.
    pub expires: UnixSeconds,
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A registered client certificate: only what is needed to check an assertion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationCertificate {
    /// Base64url SHA-256 of the DER, as in a JWT header's `x5t#S256`.
    pub sha256: String,
    /// Base64url SHA-1 of the DER, as in a JWT header's `x5t`.
    pub sha1: String,
    /// Modulus, base64url.
    pub n: String,
    /// Public exponent, base64url.
    pub e: String,
    /// Start of validity.
    pub not_before: UnixSeconds,
    /// End of validity.
    pub not_after: UnixSeconds,
}

/// A federated credential: which outside token is taken in place of a secret, and the key it must be signed
/// with. Entra fetches that key from the issuer; here it is registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedCredential {
    /// `iss` of the outside token.
    pub issuer: String,
    /// `sub` of the outside token.
    pub subject: String,
    /// `aud` of the outside token, normally `api://AzureADTokenExchange`.
    pub audience: String,
    /// Modulus of the issuer's key, base64url.
    pub n: String,
    /// Public exponent of the issuer's key, base64url.
    pub e: String,
}
