//! What a check has to say about a key and its vault. Pure.

use keyward_model::{Class, KeyIdentifier, Timestamp};

use super::{arm::VaultSetup, transport::Failure};
use crate::{About, Facts, Finding, KeyDescription, Operation, Severity};

const SIZES: [u32; 3] = [2048, 3072, 4096];
/// From so long before its end on, a key's expiry is worth a warning, in milliseconds: 60 days.
const EXPIRY_NOTICE_MS: i64 = 60 * 86_400_000;

/// Type, size, permitted operations, state and dates.
pub(super) fn of_description(described: &KeyDescription, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    let key = &described.key_identifier;
    let mut refuse =
        |about, text: String, hint: &str| found.push(finding(Severity::Refuse, about, None, text, hint));
    if !matches!(described.kty.as_str(), "RSA" | "RSA-HSM") {
        let text = format!("{key} is a key of type {}, not RSA", described.kty);
        refuse(About::KeyKind, text, "make an RSA key of 2048, 3072 or 4096 bits in the vault");
        return found;
    }
    match described.key_size_bits {
        Some(bits) if SIZES.contains(&bits) => {}
        Some(bits) => refuse(
            About::KeyKind,
            format!("{key} has {bits} bits"),
            "make an RSA key of 2048, 3072 or 4096 bits in the vault",
        ),
        None => {
            refuse(About::KeyKind, format!("the vault did not show the public key of {key}"), "report it")
        }
    }
    let permits =
        |names: [&str; 2]| described.key_ops.iter().any(|permitted| names.contains(&permitted.as_str()));
    for (operation, names) in [("wrap", ["wrapKey", "encrypt"]), ("unwrap", ["unwrapKey", "decrypt"])] {
        if !permits(names) {
            refuse(
                About::KeyOperations,
                format!(
                    "{key} does not permit to {operation}: neither {} nor {} is among its operations",
                    names[0], names[1]
                ),
                "add wrapKey and unwrapKey to the key's permitted operations",
            );
        }
    }
    if !described.enabled {
        refuse(
            About::KeyDisabled,
            format!("{key} is disabled"),
            "enable the key version in the vault, or name another one",
        );
    }
    if let Some(not_before) = described.not_before.filter(|at| *at > now) {
        refuse(
            About::KeyNotYetValid,
            format!("{key} is not valid before {not_before}"),
            "move the key's activation date, or name another version",
        );
    }
    match described.expires {
        Some(at) if at <= now => refuse(
            About::KeyExpired,
            format!("{key} has expired on {at}: it unwraps, but wraps nothing"),
            "make a new key version, or move the key's expiration date",
        ),
        Some(at) if at.epoch_ms() - now.epoch_ms() <= EXPIRY_NOTICE_MS => {
            let text = format!("{key} expires on {at}; from then on master keys cannot be rotated under it");
            found.push(finding(
                Severity::Warn,
                About::KeyExpires(at),
                None,
                text,
                "make a new key version before, and rewrap to it",
            ));
        }
        Some(_) | None => {}
    }
    if let Some(level) = &described.recovery_level {
        found.extend(of_recovery_level(key, level));
    }
    found
}

/// What the key's recovery level says of soft delete and purge protection.
fn of_recovery_level(key: &KeyIdentifier, level: &str) -> Option<Finding> {
    let recoverable = level.starts_with("Recoverable") || level.starts_with("CustomizedRecoverable");
    if !recoverable {
        return Some(no_soft_delete(key));
    }
    level.contains("Purgeable").then(|| no_purge_protection(key))
}

/// Whose vault it is, soft delete and purge protection, as ARM shows them.
pub(super) fn of_vault(key: &KeyIdentifier, setup: &VaultSetup, tenant_id: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if !setup.tenant_id.eq_ignore_ascii_case(tenant_id) {
        let text = format!(
            "the vault {} belongs to tenant {}, but tenant {tenant_id} is configured",
            key.vault_host(),
            setup.tenant_id
        );
        found.push(finding(
            Severity::Refuse,
            About::Tenant,
            Some(Class::Misconfigured),
            text,
            Class::Misconfigured.hint(),
        ));
    }
    if !setup.soft_delete {
        found.push(no_soft_delete(key));
    } else if !setup.purge_protection {
        found.push(no_purge_protection(key));
    }
    if setup.unreachable {
        let text = format!(
            "the vault {} is closed to public networks, and no private endpoint connection is approved",
            key.vault_host()
        );
        found.push(finding(
            Severity::Warn,
            About::PrivateNetworking,
            Some(Class::DeniedByPrivateLink),
            text,
            Class::DeniedByPrivateLink.hint(),
        ));
    }
    found
}

