//! From one answer, or its absence, to a [`Class`]. Pure: no clock, no network, no state.
//!
//! The rule behind every line: only what the customer's side says in so many words may weigh towards a
//! revocation. What is unknown, garbled or merely refused is neutral.

use keyward_model::Class;
use serde::Deserialize;

use crate::{Facts, Operation};

/// Who was asked what. It decides how an answer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Entra ID's token endpoint.
    Directory,
    /// The machine's own metadata service, for a managed identity's token.
    MetadataService,
    /// The vault's keys API.
    Vault(Operation),
    /// Azure Resource Manager.
    ResourceManager,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It did not come in time.
    TimedOut,
    /// The connection was refused, reset, or closed before the answer was complete.
    ConnectionFailed,
    /// Nobody could say what address the host's name has.
    NameNotResolved,
    /// The host's name does not exist. To a probe this is trouble of the same class.
    NoSuchName,
    /// The TLS handshake failed.
    TlsFailed,
    /// What came is not HTTP, or longer than any answer may be.
    NotAnAnswer,
    /// Private networking is required, and the host has public addresses alone: nothing was sent.
    PublicAddress,
}

/// An HTTP answer, as far as classification looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body, whole.
    pub body: &'a [u8],
}

/// What an answer means, and what is known of it from status and body.
///
/// `Success` says only that the status is 2xx: whoever expects a body checks it.
pub fn classify(stage: Stage, answer: Result<Answer<'_>, Fault>) -> (Class, Facts) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => {
            let facts = Facts { no_such_name: fault == Fault::NoSuchName, ..Facts::default() };
            return (of_fault(fault), facts);
        }
    };
    let status = Some(answer.status);
    if (200..300).contains(&answer.status) {
        // The body may hold key material or a token: nothing of it may reach the facts.
        return (Class::Success, Facts { http_status: status, ..Facts::default() });
    }
    match stage {
        Stage::Directory | Stage::MetadataService => {
            let error = serde_json::from_slice::<DirectoryError>(answer.body).unwrap_or_default();
            let numbers = error.numbers();
            let facts = Facts {
                http_status: status,
                inner_code: deciding_number(&numbers).map(|number| format!("AADSTS{number}")),
                request_id: error.trace_id.clone(),
                message: error
                    .error_description
                    .as_deref()
                    .map(shorten)
                    .or_else(|| no_error_body(&error.error)),
                code: error.error.as_deref().map(shorten),
                ..Facts::default()
            };
            let class = match stage {
                Stage::MetadataService => of_metadata_service(answer.status, error.error.as_deref()),
                Stage::Directory | Stage::Vault(_) | Stage::ResourceManager => {
                    of_directory(answer.status, error.error.as_deref(), &numbers)
                }
            };
            (class, facts)
        }
        Stage::Vault(_) | Stage::ResourceManager => {
            let error = serde_json::from_slice::<ErrorBody>(answer.body).unwrap_or_default().error;
            let inner_code = error.innermost().or_else(|| akv_number(error.message.as_deref()));
            let class = match stage {
                Stage::Vault(operation) => {
                    of_vault(answer.status, error.code.as_deref(), inner_code.as_deref(), operation)
                }
                Stage::ResourceManager | Stage::Directory | Stage::MetadataService => {
                    of_resource_manager(answer.status, error.code.as_deref())
                }
            };
            let facts = Facts {
                http_status: status,
                message: error.message.as_deref().map(shorten).or_else(|| no_error_body(&error.code)),
                code: error.code.as_deref().map(shorten),
                inner_code: inner_code.as_deref().map(shorten),
                ..Facts::default()
            };
            (class, facts)
        }
    }
}

/// What a first answer makes worth asking in a second call, before it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// The key may be deleted: look among the deleted keys.
    KeyDeleted,
    /// The vault may be deleted: look at it through ARM.
    VaultDeleted,
}

/// Whether an answer of the vault, or its absence, calls for a second call. What Entra ID or the metadata service said
/// is nothing to look into.
pub fn suspicion(class: Class, facts: &Facts) -> Option<Suspicion> {
    let being_deleted =
        matches!(facts.inner_code.as_deref(), Some("ObjectIsBeingDeleted" | "ObjectIsDeletedButRecoverable"));
    match class {
        Class::KeyPurged => Some(Suspicion::KeyDeleted),
        Class::Malformed if facts.http_status == Some(409) && being_deleted => Some(Suspicion::KeyDeleted),
        Class::Malformed if facts.http_status == Some(404) => Some(Suspicion::VaultDeleted),
        // A vault that is gone answers nothing, or what stands at its address is another's; behind a private link its
        // address stays and leads nowhere.
        Class::NameNotResolved
        | Class::ConnectionFailed
        | Class::TimedOut
        | Class::TlsFailed
        | Class::DeniedByPrivateLink => Some(Suspicion::VaultDeleted),
        Class::Success
        | Class::KeyDisabled
        | Class::KeyDeleted
        | Class::VaultDeleted
        | Class::ApplicationDisabled
        | Class::DeniedByPolicy
        | Class::DeniedByRbac
        | Class::OperationTakenOff
        | Class::ApplicationDeleted
        | Class::Unauthorized
        | Class::Throttled
        | Class::ServerFault
        | Class::DirectoryUnavailable
        | Class::DeniedByFirewall
        | Class::ClientSecretExpired
        | Class::CredentialRejected
        | Class::Misconfigured
        | Class::KeyNotCurrent
        | Class::BadCiphertext
        | Class::Malformed => None,
    }
}

