//! The operations that the server answers, one file per noun.
//!
//! An [`Operation`] is data: its id, path, versions, and what it asks of its caller. The pipeline in
//! [`crate::http`] authenticates, resolves the version, authorizes, reads the body and renders; a handler only says
//! what the answer is. The order matters to clients: nothing is validated before the caller is known.

mod access_lists;
pub mod alert_configs;
pub mod alerts;
pub mod api_keys;
pub mod cloud_provider_access;
pub mod clusters;
pub mod containers;
pub mod encryption_at_rest;
pub mod events;
pub mod flex;
mod grants;
pub mod keyward;
pub mod maintenance_window;
pub mod oauth;
pub mod orgs;
pub mod private;
pub mod private_endpoints;
pub mod process_args;
pub mod processes;
pub mod projects;
pub mod service_accounts;
pub mod settings;
pub mod unbuilt;
pub mod users;

use std::sync::OnceLock;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keyward_model::{
    Code, Timestamp,
    event::{EventType, NewEvent},
    id::{Id, Kind, OrgId, ProjectId},
    role::Requirement,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    App,
    auth::Principal,
    http::{body, error::ApiError, page, page::Page, version::ApiVersion},
};

/// All operations.
pub fn all() -> &'static [Operation] {
    static ALL: OnceLock<Vec<Operation>> = OnceLock::new();
    ALL.get_or_init(|| unbuilt::complete(built()))
}

/// Those that do something; the others of the contract say that they do not.
pub fn built() -> Vec<Operation> {
    let built = [
        alert_configs::operations(),
        alerts::operations(),
        api_keys::operations(),
        cloud_provider_access::operations(),
        clusters::operations(),
        containers::operations(),
        encryption_at_rest::operations(),
        events::operations(),
        flex::operations(),
        keyward::operations(),
        maintenance_window::operations(),
        oauth::operations(),
        orgs::operations(),
        private::operations(),
        private_endpoints::operations(),
        process_args::operations(),
        processes::operations(),
        projects::operations(),
        service_accounts::operations(),
        settings::operations(),
        users::operations(),
    ];
    built.into_iter().flatten().collect()
}

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

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.id, self.method, self.path)
    }
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
    /// The body; `None` when there is none. Each object has each name once; within the limits of size and depth.
    pub body: Option<Value>,
    /// The address the request came from.
    pub remote: std::net::IpAddr,
    /// Names the request in logs and answers.
    pub request_id: String,
}

impl Request {
    /// The time.
    pub fn now(&self) -> Timestamp {
        self.app.now()
    }

    /// The body as `T`. Taken out of the request; what is wrong with it is said with the field's name.
    pub fn parse<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        match self.body.take() {
            Some(value) => body::parse(value),
            None => Err(ApiError::new(Code::InvalidJson).detail("The request has no body.")),
        }
    }

    /// The body as `T`, if there is one.
    pub fn parse_optional<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        self.body.take().map(body::parse).transpose()
    }

    /// The path's parameter `name`; the empty text when the path has none of that name.
    pub fn param(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The path's parameter `name` as an id. A text that is no id names nothing that exists.
    pub fn id<K: Kind>(&self, name: &str) -> Result<Id<K>, ApiError> {
        self.param(name).parse().map_err(|_| {
            ApiError::new(Code::ResourceNotFound)
                .detail(format!("The path's {name} is not the id of {}.", K::NAME))
                .param(name)
        })
    }

    /// The organization of the path or of its project. Only for operations whose path names one.
    pub fn org(&self) -> Result<OrgId, ApiError> {
        self.org.ok_or_else(|| ApiError::new(Code::OrgNotFound))
    }

    /// The project of the path. Only for operations whose path names one.
    pub fn project(&self) -> Result<ProjectId, ApiError> {
        self.project.ok_or_else(|| ApiError::new(Code::GroupNotFound))
    }

    /// An event of this request: by its caller, from its address, about what its path names.
    pub fn event(&self, event_type: EventType) -> NewEvent {
        let mut event = NewEvent::new(event_type, self.principal.actor()).remote(self.remote);
        (event.org, event.project) = (self.org, self.project);
        event
    }

    /// The first value of a query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a query parameter, in order.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The values of a query parameter that chooses from a list. It may be repeated, and its values may stand in one,
    /// with commas between. `from` says for people what there is to choose from.
    pub fn choices<T>(
        &self,
        name: &str,
        from: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ApiError> {
        let values = self.query_all(name).flat_map(|value| value.split(','));
        let values = values.filter(|value| !value.is_empty());
        values.map(|value| parse(value).ok_or_else(|| no_choice(name, value, from))).collect()
    }

    /// A yes or no in the query.
    pub fn flag(&self, name: &str, usual: bool) -> Result<bool, ApiError> {
        page::flag(&self.query, name, usual)
    }

    /// The page that is asked for.
    pub fn page(&self) -> Result<Page, ApiError> {
        Page::of(&self.query)
    }

    /// A link to `path` (from the slash on) under the server's public URL.
    pub fn href(&self, path: &str) -> String {
        format!("{}{path}", self.app.base_url())
    }
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

    /// A page of a list that is at hand as a whole.
    pub fn list(request: &Request, all: Vec<Value>) -> Result<Self, ApiError> {
        let (results, total) = request.page()?.of_list(all);
        Ok(Self::page(results, total))
    }

    /// A status with a body.
    pub fn with(status: StatusCode, content: Content) -> Self {
        Self { status, content, headers: Vec::new() }
    }
}

/// The refusal of a query parameter's value that is none of those `from` which it chooses.
fn no_choice(name: &str, value: &str, from: &str) -> ApiError {
    const LONGEST: usize = 64;
    let shown: String = value.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    ApiError::new(Code::InvalidQueryParameter)
        .detail(format!("The query parameter {name} names {shown}, which is not {from}."))
        .param(name)
}

/// A time as Atlas writes it: no fraction of a second.
pub fn time(at: Timestamp) -> String {
    let seconds = jiff::Timestamp::from_second(at.0.as_second()).unwrap_or(at.0);
    seconds.to_string()
}

/// Makes a handler of an asynchronous function.
#[macro_export]
macro_rules! handler {
    ($function:path) => {
        |request| Box::pin($function(request))
    };
}
