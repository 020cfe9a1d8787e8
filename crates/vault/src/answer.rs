//! Every way the vault says no: one table of status, code, inner code and message, in Azure's words.
//!
//! Where Azure's own answer is not publicly recorded, the row says so.

use serde_json::{Value, json};

/// What goes back to a caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers of this answer alone; the ones that every answer has are added by the server.
    pub headers: Vec<(&'static str, String)>,
    /// JSON body; `Null` for none.
    pub body: Value,
    /// Error code and inner code, for the access log.
    pub codes: Option<(String, Option<String>)>,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(body: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body, codes: None }
    }

    /// 204.
    pub fn no_content() -> Self {
        Self { status: 204, headers: Vec::new(), body: Value::Null, codes: None }
    }
}

/// Who asks, as error messages name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Client id of the application.
    pub app_id: String,
    /// Object id of its service principal.
    pub object_id: String,
    /// Tenant of the token.
    pub tenant_id: String,
    /// `iss` of the token.
    pub issuer: String,
}

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenProblem {
    /// Not a JWT.
    Malformed,
    /// Signed with a key that the tenant doesn't publish, or the signature is wrong.
    SigningKey,
    /// Made for somebody else.
    Audience {
        /// `aud` of the token.
        got: String,
        /// What this endpoint takes.
        wanted: String,
    },
    /// Of another tenant.
    Issuer {
        /// `iss` of the token.
        got: String,
        /// The issuers that are taken.
        accepted: String,
    },
    /// Its life is over.
    Expired,
    /// Its life hasn't begun.
    NotYetValid,
}

