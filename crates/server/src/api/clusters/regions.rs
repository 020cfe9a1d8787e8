//! Regions and sizes by provider.

use keyward_model::Code;
use serde_json::{Value, json};

use super::places::PROVIDERS;
use crate::{
    api::{Reply, Request},
    http::error::ApiError,
};

/// Answers `listGroupClusterProviderRegions`.
pub(super) async fn list(request: Request) -> Result<Reply, ApiError> {
    let asked: Vec<&str> = request.query_all("providers").flat_map(|value| value.split(',')).collect();
    if let Some(unknown) = asked.iter().find(|name| PROVIDERS.iter().all(|provider| provider.name != **name))
    {
        let shown: String = unknown.chars().take(32).collect();
        return Err(ApiError::new(Code::InvalidQueryParameter)
            .detail(format!("The query parameter providers names {shown}, not AWS, AZURE or GCP."))
            .param("providers"));
    }
    let tier = request.query("tier");
    let shown: Vec<Value> = PROVIDERS
        .iter()
        .filter(|provider| asked.is_empty() || asked.contains(&provider.name))
        .map(|provider| {
            let regions: Vec<Value> = provider
                .regions
                .iter()
                .enumerate()
                .map(|(at, name)| json!({"name": name, "default": at == 0}))
                .collect();
            let sizes: Vec<Value> = provider
                .sizes
                .iter()
                .filter(|size| tier.is_none_or(|tier| tier == **size))
                .map(|size| json!({"name": size, "availableRegions": regions}))
                .collect();
            json!({"provider": provider.name, "instanceSizes": sizes})
        })
        .collect();
    Reply::list(&request, shown)
}
