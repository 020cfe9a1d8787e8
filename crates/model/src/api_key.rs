//! API keys: pairs of a public and a private key that programs sign requests with.
//!
//! The private key is shown once and never kept; what signatures are checked with is a sealed secret of the store.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    access_list::AccessList,
    id::{ApiKeyId, OrgId},
};

/// An API key of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// The id.
    pub id: ApiKeyId,
    /// The organization that it belongs to.
    pub org: OrgId,
    /// The public key: eight lower-case letters, unique over all organizations.
    pub public_key: String,
    /// What it is for.
    pub desc: String,
    /// When it was created.
    pub created: Timestamp,
    /// Where it may be used from.
    pub access_list: AccessList,
}
