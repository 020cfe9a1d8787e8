//! The authority of agents' certificates: its key is sealed in the store, so that all servers on it share it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::{Timestamp, id::NodeId};
use keyward_store::{Change, Store};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName as Subject, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use serde::{Deserialize, Serialize};
use url::Url;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::LinkError;
use crate::{app::make_bytes, certificate::hosts};

/// The store's name of the authority's key.
const OWNER: &str = "ca:agents";
/// How long a node's certificate holds.
const CERTIFICATE_MS: i64 = 24 * 3_600_000;
/// A node's clock may be behind ours.
const BEHIND_MS: i64 = 3_600_000;
/// How a certificate names its node.
const NODE_URI: &str = "keyward:node:";

/// The authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    certificate: String,
    key: String,
}

/// What a peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) node_id: NodeId,
    pub(super) public_key_sha256: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Shown {
    /// Whether it holds at `now`.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// A certificate request that was read and is signed by its own key.
pub(super) struct Request {
    params: CertificateSigningRequestParams,
    pub(super) public_key_sha256: String,
}

impl Request {
    pub(super) fn parse(pem: &str) -> Result<Self, rcgen::Error> {
        let params = CertificateSigningRequestParams::from_pem(pem)?;
        let public_key_sha256 = sha256(&params.public_key.subject_public_key_info());
        Ok(Self { params, public_key_sha256 })
    }
}

impl Authority {
    /// Makes the authority of a new server.
    pub(crate) async fn make(change: &mut Change) -> Result<(), LinkError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "keyward agents");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Trusted by its digest, not by its dates: no host's clock may cut a node off.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let sealed = Sealed { certificate: certificate.pem(), key: key.serialize_pem() };
        let text = Zeroizing::new(serde_json::to_vec(&sealed).map_err(|_| LinkError::Damaged)?);
        Ok(change.put_secret(OWNER, &text).await?)
    }

    /// The authority that `keyward server init` made.
    pub(super) async fn open(store: &Store) -> Result<Self, LinkError> {
        let secret = store.read().await?.secret(OWNER).await?.ok_or(LinkError::NoAuthority)?;
        let sealed: Sealed = serde_json::from_slice(&secret).map_err(|_| LinkError::Damaged)?;
        let key = KeyPair::from_pem(&sealed.key)?;
        let certificate =
            CertificateDer::from_pem_slice(sealed.certificate.as_bytes()).map_err(|_| LinkError::Damaged)?;
        let issuer = Issuer::from_ca_cert_pem(&sealed.certificate, key)?;
        Ok(Self { issuer, certificate, pem: sealed.certificate })
    }

    /// SHA-256 of its certificate, hexadecimal: what join tokens name.
    pub(super) fn sha256(&self) -> String {
        sha256(&self.certificate)
    }

    /// Its certificate as PEM.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a node's key, and when it ends.
    pub(super) fn issue(
        &self,
        request: Request,
        node_id: NodeId,
        now: Timestamp,
    ) -> Result<(String, Timestamp), rcgen::Error> {
        let not_after = Timestamp::from_epoch_ms(now.epoch_ms() + CERTIFICATE_MS);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("keyward node {node_id}"));
        params.subject_alt_names = vec![SanType::URI(format!("{NODE_URI}{node_id}").try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&make_bytes::<16>()));
        params.use_authority_key_identifier_extension = true;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since_epoch(now.epoch_ms() - BEHIND_MS);
        params.not_after = epoch + since_epoch(not_after.epoch_ms());
        // Nothing but the key is taken from the request.
        let request = CertificateSigningRequestParams { params, public_key: request.params.public_key };
        Ok((request.signed_by(&self.issuer)?.pem(), not_after))
    }

    /// TLS of the agents' listener: TLS 1.3, with a certificate of this authority, its key in memory only.
    pub(super) fn server_config(&self, listen: IpAddr, url: Option<&Url>) -> Result<ServerConfig, LinkError> {
        let mut params = CertificateParams::new(hosts(listen, url))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "keyward server");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // It ends with the process.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyTime(verifier)))
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A connection lasts for days: nothing is gained by resuming one, and a ticket costs memory.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(tls)
    }
}

/// Reads a peer's certificate, which the handshake has verified up to its dates.
pub(super) fn read_shown(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let node_id = names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        uri.strip_prefix(NODE_URI)?.parse().ok()
    })?;
    let at = |seconds: i64| Timestamp::from_epoch_ms(seconds.saturating_mul(1000));
    Some(Shown {
        node_id,
        public_key_sha256: sha256(parsed.tbs_certificate.subject_pki.raw),
        not_before: at(parsed.validity().not_before.timestamp()),
        not_after: at(parsed.validity().not_after.timestamp()),
    })
}

/// Accepts certificates of the authority whatever the time: whether one has ended matters to what is asked, and is
/// judged there, by the server's own clock. An ended one may still be renewed.
#[derive(Debug)]
struct AnyTime(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyTime {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[Subject] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let begin = X509Certificate::from_der(end_entity)
            .ok()
            .and_then(|(_, parsed)| u64::try_from(parsed.validity().not_before.timestamp()).ok());
        let at = begin.map_or(now, |begin| UnixTime::since_unix_epoch(Duration::from_secs(begin)));
        self.0.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

fn since_epoch(ms: i64) -> Duration {
    Duration::from_secs(u64::try_from(ms.div_euclid(1000)).unwrap_or_default())
}
