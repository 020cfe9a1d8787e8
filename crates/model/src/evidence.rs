//! What one probe of the customer key saw.

use serde::{Deserialize, Serialize};

use crate::{KeyIdentifier, Timestamp};

/// What a probe's answer means. One variant per case that the operator is told apart.
///
/// The rows follow the Azure Key Vault reference; `keyward-kms` maps answers to classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// The canary was unwrapped and is the right one.
    Success,
    /// The key (version) is disabled.
    KeyDisabled,
    /// The key is deleted but recoverable, and a second call confirmed it.
    KeyDeleted,
    /// The vault is deleted, and a second call (ARM) confirmed it.
    VaultDeleted,
    /// The application is disabled in Entra ID.
    ApplicationDisabled,
    /// No access policy grants the operation.
    DeniedByPolicy,
    /// No role assignment grants the operation.
    DeniedByRbac,
    /// The operation is not in the key's `key_ops`.
    OperationTakenOff,
    /// The key is gone: not found, and not among the deleted keys, or nobody may say.
    KeyPurged,
    /// The application is not in the tenant.
    ApplicationDeleted,
    /// No answer in time.
    TimedOut,
    /// The connection was refused or reset.
    ConnectionFailed,
    /// The vault's or the authority's name does not resolve.
    NameNotResolved,
    /// The TLS handshake failed.
    TlsFailed,
    /// 401 although the token was fresh.
    Unauthorized,
    /// 429, from the vault or from Entra ID.
    Throttled,
    /// 5xx from the vault.
    ServerFault,
    /// 5xx, or a code that says "temporarily unavailable", from Entra ID.
    DirectoryUnavailable,
    /// The vault's firewall refused our address.
    DeniedByFirewall,
    /// Public access is off and our connection is no approved private link.
    DeniedByPrivateLink,
    /// Ours to mend: every client secret given has expired.
    ClientSecretExpired,
    /// Ours to mend: the client secret, certificate or assertion was not accepted.
    CredentialRejected,
    /// Ours to mend: tenant, cloud, audience or another setting is wrong.
    Misconfigured,
    /// The key version has expired or is not yet valid: wraps are refused, unwraps still work.
    KeyNotCurrent,
    /// The vault says that the ciphertext is bad, or the answer is not what was wrapped: data damage or a bug.
    BadCiphertext,
    /// An answer that nothing above describes.
    Malformed,
}

/// How much a class counts towards `Revoked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// Ends any run of refusals.
    Success,
    /// A definite act of the customer: counts towards the short window.
    Strong,
    /// A denial that may be a mistake or lag of propagation: counts towards the long window.
    Denial,
    /// Says nothing about the customer's will.
    Neutral,
}

/// Who has to act on a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Actor {
    /// Nobody.
    Nobody,
    /// The owner of the customer key.
    Customer,
    /// Whoever runs keyward here.
    Operator,
    /// The provider; it passes by itself.
    Provider,
}

impl Class {
    /// Every class, for tables and tests.
    pub const ALL: [Class; 26] = [
        Class::Success,
        Class::KeyDisabled,
        Class::KeyDeleted,
        Class::VaultDeleted,
        Class::ApplicationDisabled,
        Class::DeniedByPolicy,
        Class::DeniedByRbac,
        Class::OperationTakenOff,
        Class::KeyPurged,
        Class::ApplicationDeleted,
        Class::TimedOut,
        Class::ConnectionFailed,
        Class::NameNotResolved,
        Class::TlsFailed,
        Class::Unauthorized,
        Class::Throttled,
        Class::ServerFault,
        Class::DirectoryUnavailable,
        Class::DeniedByFirewall,
        Class::DeniedByPrivateLink,
        Class::ClientSecretExpired,
        Class::CredentialRejected,
        Class::Misconfigured,
        Class::KeyNotCurrent,
        Class::BadCiphertext,
        Class::Malformed,
    ];

    /// The one place that says which classes count (DESIGN rules 3 and 4).
    pub fn weight(self) -> Weight {
        match self {
            Class::Success => Weight::Success,
            Class::KeyDisabled | Class::KeyDeleted | Class::VaultDeleted | Class::ApplicationDisabled => {
                Weight::Strong
            }
            Class::DeniedByPolicy
            | Class::DeniedByRbac
            | Class::OperationTakenOff
            | Class::KeyPurged
            | Class::ApplicationDeleted => Weight::Denial,
            Class::TimedOut
            | Class::ConnectionFailed
            | Class::NameNotResolved
            | Class::TlsFailed
            | Class::Unauthorized
            | Class::Throttled
            | Class::ServerFault
            | Class::DirectoryUnavailable
            | Class::DeniedByFirewall
            | Class::DeniedByPrivateLink
            | Class::ClientSecretExpired
            | Class::CredentialRejected
            | Class::Misconfigured
            | Class::KeyNotCurrent
            | Class::BadCiphertext
            | Class::Malformed => Weight::Neutral,
        }
    }

