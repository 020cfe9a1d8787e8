//! Whoever stands between us and Azure, and a vault that is not one: no answer of theirs is a revocation, none gets a
//! token, none keeps us waiting or fills the memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use axum::{Router, extract::Request};
use keyward_kms::{
    KeyService,
    azure::{AzureKeyService, Cloud, Credential, Regions, names::NoAddress},
};
use keyward_model::{Class, KeyIdentifier, Weight};
use serde_json::json as value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::server::TlsStream;

use crate::{
    recorded::{self, Own, Reply, SUBSCRIPTION, Seen, Server, TENANT, VERSION, json, vault_error},
    transport::{Known, listener, unused},
};

const CANARY: [u8; 32] = [7; 32];

fn canary_sha256() -> [u8; 32] {
    digest::digest(&digest::SHA256, &CANARY).as_ref().try_into().unwrap()
}

const PAGE: &str =
    "<html><head><title>Access denied</title></head><body>Forbidden: KeyNotFound</body></html>";

/// Where a captive portal or a proxy stands.
#[derive(Debug, Clone, Copy)]
enum Between {
    /// Before everything.
    All,
    /// Before the vault, from the moment that it has a token.
    Vault,
    /// Before Entra ID.
    Directory,
    /// Before ARM, after a vault that is said to be gone by somebody.
    ResourceManager,
}

/// Whatever page comes with whatever status, from wherever: an outage.
#[tokio::test]
async fn pages_of_a_proxy_are_never_a_revocation() {
    let statuses =
        [200, 204, 302, 307, 400, 401, 403, 404, 407, 409, 410, 418, 429, 451, 500, 502, 503, 504, 511];
    let mut probes = JoinSet::new();
    for between in [Between::All, Between::Vault, Between::Directory, Between::ResourceManager] {
        for status in statuses {
            probes.spawn(async move {
                let page = move || Reply(status, vec![("content-type", "text/html".into())], PAGE.into());
                let server = Server::start(move |own, seen| {
                    let of_directory = seen.path.ends_with("/token");
                    let of_arm = seen.path.starts_with("/subscriptions/");
                    let stands_here = match between {
                        Between::All => true,
                        Between::Vault => seen.token().is_some() && !of_arm,
                        Between::Directory => of_directory,
                        Between::ResourceManager => of_arm,
                    };
                    if stands_here {
                        return page();
                    }
                    own.usual(seen).unwrap_or_else(|| Reply(404, vec![], PAGE.into()))
                })
                .await;
                let mut config = server.config();
                (config.subscription_id, config.resource_group) =
                    (Some(SUBSCRIPTION.into()), Some("g1".into()));
                let service = AzureKeyService::new(config).unwrap();
                let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
                assert_eq!(evidence.class.weight(), Weight::Neutral, "{between:?} {status}: {evidence:?}");
                let sent = server.seen().iter().any(|seen| seen.token().is_some());
                if matches!(between, Between::All | Between::Directory) {
                    assert!(!sent, "{between:?} {status}: a token went out");
                }
            });
        }
    }
    while let Some(done) = probes.join_next().await {
        done.unwrap();
    }
}

/// A vault that speaks by `speak` once it was asked.
async fn speaking<F>(
    server: &Server,
    call_timeout: Duration,
    speak: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) -> (AzureKeyService, KeyIdentifier)
where
    F: Future<Output = ()> + Send + 'static,
{
    let ca_file = server.folder.path().join("speaking.pem");
    let acceptor = recorded::authority(ca_file.clone());
    // Both are trusted: this vault, and the server that is Entra ID.
    let both = [&ca_file, &server.ca_file()].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(&ca_file, both).unwrap();
    let host = listener(move |stream| {
        let (acceptor, speak) = (acceptor.clone(), speak.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let _ = stream.read(&mut [0; 4096]).await;
            speak(stream).await;
        }
    })
    .await;
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.vault_hosts = vec![host.clone()];
    (config.ca_file, config.call_timeout) = (Some(ca_file), call_timeout);
    let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
    (AzureKeyService::new(config).unwrap(), key)
}

