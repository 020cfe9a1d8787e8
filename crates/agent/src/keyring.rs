//! The node's keys in memory, and every step of its keystore.
//!
//! Owns the order of things: an image is durable on disk before it is believed in memory, and a database key is in
//! the durable keystore before it is given out. One step at a time; no call here waits for a vault. The master key
//! never leaves this module but for the vault's `wrap`.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keyward_keys::{
    KeyId, MasterKey, NodeId, SecretError,
    assignment::{Assignment, decode_assignments},
    keystore::{
        FileImage, KeystoreError, MasterKeyWrap, OpenKeystore, Purpose, SealedKeystore, Successor,
        VerifiedWrap,
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
    disk::Disk,
    folder::{FolderError, refusal},
    keystore::{Found, KeystoreFile, KeystoreFileError, Stored},
};

/// No journal is longer, in bytes: the next start of the engine takes it in and begins a new one. Its writer is the
/// database's user.
pub(crate) const LONGEST_JOURNAL: u64 = 64 << 20;

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
            Self::Journal { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
                "it is far longer than an engine's encryptor makes it, and was not read: find out who did that, move \
                 it away, and start the node"
            }
            Self::Journal { source, .. } => {
                refusal(source).map_or("check owner, permissions and health of that path", FolderError::hint)
            }
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
    /// A step whose writing ended in an error: its file may be there.
    unsettled: Option<Step>,
}

/// A step that was verified.
struct Step {
    next: Successor,
    /// What to rely on from then on; `None`: what is relied on now.
    primary: Option<VerifiedWrap>,
}

impl Content {
    fn sealed(sealed: SealedKeystore) -> Self {
        Self { state: State::Sealed(sealed), primary: None, unsettled: None }
    }

    fn open(open: OpenKeystore, primary: VerifiedWrap) -> Self {
        Self { state: State::Open(Box::new(open)), primary: Some(primary), unsettled: None }
    }
}

