//! What a request says of a cluster, in every version, and the intent it becomes. Pure.
//!
//! The shapes of 2023-02-01 (`numShards`, `diskSizeGB` beside the specs) and of 2024-08-05 (one spec for each shard,
//! the disk size in each) are read as one: each is refused what only the other has. Read-only fields are accepted
//! and ignored, since clients send back what they were answered.

use keyward_model::{
    Code,
    cluster::{
        ClusterIntent, ClusterSettings, HardwareSpec, KeyProvider, Pair, RegionConfig, ReplicationSpec,
    },
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::places;
use crate::http::error::ApiError;

/// Most nodes of a cluster, as in Atlas.
const MOST_NODES: usize = 50;
/// Most labels or tags.
const MOST_PAIRS: usize = 50;
/// Longest name of a cluster.
const LONGEST_NAME: usize = 64;
/// Releases of MongoDB that are known.
const MAJOR_VERSIONS: &[&str] = &["4.4", "5.0", "6.0", "7.0", "8.0", "8.1", "8.2"];

/// The body of a create or update.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ClusterBody {
    pub(super) name: Option<String>,
    pub(super) cluster_type: Option<ClusterType>,
    replication_specs: Option<Vec<SpecBody>>,
    #[serde(rename = "diskSizeGB")]
    disk_size_gb: Option<f64>,
    encryption_at_rest_provider: Option<KeyProvider>,
    #[serde(rename = "mongoDBMajorVersion")]
    mongo_db_major_version: Option<String>,
    paused: Option<bool>,
    termination_protection_enabled: Option<bool>,
    labels: Option<Vec<Pair>>,
    tags: Option<Vec<Pair>>,
    backup_enabled: Option<bool>,
    pit_enabled: Option<bool>,
    bi_connector: Option<BiConnectorBody>,
    advanced_configuration: Option<AdvancedBody>,
    version_release_system: Option<String>,
    disk_warming_mode: Option<String>,
    root_cert_type: Option<String>,
    replica_set_scaling_strategy: Option<String>,
    config_server_management_mode: Option<String>,
    redact_client_log_data: Option<bool>,
    global_cluster_self_managed_sharding: Option<bool>,
    #[serde(rename = "useAwsTimeBasedSnapshotCopyForFastInitialSync")]
    fast_initial_sync: Option<bool>,
    // Nothing that keyward could act on: accepted and left out of answers.
    accept_data_risks_and_force_replica_set_reconfig: Option<String>,
    adaptive_capacity: Option<String>,
    #[serde(rename = "mongoDBEmployeeAccessGrant")]
    employee_access_grant: Option<Value>,
    retain_backups: Option<bool>,
    // Read-only.
    config_server_type: Option<IgnoredAny>,
    connection_strings: Option<IgnoredAny>,
    create_date: Option<IgnoredAny>,
    effective_replication_specs: Option<IgnoredAny>,
    feature_compatibility_version: Option<IgnoredAny>,
    feature_compatibility_version_expiration_date: Option<IgnoredAny>,
    group_id: Option<IgnoredAny>,
    id: Option<IgnoredAny>,
    internal_cluster_role: Option<IgnoredAny>,
    links: Option<IgnoredAny>,
    #[serde(rename = "mongoDBVersion")]
    mongo_db_version: Option<IgnoredAny>,
    state_name: Option<IgnoredAny>,
}

