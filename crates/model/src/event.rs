//! Audit events: who did what, when, and with what outcome.
//!
//! Types carry the Atlas Administration API's names where it has one; those that begin with `KEYWARD_` are ours. An
//! event never holds a secret: its [`detail`](Event::detail) is shown to whoever may read the project.

use core::net::IpAddr;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Timestamp,
    id::{ApiKeyId, EventId, NodeId, OrgId, ProjectId, UserId},
};

/// Something that happened, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its id. Events of one millisecond are ordered by it.
    pub id: EventId,
    /// When the change was committed.
    pub at: Timestamp,
    /// What happened.
    pub event_type: EventType,
    /// The organization it concerns.
    pub org: Option<OrgId>,
    /// The project it concerns.
    pub project: Option<ProjectId>,
    /// The name of the cluster it concerns.
    pub cluster: Option<String>,
    /// Who did it.
    pub actor: Actor,
    /// Where the request came from.
    pub remote: Option<IpAddr>,
    /// What came of it.
    pub outcome: Outcome,
    /// What else there is to know, by name.
    pub detail: Map<String, Value>,
}

/// An event that has not been stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened.
    pub event_type: EventType,
    /// The organization it concerns.
    pub org: Option<OrgId>,
    /// The project it concerns.
    pub project: Option<ProjectId>,
    /// The name of the cluster it concerns.
    pub cluster: Option<String>,
    /// The node it concerns: where project or cluster are not given they are this node's. Without one, the node that
    /// did it.
    pub node: Option<NodeId>,
    /// Who did it.
    pub actor: Actor,
    /// Where the request came from.
    pub remote: Option<IpAddr>,
    /// What came of it.
    pub outcome: Outcome,
    /// What else there is to know, by name.
    pub detail: Map<String, Value>,
}

impl NewEvent {
    /// Something that `actor` did, and that succeeded.
    pub fn new(event_type: EventType, actor: Actor) -> Self {
        Self {
            event_type,
            org: None,
            project: None,
            cluster: None,
            node: None,
            actor,
            remote: None,
            outcome: Outcome::Succeeded,
            detail: Map::new(),
        }
    }

    /// The same, concerning an organization.
    pub fn org(self, org: OrgId) -> Self {
        Self { org: Some(org), ..self }
    }

    /// The same, concerning a project.
    pub fn project(self, project: ProjectId) -> Self {
        Self { project: Some(project), ..self }
    }

    /// The same, concerning the cluster of this name.
    pub fn cluster(self, name: impl Into<String>) -> Self {
        Self { cluster: Some(name.into()), ..self }
    }

    /// The same, concerning a node, and with it its cluster and project.
    pub fn node(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The same, asked for from this address.
    pub fn remote(self, address: IpAddr) -> Self {
        Self { remote: Some(address), ..self }
    }

    /// The same with another outcome.
    pub fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// The same with one more detail; an earlier one of that name goes.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// As it is stored, under an id and at a time.
    pub fn stored(self, id: EventId, at: Timestamp) -> Event {
        let NewEvent { event_type, org, project, cluster, node: _, actor, remote, outcome, detail } = self;
        Event { id, at, event_type, org, project, cluster, actor, remote, outcome, detail }
    }
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Actor {
    /// A person.
    User {
        /// Their id.
        id: UserId,
        /// Their name.
        username: String,
    },
    /// A program with an API key.
    ApiKey {
        /// The key's id.
        id: ApiKeyId,
        /// The key's public half.
        public_key: String,
    },
    /// A program with a service account.
    ServiceAccount {
        /// The account's client id.
        client_id: String,
        /// The account's name.
        name: String,
    },
    /// A node's agent.
    Node {
        /// The node's id.
        id: NodeId,
        /// The node's name.
        name: String,
    },
    /// The server itself.
    Job {
        /// The job's name.
        name: String,
    },
    /// Whoever runs `keyward server` commands on the server's machine.
    Operator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User { username, .. } => f.write_str(username),
            Actor::ApiKey { public_key, .. } => write!(f, "API key {public_key}"),
            Actor::ServiceAccount { name, client_id } => write!(f, "service account {name} ({client_id})"),
            Actor::Node { name, .. } => write!(f, "node {name}"),
            Actor::Job { name } => write!(f, "job {name}"),
            Actor::Operator => f.write_str("the server's operator"),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// It was tried and not done.
    Failed,
}

impl Outcome {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
        }
    }
}

