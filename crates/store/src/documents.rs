//! Which nouns of the model are documents, and where each is kept.
//!
//! An [`ObservedDocument`] may in part also be written without an event: where it says what was found, not what is
//! wanted.

use keyward_model::{
    alert::{Alert, AlertConfig},
    api_key::ApiKey,
    cloud_role::CloudRole,
    cluster::{Cluster, Container},
    encryption::{EncryptionAtRest, ValidationRequest},
    maintenance::Maintenance,
    node::{EnrolledNode, JoinToken},
    organization::Organization,
    private_endpoint::PrivateEndpoint,
    project::Project,
    service_account::ServiceAccount,
    user::User,
};

use crate::{Document, ObservedDocument};

/// Every table of documents.
pub(crate) const TABLES: [&str; 18] = [
    "organization",
    "project",
    "user",
    "api_key",
    "service_account",
    "encryption",
    "private_endpoint",
    "cloud_role",
    "cluster",
    "node",
    "join_token",
    "alert_config",
    "alert",
    "maintenance",
    "validation",
    "snapshot",
    "container",
    "setting",
];

impl Document for EncryptionAtRest {
    const TABLE: &'static str = "encryption";

    fn id(&self) -> String {
        self.project.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

// Its validity is what the last check saw.
impl ObservedDocument for EncryptionAtRest {
    const FOUND: &'static [&'static str] = &["validity"];
    const COMES_AND_GOES: bool = false;
}

impl Document for Organization {
    const TABLE: &'static str = "organization";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        String::new()
    }

    /// Two organizations may have one name.
    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for Project {
    const TABLE: &'static str = "project";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.org.to_string()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Document for User {
    const TABLE: &'static str = "user";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        String::new()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.username)
    }
}

impl Document for ApiKey {
    const TABLE: &'static str = "api_key";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.org.to_string()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.public_key)
    }
}

impl Document for ServiceAccount {
    const TABLE: &'static str = "service_account";

    fn id(&self) -> String {
        self.client_id.clone()
    }

    fn parent(&self) -> String {
        self.org.to_string()
    }

    /// Two service accounts may have one name.
    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for AlertConfig {
    const TABLE: &'static str = "alert_config";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for Alert {
    const TABLE: &'static str = "alert";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

// Raised and resolved by what is found; that someone acknowledged it is a change.
impl ObservedDocument for Alert {
    const FOUND: &'static [&'static str] = &["text", "status", "updated", "resolved", "lastNotified"];
    const COMES_AND_GOES: bool = true;
}

impl Document for Maintenance {
    const TABLE: &'static str = "maintenance";

    fn id(&self) -> String {
        self.project.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

// What its next maintenance waits for; the window itself is a change.
impl ObservedDocument for Maintenance {
    const FOUND: &'static [&'static str] = &["startAsap", "deferrals", "scheduled", "due"];
    const COMES_AND_GOES: bool = true;
}

impl Document for PrivateEndpoint {
    const TABLE: &'static str = "private_endpoint";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    /// One per region.
    fn name(&self) -> Option<&str> {
        Some(&self.region_name)
    }
}

// Its status is what was last seen in Azure.
impl ObservedDocument for PrivateEndpoint {
    const FOUND: &'static [&'static str] = &["status", "errorMessage", "connectionName", "since"];
    const COMES_AND_GOES: bool = true;
}

impl Document for CloudRole {
    const TABLE: &'static str = "cloud_role";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for Cluster {
    const TABLE: &'static str = "cluster";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

// Its state is what its nodes reported.
impl ObservedDocument for Cluster {
    const FOUND: &'static [&'static str] = &["state", "readyAt", "resyncSince"];
    const COMES_AND_GOES: bool = false;
}

impl Document for Container {
    const TABLE: &'static str = "container";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for EnrolledNode {
    const TABLE: &'static str = "node";

    fn id(&self) -> String {
        self.node_id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    /// A revoked node gives its name free.
    fn name(&self) -> Option<&str> {
        self.revoked_at.is_none().then_some(self.name.as_str())
    }
}

// Which authority's certificate it shows is what is seen of it.
impl ObservedDocument for EnrolledNode {
    const FOUND: &'static [&'static str] = &["authority"];
    const COMES_AND_GOES: bool = false;
}

impl Document for JoinToken {
    const TABLE: &'static str = "join_token";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn parent(&self) -> String {
        self.project.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl Document for ValidationRequest {
    const TABLE: &'static str = "validation";

    fn id(&self) -> String {
        self.id.clone()
    }

    /// The node: a node asks for its own.
    fn parent(&self) -> String {
        self.node.to_string()
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

// Someone waits for what is found; nothing is wanted of anyone.
impl ObservedDocument for ValidationRequest {
    const FOUND: &'static [&'static str] = &[];
    const COMES_AND_GOES: bool = true;
}
