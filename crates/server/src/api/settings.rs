//! What the server says about itself.

use http::Method;
use keyward_model::{api_key::ApiKey, role::Requirement};
use serde_json::{Value, json};

use super::{Operation, Reply, Request, grants::role_name};
use crate::{auth::Who, handler, http::error::ApiError};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation {
            id: "getSystemStatus",
            method: Method::GET,
            path: "/api/atlas/v2",
            versions: &["2023-01-01"],
            requires: Requirement::Authenticated,
            handler: handler!(status),
        },
        Operation {
            id: "listControlPlaneIpAddresses",
            method: Method::GET,
            path: "/api/atlas/v2/unauth/controlPlaneIPAddresses",
            versions: &["2023-11-15"],
            requires: Requirement::Nobody,
            handler: handler!(addresses),
        },
    ]
}

/// Who one is. `appName` is what clients know: its document allows no other.
async fn status(request: Request) -> Result<Reply, ApiError> {
    let grants = &request.principal.grants;
    let mut roles: Vec<Value> =
        grants.org.iter().map(|(org, role)| json!({"orgId": org, "roleName": role_name(role)})).collect();
    roles.extend(
        grants.project.iter().map(|(project, role)| json!({"groupId": project, "roleName": role_name(role)})),
    );
    // Atlas has nothing to say here of a caller that is no API key.
    let key = match &request.principal.who {
        Who::ApiKey { id, public_key } => {
            let stored = request.app.store().read().await?.get::<ApiKey>(id).await?;
            let entries = stored.map(|key| key.document.access_list.entries).unwrap_or_default();
            let shown = entries.iter().map(|entry| {
                let address = entry.network.is_single().then(|| entry.network.address());
                json!({"cidrBlock": entry.network, "ipAddress": address})
            });
            json!({"accessList": shown.collect::<Vec<_>>(), "id": id, "publicKey": public_key, "roles": roles})
        }
        Who::ServiceAccount { .. } | Who::User { .. } | Who::Nobody => Value::Null,
    };
    Ok(Reply::ok(json!({
        "apiKey": key,
        "appName": "MongoDB Atlas",
        "build": env!("CARGO_PKG_VERSION"),
        "links": [{"href": request.href("/api/atlas/v2"), "rel": "self"}],
        "throttling": false,
    })))
}

/// Where the server's own calls come from is known to who runs it, not to the server.
async fn addresses(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(json!({"inbound": {}, "outbound": {}})))
}
