//! The canaries, kept a second time: `STATE_DIR/canaries.json`.
//!
//! An agent that finds its database running, and cannot read the keystore beside it, probes with these: the
//! keys are in that database's memory, and the customer may take them away all the same. Owns what stands in
//! the copy and when it is believed. It holds nothing that opens, gives out or starts anything: a canary is
//! random bytes that wrap nothing.
//!
//! It may name more customer keys than the keystore, and never fewer: a node is revoked when *every* key in
//! it is refused, so one too many stops nothing, and one too few could. Hence the order of a keystore step:
//!
//! ```text
//! copy: those before and those after, of the new generation · keystore · generation seen · copy: those after
//! ```
//!
//! Cut off anywhere, the copy names the key that the keystore is under. One of an older generation than the
//! newest seen (put back, or never written) may name a key that the node has left, and is not believed. Where
//! the file that says which is the newest is damaged, the copy is believed as it is.

use std::path::{Path, PathBuf};

use keyward_keys::{
    NodeId,
    keystore::{CanaryWrap, MasterKeyWrap, SealedKeystore},
};
use serde::{Deserialize, Serialize};

use crate::memory::{Memory, MemoryError};

/// The file in `state_dir`.
pub const FILE_NAME: &str = "canaries.json";

/// The version written. Readers refuse a newer one.
const VERSION: u64 = 1;

/// What a probe of one customer key needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// The customer key, with its version.
    pub key_identifier: String,
    /// SHA-256 of its public key, hexadecimal: finds the same key pair under another name.
    pub public_key_sha256: String,
    /// What the vault unwraps, and what must come out.
    pub canary: CanaryWrap,
}

impl Canary {
    /// That of a wrap of the master key, without the wrap.
    pub fn of(wrap: &MasterKeyWrap) -> Self {
        Self {
            key_identifier: wrap.key_identifier.clone(),
            public_key_sha256: wrap.public_key_sha256.clone(),
            canary: wrap.canary.clone(),
        }
    }
}

/// The copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canaries {
    version: u64,
    node_id: NodeId,
    generation: u64,
    canaries: Vec<Canary>,
}

/// Why the copy is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CanariesError {
    /// There is none.
    #[error("{FILE_NAME} is not there")]
    Missing,
    /// It, or what it is checked against, cannot be read.
    #[error("{FILE_NAME} cannot be used")]
    Memory(#[from] MemoryError),
    /// The disk did not answer in time.
    #[error("{FILE_NAME} cannot be read: its disk does not answer")]
    Silent,
    /// It is not what the agent writes.
    #[error("{FILE_NAME} is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Written by a newer keyward.
    #[error("{FILE_NAME} is of version {0}; this keyward reads up to {VERSION}")]
    Newer(u64),
    /// Of another node, or of one that `state_dir` does not know.
    #[error("{FILE_NAME} is of node {0}, which is not this one")]
    OtherNode(NodeId),
    /// Of an older keystore than the newest one seen.
    #[error("{FILE_NAME} is of generation {found}, but generation {seen} was seen")]
    Older {
        /// Its generation.
        found: u64,
        /// The newest one seen.
        seen: u64,
    },
}

impl Canaries {
    /// Those of a keystore.
    pub fn of(sealed: &SealedKeystore) -> Self {
        Self {
            version: VERSION,
            node_id: sealed.node_id(),
            generation: sealed.generation(),
            canaries: sealed.wraps().iter().map(Canary::of).collect(),
        }
    }

    /// Those of `next`, and of the keystore that it is to follow.
    pub fn while_stepping(before: Option<&SealedKeystore>, next: &SealedKeystore) -> Self {
        let mut both = Self::of(next);
        for canary in before.map(SealedKeystore::wraps).unwrap_or_default().iter().map(Canary::of) {
            if !both.canaries.contains(&canary) {
                both.canaries.push(canary);
            }
        }
        both
    }

    /// What to probe with.
    pub fn canaries(&self) -> &[Canary] {
        &self.canaries
    }

