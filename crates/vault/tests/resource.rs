//! The vault as a resource: ARM, access models, network rules, deletion, and what time brings.

#![allow(clippy::unwrap_used)]

mod served;

use keyward_vault::FirstStart;
use keyward_vault::admin::{KeySettings, VaultChange};
use keyward_vault::client::ClientError;
use keyward_vault::state::{AccessModel, ConnectionStatus, NetworkRules, Settings};
use serde_json::{Value, json};
use served::Served;

const ARM: &str = "https://management.azure.com/.default";

#[tokio::test]
async fn arm_shows_the_vault_to_those_who_may_read_it() {
    let vault = Served::start_with(FirstStart::default()).await;
    let token = vault.token_for(ARM).await;
    let id = vault.resource_id();
    let (status, body) = vault.arm("GET", &id, &token, Value::Null).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("AuthorizationFailed")));
    vault.grant(&["vaults/read"]).await;
    let (status, body) = vault.arm("GET", &id, &token, Value::Null).await;
    assert_eq!(status, 200);
    let properties = &body["properties"];
    assert_eq!(body["id"], json!(id));
    assert_eq!(properties["vaultUri"], json!(format!("{}/", vault.description().url)));
    assert_eq!(properties["tenantId"], json!(vault.description().tenant_id));
    assert_eq!(properties["enableRbacAuthorization"], json!(true));
    assert_eq!(properties["enableSoftDelete"], json!(true));
    assert_eq!(properties["softDeleteRetentionInDays"], json!(90));
    assert_eq!(properties["enablePurgeProtection"], json!(true));
    assert_eq!(properties["publicNetworkAccess"], json!("Enabled"));
    assert_eq!(properties["networkAcls"]["defaultAction"], json!("Allow"));
    let client = vault.description().client_id.clone();
    vault.admin.grant(&client, Some(AccessModel::Policy), &["get".into(), "unwrapKey".into()]).await.unwrap();
    let change = VaultChange { purge_protection: Some(false), ..VaultChange::default() };
    vault.admin.change_vault(&change).await.unwrap();
    let (_, body) = vault.arm("GET", &id, &token, Value::Null).await;
    assert_eq!(body["properties"]["enableRbacAuthorization"], json!(false));
    assert_eq!(body["properties"]["accessPolicies"][0]["permissions"]["keys"], json!(["get", "unwrapKey"]));
    assert!(body["properties"].get("enablePurgeProtection").is_none(), "absent when off");
    // Another scope, a data-plane token, no api-version.
    let elsewhere = id.replace("keyward", "elsewhere");
    assert_eq!(
        vault.arm("GET", &elsewhere, &token, Value::Null).await.1["error"]["code"],
        "ResourceNotFound"
    );
    let wrong_audience = vault.token().await;
    assert_eq!(vault.arm("GET", &id, &wrong_audience, Value::Null).await.0, 401);
    vault.stop().await;
}

#[tokio::test]
async fn a_deleted_vault_is_found_among_the_deleted_ones_and_comes_back_without_its_roles() {
    let vault = Served::start_with(FirstStart::default()).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    vault.grant(&["vaults/read"]).await;
    let (token, arm) = (vault.token().await, vault.token_for(ARM).await);
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.0, 200);
    let subscription = format!("/subscriptions/{}", vault.description().subscription_id);
    let name = &vault.description().vault_name;
    let deleted =
        format!("{subscription}/providers/Microsoft.KeyVault/locations/westeurope/deletedVaults/{name}");
    let list = format!("{subscription}/providers/Microsoft.KeyVault/deletedVaults");
    assert_eq!(vault.arm("GET", &deleted, &arm, Value::Null).await.0, 404);
    assert_eq!(vault.arm("GET", &list, &arm, Value::Null).await.1["value"], json!([]));

    vault.admin.delete_vault().await.unwrap();
    let (status, body) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("VaultNotFound")));
    assert_eq!(vault.arm("GET", &vault.resource_id(), &arm, Value::Null).await.0, 404);
    let (status, body) = vault.arm("GET", &deleted, &arm, Value::Null).await;
    assert_eq!((status, &body["properties"]["vaultId"]), (200, &json!(vault.resource_id())));
    assert_eq!(vault.arm("GET", &list, &arm, Value::Null).await.1["value"][0]["name"], json!(name));

    vault.admin.recover_vault().await.unwrap();
    assert_eq!(vault.arm("GET", &vault.resource_id(), &arm, Value::Null).await.0, 200);
    let (status, body) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
    assert_eq!((status, &body["error"]["innererror"]["code"]), (403, &json!("ForbiddenByRbac")));
    vault.grant(&[]).await;
    assert_eq!(vault.send("GET", "/keys/k1", &token, Value::Null).await.0, 200);
    vault.stop().await;
}

