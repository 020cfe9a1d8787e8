//! What the Atlas CLI and other clients ask for beside the documented API.

use http::{Method, StatusCode};
use keyward_model::role::Requirement;
use serde_json::json;

use super::{Content, Operation, Reply, Request};
use crate::{handler, http::error::ApiError};

/// The MongoDB release that the CLI puts into a new cluster unless told otherwise.
const DEFAULT_MAJOR_VERSION: &str = "8.0";

/// Their operations.
pub fn operations() -> Vec<Operation> {
    let operation = |id, method, path, requires, handler| Operation {
        id,
        method,
        path,
        versions: &[],
        requires,
        handler,
    };
    vec![
        operation(
            "defaultMongoDBMajorVersion",
            Method::GET,
            "/api/private/unauth/nds/defaultMongoDBMajorVersion",
            Requirement::Nobody,
            handler!(major_version),
        ),
        operation("ipInfo", Method::GET, "/api/private/ipinfo", Requirement::Nobody, handler!(ip_info)),
        operation(
            "sendTelemetry",
            Method::POST,
            "/api/private/v1.0/telemetry/events",
            Requirement::Authenticated,
            handler!(telemetry),
        ),
        operation(
            "sendUnauthTelemetry",
            Method::POST,
            "/api/private/unauth/telemetry/events",
            Requirement::Nobody,
            handler!(telemetry),
        ),
    ]
}

async fn major_version(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::with(StatusCode::OK, Content::Text(DEFAULT_MAJOR_VERSION.to_owned())))
}

async fn ip_info(request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::ok(json!({"currentIpv4Address": request.remote.to_string()})))
}

/// Clients send their usage to whom they talk to. It is dropped unread; a refusal would make them keep and resend it.
async fn telemetry(_request: Request) -> Result<Reply, ApiError> {
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
