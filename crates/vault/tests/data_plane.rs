//! The data plane, Entra and ARM over real sockets, with plain HTTP calls.

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
    assert_eq!(challenge, format!("Bearer authorization=\"{authority}/{tenant}\", resource=\"https://vault.azure.net\""));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "Unauthorized");
    vault.stop().await;
}

#[tokio::test]
async fn a_key_is_made_wrapped_with_and_disabled() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let (status, made) = vault
        .send("POST", "/keys/k1/create", &token, json!({ "kty": "RSA", "key_size": 2048 }))
        .await;
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
        .send("POST", "/keys/k1//unwrapkey", &token, json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] }))
        .await;
    assert_eq!(status, 403);
    assert_eq!(refused["error"]["innererror"]["code"], "KeyDisabled");
    assert_eq!(refused["error"]["message"], "Operation unwrapKey is not allowed on a disabled key.");
    let (status, _) = vault.send("POST", "/keys/k1//wrapkey", &token, wrap).await;
    assert_eq!(status, 200, "wrap is reported to work on a disabled key");
    vault.stop().await;
}
