//! Keys, their versions, and soft deletion.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{RotationPolicy, UnixSeconds, Vault};
use crate::answer::Refusal;
use crate::material::Material;

/// A key: all its versions under one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Key {
    /// Oldest first; never empty.
    pub versions: Vec<KeyVersion>,
    /// Set by PUT rotationpolicy.
    pub rotation_policy: Option<RotationPolicy>,
}

/// One version of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyVersion {
    /// 32 lower-case hex digits.
    pub version: String,
    /// `RSA` or `RSA-HSM`.
    pub kty: String,
    /// Permitted operations (`wrapKey`, …), in the order they were given.
    pub key_ops: Vec<String>,
    /// Whether decrypt, unwrap and sign are allowed.
    pub enabled: bool,
    /// Before this, encrypt, wrap and sign are refused.
    pub not_before: Option<UnixSeconds>,
    /// From this on, encrypt, wrap and sign are refused.
    pub expires: Option<UnixSeconds>,
    /// When it was made.
    pub created: UnixSeconds,
    /// When its attributes last changed.
    pub updated: UnixSeconds,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The key pair.
    pub material: Material,
}

/// A soft-deleted key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeletedKey {
    /// The key as it was.
    pub key: Key,
    /// When it was deleted.
    pub deleted: UnixSeconds,
    /// Until then it is "being deleted" and can be neither found nor recovered.
    pub settled: UnixSeconds,
    /// When it goes for good.
    pub scheduled_purge: UnixSeconds,
}

/// Refuses a version whose life ends before it begins.
pub(crate) fn check_times(
    not_before: Option<UnixSeconds>,
    expires: Option<UnixSeconds>,
) -> Result<(), Refusal> {
    match (not_before, expires) {
        (Some(not_before), Some(expires)) if expires <= not_before => {
            Err(Refusal::BadParameter("The expiry time must be after the not-before time".to_owned()))
        }
        _ => Ok(()),
    }
}

/// What a new version starts with.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// 32 lower-case hex digits, drawn by the caller.
    pub version: String,
    /// `RSA` or `RSA-HSM`.
    pub kty: String,
    /// Permitted operations.
    pub key_ops: Vec<String>,
    /// Enabled from the start?
    pub enabled: bool,
    /// Not-before time.
    pub not_before: Option<UnixSeconds>,
    /// Expiry time.
    pub expires: Option<UnixSeconds>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The key pair.
    pub material: Material,
}

/// A change to a version's attributes; `None` leaves a field alone.
#[derive(Debug, Clone, Default)]
pub struct KeyChange {
    /// Replaces the permitted operations.
    pub key_ops: Option<Vec<String>>,
    /// Enables or disables.
    pub enabled: Option<bool>,
    /// Sets (`Some(Some)`) or takes away (`Some(None)`) the not-before time.
    pub not_before: Option<Option<UnixSeconds>>,
    /// Sets or takes away the expiry time.
    pub expires: Option<Option<UnixSeconds>>,
    /// Replaces the tags.
    pub tags: Option<BTreeMap<String, String>>,
}

impl Key {
    /// The version that a request without a version means: the one made last.
    pub fn newest(&self) -> Option<&KeyVersion> {
        self.versions.last()
    }

    /// The given version, or the newest.
    pub fn version(&self, version: Option<&str>) -> Option<&KeyVersion> {
        match version {
            Some(wanted) => self.versions.iter().find(|v| v.version == wanted),
            None => self.newest(),
        }
    }
}

impl Vault {
    /// The name by which the vault knows a key, live or soft-deleted: names compare without case, and a key keeps the
    /// one that it was made with. A name that nobody has is as it is.
    pub fn known_name(&self, name: &str) -> String {
        let mut known = self.keys.keys().chain(self.deleted_keys.keys());
        known.find(|known| known.eq_ignore_ascii_case(name)).map_or(name, String::as_str).to_owned()
    }

    /// Finds a version of a live key.
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<(&Key, &KeyVersion), Refusal> {
        let not_found =
            || Refusal::KeyNotFound { name: name.to_owned(), version: version.map(str::to_owned) };
        let key = self.keys.get(name).ok_or_else(not_found)?;
        Ok((key, key.version(version).ok_or_else(not_found)?))
    }

    /// Refuses a name that a soft-deleted key still holds.
    pub fn check_name_free(&self, name: &str, now: UnixSeconds) -> Result<(), Refusal> {
        match self.deleted_keys.get(name) {
            None => Ok(()),
            Some(deleted) if now < deleted.settled => {
                Err(Refusal::ObjectIsBeingDeleted { name: name.to_owned() })
            }
            Some(_) => Err(Refusal::ObjectIsDeletedButRecoverable { name: name.to_owned() }),
        }
    }

