//! A cluster: what its owner wants of it, and what is remembered of its way there.
//!
//! [`ClusterIntent`] is what was asked for; nothing in it is an observation. What a cluster *is* follows from its
//! nodes' reports: [`crate::plan`] compares the two. Field names and values follow the Atlas Administration API of
//! 2024-08-05. Which nodes belong to a cluster stands with the nodes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Timestamp,
    id::{ClusterId, NodeId, ProjectId},
};

/// A cluster as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Whose it is.
    pub project: ProjectId,
    /// Unique in the project, never changed.
    pub name: String,
    /// What its owner wants.
    pub intent: ClusterIntent,
    /// When it was created.
    pub created: Timestamp,
    /// What the nodes' reports last added up to.
    pub state: ClusterState,
    /// When all its nodes had first reported all that was wanted.
    pub ready_at: Option<Timestamp>,
    /// When its deletion was asked for.
    pub delete_asked: Option<Timestamp>,
    /// Whether it was encrypted with the project's customer key and should no longer be.
    pub switched_off: bool,
    /// The last rotation of each node's master key that was asked for.
    pub rotations: Vec<NodeRotation>,
    /// Since when members are being filled again, encrypted; `None` when they are not.
    #[serde(default)]
    pub resync_since: Option<Timestamp>,
}

/// The rotation of a node's master key, asked for by the key that is to go: once that one is gone it is done, and
/// asking again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRotation {
    /// The node.
    pub node: NodeId,
    /// The id of the master key that is to go.
    pub master_key: String,
    /// When it was asked for, by the server's clock.
    pub asked_at: Timestamp,
}

/// Atlas' `stateName`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClusterState {
    /// All nodes have reported what is wanted.
    Idle,
    /// Some node has never done so.
    Creating,
    /// A change is on its way.
    Updating,
    /// Nodes are being released; then it is gone.
    Deleting,
    /// Nothing is to be changed, but not every node is well.
    Repairing,
}

/// What the owner of a cluster wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterIntent {
    /// Whose customer key encrypts it.
    pub encryption_at_rest_provider: KeyProvider,
    /// Where its nodes are, one for each shard; keyward's clusters have one.
    pub replication_specs: Vec<ReplicationSpec>,
    /// `8.0`.
    pub mongo_db_major_version: String,
    /// Whether the database processes should be stopped.
    pub paused: bool,
    /// Whether a request to delete it is refused.
    pub termination_protection_enabled: bool,
    /// Labels as given.
    pub labels: Vec<Pair>,
    /// Tags as given.
    pub tags: Vec<Pair>,
    /// Further settings of Atlas, checked and echoed; keyward does not act on them.
    pub settings: ClusterSettings,
    /// `processArgs`, checked and echoed.
    pub process_args: Map<String, Value>,
}

/// Settings that are stored and echoed only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSettings {
    /// Cloud backups.
    pub backup_enabled: bool,
    /// Continuous backups.
    pub pit_enabled: bool,
    /// Whether the BI connector is on.
    pub bi_connector_enabled: bool,
    /// `PRIMARY`, `SECONDARY` or `ANALYTICS`.
    pub bi_connector_read_preference: String,
    /// `LTS` or `CONTINUOUS`.
    pub version_release_system: String,
    /// `FULLY_WARMED`, …
    pub disk_warming_mode: String,
    /// `ISRGROOTX1`.
    pub root_cert_type: String,
    /// `WORKLOAD_TYPE`, …
    pub replica_set_scaling_strategy: String,
    /// `ATLAS_MANAGED`, …
    pub config_server_management_mode: String,
    /// Whether mongod leaves contents out of its log.
    pub redact_client_log_data: bool,
    /// Set for global clusters only.
    pub global_cluster_self_managed_sharding: bool,
    /// `useAwsTimeBasedSnapshotCopyForFastInitialSync`.
    pub fast_initial_sync: bool,
    /// `TLS1_2`, …
    pub minimum_enabled_tls_protocol: String,
    /// `DEFAULT` or `CUSTOM`.
    pub tls_cipher_config_mode: String,
    /// Cipher suites of TLS 1.2.
    pub custom_openssl_cipher_config_tls12: Vec<String>,
    /// Cipher suites of TLS 1.3.
    pub custom_openssl_cipher_config_tls13: Vec<String>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            backup_enabled: false,
            pit_enabled: false,
            bi_connector_enabled: false,
            bi_connector_read_preference: "SECONDARY".into(),
            version_release_system: "LTS".into(),
            disk_warming_mode: "FULLY_WARMED".into(),
            root_cert_type: "ISRGROOTX1".into(),
            replica_set_scaling_strategy: "WORKLOAD_TYPE".into(),
            config_server_management_mode: "ATLAS_MANAGED".into(),
            redact_client_log_data: false,
            global_cluster_self_managed_sharding: false,
            fast_initial_sync: false,
            minimum_enabled_tls_protocol: "TLS1_2".into(),
            tls_cipher_config_mode: "DEFAULT".into(),
            custom_openssl_cipher_config_tls12: Vec::new(),
            custom_openssl_cipher_config_tls13: Vec::new(),
        }
    }
}

