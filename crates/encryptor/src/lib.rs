//! The WiredTiger extension: a `WT_ENCRYPTOR` whose database keys come from the agent.
//!
//! It runs inside the database process. It never sees the master key, opens no network connection, lets no panic out, and
//! makes no callback fail because of a revocation: the agent stops the database instead. What can be decided without the
//! process is pure and usable by the agent too: [`layout`], [`probe`], [`session`].

pub mod client;
mod create_slots;
mod extension;
mod ffi;
pub mod journal;
pub mod keyring;
pub mod layout;
mod memory_map;
pub mod probe;
pub mod session;
pub mod settings;

pub use extension::wiredtiger_extension_init;
