//! What happens to a request: read, known, found, versioned, allowed, answered, rendered.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header,
    request::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use jiff::civil::Date;
use keyward_model::{
    Code,
    id::{OrgId, ProjectId},
    organization::Organization,
    project::Project,
    role::{Refusal, Requirement},
};
use serde_json::{Map, Value, json};

use super::{
    body::{LARGEST_BODY, parse_json},
    error::ApiError,
    listener::Peer,
    page::{Page, flag, links},
    rate::{Allowance, Scope},
    route::{Route, route},
    version::{ApiVersion, asked, resolve, successor},
};
use crate::{
    App,
    api::{self, Content, Operation, Reply, Request},
    app::make_bytes,
    auth::{self, Principal},
};

/// Longest time until a request's body is there.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Longest time that a handler takes: calls to Azure included, which have limits of their own.
const HANDLER_TIME: Duration = Duration::from_secs(180);
/// Longest path with query.
const LONGEST_TARGET: usize = 8 << 10;
/// When Atlas ends the versions that have been replaced. keyward goes on answering them.
const SUNSET: Date = jiff::civil::date(2027, 7, 1);

/// Answers a request of the API.
pub(crate) async fn answer(
    app: App,
    peer: Arc<Peer>,
    request: HttpRequest<Incoming>,
) -> Response<Full<Bytes>> {
    let request_id = data_encoding::HEXLOWER.encode(&make_bytes::<8>());
    let (parts, incoming) = request.into_parts();
    let remote = peer.address.ip().to_canonical();
    let body = read_body(incoming).await;
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let mut seen =
        Seen { operation: "none", version: ApiVersion::Unversioned, deprecated: None, allowance: None };
    let outcome = steps(&app, &parts, &query, body, remote, &request_id, &mut seen).await;
    let outcome = outcome.unwrap_or_else(|refused| refused.into());
    let status = outcome.status;
    let response = render(&app, &parts, &query, outcome, &seen, &request_id);
    // Never the target itself: a mistaken client may have put a secret into path or query.
    let operation = seen.operation;
    tracing::info!(request = %request_id, operation, status = status.as_u16(), %remote, "answered");
    response
}

/// What the steps found out that the answer's headers show, refused or not.
struct Seen {
    operation: &'static str,
    version: ApiVersion,
    deprecated: Option<Date>,
    allowance: Option<Allowance>,
}

/// An answer before it is rendered.
struct Outcome {
    status: StatusCode,
    content: Content,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A refusal is of no version.
    refused: bool,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self { status: reply.status, content: reply.content, headers: reply.headers, refused: false }
    }
}

/// A refusal, with the headers that belong to it.
pub(crate) struct Refused {
    error: ApiError,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(crate) fn with(error: ApiError, name: HeaderName, value: &str) -> Self {
        let headers = HeaderValue::from_str(value).map(|value| vec![(name, value)]).unwrap_or_default();
        Self { error, headers }
    }
}

impl<E: Into<ApiError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self { error: error.into(), headers: Vec::new() }
    }
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        let Refused { error, mut headers } = refused;
        headers
            .push((HeaderName::from_static("x-error-code"), HeaderValue::from_static(error.code().as_str())));
        if let Some(seconds) = error.wait_s() {
            headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        Self { status: error.status(), content: Content::Json(error.body()), headers, refused: true }
    }
}

