//! Network containers: what Atlas' clients look for in each region that a project's clusters use.
//!
//! keyward's hosts and their networks are their owner's. A container here is an id for a region, made with the first
//! cluster there or asked for before.

use http::Method;
use keyward_model::{
    Code,
    cluster::{Cluster, Container},
    event::EventType,
    id::ContainerId,
};
use keyward_store::Stored;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{
    Operation, Reply, Request, clusters,
    grants::{PROJECT_OWNER, PROJECT_READER},
};
use crate::{handler, http::error::ApiError};

/// The block of a container that nobody gave one: keyward has no network of its own.
pub(super) const NO_NETWORK: &str = "0.0.0.0/0";
const PATH: &str = "/api/atlas/v2/groups/{groupId}/containers";
const V1: &[&str] = &["2023-01-01"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "listGroupContainers",
            method: Method::GET,
            path: PATH,
            versions: V1,
            requires: PROJECT_READER,
            handler: handler!(list),
        },
        Operation {
            id: "createGroupContainer",
            method: Method::POST,
            path: PATH,
            versions: V1,
            requires: PROJECT_OWNER,
            handler: handler!(create),
        },
    ]
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ContainerBody {
    provider_name: Option<String>,
    atlas_cidr_block: Option<String>,
    region: Option<String>,
    region_name: Option<String>,
    regions: Option<Vec<String>>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "provisioned")]
    _provisioned: Option<IgnoredAny>,
    #[serde(rename = "azureSubscriptionId")]
    _azure_subscription_id: Option<IgnoredAny>,
    #[serde(rename = "vnetName")]
    _vnet_name: Option<IgnoredAny>,
    #[serde(rename = "vpcId")]
    _vpc_id: Option<IgnoredAny>,
    #[serde(rename = "gcpProjectId")]
    _gcp_project_id: Option<IgnoredAny>,
    #[serde(rename = "networkName")]
    _network_name: Option<IgnoredAny>,
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let known = |name: &str| {
        let known = clusters::provider(name).is_some() || matches!(name, "TENANT" | "SERVERLESS");
        known.then(|| name.to_owned())
    };
    let asked = request.choices("providerName", "AWS, AZURE, GCP, TENANT or SERVERLESS", known)?;
    // Atlas' usual provider.
    let provider = asked.first().map_or("AWS", String::as_str);
    let mut tx = request.app.store().read().await?;
    let used = tx.list::<Cluster>(project).await?;
    let containers = tx.list::<Container>(project).await?;
    let shown = containers
        .iter()
        .filter(|container| container.provider_name == provider)
        .map(|container| view(container, &used))
        .collect();
    Reply::list(&request, shown)
}

async fn create(mut request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let body: ContainerBody = request.parse()?;
    let provider_name = body.provider_name.unwrap_or_else(|| "AWS".to_owned());
    let Some(provider) = clusters::provider(&provider_name) else {
        return Err(refused(Code::InvalidEnumValue, "providerName", "is not AWS, AZURE or GCP"));
    };
    let block = body.atlas_cidr_block.unwrap_or_else(|| NO_NETWORK.to_owned());
    if !is_block(&block) {
        return Err(refused(
            Code::InvalidAttribute,
            "atlasCidrBlock",
            "is no address block such as 10.8.0.0/21",
        ));
    }
    let (field, asked) = match provider.name {
        "AWS" => ("regionName", body.region_name),
        "AZURE" => ("region", body.region),
        _ => ("regions", body.regions.as_ref().and_then(|regions| regions.first().cloned())),
    };
    let region = asked.ok_or_else(|| refused(Code::MissingAttribute, field, "is missing"))?;
    let mut regions = body.regions.unwrap_or_default();
    if provider.name != "GCP" {
        regions.clear();
    }
    // Each is one of those that are known, so no list is longer than theirs.
    let mut known = std::collections::BTreeSet::new();
    regions.retain(|region| known.insert(region.clone()));
    if regions.iter().chain([&region]).any(|region| !provider.regions.contains(&region.as_str())) {
        return Err(refused(Code::InvalidEnumValue, field, "names no region of the provider"));
    }
    let now = request.now();
    let mut change = request.app.store().change().await?;
    let there = change.list::<Container>(project).await?;
    if there.iter().any(|other| other.provider_name == provider.name && other.region == region) {
        return Err(ApiError::new(Code::ResourceExists)
            .detail(format!("The project has a container for {} in {region}.", provider.name))
            .param(region));
    }
    let id: ContainerId = request.app.make_id();
    let container = Container { id, project, provider_name, region, atlas_cidr_block: block, regions };
    change.insert(&container).await?;
    let event = request
        .event(EventType::ContainerCreated)
        .detail("provider", container.provider_name.clone())
        .detail("region", container.region.clone());
    change.commit(event, now).await?;
    Ok(Reply::ok(view(&container, &[])))
}

fn view(container: &Container, clusters: &[Stored<Cluster>]) -> Value {
    let here = |cluster: &Stored<Cluster>| {
        let regions = cluster.intent.regions();
        regions.iter().any(|(provider, region)| {
            *provider == container.provider_name
                && (*region == container.region || container.regions.iter().any(|other| other == region))
        })
    };
    let mut shown = json!({
        "id": container.id,
        "providerName": container.provider_name,
        "provisioned": clusters.iter().any(here),
        "atlasCidrBlock": container.atlas_cidr_block,
    });
    match container.provider_name.as_str() {
        "AWS" => shown["regionName"] = json!(container.region),
        "AZURE" => shown["region"] = json!(container.region),
        _ if container.regions.is_empty() => shown["regions"] = json!([container.region]),
        _ => shown["regions"] = json!(container.regions),
    }
    shown
}

fn is_block(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<std::net::Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
    })
}

fn refused(code: Code, field: &str, what: &str) -> ApiError {
    ApiError::new(code).detail(format!("The attribute {field} {what}.")).param(field).field(field, what)
}
