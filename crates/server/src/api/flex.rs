//! Flex clusters and serverless instances: Atlas' shared offers, which cannot have a customer key. keyward has none
//! of them; their lists are empty, and what asks for one is told so.

use http::Method;
use keyward_model::{Code, cluster::Cluster};

use super::{
    Operation, Reply, Request,
    grants::{PROJECT_OWNER, PROJECT_READER},
};
use crate::{handler, http::error::ApiError};

const FLEX: &str = "/api/atlas/v2/groups/{groupId}/flexClusters";
const ONE_FLEX: &str = "/api/atlas/v2/groups/{groupId}/flexClusters/{name}";
const FLEX_VERSIONS: &[&str] = &["2024-11-13"];
const V1: &[&str] = &["2023-01-01"];

/// Its operations.
pub fn operations() -> Vec<Operation> {
    let operation = |id, method, path, versions, requires, handler| Operation {
        id,
        method,
        path,
        versions,
        requires,
        handler,
    };
    vec![
        operation("listGroupFlexClusters", Method::GET, FLEX, FLEX_VERSIONS, PROJECT_READER, handler!(none)),
        operation(
            "createGroupFlexCluster",
            Method::POST,
            FLEX,
            FLEX_VERSIONS,
            PROJECT_OWNER,
            handler!(create),
        ),
        operation("getGroupFlexCluster", Method::GET, ONE_FLEX, FLEX_VERSIONS, PROJECT_READER, handler!(one)),
        operation(
            "updateGroupFlexCluster",
            Method::PATCH,
            ONE_FLEX,
            FLEX_VERSIONS,
            PROJECT_OWNER,
            handler!(one),
        ),
        operation(
            "deleteGroupFlexCluster",
            Method::DELETE,
            ONE_FLEX,
            FLEX_VERSIONS,
            PROJECT_OWNER,
            handler!(one),
        ),
        operation(
            "listGroupServerlessInstances",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/serverless",
            V1,
            PROJECT_READER,
            handler!(none),
        ),
        operation(
            "getGroupServerlessInstance",
            Method::GET,
            "/api/atlas/v2/groups/{groupId}/serverless/{name}",
            V1,
            PROJECT_READER,
            handler!(one),
        ),
    ]
}

async fn none(request: Request) -> Result<Reply, ApiError> {
    Reply::list(&request, Vec::new())
}

async fn create(_request: Request) -> Result<Reply, ApiError> {
    Err(ApiError::new(Code::TenantClusterNotSupported))
}

/// Says of a cluster that it is none of these, as the clients that look in both places expect.
async fn one(request: Request) -> Result<Reply, ApiError> {
    let project = request.project()?;
    let name: String = request.param("name").chars().take(64).collect();
    let mut tx = request.app.store().read().await?;
    if tx.find::<Cluster>(project, request.param("name")).await?.is_some() {
        return Err(ApiError::new(Code::CannotUseNonFlexClusterInFlexApi)
            .detail(format!("Cluster {name} is not a Flex cluster and cannot be used in the Flex API."))
            .param(name));
    }
    Err(ApiError::new(Code::ClusterNotFound)
        .detail(format!("No cluster named {name} exists in group {project}."))
        .param(name)
        .param(project))
}