    /// The copy, if it is this node's and as new as the newest keystore seen. Where that is damaged, the copy is all
    /// there is: one file that is broken must not hide a revocation.
    pub fn believed(memory: &Memory) -> Result<Self, CanariesError> {
        let copy = Self::stored(memory)?.ok_or(CanariesError::Missing)?;
        let claim = match memory.claim() {
            Err(error) if error.is_of_one_file() => return Ok(copy),
            claim => claim?.filter(|claim| claim.node_id == copy.node_id),
        };
        let claim = claim.ok_or(CanariesError::OtherNode(copy.node_id))?;
        if copy.generation < claim.seen_generation {
            return Err(CanariesError::Older { found: copy.generation, seen: claim.seen_generation });
        }
        Ok(copy)
    }

    /// Makes this the copy; durable when it returns. Nothing is written where it is that already.
    pub fn keep(&self, memory: &Memory) -> Result<(), MemoryError> {
        // One that cannot be read is replaced: the keystore is what it was made from.
        if Self::stored(memory).ok().flatten().as_ref() == Some(self) {
            return Ok(());
        }
        memory.write(FILE_NAME, self)
    }

    fn stored(memory: &Memory) -> Result<Option<Self>, CanariesError> {
        let Some(value) = memory.read::<serde_json::Value>(FILE_NAME)? else { return Ok(None) };
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version > VERSION => Err(CanariesError::Newer(version)),
            Some(_) | None => serde_json::from_value(value).map(Some).map_err(CanariesError::Damaged),
        }
    }
}

/// Where the copy is.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{disk::HostDisk, memory::Claim};

    fn copy(node_id: NodeId, generation: u64) -> Canaries {
        let canary = Canary {
            key_identifier: "https://v.vault.azure.net/keys/k/11111111111111111111111111111111".to_owned(),
            public_key_sha256: "0".repeat(64),
            canary: CanaryWrap { ciphertext: vec![1; 256], sha256: [2; 32] },
        };
        Canaries { version: VERSION, node_id, generation, canaries: vec![canary] }
    }

    #[test]
    fn only_this_nodes_newest_copy_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path(), Arc::new(HostDisk)).unwrap();
        let (own, other) = (NodeId::make(), NodeId::make());
        assert!(matches!(Canaries::believed(&memory), Err(CanariesError::Missing)));
        copy(own, 3).keep(&memory).unwrap();
        assert!(matches!(Canaries::believed(&memory), Err(CanariesError::OtherNode(_))), "nobody's yet");
        memory.set_claim(&Claim { node_id: own, seen_generation: 3 }).unwrap();
        assert_eq!(Canaries::believed(&memory).unwrap(), copy(own, 3));
        // A step was cut off before its keystore was seen.
        copy(own, 4).keep(&memory).unwrap();
        assert_eq!(Canaries::believed(&memory).unwrap().canaries(), copy(own, 4).canaries());
        copy(own, 2).keep(&memory).unwrap();
        assert!(matches!(Canaries::believed(&memory), Err(CanariesError::Older { found: 2, seen: 3 })));
        copy(other, 9).keep(&memory).unwrap();
        assert!(matches!(Canaries::believed(&memory), Err(CanariesError::OtherNode(id)) if id == other));
    }

    #[test]
    fn what_is_no_copy_is_told_apart_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path(), Arc::new(HostDisk)).unwrap();
        let own = NodeId::make();
        memory.set_claim(&Claim { node_id: own, seen_generation: 1 }).unwrap();
        let file = path(dir.path());
        let newer = serde_json::to_string(&Canaries { version: 2, ..copy(own, 1) }).unwrap();
        for (content, wanted) in [
            (newer.replacen("\"version\":2", "\"version\":2,\"more\":1", 1), "is of version 2"),
            (newer.replacen("\"version\":2", "\"version\":1,\"more\":1", 1), "is damaged"),
            ("{".to_owned(), "cannot be used"),
        ] {
            std::fs::write(&file, content).unwrap();
            let error = Canaries::believed(&memory).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            copy(own, 1).keep(&memory).unwrap();
            assert_eq!(Canaries::believed(&memory).unwrap(), copy(own, 1));
        }
    }

    /// The wrap of the master key stays in the keystore: the copy could open nothing.
    #[test]
    fn it_holds_canaries_alone() {
        let text = serde_json::to_value(copy(NodeId::make(), 1)).unwrap();
        let members: Vec<&String> = text["canaries"][0].as_object().unwrap().keys().collect();
        assert_eq!(members, ["keyIdentifier", "publicKeySha256", "canary"]);
        let members: Vec<&String> = text.as_object().unwrap().keys().collect();
        assert_eq!(members, ["version", "nodeId", "generation", "canaries"]);
    }
}
