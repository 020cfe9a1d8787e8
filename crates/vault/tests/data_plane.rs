//! The data plane, Entra and ARM over real sockets, with plain HTTP calls.

#![allow(clippy::unwrap_used)]

mod served;

use serde_json::{Value, json};
use served::{Served, decode};

#[tokio::test]
async fn a_request_without_token_is_challenged() {
    let vault = Served::start().await;
    let response = vault.http.get(vault.url("/keys/k1/?api-version=2025-07-01")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let tenant = &vault.description().tenant_id;
    let authority = &vault.description().authority;
    assert_eq!(
        challenge,
        format!("Bearer authorization=\"{authority}/{tenant}\", resource=\"https://vault.azure.net\"")
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "Unauthorized");
    vault.stop().await;
}

/// A key of another type is shown as what it is, and can do nothing that keyward asks for.
#[tokio::test]
async fn an_ec_key_is_made_and_wraps_nothing() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let (status, made) = vault.send("POST", "/keys/ec/create", &token, json!({ "kty": "EC" })).await;
    assert_eq!(status, 200, "{made}");
    let key = &made["key"];
    assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
    assert_eq!((decode(&key["x"]).len(), decode(&key["y"]).len()), (32, 32));
    assert_eq!((key.get("n"), &key["key_ops"]), (None, &json!(["sign", "verify"])));
    let wrap = json!({ "alg": "RSA-OAEP-256", "value": "AAECAwQF" });
    let (status, refused) = vault.send("POST", "/keys/ec//wrapkey", &token, wrap.clone()).await;
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("KeyOperationForbidden")));
    // Not even where its operations say so.
    let made = json!({ "kty": "EC", "key_ops": ["wrapKey", "unwrapKey"] });
    let (status, _) = vault.send("POST", "/keys/ec/create", &token, made).await;
    assert_eq!(status, 200);
    let (status, refused) = vault.send("POST", "/keys/ec//wrapkey", &token, wrap).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("BadParameter")), "{refused}");
    vault.stop().await;
}

#[tokio::test]
async fn a_key_is_made_wrapped_with_and_disabled() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let (status, made) =
        vault.send("POST", "/keys/k1/create", &token, json!({ "kty": "RSA", "key_size": 2048 })).await;
    assert_eq!(status, 200, "{made}");
    let kid = made["key"]["kid"].as_str().unwrap().to_owned();
    assert!(kid.starts_with(&format!("{}/keys/k1/", vault.description().url)));
    let version = kid.rsplit('/').next().unwrap().to_owned();
    assert_eq!(version.len(), 32);

    for alg in ["RSA-OAEP-256", "RSA-OAEP", "RSA1_5"] {
        let body = json!({ "alg": alg, "value": "AAECAwQF" });
        let (status, wrapped) = vault.send("POST", "/keys/k1//wrapkey", &token, body).await;
        assert_eq!(status, 200, "{wrapped}");
        assert_eq!(wrapped["kid"], kid);
        let body = json!({ "alg": alg, "value": wrapped["value"] });
        let (status, plain) =
            vault.send("POST", &format!("/keys/k1/{version}/unwrapkey"), &token, body.clone()).await;
        assert_eq!(status, 200, "{plain}");
        assert_eq!(decode(&plain["value"]), [0, 1, 2, 3, 4, 5]);
        let (status, plain) = vault.send("POST", &format!("/keys/k1/{version}/decrypt"), &token, body).await;
        assert_eq!((status, decode(&plain["value"])), (200, vec![0, 1, 2, 3, 4, 5]));
    }

    let wrap = json!({ "alg": "RSA-OAEP-256", "value": "AAECAwQF" });
    let (_, wrapped) = vault.send("POST", "/keys/k1/wrapkey", &token, wrap.clone()).await;
    assert_eq!(wrapped["error"]["code"], "NotFound", "a path without the version segment does not exist");
    let (_, wrapped) = vault.send("POST", "/keys/k1//wrapkey", &token, wrap.clone()).await;
    let (status, updated) = vault
        .send("PATCH", &format!("/keys/k1/{version}"), &token, json!({ "attributes": { "enabled": false } }))
        .await;
    assert_eq!((status, &updated["attributes"]["enabled"]), (200, &json!(false)));
    let (status, shown) = vault.send("GET", "/keys/k1/", &token, Value::Null).await;
    assert_eq!((status, &shown["attributes"]["enabled"]), (200, &json!(false)));
    let (status, refused) = vault
        .send(
            "POST",
            "/keys/k1//unwrapkey",
            &token,
            json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] }),
        )
        .await;
    assert_eq!(status, 403);
    assert_eq!(refused["error"]["innererror"]["code"], "KeyDisabled");
    assert_eq!(refused["error"]["message"], "Operation unwrapKey is not allowed on a disabled key.");
    let (status, _) = vault.send("POST", "/keys/k1//wrapkey", &token, wrap).await;
    assert_eq!(status, 200, "wrap is reported to work on a disabled key");
    vault.stop().await;
}