/// Atlas' kinds of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum ClusterType {
    Replicaset,
    Sharded,
    Geosharded,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecBody {
    num_shards: Option<u32>,
    zone_name: Option<String>,
    #[serde(default)]
    region_configs: Vec<RegionBody>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "zoneId")]
    _zone_id: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RegionBody {
    provider_name: String,
    backing_provider_name: Option<String>,
    region_name: Option<String>,
    priority: Option<u8>,
    electable_specs: Option<HardwareBody>,
    read_only_specs: Option<HardwareBody>,
    analytics_specs: Option<HardwareBody>,
    auto_scaling: Option<AutoScalingBody>,
    analytics_auto_scaling: Option<AutoScalingBody>,
    #[serde(rename = "effectiveElectableSpecs")]
    _effective_electable_specs: Option<IgnoredAny>,
    #[serde(rename = "effectiveReadOnlySpecs")]
    _effective_read_only_specs: Option<IgnoredAny>,
    #[serde(rename = "effectiveAnalyticsSpecs")]
    _effective_analytics_specs: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HardwareBody {
    instance_size: Option<String>,
    node_count: Option<u32>,
    #[serde(rename = "diskSizeGB")]
    disk_size_gb: Option<f64>,
    #[serde(rename = "diskIOPS")]
    disk_iops: Option<u32>,
    ebs_volume_type: Option<String>,
    #[serde(rename = "diskThroughput")]
    _disk_throughput: Option<IgnoredAny>,
    #[serde(rename = "effectiveInstanceSize")]
    _effective_instance_size: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AutoScalingBody {
    #[serde(default)]
    compute: ComputeScalingBody,
    #[serde(default, rename = "diskGB")]
    disk: DiskScalingBody,
}

#[derive(Debug, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ComputeScalingBody {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    scale_down_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_instance_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_instance_size: Option<String>,
}

#[derive(Debug, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DiskScalingBody {
    #[serde(default)]
    enabled: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BiConnectorBody {
    enabled: Option<bool>,
    read_preference: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdvancedBody {
    minimum_enabled_tls_protocol: Option<String>,
    tls_cipher_config_mode: Option<String>,
    custom_openssl_cipher_config_tls12: Option<Vec<String>>,
    custom_openssl_cipher_config_tls13: Option<Vec<String>>,
}

/// Which shape a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// 2023-02-01.
    Counted,
    /// 2024-08-05 and later.
    PerShard,
}

/// The name of a new cluster.
pub(super) fn checked_name(body: &ClusterBody) -> Result<String, ApiError> {
    let name = body.name.clone().ok_or_else(|| missing("name"))?;
    let fits = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(name)
    } else {
        Err(wrong(
            "name",
            format!("is 1 to {LONGEST_NAME} letters, digits and dashes, and begins with no dash"),
        ))
    }
}

/// The intent of a new cluster. `make_id` gives the ids of the spec and its zone.
pub(super) fn created(
    body: ClusterBody,
    shape: Shape,
    make_id: &mut dyn FnMut() -> String,
) -> Result<ClusterIntent, ApiError> {
    if body.replication_specs.is_none() {
        return Err(missing("replicationSpecs"));
    }
    let empty = ClusterIntent {
        encryption_at_rest_provider: KeyProvider::None,
        replication_specs: Vec::new(),
        mongo_db_major_version: body.mongo_db_major_version.clone().unwrap_or_else(|| "8.0".to_owned()),
        paused: false,
        termination_protection_enabled: false,
        labels: Vec::new(),
        tags: Vec::new(),
        settings: ClusterSettings::default(),
        process_args: serde_json::Map::new(),
    };
    let intent = merged(&empty, body, shape, make_id)?;
    if intent.paused {
        return Err(wrong("paused", "cannot be true for a new cluster"));
    }
    Ok(intent)
}

/// `before` with what `body` says.
pub(super) fn merged(
    before: &ClusterIntent,
    body: ClusterBody,
    shape: Shape,
    make_id: &mut dyn FnMut() -> String,
) -> Result<ClusterIntent, ApiError> {
    if matches!(body.cluster_type, Some(ClusterType::Sharded | ClusterType::Geosharded)) {
        return Err(ApiError::new(Code::ClusterTypeNotSupported).param("clusterType"));
    }
    if shape == Shape::PerShard && body.disk_size_gb.is_some() {
        return Err(unknown("diskSizeGB"));
    }
    let mut intent = before.clone();
    intent.encryption_at_rest_provider =
        body.encryption_at_rest_provider.unwrap_or(before.encryption_at_rest_provider);
    if let Some(version) = &body.mongo_db_major_version {
        one_of("mongoDBMajorVersion", version, MAJOR_VERSIONS)?;
        intent.mongo_db_major_version.clone_from(version);
    }
    intent.paused = body.paused.unwrap_or(before.paused);
    intent.termination_protection_enabled =
        body.termination_protection_enabled.unwrap_or(before.termination_protection_enabled);
    if let Some(labels) = &body.labels {
        intent.labels = pairs("labels", labels)?;
    }
    if let Some(tags) = &body.tags {
        intent.tags = pairs("tags", tags)?;
    }
    settings(&mut intent.settings, &body)?;
    let (disk_size_gb, encrypted) =
        (body.disk_size_gb, intent.encryption_at_rest_provider != KeyProvider::None);
    if let Some(specs) = body.replication_specs {
        intent.replication_specs = replication(&before.replication_specs, specs, shape, encrypted, make_id)?;
    }
    if let Some(size) = disk_size_gb {
        check_disk(size)?;
        for region in intent.replication_specs.iter_mut().flat_map(|spec| &mut spec.region_configs) {
            let specs =
                [&mut region.electable_specs, &mut region.read_only_specs, &mut region.analytics_specs];
            for spec in specs.into_iter().flatten() {
                spec.disk_size_gb = Some(size);
            }
        }
    }
    match intent.node_count() {
        1..=MOST_NODES => Ok(intent),
        found => {
            Err(wrong("replicationSpecs", format!("asks for {found} nodes: 1 to {MOST_NODES} are possible")))
        }
    }
}

