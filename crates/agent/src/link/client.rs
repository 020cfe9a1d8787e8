//! The calls to the server: TLS 1.3 under its own authority, the node's certificate, bounded answers.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::sync::{AgentRefusal, Enrolled, Enrolment, Leave, Left, SyncAnswer, SyncRequest};
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::node::chain;

/// No answer of the server is longer than this, in bytes.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;
/// The longest a call may take, beyond what the server was asked to wait.
const CALL: Duration = Duration::from_secs(30);

/// Why a call to the server gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// TLS or HTTP could not be set up, with what is stored.
    #[error("the stored certificate cannot be used: {0}")]
    Setup(String),
    /// No answer came.
    #[error("{url} does not answer: {reason}")]
    NoAnswer {
        /// The server.
        url: String,
        /// Why.
        reason: String,
    },
    /// Who answers is not under an authority that this node trusts.
    #[error("{url} is not under the authority that this node knows: {reason}")]
    UnknownAuthority {
        /// The server.
        url: String,
        /// Why.
        reason: String,
    },
    /// Something else than an answer came.
    #[error("{url} answered something that cannot be read: {reason}")]
    Unreadable {
        /// The server.
        url: String,
        /// What.
        reason: String,
    },
    /// The server refused.
    #[error("{url} refused: {refusal}")]
    Refused {
        /// The server.
        url: String,
        /// Why.
        refusal: AgentRefusal,
    },
}

impl CallError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Setup(_) => {
                "join again: make a token on the server, then keyward node join --token T".to_owned()
            }
            Self::NoAnswer { .. } => {
                "check the address, the network and both hosts' clocks; the node works on meanwhile"
                    .to_owned()
            }
            Self::UnknownAuthority { .. } => "its authority was replaced while this node was away, or somebody else \
                                              answers there: make a token on the server you mean, then keyward node \
                                              join --token T"
                .to_owned(),
            Self::Unreadable { .. } => "check that the address is the server's for agents".to_owned(),
            Self::Refused { refusal, .. } => refusal.hint.clone(),
        }
    }
}

/// Calls one server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    /// SHA-256 of the authorities that it trusts, as they are kept.
    authorities_sha256: Option<String>,
}

impl Client {
    /// For enrolling: trusts whatever certificate stands under the authority with this digest.
    pub(super) fn pinned(base: &Url, ca_sha256: &str) -> Result<Self, CallError> {
        let provider = provider();
        let verifier = Pinned { ca_sha256: ca_sha256.to_owned(), provider: Arc::clone(&provider) };
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            // rustls' word for any verifier that is not built in; this one ends in the built-in one.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Self::new(base, tls)
    }

    /// With the node's certificate.
    pub(super) fn with_certificate(
        base: &Url,
        authorities: &str,
        certificate: &str,
        key: &str,
    ) -> Result<Self, CallError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(authority.map_err(setup)?).map_err(setup)?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(setup)?;
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.map_err(setup)?, key)
            .map_err(setup)?;
        let client = Self::new(base, tls)?;
        Ok(Self { authorities_sha256: Some(sha256(authorities.as_bytes())), ..client })
    }

    /// SHA-256 of the authorities that it trusts, as they are kept.
    pub(super) fn authorities_sha256(&self) -> Option<String> {
        self.authorities_sha256.clone()
    }

    fn new(base: &Url, tls: rustls::ClientConfig) -> Result<Self, CallError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            // The server has an authority of its own: no proxy may stand in between.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(75))
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(setup)?;
        Ok(Self { http, base: base.clone(), authorities_sha256: None })
    }

    pub(super) async fn enrol(&self, secret: &str, body: &Enrolment) -> Result<Enrolled, CallError> {
        self.call("agent/v1/enrol", Some(secret), body, CALL).await
    }

    pub(super) async fn renew(&self, body: &Enrolment) -> Result<Enrolled, CallError> {
        self.call("agent/v1/renew", None, body, CALL).await
    }

    pub(super) async fn leave(&self, body: &Leave) -> Result<Left, CallError> {
        self.call("agent/v1/leave", None, body, CALL).await
    }

    pub(super) async fn sync(&self, body: &SyncRequest) -> Result<SyncAnswer, CallError> {
        let limit = CALL + Duration::from_secs(body.wait_s.into());
        self.call("agent/v1/sync", None, body, limit).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        bearer: Option<&str>,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, CallError> {
        let url = self.base.origin().ascii_serialization();
        let no_answer = |reason: String| CallError::NoAnswer { url: url.clone(), reason };
        let unreadable = |reason: String| CallError::Unreadable { url: url.clone(), reason };
        let target = self.base.join(path).map_err(|error| no_answer(error.to_string()))?;
        let request = self.http.post(target).json(body);
        let request = match bearer {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        };
        let exchange = async {
            let mut response = request.send().await.map_err(|error| {
                let unknown = unknown_authority(&error);
                let reason = chain(&error.without_url());
                if unknown {
                    CallError::UnknownAuthority { url: url.clone(), reason }
                } else {
                    no_answer(reason)
                }
            })?;
            let status = response.status();
            let mut bytes = Vec::new();
            while let Some(chunk) =
                response.chunk().await.map_err(|error| no_answer(chain(&error.without_url())))?
            {
                if bytes.len() + chunk.len() > LONGEST_ANSWER {
                    return Err(unreadable(format!("more than {LONGEST_ANSWER} bytes")));
                }
                bytes.extend_from_slice(&chunk);
            }
            if status.is_success() {
                return serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()));
            }
            Err(match serde_json::from_slice::<AgentRefusal>(&bytes) {
                Ok(refusal) => CallError::Refused { url: url.clone(), refusal },
                Err(_) => unreadable(format!("status {status}")),
            })
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_answer(format!("no answer within {} s", limit.as_secs()))),
        }
    }
}

/// Whether one of `authorities` (PEM) has this digest.
pub(super) fn names_authority(authorities: &str, ca_sha256: &str) -> bool {
    CertificateDer::pem_slice_iter(authorities.as_bytes())
        .flatten()
        .any(|certificate| sha256(&certificate) == ca_sha256)
}

/// Whether the server stands under an authority that the node does not know.
fn unknown_authority(error: &reqwest::Error) -> bool {
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| match error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        Some(inside) => Some(inside as &(dyn std::error::Error + 'static)),
        None => error.source(),
    });
    chain.filter_map(|error| error.downcast_ref::<rustls::Error>()).any(|error| {
        // Another authority of the same name shows as a bad signature.
        let unknown = [CertificateError::UnknownIssuer, CertificateError::BadSignature];
        matches!(error, rustls::Error::InvalidCertificate(why) if unknown.contains(why))
    })
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn setup(error: impl std::error::Error) -> CallError {
    CallError::Setup(chain(&error))
}

/// Accepts a server whose chain carries the authority that the join token names.
#[derive(Debug)]
struct Pinned {
    ca_sha256: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|certificate| sha256(certificate) == self.ca_sha256);
        let Some(pinned) = pinned else { return Err(CertificateError::UnknownIssuer.into()) };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
