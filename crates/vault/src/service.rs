//! The thin shell between HTTP and the pure parts: reads the clock, draws ids and keys, makes changes durable,
//! writes the access log.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::answer::{Answer, Caller, Refusal};
use crate::disk::{Disk, DiskError};
use crate::fault::{FaultKind, Faults, Reachability};
use crate::keys_api::{self, Fresh, Links};
use crate::log::{AccessLog, LogEntry};
use crate::material::Material;
use crate::state::{State, UnixSeconds};
use crate::{admin, arm, authorize, entra};

/// One HTTP request, body read. No `Debug`: it holds tokens and, at an import, a private key.
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) address: IpAddr,
}

impl HttpRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }
}

/// What the connection does next.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Sends this.
    Answer(Box<Answer>),
    /// Sends nothing, as long as the fault `hang` is on.
    Hang,
}

/// Who asked for what, for the access log.
#[derive(Debug, Default)]
struct Trace {
    client: Option<String>,
    operation: String,
    key: Option<String>,
    version: Option<String>,
}

/// Where the endpoints are, as `vault.json` tells clients.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// Data plane, `https://localhost:PORT`.
    pub(crate) vault: String,
    /// Entra, ARM and the admin API.
    pub(crate) directory: String,
    /// Who gives out tokens for this vault: `directory`, unless it shares another vault's tenant.
    pub(crate) authority: String,
}

/// One served vault.
pub(crate) struct Service {
    state: RwLock<Arc<State>>,
    writer: Mutex<()>,
    disk: Arc<Disk>,
    log: AccessLog,
    endpoints: Endpoints,
    changed: watch::Sender<()>,
}

impl Service {
    pub(crate) fn new(state: State, disk: Disk, log: AccessLog, endpoints: Endpoints) -> Self {
        Self {
            state: RwLock::new(Arc::new(state)),
            writer: Mutex::new(()),
            disk: Arc::new(disk),
            log,
            endpoints,
            changed: watch::Sender::new(()),
        }
    }

    /// The state as it is now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Told whenever the state changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn log(&self) -> &AccessLog {
        &self.log
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The faults that are on. Their end is measured on the machine's own clock.
    pub(crate) fn faults(&self) -> Faults {
        Faults::at(&self.state().faults, machine_now())
    }

    /// Changes the state: `step` works on a copy, which takes effect once it is durable. A failed step changes
    /// nothing.
    pub(crate) async fn change<T, E: From<DiskError>>(
        &self,
        step: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let _writer = self.writer.lock().await;
        let mut next = (*self.state()).clone();
        let result = step(&mut next)?;
        self.commit(next).await?;
        Ok(result)
    }

    /// Makes `next` durable, then current. The caller holds the writer's lock.
    async fn commit(&self, next: State) -> Result<(), DiskError> {
        let next = Arc::new(next);
        let (disk, saved) = (Arc::clone(&self.disk), Arc::clone(&next));
        let written = tokio::task::spawn_blocking(move || disk.save(&saved)).await;
        match written {
            Ok(result) => result?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.changed.send_replace(());
        Ok(())
    }

    /// Answers a request.
    pub(crate) async fn handle(&self, request: HttpRequest) -> Outcome {
        let request_id = Uuid::new_v4().to_string();
        let mut trace = Trace::default();
        let (mut answer, logged) = if request.path.starts_with("/keyward/v1/") {
            (admin::answer(self, &request).await, false)
        } else if keys_api::is_data_plane(&request.path) {
            match self.data_plane(&request, &mut trace).await {
                Some(answer) => (answer, true),
                None => {
                    self.record(&request, &trace, 0, &Some(("hang".to_owned(), None)), &request_id);
                    return Outcome::Hang;
                }
            }
        } else if request.path.to_ascii_lowercase().starts_with("/subscriptions/") {
            trace.operation = "Arm".to_owned();
            (self.arm(&request, &mut trace).await, true)
        } else {
            self.directory(&request, &mut trace, &request_id)
        };
        if logged {
            self.record(&request, &trace, answer.status, &answer.codes, &request_id);
        }
        self.common_headers(&request, &mut answer, request_id);
        Outcome::Answer(Box::new(answer))
    }

    /// The vault's clock.
    pub(crate) fn now(&self) -> UnixSeconds {
        machine_now() + self.state().settings.clock_offset_s
    }

    /// `https://HOST` as the caller wrote it, when it is a name the vault goes by; else the vault's own.
    fn base(&self, request: &HttpRequest) -> String {
        let host = request.header("host").unwrap_or_default();
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(n, _)| n);
        let known = crate::tls::host_names(&self.state().vault.name);
        if known.iter().any(|k| k.eq_ignore_ascii_case(name.trim_matches(['[', ']']))) {
            format!("https://{host}")
        } else {
            self.endpoints.vault.clone()
        }
    }

