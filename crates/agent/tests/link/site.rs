//! A server with its API and its jobs, asked by signed requests, and a clock that tests move.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use digest_auth::{AuthContext, HttpMethod};
use keyward_model::{Timestamp, event::EventType, node::JoinText};
use keyward_server::{Config, Running, ServeOptions, config::AzureConfig, init, serve_with};
use keyward_vault::VaultDescription;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::LONG;

pub(crate) struct Site {
    running: Running,
    ahead_ms: Arc<AtomicI64>,
    http: reqwest::Client,
    url: String,
    org: String,
    public: String,
    private: String,
}

impl Site {
    pub(crate) async fn start(dir: &Path, configure: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = Config::new(dir);
        configure(&mut config);
        let made = init(&config).await?;
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let ahead = Arc::clone(&ahead_ms);
        let clock = Arc::new(move || {
            let now = jiff::Timestamp::now().as_millisecond();
            Timestamp::from_epoch_ms(now + ahead.load(Ordering::SeqCst))
        });
        let running = serve_with(config, ServeOptions { clock, ..ServeOptions::default() }).await?;
        let ca = std::fs::read(made.ca_file.context("an authority of its own")?)?;
        Ok(Self {
            url: format!("https://localhost:{}", running.api_addr.port()),
            running,
            ahead_ms,
            http: client(&ca)?,
            org: made.org_id.to_string(),
            public: made.public_key,
            private: made.private_key.expose_secret().to_owned(),
        })
    }

    pub(crate) fn app(&self) -> &keyward_server::App {
        self.running.app()
    }

    /// Moves its clock, and nobody else's.
    pub(crate) fn set_ahead_ms(&self, ms: i64) {
        self.ahead_ms.store(ms, Ordering::SeqCst);
        self.app().nudge().jobs();
    }

    /// A signed request; status and body.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let (status, _, body) = self.exchange(method, path, body).await?;
        Ok((status, body))
    }

    /// The same with the answer's headers.
    pub(crate) async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, http::HeaderMap, Value)> {
        let request = || {
            let request = self.http.request(method.parse()?, format!("{}{path}", self.url));
            let request = request.header("accept", "application/vnd.atlas.2025-03-12+json");
            Ok::<_, anyhow::Error>(match &body {
                Some(body) => request
                    .header("content-type", "application/vnd.atlas.2025-03-12+json")
                    .body(body.to_string()),
                None => request,
            })
        };
        let bare = request()?.send().await?;
        let challenge = bare.headers().get("www-authenticate").context("a challenge")?.to_str()?.to_owned();
        let no_body = None::<&[u8]>;
        let who = AuthContext::new_with_method(
            &self.public,
            &self.private,
            path,
            no_body,
            HttpMethod::from(method.to_owned()),
        );
        let signed = digest_auth::parse(&challenge)?.respond(&who)?.to_header_string();
        let answer = request()?.header("authorization", signed).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok((status, headers, serde_json::from_slice(&answer.bytes().await?).unwrap_or(Value::Null)))
    }

    /// The same where it must be answered with `status`.
    pub(crate) async fn ask(
        &self,
        status: u16,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value> {
        let (got, answer) = self.send(method, path, body).await?;
        ensure!(got == status, "{method} {path}: {got} {answer}");
        Ok(answer)
    }

    pub(crate) async fn project(&self, name: &str) -> Result<String> {
        let body = json!({ "name": name, "orgId": self.org });
        let made = self.ask(201, "POST", "/api/atlas/v2/groups", Some(body)).await?;
        Ok(made["id"].as_str().context("an id")?.to_owned())
    }

    pub(crate) async fn token(&self, project: &str) -> Result<JoinText> {
        let path = format!("/api/keyward/v1/groups/{project}/joinTokens");
        let made = self.ask(201, "POST", &path, Some(json!({}))).await?;
        Ok(made["token"].as_str().context("a token")?.parse()?)
    }

    /// How many events of a type there are.
    pub(crate) async fn events(&self, of: EventType) -> Result<u64> {
        let filter = keyward_store::EventFilter { types: vec![of], ..Default::default() };
        Ok(self.app().store().read().await?.events(&filter, 0, 1).await?.1)
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}

/// A client that trusts this authority alone.
pub(crate) fn client(ca_pem: &[u8]) -> Result<reqwest::Client> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate?)?;
    }
    let tls =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?)
}

/// How a server reaches a development vault.
pub(crate) fn azure(vault: &VaultDescription) -> AzureConfig {
    AzureConfig {
        authority: vault.authority.parse().expect("a URL"),
        arm_url: vault.arm_url.parse().expect("a URL"),
        vault_host: vault.url.trim_start_matches("https://").to_owned(),
        vault_resource: "https://vault.azure.net".to_owned(),
        ca_file: Some(vault.ca_file.clone()),
    }
}

/// All fields of `azureKeyVault`.
pub(crate) fn azure_key_vault(vault: &VaultDescription, key_identifier: &str) -> Value {
    json!({
        "enabled": true, "azureEnvironment": "AZURE", "clientID": vault.client_id, "tenantID": vault.tenant_id,
        "subscriptionID": vault.subscription_id, "resourceGroupName": vault.resource_group,
        "keyVaultName": vault.vault_name, "keyIdentifier": key_identifier, "secret": vault.client_secret,
    })
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !so().await? {
        if Instant::now() > deadline {
            bail!("never: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
