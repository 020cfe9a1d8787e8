//! The reference's table of calls by value: each call's answer, field by field, for every size of key.

#![allow(clippy::unwrap_used)]

mod served;

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use keyward_vault::state::AccessModel;
use serde_json::{Value, json};
use served::{Served, decode};

/// The names of an object's fields.
fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn is_key_bundle(body: &Value, more: &[&str]) {
    let mut expected = BTreeSet::from(["key", "attributes"]);
    expected.extend(more);
    assert_eq!(fields(body), expected, "{body}");
    assert_eq!(fields(&body["key"]), BTreeSet::from(["kid", "kty", "key_ops", "n", "e"]), "{body}");
    let always = ["enabled", "created", "updated", "recoveryLevel", "recoverableDays"];
    let mut attributes = fields(&body["attributes"]);
    for optional in ["nbf", "exp"] {
        attributes.remove(optional);
    }
    assert_eq!(attributes, BTreeSet::from(always), "{body}");
    for time in ["created", "updated"] {
        assert!(body["attributes"][time].as_i64().is_some_and(|seconds| seconds > 1_700_000_000), "{body}");
    }
    let (_, version) = body["key"]["kid"].as_str().unwrap().rsplit_once('/').unwrap();
    assert!(version.len() == 32 && version.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    for number in ["n", "e"] {
        assert!(!body["key"][number].as_str().unwrap().contains(['=', '+', '/']), "{body}");
    }
}

fn is_list(body: &Value, items: &[&str]) -> usize {
    assert_eq!(fields(body), BTreeSet::from(["value", "nextLink"]), "{body}");
    let value = body["value"].as_array().unwrap();
    for item in value {
        assert_eq!(fields(item), items.iter().copied().collect(), "{item}");
    }
    value.len()
}

const DELETION: [&str; 3] = ["recoveryId", "deletedDate", "scheduledPurgeDate"];

#[tokio::test]
async fn every_call_answers_as_the_reference_says() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let call = async |method: &str, path: &str, body: Value| {
        let (status, answer) = vault.send(method, path, &token, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    };
    for (bits, largest) in [(2048, 190), (3072, 318), (4096, 446)] {
        let name = format!("k{bits}");
        let at = |rest: &str| format!("/keys/{name}{rest}");
        let asked = json!({
            "kty": "RSA", "key_size": bits, "key_ops": ["wrapKey", "unwrapKey", "encrypt", "decrypt"],
            "attributes": { "enabled": true, "nbf": 1_000_000_000, "exp": 4_000_000_000_i64 }, "tags": { "a": "b" },
        });
        let made = call("POST", &at("/create"), asked).await;
        is_key_bundle(&made, &["tags"]);
        assert_eq!(decode(&made["key"]["n"]).len() * 8, bits);
        assert_eq!((&made["key"]["kty"], &made["key"]["e"]), (&json!("RSA"), &json!("AQAB")));
        assert_eq!(made["key"]["key_ops"], json!(["wrapKey", "unwrapKey", "encrypt", "decrypt"]));
        assert_eq!(made["attributes"]["nbf"], 1_000_000_000);
        assert_eq!(made["attributes"]["exp"], 4_000_000_000_i64);
        assert_eq!(made["attributes"]["recoveryLevel"], "Recoverable+Purgeable");
        assert_eq!(made["attributes"]["recoverableDays"], 90);
        let kid = made["key"]["kid"].as_str().unwrap().to_owned();
        let version = kid.rsplit('/').next().unwrap().to_owned();
        assert_eq!(kid, format!("{}/keys/{name}/{version}", vault.description().url));

        // The largest input fits, one byte more does not; both pairs make and take the same.
        let sealed_by = |value: &str, alg: &str| json!({ "alg": alg, "value": value });
        for alg in ["RSA-OAEP-256", "RSA-OAEP", "RSA1_5"] {
            let largest = if alg == "RSA-OAEP-256" { largest } else { 32 };
            let plain = BASE64URL_NOPAD.encode(&vec![7; largest]);
            for (seal, open) in [("wrapkey", "decrypt"), ("encrypt", "unwrapkey")] {
                let sealed = call("POST", &at(&format!("/{version}/{seal}")), sealed_by(&plain, alg)).await;
                assert_eq!(fields(&sealed), BTreeSet::from(["kid", "value"]));
                assert_eq!((&sealed["kid"], decode(&sealed["value"]).len() * 8), (&json!(kid), bits));
                // Padding is taken.
                let padded = format!("{}==", sealed["value"].as_str().unwrap());
                let padded = if bits == 2048 { padded } else { sealed["value"].as_str().unwrap().to_owned() };
                let opened = call("POST", &at(&format!("/{version}/{open}")), sealed_by(&padded, alg)).await;
                assert_eq!(fields(&opened), BTreeSet::from(["kid", "value"]));
                assert_eq!((&opened["kid"], &opened["value"]), (&json!(kid), &json!(plain)));
            }
        }
        let long = BASE64URL_NOPAD.encode(&vec![7; largest + 1]);
        let (status, refused) =
            vault.send("POST", &at("//wrapkey"), &token, sealed_by(&long, "RSA-OAEP-256")).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("BadParameter")));

        // Read, list, change.
        for path in [at(""), at("/"), at(&format!("/{version}"))] {
            assert_eq!(call("GET", &path, Value::Null).await, made);
        }
        let change =
            json!({ "key_ops": ["unwrapKey"], "attributes": { "enabled": false }, "tags": { "c": "d" } });
        let changed = call("PATCH", &at(&format!("/{version}")), change).await;
        is_key_bundle(&changed, &["tags"]);
        assert_eq!(
            (&changed["key"]["key_ops"], &changed["tags"]),
            (&json!(["unwrapKey"]), &json!({ "c": "d" }))
        );
        assert_eq!(changed["attributes"]["enabled"], false);
        assert_eq!(changed["attributes"]["exp"], 4_000_000_000_i64, "what is left out stays");

        // Rotate: the same kind of key, enabled, without the old one's dates.
        let policy = json!({
            "lifetimeActions": [
                { "trigger": { "timeBeforeExpiry": "P30D" }, "action": { "type": "Rotate" } },
                { "trigger": { "timeAfterCreate": "P60D" }, "action": { "type": "Notify" } },
            ],
            "attributes": { "expiryTime": "P90D" },
        });
        let unset = call("GET", &at("/rotationpolicy"), Value::Null).await;
        assert_eq!(fields(&unset), BTreeSet::from(["id", "lifetimeActions", "attributes"]));
        assert_eq!(unset["lifetimeActions"][0]["action"]["type"], "Notify", "no key rotates unasked");
        let set = call("PUT", &at("/rotationpolicy"), policy.clone()).await;
        assert_eq!(call("GET", &at("/rotationpolicy"), Value::Null).await, set);
        assert_eq!(set["id"], format!("{}/keys/{name}/rotationpolicy", vault.description().url));
        assert_eq!(set["lifetimeActions"], policy["lifetimeActions"]);
        assert_eq!(fields(&set["attributes"]), BTreeSet::from(["expiryTime", "created", "updated"]));
        let rotated = call("POST", &at("/rotate"), Value::Null).await;
        is_key_bundle(&rotated, &["tags"]);
        assert_eq!(decode(&rotated["key"]["n"]).len() * 8, bits);
        assert_ne!(rotated["key"]["n"], made["key"]["n"]);
        assert_eq!(
            (&rotated["attributes"]["enabled"], rotated["attributes"].get("nbf")),
            (&json!(true), None)
        );
        let life = rotated["attributes"]["exp"].as_i64().unwrap()
            - rotated["attributes"]["created"].as_i64().unwrap();
        assert_eq!(life, 90 * 86_400);

        let versions = call("GET", &at("/versions?maxresults=25"), Value::Null).await;
        assert_eq!(is_list(&versions, &["kid", "attributes", "tags"]), 2);
        let listed: BTreeSet<&str> =
            versions["value"].as_array().unwrap().iter().map(|item| item["kid"].as_str().unwrap()).collect();
        assert_eq!(listed, BTreeSet::from([kid.as_str(), rotated["key"]["kid"].as_str().unwrap()]));
        let all = call("GET", "/keys", Value::Null).await;
        assert_eq!(is_list(&all, &["kid", "attributes", "tags"]), 1, "the deleted ones are not among them");
        assert_eq!(all["value"][0]["kid"], format!("{}/keys/{name}", vault.description().url));

        // Backup, delete, recover, purge, restore.
        let blob = call("POST", &at("/backup"), Value::Null).await;
        assert_eq!(fields(&blob), BTreeSet::from(["value"]));
        let (status, _) = vault.send("DELETE", &at(&format!("/{version}")), &token, Value::Null).await;
        assert_eq!(status, 404, "one version alone is never deleted");
        let deleted = call("DELETE", &at(""), Value::Null).await;
        is_key_bundle(&deleted, &[&DELETION[..], &["tags"][..]].concat());
        assert_eq!(deleted["recoveryId"], format!("{}/deletedkeys/{name}", vault.description().url));
        let kept = deleted["scheduledPurgeDate"].as_i64().unwrap() - deleted["deletedDate"].as_i64().unwrap();
        assert_eq!(kept, 90 * 86_400);
        let gone = format!("/deletedkeys/{name}");
        assert_eq!(call("GET", &gone, Value::Null).await, deleted);
        let list = call("GET", "/deletedkeys?maxresults=1", Value::Null).await;
        assert_eq!(is_list(&list, &[&["kid", "attributes", "tags"][..], &DELETION[..]].concat()), 1);
        let recovered = call("POST", &format!("{gone}/recover"), Value::Null).await;
        assert_eq!(recovered, rotated, "the newest version, as it was");
        call("DELETE", &at(""), Value::Null).await;
        let (status, nothing) = vault.send("DELETE", &gone, &token, Value::Null).await;
        assert_eq!((status, nothing), (204, Value::Null));
        let (status, refused) = vault.send("GET", &gone, &token, Value::Null).await;
        assert_eq!((status, &refused["error"]["code"]), (404, &json!("KeyNotFound")));
        let restored = call("POST", "/keys/restore", blob.clone()).await;
        assert_eq!(restored, rotated);
        let versions = call("GET", &at("/versions"), Value::Null).await;
        assert_eq!(is_list(&versions, &["kid", "attributes", "tags"]), 2, "all versions with their ids");
        let (status, refused) = vault.send("POST", "/keys/restore", &token, blob).await;
        assert_eq!((status, &refused["error"]["code"]), (409, &json!("Conflict")));
        call("DELETE", &at(""), Value::Null).await;
    }
    vault.stop().await;
}

