//! Tokens for vault and ARM: fetched with the configured credential, kept in memory for minutes.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, header};
use keyward_model::{Class, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    assertion::{self, AssertionError},
    classify::Stage,
    config::{AzureConfig, ConfigError, Credential},
    transport::{Failure, Request, Transport, wiped_body},
};

/// A token older than this is not used, in seconds: what Entra ID took back shows only in a new one. A minute
/// under the 15 minutes promised, so that a token is never older when the answer comes.
const LONGEST_AGE_S: u64 = 14 * 60;
/// A token with less than this left is not used, in seconds.
const SHORTEST_REST_S: u64 = 120;
/// No secret, certificate or federated token is longer than this, in bytes.
const LONGEST_CREDENTIAL: usize = 64 * 1024;
/// Azure's metadata service.
const METADATA_SERVICE: &str = "http://169.254.169.254";

/// A token ready to be sent.
pub(super) struct Bearer {
    /// The value of `Authorization`, marked sensitive.
    pub(super) header: HeaderValue,
    /// Seconds since it was issued.
    pub(super) age_s: u64,
    /// Whether it was fetched by this very request for it.
    pub(super) fresh: bool,
}

/// Where tokens come from. One request at a time: who waits gets the token that the other one fetched.
pub(super) struct Tokens {
    tenant_id: String,
    client_id: String,
    credential: Credential,
    authority: Url,
    transport: Transport,
    metadata_service: Option<(Transport, Url)>,
    /// By resource.
    kept: Mutex<HashMap<String, Token>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("credential", &self.credential).finish_non_exhaustive()
    }
}

struct Token {
    header: HeaderValue,
    fetched: Moment,
    age_when_fetched_s: u64,
    lifetime_s: u64,
}

impl Token {
    fn age_s(&self) -> u64 {
        self.age_when_fetched_s.saturating_add(self.fetched.elapsed().as_secs())
    }

    fn is_good(&self) -> bool {
        let held_s = self.fetched.elapsed().as_secs();
        held_s < LONGEST_AGE_S && held_s.saturating_add(SHORTEST_REST_S) < self.lifetime_s
    }

    fn bearer(&self, fresh: bool) -> Bearer {
        Bearer { header: self.header.clone(), age_s: self.age_s(), fresh }
    }
}

impl Tokens {
    pub(super) fn new(
        config: &AzureConfig,
        authority: Url,
        transport: Transport,
    ) -> Result<Self, ConfigError> {
        let metadata_service = match &config.credential {
            Credential::ManagedIdentity { endpoint, .. } => {
                let azure = || Url::parse(METADATA_SERVICE).unwrap_or_else(|_| unreachable!("a constant"));
                Some((Transport::metadata_service(config)?, endpoint.clone().unwrap_or_else(azure)))
            }
            Credential::ClientSecret(_)
            | Credential::ClientSecretFile(_)
            | Credential::Certificate { .. }
            | Credential::Federated { .. } => None,
        };
        Ok(Self {
            tenant_id: config.tenant_id.clone(),
            client_id: config.client_id.clone(),
            credential: config.credential.clone(),
            authority,
            transport,
            metadata_service,
            kept: Mutex::new(HashMap::new()),
        })
    }

