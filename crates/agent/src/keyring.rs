//! The node's keys in memory, and every step of its keystore.
//!
//! Owns the order of things: an image is durable on disk before it is believed in memory, and a database key is in
//! the durable keystore before it is given out. One step at a time; no call here waits for a vault. The master key
//! never leaves this module but for the vault's `wrap`.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyward_keys::{
    KeyId, MasterKey, NodeId, SecretError,
    assignment::{Assignment, decode_assignments},
    keystore::{
        FileImage, KeystoreError, MasterKeyWrap, OpenKeystore, Purpose, SealedKeystore, VerifiedWrap,
    },
    scrubbed,
    wire::WireKey,
};
use keyward_model::{
    Timestamp,
    status::{DatabaseKeyStatus, MasterKeyStatus},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    disk::{Disk, read_if_there},
    keystore::{KeystoreFile, KeystoreFileError, Stored},
};

/// Why a step was not made.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The keystore's files.
    #[error("the keystore on disk could not be used")]
    File(#[from] KeystoreFileError),
    /// The keystore's content.
    #[error("the keystore did not allow this step")]
    Keystore(#[from] KeystoreError),
    /// No key could be made of what was unwrapped.
    #[error("what was unwrapped is no master key")]
    Secret(#[from] SecretError),
    /// The master key is not in memory.
    #[error("the agent does not hold the master key now")]
    NotHeld,
    /// The journal of assignments.
    #[error("the assignment journal {path} could not be {what}")]
    Journal {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl KeyringError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::File(error) => return error.hint(),
            Self::Keystore(error) => error.hint(),
            Self::Secret(error) => error.hint(),
            Self::NotHeld => "wait until the customer key answers; `keyward node status` says when",
            Self::Journal { .. } => "check owner, permissions and health of that path",
        }
        .to_owned()
    }
}

/// The plain facts of the keystore, for status and probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The node.
    pub node_id: NodeId,
    /// Of the keystore.
    pub generation: u64,
    /// The key of `.system`.
    pub system_key_id: KeyId,
    /// The master key, without the key.
    pub master_key: MasterKeyStatus,
    /// The database keys, without the spares.
    pub database_keys: Vec<DatabaseKeyStatus>,
    /// How many spares.
    pub spares: usize,
    /// Every wrap of the master key, oldest first.
    pub wraps: Vec<MasterKeyWrap>,
    /// The wrap that is known to work: the last one that the vault unwrapped.
    pub primary: Option<String>,
    /// Whether the master key is in memory.
    pub held: bool,
}

enum State {
    None,
    Sealed(SealedKeystore),
    Open(Box<OpenKeystore>),
}

struct Content {
    state: State,
    /// The wrap that the vault unwrapped last, with the right answer.
    primary: Option<VerifiedWrap>,
}

/// The keys of one node.
pub struct Keyring {
    file: KeystoreFile,
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    wanted_spares: usize,
    content: Mutex<Content>,
    view: watch::Sender<Option<Arc<View>>>,
    rejected: Mutex<Vec<String>>,
}

impl Keyring {
    /// Nothing loaded yet.
    pub fn new(file: KeystoreFile, disk: Arc<dyn Disk>, journal: PathBuf, wanted_spares: usize) -> Self {
        Self {
            file,
            disk,
            journal,
            wanted_spares,
            content: Mutex::new(Content { state: State::None, primary: None }),
            view: watch::Sender::new(None),
            rejected: Mutex::new(Vec::new()),
        }
    }

    /// The plain facts now; `None` before the keystore was loaded.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Changes whenever the keystore does.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    /// Records of the assignment journal that were not believed, in words.
    pub fn rejected(&self) -> Vec<String> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the keystore from disk. Keeps what is open already.
    pub fn load(&self, has_data: bool) -> Result<Option<NodeId>, KeyringError> {
        let mut content = self.lock();
        if matches!(content.state, State::Open(_)) {
            return Ok(None);
        }
        match self.file.load(has_data)? {
            Stored::Absent { node_id } => Ok(Some(node_id)),
            Stored::Present(sealed) => {
                content.state = State::Sealed(sealed);
                self.publish(&content);
                Ok(None)
            }
        }
    }

