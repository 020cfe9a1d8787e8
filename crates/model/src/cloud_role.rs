//! Cloud provider access: a service principal that a project's customer key is used as, instead of a client secret.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    id::{CloudRoleId, ProjectId},
};

/// An Azure service principal that a project lets keyward use. keyward holds no secret of it: hosts and server prove
/// themselves with an identity of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudRole {
    /// Its id: what `roleId` names.
    pub id: CloudRoleId,
    /// Whose it is.
    pub project: ProjectId,
    /// The application (client) id, as given.
    pub atlas_azure_app_id: String,
    /// The service principal's object id, as given.
    pub service_principal_id: String,
    /// The tenant, as given.
    pub tenant_id: String,
    /// When it was added.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
}
