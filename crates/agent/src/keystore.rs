//! The keystore on disk.
//!
//! Owns how a generation follows the one before it, and which file is believed at a start:
//!
//! ```text
//! copy the canaries to state_dir · write keystore.next · fsync · link keystore.json → keystore.previous
//!   · fsync folder · rename keystore.next → keystore.json · fsync folder · read back and compare
//!   · remember the generation in state_dir · remove keystore.previous · copy the canaries that are left
//! ```
//!
//! It must never overwrite a file that it does not understand, make a new keystore where there was one, or go back
//! behind the generation that `state_dir` remembers, nor go where somebody put another folder in the place of its own
//! ([`crate::disk::NodeDisk`] sees to that). A restore keeps what it replaces as `keystore.replaced-N`: the data
//! of an earlier node may lie elsewhere, and be unreadable without it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyward_keys::{
    NodeId,
    keystore::{KeystoreError, SealedKeystore},
};

use crate::{
    canaries::Canaries,
    disk::{Disk, read_if_there, remove_if_there},
    folder::FolderError,
    memory::{Claim, Memory, MemoryError},
    node::chain,
};

/// The file in DBPATH/.keyward.
pub const FILE_NAME: &str = "keystore.json";

/// Why the keystore on disk could not be used or replaced.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreFileError {
    /// The file system said no.
    #[error("the keystore {path} could not be {what}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// keyward's own folder is not the agent's any more, or is none of its own.
    #[error("the keystore {path} could not be {what}")]
    Folder {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What is there instead.
        #[source]
        source: FolderError,
    },
    /// `state_dir` failed.
    #[error("the agent's memory of this node could not be used")]
    Memory(#[from] MemoryError),
    /// The file is no keystore, or not one of this version.
    #[error("the keystore {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeystoreError,
        /// The generation before it, when it is still there and may be used.
        previous: Option<PathBuf>,
    },
    /// The file has a keystore's shape, but the master key does not confirm it.
    #[error("the keystore {path} is not what was written")]
    Forged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: KeystoreError,
        /// The generation before it, when it is still there and may be used.
        previous: Option<PathBuf>,
    },
    /// There is data, or was a keystore, but no keystore now.
    #[error("there is no keystore {path}, although {why}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What shows that there should be one.
        why: &'static str,
    },
    /// An older generation than the newest one seen.
    #[error("the keystore {path} is of generation {found}, but generation {seen} was seen before")]
    Replayed {
        /// The file.
        path: PathBuf,
        /// Its generation.
        found: u64,
        /// The highest one seen.
        seen: u64,
    },
    /// The keystore of another node.
    #[error("the keystore {path} belongs to node {found}, and this is node {own}")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node it names.
        found: NodeId,
        /// This node.
        own: NodeId,
    },
    /// `state_dir` knows nothing of this keystore.
    #[error("the keystore {path} of node {found} is not known to this agent")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The node it names.
        found: NodeId,
    },
    /// What was read back is not what was written.
    #[error("the keystore {0} was written, but reads back differently")]
    ReadBack(PathBuf),
    /// A restore was cut off after it had begun to put files into the data path.
    #[error("a restore into this data path was cut off: what it left is not complete")]
    RestoreCutOff,
    /// While this agent ran, somebody else wrote it.
    #[error("the keystore {0} is not the one that this agent wrote last")]
    Changed(PathBuf),
}