/// A refused request of the data plane or of ARM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No `Authorization: Bearer`.
    TokenMissing,
    /// A token that isn't good.
    TokenRejected(TokenProblem),
    /// Access policies: the caller is on none.
    NoPolicyEntry {
        /// Who.
        caller: Box<Caller>,
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// Access policies: the caller's entry lacks the permission.
    PolicyLacks {
        /// Who.
        caller: Box<Caller>,
        /// Permission word, such as `unwrapKey`.
        permission: &'static str,
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// Role assignments: none brings the data action.
    RbacDenies {
        /// Who.
        caller: Box<Caller>,
        /// Full data action.
        action: &'static str,
        /// ARM resource id asked for.
        resource: String,
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// The firewall doesn't know the address.
    Firewall {
        /// The caller's address.
        address: String,
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// Public access is off and no private endpoint is approved.
    NotPrivateLink {
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// Decrypt, unwrap or sign on a disabled key.
    KeyDisabled {
        /// Operation word, such as `unwrapKey`.
        operation: &'static str,
    },
    /// Encrypt or wrap before `nbf`.
    KeyNotYetValid {
        /// Operation word.
        operation: &'static str,
    },
    /// Encrypt or wrap from `exp` on.
    KeyExpired {
        /// Operation word.
        operation: &'static str,
    },
    /// The operation isn't in `key_ops`.
    KeyOperationForbidden {
        /// Operation word.
        operation: &'static str,
    },
    /// No such key, or no such version.
    KeyNotFound {
        /// Key name.
        name: String,
        /// Version, where one was given.
        version: Option<String>,
    },
    /// No such soft-deleted key.
    DeletedKeyNotFound {
        /// Key name.
        name: String,
    },
    /// The name is held by a soft-deleted key.
    ObjectIsDeletedButRecoverable {
        /// Key name.
        name: String,
    },
    /// The deletion is under way.
    ObjectIsBeingDeleted {
        /// Key name.
        name: String,
    },
    /// Restore over a live key.
    KeyExists {
        /// Key name.
        name: String,
    },
    /// Purge with purge protection on.
    PurgeProtected {
        /// Key name.
        name: String,
    },
    /// Something in the request can't be.
    BadParameter(String),
    /// No such path.
    NoSuchPath,
    /// The path exists, the method doesn't.
    MethodNotAllowed,
    /// The vault is soft-deleted.
    VaultDeleted {
        /// Vault name.
        vault: String,
    },
    /// Fault `throttle`.
    Throttled {
        /// `Retry-After`, seconds.
        retry_after_s: u32,
    },
    /// Fault `error401`: a good token isn't recognised.
    TokenNotResolved,
    /// Fault `error500`.
    InternalServerError,
    /// Fault `error503`.
    ServiceUnavailable,
    /// Fault `read-only`: a write while the vault is failed over.
    FailedOver,
    /// ARM: the caller may not.
    ArmForbidden {
        /// Who.
        caller: Box<Caller>,
        /// Control-plane action.
        action: &'static str,
        /// Scope.
        scope: String,
    },
    /// ARM: no such resource.
    ArmNotFound {
        /// `Microsoft.KeyVault/vaults/NAME`.
        resource: String,
        /// Resource group.
        resource_group: String,
    },
    /// ARM: a deleted vault that isn't there.
    ArmDeletedVaultNotFound {
        /// Vault name.
        vault: String,
        /// Region.
        location: String,
    },
    /// ARM: a final state of a private endpoint connection can't be left.
    ConnectionIsFinal {
        /// Connection name.
        name: String,
        /// `Rejected` or `Disconnected`.
        status: String,
    },
}

/// One row of the table.
struct Row {
    status: u16,
    code: &'static str,
    inner: Option<&'static str>,
    message: String,
}

fn row(status: u16, code: &'static str, inner: Option<&'static str>, message: impl Into<String>) -> Row {
    Row { status, code, inner, message: message.into() }
}

impl Refusal {
    /// The answer, without the challenge header, which needs to know the tenant.
    pub fn answer(&self) -> Answer {
        let Row { status, code, inner, message } = self.row();
        let mut error = json!({ "code": code, "message": message });
        if let Some(inner) = inner {
            error["innererror"] = json!({ "code": inner });
        }
        let mut headers = Vec::new();
        if let Self::Throttled { retry_after_s } = self {
            headers.push(("retry-after", retry_after_s.to_string()));
        }
        Answer {
            status,
            headers,
            body: json!({ "error": error }),
            codes: Some((code.to_owned(), inner.map(str::to_owned))),
        }
    }

    /// Whether the answer carries the `WWW-Authenticate` challenge.
    pub fn is_challenge(&self) -> bool {
        matches!(self, Self::TokenMissing | Self::TokenRejected(_) | Self::TokenNotResolved)
    }

    fn row(&self) -> Row {
        const FORBIDDEN: &str = "Forbidden";
        match self {
            Self::TokenMissing => {
                row(401, "Unauthorized", None, "AKV10000: Request is missing a Bearer or PoP token.")
            }
            Self::TokenRejected(problem) => row(401, "Unauthorized", None, problem.message()),
            Self::TokenNotResolved => row(
                401,
                "Unauthorized",
                None,
                "AKV10046: Unable to resolve the key used for signature validation.",
            ),
            Self::NoPolicyEntry { caller, vault, location } => row(
                403,
                FORBIDDEN,
                Some("AccessDenied"),
                format!(
                    "Access denied. Caller was not found on any access policy.\r\nCaller: {}\r\nVault: {vault};location={location}",
                    caller.text()
                ),
            ),
            Self::PolicyLacks { caller, permission, vault, location } => row(
                403,
                FORBIDDEN,
                Some("ForbiddenByPolicy"),
                format!(
                    "The user, group or application '{}' does not have keys {permission} permission on key vault '{vault};location={location}'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287",
                    caller.text()
                ),
            ),
            Self::RbacDenies { caller, action, resource, vault, location } => row(
                403,
                FORBIDDEN,
                Some("ForbiddenByRbac"),
                format!(
                    "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: {}\r\nAction: '{action}'\r\nResource: '{resource}'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: null \r\nVault: {vault};location={location}\r\n",
                    caller.text()
                ),
            ),
            Self::Firewall { address, vault, location } => row(
                403,
                FORBIDDEN,
                Some("ForbiddenByFirewall"),
                format!(
                    "Client address is not authorized and caller is not a trusted service.\r\nClient address: {address}\r\nVault: {vault};location={location}"
                ),
            ),
            Self::NotPrivateLink { vault, location } => row(
                403,
                FORBIDDEN,
                Some("ForbiddenByConnection"),
                format!(
                    "Connection is not an approved private link and caller was ignored because bypass is not set to 'AzureServices' and PublicNetworkAccess is set to 'Disabled'.\r\nVault: {vault};location={location}"
                ),
            ),
            Self::KeyDisabled { operation } => row(
                403,
                FORBIDDEN,
                Some("KeyDisabled"),
                format!("Operation {operation} is not allowed on a disabled key."),
            ),
            Self::KeyNotYetValid { operation } => row(
                403,
                FORBIDDEN,
                Some("KeyNotYetValid"),
                format!("Operation {operation} is not allowed on a key that is not yet valid."),
            ),
            // Azure's inner code for this is not recorded publicly.
            Self::KeyExpired { operation } => row(
                403,
                FORBIDDEN,
                Some("KeyExpired"),
                format!("Operation {operation} is not allowed on an expired key."),
            ),
            Self::KeyOperationForbidden { operation } => row(
                403,
                FORBIDDEN,
                Some("KeyOperationForbidden"),
                format!("Operation {operation} is not permitted on this key."),
            ),
            Self::KeyNotFound { name, version } => row(404, "KeyNotFound", None, {
                let id = match version {
                    Some(version) => format!("{name}/{version}"),
                    None => name.clone(),
                };
                format!(
                    "A key with (name/id) {id} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"
                )
            }),
            Self::DeletedKeyNotFound { name } => {
                row(404, "KeyNotFound", None, format!("Deleted Key not found: {name}"))
            }
            Self::ObjectIsDeletedButRecoverable { name } => row(
                409,
                "Conflict",
                Some("ObjectIsDeletedButRecoverable"),
                format!(
                    "Key {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged."
                ),
            ),
            Self::ObjectIsBeingDeleted { name } => row(
                409,
                "Conflict",
                Some("ObjectIsBeingDeleted"),
                format!("Key {name} is currently being deleted and cannot be re-created; retry later."),
            ),
            Self::KeyExists { name } => {
                row(409, "Conflict", None, format!("Key {name} already exists in this key vault."))
            }
            // Azure's wording for this is not recorded publicly.
            Self::PurgeProtected { name } => row(
                403,
                FORBIDDEN,
                None,
                format!(
                    "Operation \"purge\" is not enabled for this vault: purge protection is on (key {name})."
                ),
            ),
            Self::BadParameter(text) => row(400, "BadParameter", None, text.clone()),
            Self::NoSuchPath => {
                row(404, "NotFound", None, "The requested resource does not exist on the server.")
            }
            Self::MethodNotAllowed => {
                row(405, "MethodNotAllowed", None, "The resource does not support the specified HTTP verb.")
            }
            // What Azure answers for a soft-deleted vault is not recorded publicly.
            Self::VaultDeleted { vault } => row(
                404,
                "VaultNotFound",
                None,
                format!("The vault {vault} was not found: it may have been deleted."),
            ),
            Self::Throttled { .. } => row(
                429,
                "Throttled",
                None,
                "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
            ),
            Self::InternalServerError => {
                row(500, "InternalServerError", None, "An internal server error has occurred.")
            }
            Self::ServiceUnavailable => {
                row(503, "ServiceUnavailable", None, "The service is temporarily unavailable; retry later.")
            }
            // What Azure answers to a write during a failover is not recorded publicly.
            Self::FailedOver => row(
                503,
                "ServiceUnavailable",
                Some("VaultIsReadOnly"),
                "The vault is failed over to its paired region and serves only reads and cryptographic operations.",
            ),
            Self::ArmForbidden { caller, action, scope } => row(
                403,
                "AuthorizationFailed",
                None,
                format!(
                    "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
                    caller.app_id, caller.object_id
                ),
            ),
            Self::ArmNotFound { resource, resource_group } => row(
                404,
                "ResourceNotFound",
                None,
                format!(
                    "The Resource '{resource}' under resource group '{resource_group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
                ),
            ),
            Self::ArmDeletedVaultNotFound { vault, location } => row(
                404,
                "DeletedVaultNotFound",
                None,
                format!("The specified deleted vault '{vault}' in '{location}' does not exist."),
            ),
            Self::ConnectionIsFinal { name, status } => row(
                400,
                "BadRequest",
                None,
                format!(
                    "Private endpoint connection {name} is {status} and cannot be changed: make a new endpoint."
                ),
            ),
        }
    }
}

impl Caller {
    fn text(&self) -> String {
        format!("appid={};oid={};iss={}", self.app_id, self.object_id, self.issuer)
    }
}

impl TokenProblem {
    fn message(&self) -> String {
        match self {
            Self::Malformed => "AKV10000: The Bearer token in the request is not a JWT.".to_owned(),
            Self::SigningKey => {
                "AKV10046: Unable to resolve the key used for signature validation.".to_owned()
            }
            Self::Audience { got, wanted } => {
                format!("AKV10022: Invalid audience. Expected {wanted}, found: {got}.")
            }
            Self::Issuer { got, accepted } => {
                format!("AKV10032: Invalid issuer. Expected one of {accepted}, found {got}.")
            }
            // The codes of these two are not recorded publicly.
            Self::Expired => {
                "Error validating token: IDX10223: Lifetime validation failed. The token is expired."
                    .to_owned()
            }
            Self::NotYetValid => {
                "Error validating token: IDX10222: Lifetime validation failed. The token is not yet valid."
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Box<Caller> {
        Box::new(Caller {
            app_id: "app".into(),
            object_id: "object".into(),
            tenant_id: "tenant".into(),
            issuer: "https://sts.windows.net/tenant/".into(),
        })
    }

    /// Status, code, inner code and the part of the message that people and tools look for.
    #[test]
    fn answers_are_worded_as_azures() {
        let (vault, location) = (String::from("v"), String::from("westeurope"));
        let who = "appid=app;oid=object;iss=https://sts.windows.net/tenant/";
        let table: Vec<(Refusal, u16, &str, Option<&str>, String)> = vec![
            (
                Refusal::TokenMissing,
                401,
                "Unauthorized",
                None,
                "Request is missing a Bearer or PoP token.".into(),
            ),
            (
                Refusal::NoPolicyEntry { caller: caller(), vault: vault.clone(), location: location.clone() },
                403,
                "Forbidden",
                Some("AccessDenied"),
                "Access denied. Caller was not found on any access policy.".into(),
            ),
            (
                Refusal::PolicyLacks {
                    caller: caller(),
                    permission: "unwrapKey",
                    vault: vault.clone(),
                    location: location.clone(),
                },
                403,
                "Forbidden",
                Some("ForbiddenByPolicy"),
                format!("The user, group or application '{who}' does not have keys unwrapKey permission on key vault 'v;location=westeurope'."),
            ),
            (
                Refusal::RbacDenies {
                    caller: caller(),
                    action: "Microsoft.KeyVault/vaults/keys/unwrap/action",
                    resource: "/r".into(),
                    vault: vault.clone(),
                    location: location.clone(),
                },
                403,
                "Forbidden",
                Some("ForbiddenByRbac"),
                format!("Caller: {who}\r\nAction: 'Microsoft.KeyVault/vaults/keys/unwrap/action'\r\nResource: '/r'\r\nAssignment: (not found)"),
            ),
            (
                Refusal::Firewall { address: "10.1.2.3".into(), vault: vault.clone(), location: location.clone() },
                403,
                "Forbidden",
                Some("ForbiddenByFirewall"),
                "Client address is not authorized and caller is not a trusted service.\r\nClient address: 10.1.2.3".into(),
            ),
            (
                Refusal::NotPrivateLink { vault: vault.clone(), location },
                403,
                "Forbidden",
                Some("ForbiddenByConnection"),
                "Connection is not an approved private link".into(),
            ),
            (
                Refusal::KeyDisabled { operation: "unwrapKey" },
                403,
                "Forbidden",
                Some("KeyDisabled"),
                "Operation unwrapKey is not allowed on a disabled key.".into(),
            ),
            (
                Refusal::KeyNotYetValid { operation: "wrapKey" },
                403,
                "Forbidden",
                Some("KeyNotYetValid"),
                "not yet valid".into(),
            ),
            (Refusal::KeyExpired { operation: "wrapKey" }, 403, "Forbidden", Some("KeyExpired"), "expired".into()),
            (
                Refusal::KeyOperationForbidden { operation: "decrypt" },
                403,
                "Forbidden",
                Some("KeyOperationForbidden"),
                "Operation decrypt is not permitted on this key.".into(),
            ),
            (
                Refusal::KeyNotFound { name: "k".into(), version: None },
                404,
                "KeyNotFound",
                None,
                "A key with (name/id) k was not found in this key vault. If you recently deleted this key you may be able to recover it".into(),
            ),
            (
                Refusal::ObjectIsDeletedButRecoverable { name: "k".into() },
                409,
                "Conflict",
                Some("ObjectIsDeletedButRecoverable"),
                "Key k is currently in a deleted but recoverable state, and its name cannot be reused".into(),
            ),
            (
                Refusal::ObjectIsBeingDeleted { name: "k".into() },
                409,
                "Conflict",
                Some("ObjectIsBeingDeleted"),
                "Key k is currently being deleted and cannot be re-created; retry later.".into(),
            ),
            (Refusal::BadParameter("what".into()), 400, "BadParameter", None, "what".into()),
            (Refusal::Throttled { retry_after_s: 3 }, 429, "Throttled", None, "too many requests".into()),
            (Refusal::InternalServerError, 500, "InternalServerError", None, "internal server error".into()),
            (
                Refusal::ArmNotFound { resource: "Microsoft.KeyVault/vaults/v".into(), resource_group: "g".into() },
                404,
                "ResourceNotFound",
                None,
                "The Resource 'Microsoft.KeyVault/vaults/v' under resource group 'g' was not found.".into(),
            ),
            (
                Refusal::ArmForbidden {
                    caller: caller(),
                    action: "Microsoft.KeyVault/vaults/read",
                    scope: "/s".into(),
                },
                403,
                "AuthorizationFailed",
                None,
                "does not have authorization to perform action 'Microsoft.KeyVault/vaults/read' over scope '/s'".into(),
            ),
        ];
        for (refusal, status, code, inner, message) in table {
            let answer = refusal.answer();
            let error = &answer.body["error"];
            assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{refusal:?}");
            assert_eq!(error["innererror"]["code"].as_str(), inner, "{refusal:?}");
            assert!(error["message"].as_str().unwrap().contains(&message), "{refusal:?}: {error}");
        }
    }

    #[test]
    fn only_a_throttled_answer_says_when_to_come_back() {
        let header =
            |refusal: &Refusal| refusal.answer().headers.iter().any(|(name, _)| *name == "retry-after");
        assert!(header(&Refusal::Throttled { retry_after_s: 1 }));
        assert!(!header(&Refusal::ServiceUnavailable));
    }
}
