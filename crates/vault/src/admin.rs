//! The admin API: the customer's and the operator's hands on the double. `/keyward/v1/…`, JSON, with the admin
//! token of `vault.json`.

mod access;
mod applications;
mod keys;
mod view;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use access::{AccessChange, AccessResult};
pub use applications::{
    ApplicationView, CertificateRegistration, FederatedRegistration, NewApplication, SecretView,
};
pub(crate) use applications::{new_application, random_secret};
pub use keys::KeySettings;
pub use view::{KeyVersionView, KeyView, PrivateEndpointView, VaultStatus};

use crate::answer::{Answer, Refusal};
use crate::arm::set_connection;
use crate::disk::DiskError;
use crate::fault::{ActiveFault, FaultKind};
use crate::service::{HttpRequest, Service, admin_error, machine_now};
use crate::state::{AccessModel, ConnectionStatus, NetworkRules, PrivateEndpointConnection, Settings, State};

/// A change to the vault resource; what is left out stays.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultChange {
    /// Azure lets purge protection only be switched on; the double also switches it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_protection: Option<bool>,
    /// Days, 7 to 90. Fixed at creation in Azure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// Switching voids what the other model grants, until switched back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_model: Option<AccessModel>,
    /// Firewall and public access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRules>,
}

/// What an admin call can't do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminRefusal {
    /// As the data plane or ARM says it.
    Azure(Refusal),
    /// Not the admin token.
    Unauthorized,
    /// No such application.
    NoSuchApplication(String),
    /// No such private endpoint connection.
    NoSuchConnection(String),
    /// The request can't be read or doesn't make sense.
    Bad(String),
    /// No such path.
    NoSuchPath,
}

impl From<Refusal> for AdminRefusal {
    fn from(refusal: Refusal) -> Self {
        Self::Azure(refusal)
    }
}

impl From<DiskError> for AdminRefusal {
    fn from(error: DiskError) -> Self {
        Self::Azure(error.into())
    }
}

impl AdminRefusal {
    fn answer(&self) -> Answer {
        match self {
            Self::Azure(refusal) => {
                let azure = refusal.answer();
                let error = &azure.body["error"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let inner = error["innererror"]["code"].as_str();
                let code = inner.map_or_else(|| text(&error["code"]), str::to_owned);
                admin_error(azure.status, &code, &text(&error["message"]), hint(refusal))
            }
            Self::Unauthorized => admin_error(
                401,
                "Unauthorized",
                "the admin token is missing or wrong",
                Some("use the adminToken of the vault's vault.json"),
            ),
            Self::NoSuchApplication(id) => admin_error(
                404,
                "ApplicationNotFound",
                &format!("there is no application with the client id {id}"),
                Some("list the applications, or use the clientId of vault.json"),
            ),
            Self::NoSuchConnection(name) => admin_error(
                404,
                "ConnectionNotFound",
                &format!("there is no private endpoint connection {name}"),
                None,
            ),
            Self::Bad(message) => admin_error(400, "BadParameter", message, None),
            Self::NoSuchPath => admin_error(404, "NotFound", "the admin API has no such path", None),
        }
    }
}

fn hint(refusal: &Refusal) -> Option<&'static str> {
    if matches!(refusal, Refusal::PurgeProtected { .. }) {
        Some(
            "switch the vault's purge protection off first: PATCH /keyward/v1/vault {\"purgeProtection\":false}",
        )
    } else if matches!(refusal, Refusal::KeyNotFound { .. }) {
        Some("list the keys; a deleted one can be recovered")
    } else if matches!(refusal, Refusal::ObjectIsDeletedButRecoverable { .. }) {
        Some("recover the key, or purge it first")
    } else {
        None
    }
}

/// Answers a request of the admin API.
pub(crate) async fn answer(service: &Service, http: &HttpRequest) -> Answer {
    match dispatch(service, http).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    }
}

async fn dispatch(service: &Service, http: &HttpRequest) -> Result<Answer, AdminRefusal> {
    check_admin_token(service, http)?;
    service.settle().await?;
    let path = http.path.trim_start_matches("/keyward/v1/").trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    match (http.method.as_str(), segments.as_slice()) {
        ("GET", ["status"]) => Ok(to_json(&view::status(service))),
        ("GET", ["log"]) => {
            let skip =
                http.query.iter().find(|(n, _)| n == "skip").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
            let text = service.log().read(skip).map_err(|e| AdminRefusal::Bad(format!("the log: {e}")))?;
            let mut answer = Answer::ok(Value::String(text));
            answer.headers.push(("content-type", "application/x-ndjson".to_owned()));
            Ok(answer)
        }
        (_, ["keys", ..]) => keys::answer(service, http, &segments[1..]).await,
        (_, ["access", ..]) => access::answer(service, http, &segments[1..]).await,
        (_, ["apps", ..]) => applications::answer(service, http, &segments[1..]).await,
        (_, ["faults", ..]) => faults(service, http, &segments[1..]).await,
        (_, ["private-endpoints", ..]) => private_endpoints(service, http, &segments[1..]).await,
        ("PATCH", ["vault"]) => {
            let change: VaultChange = read(http)?;
            change_vault(service, change).await
        }
        ("POST", ["vault", "delete"]) => {
            let now = service.now();
            edit(service, |state| state.vault.delete(now)).await?;
            Ok(to_json(&view::status(service)))
        }
        ("POST", ["vault", "recover"]) => {
            let recovered = edit(service, |state| state.vault.recover()).await?;
            if recovered {
                Ok(to_json(&view::status(service)))
            } else {
                Err(AdminRefusal::Bad("the vault is not deleted".to_owned()))
            }
        }
        ("PUT", ["settings"]) => {
            let settings: Settings = read(http)?;
            edit(service, |state| state.settings = settings).await?;
            Ok(to_json(&view::status(service)))
        }
        _ => Err(AdminRefusal::NoSuchPath),
    }
}

