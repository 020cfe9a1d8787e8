//! One HTTP exchange: bounded in time and size, its faults told apart, its buffers wiped.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::{CertificateDer, pem, pem::PemObject};
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use super::{
    classify::{Answer, Fault, Stage, classify, shorten},
    config::{AzureConfig, Cloud, ConfigError},
    names::{HostNames, Names, NoAddress},
};
use crate::Facts;
use keyward_model::Class;

/// No answer that keyward reads is longer than this, in bytes.
const LONGEST_BODY: usize = 256 * 1024;

/// A class with its facts: why something did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) facts: Facts,
}

impl Failure {
    /// A failure of our own finding; `message` holds nothing secret.
    pub(super) fn new(class: Class, host: &Url, message: impl Into<String>) -> Self {
        let message = Some(shorten(&message.into()));
        Self { class, facts: Facts { host: Some(host_of(host)), message, ..Facts::default() } }
    }
}

/// What to send.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Wiped when the last user lets go of it, see [`wiped_body`].
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn delete(url: Url) -> Self {
        Self { method: Method::DELETE, ..Self::get(url) }
    }

    pub(super) fn put(url: Url, content_type: &'static str, body: Bytes) -> Self {
        Self { method: Method::PUT, ..Self::post(url, content_type, body) }
    }

    pub(super) fn post(url: Url, content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { method: Method::POST, url, headers, body }
    }
}

/// What came back, whole.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// `WWW-Authenticate`.
    pub(super) challenge: Option<String>,
    host: String,
    region: Option<String>,
    request_id: Option<String>,
    retry_after_s: Option<u64>,
}

impl Reply {
    /// Class and facts, the headers' included.
    pub(super) fn classify(&self, stage: Stage) -> (Class, Facts) {
        let (class, facts) = classify(stage, Ok(Answer { status: self.status, body: &self.body }));
        let facts = Facts {
            host: Some(self.host.clone()),
            region: self.region.clone(),
            request_id: self.request_id.clone().or(facts.request_id),
            retry_after_s: self.retry_after_s,
            ..facts
        };
        (class, facts)
    }
}

/// Wipes the bytes when the last user of the body lets go of it.
///
/// The copies that the HTTP and TLS layers make while sending are freed, not wiped, by them: an allocator that
/// wipes on free takes care of those.
pub(super) fn wiped_body(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    struct Owner(Zeroizing<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(bytes))
}

/// The HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
    timeout: Duration,
    admitted: Admitted,
}

impl Transport {
    /// For Entra ID and ARM: TLS only.
    pub(super) fn secure(config: &AzureConfig, names: Arc<dyn Names>) -> Result<Self, ConfigError> {
        Self::over_tls(config, names, Admitted::All)
    }

    /// For vaults: TLS only, and to private addresses alone where the configuration requires that.
    pub(super) fn to_vault(config: &AzureConfig, names: Arc<dyn Names>) -> Result<Self, ConfigError> {
        let admitted = match (config.require_private_networking, &config.cloud) {
            (false, _) => Admitted::All,
            (true, Cloud::Custom(_)) => Admitted::PrivateOrLoopback,
            (true, Cloud::Azure | Cloud::AzureChina | Cloud::AzureUsGovernment) => Admitted::Private,
        };
        Self::over_tls(config, names, admitted)
    }

    fn over_tls(
        config: &AzureConfig,
        names: Arc<dyn Names>,
        admitted: Admitted,
    ) -> Result<Self, ConfigError> {
        let builder = client_builder(config.call_timeout, names, admitted)
            .https_only(true)
            .tls_backend_preconfigured(tls_config(&config.cloud, config.ca_file.as_deref())?);
        let builder = match (&config.cloud, admitted) {
            // A development vault is on this machine, and a proxy would look up the name itself.
            (Cloud::Custom(_), _) | (_, Admitted::Private | Admitted::PrivateOrLoopback) => {
                builder.no_proxy()
            }
            (Cloud::Azure | Cloud::AzureChina | Cloud::AzureUsGovernment, Admitted::All) => builder,
        };
        Self::built(builder, config, admitted)
    }

