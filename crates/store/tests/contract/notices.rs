//! What servers of one database hear of each other.

use std::time::Duration;

use keyward_model::{
    id::NodeId,
    sync::{Desired, DesiredRun},
};
use keyward_store::{Notice, Notices, Store};
use sqlx::Connection as _;

use crate::site::{Site, at, event, on_both_databases};

on_both_databases!(what_is_committed_is_heard_by_the_others_and_nothing_else);

fn node(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

async fn next(notices: &mut Notices) -> Notice {
    tokio::time::timeout(Duration::from_secs(30), notices.next()).await.expect("a word").unwrap()
}

async fn desire(store: &Store, n: u128, run: DesiredRun) {
    let desired = Desired {
        run,
        ..serde_json::from_value(serde_json::json!({
            "revision": 0, "cluster": null, "encryption": null, "rotateMasterKey": null, "run": "unmanaged",
            "validations": [],
        }))
        .unwrap()
    };
    let mut observation = store.observe().await.unwrap();
    observation.put_desired(node(n), &desired, at(0)).await.unwrap();
    observation.commit().await.unwrap();
}

async fn change(store: &Store) {
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
}

async fn what_is_committed_is_heard_by_the_others_and_nothing_else(site: Site) {
    let (one, two) = (site.open().await, site.open().await);
    let Some(mut heard) = two.notices().await.unwrap() else {
        assert!(site.file.is_some(), "only a file has one server");
        // What would be said disturbs nobody.
        desire(&one, 1, DesiredRun::Stopped).await;
        change(&one).await;
        return;
    };
    let mut own = one.notices().await.unwrap().unwrap();

    // Dropped, it was never said; the same again is no news.
    let mut dropped = one.change().await.unwrap();
    dropped.tell_node(node(9)).await.unwrap();
    drop(dropped);
    desire(&one, 1, DesiredRun::Stopped).await;
    desire(&one, 1, DesiredRun::Stopped).await;
    change(&one).await;
    desire(&one, 2, DesiredRun::Stopped).await;
    let expected = [Notice::Node(node(1)), Notice::Jobs, Notice::Node(node(2))];
    for notice in expected {
        assert_eq!(next(&mut heard).await, notice);
    }
    // Of its own doing a server hears what nodes that wait there have to know.
    assert_eq!(next(&mut own).await, Notice::Node(node(1)));
    assert_eq!(next(&mut own).await, Notice::Node(node(2)));

    // A lease that is given back is said too, once.
    let lease = one.lease("desired", "one", 30_000, at(0)).await.unwrap().unwrap();
    one.release(&lease).await.unwrap();
    one.release(&lease).await.unwrap();
    desire(&one, 3, DesiredRun::Stopped).await;
    assert_eq!(next(&mut heard).await, Notice::Jobs);
    assert_eq!(next(&mut heard).await, Notice::Node(node(3)));

    // The connection is lost: that is said, and what follows is heard again.
    let mut admin = sqlx::postgres::PgConnection::connect(&site.url).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'";
    sqlx::raw_sql(end).execute(&mut admin).await.unwrap();
    assert_eq!(next(&mut heard).await, Notice::Missed);
    desire(&one, 4, DesiredRun::Stopped).await;
    assert_eq!(next(&mut heard).await, Notice::Node(node(4)));
}