/// Writes `head`, then `more` again and again with `pause` between, until nobody reads any longer; counts the bytes.
async fn without_end(
    mut stream: TlsStream<TcpStream>,
    head: &'static str,
    more: Vec<u8>,
    pause: Duration,
    written: Arc<AtomicUsize>,
) {
    let _ = stream.write_all(head.as_bytes()).await;
    while stream.write_all(&more).await.is_ok() && stream.flush().await.is_ok() {
        written.fetch_add(more.len(), SeqCst);
        tokio::time::sleep(pause).await;
    }
}

/// What never ends, in the head or in the body, ends by its size or by the time of the whole call.
#[tokio::test]
async fn answers_without_end_are_cut_off() {
    const BODY: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\n\r\n";
    const LONG: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 4000\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n";
    const HEAD: &str = "HTTP/1.1 403 Forbidden\r\n";
    let (fast, slow) = (Duration::ZERO, Duration::from_millis(20));
    let chunk = || [b"10000\r\n".to_vec(), vec![b' '; 65_536], b"\r\n".to_vec()].concat();
    let cases = [
        ("a body without end", BODY, vec![b' '; 65_536], fast, Class::Malformed),
        ("chunks without end", CHUNKED, chunk(), fast, Class::Malformed),
        (
            "headers without end",
            HEAD,
            b"x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(200),
            fast,
            Class::Malformed,
        ),
        ("a body byte by byte", LONG, b" ".to_vec(), slow, Class::TimedOut),
        ("headers byte by byte", HEAD, b"x".to_vec(), slow, Class::TimedOut),
        ("only informational", "", b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec(), slow, Class::TimedOut),
    ];
    for (name, head, more, pause, expected) in cases {
        let server = unused().await;
        let written = Arc::new(AtomicUsize::new(0));
        let counted = written.clone();
        let timeout = Duration::from_millis(if expected == Class::TimedOut { 400 } else { 10_000 });
        let (service, key) = speaking(&server, timeout, move |stream| {
            without_end(stream, head, more.clone(), pause, counted.clone())
        })
        .await;
        let began = Instant::now();
        let evidence = service.probe(&key, &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected, "{name}: {evidence:?}");
        assert!(began.elapsed() < Duration::from_secs(9), "{name} took {:?}", began.elapsed());
        // What the sockets hold of two tries comes on top of what is read.
        assert!(written.load(SeqCst) < 24 << 20, "{name}: {} bytes were taken", written.load(SeqCst));
    }
}

