//! Entra ID: discovery, signing keys, the token endpoint, the managed identity endpoint, and the check of access
//! tokens. Credentials are really checked; nobody gets a token for asking. Pure: `now` comes in.

mod assertion;
mod refusal;
mod token;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::{Value, json};

pub use assertion::read_certificate;
pub use refusal::TokenRefusal;
pub use token::{AccessToken, TokenError, check_token};

use crate::answer::Answer;
use crate::state::{Application, Directory, UnixSeconds};

/// Audience of the data plane.
pub const VAULT_RESOURCE: &str = "https://vault.azure.net";
/// Application id of Key Vault, which tokens may carry as audience instead.
pub const VAULT_APP_ID: &str = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093";
/// Audience of ARM.
pub const ARM_RESOURCE: &str = "https://management.azure.com";

/// OpenID discovery document of the tenant.
pub fn discovery(directory: &Directory, base: &str) -> Answer {
    let authority = format!("{base}/{}", directory.tenant_id);
    Answer::ok(json!({
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "response_modes_supported": ["query"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["token"],
        "scopes_supported": ["openid"],
        "issuer": format!("{authority}/v2.0"),
        "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
    }))
}

/// Instance discovery: says that this authority is a known cloud of its own.
pub fn instance_discovery(directory: &Directory, base: &str) -> Answer {
    let host = base.trim_start_matches("https://");
    Answer::ok(json!({
        "tenant_discovery_endpoint":
            format!("{base}/{}/v2.0/.well-known/openid-configuration", directory.tenant_id),
        "api-version": "1.1",
        "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
    }))
}

/// The tenant's signing keys.
pub fn signing_keys(directory: &Directory) -> Answer {
    let keys: Vec<Value> = directory
        .signing_keys
        .iter()
        .map(|key| {
            json!({
                "kty": "RSA", "use": "sig", "kid": key.kid, "x5t": key.kid,
                "n": key.material.n, "e": key.material.e,
            })
        })
        .collect();
    Answer::ok(json!({ "keys": keys }))
}

/// A request to the token endpoint. No `Debug`: the form holds the secret.
pub struct TokenRequest<'a> {
    /// Tenant in the path.
    pub tenant: &'a str,
    /// `https://HOST[:PORT]` as the caller wrote it.
    pub base: &'a str,
    /// Fields of the form.
    pub form: &'a [(String, String)],
    /// URL of ARM, which a token may be asked for by that name too.
    pub arm_url: &'a str,
    /// On the vault's clock.
    pub now: UnixSeconds,
}

impl TokenRequest<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// Client id, for the access log.
    pub fn client_id(&self) -> Option<&str> {
        self.field("client_id")
    }
}

/// The token endpoint: checks the client and says what its token may be used for.
pub fn token(
    directory: &Directory,
    request: &TokenRequest<'_>,
    lifetime_s: u32,
) -> Result<Answer, TokenRefusal> {
    if request.tenant != directory.tenant_id {
        return Err(TokenRefusal::TenantNotFound { tenant: request.tenant.to_owned() });
    }
    match request.field("grant_type") {
        Some("client_credentials") => {}
        Some(other) => return Err(TokenRefusal::UnsupportedGrant { grant: other.to_owned() }),
        None => return Err(TokenRefusal::FieldMissing { field: "grant_type" }),
    }
    let client_id = request.field("client_id").ok_or(TokenRefusal::FieldMissing { field: "client_id" })?;
    let resource = match (request.field("scope"), request.field("resource")) {
        (Some(scope), _) => scope
            .split(' ')
            .find_map(|s| s.strip_suffix("/.default"))
            .ok_or_else(|| TokenRefusal::BadScope { scope: scope.to_owned() })?,
        (None, Some(resource)) => resource,
        (None, None) => return Err(TokenRefusal::FieldMissing { field: "scope" }),
    };
    let audience = audience(resource, request.arm_url)
        .ok_or_else(|| TokenRefusal::UnknownResource { resource: resource.to_owned() })?;
    let application =
        directory.applications.get(client_id).ok_or_else(|| TokenRefusal::ApplicationNotFound {
            client_id: client_id.to_owned(),
            tenant: directory.tenant_id.clone(),
        })?;
    if application.disabled {
        return Err(TokenRefusal::ApplicationDisabled { client_id: client_id.to_owned() });
    }
    match (request.field("client_assertion"), request.field("client_secret")) {
        (Some(assertion), _) => assertion::check(application, assertion, request)?,
        (None, Some(secret)) => check_secret(application, secret, request.now)?,
        (None, None) => return Err(TokenRefusal::NoCredential),
    }
    let token = AccessToken::new(directory, application, audience, request.now, lifetime_s);
    let text = token.sign(directory).map_err(|_| TokenRefusal::ServerFault)?;
    Ok(Answer::ok(json!({
        "token_type": "Bearer",
        "expires_in": lifetime_s,
        "ext_expires_in": lifetime_s,
        "access_token": text,
    })))
}