    /// Makes a key, or a new version of it.
    pub fn add_version(&mut self, name: &str, new: NewVersion, now: UnixSeconds) -> Result<(), Refusal> {
        self.check_name_free(name, now)?;
        let version = KeyVersion {
            version: new.version,
            kty: new.kty,
            key_ops: new.key_ops,
            enabled: new.enabled,
            not_before: new.not_before,
            expires: new.expires,
            created: now,
            updated: now,
            tags: new.tags,
            material: new.material,
        };
        self.keys
            .entry(name.to_owned())
            .or_insert_with(|| Key { versions: Vec::new(), rotation_policy: None })
            .versions
            .push(version);
        Ok(())
    }

    /// What the next version of a key looks like when it is rotated: everything of the newest one but its
    /// material and times; it expires as the rotation policy says.
    pub fn rotated_version(
        &self,
        name: &str,
        version: String,
        material: Material,
        now: UnixSeconds,
    ) -> Result<NewVersion, Refusal> {
        let (key, newest) = self.find(name, None)?;
        let expiry = key.rotation_policy.as_ref().and_then(|p| p.expiry_time.as_deref());
        Ok(NewVersion {
            version,
            kty: newest.kty.clone(),
            key_ops: newest.key_ops.clone(),
            enabled: true,
            not_before: None,
            expires: expiry.and_then(|duration| super::add_duration(now, duration)),
            tags: newest.tags.clone(),
            material,
        })
    }

    /// Changes attributes of one version (the newest when none is named).
    pub fn change_version(
        &mut self,
        name: &str,
        version: Option<&str>,
        change: KeyChange,
        now: UnixSeconds,
    ) -> Result<(), Refusal> {
        let found = self.find(name, version)?.1.version.clone();
        let key = self.keys.get_mut(name);
        let Some(target) = key.and_then(|k| k.versions.iter_mut().find(|v| v.version == found)) else {
            return Err(Refusal::KeyNotFound { name: name.to_owned(), version: version.map(str::to_owned) });
        };
        let not_before = change.not_before.unwrap_or(target.not_before);
        let expires = change.expires.unwrap_or(target.expires);
        check_times(not_before, expires)?;
        if let Some(key_ops) = change.key_ops {
            target.key_ops = key_ops;
        }
        if let Some(enabled) = change.enabled {
            target.enabled = enabled;
        }
        (target.not_before, target.expires) = (not_before, expires);
        if let Some(tags) = change.tags {
            target.tags = tags;
        }
        target.updated = now;
        Ok(())
    }

    /// Soft-deletes a key with all its versions.
    pub fn delete_key(&mut self, name: &str, now: UnixSeconds, delay_s: u32) -> Result<&DeletedKey, Refusal> {
        let Some(key) = self.keys.remove(name) else {
            return Err(Refusal::KeyNotFound { name: name.to_owned(), version: None });
        };
        let deleted = DeletedKey {
            key,
            deleted: now,
            settled: now + i64::from(delay_s),
            scheduled_purge: now + i64::from(self.retention_days) * 86_400,
        };
        Ok(self.deleted_keys.entry(name.to_owned()).insert_entry(deleted).into_mut())
    }

    /// Finds a soft-deleted key; one that is still being deleted can't be found yet.
    pub fn find_deleted(&self, name: &str, now: UnixSeconds) -> Result<&DeletedKey, Refusal> {
        self.deleted_keys
            .get(name)
            .filter(|deleted| now >= deleted.settled)
            .ok_or_else(|| Refusal::DeletedKeyNotFound { name: name.to_owned() })
    }

    /// Takes a soft-deleted key back.
    pub fn recover_key(&mut self, name: &str, now: UnixSeconds) -> Result<(), Refusal> {
        self.find_deleted(name, now)?;
        if let Some(deleted) = self.deleted_keys.remove(name) {
            self.keys.insert(name.to_owned(), deleted.key);
        }
        Ok(())
    }

    /// Destroys a soft-deleted key.
    pub fn purge_key(&mut self, name: &str, now: UnixSeconds) -> Result<(), Refusal> {
        self.find_deleted(name, now)?;
        if self.purge_protection {
            return Err(Refusal::PurgeProtected { name: name.to_owned() });
        }
        self.deleted_keys.remove(name);
        Ok(())
    }

    /// Puts a backed-up key back under its name.
    pub fn restore_key(&mut self, name: &str, key: Key, now: UnixSeconds) -> Result<(), Refusal> {
        self.check_name_free(name, now)?;
        if self.keys.contains_key(name) {
            return Err(Refusal::KeyExists { name: name.to_owned() });
        }
        self.keys.insert(name.to_owned(), key);
        Ok(())
    }

    /// Whether the retention of a soft-deleted key is over.
    pub fn has_purge_due(&self, now: UnixSeconds) -> bool {
        self.deleted_keys.values().any(|deleted| deleted.scheduled_purge <= now)
    }

    /// Drops soft-deleted keys whose retention is over.
    pub fn purge_due(&mut self, now: UnixSeconds) {
        self.deleted_keys.retain(|_, deleted| now < deleted.scheduled_purge);
    }
}