    /// A token for `resource`: the one in memory when it is good, else a new one.
    pub(super) async fn get(&self, resource: &str) -> Result<Bearer, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some(token) = kept.get(resource).filter(|token| token.is_good()) {
            return Ok(token.bearer(false));
        }
        kept.remove(resource);
        let token = self.fetch(resource, None).await?;
        let bearer = token.bearer(true);
        kept.insert(resource.to_owned(), token);
        Ok(bearer)
    }

    /// A new token for `resource`, whatever is in memory; `claims` come from a challenge. The one in memory stays
    /// until the new one is there: who refuses it is told by [`Tokens::forget`].
    pub(super) async fn get_fresh(&self, resource: &str, claims: Option<&str>) -> Result<Bearer, Failure> {
        let mut kept = self.kept.lock().await;
        let token = self.fetch(resource, claims).await?;
        let bearer = token.bearer(true);
        kept.insert(resource.to_owned(), token);
        Ok(bearer)
    }

    /// Lets go of the token for `resource`.
    pub(super) async fn forget(&self, resource: &str) {
        self.kept.lock().await.remove(resource);
    }

    /// When the client certificate ends, where there is one that can be read.
    pub(super) async fn certificate_end(&self) -> Option<Timestamp> {
        match &self.credential {
            Credential::Certificate { path } => {
                assertion::certificate_end(&read_credential("certificate", path).await.ok()?)
            }
            Credential::ClientSecret(_)
            | Credential::ClientSecretFile(_)
            | Credential::ManagedIdentity { .. }
            | Credential::Federated { .. } => None,
        }
    }

    async fn fetch(&self, resource: &str, claims: Option<&str>) -> Result<Token, Failure> {
        let (transport, request, stage) = match (&self.credential, &self.metadata_service) {
            (Credential::ManagedIdentity { client_id, .. }, Some((transport, endpoint))) => (
                transport,
                metadata_request(endpoint, resource, client_id.as_deref()),
                Stage::MetadataService,
            ),
            _ => (&self.transport, self.token_request(resource, claims).await?, Stage::Directory),
        };
        let url = request.url.clone();
        let reply = transport.send(request).await?;
        let (class, facts) = reply.classify(stage);
        if class != Class::Success {
            return Err(Failure { class, facts });
        }
        let unusable = || {
            let failure = Failure::new(Class::Malformed, &url, "the answer holds no usable token");
            Failure { facts: crate::Facts { message: failure.facts.message, ..facts.clone() }, ..failure }
        };
        let answer: TokenAnswer<'_> = serde_json::from_slice(&reply.body).map_err(|_| unusable())?;
        answer.into_token(jiff::Timestamp::now()).ok_or_else(unusable)
    }

    fn token_url(&self) -> Url {
        let mut url = self.authority.clone();
        url.set_path(&format!("/{}/oauth2/v2.0/token", self.tenant_id));
        url
    }

    async fn token_request(&self, resource: &str, claims: Option<&str>) -> Result<Request, Failure> {
        let url = self.token_url();
        let mis = |message: String| Failure::new(Class::Misconfigured, &url, message);
        let scope = format!("{resource}/.default");
        let common =
            [("client_id", self.client_id.as_str()), ("grant_type", "client_credentials"), ("scope", &scope)];
        let assertion_type =
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let secret: SecretString;
        let (kind, proof) = match &self.credential {
            Credential::ClientSecret(given) => (None, ("client_secret", given.expose())),
            Credential::ClientSecretFile(path) => {
                secret = read_credential("client secret", path).await.map_err(mis)?;
                (None, ("client_secret", secret.expose_secret()))
            }
            Credential::Federated { token_file } => {
                secret = read_credential("federated token", token_file).await.map_err(mis)?;
                (Some(assertion_type), ("client_assertion", secret.expose_secret()))
            }
            Credential::Certificate { path } => {
                let pem = read_credential("certificate", path).await.map_err(mis)?;
                secret =
                    assertion::make_assertion(&pem, &self.client_id, url.as_str(), jiff::Timestamp::now())
                        .map_err(|e: AssertionError| mis(format!("{}: {e}", path.display())))?;
                (Some(assertion_type), ("client_assertion", secret.expose_secret()))
            }
            // `fetch` asks the metadata service instead.
            Credential::ManagedIdentity { .. } => return Err(mis("a managed identity has no secret".into())),
        };
        let pairs =
            common.into_iter().chain(kind).chain([proof]).chain(claims.map(|claims| ("claims", claims)));
        Ok(Request::post(url.clone(), "application/x-www-form-urlencoded", form(pairs)))
    }
}

/// One moment on two clocks: the monotonic one stops while the host sleeps, the other one may be set back.
struct Moment {
    monotonic: Instant,
    wall: jiff::Timestamp,
}

impl Moment {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: jiff::Timestamp::now() }
    }

    /// The longer of the two: a token is rather thought too old than too young.
    fn elapsed(&self) -> Duration {
        let by_wall =
            Duration::try_from(jiff::Timestamp::now().duration_since(self.wall)).unwrap_or_default();
        self.monotonic.elapsed().max(by_wall)
    }
}