macro_rules! event_types {
    ($($variant:ident, $name:literal, $text:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $(#[doc = $text] $variant,)*
        }

        impl EventType {
            /// All of them.
            pub const ALL: &'static [EventType] = &[$(EventType::$variant,)*];

            /// The name in the API.
            pub fn as_str(self) -> &'static str {
                match self { $(EventType::$variant => $name,)* }
            }

            /// The type of this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(EventType::$variant),)* _ => None }
            }

            /// One line for a person.
            pub fn text(self) -> &'static str {
                match self { $(EventType::$variant => $text,)* }
            }
        }
    };
}

event_types! {
    // The customer key of a project.
    EncryptionUpdated, "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", "The project's encryption at rest was changed.";
    EncryptionValidationSucceeded, "ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_SUCCEEDED", "The customer key was tried out and works.";
    EncryptionValidationFailed, "ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED", "The customer key was tried out and cannot be used.";
    EncryptionValid, "ENCRYPTION_AT_REST_CONFIG_IS_VALID", "The customer key answers again.";
    EncryptionNoLongerValid, "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID", "The customer key is refused.";
    EncryptionUpdateStalled, "ENCRYPTION_AT_REST_CONFIG_UPDATE_STALLED", "A change of the customer key does not get on.";
    EncryptionUpdateNoLongerStalled, "ENCRYPTION_AT_REST_CONFIG_UPDATE_NO_LONGER_STALLED", "A change of the customer key gets on again.";
    KeyRotationStarted, "ENCRYPTION_AT_REST_KEY_ROTATION_STARTED", "The nodes' master keys began to move under another customer key.";
    MasterKeyRotationScheduled, "KMIP_KEY_ROTATION_SCHEDULED", "A rotation of master keys was scheduled.";
    AwsKeyRotated, "AWS_ENCRYPTION_KEY_ROTATED", "The customer key in AWS KMS was replaced.";
    AwsKeyValid, "AWS_ENCRYPTION_KEY_VALID", "The customer key in AWS KMS can be used.";
    AwsKeyInvalid, "AWS_ENCRYPTION_KEY_INVALID", "The customer key in AWS KMS cannot be used.";
    AwsKeyNeedsRotation, "AWS_ENCRYPTION_KEY_NEEDS_ROTATION", "The customer key in AWS KMS is due for rotation.";
    AzureKeyRotated, "AZURE_ENCRYPTION_KEY_ROTATED", "The customer key in Azure Key Vault was replaced.";
    AzureKeyValid, "AZURE_ENCRYPTION_KEY_VALID", "The customer key in Azure Key Vault can be used.";
    AzureKeyInvalid, "AZURE_ENCRYPTION_KEY_INVALID", "The customer key in Azure Key Vault cannot be used.";
    AzureKeyNeedsRotation, "AZURE_ENCRYPTION_KEY_NEEDS_ROTATION", "The customer key in Azure Key Vault is due for rotation.";
    GcpKeyRotated, "GCP_ENCRYPTION_KEY_ROTATED", "The customer key in Google Cloud KMS was replaced.";
    GcpKeyValid, "GCP_ENCRYPTION_KEY_VALID", "The customer key in Google Cloud KMS can be used.";
    GcpKeyInvalid, "GCP_ENCRYPTION_KEY_INVALID", "The customer key in Google Cloud KMS cannot be used.";
    GcpKeyNeedsRotation, "GCP_ENCRYPTION_KEY_NEEDS_ROTATION", "The customer key in Google Cloud KMS is due for rotation.";
    KeyNetworkAccessDenied, "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED", "The customer key cannot be reached over the network.";
    KeyNetworkAccessRestored, "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_RESTORED", "The customer key can be reached over the network again.";
    PrivateEndpointCreated, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_CREATED", "A private endpoint to the vault was asked for.";
    PrivateEndpointDeleted, "ENCRYPTION_AT_REST_PRIVATE_ENDPOINT_DELETED", "The deletion of a private endpoint to the vault was asked for.";
    CloudRoleAdded, "CLOUD_PROVIDER_ACCESS_AZURE_SERVICE_PRINCIPAL_ADDED", "A service principal was added.";
    CloudRoleUpdated, "CLOUD_PROVIDER_ACCESS_AZURE_SERVICE_PRINCIPAL_UPDATED", "A service principal was changed.";
    CloudRoleDeleted, "CLOUD_PROVIDER_ACCESS_AZURE_SERVICE_PRINCIPAL_DELETED", "A service principal was deleted.";

    // Maintenance.
    MaintenanceWindowAdded, "ATLAS_MAINTENANCE_WINDOW_ADDED", "A maintenance window was set.";
    MaintenanceWindowModified, "ATLAS_MAINTENANCE_WINDOW_MODIFIED", "The maintenance window was changed.";
    MaintenanceWindowRemoved, "ATLAS_MAINTENANCE_WINDOW_REMOVED", "The maintenance window was removed.";
    MaintenanceDeferred, "ATLAS_MAINTENANCE_DEFERRED", "Maintenance was put off by a week.";
    MaintenanceAutoDeferEnabled, "ATLAS_MAINTENANCE_AUTO_DEFER_ENABLED", "Every maintenance will be put off by a week.";
    MaintenanceAutoDeferDisabled, "ATLAS_MAINTENANCE_AUTO_DEFER_DISABLED", "Maintenance is no longer put off by itself.";
    MaintenanceStartAsap, "ATLAS_MAINTENANCE_START_ASAP", "Maintenance was asked to start at once.";
    MaintenanceScheduledForNextWindow, "ATLAS_MAINTENANCE_SCHEDULED_FOR_NEXT_WINDOW", "Maintenance was scheduled for the next window.";
    ProtectedHoursCreated, "ATLAS_MAINTENANCE_PROTECTED_HOURS_CREATED", "Protected hours were set.";
    ProtectedHoursModified, "ATLAS_MAINTENANCE_PROTECTED_HOURS_MODIFIED", "The protected hours were changed.";
    ProtectedHoursRemoved, "ATLAS_MAINTENANCE_PROTECTED_HOURS_REMOVED", "The protected hours were removed.";
    ProjectScheduledMaintenance, "PROJECT_SCHEDULED_MAINTENANCE", "Maintenance of the project was scheduled.";
    MaintenanceInAdvance, "MAINTENANCE_IN_ADVANCED", "Maintenance is coming.";
    MaintenanceStarted, "MAINTENANCE_STARTED", "Maintenance began.";
    MaintenanceCompleted, "MAINTENANCE_COMPLETED", "Maintenance ended.";
    MaintenanceAutoDeferred, "MAINTENANCE_AUTO_DEFERRED", "Maintenance was put off by a week by itself.";
    MaintenanceNoLongerNeeded, "MAINTENANCE_NO_LONGER_NEEDED", "Scheduled maintenance is no longer needed.";

    // Alerts.
    AlertConfigAdded, "ALERT_CONFIG_ADDED_AUDIT", "An alert configuration was added.";
    AlertConfigChanged, "ALERT_CONFIG_CHANGED_AUDIT", "An alert configuration was changed.";
    AlertConfigDisabled, "ALERT_CONFIG_DISABLED_AUDIT", "An alert configuration was switched off.";
    AlertConfigEnabled, "ALERT_CONFIG_ENABLED_AUDIT", "An alert configuration was switched on.";
    AlertConfigDeleted, "ALERT_CONFIG_DELETED_AUDIT", "An alert configuration was deleted.";
    AlertAcknowledged, "ALERT_ACKNOWLEDGED_AUDIT", "An alert was acknowledged.";
    AlertOpened, "KEYWARD_ALERT_OPENED", "An alert was opened.";
    AlertClosed, "KEYWARD_ALERT_CLOSED", "An alert was closed.";
    AlertUnacknowledged, "ALERT_UNACKNOWLEDGED_AUDIT", "The acknowledgement of an alert was taken back.";

    // Organizations, projects and their settings.
    OrgCreated, "ORG_CREATED", "The organization was created.";
    OrgRenamed, "ORG_RENAMED", "The organization was renamed.";
    OrgDeleted, "KEYWARD_ORG_DELETED", "The organization was deleted.";
    OrgSettingsUpdated, "ORG_SETTINGS_UPDATED", "The organization's settings were changed.";
    ProjectCreated, "GROUP_CREATED", "The project was created.";
    ProjectRenamed, "GROUP_NAME_CHANGED", "The project was renamed.";
    ProjectTagsModified, "GROUP_TAGS_MODIFIED", "The project's tags were changed.";
    ProjectDeleted, "GROUP_DELETED", "The project was deleted.";
    ProjectSettingsUpdated, "KEYWARD_GROUP_SETTINGS_UPDATED", "The project's settings were changed.";
    ServerInitialized, "KEYWARD_SERVER_INITIALIZED", "The server was set up.";
    AgentAuthorityReplaced, "KEYWARD_AGENT_AUTHORITY_REPLACED", "The authority that agents trust the server by was replaced.";
    AgentAuthorityRetired, "KEYWARD_AGENT_AUTHORITY_RETIRED", "The former authority of agents was let go.";
    SettingUpdated, "KEYWARD_SETTING_UPDATED", "A setting of the server was changed.";

    // Who has access.
    UserInvited, "INVITED_TO_ORG", "A user was invited to the organization.";
    UserJoinedOrg, "JOINED_ORG", "A user joined the organization.";
    UserRemovedFromOrg, "REMOVED_FROM_ORG", "A user was removed from the organization.";
    UserJoinedProject, "JOINED_GROUP", "A user was added to the project.";
    UserRemovedFromProject, "REMOVED_FROM_GROUP", "A user was removed from the project.";
    UserRolesChanged, "USER_ROLES_CHANGED_AUDIT", "A user's roles were changed.";
    ApiKeyCreated, "API_KEY_CREATED", "An API key was created.";
    ApiKeyDeleted, "API_KEY_DELETED", "An API key was deleted.";
    ApiKeyDescriptionChanged, "API_KEY_DESCRIPTION_CHANGED", "An API key's description was changed.";
    ApiKeyRolesChanged, "API_KEY_ROLES_CHANGED", "An API key's roles were changed.";
    ApiKeyAddedToProject, "API_KEY_ADDED_TO_GROUP", "An API key was added to the project.";
    ApiKeyRemovedFromProject, "API_KEY_REMOVED_FROM_GROUP", "An API key was removed from the project.";
    ApiKeyAccessListEntryAdded, "API_KEY_ACCESS_LIST_ENTRY_ADDED", "An address was added to an API key's access list.";
    ApiKeyAccessListEntryDeleted, "API_KEY_ACCESS_LIST_ENTRY_DELETED", "An address was removed from an API key's access list.";
    ServiceAccountCreated, "SERVICE_ACCOUNT_CREATED", "A service account was created.";
    ServiceAccountDeleted, "SERVICE_ACCOUNT_DELETED", "A service account was deleted.";
    ServiceAccountDetailsChanged, "SERVICE_ACCOUNT_DETAILS_CHANGED", "A service account's name or description was changed.";
    ServiceAccountRolesChanged, "SERVICE_ACCOUNT_ROLES_CHANGED", "A service account's roles were changed.";
    ServiceAccountAddedToProject, "SERVICE_ACCOUNT_ADDED_TO_GROUP", "A service account was added to the project.";
    ServiceAccountRemovedFromProject, "SERVICE_ACCOUNT_REMOVED_FROM_GROUP", "A service account was removed from the project.";
    ServiceAccountSecretAdded, "SERVICE_ACCOUNT_SECRET_ADDED", "A service account got another secret.";
    ServiceAccountSecretDeleted, "SERVICE_ACCOUNT_SECRET_DELETED", "A service account's secret was deleted.";
    ServiceAccountAccessListEntryAdded, "SERVICE_ACCOUNT_ACCESS_LIST_ENTRY_ADDED", "An address was added to a service account's access list.";
    ServiceAccountAccessListEntryDeleted, "SERVICE_ACCOUNT_ACCESS_LIST_ENTRY_DELETED", "An address was removed from a service account's access list.";

    // Clusters.
    ClusterCreated, "CLUSTER_CREATED", "A cluster was asked for.";
    ClusterReady, "CLUSTER_READY", "The cluster is ready.";
    ClusterUpdateSubmitted, "CLUSTER_UPDATE_SUBMITTED", "A change of the cluster was asked for.";
    ClusterUpdateStarted, "CLUSTER_UPDATE_STARTED", "A change of the cluster began.";
    ClusterUpdateCompleted, "CLUSTER_UPDATE_COMPLETED", "A change of the cluster was carried out.";
    ClusterDeleteSubmitted, "CLUSTER_DELETE_SUBMITTED", "The deletion of the cluster was asked for.";
    ClusterDeleted, "CLUSTER_DELETED", "The cluster was deleted.";
    ClusterTagsModified, "CLUSTER_TAGS_MODIFIED", "The cluster's tags were changed.";
    ClusterProcessArgsUpdated, "CLUSTER_PROCESS_ARGS_UPDATE_SUBMITTED", "A change of the cluster's process arguments was asked for.";
    ClusterResyncStarted, "CLUSTER_ROLLING_RESYNC_STARTED", "The cluster's members began to be copied anew, one at a time.";
    ClusterResyncCompleted, "CLUSTER_ROLLING_RESYNC_COMPLETED", "All members of the cluster were copied anew.";
    ClusterResyncFailed, "CLUSTER_ROLLING_RESYNC_FAILED", "A member of the cluster could not be copied anew.";
    ContainerCreated, "KEYWARD_CONTAINER_CREATED", "A network container was created.";
    HostDown, "HOST_DOWN", "A node does not answer.";
    HostUp, "HOST_UP", "A node answers again.";

    // Snapshots.
    SnapshotStarted, "CPS_SNAPSHOT_STARTED", "A snapshot began.";
    SnapshotSucceeded, "CPS_SNAPSHOT_SUCCESSFUL", "A snapshot was made.";
    SnapshotFailed, "CPS_SNAPSHOT_FAILED", "A snapshot could not be made.";

    // Nodes.
    JoinTokenCreated, "KEYWARD_JOIN_TOKEN_CREATED", "A token for joining a node was made.";
    JoinTokenDeleted, "KEYWARD_JOIN_TOKEN_DELETED", "A token for joining a node was deleted.";
    NodeEnrolled, "KEYWARD_NODE_ENROLLED", "A node joined the project.";
    NodeRenewed, "KEYWARD_NODE_CERTIFICATE_RENEWED", "A node got another certificate.";
    NodeRevoked, "KEYWARD_NODE_REVOKED", "A node's certificate was revoked.";
    NodeLeft, "KEYWARD_NODE_LEFT", "A node's host took it away from the server.";
    NodeAssigned, "KEYWARD_NODE_ASSIGNED", "A node was given to a cluster.";
    NodeReleased, "KEYWARD_NODE_RELEASED", "A node was taken from a cluster.";
    PlanRefused, "KEYWARD_PLAN_REFUSED", "A plan contradicted itself and was not carried out.";
    NodeStoppedRevoked, "KEYWARD_NODE_STOPPED_REVOKED", "A node stopped its database because the customer key was taken away.";
    NodeStartedAgain, "KEYWARD_NODE_STARTED_AGAIN", "A node started its database again because the customer key answers again.";
    NodeApprovalNeeded, "KEYWARD_NODE_APPROVAL_NEEDED", "A node waits for `keyward node approve`.";
    MasterKeyRotationStarted, "KEYWARD_MASTER_KEY_ROTATION_STARTED", "A node was asked to rotate its master key.";
    MasterKeyRotated, "KEYWARD_MASTER_KEY_ROTATED", "A node rotated its master key.";
    KeyRotationCompleted, "KEYWARD_KEY_ROTATION_COMPLETED", "All nodes' master keys are under the customer key that is desired.";
    PolicyUpdated, "KEYWARD_REVOCATION_POLICY_UPDATED", "The time after which refusals become a revocation was changed.";
}

