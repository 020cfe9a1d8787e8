//! Several requests at once: each is done whole or not at all, in one order, and a removal that was answered holds.

#![allow(clippy::unwrap_used)]

mod served;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_vault::FirstStart;
use serde_json::{Value, json};
use served::Served;

fn version_of(bundle: &Value) -> String {
    bundle["key"]["kid"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

/// Versions of one key made at once: none is lost, none is made twice, and the list keeps the order in which they
/// became durable, the newest last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_made_at_once_are_all_there_in_one_order() {
    let vault = Arc::new(Served::start().await);
    vault.grant(&["all"]).await;
    let token = vault.token().await;
    let makers: Vec<_> = (0..8)
        .map(|n| {
            let (vault, token) = (Arc::clone(&vault), token.clone());
            // In any case: it is one key.
            let path = if n % 2 == 0 { "/keys/k1/create" } else { "/keys/K1/create" };
            tokio::spawn(async move {
                let body = json!({ "kty": "RSA", "tags": { "n": n.to_string() } });
                let (status, made) = vault.send("POST", path, &token, body).await;
                assert_eq!(status, 200, "{made}");
                version_of(&made)
            })
        })
        .collect();
    let mut answered = BTreeSet::new();
    for maker in makers {
        assert!(answered.insert(maker.await.unwrap()), "a version was answered twice");
    }
    let keys = vault.admin.keys().await.unwrap();
    assert_eq!(keys.len(), 1);
    let there: Vec<String> = keys[0].versions.iter().map(|version| version.version.clone()).collect();
    assert_eq!(there.iter().cloned().collect::<BTreeSet<_>>(), answered);
    let created: Vec<i64> = keys[0].versions.iter().map(|version| version.created).collect();
    assert!(created.is_sorted(), "{created:?}");
    let (_, newest) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
    assert_eq!(version_of(&newest), *there.last().unwrap());
    let dir = Arc::into_inner(vault).unwrap().stop().await;
    let vault = Served::start_in(dir, FirstStart::default()).await;
    let after: Vec<String> =
        vault.admin.keys().await.unwrap()[0].versions.iter().map(|version| version.version.clone()).collect();
    assert_eq!(after, there, "after a restart");
    vault.stop().await;
}

/// Changes of different fields of one version at once: none undoes another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_do_not_undo_each_other() {
    let vault = Arc::new(Served::start().await);
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    for round in 0..10 {
        let exp = 3_000_000_000_i64 + round;
        let changes = [
            json!({ "attributes": { "exp": exp } }),
            json!({ "attributes": { "enabled": round % 2 == 0 } }),
            json!({ "tags": { "round": round.to_string() } }),
            json!({ "key_ops": if round % 2 == 0 { ["wrapKey"] } else { ["unwrapKey"] } }),
        ];
        let senders: Vec<_> = changes
            .into_iter()
            .map(|change| {
                let (vault, token) = (Arc::clone(&vault), token.clone());
                tokio::spawn(async move { vault.send("PATCH", "/keys/k1", &token, change).await.0 })
            })
            .collect();
        for sender in senders {
            assert_eq!(sender.await.unwrap(), 200);
        }
        let (_, shown) = vault.send("GET", "/keys/k1", &token, Value::Null).await;
        assert_eq!(shown["attributes"]["exp"], exp);
        assert_eq!(shown["attributes"]["enabled"], round % 2 == 0);
        assert_eq!(shown["tags"]["round"], round.to_string());
        assert_eq!(shown["key"]["key_ops"], json!([if round % 2 == 0 { "wrapKey" } else { "unwrapKey" }]));
    }
    Arc::into_inner(vault).unwrap().stop().await;
}

