//! The operations that the server answers, one file per noun.
//!
//! An [`Operation`] is data: its id, path, versions, and what it asks of its caller. The pipeline in
//! [`crate::http`] authenticates, resolves the version, authorizes, reads the body and renders; a handler only says
//! what the answer is. The order matters to clients: nothing is validated before the caller is known.

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keyward_model::{
    id::{OrgId, ProjectId},
    role::Requirement,
};
use serde_json::Value;

use crate::{App, auth::Principal, http::error::ApiError, http::version::ApiVersion};

/// One operation of the API.
pub struct Operation {
    /// The id clients know it by (`getGroupEncryptionAtRest`).
    pub id: &'static str,
    /// `GET`, `POST`, …
    pub method: Method,
    /// With parameters in braces, `/api/atlas/v2/groups/{groupId}/encryptionAtRest`. A suffix such as `:addRole`
    /// after a parameter is part of the path.
    pub path: &'static str,
    /// The versions it has, oldest first, as `YYYY-MM-DD` or `preview`. Empty: not versioned.
    pub versions: &'static [&'static str],
    /// What it asks of its caller. The project or organization is the path's `groupId` or `orgId`.
    pub requires: Requirement,
    /// What answers.
    pub handler: Handler,
}

/// What answers an operation.
pub type Handler = fn(Request) -> BoxFuture<'static, Result<Reply, ApiError>>;

/// A request whose caller is known and allowed to make it.
pub struct Request {
    /// The server.
    pub app: App,
    /// The operation it is.
    pub operation: &'static Operation,
    /// Who makes it.
    pub principal: Principal,
    /// The version of the operation it is answered in.
    pub version: ApiVersion,
    /// The organization of the path, or of the path's project.
    pub org: Option<OrgId>,
    /// The project of the path; it exists.
    pub project: Option<ProjectId>,
    /// The path's parameters by name, decoded.
    pub path: Vec<(&'static str, String)>,
    /// The query's parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; `None` when there is none. An object with each name once, within the limits of size and depth.
    pub body: Option<Value>,
    /// The address the request came from.
    pub remote: std::net::IpAddr,
    /// Names the request in logs and answers.
    pub request_id: String,
}

/// What a handler answers.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the body is.
    pub content: Content,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the body of an answer is.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    Empty,
    /// One JSON value; the pipeline wraps it in the envelope where asked.
    Json(Value),
    /// A page of a list; the pipeline adds links and envelope.
    Page {
        /// The items of this page.
        results: Vec<Value>,
        /// How many there are in all.
        total: u64,
    },
    /// Plain text.
    Text(String),
}

impl Reply {
    /// 200 with a JSON value.
    pub fn ok(value: Value) -> Self {
        Self::with(StatusCode::OK, Content::Json(value))
    }

    /// 200 with one page.
    pub fn page(results: Vec<Value>, total: u64) -> Self {
        Self::with(StatusCode::OK, Content::Page { results, total })
    }

    /// A status without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::with(status, Content::Empty)
    }

    /// A status with a body.
    pub fn with(status: StatusCode, content: Content) -> Self {
        Self { status, content, headers: Vec::new() }
    }
}
