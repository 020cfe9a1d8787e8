//! What the findings of a check mean: accepted, refused for a reason that someone can mend, or not known because
//! something is down. Pure.

use keyward_kms::{About, Finding, Severity};
use keyward_model::{Class, Code, Timestamp, encryption::AzureKeyVault, sync::ValidationFinding};

use crate::http::error::ApiError;

/// A key that expires sooner than this is refused, in milliseconds: 48 hours.
const SHORTEST_LIFE_MS: i64 = 48 * 3_600_000;
/// When to try again after an outage in which nobody said when, in seconds.
const RETRY_AFTER_S: u64 = 30;
/// The longest wait that is passed on, in seconds.
const LONGEST_RETRY_AFTER_S: u64 = 3_600;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The key can be used.
    Accepted {
        /// What needs attention all the same, in sentences.
        warnings: Vec<String>,
    },
    /// Someone has to act: which code says who, the sentences what.
    Refused {
        /// The code of the gravest finding.
        code: Code,
        /// All that was found, each with what to do.
        findings: Vec<String>,
    },
    /// Nothing is known: vault or directory are out, or the way to them.
    Unknown {
        /// Why, in sentences.
        findings: Vec<String>,
        /// When to come again, in seconds: as the vault said, where it said so.
        retry_after_s: u64,
        /// Whether the vault's name is said not to exist. Mistyped, or deleted, or a resolver that lost its zone.
        no_such_vault: bool,
    },
}

/// Reads the findings of a check made at `now`.
pub fn outcome(findings: &[Finding], now: Timestamp) -> Outcome {
    let mut refused: Vec<(Code, String)> = Vec::new();
    let (mut unknown, mut warnings) = (Outages::default(), Vec::new());
    for finding in findings {
        let sentence = sentence(&finding.text, &finding.hint);
        match meaning(finding, now) {
            Meaning::Refusal(code) => refused.push((code, sentence)),
            Meaning::Outage => {
                unknown.add(sentence, finding.about.retry_after_s());
                unknown.no_such_vault |= finding.about == About::NoSuchVault;
            }
            Meaning::Warning => warnings.push(sentence),
        }
    }
    sum_up(refused, unknown, warnings)
}

/// Reads what a node found on the server's behalf.
pub fn outcome_of_node(node: &str, findings: &[ValidationFinding]) -> Outcome {
    let (mut refused, mut unknown, mut warnings) = (Vec::new(), Outages::default(), Vec::new());
    for finding in findings {
        let said = format!("Seen from node {node}: {}", sentence(&finding.text, &finding.hint));
        let meaning = match (finding.refuses, finding.class) {
            (false, _) => Meaning::Warning,
            (true, Some(class)) => of_answer(class, None),
            (true, None) if finding.outage => Meaning::Outage,
            // About the key itself, or the node's own pins.
            (true, None) => Meaning::Refusal(Code::AzureKeyVaultKeyNotSuitable),
        };
        match meaning {
            Meaning::Refusal(code) => refused.push((code, said)),
            Meaning::Outage => unknown.add(said, finding.retry_after_s),
            Meaning::Warning => warnings.push(said),
        }
    }
    sum_up(refused, unknown, warnings)
}

/// What keeps a check from knowing anything.
#[derive(Default)]
struct Outages {
    findings: Vec<String>,
    /// The longest wait that was asked for, in seconds.
    asked_to_wait: Option<u64>,
    no_such_vault: bool,
}

impl Outages {
    fn add(&mut self, finding: String, asked_to_wait: Option<u64>) {
        self.findings.push(finding);
        self.asked_to_wait = self.asked_to_wait.max(asked_to_wait);
    }
}

