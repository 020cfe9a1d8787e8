//! An open keystore and its steps.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use jiff::Timestamp;

use super::{
    Contents, DatabaseKeyEntry, FileImage, KeystoreError, MasterKeyWrap, Place, Purpose, SealedKeystore,
    VerifiedWrap, WrappingKeys, file,
};
use crate::{DatabaseKey, KeyId, MasterKey, NodeId, assignment::Assignment, scrub::scrubbed};

/// A keystore that verified, with its master key.
///
/// The steps change nothing here: they return what to write. [`check_next`](Self::check_next) is asked before it is
/// written, [`become_next`](Self::become_next) takes it in afterwards.
pub struct OpenKeystore {
    pub(super) sealed: SealedKeystore,
    pub(super) master: MasterKey,
}

/// A verified next generation, to become once its file is durable.
#[derive(Debug)]
pub struct Successor {
    sealed: SealedKeystore,
    /// The new master key, where the step leads to one.
    rotated: Option<MasterKey>,
}

impl Successor {
    /// All the plain fields, and the bytes to be found on disk.
    pub fn sealed(&self) -> &SealedKeystore {
        &self.sealed
    }
}

impl OpenKeystore {
    /// A new node's keystore: generation 1, one system key, `spares` spares.
    pub fn create(
        node_id: NodeId,
        master: MasterKey,
        wraps: Vec<VerifiedWrap>,
        spares: usize,
        now: Timestamp,
    ) -> Result<(Self, FileImage), KeystoreError> {
        let wraps = VerifiedWrap::all_of(wraps, &master)?;
        let image = scrubbed(|| {
            let keys = WrappingKeys::derive(&master)?;
            let mut contents = Contents {
                node_id,
                generation: 1,
                master_key_id: KeyId::make(),
                master_key_created_at: now,
                wraps,
                entries: Vec::new(),
            };
            append_new(&mut contents, &keys, Purpose::System, 1, now)?;
            append_new(&mut contents, &keys, Purpose::Spare, spares, now)?;
            image(&contents, &keys)
        })?;
        Ok((SealedKeystore::parse(&image.bytes)?.open(master)?, image))
    }

    /// All the plain fields.
    pub fn sealed(&self) -> &SealedKeystore {
        &self.sealed
    }

    /// Wipes the master key and keeps the plain fields.
    pub fn into_sealed(self) -> SealedKeystore {
        self.sealed
    }

    /// Unwraps one database key.
    pub fn database_key(&self, id: &KeyId) -> Result<DatabaseKey, KeystoreError> {
        let entry = self.sealed.entry(id).ok_or(KeystoreError::UnknownKey(*id))?;
        scrubbed(|| self.sealed.unwrap(&WrappingKeys::derive(&self.master)?, entry))
    }

    /// Unwraps every database key, in the file's order.
    pub fn database_keys(&self) -> Result<Vec<(DatabaseKeyEntry, DatabaseKey)>, KeystoreError> {
        scrubbed(|| {
            let keys = WrappingKeys::derive(&self.master)?;
            let unwrap = |entry: &DatabaseKeyEntry| Ok((entry.clone(), self.sealed.unwrap(&keys, entry)?));
            self.sealed.entries().iter().map(unwrap).collect()
        })
    }

    /// The key of `.system`.
    pub fn system_key_id(&self) -> KeyId {
        self.sealed.system_key_id()
    }

    /// The master key, for the vault's `wrap` and nothing else.
    pub fn master_key(&self) -> &MasterKey {
        &self.master
    }

    /// Step: `n` new spares.
    pub fn add_spares(&self, n: usize, now: Timestamp) -> Result<FileImage, KeystoreError> {
        self.step(|contents, keys| append_new(contents, keys, Purpose::Spare, n, now))
    }