/// A vault with purge protection, or with a shorter retention, says so of each key.
#[tokio::test]
async fn recovery_levels() {
    let vault = Served::start().await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    for (protected, days, level) in [
        (false, 90, "Recoverable+Purgeable"),
        (true, 90, "Recoverable"),
        (false, 7, "CustomizedRecoverable+Purgeable"),
        (true, 89, "CustomizedRecoverable"),
    ] {
        let change = keyward_vault::admin::VaultChange {
            purge_protection: Some(protected),
            retention_days: Some(days),
            ..Default::default()
        };
        vault.admin.change_vault(&change).await.unwrap();
        let (_, shown) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
        assert_eq!(shown["attributes"]["recoveryLevel"], level);
        assert_eq!(shown["attributes"]["recoverableDays"], days);
    }
    vault.stop().await;
}

/// A key that exists is the same in every case, as Azure says of object identifiers; two are never made.
#[tokio::test]
async fn names_compare_without_case() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let (_, made) = vault.send("POST", "/keys/Orders/create", &token, json!({ "kty": "RSA" })).await;
    let kid = made["key"]["kid"].as_str().unwrap();
    assert!(kid.contains("/keys/Orders/"));
    let version = kid.rsplit('/').next().unwrap();
    let (status, shown) = vault.send("GET", &format!("/keys/ORDERS/{version}"), &token, Value::Null).await;
    assert_eq!((status, &shown), (200, &made));
    let wrap = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    let (_, wrapped) = vault.send("POST", &format!("/keys/orders/{version}/wrapkey"), &token, wrap).await;
    assert_eq!(wrapped["kid"], kid);
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let (_, opened) = vault.send("POST", &format!("/keys/oRDERS/{version}/unwrapkey"), &token, sealed).await;
    assert_eq!((&opened["kid"], &opened["value"]), (&json!(kid), &json!("AAEC")));
    // A second version and not a second key.
    let (_, second) = vault.send("POST", "/keys/orders/create", &token, json!({ "kty": "RSA" })).await;
    assert!(second["key"]["kid"].as_str().unwrap().contains("/keys/Orders/"), "{second}");
    assert_eq!(vault.admin.keys().await.unwrap().len(), 1);
    assert_eq!(vault.admin.create_key("ORDERS", 2048).await.unwrap().versions.len(), 3);
    assert_eq!(vault.admin.disable_key("orders").await.unwrap().name, "Orders");
    let (_, blob) = vault.send("POST", "/keys/ORDERS/backup", &token, Value::Null).await;
    assert_eq!(vault.send("POST", "/keys/restore", &token, blob).await.0, 409);
    assert_eq!(vault.send("DELETE", "/keys/orders", &token, Value::Null).await.0, 200);
    let (status, refused) = vault.send("POST", "/keys/ORDERS/create", &token, json!({ "kty": "RSA" })).await;
    assert_eq!(
        (status, &refused["error"]["innererror"]["code"]),
        (409, &json!("ObjectIsDeletedButRecoverable"))
    );
    assert_eq!(vault.send("POST", "/deletedkeys/ORDERS/recover", &token, Value::Null).await.0, 200);
    vault.stop().await;
}

