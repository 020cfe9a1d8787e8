//! Service accounts: programs that exchange a secret for short-lived tokens.
//!
//! A secret is shown once and kept as its SHA-256: it is random, so that nothing slower is needed.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    access_list::AccessList,
    id::{OrgId, SecretId},
};

/// What client ids begin with; 24 hexadecimal digits follow.
pub const CLIENT_ID_PREFIX: &str = "mdb_sa_id_";
/// What secrets begin with.
pub const SECRET_PREFIX: &str = "mdb_sa_sk_";
/// Most secrets of one service account: two, so that one can be replaced without a gap.
pub const MOST_SECRETS: usize = 2;

/// A service account of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccount {
    /// The id.
    pub client_id: String,
    /// The organization that it belongs to.
    pub org: OrgId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its secrets, oldest first.
    pub secrets: Vec<AccountSecret>,
    /// Where it may be used from.
    pub access_list: AccessList,
}

/// A secret of a service account, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountSecret {
    /// Its id.
    pub id: SecretId,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it is good.
    pub expires: Timestamp,
    /// Its beginning and end, masked between.
    pub masked: String,
    /// SHA-256 of the secret, hexadecimal.
    pub sha256: String,
}
