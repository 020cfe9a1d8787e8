//! The authority of agents' certificates: its key is sealed in the store, so that all servers on it share it.
//!
//! Where it has replaced another one, both are trusted until that one is let go. The former's key is gone then; what is
//! left of it is its certificate, under which nodes still have theirs, and its last word: the present authority's key
//! certified by it, by which nodes that know the former alone recognize this server.

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use keyward_model::{Timestamp, id::NodeId};
use keyward_store::{Change, Tx};
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
use zeroize::{Zeroize as _, Zeroizing};

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
    present: Certificate,
    made_at: Option<Timestamp>,
    former: Option<FormerAuthority>,
    trusted: String,
    trusted_sha256: String,
}

/// The one before it, while both are trusted.
pub(super) struct FormerAuthority {
    certificate: Certificate,
    /// The present one's key, certified by it.
    cross: CertificateDer<'static>,
    pub(super) replaced_at: Timestamp,
}

/// A certificate of an authority.
struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    sha256: String,
    /// Its name, as the certificates under it say it.
    subject: Vec<u8>,
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    certificate: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<SealedFormer>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealedFormer {
    certificate: String,
    cross: String,
    replaced_at: Timestamp,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What a peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) node_id: NodeId,
    pub(super) public_key_sha256: String,
    /// The name of the authority that it is under.
    issuer: Vec<u8>,
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

impl Certificate {
    fn read(pem: &str) -> Result<Self, LinkError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| LinkError::Damaged)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| LinkError::Damaged)?;
        let subject = parsed.subject().as_raw().to_vec();
        Ok(Self { pem: pem.to_owned(), sha256: sha256(&der), subject, der: der.clone() })
    }
}

impl FormerAuthority {
    /// SHA-256 of its certificate, hexadecimal.
    pub(super) fn sha256(&self) -> &str {
        &self.certificate.sha256
    }
}

/// A new authority: what it is made of, its key, and its own certificate.
fn make() -> Result<(CertificateParams, KeyPair, String), LinkError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A name of its own: two authorities that are trusted at once are told apart by it.
    let name = format!("keyward agents {}", data_encoding::HEXLOWER.encode(&make_bytes::<6>()));
    params.distinguished_name.push(DnType::CommonName, name);
    // Under it come nodes and servers, and for a while the authority that replaces it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Trusted by its digest, not by its dates: no host's clock may cut a node off.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((params, key, certificate))
}

async fn put(change: &mut Change, sealed: &Sealed) -> Result<(), LinkError> {
    let text = Zeroizing::new(serde_json::to_vec(sealed).map_err(|_| LinkError::Damaged)?);
    Ok(change.put_secret(OWNER, &text).await?)
}

async fn get(tx: &mut Tx) -> Result<Sealed, LinkError> {
    let secret = tx.secret(OWNER).await?.ok_or(LinkError::NoAuthority)?;
    serde_json::from_slice(&secret).map_err(|_| LinkError::Damaged)
}

impl Authority {
    /// Makes the authority of a new server.
    pub(super) async fn make(change: &mut Change, now: Timestamp) -> Result<(), LinkError> {
        let (_, key, certificate) = make()?;
        let sealed = Sealed { certificate, key: key.serialize_pem(), made_at: Some(now), former: None };
        put(change, &sealed).await
    }

    /// Puts a new one in its place and trusts both from then on. The key of this one is gone with the change.
    pub(super) async fn replace(change: &mut Change, now: Timestamp) -> Result<Self, LinkError> {
        let before = get(change).await?;
        let (mut params, key, certificate) = make()?;
        let issuer = Issuer::from_ca_cert_pem(&before.certificate, KeyPair::from_pem(&before.key)?)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let cross = params.signed_by(&key, &issuer)?.pem();
        let former = SealedFormer { certificate: before.certificate.clone(), cross, replaced_at: now };
        let sealed =
            Sealed { certificate, key: key.serialize_pem(), made_at: Some(now), former: Some(former) };
        put(change, &sealed).await?;
        Self::read(&sealed)
    }

    /// Trusts the former one no more.
    pub(super) async fn let_former_go(change: &mut Change) -> Result<(), LinkError> {
        let mut sealed = get(change).await?;
        sealed.former = None;
        put(change, &sealed).await
    }

    /// The authority that `keyward server init` made, or the one that has replaced it.
    pub(super) async fn open(tx: &mut Tx) -> Result<Self, LinkError> {
        Self::read(&get(tx).await?)
    }

    fn read(sealed: &Sealed) -> Result<Self, LinkError> {
        let issuer = Issuer::from_ca_cert_pem(&sealed.certificate, KeyPair::from_pem(&sealed.key)?)?;
        let former = sealed.former.as_ref().map(|former| {
            let cross = CertificateDer::from_pem_slice(former.cross.as_bytes());
            Ok::<_, LinkError>(FormerAuthority {
                certificate: Certificate::read(&former.certificate)?,
                cross: cross.map_err(|_| LinkError::Damaged)?,
                replaced_at: former.replaced_at,
            })
        });
        let (present, former) = (Certificate::read(&sealed.certificate)?, former.transpose()?);
        let trusted =
            format!("{}{}", present.pem, former.as_ref().map_or("", |former| &former.certificate.pem));
        let trusted_sha256 = sha256(trusted.as_bytes());
        Ok(Self { issuer, present, made_at: sealed.made_at, former, trusted, trusted_sha256 })
    }

    /// SHA-256 of its certificate, hexadecimal: what join tokens name.
    pub(super) fn sha256(&self) -> &str {
        &self.present.sha256
    }

    /// When it was made, as far as that is known.
    pub(super) fn made_at(&self) -> Option<Timestamp> {
        self.made_at
    }

    /// The one before it, while both are trusted.
    pub(super) fn former(&self) -> Option<&FormerAuthority> {
        self.former.as_ref()
    }

    /// What agents are to trust, PEM.
    pub(super) fn trusted(&self) -> &str {
        &self.trusted
    }

    /// SHA-256 of [`Self::trusted`], hexadecimal.
    pub(super) fn trusted_sha256(&self) -> &str {
        &self.trusted_sha256
    }

    /// Whether neither of the two has been replaced or let go between them.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.trusted == other.trusted
    }

    /// SHA-256 of the authority that the certificate is under, if it is trusted.
    pub(super) fn above(&self, shown: &Shown) -> Option<&str> {
        let former = self.former.as_ref().map(|former| &former.certificate);
        let mut trusted = std::iter::once(&self.present).chain(former);
        trusted.find(|one| one.subject == shown.issuer).map(|one| one.sha256.as_str())
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
        // A joining node looks for the authority that its token names, and one that was away for a way to the one it
        // knows.
        let mut chain = vec![certificate.der().clone(), self.present.der.clone()];
        if let Some(former) = &self.former {
            chain.extend([former.cross.clone(), former.certificate.der.clone()]);
        }
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.present.der.clone())?;
        if let Some(former) = &self.former {
            roots.add(former.certificate.der.clone())?;
        }
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
        issuer: parsed.issuer().as_raw().to_vec(),
        not_before: at(parsed.validity().not_before.timestamp()),
        not_after: at(parsed.validity().not_after.timestamp()),
    })
}

/// Accepts certificates of the authorities whatever the time: whether one has ended matters to what is asked, and is
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
