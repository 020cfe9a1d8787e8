//! Every test, on a bare machine: fetch, build, run.

use std::fs;

use anyhow::Context;
use keyward_testkit::{node, python, target_dir, wiredtiger};

use crate::step::{Steps, cargo, has_subcommand, succeed};

pub(crate) fn run(steps: &mut Steps) {
    let nextest = has_subcommand("nextest");
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test", "--tests", "--bins", "--lib"] };
    // Fetching waits for the network, building for the processor. One build: it leaves the programs and the encryptor
    // library, too, where tests find them.
    let build: Vec<&str> = [runner, &["--workspace", "--locked", "--no-run"]].concat();
    if !steps.both(fetch, |steps| steps.run("build of the tests", || succeed(&mut cargo(&build)))) {
        return;
    }
    let skips = target_dir().join("skipped-tests.txt");
    // One more than there are cores, since some always wait.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1).to_string();
    let mut run: Vec<&str> = [runner, &["--workspace", "--locked", "--no-fail-fast"]].concat();
    if nextest {
        run.extend(["--test-threads", &threads]);
    }
    steps.run("tests", || {
        fs::write(&skips, "").context("cannot start the list of skipped tests")?;
        succeed(cargo(&run).env("KEYWARD_SKIP_LIST", &skips))
    });
    if !nextest {
        steps.note(
            "cargo-nextest is not installed: the tests ran under cargo test, one binary after the other"
                .into(),
        );
    }
    for line in fs::read_to_string(&skips).unwrap_or_default().lines() {
        steps.note(format!("skipped {line}"));
    }
}

fn fetch(steps: &mut Steps) {
    steps.run("SecantusDB from its wheel", || python::secantusdb().map(drop));
    steps.run("official Azure clients for Python", || python::azure().map(drop));
    let mut without_node = None;
    steps.run("official Azure clients for Node.js", || node::azure().map(|found| without_node = found.err()));
    if let Some(reason) = without_node {
        steps.note(format!("no Azure clients for Node.js: {reason}; their tests are skipped"));
    }
    steps.run("Atlas clients for Node.js", || node::atlas().map(drop));
    steps.run("Atlas client for Python", || python::atlas().map(drop));
    steps.run("Schemathesis", || python::schemathesis().map(drop));
    steps.run("WiredTiger 11.3.1 from its source distribution", || wiredtiger::v11_3_1().map(drop));
    if let Err(reason) = wiredtiger::v3_2_1() {
        steps.note(format!("no WiredTiger 3.2.1: {reason}; its tests are skipped"));
    }
}