/// A packed answer is not unpacked, so that none can grow: it is no answer of a vault's.
#[tokio::test]
async fn packed_answers_are_not_unpacked() {
    // `{"error":{"code":"Forbidden","innererror":{"code":"KeyDisabled"}}}`
    let packed = data_encoding::BASE64.decode(b"H4sIAAAAAAACA6tWSi0qyi9SsqpWSs5PSVWyUnLLL0rKTElJzVPSUcrMy0stQlfgnVrpklmcmJSTmqJUW1sLAKVzXBZCAAAA").unwrap();
    let server = Server::start(|_, _| recorded::token("token-1")).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let authority = server.url();
    let (service, key) = speaking(&server, Duration::from_secs(5), move |mut stream| {
        let (packed, authority) = (packed.clone(), authority.clone());
        // The first connection is the one without a token.
        let first = counted.fetch_add(1, SeqCst) == 0;
        async move {
            let head = if first {
                let challenge = format!(
                    r#"Bearer authorization="{authority}/{TENANT}", resource="https://vault.azure.net""#
                );
                format!(
                    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n"
                )
            } else {
                format!(
                    "HTTP/1.1 403 Forbidden\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                    packed.len()
                )
            };
            let _ = stream.write_all(head.as_bytes()).await;
            if !first {
                let _ = stream.write_all(&packed).await;
            }
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let evidence = service.probe(&key, &[1; 256], &canary_sha256()).await;
    assert_eq!((evidence.class, evidence.http_status), (Class::Malformed, Some(403)), "{evidence:?}");
    assert_eq!(connections.load(SeqCst), 2);
    assert!(server.seen().iter().all(|seen| !seen.headers.contains_key("accept-encoding")));
}

/// Neither the client secret nor a token goes where a redirect points.
#[tokio::test]
async fn no_redirect_takes_a_credential_along() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Server::start(|own, _| own.value(&CANARY)).await;
        let target = elsewhere.url();
        let server = Server::start(move |own, seen| match seen.path.ends_with("/token") {
            true => Reply(status, vec![("location", format!("{target}{}", seen.path))], String::new()),
            false => own.challenge(),
        })
        .await;
        let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!((evidence.class, evidence.http_status), (Class::Malformed, Some(status)));
        assert_eq!(elsewhere.calls(), Vec::<String>::new(), "{status}");
    }
}

/// A resource or an authority that only looks like the right one.
#[tokio::test]
async fn lookalikes_get_no_token() {
    let resources = [
        "https://evil-vault.azure.net",
        "https://vault.azure.net.evil.example",
        "https://vault.azure.net@evil.example",
        "https://vault.azure.net:8443",
        "https://vault.azure.net/evil",
        "https://vault.azure.net.",
        "https://VAULT.azure.net",
        "https://v\u{e1}ult.azure.net",
        "http://vault.azure.net",
        "https://vault.azure.net https://graph.microsoft.com",
        "vault.azure.net",
        "https://managedhsm.azure.net",
        "",
    ];
    let of_resources = resources.map(|resource| ("URL/TENANT".to_owned(), resource.to_owned()));
    let authorities = [
        "URL@evil.example/TENANT",
        "https://user@evil.example/TENANT",
        "URL.evil.example/TENANT",
        "https://localhost/TENANT",
        "https://localhost.:PORT/TENANT",
        "https://127.0.0.1:PORT/TENANT",
        "http://localhost:PORT/TENANT",
        "URL",
        "URL/common",
        "URL//TENANT",
        "URL/evil/TENANT",
    ];
    let of_authorities =
        authorities.map(|authority| (authority.to_owned(), "https://vault.azure.net".to_owned()));
    for (authority, resource) in of_resources.into_iter().chain(of_authorities) {
        let shown = format!("{authority} {resource}");
        let server = Server::start(move |own, _| {
            let port = own.url.rsplit(':').next().unwrap();
            let authority =
                authority.replace("URL", &own.url).replace("PORT", port).replace("TENANT", TENANT);
            let header = format!(r#"Bearer authorization="{authority}", resource="{resource}""#);
            Reply(401, vec![("www-authenticate", header)], String::new())
        })
        .await;
        let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class.weight(), Weight::Neutral, "{shown}: {evidence:?}");
        assert_eq!(server.calls().len(), 1, "{shown}: {:?}", server.calls());
        assert_eq!(server.seen()[0].token(), None, "{shown}");
    }
}

/// Azure compares the names of keys without case, and answers with the name that it knows.
#[tokio::test]
async fn a_name_in_another_case_is_the_same_key() {
    let server = Server::start(|own, seen| {
        own.usual(seen).unwrap_or_else(|| match seen.method.as_str() {
            "GET" => json(
                200,
                value!({ "key": { "kid": format!("{}/keys/k1/{VERSION}", own.url), "kty": "RSA", "key_ops": [] } }),
            ),
            _ => own.value(&CANARY),
        })
    })
    .await;
    let key = KeyIdentifier::new(&server.url(), "K1", VERSION).unwrap();
    let service = server.service();
    assert_eq!(*service.unwrap(&key, &[1; 256]).await.unwrap().0, CANARY);
    assert_eq!(service.describe(&key).await.unwrap().key_identifier, server.key());

    let gone = Server::start(|own, seen| {
        own.usual(seen).unwrap_or_else(|| match seen.path.as_str() {
            "/deletedkeys/K1" => json(
                200,
                value!({ "recoveryId": "x", "key": { "kid": format!("{}/keys/k1/{VERSION}", own.url), "kty": "RSA" } }),
            ),
            _ => vault_error(404, "KeyNotFound", None),
        })
    })
    .await;
    let key = KeyIdentifier::new(&gone.url(), "K1", VERSION).unwrap();
    let evidence = gone.service().probe(&key, &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::KeyDeleted, "{evidence:?}");
}

/// Some front ends name other schemes too.
#[tokio::test]
async fn the_bearer_challenge_is_found_among_others() {
    let server = Server::start(|own, seen| {
        own.usual(seen)
            .map(|mut reply| {
                if reply.0 == 401 {
                    reply.1.insert(0, ("www-authenticate", "Negotiate".into()));
                }
                reply
            })
            .unwrap_or_else(|| own.value(&CANARY))
    })
    .await;
    let evidence = server.service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Success, "{evidence:?}");
}

