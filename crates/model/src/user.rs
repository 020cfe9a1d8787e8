//! Users: names that roles are given to. A user has no password here and signs in nowhere.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, id::UserId};

/// A person, over all organizations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The id.
    pub id: UserId,
    /// The name, an e-mail address; unique, as it was first given.
    pub username: String,
    /// When the user was first named.
    pub created: Timestamp,
}