/// One refusal is enough to refuse, an outage beside it or not: what was refused will not mend by waiting.
fn sum_up(refused: Vec<(Code, String)>, unknown: Outages, warnings: Vec<String>) -> Outcome {
    if let Some((code, _)) = refused.first() {
        let code = *code;
        return Outcome::Refused { code, findings: refused.into_iter().map(|(_, said)| said).collect() };
    }
    let Outages { findings, asked_to_wait, no_such_vault } = unknown;
    if findings.is_empty() {
        return Outcome::Accepted { warnings };
    }
    let retry_after_s = asked_to_wait.unwrap_or(RETRY_AFTER_S).clamp(1, LONGEST_RETRY_AFTER_S);
    Outcome::Unknown { findings, retry_after_s, no_such_vault }
}

impl Outcome {
    /// Nothing is known, for these reasons.
    pub fn unknown(reasons: impl IntoIterator<Item = String>) -> Self {
        Outcome::Unknown {
            findings: reasons.into_iter().collect(),
            retry_after_s: RETRY_AFTER_S,
            no_such_vault: false,
        }
    }

    /// With one more thing to tell.
    pub fn with(mut self, sentence: String) -> Self {
        match &mut self {
            Outcome::Accepted { warnings: told }
            | Outcome::Refused { findings: told, .. }
            | Outcome::Unknown { findings: told, .. } => told.push(sentence),
        }
        self
    }

    /// As an answer to who asked for the change; `None` when it is accepted. `named_anew`: the vault's name is not
    /// the one that is stored, so that a name that does not exist is a mistake in the request. One that worked before
    /// is an outage, whatever the resolver says.
    pub fn refusal(&self, vault: &AzureKeyVault, named_anew: bool) -> Option<ApiError> {
        match self {
            Outcome::Accepted { .. } => None,
            Outcome::Refused { code: code @ Code::InvalidAzureCredentials, findings } => {
                let whose = format!(
                    "Entra ID refused the credential of application {} in tenant {}, which was configured for \
                     this project; it is not your keyward API key that was refused.",
                    vault.client_id, vault.tenant_id
                );
                Some(ApiError::new(*code).detail(format!("{whose} {}", findings.join(" "))))
            }
            Outcome::Refused { code, findings } => {
                Some(ApiError::new(*code).detail(findings.join(" ")).param(&vault.key_identifier))
            }
            Outcome::Unknown { findings, no_such_vault: true, .. } if named_anew => Some(
                ApiError::new(Code::AzureKeyVaultNotFound)
                    .detail(findings.join(" "))
                    .param(&vault.key_vault_name),
            ),
            Outcome::Unknown { findings, retry_after_s, .. } => Some(
                ApiError::new(Code::AzureKeyVaultUnavailable)
                    .detail(findings.join(" "))
                    .param(&vault.key_identifier)
                    .retry_after_s(*retry_after_s),
            ),
        }
    }

    /// Whether another try a few seconds later may end otherwise, when credential or grant are new: Azure tells its
    /// own parts of them one after another.
    pub fn may_be_lag(&self) -> bool {
        match self {
            Outcome::Refused { code, .. } => {
                matches!(code, Code::InvalidAzureCredentials | Code::NoPermissionToEncryptDecrypt)
            }
            Outcome::Accepted { .. } | Outcome::Unknown { .. } => false,
        }
    }

    /// Whether it tells that this host may not, or cannot, reach the vault over the network, while a node might.
    pub fn is_about_the_way(&self) -> bool {
        match self {
            Outcome::Refused { code, .. } => *code == Code::AzureKeyVaultNetworkAccessDenied,
            Outcome::Unknown { .. } => true,
            Outcome::Accepted { .. } => false,
        }
    }
}

enum Meaning {
    Refusal(Code),
    Outage,
    Warning,
}