fn replication(
    before: &[ReplicationSpec],
    specs: Vec<SpecBody>,
    shape: Shape,
    encrypted: bool,
    make_id: &mut dyn FnMut() -> String,
) -> Result<Vec<ReplicationSpec>, ApiError> {
    let [spec] = <[SpecBody; 1]>::try_from(specs)
        .map_err(|_| wrong("replicationSpecs", "has exactly one entry for a replica set"))?;
    match (shape, spec.num_shards) {
        (Shape::PerShard, Some(_)) => return Err(unknown("replicationSpecs[0].numShards")),
        (Shape::Counted, Some(shards)) if shards != 1 => {
            return Err(wrong("replicationSpecs[0].numShards", "is 1 for a replica set"));
        }
        (Shape::Counted | Shape::PerShard, _) => {}
    }
    if spec.region_configs.is_empty() {
        return Err(missing("replicationSpecs[0].regionConfigs"));
    }
    let last = before.first();
    let mut regions = Vec::with_capacity(spec.region_configs.len());
    for (at, region) in spec.region_configs.into_iter().enumerate() {
        let former = last.and_then(|spec| spec.region_configs.get(at));
        regions.push(region_config(at, region, former, shape, encrypted)?);
    }
    let electable = |region: &RegionConfig| region.electable_specs.as_ref().map_or(0, |spec| spec.node_count);
    if regions.iter().map(electable).all(|nodes| nodes == 0) {
        return Err(wrong("replicationSpecs[0].regionConfigs", "names no electable node"));
    }
    for (at, region) in regions.iter().enumerate() {
        let twin = |other: &RegionConfig| {
            (&other.provider_name, &other.region_name) == (&region.provider_name, &region.region_name)
        };
        if regions[..at].iter().any(twin) {
            return Err(wrong(
                "replicationSpecs[0].regionConfigs",
                format!("names {} twice", region.region_name),
            ));
        }
    }
    Ok(vec![ReplicationSpec {
        id: last.map_or_else(&mut *make_id, |spec| spec.id.clone()),
        zone_id: last.map_or_else(&mut *make_id, |spec| spec.zone_id.clone()),
        zone_name: spec
            .zone_name
            .or_else(|| last.map(|spec| spec.zone_name.clone()))
            .unwrap_or_else(|| "Zone 1".to_owned()),
        region_configs: regions,
    }])
}

fn region_config(
    at: usize,
    body: RegionBody,
    before: Option<&RegionConfig>,
    shape: Shape,
    encrypted: bool,
) -> Result<RegionConfig, ApiError> {
    let field = |name: &str| format!("replicationSpecs[0].regionConfigs[{at}].{name}");
    let sizes = [&body.electable_specs, &body.read_only_specs, &body.analytics_specs];
    let shared = |spec: &HardwareBody| spec.instance_size.as_deref().is_some_and(places::is_shared);
    if body.provider_name == "TENANT"
        || body.backing_provider_name.is_some()
        || sizes.into_iter().flatten().any(shared)
    {
        return Err(shared_refusal(encrypted));
    }
    let Some(provider) = places::provider(&body.provider_name) else {
        let known = "AWS, AZURE or GCP";
        return Err(enum_value(&field("providerName"), &body.provider_name, known));
    };
    let region_name = body.region_name.ok_or_else(|| missing(&field("regionName")))?;
    if !provider.regions.contains(&region_name.as_str()) {
        return Err(enum_value(
            &field("regionName"),
            &region_name,
            &format!("a region of {}", provider.name),
        ));
    }
    let priority = body.priority.unwrap_or_else(|| u8::try_from(7usize.saturating_sub(at)).unwrap_or(0));
    if priority > 7 {
        return Err(wrong(&field("priority"), "is 0 to 7"));
    }
    let hardware = |name: &str, body: Option<HardwareBody>, before: Option<&HardwareSpec>| {
        body.map(|body| hardware(&field(name), body, before, provider, shape)).transpose()
    };
    let scaling = |body: Option<AutoScalingBody>| body.and_then(|body| serde_json::to_value(body).ok());
    Ok(RegionConfig {
        provider_name: body.provider_name,
        region_name,
        priority,
        electable_specs: hardware(
            "electableSpecs",
            body.electable_specs,
            before.and_then(|region| region.electable_specs.as_ref()),
        )?,
        read_only_specs: hardware(
            "readOnlySpecs",
            body.read_only_specs,
            before.and_then(|region| region.read_only_specs.as_ref()),
        )?,
        analytics_specs: hardware(
            "analyticsSpecs",
            body.analytics_specs,
            before.and_then(|region| region.analytics_specs.as_ref()),
        )?,
        auto_scaling: scaling(body.auto_scaling)
            .or_else(|| before.and_then(|region| region.auto_scaling.clone())),
        analytics_auto_scaling: scaling(body.analytics_auto_scaling)
            .or_else(|| before.and_then(|region| region.analytics_auto_scaling.clone())),
    })
}

