//! The four ways to prove who we are, and how long a token is kept.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, extract::Request};
use keyward_kms::{
    KeyService,
    azure::{AzureKeyService, Credential},
};
use keyward_model::Class;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::json as value;
use tokio::net::TcpListener;

use crate::recorded::{CLIENT, Reply, Seen, Server, TENANT, json, token};

/// A healthy vault and an Entra ID that answers token requests by `answer`.
async fn server(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |own, seen| match seen.path.ends_with("/token") {
        true => answer(seen),
        false if seen.token().is_none() => own.challenge(),
        false => own.value(&[7; 32]),
    })
    .await
}

fn service_with(server: &Server, credential: Credential) -> AzureKeyService {
    let mut config = server.config();
    config.credential = credential;
    AzureKeyService::new(config).unwrap()
}

fn token_requests(server: &Server) -> Vec<Seen> {
    server.seen().into_iter().filter(|seen| seen.path.ends_with("/token")).collect()
}

#[tokio::test]
async fn a_client_secret_is_read_anew_for_every_token() {
    // Tokens that are due for renewal at once.
    let server =
        server(|_| json(200, value!({ "token_type": "Bearer", "expires_in": 60, "access_token": "t" })))
            .await;
    let path = server.folder.path().join("secret");
    let service = service_with(&server, Credential::ClientSecretFile(path.clone()));
    service.unwrap(&server.key(), &[1]).await.unwrap();
    std::fs::write(&path, "  the-new-one&=%\n").unwrap();
    service.unwrap(&server.key(), &[1]).await.unwrap();
    let secrets: Vec<_> =
        token_requests(&server).iter().map(|seen| seen.form("client_secret").unwrap()).collect();
    assert_eq!(secrets, ["the-client-secret", "the-new-one&=%"]);
}

#[tokio::test]
async fn a_token_is_kept_while_it_is_good() {
    let server = server(|_| token("t")).await;
    let service = server.service();
    for _ in 0..5 {
        service.unwrap(&server.key(), &[1]).await.unwrap();
    }
    assert_eq!(token_requests(&server).len(), 1);
}

/// Many calls at once share one token request.
#[tokio::test]
async fn calls_at_once_fetch_one_token() {
    let server = server(|_| token("t")).await;
    let service = Arc::new(server.service());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (service, key) = (service.clone(), server.key());
        calls.spawn(async move { service.unwrap(&key, &[1]).await.map(|_| ()) });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(token_requests(&server).len(), 1);
}