    /// For the machine's metadata service: plain HTTP on a link-local address, and never through a proxy.
    pub(super) fn metadata_service(config: &AzureConfig) -> Result<Self, ConfigError> {
        let builder = client_builder(config.call_timeout, Arc::new(HostNames), Admitted::All)
            .no_proxy()
            // Azure's own needs none; a development vault's speaks TLS only.
            .tls_backend_preconfigured(tls_config(&config.cloud, config.ca_file.as_deref())?);
        Self::built(builder, config, Admitted::All)
    }

    fn built(
        builder: reqwest::ClientBuilder,
        config: &AzureConfig,
        admitted: Admitted,
    ) -> Result<Self, ConfigError> {
        let client = builder.build().map_err(ConfigError::Http)?;
        Ok(Self { client, timeout: config.call_timeout, admitted })
    }

    /// Sends once. The whole exchange, body included, takes at most the call time-out.
    pub(super) async fn send(&self, request: Request) -> Result<Reply, Failure> {
        let url = request.url.clone();
        // An address written in the URL is never looked up, so the resolver does not see it.
        if let Some(address) = literal_address(&url).filter(|address| !self.admitted.admits(*address)) {
            return Err(failure_of(Fault::PublicAddress, &url, not_private(&host_of(&url), &[address])));
        }
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err((fault, message))) => Err(failure_of(fault, &url, message)),
            Err(_) => {
                let message = format!("no answer within {} ms", self.timeout.as_millis());
                Err(failure_of(Fault::TimedOut, &url, message))
            }
        }
    }

    async fn exchange(&self, request: Request) -> Result<Reply, (Fault, String)> {
        let host = host_of(&request.url);
        let told_apart = |e: reqwest::Error| (fault_of(&e), innermost(&e));
        let mut response = self
            .client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send()
            .await
            .map_err(told_apart)?;
        let text = |name: &HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let azure = |name: &'static str| text(&HeaderName::from_static(name)).map(|value| shorten(&value));
        let mut reply = Reply {
            status: response.status().as_u16(),
            challenge: bearer_challenge(challenges.filter_map(|value| value.to_str().ok())),
            region: azure("x-ms-keyvault-region"),
            request_id: azure("x-ms-request-id"),
            retry_after_s: text(&header::RETRY_AFTER)
                .and_then(|value| retry_after_s(&value, jiff::Timestamp::now())),
            host,
            body: Zeroizing::new(Vec::new()),
        };
        while let Some(chunk) = response.chunk().await.map_err(told_apart)? {
            if reply.body.len() + chunk.len() > LONGEST_BODY {
                return Err((Fault::NotAnAnswer, format!("the answer is longer than {LONGEST_BODY} bytes")));
            }
            append_wiping(&mut reply.body, chunk);
        }
        Ok(reply)
    }
}

fn failure_of(fault: Fault, url: &Url, message: String) -> Failure {
    let (class, facts) = classify(Stage::Directory, Err(fault));
    Failure { class, facts: Facts { host: Some(host_of(url)), message: Some(shorten(&message)), ..facts } }
}

/// Appends without leaving a copy behind: neither in a buffer that was outgrown nor in the chunk.
fn append_wiping(body: &mut Zeroizing<Vec<u8>>, chunk: Bytes) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((body.len() + chunk.len()).next_power_of_two()));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(&chunk);
    if let Ok(mut owned) = chunk.try_into_mut() {
        owned.as_mut().zeroize();
    }
}

/// `HOST[:PORT]`.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Of several challenges the one that asks for a bearer token; else the first.
fn bearer_challenge<'a>(all: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: Vec<&str> = all.collect();
    let is_bearer = |challenge: &&&str| {
        challenge.trim_start().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "))
    };
    all.iter().find(is_bearer).or(all.first()).map(|challenge| (*challenge).to_owned())
}

