//! `processArgs` of a cluster: checked, stored and echoed. What mongod is started with is its host's.

use http::Method;
use keyward_model::{Code, cluster::Cluster, event::EventType, role::ProjectRole, role::Requirement};
use keyward_store::Stored;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Operation, Reply, Request,
    clusters::{self, CIPHER_MODES, CIPHERS_12, CIPHERS_13, TLS_PROTOCOLS},
    grants::PROJECT_READER,
};
use crate::{
    handler,
    http::{error::ApiError, version::ApiVersion},
};

const PATH: &str = "/api/atlas/v2/groups/{groupId}/clusters/{clusterName}/processArgs";
const VERSIONS: &[&str] = &["2023-01-01", "2024-08-05"];
/// Fields that the newer version no longer has.
const OLD_ONLY: [&str; 2] = ["defaultReadConcern", "failIndexKeyTooLong"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "getGroupClusterProcessArgs",
            method: Method::GET,
            path: PATH,
            versions: VERSIONS,
            requires: PROJECT_READER,
            handler: handler!(get),
        },
        Operation {
            id: "updateGroupClusterProcessArgs",
            method: Method::PATCH,
            path: PATH,
            versions: VERSIONS,
            requires: Requirement::Project(&[ProjectRole::GroupClusterManager]),
            handler: handler!(update),
        },
    ]
}

/// What can be set; what is absent stays as it is.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProcessArgs {
    #[serde(skip_serializing_if = "Option::is_none")]
    change_stream_options_pre_and_post_images_expire_after_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_migration_concurrency: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_openssl_cipher_config_tls12: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_openssl_cipher_config_tls13: Option<Vec<String>>,
    #[serde(rename = "defaultMaxTimeMS", skip_serializing_if = "Option::is_none")]
    default_max_time_ms: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_read_concern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_write_concern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_index_key_too_long: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    javascript_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum_enabled_tls_protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_table_scan: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oplog_min_retention_hours: Option<f64>,
    #[serde(rename = "oplogSizeMB", skip_serializing_if = "Option::is_none")]
    oplog_size_mb: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_stats_log_verbosity: Option<i32>,
    #[serde(rename = "sampleRefreshIntervalBIConnector", skip_serializing_if = "Option::is_none")]
    sample_refresh_interval_bi_connector: Option<i32>,
    #[serde(rename = "sampleSizeBIConnector", skip_serializing_if = "Option::is_none")]
    sample_size_bi_connector: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher_config_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_lifetime_limit_seconds: Option<i64>,
}

async fn get(request: Request) -> Result<Reply, ApiError> {
    let mut tx = request.app.store().read().await?;
    let cluster = clusters::find(&mut tx, request.project()?, request.param("clusterName")).await?;
    Ok(Reply::ok(view(&cluster, request.version)))
}

async fn update(mut request: Request) -> Result<Reply, ApiError> {
    let asked: ProcessArgs = request.parse()?;
    check(&asked, request.version)?;
    let (now, project) = (request.now(), request.project()?);
    let Ok(Value::Object(asked)) = serde_json::to_value(&asked) else {
        return Err(ApiError::new(Code::UnexpectedError));
    };
    let mut change = request.app.store().change().await?;
    let mut cluster: Stored<Cluster> =
        clusters::find(&mut change, project, request.param("clusterName")).await?;
    let mut args = cluster.intent.process_args.clone();
    args.extend(asked);
    if args != cluster.intent.process_args {
        cluster.intent.process_args = args;
        change.update(&cluster.document, cluster.revision).await?;
        let event = request.event(EventType::ClusterProcessArgsUpdated).cluster(cluster.name.clone());
        change.commit(event, now).await?;
    }
    Ok(Reply::ok(view(&cluster, request.version)))
}

