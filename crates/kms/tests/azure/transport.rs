//! No answer, told apart: against real listeners that refuse, hang, reset, speak nonsense or show a certificate
//! of another authority.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::recorded::{self, Reply, Server, VERSION, token};
use keyward_kms::{
    About, Finding, KeyService,
    azure::{
        AzureKeyService, Cloud,
        names::{Names, NoAddress},
        retry::RetryPolicy,
    },
};
use keyward_model::{Class, KeyIdentifier, Weight};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A service that takes `host` for vault, Entra ID and ARM, and trusts `server`'s authority.
fn service_at(server: &Server, host: &str, call_timeout: Duration) -> (AzureKeyService, KeyIdentifier) {
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.vault_hosts = vec![host.to_owned()];
    config.call_timeout = call_timeout;
    let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
    (AzureKeyService::new(config).unwrap(), key)
}

async fn probe_of(server: &Server, host: &str) -> keyward_model::Evidence {
    let (service, key) = service_at(server, host, Duration::from_secs(2));
    service.probe(&key, &[1; 256], &[0; 32]).await
}

/// A resolver that knows `localhost` and says of every other name what it was told to.
#[derive(Debug)]
pub(crate) struct Known(pub(crate) NoAddress);

impl Names for Known {
    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        if name == "localhost" { Ok(vec![Ipv4Addr::LOCALHOST.into()]) } else { Err(self.0.clone()) }
    }
}

/// What a check and a probe say of a vault at `host`, with Entra ID at `authority`.
async fn with_names(
    server: &Server,
    host: &str,
    authority: &str,
    says: NoAddress,
) -> (Vec<Finding>, keyward_model::Evidence) {
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.vault_hosts = vec![host.to_owned()];
    endpoints.authority = format!("https://{authority}").parse().unwrap();
    let once = RetryPolicy { attempts: 1, ..RetryPolicy::WORK };
    let service = AzureKeyService::with_names(config, Arc::new(Known(says))).unwrap().with_retries(once);
    let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
    (service.check(&key).await, service.probe(&key, &[1; 256], &[0; 32]).await)
}

/// DESIGN rule 3: to a probe, a name that does not exist and a resolver that does not answer are the same trouble. A
/// check, which a person asks for, tells them apart, and only for the vault's own name.
#[tokio::test]
async fn a_name_that_does_not_exist_and_a_resolver_that_does_not_answer() {
    let server = Server::start(|own, seen| own.usual(seen).unwrap()).await;
    let at = server.url().trim_start_matches("https://").to_owned();
    let silent = || NoAddress::NotAnswered("Temporary failure in name resolution".to_owned());

    let missing = with_names(&server, "contoso.vault.test", &at, NoAddress::NoSuchName).await;
    assert_eq!(missing.0[0].about, About::NoSuchVault);
    assert!(missing.0[0].text.ends_with("there is no host contoso.vault.test"), "{}", missing.0[0].text);
    assert!(missing.0[0].hint.starts_with("is the name right?"), "{}", missing.0[0].hint);
    let unknown = with_names(&server, "contoso.vault.test", &at, silent()).await;
    assert!(matches!(unknown.0[0].about, About::Answer { .. }), "{:?}", unknown.0);
    assert!(unknown.0[0].text.contains("Temporary failure"), "{}", unknown.0[0].text);
    for (findings, evidence) in [missing, unknown] {
        assert_eq!(findings[0].class, Some(Class::NameNotResolved));
        assert_eq!(evidence.class, Class::NameNotResolved);
        assert_eq!(evidence.class.weight(), Weight::Neutral, "no evidence of a revocation");
    }

    // Entra ID's name is missing, the vault's is not.
    let elsewhere = with_names(&server, &at, "login.directory.test", NoAddress::NoSuchName).await;
    assert!(matches!(elsewhere.0[0].about, About::Answer { .. }), "{:?}", elsewhere.0);
}

pub(crate) async fn unused() -> Server {
    Server::start(|_, _| unreachable!("nothing asks this server")).await
}

/// A listener whose every connection is given to `serve`; returns `localhost:PORT`.
pub(crate) async fn listener<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    format!("localhost:{port}")
}

#[tokio::test]
async fn a_port_that_refuses() {
    let server = unused().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let evidence = probe_of(&server, &format!("localhost:{closed}")).await;
    assert_eq!((evidence.class, evidence.http_status), (Class::ConnectionFailed, None));
    assert_eq!(evidence.host, Some(format!("localhost:{closed}")));
    assert!(evidence.message.is_some_and(|message| message.contains("refused")));
}

