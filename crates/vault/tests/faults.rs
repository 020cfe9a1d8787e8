//! Each fault of the command line: what a client sees, that Entra and ARM are spared, and that it ends.

#![allow(clippy::unwrap_used)]

mod served;

use std::time::Duration;

use keyward_vault::fault::FaultKind;
use keyward_vault::state::Settings;
use serde_json::{Value, json};
use served::{Served, http_client};

/// Sends a GET of key `k1` on a new connection: status, error code, inner code; or how the connection failed.
async fn probe(vault: &Served, token: &str) -> Result<(u16, Value, Value), reqwest::Error> {
    let url = vault.url("/keys/k1?api-version=7.4");
    let response = http_client(vault.description()).get(url).bearer_auth(token).send().await?;
    let status = response.status().as_u16();
    let body: Value = response.json().await?;
    Ok((status, body["error"]["code"].clone(), body["error"]["innererror"]["code"].clone()))
}

/// All causes in one line.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn with_key() -> (Served, String) {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    (vault, token)
}

#[tokio::test]
async fn answers_have_azures_status_and_codes() {
    let (vault, token) = with_key().await;
    for (kind, status, code, inner) in [
        (FaultKind::Throttle, 429, json!("Throttled"), Value::Null),
        (FaultKind::Error401, 401, json!("Unauthorized"), Value::Null),
        (FaultKind::Error500, 500, json!("InternalServerError"), Value::Null),
        (FaultKind::Error503, 503, json!("ServiceUnavailable"), Value::Null),
        (FaultKind::Firewall, 403, json!("Forbidden"), json!("ForbiddenByFirewall")),
        (FaultKind::PrivateLink, 403, json!("Forbidden"), json!("ForbiddenByConnection")),
    ] {
        vault.admin.set_fault(kind, None).await.unwrap();
        assert_eq!(probe(&vault, &token).await.unwrap(), (status, code, inner), "{kind}");
        vault.token().await; // Entra is spared.
        vault.admin.clear_faults().await.unwrap();
        assert_eq!(probe(&vault, &token).await.unwrap().0, 200, "{kind} is over");
    }
    vault.stop().await;
}

#[tokio::test]
async fn a_throttled_answer_says_when_to_come_back() {
    let (vault, token) = with_key().await;
    let settings = vault.admin.status().await.unwrap().settings;
    vault.admin.set_settings(&Settings { retry_after_s: 7, ..settings }).await.unwrap();
    vault.admin.set_fault(FaultKind::Throttle, None).await.unwrap();
    let response =
        vault.http.get(vault.url("/keys/k1?api-version=7.4")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "7");
    vault.stop().await;
}

#[tokio::test]
async fn connections_fail_in_their_own_ways() {
    let (vault, token) = with_key().await;
    for (kind, text) in [
        (FaultKind::Refuse, "refused"),
        (FaultKind::Reset, "reset"),
        (FaultKind::DnsGone, "UnrecognisedName"),
    ] {
        // One connection that is open already, and a new one.
        let url = vault.url("/keys/k1?api-version=7.4");
        let open = http_client(vault.description());
        assert_eq!(open.get(&url).bearer_auth(&token).send().await.unwrap().status(), 200);
        vault.admin.set_fault(kind, None).await.unwrap();
        let on_open = open.get(&url).bearer_auth(&token).send().await;
        assert!(on_open.is_err(), "{kind} ends open connections");
        let error = probe(&vault, &token).await.unwrap_err();
        assert!(chain(&error).contains(text), "{kind}: {}", chain(&error));
        vault.token().await; // Entra is spared.
        vault.admin.clear_faults().await.unwrap();
        // The listener notices at once; the kernel may need a moment.
        tokio::time::timeout(Duration::from_secs(10), async {
            while probe(&vault, &token).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{kind} does not end"));
    }
    vault.stop().await;
}

#[tokio::test]
async fn hang_answers_nothing_until_it_ends() {
    let (vault, token) = with_key().await;
    vault.admin.set_fault(FaultKind::Hang, None).await.unwrap();
    let mut waiting = Box::pin(probe(&vault, &token));
    assert!(tokio::time::timeout(Duration::from_millis(700), &mut waiting).await.is_err());
    vault.admin.clear_faults().await.unwrap();
    assert!(waiting.await.is_err(), "the hanging request gets no answer");
    assert_eq!(probe(&vault, &token).await.unwrap().0, 200);
    let log = vault.admin.log(0).await.unwrap();
    assert!(
        log.iter().any(|e| e.status == 0 && e.code.as_deref() == Some("hang") && e.operation == "KeyGet")
    );
    vault.stop().await;
}

#[tokio::test]
async fn slow_answers_late_and_right() {
    let (vault, token) = with_key().await;
    let settings = vault.admin.status().await.unwrap().settings;
    vault.admin.set_settings(&Settings { slow_ms: 600, ..settings }).await.unwrap();
    vault.admin.set_fault(FaultKind::Slow, None).await.unwrap();
    let mut waiting = Box::pin(probe(&vault, &token));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    assert_eq!(waiting.await.unwrap().0, 200);
    vault.stop().await;
}

#[tokio::test]
async fn read_only_serves_reads_from_the_paired_region() {
    let (vault, token) = with_key().await;
    vault.grant(&["all"]).await;
    vault.admin.set_fault(FaultKind::ReadOnly, None).await.unwrap();
    let response =
        vault.http.get(vault.url("/keys/k1?api-version=7.4")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-ms-keyvault-region"]),
        (200, &"northeurope".parse().unwrap())
    );
    let wrap = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    assert_eq!(vault.send("POST", "/keys/k1//wrapkey", &token, wrap).await.0, 200);
    assert_eq!(vault.send("POST", "/keys/k1/rotate", &token, Value::Null).await.0, 503);
    let disable = json!({ "attributes": { "enabled": false } });
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, disable).await.0, 503);
    vault.stop().await;
}

#[tokio::test]
async fn a_fault_with_a_time_ends_by_itself_and_survives_a_restart() {
    let (vault, token) = with_key().await;
    vault.admin.set_fault(FaultKind::Refuse, Some(4)).await.unwrap();
    vault.admin.set_fault(FaultKind::Error500, None).await.unwrap();
    assert!(probe(&vault, &token).await.unwrap_err().is_connect());
    let dir = vault.stop().await;
    let vault = Served::start_in(dir, keyward_vault::FirstStart::default()).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while let Err(error) = probe(&vault, &token).await {
            assert!(error.is_connect(), "refused, not left waiting: {}", chain(&error));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("refuse ends after its four seconds");
    assert_eq!(probe(&vault, &token).await.unwrap().0, 500, "the other one is still on");
    assert_eq!(vault.admin.faults().await.unwrap().len(), 1);
    vault.stop().await;
}
