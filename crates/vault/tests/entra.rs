//! The token endpoint: every credential is really checked, every refusal has Entra's own number.

#![allow(clippy::unwrap_used)]

mod served;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keyward_vault::admin::FederatedRegistration;
use keyward_vault::entra::read_certificate;
use keyward_vault::fault::FaultKind;
use keyward_vault::state::Settings;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use served::Served;

const SCOPE: (&str, &str) = ("scope", "https://vault.azure.net/.default");
const GRANT: (&str, &str) = ("grant_type", "client_credentials");
const ASSERTION_TYPE: (&str, &str) =
    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");

#[tokio::test]
async fn every_wrong_credential_is_named() {
    let vault = Served::start().await;
    let d = vault.description();
    let (id, secret) = (d.client_id.as_str(), d.client_secret.as_str());
    let unknown = "00000000-0000-0000-0000-000000000001";
    for (form, status, error, number) in [
        (vec![GRANT, SCOPE, ("client_id", id), ("client_secret", "no")], 401, "invalid_client", 7_000_215),
        (vec![GRANT, SCOPE, ("client_id", id)], 401, "invalid_client", 7_000_218),
        (
            vec![GRANT, SCOPE, ("client_id", unknown), ("client_secret", secret)],
            400,
            "unauthorized_client",
            700_016,
        ),
        (vec![GRANT, SCOPE, ("client_secret", secret)], 400, "invalid_request", 900_144),
        (
            vec![("grant_type", "password"), SCOPE, ("client_id", id), ("client_secret", secret)],
            400,
            "unsupported_grant_type",
            70003,
        ),
        (
            vec![
                GRANT,
                ("scope", "https://graph.microsoft.com/.default"),
                ("client_id", id),
                ("client_secret", secret),
            ],
            400,
            "invalid_resource",
            500_011,
        ),
        (
            vec![GRANT, ("scope", "https://vault.azure.net"), ("client_id", id), ("client_secret", secret)],
            400,
            "invalid_scope",
            1_002_012,
        ),
    ] {
        refused(&vault, &form, status, error, number).await;
    }
    let good = [GRANT, SCOPE, ("client_id", id), ("client_secret", secret)];
    assert_eq!(vault.token_request(&good).await.0, 200);

    vault.admin.disable_application(id).await.unwrap();
    refused(&vault, &good, 400, "unauthorized_client", 7_000_112).await;
    vault.admin.enable_application(id).await.unwrap();
    vault.admin.expire_secret(id).await.unwrap();
    refused(&vault, &good, 401, "invalid_client", 7_000_222).await;
    let added = vault.admin.add_secret(id, Some(60)).await.unwrap();
    let with_added = [GRANT, SCOPE, ("client_id", id), ("client_secret", added.client_secret.as_str())];
    assert_eq!(vault.token_request(&with_added).await.0, 200);
    advance(&vault, 120).await;
    refused(&vault, &with_added, 401, "invalid_client", 7_000_222).await;

    vault.admin.set_fault(FaultKind::TokenDown, None).await.unwrap();
    refused(&vault, &with_added, 503, "temporarily_unavailable", 90033).await;
    vault.admin.clear_faults().await.unwrap();

    vault.admin.delete_application(id).await.unwrap();
    refused(&vault, &good, 400, "unauthorized_client", 700_016).await;
    vault.stop().await;
}

#[tokio::test]
async fn another_tenant_is_not_found() {
    let vault = Served::start().await;
    let url = format!("{}/00000000-0000-0000-0000-000000000009", vault.description().authority);
    let response =
        vault.http.post(format!("{url}/oauth2/v2.0/token")).form(&[GRANT, SCOPE]).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error_codes"], json!([90002]));
    let discovery =
        vault.http.get(format!("{url}/v2.0/.well-known/openid-configuration")).send().await.unwrap();
    assert_eq!(discovery.status(), 400);
    vault.stop().await;
}

