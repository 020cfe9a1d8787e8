//! May this caller do this, coming from there? Pure: the vault's rules, a caller, an address and `now`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::answer::{Caller, Refusal};
use crate::state::{AccessModel, ConnectionStatus, RoleAssignment, UnixSeconds, Vault};

/// A permission on keys. Serialised as the word that access policies use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Permission {
    Get,
    List,
    Create,
    Import,
    Update,
    Delete,
    Recover,
    Purge,
    Backup,
    Restore,
    WrapKey,
    UnwrapKey,
    Encrypt,
    Decrypt,
    Rotate,
    #[serde(rename = "getrotationpolicy")]
    GetRotationPolicy,
    #[serde(rename = "setrotationpolicy")]
    SetRotationPolicy,
}

/// (permission, word of access policies, data action of role assignments)
const PERMISSIONS: [(Permission, &str, &str); 17] = [
    (Permission::Get, "get", "Microsoft.KeyVault/vaults/keys/read"),
    (Permission::List, "list", "Microsoft.KeyVault/vaults/keys/read"),
    (Permission::Create, "create", "Microsoft.KeyVault/vaults/keys/create/action"),
    (Permission::Import, "import", "Microsoft.KeyVault/vaults/keys/import/action"),
    (Permission::Update, "update", "Microsoft.KeyVault/vaults/keys/update/action"),
    (Permission::Delete, "delete", "Microsoft.KeyVault/vaults/keys/delete"),
    (Permission::Recover, "recover", "Microsoft.KeyVault/vaults/keys/recover/action"),
    (Permission::Purge, "purge", "Microsoft.KeyVault/vaults/keys/purge/action"),
    (Permission::Backup, "backup", "Microsoft.KeyVault/vaults/keys/backup/action"),
    (Permission::Restore, "restore", "Microsoft.KeyVault/vaults/keys/restore/action"),
    (Permission::WrapKey, "wrapKey", "Microsoft.KeyVault/vaults/keys/wrap/action"),
    (Permission::UnwrapKey, "unwrapKey", "Microsoft.KeyVault/vaults/keys/unwrap/action"),
    (Permission::Encrypt, "encrypt", "Microsoft.KeyVault/vaults/keys/encrypt/action"),
    (Permission::Decrypt, "decrypt", "Microsoft.KeyVault/vaults/keys/decrypt/action"),
    (Permission::Rotate, "rotate", "Microsoft.KeyVault/vaults/keys/rotate/action"),
    (
        Permission::GetRotationPolicy,
        "getrotationpolicy",
        "Microsoft.KeyVault/vaults/keyrotationpolicies/read",
    ),
    (
        Permission::SetRotationPolicy,
        "setrotationpolicy",
        "Microsoft.KeyVault/vaults/keyrotationpolicies/write",
    ),
];

impl Permission {
    /// Every permission.
    pub fn all() -> impl Iterator<Item = Self> {
        PERMISSIONS.iter().map(|(permission, _, _)| *permission)
    }

    /// Word of access policies, such as `unwrapKey`.
    pub fn policy_word(self) -> &'static str {
        self.entry().1
    }

    /// Data action of role assignments.
    pub fn data_action(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> &'static (Self, &'static str, &'static str) {
        // Each variant has its row: a test goes through them all.
        PERMISSIONS.iter().find(|(permission, _, _)| *permission == self).unwrap_or(&PERMISSIONS[0])
    }

    /// `read` on keys covers the public-key operations of an RSA key too.
    fn covered_by_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::WrapKey | Self::Encrypt)
    }
}

/// What a list of words in a grant means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Permissions on keys.
    pub permissions: std::collections::BTreeSet<Permission>,
    /// `Microsoft.KeyVault/vaults/read`.
    pub vault_read: bool,
    /// Approving private endpoint connections.
    pub vault_write: bool,
}