#[tokio::test]
async fn private_endpoints_are_asked_for_approved_and_rejected() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let (token, arm) = (vault.token().await, vault.token_for(ARM).await);
    let code = async || {
        let (status, body) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
        (status, body["error"]["innererror"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let network = NetworkRules { public_access: false, ..NetworkRules::default() };
    vault
        .admin
        .change_vault(&VaultChange { network: Some(network), ..VaultChange::default() })
        .await
        .unwrap();
    assert_eq!(code().await, (403, "ForbiddenByConnection".to_owned()));
    vault.admin.request_private_endpoint("pe1").await.unwrap();
    assert_eq!(code().await.0, 403, "a pending endpoint lets nothing in");

    let path = format!("{}/privateEndpointConnections/pe1", vault.resource_id());
    let state = |status: &str| json!({ "properties": { "privateLinkServiceConnectionState": { "status": status, "description": "by test" } } });
    assert_eq!(vault.arm("PUT", &path, &arm, state("Approved")).await.0, 403, "needs vaults/write");
    vault.grant(&["vaults/write"]).await;
    let (status, body) = vault.arm("PUT", &path, &arm, state("Approved")).await;
    assert_eq!(status, 200, "{body}");
    let (_, shown) = vault.arm("GET", &path, &arm, Value::Null).await;
    assert_eq!(shown["properties"]["privateLinkServiceConnectionState"]["status"], "Approved");
    assert_eq!(shown["properties"]["privateLinkServiceConnectionState"]["description"], "by test");
    assert_eq!(code().await.0, 200);

    assert_eq!(vault.arm("PUT", &path, &arm, state("Rejected")).await.0, 200);
    assert_eq!(code().await, (403, "ForbiddenByConnection".to_owned()));
    assert_eq!(vault.arm("PUT", &path, &arm, state("Approved")).await.0, 400, "rejected is final");
    let shown = vault.admin.private_endpoints().await.unwrap();
    assert_eq!((shown[0].name.as_str(), shown[0].status), ("pe1", ConnectionStatus::Rejected));
    let (_, list) = vault
        .arm("GET", &format!("{}/privateEndpointConnections", vault.resource_id()), &arm, Value::Null)
        .await;
    assert_eq!(list["value"].as_array().unwrap().len(), 1);
    vault.stop().await;
}

#[tokio::test]
async fn the_firewall_lets_in_what_its_rules_name() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    for (rules, admitted) in [
        (vec![], false),
        (vec!["10.0.0.0/8"], false),
        (vec!["127.0.0.1"], true),
        (vec!["10.0.0.0/8", "127.0.0.0/8"], true),
    ] {
        let network = NetworkRules {
            public_access: true,
            default_allow: false,
            ip_rules: rules.iter().map(|r| (*r).to_owned()).collect(),
        };
        vault
            .admin
            .change_vault(&VaultChange { network: Some(network), ..VaultChange::default() })
            .await
            .unwrap();
        let (status, body) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
        if admitted {
            assert_eq!(status, 200, "{rules:?}");
        } else {
            assert_eq!(body["error"]["innererror"]["code"], "ForbiddenByFirewall", "{rules:?}");
            assert!(body["error"]["message"].as_str().unwrap().contains("Client address: 127.0.0.1"));
        }
    }
    vault.stop().await;
}

#[tokio::test]
async fn each_permission_is_needed_in_both_models() {
    let vault = Served::start().await;
    let client = vault.description().client_id.clone();
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let made = vault.admin.create_key("k1", 2048).await.unwrap();
    // Some calls rotate the key: these name the first version.
    let first = format!("/keys/k1/{}", made.versions[0].version);
    let (unwrap_path, decrypt_path) = (format!("{first}/unwrapkey"), format!("{first}/decrypt"));
    let (_, wrapped) = vault
        .send("POST", &format!("{first}/wrapkey"), &token, json!({ "alg": "RSA-OAEP-256", "value": "AAEC" }))
        .await;
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let plain = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    // (permission, method, path, body); all but the last group leave the key as it is.
    let calls = [
        ("get", "GET", "/keys/k1", Value::Null),
        ("list", "GET", "/keys", Value::Null),
        ("unwrapKey", "POST", unwrap_path.as_str(), sealed.clone()),
        ("decrypt", "POST", decrypt_path.as_str(), sealed),
        ("wrapKey", "POST", "/keys/k1//wrapkey", plain.clone()),
        ("encrypt", "POST", "/keys/k1//encrypt", plain),
        ("update", "PATCH", "/keys/k1", json!({ "tags": { "a": "b" } })),
        ("backup", "POST", "/keys/k1/backup", Value::Null),
        ("rotate", "POST", "/keys/k1/rotate", Value::Null),
        ("getrotationpolicy", "GET", "/keys/k1/rotationpolicy", Value::Null),
        ("setrotationpolicy", "PUT", "/keys/k1/rotationpolicy", json!({ "lifetimeActions": [] })),
        ("create", "POST", "/keys/k2/create", json!({ "kty": "RSA" })),
        ("delete", "DELETE", "/keys/k2", Value::Null),
        ("recover", "POST", "/deletedkeys/k2/recover", Value::Null),
    ];
    for model in [AccessModel::Policy, AccessModel::Rbac] {
        for (permission, method, path, body) in &calls {
            let all = [AccessModel::Policy, AccessModel::Rbac];
            for model in all {
                vault.admin.revoke(&client, Some(model), &[]).await.unwrap();
            }
            // Every other permission: refused. `read` of role assignments covers get and list alike, and the
            // public-key operations.
            let covered = ["get", "list", "wrapKey", "encrypt"];
            let others: Vec<String> = calls
                .iter()
                .map(|c| c.0)
                .filter(|p| p != permission)
                .filter(|p| {
                    model == AccessModel::Policy
                        || !(covered.contains(permission) && covered[..2].contains(p))
                })
                .map(str::to_owned)
                .collect();
            vault.admin.grant(&client, Some(model), &others).await.unwrap();
            let (status, refused) = vault.send(method, path, &token, body.clone()).await;
            let inner = if model == AccessModel::Policy { "ForbiddenByPolicy" } else { "ForbiddenByRbac" };
            assert_eq!(
                (status, &refused["error"]["innererror"]["code"]),
                (403, &json!(inner)),
                "{permission} {path}"
            );
            vault.admin.revoke(&client, Some(model), &[]).await.unwrap();
            vault.admin.grant(&client, Some(model), &[(*permission).to_owned()]).await.unwrap();
            let (status, allowed) = vault.send(method, path, &token, body.clone()).await;
            assert_eq!(status, 200, "{permission} alone allows {path}: {allowed}");
        }
    }
    vault.stop().await;
}

#[tokio::test]
async fn a_removed_grant_is_felt_after_the_delay() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let settings = vault.admin.status().await.unwrap().settings;
    let at = |clock_offset_s: i64| Settings { grant_delay_s: 600, clock_offset_s, ..settings.clone() };
    let status = async || vault.send("GET", "/keys/k1", &token, Value::Null).await.0;
    vault.admin.set_settings(&at(0)).await.unwrap();
    let client = vault.description().client_id.clone();
    vault.admin.revoke(&client, None, &[]).await.unwrap();
    assert_eq!(status().await, 200);
    vault.admin.set_settings(&at(660)).await.unwrap();
    assert_eq!(status().await, 403);
    vault.admin.grant(&client, None, &[]).await.unwrap();
    assert_eq!(status().await, 403);
    vault.admin.set_settings(&at(1320)).await.unwrap();
    assert_eq!(status().await, 200);
    vault.stop().await;
}

