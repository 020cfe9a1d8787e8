//! Everything the development vault remembers, as values.
//!
//! Each operation is a function of the state and `now`; none reads the clock, the disk or a random source. What
//! a step needs of those (new key material, new ids) is passed in.

mod directory;
mod keys;
mod rotation;
mod vault;

use serde::{Deserialize, Serialize};

pub use directory::{
    Application, ApplicationCertificate, ApplicationSecret, Directory, FederatedCredential, Secret,
    SigningKey,
};
pub(crate) use keys::check_times;
pub use keys::{DeletedKey, Key, KeyChange, KeyVersion, NewVersion};
pub use rotation::{Action, LifetimeAction, RotationPolicy, Trigger, add_duration};
pub use vault::{
    AccessModel, ConnectionStatus, NetworkRules, PolicyEntry, PrivateEndpointConnection, RoleAssignment,
    Vault, VaultDeletion,
};

use crate::fault::ActiveFault;

/// Seconds since the Unix epoch, as Azure writes them.
pub type UnixSeconds = i64;

/// The format of `state.json` that this build writes.
pub const FORMAT: u32 = 1;

/// The whole state of one development vault, its tenant included.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Version of this format; see [`FORMAT`].
    pub format: u32,
    /// What the admin API asks for.
    pub admin_token: Secret,
    /// Ports that were picked at the first start and are kept: key identifiers contain one.
    pub ports: Ports,
    /// The application that `vault.json` names.
    pub first_client_id: String,
    /// The tenant: applications and the keys that sign tokens.
    pub directory: Directory,
    /// The token endpoint, when it is another vault's: both belong to one tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The vault itself.
    pub vault: Vault,
    /// Knobs of the double.
    pub settings: Settings,
    /// Faults that are on; those whose time is over are ignored.
    pub faults: Vec<ActiveFault>,
}

/// Ports of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ports {
    /// Data plane.
    pub vault: u16,
    /// Entra, ARM and the admin API.
    pub directory: u16,
}

/// Knobs of the double that Azure has no counterpart for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Life of an access token, seconds.
    pub token_lifetime_s: u32,
    /// How long a grant or its removal takes to be felt, seconds.
    pub grant_delay_s: u32,
    /// How long a key is "being deleted" before it can be found among the deleted keys, seconds.
    pub deletion_delay_s: u32,
    /// Added to the clock of the machine: lets expiry, rotation and retention be seen without waiting.
    pub clock_offset_s: i64,
    /// `Retry-After` of a throttled answer, seconds.
    pub retry_after_s: u32,
    /// Delay of each answer under the fault `slow`, milliseconds.
    pub slow_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_lifetime_s: 3599,
            grant_delay_s: 0,
            deletion_delay_s: 0,
            clock_offset_s: 0,
            retry_after_s: 2,
            slow_ms: 5000,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::material::Material;

    static MATERIAL: LazyLock<Material> = LazyLock::new(|| Material::make(2048).unwrap());

    fn empty_vault() -> Vault {
        Vault {
            name: "v".into(),
            location: "westeurope".into(),
            subscription_id: "s".into(),
            resource_group: "g".into(),
            sku: "premium".into(),
            access_model: AccessModel::Rbac,
            purge_protection: false,
            retention_days: 90,
            created: 0,
            network: NetworkRules::default(),
            private_endpoints: BTreeMap::new(),
            policies: Vec::new(),
            roles: Vec::new(),
            keys: BTreeMap::new(),
            deleted_keys: BTreeMap::new(),
            deletion: None,
        }
    }

    fn new_version(number: usize) -> NewVersion {
        NewVersion {
            version: format!("{number:032x}"),
            kty: "RSA".into(),
            key_ops: vec!["wrapKey".into()],
            enabled: true,
            not_before: None,
            expires: None,
            tags: BTreeMap::new(),
            material: MATERIAL.clone(),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8),
        Disable(u8),
        Delete(u8),
        Recover(u8),
        Purge(u8),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..3u8).prop_map(Step::Add),
            1 => (0..3u8).prop_map(Step::Disable),
            2 => (0..3u8).prop_map(Step::Delete),
            2 => (0..3u8).prop_map(Step::Recover),
            1 => (0..3u8).prop_map(Step::Purge),
            1 => (0..50 * 86_400i64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// A name is live or deleted, never both; versions only come; what is deleted comes back whole or, after
        /// a purge or its retention, never; the state file says all of it.
        #[test]
        fn keys_live_and_die_by_the_rules(steps in prop::collection::vec(step(), 1..40)) {
            let mut vault = empty_vault();
            let mut now = 1_000_000;
            let mut ever: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                let name = |n: u8| format!("k{n}");
                let before = vault.clone();
                let was_live = |n: u8| before.keys.contains_key(&name(n));
                let was_deleted = |n: u8| before.deleted_keys.contains_key(&name(n));
                match step {
                    Step::Add(n) => {
                        let added = vault.add_version(&name(n), new_version(number), now);
                        prop_assert_eq!(added.is_ok(), !was_deleted(n));
                        if added.is_ok() {
                            ever.entry(name(n)).or_default().push(format!("{number:032x}"));
                        }
                    }
                    Step::Disable(n) => {
                        let change = KeyChange { enabled: Some(false), ..KeyChange::default() };
                        prop_assert_eq!(vault.change_version(&name(n), None, change, now).is_ok(), was_live(n));
                    }
                    Step::Delete(n) => prop_assert_eq!(vault.delete_key(&name(n), now, 0).is_ok(), was_live(n)),
                    Step::Recover(n) => prop_assert_eq!(vault.recover_key(&name(n), now).is_ok(), was_deleted(n)),
                    Step::Purge(n) => {
                        prop_assert_eq!(vault.purge_key(&name(n), now).is_ok(), was_deleted(n));
                        if was_deleted(n) {
                            ever.remove(&name(n));
                        }
                    }
                    Step::Wait(seconds) => {
                        now += seconds;
                        for (name, deleted) in &before.deleted_keys {
                            if deleted.scheduled_purge <= now {
                                ever.remove(name);
                            }
                        }
                        vault.purge_due(now);
                        prop_assert!(!vault.has_purge_due(now));
                    }
                }
                let live: BTreeSet<&String> = vault.keys.keys().collect();
                let deleted: BTreeSet<&String> = vault.deleted_keys.keys().collect();
                prop_assert!(live.is_disjoint(&deleted));
                let kept: BTreeMap<String, Vec<String>> = vault
                    .keys
                    .iter()
                    .chain(vault.deleted_keys.iter().map(|(name, d)| (name, &d.key)))
                    .map(|(name, key)| (name.clone(), key.versions.iter().map(|v| v.version.clone()).collect()))
                    .collect();
                prop_assert_eq!(&kept, &ever);
            }
            let written = serde_json::to_string(&vault).unwrap();
            let read: Vault = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(serde_json::to_string(&read).unwrap(), written);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut vault = empty_vault();
        vault.add_version("k", new_version(1), 0).unwrap();
        let written = serde_json::to_value(&vault).unwrap();
        let private = written["keys"]["k"]["versions"][0]["material"]["pkcs8"].as_str().unwrap();
        assert!(!format!("{vault:?}").contains(&private[60..120]));
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(…)");
    }
}
