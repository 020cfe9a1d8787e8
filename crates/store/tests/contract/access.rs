use keyward_store::NonceUse::{Fresh, Used};

use crate::site::{Site, at, on_both_databases};

on_both_databases!(tokens_end_and_can_be_revoked, a_count_of_a_nonce_is_used_once, what_expired_is_swept);

async fn tokens_end_and_can_be_revoked(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    observation.put_access_token("token-1", "robot", at(1000)).await.unwrap();
    observation.put_access_token("token-2", "robot", at(1000)).await.unwrap();
    observation.put_access_token("token-3", "other", at(1000)).await.unwrap();
    observation.commit().await.unwrap();

    let mut observation = store.observe().await.unwrap();
    assert_eq!(observation.access_token("token-1", at(999)).await.unwrap().as_deref(), Some("robot"));
    assert_eq!(observation.access_token("token-1", at(1000)).await.unwrap(), None);
    assert_eq!(observation.access_token("token-9", at(0)).await.unwrap(), None);
    assert!(!observation.revoke_access_token("token-1", "other").await.unwrap(), "not the other's to revoke");
    assert!(observation.revoke_access_token("token-1", "robot").await.unwrap());
    assert_eq!(observation.access_token("token-1", at(0)).await.unwrap(), None);
    observation.revoke_access_tokens("robot").await.unwrap();
    assert_eq!(observation.access_token("token-2", at(0)).await.unwrap(), None);
    assert_eq!(observation.access_token("token-3", at(0)).await.unwrap().as_deref(), Some("other"));
}

async fn a_count_of_a_nonce_is_used_once(site: Site) {
    let store = site.open().await;
    let mut uses = Vec::new();
    for count in [1, 1, 2, 5, 4, 5, 6, u32::MAX, u32::MAX, 7] {
        uses.push(store.use_nonce("n1", count, at(1000)).await.unwrap());
    }
    assert_eq!(uses, [Fresh, Used, Fresh, Fresh, Used, Used, Fresh, Fresh, Used, Used]);
    assert_eq!(store.use_nonce("n2", 1, at(1000)).await.unwrap(), Fresh);
    store.use_nonce("n\0", 1, at(1000)).await.unwrap_err();
}

async fn what_expired_is_swept(site: Site) {
    let store = site.open().await;
    let mut observation = store.observe().await.unwrap();
    observation.put_access_token("old", "robot", at(10)).await.unwrap();
    observation.put_access_token("new", "robot", at(20)).await.unwrap();
    observation.use_nonce("old", 1, at(10)).await.unwrap();
    observation.use_nonce("new", 1, at(20)).await.unwrap();
    assert_eq!(observation.sweep_expired(at(10)).await.unwrap(), 2);
    observation.commit().await.unwrap();
    assert_eq!(store.use_nonce("new", 1, at(20)).await.unwrap(), Used);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.access_token("old", at(0)).await.unwrap(), None);
    assert!(tx.access_token("new", at(0)).await.unwrap().is_some());
}