    /// Who has to act.
    pub fn actor(self) -> Actor {
        match self {
            Class::Success => Actor::Nobody,
            Class::KeyDisabled
            | Class::KeyDeleted
            | Class::VaultDeleted
            | Class::ApplicationDisabled
            | Class::DeniedByPolicy
            | Class::DeniedByRbac
            | Class::OperationTakenOff
            | Class::KeyPurged
            | Class::ApplicationDeleted
            | Class::DeniedByFirewall
            | Class::DeniedByPrivateLink
            | Class::KeyNotCurrent => Actor::Customer,
            Class::TimedOut
            | Class::ConnectionFailed
            | Class::NameNotResolved
            | Class::TlsFailed
            | Class::ClientSecretExpired
            | Class::CredentialRejected
            | Class::Misconfigured
            | Class::BadCiphertext
            | Class::Malformed => Actor::Operator,
            Class::Unauthorized | Class::Throttled | Class::ServerFault | Class::DirectoryUnavailable => {
                Actor::Provider
            }
        }
    }

    /// What happened, in words for a person. No full stop.
    pub fn text(self) -> &'static str {
        match self {
            Class::Success => "the customer key unwraps",
            Class::KeyDisabled => "the customer key is disabled",
            Class::KeyDeleted => "the customer key is deleted",
            Class::VaultDeleted => "the vault is deleted",
            Class::ApplicationDisabled => "the application is disabled in Entra ID",
            Class::DeniedByPolicy => "no access policy lets this application unwrap with the customer key",
            Class::DeniedByRbac => "no role assignment lets this application unwrap with the customer key",
            Class::OperationTakenOff => "unwrapping was taken off the key's permitted operations",
            Class::KeyPurged => "the customer key does not exist (purged, or the key identifier is wrong)",
            Class::ApplicationDeleted => {
                "the application is not in the tenant (deleted, or the tenant is wrong)"
            }
            Class::TimedOut => "no answer in time",
            Class::ConnectionFailed => "no connection",
            Class::NameNotResolved => "the name of the vault or of Entra ID does not resolve",
            Class::TlsFailed => "no secure connection (TLS)",
            Class::Unauthorized => "the vault refused a fresh token",
            Class::Throttled => "requests are being throttled",
            Class::ServerFault => "the vault had a fault of its own",
            Class::DirectoryUnavailable => "Entra ID is unavailable",
            Class::DeniedByFirewall => "the vault's firewall refuses this host's address",
            Class::DeniedByPrivateLink => "the vault is reachable by approved private link only",
            Class::ClientSecretExpired => "our client secret has expired",
            Class::CredentialRejected => "our credential was not accepted by Entra ID",
            Class::Misconfigured => "a setting of ours (tenant, cloud or audience) is wrong",
            Class::KeyNotCurrent => {
                "the customer key has expired or is not yet valid: it unwraps, but wraps nothing"
            }
            Class::BadCiphertext => "the vault could not unwrap the stored ciphertext",
            Class::Malformed => "an answer came that makes no sense",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Class::Success => "nothing to do",
            Class::KeyDisabled => "enable the key version in the vault to start the node again",
            Class::KeyDeleted => "recover the key in the vault to start the node again",
            Class::VaultDeleted => {
                "recover the vault and grant access anew (recovering restores no role assignment)"
            }
            Class::ApplicationDisabled => "enable the application (service principal) in Entra ID",
            Class::DeniedByPolicy => {
                "grant get, wrapKey and unwrapKey to the application in the vault's access policies"
            }
            Class::DeniedByRbac => {
                "assign the role Key Vault Crypto Service Encryption User to the application"
            }
            Class::OperationTakenOff => "add wrapKey and unwrapKey to the key's permitted operations",
            Class::KeyPurged => "restore the key from a vault backup, or correct the key identifier",
            Class::ApplicationDeleted => {
                "restore the application in Entra ID, or correct the client and tenant id"
            }
            Class::TimedOut | Class::ConnectionFailed => {
                "check the network from this host to the vault and to Entra ID; the database runs on"
            }
            Class::NameNotResolved => {
                "check DNS on this host, and that the vault still exists; the database runs on"
            }
            Class::TlsFailed => "check proxies and CA certificates on this host; the database runs on",
            Class::Unauthorized => {
                "usually passes by itself; if not, check the tenant of vault and application"
            }
            Class::Throttled => "passes by itself; check what else uses this vault heavily",
            Class::ServerFault | Class::DirectoryUnavailable => "passes by itself; see Azure's status page",
            Class::DeniedByFirewall => "add this host's egress address to the vault's network rules",
            Class::DeniedByPrivateLink => {
                "approve the private endpoint, and check that DNS gives its private address"
            }
            Class::ClientSecretExpired => "put a new client secret in the agent's secret file",
            Class::CredentialRejected => "check client id, secret or certificate, and the clock of this host",
            Class::Misconfigured => "correct the tenant, cloud or vault in the agent's configuration",
            Class::KeyNotCurrent => "make a new key version, or move the key's dates, then rewrap",
            Class::BadCiphertext => "do not retry: restore the keystore from a snapshot or an export",
            Class::Malformed => "report it with the request id; the database runs on",
        }
    }
}

