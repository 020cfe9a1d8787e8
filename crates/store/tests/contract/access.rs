use keyward_model::{
    id::{ApiKeyId, OrgId},
    role::OrgRole,
};
use keyward_store::{
    Grant,
    NonceUse::{Fresh, Used},
    PrincipalId,
};

use crate::site::{Site, at, on_both_databases};

on_both_databases!(
    tokens_end_and_can_be_revoked,
    a_count_of_a_nonce_is_used_once,
    what_expired_is_swept,
    use_is_added_up_and_goes_with_its_owner,
);

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

async fn use_is_added_up_and_goes_with_its_owner(site: Site) {
    let store = site.open().await;
    let (key, other) =
        (PrincipalId::ApiKey(ApiKeyId::from_bytes([1; 12])), PrincipalId::ServiceAccount("robot".into()));
    let used = |requests, ms, address: &str| keyward_store::Used {
        requests,
        last_at: at(ms),
        last_address: address.to_owned(),
    };
    let mut change = store.change().await.unwrap();
    change.grant(&key, Grant::Org(OrgId::from_bytes([7; 12]), OrgRole::OrgMember)).await.unwrap();
    let event = keyward_model::event::NewEvent::new(
        keyward_model::event::EventType::ApiKeyCreated,
        keyward_model::event::Actor::Operator,
    );
    change.commit(event, at(0)).await.unwrap();

    let mut observation = store.observe().await.unwrap();
    for (principal, entry, requests, ms, address) in [
        (&key, "network:10.0.0.0/8", 3, 10, "10.0.0.1"),
        (&key, "network:10.0.0.0/8", 4, 20, "10.0.0.2"),
        (&key, "network:::/0", 1, 20, "::1"),
        (&other, "secret:1", 1, 5, "10.0.0.1"),
    ] {
        observation.add_usage(principal, entry, &used(requests, ms, address)).await.unwrap();
    }
    observation.add_usage(&key, "a\0", &used(1, 1, "::1")).await.unwrap_err();
    observation.commit().await.unwrap();

    let mut observation = store.observe().await.unwrap();
    let known = observation.usage(&key).await.unwrap();
    assert_eq!(known.len(), 2);
    assert_eq!(known["network:10.0.0.0/8"], used(7, 20, "10.0.0.2"));
    observation.forget_usage(&key, "network:::/0").await.unwrap();
    assert_eq!(observation.usage(&key).await.unwrap().len(), 1);
    assert_eq!(observation.sweep_usage().await.unwrap(), 1, "the other has no role");
    observation.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.usage(&key).await.unwrap().len(), 1);
    assert!(tx.usage(&other).await.unwrap().is_empty());
}