fn certificate_file(path: &Path, key: &KeyPair) -> Vec<u8> {
    let certificate = CertificateParams::new(["keyward".to_owned()]).unwrap().self_signed(key).unwrap();
    std::fs::write(path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    certificate.der().to_vec()
}

#[tokio::test]
async fn a_certificate_proves_itself_by_an_assertion() {
    let server = server(|_| token("t")).await;
    let path = server.folder.path().join("client.pem");
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = certificate_file(&path, &key);
    service_with(&server, Credential::Certificate { path }).unwrap(&server.key(), &[1]).await.unwrap();

    let request = &token_requests(&server)[0];
    assert_eq!(request.form("client_secret"), None);
    assert_eq!(
        request.form("client_assertion_type").as_deref(),
        Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    );
    let assertion = request.form("client_assertion").unwrap();
    let header = jsonwebtoken::decode_header(&assertion).unwrap();
    let thumbprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    assert_eq!(header.alg, jsonwebtoken::Algorithm::PS256);
    assert_eq!(header.x5t_s256, Some(data_encoding::BASE64URL_NOPAD.encode(thumbprint.as_ref())));

    // The signature holds under the certificate's key, for this token endpoint, for ten minutes at most.
    let public = aws_lc_rs::rsa::KeyPair::from_pkcs8(&key.serialize_der()).unwrap();
    let public = aws_lc_rs::signature::KeyPair::public_key(&public);
    let decoding = jsonwebtoken::DecodingKey::from_rsa_der(public.as_ref());
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::PS256);
    validation.set_audience(&[format!("{}/{TENANT}/oauth2/v2.0/token", server.url())]);
    validation.set_issuer(&[CLIENT]);
    validation.validate_nbf = true;
    let claims =
        jsonwebtoken::decode::<serde_json::Value>(&assertion, &decoding, &validation).unwrap().claims;
    assert_eq!(claims["sub"], CLIENT);
    // Good for a clock that is a few minutes wrong, either way.
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let (from, until) = (claims["nbf"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert!(from < now - 240 && until > now + 240, "{from} {now} {until}");
    assert!(until - from < 600, "Entra ID takes no longer ones");
    assert!(claims["iat"].as_i64().unwrap() <= from);
    assert!(claims["jti"].as_str().is_some_and(|jti| jti.len() == 36));
}

/// A check warns of a certificate that ends within 60 days, and only then.
#[tokio::test]
async fn the_end_of_a_certificate_is_seen_coming() {
    let server = server(|_| token("t")).await;
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    for (days, warned) in [(59, true), (62, false)] {
        let path = server.folder.path().join(format!("{days}.pem"));
        let mut params = CertificateParams::new(["keyward".to_owned()]).unwrap();
        params.not_after = std::time::SystemTime::now()
            .checked_add(std::time::Duration::from_secs(days * 86_400))
            .unwrap()
            .into();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(&path, format!("{pem}{}", key.serialize_pem())).unwrap();
        let found = service_with(&server, Credential::Certificate { path }).check(&server.key()).await;
        assert_eq!(
            found.iter().any(|found| found.text.contains("certificate expires")),
            warned,
            "{days}: {found:?}"
        );
    }
}

#[tokio::test]
async fn a_federated_token_is_read_anew_for_every_token() {
    let server =
        server(|_| json(200, value!({ "token_type": "Bearer", "expires_in": "60", "access_token": "t" })))
            .await;
    let token_file = server.folder.path().join("federated");
    let service = service_with(&server, Credential::Federated { token_file: token_file.clone() });
    for text in ["first.jwt.x", "second.jwt.x"] {
        std::fs::write(&token_file, text).unwrap();
        service.unwrap(&server.key(), &[1]).await.unwrap();
    }
    let sent: Vec<_> =
        token_requests(&server).iter().map(|seen| seen.form("client_assertion").unwrap()).collect();
    assert_eq!(sent, ["first.jwt.x", "second.jwt.x"]);
}

/// A metadata service on plain HTTP; returns its URL and what it was asked.
async fn metadata_service(
    status: u16,
    body: serde_json::Value,
) -> (url::Url, Arc<Mutex<Vec<(String, bool)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let remembered = asked.clone();
    let router = Router::new().fallback(move |request: Request| {
        let marked = request.headers().get("metadata").is_some_and(|value| value == "true");
        remembered.lock().unwrap().push((request.uri().to_string(), marked));
        let body = body.to_string();
        async move { (axum::http::StatusCode::from_u16(status).unwrap(), body) }
    });
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, asked)
}

#[tokio::test]
async fn a_managed_identity_asks_the_machine() {
    let server = server(|_| unreachable!("a managed identity asks no token endpoint")).await;
    // The machine gives a token that it has had for two hours.
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (endpoint, asked) = metadata_service(
        200,
        value!({ "access_token": "token-of-the-machine", "token_type": "Bearer", "expires_in": "79200",
            "expires_on": (now_s + 79_200).to_string(), "not_before": (now_s - 7_200).to_string(), "resource": "x" }),
    )
    .await;
    let client_id = Some(CLIENT.to_owned());
    let service = service_with(&server, Credential::ManagedIdentity { client_id, endpoint: Some(endpoint) });
    let (_, facts) = service.unwrap(&server.key(), &[1]).await.unwrap();
    assert!((7_200..7_210).contains(&facts.token_age_s.unwrap()), "the age of the token itself: {facts:?}");
    assert_eq!(server.seen().last().unwrap().token(), Some("token-of-the-machine"));
    let asked = asked.lock().unwrap().clone();
    let query = format!("api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id={CLIENT}");
    assert_eq!(asked, [(format!("/metadata/identity/oauth2/token?{query}"), true)]);
}

#[tokio::test]
async fn a_managed_identity_that_is_not_there_is_ours_to_mend() {
    let server = server(|_| unreachable!()).await;
    let (endpoint, _) = metadata_service(
        400,
        value!({ "error": "invalid_request", "error_description": "Identity not found" }),
    )
    .await;
    let service =
        service_with(&server, Credential::ManagedIdentity { client_id: None, endpoint: Some(endpoint) });
    let error = service.unwrap(&server.key(), &[1]).await.unwrap_err();
    assert_eq!(error.class, Class::Misconfigured);
    assert!(error.to_string().contains("Identity not found"), "{error}");
}

#[tokio::test]
async fn a_credential_that_cannot_be_read_is_ours_to_mend_and_nothing_is_sent() {
    let server = server(|_| token("t")).await;
    let folder = server.folder.path().to_owned();
    let at = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).unwrap();
        folder.join(name)
    };
    // The certificate of one key pair and the private key of another.
    let (one, other) = (folder.join("one.pem"), KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    certificate_file(&one, &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let certificate = std::fs::read_to_string(&one).unwrap();
    let certificate = certificate.split_inclusive("-----END CERTIFICATE-----").next().unwrap();
    let mixed = at("mixed.pem", &format!("{certificate}\n{}", other.serialize_pem()));
    let ec = folder.join("ec.pem");
    certificate_file(&ec, &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let cases = [
        (Credential::ClientSecretFile(folder.join("missing")), "could not be read"),
        (Credential::ClientSecretFile(folder.clone()), "could not be read"),
        (Credential::ClientSecretFile(at("empty", " \n")), "is empty"),
        (Credential::Federated { token_file: at("long", &"x".repeat(100_000)) }, "longer than"),
        (Credential::Certificate { path: at("nothing.pem", "MARKER") }, "holds no certificate"),
        (Credential::Certificate { path: ec }, "not an RSA key"),
        (Credential::Certificate { path: mixed }, "does not belong to the first certificate"),
        (Credential::Certificate { path: server.ca_file() }, "holds no private key"),
    ];
    for (credential, word) in cases {
        let error = service_with(&server, credential).unwrap(&server.key(), &[1]).await.unwrap_err();
        assert_eq!(error.class, Class::Misconfigured, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.to_string().contains("MARKER"), "{error}");
    }
    assert_eq!(token_requests(&server).len(), 0);
}

/// Entra's refusals, as the service reports them; none is asked twice.
#[tokio::test]
async fn refusals_of_entra_id_become_evidence() {
    for (error, number, expected) in [
        ("unauthorized_client", 7_000_112, Class::ApplicationDisabled),
        ("unauthorized_client", 700_016, Class::ApplicationDeleted),
        ("invalid_client", 7_000_229, Class::ApplicationDeleted),
        ("invalid_client", 7_000_222, Class::ClientSecretExpired),
        ("invalid_client", 7_000_215, Class::CredentialRejected),
        ("invalid_request", 90_002, Class::Misconfigured),
    ] {
        let server = server(move |_| {
            json(401, value!({ "error": error, "error_description": "words", "error_codes": [number], "trace_id": "trace-1" }))
        })
        .await;
        let evidence = server.service().probe(&server.key(), &[1], &[0; 32]).await;
        assert_eq!(evidence.class, expected);
        assert_eq!(evidence.inner_code, Some(format!("AADSTS{number}")));
        assert_eq!(evidence.request_id.as_deref(), Some("trace-1"));
        assert_eq!(token_requests(&server).len(), 1);
    }
}

#[tokio::test]
async fn a_token_answer_that_makes_no_sense_is_named_without_repeating_it() {
    for body in [
        value!({}),
        value!({ "access_token": "MARKER" }),
        value!({ "access_token": "MARKER", "token_type": "mac", "expires_in": 3599 }),
        value!({ "access_token": "MARKER\n", "token_type": "Bearer", "expires_in": 3599 }),
        value!({ "access_token": "", "token_type": "Bearer", "expires_in": 3599 }),
        value!({ "access_token": "MARKER", "token_type": "Bearer", "expires_in": "soon" }),
    ] {
        let shown = body.to_string();
        let server = server(move |_| json(200, body.clone())).await;
        let error = server.service().unwrap(&server.key(), &[1]).await.unwrap_err();
        assert_eq!(error.class, Class::Malformed, "{shown}");
        assert!(!format!("{error} {error:?}").contains("MARKER"), "{error:?}");
    }
}

/// Neither the service's `Debug` nor an error's shows a token or a secret.
#[tokio::test]
async fn nothing_secret_is_printed() {
    let failures = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |own, seen| match own.usual(seen) {
        Some(reply) => reply,
        None if failures.fetch_add(1, SeqCst) == 0 => own.value(&[7; 32]),
        None => Reply(418, vec![], "tea".into()),
    })
    .await;
    let service = server.service();
    service.unwrap(&server.key(), &[1]).await.unwrap();
    let error = service.unwrap(&server.key(), &[1]).await.unwrap_err();
    let printed = format!("{service:?} {error:?} {error}");
    assert!(printed.contains("ClientSecretFile"), "the credential's kind is shown: {printed}");
    for secret in ["token-1", "the-client-secret"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