fn meaning(finding: &Finding, now: Timestamp) -> Meaning {
    if let About::KeyExpires(at) = finding.about
        && at.epoch_ms().saturating_sub(now.epoch_ms()) < SHORTEST_LIFE_MS
    {
        return Meaning::Refusal(Code::AzureKeyVaultKeyExpiring);
    }
    if finding.severity == Severity::Warn {
        return Meaning::Warning;
    }
    Meaning::Refusal(match &finding.about {
        About::KeyKind | About::KeyOperations => Code::AzureKeyVaultKeyNotSuitable,
        About::KeyDisabled => Code::AzureKeyVaultKeyNotEnabled,
        About::KeyNotYetValid => Code::AzureKeyVaultKeyNotActive,
        About::KeyExpired => Code::AzureKeyVaultKeyExpired,
        About::KeyExpires(_) => Code::AzureKeyVaultKeyExpiring,
        About::Tenant => Code::InvalidAzureApiRequest,
        About::SoftDelete | About::PurgeProtection | About::VaultUnseen => Code::InvalidAzureApiRequest,
        About::PrivateNetworking => Code::AzureKeyVaultNetworkAccessDenied,
        About::NoSuchVault => return Meaning::Outage,
        About::ClientCertificate => Code::InvalidAzureCredentials,
        About::Answer { inner_code, .. } => match finding.class {
            Some(class) => return of_answer(class, inner_code.as_deref()),
            None => Code::InvalidAzureApiRequest,
        },
    })
}

fn of_answer(class: Class, inner_code: Option<&str>) -> Meaning {
    Meaning::Refusal(match class {
        Class::KeyDeleted | Class::VaultDeleted | Class::KeyPurged => Code::AzureKeyVaultKeyNotFound,
        Class::KeyDisabled => Code::AzureKeyVaultKeyNotEnabled,
        Class::KeyNotCurrent => Code::AzureKeyVaultKeyNotActive,
        Class::DeniedByPolicy | Class::DeniedByRbac | Class::OperationTakenOff => {
            Code::NoPermissionToEncryptDecrypt
        }
        Class::ApplicationDisabled
        | Class::ApplicationDeleted
        | Class::ClientSecretExpired
        | Class::CredentialRejected => Code::InvalidAzureCredentials,
        Class::Misconfigured => match inner_code {
            // Entra ID speaks: the tenant or the application is not what was said.
            Some(inner) if inner.starts_with("AADSTS") => Code::InvalidAzureCredentials,
            Some(_) | None => Code::InvalidAzureApiRequest,
        },
        Class::DeniedByFirewall | Class::DeniedByPrivateLink => Code::AzureKeyVaultNetworkAccessDenied,
        Class::BadCiphertext => Code::AzureKeyVaultKeyNotSuitable,
        Class::TimedOut
        | Class::ConnectionFailed
        | Class::NameNotResolved
        | Class::TlsFailed
        | Class::Unauthorized
        | Class::Throttled
        | Class::ServerFault
        | Class::DirectoryUnavailable
        | Class::Malformed
        | Class::Success => return Meaning::Outage,
    })
}

/// `What was found; hint: what to do.`
fn sentence(text: &str, hint: &str) -> String {
    let mut chars = text.chars();
    let first: String = match chars.next() {
        // A URL is not a word to be capitalized.
        Some(first) if !text.starts_with("http") => first.to_uppercase().collect(),
        Some(first) => first.to_string(),
        None => String::new(),
    };
    format!("{first}{} ({hint}).", chars.as_str())
}

#[cfg(test)]
mod tests {
    use keyward_kms::Operation;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn now() -> Timestamp {
        Timestamp::from_epoch_ms(1_790_000_000_000)
    }

    fn finding(severity: Severity, about: About, class: Option<Class>) -> Finding {
        Finding { severity, about, class, text: "it is so".into(), hint: "do this".into() }
    }

    fn answer(class: Class, inner_code: Option<&str>) -> Finding {
        let inner_code = inner_code.map(str::to_owned);
        let about = About::Answer { operation: Operation::Wrap, inner_code, retry_after_s: None };
        finding(Severity::Refuse, about, Some(class))
    }

