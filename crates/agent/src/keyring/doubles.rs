//! A node's keys over a fake disk, and a vault that is a table.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use keyward_keys::{
    KeyId, MasterKey,
    keystore::{CanaryWrap, MasterKeyWrap, Provider, VerifiedWrap},
};
use keyward_model::Timestamp;

use super::{Keyring, KeyringError};
use crate::{
    canaries::{Canaries, Canary},
    disk::{Disk, fake::FakeDisk},
    keystore::KeystoreFile,
    memory::Memory,
};

pub(crate) const NOW: Timestamp = Timestamp(jiff::Timestamp::UNIX_EPOCH);
pub(crate) const SPARES: usize = 4;

/// What wrapped what: no cryptography, the same answers.
#[derive(Default)]
pub(crate) struct TableVault {
    wrapped: Mutex<BTreeMap<Vec<u8>, [u8; 32]>>,
    count: AtomicU64,
}

impl TableVault {
    pub(crate) fn wrap(&self, key: &str, master: &MasterKey) -> MasterKeyWrap {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut ciphertext = vec![7; 256];
        ciphertext[..8].copy_from_slice(&number.to_le_bytes());
        self.wrapped.lock().unwrap().insert(ciphertext.clone(), *master.expose());
        MasterKeyWrap {
            provider: Provider::AzureKeyVault,
            key_identifier: identifier(key),
            public_key_sha256: "0".repeat(64),
            algorithm: "RSA-OAEP-256".to_owned(),
            ciphertext,
            created_at: NOW.0,
            canary: CanaryWrap { ciphertext: vec![number as u8; 256], sha256: [2; 32] },
        }
    }

    pub(crate) fn verified(&self, key: &str, master: &MasterKey) -> VerifiedWrap {
        self.wrap(key, master).verified(master, master.expose()).unwrap()
    }

    pub(crate) fn unwrap(&self, wrap: &MasterKeyWrap) -> [u8; 32] {
        self.wrapped.lock().unwrap()[&wrap.ciphertext]
    }
}

/// `k` and its version as a key identifier.
pub(crate) fn identifier(version: &str) -> String {
    format!("https://v.vault.azure.net/keys/k/{version:0>32}")
}

pub(crate) fn state_dir() -> PathBuf {
    PathBuf::from("/state")
}

pub(crate) fn keyward_dir() -> PathBuf {
    PathBuf::from("/db/.keyward")
}

/// A keyring of an agent that has just started.
pub(crate) fn keyring(disk: &Arc<FakeDisk>) -> Keyring {
    keyring_on(Arc::clone(disk) as Arc<dyn Disk>, &keyward_dir(), &state_dir())
}

/// The same on any disk.
pub(crate) fn keyring_on(disk: Arc<dyn Disk>, keyward_dir: &Path, state_dir: &Path) -> Keyring {
    let memory = Memory::open(state_dir, Arc::clone(&disk)).unwrap();
    let file = KeystoreFile::new(keyward_dir, Arc::clone(&disk), memory);
    Keyring::new(file, disk, keyward_dir.join("assignments"), SPARES)
}

/// Starts as an agent does: load, unwrap, verify; a new node gets a keystore.
pub(crate) fn start(keyring: &Keyring, vault: &TableVault, has_data: bool) -> Result<(), KeyringError> {
    match keyring.load(has_data)? {
        Some(node_id) => {
            let master = MasterKey::make().unwrap();
            let wrap = vault.verified("1", &master);
            keyring.create(node_id, master, wrap, NOW)
        }
        None => {
            let view = keyring.view().unwrap();
            let wrap = &view.wraps[0];
            keyring.open(&mut vault.unwrap(wrap), &wrap.key_identifier, NOW)
        }
    }
}

/// What the copy of the canaries must do for the keystore on this disk, as an agent finds it: name every
/// customer key that it may be under. `None`: there is no keystore of this node yet.
pub(crate) fn is_probeable(disk: &FakeDisk) -> Option<Result<(), String>> {
    // Looking mends what a power cut left half done: not on the disk itself.
    let disk = Arc::new(disk.clone());
    let ring = keyring(&disk);
    ring.load(true).ok()?;
    let view = ring.view()?;
    let memory = Memory::open(&state_dir(), disk as Arc<dyn Disk>).unwrap();
    Some(match Canaries::believed(&memory) {
        Err(error) => Err(crate::node::chain(&error)),
        Ok(copy) => match view.wraps.iter().map(Canary::of).find(|own| !copy.canaries().contains(own)) {
            Some(missing) => Err(format!("{} is missing in {copy:?}", missing.key_identifier)),
            None => Ok(()),
        },
    })
}

/// Every database key, spares included, with its bytes.
pub(crate) fn all_keys(keyring: &Keyring) -> BTreeMap<KeyId, [u8; 32]> {
    let keys = keyring.keys_not_in(&mut Default::default(), false).unwrap();
    keys.iter().map(|key| (key.id, *key.key.expose())).collect()
}

pub(crate) fn main_file() -> PathBuf {
    Path::new("/db/.keyward").join(crate::keystore::FILE_NAME)
}