impl KeystoreFileError {
    /// What the disk said.
    pub(crate) fn of_disk(path: PathBuf, what: &'static str, source: io::Error) -> Self {
        match source.downcast::<FolderError>() {
            Ok(source) => Self::Folder { path, what, source },
            Err(source) => Self::Io { path, what, source },
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free space on that disk and repeat; nothing was overwritten"
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "make that disk writable and repeat; nothing was overwritten"
            }
            Self::Io { .. } => "check owner, permissions and health of that path; nothing was overwritten",
            Self::Folder { source, .. } => source.hint(),
            Self::Memory(error) => error.hint(),
            Self::Unreadable { path, previous: Some(previous), .. }
            | Self::Forged { path, previous: Some(previous), .. } => {
                return format!(
                    "nothing was overwritten; the generation before it is whole and knows every database key that was \
                     given out: find out who changed the file, then `mv {} {}` and `keyward node start`",
                    previous.display(),
                    path.display()
                );
            }
            Self::Unreadable { previous: None, .. } | Self::Forged { previous: None, .. } => {
                "nothing was overwritten; put back the keystore from `keyward node keystore export` or a snapshot \
                 (docs/guides/lost-keystore.md)"
            }
            Self::Missing { .. } => {
                "check that the data path is mounted; put back the keystore from `keyward node keystore export`, or \
                 restore a snapshot (docs/guides/lost-keystore.md)"
            }
            Self::Replayed { .. } => {
                "an old copy was put in place: put back the newest one; where there is none, move the data path away \
                 and start from it with `keyward node restore` (docs/guides/lost-keystore.md)"
            }
            Self::OtherNode { .. } => {
                "to make this copy a node of its own: keyward node restore --from file://DBPATH"
            }
            Self::Unknown { .. } => {
                "a copied data path becomes a node of its own by `keyward node restore --from file://DBPATH`; if only \
                 state_dir was lost: keyward node approve"
            }
            Self::ReadBack(_) => "check the disk; the previous generation was put back",
            Self::RestoreCutOff => {
                "repeat `keyward node restore`: it removes what the one cut off left, and nothing else"
            }
            Self::Changed(_) => {
                "nothing was overwritten; find out who changed it, and do not stop this agent before it is put right: \
                 move the file away, and the agent writes the newest one anew"
            }
        };
        text.to_owned()
    }
}

/// What is on disk at a start.
#[derive(Debug)]
pub enum Stored {
    /// Nothing, and nothing that should have one: a new node.
    Absent {
        /// Its id, claimed already.
        node_id: NodeId,
    },
    /// The keystore of this node. Nothing in it is believed yet.
    Present(SealedKeystore),
}

/// What [`KeystoreFile::watch_over`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The newest generation.
    AsWritten,
    /// Nothing; it is there again.
    PutBack,
    /// Something else.
    Changed,
}

/// The keystore's files. One writer: the agent that holds the locks.
#[derive(Clone)]
pub struct KeystoreFile {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    memory: Memory,
}

impl KeystoreFile {
    /// The keystore in `dir` (DBPATH/.keyward), as `memory` remembers it.
    pub fn new(dir: &Path, disk: Arc<dyn Disk>, memory: Memory) -> Self {
        Self { dir: dir.to_owned(), disk, memory }
    }

    /// The file's path.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// Finds the keystore of this node, mends what a power cut left half done, and refuses everything that is not
    /// what was seen last. `has_data` says whether the data path holds data.
    pub fn load(&self, has_data: bool) -> Result<Stored, KeystoreFileError> {
        self.disk.create_dir(&self.dir).map_err(self.io("opened"))?;
        if self.memory.restoring()?.is_some() {
            return Err(KeystoreFileError::RestoreCutOff);
        }
        let claim = self.memory.claim()?;
        let main = read_if_there(&*self.disk, &self.path()).map_err(self.io("read"))?;
        let Some(bytes) = main else {
            return match self.recover(claim)? {
                Some(sealed) => Ok(Stored::Present(sealed)),
                None => self.absent(claim, has_data),
            };
        };
        let sealed = SealedKeystore::parse(&bytes).map_err(|source| self.unreadable(source))?;
        self.check(&sealed, claim)?;
        Ok(Stored::Present(sealed))
    }

    /// The master key does not confirm the keystore that was loaded. Nothing else is taken instead: who changed one
    /// file may have kept an old copy of it. A person may.
    pub fn forged(&self, source: KeystoreError) -> KeystoreFileError {
        KeystoreFileError::Forged { path: self.path(), source, previous: self.usable_previous() }
    }

    /// Remembers that the loaded keystore was verified with the master key, and removes what a step that was cut
    /// off left beside it.
    pub fn seen(&self, sealed: &SealedKeystore) -> Result<(), KeystoreFileError> {
        // Before the generation, behind which the copy must not be.
        self.copy_canaries(sealed);
        let claim = Claim { node_id: sealed.node_id(), seen_generation: sealed.generation() };
        if self.memory.claim()? != Some(claim) {
            self.memory.set_claim(&claim)?;
        }
        self.tidy()
    }

