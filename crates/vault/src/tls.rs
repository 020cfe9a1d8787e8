//! TLS: a certificate authority of the vault's own, kept in its folder, and a server certificate made anew at
//! every start.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::disk::{Disk, DiskError};

/// Certificate of the authority, for clients to trust.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";

/// A failure to make or load certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Making or reading a certificate.
    #[error("could not make or read the vault's certificates")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused them.
    #[error("the TLS library refused the vault's certificates")]
    Rustls(#[from] rustls::Error),
}

/// Hosts that the certificate names: loopback, the vault's own name, and Entra's and ARM's, for use with a hosts
/// file so that clients need no setting at all.
pub fn host_names(vault_name: &str) -> Vec<String> {
    vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        format!("{vault_name}.vault.azure.net"),
        "login.microsoftonline.com".to_owned(),
        "management.azure.com".to_owned(),
    ]
}

/// TLS settings of the server; makes the authority at the first call.
pub fn server_config(disk: &Disk, vault_name: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let issuer = authority(disk, vault_name)?;
    let mut params = CertificateParams::new(host_names(vault_name))?;
    params.distinguished_name.push(DnType::CommonName, format!("{vault_name}.vault.azure.net"));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut params, 1);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authority(disk: &Disk, vault_name: &str) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let stored = (disk.read(CA_FILE)?, disk.read(CA_KEY_FILE)?);
    if let (Some(certificate), Some(key)) = stored {
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key))?;
        return Ok(Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&certificate), key)?);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("keyward development vault {vault_name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, 10);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    // The key first: a certificate without its key would be trusted and useless.
    disk.write(CA_KEY_FILE, key.serialize_pem().as_bytes())?;
    disk.write(CA_FILE, certificate.pem().as_bytes())?;
    Ok(Issuer::new(params, key))
}

/// From the start of last year on, so that a clock a little behind does no harm.
fn validity(params: &mut CertificateParams, years: i32) {
    let year = i32::from(jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).year());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + years, 12, 31);
}
