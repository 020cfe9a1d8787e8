//! Access tokens: v1 JWTs, RS256.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::answer::{Caller, TokenProblem};
use crate::state::{Application, Directory, UnixSeconds};

/// How far clocks may be apart, seconds.
const LEEWAY_S: i64 = 5;

/// Claims of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    aud: String,
    iss: String,
    iat: UnixSeconds,
    nbf: UnixSeconds,
    exp: UnixSeconds,
    appid: String,
    appidacr: String,
    idp: String,
    oid: String,
    sub: String,
    tid: String,
    uti: String,
    ver: String,
}

/// A token that could not be signed: the signing key is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant's signing key cannot be used")]
pub struct TokenError;

impl AccessToken {
    /// Claims of a token for `application`.
    pub fn new(
        directory: &Directory,
        application: &Application,
        audience: &str,
        now: UnixSeconds,
        lifetime_s: u32,
    ) -> Self {
        let issuer = issuer(&directory.tenant_id);
        Self {
            aud: audience.to_owned(),
            iss: issuer.clone(),
            iat: now,
            nbf: now,
            exp: now + i64::from(lifetime_s),
            appid: application.client_id.clone(),
            appidacr: "1".to_owned(),
            idp: issuer,
            oid: application.object_id.clone(),
            sub: application.object_id.clone(),
            tid: directory.tenant_id.clone(),
            uti: format!("{}-{now}", application.object_id),
            ver: "1.0".to_owned(),
        }
    }

    /// The JWT, signed with the tenant's newest key.
    pub fn sign(&self, directory: &Directory) -> Result<String, TokenError> {
        let key = directory.signing_keys.last().ok_or(TokenError)?;
        let der = key.material.pkcs1().map_err(|_| TokenError)?;
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(key.kid.clone());
        header.x5t = Some(key.kid.clone());
        jsonwebtoken::encode(&header, self, &EncodingKey::from_rsa_der(&der)).map_err(|_| TokenError)
    }
}

/// Checks signature, issuer, audience and life of a bearer token. `audiences` are what this endpoint takes.
pub fn check_token(
    directory: &Directory,
    token: &str,
    audiences: &[&str],
    now: UnixSeconds,
) -> Result<Caller, TokenProblem> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenProblem::Malformed)?;
    let accepted = issuer(&directory.tenant_id);
    // A token of another tenant is signed with a key that isn't ours: say the more useful thing first.
    let unchecked: AccessToken =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenProblem::Malformed)?;
    if unchecked.iss != accepted {
        return Err(TokenProblem::Issuer { got: unchecked.iss, accepted });
    }
    let key = directory
        .signing_keys
        .iter()
        .find(|key| header.kid.as_deref() == Some(key.kid.as_str()))
        .ok_or(TokenProblem::SigningKey)?;
    let decoding = DecodingKey::from_rsa_components(&key.material.n, &key.material.e)
        .map_err(|_| TokenProblem::SigningKey)?;
    let claims =
        verify::<AccessToken>(token, &decoding, &[Algorithm::RS256]).ok_or(TokenProblem::SigningKey)?;
    if !audiences.contains(&claims.aud.trim_end_matches('/')) {
        return Err(TokenProblem::Audience {
            got: claims.aud,
            wanted: audiences.first().copied().unwrap_or_default().to_owned(),
        });
    }
    if now >= claims.exp + LEEWAY_S {
        return Err(TokenProblem::Expired);
    }
    if now + LEEWAY_S < claims.nbf {
        return Err(TokenProblem::NotYetValid);
    }
    Ok(Caller { app_id: claims.appid, object_id: claims.oid, tenant_id: claims.tid, issuer: claims.iss })
}

/// Checks the signature only; claims are checked by the caller, on the vault's clock.
pub(super) fn verify<T: serde::de::DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithms: &[Algorithm],
) -> Option<T> {
    let mut validation = Validation::new(*algorithms.first()?);
    validation.algorithms = algorithms.to_vec();
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    jsonwebtoken::decode(token, key, &validation).ok().map(|data| data.claims)
}

fn issuer(tenant_id: &str) -> String {
    format!("https://sts.windows.net/{tenant_id}/")
}
