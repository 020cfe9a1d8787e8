//! What is on disk, and that it comes back.

use std::path::Path;

use crate::host::{Host, OPEN, Ready, TABLE, config_with, marker, plaintext_hits, stored_key_id};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(
    databases_have_keys_of_their_own,
    one_key_for_everything,
    kill_9_loses_nothing_that_was_flushed,
    a_database_dropped_and_made_again_keeps_its_key,
    a_users_wish_for_no_encryption_loses,
    a_configuration_cannot_hide_our_clause,
    a_clause_of_ours_stays,
    read_only_connections_read_and_give_no_keys,
    the_system_key_covers_what_is_not_a_table,
);

const TABLES: [(&str, u64); 4] = [
    ("table:alpha/collection-1", 1),
    ("table:beta/collection-2", 2),
    ("table:_mdb_catalog", 3),
    ("table:internal-9", 4),
];
const ROWS: u64 = 800;

fn fill(host: &mut Host) {
    for (table, seed) in TABLES {
        host.must(&format!("create {table} {TABLE}"));
        host.must(&format!("put {table} 1 {ROWS} {seed}"));
    }
    host.must("flush");
}

fn check(host: &mut Host) {
    for (table, seed) in TABLES {
        host.must(&format!("check {table} 1 {ROWS} {seed}"));
    }
}

fn markers() -> impl Iterator<Item = [u8; 16]> {
    TABLES.into_iter().flat_map(|(_, seed)| (1..=ROWS).map(move |key| marker(seed, key)))
}

fn finish(host: Host) {
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
    // Where this machine lets little memory be locked, that may be said.
    let mut said = log.lines().filter(|line| line.contains("keyward:"));
    assert!(said.all(|line| line.contains("in memory that isn't locked")), "undeclared message: {log}");
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
    finish(host);
    assert_eq!(plaintext_hits(data_path, markers()), 0, "after the end");
    // The agent knows them too, by the journal and by the message.
    agent.fold();
    let mut known: Vec<_> = agent.databases().into_iter().map(|(name, id)| (name, id.to_string())).collect();
    known.sort();
    assert_eq!(known, [("alpha".to_owned(), alpha), ("beta".to_owned(), beta)]);

    let mut host = ready.open(&agent, data_path);
    check(&mut host);
    finish(host);
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
    assert!(plaintext_hits(directory.path(), markers()) as u64 >= 4 * ROWS);
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
    finish(host);
}

fn kill_9_loses_nothing_that_was_flushed(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    fill(&mut host);
    host.must("checkpoint");
    // More after the checkpoint: only the journal has it.
    for (table, seed) in TABLES {
        host.must(&format!("put {table} {} {ROWS} {seed}", ROWS + 1));
    }
    host.must(&format!("create table:gamma/late {TABLE}"));
    host.must(&format!("put table:gamma/late 1 {ROWS} 5"));
    host.must("flush");
    assert!(host.ask("die").is_err());
    let more = TABLES.into_iter().flat_map(|(_, seed)| (1..=2 * ROWS).map(move |key| marker(seed, key)));
    let late = (1..=ROWS).map(|key| marker(5, key));
    assert_eq!(plaintext_hits(data_path, more.chain(late)), 0);
    let mut host = ready.open(&agent, data_path);
    for (table, seed) in TABLES {
        host.must(&format!("check {table} 1 {} {seed}", 2 * ROWS));
    }
    host.must(&format!("check table:gamma/late 1 {ROWS} 5"));
    finish(host);
}

fn a_database_dropped_and_made_again_keeps_its_key(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let mut seen = Vec::new();
    for round in 1..=3 {
        host.must(&format!("create table:beta/collection-{round} {TABLE}"));
        host.must(&format!("put table:beta/collection-{round} 1 {ROWS} {round}"));
        host.must("checkpoint");
        let metadata = host.must("metadata");
        seen.push(stored_key_id(&metadata, &format!("beta/collection-{round}.wt")).unwrap());
        host.must(&format!("check table:beta/collection-{round} 1 {ROWS} {round}"));
        host.must(&format!("drop table:beta/collection-{round}"));
    }
    assert!(seen.iter().all(|id| *id == seen[0]) && seen[0] != agent.system_key_id().to_string(), "{seen:?}");
    // Over a restart, too.
    finish(host);
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("create table:beta/collection-1 {TABLE}"));
    assert_eq!(stored_key_id(&host.must("metadata"), "beta/collection-1.wt"), Some(seen[0].clone()));
    finish(host);
    let markers = (1..=3).flat_map(|seed| (1..=ROWS).map(move |key| marker(seed, key)));
    assert_eq!(plaintext_hits(data_path, markers), 0);
}

fn a_users_wish_for_no_encryption_loses(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let system = agent.system_key_id().to_string();
    for (table, own) in [("table:alpha/bare", true), ("table:bare", false)] {
        for (number, wish) in ["encryption=(name=none)", "encryption=(name=none,keyid=)", "encryption=none"]
            .into_iter()
            .enumerate()
        {
            let table = format!("{table}{number}");
            // WiredTiger itself refuses the last spelling; what it accepts is overridden.
            if host.ask(&format!("create {table} {TABLE},{wish}")).is_err() {
                continue;
            }
            host.must(&format!("put {table} 1 {ROWS} 8"));
            let file = format!("{}.wt", &table["table:".len()..]);
            let id = stored_key_id(&host.must("metadata"), &file).unwrap();
            assert_eq!(id != system, own, "{table} {wish}");
            assert_eq!(id.len(), 32, "{table} {wish}");
        }
    }
    host.must("checkpoint");
    host.kill();
    assert_eq!(plaintext_hits(data_path, (1..=ROWS).map(|key| marker(8, key))), 0);
}

