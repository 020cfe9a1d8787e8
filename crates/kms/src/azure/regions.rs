//! In which region each customer key last worked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyward_model::KeyIdentifier;

/// Where customer keys last unwrapped, by `x-ms-keyvault-region`. Clones are the same memory, so that it outlives the
/// service that learnt it: a vault that failed over is known for what it is by the next service too.
#[derive(Debug, Clone, Default)]
pub struct Regions(Arc<Mutex<BTreeMap<KeyIdentifier, String>>>);

impl Regions {
    /// The region in which `key` last worked.
    pub fn of(&self, key: &KeyIdentifier) -> Option<String> {
        self.known().get(key).cloned()
    }

    /// `key` worked in `region`.
    pub fn note(&self, key: &KeyIdentifier, region: &str) {
        self.known().insert(key.clone(), region.to_owned());
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<KeyIdentifier, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
