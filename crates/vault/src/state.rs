//! Everything the development vault remembers, as values.
//!
//! Each operation is a function of the state and `now`; none reads the clock, the disk or a random source. What
//! a step needs of those (new key material, new ids) is passed in.

mod directory;
mod keys;
mod rotation;
mod vault;

use serde::{Deserialize, Serialize};

pub use directory::{Application, ApplicationCertificate, ApplicationSecret, Directory, FederatedCredential, Secret, SigningKey};
pub use keys::{DeletedKey, Key, KeyChange, KeyVersion, NewVersion};
pub use rotation::{Action, LifetimeAction, RotationPolicy, Trigger, add_duration};
pub use vault::{
    AccessModel, ConnectionStatus, NetworkRules, PolicyEntry, PrivateEndpointConnection, RoleAssignment, Vault,
    VaultDeletion,
};

use crate::fault::ActiveFault;

/// Seconds since the Unix epoch, as Azure writes them.
pub type UnixSeconds = i64;

/// The format of `state.json` that this build writes.
pub const FORMAT: u32 = 1;

/// The whole state of one development vault, its tenant included.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Version of this format; see [`FORMAT`].
    pub format: u32,
    /// What the admin API asks for.
    pub admin_token: Secret,
    /// Ports that were picked at the first start and are kept: key identifiers contain one.
    pub ports: Ports,
    /// The application that `vault.json` names.
    pub first_client_id: String,
    /// The tenant: applications and the keys that sign tokens.
    pub directory: Directory,
    /// The vault itself.
    pub vault: Vault,
    /// Knobs of the double.
    pub settings: Settings,
    /// Faults that are on; those whose time is over are ignored.
    pub faults: Vec<ActiveFault>,
}

/// Ports of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ports {
    /// Data plane.
    pub vault: u16,
    /// Entra, ARM and the admin API.
    pub directory: u16,
}

/// Knobs of the double that Azure has no counterpart for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Life of an access token, seconds.
    pub token_lifetime_s: u32,
    /// How long a grant or its removal takes to be felt, seconds.
    pub grant_delay_s: u32,
    /// How long a key is "being deleted" before it can be found among the deleted keys, seconds.
    pub deletion_delay_s: u32,
    /// Added to the clock of the machine: lets expiry, rotation and retention be seen without waiting.
    pub clock_offset_s: i64,
    /// `Retry-After` of a throttled answer, seconds.
    pub retry_after_s: u32,
    /// Delay of each answer under the fault `slow`, milliseconds.
    pub slow_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_lifetime_s: 3599,
            grant_delay_s: 0,
            deletion_delay_s: 0,
            clock_offset_s: 0,
            retry_after_s: 2,
            slow_ms: 5000,
        }
    }
}
