//! What doesn't fit doesn't start: a clear message in the database's log, nothing opened, nothing in plaintext.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_encryptor::layout;

use crate::host::{Build, Host, Ready, TABLE, config_with, files};
use crate::key_agent::{Answer, KeyAgent};
use crate::on_every_build;

on_every_build!(
    a_wrong_layout_is_refused,
    names_alone_will_do_or_are_missed,
    a_missing_or_refusing_agent_is_said,
    a_configuration_mistake_is_said,
    another_nodes_keys_open_nothing,
    plaintext_and_ciphertext_do_not_mix,
);

/// Starts with this configuration, expects a refusal with each of these words in the log, and no table.
#[track_caller]
fn refused(ready: &Ready, config: &str, data_path: &Path, words: &[&str]) {
    let mut host = ready.start(Some(config));
    let error = host.open(data_path).unwrap_err();
    let created = host.ask(&format!("create table:alpha/t {TABLE}"));
    let (_, log) = host.finish();
    for word in words {
        assert!(log.contains(word), "{word:?} isn't said ({error}): {log}");
    }
    assert!(log.contains("keyward: ") && log.contains("hint: "), "{log}");
    assert!(created.is_err(), "a table was created");
    let tables: Vec<_> = files(data_path).into_iter().filter(|file| file.ends_with("t.wt")).collect();
    assert!(tables.is_empty(), "{tables:?}");
}