fn hardware(
    field: &str,
    body: HardwareBody,
    before: Option<&HardwareSpec>,
    provider: &places::Provider,
    shape: Shape,
) -> Result<HardwareSpec, ApiError> {
    let size = body.instance_size.or_else(|| before.map(|spec| spec.instance_size.clone()));
    let size = size.unwrap_or_else(|| "M10".to_owned());
    if !provider.sizes.contains(&size.as_str()) {
        return Err(enum_value(
            &format!("{field}.instanceSize"),
            &size,
            &format!("a size of {}", provider.name),
        ));
    }
    if shape == Shape::Counted && body.disk_size_gb.is_some() {
        return Err(unknown(&format!("{field}.diskSizeGB")));
    }
    if let Some(size) = body.disk_size_gb {
        check_disk(size)?;
    }
    if let Some(kind) = &body.ebs_volume_type {
        one_of(&format!("{field}.ebsVolumeType"), kind, &["STANDARD", "PROVISIONED", "HIGH_PERFORMANCE"])?;
    }
    let node_count = body.node_count.or_else(|| before.map(|spec| spec.node_count)).unwrap_or(0);
    if node_count as usize > MOST_NODES {
        return Err(wrong(&format!("{field}.nodeCount"), format!("is 0 to {MOST_NODES}")));
    }
    Ok(HardwareSpec {
        instance_size: size,
        node_count,
        disk_size_gb: body.disk_size_gb.or_else(|| before.and_then(|spec| spec.disk_size_gb)),
        disk_iops: body.disk_iops,
        ebs_volume_type: body.ebs_volume_type,
    })
}

