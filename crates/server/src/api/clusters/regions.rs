//! Regions and sizes by provider.

use serde_json::{Value, json};

use super::places::{PROVIDERS, is_shared};
use crate::{
    api::{Reply, Request},
    http::error::ApiError,
};

/// Answers `listGroupClusterProviderRegions`.
pub(super) async fn list(request: Request) -> Result<Reply, ApiError> {
    let known = |name: &str| PROVIDERS.iter().map(|provider| provider.name).find(|known| *known == name);
    let asked = request.choices("providers", "AWS, AZURE or GCP", known)?;
    let sized = |name: &str| {
        let known = PROVIDERS.iter().any(|provider| provider.sizes.contains(&name)) || is_shared(name);
        known.then(|| name.to_owned())
    };
    let tiers = request.choices("tier", "the size of an instance, such as M10", sized)?;
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
                .filter(|size| tiers.is_empty() || tiers.iter().any(|tier| tier == **size))
                .map(|size| json!({"name": size, "availableRegions": regions}))
                .collect();
            json!({"provider": provider.name, "instanceSizes": sizes})
        })
        .collect();
    Reply::list(&request, shown)
}