/// A purge while others unwrap: each gets the right bytes, or that the key is not there, and nothing else; after the
/// purge was answered, nobody gets bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_during_unwraps() {
    let vault = Arc::new(Served::start().await);
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let plain = json!({ "alg": "RSA-OAEP-256", "value": "AAEC" });
    let (_, wrapped) = vault.send("POST", "/keys/k1//wrapkey", &token, plain).await;
    let sealed = json!({ "alg": "RSA-OAEP-256", "value": wrapped["value"] });
    let purged = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let (vault, token, sealed, purged) =
                (Arc::clone(&vault), token.clone(), sealed.clone(), Arc::clone(&purged));
            tokio::spawn(async move {
                let (mut opened, mut refused) = (0, 0);
                while refused < 3 {
                    let over = purged.load(Ordering::SeqCst);
                    let (status, body) =
                        vault.send("POST", "/keys/k1//unwrapkey", &token, sealed.clone()).await;
                    match status {
                        200 => {
                            assert_eq!(body["value"], "AAEC");
                            assert!(!over, "unwrapped with a key that is gone");
                            opened += 1;
                        }
                        _ => {
                            assert_eq!((status, &body["error"]["code"]), (404, &json!("KeyNotFound")));
                            refused += 1;
                        }
                    }
                }
                opened
            })
        })
        .collect();
    // Let them begin.
    tokio::time::timeout(Duration::from_secs(20), async {
        while vault.admin.log(0).await.unwrap().iter().filter(|e| e.operation == "KeyUnwrap").count() < 12 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(vault.send("DELETE", "/keys/k1", &token, Value::Null).await.0, 200);
    assert_eq!(vault.send("DELETE", "/deletedkeys/k1", &token, Value::Null).await.0, 204);
    purged.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    Arc::into_inner(vault).unwrap().stop().await;
}

/// A write that waits for its turn while its right to it is taken away is refused: the removal was answered first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_holds_for_writes_that_wait() {
    let vault = Arc::new(Served::start().await);
    vault.grant(&["all"]).await;
    vault.admin.create_key("k1", 2048).await.unwrap();
    let token = vault.token().await;
    let client = vault.description().client_id.clone();
    let later = async |milliseconds: u64| tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    // Making large keys keeps the others waiting: a second, as a rule.
    let slow: Vec<_> = (0..2)
        .map(|n| {
            let vault = Arc::clone(&vault);
            tokio::spawn(async move { vault.admin.create_key(&format!("slow{n}"), 4096).await.unwrap() })
        })
        .collect();
    later(60).await;
    let revoked = {
        let (vault, client) = (Arc::clone(&vault), client.clone());
        tokio::spawn(async move { vault.admin.revoke(&client, None, &[]).await.unwrap() })
    };
    later(60).await;
    let (status, refused) = vault.send("PATCH", "/keys/k1", &token, json!({ "tags": { "a": "b" } })).await;
    revoked.await.unwrap();
    assert_eq!(
        (status, &refused["error"]["innererror"]["code"]),
        (403, &json!("ForbiddenByRbac")),
        "{refused}"
    );
    for made in slow {
        made.await.unwrap();
    }
    Arc::into_inner(vault).unwrap().stop().await;
}

/// Left by a kill in the middle of a write: the half-written file beside the state is no state.
#[tokio::test]
async fn a_torn_file_beside_the_state_is_overwritten() {
    let vault = Served::start().await;
    let made = vault.admin.create_key("k1", 2048).await.unwrap();
    let dir = vault.stop().await;
    for torn in ["", "{\"format\":1,\"adminTo", "\0\0\0\0"] {
        for name in ["state.json.tmp", "vault.json.tmp", "ca.pem.tmp"] {
            std::fs::write(dir.path().join(name), torn).unwrap();
        }
        let options = keyward_vault::ServeOptions {
            dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let running = keyward_vault::serve(options).await.unwrap();
        let admin = keyward_vault::client::VaultAdmin::of(running.description()).unwrap();
        assert_eq!(admin.keys().await.unwrap()[0].versions[0].version, made.versions[0].version);
        running.shutdown().await;
    }
}