#[tokio::test]
async fn what_this_vault_does_not_offer_is_refused_and_not_made_into_something_else() {
    let vault = Served::start().await;
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    for body in [
        json!({ "kty": "EC", "crv": "P-384" }),
        json!({ "kty": "EC", "crv": "P-256K" }),
        json!({ "kty": "EC-HSM" }),
        json!({ "kty": "oct-HSM", "key_size": 256 }),
        json!({ "kty": "RSA", "key_size": 2047 }),
        json!({ "kty": "RSA", "public_exponent": 3 }),
    ] {
        let (status, refused) = vault.send("POST", "/keys/k1/create", &token, body.clone()).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("BadParameter")), "{body}");
    }
    assert_eq!(
        vault.send("POST", "/keys/k1/create", &token, json!({ "kty": "EC", "crv": "P-256" })).await.0,
        200
    );
    // A life that ends before it begins, in two steps.
    let nbf = json!({ "attributes": { "nbf": 2_000_000_000 } });
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, nbf).await.0, 200);
    let exp = json!({ "attributes": { "exp": 1_900_000_000 } });
    assert_eq!(vault.send("PATCH", "/keys/k1", &token, exp).await.0, 400);
    let (_, shown) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
    assert_eq!(shown["attributes"].get("exp"), None, "a refused change changes nothing");
    vault.stop().await;
}

