//! The API's certificate while the server runs: renewed or read again, without a connection that ends for it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use keyward_model::Timestamp;
use keyward_server::{Config, Running, ServeOptions, init, serve_with};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const DAY_MS: i64 = 86_400_000;

/// The clock of server and clients.
#[derive(Debug, Clone)]
struct Hands(Arc<AtomicI64>);

impl Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl TimeProvider for Hands {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.now_ms() / 1000).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

struct Served {
    server: Running,
    hands: Hands,
    /// What clients trust, PEM.
    trusted: Vec<u8>,
}

impl Served {
    async fn start(config: Config, trusted: Option<Vec<u8>>) -> Self {
        let made = init(&config).await.unwrap();
        let trusted = trusted.unwrap_or_else(|| std::fs::read(made.ca_file.unwrap()).unwrap());
        let hands = Hands(Arc::new(AtomicI64::new(jiff::Timestamp::now().as_millisecond())));
        let clock = hands.clone();
        let options = ServeOptions {
            clock: Arc::new(move || Timestamp::from_epoch_ms(clock.now_ms())),
            jobs: false,
            ..ServeOptions::default()
        };
        Self { server: serve_with(config, options).await.unwrap(), hands, trusted }
    }

    /// A new connection, and the certificate that it was shown and has verified.
    async fn connect(&self) -> (TlsStream<TcpStream>, CertificateDer<'static>) {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.trusted) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_details(provider, Arc::new(self.hands.clone()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.server.api_addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        (stream, shown)
    }

    /// Connects until another certificate than `former` is shown.
    async fn renewed(&self, former: &CertificateDer<'_>) -> CertificateDer<'static> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (_, shown) = self.connect().await;
            if shown != *former {
                return shown;
            }
            assert!(
                Instant::now() < deadline,
                "the certificate stayed: {:?}",
                self.server.app().certificate()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Asks something that anyone may, on a connection that stays open.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let path = "/api/private/unauth/nds/defaultMongoDBMajorVersion";
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.ends_with("\r\n\r\n8.0") {
        let mut some = [0; 1024];
        let read = stream.read(&mut some).await.unwrap();
        assert!(read > 0, "the connection ended: {said}");
        said.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    said
}

#[tokio::test]
async fn the_servers_own_certificate_is_renewed_under_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(Config::new(dir.path()), None).await;
    let (mut open, first) = served.connect().await;
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
    let before = served.server.app().certificate();
    assert!(before.own && before.problem.is_none());
    let life_ms = before.valid_until.epoch_ms() - before.valid_from.epoch_ms();
    assert_eq!(life_ms, 398 * DAY_MS, "397 days and the day before");

    // Past two thirds of its life, and then past its end: clients go by the same clock.
    let mut former = first;
    for days in [270, 500] {
        served.hands.0.fetch_add(days * DAY_MS, Ordering::SeqCst);
        let now = served.hands.now_ms();
        let deadline = Instant::now() + Duration::from_secs(60);
        while served.server.app().certificate().since.epoch_ms() != now {
            assert!(Instant::now() < deadline, "never renewed after {days} days");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let next = served.renewed(&former).await;
        let status = served.server.app().certificate();
        assert!(status.valid_from.epoch_ms() <= now && status.valid_until.epoch_ms() > now + 396 * DAY_MS);
        assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"), "the connection from before");
        former = next;
    }
    served.server.stop().await;
}

/// Writes a certificate under the authority, and its key, beside each other as `NAME.pem` and `NAME-key.pem`.
fn write(dir: &Path, name: &str, authority: &rcgen::Issuer<'_, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn an_operators_certificate_that_is_replaced_is_shown_and_a_broken_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let trusted = params.self_signed(&key).unwrap().pem();
    let authority = rcgen::Issuer::new(params, key);
    write(dir.path(), "used", &authority);
    write(dir.path(), "next", &authority);
    let mut config = Config::new(dir.path().join("data"));
    let (certificate, key_file) = (dir.path().join("used.pem"), dir.path().join("used-key.pem"));
    (config.tls_certificate_file, config.tls_key_file) = (Some(certificate.clone()), Some(key_file.clone()));
    let served = Served::start(config, Some(trusted.into_bytes())).await;
    let (mut open, first) = served.connect().await;
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
    assert!(!served.server.app().certificate().own);

    // A certificate without its key: the former one stays, and it is told why.
    std::fs::rename(dir.path().join("next.pem"), &certificate).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let problem = loop {
        match served.server.app().certificate().problem {
            Some(problem) => break problem,
            None => assert!(Instant::now() < deadline, "nobody noticed"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(problem.contains("check that certificate and key belong together"), "{problem}");
    let (_, shown) = served.connect().await;
    assert_eq!(shown, first);

    // With its key it is shown, and the connection from before goes on.
    std::fs::rename(dir.path().join("next-key.pem"), &key_file).unwrap();
    served.renewed(&first).await;
    assert_eq!(served.server.app().certificate().problem, None);
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
    served.server.stop().await;
}