    fn vault() -> AzureKeyVault {
        AzureKeyVault {
            azure_environment: Default::default(),
            client_id: "c".into(),
            tenant_id: "t".into(),
            subscription_id: "s".into(),
            resource_group_name: "g".into(),
            key_vault_name: "contoso".into(),
            key_identifier: "https://contoso.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef".into(),
            role_id: None,
            require_private_networking: false,
        }
    }

    fn code(finding: Finding) -> Option<Code> {
        match outcome(&[finding], now()) {
            Outcome::Refused { code, .. } => Some(code),
            Outcome::Unknown { .. } => Some(Code::AzureKeyVaultUnavailable),
            Outcome::Accepted { .. } => None,
        }
    }

    #[test]
    fn no_finding_is_acceptance_and_a_warning_too() {
        assert_eq!(outcome(&[], now()), Outcome::Accepted { warnings: vec![] });
        let warned = outcome(&[finding(Severity::Warn, About::PurgeProtection, None)], now());
        assert_eq!(warned, Outcome::Accepted { warnings: vec!["It is so (do this).".into()] });
    }

    #[test]
    fn the_key_itself_has_its_codes() {
        for (about, expected) in [
            (About::KeyKind, Code::AzureKeyVaultKeyNotSuitable),
            (About::KeyOperations, Code::AzureKeyVaultKeyNotSuitable),
            (About::KeyDisabled, Code::AzureKeyVaultKeyNotEnabled),
            (About::KeyNotYetValid, Code::AzureKeyVaultKeyNotActive),
            (About::KeyExpired, Code::AzureKeyVaultKeyExpired),
            (About::Tenant, Code::InvalidAzureApiRequest),
        ] {
            assert_eq!(code(finding(Severity::Refuse, about, None)), Some(expected));
        }
    }

    #[test]
    fn a_key_that_ends_within_48_hours_is_refused_and_later_warned_of() {
        let ends = |hours: i64| {
            let at = Timestamp::from_epoch_ms(now().epoch_ms() + hours * HOUR_MS);
            code(finding(Severity::Warn, About::KeyExpires(at), None))
        };
        assert_eq!(ends(47), Some(Code::AzureKeyVaultKeyExpiring));
        assert_eq!(ends(48), None);
        assert_eq!(ends(24 * 59), None);
    }

    /// Rule 3, at the API: what says nothing of the customer's will is 503, and nothing else is.
    #[test]
    fn an_outage_is_no_refusal() {
        use keyward_model::Weight;
        for class in Class::ALL {
            let found = code(answer(class, None));
            match class.weight() {
                Weight::Strong | Weight::Denial => {
                    assert_ne!(found, Some(Code::AzureKeyVaultUnavailable), "{class:?}");
                }
                Weight::Success | Weight::Neutral => {}
            }
            let down = matches!(
                class,
                Class::TimedOut
                    | Class::ConnectionFailed
                    | Class::NameNotResolved
                    | Class::TlsFailed
                    | Class::Unauthorized
                    | Class::Throttled
                    | Class::ServerFault
                    | Class::DirectoryUnavailable
                    | Class::Malformed
                    | Class::Success
            );
            assert_eq!(found == Some(Code::AzureKeyVaultUnavailable), down, "{class:?}");
        }
    }

    #[test]
    fn a_refusal_counts_more_than_an_outage_beside_it() {
        let found = outcome(&[answer(Class::TimedOut, None), answer(Class::KeyDisabled, None)], now());
        let Outcome::Refused { code, findings } = found else { panic!("{found:?}") };
        assert_eq!((code, findings.len()), (Code::AzureKeyVaultKeyNotEnabled, 1));
    }

