//! The TLS of a connection to mongod: whom the agent trusts, what it shows, and what it was shown.
//!
//! There is no way to switch the verification off. The certificate's chain and dates are verified in the handshake.
//! So is its name, where the name to expect is known: `server_name`, or the host that is dialled. This host's own
//! mongod is dialled at an address, though, and known to its set by a name that only it can tell: then nothing but a
//! `hello` is said before the certificate was found to be for that name ([`Trust::verify_late`]).

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    config::{EngineConfig, EngineKind},
    engine::mongod_options::{self, MongodTls, TlsMode},
};

/// A certificate, as far as a person wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// From when it holds.
    pub not_before: Timestamp,
    /// Until when it holds.
    pub not_after: Timestamp,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, signed by `{}`", self.subject, self.issuer)
    }
}

impl Shown {
    /// `None`: it is no certificate.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|list| list.value.general_names.iter().filter_map(name).collect());
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.unwrap_or_default(),
            not_before: at(certificate.validity().not_before)?,
            not_after: at(certificate.validity().not_after)?,
        })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "hosts have these two kinds of names")]
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// Why a certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// Somebody else signed it.
    Authority {
        /// Whose certificates are trusted.
        ca_file: PathBuf,
    },
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYet,
    /// It is for others.
    Name {
        /// The names, any of which would do.
        wanted: Vec<String>,
    },
    /// Anything else, in the words of the TLS library.
    Other(String),
}

/// What is wrong with the agent's side of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// Neither the agent's file nor mongod's options name an authority.
    #[error("mongod requires TLS, and nothing says whose certificates are to be trusted")]
    NoAuthority,
    /// A file.
    #[error("the file {} with {what} cannot be used", path.display())]
    File {
        /// What is in it.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate and a key that do not belong together, or a certificate that TLS cannot use.
    #[error("the certificate and key in {} cannot be used", path.display())]
    Identity {
        /// Where they are.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// What is called an authority is none.
    #[error("the authority in {} cannot be used", path.display())]
    Authority {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: rustls::client::VerifierBuilderError,
    },
    /// The provider of cryptography.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The host's name.
    #[error("`{0}` is no name that a certificate could be for")]
    Name(String),
}

impl TlsFileError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NoAuthority => lines_to_add(),
            Self::File { what, path, .. } => format!(
                "check that {} is there, is PEM, holds {what} (a key without a passphrase), and that the agent's \
                 user may read it",
                path.display()
            ),
            Self::Identity { .. } => {
                "give certificate_file under [engine.tls] a PEM file with a certificate and its own key"
                    .to_owned()
            }
            Self::Authority { .. } => {
                "give ca_file under [engine.tls] the PEM file that the members have as net.tls.CAFile"
                    .to_owned()
            }
            Self::Tls(_) => "see the agent's log".to_owned(),
            Self::Name(_) => "give server_name under [engine.tls] a name of mongod's certificate".to_owned(),
        }
    }
}

/// What the agent's file lacks to speak TLS.
pub(super) fn lines_to_add() -> String {
    "add to the agent's file: [engine.tls] with ca_file = \"/etc/mongo/ca.pem\" (mongod's net.tls.CAFile) and, where \
     mongod asks clients for a certificate, certificate_file = \"/etc/keyward/agent.pem\"; and to engine.args \
     what mongod is started with: \"--tlsMode\", \"requireTLS\", \"--tlsCertificateKeyFile\", …"
        .to_owned()
}

/// Which files say how to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    /// The authority.
    pub(super) ca_file: PathBuf,
    /// The agent's certificate and key, and whether the agent's file names it. Mongod's own, where its options do,
    /// is shown in the handshake alone and never logged in with.
    pub(super) certificate: Option<(PathBuf, bool)>,
    /// `server_name`.
    pub(super) server_name: Option<String>,
}

/// From the agent's file, else from the options of the mongod that it starts, else from those of the one that runs.
/// `None`: no TLS. Blocks.
pub(super) fn files(engine: &EngineConfig, running: &MongodTls) -> Result<Option<Files>, TlsFileError> {
    choose(engine, &mongod_options::of_engine(engine), running)
}