/// Whose customer key encrypts a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyProvider {
    /// Nobody's: keyward leaves the nodes as they are.
    None,
    /// AWS KMS.
    Aws,
    /// Azure Key Vault.
    Azure,
    /// Google Cloud KMS.
    Gcp,
}

impl KeyProvider {
    /// All of them.
    pub const ALL: [KeyProvider; 4] =
        [KeyProvider::None, KeyProvider::Aws, KeyProvider::Azure, KeyProvider::Gcp];

    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyProvider::None => "NONE",
            KeyProvider::Aws => "AWS",
            KeyProvider::Azure => "AZURE",
            KeyProvider::Gcp => "GCP",
        }
    }
}

/// A key and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Where the nodes of a shard are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationSpec {
    /// 24 hexadecimal characters.
    pub id: String,
    /// 24 hexadecimal characters.
    pub zone_id: String,
    /// The zone's name.
    pub zone_name: String,
    /// The regions, by falling priority.
    pub region_configs: Vec<RegionConfig>,
}

/// Nodes in one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionConfig {
    /// `AWS`, `AZURE` or `GCP`.
    pub provider_name: String,
    /// Atlas' name of the region.
    pub region_name: String,
    /// 7 for where the primary should be, down to 0.
    pub priority: u8,
    /// Nodes that may become primary.
    pub electable_specs: Option<HardwareSpec>,
    /// Nodes that only read.
    pub read_only_specs: Option<HardwareSpec>,
    /// Nodes for analytics.
    pub analytics_specs: Option<HardwareSpec>,
    /// As given.
    pub auto_scaling: Option<Value>,
    /// As given.
    pub analytics_auto_scaling: Option<Value>,
}

/// The size of nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HardwareSpec {
    /// `M10`, …
    pub instance_size: String,
    /// How many nodes.
    pub node_count: u32,
    /// In gigabytes.
    #[serde(rename = "diskSizeGB")]
    pub disk_size_gb: Option<f64>,
    /// Operations in a second.
    #[serde(rename = "diskIOPS")]
    pub disk_iops: Option<u32>,
    /// AWS only.
    pub ebs_volume_type: Option<String>,
}

impl Cluster {
    /// The name of the replica set.
    pub fn replica_set(&self) -> &str {
        &self.name
    }
}

impl ClusterIntent {
    /// How many nodes the cluster should have.
    pub fn node_count(&self) -> usize {
        let specs = self.replication_specs.iter().flat_map(|spec| &spec.region_configs);
        specs
            .flat_map(|region| [&region.electable_specs, &region.read_only_specs, &region.analytics_specs])
            .flatten()
            .map(|spec| usize::try_from(spec.node_count).unwrap_or(usize::MAX))
            .fold(0, usize::saturating_add)
    }

    /// Provider and region of every place the cluster is in, each once.
    pub fn regions(&self) -> Vec<(&str, &str)> {
        let mut regions: Vec<(&str, &str)> = self
            .replication_specs
            .iter()
            .flat_map(|spec| &spec.region_configs)
            .map(|region| (region.provider_name.as_str(), region.region_name.as_str()))
            .collect();
        regions.sort_unstable();
        regions.dedup();
        regions
    }
}

impl ClusterState {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ClusterState::Idle => "IDLE",
            ClusterState::Creating => "CREATING",
            ClusterState::Updating => "UPDATING",
            ClusterState::Deleting => "DELETING",
            ClusterState::Repairing => "REPAIRING",
        }
    }
}

/// The network container that Atlas' clients look for in each region a project's clusters use. keyward gives it an
/// id and nothing else: the hosts and their network are their owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its id.
    pub id: crate::id::ContainerId,
    /// Whose it is.
    pub project: ProjectId,
    /// `AWS`, `AZURE` or `GCP`.
    pub provider_name: String,
    /// Atlas' name of the region; for GCP, whose containers span regions, the first that was asked for.
    pub region: String,
    /// As given.
    pub atlas_cidr_block: String,
    /// Regions as given, GCP only.
    pub regions: Vec<String>,
}
