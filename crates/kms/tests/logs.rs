//! What is written at the loudest level, by the client and by the development vault, holds no secret.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod vault_config;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use keyward_kms::{
    KeyService,
    azure::{AzureConfig, AzureKeyService, Credential},
};
use keyward_model::KeyIdentifier;
use keyward_vault::{FirstStart, ServeOptions, client::VaultAdmin, fault::FaultKind, serve_with};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use serde_json::Value;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every text of `state.json` that is secret: private keys, client secrets, the admin token.
fn secrets_of_state(state: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![state];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match (name.as_str(), field) {
                        ("pkcs8", Value::String(text)) => {
                            // Any part of it would do harm: the middle, which no public key shows.
                            found.push(text[text.len() / 2..][..40].to_owned());
                        }
                        ("value" | "adminToken", Value::String(text)) => found.push(text.clone()),
                        _ => open.push(field),
                    }
                }
            }
            Value::Array(items) => open.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let heard = Heard::default();
    let into = heard.clone();
    // TRACE, of the `log` facade's users too.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || into.clone())
        .finish()
        .init();

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("vault");
    let options = ServeOptions { dir: dir.clone(), listen: "127.0.0.1:0".parse().unwrap() };
    let first = FirstStart { purge_protection: false, ..FirstStart::default() };
    let running = serve_with(options, first).await.unwrap();
    let description = running.description().clone();
    let admin = VaultAdmin::of(&description).unwrap();
    let made = admin.create_key("k1", 2048).await.unwrap();
    let key: KeyIdentifier = made.key_identifier().unwrap().parse().unwrap();
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, &description.client_secret).unwrap();
    let config = vault_config::of(&description, &key, Credential::ClientSecretFile(secret_file.clone()));
    let with =
        |credential: Credential| AzureKeyService::new(AzureConfig { credential, ..config.clone() }).unwrap();

    // What works, in all its ways.
    let service = AzureKeyService::new(config.clone()).unwrap();
    let plaintext: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(73) ^ 0x5a).collect();
    let wrapped = service.wrap(&key, &plaintext).await.unwrap();
    assert_eq!(*service.unwrap(&key, &wrapped).await.unwrap().0, plaintext);
    service.check(&key).await;
    service.probe(&key, &wrapped, &[0; 32]).await;
    admin.rotate_key("k1").await.unwrap();
    let pem_file = folder.path().join("client.pem");
    let client_key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate =
        CertificateParams::new(["keyward".to_owned()]).unwrap().self_signed(&client_key).unwrap();
    std::fs::write(&pem_file, format!("{}{}", certificate.pem(), client_key.serialize_pem())).unwrap();
    admin.add_certificate(&description.client_id, &certificate.pem()).await.unwrap();
    with(Credential::Certificate { path: pem_file }).describe(&key).await.unwrap();
    // And what does not.
    for kind in [FaultKind::Error401, FaultKind::Reset, FaultKind::Firewall, FaultKind::TokenDown] {
        admin.set_fault(kind, None).await.unwrap();
        service.probe(&key, &wrapped, &[0; 32]).await;
        with(Credential::ClientSecretFile(secret_file.clone())).probe(&key, &wrapped, &[0; 32]).await;
        admin.clear_faults().await.unwrap();
    }
    admin.disable_key("k1").await.unwrap();
    tracing::error!(error = ?service.unwrap(&key, &wrapped).await.unwrap_err(), "as a program shows it");
    tracing::error!(?service, ?config, ?description, ?running, "as a program shows them");
    let state: Value = serde_json::from_slice(&std::fs::read(dir.join("state.json")).unwrap()).unwrap();
    running.shutdown().await;

    let mut secrets = secrets_of_state(&state);
    // Two versions, the key that signs tokens, the admin token, one client secret.
    assert!(secrets.len() >= 5, "{}", secrets.len());
    let pkcs8 = BASE64.encode(&client_key.serialize_der());
    secrets.extend([
        BASE64URL_NOPAD.encode(&plaintext)[..40].to_owned(),
        HEXLOWER.encode(&plaintext),
        format!("{plaintext:?}"),
        pkcs8[pkcs8.len() / 2..][..40].to_owned(),
        // What every access token and every assertion begins with.
        "eyJ".to_owned(),
    ]);
    let heard = String::from_utf8_lossy(&heard.0.lock().unwrap()).into_owned();
    for said in ["keyward", "hyper", "rustls", "trying again"] {
        assert!(heard.contains(said), "nothing was heard of {said}");
    }
    let access_log = std::fs::read_to_string(dir.join("access.ndjson")).unwrap();
    assert!(access_log.contains("KeyUnwrap"));
    for secret in secrets {
        for (place, text) in [("the log", &heard), ("the access log", &access_log)] {
            if let Some(at) = text.find(&secret) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                panic!("{place} holds a secret: {}…", &text[line..at]);
            }
        }
    }
}
