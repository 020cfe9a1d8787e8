//! An agent that dies and returns, and what the assignment journal keeps meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::{Build, Ready, TABLE, files, stored_key_id};
use crate::key_agent::{KeyAgent, SPARES};
use crate::on_every_build;

on_every_build!(
    the_agent_dies_and_returns_while_databases_are_made,
    used_up_spares_are_said_and_refilled,
    a_torn_journal_loses_no_key,
    a_full_journal_disk_refuses_the_table,
);

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn the_agent_dies_and_returns_while_databases_are_made(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let data_path = directory.path();
    let mut agent = KeyAgent::new(data_path);
    let mut host = ready.open(&agent, data_path);
    let mut made = 0;
    // More databases in all than there ever were spares.
    for round in 1..=5 {
        agent.stop();
        for _ in 0..SPARES / 2 {
            made += 1;
            host.must(&format!("create table:db{made}/t {TABLE}"));
            host.must(&format!("put table:db{made}/t 1 20 {made}"));
        }
        agent.start();
        wait_until("the agent knows every database", || agent.databases().len() == made);
        // Said after the new spares were taken in.
        let back = |log: String| log.matches("keyward: the agent is back").count();
        wait_until("the encryptor knows the agent again", || back(host.log()) == round);
    }
    let metadata = host.must("metadata");
    for (database, id) in agent.databases() {
        assert_eq!(stored_key_id(&metadata, &format!("{database}/t.wt")), Some(id.to_string()));
    }
    host.must_say("keyward: the agent went away");
    host.must_say("keyward: the agent is back");
    agent.stop();
    host.must("checkpoint");
    assert!(host.ask("die").is_err());
    agent.start();
    let mut host = ready.open(&agent, data_path);
    for number in 1..=made {
        host.must(&format!("check table:db{number}/t 1 20 {number}"));
    }
    assert!(host.finish().0.success());
}

fn used_up_spares_are_said_and_refilled(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    agent.stop();
    for number in 1..=SPARES {
        host.must(&format!("create table:db{number}/t {TABLE}"));
    }
    let error = host.must_not(&format!("create table:last/t {TABLE}"));
    assert_eq!(error.code, 11);
    host.must_say("there is no spare database key left for database last");
    host.must_say("hint: start the agent of this node");
    // Tables of databases that have a key, and of none, go on.
    host.must(&format!("create table:db1/another {TABLE}"));
    host.must(&format!("create table:internal-5 {TABLE}"));
    agent.start();
    host.must(&format!("create table:last/t {TABLE}"));
    let metadata = host.must("metadata");
    assert_ne!(stored_key_id(&metadata, "last/t.wt"), Some(agent.system_key_id().to_string()));
    assert!(host.finish().0.success());
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, &target).unwrap();
    }
}

/// The database was killed while it wrote the journal: a table exists only for a record that was whole.
fn a_torn_journal_loses_no_key(ready: &Ready) {
    // The data path as it is before its first database, and the journal that three databases make of it.
    let (template, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let agent = KeyAgent::new(template.path());
    let mut host = ready.open(&agent, template.path());
    host.must("checkpoint");
    assert!(host.finish().0.success());
    copy(template.path(), scratch.path());
    let whole = {
        let mut writer = agent.of_copy(scratch.path());
        let mut host = ready.open(&writer, scratch.path());
        writer.stop();
        for database in ["alpha", "beta", "gamma"] {
            host.must(&format!("create table:{database}/t {TABLE}"));
        }
        host.kill();
        fs::read(writer.journal()).unwrap()
    };
    // Every byte is cut in `keyring`'s own test; here, in real processes, where records begin and end, and some between.
    let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(end, _)| end);
    let mut cuts: std::collections::BTreeSet<_> =
        ends.flat_map(|end| end.saturating_sub(1)..=(end + 2).min(whole.len())).collect();
    cuts.extend((0..whole.len()).step_by(if ready.build == Build::SecantusDb { 101 } else { 19 }));
    cuts.extend([0, whole.len()]);
    let mut believed = std::collections::BTreeSet::new();
    for cut in cuts {
        let directory = tempfile::tempdir().unwrap();
        copy(template.path(), directory.path());
        let agent = agent.of_copy(directory.path());
        fs::write(agent.journal(), &whole[..cut]).unwrap();
        let mut host = ready.open(&agent, directory.path());
        let before = agent.databases();
        believed.insert(before.len());
        for database in ["delta", "gamma", "alpha", "beta"] {
            host.must(&format!("create table:{database}/t {TABLE}"));
            host.must(&format!("put table:{database}/t 1 5 1"));
        }
        host.must("flush");
        let metadata = host.must("metadata");
        host.kill();
        agent.fold();
        let known = agent.databases();
        assert_eq!(known.len(), 4, "cut at {cut}: {known:?}");
        for (database, id) in &known {
            let stored = stored_key_id(&metadata, &format!("{database}/t.wt"));
            assert_eq!(stored, Some(id.to_string()), "cut at {cut}: {database}");
        }
        assert!(before.iter().all(|assigned| known.contains(assigned)), "cut at {cut}");
        let mut host = ready.open(&agent, directory.path());
        for database in ["alpha", "beta", "gamma", "delta"] {
            host.must(&format!("check table:{database}/t 1 5 1"));
        }
        host.kill();
    }
    assert_eq!(believed.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

fn a_full_journal_disk_refuses_the_table(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must(&format!("create table:alpha/t {TABLE}"));
    let kept = agent.journal().with_extension("kept");
    fs::rename(agent.journal(), &kept).unwrap();
    fs::create_dir(agent.journal()).unwrap();
    host.must_not(&format!("create table:beta/t {TABLE}"));
    host.must_say("can't be assigned durably");
    assert_eq!(stored_key_id(&host.must("metadata"), "beta/t.wt"), None);
    host.must(&format!("create table:alpha/more {TABLE}"));
    fs::remove_dir(agent.journal()).unwrap();
    fs::rename(&kept, agent.journal()).unwrap();
    host.must(&format!("create table:beta/t {TABLE}"));
    assert!(host.finish().0.success());
}
