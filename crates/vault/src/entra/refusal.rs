//! Every way the token endpoint says no: status, `error` and AADSTS number.

use serde_json::json;

use crate::answer::Answer;
use crate::state::UnixSeconds;

/// A refused token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TokenRefusal {
    TenantNotFound { tenant: String },
    FieldMissing { field: &'static str },
    UnsupportedGrant { grant: String },
    BadScope { scope: String },
    UnknownResource { resource: String },
    ApplicationNotFound { client_id: String, tenant: String },
    ApplicationDisabled { client_id: String },
    NoCredential,
    WrongSecret { client_id: String },
    SecretExpired { client_id: String },
    AssertionMalformed,
    AssertionSignature { client_id: String },
    AssertionAudience,
    AssertionTime,
    CertificateExpired { client_id: String },
    NoFederatedCredential { issuer: String, subject: String },
    MetadataHeaderMissing,
    IdentityNotFound,
    DirectoryUnavailable,
    ServerFault,
}

impl TokenRefusal {
    /// (HTTP status, `error`, AADSTS number, text)
    fn row(&self) -> (u16, &'static str, u32, String) {
        match self {
            Self::TenantNotFound { tenant } => (
                400,
                "invalid_request",
                90002,
                format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."),
            ),
            Self::FieldMissing { field } => (
                400,
                "invalid_request",
                900_144,
                format!("The request body must contain the following parameter: '{field}'."),
            ),
            Self::UnsupportedGrant { grant } => (
                400,
                "unsupported_grant_type",
                70003,
                format!("The app requested an unsupported grant type '{grant}'."),
            ),
            Self::BadScope { scope } => (
                400,
                "invalid_scope",
                1_002_012,
                format!("The provided value for scope {scope} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."),
            ),
            Self::UnknownResource { resource } => (
                400,
                "invalid_resource",
                500_011,
                format!("The resource principal named {resource} was not found in the tenant."),
            ),
            Self::ApplicationNotFound { client_id, tenant } => (
                400,
                "unauthorized_client",
                700_016,
                format!("Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant."),
            ),
            Self::ApplicationDisabled { client_id } => (
                400,
                "unauthorized_client",
                7_000_112,
                format!("Application '{client_id}' is disabled."),
            ),
            Self::NoCredential => (
                401,
                "invalid_client",
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.".to_owned(),
            ),
            Self::WrongSecret { client_id } => (
                401,
                "invalid_client",
                7_000_215,
                format!("Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{client_id}'."),
            ),
            Self::SecretExpired { client_id } => (
                401,
                "invalid_client",
                7_000_222,
                format!("The provided client secret keys for app '{client_id}' are expired."),
            ),
            Self::AssertionMalformed => (
                400,
                "invalid_request",
                50027,
                "JWT token is invalid or malformed.".to_owned(),
            ),
            Self::AssertionSignature { client_id } => (
                401,
                "invalid_client",
                700_027,
                format!("The certificate with identifier used to sign the client assertion is not registered on application '{client_id}', or the client assertion failed signature validation."),
            ),
            Self::AssertionAudience => (
                401,
                "invalid_client",
                50012,
                "Authentication failed: the audience of the client assertion is not this token endpoint.".to_owned(),
            ),
            Self::AssertionTime => (
                401,
                "invalid_client",
                500_133,
                "Assertion is not within its valid time range. Ensure that the access token is not expired before using it for user assertion, or request a new token.".to_owned(),
            ),
            Self::CertificateExpired { client_id } => (
                401,
                "invalid_client",
                1_000_502,
                format!("The provided certificate of app '{client_id}' is not within its specified validity period."),
            ),
            Self::NoFederatedCredential { issuer, subject } => (
                401,
                "invalid_client",
                70021,
                format!("No matching federated identity record found for presented assertion. Assertion Issuer: '{issuer}'. Assertion Subject: '{subject}'."),
            ),
            // The metadata endpoint's own texts carry no AADSTS number.
            Self::MetadataHeaderMissing => {
                (400, "invalid_request", 0, "Required metadata header not specified".to_owned())
            }
            Self::IdentityNotFound => (400, "invalid_request", 0, "Identity not found".to_owned()),
            Self::DirectoryUnavailable => (
                503,
                "temporarily_unavailable",
                90033,
                "A transient error has occurred. Please try again.".to_owned(),
            ),
            Self::ServerFault => (500, "server_error", 90036, "An unexpected, non-retryable error stemming from the directory service has occurred.".to_owned()),
        }
    }

    /// The answer. The ids are for people who compare logs.
    pub fn answer(&self, trace_id: &str, correlation_id: &str, now: UnixSeconds) -> Answer {
        let (status, error, number, text) = self.row();
        let timestamp = jiff::Timestamp::from_second(now).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%SZ");
        let body = if number == 0 {
            json!({ "error": error, "error_description": text })
        } else {
            json!({
                "error": error,
                "error_description": format!(
                    "AADSTS{number}: {text} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
                ),
                "error_codes": [number],
                "timestamp": timestamp.to_string(),
                "trace_id": trace_id,
                "correlation_id": correlation_id,
                "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
            })
        };
        let inner = (number != 0).then(|| format!("AADSTS{number}"));
        Answer { status, headers: Vec::new(), body, codes: Some((error.to_owned(), inner)) }
    }
}