#[tokio::test]
async fn discovery_leads_to_keys_that_check_the_tokens() {
    let vault = Served::start().await;
    let d = vault.description();
    let get = async |url: &str| -> Value { vault.http.get(url).send().await.unwrap().json().await.unwrap() };
    let discovery =
        get(&format!("{}/{}/v2.0/.well-known/openid-configuration", d.authority, d.tenant_id)).await;
    assert_eq!(discovery["token_endpoint"], format!("{}/{}/oauth2/v2.0/token", d.authority, d.tenant_id));
    let keys = get(discovery["jwks_uri"].as_str().unwrap()).await;
    let token = vault.token().await;
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!(header.alg, Algorithm::RS256);
    let key =
        keys["keys"].as_array().unwrap().iter().find(|k| k["kid"] == header.kid.clone().unwrap()).unwrap();
    let decoding = jsonwebtoken::DecodingKey::from_rsa_components(
        key["n"].as_str().unwrap(),
        key["e"].as_str().unwrap(),
    )
    .unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::RS256);
    validation.set_audience(&["https://vault.azure.net"]);
    validation.set_issuer(&[format!("https://sts.windows.net/{}/", d.tenant_id)]);
    let claims = jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap().claims;
    assert_eq!(claims["appid"], d.client_id.as_str());
    assert_eq!(claims["tid"], d.tenant_id.as_str());
    assert_eq!(claims["ver"], "1.0");
    vault.stop().await;
}

#[tokio::test]
async fn a_client_certificate_is_checked_in_every_part() {
    let vault = Served::start().await;
    let d = vault.description();
    let client = Certificate::make();
    vault.admin.add_certificate(&d.client_id, &client.pem).await.unwrap();
    let token_url = format!("{}/{}/oauth2/v2.0/token", d.authority, d.tenant_id);
    let now = jiff::Timestamp::now().as_second();
    let good = json!({
        "iss": d.client_id, "sub": d.client_id, "aud": token_url, "nbf": now, "exp": now + 300, "jti": "1",
    });
    for algorithm in [Algorithm::RS256, Algorithm::PS256] {
        let (status, body) = present(&vault, &client.sign(algorithm, &good)).await;
        assert_eq!(status, 200, "{body}");
    }
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        client.sign(Algorithm::RS256, &claims)
    };
    for (assertion, number) in [
        (with("aud", json!("https://elsewhere.example/token")), 50012),
        (with("exp", json!(now - 60)), 500_133),
        (with("nbf", json!(now + 600)), 500_133),
        (with("sub", json!("somebody")), 700_027),
        (Certificate::make().sign(Algorithm::RS256, &good), 700_027),
        (tampered(&client.sign(Algorithm::RS256, &good)), 700_027),
        ("not a token".to_owned(), 50027),
    ] {
        let (status, body) = present(&vault, &assertion).await;
        assert!(status >= 400, "{body}");
        assert_eq!(body["error_codes"], json!([number]), "{body}");
    }
    // The certificate's own end.
    advance(&vault, 10 * 366 * 86_400).await;
    let later = now + 10 * 366 * 86_400;
    let mut claims = good.clone();
    claims["nbf"] = json!(later);
    claims["exp"] = json!(later + 300);
    let (_, body) = present(&vault, &client.sign(Algorithm::RS256, &claims)).await;
    assert_eq!(body["error_codes"], json!([1_000_502]), "{body}");
    vault.stop().await;
}

#[tokio::test]
async fn a_federated_token_needs_issuer_subject_audience_and_signature() {
    let vault = Served::start().await;
    let id = vault.description().client_id.clone();
    let issuer = Certificate::make();
    let read = read_certificate(&issuer.pem).unwrap();
    let registration = FederatedRegistration {
        issuer: "https://cluster.example".into(),
        subject: "system:serviceaccount:db:keyward".into(),
        audience: "api://AzureADTokenExchange".into(),
        n: read.n,
        e: read.e,
    };
    vault.admin.add_federated(&id, &registration).await.unwrap();
    let now = jiff::Timestamp::now().as_second();
    let good = json!({
        "iss": registration.issuer, "sub": registration.subject, "aud": [registration.audience],
        "iat": now, "exp": now + 3600,
    });
    let (status, body) = present(&vault, &issuer.sign(Algorithm::RS256, &good)).await;
    assert_eq!(status, 200, "{body}");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.sign(Algorithm::RS256, &claims)
    };
    for (assertion, number) in [
        (with("iss", json!("https://other.example")), 70021),
        (with("sub", json!("system:serviceaccount:db:other")), 70021),
        (with("aud", json!("api://other")), 70021),
        (with("exp", json!(now - 60)), 500_133),
        (Certificate::make().sign(Algorithm::RS256, &good), 700_027),
    ] {
        let (status, body) = present(&vault, &assertion).await;
        assert_eq!((status, &body["error_codes"]), (401, &json!([number])), "{body}");
    }
    vault.stop().await;
}

