//! Setting a server up, running it, stopping it, and running it again.

use std::{os::unix::fs::PermissionsExt, path::Path};

use keyward_server::{Config, InitError, ServeError, init, serve};
use secrecy::ExposeSecret;

use crate::site::{Answer, Database, Pair, Site, client, nonce_of, sign};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn get(ca: &[u8], port: u16, path: &str, authorization: Option<String>) -> Answer {
    let mut request = client(ca).get(format!("https://localhost:{port}{path}"));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_server_is_set_up_once_and_keeps_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path().join("server"));
    let refused = serve(config.clone()).await.err().unwrap();
    assert!(!refused.hint().is_empty(), "{refused}");

    let made = init(&config).await.unwrap();
    assert_eq!(mode(&config.data_dir), 0o700);
    for file in ["server.key", "keyward.db", "api-ca-key.pem"] {
        assert_eq!(mode(&config.data_dir.join(file)), 0o600, "{file}");
    }
    assert!(matches!(init(&config).await.unwrap_err(), InitError::Done));

    let ca = std::fs::read(made.ca_file.unwrap()).unwrap();
    let pair = Pair { public: made.public_key, private: made.private_key.expose_secret().to_owned() };
    let path = "/api/atlas/v2/orgs";
    let first = serve(config.clone()).await.unwrap();
    let bare = get(&ca, first.api_addr.port(), path, None).await.expect(401);
    let nonce = nonce_of(bare.header("www-authenticate"));
    let signature = sign(&pair, &nonce, 1, "GET", path);
    let answer = get(&ca, first.api_addr.port(), path, Some(signature.clone())).await.expect(200);
    assert_eq!(answer.body["results"][0]["id"], made.org_id.to_string());
    let port = first.api_addr.port();
    first.stop().await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());

    // Started again: the same authority, and a nonce's counter is not good twice.
    let second = serve(config.clone()).await.unwrap();
    let port = second.api_addr.port();
    let again = get(&ca, port, path, Some(signature)).await.expect(401);
    assert!(again.header("www-authenticate").ends_with("stale=true"));
    get(&ca, port, path, Some(sign(&pair, &nonce, 2, "GET", path))).await.expect(200);
    second.stop().await;

    // Another server key opens nothing.
    std::fs::remove_file(config.key_file()).unwrap();
    let _ = keyward_store::ServerKey::make_file(&config.key_file()).unwrap();
    let refused = serve(config.clone()).await.err().unwrap();
    assert!(matches!(refused, ServeError::Store(_)), "{refused:?}");
    // A key that others can read is not used.
    std::fs::set_permissions(config.key_file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = serve(config).await.err().unwrap();
    assert!(refused.hint().contains("0600"), "{}", refused.hint());
}

#[tokio::test]
async fn two_servers_share_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("server"));
    let Some(url) = keyward_testkit::postgres::database() else { return };
    config.store_url = Some(url);
    let made = init(&config).await.unwrap();
    let ca = std::fs::read(made.ca_file.unwrap()).unwrap();
    let pair = Pair { public: made.public_key, private: made.private_key.expose_secret().to_owned() };
    let (one, other) = (serve(config.clone()).await.unwrap(), serve(config).await.unwrap());
    let path = "/api/atlas/v2/orgs";
    let bare = get(&ca, one.api_addr.port(), path, None).await.expect(401);
    let nonce = nonce_of(bare.header("www-authenticate"));
    // A nonce of one is good at the other, and its counter once over both.
    let signature = sign(&pair, &nonce, 1, "GET", path);
    get(&ca, other.api_addr.port(), path, Some(signature.clone())).await.expect(200);
    get(&ca, one.api_addr.port(), path, Some(signature)).await.expect(401);
    get(&ca, one.api_addr.port(), path, Some(sign(&pair, &nonce, 2, "GET", path))).await.expect(200);
    one.stop().await;
    other.stop().await;
}

/// Someone else's certificate is taken as it is; clients that trust the own authority do not know it.
#[tokio::test]
async fn a_given_certificate_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut config = Config::new(dir.path().join("server"));
    config.tls_certificate_file = Some(dir.path().join("cert.pem"));
    config.tls_key_file = Some(dir.path().join("key.pem"));
    std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
    let made = init(&config).await.unwrap();
    assert_eq!(made.ca_file, None);
    let running = serve(config.clone()).await.unwrap();
    get(certificate.pem().as_bytes(), running.api_addr.port(), "/api/atlas/v2/orgs", None).await.expect(401);
    running.stop().await;
    std::fs::write(dir.path().join("cert.pem"), "nonsense").unwrap();
    let refused = serve(config).await.err().unwrap();
    assert!(matches!(refused, ServeError::Certificate(_)), "{refused:?}");
}

/// A change whose answer nobody waited for is there as a whole or not at all.
#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_half_change() {
    let site = Site::start(Database::Sqlite).await.unwrap();
    let path = "/api/atlas/v2/groups";
    let before = site.events().await;
    for index in 0..20_u64 {
        let bare = Answer::of(site.plain("POST", path).send().await.unwrap()).await;
        let signature = sign(&site.owner, &nonce_of(bare.header("www-authenticate")), 1, "POST", path);
        let body = serde_json::json!({"name": format!("Project {index}"), "orgId": site.org}).to_string();
        let request = site.plain("POST", path).header("authorization", signature).body(body);
        let patience = std::time::Duration::from_micros(300 * index);
        let _ = tokio::time::timeout(patience, request.send()).await;
    }
    let total = site.owner().get(path).await.expect(200).body["totalCount"].as_u64().unwrap();
    assert_eq!(site.events().await - before, total);
}