/// Roles by name: (name, permissions, reads the vault resource).
const ROLES: [(&str, &[Permission], bool); 4] = [
    (
        "Key Vault Crypto Service Encryption User",
        &[Permission::Get, Permission::List, Permission::WrapKey, Permission::UnwrapKey],
        false,
    ),
    (
        "Key Vault Crypto User",
        &[
            Permission::Get,
            Permission::List,
            Permission::Update,
            Permission::Backup,
            Permission::Encrypt,
            Permission::Decrypt,
            Permission::WrapKey,
            Permission::UnwrapKey,
        ],
        false,
    ),
    ("Key Vault Reader", &[Permission::Get, Permission::List], true),
    ("Reader", &[], true),
];

/// Permission word for everything.
const EVERYTHING: [&str; 3] = ["all", "Key Vault Crypto Officer", "Key Vault Administrator"];

/// Reads the words of a grant: policy words (`unwrapKey`), data actions (`Microsoft.KeyVault/vaults/keys/read`,
/// also without the prefix), role names, `vaults/read`, `vaults/write`, `all`. Fails with the first unknown word.
pub fn read_grant(words: &[String]) -> Result<Granted, String> {
    let mut granted = Granted::default();
    for word in words {
        let long = format!("Microsoft.KeyVault/{word}");
        let same = |known: &str| known.eq_ignore_ascii_case(word) || known.eq_ignore_ascii_case(&long);
        let mut known = false;
        for (permission, policy_word, data_action) in PERMISSIONS {
            if same(policy_word) || same(data_action) {
                granted.permissions.insert(permission);
                known = true;
            }
        }
        if let Some((_, permissions, vault_read)) = ROLES.iter().find(|(name, _, _)| same(name)) {
            granted.permissions.extend(permissions.iter().copied());
            granted.vault_read |= vault_read;
            known = true;
        }
        if EVERYTHING.iter().any(|name| same(name)) {
            granted.permissions.extend(Permission::all());
            granted.vault_read |= !same("all");
            known = true;
        }
        if same("Microsoft.KeyVault/vaults/read") {
            granted.vault_read = true;
            known = true;
        }
        if same("Microsoft.KeyVault/vaults/write") {
            granted.vault_read = true;
            granted.vault_write = true;
            known = true;
        }
        if !known {
            return Err(word.clone());
        }
    }
    Ok(granted)
}

/// The grant that keyward recommends: role *Key Vault Crypto Service Encryption User*.
pub const RECOMMENDED_ROLE: &str = ROLES[0].0;

/// Data plane: may `caller` do this to this key (or to the vault, for lists)?
pub fn authorize(
    vault: &Vault,
    caller: &Caller,
    permission: Permission,
    key: Option<&str>,
    now: UnixSeconds,
) -> Result<(), Refusal> {
    let felt =
        |from: UnixSeconds, until: Option<UnixSeconds>| from <= now && until.is_none_or(|until| now < until);
    match vault.access_model {
        AccessModel::Policy => {
            let mut entries = vault
                .policies
                .iter()
                .filter(|p| p.object_id == caller.object_id && felt(p.from, p.until))
                .peekable();
            if entries.peek().is_none() {
                return Err(Refusal::NoPolicyEntry {
                    caller: Box::new(caller.clone()),
                    vault: vault.name.clone(),
                    location: vault.location.clone(),
                });
            }
            if entries.any(|p| p.permissions.contains(&permission)) {
                return Ok(());
            }
            Err(Refusal::PolicyLacks {
                caller: Box::new(caller.clone()),
                permission: permission.policy_word(),
                vault: vault.name.clone(),
                location: vault.location.clone(),
            })
        }
        AccessModel::Rbac => {
            let reads = [Permission::Get, Permission::List];
            let held = |r: &&RoleAssignment| {
                r.object_id == caller.object_id && felt(r.from, r.until) && r.covers(key)
            };
            let allowed = vault.roles.iter().filter(held).any(|r| {
                r.permissions.contains(&permission)
                    || (permission.covered_by_read() && reads.iter().any(|read| r.permissions.contains(read)))
            });
            if allowed {
                return Ok(());
            }
            let resource = match key {
                Some(key) => format!("{}/keys/{key}", vault.resource_id().to_lowercase()),
                None => vault.resource_id().to_lowercase(),
            };
            Err(Refusal::RbacDenies {
                caller: Box::new(caller.clone()),
                action: permission.data_action(),
                resource,
                vault: vault.name.clone(),
                location: vault.location.clone(),
            })
        }
    }
}