/// The managed identity endpoint (`/metadata/identity/oauth2/token`). Anyone on the machine is the machine, as in
/// Azure; which identities there are is decided by [`Application::managed_identity`].
pub fn managed_identity(
    directory: &Directory,
    has_metadata_header: bool,
    query: &[(String, String)],
    arm_url: &str,
    now: UnixSeconds,
    lifetime_s: u32,
) -> Result<Answer, TokenRefusal> {
    let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    if !has_metadata_header {
        return Err(TokenRefusal::MetadataHeaderMissing);
    }
    let resource = get("resource").ok_or(TokenRefusal::FieldMissing { field: "resource" })?;
    let audience = audience(resource, arm_url)
        .ok_or_else(|| TokenRefusal::UnknownResource { resource: resource.to_owned() })?;
    let wanted = get("client_id");
    let application = directory
        .applications
        .values()
        .find(|a| a.managed_identity && wanted.is_none_or(|id| id == a.client_id))
        .ok_or(TokenRefusal::IdentityNotFound)?;
    if application.disabled {
        return Err(TokenRefusal::ApplicationDisabled { client_id: application.client_id.clone() });
    }
    let token = AccessToken::new(directory, application, audience, now, lifetime_s);
    let text = token.sign(directory).map_err(|_| TokenRefusal::ServerFault)?;
    Ok(Answer::ok(json!({
        "access_token": text,
        "client_id": application.client_id,
        "expires_in": lifetime_s.to_string(),
        "expires_on": (now + i64::from(lifetime_s)).to_string(),
        "ext_expires_in": lifetime_s.to_string(),
        "not_before": now.to_string(),
        "resource": resource,
        "token_type": "Bearer",
    })))
}

fn audience(resource: &str, arm_url: &str) -> Option<&'static str> {
    match resource.trim_end_matches('/') {
        VAULT_RESOURCE | VAULT_APP_ID => Some(VAULT_RESOURCE),
        ARM_RESOURCE | "https://management.core.windows.net" => Some(ARM_RESOURCE),
        arm if arm == arm_url => Some(ARM_RESOURCE),
        _ => None,
    }
}

fn check_secret(application: &Application, given: &str, now: UnixSeconds) -> Result<(), TokenRefusal> {
    let client_id = || application.client_id.clone();
    let matching: Vec<_> = application
        .secrets
        .iter()
        .filter(|s| verify_slices_are_equal(s.value.expose().as_bytes(), given.as_bytes()).is_ok())
        .collect();
    if matching.is_empty() {
        return Err(TokenRefusal::WrongSecret { client_id: client_id() });
    }
    if matching.iter().all(|s| s.expires <= now) {
        return Err(TokenRefusal::SecretExpired { client_id: client_id() });
    }
    Ok(())
}
