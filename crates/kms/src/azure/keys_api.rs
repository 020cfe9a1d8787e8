//! Key Vault's keys API: challenge, token, call, and its answers read.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{digest, encoding::AsDer, signature::RsaPublicKeyComponents};
use bytes::Bytes;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::{Method, header};
use keyward_model::{Class, KeyIdentifier, Timestamp, Weight};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{
    challenge::{Challenge, ChallengeError},
    classify::{SecondLook, Stage},
    config::Places,
    retry::RetryPolicy,
    rotation::rotates_after_days,
    token::{Bearer, Tokens},
    transport::{Failure, Reply, Request, Transport, host_of, wiped_body},
};
use crate::{Facts, KeyDescription, Operation};

/// The keys API's version: the newest that every cloud and every official client speaks.
const API_VERSION: &str = "2025-07-01";
/// A denial under a token that has been held for longer is asked about once more, under a new one, in seconds: a
/// token names the groups that grants may go by, as they were when it was issued.
const DENIAL_TOKEN_AGE_S: u64 = 60;
/// The one algorithm. `wrapKey`/`unwrapKey` and `encrypt`/`decrypt` make and take the same ciphertext with it.
const ALGORITHM: &str = "RSA-OAEP-256";

/// Which pair of operations a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    /// The grant we recommend: Key Vault Crypto Service Encryption User.
    Wrap,
    /// The grant that Atlas asks for.
    Encrypt,
}

impl Pair {
    pub(super) fn other(self) -> Self {
        match self {
            Pair::Wrap => Pair::Encrypt,
            Pair::Encrypt => Pair::Wrap,
        }
    }

    fn path(self, operation: Operation) -> &'static str {
        match (self, operation) {
            (_, Operation::Describe) => "",
            (Pair::Wrap, Operation::Wrap) => "/wrapkey",
            (Pair::Wrap, Operation::Unwrap) => "/unwrapkey",
            (Pair::Encrypt, Operation::Wrap) => "/encrypt",
            (Pair::Encrypt, Operation::Unwrap) => "/decrypt",
        }
    }
}

/// The keys API of the vaults of one cloud, asked as one application.
#[derive(Debug)]
pub(super) struct KeysApi {
    places: Places,
    tenant_id: String,
    transport: Transport,
    /// Vaults whose challenge was checked, by `HOST[:PORT]`.
    introduced: Mutex<HashSet<String>>,
    /// The last region a vault answered from, by `HOST[:PORT]`.
    regions: Mutex<HashMap<String, String>>,
}

impl KeysApi {
    pub(super) fn new(places: Places, tenant_id: String, transport: Transport) -> Self {
        Self { places, tenant_id, transport, introduced: Mutex::default(), regions: Mutex::default() }
    }

    /// Wraps or unwraps with `pair`.
    pub(super) async fn crypt(
        &self,
        tokens: &Tokens,
        operation: Operation,
        pair: Pair,
        key: &KeyIdentifier,
        input: &[u8],
        policy: &RetryPolicy,
    ) -> Result<(Zeroizing<Vec<u8>>, Facts), Failure> {
        let call = Call {
            operation,
            method: Method::POST,
            key,
            path: format!("/keys/{}/{}{}", key.name(), key.version(), pair.path(operation)),
            body: crypt_body(input),
        };
        let (reply, facts) = self.call(tokens, &call, policy).await?;
        match read_crypt_answer(&reply.body, key) {
            Ok(output) => Ok((output, facts)),
            Err(why) => Err(malformed(facts, why)),
        }
    }

    /// Reads one version of a key, or with `newest` the newest one of the same name.
    pub(super) async fn describe(
        &self,
        tokens: &Tokens,
        key: &KeyIdentifier,
        newest: bool,
        policy: &RetryPolicy,
    ) -> Result<(KeyDescription, Facts), Failure> {
        let version = if newest { String::new() } else { format!("/{}", key.version()) };
        let call = Call {
            operation: Operation::Describe,
            method: Method::GET,
            key,
            path: format!("/keys/{}{version}", key.name()),
            body: Bytes::new(),
        };
        let (reply, facts) = self.call(tokens, &call, policy).await?;
        let description = read_key_bundle(&reply.body).map_err(|why| malformed(facts.clone(), why))?;
        let same_version = newest || description.key_identifier.version() == key.version();
        if !same_name(&description.key_identifier, key) || !same_version {
            return Err(malformed(facts, "the answer is about another key"));
        }
        // Where the key is was decided by who configured it: no answer sends us elsewhere.
        let shown = &description.key_identifier;
        let key_identifier = KeyIdentifier::new(key.vault_url(), shown.name(), shown.version())
            .map_err(|_| malformed(facts.clone(), "the answer is about another key"))?;
        Ok((KeyDescription { key_identifier, ..description }, facts))
    }

