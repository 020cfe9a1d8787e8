//! Typed client of the admin API: what `keyward vault …` and tests use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::{
    AccessChange, AccessResult, ApplicationView, CertificateRegistration, FederatedRegistration, KeySettings,
    KeyView, NewApplication, PrivateEndpointView, VaultChange, VaultStatus,
};
use crate::fault::{ActiveFault, FaultKind};
use crate::log::LogEntry;
use crate::state::{AccessModel, Secret, Settings};
use crate::{DESCRIPTION_FILE, VaultDescription};

/// Longest that a call may take; making a 4096-bit key takes seconds.
const CALL: Duration = Duration::from_secs(60);

/// A failed admin call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The vault's files.
    #[error("could not read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `vault.json` is not what it should be.
    #[error("{} does not describe a vault", path.display())]
    Description {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The CA file holds no certificate, or TLS can't be set up.
    #[error("TLS to the vault cannot be set up: {0}")]
    Tls(String),
    /// The vault doesn't answer.
    #[error("the vault at {url} does not answer")]
    Unreachable {
        /// Admin URL.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The vault says no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code, such as `KeyNotFound`.
        code: String,
        /// What happened.
        message: String,
        /// What to do, if the vault knows.
        hint: Option<String>,
    },
    /// An answer that this version can't read.
    #[error("the vault's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File { .. } | Self::Description { .. } => Some("is --dir the folder of a vault?"),
            Self::Unreachable { .. } => Some("start it: keyward vault serve --dir DIR"),
            Self::Refused { hint, .. } => hint.as_deref(),
            Self::Tls(_) | Self::Unreadable(_) => None,
        }
    }
}

/// Client of one vault's admin API.
#[derive(Debug, Clone)]
pub struct VaultAdmin {
    http: reqwest::Client,
    url: String,
    token: Secret,
}

impl VaultAdmin {
    /// From the folder of a vault that is being served.
    pub fn open(dir: &Path) -> Result<Self, ClientError> {
        Self::of(&description(dir)?)
    }

    /// From a description.
    pub fn of(vault: &VaultDescription) -> Result<Self, ClientError> {
        let pem = std::fs::read(&vault.ca_file)
            .map_err(|source| ClientError::File { path: vault.ca_file.clone(), source })?;
        Self::connect(&vault.admin_url, &pem, &vault.admin_token)
    }

