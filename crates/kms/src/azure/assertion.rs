//! The signed assertion by which a client certificate proves itself (Entra ID, "Microsoft identity platform
//! application authentication certificate credentials").

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{KeyPair, RSA_PSS_SHA256, RsaKeyPair},
};
use data_encoding::BASE64URL_NOPAD;
use keyward_model::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use x509_parser::public_key::PublicKey;

/// How far into the past and the future an assertion is good, in seconds, so that a clock that is a few minutes wrong,
/// either way, does no harm. Together under the ten minutes that Entra ID allows.
const HALF_LIFE_S: i64 = 290;

/// Why no assertion could be made from a certificate file.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssertionError {
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    #[error("holds no private key in PEM form")]
    NoPrivateKey,
    #[error("the private key is not an RSA key of 2048 to 8192 bits")]
    NotRsa,
    #[error("the private key does not belong to the first certificate")]
    NotItsKey,
    #[error("the private key could not sign")]
    CannotSign,
}

/// A JWT, signed PS256, that says that we are `client_id`, to whoever is `audience`.
pub(super) fn make_assertion(
    pem: &SecretString,
    client_id: &str,
    audience: &str,
    now: jiff::Timestamp,
) -> Result<SecretString, AssertionError> {
    let pem = pem.expose_secret().as_bytes();
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| AssertionError::NoCertificate)?;
    let private_key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| AssertionError::NoPrivateKey)?;
    let key_pair = match &private_key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(_) | _ => return Err(AssertionError::NotRsa),
    }
    .map_err(|_| AssertionError::NotRsa)?;
    if !belongs(&certificate, &key_pair) {
        return Err(AssertionError::NotItsKey);
    }
    let thumbprint = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, &certificate).as_ref());
    let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint });
    let claims = json!({
        "aud": audience,
        "iss": client_id,
        "sub": client_id,
        "jti": uuid::Uuid::new_v4(),
        "iat": now.as_second() - HALF_LIFE_S,
        "nbf": now.as_second() - HALF_LIFE_S,
        "exp": now.as_second() + HALF_LIFE_S,
    });
    let mut token = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let mut signature = vec![0; key_pair.public_modulus_len()];
    key_pair
        .sign(&RSA_PSS_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
        .map_err(|_| AssertionError::CannotSign)?;
    token.push('.');
    token.push_str(&BASE64URL_NOPAD.encode(&signature));
    Ok(SecretString::from(token))
}

/// Whether the certificate is of this key pair: Entra ID would only say that the signature is wrong.
fn belongs(certificate: &[u8], key_pair: &RsaKeyPair) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let Ok(PublicKey::RSA(shown)) = certificate.public_key().parsed() else { return false };
    let without_zeros =
        |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    let own = key_pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
    without_zeros(shown.modulus) == own
}

/// When the first certificate in `pem` ends.
pub(super) fn certificate_end(pem: &SecretString) -> Option<Timestamp> {
    let certificate = CertificateDer::from_pem_slice(pem.expose_secret().as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    Some(Timestamp::from_epoch_ms(certificate.validity().not_after.timestamp().saturating_mul(1000)))
}