fn check_admin_token(service: &Service, http: &HttpRequest) -> Result<(), AdminRefusal> {
    let state = service.state();
    let given = http.header("authorization").and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(
        given.as_bytes(),
        state.admin_token.expose().as_bytes(),
    );
    same.map_err(|_| AdminRefusal::Unauthorized)
}

async fn change_vault(service: &Service, change: VaultChange) -> Result<Answer, AdminRefusal> {
    if change.retention_days.is_some_and(|days| !(7..=90).contains(&days)) {
        return Err(AdminRefusal::Bad("retentionDays must be between 7 and 90".to_owned()));
    }
    edit(service, |state| {
        let vault = &mut state.vault;
        vault.purge_protection = change.purge_protection.unwrap_or(vault.purge_protection);
        vault.retention_days = change.retention_days.unwrap_or(vault.retention_days);
        vault.access_model = change.access_model.unwrap_or(vault.access_model);
        if let Some(network) = change.network {
            vault.network = network;
        }
    })
    .await?;
    Ok(to_json(&view::status(service)))
}

async fn faults(service: &Service, http: &HttpRequest, rest: &[&str]) -> Result<Answer, AdminRefusal> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Body {
        for_s: Option<u32>,
    }
    let now = machine_now();
    let kind = |name: &str| name.parse::<FaultKind>().map_err(|e| AdminRefusal::Bad(e.to_string()));
    match (http.method.as_str(), rest) {
        ("GET", []) => {}
        ("DELETE", []) => edit(service, |state| state.faults.clear()).await?,
        ("DELETE", [name]) => {
            let kind = kind(name)?;
            edit(service, |state| state.faults.retain(|f| f.kind != kind)).await?;
        }
        ("PUT", [name]) => {
            let kind = kind(name)?;
            let body: Body = read(http)?;
            let until = body.for_s.map(|seconds| now + i64::from(seconds));
            edit(service, |state| {
                state.faults.retain(|f| f.kind != kind && f.until.is_none_or(|until| now < until));
                state.faults.push(ActiveFault { kind, until });
            })
            .await?;
        }
        _ => return Err(AdminRefusal::NoSuchPath),
    }
    let state = service.state();
    let active: Vec<&ActiveFault> =
        state.faults.iter().filter(|f| f.until.is_none_or(|until| now < until)).collect();
    Ok(to_json(&active))
}

async fn private_endpoints(
    service: &Service,
    http: &HttpRequest,
    rest: &[&str],
) -> Result<Answer, AdminRefusal> {
    match (http.method.as_str(), rest) {
        ("GET", []) => {}
        ("POST", [name]) => {
            let id = format!(
                "/subscriptions/{}/resourceGroups/consumer/providers/Microsoft.Network/privateEndpoints/{name}",
                service.state().vault.subscription_id
            );
            let connection = PrivateEndpointConnection {
                status: ConnectionStatus::Pending,
                description: String::new(),
                private_endpoint_id: id,
                location: None,
            };
            service
                .change(|state| match state.vault.private_endpoints.contains_key(*name) {
                    true => Err(AdminRefusal::Bad(format!(
                        "there is a private endpoint connection {name} already"
                    ))),
                    false => Ok(state.vault.private_endpoints.insert((*name).to_owned(), connection)),
                })
                .await?;
        }
        ("POST", [name, action]) => {
            let status = match *action {
                "approve" => ConnectionStatus::Approved,
                "reject" => ConnectionStatus::Rejected,
                "disconnect" => ConnectionStatus::Disconnected,
                _ => return Err(AdminRefusal::NoSuchPath),
            };
            service
                .change(|state: &mut State| {
                    if !state.vault.private_endpoints.contains_key(*name) {
                        return Err(AdminRefusal::NoSuchConnection((*name).to_owned()));
                    }
                    Ok(set_connection(&mut state.vault, name, status, "")?)
                })
                .await?;
        }
        _ => return Err(AdminRefusal::NoSuchPath),
    }
    Ok(to_json(&view::private_endpoints(&service.state())))
}

/// A step that can't fail.
async fn edit<T>(service: &Service, step: impl FnOnce(&mut State) -> T) -> Result<T, AdminRefusal> {
    service.change(|state| Ok(step(state))).await
}

/// Reads a JSON body; an empty one counts as `{}`.
fn read<T: DeserializeOwned>(http: &HttpRequest) -> Result<T, AdminRefusal> {
    let body: &[u8] = if http.body.is_empty() { b"{}" } else { &http.body };
    serde_json::from_slice(body)
        .map_err(|e| AdminRefusal::Bad(format!("the request body cannot be read: {e}")))
}

fn to_json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_value(value) {
        Ok(value) => Answer::ok(value),
        Err(error) => {
            Answer { status: 500, ..Answer::ok(json!({ "error": { "message": error.to_string() } })) }
        }
    }
}