    /// A new node's keystore: durable when it returns.
    pub fn create(
        &self,
        node_id: NodeId,
        master: MasterKey,
        wrap: VerifiedWrap,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let primary = wrap.clone();
        let (open, image) = OpenKeystore::create(node_id, master, vec![wrap], self.wanted_spares, now.0)?;
        self.file.commit(0, node_id, &image)?;
        *content = Content { state: State::Open(Box::new(open)), primary: Some(primary) };
        self.publish(&content);
        Ok(())
    }

    /// Verifies the loaded keystore with the master key that was unwrapped with `key_identifier`; lets go of wraps
    /// that an unfinished rewrap left, takes in the journal and refills the spares.
    pub fn open(
        &self,
        unwrapped: &mut [u8],
        key_identifier: &str,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let State::Sealed(sealed) = &content.state else { return Ok(()) };
        let (open, verified) = scrubbed(|| {
            let proof = Zeroizing::new(unwrapped.to_vec());
            let open = sealed
                .clone()
                .open(MasterKey::take_from(unwrapped)?)
                .map_err(|error| self.distrust(error))?;
            let verified = open.verify_wrap(key_identifier, &proof)?;
            Ok::<_, KeyringError>((open, verified))
        })?;
        self.file.seen(open.sealed())?;
        *content = Content { state: State::Open(Box::new(open)), primary: Some(verified.clone()) };
        self.publish(&content);
        self.step(&mut content, |open| open.forget_wraps(&[verified]))?;
        self.take_in_journal(&mut content, now)
    }

    /// Wipes master and database keys from memory. What was opened stays loaded, sealed.
    pub fn wipe(&self) {
        let mut content = self.lock();
        if let State::Open(open) = &content.state {
            content.state = State::Sealed(open.sealed().clone());
            content.primary = None;
            self.publish(&content);
        }
    }

    /// Every database key and spare that is not in `known` yet, and adds them to it.
    pub fn keys_not_in(
        &self,
        known: &mut HashSet<KeyId>,
        only_spares: bool,
    ) -> Result<Vec<WireKey>, KeyringError> {
        let mut content = self.lock();
        let open = open_mut(&mut content)?;
        let mut keys = Vec::new();
        for entry in open.sealed().entries() {
            let wanted = !only_spares || entry.purpose == Purpose::Spare;
            if wanted && !known.contains(&entry.id) {
                let key = open.database_key(&entry.id)?;
                keys.push(WireKey { id: entry.id, purpose: entry.purpose.clone(), key });
            }
        }
        known.extend(keys.iter().map(|key| key.id));
        Ok(keys)
    }

    /// Spares that were given to databases become database keys; refills the spares.
    pub fn fold(&self, assignments: &[Assignment], now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.lock();
        self.step(&mut content, |open| open.fold(assignments))?;
        self.refill_when_low(&mut content, now)
    }

    /// Makes spares until there are as many as wanted.
    pub fn refill(&self, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let there = open_mut(&mut content)?.sealed().spares();
        // Asked for because the encryptor runs low: some of these may have been given to databases already. A
        // request that comes twice must not grow the file for ever.
        if there >= self.wanted_spares * 2 {
            return Ok(());
        }
        let more = (self.wanted_spares.saturating_sub(there)).max(self.wanted_spares / 4).max(1);
        self.step(&mut content, |open| open.add_spares(more, now.0).map(Some))
    }

    /// Takes in the assignment journal; refills the spares.
    pub fn fold_journal(&self, now: Timestamp) -> Result<(), KeyringError> {
        self.take_in_journal(&mut self.lock(), now)
    }

