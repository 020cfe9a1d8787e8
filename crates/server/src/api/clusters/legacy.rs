//! The shape of 2023-01-01: one provider with its settings, and regions as an object by name.

use std::collections::BTreeMap;

use keyward_model::{
    Code,
    cluster::{Cluster, KeyProvider},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};

use super::{
    body::{ClusterBody, Shape, shared_refusal, wrong},
    places,
    view::{self, Member},
};
use crate::http::{body::parse, error::ApiError};

/// The body of a create or update of 2023-01-01.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LegacyBody {
    provider_settings: Option<ProviderSettings>,
    replication_factor: Option<u32>,
    num_shards: Option<u32>,
    replication_spec: Option<BTreeMap<String, RegionSettings>>,
    replication_specs: Option<Vec<LegacySpec>>,
    auto_scaling: Option<Value>,
    provider_backup_enabled: Option<bool>,
    backup_enabled: Option<bool>,
    #[serde(rename = "mongoURI")]
    _mongo_uri: Option<IgnoredAny>,
    #[serde(rename = "mongoURIUpdated")]
    _mongo_uri_updated: Option<IgnoredAny>,
    #[serde(rename = "mongoURIWithOptions")]
    _mongo_uri_with_options: Option<IgnoredAny>,
    #[serde(rename = "srvAddress")]
    _srv_address: Option<IgnoredAny>,
    name: Option<String>,
    cluster_type: Option<Value>,
    #[serde(rename = "diskSizeGB")]
    disk_size_gb: Option<f64>,
    encryption_at_rest_provider: Option<KeyProvider>,
    #[serde(rename = "mongoDBMajorVersion")]
    mongo_db_major_version: Option<String>,
    paused: Option<bool>,
    termination_protection_enabled: Option<bool>,
    labels: Option<Value>,
    tags: Option<Value>,
    pit_enabled: Option<bool>,
    bi_connector: Option<Value>,
    advanced_configuration: Option<Value>,
    version_release_system: Option<String>,
    root_cert_type: Option<String>,
    #[serde(rename = "connectionStrings")]
    _connection_strings: Option<IgnoredAny>,
    #[serde(rename = "createDate")]
    _create_date: Option<IgnoredAny>,
    #[serde(rename = "groupId")]
    _group_id: Option<IgnoredAny>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "links")]
    _links: Option<IgnoredAny>,
    #[serde(rename = "mongoDBVersion")]
    _mongo_db_version: Option<IgnoredAny>,
    #[serde(rename = "stateName")]
    _state_name: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderSettings {
    provider_name: Option<String>,
    instance_size_name: Option<String>,
    region_name: Option<String>,
    backing_provider_name: Option<String>,
    volume_type: Option<String>,
    #[serde(rename = "diskIOPS")]
    disk_iops: Option<u32>,
    #[serde(rename = "diskTypeName")]
    _disk_type_name: Option<String>,
    #[serde(rename = "encryptEBSVolume")]
    _encrypt_ebs_volume: Option<bool>,
    #[serde(rename = "autoScaling")]
    _auto_scaling: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LegacySpec {
    num_shards: Option<u32>,
    zone_name: Option<String>,
    #[serde(default)]
    regions_config: BTreeMap<String, RegionSettings>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RegionSettings {
    electable_nodes: Option<u32>,
    read_only_nodes: Option<u32>,
    analytics_nodes: Option<u32>,
    priority: Option<u8>,
}

/// The same in the shape of 2023-02-01.
pub(super) fn body(legacy: LegacyBody) -> Result<ClusterBody, ApiError> {
    let encrypted = legacy.encryption_at_rest_provider.is_some_and(|provider| provider != KeyProvider::None);
    let mut same = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            same.insert(name.to_owned(), value);
        }
    };
    put("name", legacy.name.map(Value::from));
    put("clusterType", legacy.cluster_type);
    put("diskSizeGB", legacy.disk_size_gb.map(Value::from));
    put("encryptionAtRestProvider", legacy.encryption_at_rest_provider.map(|provider| json!(provider)));
    put("mongoDBMajorVersion", legacy.mongo_db_major_version.map(Value::from));
    put("paused", legacy.paused.map(Value::from));
    put("terminationProtectionEnabled", legacy.termination_protection_enabled.map(Value::from));
    put("labels", legacy.labels);
    put("tags", legacy.tags);
    put("pitEnabled", legacy.pit_enabled.map(Value::from));
    put("biConnector", legacy.bi_connector);
    put("advancedConfiguration", legacy.advanced_configuration);
    put("versionReleaseSystem", legacy.version_release_system.map(Value::from));
    put("rootCertType", legacy.root_cert_type.map(Value::from));
    put("backupEnabled", legacy.provider_backup_enabled.or(legacy.backup_enabled).map(Value::from));
    if legacy.num_shards.is_some_and(|shards| shards != 1) {
        return Err(wrong("numShards", "is 1 for a replica set"));
    }
    if legacy.auto_scaling.is_some_and(|scaling| !scaling.is_object()) {
        return Err(wrong("autoScaling", "is an object"));
    }
    if let Some(settings) = legacy.provider_settings {
        let (zone, regions) = regions(
            legacy.replication_specs,
            legacy.replication_spec,
            &settings,
            legacy.replication_factor.unwrap_or(3),
        )?;
        let specs = region_configs(&settings, &regions, encrypted)?;
        let mut spec = json!({"numShards": 1, "regionConfigs": specs});
        if let Some(zone) = zone {
            spec["zoneName"] = json!(zone);
        }
        same.insert("replicationSpecs".to_owned(), json!([spec]));
    } else if legacy.replication_specs.is_some() || legacy.replication_spec.is_some() {
        return Err(ApiError::new(Code::MissingAttribute)
            .detail("The attribute providerSettings is missing.")
            .param("providerSettings"));
    }
    parse(Value::Object(same))
}