    /// Makes `after` the keystore; durable and read back when it returns. `before` is what the step was made
    /// from, and
    /// what must be there; `None` for a new keystore. After an error either generation may be there:
    /// [`Self::settle`] says which.
    pub fn commit(
        &self,
        before: Option<&SealedKeystore>,
        after: &SealedKeystore,
    ) -> Result<(), KeystoreFileError> {
        let (main, next, previous) =
            (self.path(), self.dir.join("keystore.next"), self.dir.join("keystore.previous"));
        let disk = &*self.disk;
        let there = read_if_there(disk, &main).map_err(self.io("read"))?;
        if there.as_deref() != before.map(SealedKeystore::bytes) {
            return Err(KeystoreFileError::Changed(main));
        }
        Canaries::while_stepping(before, after).keep(&self.memory)?;
        let written = disk.write(&next, after.bytes()).and_then(|()| disk.sync_file(&next));
        if let Err(source) = written {
            let _ = disk.remove(&next);
            return Err(self.io("written")(source));
        }
        if before.is_some() {
            remove_if_there(disk, &previous).map_err(self.io("replaced"))?;
            disk.link(&main, &previous).map_err(self.io("kept"))?;
        }
        disk.sync_dir(&self.dir).map_err(self.io("kept"))?;
        disk.rename(&next, &main).map_err(self.io("replaced"))?;
        disk.sync_dir(&self.dir).map_err(self.io("replaced"))?;
        let back = disk.read_back(&main).map_err(self.io("read back"))?;
        if back != after.bytes() {
            if before.is_some() {
                disk.rename(&previous, &main).map_err(self.io("put back"))?;
                disk.sync_dir(&self.dir).map_err(self.io("put back"))?;
            }
            return Err(KeystoreFileError::ReadBack(main));
        }
        self.memory.set_claim(&Claim { node_id: after.node_id(), seen_generation: after.generation() })?;
        if before.is_some() {
            remove_if_there(disk, &previous).map_err(self.io("tidied"))?;
        }
        self.copy_canaries(after);
        Ok(())
    }

    /// Keeps the canaries of `sealed`, which is in place, for an agent that cannot read it. A failure is no
    /// reason to stop: the copy names too many customer keys then, or is of an older generation and not
    /// believed.
    fn copy_canaries(&self, sealed: &SealedKeystore) {
        if let Err(error) = Canaries::of(sealed).keep(&self.memory) {
            tracing::warn!("the canaries could not be copied: {}", chain(&error));
        }
    }

    /// Whether the file is the one of a step whose [`Self::commit`] ended in an error. If so its end is made up for:
    /// durable and remembered when it returns.
    pub fn settle(&self, sealed: &SealedKeystore) -> Result<bool, KeystoreFileError> {
        let main = self.path();
        if read_if_there(&*self.disk, &main).map_err(self.io("read"))?.as_deref() != Some(sealed.bytes()) {
            return Ok(false);
        }
        self.disk.sync_file(&main).map_err(self.io("written"))?;
        self.disk.sync_dir(&self.dir).map_err(self.io("replaced"))?;
        self.seen(sealed)?;
        Ok(true)
    }

    /// Compares the file with the newest generation, which a running agent knows. One that is gone is put back: the
    /// database runs, and its keys are nowhere else. One that was changed is left as it is.
    pub fn watch_over(&self, newest: &SealedKeystore) -> Result<Found, KeystoreFileError> {
        self.copy_canaries(newest);
        match read_if_there(&*self.disk, &self.path()).map_err(self.io("read"))? {
            Some(bytes) if bytes == newest.bytes() => return Ok(Found::AsWritten),
            Some(_) => return Ok(Found::Changed),
            None => {}
        }
        tracing::warn!("the keystore is gone: it is put back from memory");
        let (main, next) = (self.path(), self.dir.join("keystore.next"));
        self.disk.create_dir(&self.dir).map_err(self.io("put back"))?;
        self.disk.write(&next, newest.bytes()).map_err(self.io("put back"))?;
        self.disk.sync_file(&next).map_err(self.io("put back"))?;
        // A link, so that a file that somebody else puts there at this moment is not overwritten.
        self.disk.link(&next, &main).map_err(self.io("put back"))?;
        self.disk.sync_dir(&self.dir).map_err(self.io("put back"))?;
        remove_if_there(&*self.disk, &next).map_err(self.io("tidied"))?;
        Ok(Found::PutBack)
    }