#[tokio::test]
async fn every_answer_has_azures_headers() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let response = vault
        .http
        .get(vault.url("/keys/k1?api-version=7.4"))
        .bearer_auth(&token)
        .header("x-ms-client-request-id", "my-own-id")
        .send()
        .await
        .unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-ms-keyvault-region"), "westeurope");
    assert_eq!(header("x-ms-client-request-id"), "my-own-id");
    assert_eq!(
        header("x-ms-keyvault-network-info"),
        "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;"
    );
    assert_eq!(header("strict-transport-security"), "max-age=31536000;includeSubDomains");
    assert_eq!(header("cache-control"), "no-cache");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("x-ms-keyvault-service-version").starts_with("1."));
    assert_eq!(header("x-ms-request-id").len(), 36);
    vault.stop().await;
}

#[tokio::test]
async fn the_access_log_says_who_did_what() {
    let vault = Served::start().await;
    let made = vault.admin.create_key("k1", 2048).await.unwrap();
    let version = made.versions[0].version.clone();
    let token = vault.token().await;
    let wrap = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    vault.send("POST", &format!("/keys/k1/{version}/wrapkey"), &token, wrap).await;
    vault.send("POST", "/keys/k1/rotate", &token, Value::Null).await;
    vault.send("GET", "/keys/none", &token, Value::Null).await;
    let log = vault.admin.log(0).await.unwrap();
    let client = Some(vault.description().client_id.clone());
    let seen: Vec<_> = log.iter().map(|e| (e.operation.as_str(), e.status, e.code.as_deref())).collect();
    assert_eq!(
        seen,
        [
            ("Token", 200, None),
            ("KeyWrap", 200, None),
            ("KeyRotate", 403, Some("Forbidden")),
            ("KeyGet", 404, Some("KeyNotFound")),
        ]
    );
    assert!(log.iter().all(|e| e.client == client && e.address == "127.0.0.1"));
    assert_eq!((log[1].key.as_deref(), log[1].version.as_ref()), (Some("k1"), Some(&version)));
    assert_eq!(log[2].inner_code.as_deref(), Some("ForbiddenByRbac"));
    assert_eq!(vault.admin.log(3).await.unwrap(), log[3..]);
    vault.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_a_bad_parameter() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let long = data_encoding::BASE64URL_NOPAD.encode(&[1; 191]);
    for (method, path, body) in [
        ("POST", "/keys/k2/create", json!({ "kty": "oct" })),
        ("POST", "/keys/k2/create", json!({ "kty": "RSA", "key_size": 1024 })),
        ("POST", "/keys/k2/create", json!({ "kty": "RSA", "key_ops": ["melt"] })),
        ("POST", "/keys/k2/create", json!({ "kty": "RSA", "attributes": { "nbf": 200, "exp": 100 } })),
        ("POST", "/keys/k2/create", Value::Null),
        ("PUT", "/keys/k2", json!({ "key": { "kty": "RSA", "n": "AQAB", "e": "AQAB" } })),
        ("POST", "/keys/k1//wrapkey", json!({ "alg": "RSA-OAEP-256", "value": long })),
        ("POST", "/keys/k1//wrapkey", json!({ "alg": "A256KW", "value": "AAEC" })),
        ("POST", "/keys/k1//unwrapkey", json!({ "alg": "RSA-OAEP-256", "value": "AAEC" })),
        ("POST", "/keys/k1//unwrapkey", json!({ "alg": "RSA-OAEP-256", "value": "?" })),
        ("PUT", "/keys/k1/rotationpolicy", json!({ "attributes": { "expiryTime": "2 years" } })),
        ("GET", "/keys?maxresults=26", Value::Null),
    ] {
        let (status, answer) = vault.send(method, path, &token, body.clone()).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("BadParameter")), "{path} {body}");
    }
    let no_version = vault.http.get(vault.url("/keys/k1")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(no_version.status(), 400);
    let escaped = vault.url("/keys/k1?api%2Dversion=7.4");
    assert_eq!(vault.http.get(escaped).bearer_auth(&token).send().await.unwrap().status(), 200);
    let unknown = vault.url("/keys/k1?api-version=1.0");
    assert_eq!(vault.http.get(unknown).bearer_auth(&token).send().await.unwrap().status(), 400);
    vault.stop().await;
}