/// `Retry-After` in seconds, from both forms that RFC 9110 §10.2.3 allows. A number too large to count is the largest.
fn retry_after_s(value: &str, now: jiff::Timestamp) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().unwrap_or(u64::MAX));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    u64::try_from(at.duration_since(now).as_secs()).ok()
}

fn client_builder(timeout: Duration, names: Arc<dyn Names>, admitted: Admitted) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
        // A token follows nobody.
        .redirect(reqwest::redirect::Policy::none())
        // Whatever else in this program asks the library for: an answer is read as it comes, never unpacked.
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(timeout)
        // No connection is kept: what its buffers carried goes with it. Calls come a minute apart, and each looks up
        // the name anew and sees a changed route.
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(Resolver { names, admitted }))
}

fn tls_config(cloud: &Cloud, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, ConfigError> {
    let extra = ca_file.map(read_certificates).transpose()?.unwrap_or_default();
    match cloud {
        Cloud::Custom(_) if !extra.is_empty() => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in extra {
                roots.add(certificate).map_err(ConfigError::Tls)?;
            }
            tls_config_with(roots)
        }
        Cloud::Custom(_) | Cloud::Azure | Cloud::AzureChina | Cloud::AzureUsGovernment => {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())
                .map_err(ConfigError::Tls)?;
            Ok(rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(ConfigError::Tls)?
                // The verifier is the platform's own: "dangerous" is rustls' word for any that is not built in.
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth())
        }
    }
}

fn tls_config_with(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let failed = |source: pem::Error| ConfigError::CaFile { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(ConfigError::NoCa(path.to_owned()));
    }
    Ok(certificates)
}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    All,
    Private,
    PrivateOrLoopback,
}

impl Admitted {
    fn admits(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let private = match address {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        match self {
            Admitted::All => true,
            Admitted::Private => private,
            Admitted::PrivateOrLoopback => private || address.is_loopback(),
        }
    }
}

fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

fn not_private(host: &str, addresses: &[IpAddr]) -> String {
    let shown: Vec<String> = addresses.iter().take(3).map(IpAddr::to_string).collect();
    format!(
        "private networking is required, and {host} has the public address {}: nothing was sent",
        shown.join(", ")
    )
}

/// What reqwest asks for addresses. Ours so that a name that does not resolve has a type to be known by, and so that
/// the very addresses that are connected to are the ones that were looked at.
struct Resolver {
    names: Arc<dyn Names>,
    admitted: Admitted,
}

#[derive(Debug, thiserror::Error)]
enum NotResolved {
    #[error("there is no host `{0}`")]
    NoSuchName(String),
    #[error("the name `{name}` does not resolve: {why}")]
    NotAnswered { name: String, why: String },
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotPrivate(String);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, admitted) = (Arc::clone(&self.names), self.admitted);
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let asked = name.clone();
            let found = tokio::task::spawn_blocking(move || names.look_up(&asked)).await;
            let found = match found {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(NoAddress::NoSuchName)) => return Err(NotResolved::NoSuchName(name).into()),
                Ok(Err(NoAddress::NotAnswered(why))) => {
                    return Err(NotResolved::NotAnswered { name, why }.into());
                }
                Err(error) => {
                    return Err(NotResolved::NotAnswered { name, why: error.to_string() }.into());
                }
            };
            let good: Vec<SocketAddr> =
                found.iter().filter(|at| admitted.admits(**at)).map(|at| SocketAddr::new(*at, 0)).collect();
            match (found.is_empty(), good.is_empty()) {
                (true, _) => {
                    let why = "it has no address".to_owned();
                    Err(NotResolved::NotAnswered { name, why }.into())
                }
                (false, true) => Err(NotPrivate(not_private(&name, &found)).into()),
                (false, false) => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Tells faults apart by the types in the chain of sources, never by their text.
fn fault_of(error: &reqwest::Error) -> Fault {
    for cause in causes(error) {
        match cause.downcast_ref::<NotResolved>() {
            Some(NotResolved::NoSuchName(_)) => return Fault::NoSuchName,
            Some(NotResolved::NotAnswered { .. }) => return Fault::NameNotResolved,
            None => {}
        }
        if cause.is::<NotPrivate>() {
            return Fault::PublicAddress;
        }
        if cause.is::<rustls::Error>() {
            return Fault::TlsFailed;
        }
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
            return Fault::TimedOut;
        }
        if cause.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_parse() || e.is_parse_too_large()) {
            return Fault::NotAnAnswer;
        }
    }
    if error.is_timeout() { Fault::TimedOut } else { Fault::ConnectionFailed }
}