fn settings(settings: &mut ClusterSettings, body: &ClusterBody) -> Result<(), ApiError> {
    fn put<T: Clone>(place: &mut T, asked: Option<&T>) {
        if let Some(asked) = asked {
            place.clone_from(asked);
        }
    }
    fn choose(
        field: &str,
        place: &mut String,
        asked: Option<&String>,
        known: &'static [&'static str],
    ) -> Result<(), ApiError> {
        let Some(asked) = asked else { return Ok(()) };
        one_of(field, asked, known)?;
        place.clone_from(asked);
        Ok(())
    }
    put(&mut settings.backup_enabled, body.backup_enabled.as_ref());
    put(&mut settings.pit_enabled, body.pit_enabled.as_ref());
    put(&mut settings.redact_client_log_data, body.redact_client_log_data.as_ref());
    put(
        &mut settings.global_cluster_self_managed_sharding,
        body.global_cluster_self_managed_sharding.as_ref(),
    );
    put(&mut settings.fast_initial_sync, body.fast_initial_sync.as_ref());
    if let Some(connector) = &body.bi_connector {
        put(&mut settings.bi_connector_enabled, connector.enabled.as_ref());
        choose(
            "biConnector.readPreference",
            &mut settings.bi_connector_read_preference,
            connector.read_preference.as_ref(),
            &["PRIMARY", "SECONDARY", "ANALYTICS", "primary", "secondary", "analytics"],
        )?;
    }
    choose(
        "versionReleaseSystem",
        &mut settings.version_release_system,
        body.version_release_system.as_ref(),
        &["LTS", "CONTINUOUS"],
    )?;
    choose(
        "diskWarmingMode",
        &mut settings.disk_warming_mode,
        body.disk_warming_mode.as_ref(),
        &["FULLY_WARMED", "VISIBLE_EARLIER", "ENHANCED_FULLY_WARMED"],
    )?;
    choose("rootCertType", &mut settings.root_cert_type, body.root_cert_type.as_ref(), &["ISRGROOTX1"])?;
    choose(
        "replicaSetScalingStrategy",
        &mut settings.replica_set_scaling_strategy,
        body.replica_set_scaling_strategy.as_ref(),
        &["SEQUENTIAL", "WORKLOAD_TYPE", "NODE_TYPE"],
    )?;
    choose(
        "configServerManagementMode",
        &mut settings.config_server_management_mode,
        body.config_server_management_mode.as_ref(),
        &["ATLAS_MANAGED", "FIXED_TO_DEDICATED"],
    )?;
    if let Some(advanced) = &body.advanced_configuration {
        choose(
            "advancedConfiguration.minimumEnabledTlsProtocol",
            &mut settings.minimum_enabled_tls_protocol,
            advanced.minimum_enabled_tls_protocol.as_ref(),
            super::TLS_PROTOCOLS,
        )?;
        choose(
            "advancedConfiguration.tlsCipherConfigMode",
            &mut settings.tls_cipher_config_mode,
            advanced.tls_cipher_config_mode.as_ref(),
            super::CIPHER_MODES,
        )?;
        for suite in advanced.custom_openssl_cipher_config_tls12.iter().flatten() {
            one_of("advancedConfiguration.customOpensslCipherConfigTls12", suite, super::CIPHERS_12)?;
        }
        for suite in advanced.custom_openssl_cipher_config_tls13.iter().flatten() {
            one_of("advancedConfiguration.customOpensslCipherConfigTls13", suite, super::CIPHERS_13)?;
        }
        put(
            &mut settings.custom_openssl_cipher_config_tls12,
            advanced.custom_openssl_cipher_config_tls12.as_ref(),
        );
        put(
            &mut settings.custom_openssl_cipher_config_tls13,
            advanced.custom_openssl_cipher_config_tls13.as_ref(),
        );
    }
    Ok(())
}

fn pairs(field: &str, pairs: &[Pair]) -> Result<Vec<Pair>, ApiError> {
    if pairs.len() > MOST_PAIRS {
        return Err(wrong(field, format!("has more than {MOST_PAIRS} entries")));
    }
    for (at, pair) in pairs.iter().enumerate() {
        let fits = |text: &str| (1..=255).contains(&text.chars().count()) && !text.contains('\0');
        if !fits(&pair.key) || !fits(&pair.value) {
            return Err(wrong(field, "has a key or value that is not 1 to 255 characters long"));
        }
        if pairs[..at].iter().any(|other| other.key == pair.key) {
            return Err(wrong(field, "has a key twice"));
        }
    }
    Ok(pairs.to_vec())
}

/// Why a cluster of a shared offer is refused.
pub(super) fn shared_refusal(encrypted: bool) -> ApiError {
    let code =
        if encrypted { Code::CannotUseEncryptionAtRestTenant } else { Code::TenantClusterNotSupported };
    ApiError::new(code)
}

fn check_disk(size: f64) -> Result<(), ApiError> {
    if (1.0..=16_384.0).contains(&size) {
        Ok(())
    } else {
        Err(wrong("diskSizeGB", "is 1 to 16384 gigabytes"))
    }
}

/// Refuses a value that is none of `known`.
pub(super) fn one_of(field: &str, value: &str, known: &[&str]) -> Result<(), ApiError> {
    if known.contains(&value) { Ok(()) } else { Err(enum_value(field, value, &known.join(", "))) }
}

fn enum_value(field: &str, value: &str, known: &str) -> ApiError {
    let shown: String = value.chars().take(64).collect();
    ApiError::new(Code::InvalidEnumValue)
        .detail(format!("The attribute {field} is {shown}, not {known}."))
        .param(field)
        .field(field, format!("is not {known}"))
}

fn missing(field: &str) -> ApiError {
    ApiError::new(Code::MissingAttribute)
        .detail(format!("The attribute {field} is missing."))
        .param(field)
        .field(field, "is missing")
}

fn unknown(field: &str) -> ApiError {
    ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {field} is not known in this version."))
        .param(field)
        .field(field, "is not known in this version")
}

/// Refuses a field's value with what is wrong about it.
pub(super) fn wrong(field: &str, what: impl Into<String>) -> ApiError {
    let what = what.into();
    ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {field} {what}."))
        .param(field)
        .field(field, what)
}
