//! Words of keyward as types: key identifiers, evidence, the verdict, node status.
//!
//! Owns every decision that is a function of values and `now`. It must never read the clock, the disk, the
//! network or a random source, and it has no type that can hold key material.

pub mod access_list;
pub mod alert;
pub mod api_key;
pub mod approval;
pub mod authority;
pub mod cloud_role;
pub mod cluster;
pub mod code;
pub mod count;
pub mod encryption;
pub mod event;
pub mod evidence;
pub mod id;
pub mod key_identifier;
pub mod lifecycle;
pub mod maintenance;
pub mod node;
pub mod organization;
pub mod plan;
pub mod private_endpoint;
pub mod project;
pub mod role;
pub mod rollout;
pub mod service_account;
pub mod status;
pub mod sync;
pub mod time;
pub mod user;
pub mod verdict;

pub use code::Code;
pub use evidence::{Class, Evidence, Weight};
pub use key_identifier::{KeyIdentifier, KeyIdentifierError};
pub use status::{NodeState, NodeStatus};
pub use time::{BootInstant, Timestamp};
pub use verdict::{Judgement, RevocationPolicy, Verdict};
