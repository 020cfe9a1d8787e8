//! The keystore on disk.
//!
//! Owns how a generation follows the one before it, and which file is believed at a start:
//!
//! ```text
//! write keystore.next · fsync · link keystore.json → keystore.previous · fsync folder
//!   · rename keystore.next → keystore.json · fsync folder · read back and compare
//!   · remember the generation in state_dir · remove keystore.previous
//! ```
//!
//! It must never overwrite a file that it does not understand, make a new keystore where there was one, or go back
//! behind the generation that `state_dir` remembers.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyward_keys::{
    NodeId,
    keystore::{FileImage, KeystoreError, SealedKeystore},
};

use crate::{
    disk::{Disk, read_if_there, remove_if_there},
    memory::{Claim, Memory, MemoryError},
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
    /// Another step was made in between.
    #[error("the keystore is of generation {found} by now, not {expected}")]
    Moved {
        /// What the step was made from.
        expected: u64,
        /// What is there.
        found: u64,
    },
}

impl KeystoreFileError {
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
            Self::Moved { .. } => "repeat",
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
        let claim = Claim { node_id: sealed.node_id(), seen_generation: sealed.generation() };
        if self.memory.claim()? != Some(claim) {
            self.memory.set_claim(&claim)?;
        }
        self.tidy()
    }

    /// Makes `image` the keystore; durable and read back when it returns. `expected` is the generation that the
    /// step was made from, 0 for a new keystore.
    pub fn commit(&self, expected: u64, node_id: NodeId, image: &FileImage) -> Result<(), KeystoreFileError> {
        let (main, next, previous) =
            (self.path(), self.dir.join("keystore.next"), self.dir.join("keystore.previous"));
        let disk = &*self.disk;
        let found = match read_if_there(disk, &main).map_err(self.io("read"))? {
            Some(bytes) => {
                SealedKeystore::parse(&bytes).map_err(|source| self.unreadable(source))?.generation()
            }
            None => 0,
        };
        if found != expected {
            return Err(KeystoreFileError::Moved { expected, found });
        }
        let written = disk.write(&next, &image.bytes).and_then(|()| disk.sync_file(&next));
        if let Err(source) = written {
            let _ = disk.remove(&next);
            return Err(KeystoreFileError::Io { path: main, what: "written", source });
        }
        if found > 0 {
            remove_if_there(disk, &previous).map_err(self.io("replaced"))?;
            disk.link(&main, &previous).map_err(self.io("kept"))?;
        }
        disk.sync_dir(&self.dir).map_err(self.io("kept"))?;
        disk.rename(&next, &main).map_err(self.io("replaced"))?;
        disk.sync_dir(&self.dir).map_err(self.io("replaced"))?;
        let back = disk.read_back(&main).map_err(self.io("read back"))?;
        if back != image.bytes {
            if found > 0 {
                disk.rename(&previous, &main).map_err(self.io("put back"))?;
                disk.sync_dir(&self.dir).map_err(self.io("put back"))?;
            }
            return Err(KeystoreFileError::ReadBack(main));
        }
        self.memory.set_claim(&Claim { node_id, seen_generation: image.generation })?;
        if found > 0 {
            remove_if_there(disk, &previous).map_err(self.io("tidied"))?;
        }
        Ok(())
    }

    /// Accepts the keystore that is there as this node's own, although `state_dir` does not know it or remembers a
    /// newer one: the operator says so.
    pub fn approve(&self) -> Result<SealedKeystore, KeystoreFileError> {
        let path = self.path();
        let bytes = self.disk.read(&path).map_err(self.io("read"))?;
        let sealed = SealedKeystore::parse(&bytes).map_err(|source| self.unreadable(source))?;
        if let Some(claim) = self.memory.claim()?
            && claim.node_id == sealed.node_id()
            && sealed.generation() < claim.seen_generation
        {
            return Err(KeystoreFileError::Replayed {
                path,
                found: sealed.generation(),
                seen: claim.seen_generation,
            });
        }
        self.memory.set_claim(&Claim { node_id: sealed.node_id(), seen_generation: sealed.generation() })?;
        Ok(sealed)
    }

    /// Puts the keystore of a restored data path in place, whatever stood there: the caller has made it with
    /// `adopt_as_new_node`. Durable when it returns.
    pub fn install(&self, node_id: NodeId, image: &FileImage) -> Result<(), KeystoreFileError> {
        self.disk.create_dir(&self.dir).map_err(self.io("opened"))?;
        // From here on only this node's keystore counts, so a crash in between cannot start from the snapshot's.
        self.memory.set_claim(&Claim { node_id, seen_generation: 0 })?;
        crate::disk::replace(&*self.disk, &self.path(), &image.bytes).map_err(self.io("written"))?;
        self.memory.set_claim(&Claim { node_id, seen_generation: image.generation })?;
        self.tidy()
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
        move |source| KeystoreFileError::Io { path, what, source }
    }
}