/// A machine's metadata service whose `n`th answer is `answer(n)`, of tokens that were issued two hours ago.
async fn machine(
    answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static,
) -> (url::Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (asked.clone(), Arc::new(answer));
    let router = Router::new().fallback(move |_: Request| {
        let (status, text) = answer(counted.fetch_add(1, SeqCst));
        let issued = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() - 7_200;
        let body = match status {
            200 => value!({ "access_token": text, "token_type": "Bearer", "expires_in": "79200", "not_before": issued.to_string() }),
            _ => value!({ "error": text }),
        };
        async move { (axum::http::StatusCode::from_u16(status).unwrap(), body.to_string()) }
    });
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, asked)
}

fn as_machine(server: &Server, endpoint: url::Url) -> AzureKeyService {
    let mut config = server.config();
    config.credential = Credential::ManagedIdentity { client_id: None, endpoint: Some(endpoint) };
    AzureKeyService::new(config).unwrap()
}

/// A token names the groups of the time when it was issued: who was taken out by mistake and put back is denied under
/// the old one and let in under a new one, so a denial is believed only under a new one.
#[tokio::test]
async fn a_denial_under_an_old_token_is_asked_about_under_a_new_one() {
    let server = Server::start(|own, seen| match seen.token() {
        None => own.challenge(),
        Some("old") if seen.path.ends_with("/unwrapkey") => {
            vault_error(403, "Forbidden", Some("ForbiddenByRbac"))
        }
        Some(_) => own.value(&CANARY),
    })
    .await;
    let (endpoint, asked) = machine(|n| (200, if n == 0 { "old" } else { "new" }.to_owned())).await;
    let service = as_machine(&server, endpoint);
    service.wrap(&server.key(), &[1]).await.unwrap();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::Success, "{evidence:?}");
    assert_eq!(asked.load(SeqCst), 2);
    let unwraps = server.calls().iter().filter(|call| call.ends_with("/unwrapkey")).count();
    assert_eq!((unwraps, server.calls().iter().filter(|call| call.ends_with("/decrypt")).count()), (2, 0));
}

/// The denial stands when the new token is denied as well, and when there is none to be had.
#[tokio::test]
async fn a_denial_stands_without_a_new_token() {
    for second in [(200, "new"), (503, "unknown")] {
        let server = Server::start(|own, seen| match seen.token() {
            None => own.challenge(),
            Some(_) if seen.path.ends_with("/wrapkey") => own.value(&CANARY),
            Some(_) => vault_error(403, "Forbidden", Some("ForbiddenByPolicy")),
        })
        .await;
        let (endpoint, _) = machine(move |n| match n {
            0 => (200, "old".to_owned()),
            _ => (second.0, second.1.to_owned()),
        })
        .await;
        let service = as_machine(&server, endpoint);
        service.wrap(&server.key(), &[1]).await.unwrap();
        let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!((evidence.class, evidence.http_status), (Class::DeniedByPolicy, Some(403)), "{second:?}");
        // The token in memory is still there for what it is good for.
        service.wrap(&server.key(), &[1]).await.unwrap();
    }
}

