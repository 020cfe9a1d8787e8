//! A vault served in this process, and a plain HTTP client that trusts it.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use keyward_vault::client::VaultAdmin;
use keyward_vault::{FirstStart, RunningVault, ServeOptions, VaultDescription, serve_with};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

pub struct Served {
    running: RunningVault,
    pub dir: Option<tempfile::TempDir>,
    pub http: reqwest::Client,
    pub admin: VaultAdmin,
}

impl Served {
    pub async fn start() -> Self {
        Self::start_with(FirstStart { purge_protection: false, ..FirstStart::default() }).await
    }

    pub async fn start_with(first: FirstStart) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), first).await
    }

    pub async fn start_in(dir: tempfile::TempDir, first: FirstStart) -> Self {
        let options = ServeOptions { dir: dir.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap() };
        let running = serve_with(options, first).await.unwrap();
        let http = http_client(running.description());
        let admin = VaultAdmin::of(running.description()).unwrap();
        Self { running, dir: Some(dir), http, admin }
    }

    pub fn description(&self) -> &VaultDescription {
        self.running.description()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.description().url)
    }

    pub async fn stop(mut self) -> tempfile::TempDir {
        let dir = self.dir.take().unwrap();
        self.running.shutdown().await;
        dir
    }

    /// Gives the first application these actions.
    pub async fn grant(&self, actions: &[&str]) {
        let actions: Vec<String> = actions.iter().map(|a| (*a).to_owned()).collect();
        self.admin.grant(&self.description().client_id, None, &actions).await.unwrap();
    }

    /// A token for the data plane.
    pub async fn token(&self) -> String {
        self.token_for("https://vault.azure.net/.default").await
    }

    pub async fn token_for(&self, scope: &str) -> String {
        let d = self.description();
        let (status, body) = self
            .token_request(&[
                ("grant_type", "client_credentials"),
                ("client_id", &d.client_id),
                ("client_secret", &d.client_secret),
                ("scope", scope),
            ])
            .await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn token_request(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let d = self.description();
        let url = format!("{}/{}/oauth2/v2.0/token", d.authority, d.tenant_id);
        let response = self.http.post(url).form(form).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// A call of the data plane with an api-version.
    pub async fn send(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = self.url(&format!("{path}{joint}api-version=2025-07-01"));
        self.send_to(method, &url, token, body).await
    }

    /// A call of ARM, `path` below the vault's resource id.
    pub async fn arm(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}?api-version=2026-02-01", self.description().arm_url);
        self.send_to(method, &url, token, body).await
    }

    async fn send_to(&self, method: &str, url: &str, token: &str, body: Value) -> (u16, Value) {
        let mut request = self.http.request(method.parse().unwrap(), url).bearer_auth(token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    pub fn resource_id(&self) -> String {
        let d = self.description();
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.KeyVault/vaults/{}",
            d.subscription_id, d.resource_group, d.vault_name
        )
    }
}

pub fn http_client(description: &VaultDescription) -> reqwest::Client {
    http_client_builder(description).build().unwrap()
}

pub fn http_client_builder(description: &VaultDescription) -> reqwest::ClientBuilder {
    let pem = std::fs::read(&description.ca_file).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .timeout(std::time::Duration::from_secs(20))
}

pub fn decode(value: &Value) -> Vec<u8> {
    BASE64URL_NOPAD.decode(value.as_str().unwrap().as_bytes()).unwrap()
}
