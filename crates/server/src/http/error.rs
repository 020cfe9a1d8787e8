//! What an answer says when something is refused or fails, and the only place that knows the HTTP status of a code.

use http::StatusCode;
use keyward_model::Code;
use keyward_store::StoreError;
use serde_json::{Map, Value, json};

/// A refusal or failure, as the caller is told of it. Never carries key material, nor anything internal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .0.code.as_str(), .0.detail)]
pub struct ApiError(Box<Said>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    code: Code,
    detail: String,
    parameters: Vec<String>,
    fields: Vec<(String, String)>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// With the code's own text.
    pub fn new(code: Code) -> Self {
        Self(Box::new(Said {
            code,
            detail: code.text().to_owned(),
            parameters: Vec::new(),
            fields: Vec::new(),
            retry_after_s: None,
        }))
    }

    /// Says in a sentence what happened, in place of the code's text.
    pub fn detail(mut self, sentence: impl Into<String>) -> Self {
        self.0.detail = sentence.into();
        self
    }

    /// Adds what it is about: a name, an id.
    pub fn param(mut self, value: impl ToString) -> Self {
        self.0.parameters.push(value.to_string());
        self
    }

    /// Adds a field of the body and what is wrong with it.
    pub fn field(mut self, name: impl Into<String>, what: impl Into<String>) -> Self {
        self.0.fields.push((name.into(), what.into()));
        self
    }

    /// Says when to try again.
    pub fn retry_after_s(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        status(self.0.code)
    }

    /// The seconds to wait, for `Retry-After`.
    pub fn wait_s(&self) -> Option<u64> {
        self.0.retry_after_s
    }

    /// The body, in Atlas' form. `parameters` are texts, as in its answers, though its document says objects.
    pub fn body(&self) -> Value {
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or("Unknown");
        let mut body = Map::new();
        // Word for word what clients know.
        let exact = matches!(self.0.code, Code::Unauthenticated | Code::InvalidVersionDate);
        let advice = if exact { String::new() } else { format!(" {}", self.0.code.advice()) };
        let detail = format!("{}{advice}", self.0.detail);
        body.insert("detail".to_owned(), json!(detail));
        body.insert("error".to_owned(), json!(status.as_u16()));
        body.insert("errorCode".to_owned(), json!(self.0.code.as_str()));
        body.insert("parameters".to_owned(), json!(self.0.parameters));
        body.insert("reason".to_owned(), json!(reason));
        if !self.0.fields.is_empty() {
            let fields: Vec<Value> = self
                .0
                .fields
                .iter()
                .map(|(field, description)| json!({"field": field, "description": description}))
                .collect();
            body.insert("badRequestDetail".to_owned(), json!({"fields": fields}));
        }
        Value::Object(body)
    }
}

impl From<StoreError> for ApiError {
    /// A lost race is the caller's to repeat; a failure is logged here, and outside only its kind is told.
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Conflict { .. } => return Self::new(Code::ResourceChanged),
            StoreError::Exists { .. } => return Self::new(Code::ResourceExists),
            StoreError::Unstorable { what } => {
                return Self::new(Code::InvalidAttribute).detail(format!("{what} has a NUL character."));
            }
            StoreError::Busy | StoreError::Unreachable(_) => Code::StoreUnavailable,
            StoreError::Url { .. }
            | StoreError::File { .. }
            | StoreError::TooOpen { .. }
            | StoreError::KeyFileExists { .. }
            | StoreError::NoServerKey { .. }
            | StoreError::WrongServerKey
            | StoreError::Sealed { .. }
            | StoreError::Newer { .. }
            | StoreError::Foreign { .. }
            | StoreError::LeaseLost { .. }
            | StoreError::Wanted { .. }
            | StoreError::Database(_)
            | StoreError::Unreadable { .. } => Code::UnexpectedError,
        };
        let mut causes = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            source = cause.source();
        }
        tracing::error!(error = %causes, "the store failed");
        Self::new(code)
    }
}

