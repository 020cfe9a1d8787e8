//! Threads, forks, several connections, and the end of the library.

use std::fs;
use std::path::Path;

use crate::host::{Build, Host, Ready, TABLE, marker, plaintext_hits, stored_key_id};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(
    many_threads_create_and_write_at_once,
    threads_may_outlive_the_library,
    a_fork_of_the_host_harms_nothing,
    a_forked_child_never_seals,
    several_databases_live_in_one_process,
    no_thread_is_left_after_the_end,
    only_the_entry_is_exported,
);

fn many_threads_create_and_write_at_once(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let (threads, tables, databases, rows) =
        if ready.build == Build::SecantusDb { (32, 3, 12, 30) } else { (32, 6, 12, 200) };
    host.must(&format!("threads {threads} {tables} {databases} {rows}"));
    host.must("checkpoint");
    let metadata = host.must("metadata");
    let mut keys = std::collections::HashMap::new();
    for thread in 0..threads {
        for table in 0..tables {
            let database = format!("d{}", (thread + table) % databases);
            let id = stored_key_id(&metadata, &format!("{database}/t-{thread}-{table}.wt")).unwrap();
            assert_eq!(*keys.entry(database).or_insert_with(|| id.clone()), id);
        }
    }
    let distinct: std::collections::HashSet<_> = keys.values().collect();
    assert_eq!((keys.len(), distinct.len()), (databases, databases), "{keys:?}");
    host.kill();
    let markers = (0..threads).flat_map(|thread| {
        (0..tables).flat_map(move |table| {
            (1..=rows).map(move |key| marker((thread * 1000 + table) as u64, key as u64))
        })
    });
    assert_eq!(plaintext_hits(data_path, markers), 0);
    let mut host = ready.open(&agent, data_path);
    for thread in 0..threads {
        for table in 0..tables {
            let database = (thread + table) % databases;
            host.must(&format!(
                "check table:d{database}/t-{thread}-{table} 1 {rows} {}",
                thread * 1000 + table
            ));
        }
    }
    assert!(host.finish().0.success());
}

fn threads_may_outlive_the_library(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must("outlive 16");
    // And once more in the same process.
    host.open(directory.path()).unwrap();
    host.must(&format!("create table:alpha/after {TABLE}"));
    host.must("put table:alpha/after 1 200 3");
    host.must("checkpoint");
    host.must("check table:alpha/after 1 200 3");
    let (status, log) = host.finish();
    assert!(status.success(), "{status}: {log}");
}

fn a_fork_of_the_host_harms_nothing(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    for round in 1..=3 {
        host.must(&format!("create table:db{round}/t {TABLE}"));
        host.must(&format!("put table:db{round}/t 1 300 {round}"));
        host.must("fork");
        host.must("checkpoint");
        host.must(&format!("check table:db{round}/t 1 300 {round}"));
    }
    let (status, log) = host.finish();
    assert!(status.success(), "{status}: {log}");
    agent.fold();
    assert_eq!(agent.databases().len(), 3);
}

fn a_forked_child_never_seals(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must("put table:alpha/t 1 300 1");
    host.must("fork-writer table:alpha/t");
    host.must_say("is a fork of the one that opened the cipher");
    host.must("put table:alpha/t 301 300 1");
    host.must("checkpoint");
    host.must("check table:alpha/t 1 600 1");
    assert!(host.finish().0.success());
}

/// As mongod's second instance for spilled queries: its own connection, its own hello, no keystore beside it.
fn several_databases_live_in_one_process(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let spill = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must("put table:alpha/t 1 300 1");
    for _ in 0..2 {
        let metadata = host.must(&format!(
            "second {} create,config_base=false,log=(enabled=false) table:internal-77",
            spill.path().display()
        ));
        assert_eq!(stored_key_id(&metadata, "internal-77.wt"), Some(agent.system_key_id().to_string()));
        assert_eq!(plaintext_hits(spill.path(), (1..=500).map(|key| marker(77, key))), 0);
        assert!(fs::read_dir(spill.path()).unwrap().count() > 2);
        for entry in fs::read_dir(spill.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    assert_eq!(agent.hellos().len(), 3);
    // The first is as before: it gives keys, it encrypts.
    host.must(&format!("create table:beta/t {TABLE}"));
    host.must("put table:beta/t 1 300 2");
    host.must("checkpoint");
    // Closed and opened again, as mongod does for each compatibility version it tries.
    for _ in 0..3 {
        host.must("close");
        host.open(directory.path()).unwrap();
        host.must("check table:alpha/t 1 300 1");
        host.must("check table:beta/t 1 300 2");
    }
    let metadata = host.must("metadata");
    let (alpha, beta) = (stored_key_id(&metadata, "alpha/t.wt"), stored_key_id(&metadata, "beta/t.wt"));
    assert!(alpha.is_some() && beta.is_some() && alpha != beta);
    assert!(host.finish().0.success());
}

fn no_thread_is_left_after_the_end(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    assert_eq!(keyward_threads(&host), 1);
    host.must("close");
    assert_eq!(keyward_threads(&host), 0);
    host.open(directory.path()).unwrap();
    assert_eq!(keyward_threads(&host), 1);
    assert!(host.finish().0.success());
}

fn keyward_threads(host: &Host) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.process())).unwrap();
    tasks
        .filter(|task| {
            let name = fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default();
            name.trim() == "keyward"
        })
        .count()
}

fn only_the_entry_is_exported(_: &Ready) {
    use object::{Object, ObjectSymbol};
    let library = keyward_testkit::built::encryptor_library().unwrap();
    let bytes = fs::read(Path::new(&library)).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let exported: Vec<_> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    assert_eq!(exported, ["wiredtiger_extension_init"]);
    // WiredTiger unloads it; what its threads leave to be done at their end must still be there then.
    const DT_FLAGS_1: u64 = 0x6fff_fffb;
    const DF_1_NODELETE: u64 = 8;
    let dynamic = object::ObjectSection::data(&file.section_by_name(".dynamic").unwrap()).unwrap();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let flags = dynamic.chunks_exact(16).find(|entry| word(&entry[..8]) == DT_FLAGS_1);
    assert!(flags.is_some_and(|entry| word(&entry[8..]) & DF_1_NODELETE != 0), "it may be unloaded");
}