    /// Step: spares become database keys. `None` when all of it is in the keystore already.
    pub fn fold(&self, assignments: &[Assignment]) -> Result<Option<FileImage>, KeystoreError> {
        let index: HashMap<KeyId, usize> =
            self.sealed.entries().iter().enumerate().map(|(at, entry)| (entry.id, at)).collect();
        let mut named: HashMap<usize, &str> = HashMap::new();
        for Assignment { key_id, database } in assignments {
            let at = *index.get(key_id).ok_or(KeystoreError::UnknownKey(*key_id))?;
            let same = |name: &str| name == database;
            let taken = match &self.sealed.entries()[at].purpose {
                Purpose::Database(name) if same(name) => continue,
                Purpose::Database(_) | Purpose::System => true,
                Purpose::Spare => named.insert(at, database).is_some_and(|name| !same(name)),
            };
            if taken {
                return Err(KeystoreError::NotASpare { key_id: *key_id, database: database.clone() });
            }
        }
        if named.is_empty() {
            return Ok(None);
        }
        self.step(|contents, keys| {
            for (at, database) in named {
                let key = self.sealed.unwrap(keys, &self.sealed.entries()[at])?;
                let entry = &mut contents.entries[at];
                entry.purpose = Purpose::Database(database.to_owned());
                rewrap(entry, contents.node_id, &key, keys)?;
            }
            Ok(())
        })
        .map(Some)
    }

    /// Step: every database key wrapped under a new master key; `wraps` are of the new one.
    pub fn rotate_master_key(
        &self,
        new: &MasterKey,
        wraps: Vec<VerifiedWrap>,
        now: Timestamp,
    ) -> Result<FileImage, KeystoreError> {
        let generation = self.next_generation(0)?;
        self.under_new_master_key(self.sealed.node_id(), generation, new, wraps, now)
    }

    /// Step: one more wrap of the same master key, not yet relied upon. One of the same key identifier is replaced,
    /// unless it is the only one.
    pub fn stage_wrap(&self, wrap: MasterKeyWrap) -> Result<FileImage, KeystoreError> {
        if let [only] = self.sealed.wraps()
            && only.key_identifier == wrap.key_identifier
        {
            return Err(KeystoreError::DuplicateWrap { key_identifier: wrap.key_identifier });
        }
        self.step(|contents, _| {
            contents.wraps.retain(|old| old.key_identifier != wrap.key_identifier);
            contents.wraps.push(wrap);
            Ok(())
        })
    }

    /// Checks what the vault unwrapped from the wrap of this key identifier.
    pub fn verify_wrap(&self, key_identifier: &str, unwrapped: &[u8]) -> Result<VerifiedWrap, KeystoreError> {
        let wrap = self.sealed.wraps().iter().find(|wrap| wrap.key_identifier == key_identifier);
        wrap.cloned()
            .ok_or_else(|| KeystoreError::UnknownWrap { key_identifier: key_identifier.to_owned() })?
            .verified(&self.master, unwrapped)
    }

    /// Step: lets go of every wrap but these, which were verified. `None` when there are no others.
    pub fn forget_wraps(&self, keep: &[VerifiedWrap]) -> Result<Option<FileImage>, KeystoreError> {
        let keep = VerifiedWrap::all_of(keep.to_vec(), &self.master)?;
        for wrap in &keep {
            if !self.sealed.wraps().contains(wrap) {
                return Err(KeystoreError::UnknownWrap { key_identifier: wrap.key_identifier.clone() });
            }
        }
        let kept = |wrap: &MasterKeyWrap| keep.contains(wrap);
        if self.sealed.wraps().iter().all(kept) {
            return Ok(None);
        }
        self.step(|contents, _| {
            contents.wraps.retain(kept);
            Ok(())
        })
        .map(Some)
    }

    /// The keystore of another node with the same database keys, under that node's own master key.
    ///
    /// Its generation is above this one's and above `seen_generation`. It is a file of its own: open it with
    /// [`SealedKeystore::parse`] and [`SealedKeystore::open`], not with `commit`.
    pub fn adopt_as_new_node(
        &self,
        node_id: NodeId,
        new: &MasterKey,
        wraps: Vec<VerifiedWrap>,
        seen_generation: u64,
        now: Timestamp,
    ) -> Result<FileImage, KeystoreError> {
        let generation = self.next_generation(seen_generation)?;
        self.under_new_master_key(node_id, generation, new, wraps, now)
    }