    /// How often the vault makes a new version of the key by itself, in days.
    pub(super) async fn rotates_after_days(
        &self,
        tokens: &Tokens,
        key: &KeyIdentifier,
        policy: &RetryPolicy,
    ) -> Result<Option<u32>, Failure> {
        let call = Call {
            operation: Operation::Describe,
            method: Method::GET,
            key,
            path: format!("/keys/{}/rotationpolicy", key.name()),
            body: Bytes::new(),
        };
        let (reply, facts) = self.call(tokens, &call, policy).await?;
        rotates_after_days(&reply.body).map_err(|why| malformed(facts, why))
    }

    /// Whether the key is among the vault's deleted ones.
    pub(super) async fn look_among_deleted(&self, tokens: &Tokens, key: &KeyIdentifier) -> SecondLook {
        let call = Call {
            operation: Operation::Describe,
            method: Method::GET,
            key,
            path: format!("/deletedkeys/{}", key.name()),
            body: Bytes::new(),
        };
        match self.call(tokens, &call, &RetryPolicy::PROBE).await {
            Ok((reply, _)) if is_deleted_key(&reply.body, key) => SecondLook::AmongTheDeleted,
            Ok(_) | Err(_) => SecondLook::NotConfirmed,
        }
    }

    /// The region the key's vault last answered from.
    pub(super) fn region(&self, key: &KeyIdentifier) -> Option<String> {
        locked(&self.regions).get(key.vault_host()).cloned()
    }

    async fn call(
        &self,
        tokens: &Tokens,
        call: &Call<'_>,
        policy: &RetryPolicy,
    ) -> Result<(Reply, Facts), Failure> {
        let began = Instant::now();
        let mut tried = 0;
        loop {
            tried += 1;
            let failure = match self.attempt(tokens, call).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let asked = failure.facts.retry_after_s.map(Duration::from_secs);
            match policy.next_delay(failure.class, tried, asked, began.elapsed(), chance()) {
                Some(delay) => {
                    tracing::debug!(class = ?failure.class, tried, delay_ms = delay.as_millis(), "trying again");
                    tokio::time::sleep(delay).await;
                }
                None => return Err(failure),
            }
        }
    }

    /// One try: the challenge when this vault is new to us, a token, the call; after a 401 once more with a
    /// token that was fetched for it.
    async fn attempt(&self, tokens: &Tokens, call: &Call<'_>) -> Result<(Reply, Facts), Failure> {
        let url = call.url();
        let host = host_of(&url);
        if !self.places.is_vault(&host) {
            let message =
                format!("{host} is not a vault of the configured cloud ({})", self.places.vault_pattern());
            return Err(Failure::new(Class::Misconfigured, &url, message));
        }
        if !locked(&self.introduced).contains(&host) {
            self.introduce(call).await?;
            locked(&self.introduced).insert(host.clone());
        }
        let resource = &self.places.vault_resource;
        let mut bearer = tokens.get(resource).await?;
        let mut reply = self.send(call, &bearer).await?;
        if reply.status == 401 {
            tokens.forget(resource).await;
            let claims = match reply.challenge.as_deref().map(Challenge::parse) {
                Some(Ok(challenge)) => {
                    if let Err(error) = challenge.check(&self.places, &self.tenant_id) {
                        locked(&self.introduced).remove(&host);
                        return Err(refused_challenge(&error, &url));
                    }
                    challenge.claims()
                }
                Some(Err(_)) | None => None,
            };
            if !bearer.fresh || claims.is_some() {
                bearer = tokens.get_fresh(resource, claims.as_ref().map(|claims| claims.as_str())).await?;
                reply = self.send(call, &bearer).await?;
                if reply.status == 401 {
                    tokens.forget(resource).await;
                }
            }
        }
        let (mut class, mut facts) = reply.classify(Stage::Vault(call.operation));
        if is_access_denial(class) && !bearer.fresh && bearer.age_s > DENIAL_TOKEN_AGE_S {
            match tokens.get_fresh(resource, None).await {
                Ok(fresh) => {
                    bearer = fresh;
                    reply = self.send(call, &bearer).await?;
                    (class, facts) = reply.classify(Stage::Vault(call.operation));
                }
                // That the application was taken away is more than the denial says.
                Err(failure) if failure.class.weight() != Weight::Neutral => return Err(failure),
                // No new token is no reason to leave a definite answer aside.
                Err(_) => {}
            }
        }
        let facts = Facts { token_age_s: Some(bearer.age_s), ..facts };
        if let Some(region) = &facts.region {
            locked(&self.regions).insert(host, region.clone());
        }
        if class == Class::Success { Ok((reply, facts)) } else { Err(Failure { class, facts }) }
    }