/// The HTTP status of a code.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::MaintenanceNotScheduled
        | Code::MaintenanceAlreadyScheduled
        | Code::MaintenanceWindowNotDefined
        | Code::MaintenanceDeferralsExceeded
        | Code::NonCompliantMaintenanceWindow
        | Code::InvalidEventTypeForAlert
        | Code::MissingNotifications
        | Code::MissingThreshold
        | Code::ThresholdPresent
        | Code::UnitsMismatch
        | Code::NotificationIntervalOutOfRange
        | Code::InvalidOperatorForEventType
        | Code::MaxAlertConfigsPerGroupExceeded
        | Code::MalformedJson
        | Code::InvalidJson
        | Code::InvalidAttribute
        | Code::AttributeReadOnly
        | Code::MissingAttribute
        | Code::MissingAttributes
        | Code::InvalidEnumValue
        | Code::InvalidPathParameter
        | Code::InvalidQueryParameter
        | Code::ValidationError
        | Code::TooManySecrets
        | Code::DuplicateClusterName
        | Code::CannotUseEncryptionAtRestTenant
        | Code::TenantClusterNotSupported
        | Code::ClusterTypeNotSupported
        | Code::ClusterAlreadyRequestedDeletion
        | Code::CannotTerminateProtectedCluster
        | Code::MongoDbVersionIsTheHosts
        | Code::CannotUseNonFlexClusterInFlexApi
        | Code::EncryptionAtRestNotEnabled
        | Code::AzureKeyVaultKeyNotFound
        | Code::AzureKeyVaultKeyNotEnabled
        | Code::AzureKeyVaultKeyNotActive
        | Code::AzureKeyVaultKeyExpired
        | Code::AzureKeyVaultKeyExpiring
        | Code::AzureKeyVaultKeyIdentifierInvalidFormat
        | Code::AzureKeyVaultEnvironmentNotSupported
        | Code::AzureKeyVaultKeyNotSuitable
        | Code::AzureKeyVaultNetworkAccessDenied
        | Code::AzureKeyVaultNotFound
        | Code::InvalidAzureApiRequest
        | Code::InvalidAzureCredentials
        | Code::NoPermissionToEncryptDecrypt
        | Code::EncryptionAtRestProviderNotSupported
        | Code::EncryptionAtRestSettingsInvalid
        | Code::CannotDisableEncryptionAtRestDueToPrivateEndpoints
        | Code::CannotStopRequiringPrivateNetworking
        | Code::EncryptionAtRestVaultIsFixed
        | Code::PrivateEndpointNotRequired
        | Code::PrivateEndpointRegionNotServed
        | Code::PrivateEndpointDeleteBlocked
        | Code::CloudProviderAccessProviderNotSupported => StatusCode::BAD_REQUEST,
        Code::Unauthenticated | Code::UserUnauthorized | Code::NotInGroup | Code::NotOrgGroupCreator => {
            StatusCode::UNAUTHORIZED
        }
        Code::AccessForbidden
        | Code::IpAddressNotOnWhitelist
        | Code::OrgRequiresWhitelist
        | Code::CannotDeleteLastOwner
        | Code::CannotDemoteLastOwner => StatusCode::FORBIDDEN,
        Code::NodeNotFound
        | Code::ProcessNotFound
        | Code::JoinTokenNotFound
        | Code::AlertNotFound
        | Code::AlertConfigNotFound
        | Code::EventNotFound
        | Code::ResourceNotFound
        | Code::OrgNotFound
        | Code::GroupNotFound
        | Code::GroupNameNotFound
        | Code::UserNotFound
        | Code::ApiKeyNotFound
        | Code::ServiceAccountNotFound
        | Code::ServiceAccountSecretNotFound
        | Code::AccessListEntryNotFound
        | Code::PrivateEndpointNotFound
        | Code::CloudProviderAccessRoleNotFound
        | Code::ClusterNotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::InvalidVersionDate => StatusCode::NOT_ACCEPTABLE,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::GroupAlreadyExists
        | Code::CannotCloseGroupActiveAtlasClusters
        | Code::CannotUpdatePausedCluster
        | Code::CannotDeleteOrgActiveGroups
        | Code::UserAlreadyExists
        | Code::ResourceExists
        | Code::CannotDisableEncryptionAtRestUsedByClusters
        | Code::PrivateEndpointExists
        | Code::CloudProviderAccessRoleInUse
        | Code::ResourceChanged => StatusCode::CONFLICT,
        Code::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::UnexpectedError => StatusCode::INTERNAL_SERVER_ERROR,
        Code::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Code::AzureKeyVaultUnavailable | Code::ServiceUnavailable | Code::StoreUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_atlas_form() {
        let error = ApiError::new(Code::InvalidVersionDate);
        assert_eq!(
            error.body(),
            json!({"detail": "Invalid accept header or version date.", "error": 406,
                   "errorCode": "INVALID_VERSION_DATE", "parameters": [], "reason": "Not Acceptable"})
        );
        let error = ApiError::new(Code::ClusterNotFound).param("Cluster0").field("name", "is unknown");
        assert_eq!(error.body()["parameters"], json!(["Cluster0"]));
        assert_eq!(error.body()["badRequestDetail"]["fields"][0]["field"], "name");
    }

    #[test]
    fn every_code_is_a_failure() {
        for code in Code::ALL {
            assert!(status(*code).is_client_error() || status(*code).is_server_error(), "{code:?}");
        }
    }
}
