//! Calls of the server's API, each signed, each answer checked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;
use serde_json::Value;

use super::credential::{Credential, Signer, TokenAnswer, token};
use super::profile::Profile;
use super::refusal;
use super::unreachable::unreachable;
use crate::failure::Failure;

/// The newest version of every operation up to this date.
const VERSIONED: &str = "application/vnd.atlas.2025-03-12+json";
/// Validation of a customer key goes to the vault and back.
const CALL: Duration = Duration::from_secs(100);
/// Items asked for at a time.
const PAGE: usize = 500;

/// Where a call goes: a part of the API, a path in it, a query.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    versioned: bool,
    path: Vec<String>,
    query: Vec<(String, String)>,
}

/// A path of the Atlas Administration API.
pub(crate) fn atlas<const N: usize>(path: [&str; N]) -> Endpoint {
    endpoint(true, ["api", "atlas", "v2"], path)
}

/// A path of keyward's own API.
pub(crate) fn own<const N: usize>(path: [&str; N]) -> Endpoint {
    endpoint(false, ["api", "keyward", "v1"], path)
}

fn endpoint<const N: usize>(versioned: bool, prefix: [&str; 3], path: [&str; N]) -> Endpoint {
    let path = prefix.into_iter().chain(path).map(ToOwned::to_owned).collect();
    Endpoint { versioned, path, query: Vec::new() }
}

impl Endpoint {
    /// With one more parameter in the query.
    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    fn url(&self, base: &Url) -> Result<Url, Failure> {
        let mut url = base.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::usage("the server's address cannot have a path", "use an https:// URL"))?
            .pop_if_empty()
            .extend(&self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

/// A server, and who asks it.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    base: Url,
    credential: Credential,
    signer: Signer,
}

impl Api {
    /// A client of the server that `profile` names. Asks nothing yet.
    pub(crate) fn new(profile: &Profile) -> Result<Self, Failure> {
        Ok(Self {
            http: http_client(profile)?,
            base: profile.url.clone(),
            credential: profile.credential.clone(),
            signer: Signer::default(),
        })
    }

    pub(crate) async fn get(&self, endpoint: Endpoint) -> Result<Value, Failure> {
        self.call(Method::GET, endpoint, None).await
    }

    pub(crate) async fn post(&self, endpoint: Endpoint, body: &impl Serialize) -> Result<Value, Failure> {
        self.send(Method::POST, endpoint, body).await
    }

    pub(crate) async fn patch(&self, endpoint: Endpoint, body: &impl Serialize) -> Result<Value, Failure> {
        self.send(Method::PATCH, endpoint, body).await
    }

    pub(crate) async fn delete(&self, endpoint: Endpoint) -> Result<(), Failure> {
        self.call(Method::DELETE, endpoint, None).await.map(|_| ())
    }

    /// Every item of a list, page by page.
    pub(crate) async fn list(&self, endpoint: Endpoint) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        for page in 1.. {
            let asked = endpoint.clone().with("pageNum", page).with("itemsPerPage", PAGE);
            let answer = self.get(asked).await?;
            let results = answer.get("results").and_then(Value::as_array).cloned().unwrap_or_default();
            let got = results.len();
            items.extend(results);
            let total = answer.get("totalCount").and_then(Value::as_u64).unwrap_or(0);
            if got < PAGE || items.len() as u64 >= total {
                break;
            }
        }
        Ok(items)
    }

    /// An access token for other programs; only a service account has one.
    pub(crate) async fn token(&self) -> Result<TokenAnswer, Failure> {
        match &self.credential {
            Credential::ServiceAccount { client_id, client_secret } => {
                token(&self.http, &self.base, client_id, client_secret).await
            }
            Credential::ApiKey { public_key, .. } => Err(Failure::new(
                format!("the API key {public_key} signs its calls and has no token"),
                "`keyward login --print-token` makes a service account",
            )),
        }
    }

    async fn send(
        &self,
        method: Method,
        endpoint: Endpoint,
        body: &impl Serialize,
    ) -> Result<Value, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Failure::new("the request is no JSON", "report it as a bug").because(&e))?;
        self.call(method, endpoint, Some(body)).await
    }

    /// Signs, sends, and signs again where the server wants a fresh signature.
    async fn call(
        &self,
        method: Method,
        endpoint: Endpoint,
        body: Option<Vec<u8>>,
    ) -> Result<Value, Failure> {
        const SIGNED: usize = 2;
        let url = endpoint.url(&self.base)?;
        let media = if endpoint.versioned { VERSIONED } else { "application/json" };
        let mut signed = 0;
        loop {
            let authorization =
                self.signer.authorize(&self.http, &self.base, &self.credential, &method, &url).await?;
            let mut request = self.http.request(method.clone(), url.clone()).header(ACCEPT, media);
            if let Some(body) = &body {
                request = request.header(CONTENT_TYPE, media).body(body.clone());
            }
            if let Some(authorization) = authorization {
                signed += 1;
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = request.send().await.map_err(|e| unreachable(&self.base, &e))?;
            let status = answer.status();
            let challenge = answer
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .find(|value| value.starts_with("Digest "))
                .map(ToOwned::to_owned);
            let body = answer.bytes().await.map_err(|e| unreachable(&self.base, &e))?;
            if status.is_success() {
                return Ok(serde_json::from_slice(&body).unwrap_or(Value::Null));
            }
            if status == StatusCode::UNAUTHORIZED && signed < SIGNED && refusal::wants_signature(&body) {
                self.signer.refused(challenge.as_deref()).await?;
                continue;
            }
            return Err(refusal::failure(status.as_u16(), &body, self.credential.name()));
        }
    }
}

/// Trusts the profile's certificate authority, else those of this machine.
pub(super) fn http_client(profile: &Profile) -> Result<reqwest::Client, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |e: &(dyn std::error::Error + 'static)| {
        Failure::new(
            "TLS to the server cannot be set up",
            "check the profile's certificate authority: `keyward login --ca-file FILE`",
        )
        .because(e)
    };
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?;
    let config = match &profile.ca_file {
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| {
                Failure::new(
                    format!("the certificate authority {} cannot be read", file.display()),
                    "name the server's with `keyward login --ca-file FILE`",
                )
                .because(&e)
            })? {
                roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            }
            config.with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(|e| failed(&e))?;
            config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
        .timeout(CALL)
        .build()
        .map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_and_keep_a_base_of_their_own() {
        let url = |endpoint: Endpoint, base: &str| endpoint.url(&base.parse().unwrap()).unwrap().to_string();
        assert_eq!(
            url(atlas(["groups", "byName", "a b/c"]), "https://h:1/"),
            "https://h:1/api/atlas/v2/groups/byName/a%20b%2Fc"
        );
        assert_eq!(
            url(own(["groups", "1", "nodes"]).with("x", "&"), "https://h/keyward/"),
            "https://h/keyward/api/keyward/v1/groups/1/nodes?x=%26"
        );
        assert_eq!(
            url(atlas(["serviceAccounts", "mdb_sa_id_1:invite"]), "https://h"),
            "https://h/api/atlas/v2/serviceAccounts/mdb_sa_id_1:invite"
        );
    }
}