fn choose(
    engine: &EngineConfig,
    started: &MongodTls,
    running: &MongodTls,
) -> Result<Option<Files>, TlsFileError> {
    if engine.kind != EngineKind::Mongod {
        return Ok(None);
    }
    let section = engine.tls.clone();
    let required = [started, running].iter().any(|said| said.mode == TlsMode::Required);
    if section.is_none() && !required {
        return Ok(None);
    }
    let section = section.unwrap_or_default();
    let ca_file = section.ca_file.or_else(|| started.ca_file.clone()).or_else(|| running.ca_file.clone());
    let own = |path| (path, true);
    let of_mongod = |said: &MongodTls| said.certificate_key_file.clone().map(|path| (path, false));
    let certificate =
        section.certificate_file.map(own).or_else(|| of_mongod(started)).or_else(|| of_mongod(running));
    Ok(Some(Files {
        ca_file: ca_file.ok_or(TlsFileError::NoAuthority)?,
        certificate,
        server_name: section.server_name,
    }))
}

/// All that a handshake needs.
#[derive(Debug)]
pub(super) struct Trust {
    files: Files,
    verifier: Arc<WebPkiServerVerifier>,
    identity: Option<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Reads the files. Blocks.
    pub(super) fn read(files: Files) -> Result<Self, TlsFileError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(authorities(&files.ca_file)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|source| TlsFileError::Authority { path: files.ca_file.clone(), source })?;
        let identity = match &files.certificate {
            None => None,
            Some((path, named)) => match identity(path, &provider) {
                Ok(identity) => Some(identity),
                // Mongod's own: its key may be under a passphrase, or another user's.
                Err(error) if !named => {
                    tracing::debug!("mongod's own certificate is not used: {}", crate::node::chain(&error));
                    None
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Self { files, verifier, identity, provider })
    }

    pub(super) fn server_name(&self) -> Option<&str> {
        self.files.server_name.as_deref()
    }

    /// The certificate that the agent shows when it is asked for one.
    pub(super) fn own(&self) -> Option<Shown> {
        Shown::read(self.identity.as_ref()?.cert.first()?)
    }

    /// For one connection; with `late`, one whose certificate's name [`Self::verify_late`] is to verify.
    pub(super) fn client(&self, late: bool) -> Result<(ClientConfig, Arc<Handshake>), TlsFileError> {
        let handshake = Arc::new(Handshake {
            verifier: Arc::clone(&self.verifier),
            identity: self.identity.clone(),
            late,
            asked: AtomicBool::new(false),
            seen: Mutex::new(None),
        });
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&handshake) as _)
            .with_client_cert_resolver(Arc::clone(&handshake) as _);
        Ok((config, handshake))
    }

    /// Whether the certificate that was shown is for any of `names`; which.
    pub(super) fn verify_late(handshake: &Handshake, names: &[String]) -> Result<String, Distrust> {
        let seen = handshake.certificate();
        let parsed = seen.as_ref().and_then(|der| ParsedCertificate::try_from(der).ok());
        let fits = |name: &&String| {
            let name = ServerName::try_from(name.as_str()).ok();
            name.zip(parsed.as_ref()).is_some_and(|(name, parsed)| verify_server_name(parsed, &name).is_ok())
        };
        names.iter().find(fits).cloned().ok_or_else(|| Distrust::Name { wanted: names.to_vec() })
    }

    /// What the TLS library has against a certificate.
    pub(super) fn distrust(&self, error: &CertificateError, expected: &str) -> Distrust {
        use CertificateError as E;
        #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list grows")]
        match error {
            E::UnknownIssuer => Distrust::Authority { ca_file: self.files.ca_file.clone() },
            E::Expired | E::ExpiredContext { .. } => Distrust::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Distrust::NotYet,
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                Distrust::Name { wanted: vec![expected.to_owned()] }
            }
            other => Distrust::Other(other.to_string()),
        }
    }
}