impl EventType {
    /// Whether the name is the Atlas Administration API's; else it is ours.
    pub fn is_atlas(self) -> bool {
        !self.as_str().starts_with("KEYWARD_")
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no type of event has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of event")]
pub struct UnknownEventType(String);

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name).ok_or_else(|| UnknownEventType(name.chars().take(64).collect()))
    }
}

impl Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_reads_back_and_is_there_once() {
        let mut names = BTreeSet::new();
        for &event_type in EventType::ALL {
            assert_eq!(EventType::parse(event_type.as_str()), Some(event_type));
            assert!(names.insert(event_type.as_str()), "{event_type} twice");
        }
        assert_eq!(names.len(), EventType::ALL.len());
        let refused = "CLUSTER_BLOWN_UP".parse::<EventType>().unwrap_err();
        assert!(refused.to_string().contains("CLUSTER_BLOWN_UP"));
    }

    #[test]
    fn every_type_has_a_sentence_of_its_own() {
        let texts: BTreeSet<_> = EventType::ALL.iter().map(|event_type| event_type.text()).collect();
        assert_eq!(texts.len(), EventType::ALL.len());
        for text in texts {
            assert!(text.ends_with('.') && text.len() > 15 && text.len() < 100, "{text}");
        }
    }

    #[test]
    fn an_event_survives_json() {
        let event = NewEvent::new(
            EventType::ClusterCreated,
            Actor::ApiKey { id: ApiKeyId::from_bytes([3; 12]), public_key: "abcdefgh".into() },
        )
        .org(OrgId::from_bytes([1; 12]))
        .project(ProjectId::from_bytes([2; 12]))
        .cluster("shop")
        .remote("192.0.2.7".parse().unwrap())
        .detail("instanceSize", "M10")
        .stored(EventId::from_bytes([4; 12]), Timestamp::from_epoch_ms(1_780_000_000_123));
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains("\"eventType\":\"CLUSTER_CREATED\""), "{text}");
        assert!(text.contains("\"publicKey\":\"abcdefgh\""), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