/// ARM as it shows a vault that was deleted.
fn arm_of_a_deleted_vault(vault_name: &'static str) -> impl Fn(&Own, &Seen) -> Reply + Send + Sync + 'static {
    move |own, seen| {
        let path = format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/g1/providers/Microsoft.KeyVault/vaults/{vault_name}"
        );
        if seen.path.ends_with("/token") {
            return recorded::token("token-1");
        }
        if seen.path.ends_with("/deletedVaults") {
            return json(
                200,
                value!({ "value": [{ "name": vault_name, "properties": { "vaultId": path, "location": "westeurope" } }] }),
            );
        }
        if seen.path.starts_with("/subscriptions/") {
            return vault_error(404, "ResourceNotFound", None);
        }
        own.challenge()
    }
}

/// A deleted vault may leave a name that is gone, an address where nobody answers, or a stranger's certificate: ARM
/// says what it is. Above all behind a private link, whose address stays.
#[tokio::test]
async fn a_vault_that_is_gone_is_asked_about_however_it_is_gone() {
    let strangers = Server::start(|_, _| Reply(200, vec![], String::new())).await;
    let hangs = listener(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let closes = listener(|stream| async move { drop(stream) }).await;
    let stranger = format!("localhost:{}", strangers.address.port());
    for (host, alone) in [
        (hangs.as_str(), Class::TimedOut),
        (closes.as_str(), Class::ConnectionFailed),
        (stranger.as_str(), Class::TlsFailed),
        ("contoso.vault.test", Class::NameNotResolved),
    ] {
        let name = if host.starts_with("contoso") { "contoso" } else { "localhost" };
        let server = Server::start(arm_of_a_deleted_vault(name)).await;
        for (with_arm, expected) in [(true, Class::VaultDeleted), (false, alone)] {
            let mut config = server.config();
            let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
            endpoints.vault_hosts = vec![host.to_owned()];
            config.call_timeout = Duration::from_millis(if host == hangs { 1_500 } else { 5_000 });
            if with_arm {
                (config.subscription_id, config.resource_group) =
                    (Some(SUBSCRIPTION.into()), Some("g1".into()));
            }
            let names = Arc::new(Known(NoAddress::NoSuchName));
            let service = AzureKeyService::with_names(config, names).unwrap();
            let key = KeyIdentifier::new(&format!("https://{host}"), "k1", VERSION).unwrap();
            let evidence = service.probe(&key, &[1; 256], &canary_sha256()).await;
            assert_eq!(evidence.class, expected, "{host}, ARM {with_arm}: {evidence:?}");
        }
    }
}

/// What keeps Entra ID from answering is nothing to ask ARM about, which would need Entra ID too.
#[tokio::test]
async fn an_authority_that_hangs_is_not_waited_for_on_arms_behalf() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let hangs = listener(move |stream| {
        counted.fetch_add(1, SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        }
    })
    .await;
    let authority = hangs.clone();
    let server = Server::start(move |_, _| {
        let header = format!(
            r#"Bearer authorization="https://{authority}/{TENANT}", resource="https://vault.azure.net""#
        );
        Reply(401, vec![("www-authenticate", header)], String::new())
    })
    .await;
    let mut config = server.config();
    let Cloud::Custom(endpoints) = &mut config.cloud else { unreachable!() };
    endpoints.authority = format!("https://{hangs}").parse().unwrap();
    config.call_timeout = Duration::from_millis(500);
    (config.subscription_id, config.resource_group) = (Some(SUBSCRIPTION.into()), Some("g1".into()));
    let evidence =
        AzureKeyService::new(config).unwrap().probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!((evidence.class, evidence.host), (Class::TimedOut, Some(hangs)));
    assert_eq!(connections.load(SeqCst), 2, "a probe's two tries and no more");
}

