//! Keys through the admin API: the same steps as the data plane, without its authorization.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AdminRefusal, read, to_json, view};
use crate::answer::{Answer, Refusal};
use crate::keys_api::{self, Call, Links};
use crate::service::{HttpRequest, Service};
use crate::state::{KeyChange, UnixSeconds};

/// A change to a key; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySettings {
    /// One version; without it, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Enables or disables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Permitted operations (`wrapKey`, …).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    /// Not-before time; 0 takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixSeconds>,
    /// Expiry time; 0 takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixSeconds>,
}

pub(super) async fn answer(
    service: &Service,
    http: &HttpRequest,
    rest: &[&str],
) -> Result<Answer, AdminRefusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Create {
        name: String,
        kty: Option<String>,
        size: Option<u32>,
        key_ops: Option<Vec<String>>,
    }
    match (http.method.as_str(), rest) {
        ("GET", []) => return Ok(to_json(&view::keys(service))),
        ("POST", []) => {
            let create: Create = read(http)?;
            let body = json!({ "kty": create.kty.as_deref().unwrap_or("RSA"), "key_size": create.size, "key_ops": create.key_ops });
            // The path of the data plane checks the name.
            let call = keys_api::route("POST", &format!("/keys/{}/create", create.name))?;
            run(service, &call, &body).await?;
            return shown(service, &create.name);
        }
        ("PATCH", [name]) => {
            let settings: KeySettings = read(http)?;
            change(service, name, settings).await?;
        }
        ("POST", [name, "disable"]) => {
            change(service, name, KeySettings { enabled: Some(false), ..read(http)? }).await?;
        }
        ("POST", [name, "enable"]) => {
            change(service, name, KeySettings { enabled: Some(true), ..read(http)? }).await?;
        }
        ("POST", [name, "delete"]) => {
            run(service, &Call::Delete { name: (*name).to_owned() }, &Value::Null).await?
        }
        ("POST", [name, "recover"]) => {
            run(service, &Call::Recover { name: (*name).to_owned() }, &Value::Null).await?;
        }
        ("POST", [name, "rotate"]) => {
            run(service, &Call::Rotate { name: (*name).to_owned() }, &Value::Null).await?
        }
        ("POST", [name, "purge"]) => {
            run(service, &Call::Purge { name: (*name).to_owned() }, &Value::Null).await?;
            return Ok(Answer::ok(Value::Null));
        }
        ("PUT", [name, "rotationpolicy"]) => {
            let body: Value = read(http)?;
            run(service, &Call::SetRotationPolicy { name: (*name).to_owned() }, &body).await?;
        }
        _ => return Err(AdminRefusal::NoSuchPath),
    }
    shown(service, rest.first().copied().unwrap_or_default())
}

async fn run(service: &Service, call: &Call, body: &Value) -> Result<(), AdminRefusal> {
    let request = keys_api::Request {
        links: Links::new(service.endpoints().vault.clone()),
        query: Vec::new(),
        body: serde_json::to_vec(body).unwrap_or_default(),
        now: service.now(),
    };
    // The admin token stands above all grants.
    service.write(call, &request, |_| Ok(())).await?;
    Ok(())
}

async fn change(service: &Service, name: &str, settings: KeySettings) -> Result<(), AdminRefusal> {
    let now = service.now();
    let time = |given: Option<UnixSeconds>| given.map(|t| (t != 0).then_some(t));
    service
        .change(|state| {
            let name = &state.vault.known_name(name);
            let versions: Vec<String> = match &settings.version {
                Some(version) => vec![version.clone()],
                None => {
                    let (key, _) = state.vault.find(name, None)?;
                    key.versions.iter().map(|v| v.version.clone()).collect()
                }
            };
            for version in versions {
                let change = KeyChange {
                    key_ops: settings.key_ops.clone(),
                    enabled: settings.enabled,
                    not_before: time(settings.not_before),
                    expires: time(settings.expires),
                    tags: None,
                };
                state.vault.change_version(name, Some(&version), change, now)?;
            }
            Ok::<(), AdminRefusal>(())
        })
        .await
}

fn shown(service: &Service, name: &str) -> Result<Answer, AdminRefusal> {
    view::keys(service)
        .into_iter()
        .find(|key| key.name.eq_ignore_ascii_case(name))
        .map(|key| to_json(&key))
        .ok_or_else(|| Refusal::KeyNotFound { name: name.to_owned(), version: None }.into())
}
