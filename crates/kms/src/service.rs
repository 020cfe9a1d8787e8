//! What a key service can do, and what it says when it cannot.

use std::fmt;

use async_trait::async_trait;
use keyward_model::{Class, Evidence, KeyIdentifier, Timestamp};
use zeroize::Zeroizing;

/// A service that holds customer keys and works with them on request.
#[async_trait]
pub trait KeyService: Send + Sync + fmt::Debug {
    /// Reads the public side of a customer key.
    async fn describe(&self, key: &KeyIdentifier) -> Result<KeyDescription, KmsError>;

    /// Wraps up to 190 bytes with RSA-OAEP-256 under exactly this version of the customer key.
    async fn wrap(&self, key: &KeyIdentifier, plaintext: &[u8]) -> Result<Vec<u8>, KmsError>;

    /// Unwraps what [`KeyService::wrap`] made. The plaintext is wiped when dropped.
    async fn unwrap(
        &self,
        key: &KeyIdentifier,
        ciphertext: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), KmsError>;

    /// Unwraps the canary and says what was seen. Never fails: the evidence says it.
    ///
    /// A deleted key or vault is reported as such only when a second call confirmed it. The token used is at
    /// most 15 minutes old where the credential allows that.
    async fn probe(
        &self,
        key: &KeyIdentifier,
        canary_ciphertext: &[u8],
        canary_sha256: &[u8; 32],
    ) -> Evidence;

    /// The newest version of the key that `key` is a version of.
    async fn latest_version(&self, key: &KeyIdentifier) -> Result<KeyIdentifier, KmsError>;

    /// Tries out whether this customer key will do, before anything depends on it.
    ///
    /// Wraps and unwraps random bytes. No finding at all means that everything is as it should be.
    async fn check(&self, key: &KeyIdentifier) -> Vec<Finding>;
}

/// The public side of one version of a customer key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// The identifier the service gave, with the version.
    pub key_identifier: KeyIdentifier,
    /// `RSA`, `RSA-HSM`, `EC`, …
    pub kty: String,
    /// Size of the modulus; `None` when it is not an RSA key.
    pub key_size_bits: Option<u32>,
    /// What the key may be used for, in Azure's words (`wrapKey`, `unwrapKey`, …).
    pub key_ops: Vec<String>,
    /// Whether the version is enabled.
    pub enabled: bool,
    /// Before this moment the service refuses wraps.
    pub not_before: Option<Timestamp>,
    /// From this moment on the service refuses wraps.
    pub expires: Option<Timestamp>,
    /// `Recoverable+Purgeable`, `Recoverable`, …
    pub recovery_level: Option<String>,
    /// SHA-256 of the public key's DER `SubjectPublicKeyInfo`, hexadecimal; empty when it is not an RSA key.
    pub public_key_sha256: String,
}

/// What is known of one answer, or of its absence. Holds no key material and no token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who was asked: the host of the vault, of Entra ID or of ARM.
    pub host: Option<String>,
    /// HTTP status, when there was an answer.
    pub http_status: Option<u16>,
    /// Azure's `error.code`, or Entra's `error`.
    pub code: Option<String>,
    /// Azure's `error.innererror.code`, or Entra's `AADSTS…`.
    pub inner_code: Option<String>,
    /// `x-ms-keyvault-region`: the only visible sign of a failover.
    pub region: Option<String>,
    /// `x-ms-request-id`, or Entra's `trace_id`.
    pub request_id: Option<String>,
    /// Seconds since the token used was issued.
    pub token_age_s: Option<u64>,
    /// `Retry-After` of the answer, in seconds.
    pub retry_after_s: Option<u64>,
    /// Whether the host's name was said not to exist. No evidence of anything: a person may have mistyped it.
    pub no_such_name: bool,
    /// The service's own message, at most 500 characters.
    pub message: Option<String>,
}

impl Facts {
    /// As evidence of `class`, seen at `at`.
    pub fn into_evidence(self, class: Class, key: &KeyIdentifier, at: Timestamp) -> Evidence {
        Evidence {
            at,
            class,
            key_identifier: key.clone(),
            host: self.host,
            http_status: self.http_status,
            code: self.code,
            inner_code: self.inner_code,
            region: self.region,
            request_id: self.request_id,
            token_age_s: self.token_age_s,
            message: self.message,
        }
    }
}

impl fmt::Display for Facts {
    /// `403 Forbidden/KeyDisabled from v1.vault.azure.net, "…", request id …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes: Vec<&str> =
            [&self.code, &self.inner_code].into_iter().flatten().map(String::as_str).collect();
        match self.http_status {
            Some(status) if codes.is_empty() => write!(f, "{status}")?,
            Some(status) => write!(f, "{status} {}", codes.join("/"))?,
            None => f.write_str("no answer")?,
        }
        if let Some(host) = &self.host {
            write!(f, " from {host}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ", \"{message}\"")?;
        }
        if let Some(request_id) = &self.request_id {
            write!(f, ", request id {request_id}")?;
        }
        Ok(())
    }
}

/// What was being done with a customer key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading its public side.
    Describe,
    /// Wrapping.
    Wrap,
    /// Unwrapping.
    Unwrap,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Describe => "reading",
            Operation::Wrap => "wrapping with",
            Operation::Unwrap => "unwrapping with",
        })
    }
}

/// Why a call to a key service did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {key_identifier}: {} ({facts})", class.text())]
pub struct KmsError {
    /// What it means; never [`Class::Success`].
    pub class: Class,
    /// What was being done.
    pub operation: Operation,
    /// To which customer key.
    pub key_identifier: KeyIdentifier,
    /// What is known of the answer.
    pub facts: Box<Facts>,
}

impl KmsError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        self.class.hint()
    }

    /// As evidence, seen at `at`.
    pub fn into_evidence(self, at: Timestamp) -> Evidence {
        self.facts.into_evidence(self.class, &self.key_identifier, at)
    }
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth a person's attention; the key works.
    Warn,
    /// The key cannot be used as it is.
    Refuse,
}

/// Something that [`KeyService::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// What it is about.
    pub about: About,
    /// The class of the answer behind it, when it was an answer: tells a refusal from an outage.
    pub class: Option<Class>,
    /// What was found, with the service's own reason.
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The key's type or size.
    KeyKind,
    /// The operations that the key permits to anyone.
    KeyOperations,
    /// The key version is disabled.
    KeyDisabled,
    /// The key version is not valid yet.
    KeyNotYetValid,
    /// The key version has expired.
    KeyExpired,
    /// The key version expires at this moment.
    KeyExpires(Timestamp),
    /// What came of a call.
    Answer {
        /// Of which.
        operation: Operation,
        /// The innermost code of the answer: Azure's, or Entra's `AADSTS…`.
        inner_code: Option<String>,
        /// When the service asks to come again, in seconds.
        retry_after_s: Option<u64>,
    },
    /// The vault's name does not exist.
    NoSuchVault,
    /// The vault's tenant.
    Tenant,
    /// The vault's soft delete.
    SoftDelete,
    /// The vault's purge protection.
    PurgeProtection,
    /// The vault is closed to public networks, and no private endpoint is approved.
    PrivateNetworking,
    /// The vault's set-up could not be looked at.
    VaultUnseen,
    /// The client certificate's end.
    ClientCertificate,
}

impl About {
    /// When the service asks to come again, in seconds.
    pub fn retry_after_s(&self) -> Option<u64> {
        if let Self::Answer { retry_after_s, .. } = self { *retry_after_s } else { None }
    }
}

/// The worst severity among `findings`; `None` when there is none.
pub fn highest_severity(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}