/// ARM: may `caller` read the vault resource, or change it?
pub fn authorize_arm(vault: &Vault, caller: &Caller, write: bool, now: UnixSeconds) -> Result<(), Refusal> {
    let allowed = vault.roles.iter().any(|r| {
        r.object_id == caller.object_id
            && r.from <= now
            && r.until.is_none_or(|until| now < until)
            && if write { r.vault_write } else { r.vault_read }
    });
    if allowed {
        return Ok(());
    }
    Err(Refusal::ArmForbidden {
        caller: Box::new(caller.clone()),
        action: if write {
            "Microsoft.KeyVault/vaults/PrivateEndpointConnectionsApproval/action"
        } else {
            "Microsoft.KeyVault/vaults/read"
        },
        scope: vault.resource_id(),
    })
}

/// Data plane: does the network let this address in?
pub fn admit(vault: &Vault, address: IpAddr) -> Result<(), Refusal> {
    if vault.private_endpoints.values().any(|c| c.status == ConnectionStatus::Approved) {
        return Ok(());
    }
    if !vault.network.public_access {
        return Err(Refusal::NotPrivateLink { vault: vault.name.clone(), location: vault.location.clone() });
    }
    if vault.network.default_allow || vault.network.ip_rules.iter().any(|rule| covers(rule, address)) {
        return Ok(());
    }
    Err(Refusal::Firewall {
        address: address.to_string(),
        vault: vault.name.clone(),
        location: vault.location.clone(),
    })
}

/// Whether an address or CIDR range covers an address. A rule that can't be read covers nothing.
fn covers(rule: &str, address: IpAddr) -> bool {
    let (network, bits) = match rule.split_once('/') {
        Some((network, bits)) => (network.parse(), bits.parse::<u32>().ok()),
        None => (rule.parse(), None),
    };
    match (network, address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(bits.unwrap_or(32));
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(bits.unwrap_or(128));
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        (Ok(_) | Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_permission_has_its_words() {
        let words: BTreeSet<&str> = Permission::all().map(Permission::policy_word).collect();
        assert_eq!(words.len(), PERMISSIONS.len());
        for permission in Permission::all() {
            assert_eq!(permission.entry().0, permission);
            // The word of the policies is the word of the state file.
            assert_eq!(serde_json::to_value(permission).unwrap(), permission.policy_word());
            let granted = read_grant(&[permission.policy_word().to_owned()]).unwrap();
            assert!(granted.permissions.contains(&permission));
        }
    }

    #[test]
    fn the_recommended_role_reads_wraps_and_unwraps_only() {
        let granted = read_grant(&[RECOMMENDED_ROLE.to_owned()]).unwrap();
        let wanted =
            BTreeSet::from([Permission::Get, Permission::List, Permission::WrapKey, Permission::UnwrapKey]);
        assert_eq!((granted.permissions, granted.vault_read), (wanted, false));
    }

    #[test]
    fn grants_are_read_in_every_notation() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let long =
            read_grant(&words(&["Microsoft.KeyVault/vaults/keys/unwrap/action", "vaults/read"])).unwrap();
        let short = read_grant(&words(&["unwrapkey", "Microsoft.KeyVault/vaults/read"])).unwrap();
        assert_eq!(long, short);
        assert!(long.vault_read && !long.vault_write);
        assert_eq!(read_grant(&words(&["get", "fly"])), Err("fly".to_owned()));
        let all = read_grant(&words(&["all"])).unwrap();
        assert_eq!(all.permissions.len(), PERMISSIONS.len());
    }

    #[test]
    fn ranges_cover_what_they_say() {
        let covered = |rule: &str, address: &str| covers(rule, address.parse().unwrap());
        assert!(covered("10.1.0.0/16", "10.1.255.255"));
        assert!(!covered("10.1.0.0/16", "10.2.0.0"));
        assert!(covered("0.0.0.0/0", "203.0.113.9"));
        assert!(covered("2001:db8::/32", "2001:db8:1::1"));
        assert!(!covered("2001:db8::/32", "10.1.0.0"));
        assert!(!covered("nonsense", "10.1.0.0"));
    }
}