/// The keys of one node.
pub struct Keyring {
    file: KeystoreFile,
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    wanted_spares: usize,
    content: Mutex<Content>,
    /// Whoever takes the content next wipes it first.
    wipe_due: AtomicBool,
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
            content: Mutex::new(Content { state: State::None, primary: None, unsettled: None }),
            wipe_due: AtomicBool::new(false),
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
                *content = Content::sealed(sealed);
                self.publish(&content);
                Ok(None)
            }
        }
    }

    /// Whether nothing shows that this node ever had a keystore.
    pub fn never_had_one(&self) -> Result<bool, KeyringError> {
        Ok(self.file.never_had_one()?)
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
        let (open, _) = OpenKeystore::create(node_id, master, vec![wrap], self.wanted_spares, now.0)?;
        self.file.commit(None, open.sealed())?;
        *content = Content::open(open, primary);
        self.publish(&content);
        Ok(())
    }

    /// Verifies the loaded keystore with the master key that was unwrapped with `key_identifier`; lets go of wraps
    /// that an unfinished rewrap left, takes in the journal and refills the spares, or leaves that for later when the
    /// disk does not let it. After an error no key is in memory.
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
        *content = Content::open(open, verified.clone());
        let tidied = self
            .step(&mut content, |open| open.forget_wraps(&[verified]))
            .and_then(|()| self.take_in_journal(&mut content, now));
        self.publish(&content);
        // An engine that runs needs none of it now. Before the next one starts, and before one gets its keys, the
        // journal must have been taken in.
        if let Err(error) = tidied {
            tracing::warn!("the keystore is not tidied yet: {}", crate::node::chain(&error));
        }
        Ok(())
    }

    /// Wipes master and database keys from memory. What was opened stays loaded, sealed. Waits no longer than
    /// `patience`: a step that writes has the keys for as long as its disk takes. Then they are wiped before anything
    /// else is done with them, and this says `false`; see [`Keyring::wipe_when_free`].
    #[must_use]
    pub fn wipe(&self, patience: Duration) -> bool {
        const LOOK_AGAIN: Duration = Duration::from_millis(1);
        self.wipe_due.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        loop {
            match self.content.try_lock() {
                Ok(content) => break drop(self.wiped_if_due(content)),
                Err(TryLockError::Poisoned(poisoned)) => {
                    break drop(self.wiped_if_due(poisoned.into_inner()));
                }
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return false,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
            }
        }
        true
    }

    /// Waits for the step that has the keys; after it a wipe that was asked for is done.
    pub fn wipe_when_free(&self) {
        drop(self.lock());
    }

    /// Compares the keystore on disk with the newest generation, and puts it back when it is gone. `None`: without the
    /// master key nothing vouches for what is in memory.
    pub fn watch_over(&self) -> Result<Option<Found>, KeyringError> {
        let mut content = self.lock();
        self.settle(&mut content)?;
        match &content.state {
            State::Open(open) => Ok(Some(self.file.watch_over(open.sealed())?)),
            State::None | State::Sealed(_) => Ok(None),
        }
    }

    /// The keystore's path.
    pub fn path(&self) -> PathBuf {
        self.file.path()
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
        let mut content = self.settled()?;
        self.step(&mut content, |open| open.fold(assignments))?;
        self.refill_when_low(&mut content, now)
    }

    /// Makes spares until there are as many as wanted.
    pub fn refill(&self, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.settled()?;
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
        let mut content = self.settled()?;
        self.take_in_journal(&mut content, now)
    }

    /// Takes in the journal and removes it. Only while no engine runs: nobody else may be writing to it.
    pub fn retire_journal(&self, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.settled()?;
        self.take_in_journal(&mut content, now)?;
        if self.rejected().is_empty() {
            crate::disk::remove_if_there(&*self.disk, &self.journal)
                .map_err(self.journal_error("removed"))?;
        }
        Ok(())
    }

    /// A copy of the master key's bytes for the vault's `wrap`. Wiped when dropped.
    pub fn master_key_to_wrap(&self) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let mut content = self.settled()?;
        Ok(Zeroizing::new(open_mut(&mut content)?.master_key().expose().to_vec()))
    }

    /// Whether the vault's answer is the master key in memory.
    pub fn is_master_key(&self, unwrapped: &[u8]) -> Result<bool, KeyringError> {
        Ok(open_mut(&mut self.lock())?.master_key().is(unwrapped))
    }

    /// Wraps every database key under `new`; `wrap` is of the new master key. Durable when it returns.
    pub fn rotate(&self, new: MasterKey, wrap: VerifiedWrap, now: Timestamp) -> Result<(), KeyringError> {
        let mut content = self.settled()?;
        let primary = wrap.clone();
        let open = open_mut(&mut content)?;
        let image = open.rotate_master_key(&new, vec![wrap], now.0)?;
        let next = open.check_rotated(&image, new)?;
        self.write(&mut content, Step { next, primary: Some(primary) })
    }

    /// Adds a wrap that nothing relies on yet.
    pub fn stage(&self, wrap: MasterKeyWrap) -> Result<(), KeyringError> {
        let mut content = self.settled()?;
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
        let mut content = self.settled()?;
        let Some(primary) = content.primary.clone() else { return Ok(()) };
        self.step(&mut content, |open| open.forget_wraps(&[primary]))
    }

    /// Relies on the staged wrap of `key_identifier` alone, after the vault unwrapped it.
    pub fn rely_on(&self, key_identifier: &str, unwrapped: &[u8]) -> Result<(), KeyringError> {
        let mut content = self.settled()?;
        let open = open_mut(&mut content)?;
        let verified = open.verify_wrap(key_identifier, unwrapped)?;
        match open.forget_wraps(std::slice::from_ref(&verified))? {
            Some(image) => {
                let next = open.check_next(&image)?;
                self.write(&mut content, Step { next, primary: Some(verified) })
            }
            None => {
                content.primary = Some(verified);
                self.publish(&content);
                Ok(())
            }
        }
    }

    /// The newest durable generation, as it is on disk.
    pub fn bytes(&self) -> Result<Vec<u8>, KeyringError> {
        let _one_at_a_time = self.lock();
        let path = self.file.path();
        self.disk.read(&path).map_err(|source| KeystoreFileError::of_disk(path, "read", source).into())
    }

    /// The highest generation ever seen of this node.
    pub fn seen_generation(&self) -> Result<u64, KeyringError> {
        Ok(self.file.seen_generation()?)
    }

    /// Puts a restored node's keystore in place. `master` is the one that `image` is under.
    pub fn install(
        &self,
        image: &FileImage,
        master: MasterKey,
        primary: VerifiedWrap,
    ) -> Result<(), KeyringError> {
        let mut content = self.lock();
        // Verified before anything on disk is touched.
        let open = SealedKeystore::parse(&image.bytes)?.open(master)?;
        self.file.install(open.sealed())?;
        let was_open = matches!(content.state, State::Open(_));
        *content =
            if was_open { Content::open(open, primary) } else { Content::sealed(open.sealed().clone()) };
        self.publish(&content);
        Ok(())
    }

    /// The operator accepts the keystore that is there; whether there is one to start from.
    pub fn approve(&self) -> Result<bool, KeyringError> {
        let mut content = self.lock();
        if matches!(content.state, State::Open(_)) {
            // Verified, in use, and newer than anything that could be approved.
            return Ok(false);
        }
        let Some(sealed) = self.file.approve()? else { return Ok(false) };
        *content = Content::sealed(sealed);
        self.publish(&content);
        Ok(true)
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
        let bytes = match self.disk.read_at_most(&self.journal, LONGEST_JOURNAL) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(self.journal_error("read"))?,
        };
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
        let next = open.check_next(&image)?;
        self.write(content, Step { next, primary: None })
    }

    /// Verified before the disk is touched: the generation before it goes once the new one reads back.
    fn write(&self, content: &mut Content, step: Step) -> Result<(), KeyringError> {
        match self.file.commit(Some(open_mut(content)?.sealed()), step.next.sealed()) {
            Ok(()) => self.take(content, step),
            Err(error) => {
                content.unsettled = Some(step);
                Err(error.into())
            }
        }
    }

    fn take(&self, content: &mut Content, step: Step) -> Result<(), KeyringError> {
        open_mut(content)?.become_next(step.next)?;
        if let Some(primary) = step.primary {
            content.primary = Some(primary);
        }
        self.publish(content);
        Ok(())
    }

    /// The content, for the next step: nothing of the last one is open, and the file is there.
    fn settled(&self) -> Result<MutexGuard<'_, Content>, KeyringError> {
        let mut content = self.lock();
        self.settle(&mut content)?;
        if let State::Open(open) = &content.state {
            self.file.watch_over(open.sealed())?;
        }
        Ok(content)
    }

    /// Finds out what the last step has come to: one that failed after its file was in place is taken in now, else
    /// every later step would meet a file that it does not know.
    fn settle(&self, content: &mut Content) -> Result<(), KeyringError> {
        let Some(step) = content.unsettled.take() else { return Ok(()) };
        match self.file.settle(step.next.sealed()) {
            Ok(true) => self.take(content, step),
            Ok(false) => Ok(()),
            Err(error) => {
                content.unsettled = Some(step);
                Err(error.into())
            }
        }
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
        self.wiped_if_due(self.content.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wiped_if_due<'a>(&self, mut content: MutexGuard<'a, Content>) -> MutexGuard<'a, Content> {
        if self.wipe_due.swap(false, Ordering::SeqCst) && close(&mut content) {
            self.publish(&content);
        }
        content
    }
}

/// Wipes what is open; whether anything was.
fn close(content: &mut Content) -> bool {
    let State::Open(open) = &content.state else { return false };
    *content = Content::sealed(open.sealed().clone());
    true
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
mod moved_away;
#[cfg(test)]
mod refusals;
