//! Client assertions: signed by a registered certificate, or by a trusted outside issuer.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use x509_parser::public_key::PublicKey;

use super::{TokenRefusal, TokenRequest};
use crate::state::{Application, ApplicationCertificate, UnixSeconds};

/// How far clocks may be apart, seconds.
const LEEWAY_S: f64 = 5.0;

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    /// Text or a list of texts.
    aud: Value,
    /// Seconds since the epoch; RFC 7519 allows a fraction, and Python's client sends one.
    exp: f64,
    nbf: Option<f64>,
}

impl Claims {
    fn is_for(&self, accepted: impl Fn(&str) -> bool) -> bool {
        match &self.aud {
            Value::String(one) => accepted(one),
            Value::Array(many) => many.iter().filter_map(Value::as_str).any(accepted),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        }
    }

    fn is_in_time(&self, now: UnixSeconds) -> bool {
        // Exact up to the year 287,396,000.
        let now = now as f64;
        now < self.exp + LEEWAY_S && self.nbf.is_none_or(|nbf| nbf <= now + LEEWAY_S)
    }
}

/// Checks an assertion of either kind: one that the application issued itself is checked against its
/// certificates, any other against its federated credentials.
pub(super) fn check(
    application: &Application,
    assertion: &str,
    request: &TokenRequest<'_>,
) -> Result<(), TokenRefusal> {
    const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    if request.field("client_assertion_type") != Some(TYPE) {
        return Err(TokenRefusal::FieldMissing { field: "client_assertion_type" });
    }
    let unchecked: Claims = jsonwebtoken::dangerous::insecure_decode_claims(assertion)
        .map_err(|_| TokenRefusal::AssertionMalformed)?;
    if unchecked.iss == application.client_id {
        check_certificate(application, assertion, request)
    } else {
        check_federated(application, assertion, &unchecked, request.now)
    }
}

fn check_certificate(
    application: &Application,
    assertion: &str,
    request: &TokenRequest<'_>,
) -> Result<(), TokenRefusal> {
    let client_id = || application.client_id.clone();
    let signature = || TokenRefusal::AssertionSignature { client_id: client_id() };
    let header = jsonwebtoken::decode_header(assertion).map_err(|_| TokenRefusal::AssertionMalformed)?;
    let certificate = application
        .certificates
        .iter()
        .find(|c| {
            header.x5t_s256.as_deref().is_some_and(|t| t.trim_end_matches('=') == c.sha256)
                || header.x5t.as_deref().is_some_and(|t| t.trim_end_matches('=') == c.sha1)
        })
        .ok_or_else(signature)?;
    let claims = verify(assertion, &certificate.n, &certificate.e).ok_or_else(signature)?;
    if claims.sub != application.client_id {
        return Err(signature());
    }
    let v2 = format!("{}/{}/oauth2/v2.0/token", request.base, request.tenant);
    let v1 = format!("{}/{}/oauth2/token", request.base, request.tenant);
    if !claims.is_for(|aud| aud == v2 || aud == v1) {
        return Err(TokenRefusal::AssertionAudience);
    }
    if !claims.is_in_time(request.now) {
        return Err(TokenRefusal::AssertionTime);
    }
    if request.now < certificate.not_before || request.now >= certificate.not_after {
        return Err(TokenRefusal::CertificateExpired { client_id: client_id() });
    }
    Ok(())
}

fn check_federated(
    application: &Application,
    assertion: &str,
    unchecked: &Claims,
    now: UnixSeconds,
) -> Result<(), TokenRefusal> {
    let trusted = application
        .federated
        .iter()
        .find(|f| {
            f.issuer == unchecked.iss
                && f.subject == unchecked.sub
                && unchecked.is_for(|audience| audience == f.audience)
        })
        .ok_or_else(|| TokenRefusal::NoFederatedCredential {
            issuer: unchecked.iss.clone(),
            subject: unchecked.sub.clone(),
        })?;
    let claims = verify(assertion, &trusted.n, &trusted.e)
        .ok_or_else(|| TokenRefusal::AssertionSignature { client_id: application.client_id.clone() })?;
    if claims.is_in_time(now) { Ok(()) } else { Err(TokenRefusal::AssertionTime) }
}

fn verify(assertion: &str, n: &str, e: &str) -> Option<Claims> {
    let key = DecodingKey::from_rsa_components(n, e).ok()?;
    super::token::verify(assertion, &key, &[Algorithm::RS256, Algorithm::PS256])
}

/// Reads an RSA certificate (PEM) that is to be registered on an application. The error says what is wrong.
pub fn read_certificate(pem: &str) -> Result<ApplicationCertificate, String> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| "not a PEM certificate".to_owned())?;
    let certificate = pem.parse_x509().map_err(|_| "not an X.509 certificate".to_owned())?;
    let public = certificate.public_key().parsed().map_err(|_| "its public key cannot be read".to_owned())?;
    let PublicKey::RSA(rsa) = public else { return Err("its key is not an RSA key".to_owned()) };
    let unsigned = |bytes: &[u8]| -> String {
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
        BASE64URL_NOPAD.encode(&bytes[first..])
    };
    let der = pem.contents.as_slice();
    Ok(ApplicationCertificate {
        sha256: BASE64URL_NOPAD.encode(digest(&SHA256, der).as_ref()),
        sha1: BASE64URL_NOPAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        n: unsigned(rsa.modulus),
        e: unsigned(rsa.exponent),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}
