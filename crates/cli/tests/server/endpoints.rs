//! `keyward encryption endpoint`: what changes by itself on the server.

use serde_json::{Value, json};

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_private_endpoint_is_asked_for_followed_and_deleted() {
    let site = Site::start().await;
    site.login().await;
    site.says(&["project", "create", "payments"]).await;
    let (code, said) = site.fails(&["encryption", "endpoint", "create", "US_EAST_2"]).await;
    assert!(code == 1 && said.contains("ENCRYPTION_AT_REST_NOT_ENABLED"), "{said}");
    site.set_customer_key().await;
    site.says(&["encryption", "set", "--require-private-networking"]).await;
    let (code, said) = site.fails(&["encryption", "endpoint", "create", "MARS"]).await;
    assert!(code == 1 && said.contains("regionName"), "{said}");

    // --watch ends where the vault's owner has to act; on no terminal it tells in lines how far it is.
    let words = ["encryption", "endpoint", "create", "US_EAST_2", "--watch"];
    let (said, told) = site.says_with(&words, "").await;
    assert!(said.contains("● PENDING_ACCEPTANCE"), "{said}");
    assert!(said.ends_with("approve the connection in the vault's networking settings\n"), "{said}");
    assert_eq!(told.lines().next(), Some("private endpoint in US_EAST_2: INITIATING"), "{told}");
    let list = &["encryption", "endpoint", "list"];
    let made = site.json(list).await[0].clone();
    let connection = made["privateEndpointConnectionName"].as_str().unwrap();
    site.admin.approve_private_endpoint(connection).await.unwrap();
    site.until("active", list, |list| list[0]["status"] == "ACTIVE").await;
    let listed = site.says(list).await;
    assert!(listed.contains("● ACTIVE") && listed.contains(connection), "{listed}");

    let id = made["id"].as_str().unwrap();
    let deleted = site.json(&["encryption", "endpoint", "delete", id]).await;
    assert_eq!(deleted, json!({ "id": id, "deletionRequested": true }));
    site.until("gone", list, |list| list.as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(site.says(list).await, "no private endpoint\n");
    let (code, said) = site.fails(&["encryption", "endpoint", "delete", id]).await;
    assert!(code == 1 && said.contains("PRIVATE_ENDPOINT_NOT_FOUND"), "{said}");

    // A rejected one says why.
    site.json(&["encryption", "endpoint", "create", "EUROPE_NORTH"]).await;
    let pending = |list: &Value| list[0]["status"] == "PENDING_ACCEPTANCE";
    let pending = site.until("pending", list, pending).await;
    let connection = pending[0]["privateEndpointConnectionName"].as_str().unwrap();
    site.admin.reject_private_endpoint(connection).await.unwrap();
    site.until("failed", list, |list| list[0]["status"] == "FAILED").await;
    let listed = site.says(list).await;
    assert!(listed.contains("● FAILED") && listed.contains("rejected"), "{listed}");
    site.stop().await;
}