    /// Rule 3: the name of a vault that worked may vanish for reasons of its own. A name that was typed just now is
    /// another matter.
    #[test]
    fn a_name_that_does_not_exist_is_the_callers_mistake_only_when_it_is_new() {
        let missing = finding(Severity::Refuse, About::NoSuchVault, Some(Class::NameNotResolved));
        let came_to = outcome(&[missing], now());
        assert!(matches!(came_to, Outcome::Unknown { no_such_vault: true, .. }), "{came_to:?}");
        let refusal = |named_anew| came_to.refusal(&vault(), named_anew).unwrap();
        let (new, stored) = (refusal(true), refusal(false));
        assert_eq!((new.code(), new.wait_s()), (Code::AzureKeyVaultNotFound, None));
        assert!(new.status().is_client_error());
        assert_eq!((stored.code(), stored.wait_s()), (Code::AzureKeyVaultUnavailable, Some(30)));
        // A resolver that does not answer says nothing of the name.
        let silent = outcome(&[answer(Class::NameNotResolved, None)], now());
        assert_eq!(silent.refusal(&vault(), true).unwrap().code(), Code::AzureKeyVaultUnavailable);
    }

    #[test]
    fn the_vaults_own_wait_is_passed_on() {
        let asks = |class, retry_after_s| {
            let about = About::Answer { operation: Operation::Wrap, inner_code: None, retry_after_s };
            finding(Severity::Refuse, about, Some(class))
        };
        let wait = |findings: &[Finding]| outcome(findings, now()).refusal(&vault(), false).unwrap().wait_s();
        assert_eq!(wait(&[asks(Class::Throttled, Some(7))]), Some(7));
        assert_eq!(wait(&[asks(Class::Throttled, Some(7)), asks(Class::ServerFault, Some(90))]), Some(90));
        assert_eq!(wait(&[asks(Class::TimedOut, None)]), Some(30));
        assert_eq!(wait(&[asks(Class::Throttled, Some(0))]), Some(1));
        assert_eq!(wait(&[asks(Class::ServerFault, Some(1_000_000))]), Some(3_600));
        // A refusal has nothing to wait for.
        assert_eq!(wait(&[asks(Class::KeyDisabled, Some(7))]), None);

        // A node that asked on the server's behalf passes it on too.
        let seen = |class: Class, retry_after_s| ValidationFinding {
            refuses: true,
            outage: true,
            text: "it is so".into(),
            hint: "do this".into(),
            class: Some(class),
            retry_after_s,
        };
        let wait = |findings: &[ValidationFinding]| {
            outcome_of_node("n1", findings).refusal(&vault(), false).unwrap().wait_s()
        };
        assert_eq!(wait(&[seen(Class::Throttled, Some(7))]), Some(7));
        assert_eq!(wait(&[seen(Class::Throttled, Some(7)), seen(Class::ServerFault, Some(90))]), Some(90));
        assert_eq!(wait(&[seen(Class::TimedOut, None)]), Some(30));
        assert_eq!(wait(&[seen(Class::ServerFault, Some(1_000_000))]), Some(3_600));
        assert_eq!(wait(&[seen(Class::KeyDisabled, Some(7))]), None);
    }

    #[test]
    fn entra_id_and_the_vault_are_told_apart() {
        assert_eq!(
            code(answer(Class::Misconfigured, Some("AADSTS90002"))),
            Some(Code::InvalidAzureCredentials)
        );
        assert_eq!(code(answer(Class::Misconfigured, None)), Some(Code::InvalidAzureApiRequest));
        assert_eq!(code(answer(Class::CredentialRejected, None)), Some(Code::InvalidAzureCredentials));
    }

    #[test]
    fn what_a_node_found_is_said_with_its_name() {
        let of = |refuses, outage| {
            let text = "the key is odd".to_owned();
            let hint = "look".to_owned();
            let finding = ValidationFinding { refuses, outage, text, hint, class: None, retry_after_s: None };
            outcome_of_node("n1", &[finding])
        };
        assert!(matches!(of(true, false), Outcome::Refused { findings, .. }
            if findings == ["Seen from node n1: The key is odd (look)."]));
        assert!(matches!(of(true, true), Outcome::Unknown { .. }));
        assert!(matches!(of(false, false), Outcome::Accepted { warnings } if warnings.len() == 1));
    }
}
