//! What a database process keeps of its keys, and what it says of the memory that they lie in.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use aho_corasick::AhoCorasick;
use keyward_keys::keystore::Purpose;

use crate::host::{Host, Ready, TABLE};
use crate::key_agent::KeyAgent;
use crate::on_every_build;

on_every_build!(keys_go_with_the_connection, memory_that_cannot_be_locked_is_said);

/// How often each of these keys is in writable memory of the process.
fn found(host: &Host, keys: &[[u8; 32]]) -> Vec<usize> {
    let memory = File::open(format!("/proc/{}/mem", host.process())).unwrap();
    let search = AhoCorasick::new(keys).unwrap();
    let mut found = vec![0; keys.len()];
    for line in fs::read_to_string(format!("/proc/{}/maps", host.process())).unwrap().lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // Some mappings can't be read; keys are in none of those.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            for hit in search.find_overlapping_iter(&bytes) {
                found[hit.pattern().as_usize()] += 1;
            }
        }
    }
    found
}

/// While it is open the database has its keys; once it is closed they are nowhere in the process that goes on.
fn keys_go_with_the_connection(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    for database in ["alpha", "beta"] {
        host.must(&format!("create table:{database}/t {TABLE}"));
        host.must(&format!("put table:{database}/t 1 500 1"));
    }
    host.must("checkpoint");
    host.must("check table:alpha/t 1 500 1");
    agent.fold();
    let keys = agent.keys();
    let bytes: Vec<_> = keys.iter().map(|(_, key)| *key).collect();
    let held = found(&host, &bytes);
    for ((purpose, _), held) in keys.iter().zip(&held) {
        // A spare that was made after the hello may still be on its way.
        assert!(*held > 0 || *purpose == Purpose::Spare, "{purpose:?} isn't found where it must be");
    }
    host.must("close");
    let left = found(&host, &bytes);
    assert_eq!(left, vec![0; left.len()], "keys are left in a process whose database is closed");
    // The process can open it again.
    host.open(directory.path()).unwrap();
    host.must("check table:beta/t 1 500 1");
    assert!(host.finish().0.success());
}

/// As in a container whose limit of locked memory is too small: the database works, and its log says so, once.
fn memory_that_cannot_be_locked_is_said(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let Some(mut host) = ready.start_unlocked(&ready.config(&agent, true)) else {
        keyward_testkit::skip!("there is no setpriv(1)");
    };
    host.open(directory.path()).unwrap_or_else(|error| panic!("{error}: {}", host.log()));
    for number in 1..=3 {
        host.must(&format!("create table:db{number}/t {TABLE}"));
        host.must(&format!("put table:db{number}/t 1 100 1"));
    }
    host.must("checkpoint");
    let (status, log) = host.finish();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("keyward: database keys are in memory that isn't locked").count(), 1, "{log}");
    assert!(log.contains("RLIMIT_MEMLOCK") && log.contains("hint: raise the limit"), "{log}");
}
