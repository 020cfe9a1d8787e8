//! A cluster as it is answered, in every version. Pure.

use keyward_model::{
    cluster::{Cluster, HardwareSpec, RegionConfig},
    node::EnrolledNode,
};
use keyward_store::Report;
use serde_json::{Map, Value, json};

use super::body::Shape;
use crate::api::time;

/// A disk's size where none was asked for.
const USUAL_DISK_GB: f64 = 10.0;

/// A member with its newest report.
pub(crate) type Member<'a> = (&'a EnrolledNode, Option<&'a Report>);

/// The cluster in this shape; `href` is a link to it.
pub(super) fn cluster(cluster: &Cluster, members: &[Member<'_>], shape: Shape, href: &str) -> Value {
    let (intent, settings) = (&cluster.intent, &cluster.intent.settings);
    let mut shown = json!({
        "advancedConfiguration": {
            "minimumEnabledTlsProtocol": settings.minimum_enabled_tls_protocol,
            "tlsCipherConfigMode": settings.tls_cipher_config_mode,
            "customOpensslCipherConfigTls12": settings.custom_openssl_cipher_config_tls12,
            "customOpensslCipherConfigTls13": settings.custom_openssl_cipher_config_tls13,
        },
        "backupEnabled": settings.backup_enabled,
        "biConnector": {
            "enabled": settings.bi_connector_enabled,
            "readPreference": settings.bi_connector_read_preference,
        },
        "clusterType": "REPLICASET",
        "connectionStrings": connection_strings(cluster, members),
        "createDate": time(cluster.created),
        "diskWarmingMode": settings.disk_warming_mode,
        "encryptionAtRestProvider": intent.encryption_at_rest_provider.as_str(),
        "featureCompatibilityVersion": intent.mongo_db_major_version,
        "globalClusterSelfManagedSharding": settings.global_cluster_self_managed_sharding,
        "groupId": cluster.project,
        "id": cluster.id,
        "labels": intent.labels,
        "links": [{"rel": "self", "href": href}],
        "mongoDBMajorVersion": intent.mongo_db_major_version,
        "mongoDBVersion": version(cluster, members),
        "name": cluster.name,
        "paused": intent.paused,
        "pitEnabled": settings.pit_enabled,
        "replicaSetScalingStrategy": settings.replica_set_scaling_strategy,
        "rootCertType": settings.root_cert_type,
        "stateName": cluster.state.as_str(),
        "tags": intent.tags,
        "terminationProtectionEnabled": intent.termination_protection_enabled,
        "versionReleaseSystem": settings.version_release_system,
    });
    let specs: Vec<Value> = intent
        .replication_specs
        .iter()
        .map(|spec| {
            let regions: Vec<Value> =
                spec.region_configs.iter().map(|config| region(config, shape)).collect();
            let mut shown = json!({
                "id": spec.id,
                "zoneId": spec.zone_id,
                "zoneName": spec.zone_name,
                "regionConfigs": regions,
            });
            if shape == Shape::Counted {
                shown["numShards"] = json!(1);
            }
            shown
        })
        .collect();
    match shape {
        Shape::Counted => shown["diskSizeGB"] = json!(disk_size(cluster)),
        Shape::PerShard => {
            shown["internalClusterRole"] = json!("NONE");
            shown["redactClientLogData"] = json!(settings.redact_client_log_data);
            shown["useAwsTimeBasedSnapshotCopyForFastInitialSync"] = json!(settings.fast_initial_sync);
            shown["effectiveReplicationSpecs"] = json!(specs);
        }
    }
    shown["replicationSpecs"] = json!(specs);
    shown
}

/// Nothing before the cluster was ready once; then the addresses that its nodes reported.
fn connection_strings(cluster: &Cluster, members: &[Member<'_>]) -> Value {
    let reports: Vec<&Report> = members.iter().filter_map(|(_, report)| *report).collect();
    let addresses: Vec<&str> = reports
        .iter()
        .map(|report| report.observed.address.as_str())
        .filter(|text| !text.is_empty())
        .collect();
    if cluster.ready_at.is_none() || addresses.is_empty() {
        return json!({});
    }
    let mut standard = format!("mongodb://{}/", addresses.join(","));
    if reports.iter().any(|report| report.observed.replica_state.is_some()) {
        standard.push_str(&format!("?authSource=admin&replicaSet={}", cluster.replica_set()));
    }
    json!({ "standard": standard })
}

/// The version that the nodes report, of several the oldest; before that the one that is wanted.
pub(crate) fn version(cluster: &Cluster, members: &[Member<'_>]) -> String {
    let reported = members
        .iter()
        .filter_map(|(_, report)| report.and_then(|report| report.observed.status.engine.as_ref()))
        .filter_map(|engine| numbers(&engine.version))
        .min();
    match reported {
        Some([major, minor, patch]) => format!("{major}.{minor}.{patch}"),
        None => format!("{}.0", cluster.intent.mongo_db_major_version),
    }
}

/// The first three numbers of a version.
pub(crate) fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version
        .trim_start_matches('v')
        .splitn(3, '.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>());
    let mut next = || parts.next()?.ok();
    Some([next()?, next()?, next()?])
}

fn region(region: &RegionConfig, shape: Shape) -> Value {
    let size = region
        .electable_specs
        .as_ref()
        .or(region.read_only_specs.as_ref())
        .or(region.analytics_specs.as_ref());
    let none = size.map(|size| HardwareSpec { node_count: 0, ..size.clone() });
    let mut shown = Map::new();
    shown.insert("providerName".into(), json!(region.provider_name));
    shown.insert("regionName".into(), json!(region.region_name));
    shown.insert("priority".into(), json!(region.priority));
    let specs = [
        ("electableSpecs", "effectiveElectableSpecs", &region.electable_specs),
        ("readOnlySpecs", "effectiveReadOnlySpecs", &region.read_only_specs),
        ("analyticsSpecs", "effectiveAnalyticsSpecs", &region.analytics_specs),
    ];
    for (name, effective, spec) in specs {
        let Some(spec) = spec.as_ref().or(none.as_ref()) else { continue };
        let hardware = hardware(spec, shape);
        if shape == Shape::PerShard {
            shown.insert(effective.into(), hardware.clone());
        }
        shown.insert(name.into(), hardware);
    }
    let usual =
        || json!({"compute": {"enabled": false, "scaleDownEnabled": false}, "diskGB": {"enabled": false}});
    shown.insert("autoScaling".into(), region.auto_scaling.clone().unwrap_or_else(usual));
    shown.insert("analyticsAutoScaling".into(), region.analytics_auto_scaling.clone().unwrap_or_else(usual));
    Value::Object(shown)
}

fn hardware(spec: &HardwareSpec, shape: Shape) -> Value {
    let mut shown = json!({"instanceSize": spec.instance_size, "nodeCount": spec.node_count});
    if shape == Shape::PerShard {
        shown["diskSizeGB"] = json!(spec.disk_size_gb.unwrap_or(USUAL_DISK_GB));
    }
    if let Some(iops) = spec.disk_iops {
        shown["diskIOPS"] = json!(iops);
    }
    if let Some(kind) = &spec.ebs_volume_type {
        shown["ebsVolumeType"] = json!(kind);
    }
    shown
}

fn disk_size(cluster: &Cluster) -> f64 {
    let regions = cluster.intent.replication_specs.iter().flat_map(|spec| &spec.region_configs);
    regions
        .flat_map(|region| [&region.electable_specs, &region.read_only_specs, &region.analytics_specs])
        .flatten()
        .find_map(|spec| spec.disk_size_gb)
        .unwrap_or(USUAL_DISK_GB)
}