#[tokio::test]
async fn time_rotates_expires_and_purges() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let settings = vault.admin.status().await.unwrap().settings;
    let lifetime = Settings { token_lifetime_s: 400 * 86_400, ..settings };
    vault.admin.set_settings(&lifetime).await.unwrap();
    let token = vault.token().await;
    let to_day = async |day: i64| {
        let settings = Settings { clock_offset_s: day * 86_400, ..lifetime.clone() };
        vault.admin.set_settings(&settings).await.unwrap();
    };
    let made = vault.admin.create_key("k1", 2048).await.unwrap();
    let first = made.versions[0].version.clone();
    let policy = json!({
        "lifetimeActions": [{ "trigger": { "timeAfterCreate": "P90D" }, "action": { "type": "Rotate" } }],
        "attributes": { "expiryTime": "P120D" },
    });
    assert_eq!(vault.send("PUT", "/keys/k1/rotationpolicy", &token, policy).await.0, 200);
    let newest = async || {
        let (_, body) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
        body["key"]["kid"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    to_day(89).await;
    assert_eq!(newest().await, first);
    to_day(91).await;
    let second = newest().await;
    assert_ne!(second, first, "a read finds the rotated key");
    assert_eq!(newest().await, second, "rotated once");

    // Expired: wraps no more, unwraps still.
    let plain = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    let (_, wrapped) = vault.send("POST", &format!("/keys/k1/{second}/wrapkey"), &token, plain.clone()).await;
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let policy = json!({ "lifetimeActions": [], "attributes": {} });
    assert_eq!(vault.send("PUT", "/keys/k1/rotationpolicy", &token, policy).await.0, 200);
    to_day(91 + 121).await;
    for operation in ["wrapkey", "encrypt"] {
        let (status, body) =
            vault.send("POST", &format!("/keys/k1/{second}/{operation}"), &token, plain.clone()).await;
        assert_eq!(
            (status, &body["error"]["innererror"]["code"]),
            (403, &json!("KeyExpired")),
            "{operation}"
        );
    }
    for operation in ["unwrapkey", "decrypt"] {
        let (status, body) =
            vault.send("POST", &format!("/keys/k1/{second}/{operation}"), &token, sealed.clone()).await;
        assert_eq!((status, &body["value"]), (200, &json!("AAEC")), "{operation}");
    }
    let now = vault.admin.status().await.unwrap().now;
    let later = KeySettings { not_before: Some(now + 60), expires: Some(0), ..KeySettings::default() };
    vault.admin.change_key("k1", &later).await.unwrap();
    let (_, body) = vault.send("POST", "/keys/k1//wrapkey", &token, plain).await;
    assert_eq!(body["error"]["innererror"]["code"], "KeyNotYetValid");
    assert_eq!(vault.send("POST", &format!("/keys/k1/{second}/unwrapkey"), &token, sealed).await.0, 200);

    // Deleted: gone for good once its retention is over.
    vault.admin.delete_key("k1").await.unwrap();
    to_day(91 + 121 + 89).await;
    assert_eq!(vault.send("GET", "/deletedkeys/k1", &token, Value::Null).await.0, 200);
    to_day(91 + 121 + 91).await;
    assert_eq!(vault.send("GET", "/deletedkeys/k1", &token, Value::Null).await.0, 404);
    assert!(vault.admin.keys().await.unwrap().is_empty());
    vault.stop().await;
}

#[tokio::test]
async fn purge_protection_and_a_deletion_under_way() {
    let vault = Served::start_with(FirstStart::default()).await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let settings = vault.admin.status().await.unwrap().settings;
    vault.admin.set_settings(&Settings { deletion_delay_s: 60, ..settings.clone() }).await.unwrap();
    vault.admin.create_key("k1", 2048).await.unwrap();
    let (_, shown) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
    assert_eq!(shown["attributes"]["recoveryLevel"], "Recoverable");
    let (status, deleted) = vault.send("DELETE", "/keys/k1", &token, Value::Null).await;
    assert_eq!(status, 200);
    assert!(deleted["scheduledPurgeDate"].as_i64().unwrap() > deleted["deletedDate"].as_i64().unwrap());
    let (status, body) = vault.send("POST", "/keys/k1/create", &token, json!({ "kty": "RSA" })).await;
    assert_eq!((status, &body["error"]["innererror"]["code"]), (409, &json!("ObjectIsBeingDeleted")));
    assert_eq!(vault.send("GET", "/deletedkeys/k1", &token, Value::Null).await.0, 404);
    vault.admin.set_settings(&Settings { clock_offset_s: 61, ..settings }).await.unwrap();
    assert_eq!(vault.send("GET", "/deletedkeys/k1", &token, Value::Null).await.0, 200);
    assert_eq!(vault.send("DELETE", "/deletedkeys/k1", &token, Value::Null).await.0, 403);
    match vault.admin.purge_key("k1").await {
        Err(error @ ClientError::Refused { status: 403, .. }) => {
            assert!(error.hint().unwrap().contains("purge protection"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(vault.send("POST", "/deletedkeys/k1/recover", &token, Value::Null).await.0, 200);
    vault.stop().await;
}

#[tokio::test]
async fn a_backup_opens_only_in_its_subscription() {
    let one = Served::start().await;
    let subscription = one.description().subscription_id.clone();
    let first = FirstStart { subscription_id: Some(subscription), ..FirstStart::default() };
    let (sister, stranger) = (Served::start_with(first).await, Served::start().await);
    for vault in [&one, &sister, &stranger] {
        vault.grant(&["all"]).await;
    }
    let token = one.token().await;
    let made = one.admin.create_key("k1", 2048).await.unwrap();
    one.admin.rotate_key("k1").await.unwrap();
    let (_, wrapped) = one
        .send("POST", "/keys/k1//wrapkey", &token, json!({ "alg": "RSA-OAEP-256", "value": "AAEC" }))
        .await;
    let (_, blob) = one.send("POST", "/keys/k1/backup", &token, Value::Null).await;

    let token = sister.token().await;
    let (status, restored) = sister.send("POST", "/keys/restore", &token, blob.clone()).await;
    assert_eq!(status, 200, "{restored}");
    assert!(restored["key"]["kid"].as_str().unwrap().starts_with(&sister.description().url));
    let shown = sister.admin.keys().await.unwrap();
    assert_eq!(shown[0].versions.len(), 2);
    assert_eq!(shown[0].versions[0].version, made.versions[0].version);
    // The copy is independent: disabling the source does nothing to it.
    one.admin.disable_key("k1").await.unwrap();
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    assert_eq!(sister.send("POST", "/keys/k1//unwrapkey", &token, sealed).await.1["value"], "AAEC");

    let (status, body) = stranger.send("POST", "/keys/restore", &stranger.token().await, blob).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("BadParameter")));
    for vault in [one, sister, stranger] {
        vault.stop().await;
    }
}
