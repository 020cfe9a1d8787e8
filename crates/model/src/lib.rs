//! Words of keyward as types: key identifiers, evidence, the verdict, node status.
//!
//! Owns every decision that is a function of values and `now`. It must never read the clock, the disk, the
//! network or a random source, and it has no type that can hold key material.

pub mod encryption;
pub mod evidence;
pub mod id;
pub mod key_identifier;
pub mod lifecycle;
pub mod role;
pub mod status;
pub mod sync;
pub mod time;
pub mod verdict;

pub use evidence::{Class, Evidence, Weight};
pub use key_identifier::{KeyIdentifier, KeyIdentifierError};
pub use status::{NodeState, NodeStatus};
pub use time::{BootInstant, Timestamp};
pub use verdict::{Judgement, RevocationPolicy, Verdict};