    async fn send(&self, call: &Call<'_>, bearer: &Bearer) -> Result<Reply, Failure> {
        let mut request = match call.method {
            Method::POST => Request::post(call.url(), "application/json", call.body.clone()),
            _ => Request::get(call.url()),
        };
        request.headers.insert(header::AUTHORIZATION, bearer.header.clone());
        self.transport.send(request).await
    }

    /// Asks without a token, to learn whom the vault trusts. Costs one call per vault and process.
    async fn introduce(&self, call: &Call<'_>) -> Result<(), Failure> {
        let mut url = call.url();
        url.set_path(&format!("/keys/{}/{}", call.key.name(), call.key.version()));
        let reply = self.transport.send(Request::get(url.clone())).await?;
        if reply.status != 401 {
            let (class, facts) = reply.classify(Stage::Vault(Operation::Describe));
            // A vault that refuses before it knows who asks says nothing about the key.
            return Err(match class.weight() {
                Weight::Neutral => Failure { class, facts },
                Weight::Success | Weight::Strong | Weight::Denial => {
                    malformed(facts, "the vault answered before it knew who asks")
                }
            });
        }
        let challenge =
            reply.challenge.as_deref().ok_or(ChallengeError::NotAChallenge).and_then(Challenge::parse);
        challenge
            .and_then(|challenge| challenge.check(&self.places, &self.tenant_id))
            .map_err(|error| refused_challenge(&error, &url))
    }
}

struct Call<'a> {
    operation: Operation,
    method: Method,
    key: &'a KeyIdentifier,
    path: String,
    body: Bytes,
}

impl Call<'_> {
    fn url(&self) -> Url {
        let text = format!("{}{}?api-version={API_VERSION}", self.key.vault_url(), self.path);
        Url::parse(&text).unwrap_or_else(|_| unreachable!("a key identifier is made of URL-safe parts"))
    }
}

/// Whether the answer says that nobody granted us this.
fn is_access_denial(class: Class) -> bool {
    matches!(class, Class::DeniedByPolicy | Class::DeniedByRbac)
}

/// Azure compares the names of keys without case, and answers with the one that it knows.
fn same_name(one: &KeyIdentifier, other: &KeyIdentifier) -> bool {
    one.name().eq_ignore_ascii_case(other.name())
}

fn refused_challenge(error: &ChallengeError, url: &Url) -> Failure {
    let class = match error {
        ChallengeError::NotAChallenge => Class::Malformed,
        ChallengeError::Authority(_) | ChallengeError::Tenant { .. } | ChallengeError::Resource(_) => {
            Class::Misconfigured
        }
    };
    Failure::new(class, url, error.to_string())
}

fn malformed(facts: Facts, why: &str) -> Failure {
    Failure { class: Class::Malformed, facts: Facts { message: Some(why.to_owned()), ..facts } }
}

