use std::os::unix::fs::{MetadataExt, PermissionsExt};

use keyward_store::{ServerKey, Store, StoreError};
use sqlx::Connection;

use crate::site::{Site, Thing, at, event, on_both_databases};

on_both_databases!(
    what_was_committed_is_there_after_reopening,
    a_newer_database_is_refused,
    a_foreign_schema_is_refused,
    another_server_key_is_refused,
);

async fn what_was_committed_is_there_after_reopening(site: Site) {
    let store = site.open().await;
    let mut change = store.change().await.unwrap();
    change.insert(&Thing::new("c1", "p1", "shop")).await.unwrap();
    change.put_secret("encryption:p1", b"s3cret").await.unwrap();
    change.commit(event(), at(0)).await.unwrap();
    store.close().await;
    let key = ServerKey::read_file(&site.key_file).unwrap();
    let store = Store::open(&site.url, key).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert!(tx.get::<Thing>("c1").await.unwrap().is_some());
    assert_eq!(**tx.secret("encryption:p1").await.unwrap().unwrap(), *b"s3cret");
}

async fn edit(site: &Site, sql: &'static str) {
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&site.url).await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn a_newer_database_is_refused(site: Site) {
    site.open().await.close().await;
    edit(&site, "INSERT INTO \"keyward_schema\" (version, sha256) VALUES (99, 'x')").await;
    let refused = Store::open(&site.url, site.key.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 99, known } if known < 99), "{refused:?}");
    assert!(refused.to_string().contains("99") && refused.hint().contains("newer"), "{refused}");
}

async fn a_foreign_schema_is_refused(site: Site) {
    site.open().await.close().await;
    edit(&site, "UPDATE \"keyward_schema\" SET sha256 = 'x' WHERE version = 1").await;
    let refused = Store::open(&site.url, site.key.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { version: 1 }), "{refused:?}");
}

async fn another_server_key_is_refused(site: Site) {
    site.open().await.close().await;
    let other = ServerKey::make_file(&site.dir.path().join("other.key")).unwrap();
    let refused = Store::open(&site.url, other).await.unwrap_err();
    assert!(matches!(refused, StoreError::WrongServerKey), "{refused:?}");
    site.open().await;
}

#[tokio::test]
async fn the_sqlite_files_are_private() {
    let site = Site::sqlite();
    let store = site.open().await;
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
    let file = site.file.as_ref().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", file.display());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "{path}");
    }
    store.close().await;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Store::open(&site.url, site.key.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooOpen { mode: 0o644, .. }), "{refused:?}");
}

#[tokio::test]
async fn odd_paths_work_and_odd_urls_are_refused() {
    let site = Site::sqlite();
    let odd = site.dir.path().join("a b%20#ü.db");
    let url = format!("sqlite:{}", odd.display());
    let store = Store::open(&url, site.key.clone()).await.unwrap();
    store.change().await.unwrap().commit(event(), at(0)).await.unwrap();
    assert!(odd.is_file());
    for url in ["sqlite:", "sqlite::memory:", "sqlite:x.db?mode=ro", "mysql://h/d", "", "postgres"] {
        let refused = Store::open(url, site.key.clone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Url { .. }), "{url}: {refused:?}");
    }
    let nowhere = format!("sqlite:{}/no/such/folder/k.db", site.dir.path().display());
    let refused = Store::open(&nowhere, site.key.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::File { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_said_to_be_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let site = Site::sqlite();
    let url = format!("postgres://keyward:hunter2@127.0.0.1:{port}/keyward");
    let refused = Store::open(&url, site.key.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unreachable(_)), "{refused:?}");
    assert!(refused.may_repeat());
    assert!(!format!("{refused} {refused:?} {}", refused.hint()).contains("hunter2"), "{refused:?}");
}