async fn steps(
    app: &App,
    parts: &Parts,
    query: &[(String, String)],
    body: Result<Bytes, ApiError>,
    remote: IpAddr,
    request_id: &str,
    seen: &mut Seen,
) -> Result<Outcome, Refused> {
    if app.stop().is_cancelled() {
        return Err(ApiError::new(Code::ServiceUnavailable).retry_after_s(5).into());
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let path = parts.uri.path();
    if !path.starts_with("/api/") {
        return Err(nothing_there().into());
    }
    let found = route(api::all(), &parts.method, path);
    let open = matches!(&found, Route::Found(operation, _) if operation.requires == Requirement::Nobody);
    let principal = if open {
        Principal::nobody()
    } else {
        auth::authenticate(app, &parts.headers, parts.method.as_str(), target, remote).await?
    };
    let (operation, path) = match found {
        Route::Found(operation, path) => (operation, path),
        Route::OtherMethods(methods) => return Err(other_methods(&methods)),
        Route::Nothing => return Err(nothing_there().into()),
    };
    seen.operation = operation.id;
    if target.len() > LONGEST_TARGET {
        return Err(ApiError::new(Code::RequestTooLarge).into());
    }
    seen.version = resolve(
        text(&parts.headers, &header::ACCEPT),
        text(&parts.headers, &header::CONTENT_TYPE),
        operation.versions,
    )?;
    seen.deprecated = successor(seen.version, operation.versions);
    let (org, project) = authorize(app, operation, &principal, &path).await?;
    let (allowance, admitted) = app.rate_limit().admit(Scope::of(project, org, &principal, remote));
    seen.allowance = Some(allowance);
    admitted.map_err(|seconds| ApiError::new(Code::RateLimited).retry_after_s(seconds))?;
    for name in ["pretty", "envelope", "includeCount"] {
        flag(query, name, false)?;
    }
    let body = parsed_body(operation, &parts.headers, body?)?;
    let request = Request {
        app: app.clone(),
        operation,
        principal,
        version: seen.version,
        org,
        project,
        path,
        query: query.to_vec(),
        headers: parts.headers.clone(),
        body,
        remote,
        request_id: request_id.to_owned(),
    };
    Ok(handled(operation, request).await.map(Outcome::from)?)
}

/// Runs the handler, which may neither take for ever nor take the connection down with it.
async fn handled(operation: &Operation, request: Request) -> Result<Reply, ApiError> {
    let request_id = request.request_id.clone();
    let handler = AssertUnwindSafe((operation.handler)(request)).catch_unwind();
    match tokio::time::timeout(HANDLER_TIME, handler).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => {
            tracing::error!(request = %request_id, operation = operation.id, "a handler panicked");
            Err(ApiError::new(Code::UnexpectedError))
        }
        Err(_) => {
            tracing::error!(request = %request_id, operation = operation.id, "a handler took too long");
            Err(ApiError::new(Code::ServiceUnavailable).detail(format!("{} took too long.", operation.id)))
        }
    }
}

/// Loads what the path names and decides whether the caller may do this. That a project or organization exists is
/// not said to who does not belong to it.
async fn authorize(
    app: &App,
    operation: &Operation,
    principal: &Principal,
    path: &[(&'static str, String)],
) -> Result<(Option<OrgId>, Option<ProjectId>), ApiError> {
    let named = |name: &str| path.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let mut org = None;
    let mut project = None;
    if let Some(text) = named("groupId") {
        let missing = || ApiError::new(Code::GroupNotFound).param(text);
        let id: ProjectId = text.parse().map_err(|_| missing())?;
        let found = app.store().read().await?.get::<Project>(id).await?.ok_or_else(missing)?;
        (org, project) = (Some(found.org), Some(id));
    } else if let Some(text) = named("orgId") {
        let missing = || ApiError::new(Code::OrgNotFound).param(text);
        let id: OrgId = text.parse().map_err(|_| missing())?;
        app.store().read().await?.get::<Organization>(id).await?.ok_or_else(missing)?;
        org = Some(id);
    }
    principal.grants.allow(operation.requires, org, project).map_err(|refusal| {
        match (refusal, project, org) {
            (Refusal::MissingRole, _, _) => ApiError::new(Code::UserUnauthorized).detail(format!(
                "{} needs {}.",
                operation.id,
                needed(operation.requires)
            )),
            (Refusal::NotInProject | Refusal::NotInOrg, Some(project), _) => {
                ApiError::new(Code::GroupNotFound).param(project)
            }
            (Refusal::NotInProject | Refusal::NotInOrg, None, Some(org)) => {
                ApiError::new(Code::OrgNotFound).param(org)
            }
            (Refusal::NotInProject | Refusal::NotInOrg, None, None) => ApiError::new(Code::UserUnauthorized),
        }
    })?;
    Ok((org, project))
}

/// The roles that an operation asks for, for a person.
fn needed(requirement: Requirement) -> String {
    let names = |roles: Vec<String>| roles.join(" or ");
    let name = |role: Value| role.as_str().unwrap_or_default().to_owned();
    match requirement {
        Requirement::Nobody | Requirement::Authenticated => "no role".to_owned(),
        Requirement::Org(roles) => {
            format!(
                "the role {} in the organization",
                names(roles.iter().map(|role| name(json!(role))).collect())
            )
        }
        Requirement::Project(roles) => {
            format!("the role {} in the project", names(roles.iter().map(|role| name(json!(role))).collect()))
        }
    }
}

fn nothing_there() -> ApiError {
    ApiError::new(Code::ResourceNotFound)
}

fn other_methods(methods: &[Method]) -> Refused {
    let allowed: Vec<&str> = methods.iter().map(Method::as_str).collect();
    Refused::with(ApiError::new(Code::MethodNotAllowed), header::ALLOW, &allowed.join(", "))
}

async fn read_body(incoming: Incoming) -> Result<Bytes, ApiError> {
    let read = Limited::new(incoming, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::new(Code::RequestTooLarge))
        }
        Ok(Err(_)) => Err(ApiError::new(Code::MalformedJson).detail("The body did not arrive as a whole.")),
        Err(_) => Err(ApiError::new(Code::RequestTimeout)),
    }
}

