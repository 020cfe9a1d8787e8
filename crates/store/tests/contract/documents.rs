use keyward_store::{StoreError, Stored};
use sqlx::Connection;

use crate::site::{Found, Mixed, Site, Thing, at, event, on_both_databases};

on_both_databases!(
    a_document_reads_back_by_id_name_and_parent,
    names_are_unique_within_a_parent,
    an_update_of_an_older_revision_is_a_conflict,
    pages_are_in_order_and_count_everything,
    an_observation_writes_what_was_found,
    an_observation_does_not_change_what_is_wanted,
    a_nul_is_refused_and_found_nowhere,
    odd_texts_survive,
);

async fn a_document_reads_back_by_id_name_and_parent(site: Site) {
    let store = site.open().await;
    let shop = Thing::new("c1", "p1", "shop");
    let mut change = store.change().await.unwrap();
    change.insert(&shop).await.unwrap();
    change.insert(&Thing::new("c2", "p1", "desk")).await.unwrap();
    change.insert(&Thing::new("c3", "p2", "shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.get("c1").await.unwrap(), Some(Stored { document: shop.clone(), revision: 1 }));
    assert_eq!(tx.get::<Thing>("c9").await.unwrap(), None);
    assert_eq!(tx.find::<Thing>("p1", "shop").await.unwrap().unwrap().document, shop);
    assert_eq!(tx.find::<Thing>("p2", "desk").await.unwrap(), None);
    let ids =
        |things: Vec<Stored<Thing>>| things.into_iter().map(|thing| thing.document.id).collect::<Vec<_>>();
    assert_eq!(ids(tx.list("p1").await.unwrap()), ["c1", "c2"]);
    assert_eq!(ids(tx.list_all().await.unwrap()), ["c1", "c2", "c3"]);
    assert_eq!(ids(tx.named("shop").await.unwrap()), ["c1", "c3"]);
    assert_eq!(tx.list::<Found>("p1").await.unwrap(), [], "tables are apart");
    drop(tx);

    let mut change = store.change().await.unwrap();
    assert!(change.delete::<Thing>("c1").await.unwrap());
    assert!(!change.delete::<Thing>("c1").await.unwrap());
    assert_eq!(change.delete_all::<Thing>("p2").await.unwrap(), 1);
    change.commit(event(), at(1)).await.unwrap();
    assert_eq!(ids(store.read().await.unwrap().list_all().await.unwrap()), ["c2"]);
}

async fn names_are_unique_within_a_parent(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    let nameless = |id: &str| Thing { name: None, ..Thing::new(id, "p1", "") };
    change.insert(&nameless("n1")).await.unwrap();
    change.insert(&nameless("n2")).await.unwrap();
    change.insert(&Thing::new("c2", "p1", "Shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let mut change = store.change().await.unwrap();
    for taken in [Thing::new("c3", "p1", "shop"), Thing::new("c1", "p1", "other")] {
        let refused = change.insert(&taken).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Exists { .. }), "{refused:?}");
    }
    let refused = change.update(&Thing::new("c2", "p1", "shop"), 1).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Exists { what } if what == "cluster shop"), "{refused:?}");
    // A refusal does not spoil the transaction.
    change.insert(&Thing::new("c3", "p2", "shop")).await.unwrap();
    change.commit(event(), at(1)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.list_all::<Thing>().await.unwrap().len(), 5);
    assert_eq!(tx.get::<Thing>("c2").await.unwrap().unwrap().name.as_deref(), Some("Shop"));
}

async fn an_update_of_an_older_revision_is_a_conflict(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let read = store.read().await.unwrap().get::<Thing>("c1").await.unwrap().unwrap();
    let mut change = store.change().await.unwrap();
    let newer = Thing { count: 1, ..read.document.clone() };
    assert_eq!(change.update(&newer, read.revision).await.unwrap(), 2);
    change.commit(event(), at(1)).await.unwrap();

    let mut change = store.change().await.unwrap();
    let older = Thing { count: 7, ..read.document.clone() };
    let refused = change.update(&older, read.revision).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Conflict { what } if what == "cluster c1"), "{refused:?}");
    assert!(refused.may_repeat());
    let gone = change.update(&Thing::new("c9", "p1", "gone"), 1).await.unwrap_err();
    assert!(matches!(gone, StoreError::Conflict { .. }), "{gone:?}");
    drop(change);
    let stored = store.read().await.unwrap().get::<Thing>("c1").await.unwrap().unwrap();
    assert_eq!((stored.count, stored.revision), (1, 2));
}

