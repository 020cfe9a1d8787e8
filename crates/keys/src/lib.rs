//! Secret types on locked memory, the keystore format, page encryption, and the contract between agent and encryptor.
//!
//! Owns every use of an AEAD and every format that carries a key. It must never open a file or a socket, read the
//! clock, start a thread or know a vault: bytes come in, bytes go out, and whoever calls it writes them down.

pub mod assignment;
pub mod key_id;
pub mod keystore;
pub mod page;
mod prefix_table;
mod scrub;
pub mod secret;
pub mod wire;
mod xaes;

#[allow(unsafe_code)]
mod locked;

pub use key_id::{KeyId, NodeId};
pub use scrub::scrubbed;
pub use secret::{CanarySecret, DatabaseKey, MasterKey, MemoryLock, SecretError, memory_lock, set_dont_fork};
