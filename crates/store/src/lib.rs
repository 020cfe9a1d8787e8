//! What the control plane remembers: one SQL schema on SQLite or PostgreSQL, leases, and one audit event per change.
//!
//! # What is stored
//!
//! *Desired state* (organizations, projects, clusters, …) is documents: one typed struct each, as JSON, with a
//! revision. It is written in a [`Change`], which cannot be committed without exactly one audit event in the same
//! transaction; dropped, it leaves nothing. *Observed state* (reports, leases, nonces, tokens, what a check found)
//! is written in an [`Observation`], which has no event and, by its types, no way to write desired state.
//!
//! Secrets are sealed under the [`ServerKey`], which is a file and never in the database. Access tokens are kept as
//! hashes. No type here can hold a master key or a database key. Times are given, never read from a clock here.
//!
//! # Transactions
//!
//! Changes happen one after the other, over all servers of a database: SQLite has one writer; on PostgreSQL a change
//! waits for its turn before its snapshot is taken. So what a change reads still holds when it commits, and no
//! update is lost. On PostgreSQL an observation waits for its turn too once it writes a document; else it does not
//! wait, and its statements are atomic one by one.

mod access;
mod desired;
mod document;
mod documents;
mod error;
mod event;
mod grant;
mod key;
mod lease;
mod migrate;
mod notice;
mod open;
mod report;
mod secret;
mod tx;
mod usage;

pub use access::NonceUse;
pub use desired::StoredDesired;
pub use document::{Document, ObservedDocument, Stored};
pub use error::StoreError;
pub use event::EventFilter;
pub use grant::{Grant, PrincipalId};
pub use key::ServerKey;
pub use lease::Lease;
pub use notice::{Notice, Notices};
pub use open::Store;
pub use report::Report;
pub use tx::{Change, Observation, Tx, Writer};
pub use usage::Used;