    /// Accepts the keystore that is there as this node's own, although `state_dir` does not know it: the operator says
    /// so. Neither another node's nor an older generation becomes good by that. `None`: there is no file.
    pub fn approve(&self) -> Result<Option<SealedKeystore>, KeystoreFileError> {
        let bytes = read_if_there(&*self.disk, &self.path()).map_err(self.io("read"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let sealed = SealedKeystore::parse(&bytes).map_err(|source| self.unreadable(source))?;
        match self.check(&sealed, self.memory.claim()?) {
            Err(KeystoreFileError::Unknown { .. }) => self
                .memory
                .set_claim(&Claim { node_id: sealed.node_id(), seen_generation: sealed.generation() })?,
            checked => checked?,
        }
        Ok(Some(sealed))
    }

    /// Puts the keystore of a restored data path in place: the caller has made it with `adopt_as_new_node`. Durable
    /// when it returns. What stood there is kept beside it.
    pub fn install(&self, restored: &SealedKeystore) -> Result<(), KeystoreFileError> {
        let (node_id, seen_generation) = (restored.node_id(), restored.generation());
        self.disk.create_dir(&self.dir).map_err(self.io("opened"))?;
        self.keep_aside()?;
        // Not to be written through a name that a recovery may have linked to what is kept.
        self.tidy()?;
        // A node without a name gets it first, so that a crash in between meets a keystore that it knows. Of one that
        // has it, the newest generation seen is not forgotten before there is a newer one.
        if self.memory.claim()?.is_none_or(|claim| claim.node_id != node_id) {
            self.memory.set_claim(&Claim { node_id, seen_generation: 0 })?;
        }
        crate::disk::replace(&*self.disk, &self.path(), restored.bytes()).map_err(self.io("written"))?;
        self.memory.set_claim(&Claim { node_id, seen_generation })?;
        // No database runs: until this is written there is nothing to probe for.
        self.copy_canaries(restored);
        self.tidy()
    }

    /// Whether neither the folder nor `state_dir` shows that this node ever had a keystore, or an encryptor beside it.
    pub fn never_had_one(&self) -> Result<bool, KeystoreFileError> {
        for name in [FILE_NAME, "keystore.next", "keystore.previous", "assignments"] {
            if self.disk.exists(&self.dir.join(name)).map_err(self.io("looked for"))? {
                return Ok(false);
            }
        }
        Ok(self.memory.claim()?.is_none_or(|claim| claim.seen_generation == 0))
    }

    /// The newest generation seen of this node, 0 when there was none.
    pub fn seen_generation(&self) -> Result<u64, KeystoreFileError> {
        Ok(self.memory.claim()?.map_or(0, |claim| claim.seen_generation))
    }

    fn absent(&self, claim: Option<Claim>, has_data: bool) -> Result<Stored, KeystoreFileError> {
        let missing = |why| Err(KeystoreFileError::Missing { path: self.path(), why });
        if has_data {
            return missing("the data path holds data");
        }
        match claim {
            Some(claim) if claim.seen_generation > 0 => missing("this node had one"),
            Some(claim) => Ok(Stored::Absent { node_id: claim.node_id }),
            None => {
                // Claimed before the first write, so that a crash right after it meets its own keystore.
                let node_id = NodeId::make();
                self.memory.set_claim(&Claim { node_id, seen_generation: 0 })?;
                Ok(Stored::Absent { node_id })
            }
        }
    }

    /// Gives what is there, whatever it is, a name that nothing takes away or overwrites; after a torn rename that is
    /// what stands under the other names.
    fn keep_aside(&self) -> Result<(), KeystoreFileError> {
        let there = |path: &PathBuf| self.disk.exists(path).map_err(self.io("looked for"));
        let kept = if there(&self.path())? {
            vec![self.path()]
        } else {
            let mut left = Vec::new();
            for path in ["keystore.next", "keystore.previous"].map(|name| self.dir.join(name)) {
                if there(&path)? {
                    left.push(path);
                }
            }
            left
        };
        for path in kept {
            self.keep(&path)?;
        }
        Ok(())
    }

    fn keep(&self, path: &Path) -> Result<(), KeystoreFileError> {
        let bytes = self.disk.read(path).map_err(self.io("read"))?;
        for number in 1_u32.. {
            let aside = self.dir.join(format!("keystore.replaced-{number}"));
            match read_if_there(&*self.disk, &aside).map_err(self.io("kept"))? {
                // A restore that is repeated.
                Some(kept) if kept == bytes => return Ok(()),
                Some(_) => {}
                None => {
                    self.disk.link(path, &aside).map_err(self.io("kept"))?;
                    self.disk.sync_dir(&self.dir).map_err(self.io("kept"))?;
                    tracing::warn!("the keystore that was here is kept as {}", aside.display());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// After a torn rename the newest whole file stands under one of the other names.
    fn recover(&self, claim: Option<Claim>) -> Result<Option<SealedKeystore>, KeystoreFileError> {
        let mut best: Option<(SealedKeystore, PathBuf)> = None;
        for name in ["keystore.next", "keystore.previous"] {
            let path = self.dir.join(name);
            let Some(bytes) = read_if_there(&*self.disk, &path).map_err(self.io("read"))? else { continue };
            let Ok(sealed) = SealedKeystore::parse(&bytes) else { continue };
            if self.check(&sealed, claim).is_ok()
                && best.as_ref().is_none_or(|(other, _)| other.generation() < sealed.generation())
            {
                best = Some((sealed, path));
            }
        }
        let Some((sealed, path)) = best else { return Ok(None) };
        self.disk.sync_file(&path).map_err(self.io("recovered"))?;
        self.disk.link(&path, &self.path()).map_err(self.io("recovered"))?;
        self.disk.sync_dir(&self.dir).map_err(self.io("recovered"))?;
        Ok(Some(sealed))
    }

    fn unreadable(&self, source: KeystoreError) -> KeystoreFileError {
        KeystoreFileError::Unreadable { path: self.path(), source, previous: self.usable_previous() }
    }

    /// The previous generation, when a step that was cut off left it and [`Self::load`] would accept it: then it is
    /// not behind the newest one seen, so no database key was given out that it lacks.
    fn usable_previous(&self) -> Option<PathBuf> {
        let path = self.dir.join("keystore.previous");
        let bytes = read_if_there(&*self.disk, &path).ok()??;
        let sealed = SealedKeystore::parse(&bytes).ok()?;
        let claim = self.memory.claim().ok()?;
        self.check(&sealed, claim).is_ok().then_some(path)
    }

    fn tidy(&self) -> Result<(), KeystoreFileError> {
        for name in ["keystore.next", "keystore.previous"] {
            remove_if_there(&*self.disk, &self.dir.join(name)).map_err(self.io("tidied"))?;
        }
        Ok(())
    }

    fn check(&self, sealed: &SealedKeystore, claim: Option<Claim>) -> Result<(), KeystoreFileError> {
        let path = self.path();
        let found = sealed.node_id();
        let Some(claim) = claim else { return Err(KeystoreFileError::Unknown { path, found }) };
        if claim.node_id != found {
            return Err(KeystoreFileError::OtherNode { path, found, own: claim.node_id });
        }
        if sealed.generation() < claim.seen_generation {
            return Err(KeystoreFileError::Replayed {
                path,
                found: sealed.generation(),
                seen: claim.seen_generation,
            });
        }
        Ok(())
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> KeystoreFileError {
        let path = self.path();
        move |source| KeystoreFileError::of_disk(path, what, source)
    }
}