/// The message at the end of the chain: the one that says what happened.
fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map(|cause| cause.to_string()).unwrap_or_default()
}

/// The chain of sources. An `io::Error` names its payload's source, not the payload: that is looked at too.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| {
        let cause: &'a (dyn Error + 'static) = *cause;
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(payload) => Some(payload as &(dyn Error + 'static)),
            None => cause.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_comes_in_two_forms() {
        let now: jiff::Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        assert_eq!(retry_after_s("7", now), Some(7));
        assert_eq!(retry_after_s(" 0 ", now), Some(0));
        assert_eq!(retry_after_s("Tue, 24 Nov 2026 10:00:30 GMT", now), Some(30));
        assert_eq!(retry_after_s("Tue, 24 Nov 2026 09:00:00 GMT", now), None, "already past");
        assert_eq!(retry_after_s("soon", now), None);
        assert_eq!(retry_after_s("-1", now), None);
        assert_eq!(retry_after_s("", now), None);
        assert_eq!(retry_after_s("99999999999999999999999999", now), Some(u64::MAX), "not: at once");
        assert_eq!(retry_after_s("Fri, 01 Jan 2100 00:00:00 GMT", now), Some(2_306_930_400));
    }

    /// RFC 1918, RFC 4193, and IPv4 written as IPv6; loopback is the development vault's alone.
    #[test]
    fn private_addresses_are_told_from_public_ones() {
        let admits = |admitted: Admitted, text: &str| admitted.admits(text.parse().unwrap());
        for private in
            ["10.0.0.4", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "::ffff:10.1.2.3"]
        {
            assert!(admits(Admitted::Private, private), "{private}");
        }
        for public in [
            "20.50.1.2",
            "172.15.0.1",
            "172.32.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "2603:1030::1",
            "::ffff:20.1.2.3",
            "0.0.0.0",
        ] {
            assert!(!admits(Admitted::Private, public), "{public}");
            assert!(!admits(Admitted::PrivateOrLoopback, public), "{public}");
            assert!(admits(Admitted::All, public), "{public}");
        }
        for loopback in ["127.0.0.1", "::1"] {
            assert!(!admits(Admitted::Private, loopback), "{loopback}");
            assert!(admits(Admitted::PrivateOrLoopback, loopback), "{loopback}");
        }
    }

    #[test]
    fn of_several_challenges_the_bearers_is_taken() {
        let chosen = |all: &[&'static str]| bearer_challenge(all.iter().copied());
        assert_eq!(chosen(&["Negotiate", "bearer a=b"]).as_deref(), Some("bearer a=b"));
        assert_eq!(chosen(&["Negotiate", "Basic"]).as_deref(), Some("Negotiate"));
        assert_eq!(chosen(&["Bearerish x", "é"]).as_deref(), Some("Bearerish x"));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a_body_is_collected_over_many_chunks() {
        let mut body = Zeroizing::new(Vec::new());
        let whole: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for chunk in whole.chunks(7) {
            append_wiping(&mut body, Bytes::copy_from_slice(chunk));
        }
        assert_eq!(*body, whole);
    }
}