#[tokio::test]
async fn the_managed_identity_endpoint_knows_its_identities() {
    let vault = Served::start().await;
    let url = format!("{}/metadata/identity/oauth2/token", vault.description().authority);
    let ask = async |query: &str, header: bool| -> (u16, Value) {
        let mut request = vault.http.get(format!("{url}?api-version=2018-02-01&{query}"));
        if header {
            request = request.header("Metadata", "true");
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    };
    let resource = "resource=https://vault.azure.net";
    assert_eq!(ask(resource, true).await.0, 400, "no identity yet");
    let identity = vault.admin.create_managed_identity("node").await.unwrap();
    assert_eq!(ask(resource, false).await.0, 400, "a request without the Metadata header");
    let (status, body) = ask(resource, true).await;
    assert_eq!((status, &body["client_id"]), (200, &json!(identity.client_id)));
    assert_eq!(ask(&format!("{resource}&client_id={}", identity.client_id), true).await.0, 200);
    let not_managed = &vault.description().client_id;
    assert_eq!(ask(&format!("{resource}&client_id={not_managed}"), true).await.0, 400);

    vault.admin.create_key("k1", 2048).await.unwrap();
    vault.admin.grant(&identity.client_id, None, &[]).await.unwrap();
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(vault.send("GET", "/keys/k1", token, Value::Null).await.0, 200);
    vault.stop().await;
}

#[tokio::test]
async fn tokens_that_are_not_good_for_the_vault() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.0, 200);
    let refused = async |token: &str, starts: &str| {
        let (status, body) = vault.send("GET", "/keys/k1", token, Value::Null).await;
        let message = body["error"]["message"].as_str().unwrap();
        assert!(status == 401 && message.starts_with(starts), "{body}");
    };
    refused("nonsense", "AKV10000").await;
    refused(&tampered(&token), "AKV10046").await;
    refused(&vault.token_for("https://management.azure.com/.default").await, "AKV10022").await;
    let other = Served::start().await;
    refused(&other.token().await, "AKV10032").await;
    other.stop().await;
    // The same claims, signed by somebody else under the tenant's key id.
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&token).unwrap();
    let forger = Certificate::make();
    let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_rsa_der(&forger.pkcs1)).unwrap();
    refused(&forged, "AKV10046").await;

    // Its application disabled, a token is good until it expires.
    vault.admin.disable_application(&vault.description().client_id).await.unwrap();
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.0, 200);
    advance(&vault, 3700).await;
    refused(&token, "Error validating token: IDX10223").await;
    vault.stop().await;
}

async fn refused(vault: &Served, form: &[(&str, &str)], status: u16, error: &str, number: u32) {
    let (got, body) = vault.token_request(form).await;
    assert_eq!(
        (got, &body["error"], &body["error_codes"]),
        (status, &json!(error), &json!([number])),
        "{body}"
    );
    assert!(body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{number}: ")));
    assert!(
        body["trace_id"].is_string() && body["correlation_id"].is_string() && body["timestamp"].is_string()
    );
}

async fn advance(vault: &Served, seconds: i64) {
    let settings = vault.admin.status().await.unwrap().settings;
    let clock_offset_s = settings.clock_offset_s + seconds;
    vault.admin.set_settings(&Settings { clock_offset_s, ..settings }).await.unwrap();
}

async fn present(vault: &Served, assertion: &str) -> (u16, Value) {
    let id = vault.description().client_id.clone();
    vault
        .token_request(&[GRANT, SCOPE, ("client_id", &id), ASSERTION_TYPE, ("client_assertion", assertion)])
        .await
}

/// Flips a bit in the middle of the signature.
fn tampered(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    bytes[100] ^= 1;
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&bytes))
}

/// A self-signed RSA certificate and its key.
struct Certificate {
    pem: String,
    thumbprint: String,
    pkcs1: Vec<u8>,
}

impl Certificate {
    fn make() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.serial_number = Some(u64::from(SERIAL.fetch_add(1, Ordering::Relaxed)).into());
        let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).year();
        params.not_before = rcgen::date_time_ymd(i32::from(now) - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(i32::from(now) + 2, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        let thumbprint = read_certificate(&pem).unwrap().sha256;
        let pkcs1 = key.serialize_der()[26..].to_vec();
        Self { pem, thumbprint, pkcs1 }
    }

    fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(self.thumbprint.clone());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_der(&self.pkcs1)).unwrap()
    }
}

#[tokio::test]
async fn many_callers_at_once_all_get_tokens() {
    let vault = Arc::new(Served::start().await);
    let asked: Vec<_> = (0..32)
        .map(|_| {
            let vault = Arc::clone(&vault);
            tokio::spawn(async move { vault.token().await })
        })
        .collect();
    for one in asked {
        assert_eq!(one.await.unwrap().split('.').count(), 3);
    }
    Arc::into_inner(vault).unwrap().stop().await;
}