/// What token endpoint and metadata service answer. Borrows: the token is copied once, into a wiped buffer.
#[derive(Deserialize)]
struct TokenAnswer<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_in: Seconds,
    /// The metadata service's: when the token, which it may have kept for hours, became valid.
    #[serde(default)]
    not_before: Option<Seconds>,
}

/// A whole number, or the text of one: the metadata service writes texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn get(&self) -> Option<u64> {
        match self {
            Seconds::Number(number) => Some(*number),
            Seconds::Text(text) => text.parse().ok(),
        }
    }
}

impl TokenAnswer<'_> {
    fn into_token(self, now: jiff::Timestamp) -> Option<Token> {
        if !self.token_type.eq_ignore_ascii_case("bearer") || self.access_token.is_empty() {
            return None;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity("Bearer ".len() + self.access_token.len()));
        bytes.extend_from_slice(b"Bearer ");
        bytes.extend_from_slice(self.access_token.as_bytes());
        let mut header = HeaderValue::from_maybe_shared(wiped_body(bytes)).ok()?;
        header.set_sensitive(true);
        let now_s = u64::try_from(now.as_second()).unwrap_or_default();
        let age_when_fetched_s = match &self.not_before {
            Some(not_before) => now_s.saturating_sub(not_before.get()?),
            None => 0,
        };
        Some(Token { header, fetched: Moment::now(), age_when_fetched_s, lifetime_s: self.expires_in.get()? })
    }
}

/// `GET /metadata/identity/oauth2/token` of Azure's instance metadata service.
fn metadata_request(endpoint: &Url, resource: &str, client_id: Option<&str>) -> Request {
    let mut url = endpoint.clone();
    url.set_path("/metadata/identity/oauth2/token");
    url.query_pairs_mut().append_pair("api-version", "2018-02-01").append_pair("resource", resource);
    if let Some(client_id) = client_id {
        url.query_pairs_mut().append_pair("client_id", client_id);
    }
    let mut request = Request::get(url);
    request.headers.insert("metadata", HeaderValue::from_static("true"));
    request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// The form's text in a buffer that never grows, so that no copy of the secret stays behind.
fn form<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Bytes {
    let longest: usize = pairs.clone().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut text = form_urlencoded::Serializer::new(String::with_capacity(longest));
    for (name, value) in pairs {
        text.append_pair(name, value);
    }
    wiped_body(Zeroizing::new(text.finish().into_bytes()))
}

/// The trimmed text of a credential file. The error is a sentence without any of it.
async fn read_credential(what: &str, path: &Path) -> Result<SecretString, String> {
    let shown = path.display();
    let bytes = tokio::fs::read(path)
        .await
        .map(Zeroizing::new)
        .map_err(|e| format!("the {what} file {shown} could not be read: {}", e.kind()))?;
    if bytes.len() > LONGEST_CREDENTIAL {
        return Err(format!("the {what} file {shown} is longer than {LONGEST_CREDENTIAL} bytes"));
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| format!("the {what} file {shown} is not text"))?.trim();
    if text.is_empty() {
        return Err(format!("the {what} file {shown} is empty"));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(held_s: i64, lifetime_s: u64) -> Token {
        // The wall clock says how long the token was held, as it does after the host slept.
        let wall = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(held_s);
        Token {
            header: HeaderValue::from_static("Bearer t"),
            fetched: Moment { monotonic: Instant::now(), wall },
            age_when_fetched_s: 0,
            lifetime_s,
        }
    }

    /// 15 minutes at most, and never near its end.
    #[test]
    fn old_tokens_and_ending_tokens_are_not_used() {
        assert!(token(0, 3599).is_good());
        assert!(token(830, 3599).is_good());
        assert!(!token(840, 3599).is_good());
        assert!(!token(100_000, 86_399).is_good());
        assert!(token(0, 130).is_good());
        assert!(!token(0, 120).is_good());
        assert!(!token(600, 700).is_good());
        assert_eq!(token(60, 3599).age_s(), 60);
    }

    /// A wall clock that was set back does not make a token young again.
    #[test]
    fn a_clock_set_back_makes_nothing_younger() {
        let mut kept = token(-3600, 3599);
        assert!(kept.age_s() < 5);
        kept.fetched.monotonic = Instant::now() - Duration::from_secs(900);
        assert!(!kept.is_good());
        assert!(kept.age_s() >= 900);
    }
}
