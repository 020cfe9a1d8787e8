//! What the node keeps of its server, in STATE_DIR/server, readable by the agent's user alone.
//!
//! ```text
//! key.pem cert.pem ca.pem    the node's key and certificate, the server's authority
//! link.json                  which server; written last when joining
//! desired.json               the last desired state that was accepted
//! applied.json               the server's settings that are in use
//! approved.json              what the host approved
//! client-secret-*            client secrets, each where the Azure client reads it
//! ```

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::{
    Timestamp,
    approval::{Approval, Seen},
    id::NodeId,
    sync::{Desired, DesiredCredential, DesiredEncryption, DesiredRun},
};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    disk::Disk,
    memory::{Memory, MemoryError},
};

/// Which server the node has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined {
    /// The node, as it joined.
    pub(super) node_id: NodeId,
    /// Its address for agents.
    pub(super) url: Url,
    /// SHA-256 of its authority, hexadecimal.
    pub(super) ca_sha256: String,
    /// When the certificate was made, by this host's clock.
    pub(super) issued_at: Timestamp,
    /// When it ends.
    pub(super) not_after: Timestamp,
    /// Reports up to this number may have been sent.
    pub(super) reserved_reports: u64,
}

/// A desired state that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// Its number and digest.
    pub(super) seen: Seen,
    /// What is desired.
    pub(super) desired: Desired,
    /// Whether all of it was carried out, once.
    pub(super) done: bool,
}

/// The server's settings that are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Applied {
    /// How the customer key is reached; `None`: as the node's file says.
    pub(super) encryption: Option<DesiredEncryption>,
    /// The last wish about running that was carried out.
    pub(super) run: DesiredRun,
}

impl Default for Applied {
    fn default() -> Self {
        Self { encryption: None, run: DesiredRun::Unmanaged }
    }
}

/// The files.
#[derive(Clone)]
pub(super) struct LinkFiles {
    dir: PathBuf,
    memory: Memory,
}

/// The folder in `state_dir`.
pub(crate) const FOLDER: &str = "server";

const SECRET_PREFIX: &str = "client-secret-";

impl LinkFiles {
    /// Those of the node with this `state_dir`.
    pub(super) fn open(state_dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, MemoryError> {
        let dir = state_dir.join(FOLDER);
        Ok(Self { memory: Memory::open(&dir, disk)?, dir })
    }

    pub(super) fn joined(&self) -> Result<Option<Joined>, MemoryError> {
        self.memory.read_or_set_aside("link.json")
    }

    pub(super) fn set_joined(&self, joined: &Joined) -> Result<(), MemoryError> {
        self.memory.write("link.json", joined)
    }

    pub(super) fn accepted(&self) -> Result<Option<Accepted>, MemoryError> {
        self.memory.read_or_set_aside("desired.json")
    }

    pub(super) fn set_accepted(&self, accepted: &Accepted) -> Result<(), MemoryError> {
        self.memory.write("desired.json", accepted)
    }

    pub(super) fn applied(&self) -> Result<Applied, MemoryError> {
        Ok(self.memory.read_or_set_aside("applied.json")?.unwrap_or_default())
    }

    pub(super) fn set_applied(&self, applied: &Applied) -> Result<(), MemoryError> {
        self.memory.write("applied.json", applied)
    }

    pub(super) fn approvals(&self) -> Result<BTreeSet<Approval>, MemoryError> {
        Ok(self.memory.read_or_set_aside("approved.json")?.unwrap_or_default())
    }

    pub(super) fn set_approvals(&self, approvals: &BTreeSet<Approval>) -> Result<(), MemoryError> {
        self.memory.write("approved.json", approvals)
    }

    /// PEM of the node's key.
    pub(super) fn key(&self) -> Result<Option<Zeroizing<String>>, MemoryError> {
        self.memory.read_text("key.pem")
    }

    /// PEM of the key of a join that is under way: the same for every try.
    pub(super) fn join_key(&self) -> Result<Option<Zeroizing<String>>, MemoryError> {
        self.memory.read_text("join-key.pem")
    }

    pub(super) fn set_join_key(&self, pem: &str) -> Result<(), MemoryError> {
        self.memory.write_text("join-key.pem", pem).map(drop)
    }

    /// PEM of the node's certificate.
    pub(super) fn certificate(&self) -> Result<Option<Zeroizing<String>>, MemoryError> {
        self.memory.read_text("cert.pem")
    }

    /// PEM of the server's authorities.
    pub(super) fn authorities(&self) -> Result<Option<Zeroizing<String>>, MemoryError> {
        self.memory.read_text("ca.pem")
    }

    pub(super) fn set_certificate(&self, pem: &str, authorities: &str) -> Result<(), MemoryError> {
        self.memory.write_text("ca.pem", authorities)?;
        self.memory.write_text("cert.pem", pem).map(drop)
    }

    /// The join is through: its key is the node's. Another server starts with nothing accepted.
    pub(super) fn finish_join(
        &self,
        key: &str,
        joined: &Joined,
        same_server: bool,
    ) -> Result<(), MemoryError> {
        self.memory.write_text("key.pem", key)?;
        if !same_server {
            self.memory.remove("desired.json")?;
        }
        self.set_joined(joined)?;
        self.memory.remove("join-key.pem")
    }

    /// Forgets the server and what it wished; for good when it returns. What is in use stays: the customer
    /// key is reached by it. Cut off anywhere, the node either still has its server, with nothing accepted,
    /// or has none, and then nothing of what was approved for it.
    pub(super) fn forget_server(&self) -> Result<(), MemoryError> {
        for name in
            ["desired.json", "approved.json", "link.json", "cert.pem", "key.pem", "ca.pem", "join-key.pem"]
        {
            self.memory.remove(name)?;
        }
        self.memory.sync()
    }

    /// Makes the file for a client secret, named by its content, and gives its path.
    pub(super) fn keep_secret(&self, secret: &str) -> Result<PathBuf, MemoryError> {
        let name = secret_name(secret);
        match self.memory.read_text(&name)? {
            Some(there) if *there == secret => Ok(self.dir.join(name)),
            Some(_) | None => self.memory.write_text(&name, secret),
        }
    }

    /// Takes away the files of client secrets that neither of `used` needs.
    pub(super) fn drop_secrets(&self, used: &[Option<&DesiredEncryption>]) {
        let needed: BTreeSet<String> =
            used.iter().flatten().filter_map(|e| secret_of(e)).map(secret_name).collect();
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if name.starts_with(SECRET_PREFIX)
                && !needed.contains(&name)
                && let Err(error) = self.memory.remove(&name)
            {
                tracing::warn!("{}", crate::node::chain(&error));
            }
        }
    }
}

fn secret_of(encryption: &DesiredEncryption) -> Option<&str> {
    match &encryption.credential {
        DesiredCredential::ClientSecret { secret } => Some(secret),
        DesiredCredential::OfTheHost => None,
    }
}

fn secret_name(secret: &str) -> String {
    // A client secret is random: a part of its digest tells nothing of it.
    let digest = digest(&SHA256, secret.as_bytes());
    format!("{SECRET_PREFIX}{}", data_encoding::HEXLOWER.encode(&digest.as_ref()[..8]))
}
