//! What is on disk, and that it comes back.

use std::path::Path;

use crate::host::{Host, OPEN, Ready, TABLE, marker, plaintext_hits, stored_key_id};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(databases_have_keys_of_their_own, one_key_for_everything);

const TABLES: [(&str, u64); 4] =
    [("table:alpha/collection-1", 1), ("table:beta/collection-2", 2), ("table:_mdb_catalog", 3), ("table:internal-9", 4)];

fn fill(host: &mut Host) {
    for (table, seed) in TABLES {
        host.must(&format!("create {table} {TABLE}"));
        host.must(&format!("put {table} 1 800 {seed}"));
    }
    host.must("flush");
}

fn check(host: &mut Host) {
    for (table, seed) in TABLES {
        host.must(&format!("check {table} 1 800 {seed}"));
    }
}

fn markers() -> impl Iterator<Item = [u8; 16]> {
    TABLES.into_iter().flat_map(|(_, seed)| (1..=800).map(move |key| marker(seed, key)))
}

fn databases_have_keys_of_their_own(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    fill(&mut host);
    let metadata = host.must("metadata");
    let key_id = |file| stored_key_id(&metadata, file).unwrap_or_else(|| panic!("{file}: {metadata:#?}"));
    let (alpha, beta) = (key_id("alpha/collection-1.wt"), key_id("beta/collection-2.wt"));
    let system = agent.system_key_id().to_string();
    assert!(alpha != beta && alpha != system && beta != system, "{alpha} {beta} {system}");
    assert_eq!(key_id("_mdb_catalog.wt"), system);
    assert_eq!(key_id("internal-9.wt"), system);
    assert_eq!(plaintext_hits(data_path, markers()), 0, "in the journal, before a checkpoint");
    host.must("checkpoint");
    assert_eq!(plaintext_hits(data_path, markers()), 0, "after a checkpoint");
    check(&mut host);
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
    assert_eq!(plaintext_hits(data_path, markers()), 0, "after the end");
    // The agent knows them too, by the journal and by the message.
    let mut known: Vec<_> = agent.databases().into_iter().map(|(name, id)| (name, id.to_string())).collect();
    known.sort();
    assert_eq!(known, [("alpha".to_owned(), alpha), ("beta".to_owned(), beta)]);

    let mut host = ready.open(&agent, data_path);
    check(&mut host);
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
    control(ready);
}

/// The same search finds everything where nothing is encrypted.
fn control(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let mut host = ready.start(None);
    host.open(directory.path()).unwrap();
    fill(&mut host);
    host.must("checkpoint");
    assert!(host.finish().0.success());
    assert!(plaintext_hits(directory.path(), markers()) >= 4 * 800);
}

fn one_key_for_everything(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path: &Path = directory.path();
    let agent = KeyAgent::new(data_path);
    let config = ready.config(&agent, false);
    let mut host = ready.start(Some(&config));
    host.open_with(data_path, OPEN).unwrap();
    fill(&mut host);
    host.must("checkpoint");
    let metadata = host.must("metadata");
    let system = Some(agent.system_key_id().to_string());
    for file in ["alpha/collection-1.wt", "beta/collection-2.wt", "_mdb_catalog.wt", "internal-9.wt"] {
        assert_eq!(stored_key_id(&metadata, file), system, "{file}");
    }
    host.kill();
    assert_eq!(plaintext_hits(data_path, markers()), 0);
    assert!(agent.databases().is_empty() && !agent.journal().exists());
    let mut host = ready.start(Some(&config));
    host.open(data_path).unwrap();
    check(&mut host);
    assert!(host.finish().0.success());
}