fn view(cluster: &Cluster, version: ApiVersion) -> Value {
    let settings = &cluster.intent.settings;
    let usual = json!({
        "changeStreamOptionsPreAndPostImagesExpireAfterSeconds": -1,
        "customOpensslCipherConfigTls12": settings.custom_openssl_cipher_config_tls12,
        "customOpensslCipherConfigTls13": settings.custom_openssl_cipher_config_tls13,
        "defaultReadConcern": "available",
        "failIndexKeyTooLong": true,
        "javascriptEnabled": true,
        "minimumEnabledTlsProtocol": settings.minimum_enabled_tls_protocol,
        "noTableScan": false,
        "oplogMinRetentionHours": null,
        "oplogSizeMB": null,
        "queryStatsLogVerbosity": 1,
        "sampleRefreshIntervalBIConnector": 0,
        "tlsCipherConfigMode": settings.tls_cipher_config_mode,
    });
    let mut shown: Map<String, Value> = usual.as_object().cloned().unwrap_or_default();
    shown.extend(cluster.intent.process_args.clone());
    if version >= ApiVersion::of(2024, 8, 5) {
        shown.retain(|name, _| !OLD_ONLY.contains(&name.as_str()));
    }
    Value::Object(shown)
}

fn check(args: &ProcessArgs, version: ApiVersion) -> Result<(), ApiError> {
    let newer = version >= ApiVersion::of(2024, 8, 5);
    if newer && args.default_read_concern.is_some() {
        return Err(refused("defaultReadConcern", "is not known in this version"));
    }
    if newer && args.fail_index_key_too_long.is_some() {
        return Err(refused("failIndexKeyTooLong", "is not known in this version"));
    }
    let texts: [(&str, Option<&String>, &[&str]); 3] = [
        ("defaultReadConcern", args.default_read_concern.as_ref(), &["local", "available"]),
        ("minimumEnabledTlsProtocol", args.minimum_enabled_tls_protocol.as_ref(), TLS_PROTOCOLS),
        ("tlsCipherConfigMode", args.tls_cipher_config_mode.as_ref(), CIPHER_MODES),
    ];
    for (name, value, known) in texts {
        if value.is_some_and(|value| !known.contains(&value.as_str())) {
            return Err(refused(name, &format!("is not {}", known.join(", "))));
        }
    }
    let suites = [
        ("customOpensslCipherConfigTls12", &args.custom_openssl_cipher_config_tls12, CIPHERS_12),
        ("customOpensslCipherConfigTls13", &args.custom_openssl_cipher_config_tls13, CIPHERS_13),
    ];
    for (name, suites, known) in suites {
        if suites.iter().flatten().any(|suite| !known.contains(&suite.as_str())) {
            return Err(refused(name, &format!("names others than {}", known.join(", "))));
        }
    }
    let at_least: [(&str, Option<i64>, i64); 7] = [
        (
            "changeStreamOptionsPreAndPostImagesExpireAfterSeconds",
            args.change_stream_options_pre_and_post_images_expire_after_seconds,
            -1,
        ),
        ("chunkMigrationConcurrency", args.chunk_migration_concurrency.map(i64::from), 0),
        ("defaultMaxTimeMS", args.default_max_time_ms.map(i64::from), 0),
        ("oplogSizeMB", args.oplog_size_mb.map(i64::from), 1),
        ("sampleRefreshIntervalBIConnector", args.sample_refresh_interval_bi_connector.map(i64::from), 0),
        ("sampleSizeBIConnector", args.sample_size_bi_connector.map(i64::from), 0),
        ("transactionLifetimeLimitSeconds", args.transaction_lifetime_limit_seconds, 1),
    ];
    for (name, value, least) in at_least {
        if value.is_some_and(|value| value < least) {
            return Err(refused(name, &format!("is less than {least}")));
        }
    }
    if args.change_stream_options_pre_and_post_images_expire_after_seconds == Some(0) {
        return Err(refused("changeStreamOptionsPreAndPostImagesExpireAfterSeconds", "is -1 or more than 0"));
    }
    if args.oplog_min_retention_hours.is_some_and(|hours| hours < 0.0) {
        return Err(refused("oplogMinRetentionHours", "is less than 0"));
    }
    Ok(())
}

fn refused(field: &str, what: &str) -> ApiError {
    ApiError::new(Code::InvalidAttribute)
        .detail(format!("The attribute {field} {what}."))
        .param(field)
        .field(field, what)
}