    /// What `image` leads to, if it is the step after this very generation, verifies under the same master key, and
    /// loses no database key. To be asked before it is written: afterwards the generation before it goes.
    pub fn check_next(&self, image: &FileImage) -> Result<Successor, KeystoreError> {
        let next = self.checked_successor(image, &self.master)?;
        let (expected, found) = (self.sealed.master_key_id(), next.master_key_id());
        if found != expected {
            return Err(KeystoreError::OtherMasterKey { found, expected });
        }
        Ok(Successor { sealed: next, rotated: None })
    }

    /// As `check_next`, for the image of `rotate_master_key`.
    pub fn check_rotated(&self, image: &FileImage, new: MasterKey) -> Result<Successor, KeystoreError> {
        let next = self.checked_successor(image, &new)?;
        Ok(Successor { sealed: next, rotated: Some(new) })
    }

    /// After its file is durable: become it. After a rotation the old master key is wiped.
    pub fn become_next(&mut self, next: Successor) -> Result<(), KeystoreError> {
        self.check_generation(next.sealed.generation())?;
        next.sealed.check_node(self.sealed.node_id())?;
        self.sealed = next.sealed;
        if let Some(new) = next.rotated {
            self.master = new;
        }
        Ok(())
    }

    /// `check_next` and `become_next` in one, for a caller that checks what it has written.
    pub fn commit(&mut self, image: &FileImage) -> Result<(), KeystoreError> {
        let next = self.check_next(image)?;
        self.become_next(next)
    }

    /// As `commit`, after `rotate_master_key`.
    pub fn commit_rotated(&mut self, image: &FileImage, new: MasterKey) -> Result<(), KeystoreError> {
        let next = self.check_rotated(image, new)?;
        self.become_next(next)
    }

    fn step(
        &self,
        change: impl FnOnce(&mut Contents, &WrappingKeys) -> Result<(), KeystoreError>,
    ) -> Result<FileImage, KeystoreError> {
        scrubbed(|| {
            let keys = WrappingKeys::derive(&self.master)?;
            let mut contents =
                Contents { generation: self.next_generation(0)?, ..self.sealed.contents.clone() };
            change(&mut contents, &keys)?;
            image(&contents, &keys)
        })
    }

    fn check_generation(&self, image: u64) -> Result<(), KeystoreError> {
        let current = self.sealed.generation();
        if current.checked_add(1) == Some(image) {
            Ok(())
        } else {
            Err(KeystoreError::GenerationMoved { image, current })
        }
    }

    fn next_generation(&self, seen: u64) -> Result<u64, KeystoreError> {
        let newest = self.sealed.generation().max(seen);
        newest.checked_add(1).ok_or(KeystoreError::LastGeneration(newest))
    }

    fn under_new_master_key(
        &self,
        node_id: NodeId,
        generation: u64,
        new: &MasterKey,
        wraps: Vec<VerifiedWrap>,
        now: Timestamp,
    ) -> Result<FileImage, KeystoreError> {
        if self.master.is(new.expose()) {
            return Err(KeystoreError::SameMasterKey);
        }
        let wraps = VerifiedWrap::all_of(wraps, new)?;
        scrubbed(|| {
            let (old_keys, new_keys) = (WrappingKeys::derive(&self.master)?, WrappingKeys::derive(new)?);
            let mut contents = Contents {
                node_id,
                generation,
                master_key_id: KeyId::make(),
                master_key_created_at: now,
                wraps,
                entries: self.sealed.entries().to_vec(),
            };
            for (entry, old) in contents.entries.iter_mut().zip(self.sealed.entries()) {
                rewrap(entry, node_id, &self.sealed.unwrap(&old_keys, old)?, &new_keys)?;
            }
            image(&contents, &new_keys)
        })
    }

    /// The image, verified under `master`, if it is the next generation of this node and loses nothing.
    fn checked_successor(
        &self,
        image: &FileImage,
        master: &MasterKey,
    ) -> Result<SealedKeystore, KeystoreError> {
        self.check_generation(image.generation)?;
        let next = SealedKeystore::parse(&image.bytes)?;
        if next.generation() != image.generation {
            return Err(KeystoreError::OtherGeneration {
                found: next.generation(),
                expected: image.generation,
            });
        }
        next.check_node(self.sealed.node_id())?;
        next.verify(master)?;
        scrubbed(|| self.check_nothing_lost(&next, master))?;
        Ok(next)
    }

