//! The certificate of the API: the operator's, or one of an authority of the server's own.

mod keeping;

use std::{
    io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyward_model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

pub use keeping::CertificateStatus;
pub(crate) use keeping::{Keeper, Shown};

use crate::Config;

/// How long the own authority is good for, days: it is in clients' trust stores.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a certificate of it is good for, days. It is made anew at each start, and before it ends.
const CERTIFICATE_DAYS: i64 = 397;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that holds none.
    #[error("{} holds no {what}", path.display())]
    Contents {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Making one.
    #[error("a certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// The TLS library refused it.
    #[error("the TLS library refused the certificate")]
    Tls(#[from] rustls::Error),
}

impl CertificateError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the path and who may read it",
            Self::Contents { .. } => {
                "give PEM files: the chain with the server's certificate first, and its key"
            }
            Self::Make(_) => "check the host names in public_url and the files of the API's authority",
            Self::Tls(_) => "check that certificate and key belong together",
        }
    }
}

/// TLS of the API's listener.
fn tls((chain, key): Identity) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Makes the own authority of the API if there is none.
pub(crate) fn make_authority(config: &Config, now: Timestamp) -> Result<(), CertificateError> {
    let (certificate_file, key_file) = (config.ca_file(), authority_key_file(config));
    if certificate_file.exists() && key_file.exists() {
        return Ok(());
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "keyward API");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, AUTHORITY_DAYS);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&certificate_file, &certificate.pem(), 0o644)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn given(certificate: &Path, key: &Path) -> Result<Identity, CertificateError> {
    let no = |path: &Path, what| CertificateError::Contents { path: path.to_owned(), what };
    let pem = read(certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| no(certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(no(certificate, "certificate"));
    }
    let key_pem = zeroize::Zeroizing::new(read(key)?);
    let found = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| no(key, "private key"))?;
    Ok((chain, found))
}

/// A certificate of the own authority, which is there.
fn issue(config: &Config, hosts: Vec<String>, now: Timestamp) -> Result<Identity, CertificateError> {
    let key = KeyPair::from_pem(&String::from_utf8_lossy(&read(&authority_key_file(config))?))?;
    let issuer = Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&read(&config.ca_file())?), key)?;
    let common_name = hosts.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut params, now, CERTIFICATE_DAYS);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

/// What the own certificate names: loopback, the address listened on, and the public URL's host.
pub(crate) fn hosts(listen: IpAddr, public: Option<&url::Url>) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let public = public.and_then(|url| url.host_str()).map(|host| host.trim_matches(['[', ']']).to_owned());
    let listen = (!listen.is_unspecified()).then(|| listen.to_string());
    for host in [listen, public].into_iter().flatten() {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn authority_key_file(config: &Config) -> PathBuf {
    config.data_dir.join("api-ca-key.pem")
}

fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |offset: i64| {
        let at = jiff::Timestamp::from_second(now.0.as_second() + offset * 86_400).unwrap_or(now.0);
        let date = jiff::tz::Offset::UTC.to_datetime(at).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month() as u8, date.day() as u8)
    };
    // A client's clock may be behind.
    (params.not_before, params.not_after) = (day(-1), day(days));
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::File { doing: "write", path: path.to_owned(), source };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
