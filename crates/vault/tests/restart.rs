//! Restarts, and folders that can't be served.

#![allow(clippy::unwrap_used)]

mod served;

use std::os::unix::fs::PermissionsExt;

use keyward_vault::disk::DiskError;
use keyward_vault::{FirstStart, ServeOptions, VaultError, serve};
use serde_json::{Value, json};
use served::Served;

fn options(dir: &std::path::Path) -> ServeOptions {
    ServeOptions { dir: dir.to_owned(), listen: "127.0.0.1:0".parse().unwrap() }
}

#[tokio::test]
async fn a_restart_changes_nothing_that_clients_know() {
    let vault = Served::start().await;
    let made = vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let before = vault.description().clone();
    let (_, wrapped) = vault
        .send("POST", "/keys/k1//wrapkey", &token, json!({ "alg": "RSA-OAEP-256", "value": "AAEC" }))
        .await;
    let vault = Served::start_in(vault.stop().await, FirstStart::default()).await;
    assert_eq!(*vault.description(), before);
    assert_eq!(vault.admin.keys().await.unwrap(), [made]);
    // The old token, and what was wrapped before.
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let (status, opened) = vault.send("POST", "/keys/k1//unwrapkey", &token, sealed).await;
    assert_eq!((status, &opened["value"]), (200, &json!("AAEC")));
    let operations: Vec<String> =
        vault.admin.log(0).await.unwrap().into_iter().map(|entry| entry.operation).collect();
    assert_eq!(operations, ["Token", "KeyWrap", "KeyUnwrap"]);
    vault.stop().await;
}

#[tokio::test]
async fn secrets_are_for_the_owner_only() {
    let vault = Served::start().await;
    let dir = vault.stop().await;
    for file in ["vault.json", "state.json", "ca-key.pem", "access.ndjson"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn one_folder_is_served_once() {
    let vault = Served::start().await;
    let dir = vault.dir.as_ref().unwrap().path().to_owned();
    let error = serve(options(&dir)).await.unwrap_err();
    assert!(matches!(error, VaultError::Disk(DiskError::InUse { .. })), "{error}");
    assert!(error.hint().is_some());
    vault.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_said_and_not_replaced() {
    let vault = Served::start().await;
    let port: u16 = vault.description().url.rsplit(':').next().unwrap().parse().unwrap();
    let dir = vault.stop().await;
    let _squatter = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = serve(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, VaultError::Listen { .. }), "{error}");
    assert!(error.hint().unwrap().contains("another process has the port"));
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_left_alone() {
    let vault = Served::start().await;
    let dir = vault.stop().await;
    let path = dir.path().join("state.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut newer: Value = serde_json::from_str(&good).unwrap();
    newer["format"] = json!(99);
    for (bad, expected) in [
        (good[..good.len() / 2].to_owned(), "is not a vault state file"),
        (good.replacen("\"format\"", "\"fromat\"", 1), "is not a vault state file"),
        (newer.to_string(), "has format 99"),
    ] {
        std::fs::write(&path, &bad).unwrap();
        let error = serve(options(dir.path())).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad, "nothing is overwritten");
    }
    std::fs::write(&path, good).unwrap();
    serve(options(dir.path())).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_log_line_cut_short_by_a_crash_hides_no_other() {
    let vault = Served::start().await;
    vault.token().await;
    let dir = vault.stop().await;
    let path = dir.path().join("access.ndjson");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"time\":\"2026-");
    std::fs::write(&path, bytes).unwrap();
    let vault = Served::start_in(dir, FirstStart::default()).await;
    vault.token().await;
    assert_eq!(vault.admin.log(0).await.unwrap().len(), 2);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_memory_and_disk_agreeing() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    for milliseconds in (0..60).step_by(4) {
        let rotate = vault.send("POST", "/keys/k1/rotate", &token, Value::Null);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(milliseconds), rotate).await;
    }
    // One more change, so that the last one given up is through.
    vault.admin.rotate_key("k1").await.unwrap();
    let in_memory = vault.admin.keys().await.unwrap();
    let vault = Served::start_in(vault.stop().await, FirstStart::default()).await;
    assert_eq!(vault.admin.keys().await.unwrap(), in_memory);
    vault.stop().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_made_durable_does_not_happen() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let tag = |text: &str| json!({ "tags": { "t": text } });
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, tag("one")).await.0, 200);
    // The folder is gone for a while.
    let dir = vault.dir.as_ref().unwrap().path().to_owned();
    let elsewhere = dir.with_extension("away");
    std::fs::rename(&dir, &elsewhere).unwrap();
    let (status, body) = vault.send("PATCH", "/keys/k1", &token, tag("two")).await;
    assert_eq!((status, &body["error"]["code"]), (500, &json!("InternalServerError")));
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.1["tags"]["t"], "one");
    std::fs::rename(&elsewhere, &dir).unwrap();
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, tag("three")).await.0, 200);
    let vault = Served::start_in(vault.stop().await, FirstStart::default()).await;
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.1["tags"]["t"], "three");
    vault.stop().await;
}
