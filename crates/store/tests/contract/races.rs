//! Two servers on one database, doing the same thing at the same time.

use std::sync::Arc;

use keyward_model::{
    id::{OrgId, UserId},
    role::OrgRole,
};
use keyward_store::{EventFilter, Grant, NonceUse, PrincipalId, Store, StoreError};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    nodes::{desired, node, observed},
    site::{Site, Thing, at, event, on_both_databases},
};

on_both_databases!(
    no_update_is_lost,
    what_a_change_decides_on_still_holds_when_it_commits,
    a_conflict_is_told_not_lost,
    one_of_many_gets_a_lease,
    one_of_many_uses_a_nonce,
    the_newest_report_wins,
    desired_revisions_never_repeat,
    two_servers_make_one_schema,
);

async fn pair(site: &Site) -> [Store; 2] {
    [site.open().await, site.open().await]
}

async fn no_update_is_lost(site: Site) {
    let stores = pair(&site).await;
    let mut change = stores[0].change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = stores[task % 2].clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let mut change = store.change().await.unwrap();
                let mut thing = change.get::<Thing>("c1").await.unwrap().unwrap();
                thing.count += 1;
                change.update(&thing.document, thing.revision).await.unwrap();
                change.commit(event(), at(1)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut tx = stores[1].read().await.unwrap();
    let thing = tx.get::<Thing>("c1").await.unwrap().unwrap();
    assert_eq!((thing.count, thing.revision), (80, 81));
    assert_eq!(tx.events(&EventFilter::default(), 0, 0).await.unwrap().1, 81);
}

/// The last owner stays, although each of two servers sees two owners and takes the other one's role.
async fn what_a_change_decides_on_still_holds_when_it_commits(site: Site) {
    let stores = pair(&site).await;
    let org = OrgId::from_bytes([1; 12]);
    let owner = |number: u8| PrincipalId::User(UserId::from_bytes([number; 12]));
    for _ in 0..10 {
        let mut change = stores[0].change().await.unwrap();
        for number in [0, 1] {
            change.grant(&owner(number), Grant::Org(org, OrgRole::OrgOwner)).await.unwrap();
        }
        change.commit(event(), at(0)).await.unwrap();
        let barrier = Arc::new(Barrier::new(2));
        let mut tasks = JoinSet::new();
        for (number, store) in (0..).zip(stores.clone()) {
            let barrier = barrier.clone();
            tasks.spawn(async move {
                barrier.wait().await;
                let mut change = store.change().await.unwrap();
                if change.org_members(org).await.unwrap().len() > 1 {
                    change.revoke(&owner(number), Grant::Org(org, OrgRole::OrgOwner)).await.unwrap();
                    change.commit(event(), at(1)).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(stores[0].read().await.unwrap().org_members(org).await.unwrap().len(), 1);
    }
}

async fn a_conflict_is_told_not_lost(site: Site) {
    let stores = pair(&site).await;
    let mut change = stores[0].change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    // Read first, as a handler does that calls a vault in between.
    let mut outcomes = Vec::new();
    let mut read = Vec::new();
    for store in &stores {
        read.push(store.read().await.unwrap().get::<Thing>("c1").await.unwrap().unwrap());
    }
    for (store, thing) in stores.iter().zip(read) {
        let mut change = store.change().await.unwrap();
        let updated = change.update(&Thing { count: 1, ..thing.document.clone() }, thing.revision).await;
        match updated {
            Ok(_) => outcomes.push(change.commit(event(), at(1)).await.is_ok()),
            Err(StoreError::Conflict { .. }) => outcomes.push(false),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(outcomes, [true, false]);
    assert_eq!(stores[0].read().await.unwrap().events(&EventFilter::default(), 0, 0).await.unwrap().1, 2);
}

async fn one_of_many_gets_a_lease(site: Site) {
    let stores = pair(&site).await;
    for round in 0..20_i64 {
        let barrier = Arc::new(Barrier::new(6));
        let mut tasks = JoinSet::new();
        for task in 0..6 {
            let (store, barrier) = (stores[task % 2].clone(), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                store.lease("job", &format!("server-{round}-{task}"), 1_000, at(round * 2_000)).await.unwrap()
            });
        }
        let mut got = Vec::new();
        while let Some(lease) = tasks.join_next().await {
            got.extend(lease.unwrap());
        }
        assert_eq!(got.len(), 1, "{got:?}");
    }
}

async fn one_of_many_uses_a_nonce(site: Site) {
    let stores = pair(&site).await;
    for round in 1..=20_u32 {
        let barrier = Arc::new(Barrier::new(6));
        let mut tasks = JoinSet::new();
        for task in 0..6 {
            let (store, barrier) = (stores[task % 2].clone(), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                store.use_nonce("nonce", round, at(0)).await.unwrap()
            });
        }
        let mut fresh = 0;
        while let Some(used) = tasks.join_next().await {
            fresh += usize::from(used.unwrap() == NonceUse::Fresh);
        }
        assert_eq!(fresh, 1);
    }
}

async fn the_newest_report_wins(site: Site) {
    let stores = pair(&site).await;
    let mut tasks = JoinSet::new();
    for report in 1..=30_u64 {
        let store = stores[report as usize % 2].clone();
        tasks.spawn(async move {
            let mut observation = store.observe().await.unwrap();
            let stored = observation.put_report(&observed(node(1), report, ""), at(0)).await.unwrap();
            assert!(stored >= report);
            observation.commit().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(stores[0].read().await.unwrap().report(node(1)).await.unwrap().unwrap().observed.report, 30);
}

async fn desired_revisions_never_repeat(site: Site) {
    let stores = pair(&site).await;
    let mut tasks = JoinSet::new();
    for task in 0..8_usize {
        let store = stores[task % 2].clone();
        tasks.spawn(async move {
            let mut stored = Vec::new();
            for round in 0..5 {
                let name = format!("c{task}-{round}");
                let mut observation = store.observe().await.unwrap();
                match observation.put_desired(node(1), &desired(&name), at(0)).await {
                    Ok(put) => {
                        observation.commit().await.unwrap();
                        stored.push((put.revision, name));
                    }
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            stored
        });
    }
    let mut stored = Vec::new();
    while let Some(done) = tasks.join_next().await {
        stored.extend(done.unwrap());
    }
    stored.sort();
    assert!(!stored.is_empty());
    assert!(stored.windows(2).all(|pair| pair[0].0 < pair[1].0), "{stored:?}");
    let last = stores[0].read().await.unwrap().desired(node(1)).await.unwrap().unwrap();
    let (revision, name) = stored.last().unwrap();
    assert_eq!((last.revision, &last.cluster.unwrap().name), (*revision, name));
}

async fn two_servers_make_one_schema(site: Site) {
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (url, key) = (site.url.clone(), site.key.clone());
        tasks.spawn(async move { Store::open(&url, key).await.map(drop) });
    }
    while let Some(opened) = tasks.join_next().await {
        opened.unwrap().unwrap();
    }
    site.open().await.change().await.unwrap().commit(event(), at(0)).await.unwrap();
}