/// Whatever brackets and quotes a user's string leaves open, no table is made that our clause doesn't reach.
fn a_configuration_cannot_hide_our_clause(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let system = agent.system_key_id().to_string();
    for (number, tail) in [
        "app_metadata=\"",
        "app_metadata=(",
        "app_metadata=[",
        "app_metadata=\"\\",
        "app_metadata=(a=\"",
        ")",
        "app_metadata=((x)",
    ]
    .into_iter()
    .enumerate()
    {
        let created =
            host.ask(&format!("create table:alpha/t{number} {TABLE},encryption=(name=none),{tail}"));
        let stored = stored_key_id(&host.must("metadata"), &format!("alpha/t{number}.wt"));
        match created {
            Ok(_) => assert!(stored.is_some_and(|id| id.len() == 32 && id != system), "{tail}"),
            Err(_) => assert_eq!(stored, None, "{tail}"),
        }
    }
    host.kill();
}

fn a_clause_of_ours_stays(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("create table:alpha/first {TABLE}"));
    host.must(&format!("create table:beta/first {TABLE}"));
    let metadata = host.must("metadata");
    let alpha = stored_key_id(&metadata, "alpha/first.wt").unwrap();
    let beta = stored_key_id(&metadata, "beta/first.wt").unwrap();
    let unknown = "5a".repeat(16);
    for (table, clause, expected) in [
        // As repair does, with what was stored.
        ("beta/kept", format!("encryption=(name=keyward,keyid=\"{alpha}\")"), &alpha),
        ("beta/other", format!("encryption=(keyid=\"{alpha}\",name=keyward)"), &alpha),
        ("beta/unknown", format!("encryption=(name=keyward,keyid=\"{unknown}\")"), &beta),
        ("beta/nonsense", "encryption=(name=keyward,keyid=\"beta\")".to_owned(), &beta),
        ("beta/none", format!("encryption=(name=none,keyid=\"{alpha}\")"), &beta),
        ("beta/last", format!("encryption=(name=keyward,keyid=\"{alpha}\"),encryption=(name=none)"), &beta),
    ] {
        host.must(&format!("create table:{table} {TABLE},{clause}"));
        let stored = stored_key_id(&host.must("metadata"), &format!("{table}.wt")).unwrap();
        assert_eq!(&stored, expected, "{table} {clause}");
    }
    finish(host);
}

fn read_only_connections_read_and_give_no_keys(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    fill(&mut host);
    finish(host);
    let journal = std::fs::read(agent.journal()).unwrap();
    let mut host = ready.start(Some(&ready.config(&agent, true)));
    host.open_with(data_path, "config_base=false,readonly=true,log=(enabled=true,path=journal)").unwrap();
    check(&mut host);
    for table in ["table:alpha/new", "table:gamma/new", "table:new"] {
        host.must_not(&format!("create {table} {TABLE}"));
    }
    host.must_not("put table:alpha/collection-1 5000 1 1");
    check(&mut host);
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
    if ready.build.has_symbols() {
        assert_eq!(std::fs::read(agent.journal()).unwrap(), journal, "a read-only database took a spare");
    }
    // And writing again afterwards, in a process that has seen both kinds of session.
    let mut host = ready.start(Some(&ready.config(&agent, true)));
    host.open_with(data_path, "config_base=false,readonly=true,log=(enabled=true,path=journal)").unwrap();
    host.must("close");
    host.open(data_path).unwrap();
    host.must(&format!("create table:delta/new {TABLE}"));
    assert_ne!(
        stored_key_id(&host.must("metadata"), "delta/new.wt"),
        Some(agent.system_key_id().to_string())
    );
    check(&mut host);
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
}

fn the_system_key_covers_what_is_not_a_table(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    host.must(&format!("create file:plain.wt {TABLE},encryption=(name=none)"));
    host.must(&format!("put file:plain.wt 1 {ROWS} 6"));
    // An index of WiredTiger's own inherits nothing from its table.
    host.must("create table:alpha/people key_format=Q,value_format=u,columns=(id,doc)");
    host.must("create index:alpha/people:doc columns=(doc)");
    host.must(&format!("put table:alpha/people 1 {ROWS} 7"));
    host.must("checkpoint");
    let system = Some(agent.system_key_id().to_string());
    assert_eq!(stored_key_id(&host.must("metadata"), "plain.wt"), system);
    host.kill();
    let markers = [6, 7].into_iter().flat_map(|seed| (1..=ROWS).map(move |key| marker(seed, key)));
    assert_eq!(plaintext_hits(data_path, markers), 0);
    // The key that WiredTiger is opened with must be one of the node's.
    let config = config_with(&agent.socket(), ready.build.layout(), true, &"77".repeat(16));
    let mut host = ready.start(Some(&config));
    host.open(data_path).unwrap_err();
    host.must_say(&format!("the agent has sent no database key {}", "77".repeat(16)));
}