#[tokio::test]
async fn a_key_does_only_what_its_key_ops_say() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let body = json!({ "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"] });
    vault.send("POST", "/keys/k1/create", &token, body).await;
    let plain = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    let (status, wrapped) = vault.send("POST", "/keys/k1//wrapkey", &token, plain).await;
    assert_eq!(status, 200);
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let (status, refused) = vault.send("POST", "/keys/k1//decrypt", &token, sealed.clone()).await;
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("KeyOperationForbidden")));
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, json!({ "key_ops": ["decrypt"] })).await.0, 200);
    let (status, opened) = vault.send("POST", "/keys/k1//decrypt", &token, sealed.clone()).await;
    assert_eq!((status, &opened["value"]), (200, &json!("AAEC")));
    assert_eq!(vault.send("POST", "/keys/k1//unwrapkey", &token, sealed).await.0, 403);
    vault.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let vault = Served::start().await;
    vault.admin.create_key("k0", 2048).await.unwrap();
    for _ in 0..6 {
        vault.admin.rotate_key("k0").await.unwrap();
    }
    let token = vault.token().await;
    let mut url = vault.url("/keys/k0/versions?api-version=7.4&maxresults=3");
    let mut pages = Vec::new();
    loop {
        let page: Value =
            vault.http.get(&url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        pages.push(page["value"].as_array().unwrap().len());
        match page["nextLink"].as_str() {
            Some(next) => next.clone_into(&mut url),
            None => break,
        }
    }
    assert_eq!(pages, [3, 3, 1]);
    vault.stop().await;
}

/// As with a hosts file: the vault and Entra under Azure's own names, with no setting but the trusted authority.
#[tokio::test]
async fn azures_own_names_work() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let d = vault.description();
    let port = d.url.rsplit(':').next().unwrap();
    let host = format!("{}.vault.azure.net", d.vault_name);
    let here: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let http = served::http_client_builder(d)
        .resolve(&host, here)
        .resolve("login.microsoftonline.com", here)
        .build()
        .unwrap();
    let url = format!("https://{host}:{port}/keys/k1?api-version=7.4");
    let challenge = http.get(&url).send().await.unwrap();
    let challenge = challenge.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(
        challenge.contains(&format!("authorization=\"https://login.microsoftonline.com/{}\"", d.tenant_id))
    );
    let discovery: Value = http
        .get(format!("https://login.microsoftonline.com:{port}/common/discovery/instance?api-version=1.1"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(discovery["metadata"][0]["preferred_network"], format!("login.microsoftonline.com:{port}"));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", d.client_id.as_str()),
        ("client_secret", d.client_secret.as_str()),
        ("scope", "https://vault.azure.net/.default"),
    ];
    let token: Value = http
        .post(format!("https://login.microsoftonline.com:{port}/{}/oauth2/v2.0/token", d.tenant_id))
        .form(&form)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let token = token["access_token"].as_str().unwrap();
    let shown: Value = http.get(&url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
    assert!(shown["key"]["kid"].as_str().unwrap().starts_with(&format!("https://{host}:{port}/keys/k1/")));
    vault.stop().await;
}

#[tokio::test]
async fn the_admin_api_wants_its_token() {
    let vault = Served::start().await;
    let url = format!("{}/keyward/v1/status", vault.description().admin_url);
    for token in ["", "wrong"] {
        let response = vault.http.get(&url).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 401);
    }
    let vault_token = vault.token().await;
    assert_eq!(vault.http.get(&url).bearer_auth(vault_token).send().await.unwrap().status(), 401);
    assert_eq!(vault.admin.status().await.unwrap().url, vault.description().url);
    vault.stop().await;
}