/// After a failover the region that answered last is not the one that keeps the vault.
#[tokio::test]
async fn a_deleted_vault_is_found_in_another_region_than_the_one_that_answered() {
    let deleted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = deleted.clone();
    let arm = arm_of_a_deleted_vault("localhost");
    let server = Server::start(move |own, seen| {
        if seen.path.contains("/locations/northeurope/") {
            return vault_error(404, "DeletedVaultNotFound", None);
        }
        if seen.path.starts_with("/subscriptions/") {
            return arm(own, seen);
        }
        own.usual(seen).unwrap_or_else(|| match now.load(SeqCst) {
            true => json(404, value!({ "error": { "code": "VaultNotFound", "message": "m" } })),
            false => {
                let mut reply = own.value(&CANARY);
                reply.1.push(("x-ms-keyvault-region", "northeurope".into()));
                reply
            }
        })
    })
    .await;
    let mut config = server.config();
    (config.subscription_id, config.resource_group) = (Some(SUBSCRIPTION.into()), Some("g1".into()));
    let service = AzureKeyService::new(config).unwrap();
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!((evidence.class, evidence.region.as_deref()), (Class::Success, Some("northeurope")));
    deleted.store(true, SeqCst);
    let evidence = service.probe(&server.key(), &[1; 256], &canary_sha256()).await;
    assert_eq!(evidence.class, Class::VaultDeleted, "{evidence:?}: {:?}", server.calls());
}

/// A version made just before a failover may be missing in the region that takes over: not gone, until the region that
/// knew it says so.
#[tokio::test]
async fn a_version_that_a_failover_lost_is_not_purged() {
    let now = Arc::new(AtomicUsize::new(0));
    let moment = now.clone();
    let server = Server::start(move |own, seen| {
        own.usual(seen).unwrap_or_else(|| {
            let (mut reply, region) = match moment.load(SeqCst) {
                0 => (own.value(&CANARY), "westeurope"),
                1 => {
                    (json(404, value!({ "error": { "code": "KeyNotFound", "message": "m" } })), "northeurope")
                }
                2 => (own.value(&CANARY), "northeurope"),
                _ => {
                    (json(404, value!({ "error": { "code": "KeyNotFound", "message": "m" } })), "northeurope")
                }
            };
            reply.1.push(("x-ms-keyvault-region", region.into()));
            reply
        })
    })
    .await;
    // What one service learnt of regions the next one knows.
    let regions = Regions::default();
    let service = || server.service().with_regions(regions.clone());
    for (step, expected) in [
        (1, Class::KeyPurged),
        (0, Class::Success),
        (1, Class::ServerFault),
        (2, Class::Success),
        (3, Class::KeyPurged),
    ] {
        now.store(step, SeqCst);
        let evidence = service().probe(&server.key(), &[1; 256], &canary_sha256()).await;
        assert_eq!(evidence.class, expected, "{step}: {evidence:?}");
        assert_eq!(
            evidence.message.is_some_and(|text| text.contains("westeurope")),
            expected == Class::ServerFault
        );
    }
}

/// Set in the process that probes through a proxy.
const THROUGH_A_PROXY: &str = "KEYWARD_TEST_THROUGH_A_PROXY";