/// The body as JSON, where the method has one. Forms stay what they are: a text.
fn parsed_body(operation: &Operation, headers: &HeaderMap, body: Bytes) -> Result<Option<Value>, ApiError> {
    let reads = [Method::POST, Method::PUT, Method::PATCH].contains(&operation.method);
    if !reads || body.is_empty() {
        return Ok(None);
    }
    let media_type = text(headers, &header::CONTENT_TYPE).unwrap_or("application/json");
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if operation.path.starts_with("/api/oauth/") {
        // RFC 6749: a form, whatever it is called.
        return Ok(Some(Value::String(String::from_utf8_lossy(&body).into_owned())));
    }
    if matches!(asked(essence), super::version::Asked::Else) || essence.contains('*') {
        return Err(ApiError::new(Code::UnsupportedMediaType));
    }
    parse_json(&body).map(Some)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn render(
    app: &App,
    parts: &Parts,
    query: &[(String, String)],
    outcome: Outcome,
    seen: &Seen,
    request_id: &str,
) -> Response<Full<Bytes>> {
    let asks = |name: &str| flag(query, name, false).unwrap_or(false);
    let status = outcome.status;
    let mut headers = outcome.headers;
    headers.extend(seen.allowance.into_iter().flat_map(Allowance::headers));
    let json = match outcome.content {
        Content::Empty => None,
        Content::Text(text) => {
            return response(status, headers, "text/plain;charset=utf-8", request_id, text.into_bytes());
        }
        Content::Json(value) if asks("envelope") => {
            Some(json!({"status": status.as_u16(), "content": value}))
        }
        Content::Json(value) => Some(value),
        Content::Page { results, total } => {
            let base = format!("{}{}", app.base_url(), parts.uri.path());
            // Only what a page was made of gets here.
            let page = Page::of(query).unwrap_or(Page { number: 1, items: super::page::USUAL_ITEMS });
            let mut list = Map::new();
            list.insert("links".to_owned(), links(&base, query, page, total));
            list.insert("results".to_owned(), Value::Array(results));
            if flag(query, "includeCount", true).unwrap_or(true) {
                list.insert("totalCount".to_owned(), json!(total));
            }
            if asks("envelope") {
                list.insert("status".to_owned(), json!(status.as_u16()));
            }
            Some(Value::Object(list))
        }
    };
    if let Some(date) = seen.deprecated.filter(|_| !outcome.refused) {
        headers.extend(deprecation(date));
    }
    let media_type = if outcome.refused { "application/json".to_owned() } else { seen.version.media_type() };
    let bytes = match json {
        None => Vec::new(),
        Some(value) if asks("pretty") => serde_json::to_vec_pretty(&value).unwrap_or_default(),
        Some(value) => serde_json::to_vec(&value).unwrap_or_default(),
    };
    response(status, headers, if bytes.is_empty() { "" } else { &media_type }, request_id, bytes)
}

/// `Deprecation` and `Sunset` of a version that another replaced on `date`.
fn deprecation(date: Date) -> Vec<(HeaderName, HeaderValue)> {
    let http_date = |date: Date| date.strftime("%a, %d %b %Y 00:00:00 GMT").to_string();
    [("deprecation", date), ("sunset", SUNSET)]
        .into_iter()
        .filter_map(|(name, date)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&http_date(date)).ok()?))
        })
        .collect()
}

fn response(
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    media_type: &str,
    request_id: &str,
    body: Vec<u8>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let own = response.headers_mut();
    for (name, value) in headers {
        own.append(name, value);
    }
    if !media_type.is_empty()
        && !own.contains_key("x-content-type")
        && let Ok(value) = HeaderValue::from_str(media_type)
    {
        own.insert(header::CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        own.insert(HeaderName::from_static("x-request-id"), value);
    }
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    own.insert(
        header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000; includeSubdomains"),
    );
    own.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