    /// Data plane; `None` when nothing is to be answered.
    async fn data_plane(&self, request: &HttpRequest, trace: &mut Trace) -> Option<Answer> {
        let call = keys_api::route(&request.method, &request.path);
        if let Ok(call) = &call {
            trace.operation = call.operation().to_owned();
            trace.key = call.key().map(str::to_owned);
            trace.version = call.version().map(str::to_owned);
        } else {
            trace.operation = "Unknown".to_owned();
        }
        let faults = self.faults();
        if faults.has(FaultKind::Slow) {
            tokio::time::sleep(Duration::from_millis(u64::from(self.state().settings.slow_ms))).await;
        }
        if faults.has(FaultKind::Hang) {
            return None;
        }
        let base = self.base(request);
        match self.call(request, call, &faults, &base, trace).await {
            Ok(answer) => Some(answer),
            Err(refusal) => {
                let mut answer = refusal.answer();
                if refusal.is_challenge() {
                    answer.headers.push(("www-authenticate", self.challenge(&base, &refusal)));
                }
                Some(answer)
            }
        }
    }

    async fn call(
        &self,
        http: &HttpRequest,
        call: Result<keys_api::Call, Refusal>,
        faults: &Faults,
        base: &str,
        trace: &mut Trace,
    ) -> Result<Answer, Refusal> {
        self.settle().await?;
        let state = self.state();
        let now = self.now();
        let is_write = call.as_ref().is_ok_and(keys_api::Call::is_write);
        let fault = faults.refusal(&state.vault, &state.settings, is_write, &http.address.to_string());
        // These come before the token is looked at.
        if let Some(
            out @ (Refusal::Throttled { .. } | Refusal::InternalServerError | Refusal::ServiceUnavailable),
        ) = &fault
        {
            return Err(out.clone());
        }
        let token = http.bearer().ok_or(Refusal::TokenMissing)?;
        let audiences = [entra::VAULT_RESOURCE, entra::VAULT_APP_ID];
        let caller =
            entra::check_token(&state.directory, token, &audiences, now).map_err(Refusal::TokenRejected)?;
        trace.client = Some(caller.app_id.clone());
        if let Some(fault) = fault {
            return Err(fault);
        }
        authorize::admit(&state.vault, http.address)?;
        let call = call?.with_key(|name| state.vault.known_name(name));
        let request = keys_api::Request {
            links: Links::new(base),
            query: http.query.clone(),
            body: http.body.clone(),
            now,
        };
        keys_api::check_api_version(&request)?;
        let may = |state: &State| {
            if state.vault.deletion.is_some() {
                return Err(Refusal::VaultDeleted { vault: state.vault.name.clone() });
            }
            authorize::authorize(&state.vault, &caller, call.permission(), call.key(), now)
        };
        may(&state)?;
        if call.is_write() {
            // Once more when its turn has come: a removal that was answered meanwhile holds.
            self.write(&call, &request, may).await
        } else {
            keys_api::read(&state, &call, &request)
        }
    }

    /// A change as the data plane makes it, if `may` says so of the state that it changes.
    pub(crate) async fn write(
        &self,
        call: &keys_api::Call,
        request: &keys_api::Request,
        may: impl FnOnce(&State) -> Result<(), Refusal>,
    ) -> Result<Answer, Refusal> {
        let _writer = self.writer.lock().await;
        let mut next = (*self.state()).clone();
        may(&next)?;
        let call = &call.clone().with_key(|name| next.vault.known_name(name));
        let material = match keys_api::material_wanted(&next, call, request)? {
            Some(bits) => Some(make_material(bits).await?),
            None => None,
        };
        let fresh = Fresh { version: fresh_version(), material };
        let answer = keys_api::write(&mut next, call, request, fresh)?;
        self.commit(next).await.map_err(not_durable)?;
        Ok(answer)
    }

    /// What time has brought: rotations that are due, soft-deleted keys whose retention is over.
    pub(crate) async fn settle(&self) -> Result<(), Refusal> {
        let now = self.now();
        let vault = &self.state().vault;
        if vault.rotations_due(now).is_empty() && !vault.has_purge_due(now) {
            return Ok(());
        }
        let _writer = self.writer.lock().await;
        let mut next = (*self.state()).clone();
        let vault = &mut next.vault;
        vault.purge_due(now);
        for name in vault.rotations_due(now) {
            let bits = vault.find(&name, None)?.1.material.bits();
            let material = make_material(bits).await?;
            let rotated = vault.rotated_version(&name, fresh_version(), material, now)?;
            vault.add_version(&name, rotated, now)?;
        }
        self.commit(next).await.map_err(not_durable)
    }