    fn check_nothing_lost(&self, next: &SealedKeystore, master: &MasterKey) -> Result<(), KeystoreError> {
        let (old_keys, new_keys) = (WrappingKeys::derive(&self.master)?, WrappingKeys::derive(master)?);
        let index: HashMap<KeyId, &DatabaseKeyEntry> =
            next.entries().iter().map(|entry| (entry.id, entry)).collect();
        for old in self.sealed.entries() {
            let new = *index.get(&old.id).ok_or(KeystoreError::KeyLost(old.id))?;
            if new == old && self.master.is(master.expose()) {
                continue;
            }
            if new.purpose != old.purpose && old.purpose != Purpose::Spare {
                return Err(KeystoreError::PurposeChanged(old.id));
            }
            let key = self.sealed.unwrap(&old_keys, old)?;
            if !next.unwrap(&new_keys, new)?.is(key.expose()) {
                return Err(KeystoreError::KeyLost(old.id));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for OpenKeystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenKeystore").field("sealed", &self.sealed).field("master", &self.master).finish()
    }
}

/// Appends `n` new keys whose ids occur nowhere in the keystore.
fn append_new(
    contents: &mut Contents,
    keys: &WrappingKeys,
    purpose: Purpose,
    n: usize,
    now: Timestamp,
) -> Result<(), KeystoreError> {
    let total = contents.entries.len().saturating_add(n);
    if total > file::MAX_KEYS {
        return Err(KeystoreError::TooManyKeys { keys: total, limit: file::MAX_KEYS });
    }
    let mut ids: HashSet<KeyId> = contents.entries.iter().map(|entry| entry.id).collect();
    ids.insert(contents.master_key_id);
    contents.entries.reserve(n);
    for _ in 0..n {
        let mut id = KeyId::make();
        while !ids.insert(id) {
            id = KeyId::make();
        }
        let place = Place { node_id: contents.node_id, key_id: id, purpose: &purpose };
        let wrapped = keys.wrap(&place, DatabaseKey::make()?.expose())?;
        contents.entries.push(DatabaseKeyEntry { id, purpose: purpose.clone(), created_at: now, wrapped });
    }
    Ok(())
}

/// Wraps `key` again, for where the entry stands now.
fn rewrap(
    entry: &mut DatabaseKeyEntry,
    node_id: NodeId,
    key: &DatabaseKey,
    keys: &WrappingKeys,
) -> Result<(), KeystoreError> {
    let place = Place { node_id, key_id: entry.id, purpose: &entry.purpose };
    entry.wrapped = keys.wrap(&place, key.expose())?;
    Ok(())
}

fn image(contents: &Contents, keys: &WrappingKeys) -> Result<FileImage, KeystoreError> {
    let covered = file::covered(contents)?;
    let mac = keys.mac(&covered);
    let bytes = file::with_mac(covered, &mac);
    if bytes.len() > file::MAX_BYTES {
        return Err(KeystoreError::TooLarge { bytes: bytes.len(), limit: file::MAX_BYTES });
    }
    Ok(FileImage { generation: contents.generation, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::{CanaryWrap, Provider};

    fn master(byte: u8) -> MasterKey {
        MasterKey::take_from(&mut [byte; 32]).unwrap()
    }

    fn keystore() -> OpenKeystore {
        let wrap = MasterKeyWrap {
            provider: Provider::AzureKeyVault,
            key_identifier: "https://v.vault.azure.net/keys/cmk/1".to_owned(),
            public_key_sha256: "ab".repeat(32),
            algorithm: "RSA-OAEP-256".to_owned(),
            ciphertext: vec![1; 256],
            created_at: Timestamp::UNIX_EPOCH,
            canary: CanaryWrap { ciphertext: vec![2; 256], sha256: [3; 32] },
        };
        let wraps = vec![wrap.verified(&master(1), &[1; 32]).unwrap()];
        let node = NodeId::make();
        OpenKeystore::create(node, master(1), wraps, 2, Timestamp::UNIX_EPOCH).unwrap().0
    }

    /// Whatever the code of a step may come to do: a file that verifies, and in which a key has become another one, is
    /// not taken.
    #[test]
    fn an_image_in_which_a_key_has_become_another_one_is_not_taken() {
        let mut keystore = keystore();
        let spare = keystore.sealed.entries()[1].id;
        let assignment = Assignment { key_id: spare, database: "alpha".to_owned() };
        let image = keystore.fold(&[assignment]).unwrap().unwrap();
        keystore.commit(&image).unwrap();
        for (at, entry) in keystore.sealed.entries().iter().enumerate() {
            // The same id, another key: a faulty rewrap.
            let replaced = keystore.step(|contents, keys| {
                rewrap(&mut contents.entries[at], contents.node_id, &DatabaseKey::make()?, keys)
            });
            let image = replaced.unwrap();
            assert_eq!(keystore.check_next(&image).map(drop), Err(KeystoreError::KeyLost(entry.id)), "{at}");
            // The same key, wrapped anew: nothing is lost.
            let kept = keystore.step(|contents, keys| {
                let key = keystore.sealed.unwrap(keys, entry)?;
                rewrap(&mut contents.entries[at], contents.node_id, &key, keys)
            });
            keystore.check_next(&kept.unwrap()).unwrap();
            // Gone.
            let removed = keystore.step(|contents, _| {
                contents.entries.remove(at);
                Ok(())
            });
            if entry.purpose == Purpose::System {
                assert_eq!(removed, Err(KeystoreError::SystemKeyCount(0)));
            } else {
                let lost = Err(KeystoreError::KeyLost(entry.id));
                assert_eq!(keystore.check_next(&removed.unwrap()).map(drop), lost);
            }
        }
        // A rotation is checked in the same way.
        let mut rotated =
            keystore.rotate_master_key(&master(2), wraps_of(&keystore, 2), Timestamp::UNIX_EPOCH);
        keystore.check_rotated(rotated.as_ref().unwrap(), master(2)).unwrap();
        let keys = WrappingKeys::derive(&master(2)).unwrap();
        let mut contents = file::parse(&rotated.as_ref().unwrap().bytes).unwrap();
        let (last, node_id) = (contents.entries.len() - 1, contents.node_id);
        rewrap(&mut contents.entries[last], node_id, &DatabaseKey::make().unwrap(), &keys).unwrap();
        rotated = super::image(&contents, &keys);
        let lost = KeystoreError::KeyLost(contents.entries[last].id);
        assert_eq!(keystore.check_rotated(&rotated.unwrap(), master(2)).map(drop), Err(lost));
    }

    fn wraps_of(keystore: &OpenKeystore, byte: u8) -> Vec<VerifiedWrap> {
        vec![keystore.sealed.wraps()[0].clone().verified(&master(byte), &[byte; 32]).unwrap()]
    }

    #[test]
    fn an_image_in_which_a_key_changes_hands_is_not_taken() {
        let mut keystore = keystore();
        let spare = keystore.sealed.entries()[1].id;
        let assignment = Assignment { key_id: spare, database: "alpha".to_owned() };
        let image = keystore.fold(&[assignment]).unwrap().unwrap();
        keystore.commit(&image).unwrap();
        for purpose in [Purpose::Spare, Purpose::Database("beta".to_owned())] {
            let image = keystore.step(|contents, keys| {
                let key = keystore.sealed.unwrap(keys, &keystore.sealed.entries()[1])?;
                contents.entries[1].purpose = purpose.clone();
                rewrap(&mut contents.entries[1], contents.node_id, &key, keys)
            });
            let changed = Err(KeystoreError::PurposeChanged(spare));
            assert_eq!(keystore.check_next(&image.unwrap()).map(drop), changed, "{purpose:?}");
        }
        // The same master key under another id is another one to everybody who reads its id.
        let image = keystore.step(|contents, _| {
            contents.master_key_id = KeyId::from_bytes([9; 16]);
            Ok(())
        });
        let (found, expected) = (KeyId::from_bytes([9; 16]), keystore.sealed.master_key_id());
        let other = Err(KeystoreError::OtherMasterKey { found, expected });
        assert_eq!(keystore.check_next(&image.unwrap()).map(drop), other);
    }
}