/// What the second call found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecondLook {
    /// It is among the deleted, and the vault or ARM said so itself.
    AmongTheDeleted,
    /// It is not among the deleted, we may not look, or there was no clear answer.
    NotConfirmed,
}

/// The class after the second call: a deletion counts as one only when it was confirmed.
pub fn confirm(first: Class, suspicion: Suspicion, second: SecondLook) -> Class {
    match (suspicion, second) {
        (Suspicion::KeyDeleted, SecondLook::AmongTheDeleted) => Class::KeyDeleted,
        (Suspicion::VaultDeleted, SecondLook::AmongTheDeleted) => Class::VaultDeleted,
        (Suspicion::KeyDeleted | Suspicion::VaultDeleted, SecondLook::NotConfirmed) => first,
    }
}

/// The class of an answer by the region `answered_by`, where the key last worked in the region `worked_in`.
///
/// A vault that is failed over to its paired region is read-only there, so nothing can be purged; but what was made just
/// before may be missing. A key that is not there is gone only when the region that knew it says so.
pub fn after_failover(class: Class, worked_in: Option<&str>, answered_by: Option<&str>) -> Class {
    match (class, worked_in, answered_by) {
        (Class::KeyPurged, Some(worked_in), Some(answered_by)) if worked_in != answered_by => {
            Class::ServerFault
        }
        (class, ..) => class,
    }
}

fn of_fault(fault: Fault) -> Class {
    match fault {
        Fault::TimedOut => Class::TimedOut,
        Fault::ConnectionFailed => Class::ConnectionFailed,
        // A vault that was deleted and purged has no name any more, and so has a resolver that lost its zone.
        Fault::NameNotResolved | Fault::NoSuchName => Class::NameNotResolved,
        Fault::TlsFailed => Class::TlsFailed,
        Fault::NotAnAnswer => Class::Malformed,
        Fault::PublicAddress => Class::DeniedByPrivateLink,
    }
}

fn of_vault(status: u16, code: Option<&str>, inner_code: Option<&str>, operation: Operation) -> Class {
    match (status, code, inner_code) {
        (400, Some("BadParameter"), _) => match operation {
            Operation::Unwrap => Class::BadCiphertext,
            // We chose algorithm and size: the key cannot do what we ask of it.
            Operation::Wrap | Operation::Describe => Class::Misconfigured,
        },
        (401, _, Some("AKV10022" | "AKV10032")) => Class::Misconfigured,
        (401, _, _) => Class::Unauthorized,
        (403, Some("Forbidden"), Some(inner)) => match inner {
            "AccessDenied" | "ForbiddenByPolicy" => Class::DeniedByPolicy,
            "ForbiddenByRbac" => Class::DeniedByRbac,
            "ForbiddenByFirewall" => Class::DeniedByFirewall,
            "ForbiddenByConnection" => Class::DeniedByPrivateLink,
            "KeyDisabled" => Class::KeyDisabled,
            "KeyNotYetValid" | "KeyExpired" => Class::KeyNotCurrent,
            "KeyOperationForbidden" => Class::OperationTakenOff,
            _ => Class::Malformed,
        },
        (404, Some("KeyNotFound"), _) => Class::KeyPurged,
        (408, _, _) => Class::TimedOut,
        (429, _, _) => Class::Throttled,
        (500..=599, _, _) => Class::ServerFault,
        _ => Class::Malformed,
    }
}

/// Numbers that say that Entra ID itself is in trouble.
const DIRECTORY_TROUBLE: [u64; 5] = [90033, 90006, 90012, 90024, 90090];
/// Numbers that speak of the application and not of what we sent: not in the tenant, not there as an enterprise
/// application (service principal) any more, disabled.
const OF_THE_APPLICATION: [u64; 3] = [700_016, 7_000_229, 7_000_112];