fn a_wrong_layout_is_refused(ready: &Ready) {
    let right = layout::by_name(ready.build.layout()).unwrap();
    let version = right.wiredtiger_versions.last().unwrap();
    let mut refusals = 0;
    for layout in layout::all() {
        let same = layout.tables == right.tables && layout.wiredtiger_versions.contains(version);
        if same || layout.tables.is_none() {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let agent = KeyAgent::new(directory.path());
        let config = config_with(&agent.socket(), layout.name, true, &agent.system_key_id().to_string());
        refused(ready, &config, directory.path(), &[layout.name, "layout"]);
        refusals += 1;
    }
    assert!(refusals >= 19, "{refusals}");
}

fn names_alone_will_do_or_are_missed(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let config = config_with(&agent.socket(), "auto", true, &agent.system_key_id().to_string());
    if !ready.build.has_symbols() {
        refused(
            ready,
            &config,
            directory.path(),
            &["has no symbol table", "use a release that keyward's layout table knows"],
        );
        return;
    }
    let mut host = ready.start(Some(&config));
    host.open(directory.path()).unwrap_or_else(|error| panic!("{error}: {}", host.log()));
    host.must(&format!("create table:alpha/t {TABLE}"));
    host.must("put table:alpha/t 1 100 1");
    assert!(host.finish().0.success());
    agent.fold();
    assert_eq!(agent.databases().len(), 1);
}

fn a_missing_or_refusing_agent_is_said(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = KeyAgent::new(directory.path());
    let config = ready.config(&agent, true);
    // Whom the agent doesn't know leaves the journal alone: the engine itself may be writing to it at this moment.
    let torn = b"\n1 torn";
    fs::write(agent.journal(), torn).unwrap();
    for (answer, words) in [
        (
            Answer::Refuse("this is not the engine I started"),
            &["the agent refused: this is not the engine I started"][..],
        ),
        (Answer::NoMasterKey, &["doesn't hold this node's master key"]),
        (Answer::Nothing, &["the conversation with the agent broke off"]),
        // Writing to it then must not end the host by a signal.
        (Answer::HangUp, &["the conversation with the agent broke off"]),
    ] {
        // That takes as long as an agent may take to answer, 30 s: on one build.
        if matches!(answer, Answer::Nothing) && ready.build != Build::V3_2_1 {
            continue;
        }
        agent.answer(answer);
        refused(ready, &config, directory.path(), words);
    }
    agent.stop();
    refused(ready, &config, directory.path(), &["no agent answers at", "agent.sock"]);
    assert_eq!(fs::read(agent.journal()).unwrap(), torn);
    // With the agent it would have worked.
    agent.answer(Answer::Keys);
    agent.start();
    let mut host = ready.open(&agent, directory.path());
    assert_eq!(fs::read(agent.journal()).unwrap(), b"\n", "the engine itself takes away what was torn");
    host.must(&format!("create table:alpha/t {TABLE}"));
    // A refusal later on, when a new agent has doubts, stops nothing.
    agent.stop();
    agent.answer(Answer::Refuse("I don't know this process"));
    agent.start();
    host.must(&format!("create table:beta/t {TABLE}"));
    host.must("put table:beta/t 1 100 1");
    host.must("checkpoint");
    assert!(host.finish().0.success());
}

fn a_configuration_mistake_is_said(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let right = ready.config(&agent, true);
    let changed = |from: &str, to: &str| {
        let config = right.replace(from, to);
        assert_ne!(config, right);
        config
    };
    let socket = agent.socket().display().to_string();
    let id = agent.system_key_id().to_string();
    for (config, word) in [
        (
            changed(ready.build.layout(), "mongodb-3.6"),
            "layout=\"mongodb-3.6\"; this encryptor doesn't know it",
        ),
        (changed(&socket, "agent.sock"), "an absolute path is needed"),
        (changed("per_database=true", "per_database=perhaps"), "true or false is needed"),
        (changed("per_database", "per_collection"), "unknown key \"per_collection\""),
        (changed(&id, &"00".repeat(16)), "the agent has sent no database key 0000"),
        (changed(&id, "alpha"), "the key id \"alpha\", which isn't one of keyward's"),
        (changed(&format!(",keyid=\"{id}\""), ""), "names no key id"),
    ] {
        refused(ready, &config, directory.path(), &[word]);
    }
}

fn another_nodes_keys_open_nothing(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(directory.path());
    let mut host = ready.open(&agent, directory.path());
    host.must(&format!("create table:beta/data {TABLE}"));
    host.must("put table:beta/data 1 100 1");
    host.must("checkpoint");
    assert!(host.finish().0.success());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = KeyAgent::new(elsewhere.path());
    // Its own system key, and that of this data path, which it hasn't got.
    let layout = ready.build.layout();
    let own = config_with(&other.socket(), layout, true, &other.system_key_id().to_string());
    refused(ready, &own, directory.path(), &["is sealed under key"]);
    let this = config_with(&other.socket(), layout, true, &agent.system_key_id().to_string());
    refused(ready, &this, directory.path(), &["the agent has sent no database key"]);
    let mut host = ready.open(&agent, directory.path());
    host.must("check table:beta/data 1 100 1");
    assert!(host.finish().0.success());
}

fn plaintext_and_ciphertext_do_not_mix(ready: &Ready) {
    let directory = tempfile::tempdir().unwrap();
    let mut host = ready.start(None);
    host.open(directory.path()).unwrap();
    host.must(&format!("create table:alpha/data {TABLE}"));
    host.must("put table:alpha/data 1 100 1");
    assert!(host.finish().0.success());
    let agent = KeyAgent::new(directory.path());
    let mut host: Host = ready.start(Some(&ready.config(&agent, true)));
    assert!(host.open(directory.path()).is_err(), "a plaintext data path was opened as an encrypted one");
    drop(host.finish());
    let encrypted = tempfile::tempdir().unwrap();
    let agent = KeyAgent::new(encrypted.path());
    let mut host = ready.open(&agent, encrypted.path());
    host.must(&format!("create table:alpha/data {TABLE}"));
    assert!(host.finish().0.success());
    let mut host = ready.start(None);
    assert!(host.open(encrypted.path()).is_err(), "an encrypted data path was opened without the encryptor");
    drop(host.finish());
}

/// A process, from its start to its end: a release that nobody knows, without the names that would tell its layout.
#[test]
fn a_stripped_binary_of_an_unknown_release_does_not_start() {
    let ready = Build::V11_3_1.ready().unwrap_or_else(|error| panic!("{error}"));
    // Under the name by which programs look for it.
    let original = keyward_testkit::wiredtiger::v11_3_1().unwrap().library.canonicalize().unwrap();
    let libraries = tempfile::tempdir().unwrap();
    let name = original.file_name().unwrap();
    fs::copy(&original, libraries.path().join(name)).unwrap();
    let start = |layout: &str| {
        let directory = tempfile::tempdir().unwrap();
        let agent = KeyAgent::new(directory.path());
        let config = config_with(&agent.socket(), layout, true, &agent.system_key_id().to_string());
        let (status, log) = ready.serve(&config, libraries.path(), directory.path());
        let table = directory.path().join("alpha/t.wt").exists();
        (status, log, table)
    };
    // The control: with its names, and with its layout, the same library starts from there.
    for layout in ["auto", ready.build.layout()] {
        let (status, log, table) = start(layout);
        assert!(status.success() && table, "{layout}: {log}");
    }
    let strip = Command::new("strip").arg("--strip-all").arg(libraries.path().join(name)).output();
    match strip {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => keyward_testkit::skip!("there is no strip(1): {error}"),
    }
    for (layout, words) in [
        ("auto", &["has no symbol table", "use a release that keyward's layout table knows"][..]),
        ("mongodb-99.0", &["layout=\"mongodb-99.0\"; this encryptor doesn't know it"]),
    ] {
        let (status, log, table) = start(layout);
        assert_eq!(status.code(), Some(100), "{layout}: {log}");
        for word in words.iter().chain(&["keyward: ", "hint: ", "the database does not start"]) {
            assert!(log.contains(word), "{layout}: {word:?} isn't said: {log}");
        }
        assert!(!table, "{layout}: a table was created");
    }
    // Who knows the release needs no names.
    let (status, log, table) = start(ready.build.layout());
    assert!(status.success() && table, "{log}");
}
