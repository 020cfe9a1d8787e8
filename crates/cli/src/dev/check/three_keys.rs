//! Three databases under three keys, on a WiredTiger that is driven as mongod drives it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_agent::admin::Request;
use keyward_model::NodeStatus;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::documents::random_text;
use super::{START, Tour, broken, ensure, is_up, plaintext};
use crate::args::dev::EngineChoice;
use crate::dev::database::{self, Database};
use crate::dev::home::write_file;
use crate::dev::site::{NodeKind, NodePlan};
use crate::failure::Failure;

const SCRIPT: &str = include_str!("three_keys.py");
const NAME: &str = "threekey";
const DATABASES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What the script reports.
#[derive(Debug, Deserialize)]
struct Report {
    first: bool,
    rows: BTreeMap<String, u64>,
    wrong: u64,
    /// The `encryption=(…)` clause of each table.
    keys: BTreeMap<String, String>,
}

impl Tour {
    pub(super) async fn three_keys(&mut self) -> Result<(), Failure> {
        let begun = self.report.begin("three databases, three keys: WiredTiger driven as by mongod");
        let done = self.show_three_keys().await;
        self.report.end(begun, done)
    }

    async fn show_three_keys(&mut self) -> Result<String, Failure> {
        let python = match &self.site.database {
            Database::Secantusdb { python } => python.clone(),
            // WiredTiger's own module comes with SecantusDB.
            Database::Mongod { .. } => {
                let tools = self.work.parent().unwrap_or(&self.work).to_owned();
                match database::provide(EngineChoice::Secantusdb, &tools, false).await? {
                    Database::Secantusdb { python } => python,
                    Database::Mongod { .. } => return Err(broken("asked for SecantusDB, got mongod")),
                }
            }
        };
        let (script, report) = (self.work.join("three_keys.py"), self.work.join("three_keys.json"));
        write_file(&script, SCRIPT.as_bytes())?;
        let markers = [random_text()?, random_text()?, random_text()?];
        let mut args: Vec<String> = [&script, &self.site.home().data_path(NAME), &report]
            .into_iter()
            .map(|path| path.display().to_string())
            .collect();
        args.extend(markers.iter().cloned());
        let kind = NodeKind::WiredTiger { program: python, args };
        self.site.add_node(NodePlan { name: NAME.into(), kind })?;
        self.site.start_agent(NAME).await?;
        let node = self.site.node(NAME)?.clone();

        let made = read_report(&report).await?;
        ensure(made.first, || "the first run found a database".into())?;
        let status = node
            .wait("aware of three databases", START, |s| is_up(s) && database_keys(s).len() > DATABASES.len())
            .await?;
        check_keys(&made, &database_keys(&status))?;

        // The next run reads what the first one wrote.
        node.ask(&Request::Stop).await?;
        let searched = plaintext::search(&node.data_path, &markers).await?;
        ensure(searched.found.is_empty(), || format!("plaintext on disk: {:?}", searched.places))?;
        std::fs::remove_file(&report).map_err(|e| broken("the report cannot be removed").because(&e))?;
        node.ask(&Request::Start).await?;
        let again = read_report(&report).await?;
        ensure(!again.first && again.wrong == 0 && again.rows == made.rows, || {
            format!("the second run read something else: {again:?}")
        })?;
        ensure(again.keys == made.keys, || {
            format!("the keys changed: {:?}, then {:?}", made.keys, again.keys)
        })?;
        node.ask(&Request::Stop).await?;
        self.site.stop_process(NAME).await;
        self.site.nodes.retain(|node| node.name != NAME);
        let shown: Vec<String> = DATABASES
            .iter()
            .filter_map(|name| {
                Some(format!("{name} {}", crate::render::short(key_id(made.keys.get(*name)?)?)))
            })
            .collect();
        Ok(format!("{}; read back after a restart", shown.join(", ")))
    }
}

/// Each database has its own key, which the node's keystore holds; everything else has the node's.
fn check_keys(report: &Report, known: &BTreeMap<String, String>) -> Result<(), Failure> {
    let clause = |table: &str| report.keys.get(table).and_then(|clause| key_id(clause)).unwrap_or_default();
    let system = known.get(".system").map(String::as_str).unwrap_or_default();
    for name in DATABASES {
        let in_keystore = known.get(name).map(String::as_str).unwrap_or_default();
        ensure(!in_keystore.is_empty() && clause(name) == in_keystore, || {
            format!("{name} is under key {:?}, its node's keystore says {in_keystore:?}", clause(name))
        })?;
    }
    let distinct: BTreeSet<&str> = DATABASES.iter().map(|name| clause(name)).chain([system]).collect();
    ensure(distinct.len() == DATABASES.len() + 1, || format!("databases share a key: {:?}", report.keys))?;
    ensure(clause("index") == clause("alpha"), || "an index is not under its database's key".into())?;
    for table in ["catalog", "temporary"] {
        let key = clause(table);
        ensure(key == system || key.is_empty(), || {
            format!("{table} is under key {key:?}, not the node's own")
        })?;
    }
    Ok(())
}

/// `keyid` of a clause such as `keyid="0a…",name=keyward`.
fn key_id(clause: &str) -> Option<&str> {
    let (_, rest) = clause.split_once("keyid=")?;
    Some(rest.split(',').next().unwrap_or_default().trim_matches('"'))
}

fn database_keys(status: &NodeStatus) -> BTreeMap<String, String> {
    status.database_keys.iter().map(|key| (key.database.clone(), key.id.clone())).collect()
}

async fn read_report(path: &Path) -> Result<Report, Failure> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(bytes) = std::fs::read(path) {
            return serde_json::from_slice(&bytes)
                .map_err(|e| broken("the program's report is no JSON").because(&e));
        }
        if Instant::now() >= deadline {
            let log: PathBuf = path.with_file_name(format!("nodes/{NAME}/engine.log"));
            return Err(Failure::new(
                "the program that drives WiredTiger did not report",
                format!("read {}", log.display()),
            ));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(alpha: &str, beta: &str, index: &str, catalog: &str) -> Report {
        let clause = |key: &str| {
            if key.is_empty() { "keyid=,name=".into() } else { format!("keyid=\"{key}\",name=keyward") }
        };
        let keys = [
            ("alpha", alpha),
            ("beta", beta),
            ("gamma", "c3"),
            ("index", index),
            ("catalog", catalog),
            ("temporary", ""),
        ];
        Report {
            first: true,
            rows: BTreeMap::new(),
            wrong: 0,
            keys: keys.map(|(table, key)| (table.to_owned(), clause(key))).into(),
        }
    }

    #[test]
    fn keys_must_be_distinct_known_and_in_their_place() {
        let known: BTreeMap<String, String> =
            [(".system", "s0"), ("alpha", "a1"), ("beta", "b2"), ("gamma", "c3")]
                .map(|(a, b)| (a.into(), b.into()))
                .into();
        check_keys(&report("a1", "b2", "a1", "s0"), &known).unwrap();
        check_keys(&report("a1", "b2", "a1", ""), &known).unwrap();
        for wrong in [
            report("b2", "b2", "a1", "s0"),
            report("a1", "", "a1", "s0"),
            report("a1", "b2", "b2", "s0"),
            report("a1", "b2", "a1", "a1"),
        ] {
            check_keys(&wrong, &known).unwrap_err();
        }
        let shared = known.keys().map(|name| (name.clone(), "s0".to_owned())).collect();
        check_keys(&report("s0", "s0", "s0", "s0"), &shared).unwrap_err();
    }
}