#[tokio::test]
async fn a_listener_that_hangs_in_the_handshake() {
    let server = unused().await;
    let host = listener(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let (service, key) = service_at(&server, &host, Duration::from_millis(300));
    let evidence = service.probe(&key, &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::TimedOut, "{evidence:?}");
}

#[tokio::test]
async fn a_server_that_hangs_after_the_request() {
    let server = unused().await;
    let acceptor = recorded::authority(server.folder.path().join("hangs.pem"));
    let host = listener(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await;
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.vault_hosts = vec![host.clone()];
    config.ca_file = Some(server.folder.path().join("hangs.pem"));
    config.call_timeout = Duration::from_millis(300);
    let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
    let evidence = AzureKeyService::new(config).unwrap().probe(&key, &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::TimedOut, "{evidence:?}");
}

#[tokio::test]
async fn a_connection_that_is_reset() {
    let server = unused().await;
    let host = listener(|stream| async move {
        // Closing with unread bytes and no linger sends a reset.
        stream.set_zero_linger().unwrap();
        stream.readable().await.unwrap();
    })
    .await;
    let evidence = probe_of(&server, &host).await;
    assert_eq!(evidence.class, Class::ConnectionFailed, "{evidence:?}");
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once() {
    let server = unused().await;
    let host = listener(|stream| async move { drop(stream) }).await;
    let evidence = probe_of(&server, &host).await;
    assert_eq!(evidence.class, Class::ConnectionFailed, "{evidence:?}");
}

/// Serves one TLS connection by `reply`, then closes it.
async fn tls_server(server: &Server, reply: &'static [u8]) -> (AzureKeyService, KeyIdentifier) {
    let ca_file = server.folder.path().join("raw.pem");
    let acceptor = recorded::authority(ca_file.clone());
    let host = listener(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(reply).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.vault_hosts = vec![host.clone()];
    config.ca_file = Some(ca_file);
    let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
    (AzureKeyService::new(config).unwrap(), key)
}

#[tokio::test]
async fn an_answer_that_breaks_off() {
    let server = unused().await;
    for reply in [
        &b"HTTP/1.1 401 Unauth"[..],
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 1000\r\n\r\n{\"error\":",
        b"",
    ] {
        let (service, key) = tls_server(&server, reply).await;
        let evidence = service.probe(&key, &[1; 256], &[0; 32]).await;
        assert_eq!(evidence.class, Class::ConnectionFailed, "{evidence:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http() {
    let server = unused().await;
    let (service, key) = tls_server(&server, b"220 mail.example.org ESMTP\r\n").await;
    let evidence = service.probe(&key, &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::Malformed, "{evidence:?}");
}

#[tokio::test]
async fn a_certificate_of_another_authority() {
    let (server, other) = (unused().await, Server::start(|_, _| Reply(200, vec![], String::new())).await);
    let evidence = probe_of(&server, &format!("localhost:{}", other.address.port())).await;
    assert_eq!(evidence.class, Class::TlsFailed, "{evidence:?}");
    assert_eq!(other.calls(), Vec::<String>::new(), "nothing was asked of a server that is not trusted");
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let server = Server::start(|_, _| Reply(200, vec![], String::new())).await;
    let evidence = probe_of(&server, &format!("127.0.0.1:{}", server.address.port())).await;
    assert_eq!(evidence.class, Class::TlsFailed, "{evidence:?}");
}

#[tokio::test]
async fn a_server_without_tls() {
    let server = unused().await;
    let host = listener(|mut stream| async move {
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let evidence = probe_of(&server, &host).await;
    assert_eq!(evidence.class, Class::TlsFailed, "{evidence:?}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let server = unused().await;
    // `.invalid` never resolves (RFC 2606); a resolver that hangs would show as a time-out.
    let (service, key) = service_at(&server, "vault.invalid", Duration::from_secs(30));
    let evidence = service.probe(&key, &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::NameNotResolved, "{evidence:?}");
    assert_eq!(evidence.host.as_deref(), Some("vault.invalid"));
}

/// The same faults at Entra ID's end, with a vault that answers.
#[tokio::test]
async fn faults_of_the_authority_are_named_as_its_own() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (authority, expected) in [
        (format!("https://localhost:{closed}"), Class::ConnectionFailed),
        ("https://login.invalid".to_owned(), Class::NameNotResolved),
    ] {
        let named = authority.clone();
        let server = Server::start(move |own, seen| {
            assert_eq!(seen.token(), None);
            let mut challenge = own.challenge();
            challenge.1.retain(|(name, _)| *name != "www-authenticate");
            let header = format!(
                r#"Bearer authorization="{named}/{}", resource="https://vault.azure.net""#,
                recorded::TENANT
            );
            challenge.1.push(("www-authenticate", header));
            challenge
        })
        .await;
        let mut config = server.config();
        let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
        endpoints.authority = authority.parse().unwrap();
        let evidence = AzureKeyService::new(config).unwrap().probe(&server.key(), &[1; 256], &[0; 32]).await;
        assert_eq!(evidence.class, expected, "{evidence:?}");
        assert_eq!(evidence.host.unwrap(), authority.trim_start_matches("https://"));
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|own, seen| {
        own.usual(seen).unwrap_or_else(|| Reply(200, vec![], "x".repeat(400 * 1024)))
    })
    .await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::Malformed, "{evidence:?}");
    assert!(evidence.message.unwrap().contains("longer than"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_, _| token("x")).await;
    let target = elsewhere.url();
    let server = Server::start(move |own, seen| {
        own.usual(seen).unwrap_or_else(|| {
            Reply(307, vec![("location", format!("{target}/keys/k1/unwrapkey"))], String::new())
        })
    })
    .await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &[0; 32]).await;
    assert_eq!((evidence.class, evidence.http_status), (Class::Malformed, Some(307)));
    assert_eq!(elsewhere.calls(), Vec::<String>::new());
}

/// A probe of a vault that hangs ends after one time-out, so that evidence is not late.
#[tokio::test]
async fn a_probe_does_not_wait_twice_for_a_vault_that_hangs() {
    let server = unused().await;
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    let host = listener(move |stream| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        }
    })
    .await;
    let (service, key) = service_at(&server, &host, Duration::from_secs(5));
    let began = Instant::now();
    let evidence = service.probe(&key, &[1; 256], &[0; 32]).await;
    assert_eq!(evidence.class, Class::TimedOut);
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