type Regions = BTreeMap<String, RegionSettings>;

fn regions(
    specs: Option<Vec<LegacySpec>>,
    spec: Option<Regions>,
    settings: &ProviderSettings,
    nodes: u32,
) -> Result<(Option<String>, Regions), ApiError> {
    if let Some(specs) = specs {
        let [spec] = <[LegacySpec; 1]>::try_from(specs)
            .map_err(|_| wrong("replicationSpecs", "has exactly one entry for a replica set"))?;
        if spec.num_shards.is_some_and(|shards| shards != 1) {
            return Err(wrong("replicationSpecs[0].numShards", "is 1 for a replica set"));
        }
        return Ok((spec.zone_name, spec.regions_config));
    }
    if let Some(spec) = spec {
        return Ok((None, spec));
    }
    let region = settings.region_name.clone().unwrap_or_default();
    let all = RegionSettings {
        electable_nodes: Some(nodes),
        read_only_nodes: None,
        analytics_nodes: None,
        priority: Some(7),
    };
    Ok((None, BTreeMap::from([(region, all)])))
}

fn region_configs(
    settings: &ProviderSettings,
    regions: &Regions,
    encrypted: bool,
) -> Result<Vec<Value>, ApiError> {
    let provider = settings.provider_name.as_deref().unwrap_or_default();
    let size = settings.instance_size_name.as_deref().unwrap_or("M10");
    if provider == "TENANT" || settings.backing_provider_name.is_some() || places::is_shared(size) {
        return Err(shared_refusal(encrypted));
    }
    let mut named: Vec<(&String, &RegionSettings)> = regions.iter().collect();
    named.sort_by_key(|(_, region)| std::cmp::Reverse(region.priority.unwrap_or(0)));
    Ok(named
        .into_iter()
        .map(|(name, region)| {
            let hardware = |nodes: Option<u32>| {
                let mut spec = json!({"instanceSize": size, "nodeCount": nodes.unwrap_or(0)});
                if let Some(iops) = settings.disk_iops {
                    spec["diskIOPS"] = json!(iops);
                }
                if let Some(kind) = &settings.volume_type {
                    spec["ebsVolumeType"] = json!(kind);
                }
                spec
            };
            json!({
                "providerName": provider,
                "regionName": name,
                "priority": region.priority.unwrap_or(7),
                "electableSpecs": hardware(region.electable_nodes),
                "readOnlySpecs": hardware(region.read_only_nodes),
                "analyticsSpecs": hardware(region.analytics_nodes),
            })
        })
        .collect())
}

/// A cluster in the shape of 2023-01-01.
pub(super) fn view(cluster: &Cluster, members: &[Member<'_>], href: &str) -> Value {
    let mut shown = view::cluster(cluster, members, Shape::Counted, href);
    let specs = &cluster.intent.replication_specs;
    let nodes =
        |spec: &Option<keyward_model::cluster::HardwareSpec>| spec.as_ref().map_or(0, |spec| spec.node_count);
    let of = |spec: &keyward_model::cluster::ReplicationSpec| -> Map<String, Value> {
        spec.region_configs
            .iter()
            .map(|region| {
                let settings = json!({
                    "electableNodes": nodes(&region.electable_specs),
                    "readOnlyNodes": nodes(&region.read_only_specs),
                    "analyticsNodes": nodes(&region.analytics_specs),
                    "priority": region.priority,
                });
                (region.region_name.clone(), settings)
            })
            .collect()
    };
    let legacy: Vec<Value> = specs
        .iter()
        .map(|spec| {
            json!({"id": spec.id, "numShards": 1, "zoneName": spec.zone_name, "regionsConfig": of(spec)})
        })
        .collect();
    shown["replicationSpecs"] = json!(legacy);
    shown["numShards"] = json!(1);
    shown["providerBackupEnabled"] = json!(cluster.intent.settings.backup_enabled);
    if let Some(spec) = specs.first() {
        shown["replicationSpec"] = Value::Object(of(spec));
        if let Some(region) = spec.region_configs.first() {
            shown["replicationFactor"] = json!(nodes(&region.electable_specs));
            let size = region.electable_specs.as_ref().map(|spec| spec.instance_size.clone());
            shown["providerSettings"] = json!({
                "providerName": region.provider_name,
                "instanceSizeName": size,
                "regionName": region.region_name,
            });
        }
    }
    if let Some(standard) = shown["connectionStrings"].get("standard").cloned() {
        shown["mongoURI"] = standard;
    }
    shown
}