/// One handshake: verifies, and remembers what it saw.
#[derive(Debug)]
pub(super) struct Handshake {
    verifier: Arc<WebPkiServerVerifier>,
    identity: Option<Arc<CertifiedKey>>,
    late: bool,
    asked: AtomicBool,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl Handshake {
    /// What mongod showed.
    pub(super) fn shown(&self) -> Option<Shown> {
        Shown::read(&self.certificate()?)
    }

    /// Whether it asked for a certificate and got none.
    pub(super) fn asked_in_vain(&self) -> bool {
        self.asked.load(Ordering::SeqCst) && self.identity.is_none()
    }

    /// Whether it asked for a certificate.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Handshake {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The last thing to be verified is the name: all else was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.late => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl ResolvesClientCert for Handshake {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::SeqCst);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let what = "the authority's certificate";
    let failed = |source| TlsFileError::File { what, path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).map_err(failed)? {
        roots.add(certificate).map_err(|error| failed(io::Error::other(error)))?;
    }
    Ok(roots)
}

fn identity(path: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let failed = |what| move |source| TlsFileError::File { what, path: path.to_owned(), source };
    let chain = certificates(path).map_err(failed("a certificate"))?;
    let key = PrivateKeyDer::from_pem_file(path)
        .map_err(|error| failed("a private key")(io::Error::other(error)))?;
    let key = CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| TlsFileError::Identity { path: path.to_owned(), source })?;
    Ok(Arc::new(key))
}

/// At least one.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(io::Error::other)?
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsConfig;

    fn engine(tls: Option<TlsConfig>) -> EngineConfig {
        EngineConfig { tls, ..EngineConfig::for_test(EngineKind::Mongod) }
    }

    fn said(mode: TlsMode, name: &str) -> MongodTls {
        MongodTls {
            mode,
            certificate_key_file: Some(format!("/{name}.pem").into()),
            ca_file: Some(format!("/{name}-ca.pem").into()),
        }
    }

    #[test]
    fn the_agents_file_says_more_than_the_arguments_and_these_more_than_what_runs() {
        let nothing = MongodTls::default();
        assert_eq!(choose(&engine(None), &nothing, &nothing).unwrap(), None);
        let (started, running) = (said(TlsMode::Required, "started"), said(TlsMode::Required, "running"));
        let files = choose(&engine(None), &started, &running).unwrap().unwrap();
        assert_eq!(files.ca_file, Path::new("/started-ca.pem"));
        assert_eq!(files.certificate, Some(("/started.pem".into(), false)));
        let files = choose(&engine(None), &nothing, &running).unwrap().unwrap();
        assert_eq!(files.ca_file, Path::new("/running-ca.pem"));
        let own = TlsConfig {
            ca_file: Some("/own-ca.pem".into()),
            certificate_file: Some("/own.pem".into()),
            ..TlsConfig::default()
        };
        let files = choose(&engine(Some(own)), &started, &running).unwrap().unwrap();
        assert_eq!(files.ca_file, Path::new("/own-ca.pem"));
        assert_eq!(files.certificate, Some(("/own.pem".into(), true)));
    }

    #[test]
    fn one_that_takes_both_is_asked_without_tls_until_the_file_says_so() {
        let both = said(TlsMode::Both, "both");
        assert_eq!(choose(&engine(None), &both, &both).unwrap(), None);
        let named = TlsConfig { server_name: Some("db1".into()), ..TlsConfig::default() };
        let files = choose(&engine(Some(named)), &both, &MongodTls::default()).unwrap().unwrap();
        assert_eq!(
            (files.ca_file.as_path(), files.server_name.as_deref()),
            (Path::new("/both-ca.pem"), Some("db1"))
        );
    }

    #[test]
    fn one_that_requires_it_without_an_authority_is_refused_with_the_lines_to_add() {
        let bare = MongodTls { mode: TlsMode::Required, ..MongodTls::default() };
        let error = choose(&engine(None), &bare, &MongodTls::default()).unwrap_err();
        assert!(matches!(error, TlsFileError::NoAuthority));
        assert!(error.hint().contains("[engine.tls] with ca_file = "), "{}", error.hint());
    }
}