    /// From the admin URL, the certificate authority (PEM) and the admin token.
    pub fn connect(url: &str, ca_pem: &[u8], token: &str) -> Result<Self, ClientError> {
        let tls = |e: &dyn std::fmt::Display| ClientError::Tls(e.to_string());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(certificate.map_err(|e| tls(&e))?).map_err(|e| tls(&e))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| tls(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .timeout(CALL)
            .build()
            .map_err(|e| tls(&e))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token: Secret::new(token.to_owned()) })
    }

    /// The vault at a glance.
    pub async fn status(&self) -> Result<VaultStatus, ClientError> {
        self.get("status").await
    }

    /// Live and soft-deleted keys.
    pub async fn keys(&self) -> Result<Vec<KeyView>, ClientError> {
        self.get("keys").await
    }

    /// Makes a key, or a new version of it. `size` in bits: 2048, 3072 or 4096.
    pub async fn create_key(&self, name: &str, size: u32) -> Result<KeyView, ClientError> {
        self.call(Method::POST, "keys", &json!({ "name": name, "size": size })).await
    }

    /// Makes a key of a type: `RSA`, `RSA-HSM`, or `EC` (P-256), which can neither wrap nor unwrap.
    pub async fn create_key_of_type(&self, name: &str, kty: &str) -> Result<KeyView, ClientError> {
        self.call(Method::POST, "keys", &json!({ "name": name, "kty": kty })).await
    }

    /// Changes attributes of one version, or of all.
    pub async fn change_key(&self, name: &str, settings: &KeySettings) -> Result<KeyView, ClientError> {
        self.call(Method::PATCH, &format!("keys/{name}"), settings).await
    }

    /// Disables all versions.
    pub async fn disable_key(&self, name: &str) -> Result<KeyView, ClientError> {
        self.key_action(name, "disable").await
    }

    /// Enables all versions.
    pub async fn enable_key(&self, name: &str) -> Result<KeyView, ClientError> {
        self.key_action(name, "enable").await
    }

    /// Soft-deletes a key.
    pub async fn delete_key(&self, name: &str) -> Result<KeyView, ClientError> {
        self.key_action(name, "delete").await
    }

    /// Takes a soft-deleted key back.
    pub async fn recover_key(&self, name: &str) -> Result<KeyView, ClientError> {
        self.key_action(name, "recover").await
    }

    /// Makes a new version.
    pub async fn rotate_key(&self, name: &str) -> Result<KeyView, ClientError> {
        self.key_action(name, "rotate").await
    }

    /// Destroys a soft-deleted key; refused while purge protection is on.
    pub async fn purge_key(&self, name: &str) -> Result<(), ClientError> {
        self.call::<Value>(Method::POST, &format!("keys/{name}/purge"), &Value::Null).await.map(|_| ())
    }

    /// Sets a rotation policy, in the form of the data plane.
    pub async fn set_rotation_policy(&self, name: &str, policy: &Value) -> Result<KeyView, ClientError> {
        self.call(Method::PUT, &format!("keys/{name}/rotationpolicy"), policy).await
    }

    /// All grants.
    pub async fn access(&self) -> Result<Vec<AccessResult>, ClientError> {
        self.get("access").await
    }

    /// Grants; see [`AccessChange`].
    pub async fn grant(
        &self,
        client_id: &str,
        model: Option<AccessModel>,
        actions: &[String],
    ) -> Result<AccessResult, ClientError> {
        let change =
            AccessChange { client_id: client_id.to_owned(), model, actions: actions.to_vec(), key: None };
        self.change_access("grant", &change).await
    }

    /// Grants or, with `revoke`, takes away, in every detail that [`AccessChange`] has.
    pub async fn change_access(
        &self,
        verb: &str,
        change: &AccessChange,
    ) -> Result<AccessResult, ClientError> {
        self.call(Method::POST, &format!("access/{verb}"), change).await
    }

    /// Takes grants away; all of them when `actions` is empty.
    pub async fn revoke(
        &self,
        client_id: &str,
        model: Option<AccessModel>,
        actions: &[String],
    ) -> Result<AccessResult, ClientError> {
        let change =
            AccessChange { client_id: client_id.to_owned(), model, actions: actions.to_vec(), key: None };
        self.change_access("revoke", &change).await
    }

    /// Applications of the tenant.
    pub async fn applications(&self) -> Result<Vec<ApplicationView>, ClientError> {
        self.get("apps").await
    }

    /// Makes an application with one secret.
    pub async fn create_application(&self, name: &str) -> Result<NewApplication, ClientError> {
        self.call(Method::POST, "apps", &json!({ "name": name })).await
    }

    /// Makes an application for which the metadata endpoint hands out tokens.
    pub async fn create_managed_identity(&self, name: &str) -> Result<NewApplication, ClientError> {
        self.call(Method::POST, "apps", &json!({ "name": name, "managedIdentity": true })).await
    }

    /// Deletes an application.
    pub async fn delete_application(&self, client_id: &str) -> Result<(), ClientError> {
        self.call::<Value>(Method::DELETE, &format!("apps/{client_id}"), &Value::Null).await.map(|_| ())
    }

    /// Disables an application: no new tokens.
    pub async fn disable_application(&self, client_id: &str) -> Result<ApplicationView, ClientError> {
        self.application_action(client_id, "disable").await
    }

    /// Enables an application.
    pub async fn enable_application(&self, client_id: &str) -> Result<ApplicationView, ClientError> {
        self.application_action(client_id, "enable").await
    }

    /// Lets every secret of an application expire now.
    pub async fn expire_secret(&self, client_id: &str) -> Result<ApplicationView, ClientError> {
        self.application_action(client_id, "expire-secret").await
    }

    /// Makes the existing secrets of an application good for another 24 months.
    pub async fn renew_secret(&self, client_id: &str) -> Result<ApplicationView, ClientError> {
        self.application_action(client_id, "renew-secret").await
    }

    /// Adds a secret.
    pub async fn add_secret(
        &self,
        client_id: &str,
        expires_in_s: Option<i64>,
    ) -> Result<NewApplication, ClientError> {
        self.call(Method::POST, &format!("apps/{client_id}/secrets"), &json!({ "expiresInS": expires_in_s }))
            .await
    }

    /// Registers a client certificate (PEM).
    pub async fn add_certificate(&self, client_id: &str, pem: &str) -> Result<ApplicationView, ClientError> {
        let body = CertificateRegistration { pem: pem.to_owned() };
        self.call(Method::POST, &format!("apps/{client_id}/certificates"), &body).await
    }

    /// Registers a trusted outside issuer.
    pub async fn add_federated(
        &self,
        client_id: &str,
        registration: &FederatedRegistration,
    ) -> Result<ApplicationView, ClientError> {
        self.call(Method::POST, &format!("apps/{client_id}/federated"), registration).await
    }

    /// Faults that are on.
    pub async fn faults(&self) -> Result<Vec<ActiveFault>, ClientError> {
        self.get("faults").await
    }

    /// Switches a fault on, for some seconds or until cleared.
    pub async fn set_fault(
        &self,
        kind: FaultKind,
        for_s: Option<u32>,
    ) -> Result<Vec<ActiveFault>, ClientError> {
        self.call(Method::PUT, &format!("faults/{kind}"), &json!({ "forS": for_s })).await
    }

    /// Switches all faults off.
    pub async fn clear_faults(&self) -> Result<Vec<ActiveFault>, ClientError> {
        self.call(Method::DELETE, "faults", &Value::Null).await
    }

    /// Private endpoint connections.
    pub async fn private_endpoints(&self) -> Result<Vec<PrivateEndpointView>, ClientError> {
        self.get("private-endpoints").await
    }

    /// A new connection, waiting for approval.
    pub async fn request_private_endpoint(
        &self,
        name: &str,
    ) -> Result<Vec<PrivateEndpointView>, ClientError> {
        self.act(&format!("private-endpoints/{name}")).await
    }

    /// Approves a connection.
    pub async fn approve_private_endpoint(
        &self,
        name: &str,
    ) -> Result<Vec<PrivateEndpointView>, ClientError> {
        self.act(&format!("private-endpoints/{name}/approve")).await
    }

    /// Rejects a connection, for good.
    pub async fn reject_private_endpoint(&self, name: &str) -> Result<Vec<PrivateEndpointView>, ClientError> {
        self.act(&format!("private-endpoints/{name}/reject")).await
    }

    /// Removes a private endpoint connection; final.
    pub async fn disconnect_private_endpoint(
        &self,
        name: &str,
    ) -> Result<Vec<PrivateEndpointView>, ClientError> {
        self.act(&format!("private-endpoints/{name}/disconnect")).await
    }

    /// Changes the vault resource.
    pub async fn change_vault(&self, change: &VaultChange) -> Result<VaultStatus, ClientError> {
        self.call(Method::PATCH, "vault", change).await
    }

    /// Soft-deletes the vault; its role assignments don't come back.
    pub async fn delete_vault(&self) -> Result<VaultStatus, ClientError> {
        self.act("vault/delete").await
    }

    /// Takes the soft-deleted vault back.
    pub async fn recover_vault(&self) -> Result<VaultStatus, ClientError> {
        self.act("vault/recover").await
    }

    /// Replaces the double's settings; read them with [`VaultAdmin::status`].
    pub async fn set_settings(&self, settings: &Settings) -> Result<VaultStatus, ClientError> {
        self.call(Method::PUT, "settings", settings).await
    }

    /// The access log from line `skip` on.
    pub async fn log(&self, skip: usize) -> Result<Vec<LogEntry>, ClientError> {
        let text = self.send(Method::GET, &format!("log?skip={skip}"), &Value::Null).await?;
        text.lines().map(|line| serde_json::from_str(line).map_err(ClientError::Unreadable)).collect()
    }

    async fn key_action(&self, name: &str, action: &str) -> Result<KeyView, ClientError> {
        self.act(&format!("keys/{name}/{action}")).await
    }

    async fn application_action(
        &self,
        client_id: &str,
        action: &str,
    ) -> Result<ApplicationView, ClientError> {
        self.act(&format!("apps/{client_id}/{action}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// A change that needs no more words.
    async fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::POST, path, &Value::Null).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let text = self.send(method, path, body).await?;
        let text = if text.is_empty() { "null" } else { &text };
        serde_json::from_str(text).map_err(ClientError::Unreadable)
    }

    async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<String, ClientError> {
        let unreachable = |source| ClientError::Unreachable { url: self.url.clone(), source };
        let mut request = self
            .http
            .request(method, format!("{}/keyward/v1/{path}", self.url))
            .bearer_auth(self.token.expose());
        let body = serde_json::to_value(body).map_err(ClientError::Unreadable)?;
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(unreachable)?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |name: &str| body["error"][name].as_str().map(str::to_owned);
        Err(ClientError::Refused {
            status,
            code: field("code").unwrap_or_default(),
            message: field("message").unwrap_or_else(|| format!("the vault answered {status}")),
            hint: field("hint"),
        })
    }
}

/// Reads the description of the vault in `dir`.
pub fn description(dir: &Path) -> Result<VaultDescription, ClientError> {
    let path = dir.join(DESCRIPTION_FILE);
    let bytes = std::fs::read(&path).map_err(|source| ClientError::File { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ClientError::Description { path, source })
}
