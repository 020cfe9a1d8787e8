//! What the jobs of this server did last.

use http::Method;
use keyward_model::role::Requirement;
use serde_json::{Value, json};

use crate::{
    api::{Operation, Reply, Request, time},
    handler,
    http::error::ApiError,
};

/// Its operations.
pub fn operations() -> Vec<Operation> {
    vec![Operation {
        id: "listJobs",
        method: Method::GET,
        path: "/api/keyward/v1/jobs",
        versions: &[],
        requires: Requirement::Authenticated,
        handler: handler!(list),
    }]
}

async fn list(request: Request) -> Result<Reply, ApiError> {
    let shown = request
        .app
        .activities()
        .all()
        .into_iter()
        .map(|activity| {
            json!({
                "name": activity.name,
                "intervalS": activity.interval_s,
                "passes": activity.passes,
                "failures": activity.failures,
                "elsewhere": activity.elsewhere,
                "started": activity.started.map(time),
                "tookMs": activity.took_ms,
                "status": activity.status,
                "error": activity.error,
            })
        })
        .collect::<Vec<Value>>();
    Reply::list(&request, shown)
}