    fn challenge(&self, base: &str, refusal: &Refusal) -> String {
        let tenant = &self.state().directory.tenant_id;
        let authority = if base.contains(".vault.azure.net") {
            "https://login.microsoftonline.com".to_owned()
        } else {
            self.endpoints.authority.clone()
        };
        let mut challenge =
            format!("Bearer authorization=\"{authority}/{tenant}\", resource=\"{}\"", entra::VAULT_RESOURCE);
        if let Refusal::TokenRejected(_) = refusal {
            challenge.push_str(", error=\"invalid_token\"");
        }
        challenge
    }

    async fn arm(&self, http: &HttpRequest, trace: &mut Trace) -> Answer {
        match self.arm_call(http, trace).await {
            Ok(answer) => answer,
            Err(refusal) => {
                let mut answer = refusal.answer();
                if refusal.is_challenge() {
                    let tenant = &self.state().directory.tenant_id;
                    let authority = &self.endpoints.authority;
                    answer.headers.push((
                        "www-authenticate",
                        format!("Bearer authorization_uri=\"{authority}/{tenant}\", error=\"invalid_token\""),
                    ));
                }
                answer
            }
        }
    }

    async fn arm_call(&self, http: &HttpRequest, trace: &mut Trace) -> Result<Answer, Refusal> {
        let now = self.now();
        let state = self.state();
        let token = http.bearer().ok_or(Refusal::TokenMissing)?;
        let caller: Caller = entra::check_token(&state.directory, token, &[entra::ARM_RESOURCE], now)
            .map_err(Refusal::TokenRejected)?;
        trace.client = Some(caller.app_id.clone());
        let call = arm::route(&http.method, &http.path)?;
        trace.operation = call.operation().to_owned();
        if !http
            .query
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("api-version") && !value.is_empty())
        {
            return Err(Refusal::BadParameter(
                "The api-version query parameter (?api-version=) is required.".into(),
            ));
        }
        let uri = &self.endpoints.vault;
        if call.is_write() {
            self.change(|next| arm::answer(next, &call, &caller, &http.body, now, uri)).await
        } else {
            arm::answer(&mut (*state).clone(), &call, &caller, &http.body, now, uri)
        }
    }

    /// Entra and the managed identity endpoint. The second value tells whether to log it.
    fn directory(&self, http: &HttpRequest, trace: &mut Trace, request_id: &str) -> (Answer, bool) {
        let state = self.state();
        let now = self.now();
        let base = self.base(http);
        let correlation_id = http.header("client-request-id").unwrap_or(request_id).to_owned();
        let segments: Vec<&str> = http.path.trim_matches('/').split('/').collect();
        let token_down = self.faults().has(FaultKind::TokenDown);
        let lifetime_s = state.settings.token_lifetime_s;
        let arm_url = self.endpoints.directory.as_str();
        let result = match (segments.as_slice(), http.method.as_str()) {
            (
                [_, "v2.0", ".well-known", "openid-configuration"]
                | [_, ".well-known", "openid-configuration"],
                "GET",
            ) => {
                return (
                    self.of_tenant(&segments, entra::discovery(&state.directory, &base), request_id),
                    false,
                );
            }
            ([_, "discovery", "v2.0", "keys"] | [_, "discovery", "keys"], "GET") => {
                return (self.of_tenant(&segments, entra::signing_keys(&state.directory), request_id), false);
            }
            (["common", "discovery", "instance"], "GET") => {
                return (entra::instance_discovery(&state.directory, &base), false);
            }
            ([tenant, "oauth2", "v2.0", "token"] | [tenant, "oauth2", "token"], "POST") => {
                trace.operation = "Token".to_owned();
                let form: Vec<(String, String)> =
                    url::form_urlencoded::parse(&http.body).into_owned().collect();
                let request = entra::TokenRequest { tenant, base: &base, form: &form, arm_url, now };
                trace.client = request.client_id().map(str::to_owned);
                if token_down {
                    Err(entra::TokenRefusal::DirectoryUnavailable)
                } else {
                    entra::token(&state.directory, &request, lifetime_s)
                }
            }
            (["metadata", "identity", "oauth2", "token"], "GET") => {
                trace.operation = "ManagedIdentityToken".to_owned();
                let has_header = http.header("metadata").is_some_and(|v| v.eq_ignore_ascii_case("true"));
                if token_down {
                    Err(entra::TokenRefusal::DirectoryUnavailable)
                } else {
                    entra::managed_identity(
                        &state.directory,
                        has_header,
                        &http.query,
                        arm_url,
                        now,
                        lifetime_s,
                    )
                }
            }
            _ => return (Refusal::NoSuchPath.answer(), false),
        };
        let answer = result.unwrap_or_else(|refusal| refusal.answer(request_id, &correlation_id, now));
        (answer, true)
    }

    /// Discovery of a tenant that isn't this one fails as in Entra.
    fn of_tenant(&self, segments: &[&str], answer: Answer, request_id: &str) -> Answer {
        let tenant = segments.first().copied().unwrap_or_default();
        if [self.state().directory.tenant_id.as_str(), "common", "organizations"].contains(&tenant) {
            answer
        } else {
            entra::TokenRefusal::TenantNotFound { tenant: tenant.to_owned() }.answer(
                request_id,
                request_id,
                self.now(),
            )
        }
    }

    fn record(
        &self,
        http: &HttpRequest,
        trace: &Trace,
        status: u16,
        codes: &Option<(String, Option<String>)>,
        request_id: &str,
    ) {
        let time =
            jiff::Timestamp::now() + jiff::SignedDuration::from_secs(self.state().settings.clock_offset_s);
        let entry = LogEntry {
            time: format!("{time:.3}"),
            client: trace.client.clone(),
            address: http.address.to_string(),
            operation: trace.operation.clone(),
            key: trace.key.clone(),
            version: trace.version.clone(),
            status,
            code: codes.as_ref().map(|(code, _)| code.clone()),
            inner_code: codes.as_ref().and_then(|(_, inner)| inner.clone()),
            request_id: request_id.to_owned(),
            client_request_id: http.header("x-ms-client-request-id").map(str::to_owned),
        };
        if let Err(error) = self.log.add(&entry) {
            tracing::error!(%error, "could not write the access log");
        }
    }

    fn common_headers(&self, request: &HttpRequest, answer: &mut Answer, request_id: String) {
        let state = self.state();
        let (connection, family) =
            if request.address.is_ipv6() { ("Ipv6", "InterNetworkV6") } else { ("Ipv4", "InterNetwork") };
        let headers = &mut answer.headers;
        headers.push(("cache-control", "no-cache".to_owned()));
        headers.push(("pragma", "no-cache".to_owned()));
        headers.push(("expires", "-1".to_owned()));
        headers.push(("strict-transport-security", "max-age=31536000;includeSubDomains".to_owned()));
        headers.push(("x-content-type-options", "nosniff".to_owned()));
        headers.push(("x-ms-request-id", request_id));
        if let Some(id) = request.header("x-ms-client-request-id") {
            headers.push(("x-ms-client-request-id", id.to_owned()));
        }
        if keys_api::is_data_plane(&request.path) {
            let faults = self.faults();
            headers.push(("x-ms-keyvault-region", faults.region(&state.vault.location).to_owned()));
            headers.push(("x-ms-keyvault-service-version", "1.9.2000.1".to_owned()));
            headers.push((
                "x-ms-keyvault-network-info",
                format!("conn_type={connection};addr={};act_addr_fam={family};", request.address),
            ));
        }
    }

    /// What happens to connections to the data plane.
    pub(crate) fn reachability(&self) -> Reachability {
        self.faults().reachability()
    }
}

/// Seconds since the epoch on the machine's clock.
pub(crate) fn machine_now() -> UnixSeconds {
    jiff::Timestamp::now().as_second()
}

/// A version id.
pub(crate) fn fresh_version() -> String {
    HEXLOWER.encode(Uuid::new_v4().as_bytes())
}

/// Makes a key pair off the async threads.
pub(crate) async fn make_material(bits: u32) -> Result<Material, Refusal> {
    match tokio::task::spawn_blocking(move || Material::make(bits)).await {
        Ok(made) => made.map_err(|e| Refusal::BadParameter(e.to_string())),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn not_durable(error: DiskError) -> Refusal {
    tracing::error!(%error, source = ?std::error::Error::source(&error), "could not make a change durable");
    Refusal::InternalServerError
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        not_durable(error)
    }
}

/// Body of an error of the admin API.
pub(crate) fn admin_error(status: u16, code: &str, message: &str, hint: Option<&str>) -> Answer {
    Answer {
        status,
        headers: Vec::new(),
        body: json!({ "error": { "code": code, "message": message, "hint": hint } }),
        codes: None,
    }
}