/// A role on one key: that key's operations, no other's, and no list of the vault's keys.
#[tokio::test]
async fn a_role_holds_at_the_vaults_scope_or_at_one_keys() {
    let vault = Served::start().await;
    for name in ["k1", "k2"] {
        vault.admin.create_key(name, 2048).await.unwrap();
    }
    let client = vault.description().client_id.clone();
    let token = vault.token().await;
    vault.admin.revoke(&client, None, &[]).await.unwrap();
    let change = |key: Option<&str>, actions: &[&str]| keyward_vault::admin::AccessChange {
        client_id: client.clone(),
        model: Some(AccessModel::Rbac),
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        key: key.map(str::to_owned),
    };
    let status = async |method: &str, path: &str| vault.send(method, path, &token, Value::Null).await.0;
    vault.admin.change_access("grant", &change(Some("k1"), &["get", "list", "backup"])).await.unwrap();
    assert_eq!(status("GET", "/keys/k1").await, 200);
    assert_eq!(status("GET", "/keys/k1/versions").await, 200);
    assert_eq!(status("POST", "/keys/k1/backup").await, 200);
    for (method, path) in
        [("GET", "/keys/k2"), ("GET", "/keys"), ("GET", "/deletedkeys/k2"), ("POST", "/keys/k2/backup")]
    {
        let (status, refused) = vault.send(method, path, &token, Value::Null).await;
        assert_eq!(
            (status, &refused["error"]["innererror"]["code"]),
            (403, &json!("ForbiddenByRbac")),
            "{path}"
        );
    }
    // Taken away at that scope, what holds for the vault stays.
    vault.admin.change_access("grant", &change(None, &["get"])).await.unwrap();
    vault.admin.change_access("revoke", &change(Some("k1"), &[])).await.unwrap();
    assert_eq!((status("GET", "/keys/k1").await, status("POST", "/keys/k1/backup").await), (200, 403));
    vault.admin.change_access("grant", &change(Some("k2"), &["backup"])).await.unwrap();
    vault.admin.change_access("revoke", &change(None, &[])).await.unwrap();
    assert_eq!((status("GET", "/keys/k1").await, status("POST", "/keys/k2/backup").await), (403, 403));
    // Access policies, and what is about the vault itself, know no such scope.
    let policy = keyward_vault::admin::AccessChange {
        model: Some(AccessModel::Policy),
        ..change(Some("k1"), &["get"])
    };
    assert!(vault.admin.change_access("grant", &policy).await.is_err());
    assert!(vault.admin.change_access("grant", &change(Some("k1"), &["vaults/read"])).await.is_err());
    vault.stop().await;
}