/// What one probe saw. Holds no key material.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// When the answer came.
    pub at: Timestamp,
    /// What it means.
    pub class: Class,
    /// The customer key that was asked for.
    pub key_identifier: KeyIdentifier,
    /// Who was asked: the host of the vault, of Entra ID or of ARM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP status, when there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Azure's `error.code`, or Entra's `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Azure's `error.innererror.code`, or Entra's `AADSTS…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_code: Option<String>,
    /// `x-ms-keyvault-region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `x-ms-request-id`, or Entra's `trace_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Seconds since the token used was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_age_s: Option<u64>,
    /// The provider's own message, shortened to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DESIGN rules 3 and 4, class by class. A new class has to be put in here by hand.
    #[test]
    fn weights_are_as_the_rules_say() {
        use Weight::{Denial, Neutral, Strong, Success};
        let table = [
            (Class::Success, Success),
            (Class::KeyDisabled, Strong),
            (Class::KeyDeleted, Strong),
            (Class::VaultDeleted, Strong),
            (Class::ApplicationDisabled, Strong),
            (Class::DeniedByPolicy, Denial),
            (Class::DeniedByRbac, Denial),
            (Class::OperationTakenOff, Denial),
            (Class::KeyPurged, Denial),
            (Class::ApplicationDeleted, Denial),
            (Class::TimedOut, Neutral),
            (Class::ConnectionFailed, Neutral),
            (Class::NameNotResolved, Neutral),
            (Class::TlsFailed, Neutral),
            (Class::Unauthorized, Neutral),
            (Class::Throttled, Neutral),
            (Class::ServerFault, Neutral),
            (Class::DirectoryUnavailable, Neutral),
            (Class::DeniedByFirewall, Neutral),
            (Class::DeniedByPrivateLink, Neutral),
            (Class::ClientSecretExpired, Neutral),
            (Class::CredentialRejected, Neutral),
            (Class::Misconfigured, Neutral),
            (Class::KeyNotCurrent, Neutral),
            (Class::BadCiphertext, Neutral),
            (Class::Malformed, Neutral),
        ];
        assert_eq!(table.map(|(class, _)| class), Class::ALL, "the table has every class, in order");
        for (class, weight) in table {
            assert_eq!(class.weight(), weight, "{class:?}");
        }
    }

    /// Whatever weighs towards a revocation is the customer's to give back; what is ours never weighs.
    #[test]
    fn only_what_the_customer_can_mend_weighs() {
        for class in Class::ALL {
            match class.weight() {
                Weight::Strong | Weight::Denial => assert_eq!(class.actor(), Actor::Customer, "{class:?}"),
                Weight::Success => assert_eq!(class.actor(), Actor::Nobody, "{class:?}"),
                Weight::Neutral => assert_ne!(class.actor(), Actor::Nobody, "{class:?}"),
            }
        }
    }

    /// Every class has words of its own, fit to stand in a sentence and after `hint:`.
    #[test]
    fn every_class_has_text_and_hint() {
        let mut texts = std::collections::HashSet::new();
        for class in Class::ALL {
            assert!(texts.insert(class.text()), "{class:?} shares its text");
            for words in [class.text(), class.hint()] {
                assert!(!words.is_empty() && words.len() < 120, "{class:?}: {words}");
                assert!(!words.ends_with('.') && words.trim() == words, "{class:?}: {words}");
            }
        }
    }

    /// The names in JSON are part of the status's format.
    #[test]
    fn names_in_json() {
        let names = serde_json::to_string(&Class::ALL).unwrap();
        assert_eq!(
            names,
            concat!(
                r#"["success","keyDisabled","keyDeleted","vaultDeleted","applicationDisabled","deniedByPolicy","#,
                r#""deniedByRbac","operationTakenOff","keyPurged","applicationDeleted","timedOut","#,
                r#""connectionFailed","nameNotResolved","tlsFailed","unauthorized","throttled","serverFault","#,
                r#""directoryUnavailable","deniedByFirewall","deniedByPrivateLink","clientSecretExpired","#,
                r#""credentialRejected","misconfigured","keyNotCurrent","badCiphertext","malformed"]"#
            )
        );
    }

    #[test]
    fn evidence_leaves_out_what_is_not_known() {
        let evidence = Evidence {
            at: Timestamp::from_epoch_ms(1_800_000_000_000),
            class: Class::TimedOut,
            key_identifier: "https://v.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef"
                .parse()
                .unwrap(),
            host: None,
            http_status: None,
            code: None,
            inner_code: None,
            region: None,
            request_id: None,
            token_age_s: None,
            message: None,
        };
        let text = serde_json::to_string(&evidence).unwrap();
        assert_eq!(
            text,
            r#"{"at":"2027-01-15T08:00:00Z","class":"timedOut","keyIdentifier":"https://v.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef"}"#
        );
        assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
    }
}