async fn pages_are_in_order_and_count_everything(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    for number in (0..25).rev() {
        let id = format!("{number:024x}");
        change.insert(&Thing::new(&id, "p1", &id)).await.unwrap();
    }
    change.insert(&Thing::new("other", "p2", "other")).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let mut seen = Vec::new();
    for offset in [0, 10, 20, 30] {
        let (page, total) = tx.page::<Thing>("p1", offset, 10).await.unwrap();
        assert_eq!(total, 25);
        seen.extend(page.into_iter().map(|thing| thing.document.id));
    }
    assert_eq!(seen, (0..25).map(|number| format!("{number:024x}")).collect::<Vec<_>>());
    let (page, total) = tx.page::<Thing>("p1", u64::MAX, u64::MAX).await.unwrap();
    assert_eq!((page.len(), total), (0, 25));
}

async fn an_observation_writes_what_was_found(site: Site) {
    let store = site.open().await;
    let found = Found { id: "f1".into(), parent: "p1".into(), text: "no purge protection".into() };
    let mut observation = store.observe().await.unwrap();
    observation.insert(&found).await.unwrap();
    assert_eq!(observation.update(&found, 1).await.unwrap(), 2);
    observation.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.get::<Found>("f1").await.unwrap().unwrap().document, found);
    assert_eq!(tx.events(&Default::default(), 0, 10).await.unwrap(), (vec![], 0));
    drop(tx);
    let mut dropped = store.observe().await.unwrap();
    dropped.delete::<Found>("f1").await.unwrap();
    drop(dropped);
    assert!(store.read().await.unwrap().get::<Found>("f1").await.unwrap().is_some());
}

async fn an_observation_does_not_change_what_is_wanted(site: Site) {
    let store = site.open().await;
    let mixed = Mixed { id: "m1".into(), wanted: Some("this".into()), also_wanted: 0, last_found: 1 };
    let mut change = store.change().await.unwrap();
    change.insert(&mixed).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();

    let mut observation = store.observe().await.unwrap();
    for wanted in [Some("that".to_owned()), None] {
        let refused = observation.update(&Mixed { wanted, ..mixed.clone() }, 1).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Wanted { field, .. } if field == "wanted"), "{refused:?}");
    }
    let found = Mixed { last_found: 2, ..mixed.clone() };
    assert_eq!(observation.update(&found, 1).await.unwrap(), 2);
    let moved = observation.update(&found, 1).await.unwrap_err();
    assert!(matches!(moved, StoreError::Conflict { .. }), "{moved:?}");
    observation.commit().await.unwrap();
    assert_eq!(store.read().await.unwrap().get::<Mixed>("m1").await.unwrap().unwrap().document, found);

    // What an older version stored has not all the fields.
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&site.url).await.unwrap();
    let older =
        "UPDATE \"private_endpoint\" SET body = '{\"id\":\"m1\",\"wanted\":\"this\",\"lastFound\":2}'";
    assert_eq!(sqlx::query(older).execute(&mut connection).await.unwrap().rows_affected(), 1);
    let mut observation = store.observe().await.unwrap();
    assert_eq!(observation.update(&Mixed { last_found: 3, ..mixed.clone() }, 2).await.unwrap(), 3);
    observation.commit().await.unwrap();
}

async fn a_nul_is_refused_and_found_nowhere(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    for odd in [Thing::new("c\0", "p1", "a"), Thing::new("c2", "p\0", "a"), Thing::new("c2", "p1", "a\0")] {
        let refused = change.insert(&odd).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unstorable { .. }), "{refused:?}");
    }
    assert_eq!(change.get::<Thing>("c1\0").await.unwrap(), None);
    assert_eq!(change.find::<Thing>("p1", "sh\0op").await.unwrap(), None);
    assert_eq!(change.named::<Thing>("\0").await.unwrap(), []);
    assert_eq!(change.list::<Thing>("\0").await.unwrap(), []);
    assert_eq!(change.page::<Thing>("\0", 0, 1).await.unwrap(), (vec![], 0));
    assert!(!change.delete::<Thing>("\0").await.unwrap());
    change.commit(event(), at(0)).await.unwrap();
}

async fn odd_texts_survive(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    let odd = [
        "'; DROP TABLE \"cluster\"; --",
        "ünïcødé 🗝 \u{feff}",
        "$1 ? :a @b {documents}",
        "line\nbreak\t\u{1}",
    ];
    for (number, name) in odd.iter().enumerate() {
        change.insert(&Thing::new(&format!("c{number}"), "p1", name)).await.unwrap();
    }
    change.commit(event().cluster(odd[0]), at(0)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    for name in odd {
        assert_eq!(tx.find::<Thing>("p1", name).await.unwrap().unwrap().name.as_deref(), Some(name));
    }
}
