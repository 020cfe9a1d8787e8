//! The tour, as a person runs it: the real binary, real processes, the real database.

#![allow(clippy::unwrap_used)]

mod processes;

use std::process::{Command, Stdio};

use processes::{Cleaner, mentioning};
use serde_json::Value;

#[test]
fn the_tour_passes_and_leaves_nothing_behind() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _cleaner = Cleaner(dir.path());
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["dev", "--check", "--json", "--engine", "secantusdb", "--dir"])
        .arg(dir.path())
        .env("KEYWARD_SECANTUSDB_PYTHON", keyward_testkit::python::secantusdb().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    assert_eq!(stderr, "", "only data on stdout, nothing to complain of");

    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, steps) = lines.split_last().unwrap();
    let titles: Vec<&str> = steps.iter().map(|step| step["title"].as_str().unwrap()).collect();
    insta::assert_json_snapshot!(titles);
    assert!(steps.iter().all(|step| step["passed"] == true), "{stdout}");
    assert_eq!(summary["passed"], true);
    // A healthy node asks the vault for an unwrap per probe and little else.
    let calls = |name: &str| summary["vaultCalls"][name].as_u64().unwrap_or(0);
    assert!(calls("KeyUnwrap") > calls("KeyWrap") && calls("KeyWrap") > 0, "{summary}");

    assert_eq!(mentioning(dir.path()), Vec::<String>::new(), "processes are left");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the tour's folder is left");
}

#[test]
fn a_tour_that_fails_says_where_and_keeps_its_folder() {
    let _alone = keyward_testkit::Alone::wait().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _cleaner = Cleaner(dir.path());
    // A library that WiredTiger cannot load: no node can come up, and nothing may run unencrypted instead.
    let library = dir.path().join("libkeyward_encryptor.so");
    std::fs::write(&library, "no library").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["dev", "--check", "--nodes", "1", "--engine", "secantusdb", "--dir"])
        .arg(dir.path())
        .env("KEYWARD_SECANTUSDB_PYTHON", keyward_testkit::python::secantusdb().unwrap())
        .env("KEYWARD_ENCRYPTOR", &library)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}\n{stderr}");
    assert!(stdout.contains("✗  2  a node joins the server"), "{stdout}");
    assert!(!stdout.contains("3  clients write"), "{stdout}");
    assert!(stderr.starts_with("error: node-0 "), "{stderr}");
    let hint = stderr.lines().last().unwrap();
    assert!(hint.starts_with("hint: logs and data are kept in "), "{stderr}");
    let kept = std::fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    let kept = kept.last().unwrap().unwrap().path();
    assert!(hint.contains(kept.canonicalize().unwrap().to_str().unwrap()), "{hint} {}", kept.display());
    assert!(kept.join("nodes/node-0/agent.log").exists());
    assert_eq!(mentioning(dir.path()), Vec::<String>::new(), "processes are left");
}