/// The client certificate's end, when it is near.
pub(super) fn of_certificate_end(ends: Timestamp, now: Timestamp) -> Option<Finding> {
    let near = ends.epoch_ms() - now.epoch_ms() <= EXPIRY_NOTICE_MS;
    let text =
        format!("the client certificate expires on {ends}; from then on the customer key cannot be asked");
    near.then(|| {
        finding(
            Severity::Warn,
            About::ClientCertificate,
            None,
            text,
            "register a new certificate, and put it in the agent's file",
        )
    })
}

/// ARM was not asked, or did not answer.
pub(super) fn of_unseen_vault(key: &KeyIdentifier, failure: Option<&Failure>) -> Finding {
    let host = key.vault_host();
    let (class, text) = match failure {
        None => (None, format!("how the vault {host} is set up is not checked")),
        Some(failure) => (
            Some(failure.class),
            format!("how the vault {host} is set up could not be checked: {}", failure.facts),
        ),
    };
    let hint = match class {
        None => "give subscription_id and resource_group, and the role Key Vault Reader on the vault",
        Some(_) => {
            "assign the role Key Vault Reader on the vault, and check subscription_id and resource_group"
        }
    };
    finding(Severity::Warn, About::VaultUnseen, class, text, hint)
}

/// A call of the check failed.
pub(super) fn of_failure(operation: Operation, key: &KeyIdentifier, class: Class, facts: &Facts) -> Finding {
    // Entra ID's or ARM's name may be missing too: that is not the vault's.
    if facts.no_such_name && facts.host.as_deref() == Some(key.vault_host()) {
        let text = format!("{operation} {key} did not work: there is no host {}", key.vault_host());
        let hint = "is the name right? compare it with the vault's in the Azure portal";
        return finding(Severity::Refuse, About::NoSuchVault, Some(class), text, hint);
    }
    let denied = matches!(class, Class::DeniedByPolicy | Class::DeniedByRbac | Class::OperationTakenOff);
    let text = if denied {
        let missing = match operation {
            Operation::Describe => "get",
            Operation::Wrap => "wrapKey (or encrypt)",
            Operation::Unwrap => "unwrapKey (or decrypt)",
        };
        format!("the permission {missing} on {key} is missing: {} ({facts})", class.text())
    } else {
        format!("{operation} {key} did not work: {} ({facts})", class.text())
    };
    let hint = match (class, operation) {
        (Class::DeniedByPolicy, Operation::Describe) => {
            "grant get to the application in the vault's access policies"
        }
        _ => class.hint(),
    };
    let about =
        About::Answer { operation, inner_code: facts.inner_code.clone(), retry_after_s: facts.retry_after_s };
    finding(Severity::Refuse, about, Some(class), text, hint)
}

/// The vault unwrapped something else than was wrapped.
pub(super) fn of_wrong_answer(key: &KeyIdentifier) -> Finding {
    let text = format!("{key} did not unwrap to what was wrapped with it");
    let about = About::Answer { operation: Operation::Unwrap, inner_code: None, retry_after_s: None };
    finding(Severity::Refuse, about, Some(Class::BadCiphertext), text, "do not use this key; report it")
}

fn no_soft_delete(key: &KeyIdentifier) -> Finding {
    let text = format!(
        "the vault {} has no soft delete: a deleted key is gone at once, and all data with it",
        key.vault_host()
    );
    finding(Severity::Warn, About::SoftDelete, None, text, "switch soft delete and purge protection on")
}

fn no_purge_protection(key: &KeyIdentifier) -> Finding {
    let text = format!(
        "the vault {} has no purge protection: a deleted key can be purged at once, and all data with it",
        key.vault_host()
    );
    finding(Severity::Warn, About::PurgeProtection, None, text, "switch purge protection on")
}

fn finding(severity: Severity, about: About, class: Option<Class>, text: String, hint: &str) -> Finding {
    Finding { severity, about, class, text, hint: hint.to_owned() }
}
