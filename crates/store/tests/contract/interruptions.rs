//! Requests that end in the middle, connections that break, others who do not let go.

use std::{collections::BTreeMap, time::Duration};

use keyward_model::event::{Actor, EventType, NewEvent};
use keyward_store::{EventFilter, Store, StoreError};
use sqlx::Connection;

use crate::site::{Found, Site, Thing, at, event, on_both_databases};

on_both_databases!(
    a_request_that_is_dropped_leaves_nothing_half_done,
    who_waits_too_long_is_told_so,
    an_observation_of_a_document_waits_for_the_change_before_it,
);

/// A client that goes away ends the handler at whatever it awaits.
async fn a_request_that_is_dropped_leaves_nothing_half_done(site: Site) {
    let stores = [site.open().await, site.open().await];
    let mut committed = 0;
    for round in 0..120_u64 {
        let store = stores[round as usize % 2].clone();
        let task = tokio::spawn(async move { count_up(&store, &format!("c{}", round % 5)).await });
        tokio::time::sleep(Duration::from_micros(150 * (round % 40))).await;
        task.abort();
        committed += u64::from(matches!(task.await, Ok(Ok(()))));
    }
    // The next ones go through, on every connection there is.
    for round in 0..20_u64 {
        count_up(&stores[round as usize % 2], &format!("c{}", round % 5)).await.unwrap();
        committed += 1;
    }
    let mut tx = stores[0].read().await.unwrap();
    let (events, total) = tx.events(&EventFilter::default(), 0, u64::MAX).await.unwrap();
    assert!(total >= committed, "{total} {committed}");
    let mut events_of = BTreeMap::<String, u64>::new();
    for event in events {
        *events_of.entry(event.detail["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for thing in tx.list_all::<Thing>().await.unwrap() {
        assert_eq!(events_of.remove(&thing.id), Some(thing.count), "{}", thing.id);
    }
    assert!(events_of.is_empty(), "{events_of:?}");
}

async fn count_up(store: &Store, id: &str) -> Result<(), StoreError> {
    let mut change = store.change().await?;
    match change.get::<Thing>(id).await? {
        Some(mut thing) => {
            thing.count += 1;
            change.update(&thing.document, thing.revision).await?;
        }
        None => change.insert(&Thing { count: 1, ..Thing::new(id, "p1", id) }).await?,
    }
    let event = NewEvent::new(EventType::ClusterUpdateSubmitted, Actor::Operator).detail("id", id);
    change.commit(event, at(0)).await.map(drop)
}

async fn who_waits_too_long_is_told_so(site: Site) {
    let stores = [site.open().await, site.open().await];
    let held = stores[0].change().await.unwrap();
    let refused = stores[1].change().await.unwrap_err();
    assert!(matches!(refused, StoreError::Busy), "{refused:?}");
    assert!(refused.may_repeat());
    // Reading does not wait.
    assert_eq!(stores[1].read().await.unwrap().list_all::<Thing>().await.unwrap(), []);
    drop(held);
    stores[1].change().await.unwrap().commit(event(), at(0)).await.unwrap();
}

async fn an_observation_of_a_document_waits_for_the_change_before_it(site: Site) {
    let stores = [site.open().await, site.open().await];
    let found = Found { id: "f1".into(), parent: "p1".into(), text: "first".into() };
    let mut observation = stores[0].observe().await.unwrap();
    observation.insert(&found).await.unwrap();
    observation.commit().await.unwrap();

    let mut change = stores[0].change().await.unwrap();
    let stored = change.get::<Found>("f1").await.unwrap().unwrap();
    let store = stores[1].clone();
    let other = tokio::spawn(async move {
        let mut observation = store.observe().await.unwrap();
        let found = Found { id: "f1".into(), parent: "p1".into(), text: "observed".into() };
        observation.update(&found, 1).await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    change.update(&Found { text: "changed".into(), ..stored.document.clone() }, 1).await.unwrap();
    change.commit(event(), at(0)).await.unwrap();
    let late = other.await.unwrap().unwrap_err();
    assert!(matches!(&late, StoreError::Conflict { what } if what == "node f1"), "{late:?}");
    let stored = stores[0].read().await.unwrap().get::<Found>("f1").await.unwrap().unwrap();
    assert_eq!(stored.text, "changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_loses_the_change_and_is_replaced() {
    let Some(site) = Site::postgres() else { return };
    let store = site.open().await;
    sqlx::any::install_default_drivers();
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    // As when the database is restarted.
    let mut other = sqlx::AnyConnection::connect(&site.url).await.unwrap();
    let end = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(end).execute(&mut other).await.unwrap();
    let lost = change.commit(event(), at(0)).await.unwrap_err();
    assert!(matches!(lost, StoreError::Unreachable(_)), "{lost:?}");
    assert!(lost.may_repeat());

    store.change().await.unwrap().commit(event(), at(1)).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.list_all::<Thing>().await.unwrap(), []);
    assert_eq!(tx.events(&EventFilter::default(), 0, 9).await.unwrap().1, 1);
}