/// A number in 0..=1.
fn chance() -> f64 {
    let mut byte = [0; 4];
    match aws_lc_rs::rand::fill(&mut byte) {
        Ok(()) => f64::from(u32::from_le_bytes(byte)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `{"alg","value"}`, written into one buffer of the right size: it may hold a master key.
fn crypt_body(input: &[u8]) -> Bytes {
    let head = format!(r#"{{"alg":"{ALGORITHM}","value":""#);
    let encoded = BASE64URL_NOPAD.encode_len(input.len());
    let mut body = Zeroizing::new(vec![0; head.len() + encoded + 2]);
    body[..head.len()].copy_from_slice(head.as_bytes());
    BASE64URL_NOPAD.encode_mut(input, &mut body[head.len()..head.len() + encoded]);
    body[head.len() + encoded..].copy_from_slice(br#""}"#);
    wiped_body(body)
}

/// The answer of wrap, unwrap, encrypt and decrypt. Borrows: nothing of `value` is copied by the parser.
#[derive(Deserialize)]
struct CryptAnswer<'a> {
    #[serde(borrow)]
    kid: Cow<'a, str>,
    value: &'a str,
}

fn read_crypt_answer(body: &[u8], key: &KeyIdentifier) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let answer: CryptAnswer<'_> =
        serde_json::from_slice(body).map_err(|_| "the answer does not have the shape {kid, value}")?;
    let kid: KeyIdentifier = answer.kid.parse().map_err(|_| "the answer's kid is no key identifier")?;
    if !same_name(&kid, key) || kid.version() != key.version() {
        return Err("the answer was made with another key version");
    }
    let encoded = answer.value.trim_end_matches('=').as_bytes();
    let not_base64 = "the answer's value is not base64url";
    let mut output =
        Zeroizing::new(vec![0; BASE64URL_NOPAD.decode_len(encoded.len()).map_err(|_| not_base64)?]);
    BASE64URL_NOPAD.decode_mut(encoded, &mut output).map_err(|_| not_base64)?;
    if output.is_empty() { Err("the answer's value is empty") } else { Ok(output) }
}

#[derive(Deserialize)]
struct KeyBundle {
    key: JsonWebKey,
    #[serde(default)]
    attributes: KeyAttributes,
}

#[derive(Deserialize)]
struct JsonWebKey {
    kid: KeyIdentifier,
    kty: String,
    #[serde(default)]
    key_ops: Vec<String>,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct KeyAttributes {
    enabled: Option<bool>,
    nbf: Option<i64>,
    exp: Option<i64>,
    recovery_level: Option<String>,
}

fn read_key_bundle(body: &[u8]) -> Result<KeyDescription, &'static str> {
    let bundle: KeyBundle = serde_json::from_slice(body).map_err(|_| "the answer is not a key bundle")?;
    let (key_size_bits, public_key_sha256) = match (&bundle.key.n, &bundle.key.e) {
        (Some(n), Some(e)) => {
            let (bits, sha256) = read_public_key(n, e).ok_or("the answer's public key cannot be read")?;
            (Some(bits), sha256)
        }
        _ => (None, String::new()),
    };
    let moment = |seconds: i64| Timestamp::from_epoch_ms(seconds.saturating_mul(1000));
    Ok(KeyDescription {
        key_identifier: bundle.key.kid,
        kty: bundle.key.kty,
        key_size_bits,
        key_ops: bundle.key.key_ops,
        enabled: bundle.attributes.enabled.unwrap_or(true),
        not_before: bundle.attributes.nbf.map(moment),
        expires: bundle.attributes.exp.map(moment),
        recovery_level: bundle.attributes.recovery_level,
        public_key_sha256,
    })
}

/// Size in bits, and SHA-256 of the DER `SubjectPublicKeyInfo`, of a JWK's modulus and exponent.
fn read_public_key(n: &str, e: &str) -> Option<(u32, String)> {
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok();
    let modulus = decode(n)?;
    let modulus = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
    let bits = u32::try_from(modulus.len() * 8).ok()? - modulus[0].leading_zeros();
    let der = RsaPublicKeyComponents { n: modulus, e: &decode(e)?[..] }.as_der().ok()?;
    Some((bits, HEXLOWER.encode(digest::digest(&digest::SHA256, der.as_ref()).as_ref())))
}

/// A deleted key's bundle: the key's own name, and a sign that it is deleted.
fn is_deleted_key(body: &[u8], key: &KeyIdentifier) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DeletedKey {
        key: JsonWebKey,
        recovery_id: Option<String>,
        deleted_date: Option<i64>,
    }
    serde_json::from_slice::<DeletedKey>(body).is_ok_and(|deleted| {
        same_name(&deleted.key.kid, key) && (deleted.recovery_id.is_some() || deleted.deleted_date.is_some())
    })
}