/// A real vault's name, reached through a proxy that refuses, lies, or hangs: an outage, whatever it says. The proxy gets
/// no token, and its own password is not repeated.
#[tokio::test]
async fn proxies_refuse_in_their_own_ways() {
    if std::env::var_os(THROUGH_A_PROXY).is_some() {
        return probe_through_a_proxy().await;
    }
    let unauthorized = "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"p\"\r\n\
                        content-length: 0\r\n\r\n";
    let page = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{PAGE}", PAGE.len());
    let cases = [
        ("refuses", page("403 Forbidden"), Some(Class::ConnectionFailed)),
        ("knows nothing", page("404 Not Found"), Some(Class::ConnectionFailed)),
        ("is in trouble", page("503 Service Unavailable"), Some(Class::ConnectionFailed)),
        ("wants a password", unauthorized.to_owned(), Some(Class::ConnectionFailed)),
        ("answers itself", format!("HTTP/1.1 200 OK\r\n\r\n{}", page("403 Forbidden")), None),
        ("lets nothing through", "HTTP/1.1 200 OK\r\n\r\n".to_owned(), None),
        ("is none", "220 mail.example.org ESMTP\r\n".to_owned(), None),
    ];
    for (name, reply, expected) in cases {
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let listening = heard.clone();
        let proxy = listener(move |mut stream: TcpStream| {
            let (reply, listening) = (reply.clone(), listening.clone());
            async move {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                listening.lock().unwrap().extend_from_slice(&request[..read]);
                let _ = stream.write_all(reply.as_bytes()).await;
                // What the client sends into the tunnel.
                let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut request)).await;
                let read = read.map_or(0, |read| read.unwrap_or(0));
                listening.lock().unwrap().extend_from_slice(&request[..read]);
            }
        })
        .await;
        let port = proxy.rsplit(':').next().unwrap();
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "hostile::proxies_refuse_in_their_own_ways", "--nocapture"]);
        for unset in
            ["http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY"]
        {
            command.env_remove(unset);
        }
        command
            .env("HTTPS_PROXY", format!("http://someone:hunter2@127.0.0.1:{port}"))
            .env(THROUGH_A_PROXY, "1");
        let output = command.kill_on_drop(true).output().await.unwrap();
        let all =
            [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned()).concat();
        assert!(output.status.success(), "{name}: {all}");
        let seen =
            all.split_once("seen: ").unwrap_or_else(|| panic!("{name}: {all}")).1.lines().next().unwrap();
        let class: Class = serde_json::from_str(seen).unwrap();
        assert_eq!(class.weight(), Weight::Neutral, "{name}: {all}");
        assert!(expected.is_none_or(|expected| class == expected), "{name}: {all}");
        assert!(!all.contains("hunter2") && !all.contains("c29tZW9uZTpodW50ZXIy"), "{name}: {all}");
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        assert!(heard.starts_with("CONNECT contoso.vault.azure.net:443 "), "{name}: {heard}");
        assert!(!heard.contains("Bearer") && !heard.contains("keys/k1"), "{name}: {heard}");
    }
}

async fn probe_through_a_proxy() {
    let server = unused().await;
    let mut config = server.config();
    config.cloud = Cloud::Azure;
    config.call_timeout = Duration::from_secs(2);
    let key = KeyIdentifier::new("https://contoso.vault.azure.net", "k1", VERSION).unwrap();
    let evidence = AzureKeyService::new(config).unwrap().probe(&key, &[1; 256], &canary_sha256()).await;
    eprintln!("seen: {}\n{evidence:?}", serde_json::to_string(&evidence.class).unwrap());
}

/// A vault that says that its newest version lies in somebody else's vault: nobody is sent there.
#[tokio::test]
async fn no_answer_names_another_vault() {
    let server = Server::start(|own, seen| {
        own.usual(seen).unwrap_or_else(|| {
            let kid = format!("https://evil.vault.azure.net/keys/k1/{}", "a".repeat(32));
            json(200, value!({ "key": { "kid": kid, "kty": "RSA", "key_ops": [] } }))
        })
    })
    .await;
    let newest = server.service().latest_version(&server.key()).await.unwrap();
    assert_eq!(newest.to_string(), format!("{}/keys/k1/{}", server.url(), "a".repeat(32)));
}