/// Microsoft asks to act on `error` and to take numbers as hints. Where `error` does not tell cases apart, the
/// number does, and of several numbers the one that weighs least.
fn of_directory(status: u16, error: Option<&str>, numbers: &[u64]) -> Class {
    let has = |number: u64| numbers.contains(&number);
    // Beside any other number they weigh nothing: what the other one means may be ours.
    let all_weigh = numbers.iter().all(|number| OF_THE_APPLICATION.contains(number));
    if status == 429 || has(90055) {
        return Class::Throttled;
    }
    if status >= 500 || error == Some("temporarily_unavailable") || DIRECTORY_TROUBLE.iter().any(|n| has(*n))
    {
        return Class::DirectoryUnavailable;
    }
    if !(400..500).contains(&status) {
        return Class::Malformed;
    }
    match error {
        None => Class::Malformed,
        Some(_) if has(7_000_222) => Class::ClientSecretExpired,
        Some("unauthorized_client" | "invalid_client")
            if [7_000_215, 700_027, 50_012, 500_133].into_iter().any(has) =>
        {
            Class::CredentialRejected
        }
        Some("unauthorized_client" | "invalid_client") if all_weigh && (has(700_016) || has(7_000_229)) => {
            Class::ApplicationDeleted
        }
        Some("unauthorized_client" | "invalid_client") if all_weigh && has(7_000_112) => {
            Class::ApplicationDisabled
        }
        Some("invalid_client" | "invalid_grant" | "interaction_required") => Class::CredentialRejected,
        Some(
            "unauthorized_client"
            | "invalid_request"
            | "invalid_scope"
            | "invalid_resource"
            | "invalid_target"
            | "unsupported_grant_type",
        ) => Class::Misconfigured,
        Some(_) => Class::Malformed,
    }
}

/// The number shown to a person: the one that decided.
fn deciding_number(numbers: &[u64]) -> Option<u64> {
    let known = DIRECTORY_TROUBLE
        .into_iter()
        .chain([90055, 7_000_222, 7_000_215, 700_027, 50_012, 500_133])
        .find(|number| numbers.contains(number));
    let unknown = || numbers.iter().copied().find(|number| !OF_THE_APPLICATION.contains(number));
    let weighty = || OF_THE_APPLICATION.into_iter().find(|number| numbers.contains(number));
    known.or_else(unknown).or_else(weighty)
}

/// Follows Azure's "How to use managed identities": 404, 410, 429 and 5xx pass by themselves.
fn of_metadata_service(status: u16, error: Option<&str>) -> Class {
    match (status, error) {
        (429, _) => Class::Throttled,
        (404 | 410 | 500..=599, _) => Class::DirectoryUnavailable,
        (400..=499, Some(_)) => Class::Misconfigured,
        _ => Class::Malformed,
    }
}

/// ARM alone never says that something was taken away: a wrong subscription looks the same as a deleted vault.
fn of_resource_manager(status: u16, code: Option<&str>) -> Class {
    match (status, code) {
        (401, _) => Class::Unauthorized,
        (403, Some("AuthorizationFailed")) => Class::DeniedByRbac,
        (
            404,
            Some(
                "ResourceNotFound"
                | "ResourceGroupNotFound"
                | "SubscriptionNotFound"
                | "VaultNotFound"
                | "DeletedVaultNotFound",
            ),
        ) => Class::Misconfigured,
        (408, _) => Class::TimedOut,
        (429, _) => Class::Throttled,
        (500..=599, _) => Class::ServerFault,
        _ => Class::Malformed,
    }
}

/// Key Vault's and ARM's error body.
#[derive(Deserialize, Default)]
struct ErrorBody {
    error: ServiceError,
}

#[derive(Deserialize, Default)]
struct ServiceError {
    code: Option<String>,
    message: Option<String>,
    // Some proxies write the camelCase form.
    #[serde(alias = "innerError", default)]
    innererror: Option<InnerError>,
}

#[derive(Deserialize)]
struct InnerError {
    code: Option<String>,
}

impl ServiceError {
    fn innermost(&self) -> Option<String> {
        self.innererror.as_ref().and_then(|inner| inner.code.clone())
    }
}

/// Entra ID's error body, and the metadata service's.
#[derive(Deserialize, Default)]
struct DirectoryError {
    error: Option<String>,
    error_description: Option<String>,
    #[serde(default)]
    error_codes: Vec<u64>,
    trace_id: Option<String>,
}

impl DirectoryError {
    /// `error_codes`, or the number that the description begins with.
    fn numbers(&self) -> Vec<u64> {
        if !self.error_codes.is_empty() {
            return self.error_codes.clone();
        }
        let described = self.error_description.as_deref().and_then(|text| text.strip_prefix("AADSTS"));
        described.and_then(|text| leading_digits(text).parse().ok()).into_iter().collect()
    }
}

/// `AKV10032` from a message that begins so: 401s have no inner code of their own.
fn akv_number(message: Option<&str>) -> Option<String> {
    let digits = leading_digits(message?.strip_prefix("AKV")?);
    (!digits.is_empty()).then(|| format!("AKV{digits}"))
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

fn no_error_body(code: &Option<String>) -> Option<String> {
    code.is_none().then(|| "the answer does not have the service's error format".to_owned())
}

/// At most 500 characters, on one line.
pub(super) fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