    /// Takes in the journal and removes it. Only while no engine runs: nobody else may be writing to it.
    pub fn retire_journal(&self, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.lock();
        self.take_in_journal(&mut content, now)?;
        if self.rejected().is_empty() {
            crate::disk::remove_if_there(&*self.disk, &self.journal)
                .map_err(self.journal_error("removed"))?;
        }
        Ok(())
    }

    /// A copy of the master key's bytes for the vault's `wrap`. Wiped when dropped.
    pub fn master_key_to_wrap(&self) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let mut content = self.lock();
        Ok(Zeroizing::new(open_mut(&mut content)?.master_key().expose().to_vec()))
    }

    /// Whether the vault's answer is the master key in memory.
    pub fn is_master_key(&self, unwrapped: &[u8]) -> Result<bool, KeyringError> {
        Ok(open_mut(&mut self.lock())?.master_key().is(unwrapped))
    }

    /// Wraps every database key under `new`; `wrap` is of the new master key. Durable when it returns.
    pub fn rotate(&self, new: MasterKey, wrap: VerifiedWrap, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let primary = wrap.clone();
        let open = open_mut(&mut content)?;
        let image = open.rotate_master_key(&new, vec![wrap], now.0)?;
        self.write(open, &image)?;
        open.commit_rotated(&image, new)?;
        content.primary = Some(primary);
        self.publish(&content);
        Ok(())
    }

    /// Adds a wrap that nothing relies on yet.
    pub fn stage(&self, wrap: MasterKeyWrap) -> Result<(), KeyringError> {
        let mut content = self.lock();
        if let Some(primary) = &content.primary
            && primary.wrap().key_identifier == wrap.key_identifier
        {
            // It would take the place of the one wrap that is known to work.
            return Err(KeystoreError::DuplicateWrap { key_identifier: wrap.key_identifier }.into());
        }
        self.step(&mut content, |open| open.stage_wrap(wrap).map(Some))
    }

    /// Lets go of every wrap but the one that is relied on.
    pub fn unstage(&self) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let Some(primary) = content.primary.clone() else { return Ok(()) };
        self.step(&mut content, |open| open.forget_wraps(&[primary]))
    }

    /// Relies on the staged wrap of `key_identifier` alone, after the vault unwrapped it.
    pub fn rely_on(&self, key_identifier: &str, unwrapped: &[u8]) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let verified = open_mut(&mut content)?.verify_wrap(key_identifier, unwrapped)?;
        let primary = verified.clone();
        self.step(&mut content, |open| open.forget_wraps(&[verified]))?;
        content.primary = Some(primary);
        self.publish(&content);
        Ok(())
    }

    /// The newest durable generation, as it is on disk.
    pub fn bytes(&self) -> Result<Vec<u8>, KeyringError> {
        let _one_at_a_time = self.lock();
        let path = self.file.path();
        self.disk.read(&path).map_err(|source| KeystoreFileError::Io { path, what: "read", source }.into())
    }

    /// The highest generation ever seen of this node.
    pub fn seen_generation(&self) -> Result<u64, KeyringError> {
        Ok(self.file.seen_generation()?)
    }

    /// Puts a restored node's keystore in place. `master` is the one that `image` is under.
    pub fn install(
        &self,
        node_id: NodeId,
        image: &FileImage,
        master: MasterKey,
        primary: VerifiedWrap,
    ) -> Result<(), KeyringError> {
        let mut content = self.lock();
        // Verified before anything on disk is touched.
        let open = SealedKeystore::parse(&image.bytes)?.open(master)?;
        self.file.install(node_id, image)?;
        let was_open = matches!(content.state, State::Open(_));
        *content = if was_open {
            Content { state: State::Open(Box::new(open)), primary: Some(primary) }
        } else {
            Content { state: State::Sealed(open.sealed().clone()), primary: None }
        };
        self.publish(&content);
        Ok(())
    }

    /// The operator accepts the keystore that is there.
    pub fn approve(&self) -> Result<(), KeyringError> {
        let mut content = self.lock();
        let sealed = self.file.approve()?;
        if !matches!(content.state, State::Open(_)) {
            content.state = State::Sealed(sealed);
            self.publish(&content);
        }
        Ok(())
    }

    /// What of a failed opening is about the file.
    fn distrust(&self, error: KeystoreError) -> KeyringError {
        if matches!(error, KeystoreError::MacMismatch | KeystoreError::KeyDoesNotUnwrap(_)) {
            self.file.forged(error).into()
        } else {
            error.into()
        }
    }

    fn take_in_journal(&self, content: &mut Content, now: Timestamp) -> Result<(), KeyringError> {
        let bytes = read_if_there(&*self.disk, &self.journal)
            .map_err(self.journal_error("read"))?
            .unwrap_or_default();
        let open = open_mut(content)?;
        let journal = decode_assignments(&bytes, |id| open.database_key(id).ok());
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) =
            journal.rejected.iter().map(ToString::to_string).collect();
        self.step(content, |open| open.fold(&journal.assignments))?;
        self.refill_when_low(content, now)
    }

    fn refill_when_low(&self, content: &mut Content, now: Timestamp) -> Result<(), KeyringError> {
        let there = open_mut(content)?.sealed().spares();
        // Not after every database: each refill writes the whole file.
        if there > self.wanted_spares * 3 / 4 {
            return Ok(());
        }
        self.step(content, |open| open.add_spares(self.wanted_spares - there, now.0).map(Some))
    }

    fn step(
        &self,
        content: &mut Content,
        make: impl FnOnce(&OpenKeystore) -> Result<Option<FileImage>, KeystoreError>,
    ) -> Result<(), KeyringError> {
        let open = open_mut(content)?;
        let Some(image) = make(open)? else { return Ok(()) };
        self.write(open, &image)?;
        open.commit(&image)?;
        self.publish(content);
        Ok(())
    }

    fn write(&self, open: &OpenKeystore, image: &FileImage) -> Result<(), KeyringError> {
        open.check_next(image)?;
        Ok(self.file.commit(open.sealed().generation(), open.sealed().node_id(), image)?)
    }

    fn publish(&self, content: &Content) {
        let (sealed, held) = match &content.state {
            State::None => return,
            State::Sealed(sealed) => (sealed, false),
            State::Open(open) => (open.sealed(), true),
        };
        let database_keys = sealed.entries().iter().filter_map(|entry| {
            let database = match &entry.purpose {
                Purpose::System => ".system".to_owned(),
                Purpose::Database(name) => name.clone(),
                Purpose::Spare => return None,
            };
            let created_at = Timestamp(entry.created_at);
            Some(DatabaseKeyStatus { id: entry.id.to_string(), database, created_at })
        });
        let view = View {
            node_id: sealed.node_id(),
            generation: sealed.generation(),
            system_key_id: sealed.system_key_id(),
            master_key: MasterKeyStatus {
                id: sealed.master_key_id().to_string(),
                created_at: Timestamp(sealed.master_key_created_at()),
            },
            database_keys: database_keys.collect(),
            spares: sealed.spares(),
            wraps: sealed.wraps().to_vec(),
            primary: content.primary.as_ref().map(|primary| primary.wrap().key_identifier.clone()),
            held,
        };
        self.view.send_replace(Some(Arc::new(view)));
    }

    fn journal_error(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> KeyringError {
        let path = self.journal.clone();
        move |source| KeyringError::Journal { path, what, source }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_mut(content: &mut Content) -> Result<&mut OpenKeystore, KeyringError> {
    match &mut content.state {
        State::Open(open) => Ok(open),
        State::None | State::Sealed(_) => Err(KeyringError::NotHeld),
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
pub(crate) mod doubles;
#[cfg(test)]
mod refusals;
